"""Metrics of the deployed model on the project's labelled rows, against the threshold and the evaluation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..console import Fault
from ..registry import metric_value
from .checks import Report
from .client import Client, predict
from .metrics import measure, percentile, standard_error
from .sample import Sample

BATCH = 50
SINGLES = 20
SLACK = 3.0  # standard errors by which a sample's metric may be below the evaluation's


def latency(
    client: Client, sample: Sample, report: Report, budget: float | None, singles: int = SINGLES
) -> list[float]:
    """Single rows, one after the other; returns their scores."""
    scores, times = [], []
    for row in sample.features[:singles]:
        (score,), spent = predict(client, [row])
        scores.append(score)
        times.append(spent)
    found = {f"p{round(share * 100)}": round(percentile(times, share), 1) for share in (0.5, 0.95)}
    report.measured["latency_ms"] = found
    if budget is not None:
        report.check(
            "latency, 95th percentile",
            found["p95"] <= budget,
            f"{found['p95']:.0f} ms",
            f"up to {budget:.0f} ms",
            "Look at ModelLatency and OverheadLatency of the endpoint in CloudWatch: take a larger instance "
            "type (deployment.staging.instance_type), a lighter model, or a larger budget "
            "(deployment.tests.latency_ms)",
        )
    return scores


def predictions(
    client: Client, sample: Sample, singles: Sequence[float], report: Report, batch: int = BATCH
) -> list[float]:
    """All rows in batches; their answers are probabilities, differ, and are those of single rows."""
    scores: list[float] = []
    for start in range(0, len(sample.features), batch):
        found, _ = predict(client, sample.features[start : start + batch])
        scores += found
    finite = all(math.isfinite(score) and 0 <= score <= 1 for score in scores)
    report.check("range of the answers", finite, f"{min(scores):.3f} to {max(scores):.3f}", "0 to 1")
    distinct = len({round(score, 6) for score in scores})
    report.check(
        "answers differ",
        distinct > 1 or len(scores) == 1,
        f"{distinct} values",
        "more than one",
        "The model answers the same whatever it is asked: look at how src/inference.py reads the features",
    )
    gap = max((abs(one - many) for one, many in zip(singles, scores, strict=False)), default=0.0)
    report.check("one row answers as in a batch", gap < 1e-5, f"{gap:.1e} apart", "less than 1e-05")
    return scores if finite else []


def metrics(
    scores: Sequence[float], sample: Sample, config: dict[str, Any], evaluation: Any, report: Report
) -> None:
    """The project's metric on the sample."""
    metric, threshold = config["evaluation"]["metric"], config["evaluation"]["threshold"]
    if len(set(sample.positive)) < 2:
        data = config["data"]
        raise Fault(
            f"the labels in {data['source']} all mean the same to data.positive_class "
            f"{data.get('positive_class', 1)!r}: the predictions cannot be judged"
        )
    value = measure(metric, scores, sample.positive) if scores else 0.0
    report.measured["metric"] = {"name": metric, "value": round(value, 4), "rows": len(scores)}
    advice = "The endpoint predicts worse than training said: compare its image and model with the version's"
    report.check(
        f"{metric} of the sample", value >= threshold, f"{value:.4f}", f"at least {threshold}", advice
    )
    expected = metric_value(evaluation, metric)
    if expected is not None:
        least = expected - SLACK * standard_error(metric, expected, sample.positive)
        report.check(
            f"{metric} against the evaluation",
            value >= least,
            f"{value:.4f}",
            f"at least {least:.4f} ({expected:.4f})",
            advice,
        )
