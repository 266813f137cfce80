"""IAM and STS: trust policies, and who makes a request in which account and region."""

from __future__ import annotations

import contextvars
from typing import TYPE_CHECKING

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
    "caller": ("ministack.services.sts:_sessions",),
    "scope": ("ministack.core.responses:request_scope", "ministack.core.responses:set_request_account_id"),
}


def refuse_trust_policies() -> None:
    """Let CreateRole and UpdateAssumeRolePolicy refuse malformed trust policies as IAM does."""
    from ministack.services import iam

    iam._trust_policy_not_principal_error = refusals.trust_policy_error


def scope_request(cloud: Cloud, access_key: str) -> contextvars.Context:
    """A context in which account, region and caller of a request are set."""
    from ministack.core.responses import set_request_account_id, set_request_region

    context = contextvars.copy_context()

    def enter() -> None:
        set_request_account_id(access_key)
        set_request_region(cloud.region)
        caller_key.set(access_key)

    context.run(enter)
    return context


def caller_arn(cloud: Cloud) -> str:
    """The ARN of who makes the current request: an assumed role's session, or the account's root."""
    from ministack.services import sts

    session = sts._sessions.get(caller_key.get())
    return session["Arn"] if session else f"arn:{cloud.partition}:iam::{cloud.account}:root"
