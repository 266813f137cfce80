"""IAM decides every call: identity, boundary, session and resource policies, PassRole, trust; its words."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import ClientError

ALL = {"Effect": "Allow", "Action": "*", "Resource": "*"}


def allow(actions: str | list[str], resource: str | list[str] = "*", **condition: Any) -> dict[str, Any]:
    """An Allow statement."""
    return {
        "Effect": "Allow",
        "Action": actions,
        "Resource": resource,
        **({"Condition": condition} if condition else {}),
    }


def deny(actions: str | list[str], resource: str | list[str] = "*", **condition: Any) -> dict[str, Any]:
    """A Deny statement."""
    return allow(actions, resource, **condition) | {"Effect": "Deny"}


def document(*statements: dict[str, Any]) -> str:
    """A policy."""
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


@pytest.fixture
def person(cloud) -> Callable[..., Callable[[str], Any]]:
    """``person(*statements, boundary=…, session=…, tags=…)`` → clients under a role that has these."""
    iam, sts = cloud.client("iam"), cloud.client("sts")
    cloud.control("settings", enforce=True)

    def make(*statements: dict[str, Any], boundary: Any = None, session: Any = None, tags: Any = None) -> Any:
        name, more = cloud.name("role"), {}
        trust = {"Effect": "Allow", "Principal": {"AWS": cloud.account}, "Action": "sts:AssumeRole"}
        if boundary:
            policy = iam.create_policy(PolicyName=cloud.name("limit"), PolicyDocument=document(*boundary))
            more["PermissionsBoundary"] = policy["Policy"]["Arn"]
        if tags:
            more["Tags"] = [{"Key": k, "Value": v} for k, v in tags.items()]
        role = iam.create_role(
            RoleName=name, Path="/people/", AssumeRolePolicyDocument=document(trust), **more
        )
        if statements:
            iam.put_role_policy(RoleName=name, PolicyName="own", PolicyDocument=document(*statements))
        passed = {"Policy": document(*session)} if session else {}
        keys = sts.assume_role(RoleArn=role["Role"]["Arn"], RoleSessionName="jane", **passed)["Credentials"]

        def client(service: str) -> Any:
            return cloud.client(
                service,
                aws_access_key_id=keys["AccessKeyId"],
                aws_secret_access_key=keys["SecretAccessKey"],
                aws_session_token=keys["SessionToken"],
            )

        client.name, client.arn = name, role["Role"]["Arn"]  # type: ignore[attr-defined]
        return client

    return make


def refused(call: Callable[..., Any], **arguments: Any) -> tuple[str, str]:
    """Error code and message of a call that must be denied."""
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    error = caught.value.response["Error"]
    return error["Code"], error["Message"]


def test_hook_evaluator(cloud, person):
    bucket = cloud.bucket()
    cloud.client("s3").put_object(Bucket=bucket, Key="a/1", Body=b"x")
    jane = person(allow("s3:GetObject", f"arn:aws:s3:::{bucket}/a/*"))
    assert jane("s3").get_object(Bucket=bucket, Key="a/1")["Body"].read() == b"x"
    code, message = refused(jane("s3").get_object, Bucket=bucket, Key="b/1")
    assert code == "AccessDenied"
    assert message == (
        f"User: arn:aws:sts::{cloud.account}:assumed-role/{jane.name}/jane is not authorized to perform: "
        f"s3:GetObject on resource: arn:aws:s3:::{bucket}/b/1 because no identity-based policy allows the "
        "s3:GetObject action"
    )


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"boundary": [allow("sns:*")]}, "because no permissions boundary allows the sqs:ListQueues action"),
        ({"boundary": [ALL, deny("sqs:*")]}, "with an explicit deny in a permissions boundary"),
        ({"session": [allow("sns:*")]}, "because no session policy allows the sqs:ListQueues action"),
    ],
)
def test_hook_role_policies(person, limits, words):
    jane = person(ALL, **limits)
    assert words in refused(jane("sqs").list_queues)[1]
    assert jane("sns").list_topics()["ResponseMetadata"]["HTTPStatusCode"] == 200


def test_a_denial_comes_in_the_protocol_of_its_service(person):
    nobody = person()
    for service, call, code in (
        ("sqs", "list_queues", "AccessDenied"),
        ("sns", "list_topics", "AuthorizationError"),
        ("iam", "list_roles", "AccessDenied"),
        ("ec2", "describe_vpcs", "UnauthorizedOperation"),
        ("s3", "list_buckets", "AccessDenied"),
        ("logs", "describe_log_groups", "AccessDeniedException"),
        ("sagemaker", "list_models", "AccessDeniedException"),
        ("codecommit", "list_repositories", "AccessDeniedException"),
        ("cloudwatch", "list_metrics", "AccessDeniedException"),
        ("cloudformation", "list_stacks", "AccessDenied"),
        ("scheduler", "list_schedules", "AccessDeniedException"),
    ):
        assert refused(getattr(nobody(service), call))[0] == code, service


def test_hook_denials(person):
    code, message = refused(person(deny("logs:*"), ALL)("logs").describe_log_groups)
    assert code == "AccessDeniedException"
    assert message.endswith("with an explicit deny in an identity-based policy")


def test_hook_resource_policies(cloud, person):
    bucket, jane, joe = cloud.bucket(), person(ALL), person()
    cloud.client("s3").put_bucket_policy(
        Bucket=bucket,
        Policy=document(
            deny("s3:PutObject", f"arn:aws:s3:::{bucket}/kept/*") | {"Principal": "*"},
            allow("s3:ListBucket", f"arn:aws:s3:::{bucket}") | {"Principal": {"AWS": joe.arn}},
        ),
    )
    jane("s3").put_object(Bucket=bucket, Key="free", Body=b"")
    message = refused(jane("s3").put_object, Bucket=bucket, Key="kept/1", Body=b"")[1]
    assert message.endswith("with an explicit deny in a resource-based policy")
    assert joe("s3").list_objects_v2(Bucket=bucket)["KeyCount"] == 1  # the bucket's word is enough


def test_hook_resource_tags(cloud, person):
    topics, sns = {}, cloud.client("sns")
    for team in ("a", "b"):
        made = sns.create_topic(Name=cloud.name("topic"), Tags=[{"Key": "team", "Value": team}])
        topics[team] = made["TopicArn"]
    own = {"StringEquals": {"aws:ResourceTag/team": "${aws:PrincipalTag/team}"}}
    jane = person(allow("sqs:*"), allow("sns:*", **own), tags={"team": "a"})
    assert "sns:GetTopicAttributes" in refused(jane("sns").get_topic_attributes, TopicArn=topics["b"])[1]
    assert jane("sns").get_topic_attributes(TopicArn=topics["a"])["Attributes"]["TopicArn"] == topics["a"]
    group = cloud.name("group")
    cloud.client("sagemaker").create_model_package_group(
        ModelPackageGroupName=group, Tags=[{"Key": "team", "Value": "a"}]
    )
    joe = person(allow("sagemaker:*", **own), tags={"team": "a"})
    found = joe("sagemaker").describe_model_package_group(ModelPackageGroupName=group)
    assert found["ModelPackageGroupName"] == group


def test_hook_keys(cloud, person):
    kms = cloud.client("kms")
    key = kms.create_key()["KeyMetadata"]["Arn"]
    alias = f"alias/{cloud.name('key')}"
    kms.create_alias(AliasName=alias, TargetKeyId=key)
    jane = person(allow(["kms:Encrypt", "kms:Decrypt"], key))
    blob = jane("kms").encrypt(KeyId=alias, Plaintext=b"x")["CiphertextBlob"]
    assert jane("kms").decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"
    other = kms.encrypt(KeyId=kms.create_key()["KeyMetadata"]["KeyId"], Plaintext=b"x")["CiphertextBlob"]
    assert "kms:Decrypt on resource: arn:aws:kms:" in refused(jane("kms").decrypt, CiphertextBlob=other)[1]


def test_a_keys_policy_must_allow_too(cloud, person):
    kms = cloud.client("kms")
    root = {"Principal": {"AWS": f"arn:aws:iam::{cloud.account}:root"}}
    only_administration = document(allow(["kms:Put*", "kms:Describe*", "kms:ScheduleKeyDeletion"]) | root)
    key = kms.create_key(Policy=only_administration)["KeyMetadata"]["Arn"]
    jane = person(ALL)
    assert jane("kms").describe_key(KeyId=key)["KeyMetadata"]["Arn"] == key
    message = refused(jane("kms").encrypt, KeyId=key, Plaintext=b"x")[1]
    assert message.endswith("because no resource-based policy allows the kms:Encrypt action")


def test_hook_owned_things(cloud, person):
    secret = cloud.client("secretsmanager").create_secret(Name=cloud.name("secret"), SecretString="x")
    bucket, s3 = cloud.bucket(), cloud.client("s3")
    for key, tagging in (("open", "class=open"), ("closed", "class=closed")):
        s3.put_object(Bucket=bucket, Key=key, Body=b"", Tagging=tagging)
    stack = cloud.stack({"Topic": {"Type": "AWS::SNS::Topic"}})
    arn = cloud.client("cloudformation").describe_stacks(StackName=stack)["Stacks"][0]["StackId"]
    jane = person(
        allow("secretsmanager:GetSecretValue", secret["ARN"]),
        allow("s3:GetObject", StringEquals={"s3:ExistingObjectTag/class": "open"}),
        allow("cloudformation:DescribeStacks", arn),
    )
    assert jane("secretsmanager").get_secret_value(SecretId=secret["Name"])["SecretString"] == "x"
    assert jane("s3").get_object(Bucket=bucket, Key="open")
    assert refused(jane("s3").get_object, Bucket=bucket, Key="closed")[0] == "AccessDenied"
    assert jane("cloudformation").describe_stacks(StackName=stack)["Stacks"]


def test_hook_s3_actions(cloud, person):
    bucket = cloud.bucket()
    cloud.client("s3").put_object(Bucket=bucket, Key="from", Body=b"x")
    jane = person(allow("s3:PutObject", f"arn:aws:s3:::{bucket}/*"))
    source = {"Bucket": bucket, "Key": "from"}
    message = refused(jane("s3").copy_object, Bucket=bucket, Key="to", CopySource=source)[1]
    assert "s3:GetObject on resource: arn:aws:s3:::" in message  # a copy reads its source


def test_hook_function_roles(cloud, person):
    person()  # enforcement is on
    trust = {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
    iam, name = cloud.client("iam"), cloud.name("function")
    role = iam.create_role(RoleName=name, AssumeRolePolicyDocument=document(trust))["Role"]["Arn"]
    code = (
        "import boto3\n"
        "def handler(event, context):\n"
        "    return boto3.client('sts').get_caller_identity()['Arn']"
    )
    properties = {
        "Role": role,
        "Runtime": "python3.13",
        "Handler": "index.handler",
        "Code": {"ZipFile": code},
    }
    stack = cloud.stack(
        {"F": {"Type": "AWS::Lambda::Function", "Properties": properties}}, {"F": {"Value": {"Ref": "F"}}}
    )
    function = cloud.outputs(stack)["F"]
    answer = cloud.client("lambda").invoke(FunctionName=function)["Payload"].read()
    assert json.loads(answer) == f"arn:aws:sts::{cloud.account}:assumed-role/{name}/{function}"


def test_hook_census(cloud):
    stack = cloud.stack({"Topic": {"Type": "AWS::SNS::Topic"}})
    found = next(s for s in cloud.control("stacks") if s["name"] == stack)
    assert (found["status"], found["types"], found["pending"]) == (
        "CREATE_COMPLETE",
        {"AWS::SNS::Topic": 1},
        0,
    )


# -- roles handed over, trust, strangers -----------------------------------------------------------------
def test_a_role_is_handed_over_by_right_only(cloud, person):
    role = cloud.role("codebuild")
    project = {
        "source": {"type": "NO_SOURCE", "buildspec": "version: 0.2\nphases: {build: {commands: [ls]}}"},
        "artifacts": {"type": "NO_ARTIFACTS"},
        "environment": {
            "type": "LINUX_CONTAINER",
            "image": "aws/codebuild/standard:7.0",
            "computeType": "BUILD_GENERAL1_SMALL",
        },
        "serviceRole": role,
    }
    make = allow("codebuild:CreateProject")
    jane = person(
        make, allow("iam:PassRole", role, StringEquals={"iam:PassedToService": "lambda.amazonaws.com"})
    )
    message = refused(jane("codebuild").create_project, name=cloud.name("p"), **project)[1]
    assert f"iam:PassRole on resource: {role}" in message
    joe = person(
        make, allow("iam:PassRole", role, StringEquals={"iam:PassedToService": "codebuild.amazonaws.com"})
    )
    assert joe("codebuild").create_project(name=cloud.name("p"), **project)["project"]["serviceRole"] == role


def test_a_role_is_assumed_if_its_trust_and_the_callers_policies_allow(cloud, person):
    target = person(ALL)  # trusts the account: then the caller's own policies decide
    assert (
        "sts:AssumeRole" in refused(person()("sts").assume_role, RoleArn=target.arn, RoleSessionName="xx")[1]
    )
    jane = person(allow("sts:AssumeRole", target.arn))
    assert jane("sts").assume_role(RoleArn=target.arn, RoleSessionName="xx")["Credentials"]
    service_role = cloud.role("codebuild")
    joe = person(ALL)
    message = refused(joe("sts").assume_role, RoleArn=service_role, RoleSessionName="xx")[1]
    assert message.endswith("because no resource-based policy allows the sts:AssumeRole action")


def test_strangers_and_keys_that_are_over_get_nowhere(cloud):
    stranger = {"aws_access_key_id": "AKIASTRANGER", "aws_secret_access_key": "x"}
    assert refused(cloud.client("sagemaker", **stranger).list_models)[0] == "UnrecognizedClientException"
    assert refused(cloud.client("s3", **stranger).list_buckets)[0] == "InvalidAccessKeyId"


@pytest.mark.parametrize("target", ["SageMaker.ListModels", "CodePipeline_20150709.ListPipelines"])
@pytest.mark.parametrize("service", ["sqs", "codepipeline", "sagemaker", "execute-api", "nothing"])
def test_a_call_signed_for_another_service_is_refused(cloud, person, service, target):
    """CodePipeline and SageMaker both have ListPipelines: one's permission must not open the other."""
    keys = person(allow("sqs:*"))("sts")._request_signer._credentials
    url, head = f"{cloud.endpoint}/", {"X-Amz-Target": target, "Content-Type": "application/x-amz-json-1.1"}
    request = AWSRequest("POST", url, data=b"{}", headers=head)
    SigV4Auth(keys, service, cloud.region).add_auth(request)
    sent = urllib.request.Request(url, data=b"{}", headers=dict(request.headers))
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(sent, timeout=30)
    assert caught.value.code in (400, 403)


def test_an_operation_of_two_services_is_asked_of_the_one_that_answers(cloud, person):
    keys = person(allow("codepipeline:*"))("sts")._request_signer._credentials
    head = {"X-Amz-Target": "SageMaker.ListPipelines", "Content-Type": "application/x-amz-json-1.1"}
    request = AWSRequest("POST", f"{cloud.endpoint}/", data=b"{}", headers=head)
    SigV4Auth(keys, "codepipeline", cloud.region).add_auth(request)
    sent = urllib.request.Request(request.url, data=b"{}", headers=dict(request.headers))
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(sent, timeout=30)
    assert b"codepipeline has no operation SageMaker.ListPipelines" in caught.value.read()


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"X-Amz-Target": "SageMaker.ListModels"}, b"{}"),
        ({"X-Amz-Target": "AmazonSSM.GetParameters"}, b"{}"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, b"Action=ListRoles&Version=2010-05-08"),
        ({}, None),
    ],
)
def test_who_does_not_sign_is_nobody(cloud, headers, body):
    request = urllib.request.Request(f"{cloud.endpoint}/", data=body, headers=headers)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=30)
    assert caught.value.code in (400, 403)
    assert b"Token" in caught.value.read() or caught.value.code == 403


def test_git_pushes_to_branches_that_its_user_may_write(cloud, person, tmp_path):
    import os
    import subprocess

    name = cloud.name("repo")
    arn = cloud.client("codecommit").create_repository(repositoryName=name)["repositoryMetadata"]["Arn"]
    cloud.client("codecommit").create_commit(
        repositoryName=name, branchName="main", putFiles=[{"filePath": "a", "fileContent": b"a"}]
    )
    protected = {
        "StringEqualsIfExists": {"codecommit:References": ["refs/heads/main"]},
        "Null": {"codecommit:References": "false"},
    }
    jane = person(allow("codecommit:Git*", arn), deny("codecommit:GitPush", arn, **protected))
    keys = jane("sts")._request_signer._credentials
    env = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "GIT_"))} | {
        "HOME": str(tmp_path)
    }
    url = f"http://{keys.access_key}:x@localhost:{cloud.port}/v1/repos/{name}"

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        identity = ("-c", "user.name=j", "-c", "user.email=j@example.com")
        return subprocess.run(
            ["git", *identity, *arguments], cwd=tmp_path, env=env, capture_output=True, text=True
        )

    assert git("clone", url, "clone").returncode == 0
    assert git("-C", "clone", "commit", "--allow-empty", "-m", "more").returncode == 0
    assert git("-C", "clone", "push", "origin", "HEAD:refs/heads/feature").returncode == 0
    refusal = git("-C", "clone", "push", "origin", "HEAD:refs/heads/main")
    assert refusal.returncode
    assert "403" in refusal.stderr


def test_what_was_asked_is_kept_with_its_policies(cloud, person):
    jane = person(allow("sqs:ListQueues"))
    jane("sqs").list_queues()
    refused(jane("sqs").create_queue, QueueName=cloud.name("q"))
    asked = {q["action"]: q for q in cloud.control("questions") if q["role"] == jane.arn}
    assert asked["sqs:ListQueues"]["denied"] == ""
    assert "not authorized" in asked["sqs:CreateQueue"]["denied"]
    documents = cloud.control("policies")
    own = [documents[name] for name in asked["sqs:ListQueues"]["policies"]["identity"]]
    assert own[0]["Statement"][0]["Action"] == "sqs:ListQueues"
    assert jane.name in cloud.control("denials")[-1]["by"]
