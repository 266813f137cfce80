"""Endpoint configurations and endpoints."""

from __future__ import annotations

import random
import uuid
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError

from localaws import clock
from localaws.cloud import Cloud
from localaws.errors import AwsError
from localaws.resource import Context, typed
from localaws.services.sagemaker.capture import Recorder
from localaws.services.sagemaker.hosting import Server, ServerFailed
from localaws.services.sagemaker.job_base import JobBase
from localaws.services.sagemaker.models import NamedByArn, retag
from localaws.services.sagemaker.records import Collection, Record

LOGS = "/aws/sagemaker/Endpoints"
_BUSY = ("Creating", "Updating", "SystemUpdating", "RollingBack", "Deleting")
_EVENT_STATUS = {
    "InService": "IN_SERVICE",
    "OutOfService": "OUT_OF_SERVICE",
    "RollingBack": "ROLLING_BACK",
    "SystemUpdating": "SYSTEM_UPDATING",
    "UpdateRollbackFailed": "UPDATE_ROLLBACK_FAILED",
}


class RolledBack(RuntimeError):
    """A deployment was taken back; the message becomes the endpoint's FailureReason."""


@dataclass
class Fleet:
    """The servers of one endpoint configuration, by variant, and the share of the traffic that they get."""

    config: Record
    servers: dict[str, Server] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    share: float = 1.0

    def retire(self) -> None:
        """End all servers once they have answered what is under way (the traffic has moved away)."""
        for server in self.servers.values():
            server.drain()
        self.stop()

    def stop(self) -> None:
        """End all servers."""
        for server in self.servers.values():
            server.stop()


class EndpointsMixin(JobBase):
    """Endpoint configurations and endpoints."""

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
        self.endpoints = Collection(
            self,
            "Endpoint",
            "endpoint",
            duplicate=("ValidationException", 'Cannot create already existing endpoint "{arn}".'),
            missing=("ValidationException", 'Could not find endpoint "{arn}".'),
        )
        self.fleets: dict[str, list[Fleet]] = {}
        self.recorder = Recorder(self)

    # -- configurations --------------------------------------------------------------------------------------
    def create_endpoint_config(self, params: Record) -> Record:
        for member in ("ShadowProductionVariants", "AsyncInferenceConfig", "ExplainerConfig"):
            if params.get(member):
                raise AwsError(
                    "NotImplemented",
                    f"{member}: the local cloud serves real-time production variants only",
                    501,
                )
        names = [v["VariantName"] for v in params["ProductionVariants"]]
        if len(set(names)) < len(names):
            raise AwsError("ValidationException", f"Variant names must be unique, found {', '.join(names)}")
        for variant in params["ProductionVariants"]:
            if not variant.get("ModelName"):
                raise AwsError(
                    "NotImplemented", "the local cloud serves models, not inference components", 501
                )
            self.models.get(variant["ModelName"])
            serverless = variant.get("ServerlessConfig")
            if not serverless and not (variant.get("InstanceType") and variant.get("InitialInstanceCount")):
                raise AwsError(
                    "ValidationException",
                    f"Variant {variant['VariantName']}: InstanceType and InitialInstanceCount are required",
                )
            if serverless and (params.get("DataCaptureConfig") or params.get("VpcConfig")):
                raise AwsError(
                    "ValidationException",
                    "DataCaptureConfig and VpcConfig are not supported for serverless endpoints.",
                )
        self.check_network(params.get("VpcConfig"))
        capture = params.get("DataCaptureConfig")
        if capture and not capture["DestinationS3Uri"].startswith("s3://"):
            raise AwsError(
                "ValidationException", f"DestinationS3Uri {capture['DestinationS3Uri']} is not an S3 URI"
            )
        record = self.endpoint_configs.add(params["EndpointConfigName"], params)
        return {"EndpointConfigArn": record["EndpointConfigArn"]}

    def describe_endpoint_config(self, params: Record) -> Record:
        return self.endpoint_configs.get(params["EndpointConfigName"])

    def list_endpoint_configs(self, params: Record) -> Record:
        return self.endpoint_configs.listing(params, "EndpointConfigs")

    def delete_endpoint_config(self, params: Record) -> Record:
        self.endpoint_configs.remove(params["EndpointConfigName"])
        return {}

    # -- endpoints -------------------------------------------------------------------------------------------
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
        self._endpoint_event(record)
        self.cloud.spawn(
            self._first_deployment, record, dict(config), name=f"endpoint-{record['EndpointName']}"
        )
        return {"EndpointArn": record["EndpointArn"]}

    def describe_endpoint(self, params: Record) -> Record:
        return self.endpoints.get(params["EndpointName"])

    def list_endpoints(self, params: Record) -> Record:
        return self.endpoints.listing(params, "Endpoints")

    def delete_endpoint(self, params: Record) -> Record:
        record = self._idle_endpoint(params["EndpointName"])
        self._endpoint_status(record, "Deleting")
        for fleet in self.fleets.pop(record["EndpointArn"], []):
            fleet.stop()
        self.endpoints.remove(params["EndpointName"])
        return {}

    def update_endpoint(self, params: Record) -> Record:
        with self.lock:
            record = self._idle_endpoint(params["EndpointName"])
            if record["EndpointStatus"] == "Failed":
                raise AwsError(
                    "ValidationException", f'Cannot update failed endpoint "{record["EndpointArn"]}".'
                )
            config = self.endpoint_configs.get(params["EndpointConfigName"])
            deployment = params.get("DeploymentConfig") or (
                record.get("_deployment") if params.get("RetainDeploymentConfig") else None
            )
            self._check_deployment(deployment, config)
            self.endpoints.change(record, EndpointStatus="Updating", FailureReason=None)
        self._endpoint_event(record)
        self.cloud.spawn(
            self._next_deployment,
            record,
            dict(config),
            deployment,
            params,
            name=f"endpoint-{record['EndpointName']}",
        )
        return {"EndpointArn": record["EndpointArn"]}

    def update_endpoint_weights_and_capacities(self, params: Record) -> Record:
        with self.lock:
            record = self._idle_endpoint(params["EndpointName"])
            fleet = self._serving_fleet(record)
            for wanted in params["DesiredWeightsAndCapacities"]:
                if wanted["VariantName"] not in fleet.servers:
                    raise AwsError(
                        "ValidationException",
                        f"Variant {wanted['VariantName']} not found for endpoint {record['EndpointName']}",
                    )
            self.endpoints.change(record, EndpointStatus="Updating")
        self._endpoint_event(record)

        def apply() -> None:
            self.cloud.pause(30)
            for wanted in params["DesiredWeightsAndCapacities"]:
                if wanted.get("DesiredWeight") is not None:
                    fleet.weights[wanted["VariantName"]] = wanted["DesiredWeight"]
                if wanted.get("DesiredInstanceCount") is not None:
                    fleet.counts[wanted["VariantName"]] = wanted["DesiredInstanceCount"]
            self._show_fleet(record, fleet)
            self._endpoint_status(record, "InService")

        self.cloud.spawn(apply, name=f"endpoint-{record['EndpointName']}")
        return {"EndpointArn": record["EndpointArn"]}

    def _idle_endpoint(self, name: str) -> Record:
        record = self.endpoints.get(name)
        if record["EndpointStatus"] in _BUSY:
            raise AwsError(
                "ValidationException", f'Cannot update in-progress endpoint "{record["EndpointArn"]}".'
            )
        return record

    def _check_deployment(self, deployment: Record | None, config: Record) -> None:
        if not deployment:
            return
        if deployment.get("BlueGreenUpdatePolicy") and deployment.get("RollingUpdatePolicy"):
            raise AwsError(
                "ValidationException", "BlueGreenUpdatePolicy and RollingUpdatePolicy exclude one another."
            )
        names = [
            a["AlarmName"] for a in (deployment.get("AutoRollbackConfiguration") or {}).get("Alarms") or []
        ]
        if names:
            found = self.cloud.client("cloudwatch").describe_alarms(AlarmNames=names)["MetricAlarms"]
            missing = sorted(set(names) - {a["AlarmName"] for a in found})
            if missing:
                raise AwsError(
                    "ValidationException",
                    f"Could not find CloudWatch alarms {', '.join(missing)} of AutoRollbackConfiguration.",
                )
        routing = (deployment.get("BlueGreenUpdatePolicy") or {}).get("TrafficRoutingConfiguration") or {}
        size = {"CANARY": "CanarySize", "LINEAR": "LinearStepSize"}.get(routing.get("Type", ""))
        if size and not routing.get(size):
            raise AwsError(
                "ValidationException", f"{size} is required for traffic routing type {routing['Type']}."
            )
        if size and routing[size]["Type"] == "CAPACITY_PERCENT" and not 1 <= routing[size]["Value"] <= 50:
            raise AwsError(
                "ValidationException",
                f"{size} must be between 1 and 50 percent, found {routing[size]['Value']}.",
            )

    # -- statuses, events ------------------------------------------------------------------------------------
    def _endpoint_status(self, record: Record, status: str, **more: Any) -> None:
        self.endpoints.change(record, EndpointStatus=status, **more)
        self._endpoint_event(record)

    def _endpoint_event(self, record: Record) -> None:
        status = record["EndpointStatus"]
        self.state_event(
            "SageMaker Endpoint State Change",
            "DescribeEndpoint",
            record,
            record["EndpointArn"],
            EndpointStatus=_EVENT_STATUS.get(status, status.upper()),
        )

    def _show_fleet(self, record: Record, fleet: Fleet) -> None:
        """Let Describe answer what the serving fleet is."""
        stamp = clock.now()
        variants = []
        for variant in fleet.config["ProductionVariants"]:
            name = variant["VariantName"]
            image = fleet.servers[name].image
            repository = image.uri.partition("@")[0].rpartition(":")[0] if image else ""
            shown = {
                "VariantName": name,
                "CurrentWeight": fleet.weights[name],
                "DesiredWeight": fleet.weights[name],
                "DeployedImages": [
                    {
                        "SpecifiedImage": image.uri,
                        "ResolvedImage": f"{repository}@{image.digest}",
                        "ResolutionTime": stamp,
                    }
                ],
            }
            if variant.get("ServerlessConfig"):
                shown |= {
                    "CurrentServerlessConfig": variant["ServerlessConfig"],
                    "DesiredServerlessConfig": variant["ServerlessConfig"],
                }
            else:
                shown |= {
                    "CurrentInstanceCount": fleet.counts[name],
                    "DesiredInstanceCount": fleet.counts[name],
                }
            variants.append(shown)
        capture = fleet.config.get("DataCaptureConfig")
        summary = None
        if capture:
            summary = {
                "EnableCapture": capture.get("EnableCapture", False),
                "DestinationS3Uri": capture["DestinationS3Uri"],
                "CaptureStatus": "Started" if capture.get("EnableCapture") else "Stopped",
                "CurrentSamplingPercentage": capture["InitialSamplingPercentage"],
                "KmsKeyId": capture.get("KmsKeyId") or "",
            }
        self.endpoints.change(
            record,
            ProductionVariants=variants,
            DataCaptureConfig=summary,
            EndpointConfigName=fleet.config["EndpointConfigName"],
        )

    # -- deployments -----------------------------------------------------------------------------------------
    def serving_config(self, name: str) -> Record:
        """The configuration that an endpoint serves."""
        fleets = self.fleets.get(self.endpoints.get(name)["EndpointArn"]) or []
        if not fleets:
            raise AwsError("ValidationException", f'Endpoint "{self.endpoints.arn(name)}" is not in service.')
        return fleets[0].config

    def _serving_fleet(self, record: Record) -> Fleet:
        return self.fleets[record["EndpointArn"]][0]

    def _start_fleet(self, record: Record, config: Record) -> Fleet:
        """Servers for every variant, started and healthy. Raises ServerFailed, with nothing left running."""
        fleet = Fleet(config)
        try:
            for variant in config["ProductionVariants"]:
                name = variant["VariantName"]
                model = self.models.find(variant["ModelName"])
                if model is None:
                    raise ServerFailed(f'Could not find model "{self.models.arn(variant["ModelName"])}".')
                stream = f"{name}/i-{uuid.uuid4().hex[:17]}"
                server = Server(
                    self,
                    model["_container"],
                    model["ExecutionRoleArn"],
                    f"primary container for production variant {name}",
                    (f"{LOGS}/{record['EndpointName']}", stream),
                    model,
                )
                fleet.servers[name] = server
                fleet.weights[name] = variant.get("InitialVariantWeight", 1.0)
                fleet.counts[name] = variant.get("InitialInstanceCount") or 1
                server.start(variant.get("ContainerStartupHealthCheckTimeoutInSeconds"))
        except BaseException:
            fleet.stop()
            raise
        return fleet

    def _first_deployment(self, record: Record, config: Record) -> None:
        self.cloud.pause(120)
        try:
            fleet = self._start_fleet(record, config)
        except Exception as error:
            self._endpoint_status(record, "Failed", FailureReason=self._endpoint_reason(error))
            return
        self.fleets[record["EndpointArn"]] = [fleet]
        self._show_fleet(record, fleet)
        self._endpoint_status(record, "InService")

    def _endpoint_reason(self, error: Exception) -> str:
        if isinstance(error, ServerFailed | RolledBack):
            return str(error)[:1024]
        if not self.cloud.stopping:
            self.cloud.log.error("endpoint: %s", error, exc_info=error)
        return self.reason_of(error)[:1024]

    def _next_deployment(
        self, record: Record, config: Record, deployment: Record | None, params: Record
    ) -> None:
        """Start the new fleet, shift the traffic, end the old fleet; a failure keeps the old one."""
        arn = record["EndpointArn"]
        blue = self._serving_fleet(record)
        green = None
        try:
            self.cloud.pause(120)
            green = self._start_fleet(record, config)
            if params.get("RetainAllVariantProperties"):
                _retain(
                    blue,
                    green,
                    {p["VariantPropertyType"] for p in params.get("ExcludeRetainedVariantProperties") or []},
                )
            green.share = 0.0
            self.fleets[arn] = [blue, green]
            self._shift_traffic(blue, green, deployment or {})
        except Exception as error:
            blue.share = 1.0
            self.fleets[arn] = [blue]
            if green:
                self._endpoint_status(record, "RollingBack")
                green.retire()
            self._endpoint_status(record, "InService", FailureReason=self._endpoint_reason(error))
            return
        self.fleets[arn] = [green]
        self._show_fleet(record, green)
        record["_deployment"] = deployment
        self._endpoint_status(record, "InService", LastDeploymentConfig=deployment)
        blue.retire()

    def _shift_traffic(self, blue: Fleet, green: Fleet, deployment: Record) -> None:
        """Move the traffic in steps, watching the alarms after each. Raises RolledBack."""
        alarms = [
            a["AlarmName"] for a in (deployment.get("AutoRollbackConfiguration") or {}).get("Alarms") or []
        ]
        policy = deployment.get("BlueGreenUpdatePolicy") or {}
        for share, wait in _steps(deployment, sum(green.counts.values())):
            green.share, blue.share = share, 1.0 - share
            self._watch_alarms(alarms, wait)
        self._watch_alarms(alarms, policy.get("TerminationWaitInSeconds", 0))

    def _watch_alarms(self, alarms: list[str], seconds: float) -> None:
        """Let AWS's baking time pass, and at least read the alarms once. Raises RolledBack."""
        left = seconds
        while True:
            if alarms:
                self.recorder.flush()
                found = self.cloud.client("cloudwatch").describe_alarms(AlarmNames=alarms)["MetricAlarms"]
                ringing = [a["AlarmName"] for a in found if a["StateValue"] == "ALARM"]
                if ringing:
                    raise RolledBack(
                        "Auto rollback is triggered because one or more configured alarms in "
                        "deployment configuration is in "
                        f"ALARM state: {', '.join(ringing)}"
                    )
            if left <= 0 or self.cloud.stopping:
                return
            step = min(left, 30)
            self.cloud.pause(step)
            left -= step

    # -- invocations -----------------------------------------------------------------------------------------
    def route(self, name: str, target: str | None) -> tuple[Record, Fleet, str]:
        """The endpoint, fleet and variant that take a request. Raises AwsError in the runtime's words."""
        record = self.endpoints.find(name)
        if record is None:
            raise AwsError("ValidationError", f"Endpoint {name} of account {self.cloud.account} not found.")
        fleets = self.fleets.get(record["EndpointArn"]) or []
        if not fleets or record["EndpointStatus"] in ("Creating", "Failed", "Deleting"):
            raise AwsError(
                "ValidationError",
                f"Endpoint {name} of account {self.cloud.account} is not in service "
                f"(status {record['EndpointStatus']}).",
            )
        fleet = random.choices(fleets, [f.share for f in fleets])[0] if len(fleets) > 1 else fleets[0]
        if target:
            if target not in fleet.servers:
                raise AwsError("ValidationError", f"Variant {target} not found for Request. endpoint={name}")
            return record, fleet, target
        names = list(fleet.servers)
        weights = [fleet.weights[n] for n in names]
        return record, fleet, random.choices(names, weights)[0] if sum(weights) else names[0]

    def revive(self, fleet: Fleet, variant: str) -> None:
        """Start a container that has ended again, in the background."""
        server = fleet.servers[variant]
        with self.lock:
            if server.alive or getattr(server, "reviving", False):
                return
            server.reviving = True  # type: ignore[attr-defined]

        def again() -> None:
            try:
                server.restart()
            except ServerFailed as error:
                self.cloud.log.error("%s", error)
            finally:
                server.reviving = False  # type: ignore[attr-defined]

        self.cloud.spawn(again, name="restart-server")


def _retain(blue: Fleet, green: Fleet, excluded: set[str]) -> None:
    for name in set(blue.servers) & set(green.servers):
        if "DesiredWeight" not in excluded:
            green.weights[name] = blue.weights[name]
        if "DesiredInstanceCount" not in excluded:
            green.counts[name] = blue.counts[name]


def _steps(deployment: Record, instances: int) -> list[tuple[float, float]]:
    """The shares of the traffic that the new fleet gets, and the seconds to wait after each."""
    routing = (deployment.get("BlueGreenUpdatePolicy") or {}).get("TrafficRoutingConfiguration") or {}
    kind, wait = routing.get("Type", "ALL_AT_ONCE"), routing.get("WaitIntervalInSeconds", 0)
    rolling = deployment.get("RollingUpdatePolicy")
    if rolling:
        kind, wait, size = "LINEAR", rolling["WaitIntervalInSeconds"], rolling["MaximumBatchSize"]
    else:
        size = routing.get("CanarySize" if kind == "CANARY" else "LinearStepSize") or {
            "Type": "CAPACITY_PERCENT",
            "Value": 100,
        }
    part = size["Value"] / 100 if size["Type"] == "CAPACITY_PERCENT" else size["Value"] / max(1, instances)
    part = min(max(part, 0.01), 1.0)
    if kind == "CANARY":
        return [(part, wait), (1.0, 0)]
    if kind == "LINEAR":
        count = max(1, round(1 / part + 0.499))
        return [(min(1.0, part * (n + 1)), wait) for n in range(count)]
    return [(1.0, wait)]


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


TYPES = [EndpointConfigResource, EndpointResource]
