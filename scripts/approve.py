"""Approves or rejects a model version in the registry, and lets a waiting release through to production
(flow F, Data Scientist).

    make approve ARGS='--project churn'                    the newest version that waits for a decision
    make approve ARGS='--project churn --version 3 --reject --reason "worse on new customers"'
    make approve ARGS='--project churn --production'       answers the manual approval of the deploy pipeline

Exit 3 when there is nothing to decide.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

import account


class NothingToDecideError(LookupError):
    """No version, or no release, waits for a decision."""


def versions(sagemaker: Any, group: str) -> list[dict[str, Any]]:
    """The versions of a model package group, newest first."""
    pages = sagemaker.get_paginator("list_model_packages").paginate(
        ModelPackageGroupName=group, SortBy="CreationTime", SortOrder="Descending"
    )
    return [p for page in pages for p in page["ModelPackageSummaryList"]]


def choose(sagemaker: Any, group: str, version: int | None) -> str:
    """The ARN of the version, or of the newest one that waits for a decision."""
    found = versions(sagemaker, group)
    if version is not None:
        for package in found:
            if package["ModelPackageVersion"] == version:
                return package["ModelPackageArn"]
        there = ", ".join(str(p["ModelPackageVersion"]) for p in found) or "none"
        raise NothingToDecideError(f"{group} has no version {version}; versions: {there}")
    for package in found:
        if package["ModelApprovalStatus"] == "PendingManualApproval":
            return package["ModelPackageArn"]
    raise NothingToDecideError(f"{group}: no version waits for approval; push to main to train one")


def decide(sagemaker: Any, package_arn: str, status: str, reason: str = "") -> None:
    """Approved or Rejected, as the registry's page does it."""
    sagemaker.update_model_package(
        ModelPackageArn=package_arn,
        ModelApprovalStatus=status,
        **({"ApprovalDescription": reason} if reason else {}),
    )


def waiting_approval(codepipeline: Any, pipeline: str) -> dict[str, str] | None:
    """The manual approval that waits in a pipeline, as put_approval_result wants it named; None when none
    does.
    """
    for stage in codepipeline.get_pipeline_state(name=pipeline)["stageStates"]:
        for action in stage.get("actionStates", []):
            latest = action.get("latestExecution", {})
            if latest.get("status") == "InProgress" and latest.get("token"):
                return {
                    "pipelineName": pipeline,
                    "stageName": stage["stageName"],
                    "actionName": action["actionName"],
                    "token": latest["token"],
                }
    return None


def answer_release(codepipeline: Any, pipeline: str, status: str, reason: str = "") -> dict[str, str]:
    """Answer the manual approval of the deploy pipeline."""
    waiting = waiting_approval(codepipeline, pipeline)
    if waiting is None:
        raise NothingToDecideError(f"{pipeline}: no release waits for approval")
    codepipeline.put_approval_result(**waiting, result={"summary": reason or status, "status": status})
    return waiting


def main(argv: list[str] | None = None, session: boto3.Session | None = None) -> int:
    """Decide; exit 0 done, 1 fault, 2 usage, 3 nothing to decide."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--project", required=True, help="the project's name")
    parser.add_argument("--version", type=int, help="model version; default the newest that waits")
    parser.add_argument("--production", action="store_true", help="answer the release to production instead")
    parser.add_argument("--reject", action="store_true")
    parser.add_argument("--reason", default="")
    arguments = parser.parse_args(argv)
    session = session or boto3.Session()
    sagemaker = session.client("sagemaker")
    status = "Rejected" if arguments.reject else "Approved"
    try:
        project = account.project(session.client("ssm"), account.project_id(sagemaker, arguments.project))
        if arguments.production:
            answer: dict[str, Any] = answer_release(
                session.client("codepipeline"), project["deploy-pipeline-name"], status, arguments.reason
            )
        else:
            package = choose(sagemaker, project["model-package-group-name"], arguments.version)
            decide(sagemaker, package, status, arguments.reason)
            answer = {"model_package": package}
    except NothingToDecideError as error:
        print(f"approve: {error}", file=sys.stderr)
        return 3
    except (account.NotFoundError, account.FailedError, ClientError, BotoCoreError) as error:
        print(f"approve: {error}", file=sys.stderr)
        return 1
    print(json.dumps({**answer, "status": status}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
