"""CloudWatch: which series an alarm reads, whom its actions reach, and the event of each change."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from localaws import clock
from localaws.hooks import keys
from localaws.hooks.events import put_service_event, undelivered
from localaws.refusals import policy_allows

if TYPE_CHECKING:
    from localaws.cloud import Cloud

#: hook → the emulator's private names it uses ("module:attribute")
HOOKS: dict[str, tuple[str, ...]] = {
    "alarm_dimensions": (
        "ministack.services.cloudwatch:_evaluate_alarm",
        "ministack.services.cloudwatch:_metrics",
        "ministack.services.cloudwatch:_dims_key",
    ),
    "alarm_actions": (
        "ministack.services.cloudwatch:_dispatch_alarm_actions",
        "ministack.services.sns:_topic_by_arn_any_scope",
    ),
    "alarm_events": ("ministack.services.cloudwatch:_dispatch_alarm_actions",),
}


def alarms_mind_dimensions() -> None:
    """Let an alarm read only the series whose dimensions equal its own, not all of the metric's name."""
    from ministack.services import cloudwatch

    original, metrics, lock = cloudwatch._evaluate_alarm, cloudwatch._metrics, threading.RLock()

    def evaluate(alarm: dict) -> Any:
        wanted = cloudwatch._dims_key({d["Name"]: d["Value"] for d in alarm.get("Dimensions") or []})

        class View:
            """The metrics store, listing only the alarm's own series."""

            def items(self) -> list:
                return [(k, v) for k, v in metrics.items() if k[2] == wanted]

            def __getattr__(self, name: str) -> Any:
                return getattr(metrics, name)

            def __getitem__(self, key: Any) -> Any:
                return metrics[key]

            def __setitem__(self, key: Any, value: Any) -> None:
                metrics[key] = value

        with lock:
            cloudwatch._metrics = View()
            try:
                return original(alarm)
            finally:
                cloudwatch._metrics = metrics

    cloudwatch._evaluate_alarm = evaluate


def tell_of_lost_actions(cloud: Cloud) -> None:
    """List an alarm's action that reaches nobody in ``/_localaws/health``; the emulator drops or allows it.

    It knows topics only, and does not ask their policies.
    """
    from ministack.services import cloudwatch, sns

    original = cloudwatch._dispatch_alarm_actions

    def reaches(alarm: dict, arn: str) -> bool:
        topic = sns._topic_by_arn_any_scope(arn)
        reason = f"alarm {alarm.get('AlarmName')}: "
        if not topic:
            undelivered(cloud, arn, f"{reason}the local cloud has no such topic (nor other alarm actions)")
            return False
        context = {
            "aws:sourceowner": cloud.account,
            "aws:sourceaccount": cloud.account,
            "aws:sourcearn": alarm.get("AlarmArn", ""),
        }
        policy = (topic.get("attributes") or {}).get("Policy")
        if not policy_allows(policy, "cloudwatch.amazonaws.com", "sns:Publish", context):
            why = "the topic's policy does not let cloudwatch.amazonaws.com publish"
            undelivered(cloud, arn, f"{reason}{why}")
            return False
        if why := keys.topic_refused(arn, "cloudwatch.amazonaws.com", context):
            undelivered(cloud, arn, f"{reason}{why}")
            return False
        return True

    def dispatch(alarm: dict, old_state: str, new_state: str, reason: str) -> Any:
        name = {"ALARM": "AlarmActions", "OK": "OKActions"}.get(new_state, "InsufficientDataActions")
        if alarm.get("ActionsEnabled", True):
            alarm = {**alarm, name: [arn for arn in alarm.get(name) or [] if reaches(alarm, arn)]}
        return original(alarm, old_state, new_state, reason)

    cloudwatch._dispatch_alarm_actions = dispatch


def tell_of_changes(cloud: Cloud) -> None:
    """Put the event of each change of an alarm's state on the default bus, whether it has actions or not.

    https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/cloudwatch-and-eventbridge.html
    """
    from ministack.services import cloudwatch

    original = cloudwatch._dispatch_alarm_actions

    def dispatch(alarm: dict, old_state: str, new_state: str, reason: str) -> Any:
        result = original(alarm, old_state, new_state, reason)
        name, arn = alarm.get("AlarmName", ""), alarm.get("AlarmArn", "")
        stamp = clock.now().strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "+0000"
        detail = {
            "alarmName": name,
            "configuration": _configuration(alarm),
            "previousState": {"value": old_state},
            "state": {"value": new_state, "reason": reason, "timestamp": stamp},
        }
        # deliveries call the cloud, which the change is being made in
        cloud.spawn(
            put_service_event,
            *(cloud, "aws.cloudwatch", "CloudWatch Alarm State Change", detail, [arn]),
            name="alarm-event",
        )
        return result

    cloudwatch._dispatch_alarm_actions = dispatch


def _configuration(alarm: dict) -> dict[str, Any]:
    """What the event says of the alarm."""
    told: dict[str, Any] = {"description": alarm["AlarmDescription"]} if alarm.get("AlarmDescription") else {}
    if alarm.get("AlarmRule"):
        return told | {"alarmRule": alarm["AlarmRule"]}
    metric = {
        "namespace": alarm.get("Namespace", ""),
        "name": alarm.get("MetricName", ""),
        "dimensions": {d["Name"]: d["Value"] for d in alarm.get("Dimensions") or []},
    }
    series = {"metric": metric, "period": int(alarm.get("Period") or 60), "stat": alarm.get("Statistic", "")}
    return told | {"metrics": [{"id": "m1", "metricStat": series, "returnData": True}]}
