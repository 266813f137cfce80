"""A client that asks an endpoint steadily and keeps every answer: it counts what a release costs callers."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

from botocore.exceptions import BotoCoreError, ClientError

CLIENTS = 8  # requests that may be under way at a time: a slow answer must not thin out the load


@dataclass(frozen=True)
class Answer:
    """What came back for one request."""

    identity: str
    began: float  # time.monotonic()
    seconds: float
    status: int  # HTTP status of the model, or of the service in front of it; 0 = no answer at all
    reason: str = ""

    @property
    def failed(self) -> bool:
        """Whether the caller did not get a score."""
        return self.status != 200


class SteadyLoad:
    """Sends the bodies in turn, so many a second, until it is closed."""

    def __init__(self, runtime: Any, endpoint: str, bodies: Sequence[str], per_second: float) -> None:
        self.runtime = runtime
        self.endpoint = endpoint
        self.bodies = itertools.cycle(bodies)
        self.pause = 1 / per_second
        self.answers: list[Answer] = []
        self.late = 0  # requests that were not sent because all clients were waiting
        self._under_way = threading.Semaphore(CLIENTS)
        self._pool = ThreadPoolExecutor(CLIENTS, thread_name_prefix="load")
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._pool.shutdown()

    def since(self, moment: float) -> list[Answer]:
        """The answers to requests that were sent after this moment of time.monotonic()."""
        return [answer for answer in tuple(self.answers) if answer.began >= moment]

    def _run(self) -> None:
        due = time.monotonic()
        for number in itertools.count(1):
            if self._ended.wait(max(0.0, due - time.monotonic())):
                return
            due = max(due + self.pause, time.monotonic() - 1)  # a machine that stood still does not catch up
            if self._under_way.acquire(blocking=False):
                self._pool.submit(self._ask, f"load-{number:06d}", next(self.bodies))
            else:
                self.late += 1

    def _ask(self, identity: str, body: str) -> None:
        began = time.monotonic()
        status, reason = 200, ""
        try:
            answer = self.runtime.invoke_endpoint(
                EndpointName=self.endpoint,
                ContentType="text/csv",
                Accept="text/csv",
                Body=body,
                InferenceId=identity,
            )
            if not math.isfinite(float(answer["Body"].read())):
                status, reason = 0, "the score is no number"
        except ClientError as error:
            found = error.response
            status = int(
                found.get("OriginalStatusCode") or found["ResponseMetadata"].get("HTTPStatusCode") or 0
            )
            reason = str(error)
        except (BotoCoreError, ValueError) as error:
            status, reason = 0, f"{type(error).__name__}: {error}"
        finally:
            self._under_way.release()
        self.answers.append(Answer(identity, began, time.monotonic() - began, status, reason))


def p95(answers: Sequence[Answer]) -> float:
    """The seconds within which 95 of 100 requests were answered."""
    ordered = sorted(answer.seconds for answer in answers)
    return ordered[max(0, math.ceil(0.95 * len(ordered)) - 1)] if ordered else 0.0
