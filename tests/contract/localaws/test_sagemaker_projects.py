"""SageMaker Projects: a product launched with the project's name and id, as the one who asked for it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

BUSY = ("Pending", "CreateInProgress", "UpdateInProgress", "DeleteInProgress")
TEMPLATE = {
    "Parameters": {
        "SageMakerProjectName": {"Type": "String"},
        "SageMakerProjectId": {"Type": "String"},
        "Days": {"Type": "Number", "Default": 30},
    },
    "Resources": {
        "Group": {
            "Type": "AWS::SageMaker::ModelPackageGroup",
            "Properties": {"ModelPackageGroupName": {"Fn::Sub": "mlops-${SageMakerProjectId}"}},
        },
        "Logs": {
            "Type": "AWS::Logs::LogGroup",
            "DependsOn": "Group",
            "Properties": {"RetentionInDays": {"Ref": "Days"}},
        },
    },
}


class Projects:
    """A product for projects, and what tests do with it."""

    def __init__(self, cloud: Any) -> None:
        self.cloud, self.api = cloud, cloud.client("sagemaker")
        self.url = self.publish(TEMPLATE)
        listing = [{"Name": "v1", "Info": {"LoadTemplateFromURL": self.url}}]
        both = {"PortfolioId": {"Ref": "Portfolio"}, "ProductId": {"Ref": "Product"}}
        resources = {
            "Portfolio": {
                "Type": "AWS::ServiceCatalog::Portfolio",
                "Properties": {"DisplayName": "P", "ProviderName": "x"},
            },
            "Product": {
                "Type": "AWS::ServiceCatalog::CloudFormationProduct",
                "Properties": {"Name": "Prod", "Owner": "x", "ProvisioningArtifactParameters": listing},
            },
            "Association": {
                "Type": "AWS::ServiceCatalog::PortfolioProductAssociation",
                "Properties": both,
            },
            "Launch": {
                "Type": "AWS::ServiceCatalog::LaunchRoleConstraint",
                "DependsOn": "Association",
                "Properties": {**both, "RoleArn": cloud.role("servicecatalog")},
            },
        }
        outputs = {"Product": {"Value": {"Ref": "Product"}}, "Portfolio": {"Value": {"Ref": "Portfolio"}}}
        made = cloud.outputs(cloud.stack(resources, outputs))
        self.product, self.portfolio = made["Product"], made["Portfolio"]

    def publish(self, template: dict) -> str:
        bucket = self.cloud.bucket()
        self.cloud.client("s3").put_object(Bucket=bucket, Key="project.json", Body=json.dumps(template))
        return f"https://{bucket}.s3.us-east-1.amazonaws.com/project.json"

    def details(self, **parameters: str) -> dict:
        values = [{"Key": k, "Value": v} for k, v in parameters.items()]
        return {"ProductId": self.product, "ProvisioningParameters": values}

    def create(self, name: str, api: Any = None, **parameters: str) -> dict:
        details = self.details(**parameters)
        (api or self.api).create_project(ProjectName=name, ServiceCatalogProvisioningDetails=details)
        return self.ended(name)

    def ended(self, name: str) -> dict:
        def look() -> dict | None:
            found = self.api.describe_project(ProjectName=name)
            return found if found["ProjectStatus"] not in BUSY else None

        return self.cloud.wait(look, 30, name)

    def delete(self, name: str) -> dict:
        self.api.delete_project(ProjectName=name)
        return self.ended(name)


@pytest.fixture(scope="module")
def projects(cloud: Any) -> Projects:
    return Projects(cloud)


def test_a_project_is_a_product_with_the_projects_name_and_id(projects: Projects) -> None:
    name = projects.cloud.name("Demo")
    project = projects.create(name)
    assert project["ProjectStatus"] == "CreateCompleted"
    assert re.fullmatch(r"p-[a-z0-9]{12}", project["ProjectId"])
    catalog = projects.cloud.client("servicecatalog")
    product = project["ServiceCatalogProvisionedProductDetails"]["ProvisionedProductId"]
    launched = catalog.describe_provisioned_product(Id=product)["ProvisionedProductDetail"]
    assert (launched["Name"], launched["Status"]) == (f"{name}-{project['ProjectId']}", "AVAILABLE")
    cloudformation = projects.cloud.client("cloudformation")
    stack = cloudformation.describe_stacks(StackName=f"SC-{projects.cloud.account}-{product}")["Stacks"][0]
    values = {p["ParameterKey"]: p["ParameterValue"] for p in stack["Parameters"]}
    assert (values["SageMakerProjectName"], values["SageMakerProjectId"]) == (name, project["ProjectId"])
    own = [
        {"Key": "sagemaker:project-name", "Value": name},
        {"Key": "sagemaker:project-id", "Value": project["ProjectId"]},
    ]
    assert all(tag in stack["Tags"] for tag in own)
    group = projects.api.describe_model_package_group(ModelPackageGroupName=f"mlops-{project['ProjectId']}")
    tags = projects.api.list_tags(ResourceArn=group["ModelPackageGroupArn"])["Tags"]
    assert all(tag in tags for tag in own)

    assert projects.delete(name)["ProjectStatus"] == "DeleteCompleted"
    assert projects.cloud.stack_status(stack["StackName"]) == ""
    assert projects.create(name)["ProjectId"] != project["ProjectId"]  # the name is free again
    projects.delete(name)


def test_two_projects_live_side_by_side(projects: Projects) -> None:
    names = [projects.cloud.name("side") for _ in range(2)]
    ids = {projects.create(name)["ProjectId"] for name in names}
    assert len(ids) == 2
    listed = projects.api.list_projects(NameContains="side")["ProjectSummaryList"]
    assert {p["ProjectName"] for p in listed} >= set(names)
    for name in names:
        projects.delete(name)


def test_a_failed_project_tells_the_resource_and_the_reason(projects: Projects) -> None:
    name = projects.cloud.name("fails")
    project = projects.create(name, Days="2")
    assert project["ProjectStatus"] == "CreateFailed"
    message = project["ServiceCatalogProvisionedProductDetails"]["ProvisionedProductStatusMessage"]
    assert "[Logs]" in message and "RetentionInDays" in message
    assert projects.delete(name)["ProjectStatus"] == "DeleteCompleted"


def test_names_are_checked(projects: Projects) -> None:
    for name in ("has_underscore", "-dash", "x" * 33):
        with pytest.raises(ClientError, match="ValidationException"):
            projects.create(name)
    name = projects.cloud.name("once")
    projects.create(name)
    with pytest.raises(ClientError, match="already exists"):
        projects.create(name)
    projects.delete(name)


def test_the_product_must_exist(projects: Projects) -> None:
    details = {"ProductId": "prod-doesnotexist"}
    with pytest.raises(ClientError, match="prod-doesnotexist"):
        projects.api.create_project(ProjectName="none", ServiceCatalogProvisioningDetails=details)
    with pytest.raises(ClientError, match="does not exist"):
        projects.api.describe_project(ProjectName="none")


def test_the_caller_needs_the_portfolio(projects: Projects) -> None:
    cloud = projects.cloud
    root = {"AWS": f"arn:aws:iam::{cloud.account}:root"}
    statement = {"Effect": "Allow", "Principal": root, "Action": "sts:AssumeRole"}
    trust = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    role = cloud.client("iam").create_role(RoleName=cloud.name("ds"), AssumeRolePolicyDocument=trust)
    cloud.allow_all(role["Role"]["RoleName"])
    keys = cloud.client("sts").assume_role(RoleArn=role["Role"]["Arn"], RoleSessionName="jane")["Credentials"]
    client = cloud.client(
        "sagemaker",
        aws_access_key_id=keys["AccessKeyId"],
        aws_secret_access_key=keys["SecretAccessKey"],
        aws_session_token=keys["SessionToken"],
    )
    name = cloud.name("ds")
    with pytest.raises(ClientError, match="No launch paths found"):
        projects.create(name, client)
    cloud.client("servicecatalog").associate_principal_with_portfolio(
        PortfolioId=projects.portfolio, PrincipalARN=role["Role"]["Arn"], PrincipalType="IAM"
    )
    project = projects.create(name, client)
    assert project["ProjectStatus"] == "CreateCompleted"
    assert project["CreatedBy"]["IamIdentity"]["Arn"].endswith("/jane")
    projects.delete(name)


def test_an_update_changes_parameters_and_keeps_the_id(projects: Projects) -> None:
    name = projects.cloud.name("updated")
    project = projects.create(name)

    def update(days: str) -> dict:
        details = {"ProvisioningParameters": [{"Key": "Days", "Value": days}]}
        projects.api.update_project(ProjectName=name, ServiceCatalogProvisioningUpdateDetails=details)
        return projects.ended(name)

    assert update("2")["ProjectStatus"] == "UpdateFailed"
    changed = update("60")
    assert (changed["ProjectStatus"], changed["ProjectId"]) == ("UpdateCompleted", project["ProjectId"])
    projects.delete(name)


def test_a_project_with_model_versions_is_not_deleted(projects: Projects) -> None:
    name = projects.cloud.name("kept")
    project = projects.create(name)
    made = projects.api.create_model_package(ModelPackageGroupName=f"mlops-{project['ProjectId']}")
    failed = projects.delete(name)
    assert failed["ProjectStatus"] == "DeleteFailed"
    assert "[Group]" in failed["ServiceCatalogProvisionedProductDetails"]["ProvisionedProductStatusMessage"]
    projects.api.delete_model_package(ModelPackageName=made["ModelPackageArn"])
    assert projects.delete(name)["ProjectStatus"] == "DeleteCompleted"


def test_a_template_in_s3_makes_a_project_too(projects: Projects) -> None:
    name, role = projects.cloud.name("s3"), projects.cloud.role("cloudformation")
    provider = {
        "TemplateName": "mlops",
        "TemplateURL": projects.url,
        "RoleARN": role,
        "Parameters": [{"Key": "Days", "Value": "60"}],
    }
    projects.api.create_project(ProjectName=name, TemplateProviders=[{"CfnTemplateProvider": provider}])
    project = projects.ended(name)
    assert project["ProjectStatus"] == "CreateCompleted"
    detail = project["TemplateProviderDetails"][0]["CfnTemplateProviderDetail"]
    assert projects.cloud.stack_status(detail["StackDetail"]["Name"]) == "CREATE_COMPLETE"
    assert projects.delete(name)["ProjectStatus"] == "DeleteCompleted"
    assert projects.cloud.stack_status(detail["StackDetail"]["Name"]) == ""


def test_a_stack_makes_and_deletes_a_project(projects: Projects) -> None:
    def resources(name: str, **parameters: str) -> dict[str, Any]:
        properties = {
            "ProjectName": name,
            "ServiceCatalogProvisioningDetails": projects.details(**parameters),
        }
        return {"Project": {"Type": "AWS::SageMaker::Project", "Properties": properties}}

    name = projects.cloud.name("cfn")
    stack = projects.cloud.stack(resources(name), {"Id": {"Value": {"Fn::GetAtt": ["Project", "ProjectId"]}}})
    project = projects.api.describe_project(ProjectName=name)
    assert projects.cloud.outputs(stack)["Id"] == project["ProjectId"]
    assert projects.cloud.delete_stack(stack) == ""
    assert projects.api.describe_project(ProjectName=name)["ProjectStatus"] == "DeleteCompleted"
    with pytest.raises(AssertionError, match="RetentionInDays"):
        projects.cloud.stack(resources(projects.cloud.name("cfn"), Days="2"))


@pytest.mark.parametrize("repeat", [1, 2])
def test_the_stock_templates_are_switched_on_and_off(projects: Projects, repeat: int) -> None:
    api, catalog = projects.api, projects.cloud.client("servicecatalog")

    def shared() -> list[str]:
        return [p["ProviderName"] for p in catalog.list_accepted_portfolio_shares()["PortfolioDetails"]]

    state: Callable[[], str] = lambda: api.get_sagemaker_servicecatalog_portfolio_status()["Status"]  # noqa: E731
    assert state() == "Disabled"
    api.enable_sagemaker_servicecatalog_portfolio()
    assert (state(), shared()) == ("Enabled", ["Amazon SageMaker"])
    api.disable_sagemaker_servicecatalog_portfolio()
