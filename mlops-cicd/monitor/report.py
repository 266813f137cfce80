"""report.html of a run: one page for people, which needs no network, no script and no colour.

Names and values come from whoever calls the endpoint: all text goes through `shown`, and the page's
content security policy allows nothing but its own style sheet.
"""

from __future__ import annotations

import base64
import hashlib
import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from .result import Result

TITLES = {
    "data_quality": "Data quality",
    "model_quality": "Model quality",
    "model_bias": "Bias",
    "model_explainability": "Feature attribution",
}
VERDICTS = {
    "clean": (
        "✓",
        "No drift",
        "Nothing differs from the baseline by more than its limit and chance explain.",
    ),
    "violations": ("▲", "Drift found", "What differs stands below, with the baseline and the limit."),
    "not_judged": ("○", "Not judged", "There was too little to judge by; the notes say what was missing."),
    "no_data": ("○", "No data", "The window holds no record that could be read."),
}
LONGEST = 80  # characters of a name or value that are shown
CHARTS = 12  # that are open; the others are folded
MOST_CHARTS = 60
OPEN_ROWS = 15  # of the measures; more if more drifted
MOST_ROWS = 500
MOST_CATEGORIES = 8
BINS = 10
STYLE = """
:root{--ink:#16202c;--soft:#54606e;--line:#c9d1da;--page:#fff;--live:#16202c}
@media(prefers-color-scheme:dark){:root{--ink:#e8edf3;--soft:#a3b0bf;--line:#3a4652;--page:#10161d;--live:#e8edf3}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:64rem;margin:0 auto;padding:2rem 1rem 4rem}
h1{font-size:1.6rem;line-height:1.25;margin:0}
h2{font-size:1.15rem;margin:2.2rem 0 .4rem}
h3{font-size:1rem;margin:.2rem 0;overflow-wrap:anywhere}
p{margin:.3rem 0;max-width:72ch}
.soft{color:var(--soft)}
.verdict{border:2px solid var(--ink);border-radius:.5rem;padding:.8rem 1rem;margin:1rem 0}
.verdict b{font-size:1.3rem}
.violations{border-width:5px}
dl{display:grid;grid-template-columns:repeat(auto-fit,minmax(10rem,1fr));gap:.6rem;margin:1rem 0}
dt{color:var(--soft);font-size:.85rem}
dd{margin:0;font-size:1.15rem;overflow-wrap:anywhere}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.92rem}
th{text-align:left;color:var(--soft);font-weight:600;font-size:.85rem}
td,th{padding:.35rem .7rem .35rem 0;border-bottom:1px solid var(--line);vertical-align:top}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.hit td{font-weight:700}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(20rem,1fr));gap:1.4rem}
figure{margin:0}
svg{width:100%;height:auto;display:block}
svg text{fill:var(--ink);font:12px system-ui,sans-serif}
.base{fill:none;stroke:var(--ink);stroke-width:1.2}
.live{fill:var(--live)}
.curve{fill:none;stroke:var(--ink);stroke-width:2}
.curve.base{stroke-width:1.2;stroke-dasharray:5 4}
.axis{stroke:var(--line);stroke-width:1}
.limit{stroke:var(--ink);stroke-width:1.5;stroke-dasharray:2 3}
summary{cursor:pointer}
@media print{details>*{display:block}}
"""
POLICY = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()


class Html(str):
    """Text that is HTML already."""


def render(
    summary: Mapping[str, Any],
    result: Result | Mapping[str, Any],
    history: Sequence[Mapping[str, Any]] = (),
    baseline: Mapping[str, Any] | None = None,
) -> str:
    """The page of one run.

    summary is summary.json; result is the run's Result or its files by name; history are run rows of the
    same endpoint and kind; baseline is the baseline's statistics.json (Clarify's kinds: analysis.json).
    """
    statistics, constraints, violations = contents(result)
    kind = str(summary.get("kind", ""))
    title = TITLES.get(kind, kind)
    sections = [
        *verdict(summary, title, history),
        *violations_part(violations),
        *measures_part(summary.get("measures") or []),
        *charts(kind, statistics, baseline or {}, constraints, drifted(summary)),
        *history_part(history),
        *left_out(summary),
        *requests(summary.get("requests_by_hour") or {}),
    ]
    return page(f"{title} of {summary.get('endpoint', '')}", sections)


def page(title: str, sections: Iterable[str]) -> str:
    """A whole page of these parts, which are HTML; the title is text."""
    return "".join(
        [
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
            '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; ',
            f"style-src 'sha256-{POLICY}'; base-uri 'none'; form-action 'none'\">",
            '<meta name="viewport" content="width=device-width,initial-scale=1">',
            f"<title>{sentence(title)}</title>",
            f"<style>{STYLE}</style></head><body><main>",
            *sections,
            "</main></body></html>\n",
        ]
    )


def contents(result: Result | Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], list[Any]]:
    """Statistics (of Clarify's kinds the analysis), constraints and violations of a run."""
    if isinstance(result, Result):
        return result.analysis or result.statistics, result.constraints, result.violations
    statistics = result.get("analysis.json") or result.get("statistics.json") or {}
    found = (result.get("constraint_violations.json") or {}).get("violations", [])
    return statistics, result.get("constraints.json") or {}, found


# ------------------------------------------------------------ text


def shown(value: Any) -> str:
    """Any value as text of a page: short, without characters that are not seen, and escaped."""
    return escape(visible(short(str(value))))


def short(text: str, most: int = LONGEST) -> str:
    """Text cut to a length."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def sentence(value: Any) -> str:
    """A longer text: a note or the description of a violation."""
    return escape(visible(str(value)[:1000]))


def visible(text: str) -> str:
    """Text with a name for each character that is not seen or turns its neighbours round."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def number(value: Any) -> str:
    """A number as people read it; a dash for none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return "–"
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value or 0.0:.3g}"  # no minus before a zero


def moment(value: Any) -> str:
    """A time of a summary, without seconds."""
    return shown(str(value)[:16].replace("T", " "))


def el(name: str, *content: str, **attributes: Any) -> Html:
    """An element; content is HTML, values of attributes are escaped (class_ is class)."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value != ""
    )
    return Html(f"<{name}{given}>{''.join(content)}</{name}>")


def folded(count: int, content: str) -> Html:
    """So many more, for those who want them."""
    return el("details", el("summary", f"{count} more"), content)


def span(summary: Mapping[str, Any]) -> str:
    """The window; the day once."""
    start, end = moment(summary.get("window_start")), moment(summary.get("window_end"))
    return f"{start} to {end[11:] if start[:10] == end[:10] else end}"


def table(
    head: Sequence[str], rows: Iterable[tuple[str, Sequence[Any]]], numbers: Iterable[int] = ()
) -> Html:
    """A table; rows are (class, cells), cells are escaped unless they are Html."""
    right = set(numbers)

    def row(name: str, values: Sequence[Any], tag: str, **more: str) -> Html:
        cells = (
            el(
                tag,
                value if isinstance(value, Html) else shown(value),
                class_="n" if i in right else "",
                **more,
            )
            for i, value in enumerate(values)
        )
        return el("tr", *cells, class_=name)

    body = el("tbody", *(row(name, values, "td") for name, values in rows))
    return el("div", el("table", el("thead", row("", head, "th", scope="col")), body), class_="scroll")


# ------------------------------------------------------------ parts of the page


def verdict(summary: Mapping[str, Any], title: str, history: Sequence[Mapping[str, Any]]) -> list[str]:
    """What came out, in one glance."""
    status = str(summary.get("status", "no_data"))
    sign, word, meaning = VERDICTS.get(status, ("○", status, ""))
    count = int(summary.get("violations") or 0)
    if status == "violations":
        word = f"{word}: {count} violation{'s' if count != 1 else ''}"
    since = drifting_since(summary, history)
    facts = [
        ("Records judged", number(summary.get("records"))),
        ("Left out on purpose", number(summary.get("excluded"))),
        ("Unreadable", number(summary.get("unreadable"))),
        ("Window (UTC)", span(summary)),
        ("Scheduled (UTC)", moment(summary.get("scheduled"))),
        ("Model version", shown(str(summary.get("model_package_arn") or "–").rsplit("/", 1)[-1])),
    ]
    css = "verdict violations" if status == "violations" else "verdict"
    return [
        f"<h1>{shown(title)} of {shown(summary.get('endpoint', ''))}</h1>",
        f'<div class="{css}"><p><b>{sign} {shown(word)}</b></p><p>{shown(meaning)}</p>',
        f"<p>{worst(summary)}</p>" if summary.get("worst_subject") else "",
        f"<p>In every run since {moment(since)} UTC.</p>" if since else "",
        *(f"<p>{sentence(note)}</p>" for note in summary.get("notes") or []),
        "</div><dl>",
        *(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts),
        "</dl>",
    ]


def worst(summary: Mapping[str, Any]) -> str:
    """The measure that is farthest off."""
    return (
        f"Farthest off: {shown(summary['worst_subject'])}, {shown(summary.get('worst_name', ''))} "
        f"{number(summary.get('worst_value'))}; baseline {number(summary.get('worst_baseline'))}, "
        f"limit {number(summary.get('worst_threshold'))}."
    )


def drifting_since(summary: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> str | None:
    """The first of the runs with violations that lead without a clean one to this run."""
    if summary.get("status") != "violations":
        return None
    first = None
    now = str(summary.get("scheduled", ""))
    earlier = [run for run in history if str(run.get("scheduled", "")) < now]
    for run in sorted(earlier, key=lambda run: str(run.get("scheduled", "")), reverse=True):
        if run.get("status") == "violations":
            first = str(run.get("scheduled", ""))
        elif run.get("status") == "clean":
            break
    return first


def violations_part(violations: Sequence[Mapping[str, Any]]) -> list[str]:
    """constraint_violations.json as a table."""
    if not violations:
        return []
    rows = [
        (
            "",
            (
                subject_of(violation),
                violation.get("constraint_check_type", ""),
                Html(sentence(violation.get("description", ""))),
            ),
        )
        for violation in violations[:MOST_ROWS]
    ]
    return ["<h2>Violations</h2>", table(("What", "Check", "Finding"), rows), *cut(violations)]


def subject_of(violation: Mapping[str, Any]) -> str:
    """What a violation is about, in any of the four formats."""
    if "facet" in violation:
        return f"{violation['facet']}={violation.get('facet_value', '')}: {violation.get('metric_name', '')}"
    names = (violation.get(key) for key in ("feature_name", "label", "metric_name"))
    return str(next((name for name in names if name), ""))


def cut(rows: Sequence[Any]) -> list[str]:
    """Says what is not shown."""
    more = len(rows) - MOST_ROWS
    return [f'<p class="soft">{more:,} more are in the JSON files beside this page.</p>'] if more > 0 else []


def distance(measure: Mapping[str, Any]) -> float:
    """How far a measure has moved from its baseline, for the order of a table."""
    value, start = measure.get("value"), measure.get("baseline")
    if not isinstance(value, int | float):
        return -1.0
    return abs(value - start) if isinstance(start, int | float) else abs(value)


def place(measure: Mapping[str, Any]) -> tuple[bool, bool, float, str]:
    """What drifted first, then what was judged, then what has moved most."""
    judged = isinstance(measure.get("threshold"), int | float)
    return not measure.get("violated"), not judged, -distance(measure), str(measure.get("subject", ""))


def measures_part(measures: Sequence[Mapping[str, Any]]) -> list[str]:
    """Everything that was judged: what drifted first."""
    if not measures:
        return []
    ordered = sorted(measures, key=place)
    rows = [
        (
            "hit" if m.get("violated") else "",
            (
                Html("▲&nbsp;drifted") if m.get("violated") else "",
                m.get("subject", ""),
                m.get("name", ""),
                number(m.get("value")),
                number(m.get("baseline")),
                number(m.get("threshold")),
                number(m.get("p_value")),
                Html(sentence(m.get("detail") or "")),
            ),
        )
        for m in ordered[:MOST_ROWS]
    ]
    head = ("", "Subject", "Measure", "Now", "Baseline", "Limit", "p-value", "")
    first = max(OPEN_ROWS, sum(bool(m.get("violated")) for m in measures))
    parts = ["<h2>Measures</h2>", table(head, rows[:first], (3, 4, 5, 6))]
    if rows[first:]:
        parts.append(folded(len(rows) - first, table(head, rows[first:], (3, 4, 5, 6))))
    return [*parts, *cut(measures)]


def history_part(history: Sequence[Mapping[str, Any]]) -> list[str]:
    """Earlier runs, newest first."""
    if not history:
        return []
    ordered = sorted(history, key=lambda run: str(run.get("scheduled", "")), reverse=True)[:48]
    rows = [
        (
            "hit" if run.get("status") == "violations" else "",
            (
                Html(moment(run.get("scheduled"))),
                VERDICTS.get(str(run.get("status")), ("", str(run.get("status", "")), ""))[1],
                number(run.get("records")),
                number(run.get("violations")),
                run.get("worst_subject") or "",
                number(run.get("worst_value")),
                number(run.get("worst_threshold")),
            ),
        )
        for run in ordered
    ]
    head = ("Scheduled (UTC)", "Verdict", "Records", "Violations", "Farthest off", "Value", "Limit")
    return ["<h2>Earlier runs</h2>", table(head, rows, (2, 3, 5, 6))]


def left_out(summary: Mapping[str, Any]) -> list[str]:
    """What was not judged, and why."""
    rows = [
        ("", (kind, reason, number(count)))
        for kind, reasons in (
            ("left out", summary.get("excluded_reasons") or {}),
            ("unreadable", summary.get("unreadable_reasons") or {}),
        )
        for reason, count in sorted(reasons.items(), key=lambda item: -item[1])[:MOST_ROWS]
    ]
    if not rows:
        return []
    kept = '<p class="soft">Unreadable records are kept in quarantine.jsonl beside this page.</p>'
    return [
        "<h2>Not judged</h2>",
        table(("", "Reason", "Count"), rows, (2,)),
        kept if summary.get("unreadable") else "",
    ]


def requests(by_hour: Mapping[str, Any]) -> list[str]:
    """How many requests each hour had."""
    if not by_hour:
        return []
    rows = [("", (hour, number(count))) for hour, count in sorted(by_hour.items())[:MOST_ROWS]]
    return ["<h2>Requests</h2>", table(("Hour (UTC)", "Requests"), rows, (1,))]


# ------------------------------------------------------------ charts


def drifted(summary: Mapping[str, Any]) -> list[str]:
    """Subjects with a violation, the farthest off first."""
    hit = [m for m in summary.get("measures") or [] if m.get("violated")]
    return list(dict.fromkeys(str(m.get("subject", "")) for m in sorted(hit, key=distance, reverse=True)))


def charts(
    kind: str,
    statistics: Mapping[str, Any],
    baseline: Mapping[str, Any],
    constraints: Mapping[str, Any],
    first: Sequence[str],
) -> list[str]:
    """Baseline and live side by side."""
    makers = {
        "data_quality": feature_charts,
        "model_quality": quality_charts,
        "model_bias": bias_charts,
        "model_explainability": attribution_charts,
    }
    if kind not in makers or not statistics:
        return []
    drawn = makers[kind](statistics, baseline, constraints)
    rank = {name: place for place, name in enumerate(first)}
    drawn.sort(key=lambda item: rank.get(item[0], len(rank)))
    if not drawn:
        return []
    figures = [
        f"<figure><h3>{'▲ ' if name in rank else ''}{shown(name)}</h3>{svg}</figure>"
        for name, svg in drawn[:MOST_CHARTS]
    ]
    shape = "live: filled; baseline: outline" if kind != "model_quality" else "live: solid; baseline: dashed"
    parts = [
        "<h2>Baseline and live</h2>",
        f'<p class="soft">{shape}.</p>',
        f'<div class="grid">{"".join(figures[:CHARTS])}</div>',
    ]
    if figures[CHARTS:]:
        parts.append(folded(len(figures) - CHARTS, el("div", *figures[CHARTS:], class_="grid")))
    return parts


Drawn = list[tuple[str, str]]
Pair = tuple[str, float | None, float]  # a name, the baseline's value if it has one, the live value


def feature_charts(
    statistics: Mapping[str, Any], baseline: Mapping[str, Any], constraints: Mapping[str, Any]
) -> Drawn:
    """The distribution of each feature."""
    known = {feature["name"]: feature for feature in baseline.get("features", [])}
    drawn = []
    for feature in statistics.get("features", []):
        before = known.get(feature["name"], {})
        pairs = numeric_shares(feature, before) or category_shares(feature, before)
        if pairs:
            drawn.append((str(feature["name"]), paired_bars(pairs, "share of the values", percent=True)))
    return drawn


def weighted(feature: Mapping[str, Any]) -> list[tuple[float, float]]:
    """Values and weights of a KLL sketch: an item of level i stands for 2**i values."""
    block = feature.get("numerical_statistics") or {}
    levels = block.get("distribution", {}).get("kll", {}).get("sketch", {}).get("data", [])
    return [(float(value), 2.0**i) for i, level in enumerate(levels) for value in level]


def numeric_shares(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[Pair]:
    """(range, share before, share now): few values have a bar each, many are cut at the baseline's deciles.

    Deciles, because ranges of equal width show nothing where a few values are far away.
    """
    live, base = weighted(now), weighted(before)
    if not live:
        return []
    distinct = sorted({value for value, _ in live + base})
    if len(distinct) <= BINS:
        shares = [binned(items, distinct) for items in (base, live)]
        return [(number(value), shares[0][i], shares[1][i]) for i, value in enumerate(distinct)]
    edges = deciles(base or live)
    shares = [binned(items, edges) for items in (base, live)]
    names = [*(f"≤ {number(edge)}" for edge in edges), f"> {number(edges[-1])}"]
    return [(name, shares[0][i], shares[1][i]) for i, name in enumerate(names)]


def deciles(items: Sequence[tuple[float, float]]) -> list[float]:
    """The distinct values below which a tenth, two tenths … of the weight lies."""
    total, reached, found = sum(weight for _, weight in items), 0.0, []
    for value, weight in sorted(items):
        reached += weight
        while len(found) < BINS - 1 and reached >= total * (len(found) + 1) / BINS:
            found.append(value)
    return sorted(set(found))


def binned(items: Sequence[tuple[float, float]], edges: Sequence[float]) -> list[float | None]:
    """The share of the weight up to each edge, from the edge before it, and above the last."""
    total = sum(weight for _, weight in items)
    shares = [0.0] * (len(edges) + 1)
    for value, weight in items:
        shares[bisect_left(edges, value)] += weight
    return [weight / total if total else None for weight in shares]


def category_shares(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[Pair]:
    """(category, share before, share now), those with the largest difference first."""
    live, base = categories(now), categories(before)
    total_live, total_base = sum(live.values()), sum(base.values())
    if not total_live:
        return []
    pairs = [
        (name, base.get(name, 0) / total_base if total_base else None, live.get(name, 0) / total_live)
        for name in base.keys() | live.keys()
    ]
    pairs.sort(key=lambda pair: (-abs((pair[1] or 0.0) - pair[2]), -pair[2], pair[0]))
    return pairs[:MOST_CATEGORIES]


def categories(feature: Mapping[str, Any]) -> dict[str, float]:
    """Category -> count of a string feature."""
    block = feature.get("string_statistics") or {}
    buckets = block.get("distribution", {}).get("categorical", {}).get("buckets", [])
    return {str(bucket["value"]): float(bucket["count"]) for bucket in buckets}


def quality_charts(
    statistics: Mapping[str, Any], baseline: Mapping[str, Any], constraints: Mapping[str, Any]
) -> Drawn:
    """The two curves of a binary classifier, and the confusion matrix."""
    live, base = metrics_of(statistics), metrics_of(baseline)
    drawn: Drawn = []
    for name, title, x, y in (
        (
            "receiver_operating_characteristic_curve",
            "Receiver operating characteristic",
            "false_positive_rates",
            "true_positive_rates",
        ),
        ("precision_recall_curve", "Precision and recall", "recalls", "precisions"),
    ):
        if live.get(name):
            lines = [(c[name][x], c[name][y]) if c.get(name) else ([], []) for c in (base, live)]
            drawn.append((title, curves(lines[0], lines[1], x.replace("_", " "), y.replace("_", " "))))
    matrix = live.get("confusion_matrix")
    if matrix:
        labels = sorted(matrix)
        rows = [("", (f"is {a}", *(number(matrix[a].get(p, 0)) for p in labels))) for a in labels]
        head = ("", *(f"predicted {label}" for label in labels))
        drawn.append(("Confusion matrix", table(head, rows, range(1, len(labels) + 1))))
    return drawn


def metrics_of(statistics: Mapping[str, Any]) -> Mapping[str, Any]:
    """The section of the problem type."""
    return next((value for key, value in statistics.items() if key.endswith("_metrics")), {})


def bias_charts(
    statistics: Mapping[str, Any], baseline: Mapping[str, Any], constraints: Mapping[str, Any]
) -> Drawn:
    """The bias metrics of each group; one without baseline statistics is compared with the constraints."""
    live, base = bias_values(statistics), bias_values(baseline or constraints)
    return [
        (
            facet,
            paired_bars(
                [(name, base.get(facet, {}).get(name, 0.0), value) for name, value in found.items()], ""
            ),
        )
        for facet, found in live.items()
        if found
    ]


def bias_values(analysis: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Group -> metric -> value of an analysis.json."""
    found: dict[str, dict[str, float]] = {}
    for section in ("pre_training_bias_metrics", "post_training_bias_metrics"):
        for facet, groups in (analysis.get(section) or {}).get("facets", {}).items():
            for group in groups:
                values = found.setdefault(f"{facet}={group.get('value_or_threshold', '')}", {})
                for metric in group.get("metrics", []):
                    if isinstance(metric.get("value"), int | float):
                        values[metric["name"]] = float(metric["value"])
    return found


def attribution_charts(
    statistics: Mapping[str, Any], baseline: Mapping[str, Any], constraints: Mapping[str, Any]
) -> Drawn:
    """How much each feature contributes, in the order of the baseline."""
    live, base = shap_values(statistics), shap_values(baseline or constraints)
    drawn = []
    for label, values in live.items():
        before = base.get(label, {})
        names = sorted(values, key=lambda name: (-abs(before.get(name, 0.0)), name))[:MOST_CHARTS]
        pairs = [(name, before.get(name), values[name]) for name in names]
        drawn.append((label, paired_bars(pairs, "mean absolute SHAP value")))
    return drawn


def shap_values(analysis: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Label -> feature -> global SHAP value of an analysis.json."""
    labels = analysis.get("explanations", {}).get("kernel_shap", {})
    return {
        str(label): {str(name): float(value) for name, value in block.get("global_shap_values", {}).items()}
        for label, block in labels.items()
    }


def paired_bars(pairs: Sequence[Pair], unit: str, percent: bool = False) -> Html:
    """Horizontal bars, baseline above live; negative values go to the left of zero."""
    left, width, height = 150.0, 190.0, 30.0
    values = [value for pair in pairs for value in pair[1:] if value is not None and math.isfinite(value)]
    low, high = min(0.0, *values, 0.0), max(0.0, *values, 0.0)
    scale = width / ((high - low) or 1.0)
    zero, tall = left - low * scale, height * len(pairs) + 18

    def text(value: float | None) -> str:
        return f"{value:.0%}" if percent and value is not None else number(value)

    def bar(value: float | None, y: float, css: str) -> list[Html]:
        label = words(text(value), left + width + 6, y + 9)
        if value is None or not math.isfinite(value):
            return [label]
        x = zero + min(0.0, value) * scale
        wide = max(0.5, abs(value) * scale)
        return [el("rect", class_=css, x=at(x), y=at(y), width=at(wide), height=10), label]

    parts = [el("line", class_="axis", x1=at(zero), x2=at(zero), y1=0, y2=at(tall - 18))]
    for i, (name, before, now) in enumerate(pairs):
        y = i * height + 4
        parts += [
            words(short(name, 20), left - 8, y + 15, "end"),
            *bar(before, y, "base"),
            *bar(now, y + 12, "live"),
        ]
    parts.append(words(unit, left, tall - 4))
    spoken = "; ".join(f"{short(name)}: baseline {text(b)}, live {text(n)}" for name, b, n in pairs)
    return picture(400, tall, spoken, parts)


def curves(
    before: tuple[Sequence[float], Sequence[float]],
    now: tuple[Sequence[float], Sequence[float]],
    x_name: str,
    y_name: str,
) -> Html:
    """Two curves in the unit square."""
    side, left, top = 260.0, 34.0, 8.0
    below = top + side + 16

    def line(points: tuple[Sequence[float], Sequence[float]], css: str) -> Html:
        places = list(zip(points[0], points[1], strict=False))
        step = max(1, len(places) // 400)
        spots = [f"{at(left + x * side)},{at(top + (1 - y) * side)}" for x, y in places[::step] + places[-1:]]
        return el("polyline", class_=css, points=" ".join(spots))

    parts = [
        el("rect", class_="axis", fill="none", x=at(left), y=at(top), width=at(side), height=at(side)),
        line(before, "curve base"),
        line(now, "curve"),
        words("0", left, below),
        words(x_name, left + side / 2, below, "middle"),
        words("1", left + side, below, "end"),
        words("1", left - 6, top + 10, "end"),
        words(y_name, left + 6, top + side - 8),
    ]
    return picture(400, below + 8, f"{y_name} over {x_name}, baseline dashed, live solid", parts)


def at(value: float) -> str:
    """A coordinate."""
    return f"{value:.1f}"


def words(text: str, x: float, y: float, anchor: str = "") -> Html:
    """Text of a picture."""
    return el("text", shown(text), x=at(x), y=at(y), text_anchor=anchor)


def picture(width: float, height: float, spoken: str, parts: Iterable[str]) -> Html:
    """An SVG that also says what it shows."""
    box = f"0 0 {width:.0f} {height:.0f}"
    return el("svg", *parts, viewBox=box, role="img", aria_label=visible(spoken)[:2000])
