"""The page of a run: what came out stands first, and nothing in it can act."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from monitor import KINDS, report
from monitor.result import Result

DOCUMENTED = Path(__file__).with_name("documented")
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</style></title></svg><iframe src=//example.com>",
    "' onmouseover='alert(1)",
    "a\u202eb\u0000c\nd",
    "&lt;b&gt;",
    "x" * 10_000,
]
# what report.py writes itself
ELEMENTS = {
    *(
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "main",
        "h1",
        "h2",
        "h3",
        "p",
        "b",
        "div",
        "dl",
        "dt",
        "dd",
    ),
    *("table", "thead", "tbody", "tr", "th", "td", "figure", "details", "summary"),
    *("svg", "rect", "line", "polyline", "text"),
}
ATTRIBUTES = {
    *("lang", "charset", "http-equiv", "content", "name", "class", "scope", "role", "aria-label", "viewbox"),
    *("x", "y", "x1", "x2", "y1", "y2", "width", "height", "fill", "points", "text-anchor"),
}


class Page(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.attributes: set[str] = set()
        self.open: list[str] = []
        self.text = ""
        self.spoken: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.spoken += [value or "" for name, value in attrs if name == "aria-label"]
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data + " "


def files(folder: str) -> dict[str, Any]:
    return {path.name: json.loads(path.read_text()) for path in sorted((DOCUMENTED / folder).glob("*.json"))}


def summary(kind: str, **changes: Any) -> dict[str, Any]:
    return {
        "run_id": "r1",
        "endpoint": "mlops-p-abc-production",
        "kind": kind,
        "scheduled": "2026-03-04T12:00:00+00:00",
        "window_start": "2026-03-04T11:00:00+00:00",
        "window_end": "2026-03-04T12:00:00+00:00",
        "records": 1234,
        "excluded": 3,
        "unreadable": 0,
        "violations": 0,
        "status": "clean",
        "model_package_arn": "arn:aws:sagemaker:us-east-1:123456789012:model-package/mlops-p-abc/7",
        "measures": [],
        "notes": [],
        **changes,
    }


def numeric(name: str, values: list[float]) -> dict[str, Any]:
    sketch = {"parameters": {"c": 0.64, "k": 2048.0}, "data": [values]}
    block = {"common": {"num_present": len(values), "num_missing": 0}}
    return {
        "name": name,
        "inferred_type": "Fractional",
        "numerical_statistics": {**block, "distribution": {"kll": {"buckets": [], "sketch": sketch}}},
    }


def categorical(name: str, counts: dict[str, int]) -> dict[str, Any]:
    buckets = [{"value": value, "count": count} for value, count in counts.items()]
    return {
        "name": name,
        "inferred_type": "String",
        "string_statistics": {"distribution": {"categorical": {"buckets": buckets}}},
    }


DRIFTED = summary(
    "data_quality",
    status="violations",
    violations=1,
    worst_subject="amount",
    worst_name="distance",
    worst_value=0.42,
    worst_baseline=0.0,
    worst_threshold=0.1,
    measures=[
        {
            "subject": "age",
            "name": "distance",
            "value": 0.03,
            "baseline": 0,
            "threshold": 0.1,
            "violated": False,
        },
        {
            "subject": "amount",
            "name": "distance",
            "value": 0.42,
            "baseline": 0,
            "threshold": 0.1,
            "p_value": 1.2e-30,
            "violated": True,
        },
    ],
)


@pytest.mark.parametrize(
    ("kind", "folder"),
    [
        ("data_quality", "data_quality/schema"),
        ("data_quality", "data_quality/sample"),
        ("model_quality", "model_quality/binary"),
        ("model_quality", "model_quality/multiclass"),
        ("model_quality", "model_quality/regression"),
        ("model_bias", "model_bias"),
        ("model_explainability", "model_explainability"),
    ],
)
def test_a_page_of_documented_files_is_well_formed_and_names_its_kind(kind: str, folder: str):
    found = files(folder)
    page = Page(report.render(summary(kind), found, [], found.get("analysis.json")))
    assert page.open == []
    assert f"{report.TITLES[kind]} of mlops-p-abc-production" in page.text
    for violation in found.get("constraint_violations.json", {}).get("violations", []):
        assert violation["description"].strip() in page.text


def test_every_kind_has_a_title():
    assert set(report.TITLES) == set(KINDS)


def test_the_verdict_stands_before_everything_else():
    text = Page(report.render(DRIFTED, Result("data_quality", 1234, {}, {}))).text
    order = ["Drift found: 1 violation", "amount", "0.42", "limit 0.1", "Records judged", "1,234", "Measures"]
    places = [text.index(part) for part in order]
    assert places == sorted(places)
    assert text.index("Measures") < text.index("▲\xa0drifted") < text.index("age")


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("clean", "✓ No drift"),
        ("violations", "▲ Drift found"),
        ("not_judged", "○ Not judged"),
        ("no_data", "○ No data"),
    ],
)
def test_each_status_is_told_in_words_and_by_a_sign(status: str, words: str):
    text = Page(report.render(summary("model_quality", status=status), {})).text
    assert words in text
    assert [w for w in ("No drift", "Drift found", "Not judged", "No data") if w in text] == [words[2:]]


def test_since_when_it_drifts_is_told():
    history = [
        {"scheduled": "2026-03-04T08:00:00+00:00", "status": "violations"},
        {"scheduled": "2026-03-04T09:00:00+00:00", "status": "clean"},
        {"scheduled": "2026-03-04T10:00:00+00:00", "status": "violations"},
        {"scheduled": "2026-03-04T11:00:00+00:00", "status": "no_data"},
        {"scheduled": "2026-03-04T12:00:00+00:00", "status": "violations"},
    ]
    assert report.drifting_since(DRIFTED, history) == "2026-03-04T10:00:00+00:00"
    assert report.drifting_since(DRIFTED, history[:2]) is None
    assert report.drifting_since(summary("data_quality"), history) is None
    assert "In every run since 2026-03-04 10:00 UTC" in Page(report.render(DRIFTED, {}, history)).text


def test_what_was_not_judged_is_counted_by_reason():
    page = Page(
        report.render(
            summary(
                "data_quality",
                unreadable=5,
                unreadable_reasons={"not JSON": 4, "too long": 1},
                excluded_reasons={"smoke test": 3},
                notes=["2 hours had no traffic"],
                requests_by_hour={"2026-03-04T11": 12},
            ),
            {},
        )
    )
    for text in ("not JSON 4", "too long 1", "smoke test 3", "2 hours had no traffic", "2026-03-04T11 12"):
        assert text in re.sub(r"\s+", " ", page.text)
    assert "quarantine.jsonl" in page.text


def test_a_unit_change_is_seen_in_the_baselines_deciles():
    values = [float(v) for v in range(100)]
    pairs = report.numeric_shares(numeric("x", [v * 100 for v in values]), numeric("x", values))
    assert [round(before, 2) for _, before, _ in pairs] == [0.1] * 10
    assert pairs[0][2] == pytest.approx(0.01) and pairs[-1][2] == pytest.approx(0.99)
    assert pairs[-1][0] == "> 89"


def test_few_values_have_a_bar_each_and_a_level_of_the_sketch_counts_double():
    before = numeric("x", [1.0, 2.0])
    before["numerical_statistics"]["distribution"]["kll"]["sketch"]["data"] = [[1.0], [2.0]]
    pairs = report.numeric_shares(numeric("x", [1.0, 1.0, 3.0, 3.0]), before)
    assert [(name, before, now) for name, before, now in pairs] == [
        ("1", pytest.approx(1 / 3), 0.5),
        ("2", pytest.approx(2 / 3), 0.0),
        ("3", 0.0, 0.5),
    ]


def test_the_categories_that_changed_most_come_first_and_no_baseline_is_a_dash():
    now, before = categorical("c", {"a": 50, "new": 50}), categorical("c", {"a": 90, "b": 10})
    assert [name for name, *_ in report.category_shares(now, before)] == ["new", "a", "b"]
    assert {before for _, before, _ in report.category_shares(now, {})} == {None}
    page = Page(report.render(summary("data_quality"), {"statistics.json": {"features": [now]}}))
    assert "a: baseline –, live 50%" in page.spoken[0]


def test_what_drifted_is_drawn_first_and_the_rest_is_folded():
    features = [numeric(f"f{i:02}", [1.0, 2.0]) for i in range(20)] + [numeric("amount", [1.0, 2.0])]
    text = report.render(DRIFTED, {"statistics.json": {"features": features}}, (), {"features": features})
    names = re.findall(r"<h3>(.*?)</h3>", text)
    assert names[0] == "▲ amount" and names[1] == "f00" and len(names) == 21
    assert "<details><summary>9 more</summary>" in text


def test_bias_and_attributions_are_drawn_beside_their_baseline():
    bias, shap = files("model_bias")["analysis.json"], files("model_explainability")["analysis.json"]
    later = json.loads(json.dumps(bias).replace("0.711340206185567", "0.5"))
    page = Page(report.render(summary("model_bias"), {"analysis.json": later}, (), bias))
    assert "DI: baseline 0.711, live 0.5; DCR: baseline -0.348, live -0.348" in page.spoken
    values = {"feature_0": 0.001, "feature_1": 0.5, "feature_2": 0.01}
    later = {"explanations": {"kernel_shap": {"label0": {"global_shap_values": values}}}}
    page = Page(report.render(summary("model_explainability"), Result("x", 1, {}, shap, analysis=later)))
    assert page.spoken[0].startswith(
        "feature_0: baseline 0.0225, live 0.001; feature_1: baseline 0.00738, live 0.5"
    )


def test_the_curve_and_the_confusion_matrix_of_a_classifier_are_shown():
    found = files("model_quality/binary")
    page = Page(report.render(summary("model_quality"), found, (), found["statistics.json"]))
    assert [text.split(",")[0] for text in page.spoken] == [
        "true positive rates over false positive rates",
        "precisions over recalls",
    ]
    assert "predicted 0" in page.text and "is 1" in page.text


def hostile_run(kind: str) -> str:
    """A page with hostile text in every place that takes text."""
    h = HOSTILE
    measure = {"value": 0.5, "baseline": 0.1, "threshold": 0.1, "p_value": 0.0, "violated": True}
    given = summary(
        kind,
        endpoint=h[0],
        status="violations",
        violations=len(h),
        worst_subject=h[1],
        worst_name=h[2],
        model_package_arn=h[0],
        notes=h,
        measures=[{"subject": name, "name": name, "detail": name, **measure} for name in h],
        unreadable=1,
        unreadable_reasons=dict.fromkeys(h, 1),
        excluded_reasons=dict.fromkeys(h, 1),
        requests_by_hour=dict.fromkeys(h, 1),
    )
    metric = {"name": h[0], "description": h[0], "value": 1.0}
    facets = {name: [{"value_or_threshold": h[3], "metrics": [metric]}] for name in h}
    matrix = {name: dict.fromkeys(h, 1) for name in h}
    statistics = {
        "data_quality": {
            "features": [
                *(categorical(n, dict.fromkeys(h, 1)) for n in h),
                *(numeric(n, [1.0, 2.0]) for n in h),
            ]
        },
        "model_quality": {"binary_classification_metrics": {"confusion_matrix": matrix}},
        "model_bias": {"post_training_bias_metrics": {"facets": facets}},
        "model_explainability": {
            "explanations": {
                "kernel_shap": {name: {"global_shap_values": dict.fromkeys(h, 1.0)} for name in h},
            }
        },
    }[kind]
    keys = (
        "feature_name",
        "facet",
        "facet_value",
        "metric_name",
        "label",
        "constraint_check_type",
        "description",
    )
    violations = [dict.fromkeys(keys, name) for name in h] + [{"feature_name": name} for name in h]
    history = [{"scheduled": h[0], "status": h[1], "worst_subject": h[2], "violations": h[3]}]
    return report.render(given, Result(kind, 1, statistics, {}, violations), history, statistics)


@pytest.mark.parametrize("kind", KINDS)
def test_text_of_callers_stays_text(kind: str):
    text = hostile_run(kind)
    page = Page(text)
    assert page.open == []
    assert page.elements <= ELEMENTS, page.elements - ELEMENTS
    assert page.attributes <= ATTRIBUTES, page.attributes - ATTRIBUTES
    assert "<script>alert(1)</script>" in page.text  # told, not run
    assert "\u202e" not in text and "\u0000" not in text and "\\u202e" in text
    assert "x" * 1001 not in text
    assert len(text) < 400_000


def test_the_check_above_sees_what_escapes_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(report, "escape", lambda text: text)
    assert "<script>alert(1)</script>" in hostile_run("data_quality")


def test_the_page_loads_nothing_and_its_style_is_the_one_that_the_policy_names():
    text = hostile_run("data_quality")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text)[1]
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; style-src 'sha256-" + digest + "'")
    assert "url(" not in style and "@import" not in style


def test_colour_carries_no_meaning():
    colours = set(re.findall(r"#[0-9a-f]{3,6}", report.STYLE))
    assert all(
        max(c) - min(c) < 40
        for c in (bytes.fromhex(x[1:] if len(x) == 7 else "".join(2 * d for d in x[1:])) for x in colours)
    )


@pytest.mark.parametrize("value", [None, "12", float("nan"), float("inf"), True])
def test_what_is_no_number_is_a_dash(value: Any):
    assert report.number(value) == "–"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (-0.0, "0"),
        (0.12345, "0.123"),
        (1e-30, "1e-30"),
        (12345.6, "12,346"),
        (1234567, "1,234,567"),
    ],
)
def test_numbers_are_short(value: float, text: str):
    assert report.number(value) == text


def test_what_was_judged_stands_before_what_is_only_shown():
    shap = {"subject": "age", "name": "shap", "value": 9.0, "baseline": 0.1}
    ndcg = {"subject": "model", "name": "ndcg", "value": 0.99, "baseline": 1.0, "threshold": 0.9}
    page = Page(report.render(summary("model_explainability", measures=[shap, ndcg]), {}))
    assert page.text.index("ndcg") < page.text.index("shap")


def test_the_window_names_its_day_once():
    assert report.span(DRIFTED) == "2026-03-04 11:00 to 12:00"
    over_midnight = {**DRIFTED, "window_start": "2026-03-03T23:00:00Z"}
    assert report.span(over_midnight) == "2026-03-03 23:00 to 2026-03-04 12:00"


def test_every_measure_that_drifted_is_open_and_the_others_are_folded():
    names = [f"m{i:02}" for i in range(40)]
    measures = [{"subject": n, "name": "x", "value": 1, "threshold": 1, "violated": n < "m20"} for n in names]
    text = report.render(summary("data_quality", status="violations", measures=measures), {})
    start, end = text.index("<details><summary>20 more"), text.index("</details>")
    assert [name for name in names if start < text.index(name) < end] == names[20:]
    calm = report.render(summary("data_quality", measures=[{**m, "violated": False} for m in measures]), {})
    assert "<summary>25 more" in calm
