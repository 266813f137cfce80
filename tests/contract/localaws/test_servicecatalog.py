"""Service Catalog: who may launch what, how it is provisioned, and how it fails."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from botocore.exceptions import ClientError

TEMPLATE = {
    "Parameters": {
        "Name": {"Type": "String", "Description": "What it is called", "AllowedPattern": "[a-z-]+"},
        "Days": {"Type": "Number", "Default": 30},
        "Secret": {"Type": "String", "Default": "x", "NoEcho": True},
    },
    "Resources": {
        "Topic": {"Type": "AWS::SNS::Topic", "Properties": {"DisplayName": {"Ref": "Name"}}},
        "Logs": {
            "Type": "AWS::Logs::LogGroup",
            "DependsOn": "Topic",
            "Properties": {"RetentionInDays": {"Ref": "Days"}},
        },
    },
    "Outputs": {"TopicArn": {"Description": "The topic", "Value": {"Ref": "Topic"}}},
}


@dataclass
class Catalog:
    """A portfolio with one product."""

    cloud: Any
    portfolio: str
    product: str
    version: str
    bucket: str

    @property
    def api(self) -> Any:
        return self.cloud.client("servicecatalog")

    def url(self, template: dict[str, Any], key: str = "") -> str:
        """Where a template lies, as AWS wants it written."""
        key = key or f"{self.cloud.name('v')}.json"
        self.cloud.client("s3").put_object(Bucket=self.bucket, Key=key, Body=json.dumps(template))
        return f"https://{self.bucket}.s3.us-east-1.amazonaws.com/{key}"

    def constrain(self, kind: str, **parameters: Any) -> str:
        made = self.api.create_constraint(
            PortfolioId=self.portfolio, ProductId=self.product, Type=kind, Parameters=json.dumps(parameters)
        )
        return made["ConstraintDetail"]["ConstraintId"]

    def launch(self, name: str, api: Any = None, tags: dict | None = None, **parameters: str) -> dict:
        """Provision and wait; the record."""
        record = (api or self.api).provision_product(
            ProductId=self.product,
            ProvisioningArtifactId=self.version,
            ProvisionedProductName=name,
            ProvisioningParameters=listed(parameters),
            Tags=listed(tags or {}),
        )
        return self.ended(record)

    def update(self, name: str, **parameters: str) -> dict:
        record = self.api.update_provisioned_product(
            ProvisionedProductName=name, ProvisioningParameters=listed(parameters)
        )
        return self.ended(record)

    def terminate(self, name: str, **options: Any) -> dict:
        return self.ended(self.api.terminate_provisioned_product(ProvisionedProductName=name, **options))

    def ended(self, answer: dict) -> dict:
        def look() -> dict | None:
            found = self.api.describe_record(Id=answer["RecordDetail"]["RecordId"])
            return found if found["RecordDetail"]["Status"] in ("SUCCEEDED", "FAILED") else None

        found = self.cloud.wait(look, 30, "record")
        outputs = {o["OutputKey"]: o["OutputValue"] for o in found.get("RecordOutputs", [])}
        return {**found["RecordDetail"], "Outputs": outputs}

    def state(self, name: str) -> dict:
        return self.api.describe_provisioned_product(Name=name)["ProvisionedProductDetail"]

    def stack(self, name: str) -> dict:
        stack = f"SC-{self.cloud.account}-{self.state(name)['Id']}"
        return self.cloud.client("cloudformation").describe_stacks(StackName=stack)["Stacks"][0]


def listed(values: dict[str, str]) -> list[dict[str, str]]:
    return [{"Key": k, "Value": v} for k, v in values.items()]


def refused(call: Callable, code: str, **arguments: Any) -> str:
    """The message with which a call is refused."""
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    assert caught.value.response["Error"]["Code"] == code, caught.value
    return caught.value.response["Error"]["Message"]


@pytest.fixture
def catalog(cloud: Any) -> Catalog:
    api, bucket = cloud.client("servicecatalog"), cloud.bucket()
    portfolio = api.create_portfolio(
        DisplayName="MLOps", ProviderName="Platform", Tags=listed({"owner": "ml"})
    )
    made = Catalog(cloud, portfolio["PortfolioDetail"]["Id"], "", "", bucket)
    product = api.create_product(
        Name=cloud.name("product"),
        Owner="Platform",
        ProductType="CLOUD_FORMATION_TEMPLATE",
        Tags=listed({"sagemaker:studio-visibility": "true"}),
        ProvisioningArtifactParameters={
            "Name": "v1",
            "Type": "CLOUD_FORMATION_TEMPLATE",
            "Info": {"LoadTemplateFromURL": made.url(TEMPLATE, "v1.json")},
        },
    )
    made.product = product["ProductViewDetail"]["ProductViewSummary"]["ProductId"]
    made.version = product["ProvisioningArtifactDetail"]["Id"]
    api.associate_product_with_portfolio(PortfolioId=made.portfolio, ProductId=made.product)
    return made


@pytest.fixture
def role_client(cloud: Any) -> Callable[..., tuple[str, Any]]:
    """A new role and a client of Service Catalog under it."""

    def make(path: str = "/", service: str = "servicecatalog") -> tuple[str, Any]:
        trust = {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Principal": {"AWS": f"arn:aws:iam::{cloud.account}:root"},
                    "Action": "sts:AssumeRole",
                }
            ],
        }
        role = cloud.client("iam").create_role(
            RoleName=cloud.name("user"), Path=path, AssumeRolePolicyDocument=json.dumps(trust)
        )["Role"]["Arn"]
        cloud.allow_all(role.rpartition("/")[2])
        keys = cloud.client("sts").assume_role(RoleArn=role, RoleSessionName="jane")["Credentials"]
        client = cloud.client(
            service,
            aws_access_key_id=keys["AccessKeyId"],
            aws_secret_access_key=keys["SecretAccessKey"],
            aws_session_token=keys["SessionToken"],
        )
        return role, client

    return make


# -- launching -------------------------------------------------------------------------------------
def test_a_product_is_launched_as_a_stack_under_its_launch_role(catalog: Catalog) -> None:
    role = catalog.cloud.role("servicecatalog")
    catalog.constrain("LAUNCH", RoleArn=role)
    record = catalog.launch("under-role", Name="demo", tags={"team": "x"})
    assert (record["Status"], record["RecordType"]) == ("SUCCEEDED", "PROVISION_PRODUCT")
    state, stack = catalog.state("under-role"), catalog.stack("under-role")
    assert (state["Status"], state["LaunchRoleArn"]) == ("AVAILABLE", role)
    assert record["Outputs"]["CloudformationStackARN"] == stack["StackId"]
    assert record["Outputs"]["TopicArn"].startswith("arn:aws:sns:")
    tags = {t["Key"]: t["Value"] for t in stack["Tags"]}
    assert {"owner": "ml", "sagemaker:studio-visibility": "true", "team": "x"}.items() <= tags.items()
    assert tags["aws:servicecatalog:provisionedProductArn"] == state["Arn"]
    got = catalog.api.get_provisioned_product_outputs(
        ProvisionedProductName="under-role", OutputKeys=["TopicArn"]
    )
    assert [o["OutputValue"] for o in got["Outputs"]] == [record["Outputs"]["TopicArn"]]
    calls = catalog.cloud.client("sns").list_tags_for_resource(ResourceArn=record["Outputs"]["TopicArn"])
    assert {"Key": "team", "Value": "x"} in calls["Tags"]
    assert catalog.terminate("under-role")["Status"] == "SUCCEEDED"
    assert catalog.cloud.stack_status(stack["StackName"]) == ""
    refused(catalog.state, "ResourceNotFoundException", name="under-role")


def test_a_launch_role_that_service_catalog_cannot_assume_is_refused(catalog: Catalog) -> None:
    catalog.constrain("LAUNCH", RoleArn=catalog.cloud.role("lambda"))
    with pytest.raises(ClientError, match="Access denied while assuming the role"):
        catalog.launch("no-trust", Name="demo")


def test_a_failed_launch_ends_in_error_with_the_first_reason(catalog: Catalog) -> None:
    record = catalog.launch("fails", Name="demo", Days="2")
    assert record["Status"] == "FAILED"
    (error,) = record["RecordErrors"]
    assert "[Logs]" in error["Description"] and "RetentionInDays" in error["Description"]
    state = catalog.state("fails")
    assert (state["Status"], state["StatusMessage"]) == ("ERROR", error["Description"])
    assert catalog.terminate("fails")["Status"] == "SUCCEEDED"


def test_parameters_that_the_template_refuses_fail_the_record(catalog: Catalog) -> None:
    record = catalog.launch("bad-parameter", Name="Not Allowed")
    assert record["Status"] == "FAILED"
    assert "Name" in record["RecordErrors"][0]["Description"]
    assert catalog.state("bad-parameter")["Status"] == "ERROR"
    catalog.terminate("bad-parameter")


def test_a_failed_update_taints_and_a_good_one_heals(catalog: Catalog) -> None:
    catalog.launch("updated", Name="demo")
    assert catalog.update("updated", Name="demo", Days="2")["Status"] == "FAILED"
    assert catalog.state("updated")["Status"] == "TAINTED"
    record = catalog.update("updated", Name="other", Days="60")
    assert (record["Status"], record["RecordType"]) == ("SUCCEEDED", "UPDATE_PROVISIONED_PRODUCT")
    state = catalog.state("updated")
    assert state["Status"] == "AVAILABLE"
    assert state["LastSuccessfulProvisioningRecordId"] == record["RecordId"]
    assert catalog.update("updated", Name="other", Days="60")["Status"] == "SUCCEEDED"  # nothing to change
    history = catalog.api.list_record_history(
        SearchFilter={"Key": "provisionedproduct", "Value": state["Id"]}
    )
    assert [r["Status"] for r in history["RecordDetails"]] == [
        "SUCCEEDED",
        "SUCCEEDED",
        "FAILED",
        "SUCCEEDED",
    ]
    catalog.terminate("updated")


def test_a_repeated_token_launches_once(catalog: Catalog) -> None:
    request = {
        "ProductId": catalog.product,
        "ProvisioningArtifactId": catalog.version,
        "ProvisionedProductName": "twice",
        "ProvisioningParameters": listed({"Name": "demo"}),
        "ProvisionToken": "same",
    }
    first, second = (catalog.api.provision_product(**request)["RecordDetail"] for _ in range(2))
    assert first["RecordId"] == second["RecordId"]
    message = refused(
        catalog.api.provision_product, "DuplicateResourceException", **{**request, "ProvisionToken": "other"}
    )
    assert "twice" in message
    catalog.ended({"RecordDetail": first})
    catalog.terminate("twice")


def test_tags_change_only_where_a_constraint_allows_it(catalog: Catalog) -> None:
    catalog.launch("tagged", Name="demo")
    request = {
        "ProvisionedProductName": "tagged",
        "ProvisioningParameters": listed({"Name": "demo"}),
        "Tags": listed({"team": "y"}),
    }
    message = refused(catalog.api.update_provisioned_product, "InvalidParametersException", **request)
    assert "RESOURCE_UPDATE" in message
    values = {"Version": "2.0", "Properties": {"TagUpdateOnProvisionedProduct": "ALLOWED"}}
    catalog.constrain("RESOURCE_UPDATE", **values)
    assert catalog.ended(catalog.api.update_provisioned_product(**request))["Status"] == "SUCCEEDED"
    assert {"Key": "team", "Value": "y"} in catalog.stack("tagged")["Tags"]
    catalog.terminate("tagged")


def test_rules_of_a_template_constraint_hold_at_launch(catalog: Catalog) -> None:
    rule = {
        "Assertions": [
            {
                "Assert": {"Fn::Not": [{"Fn::Equals": [{"Ref": "Name"}, "root"]}]},
                "AssertDescription": "never root",
            }
        ]
    }
    catalog.constrain("TEMPLATE", Rules={"NotRoot": rule})
    record = catalog.launch("ruled", Name="root")
    assert record["Status"] == "FAILED" and "never root" in record["RecordErrors"][0]["Description"]
    catalog.terminate("ruled")
    assert catalog.launch("ruled", Name="demo")["Status"] == "SUCCEEDED"
    catalog.terminate("ruled")


def test_terminating_can_keep_the_stack(catalog: Catalog) -> None:
    catalog.launch("kept", Name="demo")
    stack = catalog.stack("kept")["StackName"]
    catalog.terminate("kept", RetainPhysicalResources=True)
    assert catalog.cloud.stack_status(stack) == "CREATE_COMPLETE"
    catalog.cloud.delete_stack(stack)


def test_a_stack_that_cannot_be_deleted_taints(catalog: Catalog) -> None:
    bucket = {
        "Resources": {"Bucket": {"Type": "AWS::S3::Bucket"}},
        "Outputs": {"Bucket": {"Value": {"Ref": "Bucket"}}},
    }
    catalog.version = catalog.api.create_provisioning_artifact(
        ProductId=catalog.product,
        Parameters={"Name": "v2", "Info": {"LoadTemplateFromURL": catalog.url(bucket)}},
    )["ProvisioningArtifactDetail"]["Id"]
    name = catalog.launch("stuck")["Outputs"]["Bucket"]
    s3 = catalog.cloud.client("s3")
    s3.put_object(Bucket=name, Key="x", Body=b"x")
    record = catalog.terminate("stuck")
    assert record["Status"] == "FAILED" and "[Bucket]" in record["RecordErrors"][0]["Description"]
    assert catalog.state("stuck")["Status"] == "TAINTED"
    s3.delete_object(Bucket=name, Key="x")
    assert catalog.terminate("stuck")["Status"] == "SUCCEEDED"


# -- who may ---------------------------------------------------------------------------------------
def test_a_role_sees_and_launches_only_what_its_portfolios_hold(
    catalog: Catalog, role_client: Callable
) -> None:
    role, client = role_client()
    assert client.search_products()["ProductViewSummaries"] == []
    with pytest.raises(ClientError, match="No launch paths found"):
        catalog.launch("stranger", client, Name="demo")
    catalog.api.associate_principal_with_portfolio(
        PortfolioId=catalog.portfolio, PrincipalARN=role, PrincipalType="IAM"
    )
    assert [p["ProductId"] for p in client.search_products()["ProductViewSummaries"]] == [catalog.product]
    paths = client.list_launch_paths(ProductId=catalog.product)["LaunchPathSummaries"]
    assert [p["Name"] for p in paths] == ["MLOps"]
    assert catalog.launch("friend", client, Name="demo")["Status"] == "SUCCEEDED"
    assert [p["Name"] for p in client.scan_provisioned_products()["ProvisionedProducts"]] == ["friend"]
    catalog.terminate("friend")


def test_a_pattern_of_roles_grants_access_without_an_account(catalog: Catalog, role_client: Callable) -> None:
    _, inside = role_client("/mlops/projects/")
    _, outside = role_client("/other/")
    message = refused(
        catalog.api.associate_principal_with_portfolio,
        "InvalidParametersException",
        PortfolioId=catalog.portfolio,
        PrincipalARN=f"arn:aws:iam::{catalog.cloud.account}:role/mlops/*",
        PrincipalType="IAM_PATTERN",
    )
    assert "account" in message
    catalog.api.associate_principal_with_portfolio(
        PortfolioId=catalog.portfolio,
        PrincipalARN="arn:aws:iam:::role/mlops/projects/*",
        PrincipalType="IAM_PATTERN",
    )
    assert inside.describe_product(Id=catalog.product)["ProductViewSummary"]["ProductId"] == catalog.product
    refused(outside.describe_product, "ResourceNotFoundException", Id=catalog.product)


def test_a_principal_must_exist(catalog: Catalog) -> None:
    message = refused(
        catalog.api.associate_principal_with_portfolio,
        "InvalidParametersException",
        PortfolioId=catalog.portfolio,
        PrincipalARN=f"arn:aws:iam::{catalog.cloud.account}:role/nobody",
        PrincipalType="IAM",
    )
    assert "nobody" in message


def test_two_portfolios_make_the_path_a_choice(catalog: Catalog) -> None:
    other = catalog.api.create_portfolio(DisplayName="Other", ProviderName="x")["PortfolioDetail"]["Id"]
    catalog.api.associate_product_with_portfolio(PortfolioId=other, ProductId=catalog.product)
    with pytest.raises(ClientError, match="PathId is required"):
        catalog.launch("which", Name="demo")


# -- products and versions -------------------------------------------------------------------------
def test_a_version_keeps_its_template_when_the_source_changes(catalog: Catalog) -> None:
    catalog.url({"Resources": {"Queue": {"Type": "AWS::SQS::Queue"}}}, "v1.json")
    shown = catalog.api.describe_provisioning_parameters(
        ProductId=catalog.product, ProvisioningArtifactId=catalog.version
    )
    parameters = {p["ParameterKey"]: p for p in shown["ProvisioningArtifactParameters"]}
    assert parameters["Name"]["Description"] == "What it is called"
    assert parameters["Name"]["ParameterConstraints"]["AllowedPattern"] == "[a-z-]+"
    assert (parameters["Days"]["DefaultValue"], parameters["Secret"]["IsNoEcho"]) == ("30", True)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ({"Parameters": {}}, "Resources"),
        ({"Resources": {"A": {"Type": "AWS::SNS::Nothing"}}}, "AWS::SNS::Nothing"),
    ],
    ids=["empty", "unknown type"],
)
def test_an_invalid_template_makes_no_version(catalog: Catalog, template: dict, reason: str) -> None:
    parameters = {"Name": "bad", "Info": {"LoadTemplateFromURL": catalog.url(template)}}
    message = refused(
        catalog.api.create_provisioning_artifact,
        "InvalidParametersException",
        ProductId=catalog.product,
        Parameters=parameters,
    )
    assert reason in message


def test_a_template_must_be_there(catalog: Catalog) -> None:
    for url in (
        "https://example.com/a.yaml",
        f"https://{catalog.bucket}.s3.us-east-1.amazonaws.com/none.yaml",
    ):
        parameters = {"Name": "bad", "Info": {"LoadTemplateFromURL": url}}
        refused(
            catalog.api.create_provisioning_artifact,
            "InvalidParametersException",
            ProductId=catalog.product,
            Parameters=parameters,
        )


def test_an_inactive_version_cannot_be_launched(catalog: Catalog) -> None:
    catalog.api.update_provisioning_artifact(
        ProductId=catalog.product, ProvisioningArtifactId=catalog.version, Active=False
    )
    with pytest.raises(ClientError, match="not found"):
        catalog.launch("inactive", Name="demo")


def test_a_deprecated_version_serves_only_what_was_made_from_it(catalog: Catalog) -> None:
    assert catalog.launch("before", Name="demo")["Status"] == "SUCCEEDED"
    catalog.api.update_provisioning_artifact(
        ProductId=catalog.product, ProvisioningArtifactId=catalog.version, Guidance="DEPRECATED"
    )
    assert catalog.update("before", Name="demo", Days="14")["Status"] == "SUCCEEDED"
    with pytest.raises(ClientError, match="deprecated"):
        catalog.launch("after", Name="demo")


def test_what_is_in_use_is_not_deleted(catalog: Catalog) -> None:
    api, ids = catalog.api, {"PortfolioId": catalog.portfolio, "ProductId": catalog.product}
    constraint = catalog.constrain("LAUNCH", LocalRoleName="launch")
    assert catalog.product in refused(api.delete_portfolio, "ResourceInUseException", Id=catalog.portfolio)
    assert catalog.portfolio in refused(api.delete_product, "ResourceInUseException", Id=catalog.product)
    assert constraint in refused(api.disassociate_product_from_portfolio, "ResourceInUseException", **ids)
    version = {"ProductId": catalog.product, "ProvisioningArtifactId": catalog.version}
    refused(api.delete_provisioning_artifact, "ResourceInUseException", **version)
    api.delete_constraint(Id=constraint)
    api.disassociate_product_from_portfolio(**ids)
    api.delete_product(Id=catalog.product)
    api.delete_portfolio(Id=catalog.portfolio)
    refused(api.describe_portfolio, "ResourceNotFoundException", Id=catalog.portfolio)


def test_a_launch_constraint_takes_one_role_once(catalog: Catalog) -> None:
    both = {"RoleArn": catalog.cloud.role("servicecatalog"), "LocalRoleName": "x"}
    with pytest.raises(ClientError, match="either RoleArn or LocalRoleName"):
        catalog.constrain("LAUNCH", **both)
    catalog.constrain("LAUNCH", LocalRoleName="x")
    with pytest.raises(ClientError, match="DuplicateResourceException"):
        catalog.constrain("LAUNCH", LocalRoleName="y")


def test_tag_options_limit_and_complete_tags(catalog: Catalog) -> None:
    key = catalog.cloud.name("stage")
    options = [
        catalog.api.create_tag_option(Key=key, Value=v)["TagOptionDetail"]["Id"] for v in ("dev", "prod")
    ]
    catalog.api.associate_tag_option_with_resource(ResourceId=catalog.portfolio, TagOptionId=options[0])
    catalog.launch("completed", Name="demo")
    assert {"Key": key, "Value": "dev"} in catalog.stack("completed")["Tags"]
    catalog.terminate("completed")
    with pytest.raises(ClientError, match="must be one of the tag options dev"):
        catalog.launch("limited", Name="demo", tags={key: "test"})
    refused(catalog.api.delete_tag_option, "ResourceInUseException", Id=options[0])


def test_provisioned_products_are_found(catalog: Catalog) -> None:
    catalog.launch("found-one", Name="demo", tags={"project": "p-1"})
    for query in ("name:found-*", f"productId:{catalog.product}", "tags:project=p-1"):
        found = catalog.api.search_provisioned_products(
            Filters={"SearchQuery": [query]}, AccessLevelFilter={"Key": "Account", "Value": "self"}
        )
        assert [p["Name"] for p in found["ProvisionedProducts"]] == ["found-one"], query
    catalog.terminate("found-one")


# -- by CloudFormation -----------------------------------------------------------------------------
def product(*versions: tuple[str, str], **extra: Any) -> dict[str, Any]:
    """Resources of a portfolio with a product of these versions (name, URL)."""
    listing = [{"Name": n, "Info": {"LoadTemplateFromURL": u}} for n, u in versions]
    both = {"PortfolioId": {"Ref": "Portfolio"}, "ProductId": {"Ref": "Product"}}
    return {
        "Portfolio": {
            "Type": "AWS::ServiceCatalog::Portfolio",
            "Properties": {"DisplayName": "P", "ProviderName": "x"},
        },
        "Product": {
            "Type": "AWS::ServiceCatalog::CloudFormationProduct",
            "Properties": {"Name": "Prod", "Owner": "x", "ProvisioningArtifactParameters": listing, **extra},
        },
        "Association": {"Type": "AWS::ServiceCatalog::PortfolioProductAssociation", "Properties": both},
        "Pattern": {
            "Type": "AWS::ServiceCatalog::PortfolioPrincipalAssociation",
            "Properties": {
                "PortfolioId": {"Ref": "Portfolio"},
                "PrincipalARN": "arn:aws:iam:::role/mlops/*",
                "PrincipalType": "IAM_PATTERN",
            },
        },
        "Launch": {
            "Type": "AWS::ServiceCatalog::LaunchRoleConstraint",
            "DependsOn": "Association",
            "Properties": {**both, "LocalRoleName": "launch"},
        },
        "Rules": {
            "Type": "AWS::ServiceCatalog::LaunchTemplateConstraint",
            "DependsOn": "Association",
            "Properties": {
                **both,
                "Rules": '{"R": {"Assertions": [{"Assert": {"Fn::Equals": ["a", "a"]}}]}}',
            },
        },
        "TagUpdates": {
            "Type": "AWS::ServiceCatalog::ResourceUpdateConstraint",
            "DependsOn": "Association",
            "Properties": {**both, "TagUpdateOnProvisionedProduct": "ALLOWED"},
        },
    }


OUTPUTS = {
    "Product": {"Value": {"Ref": "Product"}},
    "Portfolio": {"Value": {"Ref": "Portfolio"}},
    "Ids": {"Value": {"Fn::GetAtt": ["Product", "ProvisioningArtifactIds"]}},
    "Names": {"Value": {"Fn::GetAtt": ["Product", "ProvisioningArtifactNames"]}},
}


def test_a_stack_makes_changes_and_deletes_a_product(catalog: Catalog) -> None:
    cloud, first, second = catalog.cloud, catalog.url(TEMPLATE), catalog.url(TEMPLATE)
    stack = cloud.stack(product(("v1", first)), OUTPUTS)
    before = cloud.outputs(stack)
    constraints = catalog.api.list_constraints_for_portfolio(PortfolioId=before["Portfolio"])
    assert {c["Type"] for c in constraints["ConstraintDetails"]} == {"LAUNCH", "TEMPLATE", "RESOURCE_UPDATE"}

    cloud.stack(product(("v1", first), ("v2", second), Description="two"), OUTPUTS, stack)
    both = cloud.outputs(stack)
    assert both["Product"] == before["Product"]
    assert both["Ids"].split(",")[0] == before["Ids"]  # the same URL and name keep the id
    assert both["Names"] == "v1,v2"

    cloud.stack(product(("v2", second)), OUTPUTS, stack)
    assert cloud.outputs(stack)["Ids"] == both["Ids"].split(",")[1]

    cloud.stack(product(("v2", second), ReplaceProvisioningArtifacts=True, Owner="y"), OUTPUTS, stack)
    cloud.stack(product(("v3", second), ReplaceProvisioningArtifacts=True, Owner="y"), OUTPUTS, stack)
    assert cloud.outputs(stack)["Names"] == "v3"

    assert cloud.delete_stack(stack) == ""
    refused(catalog.api.describe_portfolio, "ResourceNotFoundException", Id=before["Portfolio"])


def test_a_stack_launches_a_product(catalog: Catalog) -> None:
    def resources(name: str) -> dict[str, Any]:
        properties = {
            "ProductId": catalog.product,
            "ProvisioningArtifactName": "v1",
            "ProvisioningParameters": listed({"Name": name}),
        }
        return {
            "Launched": {
                "Type": "AWS::ServiceCatalog::CloudFormationProvisionedProduct",
                "Properties": properties,
            }
        }

    outputs = {
        "Id": {"Value": {"Ref": "Launched"}},
        "Topic": {"Value": {"Fn::GetAtt": ["Launched", "Outputs.TopicArn"]}},
    }
    cloud = catalog.cloud
    stack = cloud.stack(resources("one"), outputs)
    made = cloud.outputs(stack)
    sns = cloud.client("sns")
    assert sns.get_topic_attributes(TopicArn=made["Topic"])["Attributes"]["DisplayName"] == "one"
    cloud.stack(resources("two"), outputs, stack)
    assert cloud.outputs(stack) == made
    assert sns.get_topic_attributes(TopicArn=made["Topic"])["Attributes"]["DisplayName"] == "two"
    assert cloud.delete_stack(stack) == ""
    refused(catalog.api.describe_provisioned_product, "ResourceNotFoundException", Id=made["Id"])
    with pytest.raises(AssertionError, match="must match pattern"):
        cloud.stack(resources("Not Allowed"))


def test_a_product_cannot_launch_a_product(catalog: Catalog) -> None:
    inner = {
        "Type": "AWS::ServiceCatalog::CloudFormationProvisionedProduct",
        "Properties": {
            "ProductId": catalog.product,
            "ProvisioningArtifactName": "v1",
            "ProvisioningParameters": listed({"Name": "demo"}),
        },
    }
    catalog.version = catalog.api.create_provisioning_artifact(
        ProductId=catalog.product,
        Parameters={
            "Name": "nested",
            "Info": {"LoadTemplateFromURL": catalog.url({"Resources": {"Inner": inner}})},
        },
    )["ProvisioningArtifactDetail"]["Id"]
    record = catalog.launch("nested")
    assert record["Status"] == "FAILED" and "launch role" in record["RecordErrors"][0]["Description"]
    catalog.terminate("nested")
