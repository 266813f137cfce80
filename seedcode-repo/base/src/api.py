"""The function behind the project's API: passes a request on to the endpoint, and the endpoint's answer back.

What a request must look like says the model alone: content type, body and inference id are handed on as they
came. What the model refuses (4xx) reaches the caller with the model's reason; what fails inside (5xx) reaches
the caller without one, and the log has it. No payload is logged.
"""

import base64
import functools
import json
import logging
import os
import time
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    ParamValidationError,
    ReadTimeoutError,
)

INFERENCE_ID = "x-amzn-sagemaker-inference-id"
JSON = "application/json"
ANSWER_SECONDS = 25  # API Gateway waits 29 seconds for this function, whose own limit is 28
LARGEST_ANSWER = 5_500_000  # bytes; Lambda carries 6 MB, with the envelope around the answer
WRONG_HEADERS = f"Content-Type, Accept or {INFERENCE_ID} is not what SageMaker takes"
# What the runtime of SageMaker answers when the endpoint cannot take the request now.
BUSY = {"ModelNotReadyException", "ServiceUnavailable", "ServiceUnavailableException"}
THROTTLED = {"ThrottlingException", "TooManyRequestsException"}

logger = logging.getLogger()
logger.setLevel(logging.INFO)


@functools.cache
def runtime() -> Any:
    """The client of the endpoint. It tries once: a second try would cost the caller the time of the first."""
    limits = Config(connect_timeout=2, read_timeout=ANSWER_SECONDS, retries={"total_max_attempts": 1})
    return boto3.client("sagemaker-runtime", config=limits)


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answer one request of API Gateway (payload format 1.0 or 2.0)."""
    started = time.perf_counter()
    headers = {name.lower(): value for name, value in (event.get("headers") or {}).items()}
    # A caller that names no id gets the gateway's: with it, the right answer can be uploaded later.
    inference_id = headers.get(INFERENCE_ID) or event["requestContext"]["requestId"]
    status, kind, text, code = ask(event, headers, inference_id)
    line = {
        "inference_id": inference_id[:64],
        "status": status,
        "code": code,
        "milliseconds": round((time.perf_counter() - started) * 1000),
    }
    logger.log(logging.INFO if status < 500 else logging.ERROR, json.dumps(line))
    answered = {"Content-Type": kind, INFERENCE_ID: inference_id}
    return {"statusCode": status, "headers": answered, "body": text, "isBase64Encoded": False}


def ask(event: dict[str, Any], headers: dict[str, str], inference_id: str) -> tuple[int, str, str, str]:
    """Ask the endpoint; status, content type and text of the answer, and a code for the log."""
    body = event.get("body") or ""
    request = {"InferenceId": inference_id}
    if headers.get("content-type"):
        request["ContentType"] = headers["content-type"]
    if headers.get("accept"):
        request["Accept"] = headers["accept"]
    try:
        answer = runtime().invoke_endpoint(
            EndpointName=os.environ["ENDPOINT_NAME"],
            Body=base64.b64decode(body) if event.get("isBase64Encoded") else body.encode(),
            **request,
        )
        content = answer["Body"].read()
    except ClientError as error:
        return refused(error)
    except ParamValidationError:
        return failed(400, WRONG_HEADERS, "ParamValidation")
    except ReadTimeoutError:
        return failed(504, "the model did not answer in time", "ReadTimeout")
    except ConnectTimeoutError:
        return failed(503, "the endpoint cannot be reached", "ConnectTimeout")
    except BotoCoreError as error:
        return failed(503, "the endpoint cannot be reached", type(error).__name__)
    if len(content) > LARGEST_ANSWER:
        return failed(413, "the answer is larger than the API can carry; send fewer rows", "LargeAnswer")
    return 200, answer.get("ContentType", JSON), content.decode("utf-8", "replace"), "OK"


def refused(error: ClientError) -> tuple[int, str, str, str]:
    """What the caller is told of an error of the runtime or of the model behind it."""
    code, status = error.response["Error"]["Code"], int(error.response.get("OriginalStatusCode") or 0)
    if code == "ModelError" and 400 <= status < 500:
        text = error.response.get("OriginalMessage") or ""
        return status, JSON, text if is_json(text) else json.dumps({"error": text}), f"Model{status}"
    if code in THROTTLED:
        return failed(429, "the endpoint has more requests than it can take; try again later", code)
    if code in BUSY:
        return failed(503, "the endpoint is not ready; try again later", code)
    if code == "ValidationError" and "not found" in error.response["Error"].get("Message", ""):
        return failed(503, "the endpoint is not ready; try again later", "NoEndpoint")
    if code == "ValidationError":  # of a header: the model has not seen the request
        return failed(400, WRONG_HEADERS, code)
    return failed(502, "the model failed", f"Model{status}" if code == "ModelError" else code)


def failed(status: int, reason: str, code: str) -> tuple[int, str, str, str]:
    """An answer that this function words."""
    return status, JSON, json.dumps({"error": reason}), code


def is_json(text: str) -> bool:
    """Whether a text is a JSON document."""
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
