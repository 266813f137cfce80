"""Nested stacks: their attributes, their deletion, and what a child that fails leaves behind."""

from __future__ import annotations

from typing import Any

#: hook → the emulator's private names it uses ("module:attribute")
HOOKS: dict[str, tuple[str, ...]] = {
    "nested_attributes": (
        "ministack.services.cloudformation.provisioners:_provision_resource",
        "ministack.services.cloudformation.provisioners:_update_resource",
    ),
    "nested_deletes": (
        "ministack.services.cloudformation.provisioners:_RESOURCE_HANDLERS",
        "ministack.services.cloudformation.provisioners:_nested_stack_lookup_name",
        "ministack.services.cloudformation.provisioners:_delete_resource",
        "ministack.services.cloudformation.provisioners:_RETAINING_POLICIES",
        "ministack.services.cloudformation.engine:_topological_sort",
        "ministack.services.cloudformation.stacks:_resource_policy",
        "ministack.services.cloudformation.stacks:_add_event",
        "ministack.services.cloudformation:_stacks",
    ),
}
_STACK = "AWS::CloudFormation::Stack"


def keep_nested_attributes() -> None:
    """Let a resource of a nested stack keep its attributes over an update that leaves it alone.

    The engine takes what an update returns as all there is, and one that changes nothing returns nothing.
    """
    from ministack.services.cloudformation import provisioners

    provision, update = provisioners._provision_resource, provisioners._update_resource
    known: dict[tuple[str, str], dict] = {}

    def remember(resource_type: str, answer: tuple[str, dict], before: dict) -> tuple[str, dict]:
        physical_id, attributes = answer
        known[resource_type, physical_id] = {**before, **(attributes or {})}
        return physical_id, dict(known[resource_type, physical_id])

    def provision_and_remember(resource_type: str, *rest: Any) -> tuple[str, dict]:
        ours_to_make = resource_type.startswith("AWS::CloudFormation::")
        if ours_to_make and resource_type not in provisioners._RESOURCE_HANDLERS:  # else a silent placeholder
            raise ValueError(f"Template format error: Unrecognized resource types: [{resource_type}]")
        return remember(resource_type, provision(resource_type, *rest), {})

    def update_and_remember(resource_type: str, physical_id: str, *rest: Any) -> tuple[str, dict]:
        answer = update(resource_type, physical_id, *rest)
        before = known.get((resource_type, physical_id), {}) if answer[0] == physical_id else {}
        return remember(resource_type, answer, before)

    provisioners._provision_resource = provision_and_remember
    provisioners._update_resource = update_and_remember


def delete_nested_stacks() -> None:
    """Create and delete nested stacks as CloudFormation does.

    What a child's policies retain stays, a resource that cannot be deleted fails the stack, and a child that
    could not be made is deleted with what it has. The engine deletes all, only logs what failed, and leaves a
    failed child behind: the parent's rollback knows nothing of it. A child that went back says so.
    """
    from ministack.services.cloudformation import _stacks, provisioners
    from ministack.services.cloudformation.stacks import _add_event

    handler = provisioners._RESOURCE_HANDLERS[_STACK]
    deploy, redeploy = handler["create"], handler["update"]

    def create(logical_id: str, props: dict, stack_name: str) -> tuple[str, dict]:
        try:
            return deploy(logical_id, props, stack_name)
        except Exception as error:
            for name, stack in list(_stacks.items()):
                child = name.startswith(f"{stack_name}-{logical_id}-")
                child = child and stack.get("_parent_stack_name") == stack_name
                if child and stack["StackStatus"] == "CREATE_FAILED":
                    _delete(stack["StackId"], {})
            raise ValueError(f"Embedded stack {logical_id} was not successfully created: {error}") from error

    def update(physical_id: str, old: dict, new: dict, stack_name: str) -> tuple[str, dict]:
        name = provisioners._nested_stack_lookup_name(physical_id)
        goes_back = _stacks.get(name, {}).get("StackStatus") == "UPDATE_FAILED"
        try:
            answer = redeploy(physical_id, old, new, stack_name)
        except Exception as error:
            raise ValueError(f"Embedded stack {physical_id} was not successfully updated: {error}") from error
        if goes_back:
            _stacks[name]["StackStatus"] = status = "UPDATE_ROLLBACK_COMPLETE"
            _add_event(_stacks[name]["StackId"], name, name, _STACK, status, physical_id=physical_id)
        return answer

    handler.update(create=create, update=update, delete=_delete)


def _delete(physical_id: str, props: dict) -> None:
    """Delete a nested stack; raises ValueError that names the resources which could not be deleted."""
    from ministack.services.cloudformation import _stacks, provisioners
    from ministack.services.cloudformation.engine import _topological_sort
    from ministack.services.cloudformation.stacks import _add_event

    name = provisioners._nested_stack_lookup_name(physical_id)
    stack = _stacks.get(name)
    if not stack or stack["StackStatus"] == "DELETE_COMPLETE":
        return
    stack_id, resources = stack["StackId"], stack.get("_resources", {})
    definitions = (stack.get("_template") or {}).get("Resources") or {}
    failed = []
    for logical_id in reversed(_topological_sort(definitions, stack.get("_conditions", {}))):
        record = resources.get(logical_id)
        if not record:
            continue
        kind, own_id = record["ResourceType"], record.get("PhysicalResourceId", "")
        if _deletion_policy(stack, name, logical_id) in provisioners._RETAINING_POLICIES:
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
            f"Embedded stack {stack_id} was not successfully deleted: "
            f"The following resource(s) failed to delete: [{'; '.join(failed)}]."
        )
    stack["StackStatus"] = "DELETE_COMPLETE"
    _add_event(stack_id, name, name, _STACK, "DELETE_COMPLETE", physical_id=stack_id)


def _deletion_policy(stack: dict, name: str, logical_id: str) -> str:
    from ministack.services.cloudformation.stacks import _resource_policy

    template = stack.get("_template") or {}
    return _resource_policy(
        (template.get("Resources") or {}).get(logical_id),
        "DeletionPolicy",
        stack.get("_resources", {}),
        stack.get("_resolved_params", {}),
        stack.get("_conditions", {}),
        template.get("Mappings") or {},
        name,
        stack["StackId"],
    )
