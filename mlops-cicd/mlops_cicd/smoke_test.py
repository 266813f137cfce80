"""Tests a deployed endpoint by really invoking it with labelled rows of the project (flow F, both stages).

Each request carries an inference id that begins with "smoke-test", by which the monitor tells it from
traffic.
"""

from __future__ import annotations

import argparse
import csv
import io
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import ClientError

from .config import data_file, load_config
from .console import OK, Fault, say, script, table
from .registry import describe, metric_value, read_json
from .select import live_model
from .settings import Project, load_project

MAX_ROWS = 500
BATCH = 50
SINGLES = 20
SLACK = 3.0  # standard errors by which a sample's metric may be below the evaluation's


@dataclass
class Report:
    """The checks and their results."""

    rows: list[tuple[str, str, str, str]] = field(default_factory=list)

    def check(self, name: str, passed: bool, found: str, required: str) -> None:
        """Note one check."""
        self.rows.append((name, "ok" if passed else "FAILED", found, required))

    @property
    def failed(self) -> list[str]:
        """Names of the checks that failed, with what was found."""
        return [
            f"{name} is {found}, required: {required}"
            for name, ok, found, required in self.rows
            if ok != "ok"
        ]


@dataclass(frozen=True)
class Sample:
    """Labelled rows in the order in which the model takes them."""

    features: list[list[str]]
    positive: list[bool]


def read_sample(text: str, target: str, positive_class: str, limit: int = MAX_ROWS) -> Sample:
    """Rows evenly spread over the data set, without the target."""
    rows = [row for row in csv.reader(io.StringIO(text)) if row]
    if len(rows) < 2 or target not in rows[0]:
        raise Fault(f"the sample data has no column {target} (data.target in mlops.yml) or no rows")
    place, body = rows[0].index(target), rows[1:]
    if ragged := [number for number, row in enumerate(body, start=2) if len(row) != len(rows[0])]:
        raise Fault(f"row {ragged[0]} of the sample data has another number of values than its header")
    step = max(1, math.ceil(len(body) / limit))
    chosen = body[::step]
    return Sample(
        [row[:place] + row[place + 1 :] for row in chosen],
        [same_label(row[place], positive_class) for row in chosen],
    )


def same_label(found: str, wanted: str) -> bool:
    """Whether a label is the positive one; 1 and 1.0 are the same."""
    if found.strip() == wanted:
        return True
    try:
        return float(found) == float(wanted)
    except ValueError:
        return False


def load_sample(project_dir: Path, config: dict[str, Any], s3: Any) -> Sample:
    """The project's data, from its repository or from S3."""
    data = config["data"]
    source = data["source"]
    if source.startswith("s3://"):
        bucket, _, key = source.removeprefix("s3://").partition("/")
        text = s3.get_object(Bucket=bucket, Key=key)["Body"].read().decode("utf-8-sig")
    else:
        text = data_file(project_dir, source).read_text(encoding="utf-8-sig")
    return read_sample(text, data["target"], str(data.get("positive_class", 1)))


@dataclass
class Client:
    """Invokes one endpoint and keeps the times."""

    runtime: Any
    endpoint: str
    content_type: str
    clock: Callable[[], float] = time.perf_counter
    count: int = 0

    def predict(self, rows: list[list[str]]) -> tuple[list[float], float]:
        """Predictions of some rows and the milliseconds that it took; a row has one number."""
        body = io.StringIO()
        csv.writer(body, lineterminator="\n").writerows(rows)
        self.count += 1
        begun = self.clock()
        try:
            answer = self.runtime.invoke_endpoint(
                EndpointName=self.endpoint,
                ContentType=self.content_type,
                Accept=self.content_type,
                Body=body.getvalue().encode(),
                InferenceId=f"smoke-test-{self.count}",
            )
            text = answer["Body"].read().decode()
        except ClientError as error:
            detail = error.response
            message = detail.get("OriginalMessage") or detail["Error"]["Message"]
            raise Fault(
                f"endpoint {self.endpoint} answered {detail.get('OriginalStatusCode', '')} "
                f"{detail['Error']['Code']}: {str(message)[:500]} "
                f"(its log: /aws/sagemaker/Endpoints/{self.endpoint})"
            ) from error
        spent = (self.clock() - begun) * 1000
        lines = [row for row in csv.reader(io.StringIO(text)) if row]
        if len(lines) != len(rows) or any(len(line) != 1 for line in lines):
            shape = f"{len(lines)} rows of {sorted({len(line) for line in lines})} values"
            raise Fault(
                f"{len(rows)} rows were sent; the endpoint answered {shape}; required: one number a row"
            )
        try:
            return [float(line[0]) for line in lines], spent
        except ValueError as error:
            raise Fault(f"the endpoint answered {text[:80]!r}; required: one number a row") from error


def auc(scores: Sequence[float], positive: Sequence[bool]) -> float:
    """Area under the ROC curve, ties shared."""
    order = sorted(range(len(scores)), key=scores.__getitem__)
    ranks = [0.0] * len(scores)
    start = 0
    while start < len(order):
        end = start
        while end + 1 < len(order) and scores[order[end + 1]] == scores[order[start]]:
            end += 1
        for place in range(start, end + 1):
            ranks[order[place]] = (start + end) / 2 + 1
        start = end + 1
    hits = sum(positive)
    misses = len(positive) - hits
    total = sum(rank for rank, hit in zip(ranks, positive, strict=True) if hit)
    return (total - hits * (hits + 1) / 2) / (hits * misses)


def measure(metric: str, scores: Sequence[float], positive: Sequence[bool]) -> float:
    """A metric of schema/mlops.schema.json; classes are split at 0.5."""
    if metric == "auc":
        return auc(scores, positive)
    guesses = [score >= 0.5 for score in scores]
    pairs = list(zip(guesses, positive, strict=True))
    true_positive = sum(guess and hit for guess, hit in pairs)
    precision = true_positive / max(1, sum(guesses))
    recall = true_positive / max(1, sum(positive))
    return {
        "accuracy": sum(guess == hit for guess, hit in pairs) / len(pairs),
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall) if precision + recall else 0.0,
    }[metric]


def standard_error(metric: str, value: float, positive: Sequence[bool]) -> float:
    """How far chance moves a metric of this sample (AUC: Hanley and McNeil; else binomial)."""
    hits = sum(positive)
    misses = len(positive) - hits
    if metric == "auc":
        q1, q2 = value / (2 - value), 2 * value**2 / (1 + value)
        spread = value * (1 - value) + (hits - 1) * (q1 - value**2) + (misses - 1) * (q2 - value**2)
        return math.sqrt(max(0.0, spread) / (hits * misses))
    count = len(positive) if metric == "accuracy" else hits
    return math.sqrt(max(0.0, value * (1 - value)) / count)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]


def run_checks(
    client: Client, sample: Sample, config: dict[str, Any], evaluation: Any, max_latency: float
) -> Report:
    """Invoke the endpoint and judge what it answers."""
    report = Report()
    client.predict(sample.features[:1])  # the first request loads what is loaded late; it is not timed
    singles: list[float] = []
    times: list[float] = []
    for row in sample.features[:SINGLES]:
        (score,), spent = client.predict([row])
        singles.append(score)
        times.append(spent)
    scores: list[float] = []
    for start in range(0, len(sample.features), BATCH):
        batch, _ = client.predict(sample.features[start : start + BATCH])
        scores += batch
    report.check("requests answered", True, f"{client.count}", "all")
    report.check(
        "rows answered", len(scores) == len(sample.features), f"{len(scores)}", f"{len(sample.features)}"
    )
    finite = all(math.isfinite(score) and 0 <= score <= 1 for score in scores)
    report.check("range of the answers", finite, f"{min(scores):.3f} to {max(scores):.3f}", "0 to 1")
    distinct = len({round(score, 6) for score in scores})
    report.check("answers differ", distinct > 1 or len(scores) == 1, f"{distinct} values", "more than one")
    gap = max(abs(one - many) for one, many in zip(singles, scores, strict=False))
    report.check("one row answers as in a batch", gap < 1e-5, f"{gap:.1e} apart", "less than 1e-05")
    latency = percentile(times, 0.95)
    report.check(
        "latency, 95th percentile", latency <= max_latency, f"{latency:.0f} ms", f"up to {max_latency:.0f} ms"
    )

    metric, threshold = config["evaluation"]["metric"], config["evaluation"]["threshold"]
    if len(set(sample.positive)) < 2:
        data = config["data"]
        raise Fault(
            f"the labels in {data['source']} all mean the same to data.positive_class "
            f"{data.get('positive_class', 1)!r}: the predictions cannot be judged"
        )
    value = measure(metric, scores, sample.positive) if finite else 0.0
    report.check(f"{metric} of the sample", value >= threshold, f"{value:.4f}", f"at least {threshold}")
    expected = metric_value(evaluation, metric)
    if expected is not None:
        least = expected - SLACK * standard_error(metric, expected, sample.positive)
        report.check(
            f"{metric} against the evaluation",
            value >= least,
            f"{value:.4f}",
            f"at least {least:.4f} ({expected:.4f})",
        )
    return report


def evaluation_of(sagemaker: Any, s3: Any, arn: str) -> Any:
    """evaluation.json of a model version."""
    model = describe(sagemaker, arn)
    uri = model.evaluation
    if not uri:
        raise Fault(
            f"model version {model.version} has no evaluation (ModelQuality statistics) to compare with"
        )
    return read_json(s3, uri)


def deployed_model(cloudformation: Any, project: Project, stage: str, expected: str) -> str:
    """The model package behind the stage's endpoint, which must be the selected one."""
    stack = project.resource(stage)
    found = live_model(cloudformation, stack)
    if not found:
        raise Fault(f"stack {stack} is not complete: deploy {stage} before testing it")
    if expected and found != expected:
        raise Fault(f"stack {stack} runs {found}; selected was {expected}: another deployment came between")
    return found


@script
def main(
    argv: Sequence[str] | None = None, session: Any = None, clock: Callable[[], float] = time.perf_counter
) -> int:
    """Test the endpoint of a stage; 0 when every check passes."""
    parser = argparse.ArgumentParser(prog="mlops_cicd.smoke_test", description=__doc__)
    parser.add_argument("--project-id", default=os.environ.get("PROJECT_ID", ""))
    parser.add_argument("--project-dir", type=Path, required=True)
    parser.add_argument("--stage", choices=("staging", "production"), required=True)
    parser.add_argument("--model-package-arn", default=os.environ.get("MODEL_PACKAGE_ARN", ""))
    parser.add_argument("--max-latency-ms", type=float, default=2000)
    options = parser.parse_args(argv)
    session = session or boto3.Session()
    config = load_config(options.project_dir / "mlops.yml")
    project = load_project(session.client("ssm"), options.project_id, session.region_name)
    sagemaker, s3 = session.client("sagemaker"), session.client("s3")
    endpoint = project.resource(options.stage)
    arn = deployed_model(session.client("cloudformation"), project, options.stage, options.model_package_arn)
    status = sagemaker.describe_endpoint(EndpointName=endpoint)["EndpointStatus"]
    if status != "InService":
        raise Fault(f"endpoint {endpoint} is {status}; it must be InService")
    say(f"testing {endpoint}, which runs {arn}")
    client = Client(
        session.client("sagemaker-runtime"),
        endpoint,
        config["inference"].get("content_type", "text/csv"),
        clock,
    )
    sample = load_sample(options.project_dir, config, s3)
    report = run_checks(client, sample, config, evaluation_of(sagemaker, s3, arn), options.max_latency_ms)
    say(table(report.rows, ("check", "result", "found", "required")))
    if report.failed:
        raise Fault(f"endpoint {endpoint} failed its test: " + "; ".join(report.failed))
    say(f"endpoint {endpoint} passed")
    return OK


if __name__ == "__main__":
    sys.exit(main())
