"""What happened to each model version: registered, decided, tested, released, replaced, retired.

Read from the registry and from the runs of the deploy pipeline. CodePipeline forgets a run after a year, so
what is known is kept in the bucket, and what is read is added to it: an event has a key and is told once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import ClientError

from ..registry import ModelVersion
from ..settings import Project

STATE = "model-cards/history.json"
REGISTERED, DECIDED, TESTED, ANSWERED = "registered", "decided", "tested", "answered"
DEPLOYED, FAILED, REPLACED = "deployed", "failed", "replaced"
MOST_RUNS = 100
Action = dict[str, Any]


@dataclass(frozen=True)
class Event:
    """One thing that happened to a version."""

    at: str  # ISO 8601, UTC
    kind: str
    text: str
    key: str  # the same thing has the same key
    execution: str = ""  # of the deploy pipeline


History = dict[int, list[Event]]


def moment(value: Any) -> str:
    """A time as cards show it."""
    return value.astimezone(UTC).isoformat(timespec="seconds") if isinstance(value, datetime) else str(value)


def person(context: dict[str, Any] | None) -> str:
    """Who did something in SageMaker: the profile in Studio, or the session of a role."""
    context = context or {}
    return context.get("UserProfileName") or session_of((context.get("IamIdentity") or {}).get("Arn") or "")


def session_of(arn: str) -> str:
    """`role/session` of an assumed role's ARN, else its last part."""
    return arn.partition(":assumed-role/")[2] or arn.rpartition("/")[2] or "somebody"


# ------------------------------------------------------------ the registry


def of_registry(model: ModelVersion) -> Iterator[Event]:
    """When a version was registered, and the last decision about it."""
    said = model.description
    reason = model.metadata.get("retraining_reason", "")
    yield Event(
        moment(said.get("CreationTime", "")),
        REGISTERED,
        "Registered" + (f"; trained because of: {reason}" if reason else ""),
        "registered",
    )
    status = said.get("ModelApprovalStatus")
    if status in ("Approved", "Rejected"):
        at = moment(said.get("LastModifiedTime") or said.get("CreationTime", ""))
        why = said.get("ApprovalDescription") or ""
        text = f"{status} in the registry by {person(said.get('LastModifiedBy'))}" + (
            f": {why}" if why else ""
        )
        yield Event(at, DECIDED, text, f"{status} {at}")


# ------------------------------------------------------------ the deploy pipeline


def runs(codepipeline: Any, pipeline: str) -> dict[str, list[Action]]:
    """The actions of the newest runs by execution, oldest run first."""
    found: dict[str, list[Action]] = {}
    pages = codepipeline.get_paginator("list_action_executions").paginate(pipelineName=pipeline)
    try:
        for page in pages:
            for action in page["actionExecutionDetails"]:
                execution = action["pipelineExecutionId"]
                if execution not in found and len(found) == MOST_RUNS:
                    return dict(reversed(found.items()))
                found.setdefault(execution, []).append(action)
    except ClientError as error:
        if error.response["Error"]["Code"] != "PipelineNotFoundException":
            raise
    return dict(reversed(found.items()))


def of_runs(found: dict[str, list[Action]], endpoint: str) -> Iterator[tuple[int, Event]]:
    """What the runs did with which version."""
    for execution, actions in found.items():
        selected = next((one for one in actions if one["actionName"] == "Select"), None)
        chosen = ((selected or {}).get("output") or {}).get("outputVariables") or {}
        if chosen.get("DEPLOY") != "true" or not chosen.get("MODEL_VERSION", "").isdigit():
            continue
        version = int(chosen["MODEL_VERSION"])
        for action in sorted(actions, key=lambda one: one["lastUpdateTime"]):
            told = of_action(action, endpoint)
            if told:
                kind, text = told
                key = f"{execution} {action['actionExecutionId']}"
                yield version, Event(moment(action["lastUpdateTime"]), kind, text, key, execution)


def of_action(action: Action, endpoint: str) -> tuple[str, str] | None:
    """What one action means for the version."""
    place, status = (action["stageName"], action["actionName"]), action["status"]
    result = (action.get("output") or {}).get("executionResult") or {}
    why = (result.get("errorDetails") or {}).get("message") or result.get("externalExecutionSummary") or ""
    if status not in ("Succeeded", "Failed"):
        return None
    good = status == "Succeeded"
    if place == ("Production", "ApproveProduction"):
        who = session_of(action.get("updatedBy") or "")
        text = f"Release to production {'approved' if good else 'refused'} by {who}"
        return ANSWERED, text + (f": {why}" if why and not good else "")
    if place == ("Production", "Deploy") and good:
        return DEPLOYED, f"Released to production: endpoint {endpoint} runs it"
    if place == ("Staging", "Test") and good:
        return TESTED, "Passed its tests in staging"
    if place == ("Production", "Test") and good:
        return TESTED, "Passed its tests in production"
    if not good:
        return FAILED, f"Release failed in {place[0]}, action {place[1]}" + (f": {why}" if why else "")
    return None


# ------------------------------------------------------------ together


def merge(*parts: Iterable[tuple[int, Event]]) -> History:
    """Events by version, each once, oldest first."""
    keyed: dict[int, dict[str, Event]] = {}
    for part in parts:
        for version, event in part:
            keyed.setdefault(version, {})[event.key] = event
    return {version: sorted(found.values(), key=lambda one: one.at) for version, found in keyed.items()}


def with_replacements(history: History) -> History:
    """The same, with a word for each version that another one replaced in production."""
    placed = sorted(
        (
            (event, version)
            for version, events in history.items()
            for event in events
            if event.kind == DEPLOYED
        ),
        key=lambda pair: pair[0].at,
    )
    more = []
    for (_, version), (event, follower) in zip(placed, placed[1:], strict=False):
        if version != follower:
            text = f"Replaced in production by version {follower}"
            more.append((version, Event(event.at, REPLACED, text, f"replaced {event.key}")))
    return merge(flat(history), more)


def flat(history: History) -> Iterator[tuple[int, Event]]:
    """Pairs of version and event."""
    return ((version, event) for version, events in history.items() for event in events)


def live(history: History) -> int | None:
    """The version that was released last."""
    placed = [(event.at, version) for version, event in flat(history) if event.kind == DEPLOYED]
    return max(placed)[1] if placed else None


def load(s3: Any, bucket: str) -> History:
    """What is known from before."""
    try:
        text = s3.get_object(Bucket=bucket, Key=STATE)["Body"].read()
    except ClientError as error:
        if error.response["Error"]["Code"] in ("NoSuchKey", "404"):
            return {}
        raise
    return {int(version): [Event(**one) for one in events] for version, events in json.loads(text).items()}


def store(s3: Any, project: Project, history: History) -> None:
    """Keep what is known."""
    content = {str(version): [asdict(one) for one in events] for version, events in sorted(history.items())}
    s3.put_object(
        Bucket=project.bucket_name,
        Key=STATE,
        Body=json.dumps(content, indent=1).encode(),
        ContentType="application/json",
        ServerSideEncryption="aws:kms",
        SSEKMSKeyId=project.key_arn,
    )
