"""The deploy role of a project may do what CloudFormation does for the stacks of deploy/, and nothing else.

As test_launch_roles.py, for the stacks that a project's deploy pipeline makes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any
from urllib.parse import quote

import pytest
from deciders import Question, engine
from house_rules import CFN, load
from stack_model import ACCOUNT, REGION, StackModel, parameters_written
from test_launch_roles import PROJECT, Asked, World, _names, parameters_read, questions, world

from localaws.permissions import handlers
from localaws.permissions.access import Access
from localaws.permissions.handlers import OWN
from localaws.permissions.mapping import action_details, with_tags

VERSION = f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:model-package/mlops-{PROJECT}/7"
BUCKET = f"s3://mlops-{PROJECT}-{ACCOUNT}-{REGION}"
KINDS = ("DataQuality", "ModelQuality", "ModelBias", "ModelExplainability")
# What the deploy pipeline passes besides what is the same for all stacks (mlops_cicd/select.py).
STACKS: dict[str, tuple[str, dict[str, str]]] = {
    "staging": ("realtime", {"Stage": "staging"}),
    "production": ("realtime", {"Stage": "production", "InitialInstanceCount": "2"}),
    "production scaling": (
        "realtime",
        {"Stage": "production", "InitialInstanceCount": "2", "ScalingMinimum": "2", "ScalingMaximum": "4"},
    ),
    "production shadow": ("realtime", {"Stage": "production", "ShadowModelPackageArn": VERSION}),
    "production asynchronous": ("realtime", {"Stage": "production", "EndpointKind": "asynchronous"}),
    "staging batch": ("batch", {"Stage": "staging"}),
    "api": ("api", {}),
    "api private": ("api", {"Private": "true"}),
    "monitoring": ("monitoring", {"MonitoringEngine": "processing"}),
    "monitoring managed": ("monitoring", {"MonitoringEngine": "managed"}),
    "kpi": ("kpi", {"QuickSightPrincipalArn": f"arn:aws:quicksight:{REGION}:{ACCOUNT}:group/default/team"}),
}
OWN_PARAMETERS = {
    "batch": {"FeaturesUri": f"{BUCKET}/pipelines/1/data_quality/options.json", "KeyColumns": "customer_id"},
    "api": {
        "ImageUri": f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/mlops-{PROJECT}/inference@sha256:{64 * '0'}",
        "GoldenUri": f"{BUCKET}/pipelines/mlops-{PROJECT}/abc123def456/Evaluate/golden.json",
    },
    "realtime": {"InstanceType": "ml.m5.large"},
    "monitoring": {
        "EndpointName": f"mlops-{PROJECT}-production",
        "SimulatedTraffic": "true",
        **{f"{kind}Enabled": "true" for kind in KINDS},
        "MonitorImageUri": f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/mlops-{PROJECT}/preprocessing:1",
        "MonitorCodeUri": f"{BUCKET}/code/monitor/1/monitor.pyz",
        "BaselineUri": f"{BUCKET}/pipelines/mlops-{PROJECT}/abc123def456/MonitoringBaseline/baseline",
        "ModelDataUri": f"{BUCKET}/models/model.tar.gz",
        "CaptureUri": f"{BUCKET}/data-capture/production",
        "GroundTruthUri": f"{BUCKET}/ground-truth/production",
        "ReportsUri": f"{BUCKET}/monitoring",
    },
    "kpi": {"EndpointName": f"mlops-{PROJECT}-production", "ReportsUri": f"{BUCKET}/monitoring"},
}


@cache
def stacks() -> tuple[World, dict[str, StackModel]]:
    """The deployed stacks of a project, on top of the platform and the project."""
    made, infra, project, _ = world()
    ssm = {**parameters_written(infra), **parameters_written(project)}
    tags = {"sagemaker:project-id": PROJECT, "sagemaker:project-name": "churn", "mlops:cost-center": "4711"}
    common = {"ProjectId": PROJECT, "ProjectName": "churn", "CostCenter": "4711", "ModelPackageArn": VERSION}
    found = {}
    for name, (template, own) in STACKS.items():
        path = CFN / "deploy" / f"{template}.yaml"
        given = {**common, **OWN_PARAMETERS[template], **own}
        for parameter, one in load(path).data["Parameters"].items():
            if one["Type"].startswith("AWS::SSM::") and "Default" not in one:
                key = re.sub(
                    r"(?<=[a-z])(?=[A-Z])", "-", parameter.replace("QuickSight", "Quicksight")
                ).lower()
                given[parameter] = f"/mlops/projects/{PROJECT}/{key}"
        stack = f"mlops-{PROJECT}-{name.split()[0]}"
        found[name] = made.add(StackModel(path, stack, given, ssm, tags))
    return made, found


@cache
def role() -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]], dict[str, str]]:
    """Statements of the deploy role by Sid, its boundary, and the roles that it may meet by name."""
    _, infra, project, _ = world()
    identity = project.child("Identity")
    found = {}
    for policy in identity.properties("DeployRole")["Policies"]:
        for statement in policy["PolicyDocument"]["Statement"]:
            found[statement["Sid"]] = statement
    for _, resource in project.resources():
        if resource.type in ("AWS::IAM::ManagedPolicy", "AWS::IAM::Policy"):
            props = resource.properties
            if identity.ref("DeployRole") in props.get("Roles", []):
                for statement in props["PolicyDocument"]["Statement"]:
                    found[f"{resource.logical_id}.{statement['Sid']}"] = statement
    boundary = infra.child("Identity").properties("PermissionsBoundary")["PolicyDocument"]["Statement"]
    return found, boundary, {"arn": identity.arn("DeployRole")}


@cache
def asked() -> tuple[Asked, ...]:
    """Every question that the stacks bring, once."""
    made, found = stacks()
    every, seen = [], set()
    for name, stack in found.items():
        for one in [*questions(made, stack, platform=False), *parameters_read(stack)]:
            access = one.access
            key = json.dumps([access.action, access.resource, dict(access.context)], sort_keys=True)
            if key not in seen:
                seen.add(key)
                every.append(Asked(access, f"{name}: {one.why}"))
    return tuple(every)


def allowed(some: list[Asked], statements: list[dict[str, Any]]) -> list[bool]:
    """Whether each question is allowed by these statements, under the boundary."""
    return decided([(one, statements) for one in some])


def decided(some: list[tuple[Asked, list[dict[str, Any]]]]) -> list[bool]:
    """Whether each question is allowed by the statements beside it, under the boundary."""
    made, _ = stacks()
    _, boundary, me = role()
    ask = [
        Question(
            one.name, me["arn"], one.access.action, one.access.resource, ACCOUNT, one.access.context,
            statements, boundary, resource_policy=made.key_policies.get(one.access.resource),
        )
        for one, statements in some
    ]  # fmt: skip
    return [answer.allowed for answer in engine(ask)]


def test_deploy_role_suffices() -> None:
    every = list(asked())
    assert len(every) > 80
    answers = allowed(every, list(role()[0].values()))
    assert [one.name for one, yes in zip(every, answers, strict=True) if not yes] == []


def test_each_statement_is_needed() -> None:
    """Without it, some stack of deploy/ could not be made, changed or deleted."""
    every, (found, _, _) = list(asked()), role()
    allows = [sid for sid, statement in found.items() if statement["Effect"] == "Allow"]
    own = [sid for sid in allows if "." not in sid or sid.startswith("ApiDeployPolicy.")]
    pairs = []
    for sid in own:
        rest = [statement for other, statement in found.items() if other != sid]
        # of the others it cannot change the answer
        pairs += [(sid, one, rest) for one in every if _names(found[sid], one.access.action)]
    answers = decided([(one, rest) for _, one, rest in pairs])
    needed = {sid for (sid, _, _), yes in zip(pairs, answers, strict=True) if not yes}
    idle = set(own) - needed
    # no handlers' calls: SageMaker asks them of who makes an endpoint with a key, and from a package
    # and Application Auto Scaling, which lists all alarms of the account before it makes its own; Lambda
    # pulls a function's image for who makes it
    assert sorted(idle) == ["ApiDeployPolicy.Image", "FindAlarms", "LendKey", "ReadModelPackage"]
    assert len(own) > 16


def test_every_resource_is_known() -> None:
    for one in asked():
        details = action_details(one.access.action)
        assert details is not None, one.name
        if any(one["required"] for one in details["resourceTypes"]):
            assert one.access.resource != "*", one.name


@pytest.mark.parametrize("name", STACKS)
def test_every_type_has_a_name(name: str) -> None:
    for _, resource in stacks()[1][name].resources():
        asks = handlers.permissions(resource.type, "create")  # nothing of a type that is CloudFormation's own
        assert resource.type in OWN or not asks


def escalations() -> Iterator[tuple[str, Access]]:
    """What the deploy role must never do."""
    here, mine = f"arn:aws:sagemaker:{REGION}:{ACCOUNT}", {"aws:RequestTag/sagemaker:project-id": PROJECT}
    other = {"aws:RequestTag/sagemaker:project-id": "p-zyxwvutsrqpo"}
    theirs = {"aws:ResourceTag/sagemaker:project-id": "p-zyxwvutsrqpo"}
    for kind in KINDS:
        path = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", kind).lower() + "-job-definition"
        create = f"sagemaker:Create{kind}JobDefinition"
        good = {
            **mine,
            "sagemaker:VpcSubnets": ["subnet-1"],
            "sagemaker:VpcSecurityGroupIds": ["sg-1"],
            "sagemaker:InstanceTypes": ["ml.m5.large"],
            "sagemaker:InterContainerTrafficEncryption": "true",
            "sagemaker:VolumeKmsKeyArn": "arn:aws:kms:eu-west-1:123456789012:key/x",
            "sagemaker:OutputKmsKeyArn": "arn:aws:kms:eu-west-1:123456789012:key/x",
        }
        yield "a definition in another network, with another key", Access(create, f"{here}:{path}/x", good)
        yield "a definition of another project", Access(create, f"{here}:{path}/x", other)
        yield "a definition without VPC", Access(create, f"{here}:{path}/x", mine)
        delete = f"sagemaker:Delete{kind}JobDefinition"
        yield "somebody's definition", Access(delete, f"{here}:{path}/x", theirs)
        yield (
            "somebody's definition",
            Access(f"sagemaker:Describe{kind}JobDefinition", f"{here}:{path}/x", {}),
        )
    for action in ("Create", "Update", "Delete", "Describe"):
        schedule = f"{here}:monitoring-schedule/mlops-p-zyxwvutsrqpo-dq"
        yield "another project's schedule", Access(f"sagemaker:{action}MonitoringSchedule", schedule)
    own = f"{here}:monitoring-schedule/mlops-{PROJECT}-dq"
    for action in ("Create", "Update"):
        job = {"sagemaker:InstanceTypes": ["ml.m5.large"]}
        yield "a schedule with a job of its own", Access(f"sagemaker:{action}MonitoringSchedule", own, job)
    yield "a job", Access("sagemaker:CreateProcessingJob", f"{here}:processing-job/mlops-{PROJECT}-x", mine)
    yield "an approval", Access("sagemaker:UpdateModelPackage", VERSION)
    function = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:mlops-{PROJECT}-traffic"
    yield "a function", Access("lambda:InvokeFunction", function)
    theirs_by_id = f"arn:aws:apigateway:{REGION}::/apis/z9y8x7w6v5"
    yield "another project's API", Access("apigateway:DELETE", theirs_by_id, theirs)
    yield "an API of nobody", Access("apigateway:PATCH", theirs_by_id)
    yield "another project's stage", Access("apigateway:PATCH", f"{theirs_by_id}/stages/$default", theirs)
    yield "another project's route", Access("apigateway:PATCH", f"{theirs_by_id}/routes/r", theirs)
    rest = f"arn:aws:apigateway:{REGION}::/restapis/z9y8x7w6v5"
    yield "another project's API policy", Access("apigateway:UpdateRestApiPolicy", rest, theirs)
    yield (
        "an API for another project",
        Access("apigateway:POST", f"arn:aws:apigateway:{REGION}::/apis", other),
    )
    tags = f"arn:aws:apigateway:{REGION}::/tags/{quote(theirs_by_id)}"
    yield "somebody's tag", Access("apigateway:DELETE", tags, {"aws:TagKeys": ["sagemaker:project-id"]})
    released = f"arn:aws:codedeploy:{REGION}:{ACCOUNT}:deploymentgroup:mlops-p-zyxwvutsrqpo-api/live"
    yield "another project's release", Access("codedeploy:CreateDeployment", released)
    yield "the account's logs of APIs", Access("apigateway:PATCH", f"arn:aws:apigateway:{REGION}::/account")
    called = f"{function.rpartition('-')[0]}-api"
    yield "the API's function called", Access("lambda:InvokeFunction", called)
    for name in ("DataScientistRole", "PipelineRole", "BuildRole"):
        to = {"iam:PassedToService": "sagemaker.amazonaws.com"}
        yield f"the {name}", Access("iam:PassRole", world()[2].child("Identity").arn(name), to)


def test_nothing_else() -> None:
    made, _ = stacks()
    every = [Asked(with_tags(made, access), what) for what, access in escalations()]
    answers = allowed(every, list(role()[0].values()))
    assert [one.name for one, yes in zip(every, answers, strict=True) if yes] == []


def test_missing_rights_are_found() -> None:
    """Without the right to make bias definitions, the bias definition is what cannot be made."""
    found = dict(role()[0])
    actions = [a for a in found["MakeMonitors"]["Action"] if "Bias" not in a]
    found["MakeMonitors"] = {**found["MakeMonitors"], "Action": actions}
    every = list(asked())
    answers = allowed(every, list(found.values()))
    names = [one.name for one, yes in zip(every, answers, strict=True) if not yes]
    assert names and all("CreateModelBiasJobDefinition" in name for name in names)
