"""ModelRepoPipeline's build: templates linted, a release published, persona repositories filled by git."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlops_cicd import platform_release, platform_sync

from .conftest import ROOT, Session

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def platform(tmp_path: Path) -> Path:
    """A platform repository with one template and the schema."""
    root = tmp_path / "platform"
    for name in platform_sync.REPOSITORIES:
        (root / name).mkdir(parents=True)
        (root / name / "README.md").write_text(f"# {name}\n")
    (root / "mlops-cfn/infra").mkdir()
    (root / "mlops-cfn/infra/topic.yaml").write_text(
        "AWSTemplateFormatVersion: '2010-09-09'\nResources:\n  Topic:\n    Type: AWS::SNS::Topic\n"
    )
    (root / "mlops-cicd/schema").mkdir()
    shutil.copy(ROOT / "mlops-cicd/schema/mlops.schema.json", root / "mlops-cicd/schema")
    return root


# ------------------------------------------------------------ release


class Publisher:
    """Stands for scripts/publish.py, and for cfn-lint unless the test wants the real one."""

    def __init__(self, code: int = 0, write: bool = True, lint: bool = False) -> None:
        self.code, self.write, self.lint, self.calls = code, write, lint, []

    def __call__(self, command: list[str], **options: Any) -> Any:
        if "cfnlint" in " ".join(command):
            assert command[-1] == "mlops-cfn/infra/topic.yaml"
            return subprocess.run(command, **options) if self.lint else SimpleNamespace(returncode=0)
        self.calls.append((command, options))
        if self.write:
            out = Path(command[command.index("--out") + 1])
            out.mkdir(parents=True)
            (out / "1-infra.yaml").write_text("Resources: {}\n")
            (out / "release.json").write_text(json.dumps({"version": "1.2.3"}))
        return SimpleNamespace(returncode=self.code)


def release(root: Path, publisher: Publisher) -> int:
    return platform_release.main(["--root", str(root), "--bucket", "releases", "--commit", COMMIT], publisher)


def test_a_right_platform_is_published_under_its_commit(
    platform: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publisher = Publisher()
    assert release(platform, publisher) == 0
    ((command, options),) = publisher.calls
    assert command[1:] == [
        "scripts/publish.py",
        "--out",
        str(platform / "build/release"),
        "--bucket",
        "releases",
    ]
    assert options["cwd"] == platform
    assert options["env"]["CODEBUILD_RESOLVED_SOURCE_VERSION"] == COMMIT
    assert "release 1.2.3 is published" in capsys.readouterr().out


def test_a_misspelt_property_stops_the_release(platform: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = platform / "mlops-cfn/infra/topic.yaml"
    path.write_text(path.read_text() + "    Properties:\n      DisplayNam: x\n")
    publisher = Publisher(lint=True)
    assert release(platform, publisher) == 1
    assert publisher.calls == []
    captured = capfd.readouterr()
    assert "DisplayNam" in captured.out
    assert "cfn-lint found mistakes" in captured.err


def test_a_broken_schema_stops_the_release(platform: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (platform / "mlops-cicd/schema/mlops.schema.json").write_text('{"type": "objekt"}')
    assert release(platform, Publisher()) == 1
    assert "mlops-cicd/schema/mlops.schema.json is no JSON schema" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("publisher", "message"),
    [
        (Publisher(code=1, write=False), "scripts/publish.py failed"),
        (Publisher(write=False), "wrote no release.json or 1-infra.yaml"),
    ],
)
def test_a_failed_publish_is_told(
    platform: Path, capsys: pytest.CaptureFixture[str], publisher: Publisher, message: str
) -> None:
    assert release(platform, publisher) == 1
    assert message in capsys.readouterr().err


def test_a_folder_without_templates_is_no_platform(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mlops-cfn").mkdir()
    assert release(tmp_path, Publisher()) == 1
    assert "holds no template" in capsys.readouterr().err


# ------------------------------------------------------------ sync


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=ana", "-c", "user.email=ana@example.com", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


class CodeCommit:
    """Bare git repositories on disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in platform_sync.REPOSITORIES:
            (folder / name).mkdir(parents=True)
            git(folder / name, "init", "--quiet", "--bare", "--initial-branch=main")

    def get_repository(self, repositoryName: str) -> dict[str, Any]:  # noqa: N803
        return {"repositoryMetadata": {"cloneUrlHttp": f"file://{self.folder / repositoryName}"}}

    def commits(self, name: str) -> list[str]:
        return git(self.folder / name, "log", "--format=%an %s", "main").splitlines()

    def files(self, name: str) -> list[str]:
        return git(self.folder / name, "ls-tree", "-r", "--name-only", "main").splitlines()


@pytest.fixture
def codecommit(tmp_path: Path) -> CodeCommit:
    return CodeCommit(tmp_path / "codecommit")


def synchronise(root: Path, codecommit: CodeCommit, **options: Any) -> int:
    argv = ["--root", str(root), "--commit", COMMIT]
    return platform_sync.main(argv, Session(codecommit=codecommit), **options)


def test_empty_repositories_are_filled_and_then_left_alone(platform: Path, codecommit: CodeCommit) -> None:
    (platform / "seedcode-repo/.gitignore").write_text("hidden/\n")
    (platform / "seedcode-repo/hidden").mkdir()
    (platform / "seedcode-repo/hidden/x.txt").write_text("a source, though ignored")
    (platform / "seedcode-repo/__pycache__").mkdir()
    (platform / "seedcode-repo/__pycache__/x.pyc").write_text("")
    assert synchronise(platform, codecommit) == 0
    assert codecommit.commits("seedcode-repo") == ["MLOps platform Platform at commit 0123456789ab"]
    assert codecommit.files("seedcode-repo") == [".gitignore", "README.md", "hidden/x.txt"]
    assert synchronise(platform, codecommit) == 0
    assert len(codecommit.commits("seedcode-repo")) == 1


def test_a_change_reaches_its_repository_only(platform: Path, codecommit: CodeCommit) -> None:
    assert synchronise(platform, codecommit) == 0
    (platform / "mlops-cicd/README.md").unlink()
    (platform / "mlops-cicd/run.sh").write_text("#!/bin/sh\n")
    (platform / "mlops-cicd/run.sh").chmod(0o755)
    assert synchronise(platform, codecommit) == 0
    assert [len(codecommit.commits(name)) for name in platform_sync.REPOSITORIES] == [1, 2, 1]
    assert codecommit.files("mlops-cicd") == ["run.sh", "schema/mlops.schema.json"]
    assert git(codecommit.folder / "mlops-cicd", "ls-tree", "main", "run.sh").startswith("100755")


def test_a_personas_commit_stays_in_the_history(
    platform: Path, codecommit: CodeCommit, tmp_path: Path
) -> None:
    assert synchronise(platform, codecommit) == 0
    git(tmp_path, "clone", "--quiet", str(codecommit.folder / "mlops-cfn"), "work")
    (tmp_path / "work/mine.txt").write_text("x")
    git(tmp_path / "work", "add", ".")
    git(tmp_path / "work", "commit", "--quiet", "-m", "mine")
    git(tmp_path / "work", "push", "--quiet")
    assert synchronise(platform, codecommit) == 0
    assert "mine.txt" not in codecommit.files("mlops-cfn")
    assert "ana mine" in codecommit.commits("mlops-cfn")


def test_a_push_that_loses_a_race_is_tried_again(
    platform: Path, codecommit: CodeCommit, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = iter([1, 0, 0, 0])

    def run(command: list[str], **options: Any) -> Any:
        if "push" in command and next(refused):
            return SimpleNamespace(returncode=1, stdout="", stderr="rejected")
        return subprocess.run(command, **options)

    assert synchronise(platform, codecommit, run=run) == 0
    assert "trying again" in capsys.readouterr().out
    assert len(codecommit.commits("mlops-cfn")) == 1


def test_a_refused_push_is_told(
    platform: Path, codecommit: CodeCommit, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(command: list[str], **options: Any) -> Any:
        if "push" in command:
            return SimpleNamespace(returncode=1, stdout="", stderr="403 denied")
        return subprocess.run(command, **options)

    assert synchronise(platform, codecommit, run=run) == 1
    assert "git push to file://" in (message := capsys.readouterr().err)
    assert "403 denied" in message


def test_git_takes_its_credentials_from_the_role() -> None:
    calls: list[Any] = []

    def run(command: list[str], **options: Any) -> Any:
        calls.append((command, options))
        return SimpleNamespace(returncode=0)

    platform_sync.git(run, Path(), "status")
    ((command, options),) = calls
    assert "credential.helper=!aws codecommit credential-helper $@" in command
    assert "credential.UseHttpPath=true" in command
    assert options["env"]["GIT_TERMINAL_PROMPT"] == "0"
