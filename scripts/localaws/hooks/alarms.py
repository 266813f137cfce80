"""CloudWatch: which series an alarm reads, and whom its actions reach."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from localaws.hooks import keys
from localaws.hooks.events import undelivered
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
