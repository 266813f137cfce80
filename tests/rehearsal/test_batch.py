"""Scenario batch as people start it: each row is seen once, whatever is stopped in between."""

from __future__ import annotations

from typing import Any

import pytest

from rehearsed import rehearsed

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The last line of `make rehearse SCENARIO=batch JSON=1`."""
    return rehearsed("batch", tmp_path_factory.mktemp("batch"))


def test_what_was_stopped_was_done_by_another_job(result: dict[str, Any]) -> None:
    assert sorted(result["facts"]["stopped"].values()) == ["Completed", "Stopped"]


def test_the_monitors_read_what_readers_see(result: dict[str, Any]) -> None:
    records = result["facts"]["records"]
    assert records["data_quality"] > 400 and records["model_quality"] >= 400
