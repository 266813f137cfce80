"""What a release would change is found out, fits into an approval, and cannot break it."""

from __future__ import annotations

import json
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from mlops_cicd import release_notes
from mlops_cicd.registry import ModelVersion
from mlops_cicd.settings import load_project

from .conftest import BUCKET, ECR, GROUP_ARN, NAME, PROJECT_ID, REGION, Session

LIVE, NEW, SIDE = "a" * 40, "b" * 40, "c" * 40


class CodeCommit:
    """base - live - merge(new): `new` merges a branch that left before live."""

    def __init__(self, subject: str = "Take more rows", fails: bool = False) -> None:
        self.fails, self.asked = fails, []
        tree = {
            "0" * 40: ([], 1, "base"),
            LIVE: (["0" * 40], 2, "live"),
            SIDE: (["0" * 40], 3, subject),
            "d" * 40: ([LIVE], 4, "Another change\n\nwith a body"),
            NEW: (["d" * 40, SIDE], 5, "Merge branch"),
        }
        self.commits = {
            one: {
                "parents": parents,
                "message": message,
                "author": {"name": "jane", "date": f"{at} +0000"},
                "committer": {"name": "jane", "date": f"{at} +0000"},
            }
            for one, (parents, at, message) in tree.items()
        }

    def get_commit(self, repositoryName: str, commitId: str) -> dict[str, Any]:  # noqa: N803
        assert repositoryName == NAME
        self.asked.append(commitId)
        if self.fails:
            raise ClientError(
                {"Error": {"Code": "CommitIdDoesNotExistException", "Message": "no"}}, "GetCommit"
            )
        return {"commit": self.commits[commitId]}

    def get_differences(self, **request: Any) -> dict[str, Any]:
        assert (request["beforeCommitSpecifier"], request["afterCommitSpecifier"]) == (LIVE, NEW)
        blob = {"path": "src/train.py"}
        return {"differences": [{"changeType": "M", "beforeBlob": blob, "afterBlob": blob}]}


class Jobs:
    """The training jobs of the two versions."""

    def describe_training_job(self, TrainingJobName: str) -> dict[str, Any]:  # noqa: N803
        if TrainingJobName == "job-3":
            raise ClientError({"Error": {"Code": "ValidationException", "Message": "gone"}}, "Describe")
        algorithm = "gradient_boosting" if TrainingJobName == "job-2" else "logistic_regression"
        return {
            "TrainingJobArn": f"arn:aws:sagemaker:{REGION}:1:training-job/{TrainingJobName}",
            "AlgorithmSpecification": {"TrainingImage": f"{ECR}/training:1"},
            "HyperParameters": {"algorithm": algorithm},
            "ResourceConfig": {"InstanceType": "ml.m5.large"},
        }


def version(number: int, commit: str = "", **metadata: str) -> ModelVersion:
    """A model version whose files are in the bucket."""
    quality = {"Statistics": {"S3Uri": f"s3://{BUCKET}/{number}/evaluation.json"}}
    return ModelVersion(
        f"{GROUP_ARN}/{number}",
        number,
        {
            "ModelMetrics": {"ModelQuality": quality},
            "CustomerMetadataProperties": {"commit": commit, "retraining_reason": "drift", **metadata},
            "InferenceSpecification": {
                "Containers": [
                    {
                        "Image": f"{ECR}/inference:{number}",
                        "ModelDataUrl": f"s3://{BUCKET}/models/{NAME}/job-{number}/output/model.tar.gz",
                    }
                ]
            },
        },
    )


def put(number: int, auc: float, features: tuple[str, ...] = ("age",)) -> None:
    """What step Evaluate of a version wrote."""
    golden = {
        "features": [{"name": name, "kind": "number"} for name in features],
        "packages": {"python": "3.12"},
        "rows": [{"values": [1] * len(features), "score": 0.5, "why": "x"}],
    }
    for name, content in (("evaluation", {"auc": {"value": auc}}), ("golden", golden)):
        body = json.dumps(content)
        boto3.client("s3").put_object(Bucket=BUCKET, Key=f"{number}/{name}.json", Body=body)


def notes(live: ModelVersion | None = None, **clients: Any) -> dict[str, Any]:
    session = Session(sagemaker=Jobs(), codecommit=clients.get("codecommit") or CodeCommit())
    project = load_project(boto3.client("ssm"), PROJECT_ID, REGION)
    return release_notes.compare(project, version(2, NEW, data_uri=f"s3://{BUCKET}/new"), live, session)


def test_the_new_version_stands_beside_the_live_one(aws: None) -> None:
    put(1, 0.75), put(2, 0.8, ("age", "income"))
    found = notes(version(1, LIVE, data_uri=f"s3://{BUCKET}/old"))
    assert found["metrics"] == [
        {"name": "auc", "new": 0.8, "live": 0.75, "difference": pytest.approx(0.05)},
    ]
    changed = {row["what"]: (row["live"], row["new"]) for row in found["changes"] if row["changed"]}
    assert changed["hyperparameter algorithm"] == ("logistic_regression", "gradient_boosting")
    assert changed["training data"] == (f"s3://{BUCKET}/old", f"s3://{BUCKET}/new")
    assert changed["feature income"] == ("", "number")
    assert "trained on" not in changed
    # what live has too, and merges, are left out; the newest comes first
    assert [(one["id"][0], one["subject"]) for one in found["commits"]] == [
        ("d", "Another change"),
        ("c", "Take more rows"),
    ]
    assert found["files"] == [{"change": "changed", "path": "src/train.py"}]
    text = release_notes.summary(found, "Passed all 20 checks in staging.")
    for words in (
        "Passed all 20 checks",
        "auc 0.800 (0.750 live, +0.050)",
        "Trained because of: drift.",
        "2 commits since version 1",
        "cccccccc jane: Take more rows",
        "hyperparameter algorithm: logistic_regression to gradient_boosting.",
        "Other training data.",
    ):
        assert words in text


def test_the_first_version_has_nothing_beside_it(aws: None) -> None:
    put(2, 0.8)
    found = notes(None)
    assert not any(row["changed"] for row in found["changes"]) and not found["commits"]
    assert "Production runs no version yet" in release_notes.summary(found, "Passed.")


@pytest.mark.parametrize(
    ("live", "codecommit", "remark"),
    [
        (version(1, ""), None, "names no commit"),
        (version(1, NEW), None, "Both versions are of commit bbbbbbbb"),
        (version(1, LIVE), CodeCommit(fails=True), "CommitIdDoesNotExistException"),
        (version(3, LIVE), None, "3/evaluation.json"),
    ],
)
def test_what_cannot_be_found_out_is_said(
    aws: None, live: ModelVersion, codecommit: CodeCommit | None, remark: str
) -> None:
    put(1, 0.75), put(2, 0.8)
    found = notes(live, codecommit=codecommit)
    assert any(remark in one for one in found["remarks"]), found["remarks"]


def test_going_back_has_no_commits(aws: None) -> None:
    found = release_notes.commits_between(CodeCommit(), NAME, LIVE, NEW)
    assert found == ([], False)


def test_a_long_history_is_not_walked_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release_notes, "MOST_LOOKED_AT", 3)
    source = CodeCommit()
    _, more = release_notes.commits_between(source, NAME, NEW, LIVE)
    assert more and len(source.asked) <= 5


@pytest.mark.parametrize("limit", [800, 300, 120, 60])
def test_the_summary_fits_and_keeps_what_matters_most(aws: None, limit: int) -> None:
    put(1, 0.75), put(2, 0.8)
    found = notes(version(1, LIVE, data_uri="x"), codecommit=CodeCommit("long " * 100))
    text = release_notes.summary(found, "Passed all 20 checks in staging.", limit)
    assert len(text) <= limit
    assert text.startswith("Passed all 20 checks in staging.")
    assert limit > 700 or text.endswith("the report has the rest.")


@pytest.mark.parametrize(
    "subject",
    [
        "'; rm -rf / #",
        "#{Select.DEPLOY}",
        '"quoted"\nsecond line',
        "`date` $(date) \\",
        "<b>bold</b>\u202e",
        "{}",
    ],
)
def test_a_commit_message_cannot_break_the_approval(aws: None, subject: str) -> None:
    put(1, 0.75), put(2, 0.8)
    text = release_notes.summary(notes(version(1, LIVE), codecommit=CodeCommit(subject)), "Passed.")
    assert not set(text) & set("#{}'\"`\\<>$\n\u202e")
