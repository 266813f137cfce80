"""API Gateway: which API a call is for, whether its signature is right, and how the emulator answers it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from localaws import refusals
from localaws.errors import AwsError

if TYPE_CHECKING:
    from localaws.cloud import Cloud

#: hook → the emulator's private names it uses ("module:attribute")
HOOKS: dict[str, tuple[str, ...]] = {
    "api_calls": (
        "ministack.services.apigateway_v1:_rest_apis",
        "ministack.services.apigateway_v1:_stages_v1",
        "ministack.services.apigateway_v1:find_api_scope",
        "ministack.services.apigateway_v1:method_authorization_type",
        "ministack.services.apigateway_v1:handle_execute",
        "ministack.services.apigateway:_apis",
        "ministack.services.apigateway:_stages",
        "ministack.services.apigateway:find_api_scope",
        "ministack.services.apigateway:route_authorization_type",
        "ministack.services.apigateway:handle_execute",
        "ministack.services.cloudwatch:record_metric",
    ),
    "api_signatures": (
        "ministack.core.sigv4:parse_header_signature",
        "ministack.core.sigv4:header_signature_failure",
        "ministack.services.sts:_sessions",
    ),
}


@dataclass(frozen=True)
class Api:
    """The API and the stage that a call is for; ``path`` is what follows the stage."""

    api_id: str
    rest: bool
    api: dict[str, Any]
    stage_name: str
    stage: dict[str, Any]
    path: str
    asked_path: str

    @property
    def private(self) -> bool:
        """Whether it answers inside a VPC only."""
        return "PRIVATE" in (member(self.api.get("endpointConfiguration"), "types") or [])

    @property
    def endpoints(self) -> list[str]:
        """The VPC endpoints that it is for, none for any."""
        return member(self.api.get("endpointConfiguration"), "vpcEndpointIds") or []

    @property
    def closed(self) -> bool:
        """Whether its own address is switched off."""
        return bool(self.api.get("disableExecuteApiEndpoint"))


def member(settings: dict[str, Any] | None, name: str) -> Any:
    """A member of settings that the emulator keeps in the API's spelling, or in a template's."""
    return (settings or {}).get(name, (settings or {}).get(name[0].upper() + name[1:]))


def find(api_id: str, path: str) -> Api | None:
    """The stage of an API that a path leads to; None for no such API or stage."""
    from ministack.services import apigateway, apigateway_v1

    first, _, rest = path.lstrip("/").partition("/")
    if apigateway_v1.find_api_scope(api_id):
        stage = apigateway_v1._stages_v1.get(api_id, {}).get(first)
        api = apigateway_v1._rest_apis.get(api_id)
        return Api(api_id, True, api, first, stage, f"/{rest}", path) if stage and api else None
    if apigateway.find_api_scope(api_id):
        stages, api = apigateway._stages.get(api_id, {}), apigateway._apis.get(api_id)
        if api and first in stages:
            return Api(api_id, False, api, first, stages[first], f"/{rest}", path)
        if api and "$default" in stages:
            return Api(api_id, False, api, "$default", stages["$default"], path, path)
    return None


def rest_api(api_id: str) -> dict[str, Any] | None:
    """A REST API as the emulator keeps it."""
    from ministack.services import apigateway_v1

    return apigateway_v1._rest_apis.get(api_id)


def tags(arn: str) -> dict[str, str]:
    """The tags of an API or a stage; a part of a REST API has those of its API too, for access control.

    https://docs.aws.amazon.com/apigateway/latest/developerguide/apigateway-tagging-supported-resources.html
    """
    from ministack.services import apigateway, apigateway_v1

    kind, api_id, part, name = [*arn.partition("::/")[2].split("/"), "", "", "", ""][:4]
    rest = kind == "restapis"
    module_apis, module_stages = (
        (apigateway_v1._rest_apis, apigateway_v1._stages_v1)
        if rest
        else (apigateway._apis, apigateway._stages)
    )
    api = module_apis.get(api_id) or {}
    stage = (module_stages.get(api_id) or {}).get(name) if part == "stages" else None
    inherited = api.get("tags") or {} if rest or not part else {}
    return {**inherited, **((stage or {}).get("tags") or {})}


def authorization(found: Api, method: str) -> str | None:
    """How the method's callers prove who they are; None where there is no such method."""
    from ministack.services import apigateway, apigateway_v1

    module = apigateway_v1.method_authorization_type if found.rest else apigateway.route_authorization_type
    return module(found.api_id, found.stage_name, method, found.path)


def check_signature(
    cloud: Cloud,
    key: str,
    service: str,
    method: str,
    path: str,
    headers: dict[str, str],
    query: str,
    body: bytes,
) -> None:
    """Raise AwsError for a signature that the caller's secret did not make.

    The local cloud's roots have no secret: whatever they sign with is right, as everywhere here.
    """
    from ministack.core import sigv4
    from ministack.services import sts

    if service != "execute-api":
        raise AwsError(
            "InvalidSignatureException", f"Credential should be scoped to correct service: '{service}'", 403
        )
    secret = (sts._sessions.get(key) or {}).get("SecretAccessKey")
    if not secret:
        return
    parsed = sigv4.parse_header_signature(headers)
    if isinstance(parsed, tuple):
        raise AwsError(parsed[0], parsed[1], 403)
    wrong = sigv4.header_signature_failure(parsed, secret, method, path, parse_qs(query), headers, body)
    if wrong:
        raise AwsError(wrong[0], wrong[1], 403)


async def execute(
    found: Api, method: str, headers: dict[str, str], body: bytes, query: dict[str, list[str]], raw_query: str
) -> Any:
    """Let the emulator validate a token, match the route and call what is behind it."""
    from ministack.services import apigateway, apigateway_v1

    if found.rest:
        return await apigateway_v1.handle_execute(
            found.api_id, found.stage_name, method, found.path, headers, body, query
        )
    return await apigateway.handle_execute(
        found.api_id, found.stage_name, found.path, method, headers, body, query, raw_query_string=raw_query
    )


def measure(dimensions: dict[str, str], name: str, value: float, unit: str) -> None:
    """Put one measurement of an API."""
    from ministack.services import cloudwatch

    cloudwatch.record_metric("AWS/ApiGateway", name, value, unit, dimensions)


def stage_needs_a_role(cloud: Cloud, props: dict[str, Any]) -> None:
    """Refuse the access log of a REST API in an account without a role for it."""
    if not (props.get("AccessLogSetting") or {}).get("DestinationArn"):
        return
    if not cloud.client("apigateway").get_account().get("cloudwatchRoleArn"):
        raise ValueError(
            "CloudWatch Logs role ARN must be set in account settings to enable logging "
            "(Service: ApiGateway, Status Code: 400)"
        )


def image_is_lent(cloud: Cloud, props: dict[str, Any]) -> None:
    """Refuse a function whose image Lambda may not pull, or that is not there."""
    from localaws import images

    uri = (props.get("Code") or {}).get("ImageUri")
    if not uri:
        return
    try:
        reference = images.parse(uri)
    except images.ImageError as error:
        raise ValueError(f"Source image {uri} is not valid. ({error})") from error
    ecr = cloud.client("ecr")
    name = cloud.arn("lambda", f"function:{props.get('FunctionName', '')}")
    context = {"aws:sourcearn": name, "aws:sourceaccount": cloud.account}
    try:
        policy = json.loads(ecr.get_repository_policy(repositoryName=reference.repository)["policyText"])
    except ecr.exceptions.ClientError:
        policy = None
    for action in ("ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"):
        if not refusals.policy_allows(policy, "lambda.amazonaws.com", action, context):
            raise ValueError(
                "Lambda does not have permission to access the ECR image. Check the ECR permissions. "
                f"(the policy of {reference.repository} does not let lambda.amazonaws.com {action})"
            )
    wanted = {"imageDigest": reference.digest} if reference.digest else {"imageTag": reference.tag}
    try:
        ecr.describe_images(repositoryName=reference.repository, imageIds=[wanted])
    except ecr.exceptions.ClientError as error:
        raise ValueError(f"Source image {uri} does not exist. Provide a valid source image.") from error
