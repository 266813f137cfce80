"""Asynchronous endpoints: the queue, its workers, where answers and notices go, and the queue's metrics.

https://docs.aws.amazon.com/sagemaker/latest/dg/async-inference.html
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from localaws import clock
from localaws.errors import AwsError
from localaws.services.sagemaker import data, invocations
from localaws.services.sagemaker.fleets import Fleet, Variant, entered
from localaws.services.sagemaker.invocations import Asked
from localaws.services.sagemaker.job_base import PRINCIPAL

if TYPE_CHECKING:
    from localaws.services.sagemaker.endpoints import EndpointsMixin

Record = dict[str, Any]
#: requests that an instance is sent at once where the configuration does not say ("SageMaker chooses")
AT_ONCE = 4
#: seconds that a request may take, and may wait: the defaults of InvokeEndpointAsync
TIMEOUT, AGE = 900, 21_600
#: real seconds between two looks at the queue's length
_TICK = 1.0


@dataclass
class Item:
    """A request in the queue."""

    params: Record
    id: str
    output: str
    failure: str
    received: datetime = field(default_factory=clock.now)


class Backlogs:
    """The queues of all asynchronous endpoints of an account."""

    def __init__(self, service: EndpointsMixin) -> None:
        self.service, self.cloud = service, service.cloud
        self._queues: dict[str, Backlog] = {}
        clock.on_advance(self.measure)

    def open(self, record: Record) -> None:
        """Begin to work for an endpoint."""
        queue = self._queues[record["EndpointArn"]] = Backlog(self.service, record)
        self.cloud.spawn(queue.work, name=f"async-{record['EndpointName']}")

    def of(self, record: Record) -> Backlog:
        """The queue of an endpoint."""
        return self._queues[record["EndpointArn"]]

    def close(self, record: Record) -> None:
        """End the work for an endpoint; what waits is lost, as on AWS."""
        queue = self._queues.pop(record["EndpointArn"], None)
        if queue:
            queue.close()

    def measure(self) -> None:
        """Publish the lengths of all queues now."""
        for queue in list(self._queues.values()):
            queue.measure()


class Backlog:
    """The queue of one endpoint."""

    def __init__(self, service: EndpointsMixin, record: Record) -> None:
        self.service, self.cloud, self.record = service, service.cloud, record
        self._items: deque[Item] = deque()
        self._changed = threading.Condition()
        self._working = 0
        self._closed = False

    # -- what the caller does --------------------------------------------------------------------------------
    def add(self, params: Record) -> Record:
        """Queue a request; where its answer will be."""
        config = self._config["OutputConfig"]
        identifier = params.get("InferenceId") or str(uuid.uuid4())
        name = str(uuid.uuid4())
        folder = config["S3OutputPath"]
        if params.get("S3OutputPathExtension"):
            folder = data.join(folder, params["S3OutputPathExtension"].strip("/"))
        output = data.join(folder, params.get("Filename") or f"{name}.out")
        failure = (
            data.join(config["S3FailurePath"], f"{name}-error.out") if config.get("S3FailurePath") else ""
        )
        with self._changed:
            self._items.append(Item(params, identifier, output, failure))
            self._changed.notify_all()
        return {"InferenceId": identifier, "OutputLocation": output, "FailureLocation": failure or None}

    # -- workers ---------------------------------------------------------------------------------------------
    @property
    def _fleet(self) -> Fleet | None:
        fleets = self.service.fleets.get(self.record["EndpointArn"]) or []
        return fleets[0] if fleets else None

    @property
    def _config(self) -> Record:
        fleet = self._fleet
        return (fleet.config if fleet else {}).get("AsyncInferenceConfig") or {}

    def close(self) -> None:
        """End the work."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def work(self) -> None:
        """Hand requests to instances, as many at once as they take."""
        measured = 0.0
        while not self._closed and not self.cloud.stopping:
            with self._changed:
                item = self._next()
                if item is None:
                    self._changed.wait(0.2)
            if item is not None:
                self.cloud.spawn(self._process, item, name="async-request")
            if time.monotonic() - measured > _TICK:
                measured = time.monotonic()
                self.measure()

    def _next(self) -> Item | None:
        fleet = self._fleet
        if fleet is None or not self._items:
            return None
        client = self._config.get("ClientConfig") or {}
        at_once = client.get("MaxConcurrentInvocationsPerInstance") or AT_ONCE
        if self._working >= at_once * sum(v.servers for v in fleet.variants.values()):
            return None
        self._working += 1
        return self._items.popleft()

    def _process(self, item: Item) -> None:
        try:
            record, fleet, variant = self.service.enter(self.record["EndpointName"], asynchronous=True)
            with entered(variant):
                self._answer(record, fleet, variant, item)
        except AwsError as error:
            self.cloud.log.warning("async request of %s: %s", self.record["EndpointName"], error)
        finally:
            with self._changed:
                self._working -= 1
                self._changed.notify_all()

    def _answer(self, record: Record, fleet: Fleet, variant: Variant, item: Item) -> None:
        """Read the input, ask the model, write the answer, tell of it: all under the execution role."""
        began, params = clock.now(), item.params
        waited = (began - item.received).total_seconds()
        self._measure(variant, {"TimeInBacklog": (waited * 1e3, "Milliseconds")})
        if waited > (params.get("RequestTTLSeconds") or AGE):
            self._measure(variant, {"ExpiredRequests": (1.0, "None")})
            reason = "The request was in the queue for longer than RequestTTLSeconds."
            return self._tell(fleet, variant, item, "Expired", reason)
        s3 = self.service.s3_as(variant.role)
        try:
            body = params.get("Body") or self._timed(
                variant, "RequestDownload", lambda: data.read(s3, params["InputLocation"])
            )
        except data.DataError as error:
            return self._tell(fleet, variant, item, "Failed", str(error))
        asked = Asked(body, {**params, "InferenceId": item.id}, str(uuid.uuid4()))
        timeout = params.get("InvocationTimeoutSeconds") or TIMEOUT
        answered = invocations.serve(self.service, record, fleet, variant, asked, timeout)
        self._measure(
            variant,
            {
                "InvocationsProcessed": (1.0, "None"),
                "InvocationFailures": (float(not answered.good), "None"),
            },
        )
        where = item.output if answered.good else item.failure
        key = fleet.config["AsyncInferenceConfig"]["OutputConfig"].get("KmsKeyId")
        try:
            if where:
                bucket, path = data.split(where)
                self._timed(
                    variant, "ResponseUpload", lambda: data.put(s3, bucket, path, answered.content, key)
                )
        except data.DataError as error:
            return self._tell(fleet, variant, item, "Failed", str(error))
        spent = (clock.now() - item.received).total_seconds()
        self._measure(variant, {"TotalProcessingTime": (spent * 1e3, "Milliseconds")})
        if answered.good:
            return self._tell(fleet, variant, item, "Completed", kind=answered.kind)
        error = invocations.model_error(self.service, self.record["EndpointName"], answered)
        return self._tell(fleet, variant, item, "Failed", f"ModelError: {error.message}", answered.kind)

    def _timed(self, variant: Variant, what: str, function: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        try:
            return function()
        except data.DataError:
            self._measure(variant, {f"{what}Failures": (1.0, "None")})
            raise
        finally:
            spent = (time.perf_counter() - began) * 1e6
            self._measure(variant, {f"{what}Latency": (spent, "Microseconds")})

    # -- notices ---------------------------------------------------------------------------------------------
    def _tell(
        self, fleet: Fleet, variant: Variant, item: Item, status: str, reason: str = "", kind: str = ""
    ) -> None:
        """Publish how it ended, under the execution role.

        https://docs.aws.amazon.com/sagemaker/latest/dg/async-inference-check-predictions.html
        """
        notices = fleet.config["AsyncInferenceConfig"]["OutputConfig"].get("NotificationConfig") or {}
        topic = notices.get("SuccessTopic" if status == "Completed" else "ErrorTopic")
        if not topic:
            return
        params = item.params
        asked = {
            "accept": params.get("Accept"),
            "contentType": params.get("ContentType"),
            "customAttributes": params.get("CustomAttributes"),
            "endpointName": self.record["EndpointName"],
            "inputLocation": params.get("InputLocation"),
        }
        place = {"outputLocation": item.output} if status == "Completed" else {}
        if status == "Failed" and item.failure and kind:
            place = {"failureLocation": item.failure}
        message = {
            "awsRegion": self.cloud.region,
            "eventTime": _stamp(clock.now()),
            "receivedTime": _stamp(item.received),
            "invocationStatus": status,
            **({"failureReason": reason} if reason else {}),
            "requestParameters": {k: v for k, v in asked.items() if v},
            **({"responseParameters": {"contentType": kind, **place}} if place else {}),
            "inferenceId": item.id,
            "eventVersion": "1.0",
            "eventSource": "aws:sagemaker",
            "eventName": "InferenceResult",
        }
        sns = self.cloud.client("sns", role=variant.role, principal=PRINCIPAL, session="SageMaker")
        try:
            sns.publish(TopicArn=topic, Message=json.dumps(message))
        except ClientError as error:
            self._measure(variant, {"NotificationFailures": (1.0, "None")})
            self.cloud.log.error("notice of async endpoint %s: %s", self.record["EndpointName"], error)

    # -- metrics ---------------------------------------------------------------------------------------------
    def measure(self) -> None:
        """https://docs.aws.amazon.com/sagemaker/latest/dg/async-inference-monitor.html"""
        fleet = self._fleet
        if fleet is None:
            return
        with self._changed:
            waiting = len(self._items) + self._working
            oldest = (clock.now() - self._items[0].received).total_seconds() if self._items else 0.0
        instances = fleet.instances
        values = {
            "ApproximateBacklogSize": (float(waiting), "Count"),
            "HasBacklogWithoutCapacity": (float(waiting > 0 and instances == 0), "None"),
            "ApproximateAgeOfOldestRequest": (oldest, "Seconds"),
        }
        if instances:
            values["ApproximateBacklogSizePerInstance"] = (waiting / instances, "Count")
        self.service.recorder.measure({"EndpointName": self.record["EndpointName"]}, values)

    def _measure(self, variant: Variant, values: dict[str, tuple[float, str]]) -> None:
        where = {"EndpointName": self.record["EndpointName"], "VariantName": variant.name}
        self.service.recorder.measure(where, values)


def _stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
