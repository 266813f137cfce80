"""Feature attribution drift: whether the features matter for the answers as they did at training time.

SHAP values say how much each feature moved each answer away from the average answer. They are estimated by
permutation sampling with antithetic pairs against a background sample:

- Strumbelj & Kononenko 2014, "Explaining prediction models and individual predictions with feature
  contributions": the Shapley value of a feature is its mean contribution over orders in which the features
  of a row replace those of a background row; random orders estimate it.
- Lundberg & Lee 2017, "A unified approach to interpreting model predictions": why these values.
- Mitchell, Cooper, Frank & Holmes 2022, "Sampling permutations for Shapley value estimation": each order is
  used with its reverse. Such a pair is exact for every model whose features interact in pairs at most; few
  features are enumerated, which is exact for all models.

Baseline and live rows are explained against the same background rows with the same orders, so what differs is
the rows alone. The judgement is that of Model Monitor
(https://docs.aws.amazon.com/sagemaker/latest/dg/clarify-model-monitor-feature-attribution-drift.html): the
normalised discounted cumulative gain (NDCG) of the live ranking, with the baseline's attributions as gains,
is below 0.90. Here chance must be excluded, too: features of nearly the same weight change places in any
sample.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from sklearn.metrics import ndcg_score

from . import MonitorError, chance
from .predictor import Predictor
from .result import Measure, Result
from .settings import BaselineInputs, Settings, find, read_json

KIND = "model_explainability"
THRESHOLD = 0.90
SAMPLE = 200  # rows that are explained
BACKGROUND = 25  # training rows that stand for "feature not known"; as many pairs of orders
SHUFFLES = 9999
MIXED = 40_000  # rows put together at once
SIGNIFICANT = 6  # digits that are kept of an attribution
SALT = 20260301  # of the choice of rows

Score = Callable[[np.ndarray], np.ndarray]


# ------------------------------------------------------------ Shapley values


def orders(background: int, features: int, seed: int = chance.SEED) -> list[tuple[int, np.ndarray]]:
    """(background row, order of the features): all orders where they are few, else antithetic pairs."""
    if math.factorial(min(features, 20)) <= 2 * background:
        every = [np.array(order) for order in itertools.permutations(range(features))]
        return [(row, order) for row in range(background) for order in every]
    rng = np.random.default_rng(seed)
    chosen: list[tuple[int, np.ndarray]] = []
    for row in range(background):
        order = rng.permutation(features)
        chosen += [(row, order), (row, order[::-1])]
    return chosen


def shapley_values(score: Score, background: int, rows: int, features: int) -> tuple[np.ndarray, float]:
    """SHAP values (rows x features) and the expected answer.

    `score` takes, for each row to be scored, the row that each feature comes from: 0 … background - 1 are the
    background rows, the rows to explain follow. The values of a row add up to its answer minus the expected
    one, exactly.
    """
    chosen = orders(background, features)
    # known[s, k, j]: in step k of order s, feature j comes from the row that is explained
    known = np.zeros((len(chosen), features + 1, features), dtype=bool)
    for number, (_, order) in enumerate(chosen):
        for step, feature in enumerate(order, start=1):
            known[number, step:, feature] = True
    between = known[:, 1:-1, :].reshape(-1, features)  # first and last steps are whole rows
    whole = np.repeat(np.arange(background + rows)[:, None], features, axis=1)
    answers = score(whole)
    at_start = answers[[row for row, _ in chosen]]
    unknown = np.repeat([row for row, _ in chosen], features - 1)[:, None]
    values = np.zeros((rows, features))
    step = max(1, MIXED // max(1, len(between)))
    for first in range(0, rows, step):
        part = np.arange(first, min(first + step, rows))
        path = np.empty((len(part), len(chosen), features + 1))
        path[:, :, 0] = at_start
        path[:, :, -1] = answers[background + part][:, None]
        if features > 1:
            source = np.where(between, background + part[:, None, None], unknown)
            path[:, :, 1:-1] = score(source.reshape(-1, features)).reshape(len(part), len(chosen), -1)
        gained = np.diff(path, axis=2)
        for number, (_, order) in enumerate(chosen):
            values[np.ix_(part, order)] += gained[:, number, :]
    return values / len(chosen), float(answers[:background].mean())


def explain(predictor: Predictor, background: pl.DataFrame, rows: pl.DataFrame) -> tuple[np.ndarray, float]:
    """SHAP values of rows of text, in the order of the model's features."""
    names = predictor.features
    frame = predictor.frame(pl.concat([background.select(names), rows.select(names)]))
    return shapley_values(predictor.mixer(frame), background.height, rows.height, len(names))


# ------------------------------------------------------------ ranking


def ndcg(baseline: np.ndarray, live: np.ndarray) -> float:
    """NDCG of the live ranking, the baseline's attributions being the gains; 1 is the same ranking."""
    if len(baseline) < 2 or not baseline.any():
        return 1.0  # there is nothing to rank
    return float(ndcg_score([baseline], [live]))


def many_ndcg(gains: np.ndarray, ranked_by: np.ndarray) -> np.ndarray:
    """NDCG of many rankings at once: gains and rankings are (many x features)."""
    discounts = 1 / np.log2(np.arange(2, gains.shape[1] + 2))
    found = np.take_along_axis(gains, np.argsort(-ranked_by, axis=1, kind="stable"), axis=1) @ discounts
    ideal = -np.sort(-gains, axis=1) @ discounts
    return np.divide(found, ideal, out=np.ones_like(found), where=ideal > 0)


def order_by_chance(baseline: np.ndarray, live: np.ndarray, seed: int = chance.SEED) -> float:
    """Probability that chance alone puts the features in an order as different as the live one.

    A permutation test (Fisher 1935, Pitman 1937) on the absolute attributions of rows (rows x features):
    were there no drift, which of the rows are called live would not matter. It is exact in any sample.
    """
    if not len(live) or not len(baseline):
        return 1.0
    pooled = np.concatenate([baseline, live])
    total = pooled.sum(axis=0)
    seen = many_ndcg(baseline.mean(axis=0)[None], live.mean(axis=0)[None])[0]
    rng = np.random.default_rng(seed)
    as_far = 0
    for start in range(0, SHUFFLES, 1000):
        count = min(1000, SHUFFLES - start)
        called_live = np.zeros((count, len(pooled)))
        called_live[:, : len(live)] = 1
        sums = rng.permuted(called_live, axis=1) @ pooled
        shuffled = many_ndcg((total - sums) / len(baseline), sums / len(live))
        as_far += int((shuffled <= seen + 1e-12).sum())
    return (1 + as_far) / (1 + SHUFFLES)


# ------------------------------------------------------------ files


def analysis_of(
    attributions: np.ndarray, names: list[str], expected: float | None, label: str
) -> dict[str, Any]:
    """analysis.json: the global SHAP value of a feature is its mean absolute value (Clarify's mean_abs)."""
    weights = attributions.mean(axis=0) if len(attributions) else np.zeros(len(names))
    explained: dict[str, Any] = {
        "global_shap_values": {n: float(w) for n, w in zip(names, weights, strict=True)}
    }
    if expected is not None:
        explained["expected_value"] = expected
    return {"version": "1.0", "explanations": {"kernel_shap": {label: explained}}}


def choose(rows: pl.DataFrame, count: int, seed: int = SALT) -> pl.DataFrame:
    """A random choice of rows, the same every time."""
    return rows.sample(min(count, rows.height), seed=seed, shuffle=True)


def baseline(inputs: BaselineInputs) -> dict[str, dict[str, Any]]:
    """The files of the kind: attributions of rows that training did not see, against training rows."""
    predictor = Predictor(inputs.model_folder)
    names = predictor.features
    options = inputs.run_options(KIND)
    size = int(options["settings"].get("sample_size") or SAMPLE)
    background = choose(inputs.train_frame.select(names), BACKGROUND)
    rows = choose(inputs.holdout_frame.select(names), size)
    values, expected = explain(predictor, background, rows)
    attributions = np.array([[float(f"{x:.{SIGNIFICANT}g}") for x in row] for row in np.abs(values)])
    label = inputs.positive_class or "label0"
    analysis = analysis_of(attributions, names, expected, label)
    return {
        "statistics.json": analysis,
        "constraints.json": analysis,
        "analysis.json": analysis,
        "options.json": options
        | {
            "features": names,
            "label": label,
            "background": [list(row) for row in background.rows()],
            "attributions": attributions.tolist(),
        },
    }


# ------------------------------------------------------------ the scan


class Monitor:
    """Keeps a random choice of rows, and explains it at the end.

    The rows with the smallest hash values are the choice, so that any division of the traffic into parts
    gives the same one (a bottom-k sketch; Cohen & Kaplan 2007). A hash of polars is the same within one
    version, and all parts of a run have one.
    """

    needs_outputs = False
    needs_truth = False

    def __init__(self, baseline: Path, settings: Settings) -> None:
        self.settings = settings
        self.options = settings.options
        self.constraints = read_json(find(baseline, "constraints.json"))
        self.names: list[str] = self.options["features"]
        self.size = int(settings.block.get("sample_size") or SAMPLE)
        self.records = 0
        schema = {"hash": pl.UInt64, "_id": pl.String, "_row": pl.UInt32}
        self.sample = pl.DataFrame(schema=schema | dict.fromkeys(self.names, pl.String))

    def add(self, batch: pl.DataFrame) -> None:
        """Take in a batch of rows."""
        self.records += batch.height
        marked = batch.select(pl.struct("_id", "_row").hash(SALT).alias("hash"), "_id", "_row", *self.names)
        self._keep(marked.bottom_k(self.size, by=["hash", "_id", "_row"]))

    def partial(self) -> dict[str, Any]:
        """The state of this part, as JSON."""
        return {"records": self.records, "rows": [list(row) for row in self.sample.rows()]}

    def merge(self, partial: dict[str, Any]) -> None:
        """Take in another part's state."""
        self.records += partial["records"]
        self._keep(pl.DataFrame(partial["rows"], schema=self.sample.schema, orient="row"))

    def _keep(self, more: pl.DataFrame) -> None:
        order = ["hash", "_id", "_row", *self.names]
        self.sample = pl.concat([self.sample, more]).sort(order).head(self.size)

    def finish(self) -> Result:
        """Explain the choice and compare the rankings."""
        label = self.options["label"]
        threshold = float(self.settings.block.get("ndcg_threshold") or THRESHOLD)
        result = Result(KIND, self.records, {}, self.constraints)
        rows, live, expected = self.sample.select(self.names), np.zeros((0, len(self.names))), None
        if rows.height:
            predictor = Predictor(self.settings.model)
            if predictor.features != self.names:
                raise MonitorError("model and baseline have different features: mount both of one version")
            good = predictor.readable(rows)
            if not good.all():
                result.notes.append(f"{(~good).sum()} of {rows.height} chosen rows are refused by the model")
            background = pl.DataFrame(
                self.options["background"], schema=dict.fromkeys(self.names, pl.String), orient="row"
            )
            rows = rows.filter(good)
            values, expected = explain(predictor, background, rows)
            live = np.abs(values)
        result.statistics = analysis_of(live, self.names, expected, label)
        result.analysis = result.statistics
        if self.records < self.settings.min_records or not rows.height:
            result.judged = False
            result.notes.append(
                f"{self.records} records in the window, {self.settings.min_records} are needed to judge"
                " attributions: they were not judged"
            )
        self._judge(result, live, threshold, label)
        return result

    def _judge(self, result: Result, live: np.ndarray, threshold: float, label: str) -> None:
        base = np.array(self.options["attributions"])
        if not len(live):
            return
        before, now = base.mean(axis=0), live.mean(axis=0)
        value, p_value = ndcg(before, now), order_by_chance(base, live)
        violated = bool(result.judged and value < threshold and p_value < chance.level(1))
        old, new = places(before), places(now)
        moved = int(np.argmax((before + now) * np.abs(np.subtract(new, old))))
        detail = f"{self.names[moved]} went from place {old[moved]} to place {new[moved]}"
        result.measures.append(
            Measure("model", "ndcg", value, 1.0, threshold, p_value, violated, detail if violated else "")
        )
        for j in np.argsort(-now, kind="stable"):
            result.measures.append(Measure(self.names[j], "shap", float(now[j]), float(before[j])))
        if violated:
            result.violations.append(
                {
                    "label": label,
                    "metric_name": "shap",
                    "constraint_check_type": "feature_attribution_drift_check",
                    "description": f"Feature attribution drift {value} exceeds threshold {threshold};"
                    f" {detail}",
                }
            )


def places(weights: np.ndarray) -> list[int]:
    """The place of each feature in a ranking, 1 being the heaviest."""
    found = np.empty(len(weights), dtype=int)
    found[np.argsort(-weights, kind="stable")] = np.arange(1, len(weights) + 1)
    return found.tolist()
