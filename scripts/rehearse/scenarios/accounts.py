"""Staging and production in accounts of their own: three accounts, from the release to the retraining, and
nothing of one project or account that another could reach.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import ClientError

import account
import approve
from rehearse import engine, monitoring, releases, story, teardown_story
from rehearse.cloud import ACCOUNT, REGION, ROOT
from rehearse.engine import Failure, Rehearsal
from rehearse.load import SteadyLoad

STAGES = {"staging": "210987654321", "production": "310987654321"}
DENIED = ("AccessDenied", "AccessDeniedException")
LOAD_SECONDS = 3
EVIDENCE = "evidence-of-grants.json"


def run(r: Rehearsal) -> None:
    """A to G, where both stages are elsewhere; then everything is deleted in all three."""
    for stage, number in STAGES.items():
        r.cloud.open_account(number, stage)
    before = {number: teardown_story.count(r.administrator(number)) for number in (ACCOUNT, *STAGES.values())}
    story.deploy_infrastructure(
        r, with_pipeline=False, parameters={"StageAccountIds": ",".join(STAGES.values())}
    )
    with r.use_case("F", "prepare the accounts"):
        for stage in STAGES:
            with r.step(f"make prepare-account --profile {stage}") as step:
                step.say(shown(prepare(r, stage)))
    project = story.project(r, more={f"{stage.title()}AccountId": number for stage, number in STAGES.items()})
    with r.use_case("F", "prepare the accounts for the project"):
        for stage in STAGES:
            with r.step(f"make prepare-account --profile {stage} --project {project.name}") as step:
                step.say(shown(prepare(r, stage, "--project", project.name)))
                again = prepare(r, stage, "--project", project.name)
                r.check(set(again["stacks"].values()) == {"none"}, f"once more changed {again['stacks']}")
        project.application = application(r, project)
    story.user(r, project)
    clone = story.clone_repository(r, project)
    version = story.train(r, project, clone)
    story.roll_out(r, project, version)
    with r.use_case("F", "what is where"):
        where(r, project)
        load(r, project)
    source = monitoring.traffic_of(r, project)
    with r.use_case("G", "monitor, tell and retrain"):
        for seed, name in enumerate(("clean", "unit_change")):
            monitoring.drift_hour(r, project, source, name, seed)
        alarm_reaches_the_owner(r, project)
        monitoring.ends_well(r, source)
        apart(r, project)  # after it, because it has calls denied
    with r.use_case("F", "without a grant"):
        engine.keep_evidence(r, EVIDENCE)  # of the policies as they are, before some lack a statement
        without_grants(r, project)
        unheard_alarms(r, project)
    if not r.keep:
        teardown(r, project, before)


# --- the command that people type -------------------------------------------------------------------------


def prepare(r: Rehearsal, stage: str, *arguments: str) -> dict[str, Any]:
    """What `make prepare-account` prints: as the Full Stack Developer here, an administrator there."""
    profiles = Path(r.folder) / "profiles"
    keys = story.developer(r).get_credentials().get_frozen_credentials()
    sections = {
        "tooling": (keys.access_key, keys.secret_key, keys.token),
        **{name: (number, "test", "") for name, number in STAGES.items()},
    }
    text = ""
    for name, (access, secret, token) in sections.items():
        text += f"[{name}]\naws_access_key_id = {access}\naws_secret_access_key = {secret}\n"
        text += f"aws_session_token = {token}\n" if token else ""
    profiles.touch(mode=0o600)
    profiles.write_text(text)
    env = r.cloud.environment() | {"AWS_SHARED_CREDENTIALS_FILE": str(profiles), "PATH": os.environ["PATH"]}
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        del env[name]
    command = [sys.executable, str(ROOT / "scripts/prepare_account.py"), "--profile", stage, *arguments]
    command += ["--tooling-profile", "tooling", "--tooling-account", ACCOUNT]
    said = r.run(command, ROOT, env)
    return json.loads(said[said.index("{") :])


def shown(answer: dict[str, Any]) -> str:
    """What was done to which stack."""
    stacks = ", ".join(f"{name} {done}" for name, done in answer["stacks"].items())
    return f"account {answer['account']}: {stacks}; release {answer['release']}"


def application(r: Rehearsal, made: story.Project) -> boto3.Session:
    """Who asks production: a role that the account's own people make for their application."""
    number = STAGES["production"]
    iam = r.administrator(number).client("iam")
    trust = {
        "Effect": "Allow",
        "Principal": {"AWS": f"arn:aws:iam::{number}:root"},
        "Action": "sts:AssumeRole",
    }
    ask = {
        "Effect": "Allow",
        "Action": ["sagemaker:DescribeEndpoint", "sagemaker:InvokeEndpoint"],
        "Resource": f"arn:aws:sagemaker:{REGION}:{number}:endpoint/{made.endpoint}",
    }
    role = iam.create_role(RoleName="application", AssumeRolePolicyDocument=json.dumps(_policy(trust)))[
        "Role"
    ]["Arn"]
    iam.put_role_policy(RoleName="application", PolicyName="ask", PolicyDocument=json.dumps(_policy(ask)))
    return r.persona(role, "application")


def _policy(statement: dict[str, Any]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": [statement]}


# --- what must hold ---------------------------------------------------------------------------------------


def where(r: Rehearsal, made: story.Project) -> None:
    """Each stage runs in its account alone, with that account's role and key; its captures come home."""
    for stage, number in STAGES.items():
        with r.step(f"{stage} runs in account {number}") as step:
            name = f"mlops-{made.id}-{stage}"
            for other in (ACCOUNT, *STAGES.values()):
                session = story.person(r, made) if other == ACCOUNT else r.administrator(other)
                pages = session.client("sagemaker").get_paginator("list_endpoints").paginate()
                found = [e["EndpointName"] for page in pages for e in page["Endpoints"]]
                r.check((name in found) is (other == number), f"account {other} has the endpoints {found}")
            sagemaker = r.administrator(number).client("sagemaker")
            config = sagemaker.describe_endpoint_config(
                EndpointConfigName=sagemaker.describe_endpoint(EndpointName=name)["EndpointConfigName"]
            )
            model = sagemaker.describe_model(ModelName=config["ProductionVariants"][0]["ModelName"])
            capture = config["DataCaptureConfig"]
            role = f"arn:aws:iam::{number}:role/mlops/projects/mlops-{made.id}-model"
            r.check(model["ExecutionRoleArn"] == role, f"its model works as {model['ExecutionRoleArn']}")
            r.check(f":{number}:key/" in config["KmsKeyId"], f"its volumes have the key {config['KmsKeyId']}")
            r.check(
                capture["KmsKeyId"] == made.settings["key-arn"]
                and capture["DestinationS3Uri"].startswith(f"s3://{made.settings['bucket-name']}/"),
                f"its requests are captured to {capture}",
            )
            step.say(f"{name}, as mlops-{made.id}-model, with a key of the account")


def load(r: Rehearsal, made: story.Project) -> None:
    """Production answers a steady load."""
    with r.step("production answers a steady load") as step:
        bodies, runtime = releases.bodies(r, made), made.application.client("sagemaker-runtime")
        with SteadyLoad(runtime, made.endpoint, bodies, releases.PER_SECOND) as asking:
            r.wait(
                "answers",
                lambda: len(asking.answers) >= LOAD_SECONDS * releases.PER_SECOND or None,
                timeout=30,
            )
        failed = [answer.reason for answer in asking.answers if answer.failed]
        r.check(not failed, f"{len(failed)} of {len(asking.answers)} requests failed", failed[:5])
        step.say(f"{len(asking.answers)} requests, none failed")


def apart(r: Rehearsal, made: story.Project) -> None:
    """People of the tooling account do not become what deploys and tests in another one."""
    with r.step("nobody but the pipeline and its builds takes the roles of the stages") as step:
        refused = 0
        number = STAGES["production"]
        for caller, role in (
            (story.person(r, made), f"arn:aws:iam::{number}:role/mlops/projects/mlops-{made.id}-release"),
            (story.developer(r), f"arn:aws:iam::{number}:role/mlops/projects/mlops-{made.id}-deliver"),
        ):
            parameters = {"RoleArn": role, "RoleSessionName": "stranger"}
            refused += denied(r, caller, "sts", "assume_role", parameters, role)
        step.say(f"{refused} ways were denied")


def denied(
    r: Rehearsal, session: Any, service: str, operation: str, parameters: dict[str, Any], what: str
) -> int:
    """One call that IAM must refuse."""
    try:
        getattr(session.client(service), operation)(**parameters)
    except ClientError as error:
        r.check(error.response["Error"]["Code"] in DENIED, f"{service} {operation}: {error}")
        return 1
    raise Failure(f"{what} was open: {service} {operation} was not denied")


def without_grants(r: Rehearsal, made: story.Project) -> None:
    """A release is refused when a grant is gone, and says which; with it, the same release goes on."""
    session, pipeline = story.person(r, made), made.settings["deploy-pipeline-name"]
    codepipeline = session.client("codepipeline")
    deliver, stacks = (f"mlops-{made.id}-{end}" for end in ("deliver", "stacks"))
    newest = approve.versions(session.client("sagemaker"), made.settings["model-package-group-name"])[0]
    grants = (
        (Bucket(r, made), "StagingReadsArtifacts", ["s3:GetObject", deliver, made.settings["bucket-name"]]),
        (Key(r, made), "StagingOpensArtifacts", ["kms:Decrypt", deliver, made.settings["key-arn"]]),
        (Registry(r, made), "StagingMakesModels", ["sagemaker:", stacks, newest["ModelPackageArn"]]),
    )
    refused: list[list[str]] = []
    r.facts.setdefault("tables", []).append(
        {
            "title": "Releases without a grant between the accounts",
            "lead": "Each was refused, and the same release went on when the grant was back.",
            "head": ["without", "what it said"],
            "rows": refused,
        }
    )
    execution = ""
    for place, sid, words in grants:
        with r.step(f"without {sid} the release is refused, and says why") as step:
            whole = place.read()
            left = [s for s in whole["Statement"] if s["Sid"] != sid]
            r.check(len(left) == len(whole["Statement"]) - 1, f"there is no statement {sid}")
            place.write({**whole, "Statement": left})
            try:
                if execution:
                    retry(r, codepipeline, pipeline, execution)
                else:
                    execution = story.approve_version(r, made, newest["ModelPackageArn"])
                said = refusal(r, session, step, pipeline, execution)
            finally:
                place.write(whole)
            missing = [word for word in words if word not in said]
            r.check(not missing, f"the message does not name {', '.join(missing)}", said.splitlines())
            line = next(line.strip() for line in said.splitlines() if words[0] in line)
            refused.append([sid, line])
            step.say(line[:200])
    with r.step("with all of them the same release goes on") as step:
        retry(r, codepipeline, pipeline, execution)
        story.wait_for_execution(r, session, step, pipeline, execution, until_approval=True)
        approve.answer_release(codepipeline, pipeline, "Rejected", "rehearsal")


def unheard_alarms(r: Rehearsal, made: story.Project) -> None:
    """Without a grant an alarm of a stage does not reach the owner's topic, and its history says why."""
    rows: list[list[str]] = []
    # the topic has this key already, which the local cloud's CloudFormation leaves out
    topic = Topic(r, made)
    topic.client.set_topic_attributes(
        TopicArn=topic.arn, AttributeName="KmsMasterKeyId", AttributeValue=made.settings["key-arn"]
    )
    title = "Alarms without a grant between the accounts"
    head = ["without", "what the alarm's action said"]
    r.facts["tables"].append({"title": title, "lead": "None reached the owner.", "head": head, "rows": rows})
    for stage in STAGES:
        for place, sid in (
            (topic, f"AlarmsOf{stage.title()}"),
            (Key(r, made), f"{stage.title()}AlarmsReachTopics"),
        ):
            with r.step(f"without {sid} an alarm of {stage} is not heard") as step:
                whole = place.read()
                left = [s for s in whole["Statement"] if s["Sid"] != sid]
                r.check(len(left) == len(whole["Statement"]) - 1, f"there is no statement {sid}")
                place.write({**whole, "Statement": left})
                before = len(r.cloud.control("health")["undelivered"])
                name = drill(r, made, stage)
                try:
                    lost = r.wait(
                        "the alarm's action",
                        lambda before=before: r.cloud.control("health")["undelivered"][before:] or None,
                        timeout=30,
                    )
                finally:
                    place.write(whole)
                said = next((str(one) for one in lost if name in str(one)), "")
                r.check(bool(said), f"the action of {name} was carried out", [str(one) for one in lost])
                rows.append([sid, said])
                step.say(said[:200])


def drill(r: Rehearsal, made: story.Project, stage: str) -> str:
    """Set off an alarm of a stage's endpoint; returns its name."""
    cloudwatch = r.administrator(STAGES[stage]).client("cloudwatch")
    found = cloudwatch.describe_alarms(AlarmNamePrefix=f"mlops-{made.id}-{stage}-")["MetricAlarms"]
    r.check(bool(found), f"the account of {stage} has no alarm of the endpoint")
    name = next(alarm["AlarmName"] for alarm in found if "ServerErrors" in alarm["AlarmName"])
    for value in ("OK", "ALARM"):
        cloudwatch.set_alarm_state(AlarmName=name, StateValue=value, StateReason="a drill")
    return name


def retry(r: Rehearsal, codepipeline: Any, pipeline: str, execution: str) -> None:
    """Run the failed actions of staging again; comes back when they have begun."""
    before = len(account.actions(codepipeline, pipeline, execution))
    codepipeline.retry_stage_execution(
        pipelineName=pipeline, pipelineExecutionId=execution, stageName="Staging", retryMode="FAILED_ACTIONS"
    )
    r.wait(
        "the retry to begin",
        lambda: len(account.actions(codepipeline, pipeline, execution)) > before or None,
        timeout=30,
    )


def refusal(r: Rehearsal, session: Any, step: Any, pipeline: str, execution: str) -> str:
    """What the pipeline and, where a stack failed, the account of the stage say of a release that failed."""
    try:
        story.wait_for_execution(r, session, step, pipeline, execution, until_approval=True)
    except account.FailedError as error:
        there = r.administrator(STAGES["staging"]).client("cloudformation")
        stack = pipeline.removesuffix("-deploy") + "-staging"
        return "\n".join([str(error), *account.stack_failures(there, stack)])
    raise Failure(f"{pipeline} deployed without the grant")


class Bucket:
    """The policy of the project's bucket."""

    def __init__(self, r: Rehearsal, made: story.Project) -> None:
        self.client, self.name = r.administrator().client("s3"), made.settings["bucket-name"]

    def read(self) -> dict[str, Any]:
        """The document."""
        return json.loads(self.client.get_bucket_policy(Bucket=self.name)["Policy"])

    def write(self, document: dict[str, Any]) -> None:
        """Put another one."""
        self.client.put_bucket_policy(Bucket=self.name, Policy=json.dumps(document))


class Topic:
    """The policy of the owner's topic."""

    def __init__(self, r: Rehearsal, made: story.Project) -> None:
        self.client, self.arn = r.administrator().client("sns"), made.settings["notification-topic-arn"]

    def read(self) -> dict[str, Any]:
        """The document."""
        return json.loads(self.client.get_topic_attributes(TopicArn=self.arn)["Attributes"]["Policy"])

    def write(self, document: dict[str, Any]) -> None:
        """Put another one."""
        self.client.set_topic_attributes(
            TopicArn=self.arn, AttributeName="Policy", AttributeValue=json.dumps(document)
        )


class Key:
    """The policy of the project's key."""

    def __init__(self, r: Rehearsal, made: story.Project) -> None:
        self.client, self.arn = r.administrator().client("kms"), made.settings["key-arn"]

    def read(self) -> dict[str, Any]:
        """The document."""
        return json.loads(self.client.get_key_policy(KeyId=self.arn, PolicyName="default")["Policy"])

    def write(self, document: dict[str, Any]) -> None:
        """Put another one."""
        self.client.put_key_policy(KeyId=self.arn, PolicyName="default", Policy=json.dumps(document))


class Registry:
    """The policy of the project's model package group."""

    def __init__(self, r: Rehearsal, made: story.Project) -> None:
        self.client, self.name = (
            r.administrator().client("sagemaker"),
            made.settings["model-package-group-name"],
        )

    def read(self) -> dict[str, Any]:
        """The document."""
        found = self.client.get_model_package_group_policy(ModelPackageGroupName=self.name)
        return json.loads(found["ResourcePolicy"])

    def write(self, document: dict[str, Any]) -> None:
        """Put another one."""
        self.client.put_model_package_group_policy(
            ModelPackageGroupName=self.name, ResourcePolicy=json.dumps(document)
        )


def alarm_reaches_the_owner(r: Rehearsal, made: story.Project) -> None:
    """An alarm of the production account reaches the topic of the project's owner."""
    with r.step("an alarm of the production account reaches the project's owner") as step:
        name = drill(r, made, "production")

        def told() -> dict[str, Any] | None:
            return next(
                (m for m in story.mails(r, story.OWNER_EMAIL) if name in m["subject"] + m["body"]), None
            )

        mail = r.wait("the mail about the alarm", told, timeout=60)
        step.say(f"{name}: {mail['subject']}")


# --- the end ----------------------------------------------------------------------------------------------


def teardown(r: Rehearsal, made: story.Project, before: dict[str, set[tuple[str, str]]]) -> None:
    """The stages first, by the command that made them; then project and platform, as always."""
    with r.use_case("–", "teardown of the stages"):
        for stage, number in STAGES.items():
            with r.step(f"make prepare-account --profile {stage} --remove --yes") as step:
                kept = []
                for arguments in (["--project", made.name], []):
                    kept += prepare(r, stage, *arguments, "--remove", "--yes")["retained"]
                step.say(compare(r, number, before[number], kept))
    teardown_story.teardown_everything(r, before[ACCOUNT])


def compare(r: Rehearsal, number: str, before: set[tuple[str, str]], kept: list[dict[str, str]]) -> str:
    """Nothing may be left in the account of a stage that the command did not name."""
    left = teardown_story.count(r.administrator(number)) - before
    named = {(one["type"], one["id"]) for one in kept}
    own = {("AWS::IAM::Role", "application")}  # of the account's own people
    made_by_services = {
        item for item in left for kind, prefix in teardown_story.SERVICE_MADE
        if item[0] == kind and item[1].startswith(prefix)
    }  # fmt: skip
    surplus = sorted(left - named - own - made_by_services)
    r.check(not surplus, f"account {number} still has {len(surplus)} things", [str(one) for one in surplus])
    return f"account {number}: {len(left & named)} kept by policy, nothing else is left"
