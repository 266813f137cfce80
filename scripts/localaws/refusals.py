"""What AWS refuses and the emulators would accept: checks by resource type, beyond the registry's schemas."""

from __future__ import annotations

import json
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from localaws.cloud import Cloud

_MALFORMED = "(Service: Iam, Status Code: 400, Error Code: MalformedPolicyDocument)"


def trust_policy_error(document: Any) -> str | None:
    """Why IAM would refuse a role's trust policy, None when it would not.

    IAM's answer is ``MalformedPolicyDocument``; the rules are those of "IAM JSON policy elements" for a
    resource-based policy without a Resource.
    """
    try:
        policy = json.loads(document) if isinstance(document, str) else document
    except ValueError:
        return "This policy contains invalid Json"
    statements = policy.get("Statement") if isinstance(policy, dict) else None
    statements = [statements] if isinstance(statements, dict) else statements
    if not statements:
        return "Missing required field Statement"
    for statement in statements:
        if not statement.get("Principal") and not statement.get("NotPrincipal"):
            return "Missing required field Principal cannot be empty!"
        if statement.get("NotPrincipal"):
            return "AssumeRole policy must not contain NotPrincipal with effect Allow"
        if "Resource" in statement or "NotResource" in statement:
            return "Has prohibited field Resource"
        if statement.get("Effect") not in ("Allow", "Deny"):
            return f"Invalid effect: {statement.get('Effect')}"
        actions = statement.get("Action") or []
        wrong = [
            a
            for a in ([actions] if isinstance(actions, str) else actions)
            if not a.startswith("sts:") and a != "*"
        ]
        if wrong or not actions:
            given = ", ".join(wrong) or "none"
            return f"AssumeRole policy may only specify STS AssumeRole actions, found {given}"
    return None


def _role(cloud: Cloud, props: dict[str, Any]) -> None:
    from ministack.core.iam_evaluator import validate_policy_document

    error = trust_policy_error(props.get("AssumeRolePolicyDocument"))
    if error:
        raise ValueError(f"{error} {_MALFORMED}")
    for policy in props.get("Policies") or []:
        error = validate_policy_document(json.dumps(policy["PolicyDocument"]))
        if error:
            raise ValueError(f"{policy['PolicyName']}: {error} {_MALFORMED}")


def _managed_policy(cloud: Cloud, props: dict[str, Any]) -> None:
    from ministack.core.iam_evaluator import validate_policy_document

    text = json.dumps(props["PolicyDocument"], separators=(",", ":"))
    error = validate_policy_document(text)
    if error:
        raise ValueError(f"{error} {_MALFORMED}")
    if len(text) > 6144:
        raise ValueError(
            f"Cannot exceed quota for PolicySize: 6144 (the document has {len(text)} characters)"
        )


def _function(cloud: Cloud, props: dict[str, Any]) -> None:
    from localaws.errors import AwsError

    try:
        cloud.check_trust(props["Role"], "lambda.amazonaws.com")
    except AwsError as error:
        raise ValueError(
            "The role defined for the function cannot be assumed by Lambda. "
            f"(Error Code: InvalidParameterValueException) {error.message}"
        ) from error
    from localaws.hooks import apis

    apis.image_is_lent(cloud, props)


def _api_stage(cloud: Cloud, props: dict[str, Any]) -> None:
    from localaws.hooks import apis

    apis.stage_needs_a_role(cloud, props)


def policy_allows(document: Any, principal: str, action: str, context: dict[str, str]) -> bool:
    """Whether a resource's policy lets a service call an action, as AWS decides it.

    ``context`` holds what the service tells of the call (``aws:sourcearn`` …, in lower case). A condition on
    anything else is not met.
    """
    policy = json.loads(document) if isinstance(document, str) else document or {}
    allowed = False
    for statement in _list(policy.get("Statement")):
        named = statement.get("Principal")
        services = _list(named.get("Service")) if isinstance(named, dict) else []
        everybody = named == "*" or isinstance(named, dict) and "*" in _list(named.get("AWS"))
        actions = [a.lower() for a in _list(statement.get("Action"))]
        fits = (everybody or principal in services) and any(fnmatchcase(action.lower(), a) for a in actions)
        if fits and _met(statement.get("Condition") or {}, context):
            if statement.get("Effect") == "Deny":
                return False
            allowed = True
    return allowed


def _met(conditions: dict[str, dict[str, Any]], context: dict[str, str]) -> bool:
    for operator, wanted in conditions.items():
        matches = fnmatchcase if operator in ("ArnLike", "ArnEquals", "StringLike") else str.__eq__
        for key, values in wanted.items():
            value = context.get(key.lower())
            if value is None or not any(matches(value, str(v)) for v in _list(values)):
                return False
    return True


def _list(value: Any) -> list:
    return value if isinstance(value, list) else [] if value is None else [value]


def target_error(target: dict[str, Any]) -> str | None:
    """Why EventBridge would refuse a rule's target: it reaches these services under a role only."""
    service = target["Arn"].split(":")[2] if target.get("Arn", "").count(":") >= 5 else ""
    if service in ("codepipeline", "codebuild", "sagemaker", "states") and not target.get("RoleArn"):
        return f"RoleArn is required for target {target['Arn']}."
    return None


def _rule(cloud: Cloud, props: dict[str, Any]) -> None:
    for target in props.get("Targets") or []:
        if error := target_error(target):
            raise ValueError(f"{error} (Error Code: ValidationException)")


#: what a role needs so that Step Functions delivers its machine's log
#: https://docs.aws.amazon.com/step-functions/latest/dg/cw-logs.html
_LOG_DELIVERY = (
    "logs:CreateLogDelivery",
    "logs:DeleteLogDelivery",
    "logs:DescribeLogGroups",
    "logs:DescribeResourcePolicies",
    "logs:GetLogDelivery",
    "logs:ListLogDeliveries",
    "logs:PutResourcePolicy",
    "logs:UpdateLogDelivery",
)


def _state_machine(cloud: Cloud, props: dict[str, Any]) -> None:
    from localaws.errors import AwsError
    from localaws.hooks import states
    from localaws.permissions import implied
    from localaws.permissions.access import Access

    if error := states.refused(props):
        raise ValueError(f"Invalid State Machine Definition: {error} (Error Code: InvalidDefinition)")
    name, role = props.get("StateMachineName", ""), props["RoleArn"]
    arn = cloud.arn("states", f"stateMachine:{name}") if name else ""
    try:
        cloud.check_trust(role, "states.amazonaws.com", arn)
    except AwsError as error:
        raise ValueError(
            "Neither the global service principal states.amazonaws.com, nor the regional one is authorized "
            f"to assume the provided role. (Error Code: AccessDeniedException) {error.message}"
        ) from error
    if (props.get("LoggingConfiguration") or {}).get("Level", "OFF") != "OFF":
        lacking = [a for a in _LOG_DELIVERY if not implied.role_may(cloud, role, Access(a, "*", {}))]
        if lacking:
            raise ValueError(
                "The state machine IAM Role is not authorized to access the Log Destination "
                f"(Error Code: AccessDeniedException) {role} lacks {', '.join(lacking)}"
            )
    if key := (props.get("EncryptionConfiguration") or {}).get("KmsKeyId"):
        for access in states.key_questions(cloud, key, arn, logs=bool(props.get("LoggingConfiguration"))):
            if not implied.role_may(cloud, role, access):
                raise ValueError(
                    f"The state machine's role {role} may not {access.action} with {access.resource} in the "
                    f"context {access.context} (Error Code: KmsAccessDeniedException)"
                )


#: resource type → check(cloud, properties), raising ValueError with the reason
CHECKS: dict[str, Callable[[Any, dict[str, Any]], None]] = {
    "AWS::IAM::Role": _role,
    "AWS::IAM::ManagedPolicy": _managed_policy,
    "AWS::Lambda::Function": _function,
    "AWS::ApiGateway::Stage": _api_stage,
    "AWS::Events::Rule": _rule,
    "AWS::StepFunctions::StateMachine": _state_machine,
}
