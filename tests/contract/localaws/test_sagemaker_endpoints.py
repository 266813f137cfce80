"""Models and endpoints: the container's real server behind InvokeEndpoint, safely replaced."""

from __future__ import annotations

import base64
import io
import json
import tarfile
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

SERVER = """
import json, os, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
assert sys.argv[1:] == ["serve"], sys.argv
print("model says", open("/opt/ml/model/answer").read(), flush=True)
if os.environ.get("BROKEN"):
    sys.exit("cannot load the model")
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if body.startswith("status "):
            self.send_response(int(body.split()[1])); self.end_headers(); self.wfile.write(b"as you wish"); return
        if body == "die":
            os._exit(3)
        self.send_response(200)
        self.send_header("Content-Type", self.headers.get("Accept") or "text/csv")
        self.send_header("X-Amzn-SageMaker-Custom-Attributes", self.headers.get("X-Amzn-SageMaker-Custom-Attributes", ""))
        self.end_headers()
        answer = open("/opt/ml/model/answer").read() + os.environ.get("SUFFIX", "")
        self.wfile.write("".join(answer + "\\n" for _ in body.split()).encode())
    def log_message(self, *_): pass
ThreadingHTTPServer(("127.0.0.1", int(os.environ["SAGEMAKER_BIND_TO_PORT"])), Handler).serve_forever()
"""  # noqa: E501 - one line of the program


@pytest.fixture(scope="module")
def world(cloud: Any) -> dict[str, Any]:
    """A role, a bucket with a packed model, an image with a model server."""
    bucket, out = cloud.bucket(), io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        entry = tarfile.TarInfo("answer")
        entry.size = 3
        archive.addfile(entry, io.BytesIO(b"0.5"))
    cloud.client("s3").put_object(Bucket=bucket, Key="model.tar.gz", Body=out.getvalue())
    image = cloud.image({"app/serve.py": SERVER}, ["python3", "/app/serve.py"])
    return {
        "role": cloud.role("sagemaker"),
        "bucket": bucket,
        "image": image,
        "data": f"s3://{bucket}/model.tar.gz",
    }


@pytest.fixture
def configure(cloud: Any, world: dict[str, Any]) -> Callable[..., str]:
    """Create models and an endpoint configuration of variants (name → environment); its name."""

    def run(variants: dict[str, dict[str, str]] | None = None, **more: Any) -> str:
        client, name = cloud.client("sagemaker"), cloud.name("config")
        rows = []
        for variant, environment in (variants or {"AllTraffic": {}}).items():
            container = {"Image": world["image"], "ModelDataUrl": world["data"], "Environment": environment}
            model = cloud.name("model")
            client.create_model(ModelName=model, ExecutionRoleArn=world["role"], PrimaryContainer=container)
            row = {"VariantName": variant, "ModelName": model, "InstanceType": "ml.t2.medium"}
            rows.append({**row, "InitialInstanceCount": 1, "InitialVariantWeight": 1.0})
        client.create_endpoint_config(EndpointConfigName=name, ProductionVariants=rows, **more)
        return name

    return run


def settled(cloud: Any, name: str) -> dict[str, Any]:
    """The endpoint's description when it is in no transition."""
    describe = cloud.client("sagemaker").describe_endpoint
    busy = ("Creating", "Updating", "RollingBack")
    return cloud.wait(
        lambda: (d := describe(EndpointName=name))["EndpointStatus"] not in busy and d, 60, name
    )


@pytest.fixture
def endpoint(cloud: Any, configure: Callable[..., str]) -> Any:
    """Create endpoints; they are deleted after the test."""
    made = []

    def run(config: str = "") -> str:
        name = cloud.name("endpoint")
        cloud.client("sagemaker").create_endpoint(EndpointName=name, EndpointConfigName=config or configure())
        made.append(name)
        return name

    yield run
    for name in made:
        settled(cloud, name)
        cloud.client("sagemaker").delete_endpoint(EndpointName=name)


@pytest.fixture
def invoke(cloud: Any) -> Callable[..., dict[str, Any]]:
    """Ask an endpoint."""

    def run(name: str, body: str = "1,2", **more: Any) -> dict[str, Any]:
        request = {"EndpointName": name, "Body": body, "ContentType": "text/csv", **more}
        answer = cloud.client("sagemaker-runtime").invoke_endpoint(**request)
        return {**answer, "Body": answer["Body"].read().decode()}

    return run


def test_serves_and_passes_everything_on(cloud: Any, world: Any, endpoint: Any, invoke: Any) -> None:
    heard = cloud.listen(source=["aws.sagemaker"], **{"detail-type": ["SageMaker Endpoint State Change"]})
    name = endpoint()
    described = settled(cloud, name)
    assert described["EndpointStatus"] == "InService"
    variant = described["ProductionVariants"][0]
    assert variant["CurrentInstanceCount"] == 1
    assert variant["DeployedImages"][0]["SpecifiedImage"] == world["image"]
    assert "@sha256:" in variant["DeployedImages"][0]["ResolvedImage"]
    answer = invoke(name, "1,2 3,4", Accept="text/plain", CustomAttributes="trace=7")
    assert answer["Body"] == "0.5\n0.5\n"
    assert answer["ContentType"] == "text/plain"
    assert answer["CustomAttributes"] == "trace=7"
    assert answer["InvokedProductionVariant"] == "AllTraffic"

    def states() -> list[str]:
        mine = [e["detail"] for e in heard() if e["detail"]["EndpointName"] == name]
        return [d["EndpointStatus"] for d in mine]

    assert cloud.wait(lambda: len(s := states()) >= 2 and s, 10) == ["CREATING", "IN_SERVICE"]
    logs, group = cloud.client("logs"), f"/aws/sagemaker/Endpoints/{name}"

    def lines() -> list[str]:
        try:
            stream = logs.describe_log_streams(logGroupName=group)["logStreams"][0]["logStreamName"]
        except (logs.exceptions.ResourceNotFoundException, IndexError):  # nothing was written yet
            return []
        assert stream.startswith("AllTraffic/i-")
        return [e["message"] for e in logs.get_log_events(logGroupName=group, logStreamName=stream)["events"]]

    assert "model says 0.5" in cloud.wait(lines, 5)


def test_errors_of_the_model(cloud: Any, endpoint: Any, invoke: Any) -> None:
    name = endpoint()
    settled(cloud, name)
    for status, who in ((400, "client"), (500, "server")):
        with pytest.raises(ClientError) as caught:
            invoke(name, f"status {status}")
        answer = caught.value.response
        assert answer["Error"]["Code"] == "ModelError"
        assert answer["ResponseMetadata"]["HTTPStatusCode"] == 424
        assert answer["OriginalStatusCode"] == status
        assert answer["OriginalMessage"] == "as you wish"
        assert f"Received {who} error ({status}) from primary" in answer["Error"]["Message"]
    with pytest.raises(ClientError, match="ValidationError.*not found"):
        invoke("no-such-endpoint")


def test_a_container_that_dies_comes_back(cloud: Any, endpoint: Any, invoke: Any) -> None:
    name = endpoint()
    settled(cloud, name)
    with pytest.raises(ClientError, match="ModelError"):
        invoke(name, "die")

    def works() -> bool:
        try:
            return invoke(name)["Body"] == "0.5\n"
        except ClientError:
            return False

    cloud.wait(works, 20)


def test_traffic_is_split_by_weight_and_target(
    cloud: Any, configure: Any, endpoint: Any, invoke: Any
) -> None:
    name, client = (
        endpoint(configure({"A": {"SUFFIX": "a"}, "B": {"SUFFIX": "b"}})),
        cloud.client("sagemaker"),
    )
    settled(cloud, name)
    seen = Counter(invoke(name)["InvokedProductionVariant"] for _ in range(40))
    assert set(seen) == {"A", "B"}
    assert invoke(name, TargetVariant="B")["Body"] == "0.5b\n"
    weights = [{"VariantName": "A", "DesiredWeight": 0}, {"VariantName": "B", "DesiredWeight": 1}]
    client.update_endpoint_weights_and_capacities(EndpointName=name, DesiredWeightsAndCapacities=weights)
    assert [v["CurrentWeight"] for v in settled(cloud, name)["ProductionVariants"]] == [0, 1]
    assert {invoke(name)["InvokedProductionVariant"] for _ in range(20)} == {"B"}


def test_endpoint_whose_container_fails(cloud: Any, configure: Any, endpoint: Any) -> None:
    described = settled(cloud, endpoint(configure({"AllTraffic": {"BROKEN": "1"}})))
    assert described["EndpointStatus"] == "Failed"
    message = "The primary container for production variant AllTraffic did not pass the ping health check."
    assert described["FailureReason"].startswith(message)


# -- capture, metrics ---
CAPTURE = {
    "EnableCapture": True,
    "InitialSamplingPercentage": 100,
    "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
    "CaptureContentTypeHeader": {"CsvContentTypes": ["text/csv"], "JsonContentTypes": ["application/json"]},
}


def test_data_capture(cloud: Any, world: Any, configure: Any, endpoint: Any, invoke: Any) -> None:
    place = f"s3://{world['bucket']}/capture/production"
    name = endpoint(configure(DataCaptureConfig={**CAPTURE, "DestinationS3Uri": place}))
    assert settled(cloud, name)["DataCaptureConfig"]["CaptureStatus"] == "Started"
    invoke(name, "1,2", InferenceId="row-1")
    invoke(name, '{"a":1}', ContentType="application/json", Accept="application/json")
    invoke(name, "raw", ContentType="application/x-npy", Accept="application/x-npy")
    s3 = cloud.client("s3")

    def lines() -> list[dict[str, Any]]:
        found = s3.list_objects_v2(Bucket=world["bucket"], Prefix=f"capture/production/{name}/AllTraffic/")
        keys = [o["Key"] for o in found.get("Contents", [])]
        texts = [s3.get_object(Bucket=world["bucket"], Key=k)["Body"].read().decode() for k in keys]
        return [json.loads(line) for text in texts for line in text.splitlines()]

    first, second, third = cloud.wait(
        lambda: len(found := lines()) == 3 and found, 3, "captured within seconds"
    )
    assert first["captureData"]["endpointInput"] == {
        "observedContentType": "text/csv", "mode": "INPUT", "data": "1,2", "encoding": "CSV",
    }  # fmt: skip
    assert first["captureData"]["endpointOutput"]["data"] == "0.5\n"
    assert first["eventMetadata"]["inferenceId"] == "row-1"
    assert first["eventVersion"] == "0"
    assert second["captureData"]["endpointInput"]["encoding"] == "JSON"
    assert third["captureData"]["endpointInput"]["encoding"] == "BASE64"
    assert base64.b64decode(third["captureData"]["endpointInput"]["data"]) == b"raw"


def test_capture_lies_in_the_hour_of_the_clouds_clock(
    cloud: Any, world: Any, configure: Any, endpoint: Any, invoke: Any
) -> None:
    name = endpoint(
        configure(DataCaptureConfig={**CAPTURE, "DestinationS3Uri": f"s3://{world['bucket']}/hours"})
    )
    settled(cloud, name)
    invoke(name)
    moved = cloud.control("clock", advance_seconds=3600)
    s3 = cloud.client("s3")

    def hours() -> set[str]:
        found = s3.list_objects_v2(Bucket=world["bucket"], Prefix=f"hours/{name}/AllTraffic/")
        return {o["Key"].rpartition("/")[0][-13:] for o in found.get("Contents", [])}

    assert len(hours()) == 1, "the move of the clock sends what waits"
    invoke(name)
    now = moved["now"][:13].replace("-", "/").replace("T", "/")
    assert now in cloud.wait(lambda: len(h := hours()) == 2 and h, 3)


def test_metrics(cloud: Any, endpoint: Any, invoke: Any) -> None:
    name, client = endpoint(), cloud.client("cloudwatch")
    settled(cloud, name)
    for body in ("1", "2", "status 500"):
        try:
            invoke(name, body)
        except ClientError:
            continue
    dimensions = [{"Name": "EndpointName", "Value": name}, {"Name": "VariantName", "Value": "AllTraffic"}]
    now = datetime.fromisoformat(cloud.control("clock")["now"])

    def total(metric: str) -> float:
        found = client.get_metric_statistics(
            Namespace="AWS/SageMaker", MetricName=metric, Dimensions=dimensions, Period=3600,
            Statistics=["Sum"], StartTime=now - timedelta(hours=2), EndTime=now + timedelta(hours=2),
        )["Datapoints"]  # fmt: skip
        return sum(p["Sum"] for p in found)

    cloud.wait(lambda: total("Invocations") == 3, 5)
    assert total("Invocation5XXErrors") == 1
    assert total("Invocation4XXErrors") == 0
    assert total("ModelLatency") > 0


# -- updates ---
def canary(*alarms: str, wait: int = 60) -> dict[str, Any]:
    """A deployment that first gives the new fleet a part of the traffic."""
    size = {"Type": "CAPACITY_PERCENT", "Value": 50}
    routing = {"Type": "CANARY", "CanarySize": size, "WaitIntervalInSeconds": wait}
    policy = {"TrafficRoutingConfiguration": routing, "TerminationWaitInSeconds": 0}
    rollback = {"AutoRollbackConfiguration": {"Alarms": [{"AlarmName": a} for a in alarms]}} if alarms else {}
    return {"BlueGreenUpdatePolicy": policy, **rollback}


def test_update_shifts_the_traffic_without_a_gap(
    cloud: Any, configure: Any, endpoint: Any, invoke: Any
) -> None:
    client, name = cloud.client("sagemaker"), endpoint()
    settled(cloud, name)
    config = configure({"AllTraffic": {"SUFFIX": "-new"}})
    client.update_endpoint(EndpointName=name, EndpointConfigName=config, DeploymentConfig=canary(wait=150))
    with pytest.raises(ClientError, match="Cannot update in-progress endpoint"):
        client.update_endpoint(EndpointName=name, EndpointConfigName=config)
    seen = Counter()
    while client.describe_endpoint(EndpointName=name)["EndpointStatus"] == "Updating":
        seen[invoke(name)["Body"]] += 1
        time.sleep(0.02)
    assert set(seen) == {"0.5\n", "0.5-new\n"}, "both fleets answered during the canary"
    assert settled(cloud, name)["EndpointConfigName"] == config
    assert {invoke(name)["Body"] for _ in range(10)} == {"0.5-new\n"}


def test_failed_update_keeps_the_old_fleet(cloud: Any, configure: Any, endpoint: Any, invoke: Any) -> None:
    client, name = cloud.client("sagemaker"), endpoint()
    before = settled(cloud, name)["EndpointConfigName"]
    broken = configure({"AllTraffic": {"BROKEN": "1"}})
    client.update_endpoint(EndpointName=name, EndpointConfigName=broken)
    described = settled(cloud, name)
    assert described["EndpointStatus"] == "InService"
    assert described["EndpointConfigName"] == before
    assert "did not pass the ping health check" in described["FailureReason"]
    assert invoke(name)["Body"] == "0.5\n"


def test_alarm_rolls_back(cloud: Any, configure: Any, endpoint: Any, invoke: Any) -> None:
    client, watch, name = cloud.client("sagemaker"), cloud.client("cloudwatch"), endpoint()
    settled(cloud, name)
    config, alarm = configure({"AllTraffic": {"SUFFIX": "-new"}}), cloud.name("alarm")
    with pytest.raises(ClientError, match="Could not find CloudWatch alarms"):
        client.update_endpoint(EndpointName=name, EndpointConfigName=config, DeploymentConfig=canary(alarm))
    watch.put_metric_alarm(
        AlarmName=alarm, Namespace="AWS/SageMaker", MetricName="Invocation5XXErrors", Statistic="Sum",
        Period=60, EvaluationPeriods=1, Threshold=1, ComparisonOperator="GreaterThanOrEqualToThreshold",
        TreatMissingData="notBreaching", Dimensions=[
            {"Name": "EndpointName", "Value": name}, {"Name": "VariantName", "Value": "AllTraffic"},
        ],
    )  # fmt: skip
    deployment = canary(alarm, wait=1200)
    client.update_endpoint(EndpointName=name, EndpointConfigName=config, DeploymentConfig=deployment)
    cloud.wait(lambda: "new" in invoke(name)["Body"], 20)
    with pytest.raises(ClientError, match="ModelError"):
        invoke(name, "status 500")
    described = settled(cloud, name)
    assert described["EndpointConfigName"] != config
    assert alarm in described["FailureReason"]
    assert {invoke(name)["Body"] for _ in range(10)} == {"0.5\n"}


# -- what is refused ---
def test_model_refuses_what_is_not_there(cloud: Any, world: dict[str, Any]) -> None:
    client = cloud.client("sagemaker")

    def create(role: str = world["role"], **container: str) -> None:
        given = {"Image": world["image"], **container}
        client.create_model(ModelName=cloud.name("model"), ExecutionRoleArn=role, PrimaryContainer=given)

    with pytest.raises(ClientError, match="Could not find model data"):
        create(ModelDataUrl=f"s3://{world['bucket']}/nothing.tar.gz")
    with pytest.raises(ClientError, match="Requested image .* not found"):
        create(Image=world["image"].replace(":v1", ":v2"))
    with pytest.raises(ClientError, match="Could not assume role"):
        create(role=cloud.role("lambda"))


def test_model_of_a_package_that_is_not_approved(cloud: Any, world: dict[str, Any]) -> None:
    client, group = cloud.client("sagemaker"), cloud.name("group")
    client.create_model_package_group(ModelPackageGroupName=group)
    container = {"Image": world["image"], "ModelDataUrl": world["data"]}
    types = {"SupportedContentTypes": ["text/csv"], "SupportedResponseMIMETypes": ["text/csv"]}
    package = client.create_model_package(
        ModelPackageGroupName=group,
        ModelApprovalStatus="PendingManualApproval",
        InferenceSpecification={"Containers": [container], **types},
    )["ModelPackageArn"]
    describe = client.describe_model_package
    cloud.wait(lambda: describe(ModelPackageName=package)["ModelPackageStatus"] == "Completed")
    request = {"ExecutionRoleArn": world["role"], "PrimaryContainer": {"ModelPackageName": package}}
    with pytest.raises(ClientError, match="PendingManualApproval"):
        client.create_model(ModelName=cloud.name("model"), **request)
    client.update_model_package(ModelPackageArn=package, ModelApprovalStatus="Approved")
    client.create_model(ModelName=cloud.name("model"), **request)


# -- CloudFormation ---
def resources(world: dict[str, Any], name: str, **environment: str) -> dict[str, Any]:
    """Model, configuration and endpoint; CloudFormation names all but the endpoint."""
    container = {"Image": world["image"], "ModelDataUrl": world["data"], "Environment": environment}
    variant = {
        "VariantName": "AllTraffic", "ModelName": {"Fn::GetAtt": ["Model", "ModelName"]},
        "InitialInstanceCount": 1, "InitialVariantWeight": 1, "InstanceType": "ml.t2.medium",
    }  # fmt: skip
    config = {"Fn::GetAtt": ["Config", "EndpointConfigName"]}
    made = {
        "Model": {"ExecutionRoleArn": world["role"], "PrimaryContainer": container},
        "Config": {"ProductionVariants": [variant]},
        "Endpoint": {"EndpointName": name, "EndpointConfigName": config},
    }
    types = {"Model": "Model", "Config": "EndpointConfig", "Endpoint": "Endpoint"}
    return {k: {"Type": f"AWS::SageMaker::{types[k]}", "Properties": v} for k, v in made.items()}


def test_stack_updates_the_endpoint_in_place(cloud: Any, world: dict[str, Any], invoke: Any) -> None:
    name, client = cloud.name("endpoint"), cloud.client("sagemaker")
    outputs = {"Endpoint": {"Value": {"Ref": "Endpoint"}}, "Model": {"Value": {"Ref": "Model"}}}
    outputs["Name"] = {"Value": {"Fn::GetAtt": ["Endpoint", "EndpointName"]}}
    stack = cloud.stack(resources(world, name), outputs)
    first = cloud.outputs(stack)
    assert first["Endpoint"] == client.describe_endpoint(EndpointName=name)["EndpointArn"]
    assert first["Name"] == name
    assert first["Model"].split(":")[5].startswith("model/")
    assert invoke(name)["Body"] == "0.5\n"
    cloud.stack(resources(world, name, SUFFIX="-new"), outputs, name=stack)
    assert cloud.outputs(stack)["Model"] != first["Model"], "a model is replaced"
    assert invoke(name)["Body"] == "0.5-new\n"
    with pytest.raises(AssertionError, match="did not pass the ping health check"):
        cloud.stack(resources(world, name, BROKEN="1"), outputs, name=stack)
    assert cloud.stack_status(stack) == "UPDATE_ROLLBACK_COMPLETE"
    assert invoke(name)["Body"] == "0.5-new\n"
    cloud.delete_stack(stack)
    with pytest.raises(ClientError, match="Could not find endpoint"):
        client.describe_endpoint(EndpointName=name)
    assert not [m for m in client.list_models()["Models"] if stack in m["ModelName"]]


def test_stack_whose_endpoint_fails_leaves_nothing(cloud: Any, world: dict[str, Any]) -> None:
    name, client = cloud.name("endpoint"), cloud.client("sagemaker")
    with pytest.raises(AssertionError, match="did not pass the ping health check"):
        cloud.stack(resources(world, name, BROKEN="1"))
    with pytest.raises(ClientError, match="Could not find endpoint"):
        client.describe_endpoint(EndpointName=name)
