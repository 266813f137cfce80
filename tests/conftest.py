"""What every test may use: credentials that open nothing, and a local cloud of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from rehearse.cloud import LocalCloud, client_environment

ROOT = Path(__file__).resolve().parents[1]

# before any test module makes a client: nothing on this machine may lead to a real account
for _name in [name for name in os.environ if name.startswith("AWS_")]:
    del os.environ[_name]
os.environ |= {
    name: value
    for name, value in client_environment(port=1).items()
    if name.startswith("AWS_") and name != "AWS_ENDPOINT_URL"
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole rehearsals first: they take minutes, and nothing may wait for them at the end."""
    items.sort(key=lambda item: "rehearsal" not in item.path.parts)


@pytest.fixture(autouse=True)
def fake_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test starts with credentials that open nothing, whatever the one before it did."""
    for name, value in client_environment(port=1).items():
        if name.startswith("AWS_") and name != "AWS_ENDPOINT_URL":
            monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)


@pytest.fixture(scope="session")
def local_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    """A local cloud for this test session; tests share it, so they name what they make after themselves."""
    with LocalCloud(tmp_path_factory.mktemp("cloud")) as cloud:
        yield cloud


@pytest.fixture
def cloud_session(local_cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch) -> boto3.Session:
    """A boto3 session of the local cloud."""
    for name, value in local_cloud.environment().items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    return boto3.Session()
