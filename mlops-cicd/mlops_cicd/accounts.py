"""Stages in other accounts (flow F): whom a build works as there, and what such a stage cannot do.

A stage is in the project's own account unless the project names another one (StagingAccountId and
ProductionAccountId of 2-smproject). There, accounts/project.yaml made four roles whose names are a contract:
CodePipeline takes `deliver`, CloudFormation `stacks`, SageMaker `model`, and a build takes `release`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import boto3
from botocore.exceptions import ClientError

from .console import Fault
from .registry import ModelVersion
from .settings import Project

STAGES = ("staging", "production")
MODELS = "models/"  # what the role of a model in another account may read of the project's bucket
PREPARE = "an administrator of that account runs `make prepare-account` for this project"


def account_of(project: Project, stage: str) -> str:
    """The account that a stage is in."""
    found = {"staging": project.staging_account_id, "production": project.production_account_id}[stage]
    return found or project.account


def is_elsewhere(project: Project, stage: str) -> bool:
    """Whether a stage is in another account than the project."""
    return account_of(project, stage) != project.account


def role_arn(project: Project, stage: str, name: str) -> str:
    """A role that accounts/project.yaml made in the account of a stage."""
    account = account_of(project, stage)
    return f"arn:{project.partition}:iam::{account}:role/mlops/projects/{project.name}-{name}"


def stage_session(session: Any, project: Project, stage: str) -> Any:
    """A session with which a build works in the account of a stage: its own, or that of the role there."""
    if not is_elsewhere(project, stage):
        return session
    role = role_arn(project, stage, "release")
    try:
        keys = session.client("sts").assume_role(RoleArn=role, RoleSessionName=f"{project.name}-{stage}"[:64])
    except ClientError as error:
        raise Fault(
            f"{stage} is in account {account_of(project, stage)}, whose role {role} cannot be taken: "
            f"{error.response['Error']['Message']}: {PREPARE}"
        ) from error
    return boto3.Session(
        aws_access_key_id=keys["Credentials"]["AccessKeyId"],
        aws_secret_access_key=keys["Credentials"]["SecretAccessKey"],
        aws_session_token=keys["Credentials"]["SessionToken"],
        region_name=session.region_name,
    )


def mistakes(project: Project, config: dict[str, Any]) -> Iterator[str]:
    """What mlops.yml asks for and a stage in another account has not; each with what is allowed."""
    elsewhere = [stage for stage in STAGES if is_elsewhere(project, stage)]
    if not elsewhere:
        return
    where = " and ".join(f"{stage} is in account {account_of(project, stage)}" for stage in elsewhere)
    if config["inference"]["mode"] == "batch":
        yield (
            f"inference.mode is batch and {where}: allowed with both stages in account {project.account}, "
            "because batch jobs work beside the bucket: make the project anew, without accounts of stages"
        )
    if config["deployment"].get("endpoint") == "asynchronous":
        yield (
            f"deployment.endpoint is asynchronous and {where}: allowed there are instances and serverless, "
            "because files of requests stay in the project's account"
        )
    if "production" not in elsewhere:
        return
    monitoring = config.get("monitoring", {})
    if config["deployment"].get("api"):
        yield f"deployment.api is set and {where}: an API needs the endpoint in its own account; remove it"
    if monitoring.get("engine") == "managed":
        yield (
            f"monitoring.engine is managed and {where}: Model Monitor looks for the endpoint in its own "
            "account; allowed is processing"
        )
    if monitoring.get("simulated_traffic"):
        yield (
            f"monitoring.simulated_traffic is true and {where}: its function sends to an endpoint of the "
            "project's account; allowed is false"
        )


def check(project: Project, config: dict[str, Any], model: ModelVersion) -> None:
    """Refuse what a stage in another account cannot run, before anything is deployed."""
    found = [f"mlops.yml: {sentence}" for sentence in mistakes(project, config)]
    home = f"s3://{project.bucket_name}/{MODELS}"
    if any(is_elsewhere(project, stage) for stage in STAGES):
        for number, container in enumerate(model.containers, start=1):
            data = container.get("ModelDataUrl")
            if data and not data.startswith(home):
                found.append(
                    f"model version {model.version}: the model of container {number} is {data}; a stage in "
                    f"another account may read below {home} only: have pipeline.py write it there"
                )
    if found:
        raise Fault("; ".join(found))
