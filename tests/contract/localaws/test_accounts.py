"""Several accounts in one cloud: what each has is its own, and crosses only where both sides let it."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError
from tests.contract.localaws.conftest import LocalCloud, start

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
