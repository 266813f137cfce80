"""CloudFormation works under the permissions of the stack's role, or of who called it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

TOPIC = ("sns:CreateTopic", "sns:DeleteTopic", "sns:GetTopicAttributes", "sns:SetTopicAttributes")
TOPIC_READS = ("sns:ListSubscriptionsByTopic", "sns:ListTagsForResource", "sns:GetDataProtectionPolicy")
STACKS = (
    "cloudformation:CreateStack", "cloudformation:UpdateStack", "cloudformation:DeleteStack",
    "cloudformation:DescribeStacks", "cloudformation:CreateChangeSet", "cloudformation:ExecuteChangeSet",
    "cloudformation:DescribeChangeSet",
)  # fmt: skip
Role = Callable[..., str]


@pytest.fixture(autouse=True)
def enforced(cloud):
    """Policies decide, whatever the cloud's setting was before."""
    before = cloud.control("settings")["enforce"]
    cloud.control("settings", enforce=True)
    yield
    cloud.control("settings", enforce=before)


@pytest.fixture
def role(cloud) -> Role:
    """Make a role that CloudFormation (or ``trusted``) may take, with statements as its only policy."""

    def make(*statements: dict[str, Any], trusted: Any = None) -> str:
        principal = trusted or {"Service": "cloudformation.amazonaws.com"}
        trust = {"Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole"}
        iam, name = cloud.client("iam"), cloud.name("stack-role")
        arn = iam.create_role(RoleName=name, AssumeRolePolicyDocument=document(trust))["Role"]["Arn"]
        if statements:
            iam.put_role_policy(RoleName=name, PolicyName="own", PolicyDocument=document(*statements))
        return arn

    return make


def document(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


def allow(*actions: str, resource: Any = "*", **condition: Any) -> dict[str, Any]:
    found = {"Effect": "Allow", "Action": list(actions), "Resource": resource}
    return {**found, "Condition": condition} if condition else found


def create(cloud, resources: dict[str, Any], client: Any = None, **more: Any) -> str:
    """Start a stack and wait until it rests; its name."""
    name = cloud.name("stack")
    (client or cloud.client("cloudformation")).create_stack(
        StackName=name,
        TemplateBody=json.dumps({"Resources": resources}),
        Capabilities=["CAPABILITY_NAMED_IAM"],
        **more,
    )
    settle(cloud, name)
    return name


def settle(cloud, name: str) -> str:
    return cloud.wait(
        lambda: (s := cloud.stack_status(name)) and not s.endswith("IN_PROGRESS") and s, 60, name
    )


def client_of(cloud, role: str, service: str = "cloudformation") -> Any:
    keys = cloud.client("sts").assume_role(RoleArn=role, RoleSessionName="tester")["Credentials"]
    return cloud.client(
        service,
        aws_access_key_id=keys["AccessKeyId"],
        aws_secret_access_key=keys["SecretAccessKey"],
        aws_session_token=keys["SessionToken"],
    )


def topic(**properties: Any) -> dict[str, Any]:
    return {"Topic": {"Type": "AWS::SNS::Topic", "Properties": properties}}


def test_role_that_suffices(cloud, role):
    stack = create(cloud, topic(DisplayName="a"), RoleARN=role(allow(*TOPIC, *TOPIC_READS)))
    assert cloud.stack_status(stack) == "CREATE_COMPLETE"


def test_create_names_the_missing_action(cloud, role):
    names = cloud.name("log")
    resources = {
        "Log": {"Type": "AWS::Logs::LogGroup", "Properties": {"LogGroupName": names, "RetentionInDays": 7}},
        "Topic": {"Type": "AWS::SNS::Topic", "DependsOn": "Log"},
    }
    logs = allow("logs:*")
    arn = role(logs)
    stack = create(cloud, resources, RoleARN=arn)
    assert cloud.stack_status(stack) == "ROLLBACK_COMPLETE"
    (reason,) = [r for r in cloud.stack_reasons(stack) if "sns:" in r]
    session = f"arn:aws:sts::123456789012:assumed-role/{arn.rpartition('/')[2]}/AWSCloudFormation"
    denied = f"User: {session} is not authorized to perform: sns:CreateTopic"
    assert reason.startswith(f'Resource handler returned message: "{denied}')
    assert f"on resource: arn:aws:sns:us-east-1:123456789012:{stack}-Topic-" in reason
    assert "because no identity-based policy allows the sns:CreateTopic action" in reason
    assert reason.endswith("HandlerErrorCode: AccessDenied)")
    groups = cloud.client("logs").describe_log_groups(logGroupNamePrefix=names)["logGroups"]
    assert groups == [], "the rollback removed what was made before"


def test_what_is_done_after_making(cloud, role):
    """A bucket that could be made but not be read is not left behind."""
    name = cloud.name("half")
    bucket = {"Bucket": {"Type": "AWS::S3::Bucket", "Properties": {"BucketName": name}}}
    stack = create(cloud, bucket, RoleARN=role(allow("s3:CreateBucket", "s3:PutBucket*", "s3:DeleteBucket")))
    assert cloud.stack_status(stack) == "ROLLBACK_COMPLETE"
    assert any("not authorized to perform: s3:" in r and name in r for r in cloud.stack_reasons(stack))
    assert name not in [b["Name"] for b in cloud.client("s3").list_buckets()["Buckets"]]


def test_delete_names_the_missing_action(cloud, role):
    without = [a for a in TOPIC if a != "sns:DeleteTopic"]
    stack = create(cloud, topic(), RoleARN=role(allow(*without, *TOPIC_READS)))
    assert cloud.stack_status(stack) == "CREATE_COMPLETE"
    (told,) = cloud.client("cloudformation").describe_stacks(StackName=stack)["Stacks"]
    assert told["RoleARN"].startswith("arn:aws:iam::123456789012:role/stack-role-")
    assert cloud.delete_stack(stack) == "DELETE_FAILED", "the stack remembers its role"
    assert any("not authorized to perform: sns:DeleteTopic" in r for r in cloud.stack_reasons(stack))
    better = role(allow(*TOPIC, *TOPIC_READS))
    cloud.client("cloudformation").delete_stack(StackName=stack, RoleARN=better)
    cloud.wait(lambda: not cloud.stack_status(stack), 30, stack)


def test_update_goes_back(cloud, role):
    without = [a for a in TOPIC if a != "sns:SetTopicAttributes"]
    stack = create(cloud, topic(DisplayName="a"), RoleARN=role(allow(*without, *TOPIC_READS)))
    client = cloud.client("cloudformation")
    body = json.dumps({"Resources": topic(DisplayName="b")})
    client.update_stack(StackName=stack, TemplateBody=body)
    assert settle(cloud, stack).startswith("UPDATE_ROLLBACK")
    assert any("not authorized to perform: sns:SetTopicAttributes" in r for r in cloud.stack_reasons(stack))
    client.update_stack(StackName=stack, TemplateBody=body, RoleARN=role(allow(*TOPIC, *TOPIC_READS)))
    assert settle(cloud, stack) == "UPDATE_COMPLETE", "another role takes the place of the first"


def test_without_role_the_callers_rights(cloud, role):
    account = {"AWS": "arn:aws:iam::123456789012:root"}
    poor = client_of(cloud, role(allow(*STACKS), trusted=account))
    stack = create(cloud, topic(), client=poor)
    assert cloud.stack_status(stack) == "ROLLBACK_COMPLETE"
    reasons = cloud.stack_reasons(stack)
    assert any("/tester is not authorized to perform: sns:CreateTopic" in r for r in reasons)
    rich = client_of(cloud, role(allow(*STACKS, *TOPIC, *TOPIC_READS), trusted=account))
    stack = create(cloud, topic(), client=rich)
    assert cloud.stack_status(stack) == "CREATE_COMPLETE"
    poor.delete_stack(StackName=stack)
    assert settle(cloud, stack) == "DELETE_FAILED", "who deletes needs the rights, whoever made it"


def test_root_is_not_asked(cloud):
    assert cloud.stack_status(create(cloud, topic())) == "CREATE_COMPLETE"


def test_a_role_that_cannot_be_taken(cloud, role):
    for arn in (role(trusted={"Service": "lambda.amazonaws.com"}), "arn:aws:iam::123456789012:role/nobody"):
        with pytest.raises(ClientError, match="is invalid or cannot be assumed"):
            create(cloud, topic(), RoleARN=arn)


def test_change_set_keeps_its_role(cloud, role):
    client, name = cloud.client("cloudformation"), cloud.name("stack")
    client.create_change_set(
        StackName=name,
        ChangeSetName="first",
        ChangeSetType="CREATE",
        TemplateBody=json.dumps({"Resources": topic()}),
        RoleARN=role(allow("sns:GetTopicAttributes")),
    )
    client.get_waiter("change_set_create_complete").wait(
        StackName=name, ChangeSetName="first", WaiterConfig={"Delay": 1}
    )
    client.execute_change_set(StackName=name, ChangeSetName="first")
    assert settle(cloud, name) == "ROLLBACK_COMPLETE"
    assert any("sns:CreateTopic" in reason for reason in cloud.stack_reasons(name))


def test_nested_stacks_inherit(cloud, role):
    bucket, s3 = cloud.bucket(), cloud.client("s3")
    s3.put_object(Bucket=bucket, Key="child.json", Body=json.dumps({"Resources": topic()}).encode())
    url = f"https://{bucket}.s3.us-east-1.amazonaws.com/child.json"
    child = {"Child": {"Type": "AWS::CloudFormation::Stack", "Properties": {"TemplateURL": url}}}
    stacks = allow("cloudformation:*")
    for missing, statements in {
        f"s3:GetObject on resource: arn:aws:s3:::{bucket}/child.json": [stacks, allow(*TOPIC, *TOPIC_READS)],
        "sns:CreateTopic": [stacks, allow("s3:GetObject")],
        "cloudformation:CreateStack": [allow("s3:GetObject", *TOPIC, *TOPIC_READS)],
    }.items():
        stack = create(cloud, child, RoleARN=role(*statements))
        assert cloud.stack_status(stack) == "ROLLBACK_COMPLETE"
        assert any(f"not authorized to perform: {missing}" in r for r in cloud.stack_reasons(stack)), missing
    whole = role(stacks, allow("s3:GetObject"), allow(*TOPIC, *TOPIC_READS))
    assert cloud.stack_status(create(cloud, child, RoleARN=whole)) == "CREATE_COMPLETE"


def test_tags_of_the_request_and_of_the_resource(cloud, role):
    """A right that is bound to a tag: the stack's tags reach the request, and the resource afterwards."""
    key = {
        "Key": {
            "Type": "AWS::KMS::Key",
            "Properties": {
                "EnableKeyRotation": True,
                "KeyPolicy": json.loads(
                    document(
                        {
                            "Effect": "Allow",
                            "Principal": {"AWS": "arn:aws:iam::123456789012:root"},
                            "Action": "kms:*",
                            "Resource": "*",
                        }
                    )
                ),
            },
        }
    }
    made = {"StringEquals": {"aws:RequestTag/team": "red"}}
    owned = {"StringEquals": {"aws:ResourceTag/team": "red"}}
    arn = role(
        allow("kms:CreateKey", **made),
        allow("kms:TagResource", **made),
        allow("kms:EnableKeyRotation", "kms:PutKeyPolicy", "kms:Describe*", "kms:Get*", "kms:List*", **owned),
    )
    good = create(cloud, key, RoleARN=arn, Tags=[{"Key": "team", "Value": "red"}])
    assert cloud.stack_status(good) == "CREATE_COMPLETE", cloud.stack_reasons(good)
    bad = create(cloud, key, RoleARN=arn, Tags=[{"Key": "team", "Value": "blue"}])
    assert any("not authorized to perform: kms:CreateKey" in r for r in cloud.stack_reasons(bad))


def test_roles_are_made_under_a_boundary_and_handed_to_named_services(cloud, role):
    boundary = cloud.client("iam").create_policy(
        PolicyName=cloud.name("limit"), PolicyDocument=document(allow("*"))
    )["Policy"]["Arn"]
    builds = {"Service": "codebuild.amazonaws.com"}
    trust = {"Effect": "Allow", "Principal": builds, "Action": "sts:AssumeRole"}
    inner = {"AssumeRolePolicyDocument": json.loads(document(trust)), "PermissionsBoundary": boundary}
    iam = allow("iam:Get*", "iam:List*", "iam:DeleteRole")
    bound = allow("iam:CreateRole", StringEquals={"iam:PermissionsBoundary": boundary})
    passed = allow("iam:PassRole", StringEquals={"iam:PassedToService": "lambda.amazonaws.com"})
    resources = {
        "Role": {"Type": "AWS::IAM::Role", "Properties": inner},
        "Build": {
            "Type": "AWS::CodeBuild::Project",
            "Properties": {
                "ServiceRole": {"Fn::GetAtt": ["Role", "Arn"]},
                "Source": {"Type": "NO_SOURCE", "BuildSpec": "version: 0.2"},
                "Artifacts": {"Type": "NO_ARTIFACTS"},
                "Environment": {
                    "Type": "LINUX_CONTAINER",
                    "Image": "aws/codebuild/standard:7.0",
                    "ComputeType": "BUILD_GENERAL1_SMALL",
                },
            },
        },
    }
    arn = role(iam, bound, passed, allow("codebuild:*"))
    stack = create(cloud, resources, RoleARN=arn)
    assert any("not authorized to perform: iam:PassRole" in r for r in cloud.stack_reasons(stack))
    del inner["PermissionsBoundary"]
    stack = create(cloud, {"Role": resources["Role"]}, RoleARN=arn)
    assert any("not authorized to perform: iam:CreateRole" in r for r in cloud.stack_reasons(stack))


def test_parameters_and_references_are_read_under_the_role(cloud, role):
    name = f"/{cloud.name('value')}"
    cloud.client("ssm").put_parameter(Name=name, Type="String", Value="hello")
    body = {
        "Parameters": {"Value": {"Type": "AWS::SSM::Parameter::Value<String>", "Default": name}},
        "Resources": topic(DisplayName={"Ref": "Value"}),
    }
    client, arn = cloud.client("cloudformation"), role(allow(*TOPIC, *TOPIC_READS))
    with pytest.raises(ClientError, match=f"ssm:GetParameters on resource: .*parameter{name}"):
        client.create_stack(StackName=cloud.name("stack"), TemplateBody=json.dumps(body), RoleARN=arn)
    stack = create(cloud, topic(DisplayName=f"{{{{resolve:ssm:{name}}}}}"), RoleARN=arn)
    assert any("not authorized to perform: ssm:GetParameters" in r for r in cloud.stack_reasons(stack))


def test_a_parameter_that_keeps_its_value_is_read_by_its_name(cloud, role):
    name = f"/{cloud.name('kept')}"
    cloud.client("ssm").put_parameter(Name=name, Type="String", Value="hello")
    body = {
        "Parameters": {
            "Value": {"Type": "AWS::SSM::Parameter::Value<String>"},
            "More": {"Type": "String", "Default": "a"},
        },
        "Resources": topic(DisplayName={"Fn::Sub": "${Value}${More}"}),
    }
    client, stack = cloud.client("cloudformation"), cloud.name("stack")
    client.create_stack(
        StackName=stack,
        TemplateBody=json.dumps(body),
        Parameters=[{"ParameterKey": "Value", "ParameterValue": name}],
    )
    settle(cloud, stack)
    with pytest.raises(ClientError, match=f"ssm:GetParameters on resource: .*parameter{name}"):
        client.update_stack(
            StackName=stack,
            UsePreviousTemplate=True,
            Parameters=[
                {"ParameterKey": "Value", "UsePreviousValue": True},
                {"ParameterKey": "More", "ParameterValue": "b"},
            ],
            RoleARN=role(allow(*TOPIC, *TOPIC_READS)),
        )


def test_custom_resources_call_their_function_under_the_role(cloud, role):
    function = "arn:aws:lambda:us-east-1:123456789012:function:nothing-here"
    custom = {"Mine": {"Type": "Custom::Mine", "Properties": {"ServiceToken": function}}}
    stack = create(cloud, custom, RoleARN=role(allow("logs:CreateLogGroup")))
    (reason,) = [r for r in cloud.stack_reasons(stack) if "lambda:" in r]
    assert f"not authorized to perform: lambda:InvokeFunction on resource: {function}" in reason
