"""The key and the bucket of a project as the template makes them: who gets at them, and how."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

TEMPLATE = Path(__file__).resolve().parents[3] / "mlops-cfn/project/data.yaml"
OURS, THEIRS = "p-ouroursours", "p-theirstheirs"
EVERYTHING = {"Effect": "Allow", "Action": "*", "Resource": "*"}


@pytest.fixture(scope="module", autouse=True)
def enforced(cloud) -> Iterator[None]:
    """Roles are asked for their policies, whatever the cloud was set to."""
    before = cloud.control("settings")["enforce"]
    cloud.control("settings", enforce=True)
    yield
    cloud.control("settings", enforce=before)


@pytest.fixture(scope="module")
def ours(cloud) -> dict[str, str]:
    """The outputs of our project's stack."""
    cloud.client("ssm").put_parameter(
        Name="/mlops/infra/access-log-bucket-name", Type="String", Value=cloud.bucket(), Overwrite=True
    )
    stack = cloud.name("data")
    cloud.client("cloudformation").create_stack(
        StackName=stack,
        TemplateBody=TEMPLATE.read_text(),
        Parameters=[
            {"ParameterKey": "ProjectId", "ParameterValue": OURS},
            {"ParameterKey": "ProjectName", "ParameterValue": "ours"},
        ],
    )
    cloud.wait(lambda: not cloud.stack_status(stack).endswith("IN_PROGRESS"), 60, stack)
    assert cloud.stack_status(stack) == "CREATE_COMPLETE", cloud.stack_reasons(stack)
    return cloud.outputs(stack)


def sign_in(cloud: Any, path: str, project: str) -> Any:
    """A function that makes clients of a role which its own policies allow everything."""
    name, iam = cloud.name("role"), cloud.client("iam")
    root = {"AWS": f"arn:aws:iam::{cloud.account}:root"}
    trust = {"Effect": "Allow", "Principal": root, "Action": "sts:AssumeRole"}
    tags = [{"Key": "sagemaker:project-id", "Value": project}] if project else []

    def document(statement: dict[str, Any]) -> str:
        return json.dumps({"Version": "2012-10-17", "Statement": [statement]})

    role = iam.create_role(RoleName=name, Path=path, AssumeRolePolicyDocument=document(trust), Tags=tags)
    iam.put_role_policy(RoleName=name, PolicyName="all", PolicyDocument=document(EVERYTHING))
    found = cloud.client("sts").assume_role(RoleArn=role["Role"]["Arn"], RoleSessionName="jane")[
        "Credentials"
    ]

    def client(service: str) -> Any:
        return boto3.client(
            service,
            endpoint_url=cloud.endpoint,
            region_name=cloud.region,
            config=Config(
                retries={"max_attempts": 1}, s3={"addressing_style": "path"}, inject_host_prefix=False
            ),
            aws_access_key_id=found["AccessKeyId"],
            aws_secret_access_key=found["SecretAccessKey"],
            aws_session_token=found["SessionToken"],
        )

    return client


@pytest.fixture(scope="module")
def scientist(cloud) -> Any:
    return sign_in(cloud, "/mlops/projects/", OURS)


STRANGERS = {
    "another project": ("/mlops/projects/", THEIRS),
    "no project": ("/mlops/projects/", ""),
    "a role that took our tag": ("/", OURS),
    "the platform": ("/mlops/platform/", ""),
    "an administrator": ("/", ""),
}


def test_the_project_uses_its_key_through_the_bucket(ours, scientist):
    scientist("s3").put_object(Bucket=ours["BucketName"], Key="x", Body=b"x")
    assert scientist("s3").get_object(Bucket=ours["BucketName"], Key="x")["Body"].read() == b"x"


def test_nobody_uses_it_by_hand(ours, scientist):
    with pytest.raises(ClientError, match="not authorized to perform: kms:GenerateDataKey"):
        scientist("kms").generate_data_key(KeyId=ours["KeyArn"], KeySpec="AES_256")


@pytest.mark.parametrize(("path", "project"), STRANGERS.values(), ids=STRANGERS)
def test_no_stranger_reads_or_writes_whatever_its_own_policies_say(cloud, ours, path, project):
    bucket, stranger = ours["BucketName"], sign_in(cloud, path, project)
    cloud.client("s3").put_object(Bucket=bucket, Key="there", Body=b"x")
    with pytest.raises(ClientError, match="not authorized to perform: kms:Decrypt"):
        stranger("s3").get_object(Bucket=bucket, Key="there")
    with pytest.raises(ClientError, match="not authorized to perform: kms:GenerateDataKey"):
        stranger("s3").put_object(Bucket=bucket, Key="new", Body=b"x")
    with pytest.raises(ClientError, match="not authorized to perform: kms:CreateGrant.*explicit deny"):
        stranger("kms").create_grant(
            KeyId=ours["KeyArn"], GranteePrincipal=cloud.role("lambda"), Operations=["Decrypt"]
        )


def test_grants_by_hand_are_denied_to_the_project_too(cloud, ours, scientist):
    with pytest.raises(ClientError, match="kms:CreateGrant.*explicit deny"):
        scientist("kms").create_grant(
            KeyId=ours["KeyArn"], GranteePrincipal=cloud.role("lambda"), Operations=["Decrypt"]
        )


def test_a_launch_role_makes_repositories_under_the_key(cloud, ours):
    launcher = sign_in(cloud, "/mlops/platform/", "")
    launcher("codecommit").create_repository(repositoryName=cloud.name(), kmsKeyId=ours["KeyArn"])
    encryption = {"encryptionType": "KMS", "kmsKey": ours["KeyArn"]}
    launcher("ecr").create_repository(repositoryName=cloud.name(), encryptionConfiguration=encryption)


def test_administrators_administer_it(cloud, ours):
    kms = sign_in(cloud, "/", "")("kms")
    policy = kms.get_key_policy(KeyId=ours["KeyArn"])["Policy"]
    kms.put_key_policy(KeyId=ours["KeyArn"], PolicyName="default", Policy=policy)
    assert kms.get_key_rotation_status(KeyId=ours["KeyArn"])["KeyRotationEnabled"] is True


UPLOADS: dict[str, dict[str, str]] = {
    "the key of AWS by its alias": {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "alias/aws/s3"},
    "the key of AWS by no name": {"ServerSideEncryption": "aws:kms"},
    "the keys of S3": {"ServerSideEncryption": "AES256"},
    "a key of the caller": {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": "k" * 32},
}


@pytest.mark.parametrize("headers", UPLOADS.values(), ids=UPLOADS)
def test_the_bucket_takes_nothing_under_another_key(ours, scientist, headers):
    with pytest.raises(ClientError, match="s3:PutObject.*explicit deny in a resource-based policy"):
        scientist("s3").put_object(Bucket=ours["BucketName"], Key="y", Body=b"x", **headers)


def test_the_bucket_takes_its_own_key_by_name(cloud, ours, scientist):
    named = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": ours["KeyArn"]}
    scientist("s3").put_object(Bucket=ours["BucketName"], Key="z", Body=b"x", **named)
    s3, where = scientist("s3"), {"Bucket": ours["BucketName"], "Key": "large"}
    for headers in (named, {}):
        upload = s3.create_multipart_upload(**where, **headers)["UploadId"]
        part = s3.upload_part(**where, UploadId=upload, PartNumber=1, Body=b"x")
        parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
        s3.complete_multipart_upload(**where, UploadId=upload, MultipartUpload=parts)
    other = named | {"SSEKMSKeyId": cloud.client("kms").create_key()["KeyMetadata"]["Arn"]}
    with pytest.raises(ClientError, match="explicit deny in a resource-based policy"):
        scientist("s3").put_object(Bucket=ours["BucketName"], Key="z", Body=b"x", **other)


def test_the_logs_of_the_project_alone_are_under_its_key(cloud, ours):
    logs = cloud.client("logs")
    logs.create_log_group(logGroupName=f"/aws/codebuild/mlops-{OURS}-build", kmsKeyId=ours["KeyArn"])
    with pytest.raises(ClientError, match="not allowed to be used with Arn"):
        logs.create_log_group(logGroupName=f"/aws/codebuild/mlops-{THEIRS}-build", kmsKeyId=ours["KeyArn"])
