"""Creates a project as Studio does: SageMaker CreateProject with the platform's product (flow B, Data
Science Admin).

    make create-project ARGS='--name churn --cost-center 4711 --owner-email you@example.com'

Prints the project as JSON on stdout.
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


def create_project(
    session: boto3.Session, name: str, settings: dict[str, str], description: str = ""
) -> dict[str, Any]:
    """Start the creation and return the answer; a project of this name must not exist."""
    infra = account.infra(session.client("ssm"))
    product = infra["project-product-id"]
    return session.client("sagemaker").create_project(
        ProjectName=name,
        ProjectDescription=description or f"MLOps project {name}",
        ServiceCatalogProvisioningDetails={
            "ProductId": product,
            "ProvisioningArtifactId": account.newest_artifact(session.client("servicecatalog"), product),
            "ProvisioningParameters": [
                {"Key": key, "Value": value} for key, value in settings.items() if value
            ],
        },
    )


def provisioned_stack(session: boto3.Session, provisioned_product_id: str) -> str:
    """The stack behind a provisioned product, empty while there is none."""
    servicecatalog = session.client("servicecatalog")
    outputs = servicecatalog.get_provisioned_product_outputs(ProvisionedProductId=provisioned_product_id)[
        "Outputs"
    ]
    return next((o["OutputValue"] for o in outputs if o["OutputKey"] == "CloudformationStackARN"), "")


def wait_for_project(
    session: boto3.Session,
    name: str,
    timeout: float = 1800,
    every: float = 1.0,
    tick: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Wait until the project is complete; the failed resources of its stack are the reasons otherwise."""
    sagemaker = session.client("sagemaker")

    def probe() -> dict[str, Any] | None:
        project = sagemaker.describe_project(ProjectName=name)
        status = project["ProjectStatus"]
        if status == "CreateCompleted":
            return project
        if status.endswith("Failed"):
            details = project.get("ServiceCatalogProvisionedProductDetails", {})
            reasons = [details.get("ProvisionedProductStatusMessage", "no reason given")]
            stack = ""
            if details.get("ProvisionedProductId"):
                stack = provisioned_stack(session, details["ProvisionedProductId"])
                reasons += (
                    list(account.stack_failures(session.client("cloudformation"), stack))[:8] if stack else []
                )
            raise account.FailedError(
                f"project {name} ended as {status}",
                reasons,
                f"aws cloudformation describe-stack-events --stack-name {stack}"
                if stack
                else f"aws sagemaker describe-project --project-name {name}",
            )
        return None

    return account.poll(f"project {name}", probe, timeout, every, tick)


def main(argv: list[str] | None = None, session: boto3.Session | None = None) -> int:
    """Create and wait; exit 0 done, 1 fault, 2 usage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--name", required=True, help="1 to 32 letters, digits and inner hyphens")
    parser.add_argument("--cost-center", required=True)
    parser.add_argument(
        "--owner-email", required=True, help="receives approval requests, failures and drift alarms"
    )
    parser.add_argument("--description", default="")
    parser.add_argument("--project-template", default="sklearn", choices=["sklearn"])
    parser.add_argument("--inference-mode", default="realtime", choices=["realtime", "batch"])
    parser.add_argument("--staging-account", default="", help="account of staging, if it is another one")
    parser.add_argument("--production-account", default="", help="account of production, likewise")
    parser.add_argument("--no-wait", action="store_true", help="come back when creation has begun")
    arguments = parser.parse_args(argv)
    session = session or boto3.Session()
    settings = {
        "CostCenter": arguments.cost_center,
        "OwnerEmail": arguments.owner_email,
        "ProjectDescription": arguments.description,
        "ProjectTemplate": arguments.project_template,
        "InferenceMode": arguments.inference_mode,
        "StagingAccountId": arguments.staging_account,
        "ProductionAccountId": arguments.production_account,
    }
    try:
        begun = create_project(session, arguments.name, settings, arguments.description)
        answer = {"project": arguments.name, "project_id": begun["ProjectId"]}
        if not arguments.no_wait:
            wait_for_project(session, arguments.name)
            answer |= account.project(session.client("ssm"), begun["ProjectId"])
    except (account.NotFoundError, account.FailedError, ClientError, BotoCoreError) as error:
        print(f"create-project: {error}", file=sys.stderr)
        return 1
    print(json.dumps(answer, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
