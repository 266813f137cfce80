"""Reads matrix.yml: which subject may do what in which scope, and how that is asked."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

TABLE = Path(__file__).parent / "matrix.yml"
SCOPES = ("own", "other", "platform", "colleague")
NOBODY = "nobody"


@dataclass(frozen=True)
class Subject:
    """Somebody whose rights the matrix tells: a role, by its name in the template of its kind of stack."""

    name: str
    group: str
    role: str
    of: str  # platform, project or user
    title: str


@dataclass(frozen=True, eq=False)
class Row:
    """Something that could be done, and who may."""

    act: str
    group: str
    service: str
    operation: str
    parameters: Mapping[str, Any]
    asks: tuple[str, ...]
    may: Mapping[str, frozenset[str]]  # scope → subjects
    studio: frozenset[str] = frozenset()  # who must be in Studio, whose sessions carry the profile
    simulated: bool = False  # by simulation only; the table says why


@dataclass(frozen=True, eq=False)
class Cell:
    """One subject, one act, one scope, and whether it is allowed."""

    subject: Subject
    row: Row
    scope: str
    allowed: bool

    @property
    def allowed_outside_studio(self) -> bool:
        """Whether a session that Studio did not make may do it."""
        return self.allowed and self.subject.name not in self.row.studio

    def __str__(self) -> str:
        return f"{self.subject.name}: {self.row.act} ({self.scope})"


@dataclass(frozen=True)
class Matrix:
    """The whole table."""

    subjects: tuple[Subject, ...]
    rows: tuple[Row, ...]

    def cells(self) -> Iterator[Cell]:
        """Every cell."""
        for row in self.rows:
            for scope, allowed in row.may.items():
                for subject in self.subjects:
                    yield Cell(subject, row, scope, subject.name in allowed)


def load(path: Path = TABLE) -> Matrix:
    """The table; raises ValueError for a subject that does not exist."""
    found = yaml.safe_load(path.read_text())
    subjects = tuple(
        Subject(name, group, one["role"], one["of"], one["is"])
        for group, members in found["subjects"].items()
        for name, one in members.items()
    )
    known, rows, group = {s.name for s in subjects}, [], ""
    for one in found["rows"]:
        group = one.get("group", group)
        may = {scope: frozenset(one[scope].split()) - {NOBODY} for scope in SCOPES if scope in one}
        if strangers := frozenset().union(*may.values()) - known:
            raise ValueError(f"{one['act']}: {', '.join(sorted(strangers))} is no subject")
        ((call, parameters),) = one["call"].items()
        service, _, operation = call.rpartition(".")
        rows.append(
            Row(
                one["act"],
                group,
                service,
                operation,
                parameters,
                tuple(one["asks"]),
                may,
                frozenset(one.get("studio", "").split()),
                one.get("simulated", False),
            )
        )
    return Matrix(subjects, tuple(rows))


def filled(value: Any, names: Mapping[str, Any]) -> Any:
    """``value`` with every {name} filled in, however deep; a member that is None is left out."""
    if isinstance(value, str):
        whole = re.fullmatch(r"\{(\w+)\}", value)
        if whole:
            return names[whole[1]]  # keeps lists, bytes and None
        return re.sub(r"\{(\w+)\}", lambda m: str(names[m[1]]), value)
    if isinstance(value, Mapping):
        return {k: f for k, v in value.items() if (f := filled(v, names)) is not None}
    if isinstance(value, list):
        return [filled(v, names) for v in value]
    return value


def question(ask: str, names: Mapping[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """(action, resource, context) of a line ``action resource key=value key=[value,value]``."""
    action, resource, *pairs = filled(ask, names).split()
    context: dict[str, Any] = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        context[key] = value[1:-1].split(",") if value.startswith("[") else value
    return action, resource, context
