"""Sends the project's sample to its endpoint when nobody else does (flow G, called by EventBridge Scheduler).

So a quiet project still shows that its endpoint answers and its monitors run. What it sends is marked:
inference ids begin with `simulated-`, and the monitors leave such records out unless they are told to include
them. It sends only when the hour before had no request but its own, at most ROWS rows, and once for a
scheduled time.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
from botocore.exceptions import ClientError

logger = logging.getLogger()
logger.setLevel(logging.INFO)

ROWS = 100
LONGEST_SAMPLE = 2_000_000  # bytes; a hundred rows are a few kilobytes
KEPT_SECONDS = 7 * 24 * 3600
ENDING_SECONDS = 10  # kept back from Lambda's time limit
GONE = ("ValidationException", "ValidationError", "ResourceNotFound")


class NotOfTheProject(ValueError):
    """The schedule names an endpoint or a sample of somebody else."""


def on_event(
    event: dict[str, str],
    project: str,
    bucket: str,
    table: str,
    client: Callable[[str], Any],
    seconds_left: Callable[[], float],
) -> str:
    """Send the sample when it is due; what was done and why, in a sentence."""
    endpoint, key = event["endpoint"], _key_of(event["sample_uri"], bucket)
    if not endpoint.startswith(f"mlops-{project}-"):
        raise NotOfTheProject(f"{endpoint[:80]!a} is no endpoint of project {project}")
    due = scheduled(event.get("scheduled_time"))
    variants, status = variants_of(client("sagemaker"), endpoint)
    if status != "InService":
        return f"not sent: {endpoint} is {status}"
    cloudwatch = client("cloudwatch")
    others = requests(cloudwatch, endpoint, variants, due)
    if others > 0:
        return f"not sent: {endpoint} had {others} requests in the hour before {due:%Y-%m-%d %H:%M}"
    if not begin(client("dynamodb"), table, f"traffic#{endpoint}#{due.isoformat()}"):
        return f"not sent: {endpoint} had its sample of {due:%Y-%m-%d %H:%M} already"
    rows = sample(client("s3"), bucket, key)
    sent = answered = 0
    try:
        for number, row in enumerate(rows, 1):
            if seconds_left() < ENDING_SECONDS:
                break
            sent += 1
            try:
                client("sagemaker-runtime").invoke_endpoint(
                    EndpointName=endpoint,
                    ContentType="text/csv",
                    Accept="text/csv",
                    Body=row.encode(),
                    InferenceId=f"simulated-{due:%Y-%m-%dT%H:%M:%SZ}-{number}",
                )
                answered += 1
            except ClientError as error:
                code = error.response["Error"]["Code"]
                logger.warning("row %d: %s: %s", number, code, error.response["Error"].get("Message"))
                if code in GONE:  # the endpoint went while it was being asked
                    break
    finally:
        count(cloudwatch, endpoint, sent)
    return f"sent {sent} of {len(rows)} rows to {endpoint}, {answered} answered"


def scheduled(text: str | None) -> datetime:
    """The time that this run is due; without one, the hour that began last."""
    if text:
        return datetime.fromisoformat(text).astimezone(UTC)
    return datetime.now(UTC).replace(minute=0, second=0, microsecond=0)


def _key_of(uri: str, bucket: str) -> str:
    match = re.fullmatch(rf"s3://{re.escape(bucket)}/(.+)", uri)
    if not match:
        raise NotOfTheProject(f"{uri[:200]!a} is not in the project's bucket {bucket}")
    return match[1]


def variants_of(sagemaker: Any, endpoint: str) -> tuple[list[str], str]:
    """The endpoint's variants and its status; "not there" when there is none."""
    try:
        found = sagemaker.describe_endpoint(EndpointName=endpoint)
    except ClientError as error:
        if error.response["Error"]["Code"] in GONE:
            return [], "not there"
        raise
    return [one["VariantName"] for one in found.get("ProductionVariants", [])], found["EndpointStatus"]


def requests(cloudwatch: Any, endpoint: str, variants: list[str], due: datetime) -> int:
    """Requests of the hour before a moment that this function did not send.

    CloudWatch counts every request, captured or not; what is simulated is counted by this function.
    https://docs.aws.amazon.com/sagemaker/latest/dg/monitoring-cloudwatch.html
    """
    invoked = [
        _query(
            f"v{number}",
            "AWS/SageMaker",
            "Invocations",
            [{"Name": "EndpointName", "Value": endpoint}, {"Name": "VariantName", "Value": variant}],
        )
        for number, variant in enumerate(variants)
    ]
    simulated = _query(
        "simulated", "MLOps/Monitoring", "simulated_requests", [{"Name": "Endpoint", "Value": endpoint}]
    )
    answer = cloudwatch.get_metric_data(
        MetricDataQueries=[*invoked, simulated], StartTime=due - timedelta(hours=1), EndTime=due
    )
    sums = {one["Id"]: sum(one["Values"]) for one in answer["MetricDataResults"]}
    own = sums.pop("simulated", 0)
    return max(0, round(sum(sums.values()) - own))


def _query(name: str, namespace: str, metric: str, dimensions: list[dict[str, str]]) -> dict[str, Any]:
    metric_of = {"Namespace": namespace, "MetricName": metric, "Dimensions": dimensions}
    return {"Id": name, "MetricStat": {"Metric": metric_of, "Period": 60, "Stat": "Sum"}}


def begin(dynamodb: Any, table: str, name: str) -> bool:
    """Whether this run is the first of its scheduled time."""
    try:
        dynamodb.put_item(
            TableName=table,
            Item={"id": {"S": name}, "expires": {"N": str(int(time.time()) + KEPT_SECONDS)}},
            ConditionExpression="attribute_not_exists(id)",
        )
    except dynamodb.exceptions.ConditionalCheckFailedException:
        return False
    return True


def sample(s3: Any, bucket: str, key: str) -> list[str]:
    """The first rows of the sample, a CSV file without a header."""
    body = s3.get_object(Bucket=bucket, Key=key)["Body"].read(LONGEST_SAMPLE)
    return [line for line in body.decode().splitlines() if line.strip()][:ROWS]


def count(cloudwatch: Any, endpoint: str, sent: int) -> None:
    """Remember how many requests were simulated, so that they are not taken for traffic."""
    if sent:
        cloudwatch.put_metric_data(
            Namespace="MLOps/Monitoring",
            MetricData=[
                {
                    "MetricName": "simulated_requests",
                    "Dimensions": [{"Name": "Endpoint", "Value": endpoint}],
                    "Value": sent,
                    "Unit": "Count",
                }
            ],
        )


def handler(
    event: dict[str, str], context: Any, client: Callable[[str], Any] = boto3.client
) -> dict[str, str]:
    """Entry point."""
    done = on_event(
        event,
        os.environ["PROJECT_ID"],
        os.environ["BUCKET_NAME"],
        os.environ["STATE_TABLE_NAME"],
        client,
        lambda: context.get_remaining_time_in_millis() / 1000,
    )
    logger.info("%s", done)
    return {"done": done}
