"""The function behind the API: what it hands on, what callers are told, and what the log has."""

import base64
import importlib.util
import io
import json
import logging
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    ParamValidationError,
    ReadTimeoutError,
)

SOURCE = Path(__file__).resolve().parents[2] / "seedcode-repo/base/src/api.py"
URL = "https://runtime.example"


class Runtime:
    """An endpoint that notes what it is asked, and answers or fails as told."""

    def __init__(self, answer: Any) -> None:
        self.answer, self.asked = answer, []

    def invoke_endpoint(self, **request: Any) -> dict[str, Any]:
        self.asked.append(request)
        if isinstance(self.answer, Exception):
            raise self.answer
        return {"Body": io.BytesIO(self.answer), "ContentType": "text/csv"}


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("ENDPOINT_NAME", "mlops-p-1-production")
    spec = importlib.util.spec_from_file_location("api_function", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def model_error(status: int, message: str = "") -> ClientError:
    said = {"Error": {"Code": "ModelError", "Message": "Received error from primary and message …"}}
    return ClientError({**said, "OriginalStatusCode": status, "OriginalMessage": message}, "InvokeEndpoint")


def service_error(code: str, message: str = "") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, "InvokeEndpoint")


def asked(module: ModuleType, answer: Any, **event: Any) -> tuple[dict[str, Any], Runtime]:
    runtime = Runtime(answer)
    module.runtime = lambda: runtime
    request = {"headers": {"Content-Type": "text/csv"}, "requestContext": {"requestId": "g-1"}, "body": "1,2"}
    return module.handler({**request, **event}, None), runtime


def test_a_request_is_handed_on_as_it_came(api: ModuleType) -> None:
    headers = {"CONTENT-TYPE": "text/csv", "accept": "text/csv", "X-Amzn-SageMaker-Inference-Id": "order-7"}
    answer, runtime = asked(api, b"0.5\n", headers=headers)
    wanted = {"ContentType": "text/csv", "Accept": "text/csv", "InferenceId": "order-7", "Body": b"1,2"}
    assert runtime.asked == [{"EndpointName": "mlops-p-1-production", **wanted}]
    assert (answer["statusCode"], answer["body"], answer["isBase64Encoded"]) == (200, "0.5\n", False)
    assert answer["headers"] == {"Content-Type": "text/csv", "x-amzn-sagemaker-inference-id": "order-7"}


def test_bytes_of_the_gateway_are_unpacked_and_an_id_is_given(api: ModuleType) -> None:
    body = base64.b64encode("ä,1".encode()).decode()
    answer, runtime = asked(api, b"1\n", body=body, isBase64Encoded=True, headers=None)
    assert runtime.asked[0]["Body"] == "ä,1".encode() and "ContentType" not in runtime.asked[0]
    assert answer["headers"]["x-amzn-sagemaker-inference-id"] == "g-1"
    assert asked(api, b"1\n", body=None)[1].asked[0]["Body"] == b""


@pytest.mark.parametrize(
    ("fault", "status", "said"),
    [
        (model_error(400, '{"error": "row 1: no income"}'), 400, "row 1: no income"),
        (model_error(415, "plain words"), 415, "plain words"),
        (model_error(500, "the secret is 42"), 502, "the model failed"),
        (model_error(503, "the secret is 42"), 502, "the model failed"),
        (service_error("ThrottlingException"), 429, "more requests than it can take"),
        (service_error("ModelNotReadyException"), 503, "not ready"),
        (service_error("ServiceUnavailable"), 503, "not ready"),
        (service_error("ValidationError", "Endpoint x of account 1 not found."), 503, "not ready"),
        (service_error("ValidationError", "1 validation error detected"), 400, "is not what SageMaker takes"),
        (service_error("AccessDeniedException", "arn:aws:secret"), 502, "the model failed"),
        (ParamValidationError(report="arn:aws:secret"), 400, "is not what SageMaker takes"),
        (ReadTimeoutError(endpoint_url=URL), 504, "did not answer in time"),
        (ConnectTimeoutError(endpoint_url=URL), 503, "cannot be reached"),
        (ConnectionClosedError(endpoint_url=URL), 503, "cannot be reached"),
    ],
)
def test_what_a_caller_is_told(
    api: ModuleType, caplog: pytest.LogCaptureFixture, fault: Exception, status: int, said: str
) -> None:
    with caplog.at_level(logging.INFO):
        answer, runtime = asked(api, fault)
    assert len(runtime.asked) == 1
    assert (answer["statusCode"], answer["headers"]["Content-Type"]) == (status, "application/json")
    assert said in json.loads(answer["body"])["error"]
    assert "secret" not in answer["body"] and URL not in answer["body"]
    assert caplog.records[-1].levelname == ("ERROR" if status >= 500 else "INFO")


def test_the_log_has_no_payload(api: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        asked(api, b"0.5\n", body="jane,1969", headers={"X-Amzn-SageMaker-Inference-Id": "i" * 900})
    line = json.loads(caplog.records[-1].message)
    assert (line["status"], line["code"], line["inference_id"]) == (200, "OK", "i" * 64)
    assert "jane" not in caplog.text and "0.5" not in json.dumps({**line, "milliseconds": 0})


def test_an_answer_that_lambda_cannot_carry(api: ModuleType) -> None:
    assert asked(api, b"1" * api.LARGEST_ANSWER)[0]["statusCode"] == 200
    answer = asked(api, b"1" * (api.LARGEST_ANSWER + 1))[0]
    assert answer["statusCode"] == 413 and "fewer rows" in answer["body"]


def test_it_gives_up_before_the_gateway_and_asks_once(
    api: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    config = api.runtime().meta.config
    assert config.retries["total_max_attempts"] == 1
    assert config.connect_timeout + config.read_timeout < 28 < 29  # the function's limit, the gateway's
