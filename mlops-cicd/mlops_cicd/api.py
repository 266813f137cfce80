"""The optional API in front of production (flow F): what mlops.yml may ask of it, its parameters, its test.

The Api stage of the deploy pipeline deploys deploy/api.yaml and then tests it: a private API is asked by the
build, inside the VPC; a public one, which does not answer inside, by the project's function outside.
"""

from __future__ import annotations

import csv
import io
import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.exceptions import ClientError

from .console import Fault, say
from .registry import ModelVersion
from .settings import Project, infra_path, project_path, read_parameters
from .staging import golden
from .staging.client import CSV

NO_ENDPOINT = "none"  # what 1-infra writes without OptionalEndpoints
TAG = "api-"  # the images of the API lie in the repository of the inference images
SHIFTS = {
    "all_at_once": "LambdaAllAtOnce",
    **{f"canary10percent{n}minutes": f"LambdaCanary10Percent{n}Minutes" for n in (5, 10, 15, 30)},
    "linear10percentevery1minute": "LambdaLinear10PercentEvery1Minute",
    **{f"linear10percentevery{n}minutes": f"LambdaLinear10PercentEvery{n}Minutes" for n in (2, 3, 10)},
}
CHECK_SECONDS = 150  # the function has 120
SECONDS = 29
ROWS = 20


def api_image(ecr: Any, project: Project, model: ModelVersion) -> str:
    """The image of the function: what the model version names, else the newest one."""
    if named := model.metadata.get("api_image"):
        return named
    repository = project.ecr_inference_uri.partition("/")[2]
    pages = ecr.get_paginator("describe_images").paginate(
        repositoryName=repository, filter={"tagStatus": "TAGGED"}
    )
    images = [
        image
        for page in pages
        for image in page["imageDetails"]
        if any(tag.startswith(TAG) for tag in image.get("imageTags", []))
    ]
    if not images:
        raise Fault(
            f"deployment.api is set, and ECR repository {repository} holds no image of the API: the build "
            "pipeline makes it, so merge deployment.api into main and approve the version that comes of it"
        )
    newest = max(images, key=lambda image: image["imagePushedAt"])
    say(f"version {model.version} was built without deployment.api: its API runs the newest image")
    return f"{project.ecr_inference_uri}@{newest['imageDigest']}"


def api_parameters(
    project: Project, config: dict[str, Any], model: ModelVersion, session: Any
) -> dict[str, str]:
    """Parameters of deploy/api.yaml."""
    api = config["deployment"]["api"]
    path = infra_path("execute-api-endpoint-id")
    if read_parameters(session.client("ssm"), [path])[path] == NO_ENDPOINT:
        raise Fault(
            "deployment.api is set, and the platform has no endpoints that the test of an API needs: an "
            "administrator launches 1-infra with OptionalEndpoints true"
        )
    if not model.evaluation:
        raise Fault(f"model version {model.version} names no evaluation, beside which its golden rows are")
    return {
        "ProjectId": project.project_id,
        "ProjectName": project.project_name,
        "CostCenter": project.cost_center,
        "ImageUri": api_image(session.client("ecr"), project, model),
        "GoldenUri": golden.beside(model.evaluation),
        "Authorisation": api["auth"],
        "Private": "true" if api["private"] else "false",
        "JwtIssuer": api.get("jwt_issuer", ""),
        "JwtAudience": ",".join(api.get("jwt_audience", [])),
        "ThrottleRate": str(api["throttle_rate"]),
        "ThrottleBurst": str(api["throttle_burst"]),
        "Shift": SHIFTS[api["shift"]],
        "LatencyThresholdMilliseconds": str(api["latency_ms"]),
        "KeyArn": project_path(project.project_id, "key-arn"),
        "NotificationTopicArn": project_path(project.project_id, "notification-topic-arn"),
        "ApiRoleArn": project_path(project.project_id, "api-role-arn"),
        "ApiReleaseRoleArn": project_path(project.project_id, "api-release-role-arn"),
        "ApiCheckFunctionArn": project_path(project.project_id, "api-check-function-arn"),
        "SubnetIds": infra_path("private-subnet-ids"),
        "SecurityGroupId": infra_path("compute-security-group-id"),
    }


# ------------------------------------------------------------ the test


@dataclass(frozen=True)
class Answer:
    """Status and text of an answer."""

    status: int
    text: str


def call(url: str, body: bytes, session: Any = None) -> Answer:
    """One request over HTTPS, with a session signed by its role."""
    headers = {"Content-Type": CSV, "X-Amzn-SageMaker-Inference-Id": "smoke-test-api"}
    request = AWSRequest("POST", url, headers=headers, data=body)
    if session:
        SigV4Auth(session.get_credentials(), "execute-api", session.region_name).add_auth(request)
    sent = dict(request.prepare().headers.items())
    # As AWS's SDKs do: AWS_ENDPOINT_URL says where to connect, the host stays who is asked.
    parts, address = urlsplit(url), url
    if override := os.environ.get("AWS_ENDPOINT_URL"):
        other = urlsplit(override)
        address = urlunsplit(parts._replace(scheme=other.scheme, netloc=other.netloc))
    made = urllib.request.Request(address, data=body, headers={**sent, "Host": parts.netloc})  # noqa: S310
    try:
        with urllib.request.urlopen(made, timeout=SECONDS) as answer:  # noqa: S310 - the same
            return Answer(answer.status, answer.read().decode())
    except urllib.error.HTTPError as error:
        return Answer(error.code, error.read().decode(errors="replace"))
    except OSError as error:
        raise Fault(f"{url} does not answer: {error}") from error


def stack_of(cloudformation: Any, project: Project) -> dict[str, str]:
    """The outputs of the API's stack."""
    stack = project.resource("api")
    try:
        found = cloudformation.describe_stacks(StackName=stack)["Stacks"][0]
    except ClientError as error:
        raise Fault(f"there is no stack {stack}: the Api stage deploys it before its test") from error
    return {one["OutputKey"]: one["OutputValue"] for one in found.get("Outputs", [])}


def ask_outside(session: Any, project: Project) -> str:
    """Have the project's function ask a public API; what it says. Raises Fault with its reason."""
    patient = Config(read_timeout=CHECK_SECONDS, retries={"total_max_attempts": 1})
    answer = session.client("lambda", config=patient).invoke(
        FunctionName=f"{project.name}-api-check", Payload=json.dumps({"task": "api"}).encode()
    )
    said = json.loads(answer["Payload"].read() or b"{}")
    if answer.get("FunctionError"):
        raise Fault(f"the API does not pass its test: {said.get('errorMessage', said)}")
    return str(said.get("said", said))


def ask_inside(
    session: Any, project: Project, stack: dict[str, str], ask: Callable[..., Answer] = call
) -> str:
    """Ask a private API from inside the VPC, unsigned and signed; what was seen. Raises Fault."""
    rows = golden.load(session.client("s3"), f"{stack['GoldenUri'].rpartition('/')[0]}/evaluation.json")
    if rows is None:
        raise Fault(f"there is no {stack['GoldenUri']}: train the model again, then approve that version")
    table, url = io.StringIO(), stack["ApiUrl"]
    values = [["" if value is None else value for value in row] for row in rows.values[:ROWS]]
    csv.writer(table, lineterminator="\n").writerows(values)
    body = table.getvalue().encode()
    unsigned = ask(url, body)
    if unsigned.status != 403:
        raise Fault(f"{url} answers {unsigned.status} to a request without a signature; it must be 403")
    signed = ask(url, body, session)
    if signed.status != 200:
        raise Fault(f"{url} answers {signed.status} to a signed request: {signed.text[:300]}")
    direct = session.client("sagemaker-runtime").invoke_endpoint(
        EndpointName=project.resource("production"), ContentType=CSV, Body=body, InferenceId="smoke-test-api"
    )
    if signed.text != direct["Body"].read().decode():
        raise Fault(f"{url} answers otherwise than endpoint {project.resource('production')}")
    return f"{url}: without a signature 403; {len(values)} rows answered as by the endpoint"


def test(session: Any, project: Project) -> str:
    """Test the deployed API; what was seen. Raises Fault."""
    stack = stack_of(session.client("cloudformation"), project)
    inside = stack["Private"] == "true"
    return ask_inside(session, project, stack) if inside else ask_outside(session, project)
