"""A job's container while it runs: its log goes to CloudWatch Logs, it can be stopped, and it times out."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localaws import process

if TYPE_CHECKING:
    from localaws.cloud import Cloud

#: seconds that a container has between SIGTERM and SIGKILL on AWS
GRACE = 120


class LogFollower:
    """Sends what is appended to a file to a log stream; keeps every line for the metric definitions.

    The first ``skip`` bytes are not sent.
    """

    def __init__(
        self, cloud: Cloud, file: Path, group: str, stream: str, keep: bool = True, skip: int = 0
    ) -> None:
        self.cloud, self.group, self.stream = cloud, group, stream
        self.lines: list[str] = []
        self._keep = keep
        self._rest = b""
        self._file = file.open("rb")
        self._file.seek(skip)

    def push(self, last: bool = False) -> None:
        """Send the complete lines that came since the last call (the incomplete one too when ``last``)."""
        *whole, self._rest = (self._rest + self._file.read()).split(b"\n")
        if last and self._rest:
            whole, self._rest = [*whole, self._rest], b""
        lines = [line.decode(errors="replace").rstrip("\r")[:16_000] for line in whole]
        if not lines:
            return
        if self._keep:
            self.lines += lines
        with contextlib.suppress(Exception):  # a log that cannot be written must not end the job
            self.cloud.log_events(self.group, self.stream, lines)

    def close(self) -> None:
        """Send the rest."""
        self.push(last=True)
        self._file.close()


class Run:
    """A job under way: what Stop* needs to end it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stopping = threading.Event()
        self.popen: subprocess.Popen | None = None
        self.timed_out = False
        self.log: LogFollower | None = None

    def wait(
        self,
        popen: subprocess.Popen,
        log: LogFollower,
        seconds: float,
        grace: float,
        tick: Callable[[], Any] = lambda: None,
    ) -> int:
        """Wait for the container to end, to be stopped, or to run out of time; its exit code."""
        self.popen, self.log = popen, log
        deadline = time.monotonic() + seconds
        pushed = 0.0
        while popen.poll() is None:
            if self.stopping.is_set() or time.monotonic() > deadline:
                self.timed_out = not self.stopping.is_set()
                process.kill_tree(popen, grace)
                break
            with contextlib.suppress(subprocess.TimeoutExpired):
                popen.wait(0.1)
            if time.monotonic() - pushed > 0.5:
                log.push()
                tick()
                pushed = time.monotonic()
        log.close()
        return int(popen.returncode)
