"""Asks a deployed endpoint: each request carries an inference id by which monitors tell it from traffic.

Nothing is sent twice by itself: a retry that hides a failed request would hide it from the test as well.
"""

from __future__ import annotations

import csv
import io
import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from ..console import Fault

CSV, JSON = "text/csv", "application/json"
SMOKE_TEST = "smoke-test"  # as in monitor/lines.py
Row = Sequence[Any]  # features in the order of the model; None and "" are missing
ENDPOINT_TIMEOUT = 70  # seconds; a real-time endpoint has 60 to answer


def no_retries(connections: int) -> Config:
    """The settings of boto3 for a test."""
    return Config(
        retries={"total_max_attempts": 1},
        max_pool_connections=max(2, connections),
        read_timeout=ENDPOINT_TIMEOUT,
    )


@dataclass(frozen=True)
class Answer:
    """What came back: the model's own status, or 0 if the request did not reach it."""

    status: int
    body: str
    milliseconds: float
    error: str = ""  # AWS's name of it

    @property
    def good(self) -> bool:
        """Whether the model answered."""
        return 200 <= self.status < 300


class Client(Protocol):
    """One way to ask an endpoint; `request` may be called by several threads."""

    name: str

    def request(self, content_type: str, body: bytes) -> Answer:
        """Send a body and wait for the answer, whatever it is."""


@dataclass
class Counted:
    """Inference ids, one a request, also between threads."""

    run: str
    number: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next(self) -> str:
        """The next id; at most 64 characters of ASCII are allowed."""
        with self.lock:
            self.number += 1
            return f"{SMOKE_TEST}-{self.run}-{self.number}"[:64]


@dataclass
class RealtimeClient:
    """InvokeEndpoint, of endpoints on instances and serverless ones."""

    runtime: Any
    name: str
    ids: Counted
    clock: Callable[[], float] = time.perf_counter

    def request(self, content_type: str, body: bytes) -> Answer:
        begun = self.clock()
        status, text, code = 200, "", ""
        try:
            answer = self.runtime.invoke_endpoint(
                EndpointName=self.name,
                ContentType=content_type,
                Accept=content_type if content_type in (CSV, JSON) else JSON,
                Body=body,
                InferenceId=self.ids.next(),
            )
            text = answer["Body"].read().decode("utf-8", "replace")
        except ClientError as error:
            detail = error.response
            code = detail["Error"]["Code"]
            # ModelError is the model's own answer; anything else is AWS's, such as a throttled request
            status = int(detail.get("OriginalStatusCode") or 0)
            text = str(detail.get("OriginalMessage") or detail["Error"].get("Message", ""))
        except BotoCoreError as error:  # no connection, no answer in time
            status, text, code = 0, str(error), type(error).__name__
        return Answer(status, text[:100_000], (self.clock() - begun) * 1000, code)


@dataclass
class AsynchronousClient:
    """InvokeEndpointAsync: the request and its answer are files."""

    runtime: Any
    s3: Any
    name: str
    ids: Counted
    bucket: str
    prefix: str  # of the requests
    key_arn: str
    patience: float = 300.0
    clock: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], None] = time.sleep

    def request(self, content_type: str, body: bytes) -> Answer:
        begun, identity = self.clock(), self.ids.next()
        key = f"{self.prefix}/{identity}"
        try:
            self.s3.put_object(
                Bucket=self.bucket,
                Key=key,
                Body=body,
                ContentType=content_type,
                ServerSideEncryption="aws:kms",
                SSEKMSKeyId=self.key_arn,
            )
            taken = self.runtime.invoke_endpoint_async(
                EndpointName=self.name,
                ContentType=content_type,
                Accept=content_type if content_type in (CSV, JSON) else JSON,
                InputLocation=f"s3://{self.bucket}/{key}",
                InferenceId=identity,
            )
        except ClientError as error:
            detail = error.response["Error"]
            return Answer(0, str(detail.get("Message", "")), self._since(begun), detail["Code"])
        good, bad = taken["OutputLocation"], taken.get("FailureLocation") or ""
        pause = 0.2
        while self._since(begun) < self.patience * 1000:
            for uri, status in ((good, 200), (bad, 400)):
                if uri and (text := self._read(uri)) is not None:
                    return Answer(_told(text, status), text[:100_000], self._since(begun))
            self.sleep(pause)
            pause = min(3.0, pause * 1.5)
        return Answer(0, f"no answer at {good} within {self.patience:.0f} s", self._since(begun), "Timeout")

    def _since(self, begun: float) -> float:
        return (self.clock() - begun) * 1000

    def _read(self, uri: str) -> str | None:
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        try:
            return self.s3.get_object(Bucket=bucket, Key=key)["Body"].read().decode("utf-8", "replace")
        except ClientError as error:
            # 403 is what S3 says of a missing object to a role that may not list the bucket
            if error.response["Error"]["Code"] in ("NoSuchKey", "404", "AccessDenied", "403"):
                return None
            raise


def _told(text: str, status: int) -> int:
    """The model's status in the file of a failure: SageMaker's sentence has it in brackets."""
    if status == 200:
        return 200
    _, found, rest = text.partition("error (")
    return int(rest[:3]) if found and rest[:3].isdigit() else status


def encode(rows: Sequence[Row], content_type: str) -> bytes:
    """Rows as a body."""
    if content_type == JSON:
        return json.dumps(
            {"instances": [[None if one == "" else one for one in row] for row in rows]}
        ).encode()
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def decode(text: str, content_type: str, rows: int) -> list[float]:
    """The predictions in an answer: one number a row."""
    try:
        if content_type == JSON:
            found = [float(one["probability"]) for one in json.loads(text)["predictions"]]
        else:
            lines = [line for line in csv.reader(io.StringIO(text)) if line]
            if any(len(line) != 1 for line in lines):
                widths = sorted({len(line) for line in lines})
                raise Fault(
                    f"{rows} rows were sent; the endpoint answered {len(lines)} rows of {widths} values; "
                    "required: one number a row"
                )
            found = [float(line[0]) for line in lines]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Fault(f"the endpoint answered {text[:80]!r}; required: one number a row") from error
    if len(found) != rows:
        raise Fault(f"{rows} rows were sent; the endpoint answered {len(found)} rows; required: one a row")
    return found


def predict(client: Client, rows: Sequence[Row], content_type: str = CSV) -> tuple[list[float], float]:
    """Predictions of some rows and the milliseconds that they took."""
    answer = client.request(content_type, encode(rows, content_type))
    if not answer.good:
        raise Fault(
            f"endpoint {client.name} answered {answer.status or 'nothing'} {answer.error}: "
            f"{answer.body[:500]} (its log: /aws/sagemaker/Endpoints/{client.name})"
        )
    return decode(answer.body, content_type, len(rows)), answer.milliseconds
