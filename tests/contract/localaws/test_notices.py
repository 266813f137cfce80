"""A project's two functions as the template makes them: who is told of what, traffic when there is none."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

CFN = Path(__file__).resolve().parents[3] / "mlops-cfn"
PROJECT, OWNER = "p-noticesproject", "owner@example.com"
PREFIX = f"mlops-{PROJECT}"
ENDPOINT = f"{PREFIX}-production"


@pytest.fixture(scope="module", autouse=True)
def enforced(cloud) -> Iterator[None]:
    """Roles are asked for their policies, whatever the cloud was set to."""
    before = cloud.control("settings")["enforce"]
    cloud.control("settings", enforce=True)
    yield
    cloud.control("settings", enforce=before)


@dataclass
class Made:
    """The project, as far as its functions need it."""

    cloud: Any
    bucket: str
    key: str
    topic: str
    stack: str

    def mails(self) -> list[dict[str, str]]:
        """Notices so far; not the question whether the owner wants any."""
        sent = [m for m in self.cloud.control("outbox") if m["topic"] == self.topic and m["to"] == OWNER]
        return [m for m in sent if "Subscription Confirmation" not in m["subject"]]

    def mail(self, word: str) -> dict[str, str]:
        """The one mail whose subject has this word, once it is there."""
        self.cloud.wait(lambda: [m for m in self.mails() if word in m["subject"]], 60, f"mail about {word}")
        (found,) = [m for m in self.mails() if word in m["subject"]]
        return found

    def put(self, key: str, content: Any) -> None:
        self.cloud.client("s3").put_object(
            Bucket=self.bucket, Key=key, Body=content if isinstance(content, str) else json.dumps(content)
        )


def make(cloud: Any, template: str, parameters: dict[str, str], name: str) -> dict[str, str]:
    """The outputs of a new stack of a template of the project, with the project's tags."""
    cloud.client("cloudformation").create_stack(
        StackName=name,
        TemplateBody=(CFN / template).read_text(),
        Parameters=[{"ParameterKey": k, "ParameterValue": v} for k, v in parameters.items()],
        Capabilities=["CAPABILITY_NAMED_IAM"],
        Tags=[{"Key": "sagemaker:project-id", "Value": PROJECT}],
    )
    cloud.wait(lambda: not cloud.stack_status(name).endswith("IN_PROGRESS"), 90, name)
    assert cloud.stack_status(name) == "CREATE_COMPLETE", cloud.stack_reasons(name)
    return cloud.outputs(name)


def packed(function: str) -> bytes:
    """A function's code as a release packs it."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for path in sorted((CFN / "lambda" / function).glob("*.py")):
            archive.write(path, path.name)
    return out.getvalue()


@pytest.fixture(scope="module")
def made(cloud) -> Iterator[Made]:
    ssm, release = cloud.client("ssm"), cloud.bucket()
    document = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
    boundary = cloud.client("iam").create_policy(
        PolicyName=cloud.name("boundary"), PolicyDocument=json.dumps(document)
    )["Policy"]["Arn"]
    for name, value in {
        "access-log-bucket-name": cloud.bucket(),
        "permissions-boundary-arn": boundary,
    }.items():
        ssm.put_parameter(Name=f"/mlops/infra/{name}", Type="String", Value=value, Overwrite=True)
    for function in ("notifier", "traffic"):
        cloud.client("s3").put_object(Bucket=release, Key=f"{function}.zip", Body=packed(function))
    ids = {"ProjectId": PROJECT, "ProjectName": "loans"}
    data = make(cloud, "project/data.yaml", ids, cloud.name("data"))
    topic = cloud.client("sns").create_topic(
        Name=f"{PREFIX}-notices", Attributes={"KmsMasterKeyId": data["KeyArn"]}
    )["TopicArn"]
    cloud.subscribe(topic, OWNER)
    cloud.client("dynamodb").create_table(
        TableName=f"{PREFIX}-state",
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        BillingMode="PAY_PER_REQUEST",
        SSESpecification={"Enabled": True, "SSEType": "KMS", "KMSMasterKeyId": data["KeyArn"]},
    )
    stack = cloud.name("functions")
    make(
        cloud,
        "project/functions.yaml",
        {
            **ids,
            **data,
            "TopicArn": topic,
            "StateTableName": f"{PREFIX}-state",
            "ReleaseBucketName": release,
            "NotifierFunctionKey": "notifier.zip",
            "TrafficFunctionKey": "traffic.zip",
        },
        stack,
    )
    yield Made(cloud, data["BucketName"], data["KeyArn"], topic, stack)
    cloud.client("dynamodb").delete_table(TableName=f"{PREFIX}-state")


def report(made: Made, hour: datetime, *violated: dict[str, Any]) -> str:
    """A report of the project's own engine; its folder."""
    folder = f"monitoring/data-quality/{hour:%Y/%m/%d/%H}"
    status = "violations" if violated else "clean"
    summary = {"violations": len(violated), "status": status, "records": 400}
    summary["measures"] = [{**one, "violated": True} for one in violated]
    made.put(f"{folder}/report.html", "<html>")
    made.put(f"{folder}/summary.json", summary)
    return folder


def drift(made: Made, state: str, kind: str = "data_quality") -> str:
    """Set the state of the alarm of a monitor; its name."""
    name = f"{PREFIX}-monitoring-{kind}"
    cloudwatch = made.cloud.client("cloudwatch")
    dimensions = [{"Name": "Endpoint", "Value": ENDPOINT}, {"Name": "MonitorType", "Value": kind}]
    cloudwatch.put_metric_alarm(
        AlarmName=name,
        Namespace="MLOps/Monitoring",
        MetricName="constraint_violations",
        Dimensions=dimensions,
        Statistic="Maximum",
        Period=3600,
        EvaluationPeriods=1,
        Threshold=1,
        ComparisonOperator="GreaterThanOrEqualToThreshold",
        TreatMissingData="ignore",
    )
    cloudwatch.set_alarm_state(AlarmName=name, StateValue=state, StateReason="Threshold Crossed")
    return name


AGE = {"subject": "age", "name": "feature_baseline_drift", "value": 0.42, "baseline": 0.02, "threshold": 0.1}


def test_drift_is_one_mail_with_feature_distance_threshold_and_since_when(made: Made) -> None:
    now = datetime.fromisoformat(made.cloud.control("clock")["now"]).astimezone(UTC)
    hour = now.replace(minute=0, second=0, microsecond=0)
    report(made, hour - timedelta(hours=2))
    report(made, hour - timedelta(hours=1), AGE)
    folder = report(made, hour, AGE)
    name = drift(made, "ALARM")
    mail = made.mail("Drift")
    assert mail["subject"] == (
        '[loans] Drift in production: data quality "age" 0.42 (baseline 0.02, threshold 0.1)'
    )
    assert f"Since: {hour - timedelta(hours=1):%Y-%m-%d %H:%M} UTC, 2 reports" in mail["body"]
    assert f"s3://{made.bucket}/{folder}/report.html" in mail["body"]
    assert name in mail["body"]
    drift(made, "OK")  # that production is as it was wakes nobody
    drift(made, "ALARM")  # the next drift is another notice
    made.cloud.wait(lambda: len([m for m in made.mails() if "Drift" in m["subject"]]) == 2, 60, "second mail")


JOB, ARN = "SageMaker Processing Job State Change", "arn:aws:sagemaker:us-east-1:123456789012"
PIPELINE, ACTION = (f"CodePipeline {what} Execution State Change" for what in ("Pipeline", "Action"))
MODEL, STACK = "SageMaker Model Package State Change", "CloudFormation Stack Status Change"
STACKS = "arn:aws:cloudformation:us-east-1:123456789012:stack"
PENDING = {
    "ModelPackageGroupName": PREFIX,
    "ModelPackageStatus": "Completed",
    "ModelApprovalStatus": "PendingManualApproval",
}
TESTED = {"pipeline": f"{PREFIX}-deploy", "stage": "Production", "action": "Test", "state": "SUCCEEDED"}
# what happened → who sends the event, its type and detail, and the rule that takes it
HAPPENED: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "build failed": (
        "codepipeline",
        PIPELINE,
        {"pipeline": f"{PREFIX}-build", "state": "FAILED"},
        "Delivery",
    ),
    "build went well": ("codepipeline", PIPELINE, {"pipeline": f"{PREFIX}-build", "state": "SUCCEEDED"}, ""),
    "a user's pipeline failed": (
        "codepipeline",
        PIPELINE,
        {"pipeline": f"{PREFIX}-user-jane", "state": "FAILED"},
        "",
    ),
    "in production": ("codepipeline", ACTION, TESTED, "Delivery"),
    "in staging": ("codepipeline", ACTION, {**TESTED, "stage": "Staging"}, ""),
    "deployed, not tested": ("codepipeline", ACTION, {**TESTED, "action": "Deploy"}, ""),
    "rolled back": (
        "cloudformation",
        STACK,
        {
            "stack-id": f"{STACKS}/{PREFIX}-production/1",
            "status-details": {"status": "UPDATE_ROLLBACK_COMPLETE"},
        },
        "Delivery",
    ),
    "updated": (
        "cloudformation",
        STACK,
        {"stack-id": f"{STACKS}/{PREFIX}-production/1", "status-details": {"status": "UPDATE_COMPLETE"}},
        "",
    ),
    "another project rolled back": (
        "cloudformation",
        STACK,
        {
            "stack-id": f"{STACKS}/mlops-p-other-production/1",
            "status-details": {"status": "UPDATE_ROLLBACK_COMPLETE"},
        },
        "",
    ),
    **{
        f"{part} failed": (
            "sagemaker",
            JOB,
            {"ProcessingJobName": f"{PREFIX}-{part}-1", "ProcessingJobStatus": "Failed"},
            "Production" if part != "xx" else "",
        )
        for part in ("dq", "mq", "mb", "me", "xx")
    },
    "Model Monitor failed": (
        "sagemaker",
        JOB,
        {
            "ProcessingJobName": "model-monitoring-1",
            "MonitoringScheduleArn": f"{ARN}:monitoring-schedule/{PREFIX}-dq",
            "ProcessingJobStatus": "Failed",
        },
        "Production",
    ),
    "monitored": (
        "sagemaker",
        JOB,
        {"ProcessingJobName": f"{PREFIX}-dq-1", "ProcessingJobStatus": "Completed"},
        "",
    ),
    "a version waits": ("sagemaker", MODEL, PENDING, "Production"),
    "a version is being checked": (
        "sagemaker",
        MODEL,
        {**PENDING, "ModelPackageStatus": "InProgress"},
        "",
    ),
    "a note on a version that waits": (
        "sagemaker",
        MODEL,
        {**PENDING, "UpdatedModelPackageFields": ["CustomerMetadataProperties"]},
        "",
    ),
    "another project's version": ("sagemaker", MODEL, {**PENDING, "ModelPackageGroupName": "x"}, ""),
    "clean again": (
        "cloudwatch",
        "CloudWatch Alarm State Change",
        {"alarmName": f"{PREFIX}-monitoring-DataQualityDrifted-1", "state": {"value": "OK"}},
        "",
    ),
    "slow": (  # it reaches the topic by itself
        "cloudwatch",
        "CloudWatch Alarm State Change",
        {"alarmName": f"{PREFIX}-production-SlowAnswers-1", "state": {"value": "ALARM"}},
        "",
    ),
}


@pytest.mark.parametrize("what", HAPPENED)
def test_each_event_is_taken_by_one_rule_or_none(made: Made, what: str) -> None:
    source, kind, detail, wanted = HAPPENED[what]
    event = {
        "id": "1",
        "account": made.cloud.account,
        "region": made.cloud.region,
        "time": "2026-07-01T12:00:00Z",
        "resources": [],
        "source": f"aws.{source}",
        "detail-type": kind,
        "detail": detail,
    }
    events = made.cloud.client("events")
    patterns = {
        one["Name"].removeprefix(f"{made.stack}-").partition("Changed")[0]: one["EventPattern"]
        for one in events.list_rules(NamePrefix=made.stack)["Rules"]
    }
    assert all(len(pattern) <= 2048 for pattern in patterns.values()), "EventBridge's quota"
    taken = [
        name
        for name, pattern in patterns.items()
        if events.test_event_pattern(EventPattern=pattern, Event=json.dumps(event))["Result"]
    ]
    assert taken == ([wanted] if wanted else [])


def test_event_that_comes_twice_is_one_mail(made: Made) -> None:
    """EventBridge delivers at least once."""
    event = {
        "source": "aws.sagemaker",
        "detail-type": "SageMaker Processing Job State Change",
        "time": "2026-07-01T12:00:00Z",
        "detail": {"ProcessingJobName": f"{PREFIX}-mb-1", "FailureReason": "AlgorithmError: twice"},
    }
    done = []
    for _ in range(2):
        answer = made.cloud.client("lambda").invoke(
            FunctionName=f"{PREFIX}-notifier", Payload=json.dumps(event)
        )
        done.append(json.loads(answer["Payload"].read()))
    assert done == [{"done": "told"}, {"done": "told already"}]
    assert "AlgorithmError: twice" in made.mail("Monitoring job failed: bias")["body"]


def test_version_that_waits_and_is_rejected_is_told(made: Made) -> None:
    sagemaker = made.cloud.client("sagemaker")
    sagemaker.create_model_package_group(ModelPackageGroupName=PREFIX)
    made.put("x/evaluation.json", {"binary_classification_metrics": {"auc": {"value": 0.8123}}})
    package = sagemaker.create_model_package(
        ModelPackageGroupName=PREFIX,
        ModelApprovalStatus="PendingManualApproval",
        CustomerMetadataProperties={"retraining_reason": "data", "data_uri": "s3://b/june"},
        ModelMetrics={
            "ModelQuality": {
                "Statistics": {
                    "ContentType": "application/json",
                    "S3Uri": f"s3://{made.bucket}/x/evaluation.json",
                }
            }
        },
    )["ModelPackageArn"]
    mail = made.mail("waits for approval")
    assert mail["subject"] == "[loans] Model version 1 waits for approval (trained for data)"
    assert "Metrics: auc 0.8123" in mail["body"]
    sagemaker.update_model_package(
        ModelPackageArn=package, ModelApprovalStatus="Rejected", ApprovalDescription="worse for the young"
    )
    assert "worse for the young" in made.mail("was rejected")["body"]
    sagemaker.update_model_package(
        ModelPackageArn=package, CustomerMetadataProperties={"note": "an edit is no decision"}
    )


def test_stack_that_rolled_back_is_told_with_the_first_failure(made: Made) -> None:
    cloudformation, name = made.cloud.client("cloudformation"), f"{PREFIX}-production"
    parameter = {"Type": "AWS::SSM::Parameter", "Properties": {"Type": "String", "Value": "1"}}
    arn = f"arn:aws:sagemaker:us-east-1:{made.cloud.account}:model-package/{PREFIX}/7"
    made.cloud.stack({"Kept": parameter}, {"ModelPackageArn": {"Value": arn}}, name)
    broken = {
        "Resources": {
            "Kept": parameter,
            "Broken": {"Type": "AWS::SSM::Parameter", "Properties": {"Type": "Nonsense", "Value": "1"}},
        },
        "Outputs": {"ModelPackageArn": {"Value": arn}},
    }
    cloudformation.update_stack(StackName=name, TemplateBody=json.dumps(broken))
    mail = made.mail("rolled back")
    assert mail["subject"] == "[loans] Production was rolled back to model version 7"
    assert 'Reason: "Broken: ' in mail["body"]
    made.cloud.delete_stack(name)


def test_report_of_model_monitor_becomes_the_metric(made: Made) -> None:
    folder = f"monitoring/model-bias/{ENDPOINT}/{PREFIX}-mb/2026/07/01/12"
    made.put(f"{folder}/constraint_violations.json", {"violations": [{"facet": "age", "metric_name": "CI"}]})

    def points() -> list[float]:
        now = datetime.fromisoformat(made.cloud.control("clock")["now"])
        found = made.cloud.client("cloudwatch").get_metric_statistics(
            Namespace="MLOps/Monitoring",
            MetricName="constraint_violations",
            Dimensions=[
                {"Name": "Endpoint", "Value": ENDPOINT},
                {"Name": "MonitorType", "Value": "model_bias"},
            ],
            StartTime=now - timedelta(hours=1),
            EndTime=now + timedelta(hours=1),
            Period=3600,
            Statistics=["Maximum"],
        )
        return [one["Maximum"] for one in found["Datapoints"]]

    made.cloud.wait(lambda: points() == [1.0], 60, "metric")


def test_what_nobody_could_tell_reaches_the_owner_as_it_is(made: Made) -> None:
    """An event that the function cannot read fails each time, and comes from Lambda itself."""
    made.cloud.client("lambda").invoke(
        FunctionName=f"{PREFIX}-notifier",
        InvocationType="Event",
        Payload=json.dumps({"detail-type": "CloudWatch Alarm State Change", "detail": {"odd": "one"}}),
    )
    made.cloud.wait(lambda: [m for m in made.mails() if '"odd"' in m["body"]], 60, "the raw event")


@pytest.fixture(scope="module")
def endpoint(made: Made) -> Iterator[str]:
    """The project's production endpoint, which captures what it is asked; it answers everything."""
    cloud, client = made.cloud, made.cloud.client("sagemaker")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz"):
        pass
    models = cloud.bucket()
    cloud.client("s3").put_object(Bucket=models, Key="model.tar.gz", Body=out.getvalue())
    container = {
        "Image": cloud.image({"app/serve.py": SERVER}, ["python3", "/app/serve.py"]),
        "ModelDataUrl": f"s3://{models}/model.tar.gz",
    }
    client.create_model(
        ModelName=ENDPOINT, ExecutionRoleArn=cloud.role("sagemaker"), PrimaryContainer=container
    )
    variant = {"VariantName": "AllTraffic", "ModelName": ENDPOINT, "InstanceType": "ml.t2.medium"}
    client.create_endpoint_config(
        EndpointConfigName=ENDPOINT,
        ProductionVariants=[{**variant, "InitialInstanceCount": 1, "InitialVariantWeight": 1.0}],
    )
    client.create_endpoint(EndpointName=ENDPOINT, EndpointConfigName=ENDPOINT)
    cloud.wait(
        lambda: client.describe_endpoint(EndpointName=ENDPOINT)["EndpointStatus"] == "InService", 60, ENDPOINT
    )
    yield ENDPOINT
    client.delete_endpoint(EndpointName=ENDPOINT)


SERVER = """
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200); self.send_header("Content-Type", "text/csv"); self.end_headers()
        self.wfile.write(b"0.5")
    def log_message(self, *_): pass
ThreadingHTTPServer(("127.0.0.1", int(os.environ["SAGEMAKER_BIND_TO_PORT"])), Handler).serve_forever()
"""


def test_schedule_sends_the_sample_while_nobody_else_sends(made: Made, endpoint: str) -> None:
    cloud, iam = made.cloud, made.cloud.client("iam")
    made.put(f"{PREFIX}/1/MonitoringBaseline/baseline/data_quality/sample.csv", "1,a\n2,b\n")
    role = cloud.role("scheduler")
    function = f"arn:aws:lambda:us-east-1:{cloud.account}:function:{PREFIX}-traffic"
    only = {"Effect": "Allow", "Action": "lambda:InvokeFunction", "Resource": function}
    iam.put_role_policy(
        RoleName=role.rpartition("/")[2],
        PolicyName="all",
        PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [only]}),
    )
    what = {
        "endpoint": endpoint,
        "sample_uri": f"s3://{made.bucket}/{PREFIX}/1/MonitoringBaseline/baseline/data_quality/sample.csv",
        "scheduled_time": "<aws.scheduler.scheduled-time>",
    }
    cloud.client("scheduler").create_schedule(
        Name=f"{PREFIX}-traffic",
        ScheduleExpression="cron(0 * * * ? *)",
        FlexibleTimeWindow={"Mode": "OFF"},
        Target={"Arn": function, "RoleArn": role, "Input": json.dumps(what)},
    )

    def runs() -> int:
        found = cloud.client("logs").filter_log_events(logGroupName=f"/aws/lambda/{PREFIX}-traffic")["events"]
        return len([one for one in found if one["message"].startswith("REPORT")])

    def sent() -> int:
        calls = [one for one in cloud.control("calls") if one["operation"] == "InvokeEndpoint"]
        return len([one for one in calls if f"{made.stack}-Traffic" in one["by"]])

    def past_the_hour() -> int:
        """How many requests the function sent in its next run."""
        now, before, already = datetime.fromisoformat(cloud.control("clock")["now"]), runs(), sent()
        cloud.control("clock", advance_seconds=3600 - (now.minute * 60 + now.second) + 5)
        cloud.wait(lambda: runs() == before + 1, 60, "the function's run")
        return sent() - already

    try:
        assert past_the_hour() == 2
        assert past_the_hour() == 2, "what it sent itself is no traffic"
        cloud.client("sagemaker-runtime").invoke_endpoint(
            EndpointName=endpoint, Body=b"3,c", ContentType="text/csv"
        )
        assert past_the_hour() == 0, "somebody else sent something"
        assert past_the_hour() == 2
    finally:
        cloud.client("scheduler").delete_schedule(Name=f"{PREFIX}-traffic")


def test_nothing_was_denied(made: Made) -> None:
    """Last: what the functions did, their roles allow."""
    asked, denied = (json.dumps(made.cloud.control(what)) for what in ("questions", "denials"))
    for name in ("Notifier", "Traffic"):
        role = f"role/mlops/projects/{made.stack}-{name}"
        assert role in asked, "policies were not asked"
        assert role not in denied
