"""IAM's decision, from policies and one question.

ministack's evaluator decides; here stand what it leaves out (policy variables, VPC endpoint policies) and the
words of a denial: AWS names the action, the resource and the kind of policy that denied.
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from localaws.errors import AwsError
from localaws.hooks import policies as kept
from localaws.permissions.access import Access

Document = Mapping[str, Any]
#: keys that the evaluator fills wrongly, under names it leaves alone: for a session aws:PrincipalArn is the
#: role's ARN, and the ARN of a bucket does not tell the account that owns it
_OWN_KEYS = {
    "aws:principalarn": "aws:principalarn-of-role",
    "aws:resourceaccount": "aws:resourceaccount-of-owner",
    "s3:resourceaccount": "aws:resourceaccount-of-owner",
}
_VARIABLE = re.compile(r"\$\{([^}]*)\}")


@dataclass(frozen=True)
class Policies:
    """All policies that have a say in one question; None where there is no such policy.

    ``boundary`` and ``endpoint`` (of the VPC endpoint that the call came through) limit, ``session`` are the
    policies passed when the role was assumed, ``resource`` is the resource's own.
    """

    identity: tuple[Document, ...] = ()
    boundary: Document | None = None
    session: tuple[Document, ...] | None = None
    resource: Document | None = None
    resource_owner: str | None = None
    endpoint: Document | None = None


@dataclass(frozen=True)
class Principal:
    """Who asks: ``arn`` of the session, ``role_arn`` of its role, ``keys`` about it (aws:PrincipalTag/…)."""

    arn: str
    account: str
    role_arn: str = ""
    kind: str = "AssumedRole"
    keys: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Decision:
    """``allowed``; if not, ``explicit`` (a Deny) or not (no Allow), and the kind of policy that decided."""

    allowed: bool
    explicit: bool = False
    kind: str = ""


class AccessDenied(AwsError):
    """A call that the policies do not allow."""

    def __init__(self, principal: str, access: Access, decision: Decision) -> None:
        on = f" on resource: {access.resource}" if access.resource != "*" else ""
        why = (
            f"with an explicit deny in {_article(decision.kind)} {decision.kind}"
            if decision.explicit
            else f"because no {decision.kind} allows the {access.action} action"
        )
        super().__init__(
            "AccessDeniedException",
            f"User: {principal} is not authorized to perform: {access.action}{on} {why}",
            400,
        )
        self.access = access
        self.decision = decision


def _article(kind: str) -> str:
    return "an" if kind[0] in "aeiou" else "a"


def decide(principal: Principal, access: Access, policies: Policies, region: str = "us-east-1") -> Decision:
    """Decide as IAM does: a Deny anywhere denies, then every limit and an Allow are needed."""
    from ministack.core import iam_evaluator as iam

    context = {k.lower(): v for k, v in access.context.items()}
    context.setdefault("aws:tagkeys", None)
    context["aws:principalarn-of-role"] = principal.role_arn or principal.arn
    context["aws:resourceaccount-of-owner"] = policies.resource_owner or principal.account
    ask = iam.EvalContext(
        principal_arn=principal.arn,
        principal_type=principal.kind,
        principal_account=principal.account,
        action=access.action,
        resource_arn=access.resource,
        region=region,
        # AWS is called through TLS; that this machine's loopback is not is no one's fault
        secure_transport=context.get("aws:securetransport", "true") == "true",
        service_context=context,
        principal_keys={k.lower(): v for k, v in principal.keys.items()},
    )

    def read(documents: Iterable[Document]) -> list[list[Any]]:
        return [iam.parse_policy_document(expand(d, ask, iam)) for d in documents]

    layers: dict[str, list[list[Any]]] = {"identity-based policy": read(policies.identity)}
    if policies.boundary is not None:
        layers["permissions boundary"] = read([policies.boundary])
    if policies.session is not None:
        layers["session policy"] = read(policies.session)
    for kind, statements in layers.items():
        if iam.evaluate(ask, statements).decision == "Deny":
            return Decision(False, True, kind)
    endpoint = None
    if policies.endpoint is not None:
        endpoint = iam.evaluate_resource_policy(expand(policies.endpoint, ask, iam), ask).decision
        if endpoint == "Deny":
            return Decision(False, True, "VPC endpoint policy")
    document = expand(policies.resource, ask, iam) if policies.resource is not None else None
    if document is not None and iam.evaluate_resource_policy(document, ask).decision == "Deny":
        return Decision(False, True, "resource-based policy")
    if endpoint not in (None, "Allow"):
        return Decision(False, False, "VPC endpoint policy")
    identity = iam.evaluate(ask, *layers.values())
    # a key's policy and a role's trust must allow, too; an alias has none
    kind = {"sts": ":role/", "kms": ":key/"}.get(access.service)
    required = kind is not None and kind in access.resource
    required = required and not access.resource.endswith(":key/*")  # a key to be made has no policy yet
    combined = iam.combine_resource_policy(
        identity, ask, document, policies.resource_owner, required, tuple(list(layers.values())[1:])
    )
    if combined.decision == "Allow":
        return Decision(True)
    other_account = policies.resource_owner not in (None, principal.account)
    if (required or other_account) and identity.decision == "Allow":
        return Decision(False, False, "resource-based policy")
    for kind, statements in layers.items():
        if iam.evaluate(ask, statements).decision != "Allow":
            return Decision(False, False, kind)
    return Decision(False, False, "resource-based policy")


def expand(document: Document | str, ask: Any, iam: Any) -> dict[str, Any]:
    """The document with its policy variables filled in from the question.

    A variable without a value in the question is like nothing else: what should equal it does not.
    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_variables.html
    """
    found = json.loads(document) if isinstance(document, str) else dict(document)
    variables = found.get("Version") == "2012-10-17"  # they are literal text in the older version
    statements = found.get("Statement", [])
    statements = [statements] if isinstance(statements, Mapping) else statements
    out = []
    for statement in statements:
        if statement.get("Condition"):
            statement = {**statement, "Condition": _renamed(statement["Condition"])}
        if variables and "${" in json.dumps(
            [statement.get(k) for k in ("Resource", "NotResource", "Condition")]
        ):
            try:
                statement = {
                    k: _filled(v, ask, iam, k == "Condition")
                    if k in ("Resource", "NotResource", "Condition")
                    else v
                    for k, v in statement.items()
                }
            except _NoValue:
                continue
        out.append(statement)
    return {**found, "Statement": out}


def _renamed(conditions: Mapping[str, Any]) -> dict[str, Any]:
    return {
        operator: {_OWN_KEYS.get(k.lower(), k): v for k, v in keys.items()}
        for operator, keys in conditions.items()
    }


class _NoValue(Exception):
    pass


def _filled(value: Any, ask: Any, iam: Any, condition: bool) -> Any:
    if isinstance(value, Mapping):
        return {k: _filled(v, ask, iam, condition) for k, v in value.items()}
    if not isinstance(value, list):
        if not isinstance(value, str) or "${" not in value:
            return value
        value = [value]
    found = []
    for item in value:
        with suppress(_NoValue):  # one element without a value leaves the others standing
            found.append(_VARIABLE.sub(lambda m: _value(m[1], ask, iam), item) if "${" in item else item)
    # Nothing equals what has no value: no resource matches, nor does StringEquals, but StringNotEquals does.
    if not found and not condition:
        raise _NoValue
    return found


def _value(name: str, ask: Any, iam: Any) -> str:
    if name in ("*", "?", "$"):  # the literal character; what it could match else does not occur in our names
        return name
    key, _, default = (part.strip() for part in name.partition(","))
    found = kept.condition_value(_OWN_KEYS.get(key.lower(), key), ask)
    if isinstance(found, list):
        found = found[0] if len(found) == 1 else None
    if found is None:
        if not default:
            raise _NoValue
        found = default.strip("'")
    if re.search(r"[*?]", str(found)):  # a wildcard out of a value would widen the policy
        raise _NoValue
    return str(found)
