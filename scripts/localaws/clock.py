"""The cloud's clock: real time plus an offset that a rehearsal moves.

Schedules, data capture folders, metrics and alarms read this clock, so that an hourly monitor is shown in
seconds. It is a stand-in for the ``time`` module where an emulator keeps time by it (see hooks): ``time()``
is moved, everything else is real.
"""

from __future__ import annotations

import math
import threading
import time as _time
from datetime import UTC, datetime  # also read as clock.datetime

_offset = 0.0
_stopped: float | None = None  # while the clock is being moved: the minute that the listeners are told of
_lock = threading.Lock()
_listeners: list = []


def time() -> float:
    """Seconds since the epoch, in the cloud."""
    moment = _stopped
    return _time.time() + _offset if moment is None else moment


def now() -> datetime:
    """The cloud's current moment, aware, in UTC."""
    return datetime.fromtimestamp(time(), tz=UTC)


def offset() -> float:
    """Seconds by which the cloud is ahead of this machine."""
    return _offset


def advance(seconds: float) -> datetime:
    """Move the clock forward, stopping at each full minute to tell the listeners (tickers of schedules).

    So every occurrence of a schedule on the way fires, at its own time, and not one for all. They are told
    of the present first: a schedule that is new counts from there.
    Raises ValueError for a negative number: AWS's time never runs backwards.
    """
    global _offset, _stopped
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"advance_seconds is {seconds}; the clock only moves forward")
    with _lock:
        start = time()
        minutes = range(int(start // 60 + 1) * 60, int(start + seconds) + 1, 60)
        try:
            for moment in (start, *minutes, start + seconds):
                _stopped = moment
                for listener in list(_listeners):
                    listener()
            _offset += seconds
        finally:
            _stopped = None
    return now()


def on_advance(listener) -> None:
    """Call ``listener()`` after each move of the clock."""
    _listeners.append(listener)


def __getattr__(name: str):
    """Everything else of the ``time`` module, unmoved (sleep, monotonic, strftime, …)."""
    return getattr(_time, name)
