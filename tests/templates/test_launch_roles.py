"""Each launch role may do what CloudFormation does for its templates, and nothing else.

The questions are those that the local cloud asks when it makes, changes and deletes a stack's resources
(localaws.permissions.handlers: the registry's handler permissions with the resources' own ARNs and condition
keys), here from the templates alone. The local cloud's policy engine answers them in its own environment.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import pytest
from deciders import Question, engine
from house_rules import CFN
from stack_model import ACCOUNT, REGION, StackModel, is_kept, parameters_written, without_id

from localaws.permissions import handlers
from localaws.permissions.access import Access
from localaws.permissions.handlers import Place, Resource
from localaws.permissions.mapping import action_details, with_tags
from localaws.permissions.services.apis import parent

PROJECT, USER = "p-abcdefghijkl", "jane"
# accounts of stages; a project whose stages are in its own account asks for less
STAGING, PRODUCTION = "210987654321", "310987654321"
CATALOG_OBJECT = "arn:aws:s3:::sc-catalog-of-aws/template"
# What an administrator makes when the platform is launched; the deploy role only ever changes these.
MADE_AT_LAUNCH = {
    "AWS::EC2::RouteTable",
    "AWS::EC2::VPC",
    "AWS::KMS::Key",
    "AWS::S3::Bucket",
    "AWS::SageMaker::Domain",
}
# https://docs.aws.amazon.com/servicecatalog/latest/adminguide/constraints-launch.html
CATALOG_STACK = (
    "CreateStack",
    "UpdateStack",
    "DeleteStack",
    "DescribeStacks",
    "DescribeStackEvents",
    "SetStackPolicy",
    "TagResource",
)
CATALOG_LOOKS = ("GetTemplateSummary", "ValidateTemplate")


@dataclass(frozen=True)
class Asked:
    """One question, and what it is for."""

    access: Access
    why: str

    @property
    def name(self) -> str:
        return f"{self.why}: {self.access.action} on {self.access.resource}"


@dataclass
class World:
    """Everything that there is when a launch happens: stacks, tags, roles, keys' policies."""

    stacks: list[StackModel] = field(default_factory=list)
    tags: dict[str, dict[str, str]] = field(default_factory=dict)
    boundaries: dict[str, str] = field(default_factory=dict)
    roles: dict[str, str] = field(default_factory=dict)
    key_policies: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def add(self, stack: StackModel) -> StackModel:
        for inside, resource in stack.resources():
            arn = handlers.own_arn(resource, inside.place)
            self.tags.setdefault(arn, {}).update(handlers.tags_of(resource.type, resource.properties))
            if resource.type == "AWS::IAM::Role":
                self.roles[resource.physical_id] = arn
                self.boundaries[arn] = resource.properties.get("PermissionsBoundary", "")
            if resource.type == "AWS::KMS::Key":
                self.key_policies[arn] = resource.properties["KeyPolicy"]["Statement"]
        self.stacks.append(stack)
        return stack

    def place(self, stack: str) -> Place:
        role_of, boundary_of = (lambda n: self.roles.get(n, "")), (lambda a: self.boundaries.get(a, ""))
        return Place(stack, REGION, ACCOUNT, "aws", role_of, boundary_of)

    # what localaws.permissions.mapping asks of a cloud
    @property
    def services(self) -> World:
        return self

    def get(self, service: str) -> World:
        return self

    def resource_tags(self, arn: str) -> dict[str, str]:
        return {**self.tags.get(parent(arn), {}), **self.tags.get(arn, {})}


@cache
def world() -> tuple[World, StackModel, StackModel, StackModel]:
    """The platform, a project and one of its users."""
    made = World()
    nested = {p.stem.capitalize(): p for p in (CFN / "infra").glob("*.yaml")}
    given = {"AdminEmail": "a@b.com", "PortfolioPrincipalPattern": "role/x*", "OptionalEndpoints": "true"}
    given["StageAccountIds"] = f"{STAGING},{PRODUCTION}"
    tags = {"department": "data"}  # an administrator may tag the stack: the tags reach everything in it
    infra = made.add(StackModel(CFN / "1-infra.yaml", "mlops-platform", given, tags=tags, nested=nested))
    ssm = parameters_written(infra)
    given = {
        "SageMakerProjectName": "churn",
        "SageMakerProjectId": PROJECT,
        "CostCenter": "4711",
        "OwnerEmail": "o@example.com",
        "InferenceMode": "batch",  # it makes all that realtime makes, and a function
        "StagingAccountId": STAGING,
        "ProductionAccountId": PRODUCTION,
    }
    nested = {p.stem.capitalize(): p for p in (CFN / "project").glob("*.yaml")}
    tags = {"sagemaker:project-id": PROJECT, "sagemaker:project-name": "churn"}
    stack = f"SC-{ACCOUNT}-pp-abcdefghijklm"
    project = made.add(StackModel(CFN / "2-smproject.yaml", stack, given, ssm, tags, nested))
    ssm = {**ssm, **parameters_written(project)}
    given = {"ProjectId": PROJECT, "UserName": USER, "UserEmail": "j@example.com"}
    stack = f"SC-{ACCOUNT}-pp-nopqrstuvwxyz"
    user = made.add(StackModel(CFN / "3-user.yaml", stack, given, ssm, tags))
    return made, infra, project, user


@dataclass(frozen=True)
class Launch:
    """A role and what it has to do."""

    role: str
    asked: tuple[Asked, ...]
    statements: dict[str, dict[str, Any]]
    boundary: list[dict[str, Any]]

    @property
    def arn(self) -> str:
        return f"arn:aws:iam::{ACCOUNT}:role/mlops/platform/{self.role}"


@cache
def launch(name: str) -> Launch:
    """The launch of a project or a user, or a release of the platform."""
    made, infra, project, user = world()
    role, stack = {
        "project": ("ProjectLaunchRole", project),
        "user": ("UserLaunchRole", user),
        "platform": ("PlatformDeployRole", infra),
    }[name]
    asked = [*questions(made, stack, platform=name == "platform")]
    asked += platform_entry(stack) if name == "platform" else catalog_entry(stack)
    identity = infra.child("Identity")
    boundary = identity.properties("PermissionsBoundary")["PolicyDocument"]["Statement"]
    return Launch(role, tuple(dict.fromkeys(_frozen(asked))), dict(statements_of(infra, role)), boundary)


def _frozen(asked: Iterable[Asked]) -> Iterator[Asked]:
    seen = set()
    for one in asked:
        key = json.dumps([one.access.action, one.access.resource, dict(one.access.context)], sort_keys=True)
        if key not in seen:
            seen.add(key)
            yield one


Asked.__hash__ = lambda self: hash(self.name)  # type: ignore[method-assign]


def questions(made: World, stack: StackModel, platform: bool) -> Iterator[Asked]:
    """What is asked for each resource, from making it to deleting it."""
    for inside, resource in stack.resources():
        place = made.place(inside.name)
        why = f"{inside.path.name} {resource.logical_id}"
        if platform and resource.logical_id == "PermissionsBoundary":
            continue  # an administrator of the account changes it
        kept = platform and resource.type in MADE_AT_LAUNCH
        if not kept:
            new = without_id(resource)
            own = handlers.own_arn(new, place)
            if resource.type == "AWS::ApplicationAutoScaling::ScalingPolicy":
                own = ""  # its calls are asked of its target, which is there
            for access in handlers.making(new, place):  # what is not there has no tags
                yield Asked(access if access.resource == own else with_tags(made, access), f"{why} create")
            yield from _told(made, f"{why} made", handlers.made(resource, place))
        yield from _told(made, f"{why} update", handlers.updating(before(resource), place))
        if not kept and not is_kept(inside, resource):
            yield from _told(made, f"{why} delete", handlers.deleting(resource, place))


def _told(made: World, why: str, found: Iterable[Access]) -> Iterator[Asked]:
    yield from (Asked(with_tags(made, access), why) for access in found)


def before(resource: Resource) -> Resource:
    """The resource with properties from which an update takes something and adds something."""
    old = dict(resource.properties)
    for member, more in {
        "Tags": {"Key": "gone", "Value": "1"},
        "ManagedPolicyArns": f"arn:aws:iam::{ACCOUNT}:policy/mlops/projects/gone",
        "Policies": {"PolicyName": "gone", "PolicyDocument": {}},
    }.items():
        if isinstance(old.get(member), list):
            old[member] = [*old[member][1:], more]
        elif member == "Tags" and isinstance(old.get(member), dict):
            old[member] = {"gone": "1"}
    return replace(resource, old=old)


def catalog_entry(stack: StackModel) -> Iterator[Asked]:
    """What Service Catalog does under a launch role before and beside the stack's resources."""
    arn = f"arn:aws:cloudformation:{REGION}:{ACCOUNT}:stack/{stack.name}/1a2b"
    for action in CATALOG_STACK:
        yield Asked(Access(f"cloudformation:{action}", arn), "Service Catalog")
    for action in CATALOG_LOOKS:
        yield Asked(Access(f"cloudformation:{action}"), "Service Catalog")
    tag = {"s3:ExistingObjectTag/servicecatalog:provisioning": "true"}
    yield Asked(Access("s3:GetObject", CATALOG_OBJECT, tag), "Service Catalog")
    yield from parameters_read(stack)


def platform_entry(stack: StackModel) -> Iterator[Asked]:
    """What CodePipeline's deployment of a release reads."""
    yield from parameters_read(stack)


def parameters_read(stack: StackModel) -> Iterator[Asked]:
    """SSM parameters that a stack takes values from."""
    names = set(stack.read_from_ssm)
    for inside, _ in stack.resources():
        names |= inside.read_from_ssm
    for name in sorted(names):
        arn = f"arn:aws:ssm:{REGION}:{ACCOUNT}:parameter{name}"
        yield Asked(Access("ssm:GetParameters", arn), f"{stack.path.name} parameters")


def statements_of(infra: StackModel, role: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(policy.Sid, statement) of each policy that a role has."""
    identity = infra.child("Identity")
    named = identity.ref(role)
    attached = set(identity.properties(role).get("ManagedPolicyArns", []))
    for _, resource in infra.resources():
        props = resource.properties
        if resource.type == "AWS::IAM::ManagedPolicy" and (
            resource.physical_id in attached or named in props.get("Roles", [])
        ):
            for statement in props["PolicyDocument"]["Statement"]:
                yield f"{resource.logical_id}.{statement['Sid']}", statement


def decided(found: Launch, asked: Iterable[Asked], statements: Iterable[dict[str, Any]]) -> list[bool]:
    """Whether each question is allowed by these statements, under the boundary."""
    own, made = list(statements), world()[0]
    return [answer.allowed for answer in engine([_question(found, one, own, made) for one in asked])]


def _question(found: Launch, one: Asked, own: list[dict[str, Any]], made: World) -> Question:
    resource = one.access.resource
    owner = resource.split(":")[4] if resource.count(":") >= 5 else ACCOUNT
    return Question(
        one.name,
        found.arn,
        one.access.action,
        resource,
        owner or ACCOUNT,
        one.access.context,
        own,
        found.boundary,
        resource_policy=made.key_policies.get(resource),
    )


LAUNCHES = ["project", "user", "platform"]


@pytest.mark.parametrize("name", LAUNCHES)
def test_launch_role_suffices(name: str) -> None:
    found = launch(name)
    allowed = decided(found, found.asked, found.statements.values())
    assert len(found.asked) > 60
    assert [a.name for a, yes in zip(found.asked, allowed, strict=True) if not yes] == []


def test_missing_rights_are_found() -> None:
    """A statement that is gone, one on other names and one with another condition each fail questions."""
    found = launch("project")

    def denied(sid: str, **change: Any) -> set[str]:
        kept = [s for other, s in found.statements.items() if other != sid]
        kept += [{**found.statements[sid], **change}] if change else []
        allowed = decided(found, found.asked, kept)
        return {a.name for a, yes in zip(found.asked, allowed, strict=True) if not yes}

    assert any("kms:CreateKey on *" in name for name in denied("ProjectStorePolicy.KeyOfTheProject"))
    other = f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository/other-*"
    names = denied("ProjectStorePolicy.ImagesOfProjects", Resource=other)
    assert any(f"ecr:CreateRepository on arn:aws:ecr:{REGION}" in name for name in names)
    wrong = {"StringEquals": {"iam:PermissionsBoundary": "arn:aws:iam::aws:policy/ReadOnlyAccess"}}
    names = denied("LaunchPolicy.RolesUnderTheBoundary", Condition=wrong)
    assert any("BuildRole create: iam:CreateRole" in name for name in names)


@pytest.mark.parametrize("name", LAUNCHES)
def test_every_resource_is_known(name: str) -> None:
    """An action with resources is asked on one: '*' would only say that the resource is not known."""
    lost = []
    for one in launch(name).asked:
        details = action_details(one.access.action)
        assert details is not None, one.name
        if details["resourceTypes"] and one.access.resource == "*" and one.why != "Service Catalog":
            lost.append(one.name)
    assert lost == []


def supports(found: Launch) -> dict[str, set[str]]:
    """For each question, the statements that allow it alone."""
    pairs = [
        (one, sid)
        for one in found.asked
        for sid, statement in found.statements.items()
        if statement["Effect"] == "Allow" and _names(statement, one.access.action)
    ]
    made = world()[0]
    answers = engine([_question(found, one, [found.statements[sid]], made) for one, sid in pairs])
    out: dict[str, set[str]] = {}
    for (one, sid), answer in zip(pairs, answers, strict=True):
        if answer.allowed:
            out.setdefault(one.name, set()).add(sid)
    return out


def _names(statement: dict[str, Any], action: str) -> bool:
    patterns = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
    return any(_matches(pattern, action) for pattern in patterns)


def _matches(pattern: str, action: str) -> bool:
    return re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), action, re.I) is not None


# What both launch roles share is needed by one of them: the policy is written once.
@pytest.mark.parametrize("names", [["project", "user"], ["platform"]], ids=["catalog", "platform"])
def test_each_statement_is_needed(names: list[str]) -> None:
    """Without the statement a question that can be named would be denied."""
    alone: dict[str, str] = {}
    every: set[str] = set()
    for name in names:
        found = launch(name)
        every |= {sid for sid, s in found.statements.items() if s["Effect"] == "Allow"}
        alone |= {next(iter(sids)): why for why, sids in supports(found).items() if len(sids) == 1}
    assert sorted(every - set(alone)) == [], "statements that nothing needs: take them out"
    assert len(alone) > 15


@pytest.mark.parametrize("name", LAUNCHES)
def test_each_deny_is_needed(name: str) -> None:
    """Without it something that must not happen would be allowed."""
    found, made = launch(name), world()[0]
    asked = [Asked(with_tags(made, access), what) for what, access in escalations(name)]
    for sid in [sid for sid, s in found.statements.items() if s["Effect"] == "Deny"]:
        others = [s for other, s in found.statements.items() if other != sid]
        assert any(decided(found, asked, others)), f"{sid} denies nothing that is tried"


@pytest.mark.parametrize("names", [["project", "user"], ["platform"]], ids=["catalog", "platform"])
def test_each_action_is_needed(names: list[str]) -> None:
    """Every action that a launch role is granted is asked for by a resource of its templates."""
    unused: dict[str, set[str]] = {}
    for name in names:
        found = launch(name)
        for sid, statement in found.statements.items():
            if statement["Effect"] == "Deny":
                continue
            patterns = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
            idle = {p for p in patterns if not any(_matches(p, one.access.action) for one in found.asked)}
            unused[sid] = unused.get(sid, idle) & idle
    assert {sid: sorted(idle) for sid, idle in unused.items() if idle} == {}


def escalations(name: str) -> Iterator[tuple[str, Access]]:
    """What a launch role must never do: (what it would be, question)."""
    made, infra, project, user = world()
    identity = infra.child("Identity")
    boundary = identity.ref("PermissionsBoundary")
    own = "platform" if name == "platform" else "projects"
    role, policy = (f"arn:aws:iam::{ACCOUNT}:{kind}" for kind in ("role", "policy"))
    here, bucket = f"{REGION}:{ACCOUNT}", f"arn:aws:s3:::mlops-{PROJECT}-{ACCOUNT}-{REGION}"
    release = f"arn:aws:s3:::mlops-release-{ACCOUNT}-{REGION}"
    key, other = infra.child("Keys").arn("PlatformKey"), f"arn:aws:kms:{REGION}:{ACCOUNT}:key/other"
    bound = {"iam:PermissionsBoundary": boundary}
    admin = {"iam:PolicyARN": "arn:aws:iam::aws:policy/AdministratorAccess"}
    yield "role without boundary", Access("iam:CreateRole", f"{role}/mlops/{own}/x")
    wrong = {"iam:PermissionsBoundary": f"{policy}/mlops/projects/mine"}
    yield "role under a boundary of its own", Access("iam:CreateRole", f"{role}/mlops/{own}/x", wrong)
    yield "role elsewhere", Access("iam:CreateRole", f"{role}/admin", bound)
    yield "rights for a role elsewhere", Access("iam:AttachRolePolicy", f"{role}/admin", {**bound, **admin})
    yield "inline rights for a role elsewhere", Access("iam:PutRolePolicy", f"{role}/admin", bound)
    unbound = Access("iam:AttachRolePolicy", f"{role}/mlops/{own}/x", admin)
    yield "rights for a role without boundary", unbound
    yield "boundary off", Access("iam:DeleteRolePermissionsBoundary", f"{role}/mlops/{own}/x", bound)
    yield "another boundary", Access("iam:PutRolePermissionsBoundary", f"{role}/mlops/{own}/x", wrong)
    for action in ("CreatePolicyVersion", "SetDefaultPolicyVersion", "DeletePolicyVersion", "DeletePolicy"):
        yield "changed boundary", Access(f"iam:{action}", boundary)
    yield "trust of a role elsewhere", Access("iam:UpdateAssumeRolePolicy", f"{role}/admin", bound)
    for service in ("ec2", "ecs-tasks", "glue"):
        to = {"iam:PassedToService": f"{service}.amazonaws.com"}
        yield f"role for {service}", Access("iam:PassRole", f"{role}/mlops/{own}/x", to)
    for service in ("lambda", "codebuild", "cloudformation"):
        to = {"iam:PassedToService": f"{service}.amazonaws.com"}
        yield f"role elsewhere for {service}", Access("iam:PassRole", f"{role}/admin", to)
    for action in ("CreateUser", "CreateAccessKey", "CreateLoginProfile", "AttachUserPolicy"):
        yield "a user", Access(f"iam:{action}", f"arn:aws:iam::{ACCOUNT}:user/x")
    for path in (f"{role}/admin", f"{role}/mlops/platform/x", f"{role}/mlops/projects/x"):
        yield "another role", Access("sts:AssumeRole", path)
    for action in ("Decrypt", "PutKeyPolicy", "ScheduleKeyDeletion", "TagResource", "CreateGrant"):
        yield "a key of somebody", Access(f"kms:{action}", other)
    yield "a key that holds data", Access("kms:ScheduleKeyDeletion", key)
    for action in ("s3:GetObject", "s3:PutObject", "s3:DeleteObject"):
        yield "data of a project", Access(action, f"{bucket}/data.csv")
    for action in ("s3:PutBucketPolicy", "s3:DeleteBucket", "s3:PutBucketPublicAccessBlock"):
        yield "a bucket of somebody", Access(action, "arn:aws:s3:::payroll")
        yield "the release", Access(action, release)
    yield "a released template", Access("s3:PutObject", f"{release}/x")
    for action, arn in {
        "cloudformation:UpdateStack": f"arn:aws:cloudformation:{here}:stack/payroll/1",
        "codebuild:UpdateProject": f"arn:aws:codebuild:{here}:project/payroll",
        "lambda:UpdateFunctionCode": f"arn:aws:lambda:{here}:function:payroll",
        "logs:DeleteLogGroup": f"arn:aws:logs:{here}:log-group:payroll",
        "logs:PutRetentionPolicy": f"arn:aws:logs:{here}:log-group:payroll",
        "secretsmanager:GetSecretValue": f"arn:aws:secretsmanager:{here}:secret:x",
    }.items():
        yield "what is somebody's", Access(action, arn)
    if name != "platform":
        yield from platform_escalations(name, infra, key)


def platform_escalations(name: str, infra: StackModel, key: str) -> Iterator[tuple[str, Access]]:
    """What is the platform's is out of a product's reach."""
    here, bucket = f"{REGION}:{ACCOUNT}", f"arn:aws:s3:::mlops-{PROJECT}-{ACCOUNT}-{REGION}"
    role = f"arn:aws:iam::{ACCOUNT}:role/mlops/platform/x"
    bound = {"iam:PermissionsBoundary": infra.child("Identity").ref("PermissionsBoundary")}
    changes = ("CreateRole", "PutRolePolicy", "AttachRolePolicy", "UpdateAssumeRolePolicy", "DeleteRole")
    for action in changes:
        yield "a role of the platform", Access(f"iam:{action}", role, bound)
    to = {"iam:PassedToService": "lambda.amazonaws.com"}
    yield "a role of the platform", Access("iam:PassRole", role, to)
    policy = f"arn:aws:iam::{ACCOUNT}:policy/mlops/platform/x"
    yield "a policy of the platform", Access("iam:CreatePolicyVersion", policy)
    for action in ("Decrypt", "PutKeyPolicy", "DisableKey", "CreateGrant", "TagResource"):
        request = {"aws:RequestTag/sagemaker:project-id": PROJECT, "aws:TagKeys": ["sagemaker:project-id"]}
        yield "the platform's key", Access(f"kms:{action}", key, request if action == "TagResource" else {})
    for action, arn in {
        "codecommit:DeleteRepository": f"arn:aws:codecommit:{here}:mlops-cicd",
        "codecommit:CreateCommit": f"arn:aws:codecommit:{here}:mlops-cicd",
        "codepipeline:UpdatePipeline": f"arn:aws:codepipeline:{here}:ModelRepoPipeline",
        "codebuild:UpdateProject": f"arn:aws:codebuild:{here}:project/mlops-platform",
        "ssm:PutParameter": f"arn:aws:ssm:{here}:parameter/mlops/infra/vpc-id",
        "cloudformation:UpdateStack": f"arn:aws:cloudformation:{here}:stack/mlops-platform/1",
        "sagemaker:DeleteDomain": f"arn:aws:sagemaker:{here}:domain/d-abcdefghijkl",
        "sagemaker:UpdateDomain": f"arn:aws:sagemaker:{here}:domain/d-abcdefghijkl",
        "lambda:UpdateFunctionCode": f"arn:aws:lambda:{here}:function:mlops-platform-x",
        "logs:DeleteLogGroup": f"arn:aws:logs:{here}:log-group:/aws/lambda/x",
        "servicecatalog:DeletePortfolio": f"arn:aws:catalog:{here}:portfolio/port-abcdefghijklm",
        "ec2:AuthorizeSecurityGroupEgress": f"arn:aws:ec2:{here}:security-group/sg-1",
    }.items():
        yield "the platform", Access(action, arn)
    # what outlives a project is nobody's to delete who makes projects
    for action, arn in {
        "s3:DeleteBucket": bucket,
        "codecommit:DeleteRepository": f"arn:aws:codecommit:{here}:mlops-{PROJECT}",
        "sagemaker:DeleteModelPackageGroup": (
            f"arn:aws:sagemaker:{here}:model-package-group/mlops-{PROJECT}"
        ),
    }.items():
        yield "what a project leaves", Access(action, arn)
    if name == "user":
        for action, arn in {
            "s3:PutBucketPolicy": bucket,
            "kms:CreateKey": "*",
            "codecommit:CreateRepository": f"arn:aws:codecommit:{here}:mlops-{PROJECT}",
        }.items():
            yield "what only a project's launch makes", Access(action, arn)


@pytest.mark.parametrize("name", LAUNCHES)
def test_nothing_else(name: str) -> None:
    found, made = launch(name), world()[0]
    asked = [Asked(with_tags(made, access), what) for what, access in escalations(name)]
    assert len(asked) >= 40
    assert {a.access.action for a in asked if action_details(a.access.action) is None} == set()
    allowed = decided(found, asked, found.statements.values())
    assert [a.name for a, yes in zip(asked, allowed, strict=True) if yes] == []
