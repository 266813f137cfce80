"""Stage Shadow: answers to the same request belong together; waiting ends; each limit can fail a release."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest

from mlops_cicd import shadow
from mlops_cicd.settings import project_path

from .conftest import BUCKET, GROUP_ARN, NAME, PROJECT_ID, Session

BEGIN = datetime(2026, 3, 1, 10, 58, tzinfo=UTC)
ENDPOINT = f"{NAME}-production"
ASKED = {
    "requests": 3,
    "wait_minutes": 60,
    "max_difference": 0.2,
    "min_agreement": 0.9,
    "max_latency_ratio": 2,
}
FIGURES = {"requests": 3.0, "errors": 0.0, "p50_ms": 5.0, "p95_ms": 10.0}


def line(request: str, answer: str, at: datetime = BEGIN, encoding: str = "CSV") -> str:
    """A captured request."""
    data = [request, answer]
    if encoding == "BASE64":
        data = [base64.b64encode(text.encode()).decode() for text in data]
    parts = {
        name: {"observedContentType": "text/csv", "mode": mode, "data": text, "encoding": encoding}
        for name, mode, text in zip(
            ("endpointInput", "endpointOutput"), ("INPUT", "OUTPUT"), data, strict=True
        )
    }
    metadata = {"eventId": "1", "inferenceTime": f"{at:%Y-%m-%dT%H:%M:%SZ}"}
    return json.dumps({"captureData": parts, "eventMetadata": metadata, "eventVersion": "0"})


def put(variant: str, *lines: str, at: datetime = BEGIN, name: str = "a") -> None:
    """An object of captured requests, in the folder of its hour."""
    key = f"data-capture/production/{ENDPOINT}/{variant}/{at:%Y/%m/%d/%H}/{name}.jsonl"
    boto3.client("s3").put_object(Bucket=BUCKET, Key=key, Body="\n".join(lines).encode())


def variant(name: str) -> shadow.Variant:
    return shadow.Variant(BUCKET, f"data-capture/production/{ENDPOINT}/{name}/", BEGIN)


@pytest.mark.parametrize(
    ("text", "scores"),
    [
        ("0.5\n0.25\n", [0.5, 0.25]),
        (
            '{"predictions": [{"probability": 0.5, "label": "bad"}, {"probability": 0.1, "label": "good"}]}',
            [0.5, 0.1],
        ),
        ("[0.5, 1]", [0.5, 1.0]),
        ("", []),
        ("bad\n", None),
        ('{"error": "no"}', None),
        ("{", None),
    ],
)
def test_answers_are_numbers(text: str, scores: list[float] | None) -> None:
    assert shadow.scores_of(text) == scores


def test_answers_to_the_same_request_belong_together(aws: None) -> None:
    """In whatever order, hour and encoding they were captured; what was captured before does not count."""
    later, before = BEGIN + timedelta(minutes=5), BEGIN - timedelta(hours=1)
    put("AllTraffic", line("1,2", "0.1"), line("3,4", "0.2"), line("5,6", "0.3"))
    put("AllTraffic", line("0,0", "0.9", at=before), at=before)
    put("Shadow", line("5,6\n", "0.35"), "{broken", line("7,8", "no number"), line("0,0", "0.9", at=before))
    put("Shadow", line("1,2", "0.15", at=later, encoding="BASE64"), at=later)
    s3, live, new = boto3.client("s3"), variant("AllTraffic"), variant("Shadow")
    for one in (live, new):
        one.read(s3)
        one.read(s3)  # a second look reads nothing twice
    assert sorted(shadow.pairs(live, new)) == [([0.1], [0.15]), ([0.3], [0.35])]
    assert (live.unreadable, new.unreadable, new.newest) == (0, 2, later)


class Clock:
    """Sleeping moves the time."""

    def __init__(self) -> None:
        self.at, self.slept = BEGIN, 0.0

    def sleep(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)
        self.slept += seconds


def test_waiting_ends_with_enough_requests_or_with_the_time() -> None:
    clock, counts = Clock(), iter([0, 1, 5])
    assert shadow.wait_for(4, BEGIN + timedelta(hours=1), lambda: next(counts), clock, lambda: clock.at) == 5
    assert clock.slept == pytest.approx(5)
    clock = Clock()
    assert shadow.wait_for(4, BEGIN + timedelta(minutes=5), lambda: 2, clock, lambda: clock.at) == 2
    assert clock.at == pytest.approx(BEGIN + timedelta(minutes=5), abs=timedelta(seconds=1))


def test_a_try_after_the_time_looks_once() -> None:
    clock = Clock()
    assert shadow.wait_for(4, BEGIN - timedelta(minutes=5), lambda: 2, clock, lambda: clock.at) == 2
    assert clock.slept == 0


SAME = [([0.1], [0.12]), ([0.6], [0.62]), ([0.9, 0.2], [0.88, 0.21])]


@pytest.mark.parametrize(
    ("both", "new", "unreadable", "failed"),
    [
        (SAME, {}, 0, []),
        (SAME[:2], {}, 0, ["requests that both answered"]),
        ([*SAME, ([0.1], [0.1, 0.2])], {}, 0, ["answers with as many rows"]),
        (SAME, {}, 1, ["answers that can be read"]),
        ([([0.1], [0.45])] * 3, {}, 0, ["difference of 95 % of the answers"]),
        ([([0.45], [0.55])] * 3, {}, 0, ["answers on the same side of 0.5"]),
        ([([0.1], [float("nan")])] * 3, {}, 0, ["difference of 95 % of the answers"]),
        (SAME, {"errors": 1.0}, 0, ["server errors of the new version"]),
        (SAME, {"p95_ms": 25.0}, 0, ["latency beside the live version's, 95th percentile"]),
    ],
)
def test_each_limit_can_fail(both: Any, new: dict[str, float], unreadable: int, failed: list[str]) -> None:
    report = shadow.judge(ASKED, both, FIGURES, FIGURES | new, unreadable)
    assert [check.name for check in report.failed] == failed


def test_without_metrics_the_latency_is_not_judged() -> None:
    report = shadow.judge(ASKED, SAME, {}, {}, 0)
    assert (report.failed, len(report.notes)) == ([], 1)


class Endpoint:
    """SageMaker with the endpoint that compares versions 1 and 2."""

    variants: tuple[dict[str, str], ...] = ({"VariantName": "Shadow"},)

    def describe_endpoint(self, EndpointName: str) -> dict[str, Any]:  # noqa: N803
        assert EndpointName == ENDPOINT
        return {
            "EndpointStatus": "InService",
            "EndpointConfigName": "c-2",
            "LastModifiedTime": BEGIN,
            "ShadowProductionVariants": list(self.variants),
        }

    def describe_endpoint_config(self, EndpointConfigName: str) -> dict[str, Any]:  # noqa: N803
        assert EndpointConfigName == "c-2"
        return {"CreationTime": BEGIN}

    def describe_model_package(self, ModelPackageName: str) -> dict[str, Any]:  # noqa: N803
        return {"ModelPackageVersion": int(ModelPackageName.rpartition("/")[2])}


class Stacks:
    """CloudFormation with the production stack."""

    def describe_stacks(self, StackName: str) -> dict[str, Any]:  # noqa: N803
        assert StackName == ENDPOINT
        values = {"ModelPackageArn": f"{GROUP_ARN}/1", "ShadowModelPackageArn": f"{GROUP_ARN}/2"}
        parameters = [{"ParameterKey": name, "ParameterValue": value} for name, value in values.items()]
        return {"Stacks": [{"StackStatus": "UPDATE_COMPLETE", "Parameters": parameters}]}


def run(project_dir: Path, block: str, version: int = 2, sagemaker: Any = None) -> int:
    path = project_dir / "mlops.yml"
    path.write_text(path.read_text().replace("deployment:", f"deployment:\n  {block}", 1))
    argv = ["--project-id", PROJECT_ID, "--project-dir", str(project_dir), "--execution", "e-1"]
    argv += ["--model-package-arn", f"{GROUP_ARN}/{version}", "--live", f"{GROUP_ARN}/1"]
    return shadow.main(argv, Session(sagemaker=sagemaker or Endpoint(), cloudformation=Stacks()))


BLOCK = "shadow: {requests: 2, wait_minutes: 5}"


def test_the_report_is_kept_with_the_release(aws: None, project_dir: Path, capsys: Any) -> None:
    ssm = boto3.client("ssm")
    assert ssm.get_parameter(Name=project_path(PROJECT_ID, "bucket-name"))
    put("AllTraffic", line("1,2", "0.1"), line("3,4", "0.2"))
    put("Shadow", line("1,2", "0.1"), line("3,4", "0.21"))
    assert run(project_dir, BLOCK) == 0
    folder = "releases/2/e-1/shadow/report"
    s3 = boto3.client("s3")
    report = json.loads(s3.get_object(Bucket=BUCKET, Key=f"{folder}.json")["Body"].read())
    assert (report["passed"], report["model_version"], report["stage"]) == (True, 2, "shadow")
    assert report["measured"]["Differences of the answers"]["rows"] == 2
    page = s3.get_object(Bucket=BUCKET, Key=f"{folder}.html")["Body"].read().decode()
    assert "Model version 2 in shadow" in page and "Differences of the answers" in page
    assert "version 2 answers as version 1" in capsys.readouterr().out


def test_a_version_that_differs_is_told_and_kept_out(aws: None, project_dir: Path, capsys: Any) -> None:
    put("AllTraffic", line("1,2", "0.1"), line("3,4", "0.2"))
    put("Shadow", line("1,2", "0.9"), line("3,4", "0.8"))
    assert run(project_dir, BLOCK) == 1
    told = capsys.readouterr().err
    assert "version 2 does not answer as version 1: difference of 95 % of the answers is 0.8000" in told
    assert "reject version 2 to end this" in told


def test_too_few_requests_fail_and_say_so(aws: None, project_dir: Path, capsys: Any) -> None:
    put("AllTraffic", line("1,2", "0.1"))
    put("Shadow", line("1,2", "0.1"))
    assert run(project_dir, BLOCK) == 1  # the five minutes ended long ago
    assert "requests that both answered is 1, required: at least 2. Wait for more" in capsys.readouterr().err


def test_what_is_compared_is_what_was_selected(aws: None, project_dir: Path, capsys: Any) -> None:
    assert run(project_dir, BLOCK, version=3) == 1
    assert "another deployment came between" in capsys.readouterr().err


def test_without_a_shadow_there_is_nothing_to_compare(aws: None, project_dir: Path, capsys: Any) -> None:
    gone = Endpoint()
    gone.variants = ()
    assert run(project_dir, BLOCK, sagemaker=gone) == 1
    assert "has no variant Shadow" in capsys.readouterr().err
