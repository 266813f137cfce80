"""Custom::StudioCleanup: removes apps and spaces that people made, before CloudFormation deletes their owner.

Flow A: infra/studio.yaml, for the whole domain (DomainId). Flow C: 3-user.yaml, for one profile (DomainId and
UserProfileName). CloudFormation knows nothing of these apps and spaces, and SageMaker refuses to delete a
profile or domain that has some. The domain is not cleared while a project still has users in it: those are
deleted by their own stacks, or not at all.
"""

from __future__ import annotations

import json
import logging
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import boto3

logger = logging.getLogger()
logger.setLevel(logging.INFO)

POLL_SECONDS = 2
ANSWER_SECONDS = 20  # kept back from Lambda's time limit for the answer


class StillThere(TimeoutError):
    """Something was not gone when the time was up."""


class ProjectHasUsers(ValueError):
    """The domain holds profiles that belong to projects."""


def on_event(
    event: dict[str, Any],
    sagemaker: Any,
    seconds_left: Callable[[], float] = lambda: 870.0,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[str, dict[str, str]]:
    """Do nothing until Delete; then remove apps, spaces and (whole domain only) profiles made by hand."""
    properties = event["ResourceProperties"]
    domain, profile = properties["DomainId"], properties.get("UserProfileName", "")
    if event["RequestType"] != "Delete":
        return f"{domain}/{profile or '*'}", {}
    # Delete clears what the id says was guarded, also when an update has since changed the properties.
    identity = event["PhysicalResourceId"]
    if "/" not in identity:
        return identity, {}  # Create had failed before it guarded anything
    domain, _, profile = identity.partition("/")
    try:
        if profile == "*":
            _refuse_while_projects_have_users(sagemaker, domain)
        spaces = _spaces(sagemaker, domain, profile)
        _remove_apps(sagemaker, domain, profile, spaces, sleep, seconds_left)
        for space in spaces:
            logger.info("deleting space %s", space)
            sagemaker.delete_space(DomainId=domain, SpaceName=space)
        _wait(lambda: _spaces(sagemaker, domain, profile), "spaces", sleep, seconds_left)
        if profile == "*":
            for name in _profiles(sagemaker, domain):
                logger.info("deleting profile %s", name)
                sagemaker.delete_user_profile(DomainId=domain, UserProfileName=name)
            _wait(lambda: _profiles(sagemaker, domain), "profiles", sleep, seconds_left)
    except sagemaker.exceptions.ResourceNotFound:
        logger.info("%s is gone already", identity)
    return identity, {}


def _remove_apps(
    sagemaker: Any,
    domain: str,
    profile: str,
    spaces: list[str],
    sleep: Callable[[float], None],
    seconds_left: Callable[[], float],
) -> None:
    def alive() -> list[dict[str, Any]]:
        return [
            app
            for app in _pages(sagemaker, "list_apps", "Apps", DomainIdEquals=domain)
            if app["Status"] not in ("Deleted", "Failed")
            and (profile == "*" or app.get("UserProfileName") == profile or app.get("SpaceName") in spaces)
        ]

    for app in alive():
        if app["Status"] == "Deleting":
            continue
        owner = {key: app[key] for key in ("UserProfileName", "SpaceName") if app.get(key)}
        logger.info("deleting app %s %s of %s", app["AppType"], app["AppName"], owner)
        sagemaker.delete_app(DomainId=domain, AppType=app["AppType"], AppName=app["AppName"], **owner)
    _wait(lambda: [app["AppName"] for app in alive()], "apps", sleep, seconds_left)


def _refuse_while_projects_have_users(sagemaker: Any, domain: str) -> None:
    for name in _profiles(sagemaker, domain):
        arn = sagemaker.describe_user_profile(DomainId=domain, UserProfileName=name)["UserProfileArn"]
        tags = {tag["Key"]: tag["Value"] for tag in _pages(sagemaker, "list_tags", "Tags", ResourceArn=arn)}
        if project := tags.get("sagemaker:project-id"):
            raise ProjectHasUsers(
                f"profile {name} belongs to project {project}; delete the users and projects first"
            )


def _profiles(sagemaker: Any, domain: str) -> list[str]:
    pages = _pages(sagemaker, "list_user_profiles", "UserProfiles", DomainIdEquals=domain)
    return [profile["UserProfileName"] for profile in pages]


def _spaces(sagemaker: Any, domain: str, profile: str) -> list[str]:
    def owned(space: dict[str, Any]) -> bool:
        owner = space.get("OwnershipSettingsSummary", {}).get("OwnerUserProfileName")
        return profile in ("*", owner)

    return [
        s["SpaceName"] for s in _pages(sagemaker, "list_spaces", "Spaces", DomainIdEquals=domain) if owned(s)
    ]


def _pages(sagemaker: Any, operation: str, key: str, **arguments: str) -> Iterator[dict[str, Any]]:
    for page in sagemaker.get_paginator(operation).paginate(**arguments):
        yield from page[key]


def _wait(
    left: Callable[[], list[str]],
    kind: str,
    sleep: Callable[[float], None],
    seconds_left: Callable[[], float],
) -> None:
    while names := left():
        if seconds_left() < ANSWER_SECONDS + POLL_SECONDS:
            raise StillThere(
                f"{kind} {', '.join(names)} are still being deleted; delete the stack again in a few minutes"
            )
        sleep(POLL_SECONDS)


def handler(event: dict[str, Any], context: Any) -> None:
    """Answer CloudFormation exactly once."""
    logger.info("%s %s", event["RequestType"], event["LogicalResourceId"])
    answer = {key: event[key] for key in ("StackId", "RequestId", "LogicalResourceId")}
    answer["PhysicalResourceId"] = event.get("PhysicalResourceId", event["RequestId"])
    try:
        answer["PhysicalResourceId"], answer["Data"] = on_event(
            event, boto3.client("sagemaker"), lambda: context.get_remaining_time_in_millis() / 1000
        )
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
