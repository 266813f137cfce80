"""Shared by the tests of the seed code: composed projects, and settings as the platform gives them."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import compose

ROOT = Path(__file__).resolve().parents[2]
PROJECT_ID = "p-abc123def456"
COMBINATIONS = compose.combinations()
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
# Libraries whose byte code may not be kept are compiled again in each of the many processes: seconds every time.
ENVIRONMENT.pop("PYTHONDONTWRITEBYTECODE", None)

Run = Callable[..., subprocess.CompletedProcess]


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
        "monitor": {"code_uri": f"s3://{bucket}/code/monitor/0123456789abcdef/monitor.py"},
        "config": config,
        **changes,
    }
