"""What tries a release of the API: which answers pass, and that CodeDeploy is always told."""

from __future__ import annotations

import io
import json
from types import ModuleType
from typing import Any

import pytest
from botocore.exceptions import ClientError

PROJECT, BUCKET = "p-abcdefghijkl", "mlops-p-abcdefghijkl"
GOLDEN = f"s3://{BUCKET}/pipelines/1/Evaluate/golden.json"
ROWS = [{"values": ["a", 1, None], "score": 0.25}, {"values": ["b, c", 2, 3], "score": 0.5}]
CSV, JSON = "text/csv", "application/json"
SCORES = "0.250000\n0.500000\n"
RIGHT = {CSV: (200, SCORES), JSON: (200, '{"predictions": [0.25, 0.5]}'), "": (415, '{"error": "no"}')}
HOOK = {"DeploymentId": "d-1", "LifecycleEventHookExecutionId": "h-1"}


class Aws:
    """All services that the function asks, as far as it asks them."""

    def __init__(self) -> None:
        self.endpoint, self.function = dict(RIGHT), {"2": dict(RIGHT), "live": dict(RIGHT)}
        self.allow_traffic, self.authorisation = "Pending", "iam"
        self.target, self.golden, self.broken = f"mlops-{PROJECT}-api", {"rows": ROWS}, False
        self.told: list[dict[str, str]] = []
        self.asked: list[Any] = []

    def __call__(self, service: str) -> Aws:
        return self

    # codedeploy
    def list_deployment_targets(self, deploymentId: str) -> dict[str, Any]:  # noqa: N803
        return {"targetIds": ["t"]}

    def batch_get_deployment_targets(self, deploymentId: str, targetIds: list[str]) -> Any:  # noqa: N803
        about = {"functionName": self.target, "targetVersion": "2"}
        events = [{"lifecycleEventName": "AllowTraffic", "status": self.allow_traffic}]
        return {
            "deploymentTargets": [{"lambdaTarget": {"lambdaFunctionInfo": about, "lifecycleEvents": events}}]
        }

    def put_lifecycle_event_hook_execution_status(self, **said: str) -> None:
        self.told.append(said)

    # cloudformation
    def describe_stacks(self, StackName: str) -> dict[str, Any]:  # noqa: N803
        assert StackName == f"mlops-{PROJECT}-api"
        outputs = {"ApiUrl": "https://x/invocations", "GoldenUri": "s3://of-the-version-before/golden.json"}
        parameters = {"GoldenUri": GOLDEN, "Authorisation": self.authorisation}
        return {
            "Stacks": [
                {
                    "Outputs": [{"OutputKey": k, "OutputValue": v} for k, v in outputs.items()],
                    "Parameters": [{"ParameterKey": k, "ParameterValue": v} for k, v in parameters.items()],
                }
            ]
        }

    # s3
    def get_object(self, Bucket: str, Key: str) -> dict[str, Any]:  # noqa: N803
        assert (Bucket, Key) == (BUCKET, "pipelines/1/Evaluate/golden.json")
        return {"Body": io.BytesIO(json.dumps(self.golden).encode())}

    # sagemaker-runtime
    def invoke_endpoint(self, ContentType: str, Body: bytes, **more: str) -> dict[str, Any]:  # noqa: N803
        self.asked.append(("endpoint", more["InferenceId"], Body))
        status, text = self.endpoint.get(ContentType, self.endpoint[""])
        if status != 200:
            said = {"Error": {"Code": "ModelError"}, "OriginalStatusCode": status, "OriginalMessage": text}
            raise ClientError(said, "InvokeEndpoint")
        return {"Body": io.BytesIO(text.encode())}

    # lambda
    def invoke(self, FunctionName: str, Qualifier: str, Payload: bytes) -> dict[str, Any]:  # noqa: N803
        event = json.loads(Payload)
        self.asked.append((Qualifier, event["headers"]["x-amzn-sagemaker-inference-id"], event["body"]))
        if self.broken:
            answer = {"errorMessage": "Runtime exited"}
            return {"FunctionError": "Unhandled", "Payload": io.BytesIO(json.dumps(answer).encode())}
        known = self.function[Qualifier]
        status, text = known.get(event["headers"]["content-type"], known[""])
        return {"Payload": io.BytesIO(json.dumps({"statusCode": status, "body": text}).encode())}


@pytest.fixture
def check(load: Any) -> ModuleType:
    return load("api_check")


@pytest.fixture
def aws() -> Aws:
    return Aws()


def hook(check: ModuleType, aws: Aws) -> str:
    said = check.on_deployment(dict(HOOK), PROJECT, BUCKET, aws)
    (told,) = aws.told
    assert told == {
        "deploymentId": "d-1",
        "lifecycleEventHookExecutionId": "h-1",
        "status": said.partition(":")[0],
    }
    return said


def test_a_version_that_answers_as_the_endpoint_passes(check: ModuleType, aws: Aws) -> None:
    assert hook(check, aws) == "Succeeded: version 2: 3 requests answered as by the endpoint"
    assert {who for who, _, _ in aws.asked} == {"endpoint", "2"}, "callers' alias is not asked before"
    assert {identity for _, identity, _ in aws.asked} == {"simulated-api-check"}
    assert ("2", "simulated-api-check", 'a,1,\n"b, c",2,3\n') in aws.asked


def test_after_the_move_the_alias_is_asked_too(check: ModuleType, aws: Aws) -> None:
    aws.allow_traffic = "Succeeded"
    assert "alias live: 3 requests" in hook(check, aws)
    aws.told.clear()
    aws.function["live"][CSV] = (200, "0.250000\n0.400000\n")
    assert hook(check, aws).startswith("Failed: CheckFailed: golden rows as CSV: another answer")


@pytest.mark.parametrize(
    ("kind", "answer", "why"),
    [
        (CSV, (502, '{"error": "the model failed"}'), "answered 502 where the endpoint says 200"),
        (CSV, (200, "0.250000\n0.500001\n"), "another answer than the endpoint's"),
        (JSON, (200, '{"predictions": [0.25]}'), "golden rows as JSON: another answer"),
        ("", (200, "1"), "answered 200 where the endpoint says 415"),
    ],
)
def test_a_version_that_answers_otherwise_fails(
    check: ModuleType, aws: Aws, kind: str, answer: tuple[int, str], why: str
) -> None:
    aws.function["2"][kind] = answer
    said = hook(check, aws)
    assert said.startswith("Failed: CheckFailed: ") and why in said


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("0.250000\n0.500200\n", "row 2: 0.5002, in training it was 0.5"),
        ("0.250000\n", "1 answers to 2 rows"),
    ],
)
def test_scores_of_training_count_though_the_endpoint_agrees(
    check: ModuleType, aws: Aws, text: str, why: str
) -> None:
    aws.endpoint[CSV] = aws.function["2"][CSV] = (200, text)
    assert why in hook(check, aws)


def test_codedeploy_is_told_whatever_happens(check: ModuleType, aws: Aws) -> None:
    aws.broken = True
    assert "the function fails" in hook(check, aws)
    aws.told.clear()
    aws.broken, aws.target = False, "somebody-elses-function"
    assert "is not about function" in hook(check, aws)
    aws.told.clear()
    aws.target, aws.endpoint[CSV] = f"mlops-{PROJECT}-api", (500, "")
    assert "the endpoint itself fails" in hook(check, aws)
    aws.told.clear()
    aws.endpoint[CSV], aws.golden = RIGHT[CSV], {"wrong": []}
    assert hook(check, aws).startswith("Failed: KeyError")


@pytest.mark.parametrize(
    "uri", ["s3://other/golden.json", f"s3://{BUCKET}/x.json", f"s3://{BUCKET}x/golden.json"]
)
def test_only_golden_rows_of_the_project_are_read(check: ModuleType, aws: Aws, uri: str) -> None:
    with pytest.raises(check.CheckFailed, match="is not a golden"):
        check.questions_of(aws, BUCKET, uri)
    aws.golden = {"rows": [{"values": ["x" * 4_100_000], "score": 1}]}
    with pytest.raises(check.CheckFailed, match="more than 4,000,000 bytes"):
        check.questions_of(aws, BUCKET, GOLDEN)


def caller(
    check: ModuleType, aws: Aws, unsigned: int, forged: int, signed: dict[str, Any] | None = None
) -> Any:
    def call(url: str, question: Any, headers: Any = None, **more: bool) -> Any:
        assert url == "https://x/invocations"
        if more.get("signed"):
            status, text = (signed or RIGHT).get(question.content_type, (signed or RIGHT)[""])
            return check.Answer(status, text)
        return check.Answer(forged if headers else unsigned, "")

    return call


def test_the_pipeline_tries_the_api_from_the_internet(check: ModuleType, aws: Aws) -> None:
    said = check.on_pipeline(PROJECT, BUCKET, aws, caller(check, aws, 403, 403))
    assert "with no proof 403, with a forged proof 403; 3 requests" in said
    for unsigned, forged in ((200, 403), (403, 200), (500, 403)):
        with pytest.raises(check.CheckFailed, match="it must get 403"):
            check.on_pipeline(PROJECT, BUCKET, aws, caller(check, aws, unsigned, forged))
    other = {**RIGHT, CSV: (200, "0.1\n0.1\n")}
    with pytest.raises(check.CheckFailed, match="another answer"):
        check.on_pipeline(PROJECT, BUCKET, aws, caller(check, aws, 403, 403, other))


def test_with_tokens_the_function_behind_is_asked(check: ModuleType, aws: Aws) -> None:
    aws.authorisation = "jwt"
    assert "401" in check.on_pipeline(PROJECT, BUCKET, aws, caller(check, aws, 401, 401))
    assert "live" in {who for who, _, _ in aws.asked}
    with pytest.raises(check.CheckFailed, match="it must get 401"):
        check.on_pipeline(PROJECT, BUCKET, aws, caller(check, aws, 401, 403))


def test_other_events_are_refused(check: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROJECT_ID", PROJECT)
    monkeypatch.setenv("BUCKET_NAME", BUCKET)
    with pytest.raises(ValueError, match="an event of CodeDeploy, or task api"):
        check.handler({"task": "x"}, None)
