"""Tests a deployed endpoint by really invoking it (flow F, action Test of both stages).

In staging everything is tested: the serving contract, the golden rows, the metrics, latency, and a minute of
load. In production what does not strain it. The report goes to releases/<version>/<execution>/<stage>/ in
the project's bucket; staging's has the release notes too, and their summary is what the approval shows.

Each request carries an inference id that begins with "smoke-test", by which the monitor tells it from
traffic.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import ClientError

from . import accounts, api, batch_test, release_notes
from .config import load_config
from .console import OK, Fault, say, script, table, write_env
from .registry import ModelVersion, describe, read_json
from .select import live_model
from .settings import Project, load_project
from .staging import contract, golden, load, quality
from .staging.checks import Report
from .staging.client import AsynchronousClient, Client, Counted, RealtimeClient, no_retries, predict
from .staging.report import console_url, prefix, write
from .staging.sample import Sample, load_sample

FEW = 5  # requests one after the other in production, and of an asynchronous endpoint


@dataclass(frozen=True)
class Subject:
    """What is tested, and with what it is compared."""

    client: Client
    sample: Sample
    config: dict[str, Any]
    evaluation: Any
    golden: golden.Golden | None
    stage: str
    clock: Callable[[], float] = time.perf_counter

    @property
    def kind(self) -> str:
        """instances, serverless or asynchronous."""
        return self.config["deployment"]["endpoint"]

    @property
    def wanted(self) -> dict[str, Any]:
        """deployment.tests of mlops.yml."""
        return self.config["deployment"]["tests"]

    @property
    def budget(self) -> float | None:
        """The latency that is allowed; a queue has none."""
        return None if self.kind == "asynchronous" else float(self.wanted["latency_ms"])

    @property
    def rows(self) -> list[list[Any]]:
        """Rows of the data's own values: the golden ones hold missing values too."""
        return self.golden.values if self.golden else self.sample.features

    @property
    def clients(self) -> int:
        """How many ask at once: more than a serverless endpoint takes would only be turned away."""
        most = self.config["deployment"]["serverless"]["max_concurrency"]
        clients = self.wanted["load_clients"]
        return min(clients, most) if self.kind == "serverless" else clients


def first_request(subject: Subject, report: Report) -> None:
    """The first request loads what is loaded late; of a serverless endpoint it is the cold start."""
    _, spent = predict(subject.client, subject.sample.features[:1])
    report.measured["first_request_ms"] = round(spent, 1)
    name = "cold start" if subject.kind == "serverless" else "first request"
    report.check(name, True, f"{spent:.0f} ms", "an answer")


def run_checks(subject: Subject) -> Report:
    """Every test of the stage."""
    report, client, staging = Report(), subject.client, subject.stage == "staging"
    log = f"Read the endpoint's log, /aws/sagemaker/Endpoints/{client.name}"
    report.run("first request", partial(first_request, subject, report), log)
    if report.failed:
        return report  # an endpoint that does not answer at all fails everything for one reason
    report.run("contract", partial(contract.answers, client, subject.rows, report), contract.SERVING)
    if staging:  # a refused request counts as an error of the endpoint, so production is spared
        number = subject.sample.number
        report.run(
            "contract", partial(contract.refusals, client, subject.sample.features, number, report), log
        )
    if subject.golden:
        report.run("golden rows", partial(golden.same_scores, client, subject.golden, report), golden.ADVICE)
    else:
        report.notes.append(
            f"This version has no {golden.NAME}: it was trained before step Evaluate wrote one, so its "
            "scores are not compared row by row"
        )

    def judged() -> None:
        singles = FEW if subject.kind == "asynchronous" or not staging else quality.SINGLES
        batch = len(subject.sample.features) if subject.kind == "asynchronous" else quality.BATCH
        scores = quality.latency(client, subject.sample, report, subject.budget, singles)
        found = quality.predictions(client, subject.sample, scores, report, batch)
        quality.metrics(found, subject.sample, subject.config, subject.evaluation, report)

    report.run("predictions", judged, log)
    if staging:
        seconds, clients = float(subject.wanted["load_seconds"]), subject.clients
        under_load = partial(
            load.under_load, client, subject.sample.features, seconds, clients, subject.budget, report
        )
        report.run("load", partial(under_load, subject.clock), log)
    return report


def evaluation_of(s3: Any, model: ModelVersion) -> Any:
    """evaluation.json of a model version."""
    if not model.evaluation:
        raise Fault(
            f"model version {model.version} has no evaluation (ModelQuality statistics) to compare with"
        )
    return read_json(s3, model.evaluation)


def deployed_model(cloudformation: Any, project: Project, stage: str, expected: str) -> str:
    """The model package behind the stage's endpoint, which must be the selected one."""
    stack = project.resource(stage)
    found = live_model(cloudformation, stack)
    if not found:
        raise Fault(f"stack {stack} is not complete: deploy {stage} before testing it")
    if expected and found != expected:
        raise Fault(f"stack {stack} runs {found}; selected was {expected}: another deployment came between")
    return found


def connect(
    session: Any, project: Project, config: dict[str, Any], stage: str, run: str, clock: Callable[[], float]
) -> Client:
    """The client of the stage's endpoint."""
    endpoint = project.resource(stage)
    settings = no_retries(config["deployment"]["tests"]["load_clients"] + 2)
    there = accounts.stage_session(session, project, stage)
    runtime, ids = there.client("sagemaker-runtime", config=settings), Counted(run)
    if config["deployment"]["endpoint"] == "asynchronous":
        return AsynchronousClient(
            runtime,
            session.client("s3"),
            endpoint,
            ids,
            project.bucket_name,
            f"async/{stage}-requests",
            project.key_arn,
        )
    return RealtimeClient(runtime, endpoint, ids, clock)


def notes_of(session: Any, project: Project, model: ModelVersion, live: str | None) -> dict[str, Any]:
    """The release notes; where they cannot be made, the release goes on and the approval says so."""
    try:
        before = describe(session.client("sagemaker"), live) if live and live != model.arn else None
        return release_notes.compare(project, model, before, session)
    except (ClientError, Fault) as error:
        say(f"the release notes cannot be made: {error}")
        empty: dict[str, Any] = {"metrics": [], "changes": [], "commits": [], "files": []}
        return empty | {"live_version": None, "remarks": [f"The release notes could not be made: {error}"]}


def tests_in_words(report: Report, stage: str) -> str:
    """What came out, for the approval."""
    text = f"Passed all {len(report.checks)} checks in {stage}."
    if found := report.measured.get("load"):
        text += (
            f" Load of {found['clients']} clients: {found['per_second']} requests a second, "
            f"p95 {found['p95_ms']:.0f} ms, {found['failed']} failed."
        )
    return text + "".join(f" {note}." for note in report.notes)


@script
def main(
    argv: Sequence[str] | None = None, session: Any = None, clock: Callable[[], float] = time.perf_counter
) -> int:
    """Test the endpoint of a stage; 0 when every check passes."""
    parser = argparse.ArgumentParser(prog="mlops_cicd.smoke_test", description=__doc__)
    parser.add_argument("--project-id", default=os.environ.get("PROJECT_ID", ""))
    parser.add_argument("--project-dir", type=Path, required=True)
    parser.add_argument("--stage", choices=("staging", "production", "api"), required=True)
    parser.add_argument("--model-package-arn", default=os.environ.get("MODEL_PACKAGE_ARN", ""))
    parser.add_argument(
        "--live", default=os.environ.get("LIVE_MODEL_PACKAGE_ARN", ""), help="what it replaces"
    )
    parser.add_argument("--execution", default=os.environ.get("EXECUTION_ID", ""), help="of the pipeline")
    parser.add_argument("--env", type=Path, help="file of `export` lines for the buildspec to source")
    options = parser.parse_args(argv)
    session = session or boto3.Session()
    config = load_config(options.project_dir / "mlops.yml")
    project = load_project(session.client("ssm"), options.project_id, session.region_name)
    if options.stage == "api":
        say(api.test(session, project))
        if options.env:
            write_env(options.env, {"SUMMARY": "none", "REPORT_URL": "none"})
        return OK
    sagemaker, s3 = session.client("sagemaker"), session.client("s3")
    there = accounts.stage_session(session, project, options.stage)
    endpoint = project.resource(options.stage)
    arn = deployed_model(there.client("cloudformation"), project, options.stage, options.model_package_arn)
    batch = config["inference"]["mode"] == "batch"
    if not batch:
        status = there.client("sagemaker").describe_endpoint(EndpointName=endpoint)["EndpointStatus"]
        if status != "InService":
            raise Fault(f"endpoint {endpoint} is {status}; it must be InService")
    say(f"testing {endpoint}, which runs {arn}")
    execution = options.execution or datetime.now(UTC).strftime("by-hand-%Y%m%dT%H%M%SZ")
    model = describe(sagemaker, arn)
    sample, evaluation = load_sample(options.project_dir, config, s3), evaluation_of(s3, model)
    rows = golden.load(s3, model.evaluation or "")
    started = datetime.now(UTC)
    if batch:
        place = batch_test.place_of(session, project, config, options.stage, execution)
        report = batch_test.run_checks(place, config, sample, evaluation, rows)
    else:
        client = connect(session, project, config, options.stage, execution[:36], clock)
        report = run_checks(Subject(client, sample, config, evaluation, rows, options.stage, clock))
    notes: dict[str, Any] = {}
    if options.stage == "staging":
        production = accounts.stage_session(session, project, "production")
        live = options.live or live_model(production.client("cloudformation"), project.resource("production"))
        notes = notes_of(session, project, model, live if live != "none" else None)
    folder = prefix(model.version, execution, options.stage)
    content = {
        "project_id": project.project_id,
        "project_name": project.project_name,
        "stage": options.stage,
        "endpoint": endpoint,
        "model_package_arn": arn,
        "model_version": model.version,
        "pipeline_execution_id": execution,
        "started": started.isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        **report.content(),
        "failures": report.sentences,
        "release_notes": notes,
    }
    url = console_url(project, write(s3, project, content, folder))
    say(table([check.row for check in report.checks], ("check", "result", "found", "required")))
    for note in report.notes:
        say(note)
    say(f"report: {url}")
    if options.env:
        summary = release_notes.summary(notes, tests_in_words(report, options.stage)) if notes else ""
        write_env(options.env, {"SUMMARY": summary or "none", "REPORT_URL": url})
    if report.failed:
        raise Fault(f"endpoint {endpoint} failed its test: " + "; ".join(report.sentences))
    say(f"endpoint {endpoint} passed")
    return OK


if __name__ == "__main__":
    sys.exit(main())
