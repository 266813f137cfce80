"""A person says why, and the workflow is started with just that."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest

import account
import retrain

MACHINE = "arn:aws:states:eu-west-1:123456789012:stateMachine:mlops-p-abcdefghijkl-retraining"


class States:
    def __init__(self, *ends: dict[str, Any]) -> None:
        self.ends, self.started = list(ends), {}

    def start_execution(self, **arguments: Any) -> dict[str, str]:
        self.started = arguments
        return {"executionArn": "arn:execution"}

    def describe_execution(self, executionArn: str) -> dict[str, Any]:
        return self.ends.pop(0)


class Session:
    def __init__(self, states: States) -> None:
        self.states = states

    def client(self, name: str) -> Any:
        return self.states if name == "stepfunctions" else name


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """A project called churn."""
    monkeypatch.setattr(account, "project_id", lambda client, name: {"churn": "p-abcdefghijkl"}[name])
    monkeypatch.setattr(account, "project", lambda client, found: {"retraining-state-machine-arn": MACHINE})


def test_the_reason_is_what_the_person_says(known: None, capsys: pytest.CaptureFixture[str]) -> None:
    states = States()
    argv = [
        "--project",
        "churn",
        "--why",
        "labels of\n October  are in " + "x" * 300,
        "--data",
        "s3://b/new/",
    ]
    assert retrain.main(argv, Session(states)) == 0
    given = json.loads(states.started["input"])
    assert (states.started["stateMachineArn"], states.started["name"]) == (MACHINE, given["id"])
    assert (given["kind"], given["data_uri"]) == ("person", "s3://b/new/")
    assert given["detail"].startswith("labels of October are in xxx") and len(given["detail"]) == 200
    assert datetime.strptime(given["time"], "%Y-%m-%dT%H:%M:%SZ")
    assert len(states.started["name"]) <= 80, "as long as a name of an execution may be"
    assert json.loads(capsys.readouterr().out) == {"execution": "arn:execution"}


def test_two_persons_are_two_reasons() -> None:
    assert retrain.reason("x")["id"] != retrain.reason("x")["id"] and "data_uri" not in retrain.reason("x")


@pytest.mark.parametrize(("result", "code"), [("trained", 0), ("joined", 3)])
def test_the_end_is_waited_for(
    known: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, result: str, code: int
) -> None:
    monkeypatch.setattr(retrain.finished, "__defaults__", (lambda seconds: None,))
    over = {"status": "SUCCEEDED", "output": json.dumps({"result": result, "model_package_arn": "arn:m/3"})}
    states = States({"status": "RUNNING"}, over)
    assert retrain.main(["--project", "churn", "--why", "x", "--wait"], Session(states)) == code
    assert json.loads(capsys.readouterr().out)["model_package_arn"] == "arn:m/3"


def test_a_failed_retraining_is_told(known: None, capsys: pytest.CaptureFixture[str]) -> None:
    states = States({"status": "FAILED", "cause": "auc is 0.6"})
    assert retrain.main(["--project", "churn", "--why", "x", "--wait"], Session(states)) == 1
    assert "retrain: the retraining ended as FAILED: auc is 0.6" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["--why", " "], ["--why", "x", "--data", "/tmp/x.csv"], []])
def test_what_is_missing_is_said(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        retrain.main(["--project", "churn", *argv], Session(States()))
    assert ended.value.code == 2 and "--" in capsys.readouterr().err
