"""Writes the generated parts of docs/: parameters, retention, endpoints, limits (`make docs`).

A generated part stands between `<!-- generated: NAME -->` and `<!-- end -->`; a test fails when one is stale.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

import teardown

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
ENTRIES = ("1-infra.yaml", "2-smproject.yaml", "3-user.yaml")


def markdown(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def parameters() -> str:
    """What a launch form asks for; what it reads from SSM is left out, nobody types that."""
    parts = []
    for name in ENTRIES:
        text = (ROOT / "mlops-cfn" / name).read_text()
        template = yaml.load(text, Loader=teardown.CloudFormationLoader)  # noqa: S506 - a SafeLoader
        rows = []
        for parameter, found in template["Parameters"].items():
            if found["Type"].startswith("AWS::SSM::") or parameter.startswith("SageMakerProject"):
                continue
            default = found.get("Default", "")
            shown = (
                f"`{default}`"
                if "Default" in found and default != ""
                else "optional"
                if "Default" in found
                else "required"
            )
            values = ", ".join(f"`{value}`" for value in found.get("AllowedValues", []))
            rows.append((f"`{parameter}`", shown, values, " ".join(found["Description"].split())))
        parts.append(f"### {name}\n\n" + markdown(("parameter", "default", "values", "meaning"), rows))
    return "\n\n".join(parts)


def retention() -> str:
    """Every resource that outlives its stack, with the reason that stands beside its policy."""
    rows = []
    for path in sorted((ROOT / "mlops-cfn").rglob("*.yaml")):
        name = kind = ""
        for line in path.read_text().splitlines():
            if found := re.fullmatch(r"  (\w+):\s*(#.*)?", line):
                name = found[1]
            elif found := re.match(r"    Type: (AWS::\S+)", line):
                kind = found[1]
            elif found := re.match(r"    DeletionPolicy: Retain\w*\s*(?:#\s*(.*))?$", line):
                where = path.relative_to(ROOT / "mlops-cfn").as_posix()
                rows.append((f"`{where}`", name, kind.removeprefix("AWS::"), found[1] or ""))
    return markdown(("template", "resource", "type", "who still needs it"), rows)


def endpoints() -> str:
    """Every VPC endpoint: when it is there, what calls it, as it stands beside it, and its policy."""
    path = ROOT / "mlops-cfn/infra/network.yaml"
    template = yaml.load(path.read_text(), Loader=teardown.CloudFormationLoader)  # noqa: S506 - a SafeLoader
    beside = dict(re.findall(r"^  (\w+Endpoint):\s+# (.+)$", path.read_text(), re.MULTILINE))
    rows = []
    for name, resource in template["Resources"].items():
        if resource["Type"] != "AWS::EC2::VPCEndpoint":
            continue
        found = resource["Properties"]
        service = re.sub(r"^com\.amazonaws\.\$\{AWS::Region\}\.", "", found["ServiceName"])
        kind = "gateway" if found["VpcEndpointType"] == "Gateway" else "interface"
        rows.append(
            (
                f"`{service}`".replace("${AWS::Region}", "<region>"),
                "optional" if "Condition" in resource else kind,
                beside[name],
                "; ".join(_statement(s) for s in found["PolicyDocument"]["Statement"]),
            )
        )
    return markdown(("endpoint", "", "called from inside by", "policy: what, and of whom"), rows)


def _statement(statement: Any) -> str:
    if isinstance(statement, list):  # Fn::If
        return f"with `StageAccountIds`: {_statement(statement[1])}"
    actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
    keys = statement.get("Condition", {}).get("StringEquals", {})
    pinned: dict[str, list[str]] = {}
    for key, text in (("aws:PrincipalAccount", "callers"), ("aws:ResourceAccount", "resources")):
        if key in keys:
            whose = "this account" if keys[key] == "AWS::AccountId" else "these accounts"
            pinned.setdefault(whose, []).append(text)
    whose = "; ".join(f"{' and '.join(who)} of {account}" for account, who in pinned.items()) or "any caller"
    resources = statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]]
    shown = {re.sub(r"^arn:\S*?:(?:s3:::|repository/)", "", r).removesuffix("/*") for r in resources} - {"*"}
    on = f" on {', '.join(f'`{one}`' for one in sorted(shown))}" if shown else ""
    return f"{', '.join(f'`{a}`' for a in actions)}{on} ({whose})"


def grants() -> str:
    """Every statement that crosses accounts: where it stands, what it allows, what is denied without it."""
    rows = []
    for row in yaml.safe_load((ROOT / "tests/security/cross_account.yml").read_text()):
        template, resource, sid = row["statement"].rsplit("/", 2)
        text = (ROOT / "mlops-cfn" / template).read_text()
        found = yaml.load(text, Loader=teardown.CloudFormationLoader)  # noqa: S506 - a SafeLoader
        statement = next(s for s in _nodes(found["Resources"][resource]) if s.get("Sid") == sid)
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        side = "stage" if template.startswith("accounts/") else "tooling"
        shown = ", ".join(f"`{action}`" for action in actions)
        rows.append((side, f"`{template}` {resource}", sid, shown, f"`{row['action']}`"))
    return markdown(("account", "where", "statement", "allows", "denied without it"), rows)


def _nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Every mapping in a value."""
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from _nodes(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _nodes(inner)


def limits() -> str:
    """The list that the rehearsal's report shows too."""
    found = yaml.safe_load((DOCS / "limits.yml").read_text())
    rows = [(item["area"], item["limit"], item["instead"]) for item in found]
    return markdown(("", "not proven", "instead"), rows)


def matrix() -> str:
    """Who may do what: the table that tests/security decides twice, a mark for each scope of each row."""
    found = yaml.safe_load((ROOT / "tests/security/matrix.yml").read_text())
    scopes = [s for s in ("own", "other", "platform", "colleague") if any(s in row for row in found["rows"])]
    parts, cells = [], 0
    titles = {
        "people": "People",
        "project": "Roles of a project",
        "platform": "Roles of the platform",
    }
    for group, subjects in found["subjects"].items():
        head = ("", "scopes", *(one["is"] for one in subjects.values()))
        rows: list[tuple[str, ...]] = []
        for row in found["rows"]:
            if row.get("group"):
                rows.append((f"**{row['group']}**", *("" for _ in head[1:])))
            here = [scope for scope in scopes if scope in row]
            cells += len(here) * len(subjects)
            marks = (
                "".join("✓" if name in row[scope].split() else "✗" for scope in here) for name in subjects
            )
            rows.append((row["act"], " · ".join(here), *marks))
        parts.append(f"## {titles[group]}\n\n{markdown(head, rows)}")
    return f"{cells} cells.\n\n" + "\n\n".join(parts)


GENERATED = {
    "parameters": parameters,
    "retention": retention,
    "endpoints": endpoints,
    "grants": grants,
    "limits": limits,
    "matrix": matrix,
}


def render(text: str) -> str:
    """A document with its generated parts made anew."""

    def fill(match: re.Match[str]) -> str:
        return f"<!-- generated: {match[1]} -->\n\n{GENERATED[match[1]]()}\n\n<!-- end -->"

    return re.sub(r"<!-- generated: (\w+) -->.*?<!-- end -->", fill, text, flags=re.DOTALL)


def main(argv: list[str] | None = None) -> int:
    """Write, or with --check exit 1 naming what is stale."""
    check = "--check" in (argv if argv is not None else sys.argv[1:])
    stale = []
    for path in sorted(DOCS.glob("*.md")):
        text = path.read_text()
        if (fresh := render(text)) != text:
            stale.append(path.relative_to(ROOT).as_posix())
            if not check:
                path.write_text(fresh)
    if check and stale:
        print(f"docs: {', '.join(stale)} is stale; run `make docs`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
