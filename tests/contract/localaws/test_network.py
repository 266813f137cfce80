"""What a caller in a VPC reaches: endpoints, routes, security groups and endpoint policies decide."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, field
from typing import Any

import pytest
from botocore.exceptions import ClientError

ANYONE = {"Effect": "Allow", "Principal": "*", "Action": "*", "Resource": "*"}


@dataclass
class Vpc:
    """An isolated VPC as the platform's: two subnets, a group for what computes and one for endpoints."""

    cloud: Any
    zones: tuple[str, str] = ("us-east-1a", "us-east-1b")
    endpoints: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ec2 = self.ec2 = self.cloud.client("ec2")
        self.id = ec2.create_vpc(CidrBlock="10.7.0.0/16")["Vpc"]["VpcId"]
        ec2.modify_vpc_attribute(VpcId=self.id, EnableDnsHostnames={"Value": True})
        made = [
            ec2.create_subnet(VpcId=self.id, CidrBlock=f"10.7.{n}.0/24", AvailabilityZone=zone)
            for n, zone in enumerate(self.zones)
        ]
        self.subnets = [m["Subnet"]["SubnetId"] for m in made]
        self.routes = ec2.create_route_table(VpcId=self.id)["RouteTable"]["RouteTableId"]
        self.associations = [
            ec2.associate_route_table(RouteTableId=self.routes, SubnetId=s)["AssociationId"]
            for s in self.subnets
        ]
        self.compute, self.doors = self.group("compute"), self.group("endpoints")
        for group in (self.compute, self.doors):  # EC2 begins with a rule to everywhere
            found = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]
            ec2.revoke_security_group_egress(GroupId=group, IpPermissions=found["IpPermissionsEgress"])
        self.door = {**HTTPS, "UserIdGroupPairs": [{"GroupId": self.doors}]}
        ec2.authorize_security_group_egress(GroupId=self.compute, IpPermissions=[self.door])
        self.guests = {**HTTPS, "UserIdGroupPairs": [{"GroupId": self.compute}]}
        ec2.authorize_security_group_ingress(GroupId=self.doors, IpPermissions=[self.guests])
        name = "com.amazonaws.us-east-1.s3"
        lists = ec2.describe_managed_prefix_lists(Filters=[{"Name": "prefix-list-name", "Values": [name]}])[
            "PrefixLists"
        ]
        self.to_s3 = {**HTTPS, "PrefixListIds": [{"PrefixListId": lists[0]["PrefixListId"]}]}
        ec2.authorize_security_group_egress(GroupId=self.compute, IpPermissions=[self.to_s3])

    def group(self, name: str) -> str:
        return self.ec2.create_security_group(VpcId=self.id, GroupName=name, Description=name)["GroupId"]

    def interface(self, name: str, *statements: dict[str, Any], **more: Any) -> str:
        """An interface endpoint; its policy allows all where no statement is given."""
        settings = {"SubnetIds": self.subnets, "SecurityGroupIds": [self.doors], "PrivateDnsEnabled": True}
        return self._endpoint(name, "Interface", statements, {**settings, **more})

    def gateway(self, *statements: dict[str, Any], **more: Any) -> str:
        """The gateway endpoint of S3."""
        return self._endpoint("s3", "Gateway", statements, {"RouteTableIds": [self.routes], **more})

    def _endpoint(self, name: str, kind: str, statements: tuple, settings: dict[str, Any]) -> str:
        document = {"Version": "2012-10-17", "Statement": list(statements) or [ANYONE]}
        made = self.ec2.create_vpc_endpoint(
            VpcId=self.id,
            VpcEndpointType=kind,
            ServiceName=f"com.amazonaws.us-east-1.{name}",
            PolicyDocument=json.dumps(document),
            **settings,
        )
        return made["VpcEndpoint"]["VpcEndpointId"]

    @property
    def config(self) -> dict[str, Any]:
        """A VpcConfig of SageMaker."""
        return {"Subnets": self.subnets, "SecurityGroupIds": [self.compute]}


HTTPS = {"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443}


@pytest.fixture(autouse=True)
def enforced(cloud):
    """Policies and networks decide, as they do on AWS."""
    before = cloud.control("settings")["enforce"]
    cloud.control("settings", enforce=True)
    yield
    cloud.control("settings", enforce=before)


@pytest.fixture
def vpc(cloud) -> Vpc:
    return Vpc(cloud)


@pytest.fixture(scope="module")
def role(cloud) -> str:
    return cloud.role("sagemaker", "codebuild")


@pytest.fixture
def inside(cloud, vpc, role):
    """Environment and clients of a Studio space in the VPC."""
    made = cloud.client("sagemaker").create_domain(
        DomainName=cloud.name("domain"),
        AuthMode="IAM",
        VpcId=vpc.id,
        SubnetIds=vpc.subnets,
        AppNetworkAccessType="VpcOnly",
        HomeEfsFileSystemCreation="Disabled",
        DefaultUserSettings={"ExecutionRole": role, "SecurityGroups": [vpc.compute]},
    )
    return Space(cloud, made["DomainArn"].rpartition("/")[2], role)


class Space:
    """A program in a Studio space."""

    def __init__(self, cloud, domain: str, role: str) -> None:
        self.cloud = cloud
        self.environment = cloud.control("studio", domain=domain, role=role, session="jane")

    def client(self, service: str) -> Any:
        return self.cloud.client(
            service,
            aws_access_key_id=self.environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.environment["AWS_SECRET_ACCESS_KEY"],
            aws_session_token=self.environment["AWS_SESSION_TOKEN"],
        )

    def refused(self, service: str, call: str, **parameters: Any) -> str:
        """Code and text of the error that a call ends with."""
        with pytest.raises(ClientError) as caught:
            getattr(self.client(service), call)(**parameters)
        error = caught.value.response["Error"]
        return f"{error['Code']}: {error['Message']}"


# -- endpoints --------------------------------------------------------------------------------------------
def test_without_an_endpoint_there_is_no_route(vpc, inside):
    assert inside.refused("sts", "get_caller_identity") == (
        f"NoRouteToService: no route: VPC {vpc.id} has no endpoint for sts (com.amazonaws.us-east-1.sts); "
        "a connection times out on AWS"
    )


@pytest.mark.parametrize(
    ("service", "endpoint", "call", "parameters"),
    [
        ("sts", "sts", "get_caller_identity", {}),
        ("ssm", "ssm", "describe_parameters", {}),
        ("cloudwatch", "monitoring", "list_metrics", {}),
        ("sagemaker", "sagemaker.api", "list_models", {}),
        ("ecr", "ecr.api", "describe_repositories", {}),
        ("codeartifact", "codeartifact.api", "list_domains", {}),
        ("codecommit", "codecommit", "list_repositories", {}),
    ],
)
def test_an_endpoint_serves_its_service(vpc, inside, service, endpoint, call, parameters):
    assert f"com.amazonaws.us-east-1.{endpoint})" in inside.refused(service, call, **parameters)
    vpc.interface(endpoint)
    getattr(inside.client(service), call)(**parameters)


def test_an_endpoint_of_another_vpc_is_none(cloud, vpc, inside):
    Vpc(cloud).interface("sts")
    assert "has no endpoint for sts" in inside.refused("sts", "get_caller_identity")


def test_the_registry_and_git_have_endpoints_of_their_own(cloud, vpc, inside):
    vpc.interface("codecommit")
    name = cloud.name("repository")
    url = cloud.client("codecommit").create_repository(repositoryName=name)["repositoryMetadata"]
    command = ["git", "ls-remote", url["cloneUrlHttp"]]
    environment = {**inside.environment, "PATH": "/usr/bin:/bin", "GIT_TERMINAL_PROMPT": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode and "403" in done.stderr
    vpc.interface("git-codecommit")
    subprocess.run(command, env=environment, check=True, capture_output=True)


def test_no_private_name(vpc, inside):
    vpc.interface("sts", PrivateDnsEnabled=False)
    assert "has no private name there" in inside.refused("sts", "get_caller_identity")


def test_no_private_names_in_the_vpc(vpc, inside):
    vpc.interface("sts")
    vpc.ec2.modify_vpc_attribute(VpcId=vpc.id, EnableDnsHostnames={"Value": False})
    assert "EnableDnsHostnames of the VPC" in inside.refused("sts", "get_caller_identity")


def test_the_runtime_of_sagemaker_has_its_name_in_its_zones_only(vpc, inside):
    vpc.interface("sagemaker.runtime", SubnetIds=vpc.subnets[:1])
    told = inside.refused("sagemaker-runtime", "invoke_endpoint", EndpointName="e", Body=b"1")
    assert "its name resolves in us-east-1a only, not in us-east-1b" in told


# -- security groups --------------------------------------------------------------------------------------
def test_nothing_leaves_the_callers_group(vpc, inside):
    vpc.interface("sts")
    vpc.ec2.revoke_security_group_egress(GroupId=vpc.compute, IpPermissions=[vpc.door])
    told = inside.refused("sts", "get_caller_identity")
    assert f"security groups {vpc.compute} let nothing out to it at port 443" in told


def test_nothing_enters_the_endpoints_group(vpc, inside):
    vpc.interface("sts")
    vpc.ec2.revoke_security_group_ingress(GroupId=vpc.doors, IpPermissions=[vpc.guests])
    told = inside.refused("sts", "get_caller_identity")
    assert f"its security groups {vpc.doors} let nothing of {vpc.compute} in" in told


def test_a_rule_for_another_port_is_none(vpc, inside):
    vpc.interface("sts")
    vpc.ec2.revoke_security_group_ingress(GroupId=vpc.doors, IpPermissions=[vpc.guests])
    other = {**vpc.guests, "FromPort": 80, "ToPort": 80}
    vpc.ec2.authorize_security_group_ingress(GroupId=vpc.doors, IpPermissions=[other])
    assert "let nothing of" in inside.refused("sts", "get_caller_identity")


@pytest.mark.parametrize(("block", "fits"), [("10.7.0.0/16", True), ("10.7.0.0/24", False)])
def test_a_block_of_addresses_covers_every_subnet(vpc, inside, block, fits):
    vpc.interface("sts")
    vpc.ec2.revoke_security_group_ingress(GroupId=vpc.doors, IpPermissions=[vpc.guests])
    rule = {**HTTPS, "IpRanges": [{"CidrIp": block}]}
    vpc.ec2.authorize_security_group_ingress(GroupId=vpc.doors, IpPermissions=[rule])
    if fits:
        inside.client("sts").get_caller_identity()
    else:
        assert "let nothing of" in inside.refused("sts", "get_caller_identity")


# -- the gateway ------------------------------------------------------------------------------------------
def test_s3_by_its_gateway(cloud, vpc, inside):
    bucket = cloud.bucket()
    assert "has no endpoint for s3" in inside.refused("s3", "put_object", Bucket=bucket, Key="k", Body=b"1")
    vpc.gateway()
    inside.client("s3").put_object(Bucket=bucket, Key="k", Body=b"1")


def test_a_subnet_outside_of_the_gateways_route_table(cloud, vpc, inside):
    vpc.gateway()
    vpc.ec2.disassociate_route_table(AssociationId=vpc.associations[1])
    told = inside.refused("s3", "list_objects_v2", Bucket=cloud.bucket())
    assert f"it is not in the route table of subnet {vpc.subnets[1]}" in told


def test_no_rule_for_the_prefix_list(cloud, vpc, inside):
    vpc.gateway()
    vpc.ec2.revoke_security_group_egress(GroupId=vpc.compute, IpPermissions=[vpc.to_s3])
    told = inside.refused("s3", "list_objects_v2", Bucket=cloud.bucket())
    assert "no egress rule for port 443 names prefix list pl-" in told


def test_a_nat_gateway_is_a_way_out(vpc, inside):
    nat = vpc.ec2.create_nat_gateway(SubnetId=vpc.subnets[0], AllocationId="eipalloc-1")["NatGateway"]
    vpc.ec2.create_route(
        RouteTableId=vpc.routes, DestinationCidrBlock="0.0.0.0/0", NatGatewayId=nat["NatGatewayId"]
    )
    assert "has no endpoint" in inside.refused("sts", "get_caller_identity")  # the group lets nothing out
    rule = {**HTTPS, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
    vpc.ec2.authorize_security_group_egress(GroupId=vpc.compute, IpPermissions=[rule])
    inside.client("sts").get_caller_identity()


# -- policies ---------------------------------------------------------------------------------------------
def test_the_endpoints_policy_limits(cloud, vpc, inside):
    ours, theirs = cloud.bucket(), cloud.bucket()
    resource = [f"arn:aws:s3:::{ours}", f"arn:aws:s3:::{ours}/*"]
    vpc.gateway({**ANYONE, "Resource": resource})
    inside.client("s3").put_object(Bucket=ours, Key="k", Body=b"1")
    told = inside.refused("s3", "put_object", Bucket=theirs, Key="k", Body=b"1")
    assert f"s3:PutObject on resource: arn:aws:s3:::{theirs}/k because no VPC endpoint policy" in told


def test_the_endpoints_policy_pins_the_account(vpc, inside):
    condition = {"StringEquals": {"aws:PrincipalAccount": "210987654321"}}
    vpc.interface("sts", {**ANYONE, "Condition": condition})
    told = inside.refused("ssm", "describe_parameters")
    assert "has no endpoint for ssm" in told
    vpc.interface("ssm", {**ANYONE, "Condition": condition})
    assert "because no VPC endpoint policy allows" in inside.refused("ssm", "describe_parameters")


def test_the_endpoint_is_told_to_the_resource(cloud, vpc, inside):
    bucket = cloud.bucket()
    endpoint = vpc.gateway()
    allow = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:PutObject",
        "Resource": f"arn:aws:s3:::{bucket}/*",
    }
    for value, through in ((endpoint, True), ("vpce-0", False)):
        statement = {**allow, "Condition": {"StringNotEquals": {"aws:SourceVpce": value}}}
        document = {"Version": "2012-10-17", "Statement": [statement]}
        cloud.client("s3").put_bucket_policy(Bucket=bucket, Policy=json.dumps(document))
        if through:
            inside.client("s3").put_object(Bucket=bucket, Key="k", Body=b"1")
        else:
            told = inside.refused("s3", "put_object", Bucket=bucket, Key="k", Body=b"1")
            assert "explicit deny in a resource-based policy" in told


# -- who is inside ----------------------------------------------------------------------------------------
def test_another_role_is_assumed_in_the_same_vpc(cloud, vpc, inside, role):
    vpc.interface("sts")
    trust = {"Effect": "Allow", "Principal": {"AWS": role}, "Action": "sts:AssumeRole"}
    document = {"Version": "2012-10-17", "Statement": [trust]}
    made = cloud.client("iam").create_role(
        RoleName=cloud.name("further"), AssumeRolePolicyDocument=json.dumps(document)
    )["Role"]["Arn"]
    keys = inside.client("sts").assume_role(RoleArn=made, RoleSessionName="further")["Credentials"]
    client = cloud.client(
        "ssm",
        aws_access_key_id=keys["AccessKeyId"],
        aws_secret_access_key=keys["SecretAccessKey"],
        aws_session_token=keys["SessionToken"],
    )
    with pytest.raises(ClientError, match="has no endpoint for ssm"):
        client.describe_parameters()


def test_a_build_in_a_vpc_needs_its_endpoints(cloud, vpc, shell):
    config = {"vpcId": vpc.id, "subnets": vpc.subnets, "securityGroupIds": [vpc.compute]}
    vpc.interface("logs")
    vpc.gateway()
    record, log = shell("aws sts get-caller-identity", vpcConfig=config)
    assert record["buildStatus"] == "FAILED" and f"VPC {vpc.id} has no endpoint for sts" in log
    vpc.interface("sts")
    record, _ = shell("aws sts get-caller-identity", vpcConfig=config)
    assert record["buildStatus"] == "SUCCEEDED"
    assert {"build", "studio"} & set(cloud.control("routes")["sts"])


def test_docker_needs_the_registrys_endpoint_and_s3(cloud, vpc, shell):
    config = {"vpcId": vpc.id, "subnets": vpc.subnets, "securityGroupIds": [vpc.compute]}
    uri = cloud.image({"f": "1"}, ["true"])
    host = uri.partition("/")[0]
    login = f"aws ecr get-login-password | docker login --username AWS --password-stdin {host}"
    vpc.interface("logs")
    vpc.interface("ecr.api")
    layers = "arn:aws:s3:::prod-us-east-1-starport-layer-bucket/*"
    gateway = vpc.gateway({**ANYONE, "Condition": {"StringEquals": {"aws:ResourceAccount": cloud.account}}})

    def pull() -> str:
        return shell(f"{login} && docker pull {uri}", vpcConfig=config)[1]

    assert "has no endpoint for ecr.dkr" in pull()
    vpc.interface("ecr.dkr")
    assert "prod-us-east-1-starport-layer-bucket" in (told := pull()) and "no VPC endpoint policy" in told
    policy = {"Version": "2012-10-17", "Statement": [ANYONE, {**ANYONE, "Resource": layers}]}
    vpc.ec2.modify_vpc_endpoint(VpcEndpointId=gateway, PolicyDocument=json.dumps(policy))
    assert f"Image is up to date for {uri}" in pull()


def test_a_job_reads_s3_through_its_vpc(cloud, vpc, role):
    bucket, uri = cloud.bucket(), cloud.image({"run.py": "print('ran')"}, ["python", "/run.py"])
    cloud.client("s3").put_object(Bucket=bucket, Key="in/a", Body=b"1")
    client = cloud.client("sagemaker")

    def run() -> dict[str, Any]:
        name = cloud.name("job")
        client.create_processing_job(
            ProcessingJobName=name,
            RoleArn=role,
            AppSpecification={"ImageUri": uri},
            ProcessingResources={
                "ClusterConfig": {"InstanceCount": 1, "InstanceType": "ml.t3.medium", "VolumeSizeInGB": 1}
            },
            ProcessingInputs=[
                {
                    "InputName": "in",
                    "S3Input": {
                        "S3Uri": f"s3://{bucket}/in",
                        "LocalPath": "/opt/ml/processing/in",
                        "S3DataType": "S3Prefix",
                        "S3InputMode": "File",
                    },
                }
            ],
            NetworkConfig={"VpcConfig": vpc.config},
        )

        def ended() -> dict[str, Any] | None:
            found = client.describe_processing_job(ProcessingJobName=name)
            return found if found["ProcessingJobStatus"] not in ("InProgress", "Stopping") else None

        return cloud.wait(ended, 90, name)

    failed = run()
    assert failed["ProcessingJobStatus"] == "Failed"
    assert "has no endpoint for s3" in failed["FailureReason"]
    vpc.gateway()
    assert run()["ProcessingJobStatus"] == "Completed"


def test_outside_of_a_vpc_nothing_of_this_counts(cloud, role):
    keys = cloud.client("sts").assume_role(RoleArn=role, RoleSessionName="out")["Credentials"]
    cloud.client(
        "ssm",
        aws_access_key_id=keys["AccessKeyId"],
        aws_secret_access_key=keys["SecretAccessKey"],
        aws_session_token=keys["SessionToken"],
    ).describe_parameters()


def test_the_key_of_a_service_is_not_asked_through_the_endpoint(cloud, vpc, inside):
    """S3 uses the key in the caller's name, on its own way: the policy of S3's endpoint names no key."""
    bucket, key = cloud.bucket(), cloud.client("kms").create_key()["KeyMetadata"]["Arn"]
    vpc.gateway({**ANYONE, "Action": "s3:*"})
    inside.client("s3").put_object(
        Bucket=bucket, Key="k", Body=b"1", ServerSideEncryption="aws:kms", SSEKMSKeyId=key
    )
    assert "no endpoint for kms" in inside.refused("kms", "describe_key", KeyId=key)
