"""What an endpoint records of its traffic: capture to S3, metrics to CloudWatch, sent within a second."""

from __future__ import annotations

import base64
import contextlib
import json
import random
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from localaws import clock
from localaws.services.sagemaker import data

if TYPE_CHECKING:
    from localaws.services.sagemaker.job_base import JobBase

Record = dict[str, Any]
#: seconds that records wait; AWS writes every few minutes, a rehearsal wants to read at once
DELAY = 0.7


class Recorder:
    """The records of all endpoints on their way; one timer, which runs only while something waits."""

    def __init__(self, service: JobBase) -> None:
        self.service, self.cloud = service, service.cloud
        self._lock, self._sending = threading.Lock(), threading.Lock()
        self._lines: dict[tuple[str, str, str, str], list[str]] = {}
        #: second, name, dimensions, unit → how often each value was seen
        self._metrics: dict[tuple[int, str, tuple, str], Counter[float]] = {}
        self._timer: threading.Timer | None = None
        clock.on_advance(
            self.flush
        )  # what was recorded before the clock moved is there for who wakes up by it
        self.cloud.on_close(self._cancel)

    def capture(self, config: Record, endpoint: str, variant: str, role: str, exchange: Record) -> None:
        """Record one request and its answer as the capture configuration says.

        ``exchange`` has input, input_type, output, output_type, id, inference_id, attributes, at.
        """
        options = {o["CaptureMode"] for o in config["CaptureOptions"]}
        if random.random() * 100 >= config["InitialSamplingPercentage"]:
            return
        captured = {}
        if options & {"Input", "InputAndOutput"}:
            captured["endpointInput"] = _part(config, "INPUT", exchange["input"], exchange["input_type"])
        if options & {"Output", "InputAndOutput"}:
            captured["endpointOutput"] = _part(config, "OUTPUT", exchange["output"], exchange["output_type"])
        at: datetime = exchange["at"]
        metadata = {"eventId": exchange["id"], "inferenceTime": at.strftime("%Y-%m-%dT%H:%M:%SZ")}
        if exchange["inference_id"]:
            metadata["inferenceId"] = exchange["inference_id"]
        if exchange["attributes"]:
            metadata["customAttributes"] = [exchange["attributes"]]
        line = json.dumps(
            {"captureData": captured, "eventMetadata": metadata, "eventVersion": "0"}, separators=(",", ":")
        )
        folder = data.join(config["DestinationS3Uri"], endpoint, variant, at.strftime("%Y/%m/%d/%H"))
        with self._lock:
            self._lines.setdefault((folder, role, config.get("KmsKeyId") or "", endpoint), []).append(line)
        self._schedule()

    def measure(self, where: dict[str, str], values: dict[str, tuple[float, str]]) -> None:
        """Record metrics of one invocation: dimensions; name → value and unit."""
        second, place = int(clock.time()), tuple(where.items())
        with self._lock:
            for name, (value, unit) in values.items():
                # three digits of a latency: many requests of a second then share their values
                rounded = float(f"{value:.3g}")
                self._metrics.setdefault((second, name, place, unit), Counter())[rounded] += 1
        self._schedule()

    def flush(self) -> None:
        """Send everything now."""
        with self._sending:
            with self._lock:
                lines, self._lines = self._lines, {}
                metrics, self._metrics = self._metrics, {}
                self._timer = None
            for (folder, role, key, endpoint), waiting in lines.items():
                name = f"{clock.now().strftime('%M-%S')}-{random.randrange(1000):03d}-{uuid.uuid4()}.jsonl"
                bucket, path = data.split(data.join(folder, name))
                try:
                    data.put(
                        self.service.s3_as(role),
                        bucket,
                        path,
                        ("\n".join(waiting) + "\n").encode(),
                        key or None,
                    )
                except Exception as error:
                    self.cloud.log.error("data capture of endpoint %s: %s", endpoint, error)
            rows = [row for key, counts in metrics.items() for row in _data(*key, counts)]
            client = self.cloud.client("cloudwatch")
            for start in range(0, len(rows), 200):
                client.put_metric_data(Namespace="AWS/SageMaker", MetricData=rows[start : start + 200])

    def _schedule(self) -> None:
        with self._lock:
            if self._timer is None and not self.cloud.stopping:
                self._timer = threading.Timer(DELAY, self._run)
                self._timer.daemon = True
                self._timer.start()

    def _run(self) -> None:
        with contextlib.suppress(Exception):
            self.flush()

    def _cancel(self) -> None:
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()


def _data(second: int, name: str, place: tuple, unit: str, counts: Counter[float]) -> Iterator[Record]:
    """The data points of one metric in one second; PutMetricData takes 150 values in one."""
    found = sorted(counts.items())
    for start in range(0, len(found), 150):
        some = found[start : start + 150]
        yield {
            "MetricName": name,
            "Values": [value for value, _ in some],
            "Counts": [float(count) for _, count in some],
            "Unit": unit,
            "Timestamp": datetime.fromtimestamp(second, tz=UTC),
            "Dimensions": [{"Name": k, "Value": v} for k, v in place],
        }


def _part(config: Record, mode: str, body: bytes, content_type: str) -> Record:
    """One side of a captured exchange; a content type that the configuration does not list is base64."""
    kind = content_type.partition(";")[0].strip().lower()
    listed = config.get("CaptureContentTypeHeader") or {}
    encoding = "BASE64"
    for key, name in (("CsvContentTypes", "CSV"), ("JsonContentTypes", "JSON")):
        if kind in [c.lower() for c in listed.get(key) or []]:
            encoding = name
    text = base64.b64encode(body).decode() if encoding == "BASE64" else body.decode("utf-8", "replace")
    return {"observedContentType": content_type, "mode": mode, "data": text, "encoding": encoding}
