"""Every custom resource answers CloudFormation exactly once, whatever happens, and logs no event."""

from __future__ import annotations

import ast
import json
import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

LAMBDA = Path(__file__).resolve().parents[3] / "mlops-cfn" / "lambda"
CUSTOM_RESOURCES = sorted(p.parent.name for p in LAMBDA.glob("*/index.py") if "ResponseURL" in p.read_text())


class Context:
    """What Lambda tells of the time that is left."""

    def get_remaining_time_in_millis(self) -> int:
        return 60_000


class Answer:
    """What urlopen returns."""

    status = 200

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *_: object) -> None:
        return None


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    def urlopen(request: Any, timeout: float) -> Answer:
        assert request.get_method() == "PUT"
        assert request.headers["Content-type"] == ""
        sent.append({"url": request.full_url, **json.loads(request.data)})
        return Answer()

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    return sent


@pytest.mark.parametrize("name", CUSTOM_RESOURCES)
def test_success_is_answered_once(
    name: str, load: Callable, event: Callable, answers: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = load(name)
    monkeypatch.setattr(module, "on_event", lambda *_: ("id-1", {"Key": "value"}))
    module.handler(event("Create"), Context())
    assert answers == [
        {
            "url": "https://example.invalid/answer?signature=secret",
            "StackId": "arn:aws:cloudformation:us-east-1:123456789012:stack/s/1",
            "RequestId": "r-1",
            "LogicalResourceId": "Thing",
            "PhysicalResourceId": "id-1",
            "Data": {"Key": "value"},
            "Status": "SUCCESS",
        }
    ]


@pytest.mark.parametrize("name", CUSTOM_RESOURCES)
@pytest.mark.parametrize(
    ("physical", "expected"), [(None, "r-1"), ("old-id", "old-id")], ids=["create", "delete"]
)
def test_failure_is_answered_once(
    name: str,
    physical: str | None,
    expected: str,
    load: Callable,
    event: Callable,
    answers: list,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any) -> None:
        raise LookupError("no such thing" + "!" * 5000)

    module = load(name)
    monkeypatch.setattr(module, "on_event", fail)
    module.handler(event("Delete" if physical else "Create", physical), Context())
    (answer,) = answers
    assert answer["Status"] == "FAILED"
    assert answer["Reason"].startswith("LookupError: no such thing")
    assert answer["PhysicalResourceId"] == expected
    assert len(json.dumps(answer)) < 4096, "CloudFormation takes no longer answer"


@pytest.mark.parametrize("name", CUSTOM_RESOURCES)
def test_missing_properties_are_answered(name: str, load: Callable, event: Callable, answers: list) -> None:
    load(name).handler(event("Create"), Context())
    assert [answer["Status"] for answer in answers] == ["FAILED"]


@pytest.mark.parametrize("name", CUSTOM_RESOURCES)
def test_log_holds_neither_signature_nor_properties(
    name: str,
    load: Callable,
    event: Callable,
    answers: list,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    module = load(name)
    monkeypatch.setattr(module, "on_event", lambda *_: ("id-1", {}))
    with caplog.at_level(logging.INFO):
        module.handler(event("Create", Secret="do not log"), Context())
    assert "Create Thing" in caplog.text
    assert "signature" not in caplog.text
    assert "do not log" not in caplog.text


def test_the_way_to_answer_is_the_same_everywhere() -> None:
    """Each function is packaged alone, so the dozen lines are repeated; they must not drift apart."""
    bodies = {
        re.search(r"^def send\(.*", (LAMBDA / name / "index.py").read_text(), re.S | re.M)[0]
        for name in CUSTOM_RESOURCES
    }
    assert len(bodies) == 1


@pytest.mark.parametrize("path", sorted(LAMBDA.glob("*/*.py")), ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_only_the_standard_library_and_boto3(path: Path) -> None:
    tree = ast.parse(path.read_text())
    imported = {a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    imported |= {(n.module or "").split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    beside = {one.stem for one in path.parent.glob("*.py")}
    assert imported - beside <= sys.stdlib_module_names | {"boto3", "botocore"}
    assert not beside & sys.stdlib_module_names, "a module of the function's own hides one of Python's"


def module_level_clients(module: ModuleType) -> list[str]:
    return [
        name for name, value in vars(module).items() if type(value).__module__.startswith("botocore.client")
    ]


@pytest.mark.parametrize("name", sorted(p.parent.name for p in LAMBDA.glob("*/index.py")))
def test_no_client_is_made_on_import(name: str, load: Callable) -> None:
    assert module_level_clients(load(name)) == []
