"""Tags every SageMaker job with its project, owner and cost centre (flow D, called by EventBridge).

A job started by Studio, a pipeline, CodeBuild or by hand runs under a role of its project, so the project is
read from the job's own tags or from its role's. Events come at least once and in any order: only tags that
are missing are added, and a tag that is there is never changed.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from typing import Any

import boto3
from botocore.exceptions import ClientError

logger = logging.getLogger()
logger.setLevel(logging.INFO)

PROJECT_ID, PROJECT_NAME = "sagemaker:project-id", "sagemaker:project-name"
COST_CENTER, OWNER = "mlops:cost-center", "mlops:owner"
# SSM parameter of the project -> tag
FACTS = {"project-name": PROJECT_NAME, "cost-center": COST_CENTER, "owner-email": OWNER}
ARN_KEYS = ("TrainingJobArn", "ProcessingJobArn", "TransformJobArn", "HyperParameterTuningJobArn")


def on_event(event: dict[str, Any], sagemaker: Any, iam: Any, ssm: Any) -> list[str]:
    """Add the tags that the event's job lacks; return their keys."""
    detail = event["detail"]
    job = next((detail[key] for key in ARN_KEYS if detail.get(key)), None)
    if job is None:
        logger.info("%.100r names no job", event.get("detail-type"))
        return []
    present = tags_of(page["Tags"] for page in sagemaker.get_paginator("list_tags").paginate(ResourceArn=job))
    known = present if PROJECT_ID in present else role_tags(role_of(detail, sagemaker), iam)
    project = known.get(PROJECT_ID)
    if not project:
        logger.info("%s belongs to no project", job)
        return []
    if not re.fullmatch(r"p-[a-z0-9]+", project):  # a tag that somebody made up must not become a path
        logger.warning("%s names the project %.100r, which is no project id", job, project)
        return []
    wanted = {key: known[key] for key in (PROJECT_ID, PROJECT_NAME, COST_CENTER) if known.get(key)}
    wanted |= facts_of(project, ssm)
    missing = {key: value for key, value in wanted.items() if key not in present}
    if missing:
        sagemaker.add_tags(
            ResourceArn=job, Tags=[{"Key": key, "Value": value} for key, value in missing.items()]
        )
        logger.info("%s: added %s", job, ", ".join(sorted(missing)))
    return sorted(missing)


def role_of(detail: dict[str, Any], sagemaker: Any) -> str:
    """Name of the job's role; empty when it cannot be told."""
    definition = detail.get("TrainingJobDefinition") or {}  # a tuning job names the role of its training jobs
    arn = detail.get("RoleArn") or definition.get("RoleArn") or ""
    if not arn and detail.get("ModelName"):  # a transform job has the role of its model
        try:
            arn = sagemaker.describe_model(ModelName=detail["ModelName"]).get("ExecutionRoleArn", "")
        except ClientError as error:
            logger.info("model %s: %s", detail["ModelName"], error.response["Error"]["Message"])
    return arn.rsplit("/", 1)[-1]


def role_tags(role: str, iam: Any) -> dict[str, str]:
    """Tags of a role; none when the role is unknown or gone."""
    if not role:
        return {}
    try:
        return tags_of(page["Tags"] for page in iam.get_paginator("list_role_tags").paginate(RoleName=role))
    except iam.exceptions.NoSuchEntityException:
        return {}


def tags_of(pages: Iterable[list[dict[str, str]]]) -> dict[str, str]:
    """Tags as a dictionary."""
    return {tag["Key"]: tag["Value"] for page in pages for tag in page}


def facts_of(project: str, ssm: Any) -> dict[str, str]:
    """What the project's SSM parameters say of name, cost centre and owner; a missing one is left out."""
    prefix = f"/mlops/projects/{project}/"
    answer = ssm.get_parameters(Names=[prefix + key for key in FACTS])
    values = {
        parameter["Name"].removeprefix(prefix): parameter["Value"] for parameter in answer["Parameters"]
    }
    return {tag: values[key] for key, tag in FACTS.items() if values.get(key)}


def handler(event: dict[str, Any], context: Any) -> dict[str, list[str]]:
    """Entry point. A fault is raised, so that Lambda and EventBridge try again."""
    return {"added": on_event(event, boto3.client("sagemaker"), boto3.client("iam"), boto3.client("ssm"))}
