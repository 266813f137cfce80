"""CodeBuild: buildspecs that really run, with CodeBuild's phases, variables, failures, logs and events."""

from __future__ import annotations

import textwrap
import time
from typing import Any

import pytest
from botocore.exceptions import ClientError

IMAGE = {
    "type": "LINUX_CONTAINER",
    "image": "aws/codebuild/amazonlinux-x86_64-standard:6.0",
    "computeType": "BUILD_GENERAL1_SMALL",
}


@pytest.fixture(scope="module")
def role(cloud) -> str:
    return cloud.role("codebuild")


@pytest.fixture
def build(cloud, role):
    """Make a project of a buildspec, run it to the end; the build and its log."""

    def run(text: str, start: dict[str, Any] | None = None, **project: Any) -> tuple[dict[str, Any], str]:
        client, name = cloud.client("codebuild"), cloud.name("project")
        settings = {"source": {"type": "NO_SOURCE", "buildspec": textwrap.dedent(text)}}
        settings |= {"artifacts": {"type": "NO_ARTIFACTS"}, "environment": IMAGE, "serviceRole": role}
        client.create_project(name=name, **{**settings, **project})
        return finish(cloud, client.start_build(projectName=name, **(start or {}))["build"]["id"])

    return run


def finish(cloud, identifier: str) -> tuple[dict[str, Any], str]:
    client = cloud.client("codebuild")

    def done() -> dict[str, Any] | None:
        found = client.batch_get_builds(ids=[identifier])["builds"][0]
        return found if found["buildComplete"] else None

    record = cloud.wait(done, 60, identifier)
    where = record["logs"]
    events = cloud.client("logs").get_log_events(
        logGroupName=where["groupName"], logStreamName=where["streamName"], startFromHead=True
    )["events"]
    return record, "".join(e["message"] for e in events)


def phases(record: dict[str, Any]) -> dict[str, str]:
    return {p["phaseType"]: p.get("phaseStatus", "") for p in record["phases"]}


def context(record: dict[str, Any], phase: str) -> dict[str, str]:
    return next(p for p in record["phases"] if p["phaseType"] == phase)["contexts"][0]


def test_one_shell_through_all_phases(build):
    record, log = build("""
        version: 0.2
        env:
          variables: {PLAIN: 1.10, WHO: spec}
          exported-variables: [RESULT]
        phases:
          install:
            runtime-versions: {python: 3.13}
            commands: ['NOT_EXPORTED=7; cd /tmp', 'greet() { echo "hello $1"; }']
          build:
            commands:
              - greet "$WHO $PLAIN $NOT_EXPORTED $PWD"
              - export RESULT=made
          post_build:
            commands: ['echo "after $RESULT succeeding=$CODEBUILD_BUILD_SUCCEEDING"']
    """)
    assert record["buildStatus"] == "SUCCEEDED"
    assert "\nhello spec 1.10 7 /tmp\n" in log
    assert "\nafter made succeeding=1\n" in log
    assert record["exportedEnvironmentVariables"] == [{"name": "RESULT", "value": "made"}]
    assert list(phases(record)) == [
        "SUBMITTED",
        "QUEUED",
        "PROVISIONING",
        "DOWNLOAD_SOURCE",
        "INSTALL",
        "PRE_BUILD",
        "BUILD",
        "POST_BUILD",
        "UPLOAD_ARTIFACTS",
        "FINALIZING",
        "COMPLETED",
    ]
    assert "Running command greet" in log
    assert record["logs"]["groupName"] == f"/aws/codebuild/{record['projectName']}"


def test_failed_build_phase_names_the_command_and_goes_on_to_post_build(build):
    record, log = build("""
        version: 0.2
        phases:
          build:
            commands: ['echo before', 'false', 'echo never']
            finally: ['echo finally']
          post_build:
            commands: ['echo "post $CODEBUILD_BUILD_SUCCEEDING"']
    """)
    assert record["buildStatus"] == "FAILED"
    assert context(record, "BUILD") == {
        "statusCode": "COMMAND_EXECUTION_ERROR",
        "message": "Error while executing command: false. Reason: exit status 1",
    }
    assert phases(record)["POST_BUILD"] == "SUCCEEDED"
    assert log.index("\nfinally\n") < log.index("\npost 0\n")
    assert "\nnever\n" not in log


@pytest.mark.parametrize("phase", ["install", "pre_build"])
def test_failure_before_build_ends_it(build, phase):
    record, log = build(f"""
        version: 0.2
        phases:
          {phase}: {{commands: ['exit 4']}}
          build: {{commands: ['echo never']}}
    """)
    assert record["buildStatus"] == "FAILED"
    assert "exit status 4" in context(record, phase.upper())["message"]
    assert "BUILD" not in phases(record)
    assert "\nnever\n" not in log


def test_exported_variables_outlive_a_shell_that_exits(build):
    _, log = build("""
        version: 0.2
        phases:
          build: {commands: ['export KEPT=yes; cd /tmp; exit 3']}
          post_build: {commands: ['echo "kept=$KEPT in $PWD"']}
    """)
    assert "\nkept=yes in /tmp\n" in log


def test_variables_come_from_call_project_parameter_and_secret(cloud, build):
    name = cloud.name("/test/value")
    cloud.client("ssm").put_parameter(Name=f"/{name}", Value="parameter", Type="String")
    secret = cloud.client("secretsmanager").create_secret(
        Name=cloud.name("s"), SecretString='{"key": "hidden"}'
    )
    variables = [
        {"name": "OVER", "value": "project"},
        {"name": "MINE", "value": "mine"},
        {"name": "FROM_SSM", "value": f"/{name}", "type": "PARAMETER_STORE"},
    ]
    _, log = build(
        f"""
        version: 0.2
        env:
          variables: {{OVER: spec, MINE: spec, SPEC: spec}}
          parameter-store: {{P: /{name}}}
          secrets-manager: {{S: '{secret["Name"]}:key'}}
        phases: {{build: {{commands: ['echo "$OVER $MINE $SPEC $FROM_SSM $P $S"']}}}}
        """,
        {"environmentVariablesOverride": [{"name": "OVER", "value": "call"}]},
        environment={**IMAGE, "environmentVariables": variables},
    )
    assert "\ncall mine spec parameter parameter hidden\n" in log


def test_build_runs_under_its_role_and_not_in_the_clouds_environment(build, role):
    _, log = build("""
        version: 0.2
        phases:
          build:
            commands:
              - aws sts get-caller-identity --query Arn --output text
              - echo "pythonpath=[$PYTHONPATH] home=$HOME"
              - 'python -c "import sys; print(sys.prefix != sys.base_prefix)"'
              - python -c "import ministack" || echo "not the cloud's packages"
    """)
    assert f"assumed-role/{role.rpartition('/')[2]}/AWSCodeBuild-" in log
    assert "\npythonpath=[] home=/" in log
    assert "\nTrue\n" in log
    assert "\nnot the cloud's packages\n" in log


BAD_SPECS = [
    ("unknown key", "version: 0.2\nphase: {build: {commands: [a]}}", "unknown key phase"),
    (
        "no command list",
        "version: 0.2\nphases:\n  build:\n    commands:\n      - echo: a",
        "Expected Commands[0] to be of string type",
    ),
    ("no phases", "version: 0.2\n", "at least one phase"),
    ("not YAML", "version: 0.2\nphases: [", "expected the node content"),
    ("old version", "version: 0.1\nphases: {build: {commands: [a]}}", "version is '0.1'"),
]


@pytest.mark.parametrize("text,words", [b[1:] for b in BAD_SPECS], ids=[b[0] for b in BAD_SPECS])
def test_bad_buildspec_fails_in_download_source(build, text, words):
    record, _ = build(text)
    found = context(record, "DOWNLOAD_SOURCE")
    assert found["statusCode"] == "YAML_FILE_ERROR"
    assert words in found["message"]


def test_missing_parameter_names_it(build):
    record, _ = build("""
        version: 0.2
        env: {parameter-store: {P: /no/such/parameter}}
        phases: {build: {commands: ['echo']}}
    """)
    assert "parameter does not exist: /no/such/parameter" in context(record, "DOWNLOAD_SOURCE")["message"]


def test_sources_and_artifacts(cloud, build, pack):
    bucket, repository, s3 = cloud.bucket(), cloud.name("repo"), cloud.client("s3")
    s3.put_object(Bucket=bucket, Key="in.zip", Body=pack({"data/x.txt": "x", "buildspec.yml": "never"}))
    codecommit = cloud.client("codecommit")
    codecommit.create_repository(repositoryName=repository)
    spec = """\
version: 0.2
phases:
  build:
    commands:
      - mkdir out && cp $CODEBUILD_SRC_DIR_data/data/x.txt out && touch out/y.pyc
      - echo "at $CODEBUILD_RESOLVED_SOURCE_VERSION"
artifacts:
  base-directory: out
  files: ['**/*']
  exclude-paths: ['*.pyc']
"""
    commit = codecommit.create_commit(
        repositoryName=repository,
        branchName="main",
        putFiles=[{"filePath": "ci/spec.yml", "fileContent": spec.encode()}],
    )["commitId"]
    url = codecommit.get_repository(repositoryName=repository)["repositoryMetadata"]["cloneUrlHttp"]
    record, log = build(
        "",
        {"sourceVersion": "refs/heads/main"},
        source={"type": "CODECOMMIT", "location": url, "buildspec": "ci/spec.yml"},
        secondarySources=[{"type": "S3", "location": f"{bucket}/in.zip", "sourceIdentifier": "data"}],
        artifacts={"type": "S3", "location": bucket, "path": "made", "name": "result"},
    )
    assert record["buildStatus"] == "SUCCEEDED", log
    assert record["resolvedSourceVersion"] == commit
    assert f"\nat {commit}\n" in log
    keys = [o["Key"] for o in s3.list_objects_v2(Bucket=bucket, Prefix="made/")["Contents"]]
    assert keys == ["made/result/x.txt"]


def test_artifacts_that_match_nothing_fail_the_build(cloud, build):
    record, _ = build(
        "version: 0.2\nphases: {build: {commands: ['true']}}\nartifacts: {files: ['no/*']}\n",
        artifacts={"type": "S3", "location": cloud.bucket()},
    )
    assert record["buildStatus"] == "FAILED"
    assert "no matching artifact paths found" in context(record, "UPLOAD_ARTIFACTS")["message"]


def test_stopping_ends_what_the_build_started(cloud, role):
    client, name = cloud.client("codebuild"), cloud.name("project")
    spec = "version: 0.2\nphases: {build: {commands: ['echo begun', 'sleep 300']}}"
    client.create_project(
        name=name,
        source={"type": "NO_SOURCE", "buildspec": spec},
        artifacts={"type": "NO_ARTIFACTS"},
        environment=IMAGE,
        serviceRole=role,
    )
    began = time.monotonic()
    identifier = client.start_build(projectName=name)["build"]["id"]
    cloud.wait(lambda: client.batch_get_builds(ids=[identifier])["builds"][0]["currentPhase"] == "BUILD")
    client.stop_build(id=identifier)
    record, log = finish(cloud, identifier)
    assert record["buildStatus"] == "STOPPED"
    assert time.monotonic() - began < 30


def test_events(cloud, build):
    events = cloud.listen(**{"source": ["aws.codebuild"], "detail-type": ["CodeBuild Build State Change"]})
    record, _ = build("version: 0.2\nphases: {build: {commands: ['false']}}")

    def mine() -> list[dict[str, Any]]:
        return [e["detail"] for e in events() if e["detail"]["build-id"] == record["arn"]]

    cloud.wait(lambda: len(mine()) == 2)
    assert {d["build-status"] for d in mine()} == {"IN_PROGRESS", "FAILED"}
    assert {d["project-name"] for d in mine()} == {record["projectName"]}


REFUSED = [
    (
        "role without trust",
        lambda cloud: {"serviceRole": cloud.role("lambda")},
        "not authorized to perform: sts:AssumeRole",
    ),
    (
        "role that is missing",
        lambda cloud: {"serviceRole": f"arn:aws:iam::{cloud.account}:role/none"},
        "does not exist",
    ),
    ("half a pipeline", lambda cloud: {"source": {"type": "CODEPIPELINE"}}, "must both be CODEPIPELINE"),
    (
        "unknown subnet",
        lambda cloud: {
            "vpcConfig": {"vpcId": "vpc-1", "subnets": ["subnet-0"], "securityGroupIds": ["sg-0"]}
        },
        "Invalid vpc config",
    ),
    ("bad size", lambda cloud: {"environment": {**IMAGE, "computeType": "HUGE"}}, "enum value set"),
]


@pytest.mark.parametrize("more,words", [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_project_is_refused(cloud, role, more, words):
    settings = {
        "source": {"type": "NO_SOURCE", "buildspec": "version: 0.2\n"},
        "artifacts": {"type": "NO_ARTIFACTS"},
    }
    settings |= {"environment": IMAGE, "serviceRole": role, **more(cloud)}
    with pytest.raises(ClientError) as caught:
        cloud.client("codebuild").create_project(name=cloud.name("bad"), **settings)
    assert words in str(caught.value)


def test_build_of_a_pipelines_project_is_not_started_by_hand(cloud, role):
    client, name = cloud.client("codebuild"), cloud.name("project")
    kinds = {"source": {"type": "CODEPIPELINE"}, "artifacts": {"type": "CODEPIPELINE"}}
    client.create_project(name=name, environment=IMAGE, serviceRole=role, **kinds)
    with pytest.raises(client.exceptions.InvalidInputException):
        client.start_build(projectName=name)


def test_stack_creates_updates_and_deletes_a_project(cloud, role):
    def project(**more: Any) -> dict[str, Any]:
        properties = {
            "ServiceRole": role,
            "Artifacts": {"Type": "NO_ARTIFACTS"},
            "TimeoutInMinutes": "30",
            **more,
            "Source": {
                "Type": "NO_SOURCE",
                "BuildSpec": "version: 0.2\nphases: {build: {commands: ['true']}}\n",
            },
            "Environment": {
                "Type": "LINUX_CONTAINER",
                "Image": IMAGE["image"],
                "ComputeType": IMAGE["computeType"],
                "PrivilegedMode": True,
                "EnvironmentVariables": [{"Name": "A", "Value": "1"}],
            },
        }
        return {"Project": {"Type": "AWS::CodeBuild::Project", "Properties": properties}}

    outputs = {"Name": {"Value": {"Ref": "Project"}}, "Arn": {"Value": {"Fn::GetAtt": ["Project", "Arn"]}}}
    stack = cloud.stack(project(Tags=[{"Key": "k", "Value": "v"}]), outputs)
    client, name = cloud.client("codebuild"), cloud.outputs(stack)["Name"]
    found = client.batch_get_projects(names=[name])["projects"][0]
    assert name.startswith("Project-"), "CloudFormation makes the name of the logical id alone"
    assert found["arn"] == cloud.outputs(stack)["Arn"]
    assert found["timeoutInMinutes"] == 30
    assert {"key": "k", "value": "v"} in found["tags"]
    assert found["source"]["buildspec"].startswith("version: 0.2")
    cloud.stack(project(Description="changed"), outputs, name=stack)
    assert cloud.outputs(stack)["Name"] == name
    assert client.batch_get_projects(names=[name])["projects"][0]["description"] == "changed"
    assert cloud.delete_stack(stack) == ""
    assert client.batch_get_projects(names=[name])["projectsNotFound"] == [name]
