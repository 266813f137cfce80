"""What an endpoint records of its traffic: capture to S3, metrics to CloudWatch, sent within a second."""

from __future__ import annotations

import base64
import contextlib
import json
import random
import threading
import uuid
from datetime import datetime
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
        self._metrics: list[Record] = []
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

    def measure(self, endpoint: str, variant: str, values: dict[str, tuple[float, str]]) -> None:
        """Record metrics of one invocation: name → value and unit."""
        stamp = clock.now()
        dimensions = [{"Name": "EndpointName", "Value": endpoint}, {"Name": "VariantName", "Value": variant}]
        with self._lock:
            self._metrics += [
                {
                    "MetricName": name,
                    "Value": value,
                    "Unit": unit,
                    "Timestamp": stamp,
                    "Dimensions": dimensions,
                }
                for name, (value, unit) in values.items()
            ]
        self._schedule()

    def flush(self) -> None:
        """Send everything now."""
        with self._sending:
            with self._lock:
                lines, self._lines = self._lines, {}
                metrics, self._metrics = self._metrics, []
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
            if metrics:
                client = self.cloud.client("cloudwatch")
                for start in range(0, len(metrics), 500):
                    client.put_metric_data(Namespace="AWS/SageMaker", MetricData=metrics[start : start + 500])

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
