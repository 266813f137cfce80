"""Stage Shadow of the deploy pipeline (flow F): a new version beside the live one, on copies of its requests.

The deploy pipeline put the new version behind production's endpoint as variant Shadow, whose answers nobody
gets. This waits until both versions answered enough requests, compares what was captured of the two, and
fails the release where they differ by more than mlops.yml allows. Two answers belong together when their
requests are the same text: ids are the callers' affair, and a model's answer depends on the request alone.

A retry goes on where the last try ended: what was captured since the shadow came counts, and so does the
time.
"""

from __future__ import annotations

import argparse
import base64
import csv
import hashlib
import io
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3

from . import accounts
from .config import load_config
from .console import OK, Fault, say, script, table
from .registry import describe
from .select import running
from .settings import Project, load_project
from .staging.checks import Report
from .staging.report import console_url, prefix, write

LIVE, SHADOW = "AllTraffic", "Shadow"  # the variants of deploy/realtime.yaml
MOST = 200_000  # answers of a variant that are kept; more say nothing new
FIRST_PAUSE, LONGEST_PAUSE = 2.0, 30.0  # seconds between two looks at what was captured
DECISION = 0.5
Scores = list[float]


def scores_of(text: str) -> Scores | None:
    """The numbers of an answer, CSV or JSON, one a row; None where it is none of ours."""
    try:
        if text.lstrip()[:1] in ("{", "["):
            document = json.loads(text)
            rows = document["predictions"] if isinstance(document, dict) else document
            return [float(row["probability"] if isinstance(row, dict) else row) for row in rows]
        return [float(row[0]) for row in csv.reader(io.StringIO(text)) if row]
    except (ValueError, KeyError, TypeError, IndexError, RecursionError, csv.Error):
        return None


def payload(part: dict[str, Any]) -> str:
    """The text of a captured request or answer."""
    data = part.get("data") or ""
    return base64.b64decode(data).decode("utf-8", "replace") if part.get("encoding") == "BASE64" else data


@dataclass
class Variant:
    """What was captured of one variant: the scores by their request."""

    bucket: str
    prefix: str
    since: datetime
    answers: dict[bytes, Scores] = field(default_factory=dict)
    unreadable: int = 0
    newest: datetime | None = None
    read_keys: set[str] = field(default_factory=set)

    def read(self, s3: Any) -> None:
        """Read the objects that came since the last look. They lie in folders of the hour, so by time."""
        pages = s3.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=self.prefix, StartAfter=f"{self.prefix}{self.since:%Y/%m/%d/%H}"
        )
        for item in (item for page in pages for item in page.get("Contents", [])):
            key = item["Key"]
            if key in self.read_keys or not key.endswith(".jsonl") or len(self.answers) >= MOST:
                continue
            self.read_keys.add(key)
            body = s3.get_object(Bucket=self.bucket, Key=key)["Body"]
            for line in body.iter_lines():
                self.add(line)

    def add(self, line: bytes) -> None:
        """One captured request and its answer."""
        try:
            record = json.loads(line)
            data = record["captureData"]
            moment = datetime.fromisoformat(record["eventMetadata"]["inferenceTime"])
            if moment < self.since.replace(microsecond=0):  # captured to the second
                return
            request, answer = payload(data["endpointInput"]), payload(data["endpointOutput"])
        except (ValueError, KeyError, TypeError):
            self.unreadable += 1
            return
        self.newest = max(moment, self.newest or moment)
        scores = scores_of(answer)
        if scores is None:
            self.unreadable += 1
        elif len(self.answers) < MOST:
            self.answers[hashlib.sha256(request.strip().encode()).digest()] = scores


def pairs(live: Variant, shadow: Variant) -> Iterator[tuple[Scores, Scores]]:
    """Both answers to the same request."""
    for request, scores in shadow.answers.items():
        if request in live.answers:
            yield live.answers[request], scores


def wait_for(
    enough: int, deadline: datetime, look: Callable[[], int], clock: Any = time, now: Any = None
) -> int:
    """Look until enough requests were answered by both, or the time is over; how many there are."""
    now = now or (lambda: datetime.now(UTC))
    pause, told = FIRST_PAUSE, -1
    while True:
        count = look()
        if count != told:
            say(f"{count} of {enough} requests were answered by both versions")
            told = count
        if count >= enough or now() >= deadline:
            return count
        clock.sleep(min(pause, max(0.1, (deadline - now()).total_seconds())))
        pause = min(pause * 1.5, LONGEST_PAUSE)


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which this share lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]


def figures(
    cloudwatch: Any, endpoint: str, variant: str, since: datetime, until: datetime
) -> dict[str, float]:
    """Requests, errors and latency of a variant, as SageMaker measured them; the worst of several periods."""
    wanted = {
        "requests": ("Invocations", "Sum"),
        "errors": ("Invocation5XXErrors", "Sum"),
        "p50_ms": ("ModelLatency", "p50"),
        "p95_ms": ("ModelLatency", "p95"),
    }
    period = max(60, math.ceil((until - since).total_seconds() / 60) * 60)
    dimensions = [{"Name": "EndpointName", "Value": endpoint}, {"Name": "VariantName", "Value": variant}]
    queries = [
        {
            "Id": name,
            "MetricStat": {
                "Metric": {"Namespace": "AWS/SageMaker", "MetricName": metric, "Dimensions": dimensions},
                "Period": period,
                "Stat": stat,
            },
        }
        for name, (metric, stat) in wanted.items()
    ]
    pages = cloudwatch.get_paginator("get_metric_data").paginate(
        MetricDataQueries=queries, StartTime=since, EndTime=until + timedelta(minutes=1)
    )
    found: dict[str, list[float]] = {name: [] for name in wanted}
    for page in pages:
        for one in page["MetricDataResults"]:
            found[one["Id"]] += one["Values"]
    return {
        name: sum(values) if wanted[name][1] == "Sum" else max(values) / 1000  # microseconds
        for name, values in found.items()
        if values
    }


def judge(
    asked: dict[str, Any],
    both: list[tuple[Scores, Scores]],
    live: dict[str, float],
    shadow: dict[str, float],
    unreadable: int,
) -> Report:
    """What the answers and the figures say, beside what mlops.yml allows."""
    report = Report(group="shadow")
    report.check(
        "requests that both answered",
        len(both) >= asked["requests"],
        f"{len(both)}",
        f"at least {asked['requests']}",
        "Wait for more traffic and retry the stage, or ask for fewer (deployment.shadow.requests)",
    )
    same_shape = [(one, other) for one, other in both if len(one) == len(other)]
    report.check(
        "answers with as many rows",
        len(same_shape) == len(both),
        f"{len(same_shape)} of {len(both)}",
        "all",
        "The new version answers another number of rows than it was asked",
    )
    report.check("answers that can be read", not unreadable, f"{unreadable} cannot", "all")
    rows = [(a, b) for one, other in same_shape for a, b in zip(one, other, strict=True)]
    if rows:
        gaps = [abs(a - b) if math.isfinite(a) and math.isfinite(b) else math.inf for a, b in rows]
        agreed = sum((a >= DECISION) == (b >= DECISION) for a, b in rows) / len(rows)
        largest = quantile(gaps, 0.95)
        report.measured["Differences of the answers"] = {
            "rows": len(rows),
            "median": quantile(gaps, 0.5),
            "95 %": largest,
            "largest": max(gaps),
            "mean live": sum(a for a, _ in rows) / len(rows),
            "mean new": sum(b for _, b in rows) / len(rows),
            "on the same side of 0.5": agreed,
        }
        report.check(
            "difference of 95 % of the answers",
            largest <= asked["max_difference"],
            f"{largest:.4f}",
            f"at most {asked['max_difference']}",
            "See whether the new version is better where the two differ; if so, allow more "
            "(deployment.shadow.max_difference)",
        )
        report.check(
            "answers on the same side of 0.5",
            agreed >= asked["min_agreement"],
            f"{agreed:.4f}",
            f"at least {asked['min_agreement']}",
            "More decisions would change than deployment.shadow.min_agreement allows",
        )
    errors = shadow.get("errors", 0)
    report.check("server errors of the new version", not errors, f"{errors:.0f}", "0")
    if live.get("p95_ms") and shadow.get("p95_ms"):
        ratio = shadow["p95_ms"] / live["p95_ms"]
        report.check(
            "latency beside the live version's, 95th percentile",
            ratio <= asked["max_latency_ratio"],
            f"{ratio:.2f} times ({shadow['p95_ms']:.1f} ms beside {live['p95_ms']:.1f} ms)",
            f"at most {asked['max_latency_ratio']} times",
            "Look at the new version's code, or give the shadow as many instances as production has",
        )
    else:
        report.notes.append("CloudWatch has no latency of both versions yet, so it is not compared.")
    report.measured["Live version"], report.measured["New version"] = dict(live), dict(shadow)
    return report


def compare(
    project: Project, asked: dict[str, Any], session: Any, there: Any, clock: Any = time
) -> tuple[Report, datetime]:
    """Wait for the requests and judge the answers; since when."""
    sagemaker, endpoint = there.client("sagemaker"), project.resource("production")
    described = sagemaker.describe_endpoint(EndpointName=endpoint)
    if described["EndpointStatus"] != "InService":
        raise Fault(f"endpoint {endpoint} is {described['EndpointStatus']}; it must be InService")
    if not any(one["VariantName"] == SHADOW for one in described.get("ShadowProductionVariants") or []):
        raise Fault(f"endpoint {endpoint} has no variant {SHADOW}: retry the stage from its action Deploy")
    # The configuration is of this shadow alone; the endpoint changes when it got it, and when it scales.
    name = described["EndpointConfigName"]
    since = sagemaker.describe_endpoint_config(EndpointConfigName=name)["CreationTime"].astimezone(UTC)
    deadline = described["LastModifiedTime"] + timedelta(minutes=asked["wait_minutes"])
    s3, root = session.client("s3"), f"data-capture/production/{endpoint}"
    live, shadow = (Variant(project.bucket_name, f"{root}/{one}/", since) for one in (LIVE, SHADOW))

    def look() -> int:
        shadow.read(s3)
        live.read(s3)
        return sum(1 for _ in pairs(live, shadow))

    wait_for(asked["requests"], deadline, look, clock)
    until = max(datetime.now(UTC), *(one.newest for one in (live, shadow) if one.newest), since)
    cloudwatch = there.client("cloudwatch")
    both = [figures(cloudwatch, endpoint, one, since, until) for one in (LIVE, SHADOW)]
    return judge(asked, list(pairs(live, shadow)), *both, shadow.unreadable), since


@script
def main(argv: Sequence[str] | None = None, session: Any = None, clock: Any = time) -> int:
    """Compare the shadow with the live version; 0 when every check passes."""
    parser = argparse.ArgumentParser(prog="mlops_cicd.shadow", description=__doc__)
    parser.add_argument("--project-id", default=os.environ.get("PROJECT_ID", ""))
    parser.add_argument("--project-dir", type=Path, required=True)
    parser.add_argument("--model-package-arn", default=os.environ.get("MODEL_PACKAGE_ARN", ""))
    parser.add_argument("--live", default=os.environ.get("LIVE_MODEL_PACKAGE_ARN", ""))
    parser.add_argument("--execution", default=os.environ.get("EXECUTION_ID", ""), help="of the pipeline")
    options = parser.parse_args(argv)
    session = session or boto3.Session()
    config = load_config(options.project_dir / "mlops.yml")
    asked = config["deployment"].get("shadow")
    if not asked:
        raise Fault("mlops.yml has no deployment.shadow any more: start the deploy pipeline again")
    project = load_project(session.client("ssm"), options.project_id, session.region_name)
    there = accounts.stage_session(session, project, "production")
    stack = project.resource("production")
    found = running(there.client("cloudformation"), stack)
    if found.get("ShadowModelPackageArn") != options.model_package_arn:
        raise Fault(
            f"stack {stack} compares {found.get('ShadowModelPackageArn') or 'nothing'}; selected was "
            f"{options.model_package_arn}: another deployment came between"
        )
    model = describe(session.client("sagemaker"), options.model_package_arn)
    live = describe(session.client("sagemaker"), found["ModelPackageArn"])
    say(f"comparing version {model.version} with version {live.version}, which is live")
    report, since = compare(project, asked, session, there, clock)
    execution = options.execution or datetime.now(UTC).strftime("by-hand-%Y%m%dT%H%M%SZ")
    content = {
        "project_id": project.project_id,
        "project_name": project.project_name,
        "stage": "shadow",
        "endpoint": stack,
        "model_package_arn": model.arn,
        "model_version": model.version,
        "pipeline_execution_id": execution,
        "started": since.isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        **report.content(),
        "failures": report.sentences,
        "release_notes": {"live_version": live.version},
    }
    key = write(session.client("s3"), project, content, prefix(model.version, execution, "shadow"))
    say(table([check.row for check in report.checks], ("check", "result", "found", "required")))
    for note in report.notes:
        say(note)
    say(f"report: {console_url(project, key)}")
    if report.failed:
        raise Fault(
            f"version {model.version} does not answer as version {live.version}: "
            + "; ".join(report.sentences)
            + f". Version {live.version} goes on answering; reject version {model.version} to end this"
        )
    say(f"version {model.version} answers as version {live.version}, as far as mlops.yml asks")
    return OK


if __name__ == "__main__":
    sys.exit(main())
