"""Endpoint configurations: what AWS accepts of them, by kind of endpoint."""

from __future__ import annotations

from typing import Any

from localaws.cloud import Cloud
from localaws.errors import AwsError
from localaws.resource import Context
from localaws.services.sagemaker.job_base import JobBase
from localaws.services.sagemaker.models import NamedByArn, retag
from localaws.services.sagemaker.records import Collection, Record


class EndpointConfigsMixin(JobBase):
    """Endpoint configurations."""

    models: Collection  # of ModelsMixin

    def __init__(self, cloud: Cloud) -> None:
        super().__init__(cloud)
        self.endpoint_configs = Collection(
            self,
            "EndpointConfig",
            "endpoint-config",
            duplicate=(
                "ValidationException",
                'Cannot create already existing endpoint configuration "{arn}".',
            ),
            missing=("ValidationException", 'Could not find endpoint configuration "{arn}".'),
        )

    def create_endpoint_config(self, params: Record) -> Record:
        if params.get("ExplainerConfig"):
            raise _not_run("ExplainerConfig: the local cloud runs no explainer")
        shadows = params.get("ShadowProductionVariants") or []
        variants = [*params["ProductionVariants"], *shadows]
        names = [v["VariantName"] for v in variants]
        if len(set(names)) < len(names):
            raise _invalid(f"Variant names must be unique, found {', '.join(names)}")
        for variant in variants:
            self._check_variant(variant)
        if shadows and (len(shadows) > 1 or len(params["ProductionVariants"]) > 1):
            raise _invalid(
                "With ShadowProductionVariants there may be one variant in ProductionVariants and one in "
                "ShadowProductionVariants."
            )
        if any(v.get("ServerlessConfig") for v in variants):
            self._check_serverless(params, variants)
        if params.get("AsyncInferenceConfig"):
            self._check_asynchronous(params)
        self.check_network(params.get("VpcConfig"))
        capture = params.get("DataCaptureConfig")
        if capture and not capture["DestinationS3Uri"].startswith("s3://"):
            raise _invalid(f"DestinationS3Uri {capture['DestinationS3Uri']} is not an S3 URI")
        record = self.endpoint_configs.add(params["EndpointConfigName"], params)
        return {"EndpointConfigArn": record["EndpointConfigArn"]}

    def describe_endpoint_config(self, params: Record) -> Record:
        return self.endpoint_configs.get(params["EndpointConfigName"])

    def list_endpoint_configs(self, params: Record) -> Record:
        return self.endpoint_configs.listing(params, "EndpointConfigs")

    def delete_endpoint_config(self, params: Record) -> Record:
        self.endpoint_configs.remove(params["EndpointConfigName"])
        return {}

    # -- what AWS checks -------------------------------------------------------------------------------------
    def _check_variant(self, variant: Record) -> None:
        name = variant["VariantName"]
        if not variant.get("ModelName"):
            raise _not_run("the local cloud serves models, not inference components")
        for member in ("InstancePools", "ManagedInstanceScaling", "CoreDumpConfig", "EnableSSMAccess"):
            if variant.get(member):
                raise _not_run(f"{member} of variant {name} is not run in the local cloud")
        self.models.get(variant["ModelName"])
        serverless = variant.get("ServerlessConfig")
        instances = variant.get("InstanceType"), variant.get("InitialInstanceCount")
        if serverless and any(instances):
            raise _invalid(
                f"Variant {name}: ServerlessConfig excludes InstanceType and InitialInstanceCount."
            )
        if not serverless and not all(instances):
            raise _invalid(f"Variant {name}: InstanceType and InitialInstanceCount are required")
        if not serverless:
            return
        memory, provisioned = serverless["MemorySizeInMB"], serverless.get("ProvisionedConcurrency") or 0
        if memory % 1024:
            raise _invalid(
                f"Variant {name}: MemorySizeInMB must be one of 1024, 2048, 3072, 4096, 5120 and 6144, found "
                f"{memory}."
            )
        if provisioned > serverless["MaxConcurrency"]:
            raise _invalid(f"Variant {name}: ProvisionedConcurrency must not be greater than MaxConcurrency.")

    def _check_serverless(self, params: Record, variants: list[Record]) -> None:
        """Refuse what serverless endpoints do not have.

        https://docs.aws.amazon.com/sagemaker/latest/dg/serverless-endpoints.html (feature exclusions)
        """
        if len(variants) > 1:
            raise _invalid("Serverless endpoints have one production variant, and no shadow variants.")
        for member in ("DataCaptureConfig", "VpcConfig", "AsyncInferenceConfig", "EnableNetworkIsolation"):
            if params.get(member):
                raise _invalid(f"{member} is not supported for serverless endpoints.")
        model = self.models.get(variants[0]["ModelName"])
        for member in ("VpcConfig", "EnableNetworkIsolation"):
            if model.get(member):
                raise _invalid(
                    f"{member} of model {model['ModelName']} is not supported for serverless endpoints."
                )

    def _check_asynchronous(self, params: Record) -> None:
        if params.get("ShadowProductionVariants"):
            raise _invalid("ShadowProductionVariants are not supported for asynchronous endpoints.")
        config = params["AsyncInferenceConfig"]["OutputConfig"]
        if not config.get("S3OutputPath"):
            raise _not_run("AsyncInferenceConfig without S3OutputPath")
        for member in ("S3OutputPath", "S3FailurePath"):
            if config.get(member) and not config[member].startswith("s3://"):
                raise _invalid(f"{member} {config[member]} is not an S3 URI")
        notices = config.get("NotificationConfig") or {}
        if notices.get("IncludeInferenceResponseIn"):
            raise _not_run("IncludeInferenceResponseIn: notices of the local cloud do not hold the answer")


def _invalid(message: str) -> AwsError:
    return AwsError("ValidationException", message)


def _not_run(message: str) -> AwsError:
    return AwsError("NotImplemented", message, 501)


# -- CloudFormation ---
class EndpointConfigResource(NamedByArn):
    """AWS::SageMaker::EndpointConfig."""

    type_name, noun, name_property = "AWS::SageMaker::EndpointConfig", "EndpointConfig", "EndpointConfigName"
    create_call, delete_call, id_parameter = (
        "create_endpoint_config",
        "delete_endpoint_config",
        "EndpointConfigName",
    )

    def update(self, context: Context, physical_id: str, old: dict, new: dict) -> dict[str, Any]:
        """Tags are all that can change in place."""
        retag(context, physical_id, old, new)
        return {}


TYPES = [EndpointConfigResource]
