"""What a type's handler asks for: the tables name what the registry and IAM know, and questions are whole."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from cfnlint.schema.manager import PROVIDER_SCHEMA_MANAGER

from localaws.permissions import handlers
from localaws.permissions.handlers import ADDED, KEYS, NOT_NEEDED, OWN, ROLES, Place, Resource
from localaws.permissions.mapping import action_details

PLACE = Place("mine", "us-east-1", "123456789012", boundary_of=lambda arn: "old" if "there" in arn else "")
HERE = "us-east-1:123456789012"
TOPIC = f"arn:aws:sns:{HERE}:t"
VERBS = ("create", "read", "update", "delete")


def schema(kind: str) -> dict[str, Any]:
    return PROVIDER_SCHEMA_MANAGER.get_resource_schema("us-east-1", kind).schema


def has(kind: str, path: str) -> bool:
    """Whether a type has a property at a dotted path; * goes through a list."""
    whole = schema(kind)

    def at(node: dict[str, Any], parts: list[str]) -> bool:
        while "$ref" in node:
            found: Any = whole
            for step in node["$ref"].removeprefix("#/").split("/"):
                found = found[step]
            node = found
        if not parts:
            return True
        if parts[0] == "*":
            return "items" in node and at(node["items"], parts[1:])
        choices = [node, *node.get("anyOf", []), *node.get("oneOf", [])]
        inner = [c["properties"][parts[0]] for c in choices if parts[0] in c.get("properties", {})]
        return any(at(found, parts[1:]) for found in inner)

    return at(whole, path.split("."))


def paths() -> Iterator[tuple[str, str]]:
    for kind, (_, places) in OWN.items():
        yield from ((kind, prop) for prop in places.values() if prop not in ("", "*"))
    for kind, found in ROLES.items():
        yield from ((kind, path) for path, _ in found)
    yield from KEYS.items()


@pytest.mark.parametrize(("kind", "path"), sorted(set(paths())))
def test_properties_are_the_types_own(kind: str, path: str):
    assert has(kind, path)


def test_each_rule_excuses_something():
    types = {f"AWS::{kind}" for rule in NOT_NEEDED for kind in _types(rule)}
    asked = {
        f"{kind.removeprefix('AWS::')} {action}"
        for kind in types
        for verb in VERBS
        for action in handlers.permissions(kind, verb)
    }
    assert [rule for rule in NOT_NEEDED if not any(re.search(rule, text) for text in asked)] == []


def test_each_rule_names_a_property():
    wrong = []
    for rule, prop in NOT_NEEDED.items():
        if prop and not any(prop in schema(f"AWS::{kind}").get("properties", {}) for kind in _types(rule)):
            wrong.append((rule, prop))
    assert wrong == []


def _types(rule: str) -> Iterator[str]:
    service, _, rest = rule.partition("::")
    name = rest.partition(" ")[0]
    known = {t for t in (*OWN, "AWS::IAM::Policy") if t.startswith(f"AWS::{service}::")}
    return (t.removeprefix("AWS::") for t in known if re.fullmatch(name, t.rpartition("::")[2]))


def test_added_actions_exist():
    actions = {a for verbs in ADDED.values() for found in verbs.values() for a in found}
    assert {a for a in actions if action_details(a) is None} == set()


@pytest.mark.parametrize("kind", sorted(OWN))
def test_arns_are_whole(kind: str):
    for physical_id in ("", "the-id"):
        arn = handlers.own_arn(Resource(kind, "Thing", {}, physical_id), PLACE)
        assert re.fullmatch(r"arn:aws:[a-z0-9-]+:[a-z0-9-]*:(\d{12})?:\S+", arn), arn
        assert "$" not in arn


@pytest.mark.parametrize(
    ("kind", "props", "physical_id", "arn"),
    [
        ("SSM::Parameter", {"Name": "/a/b"}, "/a/b", f"arn:aws:ssm:{HERE}:parameter/a/b"),
        ("IAM::Role", {"Path": "/x/"}, "name", "arn:aws:iam::123456789012:role/x/name"),
        ("KMS::Alias", {"AliasName": "alias/a"}, "alias/a", f"arn:aws:kms:{HERE}:alias/a"),
        ("Scheduler::Schedule", {"Name": "s"}, "s", f"arn:aws:scheduler:{HERE}:schedule/default/s"),
        ("S3::Bucket", {}, "", "arn:aws:s3:::mine-thing-xxxxxxxxxxxx"),
        ("SNS::Topic", {}, TOPIC, TOPIC),
        ("SNS::Subscription", {"TopicArn": TOPIC}, f"{TOPIC}:1", TOPIC),
        ("EC2::VPC", {}, "", f"arn:aws:ec2:{HERE}:vpc/*"),
        ("SQS::Queue", {"QueueName": "q"}, "", f"arn:aws:sqs:{HERE}:q"),
    ],
)
def test_arn(kind: str, props: dict, physical_id: str, arn: str):
    assert handlers.own_arn(Resource(f"AWS::{kind}", "Thing", props, physical_id), PLACE) == arn


def asked(found: list, action: str) -> list[tuple[str, dict]]:
    return [(a.resource, dict(a.context)) for a in found if a.action == action]


def test_a_role_is_made_with_its_boundary_and_policies():
    props = {
        "RoleName": "there",
        "PermissionsBoundary": "new",
        "ManagedPolicyArns": ["p1", "p2"],
        "Tags": [{"Key": "team", "Value": "red"}, {"Key": "aws:cloudformation:stack-name", "Value": "x"}],
    }
    role = Resource("AWS::IAM::Role", "Role", props)
    ((arn, context),) = asked(handlers.making(role, PLACE), "iam:CreateRole")
    assert (arn, context) == (
        "arn:aws:iam::123456789012:role/there",
        {"iam:PermissionsBoundary": "new", "aws:RequestTag/team": "red", "aws:TagKeys": ["team"]},
    ), "CloudFormation's own tags are no tags of the request"
    attached = asked(handlers.made(role, PLACE), "iam:AttachRolePolicy")
    assert [c["iam:PolicyARN"] for _, c in attached] == ["p1", "p2"]
    changed = Resource(role.type, "Role", props, "there", {**props, "ManagedPolicyArns": ["p1", "p0"]})
    updating = handlers.updating(changed, PLACE)
    assert [c["iam:PolicyARN"] for _, c in asked(updating, "iam:DetachRolePolicy")] == ["p0"]
    assert asked(updating, "iam:UpdateRole")[0][1]["iam:PermissionsBoundary"] == "old", "the one that it has"
    assert asked(updating, "iam:PutRolePermissionsBoundary")[0][1]["iam:PermissionsBoundary"] == "new"


def test_roles_are_handed_to_the_service_that_gets_them():
    role = "arn:aws:iam::123456789012:role/r"
    targets = [{"Arn": "t", "Id": "1", "RoleArn": f"{role}2"}, {"Arn": "u", "Id": "2"}]
    rule = Resource("AWS::Events::Rule", "Rule", {"RoleArn": role, "Targets": targets})
    found = handlers.making(rule, PLACE)
    to = {"iam:PassedToService": "events.amazonaws.com"}
    assert asked(found, "iam:PassRole") == [(role, to), (f"{role}2", to)]
    made = handlers.made(rule, PLACE)
    assert asked(made, "events:PutTargets")[0][1]["events:TargetArn"] == ["t", "u"]


def test_tags_that_go_and_come():
    old, new = ({"Name": "/a", "Tags": {k: "1"}} for k in ("gone", "new"))
    found = handlers.updating(Resource("AWS::SSM::Parameter", "P", new, "/a", old), PLACE)
    assert asked(found, "ssm:RemoveTagsFromResource")[0][1] == {"aws:TagKeys": ["gone"]}
    assert asked(found, "ssm:AddTagsToResource")[0][1]["aws:RequestTag/new"] == "1"
    same = handlers.updating(Resource("AWS::SSM::Parameter", "P", new, "/a", new), PLACE)
    assert not asked(same, "ssm:AddTagsToResource") and not asked(same, "ssm:RemoveTagsFromResource")


def test_keys_are_used_through_the_service():
    props = {"RepositoryName": "r", "EncryptionConfiguration": {"EncryptionType": "KMS", "KmsKey": "k-1"}}
    found = handlers.making(Resource("AWS::ECR::Repository", "R", props), PLACE)
    ((arn, context),) = asked(found, "kms:CreateGrant")
    assert arn == f"arn:aws:kms:{HERE}:key/k-1"
    assert context["kms:ViaService"] == "ecr.us-east-1.amazonaws.com"
    assert context["kms:GrantIsForAWSResource"] == "true"
    plain = handlers.making(Resource("AWS::ECR::Repository", "R", {"RepositoryName": "r"}), PLACE)
    assert not [a for a in plain if a.service == "kms"]


def test_replacement_follows_the_registry():
    kind = "AWS::SSM::Parameter"
    assert handlers.replaces(kind, {"Name": "a"}, {"Name": "b"})
    assert not handlers.replaces(kind, {"Name": "a", "Value": "1"}, {"Name": "a", "Value": "2"})
