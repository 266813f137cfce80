"""CodePipeline: executions that really run, with artifacts, variables, conditions, approvals and events."""

from __future__ import annotations

import copy
import json
import uuid
from typing import Any

import pytest
from botocore.exceptions import ClientError

IMAGE = {
    "type": "LINUX_CONTAINER",
    "image": "aws/codebuild/amazonlinux-x86_64-standard:6.0",
    "computeType": "BUILD_GENERAL1_SMALL",
}
TEMPLATE = """\
Parameters: {Name: {Type: String}}
Resources: {Parameter: {Type: 'AWS::SSM::Parameter', Properties: {Type: String, Value: !Ref Name}}}
Outputs: {Written: {Value: !Ref Parameter}}
"""
BUILDSPEC = """\
version: 0.2
env: {exported-variables: [DEPLOY]}
phases:
  build:
    commands:
      - export DEPLOY=$(cat deploy.txt)
      - 'cat "$CODEBUILD_SRC_DIR_Second/second.txt"'
      - 'printf "{\\"Parameters\\": {\\"Name\\": \\"%s\\"}}" "$COMMIT" > settings.json'
artifacts: {files: [settings.json]}
"""


def action(
    name: str,
    provider: str,
    config: dict[str, str] | None = None,
    inputs: tuple = (),
    outputs: tuple = (),
    **more: Any,
) -> dict:
    category = {
        "CodeCommit": "Source",
        "S3": "Source",
        "CodeBuild": "Build",
        "CloudFormation": "Deploy",
        "Manual": "Approval",
        "Lambda": "Invoke",
    }[provider]
    return {
        "name": name,
        "actionTypeId": {"category": category, "owner": "AWS", "provider": provider, "version": "1"},
        "runOrder": 1,
        "configuration": config or {},
        "inputArtifacts": [{"name": n} for n in inputs],
        "outputArtifacts": [{"name": n} for n in outputs],
        **more,
    }


def only_if(variable: str, value: str, result: str = "SKIP") -> dict[str, Any]:
    kind = {"category": "Rule", "owner": "AWS", "provider": "VariableCheck", "version": "1"}
    rule = {
        "name": "rule",
        "ruleTypeId": kind,
        "configuration": {"Variable": variable, "Value": value, "Operator": "EQ"},
    }
    return {"conditions": [{"result": result, "rules": [rule]}]}


class Case:
    """A repository, a bucket, a role and the pipelines made of them."""

    def __init__(self, cloud) -> None:
        self.cloud, self.client = cloud, cloud.client("codepipeline")
        self.bucket, self.repository = cloud.bucket(), cloud.name("repo")
        self.role = cloud.role("codepipeline", "codebuild", "cloudformation", "events")
        self.codecommit = cloud.client("codecommit")
        self.codecommit.create_repository(repositoryName=self.repository)
        self.commit({"buildspec.yml": BUILDSPEC, "template.yaml": TEMPLATE, "deploy.txt": "true"})
        self.name = ""

    def commit(self, files: dict[str, str]) -> str:
        branches = self.codecommit.list_branches(repositoryName=self.repository)["branches"]
        tip = {"parentCommitId": self.tip()} if branches else {}
        puts = [{"filePath": k, "fileContent": v.encode()} for k, v in files.items()]
        return self.codecommit.create_commit(
            repositoryName=self.repository, branchName="main", putFiles=puts, **tip
        )["commitId"]

    def tip(self) -> str:
        return self.codecommit.get_branch(repositoryName=self.repository, branchName="main")["branch"][
            "commitId"
        ]

    def source(self, **more: Any) -> dict[str, Any]:
        given = {"RepositoryName": self.repository, "BranchName": "main", "PollForSourceChanges": "false"}
        return {
            "name": "Source",
            "actions": [action("Code", "CodeCommit", given, outputs=("Code",), namespace="CodeVars", **more)],
        }

    def declaration(self, *stages: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {
            "name": self.cloud.name("pipeline"),
            "roleArn": self.role,
            "artifactStore": {"type": "S3", "location": self.bucket},
            "stages": [self.source(), *stages],
            "pipelineType": "V2",
            "executionMode": "SUPERSEDED",
            **more,
        }

    def create(self, *stages: dict[str, Any], **more: Any) -> str:
        """Create a pipeline (it starts by itself); the id of its first execution."""
        made = self.client.create_pipeline(pipeline=self.declaration(*stages, **more))["pipeline"]
        self.name = made["name"]
        return self.executions()[-1]["pipelineExecutionId"]

    def start(self, **more: Any) -> str:
        return self.client.start_pipeline_execution(name=self.name, **more)["pipelineExecutionId"]

    def executions(self) -> list[dict[str, Any]]:
        return self.client.list_pipeline_executions(pipelineName=self.name)["pipelineExecutionSummaries"]

    def status(self, execution: str) -> str:
        return self.client.get_pipeline_execution(pipelineName=self.name, pipelineExecutionId=execution)[
            "pipelineExecution"
        ]["status"]

    def finished(self, execution: str) -> str:
        return self.cloud.wait(
            lambda: (s := self.status(execution)) not in ("InProgress", "Stopping") and s, 60, "the execution"
        )

    def actions(self, execution: str) -> dict[str, dict[str, Any]]:
        found = self.client.list_action_executions(
            pipelineName=self.name, filter={"pipelineExecutionId": execution}
        )["actionExecutionDetails"]
        return {a["actionName"]: a for a in reversed(found)}

    def error(self, execution: str, name: str) -> dict[str, str]:
        return self.actions(execution)[name]["output"]["executionResult"]["errorDetails"]

    def stages(self) -> dict[str, dict[str, Any]]:
        return {s["stageName"]: s for s in self.client.get_pipeline_state(name=self.name)["stageStates"]}

    def token(self, stage: str, name: str = "Ask") -> str:
        """The token of a waiting approval."""
        return self.cloud.wait(
            lambda: next(
                a.get("latestExecution", {}).get("token")
                for a in self.stages()[stage]["actionStates"]
                if a["actionName"] == name
            )
        )

    def answer(self, stage: str, status: str = "Approved") -> None:
        self.client.put_approval_result(
            pipelineName=self.name,
            stageName=stage,
            actionName="Ask",
            token=self.token(stage),
            result={"summary": "because", "status": status},
        )


@pytest.fixture
def case(cloud) -> Case:
    return Case(cloud)


def ask(**more: Any) -> dict[str, Any]:
    return {"name": "Gate", "actions": [action("Ask", "Manual", **more)]}


def after(name: str = "After") -> dict[str, Any]:
    return {"name": name, "actions": [action("Ask", "Manual")]}


def project(case: Case) -> str:
    name = case.cloud.name("project")
    case.cloud.client("codebuild").create_project(
        name=name,
        source={"type": "CODEPIPELINE"},
        artifacts={"type": "CODEPIPELINE"},
        environment=IMAGE,
        serviceRole=case.role,
    )
    return name


def build_and_deploy(case: Case, stack: str) -> list[dict[str, Any]]:
    """Build, a stage that is skipped, and a deployment if the build says so."""
    s3 = case.cloud.client("s3")
    s3.put_object(
        Bucket=case.bucket, Key="second.zip", Body=case.packed({"second.txt": "from the second input"})
    )
    build = action(
        "Build",
        "CodeBuild",
        {
            "ProjectName": project(case),
            "PrimarySource": "Code",
            "EnvironmentVariables": json.dumps([{"name": "COMMIT", "value": "#{CodeVars.CommitId}"}]),
        },
        ("Code", "Second"),
        ("Built",),
        namespace="Built",
    )
    deploy = action(
        "Stack",
        "CloudFormation",
        {
            "ActionMode": "CREATE_UPDATE",
            "StackName": stack,
            "RoleArn": case.role,
            "TemplatePath": "Code::template.yaml",
            "TemplateConfiguration": "Built::settings.json",
        },
        ("Code", "Built"),
        namespace="Deployed",
    )
    return [
        {"name": "Build", "actions": [build]},
        {
            "name": "Skipped",
            "actions": [action("Ask", "Manual")],
            "beforeEntry": only_if("#{Built.DEPLOY}", "false"),
        },
        {"name": "Deploy", "actions": [deploy], "beforeEntry": only_if("#{Built.DEPLOY}", "true")},
    ]


def with_second_source(case: Case, stages: list[dict[str, Any]]) -> dict[str, Any]:
    declared = case.declaration(*stages)
    given = {"S3Bucket": case.bucket, "S3ObjectKey": "second.zip", "PollForSourceChanges": "false"}
    declared["stages"][0]["actions"].append(action("Second", "S3", given, outputs=("Second",)))
    return declared


def test_from_commit_to_stack_with_variables_and_a_skipped_stage(cloud, case, pack):
    case.packed, stack = pack, cloud.name("deployed")
    declared = with_second_source(case, build_and_deploy(case, stack))
    case.name = declared["name"]
    case.client.create_pipeline(pipeline=declared, tags=[{"key": "k", "value": "v"}])
    execution = case.executions()[0]["pipelineExecutionId"]
    assert case.finished(execution) == "Succeeded", case.actions(execution)
    assert {n: s.get("latestExecution", {}).get("status") for n, s in case.stages().items()} == {
        "Source": "Succeeded",
        "Build": "Succeeded",
        "Skipped": "Skipped",
        "Deploy": "Succeeded",
    }
    written = cloud.outputs(stack)["Written"]
    assert cloud.client("ssm").get_parameter(Name=written)["Parameter"]["Value"] == case.tip()
    details = case.actions(execution)
    assert details["Build"]["output"]["outputVariables"] == {"DEPLOY": "true"}
    assert details["Stack"]["output"]["outputVariables"] == {"Written": written}
    assert (
        json.loads(details["Build"]["input"]["resolvedConfiguration"]["EnvironmentVariables"])[0]["value"]
        == case.tip()
    )
    source = details["Code"]["output"]["outputVariables"]
    assert (source["RepositoryName"], source["BranchName"]) == (case.repository, "main")
    where = details["Build"]["output"]["outputArtifacts"][0]["s3location"]
    assert cloud.client("s3").get_object(Bucket=where["bucket"], Key=where["key"])["Body"].read(2) == b"PK"
    builds = cloud.client("codebuild").batch_get_builds(
        ids=[details["Build"]["output"]["executionResult"]["externalExecutionId"]]
    )["builds"]
    assert builds[0]["initiator"] == f"codepipeline/{case.name}"
    condition = case.stages()["Skipped"]["beforeEntryConditionState"]
    assert condition["latestExecution"]["status"] == "Failed"
    assert "'true'" in condition["conditionStates"][0]["ruleStates"][0]["latestExecution"]["summary"]
    # the same again: nothing to update is a success
    assert case.finished(case.start()) == "Succeeded"
    # what a build says decides: nothing is deployed
    case.commit({"deploy.txt": "no"})
    assert case.finished(case.start()) == "Succeeded"
    assert case.stages()["Deploy"]["latestExecution"]["status"] == "Skipped"


def test_failed_build_names_the_cause_and_can_be_retried(case, pack):
    case.packed = pack
    flag = case.cloud.client("ssm")
    flag.put_parameter(Name=f"/{case.repository}", Value="1", Type="String")
    spec = "version: 0.2\nenv: {parameter-store: {CODE: /REPOSITORY}}\n"
    spec += "phases: {build: {commands: ['exit $CODE']}}"
    spec = spec.replace("REPOSITORY", case.repository)
    case.commit({"buildspec.yml": spec})
    build = action("Build", "CodeBuild", {"ProjectName": project(case)}, ("Code",))
    execution = case.create({"name": "Build", "actions": [build]}, after())
    assert case.finished(execution) == "Failed"
    assert case.error(execution, "Build") == {
        "code": "JobFailed",
        "message": "Build terminated with state: FAILED. Phase: BUILD, Code: COMMAND_EXECUTION_ERROR, "
        "Message: Error while executing command: exit $CODE. Reason: exit status 1",
    }
    assert "latestExecution" not in case.stages()["After"]
    flag.put_parameter(Name=f"/{case.repository}", Value="0", Type="String", Overwrite=True)
    case.client.retry_stage_execution(
        pipelineName=case.name, stageName="Build", pipelineExecutionId=execution, retryMode="FAILED_ACTIONS"
    )
    case.answer("After")
    assert case.finished(execution) == "Succeeded"
    assert [
        a["actionName"]
        for a in case.client.list_action_executions(pipelineName=case.name)["actionExecutionDetails"]
    ] == ["Ask", "Build", "Build", "Code"]


def test_entry_condition_fails_the_stage(case):
    gate = {**ask(), "beforeEntry": only_if("#{CodeVars.BranchName}", "release", "FAIL")}
    execution = case.create(gate)
    assert case.finished(execution) == "Failed"
    assert case.stages()["Gate"]["latestExecution"]["status"] == "Failed"
    assert "Ask" not in case.actions(execution)


def test_approval_asks_by_mail_and_waits(cloud, case):
    topic = cloud.client("sns").create_topic(Name=cloud.name("topic"))["TopicArn"]
    cloud.subscribe(topic, "jane@example.com")
    execution = case.create(
        ask(config={"NotificationArn": topic, "CustomData": "model version #{CodeVars.BranchName}"})
    )
    token = case.token("Gate")
    mail = cloud.wait(
        lambda: [m for m in cloud.control("outbox") if m["topic"] == topic and "APPROVAL" in m["subject"]]
    )[0]
    assert mail["subject"] == f"APPROVAL NEEDED: AWS CodePipeline {case.name} for action Ask"
    assert "Additional information: model version main" in mail["body"]
    with pytest.raises(case.client.exceptions.InvalidApprovalTokenException):
        case.client.put_approval_result(
            pipelineName=case.name,
            stageName="Gate",
            actionName="Ask",
            token=str(uuid.uuid4()),
            result={"summary": "", "status": "Approved"},
        )
    case.answer("Gate")
    assert case.finished(execution) == "Succeeded"
    with pytest.raises(case.client.exceptions.ApprovalAlreadyCompletedException):
        case.client.put_approval_result(
            pipelineName=case.name,
            stageName="Gate",
            actionName="Ask",
            token=token,
            result={"summary": "", "status": "Approved"},
        )


def test_rejected_approval_fails_the_execution(case):
    execution = case.create(ask())
    case.answer("Gate", "Rejected")
    assert case.finished(execution) == "Failed"
    assert "because" in case.error(execution, "Ask")["message"]


def test_superseded_mode_lets_only_the_newest_wait(case):
    first = case.create(ask())
    case.token("Gate")
    second = case.start()
    case.cloud.wait(
        lambda: case.stages()["Gate"].get("inboundExecution", {}).get("pipelineExecutionId") == second
    )
    third = case.start()
    assert case.finished(second) == "Superseded"
    case.answer("Gate")
    assert case.finished(first) == "Succeeded"
    case.cloud.wait(lambda: case.stages()["Gate"]["latestExecution"]["pipelineExecutionId"] == third)
    case.answer("Gate")
    assert case.finished(third) == "Succeeded"


def test_queued_mode_keeps_the_order(case):
    order = [case.create(ask(), executionMode="QUEUED"), case.start(), case.start()]
    for execution in order:
        case.cloud.wait(
            lambda e=execution: (
                case.stages()["Gate"].get("latestExecution", {}).get("pipelineExecutionId") == e
            )
        )
        case.answer("Gate")
        assert case.finished(execution) == "Succeeded"


def test_disabled_transition_holds_executions_back(case):
    first = case.create(ask())
    case.answer("Gate")
    case.finished(first)
    case.client.disable_stage_transition(
        pipelineName=case.name, stageName="Gate", transitionType="Inbound", reason="holidays"
    )
    second = case.start()
    case.cloud.wait(lambda: case.stages()["Gate"].get("inboundExecution"))
    assert case.stages()["Gate"]["inboundTransitionState"]["disabledReason"] == "holidays"
    case.client.enable_stage_transition(pipelineName=case.name, stageName="Gate", transitionType="Inbound")
    case.answer("Gate")
    assert case.finished(second) == "Succeeded"


def test_abandoning_stops_at_once(case):
    execution = case.create(ask())
    case.token("Gate")
    case.client.stop_pipeline_execution(
        pipelineName=case.name, pipelineExecutionId=execution, abandon=True, reason="enough"
    )
    assert case.finished(execution) == "Stopped"
    assert case.actions(execution)["Ask"]["status"] == "Abandoned"
    with pytest.raises(case.client.exceptions.PipelineExecutionNotStoppableException):
        case.client.stop_pipeline_execution(pipelineName=case.name, pipelineExecutionId=execution)


def test_pipeline_variables(case):
    gate = ask(config={"CustomData": "#{variables.Level} #{codepipeline.PipelineExecutionId}"})
    case.create(gate, variables=[{"name": "Level", "defaultValue": "low"}])
    case.answer("Gate")
    execution = case.start(variables=[{"name": "Level", "value": "high"}])
    case.cloud.wait(lambda: "Ask" in case.actions(execution))
    case.answer("Gate")
    case.finished(execution)
    assert (
        case.actions(execution)["Ask"]["input"]["resolvedConfiguration"]["CustomData"] == f"high {execution}"
    )
    with pytest.raises(ClientError, match="no variable Height"):
        case.start(variables=[{"name": "Height", "value": "1"}])


def test_a_push_starts_it_and_duplicates_do_not(cloud, case):
    first = case.create(after())
    case.answer("After")
    case.finished(first)
    events, arn = cloud.client("events"), f"arn:aws:codepipeline:{cloud.region}:{cloud.account}:{case.name}"
    rule = cloud.name("rule")
    events.put_rule(
        Name=rule,
        EventPattern=json.dumps(
            {"source": ["aws.codecommit"], "detail": {"repositoryName": [case.repository]}}
        ),
    )
    events.put_targets(Rule=rule, Targets=[{"Id": "pipeline", "Arn": arn, "RoleArn": case.role}])
    commit = case.commit({"new.txt": "1"})
    cloud.wait(lambda: len(case.executions()) == 2)
    newest = case.executions()[0]
    assert newest["trigger"]["triggerType"] == "CloudWatchEvent"
    case.answer("After")
    assert case.finished(newest["pipelineExecutionId"]) == "Succeeded"
    assert case.executions()[0]["sourceRevisions"][0]["revisionId"] == commit
    token = cloud.name()
    assert case.start(clientRequestToken=token) == case.start(clientRequestToken=token)


def test_events_of_pipeline_stage_and_action(cloud, case):
    events = cloud.listen(source=["aws.codepipeline"])
    execution = case.create(ask())
    case.answer("Gate", "Rejected")
    case.finished(execution)

    def told(kind: str) -> list[tuple[str, ...]]:
        mine = [
            e["detail"]
            for e in events()
            if e["detail"]["execution-id"] == execution
            and e["detail-type"].startswith(f"CodePipeline {kind} ")
        ]
        return [tuple(d[k] for k in ("stage", "action", "state") if k in d) for d in mine]

    cloud.wait(lambda: ("FAILED",) in told("Pipeline"))
    assert sorted(told("Pipeline")) == [("FAILED",), ("STARTED",)]
    assert sorted(told("Stage")) == [
        ("Gate", "FAILED"),
        ("Gate", "STARTED"),
        ("Source", "STARTED"),
        ("Source", "SUCCEEDED"),
    ]
    assert ("Gate", "Ask", "FAILED") in told("Action")
    failed = next(
        e["detail"]
        for e in events()
        if e["detail"].get("action") == "Ask" and e["detail"]["state"] == "FAILED"
    )
    assert failed["type"]["provider"] == "Manual"
    assert "because" in failed["execution-result"]["external-execution-summary"]


# -- CloudFormation actions ------------------------------------------------------------------------------
def deploy(case: Case, name: str, **config: str) -> dict[str, Any]:
    given = {
        "StackName": name,
        "RoleArn": case.role,
        "TemplatePath": "Code::template.yaml",
        "ParameterOverrides": '{"Name": "given"}',
    }
    return action("Stack", "CloudFormation", {**given, **config}, ("Code",))


def test_change_set_then_execution_then_deletion(cloud, case):
    stack = cloud.name("changed")
    change = {"ActionMode": "CHANGE_SET_REPLACE", "ChangeSetName": "change"}
    execute = action(
        "Execute",
        "CloudFormation",
        {"ActionMode": "CHANGE_SET_EXECUTE", "ChangeSetName": "change", "StackName": stack},
        runOrder=2,
    )
    remove = action(
        "Remove",
        "CloudFormation",
        {"ActionMode": "DELETE_ONLY", "StackName": stack, "RoleArn": case.role},
        runOrder=3,
    )
    execution = case.create(
        {"name": "Deploy", "actions": [deploy(case, stack, **change), execute]},
        after(),
        {"name": "Remove", "actions": [remove]},
    )
    case.token("After")
    assert cloud.stack_status(stack) == "CREATE_COMPLETE"
    again = case.start()  # no changes: both actions succeed
    cloud.wait(lambda: case.stages()["After"].get("inboundExecution", {}).get("pipelineExecutionId") == again)
    case.answer("After")
    assert case.finished(execution) == "Succeeded"
    assert cloud.stack_status(stack) == ""
    case.answer("After")
    assert case.finished(again) == "Succeeded"


def test_failed_stack_names_the_resource(cloud, case):
    case.commit(
        {
            "template.yaml": "Resources: {Broken: {Type: 'AWS::SSM::Parameter', Properties: {Type: String, "
            "Valu: x}}}"
        }
    )
    stack = cloud.name("broken")
    execution = case.create(
        {
            "name": "Deploy",
            "actions": [deploy(case, stack, ActionMode="CREATE_UPDATE", ParameterOverrides="{}")],
        }
    )
    assert case.finished(execution) == "Failed"
    error = case.error(execution, "Stack")
    assert "Broken" in error["message"] and "Valu" in error["message"]
    # a stack that failed to be created cannot be updated, but replaced
    case.commit({"template.yaml": TEMPLATE})
    execution = case.start()
    assert case.finished(execution) == "Failed"
    assert "can not be updated" in case.error(execution, "Stack")["message"]
    pipeline = case.client.get_pipeline(name=case.name)["pipeline"]
    pipeline["stages"][1]["actions"][0] = deploy(case, stack, ActionMode="REPLACE_ON_FAILURE")
    case.client.update_pipeline(pipeline=pipeline)
    assert case.finished(case.start()) == "Succeeded"
    assert cloud.stack_status(stack) == "CREATE_COMPLETE"


FAILING = [
    (
        "missing template",
        {"TemplatePath": "Code::no.yaml"},
        "File [no.yaml] does not exist in artifact [Code]",
    ),
    ("not an input", {"TemplatePath": "Other::template.yaml"}, "with one of: Code"),
    ("parameter that the template lacks", {"ParameterOverrides": '{"Nam": "x", "Name": "y"}'}, "Nam"),
    ("parameters that are no JSON", {"ParameterOverrides": "{"}, "ParameterOverrides is not valid JSON"),
]


@pytest.mark.parametrize("config,words", [f[1:] for f in FAILING], ids=[f[0] for f in FAILING])
def test_deployment_fails_with_the_cause(cloud, case, config, words):
    execution = case.create(
        {"name": "Deploy", "actions": [deploy(case, cloud.name("s"), ActionMode="CREATE_UPDATE", **config)]}
    )
    assert case.finished(execution) == "Failed"
    assert words in case.error(execution, "Stack")["message"]


def test_role_that_cloudformation_may_not_assume(cloud, case):
    given = deploy(case, cloud.name("s"), ActionMode="CREATE_UPDATE", RoleArn=cloud.role("lambda"))
    execution = case.create({"name": "Deploy", "actions": [given]})
    assert case.finished(execution) == "Failed"
    assert "cloudformation.amazonaws.com" in case.error(execution, "Stack")["message"]


# -- what is refused at creation -------------------------------------------------------------------------
def _two_stores(d: dict) -> None:
    d["artifactStores"] = {"us-east-1": d["artifactStore"]}


def _source_later(d: dict) -> None:
    d["stages"][1]["actions"].append(
        {
            **copy.deepcopy(d["stages"][0]["actions"][0]),
            "name": "Late",
            "outputArtifacts": [{"name": "Late"}],
            "namespace": "L",
        }
    )


def _unmade_artifact(d: dict) -> None:
    d["stages"][1]["actions"].append(action("Build", "CodeBuild", {"ProjectName": "p"}, ("Nowhere",)))


def _same_stage(d: dict) -> None:
    d["stages"].append(copy.deepcopy(d["stages"][1]))


def _same_action(d: dict) -> None:
    d["stages"][1]["actions"].append(copy.deepcopy(d["stages"][1]["actions"][0]))


def _no_primary(d: dict) -> None:
    extra = {
        **copy.deepcopy(d["stages"][0]["actions"][0]),
        "name": "Two",
        "outputArtifacts": [{"name": "Two"}],
        "namespace": "Two",
    }
    d["stages"][0]["actions"].append(extra)
    d["stages"][1]["actions"].append(action("Build", "CodeBuild", {"ProjectName": "p"}, ("Code", "Two")))


def _unknown_namespace(d: dict) -> None:
    d["stages"][1]["actions"][0]["configuration"] = {"CustomData": "#{Nowhere.X}"}


def _unknown_key(d: dict) -> None:
    d["stages"][1]["actions"][0]["configuration"] = {"CustomDatum": "x"}


def _missing_key(d: dict) -> None:
    del d["stages"][0]["actions"][0]["configuration"]["BranchName"]


def _one_stage(d: dict) -> None:
    del d["stages"][1:]


def _queued_v1(d: dict) -> None:
    d |= {"pipelineType": "V1", "executionMode": "QUEUED"}


def _no_role_arn(d: dict) -> None:
    d["stages"][1]["actions"].append(
        action(
            "Stack",
            "CloudFormation",
            {"ActionMode": "CREATE_UPDATE", "StackName": "s", "TemplatePath": "Code::t"},
            ("Code",),
        )
    )


REFUSED = [
    (_two_stores, "Exactly one of artifactStore or artifactStores"),
    (_source_later, "Only the first stage may contain source actions"),
    (
        _unmade_artifact,
        "Input Artifact Bundle Nowhere in action Build is not declared as Output Artifact Bundle in any of "
        "the preceding actions",
    ),
    (_same_stage, "Stage names must be unique"),
    (_same_action, "Action names must be unique within a stage"),
    (_no_primary, "needs PrimarySource"),
    (_unknown_namespace, "referencing a namespace that does not exist. StageName=[Gate], ActionName=[Ask]"),
    (_unknown_key, "contains unknown configuration 'CustomDatum'"),
    (_missing_key, "missing required configuration 'BranchName'"),
    (_one_stage, "minimum of 2 stages"),
    (_queued_v1, "only supported for V2"),
    (_no_role_arn, "missing required configuration 'RoleArn'"),
]


@pytest.mark.parametrize("change,words", REFUSED, ids=[r[0].__name__.strip("_") for r in REFUSED])
def test_declaration_is_refused(case, change, words):
    declared = case.declaration(ask())
    change(declared)
    with pytest.raises(ClientError) as caught:
        case.client.create_pipeline(pipeline=declared)
    assert words in str(caught.value)


def test_role_without_trust_is_refused(cloud, case):
    with pytest.raises(ClientError, match="not authorized to perform AssumeRole"):
        case.client.create_pipeline(pipeline=case.declaration(ask(), roleArn=cloud.role("lambda")))


# -- the resource type -----------------------------------------------------------------------------------
def test_stack_creates_updates_in_place_and_deletes(cloud, case):
    def resources(data: str, **more: Any) -> dict[str, Any]:
        kinds = {"Source": "CodeCommit", "Approval": "Manual"}

        def one(category: str, name: str, config: dict, outputs: list) -> dict[str, Any]:
            type_id = {"Category": category, "Owner": "AWS", "Provider": kinds[category], "Version": "1"}
            return {
                "Name": name,
                "ActionTypeId": type_id,
                "Configuration": config,
                "OutputArtifacts": outputs,
            }

        source = {"RepositoryName": case.repository, "BranchName": "main", "PollForSourceChanges": False}
        return {
            "Pipeline": {
                "Type": "AWS::CodePipeline::Pipeline",
                "Properties": {
                    "RoleArn": case.role,
                    "PipelineType": "V2",
                    "ExecutionMode": "QUEUED",
                    "ArtifactStore": {"Type": "S3", "Location": case.bucket},
                    "Stages": [
                        {"Name": "Source", "Actions": [one("Source", "Code", source, [{"Name": "Code"}])]},
                        {"Name": "Gate", "Actions": [one("Approval", "Ask", {"CustomData": data}, [])]},
                    ],
                    **more,
                },
            }
        }

    outputs = {
        "Name": {"Value": {"Ref": "Pipeline"}},
        "Version": {"Value": {"Fn::GetAtt": ["Pipeline", "Version"]}},
    }
    stack = cloud.stack(resources("one", Tags=[{"Key": "k", "Value": "v"}]), outputs)
    case.name = cloud.outputs(stack)["Name"]
    found = case.client.get_pipeline(name=case.name)
    assert found["pipeline"]["stages"][0]["actions"][0]["configuration"]["PollForSourceChanges"] == "false"
    tags = case.client.list_tags_for_resource(resourceArn=found["metadata"]["pipelineArn"])["tags"]
    assert {"key": "k", "value": "v"} in tags
    case.answer("Gate")
    cloud.stack(resources("two"), outputs, name=stack)
    assert cloud.outputs(stack) == {"Name": case.name, "Version": "2"}
    assert case.client.get_pipeline(name=case.name)["pipeline"]["stages"][1]["actions"][0][
        "configuration"
    ] == {"CustomData": "two"}
    assert len(case.executions()) == 1  # an update starts nothing unless RestartExecutionOnUpdate says so
    assert cloud.delete_stack(stack) == ""
    with pytest.raises(case.client.exceptions.PipelineNotFoundException):
        case.client.get_pipeline(name=case.name)
