"""How a rehearsal shows itself: a live table on a terminal, plain lines in a log, one JSON object a line
for machines."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rehearse.engine import Rehearsal, Step, UseCase

MARKS = {
    "passed": ("✔", "green"),
    "done": ("✔", "green"),
    "failed": ("✘", "bold red"),
    "waiting": ("·", "dim"),
    "running": ("▸", "cyan"),
}


def clock(seconds: float) -> str:
    """75 -> 1:15"""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class Progress:
    """What the engine tells; each form of output overrides what it shows."""

    rehearsal: Rehearsal

    def begin(self, rehearsal: Rehearsal) -> None:
        """The rehearsal starts."""
        self.rehearsal = rehearsal

    def use_case(self, case: UseCase) -> None:
        """A use case began or ended."""

    def step(self, case: UseCase, step: Step) -> None:
        """A step began, went on or ended."""

    def end(self, result: dict[str, Any]) -> None:
        """The rehearsal is over."""


class JsonProgress(Progress):
    """One JSON object a line; the last has "passed"."""

    def __init__(self, out: TextIO = sys.stdout) -> None:
        self.out = out

    def _line(self, event: dict[str, Any]) -> None:
        print(json.dumps(event, default=str), file=self.out, flush=True)

    def use_case(self, case: UseCase) -> None:
        """Begin and end."""
        self._line(
            {
                "event": "use_case",
                "case": case.letter,
                "title": case.title,
                "state": case.state,
                "seconds": round(case.seconds, 1),
            }
        )

    def step(self, case: UseCase, step: Step) -> None:
        """Begin and end, not what lies between."""
        if step.state == "running" and step.detail:
            return
        event = {
            "event": "step",
            "case": case.letter,
            "step": step.title,
            "state": step.state,
            "seconds": round(step.seconds, 1),
        }
        self._line(event | {"detail": step.detail} | self.rehearsal.census.totals())

    def end(self, result: dict[str, Any]) -> None:
        """The result, as the last line."""
        self._line(result)


class PlainProgress(Progress):
    """Lines for a log file or a pipe."""

    def __init__(self, out: TextIO = sys.stdout) -> None:
        self.out = out

    def _say(self, text: str) -> None:
        print(f"{clock(time.monotonic() - self.rehearsal.began):>6}  {text}", file=self.out, flush=True)

    def use_case(self, case: UseCase) -> None:
        """A heading."""
        if case.state == "running":
            self._say(f"{case.letter}  {case.title}")

    def step(self, case: UseCase, step: Step) -> None:
        """One line when it ended."""
        if step.state != "running":
            totals = self.rehearsal.census.totals()
            detail = f": {step.detail}" if step.detail else ""
            counts = f"{totals['resources']} resources in {totals['stacks']} stacks"
            self._say(f"   {MARKS[step.state][0]} {step.title}{detail}  ({step.seconds:.1f} s, {counts})")

    def end(self, result: dict[str, Any]) -> None:
        """The verdict, and what to look at."""
        for line in verdict(result):
            print(line, file=self.out, flush=True)


class LiveProgress(Progress):
    """A table that changes in place."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        self.spinner = Spinner("dots", style="cyan")
        self.live: Live | None = None

    def begin(self, rehearsal: Rehearsal) -> None:
        """Take the terminal."""
        super().begin(rehearsal)
        self.live = Live(
            get_renderable=self._render, console=self.console, refresh_per_second=5, transient=False
        )
        self.live.start()

    def end(self, result: dict[str, Any]) -> None:
        """Give the terminal back, with the verdict below the table."""
        self.close()
        lines = verdict(result)
        style = "green" if result["passed"] else "red"
        self.console.print(Panel(Text("\n".join(lines)), border_style=style, expand=False))

    def close(self) -> None:
        """Give the terminal back."""
        if self.live:
            self.live.stop()
            self.live = None

    def _render(self) -> Group:
        totals = self.rehearsal.census.totals()
        elapsed = clock(time.monotonic() - self.rehearsal.began)
        pending = f", {totals['pending']} under way" if totals["pending"] else ""
        head = Text.assemble(
            (f"Rehearsal {self.rehearsal.name}", "bold"), f"   {elapsed}   ",
            (f"{totals['resources']} resources in {totals['stacks']} stacks{pending}", "dim"),
        )  # fmt: skip
        table = Table(box=None, show_header=False, padding=(0, 1))
        table.add_column(width=2)
        table.add_column(ratio=1, overflow="fold")
        table.add_column(justify="right", width=7)
        for case in self.rehearsal.cases:
            mark, style = MARKS[case.state]
            seconds = case.seconds or time.monotonic() - self.rehearsal.began - case.began
            table.add_row(
                Text(mark, style=style), Text(f"{case.letter}  {case.title}", style="bold"), clock(seconds)
            )
            # only what is going on, or went wrong, needs its steps
            for step in case.steps if case.state != "passed" else []:
                mark, style = MARKS[step.state]
                line = Text.assemble(
                    "   ", (mark, style), f" {step.title}", (f"  {step.detail}" if step.detail else "", "dim")
                )
                seconds = step.seconds or time.monotonic() - self.rehearsal.began - step.began
                table.add_row("", line, Text(f"{seconds:.0f} s", style="dim"))
        if self.rehearsal.cases and self.rehearsal.cases[-1].state == "running":
            return Group(head, table, self.spinner)
        return Group(head, table)


def verdict(result: dict[str, Any]) -> list[str]:
    """The result in words, for people."""
    lines = []
    for letter, case in result["use_cases"].items():
        lines.append(f"{'✔' if case['passed'] else '✘'} {letter}  {case['title']}  {case['seconds']:.1f} s")
    for table in result.get("facts", {}).get("tables", []):
        lines += ["", table["title"], *columns(table["head"], table["rows"]), table["lead"]]
    if failure := result.get("failure"):
        lines += [
            "",
            f"FAILED in {failure['where']}",
            failure["message"],
            *(f"  {line}" for line in failure["reasons"]),
        ]
        lines += [f"look at: {failure['look_at']}"] if failure["look_at"] else []
    else:
        lines += ["", f"passed in {clock(result['seconds'])}"]
    return [*lines, f"report: {result['report']}"]


def columns(head: list[str], rows: list[list[Any]]) -> list[str]:
    """A table in plain text: a column is as wide as its widest cell."""
    cells = [[str(cell) for cell in row] for row in [head, *rows]]
    widths = [max(len(row[index]) for row in cells) for index in range(len(head))]
    shown = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    return [line.rstrip() for line in (shown[0], "  ".join("-" * width for width in widths), *shown[1:])]


def choose(json_lines: bool) -> Progress:
    """The form that suits where stdout goes."""
    if json_lines:
        return JsonProgress()
    return LiveProgress() if sys.stdout.isatty() else PlainProgress()
