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
from mlops_cicd.settings import load_project

from .conftest import BUCKET, ECR, GROUP_ARN, NAME, PROJECT_ID, ROOT, Session

BASELINE = f"s3://{BUCKET}/pipelines/{NAME}/a1b2c3d4e5f6/MonitoringBaseline/baseline"
MODEL = f"s3://{BUCKET}/models/{NAME}/model.tar.gz"
NEW, OLD = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def file(kind: str, name: str = "constraints.json", folder: str = BASELINE) -> dict[str, str]:
    """A file of a baseline, as the registry names it."""
    return {"ContentType": "application/json", "S3Uri": f"{folder}/{kind}/{name}"}


DATA_QUALITY = {
    "Statistics": file("data_quality", "statistics.json"),
    "Constraints": file("data_quality"),
}
SPECIFICATION = {"Containers": [{"Image": f"{ECR}/inference:1", "ModelDataUrl": MODEL}]}
QUALITY = {
    "InferenceSpecification": SPECIFICATION,
    "DriftCheckBaselines": {"ModelDataQuality": DATA_QUALITY},
}
ALL_KINDS = {
    "InferenceSpecification": SPECIFICATION,
    "DriftCheckBaselines": {
        "ModelDataQuality": DATA_QUALITY,
        "ModelQuality": {"Constraints": file("model_quality")},
        "Bias": {"PostTrainingConstraints": file("model_bias")},
        "Explainability": {"Constraints": file("model_explainability")},
    },
}
MORE_KINDS = """\
  model_quality: {problem_type: BinaryClassification, min_records: 120, ground_truth_delay_minutes: 30}
  model_bias: {min_records: 130, ground_truth_delay_minutes: 90, facets: [{name: age, threshold: 25}]}
  model_explainability: {}
  simulated_traffic: true
  include_simulated: true
  instance_count: 2
kpi: {quicksight_principal: 'arn:aws:quicksight:us-east-1:123456789012:group/default/credit'}
"""


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
    assert set(rendered) == {"staging", "production", "monitoring", "kpi"}
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
    assert (monitoring["BaselineUri"], monitoring["ModelDataUri"]) == (BASELINE, MODEL)
    assert monitoring["ModelPackageArn"] == f"{GROUP_ARN}/2"
    assert monitoring["EndpointName"] == f"{NAME}-production"
    assert monitoring["CaptureUri"] == f"s3://{BUCKET}/data-capture/production"
    assert monitoring["GroundTruthUri"] == f"s3://{BUCKET}/ground-truth/production"
    assert (
        monitoring["ReportsUri"] == rendered["kpi"]["Parameters"]["ReportsUri"] == f"s3://{BUCKET}/monitoring"
    )
    assert monitoring["DataQualityMinRecords"] == "40"
    assert monitoring["TrafficFunctionArn"] == f"/mlops/projects/{PROJECT_ID}/traffic-function-arn"
    assert enabled(monitoring) == ["DataQuality"]
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
    assert set(rendered) == {"staging", "production", "monitoring", "kpi"}  # the artifact must exist


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


def enabled(parameters: dict[str, str]) -> list[str]:
    """The kinds of monitor that the parameters switch on."""
    kinds = {name: value for name, value in parameters.items() if name.endswith("Enabled")}
    assert set(kinds.values()) <= {"true", "false"} and len(kinds) == 4
    return [name.removesuffix("Enabled") for name, value in kinds.items() if value == "true"]


def monitor_with(
    project_dir: Path, tmp_path: Path, more: str, **description: Any
) -> tuple[int, dict[str, str], dict[str, str]]:
    """Run the stage with more settings below `monitoring`: exit code, monitoring and kpi parameters."""
    path = project_dir / "mlops.yml"
    path.write_text(path.read_text() + more)
    code, _, rendered = choose(project_dir, tmp_path, Registry("Approved", **description), Stacks())
    return code, rendered.get("monitoring", {}).get("Parameters"), rendered.get("kpi", {}).get("Parameters")


def test_every_kind_has_its_parameters(aws: None, project_dir: Path, tmp_path: Path) -> None:
    _, monitoring, kpi = monitor_with(project_dir, tmp_path, MORE_KINDS, **ALL_KINDS)
    assert enabled(monitoring) == ["DataQuality", "ModelQuality", "ModelBias", "ModelExplainability"]
    assert monitoring["GroundTruthDelayMinutes"] == "90"  # the answers that come last decide
    assert (monitoring["WindowMinutes"], monitoring["GroundTruthWindowMinutes"]) == ("60", "150")
    assert (monitoring["ModelQualityMinRecords"], monitoring["BiasMinRecords"]) == ("120", "130")
    assert (monitoring["SimulatedTraffic"], monitoring["IncludeSimulated"]) == ("true", "true")
    assert (monitoring["InstanceCount"], monitoring["ProblemType"]) == ("2", "BinaryClassification")
    assert (monitoring["MonitoringEngine"], monitoring["ScheduleExpression"]) == (
        "processing",
        "cron(0 * * * ? *)",
    )
    assert kpi["QuickSightPrincipalArn"].endswith(":group/default/credit")
    assert kpi["EndpointName"] == f"{NAME}-production"


def test_the_managed_engine_gets_its_own_form_of_the_schedule(
    aws: None, project_dir: Path, tmp_path: Path
) -> None:
    _, monitoring, _ = monitor_with(project_dir, tmp_path, "  engine: managed\n")
    assert (monitoring["MonitoringEngine"], monitoring["ScheduleExpression"]) == (
        "managed",
        "cron(0 * ? * * *)",
    )


def test_without_a_baseline_of_the_data_no_rows_are_sent(
    aws: None, project_dir: Path, tmp_path: Path
) -> None:
    older = {"ModelQuality": {"Constraints": file("model_quality")}}
    description = {"InferenceSpecification": SPECIFICATION, "DriftCheckBaselines": older}
    _, monitoring, _ = monitor_with(project_dir, tmp_path, MORE_KINDS, **description)
    assert (enabled(monitoring), monitoring["SimulatedTraffic"]) == (["ModelQuality"], "false")


def test_a_version_that_is_older_than_a_kind_stays_deployable(
    aws: None, project_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, monitoring, _ = monitor_with(project_dir, tmp_path, MORE_KINDS)
    assert (code, enabled(monitoring), monitoring["GroundTruthDelayMinutes"]) == (0, ["DataQuality"], "0")
    assert "version 1 has no baseline of model_bias, so this is not monitored" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("description", "message"),
    [
        (
            {"InferenceSpecification": SPECIFICATION, "ModelMetrics": {}},
            "version 1 has no baseline of data_quality, model_quality, model_bias, model_explainability",
        ),
        (
            {**QUALITY, "InferenceSpecification": {"Containers": [{"Image": f"{ECR}/inference:1"}]}},
            "model version 1 names no model data",
        ),
        (
            {**QUALITY, "DriftCheckBaselines": {"ModelDataQuality": {"Constraints": file("other")}}},
            "its constraints of data_quality are",
        ),
        (
            {
                **QUALITY,
                "DriftCheckBaselines": {
                    "ModelDataQuality": DATA_QUALITY,
                    "Bias": {
                        "PostTrainingConstraints": file("model_bias", folder=f"s3://{BUCKET}/elsewhere")
                    },
                },
            },
            "allowed: one folder for all kinds",
        ),
    ],
)
def test_a_version_that_cannot_be_monitored_is_refused(
    aws: None,
    project_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    description: dict[str, Any],
    message: str,
) -> None:
    assert monitor_with(project_dir, tmp_path, MORE_KINDS, **description) == (1, None, None)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("block", ["DriftCheckBaselines", "ModelMetrics"])
@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("ModelDataQuality", "Statistics"),
        ("ModelQuality", "Constraints"),
        ("Bias", "Report"),
        ("Bias", "ConfigFile"),
        ("Bias", "PreTrainingConstraints"),
        ("Explainability", "Report"),
        ("Explainability", "ConfigFile"),
    ],
)
def test_every_file_of_a_version_must_be_the_projects_own(
    aws: None,
    project_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    block: str,
    part: str,
    name: str,
) -> None:
    """Also where the other block names a file of the project for the same purpose."""
    description = {"ModelMetrics": {}, **ALL_KINDS}
    parts = description[block]
    foreign = {"S3Uri": "s3://somebody-else/x.json"}
    changed = {**description, block: {**parts, part: {**parts.get(part, {}), name: foreign}}}
    assert monitor_with(project_dir, tmp_path, MORE_KINDS, **changed)[0] == 1
    assert (
        f'its {part} {name} is "s3://somebody-else/x.json"; allowed: a file below' in capsys.readouterr().err
    )


def test_parameters_are_those_that_the_templates_declare(
    aws: None, project_dir: Path, tmp_path: Path
) -> None:
    templates = ROOT / "mlops-cfn/deploy"
    code, _, rendered = choose(
        project_dir, tmp_path, Registry("Approved"), Stacks(), "--templates", str(templates)
    )
    assert code == 0
    _, _, unfitted = choose(project_dir, tmp_path, Registry("Approved"), Stacks(), "--templates", "")
    project = load_project(boto3.client("ssm"), PROJECT_ID, "us-east-1")
    for name, one in unfitted.items():
        dropped = one["Parameters"].keys() - rendered[name]["Parameters"].keys()
        assert dropped <= select.common(project).keys(), f"{name}: the template does not know {dropped}"


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
