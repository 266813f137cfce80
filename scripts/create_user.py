"""Gives a Data Scientist a Studio profile in a project: provisions the project's user product (flow C, Data
Science Admin).

    make create-user ARGS='--project churn --user jane'

Prints the association as JSON on stdout.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

import account
import create_project


def provision_user(session: boto3.Session, project_id: str, user: str) -> str:
    """Start the provisioning of the user product; returns the id of the provisioned product."""
    product = account.project(session.client("ssm"), project_id)["user-product-id"]
    servicecatalog = session.client("servicecatalog")
    answer = servicecatalog.provision_product(
        ProductId=product,
        ProvisioningArtifactId=account.newest_artifact(servicecatalog, product),
        ProvisionedProductName=f"mlops-{project_id}-{user}",
        ProvisioningParameters=[
            {"Key": "ProjectId", "Value": project_id},
            {"Key": "UserName", "Value": user},
        ],
    )
    return answer["RecordDetail"]["ProvisionedProductId"]


def wait_for_user(
    session: boto3.Session,
    provisioned_product_id: str,
    timeout: float = 1800,
    every: float = 1.0,
    tick: Callable[[], None] = lambda: None,
) -> str:
    """Wait for the profile's stack; returns its id."""
    servicecatalog = session.client("servicecatalog")

    def probe() -> str | None:
        detail = servicecatalog.describe_provisioned_product(Id=provisioned_product_id)[
            "ProvisionedProductDetail"
        ]
        if detail["Status"] == "AVAILABLE":
            return create_project.provisioned_stack(session, provisioned_product_id)
        if detail["Status"] in ("ERROR", "TAINTED"):
            stack = create_project.provisioned_stack(session, provisioned_product_id)
            reasons = [detail.get("StatusMessage", "no reason given")]
            reasons += (
                list(account.stack_failures(session.client("cloudformation"), stack))[:8] if stack else []
            )
            raise account.FailedError(
                f"provisioned product {detail['Name']} ended as {detail['Status']}",
                reasons,
                f"aws servicecatalog describe-record --id {detail.get('LastRecordId', '')}",
            )
        return None

    return account.poll("the user's stack", probe, timeout, every, tick)


def wait_for_association(
    session: boto3.Session,
    project_id: str,
    user: str,
    timeout: float = 1200,
    every: float = 1.0,
    tick: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Wait for the pipeline that associates the user with the project; returns what it wrote."""
    codepipeline, ssm = session.client("codepipeline"), session.client("ssm")
    pipeline = f"mlops-{project_id}-user-{user}"
    path = f"{account.PROJECTS}/{project_id}/users/{user}"

    def probe() -> dict[str, Any] | None:
        runs = account.executions(codepipeline, pipeline)
        if runs and runs[0]["status"] in ("Failed", "Stopped"):
            raise account.pipeline_failure(session, pipeline, runs[0]["pipelineExecutionId"])
        if runs and runs[0]["status"] == "Succeeded":
            written = account.parameters(ssm, path)
            if "association" not in written:
                raise account.FailedError(f"{pipeline} succeeded but {path}/association was not written")
            return json.loads(written["association"])
        return None

    return account.poll(f"pipeline {pipeline}", probe, timeout, every, tick)


def main(argv: list[str] | None = None, session: boto3.Session | None = None) -> int:
    """Provision and wait; exit 0 done, 1 fault, 2 usage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--project", required=True, help="the project's name")
    parser.add_argument("--user", required=True, help="the profile's name: letters, digits and inner hyphens")
    arguments = parser.parse_args(argv)
    session = session or boto3.Session()
    try:
        identifier = account.project_id(session.client("sagemaker"), arguments.project)
        wait_for_user(session, provision_user(session, identifier, arguments.user))
        association = wait_for_association(session, identifier, arguments.user)
    except (account.NotFoundError, account.FailedError, ClientError, BotoCoreError) as error:
        print(f"create-user: {error}", file=sys.stderr)
        return 1
    print(json.dumps(association, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
