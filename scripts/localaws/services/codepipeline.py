"""CodePipeline V2: the API, the resource type and the event target; what runs is in localaws.pipelines."""

from __future__ import annotations

import copy
import json
import threading
import uuid
from collections.abc import Callable
from typing import Any

from localaws import clock, hooks
from localaws.cloud import Cloud
from localaws.errors import AwsError
from localaws.pipelines import structure
from localaws.pipelines.actions import PRINCIPAL
from localaws.pipelines.engine import Pipeline, Run
from localaws.resource import Attributes, Context, ResourceType
from localaws.service import Service, page


class CodePipeline(Service):
    """Pipelines and their executions."""

    name = "codepipeline"

    def __init__(self, cloud: Cloud) -> None:
        super().__init__(cloud)
        self.pipelines: dict[str, Pipeline] = {}
        self.jobs: dict[str, dict[str, Any] | None] = {}
        self.tokens: dict[str, str] = {}
        #: why an execution is started, told by who starts it, by client request token
        self.triggers: dict[str, tuple[str, str]] = {}
        self.lock = threading.RLock()

    # -- pipelines --------------------------------------------------------------------------------------
    def find(self, name: str) -> Pipeline:
        """The pipeline of that name. Raises AwsError PipelineNotFoundException."""
        if name not in self.pipelines:
            raise AwsError(
                "PipelineNotFoundException",
                f"Account '{self.cloud.account}' does not have a pipeline with name '{name}'",
            )
        return self.pipelines[name]

    def _check(self, declaration: dict[str, Any]) -> dict[str, Any]:
        """The declaration with its defaults, if AWS would take it."""
        structure.refuse(declaration)
        try:
            self.cloud.check_trust(declaration["roleArn"], PRINCIPAL)
        except AwsError as error:
            raise AwsError(
                "InvalidStructureException",
                f"CodePipeline is not authorized to perform AssumeRole on role {declaration['roleArn']}: "
                f"{error.message}",
            ) from error
        out = copy.deepcopy(declaration)
        out.setdefault("pipelineType", "V1")
        out.setdefault("executionMode", "SUPERSEDED")
        for stage in out["stages"]:
            for action in stage["actions"]:
                action.setdefault("runOrder", 1)
                action.setdefault("configuration", {})
                action.setdefault("inputArtifacts", [])
                action.setdefault("outputArtifacts", [])
        return out

    def create_pipeline(self, params: dict[str, Any]) -> dict[str, Any]:
        declaration = self._check(params["pipeline"])
        with self.lock:
            if declaration["name"] in self.pipelines:
                raise AwsError(
                    "PipelineNameInUseException",
                    f"A pipeline with the name '{declaration['name']}' already exists in account "
                    f"'{self.cloud.account}'",
                )
            made = Pipeline(self.cloud, {**declaration, "version": 1}, params.get("tags", []))
            self.pipelines[made.name] = made
        self._start(made, ("CreatePipeline", hooks.caller_arn(self.cloud)), {}, {})
        return {"pipeline": made.declaration, "tags": _tags(made)}

    def update_pipeline(self, params: dict[str, Any]) -> dict[str, Any]:
        declaration = self._check(params["pipeline"])
        found = self.find(declaration["name"])
        with found.changed:
            found.declaration = {**declaration, "version": found.declaration["version"] + 1}
            found.updated = clock.now()
        return {"pipeline": found.declaration}

    def get_pipeline(self, params: dict[str, Any]) -> dict[str, Any]:
        found = self.find(params["name"])
        if params.get("version") not in (None, found.declaration["version"]):
            raise AwsError(
                "PipelineVersionNotFoundException",
                f"Pipeline {found.name} version {params['version']} is not kept by the local cloud",
            )
        return {
            "pipeline": found.declaration,
            "metadata": {"pipelineArn": found.arn, "created": found.created, "updated": found.updated},
        }

    def list_pipelines(self, params: dict[str, Any]) -> dict[str, Any]:
        items, token = page(
            sorted(self.pipelines.values(), key=lambda p: p.name),
            params,
            size_key="maxResults",
            token_key="nextToken",
            default=1000,
        )
        return {
            "nextToken": token,
            "pipelines": [
                {
                    "name": p.name,
                    "version": p.declaration["version"],
                    "created": p.created,
                    "updated": p.updated,
                    "pipelineType": p.declaration["pipelineType"],
                    "executionMode": p.mode,
                }
                for p in items
            ],
        }

    def delete_pipeline(self, params: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            gone = self.pipelines.pop(params["name"], None)
        for run in gone.runs.values() if gone else ():
            run.abandoned, run.stop_reason = True, "the pipeline was deleted"
        return {}

    def tag_resource(self, params: dict[str, Any]) -> dict[str, Any]:
        self._by_arn(params["resourceArn"]).tags.update({t["key"]: t["value"] for t in params["tags"]})
        return {}

    def untag_resource(self, params: dict[str, Any]) -> dict[str, Any]:
        found = self._by_arn(params["resourceArn"])
        found.tags = {k: v for k, v in found.tags.items() if k not in params["tagKeys"]}
        return {}

    def list_tags_for_resource(self, params: dict[str, Any]) -> dict[str, Any]:
        return {"tags": _tags(self._by_arn(params["resourceArn"]))}

    def resource_tags(self, arn: str) -> dict[str, str]:
        """The tags of a pipeline by its ARN, for conditions of policies."""
        found = self.pipelines.get(arn.rpartition(":")[2])
        return found.tags if found else {}

    def _by_arn(self, arn: str) -> Pipeline:
        name = arn.rpartition(":")[2]
        if name not in self.pipelines:
            raise AwsError("ResourceNotFoundException", f"The resource {arn} does not exist")
        return self.pipelines[name]

    # -- executions -------------------------------------------------------------------------------------
    def start_pipeline_execution(self, params: dict[str, Any]) -> dict[str, Any]:
        found, token = self.find(params["name"]), params.get("clientRequestToken", "")
        with self.lock:
            if token and token in self.tokens:
                return {"pipelineExecutionId": self.tokens[token]}
            trigger = self.triggers.pop(token, ("StartPipelineExecution", hooks.caller_arn(self.cloud)))
            given = {v["name"]: v["value"] for v in params.get("variables", [])}
            revisions = {r["actionName"]: r["revisionValue"] for r in params.get("sourceRevisions", [])}
            run = self._start(found, trigger, given, revisions)
            if token:
                self.tokens[token] = run.id
        return {"pipelineExecutionId": run.id}

    def _start(
        self, pipeline: Pipeline, trigger: tuple[str, str], given: dict[str, str], revisions: dict[str, str]
    ) -> Run:
        declared = pipeline.declaration.get("variables", [])
        unknown = sorted(set(given) - {v["name"] for v in declared})
        if unknown:
            raise AwsError(
                "ValidationException", f"Pipeline {pipeline.name} has no variable {', '.join(unknown)}"
            )
        missing = [v["name"] for v in declared if v["name"] not in given and v.get("defaultValue") is None]
        if missing and trigger[0] == "StartPipelineExecution":
            raise AwsError(
                "ValidationException",
                f"Pipeline {pipeline.name}: no value for variable {', '.join(missing)}, which has no default",
            )
        sources = {a["name"] for a in pipeline.declaration["stages"][0]["actions"]}
        strange = sorted(set(revisions) - sources)
        if strange:
            raise AwsError(
                "ValidationException",
                f"sourceRevisions: {', '.join(strange)} is not a source action of {pipeline.name}",
            )
        values = {v["name"]: given.get(v["name"], v.get("defaultValue") or "") for v in declared}
        run = Run(pipeline, trigger, values, revisions)
        self._launch(pipeline, run)
        return run

    def _launch(self, pipeline: Pipeline, run: Run, *arguments: Any) -> None:
        with pipeline.changed:
            pipeline.runs[run.id] = run
        self.cloud.spawn(run.go, *arguments, name=f"pipeline-{pipeline.name}")

    def _run(self, params: dict[str, Any]) -> Run:
        found = self.find(params["pipelineName"])
        if params["pipelineExecutionId"] not in found.runs:
            raise AwsError(
                "PipelineExecutionNotFoundException",
                f"Pipeline {found.name} has no execution {params['pipelineExecutionId']}",
            )
        return found.runs[params["pipelineExecutionId"]]

    def stop_pipeline_execution(self, params: dict[str, Any]) -> dict[str, Any]:
        run = self._run(params)
        if run.status not in ("InProgress", "Stopping"):
            raise AwsError(
                "PipelineExecutionNotStoppableException",
                f"Pipeline execution {run.id} is {run.status}: it cannot be stopped",
            )
        if run.stop_reason is not None and not params.get("abandon"):
            raise AwsError(
                "DuplicatedStopRequestException", f"Pipeline execution {run.id} is stopping already"
            )
        with run.pipeline.changed:
            run.stop_reason = params.get("reason", "")
            run.abandoned = bool(params.get("abandon"))
            run.status = "Stopping"
            run.pipeline.changed.notify_all()
        return {"pipelineExecutionId": run.id}

    def retry_stage_execution(self, params: dict[str, Any]) -> dict[str, Any]:
        run, stage = self._run(params), params["stageName"]
        run.pipeline.stage(stage)
        if run.status not in ("Failed", "Stopped") or run.stages.get(stage, {}).get("status") not in (
            "Failed",
            "Stopped",
        ):
            raise AwsError(
                "StageNotRetryableException",
                f"Stage {stage} of execution {run.id} is "
                f"{run.stages.get(stage, {}).get('status', 'not run')}, the "
                f"execution is {run.status}: only a failed or stopped stage can be retried",
            )
        if run.pipeline.last.get(stage, {}).get("pipelineExecutionId") != run.id:
            raise AwsError(
                "NotLatestPipelineExecutionException",
                f"Execution {run.id} is not the latest in stage {stage}",
            )
        run.stop_reason, run.abandoned, run.superseded_by, run.summary = None, False, "", ""
        run.attempts += 1
        run.status = "InProgress"
        self._launch(run.pipeline, run, stage, params["retryMode"])
        return {"pipelineExecutionId": run.id}

    def rollback_stage(self, params: dict[str, Any]) -> dict[str, Any]:
        found = self.find(params["pipelineName"])
        found.stage(params["stageName"])
        target = found.runs.get(params["targetPipelineExecutionId"])
        if target is None or target.stages.get(params["stageName"], {}).get("status") != "Succeeded":
            raise AwsError(
                "UnableToRollbackStageException",
                f"Execution {params['targetPipelineExecutionId']} did not succeed in stage "
                f"{params['stageName']}",
            )
        return {
            "pipelineExecutionId": self.roll_back(found, params["stageName"], target, "ManualRollback").id
        }

    def roll_back(self, pipeline: Pipeline, stage: str, target: Run, trigger: str) -> Run:
        """Run a stage again with the artifacts and variables of an earlier execution."""
        run = Run(pipeline, (trigger, target.id), dict(target.variables), {}, kind="ROLLBACK")
        run.declaration = copy.deepcopy(target.declaration)
        run.artifacts, run.namespaces = dict(target.artifacts), copy.deepcopy(target.namespaces)
        run.source_revisions, run.rollback_target = dict(target.source_revisions), target.id
        self._launch(pipeline, run, stage, "", True)
        return run

    def put_approval_result(self, params: dict[str, Any]) -> dict[str, Any]:
        found = self.find(params["pipelineName"])
        stage = found.stage(params["stageName"])
        if params["actionName"] not in [a["name"] for a in stage["actions"]]:
            raise AwsError(
                "ActionNotFoundException", f"Stage {params['stageName']} has no action {params['actionName']}"
            )
        for run in found.runs.values():
            for record in run.records:
                asked = record.get("approval")
                if (
                    asked
                    and asked["token"] == params["token"]
                    and record["actionName"] == params["actionName"]
                ):
                    if asked["answer"] or record["status"] != "InProgress":
                        raise AwsError(
                            "ApprovalAlreadyCompletedException",
                            "The approval action has already been approved or rejected.",
                        )
                    asked["answer"] = {**params["result"], "by": hooks.caller_arn(self.cloud)}
                    return {"approvedAt": clock.now()}
        raise AwsError(
            "InvalidApprovalTokenException",
            "The approval request already received a response or has expired.",
        )

    def enable_stage_transition(self, params: dict[str, Any]) -> dict[str, Any]:
        found = self.find(params["pipelineName"])
        found.stage(params["stageName"])
        with found.changed:
            found.disabled.pop(params["stageName"], None)
            found.changed.notify_all()
        return {}

    def disable_stage_transition(self, params: dict[str, Any]) -> dict[str, Any]:
        found = self.find(params["pipelineName"])
        found.stage(params["stageName"])
        found.disabled[params["stageName"]] = {
            "reason": params["reason"],
            "by": hooks.caller_arn(self.cloud),
            "at": clock.now(),
        }
        return {}

    def override_stage_condition(self, params: dict[str, Any]) -> dict[str, Any]:
        run = self._run(params)
        if (
            run.stages.get(params["stageName"], {}).get("status") != "Failed"
            or params["conditionType"] != "BEFORE_ENTRY"
        ):
            raise AwsError(
                "ConditionNotOverridableException",
                f"Stage {params['stageName']} of execution {run.id} did not fail by its entry condition",
            )
        run.overridden.add(f"{params['stageName']}/beforeEntry")
        run.attempts += 1
        self._launch(run.pipeline, run, params["stageName"], "FAILED_ACTIONS")
        return {}

    # -- what can be seen -------------------------------------------------------------------------------
    def get_pipeline_execution(self, params: dict[str, Any]) -> dict[str, Any]:
        run = self._run(params)
        return {
            "pipelineExecution": {
                "pipelineName": run.pipeline.name,
                "pipelineVersion": run.declaration["version"],
                "pipelineExecutionId": run.id,
                "status": run.status,
                "statusSummary": run.summary or None,
                "artifactRevisions": list(run.source_revisions.values()),
                "executionMode": run.pipeline.mode,
                "variables": [{"name": k, "resolvedValue": v} for k, v in run.variables.items()],
                "executionType": run.kind,
                "trigger": {"triggerType": run.trigger[0], "triggerDetail": run.trigger[1]},
                **_rollback(run),
            }
        }

    def list_pipeline_executions(self, params: dict[str, Any]) -> dict[str, Any]:
        runs = list(self.find(params["pipelineName"]).runs.values())[::-1]
        stage = ((params.get("filter") or {}).get("succeededInStage") or {}).get("stageName")
        if stage:
            runs = [r for r in runs if r.stages.get(stage, {}).get("status") == "Succeeded"]
        items, token = page(runs, params, size_key="maxResults", token_key="nextToken")
        return {
            "nextToken": token,
            "pipelineExecutionSummaries": [
                {
                    "pipelineExecutionId": r.id,
                    "status": r.status,
                    "statusSummary": r.summary or None,
                    "startTime": r.started,
                    "lastUpdateTime": r.touched,
                    "sourceRevisions": list(r.source_revisions.values()),
                    "trigger": {"triggerType": r.trigger[0], "triggerDetail": r.trigger[1]},
                    "stopTrigger": {"reason": r.stop_reason} if r.stop_reason else None,
                    "executionMode": r.pipeline.mode,
                    "executionType": r.kind,
                    **_rollback(r),
                }
                for r in items
            ],
        }

    def list_action_executions(self, params: dict[str, Any]) -> dict[str, Any]:
        return {
            "actionExecutionDetails": (found := self._records(params, "records"))[0],
            "nextToken": found[1],
        }

    def list_rule_executions(self, params: dict[str, Any]) -> dict[str, Any]:
        return {"ruleExecutionDetails": (found := self._records(params, "rules"))[0], "nextToken": found[1]}

    def _records(self, params: dict[str, Any], kind: str) -> tuple[list[dict[str, Any]], str | None]:
        chosen = params.get("filter") or {}
        wanted = chosen.get("pipelineExecutionId") or (chosen.get("latestInPipelineExecution") or {}).get(
            "pipelineExecutionId"
        )
        if wanted:
            self._run({"pipelineName": params["pipelineName"], "pipelineExecutionId": wanted})
        records = [
            r
            for run in self.find(params["pipelineName"]).runs.values()
            if not wanted or run.id == wanted
            for r in getattr(run, kind)
        ]
        records = sorted(records, key=lambda r: r["startTime"], reverse=True)
        return page(records, params, size_key="maxResults", token_key="nextToken")

    def get_pipeline_state(self, params: dict[str, Any]) -> dict[str, Any]:
        found = self.find(params["name"])
        with found.changed:
            stages = [self._stage_state(found, stage) for stage in found.declaration["stages"]]
        return {
            "pipelineName": found.name,
            "pipelineVersion": found.declaration["version"],
            "created": found.created,
            "updated": found.updated,
            "stageStates": stages,
        }

    def _stage_state(self, pipeline: Pipeline, stage: dict[str, Any]) -> dict[str, Any]:
        name = stage["name"]
        switch = pipeline.disabled.get(name)
        out: dict[str, Any] = {
            "stageName": name,
            "actionStates": [self._action_state(pipeline, name, action) for action in stage["actions"]],
            "inboundTransitionState": {
                "enabled": switch is None,
                **(
                    {
                        "lastChangedBy": switch["by"],
                        "lastChangedAt": switch["at"],
                        "disabledReason": switch["reason"],
                    }
                    if switch
                    else {}
                ),
            },
        }
        waiting = [
            {"pipelineExecutionId": r.id, "status": r.status, "type": r.kind}
            for r in pipeline.door(name).waiting
            if pipeline.door(name).inside is not r
        ]
        if waiting:
            out |= {"inboundExecution": waiting[-1], "inboundExecutions": waiting}
        last = pipeline.last.get(name)
        if last:
            out["latestExecution"] = {k: last[k] for k in ("pipelineExecutionId", "status", "type")}
            for kind, conditions in last["conditions"].items():
                out[f"{kind}ConditionState"] = {
                    "latestExecution": {
                        "status": conditions[-1]["status"],
                        "summary": conditions[-1]["summary"],
                    },
                    "conditionStates": [
                        {
                            "latestExecution": {
                                "status": c["status"],
                                "summary": c["summary"],
                                "lastStatusChange": c["at"],
                            },
                            "ruleStates": [_rule_state(r) for r in c["rules"]],
                        }
                        for c in conditions
                    ],
                }
            if last["attempt"] > 1:
                out["retryStageMetadata"] = {
                    "latestRetryTrigger": "AutomatedStageRetry"
                    if last.get("automatic")
                    else "ManualStageRetry",
                    "autoStageRetryAttempt": 1 if last.get("automatic") else 0,
                    "manualStageRetryAttempt": last["attempt"] - 1 - bool(last.get("automatic")),
                }
        return out

    def _action_state(self, pipeline: Pipeline, stage: str, action: dict[str, Any]) -> dict[str, Any]:
        found = pipeline.actions.get((stage, action["name"]))
        out: dict[str, Any] = {"actionName": action["name"]}
        if not found:
            return out
        record, state = found["record"], found["state"]
        result = record["output"].get("executionResult", {})
        out["latestExecution"] = {
            "actionExecutionId": record["actionExecutionId"],
            "status": record["status"],
            "lastStatusChange": record["lastUpdateTime"],
            "summary": result.get("externalExecutionSummary"),
            "externalExecutionId": result.get("externalExecutionId"),
            "externalExecutionUrl": result.get("externalExecutionUrl"),
            "errorDetails": result.get("errorDetails"),
            "token": state.get("token") if record["status"] == "InProgress" else None,
            "lastUpdatedBy": state.get("lastUpdatedBy"),
        }
        if state.get("currentRevision"):
            out["currentRevision"] = state["currentRevision"]
        return out

    # -- jobs of Lambda actions -------------------------------------------------------------------------
    def put_job_success_result(self, params: dict[str, Any]) -> dict[str, Any]:
        self._job(params["jobId"])
        if not params.get("continuationToken"):
            self.jobs[params["jobId"]] = params
        return {}

    def put_job_failure_result(self, params: dict[str, Any]) -> dict[str, Any]:
        self._job(params["jobId"])
        self.jobs[params["jobId"]] = params
        return {}

    def _job(self, job: str) -> None:
        if job not in self.jobs:
            raise AwsError("JobNotFoundException", f"The job {job} does not exist or was answered")


def _rule_state(record: dict[str, Any]) -> dict[str, Any]:
    return {
        "ruleName": record["ruleName"],
        "latestExecution": {
            "ruleExecutionId": record["ruleExecutionId"],
            "status": record["status"],
            "lastStatusChange": record["lastUpdateTime"],
            "summary": record["output"]["executionResult"]["externalExecutionSummary"],
        },
    }


def _rollback(run: Run) -> dict[str, Any]:
    return (
        {"rollbackMetadata": {"rollbackTargetPipelineExecutionId": run.rollback_target}}
        if run.rollback_target
        else {}
    )


def _tags(pipeline: Pipeline) -> list[dict[str, str]]:
    return [{"key": k, "value": v} for k, v in pipeline.tags.items()]


def _deliver(cloud: Cloud) -> Callable[[dict[str, Any], str], None]:
    """EventBridge target: start the pipeline under the target's role.

    An Input may hold variables and sourceRevisions.
    """

    def run(target: dict[str, Any], payload: str) -> None:
        token = str(uuid.uuid4())
        service = cloud.services["codepipeline"]
        service.triggers[token] = "CloudWatchEvent", target["Arn"]
        given: dict[str, Any] = {}
        if target.get("Input") or target.get("InputTransformer"):
            sent = json.loads(payload)
            given = {
                k: sent[k] for k in ("variables", "sourceRevisions") if isinstance(sent, dict) and k in sent
            }
        try:
            client = cloud.client(
                "codepipeline", role=target["RoleArn"], principal="events.amazonaws.com", session="events"
            )
            client.start_pipeline_execution(
                name=target["Arn"].rpartition(":")[2], clientRequestToken=token, **given
            )
        except Exception as error:
            cloud.log.error("UndeliveredEvent: %s: %s", target["Arn"], error)
            cloud.undelivered.append(f"{target['Arn']}: {error}")

    return run


class PipelineType(ResourceType):
    """AWS::CodePipeline::Pipeline."""

    type_name = "AWS::CodePipeline::Pipeline"
    name_property = "Name"

    def create(self, context: Context, props: dict[str, Any]) -> tuple[str, Attributes]:
        name = props.get("Name") or context.name(100)
        client = context.client("codepipeline")
        tags = [{"key": t["Key"], "value": str(t["Value"])} for t in props.get("Tags", [])]
        made = client.create_pipeline(pipeline=declaration(name, props), **({"tags": tags} if tags else {}))[
            "pipeline"
        ]
        for switch in props.get("DisableInboundStageTransitions", []):
            client.disable_stage_transition(
                pipelineName=name,
                stageName=switch["StageName"],
                transitionType="Inbound",
                reason=switch["Reason"],
            )
        return name, {"Version": str(made["version"])}

    def update(self, context: Context, physical_id: str, old: dict, new: dict) -> Attributes:
        client = context.client("codepipeline")
        made = client.update_pipeline(pipeline=declaration(physical_id, new))["pipeline"]
        arn = context.cloud.arn("codepipeline", physical_id)
        wanted = {t["Key"]: str(t["Value"]) for t in new.get("Tags", [])}
        gone = [t["Key"] for t in old.get("Tags", []) if t["Key"] not in wanted]
        if gone:
            client.untag_resource(resourceArn=arn, tagKeys=gone)
        if wanted:
            client.tag_resource(resourceArn=arn, tags=[{"key": k, "value": v} for k, v in wanted.items()])
        before, after = (
            {s["StageName"]: s["Reason"] for s in p.get("DisableInboundStageTransitions", [])}
            for p in (old, new)
        )
        for stage in set(before) - set(after):
            client.enable_stage_transition(
                pipelineName=physical_id, stageName=stage, transitionType="Inbound"
            )
        for stage, reason in after.items():
            client.disable_stage_transition(
                pipelineName=physical_id, stageName=stage, transitionType="Inbound", reason=reason
            )
        if str(new.get("RestartExecutionOnUpdate", "")).lower() == "true":
            client.start_pipeline_execution(name=physical_id)
        return {"Version": str(made["version"])}

    def delete(self, context: Context, physical_id: str, props: dict[str, Any]) -> None:
        context.client("codepipeline").delete_pipeline(name=physical_id)


def declaration(name: str, props: dict[str, Any]) -> dict[str, Any]:
    """The resource's properties as CreatePipeline takes them."""
    out: dict[str, Any] = {
        "name": name,
        "roleArn": props["RoleArn"],
        "stages": [_stage(s) for s in props["Stages"]],
        "version": 1,
    }
    if props.get("ArtifactStore"):
        out["artifactStore"] = _lower(props["ArtifactStore"])
    if props.get("ArtifactStores"):
        out["artifactStores"] = {s["Region"]: _lower(s["ArtifactStore"]) for s in props["ArtifactStores"]}
    for key in ("ExecutionMode", "PipelineType"):
        if props.get(key):
            out[key[0].lower() + key[1:]] = props[key]
    for key in ("Variables", "Triggers"):
        if props.get(key):
            out[key.lower()] = _lower(props[key])
    return out


def _stage(props: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {"name": props["Name"], "actions": [_action(a) for a in props["Actions"]]}
    if props.get("Blockers"):
        out["blockers"] = _lower(props["Blockers"])
    for key in ("BeforeEntry", "OnSuccess", "OnFailure"):
        if props.get(key):
            out[key[0].lower() + key[1:]] = _lower(props[key])
    return out


def _action(props: dict[str, Any]) -> dict[str, Any]:
    out = _lower({k: v for k, v in props.items() if k != "Configuration"})
    for key in ("runOrder", "timeoutInMinutes"):
        if key in out:
            out[key] = int(out[key])
    out["configuration"] = _texts(props.get("Configuration"))
    return out


def _texts(value: Any) -> dict[str, str]:
    value = json.loads(value) if isinstance(value, str) else value or {}
    return {
        k: "true"
        if v is True
        else "false"
        if v is False
        else json.dumps(v)
        if isinstance(v, dict | list)
        else str(v)
        for k, v in value.items()
    }


def _lower(value: Any) -> Any:
    """Keys as the API spells them; what a Configuration holds is the provider's own and stays."""
    if isinstance(value, dict):
        return {
            k[0].lower() + k[1:]: _texts(v) if k == "Configuration" else _lower(v) for k, v in value.items()
        }
    return [_lower(v) for v in value] if isinstance(value, list) else value


SERVICES = (CodePipeline,)
TYPES = (PipelineType,)
TARGETS = {"codepipeline": _deliver}
