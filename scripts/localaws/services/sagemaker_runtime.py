"""The SageMaker runtime: InvokeEndpoint through the endpoint's real server."""

from __future__ import annotations

import time
import uuid
from typing import Any

from localaws import clock
from localaws.errors import AwsError
from localaws.service import Service
from localaws.services.sagemaker.endpoints import LOGS, Fleet
from localaws.services.sagemaker.hosting import NoAnswer

ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"


class SageMakerRuntime(Service):
    """``sagemaker-runtime``: what an application calls."""

    name = "sagemaker-runtime"

    def invoke_endpoint(self, params: dict[str, Any]) -> dict[str, Any]:
        for member in (
            "TargetModel",
            "TargetContainerHostname",
            "InferenceComponentName",
            "SessionId",
            "EnableExplanations",
        ):
            if params.get(member):
                raise AwsError(
                    "NotImplemented", f"{member}: the local cloud serves models of one container", 501
                )
        started = time.perf_counter()
        sagemaker = self.cloud.services["sagemaker"]
        name = params["EndpointName"]
        record, fleet, variant = sagemaker.route(name, params.get("TargetVariant"))
        body, at = params.get("Body") or b"", clock.now()
        event, inference = str(uuid.uuid4()), params.get("InferenceId")
        headers = {
            "Content-Type": params.get("ContentType") or "application/octet-stream",
            "X-Amzn-SageMaker-Request-Id": event,
        }
        for header, member in (
            ("Accept", "Accept"),
            (ATTRIBUTES, "CustomAttributes"),
            ("X-Amzn-SageMaker-Inference-Id", "InferenceId"),
        ):
            if params.get(member):
                headers[header] = params[member]
        server = fleet.servers[variant]
        sent = time.perf_counter()
        try:
            status, answered, content = server.invoke(body, headers)
        except NoAnswer as error:
            status, answered, content = 0, {}, _no_answer(server.alive, error).encode()
            sagemaker.revive(fleet, variant)
        done = time.perf_counter()
        failed = status == 0 or status >= 500
        sagemaker.recorder.measure(
            name,
            variant,
            {
                "Invocations": (1, "None"),
                "InvocationsPerInstance": (1 / max(1, fleet.counts[variant]), "None"),
                "Invocation4XXErrors": (1 if 400 <= status < 500 else 0, "None"),
                "Invocation5XXErrors": (1 if failed else 0, "None"),
                "InvocationModelErrors": (0 if 200 <= status < 300 else 1, "None"),
                "ModelLatency": ((done - sent) * 1e6, "Microseconds"),
                "OverheadLatency": ((sent - started) * 1e6, "Microseconds"),
            },
        )
        if not 200 <= status < 300:
            raise self._model_error(name, variant, status, content)
        kind = answered.get("content-type", "application/octet-stream")
        self._capture(
            record,
            fleet,
            variant,
            {
                "input": body,
                "input_type": headers["Content-Type"],
                "output": content,
                "output_type": kind,
                "id": event,
                "inference_id": inference,
                "attributes": params.get("CustomAttributes"),
                "at": at,
            },
        )
        return {
            "Body": content,
            "ContentType": kind,
            "InvokedProductionVariant": variant,
            "CustomAttributes": answered.get(ATTRIBUTES.lower()),
        }

    def _capture(self, record: dict[str, Any], fleet: Fleet, variant: str, exchange: dict[str, Any]) -> None:
        sagemaker = self.cloud.services["sagemaker"]
        config = fleet.config.get("DataCaptureConfig")
        if config and config.get("EnableCapture"):
            role = fleet.config.get("ExecutionRoleArn") or fleet.servers[variant].role
            sagemaker.recorder.capture(config, record["EndpointName"], variant, role, exchange)

    def _model_error(self, name: str, variant: str, status: int, content: bytes) -> AwsError:
        who = "client" if 400 <= status < 500 else "server"
        text = content.decode(errors="replace")[:2000]
        group = f"{LOGS}/{name}"
        console = f"https://{self.cloud.region}.console.aws.amazon.com/cloudwatch/home?region={self.cloud.region}#logEventViewer:group={group}"
        message = (
            f'Received {who} error ({status}) from primary with message "{text}". See {console} in '
            f"account {self.cloud.account} "
            "for more information."
        )
        return AwsError(
            "ModelError",
            message,
            424,
            OriginalStatusCode=status or 500,
            OriginalMessage=text,
            LogStreamArn=self.cloud.arn("logs", f"log-group:{group}"),
        )


def _no_answer(alive: bool, error: NoAnswer) -> str:
    if alive and "timed out" in str(error):
        return (
            "Your invocation timed out while waiting for a response from container primary. Review "
            "the latency metrics for each "
            "container in Amazon CloudWatch, resolve the issue, and try again."
        )
    return f"The primary container closed the connection: {error}"


SERVICES = [SageMakerRuntime]
