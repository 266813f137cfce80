"""A batch project: uploaded files are scored by the approved version, each row is seen once whatever is
stopped in between, and the monitors and key figures are of what readers see.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import account
import approve
from rehearse import drifts, kpi, monitoring, story
from rehearse.engine import Rehearsal

INPUT, OUTPUT = "batch/input/production/", "batch/output/production/"
NO_KEYS, KEYS = "key_columns: []", "key_columns: [customer_id]"
FILES, ROWS = 8, 50


def run(r: Rehearsal) -> None:
    """From a project of mode batch to judged results."""
    story.deploy_infrastructure(r, with_pipeline=False)
    project = story.project(r, more={"InferenceMode": "batch"})
    clone = story.clone_repository(r, project)
    settings = (clone / "mlops.yml").read_text()
    r.check(NO_KEYS in settings, f"mlops.yml of the project has no {NO_KEYS!r}")
    version = story.train(r, project, clone, {"mlops.yml": settings.replace(NO_KEYS, KEYS)})
    roll_out(r, project, version)
    source = monitoring.traffic_of(r, project)
    traffic = drifts.make(source, "clean", 0, FILES * ROWS)
    with r.use_case("F", "score files"):
        uploads(r, project, source, traffic)
        stopped(r, project, source)
    with r.use_case("G", "monitor what was scored"):
        outcomes(r, project, traffic)
        with r.step("the monitors judge the published results") as step:
            hour = monitoring.watch(r, project, step, "clean")
            monitoring.as_expected(r, hour)
            step.say(hour.words)
        records = {kind: summary["records"] for kind, summary in hour.summaries.items()}
        seen = sum(customers(r, project).values())
        r.check(records["data_quality"] == seen, f"data quality judged {records} of {seen} rows")
        r.facts["records"] = records
        with r.step("the key figures are those of results") as step:
            step.say(figures(r, project, seen))


def roll_out(r: Rehearsal, made: story.Project, version: dict[str, Any]) -> None:
    """Approval, staging, its test with files, the owner's approval, production."""
    pipeline, session = made.settings["deploy-pipeline-name"], story.person(r, made)
    codepipeline = session.client("codepipeline")
    with r.use_case("F", "approve and deploy"):
        with r.step("approve the version in the registry"):
            execution = story.approve_version(r, made, version["arn"])
        with r.step("staging scores the golden rows as training did") as step:
            story.wait_for_execution(r, session, step, pipeline, execution, until_approval=True)
            asked = r.wait("an approval mail", lambda: story.approval_mail(r), timeout=30)
            r.check("Passed all" in asked["body"], "the approval does not tell of the tests")
            approve.answer_release(codepipeline, pipeline, "Approved", "rehearsal")
        with r.step("production is deployed, tested and monitored") as step:
            story.wait_for_execution(r, session, step, pipeline, execution)
        status = account.stack_status(session.client("cloudformation"), f"mlops-{made.id}-monitoring")
        r.check(status.endswith("_COMPLETE"), f"stack mlops-{made.id}-monitoring is {status}")


def uploads(r: Rehearsal, made: story.Project, source: drifts.Source, traffic: drifts.Traffic) -> None:
    """Many files at a time, with and without headers: each row is in the table once."""
    monitoring.early_in_the_hour(r)
    with r.step("files are uploaded, with and without headers") as step:

        def send(number: int) -> None:
            some = range(number * ROWS, (number + 1) * ROWS)
            rows = [[f"c{place}", *traffic.rows[place]] for place in some]
            head = [["customer_id", *source.features]] if number % 2 else []
            upload(r, made, f"branch {number}/ä.csv", [*head, *rows])

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(send, range(FILES)))
        step.say(f"{FILES} files of {ROWS} rows")
    with r.step("each row is seen once in Athena") as step:
        wait_for(r, made, FILES)
        seen = customers(r, made)
        wanted = Counter(f"c{number}" for number in range(FILES * ROWS))
        r.check(seen == wanted, f"{len(seen)} customers, {max(seen.values(), default=0)} times at most")
        ran = len(jobs(r, made))
        r.facts["jobs"] = {name: status for name, status in jobs(r, made).items()}
        step.say(f"{len(seen)} rows, {ran} transform jobs")


def stopped(r: Rehearsal, made: story.Project, source: drifts.Source) -> None:
    """A job is stopped in its midst: readers see nothing of it, and the next one does its work."""
    sagemaker = story.person(r, made).client("sagemaker")
    with r.step("a job that is stopped leaves nothing half done") as step:
        before = set(jobs(r, made))
        upload(r, made, "late.csv", [["late", *source.rows[0]], ["later", *source.rows[1]]])

        def running() -> str | None:
            return next((name for name in jobs(r, made) if name not in before), None)

        job = r.wait("a transform job", running, timeout=60, every=0.05)
        sagemaker.stop_transform_job(TransformJobName=job)
        wait_for(r, made, FILES + 1)
        seen = customers(r, made)
        r.check((seen["late"], seen["later"]) == (1, 1), f"late rows are seen {seen['late']} times")
        after = {name: status for name, status in jobs(r, made).items() if name not in before}
        r.check(after[job] == "Stopped" and len(after) == 2, f"the jobs are {after}")
        r.facts["stopped"] = after
        step.say(f"{job} was stopped; another one did its work")


def outcomes(r: Rehearsal, made: story.Project, traffic: drifts.Traffic) -> None:
    """What became of the applicants, named by their key."""
    with r.step("outcomes are uploaded, named by the key column") as step:
        now = datetime.fromisoformat(r.cloud.control("clock")["now"])
        truths = [
            {
                "groundTruthData": {"data": label, "encoding": "CSV"},
                "eventMetadata": {"eventId": f"c{number}"},
                "eventVersion": "0",
            }
            for number, label in enumerate(traffic.labels)
        ]
        story.person(r, made).client("s3").put_object(
            Bucket=made.settings["bucket-name"],
            Key=f"ground-truth/production/{now:%Y/%m/%d/%H}/branches.jsonl",
            Body="".join(json.dumps(truth) + "\n" for truth in truths).encode(),
        )
        step.say(f"{len(truths)} outcomes")


def figures(r: Rehearsal, made: story.Project, seen: int) -> str:
    """The project's saved queries count the rows, and those whose outcome is known."""
    athena, group = story.person(r, made).client("athena"), f"mlops-{made.id}"
    queries = {one["Name"]: one for one in kpi.saved_queries(athena, group)}
    days = kpi.ask(r, athena, queries["predictions-per-day"], group)
    told = kpi.ask(r, athena, queries["predictions-without-ground-truth"], group)
    counted = sum(int(row["predictions"] or 0) for row in days)
    known = sum(int(row["with_ground_truth"] or 0) for row in told)
    r.check((counted, known) == (seen, FILES * ROWS), f"{counted} predictions, {known} outcomes")
    return f"{counted} predictions, of {known} the outcome is known"


# --- what a person does and sees ----------------------------------------------------------------------------


def upload(r: Rehearsal, made: story.Project, name: str, rows: list[list[str]]) -> None:
    """Upload rows as the Data Scientist does."""
    body = io.StringIO()
    csv.writer(body, lineterminator="\n").writerows(rows)
    s3 = story.person(r, made).client("s3")
    s3.put_object(Bucket=made.settings["bucket-name"], Key=INPUT + name, Body=body.getvalue().encode())


def wait_for(r: Rehearsal, made: story.Project, files: int) -> None:
    """Wait until so many results are published."""
    s3 = story.person(r, made).client("s3")

    def there() -> bool | None:
        found = s3.list_objects_v2(Bucket=made.settings["bucket-name"], Prefix=OUTPUT)
        return found["KeyCount"] >= files or None

    r.wait(f"{files} published results", there, timeout=120, every=0.2)


def customers(r: Rehearsal, made: story.Project) -> Counter[str]:
    """How often each customer is in the table, as the Data Scientist's query says."""
    athena = story.person(r, made).client("athena")
    query = {
        "Name": "customers",
        "Database": f"mlops_{made.id}".replace("-", "_"),
        "QueryString": "SELECT customer_id, count(*) AS times, "
        "min(prediction) AS low, max(prediction) AS high FROM batch_production GROUP BY customer_id",
    }
    rows = kpi.ask(r, athena, query, f"mlops-{made.id}")
    wrong = [row for row in rows if not 0 <= float(row["low"] or -1) <= float(row["high"] or 2) <= 1]
    r.check(not wrong, f"predictions outside of 0 to 1: {wrong[:3]}")
    return Counter({row["customer_id"]: int(row["times"] or 0) for row in rows})


def jobs(r: Rehearsal, made: story.Project) -> dict[str, str]:
    """Transform jobs of production: name -> status."""
    pages = story.person(r, made).client("sagemaker").get_paginator("list_transform_jobs")
    return {
        job["TransformJobName"]: job["TransformJobStatus"]
        for page in pages.paginate(NameContains=f"mlops-{made.id}-batch-production-")
        for job in page["TransformJobSummaries"]
    }
