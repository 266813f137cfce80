"""Amazon States Language: what Step Functions refuses when a state machine is made.

The shape is judged by cfn-lint's rule E3601, which follows the published schema; where states lead to is
judged here. https://docs.aws.amazon.com/step-functions/latest/dg/amazon-states-language-state-machine-structure.html
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from cfnlint.api import lint
from cfnlint.config import ManualArgs

_ROLE = "arn:aws:iam::123456789012:role/any"
#: an integration with AWS's SDK: the service as its Java client is called, the operation in camel case
SDK_TASK = re.compile(r"arn:[\w-]+:states:::aws-sdk:(?P<service>[a-z0-9]+):(?P<operation>[a-z]\w*)")
OPTIMISED_TASK = re.compile(
    r"arn:[\w-]+:states:::(?P<service>[a-z0-9]+):(?P<operation>[a-z]\w*)(?P<wait>\.\w+)?(?::2)?"
)


def problems(definition: Any) -> list[str]:
    """Why AWS would refuse a definition; empty when it would not."""
    if not isinstance(definition, dict):
        return ["a definition is a JSON object"]
    properties = {"RoleArn": _ROLE, "Definition": definition}
    template = {
        "Resources": {"Machine": {"Type": "AWS::StepFunctions::StateMachine", "Properties": properties}}
    }
    found = lint(json.dumps(template), config=ManualArgs(regions=["us-east-1"]))
    said = [f"{m.rule.id}: {m.message}" for m in found if m.rule.id.startswith("E")]
    return said or list(_paths(definition, ""))


def states(machine: dict[str, Any], where: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Each state with its path, those inside Map and Parallel too."""
    for name, state in machine.get("States", {}).items():
        yield f"{where}/{name}", state
        for inner in [state.get("ItemProcessor") or state.get("Iterator"), *state.get("Branches", [])]:
            if inner:
                yield from states(inner, f"{where}/{name}")


def next_of(state: dict[str, Any]) -> list[str]:
    """The states that may follow one."""
    rules = [*state.get("Choices", []), *state.get("Catch", [])]
    return [n for n in (state.get("Next"), state.get("Default"), *(rule.get("Next") for rule in rules)) if n]


def _paths(machine: dict[str, Any], where: str) -> Iterator[str]:
    """What is wrong with the ways through the states: none ends, one leads nowhere, one is never reached."""
    known, start = machine.get("States", {}), machine.get("StartAt")
    if start not in known:
        yield f"MISSING_TRANSITION_TARGET: StartAt {start!r} is no state at {where or '/'}"
        return
    reached, waiting = set(), [start]
    while waiting:
        name = waiting.pop()
        if name in reached:
            continue
        reached.add(name)
        for following in next_of(known[name]):
            if following in known:
                waiting.append(following)
            else:
                yield f"MISSING_TRANSITION_TARGET: {where}/{name} leads to {following!r}, which is no state"
    for name in known:
        if name not in reached:
            yield f"MISSING_TRANSITION_TARGET: State {where}/{name} is not reachable"
    if not any(s.get("End") or s["Type"] in ("Succeed", "Fail") for s in known.values()):
        yield f"NO_TERMINAL_STATE: no state of {where or '/'} ends the execution"
    for name, state in known.items():
        for inner in [state.get("ItemProcessor") or state.get("Iterator"), *state.get("Branches", [])]:
            if inner:
                yield from _paths(inner, f"{where}/{name}")
