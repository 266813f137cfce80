"""Shared by the tests: the real data, and one fast training run that all tests of the model use."""

import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))


@pytest.fixture(scope="session")
def config() -> dict:
    return yaml.safe_load((ROOT / "mlops.yml").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def data_file(config: dict) -> Path:
    return ROOT / config["data"]["source"]


@pytest.fixture(scope="session")
def parts(config: dict, data_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that preprocess.py wrote, with the settings of mlops.yml."""
    import preprocess

    data = config["data"]
    folder = tmp_path_factory.mktemp("parts")
    preprocess.run(
        data_file, folder, data["target"], data["positive_class"], data["test_fraction"], data["seed"]
    )
    return folder


@pytest.fixture(scope="session")
def model_dir(config: dict, parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model trained with the hyperparameters of mlops.yml."""
    import train

    folder = tmp_path_factory.mktemp("model")
    given = {name: str(value) for name, value in config["training"].get("hyperparameters", {}).items()}
    train.train(parts / "train", parts / "validation", folder, given)
    return folder


@pytest.fixture(scope="session")
def model(model_dir: Path):
    import inference

    return inference.load_model(model_dir)


@pytest.fixture
def applicants(parts: Path, model) -> pd.DataFrame:
    """The features of the test rows."""
    return pd.read_csv(parts / "test" / "test.csv", keep_default_na=False, na_values=[""])[model.features]
