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
from rehearse.engine import Rehearsal, UseCase
from rehearse.progress import clock

LIMITS = ROOT / "docs/limits.yml"
WIDTH = 960  # of every drawing, in its own units

STYLE = Path(__file__).with_name("report.css")


def table(head: Iterable[str], rows: Iterable[Iterable[Any]], numbers: tuple[int, ...] = ()) -> str:
    """An HTML table; cells are escaped unless they are ready-made markup (Markup)."""

    def cell(index: int, value: Any, tag: str) -> str:
        text = value if isinstance(value, Markup) else escape(str(value))
        return f"<{tag}{' class=n' if index in numbers else ''}>{text}</{tag}>"

    lines = ["<tr>" + "".join(cell(i, value, "th") for i, value in enumerate(head)) + "</tr>"]
    lines += ["<tr>" + "".join(cell(i, value, "td") for i, value in enumerate(row)) + "</tr>" for row in rows]
    return f"<div class=scroll><table>{''.join(lines)}</table></div>"


class Markup(str):
    """Text that is HTML already."""


def section(title: str, lead: str, *content: str, kind: str = "") -> str:
    """One card of the page."""
    return f"<section class='{kind}'><h2>{escape(title)}</h2><p class=soft>{escape(lead)}</p>{''.join(content)}</section>"


# --- timeline ---------------------------------------------------------------------------------------------
# ------------------


def nice_step(span: float, about: int = 8) -> float:
    """A round distance between marks."""
    raw = max(span, 1) / about
    return next((step for step in (1, 2, 5, 10, 15, 30, 60, 120, 300, 600) if step >= raw), 1200)


def timeline(cases: list[UseCase], total: float) -> str:
    """One row a use case, one segment a step."""
    left, row, top = 230, 30, 24
    scale = (WIDTH - left - 60) / max(total, 1)
    height = top + row * len(cases) + 8
    parts = [f"<svg viewBox='0 0 {WIDTH} {height}' role=img aria-label='Timeline of the use cases'>"]
    step = nice_step(total)
    for index in range(int(total / step) + 1):
        x = left + index * step * scale
        parts.append(f"<line x1={x:.1f} x2={x:.1f} y1={top - 4} y2={height} stroke='var(--line)'/>")
        parts.append(f"<text class=soft x={x:.1f} y=12 text-anchor=middle>{clock(index * step)}</text>")
    for index, case in enumerate(cases):
        y = top + row * index
        parts.append(
            f"<text x=0 y={y + 18}><tspan font-weight=650>{escape(case.letter)}</tspan>  {escape(case.title)}</text>"
        )
        for number, one in enumerate(case.steps):
            colour = "var(--bad)" if one.state == "failed" else "var(--base)"
            x, width = left + one.began * scale, max(one.seconds * scale, 1.5)
            label = escape(f"{one.title}: {one.seconds:.1f} s. {one.detail}")
            shade = 1 if number % 2 == 0 else 0.62
            parts.append(
                f"<rect x={x:.1f} y={y + 5} width={width:.1f} height=18 rx=2 fill='{colour}' opacity={shade}><title>{label}</title></rect>"
            )
        end = left + (case.began + case.seconds) * scale + 6
        parts.append(f"<text class=soft x={end:.1f} y={y + 18}>{case.seconds:.0f} s</text>")
    return "".join(parts) + "</svg>"


def steps(cases: list[UseCase]) -> str:
    """Every step in words."""
    rows = [
        (case.letter, step.title, step.detail, f"{step.seconds:.1f} s")
        for case in cases
        for step in case.steps
    ]
    return f"<details><summary>All {len(rows)} steps</summary>{table(('', 'step', 'what came out', 'time'), rows, (3,))}</details>"


# --- model ------------------------------------------------------------------------------------------------
# ------------------


def models(versions: list[dict[str, Any]]) -> str:
    """The metrics of each model version beside each other."""
    names = list(dict.fromkeys(name for version in versions for name in version["metrics"]))
    head = ["metric", *(f"version {version['version']}" for version in versions)]
    rows = [[name, *(number(v["metrics"].get(name)) for v in versions)] for name in names]
    facts = [
        ["commit", *(v["commit"][:12] for v in versions)],
        ["registered as", *(v["status"] for v in versions)],
    ]
    return table(head, facts + rows, tuple(range(1, len(head))))


def number(value: float | None) -> str:
    """Three decimals where it has any."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) > 1 else f"{value:.3f}"


# --- drift ------------------------------------------------------------------------------------------------
# ------------------


def drift_bars(drift: dict[str, Any], most: int = 10) -> str:
    """How far each feature moved from the baseline, with clean and with drifted traffic, against its threshold."""
    clean, live = drift["clean"]["drift"]["features"], drift["drifted"]["drift"]["features"]
    names = sorted(live, key=lambda name: live[name]["distance"], reverse=True)[:most]
    left, row, top = 200, 30, 10
    height = top + row * len(names) + 26
    scale = (WIDTH - left - 60) / max(
        [1e-9, *(live[n]["distance"] for n in names), *(live[n]["threshold"] for n in names)]
    )
    parts = [f"<svg viewBox='0 0 {WIDTH} {height}' role=img aria-label='Drift of the features'>"]
    for index, name in enumerate(names):
        y = top + row * index
        weight = "650" if live[name]["violated"] else "400"
        parts.append(
            f"<text x={left - 10} y={y + 17} text-anchor=end font-weight={weight}>{escape(name)}</text>"
        )
        for offset, source, colour in ((2, clean, "--base"), (13, live, "--live")):
            value = source.get(name, {}).get("distance", 0.0)
            parts.append(
                f"<rect x={left} y={y + offset} width={max(value * scale, 1):.1f} height=9 rx=2 fill='var({colour})'>"
                f"<title>{escape(name)}: {value:.3f}</title></rect>"
            )
        parts.append(
            f"<text class=soft x={left + live[name]['distance'] * scale + 6:.1f} y={y + 21}>{live[name]['distance']:.2f}</text>"
        )
        x = left + live[name]["threshold"] * scale
        parts.append(
            f"<line x1={x:.1f} x2={x:.1f} y1={y} y2={y + row - 4} stroke='var(--bad)' stroke-width=1.5 stroke-dasharray='3 2'/>"
        )
    parts.append(
        f"<text class=soft x={left} y={height - 6}>distance from the baseline; the dashed line is the threshold</text>"
    )
    return "".join(parts) + "</svg>"


def feature(statistics: dict[str, Any], name: str) -> dict[str, Any]:
    """One feature of a statistics.json."""
    return next((f for f in statistics.get("features", []) if f["name"] == name), {})


def shares(found: dict[str, Any]) -> tuple[str, list[tuple[Any, Any, float]]]:
    """The distribution of a feature: ("numbers", [(low, high, density)]) or ("words", [(value, value, share)])."""
    numeric = found.get("numerical_statistics", {}).get("distribution", {}).get("kll", {}).get("buckets", [])
    if numeric:
        total = sum(b["count"] for b in numeric) or 1
        return "numbers", [
            (
                b["lower_bound"],
                b["upper_bound"],
                b["count"] / total / max(b["upper_bound"] - b["lower_bound"], 1e-9),
            )
            for b in numeric
        ]
    words = (
        found.get("string_statistics", {}).get("distribution", {}).get("categorical", {}).get("buckets", [])
    )
    total = sum(b["count"] for b in words) or 1
    return "words", [(b["value"], b["value"], b["count"] / total) for b in words]


def distribution(name: str, baseline: dict[str, Any], live: dict[str, Any]) -> str:
    """Baseline and live distribution of one feature, drawn over each other."""
    width, height, base = 300, 150, 122
    (kind, before), (_, after) = shares(feature(baseline, name)), shares(feature(live, name))
    if not before or not after:
        return ""
    parts = [
        f"<div><h3>{escape(name)}</h3><svg viewBox='0 0 {width} {height}' role=img aria-label='{escape(name)} before and now'>"
    ]
    top = max(value for _, _, value in before + after) or 1
    if kind == "numbers":
        low, high = min(b[0] for b in before + after), max(b[1] for b in before + after)
        scale = width / max(high - low, 1e-9)
        for buckets, colour in ((before, "--base"), (after, "--live")):
            points = [f"{(buckets[0][0] - low) * scale:.1f},{base}"]
            for start, end, value in buckets:
                y = base - value / top * (base - 8)
                points += [f"{(start - low) * scale:.1f},{y:.1f}", f"{(end - low) * scale:.1f},{y:.1f}"]
            points.append(f"{(buckets[-1][1] - low) * scale:.1f},{base}")
            parts.append(
                f"<polygon points='{' '.join(points)}' fill='var({colour})' fill-opacity=.22 stroke='var({colour})' stroke-width=1.5 />"
            )
        parts.append(
            f"<text class=soft x=0 y=142>{low:,.0f}</text><text class=soft x={width} y=142 text-anchor=end>{high:,.0f}</text>"
        )
    else:
        seen = dict((value, share) for value, _, share in after)
        words = sorted(
            {*seen, *(value for value, _, _ in before)},
            key=lambda w: -max(seen.get(w, 0), dict((v, s) for v, _, s in before).get(w, 0)),
        )[:6]
        earlier = dict((value, share) for value, _, share in before)
        slot = width / max(len(words), 1)
        for index, word in enumerate(words):
            for offset, share, colour in (
                (0.1, earlier.get(word, 0), "--base"),
                (0.48, seen.get(word, 0), "--live"),
            ):
                tall = share / top * (base - 8)
                parts.append(
                    f"<rect x={(index + offset) * slot:.1f} y={base - tall:.1f} width={slot * 0.36:.1f} height={tall:.1f} rx=1.5 fill='var({colour})'>"
                    f"<title>{escape(str(word))}: {share:.0%}</title></rect>"
                )
            shown = (
                str(word) if len(str(word)) <= slot / 6.5 else str(word)[: max(int(slot / 6.5) - 1, 1)] + "…"
            )
            parts.append(
                f"<text class=soft x={(index + 0.48) * slot:.1f} y=142 text-anchor=middle>{escape(shown)}</text>"
            )
    return "".join(parts) + f"<line x1=0 x2={width} y1={base} y2={base} stroke='var(--line)'/></svg></div>"


def drift_section(drift: dict[str, Any]) -> str:
    """What the monitor found."""
    features = drift["drifted"]["drift"]["features"]
    worst = sorted(features, key=lambda name: features[name]["distance"], reverse=True)[:3]
    key = "<p><span class=key style='background:var(--base)'></span>{}<span class=key style='background:var(--live)'></span>{}</p>"
    plots = "".join(distribution(name, drift["baseline"], drift["drifted"]["statistics"]) for name in worst)
    rows = [
        (v["feature_name"], v["constraint_check_type"], v["description"])
        for v in drift["drifted"]["violations"]
    ]
    mail = drift["mail"]
    return section(
        "Drift",
        f"Clean traffic ({drift['clean']['drift']['records']} records) gave no violation; drifted traffic "
        f"({drift['drifted']['drift']['records']} records) gave {len(rows)}, the alarm, and a mail to {mail['to']}.",
        key.format("clean traffic", "drifted traffic"),
        drift_bars(drift),
        "<h3>The three features that moved most</h3>"
        + key.format("training data", "drifted traffic")
        + f"<div class=grid>{plots}</div>"
        if plots
        else "",
        f"<details><summary>{len(rows)} violations</summary>{table(('feature', 'check', 'what was found'), rows)}</details>",
        f"<details><summary>The mail</summary><pre>{escape(mail['subject'])}\n\n{escape(str(mail['body'])[:3000])}</pre></details>",
    )


# --- resources, limits
# ------------------------------------------------------------------------------------------------------


def resources(stacks: list[dict[str, Any]]) -> str:
    """Each stack with its number of resources and their kinds."""
    largest = max((sum(s["types"].values()) for s in stacks), default=1)
    rows = []
    for stack in sorted(stacks, key=lambda s: -sum(s["types"].values())):
        total = sum(stack["types"].values())
        kinds = ", ".join(
            f"{count} {kind.removeprefix('AWS::')}" for kind, count in Counter(stack["types"]).most_common()
        )
        bar = Markup(f"<div class=bar style='width:{max(total / largest * 100, 1):.0f}%'></div>")
        what = Markup(f"<details><summary>{len(stack['types'])} types</summary>{escape(kinds)}</details>")
        rows.append((stack["name"], total, bar, what))
    return table(("stack", "resources", "", "what"), rows, (1,))


def limits() -> list[dict[str, str]]:
    """What a rehearsal cannot prove; the documentation is made from the same file."""
    return yaml.safe_load(LIMITS.read_text())


def write(r: Rehearsal, result: dict[str, Any], path: Path) -> Path:
    """Write the page and return where it is."""
    facts = r.facts
    stacks = facts.get("stacks") or [
        {"name": s["name"], "types": dict(s["types"])} for s in list(r.census.stacks.values())
    ]
    total = sum(sum(s["types"].values()) for s in stacks)
    version = facts.get("versions", [{}])[-1]
    tiles = [
        (clock(result["seconds"]), "from nothing to the end"),
        (f"{total:,}", f"resources in {len(stacks)} stacks"),
        (f"{sum(len(c.steps) for c in r.cases)}", f"steps in {len(r.cases)} chapters"),
    ]
    if "auc" in version.get("metrics", {}):
        tiles.append((f"{version['metrics']['auc']:.3f}", "AUC of the last model version"))
    if "drift" in facts:
        tiles.append((str(len(facts["drift"]["drifted"]["violations"])), "violations in drifted traffic"))
    verdict = (
        "<span class=verdict>passed</span>" if result["passed"] else "<span class='verdict no'>failed</span>"
    )
    body = [
        f"<h1>Rehearsal “{escape(r.name)}” {verdict}</h1>",
        f"<p class=soft>{datetime.now(UTC):%d %B %Y, %H:%M} UTC · release {escape(facts.get('release', {}).get('version', 'not published'))}"
        " · local cloud, no AWS account</p>",
        "<div class=tiles>"
        + "".join(f"<div class=tile><b>{escape(v)}</b><span>{escape(what)}</span></div>" for v, what in tiles)
        + "</div>",
    ]
    if failure := result.get("failure"):
        body.append(
            section(
                "What stopped it",
                failure["where"],
                f"<p><b>{escape(failure['message'])}</b></p>",
                f"<pre>{escape(chr(10).join(failure['reasons']))}</pre>" if failure["reasons"] else "",
                f"<p>Look at: <code>{escape(failure['look_at'])}</code></p>" if failure["look_at"] else "",
                kind="failed",
            )  # fmt: skip
        )
    if r.cases:
        body.append(
            section(
                "Timeline",
                "Each bar is a step; hover for what came out of it.",
                timeline(r.cases, math.ceil(result["seconds"])),
                steps(r.cases),
            )
        )
    if facts.get("versions"):
        body.append(
            section(
                "Model", "What the registry holds, read back from its entries.", models(facts["versions"])
            )
        )
    if "drift" in facts:
        body.append(drift_section(facts["drift"]))
    if stacks:
        body.append(
            section(
                "Resources by stack",
                "Created by the real templates, counted before the teardown.",
                resources(stacks),
            )
        )
    if "left" in facts:
        lists = "".join(
            f"<details><summary>{len(items)} {escape(why)}</summary><pre>{escape(chr(10).join(items))}</pre></details>"
            for why, items in facts["left"].items()
        )
        body.append(
            section(
                "Left after the teardown",
                "Only what the templates' retention policy keeps, and what AWS services make by themselves.",
                lists,
            )
        )
    rows = [(item["area"], item["limit"], item["instead"]) for item in limits()]
    body.append(
        section(
            "What a rehearsal cannot prove",
            "The local cloud is not AWS. These stay open until the platform runs in an account.",
            table(("", "not proven here", "what to do instead"), rows),
        )
    )
    page = (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width,initial-scale=1'>"
        f"<title>Rehearsal {escape(r.name)}</title><style>{STYLE.read_text()}</style><main>{''.join(body)}</main></html>"
    )
    path.write_text(page)
    return path
