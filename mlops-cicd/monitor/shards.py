"""One run on several instances: each reads a share of the objects, the first one puts the parts together.

SageMaker writes who takes part to /opt/ml/config/resourceconfig.json. The parts meet below the reports'
prefix: <reports>/parts/<run id>/<host>.json, or <host>.failed with a sentence. A host that neither delivers
nor says why is lost: the run fails and names it within a time limit, rather than judge a part of the traffic.
The bucket forgets parts after some days: jobs may not delete.
"""

from __future__ import annotations

import gzip
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import MonitorError
from .capture import Share, split_uri

LOG = logging.getLogger("monitor")
CONFIG = Path("/opt/ml/config")
WAIT_SECONDS = 900  # for the other parts, from when the own one is done
POLL_SECONDS = 2.0
GONE = ("NoSuchKey", "404", "NotFound")


@dataclass(frozen=True)
class Hosts:
    """Who takes part in this run, and who this is."""

    current: str = "algo-1"
    names: tuple[str, ...] = ("algo-1",)

    @classmethod
    def read(cls, config: Path = CONFIG) -> Hosts:
        """From the job's resourceconfig.json; one host where there is none."""
        path = config / "resourceconfig.json"
        if not path.is_file():
            return cls()
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            # algo-2 before algo-10
            names = tuple(sorted(content["hosts"], key=lambda name: (len(name), name)))
            current = content["current_host"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise MonitorError(f"{path} cannot be read: {error}") from error
        if current not in names:
            raise MonitorError(f"{path}: {current!r} is none of the hosts {', '.join(names)}")
        return cls(current, names)

    @property
    def share(self) -> Share:
        """What this host reads."""
        return Share(self.names.index(self.current), len(self.names))

    @property
    def others(self) -> tuple[str, ...]:
        """All but this one."""
        return tuple(name for name in self.names if name != self.current)


class Meeting:
    """Where the parts of one run meet."""

    def __init__(self, s3: Any, reports_uri: str, run_id: str) -> None:
        if not reports_uri:
            raise MonitorError("REPORTS_URI is not set: the parts of a run on several instances meet there")
        self.s3 = s3
        self.bucket, prefix = split_uri(reports_uri, "REPORTS_URI")
        self.prefix = f"{prefix}/parts/{run_id}/".removeprefix("/")

    def deliver(self, host: str, part: dict[str, Any]) -> None:
        """Leave a part for the first host."""
        self._put(f"{host}.json", gzip.compress(json.dumps(part).encode("utf-8"), compresslevel=1))

    def give_up(self, host: str, sentence: str) -> None:
        """Tell the first host that no part will come, and why."""
        self._put(f"{host}.failed", sentence.encode("utf-8"))

    def collect(
        self,
        hosts: tuple[str, ...],
        seconds: float = WAIT_SECONDS,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> list[dict[str, Any]]:
        """The parts of these hosts, in their order."""
        deadline = clock() + seconds
        parts: dict[str, dict[str, Any]] = {}
        while True:
            for host in hosts:
                if host not in parts and (content := self._get(f"{host}.json")) is not None:
                    parts[host] = read_part(host, content)
                if host not in parts and (sentence := self._get(f"{host}.failed")) is not None:
                    raise MonitorError(f"{host} could not read its part: {sentence.decode('utf-8')}")
            missing = [host for host in hosts if host not in parts]
            if not missing:
                return [parts[host] for host in hosts]
            if clock() >= deadline:
                raise MonitorError(
                    f"{', '.join(missing)} delivered no part within {seconds:g} seconds: the instance was "
                    "lost, or its traffic takes longer; nothing was judged. See its log, then run again"
                )
            sleep(POLL_SECONDS)

    def _put(self, name: str, body: bytes) -> None:
        self.s3.put_object(Bucket=self.bucket, Key=self.prefix + name, Body=body)

    def _get(self, name: str) -> bytes | None:
        from botocore.exceptions import ClientError

        try:
            return self.s3.get_object(Bucket=self.bucket, Key=self.prefix + name)["Body"].read()
        except ClientError as error:
            if error.response["Error"]["Code"] in GONE:
                return None
            raise


def read_part(host: str, content: bytes) -> dict[str, Any]:
    """A part that a host has delivered."""
    try:
        return json.loads(gzip.decompress(content))
    except (OSError, EOFError, ValueError) as error:
        raise MonitorError(f"the part of {host} cannot be read: {error}") from error
