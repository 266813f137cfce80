"""What the tests of the CI/CD scripts share: no account in reach, a project in SSM, replaceable clients."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

ROOT = Path(__file__).parents[3]
PROJECT_ID = "p-abcdefghijkl"
NAME = f"mlops-{PROJECT_ID}"
ACCOUNT = "123456789012"
REGION = "us-east-1"
BUCKET = f"{NAME}-{ACCOUNT}-{REGION}"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/mlops/projects/execution"
KEY = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/1234abcd-12ab-34cd-56ef-1234567890ab"
ECR = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/{NAME}"
MACHINE = f"arn:aws:states:{REGION}:{ACCOUNT}:stateMachine:{NAME}-retraining"
GROUP_ARN = f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:model-package/{NAME}"

PARAMETERS = {
    f"/mlops/projects/{PROJECT_ID}/project-name": "Credit",
    f"/mlops/projects/{PROJECT_ID}/cost-center": "cc-1",
    f"/mlops/projects/{PROJECT_ID}/framework": "sklearn",
    f"/mlops/projects/{PROJECT_ID}/inference-mode": "realtime",
    f"/mlops/projects/{PROJECT_ID}/execution-role-arn": ROLE,
    f"/mlops/projects/{PROJECT_ID}/data-scientist-role-arn": f"arn:aws:iam::{ACCOUNT}:role/mlops/projects/ds",
    f"/mlops/projects/{PROJECT_ID}/bucket-name": BUCKET,
    f"/mlops/projects/{PROJECT_ID}/key-arn": KEY,
    f"/mlops/projects/{PROJECT_ID}/ecr-preprocessing-uri": f"{ECR}/preprocessing",
    f"/mlops/projects/{PROJECT_ID}/ecr-training-uri": f"{ECR}/training",
    f"/mlops/projects/{PROJECT_ID}/ecr-inference-uri": f"{ECR}/inference",
    f"/mlops/projects/{PROJECT_ID}/model-package-group-name": NAME,
    f"/mlops/projects/{PROJECT_ID}/retraining-state-machine-arn": MACHINE,
    "/mlops/infra/private-subnet-ids": "subnet-0123456789abcdef0,subnet-0123456789abcdef1",
    "/mlops/infra/compute-security-group-id": "sg-0123456789abcdef0",
    "/mlops/infra/studio-domain-id": "d-abc",
    "/mlops/infra/release-version": "1.2.3",
}

CONFIG = """\
version: 1
framework: {name: sklearn, version: "1.9-0"}
data: {source: data/rows.csv, target: label, positive_class: bad, test_fraction: 0.2, seed: 42}
processing: {instance_type: ml.t3.medium, volume_gb: 10}
training:
  instance_type: ml.m5.large
  hyperparameters: {algorithm: logistic_regression}
evaluation: {metric: auc, threshold: 0.7}
inference: {mode: realtime, content_type: text/csv}
deployment:
  staging: {instance_type: ml.t2.medium, instance_count: 1}
  production: {instance_type: ml.t2.large, instance_count: 2}
monitoring:
  data_capture_percentage: 100
  schedule: cron(0 * * * ? *)
  instance_type: ml.t3.medium
  window_minutes: 60
  data_quality: {drift_threshold: 0.1, min_records: 40}
"""


class Session:
    """A boto3 session of which a test replaces single clients."""

    region_name = REGION

    def __init__(self, **clients: Any) -> None:
        self.clients = clients

    def client(self, name: str, **options: Any) -> Any:
        # The default session has read the service models once; a new one would read them again.
        return self.clients.get(name.replace("-", "_")) or boto3.client(name, region_name=REGION, **options)


@pytest.fixture(autouse=True)
def fake_account(monkeypatch: pytest.MonkeyPatch) -> None:
    """A region and credentials that lead nowhere; nothing of the caller's shell."""
    for name in (
        "AWS_ENDPOINT_URL",
        "AWS_PROFILE",
        "AWS_CONFIG_FILE",
        "PROJECT_ID",
        "COMMIT_ID",
        "USER_NAME",
    ):
        monkeypatch.delenv(name, raising=False)
    for name in ("MODEL_PACKAGE_ARN", "CODEARTIFACT_DOMAIN", "CODEARTIFACT_REPOSITORY", "RELEASE_BUCKET"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_SESSION_TOKEN": "testing",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_REGION": REGION,
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def aws() -> Iterator[None]:
    """moto, with the project's parameters and bucket."""
    with mock_aws():
        ssm = boto3.client("ssm", region_name=REGION)
        for name, value in PARAMETERS.items():
            kind = "StringList" if name.endswith("-ids") else "String"
            ssm.put_parameter(Name=name, Value=value, Type=kind)
        boto3.client("s3", region_name=REGION).create_bucket(Bucket=BUCKET)
        yield


@pytest.fixture
def project_dir(tmp_path: Path) -> Path:
    """A small project repository."""
    root = tmp_path / "project"
    (root / "data").mkdir(parents=True)
    (root / "data/rows.csv").write_text("age,label,income\n" + "30,good,10\n40,bad,5\n" * 30)
    (root / "mlops.yml").write_text(CONFIG)
    (root / "pipeline.py").write_text("")
    (root / "src").mkdir()
    (root / "src/train.py").write_text("print('train')\n")
    for name in ("preprocessing", "training", "inference"):
        folder = root / "containers" / name
        folder.mkdir(parents=True)
        (folder / "Dockerfile").write_text(
            "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nCOPY src/ /opt/program/\n"
            'ENTRYPOINT ["python3", "/opt/program/train.py"]\n'
        )
    for name in ("requirements-dev.txt", "containers/requirements.txt"):
        (root / name).write_text(f"numpy==2.4.6 \\\n    --hash=sha256:{'0' * 64}\n")
    return root


@pytest.fixture
def seed_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project that the seed code composes for sklearn and real time inference."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import compose

    folder = tmp_path / "seed"
    compose.write_folder(compose.compose("sklearn", "realtime"), folder)
    yield folder
    shutil.rmtree(folder)
