"""What a project made outside its stack goes in an order that nothing blocks; what is not named stays."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

PROJECT = {"ProjectId": "p-abc"}
GONE = "Stack with id {} does not exist"


def stack(name: str, status: str) -> dict[str, Any]:
    made = datetime(2026, 1, 1)
    return {
        "Stacks": [{"StackName": name, "StackId": f"arn:{name}", "StackStatus": status, "CreationTime": made}]
    }


def no_stacks(cloudformation: Any, *stages: str) -> None:
    for stage in stages:
        name = f"mlops-p-abc-{stage}"
        cloudformation.fail("describe_stacks", "ValidationError", GONE.format(name), StackName=name)


def no_pipelines(sagemaker: Any) -> None:
    for name in ("mlops-p-abc", "mlops-p-abc-experimental"):
        sagemaker.fail(
            "list_pipeline_executions",
            "ResourceNotFound",
            f"Pipeline {name} does not exist.",
            PipelineName=name,
        )


MACHINE = "arn:aws:states:us-east-1:123456789012:stateMachine:mlops-p-abc-retraining"
TRAINING = MACHINE.replace("retraining", "training")


def no_workflow(states: Any) -> None:
    for machine in (MACHINE, TRAINING):
        states.fail(
            "list_executions",
            "StateMachineDoesNotExist",
            f"State Machine Does Not Exist: '{machine}'",
            stateMachineArn=machine,
            statusFilter="RUNNING",
        )
    states.fail("delete_state_machine", "StateMachineDoesNotExist", "not found", stateMachineArn=TRAINING)


def test_create_does_nothing(load: Callable, event: Callable) -> None:
    assert load("project_cleanup").on_event(event("Create", **PROJECT), {}.__getitem__) == (
        "cleanup-p-abc",
        {},
    )


def test_stacks_go_first_and_in_order(load: Callable, stub: Callable, event: Callable) -> None:
    cloudformation, sagemaker, slept = stub("cloudformation"), stub("sagemaker"), []
    states = stub("stepfunctions")
    no_workflow(states)
    for stage in ("api", "kpi", "monitoring", "production", "staging"):
        name = f"mlops-p-abc-{stage}"
        cloudformation.expect("describe_stacks", stack(name, "CREATE_COMPLETE"), StackName=name)
        cloudformation.expect("delete_stack", None, StackName=name)
        cloudformation.expect("describe_stacks", stack(name, "DELETE_IN_PROGRESS"), StackName=f"arn:{name}")
        cloudformation.expect("describe_stacks", stack(name, "DELETE_COMPLETE"), StackName=f"arn:{name}")
    no_pipelines(sagemaker)
    clients = {"cloudformation": cloudformation.client, "sagemaker": sagemaker.client}
    clients |= {"stepfunctions": states.client}
    answer = load("project_cleanup").on_event(
        event("Delete", "cleanup-p-abc", **PROJECT), clients.__getitem__, lambda: 800, slept.append
    )
    assert answer == ("cleanup-p-abc", {})
    assert len(slept) == 5


@pytest.mark.parametrize(
    ("status", "seconds", "message"),
    [
        ("DELETE_FAILED", 800, "could not be deleted"),
        ("DELETE_IN_PROGRESS", 5, "is still being deleted; delete the project again"),
    ],
)
def test_stack_that_stays_is_named(
    status: str, seconds: int, message: str, load: Callable, stub: Callable, event: Callable
) -> None:
    module, cloudformation = load("project_cleanup"), stub("cloudformation")
    name = "mlops-p-abc-api"
    cloudformation.expect("describe_stacks", stack(name, "CREATE_COMPLETE"), StackName=name)
    cloudformation.expect("delete_stack", None, StackName=name)
    cloudformation.expect("describe_stacks", stack(name, status), StackName=f"arn:{name}")
    with pytest.raises(module.StillThere, match=f"{name} {message}"):
        module.on_event(
            event("Delete", "cleanup-p-abc", **PROJECT),
            {"cloudformation": cloudformation.client}.__getitem__,
            lambda: seconds,
            None,
        )


def test_running_pipeline_is_stopped_once_and_then_deleted(load: Callable, stub: Callable) -> None:
    sagemaker, slept = stub("sagemaker"), []

    def executions(status: str) -> dict[str, Any]:
        arn = "arn:aws:sagemaker:us-east-1:123456789012:pipeline/mlops-p-abc/execution/abcdefghijkl"
        return {
            "PipelineExecutionSummaries": [{"PipelineExecutionArn": arn, "PipelineExecutionStatus": status}]
        }

    module = load("project_cleanup")
    name = {"PipelineName": "mlops-p-abc"}
    sagemaker.expect("list_pipeline_executions", executions("Executing"), **name)
    sagemaker.stubber.add_response(
        "stop_pipeline_execution", {}
    )  # botocore adds an idempotency token of its own
    sagemaker.expect("list_pipeline_executions", executions("Stopping"), **name)
    sagemaker.expect("list_pipeline_executions", executions("Stopped"), **name)
    sagemaker.stubber.add_response("delete_pipeline", {})
    module.delete_pipeline("mlops-p-abc", sagemaker.client, lambda: 800, slept.append)
    assert len(slept) == 2


def test_a_running_retraining_is_stopped_so_that_it_starts_nothing_more(
    load: Callable, stub: Callable
) -> None:
    states = stub("stepfunctions")
    execution = f"{MACHINE.replace('stateMachine', 'execution')}:one"
    running = {
        "executionArn": execution,
        "stateMachineArn": MACHINE,
        "name": "one",
        "status": "RUNNING",
        "startDate": datetime(2026, 1, 1),
    }
    states.expect(
        "list_executions", {"executions": [running]}, stateMachineArn=MACHINE, statusFilter="RUNNING"
    )
    states.expect(
        "stop_execution",
        {"stopDate": datetime(2026, 1, 1)},
        executionArn=execution,
        cause="The project is being deleted.",
    )
    load("project_cleanup").stop_workflow(MACHINE, states.client)


def test_nothing_more_is_touched(load: Callable, stub: Callable, event: Callable) -> None:
    """Model versions and data stay: the stub would refuse a further call."""
    cloudformation, sagemaker, states = stub("cloudformation"), stub("sagemaker"), stub("stepfunctions")
    no_stacks(cloudformation, "api", "kpi", "monitoring", "production", "staging")
    no_workflow(states)
    no_pipelines(sagemaker)
    clients = {"cloudformation": cloudformation.client, "sagemaker": sagemaker.client}
    clients |= {"stepfunctions": states.client}
    load("project_cleanup").on_event(event("Delete", "cleanup-p-abc", **PROJECT), clients.__getitem__)


def test_denied_is_not_gone(load: Callable, stub: Callable, event: Callable) -> None:
    cloudformation = stub("cloudformation")
    cloudformation.fail(
        "describe_stacks",
        "AccessDenied",
        "not authorized, does not exist",
        StackName="mlops-p-abc-api",
    )
    with pytest.raises(cloudformation.client.exceptions.ClientError, match="AccessDenied"):
        load("project_cleanup").on_event(
            event("Delete", "cleanup-p-abc", **PROJECT), {"cloudformation": cloudformation.client}.__getitem__
        )


def test_failed_create_is_deleted_without_a_call(load: Callable, event: Callable) -> None:
    assert load("project_cleanup").on_event(event("Delete", "r-1", **PROJECT), {}.__getitem__) == ("r-1", {})
