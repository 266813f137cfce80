"""What a test notes: one check is a name, what was found, what is required, and what to do if they differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from ..console import Fault


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    group: str
    name: str
    passed: bool
    found: str
    required: str
    advice: str = ""  # what to do next when it failed

    @property
    def row(self) -> tuple[str, str, str, str]:
        """The check as a line of a table."""
        return (self.name, "ok" if self.passed else "FAILED", self.found, self.required)


@dataclass
class Report:
    """The checks, the numbers that were measured on the way, and what was left out with the reason."""

    checks: list[Check] = field(default_factory=list)
    measured: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    group: str = ""

    def check(self, name: str, passed: bool, found: str, required: str, advice: str = "") -> None:
        """Note one check."""
        self.checks.append(Check(self.group, name, bool(passed), found, required, advice))

    def run(self, group: str, test: Callable[[], None], advice: str = "") -> None:
        """Run one test; what it cannot go on from is a failed check, so that the others still run."""
        self.group = group
        try:
            test()
        except Fault as fault:
            self.check(group, False, str(fault), "an answer", advice)

    @property
    def failed(self) -> list[Check]:
        """The checks that failed."""
        return [check for check in self.checks if not check.passed]

    @property
    def sentences(self) -> list[str]:
        """What failed, what was found, what is required, and what to do next."""
        return [
            f"{check.name} is {check.found}, required: {check.required}"
            + (f". {check.advice}" if check.advice else "")
            for check in self.failed
        ]

    def content(self) -> dict[str, Any]:
        """The report as JSON."""
        return {
            "passed": not self.failed,
            "checks": [asdict(check) for check in self.checks],
            "measured": self.measured,
            "notes": self.notes,
        }
