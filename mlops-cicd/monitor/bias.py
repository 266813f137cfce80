"""Bias drift: whether a group fares worse, in the data or by the model, than it did at training time.

A facet divides the rows in two: members of the sensitive group (facet d of the documentation: the values that
the configuration names, or the numbers above its threshold), and everybody else (facet a). The positive
outcome is the model's positive class. The metrics are those of SageMaker Clarify, by the formulas of its
documentation, one page each below https://docs.aws.amazon.com/sagemaker/latest/dg/ (METRICS names them). All
but one are functions of the counts of rows by (facet, truth, answer), which add up exactly. The flip test
(FT) compares neighbours, for which the rows themselves are needed: the baseline has it, a run does not.

A metric is violated when it is farther from no bias (0; of DI: 1) than the baseline, the sign being ignored
(…/clarify-model-monitor-bias-drift-violations.html), by more than the tolerance, and when its confidence
interval excludes what the baseline has (…/clarify-model-monitor-bias-drift.html, which takes the Normal
Bootstrap Interval for it). Here the baseline's own error counts as well: it is a sample, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from sklearn.neighbors import KNeighborsClassifier

from . import MonitorError, chance
from .model_quality import binary_outcomes, negative_class, with_answers
from .predictor import Predictor
from .result import Measure, Result
from .settings import BaselineInputs, Settings, find, read_json

KIND = "model_bias"
TOLERANCE = 0.1  # so much farther from no bias than the baseline matters
SMALLEST_GROUP = 10  # with fewer rows on one side there is nothing to compare
NEIGHBOURS = 5  # of the flip test
MAX_SUBGROUPS = 500  # more distinct values of group_variable than this are no subgroups
EVERYBODY = ""  # the only subgroup where there is no group_variable
BINARY = "BinaryClassification"


class Metric(NamedTuple):
    """How the documentation calls a metric, and its page."""

    description: str
    page: str
    pre_training: bool = False


METRICS: dict[str, Metric] = {
    "CDDL": Metric(
        "Conditional Demographic Disparity in Labels (CDDL)", "clarify-data-bias-metric-cddl", True
    ),
    "CI": Metric("Class Imbalance (CI)", "clarify-bias-metric-class-imbalance", True),
    "DPL": Metric(
        "Difference in Positive Proportions in Labels (DPL)",
        "clarify-data-bias-metric-true-label-imbalance",
        True,
    ),
    "JS": Metric(
        "Jensen-Shannon Divergence (JS)", "clarify-data-bias-metric-jensen-shannon-divergence", True
    ),
    "KL": Metric("Kullback-Liebler Divergence (KL)", "clarify-data-bias-metric-kl-divergence", True),
    "KS": Metric("Kolmogorov-Smirnov Distance (KS)", "clarify-data-bias-metric-kolmogorov-smirnov", True),
    "LP": Metric("L-p Norm (LP)", "clarify-data-bias-metric-lp-norm", True),
    "TVD": Metric(
        "Total Variation Distance (TVD)", "clarify-data-bias-metric-total-variation-distance", True
    ),
    "AD": Metric("Accuracy Difference (AD)", "clarify-post-training-bias-metric-ad"),
    "CDDPL": Metric(
        "Conditional Demographic Disparity in Predicted Labels (CDDPL)",
        "clarify-post-training-bias-metric-cddpl",
    ),
    "DAR": Metric("Difference in Acceptance Rates (DAR)", "clarify-post-training-bias-metric-dar"),
    "DCA": Metric("Difference in Conditional Acceptance (DCA)", "clarify-post-training-bias-metric-dca"),
    "DCR": Metric("Difference in Conditional Rejection (DCR)", "clarify-post-training-bias-metric-dcr"),
    "DI": Metric("Disparate Impact (DI)", "clarify-post-training-bias-metric-di"),
    "DPPL": Metric(
        "Difference in Positive Proportions in Predicted Labels (DPPL)",
        "clarify-post-training-bias-metric-dppl",
    ),
    "DRR": Metric("Difference in Rejection Rates (DRR)", "clarify-post-training-bias-metric-drr"),
    "FT": Metric("Flip Test (FT)", "clarify-post-training-bias-metric-ft"),
    "GE": Metric("Generalized Entropy (GE)", "clarify-post-training-bias-metric-ge"),
    "RD": Metric("Recall Difference (RD)", "clarify-post-training-bias-metric-rd"),
    "SD": Metric("Specificity Difference (SD)", "clarify-post-training-bias-metric-sd"),
    "TE": Metric("Treatment Equality (TE)", "clarify-post-training-bias-metric-te"),
}
DISTANCES = ("JS", "KL", "KS", "LP", "TVD")  # of the two label distributions, without a sign
SQUARED = ("JS", "KL")  # grow with the square of the difference
# Reported, not judged: it is the same for every facet (its page says so), grows with the errors of everybody,
# and an alarm that names a group for it would accuse the wrong thing. Errors are model quality's business.
NOT_JUDGED = frozenset({"GE"})
BY_SUBGROUP = ("CDDL", "CDDPL")


# ------------------------------------------------------------ metrics of tables


def pre_training_metrics(table: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics of the labels; table is (… x facet x truth x answer), facet 0 = a and 1 = d."""
    counts = np.asarray(table, dtype=float).sum(axis=-1)  # … x facet x truth
    size = counts.sum(axis=-1)
    n_a, n_d = size[..., 0], size[..., 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        p_a, p_d = counts[..., 0, :] / n_a[..., None], counts[..., 1, :] / n_d[..., None]
        apart = np.abs(p_a - p_d)
        middle = (p_a + p_d) / 2
        return {
            "CI": (n_a - n_d) / (n_a + n_d),
            "DPL": p_a[..., 1] - p_d[..., 1],
            "JS": (divergence(p_a, middle) + divergence(p_d, middle)) / 2,
            "KL": divergence(p_a, p_d),
            "KS": apart.max(axis=-1),
            "LP": np.sqrt((apart**2).sum(axis=-1)),  # p = 2, the Euclidean norm
            "TVD": apart.sum(axis=-1) / 2,
        }


def straight_metrics(table: np.ndarray) -> dict[str, np.ndarray]:
    """All metrics of tables on scales on which they scatter nearly normally, no bias being 0.

    DI is a ratio, 2 as far from 1 as 1/2: its logarithm. The distances cannot be negative, so near zero they
    scatter to one side only, half as wide as the difference of which they are the size: they get its sign.
    """
    found = pre_training_metrics(table) | post_training_metrics(table)
    sign = np.where(found["DPL"] < 0, -1.0, 1.0)
    for name in DISTANCES:
        found[name] = sign * (np.sqrt(found[name]) if name in SQUARED else found[name])
    return found | {"DI": np.log(found["DI"])}


def divergence(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Kullback-Leibler divergence of distributions in the last axis, in nats; 0 log 0 is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(p > 0, p * np.log(p / q), np.where(np.isnan(p), np.nan, 0.0)).sum(axis=-1)


def post_training_metrics(table: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics of the answers; table is (… x facet x truth x answer), facet 0 = a and 1 = d."""
    table = np.asarray(table, dtype=float)
    tn, fp = table[..., 0, 0], table[..., 0, 1]  # … x facet
    fn, tp = table[..., 1, 0], table[..., 1, 1]
    size = tn + fp + fn + tp

    def a_less_d(value: np.ndarray) -> np.ndarray:
        return value[..., 0] - value[..., 1]

    with np.errstate(divide="ignore", invalid="ignore"):
        answered = (tp + fp) / size
        total = size.sum(axis=-1)
        right, doubled = (tn + tp).sum(axis=-1), fp.sum(axis=-1)  # benefits of 1 and of 2; misses have 0
        mean = (right + 2 * doubled) / total
        return {
            "AD": a_less_d((tp + tn) / size),
            "DAR": a_less_d(tp / (tp + fp)),
            "DCA": a_less_d((tp + fn) / (tp + fp)),
            "DCR": -a_less_d((tn + fp) / (tn + fn)),
            "DI": answered[..., 1] / answered[..., 0],
            "DPPL": a_less_d(answered),
            "DRR": -a_less_d(tn / (tn + fn)),
            "GE": ((right + 4 * doubled) / (total * mean**2) - 1) / 2,
            "RD": a_less_d(tp / (tp + fn)),
            "SD": -a_less_d(tn / (tn + fp)),
            "TE": -a_less_d(fn / fp),
        }


def conditional_disparity(table: np.ndarray) -> dict[str, np.ndarray]:
    """CDDL and CDDPL; table is (… x subgroup x facet x truth x answer).

    Each subgroup's demographic disparity, the share of d among its rejected less that among its accepted
    rows, weighted by the subgroup's size (Wachter, Mittelstadt & Russell 2021, to which the page refers).
    In a subgroup where all have the same outcome there is no disparity.
    """
    table = np.asarray(table, dtype=float)
    size = table.sum(axis=(-1, -2, -3))
    found = {}
    for name, unused in (("CDDL", -1), ("CDDPL", -2)):
        counts = table.sum(axis=unused)  # … x subgroup x facet x outcome
        outcome = counts.sum(axis=-2)
        share = np.divide(counts[..., 1, :], outcome, out=np.zeros_like(outcome), where=outcome > 0)
        disparity = np.where((outcome > 0).all(axis=-1), share[..., 0] - share[..., 1], 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            found[name] = (size * disparity).sum(axis=-1) / size.sum(axis=-1)
    return found


def flip_test(
    member: np.ndarray, predicted: np.ndarray, features: np.ndarray, neighbours: int = NEIGHBOURS
) -> float | None:
    """FT = (F+ - F-) / n_d: whose nearest rows of facet a are mostly answered otherwise, and in which way."""
    group, rest = features[member], features[~member]
    if not len(group) or len(rest) < neighbours:
        return None
    near = KNeighborsClassifier(neighbours).fit(rest, predicted[~member]).predict(group)
    own = predicted[member]
    return float((((own == 0) & (near == 1)).sum() - ((own == 1) & (near == 0)).sum()) / len(group))


def numbers_of(rows: pl.DataFrame, kinds: Mapping[str, str], but: str) -> np.ndarray:
    """Features as numbers for distances: numbers in standard deviations, categories as 0 or 1."""
    columns = []
    for name, kind in kinds.items():
        if name == but:
            continue
        if kind == "number":
            values = rows[name].cast(pl.Float64, strict=False).to_numpy()
            spread = np.nanstd(values) or 1.0
            columns.append(np.nan_to_num((values - np.nanmean(values)) / spread)[:, None])
        else:
            columns.append(rows.select(pl.col(name).fill_null("")).to_dummies().to_numpy().astype(float))
    return np.concatenate(columns, axis=1)


# ------------------------------------------------------------ facets


class Facet(NamedTuple):
    """One division of the rows."""

    name: str
    values: tuple[Any, ...] = ()
    threshold: float | None = None

    @classmethod
    def of(cls, block: Mapping[str, Any]) -> Facet:
        """A facet of mlops.yml."""
        values, threshold = tuple(block.get("values") or ()), block.get("threshold")
        if bool(values) == (threshold is not None):
            raise MonitorError(
                f"facet {block.get('name')!r} of monitoring.model_bias needs either values or a threshold"
            )
        return cls(block["name"], values, None if threshold is None else float(threshold))

    @property
    def value(self) -> str:
        """value_or_threshold, as Clarify writes it."""
        if self.threshold is not None:
            return f"{self.threshold:g}"
        return ",".join(as_text(value) for value in self.values)

    @property
    def member(self) -> pl.Expr:
        """1 for the group, 0 for everybody else, null where nobody can say."""
        column = pl.col(self.name)
        number = column.cast(pl.Float64, strict=False)
        if self.threshold is not None:
            return (number > self.threshold).cast(pl.UInt8)
        numbers = [float(x) for x in self.values if isinstance(x, int | float) and not isinstance(x, bool)]
        texts = [as_text(value) for value in self.values]
        booleans = [as_text(value) for value in self.values if isinstance(value, bool)]
        found = column.is_in(texts) | column.str.to_lowercase().is_in(booleans)
        return (found | number.is_in(numbers).fill_null(False)).cast(pl.UInt8)


def as_text(value: Any) -> str:
    """A configured value as captured data has it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def facets_of(block: Mapping[str, Any]) -> list[Facet]:
    """The facets of mlops.yml."""
    facets = [Facet.of(facet) for facet in block.get("facets") or []]
    if not facets:
        raise MonitorError("monitoring.model_bias in mlops.yml names no facets: name the groups to compare")
    return facets


class Counts:
    """Rows of one facet by (subgroup, facet, truth, answer)."""

    def __init__(self) -> None:
        self.cells: dict[str, np.ndarray] = {}
        self.too_many = False  # subgroups: then everybody is one

    def add(self, rows: pl.DataFrame) -> None:
        """Count rows with subgroup, member, truth and predicted."""
        counted = rows.group_by("subgroup", "member", "truth", "predicted").len()
        for subgroup, member, truth, predicted, count in counted.iter_rows():
            self._cells(subgroup)[member, truth, predicted] += count

    def merge(self, partial: Mapping[str, Any]) -> None:
        """Add another part's counts."""
        if partial["too_many"]:
            self._give_up_subgroups()
        for subgroup, counts in partial["cells"].items():
            self._cells(subgroup)[...] += np.array(counts, dtype=np.int64)

    def partial(self) -> dict[str, Any]:
        """The counts, as JSON."""
        cells = {name: counts.tolist() for name, counts in sorted(self.cells.items())}
        return {"too_many": self.too_many, "cells": cells}

    def _cells(self, subgroup: str) -> np.ndarray:
        name = EVERYBODY if self.too_many else subgroup
        if name not in self.cells and len(self.cells) >= MAX_SUBGROUPS:
            self._give_up_subgroups()
            name = EVERYBODY
        return self.cells.setdefault(name, np.zeros((2, 2, 2), dtype=np.int64))

    def _give_up_subgroups(self) -> None:
        self.cells = {EVERYBODY: self.table}
        self.too_many = True

    @property
    def table(self) -> np.ndarray:
        """Counts of everybody: facet x truth x answer."""
        return sum(self.cells.values(), np.zeros((2, 2, 2), dtype=np.int64))

    @property
    def by_subgroup(self) -> np.ndarray:
        """Counts by subgroup, in the order of their names."""
        return np.array([self.cells[name] for name in sorted(self.cells)])

    def values(self, grouped: bool) -> dict[str, float | None]:
        """Every metric; None where it is not defined."""
        found = pre_training_metrics(self.table) | post_training_metrics(self.table)
        if grouped and self.cells and not self.too_many:
            found |= conditional_disparity(self.by_subgroup)
        values = {name: float(value) for name, value in found.items()}
        return {name: values[name] if math.isfinite(values.get(name, math.nan)) else None for name in METRICS}

    def straight(self, grouped: bool) -> dict[str, float]:
        """Every metric on the scale on which its spread is measured, and as there with half counts added.

        Without them a group in which nobody happens to be accepted would be infinitely far from fair.
        """
        found = straight_metrics(self.table + chance.HALF)
        if grouped and self.cells and not self.too_many:
            found |= conditional_disparity(self.by_subgroup)
        return {name: float(value) for name, value in found.items()}

    def spreads(self, grouped: bool) -> dict[str, float]:
        """The standard error of every metric, on the scale of `straight`."""
        found = chance.spreads(self.table, straight_metrics)
        if grouped and self.cells and not self.too_many:
            found |= chance.spreads(self.by_subgroup, conditional_disparity)
        return found


def tally(rows: pl.DataFrame, facets: Sequence[Facet], group_variable: str | None) -> list[pl.DataFrame]:
    """For each facet the rows with subgroup, member, truth and predicted, where all of them are known."""
    subgroup = pl.col(group_variable).fill_null("") if group_variable else pl.lit(EVERYBODY)
    return [
        rows.select("truth", "predicted", subgroup=subgroup, member=facet.member).drop_nulls()
        for facet in facets
    ]


# ------------------------------------------------------------ files


def analysis_of(
    found: Sequence[tuple[Facet, Mapping[str, float | None]]],
    options: Mapping[str, Any],
    missing: Mapping[str, str],
) -> dict[str, Any]:
    """analysis.json of Clarify; `missing` says why a metric has no value."""

    def block(pre_training: bool) -> dict[str, Any]:
        facets: dict[str, list[dict[str, Any]]] = {}
        for facet, values in found:
            metrics = []
            for name, metric in METRICS.items():
                if metric.pre_training is not pre_training:
                    continue
                entry = {"name": name, "description": metric.description, "value": values.get(name)}
                if entry["value"] is None:
                    entry["error"] = missing.get(name, "not defined for these rows: it divides by zero")
                metrics.append(entry)
            facets.setdefault(facet.name, []).append({"value_or_threshold": facet.value, "metrics": metrics})
        return {
            "label": options["target"],
            "label_value_or_threshold": options["positive_class"],
            "facets": facets,
        }

    return {
        "version": "1.0",
        "pre_training_bias_metrics": block(True),
        "post_training_bias_metrics": block(False),
    }


def not_grouped(group_variable: str | None, too_many: bool = False) -> dict[str, str]:
    """Why the conditional metrics have no value."""
    if group_variable and too_many:
        return dict.fromkeys(BY_SUBGROUP, f"{group_variable} has more than {MAX_SUBGROUPS} values")
    return {} if group_variable else dict.fromkeys(BY_SUBGROUP, "no group_variable is configured")


def baseline(inputs: BaselineInputs) -> dict[str, dict[str, Any]]:
    """The files of the kind: the model's answers for rows that training did not see, and their truth."""
    options = inputs.run_options(KIND)
    if options["problem_type"] != BINARY:
        raise MonitorError(f"model_bias needs a {BINARY}; problem_type is {options['problem_type']}")
    facets, group_variable = facets_of(options["settings"]), options["settings"].get("group_variable")
    rows = inputs.holdout_frame
    for name in [*(facet.name for facet in facets), *([group_variable] if group_variable else [])]:
        if name not in rows.columns:
            columns = ", ".join(rows.columns)
            raise MonitorError(
                f"monitoring.model_bias in mlops.yml names {name!r}: no such column; there are {columns}"
            )
    predictor = Predictor(inputs.model_folder)
    options["negative_class"] = negative_class(predictor, inputs)
    answered = binary_outcomes(with_answers(rows, predictor, inputs.target, BINARY), options)
    kinds = {feature["name"]: feature.get("kind", "category") for feature in predictor.metadata["features"]}
    found, straight, spreads = [], [], []
    for facet, known in zip(facets, tally(answered, facets, group_variable), strict=True):
        counts = Counts()
        counts.add(known)
        sides = counts.table.sum(axis=(1, 2))
        if sides.min() < SMALLEST_GROUP:
            raise MonitorError(
                f"facet {facet.name} = {facet.value} has {sides[1]} rows in and {sides[0]} outside the group;"
                f" at least {SMALLEST_GROUP} are needed on both sides"
            )
        values = counts.values(bool(group_variable))
        clear = answered.with_columns(member=facet.member).drop_nulls(["member", "truth", "predicted"])
        values["FT"] = flip_test(
            clear["member"].to_numpy() == 1,
            clear["predicted"].to_numpy(),
            numbers_of(clear, kinds, facet.name),
        )
        found.append((facet, values))
        straight.append(counts.straight(bool(group_variable)))
        spreads.append(counts.spreads(bool(group_variable)))
    analysis = analysis_of(
        found, options, {"FT": "not enough neighbours outside the group"} | not_grouped(group_variable)
    )
    known_facets = [
        {"name": facet.name, "value": facet.value, "values": values, "straight": scaled, "spreads": spread}
        for (facet, values), scaled, spread in zip(found, straight, spreads, strict=True)
    ]
    return {
        "statistics.json": analysis,
        "constraints.json": analysis,
        "analysis.json": analysis,
        "options.json": options | {"baseline": known_facets},
    }


# ------------------------------------------------------------ the scan


class Monitor:
    """Counts answers by facet and truth, and judges the metrics of the counts."""

    needs_outputs = True
    needs_truth = True

    def __init__(self, baseline: Path, settings: Settings) -> None:
        self.settings = settings
        self.options = settings.options
        self.constraints = read_json(find(baseline, "constraints.json"))
        self.facets = facets_of(settings.block)
        self.group_variable: str | None = settings.block.get("group_variable")
        self.counts = [Counts() for _ in self.facets]
        self.records = 0
        self.excluded = 0

    def add(self, batch: pl.DataFrame) -> None:
        """Take in a batch of rows."""
        rows = binary_outcomes(batch, self.options).filter(
            pl.col("truth").is_not_null() & pl.col("predicted").is_not_null()
        )
        self.records += rows.height
        self.excluded += batch.height - rows.height
        for counts, known in zip(self.counts, tally(rows, self.facets, self.group_variable), strict=True):
            counts.add(known)

    def partial(self) -> dict[str, Any]:
        """The state of this part, as JSON."""
        return {
            "records": self.records,
            "excluded": self.excluded,
            "facets": [counts.partial() for counts in self.counts],
        }

    def merge(self, partial: dict[str, Any]) -> None:
        """Take in another part's state."""
        self.records += partial["records"]
        self.excluded += partial["excluded"]
        for counts, part in zip(self.counts, partial["facets"], strict=True):
            counts.merge(part)

    def finish(self) -> Result:
        """Judge the metrics."""
        grouped = bool(self.group_variable)
        found = [(f, c.values(grouped)) for f, c in zip(self.facets, self.counts, strict=True)]
        missing = {"FT": "computed in the baseline only: it needs the rows themselves"} | not_grouped(
            self.group_variable, any(counts.too_many for counts in self.counts)
        )
        analysis = analysis_of(found, self.options, missing)
        result = Result(KIND, self.records, analysis, self.constraints, analysis=analysis)
        if self.excluded:
            result.notes.append(f"{self.excluded} rows without a usable answer or truth were left out")
        least = self.settings.min_records
        if self.records < least:
            result.judged = False
            result.notes.append(
                f"{self.records} records with ground truth in the window, {least} are needed to judge bias:"
                " it was not judged"
            )
        known = {(entry["name"], entry["value"]): entry for entry in self.options["baseline"]}
        judged = set(METRICS) - NOT_JUDGED
        tests = sum(entry["values"].get(name) is not None for entry in known.values() for name in judged)
        for (facet, values), counts in zip(found, self.counts, strict=True):
            before = known.get((facet.name, facet.value))
            if before is None:
                raise MonitorError(f"the baseline has no facet {facet.name} = {facet.value}: train again")
            sides = counts.table.sum(axis=(1, 2))
            enough = bool(sides.min() >= SMALLEST_GROUP)
            if result.judged and not enough:
                result.notes.append(
                    f"{facet.name} = {facet.value}: {sides[1]} rows in and {sides[0]} outside the group,"
                    f" {SMALLEST_GROUP} are needed on both sides: it was not judged"
                )
            now = {"values": values, "straight": counts.straight(grouped), "spreads": counts.spreads(grouped)}
            self._judge(result, facet, now, before, enough, chance.level(tests))
        return result

    def _judge(
        self,
        result: Result,
        facet: Facet,
        now: Mapping[str, Any],
        before: Mapping[str, Any],
        enough: bool,
        alpha: float,
    ) -> None:
        tolerance = float(self.settings.block.get("tolerance", TOLERANCE))
        for name in METRICS:
            value, reference = now["values"].get(name), before["values"].get(name)
            if value is None or reference is None:
                continue
            subject = f"{facet.name}={facet.value}"
            if name in NOT_JUDGED:
                result.measures.append(Measure(subject, name, value, reference))
                continue
            allowed = away(name, reference) + tolerance
            p_value = chance.worse_by_chance(
                abs(now["straight"][name]) - abs(before["straight"][name]),
                now["spreads"].get(name, math.nan),
                before["spreads"].get(name, math.nan),
            )
            violated = bool(result.judged and enough and away(name, value) > allowed and p_value < alpha)
            result.measures.append(Measure(subject, name, value, reference, allowed, p_value, violated))
            if violated:
                result.violations.append(
                    {
                        "facet": facet.name,
                        "facet_value": facet.value,
                        "metric_name": name,
                        "constraint_check_type": "bias_drift_check",
                        "description": f"Value {value} does not meet the constraint requirement; it was"
                        f" {reference} at training time",
                    }
                )


def away(name: str, value: float) -> float:
    """How far from no bias."""
    return abs(value - 1) if name == "DI" else abs(value)
