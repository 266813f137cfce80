"""The drawings of the report: inline SVG whose colours come from report.css."""

from __future__ import annotations

from html import escape
from typing import Any

from rehearse.engine import UseCase
from rehearse.progress import clock

WIDTH = 960  # of a drawing that goes over the whole page, in its own units


def el(name: str, *content: str, **attributes: Any) -> str:
    """An HTML or SVG element: content is markup already, attributes are escaped; class_ is class,
    text_anchor is text-anchor.
    """
    shown = ""
    for key, value in attributes.items():
        plain = f"{value:.1f}" if isinstance(value, float) else str(value)
        shown += f" {key.rstrip('_').replace('_', '-')}='{escape(plain)}'"
    return f"<{name}{shown}>{''.join(content)}</{name}>"


def text(x: float, y: float, content: str, **attributes: Any) -> str:
    """Words in a drawing."""
    return el("text", escape(content), x=x, y=y, **attributes)


def rect(x: float, y: float, width: float, height: float, colour: str, title: str, **attributes: Any) -> str:
    """A bar that says what it is when pointed at."""
    size = {"x": x, "y": y, "width": float(width), "height": height, "rx": 2}
    return el("rect", el("title", escape(title)), **size, fill=f"var({colour})", **attributes)


def line(x1: float, x2: float, y1: float, y2: float, colour: str = "--line", **attributes: Any) -> str:
    """A straight line."""
    return el("line", x1=x1, x2=x2, y1=y1, y2=y2, stroke=f"var({colour})", **attributes)


def svg(width: float, height: float, label: str, *content: str) -> str:
    """A drawing that is as wide as its place."""
    return el("svg", *content, viewBox=f"0 0 {width} {height}", role="img", aria_label=label)


def nice_step(span: float, about: int = 8) -> float:
    """A round distance between marks."""
    raw = max(span, 1) / about
    return next((step for step in (1, 2, 5, 10, 15, 30, 60, 120, 300, 600) if step >= raw), 1200)


def timeline(cases: list[UseCase], total: float) -> str:
    """One row a use case, one segment a step."""
    left, row, top = 230, 30, 24
    scale = (WIDTH - left - 60) / max(total, 1)
    height = top + row * len(cases) + 8
    parts = []
    step = nice_step(total)
    for index in range(int(total / step) + 1):
        x = left + index * step * scale
        parts.append(line(x, x, top - 4, height))
        parts.append(text(x, 12, clock(index * step), class_="soft", text_anchor="middle"))
    for index, case in enumerate(cases):
        y = top + row * index
        parts.append(text(0, y + 18, case.letter, font_weight=650) + text(24, y + 18, case.title))
        for number, one in enumerate(case.steps):
            colour = "--bad" if one.state == "failed" else "--base"
            label = f"{one.title}: {one.seconds:.1f} s. {one.detail}"
            width = max(one.seconds * scale, 1.5)
            shade = 1 if number % 2 == 0 else 0.62  # neighbours must be told apart
            parts.append(rect(left + one.began * scale, y + 5, width, 18, colour, label, opacity=shade))
        end = left + (case.began + case.seconds) * scale + 6
        parts.append(text(end, y + 18, f"{case.seconds:.0f} s", class_="soft"))
    return svg(WIDTH, height, "Timeline of the use cases", *parts)


def drift_bars(clean: dict[str, Any], live: dict[str, Any], most: int = 10) -> str:
    """How far each feature moved from the baseline, with clean and drifted traffic, against its threshold."""
    names = sorted(live, key=lambda name: live[name]["distance"], reverse=True)[:most]
    left, row, top = 200, 30, 10
    height = top + row * len(names) + 26
    largest = max([1e-9, *(max(live[name]["distance"], live[name]["threshold"]) for name in names)])
    scale = (WIDTH - left - 60) / largest
    parts = []
    for index, name in enumerate(names):
        y, found = top + row * index, live[name]
        weight = 650 if found["violated"] else 400
        parts.append(text(left - 10, y + 17, name, text_anchor="end", font_weight=weight))
        for offset, source, colour in ((2, clean, "--base"), (13, live, "--live")):
            value = source.get(name, {}).get("distance", 0.0)
            parts.append(rect(left, y + offset, max(value * scale, 1), 9, colour, f"{name}: {value:.3f}"))
        end = left + found["distance"] * scale + 6
        parts.append(text(end, y + 21, f"{found['distance']:.2f}", class_="soft"))
        x = left + found["threshold"] * scale
        parts.append(line(x, x, y, y + row - 4, "--bad", stroke_width=1.5, stroke_dasharray="3 2"))
    note = "distance from the baseline; the dashed line is the threshold"
    return svg(WIDTH, height, "Drift of the features", *parts, text(left, height - 6, note, class_="soft"))


def shares(found: dict[str, Any]) -> tuple[str, list[tuple[Any, Any, float]]]:
    """A feature of a statistics.json as ("numbers", [(low, high, density)]) or ("words", [(value, value,
    share)]).
    """
    numeric = found.get("numerical_statistics", {}).get("distribution", {}).get("kll", {}).get("buckets", [])
    if numeric:
        total = sum(bucket["count"] for bucket in numeric) or 1
        edges = [(b["lower_bound"], b["upper_bound"], b["count"] / total) for b in numeric]
        return "numbers", [(low, high, share / max(high - low, 1e-9)) for low, high, share in edges]
    words = (
        found.get("string_statistics", {}).get("distribution", {}).get("categorical", {}).get("buckets", [])
    )
    total = sum(bucket["count"] for bucket in words) or 1
    return "words", [(b["value"], b["value"], b["count"] / total) for b in words]


def distribution(name: str, baseline: dict[str, Any], live: dict[str, Any]) -> str:
    """Baseline and live distribution of a feature, drawn over each other; empty when one is not known."""
    width, height, base = 300, 150, 122
    (kind, before), (_, after) = shares(baseline), shares(live)
    if not before or not after:
        return ""
    top = max(value for _, _, value in before + after) or 1
    draw = _steps if kind == "numbers" else _columns
    floor = line(0, width, base, base)
    drawn = svg(width, height, f"{name}, before and now", draw(before, after, width, base, top), floor)
    return el("div", el("h3", escape(name)), drawn)


def _steps(before: list[Any], after: list[Any], width: int, base: int, top: float) -> str:
    """Two histograms as outlines."""
    low, high = min(b[0] for b in before + after), max(b[1] for b in before + after)
    scale = width / max(high - low, 1e-9)
    parts = []
    for buckets, colour in ((before, "var(--base)"), (after, "var(--live)")):
        points = [f"{(buckets[0][0] - low) * scale:.1f},{base}"]
        for start, end, value in buckets:
            y = base - value / top * (base - 8)
            points += [f"{(start - low) * scale:.1f},{y:.1f}", f"{(end - low) * scale:.1f},{y:.1f}"]
        points.append(f"{(buckets[-1][1] - low) * scale:.1f},{base}")
        look = {"fill": colour, "fill_opacity": 0.22, "stroke": colour, "stroke_width": 1.5}
        parts.append(el("polygon", points=" ".join(points), **look))
    parts.append(text(0, 142, f"{low:,.0f}", class_="soft"))
    return "".join(parts) + text(width, 142, f"{high:,.0f}", class_="soft", text_anchor="end")


def _columns(before: list[Any], after: list[Any], width: int, base: int, top: float, most: int = 6) -> str:
    """The shares of the most frequent values, side by side."""
    earlier, now = ({value: share for value, _, share in found} for found in (before, after))
    words = sorted({*earlier, *now}, key=lambda word: -max(earlier.get(word, 0), now.get(word, 0)))[:most]
    slot = width / max(len(words), 1)
    parts = []
    for index, word in enumerate(words):
        for offset, found, colour in ((0.1, earlier, "--base"), (0.48, now, "--live")):
            tall = found.get(word, 0) / top * (base - 8)
            title = f"{word}: {found.get(word, 0):.0%}"
            parts.append(rect((index + offset) * slot, base - tall, slot * 0.36, float(tall), colour, title))
        room = max(int(slot / 6.5), 2)
        shown = str(word) if len(str(word)) <= room else str(word)[: room - 1] + "…"
        parts.append(text((index + 0.48) * slot, 142, shown, class_="soft", text_anchor="middle"))
    return "".join(parts)
