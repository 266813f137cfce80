"""From an event to the mail that tells of it: what happened, where to look, what happens now (flow G)."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

from botocore.exceptions import BotoCoreError, ClientError
from mail import Notice, body, console, moment, number, quoted, s3_page, subject
from reports import FOLDERS, Finding, Report, Unreadable, fresh, reports, since, sizes

logger = logging.getLogger()

TITLES = {
    "data_quality": "data quality",
    "model_quality": "model quality",
    "model_bias": "bias",
    "model_explainability": "feature attribution",
}
JOB_PARTS = {
    "dq": "data_quality",
    "mq": "model_quality",
    "mb": "model_bias",
    "me": "model_explainability",
}
REASONS = {  # retraining_reason of a model version
    "code": "a change of the project's code",
    "data": "new training data",
    "calendar": "the calendar",
    "drift": "drift in production",
    "person": "a person's request",
}
SHOWN = 10  # findings in a mail; the report has all
WAITS = (5, 10, 15, 20, 30, 40)  # seconds: a monitor puts its metric before its report is uploaded
Event = dict[str, Any]


@dataclass(frozen=True)
class Project:
    """What the notices are about, and the clients to ask for what an event does not say."""

    id: str
    name: str
    bucket: str
    region: str
    partition: str
    client: Callable[[str], Any]
    sleep: Callable[[float], None] = time.sleep

    @property
    def prefix(self) -> str:
        return f"mlops-{self.id}"

    def page(self, path: str) -> str:
        return console(self.partition, self.region, path)


# ---- which event is what -----------------------------------------------------------------------------
def key_of(event: Event) -> tuple[str, str] | None:
    """What an event tells and when that happened, the same for each delivery; None when it tells nothing."""
    detail, kind = event["detail"], event["detail-type"]
    if kind == "CloudWatch Alarm State Change":
        return f"drift#{detail['alarmName']}", detail["state"]["timestamp"]
    if kind == "CodePipeline Pipeline Execution State Change":
        attempt = detail.get("pipeline-execution-attempt", 1)  # a stage that is tried again may fail again
        return f"failed#{detail['pipeline']}", f"{detail['execution-id']}#{attempt}"
    if kind == "CodePipeline Action Execution State Change":
        return f"deployed#{detail['pipeline']}", detail["execution-id"]
    if kind == "SageMaker Processing Job State Change":
        return "job", detail["ProcessingJobName"]
    if kind == "SageMaker Model Package State Change":
        status = detail["ModelApprovalStatus"]
        # a version begins to wait once, and is told of as often as a person decides
        changed = "" if status == "PendingManualApproval" else detail.get("LastModifiedTime") or event["time"]
        return f"version#{status}", f"{detail['ModelPackageArn']}#{changed}"
    if kind == "CloudFormation Stack Status Change":
        token = detail.get("client-request-token") or event["time"]
        return f"stack#{detail['stack-id']}", f"{token}#{detail['status-details']['status']}"
    return None


def notice_of(event: Event, project: Project) -> Notice | None:
    """The mail of an event; None when a closer look shows that there is nothing to tell."""
    makers = {
        "CloudWatch Alarm State Change": drifted,
        "CodePipeline Pipeline Execution State Change": pipeline_failed,
        "CodePipeline Action Execution State Change": deployed,
        "SageMaker Processing Job State Change": job_failed,
        "SageMaker Model Package State Change": version_changed,
        "CloudFormation Stack Status Change": rolled_back,
    }
    return makers[event["detail-type"]](event, project)


def _notice(event: Event, project: Project, title: str, *lines: str | None) -> Notice:
    what, when = key_of(event) or ("", "")
    return Notice(what, when, subject(project.name, title), body(*lines))


# ---- drift -------------------------------------------------------------------------------------------
def kind_of(detail: Event) -> str | None:
    """The monitor that an alarm watches, from the dimensions of its metric."""
    for one in detail.get("configuration", {}).get("metrics", []):
        dimensions = one.get("metricStat", {}).get("metric", {}).get("dimensions", {})
        if dimensions.get("MonitorType") in FOLDERS:
            return dimensions["MonitorType"]
    return None


def drifted(event: Event, project: Project) -> Notice:
    """A drift alarm, with what its newest report says; without a report, in the alarm's own words."""
    detail = event["detail"]
    kind, alarm = kind_of(detail), datetime.fromisoformat(detail["state"]["timestamp"])
    title = TITLES.get(kind or "", "monitor")
    found, trouble = None, None
    if kind:
        try:
            found = _report_of(project, kind, alarm)
        except (Unreadable, ClientError, BotoCoreError) as error:
            logger.warning("the report of %s cannot be read: %s", detail["alarmName"], error)
            trouble = f"The report could not be read: {error}"
    report = found[0] if found else None
    described = _findings(report) if report else [f"  {quoted(detail['state'].get('reason', ''), 1000)}"]
    if not report:
        described.append(f"  {trouble or 'There is no report with findings of that time yet.'}")
    worst = report.findings[0] if report and report.findings else None
    short = f"{title} {_subject_of(worst)} {_by_how_much(worst)}" if worst else title
    return _notice(
        event,
        project,
        f"Drift in production: {short}",
        f"Project {project.name}: production differs from what its model was trained on ({title}).",
        "",
        f"What drifted ({report.violations} found):" if report else "What drifted:",
        *described,
        "",
        *(_facts(report, found[1], project) if report and found else [f"Since: {moment(alarm)} or before"]),
        f"Alarm: {detail['alarmName']}, {moment(alarm)}",
        "",
        f"What happens now: the state machine {project.prefix}-retraining trains a new version, unless one",
        "is being trained already. You are asked before it goes into production; until then nothing changes.",
    )


def _report_of(project: Project, kind: str, alarm: datetime) -> tuple[Report, list[str]] | None:
    """The report that an alarm is about, and since when there are findings; waits for a late upload."""
    s3 = project.client("s3")
    for wait in (*WAITS, 0):
        older = reports(s3, project.bucket, kind, alarm + timedelta(hours=1))
        newest = next(older, None)
        if newest and fresh(newest, alarm):
            return newest, _since(newest, older)
        if wait:
            project.sleep(wait)
    return None


def _since(newest: Report, older: Iterator[Report]) -> list[str]:
    try:
        first, count, clean = since(newest, older)
    except Unreadable as error:
        return [f"Since: {moment(newest.hour)} at least (an earlier report could not be read: {error})"]
    row = f", {count} reports with findings in a row" if count > 1 else ""
    before = f"; the report of {moment(clean.hour)} was clean" if clean else "; no clean report before it"
    return [f"Since: {moment(first.hour)}{row}{before}"]


def _findings(report: Report) -> list[str]:
    lines = [
        f"  {quoted(one.subject)} {one.name if _is_plain(one.name) else quoted(one.name)}: "
        + "; ".join(
            part for part in (_by_how_much(one), quoted(one.detail, 200) if one.detail else "") if part
        )
        for one in report.findings[:SHOWN]
    ]
    left = len(report.findings) - SHOWN
    return [*lines, f"  and {left} more, which the report lists"] if left > 0 else lines


def _subject_of(one: Finding) -> str:
    """A feature or group; of a measure of the whole model its name, which says more."""
    return one.name if one.subject == "model" and _is_plain(one.name) else quoted(one.subject, 40)


def _is_plain(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9_. -]{1,60}", name) is not None


def _by_how_much(one: Finding) -> str:
    if one.value is None:
        return ""
    known = {"baseline": one.baseline, "threshold": one.threshold}
    beside = ", ".join(f"{name} {number(value)}" for name, value in known.items() if value is not None)
    return number(one.value) + (f" ({beside})" if beside else "")


def _facts(report: Report, since_when: list[str], project: Project) -> list[str | None]:
    left_out = [
        f"{count} {name}"
        for name, count in (("left out", report.excluded), ("unreadable", report.unreadable))
        if count
    ]
    records = "unknown" if report.records is None else str(report.records)
    window = f", {moment(report.window[0])} to {moment(report.window[1])}" if report.window else ""
    files = sizes(project.client("s3"), project.bucket, report.prefix)
    shown = next((name for name in ("report.html", "constraint_violations.json") if name in files), "")
    model = report.model if _version(report.model) else model_of_stack(project, "production")
    return [
        *since_when,
        f"Records: {records}{window}" + (f" ({', '.join(left_out)})" if left_out else ""),
        f"Model version: {_version(model) or 'unknown'}" + (f" ({model})" if _version(model) else ""),
        f"Report: {s3_page(project.partition, project.region, project.bucket, report.prefix + shown)}",
        f"        s3://{project.bucket}/{report.prefix}{shown}",
    ]


# ---- model versions ----------------------------------------------------------------------------------
def version_changed(event: Event, project: Project) -> Notice:
    """A model version waits, was approved or was rejected."""
    detail = event["detail"]
    version, status = _version(detail["ModelPackageArn"]), detail["ModelApprovalStatus"]
    facts = detail.get("CustomerMetadataProperties") or {}
    reason = facts.get("retraining_reason")
    why = REASONS.get(reason, quoted(reason)) if reason else None
    said = detail.get("ApprovalDescription")
    titles = {
        "PendingManualApproval": "waits for approval",
        "Approved": "was approved",
        "Rejected": "was rejected",
    }
    then = {
        "PendingManualApproval": "Look at its metrics, bias and baselines in Studio (Models, group "
        f"{project.prefix}), and approve or reject it there. Nothing is deployed before.",
        "Approved": f"What happens now: {project.prefix}-deploy puts it into staging and tests it there, "
        "then asks you before production.",
        "Rejected": f"What happens now: {project.prefix}-deploy looks whether an earlier approved version is "
        "to serve; this one is not deployed.",
    }
    return _notice(
        event,
        project,
        f"Model version {version} {titles[status]}"
        + (f" (trained for {reason})" if reason in REASONS else ""),
        f"Project {project.name}: model version {version} {titles[status]}.",
        "",
        f"Trained because of: {why}" if why else None,
        *(f"{name}: {quoted(facts[key], 200)}" for key, name in _FACTS.items() if facts.get(key)),
        *_metrics(detail, project),
        f"Said with the decision: {quoted(said, 500)}" if said else None,
        f"Version: {detail['ModelPackageArn']}",
        "",
        then[status],
    )


_FACTS = {"retraining_detail": "In detail", "data_uri": "Data", "commit": "Commit"}


def _metrics(detail: Event, project: Project) -> list[str]:
    """The values of evaluation.json, which the version names as its model quality."""
    uri = detail.get("ModelMetrics", {}).get("ModelQuality", {}).get("Statistics", {}).get("S3Uri", "")
    match = re.fullmatch(rf"s3://{re.escape(project.bucket)}/(.+)", uri)
    if not match:
        return []
    try:
        content = json.loads(
            project.client("s3").get_object(Bucket=project.bucket, Key=match[1])["Body"].read(10**6)
        )
        groups = [value for name, value in content.items() if name.endswith("_metrics")]
        values = {
            name: one["value"]
            for group in groups
            for name, one in group.items()
            if isinstance(one, dict) and isinstance(one.get("value"), int | float)
        }
    except (ClientError, BotoCoreError, ValueError, AttributeError) as error:
        logger.warning("the metrics at %s cannot be read: %s", uri, error)
        return [f"Metrics: could not be read ({uri})"]
    shown = ", ".join(
        f"{name if _is_plain(name) else quoted(name)} {number(value)}" for name, value in values.items()
    )
    return [f"Metrics: {shown}"] if shown else []


def _version(arn: str) -> str:
    match = re.fullmatch(r"arn:[\w-]+:sagemaker:[\w-]+:\d{12}:model-package/[\w-]+/(\d+)", arn or "")
    return match[1] if match else ""


# ---- pipelines and stacks ----------------------------------------------------------------------------
def _actions(project: Project, pipeline: str, execution: str) -> list[Event]:
    """What the actions of an execution did, newest first; none when that cannot be told."""
    try:
        pages = (
            project.client("codepipeline")
            .get_paginator("list_action_executions")
            .paginate(pipelineName=pipeline, filter={"pipelineExecutionId": execution})
        )
        return [one for page in pages for one in page["actionExecutionDetails"]]
    except (ClientError, BotoCoreError) as error:
        logger.warning("the actions of %s are not known: %s", execution, error)
        return []


def pipeline_failed(event: Event, project: Project) -> Notice | None:
    """A pipeline failed; nothing is told when the same failure rolled a stack back, which is told."""
    detail = event["detail"]
    pipeline, execution = detail["pipeline"], detail["execution-id"]
    failed = [
        one for one in _actions(project, pipeline, execution) if one["status"] in ("Failed", "Abandoned")
    ]
    name = pipeline.removeprefix(f"{project.prefix}-").capitalize()
    page = project.page(
        f"codesuite/codepipeline/pipelines/{pipeline}/executions/{execution}/timeline?region={project.region}"
    )
    if not failed:
        return _notice(
            event,
            project,
            f"{name} pipeline failed",
            f"Project {project.name}: {pipeline} failed.",
            "",
            f"Execution: {page}",
        )
    last = failed[0]
    where = f"{last['actionName']} in stage {last['stageName']}"
    kind = last.get("input", {}).get("actionTypeId", {})
    result = last.get("output", {}).get("executionResult", {})
    error = result.get("errorDetails", {})
    reason = error.get("message") or result.get("externalExecutionSummary") or "no reason given"
    if kind.get("provider") == "CloudFormation":
        stack = _stack(project, last.get("input", {}).get("resolvedConfiguration", {}).get("StackName", ""))
        if stack and "ROLLBACK" in stack["StackStatus"] and _changed(stack) >= last["startTime"]:
            logger.info("%s is told of as a rollback", execution)
            return None
    refused = kind.get("category") == "Approval"
    title = "A version was not approved for production" if refused else f"{name} pipeline failed: {where}"
    return _notice(
        event,
        project,
        title,
        f"Project {project.name}: {pipeline} {'was stopped' if refused else 'failed'} at {where}.",
        "",
        f"Reason: {quoted(reason, 1500)}",
        f"Log: {result['externalExecutionUrl']}" if result.get("externalExecutionUrl") else None,
        f"Execution: {page}",
        "",
        "Nothing changed in production." if refused or name == "Build" else None,
    )


def deployed(event: Event, project: Project) -> Notice:
    """A version is in production and answered its test."""
    detail = event["detail"]
    actions = _actions(project, detail["pipeline"], detail["execution-id"])
    chosen = [
        one.get("output", {}).get("outputVariables", {}) for one in actions if one["actionName"] == "Select"
    ]
    model = (chosen[0] if chosen else {}).get("MODEL_PACKAGE_ARN") or model_of_stack(project, "production")
    version = _version(model)
    return _notice(
        event,
        project,
        f"Model version {version or 'unknown'} is in production",
        f"Project {project.name}: model version {version or 'unknown'} answers at "
        f"{project.prefix}-production and passed its test there.",
        "",
        f"Version: {model}" if model else None,
        "What happens now: its monitors are set up, and compare production with its baseline on schedule.",
    )


def rolled_back(event: Event, project: Project) -> Notice:
    """A change of a deployed stack failed and was taken back, or could not be."""
    detail = event["detail"]
    name, status = detail["stack-id"].split("/")[1], detail["status-details"]["status"]
    stage = name.removeprefix(f"{project.prefix}-")
    model = model_of_stack(project, stage) if stage != "monitoring" else ""
    version = _version(model)
    reason = (
        _why(project, detail["stack-id"])
        or detail["status-details"].get("status-reason")
        or "no reason given"
    )
    if status.endswith("_FAILED"):
        title = f"{stage.capitalize()} is broken: its rollback failed"
        then = "The stack needs repair by hand."
    elif status == "ROLLBACK_COMPLETE":
        title = f"{stage.capitalize()} could not be made"
        then = "It does not exist yet; nothing else changed."
    else:
        title = f"{stage.capitalize()} was rolled back" + (f" to model version {version}" if version else "")
        then = f"Model version {version} answers as before." if version else "It is as it was before."
    return _notice(
        event,
        project,
        title,
        f"Project {project.name}: the stack {name} is {status}.",
        "",
        f"Reason: {quoted(reason, 1500)}",
        f"Events: {project.page(_stack_page(project, detail['stack-id']))}",
        "",
        then,
    )


def _stack_page(project: Project, stack: str) -> str:
    return f"cloudformation/home?region={project.region}#/stacks/events?stackId={quote(stack, safe='')}"


def _stack(project: Project, name: str) -> Event | None:
    try:
        return project.client("cloudformation").describe_stacks(StackName=name)["Stacks"][0] if name else None
    except (ClientError, BotoCoreError) as error:
        logger.warning("stack %s: %s", name, error)
        return None


def _changed(stack: Event) -> datetime:
    return stack.get("LastUpdatedTime") or stack["CreationTime"]


def model_of_stack(project: Project, stage: str) -> str:
    """The model version that a stage serves, "" when that cannot be told."""
    stack = _stack(project, f"{project.prefix}-{stage}") or {}
    outputs = {one["OutputKey"]: one["OutputValue"] for one in stack.get("Outputs", [])}
    return outputs.get("ModelPackageArn", "")


def _why(project: Project, stack: str) -> str:
    """The first failure of the stack's newest operation: those after it follow from it."""
    reason = ""
    try:
        pages = (
            project.client("cloudformation").get_paginator("describe_stack_events").paginate(StackName=stack)
        )
        for one in (event for page in pages for event in page["StackEvents"]):  # newest first
            status, own = one["ResourceStatus"], one.get("PhysicalResourceId") == stack
            if own and status in ("UPDATE_IN_PROGRESS", "CREATE_IN_PROGRESS"):
                break
            said = one.get("ResourceStatusReason", "")
            if status.endswith("_FAILED") and not own and "cancelled" not in said.lower():
                reason = f"{one['LogicalResourceId']}: {said}"
    except (ClientError, BotoCoreError) as error:
        logger.warning("the events of %s are not known: %s", stack, error)
    return reason


# ---- jobs --------------------------------------------------------------------------------------------
def job_failed(event: Event, project: Project) -> Notice:
    """A monitoring job failed: that hour is not looked at."""
    detail = event["detail"]
    name = detail["ProcessingJobName"]
    part = re.match(rf"{project.prefix}-([a-z]{{2}})-", name)
    title = TITLES.get(JOB_PARTS.get(part[1], "") if part else "", "monitoring")
    reason = detail.get("FailureReason") or detail.get("ExitMessage") or "no reason given"
    return _notice(
        event,
        project,
        f"Monitoring job failed: {title}",
        f"Project {project.name}: the {title} job {name} failed, so that this run compared nothing.",
        "",
        f"Reason: {quoted(reason, 1500)}",
        f"Job: {project.page(f'sagemaker/home?region={project.region}#/processing-jobs/{name}')}",
        "Log: log group /aws/sagemaker/ProcessingJobs, streams that begin with the job's name",
        "",
        "The next run is at its scheduled time.",
    )
