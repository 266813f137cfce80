"""Model quality: whether the answers are as right as they were on rows that training did not see.

Statistics and constraints have Model Monitor's documented form
(https://docs.aws.amazon.com/sagemaker/latest/dg/model-monitor-model-quality-metrics.html and
…/model-monitor-model-quality-baseline.html). scikit-learn computes the metrics, with the number of times that
each (score, truth) was seen as weights: such counts are all that the metrics need, and they add up exactly.

A metric is violated when it is beyond the threshold of constraints.json and worse than the baseline's own
value by more than chance allows, given the size of both samples. Spreads:
DeLong for the area under the ROC curve, the bootstrap of the confusion matrix for the others, moments for
regression (see chance.py).
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    fbeta_score,
    precision_recall_curve,
    precision_score,
    recall_score,
    roc_auc_score,
    roc_curve,
)

from . import MonitorError, chance
from .predictor import Predictor
from .result import Measure, Result
from .settings import BaselineInputs, Settings, find, read_json

KIND = "model_quality"
TOLERANCE = 0.05  # a metric may be so much worse than the baseline's before it matters (regression: a share)
DECISION = 0.5  # what the endpoint takes for the positive class where its answer has no label
STEPS = 1_000_000  # scores are kept to 1e-6, which is how the endpoint writes them
CURVE_POINTS = 101  # what a plot shows
# Model Monitor gives a spread from five draws of 80 %, and only where there are enough rows for it.
DRAWS, DRAWN, ROWS_FOR_SPREAD = 5, 0.8, 200
LARGEST = 1e60  # its fourth power is still a number; a larger one is no measurement
SCALE = 1200  # binary digits behind the point that hold every double
MAX_CLASSES = 500  # more distinct labels than this are no classes
RATES = ("true_positive_rate", "true_negative_rate", "false_positive_rate", "false_negative_rate")
BETAS = {"f0_5": 0.5, "f1": 1.0, "f2": 2.0}
SMALLER_IS_BETTER = frozenset({"false_positive_rate", "false_negative_rate", "mae", "mse", "rmse"})
PREFIX = {
    "BinaryClassification": "binary_classification",
    "MulticlassClassification": "multiclass_classification",
    "Regression": "regression",
}

Values = dict[str, float]


# ------------------------------------------------------------ answers and truth


def as_class(column: pl.Expr, positive: str, negative: str) -> pl.Expr:
    """1, 0 or null (something else) of labels: the classes' names, or 0 and 1."""
    number = column.cast(pl.Float64, strict=False)
    return (
        pl.when(column == positive)
        .then(1)
        .when((column == negative) if negative else pl.lit(False))
        .then(0)
        .when(number == 1)
        .then(1)
        .when(number == 0)
        .then(0)
        .cast(pl.UInt8)
    )


def binary_outcomes(batch: pl.DataFrame, options: Mapping[str, Any]) -> pl.DataFrame:
    """truth, predicted (1, 0 or null) and score of rows, next to their columns."""
    positive, negative = options["positive_class"], options.get("negative_class", "")
    by_score = pl.when(pl.col("_score").is_finite()).then((pl.col("_score") >= DECISION).cast(pl.UInt8))
    return batch.with_columns(
        truth=as_class(pl.col("_truth"), positive, negative),
        predicted=pl.coalesce(as_class(pl.col("_label"), positive, negative), by_score),
        score=pl.when(pl.col("_score").is_between(0, 1)).then(pl.col("_score")),
    )


# ------------------------------------------------------------ tallies: what is counted, and its metrics


class Tally(ABC):
    """Counts of one problem type: mergeable, and enough for its metrics."""

    records = 0
    excluded = 0  # rows whose answer or truth is no class and no number

    @abstractmethod
    def add(self, rows: pl.DataFrame, options: Mapping[str, Any]) -> None:
        """Count rows with _score, _label and _truth."""

    @abstractmethod
    def partial(self) -> dict[str, Any]:
        """The counts, as JSON."""

    @abstractmethod
    def merge(self, partial: Mapping[str, Any]) -> None:
        """Add another part's counts."""

    @abstractmethod
    def metrics(self) -> tuple[Values, dict[str, Any]]:
        """Single numbers, and blocks of the statistics that are more than a number."""

    @abstractmethod
    def spreads(self) -> Values:
        """The standard error of each metric that is judged."""

    @abstractmethod
    def drawn_spreads(self) -> Values:
        """Model Monitor's standard deviation: of five draws of 80 % of the rows."""


class BinaryTally(Tally):
    """Counts by (truth, score), and by (truth, predicted class)."""

    judged = ["recall", "precision", "accuracy", *RATES, "auc", *BETAS]

    def __init__(self) -> None:
        self.by_score = np.zeros((2, STEPS + 1), dtype=np.int64)
        self.matrix = np.zeros((2, 2), dtype=np.int64)  # [truth, predicted]

    def add(self, rows: pl.DataFrame, options: Mapping[str, Any]) -> None:
        """Count rows."""
        known = binary_outcomes(rows, options).filter(
            pl.col("truth").is_not_null() & pl.col("predicted").is_not_null()
        )
        self.records += known.height
        self.excluded += rows.height - known.height
        cell = known.select(pl.col("truth").cast(pl.Int64) * 2 + pl.col("predicted"))["truth"].to_numpy()
        self.matrix += np.bincount(cell, minlength=4).reshape(2, 2)
        scored = known.filter(pl.col("score").is_not_null())
        place = np.rint(scored["score"].to_numpy() * STEPS).astype(np.int64)
        cell = scored["truth"].to_numpy().astype(np.int64) * (STEPS + 1) + place
        seen, counts = np.unique(cell, return_counts=True)
        self.by_score.reshape(-1)[seen] += counts

    def partial(self) -> dict[str, Any]:
        """The counts, as JSON."""
        place = np.flatnonzero(self.by_score.any(axis=0))
        return {
            "excluded": self.excluded,
            "matrix": self.matrix.tolist(),
            "scores": place.tolist(),
            "counts": self.by_score[:, place].tolist(),
        }

    def merge(self, partial: Mapping[str, Any]) -> None:
        """Add another part's counts."""
        self.excluded += partial["excluded"]
        self.matrix += np.array(partial["matrix"], dtype=np.int64)
        self.records = int(self.matrix.sum())
        place = np.array(partial["scores"], dtype=np.int64)
        self.by_score[:, place] += np.array(partial["counts"], dtype=np.int64).reshape(2, -1)

    def _scored(self) -> tuple[np.ndarray, np.ndarray]:
        """The scores that were seen, ascending, and their counts [truth, score]."""
        place = np.flatnonzero(self.by_score.any(axis=0))
        return place / STEPS, self.by_score[:, place]

    def metrics(self) -> tuple[Values, dict[str, Any]]:
        """The metrics of the documented example, those that are defined."""
        values = matrix_metrics(self.matrix)
        constant = int(self.matrix[1].sum() >= self.matrix[0].sum())  # always the more frequent class
        always = np.zeros((2, 2), dtype=np.int64)
        always[:, constant] = self.matrix.sum(axis=1)
        best = matrix_metrics(always)
        for name in ("recall", "precision", "accuracy", *BETAS):
            values[f"{name}_best_constant_classifier"] = best[name]
        blocks: dict[str, Any] = {"confusion_matrix": named_matrix(self.matrix.tolist(), ["0", "1"])}
        scores, counts = self._scored()
        if (counts.sum(axis=1) > 0).all():
            values["auc"] = area_under_curve(scores, counts)
            truth, score, weight = weighted_rows(scores, counts)
            false_rates, true_rates, _ = roc_curve(truth, score, sample_weight=weight)
            blocks["receiver_operating_characteristic_curve"] = {
                "false_positive_rates": thin(false_rates),
                "true_positive_rates": thin(true_rates),
            }
            precisions, recalls, _ = precision_recall_curve(truth, score, sample_weight=weight)
            blocks["precision_recall_curve"] = {"precisions": thin(precisions), "recalls": thin(recalls)}
        return values, blocks

    def spreads(self) -> Values:
        """Bootstrap of the confusion matrix, DeLong for the area under the curve."""
        found = chance.spreads(self.matrix, table_metrics)
        area = chance.auc_spread(*self._scored()[1].astype(float))
        return found | ({"auc": area} if math.isfinite(area) else {})

    def drawn_spreads(self) -> Values:
        """Draws from the counts are draws from the rows."""
        scores, counts = self._scored()
        rng = np.random.default_rng(chance.SEED)
        drawn = []
        for _ in range(DRAWS):
            values = matrix_metrics(draw(rng, self.matrix))
            part = draw(rng, counts)
            if (part.sum(axis=1) > 0).all():
                values["auc"] = area_under_curve(scores, part)
            drawn.append(values)
        return deviations(drawn)


class MulticlassTally(Tally):
    """Counts by (truth, predicted class)."""

    judged = ["accuracy", "weighted_recall", "weighted_precision", *(f"weighted_{name}" for name in BETAS)]

    def __init__(self) -> None:
        self.cells: Counter[tuple[str, str]] = Counter()

    def add(self, rows: pl.DataFrame, options: Mapping[str, Any]) -> None:
        """Count rows."""
        known = rows.filter(pl.col("_truth").is_not_null() & pl.col("_label").is_not_null())
        self.excluded += rows.height - known.height
        for truth, label, count in known.group_by("_truth", "_label").len().iter_rows():
            self.cells[truth, label] += count
        self._bound()

    def partial(self) -> dict[str, Any]:
        """The counts, as JSON."""
        return {"excluded": self.excluded, "cells": [[*cell, n] for cell, n in sorted(self.cells.items())]}

    def merge(self, partial: Mapping[str, Any]) -> None:
        """Add another part's counts."""
        self.excluded += partial["excluded"]
        for truth, label, count in partial["cells"]:
            self.cells[truth, label] += count
        self._bound()

    def _bound(self) -> None:
        self.records = self.cells.total()
        if len(self.classes) > MAX_CLASSES:
            raise MonitorError(
                f"more than {MAX_CLASSES} distinct labels: this is no classification, set problem_type of"
                " monitoring.model_quality in mlops.yml"
            )

    @property
    def classes(self) -> list[str]:
        """Every label that was seen as truth or as answer."""
        return sorted({name for cell in self.cells for name in cell})

    @property
    def matrix(self) -> np.ndarray:
        """Counts [truth, predicted] in the order of the classes."""
        place = {name: index for index, name in enumerate(self.classes)}
        found = np.zeros((len(place), len(place)), dtype=np.int64)
        for (truth, label), count in self.cells.items():
            found[place[truth], place[label]] = count
        return found

    def metrics(self) -> tuple[Values, dict[str, Any]]:
        """The metrics of the documented example."""
        matrix, classes = self.matrix, self.classes
        values = weighted_metrics(matrix)
        always = np.zeros_like(matrix)
        if len(classes):
            always[:, int(matrix.sum(axis=1).argmax())] = matrix.sum(axis=1)
        best = weighted_metrics(always)
        values |= {f"{name}_best_constant_classifier": value for name, value in best.items()}
        return values, {"confusion_matrix": named_matrix(matrix.tolist(), classes)}

    def spreads(self) -> Values:
        """Bootstrap of the confusion matrix."""
        # without the half counts: most cells of many classes are empty, and halves would outweigh the rows
        matrix = self.matrix
        size, seen = int(matrix.sum()), np.flatnonzero(matrix)
        if not size:
            return {}
        rng, found = np.random.default_rng(chance.SEED), []
        for counts in rng.multinomial(size, matrix.ravel()[seen] / size, size=chance.DRAWS // 4):
            table = np.zeros(matrix.size)
            table[seen] = counts
            found.append(weighted_table_metrics(table.reshape(matrix.shape)))
        return deviations(found)

    def drawn_spreads(self) -> Values:
        """Draws from the counts are draws from the rows."""
        rng, matrix = np.random.default_rng(chance.SEED), self.matrix
        drawn = []
        for _ in range(DRAWS):
            part = MulticlassTally()
            counts = draw(rng, matrix)
            part.cells = Counter(
                {
                    (truth, label): int(counts[i, j])
                    for i, truth in enumerate(self.classes)
                    for j, label in enumerate(self.classes)
                    if counts[i, j]
                }
            )
            drawn.append(part.metrics()[0])
        return deviations(drawn)


class RegressionTally(Tally):
    """Sums of powers of the error e and of the truth y: enough for the metrics and for their spreads."""

    judged = ["mae", "mse", "rmse", "r2"]
    NAMES = ("e1", "e2", "e4", "y1", "y2", "y3", "y4", "e2y1", "e2y2")

    def __init__(self, center: float = 0.0) -> None:
        self.center = center  # y is the truth less this: sums of squares of large numbers lose their digits
        self.sums = dict.fromkeys(self.NAMES, 0)  # exact: see exact_sum

    def add(self, rows: pl.DataFrame, options: Mapping[str, Any]) -> None:
        """Add rows up."""
        pair = rows.select(
            answer=pl.coalesce(pl.col("_score"), pl.col("_label").cast(pl.Float64, strict=False)),
            truth=pl.col("_truth").cast(pl.Float64, strict=False) - self.center,
        ).filter(pl.all_horizontal(pl.all().abs() <= LARGEST))
        self.records += pair.height
        self.excluded += rows.height - pair.height
        y = pair["truth"].to_numpy()
        e = np.abs(pair["answer"].to_numpy() - (y + self.center))
        powers = (e, e**2, e**4, y, y**2, y**3, y**4, e**2 * y, e**2 * y**2)
        for name, power in zip(self.NAMES, powers, strict=True):
            self.sums[name] += exact_sum(power)

    def partial(self) -> dict[str, Any]:
        """The sums, as JSON."""
        sums = {name: hex(value) for name, value in self.sums.items()}
        return {"records": self.records, "excluded": self.excluded, "sums": sums}

    def merge(self, partial: Mapping[str, Any]) -> None:
        """Add another part's sums."""
        self.records += partial["records"]
        self.excluded += partial["excluded"]
        for name in self.NAMES:
            self.sums[name] += int(partial["sums"][name], 16)

    def _means(self) -> dict[str, float]:
        """The mean of each power, and the central moments of the truth that the metrics need."""
        m = {name: value / (self.records << SCALE) for name, value in self.sums.items()}
        center = m["y1"]
        m["variance"] = m["y2"] - center**2
        m["fourth"] = m["y4"] - 4 * center * m["y3"] + 6 * center**2 * m["y2"] - 3 * center**4
        m["joint"] = m["e2y2"] - 2 * center * m["e2y1"] + center**2 * m["e2"]
        return m

    def metrics(self) -> tuple[Values, dict[str, Any]]:
        """MAE, MSE, RMSE and R2."""
        if not self.records:
            return dict.fromkeys(self.judged, 0.0), {}
        m = self._means()
        values = {"mae": m["e1"], "mse": m["e2"], "rmse": math.sqrt(m["e2"])}
        if m["variance"] > 0:
            values["r2"] = 1 - m["e2"] / m["variance"]
        return values, {}

    def spreads(self) -> Values:
        """Of means from the errors' moments; of RMSE and R2 by the delta method."""
        if self.records < 2:
            return {}
        m, count = self._means(), self.records
        of_mse = max(0.0, m["e4"] - m["e2"] ** 2)
        found = {
            "mae": math.sqrt(max(0.0, m["e2"] - m["e1"] ** 2) / count),
            "mse": math.sqrt(of_mse / count),
        }
        if m["e2"] > 0:
            found["rmse"] = found["mse"] / (2 * math.sqrt(m["e2"]))
        if m["variance"] > 0:  # 1 - A / B with A the mean squared error and B the variance of the truth
            ratio = m["e2"] / m["variance"]
            of_variance = m["fourth"] - m["variance"] ** 2
            together = m["joint"] - m["e2"] * m["variance"]
            spread = max(0.0, of_mse - 2 * ratio * together + ratio**2 * of_variance)
            found["r2"] = math.sqrt(spread / count) / m["variance"]
        return found

    def drawn_spreads(self) -> Values:
        """Of a draw of a share p without replacement: the standard error times sqrt((1 - p) / p)."""
        return {name: value * math.sqrt((1 - DRAWN) / DRAWN) for name, value in self.spreads().items()}


def exact_sum(values: np.ndarray) -> int:
    """The exact sum of doubles, in units of 2**-SCALE: the same in any order and in any parts."""
    total = 0
    mantissa, exponent = np.frexp(values)
    whole = np.ldexp(mantissa, 53).astype(np.int64)
    for power in np.unique(exponent):
        part = whole[exponent == power]
        # halves of 26 and 27 bits: sums of whole mantissas would not fit in 64
        total += ((int((part >> 26).sum()) << 26) + int((part & (2**26 - 1)).sum())) << (
            int(power) - 53 + SCALE
        )
    return total


TALLIES: dict[str, type[Tally]] = {
    "BinaryClassification": BinaryTally,
    "MulticlassClassification": MulticlassTally,
    "Regression": RegressionTally,
}


def tally_of(options: Mapping[str, Any]) -> Any:
    """An empty tally of the problem type."""
    problem = options["problem_type"]
    if problem not in TALLIES:
        raise MonitorError(f"problem_type is {problem!r}: it must be one of {', '.join(TALLIES)}")
    return RegressionTally(options.get("center", 0.0)) if problem == "Regression" else TALLIES[problem]()


# ------------------------------------------------------------ metrics of tables


def cells(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth, answer and weight of the cells of a confusion matrix: the form that scikit-learn takes."""
    truth, predicted = np.indices(matrix.shape)
    return truth.ravel(), predicted.ravel(), matrix.ravel()


def weighted_rows(scores: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth, score and weight of counts [truth, score]: the form that scikit-learn takes."""
    truth, place = np.nonzero(counts)
    return truth, scores[place], counts[truth, place]


def area_under_curve(scores: np.ndarray, counts: np.ndarray) -> float:
    """The area under the ROC curve of counts [truth, score]."""
    truth, score, weight = weighted_rows(scores, counts)
    return float(roc_auc_score(truth, score, sample_weight=weight))


def matrix_metrics(matrix: np.ndarray) -> Values:
    """Metrics of a 2 x 2 confusion matrix [truth, predicted] by scikit-learn; what divides by zero is 0."""
    if not matrix.sum():
        return dict.fromkeys(table_metrics(np.ones((2, 2))), 0.0)
    truth, predicted, weight = cells(matrix)
    given = {"sample_weight": weight, "zero_division": 0}
    rates = confusion_matrix(truth, predicted, sample_weight=weight).astype(float)
    sums = rates.sum(axis=1, keepdims=True)
    rates = np.divide(rates, sums, out=np.zeros_like(rates), where=sums > 0)
    return {
        "recall": float(recall_score(truth, predicted, **given)),
        "precision": float(precision_score(truth, predicted, **given)),
        "accuracy": float(accuracy_score(truth, predicted, sample_weight=weight)),
        "true_positive_rate": float(rates[1, 1]),
        "true_negative_rate": float(rates[0, 0]),
        "false_positive_rate": float(rates[0, 1]),
        "false_negative_rate": float(rates[1, 0]),
        **{name: float(fbeta_score(truth, predicted, beta=beta, **given)) for name, beta in BETAS.items()},
    }


def table_metrics(tables: np.ndarray) -> dict[str, np.ndarray]:
    """The same metrics of many matrices at once (… x truth x predicted)."""
    tables = np.asarray(tables, dtype=float)
    true_0, false_1 = tables[..., 0, 0], tables[..., 0, 1]
    false_0, true_1 = tables[..., 1, 0], tables[..., 1, 1]
    recall = true_1 / (true_1 + false_0)
    rejected = true_0 / (true_0 + false_1)
    found = {
        "recall": recall,
        "precision": true_1 / (true_1 + false_1),
        "accuracy": (true_0 + true_1) / (true_0 + true_1 + false_0 + false_1),
        "true_positive_rate": recall,
        "true_negative_rate": rejected,
        "false_positive_rate": 1 - rejected,
        "false_negative_rate": 1 - recall,
    }
    for name, beta in BETAS.items():
        weight = beta**2
        found[name] = (1 + weight) * true_1 / ((1 + weight) * true_1 + weight * false_0 + false_1)
    return found


def weighted_metrics(matrix: np.ndarray) -> Values:
    """Metrics of several classes, each class by its share of the truth."""
    if not matrix.sum():
        return dict.fromkeys(MulticlassTally.judged, 0.0)
    truth, predicted, weight = cells(matrix)
    given = {"sample_weight": weight, "zero_division": 0, "average": "weighted"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedMetricWarning)
        return {
            "accuracy": float(accuracy_score(truth, predicted, sample_weight=weight)),
            "weighted_recall": float(recall_score(truth, predicted, **given)),
            "weighted_precision": float(precision_score(truth, predicted, **given)),
            **{
                f"weighted_{name}": float(fbeta_score(truth, predicted, beta=beta, **given))
                for name, beta in BETAS.items()
            },
        }


def weighted_table_metrics(table: np.ndarray) -> Values:
    """The same, many times as fast as scikit-learn: the bootstrap needs it often."""
    right, truth, answered = np.diag(table), table.sum(axis=1), table.sum(axis=0)
    share = truth / truth.sum()

    def weighted(above: np.ndarray, below: np.ndarray) -> float:
        return float(share @ np.divide(above, below, out=np.zeros_like(share), where=below > 0))

    return {
        "accuracy": float(right.sum() / truth.sum()),
        "weighted_recall": weighted(right, truth),
        "weighted_precision": weighted(right, answered),
        **{
            f"weighted_{name}": weighted((1 + beta**2) * right, beta**2 * truth + answered)
            for name, beta in BETAS.items()
        },
    }


def draw(rng: np.random.Generator, counts: np.ndarray) -> np.ndarray:
    """Counts of a draw of 80 % of the rows, without replacement."""
    flat = counts.ravel()
    drawn = rng.multivariate_hypergeometric(flat, round(DRAWN * int(flat.sum())), method="marginals")
    return drawn.reshape(counts.shape)


def deviations(drawn: list[Values]) -> Values:
    """The standard deviation of each metric that every draw has."""
    common = set.intersection(*(set(values) for values in drawn)) if drawn else set()
    return {name: float(np.std([values[name] for values in drawn])) for name in drawn[0] if name in common}


def named_matrix(matrix: list[list[int]], classes: list[str]) -> dict[str, dict[str, int]]:
    """{truth: {predicted: count}}"""
    return {
        truth: dict(zip(classes, counts, strict=True)) for truth, counts in zip(classes, matrix, strict=True)
    }


def thin(values: np.ndarray) -> list[float]:
    """A curve in few points."""
    keep = np.unique(np.linspace(0, len(values) - 1, min(len(values), CURVE_POINTS)).round().astype(int))
    return [float(value) for value in values[keep]]


# ------------------------------------------------------------ files


def statistics_of(tally: Tally, problem: str) -> tuple[dict[str, Any], Values]:
    """statistics.json, and the metrics in it."""
    values, blocks = tally.metrics()
    spread = tally.drawn_spreads() if tally.records >= ROWS_FOR_SPREAD else {}
    metrics: dict[str, Any] = dict(blocks)
    for name, value in values.items():
        metrics[name] = {"value": value, "standard_deviation": spread.get(name, "NaN")}
    return {
        "version": 0.0,
        "dataset": {"item_count": tally.records},
        f"{PREFIX[problem]}_metrics": metrics,
    }, values


def suggest_constraints(values: Values, judged: list[str], problem: str, tolerance: float) -> dict[str, Any]:
    """constraints.json: the baseline's value, less what does not matter."""

    def allowed(name: str) -> dict[str, Any]:
        slack = tolerance * abs(values[name]) if problem == "Regression" and name != "r2" else tolerance
        if name in SMALLER_IS_BETTER:
            return {"threshold": values[name] + slack, "comparison_operator": "GreaterThanThreshold"}
        return {"threshold": values[name] - slack, "comparison_operator": "LessThanThreshold"}

    return {
        "version": 0.0,
        f"{PREFIX[problem]}_constraints": {name: allowed(name) for name in judged if name in values},
    }


def baseline(inputs: BaselineInputs) -> dict[str, dict[str, Any]]:
    """The files of the kind, from rows that training did not see, scored by the model."""
    options = inputs.run_options(KIND)
    problem = options["problem_type"]
    rows = inputs.holdout_frame
    predictor = Predictor(inputs.model_folder)
    if problem == "BinaryClassification":
        options["negative_class"] = negative_class(predictor, inputs)
    if problem == "Regression":
        mean = rows[inputs.target].cast(pl.Float64, strict=False).mean()
        options["center"] = float(mean) if isinstance(mean, float) else 0.0
    tally = tally_of(options)
    tally.add(with_answers(rows, predictor, inputs.target, problem), options)
    if not tally.records:
        raise MonitorError(f"no row of --holdout has a {inputs.target} that is a class or a number")
    statistics, values = statistics_of(tally, problem)
    tolerance = float(options["settings"].get("tolerance", TOLERANCE))
    return {
        "statistics.json": statistics,
        "constraints.json": suggest_constraints(values, tally.judged, problem, tolerance),
        "options.json": options
        | {"baseline": {"values": values, "spreads": tally.spreads(), "records": tally.records}},
    }


def with_answers(rows: pl.DataFrame, predictor: Predictor, target: str, problem: str) -> pl.DataFrame:
    """Rows with _score, _label and _truth, as captured traffic has them."""
    score: Any = None
    label: Any = None
    if problem == "MulticlassClassification":
        label = pl.Series(predictor.labels(rows), dtype=pl.String)
    else:
        # as the endpoint writes them: with six decimals
        score = pl.Series(np.round(predictor.scores(rows), 6), dtype=pl.Float64)
    return rows.with_columns(
        pl.lit(score, dtype=pl.Float64).alias("_score"),
        pl.lit(label, dtype=pl.String).alias("_label"),
        pl.col(target).alias("_truth"),
    )


def negative_class(predictor: Predictor, inputs: BaselineInputs) -> str:
    """The other class's name."""
    named = predictor.metadata.get("negative_class")
    if named is not None:
        return str(named)
    others = set(inputs.holdout_frame[inputs.target].drop_nulls().unique()) - {inputs.positive_class}
    return min(others, default="")


# ------------------------------------------------------------ the scan


class Monitor:
    """Counts answers by truth, and judges the metrics of the counts."""

    needs_outputs = True
    needs_truth = True

    def __init__(self, baseline: Path, settings: Settings) -> None:
        self.settings = settings
        self.options = settings.options
        self.constraints = read_json(find(baseline, "constraints.json"))
        self.tally = tally_of(self.options)

    def add(self, batch: pl.DataFrame) -> None:
        """Take in a batch of rows."""
        self.tally.add(batch, self.options)

    def partial(self) -> dict[str, Any]:
        """The state of this part, as JSON."""
        return self.tally.partial()

    def merge(self, partial: dict[str, Any]) -> None:
        """Take in another part's state."""
        self.tally.merge(partial)

    def finish(self) -> Result:
        """Judge the metrics."""
        problem, tally = self.options["problem_type"], self.tally
        statistics, values = statistics_of(tally, problem)
        result = Result(KIND, tally.records, statistics, self.constraints)
        if tally.excluded:
            result.notes.append(f"{tally.excluded} rows without a usable answer or truth were left out")
        least = self.settings.min_records
        if tally.records < least:
            result.judged = False
            result.notes.append(
                f"{tally.records} records with ground truth in the window, {least} are needed to judge model"
                " quality: it was not judged"
            )
        rules = self.constraints.get(f"{PREFIX[problem]}_constraints", {}) if tally.records else {}
        alpha = chance.level(len(rules))
        spreads = tally.spreads()
        for name, rule in rules.items():
            if name in values:
                self._judge(result, name, rule, values[name], spreads.get(name, math.nan), alpha)
            else:
                result.notes.append(f"{name} is not defined for the answers and truths of the window")
        return result

    def _judge(
        self, result: Result, name: str, rule: Mapping[str, Any], value: float, spread: float, alpha: float
    ) -> None:
        threshold, operator = float(rule["threshold"]), rule["comparison_operator"]
        sign = 1 if operator == "GreaterThanThreshold" else -1
        known = self.options["baseline"]
        before = known["values"].get(name)
        p_value = None
        if before is not None:
            p_value = chance.worse_by_chance(
                sign * (value - before), spread, known["spreads"].get(name, math.nan)
            )
        beyond = sign * (value - threshold) > 0
        # a threshold that a person has set needs no baseline value: then the threshold alone decides
        violated = result.judged and beyond and (p_value is None or p_value < alpha)
        result.measures.append(Measure("model", name, value, before, threshold, p_value, violated))
        if violated:
            word = "greater" if sign > 0 else "less"
            result.violations.append(
                {
                    "constraint_check_type": operator,
                    "description": f"Metric {name} with {value} is {word} than the threshold {threshold};"
                    + (f" it was {before} at training time" if before is not None else ""),
                    "metric_name": name,
                }
            )
