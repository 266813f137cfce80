"""One execution of a pipeline: each step through SageMaker's API under the pipeline's role."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import re
import string
import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from botocore import xform_name
from botocore.exceptions import ClientError

from localaws import clock
from localaws.errors import AwsError
from localaws.resource import typed
from localaws.service import model
from localaws.services.sagemaker import data
from localaws.services.sagemaker.job_base import PRINCIPAL
from localaws.services.sagemaker.pipeline_definition import (
    CALLS,
    Definition,
    EvaluationError,
    Scope,
    Step,
    plain,
)
from localaws.services.sagemaker.records import Record

if TYPE_CHECKING:
    from localaws.services.sagemaker.pipelines import PipelinesMixin

#: what decides whether a former result is taken again (AWS: "Default cache key attributes by step type")
_CACHED = {
    "Processing": ("AppSpecification", "Environment", "ProcessingInputs"),
    "Training": (
        "AlgorithmSpecification",
        "CheckpointConfig",
        "DebugHookConfig",
        "DebugRuleConfigurations",
        "Environment",
        "HyperParameters",
        "InputDataConfig",
    ),
    "Tuning": ("HyperParameterTuningJobConfig", "TrainingJobDefinition", "TrainingJobDefinitions"),
    "Transform": ("DataProcessing", "Environment", "ModelName", "TransformInput"),
}
_CACHED_OF_TUNING = (
    "AlgorithmSpecification",
    "HyperParameterRanges",
    "InputDataConfig",
    "StaticHyperParameters",
    "TuningObjective",
)
#: step type → member of Metadata, member with the ARN, member with the status
_JOBS = {
    "Processing": ("ProcessingJob", "ProcessingJobArn", "ProcessingJobStatus"),
    "Training": ("TrainingJob", "TrainingJobArn", "TrainingJobStatus"),
    "Tuning": ("TuningJob", "HyperParameterTuningJobArn", "HyperParameterTuningJobStatus"),
    "Transform": ("TransformJob", "TransformJobArn", "TransformJobStatus"),
}
_STOPS = {
    "Processing": "stop_processing_job",
    "Training": "stop_training_job",
    "Tuning": "stop_hyper_parameter_tuning_job",
    "Transform": "stop_transform_job",
}
FAILED = "Step failure: One or multiple steps failed."


class StepFailed(Exception):
    """A step fails; ``kind`` is the exception type that retry policies name, "" for one they cannot name."""

    def __init__(self, message: str, kind: str = "") -> None:
        super().__init__(message)
        self.kind = kind


class StepStopped(Exception):
    """A step ends because the execution is being stopped."""


class Execution:
    """Runs the steps; ``record`` and ``steps`` are what the API shows of the execution and of its steps."""

    def __init__(
        self, service: PipelinesMixin, pipeline: Record, record: Record, definition: Definition
    ) -> None:
        self.service, self.cloud = service, service.cloud
        self.pipeline, self.record, self.definition = pipeline, record, definition
        self.steps: dict[str, Record] = {}
        self.stopping = threading.Event()
        self._changed = threading.Condition()
        self.id = record["PipelineExecutionArn"].rpartition("/")[2]
        self.scope = Scope(record["_parameters"], self._variables(), {}, definition.steps, self._read)
        self._role = record["_role"]

    def _variables(self) -> dict[str, Any]:
        started = self.record["CreationTime"].strftime("%Y-%m-%dT%H:%M:%SZ")
        return {
            "StartDateTime": started,
            "CurrentDateTime": lambda: clock.now().strftime("%Y-%m-%dT%H:%M:%SZ"),
            "PipelineName": self.pipeline["PipelineName"],
            "PipelineArn": self.pipeline["PipelineArn"],
            "PipelineExecutionId": self.id,
            "PipelineExecutionArn": self.record["PipelineExecutionArn"],
        }

    def _client(self, name: str) -> Any:
        return self.cloud.client(name, role=self._role, principal=PRINCIPAL, session=f"SageMaker-{self.id}")

    def _read(self, uri: str) -> bytes:
        try:
            return data.read(self._client("s3"), uri)
        except data.DataError as error:
            raise EvaluationError(f"Failed to read property file {uri}: {error}") from error

    # -- the whole -------------------------------------------------------------------------------------------
    def run(self) -> None:
        """Run until no step is left, one has failed, or it is stopped."""
        self._status("Executing")
        failed = ""
        try:
            failed = self._run_steps()
        except Exception as error:
            self.cloud.log.exception("pipeline execution %s failed", self.id)
            failed = f"InternalServerError: {type(error).__name__}: {error}"
        if self.stopping.is_set():
            self._status("Stopped")
        elif failed:
            self._status("Failed", FailureReason=failed)
        else:
            self._status("Succeeded")

    def _run_steps(self) -> str:
        todo = {n: s for n, s in self.definition.steps.items() if self._state(n) != "Succeeded"}
        running: set[str] = set()
        skipped: set[str] = set()
        limit = (self.record.get("ParallelismConfiguration") or {}).get("MaxParallelExecutionSteps") or 50
        while True:
            with self._changed:
                running = {n for n in running if self._state(n) not in ("Succeeded", "Failed", "Stopped")}
                failed = any(s["StepStatus"] == "Failed" for s in self.steps.values())
                if failed or self.stopping.is_set():
                    todo = {}
                for name, step in list(todo.items()):
                    verdict = self._verdict(step, skipped)
                    if verdict == "skip":
                        skipped.add(name)
                        del todo[name]
                    elif verdict == "run" and len(running) < limit:
                        del todo[name]
                        running.add(name)
                        self._begin(step)
                if not running and (not todo or not self._progress(todo, skipped)):
                    return FAILED if failed else ""
                self._changed.wait(0.5)

    def _progress(self, todo: dict[str, Step], skipped: set[str]) -> bool:
        return any(self._verdict(step, skipped) in ("run", "skip") for step in todo.values())

    def _state(self, name: str) -> str:
        return self.steps.get(name, {}).get("StepStatus", "")

    def _verdict(self, step: Step, skipped: set[str]) -> str:
        """``run``, ``wait``, or ``skip`` for a step on the branch that a condition did not take."""
        if step.branch and self._state(step.branch[0]) == "Succeeded":
            outcome = self.scope.properties[step.branch[0]]["Outcome"] == "True"
            if outcome != step.branch[1]:
                return "skip"
        if step.needs & skipped:
            return "skip"
        return "run" if all(self._state(n) == "Succeeded" for n in step.needs) else "wait"

    def _begin(self, step: Step) -> None:
        self.steps.pop(step.name, None)  # of an attempt before a retry: the new one is listed last
        self.steps[step.name] = {
            "StepName": step.name,
            "StepStatus": "Starting",
            "StartTime": clock.now(),
            "Metadata": {},
            "AttemptCount": 1,
            "_type": step.type,
        }
        for member in ("DisplayName", "Description"):
            if step.body.get(member):
                self.steps[step.name][f"Step{member}"] = step.body[member]
        self._step_event(self.steps[step.name], "")
        self.cloud.spawn(self._run_step, step, name=f"step-{step.name}")

    def _status(self, status: str, **more: Any) -> None:
        before = self.record["PipelineExecutionStatus"]
        with self.service.lock:
            self.record.update(more, PipelineExecutionStatus=status, LastModifiedTime=clock.now())
        detail = {
            "pipelineExecutionDisplayName": self.record.get("PipelineExecutionDisplayName"),
            "pipelineExecutionDescription": self.record.get("PipelineExecutionDescription"),
            "currentPipelineExecutionStatus": status,
            "previousPipelineExecutionStatus": before,
            "executionStartTime": _stamp(self.record["CreationTime"]),
            "pipelineArn": self.pipeline["PipelineArn"],
            "pipelineExecutionArn": self.record["PipelineExecutionArn"],
        }
        if status in ("Succeeded", "Failed", "Stopped"):
            detail["executionEndTime"] = _stamp(self.record["LastModifiedTime"])
        self.cloud.emit(
            "aws.sagemaker",
            "SageMaker Model Building Pipeline Execution Status Change",
            {k: v for k, v in detail.items() if v is not None},
            self._resources(),
        )

    def _resources(self) -> list[str]:
        return [self.pipeline["PipelineArn"], self.record["PipelineExecutionArn"]]

    def stop(self) -> None:
        """Let no step begin and stop the jobs under way."""
        self._status("Stopping")
        self.stopping.set()
        with self._changed:
            self._changed.notify_all()

    # -- a step ----------------------------------------------------------------------------------------------
    def _step_status(self, record: Record, status: str, **more: Any) -> None:
        before = record["StepStatus"]
        record.update(more, StepStatus=status)
        if status in ("Succeeded", "Failed", "Stopped"):
            record["EndTime"] = clock.now()
        self._step_event(record, before)
        with self._changed:
            self._changed.notify_all()

    def _step_event(self, record: Record, before: str) -> None:
        metadata = {
            k[0].lower() + k[1:]: {"arn": v["Arn"]} for k, v in record["Metadata"].items() if "Arn" in v
        }
        detail = {
            "metadata": metadata,
            "stepStartTime": _stamp(record["StartTime"]),
            "stepName": record["StepName"],
            "stepType": record["_type"],
            "currentStepStatus": record["StepStatus"],
            "previousStepStatus": before or None,
            "stepEndTime": _stamp(record["EndTime"]) if "EndTime" in record else None,
            "failureReason": record.get("FailureReason"),
            "cacheHitResult": {
                "sourcePipelineExecutionArn": record["CacheHitResult"]["SourcePipelineExecutionArn"]
            }
            if record.get("CacheHitResult")
            else None,
            "pipelineArn": self.pipeline["PipelineArn"],
            "pipelineExecutionArn": self.record["PipelineExecutionArn"],
        }
        self.cloud.emit(
            "aws.sagemaker",
            "SageMaker Model Building Pipeline Execution Step Status Change",
            {k: v for k, v in detail.items() if v is not None},
            self._resources(),
        )

    def _run_step(self, step: Step) -> None:
        record = self.steps[step.name]
        try:
            while True:
                try:
                    properties = self._do(step, record)
                    break
                except StepFailed as error:
                    if not self._again(step, record, error):
                        raise
        except StepStopped:
            self._step_status(record, "Stopped")
        except (StepFailed, EvaluationError) as error:
            reason = str(error) if isinstance(error, StepFailed) else f"ClientError: {error}"
            self._step_status(record, "Failed", FailureReason=reason[:1024])
        except Exception as error:
            if not self.cloud.stopping:
                self.cloud.log.exception("step %s failed", step.name)
            self._step_status(
                record, "Failed", FailureReason=f"InternalServerError: {type(error).__name__}: {error}"[:1024]
            )
        else:
            self.scope.properties[step.name] = properties
            record["_properties"] = properties
            self._step_status(record, "Succeeded")

    def _again(self, step: Step, record: Record, error: StepFailed) -> bool:
        """Whether a retry policy of the step asks for another attempt; waits for it."""
        for policy in step.body.get("RetryPolicies") or []:
            if error.kind not in (policy.get("ExceptionType") or []):
                continue
            attempts = record.setdefault("_attempts", {})
            attempts[error.kind] = attempts.get(error.kind, 0) + 1
            since = (clock.now() - record["StartTime"]).total_seconds()
            if attempts[error.kind] > (policy.get("MaxAttempts") or 10**6) or since > 60 * (
                policy.get("ExpireAfterMin") or 10**6
            ):
                return False
            wait = policy.get("IntervalSeconds", 1) * policy.get("BackoffRate", 2.0) ** (
                attempts[error.kind] - 1
            )
            self.stopping.wait(wait * self.cloud.time_scale)
            if self.stopping.is_set():
                raise StepStopped from error
            record["AttemptCount"] += 1
            return True
        return False

    def _do(self, step: Step, record: Record) -> dict[str, Any]:
        """Carry a step out; its properties."""
        if self.stopping.is_set():
            raise StepStopped
        if step.type == "Condition":
            return self._condition(step, record)
        if step.type == "Fail":
            message = plain(self.scope.value(step.arguments["ErrorMessage"]))
            record["Metadata"] = {"Fail": {"ErrorMessage": message}}
            raise StepFailed(message)
        if step.type == "Lambda":
            return self._lambda(step, record)
        arguments = self.scope.value(step.arguments)
        key = _cache_key(step, arguments)
        hit = self.service.cached(self.record, step, key) if key else None
        if hit:
            record["CacheHitResult"] = {"SourcePipelineExecutionArn": hit["_execution"]}
            record["Metadata"] = hit["Metadata"]
            return hit["_properties"]
        record["_cache_key"], record["_execution"] = key, self.record["PipelineExecutionArn"]
        self._step_status(record, "Executing")
        call, name_key, describe = CALLS[step.type]
        arguments = self._named(step, arguments, name_key)
        if step.type == "RegisterModel":
            self._make_group(arguments)
        answer = self._call(call, self._tagged(call, arguments))
        if step.type == "RegisterModel":
            return self._made(
                record,
                "RegisterModel",
                answer["ModelPackageArn"],
                describe,
                {"ModelPackageName": answer["ModelPackageArn"]},
            )
        if step.type == "Model":
            return self._made(record, "Model", answer["ModelArn"], describe, {name_key: arguments[name_key]})
        member, arn_key, status_key = _JOBS[step.type]
        record["Metadata"] = {member: {"Arn": answer[arn_key]}}
        return self._wait_for_job(step, arguments[name_key], name_key, describe, status_key)

    def _condition(self, step: Step, record: Record) -> dict[str, Any]:
        outcome = "True" if all(self.scope.holds(c) for c in step.arguments["Conditions"]) else "False"
        record["Metadata"] = {"Condition": {"Outcome": outcome}}
        return {"Outcome": outcome}

    def _lambda(self, step: Step, record: Record) -> dict[str, Any]:
        arn = self.scope.value(step.body["FunctionArn"])
        self._step_status(record, "Executing", Metadata={"Lambda": {"Arn": arn}})
        try:
            answer = self._client("lambda").invoke(
                FunctionName=arn, Payload=json.dumps(self.scope.value(step.arguments))
            )
        except ClientError as error:
            raise _refused("lambda:InvokeFunction", error) from error
        payload = answer["Payload"].read()
        if answer.get("FunctionError"):
            raise StepFailed(
                f"ClientError: Lambda function {arn} failed: {payload.decode(errors='replace')[:1000]}"
            )
        outputs = {}
        document = json.loads(payload or b"null")
        for wanted in step.body.get("OutputParameters") or []:
            name = wanted["OutputName"]
            if not isinstance(document, dict) or name not in document:
                raise StepFailed(f"ClientError: Lambda function {arn} did not return the output {name}")
            outputs[name] = document[name]
        record["Metadata"] = {
            "Lambda": {
                "Arn": arn,
                "OutputParameters": [{"Name": k, "Value": plain(v)} for k, v in outputs.items()],
            }
        }
        return {"OutputParameters": outputs}

    def _named(self, step: Step, arguments: dict[str, Any], name_key: str) -> dict[str, Any]:
        """The arguments with the name that SageMaker gives to what a step makes."""
        if step.type == "RegisterModel":
            return arguments
        suffix = "".join(random.choices(string.ascii_letters + string.digits, k=10))
        limit = 32 if step.type == "Tuning" else 63
        prefix = arguments.get(name_key) or ("" if step.type == "Tuning" else "pipelines")
        name = re.sub(r"[^A-Za-z0-9-]", "-", step.name)
        parts = [prefix, self.id] if arguments.get(name_key) else [p for p in (prefix, self.id, name) if p]
        stem = "-".join(parts)[: limit - 11].rstrip("-")
        return {**arguments, name_key: f"{stem}-{suffix}"}

    def _tagged(self, call: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """The arguments with the pipeline's tags; the step's own win. A version of a group takes none."""
        shape = model("sagemaker").operation_model(call).input_shape
        if "Tags" not in shape.members or call == "CreateModelPackage":
            return arguments
        own = arguments.get("Tags") or []
        named = {t["Key"] for t in own}
        inherited = [
            t
            for t in self.service.tags_of(self.pipeline["PipelineArn"])
            if t["Key"] not in named and not t["Key"].startswith("aws:")
        ]
        return {**arguments, "Tags": [*own, *inherited]} if own or inherited else arguments

    def _call(self, call: str, arguments: dict[str, Any]) -> dict[str, Any]:
        client = self._client("sagemaker")
        method = xform_name(call)
        try:
            return getattr(client, method)(**typed("sagemaker", method, arguments))
        except ClientError as error:
            raise _refused(f"sagemaker:{call}", error) from error
        except Exception as error:  # botocore's own check of the arguments
            raise StepFailed(
                f"ClientError: Failed to invoke sagemaker:{call}. Error Details: {error}"
            ) from error

    def _make_group(self, arguments: dict[str, Any]) -> None:
        """SageMaker makes the model package group of a RegisterModel step when there is none."""
        group = arguments.get("ModelPackageGroupName")
        if not group:
            return
        client = self._client("sagemaker")
        try:
            client.describe_model_package_group(ModelPackageGroupName=group)
        except ClientError as error:
            if error.response["Error"]["Code"] in ("AccessDeniedException", "AccessDenied"):
                return  # it may be there; CreateModelPackage tells
            tags = [
                t
                for t in self.service.tags_of(self.pipeline["PipelineArn"])
                if not t["Key"].startswith("aws:")
            ]
            self._call(
                "CreateModelPackageGroup",
                {"ModelPackageGroupName": group, **({"Tags": tags} if tags else {})},
            )

    def _made(
        self, record: Record, member: str, arn: str, describe: str, by: dict[str, str]
    ) -> dict[str, Any]:
        record["Metadata"] = {member: {"Arn": arn}}
        while (found := dict(self._describe(describe, by))).get("ModelPackageStatus") in (
            "Pending",
            "InProgress",
        ):
            if self.stopping.wait(0.05) or self.cloud.stopping:
                raise StepStopped
        if found.get("ModelPackageStatus") == "Failed":
            raise StepFailed(f"ClientError: model package {arn} failed")
        return found

    def _describe(self, call: str, by: dict[str, str]) -> dict[str, Any]:
        return getattr(self.service, xform_name(call))(by)

    def _wait_for_job(
        self, step: Step, name: str, name_key: str, describe: str, status_key: str
    ) -> dict[str, Any]:
        asked = False
        while True:
            found = self._describe(describe, {name_key: name})
            status = found[status_key]
            if status == "Completed":
                return self._properties(step, name, dict(found))
            if status in ("Failed", "Stopped"):
                if self.stopping.is_set():
                    raise StepStopped
                reason = found.get("FailureReason") or f"{step.type} job {name} was stopped"
                kind = {
                    "InternalServerError": "SageMaker.JOB_INTERNAL_ERROR",
                    "CapacityError": "SageMaker.CAPACITY_ERROR",
                    "ResourceLimitExceeded": "SageMaker.RESOURCE_LIMIT",
                }.get(reason.partition(":")[0], "")
                raise StepFailed(f"ClientError: {reason}", kind)
            if self.stopping.wait(0.1) and not asked:
                asked = True
                with contextlib.suppress(AwsError):
                    getattr(self.service, _STOPS[step.type])({name_key: name})
            elif asked:
                self.cloud.wait_until(lambda: False, 0.1)
            if self.cloud.stopping:
                raise StepStopped

    def _properties(self, step: Step, name: str, found: dict[str, Any]) -> dict[str, Any]:
        if step.type == "Tuning":
            by = {
                "HyperParameterTuningJobName": name,
                "SortBy": "FinalObjectiveMetricValue",
                "MaxResults": 100,
            }
            order = "Descending" if _maximises(found) else "Ascending"
            found |= self.service.list_training_jobs_for_hyper_parameter_tuning_job(
                {**by, "SortOrder": order}
            )
        return found


def _maximises(found: dict[str, Any]) -> bool:
    objective = (found.get("HyperParameterTuningJobConfig") or {}).get(
        "HyperParameterTuningJobObjective"
    ) or {}
    return objective.get("Type") == "Maximize"


def _refused(call: str, error: ClientError) -> StepFailed:
    problem = error.response["Error"]
    code, status = problem.get("Code", ""), error.response["ResponseMetadata"]["HTTPStatusCode"]
    kind = "Step.SERVICE_FAULT" if status >= 500 else ""
    kind = {
        "ThrottlingException": "Step.THROTTLING",
        "Throttling": "Step.THROTTLING",
        "ResourceLimitExceeded": "SageMaker.RESOURCE_LIMIT",
    }.get(code, kind)
    return StepFailed(f"ClientError: Failed to invoke {call}. Error Details: {problem.get('Message')}", kind)


def _cache_key(step: Step, arguments: dict[str, Any]) -> str:
    """What makes two runs of a step the same, "" for a step without caching."""
    wanted = _CACHED.get(step.type)
    if not wanted or not (step.body.get("CacheConfig") or {}).get("Enabled"):
        return ""
    compared = {k: arguments.get(k) for k in wanted}
    if step.type == "Tuning" and compared["TrainingJobDefinition"]:
        compared["TrainingJobDefinition"] = {
            k: compared["TrainingJobDefinition"].get(k) for k in _CACHED_OF_TUNING
        }
    text = json.dumps(compared, sort_keys=True, default=str)
    return hashlib.sha256(f"{step.name} {step.type} {text}".encode()).hexdigest()


def duration(text: str) -> timedelta:
    """An ISO 8601 duration (``P30D``, ``P1DT12H``) or the short form that AWS takes too (``30d``, ``1h``).

    Raises ValueError.
    """
    match = re.fullmatch(
        r"P(?:(\d+)Y)?(?:(\d+)M)?(?:(\d+)W)?(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?)?", text.upper()
    )
    if match and any(match.groups()):
        years, months, weeks, days, hours, minutes, seconds = (int(g or 0) for g in match.groups())
        return timedelta(
            days=365 * years + 30 * months + days, weeks=weeks, hours=hours, minutes=minutes, seconds=seconds
        )
    short = re.fullmatch(r"(?:P?T?)(\d+)([DHMS])", text.upper())
    if short:
        return timedelta(
            **{{"D": "days", "H": "hours", "M": "minutes", "S": "seconds"}[short[2]]: int(short[1])}
        )
    raise ValueError(f"{text!r} is not an ISO 8601 duration")


def _stamp(moment: Any) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
