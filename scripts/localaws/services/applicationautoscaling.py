"""Application Auto Scaling of SageMaker's endpoint variants: targets, policies, their alarms, what they did.

An alarm of a policy that is in state ALARM comes here with each evaluation (hooks/alarms.py); the new
capacity is set by UpdateEndpointWeightsAndCapacities, as the service-linked role of AWS does.
https://docs.aws.amazon.com/autoscaling/application/userguide/services-that-can-integrate-sagemaker.html
"""

from __future__ import annotations

import math
import re
import threading
import uuid
from typing import Any

from botocore.exceptions import ClientError

from localaws import clock
from localaws.cloud import Cloud
from localaws.errors import AwsError
from localaws.resource import Context, ResourceType, typed
from localaws.service import Service, page

Record = dict[str, Any]
NAMESPACE, DIMENSION = "sagemaker", "sagemaker:variant:DesiredInstanceCount"
PRINCIPAL = "sagemaker.application-autoscaling.amazonaws.com"
ROLE = f"aws-service-role/{PRINCIPAL}/AWSServiceRoleForApplicationAutoScaling_SageMakerEndpoint"
_RESOURCE = re.compile(r"endpoint/([A-Za-z0-9-]+)/variant/([A-Za-z0-9-]+)")
#: instance types that already burst
#: https://docs.aws.amazon.com/sagemaker/latest/dg/endpoint-auto-scaling-prerequisites.html
_BURSTABLE = re.compile(r"ml\.t\d")
#: seconds; https://docs.aws.amazon.com/autoscaling/application/userguide/target-tracking-scaling-policy-overview.html
COOLDOWN = 300
#: minutes above the target before it scales out, minutes below nine tenths of it before it scales in
_HIGH, _LOW, _MARGIN = 3, 15, 0.9


class ApplicationAutoScaling(Service):
    """``application-autoscaling`` for the namespace ``sagemaker``."""

    name = "application-autoscaling"

    def __init__(self, cloud: Cloud) -> None:
        super().__init__(cloud)
        self.lock = threading.RLock()
        self.targets: dict[str, Record] = {}  # by resource id
        self.policies: dict[tuple[str, str], Record] = {}  # by resource id and name
        self.activities: list[Record] = []
        self._tags: dict[str, dict[str, str]] = {}

    # -- targets ---------------------------------------------------------------------------------------------
    def register_scalable_target(self, params: Record) -> Record:
        """Register a variant, or change its limits; a capacity outside of them is brought inside."""
        self._check_kind(params)
        resource = params["ResourceId"]
        old = self.targets.get(resource) or {}
        low, high = (params.get(k, old.get(k)) for k in ("MinCapacity", "MaxCapacity"))
        if low is None or high is None:
            raise AwsError(
                "ValidationException", "MinCapacity and MaxCapacity are required for a new target."
            )
        if low > high:
            raise AwsError(
                "ValidationException", "Maximum capacity cannot be less than minimum capacity for a target."
            )
        summary = self._variant(resource)
        config = self._settings(resource)
        if config.get("ServerlessConfig"):
            raise AwsError(
                "ValidationException",
                f"{resource} is a serverless variant: {DIMENSION} is a dimension of variants with instances.",
            )
        if _BURSTABLE.match(config.get("InstanceType", "")):
            raise AwsError(
                "ValidationException",
                f"Auto scaling is not supported for burstable instance types: variant {resource} has "
                f"{config['InstanceType']}.",
            )
        if low < 1 and not self._asynchronous(resource):
            raise AwsError("ValidationException", "Minimum capacity must be greater than or equal to 1.")
        self._make_role()
        with self.lock:
            arn = old.get("ScalableTargetARN") or self.cloud.arn(
                self.name, f"scalable-target/{uuid.uuid4().hex}{uuid.uuid4().hex[:3]}"
            )
            self.targets[resource] = {
                "ServiceNamespace": NAMESPACE,
                "ResourceId": resource,
                "ScalableDimension": DIMENSION,
                "MinCapacity": low,
                "MaxCapacity": high,
                "RoleARN": f"arn:{self.cloud.partition}:iam::{self.cloud.account}:role/{ROLE}",
                "CreationTime": old.get("CreationTime") or clock.now(),
                "SuspendedState": {
                    "DynamicScalingInSuspended": False,
                    "DynamicScalingOutSuspended": False,
                    "ScheduledScalingSuspended": False,
                    **old.get("SuspendedState", {}),
                    **(params.get("SuspendedState") or {}),
                },
                "ScalableTargetARN": arn,
            }
            self._tags.setdefault(arn, {}).update(params.get("Tags") or {})
        wanted = min(max(summary["DesiredInstanceCount"], low), high)
        if wanted != summary["DesiredInstanceCount"]:
            self.cloud.spawn(
                self._set, resource, wanted, f"minimum capacity was set to {low}", name="scaling-to-limits"
            )
        return {"ScalableTargetARN": arn}

    def deregister_scalable_target(self, params: Record) -> Record:
        """Forget a target, its policies and their alarms."""
        self._check_kind(params)
        target = self._target(params["ResourceId"])
        for _, name in [k for k in self.policies if k[0] == params["ResourceId"]]:
            self.delete_scaling_policy({**params, "PolicyName": name})
        with self.lock:
            del self.targets[params["ResourceId"]]
            self._tags.pop(target["ScalableTargetARN"], None)
        return {}

    def describe_scalable_targets(self, params: Record) -> Record:
        found = [t for t in self.targets.values() if self._asked_for(t, params, params.get("ResourceIds"))]
        items, token = page(found, params, default=50)
        return {"ScalableTargets": items, "NextToken": token}

    # -- policies --------------------------------------------------------------------------------------------
    def put_scaling_policy(self, params: Record) -> Record:
        """Keep a policy; a target tracking policy gets alarms of its own."""
        self._check_kind(params)
        resource, name = params["ResourceId"], params["PolicyName"]
        self._target(resource)
        old = self.policies.get((resource, name)) or {}
        kind = params.get("PolicyType") or old.get("PolicyType") or "StepScaling"
        if old and kind != old["PolicyType"]:
            raise AwsError("ValidationException", f"Policy {name} is of type {old['PolicyType']}.")
        member = {
            "TargetTrackingScaling": "TargetTrackingScalingPolicyConfiguration",
            "StepScaling": "StepScalingPolicyConfiguration",
        }.get(kind)
        if member is None:
            raise AwsError("ValidationException", f"{kind} is not supported for SageMaker.")
        config = params.get(member) or old.get(member)
        if not config:
            raise AwsError("ValidationException", f"{member} is required for policy type {kind}.")
        (self._check_tracking if kind == "TargetTrackingScaling" else _check_steps)(config)
        arn = old.get("PolicyARN") or self.cloud.arn(
            "autoscaling",
            f"scalingPolicy:{uuid.uuid4()}:resource/{NAMESPACE}/{resource}:policyName/{name}",
        )
        record = {
            "PolicyARN": arn,
            "PolicyName": name,
            "ServiceNamespace": NAMESPACE,
            "ResourceId": resource,
            "ScalableDimension": DIMENSION,
            "PolicyType": kind,
            member: config,
            "Alarms": old.get("Alarms", []),
            "CreationTime": old.get("CreationTime") or clock.now(),
        }
        if kind == "TargetTrackingScaling":
            record["Alarms"] = self._put_alarms(record)
        with self.lock:
            self.policies[(resource, name)] = record
        return {"PolicyARN": arn, "Alarms": record["Alarms"]}

    def describe_scaling_policies(self, params: Record) -> Record:
        names = params.get("PolicyNames")
        found = [p for p in self.policies.values() if self._asked_for(p, params)]
        items, token = page([p for p in found if not names or p["PolicyName"] in names], params, default=10)
        return {"ScalingPolicies": items, "NextToken": token}

    def delete_scaling_policy(self, params: Record) -> Record:
        """Forget a policy, with the alarms that were made for it."""
        self._check_kind(params)
        key = (params["ResourceId"], params["PolicyName"])
        policy = self.policies.get(key)
        if policy is None:
            raise AwsError(
                "ObjectNotFoundException",
                f"No scaling policy found for service namespace: {NAMESPACE}, resource ID: {key[0]}, "
                f"scalable dimension: {DIMENSION}, policy name: {key[1]}",
            )
        if policy["PolicyType"] == "TargetTrackingScaling":
            names = [a["AlarmName"] for a in policy["Alarms"]]
            self.cloud.client("cloudwatch").delete_alarms(AlarmNames=names)
        with self.lock:
            self.policies.pop(key, None)
        return {}

    def describe_scaling_activities(self, params: Record) -> Record:
        found = [a for a in reversed(self.activities) if self._asked_for(a, params)]
        items, token = page(found, params, default=50)
        return {"ScalingActivities": items, "NextToken": token}

    # -- tags ------------------------------------------------------------------------------------------------
    def tag_resource(self, params: Record) -> Record:
        tags = self._tags_at(params["ResourceARN"])
        if len({**tags, **params["Tags"]}) > 50:
            raise AwsError("TooManyTagsException", f"{params['ResourceARN']} would have more than 50 tags.")
        tags.update(params["Tags"])
        return {}

    def untag_resource(self, params: Record) -> Record:
        for key in params["TagKeys"]:
            self._tags_at(params["ResourceARN"]).pop(key, None)
        return {}

    def list_tags_for_resource(self, params: Record) -> Record:
        return {"Tags": self._tags_at(params["ResourceARN"])}

    def resource_tags(self, arn: str) -> dict[str, str]:
        """The tags of a target, for conditions of policies."""
        return self._tags.get(arn, {})

    def _tags_at(self, arn: str) -> dict[str, str]:
        if arn not in self._tags:
            raise AwsError("ResourceNotFoundException", f"The resource {arn} does not exist.")
        return self._tags[arn]

    # -- what SageMaker asks ---------------------------------------------------------------------------------
    def targets_of(self, endpoint: str) -> dict[str, Record]:
        """The targets of an endpoint by variant."""
        return {
            resource.rpartition("/")[2]: target
            for resource, target in list(self.targets.items())
            if resource.startswith(f"endpoint/{endpoint}/variant/")
        }

    # -- scaling ---------------------------------------------------------------------------------------------
    def alarm_is_on(self, alarm: Record, value: float) -> None:
        """An alarm with a policy as its action is in ALARM, at ``value``: scale, if no cooldown holds."""
        actions = set(alarm.get("AlarmActions") or [])
        for policy in [p for p in list(self.policies.values()) if p["PolicyARN"] in actions]:
            with self.lock:
                self._apply(policy, alarm, value)

    def _apply(self, policy: Record, alarm: Record, value: float) -> None:
        resource = policy["ResourceId"]
        target = self.targets.get(resource)
        record = self.cloud.services["sagemaker"].endpoints.find(resource.split("/")[1])
        if target is None or record is None or record["EndpointStatus"] != "InService":
            return  # a capacity under change is looked at again with the next evaluation
        now = self._variant(resource)["DesiredInstanceCount"]
        if policy["PolicyType"] == "TargetTrackingScaling":
            config = policy["TargetTrackingScalingPolicyConfiguration"]
            low = "-AlarmLow-" in alarm["AlarmName"]
            wanted = math.ceil(round(now * value / config["TargetValue"], 9))
            wanted = min(wanted, now) if low else max(wanted, now)
            cooldown = config.get("ScaleInCooldown" if low else "ScaleOutCooldown", COOLDOWN)
        else:
            config = policy["StepScalingPolicyConfiguration"]
            change = _step(config, value - float(alarm.get("Threshold") or 0), now)
            if change is None:
                return
            wanted, cooldown = change, config.get("Cooldown", COOLDOWN)
        wanted = min(max(wanted, target["MinCapacity"]), target["MaxCapacity"])
        direction = "in" if wanted < now else "out"
        suspended = target["SuspendedState"][f"DynamicScaling{direction.capitalize()}Suspended"]
        if wanted == now or suspended or self._cooling(resource, direction, cooldown):
            return
        cause = f"monitor alarm {alarm['AlarmName']} in state ALARM triggered policy {policy['PolicyName']}"
        self._set(resource, wanted, cause)

    def _cooling(self, resource: str, direction: str, cooldown: float) -> bool:
        """Whether a change of the same direction is too young; scaling out waits for no scaling in."""
        mine = [a for a in self.activities if a["ResourceId"] == resource and a["StatusCode"] != "Failed"]
        mine = [a for a in mine if " triggered policy " in a["Cause"]]
        blocking = [a for a in mine if direction == "in" or a["_direction"] == "out"]
        if not blocking:
            return False
        last = blocking[-1]
        return last["StatusCode"] == "InProgress" or clock.time() < last["EndTime"].timestamp() + cooldown

    def _set(self, resource: str, count: int, cause: str) -> None:
        """Set the capacity, and keep the activity that says so."""
        _, endpoint, _, variant = resource.split("/")
        now = self._variant(resource)["DesiredInstanceCount"]
        activity: Record = {
            "ActivityId": str(uuid.uuid4()),
            "ServiceNamespace": NAMESPACE,
            "ResourceId": resource,
            "ScalableDimension": DIMENSION,
            "Description": f"Setting desired instance count to {count}.",
            "Cause": cause,
            "StartTime": clock.now(),
            "StatusCode": "InProgress",
            "_direction": "in" if count < now else "out",
        }
        self.activities.append(activity)
        try:
            self.cloud.client("sagemaker").update_endpoint_weights_and_capacities(
                EndpointName=endpoint,
                DesiredWeightsAndCapacities=[{"VariantName": variant, "DesiredInstanceCount": count}],
            )
        except ClientError as error:
            why = error.response["Error"]["Message"]
            activity |= {
                "StatusCode": "Failed",
                "EndTime": clock.now(),
                "StatusMessage": f"Failed to set desired instance count to {count}. Reason: {why}",
            }
            return
        self.cloud.spawn(self._follow, activity, resource, count, name="scaling-activity")

    def _follow(self, activity: Record, resource: str, count: int) -> None:
        def settled() -> Any:
            record = self.cloud.services["sagemaker"].endpoints.find(resource.split("/")[1])
            return record is None or record["EndpointStatus"] not in ("Updating", "RollingBack")

        self.cloud.wait_until(settled, 600)
        try:
            done = self._variant(resource)["CurrentInstanceCount"] == count
        except AwsError:
            done = False
        words = (
            f"Successfully set desired instance count to {count}. Change successfully fulfilled by sagemaker."
        )
        failed = f"Failed to set desired instance count to {count}: the endpoint did not reach it."
        activity |= {
            "StatusCode": "Successful" if done else "Failed",
            "EndTime": clock.now(),
            "StatusMessage": words if done else failed,
        }

    # -- parts -----------------------------------------------------------------------------------------------
    def _check_kind(self, params: Record) -> None:
        namespace, dimension = params["ServiceNamespace"], params.get("ScalableDimension", DIMENSION)
        if namespace == NAMESPACE and dimension == DIMENSION:
            if not _RESOURCE.fullmatch(params["ResourceId"]):
                raise AwsError("ValidationException", f"Unsupported resource ID: {params['ResourceId']}")
            return
        if dimension.split(":")[0] != namespace:
            raise AwsError(
                "ValidationException",
                f"Unsupported service namespace or scalable dimension: {namespace}, {dimension}",
            )
        raise AwsError("NotImplemented", f"the local cloud scales {DIMENSION}, not {dimension}", 501)

    @staticmethod
    def _asked_for(record: Record, params: Record, ids: list[str] | None = None) -> bool:
        wanted = ids or ([params["ResourceId"]] if params.get("ResourceId") else None)
        dimension = params.get("ScalableDimension")
        return (
            record["ServiceNamespace"] == params["ServiceNamespace"]
            and (not wanted or record["ResourceId"] in wanted)
            and (not dimension or record["ScalableDimension"] == dimension)
        )

    def _target(self, resource: str) -> Record:
        found = self.targets.get(resource)
        if found is None:
            raise AwsError(
                "ObjectNotFoundException",
                f"No scalable target registered for service namespace: {NAMESPACE}, resource ID: {resource}, "
                f"scalable dimension: {DIMENSION}",
            )
        return found

    def _variant(self, resource: str) -> Record:
        """What Describe says of the variant. Raises AwsError when there is none."""
        _, endpoint, _, variant = resource.split("/")
        record = self.cloud.services["sagemaker"].endpoints.find(endpoint) or {}
        shown = [*record.get("ProductionVariants", []), *record.get("ShadowProductionVariants", [])]
        found = next((v for v in shown if v["VariantName"] == variant), None)
        if found is None:
            raise AwsError("ValidationException", f"SageMaker endpoint variant doesn't exist: {resource}")
        return {"DesiredInstanceCount": 0, "CurrentInstanceCount": 0, **found}

    def _endpoint_config(self, resource: str) -> Record:
        sagemaker = self.cloud.services["sagemaker"]
        return sagemaker.serving_config(resource.split("/")[1])

    def _settings(self, resource: str) -> Record:
        config, name = self._endpoint_config(resource), resource.rpartition("/")[2]
        rows = [*config["ProductionVariants"], *(config.get("ShadowProductionVariants") or [])]
        return next(v for v in rows if v["VariantName"] == name)

    def _asynchronous(self, resource: str) -> bool:
        return bool(self._endpoint_config(resource).get("AsyncInferenceConfig"))

    def _make_role(self) -> None:
        """The service-linked role, made with the first target; whoever registers that must be allowed to."""
        if not role_exists(self.cloud):
            self.cloud.client("iam").create_service_linked_role(AWSServiceName=PRINCIPAL)

    def _check_tracking(self, config: Record) -> None:
        given = [config.get(k) for k in ("PredefinedMetricSpecification", "CustomizedMetricSpecification")]
        if len([g for g in given if g]) != 1:
            raise AwsError(
                "ValidationException",
                "Exactly one of PredefinedMetricSpecification and CustomizedMetricSpecification is required.",
            )
        if config["TargetValue"] <= 0:
            raise AwsError("ValidationException", "TargetValue must be greater than 0.")
        predefined, custom = given
        if predefined:
            kind = predefined["PredefinedMetricType"]
            if not kind.startswith("SageMaker"):
                raise AwsError(
                    "ValidationException",
                    f"Metric type {kind} is not supported for {DIMENSION}.",
                )
            if kind != "SageMakerVariantInvocationsPerInstance":
                raise AwsError("NotImplemented", f"{kind} is not measured in the local cloud", 501)
        if custom and custom.get("Metrics"):
            raise AwsError(
                "NotImplemented", "metric math in scaling policies is not run in the local cloud", 501
            )
        if custom and not all(custom.get(k) for k in ("MetricName", "Namespace", "Statistic")):
            raise AwsError("ValidationException", "MetricName, Namespace and Statistic are required.")

    def _put_alarms(self, policy: Record) -> list[Record]:
        config, resource = policy["TargetTrackingScalingPolicyConfiguration"], policy["ResourceId"]
        _, endpoint, _, variant = resource.split("/")
        metric = config.get("CustomizedMetricSpecification") or {
            "MetricName": "InvocationsPerInstance",
            "Namespace": "AWS/SageMaker",
            "Statistic": "Sum",
            "Dimensions": [
                {"Name": "EndpointName", "Value": endpoint}, {"Name": "VariantName", "Value": variant},
            ],
        }  # fmt: skip
        names = {a["AlarmName"].split("-Alarm")[-1][:3]: a["AlarmName"] for a in policy["Alarms"]}
        target, watch, out = config["TargetValue"], self.cloud.client("cloudwatch"), []
        sides = [("High", "GreaterThanThreshold", target, _HIGH)]
        if not config.get("DisableScaleIn"):
            sides.append(("Low", "LessThanThreshold", target * _MARGIN, _LOW))
        for side, operator, threshold, minutes in sides:
            name = names.pop(side[:3], f"TargetTracking-{resource}-Alarm{side}-{uuid.uuid4()}")
            unit = {"Unit": metric["Unit"]} if metric.get("Unit") else {}
            watch.put_metric_alarm(
                AlarmName=name,
                AlarmDescription="DO NOT EDIT OR DELETE. For TargetTrackingScaling policy "
                f"{policy['PolicyARN']}.",
                ActionsEnabled=True,
                AlarmActions=[policy["PolicyARN"]],
                MetricName=metric["MetricName"],
                Namespace=metric["Namespace"],
                Statistic=metric["Statistic"],
                Dimensions=metric.get("Dimensions") or [],
                Period=60,
                EvaluationPeriods=minutes,
                Threshold=threshold,
                ComparisonOperator=operator,
                **unit,
            )
            out.append({"AlarmName": name, "AlarmARN": self.cloud.arn("cloudwatch", f"alarm:{name}")})
        if names:
            watch.delete_alarms(AlarmNames=list(names.values()))
        return out


def role_exists(cloud: Cloud) -> bool:
    """Whether the account has the service-linked role (the emulator gives it a name of its own)."""
    found = cloud.client("iam").list_roles(PathPrefix=f"/{ROLE.rpartition('/')[0]}/")
    return bool(found["Roles"])


def _check_steps(config: Record) -> None:
    steps = config.get("StepAdjustments")
    if not config.get("AdjustmentType") or not steps:
        raise AwsError("ValidationException", "AdjustmentType and StepAdjustments are required.")
    bounds = sorted(
        (s.get("MetricIntervalLowerBound", -math.inf), s.get("MetricIntervalUpperBound", math.inf))
        for s in steps
    )
    if any(low >= high for low, high in bounds):
        raise AwsError("ValidationException", "A step's upper bound must be greater than its lower bound.")
    if any(first[1] != then[0] for first, then in zip(bounds, bounds[1:], strict=False)):
        raise AwsError("ValidationException", "Step adjustment intervals can't overlap or have gaps.")


def _step(config: Record, breach: float, now: int) -> int | None:
    """The capacity that a step policy wants at a distance from the alarm's threshold, None for no step.

    https://docs.aws.amazon.com/autoscaling/application/userguide/step-scaling-policy-overview.html
    """
    for step in config["StepAdjustments"]:
        low = step.get("MetricIntervalLowerBound", -math.inf)
        high = step.get("MetricIntervalUpperBound", math.inf)
        # at or above the threshold the lower bound is inside of the interval, below it the upper one
        if not (low <= breach < high if breach >= 0 else low < breach <= high):
            continue
        amount = step["ScalingAdjustment"]
        if config["AdjustmentType"] == "ExactCapacity":
            return amount
        if config["AdjustmentType"] == "PercentChangeInCapacity":
            change = now * amount / 100
            # between 0 and 1 it is 1, above it is rounded down
            rounded = math.copysign(max(1, math.floor(abs(change))), change) if change else 0
            least = config.get("MinAdjustmentMagnitude", 0)
            amount = int(math.copysign(max(abs(rounded), least), amount)) if amount else 0
        return now + amount
    return None


# -- CloudFormation ---
class ScalableTargetResource(ResourceType):
    """AWS::ApplicationAutoScaling::ScalableTarget; Ref is ResourceId|ScalableDimension|ServiceNamespace."""

    type_name = "AWS::ApplicationAutoScaling::ScalableTarget"

    def create(self, context: Context, props: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        self._register(context, props)
        identity = "|".join(props[k] for k in ("ResourceId", "ScalableDimension", "ServiceNamespace"))
        return identity, {"Id": identity}

    def update(self, context: Context, physical_id: str, old: dict, new: dict) -> dict[str, Any]:
        arn = self._register(context, new)
        gone = {t["Key"] for t in old.get("Tags") or []} - {t["Key"] for t in new.get("Tags") or []}
        if gone:
            context.client("application-autoscaling").untag_resource(ResourceARN=arn, TagKeys=sorted(gone))
        return {}

    def delete(self, context: Context, physical_id: str, props: dict[str, Any]) -> None:
        client = context.client("application-autoscaling")
        try:
            client.deregister_scalable_target(**_named(physical_id))
        except client.exceptions.ObjectNotFoundException:
            return

    @staticmethod
    def _register(context: Context, props: dict[str, Any]) -> str:
        if props.get("ScheduledActions"):
            raise NotImplementedError("ScheduledActions are not run in the local cloud")
        request = {k: v for k, v in props.items() if k != "Tags"}
        if props.get("Tags"):
            request["Tags"] = {t["Key"]: t["Value"] for t in props["Tags"]}
        call = typed("application-autoscaling", "register_scalable_target", request)
        return context.client("application-autoscaling").register_scalable_target(**call)["ScalableTargetARN"]


class ScalingPolicyResource(ResourceType):
    """AWS::ApplicationAutoScaling::ScalingPolicy; Ref is its ARN."""

    type_name, tags = "AWS::ApplicationAutoScaling::ScalingPolicy", None

    def create(self, context: Context, props: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        request = {k: v for k, v in props.items() if k != "ScalingTargetId"}
        named = {**(_named(props["ScalingTargetId"]) if props.get("ScalingTargetId") else {}), **request}
        call = typed("application-autoscaling", "put_scaling_policy", named)
        arn = context.client("application-autoscaling").put_scaling_policy(**call)["PolicyARN"]
        return arn, {"Arn": arn}

    def update(self, context: Context, physical_id: str, old: dict, new: dict) -> dict[str, Any]:
        self.create(context, new)
        return {}

    def delete(self, context: Context, physical_id: str, props: dict[str, Any]) -> None:
        client = context.client("application-autoscaling")
        where, _, name = physical_id.partition(f"resource/{NAMESPACE}/")[2].rpartition(":policyName/")
        try:
            client.delete_scaling_policy(
                PolicyName=name, ServiceNamespace=NAMESPACE, ResourceId=where, ScalableDimension=DIMENSION
            )
        except client.exceptions.ObjectNotFoundException:
            return


def _named(physical_id: str) -> dict[str, str]:
    resource, dimension, namespace = physical_id.split("|")
    return {"ResourceId": resource, "ScalableDimension": dimension, "ServiceNamespace": namespace}


SERVICES = [ApplicationAutoScaling]
TYPES = [ScalableTargetResource, ScalingPolicyResource]
