"""Stage Select: the version approved last, once, with parameters that the stage templates declare."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from botocore.exceptions import ClientError

from mlops_cicd import render, select
from mlops_cicd.console import Fault
from mlops_cicd.monitor_code import pack
from mlops_cicd.settings import load_project

from .conftest import BUCKET, ECR, GROUP_ARN, NAME, PROJECT_ID, ROOT, Session

BASELINE = f"s3://{BUCKET}/pipelines/{NAME}/a1b2c3d4e5f6/MonitoringBaseline/baseline"
MODEL = f"s3://{BUCKET}/models/{NAME}/model.tar.gz"
VARIABLES = ("DEPLOY", "SHADOW", "API", "MODEL_PACKAGE_ARN", "MODEL_VERSION", "LIVE_MODEL_PACKAGE_ARN")
CONFIGURATIONS = {"staging", "shadow", "production", "api", "monitoring", "kpi"}
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
    """A model registry: versions with approval, newest last; each was decided on when it was registered."""

    def __init__(self, *approvals: str, **description: Any) -> None:
        self.approvals, self.description = list(approvals), description or QUALITY
        self.decided = dict(enumerate(range(len(approvals)), start=1))

    def decide(self, version: int, approval: str) -> None:
        """A person decides again, later than everything before."""
        self.approvals[version - 1] = approval
        self.decided[version] = max(self.decided.values()) + 1

    def get_paginator(self, name: str) -> Registry:
        assert name == "list_model_packages"
        return self

    def paginate(self, **arguments: Any) -> list[dict[str, Any]]:
        assert arguments["ModelPackageGroupName"] == NAME
        wanted = arguments["ModelApprovalStatus"]
        found = [
            {"ModelPackageArn": f"{GROUP_ARN}/{number}"}
            for number, approval in enumerate(self.approvals, start=1)
            if approval == wanted
        ]
        # An empty first page: only a reader of all pages finds the version.
        return [{"ModelPackageSummaryList": []}, {"ModelPackageSummaryList": found[::-1]}]

    def describe_model_package(self, ModelPackageName: str) -> dict[str, Any]:  # noqa: N803
        version, begin = int(ModelPackageName.rpartition("/")[2]), datetime(2026, 1, 1, tzinfo=UTC)
        times = {"CreationTime": begin + timedelta(hours=version)}
        if self.decided[version] >= len(self.approvals):
            times["LastModifiedTime"] = begin + timedelta(days=self.decided[version])
        return {"ModelPackageVersion": version} | times | self.description


class Stacks:
    """CloudFormation with at most the production stack."""

    def __init__(self, model: str | None = None, status: str = "UPDATE_COMPLETE", **more: str) -> None:
        self.model, self.status, self.more = model, status, more

    def describe_stacks(self, StackName: str) -> dict[str, Any]:  # noqa: N803
        assert StackName in (f"{NAME}-staging", f"{NAME}-production")
        if self.model is None or StackName == f"{NAME}-staging":
            message = f"Stack with id {StackName} does not exist"
            raise ClientError({"Error": {"Code": "ValidationError", "Message": message}}, "DescribeStacks")
        values = {"ModelPackageArn": self.model, **self.more}
        parameters = [{"ParameterKey": name, "ParameterValue": value} for name, value in values.items()]
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
        script = f". {tmp_path}/select.env; echo {' '.join(f'${name}' for name in VARIABLES)}"
        values = subprocess.run(
            ["sh", "-c", script], capture_output=True, text=True, check=True
        ).stdout.split()
        variables = dict(zip(VARIABLES, values, strict=True))
        rendered = {
            path.stem: json.loads(path.read_text()) for path in (tmp_path / "rendered").glob("*.json")
        }
    return code, variables, rendered


def test_the_version_approved_last_is_deployed(aws: None, project_dir: Path, tmp_path: Path) -> None:
    registry = Registry("Approved", "Approved", "Rejected", "PendingManualApproval")
    code, variables, rendered = choose(project_dir, tmp_path, registry, Stacks(f"{GROUP_ARN}/1"))
    assert code == 0
    assert variables == {
        "DEPLOY": "true",
        "SHADOW": "false",
        "API": "false",
        "MODEL_PACKAGE_ARN": f"{GROUP_ARN}/2",
        "MODEL_VERSION": "2",
        "LIVE_MODEL_PACKAGE_ARN": f"{GROUP_ARN}/1",
    }
    assert set(rendered) == CONFIGURATIONS
    assert rendered["shadow"]["Parameters"] == rendered["api"]["Parameters"] == {}
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
        (("Approved", "Approved"), 2, "version 2, the last one approved, is live in production"),
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
    assert set(rendered) == CONFIGURATIONS  # the artifact must exist


def test_rejecting_the_live_version_brings_back_the_one_before(
    aws: None, project_dir: Path, tmp_path: Path
) -> None:
    _, variables, _ = choose(
        project_dir, tmp_path, Registry("Approved", "Rejected"), Stacks(f"{GROUP_ARN}/2")
    )
    assert (variables["DEPLOY"], variables["MODEL_VERSION"]) == ("true", "1")


def test_approving_an_older_version_again_deploys_it(aws: None, project_dir: Path, tmp_path: Path) -> None:
    registry = Registry("Approved", "Approved", "Approved")
    registry.decide(1, "Approved")
    stacks = Stacks(f"{GROUP_ARN}/3")
    _, variables, rendered = choose(project_dir, tmp_path, registry, stacks)
    assert (variables["DEPLOY"], variables["MODEL_VERSION"]) == ("true", "1")
    assert rendered["production"]["Parameters"]["ModelPackageArn"] == f"{GROUP_ARN}/1"
    # the same event again, and an earlier one that comes late: the registry decides, not the event
    stacks.model = f"{GROUP_ARN}/1"
    for _ in range(2):
        _, variables, _ = choose(project_dir, tmp_path, registry, stacks)
        assert (variables["DEPLOY"], variables["MODEL_VERSION"]) == ("false", "1")
    # rejected in its turn: the decision before it was version 3's, not that of a newer number
    registry.decide(2, "Rejected")
    registry.decide(1, "Rejected")
    _, variables, _ = choose(project_dir, tmp_path, registry, stacks)
    assert (variables["DEPLOY"], variables["MODEL_VERSION"]) == ("true", "3")


def edit(project_dir: Path, before: str, after: str) -> None:
    """Change a line of mlops.yml."""
    path = project_dir / "mlops.yml"
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after, 1))


def parameters_of(project_dir: Path, tmp_path: Path, stacks: Stacks | None = None) -> dict[str, Any]:
    """What a release of version 2 renders."""
    registry = Registry("Approved", "Approved")
    code, variables, rendered = choose(project_dir, tmp_path, registry, stacks or Stacks(f"{GROUP_ARN}/1"))
    assert code == 0
    return {name: one["Parameters"] for name, one in rendered.items()} | {"variables": variables}


def test_a_release_moves_as_mlops_yml_says(aws: None, project_dir: Path, tmp_path: Path) -> None:
    """The waits, the way of the old instances and an hour to get ready fit into the release's time."""
    edit(
        project_dir,
        "{instance_type: ml.t2.large, instance_count: 2}",
        """
    instance_type: ml.m5.large
    instance_count: 2
    autoscaling: {min: 2, max: 4}
  release: {shift: linear, share: 20, wait_seconds: 200}
  alarms: {latency_ms: 700}""",
    )
    found = parameters_of(project_dir, tmp_path)
    shift = {name: one for name, one in found["production"].items() if name.startswith(("Release", "Scal"))}
    assert shift == {
        "ReleaseShift": "LINEAR",
        "ReleaseShare": "20",
        "ReleaseWaitSeconds": "200",
        "ReleaseTimeoutSeconds": str(5 * 200 + 120 + 3600),
        "ScalingMinimum": "2",
        "ScalingMaximum": "4",
    }
    assert found["production"]["InvocationsPerInstance"] == "600"
    assert found["production"]["LatencyThresholdMicroseconds"] == "700000"
    staging = {
        name: found["staging"][name] for name in ("ReleaseShift", "ReleaseWaitSeconds", "ScalingMaximum")
    }
    assert staging == {"ReleaseShift": "ALL_AT_ONCE", "ReleaseWaitSeconds": "0", "ScalingMaximum": "0"}


@pytest.mark.parametrize(("count", "how"), [(1, "ALL_AT_ONCE"), (2, "CANARY")])
def test_what_can_be_shared_is_shared(
    aws: None, project_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], count: int, how: str
) -> None:
    edit(project_dir, "ml.t2.large, instance_count: 2", f"ml.t2.large, instance_count: {count}")
    assert parameters_of(project_dir, tmp_path)["production"]["ReleaseShift"] == how
    assert f"traffic moves {how.lower().replace('_', ' ')} (deployment.release" in capsys.readouterr().out


SHADOW = "deployment:\n  shadow: {share: 50, instance_count: 2}"


def test_a_shadow_runs_beside_the_live_version(aws: None, project_dir: Path, tmp_path: Path) -> None:
    edit(project_dir, "deployment:", SHADOW)
    found = parameters_of(project_dir, tmp_path)
    assert found["variables"]["SHADOW"] == "true"
    differs = {name for name, one in found["shadow"].items() if found["production"].get(name) != one}
    assert differs == {"ModelPackageArn", "ShadowModelPackageArn", "ShadowInstanceCount", "ShadowWeight"}
    shadow = found["shadow"]
    assert (shadow["ModelPackageArn"], shadow["ShadowModelPackageArn"]) == (
        f"{GROUP_ARN}/1",
        f"{GROUP_ARN}/2",
    )
    assert (shadow["ShadowInstanceCount"], shadow["ShadowWeight"]) == ("2", "0.5")
    assert found["production"]["ShadowModelPackageArn"] == ""  # the release itself removes it


def test_the_first_version_has_nothing_to_be_compared_with(
    aws: None, project_dir: Path, tmp_path: Path
) -> None:
    edit(project_dir, "deployment:", SHADOW)
    found = parameters_of(project_dir, tmp_path, Stacks())
    assert (found["variables"]["DEPLOY"], found["variables"]["SHADOW"]) == ("true", "false")
    assert found["variables"]["LIVE_MODEL_PACKAGE_ARN"] == "none"


def test_a_shadow_that_a_failed_comparison_left_is_removed(
    aws: None, project_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Version 2 was compared, and rejected then: version 1 is live already, and is deployed without it."""
    edit(project_dir, "deployment:", SHADOW)
    stacks = Stacks(f"{GROUP_ARN}/1", ShadowModelPackageArn=f"{GROUP_ARN}/2")
    _, variables, rendered = choose(project_dir, tmp_path, Registry("Approved", "Rejected"), stacks)
    assert (variables["DEPLOY"], variables["SHADOW"], variables["MODEL_VERSION"]) == ("true", "false", "1")
    assert rendered["production"]["Parameters"]["ShadowModelPackageArn"] == ""
    assert f"ends the comparison with {GROUP_ARN}/2" in capsys.readouterr().out


def test_a_serverless_endpoint_has_no_sizes_and_no_monitors(
    aws: None, project_dir: Path, tmp_path: Path
) -> None:
    edit(project_dir, "deployment:", "deployment:\n  endpoint: serverless\n  serverless: {memory_mb: 4096}")
    edit(project_dir, "data_capture_percentage: 100", "data_capture_percentage: 0")
    edit(project_dir, "data_quality: {", "data_quality: {enabled: false, ")
    found = parameters_of(project_dir, tmp_path, Stacks())
    assert found["production"]["EndpointKind"] == "serverless"
    assert found["production"]["ServerlessMemoryMb"] == "4096"
    assert found["production"]["ReleaseShift"] == "ALL_AT_ONCE"
    assert enabled(found["monitoring"]) == []


def test_an_asynchronous_endpoint_has_no_monitors_and_its_stack_keeps_a_resource(
    aws: None, project_dir: Path, tmp_path: Path
) -> None:
    edit(project_dir, "deployment:", "deployment:\n  endpoint: asynchronous")
    edit(project_dir, "data_capture_percentage: 100", "data_capture_percentage: 0")
    edit(project_dir, "data_quality: {", "data_quality: {enabled: false, ")
    found = parameters_of(project_dir, tmp_path, Stacks())
    assert enabled(found["monitoring"]) == []
    assert found["monitoring"]["CaptureUri"] and found["monitoring"]["SimulatedTraffic"] == "false"
    for name in ("monitoring", "kpi"):  # CloudFormation makes no stack of nothing
        text = (ROOT / f"mlops-cfn/deploy/{name}.yaml").read_text()
        made = yaml.load(text, render.TemplateLoader)["Resources"]  # noqa: S506 - a SafeLoader
        assert [one for one, resource in made.items() if "Condition" not in resource], name


@pytest.mark.parametrize(
    ("before", "after", "more", "message"),
    [
        (
            "deployment:",
            "deployment:\n  endpoint: asynchronous",
            {},
            "deployment.endpoint is asynchronous, and mlops-p-abcdefghijkl-production is an endpoint of the "
            "kind instances, which cannot be changed",
        ),
        (
            "ml.t2.large",
            "ml.m5.xlarge",
            {"ScalingMaximum": "4", "InstanceType": "ml.m5.large"},
            "deployment.production.instance_type is ml.m5.xlarge, and mlops-p-abcdefghijkl-production scales "
            "on ml.m5.large",
        ),
    ],
)
def test_what_sagemaker_would_refuse_is_said_before(
    aws: None,
    project_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    before: str,
    after: str,
    more: dict[str, str],
    message: str,
) -> None:
    edit(project_dir, before, after)
    if "asynchronous" in after:
        edit(project_dir, "data_capture_percentage: 100", "data_capture_percentage: 0")
        edit(project_dir, "data_quality: {", "data_quality: {enabled: false, ")
    stacks = Stacks(f"{GROUP_ARN}/1", **more)
    code, variables, _ = choose(project_dir, tmp_path, Registry("Approved", "Approved"), stacks)
    assert (code, variables) == (1, {})
    assert message in capsys.readouterr().err


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
        assert dropped <= render.common(project).keys(), f"{name}: the template does not know {dropped}"


def test_a_template_of_another_release_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "realtime.yaml"
    path.write_text(
        "Parameters:\n  Colour: {Type: String}\n  Stage: {Type: String}\nResources:\n  X: !Ref Colour\n"
    )
    with pytest.raises(Fault, match="realtime.yaml needs the parameter Colour"):
        render.fit({"Stage": "staging"}, path)
    assert render.fit({"Stage": "staging", "Colour": "red", "Old": "x"}, path) == {
        "Stage": "staging",
        "Colour": "red",
    }
