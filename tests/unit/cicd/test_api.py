"""The optional API: its image, the parameters of its stack, and its test from inside the VPC and outside."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from mlops_cicd import api
from mlops_cicd.console import Fault
from mlops_cicd.settings import load_project

from .conftest import BUCKET, ECR, NAME, PROJECT_ID, REGION, Session

API = {"auth": "iam", "private": False, "throttle_rate": 50, "throttle_burst": 100, "latency_ms": 2000}
CONFIG = {"deployment": {"api": {**API, "shift": "canary10percent5minutes"}}}
EVALUATION = f"s3://{BUCKET}/pipelines/1/Evaluate/evaluation.json"
URL = "https://abcdefgh12.execute-api.us-east-1.amazonaws.com/live/invocations"


class Version:
    """A model version, as far as the API is about it."""

    version = 7

    def __init__(self, evaluation: str = EVALUATION, **metadata: str) -> None:
        self.evaluation, self.metadata = evaluation, metadata


class Ecr:
    """A registry whose images have these tags and times."""

    def __init__(self, *images: tuple[list[str], int]) -> None:
        self.images = images

    def get_paginator(self, name: str) -> Ecr:
        assert name == "describe_images"
        return self

    def paginate(self, repositoryName: str, **more: Any) -> list[dict[str, Any]]:  # noqa: N803
        assert repositoryName == f"{NAME}/inference"
        at = lambda day: datetime(2026, 1, day, tzinfo=UTC)  # noqa: E731
        return [
            {"imageDetails": [{"imageTags": tags, "imageDigest": f"sha256:{day}", "imagePushedAt": at(day)}]}
            for tags, day in self.images
        ]


@pytest.fixture
def project(aws: None) -> Any:
    endpoint = {"Name": "/mlops/infra/execute-api-endpoint-id", "Value": "vpce-1", "Type": "String"}
    boto3.client("ssm", region_name=REGION).put_parameter(**endpoint)
    return load_project(boto3.client("ssm", region_name=REGION), PROJECT_ID, REGION)


def test_the_image_is_the_versions_own_else_the_newest(project: Any, capsys: Any) -> None:
    ecr = Ecr((["api-1"], 3), (["1a2b"], 9), (["api-2", "x"], 5), (["api-0"], 1))
    assert api.api_image(ecr, project, Version(api_image="named")) == "named"
    assert api.api_image(ecr, project, Version()) == f"{ECR}/inference@sha256:5"
    assert "its API runs the newest image" in capsys.readouterr().out
    with pytest.raises(Fault, match="merge deployment.api into main"):
        api.api_image(Ecr((["1a2b"], 9)), project, Version())


def test_the_parameters_of_the_stack(project: Any) -> None:
    version = Version(api_image=f"{ECR}/inference@sha256:{'0' * 64}")
    found = api.api_parameters(project, CONFIG, version, Session())
    assert found["GoldenUri"] == f"s3://{BUCKET}/pipelines/1/Evaluate/golden.json"
    assert (found["Shift"], found["Private"]) == ("LambdaCanary10Percent5Minutes", "false")
    assert (found["JwtIssuer"], found["JwtAudience"]) == ("", "")
    assert found["ApiRoleArn"] == f"/mlops/projects/{PROJECT_ID}/api-role-arn"
    tokens = {"auth": "jwt", "jwt_issuer": "https://id.example", "jwt_audience": ["a", "b"]}
    found = api.api_parameters(
        project, {"deployment": {"api": CONFIG["deployment"]["api"] | tokens}}, version, Session()
    )
    assert (found["Authorisation"], found["JwtAudience"]) == ("jwt", "a,b")
    with pytest.raises(Fault, match="names no evaluation"):
        api.api_parameters(project, CONFIG, Version(""), Session())


def test_without_the_endpoints_the_stage_says_what_is_to_be_done(project: Any) -> None:
    ssm = boto3.client("ssm", region_name=REGION)
    path = "/mlops/infra/execute-api-endpoint-id"
    ssm.put_parameter(Name=path, Value="none", Type="String", Overwrite=True)
    with pytest.raises(Fault, match="1-infra with OptionalEndpoints true"):
        api.api_parameters(project, CONFIG, Version(), Session())


# ------------------------------------------------------------ the test


class Stack:
    """CloudFormation with the API's stack; without outputs there is none."""

    def __init__(self, outputs: dict[str, str]) -> None:
        self.outputs = outputs

    def describe_stacks(self, StackName: str) -> dict[str, Any]:  # noqa: N803
        assert StackName == f"{NAME}-api"
        if not self.outputs:
            raise ClientError({"Error": {"Code": "ValidationError"}}, "DescribeStacks")
        return {
            "Stacks": [{"Outputs": [{"OutputKey": k, "OutputValue": v} for k, v in self.outputs.items()]}]
        }


class Function:
    """The project's function outside, which says or fails."""

    def __init__(self, said: dict[str, Any], failed: bool = False) -> None:
        self.said, self.failed = said, failed

    def invoke(self, FunctionName: str, Payload: bytes) -> dict[str, Any]:  # noqa: N803
        assert (FunctionName, json.loads(Payload)) == (f"{NAME}-api-check", {"task": "api"})
        answer = {"Payload": io.BytesIO(json.dumps(self.said).encode())}
        return answer | ({"FunctionError": "Unhandled"} if self.failed else {})


def test_a_public_api_is_asked_by_the_function_outside(project: Any) -> None:
    cloudformation = Stack({"Private": "false"})

    def tried(function: Function) -> str:
        return api.test(Session(cloudformation=cloudformation, **{"lambda": function}), project)

    assert tried(Function({"said": "all well"})) == "all well"
    with pytest.raises(Fault, match="does not pass its test: with no proof 200"):
        tried(Function({"errorMessage": "with no proof 200"}, failed=True))
    with pytest.raises(Fault, match=f"there is no stack {NAME}-api"):
        api.test(Session(cloudformation=Stack({})), project)


class Runtime:
    """The production endpoint."""

    def invoke_endpoint(self, EndpointName: str, Body: bytes, **_: str) -> dict[str, Any]:  # noqa: N803
        assert (EndpointName, Body) == (f"{NAME}-production", b"a,\nb,2\n")
        return {"Body": io.BytesIO(b"0.1\n0.2\n")}


@pytest.mark.parametrize(
    ("unsigned", "signed", "why"),
    [
        (403, (200, "0.1\n0.2\n"), ""),
        (200, (200, "0.1\n0.2\n"), "answers 200 to a request without a signature"),
        (403, (502, '{"error": "the model failed"}'), "answers 502 to a signed request: .*the model failed"),
        (403, (200, "0.1\n0.3\n"), "answers otherwise than endpoint"),
    ],
)
def test_a_private_api_is_asked_from_inside(
    project: Any, unsigned: int, signed: tuple[int, str], why: str
) -> None:
    golden = {
        "features": [{"name": "a"}, {"name": "b"}],
        "packages": {},
        "rows": [{"values": ["a", None], "score": 0.1}, {"values": ["b", 2], "score": 0.2}],
    }
    s3 = boto3.client("s3", region_name=REGION)
    s3.put_object(Bucket=BUCKET, Key="pipelines/1/Evaluate/golden.json", Body=json.dumps(golden).encode())

    def ask(url: str, body: bytes, session: Any = None) -> api.Answer:
        assert (url, body) == (URL, b"a,\nb,2\n")
        return api.Answer(*signed) if session else api.Answer(unsigned, "")

    stack = {"ApiUrl": URL, "GoldenUri": f"s3://{BUCKET}/pipelines/1/Evaluate/golden.json"}
    session = Session(sagemaker_runtime=Runtime())
    if not why:
        assert "2 rows answered as by the endpoint" in api.ask_inside(session, project, stack, ask)
        return
    with pytest.raises(Fault, match=why):
        api.ask_inside(session, project, stack, ask)


def test_without_golden_rows_a_private_api_cannot_be_tested(project: Any) -> None:
    stack = {"ApiUrl": URL, "GoldenUri": f"s3://{BUCKET}/gone/golden.json"}
    with pytest.raises(Fault, match="train the model again"):
        api.ask_inside(Session(), project, stack)
