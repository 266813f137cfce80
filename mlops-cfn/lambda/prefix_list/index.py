"""What a network needs and no resource type gives (flow A, called by infra/network.yaml).

Custom::PrefixList: id of the managed prefix list of an AWS service. A security group can name S3 only by this
id, which differs from region to region.
Custom::ClosedGroup: a security group that exists already, the default one of a VPC, without any rule.
"""

from __future__ import annotations

import json
import logging
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import boto3
from botocore.exceptions import ClientError

logger = logging.getLogger()
logger.setLevel(logging.INFO)


# seconds between two tries; the function has 30
WAITS = (1, 2, 4, 8)


class UnknownPrefixList(LookupError):
    """No managed prefix list has the name of the service."""


def on_event(
    event: dict[str, Any], ec2: Any, sleep: Callable[[float], None] = time.sleep
) -> tuple[str, dict[str, str]]:
    """Answer Create and Update; nothing was made, so Delete does nothing."""
    if event["RequestType"] == "Delete":
        return event["PhysicalResourceId"], {}
    properties = event["ResourceProperties"]
    if event["ResourceType"] == "Custom::ClosedGroup":
        close(properties["GroupId"], ec2, sleep)
        return properties["GroupId"], {}
    found = find(properties["ServiceName"], ec2)
    return found, {"PrefixListId": found}


def close(group: str, ec2: Any, sleep: Callable[[float], None]) -> None:
    """Take every rule away. The permission was given a moment ago: IAM may not know it everywhere yet."""
    for seconds in (*WAITS, None):
        try:
            return revoke_all(group, ec2)
        except ClientError as error:
            if error.response["Error"]["Code"] != "UnauthorizedOperation" or seconds is None:
                raise
            sleep(seconds)


def revoke_all(group: str, ec2: Any) -> None:
    """Revoke the rules that there are."""
    found = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]
    if rules := found["IpPermissions"]:
        ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=rules)
    if rules := found["IpPermissionsEgress"]:
        ec2.revoke_security_group_egress(GroupId=group, IpPermissions=rules)


def find(service: str, ec2: Any) -> str:
    """The id of a service's prefix list."""
    pages = ec2.get_paginator("describe_managed_prefix_lists").paginate(
        Filters=[{"Name": "prefix-list-name", "Values": [service]}]
    )
    for page in pages:
        for prefix_list in page["PrefixLists"]:
            if prefix_list["PrefixListName"] == service:
                return prefix_list["PrefixListId"]
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
    # The URL is CloudFormation's own, an address of S3 (hence S310).
    request = urllib.request.Request(url, data=body, method="PUT", headers={"Content-Type": ""})  # noqa: S310
    with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
        logger.info("answered %s: %s", answer["Status"], response.status)
