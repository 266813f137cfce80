"""Every place where the local cloud reaches into an emulator's private names, and nothing else.

Each hook is a function named in HOOKS with the private names it relies on; tests/contract holds one test a hook,
so that raising an emulator's pinned version shows at once what moved.
"""

from __future__ import annotations

import contextvars
import json
import re
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from localaws import clock, refusals, resource
from localaws.cloud import caller_key

if TYPE_CHECKING:
    from localaws.cloud import Cloud

#: hook → the emulator's private names it uses ("module:attribute")
HOOKS: dict[str, tuple[str, ...]] = {
    "resource_types": (
        "ministack.services.cloudformation.provisioners:_RESOURCE_HANDLERS",
        "ministack.services.cloudformation.provisioners:_STACK_TAG_PROPERTY",
        "ministack.services.cloudformation.provisioners:_delete_predecessor",
        "ministack.services.cloudformation.provisioners:_DEFERRED_PREDECESSOR_DELETES",
        "ministack.services.cloudformation.stacks:_runs_on_worker_thread",
    ),
    "nested_attributes": (
        "ministack.services.cloudformation.provisioners:_provision_resource",
        "ministack.services.cloudformation.provisioners:_update_resource",
    ),
    "buckets": (
        "ministack.services.s3:_delete_bucket",
        "ministack.services.s3:_bucket_tags",
        "ministack.services.s3:_buckets",
    ),
    "nested_deletes": (
        "ministack.services.cloudformation.provisioners:_nested_stack_lookup_name",
        "ministack.services.cloudformation.provisioners:_delete_resource",
        "ministack.services.cloudformation.provisioners:_RETAINING_POLICIES",
        "ministack.services.cloudformation.engine:_topological_sort",
        "ministack.services.cloudformation.stacks:_resource_policy",
        "ministack.services.cloudformation.stacks:_add_event",
    ),
    "service_events": ("ministack.services.eventbridge:_put_events",),
    "event_targets": ("ministack.services.eventbridge:_invoke_target",),
    "scheduler_targets": (
        "ministack.services.scheduler:_tick_schedules",
        "ministack.services.scheduler:_schedules",
    ),
    "clock": (
        "ministack.services.eventbridge:_tick_scheduled_rules",
        "ministack.services.scheduler:time",
        "ministack.services.eventbridge:time",
        "ministack.services.cloudwatch:time",
        "ministack.services.cloudwatch_logs:time",
        "ministack.services.sns:time",
        "ministack.services.sqs:time",
    ),
    "prefix_lists": ("ministack.services.ec2:_parse_ip_permissions",),
    "service_tags": ("ministack.services.cloudformation.helpers:_validate_stack_tags",),
    "template_url": ("ministack.services.cloudformation.helpers:_resolve_document",),
    "alarm_dimensions": (
        "ministack.services.cloudwatch:_evaluate_alarm",
        "ministack.services.cloudwatch:_metrics",
        "ministack.services.cloudwatch:_dims_key",
    ),
    "mail": (
        "ministack.services.sns:_fanout",
        "ministack.services.sns:_subscribe",
        "ministack.services.sns:_topics",
        "ministack.services.sns:_topic_by_arn_any_scope",
        "ministack.services.sns:_resolve_message_for_protocol",
    ),
    "images": (
        "ministack.services.ecr:_describe_images",
        "ministack.services.ecr:_find_image",
        "ministack.services.ecr:_repositories",
        "ministack.services.ecr:_registry_id",
    ),
    "unknown_parameters": (
        "ministack.services.cloudformation.handlers:_resolve_parameters",
        "ministack.services.cloudformation.changesets:_resolve_parameters",
    ),
    "trust_policies": (
        "ministack.services.iam:_trust_policy_not_principal_error",
        "ministack.core.iam_evaluator:validate_policy_document",
    ),
    "caller": ("ministack.services.sts:_sessions",),
    "scope": ("ministack.core.responses:request_scope", "ministack.core.responses:set_request_account_id"),
}


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
        status, _, body = _triple(eventbridge._put_events({"Entries": [entry]}, allow_aws_source=True))
    if status != 200 or json.loads(body).get("FailedEntryCount"):
        raise RuntimeError(f"event {source} {detail_type} was not accepted: {body!r}")


def _triple(answer: Any) -> tuple[int, dict, bytes]:
    status, headers, body = answer
    return status, headers, body if isinstance(body, bytes) else str(body).encode()


# -- CloudFormation types ---------------------------------------------------------------------------------------
def register_types(cloud: Cloud, types: list[resource.ResourceType]) -> None:
    """Give ministack's CloudFormation engine our types, and check the properties of its own against the schemas."""
    from ministack.services.cloudformation import provisioners, stacks

    ours = {t.type_name for t in types}
    for kind in types:
        provisioners._RESOURCE_HANDLERS[kind.type_name] = _handlers(cloud, kind)
        if kind.tags:
            provisioners._STACK_TAG_PROPERTY[kind.type_name] = kind.tags
        else:
            provisioners._STACK_TAG_PROPERTY.pop(kind.type_name, None)
    for name, handler in provisioners._RESOURCE_HANDLERS.items():
        if name not in ours and name.startswith("AWS::") and not name.startswith("AWS::CloudFormation::"):
            _check_first(cloud, name, handler)
    blocking = stacks._runs_on_worker_thread
    stacks._runs_on_worker_thread = lambda t: t in ours or t in refusals.CHECKS or blocking(t)


def keep_nested_attributes() -> None:
    """A resource of a nested stack keeps its attributes over an update that leaves it alone; the engine forgets them there."""
    from ministack.services.cloudformation import provisioners

    provision, update = provisioners._provision_resource, provisioners._update_resource
    known: dict[tuple[str, str], dict] = {}

    def remember(resource_type: str, answer: tuple[str, dict], before: dict) -> tuple[str, dict]:
        physical_id, attributes = answer
        known[resource_type, physical_id] = {**before, **(attributes or {})}
        return physical_id, dict(known[resource_type, physical_id])

    def provision_and_remember(resource_type: str, *rest: Any) -> tuple[str, dict]:
        return remember(resource_type, provision(resource_type, *rest), {})

    def update_and_remember(resource_type: str, physical_id: str, *rest: Any) -> tuple[str, dict]:
        answer = update(resource_type, physical_id, *rest)
        return remember(
            resource_type,
            answer,
            known.get((resource_type, physical_id), {}) if answer[0] == physical_id else {},
        )

    provisioners._provision_resource, provisioners._update_resource = (
        provision_and_remember,
        update_and_remember,
    )


def delete_nested_stacks() -> None:
    """Delete a nested stack as CloudFormation does: what its policies retain stays, and a resource that cannot be deleted
    fails the stack. The engine deletes all and only logs what failed."""
    from ministack.services.cloudformation import _stacks, provisioners
    from ministack.services.cloudformation.engine import _topological_sort
    from ministack.services.cloudformation.stacks import _add_event, _resource_policy

    def delete(physical_id: str, props: dict) -> None:
        name = provisioners._nested_stack_lookup_name(physical_id)
        stack = _stacks.get(name)
        if not stack or stack["StackStatus"] == "DELETE_COMPLETE":
            return
        stack_id, resources = stack["StackId"], stack.get("_resources", {})
        template, conditions = stack.get("_template") or {}, stack.get("_conditions", {})
        definitions = template.get("Resources") or {}
        failed = []
        for logical_id in reversed(_topological_sort(definitions, conditions)):
            record = resources.get(logical_id)
            if not record:
                continue
            kind, own_id = record["ResourceType"], record.get("PhysicalResourceId", "")
            policy = _resource_policy(
                definitions.get(logical_id),
                "DeletionPolicy",
                resources,
                stack.get("_resolved_params", {}),
                conditions,
                template.get("Mappings") or {},
                name,
                stack_id,
            )
            if policy in provisioners._RETAINING_POLICIES:
                _add_event(stack_id, name, logical_id, kind, "DELETE_SKIPPED", physical_id=own_id)
                resources.pop(logical_id)
                continue
            try:
                provisioners._delete_resource(kind, own_id, record.get("Properties", {}), name, logical_id)
            except Exception as error:
                failed.append(f"{logical_id} ({error})")
                _add_event(stack_id, name, logical_id, kind, "DELETE_FAILED", str(error), own_id)
                record["ResourceStatus"] = "DELETE_FAILED"
                continue
            _add_event(stack_id, name, logical_id, kind, "DELETE_COMPLETE", physical_id=own_id)
            resources.pop(logical_id)
        if failed:
            stack["StackStatus"] = "DELETE_FAILED"
            raise ValueError(
                f"Embedded stack {stack_id} was not successfully deleted: The following resource(s) failed to delete: [{'; '.join(failed)}]."
            )
        stack["StackStatus"] = "DELETE_COMPLETE"
        _add_event(
            stack_id, name, name, "AWS::CloudFormation::Stack", "DELETE_COMPLETE", physical_id=stack_id
        )

    handler = provisioners._RESOURCE_HANDLERS["AWS::CloudFormation::Stack"]
    deploy = handler["create"]

    def create(logical_id: str, props: dict, stack_name: str) -> tuple[str, dict]:
        try:
            return deploy(logical_id, props, stack_name)
        except Exception as error:
            for name, stack in list(_stacks.items()):
                if (
                    stack.get("_parent_stack_name") == stack_name
                    and stack["StackStatus"] == "CREATE_FAILED"
                    and name.startswith(f"{stack_name}-{logical_id}-")
                ):
                    delete(
                        stack["StackId"], {}
                    )  # the parent's rollback knows nothing of a child that was never made
            raise ValueError(f"Embedded stack {logical_id} was not successfully created: {error}") from error

    handler.update(create=create, delete=delete)


def refuse_findings(type_name: str, props: dict[str, Any]) -> None:
    """Raise ValueError, worded as the registry's answer, when properties break the schema."""
    broken = resource.findings(type_name, props)
    if broken:
        raise ValueError("Properties validation failed for resource with message: " + "; ".join(broken))


def _handlers(cloud: Cloud, kind: resource.ResourceType) -> dict[str, Any]:
    from ministack.services.cloudformation import provisioners

    # the engine takes an update's attributes as the whole truth: what an update does not name stays as it was
    known: dict[str, dict] = {}

    def make(context: resource.Context, props: dict) -> tuple[str, dict]:
        physical_id, attributes = kind.create(context, props)
        known[physical_id] = dict(attributes or {})
        return physical_id, dict(known[physical_id])

    def create(logical_id: str, props: dict, stack_name: str) -> tuple[str, dict]:
        props = resource.without_system_tags(kind.type_name, props)
        refuse_findings(kind.type_name, props)
        return make(resource.Context(cloud, stack_name, logical_id), props)

    def update(physical_id: str, old: dict, new: dict, stack_name: str, logical_id: str) -> tuple[str, dict]:
        old, new = (resource.without_system_tags(kind.type_name, props) for props in (old, new))
        refuse_findings(kind.type_name, new)
        context = resource.Context(cloud, stack_name, logical_id)
        changed = resource.replaces(kind.type_name, old, new)
        if changed:
            name = kind.name_property
            if name and new.get(name) and old.get(name) == new.get(name):
                raise ValueError(
                    "CloudFormation cannot update a stack when a custom-named resource requires replacing. "
                    f"Rename {new[name]} and update the stack again. (changed: {', '.join(changed)})"
                )
            created = make(context, new)
            # A stack deletes the predecessor at its end, on a worker thread; a delete that is queued here would
            # run on the event loop, and wait for ever for this server. A nested stack has no such end.
            if created[0] != physical_id and provisioners._DEFERRED_PREDECESSOR_DELETES.get() is None:
                provisioners._delete_predecessor(kind.delete, context, physical_id, old)
            return created
        known[physical_id] = {
            **known.get(physical_id, {}),
            **(kind.update(context, physical_id, old, new) or {}),
        }
        return physical_id, dict(known[physical_id])

    def delete(physical_id: str, props: dict, logical_id: str = "") -> None:
        kind.delete(resource.Context(cloud, "", logical_id), physical_id, props)

    return {
        "create": create,
        "update": update,
        "delete": delete,
        "update_with_logical_id": True,
        "delete_with_logical_id": True,
    }


def _check_first(cloud: Cloud, name: str, handler: dict[str, Any]) -> None:
    def checked(function: Callable, position: int) -> Callable:
        def run(*arguments: Any, **keywords: Any) -> Any:
            refuse_findings(name, arguments[position])
            if name in refusals.CHECKS:
                refusals.CHECKS[name](cloud, arguments[position])
            return function(*arguments, **keywords)

        return run

    if "create" in handler:
        handler["create"] = checked(handler["create"], 1)
    if "update" in handler:
        handler["update"] = checked(handler["update"], 2)


def keep_buckets() -> None:
    """A stack's bucket gets its tags and the stack's, and is not deleted while something is in it; rules get stack tags too."""
    from ministack.services import s3
    from ministack.services.cloudformation import provisioners

    handler = provisioners._RESOURCE_HANDLERS["AWS::S3::Bucket"]
    create, update, delete = handler["create"], handler["update"], handler["delete"]

    def tagged(answer: tuple[str, dict], props: dict) -> tuple[str, dict]:
        s3._bucket_tags[answer[0]] = {t["Key"]: str(t["Value"]) for t in props.get("Tags") or []}
        return answer

    def delete_empty(physical_id: str, props: dict) -> None:
        if physical_id in s3._buckets:
            status, _, body = _triple(s3._delete_bucket(physical_id))
            if status == 409:
                raise ValueError(
                    f"The bucket you tried to delete is not empty: {physical_id} (Service: S3, Status Code: 409)"
                    if b"BucketNotEmpty" in body
                    else body.decode()
                )
        delete(physical_id, props)

    handler["create"] = lambda logical_id, props, stack: tagged(create(logical_id, props, stack), props)
    handler["update"] = lambda physical_id, old, new, stack: tagged(update(physical_id, old, new, stack), new)
    handler["delete"] = delete_empty
    for name in ("AWS::S3::Bucket", "AWS::Events::Rule"):
        provisioners._STACK_TAG_PROPERTY[name] = ("Tags", "list")


# -- events -----------------------------------------------------------------------------------------------------
Target = Callable[[dict[str, Any], str], None]


def register_targets(cloud: Cloud, targets: dict[str, Target]) -> None:
    """Deliver events to the services in ``targets`` (by the ARN's service); a target nobody serves is an error in the log
    and a failed delivery that ``/_localaws/health`` counts, never a silent success."""
    from ministack.services import eventbridge

    deliver = eventbridge._invoke_target
    known = {"lambda", "sqs", "sns", "states", "events", "logs", "firehose", "kinesis"}

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
    """EventBridge Scheduler's universal target: ``arn:aws:scheduler:::aws-sdk:<service>:<operation>`` under the schedule's role."""
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


# -- time ---------------------------------------------------------------------------------------------------------
def use_clock(cloud: Cloud) -> None:
    """Let schedules, rules, metrics and alarms keep the cloud's time, and tick at once when it moves."""
    from ministack.core.responses import request_scope
    from ministack.services import cloudwatch, cloudwatch_logs, eventbridge, scheduler, sns, sqs

    # with the queues: a message that a rule sends is visible from the rule's time on
    for module in (scheduler, eventbridge, cloudwatch, cloudwatch_logs, sns, sqs):
        module.time = clock

    def tick() -> None:
        with request_scope(cloud.account, cloud.region):
            scheduler._tick_schedules()
            eventbridge._tick_scheduled_rules()

    clock.on_advance(tick)


# -- smaller gaps -------------------------------------------------------------------------------------------------
def read_template_urls() -> None:
    """Read ``https://BUCKET.s3.REGION.amazonaws.com/key`` template URLs; ministack knows path style only."""
    from ministack.services.cloudformation import handlers, helpers

    original = helpers._resolve_document

    def resolve(params: dict, body_key: str, url_key: str, label: str) -> Any:
        url = params.get(url_key)
        value = url[0] if isinstance(url, list) else url
        if value in service_documents:
            return service_documents[value], None
        path = path_style(value or "")
        if path:
            params = {**params, url_key: [path] if isinstance(url, list) else path}
        return original(params, body_key, url_key, label)

    helpers._resolve_document = resolve
    for module in (handlers,):
        if hasattr(module, "_resolve_document"):
            module._resolve_document = resolve


#: templates in buckets of AWS's own services (Service Catalog copies a product's template into one), by URL
service_documents: dict[str, str] = {}
#: stack tags with the prefix ``aws:`` that a service of ours sets, as (key, value); nobody else may set such
service_tags: set[tuple[str, str]] = set()


def allow_service_tags() -> None:
    """Let Service Catalog tag its stacks ``aws:servicecatalog:…``; from any other caller ``aws:`` stays refused."""
    from ministack.services.cloudformation import helpers

    original = helpers._validate_stack_tags
    helpers._validate_stack_tags = lambda tags: original(
        [t for t in tags if (t.get("Key"), t.get("Value")) not in service_tags]
    )


def read_prefix_lists() -> None:
    """Keep the prefix lists of a security group's rule; ministack reads only addresses and groups from the request."""
    from ministack.services import ec2

    original = ec2._parse_ip_permissions

    def parse(params: dict, prefix: str) -> list[dict]:
        rules = original(params, prefix)
        for number, rule in enumerate(rules, 1):
            entries: dict[str, dict] = {}
            for key, value in params.items():
                match = re.fullmatch(
                    rf"{prefix}\.{number}\.PrefixListIds\.(\d+)\.(PrefixListId|Description)", key
                )
                if match:
                    entries.setdefault(match[1], {})[match[2]] = (
                        value[0] if isinstance(value, list) else value
                    )
            rule["PrefixListIds"] = list(entries.values()) or rule.get("PrefixListIds", [])
        return rules

    ec2._parse_ip_permissions = parse


def path_style(url: str) -> str | None:
    """``https://s3.amazonaws.com/bucket/key`` for a virtual-hosted S3 URL, None for any other."""
    match = re.match(r"https://([a-z0-9.-]+)\.s3[.-][a-z0-9-]+\.amazonaws\.com(?:\.cn)?/(.+)", url)
    return f"https://s3.amazonaws.com/{match[1]}/{match[2]}" if match else None


def alarms_mind_dimensions() -> None:
    """An alarm reads only the series whose dimensions equal its own; ministack reads all of the metric's name."""
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


def keep_mail(cloud: Cloud) -> None:
    """Keep what SNS would send by e-mail in the cloud's outbox.

    As on AWS, an address first gets a mail that asks for confirmation, and nothing else before its link was followed.
    """
    from ministack.services import sns
    from ministack.services.cloudformation import provisioners

    fan_out, subscribe = sns._fanout, sns._subscribe

    def ask() -> None:
        for topic in list(sns._topics._data.values()):
            for one in topic["subscriptions"]:
                if one.get("protocol") in ("email", "email-json") and "asked" not in one:
                    one.update(asked=True, confirmed=False, token=cloud.new_id(length=32))
                    one.setdefault("attributes", {})["PendingConfirmation"] = "true"
                    link = f"{cloud.endpoint}/?{urlencode({'Action': 'ConfirmSubscription', 'TopicArn': topic['arn'], 'Token': one['token']})}"
                    post(
                        topic["arn"],
                        one["endpoint"],
                        "AWS Notification - Subscription Confirmation",
                        f"You have chosen to subscribe to the topic:\n{topic['arn']}\n\nTo confirm this subscription, follow the link:\n{link}\n",
                    )

    def post(topic_arn: str, to: str, subject: str, body: str) -> None:
        cloud.outbox.append(
            {"to": to, "subject": subject, "body": body, "topic": topic_arn, "at": clock.now().isoformat()}
        )

    def fanout(topic_arn: str, msg_id: str, message: str, subject: str, *rest: Any, **named: Any) -> Any:
        ask()
        topic = sns._topic_by_arn_any_scope(topic_arn)
        structure = rest[0] if rest else named.get("message_structure", "")
        for one in (topic or {}).get("subscriptions", []):
            if one.get("protocol") in ("email", "email-json") and one.get("confirmed"):
                body = sns._resolve_message_for_protocol(message, structure, one["protocol"])
                post(topic_arn, one["endpoint"], subject or "AWS Notification Message", body)
        return fan_out(topic_arn, msg_id, message, subject, *rest, **named)

    def then_ask(function: Callable) -> Callable:
        def run(*arguments: Any, **named: Any) -> Any:
            answer = function(*arguments, **named)
            ask()
            return answer

        return run

    sns._fanout = fanout
    sns._subscribe = then_ask(subscribe)
    for name in ("AWS::SNS::Topic", "AWS::SNS::Subscription"):
        handler = provisioners._RESOURCE_HANDLERS[name]
        for step in ("create", "update"):
            if step in handler:
                handler[step] = then_ask(handler[step])


def images_are_told() -> None:
    """DescribeImages refuses an image that is not there, and says an image's size; ministack leaves it out, silently."""
    from ministack.services import ecr

    original = ecr._describe_images

    def describe(data: dict) -> Any:
        name = data.get("repositoryName", "")
        for wanted in (data.get("imageIds") or []) if name in ecr._repositories else []:
            if not ecr._find_image(name, wanted):
                parts = ", ".join(f"{k}:'{wanted.get(k, 'null')}'" for k in ("imageDigest", "imageTag"))
                return ecr.error_response_json(
                    "ImageNotFoundException",
                    f"The image with imageId {{{parts}}} does not exist within the repository with name '{name}' "
                    f"in the registry with id '{ecr._registry_id()}'",
                    400,
                )
        status, headers, body = _triple(original(data))
        document = json.loads(body)
        for image in document.get("imageDetails", []):
            manifest = json.loads(
                ecr._find_image(name, {"imageDigest": image["imageDigest"]})["imageManifest"] or "{}"
            )
            image["imageSizeInBytes"] = sum(
                part.get("size", 0) for part in (manifest.get("config", {}), *manifest.get("layers", []))
            )
        return status, headers, json.dumps(document).encode()

    ecr._describe_images = describe


def refuse_unknown_parameters() -> None:
    """CloudFormation refuses values for parameters that the template does not have; ministack drops them."""
    from ministack.services.cloudformation import changesets, handlers

    def checked(original: Callable) -> Callable:
        def resolve(template: dict, provided: list[dict], *rest: Any) -> dict:
            unknown = [
                p["Key"]
                for p in provided
                if "Key" in p and p["Key"] not in (template.get("Parameters") or {})
            ]
            if unknown:
                raise ValueError(f"Parameters: [{', '.join(unknown)}] do not exist in the template")
            return original(template, provided, *rest)

        return resolve

    for module in (handlers, changesets):
        module._resolve_parameters = checked(module._resolve_parameters)


def refuse_trust_policies() -> None:
    """CreateRole and UpdateAssumeRolePolicy refuse a malformed trust policy (a missing Principal …) as IAM does."""
    from ministack.services import iam

    iam._trust_policy_not_principal_error = refusals.trust_policy_error


# -- who calls ---------------------------------------------------------------------------------------------------
def scope_request(cloud: Cloud, access_key: str) -> contextvars.Context:
    """A context in which account, region and caller of a request are set."""
    from ministack.core.responses import set_request_account_id, set_request_region

    context = contextvars.copy_context()

    def enter() -> None:
        set_request_account_id(access_key)
        set_request_region(cloud.region)
        caller_key.set(access_key)

    context.run(enter)
    return context


def caller_arn(cloud: Cloud) -> str:
    """The ARN of who makes the current request: an assumed role's session, or the account's root."""
    from ministack.services import sts

    session = sts._sessions.get(caller_key.get())
    return session["Arn"] if session else f"arn:{cloud.partition}:iam::{cloud.account}:root"
