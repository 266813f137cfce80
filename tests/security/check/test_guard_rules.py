"""Every own Guard rule lets good templates pass and finds each bad one; guard/<rule>.yaml has the cases."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

HERE = Path(__file__).parent
RULES = HERE.parents[2] / "scripts/check/rules"
CASES: dict[str, list[dict[str, Any]]] = {
    path.stem: yaml.safe_load(path.read_text()) for path in sorted((HERE / "guard").glob("*.yaml"))
}
EACH = [
    pytest.param(rule, index, id=f"{rule}-{case['case']}")
    for rule, cases in CASES.items()
    for index, case in enumerate(cases)
]


@pytest.fixture(scope="module")
def answers(scanners: Callable[..., subprocess.CompletedProcess[str]]) -> dict[str, list[list[str]]]:
    given = {rule: [case["resources"] for case in cases] for rule, cases in CASES.items()}
    done = scanners(str(HERE / "judge_cases.py"), given=json.dumps(given))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(("rule", "index"), EACH)
def test_case(answers: dict[str, list[list[str]]], rule: str, index: int) -> None:
    found = answers[rule][index]
    if CASES[rule][index]["expect"] == "pass":
        assert found == []
    else:
        assert found


def test_every_rule_has_good_and_bad_cases() -> None:
    assert {path.stem for path in RULES.glob("*.guard")} == CASES.keys()
    for rule, cases in CASES.items():
        assert {case["expect"] for case in cases} == {"pass", "fail"}, rule


def test_every_clause_says_what_is_wanted() -> None:
    """The engine shows the first message of a rule, so a clause without one would speak for another."""
    for path in RULES.glob("*.guard"):
        assert path.read_text().startswith("# "), path.name
        assert "<<" in path.read_text(), path.name
