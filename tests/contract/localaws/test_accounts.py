"""Several accounts in one cloud: what each has is its own, and crosses only where both sides let it."""

from __future__ import annotations

import base64
import io
import json
import os
import tarfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
from botocore.exceptions import ClientError
from tests.contract.localaws.conftest import LocalCloud, packed, start

TOOLS, STAGE = "123456789012", "210987654321"
SERVER = """
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
print("started", flush=True)
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200); self.end_headers()
        self.wfile.write(open("/opt/ml/model/answer", "rb").read())
    def log_message(self, *_): pass
ThreadingHTTPServer(("127.0.0.1", int(os.environ["SAGEMAKER_BIND_TO_PORT"])), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    """A cloud of two accounts, as the root of the first sees it."""
    process, made = start(tmp_path_factory.mktemp("accounts"), parent=os.getpid())
    yield made
    process.terminate()
    process.wait(20)
    process.stdout.close()


@pytest.fixture(scope="module")
def stage(tools: LocalCloud) -> LocalCloud:
    """The same cloud as the root of the second account sees it."""
    return tools.other_account(STAGE)


def document(*statements: dict[str, Any]) -> str:
    """A policy of Allow statements."""
    return json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", **s} for s in statements]})


def person(there: LocalCloud, trusts: str, *statements: dict[str, Any]) -> str:
    """A role that a principal may assume; its ARN."""
    name = there.name("person")
    trust = document({"Action": "sts:AssumeRole", "Principal": {"AWS": trusts}})
    iam = there.client("iam")
    made = iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust)["Role"]["Arn"]
    if statements:
        iam.put_role_policy(RoleName=name, PolicyName="own", PolicyDocument=document(*statements))
    return made


def session(of: Any, role: str) -> dict[str, str]:
    """Credentials of a role, by the STS client of who assumes it, as a client takes them."""
    keys = of.assume_role(RoleArn=role, RoleSessionName="test")["Credentials"]
    return {
        "aws_access_key_id": keys["AccessKeyId"],
        "aws_secret_access_key": keys["SecretAccessKey"],
        "aws_session_token": keys["SessionToken"],
    }


def refused(call: Any, *words: str, **arguments: Any) -> str:
    """The message of a call that must be denied."""
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    message = caught.value.response["Error"]["Message"]
    for word in words:
        assert word in message, message
    return message


def test_accounts_are_listed_and_opened_once(tools: LocalCloud, stage: LocalCloud) -> None:
    found = {a["id"]: a["access_key"] for a in tools.control("accounts")}
    assert found == {TOOLS: "test", STAGE: STAGE}
    with pytest.raises(Exception, match="400"):
        tools.control("accounts", id=STAGE, name="again")
    with pytest.raises(Exception, match="400"):
        tools.control("accounts", id="12", name="short")
    for there in (tools, stage):
        assert there.client("sts").get_caller_identity()["Arn"] == f"arn:aws:iam::{there.account}:root"
    stranger = tools.client("sts", aws_access_key_id="999999999999", aws_secret_access_key="x")
    refused(stranger.get_caller_identity, "security token")


def test_a_role_of_another_account_needs_its_trust_and_the_callers_policy(
    tools: LocalCloud, stage: LocalCloud
) -> None:
    target = person(stage, f"arn:aws:iam::{TOOLS}:root", {"Action": "s3:ListAllMyBuckets", "Resource": "*"})
    may = person(tools, f"arn:aws:iam::{TOOLS}:root", {"Action": "sts:AssumeRole", "Resource": target})
    may_not = person(tools, f"arn:aws:iam::{TOOLS}:root")
    first = tools.client("sts")
    crossing = tools.client("sts", **session(first, may))
    keys = session(crossing, target)
    assert tools.client("sts", **keys).get_caller_identity()["Account"] == STAGE
    bucket = stage.bucket()
    assert bucket in [b["Name"] for b in tools.client("s3", **keys).list_buckets()["Buckets"]]
    # the caller's side, then the role's
    missing = tools.client("sts", **session(first, may_not))
    refused(
        missing.assume_role, "sts:AssumeRole", target, "no identity-based policy", RoleArn=target,
        RoleSessionName="test",
    )  # fmt: skip
    closed = person(stage, f"arn:aws:iam::{STAGE}:root")
    everything = person(tools, f"arn:aws:iam::{TOOLS}:root", {"Action": "*", "Resource": "*"})
    for caller in (tools.client("sts", **session(first, everything)), first):  # a root is none here
        refused(
            caller.assume_role, "sts:AssumeRole", closed, "no resource-based policy", RoleArn=closed,
            RoleSessionName="test",
        )  # fmt: skip


def test_a_stack_belongs_to_the_account_of_its_caller(tools: LocalCloud, stage: LocalCloud) -> None:
    topic = {"Type": "AWS::SNS::Topic", "Properties": {"TopicName": "same"}}
    group = {"Type": "AWS::SageMaker::ModelPackageGroup", "Properties": {"ModelPackageGroupName": "same"}}
    outputs = {"Topic": {"Value": {"Ref": "Topic"}}, "Account": {"Value": {"Ref": "AWS::AccountId"}}}
    for there in (tools, stage):
        there.stack({"Topic": topic, "Group": group}, outputs, name="same")
        found = there.outputs("same")
        assert found == {"Topic": f"arn:aws:sns:us-east-1:{there.account}:same", "Account": there.account}
        groups = there.client("sagemaker").list_model_package_groups()["ModelPackageGroupSummaryList"]
        assert [g["ModelPackageGroupArn"].split(":")[4] for g in groups] == [there.account]


@pytest.fixture(scope="module")
def model_data(stage: LocalCloud) -> str:
    """A packed model in the second account; its address."""
    return packed_model(stage, stage.bucket(), b"0.25")


def packed_model(there: LocalCloud, bucket: str, answer: bytes) -> str:
    """A packed model in a bucket; its address."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        entry = tarfile.TarInfo("answer")
        entry.size = len(answer)
        archive.addfile(entry, io.BytesIO(answer))
    there.client("s3").put_object(Bucket=bucket, Key="model.tar.gz", Body=out.getvalue())
    return f"s3://{bucket}/model.tar.gz"


def test_a_model_is_served_in_the_second_account(
    tools: LocalCloud, stage: LocalCloud, model_data: str
) -> None:
    image = stage.image({"app/serve.py": SERVER}, ["python3", "/app/serve.py"])
    client = stage.client("sagemaker")
    container = {"Image": image, "ModelDataUrl": model_data}
    client.create_model(ModelName="m", ExecutionRoleArn=stage.role("sagemaker"), PrimaryContainer=container)
    variant = {"VariantName": "AllTraffic", "ModelName": "m", "InstanceType": "ml.t2.medium"}
    client.create_endpoint_config(
        EndpointConfigName="e", ProductionVariants=[{**variant, "InitialInstanceCount": 1}]
    )
    client.create_endpoint(EndpointName="e", EndpointConfigName="e")
    client.get_waiter("endpoint_in_service").wait(
        EndpointName="e", WaiterConfig={"Delay": 0.1, "MaxAttempts": 300}
    )
    runtime = stage.client("sagemaker-runtime")
    answer = runtime.invoke_endpoint(EndpointName="e", Body=b"1", ContentType="text/csv")["Body"].read()
    assert answer == b"0.25"
    logs, group = stage.client("logs"), {"logGroupName": "/aws/sagemaker/Endpoints/e"}
    stage.wait(lambda: logs.describe_log_groups()["logGroups"], what="logs of the server")
    assert [e["message"] for e in logs.filter_log_events(**group)["events"]] == ["started"]
    assert not tools.client("logs").describe_log_groups()["logGroups"]
    assert not tools.client("sagemaker").list_endpoints()["Endpoints"]
    refused(tools.client("sagemaker-runtime").invoke_endpoint, TOOLS, EndpointName="e", Body=b"1")
    client.delete_endpoint(EndpointName="e")


# -- policies of resources: both sides --------------------------------------------------------------------
@pytest.fixture(scope="module")
def visitor(stage: LocalCloud) -> tuple[str, Any]:
    """A role of the second account, and a function that lets it do these statements and gives its client."""
    role = person(stage, f"arn:aws:iam::{STAGE}:root")

    def client(service: str, *statements: dict[str, Any]) -> Any:
        stage.client("iam").put_role_policy(
            RoleName=role.rpartition("/")[2], PolicyName="own", PolicyDocument=document(*statements)
        )
        return stage.client(service, **session(stage.client("sts"), role))

    return role, client


def test_hook_bucket_owner(tools: LocalCloud, stage: LocalCloud, visitor: tuple[str, Any]) -> None:
    role, client = visitor
    bucket, s3 = tools.bucket(), tools.client("s3")
    s3.put_object(Bucket=bucket, Key="a", Body=b"of the first")
    arn = f"arn:aws:s3:::{bucket}"
    mine = {"Action": ["s3:GetObject", "s3:PutObject"], "Resource": f"{arn}/*"}
    theirs = {**mine, "Principal": {"AWS": role}}
    here = client("s3", mine)
    refused(here.get_object, "s3:GetObject", role.rpartition("/")[2], f"{arn}/a", "no resource-based policy",
            Bucket=bucket, Key="a")  # fmt: skip
    refused(stage.client("s3").get_object, "no resource-based policy", Bucket=bucket, Key="a")
    condition = {"StringEquals": {"aws:PrincipalAccount": STAGE, "s3:ResourceAccount": TOOLS}}
    s3.put_bucket_policy(Bucket=bucket, Policy=document({**theirs, "Condition": condition}))
    assert here.get_object(Bucket=bucket, Key="a")["Body"].read() == b"of the first"
    here.put_object(Bucket=bucket, Key="b", Body=b"written by the second")
    assert s3.get_object(Bucket=bucket, Key="b")["Body"].read() == b"written by the second"
    nothing = client("s3", {"Action": "s3:ListAllMyBuckets", "Resource": "*"})
    refused(nothing.get_object, "s3:GetObject", "no identity-based policy", Bucket=bucket, Key="a")
    wrong = {"StringEquals": {"aws:PrincipalAccount": TOOLS}}
    s3.put_bucket_policy(Bucket=bucket, Policy=document({**theirs, "Condition": wrong}))
    refused(client("s3", mine).get_object, "no resource-based policy", Bucket=bucket, Key="a")
    # one name in all accounts
    with pytest.raises(ClientError, match="BucketAlreadyExists"):
        stage.client("s3").create_bucket(Bucket=bucket)


def test_hook_copies(tools: LocalCloud, stage: LocalCloud, visitor: tuple[str, Any]) -> None:
    role, client = visitor
    source, own = tools.bucket(), stage.bucket()
    tools.client("s3").put_object(Bucket=source, Key="a", Body=b"copied")
    here = client("s3", {"Action": "s3:*", "Resource": "*"})
    copy = {"Bucket": own, "Key": "b", "CopySource": {"Bucket": source, "Key": "a"}}
    refused(here.copy_object, "s3:GetObject", f"{source}/a", "no resource-based policy", **copy)
    refused(stage.client("s3").copy_object, "no resource-based policy", **copy)
    read = {"Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{source}/*", "Principal": {"AWS": role}}
    tools.client("s3").put_bucket_policy(Bucket=source, Policy=document(read))
    # AWS copies; the local cloud says that it does not
    with pytest.raises(ClientError, match="NotImplemented"):
        here.copy_object(**copy)


def test_hook_ciphertext_owner(tools: LocalCloud, stage: LocalCloud, visitor: tuple[str, Any]) -> None:
    role, client = visitor
    kms = tools.client("kms")
    key = kms.create_key()["KeyMetadata"]["Arn"]
    root = {
        "Sid": "Own",
        "Action": "kms:*",
        "Resource": "*",
        "Principal": {"AWS": f"arn:aws:iam::{TOOLS}:root"},
    }
    use = {"Action": ["kms:Encrypt", "kms:Decrypt"], "Resource": "*", "Principal": {"AWS": role}}
    here = client("kms", {"Action": "kms:*", "Resource": key})
    sealed = kms.encrypt(KeyId=key, Plaintext=b"secret")["CiphertextBlob"]
    refused(here.decrypt, "kms:Decrypt", key, "no resource-based policy", CiphertextBlob=sealed)
    refused(stage.client("kms").decrypt, "no resource-based policy", CiphertextBlob=sealed)
    called = {"StringEquals": {"kms:CallerAccount": STAGE}}
    kms.put_key_policy(KeyId=key, PolicyName="default", Policy=document(root, {**use, "Condition": called}))
    assert here.decrypt(CiphertextBlob=sealed)["Plaintext"] == b"secret"
    assert here.encrypt(KeyId=key, Plaintext=b"x")["KeyId"] == key
    # what KMS does not open to other accounts finds nothing there, whatever the policies say
    with pytest.raises(ClientError, match="NotFoundException|not found|AccessDenied"):
        here.schedule_key_deletion(KeyId=key, PendingWindowInDays=7)
    assert kms.describe_key(KeyId=key)["KeyMetadata"]["KeyState"] == "Enabled"
    closed = client("kms", {"Action": "kms:Encrypt", "Resource": key})
    refused(closed.decrypt, "kms:Decrypt", "no identity-based policy", CiphertextBlob=sealed)


def test_topics_and_buses_let_others_in_by_their_policies(
    tools: LocalCloud, stage: LocalCloud, visitor: tuple[str, Any]
) -> None:
    role, client = visitor
    topic = tools.client("sns").create_topic(Name="across")["TopicArn"]
    tools.subscribe(topic, "people@example.com")
    publish = {"Action": "sns:Publish", "Resource": topic}
    here = client("sns", publish)
    tools.client("sns").set_topic_attributes(
        TopicArn=topic,
        AttributeName="Policy",
        AttributeValue=document({**publish, "Principal": {"AWS": TOOLS}}),
    )
    refused(here.publish, "sns:Publish", topic, "no resource-based policy", TopicArn=topic, Message="x")
    tools.client("sns").set_topic_attributes(
        TopicArn=topic,
        AttributeName="Policy",
        AttributeValue=document({**publish, "Principal": {"AWS": role}}),
    )
    here.publish(TopicArn=topic, Message="from the second account")
    assert tools.control("outbox")[-1]["body"] == "from the second account"
    none = client("sns", {"Action": "sns:Publish", "Resource": "arn:aws:sns:*:*:other"})
    refused(none.publish, "sns:Publish", "no identity-based policy", TopicArn=topic, Message="x")


def test_an_alarm_reaches_a_topic_of_another_account(tools: LocalCloud, stage: LocalCloud) -> None:
    topic = tools.client("sns").create_topic(Name="alarms")["TopicArn"]
    tools.subscribe(topic, "alarms@example.com")
    policy = {
        "Action": "sns:Publish",
        "Resource": topic,
        "Principal": {"Service": "cloudwatch.amazonaws.com"},
    }
    alarm = {
        "AlarmName": "far",
        "Namespace": "x",
        "MetricName": "y",
        "ComparisonOperator": "GreaterThanThreshold",
    }
    alarm |= {
        "EvaluationPeriods": 1,
        "Period": 60,
        "Threshold": 1,
        "Statistic": "Sum",
        "AlarmActions": [topic],
    }
    stage.client("cloudwatch").put_metric_alarm(**alarm)
    mails = []
    for account in (TOOLS, STAGE):  # the policy names the account of the alarm, or it is not let in
        condition = {"StringEquals": {"aws:SourceAccount": account}}
        tools.client("sns").set_topic_attributes(
            TopicArn=topic,
            AttributeName="Policy",
            AttributeValue=document({**policy, "Condition": condition}),
        )
        for state in ("ALARM", "OK"):
            stage.client("cloudwatch").set_alarm_state(AlarmName="far", StateValue=state, StateReason="test")
        mails.append([m for m in tools.control("outbox") if m["to"] == "alarms@example.com"])
    assert [len(m) for m in mails] == [1, 2]  # the first is the mail that asks for confirmation
    assert f'"AWSAccountId": "{STAGE}"' in mails[1][1]["body"]
    lost = [one for one in tools.control("health")["undelivered"] if one.startswith(topic)]
    assert len(lost) == 1 and "does not let cloudwatch.amazonaws.com publish" in lost[0]


def test_hook_senders(tools: LocalCloud, stage: LocalCloud, visitor: tuple[str, Any]) -> None:
    # events reach the bus of another account, put there or sent by a rule, and tell who sent them
    role, client = visitor
    heard, bus = tools.listen(source=["mine"]), f"arn:aws:events:us-east-1:{TOOLS}:event-bus/default"
    here = client("events", {"Action": "events:PutEvents", "Resource": bus})
    entry = {"Source": "mine", "DetailType": "put", "Detail": "{}", "EventBusName": bus}
    refused(here.put_events, "events:PutEvents", bus, "no resource-based policy", Entries=[entry])
    rule_role = stage.role("events")
    stage.client("events").put_rule(Name="far", EventPattern=json.dumps({"source": ["mine"]}))
    target = {"Id": "bus", "Arn": bus, "RoleArn": rule_role}
    stage.client("events").put_targets(Rule="far", Targets=[target])
    event = {"Source": "mine", "DetailType": "sent", "Detail": "{}"}
    stage.client("events").put_events(Entries=[event])

    def lost() -> list[str]:
        return [one for one in tools.control("health")["undelivered"] if one.startswith(bus)]

    tools.wait(lost, what="an event that the bus does not let in")
    assert "no resource-based policy allows the events:PutEvents action" in lost()[0]
    tools.client("events").put_permission(StatementId="s", Principal=STAGE, Action="events:PutEvents")
    here.put_events(Entries=[entry])
    stage.client("events").put_events(Entries=[event])
    events = tools.wait(lambda: len(found := heard()) > 1 and found, what="two events")
    assert {(e["detail-type"], e["account"]) for e in events} == {("put", STAGE), ("sent", STAGE)}


# -- a model of one account, served in another --------------------------------------------------------------
class Shared:
    """A model package of the first account with all that it needs, and what the second account's roles may.

    ``grants`` are the policies by what they are put on; ``without`` takes one of them away for a while.
    """

    def __init__(self, tools: LocalCloud, stage: LocalCloud) -> None:
        self.tools, self.stage = tools, stage
        self.root = {"Action": "kms:*", "Resource": "*", "Principal": {"AWS": f"arn:aws:iam::{TOOLS}:root"}}
        self.key = tools.client("kms").create_key(Policy=document(self.root))["KeyMetadata"]["Arn"]
        self.bucket, s3 = tools.bucket(), tools.client("s3")
        default = {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": self.key}
        rules = {"Rules": [{"ApplyServerSideEncryptionByDefault": default, "BucketKeyEnabled": True}]}
        s3.put_bucket_encryption(Bucket=self.bucket, ServerSideEncryptionConfiguration=rules)
        data = packed_model(tools, self.bucket, b"0.75")
        self.image = tools.image({"app/serve.py": SERVER}, ["python3", "/app/serve.py"])
        self.repository = self.image.partition("/")[2].partition(":")[0]
        registry = tools.client("sagemaker")
        registry.create_model_package_group(ModelPackageGroupName="shared")
        container = {"Image": self.image, "ModelDataUrl": data}
        specification = {"Containers": [container], "SupportedContentTypes": ["text/csv"]}
        specification["SupportedResponseMIMETypes"] = ["text/csv"]
        self.package = registry.create_model_package(
            ModelPackageGroupName="shared",
            ModelApprovalStatus="Approved",
            InferenceSpecification=specification,
        )["ModelPackageArn"]
        stage.wait(lambda: self.described()["ModelPackageStatus"] == "Completed", what="package")
        self.role = stage.role("sagemaker")
        self.deployer = person(stage, f"arn:aws:iam::{STAGE}:root")
        self.grants = {
            "deployer": [
                {"Action": "sagemaker:*", "Resource": f"arn:aws:sagemaker:*:{STAGE}:*"},
                {
                    "Action": ["sagemaker:CreateModel", "sagemaker:DescribeModelPackage"],
                    "Resource": self.package,
                },
                {"Action": "iam:PassRole", "Resource": self.role},
            ],
            "execution role": [
                {"Action": ["s3:GetObject", "s3:PutObject"], "Resource": f"arn:aws:s3:::{self.bucket}/*"},
                {"Action": "s3:ListBucket", "Resource": f"arn:aws:s3:::{self.bucket}"},
                {"Action": ["kms:Decrypt", "kms:GenerateDataKey"], "Resource": self.key},
                {"Action": "ecr:*", "Resource": f"arn:aws:ecr:*:{TOOLS}:repository/{self.repository}"},
                {"Action": ["logs:*", "cloudwatch:PutMetricData"], "Resource": "*"},
            ],
            "group": [
                {
                    "Action": ["sagemaker:CreateModel", "sagemaker:DescribeModelPackage"],
                    "Resource": self.package,
                }
            ],
            "bucket": [
                {"Action": "s3:ListBucket", "Resource": f"arn:aws:s3:::{self.bucket}"},
                {"Action": ["s3:GetObject", "s3:PutObject"], "Resource": f"arn:aws:s3:::{self.bucket}/*"},
            ],
            "key": [{"Action": ["kms:Decrypt", "kms:GenerateDataKey"], "Resource": "*"}],
            "repository": [
                {
                    "Action": [
                        "ecr:BatchGetImage",
                        "ecr:GetDownloadUrlForLayer",
                        "ecr:BatchCheckLayerAvailability",
                    ]
                }
            ],
        }
        for kind in self.grants:
            self.put(kind, self.grants[kind])

    def described(self) -> dict[str, Any]:
        """The package, as its owner sees it."""
        return self.tools.client("sagemaker").describe_model_package(ModelPackageName=self.package)

    def put(self, kind: str, statements: list[dict[str, Any]]) -> None:
        """Make a policy hold these statements."""
        iam, first = self.stage.client("iam"), self.tools.client
        if kind in ("deployer", "execution role"):
            name = (self.deployer if kind == "deployer" else self.role).rpartition("/")[2]
            policy = "own" if kind == "deployer" else "all"
            iam.put_role_policy(RoleName=name, PolicyName=policy, PolicyDocument=document(*statements))
            return
        to = self.deployer if kind == "group" else self.role
        via = {"StringEquals": {"kms:ViaService": "s3.us-east-1.amazonaws.com", "kms:CallerAccount": STAGE}}
        open_to = [{**s, "Principal": {"AWS": to}} for s in statements]
        if kind == "key":
            text = document(self.root, *({**s, "Condition": via} for s in open_to))
            first("kms").put_key_policy(KeyId=self.key, PolicyName="default", Policy=text)
        elif kind == "bucket" and open_to:
            first("s3").put_bucket_policy(Bucket=self.bucket, Policy=document(*open_to))
        elif kind == "bucket":
            first("s3").delete_bucket_policy(Bucket=self.bucket)
        elif kind == "repository" and open_to:
            first("ecr").set_repository_policy(repositoryName=self.repository, policyText=document(*open_to))
        elif kind == "repository":
            first("ecr").delete_repository_policy(repositoryName=self.repository)
        elif open_to:
            text = document(*open_to)
            first("sagemaker").put_model_package_group_policy(
                ModelPackageGroupName="shared", ResourcePolicy=text
            )
        else:
            first("sagemaker").delete_model_package_group_policy(ModelPackageGroupName="shared")

    @contextmanager
    def without(self, kind: str, action: str) -> Iterator[None]:
        """Take the statements with an action away."""
        self.put(kind, [s for s in self.grants[kind] if action not in str(s["Action"])])
        yield
        self.put(kind, self.grants[kind])

    def deploy(self, **config: Any) -> str:
        """Make model and endpoint in the second account; why it failed, "" when it serves."""
        client, name = self.as_deployer("sagemaker"), self.stage.name("shared")
        container = {"ModelPackageName": self.package}
        try:
            client.create_model(ModelName=name, ExecutionRoleArn=self.role, PrimaryContainer=container)
        except ClientError as error:
            return error.response["Error"]["Message"]
        variant = {"VariantName": "AllTraffic", "ModelName": name, "InstanceType": "ml.t2.medium"}
        capture = {"InitialSamplingPercentage": 100, "DestinationS3Uri": f"s3://{self.bucket}/captured"}
        capture |= {"EnableCapture": True, "CaptureOptions": [{"CaptureMode": "Input"}], "KmsKeyId": self.key}
        client.create_endpoint_config(
            EndpointConfigName=name,
            ProductionVariants=[{**variant, "InitialInstanceCount": 1}],
            DataCaptureConfig=capture,
            **config,
        )
        try:
            client.create_endpoint(EndpointName=name, EndpointConfigName=name)
        except ClientError as error:
            return error.response["Error"]["Message"]

        def settled() -> Any:
            found = client.describe_endpoint(EndpointName=name)
            return found["EndpointStatus"] != "Creating" and found

        found = self.stage.wait(settled, 60, name)
        self.name = name
        return found.get("FailureReason", "")

    def as_deployer(self, service: str) -> Any:
        """A client of who deploys."""
        return self.stage.client(service, **session(self.stage.client("sts"), self.deployer))


@pytest.fixture(scope="module")
def shared(tools: LocalCloud, stage: LocalCloud) -> Shared:
    """A package of the first account that the second may use."""
    return Shared(tools, stage)


def test_the_second_account_serves_the_firsts_model(
    tools: LocalCloud, stage: LocalCloud, shared: Shared
) -> None:
    client = shared.as_deployer("sagemaker")
    assert client.describe_model_package(ModelPackageName=shared.package)["ModelPackageVersion"] == 1
    with pytest.raises(ClientError, match="does not exist"):  # by name it would be the second account's own
        client.describe_model_package(
            ModelPackageName=f"arn:aws:sagemaker:us-east-1:{STAGE}:model-package/x/1"
        )
    assert shared.deploy() == ""
    runtime = stage.client("sagemaker-runtime")
    answer = runtime.invoke_endpoint(EndpointName=shared.name, Body=b"1", ContentType="text/csv")
    assert answer["Body"].read() == b"0.75"

    def captured() -> list[dict[str, Any]]:
        return (
            tools.client("s3").list_objects_v2(Bucket=shared.bucket, Prefix="captured/").get("Contents", [])
        )

    key = tools.wait(captured, what="captured data in the first account's bucket")[0]["Key"]
    head = tools.client("s3").head_object(Bucket=shared.bucket, Key=key)
    assert head["SSEKMSKeyId"] == shared.key
    assert shared.as_deployer("sts").get_caller_identity()["Account"] == STAGE
    denied = [d for d in tools.control("denials") if shared.name in d["message"]]
    assert not denied
    client.delete_endpoint(EndpointName=shared.name)


@pytest.mark.parametrize(
    ("kind", "action", "words"),
    [
        ("deployer", "sagemaker:CreateModel", ("sagemaker:CreateModel", "no identity-based policy")),
        ("group", "sagemaker:CreateModel", ("sagemaker:CreateModel", "no resource-based policy")),
        ("execution role", "ecr:*", ("ecr:BatchCheckLayerAvailability", "no identity-based policy")),
        ("repository", "ecr:BatchGetImage", ("ecr:BatchCheckLayerAvailability", "no resource-based policy")),
        ("execution role", "s3:GetObject", ("s3:GetObject", "no identity-based policy")),
        ("bucket", "s3:GetObject", ("s3:GetObject", "no resource-based policy")),
        ("execution role", "kms:Decrypt", ("kms:Decrypt", "no identity-based policy")),
        ("key", "kms:Decrypt", ("kms:Decrypt", "no resource-based policy")),
    ],
)
def test_each_grant_is_needed_and_named(
    shared: Shared, kind: str, action: str, words: tuple[str, ...]
) -> None:
    with shared.without(kind, action):
        reason = shared.deploy()
    assert reason
    if action == "s3:GetObject":  # S3 answers HEAD without a word: what it was stands in the evidence only
        reason = shared.tools.control("denials")[-1]["message"]
    for word in words:
        assert word in reason, reason


def test_a_volume_takes_a_grant_of_the_firsts_key(shared: Shared) -> None:
    volume = {"KmsKeyId": shared.key}
    lend = {"Action": "kms:CreateGrant", "Resource": shared.key}
    assert "kms:CreateGrant" in (message := shared.deploy(**volume)) and shared.key in message
    shared.put("execution role", [*shared.grants["execution role"], lend])
    assert "kms:CreateGrant" in shared.deploy(**volume)  # the key's side is missing
    for_services = {
        "Bool": {"kms:GrantIsForAWSResource": "true"},
        "StringEquals": {"kms:CallerAccount": STAGE},
    }
    own = [{**s, "Principal": {"AWS": shared.role}} for s in shared.grants["key"]]
    opened = {**lend, "Principal": {"AWS": shared.role}, "Condition": for_services}
    text = document(shared.root, *own, opened)
    shared.tools.client("kms").put_key_policy(KeyId=shared.key, PolicyName="default", Policy=text)
    assert shared.deploy(**volume) == ""
    for kind in ("execution role", "key"):
        shared.put(kind, shared.grants[kind])


def test_stack_sets_are_refused_by_name(tools: LocalCloud) -> None:
    with pytest.raises(ClientError, match="Unknown action: CreateStackSet"):
        tools.client("cloudformation").create_stack_set(StackSetName="set", TemplateBody="{}")


# -- a pipeline that deploys into another account ----------------------------------------------------------
TEMPLATE = """
Parameters: {Told: {Type: 'AWS::SSM::Parameter::Value<String>', Default: /of/this/account}}
Resources: {Topic: {Type: 'AWS::SNS::Topic', Properties: {TopicName: !Sub 'across-${Told}'}}}
Outputs: {Topic: {Value: !Ref Topic}}
"""


class Crossing:
    """A pipeline of the first account whose action works in the second; the grants by who has them."""

    def __init__(self, tools: LocalCloud, stage: LocalCloud) -> None:
        self.tools, self.stage = tools, stage
        self.key = tools.client("kms").create_key()["KeyMetadata"]["Arn"]
        self.bucket = tools.bucket()
        source = packed({"template.yaml": TEMPLATE})
        tools.client("s3").put_object(Bucket=self.bucket, Key="source.zip", Body=source)
        stage.client("ssm").put_parameter(Name="/of/this/account", Type="String", Value="second")
        self.pipeline_role = tools.role("codepipeline")
        self.action_role = person(stage, self.pipeline_role)
        self.stack_role = stage.role("cloudformation")
        objects = {"Resource": f"arn:aws:s3:::{self.bucket}/*"}
        self.grants: dict[str, list[dict[str, Any]]] = {
            "pipeline role": [
                {"Action": ["s3:*", "kms:*"], "Resource": "*"},
                {"Action": "sts:AssumeRole", "Resource": self.action_role},
            ],
            "action role": [
                {"Action": "cloudformation:*", "Resource": f"arn:aws:cloudformation:*:{STAGE}:stack/far/*"},
                {"Action": "iam:PassRole", "Resource": self.stack_role},
                {"Action": "s3:GetObject", **objects},
                {"Action": "kms:Decrypt", "Resource": self.key},
            ],
            "stack role": [
                {"Action": "sns:*", "Resource": f"arn:aws:sns:*:{STAGE}:across-second"},
                {"Action": "ssm:GetParameters", "Resource": f"arn:aws:ssm:*:{STAGE}:parameter/of/*"},
            ],
            "trust": [{"Action": "sts:AssumeRole"}],
            "bucket": [{"Action": "s3:GetObject", **objects}],
            "key": [{"Action": "kms:Decrypt", "Resource": "*"}],
        }
        for kind in self.grants:
            self.put(kind, self.grants[kind])

    def put(self, kind: str, statements: list[dict[str, Any]]) -> None:
        """Make a policy hold these statements (and what its owner needs)."""
        roles = {
            "pipeline role": self.pipeline_role,
            "action role": self.action_role,
            "stack role": self.stack_role,
        }
        own = {"Principal": {"AWS": f"arn:aws:iam::{TOOLS}:root"}, "Resource": "*"}
        other = [{**s, "Principal": {"AWS": self.action_role}} for s in statements]
        if kind in roles:
            there = self.tools if kind == "pipeline role" else self.stage
            there.client("iam").put_role_policy(
                RoleName=roles[kind].rpartition("/")[2],
                PolicyName="own" if kind == "action role" else "all",
                PolicyDocument=document(*statements),
            )
        elif kind == "trust":
            trusted = self.pipeline_role if statements else f"arn:aws:iam::{STAGE}:root"
            text = document({"Action": "sts:AssumeRole", "Principal": {"AWS": trusted}})
            self.stage.client("iam").update_assume_role_policy(
                RoleName=self.action_role.rpartition("/")[2], PolicyDocument=text
            )
        elif kind == "key":
            text = document({"Action": "kms:*", **own}, *other)
            self.tools.client("kms").put_key_policy(KeyId=self.key, PolicyName="default", Policy=text)
        elif other:
            self.tools.client("s3").put_bucket_policy(Bucket=self.bucket, Policy=document(*other))
        else:
            self.tools.client("s3").delete_bucket_policy(Bucket=self.bucket)

    def run(self, encrypted: bool = True, **more: Any) -> str:
        """Make the pipeline and let it run; why its action failed, "" when it did not."""
        client, name = self.tools.client("codepipeline"), self.tools.name("across")
        source = {"S3Bucket": self.bucket, "S3ObjectKey": "source.zip", "PollForSourceChanges": "false"}
        stack = {"ActionMode": "CREATE_UPDATE", "StackName": "far", "TemplatePath": "Code::template.yaml"}
        kind = {"category": "Deploy", "owner": "AWS", "provider": "CloudFormation", "version": "1"}
        deploy = {
            "name": "Deploy",
            "actionTypeId": kind,
            "roleArn": self.action_role,
            "inputArtifacts": [{"name": "Code"}],
            "configuration": {**stack, "RoleArn": self.stack_role, **more},
        }
        fetch = {
            "name": "Fetch",
            "actionTypeId": {"category": "Source", "owner": "AWS", "provider": "S3", "version": "1"},
            "outputArtifacts": [{"name": "Code"}],
            "configuration": source,
        }
        store: dict[str, Any] = {"type": "S3", "location": self.bucket}
        store |= {"encryptionKey": {"id": self.key, "type": "KMS"}} if encrypted else {}
        stages = [{"name": "Source", "actions": [fetch]}, {"name": "Deploy", "actions": [deploy]}]
        client.create_pipeline(
            pipeline={
                "name": name,
                "roleArn": self.pipeline_role,
                "artifactStore": store,
                "stages": stages,
                "pipelineType": "V2",
            }
        )

        def ended() -> Any:
            found = client.list_pipeline_executions(pipelineName=name)["pipelineExecutionSummaries"]
            return found and found[0]["status"] not in ("InProgress",) and found[0]["status"]

        status = self.tools.wait(ended, 60, name)
        details = client.list_action_executions(pipelineName=name)["actionExecutionDetails"]
        failed = [a for a in details if a["status"] == "Failed"]
        assert bool(failed) == (status == "Failed")
        return failed[0]["output"]["executionResult"]["errorDetails"]["message"] if failed else ""


@pytest.fixture(scope="module")
def crossing(tools: LocalCloud, stage: LocalCloud) -> Crossing:
    """A pipeline that deploys into the second account."""
    return Crossing(tools, stage)


def test_a_pipeline_deploys_into_another_account(stage: LocalCloud, crossing: Crossing) -> None:
    assert crossing.run() == ""
    assert stage.outputs("far") == {"Topic": f"arn:aws:sns:us-east-1:{STAGE}:across-second"}
    assert not crossing.tools.stack_status("far")
    census = {(s["account"], s["name"]) for s in crossing.tools.control("stacks")}
    assert (STAGE, "far") in census
    assert (TOOLS, "far") not in census
    stage.delete_stack("far")


@pytest.mark.parametrize(
    ("kind", "action", "words"),
    [
        ("pipeline role", "sts:AssumeRole", ("sts:AssumeRole", "no identity-based policy")),
        ("trust", "sts:AssumeRole", ("sts:AssumeRole", "no resource-based policy")),
        ("action role", "s3:GetObject", ("s3:GetObject", "no identity-based policy")),
        ("bucket", "s3:GetObject", ("s3:GetObject", "no resource-based policy")),
        ("action role", "kms:Decrypt", ("kms:Decrypt", "no identity-based policy")),
        ("key", "kms:Decrypt", ("kms:Decrypt", "no resource-based policy")),
        ("action role", "cloudformation:*", ("cloudformation:DescribeStacks", "no identity-based policy")),
        ("action role", "iam:PassRole", ("iam:PassRole", "no identity-based policy")),
        ("stack role", "ssm:GetParameters", ("ssm:GetParameters", "no identity-based policy")),
        ("stack role", "sns:*", ("sns:CreateTopic", "no identity-based policy")),
    ],
)
def test_each_grant_of_a_crossing_is_needed_and_named(
    crossing: Crossing, kind: str, action: str, words: tuple[str, ...]
) -> None:
    crossing.put(kind, [s for s in crossing.grants[kind] if action not in str(s["Action"])])
    message = crossing.run()
    crossing.put(kind, crossing.grants[kind])
    for word in words:
        assert word in message, message


def test_a_crossing_needs_a_key_of_the_customer(crossing: Crossing) -> None:
    crossing.stage.delete_stack("far")
    assert "customer managed key" in crossing.run(encrypted=False)


def test_roles_are_handed_over_within_an_account_only(
    tools: LocalCloud, crossing: Crossing, visitor: tuple[str, Any]
) -> None:
    client = visitor[1]("codebuild", {"Action": "*", "Resource": "*"})
    project = {
        "name": "project",
        "source": {"type": "NO_SOURCE", "buildspec": "version: 0.2\nphases: {}\n"},
        "artifacts": {"type": "NO_ARTIFACTS"},
        "environment": {"type": "LINUX_CONTAINER", "image": "x", "computeType": "BUILD_GENERAL1_SMALL"},
    }
    refused(client.create_project, "Cross-account pass role", **project, serviceRole=tools.role("codebuild"))
    refused(crossing.tools.client("codebuild").create_project, "Cross-account pass role", **project,
            serviceRole=crossing.stage.role("codebuild"))  # fmt: skip


# -- isolation ----------------------------------------------------------------------------------------------
def make_one_of_each(there: LocalCloud) -> dict[str, str]:
    """Make things named ``one`` with every service that keeps things by name; what tells them apart."""
    role = there.role("codebuild", "codepipeline", "lambda", "states", "scheduler", "sagemaker", "events")
    bucket, client = there.bucket(), there.client
    project = {
        "source": {"type": "NO_SOURCE", "buildspec": "version: 0.2\nphases: {}\n"},
        "artifacts": {"type": "NO_ARTIFACTS"},
        "environment": {"type": "LINUX_CONTAINER", "image": "x", "computeType": "BUILD_GENERAL1_SMALL"},
    }
    code = "import boto3\nhandler = lambda *_: boto3.client('sts').get_caller_identity()['Account']"
    function = {"Runtime": "python3.11", "Handler": "f.handler", "Code": {"ZipFile": packed({"f.py": code})}}
    call = {"StartAt": "Pass", "States": {"Pass": {"Type": "Pass", "End": True}}}
    table = {"KeySchema": [{"AttributeName": "a", "KeyType": "HASH"}], "BillingMode": "PAY_PER_REQUEST"}
    table["AttributeDefinitions"] = [{"AttributeName": "a", "AttributeType": "S"}]
    target = {"Arn": "arn:aws:scheduler:::aws-sdk:sns:publish", "RoleArn": role, "Input": "{}"}
    alarm = {"Namespace": "x", "MetricName": "y", "ComparisonOperator": "GreaterThanThreshold"}
    alarm |= {"EvaluationPeriods": 1, "Period": 60, "Threshold": 1, "Statistic": "Sum"}
    steps = [{"Name": "Stop", "Type": "Fail", "Arguments": {"ErrorMessage": "no"}}]
    definition = json.dumps({"Version": "2020-12-01", "Parameters": [], "Steps": steps})
    key = client("kms").create_key()["KeyMetadata"]["Arn"]
    client("kms").create_alias(AliasName="alias/one", TargetKeyId=key)
    client("codeartifact").create_domain(domain="one")
    client("dynamodb").create_table(TableName="one", **table)
    client("ssm").put_parameter(Name="/one", Type="String", Value=there.account)
    client("logs").create_log_group(logGroupName="one")
    client("codecommit").create_repository(repositoryName="one")
    client("codecommit").create_commit(
        repositoryName="one",
        branchName="main",
        putFiles=[{"filePath": "a", "fileContent": there.account.encode()}],
    )
    client("cloudwatch").put_metric_alarm(AlarmName="one", **alarm)
    client("events").put_rule(Name="one", ScheduleExpression="rate(1 day)")
    made = {
        "codeartifact": client("codeartifact").create_repository(domain="one", repository="one")[
            "repository"
        ]["arn"],
        "codebuild": client("codebuild").create_project(name="one", serviceRole=role, **project)["project"][
            "arn"
        ],
        "ecr": client("ecr").create_repository(repositoryName="one")["repository"]["repositoryArn"],
        "lambda": client("lambda").create_function(FunctionName="one", Role=role, **function)["FunctionArn"],
        "sagemaker": client("sagemaker").create_pipeline(
            PipelineName="one", ClientRequestToken="t" * 32, RoleArn=role, PipelineDefinition=definition
        )["PipelineArn"],
        "scheduler": client("scheduler").create_schedule(
            Name="one", ScheduleExpression="rate(1 day)", FlexibleTimeWindow={"Mode": "OFF"}, Target=target
        )["ScheduleArn"],
        "secretsmanager": client("secretsmanager").create_secret(Name="one", SecretString=there.account)[
            "ARN"
        ],
        "servicecatalog": client("servicecatalog").create_portfolio(DisplayName="one", ProviderName="me")[
            "PortfolioDetail"
        ]["ARN"],
        "sns": client("sns").create_topic(Name="one")["TopicArn"],
        "sqs": client("sqs").create_queue(QueueName="one")["QueueUrl"],
        "states": client("stepfunctions").create_state_machine(
            name="one", definition=json.dumps(call), roleArn=role
        )["stateMachineArn"],
    }
    client("s3").put_object(Bucket=bucket, Key="a", Body=b"a")
    return made


def test_equal_names_in_two_accounts_do_not_meet(
    tools: LocalCloud, stage: LocalCloud, tmp_path: Path
) -> None:
    made = {there.account: make_one_of_each(there) for there in (tools, stage)}
    for there, other in ((tools, stage), (stage, tools)):
        account, client = there.account, there.client
        assert [s for s, arn in made[account].items() if account not in arn or other.account in arn] == []
        assert f":{account}:" in client("kms").describe_key(KeyId="alias/one")["KeyMetadata"]["Arn"]
        assert client("ssm").get_parameter(Name="/one")["Parameter"]["Value"] == account
        assert client("secretsmanager").get_secret_value(SecretId="one")["SecretString"] == account
        heads = there.git("ls-remote", f"{there.endpoint}/v1/repos/one", cwd=tmp_path).stdout
        tip = client("codecommit").get_branch(repositoryName="one", branchName="main")["branch"]["commitId"]
        assert tip in heads
        token = client("codeartifact").get_authorization_token(domain="one")["authorizationToken"]
        index = urllib.request.Request(f"{there.endpoint}/codeartifact/one/one/pypi/simple/")
        index.add_header("Authorization", f"Basic {base64.b64encode(f'aws:{token}'.encode()).decode()}")
        with pytest.raises(HTTPError, match="404"):  # let in, to a repository without an upstream
            urllib.request.urlopen(index, timeout=30)
        file = client("codecommit").get_file(repositoryName="one", filePath="a")
        assert file["fileContent"] == account.encode()
        assert f":{account}:" in client("dynamodb").describe_table(TableName="one")["Table"]["TableArn"]
        alarms = client("cloudwatch").describe_alarms(AlarmNames=["one"])["MetricAlarms"]
        assert [a["AlarmArn"].split(":")[4] for a in alarms] == [account]
        answer = client("lambda").invoke(FunctionName="one")["Payload"].read()
        assert json.loads(answer) == account  # a function works in its own account, too
        portfolios = client("servicecatalog").list_portfolios()["PortfolioDetails"]
        assert [p["ARN"].split(":")[4] for p in portfolios if p["DisplayName"] == "one"] == [account]
        execution = client("stepfunctions").start_execution(stateMachineArn=made[account]["states"])
        assert account in execution["executionArn"]
    # what one deletes stays with the other, and cannot be named from there
    stage.client("codebuild").delete_project(name="one")
    stage.client("codecommit").delete_repository(repositoryName="one")
    assert tools.client("codebuild").batch_get_projects(names=["one"])["projects"]
    assert (
        tools.client("codecommit").get_repository(repositoryName="one")["repositoryMetadata"]["accountId"]
        == TOOLS
    )
    assert not stage.client("codebuild").batch_get_projects(names=["one"])["projects"]
    with pytest.raises(ClientError, match="not|denied|does not exist"):
        stage.client("stepfunctions").describe_state_machine(stateMachineArn=made[TOOLS]["states"])
    with pytest.raises(ClientError):
        stage.client("sagemaker").describe_pipeline(PipelineName=made[TOOLS]["sagemaker"])


def test_each_account_is_searched_for_secrets(tools: LocalCloud, stage: LocalCloud) -> None:
    word = "planted-in-the-second-account"
    stage.client("ssm").put_parameter(Name="/leak", Type="String", Value=word)
    found = tools.control("leaks", secrets={"planted": word})["found"]
    assert {"what": "planted", "where": "parameter: /leak"} in found


def test_a_build_takes_a_role_of_another_account(tools: LocalCloud, stage: LocalCloud) -> None:
    builder = tools.role("codebuild")
    role = person(stage, builder, {"Action": "s3:ListAllMyBuckets", "Resource": "*"})
    take = f"aws sts assume-role --role-arn {role} --role-session-name build --query AssumedRoleUser.Arn"
    spec = {"version": "0.2", "phases": {"build": {"commands": [take, "aws sts get-caller-identity"]}}}
    client, name = tools.client("codebuild"), tools.name("build")
    client.create_project(
        name=name,
        source={"type": "NO_SOURCE", "buildspec": json.dumps(spec, indent=1)},
        artifacts={"type": "NO_ARTIFACTS"},
        environment={"type": "LINUX_CONTAINER", "image": "x", "computeType": "BUILD_GENERAL1_SMALL"},
        serviceRole=builder,
    )
    build = client.start_build(projectName=name)["build"]["id"]

    def ended() -> Any:
        found = client.batch_get_builds(ids=[build])["builds"][0]
        return found["buildComplete"] and found

    logs = tools.wait(ended, 60, name)["logs"]
    events = tools.client("logs").get_log_events(
        logGroupName=logs["groupName"], logStreamName=logs["streamName"]
    )["events"]
    log = "".join(e["message"] for e in events)
    assert f"arn:aws:sts::{STAGE}:assumed-role/{role.rpartition('/')[2]}/build" in log
    assert f'"Account": "{TOOLS}"' in log


def test_a_stack_hands_over_roles_of_its_account_only(tools: LocalCloud, stage: LocalCloud) -> None:
    role, own = stage.role("codebuild"), tools.role("cloudformation")
    project = {
        "Source": {"Type": "NO_SOURCE", "BuildSpec": "version: 0.2\nphases: {}\n"},
        "Artifacts": {"Type": "NO_ARTIFACTS"},
        "Environment": {
            "Type": "LINUX_CONTAINER",
            "Image": "aws/codebuild/amazonlinux-x86_64-standard:6.0",
            "ComputeType": "BUILD_GENERAL1_SMALL",
        },
        "ServiceRole": role,
    }
    template = {"Resources": {"Project": {"Type": "AWS::CodeBuild::Project", "Properties": project}}}
    name = tools.name("stack")
    tools.client("cloudformation").create_stack(
        StackName=name, TemplateBody=json.dumps(template), RoleARN=own
    )
    tools.wait(lambda: not tools.stack_status(name).endswith("IN_PROGRESS"), 60, name)
    assert "Cross-account pass role is not allowed" in str(tools.stack_reasons(name))


def test_a_chained_role_lasts_an_hour(stage: LocalCloud) -> None:
    role = person(stage, f"arn:aws:iam::{STAGE}:root", {"Action": "sts:AssumeRole", "Resource": "*"})
    chained = stage.client("sts", **session(stage.client("sts"), role))
    refused(chained.assume_role, "1 hour", RoleArn=role, RoleSessionName="again", DurationSeconds=3601)
    chained.assume_role(RoleArn=role, RoleSessionName="again")
