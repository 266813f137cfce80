"""Each job gets the tags of its project, once, whichever way the project can be told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

ACCOUNT = "arn:aws:sagemaker:us-east-1:123456789012"
ROLE = "arn:aws:iam::123456789012:role/mlops/projects/jobs-of-p-1"
ROLE_TAGS = [
    {"Key": "sagemaker:project-id", "Value": "p-1"},
    {"Key": "sagemaker:project-name", "Value": "churn"},
    {"Key": "mlops:cost-center", "Value": "CC1"},
    {"Key": "unrelated", "Value": "x"},
]
FACTS = {"project-name": "churn", "cost-center": "CC1", "owner-email": "ann@example.com"}
ALL = {
    "sagemaker:project-id": "p-1",
    "sagemaker:project-name": "churn",
    "mlops:cost-center": "CC1",
    "mlops:owner": "ann@example.com",
}

JOBS = {
    "training": {"TrainingJobArn": f"{ACCOUNT}:training-job/j", "RoleArn": ROLE},
    "processing": {"ProcessingJobArn": f"{ACCOUNT}:processing-job/j", "RoleArn": ROLE},
    "tuning": {
        "HyperParameterTuningJobArn": f"{ACCOUNT}:hyper-parameter-tuning-job/j",
        "TrainingJobDefinition": {"RoleArn": ROLE},
    },
    "transform": {"TransformJobArn": f"{ACCOUNT}:transform-job/j", "ModelName": "m"},
}


def tags(values: dict[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in values.items()]


def parameters(facts: dict[str, str]) -> dict[str, Any]:
    return {
        "Parameters": [{"Name": f"/mlops/projects/p-1/{key}", "Value": value} for key, value in facts.items()]
    }


def ask_facts(ssm: Any, facts: dict[str, str] = FACTS) -> None:
    ssm.expect("get_parameters", parameters(facts), Names=[f"/mlops/projects/p-1/{key}" for key in FACTS])


def arn_of(detail: dict[str, Any]) -> str:
    return next(value for key, value in detail.items() if key.endswith("JobArn"))


@pytest.mark.parametrize("kind", JOBS)
def test_job_gets_the_tags_of_its_role(kind: str, load: Callable, stub: Callable) -> None:
    detail, sagemaker, iam, ssm = JOBS[kind], stub("sagemaker"), stub("iam"), stub("ssm")
    sagemaker.expect("list_tags", {"Tags": []}, ResourceArn=arn_of(detail))
    if kind == "transform":
        sagemaker.expect(
            "describe_model",
            {"ModelName": "m", "ExecutionRoleArn": ROLE, "CreationTime": 0, "ModelArn": ROLE},
            ModelName="m",
        )
    iam.expect("list_role_tags", {"Tags": ROLE_TAGS}, RoleName="jobs-of-p-1")
    ask_facts(ssm)
    sagemaker.expect("add_tags", {"Tags": []}, ResourceArn=arn_of(detail), Tags=tags(ALL))
    added = load("job_tagger").on_event({"detail": detail}, sagemaker.client, iam.client, ssm.client)
    assert added == sorted(ALL)


def test_second_event_adds_nothing(load: Callable, stub: Callable) -> None:
    detail, sagemaker, ssm = JOBS["training"], stub("sagemaker"), stub("ssm")
    sagemaker.expect("list_tags", {"Tags": tags(ALL)}, ResourceArn=arn_of(detail))
    ask_facts(ssm)
    assert (
        load("job_tagger").on_event({"detail": detail}, sagemaker.client, stub("iam").client, ssm.client)
        == []
    )


def test_tag_that_is_there_is_not_changed(load: Callable, stub: Callable) -> None:
    detail, sagemaker, ssm = JOBS["training"], stub("sagemaker"), stub("ssm")
    present = {"sagemaker:project-id": "p-1", "mlops:cost-center": "chosen by hand"}
    sagemaker.expect("list_tags", {"Tags": tags(present)}, ResourceArn=arn_of(detail))
    ask_facts(ssm)
    wanted = {key: ALL[key] for key in ("sagemaker:project-name", "mlops:owner")}
    sagemaker.expect("add_tags", {"Tags": []}, ResourceArn=arn_of(detail), Tags=tags(wanted))
    assert load("job_tagger").on_event(
        {"detail": detail}, sagemaker.client, stub("iam").client, ssm.client
    ) == sorted(wanted)


def test_project_without_parameters_gives_what_the_role_says(load: Callable, stub: Callable) -> None:
    detail, sagemaker, iam, ssm = JOBS["training"], stub("sagemaker"), stub("iam"), stub("ssm")
    sagemaker.expect("list_tags", {"Tags": []}, ResourceArn=arn_of(detail))
    iam.expect("list_role_tags", {"Tags": ROLE_TAGS}, RoleName="jobs-of-p-1")
    ask_facts(ssm, {})
    wanted = {
        key: ALL[key] for key in ("sagemaker:project-id", "sagemaker:project-name", "mlops:cost-center")
    }
    sagemaker.expect("add_tags", {"Tags": []}, ResourceArn=arn_of(detail), Tags=tags(wanted))
    load("job_tagger").on_event({"detail": detail}, sagemaker.client, iam.client, ssm.client)


@pytest.mark.parametrize("known", ["role without tags", "role that is gone"])
def test_job_of_no_project_is_left_alone(known: str, load: Callable, stub: Callable) -> None:
    detail, sagemaker, iam = JOBS["processing"], stub("sagemaker"), stub("iam")
    sagemaker.expect("list_tags", {"Tags": []}, ResourceArn=arn_of(detail))
    if known == "role without tags":
        iam.expect("list_role_tags", {"Tags": []}, RoleName="jobs-of-p-1")
    else:
        iam.fail("list_role_tags", "NoSuchEntity", "gone", RoleName="jobs-of-p-1")
    assert (
        load("job_tagger").on_event({"detail": detail}, sagemaker.client, iam.client, stub("ssm").client)
        == []
    )


def test_transform_of_a_deleted_model_is_left_alone(load: Callable, stub: Callable) -> None:
    detail, sagemaker = JOBS["transform"], stub("sagemaker")
    sagemaker.expect("list_tags", {"Tags": []}, ResourceArn=arn_of(detail))
    sagemaker.fail("describe_model", "ValidationException", "Could not find model", ModelName="m")
    assert (
        load("job_tagger").on_event(
            {"detail": detail}, sagemaker.client, stub("iam").client, stub("ssm").client
        )
        == []
    )


def test_event_without_a_job_is_left_alone(load: Callable, stub: Callable) -> None:
    event = {"detail-type": "SageMaker Endpoint State Change", "detail": {"EndpointName": "e"}}
    assert (
        load("job_tagger").on_event(event, *(stub(name).client for name in ("sagemaker", "iam", "ssm"))) == []
    )


def test_fault_is_raised_so_that_it_is_tried_again(load: Callable, stub: Callable) -> None:
    detail, sagemaker = JOBS["training"], stub("sagemaker")
    sagemaker.fail("list_tags", "ThrottlingException", "slow down", ResourceArn=arn_of(detail))
    with pytest.raises(sagemaker.client.exceptions.ClientError, match="Throttling"):
        load("job_tagger").on_event(
            {"detail": detail}, sagemaker.client, stub("iam").client, stub("ssm").client
        )
