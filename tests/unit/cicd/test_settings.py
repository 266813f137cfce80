"""A project's settings come from SSM; what is missing is named with its writer."""

from __future__ import annotations

import boto3
import pytest

from mlops_cicd.console import Fault
from mlops_cicd.settings import load_project, read_parameters

from .conftest import BUCKET, NAME, PROJECT_ID, REGION


def test_a_project_is_read(aws: None) -> None:
    project = load_project(boto3.client("ssm"), PROJECT_ID, REGION)
    assert project.bucket_name == BUCKET
    assert project.subnets == ("subnet-0123456789abcdef0", "subnet-0123456789abcdef1")
    assert (project.partition, project.account) == ("aws", "123456789012")
    assert project.resource("staging") == f"{NAME}-staging"
    assert {"Key": "mlops:cost-center", "Value": "cc-1"} in project.tags


def test_the_pipeline_receives_every_setting_of_the_contract(aws: None) -> None:
    project = load_project(boto3.client("ssm"), PROJECT_ID, REGION)
    images = {"preprocessing": "p:1", "training": "t:1", "inference": "i:1"}
    settings = project.for_pipeline({"version": 1}, images, "abc", "s3://b/monitor.pyz")
    assert set(settings) == {
        "project_id",
        "project_name",
        "region",
        "account",
        "partition",
        "role_arn",
        "bucket",
        "key_arn",
        "model_package_group",
        "pipeline_name",
        "subnets",
        "security_groups",
        "images",
        "commit",
        "tags",
        "monitor",
        "config",
    }
    assert settings["pipeline_name"] == NAME
    assert settings["monitor"] == {"code_uri": "s3://b/monitor.pyz"}


def test_more_than_ten_parameters_are_read_in_several_calls(aws: None) -> None:
    ssm = boto3.client("ssm")
    names = [f"/mlops/infra/key-{number}" for number in range(23)]
    for name in names:
        ssm.put_parameter(Name=name, Value=name[-2:], Type="String")
    assert set(read_parameters(ssm, names)) == set(names)


@pytest.mark.parametrize(
    ("path", "writer"),
    [
        ("/mlops/infra/nothing", "1-infra"),
        ("/mlops/projects/p-1/nothing", "2-smproject"),
        ("/mlops/projects/p-1/users/ana/nothing", "3-user"),
    ],
)
def test_a_missing_parameter_is_named_with_its_writer(aws: None, path: str, writer: str) -> None:
    with pytest.raises(Fault, match=f"{path} does not exist; {writer} writes it"):
        read_parameters(boto3.client("ssm"), [path])


def test_the_inference_mode_is_the_projects(aws: None) -> None:
    project = load_project(boto3.client("ssm"), PROJECT_ID, REGION)
    project.check({"inference": {"mode": "realtime"}})
    with pytest.raises(Fault, match="inference.mode is batch; project Credit was created for realtime"):
        project.check({"inference": {"mode": "batch"}})


def test_no_project_id_is_a_fault(aws: None) -> None:
    with pytest.raises(Fault, match="PROJECT_ID"):
        load_project(boto3.client("ssm"), "", REGION)
