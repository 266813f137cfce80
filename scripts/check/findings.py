"""A finding, and the waivers that stand beside resources.

A waiver is an entry of the resource's Metadata: `Waivers: {<rule>: <reason>}`, or `<rule>/<part>` where a
rule judges parts of a resource, such as the statements of its policies. What concerns no resource is waived
in the template's own Metadata. A waiver without a reason, one that waives nothing, and a suppression in a
scanner's own notation are findings too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from check.templates import Template

WAIVERS = "Waivers"
# where scanners look for suppressions of their own; two notations for one thing would let one go unseen
FOREIGN = ("cfn-lint", "checkov", "cfn_nag", "guard", "cdk_nag", "cfn-guard")
FOREIGN_COMMENT = re.compile(r"#\s*(checkov:skip|nosec|cfn-lint|cfn_nag)")
SHORTEST_REASON = 20


@dataclass(frozen=True, order=True)
class Finding:
    """One thing that a scanner holds against one resource."""

    file: str
    resource: str
    rule: str
    part: str
    message: str
    scanner: str
    line: int = 0

    @property
    def waiver(self) -> str:
        """The key that waives it."""
        return f"{self.rule}/{self.part}" if self.part else self.rule

    def as_dict(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self)


def finding(
    template: Template,
    scanner: str,
    rule: str,
    message: str,
    resource: str = "",
    part: str = "",
    line: int = 0,
) -> Finding:
    """A finding in a template; without a line it gets the resource's."""
    text = " ".join(message.split())
    return Finding(template.name, resource, rule, part, text, scanner, line or template.line(resource))


@dataclass(frozen=True)
class Waiver:
    """A reason to leave a finding as it is."""

    file: str
    resource: str
    key: str
    reason: str


def waivers(template: Template) -> Iterator[Waiver]:
    """All waivers of a template."""
    places = [("", template.data)] + list(template.resources.items())
    for name, place in places:
        found = (place.get("Metadata") or {}).get(WAIVERS) or {}
        for key, reason in found.items():
            yield Waiver(template.name, name, str(key), str(reason or ""))


def judge(
    templates: Iterable[Template], findings: Iterable[Finding], complete: bool = True
) -> tuple[list[Finding], list[tuple[Finding, Waiver]]]:
    """What is open, and what is waived by whom. Waivers that do not hold are open findings themselves;
    whether one waives nothing is known only when the scan was complete.
    """
    templates = list(templates)
    known = {(one.file, one.resource, one.key): one for template in templates for one in waivers(template)}
    open_findings: set[Finding] = set()
    waived: set[tuple[Finding, Waiver]] = set()
    for one in findings:
        waiver = known.get((one.file, one.resource, one.waiver))
        if waiver is None:
            open_findings.add(one)
        else:
            waived.add((one, waiver))
    used = {waiver for _, waiver in waived}
    for template in templates:
        open_findings |= set(foreign_suppressions(template))
        for waiver in waivers(template):
            if len(waiver.reason) < SHORTEST_REASON:
                text = f"the waiver of {waiver.key} has no reason that explains it: {waiver.reason!r}"
                open_findings.add(
                    finding(template, "waivers", "WAIVER_REASON", text, waiver.resource, waiver.key)
                )
            if complete and waiver not in used:
                text = f"the waiver of {waiver.key} waives nothing; take it out"
                open_findings.add(
                    finding(template, "waivers", "WAIVER_UNUSED", text, waiver.resource, waiver.key)
                )
    return sorted(open_findings), sorted(waived, key=lambda pair: pair[0])


def foreign_suppressions(template: Template) -> Iterator[Finding]:
    """Suppressions that would work on a scanner without being counted here."""
    places = [("", template.data)] + list(template.resources.items())
    for name, place in places:
        for key in place.get("Metadata") or {}:
            if str(key) in FOREIGN:
                text = f"Metadata.{key} suppresses in a scanner's own notation; use Metadata.{WAIVERS}"
                yield finding(template, "waivers", "FOREIGN_SUPPRESSION", text, name, str(key))
    for number, line in enumerate(template.text.splitlines(), 1):
        if FOREIGN_COMMENT.search(line):
            text = f"a suppression in a comment; use Metadata.{WAIVERS}"
            yield finding(template, "waivers", "FOREIGN_SUPPRESSION", text, line=number)
