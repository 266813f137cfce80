"""Hyperparameters are checked, a failure leaves its reason where SageMaker looks, a model survives saving."""

import json
from pathlib import Path

import inference
import numpy as np
import pandas as pd
import pytest
import train


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"depth": "3"}, "unknown hyperparameter depth; known: algorithm"),
        ({"algorithm": "forest"}, "'forest' is not one of logistic_regression, gradient_boosting"),
        ({"trees": "many"}, "hyperparameter trees: 'many' is not of type int"),
        ({"learning_rate": "2"}, "hyperparameter learning_rate: 2.0 is not between 0.0001 and 1"),
    ],
    ids=["unknown", "not a choice", "not a number", "out of range"],
)
def test_a_wrong_hyperparameter_is_refused(given: dict, message: str):
    with pytest.raises(train.TrainingError, match=message):
        train.read_hyperparameters(given)


def test_hyperparameters_are_typed_and_defaults_filled_in():
    values = train.read_hyperparameters({"trees": "7", "sagemaker_program": "train.py"})
    assert (values["trees"], values["learning_rate"], values["algorithm"]) == (7, 0.05, "logistic_regression")


@pytest.mark.parametrize("algorithm", train.ALGORITHMS)
def test_a_saved_model_gives_the_same_numbers(algorithm: str, parts: Path, tmp_path: Path):
    train.train(parts / "train", parts / "validation", tmp_path, {"algorithm": algorithm, "trees": "5"})
    frame = pd.read_csv(parts / "test" / "test.csv")
    first = inference.probabilities(frame, inference.load_model(tmp_path))
    again = inference.probabilities(frame, inference.load_model(tmp_path))
    assert first == again and len(set(first)) > 10
    assert json.loads((tmp_path / "metadata.json").read_text())["hyperparameters"]["algorithm"] == algorithm


def test_training_twice_gives_the_same_model(parts: Path, tmp_path: Path):
    frame = pd.read_csv(parts / "test" / "test.csv")
    scores = []
    for name in ("a", "b"):
        train.train(parts / "train", parts / "validation", tmp_path / name, {})
        scores.append(inference.probabilities(frame, inference.load_model(tmp_path / name)))
    assert np.array_equal(*scores)


def test_the_reason_of_a_failure_is_written_for_sagemaker(tmp_path: Path):
    (tmp_path / "config").mkdir()
    (tmp_path / "output").mkdir()
    (tmp_path / "config" / "hyperparameters.json").write_text('{"trees": "none"}')
    code = train.main(
        ["train", "--config-dir", str(tmp_path / "config"), "--output-dir", str(tmp_path / "output")]
    )
    assert code == 1
    assert (tmp_path / "output" / "failure").read_text() == "hyperparameter trees: 'none' is not of type int"


def test_a_channel_without_data_is_named(parts: Path, tmp_path: Path):
    with pytest.raises(train.TrainingError, match="no CSV file"):
        train.train(parts / "train", tmp_path, tmp_path, {})


def test_a_type_that_is_not_trusted_is_refused_while_training(model, tmp_path: Path):
    class Custom:
        pass

    model.pipeline.surprise = Custom()
    try:
        with pytest.raises(ValueError, match="does not trust.*Custom"):
            inference.save_model(model, tmp_path)
    finally:
        del model.pipeline.surprise
