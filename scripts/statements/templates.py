"""Where each policy statement stands in the templates, and the templates without one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cfnlint.decode import cfn_yaml

CFN = Path("mlops-cfn")
# of templates whose stages are in other accounts; no other condition brings statements that a rehearsal needs
ELSEWHERE = frozenset({"HasStagingAccount", "HasProductionAccount", "HasStageAccounts", "HasOtherAccounts"})


@dataclass(frozen=True)
class Statement:
    """One statement: its template (below mlops-cfn), resource and Sid, and all Sids of its document."""

    template: str
    resource: str
    sid: str
    sids: tuple[str, ...]
    first: int
    last: int

    @property
    def name(self) -> str:
        """``infra/identity.yaml/LaunchPolicy/CatalogStacks``."""
        return f"{self.template}/{self.resource}/{self.sid}"


def statements(root: Path, holding: frozenset[str] = frozenset()) -> list[Statement]:
    """Every statement with a Sid of every template below ``root``, where these conditions hold."""
    found = []
    for path in sorted((root / CFN).rglob("*.yaml")):
        template = cfn_yaml.load(str(path))
        text = path.read_text().splitlines()
        for logical_id, resource in template["Resources"].items():
            for document in _documents(resource.get("Properties") or {}, holding):
                sids = tuple(str(s.get("Sid", "")) for s in document)
                for statement in document:
                    first, last = _lines(statement, text)
                    where = path.relative_to(root / CFN).as_posix()
                    sid = str(statement.get("Sid", ""))
                    found.append(Statement(where, str(logical_id), sid, sids, first, last))
    return found


def without(root: Path, name: str) -> Statement:
    """Take a statement out of the templates below ``root``.

    Raises LookupError for a name that no statement has, or for the only statement of a document.
    """
    there = {s.name: s for s in statements(root, ELSEWHERE)}
    if name not in there:
        near = [n for n in there if n.rpartition("/")[2] == name.rpartition("/")[2]]
        raise LookupError(f"there is no statement {name}; {', '.join(near) or 'see make statements'}")
    found = there[name]
    if len(found.sids) == 1:
        raise LookupError(f"{name} is the only statement of its document, which cannot be without any")
    path = root / CFN / found.template
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[: found.first] + lines[found.last :]))
    return found


def _documents(value: Any, holding: frozenset[str]) -> Iterator[list[Any]]:
    if isinstance(value, dict):
        if isinstance(value.get("Statement"), list) and "Version" in value:
            chosen = [_chosen(s, holding) for s in value["Statement"]]
            yield [s for s in chosen if "Effect" in s]
        else:
            for inner in value.values():
                yield from _documents(inner, holding)
    elif isinstance(value, list):
        for inner in value:
            yield from _documents(inner, holding)


def _chosen(statement: Any, holding: frozenset[str]) -> Any:
    """A statement, or what Fn::If makes of it where its condition holds."""
    choice = statement.get("Fn::If")
    return choice[1] if choice and choice[0] in holding else statement


def _lines(statement: Any, text: list[str]) -> tuple[int, int]:
    """First line, and the line after the last, of a statement."""
    start, end = statement.start_mark, statement.end_mark
    if text[start.line][start.column] == "{":
        return start.line, end.line + 1
    last = end.line
    while last > start.line + 1 and text[last - 1].strip().startswith("#") | (not text[last - 1].strip()):
        last -= 1  # a comment above the next statement is not this one's
    return start.line, last
