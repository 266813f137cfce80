"""The cloud's clock: real time plus an offset that a rehearsal moves.

Schedules, data capture folders, metrics and alarms read this clock, so that an hourly monitor is shown in
seconds. It is a stand-in for the ``time`` module where an emulator keeps time by it (see hooks): ``time()``
is moved, everything else is real.
"""

from __future__ import annotations

import threading
import time as _time
from datetime import UTC, datetime  # noqa: F401 - also read as clock.datetime

_offset = 0.0
_lock = threading.Lock()
_listeners: list = []


def time() -> float:
    """Seconds since the epoch, in the cloud."""
    return _time.time() + _offset


def now() -> datetime:
    """The cloud's current moment, aware, in UTC."""
    return datetime.fromtimestamp(time(), tz=UTC)


def offset() -> float:
    """Seconds by which the cloud is ahead of this machine."""
    return _offset


def advance(seconds: float) -> datetime:
    """Move the clock forward, stopping at each full minute to tell the listeners (tickers of schedules).

    So every occurrence of a schedule on the way fires, at its own time, and not one for all.
    Raises ValueError for a negative number: AWS's time never runs backwards.
    """
    global _offset
    if seconds < 0:
        raise ValueError(f"advance_seconds is {seconds}; the clock only moves forward")
    with _lock:
        left = float(seconds)
        while left > 0:
            step = min(left, 60 - time() % 60)
            _offset += step
            left -= step
            for listener in list(_listeners):
                listener()
    return now()


def on_advance(listener) -> None:
    """Call ``listener()`` after each move of the clock."""
    _listeners.append(listener)


def __getattr__(name: str):
    """Everything else of the ``time`` module, unmoved (sleep, monotonic, strftime, …)."""
    return getattr(_time, name)
