"""The gate before every service: reads a request, asks its questions, and keeps what was asked."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from typing import TYPE_CHECKING, Any

from localaws.errors import AwsError
from localaws.hooks import policies
from localaws.permissions import handed_roles, implied, mapping, requests, whereabouts
from localaws.permissions.access import Access
from localaws.permissions.callers import Caller, caller_of
from localaws.permissions.engine import AccessDenied, Policies, Principal, decide

if TYPE_CHECKING:
    from localaws.cloud import Cloud


class Evidence:
    """What was asked of IAM, and what it denied: the ground for least privilege and for tests of policies.

    Equal questions of one role are kept once, with the first time and how often.
    """

    def __init__(self) -> None:
        self.questions: dict[tuple, dict[str, Any]] = {}
        self.denials: list[dict[str, Any]] = []
        self.documents: dict[str, Any] = {}  # policies by a hash of theirs
        self._lock = threading.Lock()

    def lost(self, caller: Caller, error: AwsError) -> None:
        """Remember a connection that could not be made."""
        with self._lock:
            self.denials.append(
                {
                    "at": time.time(),
                    "account": caller.account,
                    "by": caller.arn,
                    "action": "",
                    "resource": "",
                    "message": error.message,
                }
            )

    def _named(self, document: Any) -> str:
        """The name of a document: equal ones are kept once."""
        text = document if isinstance(document, str) else json.dumps(document, sort_keys=True)
        name = hashlib.sha256(text.encode()).hexdigest()[:16]
        self.documents.setdefault(name, json.loads(text) if text else {})
        return name

    def _named_all(self, policies: Policies) -> dict[str, Any]:
        one = {
            kind: self._named(document)
            for kind in ("boundary", "resource", "endpoint")
            if (document := getattr(policies, kind)) is not None
        }
        session = [self._named(d) for d in policies.session] if policies.session is not None else None
        return {
            **one,
            "identity": [self._named(d) for d in policies.identity],
            "session": session,
            "resource_owner": policies.resource_owner,
        }

    def keep(self, caller: Caller, access: Access, policies: Policies, denied: str = "") -> None:
        """Remember one decision with the policies that made it; ``denied`` is the denial's text."""
        context = {k: access.context[k] for k in sorted(access.context)}
        key = (caller.role_arn, access.action, access.resource, repr(context))
        with self._lock:
            found = self.questions.setdefault(
                key,
                {
                    "role": caller.role_arn,
                    "account": caller.account,
                    "by": caller.arn,
                    "action": access.action,
                    "resource": access.resource,
                    "context": context,
                    "keys": dict(caller.keys),
                    "first": time.time(),
                    "count": 0,
                    "denied": "",
                    "policies": self._named_all(policies),
                },
            )
            found["count"] += 1
            if denied:
                found["denied"] = denied
                self.denials.append(
                    {
                        "at": time.time(),
                        "account": caller.account,
                        "by": caller.arn,
                        "action": access.action,
                        "resource": access.resource,
                        "message": denied,
                    }
                )


def check(
    cloud: Cloud,
    access_key: str,
    service: str,
    request: requests.Request | None,
    method: str,
    path: str,
    headers: dict[str, str],
    query: str,
    body: bytes,
) -> None:
    """Let a request pass, or raise AwsError: an unknown key, no way out of a VPC, AccessDenied.

    ``request`` is the call that was read in the request, None when it is none.
    """
    caller = caller_of(cloud, access_key)
    if caller.internal:
        return
    if request is not None:
        cloud.record_call(service, request.operation, caller.role_arn or "root")
    if caller.unrestricted:
        if request is not None and whereabouts.names_others(cloud, request):
            for access in questions(cloud, request):
                authorize(cloud, caller, access)
        return
    if request is None:  # what nobody can name nobody is allowed
        what = headers.get("x-amz-target") or f"{method} {path}"
        raise AwsError("UnknownOperationException", f"{service} has no operation {what}", 403)
    endpoint = way_in(cloud, caller, service)
    for access in questions(cloud, request):
        authorize(cloud, caller, access, None if _asked_behind(access) else endpoint)


def _asked_behind(access: Access) -> bool:
    """Whether the service asks it on its own way, in the caller's name: a VPC endpoint does not see that."""
    return access.action == "iam:PassRole" or "kms:ViaService" in access.context


def questions(cloud: Cloud, request: requests.Request) -> list[Access]:
    """Everything that a call asks of IAM: its own action, the roles it hands over, the keys it uses."""
    keys = implied.kms_accesses(cloud, request.service, request.operation, request.params)
    return [*mapping.accesses(cloud, request), *handed_roles.accesses(cloud, request), *keys]


def way_in(cloud: Cloud, caller: Caller, service: str) -> Any:
    """The VPC endpoint through which a caller in a VPC reaches a service; None for a caller outside of any.

    Raises AwsError when the VPC has no way to the service.
    """
    if caller.network is None:
        return None
    from localaws.permissions import network

    try:
        return network.route(cloud, caller.network, service)
    except network.NoRoute as error:
        cloud.evidence.lost(caller, error)
        if cloud.enforce:
            raise
        return None


def authorize(cloud: Cloud, caller: Caller, access: Access, endpoint: Any = None) -> None:
    """Answer one question. Raises AccessDenied, which says the action, the resource and what denied.

    With the setting ``enforce`` off a denial is kept as evidence only.
    """
    owner = whereabouts.owner(access.resource)
    if access.action == "iam:PassRole" and owner not in (None, caller.account) and not caller.internal:
        raise AwsError("AccessDeniedException", "Cross-account pass role is not allowed.", 403)
    if caller.internal or caller.unrestricted and owner in (None, caller.account):
        return
    there = cloud.at(owner if owner in cloud.accounts else caller.account)
    with there.scope():
        access = mapping.with_tags(there, access)
        found = _resource_policy(there, access)
    context = dict(access.context)
    if endpoint is not None:
        context.update(endpoint.context)
    access = Access(access.action, access.resource, context)
    having = Policies(
        caller.identity,
        caller.boundary,
        caller.session,
        found[0] if found else None,
        found[1] if found else owner,
        endpoint.policy if endpoint is not None else None,
    )
    principal = Principal(caller.arn, caller.account, caller.role_arn, caller.kind, caller.keys)
    decision = decide(principal, access, having, cloud.region)
    denial = None if decision.allowed else AccessDenied(caller.arn, access, decision)
    cloud.evidence.keep(caller, access, having, denial.message if denial else "")
    if denial and cloud.enforce:
        raise denial


def _resource_policy(cloud: Cloud, access: Access) -> tuple[Any, str | None] | None:
    """The policy of the resource and its owner: a role's trust, our services', or the emulator's."""
    if access.resource == "*":
        return None
    if access.service == "sts":
        role = policies.role(cloud.account, access.resource.rpartition("/")[2])
        return (role["AssumeRolePolicyDocument"], cloud.account) if role else None
    ours = cloud.services.get(access.service)
    if hasattr(ours, "resource_policy"):
        found = ours.resource_policy(access.resource)
        return (found, whereabouts.owner(access.resource)) if found else None
    found = policies.resource_policy(access.service, access.resource)
    return found if found and found[0] else None


def denied_answer(service: str, error: AwsError, headers: dict[str, str], caller: str) -> Any:
    """(status, headers, body) of a refusal in the service's protocol."""
    access = getattr(error, "access", None)
    return policies.denied(service, access.action if access else "", caller, error, headers)
