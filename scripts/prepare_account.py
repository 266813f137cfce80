"""Prepares another account for the staging or production of projects (flow F, Full Stack Developer with an
administrator of that account).

    make prepare-account ARGS='--profile staging'                    what every project there shares
    make prepare-account ARGS='--profile staging --project churn'    and the roles of one project
    make prepare-account ARGS='--profile staging --project churn --remove'    what would go; really with --yes
    make prepare-account ARGS='--stackset build/accounts --project churn'     files and commands for StackSets

The tooling account is that of the usual credentials, or of --tooling-profile. Running it again changes
nothing; after a new release it brings that account to it. JSON on stdout, sentences on stderr.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError, ProfileNotFound

import account
import release

ACCOUNT_STACK = "mlops-account"
CAPABILITIES = ["CAPABILITY_IAM", "CAPABILITY_NAMED_IAM"]
TEMPLATES = {"account": "account.yaml", "project": "project.yaml"}
STAGES = ("staging", "production")
# what accounts/project.yaml takes from the parameters that 2-smproject writes
OF_THE_PROJECT = {
    "ProjectName": "project-name",
    "CostCenter": "cost-center",
    "PipelineRoleArn": "pipeline-role-arn",
    "ReleaseRoleArn": "release-role-arn",
    "ProjectBucketName": "bucket-name",
    "ProjectKeyArn": "key-arn",
    "NotificationTopicArn": "notification-topic-arn",
}
FORBIDDEN = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "UnauthorizedAccess"}


class PrepareError(RuntimeError):
    """The account cannot be prepared; the message says why and what to do."""


@dataclass(frozen=True)
class Tooling:
    """The account of the platform, and what its release says of other accounts."""

    session: boto3.Session
    account: str
    region: str
    infra: dict[str, str]
    templates: dict[str, str]


@dataclass(frozen=True)
class Project:
    """A project and what its stack wrote."""

    id: str
    settings: dict[str, str]

    @property
    def stack(self) -> str:
        """Its stack in the other account. The deploy pipeline may change mlops-<id>-* only, so not this."""
        return f"{ACCOUNT_STACK}-{self.id}"

    @property
    def tags(self) -> dict[str, str]:
        """What everything of the project carries."""
        return {
            "sagemaker:project-id": self.id,
            "sagemaker:project-name": self.settings["project-name"],
            "mlops:cost-center": self.settings["cost-center"],
        }

    def stages_in(self, number: str) -> list[str]:
        """The stages that the project has in an account."""
        return [stage for stage in STAGES if self.settings.get(f"{stage}-account-id") == number]


def account_of(session: boto3.Session) -> str:
    """The account that a session works in."""
    return session.client("sts").get_caller_identity()["Account"]


def release_templates(session: boto3.Session, infra: dict[str, str]) -> dict[str, str]:
    """The templates of the release that the platform runs, as they were published."""
    s3, bucket, version = session.client("s3"), infra["release-bucket-name"], infra["release-version"]
    listed = s3.list_objects_v2(Bucket=bucket, Prefix=f"{version}/accounts/").get("Contents", [])
    found = {}
    for name in TEMPLATES:
        key = next((o["Key"] for o in listed if o["Key"].split("/")[-1].startswith(f"{name}.")), "")
        if not key:
            raise PrepareError(
                f"release {version} knows no other accounts: deploy a newer one with `make deploy` first"
            )
        data = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        if release.short_hash(data) not in key:
            raise PrepareError(
                f"s3://{bucket}/{key} is not what was published: somebody changed it. Launch nothing from "
                "it, look at the object's versions, and publish the release again to another bucket"
            )
        found[name] = data.decode()
    return found


def tooling_of(session: boto3.Session, expected: str = "") -> Tooling:
    """The tooling account; `expected` is the account that the person means."""
    number = account_of(session)
    if expected and expected != number:
        raise PrepareError(
            f"these credentials are of account {number}, not of {expected}: choose the tooling "
            "account's with --tooling-profile, or correct --tooling-account"
        )
    infra = account.infra(session.client("ssm"))
    return Tooling(session, number, session.region_name, infra, release_templates(session, infra))


def project_of(tooling: Tooling, name: str) -> Project:
    """A project by its name, with what its stack wrote."""
    known = {p["ProjectName"]: p["ProjectId"] for p in account.projects(tooling.session.client("sagemaker"))}
    if name not in known:
        raise PrepareError(
            f"there is no project {name!r} in account {tooling.account}; projects there: "
            f"{', '.join(sorted(known)) or 'none'}"
        )
    settings = account.project(tooling.session.client("ssm"), known[name])
    if lacking := [key for key in (*OF_THE_PROJECT.values(), "staging-account-id") if key not in settings]:
        raise PrepareError(
            f"project {name} is of an older release, which knows no other accounts ({', '.join(lacking)} is "
            "not there): update it in Service Catalog"
        )
    return Project(known[name], settings)


def check_target(tooling: Tooling, number: str, session: boto3.Session) -> None:
    """Refuse an account that cannot be one of a stage."""
    if number == tooling.account:
        raise PrepareError(
            f"account {number} is the tooling account itself, where nothing needs to be prepared: --profile "
            "must lead to the account of the stage"
        )
    if session.region_name != tooling.region:
        raise PrepareError(
            f"the profile works in {session.region_name}, the platform in {tooling.region}: models, images "
            "and keys do not leave their region; use the same one"
        )
    allowed = tooling.infra.get("stage-account-ids", "none")
    if number not in allowed.split(","):
        raise PrepareError(
            f"1-infra names the accounts of stages as {allowed}, and not {number}, so its network would stop "
            f"releases: make deploy ARGS='--parameter StageAccountIds={with_one_more(allowed, number)}'"
        )
    there = account.parameters(session.client("ssm"), account.INFRA)
    if "portfolio-id" in there:
        raise PrepareError(f"account {number} has a platform of its own (1-infra): choose another account")
    other = there.get("tooling-account-id", tooling.account)
    if other != tooling.account:
        raise PrepareError(
            f"account {number} belongs to the platform of account {other}: one account serves one platform"
        )


def with_one_more(allowed: str, number: str) -> str:
    """The value of StageAccountIds that names an account too."""
    return number if allowed == "none" else f"{allowed},{number}"


def check_project(project: Project, number: str) -> None:
    """A project deploys where it says, and nowhere else."""
    if not project.stages_in(number):
        where = ", ".join(f"{stage} in {project.settings[f'{stage}-account-id']}" for stage in STAGES)
        raise PrepareError(
            f"project {project.settings['project-name']} has {where}, and nothing in {number}: update it in "
            f"Service Catalog with StagingAccountId or ProductionAccountId {number}, or use another --profile"
        )


def account_parameters(ec2: Any, tooling: Tooling, more: dict[str, str]) -> dict[str, str]:
    """Parameters of accounts/account.yaml; `more` are what a person sets, such as VpcCidr."""
    name = f"com.amazonaws.{tooling.region}.s3"
    lists = ec2.describe_managed_prefix_lists(Filters=[{"Name": "prefix-list-name", "Values": [name]}])
    found = [one["PrefixListId"] for one in lists["PrefixLists"] if one["PrefixListName"] == name]
    if not found:
        raise PrepareError(f"there is no managed prefix list {name} in {tooling.region}")
    return {"ToolingAccountId": tooling.account, "S3PrefixListId": found[0], **more}


def project_parameters(project: Project) -> dict[str, str]:
    """Parameters of accounts/project.yaml."""
    return {"ProjectId": project.id} | {name: project.settings[key] for name, key in OF_THE_PROJECT.items()}


def launch(
    session: boto3.Session,
    stack: str,
    template: str,
    parameters: dict[str, str],
    tags: dict[str, str],
    every: float = 5,
    tick: Callable[[], None] = lambda: None,
) -> str:
    """Create a stack, or update it keeping what is not given, and wait; returns create, update or none."""
    cloudformation = session.client("cloudformation")
    status = account.stack_status(cloudformation, stack)
    body = {
        "StackName": stack,
        "TemplateBody": template,
        "Capabilities": CAPABILITIES,
        "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
    }
    given = [{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()]
    if (
        status == "ROLLBACK_COMPLETE"
    ):  # of a creation that failed: it holds nothing, and only stands in the way
        cloudformation.delete_stack(StackName=stack)
        account.wait_for_stack(cloudformation, stack, every=every, tick=tick)
        status = "DELETE_COMPLETE"
    if status == "DELETE_COMPLETE":
        cloudformation.create_stack(**body, Parameters=given, OnFailure="ROLLBACK")
        done = "create"
    else:
        described = cloudformation.describe_stacks(StackName=stack)["Stacks"][0].get("Parameters", [])
        kept = [
            {"ParameterKey": p["ParameterKey"], "UsePreviousValue": True}
            for p in described
            if p["ParameterKey"] not in parameters and f"\n  {p['ParameterKey']}:\n" in template
        ]
        try:
            cloudformation.update_stack(**body, Parameters=given + kept)
        except ClientError as error:
            if "No updates are to be performed" in str(error):
                return "none"
            raise
        done = "update"
    account.wait_for_stack(cloudformation, stack, every=every, tick=tick)
    return done


def close_default_group(ec2: Any, group: str) -> int:
    """Take the rules of the group that EC2 made with the network, which no template can; their number."""
    found = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]
    rules = {"ingress": found.get("IpPermissions", []), "egress": found.get("IpPermissionsEgress", [])}
    for direction, some in rules.items():
        if some:
            getattr(ec2, f"revoke_security_group_{direction}")(GroupId=group, IpPermissions=some)
    return sum(map(len, rules.values()))


def prepare(
    tooling: Tooling,
    target: boto3.Session,
    names: list[str],
    more: dict[str, str] | None = None,
    say: Callable[[str], None] = lambda text: None,
    every: float = 5,
    tick: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Launch or update what the account needs, and what each project needs there."""
    number = account_of(target)
    check_target(tooling, number, target)
    projects = [project_of(tooling, name) for name in names]
    for project in projects:
        check_project(project, number)
    ec2 = target.client("ec2")
    done = {}
    say(f"account {number}: stack {ACCOUNT_STACK}")
    given = account_parameters(ec2, tooling, more or {})
    done[ACCOUNT_STACK] = launch(target, ACCOUNT_STACK, tooling.templates["account"], given, {}, every, tick)
    outputs = target.client("cloudformation").describe_stacks(StackName=ACCOUNT_STACK)["Stacks"][0]["Outputs"]
    group = next(o["OutputValue"] for o in outputs if o["OutputKey"] == "DefaultSecurityGroupId")
    closed = close_default_group(ec2, group)
    for project in projects:
        say(f"account {number}: stack {project.stack}")
        given = project_parameters(project)
        done[project.stack] = launch(
            target, project.stack, tooling.templates["project"], given, project.tags, every, tick
        )
    return {
        "account": number,
        "region": tooling.region,
        "tooling_account": tooling.account,
        "release": tooling.infra["release-version"],
        "stacks": done,
        "rules_closed": closed,
        "next": next_steps(tooling, number, projects),
    }


def next_steps(tooling: Tooling, number: str, prepared: list[Project]) -> list[str]:
    """What is still to be done, by whom."""
    if not prepared:
        return [
            "for each project: create or update it in Service Catalog with StagingAccountId or "
            f"ProductionAccountId {number}, then run this again with --project"
        ]
    steps = []
    for project in prepared:
        name = project.settings["project-name"]
        others = {project.settings[f"{stage}-account-id"] for stage in STAGES} - {number, tooling.account}
        steps += [
            f"project {name} has a stage in {other} too: prepare it likewise" for other in sorted(others)
        ]
        steps.append(f"project {name}: the next approved version is deployed to account {number}")
    return steps


def removal(target: boto3.Session, names: list[str]) -> dict[str, Any]:
    """What --remove deletes, in order, and what stays. The platform and its projects may be gone already."""
    cloudformation = target.client("cloudformation")
    number = account_of(target)
    written = account.parameters(target.client("ssm"), account.PROJECTS)
    known = {v: k.split("/")[0] for k, v in written.items() if k.endswith("/project-name")}
    if unknown := [name for name in names if name not in known]:
        raise PrepareError(
            f"account {number} knows no project {', '.join(unknown)}; projects there: "
            f"{', '.join(sorted(known)) or 'none'}"
        )
    if not names and known:
        raise PrepareError(
            f"projects still have stages in account {number}: {', '.join(sorted(known))}; "
            "remove these first, each with --project"
        )
    stacks = [] if names else [ACCOUNT_STACK]
    for identifier in (known[name] for name in names):
        stacks += [f"mlops-{identifier}-{stage}" for stage in ("production", "staging")]
        stacks.append(f"{ACCOUNT_STACK}-{identifier}")
    found = [one for one in stacks if account.stack_status(cloudformation, one) != "DELETE_COMPLETE"]
    return {"account": number, "stacks": found, "retained": kept_by(cloudformation, found)}


def kept_by(cloudformation: Any, stacks: list[str]) -> list[dict[str, str]]:
    """What the policies of the templates keep."""
    found = []
    for stack in stacks:
        pages = cloudformation.get_paginator("list_stack_resources").paginate(StackName=stack)
        kept = ("AWS::KMS::Key", "AWS::Logs::LogGroup")
        found += [
            {"stack": stack, "type": one["ResourceType"], "id": one["PhysicalResourceId"]}
            for page in pages
            for one in page["StackResourceSummaries"]
            if one["ResourceType"] in kept
        ]
    return found


def remove(
    target: boto3.Session,
    planned: dict[str, Any],
    say: Callable[[str], None] = lambda text: None,
    every: float = 5,
    tick: Callable[[], None] = lambda: None,
) -> None:
    """Delete the stacks, endpoints before the roles that they need."""
    cloudformation = target.client("cloudformation")
    for stack in planned["stacks"]:
        say(f"account {planned['account']}: stack {stack}")
        found = cloudformation.describe_stacks(StackName=stack)["Stacks"][0]["StackId"]
        cloudformation.delete_stack(StackName=stack)
        account.wait_for_stack(cloudformation, found, 3600, every, tick)


def stackset(tooling: Tooling, folder: Path, names: list[str], more: dict[str, str]) -> list[str]:
    """Write templates and parameters for StackSets; returns the commands, which an administrator runs."""
    folder.mkdir(parents=True, exist_ok=True)
    ec2 = tooling.session.client("ec2")
    sets = {ACCOUNT_STACK: ("account", account_parameters(ec2, tooling, more), {}, "<accounts of stages>")}
    for name in names:
        project = project_of(tooling, name)
        here = {project.settings[f"{stage}-account-id"] for stage in STAGES} - {tooling.account}
        if not here:
            raise PrepareError(f"project {name} has both stages in the tooling account: nothing to prepare")
        given = project_parameters(project)
        sets[project.stack] = ("project", given, project.tags, " ".join(sorted(here)))
    commands = []
    for name, (template, given, tags, accounts) in sets.items():
        (folder / TEMPLATES[template]).write_text(tooling.templates[template])
        listed = [{"ParameterKey": k, "ParameterValue": v} for k, v in given.items()]
        (folder / f"{name}.json").write_text(json.dumps(listed, indent=2) + "\n")
        tagged = " ".join(f"Key={key},Value={value}" for key, value in tags.items())
        commands += [
            f"aws cloudformation create-stack-set --stack-set-name {name} "
            f"--template-body file://{folder / TEMPLATES[template]} --parameters file://{folder / name}.json "
            "--capabilities CAPABILITY_NAMED_IAM" + (f" --tags {tagged}" if tagged else ""),
            f"aws cloudformation create-stack-instances --stack-set-name {name} "
            f"--accounts {accounts} --regions {tooling.region}",
        ]
    return commands


def session_of(profile: str, region: str | None = None) -> boto3.Session:
    """A session of a profile of this machine."""
    try:
        return boto3.Session(profile_name=profile or None, region_name=region)
    except ProfileNotFound as error:
        raise PrepareError(f"{error}: `aws configure list-profiles` shows which there are") from error


def explained(error: ClientError, target: str) -> str:
    """An error of AWS with what to do about it."""
    if error.response["Error"]["Code"] in FORBIDDEN:
        return f"{error}\n  use credentials of an administrator of account {target or 'the stage'}"
    return str(error)


def main(
    argv: list[str] | None = None,
    session: boto3.Session | None = None,
    target: boto3.Session | None = None,
) -> int:
    """Prepare, remove or write files for StackSets; exit 0 done, 1 fault, 2 usage, 3 nothing to remove."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="", help="AWS profile of the account to prepare")
    parser.add_argument("--tooling-profile", default="", help="AWS profile of the tooling account")
    parser.add_argument("--tooling-account", default="", help="fail when the tooling account is another one")
    parser.add_argument(
        "--project", action="append", default=[], help="also for this project; may be repeated"
    )
    parser.add_argument("--parameter", action="append", default=[], metavar="NAME=VALUE", help="e.g. VpcCidr")
    parser.add_argument("--remove", action="store_true", help="show what would be deleted there")
    parser.add_argument("--yes", action="store_true", help="with --remove: really delete")
    parser.add_argument("--stackset", type=Path, metavar="FOLDER", help="write what StackSets need instead")
    arguments = parser.parse_args(argv)
    if wrong := [p for p in arguments.parameter if "=" not in p]:
        parser.error(f"--parameter {wrong[0]}: write NAME=VALUE")
    if not (arguments.profile or target or arguments.stackset):
        parser.error("--profile of the account to prepare is missing")
    more = dict(p.split("=", 1) for p in arguments.parameter)
    number = ""

    def say(text: str) -> None:
        print(f"prepare-account: {text}", file=sys.stderr)

    try:
        if arguments.remove:
            target = target or session_of(arguments.profile)
            number = account_of(target)
            planned = removal(target, arguments.project)
            if not planned["stacks"]:
                say(f"nothing of it is in account {number}")
                return 3
            if arguments.yes:
                remove(target, planned, say)
            shown: Any = {"deleted": arguments.yes, **planned}
        else:
            tooling = tooling_of(session or session_of(arguments.tooling_profile), arguments.tooling_account)
            if arguments.stackset:
                shown = {"commands": stackset(tooling, arguments.stackset, arguments.project, more)}
            else:
                target = target or session_of(arguments.profile, tooling.region)
                number = account_of(target)
                shown = prepare(tooling, target, arguments.project, more, say)
    except (PrepareError, account.NotFoundError, account.FailedError, BotoCoreError) as error:
        print(f"prepare-account: {error}", file=sys.stderr)
        return 1
    except ClientError as error:
        print(f"prepare-account: {explained(error, number)}", file=sys.stderr)
        return 1
    print(json.dumps(shown, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
