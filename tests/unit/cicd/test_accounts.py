"""Whom a build works as in the account of a stage, and what such a stage is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from mlops_cicd import accounts
from mlops_cicd.console import Fault
from mlops_cicd.settings import Project, load_project

TOOLING, STAGING, PRODUCTION = "123456789012", "210987654321", "310987654321"
ID = "p-abcdefghijkl"
CONFIG: dict[str, Any] = {"inference": {"mode": "realtime"}, "deployment": {"endpoint": "instances"}}


@pytest.fixture
def here() -> Project:
    """A project whose stages are in its own account."""
    text = {name: name for name in ("project_name", "cost_center", "framework", "inference_mode", "key_arn")}
    images = {f"ecr_{name}_uri": name for name in ("preprocessing", "training", "inference")}
    return Project(
        project_id=ID, region="eu-west-1", **text, **images, bucket_name="bucket",
        execution_role_arn=f"arn:aws:iam::{TOOLING}:role/mlops/projects/execution",
        model_package_group_name=f"mlops-{ID}", retraining_state_machine_arn="machine",
        subnets=("subnet-1",), security_groups=("sg-1",),
    )  # fmt: skip


@pytest.fixture
def elsewhere(here: Project) -> Project:
    """One whose production is in another account."""
    return replace(here, production_account_id=PRODUCTION)


class Session:
    """STS that gives out keys, or refuses."""

    region_name = "eu-west-1"

    def __init__(self, refusal: str = "") -> None:
        self.refusal, self.asked = refusal, ""

    def client(self, service: str) -> Session:
        assert service == "sts"
        return self

    def assume_role(self, RoleArn: str, RoleSessionName: str) -> dict[str, Any]:  # noqa: N803
        self.asked = RoleArn
        if self.refusal:
            raise ClientError({"Error": {"Code": "AccessDenied", "Message": self.refusal}}, "AssumeRole")
        keys = {"AccessKeyId": "A", "SecretAccessKey": "S", "SessionToken": "T"}
        return {"Credentials": keys}


class Version:
    """A model version with one container."""

    version = 7

    def __init__(self, data: str) -> None:
        self.containers = [{"ModelDataUrl": data}]


def test_a_stage_here_needs_no_other_session(here: Project) -> None:
    session = Session()
    assert accounts.stage_session(session, here, "production") is session
    assert session.asked == ""


def test_a_stage_elsewhere_is_entered_by_its_release_role(elsewhere: Project) -> None:
    session = Session()
    there = accounts.stage_session(session, elsewhere, "production")
    assert session.asked == f"arn:aws:iam::{PRODUCTION}:role/mlops/projects/mlops-{ID}-release"
    assert there.get_credentials().access_key == "A"
    assert there.region_name == "eu-west-1"
    assert accounts.stage_session(session, elsewhere, "staging") is session


def test_a_role_that_cannot_be_taken_is_named_with_what_to_do(elsewhere: Project) -> None:
    refusal = "User: x is not authorized to perform: sts:AssumeRole on resource: y"
    with pytest.raises(Fault) as caught:
        accounts.stage_session(Session(refusal), elsewhere, "production")
    said = str(caught.value)
    assert f"production is in account {PRODUCTION}" in said
    assert f"mlops-{ID}-release" in said
    assert refusal in said
    assert "make prepare-account" in said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"inference": {"mode": "batch"}}, f"allowed with both stages in account {TOOLING}"),
        ({"deployment": {"endpoint": "asynchronous"}}, "allowed there are instances and serverless"),
        ({"deployment": {"api": {"auth": "iam"}}}, "deployment.api is set"),
        ({"monitoring": {"engine": "managed"}}, "allowed is processing"),
        ({"monitoring": {"simulated_traffic": True}}, "allowed is false"),
    ],
)
def test_what_a_stage_elsewhere_cannot_do_is_refused_with_what_is_allowed(
    here: Project, elsewhere: Project, change: dict[str, Any], words: str
) -> None:
    config = CONFIG | change
    model: Any = Version("s3://bucket/models/m.tar.gz")
    accounts.check(here, config, model)
    with pytest.raises(Fault, match=words) as caught:
        accounts.check(elsewhere, config, model)
    assert PRODUCTION in str(caught.value)


def test_a_monitor_of_production_is_no_matter_of_staging(here: Project) -> None:
    staging = replace(here, staging_account_id=STAGING)
    config = CONFIG | {"monitoring": {"engine": "managed", "simulated_traffic": True}}
    assert list(accounts.mistakes(staging, config)) == []


def test_a_model_that_the_role_there_may_not_read_is_refused(here: Project, elsewhere: Project) -> None:
    model: Any = Version("s3://bucket/pipelines/m.tar.gz")
    accounts.check(here, CONFIG, model)
    with pytest.raises(Fault, match="below s3://bucket/models/ only"):
        accounts.check(elsewhere, CONFIG, model)


def test_a_project_of_an_older_release_has_its_stages_here(here: Project) -> None:
    class Ssm:
        def get_parameters(self, Names: list[str], WithDecryption: bool) -> dict[str, Any]:  # noqa: N803
            late = ("staging-account-id", "production-account-id", "bucket-key-arn")
            old = [name for name in Names if not name.endswith(late)]
            values = [{"Name": name, "Value": here.execution_role_arn} for name in old]
            return {"Parameters": values, "InvalidParameters": [name for name in Names if name not in old]}

    project = load_project(Ssm(), ID, "eu-west-1")
    assert not any(accounts.is_elsewhere(project, stage) for stage in accounts.STAGES)
    assert project.bucket_key_arn == ""
