"""Application Auto Scaling: a target's ARN has an id of its own, and its calls ask for what it will do.

https://docs.aws.amazon.com/service-authorization/latest/reference/list_applicationautoscaling.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from localaws.permissions.access import Access
from localaws.permissions.requests import Request

if TYPE_CHECKING:
    from localaws.cloud import Cloud

_SERVICE = "application-autoscaling"


def application_autoscaling(cloud: Cloud, request: Request) -> list[Access] | None:
    """The call's own action, then those of the permissions that the user guide asks of whoever scales.

    https://docs.aws.amazon.com/autoscaling/application/userguide/security_iam_id-based-policy-examples.html
    """
    from localaws.permissions import mapping
    from localaws.services.applicationautoscaling import PRINCIPAL, ROLE, role_exists

    params, operation = request.params, request.operation
    resource = params.get("ResourceId")
    if operation.startswith("Describe") or not resource:
        return None
    target = cloud.services[_SERVICE].targets.get(resource)
    arn = target["ScalableTargetARN"] if target else cloud.arn(_SERVICE, "scalable-target/*")
    context: dict[str, Any] = {
        f"{_SERVICE}:service-namespace": params.get("ServiceNamespace", ""),
        f"{_SERVICE}:scalable-dimension": params.get("ScalableDimension", ""),
    }
    details = mapping.action_details(f"{_SERVICE}:{operation}") or {}
    asked = [Access(f"{_SERVICE}:{operation}", arn, {**context, **mapping.request_tags(details, params)})]
    if params.get("Tags"):
        tagging = mapping.action_details(f"{_SERVICE}:TagResource") or {}
        asked.append(Access(f"{_SERVICE}:TagResource", arn, mapping.request_tags(tagging, params)))
    endpoint = cloud.arn("sagemaker", f"endpoint/{[*resource.split('/'), ''][1]}")
    alarm = cloud.arn(
        "cloudwatch", f"alarm:TargetTracking-{resource}-AlarmHigh-00000000-0000-0000-0000-000000000000"
    )
    if operation == "RegisterScalableTarget":
        asked += [
            Access("sagemaker:DescribeEndpoint", endpoint, {}),
            Access("sagemaker:DescribeEndpointConfig", _configuration(cloud, endpoint), {}),
            Access("sagemaker:UpdateEndpointWeightsAndCapacities", endpoint, {}),
        ]
        if not role_exists(cloud):
            role = f"arn:{cloud.partition}:iam::{cloud.account}:role/{ROLE}"
            asked.append(Access("iam:CreateServiceLinkedRole", role, {"iam:AWSServiceName": PRINCIPAL}))
    elif operation == "PutScalingPolicy" and params.get("PolicyType") == "TargetTrackingScaling":
        asked += [
            Access("cloudwatch:PutMetricAlarm", alarm, {}),
            Access("cloudwatch:DescribeAlarms", cloud.arn("cloudwatch", "alarm:*"), {}),
        ]
    elif operation in ("DeleteScalingPolicy", "DeregisterScalableTarget"):
        kept = cloud.services[_SERVICE].policies.values()
        made = [a["AlarmARN"] for p in kept if p["ResourceId"] == resource for a in p["Alarms"]]
        asked += [Access("cloudwatch:DeleteAlarms", name, {}) for name in made]
    return asked


def _configuration(cloud: Cloud, endpoint: str) -> str:
    """The configuration of an endpoint, which has tags; any, where there is no such endpoint."""
    found = cloud.services["sagemaker"].endpoints.find(endpoint) or {}
    return cloud.arn("sagemaker", f"endpoint-config/{found.get('EndpointConfigName', '*')}")


ACCESSES = {_SERVICE: application_autoscaling}
