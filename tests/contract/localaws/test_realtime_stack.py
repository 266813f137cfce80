"""deploy/realtime.yaml in each variant, and monitoring.yaml, through CloudFormation under the deploy role.

The role is that of project/identity.yaml, with its guard rails and the boundary of infra/identity.yaml.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from cfnlint.decode import cfn_yaml

from hosting import Hosting, time_scale
from mlops_cicd.staging.checks import Report
from mlops_cicd.staging.client import CSV, AsynchronousClient, Counted, no_retries, predict
from mlops_cicd.staging.load import under_load

CFN = Path(__file__).parents[3] / "mlops-cfn"
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
            "ExecutionRoleArn": self.role("sagemaker"),
            "BucketName": self.hosting.bucket,
            "KeyArn": key,
            "BucketKeyArn": key,
            "NotificationTopicArn": cloud.client("sns").create_topic(Name=self.id)["TopicArn"],
            "SubnetIds": subnet,
            "SecurityGroupId": group,
            "EventsRoleArn": self.role("scheduler"),
            "TrafficFunctionArn": f"arn:aws:lambda:{cloud.region}:{cloud.account}:function:mlops-{self.id}-t",
        }
        for name, value in self.values.items():
            ssm.put_parameter(Name=self.path(name), Type="String", Value=value)
        self.deploy_role = self.make_role()
        sagemaker = cloud.client("sagemaker")
        sagemaker.create_model_package_group(ModelPackageGroupName=f"mlops-{self.id}")
        self.versions = [self.register(suffix) for suffix in ("-one", "-two", "-three", "")]

    def path(self, name: str) -> str:
        """SSM parameter of a value."""
        return f"/mlops/projects/{self.id}/{name}"

    def role(self, service: str) -> str:
        """A role of the project that a service takes, and that may do everything; its ARN."""
        trust = {
            "Effect": "Allow",
            "Principal": {"Service": f"{service}.amazonaws.com"},
            "Action": "sts:AssumeRole",
        }
        name, document = self.cloud.name("role"), {"Version": "2012-10-17", "Statement": [trust]}
        made = self.cloud.client("iam").create_role(
            RoleName=name, Path="/mlops/projects/", AssumeRolePolicyDocument=json.dumps(document)
        )
        self.cloud.allow_all(name)
        return made["Role"]["Arn"]

    def make_role(self) -> str:
        """The project's deploy role, where the platform allows serverless endpoints; its ARN."""
        infra, own = (cfn_yaml.load(str(CFN / f"{one}/identity.yaml")) for one in ("infra", "project"))
        names = ("DeployRole", "GuardRails", "TagGuardRails")
        resources = {name: own["Resources"][name] for name in names}
        text = json.dumps({**resources, "PermissionsBoundary": infra["Resources"]["PermissionsBoundary"]})
        for name in ("ExecutionRole", "EventsRole"):
            text = text.replace(
                json.dumps({"Fn::GetAtt": [name, "Arn"]}), json.dumps(self.values[f"{name}Arn"])
            )
        text = text.replace('"PermissionsBoundaryArn"', '"PermissionsBoundary"')
        resources = json.loads(text)
        for name in names[1:]:
            resources[name]["Properties"]["Roles"] = [{"Ref": "DeployRole"}]
        given = {
            "ProjectId": self.id,
            "ProjectName": "churn",
            "CostCenter": "4711",
            "KeyArn": self.values["KeyArn"],
            "ComputeSecurityGroupId": self.values["SecurityGroupId"],
            "ServerlessEndpoints": "true",
        }
        lists = {"PrivateSubnetIds": self.values["SubnetIds"], "AllowedInstanceTypes": "ml.m5.*,ml.t3.*"}
        template = {
            "Parameters": {
                **{name: {"Type": "String", "Default": value} for name, value in given.items()},
                **{name: {"Type": "CommaDelimitedList", "Default": value} for name, value in lists.items()},
            },
            "Conditions": {"HasServerlessEndpoints": infra["Conditions"]["HasServerlessEndpoints"]},
            "Resources": resources,
            "Outputs": {"Role": {"Value": {"Fn::GetAtt": ["DeployRole", "Arn"]}}},
        }
        name = self.cloud.name("a-stack-whose-name-leaves-the-role-none-of-its-own")
        self.cloud.client("cloudformation").create_stack(
            StackName=name, TemplateBody=json.dumps(template), Capabilities=["CAPABILITY_IAM"]
        )
        self.cloud.wait(lambda: not self.cloud.stack_status(name).endswith("IN_PROGRESS"), 60, name)
        assert self.cloud.stack_status(name) == "CREATE_COMPLETE", self.cloud.stack_reasons(name)
        return self.cloud.outputs(name)["Role"]

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
        name = f"mlops-{self.id}-{stage}"
        asked = {"Stage": stage, "ModelPackageArn": self.versions[version - 1], **FAST, **more}
        self.launch("realtime", name, asked)
        return self.hosting.settled(name)

    def launch(self, template: str, name: str, more: dict[str, str]) -> None:
        """Make or change a stack under the deploy role, as the deploy pipeline does."""
        cloudformation, text = (
            self.cloud.client("cloudformation"),
            (CFN / f"deploy/{template}.yaml").read_text(),
        )
        tags = {"ProjectId": self.id, "ProjectName": "churn", "CostCenter": "4711"}
        known = {
            one: self.path(one) for one in self.values if f"\n  {one}:\n" in text.partition("Resources:")[0]
        }
        given = {**tags, **known, **more}
        keys = ("sagemaker:project-id", "sagemaker:project-name", "mlops:cost-center")
        call = {
            "StackName": name,
            "TemplateBody": text,
            "RoleARN": self.deploy_role,
            "Parameters": [{"ParameterKey": key, "ParameterValue": value} for key, value in given.items()],
            "Tags": [{"Key": key, "Value": value} for key, value in zip(keys, tags.values(), strict=True)],
        }
        there = self.cloud.stack_status(name)
        (cloudformation.update_stack if there else cloudformation.create_stack)(**call)
        self.cloud.wait(lambda: not self.cloud.stack_status(name).endswith("IN_PROGRESS"), 60, name)
        done = self.cloud.stack_status(name)
        why = "\n".join(self.cloud.stack_reasons(name))
        assert done in ("CREATE_COMPLETE", "UPDATE_COMPLETE"), why

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
    before = cloud.control("settings")["enforce"]
    cloud.control("settings", enforce=True)
    with time_scale(cloud, 0.002):
        made = Project(cloud)
        yield made
        made.hosting.close()
    cloud.control("settings", enforce=before)


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
    # the release of version 3 removes it; without scaling the count is that of mlops.yml again
    endpoint = project.deploy(3, **asked)
    assert "ShadowProductionVariants" not in endpoint or not endpoint["ShadowProductionVariants"]
    assert (count(endpoint), project.hosting.ask(name)) == (2, "0.5-three\n")
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
    endpoint = project.deploy(4, EndpointKind="asynchronous", MaxConcurrentInvocations="2")
    config, bucket = project.config(endpoint), project.hosting.bucket
    output = config["AsyncInferenceConfig"]["OutputConfig"]
    assert output["S3OutputPath"] == f"s3://{bucket}/async/production/answers"
    assert output["NotificationConfig"] == {"ErrorTopic": project.values["NotificationTopicArn"]}
    assert not config.get("DataCaptureConfig")
    # as the test of staging asks: a request is a file, so is its answer, and a refusal is the model's own
    cloud, name = project.cloud, endpoint["EndpointName"]
    keys = {"region_name": cloud.region, "endpoint_url": cloud.endpoint, "config": no_retries(4)}
    runtime = boto3.client(
        "sagemaker-runtime", aws_access_key_id=cloud.access_key, aws_secret_access_key="test", **keys
    )
    folder, key = "async/production-requests", project.values["KeyArn"]
    client = AsynchronousClient(runtime, cloud.client("s3"), name, Counted("run"), bucket, folder, key)
    scores, _ = predict(client, [[1], [2]])
    assert scores == [0.5, 0.5]
    assert client.request(CSV, b"status 400").status == 400
    report = Report()
    under_load(client, [[1]], 0.5, 2, None, report)
    assert report.measured["load"]["failed"] == 0 and report.measured["load"]["requests"] > 0
    project.end()


def test_monitors_are_switched_on_and_off(project: Project) -> None:
    """With all of them off the stack stays, without schedules and alarms; it may also begin so."""
    cloud, s3 = project.cloud, f"s3://{project.hosting.bucket}"
    kinds = ("DataQuality", "ModelQuality", "ModelBias", "ModelExplainability")
    off = dict.fromkeys([f"{kind}Enabled" for kind in kinds], "false")
    asked = {
        "EndpointName": f"mlops-{project.id}-production",
        "MonitorImageUri": project.hosting.image,
        "MonitorCodeUri": f"{s3}/code/monitor/1/monitor.pyz",
        "BaselineUri": f"{s3}/pipelines/mlops-{project.id}/none/baseline",
        "ModelDataUri": project.hosting.data,
        "ModelPackageArn": project.versions[0],
        "CaptureUri": f"{s3}/data-capture/production",
        "GroundTruthUri": f"{s3}/ground-truth/production",
        "ReportsUri": f"{s3}/monitoring",
    }

    def made() -> set[str]:
        found = cloud.client("cloudformation").describe_stack_resources(StackName=name)["StackResources"]
        return {one["LogicalResourceId"] for one in found if one["ResourceStatus"] != "DELETE_COMPLETE"}

    name = f"mlops-{project.id}-monitoring"
    project.launch("monitoring", name, asked | off)
    assert made() == {"Anchor"}
    project.launch("monitoring", name, asked | off | {"DataQualityEnabled": "true"})
    assert made() == {"Anchor", "DataQualitySchedule", "DataQualityDrifted"}
    project.launch("monitoring", name, asked | off)
    assert made() == {"Anchor"}
    alarms = cloud.client("cloudwatch").describe_alarms(AlarmNamePrefix=name)["MetricAlarms"]
    assert alarms == []
    project.end("monitoring")
