"""Scenario accounts as people start it, and each grant between the accounts decided again without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from rehearse.scenarios import accounts
from rehearsed import rehearsed, table
from statements import __main__ as statements

ROOT = Path(__file__).resolve().parents[2]
GRANTS = yaml.safe_load((ROOT / "tests/security/cross_account.yml").read_text())
ALARMS = [row for row in GRANTS if row.get("by") == "an alarm"]
ASKED = [row for row in GRANTS if "not_in_the_scenario" not in row and row not in ALARMS]


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The last line of `make rehearse SCENARIO=accounts JSON=1`."""
    return rehearsed("accounts", tmp_path_factory.mktemp("accounts"))


@pytest.fixture(scope="module")
def needed(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Statements without which something of the scenario is denied."""
    evidence = Path(result["report"]).parent / accounts.EVIDENCE
    return statements.needed(evidence, statements.templates.ELSEWHERE)


@pytest.mark.parametrize("row", ASKED, ids=[row["statement"] for row in ASKED])
def test_without_the_grant_this_is_denied(needed: dict[str, dict[str, Any]], row: dict[str, str]) -> None:
    assert row["action"] in needed[row["statement"]]["actions"]


def test_releases_without_a_grant_failed_and_said_which(result: dict[str, Any]) -> None:
    """Three live ones: the scenario itself checks that the message has action, principal and resource."""
    refused = table(result, "Releases without a grant")["rows"]
    assert [row[0] for row in refused] == [
        "StagingReadsArtifacts",
        "StagingOpensArtifacts",
        "StagingMakesModels",
    ]
    assert all("is not authorized to perform" in row[1] for row in refused)


def test_alarms_without_a_grant_were_not_heard(result: dict[str, Any]) -> None:
    taken_away = {row[0] for row in table(result, "Alarms without a grant")["rows"]}
    assert taken_away == {row["statement"].rpartition("/")[2] for row in ALARMS}
    assert len(taken_away) == 4


def test_a_grant_that_the_scenario_does_not_ask_for_says_why() -> None:
    assert all(row["not_in_the_scenario"] for row in GRANTS if row not in [*ASKED, *ALARMS])
    assert len(ASKED) >= 30  # each way, both sides
