"""Custom::ProjectCleanup: removes what a project made outside its stack (flow B, 2-smproject.yaml).

Property: ProjectId. On Delete the deployed stacks go first (they use the project's roles, key and topic),
then what retrains is stopped, so that it starts nothing any more, then the pipelines go. Model versions and
data stay: the templates retain their group and bucket.
"""

from __future__ import annotations

import json
import logging
import re
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import boto3
from botocore.exceptions import ClientError

logger = logging.getLogger()
logger.setLevel(logging.INFO)

POLL_SECONDS = 2
ANSWER_SECONDS = 20  # kept back from Lambda's time limit for the answer
# kpi tells of the monitors; the API and the monitors ask the production endpoint, so they go first
STACKS = ("api", "kpi", "monitoring", "production", "staging")
PIPELINES = ("", "-experimental")
GONE = {
    "ValidationError",
    "ValidationException",
    "ResourceNotFound",
    "ResourceNotFoundException",
    "NoSuchBucket",
    "StateMachineDoesNotExist",
}


class NotOfTheProject(ValueError):
    """What is to be emptied does not belong to the project; this function may empty every project's."""


class StillThere(TimeoutError):
    """Something was not gone when the time was up."""


def on_event(
    event: dict[str, Any],
    client: Callable[[str], Any],
    seconds_left: Callable[[], float] = lambda: 870.0,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[str, dict[str, str]]:
    """Do nothing until Delete; then remove stacks and pipelines of the project."""
    properties = event["ResourceProperties"]
    check_owner(properties)
    identity = f"cleanup-{properties['ProjectId']}"
    if event["RequestType"] != "Delete":
        return identity, {}
    if event["PhysicalResourceId"] != identity:
        return event["PhysicalResourceId"], {}  # Create had failed, or another project's id was guarded
    project = f"mlops-{properties['ProjectId']}"
    for stage in STACKS:
        delete_stack(f"{project}-{stage}", client("cloudformation"), seconds_left, sleep)
    stop_workflow(machine_arn(event["StackId"], f"{project}-retraining"), client("stepfunctions"))
    delete_workflow(machine_arn(event["StackId"], f"{project}-training"), client("stepfunctions"))
    for suffix in PIPELINES:
        delete_pipeline(project + suffix, client("sagemaker"), seconds_left, sleep)
    return identity, {}


def check_owner(properties: dict[str, str]) -> None:
    """Refuse what is no project's id, at Create already, so that a deletion never meets it."""
    project = properties["ProjectId"]
    if not re.fullmatch(r"p-[a-z0-9]+", project):
        raise NotOfTheProject(f"ProjectId {project[:60]!a}: p- and small letters or digits are allowed")


def delete_stack(
    name: str, cloudformation: Any, seconds_left: Callable[[], float], sleep: Callable[[float], None]
) -> None:
    """Delete a stack and wait until it is gone; a stack that is not there is fine."""
    try:
        stack = cloudformation.describe_stacks(StackName=name)["Stacks"][0]
        logger.info("deleting stack %s", name)
        cloudformation.delete_stack(StackName=name)
        while True:  # by id, because a deleted stack has no name any more
            stack = cloudformation.describe_stacks(StackName=stack["StackId"])["Stacks"][0]
            if stack["StackStatus"] == "DELETE_COMPLETE":
                return
            if stack["StackStatus"] == "DELETE_FAILED":
                raise StillThere(
                    f"stack {name} could not be deleted: {stack.get('StackStatusReason', 'see its events')}"
                )
            _rest(f"stack {name} is still being deleted", seconds_left, sleep)
    except ClientError as error:
        _pass_if_gone(error, name)


def machine_arn(stack: str, name: str) -> str:
    """The ARN of a state machine in the account and region of a stack."""
    _, partition, _, region, account, _ = stack.split(":", 5)
    return f"arn:{partition}:states:{region}:{account}:stateMachine:{name}"


def stop_workflow(machine: str, states: Any) -> None:
    """Stop what runs of a state machine."""
    pages = states.get_paginator("list_executions")
    try:
        for page in pages.paginate(stateMachineArn=machine, statusFilter="RUNNING"):
            for execution in page["executions"]:
                states.stop_execution(
                    executionArn=execution["executionArn"], cause="The project is being deleted."
                )
                logger.info("stopped %s", execution["executionArn"])
    except ClientError as error:
        _pass_if_gone(error, machine)


def delete_workflow(machine: str, states: Any) -> None:
    """Delete a state machine that a build has made; one that is not there is fine."""
    stop_workflow(machine, states)
    try:
        states.delete_state_machine(stateMachineArn=machine)
    except ClientError as error:
        _pass_if_gone(error, machine)


def delete_pipeline(
    name: str, sagemaker: Any, seconds_left: Callable[[], float], sleep: Callable[[float], None]
) -> None:
    """Stop what runs of a SageMaker pipeline, wait for it, and delete the pipeline."""
    pages = sagemaker.get_paginator("list_pipeline_executions")
    try:
        stopped: set[str] = set()
        while True:
            running = [
                execution
                for page in pages.paginate(PipelineName=name)
                for execution in page["PipelineExecutionSummaries"]
                if execution["PipelineExecutionStatus"] in ("Executing", "Stopping")
            ]
            if not running:
                break
            for arn in {execution["PipelineExecutionArn"] for execution in running} - stopped:
                sagemaker.stop_pipeline_execution(PipelineExecutionArn=arn)
                stopped.add(arn)
            _rest(f"an execution of pipeline {name} is still stopping", seconds_left, sleep)
        sagemaker.delete_pipeline(PipelineName=name)
        logger.info("deleted pipeline %s", name)
    except ClientError as error:
        _pass_if_gone(error, name)


def _rest(what: str, seconds_left: Callable[[], float], sleep: Callable[[float], None]) -> None:
    if seconds_left() < ANSWER_SECONDS + POLL_SECONDS:
        raise StillThere(f"{what}; delete the project again in a few minutes")
    sleep(POLL_SECONDS)


def _pass_if_gone(error: ClientError, name: str) -> None:
    detail = error.response["Error"]
    if detail["Code"] not in GONE or not ("exist" in detail["Message"].lower() or "Not" in detail["Code"]):
        raise error
    logger.info("%s is gone already", name)


def handler(event: dict[str, Any], context: Any) -> None:
    """Answer CloudFormation exactly once."""
    logger.info("%s %s", event["RequestType"], event["LogicalResourceId"])
    answer = {key: event[key] for key in ("StackId", "RequestId", "LogicalResourceId")}
    answer["PhysicalResourceId"] = event.get("PhysicalResourceId", event["RequestId"])
    try:
        answer["PhysicalResourceId"], answer["Data"] = on_event(
            event, boto3.client, lambda: context.get_remaining_time_in_millis() / 1000
        )
        answer["Status"] = "SUCCESS"
    except Exception as error:  # the one broad catch: CloudFormation must get its answer
        logger.exception("%s failed", event["RequestType"])
        answer |= {"Status": "FAILED", "Reason": f"{type(error).__name__}: {error}"[:1000]}
    send(event["ResponseURL"], answer)


def send(url: str, answer: dict[str, Any]) -> None:
    """Put the answer where CloudFormation waits for it."""
    body = json.dumps(answer).encode()
    # The signature of the URL covers an empty content type, which urllib would otherwise fill in.
    # The URL is CloudFormation's own, an address of S3 (hence S310).
    request = urllib.request.Request(url, data=body, method="PUT", headers={"Content-Type": ""})  # noqa: S310
    with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
        logger.info("answered %s: %s", answer["Status"], response.status)
