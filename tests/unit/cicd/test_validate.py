"""Stage Validate stops a broken project before anything is built."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlops_cicd import validate


def run_with(code: int, calls: list[Any] | None = None) -> Any:
    def run(command: list[str], **options: Any) -> Any:
        if calls is not None:
            calls.append((command, options))
        return SimpleNamespace(returncode=code)

    return run


def test_a_right_project_passes(project_dir: Path) -> None:
    assert validate.main(["--project-dir", str(project_dir)]) == 0


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("pipeline.py", None, "no pipeline.py"),
        ("containers/training/Dockerfile", None, "no containers/training/Dockerfile"),
        ("data/rows.csv", None, "data.source is data/rows.csv; the repository has no such file"),
        ("data/rows.csv", "a,b\n1,2\n", 'data.target is "label"; data/rows.csv has the columns "a", "b"'),
        ("mlops.yml", "version: 1\n", "mlops.yml has 8 mistake(s)"),
    ],
)
def test_what_is_missing_is_named(
    project_dir: Path, capsys: pytest.CaptureFixture[str], path: str, content: str | None, message: str
) -> None:
    if content is None:
        (project_dir / path).unlink()
    else:
        (project_dir / path).write_text(content)
    assert validate.main(["--project-dir", str(project_dir)]) == 1
    assert message in capsys.readouterr().err


def test_tests_of_code_and_data_run_without_these_scripts_on_the_path(
    project_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    for folder in ("code", "data", "model"):
        (project_dir / "tests" / folder).mkdir(parents=True)
    calls: list[Any] = []
    assert validate.main(["--project-dir", str(project_dir), "--tests"], run=run_with(0, calls)) == 0
    ((command, options),) = calls
    assert command[-2:] == ["tests/code", "tests/data"]
    assert options["cwd"] == project_dir
    assert "PYTHONPATH" not in options["env"]


@pytest.mark.parametrize(
    ("code", "message"), [(1, "the project's tests failed (pytest ended with 1)"), (5, "hold no test")]
)
def test_failing_and_absent_tests_stop_the_build(
    project_dir: Path, capsys: pytest.CaptureFixture[str], code: int, message: str
) -> None:
    (project_dir / "tests/code").mkdir(parents=True)
    assert validate.main(["--project-dir", str(project_dir), "--tests"], run=run_with(code)) == 1
    assert message in capsys.readouterr().err


def test_a_real_failing_test_is_shown(project_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (project_dir / "tests/code").mkdir(parents=True)
    (project_dir / "tests/code/test_x.py").write_text("def test_sum():\n    assert 1 + 1 == 3\n")
    assert validate.main(["--project-dir", str(project_dir), "--tests"], run=subprocess.run) == 1
    assert "test_sum" in capfd.readouterr().out


def test_the_seed_project_is_valid(seed_project: Path) -> None:
    assert validate.main(["--project-dir", str(seed_project)]) == 0
