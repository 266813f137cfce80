"""A release depends on the sources only, and what it stamps is what the sources declare."""

from __future__ import annotations

import io
import os
import re
import subprocess
import zipfile
from pathlib import Path

import pytest
import yaml

import release

ENTRY = """\
AWSTemplateFormatVersion: '2010-09-09'
Mappings:
  Release:
    Keys:
      Bucket: unreleased
      Version: unreleased
      NetworkTemplate: unreleased
      ProjectTemplate: unreleased
      UserTemplate: unreleased
      JobTaggerFunction: unreleased
      PlatformArchive: unreleased
      CfnArchive: unreleased
      CicdArchive: unreleased
      SeedcodeArchive: unreleased
      SeedPrefix: unreleased
Resources:
  Network:
    Type: AWS::CloudFormation::Stack
    Properties:
      TemplateURL: !Sub
        - https://${Bucket}/${Key}
        - {Bucket: !FindInMap [Release, Keys, Bucket], Key: !FindInMap [Release, Keys, NetworkTemplate]}
"""
PRODUCT = """\
Mappings: {Release: {Keys: {ProjectTemplatePrefix: unreleased, NotifierFunction: unreleased}}}
Resources: {}
"""


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """The smallest platform that can be released."""
    files = {
        "mlops-cfn/1-infra.yaml": ENTRY,
        "mlops-cfn/2-smproject.yaml": PRODUCT,
        "mlops-cfn/3-user.yaml": "Resources: {}\n",
        "mlops-cfn/infra/network.yaml": "Resources: {}\n",
        "mlops-cfn/project/identity.yaml": "Resources: {}\n",
        "mlops-cfn/lambda/job_tagger/index.py": "def handler(event, context): ...\n",
        "mlops-cfn/lambda/notifier/index.py": "def handler(event, context): ...\n",
        "mlops-cicd/buildspecs/validate.yml": "version: 0.2\n",
        "seedcode-repo/base/README.md": "# Project\n",
        "seedcode-repo/frameworks/sklearn/train.py": "print(1)\n",
        "seedcode-repo/inference/realtime/serve": "#!/bin/sh\n",
        ".gitignore": "build/\n",
    }
    for name, text in files.items():
        path = tmp_path / "src" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "src"


def git(root: Path, *arguments: str) -> str:
    """Git without the configuration of this machine."""
    env = {"PATH": os.environ["PATH"], "HOME": str(root), "GIT_CONFIG_NOSYSTEM": "1"}
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.com"]
    return subprocess.run(
        ["git", "-C", str(root), *identity, *arguments], env=env, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_same_sources_give_the_same_bytes_whatever_their_times(sources: Path) -> None:
    first = release.build(sources, "1.0.0", "bucket")
    for path in sources.rglob("*"):
        os.utime(path, (1, 1))
    assert release.build(sources, "1.0.0", "bucket").objects == first.objects


def test_a_changed_file_changes_its_key_and_the_entry_and_no_other_template(sources: Path) -> None:
    before = release.build(sources, "1.0.0", "bucket")
    (sources / "mlops-cfn/lambda/job_tagger/index.py").write_text("def handler(event, context): return 1\n")
    after = release.build(sources, "1.0.0", "bucket")
    changed = {name for name in before.keys if before.keys[name] != after.keys[name]}
    assert changed == {"JobTaggerFunction", "CfnArchive", "PlatformArchive"}
    assert before.entry_key != after.entry_key


def test_every_object_but_the_entry_is_reached_by_a_stamped_key(sources: Path) -> None:
    built = release.build(sources, "1.0.0", "bucket")
    stamped = yaml.safe_load(built.entry.decode().replace("!Sub", "").replace("!FindInMap", ""))["Mappings"][
        "Release"
    ]["Keys"]
    assert (stamped["Bucket"], stamped["Version"]) == ("bucket", "1.0.0")
    product = yaml.safe_load(built.objects[stamped["ProjectTemplate"]])["Mappings"]["Release"]["Keys"]
    prefixes = (f"{stamped['SeedPrefix']}/", f"{product['ProjectTemplatePrefix']}/")
    for key in set(built.objects) - {built.entry_key, built.manifest_key}:
        assert key in (*stamped.values(), *product.values()) or key.startswith(prefixes), key


def test_a_changed_nested_template_is_another_product_template(sources: Path) -> None:
    before = release.build(sources, "1.0.0", "bucket")
    (sources / "mlops-cfn/project/identity.yaml").write_text("Resources: {A: {}}\n")
    after = release.build(sources, "1.0.0", "bucket")
    assert before.keys["ProjectTemplate"] != after.keys["ProjectTemplate"]


def test_a_function_of_projects_is_stamped_into_the_product_alone(sources: Path) -> None:
    """A project keeps the code of the version it was made with until it is updated."""
    before = release.build(sources, "1.0.0", "bucket")
    (sources / "mlops-cfn/lambda/notifier/index.py").write_text("def handler(event, context): return 1\n")
    after = release.build(sources, "1.0.0", "bucket")
    changed = {name for name in before.keys if before.keys[name] != after.keys[name]}
    assert changed == {"ProjectTemplate", "CfnArchive", "PlatformArchive"}
    assert b"functions/notifier." not in after.entry
    assert b"functions/notifier." in after.objects[after.keys["ProjectTemplate"]]


def test_tags_of_the_entry_survive_stamping(sources: Path) -> None:
    entry = release.build(sources, "1.0.0", "bucket").entry.decode()
    assert "TemplateURL: !Sub" in entry
    assert "!FindInMap [Release, Keys, NetworkTemplate]" in entry


def test_an_undeclared_function_is_named(sources: Path) -> None:
    path = sources / "mlops-cfn/lambda/studio_cleanup/index.py"
    path.parent.mkdir()
    path.write_text("def handler(event, context): ...\n")
    with pytest.raises(release.ReleaseError, match=r"not declared \['StudioCleanupFunction'\]"):
        release.build(sources, "1.0.0", "bucket")


def test_a_key_without_a_source_is_named(sources: Path) -> None:
    (sources / "mlops-cfn/infra/network.yaml").unlink()
    with pytest.raises(release.ReleaseError, match=r"nothing in the sources for \['NetworkTemplate'\]"):
        release.build(sources, "1.0.0", "bucket")


def test_a_version_that_s3_or_the_catalog_would_not_take_is_refused(sources: Path) -> None:
    with pytest.raises(release.ReleaseError, match="1.0.0\\+dirty"):
        release.build(sources, "1.0.0+dirty", "bucket")


def test_git_and_an_unpacked_source_give_the_same_files(sources: Path, tmp_path: Path) -> None:
    (sources / "build").mkdir()
    (sources / "build/left-over.txt").write_text("not a source")
    unpacked = release.source_files(sources)
    git(sources, "init", "--quiet")
    git(sources, "add", "--all")
    assert release.source_files(sources) == unpacked
    assert "build/left-over.txt" not in unpacked


def test_archives_hold_the_files_of_their_folder(sources: Path) -> None:
    built = release.build(sources, "1.0.0", "bucket")
    with zipfile.ZipFile(io.BytesIO(built.objects[built.keys["CicdArchive"]])) as archive:
        assert archive.namelist() == ["buildspecs/validate.yml"]
    with zipfile.ZipFile(
        io.BytesIO(built.objects[f"{built.keys['SeedPrefix']}/sklearn-realtime.zip"])
    ) as archive:
        assert archive.namelist() == ["README.md", "serve", "train.py"]


class TestVersion:
    """The git tag is the version; between tags the commit is part of it."""

    @pytest.fixture
    def repository(self, sources: Path) -> Path:
        git(sources, "init", "--quiet")
        git(sources, "add", "--all")
        git(sources, "commit", "--quiet", "-m", "first")
        return sources

    def test_a_tag_is_the_version(self, repository: Path) -> None:
        git(repository, "tag", "v1.2.0")
        assert release.version_of(repository) == "1.2.0"

    def test_between_tags_the_commit_follows_the_last_tag(self, repository: Path) -> None:
        git(repository, "tag", "v1.2.0")
        git(repository, "commit", "--quiet", "--allow-empty", "-m", "second")
        assert release.version_of(repository) == f"1.2.0-{git(repository, 'rev-parse', 'HEAD')[:12]}"

    def test_uncommitted_changes_show(self, repository: Path) -> None:
        git(repository, "tag", "v1.2.0")
        (repository / "new.txt").write_text("new")
        first = release.version_of(repository)
        assert re.fullmatch(r"1\.2\.0-dirty-[0-9a-f]{6}", first)
        assert release.version_of(repository) == first
        (repository / "new.txt").write_text("newer")
        assert release.version_of(repository) != first, "a version of the catalog never changes"

    def test_in_a_build_the_environment_says_the_commit(
        self, sources: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CODEBUILD_RESOLVED_SOURCE_VERSION", "0123456789abcdef" * 2)
        assert release.version_of(sources) == "0.1.0-0123456789ab"

    def test_without_either_the_reader_is_told_what_to_pass(
        self, sources: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("CODEBUILD_RESOLVED_SOURCE_VERSION", raising=False)
        with pytest.raises(release.ReleaseError, match="--version"):
            release.version_of(sources)

    def test_a_source_inside_another_repository_does_not_take_its_version(
        self, repository: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CODEBUILD_RESOLVED_SOURCE_VERSION", "fedcba9876543210" * 2)
        assert release.version_of(repository / "mlops-cfn") == "0.1.0-fedcba987654"
