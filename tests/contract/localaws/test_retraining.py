"""The retraining workflow as the template makes it: one run for all reasons, none lost, the lock never stuck.

The project's real key, bucket, table, role and state machine; its SageMaker pipeline is a small one that
registers a version, or fails, without a job. Waits are short, because the cloud scales them.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).resolve().parents[3] / "mlops-cfn/project"
OWNER = "owner@example.com"


@pytest.fixture(scope="module", autouse=True)
def settings(cloud) -> Iterator[None]:
    """Policies decide, and a minute of AWS is a sixth of a second."""
    before = cloud.control("settings")
    cloud.control("settings", enforce=True, time_scale=0.003)
    yield
    cloud.control("settings", **before)


def lost(cloud) -> list[str]:
    """What reached nobody, and what failed; the tests of other files lose things on purpose."""
    health = cloud.control("health")
    return [*health["undelivered"], *health["faults"]]


def document(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


class Project:
    """A project with its retraining workflow, and what a test does with it."""

    def __init__(self, cloud: Any, schedule: str = "cron(0 3 1 * ? *)") -> None:
        self.cloud, self.id = cloud, f"p-{uuid.uuid4().hex[:12]}"
        self.name = f"mlops-{self.id}"
        self.tags = [{"Key": "sagemaker:project-id", "Value": self.id}]
        ssm, iam = cloud.client("ssm"), cloud.client("iam")
        boundary = iam.create_policy(
            PolicyName=cloud.name("boundary"),
            PolicyDocument=document({"Effect": "Allow", "Action": "*", "Resource": "*"}),
        )["Policy"]["Arn"]
        for key, value in (
            ("access-log-bucket-name", cloud.bucket()),
            ("permissions-boundary-arn", boundary),
        ):
            ssm.put_parameter(Name=f"/mlops/infra/{key}", Type="String", Value=value, Overwrite=True)
        data = self.stack("data.yaml", ProjectId=self.id, ProjectName="churn")
        self.bucket, self.key = data["BucketName"], data["KeyArn"]
        cloud.client("s3").put_object(Bucket=self.bucket, Key="model.tar.gz", Body=b"model")
        self.topic = cloud.client("sns").create_topic(
            Name=self.name, Attributes={"KmsMasterKeyId": self.key}
        )["TopicArn"]
        cloud.subscribe(self.topic, OWNER)
        release = cloud.bucket()
        definition = (PROJECT / "retraining.asl.yml").read_text()
        cloud.client("s3").put_object(Bucket=release, Key="v1/retraining.asl.yml", Body=definition)
        made = self.stack(
            "retraining.yaml",
            ProjectId=self.id,
            ProjectName="churn",
            BucketName=self.bucket,
            KeyArn=self.key,
            TopicArn=self.topic,
            EventsRoleArn=self.events_role(),
            RetrainingSchedule=schedule,
            ReleaseBucketName=release,
            TemplatePrefix="v1",
        )
        self.machine, self.table = made["StateMachineArn"], made["StateTableName"]
        self.states, self.sagemaker = cloud.client("stepfunctions"), cloud.client("sagemaker")
        self.before: dict[str, set[str]] = {"executions": set(), "runs": set()}
        self.seen_mails = len(self._mails())

    def fresh(self) -> Project:
        """The same project, forgetting what was before: making one takes longer than most tests."""
        self.quiet()
        table = self.cloud.client("dynamodb")
        for item in table.scan(TableName=self.table)["Items"]:
            table.delete_item(TableName=self.table, Key={"id": item["id"]})
        self.pipeline()
        self.before["executions"] |= {e["executionArn"] for e in self.executions()}
        self.before["runs"] |= {r["PipelineExecutionArn"] for r in self.runs()}
        self.seen_mails = len(self._mails())
        return self

    def stack(self, template: str, **parameters: str) -> dict[str, str]:
        cloud, name = self.cloud, f"{self.name}-{template.partition('.')[0]}"
        cloud.client("cloudformation").create_stack(
            StackName=name,
            TemplateBody=(PROJECT / template).read_text(),
            Parameters=[{"ParameterKey": k, "ParameterValue": v} for k, v in parameters.items()],
            Tags=self.tags,
            Capabilities=["CAPABILITY_NAMED_IAM"],
        )
        cloud.wait(lambda: not cloud.stack_status(name).endswith("IN_PROGRESS"), 60, name)
        assert cloud.stack_status(name) == "CREATE_COMPLETE", cloud.stack_reasons(name)
        return cloud.outputs(name)

    def events_role(self) -> str:
        """What the project's role of events may do here."""
        iam, name = self.cloud.client("iam"), f"events-{self.id}"
        machine = (
            f"arn:aws:states:{self.cloud.region}:{self.cloud.account}:stateMachine:{self.name}-retraining"
        )
        services = {"Service": ["events.amazonaws.com", "scheduler.amazonaws.com"]}
        made = iam.create_role(
            RoleName=name,
            Path="/mlops/projects/",
            Tags=self.tags,
            AssumeRolePolicyDocument=document(
                {"Effect": "Allow", "Principal": services, "Action": "sts:AssumeRole"}
            ),
        )
        start = {"Effect": "Allow", "Action": "states:StartExecution", "Resource": machine}
        use = {"Effect": "Allow", "Action": ["kms:Decrypt", "kms:DescribeKey"], "Resource": self.key}
        iam.put_role_policy(RoleName=name, PolicyName="events", PolicyDocument=document(start, use))
        return made["Role"]["Arn"]

    def pipeline(self, seconds: float = 0, fail: str = "") -> None:
        """Make the pipeline: it registers a version, or fails with a sentence; a job may take its time."""
        cloud = self.cloud
        role = cloud.role("sagemaker")
        group, parameter = self.name, {"Get": "Parameters.RetrainingReason"}
        try:
            self.sagemaker.create_model_package_group(ModelPackageGroupName=group)
        except cloud.client("sagemaker").exceptions.ClientError:
            pass
        register = {
            "Name": "RegisterModel",
            "Type": "RegisterModel",
            "Arguments": {
                "ModelPackageGroupName": group,
                "ModelApprovalStatus": "PendingManualApproval",
                "CustomerMetadataProperties": {
                    "retraining_reason": parameter,
                    "data_uri": {"Get": "Parameters.InputDataUri"},
                },
                "InferenceSpecification": {
                    "Containers": [{"Image": self.image, "ModelDataUrl": f"s3://{self.bucket}/model.tar.gz"}],
                    "SupportedContentTypes": ["text/csv"],
                    "SupportedResponseMIMETypes": ["text/csv"],
                },
            },
        }
        end = {"Name": "TooLow", "Type": "Fail", "Arguments": {"ErrorMessage": fail}} if fail else register
        steps = [end]
        if seconds:
            end["DependsOn"] = ["Slow"]
            steps = [self.slow(seconds, role), end]
        definition = json.dumps(
            {
                "Version": "2020-12-01",
                "Parameters": [
                    {"Name": "RetrainingReason", "Type": "String", "DefaultValue": "code"},
                    {"Name": "InputDataUri", "Type": "String", "DefaultValue": "s3://mlops-yml/data.csv"},
                ],
                "Steps": steps,
            }
        )
        try:
            self.sagemaker.create_pipeline(
                PipelineName=self.name, PipelineDefinition=definition, RoleArn=role
            )
        except self.sagemaker.exceptions.ClientError:
            self.sagemaker.update_pipeline(PipelineName=self.name, PipelineDefinition=definition)

    @property
    def image(self) -> str:
        if not hasattr(Project, "_image"):
            code = "import os, time\ntime.sleep(float(os.environ['SECONDS']))\n"
            Project._image = self.cloud.image(
                {"opt/program/sleep.py": code}, ["python", "/opt/program/sleep.py"]
            )
        return Project._image

    def slow(self, seconds: float, role: str) -> dict[str, Any]:
        cluster = {"InstanceCount": 1, "InstanceType": "ml.t3.medium", "VolumeSizeInGB": 1}
        return {
            "Name": "Slow",
            "Type": "Processing",
            "Arguments": {
                "RoleArn": role,
                "AppSpecification": {"ImageUri": self.image},
                "Environment": {"SECONDS": str(seconds)},
                "ProcessingResources": {"ClusterConfig": cluster},
            },
        }

    # -- reasons and what became of them -------------------------------------------------------------------
    def start(self, kind: str, id: str = "", **more: str) -> str:
        """Start an execution by hand; its ARN."""
        reason = {"kind": kind, "id": id or uuid.uuid4().hex, "time": "2026-11-21T10:00:00Z", "detail": kind}
        name = {"name": f"{id}-{uuid.uuid4().hex[:6]}"} if kind == "code" else {}
        return self.states.start_execution(
            stateMachineArn=self.machine, input=json.dumps({**reason, **more}), **name
        )["executionArn"]

    def executions(self) -> list[dict[str, Any]]:
        pages = self.states.get_paginator("list_executions").paginate(stateMachineArn=self.machine)
        found = (e for page in pages for e in page["executions"])
        return [e for e in found if e["executionArn"] not in self.before["executions"]]

    def ended(self, arn: str, seconds: float = 60) -> dict[str, Any]:
        """An execution when it is over, its output read."""
        done = self.cloud.wait(
            lambda: (e := self.states.describe_execution(executionArn=arn))["status"] != "RUNNING" and e,
            seconds,
            arn,
        )
        return {**done, "output": json.loads(done["output"])} if done.get("output") else done

    def quiet(self, seconds: float = 60) -> list[dict[str, Any]]:
        """All executions when none is running any more, oldest first."""
        self.cloud.wait(
            lambda: all(e["status"] != "RUNNING" for e in self.executions()), seconds, "executions"
        )
        return [self.ended(e["executionArn"]) for e in reversed(self.executions())]

    def runs(self) -> list[dict[str, Any]]:
        """The pipeline's executions, newest first."""
        found = self.sagemaker.list_pipeline_executions(PipelineName=self.name)["PipelineExecutionSummaries"]
        new = [r for r in found if r["PipelineExecutionArn"] not in self.before["runs"]]
        return sorted(new, key=lambda e: e["StartTime"], reverse=True)

    def item(self) -> dict[str, Any]:
        """What the table remembers of the retraining."""
        answer = self.cloud.client("dynamodb").get_item(TableName=self.table, Key={"id": {"S": "retraining"}})
        return {k: next(iter(v.values())) for k, v in answer.get("Item", {}).items()}

    def locked(self) -> bool:
        return "locked_by" in self.item()

    def trained(self) -> list[dict[str, Any]]:
        return [e for e in self.quiet() if (e.get("output") or {}).get("result") == "trained"]

    def version(self, arn: str) -> dict[str, str]:
        return self.sagemaker.describe_model_package(ModelPackageName=arn)["CustomerMetadataProperties"]

    def mails(self) -> list[dict[str, Any]]:
        """The mails of this test."""
        return self._mails()[self.seen_mails :]

    def _mails(self) -> list[dict[str, Any]]:
        return [m for m in self.cloud.control("outbox") if m["topic"] == self.topic and m["to"] == OWNER]


@pytest.fixture(scope="module")
def one(cloud) -> Project:
    """A project for all tests that do not change it."""
    return Project(cloud)


@pytest.fixture
def project(one: Project) -> Project:
    """The project, as if it were new; its pipeline registers a version at once."""
    return one.fresh()


def test_a_person_starts_one(project: Project):
    done = project.ended(project.start("person", detail="new labels (äöü, “quoted”) & more"))
    assert done["status"] == "SUCCEEDED", f"{done['error']}: {done['cause']}"
    output = done["output"]
    assert output["result"] == "trained" and ":model-package/" in output["model_package_arn"]
    assert output["why"] == "person:1 - new labels quoted more"
    version = project.version(output["model_package_arn"])
    assert version["retraining_reason"] == output["why"]
    assert version["data_uri"] == "s3://mlops-yml/data.csv", "what the pipeline's own default says"
    (run,) = project.runs()
    assert run["PipelineExecutionDisplayName"] == "retraining-person"
    assert output["why"] in run["PipelineExecutionDescription"]
    (mail,) = project.mails()
    number = output["model_package_arn"].rpartition("/")[2]
    assert mail["subject"] == f"Project churn: retraining made model version {number}"
    assert "new labels" in mail["body"] and output["model_package_arn"] in mail["body"]
    assert not project.locked()


def test_a_hundred_events_of_all_kinds_start_one(cloud, project: Project):
    """Data, drift, calendar and people within a minute: one pipeline execution, and all hundred reasons."""
    before = lost(cloud)
    s3, cloudwatch = cloud.client("s3"), cloud.client("cloudwatch")
    alarm = f"{project.name}-monitoring-DataQualityDrifted-ABC"
    cloudwatch.put_metric_alarm(
        AlarmName=alarm, Namespace="MLOps/Monitoring", MetricName="constraint_violations",
        Statistic="Maximum", Period=60, EvaluationPeriods=1, Threshold=1,
        ComparisonOperator="GreaterThanOrEqualToThreshold",
    )  # fmt: skip

    def upload(number: int) -> None:
        s3.put_object(Bucket=project.bucket, Key=f"training-data/day-{number:02}.csv", Body=b"a,b")

    def drift(number: int) -> None:
        for state in ("ALARM", "OK"):
            cloudwatch.set_alarm_state(AlarmName=alarm, StateValue=state, StateReason=f"drift {number}")

    def ask(number: int) -> None:
        kind = "calendar" if number % 2 else "person"
        project.start(kind, f"{kind}-{number}")

    # a minute of AWS is too short here for a machine that runs all of AWS: the burst lasts as long as it does
    cloud.control("settings", time_scale=0.2)
    began = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(upload, range(40)))
        list(pool.map(ask, range(40)))
    for number in range(20):
        drift(number)
    cloud.wait(lambda: len(project.executions()) == 100, 60, "a hundred executions")
    assert time.monotonic() - began < 60
    ended = project.quiet(120)
    cloud.control("settings", time_scale=0.003)

    assert len(project.runs()) == 1
    results = [e["output"]["result"] for e in ended]
    assert sorted(results) == ["joined"] * 99 + ["trained"]
    (run,) = (e["output"] for e in ended if e["output"]["result"] == "trained")
    reasons = run["reasons"]
    assert len(reasons) == len({r["id"] for r in reasons}) == 100 and run["not_listed"] == 0
    kinds = [r["kind"] for r in reasons]
    assert {k: kinds.count(k) for k in set(kinds)} == {"data": 40, "drift": 20, "calendar": 20, "person": 20}
    assert {r["data_uri"] for r in reasons if r["kind"] == "data"} == {
        f"s3://{project.bucket}/training-data/day-{n:02}.csv" for n in range(40)
    }
    kept = json.loads(
        s3.get_object(Bucket=project.bucket, Key=f"retraining/{ended_name(ended)}.json")["Body"].read()
    )
    assert kept["reasons"] == reasons and kept["why"] == run["why"]
    assert all(part in run["why"] for part in ("data:40", "drift:20", "calendar:20", "person:20"))
    assert len(project.mails()) == 1
    assert lost(cloud) == before


def ended_name(executions: list[dict[str, Any]]) -> str:
    """The name of the execution that trained."""
    return next(e["name"] for e in executions if e["output"]["result"] == "trained")


def test_an_event_that_comes_twice_is_one_reason(cloud, project: Project):
    cloud.control("settings", time_scale=0.05)
    for _ in range(3):
        project.start("drift", "event-1")
    (run,) = project.trained()
    cloud.control("settings", time_scale=0.003)
    assert [r["id"] for r in run["output"]["reasons"]] == ["event-1"]
    again = project.ended(project.start("drift", "event-1"))
    assert again["output"]["result"] == "known", "delivered once more when its run is over"
    assert len(project.runs()) == 1


def test_what_comes_during_a_run(cloud, project: Project):
    """Drift joins; data and code want a run of their own, and a build learns which it became."""
    project.pipeline(seconds=4)
    first = project.start("person")
    cloud.wait(lambda: project.item().get("pipeline_execution"), 30, "a pipeline execution")
    drift = project.ended(project.start("drift"))
    assert drift["output"]["result"] == "joined"
    data = project.ended(project.start("data", data_uri="s3://bucket/new.csv"))
    assert data["output"]["result"] == "joined"
    code = project.start("code", "commit-abcdef123456")
    ended = {e["executionArn"]: e for e in project.quiet(120)}
    old, new = reversed(project.runs())
    assert len(project.runs()) == 2

    output = ended[first]["output"]
    assert [r["pipeline_execution_arn"] for r in output["runs"]] == [
        r["PipelineExecutionArn"] for r in (old, new)
    ]
    assert sorted(r["kind"] for r in output["reasons"]) == ["code", "data", "drift"], (
        "all that had come by then"
    )
    assert ended[code]["output"] == {
        "result": "joined",
        "detail": "Another run took this reason.",
        "reason": {
            "kind": "code",
            "id": "commit-abcdef123456",
            "time": "2026-11-21T10:00:00Z",
            "detail": "code",
        },
        "pipeline_execution_arn": new["PipelineExecutionArn"],
    }
    assert project.version(output["model_package_arn"])["data_uri"] == "s3://bucket/new.csv"
    assert not project.locked()


def test_drift_alone_during_a_run_starts_no_other(cloud, project: Project):
    project.pipeline(seconds=3)
    first = project.start("person")
    cloud.wait(lambda: project.item().get("pipeline_execution"), 30, "a pipeline execution")
    project.start("drift", "late-1")
    project.start("calendar", "late-2")
    project.quiet(60)
    assert len(project.runs()) == 1
    assert {r["id"] for r in project.ended(first)["output"]["came_late"]} == {"late-1", "late-2"}
    assert not project.locked()


def test_drift_that_is_found_soon_after_a_training_starts_no_other(cloud, project: Project):
    """The monitors of one hour end minutes apart; the next hour's drift is another matter."""
    assert project.ended(project.start("drift", "data-quality"))["output"]["result"] == "trained"
    late = project.ended(project.start("drift", "explainability"))["output"]
    assert (late["result"], late["detail"]) == (
        "joined",
        "The last training has just ended. This drift was there before it.",
    )
    assert not project.locked() and len(project.runs()) == 1
    assert project.ended(project.start("person"))["output"]["result"] == "trained", "a person is not put off"
    cloud.control("clock", advance_seconds=1801)
    assert project.ended(project.start("drift", "an hour later"))["output"]["result"] == "trained"


def test_code_does_not_wait_for_a_burst_to_end(cloud, project: Project):
    """A build that comes while others settle ends the waiting, and is told the run that took it."""
    cloud.control("settings", time_scale=0.3)  # a burst takes eighteen seconds to settle now
    drift = project.start("drift")
    cloud.wait(lambda: project.item().get("locked_by"), 20, "the lock")
    began = time.monotonic()
    code = project.ended(project.start("code", "commit-0123456789ab"), 20)
    took = time.monotonic() - began
    cloud.control("settings", time_scale=0.003)
    project.quiet()
    (run,) = project.runs()
    assert code["output"]["pipeline_execution_arn"] == run["PipelineExecutionArn"]
    assert took < 15, "fifteen seconds of AWS until it is seen, and five until it looks"
    assert run["PipelineExecutionDisplayName"] == "retraining-drift-code"
    assert {r["kind"] for r in project.ended(drift)["output"]["reasons"]} == {"drift", "code"}


def test_a_build_alone_starts_at_once_and_sends_no_mail(cloud, project: Project):
    cloud.control("settings", time_scale=0.3)
    began = time.monotonic()
    arn = project.start("code", "commit-fedcba987654")
    cloud.wait(lambda: project.runs(), 15, "a pipeline execution")
    assert time.monotonic() - began < 15, "a burst is not waited for"
    cloud.control("settings", time_scale=0.003)
    done = project.ended(arn)
    assert done["output"]["result"] == "trained"
    assert project.runs()[0]["PipelineExecutionDisplayName"] == "commit-fedcba987654"
    assert project.mails() == [], "the build pipeline tells of itself"


def test_a_killed_run_is_taken_over_when_its_lease_is_over(cloud, project: Project):
    project.pipeline(seconds=3)
    first = project.start("person", "asked-first")
    cloud.wait(lambda: project.item().get("pipeline_execution"), 30, "a pipeline execution")
    project.states.stop_execution(executionArn=first)
    assert project.ended(project.start("drift"))["output"]["result"] == "joined", "the lease still holds"
    assert project.locked()
    waiting = project.start("code", "commit-111111111111")
    cloud.control("clock", advance_seconds=1801)
    done = project.ended(waiting, 60)
    assert done["output"]["result"] == "trained"
    assert {r["kind"] for r in done["output"]["reasons"]} == {"person", "drift", "code"}, "nothing was lost"
    assert not project.locked()
    repeated = project.ended(project.start("person", "asked-later"))
    assert [r["id"] for r in repeated["output"]["reasons"]] == ["asked-later"], (
        "what is done is not done again"
    )


def test_a_failing_pipeline_is_told_and_gives_the_lock_back(cloud, project: Project):
    project.pipeline(fail="auc is 0.6 and must be 0.7")
    done = project.ended(project.start("person"))
    assert (done["status"], done["error"]) == ("FAILED", "NotTrained")
    assert "TooLow: auc is 0.6 and must be 0.7" in done["cause"]
    (mail,) = project.mails()
    assert mail["subject"] == "Project churn: retraining failed"
    assert "auc is 0.6 and must be 0.7" in mail["body"]
    assert not project.locked()
    project.pipeline()
    assert project.ended(project.start("person"))["output"]["result"] == "trained"


def test_without_a_pipeline_it_says_so_and_mails_nobody(cloud):
    project = Project(cloud)
    done = project.ended(project.start("drift"))
    assert done["output"]["result"] == "no pipeline"
    assert (
        done["output"]["detail"] == "No build has made a pipeline yet. Push to main and the first one will."
    )
    assert project.mails() == [] and not project.locked()


def test_a_workflow_that_cannot_go_on_tells_and_leaves_its_reasons_to_the_next(cloud, project: Project):
    role = cloud.client("stepfunctions").describe_state_machine(stateMachineArn=project.machine)["roleArn"]
    iam, name = cloud.client("iam"), role.rpartition("/")[2]
    policy = iam.get_role_policy(RoleName=name, PolicyName="retraining")["PolicyDocument"]
    less = {**policy, "Statement": [s for s in policy["Statement"] if s["Sid"] != "TrainAgain"]}
    iam.put_role_policy(RoleName=name, PolicyName="retraining", PolicyDocument=json.dumps(less))
    done = project.ended(project.start("person", "first"))
    assert (done["status"], done["error"]) == ("FAILED", "RetrainingBroken")
    assert "is not authorized to perform: sagemaker:StartPipelineExecution" in done["cause"]
    (mail,) = project.mails()
    assert mail["subject"] == "Project churn: the retraining workflow failed"
    iam.put_role_policy(RoleName=name, PolicyName="retraining", PolicyDocument=json.dumps(policy))
    done = project.ended(project.start("person", "second"))
    assert {r["id"] for r in done["output"]["reasons"]} == {"first", "second"}


def test_new_data_is_trained_on_until_code_is_built(cloud, project: Project):
    s3 = cloud.client("s3")

    def trained_on(arn: str) -> str:
        return project.version(project.ended(arn)["output"]["model_package_arn"])["data_uri"]

    s3.put_object(Bucket=project.bucket, Key="training-data/", Body=b"")  # a folder made in the console
    s3.put_object(Bucket=project.bucket, Key="training-data/odd näme+1@x.csv", Body=b"a,b")
    (run,) = cloud.wait(lambda: project.trained(), 30, "a run")
    (reason,) = run["output"]["reasons"]
    assert reason["data_uri"] == f"s3://{project.bucket}/training-data/odd näme+1@x.csv"
    assert trained_on(project.start("person")) == reason["data_uri"]

    s3.put_object(Bucket=project.bucket, Key="training-data/november/part-1.csv", Body=b"a,b")
    cloud.wait(lambda: len(project.trained()) == 3, 30, "a run")
    assert trained_on(project.start("calendar")) == f"s3://{project.bucket}/training-data/november/"

    assert trained_on(project.start("code", "commit-222222222222")) == "s3://mlops-yml/data.csv"
    assert trained_on(project.start("person")) == "s3://mlops-yml/data.csv"


def test_a_build_may_have_step_functions_drive_the_training(cloud, project: Project):
    """Whoever the last build says drives the training, also when drift or a person asks for it."""
    version = f"arn:aws:sagemaker:{cloud.region}:{cloud.account}:model-package/{project.name}/77"
    end = {"Type": "Succeed", "Output": {"model_package_arn": version, "given": "{% $states.input %}"}}
    definition = {"QueryLanguage": "JSONata", "StartAt": "End", "States": {"End": end}}
    early = project.ended(project.start("code", "commit-333333333333", orchestrator="step_functions"))
    assert early["output"]["result"] == "no pipeline", "the machine is not there yet"
    training = project.states.create_state_machine(
        name=f"{project.name}-training", definition=json.dumps(definition), roleArn=cloud.role("states")
    )["stateMachineArn"]
    build = project.ended(project.start("code", "commit-444444444444", orchestrator="step_functions"))
    assert (
        build["output"]["model_package_arn"] == version
        and ":execution:" in build["output"]["pipeline_execution_arn"]
    )
    asked = project.ended(project.start("person", data_uri="s3://b/new.csv"))
    assert asked["output"]["model_package_arn"] == version
    (_, (run, _)) = (project.mails(), project.states.list_executions(stateMachineArn=training)["executions"])
    given = json.loads(project.states.describe_execution(executionArn=run["executionArn"])["input"])
    assert given == {
        "parameters": {"RetrainingReason": "person:1 - person", "InputDataUri": "s3://b/new.csv"}
    }
    assert project.mails()[-1]["subject"] == "Project churn: retraining made model version 77"
    assert project.runs() == [], "SageMaker Pipelines had no part in it"

    stop = {"StartAt": "No", "States": {"No": {"Type": "Fail", "Error": "FailStep", "Cause": "auc is 0.6"}}}
    project.states.update_state_machine(stateMachineArn=training, definition=json.dumps(stop))
    failed = project.ended(project.start("person"))
    assert failed["error"] == "NotTrained" and "auc is 0.6" in failed["cause"]
    back = project.ended(project.start("code", "commit-555555555555"))
    assert ":pipeline/" in back["output"]["pipeline_execution_arn"], "the next build says SageMaker Pipelines"
    assert not project.locked()


def test_the_name_of_a_file_is_only_a_name(cloud, project: Project):
    """A name that would be JSON, or an expression, in the wrong place."""
    key = 'training-data/x", "kind": "code", "y": "{% $states %}.csv'
    cloud.client("s3").put_object(Bucket=project.bucket, Key=key, Body=b"a,b")
    cloud.wait(lambda: project.executions(), 30, "an execution")
    (done,) = project.quiet()
    list_key = f"retraining/{done['name']}.json"
    kept = json.loads(cloud.client("s3").get_object(Bucket=project.bucket, Key=list_key)["Body"].read())
    (reason,) = kept["reasons"]
    assert (reason["kind"], reason["data_uri"]) == ("data", f"s3://{project.bucket}/{key}")
    # the registry takes no such characters, so the owner is told that the version could not be registered
    assert done["error"] == "NotTrained" and "RegisterModel" in project.mails()[0]["body"]
    assert not project.locked()


def test_the_calendar_asks_when_its_schedule_says_so_and_goes_with_the_stack(cloud):
    before = lost(cloud)
    project = Project(cloud, schedule="cron(0 * * * ? *)")
    project.pipeline()
    cloud.control("clock", advance_seconds=3600)
    cloud.wait(lambda: project.executions(), 30, "the calendar")
    (run,) = project.trained()
    (reason,) = run["output"]["reasons"]
    assert (reason["kind"], reason["detail"]) == ("calendar", "cron(0 * * * ? *)")
    assert reason["time"].endswith(":00:00Z") and len(reason["id"]) == 32
    assert cloud.delete_stack(f"{project.name}-retraining") == ""
    cloud.control("clock", advance_seconds=3600)
    assert lost(cloud) == before


def test_more_reasons_than_a_list_takes_are_counted(cloud, project: Project):
    """A folder of thousands of files neither breaks the workflow nor hides the newest of them."""
    table = cloud.client("dynamodb")
    reason = {"kind": "data", "time": "2026-11-21T09:00:00Z", "detail": "x"}
    full = [json.dumps({**reason, "id": f"e{n}", "data_uri": f"s3://b/{n}.csv"}) for n in range(150)]
    table.update_item(
        TableName=project.table, Key={"id": {"S": "retraining"}}, UpdateExpression="ADD pending :p",
        ExpressionAttributeValues={":p": {"SS": full}},
    )  # fmt: skip
    done = project.ended(project.start("data", data_uri="s3://b/newest.csv"))
    output = done["output"]
    assert output["result"] == "trained", done
    assert (len(output["reasons"]), output["not_listed"]) == (150, 1)
    assert output["why"].startswith("data:150 more:1 - ")
    assert project.version(output["model_package_arn"])["data_uri"] == "s3://b/newest.csv"
    assert "151 reasons" in project.mails()[0]["body"]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"kind": "whim", "id": "1", "time": "t", "detail": "d"},
        {"kind": "person", "id": 1, "time": "t", "detail": "d"},
        {"kind": "data", "id": "1", "time": "t", "detail": "d", "data_uri": "https://example.com/x"},
    ],
    ids=["nothing", "kind", "id", "data_uri"],
)
def test_what_is_no_reason_is_refused(project: Project, given: dict[str, Any]):
    arn = project.states.start_execution(stateMachineArn=project.machine, input=json.dumps(given))[
        "executionArn"
    ]
    done = project.ended(arn)
    assert (done["status"], done["error"]) == ("FAILED", "NotUnderstood")
    assert project.item() == {}


def test_its_log_tells_the_steps_but_no_data(cloud, project: Project):
    project.ended(project.start("person", detail="because of a secret"))
    logs, group = cloud.client("logs"), f"/aws/vendedlogs/{project.name}-retraining"

    def lines() -> str:
        found = logs.filter_log_events(logGroupName=group)["events"]
        return "".join(e["message"] for e in found)

    text = cloud.wait(
        lambda: logs.describe_log_streams(logGroupName=group)["logStreams"] and lines(), 10, group
    )
    assert "ExecutionSucceeded" in text and '"name": "Tell"' in text and "secret" not in text


def test_other_alarms_and_other_folders_start_nothing(cloud, project: Project):
    cloudwatch = cloud.client("cloudwatch")
    for name in (f"{project.name}-production-ServerErrors-A", f"{project.name}-monitoring-NotJudged-A"):
        cloudwatch.put_metric_alarm(
            AlarmName=name, Namespace="N", MetricName="m", Period=60, EvaluationPeriods=1, Threshold=1,
            ComparisonOperator="GreaterThanOrEqualToThreshold", Statistic="Maximum",
        )  # fmt: skip
        cloudwatch.set_alarm_state(AlarmName=name, StateValue="ALARM", StateReason="r")
    cloud.client("s3").put_object(Bucket=project.bucket, Key="data/x.csv", Body=b"x")
    time.sleep(1)
    assert project.executions() == []
