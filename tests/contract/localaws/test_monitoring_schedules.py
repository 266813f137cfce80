"""Model Monitor's job definitions and schedules, as an account that may still use it has them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
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
    yield SimpleNamespace(role=role, captured=names[0], plain=names[1])
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
