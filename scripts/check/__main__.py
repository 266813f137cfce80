"""`make check`: every scanner on every template, in processes of their own, then one table.

    python -m check [--json] [--only SCANNER …] [PATH …]

Exit 0 when every finding was mended or waived with a reason, 1 when something is open, 2 when a scanner
failed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from check import code, compliance, house, iam, packs, scanners
from check.findings import Finding, Waiver, judge
from check.templates import CFN, Template, load

PROCESSES = 2
LINT_PARTS = 2  # cfn-lint takes longest; its templates are dealt to so many processes


def _validate(templates: list[Template]) -> list[Finding]:
    return scanners.Validate(scanners.types_of(templates))(templates)


def _guard(templates: list[Template]) -> list[Finding]:
    return scanners.Guard(packs.guard(scanners.types_of(templates)))(templates)


@dataclass(frozen=True)
class Scanner:
    """A scanner with what it looks at, for people."""

    run: Callable[[list[Template]], list[Finding]]
    title: str


SCANNERS: dict[str, Scanner] = {
    "cfn-lint": Scanner(scanners.cfn_lint, "CloudFormation's schemas, strict"),
    "checkov": Scanner(scanners.checkov, "checkov's CloudFormation checks"),
    "validate": Scanner(_validate, "AWS's validation engine, failures at deployment"),
    "guard": Scanner(_guard, "Control Tower's proactive controls and own rules, on resolved templates"),
    "iam": Scanner(iam.check, "policies against IAM's actions, resources and keys"),
    "house": Scanner(house.check, "house rules of the templates"),
}
# these look at the repository, whatever templates are asked for
REPOSITORY: dict[str, tuple[Callable[[], list[Finding]], str]] = {
    "ruff": (code.ruff, "ruff, security rules included"),
    "secrets": (code.secrets, "committed secrets"),
}


@dataclass
class Result:
    """What one scanner said."""

    found: list[Finding]
    seconds: float
    failure: str = ""


def _run(name: str, templates: list[Template]) -> Result:
    began = time.monotonic()
    try:
        found = SCANNERS[name].run(templates) if name in SCANNERS else REPOSITORY[name][0]()
    except Exception as error:  # a scanner that fails must not look like one that found nothing
        return Result([], time.monotonic() - began, f"{type(error).__name__}: {error}")
    return Result(found, time.monotonic() - began)


def scan(templates: list[Template], names: list[str], told: Callable[[str], None]) -> dict[str, Result]:
    """Run scanners in parallel; each result is told as it comes."""
    results = {name: Result([], 0.0) for name in names}
    with ProcessPoolExecutor(PROCESSES) as pool:
        jobs: dict[Future[Result], str] = {}
        for name in names:
            parts = (
                [templates[i::LINT_PARTS] for i in range(LINT_PARTS)] if name == "cfn-lint" else [templates]
            )
            for part in parts:
                jobs[pool.submit(_run, name, part)] = name
        for job in as_completed(jobs):
            one, all_ = job.result(), results[jobs[job]]
            all_.found += one.found
            all_.seconds += one.seconds
            all_.failure = all_.failure or one.failure
            told(jobs[job])
    return results


def report(
    results: dict[str, Result],
    still_open: list[Finding],
    waived: list[tuple[Finding, Waiver]],
    console: Console,
) -> None:
    """For people: what is open, then one line a scanner."""
    for one in still_open:
        where = f"{one.file}:{one.line}" if one.line else one.file
        name = f"  {one.resource}" if one.resource else ""
        console.print(
            f"[bold red]✘[/] {where}{name}  [bold]{one.waiver}[/]  ({one.scanner})", highlight=False
        )
        console.print(f"    {one.message}", highlight=False, markup=False)
    counts, waivers = Counter(one.scanner for one in still_open), Counter(one.scanner for one, _ in waived)
    table = Table(box=None, pad_edge=False)
    for title, justify in (("scanner", "left"), ("looks at", "left"), ("open", "right"), ("waived", "right")):
        table.add_column(title, justify=justify)
    table.add_column("seconds", justify="right")
    for name, result in results.items():
        title = SCANNERS[name].title if name in SCANNERS else REPOSITORY[name][1]
        open_count = "failed" if result.failure else str(counts[name])
        table.add_row(name, title, open_count, str(waivers[name]), f"{result.seconds:.1f}")
    table.add_row(
        "waivers", "every waiver has a reason and something to waive", str(counts["waivers"]), "", ""
    )
    console.print(table)
    for name, result in results.items():
        if result.failure:
            console.print(f"[bold red]{name} failed[/]: {result.failure}", highlight=False)


def unreadable(template: Template) -> str:
    """Why a template cannot be read at all; every scanner would say so in its own words."""
    try:
        return "" if isinstance(template.data, dict) else "no template"
    except Exception as error:  # the loader has errors of its own and YAML's
        return " ".join(str(error).split())


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    every = [*SCANNERS, *REPOSITORY]
    parser = argparse.ArgumentParser(prog="check", description="Scan the templates, policies and code.")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout, for machines")
    parser.add_argument(
        "--only", action="append", choices=every, metavar="SCANNER", help=f"of {', '.join(every)}"
    )
    parser.add_argument("--write", action="store_true", help="make the tables of docs/compliance.md anew")
    parser.add_argument("paths", nargs="*", type=Path, help="folder or template; default: mlops-cfn")
    options = parser.parse_args(argv)
    templates = [template for path in options.paths or [CFN] for template in load(path.resolve())]
    for template in templates:
        if problem := unreadable(template):
            print(f"check: {template.name}: {problem}", file=sys.stderr)
            return 2
    names = options.only or (list(SCANNERS) if options.paths else every)
    began = time.monotonic()
    console = Console(stderr=options.json)
    columns = (TextColumn("checking"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as progress:
        jobs = len(names) + ("cfn-lint" in names) * (LINT_PARTS - 1)
        task = progress.add_task("", total=jobs)
        results = scan(templates, names, lambda name: progress.update(task, advance=1, description=name))
    findings = [one for result in results.values() for one in result.found]
    # whether a waiver waives something, and what holds, shows only when every scanner ran on every template
    complete = set(SCANNERS) <= set(names)
    still_open, waived = judge(templates, findings, complete=complete)
    if complete and not options.paths:
        scan_result = compliance.Scan(templates, still_open, waived)
        if options.write:
            compliance.write(scan_result)
        still_open += compliance.stale(scan_result)
    failed = {name: result.failure for name, result in results.items() if result.failure}
    if options.json:
        print(json.dumps(_machine(results, still_open, waived, failed, len(templates), began), indent=1))
    else:
        report(results, still_open, waived, console)
        verdict = "[green]✔ nothing open[/]" if not still_open and not failed else "[bold red]✘ not passed[/]"
        seconds = time.monotonic() - began
        console.print(f"{verdict}: {len(templates)} templates, {len(waived)} waived, {seconds:.0f} s")
    return 2 if failed else 1 if still_open else 0


def _machine(
    results: dict[str, Result],
    still_open: list[Finding],
    waived: list[tuple[Finding, Waiver]],
    failed: dict[str, str],
    templates: int,
    began: float,
) -> dict[str, Any]:
    return {
        "passed": not still_open and not failed,
        "templates": templates,
        "open": [one.as_dict() for one in still_open],
        "waived": [one.as_dict() | {"reason": waiver.reason} for one, waiver in waived],
        "scanners": {name: round(result.seconds, 1) for name, result in results.items()},
        "failed": failed,
        "seconds": round(time.monotonic() - began, 1),
    }


if __name__ == "__main__":
    sys.exit(main())
