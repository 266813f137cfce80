"""Models of the hosting side."""

from __future__ import annotations

from typing import Any

from botocore.exceptions import ClientError

from localaws.cloud import Cloud
from localaws.errors import AwsError
from localaws.resource import ApiResource, Context, typed
from localaws.services.sagemaker import data
from localaws.services.sagemaker.job_base import JobBase
from localaws.services.sagemaker.records import Collection, Record


class ModelsMixin(JobBase):
    """Models of the hosting side."""

    def __init__(self, cloud: Cloud) -> None:
        super().__init__(cloud)
        self.models = Collection(
            self,
            "Model",
            "model",
            duplicate=("ValidationException", 'Cannot create already existing model "{arn}".'),
            missing=("ValidationException", 'Could not find model "{arn}".'),
        )

    def create_model(self, params: Record) -> Record:
        given = params.get("Containers") or (
            [params["PrimaryContainer"]] if params.get("PrimaryContainer") else []
        )
        if not given or params.get("Containers") and params.get("PrimaryContainer"):
            raise AwsError(
                "ValidationException", "Exactly one of PrimaryContainer and Containers is required."
            )
        if len(given) > 1:
            raise AwsError(
                "NotImplemented",
                "the local cloud serves models of one container, not inference pipelines",
                501,
            )
        role = params.get("ExecutionRoleArn")
        if not role:
            raise AwsError("ValidationException", "ExecutionRoleArn is required")
        self.check_execution_role(role, "ExecutionRoleArn")
        self.check_network(params.get("VpcConfig"))
        container = self._resolved_container(given[0])
        self.check_image(container["Image"])
        self._check_model_data(container, role)
        record = self.models.add(params["ModelName"], {**params, "_container": container})
        return {"ModelArn": record["ModelArn"]}

    def describe_model(self, params: Record) -> Record:
        return self.models.get(params["ModelName"])

    def list_models(self, params: Record) -> Record:
        return self.models.listing(params, "Models")

    def delete_model(self, params: Record) -> Record:
        self.models.remove(params["ModelName"])
        return {}

    def _resolved_container(self, container: Record) -> Record:
        """Image, model data and environment of a container, those of a model package where it names one."""
        package = container.get("ModelPackageName")
        if not package:
            if not container.get("Image"):
                raise AwsError("ValidationException", "A container needs Image or ModelPackageName.")
            return container
        if container.get("Image") or container.get("ModelDataUrl"):
            raise AwsError(
                "ValidationException", "ModelPackageName and Image or ModelDataUrl exclude one another."
            )
        found = self.in_account_of(package).describe_model_package({"ModelPackageName": package})
        if found["ModelPackageStatus"] != "Completed":
            raise AwsError(
                "ValidationException",
                f"Model package {found['ModelPackageArn']} is in status {found['ModelPackageStatus']}",
            )
        approval = found.get("ModelApprovalStatus")
        if approval and approval != "Approved":
            raise AwsError(
                "ValidationException",
                f"Cannot create a model from model package {found['ModelPackageArn']}: its approval status "
                f"is {approval}, and only an Approved version can be deployed.",
            )
        specification = (found.get("InferenceSpecification") or {}).get("Containers") or []
        if len(specification) != 1:
            raise AwsError(
                "NotImplemented",
                f"model package {package} has {len(specification)} containers; the local cloud serves one",
                501,
            )
        own = specification[0]
        environment = {**(own.get("Environment") or {}), **(container.get("Environment") or {})}
        return {
            **{k: own[k] for k in ("Image", "ModelDataUrl", "ModelDataSource") if own.get(k)},
            "Environment": environment,
        }

    def _check_model_data(self, container: Record, role: str) -> None:
        source = (container.get("ModelDataSource") or {}).get("S3DataSource") or {}
        uri = container.get("ModelDataUrl") or source.get("S3Uri")
        if not uri:
            return
        try:
            found = data.exists(self.s3_as(role), uri)
        except ClientError as error:
            raise AwsError(
                "ValidationException",
                f'Could not access model data at {uri}. Please ensure that the role "{role}" exists '
                "and that its trust relationship policy "
                'allows the action "sts:AssumeRole" for the service principal '
                '"sagemaker.amazonaws.com". Also ensure that the role has '
                f'"s3:GetObject" permissions and that the object is located in {self.cloud.region}. '
                f"({error.response['Error'].get('Code')}: {error.response['Error'].get('Message')})",
            ) from error
        if not found:
            raise AwsError("ValidationException", f"Could not find model data at {uri}.")


def retag(context: Context, arn: str, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Give a resource the tags of its new properties."""
    before, after = ({t["Key"]: t["Value"] for t in props.get("Tags") or []} for props in (old, new))
    client = context.client("sagemaker")
    gone = [k for k in before if k not in after]
    if gone:
        client.delete_tags(ResourceArn=arn, TagKeys=gone)
    if after != before and after:
        client.add_tags(ResourceArn=arn, Tags=[{"Key": k, "Value": v} for k, v in after.items()])


class NamedByArn(ApiResource):
    """A SageMaker type whose Ref is the ARN and whose GetAtt knows the name; the API takes the name."""

    service = "sagemaker"
    noun = ""
    gone = ("ValidationException", "ResourceNotFound")

    def create(self, context: Context, props: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        name = props.get(f"{self.noun}Name") or context.name(63)
        request = typed(
            self.service, self.create_call, {**self.request(context, props), f"{self.noun}Name": name}
        )
        arn = getattr(context.client(self.service), self.create_call)(**request)[f"{self.noun}Arn"]
        return arn, {f"{self.noun}Name": name, f"{self.noun}Arn": arn}

    def delete(self, context: Context, physical_id: str, props: dict[str, Any]) -> None:
        super().delete(context, physical_id.rpartition("/")[2], props)


class ModelResource(NamedByArn):
    """AWS::SageMaker::Model."""

    type_name, noun, name_property = "AWS::SageMaker::Model", "Model", "ModelName"
    create_call, delete_call, id_parameter = "create_model", "delete_model", "ModelName"

    def update(self, context: Context, physical_id: str, old: dict, new: dict) -> dict[str, Any]:
        """Tags are all that can change in place."""
        retag(context, physical_id, old, new)
        return {}


TYPES = [ModelResource]
