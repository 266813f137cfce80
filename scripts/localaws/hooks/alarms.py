"""CloudWatch: which series an alarm reads."""

from __future__ import annotations

import threading
from typing import Any

#: hook → the emulator's private names it uses ("module:attribute")
HOOKS: dict[str, tuple[str, ...]] = {
    "alarm_dimensions": (
        "ministack.services.cloudwatch:_evaluate_alarm",
        "ministack.services.cloudwatch:_metrics",
        "ministack.services.cloudwatch:_dims_key",
    ),
}


def alarms_mind_dimensions() -> None:
    """Let an alarm read only the series whose dimensions equal its own, not all of the metric's name."""
    from ministack.services import cloudwatch

    original, metrics, lock = cloudwatch._evaluate_alarm, cloudwatch._metrics, threading.RLock()

    def evaluate(alarm: dict) -> Any:
        wanted = cloudwatch._dims_key({d["Name"]: d["Value"] for d in alarm.get("Dimensions") or []})

        class View:
            """The metrics store, listing only the alarm's own series."""

            def items(self) -> list:
                return [(k, v) for k, v in metrics.items() if k[2] == wanted]

            def __getattr__(self, name: str) -> Any:
                return getattr(metrics, name)

            def __getitem__(self, key: Any) -> Any:
                return metrics[key]

            def __setitem__(self, key: Any, value: Any) -> None:
                metrics[key] = value

        with lock:
            cloudwatch._metrics = View()
            try:
                return original(alarm)
            finally:
                cloudwatch._metrics = metrics

    cloudwatch._evaluate_alarm = evaluate
