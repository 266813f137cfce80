"""Stage Train of the build pipeline (flow E): updates the project's stable SageMaker pipeline and runs it.

The definition comes from the project's pipeline.py. It is checked, and created or updated with the project's
role and tags. The retraining workflow starts it, because it sees to it that one training runs at a time. The
execution is followed; the result is the new model version, or why there is none.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import ClientError

from . import retraining, sdk, step_functions
from .config import read_config
from .console import OK, Fault, say, script, write_env, write_json
from .definition_lint import lint
from .monitor_code import upload_monitor
from .settings import IMAGES, Project, checked_commit, load_project

INLINE_LIMIT = 100 * 1024  # bytes of a definition that the API takes inline
FIRST_POLL, LAST_POLL = 1.0, 15.0  # seconds; short runs are seen quickly, long ones cost few calls
LOG_LINES = 20
# Step metadata -> (log group, Describe call, its argument)
JOBS = {
    "ProcessingJob": ("/aws/sagemaker/ProcessingJobs", "describe_processing_job", "ProcessingJobName"),
    "TrainingJob": ("/aws/sagemaker/TrainingJobs", "describe_training_job", "TrainingJobName"),
    "TransformJob": ("/aws/sagemaker/TransformJobs", "describe_transform_job", "TransformJobName"),
    "TuningJob": (
        "/aws/sagemaker/TrainingJobs",
        "describe_hyper_parameter_tuning_job",
        "HyperParameterTuningJobName",
    ),
}


def read_images(path: Path) -> dict[str, str]:
    """images.json of the Images stage; a folder stands for the images.json in it."""
    file = path / "images.json" if path.is_dir() else path
    if not file.is_file():
        raise Fault(f"{file} is missing: stage Images writes it")
    try:
        images = dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError) as error:
        raise Fault(f"{file} is not what stage Images writes ({error}): run stage Images again") from error
    missing = [name for name in IMAGES if not images.get(name)]
    if missing:
        raise Fault(f"{file} has no address of {', '.join(missing)}: run stage Images again")
    return images


def upsert(sagemaker: Any, s3: Any, project: Project, definition: str) -> str:
    """Create or update the stable pipeline; its ARN."""
    arguments: dict[str, Any] = {"PipelineName": project.name, "RoleArn": project.execution_role_arn}
    if len(definition.encode()) > INLINE_LIMIT:
        key = f"pipelines/{project.name}/definition.json"
        s3.put_object(Bucket=project.bucket_name, Key=key, Body=definition.encode())
        arguments["PipelineDefinitionS3Location"] = {"Bucket": project.bucket_name, "ObjectKey": key}
    else:
        arguments["PipelineDefinition"] = definition
    try:
        sagemaker.describe_pipeline(PipelineName=project.name)
    except ClientError as error:
        # An invalid name is refused by CreatePipeline in better words, so both codes lead there.
        if error.response["Error"]["Code"] not in ("ResourceNotFound", "ValidationException"):
            raise
        arn = sagemaker.create_pipeline(**arguments, Tags=project.tags)["PipelineArn"]
        say(f"pipeline {project.name} created")
        return arn
    arn = sagemaker.update_pipeline(**arguments)["PipelineArn"]
    sagemaker.add_tags(ResourceArn=arn, Tags=project.tags)
    say(f"pipeline {project.name} updated")
    return arn


def list_steps(sagemaker: Any, execution: str) -> list[dict[str, Any]]:
    """The steps that have begun, oldest first."""
    pages = sagemaker.get_paginator("list_pipeline_execution_steps").paginate(
        PipelineExecutionArn=execution, SortOrder="Ascending"
    )
    return [step for page in pages for step in page["PipelineExecutionSteps"]]


def follow(
    sagemaker: Any, execution: str, sleep: Callable[[float], None], clock: Callable[[], float]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Wait for the end of an execution and tell every change of a step; the execution and its steps."""
    started, pause = clock(), FIRST_POLL
    told: dict[str, str] = {}
    while True:
        described = sagemaker.describe_pipeline_execution(PipelineExecutionArn=execution)
        steps = list_steps(sagemaker, execution)
        for step in steps:
            name, status = step["StepName"], step["StepStatus"]
            if told.get(name) != status:
                told[name] = status
                cached = " (cached)" if step.get("CacheHitResult") else ""
                say(f"  {clock() - started:6.0f} s  {name}: {status}{cached}")
                pause = FIRST_POLL
        if described["PipelineExecutionStatus"] in ("Succeeded", "Failed", "Stopped"):
            return described, steps
        sleep(pause)
        pause = min(LAST_POLL, pause * 1.5)


def log_tail(logs: Any, group: str, job: str, lines: int = LOG_LINES) -> list[str]:
    """The last log lines of a job."""
    try:
        streams = logs.describe_log_streams(logGroupName=group, logStreamNamePrefix=f"{job}/")["logStreams"]
        events: list[dict[str, Any]] = []
        for stream in streams[:3]:
            events += logs.get_log_events(
                logGroupName=group, logStreamName=stream["logStreamName"], limit=lines, startFromHead=False
            )["events"]
    except ClientError as error:
        return [f"(its log in {group} cannot be read: {error.response['Error']['Code']})"]
    events.sort(key=lambda event: event["timestamp"])
    return [event["message"].rstrip() for event in events[-lines:]]


def explain_step(sagemaker: Any, logs: Any, step: dict[str, Any]) -> str:
    """Why a step failed: its reason, the job's reason, and the end of the job's log."""
    reasons = [step.get("FailureReason") or "no reason given"]
    metadata = step.get("Metadata") or {}
    if "Fail" in metadata:  # the project's own verdict, such as a metric below its threshold
        return f"step {step['StepName']}: {metadata['Fail'].get('ErrorMessage') or reasons[0]}"
    lines: list[str] = []
    for kind, (group, call, argument) in JOBS.items():
        arn = (metadata.get(kind) or {}).get("Arn")
        if not arn:
            continue
        job = arn.rpartition("/")[2]
        try:
            described = getattr(sagemaker, call)(**{argument: job})
            reasons += [described.get("FailureReason"), described.get("ExitMessage")]
        except ClientError as error:
            reasons.append(f"job {job} cannot be described: {error.response['Error']['Code']}")
        lines = log_tail(logs, group, job)
    text = "; ".join(dict.fromkeys(reason.strip() for reason in reasons if reason))
    sentence = f"step {step['StepName']} failed: {text}"
    return "\n  | ".join([f"{sentence}\n  last lines of its log:", *lines]) if lines else sentence


def explain(sagemaker: Any, logs: Any, described: dict[str, Any], steps: list[dict[str, Any]]) -> str:
    """Why an execution did not succeed."""
    status = described["PipelineExecutionStatus"]
    failed = [step for step in steps if step["StepStatus"] == "Failed"]
    if status == "Stopped" or not failed:
        reason = described.get("FailureReason") or "no reason given"
        return f"the pipeline execution ended as {status}: {reason}"
    return "\n".join(explain_step(sagemaker, logs, step) for step in failed)


def registered(steps: list[dict[str, Any]]) -> str | None:
    """ARN of the model version that the execution registered."""
    for step in steps:
        arn = ((step.get("Metadata") or {}).get("RegisterModel") or {}).get("Arn")
        if arn:
            return arn
    return None


def define(
    options: argparse.Namespace, config: dict[str, Any], session: Any, project: Project, sagemaker: Any
) -> str:
    """The project's pipeline definition, checked."""
    monitor = upload_monitor(session.client("s3"), project.bucket_name, project.key_arn)
    settings = project.for_pipeline(config, read_images(options.images), options.commit, monitor)
    definition = sdk.load_definition(
        options.project_dir.resolve(), settings, sdk.pipeline_session(session, project.bucket_name)
    )
    content = json.loads(definition)
    problems = [*lint(content, sagemaker.meta.service_model), *retraining.missing_parameters(content)]
    if problems:
        raise Fault(
            "\n  ".join([f"pipeline.py describes a pipeline with {len(problems)} mistake(s)", *problems])
        )
    return definition


@script
def main(
    argv: Sequence[str] | None = None,
    session: Any = None,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Update the pipeline, have it run and follow it; write out.json and what CodePipeline shows."""
    parser = argparse.ArgumentParser(prog="mlops_cicd.run_pipeline", description=__doc__)
    parser.add_argument("--project-id", default=os.environ.get("PROJECT_ID", ""))
    parser.add_argument("--project-dir", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True, help="images.json, or the folder that holds it")
    parser.add_argument("--commit", default=os.environ.get("COMMIT_ID", ""))
    parser.add_argument("--build", default=os.environ.get("CODEBUILD_BUILD_ID", "").rpartition(":")[2])
    parser.add_argument("--out", type=Path, default=Path("out.json"))
    parser.add_argument("--env", type=Path, help="file of `export` lines for the buildspec to source")
    options = parser.parse_args(argv)
    checked_commit(options.commit)
    session = session or boto3.Session()
    sagemaker, logs, states = (session.client(name) for name in ("sagemaker", "logs", "stepfunctions"))
    project = load_project(session.client("ssm"), options.project_id, session.region_name)

    config = read_config(options.project_dir / "mlops.yml")
    project.check(config)
    definition = define(options, config, session, project, sagemaker)
    orchestrator = config["training"].get("orchestrator", "pipelines")
    if orchestrator == "step_functions":
        step_functions.upsert(states, project, step_functions.translate(json.loads(definition), project.name))
    else:
        upsert(sagemaker, session.client("s3"), project, definition)
    started = clock()
    build = options.build[:8] or time.strftime("%Y%m%d%H%M%S", time.gmtime())
    workflow = retraining.ask(
        states, project.retraining_state_machine_arn, options.commit, build, orchestrator
    )
    say(f"retraining {workflow}")
    execution = retraining.pipeline_execution(states, workflow, sleep, clock)
    say(f"execution {execution}")
    if ":states:" in execution:
        names = step_functions.step_names(json.loads(definition))
        described, steps = step_functions.follow(states, execution, names, sleep, clock)
    else:
        described, steps = follow(sagemaker, execution, sleep, clock)

    status, model = described["PipelineExecutionStatus"], registered(steps)
    write_json(
        options.out,
        {
            "pipeline_name": project.name,
            "retraining_execution_arn": workflow,
            "pipeline_execution_arn": execution,
            "status": status,
            "model_package_arn": model,
            "seconds": round(clock() - started, 1),
            "steps": [
                {"name": step["StepName"], "status": step["StepStatus"], "reason": step.get("FailureReason")}
                for step in steps
            ],
        },
    )
    if options.env:
        write_env(options.env, {"PIPELINE_EXECUTION_ARN": execution, "MODEL_PACKAGE_ARN": model or ""})
    if status != "Succeeded":
        raise Fault(explain(sagemaker, logs, described, steps))
    if not model:
        raise Fault(
            "the pipeline succeeded but registered no model version: pipeline.py must end in a registration "
            f"into {project.model_package_group_name}, or in a FailStep that says why there is none"
        )
    say(f"model version {model} waits for approval in group {project.model_package_group_name}")
    return OK


if __name__ == "__main__":
    sys.exit(main())
