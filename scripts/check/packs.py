"""Rule packs: read from the packages that publish them, narrowed to the resource types that are looked at.

Both packages extend the AWS CDK and carry their rules inside an archive of JavaScript; the rules themselves
are plain Guard and Rego, so nothing of the CDK is needed.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

OWN = Path(__file__).with_name("rules")
# Rules of the pack that cannot judge templates as they lie in a repository.
NOT_APPLICABLE = {
    # nested templates are uploaded and their URLs stamped at release; the local value is "unreleased"
    "pf-cfn-nested-templateurl-scheme",
}


@dataclass(frozen=True)
class Rule:
    """One rule as source text."""

    name: str
    source: str
    types: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Control:
    """A Control Tower proactive control: its Guard rule, and what its publisher says of it."""

    rule: Rule
    title: str
    severity: str
    security_hub: tuple[str, ...]
    frameworks: dict[str, list[str]]

    def __hash__(self) -> int:
        return hash(self.rule.name)


def _archive(package: str) -> tarfile.TarFile:
    found = [file for file in distribution(package).files or [] if file.name.endswith(".jsii.tgz")]
    if len(found) != 1:
        raise LookupError(f"{package} holds {len(found)} rule archives, one is expected")
    return tarfile.open(str(found[0].locate()))


@cache
def controls() -> tuple[Control, ...]:
    """Every Control Tower proactive control that comes as a Guard rule."""
    guard: dict[str, str] = {}
    metadata: dict[str, dict[str, Any]] = {}
    with _archive("cdklabs-cdk-validator-cfnguard") as archive:
        for member in archive:
            name = Path(member.name)
            if "/control-tower/cfn-guard/" in member.name and name.suffix == ".guard":
                guard[name.stem] = archive.extractfile(member).read().decode()
            elif "/control-tower/metadata/" in member.name and name.name.endswith(".metadata.json"):
                metadata[name.name.removesuffix(".metadata.json")] = json.load(archive.extractfile(member))
    if guard.keys() != metadata.keys() or len(guard) < 200:
        raise LookupError("the Control Tower pack is not as expected: rules and metadata differ")
    return tuple(_control(guard[name], metadata[name]) for name in sorted(guard))


def _control(source: str, about: dict[str, Any]) -> Control:
    types = frozenset(about.get("EvaluatedResourceTypes") or [])
    related = [one["ControlId"] for one in about.get("Relationships") or []]
    return Control(
        rule=Rule(about["Id"], source, types),
        title=about["DisplayName"],
        severity=about["Severity"],
        security_hub=tuple(sorted(one.removeprefix("SH.") for one in related if one.startswith("SH."))),
        frameworks={
            one["ComplianceFramework"]: one["Ids"] for one in about.get("ComplianceFrameworkMappings") or []
        },
    )


def control_tower(types: Iterable[str]) -> list[Rule]:
    """The Guard rules of Control Tower that judge any of these resource types."""
    wanted = set(types)
    return [control.rule for control in controls() if control.rule.types & wanted]


@cache
def own() -> tuple[Rule, ...]:
    """The platform's own Guard rules, one a file."""
    return tuple(Rule(path.stem, path.read_text()) for path in sorted(OWN.glob("*.guard")))


def guard(types: Iterable[str]) -> list[Rule]:
    """All Guard rules for these resource types."""
    return [*control_tower(types), *own()]


@cache
def _preflight() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    with _archive("cdk-preflight") as archive:
        text = archive.extractfile("package/lib/rules.generated.js").read().decode()
    decoder, found = json.JSONDecoder(), []
    for name in ("BUNDLED_RULES", "BUNDLED_LIBS"):
        place = re.search(rf"exports\.{name} = (?=\[)", text)
        if not place:
            raise LookupError(f"cdk-preflight has no {name}")
        found.append(decoder.raw_decode(text, place.end())[0])
    return found[0], found[1]


def preflight(types: Iterable[str]) -> list[Rule]:
    """The Rego rules for deploy-time failures that concern any of these types, with their libraries."""
    wanted = set(types)
    rules, libraries = _preflight()
    needed = [
        Rule(one["id"], one["rego"])
        for one in rules
        if (not one["resourceTypes"] or wanted & set(one["resourceTypes"]))
        and one["id"] not in NOT_APPLICABLE
    ]
    return needed + [Rule(one["name"], one["rego"]) for one in libraries]
