"""What went wrong is found where it happened: in nested stacks, in the action, in the job's log."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError

import account


class Pages:
    """A paginator over given pages."""

    def __init__(self, *pages: dict[str, Any]) -> None:
        self.pages = pages

    def paginate(self, **_: Any) -> tuple[dict[str, Any], ...]:
        return self.pages


class CloudFormation:
    """Stacks by id, each with its events in the order in which they happened."""

    def __init__(self, stacks: dict[str, list[dict[str, Any]]], status: str = "ROLLBACK_COMPLETE") -> None:
        self.stacks, self.status = stacks, status

    def get_paginator(self, name: str) -> Any:
        assert name == "describe_stack_events"
        return self

    def paginate(self, StackName: str) -> list[dict[str, Any]]:  # noqa: N803
        # newest first, and over two pages, as the service answers
        events = self.stacks[StackName][::-1]
        return [{"StackEvents": events[:1]}, {"StackEvents": events[1:]}]

    def describe_stacks(self, StackName: str) -> dict[str, Any]:  # noqa: N803
        if StackName not in self.stacks:
            raise ClientError(
                {
                    "Error": {
                        "Code": "ValidationError",
                        "Message": f"Stack with id {StackName} does not exist",
                    }
                },
                "DescribeStacks",
            )
        return {"Stacks": [{"StackStatus": self.status}]}


def event(
    stack: str, name: str, kind: str, status: str, reason: str = "", physical: str = ""
) -> dict[str, Any]:
    """One stack event."""
    return {
        "StackId": stack,
        "StackName": stack,
        "LogicalResourceId": name,
        "ResourceType": kind,
        "ResourceStatus": status,
        "ResourceStatusReason": reason,
        "PhysicalResourceId": physical,
    }


def test_a_failure_in_a_nested_stack_is_told_instead_of_its_parents() -> None:
    nested = "AWS::CloudFormation::Stack"
    cloudformation = CloudFormation(
        {
            "parent": [
                event(
                    "parent",
                    "Network",
                    nested,
                    "CREATE_FAILED",
                    "Embedded stack child was not created",
                    "child",
                ),
                event("parent", "Keys", nested, "CREATE_FAILED", "Resource creation cancelled", "other"),
            ],
            "child": [
                event(
                    "child",
                    "Vpc",
                    "AWS::EC2::VPC",
                    "CREATE_FAILED",
                    "The maximum number of VPCs has been reached",
                )
            ],
        }
    )
    assert list(account.stack_failures(cloudformation, "parent")) == [
        "child / Vpc (AWS::EC2::VPC): CREATE_FAILED: The maximum number of VPCs has been reached"
    ]


def test_a_stack_that_was_refused_tells_its_own_reason() -> None:
    cloudformation = CloudFormation(
        {"x": [event("x", "x", "AWS::CloudFormation::Stack", "ROLLBACK_IN_PROGRESS", "No parameter y", "x")]}
    )
    assert list(account.stack_failures(cloudformation, "x")) == ["x: ROLLBACK_IN_PROGRESS: No parameter y"]


@pytest.mark.parametrize("status", ["ROLLBACK_COMPLETE", "UPDATE_ROLLBACK_COMPLETE", "DELETE_FAILED"])
def test_waiting_for_a_stack_ends_with_its_reasons(status: str) -> None:
    cloudformation = CloudFormation(
        {"x": [event("x", "Vpc", "AWS::EC2::VPC", "CREATE_FAILED", "no")]}, status
    )
    with pytest.raises(account.FailedError) as failed:
        account.wait_for_stack(cloudformation, "x", every=0)
    assert status in failed.value.args[0]
    assert failed.value.reasons == ["x / Vpc (AWS::EC2::VPC): CREATE_FAILED: no"]
    assert "describe-stack-events --stack-name x" in str(failed.value)


def test_a_stack_that_is_gone_counts_as_deleted() -> None:
    assert account.wait_for_stack(CloudFormation({}), "x", every=0) == "DELETE_COMPLETE"


def test_parameters_are_read_over_all_pages() -> None:
    ssm = type("Ssm", (), {})()
    ssm.get_paginator = lambda name: Pages(
        {"Parameters": []},
        {"Parameters": [{"Name": "/mlops/infra/vpc-id", "Value": "vpc-1"}]},
        {"Parameters": [{"Name": "/mlops/infra/studio-domain-id", "Value": "d-1"}]},
    )
    assert account.infra(ssm) == {"vpc-id": "vpc-1", "studio-domain-id": "d-1"}


def test_an_account_without_the_platform_is_told_what_to_run() -> None:
    ssm = type("Ssm", (), {"get_paginator": lambda self, name: Pages({"Parameters": []})})()
    with pytest.raises(account.NotFoundError, match="make deploy"):
        account.infra(ssm)


def test_an_unknown_project_is_told_which_there_are() -> None:
    class SageMaker:
        def describe_project(self, **_: str) -> None:
            raise ClientError({"Error": {"Code": "ValidationException", "Message": "no"}}, "DescribeProject")

        def get_paginator(self, name: str) -> Pages:
            found = [{"ProjectName": "churn", "ProjectStatus": "CreateCompleted"}]
            gone = [{"ProjectName": "old", "ProjectStatus": "DeleteCompleted"}]
            return Pages({"ProjectSummaryList": gone}, {"ProjectSummaryList": found})

    with pytest.raises(account.NotFoundError, match="no project 'chrun'; projects here: churn$"):
        account.project_id(SageMaker(), "chrun")


def test_the_newest_version_that_is_not_deprecated_is_taken() -> None:
    versions = [
        {"Id": "pa-1", "CreatedTime": 1, "Guidance": "DEFAULT"},
        {"Id": "pa-3", "CreatedTime": 3, "Guidance": "DEPRECATED"},
        {"Id": "pa-2", "CreatedTime": 2, "Guidance": "DEFAULT"},
    ]
    catalog = type(
        "Catalog", (), {"describe_product": lambda self, Id: {"ProvisioningArtifacts": versions}}
    )()
    assert account.newest_artifact(catalog, "prod-1") == "pa-2"


class Elsewhere:
    """A pipeline whose deployment failed in the account of a stage."""

    def client(self, service: str) -> Elsewhere:
        assert service == "codepipeline", f"{service} of this account knows nothing of it"
        return self

    def get_pipeline_execution(self, **_: str) -> dict[str, Any]:
        return {"pipelineExecution": {"status": "Failed"}}

    def get_paginator(self, _: str) -> Elsewhere:
        return self

    def paginate(self, **_: Any) -> list[dict[str, Any]]:
        role = "arn:aws:iam::210987654321:role/mlops/projects/mlops-p-1-deliver"
        why = "role deliver is not authorized to perform: kms:Decrypt on resource: key"
        action = {
            "stageName": "Staging",
            "actionName": "Deploy",
            "startTime": 1,
            "status": "Failed",
            "input": {
                "actionTypeId": {"provider": "CloudFormation"},
                "roleArn": role,
                "configuration": {"StackName": "mlops-p-1-staging"},
            },
            "output": {"executionResult": {"errorDetails": {"message": why}}},
        }
        return [{"actionExecutionDetails": [action]}]


def test_a_failure_in_the_account_of_a_stage_is_told_with_its_account() -> None:
    error = account.pipeline_failure(Elsewhere(), "mlops-p-1-deploy", "e")
    assert "kms:Decrypt on resource: key" in str(error)
    assert error.look_at.endswith("--stack-name mlops-p-1-staging in account 210987654321")
