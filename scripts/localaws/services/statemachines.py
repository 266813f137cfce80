"""Step Functions as the target of rules and schedules; the machines themselves are the emulator's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from localaws.hooks.states import Roles

if TYPE_CHECKING:
    from localaws.cloud import Cloud


def start(cloud: Cloud) -> Callable[[dict[str, Any], str], None]:
    """EventBridge target: start an execution under the target's role."""
    roles = Roles(cloud)

    def run(target: dict[str, Any], payload: str) -> None:
        client = roles.client("stepfunctions", target["RoleArn"], target["Principal"], target["Source"])
        client.start_execution(stateMachineArn=target["Arn"], input=payload)

    return run


TARGETS = {"states": start}
