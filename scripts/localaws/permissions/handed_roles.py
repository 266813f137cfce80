"""iam:PassRole: a call that hands a role to a service needs the right to do so.

https://docs.aws.amazon.com/IAM/latest/UserGuide/id_roles_use_passrole.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from localaws.permissions.access import Access
from localaws.permissions.requests import Request

if TYPE_CHECKING:
    from localaws.cloud import Cloud

#: botocore's service → the service that gets the role
PASSED_TO = {
    "sagemaker": "sagemaker.amazonaws.com",
    "codebuild": "codebuild.amazonaws.com",
    "codepipeline": "codepipeline.amazonaws.com",
    "cloudformation": "cloudformation.amazonaws.com",
    "lambda": "lambda.amazonaws.com",
    "events": "events.amazonaws.com",
    "scheduler": "scheduler.amazonaws.com",
    "stepfunctions": "states.amazonaws.com",
    "servicecatalog": "servicecatalog.amazonaws.com",
    "logs": "logs.amazonaws.com",
    "s3": "s3.amazonaws.com",
    "ec2": "vpc-flow-logs.amazonaws.com",
    "apigateway": "apigateway.amazonaws.com",
}
_ROLE = re.compile(r"arn:[\w-]+:iam::\d{12}:role/.+")
#: members whose text is a service's own affair: a pipeline's actions hand roles over when they run
_OPAQUE = {
    "configuration",
    "PipelineDefinition",
    "Parameters",
    "ProvisioningParameters",
    "environmentVariables",
}
_READS = ("Describe", "List", "Get", "Delete", "Search", "Batch", "Invoke", "Send", "Remove")


def accesses(cloud: Cloud, request: Request) -> list[Access]:
    """A question for each role in the request's parameters.

    The role of a pipeline's action in another account is not handed over: the pipeline's role assumes it.
    """
    service = PASSED_TO.get(request.service)
    if service is None or request.operation.startswith(_READS):
        return []
    params, own = dict(request.params), []
    if service == "codepipeline.amazonaws.com" and "pipeline" in params:
        params["pipeline"] = dict(params["pipeline"])
        stages = params["pipeline"].pop("stages", [])
        own = [r for r in _roles({"stages": stages}) if r.split(":")[4] == cloud.account]
    return [
        Access("iam:PassRole", arn, {"iam:PassedToService": service})
        for arn in dict.fromkeys([*_roles(params), *own])
    ]


def _roles(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key in _OPAQUE:
                continue
            if isinstance(inner, str) and key.lower().endswith(("role", "rolearn")):
                if _ROLE.fullmatch(inner):
                    yield inner
            else:
                yield from _roles(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _roles(inner)
