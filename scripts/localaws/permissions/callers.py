"""Who makes a call, with the policies that have a say."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from localaws.errors import AwsError
from localaws.hooks import policies

if TYPE_CHECKING:
    from localaws.cloud import Cloud


@dataclass(frozen=True)
class Caller:
    """Who calls: the session of a role, the account's root, or the cloud itself on behalf of a service.

    ``network`` is where the caller sits in a VPC (``permissions.network.Network``), None outside of any. A
    root is ``unrestricted`` in its own account only, what AWS does inside itself (``internal``) everywhere.
    """

    arn: str
    account: str
    unrestricted: bool = False
    internal: bool = False
    role_arn: str = ""
    identity: tuple[Any, ...] = ()
    boundary: Any = None
    session: tuple[Any, ...] | None = None
    keys: Mapping[str, Any] = field(default_factory=dict)
    network: Any = None

    @property
    def kind(self) -> str:
        """What IAM's aws:PrincipalType calls such a caller."""
        return "Account" if self.unrestricted else "AssumedRole"


#: what the root of an account may do, as far as its own account is concerned
_ALL = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}


def caller_of(cloud: Cloud, access_key: str) -> Caller:
    """The caller that an access key belongs to.

    Raises AwsError UnrecognizedClientException for a key that nobody was given, ExpiredTokenException for the
    key of a session that is over.
    """
    account = cloud.account_of_key(access_key) if access_key else cloud.account
    root = f"arn:{cloud.partition}:iam::{account}:root"
    if not access_key or access_key in cloud.internal_keys.values():
        return Caller(root, account, unrestricted=True, internal=True)
    if access_key in cloud.ROOT_KEYS or access_key in cloud.accounts:
        return Caller(root, account, unrestricted=True, identity=(_ALL,))
    session = policies.session_of(access_key)
    if session is None:
        raise AwsError(
            "UnrecognizedClientException", "The security token included in the request is invalid.", 403
        )
    expires = session.get("Expiration")
    # sessions end by the real clock: a leap of the cloud's clock is no time in which anybody works
    if isinstance(expires, int | float) and time.time() > expires:
        raise AwsError("ExpiredTokenException", "The security token included in the request is expired", 403)
    return _session_caller(cloud, access_key, session)


def caller_of_role(cloud: Cloud, role_arn: str, session: str) -> Caller:
    """A session of a role that a service uses without the cloud's port, as CloudFormation's handlers do."""
    account, name = role_arn.split(":")[4], role_arn.rpartition("/")[2]
    arn = f"arn:{cloud.partition}:sts::{account}:assumed-role/{name}/{session}"
    return _session_caller(cloud, "", {"Arn": arn})


def _session_caller(cloud: Cloud, access_key: str, session: dict[str, Any]) -> Caller:
    arn = session["Arn"]
    account, name = arn.split(":")[4], arn.split("/")[1]
    found = policies.role(account, name)
    if found is None:  # deleted since: nothing is allowed to it any more
        return Caller(arn, account, role_arn=f"arn:{cloud.partition}:iam::{account}:role/{name}")
    attached = (policies.managed_policy(a, account) for a in found.get("AttachedPolicies", []))
    boundary_arn = found.get("PermissionsBoundary")
    if isinstance(boundary_arn, dict):
        boundary_arn = boundary_arn.get("PermissionsBoundaryArn")
    boundary = policies.managed_policy(boundary_arn, account) or {} if boundary_arn else None
    passed = session.get("SessionPolicies")
    limits = None
    if passed is not None:
        documents = [passed["Policy"]] if passed.get("Policy") else []
        documents += [policies.managed_policy(a, account) for a in passed.get("PolicyArns", [])]
        limits = tuple(d for d in documents if d)
    tags = {t["Key"]: t["Value"] for t in [*(found.get("Tags") or []), *(session.get("SessionTags") or [])]}
    keys: dict[str, Any] = {f"aws:PrincipalTag/{k}": v for k, v in tags.items()}
    keys["aws:userid"] = f"{found.get('RoleId', '')}:{arn.rpartition('/')[2]}"
    keys["aws:PrincipalIsAWSService"] = "false"
    keys.update(cloud.session_keys.get(access_key, {}))
    return Caller(
        arn,
        account,
        role_arn=found["Arn"],
        identity=tuple([*(found.get("InlinePolicies") or {}).values(), *(d for d in attached if d)]),
        boundary=boundary,
        session=limits,
        keys=keys,
        network=cloud.networks.get(access_key),
    )
