"""How pipeline executions run: stage by stage, the actions of one run order side by side.

An execution is a thread that walks through the stages. A stage holds one execution at a time (not in PARALLEL
mode); the next one waits at the door: in SUPERSEDED mode the newest pushes out those that wait, in QUEUED
mode they keep their order. Everything that ListActionExecutions and GetPipelineState tell is noted in records
while it happens.
"""

from __future__ import annotations

import copy
import re
import threading
import uuid
from typing import TYPE_CHECKING, Any

from localaws import clock
from localaws.errors import AwsError
from localaws.pipelines import actions
from localaws.pipelines.actions import Action, ActionAbandoned, ActionFailed
from localaws.pipelines.structure import VARIABLE

if TYPE_CHECKING:
    from localaws.cloud import Cloud

_STATES = {
    "InProgress": "STARTED",
    "Succeeded": "SUCCEEDED",
    "Failed": "FAILED",
    "Stopped": "STOPPED",
    "Stopping": "STOPPING",
    "Superseded": "SUPERSEDED",
    "Cancelled": "CANCELED",
    "Abandoned": "ABANDONED",
    "Skipped": "SKIPPED",
}


class Superseded(Exception):
    """A newer execution took this one's place at a stage's door."""


class Stopped(Exception):
    """The execution was stopped by a person."""


class Pipeline:
    """A pipeline's declaration, its executions and what its stages hold."""

    def __init__(self, cloud: Cloud, declaration: dict[str, Any], tags: list[dict[str, str]]) -> None:
        self.cloud = cloud
        self.declaration = declaration
        self.tags = {t["key"]: t["value"] for t in tags}
        self.created = self.updated = clock.now()
        self.runs: dict[str, Run] = {}
        self.disabled: dict[str, dict[str, Any]] = {}
        self.doors: dict[str, Door] = {}
        self.last: dict[str, dict[str, Any]] = {}  # stage → latest stage record
        self.actions: dict[tuple[str, str], dict[str, Any]] = {}  # stage, action → latest action state
        self.changed = threading.Condition(threading.RLock())

    @property
    def name(self) -> str:
        """The pipeline's name."""
        return self.declaration["name"]

    @property
    def arn(self) -> str:
        """The pipeline's ARN."""
        return self.cloud.arn("codepipeline", self.name)

    @property
    def mode(self) -> str:
        """SUPERSEDED, QUEUED or PARALLEL."""
        return self.declaration.get("executionMode", "SUPERSEDED")

    def store(self, region: str | None = None) -> dict[str, Any]:
        """The artifact store (of a region)."""
        return (
            self.declaration.get("artifactStore")
            or self.declaration["artifactStores"][region or self.cloud.region]
        )

    def stage(self, name: str) -> dict[str, Any]:
        """A stage's declaration. Raises AwsError StageNotFoundException."""
        for stage in self.declaration["stages"]:
            if stage["name"] == name:
                return stage
        raise AwsError("StageNotFoundException", f"Stage with name {name} not found in pipeline {self.name}")

    def door(self, stage: str) -> Door:
        """The door of a stage."""
        return self.doors.setdefault(stage, Door(self, stage))


class Door:
    """Lets executions into a stage, by the pipeline's mode and the transition's switch."""

    def __init__(self, pipeline: Pipeline, stage: str) -> None:
        self.pipeline, self.stage = pipeline, stage
        self.inside: Run | None = None
        self.waiting: list[Run] = []

    def enter(self, run: Run) -> None:
        """Wait for the stage. Raises Superseded or Stopped."""
        changed = self.pipeline.changed
        if self.pipeline.mode == "PARALLEL":
            return
        with changed:
            if self.pipeline.mode == "SUPERSEDED":
                for other in self.waiting:
                    other.superseded_by = run.id
                self.waiting.clear()
            self.waiting.append(run)
            changed.notify_all()
            try:
                while self.inside or self.stage in self.pipeline.disabled or self.waiting[0] is not run:
                    if run.superseded_by:
                        raise Superseded
                    run.heed()
                    changed.wait(0.5)
                if run.superseded_by:
                    raise Superseded
                self.inside = run
            finally:
                if run in self.waiting:
                    self.waiting.remove(run)

    def leave(self, run: Run) -> None:
        """Make room for the next."""
        with self.pipeline.changed:
            if self.inside is run:
                self.inside = None
            self.pipeline.changed.notify_all()


class Run:
    """One execution of a pipeline."""

    def __init__(
        self,
        pipeline: Pipeline,
        trigger: tuple[str, str],
        variables: dict[str, str],
        revisions: dict[str, str],
        kind: str = "STANDARD",
    ) -> None:
        self.pipeline, self.cloud = pipeline, pipeline.cloud
        self.declaration = copy.deepcopy(pipeline.declaration)
        self.id = str(uuid.uuid4())
        self.trigger, self.variables, self.revisions, self.kind = trigger, variables, revisions, kind
        self.status, self.summary = "InProgress", ""
        self.started = self.touched = clock.now()
        self.artifacts: dict[str, dict[str, str]] = {}
        self.source_revisions: dict[str, dict[str, Any]] = {}
        self.namespaces: dict[str, dict[str, str]] = {}
        self.stages: dict[str, dict[str, Any]] = {}
        self.records: list[dict[str, Any]] = []
        self.rules: list[dict[str, Any]] = []
        self.superseded_by = ""
        self.stop_reason: str | None = None
        self.abandoned = False
        self.attempts = 1
        self.rollback_target = ""
        self.overridden: set[str] = set()

    # -- walking through --------------------------------------------------------------------------------
    def go(self, first: str | None = None, retry: str = "", only: bool = False) -> None:
        """Run from a stage (the first by default) to the end.

        ``retry`` is FAILED_ACTIONS or ALL_ACTIONS for that stage.
        """
        names = [s["name"] for s in self.declaration["stages"]]
        start = names.index(first) if first else 0
        self._set("InProgress", "RESUMED" if retry else "STARTED")
        status = "Failed"
        try:
            for number, stage in enumerate(self.declaration["stages"][start : start + 1 if only else None]):
                outcome = self._stage(stage, retry if number == 0 else "")
                if outcome == "Failed":
                    break
                if outcome == "Stopped":
                    status = "Stopped"
                    break
            else:
                status = "Succeeded"
        except Superseded:
            status, self.summary = "Superseded", f"Superseded by {self.superseded_by}"
        except (Stopped, ActionAbandoned):
            status = "Stopped"
        except Exception as error:
            if not self.cloud.stopping:
                self.cloud.log.exception("pipeline %s, execution %s", self.pipeline.name, self.id)
            self.summary = f"{type(error).__name__}: {error}"
        self._set(status)

    def heed(self) -> None:
        """Raise Stopped when the execution was stopped or the cloud shuts down."""
        if self.stop_reason is not None or self.cloud.stopping:
            raise Stopped

    def touch(self) -> None:
        """Note that something changed."""
        self.touched = clock.now()

    def _stage(self, stage: dict[str, Any], retry: str) -> str:
        name = stage["name"]
        door = self.pipeline.door(name)
        self.heed()
        door.enter(self)
        record = {
            "pipelineExecutionId": self.id,
            "status": "InProgress",
            "type": self.kind,
            "attempt": 1,
            "conditions": {},
        }
        before = self.stages.get(name)
        if retry and before:
            record["attempt"] = before["attempt"] + 1
        self.stages[name] = self.pipeline.last[name] = record
        try:
            self._tell_stage(name, "RESUMED" if retry else "STARTED")
            verdict = self._conditions(stage, "beforeEntry", record)
            if verdict in ("SKIP", "FAIL"):
                return self._close(name, record, "Skipped" if verdict == "SKIP" else "Failed")
            outcome = self._actions(stage, retry)
            if outcome == "Succeeded" and self._conditions(stage, "onSuccess", record) in (
                "FAIL",
                "ROLLBACK",
            ):
                outcome = "Failed"
            on_failure = stage.get("onFailure") or {}
            if outcome == "Failed" and on_failure.get("result") == "RETRY" and not retry:
                record["attempt"] += 1
                record["automatic"] = True
                outcome = self._actions(
                    stage, (on_failure.get("retryConfiguration") or {}).get("retryMode", "FAILED_ACTIONS")
                )
            self._close(name, record, outcome)
            if outcome == "Failed" and on_failure.get("result") == "ROLLBACK":
                self._roll_back(name)
            return outcome
        except BaseException:
            self._close(name, record, "Stopped")
            raise
        finally:
            door.leave(self)

    def _close(self, name: str, record: dict[str, Any], status: str) -> str:
        record["status"] = status
        self._tell_stage(name, _STATES[status])
        return status

    def _actions(self, stage: dict[str, Any], retry: str) -> str:
        """Run a stage's actions by run order; Succeeded, Failed or Stopped."""
        done = (
            {
                r["actionName"]
                for r in self.records
                if r["stageName"] == stage["name"] and r["status"] == "Succeeded"
            }
            if retry == "FAILED_ACTIONS"
            else set()
        )
        for order in sorted({a.get("runOrder", 1) for a in stage["actions"]}):
            group = [a for a in stage["actions"] if a.get("runOrder", 1) == order and a["name"] not in done]
            self.heed()
            results: dict[str, str] = {}
            threads = [
                self.cloud.spawn(
                    self._action, stage["name"], action, results, name=f"action-{action['name']}"
                )
                for action in group
            ]
            for thread in threads:
                thread.join()
            if "Abandoned" in results.values():
                raise ActionAbandoned
            if len(results) < len(group) or "Failed" in results.values():
                return "Failed"
        return "Stopped" if self.stop_reason is not None else "Succeeded"

    def _action(self, stage: str, declaration: dict[str, Any], results: dict[str, str]) -> None:
        name, now = declaration["name"], clock.now()
        given = declaration.get("configuration") or {}
        record: dict[str, Any] = {
            "pipelineExecutionId": self.id,
            "actionExecutionId": str(uuid.uuid4()),
            "pipelineVersion": self.declaration["version"],
            "stageName": stage,
            "actionName": name,
            "startTime": now,
            "lastUpdateTime": now,
            "status": "InProgress",
            "output": {"outputArtifacts": []},
            "input": {
                "actionTypeId": declaration["actionTypeId"],
                "configuration": given,
                "resolvedConfiguration": {},
                "region": self.cloud.region,
                "roleArn": declaration.get("roleArn"),
                "namespace": declaration.get("namespace"),
                "inputArtifacts": [
                    {"name": a["name"], "s3location": self.artifacts[a["name"]]}
                    for a in declaration.get("inputArtifacts", [])
                    if a["name"] in self.artifacts
                ],
            },
        }
        with self.pipeline.changed:
            self.records.append(record)
            state = self.pipeline.actions[(stage, name)] = {"record": record, "state": {}}
        self._tell_action(record)
        status, fault = "Failed", ("InternalError", "")
        try:
            config = {k: self.resolve(v) for k, v in given.items()}
            record["input"]["resolvedConfiguration"] = config
            action = Action(self, stage, declaration, config, record)
            action.state = state["state"]
            kind = declaration["actionTypeId"]
            actions.RUNNERS[(kind["category"], kind["provider"])](action)
            with self.pipeline.changed:
                self.artifacts |= action.outputs
                if declaration.get("namespace"):
                    self.namespaces[declaration["namespace"]] = action.variables
            record["output"]["outputArtifacts"] = [
                {"name": n, "s3location": w} for n, w in action.outputs.items()
            ]
            record["output"]["outputVariables"] = action.variables
            status = "Succeeded"
        except ActionFailed as error:
            fault = error.code, error.message
        except ActionAbandoned:
            status = "Abandoned"
        except Exception as error:
            if not self.cloud.stopping:
                self.cloud.log.warning("action %s of %s: %s", name, self.pipeline.name, error)
            fault = (
                "PermissionError" if "AccessDenied" in str(error) else "InternalError",
                getattr(error, "message", None) or str(error),
            )
        if status == "Failed":
            record["output"].setdefault("executionResult", {})["errorDetails"] = {
                "code": fault[0],
                "message": fault[1],
            }
        record |= {"status": status, "lastUpdateTime": clock.now()}
        results[name] = status
        self.touch()
        self._tell_action(record)

    def resolve(self, text: str) -> str:
        """A configuration value with its variables' values. Raises ActionFailed for one that nothing set."""

        def value(match: re.Match) -> str:
            space, key = match.groups()
            found = (
                self.variables
                if space == "variables"
                else {"PipelineExecutionId": self.id}
                if space == "codepipeline"
                else self.namespaces.get(space, {})
            )
            if key not in found:
                raise ActionFailed(
                    "InvalidVariableReference",
                    f"The variable #{{{space}.{key}}} was not set by the actions before: namespace {space} "
                    "holds "
                    f"{', '.join(sorted(found)) or 'nothing'}",
                )
            return found[key]

        return VARIABLE.sub(value, text)

    # -- conditions -------------------------------------------------------------------------------------
    def _conditions(self, stage: dict[str, Any], kind: str, record: dict[str, Any]) -> str:
        """The result of the first condition that is not met; "" when all are."""
        verdict = ""
        for condition in (stage.get(kind) or {}).get("conditions", []):
            rules = [self._rule(stage["name"], rule) for rule in condition.get("rules", [])]
            failed = [r for r in rules if r["status"] == "Failed"]
            overridden = bool(failed) and f"{stage['name']}/{kind}" in self.overridden
            status = "Overridden" if overridden else "Failed" if failed else "Succeeded"
            record["conditions"].setdefault(kind, []).append(
                {
                    "status": status,
                    "at": clock.now(),
                    "rules": rules,
                    "summary": (f"Condition result: {condition['result']}" if failed else ""),
                }
            )
            if failed and not overridden and not verdict:
                verdict = condition["result"]
        return verdict

    def _rule(self, stage: str, rule: dict[str, Any]) -> dict[str, Any]:
        now, given = clock.now(), rule.get("configuration") or {}
        status, summary, resolved = "Failed", "", {}
        try:
            resolved = {k: self.resolve(v) for k, v in given.items()}
            met = _compare(resolved["Variable"], resolved["Operator"], resolved["Value"])
            status = "Succeeded" if met else "Failed"
            asked = f"{resolved['Operator']} {resolved['Value']!r}"
            value = resolved["Variable"]
            summary = f"{given['Variable']} is {value!r}; {asked} is {'met' if met else 'not met'}"
        except ActionFailed as error:
            summary = error.message
        record = {
            "ruleExecutionId": str(uuid.uuid4()),
            "ruleName": rule["name"],
            "stageName": stage,
            "pipelineExecutionId": self.id,
            "startTime": now,
            "lastUpdateTime": clock.now(),
            "status": status,
            "pipelineVersion": self.declaration["version"],
            "input": {
                "ruleTypeId": rule["ruleTypeId"],
                "configuration": given,
                "resolvedConfiguration": resolved,
                "region": self.cloud.region,
            },
            "output": {"executionResult": {"externalExecutionSummary": summary}},
        }
        self.rules.append(record)
        return record

    def _roll_back(self, stage: str) -> None:
        """Run the stage again as the last execution left it that went well."""
        for other in reversed(list(self.pipeline.runs.values())):
            if other is not self and other.stages.get(stage, {}).get("status") == "Succeeded":
                self.cloud.services["codepipeline"].roll_back(
                    self.pipeline, stage, other, "AutomatedRollback"
                )
                return
        self.summary = f"Stage {stage} could not be rolled back: no earlier execution succeeded in it"

    # -- events -----------------------------------------------------------------------------------------
    def _set(self, status: str, state: str = "") -> None:
        self.status = status
        self.touch()
        detail = {
            "pipeline": self.pipeline.name,
            "execution-id": self.id,
            "state": state or _STATES[status],
            "version": float(self.declaration["version"]),
            "start-time": self.started.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
            "pipeline-execution-attempt": float(self.attempts),
            "execution-trigger": {"trigger-type": self.trigger[0], "trigger-detail": self.trigger[1]},
        }
        failed = [r for r in self.records if r["status"] == "Failed"]
        if status == "Failed" and failed:
            detail["additionalAttributes"] = {
                "failedActionCount": len(failed),
                "failedActions": [
                    {
                        "action": r["actionName"],
                        "additionalInformation": r["output"]
                        .get("executionResult", {})
                        .get("errorDetails", {})
                        .get("message", ""),
                    }
                    for r in failed
                ],
                "failedStage": failed[-1]["stageName"],
            }
        self.cloud.emit(
            "aws.codepipeline", "CodePipeline Pipeline Execution State Change", detail, [self.pipeline.arn]
        )
        with self.pipeline.changed:
            self.pipeline.changed.notify_all()

    def _tell_stage(self, stage: str, state: str) -> None:
        self.cloud.emit(
            "aws.codepipeline",
            "CodePipeline Stage Execution State Change",
            {
                "pipeline": self.pipeline.name,
                "execution-id": self.id,
                "stage": stage,
                "state": state,
                "version": float(self.declaration["version"]),
                "start-time": self.started.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
                "pipeline-execution-attempt": float(self.attempts),
            },
            [self.pipeline.arn],
        )

    def _tell_action(self, record: dict[str, Any]) -> None:
        kind = record["input"]["actionTypeId"]
        detail = {
            "pipeline": self.pipeline.name,
            "execution-id": self.id,
            "action-execution-id": record["actionExecutionId"],
            "stage": record["stageName"],
            "action": record["actionName"],
            "state": _STATES[record["status"]],
            "region": self.cloud.region,
            "version": float(record["pipelineVersion"]),
            "type": {k: kind[k] for k in ("owner", "provider", "category", "version")},
            "pipeline-execution-attempt": float(self.attempts),
            "start-time": record["startTime"].strftime("%Y-%m-%dT%H:%M:%S.000Z"),
        }
        result = record["output"].get("executionResult")
        if result and record["status"] != "InProgress":
            error = result.get("errorDetails", {})
            detail["execution-result"] = {
                "external-execution-id": result.get("externalExecutionId"),
                "external-execution-url": result.get("externalExecutionUrl"),
                "external-execution-summary": result.get("externalExecutionSummary") or error.get("message"),
                "error-code": error.get("code"),
            }
        self.cloud.emit(
            "aws.codepipeline", "CodePipeline Action Execution State Change", detail, [self.pipeline.arn]
        )


def _compare(value: str, operator: str, wanted: str) -> bool:
    if operator == "EQ":
        return value == wanted
    if operator == "NE":
        return value != wanted
    if operator == "CONTAINS":
        return wanted in value
    return re.search(wanted, value) is not None
