"""Deletes what the platform made: users, projects, then the infrastructure (flow A, Full Stack Developer).

    make teardown                           shows what would be deleted
    make teardown ARGS=--yes                deletes everything
    make teardown ARGS='--project churn --yes'

What a template retains (DeletionPolicy: Retain) stays and is listed as JSON on stdout; docs/operations.md
says why, and how to delete that too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import yaml
from botocore.exceptions import BotoCoreError, ClientError

import account
import publish


class CloudFormationLoader(yaml.SafeLoader):
    """Reads CloudFormation's YAML; only DeletionPolicy is of interest, so a tag such as !Sub becomes its
    bare value.
    """


def _bare(loader: yaml.SafeLoader, _: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    return loader.construct_sequence(node, deep=True) if isinstance(node, yaml.SequenceNode) else node.value


CloudFormationLoader.add_multi_constructor("!", _bare)


def nested(cloudformation: Any, stack: str) -> list[str]:
    """A stack and all stacks nested in it, by id."""
    found = [cloudformation.describe_stacks(StackName=stack)["Stacks"][0]["StackId"]]
    pages = cloudformation.get_paginator("list_stack_resources").paginate(StackName=stack)
    for resource in (r for page in pages for r in page["StackResourceSummaries"]):
        if resource["ResourceType"] == "AWS::CloudFormation::Stack" and resource.get("PhysicalResourceId"):
            found += nested(cloudformation, resource["PhysicalResourceId"])
    return found


def retained(cloudformation: Any, stacks: list[str]) -> list[dict[str, str]]:
    """What will stay when these stacks are deleted, by the policy written in their templates."""
    found = []
    for stack in stacks:
        body = cloudformation.get_template(StackName=stack)["TemplateBody"]
        template = body if isinstance(body, dict) else yaml.load(body, Loader=CloudFormationLoader)  # noqa: S506 a SafeLoader
        pages = cloudformation.get_paginator("list_stack_resources").paginate(StackName=stack)
        for resource in (r for page in pages for r in page["StackResourceSummaries"]):
            policy = (
                template["Resources"].get(resource["LogicalResourceId"], {}).get("DeletionPolicy", "Delete")
            )
            if policy.startswith("Retain") and resource.get("PhysicalResourceId"):
                found.append(
                    {
                        "type": resource["ResourceType"],
                        "id": resource["PhysicalResourceId"],
                        "stack": stack.split("/")[1],
                    }
                )
    return sorted(found, key=lambda r: (r["type"], r["id"]))


def users(servicecatalog: Any, product_id: str) -> list[dict[str, Any]]:
    """The provisioned users of a project, by its user product."""
    found: list[dict[str, Any]] = []
    token: dict[str, str] = {}
    while True:  # botocore has no paginator for it
        page = servicecatalog.search_provisioned_products(
            AccessLevelFilter={"Key": "Account", "Value": "self"},
            Filters={"SearchQuery": [f"productId:{product_id}"]},
            **token,
        )
        found += page["ProvisionedProducts"]
        if not page.get("NextPageToken"):
            return found
        token = {"PageToken": page["NextPageToken"]}


def delete_user(
    session: boto3.Session,
    provisioned: dict[str, Any],
    every: float = 5,
    tick: Callable[[], None] = lambda: None,
) -> None:
    """Terminate a provisioned user and wait until it is gone."""
    servicecatalog = session.client("servicecatalog")
    record = servicecatalog.terminate_provisioned_product(ProvisionedProductId=provisioned["Id"])[
        "RecordDetail"
    ]["RecordId"]

    def probe() -> bool | None:
        detail = servicecatalog.describe_record(Id=record)["RecordDetail"]
        if detail["Status"] == "SUCCEEDED":
            return True
        if detail["Status"] in ("FAILED", "IN_PROGRESS_IN_ERROR"):
            errors = [f"{e['Code']}: {e['Description']}" for e in detail.get("RecordErrors", [])]
            raise account.FailedError(
                f"{provisioned['Name']} could not be terminated",
                errors,
                f"aws servicecatalog describe-record --id {record}",
            )
        return None

    account.poll(f"termination of {provisioned['Name']}", probe, 1800, every, tick)


def delete_project(
    session: boto3.Session, name: str, every: float = 5, tick: Callable[[], None] = lambda: None
) -> None:
    """Delete a project and wait until its stack is gone; its cleanup function empties what pipelines made."""
    sagemaker, cloudformation = session.client("sagemaker"), session.client("cloudformation")
    found = sagemaker.describe_project(ProjectName=name)
    provisioned = found.get("ServiceCatalogProvisionedProductDetails", {}).get("ProvisionedProductId", "")
    stack = ""
    if provisioned:
        outputs = session.client("servicecatalog").get_provisioned_product_outputs(
            ProvisionedProductId=provisioned
        )["Outputs"]
        stack = next((o["OutputValue"] for o in outputs if o["OutputKey"] == "CloudformationStackARN"), "")
    sagemaker.delete_project(ProjectName=name)

    def probe() -> bool | None:
        try:
            status = sagemaker.describe_project(ProjectName=name)["ProjectStatus"]
        except ClientError:
            return True
        if status == "DeleteFailed":
            reasons = list(account.stack_failures(cloudformation, stack))[:8] if stack else []
            raise account.FailedError(
                f"project {name} ended as {status}",
                reasons,
                f"aws sagemaker describe-project --project-name {name}",
            )
        return True if status == "DeleteCompleted" else None

    account.poll(f"deletion of project {name}", probe, 3600, every, tick)
    if stack:
        account.wait_for_stack(cloudformation, stack, 3600, every, tick)


def delete_stack(
    session: boto3.Session, stack: str, every: float = 5, tick: Callable[[], None] = lambda: None
) -> None:
    """Delete a stack and wait until it is gone.

    A stack that was updated under a role is deleted under it too, and the platform's may not delete what it
    only updates, nor itself before it is done. So the deletion gets a role of its own, gone afterwards.
    https://docs.aws.amazon.com/AWSCloudFormation/latest/APIReference/API_DeleteStack.html
    """
    cloudformation = session.client("cloudformation")
    found = cloudformation.describe_stacks(StackName=stack)["Stacks"][0]
    with contextlib.ExitStack() as cleanup:
        role = {"RoleARN": cleanup.enter_context(deletion_role(session))} if found.get("RoleARN") else {}

        def begin() -> bool | None:
            try:
                cloudformation.delete_stack(StackName=found["StackId"], **role)
            except ClientError as error:
                if "cannot be assumed" in str(error):  # IAM takes seconds to tell of a new role
                    return None
                raise
            return True

        account.poll(f"deletion of {stack} to begin", begin, 60, every, tick)
        account.wait_for_stack(cloudformation, found["StackId"], 3600, every, tick)


@contextlib.contextmanager
def deletion_role(session: boto3.Session) -> Iterator[str]:
    """The ARN of a role with which CloudFormation may delete anything, as long as it is needed."""
    iam, name = session.client("iam"), f"mlops-teardown-{uuid.uuid4().hex[:8]}"
    service = {"Service": "cloudformation.amazonaws.com"}
    trust = {"Effect": "Allow", "Principal": service, "Action": "sts:AssumeRole"}
    # only an administrator can make such a role; what the templates retain stays
    everything = {"Effect": "Allow", "Action": "*", "Resource": "*"}
    role = iam.create_role(
        RoleName=name,
        Description="Deletes the stack of the MLOps platform; removed when that is done.",
        AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]}),
    )["Role"]
    try:
        document = json.dumps({"Version": "2012-10-17", "Statement": [everything]})
        iam.put_role_policy(RoleName=name, PolicyName="delete", PolicyDocument=document)
        yield role["Arn"]
    finally:
        with contextlib.suppress(iam.exceptions.NoSuchEntityException):
            iam.delete_role_policy(RoleName=name, PolicyName="delete")
        iam.delete_role(RoleName=name)


def plan(session: boto3.Session, stack: str, only_project: str = "") -> dict[str, Any]:
    """What a teardown deletes and what stays."""
    cloudformation, servicecatalog = session.client("cloudformation"), session.client("servicecatalog")
    infra_is_there = account.stack_status(cloudformation, stack) != "DELETE_COMPLETE"
    projects = [
        p
        for p in account.projects(session.client("sagemaker"))
        if not only_project or p["ProjectName"] == only_project
    ]
    if only_project and not projects:
        raise account.NotFoundError(f"there is no project {only_project!r}")
    found: dict[str, Any] = {
        "projects": {},
        "elsewhere": [],
        "stack": stack if infra_is_there and not only_project else "",
    }
    stacks: list[str] = nested(cloudformation, stack) if found["stack"] else []
    for project in projects:
        settings = account.parameters(session.client("ssm"), f"{account.PROJECTS}/{project['ProjectId']}")
        product = settings.get("user-product-id")
        found["elsewhere"] += elsewhere(project["ProjectName"], settings)
        people = users(servicecatalog, product) if product else []
        found["projects"][project["ProjectName"]] = people
        detail = session.client("sagemaker").describe_project(ProjectName=project["ProjectName"])
        ids = [detail.get("ServiceCatalogProvisionedProductDetails", {}).get("ProvisionedProductId", "")] + [
            p["Id"] for p in people
        ]
        for identifier in filter(None, ids):
            outputs = servicecatalog.get_provisioned_product_outputs(ProvisionedProductId=identifier)[
                "Outputs"
            ]
            for output in outputs:
                if output["OutputKey"] == "CloudformationStackARN":
                    stacks += nested(cloudformation, output["OutputValue"])
        for stage in ("staging", "production", "monitoring"):
            name = f"mlops-{project['ProjectId']}-{stage}"
            if account.stack_status(cloudformation, name) != "DELETE_COMPLETE":
                stacks.append(cloudformation.describe_stacks(StackName=name)["Stacks"][0]["StackId"])
    found["retained"] = retained(cloudformation, stacks)
    return found


def elsewhere(project: str, settings: dict[str, str]) -> list[str]:
    """Stages in other accounts, which nobody deletes from here; the command for each account."""
    here = settings.get("pipeline-role-arn", "::::").split(":")[4]
    numbers = {settings.get(f"{stage}-account-id", here) for stage in ("staging", "production")} - {here}
    arguments = f"--project {project} --remove --yes"
    return [
        f"account {number}: make prepare-account ARGS='--profile <of {number}> {arguments}'"
        for number in sorted(numbers)
    ]


def carry_out(
    session: boto3.Session,
    planned: dict[str, Any],
    say: Callable[[str], None],
    every: float = 5,
    tick: Callable[[], None] = lambda: None,
) -> None:
    """Delete in the order in which things need each other."""
    for project, people in planned["projects"].items():
        for person in people:
            say(f"user {person['Name']}")
            delete_user(session, person, every, tick)
        say(f"project {project}")
        delete_project(session, project, every, tick)
    if planned["stack"]:
        say(f"stack {planned['stack']}")
        delete_stack(session, planned["stack"], every, tick)


def main(argv: list[str] | None = None, session: boto3.Session | None = None) -> int:
    """Show or delete; exit 0 done, 1 fault, 2 usage, 3 nothing to do."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stack-name", default=publish.STACK_NAME)
    parser.add_argument("--project", default="", help="only this project")
    parser.add_argument("--yes", action="store_true", help="really delete; without it the plan is shown")
    arguments = parser.parse_args(argv)
    session = session or boto3.Session()
    try:
        planned = plan(session, arguments.stack_name, arguments.project)
        if not planned["projects"] and not planned["stack"]:
            print("teardown: nothing of the platform is in this account and region", file=sys.stderr)
            return 3
        if arguments.yes:
            carry_out(session, planned, lambda what: print(f"teardown: {what}", file=sys.stderr))
    except (account.NotFoundError, account.FailedError, ClientError, BotoCoreError) as error:
        print(f"teardown: {error}", file=sys.stderr)
        return 1
    shown = {
        **planned,
        "projects": {name: [p["Name"] for p in people] for name, people in planned["projects"].items()},
    }
    print(json.dumps({"deleted": arguments.yes, **shown}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
