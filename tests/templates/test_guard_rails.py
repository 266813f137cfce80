"""What the roles of a project are held to: where jobs run, on what, with which key; whose profile is opened.

The policies are those of the templates, the questions those that SageMaker asks of IAM for a call. The local
cloud's policy engine answers them in its own environment.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from deciders import Question, engine
from house_rules import CFN
from stack_model import ACCOUNT, REGION, StackModel
from test_launch_roles import PROJECT, USER, world

SAGEMAKER = f"arn:aws:sagemaker:{REGION}:{ACCOUNT}"
DOMAIN = "d-abcdefghijkl"
OTHER = "p-otherproject"
JOBS = {
    "CreateTrainingJob": "training-job",
    "CreateProcessingJob": "processing-job",
    "CreateHyperParameterTuningJob": "hyper-parameter-tuning-job",
}


@cache
def identity() -> StackModel:
    return world()[2].child("Identity")


@cache
def boundary() -> list[dict[str, Any]]:
    stack = world()[1].child("Identity")
    return stack.properties("PermissionsBoundary")["PolicyDocument"]["Statement"]


@cache
def policies(role: str) -> list[dict[str, Any]]:
    """Everything that is allowed or denied to a role of the project."""
    stack = identity()
    own = stack.properties(role)
    found = [s for policy in own.get("Policies", []) for s in policy["PolicyDocument"]["Statement"]]
    for _, resource in stack.resources():
        attached = resource.properties.get("Roles", [])
        if resource.type in ("AWS::IAM::Policy", "AWS::IAM::ManagedPolicy") and stack.ref(role) in attached:
            found += resource.properties["PolicyDocument"]["Statement"]
    return found


def asked(role: str, action: str, resource: str, context: dict[str, Any] | None = None) -> Question:
    principal = f"arn:aws:iam::{ACCOUNT}:role/mlops/projects/{role}"
    return Question(action, principal, action, resource, ACCOUNT, context or {}, policies(role), boundary())


def decision(role: str, action: str, resource: str, context: dict[str, Any] | None = None) -> str:
    return engine([asked(role, action, resource, context)])[0].decision


def decent() -> dict[str, Any]:
    """The keys of a job as the project's pipeline makes it."""
    infra, key = world()[2].ssm, world()[2].child("Data").arn("ProjectKey")
    return {
        "sagemaker:VpcSubnets": infra["/mlops/infra/private-subnet-ids"].split(","),
        "sagemaker:VpcSecurityGroupIds": [infra["/mlops/infra/compute-security-group-id"]],
        "sagemaker:VolumeKmsKeyArn": key,
        "sagemaker:OutputKmsKeyArn": key,
        "sagemaker:InterContainerTrafficEncryption": "true",
        "sagemaker:InstanceTypes": ["ml.m5.large"],
    }


FAULTS: dict[str, dict[str, Any]] = {
    "outside any VPC": {"sagemaker:VpcSubnets": None, "sagemaker:VpcSecurityGroupIds": None},
    "in another subnet": {"sagemaker:VpcSubnets": ["subnet-0fffffffffffffff0"]},
    "in another security group": {"sagemaker:VpcSecurityGroupIds": ["sg-0fffffffffffffff0"]},
    "without a key for its disk": {"sagemaker:VolumeKmsKeyArn": None},
    "with another key for its disk": {
        "sagemaker:VolumeKmsKeyArn": f"arn:aws:kms:{REGION}:{ACCOUNT}:key/other"
    },
    "without a key for its result": {"sagemaker:OutputKmsKeyArn": None},
    "with another key for its result": {
        "sagemaker:OutputKmsKeyArn": f"arn:aws:kms:{REGION}:{ACCOUNT}:key/other"
    },
    "with open traffic": {"sagemaker:InterContainerTrafficEncryption": "false"},
    "with traffic that nothing is said of": {"sagemaker:InterContainerTrafficEncryption": None},
    "on a forbidden instance type": {"sagemaker:InstanceTypes": ["ml.p5.48xlarge"]},
    "on one allowed and one forbidden type": {"sagemaker:InstanceTypes": ["ml.m5.large", "ml.p4d.24xlarge"]},
}


def faulty(fault: str) -> dict[str, Any]:
    merged = {**decent(), **FAULTS[fault]}
    return {key: value for key, value in merged.items() if value is not None}


@pytest.mark.parametrize("role", ["DataScientistRole", "ExecutionRole"])
@pytest.mark.parametrize("action", JOBS)
def test_decent_jobs_run_and_others_do_not(role: str, action: str) -> None:
    job = f"{SAGEMAKER}:{JOBS[action]}/mlops-{PROJECT}-x"
    questions = [asked(role, f"sagemaker:{action}", job, context) for context in
                 [decent(), *(faulty(fault) for fault in FAULTS)]]  # fmt: skip
    fine, *others = (answer.decision for answer in engine(questions))
    assert fine == "Allowed"
    assert dict(zip(FAULTS, others, strict=True)) == dict.fromkeys(FAULTS, "ExplicitlyDenied")


def test_the_former_name_of_a_key_still_counts() -> None:
    """A request has the former or the present name of the key; the boundary holds with both."""
    job, context = f"{SAGEMAKER}:training-job/mlops-{PROJECT}-x", decent()
    renamed = {key.replace("KmsKeyArn", "KmsKey"): value for key, value in context.items()}
    assert decision("ExecutionRole", "sagemaker:CreateTrainingJob", job, renamed) == "Allowed"


def test_disks_that_take_no_key_need_none() -> None:
    job, context = f"{SAGEMAKER}:training-job/mlops-{PROJECT}-x", faulty("without a key for its disk")
    context["sagemaker:InstanceTypes"] = ["ml.g4dn.xlarge"]
    assert decision("ExecutionRole", "sagemaker:CreateTrainingJob", job, context) == "Allowed"


@pytest.mark.parametrize("role", ["DataScientistRole", "ExecutionRole", "DeployRole"])
def test_models_stay_inside(role: str) -> None:
    model = f"{SAGEMAKER}:model/mlops-{PROJECT}-x"
    tags = {"aws:RequestTag/sagemaker:project-id": PROJECT}
    assert decision(role, "sagemaker:CreateModel", model, {**decent(), **tags}) == "Allowed"
    for fault in ("outside any VPC", "in another subnet", "in another security group"):
        context = {**faulty(fault), **tags}
        assert decision(role, "sagemaker:CreateModel", model, context) == "ExplicitlyDenied", fault


@cache
def ceiling(serverless: str, account: str = "") -> list[dict[str, Any]]:
    """The boundary of the platform, or of another account, that allows serverless endpoints or does not."""
    if account:
        given = {"ToolingAccountId": ACCOUNT, "S3PrefixListId": "pl-63a5400a"}
        path, own = CFN / "accounts/account.yaml", {**given, "ServerlessEndpoints": serverless}
        stack = StackModel(path, "mlops-account", own)
    else:
        infra = world()[1]
        given = {**infra.parameters, "ServerlessEndpoints": serverless}
        stack = StackModel(infra.path, infra.name, given, infra.ssm, infra.tags, infra.nested)
        stack = stack.child("Identity")
    return stack.properties("PermissionsBoundary")["PolicyDocument"]["Statement"]


def under(limit: list[dict[str, Any]], role: str, action: str, context: dict[str, Any]) -> str:
    """What a boundary leaves of a role that may do everything."""
    everything = [{"Effect": "Allow", "Action": "*", "Resource": "*"}]
    resource = f"{SAGEMAKER}:model/x" if action.startswith("sagemaker") else role
    question = Question(action, role, action, resource, ACCOUNT, context, everything, limit)
    return engine([question])[0].decision


ROLES = f"arn:aws:iam::{ACCOUNT}:role/mlops"


@pytest.mark.parametrize("name", ["SC-1-pp-x-Identity-1ABC-DeployRole-0123", "SC-1-pp-x-Identi-01234", "a"])
def test_only_the_tagged_role_makes_models_outside_a_vpc_and_only_where_the_platform_says(name: str) -> None:
    """Whatever CloudFormation calls it: a tag tells the role, and its name is nothing."""
    (tag,) = (t for t in identity().properties("DeployRole")["Tags"] if t["Key"] == "mlops:deploys")
    tagged, role = {f"aws:PrincipalTag/{tag['Key']}": tag["Value"]}, f"{ROLES}/projects/{name}"
    call = "sagemaker:CreateModel"
    assert under(ceiling("true"), role, call, tagged) == "Allowed"
    assert under(ceiling("true"), role, call, {}) == "ExplicitlyDenied"
    other = {"aws:PrincipalTag/mlops:deploys": "other"}
    assert under(ceiling("true"), role, call, other) == "ExplicitlyDenied"
    assert under(ceiling("false"), role, call, tagged) == "ExplicitlyDenied"
    others = [r for _, r in world()[2].resources() if r.type == "AWS::IAM::Role" and "mlops:deploys" in
              {t["Key"] for t in r.properties.get("Tags", [])}]  # fmt: skip
    assert [r.logical_id for r in others] == ["DeployRole"]


@pytest.mark.parametrize("action", ["iam:CreateRole", "iam:TagRole", "iam:UntagRole", "sts:TagSession"])
def test_no_role_of_a_project_gives_the_tag(action: str) -> None:
    limit = {"iam:PermissionsBoundary": f"arn:aws:iam::{ACCOUNT}:policy/mlops/boundary/x"}
    context = {**limit, "aws:TagKeys": ["harmless", "mlops:deploys"]}
    role, launch = f"{ROLES}/projects/any", f"{ROLES}/platform/launch"
    assert under(ceiling("true"), role, action, context) == "ExplicitlyDenied"
    wanted = "ImplicitlyDenied" if action == "sts:TagSession" else "Allowed"  # trust too
    assert under(ceiling("true"), role, action, {**limit, "aws:TagKeys": ["harmless"]}) == wanted
    assert under(ceiling("true"), launch, action, context) == wanted


@pytest.mark.parametrize(
    ("role", "serverless", "wanted"),
    [
        (f"{PROJECT}-stacks", "true", "Allowed"),
        (f"{PROJECT}-stacks", "false", "ExplicitlyDenied"),
        (f"{PROJECT}-deliver", "true", "ExplicitlyDenied"),
        (f"{PROJECT}-model", "true", "ExplicitlyDenied"),
    ],
)
def test_models_outside_a_vpc_in_the_account_of_a_stage(role: str, serverless: str, wanted: str) -> None:
    limit = ceiling(serverless, account="stage")
    assert under(limit, f"{ROLES}/projects/mlops-{role}", "sagemaker:CreateModel", {}) == wanted
    inside = {"sagemaker:VpcSubnets": ["subnet-0fffffffffffffff0"]}
    assert under(limit, f"{ROLES}/projects/mlops-{role}", "sagemaker:CreateModel", inside) == "Allowed"


def test_endpoints_and_transforms_use_the_projects_models_only() -> None:
    context = {key: decent()[key] for key in ("sagemaker:VolumeKmsKeyArn", "sagemaker:OutputKmsKeyArn")}
    own, other = ({"sagemaker:ModelArn": [f"{SAGEMAKER}:model/mlops-{p}-x"]} for p in (PROJECT, OTHER))
    for action, kind in (
        ("CreateEndpointConfig", "endpoint-config"),
        ("CreateTransformJob", "transform-job"),
    ):
        resource = f"{SAGEMAKER}:{kind}/mlops-{PROJECT}-test-x"
        found = [
            decision("DataScientistRole", f"sagemaker:{action}", resource, {**context, **model})
            for model in (own, other)
        ]
        assert found == ["Allowed", "ExplicitlyDenied"], action


def test_a_job_cannot_approve_its_own_model() -> None:
    version = f"{SAGEMAKER}:model-package/mlops-{PROJECT}/1"
    status = "sagemaker:ModelApprovalStatus"
    for context, wanted in (
        ({status: "PendingManualApproval"}, "Allowed"),
        ({status: "Approved"}, "ImplicitlyDenied"),
    ):
        assert decision("ExecutionRole", "sagemaker:CreateModelPackage", version, context) == wanted
    assert decision("ExecutionRole", "sagemaker:UpdateModelPackage", version) == "ImplicitlyDenied"


STUDIO = {"sagemaker:DomainId": DOMAIN, "sagemaker:UserProfileName": f"{PROJECT}-{USER}"}
SIGNED_IN = {"aws:PrincipalTag/studiouserid": USER}


@pytest.mark.parametrize(
    ("who", "context", "profile", "wanted"),
    [
        ("in Studio, the own", STUDIO, f"{PROJECT}-{USER}", "Allowed"),
        ("in Studio, a colleague's", STUDIO, f"{PROJECT}-jim", "ImplicitlyDenied"),
        ("in Studio, of another project", STUDIO, f"{OTHER}-{USER}", "ImplicitlyDenied"),
        ("signed in, the own", SIGNED_IN, f"{PROJECT}-{USER}", "Allowed"),
        ("signed in, a colleague's", SIGNED_IN, f"{PROJECT}-jim", "ImplicitlyDenied"),
        ("signed in, of another project", SIGNED_IN, f"{OTHER}-{USER}", "ImplicitlyDenied"),
        ("signed in without a name", {}, f"{PROJECT}-{USER}", "ImplicitlyDenied"),
        ("signed in without a name, the empty one", {}, f"{PROJECT}-", "ImplicitlyDenied"),
    ],
)
def test_only_the_own_profile_is_opened(who: str, context: dict, profile: str, wanted: str) -> None:
    resource = f"{SAGEMAKER}:user-profile/{DOMAIN}/{profile}"
    assert decision("DataScientistRole", "sagemaker:CreatePresignedDomainUrl", resource, context) == wanted


@pytest.mark.parametrize("action", ["CreateSpace", "UpdateSpace", "DeleteSpace", "CreateApp", "DeleteApp"])
def test_only_own_private_spaces(action: str) -> None:
    kind = "app" if action.endswith("App") else "space"
    resource = f"{SAGEMAKER}:{kind}/{DOMAIN}/notebook" + ("/JupyterLab/default" if kind == "app" else "")
    own = f"{SAGEMAKER}:user-profile/{DOMAIN}/{PROJECT}-{USER}"
    cases = {
        "own": (
            {**STUDIO, "sagemaker:OwnerUserProfileArn": own, "sagemaker:SpaceSharingType": "Private"},
            "Allowed",
        ),
        "colleague's": (
            {**STUDIO, "sagemaker:OwnerUserProfileArn": f"{own}-x", "sagemaker:SpaceSharingType": "Private"},
            "ImplicitlyDenied",
        ),
        "shared": (
            {**STUDIO, "sagemaker:OwnerUserProfileArn": own, "sagemaker:SpaceSharingType": "Shared"},
            "ImplicitlyDenied",
        ),
        "nobody's": (STUDIO, "ImplicitlyDenied"),
    }
    found = {
        name: decision("DataScientistRole", f"sagemaker:{action}", resource, context)
        for name, (context, _) in cases.items()
    }
    assert found == {name: wanted for name, (_, wanted) in cases.items()}


def test_nobody_elses_start_script() -> None:
    context = {
        **STUDIO,
        "sagemaker:OwnerUserProfileArn": f"{SAGEMAKER}:user-profile/{DOMAIN}/{PROJECT}-{USER}",
        "sagemaker:SpaceSharingType": "Private",
    }
    key, space = "sagemaker:StudioLifecycleConfigArns", f"{SAGEMAKER}:space/{DOMAIN}/notebook"
    own, other = (f"{SAGEMAKER}:studio-lifecycle-config/mlops-{p}-1-0-0" for p in (PROJECT, OTHER))
    for scripts, wanted in (
        ([own], "Allowed"),
        ([other], "ExplicitlyDenied"),
        ([own, other], "ExplicitlyDenied"),
    ):
        found = decision("DataScientistRole", "sagemaker:UpdateSpace", space, {**context, key: scripts})
        assert found == wanted, scripts


@pytest.mark.parametrize("role", ["DataScientistRole", "ExecutionRole", "BuildRole"])
def test_isolation_tags_stay(role: str) -> None:
    pipeline = f"{SAGEMAKER}:pipeline/mlops-{PROJECT}" + ("-experimental" if role != "BuildRole" else "")
    own = {
        "aws:RequestTag/sagemaker:project-id": PROJECT,
        "aws:RequestTag/sagemaker:project-name": "churn",
        "aws:RequestTag/mlops:cost-center": "4711",
    }
    granted = "ImplicitlyDenied" if role == "ExecutionRole" else "Allowed"  # jobs tag jobs, not pipelines
    assert decision(role, "sagemaker:AddTags", pipeline, own) == granted
    for key in own:
        found = decision(role, "sagemaker:AddTags", pipeline, {**own, key: "another"})
        assert found == "ExplicitlyDenied", key
    keys = {"aws:TagKeys": ["harmless", "sagemaker:project-id"]}
    assert decision(role, "sagemaker:DeleteTags", pipeline, keys) == "ExplicitlyDenied"


@pytest.mark.parametrize("role", ["DataScientistRole", "ExecutionRole", "BuildRole"])
@pytest.mark.parametrize("artifact", ["Cfn", "Cicd", "Project", "Rendered"])
def test_nobody_who_runs_project_code_writes_a_release(role: str, artifact: str) -> None:
    bucket = f"arn:aws:s3:::mlops-{PROJECT}-{ACCOUNT}-{REGION}"
    for action in ("s3:PutObject", "s3:DeleteObject", "s3:DeleteObjectVersion"):
        assert decision(role, action, f"{bucket}/mlops-{PROJECT}/{artifact}/x") == "ExplicitlyDenied", action
    assert decision(role, "s3:PutObject", f"{bucket}/data/x.csv") == "Allowed"
    rendered = decision("ReleaseRole", "s3:PutObject", f"{bucket}/mlops-{PROJECT}/Rendered/x")
    assert rendered == "Allowed"


def test_stacks_are_deployed_under_the_deploy_role_only() -> None:
    stack = f"arn:aws:cloudformation:{REGION}:{ACCOUNT}:stack/mlops-{PROJECT}-production/1"
    role = identity().arn("DeployRole")
    for context, wanted in (
        ({"cloudformation:RoleArn": role}, "Allowed"),
        ({"cloudformation:RoleArn": identity().arn("ExecutionRole")}, "ImplicitlyDenied"),
        ({}, "ImplicitlyDenied"),
    ):
        assert decision("PipelineRole", "cloudformation:UpdateStack", stack, context) == wanted


def test_sign_in_names_nobody_else() -> None:
    """The session tag says who opens Studio, so it is the sign-in's own or none."""
    given = {**world()[2].parameters, "DataScientistRoleArn": f"arn:aws:iam::{ACCOUNT}:role/people"}
    parent = world()[2]
    stack = StackModel(parent.path, parent.name, given, parent.ssm, parent.tags, parent.nested).child(
        "Identity"
    )
    trust = [s for s in stack.properties("DataScientistRole")["AssumeRolePolicyDocument"]["Statement"] if s]
    people = f"arn:aws:iam::{ACCOUNT}:role/people"

    def allowed(action: str, context: dict[str, Any]) -> bool:
        question = Question(
            action, people, action, stack.arn("DataScientistRole"), ACCOUNT, context, resource_policy=trust
        )
        return engine([question])[0].allowed

    tag, own = "aws:RequestTag/studiouserid", {"aws:PrincipalTag/studiouserid": USER}
    assert allowed("sts:AssumeRole", {})
    assert allowed("sts:TagSession", {**own, tag: USER, "aws:TagKeys": ["studiouserid"]})
    assert not allowed("sts:TagSession", {**own, tag: "jim", "aws:TagKeys": ["studiouserid"]})
    assert not allowed("sts:TagSession", {tag: USER, "aws:TagKeys": ["studiouserid"]})
    also = ["studiouserid", "sagemaker:project-id"]
    assert not allowed("sts:TagSession", {**own, tag: USER, "aws:TagKeys": also})
