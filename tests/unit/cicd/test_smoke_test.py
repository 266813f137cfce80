"""The endpoint test really invokes, and fails on each way in which an endpoint can be wrong."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from mlops_cicd import smoke_test
from mlops_cicd.console import Fault
from mlops_cicd.staging import load, quality
from mlops_cicd.staging import metrics as metrics_of
from mlops_cicd.staging import sample as sample_of
from mlops_cicd.staging.client import AsynchronousClient, Counted

from .conftest import BUCKET, GROUP_ARN, KEY, NAME, PROJECT_ID, Session

ARN = f"{GROUP_ARN}/4"


class Refused(Exception):
    """What the model's server would refuse, with its status."""


class Endpoint:
    """sagemaker-runtime with a model that knows the label: rows of age 40 are bad."""

    def __init__(self, mode: str = "good", clock: list[float] | None = None) -> None:
        self.mode, self.requests, self.clock = mode, [], clock or [0.0]

    def invoke_endpoint(self, **request: Any) -> dict[str, Any]:
        self.requests.append(request)
        self.clock[0] += 5.0 if self.mode == "slow" else 0.01
        if self.mode == "error" or (self.mode == "breaks" and len(self.requests) % 7 == 0):
            raise model_error(500, "KeyError: 'age'")
        if self.mode == "throttles" and len(self.requests) > 60:
            raise ClientError(
                {"Error": {"Code": "ThrottlingException", "Message": "slow down"}}, "InvokeEndpoint"
            )
        try:
            return {"Body": io.BytesIO(self.answer(request).encode())}
        except Refused as refused:
            status, text = refused.args
            if self.mode == "crashes":
                raise model_error(500, "ValueError") from None
            raise model_error(
                status, "{}" if self.mode == "silent" else json.dumps({"error": text})
            ) from None

    def answer(self, request: dict[str, Any]) -> str:
        kind, body = request["ContentType"], request["Body"].decode()
        if kind == "application/json":
            rows = self.parsed(body)
        elif kind == "text/csv" or self.mode == "anything goes":
            rows = list(csv.reader(io.StringIO(body)))
        else:
            raise Refused(415, f"Content-Type {kind} is not supported")
        if any(len(row) != 2 for row in rows) or any(not str(value or 0).isdigit() for value in rows[0]):
            raise Refused(400, "row 1 is not right")
        scores = self.scores(rows)
        if kind == "application/json":
            shift = 0.01 if self.mode == "two answers" else 0.0
            return json.dumps({"predictions": [{"probability": score + shift} for score in scores]})
        text = "\n".join(f"{score},x" if self.mode == "wide" else str(score) for score in scores)
        return "bad" if self.mode == "text" else text

    def parsed(self, body: str) -> list[list[Any]]:
        try:
            return json.loads(body)["instances"]
        except ValueError:
            raise Refused(400, "the body is not JSON") from None

    def scores(self, rows: list[list[Any]]) -> list[float]:
        scores = [0.2 + 0.6 * (str(row[0]) == "40") for row in rows]
        if self.mode == "constant":
            return [0.5] * len(rows)
        if self.mode == "inverted":
            return [1 - score for score in scores]
        if self.mode == "logits":
            return [score * 10 for score in scores]
        if self.mode == "shuffled":
            return scores[::-1] if len(scores) > 1 else [0.9]
        if self.mode == "short":
            return scores[:-1]
        if self.mode == "imputes":  # reads a missing age otherwise than training did
            return [0.8 if row[0] in ("", None) else score for row, score in zip(rows, scores, strict=True)]
        return scores


def model_error(status: int, message: str) -> ClientError:
    """ModelError as SageMaker gives it."""
    error = {"Code": "ModelError", "Message": f"Received error ({status})"}
    response = {"Error": error, "OriginalStatusCode": status, "OriginalMessage": message}
    return ClientError(response, "InvokeEndpoint")


GOLDEN = {
    "features": [{"name": "age", "kind": "number"}, {"name": "job", "kind": "number"}],
    "packages": {"python": "3.12", "scikit-learn": "1.9"},
    "rows": [
        {"values": [40, 1], "score": 0.8, "why": "age: largest"},
        {"values": [30, 2], "score": 0.2, "why": "age: smallest"},
        {"values": [None, 2], "score": 0.2, "why": "age: missing"},
    ],
}


class SageMaker:
    def __init__(self, status: str = "InService", metrics: bool = True) -> None:
        self.status, self.metrics = status, metrics

    def describe_endpoint(self, EndpointName: str) -> dict[str, str]:  # noqa: N803
        assert EndpointName in (f"{NAME}-staging", f"{NAME}-production")
        return {"EndpointStatus": self.status}

    def describe_model_package(self, ModelPackageName: str) -> dict[str, Any]:  # noqa: N803
        assert ModelPackageName == ARN
        quality = {
            "Statistics": {"ContentType": "application/json", "S3Uri": f"s3://{BUCKET}/evaluation.json"}
        }
        return {"ModelPackageVersion": 4, "ModelMetrics": {"ModelQuality": quality} if self.metrics else {}}


class Stacks:
    def __init__(self, model: str = ARN) -> None:
        self.model = model

    def describe_stacks(self, StackName: str) -> dict[str, Any]:  # noqa: N803
        parameters = [{"ParameterKey": "ModelPackageArn", "ParameterValue": self.model}]
        return {"Stacks": [{"StackStatus": "CREATE_COMPLETE", "Parameters": parameters}]}


def run(
    project_dir: Path,
    endpoint: Endpoint,
    sagemaker: SageMaker | None = None,
    stacks: Stacks | None = None,
    auc: float = 0.8,
    golden: dict[str, Any] | None = GOLDEN,
    stage: str = "staging",
    more: list[str] | None = None,
) -> int:
    evaluation = {"binary_classification_metrics": {"auc": {"value": auc, "standard_deviation": 0.02}}}
    boto3.client("s3").put_object(Bucket=BUCKET, Key="evaluation.json", Body=json.dumps(evaluation))
    if golden:
        boto3.client("s3").put_object(Bucket=BUCKET, Key="golden.json", Body=json.dumps(golden))
    config = project_dir / "mlops.yml"
    tests = "deployment:\n  tests: {load_seconds: 1, load_clients: 2}\n"
    config.write_text(config.read_text().replace("deployment:\n", tests))
    session = Session(
        sagemaker=sagemaker or SageMaker(), cloudformation=stacks or Stacks(), sagemaker_runtime=endpoint
    )
    argv = ["--project-id", PROJECT_ID, "--project-dir", str(project_dir), "--stage", stage]
    argv += ["--model-package-arn", ARN, "--execution", "run-1", *(more or [])]
    return smoke_test.main(argv, session, lambda: endpoint.clock[0])


def report_of(stage: str = "staging", form: str = "json") -> Any:
    """What was written for the person who approves."""
    key = f"releases/4/run-1/{stage}/report.{form}"
    found = boto3.client("s3").get_object(Bucket=BUCKET, Key=key)
    assert (found["ServerSideEncryption"], found["SSEKMSKeyId"]) == ("aws:kms", KEY)
    text = found["Body"].read().decode()
    return json.loads(text) if form == "json" else text


def test_a_good_endpoint_passes_with_a_table(
    aws: None, project_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint = Endpoint()
    assert run(project_dir, endpoint) == 0
    text = capsys.readouterr().out
    assert "auc of the sample" in text
    assert "1.0000" in text
    assert "passed" in text
    assert all(request["EndpointName"] == f"{NAME}-staging" for request in endpoint.requests)
    assert all(request["InferenceId"].startswith("smoke-test-") for request in endpoint.requests)
    assert endpoint.requests[0]["Body"] == b"30,10\n"  # the target is left out, the order is kept
    assert sum(len(request["Body"].splitlines()) for request in endpoint.requests) >= 60


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("constant", "answers differ is 1 values"),
        ("inverted", "auc of the sample is 0.0000, required: at least 0.7"),
        ("logits", "range of the answers is 2.000 to 8.000, required: 0 to 1"),
        ("shuffled", "one row answers as in a batch"),
        ("short", "1 rows were sent; the endpoint answered 0 rows"),
        ("wide", "rows of [2] values; required: one number a row"),
        ("two answers", "CSV and JSON agree is 1.0e-02 apart"),
        ("imputes", "worst is row 3 (age: missing): 0.800000 instead of 0.200000 for [null, 2]"),
        ("imputes", "compare the packages of the training and the inference image"),
        ("crashes", "a row with a value too few is refused is 500"),
        ("silent", "a body that is not JSON is refused is 400"),
        ("anything goes", "a wrong content type is refused is 200"),
        ("breaks", "failed requests under load is"),
        ("throttles", "first 0 ThrottlingException: slow down"),
        ("text", "the endpoint answered 'bad'; required: one number a row"),
        ("slow", "latency, 95th percentile is 5000 ms, required: up to 2000 ms. Look at ModelLatency"),
        ("error", "answered 500 ModelError: KeyError: 'age' (its log: /aws/sagemaker/Endpoints/"),
    ],
)
def test_a_wrong_endpoint_fails_and_says_how(
    aws: None, project_dir: Path, capsys: pytest.CaptureFixture[str], mode: str, message: str
) -> None:
    assert run(project_dir, Endpoint(mode)) == 1
    assert message in capsys.readouterr().err
    assert not report_of()["passed"] and report_of()["failures"]


def test_a_model_below_its_own_evaluation_fails(
    aws: None, project_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (project_dir / "data/rows.csv").read_text()
    # every fourth row has the other label: the metric stays above its threshold but not near its evaluation
    rows = text.splitlines()
    flipped = [
        row.replace("good", "x").replace("bad", "good").replace("x", "bad") if number % 4 == 1 else row
        for number, row in enumerate(rows)
    ]
    (project_dir / "data/rows.csv").write_text("\n".join(flipped))
    assert run(project_dir, Endpoint(), auc=0.99) == 1
    message = capsys.readouterr().err
    assert "auc against the evaluation" in message
    assert "auc of the sample" not in message


@pytest.mark.parametrize(
    ("sagemaker", "stacks", "message"),
    [
        (SageMaker(status="Updating"), None, "is Updating; it must be InService"),
        (SageMaker(metrics=False), None, "model version 4 has no evaluation"),
        (None, Stacks(f"{GROUP_ARN}/3"), "another deployment came between"),
    ],
)
def test_what_is_not_ready_is_named(
    aws: None,
    project_dir: Path,
    capsys: pytest.CaptureFixture[str],
    sagemaker: SageMaker | None,
    stacks: Stacks | None,
    message: str,
) -> None:
    assert run(project_dir, Endpoint(), sagemaker, stacks) == 1
    assert message in capsys.readouterr().err


def test_labels_of_one_kind_cannot_judge(
    aws: None, project_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = project_dir / "mlops.yml"
    path.write_text(path.read_text().replace("positive_class: bad", "positive_class: worst"))
    assert run(project_dir, Endpoint()) == 1
    assert "all mean the same to data.positive_class 'worst'" in capsys.readouterr().err


def test_data_in_s3_is_read_from_there(aws: None, project_dir: Path) -> None:
    content = (project_dir / "data/rows.csv").read_bytes()
    boto3.client("s3").put_object(Bucket=BUCKET, Key="rows.csv", Body=content)
    (project_dir / "data/rows.csv").unlink()
    path = project_dir / "mlops.yml"
    path.write_text(path.read_text().replace("data/rows.csv", f"s3://{BUCKET}/rows.csv"))
    assert run(project_dir, Endpoint()) == 0


def test_the_metrics_are_scikit_learns() -> None:
    import numpy as np
    from sklearn import metrics

    rng = np.random.default_rng(1)
    for _ in range(20):
        positive = list(rng.random(80) < 0.3)
        scores = list(np.round(rng.random(80) * 0.6 + 0.3 * np.array(positive), 1))  # with ties
        guesses = np.array(scores) >= 0.5
        assert metrics_of.auc(scores, positive) == pytest.approx(metrics.roc_auc_score(positive, scores))
        for name, oracle in {
            "accuracy": metrics.accuracy_score,
            "precision": metrics.precision_score,
            "recall": metrics.recall_score,
            "f1": metrics.f1_score,
        }.items():
            assert metrics_of.measure(name, scores, positive) == pytest.approx(oracle(positive, guesses))


def test_the_sample_is_spread_over_the_data() -> None:
    text = "x,label\n" + "".join(f"{number},{number % 2}\n" for number in range(1200))
    sample = sample_of.read_sample(text, "label", "1", limit=500)
    assert len(sample.features) == 400
    assert sample.features[-1] == ["1197"]
    assert sum(sample.positive) == 200
    with pytest.raises(Fault, match="no column target"):
        sample_of.read_sample(text, "target", "1")


@pytest.mark.parametrize(
    ("found", "wanted", "same"), [("1", "1.0", True), ("bad", "bad", True), ("2", "1", False)]
)
def test_labels_are_compared_as_values(found: str, wanted: str, same: bool) -> None:
    assert sample_of.same_label(found, wanted) is same


def test_the_report_tells_a_person_everything(aws: None, project_dir: Path, tmp_path: Path) -> None:
    env = tmp_path / "test.env"
    assert run(project_dir, Endpoint(), more=["--env", str(env)]) == 0
    content, text = report_of(), report_of(form="html")
    assert content["passed"] and content["model_version"] == 4 and content["endpoint"] == f"{NAME}-staging"
    groups = [check["group"] for check in content["checks"]]
    expected = ["first request", "contract", "golden rows", "predictions", "load"]
    assert list(dict.fromkeys(groups)) == expected
    assert all(check["found"] and check["required"] for check in content["checks"])
    assert content["measured"]["load"]["requests"] > 20 and not content["measured"]["load"]["failed"]
    assert f"All {len(groups)} checks passed" in text and "scores as in training, CSV" in text
    assert "<script" not in text and "src=" not in text and "http-equiv" in text
    lines = env.read_text()
    assert f"/s3/object/{BUCKET}?region=us-east-1&prefix=releases/4/run-1/staging/report.html" in lines
    assert "Passed all" in lines and "requests a second" in lines


def test_what_a_model_answers_cannot_write_into_the_page(aws: None, project_dir: Path) -> None:
    golden = json.loads(json.dumps(GOLDEN))
    golden["rows"][2] |= {"why": "<script>alert(1)</script>", "score": 0.9}
    assert run(project_dir, Endpoint(), golden=golden) == 1
    assert "<script" not in report_of(form="html")


def test_a_version_without_golden_rows_is_tested_and_says_so(aws: None, project_dir: Path) -> None:
    assert run(project_dir, Endpoint(), golden=None) == 0
    assert "it was trained before step Evaluate wrote one" in report_of()["notes"][0]


@pytest.mark.parametrize("rows", [[], [{"values": [1], "score": 0.5}], [{"values": [1, 2]}]])
def test_golden_rows_of_another_shape_are_a_fault(
    aws: None, project_dir: Path, capsys: pytest.CaptureFixture[str], rows: list[Any]
) -> None:
    assert run(project_dir, Endpoint(), golden=GOLDEN | {"rows": rows}) == 1
    assert "golden.json" in capsys.readouterr().err


def test_production_is_neither_strained_nor_sent_bad_requests(aws: None, project_dir: Path) -> None:
    endpoint = Endpoint()
    assert run(project_dir, endpoint, stage="production") == 0
    assert {request["ContentType"] for request in endpoint.requests} == {"text/csv", "application/json"}
    assert len(endpoint.requests) < 30
    groups = {check["group"] for check in report_of("production")["checks"]}
    assert "golden rows" in groups and "load" not in groups


def test_the_load_test_keeps_no_times(aws: None) -> None:
    tally = load.Tally()
    for number in range(100_000):
        tally.answered(1 + number % 500)
    assert len(tally.times) < 330  # steps of 2 %, whatever the number of requests
    assert tally.percentile(0.5) == pytest.approx(250, rel=0.03)
    assert tally.percentile(0.99) == pytest.approx(495, rel=0.03)
    for number in range(1000):
        tally.failed(f"kind {number}", "x")
    assert len(tally.errors) <= load.MOST_KINDS + 1 and tally.bad == 1000


class Files:
    """S3 and InvokeEndpointAsync of an asynchronous endpoint: the answer is there at the second look."""

    def __init__(self, text: str, where: str = "out") -> None:
        self.text, self.where, self.looks, self.taken, self.stored = text, where, 0, {}, {}

    def put_object(self, **request: Any) -> None:
        self.stored = request

    def invoke_endpoint_async(self, **request: Any) -> dict[str, str]:
        self.taken = request
        return {"OutputLocation": "s3://b/out", "FailureLocation": "s3://b/bad", "InferenceId": "x"}

    def get_object(self, Bucket: str, Key: str) -> dict[str, Any]:  # noqa: N803
        self.looks += 1
        if Key == self.where and self.looks > 3:
            return {"Body": io.BytesIO(self.text.encode())}
        raise ClientError({"Error": {"Code": "NoSuchKey"}}, "GetObject")


def asynchronous(files: Files, patience: float = 30.0) -> AsynchronousClient:
    ticks = iter(range(1000))
    return AsynchronousClient(
        files, files, "e", Counted("r"), "b", "async/staging-requests", KEY, patience,
        lambda: float(next(ticks)), lambda seconds: None,
    )  # fmt: skip


def test_an_asynchronous_endpoint_is_asked_by_files() -> None:
    files = Files("0.25\n")
    assert quality.predict(asynchronous(files), [["40", "1"]])[0] == [0.25]
    assert files.stored["Body"] == b"40,1\n" and files.stored["SSEKMSKeyId"] == KEY
    assert files.taken["InputLocation"] == "s3://b/async/staging-requests/smoke-test-r-1"
    assert files.taken["InferenceId"] == "smoke-test-r-1"


def test_the_failure_file_of_an_asynchronous_endpoint_is_read() -> None:
    refused = 'Received client error (415) from primary with message "{"error": "no"}"'
    answer = asynchronous(Files(refused, "bad")).request("text/plain", b"x")
    assert (answer.status, "no" in answer.body) == (415, True)
    late = asynchronous(Files("", "never"), patience=5.0).request("text/csv", b"x")
    assert (late.status, late.error) == (0, "Timeout")
