"""Scenario drift as people start it: the right monitors fire, one retraining follows each, and the rates."""

from __future__ import annotations

from typing import Any

import pytest

from rehearse import drifts
from rehearsed import rehearsed, table

pytestmark = pytest.mark.long
SEEDS = 5  # people get twenty; each takes eight seconds of a core


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The last line of `make rehearse SCENARIO=drift JSON=1`."""
    return rehearsed("drift", tmp_path_factory.mktemp("drift"), f"--seeds {SEEDS}")


def test_exactly_the_right_monitors_fired(result: dict[str, Any]) -> None:
    found = {title.replace(" ", "_"): set(kinds) for title, kinds in result["facts"]["monitors"].items()}
    assert found == {name: set(kinds) for name, kinds in drifts.EXPECTED.items()}


def test_each_monitor_that_fired_was_told_once(result: dict[str, Any]) -> None:
    fired = sum(len(kinds) for kinds in result["facts"]["monitors"].values())
    assert len(result["facts"]["mails"]) == fired > 0


def test_the_rates_are_stated_for_every_kind_of_hour_and_monitor(result: dict[str, Any]) -> None:
    rates = table(result, "How often each monitor fired")
    assert rates["head"] == ["hour", *drifts.KINDS]
    assert [row[0] for row in rates["rows"]] == list(drifts.EXPECTED)
    assert all(cell.endswith(f" of {SEEDS}") for row in rates["rows"] for cell in row[1:])
    assert "False alarm rate" in rates["lead"]
    assert "miss rate" in rates["lead"]
