"""A user is associated once; again, or at the same time, changes nothing; a foreign profile is refused."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from botocore.validate import ParamValidator

from mlops_cicd import associate_user

from .conftest import ACCOUNT, PROJECT_ID, REGION, Session

PROFILE = f"{PROJECT_ID}-ana"
SPACE = f"{PROFILE}-jupyterlab"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/mlops/projects/ds"
PATH = f"/mlops/projects/{PROJECT_ID}/users/ana/association"


def error(operation: str, code: str, message: str = "x") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, operation)


class Studio:
    """Profiles, spaces and tags; moto has none of them."""

    def __init__(self, role: str = ROLE, statuses: list[str] | None = None, race: bool = False) -> None:
        self.role, self.statuses, self.race = role, statuses or ["InService"], race
        self.spaces: dict[str, dict[str, Any]] = {}
        self.tags: dict[str, dict[str, str]] = {}
        self.created: list[dict[str, Any]] = []
        self.tagged: list[str] = []
        self.lock = threading.Lock()

    def describe_user_profile(self, **arguments: Any) -> dict[str, Any]:
        assert arguments == {"DomainId": "d-abc", "UserProfileName": PROFILE}
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        if status == "absent":
            raise error("DescribeUserProfile", "ResourceNotFound")
        return {
            "UserProfileName": PROFILE,
            "UserProfileArn": f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:user-profile/d-abc/{PROFILE}",
            "Status": status,
            "FailureReason": "no room",
            "UserSettings": {"ExecutionRole": self.role},
        }

    def describe_space(self, **arguments: Any) -> dict[str, Any]:
        name = arguments["SpaceName"]
        if name not in self.spaces:
            raise error("DescribeSpace", "ResourceNotFound")
        return self.spaces[name]

    def create_space(self, **arguments: Any) -> None:
        with self.lock:
            name = arguments["SpaceName"]
            if self.race or name in self.spaces:
                self.race = False
                self.spaces.setdefault(name, self.space(arguments))
                raise error("CreateSpace", "ResourceInUse")
            self.created.append(arguments)
            self.spaces[name] = self.space(arguments)

    @staticmethod
    def space(arguments: dict[str, Any]) -> dict[str, Any]:
        name = arguments["SpaceName"]
        return arguments | {
            "Status": "InService",
            "SpaceArn": f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:space/d-abc/{name}",
        }

    def get_paginator(self, name: str) -> Studio:
        assert name == "list_tags"
        return self

    def paginate(self, ResourceArn: str) -> list[dict[str, Any]]:  # noqa: N803
        tags = self.tags.get(ResourceArn, {})
        return [{"Tags": [{"Key": key, "Value": value}]} for key, value in tags.items()]

    def add_tags(self, ResourceArn: str, Tags: list[dict[str, str]]) -> None:  # noqa: N803
        self.tagged.append(ResourceArn)
        self.tags.setdefault(ResourceArn, {}).update({tag["Key"]: tag["Value"] for tag in Tags})


@pytest.fixture
def profile(aws: None) -> None:
    path = f"/mlops/projects/{PROJECT_ID}/users/ana/profile-name"
    boto3.client("ssm").put_parameter(Name=path, Value=PROFILE, Type="String")
    boto3.client("ssm").put_parameter(Name=PATH, Value="{}", Type="String")  # as 3-user makes it


def associate(studio: Studio, user: str = "ana", day: int = 1) -> int:
    ticks = iter(range(10_000))
    return associate_user.main(
        ["--project-id", PROJECT_ID, "--user", user],
        Session(sagemaker=studio),
        sleep=lambda _: None,
        clock=lambda: next(ticks) * associate_user.POLL_SECONDS,
        now=lambda: datetime(2026, 1, day, tzinfo=UTC),
    )


def record() -> dict[str, Any]:
    return json.loads(boto3.client("ssm").get_parameter(Name=PATH)["Parameter"]["Value"])


def test_profile_space_tags_and_record(profile: None) -> None:
    studio = Studio()
    assert associate(studio) == 0
    (space,) = studio.created
    assert space["SpaceName"] == SPACE
    assert space["SpaceSharingSettings"] == {"SharingType": "Private"}
    assert space["OwnershipSettings"] == {"OwnerUserProfileName": PROFILE}
    assert space["SpaceSettings"] == {"AppType": "JupyterLab"}
    shape = boto3.client("sagemaker").meta.service_model.operation_model("CreateSpace").input_shape
    assert not ParamValidator().validate(space, shape).has_errors()
    assert record() == {
        "profile": PROFILE,
        "space": SPACE,
        "project": PROJECT_ID,
        "role": ROLE,
        "release": "1.2.3",
        "at": "2026-01-01T00:00:00+00:00",
    }
    assert len(studio.tags) == 2
    for tags in studio.tags.values():
        assert tags["sagemaker:project-id"] == PROJECT_ID


def test_again_changes_nothing(profile: None) -> None:
    studio = Studio()
    assert associate(studio) == 0
    studio.tagged.clear()
    assert associate(studio, day=2) == 0
    assert len(studio.created) == 1
    assert studio.tagged == []
    assert record()["at"].startswith("2026-01-01")


def test_a_lost_race_is_no_fault(profile: None) -> None:
    studio = Studio(race=True)
    assert associate(studio) == 0
    assert studio.created == []
    assert record()["space"] == SPACE


def test_many_at_once_make_one_space(profile: None) -> None:
    studio, codes = Studio(), []
    threads = [threading.Thread(target=lambda: codes.append(associate(studio))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [0] * 6
    assert len(studio.created) == 1


def test_it_waits_for_the_profile(profile: None) -> None:
    assert associate(Studio(statuses=["absent", "Pending", "InService"])) == 0


@pytest.mark.parametrize(
    ("studio", "message"),
    [
        (Studio(statuses=["Failed"]), f"profile {PROFILE} is Failed: no room"),
        (Studio(statuses=["Pending"]), "is still Pending after 600 seconds"),
        (Studio(role="arn:aws:iam::1:role/other"), f"project {PROJECT_ID} requires {ROLE}"),
    ],
)
def test_a_wrong_profile_is_named(
    profile: None, capsys: pytest.CaptureFixture[str], studio: Studio, message: str
) -> None:
    assert associate(studio) == 1
    assert message in capsys.readouterr().err
    assert studio.created == []


def test_a_space_of_somebody_else_is_refused(profile: None, capsys: pytest.CaptureFixture[str]) -> None:
    studio = Studio()
    studio.spaces[SPACE] = Studio.space(
        {
            "SpaceName": SPACE,
            "SpaceSharingSettings": {"SharingType": "Private"},
            "OwnershipSettings": {"OwnerUserProfileName": "bob"},
        }
    )
    assert associate(studio) == 1
    assert "owned by bob" in capsys.readouterr().err


def test_a_user_without_a_stack_is_named(aws: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert associate(Studio(), user="eve") == 1
    assert f"/mlops/projects/{PROJECT_ID}/users/eve/profile-name does not exist; 3-user writes it" in (
        capsys.readouterr().err
    )


def test_the_longest_name_fits() -> None:
    project, user = "p-" + "a" * 12, "u" * 36  # what SageMaker and 3-user allow
    assert len(associate_user.space_name(f"{project}-{user}")) <= 63
