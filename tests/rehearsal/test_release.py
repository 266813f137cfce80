"""Scenario release as people start it: each kind of release, good and bad, and what its callers felt."""

from __future__ import annotations

from typing import Any

import pytest

from rehearsed import rehearsed, table

pytestmark = pytest.mark.long
ROLLED_BACK = ("model that answers 500", "model that is slow")
UNHARMED = (
    "good release",
    "model that never gets ready",
    "model that never gets ready, past staging",
    "container that does not start",
    "container that does not start, past staging",
    "alarm during the canary",
    "live version rejected",
    "approved again",
)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The rows of the table of releases, by title, as `make rehearse SCENARIO=release JSON=1` tells them."""
    found = rehearsed("release", tmp_path_factory.mktemp("release"))
    shown = table(found, "Releases")
    return {row[0]: dict(zip(shown["head"], row, strict=True)) for row in shown["rows"]}


def test_every_case_was_told(cases: dict[str, dict[str, Any]]) -> None:
    assert set(cases) == {*ROLLED_BACK, *UNHARMED}


@pytest.mark.parametrize("title", [*ROLLED_BACK, *UNHARMED])
def test_no_request_failed_outside_the_canary(cases: dict[str, dict[str, Any]], title: str) -> None:
    assert int(cases[title]["requests"]) > 10
    assert cases[title]["outside the canary"] == "0"


@pytest.mark.parametrize("title", UNHARMED)
def test_no_request_failed_at_all(cases: dict[str, dict[str, Any]], title: str) -> None:
    assert cases[title]["failed"] == "0"


@pytest.mark.parametrize("title", [*ROLLED_BACK, *UNHARMED])
def test_live_capacity_is_what_it_was(cases: dict[str, dict[str, Any]], title: str) -> None:
    before, _, after = cases[title]["instances"].partition(" → ")
    assert before == after == "3"


def test_a_model_that_answers_500_was_felt_by_the_canary_only(cases: dict[str, dict[str, Any]]) -> None:
    """A quarter of the requests at most, half of which are of the kind that it cannot answer."""
    case = cases["model that answers 500"]
    assert 0 < int(case["failed"]) <= int(case["requests"]) / 4
    assert case["outcome"] == "stopped in Production"


def test_the_right_version_serves(cases: dict[str, dict[str, Any]]) -> None:
    good = cases["good release"]["serves"]
    older = cases["live version rejected"]["serves"]
    assert good != older
    for title in (*ROLLED_BACK, *UNHARMED):
        assert cases[title]["serves"] == (older if title == "live version rejected" else good), title
