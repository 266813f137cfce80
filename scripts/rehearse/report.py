"""The report of a rehearsal: one HTML file that needs no network, for people who were not there."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

import yaml

from rehearse.cloud import ROOT
from rehearse.drawing import distribution, drift_bars, el, timeline
from rehearse.engine import Rehearsal, UseCase
from rehearse.monitoring import Hour
from rehearse.progress import clock

LIMITS = ROOT / "docs/limits.yml"
STYLE = Path(__file__).with_name("report.css")


class Markup(str):
    """Text that is HTML already."""


def table(head: Iterable[str], rows: Iterable[Iterable[Any]], numbers: tuple[int, ...] = ()) -> str:
    """An HTML table; cells are escaped unless they are Markup."""

    def row(cells: Iterable[Any], tag: str) -> str:
        shown = (cell if isinstance(cell, Markup) else escape(str(cell)) for cell in cells)
        return el("tr", *(el(tag, text, class_="n" if i in numbers else "") for i, text in enumerate(shown)))

    return el("div", el("table", row(head, "th"), *(row(cells, "td") for cells in rows)), class_="scroll")


def fold(title: str, *content: str) -> Markup:
    """Something that is there for those who want it."""
    return Markup(el("details", el("summary", escape(title)), *content))


def section(title: str, lead: str, *content: str, kind: str = "") -> str:
    """One card of the page."""
    return el("section", el("h2", escape(title)), el("p", escape(lead), class_="soft"), *content, class_=kind)


def key(*meanings: tuple[str, str]) -> str:
    """What the colours mean."""
    return el("p", *(el("span", class_="key", style=f"background:var({c})") + escape(m) for c, m in meanings))


def steps(cases: list[UseCase]) -> str:
    """Every step in words."""
    rows = [(case.letter, s.title, s.detail, f"{s.seconds:.1f} s") for case in cases for s in case.steps]
    return fold(f"All {len(rows)} steps", table(("", "step", "what came out", "time"), rows, (3,)))


def number(value: float | None) -> str:
    """Three decimals where it has any."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) > 1 else f"{value:.3f}"


def models(versions: list[dict[str, Any]]) -> str:
    """The metrics of each model version beside each other."""
    names = list(dict.fromkeys(name for version in versions for name in version["metrics"]))
    head = ["", *(f"version {version['version']}" for version in versions)]
    rows = [
        ["commit", *(version["commit"][:12] for version in versions)],
        ["registered as", *(version["status"] for version in versions)],
    ]
    rows += [[name, *(number(version["metrics"].get(name)) for version in versions)] for name in names]
    return table(head, rows, tuple(range(1, len(head))))


def feature(statistics: dict[str, Any], name: str) -> dict[str, Any]:
    """One feature of a statistics.json."""
    return next((f for f in statistics.get("features", []) if f["name"] == name), {})


def distances(hour: Hour) -> dict[str, Any]:
    """Feature -> how far its distribution was from the baseline in that hour."""
    return {
        one["subject"]: {"distance": one["value"], "threshold": one["threshold"], "violated": one["violated"]}
        for one in hour.summaries["data_quality"]["measures"]
        if one["name"] == "distance" and one["value"] is not None
    }


def drift(facts: dict[str, Any]) -> str:
    """What the monitors found, hour by hour, and what was told."""
    hours: list[Hour] = facts["hours"]
    rows = [
        (
            hour.title,
            hour.summaries["data_quality"]["records"],
            *("fired" if kind in hour.fired else "quiet" for kind in hour.summaries),
        )
        for hour in hours
    ]
    notices = facts.get("notices", [])
    lead = f"Each hour was judged by four monitors; {len(notices)} mails told the owner what they found."
    content = [table(("hour", "records", *hours[0].summaries), rows, (1,))]
    moved = next((hour for hour in hours if "data_quality" in hour.fired), None)
    if moved:
        content.append(el("h3", escape(f"How far the features moved: {moved.title}")))
        content.append(key(("--base", hours[0].title), ("--live", moved.title)))
        content.append(drift_bars(distances(hours[0]), distances(moved)))
        worst = sorted(distances(moved).items(), key=lambda one: one[1]["distance"], reverse=True)[:3]
        baseline = facts.get("baseline", {})
        plots = [
            distribution(name, feature(baseline, name), feature(moved.statistics, name)) for name, _ in worst
        ]
        if any(plots):
            content.append(key(("--base", "training data"), ("--live", moved.title)))
            content.append(el("div", *plots, class_="grid"))
    found = [
        (
            hour.title,
            kind,
            violation.get("feature_name") or violation.get("metric_name") or "",
            violation["description"],
        )
        for hour in hours
        for kind, listed in hour.violations.items()
        for violation in listed
    ]
    content.append(fold(f"{len(found)} violations", table(("hour", "monitor", "what", "found"), found)))
    content += [
        fold(mail["subject"], el("pre", escape(f"{mail['subject']}\n\n{mail['body']}"[:3000])))
        for mail in notices
    ]
    return section("Drift", lead, *content)


def resources(stacks: list[dict[str, Any]]) -> str:
    """Each stack with its number of resources and their kinds."""
    largest = max((sum(stack["types"].values()) for stack in stacks), default=1)
    rows = []
    for stack in sorted(stacks, key=lambda s: -sum(s["types"].values())):
        total = sum(stack["types"].values())
        kinds = Counter(stack["types"]).most_common()
        listed = ", ".join(f"{count} {kind.removeprefix('AWS::')}" for kind, count in kinds)
        filled = el("div", class_="bar", style=f"width:{max(total / largest * 100, 1):.0f}%")
        bar = Markup(el("div", filled, class_="track"))
        rows.append((stack["name"], total, bar, fold(f"{len(kinds)} types", escape(listed))))
    return table(("stack", "resources", "", "what"), rows, (1,))


def limits() -> list[dict[str, str]]:
    """What a rehearsal cannot prove; the documentation is made from the same file."""
    return yaml.safe_load(LIMITS.read_text())


def tiles(r: Rehearsal, result: dict[str, Any], stacks: list[dict[str, Any]]) -> str:
    """The figures at the top."""
    total = sum(sum(stack["types"].values()) for stack in stacks)
    shown = [
        (clock(result["seconds"]), "from nothing to the end"),
        (f"{total:,}", f"resources in {len(stacks)} stacks"),
        (f"{sum(len(case.steps) for case in r.cases)}", f"steps in {len(r.cases)} chapters"),
    ]
    metrics = r.facts.get("versions", [{}])[-1].get("metrics", {})
    if "auc" in metrics:
        shown.append((f"{metrics['auc']:.3f}", "AUC of the last model version"))
    if hours := r.facts.get("hours"):
        fired = sum(len(hour.fired) for hour in hours)
        shown.append((str(fired), f"times a monitor found drift in {len(hours)} hours"))
    parts = (el("div", el("b", escape(v)), el("span", escape(w)), class_="tile") for v, w in shown)
    return el("div", *parts, class_="tiles")


def failure(found: dict[str, Any]) -> str:
    """What stopped the rehearsal."""
    content = [el("p", el("b", escape(found["message"])))]
    if found["reasons"]:
        content.append(el("pre", escape("\n".join(found["reasons"]))))
    if found["look_at"]:
        content.append(el("p", "Look at: ", el("code", escape(found["look_at"]))))
    return section("What stopped it", found["where"], *content, kind="failed")


def left(groups: dict[str, list[str]]) -> str:
    """What the teardown left."""
    lists = (
        fold(f"{len(items)} {why}", el("pre", escape("\n".join(items)))) for why, items in groups.items()
    )
    lead = "Only what the templates' retention policy keeps, and what AWS services make by themselves."
    return section("Left after the teardown", lead, *lists)


def not_proven() -> str:
    """The honest end."""
    rows = [(item["area"], item["limit"], item["instead"]) for item in limits()]
    lead = "The local cloud is not AWS. These stay open until the platform runs in an account."
    return section("What a rehearsal cannot prove", lead, table(("", "not proven here", "instead"), rows))


def write(r: Rehearsal, result: dict[str, Any], path: Path) -> Path:
    """Write the page and return where it is."""
    facts = r.facts
    counted = [{"name": s["name"], "types": dict(s["types"])} for s in list(r.census.stacks.values())]
    stacks = facts.get("stacks") or counted
    passed = result["passed"]
    verdict = el("span", "passed" if passed else "failed", class_="verdict" if passed else "verdict no")
    version = facts.get("release", {}).get("version", "not published")
    when = f"{datetime.now(UTC):%d %B %Y, %H:%M} UTC · release {version} · local cloud, no AWS account"
    body = [
        el("h1", f"Rehearsal “{escape(r.name)}” ", verdict),
        el("p", escape(when), class_="soft"),
        tiles(r, result, stacks),
    ]
    if not passed:
        body.append(failure(result["failure"]))
    if r.cases:
        drawn = timeline(r.cases, math.ceil(result["seconds"]))
        body.append(
            section("Timeline", "Each bar is a step; point at it for what came out.", drawn, steps(r.cases))
        )
    if facts.get("versions"):
        body.append(section("Model", "What the registry holds, read back.", models(facts["versions"])))
    if facts.get("hours"):
        body.append(drift(facts))
    for found in facts.get("tables", []):
        body.append(section(found["title"], found["lead"], table(found["head"], found["rows"])))
    if stacks:
        lead = "Created by the real templates, counted before the teardown."
        body.append(section("Resources by stack", lead, resources(stacks)))
    if "left" in facts:
        body.append(left(facts["left"]))
    body.append(not_proven())
    head = (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width,initial-scale=1'>"
        f"<title>Rehearsal {escape(r.name)}</title>{el('style', STYLE.read_text())}"
    )
    path.write_text(f"{head}{el('main', *body)}</html>")
    return path
