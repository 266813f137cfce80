"""The owner is told of what matters, once, in words; what traffic wrote into a report stays a quotation."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

REGION, ACCOUNT, PROJECT = "eu-west-1", "123456789012", "p-abcdefghijkl"
BUCKET, TABLE = f"mlops-{PROJECT}-{ACCOUNT}-{REGION}", f"mlops-{PROJECT}-state"
TOPIC = f"arn:aws:sns:{REGION}:{ACCOUNT}:mlops-{PROJECT}"
ENDPOINT = f"mlops-{PROJECT}-production"
PACKAGE = f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:model-package/mlops-{PROJECT}/3"
ALARM = f"mlops-{PROJECT}-monitoring-DataQualityDrifted-1A2B3C"
NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)


class Context:
    """What Lambda tells of the time that is left."""

    def get_remaining_time_in_millis(self) -> int:
        return 240_000


class NoStacks:
    """CloudFormation of an account in which nothing is deployed."""

    def describe_stacks(self, StackName: str) -> None:  # noqa: N803
        error = {"Code": "ValidationError", "Message": f"Stack with id {StackName} does not exist"}
        raise ClientError({"Error": error}, "DescribeStacks")


class World:
    """The services that the function asks: moto's, and stubs for what moto has not."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module
        self.slept: list[float] = []
        self.meanwhile: Callable[[], None] = lambda: None
        self.stubs: dict[str, Any] = {"cloudformation": NoStacks()}
        self.s3 = boto3.client("s3", region_name=REGION)
        self.s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
        self.dynamodb = boto3.client("dynamodb", region_name=REGION)
        self.dynamodb.create_table(
            TableName=TABLE,
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            BillingMode="PAY_PER_REQUEST",
        )
        self.sns = boto3.client("sns", region_name=REGION)
        topic = self.sns.create_topic(Name=f"mlops-{PROJECT}")["TopicArn"]
        self.sqs = boto3.client("sqs", region_name=REGION)
        self.queue = self.sqs.create_queue(QueueName="mails")["QueueUrl"]
        arn = self.sqs.get_queue_attributes(QueueUrl=self.queue, AttributeNames=["QueueArn"])["Attributes"]
        self.sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn["QueueArn"])

    def client(self, service: str) -> Any:
        return self.stubs.get(service) or boto3.client(service, region_name=REGION)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.meanwhile()

    def tell(self, event: dict[str, Any]) -> str:
        return self.module.handler(event, Context(), self.client)["done"]

    def mails(self) -> list[tuple[str, str]]:
        """Subject and text of what was sent since the last look."""
        found = []
        while got := self.sqs.receive_message(QueueUrl=self.queue, MaxNumberOfMessages=10).get("Messages"):
            for one in got:
                body = json.loads(one["Body"])
                found.append((body["Subject"], body["Message"]))
                self.sqs.delete_message(QueueUrl=self.queue, ReceiptHandle=one["ReceiptHandle"])
        return found

    def put(self, key: str, content: Any) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.s3.put_object(Bucket=BUCKET, Key=key, Body=body)

    def report(self, hour: datetime, violated: list[dict[str, Any]], **more: Any) -> str:
        """A report of the processing engine; its folder."""
        folder = f"monitoring/data-quality/{hour:%Y/%m/%d/%H}"
        summary = {
            "run_id": "r",
            "endpoint": ENDPOINT,
            "kind": "data_quality",
            "scheduled": hour.isoformat(),
            "window_start": (hour - timedelta(hours=1)).isoformat(),
            "window_end": hour.isoformat(),
            "records": 400,
            "excluded": 0,
            "unreadable": 0,
            "violations": len(violated),
            "status": "violations" if violated else "clean",
            "model_package_arn": PACKAGE,
            "measures": [
                {"subject": "amount", "name": "feature_baseline_drift", "value": 0.01, "violated": False},
                *({"violated": True, **one} for one in violated),
            ],
        }
        self.put(f"{folder}/summary.json", {**summary, **more})
        self.put(f"{folder}/constraint_violations.json", {"violations": []})
        self.put(f"{folder}/report.html", b"<html>")
        return folder


AGE = {
    "subject": "age",
    "name": "feature_baseline_drift",
    "value": 0.4213,
    "baseline": 0.03,
    "threshold": 0.1,
}


@pytest.fixture
def world(load: Callable, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    for name, value in {
        "PROJECT_ID": PROJECT,
        "PROJECT_NAME": "churn",
        "BUCKET_NAME": BUCKET,
        "TOPIC_ARN": TOPIC,
        "STATE_TABLE_NAME": TABLE,
    }.items():
        monkeypatch.setenv(name, value)
    with mock_aws():
        made = World(load("notifier"))
        project = made.module.Project
        monkeypatch.setattr(made.module, "Project", lambda **named: project(**named, sleep=made.sleep))
        yield made


def event(source: str, detail_type: str, detail: dict[str, Any], number: int = 1) -> dict[str, Any]:
    return {
        "version": "0",
        "id": f"event-{number}",
        "source": f"aws.{source}",
        "detail-type": detail_type,
        "account": ACCOUNT,
        "region": REGION,
        "time": "2026-07-01T12:10:00Z",
        "detail": detail,
    }


def alarm(at: datetime = NOON + timedelta(minutes=9), kind: str = "data_quality") -> dict[str, Any]:
    """See docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/cloudwatch-and-eventbridge.html."""
    metric = {
        "namespace": "MLOps/Monitoring",
        "name": "constraint_violations",
        "dimensions": {"Endpoint": ENDPOINT, "MonitorType": kind},
    }
    stat = {"metric": metric, "period": 3600, "stat": "Maximum"}
    return event(
        "cloudwatch",
        "CloudWatch Alarm State Change",
        {
            "alarmName": ALARM,
            "configuration": {"metrics": [{"id": "m", "metricStat": stat, "returnData": True}]},
            "state": {
                "value": "ALARM",
                "reason": "Threshold Crossed: 1 datapoint (1.0) was greater than the threshold (1.0).",
                "timestamp": f"{at:%Y-%m-%dT%H:%M:%S}.000+0000",
            },
            "previousState": {"value": "OK"},
        },
    )


# ---- drift ------------------------------------------------------------------------------------------------
def test_drift_names_feature_distance_threshold_and_since_when(world: World) -> None:
    world.report(NOON - timedelta(hours=3), [])
    world.report(NOON - timedelta(hours=2), [AGE])
    world.report(NOON - timedelta(hours=1), [], status="not_judged", records=4)
    worst = {"worst_subject": "age", "worst_name": "feature_baseline_drift"}
    other = {"subject": "amount", "name": "completeness"}
    folder = world.report(NOON, [other, AGE], excluded=7, **worst)
    assert world.tell(alarm()) == "told"
    ((subject, text),) = world.mails()
    assert subject == '[churn] Drift in production: data quality "age" 0.4213 (baseline 0.03, threshold 0.1)'
    assert '  "age" feature_baseline_drift: 0.4213 (baseline 0.03, threshold 0.1)\n  "amount" compl' in text
    assert (
        "Since: 2026-07-01 10:00 UTC, 2 reports with findings in a row; the report of 2026-07-01 09:0" in text
    )
    assert "Records: 400, 2026-07-01 11:00 UTC to 2026-07-01 12:00 UTC (7 left out)" in text
    assert f"Model version: 3 ({PACKAGE})" in text
    assert (
        f"https://{REGION}.console.aws.amazon.com/s3/object/{BUCKET}?region={REGION}&prefix={folder}/report.html"
        in text
    )
    assert f"s3://{BUCKET}/{folder}/report.html" in text
    assert ALARM in text
    assert f"mlops-{PROJECT}-retraining trains a new version" in text
    assert not world.slept


def test_same_event_twice_is_one_mail_and_a_new_alarm_another(world: World) -> None:
    world.report(NOON, [AGE])
    assert [world.tell(alarm()) for _ in range(3)] == ["told", "told already", "told already"]
    assert len(world.mails()) == 1
    assert world.tell(alarm(NOON + timedelta(hours=1))) == "told"
    assert len(world.mails()) == 1


def test_mark_expires(world: World) -> None:
    world.report(NOON, [AGE])
    world.tell(alarm())
    (item,) = world.dynamodb.scan(TableName=TABLE)["Items"]
    assert item["id"]["S"].startswith(f"notice#drift#{ALARM}#2026-07-01T12:09")
    left = int(item["expires"]["N"]) - datetime.now(UTC).timestamp()
    assert 7 * 86400 < left < 100 * 86400


def test_what_could_not_be_told_is_told_by_the_next_attempt(world: World) -> None:
    world.report(NOON, [AGE])
    (topic,) = (one["TopicArn"] for one in world.sns.list_topics()["Topics"])
    world.sns.delete_topic(TopicArn=topic)
    with pytest.raises(world.sns.exceptions.NotFoundException):
        world.tell(alarm())
    assert not world.dynamodb.scan(TableName=TABLE)["Items"]
    world.sns.create_topic(Name=f"mlops-{PROJECT}")
    assert world.tell(alarm()) == "told"


def test_attempt_that_died_does_not_silence_the_next(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of time or memory, nothing is taken back: the mark says how long its attempt can live."""
    world.report(NOON, [AGE])
    clock = [1_782_900_000.0]
    monkeypatch.setattr(world.module.time, "time", lambda: clock[0])
    marks = world.module.Marks(world.dynamodb, TABLE, 240)
    key = world.module.key_of(alarm())
    assert marks.begin(f"notice#{key[0]}#{key[1]}")
    assert world.tell(alarm()) == "told already"  # while the other may be telling it
    clock[0] += 250
    assert world.tell(alarm()) == "told"
    assert world.tell(alarm()) == "told already"


def test_row_without_a_clean_report_says_so(world: World) -> None:
    for hours in range(4):
        world.report(NOON - timedelta(hours=hours), [AGE])
    world.tell(alarm())
    ((_, text),) = world.mails()
    assert "Since: 2026-07-01 09:00 UTC, 4 reports with findings in a row; no clean report before it" in text


def test_subject_names_the_measure_of_the_whole_model(world: World) -> None:
    ranking = {"subject": "model", "name": "ndcg", "value": 0.8378, "baseline": 1, "threshold": 0.9}
    world.report(NOON, [ranking])
    world.tell(alarm())
    ((subject, text),) = world.mails()
    assert subject == "[churn] Drift in production: data quality ndcg 0.8378 (baseline 1, threshold 0.9)"
    assert '  "model" ndcg: 0.8378' in text


def test_months_and_years_are_walked_back(world: World) -> None:
    newyear = datetime(2027, 1, 1, tzinfo=UTC)
    for hour, found in (
        (newyear, [AGE]),
        (newyear - timedelta(hours=1), [AGE]),
        (newyear - timedelta(hours=2), []),
    ):
        world.report(hour, found)
    world.tell(alarm(newyear + timedelta(minutes=5)))
    ((_, text),) = world.mails()
    assert "Since: 2026-12-31 23:00 UTC, 2 reports" in text


def test_late_report_is_waited_for(world: World) -> None:
    """A job puts its metric before SageMaker uploads its report; the report before it is another hour's."""
    world.report(NOON - timedelta(hours=1), [])

    def upload() -> None:
        if len(world.slept) == 2:
            world.report(NOON, [AGE])

    world.meanwhile = upload
    world.tell(alarm())
    ((_, text),) = world.mails()
    assert '"age" feature_baseline_drift: 0.4213' in text
    assert len(world.slept) == 2


REPORTS_THAT_TELL_NOTHING = {
    "none": None,
    "old": {"violations": 1, "status": "violations", "measures": [AGE], "hours ago": 4},
    "no JSON": b"{",
    "not UTF-8": b"\xff\xfe{}",
    "a list": b"[]",
    "nested to break the reader": b"[" * 200_000,
    "measures that are none": {"violations": 1, "measures": "all"},
    "huge": b'{"measures": "' + b"x" * 6_000_000 + b'"}',
}


@pytest.mark.parametrize("case", REPORTS_THAT_TELL_NOTHING)
def test_without_a_report_the_alarm_speaks_for_itself(world: World, case: str) -> None:
    content = REPORTS_THAT_TELL_NOTHING[case]
    if content is not None:
        hour = NOON - timedelta(hours=content.pop("hours ago", 0) if isinstance(content, dict) else 0)
        world.put(f"monitoring/data-quality/{hour:%Y/%m/%d/%H}/summary.json", content)
    assert world.tell(alarm()) == "told"
    ((subject, text),) = world.mails()
    assert subject == "[churn] Drift in production: data quality"
    assert "Threshold Crossed: 1 datapoint" in text
    assert ("could not be read" in text) == (case not in ("none", "old"))


def test_alarm_that_names_no_monitor_is_told(world: World) -> None:
    assert world.tell(alarm(kind="weather")) == "told"
    assert len(world.mails()) == 1


HOSTILE = "age\r\nSubject: win\x1b[31m\u202e \u00e9\u4e2d http://evil.example/?" + "A" * 5000


def test_hostile_report_is_quoted_and_cut(world: World) -> None:
    """Categories, features and details of a report may be what a caller of the endpoint sent."""
    ugly = {
        "subject": HOSTILE,
        "name": HOSTILE,
        "value": float("nan"),
        "threshold": 10**400,
        "detail": HOSTILE,
    }
    folder = world.report(NOON, [ugly] * 50, model_package_arn=HOSTILE, window_start=HOSTILE, records=1e999)
    raw = world.s3.get_object(Bucket=BUCKET, Key=f"{folder}/summary.json")["Body"].read()
    assert b"NaN" in raw
    assert world.tell(alarm()) == "told"
    ((subject, text),) = world.mails()
    assert len(subject) <= 100
    assert re.fullmatch(r"\[churn\] Drift in production: [ -~]*", subject)
    assert re.fullmatch(r"[\n -~]*", text), "no control character, nothing but ASCII"
    assert "\nSubject" not in text
    assert "http://evil" not in text
    assert "and 40 more" in text
    assert len(text) < 20_000
    assert "Model version: unknown" in text


def test_many_findings_are_listed_in_part(world: World) -> None:
    world.report(NOON, [{**AGE, "subject": f"f{n}"} for n in range(14)])
    world.tell(alarm())
    ((_, text),) = world.mails()
    assert "What drifted (14 found):" in text
    assert "and 4 more, which the report lists" in text


# ---- Model Monitor ----------------------------------------------------------------------------------------
MANAGED = f"monitoring/{{}}/{ENDPOINT}/mlops-{PROJECT}-schedule/2026/07/01/12"
# https://docs.aws.amazon.com/sagemaker/latest/dg/model-monitor-interpreting-violations.html, and of each kind
VIOLATIONS: dict[str, tuple[str, dict[str, Any], str]] = {
    "data_quality": (
        "data-quality",
        {
            "feature_name": "Capital_Loss",
            "constraint_check_type": "baseline_drift_check",
            "description": "Baseline drift distance: 0.48 exceeds threshold: 0.2",
        },
        '"Capital_Loss" baseline_drift_check: "Baseline drift distance: 0.48 exceeds threshold: 0.2"',
    ),
    "model_quality": (
        "model-quality",
        {
            "constraint_check_type": "LessThanThreshold",
            "description": "Metric f2 with 0.5 was LessThanThreshold '0.8'",
            "metric_name": "f2",
        },
        '"f2" LessThanThreshold: "Metric f2 with 0.5',
    ),
    "model_bias": (
        "model-bias",
        {
            "facet": "Age",
            "facet_value": "40",
            "metric_name": "CI",
            "constraint_check_type": "bias_drift_check",
            "description": "Value 0.0374 does not meet the constraint requirement",
        },
        '"Age=40" CI: "Value 0.0374 does not meet',
    ),
    "model_explainability": (
        "model-explainability",
        {
            "label": "label0",
            "metric_name": "shap",
            "constraint_check_type": "feature_attribution_drift_check",
            "description": "Feature attribution drift 0.77 exceeds threshold 0.9",
        },
        '"label0" shap: "Feature attribution drift 0.77',
    ),
}


@pytest.mark.parametrize("kind", VIOLATIONS)
def test_report_of_model_monitor_is_told(world: World, kind: str) -> None:
    folder, violation, line = VIOLATIONS[kind]
    world.put(f"{MANAGED.format(folder)}/constraint_violations.json", {"violations": [violation]})
    world.put(f"{MANAGED.format(folder)}/statistics.json", {"dataset": {"item_count": 321}})
    before = MANAGED.format(folder).replace("/12", "/11")
    world.put(f"{before}/constraint_violations.json", {"violations": []})
    world.tell(alarm(kind=kind))
    ((subject, text),) = world.mails()
    assert line in text
    assert "Records: 321" in text
    assert "the report of 2026-07-01 11:00 UTC was clean" in text
    assert f"s3://{BUCKET}/{MANAGED.format(folder)}/constraint_violations.json" in text
    assert world.module.__doc__
    assert subject.startswith("[churn] Drift in production: ")


def created(key: str, bucket: str = BUCKET) -> dict[str, Any]:
    return event("s3", "Object Created", {"bucket": {"name": bucket}, "object": {"key": key}})


def metrics(world: World) -> list[tuple[str, str, float]]:
    cloudwatch = boto3.client("cloudwatch", region_name=REGION)
    found = []
    for one in cloudwatch.list_metrics(Namespace="MLOps/Monitoring")["Metrics"]:
        series = cloudwatch.get_metric_statistics(
            Namespace="MLOps/Monitoring",
            MetricName=one["MetricName"],
            Dimensions=one["Dimensions"],
            StartTime=datetime.now(UTC) - timedelta(hours=1),
            EndTime=datetime.now(UTC) + timedelta(hours=1),
            Period=3600,
            Statistics=["Maximum"],
        )["Datapoints"]
        named = {d["Name"]: d["Value"] for d in one["Dimensions"]}
        found += [(named["Endpoint"], named["MonitorType"], point["Maximum"]) for point in series]
    return found


@pytest.mark.parametrize("kind", VIOLATIONS)
def test_report_of_model_monitor_becomes_the_metric_of_its_alarm(world: World, kind: str) -> None:
    folder, violation, _ = VIOLATIONS[kind]
    key = f"{MANAGED.format(folder)}/constraint_violations.json"
    world.put(key, {"violations": [violation, violation]})
    assert world.tell(created(key)) == "metric put"
    assert metrics(world) == [(ENDPOINT, kind, 2.0)]
    assert not world.mails(), "the alarm tells, not the report"


def test_clean_report_of_model_monitor_is_a_zero(world: World) -> None:
    key = f"{MANAGED.format('data-quality')}/constraint_violations.json"
    world.put(key, {"violations": []})
    world.tell(created(key))
    assert metrics(world) == [(ENDPOINT, "data_quality", 0.0)]


def test_metric_of_the_projects_own_job_is_not_put_again(world: World) -> None:
    folder = world.report(NOON, [AGE])
    assert world.tell(created(f"{folder}/constraint_violations.json")) == "the job put it"
    assert metrics(world) == []


@pytest.mark.parametrize(
    "key",
    ["monitoring/weather/2026/07/01/12/constraint_violations.json", "monitoring/constraint_violations.json"],
)
def test_other_objects_are_no_reports(world: World, key: str) -> None:
    assert world.tell(created(key)) == "no report"
    assert metrics(world) == []


def test_other_buckets_have_no_reports(world: World) -> None:
    assert (
        world.tell(created(f"{MANAGED.format('data-quality')}/constraint_violations.json", "x"))
        == "no report"
    )


# ---- pipelines --------------------------------------------------------------------------------------------
EXECUTION = "11112222-3333-4444-5555-666677778888"


def execution(pipeline: str = "build", attempt: float = 1.0) -> dict[str, Any]:
    return event(
        "codepipeline",
        "CodePipeline Pipeline Execution State Change",
        {
            "pipeline": f"mlops-{PROJECT}-{pipeline}",
            "execution-id": EXECUTION,
            "state": "FAILED",
            "version": 1.0,
            "pipeline-execution-attempt": attempt,
        },
    )


def actions(world: World, stub: Callable, pipeline: str, *details: dict[str, Any]) -> None:
    found = stub("codepipeline")
    found.expect(
        "list_action_executions",
        {"actionExecutionDetails": list(details)},
        pipelineName=f"mlops-{PROJECT}-{pipeline}",
        filter={"pipelineExecutionId": EXECUTION},
    )
    world.stubs["codepipeline"] = found.client


def action(
    stage: str, name: str, status: str, provider: str = "CodeBuild", category: str = "Build", **result: Any
) -> dict[str, Any]:
    return {
        "pipelineExecutionId": EXECUTION,
        "stageName": stage,
        "actionName": name,
        "status": status,
        "startTime": NOON,
        "input": {
            "actionTypeId": {"category": category, "owner": "AWS", "provider": provider, "version": "1"},
            "resolvedConfiguration": {"StackName": f"mlops-{PROJECT}-{stage.lower()}"},
        },
        "output": {"executionResult": result},
    }


def test_failed_build_names_the_action_the_reason_and_the_log(world: World, stub: Callable) -> None:
    failed = action(
        "Train",
        "Train",
        "Failed",
        errorDetails={"code": "JobFailed", "message": "Build terminated with state: FAILED. Phase: BUILD"},
        externalExecutionUrl="https://console.aws.amazon.com/codebuild/home#/builds/x",
    )
    actions(world, stub, "build", failed, action("Images", "Images", "Succeeded"))
    assert world.tell(execution()) == "told"
    assert world.tell(execution()) == "told already"
    ((subject, text),) = world.mails()
    assert subject == "[churn] Build pipeline failed: Train in stage Train"
    assert "Phase: BUILD" in text
    assert "Log: https://console.aws.amazon.com/codebuild/home#/builds/x" in text
    assert f"pipelines/mlops-{PROJECT}-build/executions/{EXECUTION}/timeline?region={REGION}" in text
    assert "Nothing changed in production." in text


def test_second_attempt_that_fails_is_told_again(world: World, stub: Callable) -> None:
    for attempt in (1.0, 2.0):
        actions(world, stub, "build", action("Train", "Train", "Failed"))
        world.tell(execution(attempt=attempt))
    assert len(world.mails()) == 2


def test_failure_is_told_when_nobody_knows_the_actions(world: World, stub: Callable) -> None:
    found = stub("codepipeline")
    found.stubber.add_client_error("list_action_executions", "AccessDeniedException")
    world.stubs["codepipeline"] = found.client
    assert world.tell(execution("deploy")) == "told"
    ((subject, _),) = world.mails()
    assert subject == "[churn] Deploy pipeline failed"


def test_rejection_is_no_failure_of_the_pipeline(world: World, stub: Callable) -> None:
    rejected = action(
        "Production",
        "ApproveProduction",
        "Failed",
        "Manual",
        "Approval",
        errorDetails={"message": "Rejected by arn:aws:sts::1:assumed-role/Ann: worse for young people"},
    )
    actions(world, stub, "deploy", rejected)
    world.tell(execution("deploy"))
    ((subject, text),) = world.mails()
    assert subject == "[churn] A version was not approved for production"
    assert "worse for young people" in text


def stack(status: str, updated: datetime | None, stage: str = "production") -> dict[str, Any]:
    return {
        "Stacks": [
            {
                "StackName": f"mlops-{PROJECT}-{stage}",
                "StackStatus": status,
                "CreationTime": NOON - timedelta(days=9),
                **({"LastUpdatedTime": updated} if updated else {}),
                "Outputs": [{"OutputKey": "ModelPackageArn", "OutputValue": PACKAGE.replace("/3", "/2")}],
            }
        ]
    }


@pytest.mark.parametrize(
    ("status", "updated", "told"),
    [
        ("UPDATE_ROLLBACK_COMPLETE", NOON + timedelta(minutes=1), False),
        ("UPDATE_ROLLBACK_COMPLETE", NOON - timedelta(days=1), True),  # of an earlier failure
        ("UPDATE_COMPLETE", NOON - timedelta(days=1), True),
    ],
)
def test_failed_deployment_that_was_rolled_back_is_told_as_that(
    world: World, stub: Callable, status: str, updated: datetime, told: bool
) -> None:
    actions(world, stub, "deploy", action("Production", "Deploy", "Failed", "CloudFormation", "Deploy"))
    cloudformation = stub("cloudformation")
    cloudformation.expect("describe_stacks", stack(status, updated), StackName=f"mlops-{PROJECT}-production")
    world.stubs["cloudformation"] = cloudformation.client
    assert world.tell(execution("deploy")) == ("told" if told else "nothing to tell")
    assert len(world.mails()) == told


def test_version_in_production_is_told(world: World, stub: Callable) -> None:
    select = action("Select", "Select", "Succeeded")
    select["output"]["outputVariables"] = {"MODEL_PACKAGE_ARN": PACKAGE, "MODEL_VERSION": "3"}
    actions(world, stub, "deploy", action("Production", "Test", "Succeeded"), select)
    detail = {
        "pipeline": f"mlops-{PROJECT}-deploy",
        "execution-id": EXECUTION,
        "stage": "Production",
        "action": "Test",
        "state": "SUCCEEDED",
    }
    deployed = event("codepipeline", "CodePipeline Action Execution State Change", detail)
    assert [world.tell(deployed), world.tell(deployed)] == ["told", "told already"]
    ((subject, text),) = world.mails()
    assert subject == "[churn] Model version 3 is in production"
    assert ENDPOINT in text
    assert PACKAGE in text


# ---- stacks -----------------------------------------------------------------------------------------------
STACK_ID = f"arn:aws:cloudformation:{REGION}:{ACCOUNT}:stack/mlops-{PROJECT}-production/1a2b"


def changed(status: str, stack_id: str = STACK_ID) -> dict[str, Any]:
    detail = {
        "stack-id": stack_id,
        "status-details": {"status": status, "status-reason": ""},
        "client-request-token": "t-1",
    }
    return event("cloudformation", "CloudFormation Stack Status Change", detail)


def stack_event(name: str, status: str, reason: str = "", own: bool = False) -> dict[str, Any]:
    return {
        "StackId": STACK_ID,
        "EventId": f"{name}-{status}",
        "StackName": "s",
        "Timestamp": NOON,
        "LogicalResourceId": name,
        "PhysicalResourceId": STACK_ID if own else "x",
        "ResourceStatus": status,
        "ResourceStatusReason": reason,
    }


def test_rollback_names_the_version_that_answers_and_the_first_failure(world: World, stub: Callable) -> None:
    cloudformation = stub("cloudformation")
    cloudformation.expect(
        "describe_stacks", stack("UPDATE_ROLLBACK_COMPLETE", NOON), StackName=f"mlops-{PROJECT}-production"
    )
    cloudformation.expect(
        "describe_stack_events",
        {
            "StackEvents": [
                stack_event("mlops", "UPDATE_ROLLBACK_COMPLETE", own=True),
                stack_event("mlops", "UPDATE_ROLLBACK_IN_PROGRESS", "failed to update: [Endpoint]", own=True),
                stack_event("Alarm", "UPDATE_FAILED", "Resource update cancelled"),
                stack_event(
                    "Endpoint", "UPDATE_FAILED", "Auto rollback: alarm SlowAnswers is in ALARM state"
                ),
                stack_event("mlops", "UPDATE_IN_PROGRESS", "User Initiated", own=True),
                stack_event("Model", "CREATE_FAILED", "of an operation before"),
            ]
        },
        StackName=STACK_ID,
    )
    world.stubs["cloudformation"] = cloudformation.client
    assert world.tell(changed("UPDATE_ROLLBACK_COMPLETE")) == "told"
    assert world.tell(changed("UPDATE_ROLLBACK_COMPLETE")) == "told already"
    ((subject, text),) = world.mails()
    assert subject == "[churn] Production was rolled back to model version 2"
    assert 'Reason: "Endpoint: Auto rollback: alarm SlowAnswers is in ALARM state"' in text
    assert "Model version 2 answers as before." in text


@pytest.mark.parametrize(
    ("status", "subject"),
    [
        ("UPDATE_ROLLBACK_FAILED", "[churn] Monitoring is broken: its rollback failed"),
        ("ROLLBACK_COMPLETE", "[churn] Monitoring could not be made"),
        ("UPDATE_ROLLBACK_COMPLETE", "[churn] Monitoring was rolled back"),
    ],
)
def test_each_end_of_a_rollback_has_its_words(
    world: World, stub: Callable, status: str, subject: str
) -> None:
    cloudformation = stub("cloudformation")
    cloudformation.stubber.add_client_error("describe_stack_events", "ValidationError")
    world.stubs["cloudformation"] = cloudformation.client
    assert world.tell(changed(status, STACK_ID.replace("production", "monitoring"))) == "told"
    assert [one for one, _ in world.mails()] == [subject]


# ---- versions and jobs ------------------------------------------------------------------------------------
def version(status: str, **more: Any) -> dict[str, Any]:
    evaluation = f"s3://{BUCKET}/mlops-{PROJECT}/x/Evaluate/output/evaluation/evaluation.json"
    detail = {
        "ModelPackageArn": PACKAGE,
        "ModelPackageGroupName": f"mlops-{PROJECT}",
        "ModelPackageVersion": 3,
        "ModelPackageStatus": "Completed",
        "ModelApprovalStatus": status,
        "ModelMetrics": {"ModelQuality": {"Statistics": {"S3Uri": evaluation}}},
        "CustomerMetadataProperties": {
            "retraining_reason": "drift",
            "data_uri": "s3://data/july",
            "commit": "0a1b2c",
        },
        **more,
    }
    return event("sagemaker", "SageMaker Model Package State Change", detail)


def test_version_that_waits_comes_with_metrics_and_its_reason(world: World) -> None:
    metrics = {"auc": {"value": 0.81234, "standard_deviation": 0.1}, "confusion_matrix": {"0": {"0": 5}}}
    world.put(
        f"mlops-{PROJECT}/x/Evaluate/output/evaluation/evaluation.json",
        {"version": 0.0, "binary_classification_metrics": metrics},
    )
    assert world.tell(version("PendingManualApproval")) == "told"
    # SageMaker may send several events for one change, and a version may be described anew while it waits
    assert world.tell(version("PendingManualApproval", LastModifiedTime="later")) == "told already"
    ((subject, text),) = world.mails()
    assert subject == "[churn] Model version 3 waits for approval (trained for drift)"
    assert "Metrics: auc 0.8123\n" in text
    assert "Trained because of: drift in production" in text
    assert 'Data: "s3:_//data/july"' in text
    assert 'Commit: "0a1b2c"' in text
    assert PACKAGE in text


def test_version_without_metrics_is_told(world: World) -> None:
    assert world.tell(version("PendingManualApproval")) == "told"
    ((_, text),) = world.mails()
    assert "Metrics: could not be read (s3://" in text
    world.tell(version("Approved", ModelMetrics={}, CustomerMetadataProperties=None))
    ((subject, text),) = world.mails()
    assert subject == "[churn] Model version 3 was approved"
    assert "Metrics" not in text


def test_each_decision_is_told_once(world: World) -> None:
    decisions = [
        ("Approved", "2026-07-01T12:00:00Z"),
        ("Approved", "2026-07-01T12:00:00Z"),
        ("Rejected", "2026-07-02T12:00:00Z"),
        ("Approved", "2026-07-03T12:00:00Z"),
    ]
    said = [
        world.tell(version(status, LastModifiedTime=at, ApprovalDescription="fair enough"))
        for status, at in decisions
    ]
    assert said == ["told", "told already", "told", "told"]
    mails = world.mails()
    assert sorted(subject for subject, _ in mails) == [
        "[churn] Model version 3 was approved (trained for drift)",
        "[churn] Model version 3 was approved (trained for drift)",
        "[churn] Model version 3 was rejected (trained for drift)",
    ]
    assert all('Said with the decision: "fair enough"' in text for _, text in mails)


@pytest.mark.parametrize(
    ("name", "title"),
    [
        (f"mlops-{PROJECT}-dq-0123", "data quality"),
        (f"mlops-{PROJECT}-mq-0123", "model quality"),
        (f"mlops-{PROJECT}-mb-0123", "bias"),
        (f"mlops-{PROJECT}-me-0123", "feature attribution"),
        ("model-monitoring-202607011200-0123", "monitoring"),
    ],
)
def test_failed_monitor_is_told(world: World, name: str, title: str) -> None:
    detail = {
        "ProcessingJobName": name,
        "ProcessingJobStatus": "Failed",
        "FailureReason": "AlgorithmError: See job logs",
        "ExitMessage": "no baseline",
    }
    failed = event("sagemaker", "SageMaker Processing Job State Change", detail)
    assert [world.tell(failed), world.tell(failed)] == ["told", "told already"]
    ((subject, text),) = world.mails()
    assert subject == f"[churn] Monitoring job failed: {title}"
    assert "AlgorithmError: See job logs" in text
    assert name in text


def test_event_that_nobody_asked_for_is_not_told(world: World) -> None:
    assert world.tell(event("ec2", "EC2 Instance State-change Notification", {})) == "nothing to tell"
    assert world.mails() == []


# ---- mails ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("text", ["x" * 300, "a\nb", "\u00e9\u202e", "tab\tand\x00nul"])
def test_subject_is_what_sns_takes(world: World, text: str) -> None:
    """API reference of Publish: ASCII, one line, at most 100 characters; a name has 32 of them at most."""
    line = world.module.notice_of.__globals__["subject"]("n" * 32, text)
    assert re.fullmatch(r"[!-~][ -~]{0,99}", line)


def test_links_are_those_of_the_partition(world: World) -> None:
    console = world.module.notice_of.__globals__["console"]
    assert console("aws-cn", "cn-north-1", "x") == "https://cn-north-1.console.amazonaws.cn/x"
    assert (
        console("aws-us-gov", "us-gov-west-1", "x") == "https://us-gov-west-1.console.amazonaws-us-gov.com/x"
    )
