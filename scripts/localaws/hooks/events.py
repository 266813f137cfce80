"""EventBridge: events of AWS's services, and delivery to targets that the emulator does not serve."""

from __future__ import annotations

import contextvars
import json
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from localaws import clock, refusals, resource
from localaws.cloud import caller_key
from localaws.hooks import keys
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
        "ministack.services.sns:_topic_by_arn_any_scope",
    ),
    "senders": (
        "ministack.services.eventbridge:_put_events",
        "ministack.services.eventbridge:_dispatch_event",
        "ministack.services.eventbridge:_put_permission",
        "ministack.services.eventbridge:_event_bus_policies",
    ),
    "put_targets": ("ministack.services.eventbridge:_validate_target_arn",),
    "scheduler_targets": (
        "ministack.services.scheduler:_tick_schedules",
        "ministack.services.scheduler:_schedules",
    ),
}
Target = Callable[[dict[str, Any], str], None]
#: the ARN to which an event is being delivered
_delivering: contextvars.ContextVar[str] = contextvars.ContextVar("localaws_delivering", default="")
#: the account that puts an event, "" for a service of AWS
_sender: contextvars.ContextVar[str] = contextvars.ContextVar("localaws_sender", default="")


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

    A target that nobody serves, or that is not there, is an error in the log and a failed delivery that
    ``/_localaws/health`` lists, never a silent success.
    """
    from ministack.services import eventbridge

    deliver = eventbridge._invoke_target
    eventbridge.logger.addHandler(_Undelivered(cloud))

    def ours(target: dict, event: dict, rule: dict, view: Any) -> None:
        try:
            payload, principal = _payload(target, event, rule, view), "events.amazonaws.com"
            if ":scheduler:" in rule.get("Arn", ""):
                payload, principal = _attributes(cloud, payload, event, rule), "scheduler.amazonaws.com"
                _check_schedule_key(cloud, rule, target["RoleArn"])
            targets[_service(target)](
                {**target, "Principal": principal, "Source": rule.get("Arn", "")}, payload
            )
        except Exception as error:
            undelivered(cloud, target["Arn"], f"rule {rule.get('Name')}: {error}")

    def invoke(target: dict, event: dict, rule: dict, view: Any = None) -> Any:
        service = _service(target)
        if service == "scheduler":
            return _universal(cloud, target, event, rule)
        if service == "lambda" and ":scheduler:" in rule.get("Arn", ""):
            return _universal(cloud, _invocation(target), event, rule)
        if target["Arn"].split(":")[4] not in (cloud.account, "") and service != "sns":
            return cloud.spawn(_elsewhere, cloud, target, event, rule, name="target-elsewhere")
        if service in targets:
            return cloud.spawn(ours, target, event, rule, view, name=f"target-{service}")
        if reason := _forbidden(cloud, service, target, rule):
            return undelivered(cloud, target["Arn"], f"rule {rule.get('Name')}: {reason}")
        token = _delivering.set(target.get("Arn", ""))
        try:
            return deliver(target, event, rule, view)
        finally:
            _delivering.reset(token)

    eventbridge._invoke_target = invoke


def _elsewhere(cloud: Cloud, target: dict, event: dict, rule: dict) -> None:
    """Put an event on the bus of another account, under the target's role, if the bus's policy lets it in.

    https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-cross-account.html
    """
    from localaws.permissions import gate
    from localaws.permissions.access import Access
    from localaws.permissions.callers import caller_of_role

    arn = target["Arn"]
    account = arn.split(":")[4]
    try:
        if ":event-bus/" not in arn or account not in cloud.accounts:
            raise ValueError("the local cloud delivers nothing to another account but events to its buses")
        cloud.check_trust(target["RoleArn"], "events.amazonaws.com", rule.get("Arn", ""))
        caller = caller_of_role(cloud, target["RoleArn"], "events")
        gate.authorize(cloud, caller, Access("events:PutEvents", arn))
        with cloud.at(account).scope():
            _dispatch({**event, "EventBusName": arn.rpartition("/")[2]})
    except Exception as error:
        undelivered(cloud, arn, f"rule {rule.get('Name')}: {error}")


def _dispatch(event: dict) -> None:
    """Let the rules of this account see an event, which is of the account that sent it."""
    from ministack.services import eventbridge

    eventbridge._dispatch_event(event)


def tell_of_senders(cloud: Cloud) -> None:
    """Say in an event who sent it: that need not be the account of the bus that it is put on."""
    from ministack.services import eventbridge

    put, dispatch = eventbridge._put_events, eventbridge._dispatch_event
    permit = eventbridge._put_permission

    def put_permission(data: dict) -> Any:
        if not data.get("Policy"):
            return permit(data)
        eventbridge._event_bus_policies[data.get("EventBusName", "default")] = json.loads(data["Policy"])
        return eventbridge.json_response({})

    def put_events(data: dict, allow_aws_source: bool = False) -> Any:
        sender = "" if allow_aws_source else cloud.account_of_key(caller_key.get())
        token = _sender.set(sender)
        try:
            return put(data, allow_aws_source=allow_aws_source)
        finally:
            _sender.reset(token)

    def dispatch_event(event: dict, view: Any = None) -> Any:
        if _sender.get() and event["Account"] != _sender.get():
            event, view = {**event, "Account": _sender.get()}, None
        return dispatch(event, view)

    eventbridge._put_events, eventbridge._dispatch_event = put_events, dispatch_event
    eventbridge._put_permission = put_permission


def undelivered(cloud: Cloud, arn: str, reason: str) -> None:
    """Tell of an event that did not reach its target: in the log, and in ``/_localaws/health``."""
    cloud.log.error("UndeliveredEvent: %s: %s", arn, reason)
    cloud.undelivered.append(f"{arn}: {reason}")


class _Undelivered(logging.Handler):
    """The emulator only logs what it could not deliver."""

    def __init__(self, cloud: Cloud) -> None:
        super().__init__(logging.WARNING)
        self.cloud = cloud

    def emit(self, record: logging.LogRecord) -> None:
        if arn := _delivering.get():
            undelivered(self.cloud, arn, record.getMessage())


def _forbidden(cloud: Cloud, service: str, target: dict, rule: dict) -> str:
    """Why a rule may not reach a function or topic; "" when it may.

    These are called without a role, so their own policies decide; the emulator delivers in any case.
    Schedules are not asked: they have a role.
    """
    from ministack.services import lambda_svc, sns

    arn, source = target.get("Arn", ""), rule.get("Arn", "")
    context = {"aws:sourcearn": source, "aws:sourceaccount": cloud.account}
    if ":scheduler:" in source:
        return ""
    if service == "lambda" and (found := lambda_svc.function_policy_for_arn(arn)):
        policy, action = found[0], "lambda:InvokeFunction"
    elif service == "sns" and (topic := sns._topic_by_arn_any_scope(arn)):
        attributes = topic.get("attributes") or {}
        policy, action = attributes.get("Policy"), "sns:Publish"
        context = {} if attributes.get("KmsMasterKeyId") else context  # not sent to an encrypted topic
    else:
        return ""
    if refusals.policy_allows(policy, "events.amazonaws.com", action, context):
        return keys.topic_refused(arn, "events.amazonaws.com", context) if service == "sns" else ""
    return f"no resource-based policy allows events.amazonaws.com the {action} action"


def _service(target: dict) -> str:
    arn = target.get("Arn", "")
    return arn.split(":")[2] if arn.count(":") >= 5 else ""


def _payload(target: dict, event: dict, rule: dict, view: Any) -> str:
    from ministack.services import eventbridge

    view = view or eventbridge._pattern_event_view(event)
    if target.get("InputTransformer"):
        return eventbridge._apply_input_transformer(target["InputTransformer"], rule, view)
    if target.get("Input"):
        return target["Input"]
    value = view.event_with_detail()
    for part in target.get("InputPath", "").strip("$.").split("."):
        value = value[part] if part else value
    return json.dumps(value)


def refuse_targets_without_role() -> None:
    """Let PutTargets refuse a target that EventBridge reaches under a role only, and that has none."""
    from ministack.core.responses import error_response_json
    from ministack.services import eventbridge

    original = eventbridge._validate_target_arn

    def validate(target: dict) -> Any:
        reason = refusals.target_error(target)
        return original(target) or (reason and error_response_json("ValidationException", reason, 400))

    eventbridge._validate_target_arn = validate


def _invocation(target: dict) -> dict:
    """A schedule calls a function under its role, and asks no policy of the function; as an API call.

    https://docs.aws.amazon.com/scheduler/latest/UserGuide/managing-targets-templated.html
    """
    call = {
        "FunctionName": target["Arn"],
        "InvocationType": "Event",
        "Payload": target.get("Input") or "{}",
    }
    return {**target, "Arn": "arn:aws:scheduler:::aws-sdk:lambda:invoke", "Input": json.dumps(call)}


def _universal(cloud: Cloud, target: dict, event: dict, schedule: dict) -> None:
    """Call an API operation under the schedule's role.

    That is EventBridge Scheduler's universal target, ``arn:aws:scheduler:::aws-sdk:<service>:<operation>``.
    """
    service, _, operation = target["Arn"].split(":aws-sdk:")[1].partition(":")
    text = _attributes(cloud, target.get("Input") or "{}", event, schedule)

    def call() -> None:
        from botocore import xform_name

        method = xform_name(operation[0].upper() + operation[1:])
        try:
            _check_schedule_key(cloud, schedule, target["RoleArn"])
            client = cloud.client(
                service, role=target["RoleArn"], principal="scheduler.amazonaws.com", session="scheduler"
            )
            getattr(client, method)(**resource.typed(service, method, json.loads(text)))
        except Exception as error:
            undelivered(cloud, schedule.get("Arn", ""), f"{service}.{operation}: {error}")

    cloud.spawn(call, name="scheduler")


def _attributes(cloud: Cloud, text: str, event: dict, schedule: dict) -> str:
    """A schedule's input with its context attributes filled in.

    https://docs.aws.amazon.com/scheduler/latest/UserGuide/managing-schedule-context-attributes.html
    """
    moment = event["Time"] - event["Time"] % 60  # a schedule is due on the minute
    stamp = clock.datetime.fromtimestamp(moment, tz=clock.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    for key, value in {
        "scheduled-time": stamp,
        "execution-id": cloud.new_id(length=32),
        "attempt-number": "1",
        "schedule-arn": schedule.get("Arn", ""),
    }.items():
        text = text.replace(f"<aws.scheduler.{key}>", value)
    return text


def _check_schedule_key(cloud: Cloud, schedule: dict, role: str) -> None:
    """Raise PermissionError when the role may not read the schedule's input, which a key encrypts."""
    from localaws.permissions import implied

    group, _, name = schedule.get("Arn", "").rpartition(":schedule/")[2].partition("/")
    for access in implied.kms_accesses(cloud, "scheduler", "GetSchedule", {"GroupName": group, "Name": name}):
        if not implied.role_may(cloud, role, access):
            raise PermissionError(f"{role} may not {access.action} with {access.resource}")
