"""Who may do what: every cell of matrix.yml, decided by simulation and by making the call."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import live
import pytest
import simulate
from deciders import oracle
from matrix import Cell, load

MATRIX = load()
CELLS = list(MATRIX.cells())
# they may do nothing at all: a profile made by hand gains nothing by this role
POWERLESS = {"studio-default"}


def wrong(answers: Mapping[Cell, tuple[bool, bool]]) -> list[str]:
    """One line for each row and scope that has a wrong cell, of (expected, actual)."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for cell, (expected, actual) in answers.items():
        if expected is not actual:
            sign = "may" if actual else "may not"
            found[cell.row.act, cell.scope].append(f"{cell.subject.name} {sign}")
    return [f"{act} ({scope}): {', '.join(who)}" for (act, scope), who in found.items()]


def test_the_matrix_is_large_and_says_both() -> None:
    assert len(CELLS) >= 300
    for group in {row.group for row in MATRIX.rows}:
        here = [cell.allowed for cell in CELLS if cell.row.group == group]
        assert any(here) and not all(here), f"{group}: everything has the same answer"
    able = {cell.subject.name for cell in CELLS if cell.allowed}
    assert {subject.name for subject in MATRIX.subjects} - able == POWERLESS


def test_every_role_has_a_column(world: Any) -> None:
    red = world.places["red"]["id"]
    deployed = {arn for (_, owner, _), arn in world.roles.items() if owner in ("", red, "jane")}
    assert {world.role(subject) for subject in MATRIX.subjects} == deployed


def test_every_cell_by_simulation(world: Any) -> None:
    deployed = simulate.Deployed(world.session())
    asked = {
        cell: simulate.questions(cell, world.role(cell.subject), world.names(cell), deployed)
        for cell in CELLS
    }
    answers = iter(oracle([question for questions in asked.values() for question in questions]))
    decided, faults = {}, set()
    for cell, questions in asked.items():
        here = [next(answers) for _ in questions]
        for question, answer in zip(questions, here, strict=True):
            faults |= {f"{cell.row.act}: {answer.error}"} if answer.error else set()
            unknown = {key for key in answer.ignored if key in _said(cell)}
            faults |= {f"{cell.row.act}: AWS sends no {key} with {question.action}" for key in unknown}
        decided[cell] = (cell.allowed, all(answer.allowed for answer in here))
    assert not faults
    assert wrong(decided) == []


def _said(cell: Cell) -> Iterator[str]:
    """The condition keys that a row names."""
    for line in cell.row.asks:
        yield from (pair.partition("=")[0] for pair in line.split()[2:])


@pytest.mark.slow
def test_every_cell_by_its_call(world: Any, tmp_path: Path) -> None:
    answers = live.decide(world, CELLS, tmp_path)
    decided = {cell: (cell.allowed_outside_studio, allowed) for cell, (allowed, _) in answers.items()}
    assert wrong(decided) == [], [
        f"{cell}: {said}" for cell, (allowed, said) in answers.items() if allowed is not decided[cell][0]
    ][:10]
