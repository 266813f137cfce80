"""Scenario api as people start it: releases of the API, and what its callers felt."""

from __future__ import annotations

from typing import Any

import pytest

from rehearsed import rehearsed, table

pytestmark = pytest.mark.long
OUTCOMES = {
    "hook refuses it": "stopped in Api",
    "alarm during the canary": "UPDATE_ROLLBACK_COMPLETE",
    "good release": "UPDATE_COMPLETE",
}


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The rows of the table of releases, by title, as `make rehearse SCENARIO=api JSON=1` tells them."""
    shown = table(rehearsed("api", tmp_path_factory.mktemp("api")), "Releases of the API")
    return {row[0]: dict(zip(shown["head"], row, strict=True)) for row in shown["rows"]}


def test_every_case_ended_as_it_should(cases: dict[str, dict[str, Any]]) -> None:
    assert {title: case["outcome"] for title, case in cases.items()} == OUTCOMES


@pytest.mark.parametrize("title", OUTCOMES)
def test_no_caller_felt_it(cases: dict[str, dict[str, Any]], title: str) -> None:
    assert int(cases[title]["requests"]) > 10
    assert cases[title]["failed"] == "0"


@pytest.mark.parametrize("title", OUTCOMES)
def test_callers_are_moved_by_a_good_release_only(cases: dict[str, dict[str, Any]], title: str) -> None:
    before, _, after = cases[title]["version"].partition(" → ")
    assert (before != after) is (title == "good release")
