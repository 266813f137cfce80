"""Scenario drift as people start it: the right monitors fire, one retraining follows each, and the rates."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from rehearse import drifts

pytestmark = pytest.mark.long
ROOT = Path(__file__).resolve().parents[2]
SEEDS = 5  # people get twenty; each takes eight seconds of a core


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The last line of `make rehearse SCENARIO=drift JSON=1`."""
    folder = tmp_path_factory.mktemp("drift")
    env = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "AWS_"))
    }
    command = ["make", "--no-print-directory", "rehearse", "SCENARIO=drift", "JSON=1"]
    command += [f"ARGS=--folder {folder} --seeds {SEEDS}"]
    done = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True, timeout=1200)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["passed"] is True, json.dumps(found.get("failure"), indent=2)
    return found


def test_exactly_the_right_monitors_fired(result: dict[str, Any]) -> None:
    found = {title.replace(" ", "_"): set(kinds) for title, kinds in result["facts"]["monitors"].items()}
    assert found == {name: set(kinds) for name, kinds in drifts.EXPECTED.items()}


def test_each_monitor_that_fired_was_told_once(result: dict[str, Any]) -> None:
    fired = sum(len(kinds) for kinds in result["facts"]["monitors"].values())
    assert len(result["facts"]["mails"]) == fired > 0


def test_the_rates_are_stated_for_every_kind_of_hour_and_monitor(result: dict[str, Any]) -> None:
    (table,) = result["facts"]["tables"]
    assert table["head"] == ["hour", *drifts.KINDS]
    assert [row[0] for row in table["rows"]] == list(drifts.EXPECTED)
    assert all(cell.endswith(f" of {SEEDS}") for row in table["rows"] for cell in row[1:])
    assert "False alarm rate" in table["lead"]
    assert "miss rate" in table["lead"]
