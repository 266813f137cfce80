"""Associates a Studio user with a project (flow C): profile, private JupyterLab space, tags, a record in SSM.

3-user makes the profile; the user's pipeline runs this. Running it again, or for many users at once, gives
the same result: what is there is left alone, and losing a race for the space is no fault.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import boto3
from botocore.exceptions import ClientError

from .console import OK, Fault, quoted, say, script
from .settings import USER, checked_project_id, infra_path, project_path, read_parameters

WAIT_SECONDS = 600
POLL_SECONDS = 5.0
SPACE_NAME_LIMIT = 63
USER_NAME_LIMIT = 36
SUFFIX = "-jupyterlab"
GONE = ("ResourceNotFound", "ResourceNotFoundException")
Json = dict[str, Any]


def wait_until(
    describe: Callable[[], Json], subject: str, sleep: Callable[[float], None], clock: Callable[[], float]
) -> Json:
    """Wait until a Studio resource is InService. SageMaker has no waiter for profiles and spaces."""
    deadline = clock() + WAIT_SECONDS
    while True:
        try:
            answer = describe()
        except ClientError as error:
            if error.response["Error"]["Code"] not in GONE:
                raise
            answer = {"Status": "absent"}
        status = answer["Status"]
        if status == "InService":
            return answer
        if "Fail" in status or status.startswith("Delet"):
            raise Fault(f"{subject} is {status}: {answer.get('FailureReason', 'no reason given')}")
        if clock() >= deadline:
            raise Fault(
                f"{subject} is still {status} after {WAIT_SECONDS} seconds; start the user's pipeline again"
            )
        sleep(POLL_SECONDS)


def check_profile(profile: Json, role: str, project_id: str) -> None:
    """A profile of another project would give its user this project's name and that project's data."""
    found = profile.get("UserSettings", {}).get("ExecutionRole")
    if found != role:
        raise Fault(
            f"profile {profile['UserProfileName']} works under {found or 'the role of the domain'}; "
            f"project {project_id} requires {role}: launch the user product of this project"
        )


def space_name(profile: str) -> str:
    """Name of the private space, unique in the domain that all projects share, as the profile's name is."""
    name = f"{profile}{SUFFIX}"
    if len(name) > SPACE_NAME_LIMIT:
        raise Fault(
            f"the space of profile {profile} would be named {name}, longer than {SPACE_NAME_LIMIT}: "
            "launch the user product with a shorter user name"
        )
    return name


def ensure_space(
    sagemaker: Any, domain: str, profile: str, name: str, tags: list[dict[str, str]]
) -> tuple[Callable[[], Json], bool]:
    """Make the private JupyterLab space if there is none; how to describe it, and whether it was made."""

    def describe() -> Json:
        return sagemaker.describe_space(DomainId=domain, SpaceName=name)

    try:
        describe()
        return describe, False
    except ClientError as error:
        if error.response["Error"]["Code"] not in GONE:
            raise
    try:
        sagemaker.create_space(
            DomainId=domain,
            SpaceName=name,
            SpaceDisplayName=name,
            SpaceSharingSettings={"SharingType": "Private"},
            OwnershipSettings={"OwnerUserProfileName": profile},
            SpaceSettings={"AppType": "JupyterLab"},
            Tags=tags,
        )
    except ClientError as error:
        detail = error.response["Error"]
        if detail["Code"] != "ResourceInUse" and "already exists" not in detail["Message"]:
            raise
        return describe, False
    return describe, True


def check_space(space: Json, profile: str) -> None:
    """A space of that name that somebody else owns, or shares, is not the user's private one."""
    owner = space.get("OwnershipSettings", {}).get("OwnerUserProfileName")
    sharing = space.get("SpaceSharingSettings", {}).get("SharingType")
    if owner != profile or sharing != "Private":
        raise Fault(
            f"space {space['SpaceName']} is {sharing} and owned by {owner}; it must be Private and "
            f"owned by {profile}: delete it in Studio, then start the user's pipeline again"
        )


def ensure_tags(sagemaker: Any, arn: str, tags: list[dict[str, str]]) -> None:
    """Tag what lacks a tag or has another value; nothing is written when nothing differs."""
    pages = sagemaker.get_paginator("list_tags").paginate(ResourceArn=arn)
    present = {tag["Key"]: tag["Value"] for page in pages for tag in page["Tags"]}
    missing = [tag for tag in tags if present.get(tag["Key"]) != tag["Value"]]
    if missing:
        sagemaker.add_tags(ResourceArn=arn, Tags=missing)
        say(f"tagged {arn}: {', '.join(tag['Key'] for tag in missing)}")


def write_association(ssm: Any, path: str, association: Json, now: datetime) -> bool:
    """Write the record unless it says the same already; its time is of the first writing."""
    try:
        before = json.loads(ssm.get_parameter(Name=path)["Parameter"]["Value"])
    except ClientError as error:
        if error.response["Error"]["Code"] != "ParameterNotFound":
            raise
        before = {}
    if {key: value for key, value in before.items() if key != "at"} == association:
        return False
    value = json.dumps(association | {"at": now.isoformat(timespec="seconds")}, sort_keys=True)
    ssm.put_parameter(Name=path, Value=value, Type="String", Overwrite=True)
    return True


@script
def main(
    argv: Sequence[str] | None = None,
    session: Any = None,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> int:
    """Associate one user with one project."""
    parser = argparse.ArgumentParser(prog="mlops_cicd.associate_user", description=__doc__)
    parser.add_argument("--project-id", default=os.environ.get("PROJECT_ID", ""))
    parser.add_argument("--user", default=os.environ.get("USER_NAME", ""))
    options = parser.parse_args(argv)
    if not options.project_id or not options.user:
        raise Fault(
            "project or user is missing: give --project-id and --user, or set PROJECT_ID and USER_NAME"
        )
    checked_project_id(options.project_id)
    if not USER.fullmatch(options.user) or len(options.user) > USER_NAME_LIMIT:
        raise Fault(
            f"user {quoted(options.user)}: allowed are 1 to {USER_NAME_LIMIT} letters, digits and inner "
            "hyphens; launch the user product with such a name"
        )
    session = session or boto3.Session()
    ssm, sagemaker = session.client("ssm"), session.client("sagemaker")
    project, user = options.project_id, options.user
    paths = {
        "profile": project_path(project, f"users/{user}/profile-name"),
        "domain": infra_path("studio-domain-id"),
        "release": infra_path("release-version"),
        "role": project_path(project, "data-scientist-role-arn"),
        "project": project_path(project, "project-name"),
        "cost": project_path(project, "cost-center"),
    }
    values = read_parameters(ssm, paths.values())
    domain, profile, role = (values[paths[key]] for key in ("domain", "profile", "role"))
    name = space_name(profile)
    tags = [
        {"Key": "sagemaker:project-id", "Value": project},
        {"Key": "sagemaker:project-name", "Value": values[paths["project"]]},
        {"Key": "mlops:cost-center", "Value": values[paths["cost"]]},
    ]

    described = wait_until(
        lambda: sagemaker.describe_user_profile(DomainId=domain, UserProfileName=profile),
        f"profile {profile}",
        sleep,
        clock,
    )
    check_profile(described, role, project)
    say(f"profile {profile} is in service under {role}")
    describe_space, made = ensure_space(sagemaker, domain, profile, name, tags)
    space = wait_until(describe_space, f"space {name}", sleep, clock)
    check_space(space, profile)
    say(f"space {name} {'was made' if made else 'is there'}")
    for arn in (described["UserProfileArn"], space["SpaceArn"]):
        ensure_tags(sagemaker, arn, tags)
    association = {
        "profile": profile,
        "space": name,
        "project": project,
        "role": role,
        "release": values[paths["release"]],
    }
    path = project_path(project, f"users/{user}/association")
    written = write_association(ssm, path, association, now())
    say(f"{path} {'written' if written else 'says so already'}")
    return OK


if __name__ == "__main__":
    sys.exit(main())
