"""Approves or rejects a model version in the registry, and lets a waiting release through to production
(flow F, Data Scientist).

    make approve ARGS='--project churn'                    the newest version that waits for a decision
    make approve ARGS='--project churn --version 3 --reject --reason "worse on new customers"'
    make approve ARGS='--project churn --production'       answers the manual approval of the deploy pipeline

What was tested and what would change is shown before the answer; at a terminal you are asked once more,
unless you say --yes. Exit 3 when there is nothing to decide, or you decide nothing.
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


def question(codepipeline: Any, pipeline: str, waiting: dict[str, str]) -> list[str]:
    """What the waiting approval says: its text, and the page of its report."""
    pages = codepipeline.get_paginator("list_action_executions").paginate(pipelineName=pipeline)
    for page in pages:  # newest first
        for one in page["actionExecutionDetails"]:
            if one["actionName"] == waiting["actionName"] and one["status"] == "InProgress":
                said = (one.get("input") or {}).get("resolvedConfiguration") or {}
                return [said[key] for key in ("CustomData", "ExternalEntityLink") if said.get(key)]
    return []


def ask(codepipeline: Any, pipeline: str, status: str, sure: bool) -> None:
    """Show what the release is about; at a terminal, ask. Raises NothingToDecideError."""
    waiting = waiting_approval(codepipeline, pipeline)
    if waiting is None:
        raise NothingToDecideError(f"{pipeline}: no release waits for approval")
    for line in question(codepipeline, pipeline, waiting):
        print(line, file=sys.stderr)
    if not sure and sys.stdin.isatty():
        word = "approve" if status == "Approved" else "reject"
        print(f"Type {word} to {word} it: ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() != word:
            raise NothingToDecideError("nothing was decided")


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
    parser.add_argument("--yes", action="store_true", help="do not ask at the terminal")
    arguments = parser.parse_args(argv)
    session = session or boto3.Session()
    sagemaker = session.client("sagemaker")
    status = "Rejected" if arguments.reject else "Approved"
    try:
        project = account.project(session.client("ssm"), account.project_id(sagemaker, arguments.project))
        if arguments.production:
            codepipeline, pipeline = session.client("codepipeline"), project["deploy-pipeline-name"]
            ask(codepipeline, pipeline, status, arguments.yes)
            answer: dict[str, Any] = answer_release(codepipeline, pipeline, status, arguments.reason)
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
