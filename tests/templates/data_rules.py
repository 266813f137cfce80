"""The house rules of what holds data: buckets, keys, topics, queues, images, logs, secrets.

They are rules as those in house_rules.py, with a fixture each.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from house_rules import Rule, Template, as_list, branches, plain, walk

TLS = {"Bool": {"aws:SecureTransport": "false"}}
SSE = "s3:x-amz-server-side-encryption"
KEY_ID = f"{SSE}-aws-kms-key-id"
GRANTS = {"BoolIfExists": {"kms:GrantIsForAWSResource": "false", "aws:PrincipalIsAWSService": "false"}}
# what IAM policies of the account may be allowed by a key's policy without a condition: no use of the key
ADMINISTRATION = re.compile(
    r"kms:(?!CreateGrant)(Cancel|Create|Delete|Describe|Disable|Enable|Get|List|Put|Retire|Revoke|Schedule|Tag|Untag|Update)[A-Z]\w+"
)
# how a use of a key is limited: who, through what, on what, or whether a service works with the grant
LIMITS = ("aws:PrincipalArn", "kms:ViaService", "kms:EncryptionContext", "kms:GrantIsForAWSResource")
#: type → where it names the key that protects it
KEYS_OF = {
    "AWS::CodeArtifact::Domain": ["EncryptionKey"],
    "AWS::CodeBuild::Project": ["EncryptionKey"],
    "AWS::CodeCommit::Repository": ["KmsKeyId"],
    "AWS::CodePipeline::Pipeline": ["ArtifactStore.EncryptionKey.Id"],
    "AWS::ECR::Repository": ["EncryptionConfiguration.KmsKey"],
    "AWS::Logs::LogGroup": ["KmsKeyId"],
    "AWS::SNS::Topic": ["KmsMasterKeyId"],
    "AWS::SageMaker::Domain": ["KmsKeyId"],
    "AWS::SageMaker::EndpointConfig": ["KmsKeyId", "DataCaptureConfig.KmsKeyId"],
    "AWS::Scheduler::Schedule": ["KmsKeyArn"],
}
SECRET = re.compile(r"(?i)password|passwd|secret|api_?key|credential|private_?key|(?<!bearer)token$")


def statements_of(policy: dict[str, Any]) -> list[dict[str, Any]]:
    """The statements of a resource's policy."""
    return list(branches(policy["PolicyDocument"]["Statement"]))


def target(node: Any) -> str:
    """The logical id that a property refers to, else its text."""
    return str(node.get("Ref", node)) if isinstance(node, dict) else str(node)


def denies(policy: list[dict[str, Any]], actions: str, condition: Any) -> bool:
    """Whether everybody is denied these actions under this condition alone: a further key is a way around."""
    return any(
        s["Effect"] == "Deny"
        and s.get("Principal") == "*"
        and [str(a) for a in as_list(s["Action"])] == [actions]
        and s.get("Condition") == condition
        for s in policy
    )


def _buckets(template: Template) -> Iterator[tuple[str, dict[str, Any], list[dict[str, Any]], bool]]:
    """(name, properties, statements of its policy, whether S3 delivers access logs to it)."""
    policies = {target(p["Bucket"]): statements_of(p) for _, p in template.of_type("AWS::S3::BucketPolicy")}
    for name, bucket in template.of_type("AWS::S3::Bucket"):
        policy = policies.get(name, [])
        logs = any("logging.s3.amazonaws.com" in str(s.get("Principal", "")) for s in policy)
        yield name, bucket, policy, logs


def buckets_deny_plain_http(template: Template) -> Iterator[str]:
    for name, _, policy, _ in _buckets(template):
        whole = [
            s for s in policy if sorted("/*" in str(r) for r in as_list(s.get("Resource"))) == [False, True]
        ]
        if not denies(whole, "s3:*", TLS):
            yield f"bucket {name}: no statement denies s3:* on bucket and objects to everybody without TLS"


def buckets_take_their_own_key_only(template: Template) -> Iterator[str]:
    """What a request names goes before the bucket's default, so each way to name something else is denied."""
    for name, bucket, policy, logs in _buckets(template):
        rule = bucket.get("BucketEncryption", {}).get("ServerSideEncryptionConfiguration", [{}])[0]
        default = rule.get("ServerSideEncryptionByDefault", {})
        if logs:
            if default != {"SSEAlgorithm": "AES256"}:
                yield f"bucket {name} takes access logs, which S3 delivers to SSE-S3 (AES256) only"
            continue
        if default.get("SSEAlgorithm") != "aws:kms" or "KMSMasterKeyID" not in default:
            yield f"bucket {name} is not encrypted with a customer managed key"
            continue
        if str(rule.get("BucketKeyEnabled")).lower() != "true":
            yield f"bucket {name} has no bucket key: each object would cost a call of KMS"
        key = default["KMSMasterKeyID"]
        for what, condition in {
            "another key": {"Null": {KEY_ID: "false"}, "StringNotEquals": {KEY_ID: key}},
            "another encryption": {"Null": {SSE: "false"}, "StringNotEquals": {SSE: "aws:kms"}},
            "the key of AWS": {"Null": {SSE: "false", KEY_ID: "true"}},
            "a key of the caller": {"Null": {f"{SSE}-customer-algorithm": "false"}},
        }.items():
            if not denies(policy, "s3:PutObject", condition):
                yield f"bucket {name}: no statement denies to everybody to put an object under {what}"


def buckets_tell_who_came(template: Template) -> Iterator[str]:
    for name, bucket, _, logs in _buckets(template):
        if logs:
            continue  # a log bucket that logs itself would never end
        if "DestinationBucketName" not in bucket.get("LoggingConfiguration", {}):
            yield f"bucket {name} keeps no access log"
        if "EventBridgeConfiguration" not in bucket.get("NotificationConfiguration", {}):
            yield f"bucket {name} tells EventBridge nothing"


def buckets_have_no_lists(template: Template) -> Iterator[str]:
    for name, bucket, _, _ in _buckets(template):
        rules = bucket.get("OwnershipControls", {}).get("Rules", [])
        if [rule.get("ObjectOwnership") for rule in rules] != ["BucketOwnerEnforced"]:
            yield f"bucket {name} may have access control lists; set BucketOwnerEnforced"
        lifecycle = bucket.get("LifecycleConfiguration", {}).get("Rules", [])
        if not any("AbortIncompleteMultipartUpload" in r and "Prefix" not in r for r in lifecycle):
            yield f"bucket {name} keeps the parts of broken uploads for ever"
        if not any("NoncurrentVersionExpiration" in r and "Prefix" not in r for r in lifecycle):
            yield f"bucket {name} keeps old versions for ever"
        if any(str(rule.get("Status")) != "Enabled" for rule in lifecycle):
            yield f"bucket {name} has a lifecycle rule that is not enabled"


def retained_buckets_stay_closed(template: Template) -> Iterator[str]:
    kept = {
        n
        for n, _ in template.of_type("AWS::S3::Bucket")
        if template.resources[n].get("DeletionPolicy") == "Retain"
    }
    for name, policy in template.of_type("AWS::S3::BucketPolicy"):
        if target(policy["Bucket"]) in kept:
            for which in ("DeletionPolicy", "UpdateReplacePolicy"):
                if (found := template.resources[name].get(which)) != "Retain":
                    yield f"{name} has {which} {found}: the bucket stays without it"


def keys_name_who_may_use_them(template: Template) -> Iterator[str]:
    for name, key in template.of_type("AWS::KMS::Key"):
        if template.resources[name].get("DeletionPolicy") != "Retain":
            yield f"key {name} goes with its stack, and what it protects is lost"
        policy = list(branches(key["KeyPolicy"]["Statement"]))
        if not denies(policy, "kms:CreateGrant", GRANTS):
            yield f"key {name}: no statement denies to everybody grants that are for no service"
        for statement in (s for s in policy if s["Effect"] == "Allow"):
            where = f"key {name}, {statement.get('Sid')}"
            keys = {k for block in statement.get("Condition", {}).values() for k in block}
            uses = [str(a) for a in as_list(statement["Action"]) if not ADMINISTRATION.fullmatch(str(a))]
            if not uses:
                continue
            if not any(key.startswith(limit) for key in keys for limit in LIMITS):
                yield f"{where}: {', '.join(uses)} for whoever IAM allows it, without a limit in the key"
            if "kms:CreateGrant" in uses and not keys & {"kms:GrantIsForAWSResource", "kms:ViaService"}:
                yield f"{where}: grants that are for no service"
            principal = statement["Principal"] if isinstance(statement["Principal"], dict) else {"AWS": "*"}
            services = as_list(principal.get("Service", []))
            if services and not any(key.startswith("kms:EncryptionContext:") for key in keys):
                yield f"{where}: {plain(services[0])} on things of any account; limit the encryption context"
            if principal.get("AWS") == "*" and "kms:CallerAccount" not in keys:
                yield f"{where}: callers of every account"


def stores_have_keys(template: Template) -> Iterator[str]:
    for kind, paths in KEYS_OF.items():
        for name, properties in template.of_type(kind):
            for path in paths:
                nodes: list[Any] = [properties]
                for part in path.split("."):  # what Fn::If may choose counts
                    nodes = [one.get(part) for node in nodes for one in branches(node)] or [None]
                for node in nodes:
                    if not node:
                        yield f"{name} ({kind}) has no {path}"
                    elif "alias/aws/" in str(node):
                        yield f"{name} ({kind}): {path} is a key of AWS"


def topics_and_queues_are_closed(template: Template) -> Iterator[str]:
    policies: dict[str, list[dict[str, Any]]] = {}
    for kind, things in (("SNS::TopicPolicy", "Topics"), ("SQS::QueuePolicy", "Queues")):
        for _, policy in template.of_type(f"AWS::{kind}"):
            for thing in policy[things]:
                policies[target(thing)] = statements_of(policy)
    for kind, action in (("AWS::SNS::Topic", "sns:Publish"), ("AWS::SQS::Queue", "sqs:*")):
        for name, thing in template.of_type(kind):
            if not denies(policies.get(name, []), action, TLS):
                yield f"{name} ({kind}): no statement denies {action} to everybody without TLS"
            sse = str(thing.get("SqsManagedSseEnabled")).lower() == "true"
            if kind == "AWS::SQS::Queue" and not sse and "KmsMasterKeyId" not in thing:
                yield f"{name} ({kind}) is not encrypted"


def images_are_scanned_and_fixed(template: Template) -> Iterator[str]:
    for name, repository in template.of_type("AWS::ECR::Repository"):
        if str(repository.get("ImageScanningConfiguration", {}).get("ScanOnPush")).lower() != "true":
            yield f"images of {name} are not scanned on push"
        if repository.get("ImageTagMutability") != "IMMUTABLE":
            yield f"tags of {name} can be moved to another image"
        if "LifecyclePolicy" not in repository:
            yield f"images of {name} have no lifecycle"


def logs_are_kept_a_year(template: Template) -> Iterator[str]:
    for name, group in template.of_type("AWS::Logs::LogGroup"):
        days = group.get("RetentionInDays", 0)
        if isinstance(days, dict):
            parameter = template.data.get("Parameters", {}).get(days.get("Ref"), {})
            days = min(map(int, parameter.get("AllowedValues", [parameter.get("MinValue", 0)])))
        if int(days) < 365:
            yield f"{name} keeps its logs for {days} days; a year is the least"


def secrets_have_one_place(template: Template) -> Iterator[str]:
    """Secrets stand in Secrets Manager: a parameter, an output or a variable shows what it holds."""
    for section in ("Parameters", "Outputs"):
        for name, node in template.data.get(section, {}).items():
            if SECRET.search(name) or str(node.get("NoEcho", "")).lower() == "true":
                yield f"{section}.{name} holds a secret"
    for name, resource in template.resources.items():
        for node in walk(resource.get("Properties", {})):
            if not isinstance(node, dict):
                continue
            variables = node.get("EnvironmentVariables", [])
            if isinstance(variables, list):
                for variable in variables:
                    if SECRET.search(str(variable.get("Name"))) and variable.get("Type") != "SECRETS_MANAGER":
                        yield f"{name}: the variable {variable['Name']} shows a secret"
            for variable in node.get("Variables", {}) if isinstance(node.get("Variables"), dict) else ():
                if SECRET.search(str(variable)):
                    yield f"{name}: the variable {variable} shows a secret"
    if "{{resolve:secretsmanager:" in template.text:
        yield "a secret is resolved into a property, where Describe shows it"


RULES: list[Rule] = [
    buckets_deny_plain_http,
    buckets_take_their_own_key_only,
    buckets_tell_who_came,
    buckets_have_no_lists,
    retained_buckets_stay_closed,
    keys_name_who_may_use_them,
    stores_have_keys,
    topics_and_queues_are_closed,
    images_are_scanned_and_fixed,
    logs_are_kept_a_year,
    secrets_have_one_place,
]
