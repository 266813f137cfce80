"""The engine without a cloud: what a scenario's failure becomes, and what people and machines are shown."""

from __future__ import annotations

import io
import json
import types
from pathlib import Path
from typing import Any

import pytest

import account
from rehearse import __main__ as command
from rehearse import engine, progress, story
from rehearse.engine import Failure, Rehearsal


class NoCloud:
    """A cloud that needs no process."""

    def __init__(self, folder: Path, port: int | None = None) -> None:
        self.log, self.process = folder / "cloud.log", None
        self.stopped = False

    def start(self, waiting: Any = None) -> NoCloud:
        return self

    def environment(self) -> dict[str, str]:
        return {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}

    def last_words(self) -> str:
        return ""

    def control(self, name: str) -> list[dict[str, str]]:
        return [{"message": "User: jane may not"}] if name == "denials" else []

    def is_healthy(self) -> bool:
        return False

    def stop(self) -> None:
        self.stopped = True


class NoCensus:
    """Counts nothing."""

    def __init__(self, session: Any) -> None:
        self.stacks: dict[str, Any] = {}
        self.ended = types.SimpleNamespace(set=lambda: None)

    def start(self) -> None:
        """Nothing to start."""

    def totals(self) -> dict[str, int]:
        return {"stacks": 0, "resources": 0, "pending": 0}


@pytest.fixture
def rehearse(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Run a scenario given as a function; returns its events."""
    monkeypatch.setattr(engine, "LocalCloud", NoCloud)
    monkeypatch.setattr(engine, "Census", NoCensus)

    def run(scenario: Any) -> list[dict[str, Any]]:
        monkeypatch.setattr(engine, "load", lambda name: types.SimpleNamespace(run=scenario))
        out = io.StringIO()
        engine.rehearse("test", progress.JsonProgress(out), tmp_path)
        return [json.loads(line) for line in out.getvalue().splitlines()]

    return run


def test_a_passing_scenario_reports_its_use_cases(rehearse: Any) -> None:
    def scenario(r: Rehearsal) -> None:
        with r.use_case("A", "deploy"), r.step("publish") as step:
            step.say("23 objects")

    events = rehearse(scenario)
    assert events[-1]["passed"] is True
    assert events[-1]["use_cases"]["A"]["passed"] is True
    assert [event["detail"] for event in events if event["event"] == "step" and event["state"] == "done"] == [
        "23 objects"
    ]


def test_a_failure_names_use_case_step_reason_and_where_to_look(rehearse: Any) -> None:
    def scenario(r: Rehearsal) -> None:
        with r.use_case("A", "deploy"), r.step("launch 1-infra"):
            raise account.FailedError(
                "stack x ended as ROLLBACK_COMPLETE", ["Vpc: limit exceeded"], "aws cloudformation …"
            )

    events = rehearse(scenario)
    failure = events[-1]["failure"]
    assert "use case A (deploy), step “launch 1-infra”" in failure["where"]
    assert failure["message"] == "stack x ended as ROLLBACK_COMPLETE"
    assert failure["reasons"] == ["Vpc: limit exceeded", "denied: User: jane may not"]
    assert failure["look_at"] == "aws cloudformation …"
    assert events[-1]["use_cases"]["A"]["passed"] is False
    assert Path(events[-1]["report"]).read_text().count("Vpc: limit exceeded") == 1


def test_a_failed_command_is_named_with_the_end_of_its_output(rehearse: Any, tmp_path: Path) -> None:
    def scenario(r: Rehearsal) -> None:
        with r.use_case("E", "train"), r.step("push"):
            r.run(["sh", "-c", "echo remote: no such branch; exit 3"], tmp_path, {"PATH": "/usr/bin:/bin"})

    failure = rehearse(scenario)[-1]["failure"]
    assert failure["message"].endswith("ended with exit code 3")
    assert failure["reasons"] == ["remote: no such branch", "denied: User: jane may not"]


def test_a_fault_of_the_rehearsal_is_a_finding_too(rehearse: Any) -> None:
    def scenario(r: Rehearsal) -> None:
        raise KeyError("profile-name")

    failure = rehearse(scenario)[-1]["failure"]
    assert failure["message"] == "KeyError: 'profile-name'"
    assert any("in scenario" in line for line in failure["reasons"])


def test_a_check_that_does_not_hold_stops_the_scenario(rehearse: Any) -> None:
    def scenario(r: Rehearsal) -> None:
        with r.use_case("G", "monitor"):
            with r.step("clean traffic"):
                r.check(False, "clean traffic gave 2 violations")
            raise AssertionError("a step after a failed one ran")

    assert rehearse(scenario)[-1]["failure"]["message"] == "clean traffic gave 2 violations"


def test_waiting_ends_with_a_sentence() -> None:
    with pytest.raises(account.FailedError, match="the alarm: not done after 0 s"):
        account.poll("the alarm", lambda: None, timeout=0, every=0)


def test_each_scenario_says_what_it_shows() -> None:
    found = engine.available()
    assert {"api", "full", "broken-commits", "approvals", "two-projects"} <= set(found)
    assert all(description.endswith(".") for description in found.values())
    assert all(callable(engine.load(name).run) for name in found)


def test_an_unknown_scenario_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["no-such-scenario", "--json"]) == 2
    assert f"scenarios: {', '.join(sorted(engine.available()))}" in capsys.readouterr().err


def test_people_read_the_verdict_without_scrolling() -> None:
    result = {
        "use_cases": {"A": {"title": "deploy", "passed": False, "seconds": 3.0}},
        "failure": {
            "where": "use case A",
            "message": "stack x failed",
            "reasons": ["Vpc: limit"],
            "look_at": "aws …",
        },
        "seconds": 3,
        "report": "report.html",
    }
    text = "\n".join(progress.verdict(result))
    assert "✘ A  deploy" in text
    assert text.index("stack x failed") < text.index("Vpc: limit") < text.index("look at: aws …")


def test_a_failure_keeps_the_step_in_which_it_happened(rehearse: Any) -> None:
    def scenario(r: Rehearsal) -> None:
        with r.use_case("B", "project"), r.step("outer"), r.step("inner"):
            raise Failure("no")

    assert "“inner”" in rehearse(scenario)[-1]["failure"]["where"]


def test_metrics_are_read_from_model_monitors_format() -> None:
    report = {
        "version": 0.0,
        "dataset": {"item_count": 200},
        "binary_classification_metrics": {
            "confusion_matrix": {"0": {"0": 120, "1": 20}, "1": {"0": 30, "1": 30}},
            "auc": {"value": 0.78, "standard_deviation": 0.02},
            "accuracy": {"value": 0.75, "standard_deviation": 0.03},
            "accuracy_best_constant_classifier": {"value": 0.7},
        },
    }
    assert story.metrics_of(report) == {"auc": 0.78, "accuracy": 0.75}
