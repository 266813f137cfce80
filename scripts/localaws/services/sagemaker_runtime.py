"""The SageMaker runtime: InvokeEndpoint through the endpoint's real servers, and InvokeEndpointAsync."""

from __future__ import annotations

import uuid
from typing import Any

from localaws.errors import AwsError
from localaws.service import Service
from localaws.services.sagemaker import invocations
from localaws.services.sagemaker.fleets import entered
from localaws.services.sagemaker.invocations import ATTRIBUTES, Asked

#: bytes of a request's body: of instances by the API's model, of serverless endpoints by
#: https://docs.aws.amazon.com/sagemaker/latest/dg/serverless-endpoints-invoke.html
BODY, SERVERLESS_BODY = 6_291_456, 4 * 1024 * 1024
_NOT_RUN = (
    "TargetModel",
    "TargetContainerHostname",
    "InferenceComponentName",
    "SessionId",
    "EnableExplanations",
    "PrefixAwareId",
)


class SageMakerRuntime(Service):
    """``sagemaker-runtime``: what an application calls."""

    name = "sagemaker-runtime"

    def invoke_endpoint(self, params: dict[str, Any]) -> dict[str, Any]:
        for member in _NOT_RUN:
            if params.get(member):
                raise AwsError(
                    "NotImplemented", f"{member}: the local cloud serves models of one container", 501
                )
        sagemaker, name = self.cloud.services["sagemaker"], params["EndpointName"]
        asked = Asked(params.get("Body") or b"", params, str(uuid.uuid4()))
        record, fleet, variant = sagemaker.enter(name, params.get("TargetVariant"))
        with entered(variant):
            most = SERVERLESS_BODY if variant.serverless else BODY
            if len(asked.body) > most:
                raise AwsError(
                    "ValidationError",
                    f"1 validation error detected: Value at 'body' failed to satisfy constraint: Member must "
                    f"have length less than or equal to {most}",
                )
            invocations.copy(sagemaker, record, fleet, asked)
            answered = invocations.serve(sagemaker, record, fleet, variant, asked)
        if not answered.good:
            raise invocations.model_error(sagemaker, name, answered)
        return {
            "Body": answered.content,
            "ContentType": answered.kind,
            "InvokedProductionVariant": variant.name,
            "CustomAttributes": answered.headers.get(ATTRIBUTES.lower()),
        }

    def invoke_endpoint_async(self, params: dict[str, Any]) -> dict[str, Any]:
        if bool(params.get("InputLocation")) == bool(params.get("Body")):
            raise AwsError("ValidationError", "Exactly one of InputLocation and Body is required.")
        return self.cloud.services["sagemaker"].backlog(params["EndpointName"]).add(params)

    def invoke_endpoint_with_response_stream(self, params: dict[str, Any]) -> dict[str, Any]:
        raise AwsError("NotImplemented", "the local cloud does not stream answers of endpoints", 501)


SERVICES = [SageMakerRuntime]
