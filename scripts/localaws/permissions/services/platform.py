"""Calls whose resources take more than their parameters' names: IAM, STS, KMS, SSM, the developer tools …"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from localaws.cloud import caller_key
from localaws.errors import AwsError
from localaws.hooks import foreign, keys, policies
from localaws.permissions.access import Access
from localaws.permissions.requests import Request

if TYPE_CHECKING:
    from localaws.cloud import Cloud


def _generic(
    cloud: Cloud, request: Request, params: dict[str, Any], context: dict[str, Any] | None = None
) -> list[Access]:
    from localaws.permissions import mapping

    prefix = mapping.PREFIXES.get(request.service, request.service)
    return mapping.generic(cloud, f"{prefix}:{request.operation}", params, context)


# -- IAM, STS --------------------------------------------------------------------------------------------
def iam(cloud: Cloud, request: Request) -> list[Access]:
    """Roles and policies by name have their path in the ARN; the boundary in a call or on a role is a key."""
    params, context = dict(request.params), {}
    prefix = f"arn:{cloud.partition}:iam::{cloud.account}"
    name = params.get("RoleName")
    found = policies.role(cloud.account, name) if name else None
    if name:
        params["RoleArn"] = found["Arn"] if found else f"{prefix}:role{params.get('Path', '/')}{name}"
    boundary = params.get("PermissionsBoundary") or _boundary(found)
    if boundary:
        context["iam:PermissionsBoundary"] = boundary
    if request.operation == "CreatePolicy":
        params["PolicyArn"] = f"{prefix}:policy{params.get('Path', '/')}{params['PolicyName']}"
    if request.operation in ("AttachRolePolicy", "DetachRolePolicy"):
        context["iam:PolicyARN"] = params.pop("PolicyArn")
    asked = _generic(cloud, request, params, context)
    if request.operation in ("CreateRole", "CreatePolicy") and params.get("Tags"):
        tag = "iam:TagRole" if request.operation == "CreateRole" else "iam:TagPolicy"
        asked += [Access(tag, a.resource, a.context) for a in asked]
    return asked


def _boundary(role: dict[str, Any] | None) -> str:
    found = (role or {}).get("PermissionsBoundary") or ""
    return found.get("PermissionsBoundaryArn", "") if isinstance(found, dict) else found


#: seconds that a role may be assumed for by who has assumed one already
#: https://docs.aws.amazon.com/IAM/latest/UserGuide/id_roles.html#iam-term-role-chaining
_CHAINED = 3600


def sts(cloud: Cloud, request: Request) -> list[Access] | None:
    """Session tags and a source identity are actions of their own; asking who one is needs nothing."""
    if request.operation in ("GetCallerIdentity", "GetSessionToken"):
        return []
    if request.operation != "AssumeRole":
        return None
    params = request.params
    if policies.session_of(caller_key.get()) and int(params.get("DurationSeconds") or 0) > _CHAINED:
        raise AwsError(
            "ValidationError",
            "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role "
            "chaining",
        )
    context = {"sts:RoleSessionName": params.get("RoleSessionName", "")}
    if params.get("ExternalId"):
        context["sts:ExternalId"] = params["ExternalId"]
    if params.get("SourceIdentity"):
        context["sts:SourceIdentity"] = params["SourceIdentity"]
    tags = {t["Key"]: t["Value"] for t in params.get("Tags") or []}
    tagged = {f"aws:RequestTag/{k}": v for k, v in tags.items()} | (
        {"aws:TagKeys": list(tags)} if tags else {}
    )
    arn = params["RoleArn"]
    asked = [Access("sts:AssumeRole", arn, {**context, **tagged})]
    if params.get("SourceIdentity"):
        asked.append(Access("sts:SetSourceIdentity", arn, context))
    if tags:
        asked.append(Access("sts:TagSession", arn, {**context, **tagged}))
    return asked


# -- KMS -------------------------------------------------------------------------------------------------
def kms(cloud: Cloud, request: Request) -> list[Access]:
    """Keys by id, alias or ARN; what a caller does itself is no grant for a resource of AWS."""
    params = dict(request.params)
    context: dict[str, Any] = {"kms:CallerAccount": cloud.account}
    for name, value in (params.get("EncryptionContext") or {}).items():
        context[f"kms:EncryptionContext:{name}"] = value
    if request.operation == "CreateGrant":
        context["kms:GrantIsForAWSResource"] = "false"
        context["kms:GranteePrincipal"] = params.get("GranteePrincipal", "")
        context["kms:GrantOperations"] = params.get("Operations") or []
    key = params.pop("KeyId", None) or params.pop("TargetKeyId", None)
    if key is None and params.get("CiphertextBlob"):
        key = policies.key_of_ciphertext(params["CiphertextBlob"])
        key = key and f"{_kms(cloud, foreign.key_owner(key))}:key/{key}"
    if key:
        params["KeyArn"] = policies.key_arn(key) or (
            key if key.startswith("arn:") else f"{_kms(cloud)}:key/{key}"
        )
    if params.get("AliasName"):
        params["AliasArn"] = f"{_kms(cloud)}:{params.pop('AliasName')}"
    return _generic(cloud, request, params, context)


def _kms(cloud: Cloud, account: str | None = None) -> str:
    return f"arn:{cloud.partition}:kms:{cloud.region}:{account or cloud.account}"


# -- parameters, logs, queues, topics --------------------------------------------------------------------
def ssm(cloud: Cloud, request: Request) -> list[Access] | None:
    """Parameters by name, names or path; the ARN has one slash between the word and the name."""
    params = request.params
    names = params.get("Names") or [params.get("Name") or params.get("Path") or params.get("ResourceId")]
    if not all(names) or "Parameter" not in request.operation and params.get("ResourceType") != "Parameter":
        return None
    prefix = f"arn:{cloud.partition}:ssm:{cloud.region}:{cloud.account}:parameter/"
    out = []
    for name in names:
        arn = name if name.startswith("arn:") else prefix + name.partition(":")[0].lstrip("/")
        rest = {k: v for k, v in params.items() if k not in ("Names", "Name", "Path")}
        out += _generic(cloud, request, {**rest, "ParameterArn": arn})
        if request.operation == "PutParameter" and params.get("Tags"):
            out.append(Access("ssm:AddTagsToResource", arn, out[-1].context))
    return out


def logs(cloud: Cloud, request: Request) -> list[Access] | None:
    """Log groups by name or identifier; calls without a stream speak of all streams of the group."""
    params = dict(request.params)
    group = params.get("logGroupName") or params.get("logGroupIdentifier")
    if not group:
        return None
    if group.startswith("arn:"):
        params["logGroupName"] = group.split(":")[6]
    params.setdefault("logStreamName", "*")
    return _generic(cloud, request, params)


def sqs(cloud: Cloud, request: Request) -> list[Access] | None:
    """Queues by address."""
    url = request.params.get("QueueUrl")
    name = url.rstrip("/").rpartition("/")[2] if url else None
    return _generic(cloud, request, {**request.params, "QueueName": name}) if name else None


def sns(cloud: Cloud, request: Request) -> list[Access] | None:
    """A subscription's ARN begins with its topic's."""
    params = dict(request.params)
    arn = params.pop("SubscriptionArn", None)
    if arn:
        params["TopicArn"] = arn.rpartition(":")[0]
    context = {}
    if request.operation == "Subscribe":
        context = {"sns:Protocol": params.get("Protocol", ""), "sns:Endpoint": params.get("Endpoint", "")}
    return _generic(cloud, request, params, context)


# -- developer tools -------------------------------------------------------------------------------------
def codebuild(cloud: Cloud, request: Request) -> list[Access] | None:
    """Builds by id, projects by names, reports by their group."""
    params = dict(request.params)
    prefix = f"arn:{cloud.partition}:codebuild:{cloud.region}:{cloud.account}:"

    def group(report: str) -> str:
        return report.rpartition(":")[0].replace(":report/", ":report-group/")

    if request.operation in ("BatchGetBuilds", "StopBuild", "RetryBuild", "BatchDeleteBuilds"):
        ids = params.get("ids") or [params.get("id", "")]
        names = {
            i.rpartition("/")[2].partition(":")[0] if i.startswith("arn:") else i.partition(":")[0]
            for i in ids
        }
        resources = [f"{prefix}project/{n}" for n in sorted(names)]
    elif request.operation == "BatchGetProjects":
        resources = [n if n.startswith("arn:") else f"{prefix}project/{n}" for n in params["names"]]
    elif "reportArns" in params:
        resources = [group(a) for a in params["reportArns"]]
    elif "reportArn" in params or str(params.get("arn", "")).count(":report/"):
        resources = [group(params.get("reportArn") or params["arn"])]
    elif str((params.get("report") or {}).get("arn", "")):
        resources = [group(params["report"]["arn"])]
    else:
        return None
    return [Access(f"codebuild:{request.operation}", r) for r in dict.fromkeys(resources)]


def codecommit(cloud: Cloud, request: Request) -> list[Access] | None:
    """Repositories by name, by names, or by the pull request that is theirs; the branch is a key."""
    params = dict(request.params)
    service = cloud.services["codecommit"]
    context = {}
    branch = params.get("branchName") or params.get("newBranchName")
    if request.operation.startswith("Merge") and params.get("pullRequestId"):
        target = service.target_of(params["pullRequestId"])
        branch = (target or {}).get("destinationReference", branch)
    if request.operation.startswith("MergeBranches"):
        branch = params.get("targetBranch") or params.get("destinationCommitSpecifier")
    if branch:
        # one value, not a list: IAM's own examples compare it without ForAnyValue
        context["codecommit:References"] = branch if branch.startswith("refs/") else f"refs/heads/{branch}"
    names = params.pop("repositoryNames", None)
    if request.operation == "CreatePullRequest":
        names = [t["repositoryName"] for t in params.get("targets", [])]
    elif names is None and params.get("pullRequestId") and not params.get("repositoryName"):
        target = service.target_of(params["pullRequestId"])
        names = [target["repositoryName"]] if target else None
    if names is None:
        return _generic(cloud, request, params, context)
    return [a for n in names for a in _generic(cloud, request, {**params, "repositoryName": n}, context)]


def codepipeline(cloud: Cloud, request: Request) -> list[Access] | None:
    """Pipelines by name or declaration; an approval is of one action."""
    params = dict(request.params)
    declared = (params.get("pipeline") or {}).get("name")
    if declared:
        params["pipelineName"] = declared
    name = params.get("pipelineName") or params.get("name")
    if request.operation in (
        "PutApprovalResult",
        "RetryStageExecution",
        "DisableStageTransition",
        "EnableStageTransition",
    ):
        action = f":{name}/{params.get('stageName')}" + (
            f"/{params['actionName']}" if params.get("actionName") else ""
        )
        return [Access(f"codepipeline:{request.operation}", cloud.arn("codepipeline", action[1:]))]
    asked = _generic(
        cloud, request, {k: v for k, v in params.items() if k not in ("stageName", "actionName")}
    )
    if request.operation == "CreatePipeline" and params.get("tags"):
        asked += [Access("codepipeline:TagResource", a.resource, a.context) for a in asked]
    return asked


def ecr(cloud: Cloud, request: Request) -> list[Access] | None:
    """Repositories by name or names, in this or another registry."""
    params = request.params
    names = params.get("repositoryNames") or (
        [params["repositoryName"]] if params.get("repositoryName") else []
    )
    if not names:
        return None
    registry = params.get("registryId") or cloud.account
    rest = {k: v for k, v in params.items() if k not in ("repositoryName", "repositoryNames")}
    arns = [f"arn:{cloud.partition}:ecr:{cloud.region}:{registry}:repository/{n}" for n in names]
    asked = [a for arn in arns for a in _generic(cloud, request, {**rest, "repositoryArn": arn})]
    if request.operation == "CreateRepository" and params.get("tags"):
        asked += [Access("ecr:TagResource", a.resource, a.context) for a in asked]
    return asked


def cloudformation(cloud: Cloud, request: Request) -> list[Access] | None:
    """Stacks by name or ARN; the role and the template of a call are keys."""
    params = dict(request.params)
    context = {}
    if params.get("RoleARN"):
        context["cloudformation:RoleArn"] = params.pop("RoleARN")
    if params.get("TemplateURL"):
        context["cloudformation:TemplateUrl"] = params.pop("TemplateURL")
    stack = params.get("StackName")
    if stack and not stack.startswith("arn:"):
        params["StackArn"] = policies.stack_id(stack) or cloud.arn("cloudformation", f"stack/{stack}/*")
    if str(params.get("ChangeSetName", "")).startswith("arn:") and not stack:
        params["StackArn"] = policies.stack_of_change_set(params["ChangeSetName"]) or "*"
    asked = _generic(cloud, request, params, context)
    if request.operation in ("CreateStack", "CreateChangeSet", "UpdateStack") and params.get("Tags"):
        known = [a for a in asked if a.resource != "*"]
        asked += [Access("cloudformation:TagResource", a.resource, a.context) for a in known]
    return asked


# -- events, schedules, alarms, functions ----------------------------------------------------------------
def events(cloud: Cloud, request: Request) -> list[Access] | None:
    """Rules of the default bus; what is put is put on a bus."""
    params = dict(request.params)
    if request.operation == "PutEvents":
        buses = dict.fromkeys(e.get("EventBusName", "default") for e in params.get("Entries", []))
        return [
            Access("events:PutEvents", b if b.startswith("arn:") else cloud.arn("events", f"event-bus/{b}"))
            for b in buses
        ]
    if params.get("EventBusName") in ("default", None):
        params.pop("EventBusName", None)
    return _generic(cloud, request, params)


def scheduler(cloud: Cloud, request: Request) -> list[Access] | None:
    """Schedules of a group, the default one when none is named."""
    params = {k: v for k, v in request.params.items() if k != "Target"}
    params.setdefault("GroupName", "default")
    return _generic(cloud, request, params)


def cloudwatch(cloud: Cloud, request: Request) -> list[Access] | None:
    """Alarms by name or names; metrics have no resources, but a namespace."""
    params = dict(request.params)
    names = params.get("AlarmNames")
    if names:
        return [
            Access(f"cloudwatch:{request.operation}", cloud.arn("cloudwatch", f"alarm:{n}")) for n in names
        ]
    context = {"cloudwatch:namespace": params["Namespace"]} if params.get("Namespace") else {}
    if request.operation in ("PutMetricData", "GetMetricData", "GetMetricStatistics", "ListMetrics"):
        return [Access(f"cloudwatch:{request.operation}", "*", context)]
    params.pop("AlarmActions", None)
    asked = _generic(cloud, request, params)
    if request.operation == "PutMetricAlarm" and params.get("Tags"):
        asked += [Access("cloudwatch:TagResource", a.resource, a.context) for a in asked]
    return asked


def lambda_(cloud: Cloud, request: Request) -> list[Access] | None:
    """Functions by name, partial or whole ARN; who invokes a version or an alias is asked for that ARN.

    https://docs.aws.amazon.com/lambda/latest/dg/lambda-api-permissions-ref.html
    """
    params = dict(request.params)
    name = params.pop("FunctionName", None)
    if name:
        bare, _, qualifier = name.split(":function:")[-1].partition(":")
        action = {"Invoke": "InvokeFunction"}.get(request.operation, request.operation)
        from localaws.permissions import mapping

        keep = {k: v for k, v in params.items() if k in ("Tags", "TagKeys")}
        asked = mapping.generic(
            cloud, f"lambda:{action}", {**keep, "FunctionArn": cloud.arn("lambda", f"function:{bare}")}
        )
        qualifier = qualifier or params.get("Qualifier", "")
        if action == "InvokeFunction" and qualifier:
            return [Access(a.action, f"{a.resource}:{qualifier}", a.context) for a in asked]
        return asked
    return None


def secretsmanager(cloud: Cloud, request: Request) -> list[Access] | None:
    """Secrets by name or ARN; an ARN ends with six characters of AWS's choice."""
    found = policies.secret_arn(request.params.get("SecretId", ""))
    return _generic(cloud, request, {**request.params, "SecretId": found}) if found else None


def codeartifact(cloud: Cloud, request: Request) -> list[Access] | None:
    """A token of a package domain lets one into AWS's bearer tokens too."""
    if request.operation != "GetAuthorizationToken":
        return None
    return [
        *_generic(cloud, request, request.params),
        Access("sts:GetServiceBearerToken", "*", {"sts:AWSServiceName": "codeartifact.amazonaws.com"}),
    ]


def s3(cloud: Cloud, request: Request) -> list[Access]:
    """Buckets and objects, with the emulator's own table of S3's many actions."""
    from urllib.parse import parse_qs, unquote

    bucket = policies.bucket_of_host(request.headers.get("host", ""))
    path = f"/{bucket}{request.path}" if bucket else request.path
    query = parse_qs(request.query, keep_blank_values=True)
    found = policies.s3_accesses(request.method, unquote(path), request.headers, query, request.body)
    if not found:
        raise AwsError("NotImplemented", f"the IAM action of S3's {request.operation} is not known", 501)
    out = [Access(action, resource or "*", context) for action, resource, context in found]
    match = re.match(r"/([^/]+)/(.+)", unquote(path))
    if match:
        tags = policies.object_tags(match[1], match[2])
        existing = {f"s3:ExistingObjectTag/{k}": v for k, v in tags.items()}
        out = [Access(a.action, a.resource, {**existing, **a.context}) for a in out]
    sent = _sse(request.headers, "partNumber" in query or "uploads" in query)
    if "uploadId" in query and any(f"s3:{_SSE}" in a.context for a in out):
        # a part carries no headers: those of its upload are judged
        sent[f"s3:{_SSE}-aws-kms-key-id"] = keys.upload_key(query["uploadId"][0])
    return [Access(a.action, a.resource, {**sent, **a.context}) for a in out]


_SSE = "x-amz-server-side-encryption"


def _sse(headers: dict[str, str], parts: bool) -> dict[str, str]:
    names = (_SSE, f"{_SSE}-aws-kms-key-id", f"{_SSE}-customer-algorithm", "x-amz-acl")
    names += ("if-none-match", "if-match")  # conditional writes
    # false for the parts of an upload, which are not objects yet
    creation = {} if parts else {"s3:ObjectCreationOperation": "true"}
    return {**creation, **{f"s3:{n}": headers[n] for n in names if n in headers}}


ACCESSES = {
    "iam": iam,
    "sts": sts,
    "kms": kms,
    "ssm": ssm,
    "logs": logs,
    "sqs": sqs,
    "sns": sns,
    "codebuild": codebuild,
    "codecommit": codecommit,
    "codepipeline": codepipeline,
    "codeartifact": codeartifact,
    "ecr": ecr,
    "cloudformation": cloudformation,
    "events": events,
    "scheduler": scheduler,
    "cloudwatch": cloudwatch,
    "lambda": lambda_,
    "secretsmanager": secretsmanager,
    "s3": s3,
}
