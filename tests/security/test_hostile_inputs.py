"""Inputs that are made to break something, at every boundary where somebody's text comes in.

A row of the table is an input, where it is given, and the refusal that is expected; an empty refusal means
that the input is taken and does no harm, which its boundary checks. Whatever is given goes through the real
interface. A refusal is a sentence: it names the thing and what is allowed, ends in no traceback, forges no
line of a log, and comes soon. No input runs anything: each that tries to would leave a file behind.
"""

from __future__ import annotations

import ast
import base64
import importlib.util
import io
import json
import os
import pickle
import re
import subprocess
import sys
import tarfile
import tempfile
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

import compose
import hooks
import publish
from mlops_cicd import (
    associate_user,
    config,
    console,
    images,
    registry,
    run_pipeline,
    select,
    settings,
    validate,
)
from mlops_cicd.staging import sample
from monitor import cli as monitor_cli

ROOT = Path(__file__).resolve().parents[2]
CANARY = Path(tempfile.gettempdir()) / f"hostile-{uuid.uuid4().hex}"
TOUCH = f"$(touch {CANARY})"
SOON = 30.0  # seconds on a busy machine; a bomb would take hours
PROJECT = "p-abcdefghijkl"
REGISTRY = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
BUCKET = f"mlops-{PROJECT}-123456789012-us-east-1"
HASH = "--hash=sha256:" + "0" * 64
RTL, ZERO_WIDTH, CYRILLIC_A = "\u202e", "\u200b", "\u0430"
RED = "\x1b[31m"

LAUNCH = {
    "2-smproject.yaml": {
        "SageMakerProjectName": "credit",
        "SageMakerProjectId": PROJECT,
        "CostCenter": "4711",
        "OwnerEmail": "owner@example.com",
    },
    "3-user.yaml": {"UserName": "jane", "ProjectId": PROJECT},
    "1-infra.yaml": {},
}
MLOPS = yaml.safe_load(
    """
version: 1
framework: {name: sklearn, version: "1.9-0"}
data: {source: data/rows.csv, target: label, positive_class: bad}
processing: {instance_type: ml.t3.medium}
training: {instance_type: ml.m5.large}
evaluation: {metric: auc, threshold: 0.7}
inference: {mode: realtime}
deployment:
  staging: {instance_type: ml.t2.medium, instance_count: 1}
  production: {instance_type: ml.t2.large, instance_count: 1}
monitoring: {data_capture_percentage: 100, schedule: rate(1 hour), instance_type: ml.t3.medium}
"""
)


@dataclass
class World:
    """What boundaries need: a folder of the test's own, and what costs time, made when it is asked for."""

    folder: Path
    capsys: pytest.CaptureFixture[str]
    monkeypatch: pytest.MonkeyPatch
    fixture: Callable[[str], Any]
    made: dict[str, Any] = field(default_factory=dict)

    def says(self, run: Callable[[], int]) -> str:
        """The complaint of a program; empty when it ends well."""
        self.capsys.readouterr()
        code = run()
        said = self.capsys.readouterr()
        assert code in (0, 1), f"exit code {code}"
        assert (code == 1) == bool(said.err), f"exit code {code} and {said.err!r}"
        return said.err

    def project(self, **files: str | bytes) -> Path:
        """A project's repository that passes, with some files changed (None leaves one out)."""
        root = self.folder / "project"
        given: dict[str, Any] = {
            "mlops.yml": yaml.safe_dump(MLOPS),
            "pipeline.py": "",
            "data/rows.csv": "age,label\n30,good\n40,bad\n",
            "requirements-dev.txt": f"six==1.17.0 {HASH}\n",
            "containers/requirements.txt": f"six==1.17.0 {HASH}\n",
            **{
                f"containers/{name}/Dockerfile": "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\n"
                for name in settings.IMAGES
            },
            **files,
        }
        for name, content in given.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return root


# -- the boundaries: each takes a value and returns the refusal, or "" after checking that it did no harm ----
def a_launch(template: str, parameter: str) -> Callable[[World, Any], str]:
    """A parameter in the form of a launch, as CloudFormation takes it."""

    def give(world: World, value: str) -> str:
        cloud = world.fixture("cloud")
        bucket, client = world.fixture("template_bucket"), cloud.client("cloudformation")
        given = LAUNCH[template] | {parameter: value}
        name = cloud.name("hostile")
        try:
            client.create_stack(
                StackName=name,
                TemplateURL=f"{cloud.endpoint}/{bucket}/{template}",
                Parameters=[{"ParameterKey": k, "ParameterValue": v} for k, v in given.items()],
                Capabilities=["CAPABILITY_NAMED_IAM"],
            )
        except client.exceptions.ClientError as error:
            detail = error.response["Error"]
            assert detail["Code"] == "ValidationError"
            assert cloud.stack_status(name) == "", "something was made"
            return detail["Message"]
        return ""

    return give


def a_studio_project(world: World, value: str) -> str:
    """SageMaker's CreateProject, as Studio calls it."""
    client = world.fixture("cloud").client("sagemaker")
    details = {"ProductId": "prod-abcdefghijklm", "ProvisioningArtifactId": "pa-abcdefghijklm"}
    try:
        client.create_project(ProjectName=value, ServiceCatalogProvisioningDetails=details)
    except client.exceptions.ClientError as error:
        return repr(error.response["Error"]["Message"])  # AWS repeats the value as it came
    return ""


def mlops_yml(world: World, value: str | bytes) -> str:
    """mlops.yml of a commit, in stage Validate."""
    root = world.project(**{"mlops.yml": value})
    return world.says(lambda: validate.main(["--project-dir", str(root)]))


def a_setting(*keys: str) -> Callable[[World, Any], str]:
    """One value of mlops.yml."""

    def give(world: World, value: Any) -> str:
        content = json.loads(json.dumps(MLOPS))
        block = content
        for key in keys[:-1]:
            block = block.setdefault(key, {})
        block[keys[-1]] = value
        return mlops_yml(world, yaml.safe_dump(content, allow_unicode=True))

    return give


def a_data_file(world: World, value: bytes) -> str:
    """The data file of a commit, in stage Validate."""
    root = world.project(**{"data/rows.csv": value})
    return world.says(lambda: validate.main(["--project-dir", str(root)]))


def a_link(world: World, value: str) -> str:
    """A file of a commit that is a link: the data (stages Validate and Test) or mlops.yml."""
    root = world.project()
    secret = world.folder / "secret"
    secret.write_text("age,label\nsecret,bad\nsecret,good\n")
    (root / value).unlink()
    (root / value).symlink_to(secret)
    said = world.says(lambda: validate.main(["--project-dir", str(root)]))
    if value == MLOPS["data"]["source"]:
        with pytest.raises(
            console.Fault, match="no such file"
        ):  # stage Test reads it again, of another commit
            sample.load_sample(root, MLOPS, None)
    assert "secret" not in said.replace(str(secret), "")
    return said


def requirements_txt(world: World, value: str) -> str:
    """A project's requirements, in stage Validate."""
    root = world.project(**{"requirements-dev.txt": f"six==1.17.0 {HASH}\n{value}\n"})
    return world.says(lambda: validate.main(["--project-dir", str(root)]))


def dockerfile(world: World, value: str) -> str:
    """A project's Dockerfile, in stage Images, before anything is built."""
    root = world.project(**{"containers/training/Dockerfile": value})
    (world.folder / "secret").write_text("secret")
    (root / "src").mkdir()
    (root / "src/link").symlink_to(world.folder / "secret")
    try:
        images.content_tag(root, "training", {"BASE_IMAGE": "base"})
    except console.Fault as fault:
        return console.printable(f"images: {fault}")
    return ""


def no_client(name: str) -> Any:
    """Instead of boto3.client: any call of the object that it returns is an error."""
    return SimpleNamespace(service=name)


def an_environment_variable(name: str) -> Callable[[World, str], str]:
    """A variable of a build: the script that reads it must refuse before it calls AWS."""

    def give(world: World, value: str) -> str:
        for other, right in (("PROJECT_ID", PROJECT), ("USER_NAME", "jane"), ("COMMIT_ID", "0" * 40)):
            world.monkeypatch.setenv(other, right)
        world.monkeypatch.setenv(name, value)
        root = ["--project-dir", str(world.project())]
        session = SimpleNamespace(region_name="us-east-1", client=lambda name: None)  # no call can succeed
        if name == "COMMIT_ID":
            return world.says(lambda: run_pipeline.main([*root, "--images", "x"], session))
        if name == "USER_NAME":
            return world.says(lambda: associate_user.main([], session))
        return world.says(
            lambda: select.main(
                [*root, "--out", str(world.folder / "o"), "--env", str(world.folder / "e")], session
            )
        )

    return give


def an_exported_variable(world: World, value: str) -> str:
    """A value that a script exports, sourced by the shell of the build as the buildspec does."""
    file = world.folder / "select.env"
    console.write_env(file, {"MODEL_PACKAGE_ARN": value})
    done = subprocess.run(
        ["sh", "-c", f'. {file}; printf %s "$MODEL_PACKAGE_ARN"'], capture_output=True, text=True, check=True
    )
    assert done.stdout == value
    return ""


def a_build_of(world: World, value: str) -> str:
    """A real build with the value in a variable, which its command quotes as the buildspecs do."""
    client, project = world.fixture("build_project")
    variables = [{"name": "COMMIT_ID", "value": value, "type": "PLAINTEXT"}]
    started = client.start_build(projectName=project, environmentVariablesOverride=variables)["build"]["id"]

    def ended() -> Any:
        (build,) = client.batch_get_builds(ids=[started])["builds"]
        return build if build["buildComplete"] else None

    cloud = world.fixture("cloud")
    logs = cloud.wait(ended, 60, project)["logs"]
    where = {"logGroupName": logs["groupName"], "logStreamName": logs["streamName"]}
    events = cloud.client("logs").get_log_events(**where, startFromHead=True)["events"]
    assert str(["--commit", value]) in "".join(e["message"] for e in events)
    return ""


def a_project() -> settings.Project:
    fields = dict.fromkeys(settings.Project.__dataclass_fields__, "x")
    ecr = {f"ecr_{name}_uri": f"{REGISTRY}/mlops-{PROJECT}/{name}" for name in settings.IMAGES}
    return settings.Project(**fields | ecr | {"project_id": PROJECT, "bucket_name": BUCKET})


def model_version(**description: Any) -> str:
    try:
        select.check_origin(a_project(), registry.ModelVersion("arn", 7, description))
    except console.Fault as fault:
        return console.printable(f"select: {fault}")
    return ""


def model_metadata(world: World, value: str) -> str:
    """Customer metadata of a model version, edited by somebody who may approve."""
    return model_version(CustomerMetadataProperties={"preprocessing_image": value})


def model_image(world: World, value: str) -> str:
    """The container of a model version that was registered by hand."""
    right = f"s3://{BUCKET}/models/model.tar.gz"
    return model_version(InferenceSpecification={"Containers": [{"Image": value, "ModelDataUrl": right}]})


def model_data(world: World, value: str) -> str:
    """The model archive of a version that was registered by hand."""
    right = f"{REGISTRY}/mlops-{PROJECT}/inference@sha256:{'0' * 64}"
    return model_version(InferenceSpecification={"Containers": [{"Image": right, "ModelDataUrl": value}]})


def model_baseline(world: World, value: str) -> str:
    """The baseline that a model version names."""
    return model_version(DriftCheckBaselines={"ModelDataQuality": {"Statistics": {"S3Uri": value}}})


def an_evaluation(world: World, value: bytes) -> str:
    """evaluation.json that a model version names."""
    s3 = SimpleNamespace(get_object=lambda **_: {"Body": io.BytesIO(value)})
    try:
        found = registry.metric_value(registry.read_json(s3, f"s3://{BUCKET}/evaluation.json"), "auc")
    except console.Fault as fault:
        return console.printable(f"smoke_test: {fault}")
    assert found is None
    return ""


def function(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(
        f"hostile_{name}", ROOT / f"mlops-cfn/lambda/{name}/index.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def a_job_tag(world: World, value: str) -> str:
    """The project tag of a job that somebody started by hand, in the event that reaches the tagger."""
    tags = [{"Key": "sagemaker:project-id", "Value": value}]
    pages = SimpleNamespace(paginate=lambda **_: [{"Tags": tags}])
    sagemaker = SimpleNamespace(
        get_paginator=lambda _: pages
    )  # no add_tags: tagging would be an AttributeError
    event = {"detail-type": value, "detail": {"TrainingJobArn": "arn:job"}}
    assert function("job_tagger").on_event(event, sagemaker, None, None) == []
    return ""


def an_event(world: World, value: Any) -> str:
    """The detail of an event that has the tagger's source and nothing else of it."""
    assert function("job_tagger").on_event({"detail-type": "x", "detail": value}, None, None, None) == []
    return ""


def a_cleanup(world: World, value: dict[str, str]) -> str:
    """The request of a custom resource, at the function that may empty every project's bucket."""
    index = function("project_cleanup")
    event = {
        "RequestType": "Delete",
        "PhysicalResourceId": f"cleanup-{value['ProjectId']}",
        "ResourceProperties": value,
        "StackId": "s",
        "RequestId": "r",
        "LogicalResourceId": "Cleanup",
        "ResponseURL": "https://example.com",
    }
    answers: list[dict[str, Any]] = []
    world.monkeypatch.setattr(index, "send", lambda url, answer: answers.append(answer))
    world.monkeypatch.setattr(index.boto3, "client", no_client)
    index.handler(event, SimpleNamespace(get_remaining_time_in_millis=lambda: 60_000))
    (answer,) = answers
    return answer.get("Reason", "") if answer["Status"] == "FAILED" else ""


def endpoint(world: World, value: tuple[dict[str, str], bytes]) -> str:
    """A request to the endpoint's server; refused with 4xx, in a small JSON document."""
    headers, body = value
    body = base64.b64encode(body).decode()
    answer = world.fixture("seed")(do="invoke", headers=headers, body=body)
    assert answer["code"] < 500, answer["text"][:2000]
    assert len(answer["text"]) < 4000, "the answer repeats what was sent"
    if answer["code"] == 200:
        return ""
    return json.loads(answer["text"])["error"]


def a_model_archive(world: World, value: Callable[[tarfile.TarFile, Path], None]) -> str:
    """model.tar.gz of a training job, in step Evaluate."""
    folder = world.folder / "model"
    folder.mkdir()
    with tarfile.open(folder / "model.tar.gz", "w:gz") as archive:
        value(archive, world.folder)
    before = sorted(path for path in world.folder.rglob("*"))
    argv = ["--model", str(folder), "--test", str(world.folder), "--output", str(world.folder / "out")]
    answer = world.fixture("seed")(do="evaluate", argv=argv)
    assert answer["code"] in (0, 1), answer["text"]
    assert sorted(path for path in world.folder.rglob("*")) == before, "a member was written outside"
    return answer["text"] if answer["code"] else ""


def raw_data(world: World, value: bytes) -> str:
    """The data that step Preprocess reads."""
    file = world.folder / "raw.csv"
    file.write_bytes(value)
    argv = ["--input", str(file), "--output", str(world.folder / "out")]
    answer = world.fixture("seed")(do="preprocess", argv=argv)
    assert answer["code"] in (0, 1), answer["text"]
    return answer["text"] if answer["code"] else ""


def captured_traffic(world: World, value: tuple[str, str]) -> str:
    """A request that data capture has kept, beside two honest ones, which the monitor must judge."""
    data = world.folder / "data.csv"
    data.write_text("age,sex\n" + "".join(f"{20 + n},{'mf'[n % 2]}\n" for n in range(40)))
    assert monitor_cli.main(["baseline", "--dataset", str(data), "--output", str(world.folder / "b")]) == 0
    capture = world.folder / "capture"
    capture.mkdir()

    def line(content_type: str, text: str) -> str:
        sent = {"observedContentType": content_type, "data": text, "encoding": "CSV"}
        meta = {"eventId": "e", "inferenceTime": "2026-01-01T00:30:00Z"}
        return json.dumps({"captureData": {"endpointInput": sent}, "eventMetadata": meta}, ensure_ascii=False)

    lines = [line("text/csv", "30,m"), line(*value), line("text/csv", "31,f")]
    (capture / "x.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    env = {"ENDPOINT_NAME": "e", "SCHEDULED_TIME": "2026-01-01T01:00:00Z"}
    metrics: list[dict[str, Any]] = []
    client = SimpleNamespace(put_metric_data=lambda **data: metrics.append(data))
    argv = [
        "run",
        "--kind",
        "data_quality",
        "--baseline",
        str(world.folder / "b/data_quality"),
        "--capture",
        str(capture),
        "--output",
        str(world.folder / "r"),
    ]
    world.capsys.readouterr()
    assert monitor_cli.main(argv, env, lambda name: client) == 0
    said = world.capsys.readouterr()
    check_text(said.out + said.err)
    (report,) = (world.folder / "r").rglob("summary.json")
    judged = json.loads(report.read_text())
    assert judged["records"] >= 2 and metrics
    return ""


def a_commit(world: World, value: dict[str, Any]) -> str:
    """CodeCommit's CreateCommit in the project's repository: message, author, path."""
    cloud = world.fixture("cloud")
    client, name = cloud.client("codecommit"), cloud.name("repo")
    client.create_repository(repositoryName=name)
    given = {"branchName": "main", "commitMessage": "m", "authorName": "jane", "email": "jane@example.com"}
    path = value.get("path", "README.md")
    given |= {k: v for k, v in value.items() if k != "path"}
    files = [{"filePath": path, "fileContent": b"x"}]
    try:
        made = client.create_commit(repositoryName=name, putFiles=files, **given)["commitId"]
    except client.exceptions.ClientError as error:
        return error.response["Error"]["Message"]
    found = client.get_commit(repositoryName=name, commitId=made)["commit"]
    assert found["message"].strip() == given["commitMessage"].strip()
    return ""


def a_pushed_branch(world: World, value: str) -> str:
    """A branch that is pushed by git: it tells who listens, and starts no pipeline, for only main does."""
    cloud = world.fixture("cloud")
    client, name = cloud.client("codecommit"), cloud.name("repo")
    client.create_repository(repositoryName=name)
    seen = cloud.listen(source=["aws.codecommit"])
    folder = world.folder / "clone"
    folder.mkdir()
    cloud.git("init", "-q", "-b", "work", cwd=folder)
    (folder / "a").write_text("1")
    cloud.git("add", "a", cwd=folder)
    cloud.git("commit", "-qm", TOUCH, cwd=folder)
    url = f"http://test:x@{cloud.endpoint.partition('//')[2]}/v1/repos/{name}"
    done = cloud.git("push", "-q", url, f"HEAD:refs/heads/{value}", cwd=folder, check=False)
    if done.returncode:
        return done.stderr
    cloud.wait(lambda: [e for e in seen() if name in json.dumps(e)], what="the event of the push")
    (event,) = [e for e in seen() if name in json.dumps(e)]
    assert event["detail"]["referenceName"] == value
    rules = yaml.safe_load(re.sub(r"!\w+", "", (ROOT / "mlops-cfn/project/pipelines.yaml").read_text()))
    pattern = rules["Resources"]["CodePushed"]["Properties"]["EventPattern"]["detail"]
    assert value not in pattern["referenceName"] and pattern["referenceName"] == ["main"]
    return ""


def a_pull_request(world: World, value: str) -> str:
    """The title of a pull request, which becomes part of an event."""
    cloud = world.fixture("cloud")
    client, name = cloud.client("codecommit"), cloud.name("repo")
    client.create_repository(repositoryName=name)
    tip = client.put_file(repositoryName=name, branchName="main", filePath="a", fileContent=b"1")["commitId"]
    client.create_branch(repositoryName=name, branchName="work", commitId=tip)
    client.put_file(
        repositoryName=name, branchName="work", filePath="a", fileContent=b"2", parentCommitId=tip
    )
    seen = cloud.listen(source=["aws.codecommit"])
    targets = [{"repositoryName": name, "sourceReference": "work", "destinationReference": "main"}]
    client.create_pull_request(title=value, targets=targets)
    told = cloud.wait(lambda: [e for e in seen() if name in json.dumps(e)], what="the event")
    assert told[0]["detail"]["title"] == value
    return ""


def a_seed_archive(world: World, value: str) -> str:
    """A member of the archive that fills a repository."""
    cloud = world.fixture("cloud")
    bucket, packed = cloud.bucket(), io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("README.md", "x")
        archive.writestr(zipfile.ZipInfo(value), "evil")
    cloud.client("s3").put_object(Bucket=bucket, Key="seed.zip", Body=packed.getvalue())
    code = {"BranchName": "main", "S3": {"Bucket": bucket, "Key": "seed.zip"}}
    name = cloud.name("repo")
    resource = {"Type": "AWS::CodeCommit::Repository", "Properties": {"RepositoryName": name, "Code": code}}
    try:
        cloud.stack({"Repository": resource})
    except AssertionError as error:
        return str(error)
    return ""


def a_failed_job(world: World, value: str) -> str:
    """Why a job failed, in its own words, which a build repeats in its log."""
    step = {"StepName": "Train", "FailureReason": value, "Metadata": {}}
    described = {"PipelineExecutionStatus": "Failed"}
    text = run_pipeline.explain(None, None, described, [step | {"StepStatus": "Failed"}])

    @console.script
    def main() -> int:
        raise console.Fault(text)

    said = world.says(main)
    check_text(said)
    assert said.startswith("test_hostile_inputs: step Train failed: ")
    return ""


def a_release_version(world: World, value: str) -> str:
    """`make publish` with a version of somebody's choice."""
    argv = ["--package-only", "--version", value, "--out", str(world.folder)]
    return world.says(lambda: publish.main(argv))


def a_stack_name(world: World, value: str) -> str:
    """The stack's name in the link that opens the launch form."""
    link = publish.quick_create_url("us-east-1", "amazonaws.com", "https://b.s3.amazonaws.com/x.yaml", value)
    query = parse_qs(urlsplit(link).fragment.partition("?")[2], keep_blank_values=True)
    assert query == {"templateURL": ["https://b.s3.amazonaws.com/x.yaml"], "stackName": [value]}
    return ""


def a_framework(world: World, value: str) -> str:
    """`compose.py --framework`, whose value becomes part of a path."""
    argv = ["--framework", value, "--inference", "realtime", "--out", str(world.folder / "out")]
    return world.says(lambda: compose.main(argv))


def a_notebook(world: World, value: str) -> str:
    """A notebook's name at the hook before a commit."""
    path = world.folder / value
    path.write_text(json.dumps({"cells": [{"cell_type": "code", "outputs": [1], "execution_count": 1}]}))
    assert hooks.main(["notebooks", str(path)]) == 1
    assert "1 executed cells" in world.capsys.readouterr().out
    return ""


def labelled_rows(world: World, value: str) -> str:
    """The labelled rows that stage Test sends to the endpoint."""
    try:
        sample.read_sample(value, "label", "bad")
    except console.Fault as fault:
        return console.printable(f"smoke_test: {fault}")
    return ""


# -- hostile archives and payloads ---------------------------------------------------------------------------
def member(name: str, content: bytes = b"evil", **more: Any) -> Callable[[tarfile.TarFile, Path], None]:
    def add(archive: tarfile.TarFile, folder: Path) -> None:
        info = tarfile.TarInfo(name.replace("{folder}", str(folder)))
        info.size = 0 if more.get("type") else len(content)
        for key, value in more.items():
            setattr(info, key, value.replace("{folder}", str(folder)) if isinstance(value, str) else value)
        archive.addfile(info, io.BytesIO(content))

    return add


class Bomb:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {CANARY}",)


def with_model(content: bytes) -> Callable[[tarfile.TarFile, Path], None]:
    def add(archive: tarfile.TarFile, folder: Path) -> None:
        member("metadata.json", b'{"features": []}')(archive, folder)
        member("model.skops", content)(archive, folder)

    return add


def skops_of(schema: dict[str, Any]) -> bytes:
    """A file of skops that names something to call."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("schema.json", json.dumps(schema | {"protocol": 1, "_skops_version": "0.16.0"}))
    return out.getvalue()


CALL = {
    "__class__": "reduce",
    "__module__": "os",
    "__loader__": "ReduceNode",
    "__id__": 1,
    "__reduce__": {
        "args": {"__class__": "tuple", "__module__": "builtins", "__loader__": "TupleNode", "content": []}
    },
}
TYPE = {
    "__class__": "system",
    "__module__": "posix",
    "__loader__": "FunctionNode",
    "__id__": 1,
    "content": "x",
}
BOMB = "a: &a [x, x]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}]\n" for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)
JSON = {"Content-Type": "application/json"}
CSV = {"Content-Type": "text/csv"}
ROW = "A11,6,A34,A43,1169,A65,A75,4,A93,A101,4,A121,67,A143,A152,2,A173,1,A192,A201"


def instances(row: list[Any]) -> bytes:
    return json.dumps({"instances": [row]}).encode()


def numbers(value: Any) -> list[Any]:
    """A right row with one number replaced."""
    row: list[Any] = ROW.split(",")
    row = [int(cell) if cell.isdigit() else cell for cell in row]
    return [row[0], value, *row[2:]]


def raw_number(text: str) -> bytes:
    return instances(numbers("NUMBER")).replace(b'"NUMBER"', text.encode())


NAME, COST, OWNER = "SageMakerProjectName", "CostCenter", "OwnerEmail"
PROJECT_FORM, USER_FORM, INFRA_FORM = "2-smproject.yaml", "3-user.yaml", "1-infra.yaml"
ONE_NAME = "must be 1 to 32 letters, digits and inner hyphens"
ONE_ADDRESS = "must be one e-mail address"
DEEP = "[" * 100_000
NOT_OURS = "allowed: an image of"

# (name, boundary, input, expected refusal as a regular expression; "" = taken, without harm)
TABLE: list[tuple[str, Any, Any, str]] = [
    # project and user names, cost centres, addresses
    ("a command as a name", a_launch(PROJECT_FORM, NAME), TOUCH, ONE_NAME),
    ("a path as a name", a_launch(PROJECT_FORM, NAME), "../../etc", ONE_NAME),
    ("a wildcard as a name", a_launch(PROJECT_FORM, NAME), "*", ONE_NAME),
    ("a policy variable as a name", a_launch(PROJECT_FORM, NAME), "${aws:username}", ONE_NAME),
    (
        "a dynamic reference as a name",
        a_launch(PROJECT_FORM, NAME),
        "{{resolve:ssm:/mlops/infra/vpc-id}}",
        ONE_NAME,
    ),
    ("a name with a line end", a_launch(PROJECT_FORM, NAME), "credit\n", ONE_NAME),
    ("a name with a look-alike letter", a_launch(PROJECT_FORM, NAME), f"cr{CYRILLIC_A}dit", ONE_NAME),
    ("a name written backwards", a_launch(PROJECT_FORM, NAME), f"credit{RTL}tide", ONE_NAME),
    ("a name with an invisible letter", a_launch(PROJECT_FORM, NAME), f"cred{ZERO_WIDTH}it", ONE_NAME),
    ("a name of hyphens", a_launch(PROJECT_FORM, NAME), f"a{'-' * 60}b", ONE_NAME),
    ("a very long name", a_launch(PROJECT_FORM, NAME), "a" * 4000, ONE_NAME),
    ("Studio: a command as a name", a_studio_project, TOUCH, "regular expression pattern"),
    ("Studio: a name of two lines", a_studio_project, "a\nb", "regular expression pattern"),
    ("Studio: a very long name", a_studio_project, "a" * 33, "less than or equal to 32"),
    ("an id of another form", a_launch(PROJECT_FORM, "SageMakerProjectId"), "p-*", "must be the id"),
    (
        "a policy in a cost centre",
        a_launch(PROJECT_FORM, COST),
        '1","Effect":"Allow',
        "must be 1 to 64 letters",
    ),
    ("a formula as a cost centre", a_launch(PROJECT_FORM, COST), "=HYPERLINK(1)", "must be 1 to 64 letters"),
    ("a cost centre of two lines", a_launch(PROJECT_FORM, COST), "1\n2", "must be 1 to 64 letters"),
    (
        "a header in an address",
        a_launch(PROJECT_FORM, OWNER),
        "a@example.com\r\nBcc: b@example.org",
        ONE_ADDRESS,
    ),
    ("two addresses", a_launch(PROJECT_FORM, OWNER), "a@example.com,b@example.org", ONE_ADDRESS),
    ("an encoded line end", a_launch(PROJECT_FORM, OWNER), "a@example.com%0ABcc:b@example.org", ONE_ADDRESS),
    ("a quoted address", a_launch(PROJECT_FORM, OWNER), '"a b"@example.com', ONE_ADDRESS),
    ("a look-alike domain", a_launch(PROJECT_FORM, OWNER), f"a@ex{CYRILLIC_A}mple.com", ONE_ADDRESS),
    (
        "markup in a description",
        a_launch(PROJECT_FORM, "ProjectDescription"),
        "<script>x</script>",
        "punctuation",
    ),
    (
        "everybody as a sign-in role",
        a_launch(PROJECT_FORM, "DataScientistRoleArn"),
        "*",
        "ARN of an IAM role",
    ),
    (
        "an account as a sign-in role",
        a_launch(PROJECT_FORM, "DataScientistRoleArn"),
        "arn:aws:iam::123456789012:root",
        "ARN of an IAM role",
    ),
    ("a path as a user", a_launch(USER_FORM, "UserName"), "jane/../bob", "must be 1 to 36 letters"),
    ("a wildcard as a user", a_launch(USER_FORM, "UserName"), "*", "must be 1 to 36 letters"),
    ("a user of two lines", a_launch(USER_FORM, "UserName"), "jane\nbob", "must be 1 to 36 letters"),
    ("a path as a user's project", a_launch(USER_FORM, "ProjectId"), "p-../../infra", "must be the id"),
    (
        "more parameters in an address",
        a_launch(INFRA_FORM, "AdminEmail"),
        'x","OptionalEndpoints":"true@example.com',
        "An e-mail address",
    ),
    (
        "a policy in a pattern of roles",
        a_launch(INFRA_FORM, "PortfolioPrincipalPattern"),
        'role/*","Action":"*',
        "role/ followed by a path",
    ),
    # mlops.yml
    (
        "an object of Python",
        mlops_yml,
        f"!!python/object/apply:os.system ['touch {CANARY}']",
        "a tag .* plain keys",
    ),
    ("values that grow", mlops_yml, BOMB, "an anchor .* plain keys"),
    ("a list within itself", mlops_yml, "a: &a [*a]", "an anchor .* plain keys"),
    ("nested without end", mlops_yml, "[" * 50_000, "nested more than 12 levels"),
    ("a huge file", mlops_yml, "a: 1\n" * 100_000, "500,000 bytes; allowed: at most 65,536"),
    ("bytes that are no text", mlops_yml, b"version: \xff\xfe", "is not UTF-8"),
    ("a NUL", mlops_yml, "version: 1\0", r"hidden character U\+0000"),
    ("text that turns round", mlops_yml, f"version: 1 # {RTL}safe", r"hidden character U\+202E"),
    ("a key twice", mlops_yml, yaml.safe_dump(MLOPS) + "version: 1\n", "version is written twice"),
    ("a day that is none", mlops_yml, "version: 2024-99-99", "a value cannot be read"),
    (
        "a key that forges a line",
        mlops_yml,
        '"x\\nvalidate: all is well": 1',
        r'"x\\nvalidate: all is well" is not a',
    ),
    (
        "a key that colours the log",
        mlops_yml,
        f'"{RED.encode("unicode_escape").decode()}": 1',
        r'"\\u001b\[31m" is not',
    ),
    ("a list instead of settings", mlops_yml, "- 1", "a mapping of keys to values is expected"),
    ("a threshold that is no number", a_setting("evaluation", "threshold"), float("nan"), "a finite number"),
    (
        "a drift that never is",
        a_setting("monitoring", "data_quality"),
        {"drift_threshold": float("nan")},
        "a finite number",
    ),
    (
        "a path out of the repository",
        a_setting("data", "source"),
        "data/../../etc/passwd",
        r"data\.source is",
    ),
    ("a path from the root", a_setting("data", "source"), "/etc/passwd", r"data\.source is"),
    ("a key of S3 with a line end", a_setting("data", "source"), "s3://bucket/a\nb", "data.source is"),
    ("a bucket that is a path", a_setting("data", "source"), "s3://../x", r"data\.source is"),
    (
        "a command as an instance",
        a_setting("training", "instance_type"),
        TOUCH,
        r"training\.instance_type is",
    ),
    (
        "an instance and a line",
        a_setting("training", "instance_type"),
        "ml.m5.large\n",
        "without hidden characters",
    ),
    (
        "a look-alike mode",
        a_setting("inference", "mode"),
        f"re{CYRILLIC_A}ltime",
        r'"re\\u0430ltime"; allowed',
    ),
    (
        "an option as a hyperparameter",
        a_setting("training", "hyperparameters"),
        {"--x": 1},
        "names of two letters",
    ),
    (
        "a long hyperparameter",
        a_setting("training", "hyperparameters"),
        {"aa": "x" * 3000},
        "length at most 2500",
    ),
    (
        "a command as a schedule",
        a_setting("monitoring", "schedule"),
        f"rate({TOUCH})",
        r"monitoring\.schedule is",
    ),
    ("a formula as the target", a_setting("data", "target"), "=cmd|'/C calc'!A0", r'data\.target is "=cmd'),
    ("an invisible target", a_setting("data", "target"), f"lab{ZERO_WIDTH}el", "hidden character"),
    # files of a commit
    (
        "columns that forge a line",
        a_data_file,
        b'"x\nvalidate: fine",b\n1,2\n',
        r'the columns "x\\nvalidate: fine"',
    ),
    ("data that is no text", a_data_file, b"\xff\xfe,label\n", "no CSV file in UTF-8"),
    ("a column without end", a_data_file, b'"' + b"x" * 200_000 + b'",label\n', "no CSV file"),
    ("thousands of columns", a_data_file, b",".join(b"c%d" % n for n in range(5000)), "…"),
    ("data that is a link", a_link, "data/rows.csv", "no such file"),
    ("settings that are a link", a_link, "mlops.yml", "is a link"),
    ("another index", requirements_txt, "--index-url https://example.com/simple", "line 2.*--index-url"),
    ("an address to install from", requirements_txt, "x @ https://example.com/x.whl", "line 2.*example.com"),
    ("a package without hash", requirements_txt, "requests==2.34.2", "only packages with version and hash"),
    ("a command as a requirement", requirements_txt, f"x=={TOUCH} {HASH}", "line 2"),
    (
        "an image of somebody else",
        dockerfile,
        "FROM docker.io/evil:latest\n",
        r"allowed: FROM \$\{BASE_IMAGE\}",
    ),
    (
        "a copy from elsewhere",
        dockerfile,
        "FROM ${BASE_IMAGE}\nCOPY --from=docker.io/evil /x /x\n",
        "a stage of this",
    ),
    ("a copy from outside", dockerfile, "FROM ${BASE_IMAGE}\nCOPY ../../etc/passwd /x\n", "without \\.\\."),
    ("a copy of a link", dockerfile, "FROM ${BASE_IMAGE}\nCOPY src /x\n", "a link that leads out"),
    ("a copy that is no list", dockerfile, 'FROM ${BASE_IMAGE}\nCOPY ["a", \n', "is not a JSON list"),
    ("a notebook named as a command", a_notebook, f"$(touch {CANARY.name}).ipynb", ""),
    ("a notebook named as an option", a_notebook, "--help.ipynb", ""),
    # variables and arguments of builds
    (
        "a path as a project id",
        an_environment_variable("PROJECT_ID"),
        "../../infra",
        "project id .* allowed is p-",
    ),
    (
        "a command as a project id",
        an_environment_variable("PROJECT_ID"),
        TOUCH,
        "project id .* allowed is p-",
    ),
    ("a command as a commit", an_environment_variable("COMMIT_ID"), TOUCH, "commit .* allowed are 7 to 64"),
    (
        "an option as a commit",
        an_environment_variable("COMMIT_ID"),
        "--upload-pack=x",
        "commit .* allowed are 7",
    ),
    ("another user's path", an_environment_variable("USER_NAME"), "../bob", "user .* allowed are 1 to 36"),
    (
        "a user of two lines, by variable",
        an_environment_variable("USER_NAME"),
        "jane\nbob",
        "user .* allowed are",
    ),
    ("a command in an exported value", an_exported_variable, f"x'; touch {CANARY}; echo '", ""),
    ("lines in an exported value", an_exported_variable, f"x\ntouch {CANARY}\n\\", ""),
    ("a command in a build's variable", a_build_of, TOUCH, ""),
    ("quotes in a build's variable", a_build_of, f'"; touch {CANARY}; "', ""),
    ("a version with a path", a_release_version, "../../1.0.0", "letters, digits, dots"),
    ("a version of two lines", a_release_version, "1.0.0\n2", "letters, digits, dots"),
    ("more parameters in a stack's name", a_stack_name, "x&templateURL=https://example.com/evil.yaml", ""),
    ("a framework with a path", a_framework, "../../../etc", "there is no '../../../etc'; choose"),
    # the model registry
    (
        "a monitor of another account",
        model_metadata,
        "999999999999.dkr.ecr.us-east-1.amazonaws.com/x:1",
        NOT_OURS,
    ),
    (
        "a monitor of another project",
        model_metadata,
        f"{REGISTRY}/mlops-p-zzzzzzzzzzzz/preprocessing:1",
        NOT_OURS,
    ),
    (
        "a repository that begins alike",
        model_metadata,
        f"{REGISTRY}/mlops-{PROJECT}/preprocessing-x:1",
        NOT_OURS,
    ),
    ("a command as a tag", model_metadata, f"{REGISTRY}/mlops-{PROJECT}/preprocessing:{TOUCH}", NOT_OURS),
    ("a tag and a line", model_metadata, f"{REGISTRY}/mlops-{PROJECT}/preprocessing:1\nx", NOT_OURS),
    ("a container from elsewhere", model_image, "docker.io/evil:latest", NOT_OURS),
    ("a model from elsewhere", model_data, "s3://somebody-else/model.tar.gz", "allowed: a file below"),
    ("a bucket that begins alike", model_data, f"s3://{BUCKET}-x/model.tar.gz", "allowed: a file below"),
    (
        "a baseline from elsewhere",
        model_baseline,
        "s3://somebody-else/statistics.json",
        "allowed: a file below",
    ),
    ("a baseline with a line", model_baseline, f"s3://{BUCKET}/a\nselect: fine", "allowed: a file below"),
    ("an evaluation that is none", an_evaluation, b"\x80pickle", "is not JSON"),
    ("a deep evaluation", an_evaluation, DEEP.encode(), "is not JSON"),
    ("an evaluation that hides a metric deep", an_evaluation, b'{"a":' * 60 + b'{"auc": 1}' + b"}" * 60, ""),
    ("a huge evaluation", an_evaluation, b" " * (17 * 1024 * 1024), "larger than 16,777,216 bytes"),
    # events
    ("a path as a job's project", a_job_tag, "../../infra", ""),
    ("a job's project that forges a line", a_job_tag, "p-1\n[INFO] all is well", ""),
    ("a wildcard as a job's project", a_job_tag, "p-*", ""),
    ("an event of nothing", an_event, {}, ""),
    ("an event of something else", an_event, {"TrainingJobArn": None, "x": [1, {"y": TOUCH}]}, ""),
    ("a cleanup of everything", a_cleanup, {"ProjectId": "*"}, "small letters or digits are allowed"),
    ("a cleanup of nothing", a_cleanup, {"ProjectId": ""}, "small letters or digits are allowed"),
    ("a reason that forges a line", a_failed_job, "x\ntrain: model version 7 waits for approval", ""),
    ("a reason that colours the log", a_failed_job, f"{RED}x\r\x1b[2Jtrain: fine", ""),
    # the endpoint
    ("deep JSON", endpoint, (JSON, DEEP.encode()), "nested too deep|not JSON"),
    (
        "a key of JSON twice",
        endpoint,
        (JSON, b'{"instances": [], "instances": [[1]]}'),
        "twice in one object",
    ),
    ("not a number", endpoint, (JSON, raw_number("NaN")), "nan is not a number"),
    ("an infinite number", endpoint, (JSON, raw_number("-Infinity")), "inf is not a number"),
    ("a number of 400 digits", endpoint, (JSON, raw_number("9" * 400)), "is not a number"),
    ("a number of 5,000 digits", endpoint, (JSON, raw_number("9" * 5000)), "not JSON"),
    ("an object as a number", endpoint, (JSON, instances(numbers({"__class__": "x"}))), "is not a number"),
    ("a long text as a number", endpoint, (JSON, instances(numbers("x" * 1_000_000))), "is not a number"),
    (
        "an unknown feature with a long name",
        endpoint,
        (JSON, b'{"instances": [{"' + b"x" * 9**6 + b'": 1}]}'),
        "row 1",
    ),
    ("no rows", endpoint, (JSON, b'{"instances": "all"}'), "instances"),
    (
        "another content type",
        endpoint,
        ({"Content-Type": "application/x-python-pickle"}, b"x"),
        "is not supported",
    ),
    ("a pickle as a row", endpoint, (CSV, pickle.dumps(Bomb())), "UTF-8|row 1"),
    ("a content type with markup", endpoint, ({"Content-Type": "text/<script>"}, b"x"), "is not supported"),
    ("bytes that are no text, as rows", endpoint, (CSV, b"\xff\xfe"), "not UTF-8"),
    ("too few values", endpoint, (CSV, b"1,2,3"), "row 1 has 3 values, expected 20"),
    ("a quote that never ends", endpoint, (CSV, b'"' + b"x" * 200_000), "the body is not CSV"),
    ("a formula as a category", endpoint, (CSV, ROW.replace("A34", "=cmd|' /C calc'!A0").encode()), ""),
    ("a NUL as a category", endpoint, (CSV, ROW.replace("A34", "a\0b").encode()), ""),
    # models and data
    ("a model that climbs out", a_model_archive, member("../evil"), "is refused"),
    (
        "a model with an absolute path",
        a_model_archive,
        member("{folder}/evil"),
        "refused|neither|no metadata",
    ),
    (
        "a model with a link",
        a_model_archive,
        member("x", type=tarfile.SYMTYPE, linkname="../../x"),
        "is refused",
    ),
    (
        "a model with an absolute link",
        a_model_archive,
        member("x", type=tarfile.SYMTYPE, linkname="/etc"),
        "refused",
    ),
    (
        "a model with a hard link",
        a_model_archive,
        member("x", type=tarfile.LNKTYPE, linkname="../x"),
        "is refused",
    ),
    ("a model with a device", a_model_archive, member("x", type=tarfile.CHRTYPE), "is refused"),
    ("a pickle as a model", a_model_archive, with_model(pickle.dumps(Bomb())), "not written by skops"),
    ("a model that names a command", a_model_archive, with_model(skops_of(TYPE)), "is refused"),
    ("a model that calls something", a_model_archive, with_model(skops_of(CALL)), "is refused"),
    ("metadata without end", a_model_archive, member("metadata.json", DEEP.encode()), "is refused"),
    ("a formula as a column", raw_data, b"=HYPERLINK(1),b\n1,2\n", "missing column"),
    ("raw data that is no text", raw_data, b"\xff\xfe\x00", "not a CSV file in UTF-8|missing column"),
    ("raw data that is a program", raw_data, b"\x7fELF" + bytes(500), "not a CSV|missing column|no rows"),
    ("columns that colour the log", raw_data, RED.encode() + b"x,b\n1,2\n", r"missing column.*\\x1b"),
    ("rows of other lengths", labelled_rows, "age,label\n1,bad\n2\n", "row 3 .* another number of values"),
    ("a sample without its target", labelled_rows, "a,b\n1,2\n", "no column label"),
    # the monitor, which reads what callers of the endpoint sent
    ("captured: deep JSON", captured_traffic, ("application/json", DEEP), ""),
    ("captured: deep lists", captured_traffic, ("application/json", "[" * 900 + "]" * 900), ""),
    (
        "captured: a number of 400 digits",
        captured_traffic,
        ("application/json", f'{{"age": {"9" * 400}}}'),
        "",
    ),
    ("captured: the largest numbers", captured_traffic, ("text/csv", "1.7e308,m\n-1.7e308,m"), ""),
    ("captured: a separator of lines", captured_traffic, ("text/csv", "30,m\u2028x"), ""),
    (
        "captured: a column that forges a line",
        captured_traffic,
        (
            "application/json",
            json.dumps({"instances": [{"x\nreport: fine": 1, RED: 2, "age": 1, "sex": "m"}] * 9}),
        ),
        "",
    ),
    (
        "captured: a thousand columns",
        captured_traffic,
        ("application/json", json.dumps({f"c{n}": 1 for n in range(1000)})),
        "",
    ),
    # git
    ("a command as a commit's message", a_commit, {"commitMessage": f"{TOUCH} `touch {CANARY}`"}, ""),
    (
        "a message that forges trailers",
        a_commit,
        {"commitMessage": "x\n\nSigned-off-by: ceo <ceo@example.com>"},
        "",
    ),
    ("a message with colours", a_commit, {"commitMessage": f"{RED}x"}, ""),
    ("a file above the repository", a_commit, {"path": "../../etc/passwd"}, "is not valid"),
    ("a hook of git", a_commit, {"path": ".git/hooks/post-receive"}, "is not valid"),
    ("a file from the root", a_commit, {"path": "/etc/passwd"}, "is not valid"),
    ("a branch named as a command", a_pushed_branch, "$(touch${IFS}x)", ""),
    ("a branch with a semicolon", a_pushed_branch, "main;id", ""),
    ("a branch that looks like main", a_pushed_branch, f"m{CYRILLIC_A}in", ""),
    ("a branch that looks like a reference", a_pushed_branch, "refs/heads/main", ""),
    ("a branch that climbs", a_pushed_branch, "../../main", "not a valid|invalid|refspec"),
    ("a command as a title", a_pull_request, f'{TOUCH}"}}, "x": {{"', ""),
    ("a title with a line", a_pull_request, "Fine\nBcc: b@example.org", ""),
    ("an archive that climbs out", a_seed_archive, "../../evil", "evil|path|failed"),
    ("an archive with a hook of git", a_seed_archive, ".git/hooks/pre-commit", "git|path|failed"),
]


# -- the test ------------------------------------------------------------------------------------------------
def check_text(text: str) -> None:
    """No traceback, nothing hidden, and only the first line begins at the margin."""
    assert "Traceback" not in text
    assert not [one for one in text if console.is_hidden(one) and one not in "\n\t"], repr(text)


@pytest.fixture
def world(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Iterator[World]:
    yield World(tmp_path, capsys, monkeypatch, request.getfixturevalue)
    assert not CANARY.exists(), "the input was run"


@pytest.fixture(scope="module")
def template_bucket(cloud: Any) -> str:
    """The three templates that people launch, in S3."""
    bucket = cloud.bucket()
    for name in LAUNCH:
        cloud.client("s3").upload_file(str(ROOT / "mlops-cfn" / name), bucket, name)
    return bucket


@pytest.fixture(scope="module")
def build_project(cloud: Any) -> tuple[Any, str]:
    """CodeBuild, and a project that hands its variable to a program as the buildspecs do."""
    command = 'python -c "import sys; print(sys.argv[1:])" --commit "$COMMIT_ID"'
    spec = json.dumps({"version": "0.2", "phases": {"build": {"commands": [command]}}}, indent=1)
    client, name = cloud.client("codebuild"), cloud.name("hostile")
    client.create_project(
        name=name,
        source={"type": "NO_SOURCE", "buildspec": spec},
        artifacts={"type": "NO_ARTIFACTS"},
        environment={"type": "LINUX_CONTAINER", "image": "x", "computeType": "BUILD_GENERAL1_SMALL"},
        serviceRole=cloud.role("codebuild"),
    )
    return client, name


@pytest.fixture(scope="module")
def seed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., dict[str, Any]]]:
    """A project with a trained model; its programs answer one request at a time."""
    root = tmp_path_factory.mktemp("seed") / "project"
    compose.write_folder(compose.compose("sklearn", "realtime"), root)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("SM_", "PYTHONPATH"))} | {
        "OMP_NUM_THREADS": "1"
    }
    python = [sys.executable]
    steps = (
        ["src/preprocess.py", "--input", "data/german_credit.csv", "--output", "build/data"],
        ["src/train.py", "--train", "build/data/train", "--validation", "build/data/validation"],
    )
    for step in steps:
        more = ["--model-dir", "build/model"] if "train.py" in step[0] else []
        subprocess.run([*python, *step, *more], cwd=root, env=env, check=True, capture_output=True)
    process = subprocess.Popen(
        [*python, str(Path(__file__).with_name("seed_driver.py"))],
        cwd=root,
        env=env | {"SM_MODEL_DIR": "build/model"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def do(**request: Any) -> dict[str, Any]:
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    yield do
    process.stdin.close()
    process.wait(20)


@pytest.fixture(scope="module", autouse=True)
def everything_is_up(seed: Any, template_bucket: Any, build_project: Any) -> None:
    """What takes time to start is there before the first input, so that only inputs are timed."""


@pytest.mark.parametrize(
    ("boundary", "value", "refusal"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE]
)
def test_hostile_input(world: World, boundary: Any, value: Any, refusal: str) -> None:
    begun = time.monotonic()
    said = boundary(world, value)
    check_text(said)
    if refusal:
        assert re.search(refusal, said), f"not refused as expected: {said[:500] or 'it was taken'}"
    else:
        assert said == "", f"refused: {said[:500]}"
    assert len(said) < 5000, "a refusal is a sentence"
    assert time.monotonic() - begun < SOON


def test_the_table_has_at_least_forty_inputs_and_each_name_once() -> None:
    names = [row[0] for row in TABLE]
    assert len(names) == len(set(names)) >= 40
    assert sum(bool(row[3]) for row in TABLE) >= 40


def test_every_refusal_pattern_can_fail() -> None:
    """An expectation that matches anything proves nothing."""
    for name, _, _, refusal in TABLE:
        assert not refusal or not re.search(refusal, "ok"), name


# -- what interpolates ---------------------------------------------------------------------------------------
SAFE_VARIABLES = {
    "Source.CommitId",
    "ProjectSource.CommitId",
    "Select.MODEL_PACKAGE_ARN",
    "Select.MODEL_VERSION",
    "Select.DEPLOY",
    "Select.LIVE_MODEL_PACKAGE_ARN",
    "Select.SHADOW",
    "Select.API",
    "StagingTest.SUMMARY",  # release_notes.harmless strips it; shown to people, and never an argument
    "StagingTest.REPORT_URL",
}


def free_texts(text: str) -> set[str]:
    """Variables of CodePipeline in a template that people can fill with any text."""
    return set(re.findall(r"#\{([\w.]+)\}", text)) - SAFE_VARIABLES


def test_no_message_or_branch_becomes_part_of_a_command_or_a_configuration() -> None:
    for path in (ROOT / "mlops-cfn").rglob("*.yaml"):
        found = free_texts(path.read_text())
        assert {one for one in found if not one.startswith("codepipeline.")} == set(), path.name
        for line in path.read_text().splitlines():
            assert "StagingTest.SUMMARY" not in line or line.strip().startswith("CustomData:"), path.name
    assert free_texts('"value":"#{ProjectSource.CommitMessage}"') == {"ProjectSource.CommitMessage"}
    assert free_texts("#{Source.BranchName} #{ProjectSource.CommitId}") == {"Source.BranchName"}


def unquoted(command: str) -> list[str]:
    """Variables that a shell would split, or commands in a command."""
    outside = re.sub(r'"[^"]*"', "", command)
    return re.findall(r"\$\w+|\$\{[^}]*\}|`[^`]*`|\$\([^)]*\)|\beval\b|\bsh -c\b", outside) + re.findall(
        r"`[^`]*`|\$\([^)]*\)", command
    )


def test_buildspecs_quote_every_variable() -> None:
    for path in (ROOT / "mlops-cicd/buildspecs").glob("*.yml"):
        for phase in yaml.safe_load(path.read_text())["phases"].values():
            for command in phase["commands"]:
                assert unquoted(command) == [], f"{path.name}: {command}"
    for command in ("echo $X", "python x --m ${X}", "x `id`", 'x "$(id)"', "eval x", "sh -c x"):
        assert unquoted(command), command


def shells(source: str) -> list[str]:
    """Calls that hand a text to a shell, run a text as a program, or let YAML make objects."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            options = {one.arg: ast.unparse(one.value) for one in node.keywords}
            if name in ("os.system", "os.popen", "eval", "exec") or options.get("shell", "False") != "False":
                found.append(ast.unparse(node))
            if name == "yaml.load" and len(node.args) < 2 and "Loader" not in options:
                found.append(ast.unparse(node))
    return found


def test_no_program_hands_a_text_to_a_shell() -> None:
    sources = [*(ROOT / "mlops-cicd").rglob("*.py"), *(ROOT / "mlops-cfn").rglob("*.py")]
    sources += [*(ROOT / "seedcode-repo").rglob("*.py"), *(ROOT / "scripts").glob("*.py")]
    for path in sources:
        assert shells(path.read_text()) == [], path.name
    for source in ("run(x, shell=True)", "os.system(x)", "eval(x)", "yaml.load(text)"):
        assert shells(source), source


def test_mlops_yml_is_read_in_one_place() -> None:
    """A second reader would have rules of its own."""
    for path in (ROOT / "mlops-cicd/mlops_cicd").glob("*.py"):
        if path.name not in ("config.py", "render.py"):  # render reads templates
            assert "yaml" not in re.findall(r"^import (\w+)", path.read_text(), re.MULTILINE), path.name
    assert config.LARGEST <= 1024 * 1024


def test_rows_for_spreadsheets_are_never_written() -> None:
    """No report is a CSV file with texts of callers in it, so no formula can reach a spreadsheet."""
    for path in (ROOT / "mlops-cicd/monitor").glob("*.py"):
        assert "csv.writer" not in path.read_text()
