"""In which account something is, and in which one a request therefore works.

Most calls work in their caller's account. Where AWS lets one account use what another owns, a call names the
thing by its ARN, its address or, for a bucket, by a name that only one account has: such a call works on the
owner's side, if the policies of both sides let it. All other calls find nothing of another account.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from localaws.hooks import foreign
from localaws.permissions.requests import Request

if TYPE_CHECKING:
    from localaws.cloud import Cloud

_ACCOUNT = re.compile(r"\d{12}")


def owner(arn: str) -> str | None:
    """The account that a resource is of, None where nobody's (AWS's own, ``*``)."""
    parts = arn.split(":")
    if len(parts) < 6:
        return None
    if parts[2] == "s3" and not parts[4]:
        return foreign.bucket_owner(parts[5].partition("/")[0])
    return parts[4] if parts[4].isdigit() else None


def crosses(service: str) -> bool:
    """Whether calls of a service (botocore's name) may work in another account than the caller's."""
    return service in _NAMED_IN


def account(cloud: Cloud, request: Request | None) -> str:
    """The account in which a call works."""
    if request is None or len(cloud.accounts) == 1:
        return cloud.account
    find = _NAMED_IN.get(request.service)
    found = find(request) if find else None
    return found if found in cloud.accounts else cloud.account


def names_others(cloud: Cloud, request: Request) -> bool:
    """Whether a call speaks of anything of another account."""
    others = [a for a in cloud.accounts if a != cloud.account]
    if not others:
        return False
    if account(cloud, request) != cloud.account:
        return True
    source = unquote(request.headers.get("x-amz-copy-source", "")).lstrip("/").partition("/")[0]
    if source:
        return foreign.bucket_owner(source) in others
    return request.service != "s3" and any(a in repr(request.params) for a in others)


# -- what calls name -------------------------------------------------------------------------------------
def _arn(*members: str, only: tuple[str, ...] = ()) -> Callable[[Request], str | None]:
    """By the first of these members that holds an ARN; ``only`` are the operations that may cross."""

    def find(request: Request) -> str | None:
        if only and request.operation not in only:
            return None
        return next((owner(v) for m in members if _is_arn(v := request.params.get(m))), None)

    return find


def _is_arn(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("arn:")


def _s3(request: Request) -> str | None:
    if request.operation == "CreateBucket":
        return None
    bucket = request.params.get("Bucket")
    return foreign.bucket_owner(bucket) if bucket else None


# https://docs.aws.amazon.com/kms/latest/developerguide/key-policy-modifying-external-accounts.html
_KMS = (
    "CreateGrant",
    "Decrypt",
    "DescribeKey",
    "Encrypt",
    "GenerateDataKey",
    "GenerateDataKeyPair",
    "GenerateDataKeyPairWithoutPlaintext",
    "GenerateDataKeyWithoutPlaintext",
    "GenerateMac",
    "GetKeyRotationStatus",
    "GetPublicKey",
    "ListGrants",
    "ReEncrypt",
    "RetireGrant",
    "RevokeGrant",
    "Sign",
    "Verify",
    "VerifyMac",
)


def _kms(request: Request) -> str | None:
    if request.operation not in _KMS:
        return None
    key = request.params.get("KeyId") or request.params.get("SourceKeyId")
    if not key and request.params.get("CiphertextBlob"):
        return foreign.ciphertext_owner(request.params["CiphertextBlob"])
    return owner(key) if _is_arn(key) else None


def _sqs(request: Request) -> str | None:
    if named := request.params.get("QueueOwnerAWSAccountId"):
        return str(named)
    parts = str(request.params.get("QueueUrl") or "").rstrip("/").split("/")
    return parts[-2] if len(parts) > 2 and _ACCOUNT.fullmatch(parts[-2]) else None


def _member(name: str) -> Callable[[Request], str | None]:
    return lambda request: request.params.get(name)


def _events(request: Request) -> str | None:
    """Events are put on a bus of another account by its ARN, all of a call on the same here."""
    if request.operation != "PutEvents":
        return None
    entries: list[Mapping[str, Any]] = request.params.get("Entries") or []
    return next((owner(b) for e in entries if _is_arn(b := e.get("EventBusName"))), None)


# https://docs.aws.amazon.com/sagemaker/latest/dg/model-registry-deploy-xaccount.html
_REGISTRY = (
    "BatchDescribeModelPackage",
    "CreateModelPackage",
    "DescribeModelPackage",
    "DescribeModelPackageGroup",
    "ListModelPackages",
    "UpdateModelPackage",
)


def _sagemaker(request: Request) -> str | None:
    if request.operation not in _REGISTRY:
        return None
    params = request.params
    names = (*(params.get("ModelPackageArnList") or ()), params.get("ModelPackageArn"))
    names += (params.get("ModelPackageGroupName"), params.get("ModelPackageName"))
    return next((owner(n) for n in names if _is_arn(n)), None)


#: service → the account that a call names
_NAMED_IN: dict[str, Callable[[Request], str | None]] = {
    "s3": _s3,
    "kms": _kms,
    "sns": _arn(
        "TopicArn",
        "TargetArn",
        only=("Publish", "PublishBatch", "Subscribe", "ConfirmSubscription", "GetTopicAttributes"),
    ),
    "sqs": _sqs,
    "lambda": _arn("FunctionName", only=("Invoke", "GetFunction", "GetFunctionConfiguration")),
    "ecr": _member("registryId"),
    "events": _events,
    "secretsmanager": _arn("SecretId", only=("GetSecretValue", "DescribeSecret")),
    "codeartifact": _member("domainOwner"),
    "sagemaker": _sagemaker,
}
