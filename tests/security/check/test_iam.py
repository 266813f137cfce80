"""The rules of grants: each lets a good statement pass and finds what is wrong with a bad one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from check import iam
from check.templates import Template

ARN = "arn:aws:sagemaker:eu-west-1:123456789012:"
KEY = "arn:aws:kms:eu-west-1:123456789012:key/1"
SERVICE = {"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}}
CALLER = {"StringEquals": {"aws:PrincipalAccount": "123456789012"}}


def template() -> Template:
    """A template that lies in no file."""
    made = Template(Path("x.yaml"), "x.yaml")
    made.__dict__["data"] = {"Resources": {}}
    return made


def found(kind: str, **statement: Any) -> list[str]:
    """Rules that the statement breaks."""
    one = iam.Statement(template(), "", kind, {"Effect": "Allow"} | statement)
    return [finding.rule for rule in iam.RULES for finding in rule(one)]


@pytest.mark.parametrize(
    ("resource", "wide"),
    [
        (f"{ARN}endpoint/*", True),
        (f"{ARN}user-profile/*/*", True),
        (f"{ARN}*", True),
        ("arn:aws:iam::123456789012:role/*", True),
        ("arn:aws:s3:::*", True),
        ("arn:aws:catalog:eu-west-1:123456789012:product/*", True),
        ("arn:aws:logs:eu-west-1:123456789012:log-group:*", True),
        ("anything*", True),
        (f"{ARN}endpoint/mlops-p-1-*", False),
        (f"{ARN}user-profile/d-1/*", False),
        (f"{ARN}user-profile/*/${{sagemaker:UserProfileName}}", False),
        ("arn:aws:iam::123456789012:role/mlops/projects/*", False),
        ("arn:aws:s3:::bucket/*", False),
        ("arn:aws:codepipeline:eu-west-1:123456789012:mlops-build/*", False),
        (KEY, False),
        ("*", False),  # a house rule's
    ],
)
def test_all_of_a_kind(resource: str, wide: bool) -> None:
    assert iam.all_of_a_kind(resource) is wide


def test_all_of_a_kind_needs_a_condition() -> None:
    grant = {"Action": "sagemaker:DescribeEndpoint", "Resource": f"{ARN}endpoint/*"}
    tag = {"StringEquals": {"aws:ResourceTag/sagemaker:project-id": "p-1"}}
    assert found("identity", **grant) == ["IAM_ALL_OF_A_KIND"]
    assert found("identity", **grant, Condition=tag) == []
    assert found("identity", **grant, Effect="Deny") == []
    assert found("ceiling", **grant) == []


@pytest.mark.parametrize(
    ("action", "condition"),
    [
        ("iam:PassRole", SERVICE),
        ("iam:CreateRole", {"StringEquals": {"iam:PermissionsBoundary": "arn"}}),
        ("kms:CreateGrant", {"Bool": {"kms:GrantIsForAWSResource": "true"}}),
        ("sts:GetServiceBearerToken", {"StringEquals": {"sts:AWSServiceName": "codeartifact.amazonaws.com"}}),
        (
            "sagemaker:Search",
            {"StringEquals": {"sagemaker:SearchVisibilityCondition/Tags.project/Equals": "p"}},
        ),
        ("sagemaker:CreateApp", {"ArnLike": {"sagemaker:OwnerUserProfileArn": "arn"}}),
    ],
)
def test_some_actions_need_a_condition(action: str, condition: dict[str, Any]) -> None:
    operator, block = next(iter(condition.items()))
    wild = action[:-2] + "*"
    assert found("identity", Action=action, Resource=KEY, Condition=condition) == []
    assert "IAM_UNCONDITIONED" in found("identity", Action=action, Resource=KEY)
    assert "IAM_UNCONDITIONED" in found("identity", Action=["s3:GetObject", wild], Resource=KEY)
    other = {"StringEquals": {"aws:RequestedRegion": "eu-west-1"}}
    assert "IAM_UNCONDITIONED" in found("identity", Action=action, Resource=KEY, Condition=other)
    # what is absent from a request must not let it pass
    absent = {f"{operator}IfExists": block}
    assert "IAM_UNCONDITIONED" in found("identity", Action=action, Resource=KEY, Condition=absent)


def test_decryption_is_of_one_key() -> None:
    every, tag = "arn:aws:kms:eu-west-1:123456789012:key/*", {"StringEquals": {"aws:ResourceTag/p": "1"}}
    assert found("identity", Action="kms:Decrypt", Resource=KEY) == []
    assert found("identity", Action="kms:DescribeKey", Resource=every, Condition=tag) == []
    assert found("identity", Action="kms:Decrypt", Resource=every, Condition=tag) == ["IAM_DECRYPT_ALL"]
    assert found("identity", Action=["kms:ReEncrypt*"], Resource="*") == ["IAM_DECRYPT_ALL"]


@pytest.mark.parametrize("key", ["NotAction", "NotResource", "NotPrincipal"])
def test_nothing_is_negated(key: str) -> None:
    assert "IAM_NEGATED" in found("AWS::S3::BucketPolicy", **{key: "x"})
    assert "IAM_NEGATED" not in found("AWS::S3::BucketPolicy", **{key: "x"}, Effect="Deny")


@pytest.mark.parametrize("principal", ["*", {"AWS": "*"}, {"AWS": ["arn:aws:iam::1:root", "*"]}])
def test_nobody_is_anybody(principal: Any) -> None:
    assert found("AWS::SNS::TopicPolicy", Principal=principal, Action="sns:Publish") == ["IAM_ANYBODY"]
    assert found("AWS::SNS::TopicPolicy", Principal=principal, Action="sns:Publish", Condition=CALLER) == []
    assert found("AWS::S3::BucketPolicy", Principal=principal, Action="s3:*", Effect="Deny") == []
    by_ip = {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}
    assert found("AWS::S3::BucketPolicy", Principal=principal, Condition=by_ip) == ["IAM_ANYBODY"]


def test_any_service_is_not_a_service() -> None:
    source = {"StringEquals": {"aws:SourceAccount": "123456789012"}}
    assert found("AWS::SNS::TopicPolicy", Principal="*", Condition=source) == ["IAM_ANYBODY"]
    assert (
        found("AWS::SNS::TopicPolicy", Principal={"Service": "budgets.amazonaws.com"}, Condition=source) == []
    )


def test_a_space_has_an_owner_and_is_private() -> None:
    owner = {"ArnLike": {"sagemaker:OwnerUserProfileArn": "arn"}}
    private = {"StringEquals": {"sagemaker:SpaceSharingType": "Private"}}
    space = {"Action": "sagemaker:CreateSpace", "Resource": f"{ARN}space/d-1/*"}
    assert found("identity", **space, Condition=owner | private) == []
    assert found("identity", **space, Condition=owner) == ["IAM_UNCONDITIONED"]
    assert found("identity", **space, Condition=private) == ["IAM_UNCONDITIONED"]


@pytest.mark.parametrize("action", ["kms:*", "*"])
def test_a_key_allows_named_actions(action: str) -> None:
    root = {"AWS": "arn:aws:iam::123456789012:root"}
    assert found("AWS::KMS::Key", Principal=root, Action=action) == ["IAM_KEY_ACTIONS"]
    assert found("AWS::KMS::Key", Principal=root, Action=action, Effect="Deny") == []
    assert found("AWS::KMS::Key", Principal=root, Action=["kms:Describe*", "kms:GenerateDataKey*"]) == []


def test_endpoints_lead_home() -> None:
    both = {"StringEquals": {"aws:PrincipalAccount": "1", "aws:ResourceAccount": "1"}}
    kind = "AWS::EC2::VPCEndpoint"
    assert found(kind, Principal="*", Action="logs:*", Resource="*", Condition=both) == []
    assert found(kind, Principal="*", Action="logs:*", Resource="*", Condition=CALLER) == ["IAM_ENDPOINT"]
    assert found(kind, Principal="*", Action="logs:*", Resource="*") == ["IAM_ANYBODY", "IAM_ENDPOINT"]
    assert found(kind, Principal="*", Action="s3:*", Resource="arn:aws:s3:::b/*", Condition=CALLER) == []


@pytest.mark.parametrize(
    ("action", "resource", "high"),
    [
        ("s3:*", "*", False),
        ("iam:Get*", "*", False),
        ("iam:*Role", "arn:aws:iam::123456789012:role/mlops/*", False),
        ("*", "*", True),
        ("iam:*", "arn:aws:iam::123456789012:role/mlops/*", True),
        ("iam:*Role", "*", True),
        ("iam:*Role", "arn:aws:iam::123456789012:role/*", True),
    ],
)
def test_a_ceiling_is_low(action: str, resource: str, high: bool) -> None:
    assert found("ceiling", Action=action, Resource=resource) == (["IAM_CEILING"] if high else [])
    assert found("ceiling", Action=action, Resource=resource, Effect="Deny") == []


def test_a_role_trusts_who_is_named() -> None:
    named = {"ArnLike": {"aws:PrincipalArn": "arn:aws:iam::123456789012:role/people/*"}}
    assert found("trust", Principal="*", Condition=CALLER) == ["IAM_ANYBODY"]
    assert found("trust", Principal={"AWS": "*"}, Condition=named) == []
    assert found("trust", Principal={"AWS": "arn:aws:iam::123456789012:root"}) == []


def test_a_key_is_used_for_something() -> None:
    account = {"StringEquals": {"kms:CallerAccount": "123456789012"}}
    through = {"StringEquals": {"kms:CallerAccount": "123456789012", "kms:ViaService": "s3.amazonaws.com"}}
    assert found("AWS::KMS::Key", Principal={"AWS": "*"}, Condition=account) == ["IAM_ANYBODY"]
    assert found("AWS::KMS::Key", Principal={"AWS": "*"}, Condition=through) == []


def rails(monkeypatch: pytest.MonkeyPatch, *statements: dict[str, Any], role: str = "role") -> list[str]:
    """What is missing of two guard rails when a policy with these statements belongs to a role."""
    wanted = [{"deny": ["s3:PutObject"], "by": ["aws:SourceVpce"]}, {"deny": ["iam:CreateUser"]}]
    monkeypatch.setattr(iam, "guard_rails", lambda: {"x.yaml": {"Role": wanted}})
    document = {"Statement": [{"Resource": "*"} | one for one in statements]}
    policy = {"Type": "AWS::IAM::Policy", "Properties": {"Roles": [role], "PolicyDocument": document}}
    literal = {"Resources": {"Role": {"Type": "AWS::IAM::Role", "Properties": {}}, "Policy": policy}}
    return [finding.part for finding in iam.guard_rails_stand(template(), literal)]


def test_guard_rails_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    by = {"StringNotEquals": {"aws:SourceVpce": "vpce-1"}}
    put = {"Effect": "Deny", "Action": ["s3:Put*"], "Condition": by}
    user = {"Effect": "Deny", "Action": "iam:CreateUser"}
    assert rails(monkeypatch, put, user) == []
    assert rails(monkeypatch, user) == ["s3:PutObject"]
    assert rails(monkeypatch, put | {"Effect": "Allow"}, user) == ["s3:PutObject"]
    # a Deny that came to depend on something else does not always hold
    assert rails(monkeypatch, put, user | {"Condition": by}) == ["iam:CreateUser"]
    assert rails(monkeypatch, put | {"Condition": {"Bool": {"aws:SecureTransport": "false"}}}, user) == [
        "s3:PutObject"
    ]


def test_a_guard_rail_is_the_roles_own(monkeypatch: pytest.MonkeyPatch) -> None:
    user = {"Effect": "Deny", "Action": "iam:CreateUser"}
    assert rails(monkeypatch, user) == ["s3:PutObject"]
    assert rails(monkeypatch, user, role="another") == ["s3:PutObject", "iam:CreateUser"]


def test_policies_of_a_role() -> None:
    policy = {"Type": "AWS::IAM::ManagedPolicy", "Properties": {}}
    arn = "arn:aws:iam::123456789012:policy/one"
    role = {"Type": "AWS::IAM::Role", "Properties": {"ManagedPolicyArns": [arn]}}
    literal = {"Resources": {"Role": role, "One": policy, "Two": policy}}
    assert iam.attached(literal, "Role") == {"Role", "One"}


def test_guard_rails_are_about_actions_that_exist() -> None:
    for template, policies in iam.guard_rails().items():
        for policy, wanted in policies.items():
            for action in [action for rail in wanted for action in rail["deny"]]:
                assert action in iam.expand(action), f"{template} {policy}: {action}"


def test_statements_are_found_wherever_policies_are() -> None:
    document = {"Statement": [{"Sid": "One", "Effect": "Allow"}, {"Sid": "Two", "Effect": "Deny"}]}
    single = {"Statement": {"Sid": "Three", "Effect": "Allow"}}
    literal = {
        "Resources": {
            "Role": {
                "Type": "AWS::IAM::Role",
                "Properties": {
                    "AssumeRolePolicyDocument": single,
                    "Policies": [{"PolicyDocument": document}],
                },
            },
            "Boundary": {
                "Type": "AWS::IAM::ManagedPolicy",
                "Properties": {"Path": "/mlops/boundary/", "PolicyDocument": single},
            },
            "Key": {"Type": "AWS::KMS::Key", "Properties": {"KeyPolicy": single}},
            "Text": {"Type": "AWS::IAM::Policy", "Properties": {"PolicyDocument": "given by a parameter"}},
        }
    }
    kinds = [(one.resource, one.kind, one.sid) for one in iam.statements(template(), literal)]
    assert kinds == [
        ("Role", "trust", "Three"),
        ("Role", "identity", "One"),
        ("Role", "identity", "Two"),
        ("Boundary", "ceiling", "Three"),
        ("Key", "AWS::KMS::Key", "Three"),
    ]
