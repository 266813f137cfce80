"""Images are tagged by content, built only when ECR lacks the tag, and a failure names its Dockerfile."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest

from mlops_cicd import images, sdk
from mlops_cicd.console import Fault

from .conftest import ECR, NAME, PROJECT_ID, Session

BASE = "683313688378.dkr.ecr.us-east-1.amazonaws.com/sagemaker-scikit-learn:1.9-0-cpu-py3"


# ------------------------------------------------------------ content hash


@pytest.mark.parametrize(
    ("dockerfile", "expected"),
    [
        ("COPY a b /x/", ["a", "b"]),
        ("copy a /x", ["a"]),
        ('COPY ["with space.txt", "/x/"]', ["with space.txt"]),
        ("COPY --chown=root:root --chmod=755 a /x", ["a"]),
        ("FROM x AS y\nCOPY --from=y /a /b\nCOPY c /d", ["c"]),
        ("ADD https://example.com/a.tgz /x\nADD b /x", ["b"]),
        ("COPY a \\\n  # a remark\n  b \\\n  /x/\nRUN echo COPY c d", ["a", "b"]),
        ("# COPY a /x\nRUN true", []),
    ],
)
def test_what_a_dockerfile_copies(dockerfile: str, expected: list[str]) -> None:
    assert images.sources(dockerfile) == expected


def tag(project_dir: Path, **arguments: str) -> str:
    return images.content_tag(project_dir, "training", arguments or {"BASE_IMAGE": BASE})


def test_the_tag_follows_the_content_and_nothing_else(project_dir: Path) -> None:
    first = tag(project_dir)
    assert len(first) == 16
    (project_dir / "README.md").write_text("not in the image")
    (project_dir / "src/__pycache__").mkdir()
    (project_dir / "src/__pycache__/train.pyc").write_bytes(b"x")
    (project_dir / "src/train.py").touch()
    assert tag(project_dir) == first
    (project_dir / "src/train.py").write_text("print('changed')\n")
    assert tag(project_dir) != first


@pytest.mark.parametrize("change", ["dockerfile", "new file", "mode", "rename", "base"])
def test_everything_that_goes_into_an_image_changes_its_tag(project_dir: Path, change: str) -> None:
    first = tag(project_dir)
    source = project_dir / "src/train.py"
    base = BASE
    if change == "dockerfile":
        path = project_dir / "containers/training/Dockerfile"
        path.write_text(path.read_text() + "RUN true\n")
    elif change == "new file":
        (project_dir / "src/more.py").write_text("")
    elif change == "mode":
        source.chmod(0o755)
    elif change == "rename":
        source.rename(project_dir / "src/fit.py")
    else:
        base = BASE.replace("1.9-0", "1.9-1")
    assert tag(project_dir, BASE_IMAGE=base) != first


def test_a_copy_of_nothing_names_the_dockerfile(project_dir: Path) -> None:
    (project_dir / "containers/training/Dockerfile").write_text("FROM ${BASE_IMAGE}\nCOPY gone.py /x\n")
    with pytest.raises(
        Fault, match="containers/training/Dockerfile copies gone.py; the repository has no such"
    ):
        tag(project_dir)


def test_the_whole_context_may_be_copied(project_dir: Path) -> None:
    (project_dir / "containers/training/Dockerfile").write_text("FROM ${BASE_IMAGE}\nCOPY . /x\n")
    first = tag(project_dir)
    (project_dir / "README.md").write_text("now it is in the image")
    assert tag(project_dir) != first


# ------------------------------------------------------------ base image


@pytest.mark.parametrize("image", ["preprocessing", "training", "inference"])
def test_the_base_image_is_sagemakers_own_of_the_region(image: str) -> None:
    framework = {"name": "sklearn", "version": "1.9-0"}
    assert sdk.base_image(framework, image, "us-east-1", "ml.m5.large") == BASE
    assert ".eu-west-1." in sdk.base_image(framework, image, "eu-west-1", "ml.m5.large")


def test_an_unknown_framework_version_names_mlops_yml() -> None:
    with pytest.raises(Fault, match=r"mlops.yml: framework sklearn 9.9-9 has no training image in us-east-1"):
        sdk.base_image({"name": "sklearn", "version": "9.9-9"}, "training", "us-east-1", "ml.m5.large")


# ------------------------------------------------------------ the stage


class Docker:
    """Records what docker is asked, and pushes to moto's registry what was built."""

    def __init__(self, fail: str = "", push_elsewhere: bool = False) -> None:
        self.fail, self.push_elsewhere = fail, push_elsewhere
        self.commands: list[list[str]] = []
        self.logins: list[tuple[str, str]] = []
        self.secrets: list[str] = []

    def run(self, command: list[str], **options: Any) -> Any:
        self.logins.append((command[-1], options["input"]))
        return SimpleNamespace(returncode=0, stdout="", stderr="")

    def execute(self, command: list[str], cwd: Path, env: Any) -> tuple[int, list[str]]:
        self.commands.append(command)
        if "--secret" in command:
            source = command[command.index("--secret") + 1].partition("src=")[2]
            self.secrets.append(Path(source).read_text())
        uri = command[command.index("-t") + 1] if command[1] == "build" else command[2]
        if self.push_elsewhere and command[1] == "build":
            push(uri)
        if self.fail and self.fail in " ".join(command):
            return 1, ["Step 3/4 : RUN false", "The command 'false' returned 1"]
        if command[1] == "push":
            push(uri)
        return 0, []


def push(uri: str) -> None:
    repository, _, image_tag = uri.partition("/")[2].rpartition(":")
    media_type = "application/vnd.docker.distribution.manifest.v2+json"
    config = {"digest": f"sha256:{image_tag:0<64}"}
    manifest = json.dumps({"schemaVersion": 2, "mediaType": media_type, "config": config})
    boto3.client("ecr").put_image(repositoryName=repository, imageManifest=manifest, imageTag=image_tag)


@pytest.fixture
def registry(aws: None) -> None:
    for name in images.IMAGES:
        boto3.client("ecr").create_repository(repositoryName=f"{NAME}/{name}")


class CodeArtifact:
    """moto has no CodeArtifact."""

    def get_authorization_token(self, **arguments: Any) -> dict[str, str]:
        assert arguments["domain"] == "mlops"
        return {"authorizationToken": "tok"}

    def get_repository_endpoint(self, **arguments: Any) -> dict[str, str]:
        assert arguments["format"] == "pypi"
        return {
            "repositoryEndpoint": "https://mlops-123456789012.d.codeartifact.us-east-1.amazonaws.com/pypi/mlops/"
        }


def build(project_dir: Path, docker: Docker, out: Path) -> int:
    argv = ["--project-id", PROJECT_ID, "--project-dir", str(project_dir), "--out", str(out)]
    argv += ["--domain", "mlops", "--repository", "mlops"]
    return images.main(argv, Session(codeartifact=CodeArtifact()), docker.run, docker.execute)


def test_three_images_are_built_once(registry: None, project_dir: Path, tmp_path: Path) -> None:
    docker, out = Docker(), tmp_path / "images.json"
    assert build(project_dir, docker, out) == 0
    written = json.loads(out.read_text())
    assert set(written) == {"preprocessing", "training", "inference"}
    assert re.fullmatch(re.escape(f"{ECR}/training@sha256:") + "[0-9a-f]{64}", written["training"])
    assert [command[1] for command in docker.commands] == ["build", "push"] * 3
    assert f"BASE_IMAGE={BASE}" in docker.commands[0]
    assert {host for host, _ in docker.logins} == {ECR.partition("/")[0], BASE.partition("/")[0]}
    assert docker.secrets[0] == (
        "[global]\nindex-url = "
        "https://aws:tok@mlops-123456789012.d.codeartifact.us-east-1.amazonaws.com/pypi/mlops/simple/\n"
    )

    again = Docker()
    assert build(project_dir, again, out) == 0
    assert again.commands == []
    assert again.logins == []
    assert json.loads(out.read_text()) == written


def test_only_the_changed_image_is_rebuilt(registry: None, project_dir: Path, tmp_path: Path) -> None:
    assert build(project_dir, Docker(), tmp_path / "i.json") == 0
    path = project_dir / "containers/inference/Dockerfile"
    path.write_text(path.read_text() + "EXPOSE 8080\n")
    docker = Docker()
    assert build(project_dir, docker, tmp_path / "i.json") == 0
    assert [command[1] for command in docker.commands] == ["build", "push"]
    assert "containers/inference/Dockerfile" in docker.commands[0]


def test_the_image_of_an_api_lies_on_the_inference_image(
    registry: None, project_dir: Path, tmp_path: Path
) -> None:
    settings, out = project_dir / "mlops.yml", tmp_path / "images.json"
    settings.write_text(settings.read_text().replace("deployment:\n", "deployment:\n  api: {auth: iam}\n"))
    folder = project_dir / "containers/api"
    folder.mkdir()
    (folder / "Dockerfile").write_text(
        "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nCOPY src/ /opt/program/\n"
        'ENTRYPOINT ["python3", "-m", "awslambdaric"]\nCMD ["api.handler"]\n'
    )
    docker = Docker()
    assert build(project_dir, docker, out) == 0
    written = json.loads(out.read_text())
    assert list(written) == [*images.IMAGES, "api"]
    made = docker.commands[-2]
    assert made[1] == "build" and f"BASE_IMAGE={written['inference']}" in made
    assert re.fullmatch(re.escape(f"{ECR}/inference:api-") + "[0-9a-f]{16}", made[made.index("-t") + 1])
    assert written["api"].startswith(f"{ECR}/inference@") and written["api"] != written["inference"]
    again = Docker()
    assert build(project_dir, again, out) == 0 and again.commands == []

    path = project_dir / "containers/inference/Dockerfile"
    path.write_text(path.read_text() + "EXPOSE 8080\n")
    assert build(project_dir, again, out) == 0
    built = [command[command.index("-f") + 1] for command in again.commands if command[1] == "build"]
    assert built == ["containers/inference/Dockerfile", "containers/api/Dockerfile"]


def test_a_failing_build_names_the_dockerfile_and_its_last_lines(
    registry: None, project_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(project_dir, Docker(fail="containers/training"), tmp_path / "i.json") == 1
    message = capsys.readouterr().err
    assert "containers/training/Dockerfile does not build (docker build ended with 1)" in message
    assert "The command 'false' returned 1" in message
    assert not (tmp_path / "i.json").exists()


def test_losing_the_race_for_an_immutable_tag_is_no_fault(
    registry: None, project_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(project_dir, Docker(fail="docker push", push_elsewhere=True), tmp_path / "i.json") == 0
    assert "another build pushed the same content first" in capsys.readouterr().out


def test_a_refused_login_says_which_registry(registry: None) -> None:
    def refuse(command: list[str], **options: Any) -> Any:
        return SimpleNamespace(returncode=1, stdout="", stderr="denied")

    with pytest.raises(Fault, match="docker login to host failed: denied"):
        images.login(boto3.client("ecr"), ["host"], refuse)


def test_the_password_goes_by_stdin(registry: None) -> None:
    calls: list[Any] = []

    def run(command: list[str], **options: Any) -> Any:
        calls.append((command, options["input"]))
        return SimpleNamespace(returncode=0)

    ecr = boto3.client("ecr")
    images.login(ecr, ["host"], run)
    token = ecr.get_authorization_token()["authorizationData"][0]["authorizationToken"]
    password = base64.b64decode(token).decode().partition(":")[2]
    assert calls == [(["docker", "login", "--username", "AWS", "--password-stdin", "host"], password)]


def test_a_commands_output_is_streamed_and_its_end_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, last = images.stream(["sh", "-c", "for i in $(seq 40); do echo line $i; done; exit 3"], tmp_path)
    assert code == 3
    assert last[-1] == "line 40"
    assert len(last) == images.LAST_LINES
    assert "line 1\n" in capsys.readouterr().out


def test_the_seed_projects_images_are_planned(aws: None, seed_project: Path) -> None:
    from mlops_cicd.config import load_config
    from mlops_cicd.settings import load_project

    project = load_project(boto3.client("ssm"), PROJECT_ID, "us-east-1")
    planned = images.plan(seed_project, project, load_config(seed_project / "mlops.yml"))
    assert len({image["tag"] for image in planned.values()}) == 3
