"""IAM and STS: trust policies, and who makes a request in which account and region."""

from __future__ import annotations

import contextvars
from typing import TYPE_CHECKING, Any

from localaws import refusals
from localaws.cloud import caller_key

if TYPE_CHECKING:
    from localaws.cloud import Cloud

#: hook → the emulator's private names it uses ("module:attribute")
HOOKS: dict[str, tuple[str, ...]] = {
    "trust_policies": (
        "ministack.services.iam:_trust_policy_not_principal_error",
        "ministack.core.iam_evaluator:validate_policy_document",
    ),
    "boundaries": (
        "ministack.services.iam:_roles",
        "ministack.services.iam:_policies",
        "ministack.services.cloudformation.provisioners:_RESOURCE_HANDLERS",
    ),
    "caller": ("ministack.services.sts:_sessions",),
    "scope": (
        "ministack.core.responses:request_scope",
        "ministack.core.responses:_request_account_id",
        "ministack.app:set_request_account_id",
    ),
}


def refuse_trust_policies() -> None:
    """Let CreateRole and UpdateAssumeRolePolicy refuse malformed trust policies as IAM does."""
    from ministack.services import iam

    iam._trust_policy_not_principal_error = refusals.trust_policy_error


def keep_boundaries() -> None:
    """Give a stack's role its permissions boundary, which the emulator's handler leaves out."""
    from ministack.services import iam as roles
    from ministack.services.cloudformation import provisioners

    handler = provisioners._RESOURCE_HANDLERS["AWS::IAM::Role"]
    create, update = handler["create"], handler["update"]

    def check(props: dict[str, Any]) -> str | None:
        arn = props.get("PermissionsBoundary") or None
        if arn and ":aws:policy/" not in arn and arn not in roles._policies:
            raise ValueError(f"Scope ARN: {arn} does not exist or is not attachable.")
        return arn

    def bounded_create(logical_id: str, props: dict[str, Any], stack: str) -> Any:
        boundary = check(props)
        answer = create(logical_id, props, stack)
        roles._roles[answer[0]]["PermissionsBoundary"] = boundary
        return answer

    def bounded_update(physical_id: str, old: dict[str, Any], new: dict[str, Any], *rest: Any) -> Any:
        boundary = check(new)
        answer = update(physical_id, old, new, *rest)
        roles._roles[answer[0]]["PermissionsBoundary"] = boundary
        return answer

    handler["create"], handler["update"] = bounded_create, bounded_update


#: the account in which the emulator serves the current request
_serving: contextvars.ContextVar[str] = contextvars.ContextVar("localaws_serving", default="")


def serve_in(account: str) -> None:
    """Say in which account the emulator serves the current request."""
    from ministack.core import responses

    _serving.set(account)
    responses._request_account_id.set(account)  # it looks for none in requests without a signature


def serve_where_told() -> None:
    """Let the emulator work in the account that the gateway found, not in that of the access key.

    What a request names may be in another account, and the keys of work inside AWS are known to nobody else.
    """
    from ministack import app
    from ministack.core import responses

    original = app.set_request_account_id

    def enter(access_key: str) -> None:
        if _serving.get():
            responses._request_account_id.set(_serving.get())
        else:
            original(access_key)

    app.set_request_account_id = enter


def scope_request(cloud: Cloud, access_key: str, account: str = "") -> contextvars.Context:
    """A context in which account (by itself the access key's), region and caller of a request are set."""
    from ministack.core import responses
    from ministack.core.responses import set_request_region

    context = contextvars.copy_context()

    def enter() -> None:
        responses._request_account_id.set(account or cloud.account_of_key(access_key))
        set_request_region(cloud.region)
        caller_key.set(access_key)

    context.run(enter)
    return context


def caller_arn(cloud: Cloud) -> str:
    """The ARN of who makes the current request: an assumed role's session, or the account's root."""
    from ministack.services import sts

    session = sts._sessions.get(caller_key.get())
    return session["Arn"] if session else f"arn:{cloud.partition}:iam::{cloud.account}:root"
