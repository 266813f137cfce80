"""A rehearsal through the command that people type, and what its last line tells."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def rehearsed(scenario: str, folder: Path, *arguments: str) -> dict[str, Any]:
    """The last line of `make rehearse JSON=1`, of a rehearsal that passed."""
    # a make inside make would take its flags along
    env = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "AWS_"))
    }
    more = " ".join([f"--folder {folder}", *arguments])
    command = ["make", "--no-print-directory", "rehearse", f"SCENARIO={scenario}", "JSON=1", f"ARGS={more}"]
    done = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True, timeout=1800)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["passed"] is True, json.dumps(found.get("failure"), indent=2)
    return found


def table(result: dict[str, Any], title: str) -> dict[str, Any]:
    """The table of the report whose title begins so."""
    (found,) = [one for one in result["facts"]["tables"] if one["title"].startswith(title)]
    return found
