"""Stage Select: the newest approved version, once, with parameters that the stage templates declare."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from mlops_cicd import select
from mlops_cicd.console import Fault
from mlops_cicd.monitor_code import pack

from .conftest import BUCKET, ECR, GROUP_ARN, NAME, PROJECT_ID, ROOT, Session

S3 = f"s3://{BUCKET}/baseline"
NEW, OLD = "sha256:" + "a" * 64, "sha256:" + "b" * 64
QUALITY = {
    "DriftCheckBaselines": {
        "ModelDataQuality": {
            "Statistics": {"ContentType": "application/json", "S3Uri": f"{S3}/statistics.json"},
            "Constraints": {"ContentType": "application/json", "S3Uri": f"{S3}/constraints.json"},
        }
    }
}


class Registry:
    """A model registry: versions with approval, newest last."""

    def __init__(self, *approvals: str, **description: Any) -> None:
        self.approvals, self.description = approvals, description or QUALITY

    def get_paginator(self, name: str) -> Registry:
        assert name == "list_model_packages"
        return self

    def paginate(self, **arguments: Any) -> list[dict[str, Any]]:
        assert arguments["ModelPackageGroupName"] == NAME
        assert (arguments["SortBy"], arguments["SortOrder"]) == ("CreationTime", "Descending")
        wanted = arguments["ModelApprovalStatus"]
        found = [
            {"ModelPackageArn": f"{GROUP_ARN}/{number}"}
            for number, approval in enumerate(self.approvals, start=1)
            if approval == wanted
        ]
        # An empty first page: only a reader of all pages finds the version.
        return [{"ModelPackageSummaryList": []}, {"ModelPackageSummaryList": found[::-1]}]

    def describe_model_package(self, ModelPackageName: str) -> dict[str, Any]:  # noqa: N803
        return {"ModelPackageVersion": int(ModelPackageName.rpartition("/")[2])} | self.description


class Stacks:
    """CloudFormation with at most the production stack."""

    def __init__(self, model: str | None = None, status: str = "UPDATE_COMPLETE") -> None:
        self.model, self.status = model, status

    def describe_stacks(self, StackName: str) -> dict[str, Any]:  # noqa: N803
        assert StackName == f"{NAME}-production"
        if self.model is None:
            message = f"Stack with id {StackName} does not exist"
            raise ClientError({"Error": {"Code": "ValidationError", "Message": message}}, "DescribeStacks")
        parameters = [{"ParameterKey": "ModelPackageArn", "ParameterValue": self.model}]
        return {"Stacks": [{"StackStatus": self.status, "Parameters": parameters}]}


class Images:
    """ECR: two preprocessing images."""

    def get_paginator(self, name: str) -> Images:
        assert name == "describe_images"
        return self

    def paginate(self, **arguments: Any) -> list[dict[str, Any]]:
        assert arguments["repositoryName"] == f"{NAME}/preprocessing"
        return [
            {"imageDetails": [{"imageDigest": NEW, "imagePushedAt": datetime(2026, 2, 1, tzinfo=UTC)}]},
            {"imageDetails": [{"imageDigest": OLD, "imagePushedAt": datetime(2026, 1, 1, tzinfo=UTC)}]},
        ]


def choose(
    project_dir: Path, tmp_path: Path, registry: Registry, stacks: Stacks, *more: str
) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Run the stage: exit code, exported variables, template configurations."""
    argv = [
        "--project-id",
        PROJECT_ID,
        "--project-dir",
        str(project_dir),
        "--out",
        str(tmp_path / "rendered"),
    ]
    argv += ["--env", str(tmp_path / "select.env"), *more]
    code = select.main(argv, Session(sagemaker=registry, cloudformation=stacks, ecr=Images()))
    variables, rendered = {}, {}
    if (tmp_path / "select.env").exists():
        script = f". {tmp_path}/select.env; echo $DEPLOY $MODEL_PACKAGE_ARN $MODEL_VERSION"
        values = subprocess.run(
            ["sh", "-c", script], capture_output=True, text=True, check=True
        ).stdout.split()
        variables = dict(zip(("DEPLOY", "MODEL_PACKAGE_ARN", "MODEL_VERSION"), values, strict=True))
        rendered = {
            path.stem: json.loads(path.read_text()) for path in (tmp_path / "rendered").glob("*.json")
        }
    return code, variables, rendered


def test_the_newest_approved_version_is_deployed(aws: None, project_dir: Path, tmp_path: Path) -> None:
    registry = Registry("Approved", "Approved", "Rejected", "PendingManualApproval")
    code, variables, rendered = choose(project_dir, tmp_path, registry, Stacks(f"{GROUP_ARN}/1"))
    assert code == 0
    assert variables == {"DEPLOY": "true", "MODEL_PACKAGE_ARN": f"{GROUP_ARN}/2", "MODEL_VERSION": "2"}
    assert set(rendered) == {"staging", "production", "monitoring"}
    staging, production = rendered["staging"]["Parameters"], rendered["production"]["Parameters"]
    assert staging["ModelPackageArn"] == production["ModelPackageArn"] == f"{GROUP_ARN}/2"
    assert (staging["Stage"], staging["InstanceType"], staging["InitialInstanceCount"]) == (
        "staging",
        "ml.t2.medium",
        "1",
    )
    assert (production["InstanceType"], production["InitialInstanceCount"]) == ("ml.t2.large", "2")
    assert staging["ExecutionRoleArn"] == f"/mlops/projects/{PROJECT_ID}/execution-role-arn"
    assert staging["SubnetIds"] == "/mlops/infra/private-subnet-ids"
    monitoring = rendered["monitoring"]["Parameters"]
    assert monitoring["MonitorImageUri"] == f"{ECR}/preprocessing@{NEW}"
    assert monitoring["BaselineStatisticsUri"] == f"{S3}/statistics.json"
    assert monitoring["EndpointName"] == f"{NAME}-production"
    assert monitoring["CaptureUri"] == f"s3://{BUCKET}/data-capture/production"
    assert monitoring["MinRecords"] == "40"
    assert rendered["staging"]["Tags"]["sagemaker:project-id"] == PROJECT_ID
    for one in rendered.values():
        assert all(
            isinstance(value, str) for value in one["Parameters"].values()
        )  # CodePipeline takes nothing else


def test_the_monitors_code_is_where_its_parameter_says(aws: None, project_dir: Path, tmp_path: Path) -> None:
    _, _, rendered = choose(project_dir, tmp_path, Registry("Approved"), Stacks())
    bucket, _, key = (
        rendered["monitoring"]["Parameters"]["MonitorCodeUri"].removeprefix("s3://").partition("/")
    )
    body = boto3.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
    assert body == pack()


@pytest.mark.parametrize(
    ("approvals", "live", "message"),
    [
        (("Approved", "Approved"), 2, "version 2, the newest approved one, is live in production"),
        (("Rejected", "PendingManualApproval"), None, f"no version of {NAME} is approved"),
        (("Rejected",), 1, f"no version of {NAME} is approved; production keeps {GROUP_ARN}/1"),
    ],
)
def test_nothing_to_deploy_is_said_and_skipped(
    aws: None,
    project_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    approvals: tuple[str, ...],
    live: int | None,
    message: str,
) -> None:
    stacks = Stacks(f"{GROUP_ARN}/{live}" if live else None)
    code, variables, rendered = choose(project_dir, tmp_path, Registry(*approvals), stacks)
    assert code == 0  # the pipeline skips the stages; a failed build would send a false alarm
    assert variables["DEPLOY"] == "false"
    assert message in capsys.readouterr().out
    assert set(rendered) == {"staging", "production", "monitoring"}  # the artifact must exist


def test_rejecting_the_live_version_brings_back_the_one_before(
    aws: None, project_dir: Path, tmp_path: Path
) -> None:
    _, variables, _ = choose(
        project_dir, tmp_path, Registry("Approved", "Rejected"), Stacks(f"{GROUP_ARN}/2")
    )
    assert (variables["DEPLOY"], variables["MODEL_VERSION"]) == ("true", "1")


@pytest.mark.parametrize("status", ["ROLLBACK_COMPLETE", "CREATE_FAILED", "UPDATE_ROLLBACK_FAILED"])
def test_a_broken_production_stack_runs_nothing(
    aws: None, project_dir: Path, tmp_path: Path, status: str
) -> None:
    _, variables, _ = choose(project_dir, tmp_path, Registry("Approved"), Stacks(f"{GROUP_ARN}/1", status))
    assert variables["DEPLOY"] == "true"


def test_an_image_that_the_version_names_is_preferred(aws: None, project_dir: Path, tmp_path: Path) -> None:
    named = {"preprocessing_image": f"{ECR}/preprocessing:7"}
    registry = Registry("Approved", CustomerMetadataProperties=named, **QUALITY)
    _, _, rendered = choose(project_dir, tmp_path, registry, Stacks())
    assert rendered["monitoring"]["Parameters"]["MonitorImageUri"] == f"{ECR}/preprocessing:7"


def test_a_version_without_a_baseline_is_refused(
    aws: None, project_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, variables, _ = choose(project_dir, tmp_path, Registry("Approved", ModelMetrics={}), Stacks())
    assert code == 1
    assert variables == {}
    assert "model version 1 has no data quality baseline" in capsys.readouterr().err


def test_parameters_are_those_that_the_templates_declare(
    aws: None, project_dir: Path, tmp_path: Path
) -> None:
    templates = ROOT / "mlops-cfn/deploy"
    code, _, rendered = choose(
        project_dir, tmp_path, Registry("Approved"), Stacks(), "--templates", str(templates)
    )
    assert code == 0
    _, _, unfitted = choose(project_dir, tmp_path, Registry("Approved"), Stacks(), "--templates", "")
    assert rendered == unfitted  # the pipeline does not pass the templates today: nothing may need fitting


def test_a_template_of_another_release_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "realtime.yaml"
    path.write_text(
        "Parameters:\n  Colour: {Type: String}\n  Stage: {Type: String}\nResources:\n  X: !Ref Colour\n"
    )
    with pytest.raises(Fault, match="realtime.yaml needs the parameter Colour"):
        select.fit({"Stage": "staging"}, path)
    assert select.fit({"Stage": "staging", "Colour": "red", "Old": "x"}, path) == {
        "Stage": "staging",
        "Colour": "red",
    }
