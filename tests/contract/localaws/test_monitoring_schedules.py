"""Model Monitor's job definitions and schedules, as an account that may still use it has them.

At the end deploy/monitoring.yaml itself, with both engines.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from localaws.services.sagemaker.monitoring_schedules import due

KINDS = {
    "data_quality": "DataQuality",
    "model_quality": "ModelQuality",
    "model_bias": "ModelBias",
    "model_explainability": "ModelExplainability",
}
HOURLY = "cron(0 * ? * * *)"
TEMPLATE = Path(__file__).resolve().parents[3] / "mlops-cfn/deploy/monitoring.yaml"
SERVER = """
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def log_message(self, *_): pass
ThreadingHTTPServer(("127.0.0.1", int(os.environ["SAGEMAKER_BIND_TO_PORT"])), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def world(cloud: Any) -> Iterator[SimpleNamespace]:
    """A role, an endpoint that captures its traffic, and one that does not."""
    client, bucket, out = cloud.client("sagemaker"), cloud.bucket(), io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz"):
        pass
    cloud.client("s3").put_object(Bucket=bucket, Key="model.tar.gz", Body=out.getvalue())
    image = cloud.image({"app/serve.py": SERVER}, ["python3", "/app/serve.py"])
    role, model = cloud.role("sagemaker"), cloud.name("model")
    container = {"Image": image, "ModelDataUrl": f"s3://{bucket}/model.tar.gz"}
    client.create_model(ModelName=model, ExecutionRoleArn=role, PrimaryContainer=container)
    variant = {"VariantName": "AllTraffic", "ModelName": model, "InstanceType": "ml.t2.medium"}
    capture = {
        "EnableCapture": True,
        "InitialSamplingPercentage": 100,
        "DestinationS3Uri": f"s3://{bucket}/capture",
        "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
    }
    names = [cloud.name("captured"), cloud.name("plain")]
    for name, more in zip(names, ({"DataCaptureConfig": capture}, {}), strict=True):
        variants = [{**variant, "InitialInstanceCount": 1, "InitialVariantWeight": 1.0}]
        client.create_endpoint_config(EndpointConfigName=name, ProductionVariants=variants, **more)
        client.create_endpoint(EndpointName=name, EndpointConfigName=name)
    for name in names:
        cloud.wait(
            lambda name=name: client.describe_endpoint(EndpointName=name)["EndpointStatus"] == "InService",
            60,
            name,
        )
    yield SimpleNamespace(role=role, captured=names[0], plain=names[1], image=image, bucket=bucket)
    for name in names:
        client.delete_endpoint(EndpointName=name)


def definition(kind: str, name: str, role: str, endpoint: str, **more: Any) -> dict[str, Any]:
    """The smallest request that defines a job of a kind."""
    title = KINDS[kind]
    image = "156813124566.dkr.ecr.us-east-1.amazonaws.com/sagemaker-model-monitor-analyzer"
    source: dict[str, Any] = {
        "EndpointInput": {"EndpointName": endpoint, "LocalPath": "/opt/ml/processing/input"}
    }
    specification = {"ImageUri": image}
    if kind in ("model_quality", "model_bias"):
        source["GroundTruthS3Input"] = {"S3Uri": "s3://bucket/truth"}
    if kind == "model_quality":
        specification["ProblemType"] = "BinaryClassification"
    if kind in ("model_bias", "model_explainability"):
        specification["ConfigUri"] = "s3://bucket/analysis_config.json"
    output = {"S3Output": {"S3Uri": "s3://bucket/reports", "LocalPath": "/opt/ml/processing/output"}}
    cluster = {"InstanceCount": 1, "InstanceType": "ml.m5.xlarge", "VolumeSizeInGB": 20}
    return {
        "JobDefinitionName": name,
        f"{title}AppSpecification": specification,
        f"{title}JobInput": source,
        f"{title}JobOutputConfig": {"MonitoringOutputs": [output]},
        "JobResources": {"ClusterConfig": cluster},
        "RoleArn": role,
        **more,
    }


@pytest.fixture
def define(cloud: Any, world: Any) -> Any:
    """Make a job definition of a kind; its name."""
    made = []

    def run(kind: str = "data_quality", **more: Any) -> str:
        request = definition(kind, cloud.name("definition"), world.role, world.captured, **more)
        call = getattr(cloud.client("sagemaker"), f"create_{kind}_job_definition")
        answer = call(**request)
        assert answer["JobDefinitionArn"].endswith(
            f":{kind.replace('_', '-')}-job-definition/{request['JobDefinitionName']}"
        )
        made.append((kind, request["JobDefinitionName"]))
        return request["JobDefinitionName"]

    yield run
    for kind, name in made:
        try:
            getattr(cloud.client("sagemaker"), f"delete_{kind}_job_definition")(JobDefinitionName=name)
        except ClientError as error:
            assert error.response["Error"]["Code"] == "ResourceNotFound"


@pytest.fixture
def schedule(cloud: Any) -> Any:
    """Make a schedule of a job definition; its name."""
    made = []

    def run(job: str, kind: str = "data_quality", expression: str = HOURLY, **window: str) -> str:
        name = cloud.name("schedule")
        config = {
            "MonitoringJobDefinitionName": job,
            "MonitoringType": KINDS[kind],
            "ScheduleConfig": {"ScheduleExpression": expression, **window},
        }
        client = cloud.client("sagemaker")
        client.create_monitoring_schedule(MonitoringScheduleName=name, MonitoringScheduleConfig=config)
        made.append(name)
        return name

    yield run
    for name in made:
        try:
            cloud.client("sagemaker").delete_monitoring_schedule(MonitoringScheduleName=name)
        except ClientError as error:
            assert error.response["Error"]["Code"] == "ResourceNotFound"


def refused(call: Callable[..., Any], **request: Any) -> str:
    """Code and message with which a call is refused."""
    with pytest.raises(ClientError) as caught:
        call(**request)
    return "{Code}: {Message}".format(**caught.value.response["Error"])


@pytest.mark.parametrize("kind", KINDS)
def test_definitions_are_kept(cloud: Any, define: Any, world: Any, kind: str) -> None:
    client, name = cloud.client("sagemaker"), define(kind, Tags=[{"Key": "a", "Value": "b"}])
    found = getattr(client, f"describe_{kind}_job_definition")(JobDefinitionName=name)
    assert found[f"{KINDS[kind]}JobInput"]["EndpointInput"]["EndpointName"] == world.captured
    assert client.list_tags(ResourceArn=found["JobDefinitionArn"])["Tags"] == [{"Key": "a", "Value": "b"}]
    listed = getattr(client, f"list_{kind}_job_definitions")(EndpointName=world.captured)[
        "JobDefinitionSummaries"
    ]
    assert [row["MonitoringJobDefinitionName"] for row in listed] == [name]
    other = getattr(client, f"list_{kind}_job_definitions")(EndpointName="other")
    assert other["JobDefinitionSummaries"] == []
    getattr(client, f"delete_{kind}_job_definition")(JobDefinitionName=name)
    assert refused(getattr(client, f"describe_{kind}_job_definition"), JobDefinitionName=name).startswith(
        "ResourceNotFound"
    )


@pytest.mark.parametrize(
    "case, change, message",
    [
        ("no endpoint", {"endpoint": "nobody"}, "Could not find endpoint"),
        ("both inputs", {"batch": True}, "exactly one of EndpointInput and BatchTransformInput"),
        ("role", {"role": "arn:aws:iam::123456789012:role/nobody"}, "Could not assume role"),
        ("offset", {"start": "-PT1X"}, "no offset in ISO 8601"),
        ("offsets", {"start": "-PT1H", "end": "-PT2H"}, "must not be later"),
        ("count", {"count": 101}, "less than or equal to 100"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_definitions_that_are_refused(
    cloud: Any,
    world: Any,
    case: str,
    change: dict[str, Any],
    message: str,
) -> None:
    kind = "model_quality"
    request = definition(
        kind, cloud.name("bad"), change.get("role", world.role), change.get("endpoint", world.captured)
    )
    source = request["ModelQualityJobInput"]
    if change.get("batch"):
        source["BatchTransformInput"] = {
            "DataCapturedDestinationS3Uri": "s3://bucket/batch",
            "DatasetFormat": {"Csv": {"Header": False}},
            "LocalPath": "/opt/ml/processing/input",
        }
    for member in ("start", "end"):
        if member in change:
            source["EndpointInput"][f"{member.title()}TimeOffset"] = change[member]
    request["JobResources"]["ClusterConfig"]["InstanceCount"] = change.get("count", 1)
    assert message in refused(cloud.client("sagemaker").create_model_quality_job_definition, **request)


def test_an_endpoint_without_capture_is_not_monitored(cloud: Any, world: Any) -> None:
    request = definition("data_quality", cloud.name("bad"), world.role, world.plain)
    message = refused(cloud.client("sagemaker").create_data_quality_job_definition, **request)
    assert "Data capture is not enabled" in message


def test_a_schedule_is_kept_changed_and_stopped(cloud: Any, define: Any, schedule: Any) -> None:
    client, first, second = cloud.client("sagemaker"), define(), define()
    name = schedule(first)
    found = client.describe_monitoring_schedule(MonitoringScheduleName=name)
    assert found["MonitoringScheduleStatus"] == "Scheduled" and found["MonitoringType"] == "DataQuality"
    config = {**found["MonitoringScheduleConfig"], "MonitoringJobDefinitionName": second}
    client.update_monitoring_schedule(MonitoringScheduleName=name, MonitoringScheduleConfig=config)
    listed = client.list_monitoring_schedules(MonitoringJobDefinitionName=second)
    assert [r["MonitoringScheduleName"] for r in listed["MonitoringScheduleSummaries"]] == [name]
    listed = client.list_monitoring_schedules(MonitoringJobDefinitionName=first)
    assert listed["MonitoringScheduleSummaries"] == []
    assert "is used by" in refused(client.delete_data_quality_job_definition, JobDefinitionName=second)
    assert "is not stopped" in refused(client.start_monitoring_schedule, MonitoringScheduleName=name)
    client.stop_monitoring_schedule(MonitoringScheduleName=name)
    found = client.describe_monitoring_schedule(MonitoringScheduleName=name)
    assert found["MonitoringScheduleStatus"] == "Stopped"
    client.start_monitoring_schedule(MonitoringScheduleName=name)
    client.delete_monitoring_schedule(MonitoringScheduleName=name)
    assert refused(client.describe_monitoring_schedule, MonitoringScheduleName=name).startswith(
        "ResourceNotFound"
    )


@pytest.mark.parametrize(
    "expression, window, message",
    [
        ("cron(0 * * * ? *)", {}, "is not supported"),  # what EventBridge calls hourly
        ("rate(1 hour)", {}, "is not supported"),
        ("cron(30 * ? * * *)", {}, "is not supported"),
        ("cron(0 24 ? * * *)", {}, "is not supported"),
        ("NOW", {}, "are required with ScheduleExpression NOW"),
        (HOURLY, {"DataAnalysisStartTime": "-PT25H"}, "24 hours at most"),
        (HOURLY, {"DataAnalysisEndTime": "-PT1H"}, "24 hours at most"),
    ],
)
def test_expressions_that_are_refused(
    cloud: Any, define: Any, expression: str, window: dict[str, str], message: str
) -> None:
    config = {
        "MonitoringJobDefinitionName": define(),
        "MonitoringType": "DataQuality",
        "ScheduleConfig": {"ScheduleExpression": expression, **window},
    }
    call = cloud.client("sagemaker").create_monitoring_schedule
    assert message in refused(call, MonitoringScheduleName=cloud.name("bad"), MonitoringScheduleConfig=config)


@pytest.mark.parametrize(
    "kind, seconds", [("data_quality", 3600), ("model_quality", 1800), ("model_bias", 1800)]
)
def test_an_hourly_job_ends_within_the_hour(
    cloud: Any, define: Any, schedule: Any, kind: str, seconds: int
) -> None:
    schedule(define(kind, StoppingCondition={"MaxRuntimeInSeconds": seconds}), kind)
    job = define(kind, StoppingCondition={"MaxRuntimeInSeconds": seconds + 1})
    with pytest.raises(ClientError, match="the limit of an hourly"):
        schedule(job, kind)
    schedule(job, kind, "cron(0 0/6 ? * * *)")


def test_a_schedule_names_a_definition_of_its_kind(cloud: Any, define: Any, world: Any) -> None:
    call, job = cloud.client("sagemaker").create_monitoring_schedule, define()
    name = cloud.name("bad")
    config = {"MonitoringJobDefinitionName": job, "MonitoringType": "ModelBias"}
    assert refused(call, MonitoringScheduleName=name, MonitoringScheduleConfig=config).startswith(
        "ResourceNotFound"
    )
    config = {"MonitoringJobDefinitionName": job}
    assert "are required" in refused(call, MonitoringScheduleName=name, MonitoringScheduleConfig=config)
    own = {
        "MonitoringInputs": [
            {"EndpointInput": {"EndpointName": "e", "LocalPath": "/opt/ml/processing/input"}}
        ],
        "MonitoringOutputConfig": {
            "MonitoringOutputs": [
                {"S3Output": {"S3Uri": "s3://b/r", "LocalPath": "/opt/ml/processing/output"}}
            ]
        },
        "MonitoringResources": {
            "ClusterConfig": {"InstanceCount": 1, "InstanceType": "ml.m5.xlarge", "VolumeSizeInGB": 20}
        },
        "MonitoringAppSpecification": {"ImageUri": "image"},
        "RoleArn": world.role,
    }
    config = {"MonitoringJobDefinition": own}
    message = refused(call, MonitoringScheduleName=name, MonitoringScheduleConfig=config)
    assert message.startswith("NotImplemented") and "job definition" in message


def test_an_endpoint_keeps_its_schedules(cloud: Any, define: Any, schedule: Any, world: Any) -> None:
    name = schedule(define())
    delete = cloud.client("sagemaker").delete_endpoint
    assert f"Monitoring Schedule(s) {name} is attached" in refused(delete, EndpointName=world.captured)


def test_the_eleventh_schedule_is_one_too_many(cloud: Any, define: Any, schedule: Any) -> None:
    client, job = cloud.client("sagemaker"), define()
    there = len(client.list_monitoring_schedules(MaxResults=100)["MonitoringScheduleSummaries"])
    for _ in range(10 - there):
        schedule(job)
    with pytest.raises(ClientError, match="Number of monitoring schedules"):
        schedule(job)


@pytest.mark.parametrize(
    "expression, hours",
    [
        (HOURLY, [11, 12, 13]),
        ("cron(0 12 ? * * *)", [12]),
        ("cron(0 1/12 ? * * *)", [13]),
        (None, []),
        ("NOW", []),
    ],
)
def test_executions_are_due(expression: str | None, hours: list[int]) -> None:
    after, until = datetime(2026, 3, 4, 10, 0, tzinfo=UTC), datetime(2026, 3, 4, 13, 59, tzinfo=UTC)
    assert [moment.hour for moment in due(expression, after, until)] == hours


def test_what_is_not_run_is_said(cloud: Any, define: Any, schedule: Any) -> None:
    """Executions come at their hours and fail by name: nothing pretends that AWS's containers ran."""
    client, name, stopped = cloud.client("sagemaker"), schedule(define()), schedule(define())
    client.stop_monitoring_schedule(MonitoringScheduleName=stopped)
    window = {"DataAnalysisStartTime": "-PT1H", "DataAnalysisEndTime": "-PT0H"}
    once = schedule(define("model_bias"), "model_bias", "NOW", **window)

    def executions(of: str, **more: Any) -> list[dict[str, Any]]:
        answer = client.list_monitoring_executions(MonitoringScheduleName=of, **more)
        return answer["MonitoringExecutionSummaries"]

    cloud.control("clock", advance_seconds=3 * 3600)
    rows = executions(name)
    assert len(rows) == 3 and {r["ScheduledTime"].minute for r in rows} == {0}
    assert {r["MonitoringExecutionStatus"] for r in rows} == {"Failed"}
    assert "does not run the containers of Model Monitor" in rows[0]["FailureReason"]
    assert rows[0]["ScheduledTime"] > rows[-1]["ScheduledTime"]
    assert executions(name, StatusEquals="Completed") == [] and executions(stopped) == []
    assert len(executions(once)) == 1
    last = client.describe_monitoring_schedule(MonitoringScheduleName=name)["LastMonitoringExecutionSummary"]
    assert last == rows[0]


# -- deploy/monitoring.yaml ----------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def parameters(cloud: Any, world: Any) -> dict[str, str]:
    """Parameters of the template, as the deploy pipeline passes them."""
    ec2, path = cloud.client("ec2"), f"/mlops/projects/{cloud.name('p')}"
    network = ec2.describe_subnets()["Subnets"][0]
    group = ec2.describe_security_groups(Filters=[{"Name": "vpc-id", "Values": [network["VpcId"]]}])
    folder, function = f"s3://{world.bucket}", f"arn:aws:lambda:us-east-1:{cloud.account}:function:traffic"
    values = {
        "ExecutionRoleArn": world.role,
        "EventsRoleArn": cloud.role("scheduler"),
        "KeyArn": cloud.client("kms").create_key()["KeyMetadata"]["Arn"],
        "TrafficFunctionArn": function,
        "SubnetIds": network["SubnetId"],
        "SecurityGroupId": group["SecurityGroups"][0]["GroupId"],
    }
    for name, value in values.items():
        cloud.client("ssm").put_parameter(Name=f"{path}/{name}", Value=value, Type="String")
    group = cloud.name("models")
    cloud.client("sagemaker").create_model_package_group(ModelPackageGroupName=group)
    containers = [{"Image": world.image, "ModelDataUrl": f"{folder}/model.tar.gz"}]
    version = cloud.client("sagemaker").create_model_package(
        ModelPackageGroupName=group,
        ModelApprovalStatus="Approved",
        InferenceSpecification={
            "Containers": containers,
            "SupportedContentTypes": ["text/csv"],
            "SupportedResponseMIMETypes": ["text/csv"],
        },
    )["ModelPackageArn"]
    return {
        **{name: f"{path}/{name}" for name in values},
        "ProjectId": "p-abcdefghijkl",
        "ProjectName": "churn",
        "CostCenter": "4711",
        "EndpointName": world.captured,
        **{f"{kind}Enabled": "true" for kind in KINDS.values()},
        "SimulatedTraffic": "true",
        "MonitorImageUri": f"{cloud.account}.dkr.ecr.us-east-1.amazonaws.com/p/preprocessing:1",
        "MonitorCodeUri": f"{folder}/code/monitor/0123456789abcdef/monitor.pyz",
        "BaselineUri": f"{folder}/pipelines/mlops-p-abcdefghijkl/abc123def456/MonitoringBaseline/baseline",
        "ModelDataUri": f"{folder}/model.tar.gz",
        "ModelPackageArn": version,
        "CaptureUri": f"{folder}/data-capture/production",
        "GroundTruthUri": f"{folder}/ground-truth/production",
        "ReportsUri": f"{folder}/monitoring",
    }


@pytest.fixture
def monitoring(cloud: Any, parameters: dict[str, str]) -> Iterator[Callable[..., dict[str, str]]]:
    """Deploy the template with some parameters changed: physical ids by logical id."""
    client, name = cloud.client("cloudformation"), f"mlops-{cloud.name('monitoring')}"

    def run(**changed: str) -> dict[str, str]:
        given = [{"ParameterKey": k, "ParameterValue": v} for k, v in {**parameters, **changed}.items()]
        call = client.update_stack if cloud.stack_status(name) else client.create_stack
        call(StackName=name, TemplateBody=TEMPLATE.read_text(encoding="utf-8"), Parameters=given)
        status = cloud.wait(
            lambda: (s := cloud.stack_status(name)) and not s.endswith("IN_PROGRESS") and s, 60, name
        )
        assert status in ("CREATE_COMPLETE", "UPDATE_COMPLETE"), cloud.stack_reasons(name)
        found = client.list_stack_resources(StackName=name)["StackResourceSummaries"]
        return {
            r["LogicalResourceId"]: r["PhysicalResourceId"]
            for r in found
            if r["ResourceStatus"] != "DELETE_COMPLETE"
        }

    yield run
    if cloud.stack_status(name):
        client.delete_stack(StackName=name)
        cloud.wait(lambda: not cloud.stack_status(name), 60, name)


def schedules_of(cloud: Any) -> dict[str, dict[str, Any]]:
    """Scheduler's schedules that run a kind of monitor: kind → the input of the job."""
    client, found = cloud.client("scheduler"), {}
    for row in client.list_schedules()["Schedules"]:
        target = client.get_schedule(Name=row["Name"])["Target"]
        if target["Arn"].endswith(":sagemaker:createProcessingJob"):
            job = json.loads(target["Input"])
            if job["ProcessingJobName"].startswith("mlops-p-abcdefghijkl-"):
                found[job["Environment"]["MONITOR_KIND"]] = job
    return found


ALARMS = {"DataQualityDrifted", "ModelQualityDrifted", "BiasDrifted", "AttributionDrifted"}


def test_both_engines_deploy_and_follow_one_another(cloud: Any, monitoring: Any) -> None:
    client = cloud.client("sagemaker")
    first = monitoring()
    assert set(schedules_of(cloud)) == set(KINDS)
    assert {k: v for k, v in first.items() if k in ALARMS}.keys() == ALARMS
    assert client.list_monitoring_schedules()["MonitoringScheduleSummaries"] == []

    second = monitoring(MonitoringEngine="managed")
    assert schedules_of(cloud) == {} and all(first[alarm] == second[alarm] for alarm in ALARMS)
    rows = client.list_monitoring_schedules()["MonitoringScheduleSummaries"]
    assert {r["MonitoringType"]: r["MonitoringScheduleName"] for r in rows} == {
        kind: f"mlops-p-abcdefghijkl-{part}"
        for kind, part in zip(KINDS.values(), ("dq", "mq", "mb", "me"), strict=True)
    }
    model = client.describe_model(ModelName="mlops-p-abcdefghijkl-abc123def456")
    assert model["EnableNetworkIsolation"] is True
    tags = client.list_tags(ResourceArn=second["DataQualityDefinition"])["Tags"]
    assert {"Key": "sagemaker:project-id", "Value": "p-abcdefghijkl"} in tags

    # a new version has another baseline: other definitions and another model, the same schedules
    baseline = "s3://bucket/pipelines/mlops-p-abcdefghijkl/zzz999zzz999/MonitoringBaseline/baseline"
    third = monitoring(MonitoringEngine="managed", BaselineUri=baseline)
    for title in KINDS.values():
        assert third[f"{title}Definition"] != second[f"{title}Definition"]
        assert third[f"{title}MonitoringSchedule"] == second[f"{title}MonitoringSchedule"]
    config = client.describe_monitoring_schedule(MonitoringScheduleName="mlops-p-abcdefghijkl-mb")
    assert config["MonitoringScheduleConfig"]["MonitoringJobDefinitionName"] in third["ModelBiasDefinition"]
    assert len(client.list_model_bias_job_definitions()["JobDefinitionSummaries"]) == 1
    assert [m["ModelName"] for m in client.list_models(NameContains="mlops-p-abcdefghijkl")["Models"]] == [
        "mlops-p-abcdefghijkl-zzz999zzz999"
    ]

    last = monitoring(ModelBiasEnabled="false", SimulatedTraffic="false")
    assert set(schedules_of(cloud)) == set(KINDS) - {"model_bias"} and "BiasDrifted" not in last
    assert client.list_monitoring_schedules()["MonitoringScheduleSummaries"] == []
    assert client.list_model_bias_job_definitions()["JobDefinitionSummaries"] == []


def test_a_managed_job_definition_says_where_and_how(cloud: Any, monitoring: Any, parameters: Any) -> None:
    client, made = (
        cloud.client("sagemaker"),
        monitoring(MonitoringEngine="managed", GroundTruthDelayMinutes="30", GroundTruthWindowMinutes="90"),
    )
    found = {
        kind: getattr(client, f"describe_{kind}_job_definition")(
            JobDefinitionName=made[f"{title}Definition"].rpartition("/")[2]
        )
        for kind, title in KINDS.items()
    }
    for kind, title in KINDS.items():
        definition = found[kind]
        (output,) = definition[f"{title}JobOutputConfig"]["MonitoringOutputs"]
        assert output["S3Output"]["S3Uri"] == f"{parameters['ReportsUri']}/{kind.replace('_', '-')}"
        assert definition["NetworkConfig"]["EnableInterContainerTrafficEncryption"] is True
        assert definition["NetworkConfig"]["VpcConfig"]["Subnets"]
        assert definition["NetworkConfig"]["EnableNetworkIsolation"] is (kind != "model_explainability")
        assert definition["JobResources"]["ClusterConfig"]["VolumeKmsKeyId"].startswith("arn:aws:kms:")
    source = found["model_bias"]["ModelBiasJobInput"]
    assert source["EndpointInput"]["StartTimeOffset"] == "-PT90M"
    assert source["EndpointInput"]["EndTimeOffset"] == "-PT30M"
    assert source["GroundTruthS3Input"]["S3Uri"] == parameters["GroundTruthUri"]
    image = found["model_bias"]["ModelBiasAppSpecification"]["ImageUri"]
    assert image == "205585389593.dkr.ecr.us-east-1.amazonaws.com/sagemaker-clarify-processing:1.0"


def test_a_regression_model_has_no_probability(cloud: Any, monitoring: Any) -> None:
    given = {"ModelBiasEnabled": "false", "ProblemType": "Regression", "MonitoringEngine": "managed"}
    name = monitoring(**given)["ModelQualityDefinition"].rpartition("/")[2]
    found = cloud.client("sagemaker").describe_model_quality_job_definition(JobDefinitionName=name)
    source = found["ModelQualityJobInput"]["EndpointInput"]
    assert source["InferenceAttribute"] == "0" and "ProbabilityAttribute" not in source


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("EndpointName", 'x", "RoleArn": "arn:aws:iam::1:role/admin', "must be the name of an endpoint"),
        ("BaselineUri", 's3://bucket/a/b/c"}, {"x": "', "must be an S3 URI"),
        ("BaselineUri", "s3://bucket/a", "four folders"),
        ("CaptureUri", 's3://bucket/a"b', "must be empty, or an S3 URI"),
        ("MonitorCodeUri", "s3://bucket/monitor.py", "monitor.pyz"),
        ("MonitorImageUri", 'image:1", "ContainerEntrypoint": ["sh"], "x": "', "must be an image"),
        (
            "ModelPackageArn",
            "arn:aws:sagemaker:us-east-1:123456789012:model/x",
            "must be the ARN of a version",
        ),
        ("ScheduleExpression", "at(2026-01-01T00:00:00)", "must be cron(...) or rate(...)"),
        ("ScheduleExpression", 'rate(1 hour)", "x": "', "must be cron(...) or rate(...)"),
        ("InstanceType", "m5.large", "must be a SageMaker processing instance type"),
        ("InstanceCount", "0", "InstanceCount"),
        ("WindowMinutes", "1", "WindowMinutes"),
        ("MonitoringEngine", "none", "MonitoringEngine"),
        ("DataQualityEnabled", "yes", "DataQualityEnabled"),
        ("ProjectId", "p-abc/../x", "must be the id of a project"),
        ("CostCenter", '4711"}, {"Key": "x', "must be the cost centre"),
    ],
)
def test_hostile_parameters_are_refused(
    cloud: Any, parameters: dict[str, str], name: str, value: str, message: str
) -> None:
    given = [{"ParameterKey": k, "ParameterValue": v} for k, v in {**parameters, name: value}.items()]
    body = TEMPLATE.read_text(encoding="utf-8")
    with pytest.raises(ClientError) as caught:
        cloud.client("cloudformation").create_stack(
            StackName=cloud.name("bad"), TemplateBody=body, Parameters=given
        )
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "changed, message",
    [({"DataQualityEnabled": "false"}, "SimulatedTraffic sends the sample")],
)
def test_rules_say_what_is_wrong(
    cloud: Any, parameters: dict[str, str], changed: dict[str, str], message: str
) -> None:
    given = [{"ParameterKey": k, "ParameterValue": v} for k, v in {**parameters, **changed}.items()]
    body = TEMPLATE.read_text(encoding="utf-8")
    with pytest.raises(ClientError, match=message):
        cloud.client("cloudformation").create_stack(
            StackName=cloud.name("bad"), TemplateBody=body, Parameters=given
        )
