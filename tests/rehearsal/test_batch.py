"""Scenario batch as people start it: each row is seen once, whatever is stopped in between."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.long
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The last line of `make rehearse SCENARIO=batch JSON=1`."""
    folder = tmp_path_factory.mktemp("batch")
    env = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "AWS_"))
    }
    command = ["make", "--no-print-directory", "rehearse", "SCENARIO=batch", "JSON=1"]
    command += [f"ARGS=--folder {folder}"]
    done = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True, timeout=1200)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["passed"] is True, json.dumps(found.get("failure"), indent=2)
    return found


def test_what_was_stopped_was_done_by_another_job(result: dict[str, Any]) -> None:
    assert sorted(result["facts"]["stopped"].values()) == ["Completed", "Stopped"]


def test_the_monitors_read_what_readers_see(result: dict[str, Any]) -> None:
    records = result["facts"]["records"]
    assert records["data_quality"] > 400 and records["model_quality"] >= 400
