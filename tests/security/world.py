"""The platform with two projects and three users in one local cloud, for the matrix of permissions.

Project "red" has the users jane and jim, project "blue" has bob. What people and pipelines would make beside
the stacks (a model, a version in the registry, a job, a file) the account's administrator makes here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import botocore.loaders
import botocore.session
from matrix import Cell, Subject

import account
import create_project
import create_user
import deploy
import publish
from rehearse.cloud import ACCOUNT, REGION, ROOT, LocalCloud

USERS = {"red": ("jane", "jim"), "blue": ("bob",)}
EMAIL = "owner@example.com"
PEOPLE = "people"  # the role that people of this account sign in with


@dataclass
class World:
    """A deployed platform: ``places`` are the names of everything in it, by scope (red, blue, platform)."""

    cloud: LocalCloud
    places: dict[str, dict[str, Any]] = field(default_factory=dict)
    roles: dict[tuple[str, str, str], str] = field(default_factory=dict)

    def names(self, cell: Cell) -> dict[str, Any]:
        """What a cell's {names} mean."""
        users = {"own": "jane", "colleague": "colleague", "other": "bob", "platform": "platform"}
        projects = {"own": "red", "other": "blue", "platform": "platform"}
        return self.places[users[cell.scope] if cell.row.group == "Studio" else projects[cell.scope]]

    def role(self, subject: Subject) -> str:
        """The role of a subject of project red."""
        owner = {"platform": "", "project": self.places["red"]["id"], "user": "jane"}[subject.of]
        return self.roles[subject.of, owner, subject.role]

    def session(self, keys: dict[str, str] | None = None) -> boto3.Session:
        """A session of the account's administrator, or under a role's credentials."""
        keys = keys or {"AccessKeyId": "test", "SecretAccessKey": "test"}
        core = botocore.session.Session()
        core.register_component("data_loader", _LOADER)
        core.set_credentials(keys["AccessKeyId"], keys["SecretAccessKey"], keys.get("SessionToken"))
        return _Session(self.cloud.url, botocore_session=core, region_name=REGION)


class _Session(boto3.Session):
    """A session of one cloud, whatever the environment says."""

    def __init__(self, url: str, **settings: Any) -> None:
        super().__init__(**settings)
        self._url = url

    def client(self, service: str, **settings: Any) -> Any:
        return super().client(service, **{"endpoint_url": self._url, **settings})


# services are described once for all the sessions, which makes their clients ten times faster
_LOADER = botocore.loaders.create_loader()


def build(cloud: LocalCloud, sources: Path = ROOT, version: str | None = None) -> World:
    """Deploy everything; the environment must lead to the cloud (AWS_ENDPOINT_URL)."""
    world = World(cloud)
    root = world.session()
    _, summary = publish.publish(root, sources, version=version)
    deploy.start(root.client("cloudformation"), publish.STACK_NAME, summary["template_url"], {})
    account.wait_for_stack(root.client("cloudformation"), publish.STACK_NAME, timeout=300, every=0.5)
    people = _people(root)
    infra = account.infra(root.client("ssm"))
    admin = world.session(
        root.client("sts").assume_role(
            RoleArn=infra["data-science-admin-role-arn"], RoleSessionName="data-science-admin"
        )["Credentials"]
    )
    begun = {}
    for name in USERS:  # both at once
        # a batch project has every role that another one has, and one more
        settings = {"CostCenter": "4711", "OwnerEmail": EMAIL, "DataScientistRoleArn": people}
        settings["InferenceMode"] = "batch"
        begun[name] = create_project.create_project(admin, name, settings)["ProjectId"]
    for name in USERS:
        create_project.wait_for_project(root, name, timeout=300, every=0.5)
    provisioned = {}
    for name, users in USERS.items():
        for user in users:
            provisioned[user] = create_user.provision_user(admin, begun[name], user)
    for identifier in provisioned.values():
        create_user.wait_for_user(root, identifier, timeout=300, every=0.5)
    for name, users in USERS.items():
        for user in users:
            create_user.wait_for_association(root, begun[name], user, timeout=300)
    return world


def _people(root: boto3.Session) -> str:
    iam = root.client("iam")
    trust = {
        "Effect": "Allow",
        "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"},
        "Action": "sts:AssumeRole",
    }
    assume = {"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": "*"}
    role = iam.create_role(RoleName=PEOPLE, AssumeRolePolicyDocument=_document(trust))["Role"]["Arn"]
    iam.put_role_policy(RoleName=PEOPLE, PolicyName="sign-in", PolicyDocument=_document(assume))
    return role


def _document(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


# ---- what is where -----------------------------------------------------------------------------------------


def roles(root: boto3.Session) -> dict[tuple[str, str, str], str]:
    """The ARN of each role by (kind of stack: platform, project or user; project id or user; logical id)."""
    cloudformation, iam = root.client("cloudformation"), root.client("iam")
    arns = {
        r["RoleName"]: r["Arn"] for page in iam.get_paginator("list_roles").paginate() for r in page["Roles"]
    }
    found = {}
    for page in cloudformation.get_paginator("describe_stacks").paginate():
        for stack in page["Stacks"]:
            given = {p["ParameterKey"]: p.get("ParameterValue", "") for p in stack.get("Parameters", [])}
            project = given.get("SageMakerProjectId") or given.get("ProjectId", "")
            kind = "user" if "UserName" in given else "project" if project else "platform"
            owner = given.get("UserName") or project
            resources = cloudformation.describe_stack_resources(StackName=stack["StackName"])
            for resource in resources["StackResources"]:
                if resource["ResourceType"] == "AWS::IAM::Role":
                    name = resource["PhysicalResourceId"]
                    found[kind, owner, resource["LogicalResourceId"]] = arns[name]
    return found


def furnish(world: World) -> None:
    """Make what people and pipelines would make, and write down the names of everything."""
    root = world.session()
    infra, found = account.infra(root.client("ssm")), roles(root)
    world.roles = found
    names = {name: account.project_id(root.client("sagemaker"), name) for name in USERS}
    common = _common(root, infra, found)
    for name, identifier in names.items():
        settings = account.project(root.client("ssm"), identifier)
        mine = {logical: arn for (_, owner, logical), arn in found.items() if owner == identifier}
        world.places[name] = common | _project(root, identifier, settings, mine)
    for name, other in (("red", "blue"), ("blue", "red")):
        theirs = world.places[other]
        world.places[name] |= {
            "foreign_id": theirs["id"],
            "foreign_key": theirs["key"],
            "foreign_role": theirs["execution_role"],
        }
    red, blue = world.places["red"], world.places["blue"]
    world.places["platform"] = common | _platform(root, infra, found, red)
    for scope, place, user in (("jane", red, "jane"), ("colleague", red, "jim"), ("bob", blue, "bob")):
        profile = f"{place['id']}-{user}"
        jane = f"{red['id']}-jane"
        world.places[scope] = place | {"profile": profile, "space": f"{profile}-jupyterlab", "jane": jane}


def _common(
    root: boto3.Session, infra: dict[str, str], found: dict[tuple[str, str, str], str]
) -> dict[str, Any]:
    services = (
        "sagemaker codecommit codebuild codepipeline ssm ecr logs lambda events catalog cloudformation ec2"
    )
    s3 = root.client("s3")
    templates = s3.list_objects_v2(Bucket=infra["release-bucket-name"])["Contents"]
    stack = root.client("cloudformation").describe_stacks(StackName=publish.STACK_NAME)["Stacks"][0]
    return {
        **{name: f"arn:aws:{name}:{REGION}:{ACCOUNT}" for name in f"{services} cloudformation ec2".split()},
        "iam": f"arn:aws:iam::{ACCOUNT}",
        "account": ACCOUNT,
        "region": REGION,
        "nothing": None,
        "domain": infra["studio-domain-id"],
        "boundary": infra["permissions-boundary-arn"],
        "people": f"arn:aws:iam::{ACCOUNT}:role/{PEOPLE}",
        "release_bucket": infra["release-bucket-name"],
        "release_template": next(o["Key"] for o in templates if "/templates/" in o["Key"]),
        "infra_stack": publish.STACK_NAME,
        "infra_stack_arn": stack["StackId"],
        "portfolio": infra["portfolio-id"],
        "package_domain": infra["codeartifact-domain"],
        "package_repository": infra["codeartifact-repository"],
        "package_repository_arn": infra["codeartifact-repository-arn"],
        "platform_deploy_role": found["platform", "", "PlatformDeployRole"],
        "launch_role": found["platform", "", "ProjectLaunchRole"],
        "full_stack_role": found["platform", "", "FullStackDeveloperRole"],
        "cleanup": infra["project-cleanup-function-arn"].rpartition(":")[2],
        "group_id": infra["compute-security-group-id"],
        "subnet": infra["private-subnet-ids"].split(",")[0],
        "no_commit": "0" * 40,
        "no_model": "matrix-nothing",
        "trust": _document(
            {
                "Effect": "Allow",
                "Principal": {"Service": "sagemaker.amazonaws.com"},
                "Action": "sts:AssumeRole",
            }
        ),
    }


def _approval(root: boto3.Session, pipeline: str) -> dict[str, Any]:
    """The manual approval of a pipeline."""
    found = root.client("codepipeline").get_pipeline(name=pipeline)["pipeline"]
    stage, action = next(
        (stage["name"], action["name"])
        for stage in found["stages"]
        for action in stage["actions"]
        if action["actionTypeId"]["category"] == "Approval"
    )
    return {"deploy_pipeline": pipeline, "approval_stage": stage, "approval_action": action}


def _file(root: boto3.Session, bucket: str, key: str) -> str:
    root.client("s3").put_object(Bucket=bucket, Key=key, Body=b"a,b\n1,2\n")
    return key


def _project(
    root: boto3.Session, identifier: str, settings: dict[str, str], mine: dict[str, str]
) -> dict[str, Any]:
    tags = [
        {"Key": "sagemaker:project-id", "Value": identifier},
        {"Key": "sagemaker:project-name", "Value": settings["project-name"]},
    ]
    bucket, key = settings["bucket-name"], settings["key-arn"]
    images = f"mlops-{identifier}/training"
    image = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/{images}:matrix"
    root.client("ecr").put_image(repositoryName=images, imageManifest=_MANIFEST, imageTag="matrix")
    sagemaker = root.client("sagemaker")
    model = f"Model-{identifier}"  # CloudFormation names it, so its name does not tell the project
    pipeline_model = f"pipelines-{identifier.replace('-', '')}-Model"
    for name in (model, pipeline_model):
        sagemaker.create_model(
            ModelName=name,
            PrimaryContainer={"Image": image},
            ExecutionRoleArn=mine["ExecutionRole"],
            Tags=tags,
        )
    endpoint = f"mlops-{identifier}-production"
    variant = {
        "VariantName": "a",
        "ModelName": model,
        "InitialInstanceCount": 1,
        "InstanceType": "ml.m5.large",
    }
    sagemaker.create_endpoint_config(EndpointConfigName=model, ProductionVariants=[variant], Tags=tags)
    # its image is empty, so it fails; it is there and has its tags
    sagemaker.create_endpoint(EndpointName=endpoint, EndpointConfigName=model, Tags=tags)
    package = sagemaker.create_model_package(
        ModelPackageGroupName=settings["model-package-group-name"],
        ModelApprovalStatus="PendingManualApproval",
        InferenceSpecification={
            "Containers": [{"Image": image}],
            "SupportedContentTypes": ["text/csv"],
            "SupportedResponseMIMETypes": ["text/csv"],
        },
    )["ModelPackageArn"]
    secret = root.client("secretsmanager").create_secret(
        Name=f"mlops-{identifier}/secret", SecretString="matrix", KmsKeyId=key
    )["ARN"]
    workflow = settings["retraining-state-machine-arn"]
    # no reason, so it ends at once
    run = root.client("stepfunctions").start_execution(stateMachineArn=workflow, input="{}")["executionArn"]
    return {
        "id": identifier,
        "workflow": workflow,
        "workflow_run": run,
        "training_workflow": workflow.replace("retraining", "training"),
        "bucket": bucket,
        "file": _file(root, bucket, "data/matrix-read.csv"),
        "artifact": _file(root, bucket, f"mlops-{identifier}/Project/matrix"),
        "table_file": _file(root, bucket, "monitoring/tables/runs/date=2026-01-01/matrix.jsonl"),
        "database": f"mlops_{identifier.replace('-', '_')}",
        "report": _file(root, bucket, "monitoring/data-quality/2026/01/01/00/summary.json"),
        "key": key,
        "ciphertext": root.client("kms").encrypt(KeyId=key, Plaintext=b"matrix")["CiphertextBlob"],
        "secret": secret,
        "repository": settings["repository-name"],
        "repository_pattern": f"mlops-{identifier}-none",
        "build_pipeline": settings["build-pipeline-name"],
        "build_pipeline_pattern": f"mlops-{identifier}-none",
        **_approval(root, settings["deploy-pipeline-name"]),
        "stages": _STAGES,
        "build_project_pattern": f"mlops-{identifier}-none",
        "build_log": f"/aws/codebuild/mlops-{identifier}-train",
        "job": f"mlops-{identifier}-job",
        "pipeline_model": pipeline_model,
        "stack": f"mlops-{identifier}-matrix",
        "images": images,
        "images_pattern": f"mlops-{identifier}/none",
        "group": settings["model-package-group-name"],
        "group_pattern": f"mlops-{identifier}-none",
        "model_package": package,
        "model": model,
        "endpoint": endpoint,
        "lifecycle": settings["lifecycle-config-arn"],
        "parameter": f"/mlops/projects/{identifier}/owner-email",
        "topic": settings["notification-topic-arn"],
        "product": settings["user-product-id"],
        "execution_role": mine["ExecutionRole"],
        "pipeline_role": mine["PipelineRole"],
        "deploy_role": mine["DeployRole"],
        "deploy_name": mine["DeployRole"].rpartition("/")[2],
        "data_scientist_role": mine["DataScientistRole"],
        "data_scientist_name": mine["DataScientistRole"].rpartition("/")[2],
        "role_path": "/mlops/projects/",
        "scope": "project",
    }


def _platform(
    root: boto3.Session,
    infra: dict[str, str],
    found: dict[tuple[str, str, str], str],
    red: dict[str, Any],
) -> dict[str, Any]:
    bucket, key, deploy_role = (
        infra["artifact-bucket-name"],
        infra["platform-key-arn"],
        found["platform", "", "PlatformDeployRole"],
    )
    resources = _resources(root, publish.STACK_NAME)
    return {
        "bucket": bucket,
        "file": _file(root, bucket, "data/matrix-read.csv"),
        "artifact": _file(root, bucket, "ModelRepoPipeline/Platform/matrix"),
        "key": key,
        "ciphertext": root.client("kms").encrypt(KeyId=key, Plaintext=b"matrix")["CiphertextBlob"],
        "foreign_key": red["key"],
        "foreign_role": red["execution_role"],
        "secret": root.client("secretsmanager").create_secret(
            Name="mlops/platform/secret", SecretString="matrix", KmsKeyId=key
        )["ARN"],
        "repository": "mlops-cicd",
        "repository_pattern": "mlops-none",
        "build_pipeline": "ModelRepoPipeline",
        "build_pipeline_pattern": "mlops-none",
        "stages": _STAGES,
        **_approval(root, "ModelRepoPipeline"),
        "pipeline_role": found["platform", "", "PipelineRole"],
        "build_project_pattern": "Build-none",  # CloudFormation names a build after its logical id
        "build_log": resources["BuildLog"],
        "flow_log": resources["FlowLogGroup"],
        "stack": f"{publish.STACK_NAME}-matrix",
        "deploy_role": deploy_role,
        "deploy_name": deploy_role.rpartition("/")[2],
        "execution_role": found["platform", "", "StudioDefaultRole"],
        "parameter": "/mlops/infra/release-version",
        "topic": resources["Topic"],
        "product": infra["project-product-id"],
        "role_path": "/mlops/platform/",
        "scope": "platform",
    }


def _resources(root: boto3.Session, stack: str) -> dict[str, str]:
    """Physical names by logical ids of a stack and all that is nested in it."""
    cloudformation, found = root.client("cloudformation"), {}
    for resource in cloudformation.describe_stack_resources(StackName=stack)["StackResources"]:
        found[resource["LogicalResourceId"]] = resource["PhysicalResourceId"]
        if resource["ResourceType"] == "AWS::CloudFormation::Stack":
            found |= _resources(root, resource["PhysicalResourceId"])
    return found


# an image of no layers: it is never run
_MANIFEST = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": {
            "mediaType": "application/vnd.docker.container.image.v1+json",
            "size": 2,
            "digest": "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
        },
        "layers": [],
    }
)
_SOURCE = {"category": "Source", "owner": "AWS", "provider": "CodeCommit", "version": "1"}
_STAGES = [{"name": "Source", "actions": [{"name": "Source", "actionTypeId": _SOURCE}]}]
