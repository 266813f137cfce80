"""Tests batch inference of a stage by really uploading files (flow F; smoke_test.py calls it).

What lies in the folder smoke-test/ of a stage's inputs is scored like everything else, and its results are
the tests' own: no reader and no monitor sees them. So production is tested as staging is, without a trace.
"""

from __future__ import annotations

import csv
import io
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import quote

from botocore.exceptions import ClientError

from .batch import batch_settings
from .console import Fault, quoted, say
from .settings import Project
from .staging import quality
from .staging.checks import Report
from .staging.golden import ADVICE, TOLERANCE, Golden
from .staging.sample import Sample

WAIT_SECONDS = 45 * 60  # a job takes minutes to get its instances, and may stand behind another one
PAUSE_SECONDS = 2
REFUSED = "a file that cannot be scored is set aside"


@dataclass(frozen=True)
class Place:
    """Where the tests of a stage upload, and where they look."""

    s3: Any
    project: Project
    stage: str
    execution: str
    keys: Sequence[str]  # the key columns that each row begins with
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic

    def upload(self, name: str, rows: Sequence[Sequence[Any]]) -> str:
        """Upload rows; the version that was made."""
        body = io.StringIO()
        writer = csv.writer(body, lineterminator="\n")
        for number, row in enumerate(rows):
            writer.writerow([*(f"{key}-{number}" for key in self.keys), *row])
        return self.s3.put_object(
            Bucket=self.project.bucket_name,
            Key=f"batch/input/{self.stage}/smoke-test/{self.execution}-{name}.csv",
            Body=body.getvalue().encode(),
        )["VersionId"]

    def outcome(self, name: str, version: str) -> tuple[list[list[str]], str]:
        """The rows of an upload's result, or the reason for which there is none."""
        file = quote(f"smoke-test/{self.execution}-{name}.csv", safe="")
        result, reason = f"batch/tests/{self.stage}/{file}.out", f"batch/quarantine/{self.stage}/{file}.json"
        deadline = self.clock() + WAIT_SECONDS
        while self.clock() < deadline:
            if self.about(result).get("input-version") == version:
                return [row for row in csv.reader(io.StringIO(self.read(result))) if row], ""
            if self.about(reason) is not NOTHING:
                record = json.loads(self.read(reason))
                if record["version"] == version:
                    return [], str(record["reason"])
            self.sleep(PAUSE_SECONDS)
        raise Fault(
            f"no result of {file} within {WAIT_SECONDS // 60} minutes: look at the function "
            f"{self.project.resource('batch')} and at the transform jobs "
            f"{self.project.resource(f'batch-{self.stage}')}-*"
        )

    def about(self, key: str) -> dict[str, str]:
        """What an object says of itself; NOTHING where there is none."""
        try:
            return self.s3.head_object(Bucket=self.project.bucket_name, Key=key)["Metadata"]
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return NOTHING
            raise

    def read(self, key: str) -> str:
        """The text of an object."""
        return self.s3.get_object(Bucket=self.project.bucket_name, Key=key)["Body"].read().decode()


NOTHING: dict[str, str] = {}


def run_checks(
    place: Place, config: dict[str, Any], sample: Sample, evaluation: Any, golden: Golden | None
) -> Report:
    """Every test of the stage."""
    report = Report()
    values = [["" if value is None else value for value in row] for row in golden.values] if golden else []
    wanted = [*values, *sample.features]
    version = place.upload("rows", wanted)
    bad = place.upload("bad", [["x"] * (len(sample.names) + 1)]) if place.stage == "staging" else ""
    say(f"uploaded {len(wanted)} rows for {place.stage}")

    def judged() -> None:
        rows, reason = place.outcome("rows", version)
        if reason:
            raise Fault(f"the rows were refused: {reason}")
        scores = answered(rows, wanted, len(place.keys), report)
        if golden:
            same_scores(scores[: len(values)], golden, report)
        own = scores[len(values) :]
        report.check(
            "answers differ", len({round(one, 6) for one in own}) > 1, f"{len(set(own))} values", "several"
        )
        quality.metrics(own, sample, config, evaluation, report)

    report.run("results", judged, "Read the log of the transform job, /aws/sagemaker/TransformJobs")
    if bad:
        report.run(REFUSED, partial(set_aside, place, bad, report))
    if not golden:
        report.notes.append("This version has no golden rows: its scores are not compared row by row")
    return report


def answered(
    rows: list[list[str]], wanted: Sequence[Sequence[Any]], keys: int, report: Report
) -> list[float]:
    """The scores, when each uploaded row has one, beside itself and in its place."""
    report.check("rows answered", len(rows) == len(wanted), f"{len(rows)}", f"{len(wanted)}")
    if len(rows) != len(wanted):
        raise Fault(f"{len(rows)} rows came back of {len(wanted)}: they cannot be compared")
    differing = [
        number
        for number, (row, given) in enumerate(zip(rows, wanted, strict=True), 1)
        if row[keys:-1] != [str(value) for value in given]
    ]
    found = f"row {differing[0]} is {quoted(rows[differing[0] - 1], 200)}" if differing else "they are"
    report.check("results carry their inputs", not differing, found, "each row with its values")
    try:
        scores = [float(row[-1]) for row in rows]
    except ValueError as error:
        raise Fault(f"a result ends with {error}; required: a number a row") from error
    within = all(math.isfinite(score) and 0 <= score <= 1 for score in scores)
    report.check("range of the answers", within, f"{min(scores):.3f} to {max(scores):.3f}", "0 to 1")
    return scores


def same_scores(scores: Sequence[float], golden: Golden, report: Report) -> None:
    """The golden rows have the scores of training."""
    gaps = [abs(score - row["score"]) for score, row in zip(scores, golden.rows, strict=True)]
    report.check(
        "scores as in training",
        max(gaps) <= TOLERANCE,
        f"{max(gaps):.1e} apart at most",
        f"{len(gaps)} rows within {TOLERANCE:.0e}",
        ADVICE,
    )
    report.measured["golden"] = {"rows": len(golden.rows), "packages": golden.packages}


def set_aside(place: Place, version: str, report: Report) -> None:
    """A file of the wrong width has a reason, and no result."""
    rows, reason = place.outcome("bad", version)
    report.check(REFUSED, bool(reason) and not rows, reason or f"{len(rows)} rows", "a reason")


def place_of(session: Any, project: Project, config: dict[str, Any], stage: str, execution: str) -> Place:
    """The place of a release's tests."""
    return Place(session.client("s3"), project, stage, execution[:36], batch_settings(config)["key_columns"])
