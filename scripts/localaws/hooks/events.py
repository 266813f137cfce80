"""EventBridge: events of AWS's services, and delivery to targets that the emulator does not serve."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from localaws import clock, resource
from localaws.hooks.answers import triple

if TYPE_CHECKING:
    from localaws.cloud import Cloud

#: hook → the emulator's private names it uses ("module:attribute")
HOOKS: dict[str, tuple[str, ...]] = {
    "service_events": ("ministack.services.eventbridge:_put_events",),
    "event_targets": (
        "ministack.services.eventbridge:_invoke_target",
        "ministack.services.eventbridge:_pattern_event_view",
        "ministack.services.eventbridge:_apply_input_transformer",
    ),
    "scheduler_targets": (
        "ministack.services.scheduler:_tick_schedules",
        "ministack.services.scheduler:_schedules",
    ),
}


Target = Callable[[dict[str, Any], str], None]


def put_service_event(
    cloud: Cloud, source: str, detail_type: str, detail: dict, resources: list[str]
) -> None:
    """Play an AWS service's event; the public PutEvents refuses ``aws.*`` sources, as AWS does."""
    from ministack.core.responses import request_scope
    from ministack.services import eventbridge

    entry = {
        "Source": source,
        "DetailType": detail_type,
        "Detail": json.dumps(detail, default=str),
        "Resources": resources,
    }
    with request_scope(cloud.account, cloud.region):
        status, _, body = triple(eventbridge._put_events({"Entries": [entry]}, allow_aws_source=True))
    if status != 200 or json.loads(body).get("FailedEntryCount"):
        raise RuntimeError(f"event {source} {detail_type} was not accepted: {body!r}")


def register_targets(cloud: Cloud, targets: dict[str, Target]) -> None:
    """Deliver events to the services in ``targets`` (by the ARN's service).

    A target nobody serves is an error in the log and a failed delivery that ``/_localaws/health`` lists,
    never a silent success.
    """
    from ministack.services import eventbridge

    deliver = eventbridge._invoke_target
    known = {
        "lambda",
        "sqs",
        "sns",
        "states",
        "events",
    }  # what the emulator delivers to; it drops the rest with a warning

    def invoke(target: dict, event: dict, rule: dict, view: Any = None) -> Any:
        arn = target.get("Arn", "")
        service = arn.split(":")[2] if arn.count(":") >= 5 else ""
        if service == "scheduler":
            return _universal(cloud, target, event, rule)
        if service in targets:
            payload = _payload(eventbridge, target, event, rule, view)
            cloud.spawn(targets[service], target, payload, name=f"target-{service}")
            return None
        if service not in known:
            cloud.log.error("UndeliveredEvent: no delivery to target %s of rule %s", arn, rule.get("Name"))
            cloud.undelivered.append(arn)
            return None
        return deliver(target, event, rule, view)

    eventbridge._invoke_target = invoke


def _payload(eventbridge: Any, target: dict, event: dict, rule: dict, view: Any) -> str:
    view = view or eventbridge._pattern_event_view(event)
    if target.get("InputTransformer"):
        return eventbridge._apply_input_transformer(target["InputTransformer"], rule, view)
    return target.get("Input") or json.dumps(view.event_with_detail())


def _universal(cloud: Cloud, target: dict, event: dict, schedule: dict) -> None:
    """Call an API operation under the schedule's role.

    That is EventBridge Scheduler's universal target, ``arn:aws:scheduler:::aws-sdk:<service>:<operation>``.
    """
    service, _, operation = target["Arn"].split(":aws-sdk:")[1].partition(":")
    text = target.get("Input") or "{}"
    moment = event["Time"] - event["Time"] % 60  # a schedule is due on the minute
    stamp = clock.datetime.fromtimestamp(moment, tz=clock.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    for key, value in {
        "scheduled-time": stamp,
        "execution-id": cloud.new_id(length=32),
        "attempt-number": "1",
        "schedule-arn": schedule.get("Arn", ""),
    }.items():
        text = text.replace(f"<aws.scheduler.{key}>", value)

    def call() -> None:
        from botocore import xform_name

        client = cloud.client(
            service, role=target["RoleArn"], principal="scheduler.amazonaws.com", session="scheduler"
        )
        try:
            getattr(client, xform_name(operation[0].upper() + operation[1:]))(
                **resource.typed(service, xform_name(operation[0].upper() + operation[1:]), json.loads(text))
            )
        except Exception as error:
            cloud.log.error("schedule %s: %s.%s failed: %s", schedule.get("Name"), service, operation, error)
            cloud.undelivered.append(f"{schedule.get('Arn')}: {error}")

    cloud.spawn(call, name="scheduler")
