"""IAM: the emulator's evaluator, and where it keeps the policies that have a say."""

from __future__ import annotations

from typing import Any

#: hook → the emulator's private names it uses ("module:attribute")
HOOKS: dict[str, tuple[str, ...]] = {
    "evaluator": (
        "ministack.core.iam_evaluator:evaluate",
        "ministack.core.iam_evaluator:evaluate_resource_policy",
        "ministack.core.iam_evaluator:combine_resource_policy",
        "ministack.core.iam_evaluator:parse_policy_document",
        "ministack.core.iam_evaluator:_resolve_condition_key",
        "ministack.core.iam_evaluator:EvalContext",
    ),
    "role_policies": (
        "ministack.services.iam:_roles",
        "ministack.services.sts:_sessions",
        "ministack.core.iam_evaluator:_resolve_managed_policy_document",
    ),
    "resource_policies": (
        "ministack.core.iam_evaluator:_resource_policy",
        "ministack.services.eventbridge:_event_bus_policies",
    ),
    "resource_tags": ("ministack.services.tagging:resource_tags",),
    "s3_actions": (
        "ministack.core.iam_actions:_s3_action",
        "ministack.core.iam_actions:s3_additional_checks",
        "ministack.core.iam_actions:s3_service_context",
        "ministack.app:_extract_s3_vhost_bucket",
    ),
    "keys": (
        "ministack.services.kms:_keys",
        "ministack.services.kms:_aliases",
        "ministack.services.kms:_alias_arn",
        "ministack.core.iam_actions:_kms_key_id_from_ciphertext",
    ),
    "owned_things": (
        "ministack.services.s3:_object_tags",
        "ministack.services.secretsmanager:_secrets",
        "ministack.services.cloudformation:_stacks",
        "ministack.services.cloudformation:_change_sets",
    ),
    "denials": ("ministack.core.iam_actions:access_denied_response",),
}


def session_of(access_key: str) -> dict[str, Any] | None:
    """The session that STS made with this key, None for a key that is no session's."""
    from ministack.services import sts

    return sts._sessions.get(access_key)


def role(account: str, name: str) -> dict[str, Any] | None:
    """A role as IAM keeps it."""
    from ministack.services import iam

    return iam._roles.get_scoped(account, None, name)


def trusts(document: Any, principal: str, role_arn: str, context: dict[str, Any]) -> bool:
    """Whether a trust policy lets a service assume its role, given the keys that the service supplies."""
    from ministack.core import iam_evaluator

    ask = iam_evaluator.EvalContext(
        principal_arn=principal,
        principal_type="Service",
        principal_account="",
        action="sts:AssumeRole",
        resource_arn=role_arn,
        region="",
        service_context={k.lower(): v for k, v in context.items()},
    )
    found = iam_evaluator.evaluate_resource_policy(document, ask, service=principal)
    return found.decision == "Allow"


def condition_value(key: str, ask: Any) -> Any:
    """The value of a condition key in a question, None for one that it lacks."""
    from ministack.core import iam_evaluator

    return iam_evaluator._resolve_condition_key(key, ask)


def managed_policy(arn: str, account: str) -> dict[str, Any] | str | None:
    """The default version of a managed policy."""
    from ministack.core import iam_evaluator

    return iam_evaluator._resolve_managed_policy_document(arn, account)


def resource_policy(service: str, arn: str) -> tuple[Any, str | None] | None:
    """The policy of a resource that the emulator keeps, with its owner's account."""
    from ministack.core import iam_evaluator

    if service == "events" and ":event-bus/" in arn:
        return bus_policy(arn), arn.split(":")[4]
    found = iam_evaluator._resource_policy(service, arn)
    return (found[0] or None, found[1]) if found else None  # "" for a bucket without a policy


def bus_policy(arn: str) -> dict[str, Any] | None:
    """The policy of an event bus, None for none; the emulator keeps what PutPermission was given."""
    from ministack.services import eventbridge

    found = eventbridge._event_bus_policies.get(arn.rpartition("/")[2])
    if not found:
        return None
    statements = []
    for statement in found["Statement"]:
        condition, named = statement.get("Condition") or {}, statement["Principal"]
        if "Type" in condition:
            condition = {condition["Type"]: {condition["Key"]: condition["Value"]}}
        named = {"AWS": named} if isinstance(named, str) and named != "*" else named
        statements.append({**statement, "Principal": named, "Condition": condition})
    return {**found, "Statement": statements}


def tags_of(arn: str) -> dict[str, str]:
    """The tags of a resource that the emulator keeps."""
    from ministack.services import tagging

    return tagging.resource_tags(arn) or {}


def s3_accesses(
    method: str, path: str, headers: dict[str, str], query: dict[str, list[str]], body: bytes
) -> list[tuple[str, str, dict[str, Any]]]:
    """(action, resource, context) of an S3 request."""
    from ministack.core import iam_actions

    action = iam_actions._s3_action(method, path, query)
    if action is None:
        return []
    resource = iam_actions.extract_resource_arn("s3", method, path, headers, body, query, "", "")
    context = iam_actions.s3_service_context(f"s3:{action}", query, path, headers)
    more = iam_actions.s3_additional_checks(method, path, headers, body, query)
    return [(f"s3:{action}", resource, context), *((a, r, {}) for a, r in more)]


def bucket_of_host(host: str) -> str:
    """The bucket in a virtual-hosted address, "" for none."""
    from ministack import app

    return app._extract_s3_vhost_bucket(host) or ""


def denied(service: str, action: str, principal: str, error: Any, headers: dict[str, str]) -> Any:
    """(status, headers, body) of a refusal in the protocol that the request came in."""
    import json
    from uuid import uuid4

    from ministack.core import iam_actions

    name = {"cloudwatch": "monitoring", "stepfunctions": "states"}.get(service, service)
    is_denial = error.code == "AccessDeniedException"
    if name in ("ssm", "logs"):  # the emulator words these itself, without the kind of policy
        answer = {"__type": error.code, "Message": error.message}
        return 400, {"Content-Type": "application/x-amz-json-1.1"}, json.dumps(answer).encode()
    return iam_actions.access_denied_response(
        name,
        action,
        principal,
        str(uuid4()),
        message=error.message,
        headers=headers,
        error_code="" if is_denial else error.code,
    )


def key_arn(key: str) -> str | None:
    """The ARN of a key by its id, ARN or alias; None for a key that is not there."""
    from ministack.services import kms

    if key.startswith("alias/"):
        key = kms._alias_arn(key)
    if ":alias/" in key:
        key = kms._aliases.get(key) or key
    found = kms._keys.get(key.rpartition("/")[2])
    return found["Arn"] if found else None


def key_of_ciphertext(blob: bytes | str) -> str:
    """The id of the key that a ciphertext was made with, "" when it does not tell."""
    import base64

    from ministack.core import iam_actions

    text = blob if isinstance(blob, str) else base64.b64encode(blob).decode()
    return iam_actions._kms_key_id_from_ciphertext(text)


def object_tags(bucket: str, key: str) -> dict[str, str]:
    """The tags of an object's current version."""
    from ministack.services import s3

    return next((t for (b, k, *_), t in list(s3._object_tags.items()) if (b, k) == (bucket, key)), None) or {}


def secret_arn(secret: str) -> str | None:
    """What follows ``secret:`` in the ARN of a secret by name or ARN; None for one that is not there."""
    from ministack.services import secretsmanager

    found = secretsmanager._secrets.get(secret) or next(
        (s for s in secretsmanager._secrets.values() if s.get("ARN") == secret), None
    )
    return found["ARN"].rpartition(":secret:")[2] if found else None


def stack_id(name: str) -> str | None:
    """The id of a stack by its name."""
    from ministack.services.cloudformation import _stacks

    return (_stacks.get(name) or {}).get("StackId")


def stack_of_change_set(change_set: str) -> str | None:
    """The id of the stack that a change set (by its id) is for."""
    from ministack.services.cloudformation import _change_sets

    return (_change_sets.get(change_set) or {}).get("StackId")


def stack_tags(arn: str) -> dict[str, str]:
    """The tags of a stack by its id."""
    from ministack.services.cloudformation import _stacks

    found = next((s for s in _stacks.values() if s.get("StackId") == arn), None) or {}
    return {t["Key"]: t["Value"] for t in found.get("Tags") or []}
