"""docs/compliance.md: each control with our resources, and whether the rules of `make check` hold it.

The tables are made from what the scanners said, so a control is met when the rule that decides it is
silent, and not met with the reason of the waiver beside the resource. `make check` fails when the tables in
the docs say otherwise.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from check import packs
from check.findings import Finding, Waiver
from check.templates import ROOT, Template, parameter_sets, resolve

DOCUMENT = ROOT / "docs/compliance.md"
SECURITY_HUB = Path(__file__).with_name("security_hub.yml")
PEERS = Path(__file__).with_name("peers.yml")
# services of Control Tower's controls that are listed even where we have no such resource
SERVICES = {"SAGEMAKER", "S3", "KMS", "IAM", "CODEBUILD", "LAMBDA", "ECR", "SQS", "CLOUDWATCH"}
SHOWN = 4


class Scan:
    """What a complete scan of the templates said, ready to be asked."""

    def __init__(
        self,
        templates: Sequence[Template],
        still_open: Iterable[Finding],
        waived: Iterable[tuple[Finding, Waiver]],
    ) -> None:
        self.templates = templates
        self.open: dict[str, list[Finding]] = defaultdict(list)
        self.waived: dict[str, list[tuple[Finding, Waiver]]] = defaultdict(list)
        for one in still_open:
            self.open[one.rule].append(one)
        for one, waiver in waived:
            self.waived[one.rule].append((one, waiver))
        self.resources = [
            (template, name, str(resource["Type"]))
            for template in templates
            for name, resource in template.resources.items()
        ]

    def of(self, types: Iterable[str]) -> list[tuple[Template, str]]:
        """Our resources of these types."""
        wanted = set(types)
        return [(template, name) for template, name, kind in self.resources if kind in wanted]

    def names(self, types: Iterable[str]) -> str:
        """Our resources of these types, for people."""
        found = [name for _, name in self.of(types)]
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        return ", ".join(found[:SHOWN]) + more

    def verdict(self, rules: Sequence[str], types: Iterable[str]) -> tuple[str, str]:
        """(met, how or why not): by whether the rules found something on resources of these types."""
        ours = {(template.name, name) for template, name in self.of(types)}
        broken = [one for rule in rules for one in self.open[rule] if _concerns(one, ours)]
        if broken:
            return "no", f"open: {', '.join(sorted({one.resource or one.file for one in broken}))}"
        reasons: dict[str, list[str]] = defaultdict(list)
        for rule in rules:
            for one, waiver in self.waived[rule]:
                if _concerns(one, ours) and one.resource not in reasons[waiver.reason]:
                    reasons[waiver.reason].append(one.resource)
        if not reasons:
            return "yes", f"{', '.join(rules)}"
        kept = {resource for names in reasons.values() for resource in names}
        told = " ".join(f"{', '.join(sorted(names))}: {reason}" for reason, names in sorted(reasons.items()))
        return ("no" if kept >= {name for _, name in ours} else "but"), told


def _concerns(one: Finding, ours: set[tuple[str, str]]) -> bool:
    return not one.resource or (one.file, one.resource) in ours


@cache
def security_hub() -> dict[str, dict[str, Any]]:
    """security_hub.yml."""
    return yaml.safe_load(SECURITY_HUB.read_text())


def security_hub_rows(scan: Scan) -> Iterator[tuple[str, ...]]:
    """A row for each control of Security Hub."""
    for control, about in security_hub().items():
        title = about["title"]
        if "account" in about:
            yield control, title, "", "account", about["account"]
            continue
        names = scan.names(about["types"])
        if not names:
            kinds = ", ".join(kind.removeprefix("AWS::") for kind in about["types"])
            yield control, title, "", "none", f"no template has a {kinds}"
        elif "endpoint" in about:
            yield control, title, names, *_endpoint(scan, about["endpoint"])
        elif "by" in about:
            yield control, title, names, *scan.verdict(about["by"], about["types"])
        elif "text" in about:
            yield control, title, names, "yes" if about["met"] else "no", about["text"]
        else:
            raise LookupError(
                f"{control} concerns {names}, and security_hub.yml does not say what decides it"
            )


def _endpoint(scan: Scan, service: str) -> tuple[str, str]:
    launches = []
    for template in scan.templates:
        if "AWS::EC2::VPC" in {resource["Type"] for resource in template.resources.values()}:
            for values in parameter_sets(template).values():
                made = resolve(template.data, values)["Resources"].values()
                names = {str(one["Properties"].get("ServiceName", "")) for one in made}
                launches.append(any(name.endswith(f".{service}") for name in names))
    if launches and all(launches):
        return "yes", f"the VPC has the endpoint {service}"
    if any(launches):
        return "but", f"the endpoint {service} is there with OptionalEndpoints=true; nothing inside calls it"
    return "no", f"nothing inside the VPC calls {service}, and it has no way out; an endpoint would only cost"


def control_tower_rows(scan: Scan) -> Iterator[tuple[str, ...]]:
    """A row for each proactive control of the services that we use."""
    types = {kind for _, _, kind in scan.resources}
    for control in packs.controls():
        rule = control.rule
        if rule.types & types:
            met, how = scan.verdict([rule.name], rule.types)
            how = "" if met == "yes" else how
        elif rule.name.split(".")[1] in SERVICES:
            met = "none"
            how = f"no template has a {', '.join(sorted(kind.removeprefix('AWS::') for kind in rule.types))}"
        else:
            continue
        nist = control.frameworks.get("NIST 800-53 Rev 5", [])
        more = f" and {len(nist) - 3} more" if len(nist) > 3 else ""
        yield (
            rule.name,
            control.title,
            control.severity.lower(),
            scan.names(rule.types),
            met,
            how,
            ", ".join(nist[:3]) + more,
        )


def waiver_rows(scan: Scan) -> Iterator[tuple[str, ...]]:
    """A row for each waiver: what stays as it is, and why."""
    found = {waiver for pairs in scan.waived.values() for _, waiver in pairs}
    for waiver in sorted(found, key=lambda one: (one.file, one.resource, one.key)):
        yield f"`{waiver.file}`", waiver.resource, waiver.key, waiver.reason


def peer_rows(_: Scan) -> Iterator[tuple[str, ...]]:
    """The figures of peers.yml (peers.py measures them)."""
    for one in yaml.safe_load(PEERS.read_text())["measured"]:
        yield tuple(
            str(one[key])
            for key in (
                "name",
                "date",
                "templates",
                "resources",
                "cfn_lint",
                "checkov",
                "guard",
                "own",
                "iam",
            )
        )


MARKS = {"yes": "✔", "no": "✘", "but": "✔ but", "none": "–", "account": "account"}
TABLES = {
    "security-hub": (security_hub_rows, ("control", "title", "our resources", "", "how, or why not")),
    "control-tower": (
        control_tower_rows,
        ("control", "title", "severity", "our resources", "", "why not", "NIST 800-53"),
    ),
    "waivers": (waiver_rows, ("template", "resource", "rule", "why it stays")),
    "peers": (
        peer_rows,
        (
            "suite",
            "last commit",
            "templates",
            "resources",
            "cfn-lint strict: errors / warnings",
            "checkov",
            "Control Tower",
            "own rules",
            "grants without a limit (ours: each with its reason)",
        ),
    ),
}


def table(name: str, scan: Scan) -> str:
    """A Markdown table."""
    rows, head = TABLES[name]
    lines = [head, tuple("---" for _ in head)]
    lines += [tuple(MARKS.get(cell, cell) for cell in row) for row in rows(scan)]
    shown = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    return shown + _summary(name, scan)


def _summary(name: str, scan: Scan) -> str:
    if name == "waivers":
        return ""
    rows, head = TABLES[name]
    if "" not in head:
        return ""
    verdicts = [row[head.index("")] for row in rows(scan)]
    met, partly, none = verdicts.count("yes"), verdicts.count("but"), verdicts.count("none")
    elsewhere = f", {verdicts.count('account')} of the account" if "account" in verdicts else ""
    missed = verdicts.count("no")
    told = f"{met} met, {partly} met but for what is named, {missed} not met, {none} without such a resource"
    return f"\n\n{told}{elsewhere}."


def render(text: str, scan: Scan) -> str:
    """The document with its tables made anew."""

    def fill(match: re.Match[str]) -> str:
        return f"<!-- made by check: {match[1]} -->\n\n{table(match[1], scan)}\n\n<!-- end -->"

    return re.sub(r"<!-- made by check: ([\w-]+) -->.*?<!-- end -->", fill, text, flags=re.DOTALL)


def stale(scan: Scan) -> list[Finding]:
    """A finding when the document says something else than the scan."""
    if DOCUMENT.read_text() == render(DOCUMENT.read_text(), scan):
        return []
    name = DOCUMENT.relative_to(ROOT).as_posix()
    text = "the tables are not those of this scan; run make check WRITE=1"
    return [Finding(name, "", "DOCS_STALE", "", text, "compliance")]


def write(scan: Scan) -> None:
    """Make the tables anew."""
    DOCUMENT.write_text(render(DOCUMENT.read_text(), scan))
