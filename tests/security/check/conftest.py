"""The scanners live in an environment of their own; tests ask them through a process."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PYTHON = ROOT / ".venv-check/bin/python"


@pytest.fixture(scope="session")
def scanners() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run Python in the scanners' environment with the repository's scripts on its path."""
    assert PYTHON.exists(), "the scanners are not installed: run `make check` once"

    def run(*arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(PYTHON), *arguments],
            input=given,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT / "scripts"), "COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=600,
        )

    return run
