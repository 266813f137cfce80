"""What chance alone makes: spreads of metrics, and probabilities of seeing as much without any change.

Every judgement of a monitor needs an effect that matters and evidence that chance did not make it. All tests
of a run share one false-alarm rate (Bonferroni's inequality, which holds for dependent tests too), so that a
clean run raises an alarm with at most FALSE_ALARM_RATE, however many metrics it looks at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from scipy.stats import norm

from . import FALSE_ALARM_RATE

DRAWS = 2000
SEED = 20260301  # the same input gives the same report
# Added to every cell of a table before it is drawn from, and to every drawn cell: a cell that happens to be
# empty is not an impossible one, and no ratio divides by zero (Haldane 1956, Anscombe 1956; Agresti & Coull
# 1998 on why intervals without it are too short).
HALF = 0.5

Metrics = Callable[[np.ndarray], Mapping[str, np.ndarray]]


def level(tests: int) -> float:
    """The significance level of each of so many tests of one run."""
    return FALSE_ALARM_RATE / max(1, tests)


def redraw(table: np.ndarray, draws: int = DRAWS, seed: int = SEED) -> np.ndarray:
    """Tables of counts as further samples of the same size would give them: shape (draws, *table.shape).

    The nonparametric bootstrap (Efron 1979) of the rows that were counted, since a table has all of them.
    """
    counts = np.asarray(table, dtype=float)
    smoothed = counts.ravel() + HALF
    size = round(counts.sum())
    drawn = np.random.default_rng(seed).multinomial(size, smoothed / smoothed.sum(), size=draws)
    return drawn.reshape(draws, *counts.shape) + HALF


def spreads(table: np.ndarray, metrics: Metrics, draws: int = DRAWS, seed: int = SEED) -> dict[str, float]:
    """The standard error of each metric of a table of counts.

    For the Normal Bootstrap Interval, which SageMaker Clarify documents for its decisions, too
    (https://docs.aws.amazon.com/sagemaker/latest/dg/clarify-model-monitor-bias-drift.html).
    """
    if not np.asarray(table).sum():
        return {}
    values = metrics(redraw(table, draws, seed))
    return {name: float(np.std(drawn)) for name, drawn in values.items() if np.isfinite(drawn).all()}


def auc_spread(negatives: np.ndarray, positives: np.ndarray) -> float:
    """The standard error of the area under the ROC curve, of counts by ascending score.

    DeLong, DeLong & Clarke-Pearson 1988: the variance of the placement values of each class, here with the
    multiplicity of each score. Not defined for fewer than two rows of a class.
    """
    count_0, count_1 = float(negatives.sum()), float(positives.sum())
    if min(count_0, count_1) < 2:
        return float("nan")
    below = np.cumsum(negatives) - negatives / 2  # negatives below each score, a tie counts half
    above = count_1 - np.cumsum(positives) + positives / 2
    placed_1, placed_0 = below / count_0, above / count_1
    area = float((positives * placed_1).sum() / count_1)
    variance_1 = float((positives * (placed_1 - area) ** 2).sum() / (count_1 - 1))
    variance_0 = float((negatives * (placed_0 - area) ** 2).sum() / (count_0 - 1))
    # a perfect order has no spread in the sample; it is no proof that the next rows are in order
    least = 1 / (4 * (count_0 + count_1) ** 2)
    return float(np.sqrt(max(variance_1 / count_1 + variance_0 / count_0, least)))


def worse_by_chance(worsening: float, live_spread: float, baseline_spread: float) -> float:
    """Probability that chance makes a metric at least this much worse than its baseline (normal, one-sided).

    The baseline is an estimate from a sample as well: its own error counts.
    """
    error = float(np.hypot(live_spread, baseline_spread))
    if not np.isfinite(error) or error <= 0:
        return 1.0
    return float(norm.sf(worsening / error))
