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

from .conftest import BUCKET, GROUP_ARN, NAME, PROJECT_ID, Session

ARN = f"{GROUP_ARN}/4"


class Endpoint:
    """sagemaker-runtime with a model that knows the label: rows of age 40 are bad."""

    def __init__(self, mode: str = "good", clock: list[float] | None = None) -> None:
        self.mode, self.requests, self.clock = mode, [], clock or [0.0]

    def invoke_endpoint(self, **request: Any) -> dict[str, Any]:
        self.requests.append(request)
        self.clock[0] += 5.0 if self.mode == "slow" else 0.01
        if self.mode == "error":
            raise ClientError(
                {
                    "Error": {"Code": "ModelError", "Message": "Received server error (500)"},
                    "OriginalStatusCode": 500,
                    "OriginalMessage": "KeyError: 'age'",
                },
                "InvokeEndpoint",
            )
        rows = list(csv.reader(io.StringIO(request["Body"].decode())))
        scores = [0.2 + 0.6 * (row[0] == "40") for row in rows]
        if self.mode == "constant":
            scores = [0.5] * len(rows)
        elif self.mode == "inverted":
            scores = [1 - score for score in scores]
        elif self.mode == "logits":
            scores = [score * 10 for score in scores]
        elif self.mode == "shuffled":
            scores = scores[::-1] if len(scores) > 1 else [0.9]
        elif self.mode == "short":
            scores = scores[:-1]
        text = "\n".join(f"{score},x" if self.mode == "wide" else str(score) for score in scores)
        return {"Body": io.BytesIO(("bad" if self.mode == "text" else text).encode())}


class SageMaker:
    def __init__(self, status: str = "InService", metrics: bool = True) -> None:
        self.status, self.metrics = status, metrics

    def describe_endpoint(self, EndpointName: str) -> dict[str, str]:  # noqa: N803
        assert EndpointName == f"{NAME}-staging"
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
) -> int:
    evaluation = {"binary_classification_metrics": {"auc": {"value": auc, "standard_deviation": 0.02}}}
    boto3.client("s3").put_object(Bucket=BUCKET, Key="evaluation.json", Body=json.dumps(evaluation))
    session = Session(
        sagemaker=sagemaker or SageMaker(), cloudformation=stacks or Stacks(), sagemaker_runtime=endpoint
    )
    argv = ["--project-id", PROJECT_ID, "--project-dir", str(project_dir), "--stage", "staging"]
    return smoke_test.main([*argv, "--model-package-arn", ARN], session, lambda: endpoint.clock[0])


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
        ("short", "the endpoint answered 0 rows"),
        ("wide", "rows of [2] values; required: one number a row"),
        ("text", "the endpoint answered 'bad'; required: one number a row"),
        ("slow", "latency, 95th percentile is 5000 ms, required: up to 2000 ms"),
        ("error", "answered 500 ModelError: KeyError: 'age' (its log: /aws/sagemaker/Endpoints/"),
    ],
)
def test_a_wrong_endpoint_fails_and_says_how(
    aws: None, project_dir: Path, capsys: pytest.CaptureFixture[str], mode: str, message: str
) -> None:
    assert run(project_dir, Endpoint(mode)) == 1
    assert message in capsys.readouterr().err


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
        assert smoke_test.auc(scores, positive) == pytest.approx(metrics.roc_auc_score(positive, scores))
        for name, oracle in {
            "accuracy": metrics.accuracy_score,
            "precision": metrics.precision_score,
            "recall": metrics.recall_score,
            "f1": metrics.f1_score,
        }.items():
            assert smoke_test.measure(name, scores, positive) == pytest.approx(oracle(positive, guesses))


def test_the_sample_is_spread_over_the_data() -> None:
    text = "x,label\n" + "".join(f"{number},{number % 2}\n" for number in range(1200))
    sample = smoke_test.read_sample(text, "label", "1", limit=500)
    assert len(sample.features) == 400
    assert sample.features[-1] == ["1197"]
    assert sum(sample.positive) == 200
    with pytest.raises(Fault, match="no column target"):
        smoke_test.read_sample(text, "target", "1")


@pytest.mark.parametrize(
    ("found", "wanted", "same"), [("1", "1.0", True), ("bad", "bad", True), ("2", "1", False)]
)
def test_labels_are_compared_as_values(found: str, wanted: str, same: bool) -> None:
    assert smoke_test.same_label(found, wanted) is same
