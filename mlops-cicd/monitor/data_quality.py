"""Data quality: types, completeness, ranges, categories and distributions of the features of live traffic.

A sample always differs a little from its baseline. Each judgement therefore needs both an effect that matters
(the thresholds in constraints.json) and evidence that chance did not make it (FALSE_ALARM_RATE, shared by all
tests of a run). Files have the documented formats of SageMaker Model Monitor
(https://docs.aws.amazon.com/sagemaker/latest/dg/model-monitor-interpreting-statistics.html and the pages on
constraints and violations next to it).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from . import FALSE_ALARM_RATE, MonitorError
from .lines import Counted, count_texts
from .result import Measure, Result
from .settings import BaselineInputs, Settings, find, read_json
from .statistics import (
    NUMERIC,
    Distribution,
    Moments,
    Strings,
    common_of,
    is_categorical,
    numbers_of,
    numerical_block,
    string_block,
    sum_counts,
    unsketch,
)

KIND = "data_quality"
DRIFT_THRESHOLD = 0.1
TOLERATED = (
    0.1  # share of records that may lack a column or have one too many: single bad requests are no schema
)
MOST_EXTRA = 50  # unknown columns that a report names
SAMPLE_ROWS = 100
PENDING = 1_000_000  # distinct values, of all features together, that wait to be added up
EXAMPLE = 40  # characters

Json = dict[str, Any]


# ------------------------------------------------------------ what is counted


class Feature:
    """What is counted of one feature, in the cells of its baseline."""

    def __init__(self, inferred_type: str, points: np.ndarray | None = None, domain: list[str] | None = None):
        self.inferred_type = inferred_type
        self.points = np.empty(0) if points is None else points
        self.present = self.missing = self.wrong = self.negative = 0
        self.wrong_example: str | None = None
        self.moments, self.distribution = Moments(), Distribution()
        # live values before, at and between the points of the baseline's distribution
        self.places = np.zeros(2 * len(self.points) + 1, dtype=np.int64)
        self.strings = Strings()
        self.known: Counter[str] = Counter(dict.fromkeys(domain or [], 0))

    @property
    def numeric(self) -> bool:
        """Whether the baseline has numbers here."""
        return self.inferred_type in NUMERIC

    def add(self, counted: pl.DataFrame) -> None:
        """Take in texts (null is missing) that are there so many times."""
        there = counted.filter(pl.col("text").is_not_null())
        count = int(there["count"].sum())
        self.present += count
        self.missing += int(counted["count"].sum()) - count
        if not self.numeric:
            self._add_strings(there)
            return
        there = there.with_columns(number=numbers_of(pl.col("text")))
        fits = pl.col("number").is_not_null()
        if self.inferred_type == "Integral":
            fits &= pl.col("number") == pl.col("number").floor()
        wrong = there.filter(~fits.fill_null(value=False))
        if wrong.height:
            self.wrong += int(wrong["count"].sum())
            self._see_wrong(str(wrong["text"].min())[:EXAMPLE])
        there = there.filter(pl.col("number").is_not_null())
        values, counts = there["number"].to_numpy(), there["count"].to_numpy()
        self.negative += int(counts[values < 0].sum())
        self.moments.add(values, counts)
        self.distribution.add(values, counts)
        if len(self.points):
            # 2 i + 1 at point i, 2 i in the gap before it
            places = np.searchsorted(self.points, values, "left") + np.searchsorted(
                self.points, values, "right"
            )
            np.add.at(self.places, places, counts)

    def partial(self) -> Json:
        """This state as JSON."""
        return {
            "present": self.present,
            "missing": self.missing,
            "wrong": self.wrong,
            "negative": self.negative,
            "wrong_example": self.wrong_example,
            "moments": [self.moments.count, self.moments.mean, self.moments.squares],
            "distribution": self.distribution.partial(),
            "places": self.places.tolist(),
            "strings": self.strings.partial(),
            "known": dict(self.known),
        }

    def merge(self, partial: Json) -> None:
        """Take in another part."""
        if len(partial["places"]) != len(self.places):
            raise MonitorError("the parts of this run were made with different baselines")
        self.present += partial["present"]
        self.missing += partial["missing"]
        self.wrong += partial["wrong"]
        self.negative += partial["negative"]
        if partial["wrong_example"] is not None:
            self._see_wrong(partial["wrong_example"])
        self.moments.merge(*partial["moments"])
        self.distribution.merge(partial["distribution"])
        self.places += np.array(partial["places"], dtype=np.int64)
        self.strings.merge(partial["strings"])
        self.known.update(partial["known"])

    def statistics(self, name: str) -> Json:
        """The feature's block of statistics.json."""
        if self.numeric:
            block = numerical_block(self.moments, self.distribution, self.present, self.missing)
            return {"name": name, "inferred_type": self.inferred_type, "numerical_statistics": block}
        block = string_block(self.strings, self.present, self.missing)
        return {"name": name, "inferred_type": self.inferred_type, "string_statistics": block}

    def _add_strings(self, there: pl.DataFrame) -> None:
        texts = category(pl.col("text"))
        there = there.select(text=texts, count="count").group_by("text").agg(pl.col("count").sum())
        if self.known:
            for text, count in there.filter(pl.col("text").is_in(list(self.known))).rows():
                self.known[text] += count
        self.strings.add(there["text"], there["count"])

    def _see_wrong(self, example: str) -> None:
        if self.wrong_example is None or example < self.wrong_example:
            self.wrong_example = example


def category(text: pl.Expr) -> pl.Expr:
    """The category a text stands for: 1 and 1.0 are the same one."""
    return text.str.replace(r"^(-?\d+)\.0+$", "${1}")


def infer_type(counted: pl.DataFrame) -> str:
    """Integral, Fractional, String or Unknown (no value at all)."""
    numbers = counted.filter(pl.col("text").is_not_null()).select(n=numbers_of(pl.col("text")))["n"]
    if not len(numbers):
        return "Unknown"
    if numbers.null_count():
        return "String"
    return "Integral" if bool((numbers == numbers.floor()).all()) else "Fractional"


# ------------------------------------------------------------ baseline


def baseline(inputs: BaselineInputs) -> dict[str, Any]:
    """statistics.json and constraints.json of the training rows, and rows for simulated traffic."""
    frame = inputs.dataset_frame
    features = []
    for name in frame.columns:
        counted = sum_counts([count_texts(frame[name])])
        feature = Feature(infer_type(counted))
        feature.add(counted)
        features.append(feature.statistics(name))
    statistics = {"version": 0.0, "dataset": {"item_count": frame.height}, "features": features}
    threshold = float(inputs.block(KIND).get("drift_threshold", DRIFT_THRESHOLD))
    held_out = inputs.holdout_frame.select(frame.columns) if inputs.holdout else frame
    return {
        "statistics.json": statistics,
        "constraints.json": suggest_constraints(statistics, threshold),
        "sample.csv": held_out.head(SAMPLE_ROWS).write_csv(include_header=False),
    }


def suggest_constraints(statistics: Json, drift_threshold: float) -> Json:
    """constraints.json that a baseline suggests."""
    features = []
    for feature in statistics["features"]:
        present, missing = common_of(feature)
        constraint: Json = {
            "name": feature["name"],
            "inferred_type": feature["inferred_type"],
            "completeness": present / (present + missing) if present + missing else 0.0,
        }
        if "numerical_statistics" in feature:
            low = feature["numerical_statistics"].get("min", 0.0)
            constraint["num_constraints"] = {"is_non_negative": low >= 0}
        elif is_categorical(feature):
            constraint["string_constraints"] = {"domains": sorted(shares_of(feature))}
        features.append(constraint)
    return {
        "version": 0.0,
        "features": features,
        "monitoring_config": {
            "evaluate_constraints": "Enabled",
            "emit_metrics": "Enabled",
            "datatype_check_threshold": 0.1,
            "domain_content_threshold": 0.01,
            "distribution_constraints": {
                "perform_comparison": "Enabled",
                "comparison_threshold": drift_threshold,
                "comparison_method": "Robust",
                "categorical_comparison_threshold": drift_threshold,
                "categorical_drift_method": "LInfinity",
            },
        },
    }


def shares_of(feature: Json) -> dict[str, int]:
    """Category -> count of a string feature."""
    buckets = feature["string_statistics"]["distribution"]["categorical"]["buckets"]
    return {bucket["value"]: int(bucket["count"]) for bucket in buckets}


def points_of(feature: Json) -> tuple[np.ndarray, np.ndarray]:
    """Distinct values of a numeric feature's sketch and their weights."""
    block = feature.get("numerical_statistics") or {}
    return unsketch(block.get("distribution", {}).get("kll", {}).get("sketch", {}).get("data") or [])


# ------------------------------------------------------------ distances and chance


def numeric_distance(weights: np.ndarray, places: np.ndarray) -> float:
    """Largest difference of two cumulative distributions (L-infinity, the Kolmogorov-Smirnov statistic).

    The baseline's rises only at its points, so the difference is largest at a point or right before one:
    the numbers of live values at the points and in the gaps are all it takes, and it is exact.
    """
    at = np.cumsum(weights) / weights.sum()
    before = np.concatenate([[0.0], at[:-1]])
    live = np.cumsum(places) / places.sum()
    return float(max(np.abs(live[1::2] - at).max(), np.abs(live[0:-1:2] - before).max()))


def numeric_p_value(distance: float, baseline_count: float, live_count: int) -> float:
    """A bound of the two-sample Kolmogorov-Smirnov p-value; also where values repeat.

    Dvoretzky, Kiefer and Wolfowitz's inequality with Massart's constant (1990), for the effective size of two
    samples.
    """
    effective = baseline_count * live_count / (baseline_count + live_count)
    return min(1.0, 2 * math.exp(-2 * effective * distance**2))


def categorical_distance(
    baseline: Mapping[str, int], live: Mapping[str, int], total: int
) -> tuple[float, str]:
    """Largest difference of a category's share, and that category."""
    before = sum(baseline.values())
    differences = {
        value: abs(baseline.get(value, 0) / before - live.get(value, 0) / total)
        for value in sorted(baseline.keys() | live.keys())
    }
    worst = max(differences, key=differences.__getitem__)
    return differences[worst], worst


def share_p_value(baseline_hits: int, baseline_count: int, live_hits: int, live_count: int) -> float:
    """Two-sided exact test (Fisher's, doubled tail) that two shares are the same.

    The hypergeometric tail, summed as far as it can matter. SciPy has it too, in a module whose import takes
    as long as a third of a million records.
    """
    hits, total = baseline_hits + live_hits, baseline_count + live_count
    if not baseline_count or not live_count or hits in (0, total):
        return 1.0
    drawn, seen = min((baseline_count, baseline_hits), (live_count, live_hits))  # the smaller sample
    if seen * total < drawn * hits:  # fewer hits than expected are more misses than expected
        seen, hits = drawn - seen, total - hits
    spread = math.sqrt(drawn * (hits / total) * (1 - hits / total))
    reach = int(45 * spread) + 200  # beyond it is nothing that a double can hold
    steps = np.arange(seen, min(drawn, hits, seen + reach), dtype=float)
    # of each number of hits to the one before it
    ratios = (hits - steps) * (drawn - steps) / ((steps + 1) * (total - hits - drawn + steps + 1))
    first = log_choose(hits, seen) + log_choose(total - hits, drawn - seen) - log_choose(total, drawn)
    return min(1.0, 2 * math.exp(first) * float(1 + np.cumprod(ratios).sum()))


def log_choose(n: int, k: int) -> float:
    """Logarithm of the binomial coefficient."""
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


# ------------------------------------------------------------ the monitor


class Monitor:
    """Counts live traffic and judges it against the baseline by the rules of constraints.json."""

    needs_outputs = False
    needs_truth = False
    counted = True  # the distinct values of each feature and their numbers are enough: add_counted

    def __init__(self, baseline: Path, settings: Settings) -> None:
        self.settings = settings
        self.baseline = read_json(find(baseline, "statistics.json"))
        self.constraints = read_json(find(baseline, "constraints.json"))
        self.known = {feature["name"]: feature for feature in self.baseline["features"]}
        self.features: dict[str, Feature] = {}
        for constraint in self.constraints["features"]:
            known = self.known.get(constraint["name"])
            points = points_of(known)[0] if known else None
            domain = (constraint.get("string_constraints") or {}).get("domains") or []
            domain = [*domain, *(shares_of(known) if known and is_categorical(known) else {})]
            self.features[constraint["name"]] = Feature(constraint["inferred_type"], points, domain)
        self.records = 0
        self.lacking: Counter[str] = Counter()
        self.surplus: Counter[str] = Counter()
        self._pending: dict[str, list[pl.DataFrame]] = {name: [] for name in self.features}
        self._waiting = 0
        self._result = Result(KIND, 0, {}, self.constraints)

    def add(self, batch: pl.DataFrame) -> None:
        """Take in a batch of rows."""
        self.add_counted(Counted.of(batch.select(list(self.features))))

    def add_counted(self, counted: Counted) -> None:
        """Take in rows of which the distinct values are counted."""
        self.records += counted.rows
        for name, waiting in self._pending.items():
            waiting.append(counted.texts[name])
            self._waiting += waiting[-1].height
        if self._waiting > PENDING:
            self._add_up()

    def see_columns(self, lacking: Mapping[str, int], surplus: Mapping[str, int]) -> None:
        """Rows that lack a column of the baseline, and that have one it does not know."""
        self.lacking, self.surplus = Counter(lacking), Counter(surplus)

    def partial(self) -> Json:
        """The state of this part, as JSON."""
        self._add_up()
        return {
            "records": self.records,
            "features": {name: feature.partial() for name, feature in self.features.items()},
        }

    def merge(self, partial: Json) -> None:
        """Take in another part's state."""
        self._add_up()
        self.records += partial["records"]
        for name, feature in self.features.items():
            feature.merge(partial["features"][name])

    def _add_up(self) -> None:
        for name, waiting in self._pending.items():
            if waiting:
                self.features[name].add(sum_counts(waiting))
                waiting.clear()
        self._waiting = 0

    # -------------------------------------------------------- judging

    def finish(self) -> Result:
        """Judge what was taken in."""
        self._add_up()
        limit = TOLERATED * self.records
        absent = [name for name in self.features if self.lacking[name] > limit]
        live = {name: feature for name, feature in self.features.items() if name not in absent}
        enough = self.records >= self.settings.min_records
        result = self._result = Result(
            KIND,
            self.records,
            {
                "version": 0.0,
                "dataset": {"item_count": self.records},
                "features": [feature.statistics(name) for name, feature in live.items() if self.records],
            },
            self.constraints,
            judged=enough,
        )
        if not self.records:
            return result
        if not enough:
            result.notes.append(
                f"{self.records} records in the window, {self.settings.min_records} are needed "
                "to judge drift: it was not judged"
            )
        for name in [name for name in sorted(self.surplus) if self.surplus[name] > limit][:MOST_EXTRA]:
            shown = ascii(name[:60])  # whoever calls the endpoint has chosen it
            self._violate(
                name, "extra_column_check", f"Column {shown} is in the traffic, not in the baseline"
            )
        # Bonferroni: completeness, range or domain, and drift of each feature: tests that chance can fail
        alpha = FALSE_ALARM_RATE / max(1, 3 * len(self.constraints["features"]))
        for constraint in self.constraints["features"]:
            name, rules = constraint["name"], self._rules(constraint)
            if rules.get("evaluate_constraints", "Enabled") != "Enabled":
                continue
            if name in absent:
                text = f"Column {name} of the baseline is not in the traffic"
                self._violate(name, "missing_column_check", text)
                continue
            self._check_type(constraint, live[name], rules)
            self._check_range(constraint, live[name], alpha)
            if name in self.known:
                self._check_completeness(constraint, live[name], alpha)
                self._check_domain(constraint, live[name], rules, alpha)
                if rules["distribution_constraints"].get("perform_comparison", "Enabled") == "Enabled":
                    self._check_drift(name, live[name], rules, alpha, enough)
        return result

    def _rules(self, constraint: Json) -> Json:
        """Thresholds of one feature: those of the file, and its own before them."""
        config = self.constraints["monitoring_config"]
        own = constraint.get("monitoringConfigOverrides") or {}
        distribution = config.get("distribution_constraints", {}) | own.get("distribution_constraints", {})
        return config | own | {"distribution_constraints": distribution}

    def _violate(self, feature: str, check: str, description: str) -> None:
        name = feature if feature.isprintable() else ascii(feature)
        self._result.violations.append(
            {"feature_name": name[:256], "constraint_check_type": check, "description": description}
        )

    def _measure(
        self, subject: str, name: str, value: float, baseline: float | None, threshold: float,
        p_value: float | None, violated: bool, detail: str = "",
    ) -> None:  # fmt: skip
        self._result.measures.append(
            Measure(subject, name, value, baseline, threshold, p_value, bool(violated), detail)
        )

    def _check_type(self, constraint: Json, live: Feature, rules: Json) -> None:
        """data_type_check: too many values are not of the feature's type."""
        if not live.present or not live.numeric:
            return  # any text is text; values that never were seen are the business of the domain check
        share, allowed = live.wrong / live.present, float(rules.get("datatype_check_threshold", 0.1))
        violated = share > allowed
        self._measure(constraint["name"], "wrong_type", share, 0.0, allowed, None, violated)
        if violated:
            self._violate(
                constraint["name"],
                "data_type_check",
                f"Data type match requirement is not met: {share:.1%} of the values are not "
                f"{constraint['inferred_type']} (for example {live.wrong_example!r}); "
                f"up to {allowed:.0%} is allowed",
            )

    def _check_range(self, constraint: Json, live: Feature, alpha: float) -> None:
        """data_type_check too: negative values where the baseline has none.

        Model Monitor documents the constraint, is_non_negative, but no check type of its own for it.
        """
        if not live.numeric or not (constraint.get("num_constraints") or {}).get("is_non_negative"):
            return
        if not live.moments.count:
            return
        share = live.negative / live.moments.count
        known = self.known.get(constraint["name"])
        before = common_of(known)[0] if known else 0
        p_value = share_p_value(0, before, live.negative, live.moments.count) if live.negative else 1.0
        violated = bool(live.negative) and p_value < alpha
        self._measure(constraint["name"], "negative", share, 0.0, 0.0, p_value, violated)
        if violated:
            self._violate(
                constraint["name"],
                "data_type_check",
                f"{share:.1%} of the values are negative (the least is {live.distribution.low:g}); "
                "the baseline has none",
            )

    def _check_completeness(self, constraint: Json, live: Feature, alpha: float) -> None:
        """completeness_check: more values are missing than the baseline and chance explain."""
        before, total = common_of(self.known[constraint["name"]]), live.present + live.missing
        if not sum(before) or not total:
            return
        allowed, completeness = float(constraint["completeness"]), live.present / total
        p_value = 1.0
        if completeness < allowed:
            p_value = share_p_value(before[1], sum(before), live.missing, total)
        violated = completeness < allowed and p_value < alpha
        self._measure(constraint["name"], "completeness", completeness, allowed, allowed, p_value, violated)
        if violated:
            self._violate(
                constraint["name"],
                "completeness_check",
                f"Completeness {completeness:.3f} is below the baseline's {allowed:.3f}",
            )

    def _check_domain(self, constraint: Json, live: Feature, rules: Json, alpha: float) -> None:
        """categorical_values_check: categories that the baseline never saw."""
        domain = (constraint.get("string_constraints") or {}).get("domains")
        if not domain or not live.present:
            return
        unknown = live.present - sum(live.known[value] for value in set(domain))
        share, allowed = unknown / live.present, float(rules.get("domain_content_threshold", 0.01))
        before = common_of(self.known[constraint["name"]])[0]
        p_value = share_p_value(0, before, unknown, live.present) if unknown else 1.0
        violated = share > allowed and p_value < alpha
        self._measure(constraint["name"], "unknown_values", share, 0.0, allowed, p_value, violated)
        if violated:
            strange = sorted(
                (-count, text) for text, count in live.strings.counts.items() if text not in domain
            )
            examples = ", ".join(repr(text[:EXAMPLE]) for _, text in strange[:3])
            self._violate(
                constraint["name"],
                "categorical_values_check",
                f"{share:.1%} of the values are not in the baseline's domain (for example {examples}); "
                f"up to {allowed:.0%} is allowed",
            )

    def _check_drift(self, name: str, live: Feature, rules: Json, alpha: float, judge: bool) -> None:
        """baseline_drift_check: the distribution moved, by more than is allowed and than chance explains."""
        known, limits = self.known[name], rules["distribution_constraints"]
        simple = False
        if "numerical_statistics" in known:
            threshold = float(limits.get("comparison_threshold", DRIFT_THRESHOLD))
            weights = points_of(known)[1]
            count = int(live.places.sum())
            if not len(weights) or not count:
                return
            distance = numeric_distance(weights, live.places)
            p_value = numeric_p_value(distance, float(weights.sum()), count)
            simple = limits.get("comparison_method", "Robust") == "Simple"
            subject = "the cumulative distributions"
        elif is_categorical(known) and live.present:
            threshold = float(limits.get("categorical_comparison_threshold", DRIFT_THRESHOLD))
            before, now = shares_of(known), dict(live.strings.counts)
            now |= {value: live.known[value] for value in before}  # of these none was dropped
            distance, worst = categorical_distance(before, now, live.present)
            tests = len(before.keys() | now.keys())
            hits = share_p_value(before.get(worst, 0), sum(before.values()), now.get(worst, 0), live.present)
            p_value = min(1.0, tests * hits)
            subject = f"the shares of {worst[:EXAMPLE]!r}"
        else:
            return
        violated = judge and distance > threshold and (simple or p_value < alpha)
        self._measure(name, "baseline_drift", distance, 0.0, threshold, p_value, violated, subject)
        if violated:
            self._violate(
                name,
                "baseline_drift_check",
                f"Baseline drift distance {distance:.3f} exceeds threshold {threshold:g}: "
                f"{subject} differ (p = {p_value:.1e})",
            )
