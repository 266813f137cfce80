"""SageMaker and Service Catalog: condition keys out of their requests, and what tags need."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from localaws.hooks import policies
from localaws.permissions.access import Access
from localaws.permissions.requests import Request

if TYPE_CHECKING:
    from localaws.cloud import Cloud


def sagemaker(cloud: Cloud, request: Request) -> list[Access]:
    """The action on its resources with SageMaker's own keys; tags in a call need AddTags as well.

    https://docs.aws.amazon.com/sagemaker/latest/dg/security_iam_id-based-policy-examples.html
    """
    from localaws.permissions import mapping

    params = dict(request.params)
    # versions of a group: https://docs.aws.amazon.com/sagemaker/latest/dg/model-registry-deploy-xaccount.html
    of_a_group = request.operation in ("CreateModelPackage", "ListModelPackages")
    if of_a_group and params.get("ModelPackageGroupName"):
        params["ModelPackageName"] = f"{params['ModelPackageGroupName'].rpartition('/')[2]}/*"
    if params.get("SpaceName") and not params.get("UserProfileName"):
        params["UserProfileName"] = params["SpaceName"]  # an app of a space has its name in that place
    action = f"sagemaker:{request.operation}"
    keys = request_keys(
        request.operation, params, cloud.arn("sagemaker", ""), lambda key: policies.key_arn(key) or key
    )
    keys |= known_to(action, _space(cloud, request))
    asked = mapping.generic(cloud, action, params, keys)
    if request.operation == "CreateModel":
        asked += [Access(action, arn) for arn in foreign_packages(params, cloud.account)]
    if mapping.tags_in(params) and request.operation != "AddTags":
        tags = {k: v for k, v in asked[0].context.items() if k.startswith(("aws:RequestTag/", "aws:TagKeys"))}
        tagging = {**tags, "sagemaker:TaggingAction": request.operation}
        own = [a for a in asked if a.resource != "*"][:1]
        asked += [Access("sagemaker:AddTags", a.resource, tagging) for a in own]
    return asked + _through_the_catalog(cloud, request)


def foreign_packages(params: Mapping[str, Any], account: str) -> list[str]:
    """The model packages of other accounts in a call: their owner lets one make models of them, or not.

    https://docs.aws.amazon.com/sagemaker/latest/dg/model-registry-deploy-xaccount.html
    """
    arns = {a for a in _values(params, "ModelPackageName") if isinstance(a, str) and a.startswith("arn:")}
    return sorted(a for a in arns if a.split(":")[4] != account)


def _through_the_catalog(cloud: Cloud, request: Request) -> list[Access]:
    """A project is a provisioned product, which SageMaker handles with the permissions of who calls it.

    https://docs.aws.amazon.com/sagemaker/latest/dg/sagemaker-projects-studio-updates.html
    """
    level = {"servicecatalog:accountLevel": "self"}
    if request.operation == "CreateProject":
        product = (request.params.get("ServiceCatalogProvisioningDetails") or {}).get("ProductId", "*")
        return [Access("servicecatalog:ProvisionProduct", cloud.arn("catalog", f"product/{product}"))]
    action = {"UpdateProject": "UpdateProvisionedProduct", "DeleteProject": "TerminateProvisionedProduct"}
    name = action.get(request.operation)
    return [Access(f"servicecatalog:{name}", "*", level)] if name else []


def request_keys(
    operation: str, params: Mapping[str, Any], arn_prefix: str, key_arn: Callable[[str], str]
) -> dict[str, Any]:
    """SageMaker's own condition keys of a call, as far as its action knows them.

    ``arn_prefix`` is what ARNs of this account begin with, ``key_arn`` makes the ARN of a key's id.
    """
    return known_to(f"sagemaker:{operation}", _keys(operation, params, arn_prefix, key_arn))


def known_to(action: str, found: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Those keys that the action knows and that have a value."""
    from localaws.permissions import mapping

    details = mapping.action_details(action) or {}
    known = {k.partition("/")[0] for k in details.get("conditionKeys", [])}
    return {k: v for k, v in found if k.partition("/")[0] in known and v not in (None, [])}


#: where requests say with which key their results are encrypted
_OUTPUTS = (
    "OutputDataConfig",
    "ProcessingOutputConfig",
    "MonitoringOutputConfig",
    "DataQualityJobOutputConfig",
    "ModelQualityJobOutputConfig",
    "ModelBiasJobOutputConfig",
    "ModelExplainabilityJobOutputConfig",
)


def _keys(
    operation: str, params: Mapping[str, Any], arn_prefix: str, key_arn: Callable[[str], str]
) -> Iterator[tuple[str, Any]]:
    yield "sagemaker:InstanceTypes", sorted(set(_values(params, "InstanceType")))
    yield "sagemaker:VpcSubnets", [s for v in _values(params, "Subnets") for s in v]
    groups = [*_values(params, "SecurityGroupIds"), *_values(params, "SecurityGroups")]
    yield "sagemaker:VpcSecurityGroupIds", [s for v in groups for s in v]
    volume = next(_values(params, "VolumeKmsKeyId"), None)
    output_config = next((v for name in _OUTPUTS for v in _values(params, name)), {})
    output = output_config.get("KmsKeyId") or next(
        _values(params.get("TransformOutput", {}), "KmsKeyId"), None
    )
    if operation == "CreateEndpointConfig":
        volume = params.get("KmsKeyId")
    for name, key in (("VolumeKmsKeyArn", volume), ("OutputKmsKeyArn", output)):
        yield f"sagemaker:{name}", key_arn(key) if key else None
    flags = {
        "InterContainerTrafficEncryption": "EnableInterContainerTrafficEncryption",
        "NetworkIsolation": "EnableNetworkIsolation",
    }
    for name, member in flags.items():
        value = next(_values(params, member), None)
        yield f"sagemaker:{name}", None if value is None else str(value).lower()
    runtime = next(_values(params, "MaxRuntimeInSeconds"), None)
    yield "sagemaker:MaxRuntimeInSeconds", str(runtime) if runtime else None
    yield "sagemaker:ModelApprovalStatus", params.get("ModelApprovalStatus")
    models = sorted({m for m in _values(params, "ModelName") if isinstance(m, str)})
    yield "sagemaker:ModelArn", [f"{arn_prefix}model/{m}" for m in models]
    yield (
        "sagemaker:StudioLifecycleConfigArns",
        sorted(
            {a for v in _values(params, "LifecycleConfigArns") for a in v}
            | {a for a in _values(params, "LifecycleConfigArn") if isinstance(a, str)}
        ),
    )
    for name, value in (params.get("CustomerMetadataProperties") or {}).items():
        yield f"sagemaker:CustomerMetadataProperties/{name}", value
    for condition in params.get("VisibilityConditions") or []:
        yield f"sagemaker:SearchVisibilityCondition/{condition['Key']}", condition["Value"]


def _space(cloud: Cloud, request: Request) -> Iterator[tuple[str, Any]]:
    """Whose space (or app) it is, and whether it is shared: from the call, or from the space."""
    params = request.params
    domain, space = params.get("DomainId"), params.get("SpaceName")
    profile = (params.get("OwnershipSettings") or {}).get("OwnerUserProfileName")
    sharing = (params.get("SpaceSharingSettings") or {}).get("SharingType")
    if space and not profile:
        found = cloud.services["sagemaker"].space_settings(domain, space)
        profile, sharing = found.get("OwnerUserProfileName"), found.get("SharingType") or sharing
    if not space:
        profile = profile or params.get("UserProfileName")
    if profile:
        yield "sagemaker:OwnerUserProfileArn", cloud.arn("sagemaker", f"user-profile/{domain}/{profile}")
    yield "sagemaker:SpaceSharingType", sharing


def _values(value: Any, name: str) -> Iterator[Any]:
    """Every value of a member, however deep."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key == name and inner not in (None, "", [], {}):
                yield inner
            else:
                yield from _values(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from _values(inner, name)


def servicecatalog(cloud: Cloud, request: Request) -> list[Access] | None:
    """Products by name or id; provisioned products are no resources, but who made them is a key.

    https://docs.aws.amazon.com/servicecatalog/latest/adminguide/permissions-examples.html
    """
    from localaws.hooks import caller_arn
    from localaws.permissions import mapping

    params, service = dict(request.params), cloud.services["servicecatalog"]
    name = params.get("ProductName") or (
        params.get("Name") if request.operation == "DescribeProduct" else None
    )
    if name and not (params.get("ProductId") or params.get("Id")):
        found = next((p for p in service.products.values() if p["Name"] == name), None)
        params["ProductId"] = found["Id"] if found else "*"
    action = f"servicecatalog:{request.operation}"
    details = mapping.action_details(action) or {"conditionKeys": []}
    context: dict[str, Any] = {}
    if "servicecatalog:accountLevel" in details["conditionKeys"]:
        wanted = params.get("AccessLevelFilter") or {}
        owner = service.owner_of(params)
        context["servicecatalog:accountLevel"] = "self"
        me = caller_arn(cloud)
        if owner:
            if owner.rpartition("/")[0] == me.rpartition("/")[0]:
                context["servicecatalog:roleLevel"] = "self"
            if owner == me:
                context["servicecatalog:userLevel"] = "self"
        elif wanted.get("Key") in ("Role", "User"):
            context = {f"servicecatalog:{wanted['Key'].lower()}Level": wanted.get("Value", "self")}
        elif not wanted:
            context = {"servicecatalog:userLevel": "self", "servicecatalog:accountLevel": "self"}
    return mapping.generic(cloud, action, params, context)


ACCESSES = {
    "sagemaker": sagemaker,
    "sagemaker-runtime": sagemaker,
    "servicecatalog": servicecatalog,
}
