"""KMS: which key protects a thing that an emulator keeps, and which keys CloudWatch Logs may use."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from localaws import refusals

if TYPE_CHECKING:
    from localaws.cloud import Cloud

#: hook → the emulator's private names it uses ("module:attribute")
HOOKS: dict[str, tuple[str, ...]] = {
    "key_of": (
        "ministack.services.kms:_resolve_key",
        "ministack.services.s3:_bucket_encryption",
        "ministack.services.s3:_buckets",
        "ministack.services.s3:_object_versions",
        "ministack.services.s3:_multipart_uploads",
        "ministack.services.s3:_stored_sse_headers",
        "ministack.services.sns:_topic_by_arn_any_scope",
        "ministack.services.sqs:_queues",
        "ministack.services.ssm:_parameters",
        "ministack.services.secretsmanager:_resolve",
        "ministack.services.scheduler:_schedules",
        "ministack.services.lambda_svc:_functions",
        "ministack.services.ecr:_repositories",
    ),
    "session_secrets": ("ministack.services.sts:_sessions",),
    "log_keys": ("ministack.services.cloudwatch_logs:_create_log_group",),
}
_ALGORITHM = "x-amz-server-side-encryption"
_KEY = f"{_ALGORITHM}-aws-kms-key-id"


def key_arn(identifier: str) -> str | None:
    """The ARN of a customer's key, from its id, ARN or alias; None for a key that AWS manages.

    One that does not exist is given back as it is named, so that nobody is allowed to use it.
    """
    if not identifier or "alias/aws/" in identifier:
        return None
    found = _key(identifier)
    return found["Arn"] if found else identifier


def key_policy(arn: str) -> str:
    """A key's policy, "" for a key that is not there."""
    return (_key(arn) or {}).get("Policy") or ""


def _key(identifier: str) -> dict[str, Any] | None:
    """A key, by an ARN of another account too."""
    from ministack.services import kms

    with _scope_of(identifier):
        return kms._resolve_key(identifier)


def _scope_of(arn: str) -> Any:
    """The scope of the account in an ARN, the current one for anything else."""
    from ministack.core.responses import get_account_id, get_region, request_scope

    parts = arn.split(":")
    return request_scope((parts[4] if len(parts) > 5 else "") or get_account_id(), get_region())


def bucket_default(bucket: str) -> tuple[str, bool]:
    """The key that a bucket encrypts with ("" for S3's own), and whether it uses a bucket key."""
    from ministack.services import s3

    raw = s3._bucket_encryption.get(bucket)
    if not raw:
        return "", False
    tree = ElementTree.fromstring(raw)  # noqa: S314 - from a client on this machine
    values = {e.tag.rpartition("}")[2]: (e.text or "").strip() for e in tree.iter()}
    key = values.get("KMSMasterKeyID", "") if values.get("SSEAlgorithm", "").startswith("aws:kms") else ""
    return key, values.get("BucketKeyEnabled") == "true"


def object_key(bucket: str, name: str, version: str = "") -> str:
    """The key that an object was encrypted with, "" for none or S3's own."""
    from ministack.services import s3

    current = (s3._buckets.get(bucket) or {}).get("objects", {}).get(name)
    if version and (current or {}).get("version_id") != version:
        versions = s3._object_versions.get((bucket, name)) or []
        current = next((v for v in versions if v["version_id"] == version), None)
    return s3._stored_sse_headers(current or {}).get(_KEY, "")


def upload_key(upload: str) -> str:
    """The key of a multipart upload, "" for none."""
    from ministack.services import s3

    return s3._stored_sse_headers(s3._multipart_uploads.get(upload) or {}).get(_KEY, "")


def topic_key(arn: str) -> str:
    """The key of an SNS topic, "" for none."""
    from ministack.services import sns

    return ((sns._topic_by_arn_any_scope(arn) or {}).get("attributes") or {}).get("KmsMasterKeyId", "")


def queue_key(url: str) -> tuple[str, str]:
    """The key of an SQS queue and the queue's ARN, "" for none."""
    from ministack.services import sqs

    name = url.rpartition("/")[2]
    found = next((q for u, q in sqs._queues.items() if u.rpartition("/")[2] == name), None)
    attributes = found["attributes"] if found else {}
    return attributes.get("KmsMasterKeyId", ""), attributes.get("QueueArn", "")


def parameter_key(name: str) -> tuple[str, str]:
    """The key of a SecureString of the parameter store and its ARN, "" for another parameter."""
    from ministack.services import ssm

    found = ssm._parameters.get(name) or {}
    secure = found.get("Type") == "SecureString"
    return (found.get("KeyId") or "" if secure else ""), found.get("ARN", "")


def secret_key(identifier: str) -> tuple[str, str]:
    """The key of a secret and its ARN, "" for none."""
    from ministack.services import secretsmanager

    found = secretsmanager._resolve(identifier)[1] or {}
    return found.get("KmsKeyId") or "", found.get("ARN", "")


def schedule_key(group: str, name: str) -> tuple[str, str]:
    """The key of a schedule and its ARN, "" for none."""
    from ministack.services import scheduler

    wanted = f":schedule/{group or 'default'}/{name}"
    found = next((s for s in scheduler._schedules.values() if s.get("Arn", "").endswith(wanted)), {})
    return found.get("KmsKeyArn") or "", found.get("Arn", "")


def function_key(name: str) -> tuple[str, dict[str, str]]:
    """The key of a function's environment ("" for none), and the environment."""
    from ministack.services import lambda_svc

    short = name.split(":function:")[-1].split(":")[0]
    config = (lambda_svc._functions.get(short) or {}).get("config") or {}
    return config.get("KMSKeyArn") or "", (config.get("Environment") or {}).get("Variables") or {}


def image_repository_key(name: str) -> str:
    """The key of an image repository, "" for none."""
    from ministack.services import ecr

    found = (ecr._repositories.get(name) or {}).get("encryptionConfiguration") or {}
    return found.get("kmsKey") or ""


def session_secrets() -> dict[str, str]:
    """What each session of a role must keep to itself: name → value."""
    from ministack.services import sts

    found = {}
    for session in list(sts._sessions.values()):
        for kind in ("SecretAccessKey", "SessionToken"):
            if session.get(kind):
                found[f"{kind} {len(found)} of {session['Arn']}"] = session[kind]
    return found


def service_refused(key: str, principal: str, actions: tuple[str, ...], context: dict[str, str]) -> str:
    """Why a service may not use a customer's key by itself ("" if it may): only the key's policy counts."""
    arn = key_arn(key)
    if arn is None:
        return ""
    for action in actions:
        if not refusals.policy_allows(key_policy(arn), principal, action, context):
            return f"the policy of {arn} does not let {principal} call {action}"
    return ""


def topic_refused(topic: str, principal: str, context: dict[str, str]) -> str:
    """Why a service cannot publish to an encrypted topic by itself, "" if it can."""
    context = {**context, "kms:encryptioncontext:aws:sns:topicarn": topic}
    with _scope_of(topic):
        return service_refused(topic_key(topic), principal, ("kms:GenerateDataKey", "kms:Decrypt"), context)


def check_log_keys(cloud: Cloud) -> None:
    """Let CloudWatch Logs refuse a key that it may not use for the log group, through API and stack."""
    from ministack.core.responses import error_response_json
    from ministack.services import cloudwatch_logs
    from ministack.services.cloudformation import provisioners

    principal = f"logs.{cloud.region}.amazonaws.com"
    actions = ("kms:Encrypt", "kms:Decrypt", "kms:GenerateDataKey")

    def refused(group: str, key: str | None) -> str:
        arn = cloud.arn("logs", f"log-group:{group}")
        if key and service_refused(key, principal, actions, {"kms:encryptioncontext:aws:logs:arn": arn}):
            return f"The specified KMS key does not exist or is not allowed to be used with Arn '{arn}'"
        return ""

    create = cloudwatch_logs._create_log_group

    def create_log_group(data: dict) -> Any:
        if reason := refused(data.get("logGroupName", ""), data.get("kmsKeyId")):
            return error_response_json("InvalidParameterException", reason, 400)
        return create(data)

    cloudwatch_logs._create_log_group = create_log_group
    handler = provisioners._RESOURCE_HANDLERS["AWS::Logs::LogGroup"]

    def checked(original: Callable[..., Any], props_at: int) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            props = arguments[props_at]
            if reason := refused(props.get("LogGroupName", ""), props.get("KmsKeyId")):
                raise ValueError(f"{reason} (Service: CloudWatchLogs, Status Code: 400)")
            return original(*arguments, **named)

        return call

    handler["create"] = checked(handler["create"], 1)
    handler["update"] = checked(handler["update"], 2)
