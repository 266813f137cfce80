"""Tries a release of a project's API: asks it what the endpoint is asked, and compares (flow F).

CodeDeploy calls it before callers reach a new version of the function, and after; the deploy pipeline's test
calls it with {"task": "api"}. The questions are the golden rows of the live model, whose scores are known.
What it sends is marked: inference ids begin with `simulated-`, and the monitors leave such records out.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import boto3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import ClientError

logger = logging.getLogger()
logger.setLevel(logging.INFO)

CSV, JSON, UNKNOWN = "text/csv", "application/json", "application/x-not-known"
INFERENCE_ID = "x-amzn-sagemaker-inference-id"
TOLERANCE = 1e-4  # of a score: the endpoint rounds to six places
LARGEST_FILE = 4_000_000
SECONDS = 29
# A token of nobody: three parts as of a JWT, signed with nothing.
FORGED = "eyJhbGciOiJub25lIn0.eyJpc3MiOiJub2JvZHkifQ."

Client = Callable[[str], Any]


class CheckFailed(RuntimeError):
    """The release answers otherwise than the endpoint; the message says to what."""


@dataclass(frozen=True)
class Question:
    """One request: its name in messages, content type and body; the scores that it must get, if any."""

    name: str
    content_type: str
    body: str
    scores: tuple[float, ...] = ()


@dataclass(frozen=True)
class Answer:
    """Status and text of an answer."""

    status: int
    text: str


def on_deployment(event: dict[str, str], project: str, bucket: str, client: Client) -> str:
    """A hook of CodeDeploy: try the new version, and tell CodeDeploy; the outcome in words."""
    deployment, codedeploy = event["DeploymentId"], client("codedeploy")
    try:
        version, moved = target_of(codedeploy, deployment, f"mlops-{project}-api")
        stack = stack_of(client("cloudformation"), project)
        questions = questions_of(client("s3"), bucket, stack["GoldenUri"])
        said = compare(questions, endpoint(client, project), function(client, project, version))
        said = f"version {version}: {said}"
        if moved:
            live = compare(questions, endpoint(client, project), function(client, project, "live"))
            said = f"{said}; alias live: {live}"
        status = "Succeeded"
    except Exception as error:  # whatever it is: a deployment that is told nothing waits for an hour
        logger.exception("the check failed")
        status, said = "Failed", f"{type(error).__name__}: {error}"
    codedeploy.put_lifecycle_event_hook_execution_status(
        deploymentId=deployment,
        lifecycleEventHookExecutionId=event["LifecycleEventHookExecutionId"],
        status=status,
    )
    return f"{status}: {said}"


def target_of(codedeploy: Any, deployment: str, name: str) -> tuple[str, bool]:
    """The version that a deployment brings, and whether callers were moved to it already."""
    targets = codedeploy.list_deployment_targets(deploymentId=deployment)["targetIds"]
    found = codedeploy.batch_get_deployment_targets(deploymentId=deployment, targetIds=targets)
    for target in found["deploymentTargets"]:
        about = target["lambdaTarget"]["lambdaFunctionInfo"]
        if about["functionName"].rpartition(":")[2] == name:
            events = {
                one["lifecycleEventName"]: one["status"] for one in target["lambdaTarget"]["lifecycleEvents"]
            }
            return about["targetVersion"], events.get("AllowTraffic") == "Succeeded"
    raise CheckFailed(f"deployment {deployment[:40]!a} is not about function {name}")


def on_pipeline(project: str, bucket: str, client: Client, call: Callable[..., Answer]) -> str:
    """The test of the deploy pipeline: the API as a caller sees it, from the internet."""
    stack = stack_of(client("cloudformation"), project)
    questions = questions_of(client("s3"), bucket, stack["GoldenUri"])
    url, said = stack["ApiUrl"], []
    tokens = stack["Authorisation"] == "jwt"
    refused = (401,) if tokens else (403,)
    for what, headers in (("no", {}), ("a forged", {"Authorization": f"Bearer {FORGED}"})):
        answer = call(url, questions[0], headers=headers)
        if answer.status not in refused:
            raise CheckFailed(
                f"a request with {what} proof of who calls got {answer.status}; it must get {refused[0]}"
            )
        said.append(f"with {what} proof {answer.status}")
    if tokens:  # nobody here has a token: what a caller with one gets, the function behind says
        answered = compare(questions, endpoint(client, project), function(client, project, "live"))
    else:
        answered = compare(questions, endpoint(client, project), lambda one: call(url, one, signed=True))
    return f"{url}: {', '.join(said)}; {answered}"


def compare(
    questions: list[Question], expected: Callable[[Question], Answer], tried: Callable[[Question], Answer]
) -> str:
    """Ask both the same; what was compared, in words. Raises CheckFailed."""
    for question in questions:
        wanted, got = expected(question), tried(question)
        if got.status != wanted.status:
            raise CheckFailed(
                f"{question.name}: answered {got.status} where the endpoint says {wanted.status}: "
                f"{got.text[:200]!a}"
            )
        if got.status != 200:
            continue
        if got.text != wanted.text:
            raise CheckFailed(f"{question.name}: another answer than the endpoint's")
        scores = [float(line.partition(",")[0]) for line in got.text.splitlines()] if question.scores else []
        if len(scores) != len(question.scores):
            raise CheckFailed(f"{question.name}: {len(scores)} answers to {len(question.scores)} rows")
        for number, (score, known) in enumerate(zip(scores, question.scores, strict=True), 1):
            if abs(score - known) > TOLERANCE:
                raise CheckFailed(f"{question.name}, row {number}: {score}, in training it was {known}")
    return f"{len(questions)} requests answered as by the endpoint"


def questions_of(s3: Any, bucket: str, uri: str) -> list[Question]:
    """The golden rows as CSV and as JSON, and a request that the model must refuse."""
    match = re.fullmatch(rf"s3://{re.escape(bucket)}/(.+/golden\.json)", uri)
    if not match:
        raise CheckFailed(f"{uri[:200]!a} is not a golden.json of the project's bucket {bucket}")
    content = s3.get_object(Bucket=bucket, Key=match[1])["Body"].read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise CheckFailed(f"{uri} has more than {LARGEST_FILE:,} bytes")
    rows = json.loads(content)["rows"]
    values = [row["values"] for row in rows]
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows(
        [["" if v is None else v for v in row] for row in values]
    )
    return [
        Question("golden rows as CSV", CSV, table.getvalue(), tuple(row["score"] for row in rows)),
        Question("golden rows as JSON", JSON, json.dumps({"instances": values})),
        Question("a content type that no model takes", UNKNOWN, "1"),
    ]


def stack_of(cloudformation: Any, project: str) -> dict[str, str]:
    """Parameters and outputs of the API's stack; while it changes, parameters are the new ones."""
    found = cloudformation.describe_stacks(StackName=f"mlops-{project}-api")["Stacks"][0]
    outputs = {one["OutputKey"]: one["OutputValue"] for one in found.get("Outputs", [])}
    return outputs | {one["ParameterKey"]: one["ParameterValue"] for one in found.get("Parameters", [])}


def endpoint(client: Client, project: str) -> Callable[[Question], Answer]:
    """Asks the endpoint itself."""

    def ask(question: Question) -> Answer:
        try:
            found = client("sagemaker-runtime").invoke_endpoint(
                EndpointName=f"mlops-{project}-production",
                ContentType=question.content_type,
                Body=question.body.encode(),
                InferenceId="simulated-api-check",
            )
        except ClientError as error:
            status = int(error.response.get("OriginalStatusCode") or 0)
            if not 400 <= status < 500:
                raise CheckFailed(f"the endpoint itself fails: {error}") from error
            return Answer(status, error.response.get("OriginalMessage", ""))
        return Answer(200, found["Body"].read().decode())

    return ask


def function(client: Client, project: str, qualifier: str) -> Callable[[Question], Answer]:
    """Asks one version of the function, as API Gateway does."""

    def ask(question: Question) -> Answer:
        event = {
            "version": "2.0",
            "headers": {"content-type": question.content_type, INFERENCE_ID: "simulated-api-check"},
            "requestContext": {"requestId": "simulated-api-check"},
            "body": question.body,
            "isBase64Encoded": False,
        }
        found = client("lambda").invoke(
            FunctionName=f"mlops-{project}-api", Qualifier=qualifier, Payload=json.dumps(event).encode()
        )
        answer = json.loads(found["Payload"].read() or b"null")
        if found.get("FunctionError") or not isinstance(answer, dict) or "statusCode" not in answer:
            raise CheckFailed(f"{question.name}: the function fails: {json.dumps(answer)[:300]}")
        return Answer(answer["statusCode"], answer.get("body", ""))

    return ask


def call(url: str, question: Question, headers: dict[str, str] | None = None, signed: bool = False) -> Answer:
    """One request over HTTPS; with ``signed``, signed by this function's role."""
    sent = {"Content-Type": question.content_type, INFERENCE_ID: "simulated-api-check", **(headers or {})}
    request = AWSRequest("POST", url, headers=sent, data=question.body.encode())
    if signed:
        session = boto3.Session()
        SigV4Auth(session.get_credentials(), "execute-api", session.region_name).add_auth(request)
    prepared = request.prepare()
    # As AWS's SDKs do: AWS_ENDPOINT_URL says where to connect, the host stays who is asked.
    host, address = urlsplit(url).netloc, url
    if override := os.environ.get("AWS_ENDPOINT_URL"):
        other = urlsplit(override)
        address = urlunsplit(urlsplit(url)._replace(scheme=other.scheme, netloc=other.netloc))
    made = urllib.request.Request(  # noqa: S310 - an address of the project's own stack
        address, data=question.body.encode(), headers={**dict(prepared.headers.items()), "Host": host}
    )
    try:
        with urllib.request.urlopen(made, timeout=SECONDS) as answer:  # noqa: S310 - the same
            return Answer(answer.status, answer.read().decode())
    except urllib.error.HTTPError as error:
        return Answer(error.code, error.read().decode(errors="replace"))
    except OSError as error:
        raise CheckFailed(f"{url} does not answer: {error}") from error


def handler(event: dict[str, Any], context: Any) -> dict[str, str]:
    """Called by CodeDeploy, or by the test of the deploy pipeline."""
    project, bucket = os.environ["PROJECT_ID"], os.environ["BUCKET_NAME"]
    if "DeploymentId" in event:
        said = on_deployment(event, project, bucket, boto3.client)
    elif event.get("task") == "api":
        said = on_pipeline(project, bucket, boto3.client, call)
    else:
        raise ValueError("allowed: an event of CodeDeploy, or task api")
    logger.info(said)
    return {"said": said}
