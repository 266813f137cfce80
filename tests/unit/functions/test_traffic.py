"""Simulated traffic: only when there is no other, bounded, marked, and once for a scheduled time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

REGION, ACCOUNT, PROJECT = "eu-west-1", "123456789012", "p-abcdefghijkl"
BUCKET, TABLE = f"mlops-{PROJECT}-{ACCOUNT}-{REGION}", f"mlops-{PROJECT}-state"
ENDPOINT = f"mlops-{PROJECT}-production"
SAMPLE = f"mlops-{PROJECT}/1/MonitoringBaseline/baseline/data_quality/sample.csv"
NOW = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)


class Context:
    """What Lambda tells of the time that is left."""

    left = 240_000

    def get_remaining_time_in_millis(self) -> int:
        return self.left


class SageMaker:
    """An endpoint that describes itself."""

    def __init__(self, status: str | None) -> None:
        self.status = status

    def describe_endpoint(self, EndpointName: str) -> dict[str, Any]:  # noqa: N803
        if self.status is None:
            error = {"Code": "ValidationException", "Message": f'Could not find endpoint "{EndpointName}".'}
            raise ClientError({"Error": error}, "DescribeEndpoint")
        return {"EndpointStatus": self.status, "ProductionVariants": [{"VariantName": "AllTraffic"}]}


class Runtime:
    """An endpoint that notes what it is asked, and may fail at some of it."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.fails: dict[int, str] = {}

    def invoke_endpoint(self, **request: Any) -> dict[str, Any]:
        self.asked.append(request)
        if code := self.fails.get(len(self.asked)):
            raise ClientError({"Error": {"Code": code, "Message": "no"}}, "InvokeEndpoint")
        return {"Body": b"0.5"}


class World:
    def __init__(self, module: Any) -> None:
        self.module, self.context = module, Context()
        self.sagemaker, self.runtime = SageMaker("InService"), Runtime()
        self.s3 = boto3.client("s3", region_name=REGION)
        self.s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
        self.sample("1,a\n2,b\n3,c\n")
        self.cloudwatch = boto3.client("cloudwatch", region_name=REGION)
        boto3.client("dynamodb", region_name=REGION).create_table(
            TableName=TABLE,
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            BillingMode="PAY_PER_REQUEST",
        )

    def sample(self, text: str) -> None:
        self.s3.put_object(Bucket=BUCKET, Key=SAMPLE, Body=text.encode())

    def client(self, service: str) -> Any:
        stubs = {"sagemaker": self.sagemaker, "sagemaker-runtime": self.runtime}
        return stubs.get(service) or boto3.client(service, region_name=REGION)

    def run(self, hours: int = 0, **more: str) -> str:
        """What a run says that is due some hours from now."""
        due = NOW + timedelta(hours=hours)
        event = {
            "endpoint": ENDPOINT,
            "sample_uri": f"s3://{BUCKET}/{SAMPLE}",
            "scheduled_time": f"{due:%Y-%m-%dT%H:%M:%SZ}",
        }
        return self.module.handler({**event, **more}, self.context, self.client)["done"]

    def metric(self, namespace: str, name: str, value: float, at: datetime, **dimensions: str) -> None:
        named = [{"Name": key, "Value": one} for key, one in dimensions.items()]
        data = {"MetricName": name, "Value": value, "Timestamp": at, "Dimensions": named}
        self.cloudwatch.put_metric_data(Namespace=namespace, MetricData=[data])

    def invoked(self, count: float, at: datetime) -> None:
        """Requests, as SageMaker counts them: whoever sent them."""
        variant = {"EndpointName": ENDPOINT, "VariantName": "AllTraffic"}
        self.metric("AWS/SageMaker", "Invocations", count, at, **variant)


@pytest.fixture
def world(load: Callable, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    for name, value in {"PROJECT_ID": PROJECT, "BUCKET_NAME": BUCKET, "STATE_TABLE_NAME": TABLE}.items():
        monkeypatch.setenv(name, value)
    with mock_aws():
        yield World(load("traffic"))


def test_quiet_endpoint_gets_the_sample_one_row_a_request(world: World) -> None:
    assert world.run() == f"sent 3 of 3 rows to {ENDPOINT}, 3 answered"
    assert [one["Body"] for one in world.runtime.asked] == [b"1,a", b"2,b", b"3,c"]
    assert {one["ContentType"] for one in world.runtime.asked} == {"text/csv"}
    assert {one["EndpointName"] for one in world.runtime.asked} == {ENDPOINT}
    ids = [one["InferenceId"] for one in world.runtime.asked]
    assert ids == [f"simulated-{NOW:%Y-%m-%dT%H:%M:%SZ}-{number}" for number in (1, 2, 3)]
    assert max(map(len, ids)) <= 64, "the longest that InvokeEndpoint takes"


def test_traffic_of_others_is_enough(world: World) -> None:
    world.invoked(1, NOW - timedelta(minutes=59))
    assert world.run().startswith(f"not sent: {ENDPOINT} had 1 requests in the hour before")
    assert world.runtime.asked == []


@pytest.mark.parametrize("minutes", [61, 600, -1])
def test_traffic_of_another_hour_does_not_count(world: World, minutes: int) -> None:
    world.invoked(5, NOW - timedelta(minutes=minutes))
    assert world.run().startswith("sent 3")


@pytest.mark.parametrize(("others", "said"), [(0, "sent 3"), (2, "not sent")])
def test_simulated_traffic_is_no_traffic(world: World, others: int, said: str) -> None:
    """SageMaker counts what this function sent the hour before; what is more than that came from others."""
    before = NOW - timedelta(minutes=55)
    world.invoked(100 + others, before)
    world.metric("MLOps/Monitoring", "simulated_requests", 100, before, Endpoint=ENDPOINT)
    assert world.run().startswith(said)


def test_run_after_run_sends_while_nobody_else_does(world: World) -> None:
    world.run()
    world.invoked(len(world.runtime.asked), datetime.now(UTC))
    after = datetime.now(UTC) - NOW + timedelta(minutes=2)
    due = NOW + after
    assert world.run(scheduled_time=due.isoformat()).startswith("sent 3")
    world.invoked(4, datetime.now(UTC))  # three of them its own
    assert world.run(scheduled_time=(due + timedelta(seconds=1)).isoformat()).startswith("not sent")


def test_same_scheduled_time_sends_once(world: World) -> None:
    """EventBridge Scheduler delivers at least once, and Lambda tries again what it could not run."""
    world.run()
    assert "already" in world.run()
    assert len(world.runtime.asked) == 3
    assert world.run(hours=2).startswith("sent 3")


def test_schedule_that_says_no_time_is_of_its_hour(world: World) -> None:
    event = {"endpoint": ENDPOINT, "sample_uri": f"s3://{BUCKET}/{SAMPLE}"}
    said = [world.module.handler(event, world.context, world.client)["done"] for _ in range(2)]
    assert said[0].startswith("sent 3")
    assert "already" in said[1]


def test_long_sample_is_sent_in_part(world: World) -> None:
    world.sample("".join(f"{number},x\n" for number in range(5000)))
    assert world.run() == f"sent 100 of 100 rows to {ENDPOINT}, 100 answered"


def test_empty_lines_are_no_rows(world: World) -> None:
    world.sample("1,a\n\n  \n2,b")
    assert world.run().startswith("sent 2 of 2")


@pytest.mark.parametrize(
    ("status", "said"),
    [(None, "not there"), ("Creating", "Creating"), ("Updating", "Updating"), ("Failed", "Failed")],
)
def test_endpoint_that_cannot_answer_is_left_alone(world: World, status: str | None, said: str) -> None:
    world.sagemaker.status = status
    assert world.run() == f"not sent: {ENDPOINT} is {said}"
    assert world.runtime.asked == []


def test_endpoint_that_goes_while_it_is_asked_ends_the_run(world: World) -> None:
    world.runtime.fails = {2: "ValidationError"}
    assert world.run() == f"sent 2 of 3 rows to {ENDPOINT}, 1 answered"


def test_row_that_fails_does_not_keep_the_others_back(world: World) -> None:
    world.runtime.fails = {2: "ModelError"}
    assert world.run() == f"sent 3 of 3 rows to {ENDPOINT}, 2 answered"


def test_run_ends_before_lambda_ends_it(world: World) -> None:
    world.context.left = 9_000
    assert world.run() == f"sent 0 of 3 rows to {ENDPOINT}, 0 answered"


def test_what_was_sent_is_counted_also_when_the_run_breaks(world: World) -> None:
    def broken(**request: Any) -> None:
        raise ConnectionError("reset")

    world.runtime.invoke_endpoint = broken  # type: ignore[method-assign]
    with pytest.raises(ConnectionError):
        world.run()
    (found,) = world.cloudwatch.list_metrics(Namespace="MLOps/Monitoring")["Metrics"]
    assert found["MetricName"] == "simulated_requests"


@pytest.mark.parametrize(
    "wrong",
    [
        {"endpoint": "mlops-p-someoneelses-production"},
        {"endpoint": f"mlops-{PROJECT}"},
        {"sample_uri": f"s3://mlops-p-someoneelses/{SAMPLE}"},
        {"sample_uri": f"s3://{BUCKET}.evil/{SAMPLE}"},
        {"sample_uri": f"https://example.invalid/{BUCKET}"},
    ],
)
def test_only_the_projects_own_endpoint_and_sample(world: World, wrong: dict[str, str]) -> None:
    with pytest.raises(world.module.NotOfTheProject):
        world.run(**wrong)
    assert world.runtime.asked == []
