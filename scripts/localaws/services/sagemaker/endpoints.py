"""Endpoints: what the API and CloudFormation do with them, and which instance a request goes to."""

from __future__ import annotations

import random
from typing import Any

from botocore.exceptions import ClientError

from localaws.cloud import Cloud
from localaws.errors import AwsError
from localaws.resource import Context, typed
from localaws.services.sagemaker.async_inference import Backlog, Backlogs
from localaws.services.sagemaker.deployments import DeploymentsMixin
from localaws.services.sagemaker.endpoint_configs import EndpointConfigsMixin
from localaws.services.sagemaker.fleets import Fleet, Variant
from localaws.services.sagemaker.models import NamedByArn, retag
from localaws.services.sagemaker.records import Collection, Record

_BUSY = ("Creating", "Updating", "SystemUpdating", "RollingBack", "Deleting")


class EndpointsMixin(EndpointConfigsMixin, DeploymentsMixin):
    """Endpoint configurations and endpoints."""

    def __init__(self, cloud: Cloud) -> None:
        super().__init__(cloud)
        self.endpoints = Collection(
            self,
            "Endpoint",
            "endpoint",
            duplicate=("ValidationException", 'Cannot create already existing endpoint "{arn}".'),
            missing=("ValidationException", 'Could not find endpoint "{arn}".'),
        )
        self.backlogs = Backlogs(self)

    def create_endpoint(self, params: Record) -> Record:
        config = self.endpoint_configs.get(params["EndpointConfigName"])
        # CreateEndpoint keeps the deployment configuration for later updates; it has no effect at creation.
        record = self.endpoints.add(
            params["EndpointName"],
            {
                **{k: v for k, v in params.items() if k != "DeploymentConfig"},
                "EndpointStatus": "Creating",
                "_deployment": params.get("DeploymentConfig"),
            },
        )
        self.fleets[record["EndpointArn"]] = []
        self.endpoint_event(record)
        if config.get("AsyncInferenceConfig"):
            self.backlogs.open(record)
        self.cloud.spawn(
            self.first_deployment, record, dict(config), name=f"endpoint-{record['EndpointName']}"
        )
        return {"EndpointArn": record["EndpointArn"]}

    def describe_endpoint(self, params: Record) -> Record:
        return self.endpoints.get(params["EndpointName"])

    def list_endpoints(self, params: Record) -> Record:
        return self.endpoints.listing(params, "Endpoints")

    def delete_endpoint(self, params: Record) -> Record:
        record = self._idle_endpoint(params["EndpointName"])
        self._deregister_targets(record["EndpointName"])
        self.endpoint_status(record, "Deleting")
        self.backlogs.close(record)
        with self.routing:
            fleets = self.fleets.pop(record["EndpointArn"], [])
        for fleet in fleets:
            fleet.stop()
        self.endpoints.remove(params["EndpointName"])
        return {}

    def update_endpoint(self, params: Record) -> Record:
        record = self._idle_endpoint(params["EndpointName"])
        if record["EndpointStatus"] == "Failed":
            raise AwsError("ValidationException", f'Cannot update failed endpoint "{record["EndpointArn"]}".')
        config = self.endpoint_configs.get(params["EndpointConfigName"])
        deployment = params.get("DeploymentConfig") or (
            record.get("_deployment") if params.get("RetainDeploymentConfig") else None
        )
        self._check_change(record, config)
        self.check_deployment(deployment, config, self.serving_fleet(record).config)
        with self.lock:
            self._idle_endpoint(params["EndpointName"])
            self.endpoints.change(record, EndpointStatus="Updating", FailureReason=None)
        self.endpoint_event(record)
        self.cloud.spawn(
            self.next_deployment,
            record,
            dict(config),
            deployment,
            params,
            name=f"endpoint-{record['EndpointName']}",
        )
        return {"EndpointArn": record["EndpointArn"]}

    def _check_change(self, record: Record, config: Record) -> None:
        """Refuse what an update cannot change."""
        old = self.serving_fleet(record).config
        now, then = ({v["VariantName"]: v for v in c["ProductionVariants"]} for c in (old, config))
        if any(v.get("ServerlessConfig") for v in then.values()) and not any(
            v.get("ServerlessConfig") for v in now.values()
        ):  # https://docs.aws.amazon.com/sagemaker/latest/dg/serverless-endpoints.html
            raise AwsError(
                "ValidationException",
                "An instance-based endpoint cannot be updated to a serverless endpoint.",
            )
        if bool(old.get("AsyncInferenceConfig")) != bool(config.get("AsyncInferenceConfig")):
            raise AwsError(
                "ValidationException",
                "An endpoint cannot be changed between real-time and asynchronous inference.",
            )
        targets = self.cloud.services["application-autoscaling"].targets_of(record["EndpointName"])
        changed = [
            name
            for name in targets
            if name in now and now[name].get("InstanceType") != then.get(name, {}).get("InstanceType")
        ]
        if changed:  # https://docs.aws.amazon.com/sagemaker/latest/dg/endpoint-scaling-update.html
            raise AwsError(
                "ValidationException",
                f'The variant(s) "[{", ".join(changed)}]" must be deregistered as scalable targets with AWS '
                "Auto Scaling before they can be removed or have their instance type updated.",
            )

    def _deregister_targets(self, name: str) -> None:
        """Who deletes an endpoint deregisters its variants, without being told, if they may.

        https://docs.aws.amazon.com/sagemaker/latest/dg/endpoint-scaling-delete.html
        """
        scaling = self.cloud.services["application-autoscaling"]
        for target in scaling.targets_of(name).values():
            keys = ("ServiceNamespace", "ResourceId", "ScalableDimension")
            try:
                self.cloud.client_of_caller("application-autoscaling").deregister_scalable_target(
                    **{k: target[k] for k in keys}
                )
            except ClientError as error:
                raise AwsError("AccessDeniedException", error.response["Error"]["Message"]) from error

    def update_endpoint_weights_and_capacities(self, params: Record) -> Record:
        with self.lock:
            record = self._idle_endpoint(params["EndpointName"])
            fleet = self.serving_fleet(record)
            changes: list[tuple[Variant, Record]] = []
            for wanted in params["DesiredWeightsAndCapacities"]:
                variant = fleet.named(wanted["VariantName"])
                if variant is None:
                    raise AwsError(
                        "ValidationException",
                        f"Variant {wanted['VariantName']} not found for endpoint {record['EndpointName']}",
                    )
                self._check_capacity(record, fleet, variant, wanted)
                changes.append((variant, wanted))
            self._show_wanted(record, changes)
            self.endpoints.change(record, EndpointStatus="Updating", FailureReason=None)
        self.endpoint_event(record)
        self.cloud.spawn(
            self._change_capacity, record, fleet, changes, name=f"endpoint-{record['EndpointName']}"
        )
        return {"EndpointArn": record["EndpointArn"]}

    @staticmethod
    def _check_capacity(record: Record, fleet: Fleet, variant: Variant, wanted: Record) -> None:
        count = wanted.get("DesiredInstanceCount")
        if count is not None and variant.serverless:
            raise AwsError(
                "ValidationException", f"Variant {variant.name} is serverless and has no instance count."
            )
        if count == 0 and not fleet.config.get("AsyncInferenceConfig"):
            raise AwsError(
                "ValidationException",
                f"DesiredInstanceCount of variant {variant.name} must be at least 1: only asynchronous "
                f"endpoints scale to zero (endpoint {record['EndpointName']}).",
            )
        if wanted.get("ServerlessUpdateConfig"):
            raise AwsError(
                "NotImplemented", "ServerlessUpdateConfig is not implemented in the local cloud", 501
            )

    def _show_wanted(self, record: Record, changes: list[tuple[Variant, Record]]) -> None:
        wanted = {variant.name: change for variant, change in changes}
        for member in ("ProductionVariants", "ShadowProductionVariants"):
            for shown in record.get(member) or []:
                change = wanted.get(shown["VariantName"], {})
                for key in ("DesiredWeight", "DesiredInstanceCount"):
                    if change.get(key) is not None:
                        shown[key] = change[key]

    def _change_capacity(self, record: Record, fleet: Fleet, changes: list[tuple[Variant, Record]]) -> None:
        """Change weights and instances; when an instance cannot start, all is as it was."""
        before = [(v, v.weight, v.count) for v, _ in changes]
        self.cloud.pause(30)
        try:
            for variant, wanted in changes:
                if wanted.get("DesiredInstanceCount") is not None:
                    variant.scale(wanted["DesiredInstanceCount"])
                if wanted.get("DesiredWeight") is not None:
                    variant.weight = wanted["DesiredWeight"]
        except Exception as error:
            self.endpoint_status(record, "RollingBack")
            for variant, weight, count in before:
                variant.weight = weight
                variant.scale(count)
            self.show_fleet(record, fleet)
            self.endpoint_status(record, "InService", FailureReason=self._endpoint_reason(error))
            return
        self.show_fleet(record, fleet)
        self.endpoint_status(record, "InService")

    def _idle_endpoint(self, name: str) -> Record:
        record = self.endpoints.get(name)
        if record["EndpointStatus"] in _BUSY:
            raise AwsError(
                "ValidationException", f'Cannot update in-progress endpoint "{record["EndpointArn"]}".'
            )
        return record

    def serving_config(self, name: str) -> Record:
        """The configuration that an endpoint serves. Raises AwsError while it serves none."""
        fleets = self.fleets.get(self.endpoints.get(name)["EndpointArn"]) or []
        if not fleets:
            raise AwsError("ValidationException", f'Endpoint "{self.endpoints.arn(name)}" is not in service.')
        return fleets[0].config

    # -- invocations -----------------------------------------------------------------------------------------
    def enter(
        self, name: str, target: str | None = None, asynchronous: bool = False
    ) -> tuple[Record, Fleet, Variant]:
        """The endpoint, fleet and variant that take a request, counted as under way there.

        Whoever enters leaves the variant. Raises AwsError in the runtime's words.
        """
        record = self.endpoints.find(name)
        account = self.cloud.account
        if record is None:
            raise AwsError("ValidationError", f"Endpoint {name} of account {account} not found.")
        with self.routing:
            fleets = self.fleets.get(record["EndpointArn"]) or []
            if not fleets or record["EndpointStatus"] in ("Creating", "Failed", "Deleting"):
                raise AwsError(
                    "ValidationError",
                    f"Endpoint {name} of account {account} is not in service "
                    f"(status {record['EndpointStatus']}).",
                )
            if bool(fleets[0].config.get("AsyncInferenceConfig")) != asynchronous:
                kind, call = ("a real-time", "") if asynchronous else ("an asynchronous", "Async")
                raise AwsError(
                    "ValidationError",
                    f"Endpoint {name} of account {account} is {kind} endpoint: call InvokeEndpoint{call}.",
                )
            shares = [f.share for f in fleets]
            fleet = random.choices(fleets, shares)[0] if len(fleets) > 1 else fleets[0]
            variant = fleet.variants.get(target) if target else fleet.choose()
            if variant is None:
                raise AwsError("ValidationError", f"Variant {target} not found for Request. endpoint={name}")
            variant.enter()
        return record, fleet, variant

    def backlog(self, name: str) -> Backlog:
        """The queue of an asynchronous endpoint. Raises AwsError in the runtime's words."""
        _, _, variant = self.enter(name, asynchronous=True)
        variant.leave()
        return self.backlogs.of(self.endpoints.get(name))


# -- CloudFormation ---
class EndpointResource(NamedByArn):
    """AWS::SageMaker::Endpoint: complete when it is in service, failed with the endpoint's own reason."""

    type_name, noun, name_property = "AWS::SageMaker::Endpoint", "Endpoint", "EndpointName"
    create_call, delete_call, id_parameter = "create_endpoint", "delete_endpoint", "EndpointName"
    drop = ("RetainAllVariantProperties", "ExcludeRetainedVariantProperties", "RetainDeploymentConfig")

    def create(self, context: Context, props: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        arn, attributes = super().create(context, props)
        found = self._wait(context, attributes["EndpointName"])
        if found["EndpointStatus"] != "InService":
            self.delete(context, arn, props)
            raise RuntimeError(f"{found.get('FailureReason')} (endpoint {attributes['EndpointName']})")
        return arn, attributes

    def update(self, context: Context, physical_id: str, old: dict, new: dict) -> dict[str, Any]:
        retag(context, physical_id, old, new)
        if _name_of(old.get("EndpointConfigName")) == _name_of(new["EndpointConfigName"]):
            return {}
        name = physical_id.rpartition("/")[2]
        request = {k: v for k, v in new.items() if k != "Tags"} | {"EndpointName": name}
        request["EndpointConfigName"] = _name_of(new["EndpointConfigName"])
        context.client(self.service).update_endpoint(**typed(self.service, "update_endpoint", request))
        found = self._wait(context, name)
        if (
            found["EndpointConfigName"] != request["EndpointConfigName"]
            or found["EndpointStatus"] != "InService"
        ):
            raise RuntimeError(f"{found.get('FailureReason')} (endpoint {name})")
        return {}

    def delete(self, context: Context, physical_id: str, props: dict[str, Any]) -> None:
        name = physical_id.rpartition("/")[2]
        try:
            self._wait(context, name)
        except ClientError:
            return  # gone
        super().delete(context, physical_id, props)

    @staticmethod
    def _wait(context: Context, name: str) -> dict[str, Any]:
        client = context.client("sagemaker")
        return context.cloud.wait_until(
            lambda: (
                (found := client.describe_endpoint(EndpointName=name))["EndpointStatus"] not in _BUSY
                and found
            ),
            1800,
            0.2,
        )


def _name_of(name_or_arn: str | None) -> str:
    """``Ref`` of an endpoint configuration is its ARN; CloudFormation hands the API what it takes."""
    return (name_or_arn or "").rpartition("/")[2]


TYPES = [EndpointResource]
