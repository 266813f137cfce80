"""Tells the owner of a project what happened: drift, failures, model versions, deployments (flow G).

Called by EventBridge. Every notice comes from here, except CodePipeline's own question for approval, and the
alarms of endpoints and budgets, which reach the topic without this function. It is told once: events are
delivered at least once, and SageMaker sends several for one change. A mark in the project's state table says
that a notice was told; it is taken back when telling failed, so that Lambda's next attempt tells. When all
attempts fail, Lambda sends the event itself to the topic (project/functions.yaml).

Reports of Model Monitor, which puts no metric that covers all kinds, become the metric that the alarms watch.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Callable
from typing import Any

import boto3
from mail import Notice
from notices import Project, key_of, notice_of
from reports import FOLDERS, sizes

logger = logging.getLogger()
logger.setLevel(logging.INFO)

KEPT_SECONDS = 30 * 24 * 3600  # a mark outlives every repetition of its event
REPORT = re.compile(
    r"monitoring/(?P<folder>[a-z-]+)/(?:(?P<endpoint>[^/]+)/[^/]+/)?\d{4}/\d{2}/\d{2}/\d{2}/constraint_violations\.json"
)


class Marks:
    """The notices that were told, in the project's state table."""

    def __init__(self, dynamodb: Any, table: str, seconds_left: float) -> None:
        self.dynamodb, self.table, self.seconds_left = dynamodb, table, seconds_left

    def begin(self, name: str) -> bool:
        """Whether this call is to tell the notice: nobody told it, and nobody alive is about to."""
        now = int(time.time())
        try:
            self.dynamodb.put_item(
                TableName=self.table,
                Item={
                    "id": {"S": name},
                    "told": {"BOOL": False},
                    "until": {"N": str(now + int(self.seconds_left) + 1)},  # then this attempt is dead
                    "expires": {"N": str(now + KEPT_SECONDS)},
                },
                ConditionExpression="attribute_not_exists(id) OR (told = :no AND #until < :now)",
                ExpressionAttributeNames={"#until": "until"},
                ExpressionAttributeValues={":no": {"BOOL": False}, ":now": {"N": str(now)}},
            )
        except self.dynamodb.exceptions.ConditionalCheckFailedException:
            return False
        return True

    def done(self, name: str) -> None:
        """The notice was told."""
        self.dynamodb.update_item(
            TableName=self.table,
            Key={"id": {"S": name}},
            UpdateExpression="SET told = :yes",
            ExpressionAttributeValues={":yes": {"BOOL": True}},
        )

    def take_back(self, name: str) -> None:
        """The notice was not told."""
        self.dynamodb.delete_item(TableName=self.table, Key={"id": {"S": name}})


def on_event(event: dict[str, Any], project: Project, topic: str, marks: Marks) -> str:
    """Tell what the event says, once; what was done, in a word."""
    if event["detail-type"] == "Object Created":
        return put_metric(event, project)
    key = key_of(event)
    if key is None:
        return "nothing to tell"
    name = f"notice#{key[0]}#{key[1]}"[:1024]  # of the 2,048 bytes of a key
    if not marks.begin(name):
        return "told already"
    try:
        notice = notice_of(event, project)
        if notice:
            publish(project.client("sns"), topic, notice)
    except BaseException:
        marks.take_back(name)
        raise
    marks.done(name)
    return "told" if notice else "nothing to tell"


def publish(sns: Any, topic: str, notice: Notice) -> None:
    """Send the mail."""
    sns.publish(TopicArn=topic, Subject=notice.subject, Message=notice.body)
    logger.info("told: %s", notice.subject)


def put_metric(event: dict[str, Any], project: Project) -> str:
    """The number of violations of a report that is not the project's own job's, which put it itself."""
    bucket, key = event["detail"]["bucket"]["name"], event["detail"]["object"]["key"]
    match = REPORT.fullmatch(key)
    kinds = {folder: kind for kind, folder in FOLDERS.items()}
    if bucket != project.bucket or not match or match["folder"] not in kinds:
        return "no report"
    s3, folder = project.client("s3"), key.rpartition("/")[0] + "/"
    if "summary.json" not in sizes(s3, bucket, folder):
        project.sleep(10)  # a job uploads its files one after the other
    if "summary.json" in sizes(s3, bucket, folder):
        return "the job put it"
    content = json.loads(s3.get_object(Bucket=bucket, Key=key)["Body"].read())
    endpoint = match["endpoint"] or f"{project.prefix}-production"
    project.client("cloudwatch").put_metric_data(
        Namespace="MLOps/Monitoring",
        MetricData=[
            {
                "MetricName": "constraint_violations",
                "Dimensions": [
                    {"Name": "Endpoint", "Value": endpoint},
                    {"Name": "MonitorType", "Value": kinds[match["folder"]]},
                ],
                "Value": len(content.get("violations", [])),
                "Unit": "Count",
            }
        ],
    )
    return "metric put"


def handler(
    event: dict[str, Any], context: Any, client: Callable[[str], Any] = boto3.client
) -> dict[str, str]:
    """Entry point. A fault is raised: Lambda tries again and, at last, sends the event to the topic."""
    topic = os.environ["TOPIC_ARN"]
    project = Project(
        id=os.environ["PROJECT_ID"],
        name=os.environ["PROJECT_NAME"],
        bucket=os.environ["BUCKET_NAME"],
        region=topic.split(":")[3],
        partition=topic.split(":")[1],
        client=client,
    )
    seconds = context.get_remaining_time_in_millis() / 1000
    marks = Marks(client("dynamodb"), os.environ["STATE_TABLE_NAME"], seconds)
    done = on_event(event, project, topic, marks)
    logger.info("%s of %s: %s", event.get("detail-type"), event.get("source"), done)
    return {"done": done}
