"""deploy/realtime.yaml in each variant, through CloudFormation: what it makes, keeps and takes away again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hosting import Hosting, time_scale

ROOT = Path(__file__).parents[3]
TEMPLATE = (ROOT / "mlops-cfn/deploy/realtime.yaml").read_text()
FAST = {"ReleaseWaitSeconds": "0", "ReleaseTimeoutSeconds": "3720", "InstanceType": "ml.m5.large"}


class Project:
    """What the stack reads, three versions in a registry, and stacks of them."""

    def __init__(self, cloud: Any) -> None:
        self.cloud, self.hosting, self.id = cloud, Hosting(cloud), cloud.name("p").replace("-", "")[:14]
        self.id = f"p-{self.id[1:]}"
        ec2, ssm = cloud.client("ec2"), cloud.client("ssm")
        vpc = ec2.create_vpc(CidrBlock="10.8.0.0/16")["Vpc"]["VpcId"]
        subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.8.1.0/24")["Subnet"]["SubnetId"]
        table = ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]
        ec2.associate_route_table(RouteTableId=table, SubnetId=subnet)
        ec2.create_vpc_endpoint(  # a model's data come this way
            VpcId=vpc, ServiceName=f"com.amazonaws.{cloud.region}.s3", RouteTableIds=[table]
        )
        group = ec2.create_security_group(GroupName=self.id, Description="models", VpcId=vpc)["GroupId"]
        key = cloud.client("kms").create_key()["KeyMetadata"]["Arn"]
        self.values = {
            "ExecutionRoleArn": self.hosting.role,
            "BucketName": self.hosting.bucket,
            "KeyArn": key,
            "BucketKeyArn": key,
            "NotificationTopicArn": cloud.client("sns").create_topic(Name=self.id)["TopicArn"],
            "SubnetIds": subnet,
            "SecurityGroupId": group,
        }
        for name, value in self.values.items():
            ssm.put_parameter(Name=f"/{self.id}/{name}", Type="String", Value=value)
        sagemaker = cloud.client("sagemaker")
        sagemaker.create_model_package_group(ModelPackageGroupName=f"mlops-{self.id}")
        self.versions = [self.register(suffix) for suffix in ("-one", "-two", "-three")]

    def register(self, suffix: str) -> str:
        """A version whose answers end with a text."""
        container = {
            "Image": self.hosting.image,
            "ModelDataUrl": self.hosting.data,
            "Environment": {"SUFFIX": suffix},
        }
        return self.cloud.client("sagemaker").create_model_package(
            ModelPackageGroupName=f"mlops-{self.id}",
            ModelApprovalStatus="Approved",
            InferenceSpecification={
                "Containers": [container],
                "SupportedContentTypes": ["text/csv"],
                "SupportedResponseMIMETypes": ["text/csv"],
            },
        )["ModelPackageArn"]

    def deploy(self, version: int, stage: str = "production", **more: str) -> dict[str, Any]:
        """Make or change the stack of a stage; its endpoint."""
        cloudformation, name = self.cloud.client("cloudformation"), f"mlops-{self.id}-{stage}"
        given = {
            "ProjectId": self.id,
            "ProjectName": "churn",
            "CostCenter": "4711",
            "Stage": stage,
            "ModelPackageArn": self.versions[version - 1],
            **{one: f"/{self.id}/{one}" for one in self.values},
            **FAST,
            **more,
        }
        call = {
            "StackName": name,
            "TemplateBody": TEMPLATE,
            "Parameters": [{"ParameterKey": key, "ParameterValue": value} for key, value in given.items()],
        }
        found = [one["StackName"] for one in cloudformation.describe_stacks()["Stacks"]]
        (cloudformation.update_stack if name in found else cloudformation.create_stack)(**call)

        def complete() -> Any:
            stack = cloudformation.describe_stacks(StackName=name)["Stacks"][0]
            return not stack["StackStatus"].endswith("IN_PROGRESS") and stack

        stack = self.cloud.wait(complete, 60, name)
        events = cloudformation.describe_stack_events(StackName=name)["StackEvents"]
        why = [one.get("ResourceStatusReason") for one in events if "FAILED" in one["ResourceStatus"]]
        assert stack["StackStatus"] in ("CREATE_COMPLETE", "UPDATE_COMPLETE"), why
        return self.hosting.settled(name)

    def config(self, endpoint: dict[str, Any]) -> dict[str, Any]:
        """The configuration of an endpoint."""
        sagemaker = self.cloud.client("sagemaker")
        return sagemaker.describe_endpoint_config(EndpointConfigName=endpoint["EndpointConfigName"])

    def end(self, stage: str = "production") -> None:
        """Delete the stack of a stage."""
        cloudformation, name = self.cloud.client("cloudformation"), f"mlops-{self.id}-{stage}"
        cloudformation.delete_stack(StackName=name)

        def gone() -> bool:
            return name not in [one["StackName"] for one in cloudformation.describe_stacks()["Stacks"]]

        self.cloud.wait(gone, 60, name)


@pytest.fixture(scope="module")
def project(cloud: Any) -> Iterator[Project]:
    with time_scale(cloud, 0.002):
        made = Project(cloud)
        yield made
        made.hosting.close()


def count(endpoint: dict[str, Any]) -> int:
    return endpoint["ProductionVariants"][0]["CurrentInstanceCount"]


def test_production_scales_shifts_and_compares(project: Project) -> None:
    """One life of an endpoint: made, scaled, released, compared, released, and no longer scaled."""
    name = f"mlops-{project.id}-production"
    asked = {"InitialInstanceCount": "2", "ReleaseShift": "CANARY", "ReleaseShare": "50"}
    scaling = {"ScalingMinimum": "2", "ScalingMaximum": "4", "InvocationsPerInstance": "60"}
    endpoint = project.deploy(1, **asked, **scaling)
    assert (count(endpoint), project.hosting.ask(name)) == (2, "0.5-one\n")
    capture = project.config(endpoint)["DataCaptureConfig"]
    assert (capture["KmsKeyId"], capture["CaptureContentTypeHeader"]["CsvContentTypes"]) == (
        project.values["KeyArn"],
        ["text/csv"],
    )
    autoscaling = project.cloud.client("application-autoscaling")
    wanted = {"ServiceNamespace": "sagemaker", "ResourceIds": [f"endpoint/{name}/variant/AllTraffic"]}
    (target,) = autoscaling.describe_scalable_targets(**wanted)["ScalableTargets"]
    assert (target["MinCapacity"], target["MaxCapacity"]) == (2, 4)
    # the load asked for three: the release of version 2 keeps them, and moves a half first
    project.cloud.client("sagemaker").update_endpoint_weights_and_capacities(
        EndpointName=name,
        DesiredWeightsAndCapacities=[{"VariantName": "AllTraffic", "DesiredInstanceCount": 3}],
    )
    assert count(project.hosting.settled(name)) == 3
    endpoint = project.deploy(2, **asked, **scaling)
    assert (count(endpoint), project.hosting.ask(name)) == (3, "0.5-two\n")
    routing = endpoint["LastDeploymentConfig"]["BlueGreenUpdatePolicy"]["TrafficRoutingConfiguration"]
    assert (routing["Type"], routing["CanarySize"]["Value"]) == ("CANARY", 50)
    assert len(endpoint["LastDeploymentConfig"]["AutoRollbackConfiguration"]["Alarms"]) == 3
    # version 3 as the shadow of version 2, of half of its requests
    shadow = {"ShadowModelPackageArn": project.versions[2], "ShadowWeight": "0.5", "ShadowInstanceCount": "2"}
    endpoint = project.deploy(2, **asked, **scaling, **shadow)
    (beside,) = endpoint["ShadowProductionVariants"]
    assert (beside["VariantName"], beside["CurrentInstanceCount"], beside["CurrentWeight"]) == (
        "Shadow",
        2,
        0.5,
    )
    assert (count(endpoint), project.hosting.ask(name)) == (3, "0.5-two\n")
    # the release of version 3 removes it
    endpoint = project.deploy(3, **asked, **scaling)
    assert "ShadowProductionVariants" not in endpoint or not endpoint["ShadowProductionVariants"]
    assert (count(endpoint), project.hosting.ask(name)) == (3, "0.5-three\n")
    # without scaling the count of mlops.yml holds, and the target is gone
    endpoint = project.deploy(2, **asked)
    assert (count(endpoint), project.hosting.ask(name)) == (2, "0.5-two\n")
    assert autoscaling.describe_scalable_targets(**wanted)["ScalableTargets"] == []
    project.end()


def test_a_serverless_endpoint_captures_nothing(project: Project) -> None:
    endpoint = project.deploy(1, EndpointKind="serverless", ServerlessMemoryMb="1024")
    config = project.config(endpoint)
    assert config["ProductionVariants"][0]["ServerlessConfig"] == {
        "MemorySizeInMB": 1024,
        "MaxConcurrency": 5,
    }
    assert not config.get("DataCaptureConfig")
    model = project.cloud.client("sagemaker").describe_model(
        ModelName=config["ProductionVariants"][0]["ModelName"]
    )
    assert not model.get("VpcConfig") and not model["EnableNetworkIsolation"]
    name = f"mlops-{project.id}-production"
    assert project.hosting.ask(name) == "0.5-one\n"
    project.deploy(2, EndpointKind="serverless", ServerlessMemoryMb="1024")
    assert project.hosting.ask(name) == "0.5-two\n"
    project.end()


def test_an_asynchronous_endpoint_answers_into_the_bucket(project: Project) -> None:
    endpoint = project.deploy(1, EndpointKind="asynchronous", MaxConcurrentInvocations="2")
    config, bucket = project.config(endpoint), project.hosting.bucket
    output = config["AsyncInferenceConfig"]["OutputConfig"]
    assert output["S3OutputPath"] == f"s3://{bucket}/async/production/answers"
    assert output["NotificationConfig"] == {"ErrorTopic": project.values["NotificationTopicArn"]}
    assert not config.get("DataCaptureConfig")
    s3 = project.cloud.client("s3")
    s3.put_object(Bucket=bucket, Key="requests/1.csv", Body=b"1,2")
    answer = project.cloud.client("sagemaker-runtime").invoke_endpoint_async(
        EndpointName=endpoint["EndpointName"],
        InputLocation=f"s3://{bucket}/requests/1.csv",
        ContentType="text/csv",
    )
    key = answer["OutputLocation"].partition(f"{bucket}/")[2]

    def read() -> Any:
        found = s3.list_objects_v2(Bucket=bucket, Prefix=key).get("Contents")
        return found and s3.get_object(Bucket=bucket, Key=key)["Body"].read()

    assert project.cloud.wait(read, 20, key) == b"0.5-one\n"
    project.end()
