"""The rehearsal itself, through the command that people type: every use case, on a cloud of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from rehearse import leaks
from statements import __main__ as statements

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What `make rehearse JSON=1` prints."""
    folder = tmp_path_factory.mktemp("rehearsal")
    # a make inside make would take its flags along
    env = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "AWS_"))
    }
    command = ["make", "--no-print-directory", "rehearse", "JSON=1", f"ARGS=--folder {folder}"]
    done = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True, timeout=900)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert found, "make rehearse printed nothing"
    # the failure says more than an exit code
    assert found[-1]["passed"] is True, json.dumps(found[-1].get("failure"), indent=2)
    assert done.returncode == 0
    return found


@pytest.fixture(scope="module")
def result(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """The last line."""
    return lines[-1]


def test_no_secret_lies_in_what_it_left_or_said(lines: list[dict[str, Any]], result: dict[str, Any]) -> None:
    """The rehearsal itself searched the cloud; this searches report, log and what was printed."""
    folder = Path(result["report"]).parent
    secrets = json.loads((folder / leaks.FILE).read_text())
    assert len(secrets) > 100
    assert [secret for secret in secrets if secret in json.dumps(lines)] == []
    # the cloud's home holds what builds and jobs have while they run, which AWS throws away
    found = leaks.in_files(folder, secrets, beside=("cloud/",))
    # `aws codeartifact login` writes its token, good for 12 hours, where pip reads it: in a home
    in_a_home = re.compile(r"homes/[^/]+/[^/]+/\.config/pip/pip\.conf")
    assert [name for name in found if not in_a_home.fullmatch(name)] == []


def test_the_search_of_files_finds_a_secret(tmp_path: Path) -> None:
    (tmp_path / "cloud").mkdir()
    for name in ("cloud/allowed", "cloud.log", leaks.FILE):
        (tmp_path / name).write_text("x the-secret x")
    (tmp_path / "report.html").write_text("nothing")
    assert leaks.in_files(tmp_path, ["the-secret"], beside=("cloud/",)) == ["cloud.log"]


def test_all_seven_use_cases_and_the_teardown_passed(result: dict[str, Any]) -> None:
    assert list(result["use_cases"]) == [*"ABCDEFG", "–"]
    assert all(case["passed"] for case in result["use_cases"].values())


def test_every_line_is_an_event_with_its_place(lines: list[dict[str, Any]]) -> None:
    assert {line["event"] for line in lines} == {"use_case", "step", "result"}
    assert all("case" in line for line in lines[:-1])
    assert max(line.get("resources", 0) for line in lines) > 150


def test_the_model_is_as_good_as_its_configuration_demands(result: dict[str, Any]) -> None:
    parts = ROOT.glob("seedcode-repo/**/mlops.part.yml")
    threshold = next(
        found["evaluation"]["threshold"]
        for found in map(yaml.safe_load, map(Path.read_text, parts))
        if "evaluation" in found
    )
    assert result["facts"]["model"]["metrics"]["auc"] >= threshold


def test_drifted_traffic_is_told_from_clean_traffic(result: dict[str, Any]) -> None:
    monitors = result["facts"]["monitors"]
    assert monitors["clean"] == []
    assert "data_quality" in monitors["unit change"]
    mails = result["facts"]["mails"]
    assert len(mails) == len(monitors["unit change"])
    assert all("Drift in production" in subject for subject in mails)


def test_the_report_is_one_file_that_loads_nothing(result: dict[str, Any]) -> None:
    page = Path(result["report"]).read_text()
    assert not re.search(r"<(script|link|img|iframe)\b|@import|url\(|src=", page)
    for title in ("Timeline", "Model", "Drift", "Resources by stack", "Left after the teardown"):
        assert f"<h2>{title}</h2>" in page
    for item in yaml.safe_load((ROOT / "docs/limits.yml").read_text()):
        assert item["area"] in page


def place(step: str) -> str:
    """Where a step stands in the story: the first build begins with the repository and runs beside B to E."""
    return "B to E" if step[0] in "BCDE" else step[0]


def test_each_statement_of_the_list_is_missed_when_it_is_gone(result: dict[str, Any]) -> None:
    """Sixty statements, decided again one at a time: the named step would be denied the named action."""
    rows = yaml.safe_load(statements.LIST.read_text())
    assert len(rows) == statements.LENGTH
    needed = statements.needed(Path(result["report"]).with_name("evidence.json"))
    wrong = [
        row
        for row in rows
        if row["action"] not in needed.get(row["statement"], {}).get("actions", [])
        or place(row["step"]) != place(needed[row["statement"]]["step"])
    ]
    assert wrong == []


def test_a_rehearsal_without_a_statement_fails_and_names_what_was_denied(tmp_path: Path) -> None:
    """One of the list that an early step needs; `make statements ARGS='--live 0'` tries all."""
    rows = yaml.safe_load(statements.LIST.read_text())
    early = next(row for row in rows if row["step"].startswith("B: "))
    assert statements.live(early, tmp_path) == ""
