"""CloudFormation: our resource types, checks of the emulator's own, templates, tags and parameters."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from localaws import refusals, resource
from localaws.errors import AwsError
from localaws.hooks.events import put_service_event

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
    "stack_events": (
        "ministack.services.cloudformation.stacks:_add_event",
        "ministack.services.cloudformation.handlers:_add_event",
        "ministack.services.cloudformation.changesets:_add_event",
    ),
    "template_url": ("ministack.services.cloudformation.helpers:_resolve_document",),
    "service_tags": ("ministack.services.cloudformation.helpers:_validate_stack_tags",),
    "unknown_parameters": (
        "ministack.services.cloudformation.handlers:_resolve_parameters",
        "ministack.services.cloudformation.changesets:_resolve_parameters",
        "ministack.services.cloudformation.engine:_resolve_parameters",
    ),
    "stack_permissions": (
        "ministack.services.cloudformation:_ACTION_HANDLERS",
        "ministack.services.cloudformation.handlers:_resolve_stack",
        "ministack.services.cloudformation.changesets:_find_change_set",
        "ministack.services.cloudformation.helpers:_error",
        "ministack.services.cloudformation.helpers:_p",
        "ministack.services.cloudformation.provisioners:_RESOURCE_HANDLERS",
        "ministack.services.cloudformation.provisioners:_custom_resource_create",
        "ministack.services.cloudformation.provisioners:_custom_resource_update",
        "ministack.services.cloudformation.provisioners:_custom_resource_delete",
        "ministack.services.cloudformation.stacks:_resolve_dynamic_references",
    ),
}


#: templates in buckets of AWS's own services (Service Catalog copies a product's template into one), by URL
service_documents: dict[str, str] = {}
#: stack tags with the prefix ``aws:`` that a service of ours sets, as (key, value); nobody else may set such
service_tags: set[tuple[str, str]] = set()


def register_types(cloud: Cloud, types: list[resource.ResourceType]) -> None:
    """Give ministack's engine our types, and check the properties of its own against the schemas."""
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


def tell_of_stacks(cloud: Cloud) -> None:
    """Put the event of each change of a stack's status on the default bus.

    https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/event-detail-stack-status-change.html
    """
    from ministack.services.cloudformation import changesets, handlers, stacks

    add = stacks._add_event

    def told(
        stack_id: str, stack_name: str, logical_id: str, kind: str, status: str, reason: str = "", *rest: Any,
        **named: Any,
    ) -> None:  # fmt: skip
        add(stack_id, stack_name, logical_id, kind, status, reason, *rest, **named)
        if kind != "AWS::CloudFormation::Stack" or logical_id != stack_name:
            return  # a resource; a nested stack is one of its parent's, and tells of itself too
        detail = {"stack-id": stack_id, "status-details": {"status": status, "status-reason": reason}}
        if token := stacks.CLIENT_REQUEST_TOKEN.get():
            detail["client-request-token"] = token
        # deliveries call the cloud, in which the stack is being changed
        cloud.spawn(
            put_service_event,
            *(cloud, "aws.cloudformation", "CloudFormation Stack Status Change", detail, [stack_id]),
            name="stack-event",
        )

    stacks._add_event = handlers._add_event = changesets._add_event = told


def refuse_findings(type_name: str, logical_id: str, props: dict[str, Any]) -> None:
    """Raise ValueError, worded as the registry's answer, when properties break the schema."""
    broken = resource.findings(type_name, props)
    if broken:
        raise ValueError(
            f"Properties validation failed for resource {logical_id} with message: {'; '.join(broken)}"
        )


def _handlers(cloud: Cloud, kind: resource.ResourceType) -> dict[str, Any]:
    from ministack.services.cloudformation import provisioners

    # the engine takes an update's attributes as the whole truth: what an update does not name stays as it was
    known: dict[tuple[str, str], dict] = {}  # (account, physical id)

    def make(context: resource.Context, props: dict) -> tuple[str, dict]:
        physical_id, attributes = kind.create(context, props)
        known[cloud.account, physical_id] = dict(attributes or {})
        return physical_id, dict(attributes or {})

    def create(logical_id: str, props: dict, stack_name: str) -> tuple[str, dict]:
        props = resource.without_system_tags(kind.type_name, props)
        refuse_findings(kind.type_name, logical_id, props)
        return make(resource.Context(cloud.at(cloud.account), stack_name, logical_id), props)

    def update(physical_id: str, old: dict, new: dict, stack_name: str, logical_id: str) -> tuple[str, dict]:
        old, new = (resource.without_system_tags(kind.type_name, props) for props in (old, new))
        refuse_findings(kind.type_name, logical_id, new)
        context = resource.Context(cloud.at(cloud.account), stack_name, logical_id)
        changed = resource.replaces(kind.type_name, old, new)
        if changed:
            name = kind.name_property
            if name and new.get(name) and old.get(name) == new.get(name):
                raise ValueError(
                    "CloudFormation cannot update a stack when a custom-named resource requires replacing. "
                    f"Rename {new[name]} and update the stack again. (changed: {', '.join(changed)})"
                )
            created = make(context, new)
            # A stack deletes the predecessor at its end, on a worker thread; a delete that is queued here
            # would run on the event loop, and wait for ever for this server. A nested stack has no such end.
            if created[0] != physical_id and provisioners._DEFERRED_PREDECESSOR_DELETES.get() is None:
                provisioners._delete_predecessor(kind.delete, context, physical_id, old)
            return created
        place = cloud.account, physical_id
        known[place] = {**known.get(place, {}), **(kind.update(context, physical_id, old, new) or {})}
        return physical_id, dict(known[place])

    def delete(physical_id: str, props: dict, logical_id: str = "") -> None:
        kind.delete(resource.Context(cloud.at(cloud.account), "", logical_id), physical_id, props)

    return {
        "create": create,
        "update": update,
        "delete": delete,
        "update_with_logical_id": True,
        "delete_with_logical_id": True,
    }


def _check_first(cloud: Cloud, name: str, handler: dict[str, Any]) -> None:
    make, change = handler.get("create"), handler.get("update")
    with_logical_id = handler.get("update_with_logical_id")

    def check(logical_id: str, props: dict) -> None:
        refuse_findings(name, logical_id, props)
        if name in refusals.CHECKS:
            refusals.CHECKS[name](cloud, props)

    def create(logical_id: str, props: dict, stack_name: str) -> tuple[str, dict]:
        check(logical_id, props)
        return make(logical_id, props, stack_name)

    def update(physical_id: str, old: dict, new: dict, stack_name: str, logical_id: str) -> tuple[str, dict]:
        check(logical_id, new)
        return change(physical_id, old, new, stack_name, *([logical_id] if with_logical_id else []))

    if make:
        handler["create"] = create
    if change:
        handler.update(update=update, update_with_logical_id=True)


def read_template_urls() -> None:
    """Read ``https://BUCKET.s3.REGION.amazonaws.com/key`` template URLs; ministack knows path style only."""
    from ministack.services.cloudformation import helpers

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


def path_style(url: str) -> str | None:
    """``https://s3.amazonaws.com/bucket/key`` for a virtual-hosted S3 URL, None for any other."""
    match = re.match(r"https://([a-z0-9.-]+)\.s3[.-][a-z0-9-]+\.amazonaws\.com(?:\.cn)?/(.+)", url)
    return f"https://s3.amazonaws.com/{match[1]}/{match[2]}" if match else None


def allow_service_tags() -> None:
    """Let Service Catalog tag its stacks ``aws:servicecatalog:…``; from others ``aws:`` stays refused."""
    from ministack.services.cloudformation import helpers

    original = helpers._validate_stack_tags
    helpers._validate_stack_tags = lambda tags: original(
        [t for t in tags if (t.get("Key"), t.get("Value")) not in service_tags]
    )


def refuse_unknown_parameters() -> None:
    """CloudFormation refuses values for parameters that the template does not have; ministack drops them."""
    from ministack.services.cloudformation import changesets, engine, handlers

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

    for module in (handlers, changesets, engine):  # the engine's own is that of nested stacks
        module._resolve_parameters = checked(module._resolve_parameters)


def ask_for_stacks(cloud: Cloud) -> None:
    """Put what CloudFormation does for a stack before IAM's policies; the last hook on its handlers."""
    from ministack.services.cloudformation import _ACTION_HANDLERS, changesets, engine, handlers, provisioners
    from ministack.services.cloudformation import stacks as engine_stacks

    from localaws.permissions.stacks import Stacks

    ours = Stacks(cloud)
    for action, stored in _STACK_OPERATIONS.items():
        _ACTION_HANDLERS[action] = _under_a_role(ours, action, stored, _ACTION_HANDLERS[action])
    _ACTION_HANDLERS["DescribeStacks"] = _with_roles(ours, _ACTION_HANDLERS["DescribeStacks"])
    for name, handler in provisioners._RESOURCE_HANDLERS.items():
        if name != "AWS::CloudFormation::CustomResource":
            ours.guarded(name, handler)
    provisioners._custom_resource_create = ours.custom(provisioners._custom_resource_create)
    provisioners._custom_resource_update = ours.custom(provisioners._custom_resource_update, properties=2)
    provisioners._custom_resource_delete = ours.custom(provisioners._custom_resource_delete)
    provisioners._RESOURCE_HANDLERS["AWS::CloudFormation::CustomResource"]["create"] = (
        provisioners._custom_resource_create
    )

    def parameters(original: Callable) -> Callable:
        def resolve(
            template: dict, provided: list[dict], previous: dict | None = None, *rest: Any, **more: Any
        ) -> dict:
            ours.ask_parameters(template, [_as_before(one, previous or {}) for one in provided])
            return original(template, provided, previous, *rest, **more)

        return resolve

    for module in (handlers, changesets, engine):
        module._resolve_parameters = parameters(module._resolve_parameters)
    references = engine_stacks._resolve_dynamic_references

    def resolve_references(value: Any, *rest: Any, **more: Any) -> Any:
        ours.ask_references(json.dumps(value, default=str))
        return references(value, *rest, **more)

    engine_stacks._resolve_dynamic_references = resolve_references


#: operations that work on a stack's resources → whether the role they name is kept for later operations
_STACK_OPERATIONS = {
    "CreateStack": True,
    "UpdateStack": True,
    "CreateChangeSet": True,
    "ExecuteChangeSet": True,
    "ContinueUpdateRollback": True,
    "RollbackStack": True,
    "DeleteStack": False,
}


def _with_roles(ours: Any, describe: Callable) -> Callable:
    """Tell each stack's role, which a deletion uses too unless it names another."""

    def told(match: re.Match[bytes]) -> bytes:
        role = ours.roles.get(match[1].decode(), "")
        return match[0] + (f"<RoleARN>{role}</RoleARN>".encode() if role else b"")

    def run(params: dict) -> Any:
        status, headers, body = describe(params)
        content = body.encode() if isinstance(body, str) else body
        return status, headers, re.sub(rb"<StackId>([^<]+)</StackId>(?=<StackStatus>)", told, content)

    return run


def _as_before(provided: dict[str, str], previous: dict[str, Any]) -> dict[str, str]:
    """A parameter that keeps its previous value, with that: of one from SSM the name, which is read anew."""
    kept = previous.get(provided.get("Key", ""))
    if not provided.get("UsePreviousValue") or not isinstance(kept, dict):
        return provided
    return {**provided, "Value": kept.get("SsmName", kept.get("Value", ""))}


def _under_a_role(ours: Any, action: str, stored: bool, operation: Callable) -> Callable:
    from ministack.services.cloudformation import changesets, handlers, helpers

    def named(params: dict, key: str) -> str:
        return str(helpers._p(params, key))

    def run(params: dict) -> Any:
        stack, change_set = named(params, "StackName"), ""
        if action == "ExecuteChangeSet":
            name = (handlers._resolve_stack(stack) or {}).get("StackName", "")
            change_set, found = changesets._find_change_set(named(params, "ChangeSetName"), name)
            stack = found["StackName"] if found else ""
        before = handlers._resolve_stack(stack) or {}
        is_there = before.get("StackStatus") not in (None, "DELETE_COMPLETE")
        kept = ours.roles.get(before["StackId"], "") if is_there else ""
        role = named(params, "RoleARN") or ours.roles.get(change_set, "") or kept
        try:
            answer = ours.run(role, lambda: operation(params))
        except AwsError as error:
            return helpers._error(error.code, error.message, error.status)
        if role and stored and answer[0] < 300:
            if action == "CreateChangeSet":
                name = (handlers._resolve_stack(stack) or {}).get("StackName", "")
                made, _ = changesets._find_change_set(named(params, "ChangeSetName"), name)
            else:
                made = (handlers._resolve_stack(stack) or {}).get("StackId")
            ours.roles[made] = role
        return answer

    return run
