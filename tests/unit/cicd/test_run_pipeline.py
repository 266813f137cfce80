"""Stage Train: the pipeline is upserted and followed; a failure is explained, with the end of its log."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from botocore.stub import ANY, Stubber

from mlops_cicd import run_pipeline, sdk
from mlops_cicd.console import Fault
from mlops_cicd.monitor_code import upload_monitor
from mlops_cicd.retraining import PARAMETERS
from mlops_cicd.settings import Project, load_project

from .conftest import ACCOUNT, BUCKET, GROUP_ARN, KEY, MACHINE, NAME, PROJECT_ID, REGION, ROLE, Session

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PIPELINE_ARN = f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:pipeline/{NAME}"
EXECUTION = f"{PIPELINE_ARN}/execution/abcdefghijkl"
IMAGES = {name: f"{name}:1" for name in ("preprocessing", "training", "inference")}


@pytest.fixture
def project(aws: None) -> Project:
    return load_project(boto3.client("ssm"), PROJECT_ID, REGION)


def job_arn(kind: str, name: str = "pipelines-abc-Train-xyz") -> str:
    return f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:{kind}/{name}"


def step(name: str, status: str, metadata: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"StepName": name, "StepStatus": status, "Metadata": metadata or {}} | more


# ------------------------------------------------------------ upsert


def test_a_pipeline_is_created_then_updated_with_role_and_tags(project: Project) -> None:
    sagemaker, s3 = boto3.client("sagemaker"), boto3.client("s3")
    arn = run_pipeline.upsert(sagemaker, s3, project, '{"Version": "1"}')
    assert run_pipeline.upsert(sagemaker, s3, project, '{"Version": "2"}') == arn
    described = sagemaker.describe_pipeline(PipelineName=NAME)
    assert json.loads(described["PipelineDefinition"]) == {"Version": "2"}
    assert described["RoleArn"] == ROLE
    tags = {tag["Key"]: tag["Value"] for tag in sagemaker.list_tags(ResourceArn=arn)["Tags"]}
    assert tags == project.tag_map


def test_a_large_definition_goes_to_s3(project: Project) -> None:
    s3 = boto3.client("s3")
    definition = json.dumps({"Version": "1", "Metadata": {"x": "y" * 110_000}})
    sagemaker = boto3.client("sagemaker")
    run_pipeline.upsert(sagemaker, s3, project, definition)
    body = s3.get_object(Bucket=BUCKET, Key=f"pipelines/{NAME}/definition.json")["Body"].read()
    assert body.decode() == definition


def test_the_monitor_is_uploaded_once_under_its_hash(project: Project) -> None:
    s3 = boto3.client("s3")
    uri = upload_monitor(s3, BUCKET, KEY)
    assert upload_monitor(s3, BUCKET, KEY) == uri
    key = uri.partition(f"{BUCKET}/")[2]
    assert key.endswith("/monitor.pyz")
    head = s3.head_object(Bucket=BUCKET, Key=key)
    assert (head["ServerSideEncryption"], head["SSEKMSKeyId"]) == ("aws:kms", KEY)


# ------------------------------------------------------------ explanations


def stubbed(name: str, *answers: tuple[str, dict[str, Any] | None, dict[str, Any]]) -> Any:
    """A client that expects these calls; an answer without parameters is an error response."""
    client = boto3.client(name, region_name=REGION)
    stubber = Stubber(client)
    for operation, response, parameters in answers:
        if response is None:
            stubber.add_client_error(operation, "AccessDeniedException", expected_params=parameters)
        else:
            stubber.add_response(operation, response, parameters)
    stubber.activate()
    return client


def training_job(reason: str) -> dict[str, Any]:
    return {
        "TrainingJobName": "pipelines-abc-Train-xyz",
        "TrainingJobArn": job_arn("training-job"),
        "ModelArtifacts": {"S3ModelArtifacts": "s3://b/m"},
        "TrainingJobStatus": "Failed",
        "SecondaryStatus": "Failed",
        "AlgorithmSpecification": {"TrainingInputMode": "File"},
        "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
        "StoppingCondition": {},
        "CreationTime": NOW,
        "FailureReason": reason,
    }


def test_a_failed_job_is_explained_with_reason_and_log() -> None:
    failed = step(
        "Train", "Failed", {"TrainingJob": {"Arn": job_arn("training-job")}}, FailureReason="ClientError: x"
    )
    sagemaker = stubbed(
        "sagemaker",
        (
            "describe_training_job",
            training_job("AlgorithmError: exit code 1"),
            {"TrainingJobName": "pipelines-abc-Train-xyz"},
        ),
    )
    group = "/aws/sagemaker/TrainingJobs"
    logs = stubbed(
        "logs",
        (
            "describe_log_streams",
            {"logStreams": [{"logStreamName": "pipelines-abc-Train-xyz/algo-1"}]},
            {"logGroupName": group, "logStreamNamePrefix": "pipelines-abc-Train-xyz/"},
        ),
        (
            "get_log_events",
            {
                "events": [
                    {"timestamp": 2, "message": "ValueError: no rows\n"},
                    {"timestamp": 1, "message": "begin"},
                ]
            },
            {
                "logGroupName": group,
                "logStreamName": "pipelines-abc-Train-xyz/algo-1",
                "limit": 20,
                "startFromHead": False,
            },
        ),
    )
    text = run_pipeline.explain_step(sagemaker, logs, failed)
    assert text.splitlines()[0] == "step Train failed: ClientError: x; AlgorithmError: exit code 1"
    assert text.splitlines()[-2:] == ["  | begin", "  | ValueError: no rows"]


def test_a_log_that_cannot_be_read_does_not_hide_the_reason() -> None:
    failed = step(
        "Train", "Failed", {"TrainingJob": {"Arn": job_arn("training-job")}}, FailureReason="ClientError: x"
    )
    name = {"TrainingJobName": "pipelines-abc-Train-xyz"}
    sagemaker = stubbed("sagemaker", ("describe_training_job", None, name))
    logs = stubbed("logs", ("describe_log_streams", None, {"logGroupName": ANY, "logStreamNamePrefix": ANY}))
    text = run_pipeline.explain_step(sagemaker, logs, failed)
    assert "ClientError: x" in text
    assert "cannot be read: AccessDeniedException" in text


def test_the_projects_own_verdict_is_told_as_it_is() -> None:
    failed = step(
        "QualityTooLow",
        "Failed",
        {"Fail": {"ErrorMessage": "auc is 0.61, at least 0.7 is required"}},
        FailureReason="Fail step",
    )
    text = run_pipeline.explain(None, None, {"PipelineExecutionStatus": "Failed"}, [failed])
    assert text == "step QualityTooLow: auc is 0.61, at least 0.7 is required"


def test_a_stopped_execution_is_no_failure_of_a_step() -> None:
    text = run_pipeline.explain(
        None, None, {"PipelineExecutionStatus": "Stopped"}, [step("Train", "Stopped")]
    )
    assert "ended as Stopped" in text


# ------------------------------------------------------------ follow


class SageMaker:
    """moto runs nothing: this client tells the story of one execution, page by page."""

    def __init__(self, story: list[tuple[str, list[dict[str, Any]]]]) -> None:
        self.story, self.turn = story, -1
        self.meta = boto3.client("sagemaker", region_name=REGION).meta

    def describe_pipeline(self, **_: Any) -> None:
        raise ClientError({"Error": {"Code": "ResourceNotFound", "Message": "no"}}, "DescribePipeline")

    def create_pipeline(self, **arguments: Any) -> dict[str, str]:
        self.created = arguments
        return {"PipelineArn": PIPELINE_ARN}

    def describe_pipeline_execution(self, **_: Any) -> dict[str, str]:
        self.turn = min(self.turn + 1, len(self.story) - 1)
        return {"PipelineExecutionStatus": self.story[self.turn][0]}

    def get_paginator(self, name: str) -> SageMaker:
        assert name == "list_pipeline_execution_steps"
        return self

    def paginate(self, **_: Any) -> list[dict[str, Any]]:
        return [{"PipelineExecutionSteps": [one]} for one in self.story[self.turn][1]]


class States:
    """The retraining workflow: by the second look it has started the pipeline."""

    exceptions = boto3.client("stepfunctions", region_name=REGION).exceptions

    def __init__(self, running: tuple[str, ...] = (), over: tuple[str, ...] = ()) -> None:
        self.running, self.over, self.started, self.looks = running, over, {}, 0
        self.end: dict[str, str] = {"status": "RUNNING"}

    def start_execution(self, **arguments: Any) -> dict[str, str]:
        if arguments["name"] in (*self.running, *self.over):
            raise self.exceptions.ExecutionAlreadyExists({"Error": {"Code": "ExecutionAlreadyExists"}}, "x")
        self.started = arguments
        return {"executionArn": self.execution(arguments["name"])}

    @staticmethod
    def execution(name: str) -> str:
        return f"{MACHINE.replace('stateMachine', 'execution')}:{name}"

    def describe_execution(self, executionArn: str) -> dict[str, str]:
        name = executionArn.rpartition(":")[2]
        return {"status": "SUCCEEDED"} if name in self.over else self.end

    def get_paginator(self, name: str) -> States:
        assert name == "get_execution_history"
        return self

    def paginate(self, **_: Any) -> list[dict[str, Any]]:
        self.looks += 1
        begun = {"type": "TaskStateExited", "stateExitedEventDetails": {"name": "Note", "output": "{}"}}
        output = json.dumps({"PipelineExecutionArn": EXECUTION})
        start = {"type": "TaskStateExited", "stateExitedEventDetails": {"name": "Start", "output": output}}
        shown = self.looks > 1 and self.end["status"] == "RUNNING"
        return [{"events": [begun]}, {"events": [start] if shown else []}]


REGISTERED = step("Register", "Succeeded", {"RegisterModel": {"Arn": f"{GROUP_ARN}/3"}})
GOOD = [
    ("Executing", [step("Prepare", "Executing")]),
    ("Executing", [step("Prepare", "Succeeded", CacheHitResult={"SourcePipelineExecutionArn": "x"})]),
    ("Succeeded", [step("Prepare", "Succeeded"), REGISTERED]),
]


def run(
    monkeypatch: pytest.MonkeyPatch,
    project_dir: Path,
    tmp_path: Path,
    story: list[Any],
    definition: str = "",
    states: States | None = None,
) -> tuple[int, SageMaker, list[float]]:
    """Run the stage with a definition instead of a project's pipeline.py."""
    content = {
        "Version": "2020-12-01",
        "Parameters": [{"Name": n, "Type": "String", "DefaultValue": "x"} for n in PARAMETERS],
        "Steps": [{"Name": "Low", "Type": "Fail", "Arguments": {"ErrorMessage": "x"}}],
    }
    monkeypatch.setattr(sdk, "pipeline_session", lambda *_: None)
    monkeypatch.setattr(sdk, "load_definition", lambda *_: definition or json.dumps(content))
    (tmp_path / "images.json").write_text(json.dumps(IMAGES))
    sagemaker, sleeps = SageMaker(story), []
    sagemaker.states = states = states or States()
    argv = ["--project-id", PROJECT_ID, "--project-dir", str(project_dir), "--images", str(tmp_path)]
    argv += [
        "--build",
        "0123456789",
        "--commit",
        "c" * 40,
        "--out",
        str(tmp_path / "out.json"),
        "--env",
        str(tmp_path / "train.env"),
    ]
    code = run_pipeline.main(
        argv, Session(sagemaker=sagemaker, stepfunctions=states), sleeps.append, lambda: sum(sleeps)
    )
    return code, sagemaker, sleeps


def test_a_good_run_ends_with_the_model_version(
    aws: None,
    monkeypatch: pytest.MonkeyPatch,
    project_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, sagemaker, sleeps = run(monkeypatch, project_dir, tmp_path, GOOD)
    assert code == 0
    out = json.loads((tmp_path / "out.json").read_text())
    assert (out["status"], out["model_package_arn"]) == ("Succeeded", f"{GROUP_ARN}/3")
    assert out["pipeline_execution_arn"] == EXECUTION
    assert (tmp_path / "train.env").read_text() == (
        f"export PIPELINE_EXECUTION_ARN={EXECUTION}\nexport MODEL_PACKAGE_ARN={GROUP_ARN}/3\n"
    )
    assert out["retraining_execution_arn"] == States.execution("commit-cccccccccccc")
    asked = sagemaker.states.started
    assert (asked["stateMachineArn"], asked["name"]) == (MACHINE, "commit-cccccccccccc")
    reason = json.loads(asked["input"])
    assert datetime.strptime(reason.pop("time"), "%Y-%m-%dT%H:%M:%SZ")
    assert reason == {
        "kind": "code",
        "id": "commit-cccccccccccc",
        "detail": "commit cccccccccccc",
        "orchestrator": "pipelines",
    }
    assert {"Key": "sagemaker:project-id", "Value": PROJECT_ID} in sagemaker.created["Tags"]
    text = capsys.readouterr().out
    assert "Prepare: Executing" in text
    assert "Prepare: Succeeded (cached)" in text
    assert len(sleeps) == 3


def test_a_retraining_of_the_commit_that_is_under_way_is_taken_up(
    aws: None, monkeypatch: pytest.MonkeyPatch, project_dir: Path, tmp_path: Path
) -> None:
    states = States(running=("commit-cccccccccccc",))
    assert run(monkeypatch, project_dir, tmp_path, GOOD, states=states)[0] == 0
    assert states.started == {}
    out = json.loads((tmp_path / "out.json").read_text())
    assert out["retraining_execution_arn"] == States.execution("commit-cccccccccccc")


def test_a_commit_that_is_built_again_trains_again(
    aws: None, monkeypatch: pytest.MonkeyPatch, project_dir: Path, tmp_path: Path
) -> None:
    states = States(over=("commit-cccccccccccc",))
    assert run(monkeypatch, project_dir, tmp_path, GOOD, states=states)[0] == 0
    assert (
        states.started["name"] == json.loads(states.started["input"])["id"] == "commit-cccccccccccc-01234567"
    )


def test_a_reason_that_another_run_took_leads_to_its_execution(
    aws: None, monkeypatch: pytest.MonkeyPatch, project_dir: Path, tmp_path: Path
) -> None:
    states = States()
    states.end = {"status": "SUCCEEDED", "output": json.dumps({"pipeline_execution_arn": EXECUTION})}
    assert run(monkeypatch, project_dir, tmp_path, GOOD, states=states)[0] == 0
    assert json.loads((tmp_path / "out.json").read_text())["pipeline_execution_arn"] == EXECUTION


def test_a_workflow_that_fails_is_told(
    aws: None,
    monkeypatch: pytest.MonkeyPatch,
    project_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    states = States()
    states.end = {"status": "FAILED", "cause": "S3.S3Exception: no"}
    assert run(monkeypatch, project_dir, tmp_path, GOOD, states=states)[0] == 1
    assert "the retraining workflow ended as FAILED: S3.S3Exception: no" in capsys.readouterr().err


def test_a_training_that_is_waited_for_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    states, sleeps = States(), []
    states.looks = -20
    found = run_pipeline.retraining.pipeline_execution(states, "x", sleeps.append, lambda: sum(sleeps))
    assert found == EXECUTION and max(sleeps) == 15
    assert capsys.readouterr().out.count("another training is under way") == 1


def test_a_pipeline_that_takes_no_reason_is_refused(
    aws: None,
    monkeypatch: pytest.MonkeyPatch,
    project_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    low = {"Name": "Low", "Type": "Fail", "Arguments": {"ErrorMessage": "x"}}
    definition = json.dumps({"Version": "2020-12-01", "Steps": [low]})
    code, sagemaker, _ = run(monkeypatch, project_dir, tmp_path, GOOD, definition)
    assert (code, sagemaker.states.started) == (1, {})
    text = capsys.readouterr().err
    assert "declares no parameter RetrainingReason" in text and "declares no parameter InputDataUri" in text


def test_polling_slows_down_while_nothing_happens(
    aws: None, monkeypatch: pytest.MonkeyPatch, project_dir: Path, tmp_path: Path
) -> None:
    story = [("Executing", [step("Train", "Executing")])] * 12 + [("Succeeded", [REGISTERED])]
    _, _, sleeps = run(monkeypatch, project_dir, tmp_path, story)
    assert sleeps[0] == run_pipeline.FIRST_POLL
    assert max(sleeps) == run_pipeline.LAST_POLL


def test_a_failed_run_explains_itself_and_still_writes_out_json(
    aws: None,
    monkeypatch: pytest.MonkeyPatch,
    project_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    low = step("QualityTooLow", "Failed", {"Fail": {"ErrorMessage": "auc is 0.61"}})
    code, _, _ = run(monkeypatch, project_dir, tmp_path, [("Failed", [low])])
    assert code == 1
    assert "run_pipeline: step QualityTooLow: auc is 0.61" in capsys.readouterr().err
    assert json.loads((tmp_path / "out.json").read_text())["status"] == "Failed"


def test_success_without_a_model_version_is_a_fault(
    aws: None,
    monkeypatch: pytest.MonkeyPatch,
    project_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, _, _ = run(monkeypatch, project_dir, tmp_path, [("Succeeded", [step("Train", "Succeeded")])])
    assert code == 1
    assert (
        f"registered no model version: pipeline.py must end in a registration into {NAME}"
        in capsys.readouterr().err
    )


def test_a_faulty_definition_is_never_sent(
    aws: None,
    monkeypatch: pytest.MonkeyPatch,
    project_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    faulty = json.dumps({"Steps": [{"Name": "Train", "Type": "Training", "Arguments": {}}]})
    code, sagemaker, _ = run(monkeypatch, project_dir, tmp_path, GOOD, faulty)
    assert code == 1
    assert sagemaker.states.started == {}
    assert (
        'step Train (CreateTrainingJob): Missing required parameter in input: "RoleArn"'
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("content", "message"), [(None, "stage Images writes it"), ({"training": "x"}, "no address of")]
)
def test_absent_images_are_named(tmp_path: Path, content: Any, message: str) -> None:
    if content:
        (tmp_path / "images.json").write_text(json.dumps(content))
    with pytest.raises(Fault, match=message):
        run_pipeline.read_images(tmp_path)


# ------------------------------------------------------------ the SDK


def test_the_seed_projects_pipeline_is_right_and_the_same_every_time(
    project: Project, seed_project: Path
) -> None:
    from mlops_cicd.config import read_config
    from mlops_cicd.definition_lint import lint

    uri = upload_monitor(boto3.client("s3"), BUCKET, KEY)
    settings = project.for_pipeline(read_config(seed_project / "mlops.yml"), IMAGES, "c" * 40, uri)

    def build() -> str:
        session = sdk.pipeline_session(boto3.Session(region_name=REGION), BUCKET)
        return sdk.load_definition(seed_project, settings, session)

    first = build()
    assert lint(json.loads(first), boto3.client("sagemaker").meta.service_model) == []
    assert build() == first  # or step caching would never hit
    buckets = [bucket["Name"] for bucket in boto3.client("s3").list_buckets()["Buckets"]]
    assert buckets == [BUCKET]  # the SDK made none of its own


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x = 1\n", "pipeline.py has no function get_pipeline"),
        ("def get_pipeline(settings, session):\n    return 3\n", "returned int; it must return a Pipeline"),
        (
            "class P:\n    name = 'mine'\n    def definition(self):\n        return '{}'\n"
            "def get_pipeline(settings, session):\n    return P()\n",
            f"names its pipeline mine; it must be settings.'pipeline_name'., which is {NAME}",
        ),
    ],
)
def test_a_wrong_pipeline_py_is_named(project_dir: Path, code: str, message: str) -> None:
    (project_dir / "pipeline.py").write_text(code)
    with pytest.raises(Fault, match=message):
        sdk.load_definition(project_dir, {"pipeline_name": NAME}, None)


def test_the_working_folder_and_the_path_are_put_back(project_dir: Path) -> None:
    import sys

    before = (Path.cwd(), list(sys.path))
    (project_dir / "pipeline.py").write_text("raise RuntimeError('broken')\n")
    with pytest.raises(RuntimeError, match="broken"):
        sdk.load_definition(project_dir, {"pipeline_name": NAME}, None)
    assert (Path.cwd(), list(sys.path)) == before
