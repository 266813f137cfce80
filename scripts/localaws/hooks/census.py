"""CloudFormation: what stacks there are, for a display of the cloud that needs no permissions."""

from __future__ import annotations

from collections import Counter
from typing import Any

#: hook → the emulator's private names it uses ("module:attribute")
HOOKS: dict[str, tuple[str, ...]] = {"census": ("ministack.services.cloudformation:_stacks",)}


def stacks() -> list[dict[str, Any]]:
    """Each stack: id, name, status, parent's name, its resources by type, and how many are under way."""
    from ministack.services.cloudformation import _stacks

    out = []
    for stack in _stacks.to_dict().values():
        if stack.get("StackStatus") == "DELETE_COMPLETE":
            continue
        resources = list(stack.get("_resources", {}).values())
        states = [(r.get("ResourceType", ""), str(r.get("ResourceStatus", ""))) for r in resources]
        out.append(
            {
                "id": stack["StackId"],
                "account": stack["StackId"].split(":")[4],
                "name": stack["StackName"],
                "status": stack["StackStatus"],
                "parent": stack.get("_parent_stack_name") or "",
                "types": dict(Counter(kind for kind, state in states if state.endswith("_COMPLETE"))),
                "pending": sum(state.endswith("IN_PROGRESS") for _, state in states),
            }
        )
    return out
