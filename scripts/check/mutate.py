"""`make mutate`: does the check notice when a template becomes less safe?

    python -m check.mutate [--count 300] [--seed 3] [--json]

Each mutation (mutations.py) is made in a copy of its template, and every scanner looks at the copy. It is
caught when something is open that was not open before. What nobody catches is listed; a person has judged
each in tests/security/check/survivors.yml, and the report says so. Exit 0 when at least nine of ten are
caught and no survivor is without a judgement.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import re
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from check import compliance, house, iam, mutations, packs, scanners
from check.findings import Finding, judge
from check.mutations import Mutation
from check.templates import ROOT, Template, load

SURVIVORS = ROOT / "tests/security/check/survivors.yml"
WANTED = 0.9
PROCESSES = 2
COUNT, SEED = 300, 3


@dataclass(frozen=True)
class Outcome:
    """Which scanners noticed a mutation, and by which rules."""

    mutation: Mutation
    caught_by: dict[str, list[str]]

    @property
    def caught(self) -> bool:
        return bool(self.caught_by)


@cache
def every() -> dict[str, Template]:
    """The templates by name."""
    return {template.name: template for template in load()}


@cache
def engines() -> tuple[scanners.Validate, scanners.Guard]:
    """Rules compile once a process, for the types of all templates and those that a mutation may add."""
    types = scanners.types_of(every().values())
    return scanners.Validate(types), scanners.Guard(packs.guard(types))


SCANS: dict[str, Callable[[list[Template]], list[Finding]]] = {  # the quickest first
    "iam": iam.check,
    "guard": lambda templates: engines()[1](templates),
    "validate": lambda templates: engines()[0](templates),
    "house": house.check,
    "checkov": scanners.checkov,
    "cfn-lint": scanners.cfn_lint,
}
Open = set[tuple[str, str, str]]


def still_open(template: Template, found: list[Finding], complete: bool = False) -> Open:
    """What no waiver covers, without its line: an edit moves lines."""
    return {(one.rule, one.resource, one.message) for one in judge([template], found, complete)[0]}


@cache
def before(name: str, scanner: str) -> Open:
    """What a scanner has open in a template as it is; nothing, after `make check`."""
    template = every()[name]
    return still_open(template, SCANS[scanner]([template]))


def examine(mutation: Mutation, first: bool = False) -> Outcome:
    """Make the mutation in a copy and look at it with every scanner, or until the first notices."""
    text = mutations.apply(every()[mutation.template], mutation)
    caught: dict[str, list[str]] = {}
    everything: list[Finding] = []
    with tempfile.TemporaryDirectory() as folder:
        # the same path below the folder: some rules depend on where a template lies
        path = Path(folder) / "mlops-cfn" / mutation.template
        path.parent.mkdir(parents=True)
        path.write_text(text)
        template = Template(path, mutation.template)
        for name, scan in SCANS.items():
            known = before(mutation.template, name)
            try:
                found = scan([template])
                everything += found
                new = still_open(template, found) - known
            except Exception as error:  # a scanner that fails on a template fails the check
                new = {(type(error).__name__, "", str(error))}
            if new:
                caught[name] = sorted({rule for rule, _, _ in new})
            if first and caught:
                return Outcome(mutation, caught)
        idle = {
            rule for rule, _, _ in still_open(template, everything, complete=True) if rule == "WAIVER_UNUSED"
        }
        if idle:
            caught["waivers"] = sorted(idle)
    return Outcome(mutation, caught)


def judgement(mutation: Mutation) -> str:
    """What a person wrote about a survivor; '' when nobody did."""
    for one in yaml.safe_load(SURVIVORS.read_text()) if SURVIVORS.exists() else []:
        if fnmatch.fnmatchcase(mutation.name, one["mutation"]):
            return str(one["judgement"])
    return ""


def run(chosen: list[Mutation], first: bool = False, told: Any = None) -> list[Outcome]:
    """All of them, in parallel."""
    outcomes = []
    with ProcessPoolExecutor(PROCESSES) as pool:
        for job in as_completed([pool.submit(examine, mutation, first) for mutation in chosen]):
            outcomes.append(job.result())
            if told:
                told(outcomes[-1])
    return sorted(outcomes, key=lambda outcome: outcome.mutation.name)


def pool() -> list[Mutation]:
    """Every mutation of every template."""
    return [mutation for template in every().values() for mutation in mutations.mutants(template)]


def report(outcomes: list[Outcome], console: Console) -> None:
    """For people: by scanner, by kind, and what survived."""
    by_scanner, alone = counts(outcomes)
    kinds: dict[str, list[bool]] = defaultdict(list)
    for outcome in outcomes:
        kinds[outcome.mutation.kind].append(outcome.caught)
    table = Table(box=None, pad_edge=False)
    for title in ("scanner", "caught", "caught by no other"):
        table.add_column(title, justify="left" if title == "scanner" else "right")
    for scanner, count in by_scanner.most_common():
        table.add_row(scanner, str(count), str(alone[scanner]))
    console.print(table)
    table = Table(box=None, pad_edge=False)
    for title in ("fault", "made", "caught"):
        table.add_column(title, justify="left" if title == "fault" else "right")
    for kind, hits in sorted(kinds.items(), key=lambda item: (sum(item[1]) / len(item[1]), item[0])):
        table.add_row(kind, str(len(hits)), str(sum(hits)))
    console.print(table)
    for outcome in outcomes:
        if not outcome.caught:
            console.print(f"survived: {outcome.mutation.name}", highlight=False, markup=False)
            said = (
                judgement(outcome.mutation) or "NOBODY HAS JUDGED THIS (tests/security/check/survivors.yml)"
            )
            console.print(f"    {said}", highlight=False, markup=False)


def document(outcomes: list[Outcome], seed: int, possible: int) -> str:
    """The result for docs/compliance.md."""
    by_scanner, alone = counts(outcomes)
    caught, kinds = sum(one.caught for one in outcomes), len({one.mutation.kind for one in outcomes})
    lines = [
        f"{caught} of {len(outcomes)} faults caught ({rate(outcomes):.1%}), of {kinds} kinds; "
        f"seed {seed}, drawn from {possible} possible ones.",
        "",
        "| scanner | caught | caught by no other |",
        "| --- | --- | --- |",
        *(f"| {name} | {count} | {alone[name]} |" for name, count in by_scanner.most_common()),
        "",
        "| not caught | judgement |",
        "| --- | --- |",
        *(f"| `{one.mutation.name}` | {judgement(one.mutation)} |" for one in outcomes if not one.caught),
    ]
    return "\n".join(lines)


def counts(outcomes: Iterable[Outcome]) -> tuple[Counter[str], Counter[str]]:
    """How many each scanner caught, and how many it alone."""
    by_scanner: Counter[str] = Counter()
    alone: Counter[str] = Counter()
    for outcome in outcomes:
        by_scanner.update(outcome.caught_by.keys())
        if len(outcome.caught_by) == 1:
            alone.update(outcome.caught_by.keys())
    return by_scanner, alone


def write(outcomes: list[Outcome], seed: int, possible: int) -> None:
    """Put the result into the docs."""
    text = compliance.DOCUMENT.read_text()
    made = f"<!-- made by mutate -->\n\n{document(outcomes, seed, possible)}\n\n<!-- end -->"
    compliance.DOCUMENT.write_text(
        re.sub(r"<!-- made by mutate -->.*?<!-- end -->", lambda _: made, text, flags=re.DOTALL)
    )


def rate(outcomes: Iterable[Outcome]) -> float:
    """The share that was caught."""
    hits = [outcome.caught for outcome in outcomes]
    return sum(hits) / len(hits)


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="check.mutate", description="Make faults in templates; count what is caught."
    )
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--first", action="store_true", help="stop at the first scanner that notices")
    parser.add_argument("--write", action="store_true", help="put the result into docs/compliance.md")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout, for machines")
    options = parser.parse_args(argv)
    began = time.monotonic()
    everything = pool()
    chosen = mutations.sample(everything, options.count, options.seed)
    console = Console(stderr=options.json)
    columns = (
        TextColumn("mutating"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[survived]} survived"),
    )
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as progress:
        task = progress.add_task("", total=len(chosen), survived=0)
        survived = 0

        def told(outcome: Outcome) -> None:
            nonlocal survived
            survived += not outcome.caught
            progress.update(task, advance=1, survived=survived)

        outcomes = run(chosen, options.first, told)
    unjudged = [one.mutation.name for one in outcomes if not one.caught and not judgement(one.mutation)]
    passed = rate(outcomes) >= WANTED and not unjudged
    if options.write:
        write(outcomes, options.seed, len(everything))
    if options.json:
        made = [
            {"mutation": one.mutation.name, "kind": one.mutation.kind, "caught_by": one.caught_by}
            for one in outcomes
        ]
        result = {"passed": passed, "rate": rate(outcomes), "unjudged": unjudged, "mutations": made}
        print(json.dumps(result | {"seconds": round(time.monotonic() - began, 1)}, indent=1))
    else:
        report(outcomes, console)
        caught = sum(one.caught for one in outcomes)
        console.print(
            f"{'✔' if passed else '✘'} {caught} of {len(outcomes)} caught ({rate(outcomes):.1%}), of "
            f"{len(everything)} possible, seed {options.seed}, {time.monotonic() - began:.0f} s"
        )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
