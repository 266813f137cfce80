"""The model registry: groups, packages and their versions, approval and its events."""

from __future__ import annotations

import json
import re
from typing import Any

from botocore.exceptions import ClientError, ParamValidationError

from localaws.cloud import Cloud
from localaws.errors import AwsError
from localaws.resource import Context
from localaws.services.sagemaker.records import Base, Collection, Record
from localaws.services.sagemaker.resources import Props, SageMakerResource

_IMAGE = re.compile(
    r"(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(?:\.cn)?/(?P<name>[^:@]+)(?::(?P<tag>[^@]+))?(?:@(?P<digest>.+))?"
)
#: members of a package that the event of its change shows
_SHOWN = (
    "ModelPackageName",
    "ModelPackageGroupName",
    "ModelPackageVersion",
    "ModelPackageArn",
    "ModelPackageDescription",
    "CreationTime",
    "InferenceSpecification",
    "ModelPackageStatus",
    "ModelPackageStatusDetails",
    "CertifyForMarketplace",
    "ModelApprovalStatus",
    "MetadataProperties",
    "ModelMetrics",
    "LastModifiedTime",
    "CustomerMetadataProperties",
    "DriftCheckBaselines",
    "ModelLifeCycle",
    "ApprovalDescription",
    "SkipModelValidation",
)


class RegistryMixin(Base):
    """Model package groups and model packages."""

    def __init__(self, cloud: Cloud) -> None:
        super().__init__(cloud)
        self.groups = Collection(
            self,
            "ModelPackageGroup",
            "model-package-group",
            duplicate=("ValidationException", "Model Package Group already exists: {arn}"),
            missing=("ValidationException", "ModelPackageGroup {arn} does not exist."),
        )
        self.packages = Collection(
            self,
            "ModelPackage",
            "model-package",
            duplicate=("ValidationException", "Model Package already exists: {arn}"),
            missing=("ValidationException", "ModelPackage {arn} does not exist."),
        )
        self.package_tokens: dict[str, str] = {}

    # -- groups ------------------------------------------------------------------------------------
    def create_model_package_group(self, params: Record) -> Record:
        data = {
            **params,
            "ModelPackageGroupStatus": "Completed",
            "CreatedBy": self.caller(),
            "_last": 0,
            "_policy": None,
        }
        return {
            "ModelPackageGroupArn": self.groups.add(params["ModelPackageGroupName"], data)[
                "ModelPackageGroupArn"
            ]
        }

    def describe_model_package_group(self, params: Record) -> Record:
        return self.groups.get(params["ModelPackageGroupName"])

    def list_model_package_groups(self, params: Record) -> Record:
        return self.groups.listing(params, "ModelPackageGroupSummaryList")

    def delete_model_package_group(self, params: Record) -> None:
        with self.lock:
            group = self.groups.get(params["ModelPackageGroupName"])
            if self._versions(group["ModelPackageGroupName"]):
                raise AwsError(
                    "ConflictException",
                    f"Model Package Group {group['ModelPackageGroupArn']} cannot be deleted: it still "
                    "contains Model Packages. "
                    "Delete them first.",
                )
            self.groups.remove(group["ModelPackageGroupArn"])

    def put_model_package_group_policy(self, params: Record) -> Record:
        group = self.groups.get(params["ModelPackageGroupName"])
        try:
            policy = json.loads(params["ResourcePolicy"])
        except ValueError as error:
            raise AwsError("ValidationException", f"The resource policy is not JSON: {error}") from None
        if not isinstance(policy, dict) or not policy.get("Statement"):
            raise AwsError("ValidationException", "The resource policy has no Statement")
        group["_policy"] = params["ResourcePolicy"]
        return {"ModelPackageGroupArn": group["ModelPackageGroupArn"]}

    def get_model_package_group_policy(self, params: Record) -> Record:
        group = self.groups.get(params["ModelPackageGroupName"])
        if not group["_policy"]:
            raise AwsError(
                "ValidationException", f"Cannot find Resource Policy for: {group['ModelPackageGroupArn']}"
            )
        return {"ResourcePolicy": group["_policy"]}

    def delete_model_package_group_policy(self, params: Record) -> None:
        self.groups.get(params["ModelPackageGroupName"])["_policy"] = None

    def resource_policy(self, arn: str) -> str | None:
        """The policy that lets others in: a group's is that of its versions too."""
        kind, _, path = arn.split(":", 5)[5].partition("/")
        group = self.groups.find(path.partition("/")[0]) if kind.startswith("model-package") else None
        return (group or {}).get("_policy")

    def _versions(self, group: str) -> list[Record]:
        return [p for p in self.packages.all() if p.get("ModelPackageGroupName") == group]

    # -- packages ----------------------------------------------------------------------------------
    def create_model_package(self, params: Record) -> Record:
        token = params.get("ClientToken")
        if token in self.package_tokens and self.package_tokens[token] in self.packages:
            return {"ModelPackageArn": self.package_tokens[token]}
        if bool(params.get("ModelPackageName")) == bool(params.get("ModelPackageGroupName")):
            raise AwsError(
                "ValidationException",
                "Exactly one of ModelPackageName and ModelPackageGroupName must be given",
            )
        data = {k: v for k, v in params.items() if k != "ClientToken"}
        for specification in (
            data.get("InferenceSpecification"),
            *(data.get("AdditionalInferenceSpecifications") or []),
        ):
            self._check_containers((specification or {}).get("Containers") or [])
        data.update(
            ModelPackageStatus="InProgress",
            CertifyForMarketplace=bool(params.get("CertifyForMarketplace")),
            CreatedBy=self.caller(),
            ModelPackageStatusDetails={"ValidationStatuses": [], "ImageScanStatuses": []},
        )
        with self.lock:
            if params.get("ModelPackageGroupName"):
                group = self.groups.get(params["ModelPackageGroupName"])
                group["_last"] += 1  # a version's number is never given again, also after it was deleted
                name = f"{group['ModelPackageGroupName']}/{group['_last']}"
                data.update(
                    ModelPackageGroupName=group["ModelPackageGroupName"],
                    ModelPackageVersion=group["_last"],
                    ModelPackageRegistrationType="Registered",
                    ModelApprovalStatus=params.get("ModelApprovalStatus", "PendingManualApproval"),
                )
            else:
                if not data.get("InferenceSpecification") and not data.get("SourceAlgorithmSpecification"):
                    raise AwsError(
                        "ValidationException",
                        "An unversioned model package needs an InferenceSpecification or a "
                        "SourceAlgorithmSpecification",
                    )
                name = params["ModelPackageName"]
                data.pop("ModelApprovalStatus", None)
            package = self.packages.add(name, data)
            package["ModelPackageName"] = name
            if token:
                self.package_tokens[token] = package["ModelPackageArn"]
        self.cloud.spawn(self._complete, package, name="model-package")
        return {"ModelPackageArn": package["ModelPackageArn"]}

    def _complete(self, package: Record) -> None:
        self.cloud.pause(2)
        self.packages.change(package, ModelPackageStatus="Completed")
        self._tell(package, None)

    def _check_containers(self, containers: list[Record]) -> None:
        """Refuse an image of this account that ECR does not have, and model data that S3 does not have;
        note the image's digest."""
        for container in containers:
            if container.get("Image"):
                container["ImageDigest"] = self.image_digest(container["Image"]) or container.get(
                    "ImageDigest"
                )
            url = container.get("ModelDataUrl")
            source = ((container.get("ModelDataSource") or {}).get("S3DataSource") or {}).get("S3Uri")
            if url or source:
                self.check_model_data(url or source)

    def image_digest(self, image: str) -> str | None:
        """The digest of an image in this account's ECR, None for an image elsewhere.

        Raises AwsError ValidationException for an image in another region or one that ECR does not have.
        """
        match = _IMAGE.fullmatch(image)
        if not match or match["account"] != self.cloud.account:
            return None
        if match["region"] != self.cloud.region:
            raise AwsError(
                "ValidationException",
                f"Unsupported Elastic Container Registry region {match['region']} of image {image}; "
                f"SageMaker needs {self.cloud.region}",
            )
        wanted = (
            {"imageDigest": match["digest"]} if match["digest"] else {"imageTag": match["tag"] or "latest"}
        )
        try:
            found = self.cloud.client("ecr").describe_images(repositoryName=match["name"], imageIds=[wanted])[
                "imageDetails"
            ]
        except ParamValidationError as error:
            raise AwsError("ValidationException", f"{image} is not the URI of an image: {error}") from None
        except ClientError as error:
            if error.response["Error"]["Code"] == "RepositoryNotFoundException":
                raise AwsError(
                    "ValidationException", f"The repository of your image {image} does not exist."
                ) from None
            found = []
        if not found:
            raise AwsError("ValidationException", f"Requested image {image} not found.")
        return found[0]["imageDigest"]

    def check_model_data(self, url: str) -> None:
        """Refuse model data (an S3 object, or a prefix with something below) that is not there."""
        match = re.fullmatch(r"s3://([^/]+)/(.*)", url)
        if not match:
            raise AwsError("ValidationException", f"Invalid ModelDataUrl {url}: it must be s3://bucket/key")
        try:
            found = (
                self.cloud.client("s3")
                .list_objects_v2(Bucket=match[1], Prefix=match[2], MaxKeys=1)
                .get("KeyCount", 0)
            )
        except ClientError as error:
            raise AwsError(
                "ValidationException",
                f"Could not access model data at {url}. {error.response['Error']['Message']}",
            ) from None
        if not found:
            raise AwsError("ValidationException", f"Could not find model data at {url}.")

    def describe_model_package(self, params: Record) -> Record:
        return self.packages.get(params["ModelPackageName"])

    def batch_describe_model_package(self, params: Record) -> Record:
        found = {arn: self.packages.find(arn) for arn in params["ModelPackageArnList"]}
        missing = {
            arn: {"ErrorCode": "ValidationException", "ErrorResponse": f"ModelPackage {arn} does not exist."}
            for arn, p in found.items()
            if not p
        }
        return {
            "ModelPackageSummaries": {arn: p for arn, p in found.items() if p},
            "BatchDescribeModelPackageErrorMap": missing,
        }

    def list_model_packages(self, params: Record) -> Record:
        group, approval, kind = (
            params.get("ModelPackageGroupName"),
            params.get("ModelApprovalStatus"),
            params.get("ModelPackageType", "Unversioned"),
        )
        name = self.groups.get(group)["ModelPackageGroupName"] if group else None

        def wanted(package: Record) -> bool:
            versioned = "ModelPackageGroupName" in package
            if name:
                right = package.get("ModelPackageGroupName") == name
            else:
                right = kind == "Both" or versioned == (kind == "Versioned")
            return right and approval in (None, package.get("ModelApprovalStatus"))

        return self.packages.listing(params, "ModelPackageSummaryList", wanted)

    def update_model_package(self, params: Record) -> Record:
        with self.lock:
            package = self.packages.get(params["ModelPackageArn"])
            if params.get("ModelApprovalStatus") and not package.get("ModelPackageGroupName"):
                raise AwsError(
                    "ValidationException",
                    f"ModelPackage {package['ModelPackageArn']} is not a version of a group: it has no "
                    "approval status",
                )
            plain = (
                "ModelApprovalStatus",
                "ApprovalDescription",
                "InferenceSpecification",
                "SourceUri",
                "ModelCard",
                "ModelLifeCycle",
                "ModelPackageRegistrationType",
            )
            changes = {k: params[k] for k in plain if k in params}
            self._check_containers((changes.get("InferenceSpecification") or {}).get("Containers") or [])
            if "CustomerMetadataProperties" in params or params.get("CustomerMetadataPropertiesToRemove"):
                merged = {
                    **package.get("CustomerMetadataProperties", {}),
                    **params.get("CustomerMetadataProperties", {}),
                }
                changes["CustomerMetadataProperties"] = {
                    k: v
                    for k, v in merged.items()
                    if k not in params.get("CustomerMetadataPropertiesToRemove", [])
                }
            if params.get("AdditionalInferenceSpecificationsToAdd"):
                have = package.get("AdditionalInferenceSpecifications", [])
                changes["AdditionalInferenceSpecifications"] = [
                    *have,
                    *params["AdditionalInferenceSpecificationsToAdd"],
                ]
            self.packages.change(package, **changes, LastModifiedBy=self.caller())
        self._tell(package, list(changes))
        return {"ModelPackageArn": package["ModelPackageArn"]}

    def delete_model_package(self, params: Record) -> None:
        self.packages.remove(params["ModelPackageName"])

    def _tell(self, package: Record, updated: list[str] | None) -> None:
        """The event of a change; what an update named is listed, also when it had that value already, as
        AWS does not say it is not."""
        detail = {k: package[k] for k in _SHOWN if package.get(k) is not None}
        detail = json.loads(
            json.dumps(
                detail,
                default=lambda v: v.strftime("%Y-%m-%dT%H:%M:%SZ") if hasattr(v, "strftime") else str(v),
            )
        )
        if updated is not None:
            detail["UpdatedModelPackageFields"] = updated
        self.cloud.emit(
            "aws.sagemaker",
            "SageMaker Model Package State Change",
            {**detail, "Tags": {}},
            [package["ModelPackageArn"]],
        )


# -- CloudFormation --------------------------------------------------------------------------------
class ModelPackageGroup(SageMakerResource):
    """AWS::SageMaker::ModelPackageGroup, its resource policy included."""

    type_name = "AWS::SageMaker::ModelPackageGroup"
    create_call, delete_call, describe_call = (
        "create_model_package_group",
        "delete_model_package_group",
        "describe_model_package_group",
    )
    update_call = "put_model_package_group_policy"
    status_key, good, bad = "ModelPackageGroupStatus", ("Completed",), ("Failed",)
    id_parameter = name_property = "ModelPackageGroupName"
    physical_id = "ModelPackageGroupArn"
    drop = ("ModelPackageGroupPolicy",)
    attributes = {k: k for k in ("ModelPackageGroupArn", "ModelPackageGroupStatus", "CreationTime")}

    def ids(self, physical_id: str, props: Props) -> Props:
        return {"ModelPackageGroupName": physical_id.rpartition("/")[2] or props["ModelPackageGroupName"]}

    def read(self, answer: Props, context: Context) -> Props:
        return {k: str(v) for k, v in super().read(answer, context).items()}

    def create(self, context: Context, props: Props) -> tuple[str, Any]:
        physical_id, attributes = super().create(context, props)
        if props.get("ModelPackageGroupPolicy"):
            self.change(context, physical_id, {}, props)
        return physical_id, attributes

    def change(self, context: Context, physical_id: str, old: Props, new: Props) -> None:
        client, policy = context.client("sagemaker"), new.get("ModelPackageGroupPolicy")
        if policy:
            text = policy if isinstance(policy, str) else json.dumps(policy)
            client.put_model_package_group_policy(**self.ids(physical_id, new), ResourcePolicy=text)
        else:
            client.delete_model_package_group_policy(**self.ids(physical_id, new))


class ModelPackage(SageMakerResource):
    """AWS::SageMaker::ModelPackage."""

    type_name = "AWS::SageMaker::ModelPackage"
    create_call, update_call, delete_call, describe_call = (
        "create_model_package",
        "update_model_package",
        "delete_model_package",
        "describe_model_package",
    )
    status_key, good, bad = "ModelPackageStatus", ("Completed",), ("Failed",)
    id_parameter = "ModelPackageName"
    physical_id = "ModelPackageArn"
    name_property = "ModelPackageName"
    drop = (
        "AdditionalInferenceSpecificationsToAdd",
        "LastModifiedTime",
        "ModelPackageStatusDetails",
        "ModelPackageVersion",
    )
    attributes = {k: k for k in ("ModelPackageArn", "ModelPackageStatus", "CreationTime")}

    def read(self, answer: Props, context: Context) -> Props:
        return {k: str(v) for k, v in super().read(answer, context).items()}

    def change(self, context: Context, physical_id: str, old: Props, new: Props) -> None:
        keys = (
            "ModelApprovalStatus",
            "ApprovalDescription",
            "CustomerMetadataProperties",
            "AdditionalInferenceSpecificationsToAdd",
            "ModelCard",
            "SourceUri",
        )
        changed = {k: new[k] for k in keys if k in new and new[k] != old.get(k)}
        dropped = sorted(
            set(old.get("CustomerMetadataProperties") or {})
            - set(new.get("CustomerMetadataProperties") or {})
        )
        if dropped:
            changed["CustomerMetadataPropertiesToRemove"] = dropped
        context.client("sagemaker").update_model_package(ModelPackageArn=physical_id, **changed)


TYPES = [ModelPackageGroup, ModelPackage]
