"""Keeps the model cards of a project (flow F, record pipeline): one a version, from training to retirement.

It looks at what is there (registry, runs of the deploy pipeline, reports) and makes the cards say it. So it
may run at any time, twice, or late, and never stands in the way of a release: the record pipeline runs it
when a version is registered, when a person is asked, and when a release ends, well or badly.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import ClientError

from .cards import content as contents
from .cards import history as histories
from .cards.history import DECIDED, DEPLOYED, REPLACED, Event, History
from .cards.page import render
from .config import load_config
from .console import OK, Fault, say, script
from .registry import ModelVersion, describe
from .settings import Project, load_project
from .staging.report import upload

MOST_VERSIONS = 50  # newest first; older ones are retired long ago
LARGEST = 100_000  # characters of a card
GONE = ("ResourceNotFound", "ResourceNotFoundException")


def card_name(project: Project, version: int) -> str:
    """mlops-<id>-v<version>: at most 63 characters, and the id has 20 of them."""
    return f"{project.name}-v{version}"


def versions(sagemaker: Any, group: str) -> list[ModelVersion]:
    """The newest versions of a project."""
    pages = sagemaker.get_paginator("list_model_packages").paginate(
        ModelPackageGroupName=group,
        SortBy="CreationTime",
        SortOrder="Descending",
        PaginationConfig={"MaxItems": MOST_VERSIONS},
    )
    return [
        describe(sagemaker, one["ModelPackageArn"])
        for page in pages
        for one in page["ModelPackageSummaryList"]
    ]


def status_of(model: ModelVersion, events: Sequence[Event], live: int | None) -> tuple[str, str]:
    """The card's status and the reason of it."""
    decided = model.description.get("ModelApprovalStatus")
    last = {event.kind: event for event in events}  # the events are in order, so the last of a kind stays
    if decided == "Rejected":
        found = last.get(DECIDED)
        return "Archived", f"{found.text}, on {found.at[:10]}" if found else "Rejected in the registry"
    if decided != "Approved":
        return "PendingReview", "It waits for a decision in the registry"
    if model.version == live:
        return "Approved", f"In production since {last[DEPLOYED].at[:16].replace('T', ' ')} UTC"
    if REPLACED in last:
        return "Archived", f"{last[REPLACED].text}, on {last[REPLACED].at[:10]}"
    return "Approved", "Approved in the registry; it has not been in production"


def keep(sagemaker: Any, project: Project, name: str, content: dict[str, Any], status: str) -> str:
    """Make a card, or make the one that is there say this; what was done.

    Content and status cannot change in one call, and the content of an archived card cannot change at all.
    """
    text = json.dumps(content, separators=(",", ":"), sort_keys=True)
    if len(text) > LARGEST:
        raise Fault(f"card {name} would have {len(text):,} characters; allowed: {LARGEST:,}")
    found = described(sagemaker, name)
    if found is None:
        sagemaker.create_model_card(
            ModelCardName=name,
            Content=text,
            ModelCardStatus=status,
            SecurityConfig={"KmsKeyId": project.key_arn},
            Tags=project.tags,
        )
        return "made"
    before = found["ModelCardStatus"]
    if (before, status) == ("Archived", "Archived"):
        return ""
    done = ""
    if before == "Archived":  # an older version is approved again
        sagemaker.update_model_card(ModelCardName=name, ModelCardStatus=status)
        done = "taken out of the archive"
    if json.loads(found["Content"]) != content:
        sagemaker.update_model_card(ModelCardName=name, Content=text)
        done = done or "updated"
    now = described(sagemaker, name) if done else found
    if now and now["ModelCardStatus"] != status:
        sagemaker.update_model_card(ModelCardName=name, ModelCardStatus=status)
        done = "archived" if status == "Archived" else done or f"now {status}"
    return done


def described(sagemaker: Any, name: str) -> dict[str, Any] | None:
    """A card, or None."""
    try:
        return sagemaker.describe_model_card(ModelCardName=name)
    except ClientError as error:
        if error.response["Error"]["Code"] in GONE:
            return None
        raise


def read_history(session: Any, project: Project, found: Sequence[ModelVersion]) -> History:
    """Everything that is known of the versions; what is new is kept."""
    s3, pipeline = session.client("s3"), project.resource("deploy")
    known = histories.load(s3, project.bucket_name)
    runs = histories.runs(session.client("codepipeline"), pipeline)
    registry = [(model.version, event) for model in found for event in histories.of_registry(model)]
    released = histories.of_runs(runs, project.resource("production"))
    history = histories.with_replacements(histories.merge(histories.flat(known), registry, released))
    if history != known:
        histories.store(s3, project, history)
    return history


def record(
    session: Any, project: Project, config: dict[str, Any], model: ModelVersion, history: History
) -> tuple[str, str]:
    """Bring one card up to date; its status and what was done."""
    events = history.get(model.version, [])
    status, why = status_of(model, events, histories.live(history))
    content = contents.build(project, config, model, events, session)
    done = keep(session.client("sagemaker"), project, card_name(project, model.version), content, status)
    if done:
        page = render(content, status, why)
        key = f"model-cards/v{model.version}.html"
        upload(session.client("s3"), project, key, page, "text/html; charset=utf-8")
    return status, done


@script
def main(argv: Sequence[str] | None = None, session: Any = None) -> int:
    """Bring the cards of a project up to date; 1 if one of them could not be written."""
    parser = argparse.ArgumentParser(prog="mlops_cicd.model_cards", description=__doc__)
    parser.add_argument("--project-id", default=os.environ.get("PROJECT_ID", ""))
    parser.add_argument("--project-dir", type=Path, required=True)
    options = parser.parse_args(argv)
    session = session or boto3.Session()
    project = load_project(session.client("ssm"), options.project_id, session.region_name)
    config = load_config(options.project_dir / "mlops.yml")
    found = versions(session.client("sagemaker"), project.model_package_group_name)
    if not found:
        say("no model version is registered yet, so there is no card to keep")
    history = read_history(session, project, found)
    failed = []
    for model in found:
        name = card_name(project, model.version)
        try:
            status, done = record(session, project, config, model, history)
            say(f"{name}: {status}{', ' + done if done else ''}")
        except (ClientError, Fault) as error:  # the other cards are written all the same
            failed.append(f"{name}: {error}")
    if failed:
        raise Fault("\n  ".join([f"{len(failed)} of {len(found)} model cards could not be written", *failed]))
    return OK


if __name__ == "__main__":
    sys.exit(main())
