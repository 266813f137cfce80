"""Each launch role may do what CloudFormation does for the resources of its templates.

What CloudFormation calls is in the registry's schemas (handlers.<verb>.permissions), which cfn-lint ships.
They list every call that a type can ever need; NOT_NEEDED names those that depend on a property which our
resources do not set, and fails when one does.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cfnlint.schema.manager import PROVIDER_SCHEMA_MANAGER
from house_rules import CFN, Template, as_list, branches, load, plain

FIXTURES = Path(__file__).parent / "fixtures"
VERBS = ("create", "read", "update", "delete")
# without network and keys: an administrator makes them at launch; the deploy role may only change them
INFRA = [
    "1-infra.yaml",
    *(
        f"infra/{name}.yaml"
        for name in ("storage", "packages", "studio", "catalog", "source", "functions", "identity")
    ),
]
LAUNCHES = {
    "project": (
        "ProjectLaunchRole",
        ["2-smproject.yaml", *sorted(f"project/{p.name}" for p in (CFN / "project").glob("*.yaml"))],
    ),
    "user": ("UserLaunchRole", ["3-user.yaml"]),
    "platform": ("PlatformDeployRole", INFRA),
}
# regular expression of "<type> <action>" -> property that brings the call; '' = never, with the reason
NOT_NEEDED = {
    r"S3::Bucket s3tables:": "MetadataTableConfiguration",
    r"S3::Bucket s3:.*Metadata.*Configuration": "MetadataConfiguration",
    r"S3::Bucket s3:.*Analytics": "AnalyticsConfigurations",
    r"S3::Bucket s3:.*Inventory": "InventoryConfigurations",
    r"S3::Bucket s3:.*Metrics": "MetricsConfigurations",
    r"S3::Bucket s3:.*Accelerate": "AccelerateConfiguration",
    r"S3::Bucket s3:.*Replication": "ReplicationConfiguration",
    r"S3::Bucket s3:.*ObjectLock": "ObjectLockConfiguration",
    r"S3::Bucket s3:.*IntelligentTiering": "IntelligentTieringConfigurations",
    r"S3::Bucket s3:.*Website": "WebsiteConfiguration",
    r"S3::Bucket s3:.*Cors": "CorsConfiguration",
    r"S3::Bucket s3:PutObjectAcl": "AccessControl",
    r"S3::Bucket s3:DeleteObject": "",  # a bucket is never emptied by CloudFormation
    r"S3::Bucket s3:DeleteBucket(Encryption|Lifecycle)": "",  # no IAM actions: Put…Configuration covers them
    r"Logs::LogGroup .*(DataProtectionPolicy|IndexPolicy|ResourcePolicy)": "DataProtectionPolicy",
    r"Logs::LogGroup .*(BearerToken|DeletionProtection|TagDeliveryStream)": "DataProtectionPolicy",
    r"Logs::LogGroup (s3:REST.PUT.OBJECT|logs:CreateLogDelivery)": "DataProtectionPolicy",
    r"SNS::Topic sns:PutDataProtectionPolicy": "DataProtectionPolicy",
    r"CodePipeline::Pipeline codepipeline:(Disable|Enable)StageTransition": "DisableInboundStageTransitions",
    r"CodePipeline::Pipeline codepipeline:StartPipelineExecution": "RestartExecutionOnUpdate",
    r"CodePipeline::Pipeline codestar-connections:": "Triggers",
    r"ServiceCatalog::CloudFormationProduct codestar-connections:": "SourceConnection",
    r"ServiceCatalog::CloudFormationProduct .*ServiceAction": "",  # we associate none
    r"IAM::(ManagedPolicy|Policy) iam:\w+UserPolicy": "Users",
    r"IAM::(ManagedPolicy|Policy) iam:\w*Group\w*": "Groups",
    r"IAM::Role iam:DeleteRolePermissionsBoundary": "",  # every role has one, and keeps it
    r"IAM::ManagedPolicy iam:DetachRolePolicy": "",  # checked with the roles
    # nested stacks have neither
    r"CloudFormation::Stack cloudformation:(UpdateTerminationProtection|[GS]etStackPolicy)": "",
    r"SageMaker::(Domain|UserProfile) sagemaker:DescribeImage": "CustomImages",
    r"SageMaker::Domain sagemaker:\w+App": "",
    r"SageMaker::Domain efs:": "",
    r"SageMaker::\w+ (sso|identitystore):": "SingleSignOnUserValue",
    r"SageMaker::Domain iam:CreateServiceLinkedRole": "",  # an administrator makes it at launch
    r"CodeCommit::Repository codecommit:UpdateRepositoryName": "",  # names are fixed by contract
    r"ServiceCatalog::PortfolioPrincipalAssociation iam:Get(User|Group)": "",  # our principals are roles
    r"Lambda::Function lambda:\w*Concurrency": "ReservedConcurrentExecutions",
    r"Lambda::Function \w+:\w*MountTargets": "FileSystemConfigs",
    r"Lambda::Function lambda:\w*CodeSigning\w*": "CodeSigningConfigArn",
    r"Lambda::Function lambda:GetLayerVersion": "Layers",
    r"Lambda::Function lambda:(\w*RuntimeManagement|AssociateRuntimeAlias)": "RuntimeManagementConfig",
    r"Lambda::Function lambda:PutFunctionRecursionConfig": "RecursiveLoop",
    r"Lambda::Function lambda:PutFunctionScaling": "FunctionScalingConfig",
    r"Lambda::Function lambda:PassCapacityProvider": "CapacityProviderConfig",
    r"Lambda::Function lambda:PublishVersion": "",
    # What the platform's own deploy role is not given on purpose: these are made at launch and kept.
    r"(S3::Bucket|KMS::Key) (s3:(Create|Delete)Bucket|kms:(CreateKey|ScheduleKeyDeletion))$": "platform only",
}
# ARN of a resource with a name of its own (name property; <n> is the name)
NAMED = {
    "AWS::S3::Bucket": ("BucketName", "arn:aws:s3:::<n>"),
    "AWS::ECR::Repository": ("RepositoryName", "arn:aws:ecr:R:A:repository/<n>"),
    "AWS::CodeCommit::Repository": ("RepositoryName", "arn:aws:codecommit:R:A:<n>"),
    "AWS::CodePipeline::Pipeline": ("Name", "arn:aws:codepipeline:R:A:<n>"),
    "AWS::CodeBuild::Project": ("Name", "arn:aws:codebuild:R:A:project/<n>"),
    "AWS::SageMaker::ModelPackageGroup": (
        "ModelPackageGroupName",
        "arn:aws:sagemaker:R:A:model-package-group/<n>",
    ),
    "AWS::SageMaker::StudioLifecycleConfig": (
        "StudioLifecycleConfigName",
        "arn:aws:sagemaker:R:A:studio-lifecycle-config/<n>",
    ),
    "AWS::SSM::Parameter": ("Name", "arn:aws:ssm:R:A:parameter<n>"),
    "AWS::Logs::LogGroup": ("LogGroupName", "arn:aws:logs:R:A:log-group:<n>"),
}
REGION, ACCOUNT = "ap-southeast-1", "123456789012"


@dataclass(frozen=True)
class Grant:
    """One allowed action on one pattern of resources."""

    action: str
    resource: str


def grants_of(role: str, identity: Template) -> list[Grant]:
    """What the managed policies of a role allow."""
    attached = {str(policy["Ref"]) for policy in identity.resources[role]["Properties"]["ManagedPolicyArns"]}
    found = [Grant("lambda:InvokeFunction", "*")]  # attached by functions.yaml, to the two functions
    for name in attached:
        for statement in branches(identity.resources[name]["Properties"]["PolicyDocument"]["Statement"]):
            if statement["Effect"] == "Allow":
                patterns = [plain(resource) for resource in as_list(statement["Resource"])]
                found += [
                    Grant(str(a), pattern) for a in as_list(statement["Action"]) for pattern in patterns
                ]
    return found


def sample(name: object) -> str:
    """A name as it is at run time."""
    text = plain(name, 3)
    sub = name.get("Fn::Sub") if isinstance(name, dict) else None
    if isinstance(sub, str):
        known = {
            "SageMakerProjectId": "p-abcdefghijkl",
            "ProjectId": "p-abcdefghijkl",
            "AWS::AccountId": ACCOUNT,
            "AWS::Region": REGION,
        }
        text = re.sub(r"\$\{([^}]+)\}", lambda match: known.get(match[1], "xyz"), sub)
    elif isinstance(name, dict) and "Fn::Join" in name:
        text = "mlops-p-abcdefghijkl-1-0-0"
    return text


def calls_of(templates: Iterable[Template], platform: bool) -> Iterator[tuple[str, str, str]]:
    """(type, action, ARN or '') of every call that CloudFormation makes for these templates."""
    for template in templates:
        for resource in template.resources.values():
            kind, properties = resource["Type"], resource.get("Properties", {})
            if kind.startswith("Custom::"):
                yield kind, "lambda:InvokeFunction", ""
                continue
            arn = ""
            if kind in NAMED and NAMED[kind][0] in properties:
                arn = (
                    NAMED[kind][1]
                    .replace("<n>", sample(properties[NAMED[kind][0]]))
                    .replace(":R:A:", f":{REGION}:{ACCOUNT}:")
                )
            handlers = PROVIDER_SCHEMA_MANAGER.get_resource_schema("us-east-1", kind).schema.get(
                "handlers", {}
            )
            for action in sorted(
                {a for verb in VERBS for a in handlers.get(verb, {}).get("permissions", [])}
            ):
                reason = next(
                    (p for rule, p in NOT_NEEDED.items() if re.search(rule, f"{kind[5:]} {action}")), None
                )
                if (
                    reason is not None
                    and reason not in properties
                    and (reason != "platform only" or platform)
                ):
                    continue
                yield kind, action, arn


def missing(grants: list[Grant], calls: Iterable[tuple[str, str, str]]) -> set[str]:
    """Calls that no grant allows, as 'type action' or 'type action on arn'."""
    found = set()
    for kind, action, arn in calls:
        allowed = [g for g in grants if fnmatch.fnmatchcase(action.lower(), g.action.lower())]
        if not allowed:
            found.add(f"{kind} {action}")
        # only calls of the type's own service are made on the resource itself
        elif (
            arn
            and action.split(":")[0] == arn.split(":")[2]
            and not any(fnmatch.fnmatchcase(arn, g.resource) for g in allowed)
        ):
            found.add(f"{kind} {action} on {arn}")
    return found


@pytest.mark.parametrize("launch", LAUNCHES)
def test_launch_role_suffices(launch: str) -> None:
    role, paths = LAUNCHES[launch]
    grants = grants_of(role, load(CFN / "infra" / "identity.yaml"))
    calls = calls_of([load(CFN / path) for path in paths], launch == "platform")
    assert missing(grants, calls) == set()


@pytest.mark.parametrize("launch", ["project", "user"])
def test_launch_roles_cannot_touch_the_platform(launch: str) -> None:
    """The platform's own is out of reach: a product cannot rewrite what all projects stand on."""
    grants = grants_of(LAUNCHES[launch][0], load(CFN / "infra" / "identity.yaml"))
    own = [
        ("iam:PutRolePolicy", f"arn:aws:iam::{ACCOUNT}:role/mlops/platform/x"),
        ("iam:PassRole", f"arn:aws:iam::{ACCOUNT}:role/mlops/platform/x"),
        ("iam:CreatePolicyVersion", f"arn:aws:iam::{ACCOUNT}:policy/mlops/boundary/x"),
        ("s3:PutBucketPolicy", "arn:aws:s3:::mlops-release-123456789012-us-east-1"),
        ("codecommit:DeleteRepository", f"arn:aws:codecommit:{REGION}:{ACCOUNT}:mlops-cicd"),
        ("codepipeline:UpdatePipeline", f"arn:aws:codepipeline:{REGION}:{ACCOUNT}:ModelRepoPipeline"),
        ("ssm:PutParameter", f"arn:aws:ssm:{REGION}:{ACCOUNT}:parameter/mlops/infra/vpc-id"),
        ("cloudformation:UpdateStack", f"arn:aws:cloudformation:{REGION}:{ACCOUNT}:stack/mlops-platform/1"),
    ]
    reached = [
        (action, arn)
        for action, arn in own
        if any(fnmatch.fnmatchcase(action, g.action) and fnmatch.fnmatchcase(arn, g.resource) for g in grants)
    ]
    assert reached == []


def test_missing_rights_are_found() -> None:
    identity = load(FIXTURES / "launch_role" / "identity.yaml")
    found = missing(
        grants_of("Role", identity), calls_of([load(FIXTURES / "launch_role" / "product.yaml")], False)
    )
    assert "AWS::ECR::Repository ecr:CreateRepository" in found, "an action that is not granted"
    create = "AWS::CodeCommit::Repository codecommit:CreateRepository"
    wrong = f"{create} on arn:aws:codecommit:{REGION}:{ACCOUNT}:other-xyz"
    assert wrong in found, "an action that is granted on other names"
    assert "AWS::S3::Bucket s3:PutReplicationConfiguration" in found, "a property that brings further calls"
    assert "AWS::S3::Bucket s3:PutMetricsConfiguration" not in found
