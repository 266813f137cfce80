"""Data quality: quiet on clean traffic, loud on drift, each check on its own fault and on no other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from monitor import data_quality
from monitor.data_quality import Feature, Monitor, numeric_distance, numeric_p_value, share_p_value
from monitor.lines import count_texts
from monitor.settings import Settings, parse_time
from monitor.statistics import SKETCH_SIZE, sketch, sum_counts, unsketch
from monitored import Columns, judge, line, make_baseline, requests, sample


def result_of(known: Columns, live: Columns, folder: Path, **block: Any) -> Any:
    """Judge one sample by another, without files of captured traffic."""
    inputs = data_quality.BaselineInputs(folder / "unused.csv", options={"data_quality": block})
    inputs.__dict__["dataset_frame"] = frame_of(known)
    for name, content in data_quality.baseline(inputs).items():
        if name.endswith(".json"):
            (folder / name).write_text(json.dumps(content, allow_nan=False))
    monitor = Monitor(folder, Settings("data_quality", "e", parse_time("2026-03-04T12:00:00Z")))
    monitor.add(frame_of(live))
    return monitor.finish()


def frame_of(columns: Columns) -> pl.DataFrame:
    return pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))


def checks(result: Any) -> set[tuple[str, str]]:
    return {(one["feature_name"], one["constraint_check_type"]) for one in result.violations}


def of_type(result: Any, check: str) -> dict[str, str]:
    (one,) = [one for one in result.violations if one["constraint_check_type"] == check]
    return one


# ------------------------------------------------------------ chance


def test_clean_traffic_raises_no_false_alarm(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    alarms = 0
    for _ in range(60):
        known = sample(rng, int(rng.integers(300, 1500)))
        alarms += bool(result_of(known, sample(rng, int(rng.integers(60, 600))), tmp_path).violations)
    assert alarms == 0


def test_rows_resampled_from_the_baseline_itself_raise_no_alarm(tmp_path: Path) -> None:
    rng = np.random.default_rng(11)
    known = sample(rng, 800)
    for _ in range(40):
        rows = rng.integers(0, 800, 250)
        live = {name: [values[i] for i in rows] for name, values in known.items()}
        assert result_of(known, live, tmp_path).violations == []


@pytest.mark.parametrize("seed", range(8))
def test_drifted_traffic_is_found_in_every_drifted_feature(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    found = checks(result_of(sample(rng, 800), sample(rng, 300, drift=1.0), tmp_path))
    assert {("duration", "baseline_drift_check"), ("amount", "baseline_drift_check")} <= found
    assert ("purpose", "baseline_drift_check") in found
    assert ("rate", "baseline_drift_check") not in found


def test_too_few_records_are_not_judged_and_say_so(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    result = result_of(sample(rng, 800), sample(rng, 20, drift=1.0), tmp_path)
    assert "baseline_drift_check" not in {check for _, check in checks(result)}
    assert not result.judged
    assert "20 records" in result.notes[0]
    assert "50 are needed" in result.notes[0]


def test_a_small_but_certain_difference_below_the_threshold_is_tolerated(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    known = {"x": [str(v) for v in rng.normal(0, 1, 20000)]}
    live = {"x": [str(v) for v in rng.normal(0.1, 1, 20000)]}  # distance about 0.04, p-value about 1e-14
    result = result_of(known, live, tmp_path)
    (drift,) = [one for one in result.measures if one.name == "baseline_drift"]
    assert drift.p_value < 1e-6
    assert result.violations == []
    (drift,) = [
        one for one in result_of(known, live, tmp_path, drift_threshold=0.02).measures if one.violated
    ]
    assert (drift.name, drift.threshold) == ("baseline_drift", 0.02)


# ------------------------------------------------------------ checks


def test_text_in_a_number_column_is_a_type_violation(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    live = sample(rng, 200)
    live["rate"] = ["two" if i % 3 == 0 else v for i, v in enumerate(live["rate"])]
    violation = of_type(result_of(sample(rng, 800), live, tmp_path), "data_type_check")
    assert violation["feature_name"] == "rate"
    assert "'two'" in violation["description"]
    assert "Integral" in violation["description"]


@pytest.mark.parametrize(
    ("text", "wrong"),
    [("24.0", 0), ("24", 0), (" 24 ", 0), ("2.4e1", 0), ("24.5", 1), ("1e999", 1), ("x", 1)],
)
def test_whole_floats_are_integers(text: str, wrong: int) -> None:
    feature = Feature("Integral")
    feature.add(sum_counts([count_texts(pl.Series("x", [text]))]))
    assert feature.wrong == wrong


def test_more_missing_values_than_before_are_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    live = sample(rng, 300)
    live["phone"] = ["" if i % 3 == 0 else v for i, v in enumerate(live["phone"])]
    live["duration"] = ["NaN" if i % 10 == 0 else v for i, v in enumerate(live["duration"])]
    found = checks(result_of(sample(rng, 800), live, tmp_path))
    assert {("phone", "completeness_check"), ("duration", "completeness_check")} <= found


@pytest.mark.parametrize(
    ("text", "missing"),
    [("none", 0), ("NaN", 1), (None, 1), ("", 1), ("  ", 1), ("N/A", 1), ("null", 1), ("0", 0), ("nano", 0)],
)
def test_words_for_nothing_are_missing_values(text: str | None, missing: int) -> None:
    feature = Feature("String")
    feature.add(sum_counts([count_texts(pl.Series("x", [text], dtype=pl.String))]))
    assert (feature.missing, feature.present) == (missing, 1 - missing)


def test_new_categories_are_found_and_one_rare_one_is_not(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    known, live = sample(rng, 800), sample(rng, 300)
    live["purpose"][0] = "boat"
    assert result_of(known, live, tmp_path).violations == []
    live["purpose"][:40] = ["boat"] * 40
    assert "'boat'" in of_type(result_of(known, live, tmp_path), "categorical_values_check")["description"]


def test_negative_numbers_are_found_where_the_baseline_has_none(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    known, live = sample(rng, 800), sample(rng, 300)
    live["amount"][:20] = ["-5.5"] * 20
    violation = of_type(result_of(known, live, tmp_path), "data_type_check")
    assert violation["feature_name"] == "amount"
    assert "negative" in violation["description"] and "-5.5" in violation["description"]
    live["amount"][1:20] = known["amount"][1:20]  # a single one proves nothing
    assert result_of(known, live, tmp_path).violations == []


def test_identifiers_have_no_distribution(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    measured = result_of(sample(rng, 800), sample(rng, 300), tmp_path).measures
    subjects = {one.subject for one in measured if one.name == "baseline_drift"}
    assert subjects == {"duration", "rate", "amount", "purpose", "phone"}


def test_a_switched_off_feature_is_not_judged(tmp_path: Path) -> None:
    rng = np.random.default_rng(12)
    folder = make_baseline(tmp_path, sample(rng, 400))
    drifted = requests(sample(rng, 300, drift=1.0))
    assert ("amount", "baseline_drift_check") in judge(folder, tmp_path / "1", drifted).checks
    path = folder / "constraints.json"
    text = path.read_text()
    name = '"name": "amount"'
    assert name in text
    off = name + ', "monitoringConfigOverrides": {"evaluate_constraints": "Disabled"}'
    path.write_text(text.replace(name, off))
    assert not any(subject == "amount" for subject, _ in judge(folder, tmp_path / "2", drifted).checks)


def test_columns_that_most_records_lack_or_add_are_named(baseline: Path, tmp_path: Path) -> None:
    short = ["1,2,3.5,business,yes" for _ in range(60)]
    report = judge(baseline, tmp_path / "1", [line(text) for text in short])
    assert ("customer", "missing_column_check") in report.checks
    assert "customer" not in {one["name"] for one in report.statistics["features"]}
    long = [line(f"{text},c1,surprise") for text in short]
    assert ("column_7", "extra_column_check") in judge(baseline, tmp_path / "2", long).checks
    named = [line('{"duration": 6, "zip\\u0000code": "x"}', content_type="application/json")] * 60
    report = judge(baseline, tmp_path / "3", named)
    assert ("rate", "missing_column_check") in report.checks
    assert ("'zip\\x00code'", "extra_column_check") in report.checks


def test_one_bad_request_among_many_is_no_schema_violation(baseline: Path, tmp_path: Path) -> None:
    good = requests(sample(np.random.default_rng(13), 100))
    report = judge(baseline, tmp_path, [*good, line("1,2,3.5,business,yes,c1,surprise"), line("{", NOON_30)])
    assert report.checks == set()
    assert report.summary["records"] == 102


NOON_30 = parse_time("2026-03-04T11:30:00Z")


# ------------------------------------------------------------ distances


def test_the_distance_is_scipys_kolmogorov_smirnov_statistic() -> None:
    from scipy.stats import ks_2samp

    rng = np.random.default_rng(9)
    for _ in range(50):
        known = rng.integers(0, 9, int(rng.integers(5, 700))).astype(float)
        live = rng.integers(-2, 12, int(rng.integers(1, 210))) + rng.choice([0.0, 0.5])
        points, weights = unsketch(sketch(*np.unique(known, return_counts=True)))
        feature = Feature("Fractional", points)
        feature.add(sum_counts([count_texts(pl.Series("x", [repr(float(v)) for v in live]))]))
        oracle = ks_2samp(known, live, method="asymp")
        distance = numeric_distance(weights, feature.places)
        assert distance == pytest.approx(oracle.statistic, abs=1e-12)


@pytest.mark.parametrize("size", [5, 20, 800, 2_500_000])
def test_the_p_value_is_near_scipys_and_never_below(size: int) -> None:
    from scipy.stats import kstwo

    for deviation in (0.3, 1.0, 1.5, 2.0, 3.0):
        distance = min(1.0, deviation / size**0.5)
        ours, exact = numeric_p_value(distance, 2 * size, 2 * size), kstwo.sf(distance, size)
        assert ours >= exact
        assert ours < 1.2 * exact or size < 800 or deviation < 1


@pytest.mark.parametrize("live", [1, 60, 5_000, 5_000_000])
@pytest.mark.parametrize("known", [10, 800, 1_000_000])
def test_the_share_test_is_fishers_with_a_doubled_tail(known: int, live: int) -> None:
    from scipy.stats import hypergeom

    rng = np.random.default_rng(known + live)
    for share in (0.0, 0.003, 0.3, 0.9, 1.0):
        before = int(rng.binomial(known, share))
        for other in (share, share / 2, min(1.0, share + 0.02)):
            now = int(rng.binomial(live, other))
            law = hypergeom(known + live, before + now, live)
            oracle = min(1.0, 2 * min(law.cdf(now), law.sf(now - 1)))
            ours = share_p_value(before, known, now, live)
            assert ours == pytest.approx(oracle, rel=1e-4, abs=1e-300) or min(ours, oracle) > 0.9


def test_the_share_test_on_a_table_that_can_be_counted() -> None:
    # 3 of 3 against 0 of 3: one table of choose(6, 3) = 20 is as far off on this side
    assert share_p_value(0, 3, 3, 3) == pytest.approx(2 / 20)
    assert share_p_value(0, 800, 0, 300) == 1.0


@pytest.mark.parametrize("count", [1, 10, 2048, 2049, 5000, 100_003])
def test_a_sketch_keeps_the_count_and_the_distribution(count: int) -> None:
    values = np.sort(np.random.default_rng(count).normal(size=count))
    kept, weights = unsketch(sketch(values, np.ones(count, dtype=np.int64)))
    assert weights.sum() == count
    assert len(kept) <= 2 * SKETCH_SIZE
    at = np.searchsorted(values, kept, side="right") / count
    error = np.abs(np.cumsum(weights) / count - at).max()
    assert error <= (1e-12 if count <= SKETCH_SIZE else 2 / SKETCH_SIZE)
