"""Deployments of endpoints: a new fleet beside the old one, the shift of the traffic, alarms, the way back.

https://docs.aws.amazon.com/sagemaker/latest/dg/deployment-guardrails.html
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from typing import Any

from localaws import clock
from localaws.cloud import Cloud
from localaws.errors import AwsError
from localaws.hooks import alarms
from localaws.services.sagemaker.capture import Recorder
from localaws.services.sagemaker.fleets import Fleet, Variant
from localaws.services.sagemaker.hosting import ServerFailed
from localaws.services.sagemaker.job_base import PRINCIPAL, JobBase
from localaws.services.sagemaker.records import Collection, Record

_EVENT_STATUS = {
    "InService": "IN_SERVICE",
    "OutOfService": "OUT_OF_SERVICE",
    "RollingBack": "ROLLING_BACK",
    "SystemUpdating": "SYSTEM_UPDATING",
    "UpdateRollbackFailed": "UPDATE_ROLLBACK_FAILED",
}
#: seconds between two looks at the alarms
_LOOK = 30


class RolledBack(RuntimeError):
    """A deployment was taken back; the message becomes the endpoint's FailureReason."""


class DeploymentsMixin(JobBase):
    """Fleets of endpoints and how one follows another."""

    models: Collection  # of ModelsMixin
    endpoints: Collection  # of EndpointsMixin

    def __init__(self, cloud: Cloud) -> None:
        super().__init__(cloud)
        self.fleets: dict[str, list[Fleet]] = {}  # by the endpoint's ARN: the old one, the new one
        self.routing = threading.Lock()  # where fleets and shares change, and where a request is routed
        self.recorder = Recorder(self)

    # -- what AWS checks before it begins --------------------------------------------------------------------
    def check_deployment(self, deployment: Record | None, config: Record, old: Record) -> None:
        """Refuse a deployment configuration that AWS refuses for a change from ``old``.

        https://docs.aws.amazon.com/sagemaker/latest/dg/deployment-guardrails-exclusions.html
        """
        if not deployment:
            return
        names, before = ({v["VariantName"] for v in c["ProductionVariants"]} for c in (config, old))
        if names != before:
            raise _invalid(
                f"With DeploymentConfig the variants keep their names: {', '.join(sorted(before))} became "
                f"{', '.join(sorted(names))}."
            )
        if any(str(v.get("InstanceType")).startswith("ml.inf1.") for v in config["ProductionVariants"]):
            raise _invalid("DeploymentConfig is not supported for Inf1 instances.")
        if any(v.get("ServerlessConfig") for v in config["ProductionVariants"]):
            raise _invalid("DeploymentConfig is not supported for serverless endpoints.")
        policy, rolling = (deployment.get(k) for k in ("BlueGreenUpdatePolicy", "RollingUpdatePolicy"))
        if policy and rolling:
            raise _invalid("BlueGreenUpdatePolicy and RollingUpdatePolicy exclude one another.")
        if rolling and len(names) > 1:
            raise _invalid("RollingUpdatePolicy is not supported for several production variants.")
        self._check_alarms(_alarms(deployment), config)
        for variant in config["ProductionVariants"]:
            count = int(variant.get("InitialInstanceCount") or 1)
            if rolling:
                _check_size("MaximumBatchSize", rolling["MaximumBatchSize"], 5, 50, count)
                if rolling.get("RollbackMaximumBatchSize"):
                    size = rolling["RollbackMaximumBatchSize"]
                    _check_size("RollbackMaximumBatchSize", size, 5, 100, count)
            routing = (policy or {}).get("TrafficRoutingConfiguration") or {}
            name, least = {"CANARY": ("CanarySize", 1), "LINEAR": ("LinearStepSize", 10)}.get(
                routing.get("Type", ""), ("", 0)
            )
            if name and not routing.get(name):
                raise _invalid(f"{name} is required for traffic routing type {routing['Type']}.")
            if name:
                _check_size(name, routing[name], least, 50, count)
        limit = (policy or rolling or {}).get("MaximumExecutionTimeoutInSeconds")
        wait = ((policy or {}).get("TrafficRoutingConfiguration") or {}).get("WaitIntervalInSeconds", 0)
        waits = wait + (policy or {}).get("TerminationWaitInSeconds", 0)
        if policy and limit and limit <= waits:
            raise _invalid(
                f"MaximumExecutionTimeoutInSeconds ({limit}) must be greater than the total of "
                f"TerminationWaitInSeconds and WaitIntervalInSeconds ({waits})."
            )

    def _check_alarms(self, names: list[str], config: Record) -> None:
        """The alarms must be there, and the execution role must be allowed to read them.

        https://docs.aws.amazon.com/sagemaker/latest/dg/deployment-guardrails-configuration.html
        """
        if not names:
            return
        model = self.models.get(config["ProductionVariants"][0]["ModelName"])
        role = model["ExecutionRoleArn"]
        watch = self.cloud.client("cloudwatch", role=role, principal=PRINCIPAL, session="SageMaker")
        try:
            found = _describe(watch, names)
        except watch.exceptions.ClientError as error:
            if error.response["Error"]["Code"] not in ("AccessDenied", "AccessDeniedException"):
                raise
            raise _invalid(
                f"The execution role {role} must be allowed cloudwatch:DescribeAlarms on the alarms of "
                f"AutoRollbackConfiguration: {error.response['Error']['Message']}"
            ) from error
        missing = sorted(set(names) - {a["AlarmName"] for a in found})
        if missing:
            raise _invalid(
                f"Could not find CloudWatch alarms {', '.join(missing)} of AutoRollbackConfiguration."
            )

    # -- statuses, events ------------------------------------------------------------------------------------
    def endpoint_status(self, record: Record, status: str, **more: Any) -> None:
        """Set an endpoint's status, and tell of it."""
        self.endpoints.change(record, EndpointStatus=status, **more)
        self.endpoint_event(record)

    def endpoint_event(self, record: Record) -> None:
        """Tell of an endpoint's status."""
        status = record["EndpointStatus"]
        self.state_event(
            "SageMaker Endpoint State Change",
            "DescribeEndpoint",
            record,
            record["EndpointArn"],
            EndpointStatus=_EVENT_STATUS.get(status, status.upper()),
        )

    def show_fleet(self, record: Record, fleet: Fleet) -> None:
        """Let Describe answer what the serving fleet is."""
        shadow = [_summary(fleet.shadow)] if fleet.shadow else None
        capture, summary = fleet.config.get("DataCaptureConfig"), None
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
            ProductionVariants=[_summary(v) for v in fleet.variants.values()],
            ShadowProductionVariants=shadow,
            DataCaptureConfig=summary,
            AsyncInferenceConfig=fleet.config.get("AsyncInferenceConfig"),
            EndpointConfigName=fleet.config["EndpointConfigName"],
        )

    def _show_pending(self, record: Record, fleet: Fleet | None, status: str = "", config: str = "") -> None:
        """Let Describe answer which deployment is under way, and how far; None when it is over."""
        if fleet is None and not config:
            self.endpoints.change(record, PendingDeploymentSummary=None)
            return
        stages = [{"Status": status, "StartTime": clock.now()}]
        shown = [{**_summary(v), "VariantStatus": stages} for v in fleet.variants.values()] if fleet else []
        old = record.get("PendingDeploymentSummary") or {}
        summary = {
            "EndpointConfigName": config or (fleet.config["EndpointConfigName"] if fleet else ""),
            "ProductionVariants": shown,
            "StartTime": old.get("StartTime") or clock.now(),
        }
        self.endpoints.change(record, PendingDeploymentSummary=summary)

    # -- deployments -----------------------------------------------------------------------------------------
    def serving_fleet(self, record: Record) -> Fleet:
        """The fleet that Describe tells of."""
        return self.fleets[record["EndpointArn"]][0]

    def _set_fleets(self, record: Record, *fleets: Fleet) -> None:
        with self.routing:
            self.fleets[record["EndpointArn"]] = list(fleets)

    def _share(self, blue: Fleet, green: Fleet, share: float) -> None:
        with self.routing:
            green.share, blue.share = share, 1.0 - share

    def first_deployment(self, record: Record, config: Record) -> None:
        """Bring a new endpoint into service, or fail."""
        self.cloud.pause(120)
        try:
            fleet = Fleet(self, record["EndpointName"], config)
            fleet.start()
        except Exception as error:
            self.endpoint_status(record, "Failed", FailureReason=self._endpoint_reason(error))
            return
        self._set_fleets(record, fleet)
        self.show_fleet(record, fleet)
        self.endpoint_status(record, "InService")

    def _endpoint_reason(self, error: Exception) -> str:
        if isinstance(error, ServerFailed | RolledBack):
            return str(error)[:1024]
        if not self.cloud.stopping:
            self.cloud.log.error("endpoint: %s", error, exc_info=error)
        return self.reason_of(error)[:1024]

    def next_deployment(
        self, record: Record, config: Record, deployment: Record | None, params: Record
    ) -> None:
        """Start the new fleet, shift the traffic, end the old fleet; a failure keeps the old one."""
        blue = self.serving_fleet(record)
        green: Fleet | None = None
        self._show_pending(record, None, "Creating", config["EndpointConfigName"])
        try:
            self._look(
                _alarms(deployment)
            )  # an alarm that is on already ends the deployment before it begins
            self.cloud.pause(120)
            green = Fleet(self, record["EndpointName"], config)
            if params.get("RetainAllVariantProperties"):
                _retain(
                    blue,
                    green,
                    {p["VariantPropertyType"] for p in params.get("ExcludeRetainedVariantProperties") or []},
                )
            green.start()
            green.share = 0.0
            self._set_fleets(record, blue, green)
            self._shift_traffic(record, blue, green, deployment or {})
        except Exception as error:
            if green:
                self.endpoint_status(record, "RollingBack")
                self._shift_back(blue, green, deployment or {})
            self._set_fleets(record, blue)
            if green:
                green.retire()
            self._show_pending(record, None)
            self.endpoint_status(record, "InService", FailureReason=self._endpoint_reason(error))
            return
        self._set_fleets(record, green)
        self.show_fleet(record, green)
        blue.retire()
        self._show_pending(record, None)
        record["_deployment"] = deployment
        self.endpoint_status(record, "InService", LastDeploymentConfig=deployment)

    def _shift_traffic(self, record: Record, blue: Fleet, green: Fleet, deployment: Record) -> None:
        """Move the traffic in steps, watching the alarms after each. Raises RolledBack."""
        names = _alarms(deployment)
        policy = deployment.get("BlueGreenUpdatePolicy") or deployment.get("RollingUpdatePolicy") or {}
        left = float(policy.get("MaximumExecutionTimeoutInSeconds") or math.inf)
        with alarms.hurried(self.cloud, names):
            for share, wait in steps(deployment, green.instances):
                self._show_pending(record, green, "ActivatingTraffic")
                self._share(blue, green, share)
                self._show_pending(record, green, "Baking")
                left = self._bake(names, wait, left)
            self._bake(names, policy.get("TerminationWaitInSeconds", 0), left)

    def _bake(self, names: list[str], seconds: float, left: float) -> float:
        """Let a baking period pass, looking at the alarms; what is left of the deployment's time.

        Raises RolledBack.
        """
        waited = 0.0
        while True:
            self._look(names)
            if waited >= seconds or self.cloud.stopping:
                return left
            step = min(_LOOK, seconds - waited)
            if step > left:
                raise RolledBack(
                    "Auto rollback is triggered because the deployment exceeded "
                    "MaximumExecutionTimeoutInSeconds."
                )
            self.cloud.pause(step)
            waited, left = waited + step, left - step

    def _look(self, names: list[str]) -> None:
        """Read the alarms' states. Raises RolledBack when one is in ALARM."""
        if not names:
            return
        ringing = [a["AlarmName"] for a in self._states(names) if a["StateValue"] == "ALARM"]
        if not ringing:
            self.recorder.flush()  # evaluates them on what came until now
            ringing = [a["AlarmName"] for a in self._states(names) if a["StateValue"] == "ALARM"]
        if ringing:
            raise RolledBack(
                "Auto rollback is triggered because one or more configured alarms in deployment "
                f"configuration is in ALARM state: {', '.join(ringing)}"
            )

    def _states(self, names: list[str]) -> list[Record]:
        return _describe(self.cloud.client("cloudwatch"), names)

    def _shift_back(self, blue: Fleet, green: Fleet, deployment: Record) -> None:
        """Return the traffic to the old fleet: at once, or in the batches of a rolling deployment."""
        rolling = deployment.get("RollingUpdatePolicy") or {}
        size = rolling.get("RollbackMaximumBatchSize")
        part = _part(size, green.instances) if size else 1.0
        while green.share > part + 1e-9 and not self.cloud.stopping:
            self._share(blue, green, green.share - part)
            self.cloud.pause(rolling.get("WaitIntervalInSeconds", 0))
        self._share(blue, green, 0.0)


def _describe(client: Any, names: list[str]) -> list[Record]:
    found = client.describe_alarms(AlarmNames=names, AlarmTypes=["MetricAlarm", "CompositeAlarm"])
    return [*found["MetricAlarms"], *found["CompositeAlarms"]]


def _alarms(deployment: Record | None) -> list[str]:
    found = ((deployment or {}).get("AutoRollbackConfiguration") or {}).get("Alarms") or []
    return [a["AlarmName"] for a in found]


def _invalid(message: str) -> AwsError:
    return AwsError("ValidationException", message)


def _check_size(name: str, size: Record, least: int, most: int, instances: int) -> None:
    """Refuse a step that is not between ``least`` and ``most`` percent of a variant's instances."""
    value = size["Value"]
    if size["Type"] == "CAPACITY_PERCENT" and not least <= value <= most:
        raise _invalid(f"{name} must be between {least} and {most} percent, found {value}.")
    if size["Type"] == "INSTANCE_COUNT" and value > instances * most / 100:
        raise _invalid(
            f"{name} must be at most {most} percent of the variant's {instances} instances, found {value}."
        )


def _retain(blue: Fleet, green: Fleet, excluded: set[str]) -> None:
    """Give the new fleet what the old one has now; capture is a property of variants, too."""
    for new in green.all:
        old = blue.named(new.name)
        if old is None:
            continue
        if "DesiredWeight" not in excluded:
            new.weight = old.weight
        if "DesiredInstanceCount" not in excluded and not (new.serverless or old.serverless):
            new.count = old.count
    if "DataCaptureConfig" not in excluded:
        green.config = {**green.config, "DataCaptureConfig": blue.config.get("DataCaptureConfig")}


def _summary(variant: Variant) -> Record:
    image = variant.image
    repository = image.uri.partition("@")[0].rpartition(":")[0] if image else ""
    images = [
        {
            "SpecifiedImage": image.uri,
            "ResolvedImage": f"{repository}@{image.digest}",
            "ResolutionTime": clock.now(),
        }
    ]
    shown: Record = {
        "VariantName": variant.name,
        "CurrentWeight": variant.weight,
        "DesiredWeight": variant.weight,
        "DeployedImages": images if image else [],
    }
    if variant.serverless:
        return shown | {
            "CurrentServerlessConfig": variant.serverless,
            "DesiredServerlessConfig": variant.serverless,
        }
    routing = {"RoutingConfig": variant.row["RoutingConfig"]} if variant.row.get("RoutingConfig") else {}
    return shown | {
        "CurrentInstanceCount": variant.count,
        "DesiredInstanceCount": variant.count,
        **routing,
    }


def _part(size: Record, instances: int) -> float:
    part = size["Value"] / 100 if size["Type"] == "CAPACITY_PERCENT" else size["Value"] / max(1, instances)
    return min(max(part, 0.01), 1.0)


def steps(deployment: Record, instances: int) -> Iterator[tuple[float, float]]:
    """The shares of the traffic that the new fleet gets, and the seconds of the baking period after each.

    A rolling deployment shifts like a linear one; here all its instances are there from the first batch on.
    """
    routing = (deployment.get("BlueGreenUpdatePolicy") or {}).get("TrafficRoutingConfiguration") or {}
    kind, wait = routing.get("Type", "ALL_AT_ONCE"), routing.get("WaitIntervalInSeconds", 0)
    rolling = deployment.get("RollingUpdatePolicy")
    size = routing.get({"CANARY": "CanarySize", "LINEAR": "LinearStepSize"}.get(kind, ""))
    if rolling:
        kind, wait, size = "LINEAR", rolling["WaitIntervalInSeconds"], rolling["MaximumBatchSize"]
    if kind == "ALL_AT_ONCE" or not size:
        yield 1.0, wait
    elif kind == "CANARY":
        yield _part(size, instances), wait
        yield 1.0, wait
    else:
        part = _part(size, instances)
        for number in range(1, math.ceil(1 / part - 1e-9) + 1):
            yield min(1.0, part * number), wait
