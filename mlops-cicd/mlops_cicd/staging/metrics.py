"""Metrics of a sample in plain Python: a build of the platform has no numerical libraries."""

from __future__ import annotations

import math
from collections.abc import Sequence


def auc(scores: Sequence[float], positive: Sequence[bool]) -> float:
    """Area under the ROC curve, ties shared."""
    order = sorted(range(len(scores)), key=scores.__getitem__)
    ranks = [0.0] * len(scores)
    start = 0
    while start < len(order):
        end = start
        while end + 1 < len(order) and scores[order[end + 1]] == scores[order[start]]:
            end += 1
        for place in range(start, end + 1):
            ranks[order[place]] = (start + end) / 2 + 1
        start = end + 1
    hits = sum(positive)
    misses = len(positive) - hits
    total = sum(rank for rank, hit in zip(ranks, positive, strict=True) if hit)
    return (total - hits * (hits + 1) / 2) / (hits * misses)


def measure(metric: str, scores: Sequence[float], positive: Sequence[bool]) -> float:
    """A metric of schema/mlops.schema.json; classes are split at 0.5."""
    if metric == "auc":
        return auc(scores, positive)
    guesses = [score >= 0.5 for score in scores]
    pairs = list(zip(guesses, positive, strict=True))
    true_positive = sum(guess and hit for guess, hit in pairs)
    precision = true_positive / max(1, sum(guesses))
    recall = true_positive / max(1, sum(positive))
    return {
        "accuracy": sum(guess == hit for guess, hit in pairs) / len(pairs),
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall) if precision + recall else 0.0,
    }[metric]


def standard_error(metric: str, value: float, positive: Sequence[bool]) -> float:
    """How far chance moves a metric of this sample (AUC: Hanley and McNeil; else binomial)."""
    hits = sum(positive)
    misses = len(positive) - hits
    if metric == "auc":
        q1, q2 = value / (2 - value), 2 * value**2 / (1 + value)
        spread = value * (1 - value) + (hits - 1) * (q1 - value**2) + (misses - 1) * (q2 - value**2)
        return math.sqrt(max(0.0, spread) / (hits * misses))
    count = len(positive) if metric == "accuracy" else hits
    return math.sqrt(max(0.0, value * (1 - value)) / count)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]
