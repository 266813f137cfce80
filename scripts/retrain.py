"""Has a project trained again, because a person says why (flow E, Data Scientist).

    make retrain ARGS='--project churn --why "labels of October are in"'
    make retrain ARGS='--project churn --why "new customers" --data s3://mlops-p-…/training-data/november/'

The retraining workflow does it: a training that is under way is joined, and the version waits for approval.
With --wait the answer is the new version. Exit 3 when the reason joined a training under way.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

import account

POLL = 15.0  # seconds
DETAIL = 200  # characters of a reason that the workflow keeps


def reason(why: str, data: str = "") -> dict[str, str]:
    """What an execution of the workflow is given."""
    given = {
        "kind": "person",
        "id": f"person-{uuid.uuid4().hex}",
        "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "detail": " ".join(why.split())[:DETAIL],
    }
    return given | ({"data_uri": data} if data else {})


def finished(states: Any, execution: str, sleep: Callable[[float], None] = time.sleep) -> dict[str, Any]:
    """What the execution ended with. Raises FailedError with what went wrong."""
    while (described := states.describe_execution(executionArn=execution))["status"] == "RUNNING":
        sleep(POLL)
    if described["status"] != "SUCCEEDED":
        cause = described.get("cause") or "no reason given"
        raise account.FailedError(f"the retraining ended as {described['status']}: {cause}")
    return json.loads(described["output"])


def main(argv: list[str] | None = None, session: boto3.Session | None = None) -> int:
    """Start a retraining; exit 0 done, 1 fault, 2 usage, 3 joined a training under way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--project", required=True, help="the project's name")
    parser.add_argument("--why", required=True, help="one sentence; it stands on the new model version")
    parser.add_argument("--data", default="", help="s3:// address to train on; later retrainings keep it")
    parser.add_argument("--wait", action="store_true", help="until the training is over")
    arguments = parser.parse_args(argv)
    if not arguments.why.strip():
        parser.error("--why is empty: say in one sentence why")
    if arguments.data and not arguments.data.startswith("s3://"):
        parser.error(f"--data {arguments.data}: an address begins with s3://")
    session = session or boto3.Session()
    states = session.client("stepfunctions")
    try:
        found = account.project_id(session.client("sagemaker"), arguments.project)
        machine = account.project(session.client("ssm"), found)["retraining-state-machine-arn"]
        given = reason(arguments.why, arguments.data)
        execution = states.start_execution(
            stateMachineArn=machine, name=given["id"], input=json.dumps(given)
        )["executionArn"]
        answer: dict[str, Any] = {"execution": execution}
        if arguments.wait:
            answer |= finished(states, execution)
    except (account.NotFoundError, account.FailedError, ClientError, BotoCoreError) as error:
        print(f"retrain: {error}", file=sys.stderr)
        return 1
    print(json.dumps(answer, indent=2))
    return 3 if answer.get("result") == "joined" else 0


if __name__ == "__main__":
    sys.exit(main())
