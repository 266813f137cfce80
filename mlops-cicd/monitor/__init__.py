"""The monitor of a project's endpoint (flow G): runs in a SageMaker Processing job, shipped as monitor.pyz.

    monitor.pyz baseline   training data and model   -> statistics and constraints of every kind
    monitor.pyz run        captured traffic of a window -> report, CloudWatch metrics, rows for Athena

One kind is one module with `Monitor` (a mergeable scan, see result.py) and `baseline`.
"""

from __future__ import annotations

from typing import NamedTuple


class Kind(NamedTuple):
    """How one kind of monitor is called in each place."""

    name: str  # metric dimension MonitorType, key in mlops.yml
    folder: str  # below the reports' prefix
    part: str  # of a job's name
    managed: str  # monitoring type of SageMaker Model Monitor
    module: str  # of this package


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("data_quality", "data-quality", "dq", "DataQuality", "data_quality"),
        Kind("model_quality", "model-quality", "mq", "ModelQuality", "model_quality"),
        Kind("model_bias", "model-bias", "mb", "ModelBias", "bias"),
        Kind("model_explainability", "model-explainability", "me", "ModelExplainability", "explainability"),
    )
}

NAMESPACE = "MLOps/Monitoring"  # of the metrics
FALSE_ALARM_RATE = 0.001  # of one clean run, all its tests together: one in six weeks of hourly runs


class MonitorError(ValueError):
    """The input cannot be monitored; the message says what was found and what to do."""
