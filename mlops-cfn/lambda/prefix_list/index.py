"""Custom::PrefixList: id of the managed prefix list of an AWS service (flow A, called by infra/network.yaml).

A security group can name S3 only by this id, which differs from region to region.
"""

from __future__ import annotations

import json
import logging
import urllib.request
from typing import Any

import boto3

logger = logging.getLogger()
logger.setLevel(logging.INFO)


class UnknownPrefixList(LookupError):
    """No managed prefix list has the name of the service."""


def on_event(event: dict[str, Any], ec2: Any) -> tuple[str, dict[str, str]]:
    """Answer Create and Update with the prefix list's id; nothing was made, so Delete does nothing."""
    if event["RequestType"] == "Delete":
        return event["PhysicalResourceId"], {}
    service = event["ResourceProperties"]["ServiceName"]
    pages = ec2.get_paginator("describe_managed_prefix_lists").paginate(
        Filters=[{"Name": "prefix-list-name", "Values": [service]}]
    )
    for page in pages:
        for prefix_list in page["PrefixLists"]:
            if prefix_list["PrefixListName"] == service:
                return prefix_list["PrefixListId"], {"PrefixListId": prefix_list["PrefixListId"]}
    raise UnknownPrefixList(f"{service}: EC2 has no managed prefix list of this name in this region")


def handler(event: dict[str, Any], context: Any) -> None:
    """Answer CloudFormation exactly once."""
    logger.info("%s %s", event["RequestType"], event["LogicalResourceId"])
    answer = {key: event[key] for key in ("StackId", "RequestId", "LogicalResourceId")}
    answer["PhysicalResourceId"] = event.get("PhysicalResourceId", event["RequestId"])
    try:
        answer["PhysicalResourceId"], answer["Data"] = on_event(event, boto3.client("ec2"))
        answer["Status"] = "SUCCESS"
    except Exception as error:  # the one broad catch: CloudFormation must get its answer
        logger.exception("%s failed", event["RequestType"])
        answer |= {"Status": "FAILED", "Reason": f"{type(error).__name__}: {error}"[:1000]}
    send(event["ResponseURL"], answer)


def send(url: str, answer: dict[str, Any]) -> None:
    """Put the answer where CloudFormation waits for it."""
    body = json.dumps(answer).encode()
    # The signature of the URL covers an empty content type, which urllib would otherwise fill in.
    request = urllib.request.Request(url, data=body, method="PUT", headers={"Content-Type": ""})
    with urllib.request.urlopen(request, timeout=30) as response:
        logger.info("answered %s: %s", answer["Status"], response.status)
