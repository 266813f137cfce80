"""What calls imply on keys: services use a customer's key in the name of their caller, as AWS does.

Each case is tried by a role that may call the service but use no key, which must be denied by the name of the
KMS action; then by the same role with the key, through that service only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

Call = Callable[[Any, str, Callable[[str], Any]], Any]
ASSUME = {"Effect": "Allow", "Action": "sts:AssumeRole"}


def document(*statements: dict[str, Any]) -> str:
    """A policy."""
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def make_key(cloud: Any, *more: dict[str, Any]) -> str:
    """A key that its account's policies decide about; its ARN."""
    root = {"AWS": f"arn:aws:iam::{cloud.account}:root"}
    own = {"Effect": "Allow", "Principal": root, "Action": "kms:*", "Resource": "*"}
    return cloud.client("kms").create_key(Policy=document(own, *more))["KeyMetadata"]["Arn"]


class Person:
    """A role of the test's own with policies that change, and clients under it."""

    def __init__(self, cloud: Any) -> None:
        self.cloud, self.name, self.iam = cloud, cloud.name("role"), cloud.client("iam")
        trust = document({**ASSUME, "Principal": {"AWS": f"arn:aws:iam::{cloud.account}:root"}})
        self.arn = self.iam.create_role(RoleName=self.name, AssumeRolePolicyDocument=trust)["Role"]["Arn"]
        self.may("services", {"Effect": "Allow", "NotAction": "kms:*", "Resource": "*"})
        keys = cloud.client("sts").assume_role(RoleArn=self.arn, RoleSessionName="jane")["Credentials"]
        self.keys = {
            "aws_access_key_id": keys["AccessKeyId"],
            "aws_secret_access_key": keys["SecretAccessKey"],
            "aws_session_token": keys["SessionToken"],
        }

    def may(self, policy: str, *statements: dict[str, Any]) -> None:
        """Set one of the role's policies."""
        self.iam.put_role_policy(RoleName=self.name, PolicyName=policy, PolicyDocument=document(*statements))

    def client(self, service: str) -> Any:
        """A client under the role."""
        settings = Config(
            retries={"max_attempts": 1}, s3={"addressing_style": "path"}, inject_host_prefix=False
        )
        return boto3.client(
            service, endpoint_url=self.cloud.endpoint, region_name="us-east-1", config=settings, **self.keys
        )


@pytest.fixture(scope="module", autouse=True)
def enforced(cloud) -> Iterator[None]:
    """Roles are asked for their policies, whatever the cloud was set to."""
    before = cloud.control("settings")["enforce"]
    cloud.control("settings", enforce=True)
    yield
    cloud.control("settings", enforce=before)


@pytest.fixture(scope="module")
def image(cloud) -> str:
    """The URI of an image that does nothing."""
    return cloud.image({"/run": "#!/bin/sh\n"}, ["/run"])


@pytest.fixture
def person(cloud) -> Person:
    return Person(cloud)


def encrypted_bucket(cloud: Any, key: str, bucket_key: bool = True) -> str:
    """A bucket with a default key; its name."""
    bucket = cloud.bucket()
    default = {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": key}
    rule = {"ApplyServerSideEncryptionByDefault": default, "BucketKeyEnabled": bucket_key}
    cloud.client("s3").put_bucket_encryption(
        Bucket=bucket, ServerSideEncryptionConfiguration={"Rules": [rule]}
    )
    return bucket


def put(cloud: Any, key: str, client: Any) -> None:
    client("s3").put_object(Bucket=encrypted_bucket(cloud, key), Key="x", Body=b"x")


def put_by_header(cloud: Any, key: str, client: Any) -> None:
    named = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": key}
    client("s3").put_object(Bucket=cloud.bucket(), Key="x", Body=b"x", **named)


def get(cloud: Any, key: str, client: Any) -> None:
    bucket = encrypted_bucket(cloud, key)
    version = cloud.client("s3").put_object(Bucket=bucket, Key="x", Body=b"x")["VersionId"]
    cloud.client("s3").delete_bucket_encryption(Bucket=bucket)  # the object keeps its key
    cloud.client("s3").put_object(Bucket=bucket, Key="x", Body=b"newer, and without a key")
    client("s3").get_object(Bucket=bucket, Key="x")
    client("s3").get_object(Bucket=bucket, Key="x", VersionId=version)


def part(cloud: Any, key: str, client: Any) -> None:
    bucket = encrypted_bucket(cloud, key)
    upload = cloud.client("s3").create_multipart_upload(Bucket=bucket, Key="x")["UploadId"]
    client("s3").upload_part(Bucket=bucket, Key="x", UploadId=upload, PartNumber=1, Body=b"x")


def begin_upload(cloud: Any, key: str, client: Any) -> None:
    client("s3").create_multipart_upload(Bucket=encrypted_bucket(cloud, key), Key="x")


def copy(cloud: Any, key: str, client: Any) -> None:
    source = encrypted_bucket(cloud, key)
    cloud.client("s3").put_object(Bucket=source, Key="a b", Body=b"x")
    client("s3").copy_object(Bucket=cloud.bucket(), Key="x", CopySource={"Bucket": source, "Key": "a b"})


def topic_of(cloud: Any, key: str) -> str:
    return cloud.client("sns").create_topic(Name=cloud.name(), Attributes={"KmsMasterKeyId": key})["TopicArn"]


def publish(cloud: Any, key: str, client: Any) -> None:
    client("sns").publish(TopicArn=topic_of(cloud, key), Message="x")


def send(cloud: Any, key: str, client: Any) -> None:
    attributes = {"KmsMasterKeyId": key.rpartition("/")[2]}  # an id is as good as an ARN
    queue = cloud.client("sqs").create_queue(QueueName=cloud.name(), Attributes=attributes)["QueueUrl"]
    client("sqs").send_message(QueueUrl=queue, MessageBody="x")


def receive(cloud: Any, key: str, client: Any) -> None:
    attributes = {"KmsMasterKeyId": key}
    queue = cloud.client("sqs").create_queue(QueueName=cloud.name(), Attributes=attributes)["QueueUrl"]
    client("sqs").receive_message(QueueUrl=queue)


def put_parameter(cloud: Any, key: str, client: Any) -> None:
    client("ssm").put_parameter(Name=f"/{cloud.name()}", Type="SecureString", Value="x", KeyId=key)


def get_parameter(cloud: Any, key: str, client: Any) -> None:
    name = f"/{cloud.name()}"
    cloud.client("ssm").put_parameter(Name=name, Type="SecureString", Value="x", KeyId=key)
    client("ssm").get_parameter(Name=name)  # the cipher text is nobody's secret
    client("ssm").get_parameter(Name=name, WithDecryption=True)


def put_secret(cloud: Any, key: str, client: Any) -> None:
    client("secretsmanager").create_secret(Name=cloud.name(), SecretString="x", KmsKeyId=key)


def get_secret(cloud: Any, key: str, client: Any) -> None:
    name = cloud.name()
    cloud.client("secretsmanager").create_secret(Name=name, SecretString="x", KmsKeyId=key)
    client("secretsmanager").get_secret_value(SecretId=name)


def commit(cloud: Any, key: str, client: Any) -> None:
    name = cloud.name()
    cloud.client("codecommit").create_repository(repositoryName=name, kmsKeyId=key)
    files = [{"filePath": "a", "fileContent": b"a"}]
    client("codecommit").create_commit(repositoryName=name, branchName="main", putFiles=files)


def read_file(cloud: Any, key: str, client: Any) -> None:
    name = cloud.name()
    cloud.client("codecommit").create_repository(repositoryName=name, kmsKeyId=key)
    files = [{"filePath": "a", "fileContent": b"a"}]
    cloud.client("codecommit").create_commit(repositoryName=name, branchName="main", putFiles=files)
    client("codecommit").get_file(repositoryName=name, filePath="a")


def make_image_repository(cloud: Any, key: str, client: Any) -> None:
    encryption = {"encryptionType": "KMS", "kmsKey": key}
    client("ecr").create_repository(repositoryName=cloud.name(), encryptionConfiguration=encryption)


def make_schedule(cloud: Any, key: str, client: Any) -> None:
    client("scheduler").create_schedule(
        Name=cloud.name(),
        ScheduleExpression="rate(1 day)",
        FlexibleTimeWindow={"Mode": "OFF"},
        KmsKeyArn=key,
        Target={"Arn": "arn:aws:scheduler:::aws-sdk:ssm:putParameter", "RoleArn": cloud.role("scheduler")},
    )


def make_package_domain(cloud: Any, key: str, client: Any) -> None:
    client("codeartifact").create_domain(domain=cloud.name(), encryptionKey=key)


CASES: list[tuple[Call, str, str]] = [
    (put, "s3", "kms:GenerateDataKey"),
    (put_by_header, "s3", "kms:GenerateDataKey"),
    (begin_upload, "s3", "kms:GenerateDataKey"),
    (get, "s3", "kms:Decrypt"),
    (part, "s3", "kms:Decrypt"),
    (copy, "s3", "kms:Decrypt"),
    (publish, "sns", "kms:GenerateDataKey"),
    (send, "sqs", "kms:GenerateDataKey"),
    (receive, "sqs", "kms:Decrypt"),
    (put_parameter, "ssm", "kms:Encrypt"),
    (get_parameter, "ssm", "kms:Decrypt"),
    (put_secret, "secretsmanager", "kms:GenerateDataKey"),
    (get_secret, "secretsmanager", "kms:Decrypt"),
    (commit, "codecommit", "kms:GenerateDataKey"),
    (read_file, "codecommit", "kms:Decrypt"),
    (make_image_repository, "ecr", "kms:CreateGrant"),
    (make_schedule, "scheduler", "kms:DescribeKey"),
    (make_package_domain, "codeartifact", "kms:CreateGrant"),
]


@pytest.mark.parametrize(("call", "service", "action"), CASES, ids=[c[0].__name__ for c in CASES])
def test_a_service_uses_the_key_in_its_callers_name(cloud, person, call, service, action):
    key = make_key(cloud)
    with pytest.raises(ClientError, match=f"{action} on resource: {key}"):
        call(cloud, key, person.client)
    use = {"Effect": "Allow", "Action": "kms:*", "Resource": key}
    elsewhere = {"StringEquals": {"kms:ViaService": "ec2.us-east-1.amazonaws.com"}}
    person.may("key", use | {"Condition": elsewhere})
    with pytest.raises(ClientError, match=f"{action} on resource: {key}"):
        call(cloud, key, person.client)
    through = {"StringEquals": {"kms:ViaService": f"{service}.us-east-1.amazonaws.com"}}
    person.may("key", use | {"Condition": through})
    call(cloud, key, person.client)
    with pytest.raises(ClientError, match="kms:GenerateDataKey"):  # not by hand
        person.client("kms").generate_data_key(KeyId=key, KeySpec="AES_256")


def test_keys_of_aws_let_everybody_of_the_account_in(cloud, person):
    for call in (publish, receive, put_parameter, get_secret):
        service = {"publish": "sns", "receive": "sqs", "put_parameter": "ssm"}.get(
            call.__name__, "secretsmanager"
        )
        call(cloud, f"alias/aws/{service}", person.client)


@pytest.mark.parametrize("bucket_key", [True, False])
def test_the_context_is_the_bucket_or_the_object(cloud, person, bucket_key):
    key = make_key(cloud)
    bucket = encrypted_bucket(cloud, key, bucket_key)
    arn = f"arn:aws:s3:::{bucket}"
    use = {"Effect": "Allow", "Action": "kms:GenerateDataKey", "Resource": key}
    name = "kms:EncryptionContext:aws:s3:arn"
    right, wrong = (arn, f"{arn}/x") if bucket_key else (f"{arn}/x", arn)
    person.may("key", use | {"Condition": {"StringEquals": {name: wrong}}})
    with pytest.raises(ClientError, match="kms:GenerateDataKey"):
        person.client("s3").put_object(Bucket=bucket, Key="x", Body=b"x")
    person.may("key", use | {"Condition": {"StringEquals": {name: right}}})
    person.client("s3").put_object(Bucket=bucket, Key="x", Body=b"x")


def test_a_key_policy_has_a_say_too(cloud, person):
    key = make_key(cloud)
    person.may("key", {"Effect": "Allow", "Action": "kms:*", "Resource": key})
    admin = {"AWS": f"arn:aws:iam::{cloud.account}:root"}
    only = {"Effect": "Allow", "Principal": admin, "Action": "kms:*", "Resource": "*"}
    mine = {"ArnLike": {"aws:PrincipalArn": f"arn:aws:iam::{cloud.account}:role/somebody-else"}}
    kms = cloud.client("kms")
    kms.put_key_policy(KeyId=key, PolicyName="default", Policy=document(only | {"Condition": mine}))
    with pytest.raises(ClientError, match="kms:GenerateDataKey"):
        put(cloud, key, person.client)
    mine["ArnLike"]["aws:PrincipalArn"] = person.arn
    kms.put_key_policy(KeyId=key, PolicyName="default", Policy=document(only | {"Condition": mine}))
    put(cloud, key, person.client)


def test_grants_are_for_services_only(cloud, person):
    only = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": "kms:CreateGrant",
        "Resource": "*",
        "Condition": {
            "BoolIfExists": {"kms:GrantIsForAWSResource": "false", "aws:PrincipalIsAWSService": "false"}
        },
    }
    key = make_key(cloud, only)
    person.may("key", {"Effect": "Allow", "Action": "kms:*", "Resource": key})
    with pytest.raises(ClientError, match="kms:CreateGrant.*explicit deny"):
        person.client("kms").create_grant(KeyId=key, GranteePrincipal=person.arn, Operations=["Decrypt"])
    make_image_repository(cloud, key, person.client)


def trained(cloud: Any, client: Any, key: str, role: str, image: str) -> None:
    client("sagemaker").create_training_job(
        TrainingJobName=cloud.name(),
        RoleArn=role,
        AlgorithmSpecification={"TrainingImage": image, "TrainingInputMode": "File"},
        OutputDataConfig={"S3OutputPath": f"s3://{cloud.bucket()}/out"},
        ResourceConfig={
            "InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1, "VolumeKmsKeyId": key,
        },
        StoppingCondition={"MaxRuntimeInSeconds": 60},
    )  # fmt: skip


def test_a_volume_needs_a_grant_of_the_job_or_of_its_maker(cloud, person, image):
    key, role = make_key(cloud), cloud.role("sagemaker")
    trained(cloud, person.client, key, role, image)  # its role may do everything
    nothing = {"Effect": "Deny", "Action": "kms:CreateGrant", "Resource": "*"}
    cloud.client("iam").put_role_policy(
        RoleName=role.rpartition("/")[2], PolicyName="no", PolicyDocument=document(nothing)
    )
    with pytest.raises(ClientError, match=f"kms:CreateGrant on resource: {key}"):
        trained(cloud, person.client, key, role, image)
    lend = {"Effect": "Allow", "Action": "kms:CreateGrant", "Resource": key}
    person.may("key", lend | {"Condition": {"Bool": {"kms:GrantIsForAWSResource": "true"}}})
    trained(cloud, person.client, key, role, image)


def test_an_endpoint_needs_a_grant(cloud, person, image):
    sagemaker, role = cloud.client("sagemaker"), cloud.role("sagemaker")
    key, name = make_key(cloud), cloud.name("model")
    sagemaker.create_model(ModelName=name, ExecutionRoleArn=role, PrimaryContainer={"Image": image})
    variant = {
        "VariantName": "v", "ModelName": name, "InstanceType": "ml.m5.large", "InitialInstanceCount": 1,
    }  # fmt: skip
    sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant], KmsKeyId=key)
    nothing = {"Effect": "Deny", "Action": "kms:CreateGrant", "Resource": "*"}
    cloud.client("iam").put_role_policy(
        RoleName=role.rpartition("/")[2], PolicyName="no", PolicyDocument=document(nothing)
    )
    with pytest.raises(ClientError, match=f"kms:CreateGrant on resource: {key}"):
        person.client("sagemaker").create_endpoint(EndpointName=name, EndpointConfigName=name)


def test_a_functions_environment_needs_its_key(cloud, person, pack):
    key = make_key(cloud)
    settings = {
        "Runtime": "python3.13",
        "Role": cloud.role("lambda"),
        "Handler": "index.handler",
        "Code": {"ZipFile": pack({"index.py": "def handler(event, context): pass"})},
        "KMSKeyArn": key,
    }
    person.client("lambda").create_function(FunctionName=cloud.name(), **settings)  # nothing to encrypt
    settings["Environment"] = {"Variables": {"A": "b"}}
    with pytest.raises(ClientError, match=f"kms:CreateGrant on resource: {key}"):
        person.client("lambda").create_function(FunctionName=cloud.name(), **settings)


# -- services by themselves: only the policy of the key counts ----------------------------------------------


def test_hook_log_keys(cloud):
    logs, group = cloud.client("logs"), cloud.name("/group")
    group_arn = f"arn:aws:logs:{cloud.region}:{cloud.account}:log-group:{group}"
    with pytest.raises(ClientError, match="not allowed to be used with Arn"):
        logs.create_log_group(logGroupName=group, kmsKeyId=make_key(cloud))
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": f"logs.{cloud.region}.amazonaws.com"},
        "Action": ["kms:Encrypt", "kms:Decrypt", "kms:GenerateDataKey*", "kms:DescribeKey"],
        "Resource": "*",
    }
    context = "kms:EncryptionContext:aws:logs:arn"
    other = make_key(cloud, statement | {"Condition": {"ArnLike": {context: f"{group_arn}-other"}}})
    made = {"Group": {"Type": "AWS::Logs::LogGroup", "Properties": {"LogGroupName": group}}}
    made["Group"]["Properties"]["KmsKeyId"] = other
    with pytest.raises(AssertionError, match="not allowed to be used with Arn"):
        cloud.stack(made)
    made["Group"]["Properties"]["KmsKeyId"] = make_key(
        cloud, statement | {"Condition": {"ArnLike": {context: group_arn}}}
    )
    cloud.stack(made)


@pytest.mark.parametrize("principal", ["cloudwatch", "events"])
def test_hook_key_of(cloud, principal):
    """An alarm and a rule reach an encrypted topic if the key's policy lets them; else the loss is told."""
    sns = cloud.client("sns")
    statement = {"Effect": "Allow", "Principal": {"Service": f"{principal}.amazonaws.com"}}
    use = statement | {"Action": ["kms:GenerateDataKey*", "kms:Decrypt"], "Resource": "*"}
    topics_of_this_account = f"arn:aws:sns:{cloud.region}:{cloud.account}:*"
    use["Condition"] = {"ArnLike": {"kms:EncryptionContext:aws:sns:topicArn": topics_of_this_account}}
    topics = [topic_of(cloud, make_key(cloud)), topic_of(cloud, make_key(cloud, use))]
    name = cloud.name("news")
    for topic in topics:
        policy = document(statement | {"Action": "sns:Publish", "Resource": topic})
        sns.set_topic_attributes(TopicArn=topic, AttributeName="Policy", AttributeValue=policy)
        cloud.subscribe(topic, f"{name}@example.com")
    if principal == "cloudwatch":
        watch = cloud.client("cloudwatch")
        watch.put_metric_alarm(
            AlarmName=name, Namespace="Test", MetricName=name, Statistic="Maximum", Period=60,
            EvaluationPeriods=1, Threshold=1, ComparisonOperator="GreaterThanThreshold", AlarmActions=topics,
        )  # fmt: skip
        watch.set_alarm_state(AlarmName=name, StateValue="ALARM", StateReason="a test")
    else:
        events = cloud.client("events")
        events.put_rule(Name=name, EventPattern=json.dumps({"source": [name]}))
        targets = [{"Id": str(number), "Arn": topic} for number, topic in enumerate(topics)]
        events.put_targets(Rule=name, Targets=targets)
        events.put_events(Entries=[{"Source": name, "DetailType": "x", "Detail": "{}"}])

    def reached() -> list[str]:
        mails = [m for m in cloud.control("outbox") if m["to"] == f"{name}@example.com"]
        return [m["topic"] for m in mails if "ConfirmSubscription" not in m["body"]]

    cloud.wait(lambda: topics[1] in reached())
    cloud.wait(
        lambda: any(
            topics[0] in line and f"does not let {principal}.amazonaws.com call kms:" in line
            for line in cloud.control("health")["undelivered"]
        )
    )
    assert topics[0] not in reached()


def test_a_schedules_role_reads_the_encrypted_payload(cloud):
    key, role, name = make_key(cloud), cloud.role("scheduler"), cloud.name("schedule")
    deny = {"Effect": "Deny", "Action": "kms:Decrypt", "Resource": "*"}
    cloud.client("iam").put_role_policy(
        RoleName=role.rpartition("/")[2], PolicyName="no", PolicyDocument=document(deny)
    )
    cloud.client("scheduler").create_schedule(
        Name=name,
        ScheduleExpression="rate(1 minute)",
        FlexibleTimeWindow={"Mode": "OFF"},
        KmsKeyArn=key,
        Target={
            "Arn": "arn:aws:scheduler:::aws-sdk:ssm:putParameter",
            "RoleArn": role,
            "Input": json.dumps({"Name": f"/{name}", "Type": "String", "Value": "x"}),
        },
    )
    cloud.control("clock", advance_seconds=70)
    told = f"{role} may not kms:Decrypt with {key}"
    cloud.wait(lambda: any(told in line for line in cloud.control("health")["undelivered"]))
    cloud.client("scheduler").delete_schedule(Name=name)
