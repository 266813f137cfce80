"""The retraining workflow, as a build uses it (flow E): a build of the code is one of the reasons to train.

The workflow trains once for all reasons that come together, and one run at a time; the build asks it and
learns which execution of the SageMaker pipeline its reason became part of.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from .console import Fault, say

FIRST_POLL, LAST_POLL = 1.0, 15.0  # seconds
PATIENCE = 20.0  # seconds after which the log says what is waited for
#: states of the workflow that start a training, with what they give back
STARTS = {"Start": "PipelineExecutionArn", "StartWorkflow": "ExecutionArn"}
#: parameters of the SageMaker pipeline that the workflow gives values to
PARAMETERS = ("RetrainingReason", "InputDataUri")


def missing_parameters(definition: dict[str, Any]) -> list[str]:
    """What a pipeline must declare so that the workflow can start it, and does not."""
    declared = {parameter.get("Name") for parameter in definition.get("Parameters", [])}
    return [
        f"it declares no parameter {name}: every retraining gives it a value (see the seed's pipeline.py)"
        for name in PARAMETERS
        if name not in declared
    ]


def ask(states: Any, machine: str, commit: str, build: str, orchestrator: str = "pipelines") -> str:
    """Start an execution for a commit, or take up the one that is running for it; its ARN.

    The name is the commit's, so that a repeated call starts nothing twice. A commit that was built before is
    built again under the name of the build too.
    """
    stem = f"commit-{commit[:12] or 'unknown'}"
    for name in (stem, f"{stem}-{build}"):
        reason = {
            "kind": "code",
            "id": name,
            "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "detail": f"commit {commit[:12] or 'unknown'}",
            "orchestrator": orchestrator,
        }
        try:
            started = states.start_execution(stateMachineArn=machine, name=name, input=json.dumps(reason))
            return started["executionArn"]
        except states.exceptions.ExecutionAlreadyExists:
            execution = f"{machine.replace(':stateMachine:', ':execution:')}:{name}"
            if states.describe_execution(executionArn=execution)["status"] == "RUNNING":
                say(f"retraining {name} is under way already")
                return execution
    raise Fault(f"build {build} of commit {commit} has trained already: start the stage again")


def pipeline_execution(
    states: Any, execution: str, sleep: Callable[[float], None], clock: Callable[[], float]
) -> str:
    """Wait until the workflow has started the pipeline for this reason; the ARN of that execution."""
    began, pause, told = clock(), FIRST_POLL, False
    while True:
        described = states.describe_execution(executionArn=execution)
        found = _started(states, execution)
        if not found and described["status"] == "SUCCEEDED":
            found = json.loads(described["output"]).get("pipeline_execution_arn")
        if found:
            return found
        if described["status"] != "RUNNING":
            reason = described.get("cause") or described.get("output") or "no reason given"
            raise Fault(f"the retraining workflow ended as {described['status']}: {reason} ({execution})")
        if not told and clock() - began >= PATIENCE:
            say("  another training is under way; this one begins when it is over")
            told = True
        sleep(pause)
        pause = min(LAST_POLL, pause * 1.5)


def _started(states: Any, execution: str) -> str:
    """The execution that the first state which starts one has started, "" before it has run."""
    pages = states.get_paginator("get_execution_history").paginate(executionArn=execution)
    for page in pages:
        for event in page["events"]:
            details = event.get("stateExitedEventDetails", {})
            if event["type"] == "TaskStateExited" and details.get("name") in STARTS:
                return json.loads(details["output"]).get(STARTS[details["name"]], "")
    return ""
