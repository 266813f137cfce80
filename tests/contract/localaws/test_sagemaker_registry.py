"""The model registry: versions, approval and the events that a deployment starts from."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError

OWN = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
STOCK = "683313688378.dkr.ecr.us-east-1.amazonaws.com/sagemaker-scikit-learn:1.2-1"


class Registry:
    """A group, and what tests do with it."""

    def __init__(self, cloud: Any) -> None:
        self.cloud, self.api, self.group = cloud, cloud.client("sagemaker"), cloud.name("mlops")
        self.bucket = cloud.bucket()
        cloud.client("s3").put_object(Bucket=self.bucket, Key="model.tar.gz", Body=b"model")
        made = self.api.create_model_package_group(
            ModelPackageGroupName=self.group, Tags=[{"Key": "team", "Value": "x"}]
        )
        self.arn = made["ModelPackageGroupArn"]

    def specification(self, image: str = STOCK, key: str = "model.tar.gz") -> dict:
        return {
            "Containers": [{"Image": image, "ModelDataUrl": f"s3://{self.bucket}/{key}"}],
            "SupportedContentTypes": ["text/csv"],
            "SupportedResponseMIMETypes": ["text/csv"],
        }

    def register(self, **more: Any) -> str:
        """A new version, completed; its ARN."""
        request = {"InferenceSpecification": self.specification(), **more}
        arn = self.api.create_model_package(ModelPackageGroupName=self.group, **request)["ModelPackageArn"]
        self.cloud.wait(lambda: self.look(arn)["ModelPackageStatus"] == "Completed", 10, arn)
        return arn

    def look(self, arn: str) -> dict:
        return self.api.describe_model_package(ModelPackageName=arn)


@pytest.fixture
def registry(cloud: Any) -> Registry:
    return Registry(cloud)


def test_a_version_keeps_all_that_was_registered(registry: Registry) -> None:
    def source(name: str) -> dict:
        return {"ContentType": "application/json", "S3Uri": f"s3://{registry.bucket}/{name}"}

    quality = {"Statistics": source("evaluation.json"), "Constraints": source("model.json")}
    data = {"Statistics": source("statistics.json"), "Constraints": source("constraints.json")}
    metrics = {
        "ModelQuality": quality,
        "ModelDataQuality": data,
        "Bias": {"Report": source("bias.json"), "PreTrainingReport": source("before.json")},
        "Explainability": {"Report": source("shap.json")},
    }
    options = {"S3Uri": f"s3://{registry.bucket}/options.json"}  # a FileSource needs no content type
    drift = {
        "ModelQuality": quality,
        "ModelDataQuality": data,
        "Bias": {
            "ConfigFile": options,
            "PreTrainingConstraints": source("before.json"),
            "PostTrainingConstraints": source("after.json"),
        },
        "Explainability": {"ConfigFile": options, "Constraints": source("shap.json")},
    }
    cycle = {"Stage": "Development", "StageStatus": "InProgress", "StageDescription": "trained"}
    arn = registry.register(
        ModelMetrics=metrics,
        DriftCheckBaselines=drift,
        CustomerMetadataProperties={"commit": "abc"},
        ModelLifeCycle=cycle,
        MetadataProperties={"CommitId": "abc", "GeneratedBy": "a pipeline"},
    )
    version = registry.look(arn)
    assert arn.endswith(f"model-package/{registry.group}/1")
    assert (version["ModelPackageVersion"], version["ModelApprovalStatus"]) == (1, "PendingManualApproval")
    assert (version["ModelMetrics"], version["DriftCheckBaselines"]) == (metrics, drift)
    assert (version["CustomerMetadataProperties"], version["ModelLifeCycle"]) == ({"commit": "abc"}, cycle)
    assert version["InferenceSpecification"] == registry.specification()
    assert version["CreatedBy"]["IamIdentity"]["Arn"].endswith(":root")


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"ModelMetrics": {"Bias": {"Report": {"ContentType": "text/json", "S3Uri": "bias.json"}}}}, "s3Uri"),
        (
            {"DriftCheckBaselines": {"Explainability": {"ConfigFile": {"S3Uri": "s3://b/" + "x" * 1020}}}},
            "length less than or equal to 1024",
        ),
        (
            {"CustomerMetadataProperties": {"retraining_reason": "age, job drifted"}},
            "regular expression pattern",
        ),
        (
            {"CustomerMetadataProperties": {"retraining_reason": "x" * 257}},
            "length less than or equal to 256",
        ),
    ],
    ids=["no address", "a long address", "a comma in the metadata", "long metadata"],
)
def test_what_the_registry_does_not_take(registry: Registry, request_: dict, message: str) -> None:
    with pytest.raises(ClientError, match=f"(?i){message}") as error:
        registry.register(**request_)
    assert error.value.response["Error"]["Code"] == "ValidationException"


def test_approval_is_an_event_that_names_what_changed(registry: Registry) -> None:
    events = registry.cloud.listen(
        source=["aws.sagemaker"],
        **{"detail-type": ["SageMaker Model Package State Change"]},
        detail={"ModelPackageGroupName": [registry.group]},
    )
    arn = registry.register()
    (made,) = registry.cloud.wait(events, 10, "event of the new version")
    assert made["detail"]["ModelApprovalStatus"] == "PendingManualApproval"
    assert made["resources"] == [arn]
    assert "UpdatedModelPackageFields" not in made["detail"]

    registry.api.update_model_package(
        ModelPackageArn=arn, ModelApprovalStatus="Approved", ApprovalDescription="good enough"
    )
    registry.cloud.wait(lambda: len(events()) == 2, 10, "event of the approval")
    detail = events()[1]["detail"]
    assert (detail["ModelApprovalStatus"], detail["ModelPackageVersion"]) == ("Approved", 1)
    assert sorted(detail["UpdatedModelPackageFields"]) == ["ApprovalDescription", "ModelApprovalStatus"]

    registry.api.update_model_package(ModelPackageArn=arn, CustomerMetadataProperties={"note": "x"})
    registry.cloud.wait(lambda: len(events()) == 3, 10, "event of the metadata")
    assert events()[2]["detail"]["UpdatedModelPackageFields"] == ["CustomerMetadataProperties"]
    assert registry.look(arn)["ApprovalDescription"] == "good enough"


def test_only_the_wanted_changes_reach_a_rule(registry: Registry) -> None:
    approved = registry.cloud.listen(
        source=["aws.sagemaker"],
        detail={
            "ModelPackageGroupName": [registry.group],
            "ModelApprovalStatus": ["Approved", "Rejected"],
            "UpdatedModelPackageFields": ["ModelApprovalStatus"],
        },
    )
    arn = registry.register()
    registry.api.update_model_package(ModelPackageArn=arn, ModelApprovalStatus="Rejected")
    registry.api.update_model_package(ModelPackageArn=arn, CustomerMetadataProperties={"a": "b"})
    registry.cloud.wait(approved, 10, "event of the rejection")
    assert [e["detail"]["ModelApprovalStatus"] for e in approved()] == ["Rejected"]


def test_versions_are_listed_filtered_and_paged(registry: Registry) -> None:
    arns = [registry.register() for _ in range(3)]
    registry.api.update_model_package(ModelPackageArn=arns[1], ModelApprovalStatus="Approved")

    def versions(**filters: Any) -> list[int]:
        found = registry.api.list_model_packages(ModelPackageGroupName=registry.group, **filters)
        return [p["ModelPackageVersion"] for p in found["ModelPackageSummaryList"]]

    assert versions() == [3, 2, 1]
    assert versions(SortOrder="Ascending") == [1, 2, 3]
    assert versions(ModelApprovalStatus="Approved") == [2]
    pages = registry.api.get_paginator("list_model_packages").paginate(
        ModelPackageGroupName=registry.group, PaginationConfig={"PageSize": 1}
    )
    assert [p["ModelPackageVersion"] for page in pages for p in page["ModelPackageSummaryList"]] == [3, 2, 1]
    registry.api.delete_model_package(ModelPackageName=arns[2])
    assert registry.register().endswith("/4")  # a version's number is not given twice
    found = registry.api.batch_describe_model_package(ModelPackageArnList=[arns[0], arns[2]])
    assert list(found["ModelPackageSummaries"]) == [arns[0]]
    assert list(found["BatchDescribeModelPackageErrorMap"]) == [arns[2]]
    search = registry.api.search(
        Resource="ModelPackage",
        SearchExpression={
            "Filters": [
                {"Name": "ModelPackageGroupName", "Operator": "Equals", "Value": registry.group},
                {"Name": "ModelApprovalStatus", "Operator": "Equals", "Value": "Approved"},
            ]
        },
    )
    assert [r["ModelPackage"]["ModelPackageVersion"] for r in search["Results"]] == [2]


@pytest.mark.parametrize(
    ("image", "key", "reason"),
    [
        (STOCK, "none.tar.gz", "Could not find model data"),
        (f"{OWN}/no-such-repository:1", "model.tar.gz", "repository of your image"),
        (f"{OWN.replace('east', 'west')}/x:1", "model.tar.gz", "region"),
    ],
    ids=["model data", "repository", "region"],
)
def test_what_a_version_names_must_exist(registry: Registry, image: str, key: str, reason: str) -> None:
    with pytest.raises(ClientError, match=reason):
        registry.register(InferenceSpecification=registry.specification(image, key))


def test_an_image_of_the_account_is_pinned_by_its_digest(registry: Registry) -> None:
    ecr, name = registry.cloud.client("ecr"), registry.cloud.name("mlops")
    ecr.create_repository(repositoryName=name)
    with pytest.raises(ClientError, match="not found"):
        registry.register(InferenceSpecification=registry.specification(f"{OWN}/{name}:1"))
    manifest = '{"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json"}'
    pushed = ecr.put_image(repositoryName=name, imageManifest=manifest, imageTag="1")["image"]["imageId"]
    arn = registry.register(InferenceSpecification=registry.specification(f"{OWN}/{name}:1"))
    (container,) = registry.look(arn)["InferenceSpecification"]["Containers"]
    assert container["ImageDigest"] == pushed["imageDigest"]


def test_the_group_must_exist(registry: Registry) -> None:
    with pytest.raises(ClientError, match="does not exist"):
        registry.api.create_model_package(ModelPackageGroupName="nowhere")
    with pytest.raises(ClientError, match="does not exist"):
        registry.api.list_model_packages(ModelPackageGroupName="nowhere")


def test_a_group_is_unique_and_not_deleted_with_versions(registry: Registry) -> None:
    with pytest.raises(ClientError, match="Model Package Group already exists"):
        registry.api.create_model_package_group(ModelPackageGroupName=registry.group)
    arn = registry.register()
    with pytest.raises(ClientError, match="still contains Model Packages"):
        registry.api.delete_model_package_group(ModelPackageGroupName=registry.group)
    registry.api.delete_model_package(ModelPackageName=arn)
    registry.api.delete_model_package_group(ModelPackageGroupName=registry.arn)
    with pytest.raises(ClientError, match="does not exist"):
        registry.api.describe_model_package_group(ModelPackageGroupName=registry.group)


def test_an_unversioned_package_has_no_approval(registry: Registry) -> None:
    name = registry.cloud.name("single")
    arn = registry.api.create_model_package(
        ModelPackageName=name, InferenceSpecification=registry.specification()
    )["ModelPackageArn"]
    found = registry.api.list_model_packages(NameContains=name)["ModelPackageSummaryList"]
    assert [p["ModelPackageName"] for p in found] == [name]
    with pytest.raises(ClientError, match="not a version"):
        registry.api.update_model_package(ModelPackageArn=arn, ModelApprovalStatus="Approved")


def test_tags_are_added_listed_and_removed(registry: Registry) -> None:
    api, arn = registry.api, registry.arn
    api.add_tags(ResourceArn=arn, Tags=[{"Key": "b", "Value": "2"}])
    assert api.list_tags(ResourceArn=arn)["Tags"] == [
        {"Key": "team", "Value": "x"},
        {"Key": "b", "Value": "2"},
    ]
    api.delete_tags(ResourceArn=arn, TagKeys=["team"])
    assert api.list_tags(ResourceArn=arn)["Tags"] == [{"Key": "b", "Value": "2"}]
    with pytest.raises(ClientError, match="does not exist"):
        api.list_tags(ResourceArn=f"{arn}-none")


def test_a_stack_makes_a_group_with_policy_and_a_version(registry: Registry) -> None:
    group = registry.cloud.name("cfn")

    def resources(action: str, approval: str, team: str) -> dict[str, Any]:
        statement = {
            "Effect": "Allow",
            "Principal": {"AWS": "arn:aws:iam::123456789012:root"},
            "Action": action,
            "Resource": "*",
        }
        return {
            "Group": {
                "Type": "AWS::SageMaker::ModelPackageGroup",
                "Properties": {
                    "ModelPackageGroupName": group,
                    "ModelPackageGroupPolicy": {"Version": "2012-10-17", "Statement": [statement]},
                    "Tags": [{"Key": "team", "Value": team}],
                },
            },
            "Package": {
                "Type": "AWS::SageMaker::ModelPackage",
                "DependsOn": "Group",
                "Properties": {
                    "ModelPackageGroupName": group,
                    "InferenceSpecification": registry.specification(),
                    "ModelApprovalStatus": approval,
                },
            },
        }

    outputs = {
        "Group": {"Value": {"Fn::GetAtt": ["Group", "ModelPackageGroupArn"]}},
        "Package": {"Value": {"Ref": "Package"}},
    }
    api, cloud = registry.api, registry.cloud
    stack = cloud.stack(
        resources("sagemaker:DescribeModelPackageGroup", "PendingManualApproval", "x"), outputs
    )
    before = cloud.outputs(stack)
    cloud.stack(resources("sagemaker:ListModelPackages", "Approved", "y"), outputs, stack)
    assert cloud.outputs(stack) == before
    policy = api.get_model_package_group_policy(ModelPackageGroupName=group)["ResourcePolicy"]
    assert "ListModelPackages" in policy
    assert registry.look(before["Package"])["ModelApprovalStatus"] == "Approved"
    assert {"Key": "team", "Value": "y"} in api.list_tags(ResourceArn=before["Group"])["Tags"]
    assert cloud.delete_stack(stack) == ""
    with pytest.raises(ClientError, match="does not exist"):
        api.describe_model_package_group(ModelPackageGroupName=group)
