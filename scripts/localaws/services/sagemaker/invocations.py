"""One request at an instance of a variant: what it costs, what is kept of it, and its copy for a shadow."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from localaws import clock
from localaws.errors import AwsError
from localaws.services.sagemaker.fleets import LOGS, Fleet, Variant
from localaws.services.sagemaker.hosting import INVOCATION_TIMEOUT, NoAnswer

if TYPE_CHECKING:
    from localaws.services.sagemaker.endpoints import EndpointsMixin

Record = dict[str, Any]
ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
_HEADERS = (
    ("Accept", "Accept"),
    (ATTRIBUTES, "CustomAttributes"),
    ("X-Amzn-SageMaker-Inference-Id", "InferenceId"),
)
#: copies that may wait for a shadow at once: what comes beyond is not copied, so that no caller waits for it
_COPIES = 32
_copies = threading.BoundedSemaphore(_COPIES)


@dataclass(frozen=True)
class Asked:
    """A request as it reached the service."""

    body: bytes
    params: Record
    id: str
    started: float = field(default_factory=time.perf_counter)
    at: datetime = field(default_factory=clock.now)

    @property
    def headers(self) -> dict[str, str]:
        """What the container gets."""
        headers = {
            "Content-Type": self.params.get("ContentType") or "application/octet-stream",
            "X-Amzn-SageMaker-Request-Id": self.id,
        }
        return headers | {h: self.params[member] for h, member in _HEADERS if self.params.get(member)}


@dataclass(frozen=True)
class Answered:
    """What the container said; status 0 for nothing."""

    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def good(self) -> bool:
        """Whether it is an answer."""
        return 200 <= self.status < 300

    @property
    def kind(self) -> str:
        """Its content type."""
        return self.headers.get("content-type", "application/octet-stream")


def serve(
    service: EndpointsMixin,
    record: Record,
    fleet: Fleet,
    variant: Variant,
    asked: Asked,
    timeout: float = INVOCATION_TIMEOUT,
) -> Answered:
    """Ask an instance of the variant, measure it, and capture a good answer."""
    setup = spent = 0.0
    began = time.perf_counter()
    try:
        (status, headers, content), spent, setup = variant.invoke(asked.body, asked.headers, timeout)
        answered = Answered(status, headers, content)
    except NoAnswer as error:
        spent = time.perf_counter() - began
        answered = Answered(0, {}, _no_answer(variant, error).encode())
    total = time.perf_counter() - asked.started
    _measure(service, record, fleet, variant, answered, spent, total - spent, setup)
    if answered.good and fleet.capture:
        exchange = {
            "input": asked.body,
            "input_type": asked.headers["Content-Type"],
            "output": answered.content,
            "output_type": answered.kind,
            "id": asked.id,
            "inference_id": asked.params.get("InferenceId"),
            "attributes": asked.params.get("CustomAttributes"),
            "at": asked.at,
        }
        role = fleet.config.get("ExecutionRoleArn") or variant.role
        service.recorder.capture(fleet.capture, record["EndpointName"], variant.name, role, exchange)
    return answered


def copy(service: EndpointsMixin, record: Record, fleet: Fleet, asked: Asked) -> None:
    """Send the shadow its copy, if it gets one; the caller neither waits for it nor hears of it."""
    shadow = fleet.shadowed()
    if shadow is None or not _copies.acquire(blocking=False):
        return
    try:
        shadow.enter()
    except BaseException:
        _copies.release()
        raise

    def run() -> None:
        try:
            serve(service, record, fleet, shadow, Asked(asked.body, asked.params, asked.id, at=asked.at))
        finally:
            shadow.leave()
            _copies.release()

    service.cloud.spawn(run, name="shadow")


def _measure(
    service: EndpointsMixin, record: Record, fleet: Fleet, variant: Variant, answered: Answered,
    spent: float, overhead: float, setup: float,
) -> None:  # fmt: skip
    """https://docs.aws.amazon.com/sagemaker/latest/dg/monitoring-cloudwatch.html"""
    status = answered.status
    values = {
        "Invocations": (1.0, "None"),
        "Invocation4XXErrors": (float(400 <= status < 500), "None"),
        "Invocation5XXErrors": (float(status == 0 or status >= 500), "None"),
        "InvocationModelErrors": (float(not answered.good), "None"),
        "ModelLatency": (spent * 1e6, "Microseconds"),
        "OverheadLatency": (max(0.0, overhead) * 1e6, "Microseconds"),
    }
    if not variant.serverless:
        values["InvocationsPerInstance"] = (1.0 / max(1, variant.count), "None")
    elif setup:
        values["ModelSetupTime"] = (setup * 1e6, "Microseconds")
    where = {"EndpointName": record["EndpointName"], "VariantName": variant.name}
    service.recorder.measure(where, values)
    # what only one fleet of an endpoint did:
    # https://docs.aws.amazon.com/sagemaker/latest/dg/deployment-guardrails-configuration.html
    service.recorder.measure({**where, "EndpointConfigName": fleet.config["EndpointConfigName"]}, values)


def model_error(service: EndpointsMixin, name: str, answered: Answered) -> AwsError:
    """The caller's error for an answer that is none."""
    cloud = service.cloud
    status, who = answered.status, "client" if 400 <= answered.status < 500 else "server"
    text = answered.content.decode(errors="replace")[:2000]
    group = f"{LOGS}/{name}"
    console = (
        f"https://{cloud.region}.console.aws.amazon.com/cloudwatch/home?region={cloud.region}"
        f"#logEventViewer:group={group}"
    )
    return AwsError(
        "ModelError",
        f'Received {who} error ({status}) from primary with message "{text}". See {console} in account '
        f"{cloud.account} for more information.",
        424,
        OriginalStatusCode=status or 500,
        OriginalMessage=text,
        LogStreamArn=cloud.arn("logs", f"log-group:{group}"),
    )


def _no_answer(variant: Variant, error: NoAnswer) -> str:
    if "timed out" in str(error):
        return (
            "Your invocation timed out while waiting for a response from container primary. Review the "
            "latency metrics for each container in Amazon CloudWatch, resolve the issue, and try again."
        )
    return f"The primary container for variant {variant.name} closed the connection: {error}"
