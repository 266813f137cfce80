"""CloudWatch: what an alarm reads and when, whom its actions reach, and the event of each change."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
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
        "ministack.services.cloudwatch:_calc_stats",
        "ministack.services.cloudwatch:_stat_value",
        "ministack.services.cloudwatch:_record_history",
        "ministack.services.cloudwatch:_evaluate_parent_alarms",
    ),
    "alarm_periods": (
        "ministack.services.cloudwatch:_alarms",
        "ministack.services.cloudwatch:_evaluate_all_alarms",
    ),
    "alarm_actions": (
        "ministack.services.cloudwatch:_dispatch_alarm_actions",
        "ministack.services.cloudwatch:_is_sns_action_arn",
        "ministack.services.sns:_topic_by_arn_any_scope",
    ),
    "alarm_events": ("ministack.services.cloudwatch:_dispatch_alarm_actions",),
}


#: seconds for which a state that somebody set holds: alarms are evaluated every minute
_MINUTE = 60
#: real seconds between two evaluations of all alarms, besides those on new data and moves of the clock
_TICK = 5.0
_COMPARE = {
    "GreaterThanOrEqualToThreshold": lambda value, threshold: value >= threshold,
    "GreaterThanThreshold": lambda value, threshold: value > threshold,
    "LessThanThreshold": lambda value, threshold: value < threshold,
    "LessThanOrEqualToThreshold": lambda value, threshold: value <= threshold,
}
#: (account, alarm) → the moment since which a deployment watches it in compressed time
_hurried: dict[tuple[str, str], float] = {}
_lock = threading.RLock()


@contextlib.contextmanager
def hurried(cloud: Cloud, names: list[str]) -> Iterator[None]:
    """Let alarms judge all that came since now as one period, while waits pass faster than on AWS.

    A baking period of minutes then lasts seconds, in which no alarm sees the periods that it asks for.
    """
    now, account = clock.time(), cloud.account
    keys = [(account, name) for name in names] if cloud.time_scale < 1 else []
    _hurried.update(dict.fromkeys(keys, now))
    try:
        yield
    finally:
        for key in keys:
            _hurried.pop(key, None)


def state_of(breaching: list[bool | None], wanted: int, missing: str) -> str | None:
    """The state by periods (newest first, None without data); None for the one that it has.

    https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/alarms-and-missing-data.html
    """
    real = [b for b in breaching if b is not None]
    if missing in ("breaching", "notBreaching"):
        filled = [missing == "breaching" if b is None else b for b in breaching]
        return "ALARM" if sum(filled) >= wanted else "OK"
    if not real:
        return None if missing == "ignore" else "INSUFFICIENT_DATA"
    # few data points suffice when the oldest is old enough and none after it speaks against
    oldest = max((n for n, b in enumerate(breaching) if b), default=-1)
    premature = oldest + 1 >= wanted and False not in breaching[: oldest + 1] and missing == "missing"
    if sum(real) >= wanted or premature:
        return "ALARM"
    return "OK" if False in real else None


def _periods(alarm: dict, points: list[dict], now: float, account: str) -> tuple[list[list[dict]], int]:
    """The data points of each period, newest first, and how many periods must breach."""
    since = _hurried.get((account, alarm["AlarmName"]))
    if since is not None:
        return [[p for p in points if p["Timestamp"] >= int(since)]], 1
    length, count = int(alarm.get("Period") or 60), int(alarm.get("EvaluationPeriods") or 1)
    found: list[list[dict]] = [[] for _ in range(count)]
    for point in points:
        number = max(0, int((now - point["Timestamp"]) // length))
        if number < count:
            found[number].append(point)
    return found, int(alarm.get("DatapointsToAlarm") or count)


def alarms_mind_dimensions() -> None:
    """Evaluate an alarm on the series whose dimensions equal its own, by periods, as AWS does."""
    from ministack.services import cloudwatch

    def evaluate(alarm: dict) -> None:
        namespace, metric = alarm.get("Namespace"), alarm.get("MetricName")
        compare = _COMPARE.get(alarm.get("ComparisonOperator", ""))
        if not namespace or not metric or compare is None:
            return
        with _lock:
            now, old = clock.time(), alarm["StateValue"]
            by_hand = old != alarm.get("_evaluated", "INSUFFICIENT_DATA")
            if by_hand and now - alarm.get("StateUpdatedTimestamp", 0) < _MINUTE:
                return
            place = cloudwatch._dims_key({d["Name"]: d["Value"] for d in alarm.get("Dimensions") or []})
            points = cloudwatch._metrics.get((namespace, metric, place)) or []
            if alarm.get("Unit"):
                points = [p for p in points if p.get("Unit") == alarm["Unit"]]
            missing = alarm.get("TreatMissingData") or "missing"
            if not points and missing in ("missing", "ignore"):
                return
            account = alarm.get("AlarmArn", "::::").split(":")[4]
            statistic = alarm.get("ExtendedStatistic") or alarm.get("Statistic") or "Average"
            threshold = float(alarm.get("Threshold") or 0)
            periods, wanted = _periods(alarm, points, now, account)
            values = [
                cloudwatch._stat_value(cloudwatch._calc_stats(p), statistic, p) if p else None
                for p in periods
            ]
            breaching = [None if v is None else compare(v, threshold) for v in values]
            new = state_of(breaching, wanted, missing) or old
            alarm["_evaluated"] = new
            newest = next((v for v in values if v is not None), None)
            if new != old:
                reason = f"Threshold Crossed: {statistic} {newest} {alarm['ComparisonOperator']} {threshold}"
                alarm |= {"StateValue": new, "StateReason": reason, "StateUpdatedTimestamp": int(now)}
                cloudwatch._record_history(alarm["AlarmName"], old, new, reason)
                cloudwatch._dispatch_alarm_actions(alarm, old, new, reason)
                cloudwatch._evaluate_parent_alarms(alarm)
        if new == "ALARM" and newest is not None and _scaling(alarm):
            _scale(alarm, newest)

    cloudwatch._evaluate_alarm = evaluate


#: what hands an alarm with scaling actions to Application Auto Scaling (set with the actions' hook)
_scalers: list[Any] = []


def _scaling(alarm: dict) -> list[str]:
    return [a for a in alarm.get("AlarmActions") or [] if ":scalingPolicy:" in a]


def _scale(alarm: dict, value: float) -> None:
    for scaler in _scalers:
        scaler(alarm, value)


def evaluate_everywhere() -> None:
    """Evaluate the alarms of all accounts and regions."""
    from ministack.core.responses import request_scope
    from ministack.services import cloudwatch

    places = {tuple(arn.split(":")[3:5]) for arn in (a["AlarmArn"] for a in cloudwatch._alarms.all_values())}
    for region, account in places:
        with request_scope(account, region):
            cloudwatch._evaluate_all_alarms()


def alarms_mind_time(cloud: Cloud) -> None:
    """Evaluate alarms as time passes, not only when data comes: what is over is over."""
    clock.on_advance(evaluate_everywhere)

    def tick() -> None:
        while not cloud.stopping:
            cloud.wait_until(lambda: False, _TICK, 1.0)
            evaluate_everywhere()

    cloud.spawn(tick, name="alarms")


def tell_of_lost_actions(cloud: Cloud) -> None:
    """List an alarm's action that reaches nobody in ``/_localaws/health``; the emulator drops or allows it.

    It knows topics only, and does not ask their policies.
    """
    from ministack.services import cloudwatch, sns

    original = cloudwatch._dispatch_alarm_actions
    # a topic may be another account's, whose policy then decides
    cloudwatch._is_sns_action_arn = lambda action: bool(sns._topic_by_arn_any_scope(str(action)))

    def scale(alarm: dict, value: float) -> None:
        scaling = cloud.services["application-autoscaling"]
        # scaling calls SageMaker and CloudWatch, which the alarm is being evaluated in
        cloud.spawn(scaling.alarm_is_on, dict(alarm), value, name="scaling")

    _scalers.append(scale)
    alarms_mind_time(cloud)

    def reaches(alarm: dict, arn: str) -> bool:
        if ":scalingPolicy:" in arn:
            return False  # not by the emulator: it is applied with each evaluation
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
