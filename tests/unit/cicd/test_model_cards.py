"""Model cards follow what happens to a version, say it in AWS's schema, and may be kept at any time."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from localaws.errors import AwsError
from localaws.services.sagemaker.model_cards import check
from mlops_cicd import model_cards
from mlops_cicd.cards import content as contents
from mlops_cicd.cards import history

from .conftest import ACCOUNT, BUCKET, ECR, GROUP_ARN, KEY, NAME, PROJECT_ID, REGION, Session

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
BIAS = {
    "post_training_bias_metrics": {
        "facets": {"age": [{"value_or_threshold": "25", "metrics": [{"name": "DPPL", "value": 0.1}]}]}
    }
}
SHAP = {"explanations": {"kernel_shap": {"bad": {"global_shap_values": {"age": 0.1, "income": 0.4}}}}}


def refused(code: str, message: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, "ModelCard")


class SageMaker:
    """The registry, and cards as SageMaker keeps them."""

    def __init__(self) -> None:
        self.packages: dict[int, dict[str, Any]] = {}
        self.cards: dict[str, dict[str, Any]] = {}
        self.calls: list[str] = []
        self.broken: set[str] = set()

    def register(self, version: int, minutes: int = 0) -> None:
        def file(name: str) -> dict[str, str]:
            return {"S3Uri": f"s3://{BUCKET}/{name}.json"}

        self.packages[version] = {
            "ModelPackageArn": f"{GROUP_ARN}/{version}",
            "ModelPackageVersion": version,
            "ModelPackageGroupName": NAME,
            "ModelPackageStatus": "Completed",
            "ModelApprovalStatus": "PendingManualApproval",
            "CreationTime": START + timedelta(minutes=minutes),
            "CustomerMetadataProperties": {
                "commit": "a" * 40,
                "data_uri": "s3://d",
                "retraining_reason": "code",
            },
            "ModelMetrics": {
                "ModelQuality": {"Statistics": file("evaluation")},
                "Bias": {"Report": file("bias")},
                "Explainability": {"Report": file("shap")},
            },
            "InferenceSpecification": {
                "Containers": [
                    {
                        "Image": f"{ECR}/inference:1",
                        "ModelDataUrl": f"s3://{BUCKET}/m/job/output/model.tar.gz",
                    }
                ]
            },
        }

    def decide(self, version: int, status: str, minutes: int, why: str = "") -> None:
        role = f"arn:aws:sts::{ACCOUNT}:assumed-role/ds/jane"
        self.packages[version] |= {
            "ModelApprovalStatus": status,
            "ApprovalDescription": why,
            "LastModifiedTime": START + timedelta(minutes=minutes),
            "LastModifiedBy": {"IamIdentity": {"Arn": role}},
        }

    def get_paginator(self, name: str) -> SageMaker:
        assert name == "list_model_packages"
        return self

    def paginate(self, **request: Any) -> list[dict[str, Any]]:
        found = sorted(self.packages.values(), key=lambda one: -one["ModelPackageVersion"])
        return [{"ModelPackageSummaryList": found}]

    def describe_model_package(self, ModelPackageName: str) -> dict[str, Any]:  # noqa: N803
        return self.packages[int(ModelPackageName.rpartition("/")[2])]

    def describe_training_job(self, TrainingJobName: str) -> dict[str, Any]:  # noqa: N803
        assert TrainingJobName == "job"
        return {
            "TrainingJobArn": f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:training-job/job",
            "AlgorithmSpecification": {"TrainingImage": f"{ECR}/training:1"},
            "HyperParameters": {"algorithm": "logistic_regression"},
            "ResourceConfig": {"InstanceType": "ml.m5.large"},
            "TrainingTimeInSeconds": 42,
            "FinalMetricDataList": [{"MetricName": "validation:auc", "Value": 0.79}],
        }

    def create_model_card(self, **request: Any) -> None:
        name = request["ModelCardName"]
        if name in self.broken:
            raise refused("AccessDeniedException", "no")
        if name in self.cards:
            raise refused("ConflictException", "already exists")
        check(request["Content"])
        assert request["SecurityConfig"] == {"KmsKeyId": KEY}
        assert {tag["Key"] for tag in request["Tags"]} >= {"sagemaker:project-id", "mlops:cost-center"}
        self.cards[name] = request
        self.calls.append(f"create {name}")

    def update_model_card(self, ModelCardName: str, **change: str) -> None:  # noqa: N803
        card = self.cards[ModelCardName]
        assert len(change) == 1, "content and status cannot change in one call"
        if "Content" in change:
            if card["ModelCardStatus"] == "Archived":
                raise refused("ConflictException", "Model Card is in Archived state.")
            check(change["Content"])
        card |= change
        self.calls.append(f"update {ModelCardName}")

    def describe_model_card(self, ModelCardName: str) -> dict[str, Any]:  # noqa: N803
        if ModelCardName not in self.cards:
            raise refused("ResourceNotFound", "does not exist")
        return self.cards[ModelCardName]


class CodePipeline:
    """The runs of the deploy pipeline."""

    def __init__(self) -> None:
        self.actions: list[dict[str, Any]] = []

    def run(
        self, execution: str, version: int, minutes: int, *said: tuple[str, str, str], **more: Any
    ) -> None:
        told = [("Select", "Select", "Succeeded"), *said]
        for place, (stage, action, status) in enumerate(told):
            output: dict[str, Any] = {}
            if action == "Select":
                output["outputVariables"] = {
                    "DEPLOY": more.get("deploy", "true"),
                    "MODEL_VERSION": str(version),
                }
            elif status == "Failed":
                output["executionResult"] = {"errorDetails": {"message": more.get("why", "because")}}
            self.actions.append(
                {
                    "pipelineExecutionId": execution,
                    "actionExecutionId": f"{execution}-{place}",
                    "stageName": stage,
                    "actionName": action,
                    "status": status,
                    "lastUpdateTime": START + timedelta(minutes=minutes, seconds=place),
                    "updatedBy": f"arn:aws:sts::{ACCOUNT}:assumed-role/ds/jane",
                    "output": output,
                }
            )

    def get_paginator(self, name: str) -> CodePipeline:
        assert name == "list_action_executions"
        return self

    def paginate(self, pipelineName: str) -> list[dict[str, Any]]:  # noqa: N803
        assert pipelineName == f"{NAME}-deploy"
        return [{"actionExecutionDetails": self.actions[::-1]}]


GOOD = [
    ("Staging", "Test", "Succeeded"),
    ("Production", "ApproveProduction", "Succeeded"),
    ("Production", "Deploy", "Succeeded"),
    ("Production", "Test", "Succeeded"),
]


class World:
    """A project whose cards are kept."""

    def __init__(self, project_dir: Path) -> None:
        self.folder, self.sagemaker, self.pipeline = project_dir, SageMaker(), CodePipeline()
        self.s3 = boto3.client("s3")
        files = {
            "evaluation": {"dataset": {"item_count": 200}, "auc": {"value": 0.8}},
            "bias": BIAS,
            "shap": SHAP,
        }
        for name, content in files.items():
            self.s3.put_object(Bucket=BUCKET, Key=f"{name}.json", Body=json.dumps(content))

    def keep(self) -> int:
        self.sagemaker.calls.clear()
        session = Session(sagemaker=self.sagemaker, codepipeline=self.pipeline)
        return model_cards.main(["--project-id", PROJECT_ID, "--project-dir", str(self.folder)], session)

    def card(self, version: int) -> tuple[str, dict[str, Any]]:
        card = self.sagemaker.cards[f"{NAME}-v{version}"]
        return card["ModelCardStatus"], json.loads(card["Content"])

    def life(self, version: int) -> list[str]:
        details = self.card(version)[1]["additional_information"]["custom_details"]
        return [text.partition(" ")[2] for key, text in sorted(details.items()) if key.startswith("history_")]

    def page(self, version: int) -> str:
        found = self.s3.get_object(Bucket=BUCKET, Key=f"model-cards/v{version}.html")
        assert found["SSEKMSKeyId"] == KEY
        return found["Body"].read().decode()


@pytest.fixture
def world(aws: None, project_dir: Path) -> World:
    made = World(project_dir)
    made.sagemaker.register(1)
    return made


def test_a_card_is_there_when_a_version_is_registered(world: World) -> None:
    assert world.keep() == 0
    status, content = world.card(1)
    assert status == "PendingReview"
    job = content["training_details"]["training_job_details"]
    assert job["hyper_parameters"] == [{"name": "algorithm", "value": "logistic_regression"}]
    assert [one["name"] for one in content["evaluation_details"]] == [
        "Evaluation on the test rows",
        "Bias",
        "Feature attribution",
    ]
    shap = content["evaluation_details"][2]["metric_groups"][0]["metric_data"]
    assert [one["name"] for one in shap] == ["income", "age"]
    assert "model_card.purpose" in content["intended_uses"]["purpose_of_model"]  # nobody stated it
    assert world.life(1) == ["Registered; trained because of: code"]
    assert "Waits for approval" in world.page(1) and "<script" not in world.page(1)


def test_what_the_owner_states_is_in_the_card(world: World) -> None:
    config = world.folder / "mlops.yml"
    config.write_text(
        config.read_text() + "model_card: {purpose: <b>Loans</b>, risk_rating: High, owner: Risk}\n"
    )
    assert world.keep() == 0
    content = world.card(1)[1]
    assert content["intended_uses"]["purpose_of_model"] == "<b>Loans</b>"
    assert content["intended_uses"]["risk_rating"] == "High"
    assert content["model_overview"]["model_owner"] == "Risk"
    assert "&lt;b&gt;Loans" in world.page(1)


def test_a_card_goes_from_training_to_retirement(world: World) -> None:
    world.keep()
    world.sagemaker.decide(1, "Approved", 1, "good metrics")
    world.pipeline.run("run-1", 1, 2, *GOOD)
    assert world.keep() == 0
    assert world.card(1)[0] == "Approved"
    assert world.life(1)[1:] == [
        "Approved in the registry by ds/jane: good metrics",
        "Passed its tests in staging",
        "Release to production approved by ds/jane",
        f"Released to production: endpoint {NAME}-production runs it",
        "Passed its tests in production",
    ]
    world.sagemaker.register(2, 10)
    world.sagemaker.decide(2, "Approved", 11)
    world.pipeline.run("run-2", 2, 12, *GOOD)
    assert world.keep() == 0
    assert (world.card(1)[0], world.card(2)[0]) == ("Archived", "Approved")
    assert world.life(1)[-1] == "Replaced in production by version 2"
    assert "Retired" in world.page(1) and "Replaced in production by version 2, on 2026-03-01" in world.page(
        1
    )


def test_twice_is_once(world: World) -> None:
    world.sagemaker.decide(1, "Approved", 1)
    world.pipeline.run("run-1", 1, 2, *GOOD)
    world.keep()
    before = world.s3.head_object(Bucket=BUCKET, Key="model-cards/v1.html")["LastModified"]
    assert world.keep() == 0
    assert world.sagemaker.calls == []
    assert world.s3.head_object(Bucket=BUCKET, Key="model-cards/v1.html")["LastModified"] == before


def test_a_release_that_failed_leaves_the_live_one_in_place(world: World) -> None:
    world.sagemaker.decide(1, "Approved", 1)
    world.pipeline.run("run-1", 1, 2, *GOOD)
    world.sagemaker.register(2, 10)
    world.sagemaker.decide(2, "Approved", 11)
    world.pipeline.run(
        "run-2", 2, 12, *GOOD[:2], ("Production", "Deploy", "Failed"), why="ServerErrors fired"
    )
    assert world.keep() == 0
    assert (world.card(1)[0], world.card(2)[0]) == ("Approved", "Approved")
    assert world.life(2)[-1] == "Release failed in Production, action Deploy: ServerErrors fired"
    assert "it has not been in production" in world.page(2)


def test_a_rejected_version_is_retired_and_comes_back(world: World) -> None:
    world.sagemaker.decide(1, "Rejected", 1, "worse on new customers")
    world.keep()
    assert world.card(1)[0] == "Archived"
    assert "Rejected in the registry by ds/jane: worse on new customers, on 2026-03-01" in world.page(1)
    world.keep()
    assert world.sagemaker.calls == []
    world.sagemaker.decide(1, "Approved", 5)
    world.pipeline.run("run-1", 1, 6, *GOOD)
    assert world.keep() == 0
    assert world.card(1)[0] == "Approved"
    assert "Rejected in the registry" in world.life(1)[1]  # what happened before is not forgotten
    assert "Released to production" in world.life(1)[-2]


def test_going_back_to_an_older_version_brings_its_card_back(world: World) -> None:
    world.sagemaker.decide(1, "Approved", 1)
    world.pipeline.run("run-1", 1, 2, *GOOD)
    world.sagemaker.register(2, 10)
    world.sagemaker.decide(2, "Approved", 11)
    world.pipeline.run("run-2", 2, 12, *GOOD)
    world.keep()
    world.sagemaker.decide(2, "Rejected", 20, "complaints")
    world.pipeline.run("run-3", 1, 21, *GOOD)
    assert world.keep() == 0
    assert (world.card(1)[0], world.card(2)[0]) == ("Approved", "Archived")


def test_what_codepipeline_has_forgotten_is_kept(world: World) -> None:
    world.sagemaker.decide(1, "Approved", 1)
    world.pipeline.run("run-1", 1, 2, *GOOD)
    world.keep()
    world.pipeline.actions.clear()
    assert world.keep() == 0
    assert world.card(1)[0] == "Approved" and len(world.life(1)) == 6


def test_a_refused_release_and_a_run_without_a_model_are_told_apart(world: World) -> None:
    world.sagemaker.decide(1, "Approved", 1)
    refusal = ("Production", "ApproveProduction", "Failed")
    world.pipeline.run("run-1", 1, 2, ("Staging", "Test", "Succeeded"), refusal, why="not today")
    world.pipeline.run("run-2", 1, 3, *GOOD, deploy="false")
    assert world.keep() == 0
    assert world.life(1)[-1] == "Release to production refused by ds/jane: not today"


def test_the_report_of_the_tests_is_linked(world: World) -> None:
    world.sagemaker.decide(1, "Approved", 1)
    world.pipeline.run("run-1", 1, 2, *GOOD)
    report = {"checks": [{"passed": True}] * 3, "measured": {"latency_ms": {"p95": 12.5}}, "finished": "now"}
    key = "releases/1/run-1/staging/report.json"
    world.s3.put_object(Bucket=BUCKET, Key=key, Body=json.dumps(report))
    world.keep()
    found = next(one for one in world.card(1)[1]["evaluation_details"] if one["name"] == "Test in staging")
    assert "prefix=releases/1/run-1/staging/report.html" in found["evaluation_observation"]
    values = {one["name"]: one["value"] for one in found["metric_groups"][0]["metric_data"]}
    assert values == {"checks": 3, "checks passed": 3, "latency p95, ms": 12.5}


def test_a_card_that_cannot_be_written_is_told_and_the_others_are_written(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.sagemaker.register(2, 5)
    world.sagemaker.broken.add(f"{NAME}-v2")
    assert world.keep() == 1
    assert f"1 of 2 model cards could not be written\n  {NAME}-v2: " in capsys.readouterr().err
    assert f"{NAME}-v1" in world.sagemaker.cards


def test_files_that_are_gone_leave_the_rest_of_the_card(world: World) -> None:
    for name in ("evaluation", "bias", "shap"):
        world.s3.delete_object(Bucket=BUCKET, Key=f"{name}.json")
    assert world.keep() == 0
    assert "evaluation_details" not in world.card(1)[1]


def test_long_texts_fit_the_schema(world: World) -> None:
    world.sagemaker.packages[1]["CustomerMetadataProperties"]["data_uri"] = "s3://" + "x" * 900
    world.sagemaker.decide(1, "Rejected", 1, "y" * 1024)
    for number in range(60):
        world.pipeline.run(f"run-{number}", 1, number, ("Staging", "Test", "Failed"), why="z" * 3000)
    assert world.keep() == 0
    assert len(world.life(1)) == contents.MOST_EVENTS


def test_the_oracle_of_these_tests_refuses_what_aws_refuses() -> None:
    with pytest.raises(AwsError, match="model_overviews"):
        check('{"model_overviews": {}}')


def test_the_longest_name_of_a_card_is_allowed() -> None:
    assert len(f"mlops-p-{'x' * 18}-v{10**6}") <= 63


def test_a_person_is_named_as_aws_names_them() -> None:
    assert history.person({"UserProfileName": "p-1-jane"}) == "p-1-jane"
    assert history.session_of(f"arn:aws:iam::{ACCOUNT}:user/jane") == "jane"
    assert history.session_of("") == "somebody"
