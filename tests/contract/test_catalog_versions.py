"""Two releases through the catalog's template and function: both versions stay, and so do the projects."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

import account
import release

CFN = release.ROOT / "mlops-cfn"
BUCKET, STACK, FUNCTION, LAUNCH_ROLE = (
    "releases-of-the-catalog",
    "catalog-versions",
    "catalog-product",
    "catalog-launch",
)
TRUST = """{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole",
  "Principal": {"Service": ["lambda.amazonaws.com", "servicecatalog.amazonaws.com"]}}]}"""
EVERYTHING = """{"Version": "2012-10-17",
  "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}"""
PRODUCT = """
Parameters: {{Owner: {{Type: String}}}}
Resources: {{Topic: {{Type: AWS::SNS::Topic, Properties: {{DisplayName: !Ref Owner}}}}}}
Outputs:
  Release: {{Value: '{0}'}}
  Owner: {{Value: !Ref Owner}}
"""


class Platform:
    """The catalog's stack with its function, and what people do with the product."""

    def __init__(self, session: boto3.Session) -> None:
        self.session = session
        self.stacks, self.catalog = session.client("cloudformation"), session.client("servicecatalog")
        session.client("s3").create_bucket(Bucket=BUCKET)
        iam = session.client("iam")
        self.role = iam.create_role(RoleName=LAUNCH_ROLE, AssumeRolePolicyDocument=TRUST)["Role"]["Arn"]
        # versions are tested here, not permissions
        iam.put_role_policy(RoleName=LAUNCH_ROLE, PolicyName="all", PolicyDocument=EVERYTHING)
        source = {"index.py": (CFN / "lambda/catalog_product/index.py").read_bytes()}
        self.function = session.client("lambda").create_function(
            FunctionName=FUNCTION,
            Runtime="python3.13",
            Role=self.role,
            Handler="index.handler",
            Timeout=120,
            Code={"ZipFile": release.compose.zip_bytes(source)},
        )["FunctionArn"]

    def release(self, version: str, template: str = PRODUCT) -> str:
        """Publish a project template and launch or update the catalog with it; how the stack ended."""
        body = template.format(version).encode()
        key = f"{version}/templates/2-smproject.{release.short_hash(body)}.yaml"
        self.session.client("s3").put_object(Bucket=BUCKET, Key=key, Body=body)
        values = {
            "ReleaseBucketName": BUCKET,
            "ReleaseVersion": version,
            "ProjectTemplateKey": key,
            "UserTemplateKey": f"{version}/templates/3-user.yaml",
            "CatalogProductFunctionArn": self.function,
            "ProjectLaunchRoleArn": self.role,
            "DataScienceAdminRoleArn": self.role,
        }
        call = self.stacks.update_stack if self.status() else self.stacks.create_stack
        call(
            StackName=STACK,
            TemplateBody=(CFN / "infra/catalog.yaml").read_text(),
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in values.items()],
        )
        return self.settled()

    def status(self) -> str:
        """The stack's status, empty when there is none."""
        try:
            return self.stacks.describe_stacks(StackName=STACK)["Stacks"][0]["StackStatus"]
        except ClientError:
            return ""

    def settled(self) -> str:
        return account.poll("the stack", lambda: _settled(self.status()), 60, 0.2)

    def reasons(self) -> str:
        events = self.stacks.describe_stack_events(StackName=STACK)["StackEvents"]
        return "\n".join(event.get("ResourceStatusReason", "") for event in events)

    @property
    def product(self) -> str:
        return account.infra(self.session.client("ssm"))["project-product-id"]

    def versions(self) -> dict[str, tuple[bool, str]]:
        found = self.catalog.list_provisioning_artifacts(ProductId=self.product)
        return {v["Name"]: (v["Active"], v["Guidance"]) for v in found["ProvisioningArtifactDetails"]}

    def launch(self, name: str, version: str) -> dict[str, str]:
        """A project from a version; its outputs."""
        return self.ended(
            self.catalog.provision_product(
                ProductId=self.product,
                ProvisioningArtifactId=version,
                ProvisionedProductName=name,
                ProvisioningParameters=[{"Key": "Owner", "Value": "ann"}],
            )
        )

    def update(self, name: str, owner: str, **version: str) -> dict[str, str]:
        """Another owner for a project, and perhaps another version; its outputs."""
        parameters = [{"Key": "Owner", "Value": owner}]
        return self.ended(
            self.catalog.update_provisioned_product(
                ProvisionedProductName=name, ProvisioningParameters=parameters, **version
            )
        )

    def ended(self, answer: dict[str, Any]) -> dict[str, str]:
        identity = answer["RecordDetail"]["RecordId"]

        def look() -> dict[str, Any] | None:
            found = self.catalog.describe_record(Id=identity)
            return found if found["RecordDetail"]["Status"] in ("SUCCEEDED", "FAILED") else None

        found = account.poll("the record", look, 60, 0.2)
        assert found["RecordDetail"]["Status"] == "SUCCEEDED", found["RecordDetail"]["RecordErrors"]
        return {o["OutputKey"]: o["OutputValue"] for o in found["RecordOutputs"]}

    def delete(self) -> None:
        """Delete projects and catalog, so that the next test meets no name that is taken."""
        everyone = {"Key": "Account", "Value": "self"}
        for made in self.catalog.scan_provisioned_products(AccessLevelFilter=everyone)["ProvisionedProducts"]:
            self.ended(self.catalog.terminate_provisioned_product(ProvisionedProductId=made["Id"]))
        self.stacks.delete_stack(StackName=STACK)
        while self.status().endswith("IN_PROGRESS"):
            time.sleep(0.2)
        assert self.status() == "", self.reasons()
        assert self.catalog.search_products_as_admin()["ProductViewDetails"] == []
        self.session.client("lambda").delete_function(FunctionName=FUNCTION)
        self.session.client("iam").delete_role_policy(RoleName=LAUNCH_ROLE, PolicyName="all")
        self.session.client("iam").delete_role(RoleName=LAUNCH_ROLE)
        s3 = self.session.client("s3")
        for item in s3.list_objects_v2(Bucket=BUCKET).get("Contents", []):
            s3.delete_object(Bucket=BUCKET, Key=item["Key"])
        s3.delete_bucket(Bucket=BUCKET)


def _settled(status: str) -> str | None:
    return None if status.endswith("IN_PROGRESS") else status


@pytest.fixture
def platform(cloud_session: boto3.Session) -> Iterator[Platform]:
    made = Platform(cloud_session)
    yield made
    made.delete()


def test_a_release_leaves_earlier_projects_their_version(platform: Platform) -> None:
    assert platform.release("1.0.0") == "CREATE_COMPLETE", platform.reasons()
    product = platform.product
    first = account.newest_artifact(platform.catalog, product)
    assert platform.launch("old", first)["Release"] == "1.0.0"

    assert platform.release("1.1.0") == "UPDATE_COMPLETE", platform.reasons()
    assert platform.product == product
    assert platform.versions() == {"1.0.0": (True, "DEPRECATED"), "1.1.0": (True, "DEFAULT")}

    newest = account.newest_artifact(platform.catalog, product)
    assert platform.launch("new", newest)["Release"] == "1.1.0"
    with pytest.raises(ClientError, match="deprecated"):
        platform.launch("late", first)

    outputs = platform.update("old", "bob", ProvisioningArtifactId=first)
    assert (outputs["Release"], outputs["Owner"]) == ("1.0.0", "bob"), "the old project keeps its template"
    assert platform.update("old", "bob", ProvisioningArtifactId=newest)["Release"] == "1.1.0"


def test_a_version_is_not_rewritten_and_an_earlier_release_can_come_back(platform: Platform) -> None:
    assert platform.release("1.0.0") == "CREATE_COMPLETE", platform.reasons()
    assert platform.release("1.1.0") == "UPDATE_COMPLETE", platform.reasons()
    assert platform.release("1.1.0", PRODUCT + "# changed\n") == "UPDATE_ROLLBACK_COMPLETE"
    assert "publish the release under a new version" in platform.reasons()
    assert platform.versions() == {"1.0.0": (True, "DEPRECATED"), "1.1.0": (True, "DEFAULT")}

    assert platform.release("1.0.0") == "UPDATE_COMPLETE", platform.reasons()
    assert platform.versions() == {"1.0.0": (True, "DEFAULT"), "1.1.0": (True, "DEPRECATED")}


def test_a_launch_that_fails_leaves_no_product(platform: Platform) -> None:
    assert platform.release("1.0.0", "Resources: {{}}\n# {0}") == "ROLLBACK_COMPLETE"
    assert "Template" in platform.reasons()
    assert platform.catalog.search_products_as_admin()["ProductViewDetails"] == []
