"""What the scripts that people run and the rehearsal ask an account: how to find things, how to wait, and
why something failed.

Everything here takes boto3 clients or a session; nothing is remembered between calls.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import boto3
from botocore.exceptions import ClientError

INFRA = "/mlops/infra"
PROJECTS = "/mlops/projects"


class NotFoundError(LookupError):
    """Something that was asked for by name is not there; the message says what there is and what to do."""


class FailedError(RuntimeError):
    """Something that was waited for failed. `reasons` are the causes, nearest first; `look_at` says where
    more is to be seen.
    """

    def __init__(self, message: str, reasons: list[str] | None = None, look_at: str = "") -> None:
        super().__init__(message)
        self.reasons = reasons or []
        self.look_at = look_at

    def __str__(self) -> str:
        parts = [self.args[0], *(f"  {reason}" for reason in self.reasons)]
        return "\n".join(parts + ([f"  look at: {self.look_at}"] if self.look_at else []))


def parameters(ssm: Any, path: str) -> dict[str, str]:
    """The SSM parameters below a path, by the rest of their name."""
    pages = ssm.get_paginator("get_parameters_by_path").paginate(
        Path=path, Recursive=True, WithDecryption=True
    )
    return {p["Name"][len(path) + 1 :]: p["Value"] for page in pages for p in page["Parameters"]}


def infra(ssm: Any) -> dict[str, str]:
    """What 1-infra wrote; an account without the platform is told so."""
    found = parameters(ssm, INFRA)
    if not found:
        raise NotFoundError(
            f"no {INFRA} parameters: the platform is not deployed in this account and region; "
            "run `make deploy` first"
        )
    return found


def projects(sagemaker: Any) -> list[dict[str, Any]]:
    """Every project that is not deleted."""
    pages = sagemaker.get_paginator("list_projects").paginate()
    return [
        p for page in pages for p in page["ProjectSummaryList"] if p["ProjectStatus"] != "DeleteCompleted"
    ]


def project_id(sagemaker: Any, name: str) -> str:
    """The id of a project, by its name."""
    try:
        return sagemaker.describe_project(ProjectName=name)["ProjectId"]
    except ClientError as error:
        if error.response["Error"]["Code"] not in (
            "ValidationException",
            "ResourceNotFound",
            "ResourceNotFoundException",
        ):
            raise
        names = [p["ProjectName"] for p in projects(sagemaker)]
        raise NotFoundError(
            f"there is no project {name!r}; projects here: {', '.join(sorted(names)) or 'none'}"
        ) from error


def project(ssm: Any, identifier: str) -> dict[str, str]:
    """What 2-smproject wrote for one project."""
    found = parameters(ssm, f"{PROJECTS}/{identifier}")
    if not found:
        raise NotFoundError(f"no {PROJECTS}/{identifier} parameters: the project's stack is not complete")
    return found


def newest_artifact(servicecatalog: Any, product_id: str) -> str:
    """The newest active version of a product."""
    product = servicecatalog.describe_product(Id=product_id)
    versions = [v for v in product["ProvisioningArtifacts"] if v.get("Guidance", "DEFAULT") != "DEPRECATED"]
    if not versions:
        raise NotFoundError(
            f"product {product_id} has no version: is a release published and 1-infra updated to it?"
        )
    return max(versions, key=lambda v: v["CreatedTime"])["Id"]


def poll(
    what: str,
    probe: Callable[[], Any],
    timeout: float,
    every: float = 1.0,
    tick: Callable[[], None] = lambda: None,
) -> Any:
    """Ask until the answer is not None; `probe` raises FailedError when waiting on is pointless."""
    deadline = time.monotonic() + timeout
    while True:
        if (answer := probe()) is not None:
            return answer
        if time.monotonic() > deadline:
            raise FailedError(f"{what}: not done after {timeout:.0f} s")
        tick()
        time.sleep(every)


# --- stacks -----------------------------------------------------------------------------------------------
# ----------------


def stack_status(cloudformation: Any, stack: str) -> str:
    """The status, or DELETE_COMPLETE when there is no such stack."""
    try:
        return cloudformation.describe_stacks(StackName=stack)["Stacks"][0]["StackStatus"]
    except ClientError as error:
        if "does not exist" in str(error):
            return "DELETE_COMPLETE"
        raise


def stack_failures(cloudformation: Any, stack: str, seen: frozenset[str] = frozenset()) -> Iterator[str]:
    """Each failed resource of a stack and the stacks nested in it, the first failure first."""
    try:
        pages = cloudformation.get_paginator("describe_stack_events").paginate(StackName=stack)
        events = [event for page in pages for event in page["StackEvents"]]
    except ClientError as error:
        yield f"{stack}: its events cannot be read: {error}"
        return
    found = False
    for event in reversed(events):
        reason = event.get("ResourceStatusReason", "")
        if not event["ResourceStatus"].endswith("_FAILED") or "cancelled" in reason.lower():
            continue
        found = True
        physical = event.get("PhysicalResourceId", "")
        if (
            event["ResourceType"] == "AWS::CloudFormation::Stack"
            and physical
            and physical != event["StackId"]
        ):
            if physical not in seen:
                yield from stack_failures(cloudformation, physical, seen | {physical})
            continue
        where = f"{event['StackName']} / {event['LogicalResourceId']} ({event['ResourceType']})"
        yield f"{where}: {event['ResourceStatus']}: {reason}"
    if not found:  # refused before any resource was touched: the reason is on the stack itself
        yield from (
            f"{event['StackName']}: {event['ResourceStatus']}: {event['ResourceStatusReason']}"
            for event in reversed(events)
            if event.get("ResourceStatusReason") and event.get("PhysicalResourceId") == event["StackId"]
        )


def wait_for_stack(
    cloudformation: Any,
    stack: str,
    timeout: float = 3600,
    every: float = 1.0,
    tick: Callable[[], None] = lambda: None,
) -> str:
    """Wait until a stack operation ended well; its failed resources are the reasons otherwise."""

    def probe() -> str | None:
        status = stack_status(cloudformation, stack)
        if status in ("CREATE_COMPLETE", "UPDATE_COMPLETE", "DELETE_COMPLETE"):
            return status
        if status.endswith("_FAILED") or status.endswith("ROLLBACK_COMPLETE"):
            raise FailedError(
                f"stack {stack} ended as {status}",
                list(stack_failures(cloudformation, stack))[:8],
                f"aws cloudformation describe-stack-events --stack-name {stack}",
            )
        return None

    return poll(f"stack {stack}", probe, timeout, every, tick)


# --- pipelines --------------------------------------------------------------------------------------------
# ----------------


def log_tail(logs: Any, group: str, stream: str = "", prefix: str = "", lines: int = 30) -> list[str]:
    """The last lines of a log stream, or of the newest stream whose name starts with a prefix."""
    try:
        if not stream:
            found = (
                logs.describe_log_streams(logGroupName=group, logStreamNamePrefix=prefix)["logStreams"]
                if prefix
                else []
            )
            if not found:
                return []
            stream = found[-1]["logStreamName"]
        events = logs.get_log_events(
            logGroupName=group, logStreamName=stream, limit=max(lines, 50), startFromHead=False
        )["events"]
        return [line.rstrip() for event in events for line in event["message"].splitlines() if line.strip()][
            -lines:
        ]
    except ClientError as error:
        return [f"(log {group} {stream or prefix} cannot be read: {error.response['Error']['Code']})"]


def build_log(session: boto3.Session, build_id: str, lines: int = 30) -> list[str]:
    """The last lines of a CodeBuild run."""
    builds = session.client("codebuild").batch_get_builds(ids=[build_id])["builds"]
    if not builds or not builds[0].get("logs", {}).get("groupName"):
        return []
    place = builds[0]["logs"]
    return log_tail(session.client("logs"), place["groupName"], place["streamName"], lines=lines)


def executions(codepipeline: Any, pipeline: str) -> list[dict[str, Any]]:
    """The executions of a CodePipeline, newest first."""
    pages = codepipeline.get_paginator("list_pipeline_executions").paginate(pipelineName=pipeline)
    return [e for page in pages for e in page["pipelineExecutionSummaries"]]


def actions(codepipeline: Any, pipeline: str, execution: str) -> list[dict[str, Any]]:
    """The actions of one execution, oldest first."""
    pages = codepipeline.get_paginator("list_action_executions").paginate(
        pipelineName=pipeline, filter={"pipelineExecutionId": execution}
    )
    found = [a for page in pages for a in page["actionExecutionDetails"]]
    return sorted(found, key=lambda a: a["startTime"])


def pipeline_failure(session: boto3.Session, pipeline: str, execution: str) -> FailedError:
    """Why an execution did not succeed: the stage, the action, and the end of its build log or its stack's
    failures.
    """
    codepipeline = session.client("codepipeline")
    status = codepipeline.get_pipeline_execution(pipelineName=pipeline, pipelineExecutionId=execution)[
        "pipelineExecution"
    ]["status"]
    command = f"aws codepipeline list-action-executions --pipeline-name {pipeline}"
    look_at = f"{command} --filter pipelineExecutionId={execution}"
    for action in reversed(actions(codepipeline, pipeline, execution)):  # a stage may have been retried
        if action["status"] != "Failed":
            continue
        outcome = action.get("output", {}).get("executionResult", {})
        where = f"{pipeline}: stage {action['stageName']}, action {action['actionName']} failed"
        said = (outcome.get("externalExecutionSummary"), outcome.get("errorDetails", {}).get("message"))
        reasons = list(dict.fromkeys(filter(None, said)))
        provider = action.get("input", {}).get("actionTypeId", {}).get("provider")
        if provider == "CodeBuild" and outcome.get("externalExecutionId"):
            reasons += build_log(session, outcome["externalExecutionId"])
            look_at = f"aws codebuild batch-get-builds --ids {outcome['externalExecutionId']}"
        elif provider == "CloudFormation":
            stack = (
                action["input"]
                .get("resolvedConfiguration", action["input"].get("configuration", {}))
                .get("StackName", "")
            )
            look_at = f"aws cloudformation describe-stack-events --stack-name {stack}"
            role = action["input"].get("roleArn") or ""
            if role:  # the stack is in the account of a stage, whose people see its events
                look_at += f" in account {role.split(':')[4]}"
            else:
                reasons += list(stack_failures(session.client("cloudformation"), stack))[:8]
        return FailedError(where, reasons, look_at)
    return FailedError(f"{pipeline}: execution {execution} ended as {status}", [], look_at)


# --- SageMaker pipelines
# ----------------------------------------------------------------------------------------------------


def step_failures(session: boto3.Session, execution_arn: str) -> list[str]:
    """The failed steps of a SageMaker pipeline execution with the end of each job's log."""
    sagemaker, logs = session.client("sagemaker"), session.client("logs")
    found: list[str] = []
    for step in sagemaker.list_pipeline_execution_steps(PipelineExecutionArn=execution_arn)[
        "PipelineExecutionSteps"
    ]:
        if step["StepStatus"] != "Failed":
            continue
        found.append(f"step {step['StepName']}: {step.get('FailureReason', 'no reason given')}")
        for kind, group in (
            ("ProcessingJob", "ProcessingJobs"),
            ("TrainingJob", "TrainingJobs"),
            ("TransformJob", "TransformJobs"),
        ):
            if arn := step.get("Metadata", {}).get(kind, {}).get("Arn"):
                found += [
                    f"  {line}"
                    for line in log_tail(logs, f"/aws/sagemaker/{group}", prefix=f"{arn.rsplit('/', 1)[-1]}/")
                ]
    return found
