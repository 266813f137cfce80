"""What a call asks of KMS: services use a customer's key in the name of their caller.

Such a use carries ``kms:ViaService`` and mostly an encryption context that names the thing. Keys that AWS
manages (``alias/aws/…``) let everybody of the account in, so they ask nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote

from localaws.hooks import foreign, keys, states, tables
from localaws.permissions import callers, engine, whereabouts
from localaws.permissions.access import Access

if TYPE_CHECKING:
    from localaws.cloud import Cloud

Params = Mapping[str, Any]
_DATA_KEY = ("kms:GenerateDataKey", "kms:Decrypt")
_CODECOMMIT_READS = ("GitPull", "GetFile", "GetBlob", "GetFolder", "GetDifferences", "UploadArchive")
_CODECOMMIT_WRITES = ("GitPush", "CreateCommit", "PutFile", "DeleteFile")
# https://docs.aws.amazon.com/codecommit/latest/userguide/encryption.html: asked of whoever chooses the key
_CODECOMMIT_KEY = (
    "kms:Encrypt",
    "kms:Decrypt",
    "kms:ReEncryptFrom",
    "kms:ReEncryptTo",
    "kms:GenerateDataKey",
    "kms:GenerateDataKeyWithoutPlaintext",
    "kms:DescribeKey",
)


def kms_accesses(cloud: Cloud, service: str, operation: str, params: Params) -> list[Access]:
    """What the caller of an operation must be allowed on keys; ``service`` is botocore's name of it."""
    from ministack.core.responses import request_scope

    find = _SERVICES.get(service)
    if find is None:
        return []
    with request_scope(cloud.account, cloud.region):
        return list(find(cloud, operation, params))


def _uses(
    cloud: Cloud, service: str, key: str | None, actions: tuple[str, ...], **encryption: str
) -> Iterator[Access]:
    """The same question for several actions; none for a key of AWS, or no key."""
    arn = keys.key_arn(key or "")
    if arn is None:
        return
    context: dict[str, Any] = {
        "kms:ViaService": f"{service}.{cloud.region}.amazonaws.com",
        "kms:CallerAccount": cloud.account,
    }
    named = {name.replace("__", ":"): value for name, value in encryption.items() if value}
    context |= {f"kms:EncryptionContext:{name}": value for name, value in named.items()}
    if named:
        context["kms:EncryptionContextKeys"] = list(named)
    for action in actions:
        grant = {"kms:GrantIsForAWSResource": "true"} if action.endswith("Grant") else {}
        yield Access(action, arn, context | grant)


def _s3(cloud: Cloud, operation: str, p: Params) -> Iterator[Access]:
    """What S3 asks of keys in a caller's name; of another account's bucket the owner's side tells.

    A key that a bucket's default names without its ARN is the caller's.
    https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucket-encryption.html
    """
    bucket, name = p.get("Bucket", ""), p.get("Key", "")

    def told(of: str, tell: Callable[..., Any], *arguments: Any) -> Any:
        with cloud.at(foreign.bucket_owner(of) or cloud.account).scope():
            return tell(*arguments)

    def use(key: str, *actions: str, bucket: str = bucket, name: str = name) -> Iterator[Access]:
        """With a bucket key the context names the bucket, else the object."""
        thing = f"arn:{cloud.partition}:s3:::{bucket}"
        thing += "" if told(bucket, keys.bucket_default, bucket)[1] else f"/{name}"
        return _uses(cloud, "s3", key, actions, aws__s3__arn=thing)

    if operation in ("PutObject", "CreateMultipartUpload", "CopyObject"):
        yield from use(told(bucket, _written_with, bucket, p), "kms:GenerateDataKey")
    if operation in ("CopyObject", "UploadPartCopy"):
        source, _, query = p.get("CopySource", "").lstrip("/").partition("?")
        theirs, _, thing = unquote(source).partition("/")
        key = told(theirs, keys.object_key, theirs, thing, parse_qs(query).get("versionId", [""])[0])
        yield from use(key, "kms:Decrypt", bucket=theirs, name=thing)
    if operation in ("UploadPart", "UploadPartCopy"):
        yield from use(told(bucket, keys.upload_key, p.get("UploadId", "")), "kms:Decrypt")
    if operation == "GetObject" or (operation == "HeadObject" and p.get("ChecksumMode") == "ENABLED"):
        yield from use(told(bucket, keys.object_key, bucket, name, p.get("VersionId") or ""), "kms:Decrypt")


def _written_with(bucket: str, p: Params) -> str:
    """The key of a new object: what the request names goes before the bucket's default."""
    if p.get("SSECustomerAlgorithm"):
        return ""
    wanted = p.get("ServerSideEncryption") or ""
    if wanted:
        return p.get("SSEKMSKeyId") or "" if wanted.startswith("aws:kms") else ""
    return keys.bucket_default(bucket)[0]


def _sns(cloud: Cloud, operation: str, p: Params) -> Iterator[Access]:
    if operation in ("Publish", "PublishBatch"):
        topic = p.get("TopicArn") or p.get("TargetArn") or ""
        with cloud.at(whereabouts.owner(topic) or cloud.account).scope():
            key = keys.key_arn(keys.topic_key(topic))
        yield from _uses(cloud, "sns", key, _DATA_KEY, aws__sns__topicArn=topic)


def _sqs(cloud: Cloud, operation: str, p: Params) -> Iterator[Access]:
    actions = {"SendMessage": _DATA_KEY, "SendMessageBatch": _DATA_KEY, "ReceiveMessage": ("kms:Decrypt",)}
    if operation in actions:
        key, arn = keys.queue_key(p.get("QueueUrl", ""))
        yield from _uses(cloud, "sqs", key, actions[operation], aws__sqs__arn=arn)


def _ssm(cloud: Cloud, operation: str, p: Params) -> Iterator[Access]:
    if operation == "PutParameter" and p.get("Type") == "SecureString":
        arn = cloud.arn("ssm", f"parameter/{p.get('Name', '').lstrip('/')}")
        action = "kms:GenerateDataKey" if p.get("Tier") == "Advanced" else "kms:Encrypt"
        yield from _uses(cloud, "ssm", p.get("KeyId"), (action,), PARAMETER_ARN=arn)
    if operation in ("GetParameter", "GetParameters") and p.get("WithDecryption"):
        for name in p.get("Names") or [p.get("Name", "")]:
            key, arn = keys.parameter_key(name)
            yield from _uses(cloud, "ssm", key, ("kms:Decrypt",), PARAMETER_ARN=arn)


def _secretsmanager(cloud: Cloud, operation: str, p: Params) -> Iterator[Access]:
    holds = p.get("SecretString") or p.get("SecretBinary")
    if operation == "CreateSecret" and holds:
        yield from _uses(cloud, "secretsmanager", p.get("KmsKeyId"), _DATA_KEY)
    key, arn = keys.secret_key(p.get("SecretId", ""))
    if operation == "PutSecretValue" or (operation == "UpdateSecret" and holds):
        yield from _uses(cloud, "secretsmanager", p.get("KmsKeyId") or key, _DATA_KEY, SecretARN=arn)
    if operation == "GetSecretValue":
        yield from _uses(cloud, "secretsmanager", key, ("kms:Decrypt",), SecretARN=arn)


def _codecommit(cloud: Cloud, operation: str, p: Params) -> Iterator[Access]:
    if operation in ("CreateRepository", "UpdateRepositoryEncryptionKey"):
        yield from _uses(cloud, "codecommit", p.get("kmsKeyId"), _CODECOMMIT_KEY)
    elif operation in (*_CODECOMMIT_READS, *_CODECOMMIT_WRITES):
        found = cloud.services["codecommit"].repositories.get(p.get("repositoryName", ""))
        actions = _DATA_KEY if operation in _CODECOMMIT_WRITES else ("kms:Decrypt",)
        if found:
            yield from _uses(cloud, "codecommit", found.key, actions, aws__codecommit__id=found.id)


def _lambda(cloud: Cloud, operation: str, p: Params) -> Iterator[Access]:
    name = p.get("FunctionName", "")
    key, variables = keys.function_key(name)
    if operation in ("CreateFunction", "UpdateFunctionConfiguration"):
        wanted = (p.get("Environment") or {}).get("Variables") or (variables if p.get("KMSKeyArn") else {})
        if wanted:
            actions = ("kms:CreateGrant", "kms:Encrypt")
            arn = cloud.arn("lambda", f"function:{name}")
            yield from _uses(
                cloud, "lambda", p.get("KMSKeyArn") or key, actions, aws__lambda__FunctionArn=arn
            )


def _scheduler(cloud: Cloud, operation: str, p: Params) -> Iterator[Access]:
    # https://docs.aws.amazon.com/scheduler/latest/UserGuide/encryption-rest-scheduler.html
    key, arn = keys.schedule_key(p.get("GroupName", ""), p.get("Name", ""))
    arn = arn or cloud.arn("scheduler", f"schedule/{p.get('GroupName') or 'default'}/{p.get('Name', '')}")
    if operation in ("CreateSchedule", "UpdateSchedule"):
        actions = ("kms:DescribeKey", *_DATA_KEY)
        yield from _uses(cloud, "scheduler", p.get("KmsKeyArn"), actions, aws__scheduler__schedule__arn=arn)
    if operation == "GetSchedule":
        yield from _uses(cloud, "scheduler", key, ("kms:Decrypt",), aws__scheduler__schedule__arn=arn)


def _dynamodb(cloud: Cloud, operation: str, p: Params) -> Iterator[Access]:
    # https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/encryption.usagenotes.html
    if "RequestItems" in p:  # a call about items of several tables
        for table in p["RequestItems"]:
            yield from _dynamodb(cloud, operation, {"TableName": table})
        return
    name = p.get("TableName", "").rpartition("/")[2]
    context = {"aws__dynamodb__tableName": name, "aws__dynamodb__subscriberId": cloud.account}
    if operation in ("CreateTable", "UpdateTable"):
        key = (p.get("SSESpecification") or {}).get("KMSMasterKeyId")
        yield from _uses(
            cloud, "dynamodb", key, ("kms:CreateGrant", "kms:DescribeKey", "kms:Decrypt"), **context
        )
    elif operation.endswith("Item") or operation in ("Query", "Scan"):
        yield from _uses(cloud, "dynamodb", tables.table_key(name), ("kms:Decrypt",), **context)


def _stepfunctions(cloud: Cloud, operation: str, p: Params) -> Iterator[Access]:
    # https://docs.aws.amazon.com/step-functions/latest/dg/encryption-at-rest.html
    if operation in ("CreateStateMachine", "UpdateStateMachine"):
        key = (p.get("encryptionConfiguration") or {}).get("kmsKeyId")
        arn = p.get("stateMachineArn") or cloud.arn("states", f"stateMachine:{p.get('name', '')}")
        yield from _uses(
            cloud, "states", key, ("kms:DescribeKey", "kms:GenerateDataKey"), aws__states__stateMachineArn=arn
        )
    if operation in (
        "DescribeExecution",
        "DescribeStateMachine",
        "DescribeStateMachineForExecution",
        "GetExecutionHistory",
    ):
        metadata_only = p.get("includedData") == "METADATA_ONLY"
        arn = states.machine_of(p.get("executionArn") or p.get("stateMachineArn") or "")
        key = "" if metadata_only else states.machine_key(arn)
        yield from _uses(cloud, "states", key, ("kms:Decrypt",), aws__states__stateMachineArn=arn)


def _ecr(cloud: Cloud, operation: str, p: Params) -> Iterator[Access]:
    # pulls and pushes go by the grants that were made here
    name = p.get("repositoryName", "")
    context = {"aws__ecr__arn": cloud.arn("ecr", f"repository/{name}")}
    if operation == "CreateRepository":
        key = (p.get("encryptionConfiguration") or {}).get("kmsKey")
        yield from _uses(cloud, "ecr", key, ("kms:CreateGrant", "kms:DescribeKey"), **context)
    if operation == "DeleteRepository":
        yield from _uses(cloud, "ecr", keys.image_repository_key(name), ("kms:RetireGrant",), **context)


def _codeartifact(cloud: Cloud, operation: str, p: Params) -> Iterator[Access]:
    if operation == "CreateDomain":
        key = p.get("encryptionKey")
        yield from _uses(cloud, "codeartifact", key, ("kms:CreateGrant", "kms:DescribeKey"))


def _sagemaker(cloud: Cloud, operation: str, p: Params) -> Iterator[Access]:
    if operation == "CreateDomain":
        # EFS and the volumes of spaces work with grants that whoever makes the domain gives
        yield from _uses(cloud, "sagemaker", p.get("KmsKeyId"), ("kms:CreateGrant", "kms:DescribeKey"))
    elif operation in ("CreateModelCard", "UpdateModelCard", "DescribeModelCard"):
        # https://docs.aws.amazon.com/sagemaker/latest/dg/model-cards-xaccount.html
        card = cloud.services["sagemaker"].cards.find(p.get("ModelCardName", "")) or {}
        config = p.get("SecurityConfig") or card.get("SecurityConfig") or {}
        actions = ("kms:Decrypt",) if operation == "DescribeModelCard" else _DATA_KEY
        yield from _uses(cloud, "sagemaker", config.get("KmsKeyId"), actions)
    elif operation.startswith("Create") and operation.endswith("Job"):
        role = p.get("RoleArn") or _role_of_model(cloud, p.get("ModelName", ""))
        for key in dict.fromkeys(_volume_keys(p)):
            yield from _volume(cloud, key, [role])
    elif operation in ("CreateEndpoint", "UpdateEndpoint"):
        service = cloud.services["sagemaker"]
        config = service.endpoint_configs.find(p.get("EndpointConfigName", "")) or {}
        variants = [*config.get("ProductionVariants", []), *config.get("ShadowProductionVariants", [])]
        roles = [_role_of_model(cloud, v.get("ModelName", "")) for v in variants]
        yield from _volume(cloud, config.get("KmsKeyId"), roles)


def _volume_keys(node: Any) -> Iterator[str]:
    """Each VolumeKmsKeyId in the parameters of a job."""
    if isinstance(node, Mapping):
        if node.get("VolumeKmsKeyId"):
            yield node["VolumeKmsKeyId"]
        for value in node.values():
            yield from _volume_keys(value)
    elif isinstance(node, list):
        for value in node:
            yield from _volume_keys(value)


def _role_of_model(cloud: Cloud, name: str) -> str:
    found = cloud.services["sagemaker"].models.find(name) if name else None
    return (found or {}).get("ExecutionRoleArn", "")


def _volume(cloud: Cloud, key: str | None, roles: list[str]) -> Iterator[Access]:
    """A volume's key is lent by a grant that the execution role may make, or else the caller.

    https://docs.aws.amazon.com/sagemaker/latest/dg/api-permissions-reference.html
    """
    for access in _uses(cloud, "sagemaker", key, ("kms:CreateGrant",)):
        if not (roles and all(role and role_may(cloud, role, access) for role in roles)):
            yield access


def role_may(cloud: Cloud, role: str, access: Access) -> bool:
    """Whether a role's own policies, its boundary and the key's policy let it use a key."""
    caller = callers.caller_of_role(cloud, role, "SageMaker")
    principal = engine.Principal(caller.arn, caller.account, caller.role_arn, keys=caller.keys)
    having = engine.Policies(
        identity=caller.identity,
        boundary=caller.boundary,
        resource=keys.key_policy(access.resource) or {},
        resource_owner=whereabouts.owner(access.resource) or cloud.account,
    )
    allowed = engine.decide(principal, access, having, cloud.region).allowed
    if allowed:
        cloud.evidence.keep(caller, access, having)
    return allowed


_SERVICES: dict[str, Callable[[Cloud, str, Params], Iterator[Access]]] = {
    "s3": _s3,
    "sns": _sns,
    "sqs": _sqs,
    "ssm": _ssm,
    "secretsmanager": _secretsmanager,
    "codecommit": _codecommit,
    "lambda": _lambda,
    "scheduler": _scheduler,
    "ecr": _ecr,
    "codeartifact": _codeartifact,
    "dynamodb": _dynamodb,
    "stepfunctions": _stepfunctions,
    "sagemaker": _sagemaker,
}
