"""Use case G: traffic with ground truth, the four monitors of an hour, who is told, and the retraining.

The chapters of `story` tell A to F. Everything here is done as the data scientist of the project, through the
endpoint, the bucket, the alarms and the registry.
"""

from __future__ import annotations

import csv
import io
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import account
import approve
from rehearse import drifts, leaks, routes, story
from rehearse.cloud import ROOT
from rehearse.engine import Failure, Rehearsal, Step

#: kind -> (folder of its reports, part of its jobs' names)
KINDS = {
    "data_quality": ("data-quality", "dq"),
    "model_quality": ("model-quality", "mq"),
    "model_bias": ("model-bias", "mb"),
    "model_explainability": ("model-explainability", "me"),
}
#: the hours of scenario drift. No monitor is due in two hours running: an alarm that stays is told once.
SCENARIOS = ("clean", "unit_change", "group_change", "new_category", "label_shift")
CHUNK = 10  # applicants a request: what a bank's nightly list would send, and each monitor must take apart


@dataclass
class Hour:
    """What the monitors said of one hour of traffic."""

    title: str
    expected: frozenset[str]
    summaries: dict[str, dict[str, Any]] = field(default_factory=dict)
    violations: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    statistics: dict[str, Any] = field(default_factory=dict)

    @property
    def fired(self) -> frozenset[str]:
        """The monitors that found violations."""
        return frozenset(kind for kind, found in self.violations.items() if found)

    @property
    def words(self) -> str:
        """Which monitors fired, and what they named first."""
        if not self.fired:
            return "all four are quiet"
        shown = [f"{kind} ({self.summaries[kind]['worst_subject']})" for kind in KINDS if kind in self.fired]
        return ", ".join(shown)


# --- traffic ----------------------------------------------------------------------------------------------


def send(
    r: Rehearsal, made: story.Project, step: Step, name: str, traffic: drifts.Traffic, chunk: int = CHUNK
) -> None:
    """Send an hour's traffic, wait until data capture has it, and upload what became of the applicants."""
    early_in_the_hour(r)
    session = story.person(r, made)
    bucket, s3 = made.settings["bucket-name"], session.client("s3")
    runtime = story.asking(r, made).client("sagemaker-runtime")
    before = story.captured(s3, bucket)
    now = datetime.fromisoformat(r.cloud.control("clock")["now"])
    truths = []
    for number, start in enumerate(range(0, len(traffic.rows), chunk)):
        identity = f"{name}-{now:%Y%m%d%H}-{number:05d}"
        ask(r, runtime, made.endpoint, traffic.rows[start : start + chunk], identity)
        answers = "\n".join(traffic.labels[start : start + chunk])
        truths.append(
            {
                "groundTruthData": {"data": answers, "encoding": "CSV"},
                "eventMetadata": {"eventId": identity},
                "eventVersion": "0",
            }
        )
        step.say(f"{min(start + chunk, len(traffic.rows))} of {len(traffic.rows)} applicants")
    wanted = before + len(truths)
    r.wait("data capture", lambda: True if story.captured(s3, bucket) >= wanted else None, timeout=90)
    s3.put_object(
        Bucket=bucket,
        Key=f"ground-truth/production/{now:%Y/%m/%d/%H}/{name}.jsonl",
        Body="".join(json.dumps(truth) + "\n" for truth in truths).encode(),
    )
    step.say(f"{len(traffic.rows)} applicants in {len(truths)} requests, captured; their outcomes uploaded")


def ask(r: Rehearsal, runtime: Any, endpoint: str, rows: Sequence[Sequence[str]], identity: str) -> None:
    """One request that can be found again."""
    body = io.StringIO()
    csv.writer(body, lineterminator="\n").writerows(rows)
    answer = runtime.invoke_endpoint(
        EndpointName=endpoint,
        ContentType="text/csv",
        Accept="text/csv",
        Body=body.getvalue(),
        InferenceId=identity,
    )
    scores = answer["Body"].read().decode().split()
    r.check(len(scores) == len(rows), f"{endpoint} answered {len(scores)} scores for {len(rows)} rows")


def early_in_the_hour(r: Rehearsal) -> None:
    """An hour's traffic and its outcomes shall lie in one hour."""
    if datetime.fromisoformat(r.cloud.control("clock")["now"]).minute > 50:
        story.advance_past_the_hour(r)


# --- the monitors -----------------------------------------------------------------------------------------


def watch(
    r: Rehearsal, made: story.Project, step: Step, title: str, expected: frozenset[str] = frozenset()
) -> Hour:
    """Move the clock past the hour, wait for the four monitors, and read what they wrote."""
    session = story.person(r, made)
    sagemaker, s3 = session.client("sagemaker"), session.client("s3")
    bucket = made.settings["bucket-name"]
    known = set(jobs(sagemaker, made))
    now = story.advance_past_the_hour(r)
    hour = now.replace(minute=0, second=0, microsecond=0)
    step.say(f"the clock is {now:%Y-%m-%d %H:%M}")

    def probe() -> dict[str, str] | None:
        new = {name: status for name, status in jobs(sagemaker, made).items() if name not in known}
        for name, status in new.items():
            if status in ("Failed", "Stopped"):
                raise job_failure(session, sagemaker, name, status)
        ended = sum(status == "Completed" for status in new.values())
        step.say(f"the clock is {now:%Y-%m-%d %H:%M}; {ended} of {len(KINDS)} monitors ended")
        return new if ended == len(new) >= len(KINDS) else None

    r.wait("the four monitors", probe, timeout=300, every=1)
    found = Hour(title, expected)
    for kind, (folder, _) in KINDS.items():
        prefix = f"monitoring/{folder}/{hour:%Y/%m/%d/%H}"

        def read(name: str, prefix: str = prefix) -> dict[str, Any]:
            return json.loads(s3.get_object(Bucket=bucket, Key=f"{prefix}/{name}")["Body"].read())

        found.summaries[kind] = read("summary.json")
        found.violations[kind] = read("constraint_violations.json")["violations"]
        if kind == "data_quality":
            found.statistics = read("statistics.json")
    return found


def jobs(sagemaker: Any, made: story.Project) -> dict[str, str]:
    """The monitors' jobs so far: name -> status."""
    found: dict[str, str] = {}
    for _, part in KINDS.values():
        pages = sagemaker.get_paginator("list_processing_jobs").paginate(
            NameContains=f"mlops-{made.id}-{part}-"
        )
        found |= {
            job["ProcessingJobName"]: job["ProcessingJobStatus"]
            for page in pages
            for job in page["ProcessingJobSummaries"]
        }
    return found


def job_failure(session: Any, sagemaker: Any, name: str, status: str) -> Failure:
    """Why a monitor's job did not end well."""
    described = sagemaker.describe_processing_job(ProcessingJobName=name)
    log = account.log_tail(session.client("logs"), "/aws/sagemaker/ProcessingJobs", prefix=f"{name}/")
    why = described.get("FailureReason", "no reason given")
    look_at = f"aws sagemaker describe-processing-job --processing-job-name {name}"
    return Failure(f"monitoring job {name} ended as {status}: {why}", log, look_at)


def as_expected(r: Rehearsal, hour: Hour) -> None:
    """Exactly the right monitors fire."""
    reasons = [
        f"{kind}: {violation.get('description')}"
        for kind in hour.fired
        for violation in hour.violations[kind]
    ]
    reasons += [
        f"{kind}: {len(summary['measures'])} measures of {summary['records']} records, {summary['notes']}"
        for kind, summary in hour.summaries.items()
    ]
    r.check(
        hour.fired == hour.expected,
        f"{hour.title}: {', '.join(sorted(hour.fired)) or 'no monitor'} fired; "
        f"expected {', '.join(sorted(hour.expected)) or 'none'}",
        reasons[:20],
    )


def alarms_of(r: Rehearsal, made: story.Project) -> dict[str, str]:
    """The project's drift alarms that are in ALARM: kind -> name."""
    session = story.person(r, made)
    stack = session.client("cloudformation").describe_stack_resources(
        StackName=f"mlops-{made.id}-monitoring"
    )["StackResources"]
    names = [x["PhysicalResourceId"] for x in stack if x["ResourceType"] == "AWS::CloudWatch::Alarm"]
    pages = (
        session.client("cloudwatch")
        .get_paginator("describe_alarms")
        .paginate(AlarmNames=names, StateValue="ALARM")
    )
    found = {}
    for alarm in (a for page in pages for a in page["MetricAlarms"]):
        dimensions = {d["Name"]: d["Value"] for d in alarm["Dimensions"]}
        if alarm["Namespace"] == "MLOps/Monitoring" and dimensions.get("Endpoint") == made.endpoint:
            found[dimensions["MonitorType"]] = alarm["AlarmName"]
    return found


def told(r: Rehearsal, made: story.Project, step: Step, hour: Hour, since: int) -> list[dict[str, Any]]:
    """The owner gets one mail for each monitor that fired, with what drifted and where the report is.

    ``since`` is the number of mails that the owner had before.
    """

    def about(kind: str) -> list[dict[str, Any]]:
        folder = KINDS[kind][0]
        new = story.mails(r, story.OWNER_EMAIL)[since:]
        return [mail for mail in new if f"monitoring/{folder}/" in mail["body"]]

    found = []
    for kind in sorted(hour.fired):
        r.wait(f"the alarm of {kind}", lambda kind=kind: alarms_of(r, made).get(kind), timeout=60)
        got = r.wait(f"the mail about {kind}", lambda kind=kind: about(kind) or None, timeout=60)
        subject = hour.summaries[kind]["worst_subject"]
        r.check(len(got) == 1, f"{len(got)} mails tell of {kind}", [mail["subject"] for mail in got])
        r.check(subject in got[0]["body"], f"the mail about {kind} does not name {subject}", [got[0]["body"]])
        found.append(got[0])
    quiet = [kind for kind in KINDS if kind not in hour.fired and about(kind)]
    r.check(not quiet, f"{', '.join(quiet)} found nothing, and a mail says otherwise")
    step.say("; ".join(mail["subject"] for mail in found))
    return found


# --- retraining -------------------------------------------------------------------------------------------


def runs(r: Rehearsal, made: story.Project) -> list[dict[str, Any]]:
    """Executions of the stable pipeline, newest first."""
    pages = (
        story.person(r, made)
        .client("sagemaker")
        .get_paginator("list_pipeline_executions")
        .paginate(PipelineName=f"mlops-{made.id}", SortBy="CreationTime", SortOrder="Descending")
    )
    return [run for page in pages for run in page["PipelineExecutionSummaries"]]


def retrained(
    r: Rehearsal, made: story.Project, step: Step, before: int, versions: int, kind: str
) -> dict[str, Any]:
    """One run of the pipeline, for this kind of reason; returns the version that waits for approval.

    ``before`` and ``versions`` are the numbers of runs and model versions that there were.
    """
    sagemaker = story.person(r, made).client("sagemaker")
    group = made.settings["model-package-group-name"]

    def probe() -> dict[str, Any] | None:
        found = runs(r, made)
        if len(found) > before:
            step.say(f"{found[0].get('PipelineExecutionDisplayName')}: {found[0]['PipelineExecutionStatus']}")
            if found[0]["PipelineExecutionStatus"] in ("Failed", "Stopped"):
                why = sagemaker.describe_pipeline_execution(
                    PipelineExecutionArn=found[0]["PipelineExecutionArn"]
                ).get("FailureReason", "no reason given")
                raise Failure(f"the retraining ended as {found[0]['PipelineExecutionStatus']}: {why}")
        registered = approve.versions(sagemaker, group)
        return registered[0] if len(registered) > versions else None

    newest = r.wait("a new model version", probe, timeout=300, every=1)
    settle(r, made)
    made_now = len(runs(r, made)) - before
    r.check(made_now == 1, f"{made_now} runs of the pipeline were started, one is enough")
    package = sagemaker.describe_model_package(ModelPackageName=newest["ModelPackageArn"])
    reason = package.get("CustomerMetadataProperties", {}).get("retraining_reason", "")
    r.check(kind in reason, f"version {package['ModelPackageVersion']} says it was trained for {reason!r}")
    r.check(
        package["ModelApprovalStatus"] == "PendingManualApproval",
        f"version {package['ModelPackageVersion']} is {package['ModelApprovalStatus']}",
    )
    step.say(f"version {package['ModelPackageVersion']} waits for approval; why: {reason}")
    return package


def settle(r: Rehearsal, made: story.Project, timeout: float = 120) -> None:
    """Wait until the retraining workflow is at rest."""
    states = story.person(r, made).client("stepfunctions")
    machine = made.settings["retraining-state-machine-arn"]

    def probe() -> bool | None:
        under_way = states.list_executions(stateMachineArn=machine, statusFilter="RUNNING")["executions"]
        return None if under_way else True

    r.wait("the retraining workflow to come to rest", probe, timeout, every=1)


# --- chapters ---------------------------------------------------------------------------------------------


def traffic_of(r: Rehearsal, made: story.Project) -> drifts.Source:
    """The project's data as traffic is made from it."""
    clone = next(iter(sorted((r.folder / "homes" / made.name).glob("*/*/mlops.yml"))))
    return drifts.Source.of_project(clone.parent)


def drift_hour(
    r: Rehearsal, made: story.Project, source: drifts.Source, name: str, seed: int, size: int = 400
) -> None:
    """An hour with this drift: the right monitors fire, the owner is told, and one retraining follows."""
    expected = drifts.EXPECTED[name]
    title = name.replace("_", " ")
    sagemaker = story.person(r, made).client("sagemaker")
    mails, before = len(story.mails(r, story.OWNER_EMAIL)), len(runs(r, made))
    versions = len(approve.versions(sagemaker, made.settings["model-package-group-name"]))
    with r.step(f"an hour of traffic: {title}") as step:
        send(r, made, step, name.replace("_", "-"), drifts.make(source, name, seed, size))
    with r.step(f"the monitors after {title}") as step:
        hour = watch(r, made, step, title, expected)
        as_expected(r, hour)
        step.say(hour.words)
    if expected:
        with r.step(f"the owner is told of {title}, once a monitor") as step:
            found = told(r, made, step, hour, mails)
            r.facts.setdefault("notices", []).extend(found)
        with r.step(f"{title} starts one retraining") as step:
            retrained(r, made, step, before, versions, "drift")
    else:
        with r.step(f"nobody is told of {title}") as step:
            time.sleep(0.5)  # an alarm that went off wrongly would have been seen by now
            wrong = alarms_of(r, made)
            r.check(not wrong, f"alarms went off without a violation: {', '.join(wrong)}")
            r.check(len(runs(r, made)) == before, f"{title} started a retraining")
            step.say("no alarm, no retraining")
    r.facts.setdefault("hours", []).append(hour)


def two_hours(r: Rehearsal, made: story.Project, version: dict[str, Any]) -> None:
    """Use case G in short: an hour of clean traffic, an hour of drift, the mail, and the retraining."""
    source = traffic_of(r, made)
    with r.use_case("G", "monitor, tell and retrain"):
        r.facts["baseline"] = baseline_statistics(r, made, version)
        for seed, name in enumerate(("clean", "unit_change")):
            drift_hour(r, made, source, name, seed)
        with r.step("what was called from the VPC is in the table of its endpoints") as step:
            step.say(routes.as_written(r))
        ends_well(r, source)


def ends_well(r: Rehearsal, source: drifts.Source) -> None:
    """What must hold after everything."""
    with r.step("no event was lost and nothing failed unseen") as step:
        step.say(story.nothing_lost(r))
    with r.step("no secret and nobody's data lies open") as step:
        step.say(
            leaks.nothing_leaked(
                r, leaks.people_of(source.rows, drifts.make(source, "unit_change", 1, 40).rows)
            )
        )


def baseline_statistics(r: Rehearsal, made: story.Project, version: dict[str, Any]) -> dict[str, Any]:
    """What the monitors of a version compare with."""
    return json.loads(story.read_s3(story.person(r, made).client("s3"), version["baseline"]))


def quiet_hour(r: Rehearsal, made: story.Project) -> None:
    """Nobody asks the endpoint: it is sent the sample, marked, and no monitor takes it for traffic."""
    s3, bucket = story.person(r, made).client("s3"), made.settings["bucket-name"]

    def simulated() -> int:
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix="data-capture/production/")
        keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
        texts = (s3.get_object(Bucket=bucket, Key=key)["Body"].read().decode() for key in keys)
        return sum(text.count('"inferenceId":"simulated-') for text in texts)

    with r.step("an hour without traffic, after which the sample is sent") as step:
        r.check(simulated() == 0, "simulated requests were sent while there was traffic")
        watch(r, made, step, "quiet")
        sent = r.wait("simulated requests", lambda: simulated() or None, timeout=60)
        step.say(f"{sent} simulated requests are captured")
    with r.step("the monitors leave simulated requests out") as step:
        hour = watch(r, made, step, "simulated traffic")
        as_expected(r, hour)
        summary = hour.summaries["data_quality"]
        sent = simulated()
        r.check(
            summary["records"] == 0 and summary["excluded"] > 0,
            f"of {sent} simulated requests {summary['records']} were taken for traffic",
            [json.dumps(summary)[:500]],
        )
        step.say(f"{summary['excluded']} records left out, {summary['status']}")


def new_data(r: Rehearsal, made: story.Project, source: drifts.Source) -> None:
    """Training data is uploaded, in several files at once: one retraining, on what was uploaded."""
    session = story.person(r, made)
    sagemaker, s3 = session.client("sagemaker"), session.client("s3")
    group, bucket = made.settings["model-package-group-name"], made.settings["bucket-name"]
    before, versions = len(runs(r, made)), len(approve.versions(sagemaker, group))
    with r.step("new training data is uploaded") as step:
        for number, rows in enumerate((source.table[:600], source.table[600:]), start=1):
            body = io.StringIO()
            csv.writer(body, lineterminator="\n").writerows([source.header, *rows])
            s3.put_object(
                Bucket=bucket, Key=f"training-data/2026-12/part-{number}.csv", Body=body.getvalue().encode()
            )
        step.say("2 files below training-data/2026-12/")
    with r.step("the upload starts one retraining") as step:
        package = retrained(r, made, step, before, versions, "data")
        data = package["CustomerMetadataProperties"]["data_uri"]
        r.check("training-data/2026-12" in data, f"the new version was trained on {data}")


def rates(r: Rehearsal, made: story.Project, version: dict[str, Any], clone: Path, seeds: int) -> None:
    """How often each monitor fires in each kind of hour, over many seeds, with the version that is live."""
    s3 = story.person(r, made).client("s3")
    with r.step(f"each hour again, with {seeds} seeds") as step:
        step.say("some minutes: each hour is judged by the live version's monitors, in a process of its own")
        folder = r.folder / "rates"
        described = (
            story.person(r, made).client("sagemaker").describe_model_package(ModelPackageName=version["arn"])
        )
        model = described["InferenceSpecification"]["Containers"][0]["ModelDataUrl"]
        (folder / "model").mkdir(parents=True, exist_ok=True)
        (folder / "model/model.tar.gz").write_bytes(story.read_s3(s3, model))
        root = version["baseline"].removesuffix("/data_quality/statistics.json")
        download(s3, root, folder / "baseline")
        command = [sys.executable, "-m", "rehearse.drifts", "--model", str(folder / "model"), "--json"]
        command += ["--baseline", str(folder / "baseline"), "--project", str(clone), "--seeds", str(seeds)]
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "scripts"), "HOME": str(r.folder)}
        answer = json.loads(r.run(command, ROOT, env, timeout=900).splitlines()[-1])
        rows = [
            [row["scenario"], *(f"{row['fired'][kind]} of {row['seeds']}" for kind in KINDS)]
            for row in answer["rows"]
        ]
        false_alarms, misses = answer["false_alarm_rate"], answer["miss_rate"]
        r.facts.setdefault("tables", []).append(
            {
                "title": f"How often each monitor fired, over {seeds} seeds",
                "lead": f"False alarm rate {false_alarms:.2%}, miss rate {misses:.2%} of what is expected.",
                "head": ["hour", *KINDS],
                "rows": rows,
            }
        )
        r.check(false_alarms <= 0.01, f"false alarm rate {false_alarms:.2%}; 1% is allowed", json_rows(rows))
        r.check(misses <= 0.05, f"miss rate {misses:.2%}; 5% is allowed", json_rows(rows))
        step.say(f"false alarms {false_alarms:.2%}, misses {misses:.2%}")


def json_rows(rows: list[list[str]]) -> list[str]:
    """Rows as lines of a message."""
    return [", ".join(row) for row in rows]


def download(s3: Any, uri: str, folder: Path) -> None:
    """What lies below an s3:// URI."""
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/"):
        for item in page.get("Contents", []):
            path = folder / item["Key"].removeprefix(f"{prefix}/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(s3.get_object(Bucket=bucket, Key=item["Key"])["Body"].read())
