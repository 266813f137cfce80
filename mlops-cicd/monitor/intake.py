"""What was read, and what was not: counts by reason, and unreadable records kept aside."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

KEPT = 500  # unreadable records in quarantine.jsonl; of the others only the number is kept
KEPT_TEXT = 2000  # characters of each
MOST_EXTRA = 10_000  # names of unknown columns that are counted
LONGEST_NAME = 256


@dataclass
class Intake:
    """Mergeable account of what was read."""

    requests: int = 0
    records: int = 0
    by_hour: Counter[str] = field(default_factory=Counter)  # requests
    unreadable: Counter[str] = field(default_factory=Counter)  # lines, objects or answers, by reason
    excluded: Counter[str] = field(default_factory=Counter)  # rows, by reason
    lacking: Counter[str] = field(default_factory=Counter)  # rows that lack a column of the baseline
    surplus: Counter[str] = field(default_factory=Counter)  # rows that have a column it does not know
    truths: int = 0  # rows of ground truth
    ignored: int = 0  # objects that hold no capture
    quarantine: list[dict[str, Any]] = field(default_factory=list)

    def refuse(self, reason: str, source: str, line: int, text: bytes | str = b"") -> None:
        """Count an unreadable record and keep it aside, as long as there is room."""
        self.unreadable[reason] += 1
        if len(self.quarantine) < KEPT:
            if isinstance(text, bytes):
                text = text[: 4 * KEPT_TEXT].decode("utf-8", errors="backslashreplace")
            self.quarantine.append(
                {"reason": reason, "object": source, "line": line, "text": text[:KEPT_TEXT]}
            )

    def see_extra(self, names: Mapping[str, int]) -> None:
        """Count columns that the baseline does not know; whoever calls the endpoint has chosen them."""
        for name, rows in names.items():
            short = name[:LONGEST_NAME]
            if short in self.surplus or len(self.surplus) < MOST_EXTRA:
                self.surplus[short] += rows

    @property
    def not_kept(self) -> int:
        """Unreadable records of which only the number is known."""
        return sum(self.unreadable.values()) - len(self.quarantine)

    def partial(self) -> dict[str, Any]:
        """This account as JSON."""
        return {
            "requests": self.requests,
            "records": self.records,
            "truths": self.truths,
            "ignored": self.ignored,
            "quarantine": self.quarantine,
        } | {name: dict(getattr(self, name)) for name in COUNTERS}

    def merge(self, partial: dict[str, Any]) -> None:
        """Take in the account of another part."""
        self.requests += partial["requests"]
        self.records += partial["records"]
        self.truths = max(self.truths, partial["truths"])  # every part reads all of the ground truth
        self.ignored = max(self.ignored, partial["ignored"])  # and lists all objects
        for name in COUNTERS:
            getattr(self, name).update(partial[name])
        merged = sorted(
            self.quarantine + partial["quarantine"], key=lambda one: (order_of(one["object"]), one["line"])
        )
        self.quarantine = merged[:KEPT]

    def quarantine_lines(self) -> str:
        """quarantine.jsonl."""
        lines = [json.dumps(one) for one in self.quarantine]
        if self.not_kept:
            lines.append(json.dumps({"not_kept": self.not_kept}))
        return "".join(line + "\n" for line in lines)


COUNTERS = ("by_hour", "unreadable", "excluded", "lacking", "surplus")


def order_of(source: str) -> tuple[str, str]:
    """Objects are read hour by hour."""
    parts = source.split("/")
    return "/".join(parts[-5:-1]), source
