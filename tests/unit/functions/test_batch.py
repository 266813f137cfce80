"""Batch inference: whatever kills a call, readers see each input's rows exactly once."""

from __future__ import annotations

import csv
import importlib
import io
import json
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

LAMBDA = Path(__file__).resolve().parents[3] / "mlops-cfn" / "lambda"
REGION, ACCOUNT, PROJECT = "eu-west-1", "123456789012", "p-abcdefghijkl"
BUCKET, TABLE = f"mlops-{PROJECT}-{ACCOUNT}-{REGION}", f"mlops-{PROJECT}-state"
DATABASE = PROJECT.replace("-", "_")
KEY = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/11112222-3333-4444-5555-666677778888"
VERSION = f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:model-package/mlops-{PROJECT}/7"
SETTINGS = {
    "model_name": f"mlops-{PROJECT}-production-7", "model_package_arn": VERSION,
    "features_uri": f"s3://{BUCKET}/pipelines/1/data_quality/options.json", "key_columns": "customer",
    "on_upload": "true", "instance_type": "ml.m5.large", "instance_count": 1, "strategy": "MultiRecord",
    "max_payload_mb": 6, "max_concurrent_transforms": 2, "timeout_seconds": 600,
    "tags": {"sagemaker:project-id": PROJECT},
}  # fmt: skip
UPLOAD = "batch/input/production/"


class Killed(BaseException):
    """The process is gone: nothing that it would have done after this happens."""


class SageMaker:
    """Jobs that end when the test says so; rows that begin with "bad" are refused."""

    def __init__(self, world: World) -> None:
        self.world, self.jobs = world, {}
        self.broken = False  # jobs end without any output, for a reason of their own

    def create_transform_job(self, **request: Any) -> dict[str, Any]:
        name = request["TransformJobName"]
        if name in self.jobs:
            raise ClientError({"Error": {"Code": "ResourceInUse", "Message": name}}, "CreateTransformJob")
        assert len(name) <= 63
        assert (
            request["TransformResources"]["VolumeKmsKeyId"] == request["TransformOutput"]["KmsKeyId"] == KEY
        )
        assert request["DataProcessing"] == {"InputFilter": "$[1:]", "JoinSource": "Input"}
        self.jobs[name] = {**request, "TransformJobStatus": "InProgress"}
        return {}

    def describe_transform_job(self, TransformJobName: str) -> dict[str, Any]:  # noqa: N803
        if TransformJobName not in self.jobs:
            raise ClientError(
                {"Error": {"Code": "ResourceNotFound", "Message": "none"}}, "DescribeTransformJob"
            )
        return self.jobs[TransformJobName]

    def work(self) -> list[str]:
        """Bring every job to its end; their names."""
        done = []
        for name, job in self.jobs.items():
            if job["TransformJobStatus"] != "InProgress":
                continue
            done.append(name)
            place = job["TransformInput"]["DataSource"]["S3DataSource"]["S3Uri"].split("/", 3)[3]
            out, failed = job["TransformOutput"]["S3OutputPath"].split("/", 3)[3], self.broken
            for key in self.world.keys(place) if not self.broken else ():
                rows = self.world.read(key).decode().splitlines()
                file = key.removeprefix(place)
                if bad := next((row for row in rows if row.split(",")[1] == "bad"), None):
                    answer = json.dumps({"error": f"{bad} is no row"})
                    texts = ("ClientError: 400", "", "Message:", answer)
                    self.world.log(name, [f"{BUCKET}/{key}: {text}" for text in texts])
                    failed = True
                    continue
                body = "".join(f"{row},0.5\n" for row in rows)
                self.world.s3.put_object(Bucket=BUCKET, Key=f"{out}/{file}.out", Body=body.encode())
            job["TransformJobStatus"] = "Failed" if failed else "Completed"
            job["FailureReason"] = "AlgorithmError: See job logs"
        return done


class World:
    """The project's bucket, table, topic and database, and the function's clients, which may be cut off."""

    def __init__(self, index: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.index = index
        monkeypatch.setattr(self.index.inputs, "each", lambda work, items: [work(one) for one in items])
        self.s3, self.dynamodb = boto3.client("s3"), boto3.client("dynamodb")
        self.sns, self.sqs, self.glue = boto3.client("sns"), boto3.client("sqs"), boto3.client("glue")
        self.logs, self.cloudwatch = boto3.client("logs"), boto3.client("cloudwatch")
        self.s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
        self.s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
        self.dynamodb.create_table(
            TableName=TABLE,
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        self.glue.create_database(DatabaseInput={"Name": f"mlops_{DATABASE}"})
        topic = self.sns.create_topic(Name=f"mlops-{PROJECT}")["TopicArn"]
        self.queue = self.sqs.create_queue(QueueName="owner")["QueueUrl"]
        arn = self.sqs.get_queue_attributes(QueueUrl=self.queue, AttributeNames=["QueueArn"])
        self.sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn["Attributes"]["QueueArn"])
        self.logs.create_log_group(logGroupName="/aws/sagemaker/TransformJobs")
        features = json.dumps({"features": ["age", "amount"]}).encode()
        self.s3.put_object(Bucket=BUCKET, Key="pipelines/1/data_quality/options.json", Body=features)
        for name, value in {
            "PROJECT_ID": PROJECT, "PROJECT_NAME": "churn", "BUCKET_NAME": BUCKET, "KEY_ARN": KEY,
            "STATE_TABLE_NAME": TABLE, "TOPIC_ARN": topic,
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        self.fresh()

    def fresh(self) -> World:
        """The same project as if nothing had been: making clients takes longer than a test."""
        pages = [*self.s3.get_paginator("list_object_versions").paginate(Bucket=BUCKET, Prefix="batch/")]
        for page in pages:
            for one in [*page.get("Versions", []), *page.get("DeleteMarkers", [])]:
                self.s3.delete_object(Bucket=BUCKET, Key=one["Key"], VersionId=one["VersionId"])
        for item in self.dynamodb.scan(TableName=TABLE)["Items"]:
            self.dynamodb.delete_item(TableName=TABLE, Key={"id": item["id"]})
        for table in self.glue.get_tables(DatabaseName=f"mlops_{DATABASE}")["TableList"]:
            self.glue.delete_table(DatabaseName=f"mlops_{DATABASE}", Name=table["Name"])
        self.mails()
        self.settings: dict[str, Any] | None = dict(SETTINGS)
        self.sagemaker = SageMaker(self)
        self.calls = 0
        self.last: int | None = None  # the write that is the process's last one
        self.trace: list[str] = []
        return self

    # -- what the function uses ----------------------------------------------------------------------------
    def client(self, service: str) -> Any:
        if service == "cloudformation":
            return Cuttable(self, service, self)
        return Cuttable(self, service, self.sagemaker if service == "sagemaker" else getattr(self, service))

    def describe_stacks(self, StackName: str) -> dict[str, Any]:  # noqa: N803
        if self.settings is None:
            raise ClientError(
                {"Error": {"Code": "ValidationError", "Message": "Stack does not exist"}}, "DescribeStacks"
            )
        outputs = [{"OutputKey": "Settings", "OutputValue": json.dumps(self.settings)}]
        return {"Stacks": [{"StackName": StackName, "StackStatus": "UPDATE_COMPLETE", "Outputs": outputs}]}

    def call(self, request: str = "one", **event: Any) -> str:
        """One call of the function, as an upload makes it unless an event is given."""
        event = event or {"detail": {"object": {"key": f"{UPLOAD}x.csv"}}}

        class Context:
            aws_request_id = request

        return self.index.handler(event, Context, self.client)["done"]

    def settle(self, request: str = "one") -> None:
        """Call until nothing is left to do, jobs working in between."""
        for _ in range(10):
            self.call(request)
            if not self.sagemaker.work():
                return
        raise AssertionError("it never settles")

    # -- what people do and see ----------------------------------------------------------------------------
    def upload(self, name: str, body: str | bytes, folder: str = UPLOAD) -> None:
        body = body.encode() if isinstance(body, str) else body
        self.s3.put_object(Bucket=BUCKET, Key=folder + name, Body=body)

    def keys(self, prefix: str) -> list[str]:
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return [item["Key"] for page in pages for item in page.get("Contents", [])]

    def read(self, key: str) -> bytes:
        return self.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()

    def log(self, job: str, lines: list[str]) -> None:
        stream = {"logGroupName": "/aws/sagemaker/TransformJobs", "logStreamName": f"{job}/i-1/data-log"}
        if not self.logs.describe_log_streams(
            logGroupName=stream["logGroupName"], logStreamNamePrefix=stream["logStreamName"]
        )["logStreams"]:
            self.logs.create_log_stream(**stream)
        stamp = int(datetime.now(UTC).timestamp() * 1000)
        self.logs.put_log_events(
            **stream, logEvents=[{"timestamp": stamp, "message": f"t:[sagemaker logs]: {x}"} for x in lines]
        )

    def seen(self) -> list[list[str]]:
        """The rows that readers see: those below the table's location, as its partitions have them."""
        try:
            table = self.glue.get_table(DatabaseName=f"mlops_{DATABASE}", Name="batch_production")["Table"]
        except ClientError:
            return []
        place = table["StorageDescriptor"]["Location"].split("/", 3)[3]
        found = []
        for key in self.keys(place):
            assert key.removeprefix(place).startswith("day=") and key.count("/") == place.count("/") + 1, key
            assert not key.rpartition("/")[2].startswith(("_", ".")), f"Athena does not see {key}"
            found += list(csv.reader(io.StringIO(self.read(key).decode())))
        return found

    def customers(self) -> Counter[str]:
        return Counter(row[0] for row in self.seen())

    def mails(self) -> list[dict[str, str]]:
        """The mails that came since the last look."""
        found: list[dict[str, str]] = []
        while some := self.sqs.receive_message(QueueUrl=self.queue, MaxNumberOfMessages=10).get("Messages"):
            for message in some:
                found.append(json.loads(message["Body"]))
                self.sqs.delete_message(QueueUrl=self.queue, ReceiptHandle=message["ReceiptHandle"])
        return found


class Cuttable:
    """A client of a process that may be killed at any of its calls."""

    def __init__(self, world: World, service: str, client: Any) -> None:
        self._world, self._service, self._client = world, service, client
        self.exceptions = getattr(client, "exceptions", None)

    def __getattr__(self, name: str) -> Any:
        world, inner = self._world, getattr(self._client, name)
        if name == "get_paginator":
            return inner

        def call(*args: Any, **kwargs: Any) -> Any:
            if world.last is not None and world.calls >= world.last:
                raise Killed
            answer = inner(*args, **kwargs)
            if not name.startswith(("get_", "batch_get", "describe_", "list_", "head_")):
                world.calls += 1  # what is read changes nothing: only what is written can be left half done
                world.trace.append(f"{self._service}.{name}")
            if world.last is not None and world.calls >= world.last:
                raise Killed
            return answer

        return call


@pytest.fixture(scope="module")
def one() -> Iterator[World]:
    with mock_aws(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_DEFAULT_REGION", REGION)
        for beside in LAMBDA.glob("batch/*.py"):  # Lambda has a function's own folder on the path
            patch.delitem(sys.modules, beside.stem, raising=False)
        patch.syspath_prepend(LAMBDA / "batch")
        yield World(importlib.import_module("index"), patch)
        for beside in LAMBDA.glob("batch/*.py"):
            sys.modules.pop(beside.stem, None)


@pytest.fixture
def world(one: World, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    return one.fresh()


def test_each_row_is_seen_once(world: World) -> None:
    world.upload("a.csv", "c1,30,5\nc2,31,6\n")
    world.upload("deep/b.csv", "customer,age,amount\nc3,32,7\n")
    assert world.seen() == []
    world.settle()
    assert sorted(world.seen()) == [
        ["c1", "30", "5", "0.5"],
        ["c2", "31", "6", "0.5"],
        ["c3", "32", "7", "0.5"],
    ]
    assert len(world.sagemaker.jobs) == 1
    columns = world.glue.get_table(DatabaseName=f"mlops_{DATABASE}", Name="batch_production")["Table"]
    assert [(c["Name"], c["Type"]) for c in columns["StorageDescriptor"]["Columns"]] == [
        ("customer", "string"), ("age", "string"), ("amount", "string"), ("prediction", "double"),
    ]  # fmt: skip


def test_events_schedules_and_retries_score_nothing_twice(world: World) -> None:
    world.upload("a.csv", "c1,30,5\n")
    for number in range(5):
        world.call(f"event-{number}")
    world.call("schedule", stage="production")
    (job,) = world.sagemaker.work()
    for number in range(3):
        world.call(f"ended-{number}", detail={"TransformJobName": job})
    assert world.customers() == {"c1": 1}
    assert len(world.sagemaker.jobs) == 1


def test_a_new_version_replaces_its_result(world: World) -> None:
    world.upload("a.csv", "c1,30,5\nc2,31,6\n")
    world.settle()
    world.upload("a.csv", "c2,99,6\n")
    world.call()
    assert sorted(row[:2] for row in world.seen()) == [["c1", "30"], ["c2", "31"]], "the old one until then"
    world.settle()
    assert [row[:2] for row in world.seen()] == [["c2", "99"]]
    world.upload("a.csv", "")
    world.settle()
    assert world.seen() == [] and len(world.sagemaker.jobs) == 2, "an empty file needs no job"


def test_a_version_that_comes_during_the_job_waits_for_its_own(world: World) -> None:
    world.upload("a.csv", "c1,30,5\n")
    world.call()
    world.upload("a.csv", "c1,77,5\n")
    world.call("two")
    world.sagemaker.work()
    world.call("three")
    assert [row[:2] for row in world.seen()] == [["c1", "30"]], (
        "what the job was given, not what is there now"
    )
    world.settle()
    assert [row[:2] for row in world.seen()] == [["c1", "77"]]


def test_a_refused_row_sets_its_file_aside_and_no_other(world: World) -> None:
    world.upload("good.csv", "c1,30,5\n")
    world.upload("bad.csv", "c2,30,5\nc3,bad,6\n")
    world.settle()
    assert world.customers() == {"c1": 1}
    record = json.loads(world.read("batch/quarantine/production/bad.csv.json"))
    assert record["reason"] == "the model refused a row: c3,bad,6 is no row"
    (mail,) = world.mails()
    assert mail["Subject"] == "Project churn: 1 inputs not scored in production"
    assert "bad.csv: the model refused a row: c3,bad,6" in mail["Message"]
    world.settle()
    assert len(world.sagemaker.jobs) == 1 and world.mails() == [], "the same version is not tried again"
    world.upload("bad.csv", "c2,30,5\nc3,31,6\n")
    world.settle()
    assert world.customers() == {"c1": 1, "c2": 1, "c3": 1}
    assert world.keys("batch/quarantine/") == []


def test_a_job_that_breaks_is_tried_three_times(world: World) -> None:
    world.sagemaker.broken = True
    world.upload("a.csv", "c1,30,5\n")
    world.settle()
    assert len(world.sagemaker.jobs) == 3 and world.seen() == []
    assert (
        "3 jobs gave no result" in json.loads(world.read("batch/quarantine/production/a.csv.json"))["reason"]
    )
    world.sagemaker.broken = False
    world.upload("a.csv", "c1,30,5\n")
    world.settle()
    assert world.customers() == {"c1": 1}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"amount,age,customer\n1,2,3\n", "its header is amount, age, customer; expected: customer"),
        (b"1,2\n", "its first line has 2 values; expected 3: customer, age, amount"),
        (b"\x1f\x8b\x08\x00zip", "it is not a text in UTF-8: CSV is expected, not compressed"),
        ("c,1,2\n".encode("utf-16"), "it is not a text in UTF-8: CSV is expected, not compressed"),
        (b'"c1,30,5\n', "its first line is not CSV: unexpected end of data"),
        (b"c" * 300_000, "its first line is longer than 262,144 bytes"),
    ],
)  # fmt: skip
def test_what_is_no_input_is_told_before_any_job(world: World, body: bytes, reason: str) -> None:
    world.upload("x.csv", body)
    world.settle()
    assert world.sagemaker.jobs == {}
    assert json.loads(world.read("batch/quarantine/production/x.csv.json"))["reason"].startswith(reason)


@pytest.mark.parametrize("head", [b"\xef\xbb\xbf", b"\xef\xbb\xbfcustomer,age,amount\r\n", b""])
def test_marks_and_headers_do_not_reach_the_model(world: World, head: bytes) -> None:
    world.upload("x.csv", head + b"c1,30,5\r\nc2,31,6\r\n")
    world.settle()
    assert world.customers() == {"c1": 1, "c2": 1}


def test_hostile_names(world: World) -> None:
    names = ["a b.csv", "ä/ö?.csv", "../../output/production/x.csv", "'; drop table--.csv", "_hidden.csv",
             ".dot", "%41.csv", "A.csv", "a/b.csv", "a%2Fb.csv", "x" * 950 + "1", "x" * 950 + "2", "=1+1.csv",
             "q=\"'&<>.csv", "day=2020-01-01/x.csv"]  # fmt: skip
    for number, name in enumerate(names):
        world.upload(name, f"c{number},1,2\n")
    world.settle()
    assert world.customers() == {f"c{number}": 1 for number in range(len(names))}
    assert all(key.startswith("batch/output/production/") for key in world.keys("batch/output/"))


def test_nothing_to_do(world: World) -> None:
    world.settings = None
    assert world.call() == "production: no model is deployed"
    world.settings = dict(SETTINGS)
    world.upload("folder/", "")
    world.settle()
    assert world.sagemaker.jobs == {} and world.keys("batch/output") == []


def test_uploads_may_wait_for_the_schedule(world: World) -> None:
    world.settings["on_upload"] = "false"
    world.upload("a.csv", "c1,30,5\n")
    world.settle()
    assert world.sagemaker.jobs == {}
    world.upload("smoke-test/t.csv", "t1,30,5\n")
    world.settle()
    assert len(world.sagemaker.jobs) == 1 and world.seen() == []
    world.call("schedule", stage="production")
    world.settle()
    assert world.customers() == {"c1": 1}


def test_rows_of_tests_are_no_readers(world: World) -> None:
    world.upload("smoke-test/7.csv", "t1,30,5\n")
    world.settle()
    assert world.seen() == []
    assert world.read("batch/tests/production/smoke-test%2F7.csv.out") == b"t1,30,5,0.5\n"


def test_a_release_while_a_job_runs(world: World) -> None:
    """What runs ends with its version; what comes next has the one that is deployed, be it an older one."""
    world.upload("a.csv", "c1,30,5\n")
    world.call()
    world.settings |= {"model_name": f"mlops-{PROJECT}-production-6", "model_package_arn": VERSION[:-1] + "6"}
    world.upload("b.csv", "c2,30,5\n")
    world.settle()
    assert world.customers() == {"c1": 1, "c2": 1}
    models = [job["ModelName"] for job in world.sagemaker.jobs.values()]
    assert models == [SETTINGS["model_name"], f"mlops-{PROJECT}-production-6"]
    about = [world.s3.head_object(Bucket=BUCKET, Key=key)["Metadata"] for key in world.keys("batch/output/")]
    assert sorted(one["model"][-2:] for one in about) == ["/6", "/7"]


def test_other_columns_are_another_table(world: World) -> None:
    world.upload("a.csv", "c1,30,5\n")
    world.settle()
    world.settings["key_columns"] = "customer,branch"
    world.sagemaker.create_transform_job = lambda **request: pytest.fail("nothing is new")
    world.call()
    assert world.seen() == [], "rows of other columns are not read as if they had these"


def test_more_files_than_a_job_takes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world.index, "AT_ONCE", 20)
    for number in range(41):
        world.upload(f"{number:04}.csv", f"c{number},1,2\n")
    world.settle()
    assert len(world.customers()) == 41 and set(world.customers().values()) == {1}
    assert len(world.sagemaker.jobs) == 3


def test_two_calls_at_a_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that comes meanwhile does nothing, and what it came for is not lost."""
    world.upload("a.csv", "c1,30,5\n")
    list_inputs, said = world.index.inputs.listing, []

    def meanwhile(*args: Any) -> Any:
        found = list(list_inputs(*args))
        if not said:
            world.upload("b.csv", "c2,1,2\n")
            said.append(world.call("two"))
        return iter(found)

    monkeypatch.setattr(world.index.inputs, "listing", meanwhile)
    world.settle()
    assert said == ["production: another call is at work and looks again at its end"]
    assert world.customers() == {"c1": 1, "c2": 1}


def test_a_killed_holder_of_the_lock_is_waited_out(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.upload("a.csv", "c1,30,5\n")
    world.last = 3
    with pytest.raises(Killed):
        world.call("killed")
    world.last = None
    assert "another call" in world.call("other")
    clock = world.index.time.time
    monkeypatch.setattr(world.index.time, "time", lambda: clock() + world.index.LEASE_SECONDS + 1)
    world.settle("other")
    assert world.customers() == {"c1": 1}


# -- killed at every step ------------------------------------------------------------------------------------
V1 = {"a.csv": "c1,30,5\nc2,31,6\n", "b.csv": "customer,age,amount\nc3,32,7\n", "bad.csv": "c4,bad,1\n"}
V2 = {"a.csv": "c1,40,5\nc2,41,6\nc5,42,6\n"}
ROWS = Counter(("c1 40", "c2 41", "c5 42", "c3 32"))


def story(world: World) -> Iterator[None]:
    """Uploads, a job, its publication, a new version, its job: each call of the function is a step."""
    for name, body in V1.items():
        world.upload(name, body)
    yield
    world.sagemaker.work()
    yield
    for name, body in V2.items():
        world.upload(name, body)
    yield
    world.sagemaker.work()
    yield


def whole(rows: list[list[str]]) -> bool:
    """Whether readers see whole versions: all rows of one, or all of the other, or none."""
    seen = Counter(f"{row[0]} {row[1]}" for row in rows)
    old, new = Counter(("c1 30", "c2 31")), Counter(("c1 40", "c2 41", "c5 42"))
    rest = Counter({k: n for k, n in seen.items() if k != "c3 32"})
    return rest in (Counter(), old, new) and seen["c3 32"] <= 1


def test_killed_at_any_call_readers_see_each_row_once(world: World) -> None:
    last, killed = -1, True
    while killed:
        last, killed = last + 1, False
        retried = last % 2  # by Lambda, as the same call; else another call comes
        world.fresh()
        world.last = last
        for number, _ in enumerate(story(world)):
            try:
                world.call(f"call-{number}")
            except Killed:
                killed = True
                assert whole(world.seen()), world.trace
                world.last = None
                if not retried:  # the lease of the dead runs out
                    world.dynamodb.update_item(
                        TableName=TABLE,
                        Key={"id": {"S": "batch#production"}},
                        UpdateExpression="SET locked_until = :past",
                        ExpressionAttributeValues={":past": {"N": "1"}},
                    )
                world.call(f"call-{number}" if retried else "another")
            assert whole(world.seen()), world.trace
        world.last = None
        world.settle("last")
        found = Counter(f"{row[0]} {row[1]}" for row in world.seen())
        assert found == ROWS, (last, world.trace[:last][-3:], found)
        assert len(world.keys("batch/quarantine/")) == 1
        assert any("bad.csv" in mail["Message"] for mail in world.mails()), "the owner was told"
    assert last > 30, "the story is shorter than it was: the test would say less"
