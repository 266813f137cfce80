"""Loads the functions of mlops-cfn/lambda, each from its folder; gives them stubbed clients."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

LAMBDA = Path(__file__).resolve().parents[3] / "mlops-cfn" / "lambda"
FUNCTIONS = sorted(path.parent.name for path in LAMBDA.glob("*/index.py"))


@pytest.fixture(autouse=True)
def fake_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    def load_function(name: str) -> ModuleType:
        for beside in (LAMBDA / name).glob("*.py"):  # Lambda has a function's own folder on the path
            monkeypatch.delitem(sys.modules, beside.stem, raising=False)
        monkeypatch.syspath_prepend(LAMBDA / name)
        spec = importlib.util.spec_from_file_location(f"function_{name}", LAMBDA / name / "index.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
        spec.loader.exec_module(module)
        return module

    return load_function


class Stub:
    """A client whose calls must come exactly as expected, in order, with these parameters."""

    def __init__(self, service: str) -> None:
        self.client = boto3.client(service)
        self.stubber = Stubber(self.client)
        self.stubber.activate()

    def expect(self, operation: str, answer: dict[str, Any] | None = None, /, **request: Any) -> Stub:
        self.stubber.add_response(operation, answer or {}, request)
        return self

    def fail(self, operation: str, code: str, message: str = "", /, **request: Any) -> Stub:
        self.stubber.add_client_error(operation, code, message, expected_params=request)
        return self


@pytest.fixture
def stub(fake_credentials: None) -> Iterator[Callable[[str], Stub]]:
    made: list[Stub] = []

    def make(service: str) -> Stub:
        made.append(Stub(service))
        return made[-1]

    yield make
    for each in made:
        each.stubber.assert_no_pending_responses()


@pytest.fixture
def event() -> Callable[..., dict[str, Any]]:
    """An event as CloudFormation sends it to a custom resource."""

    def make(request: str, physical: str | None = None, **properties: str) -> dict[str, Any]:
        made = {
            "RequestType": request,
            "ResponseURL": "https://example.invalid/answer?signature=secret",
            "StackId": "arn:aws:cloudformation:us-east-1:123456789012:stack/s/1",
            "RequestId": "r-1",
            "LogicalResourceId": "Thing",
            "ResourceType": "Custom::Thing",
            "ResourceProperties": {"ServiceToken": "arn", **properties},
        }
        return made | ({"PhysicalResourceId": physical} if physical else {})

    return make
