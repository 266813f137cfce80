"""Shared by the tests of the seed code: composed projects, and settings as the platform gives them."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

import compose
from mlops_cicd.monitor_code import pack

ROOT = Path(__file__).resolve().parents[2]
DEFINE = Path(__file__).with_name("define_pipeline.py")
PROJECT_ID = "p-abc123def456"
# How a model is used is settings alone (test_compose.py compares): one way of use is enough to run the code.
COMBINATIONS = [pair for pair in compose.combinations() if pair[1] == "realtime"]
# No profile, no region, no credentials of the person who runs the tests; and one thread, which is fastest for
# small data.
ENVIRONMENT = {
    **{
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AWS_", "SM_", "SAGEMAKER_", "MLFLOW_"))
    },
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "SAGEMAKER_VALIDATE_ROLE": "false",
    "OMP_NUM_THREADS": "1",
}
ENVIRONMENT.pop("PYTHONPATH", None)
# Libraries whose byte code may not be kept are compiled again in each process: seconds every time.
ENVIRONMENT.pop("PYTHONDONTWRITEBYTECODE", None)

Run = Callable[..., subprocess.CompletedProcess]
Definitions = dict[str, dict[str, Any]]


@pytest.fixture(scope="session", params=COMBINATIONS, ids=["-".join(pair) for pair in COMBINATIONS])
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A composed project; the tests that use it run for every combination."""
    folder = tmp_path_factory.mktemp("-".join(request.param)) / "project"
    compose.write_folder(compose.compose(*request.param), folder)
    return folder


@pytest.fixture(scope="session")
def config(project: Path) -> dict[str, Any]:
    return yaml.safe_load((project / "mlops.yml").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def run() -> Run:
    """Run Python in a process of its own, as a container or a person does."""

    def runner(*arguments: object, **options: Any) -> subprocess.CompletedProcess:
        options = {
            "env": ENVIRONMENT,
            "timeout": 240,
            "capture_output": True,
            "text": True,
            "check": False,
            **options,
        }
        return subprocess.run([sys.executable, *map(str, arguments)], **options)

    return runner


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """The environment that run() uses, for a test that adds to it."""
    return dict(ENVIRONMENT)


@pytest.fixture(scope="session")
def make_settings(config: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    """Make the settings that the build pipeline passes to get_pipeline()."""
    return lambda **changes: pipeline_settings(**{"config": config, **changes})


def pipeline_settings(config: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The settings for a configuration."""
    bucket = f"mlops-{PROJECT_ID}-123456789012-us-east-1"
    registry = f"123456789012.dkr.ecr.us-east-1.amazonaws.com/mlops-{PROJECT_ID}"
    return {
        "project_id": PROJECT_ID,
        "project_name": "credit",
        "region": "us-east-1",
        "account": "123456789012",
        "partition": "aws",
        "role_arn": "arn:aws:iam::123456789012:role/mlops/projects/execution",
        "bucket": bucket,
        "key_arn": "arn:aws:kms:us-east-1:123456789012:key/11111111-2222-3333-4444-555555555555",
        "model_package_group": f"mlops-{PROJECT_ID}",
        "pipeline_name": f"mlops-{PROJECT_ID}",
        "subnets": ["subnet-11111111", "subnet-22222222"],
        "security_groups": ["sg-11111111"],
        "images": {
            name: f"{registry}/{name}:0123456789ab" for name in ("preprocessing", "training", "inference")
        },
        "commit": "c0ffee" * 6 + "abcd",
        "tags": [
            {"Key": "sagemaker:project-id", "Value": PROJECT_ID},
            {"Key": "sagemaker:project-name", "Value": "credit"},
            {"Key": "mlops:cost-center", "Value": "4711"},
        ],
        "monitor": {"code_uri": f"s3://{bucket}/code/monitor/0123456789abcdef/monitor.pyz"},
        "config": config,
        **changes,
    }


@pytest.fixture(scope="session")
def define(run: Callable, project: Path, environment: dict[str, str]) -> Callable[..., Definitions]:
    """Make definitions in a process of its own."""

    def definer(settings: dict[str, Any], **variables: str) -> Definitions:
        done = run(DEFINE, project, input=json.dumps(settings), env=environment | variables)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout)

    return definer


@pytest.fixture(scope="session")
def settings(make_settings: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    return make_settings()


@pytest.fixture(scope="session")
def definitions(define: Callable, make_settings: Callable, settings: dict, config: dict) -> Definitions:
    """The stable pipeline, and variants of it."""

    def with_changes(part: str, **changes: Any) -> dict[str, Any]:
        return make_settings(config={**config, part: {**config[part], **changes}})

    experimental = make_settings(register=False, pipeline_name="mlops-p-abc123def456-experimental")
    experimental["images"].pop("inference")
    experimental.pop("monitor")
    return define(
        {
            "stable": settings,
            "experimental": experimental,
            "data in S3": with_changes("data", source="s3://another-bucket/credit/2026.csv"),
            "no data": with_changes("data", source="data/missing.csv"),
            "another seed": with_changes("data", seed=43),
            "another schedule": with_changes("monitoring", schedule="rate(1 day)", window_minutes=1440),
            "another facet": with_changes(
                "monitoring", model_bias={"facets": [{"name": "job", "values": ["x"]}]}
            ),
            "data quality only": with_changes(
                "monitoring",
                **{
                    kind: {"enabled": False}
                    for kind in ("model_quality", "model_bias", "model_explainability")
                },
            ),
            "without data quality": with_changes("monitoring", data_quality={"enabled": False}),
        }
    )


@pytest.fixture(scope="session")
def executed(
    run: Run,
    project: Path,
    config: dict[str, Any],
    environment: dict[str, str],
    definitions: Definitions,
    tmp_path_factory: pytest.TempPathFactory,
) -> SimpleNamespace:
    """The definition's jobs, run as processes: `outputs` (step, name) -> folder, `model`, `log`."""
    root = tmp_path_factory.mktemp("pipeline")
    stable = definitions["stable"]
    definition = json.loads(stable["definition"])
    (root / "monitor.pyz").write_bytes(pack())
    (root / "options.json").write_text(*stable["files"].values(), encoding="utf-8")
    steps = {step["Name"]: step["Arguments"] for step in definition["Steps"]}
    folders = {"Parameters.InputDataUri": project / config["data"]["source"]}
    outputs: dict[tuple[str, str], Path] = {}

    def fetch(uri: Any, target: Path) -> None:
        """What SageMaker does with an input: a step's output, a parameter, the monitor's code or options."""
        found = folders[uri["Get"]] if isinstance(uri, dict) else root / uri.rpartition("/")[2]
        if found.is_dir():
            shutil.copytree(found, target)
        else:
            target.mkdir(parents=True)
            shutil.copy(found, target)

    def process(name: str) -> None:
        arguments, base = steps[name], root / name

        def local(path: str) -> Path:
            return base / path.removeprefix("/opt/ml/processing/")

        for entry in arguments["ProcessingInputs"]:
            fetch(entry["S3Input"]["S3Uri"], local(entry["S3Input"]["LocalPath"]))
        for entry in arguments["ProcessingOutputConfig"]["Outputs"]:
            folder = local(entry["S3Output"]["LocalPath"])
            folder.mkdir(parents=True)
            output = entry["OutputName"]
            outputs[name, output] = folders[
                f"Steps.{name}.ProcessingOutputConfig.Outputs['{output}'].S3Output.S3Uri"
            ] = folder
        specification = arguments["AppSpecification"]
        python, *command = [*specification["ContainerEntrypoint"], *specification["ContainerArguments"]]
        assert python == "python3"
        done = run(
            *(
                word.replace("/opt/program", str(project / "src")).replace("/opt/ml/processing", str(base))
                for word in command
            ),
            env=environment | {"PROGRAM_DIR": str(project / "src")},  # /opt/program of the image
        )
        assert done.returncode == 0, f"{name}: {done.stderr}"

    process("Preprocess")
    train = root / "Train"
    for channel in steps["Train"]["InputDataConfig"]:
        fetch(channel["DataSource"]["S3DataSource"]["S3Uri"], train / channel["ChannelName"])
    for name in ("model", "output", "config"):
        (train / name).mkdir()
    (train / "config" / "hyperparameters.json").write_text(json.dumps(steps["Train"]["HyperParameters"]))
    variables = {
        "SM_CHANNEL_TRAIN": train / "train",
        "SM_CHANNEL_VALIDATION": train / "validation",
        "SM_MODEL_DIR": train / "model",
        "SM_OUTPUT_DIR": train / "output",
        "SM_INPUT_CONFIG_DIR": train / "config",
    }
    done = run(
        project / "src" / "train.py", "train", env=environment | {k: str(v) for k, v in variables.items()}
    )
    assert done.returncode == 0, done.stderr
    folders["Steps.Train.ModelArtifacts.S3ModelArtifacts"] = root / "model.tar.gz"
    with tarfile.open(root / "model.tar.gz", "w:gz") as archive:
        for file in (train / "model").iterdir():
            archive.add(file, file.name)
    process("Evaluate")
    process("MonitoringBaseline")
    return SimpleNamespace(outputs=outputs, model=train / "model", log=done.stdout)
