"""Faults that make a template less safe, one at a time, made in its text as a person would make them.

A mutation is found by walking the YAML nodes, which know where they stand, and is applied to the text;
comments and the rest of the file stay. `mutants` yields all of a template's, `sample` picks some of many
with a fixed seed so that every kind of fault is among them.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from check.templates import Template

Path = tuple[str | int, ...]
DELETE = "\0delete"
POLICY_KEYS = {
    "PolicyDocument",
    "AssumeRolePolicyDocument",
    "KeyPolicy",
    "PermissionsPolicyDocument",
    "RepositoryPolicyText",
    "ModelPackageGroupPolicy",
    "ResourcePolicy",
}


@dataclass(frozen=True)
class Mutation:
    """One fault: what kind, where, and what stands there instead."""

    kind: str
    template: str
    path: Path
    value: str  # YAML, or DELETE

    @property
    def name(self) -> str:
        """Says what was done, and is the same on every run."""
        where = ".".join(map(str, self.path[1:]))
        return f"{self.kind} {self.template} {where}" + ("" if self.value == DELETE else f" = {self.value}")


class Tagged(dict):  # type: ignore[type-arg]
    """A node with a short-form function; compares by tag and content."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """Plain data, functions included."""


def _tagged(loader: _Loader, suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.ScalarNode):
        return Tagged({suffix: node.value})
    if isinstance(node, yaml.SequenceNode):
        return Tagged({suffix: loader.construct_sequence(node, deep=True)})
    return Tagged({suffix: loader.construct_mapping(node, deep=True)})


_Loader.add_multi_constructor("!", _tagged)


def data_of(text: str) -> Any:
    """The data of a template's text, with functions as they are written."""
    return yaml.load(text, _Loader)  # noqa: S506 – a SafeLoader that knows CloudFormation's tags


def apply(template: Template, mutation: Mutation) -> str:
    """The template's text with the fault in it, and nothing else changed."""
    text = template.text
    changed = _edit(text, mutation.path, mutation.value)
    expected = _changed(data_of(text), mutation.path, mutation.value)
    if data_of(changed) != expected:
        raise AssertionError(f"the edit went wrong: {mutation.name}")
    return changed


def _changed(data: Any, path: Path, value: str) -> Any:
    *parents, last = path
    place = data
    for key in parents:
        place = place[key]
    if value == DELETE:
        del place[last]
    else:
        place[last] = data_of(value)
    return data


def _node(text: str, path: Path) -> tuple[yaml.Node, yaml.Node | None, yaml.Node]:
    """The node at a path, its key and what it lies in."""
    node, key, parent = yaml.compose(text, yaml.SafeLoader), None, None
    for step in path:
        parent = node
        if isinstance(node, yaml.MappingNode):
            key, node = next((k, v) for k, v in node.value if k.value == step)
        else:
            key, node = None, node.value[int(step)]
    return node, key, parent


def _end(node: yaml.Node) -> int:
    """Where a node's text ends; a block's own mark lies behind the comments that follow."""
    if isinstance(node, yaml.ScalarNode) or node.flow_style or not node.value:
        return node.end_mark.index
    last = node.value[-1]
    return _end(last[1] if isinstance(last, tuple) else last)


def _edit(text: str, path: Path, value: str) -> str:
    if value != DELETE:
        try:
            node, _, _ = _node(text, path)
        except StopIteration:
            return _added(text, path, value)
        return text[: node.start_mark.index] + value + text[_end(node) :]
    node, key, parent = _node(text, path)
    start, end = (key or node).start_mark.index, _end(node)
    if parent.flow_style:
        behind = re.match(r"\s*,\s*", text[end:])
        if behind:
            return text[:start] + text[end + behind.end() :]
        before = re.search(r",\s*$", text[:start])
        return text[: before.start() if before else start] + text[end:]
    start = text.rfind("\n", 0, start) + 1
    line_end = text.find("\n", end - 1 if text[end - 1] == "\n" else end)
    return text[:start] + (text[line_end + 1 :] if line_end >= 0 else "")


def _added(text: str, path: Path, value: str) -> str:
    """A key that is not there yet, in front of its siblings."""
    parent, _, _ = _node(text, path[:-1])
    first = parent.value[0][0].start_mark
    if parent.flow_style:
        return text[: first.index] + f"{path[-1]}: {value}, " + text[first.index :]
    return text[: first.index] + f"{path[-1]}: {value}\n" + " " * first.column + text[first.index :]


Faults = Iterator[tuple[str, Path, str]]


def mutants(template: Template) -> Iterator[Mutation]:
    """Every fault that can be made in a template."""
    data = data_of(template.text)
    for name, resource in data.get("Resources", {}).items():
        at = ("Resources", name)
        for fault in (*_of_resource(at, resource), *_of_policies(at, resource)):
            yield Mutation(fault[0], template.name, fault[1], fault[2])
    for name, parameter in data.get("Parameters", {}).items():
        if "AllowedPattern" in parameter:
            yield Mutation("any-parameter", template.name, ("Parameters", name, "AllowedPattern"), DELETE)


# Properties by type whose loss, or whose other value, is a fault. A value is what is written instead.
PROPERTIES: Mapping[str, Mapping[tuple[str, str], tuple[str, ...]]] = {
    "AWS::S3::Bucket": {
        ("unencrypted", "BucketEncryption"): (DELETE,),
        ("public", "PublicAccessBlockConfiguration"): (DELETE,),
        ("public", "PublicAccessBlockConfiguration.BlockPublicAcls"): ("false",),
        ("public", "PublicAccessBlockConfiguration.BlockPublicPolicy"): ("false",),
        ("public", "PublicAccessBlockConfiguration.RestrictPublicBuckets"): ("false",),
        ("unversioned", "VersioningConfiguration"): (DELETE,),
        ("unversioned", "VersioningConfiguration.Status"): ("Suspended",),
        ("foreign-owner", "OwnershipControls"): (DELETE,),
        ("foreign-owner", "OwnershipControls.Rules.0.ObjectOwnership"): ("ObjectWriter",),
        ("no-lifecycle", "LifecycleConfiguration"): (DELETE,),
        ("public", "AccessControl"): ("PublicRead",),
        ("own-key", "BucketEncryption.ServerSideEncryptionConfiguration.0.ServerSideEncryptionByDefault"): (
            "{SSEAlgorithm: AES256}",
        ),
        ("no-events", "NotificationConfiguration"): (DELETE,),
        ("no-access-log", "LoggingConfiguration"): (DELETE,),
    },
    "AWS::KMS::Key": {
        ("no-rotation", "EnableKeyRotation"): ("false", DELETE),
        ("quick-deletion", "PendingWindowInDays"): ("7",),
    },
    "AWS::Logs::LogGroup": {
        ("logs-forever", "RetentionInDays"): (DELETE,),
        ("logs-short", "RetentionInDays"): ("1",),
        ("unencrypted", "KmsKeyId"): (DELETE,),
    },
    "AWS::SNS::Topic": {("unencrypted", "KmsMasterKeyId"): (DELETE,)},
    "AWS::SQS::Queue": {("unencrypted", "KmsMasterKeyId"): (DELETE,)},
    "AWS::ECR::Repository": {
        ("mutable-tags", "ImageTagMutability"): ("MUTABLE", DELETE),
        ("unscanned", "ImageScanningConfiguration"): (DELETE,),
        ("unscanned", "ImageScanningConfiguration.ScanOnPush"): ("false",),
        ("unencrypted", "EncryptionConfiguration"): (DELETE,),
    },
    "AWS::EC2::SecurityGroup": {
        ("open-group", "SecurityGroupEgress"): (
            DELETE,
            "[{Description: Out, IpProtocol: tcp, FromPort: 443, ToPort: 443, CidrIp: 0.0.0.0/0}]",
            "[{Description: Out, IpProtocol: '-1', CidrIp: 10.0.0.0/8}]",
        ),
        ("open-group", "SecurityGroupIngress"): (
            "[{Description: In, IpProtocol: tcp, FromPort: 443, ToPort: 443, CidrIp: 0.0.0.0/0}]",
        ),
    },
    "AWS::EC2::SecurityGroupIngress": {
        ("open-group", "SourceSecurityGroupId"): (DELETE,),
        ("open-group", "IpProtocol"): ("'-1'",),
        ("open-group", "CidrIp"): ("0.0.0.0/0",),
    },
    "AWS::EC2::SecurityGroupEgress": {
        ("open-group", "IpProtocol"): ("'-1'",),
        ("open-group", "CidrIp"): ("0.0.0.0/0",),
    },
    "AWS::EC2::Subnet": {("public", "MapPublicIpOnLaunch"): ("true",)},
    "AWS::EC2::VPCEndpoint": {
        ("open-endpoint", "PolicyDocument"): (DELETE,),
        ("no-private-dns", "PrivateDnsEnabled"): ("false",),
    },
    "AWS::EC2::FlowLog": {("half-a-log", "TrafficType"): ("REJECT",)},
    "AWS::CodeBuild::Project": {
        ("outside", "VpcConfig"): (DELETE,),
        ("unencrypted", "EncryptionKey"): (DELETE,),
        ("privileged", "Environment.PrivilegedMode"): ("true",),
        ("no-log", "LogsConfig"): (DELETE, "{CloudWatchLogs: {Status: DISABLED}}"),
        ("endless", "TimeoutInMinutes"): (DELETE,),
        ("plain-secret", "Environment.EnvironmentVariables"): (
            "[{Name: AWS_SECRET_ACCESS_KEY, Value: wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY}]",
        ),
    },
    "AWS::CodePipeline::Pipeline": {("unencrypted", "ArtifactStore.EncryptionKey"): (DELETE,)},
    "AWS::CodeCommit::Repository": {("unencrypted", "KmsKeyId"): (DELETE,)},
    "AWS::CodeArtifact::Domain": {("unencrypted", "EncryptionKey"): (DELETE,)},
    "AWS::Lambda::Function": {
        ("old-runtime", "Runtime"): ("python3.8",),
        ("no-log", "LoggingConfig"): (DELETE,),
        ("no-dead-letters", "DeadLetterConfig"): (DELETE,),
        ("unencrypted", "KmsKeyArn"): (DELETE,),
        ("unlimited", "ReservedConcurrentExecutions"): (DELETE,),
        ("inline-code", "Code"): ("{ZipFile: 'import os'}",),
    },
    "AWS::Lambda::Permission": {
        ("confused-deputy", "SourceAccount"): (DELETE,),
        ("confused-deputy", "SourceArn"): (DELETE,),
        ("any-principal", "Principal"): ("'*'",),
    },
    "AWS::SageMaker::Domain": {
        ("outside", "AppNetworkAccessType"): ("PublicInternetOnly", DELETE),
        ("unencrypted", "KmsKeyId"): (DELETE,),
    },
    "AWS::SageMaker::Model": {
        ("not-isolated", "EnableNetworkIsolation"): ("false", DELETE),
        ("outside", "VpcConfig"): (DELETE,),
    },
    "AWS::SageMaker::EndpointConfig": {
        ("unencrypted", "KmsKeyId"): (DELETE,),
        ("unencrypted", "DataCaptureConfig.KmsKeyId"): (DELETE,),
        ("no-capture", "DataCaptureConfig"): (DELETE,),
    },
    "AWS::Scheduler::Schedule": {("unencrypted", "KmsKeyArn"): (DELETE,)},
    "AWS::IAM::Role": {
        ("no-boundary", "PermissionsBoundary"): (DELETE,),
        ("administrator", "ManagedPolicyArns"): (
            "[!Sub 'arn:${AWS::Partition}:iam::aws:policy/AdministratorAccess']",
        ),
        ("other-path", "Path"): ("/", DELETE),
    },
}
# Keys that a fault adds when they are not there.
ADDED = {
    "AccessControl",
    "SecurityGroupIngress",
    "PrivilegedMode",
    "MapPublicIpOnLaunch",
    "CidrIp",
    "ManagedPolicyArns",
    "EnvironmentVariables",
}
# Resources that nobody refers to and whose loss opens something.
REMOVABLE = {
    "AWS::S3::BucketPolicy",
    "AWS::SNS::TopicPolicy",
    "AWS::EC2::FlowLog",
    "AWS::ServiceCatalog::LaunchRoleConstraint",
    "AWS::ServiceCatalog::LaunchTemplateConstraint",
}


def _of_resource(at: Path, resource: dict[str, Any]) -> Faults:
    """Faults of a resource's own properties."""
    for policy in ("DeletionPolicy", "UpdateReplacePolicy"):
        if policy in resource:
            yield f"no-{'deletion' if policy[0] == 'D' else 'replace'}-policy", (*at, policy), DELETE
    if resource.get("DeletionPolicy") == "Retain":
        yield "deletes-data", (*at, "DeletionPolicy"), "Delete"
    if resource["Type"] in REMOVABLE:
        yield "gone", at, DELETE
    for (kind, dotted), values in PROPERTIES.get(resource["Type"], {}).items():
        path: Path = ("Properties", *(int(part) if part.isdigit() else part for part in dotted.split(".")))
        found = _get(resource, path)
        parent = _get(resource, path[:-1])
        addable = path[-1] in ADDED and isinstance(parent, dict) and not isinstance(parent, Tagged)
        for value in values:
            if (
                found is not None
                and (value == DELETE or data_of(value) != found)
                or found is None
                and value != DELETE
                and addable
            ):
                yield kind, (*at, *path), value
    if resource["Type"] == "AWS::CodePipeline::Pipeline":
        for i, stage in enumerate(resource["Properties"]["Stages"]):
            for j, action in enumerate(stage["Actions"]):
                where = (*at, "Properties", "Stages", i, "Actions", j)
                if action["ActionTypeId"]["Category"] == "Approval":
                    yield "no-approval", where if len(stage["Actions"]) > 1 else where[:-2], DELETE
                if "PollForSourceChanges" in action.get("Configuration", {}):
                    yield "polls", (*where, "Configuration", "PollForSourceChanges"), "'true'"


def _get(node: Any, path: Path) -> Any:
    for step in path:
        if (
            isinstance(node, list)
            and isinstance(step, int)
            and step < len(node)
            or isinstance(node, dict)
            and step in node
        ):
            node = node[step]
        else:
            return None
    return node


def _of_policies(at: Path, resource: dict[str, Any]) -> Faults:
    """Faults of the statements of a resource's policies."""
    for path, holder in _documents(at, resource):
        statements = holder["Statement"]
        if not isinstance(statements, list):
            continue
        for index, statement in enumerate(statements):
            if isinstance(statement, dict) and "Effect" in statement:
                yield from _of_statement((*path, "Statement", index), statement, len(statements))


def _documents(path: Path, node: Any, key: str = "") -> Iterator[tuple[Path, dict[str, Any]]]:
    if isinstance(node, dict):
        if key in POLICY_KEYS and "Statement" in node:
            yield path, node
        for name, value in node.items():
            yield from _documents((*path, name), value, str(name))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _documents((*path, index), value)


def _of_statement(at: Path, statement: dict[str, Any], siblings: int) -> Faults:
    if statement["Effect"] == "Deny":
        if siblings > 1:
            yield "no-deny", at, DELETE
        yield "deny-allows", (*at, "Effect"), "Allow"
        return
    condition = statement.get("Condition")
    if isinstance(condition, dict) and not isinstance(condition, Tagged):
        keys = [(operator, key) for operator, block in condition.items() for key in block]
        yield "no-condition", (*at, "Condition"), DELETE
        if len(keys) > 1:
            for operator, key in keys:
                alone = len(condition[operator]) == 1
                yield "no-condition-key", (*at, "Condition", operator, *(() if alone else (key,))), DELETE
    if "Principal" in statement and statement["Principal"] != "*":
        yield "any-principal", (*at, "Principal"), "'*'"
    if "Resource" in statement:
        yield from _of_resources((*at, "Resource"), statement["Resource"])
    actions = statement["Action"]
    if not isinstance(actions, Tagged):
        yield "any-action", (*at, "Action"), "'*'"
        for index, action in enumerate(actions if isinstance(actions, list) else [actions]):
            service = str(action).partition(":")[0]
            if isinstance(action, str) and action not in ("*", f"{service}:*"):
                place = (*at, "Action", index) if isinstance(actions, list) else (*at, "Action")
                yield "wide-action", place, f"{service}:*"


def _of_resources(at: Path, resource: Any) -> Faults:
    if resource == "*":
        return
    yield "any-resource", at, "'*'"
    for index, one in enumerate(resource if isinstance(resource, list) else [resource]):
        text = one.get("Sub") if isinstance(one, Tagged) else one
        if isinstance(text, str) and (wide := _wider(text)):
            yield "wide-arn", (*at, index) if isinstance(resource, list) else at, f"!Sub '{wide}'"


def _wider(arn: str) -> str:
    """arn:…:role/mlops/projects/* -> arn:…:role/*: everything of the kind."""
    parts = arn.split(":", 5)
    if len(parts) != 6 or parts[0] != "arn":
        return ""
    kind = re.match(r"(parameter|[a-z-]+[/:])?", parts[5])
    wide = ":".join(parts[:5]) + ":" + (kind[0] if kind and parts[2] != "s3" else "") + "*"
    return wide if wide != arn else ""


def sample(pool: Iterable[Mutation], count: int, seed: int) -> list[Mutation]:
    """So many mutations, dealt in turn from each kind, so that a kind with many does not crowd out the
    rest.
    """
    dice = random.Random(seed)  # noqa: S311 – the same faults on every run are wanted
    kinds: dict[str, list[Mutation]] = defaultdict(list)
    for mutation in pool:
        kinds[mutation.kind].append(mutation)
    for found in kinds.values():
        dice.shuffle(found)
    chosen: list[Mutation] = []
    while len(chosen) < count and any(kinds.values()):
        for found in kinds.values():
            if found and len(chosen) < count:
                chosen.append(found.pop())
    return chosen
