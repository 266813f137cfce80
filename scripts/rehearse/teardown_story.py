"""The last chapter: delete everything, and hold what is left against the retention policy of the
templates."""

from __future__ import annotations

from collections import Counter
from typing import Any

import boto3

import teardown
from rehearse.engine import Rehearsal

# what services make by themselves outside of any stack, and that no stack's deletion can therefore take along
SERVICE_MADE = {("AWS::Logs::LogGroup", prefix): why for prefix, why in (
    ("/aws/sagemaker/", "SageMaker makes the log groups of its jobs and endpoints"),
    ("/aws/codebuild/", "CodeBuild makes a project's log group again when a build outlives it"),
    ("/aws/lambda/", "Lambda makes a function's log group again when a call outlives it"),
)}  # fmt: skip


def _all(client: Any, operation: str, key: str, **arguments: Any) -> list[Any]:
    """Every item of a list call, over its pages if it has them."""
    if client.can_paginate(operation):
        return [item for page in client.get_paginator(operation).paginate(**arguments) for item in page[key]]
    return getattr(client, operation)(**arguments)[key]


def count(session: boto3.Session) -> set[tuple[str, str]]:
    """What the account holds, as (type, physical id), read from the services and not from CloudFormation."""
    found: set[tuple[str, str]] = set()

    def add(kind: str, service: str, operation: str, key: str, name: str = "", **arguments: Any) -> None:
        items = _all(session.client(service), operation, key, **arguments)
        found.update((kind, item[name] if name else item) for item in items)

    add("AWS::S3::Bucket", "s3", "list_buckets", "Buckets", "Name")
    add("AWS::Logs::LogGroup", "logs", "describe_log_groups", "logGroups", "logGroupName")
    add(
        "AWS::SSM::Parameter",
        "ssm",
        "get_parameters_by_path",
        "Parameters",
        "Name",
        Path="/mlops",
        Recursive=True,
    )
    add("AWS::IAM::Role", "iam", "list_roles", "Roles", "RoleName", PathPrefix="/mlops/")
    add("AWS::IAM::ManagedPolicy", "iam", "list_policies", "Policies", "Arn", Scope="Local")
    add("AWS::ECR::Repository", "ecr", "describe_repositories", "repositories", "repositoryName")
    add("AWS::CodeCommit::Repository", "codecommit", "list_repositories", "repositories", "repositoryId")
    add("AWS::CodeBuild::Project", "codebuild", "list_projects", "projects")
    add("AWS::CodePipeline::Pipeline", "codepipeline", "list_pipelines", "pipelines", "name")
    add("AWS::CodeArtifact::Domain", "codeartifact", "list_domains", "domains", "arn")
    add("AWS::Events::Rule", "events", "list_rules", "Rules", "Name")
    add("AWS::Scheduler::Schedule", "scheduler", "list_schedules", "Schedules", "Name")
    add("AWS::Lambda::Function", "lambda", "list_functions", "Functions", "FunctionName")
    add("AWS::SNS::Topic", "sns", "list_topics", "Topics", "TopicArn")
    add("AWS::CloudWatch::Alarm", "cloudwatch", "describe_alarms", "MetricAlarms", "AlarmName")
    add("AWS::ServiceCatalog::Portfolio", "servicecatalog", "list_portfolios", "PortfolioDetails", "Id")
    add("AWS::CloudFormation::Stack", "cloudformation", "describe_stacks", "Stacks", "StackId")
    for kind, operation, key, name in (
        ("Domain", "list_domains", "Domains", "DomainId"),
        ("UserProfile", "list_user_profiles", "UserProfiles", "UserProfileName"),
        ("Space", "list_spaces", "Spaces", "SpaceName"),
        (
            "StudioLifecycleConfig",
            "list_studio_lifecycle_configs",
            "StudioLifecycleConfigs",
            "StudioLifecycleConfigName",
        ),
        ("Endpoint", "list_endpoints", "Endpoints", "EndpointName"),
        ("EndpointConfig", "list_endpoint_configs", "EndpointConfigs", "EndpointConfigArn"),
        ("Model", "list_models", "Models", "ModelName"),
        (
            "ModelPackageGroup",
            "list_model_package_groups",
            "ModelPackageGroupSummaryList",
            "ModelPackageGroupArn",
        ),
        ("Pipeline", "list_pipelines", "PipelineSummaries", "PipelineName"),
    ):
        add(f"AWS::SageMaker::{kind}", "sagemaker", operation, key, name)
    kms = session.client("kms")
    for key in _all(kms, "list_keys", "Keys"):
        detail = kms.describe_key(KeyId=key["KeyId"])["KeyMetadata"]
        if detail["KeyManager"] == "CUSTOMER" and detail["KeyState"] == "Enabled":
            found.add(("AWS::KMS::Key", key["KeyId"]))
    for vpc in _all(session.client("ec2"), "describe_vpcs", "Vpcs"):
        if not vpc.get("IsDefault"):
            found.add(("AWS::EC2::VPC", vpc["VpcId"]))
    return found


def inventory(r: Rehearsal) -> set[tuple[str, str]]:
    """What the account held before the rehearsal."""
    return count(r.administrator())


def teardown_everything(r: Rehearsal, before: set[tuple[str, str]]) -> None:
    """Delete users, projects and infrastructure; everything that is left must be there by policy."""
    with r.use_case("–", "teardown"):
        session = r.administrator()
        r.census.count()
        r.facts["stacks"] = sorted(
            ({"name": s["name"], "types": dict(s["types"])} for s in r.census.stacks.values()),
            key=lambda s: s["name"],
        )
        with r.step("what will be deleted, and what is retained") as step:
            planned = teardown.plan(session, r.facts["infra_stack"])
            kinds = Counter(item["type"].removeprefix("AWS::") for item in planned["retained"])
            step.say(", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items())))
        with r.step("delete users, projects and infrastructure") as step:
            teardown.carry_out(session, planned, step.say, every=0.5, tick=r.tick)
            step.say(f"{len(planned['projects'])} projects, then {planned['stack']}")
        with r.step("what is left is what the retention policy says") as step:
            step.say(compare(r, before, planned["retained"]))


def compare(r: Rehearsal, before: set[tuple[str, str]], retained: list[dict[str, str]]) -> str:
    """Nothing may be left that no policy retains, and nothing retained may be gone."""
    left = count(r.administrator()) - before
    policy = {(item["type"], item["id"]) for item in retained}
    release = ("AWS::S3::Bucket", r.facts["release"]["bucket"])
    by_service = {
        item
        for item in left
        for kind, prefix in SERVICE_MADE
        if item[0] == kind and item[1].startswith(prefix)
    } - policy
    surplus = sorted(left - policy - by_service - {release})
    kinds = {kind for kind, _ in left | before}
    gone = sorted(item for item in policy - left if item[0] in kinds)
    r.facts["left"] = {
        "retained": sorted(f"{kind}: {name}" for kind, name in left & policy),
        "made by services": sorted(f"{kind}: {name}" for kind, name in by_service),
        "release": [f"{release[0]}: {release[1]}"],
    }
    r.check(
        not surplus and not gone,
        f"after the teardown {len(surplus)} resources are left that no policy retains, "
        f"and {len(gone)} that are to be retained are gone",
        [f"left: {kind} {name}" for kind, name in surplus] + [f"gone: {kind} {name}" for kind, name in gone],
        "DeletionPolicy in mlops-cfn, and docs/operations.md",
    )
    return (
        f"{len(left & policy)} retained by policy, {len(by_service)} log groups made by services, "
        "the release bucket; nothing else"
    )
