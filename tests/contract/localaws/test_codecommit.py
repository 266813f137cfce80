"""CodeCommit: real git over HTTP, the API on the same repository, seeding, events."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError


@pytest.fixture
def repository(cloud) -> str:
    """A new, empty repository."""
    name = cloud.name("repo")
    cloud.client("codecommit").create_repository(repositoryName=name)
    return name


@pytest.fixture
def clone(cloud, repository: str, tmp_path: Path) -> Path:
    """A clone of it with one commit pushed to main."""
    url = cloud.client("codecommit").get_repository(repositoryName=repository)["repositoryMetadata"][
        "cloneUrlHttp"
    ]
    cloud.git("clone", url, "work", cwd=tmp_path)
    work = tmp_path / "work"
    (work / "a.txt").write_text("one\n" * 20_000)  # large enough for git to compress the request
    cloud.git("add", ".", cwd=work)
    cloud.git("commit", "-m", "first", cwd=work)
    cloud.git("push", "origin", "HEAD:main", cwd=work)
    return work


def head(cloud, repository: str, branch: str = "main") -> str:
    found = cloud.client("codecommit").get_branch(repositoryName=repository, branchName=branch)
    return found["branch"]["commitId"]


def test_push_is_seen_by_the_api(cloud, repository, clone):
    commit = cloud.git("rev-parse", "HEAD", cwd=clone).stdout.strip()
    assert head(cloud, repository) == commit
    details = cloud.client("codecommit").get_commit(repositoryName=repository, commitId=commit)["commit"]
    assert details["message"] == "first\n"
    assert details["author"]["name"] == "Jane"
    metadata = cloud.client("codecommit").get_repository(repositoryName=repository)["repositoryMetadata"]
    assert metadata["defaultBranch"] == "main"
    assert metadata["cloneUrlHttp"] == f"{cloud.endpoint}/v1/repos/{repository}"


def test_commit_by_api_is_pulled_by_git(cloud, repository, clone):
    client = cloud.client("codecommit")
    made = client.put_file(
        repositoryName=repository,
        branchName="main",
        filePath="b/c.txt",
        fileContent=b"two",
        parentCommitId=head(cloud, repository),
        commitMessage="by api",
        name="Jo",
        email="jo@example.com",
    )
    cloud.git("pull", "origin", "main", cwd=clone)
    assert (clone / "b/c.txt").read_text() == "two"
    assert "Jo <jo@example.com>" in cloud.git("log", "-1", cwd=clone).stdout
    assert client.get_file(repositoryName=repository, filePath="b/c.txt")["fileContent"] == b"two"
    folder = client.get_folder(repositoryName=repository, folderPath="/")
    assert [f["absolutePath"] for f in folder["files"]] == ["a.txt"]
    assert [f["absolutePath"] for f in folder["subFolders"]] == ["b"]
    assert folder["commitId"] == made["commitId"]


def test_create_commit_puts_and_deletes_at_once(cloud, repository, clone):
    client, before = cloud.client("codecommit"), head(cloud, repository)
    client.create_commit(
        repositoryName=repository,
        branchName="main",
        parentCommitId=before,
        commitMessage="both",
        putFiles=[{"filePath": "run.sh", "fileMode": "EXECUTABLE", "fileContent": b"#!/bin/sh\n"}],
        deleteFiles=[{"filePath": "a.txt"}],
    )
    changes = client.get_differences(
        repositoryName=repository, beforeCommitSpecifier=before, afterCommitSpecifier="main"
    )["differences"]
    kinds = {(c["changeType"], (c.get("afterBlob") or c["beforeBlob"])["path"]) for c in changes}
    assert kinds == {("A", "run.sh"), ("D", "a.txt")}
    cloud.git("pull", "origin", "main", cwd=clone)
    assert (clone / "run.sh").stat().st_mode & 0o100


REFUSED = [
    ("outdated parent", "put_file", {"parentCommitId": "0" * 40}, "ParentCommitIdOutdatedException"),
    ("parent missing", "put_file", {}, "ParentCommitIdRequiredException"),
    ("unknown branch", "put_file", {"branchName": "no"}, "BranchDoesNotExistException"),
]


@pytest.mark.parametrize("call,extra,code", [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_change_is_refused(cloud, repository, clone, call, extra, code):
    request = {"repositoryName": repository, "branchName": "main", "filePath": "x", "fileContent": b"y"}
    with pytest.raises(ClientError) as caught:
        getattr(cloud.client("codecommit"), call)(**{**request, **extra})
    assert caught.value.response["Error"]["Code"] == code


def test_same_content_is_refused(cloud, repository, clone):
    request: dict[str, Any] = {
        "repositoryName": repository,
        "branchName": "main",
        "filePath": "x",
        "fileContent": b"y",
    }
    client = cloud.client("codecommit")
    client.put_file(**request, parentCommitId=head(cloud, repository))
    with pytest.raises(client.exceptions.SameFileContentException):
        client.put_file(**request, parentCommitId=head(cloud, repository))


def test_repository_names(cloud, repository):
    client = cloud.client("codecommit")
    with pytest.raises(client.exceptions.RepositoryNameExistsException):
        client.create_repository(repositoryName=repository)
    with pytest.raises(client.exceptions.RepositoryDoesNotExistException):
        client.get_branch(repositoryName="no-such-repository", branchName="main")
    assert repository in [r["repositoryName"] for r in client.list_repositories()["repositories"]]
    client.delete_repository(repositoryName=repository)
    assert client.batch_get_repositories(repositoryNames=[repository])["repositoriesNotFound"] == [repository]


def test_clone_of_an_unknown_repository_says_so(cloud, tmp_path):
    done = cloud.git("clone", f"{cloud.endpoint}/v1/repos/nowhere", cwd=tmp_path, check=False)
    assert done.returncode != 0
    assert "not found" in done.stderr


def test_events_of_push_api_and_deletion(cloud, repository, tmp_path):
    events = cloud.listen(source=["aws.codecommit"], detail={"repositoryName": [repository]})
    client = cloud.client("codecommit")
    first = client.create_commit(
        repositoryName=repository, branchName="main", putFiles=[{"filePath": "a", "fileContent": b"1"}]
    )["commitId"]
    cloud.git("clone", f"{cloud.endpoint}/v1/repos/{repository}", "work", cwd=tmp_path)
    work = tmp_path / "work"
    (work / "a").write_text("2")
    cloud.git("commit", "-am", "second", cwd=work)
    cloud.git("push", "origin", "main", "HEAD:side", cwd=work)
    client.delete_branch(repositoryName=repository, branchName="side")
    cloud.wait(lambda: len(events()) == 4, what="4 events")
    second = head(cloud, repository)
    told = {(e["detail"]["event"], e["detail"]["referenceName"]): e for e in events()}
    assert set(told) == {
        ("referenceCreated", "main"),
        ("referenceUpdated", "main"),
        ("referenceCreated", "side"),
        ("referenceDeleted", "side"),
    }
    update = told["referenceUpdated", "main"]
    assert update["detail-type"] == "CodeCommit Repository State Change"
    assert update["resources"] == [f"arn:aws:codecommit:us-east-1:{cloud.account}:{repository}"]
    detail = update["detail"]
    assert (detail["oldCommitId"], detail["commitId"]) == (first, second)
    assert (detail["referenceType"], detail["referenceFullName"]) == ("branch", "refs/heads/main")
    assert detail["repositoryName"] == repository


def test_pull_request_is_merged(cloud, repository, clone):
    client = cloud.client("codecommit")
    cloud.git("checkout", "-b", "feature", cwd=clone)
    (clone / "f.txt").write_text("f")
    cloud.git("add", ".", cwd=clone)
    cloud.git("commit", "-m", "feature", cwd=clone)
    cloud.git("push", "origin", "feature", cwd=clone)
    target = {"repositoryName": repository, "sourceReference": "feature", "destinationReference": "main"}
    number = client.create_pull_request(title="Feature", targets=[target])["pullRequest"]["pullRequestId"]
    merged = client.merge_pull_request_by_squash(pullRequestId=number, repositoryName=repository)[
        "pullRequest"
    ]
    assert merged["pullRequestStatus"] == "CLOSED"
    assert client.get_file(repositoryName=repository, filePath="f.txt")["fileContent"] == b"f"


# -- CloudFormation --------------------------------------------------------------------------------------
def resource(name: str, **more: Any) -> dict[str, Any]:
    return {
        "Repository": {"Type": "AWS::CodeCommit::Repository", "Properties": {"RepositoryName": name, **more}}
    }


def test_stack_seeds_once_renames_and_deletes(cloud, pack):
    bucket, name, client = cloud.bucket(), cloud.name("seeded"), cloud.client("codecommit")
    cloud.client("s3").put_object(
        Bucket=bucket, Key="seed.zip", Body=pack({"src/a.py": "print()", "README.md": "hi"})
    )
    events = cloud.listen(source=["aws.codecommit"], detail={"repositoryName": [name]})
    code = {"S3": {"Bucket": bucket, "Key": "seed.zip"}, "BranchName": "main"}
    outputs = {k: {"Value": {"Fn::GetAtt": ["Repository", k]}} for k in ("Arn", "CloneUrlHttp", "Name")}
    outputs["Ref"] = {"Value": {"Ref": "Repository"}}
    stack = cloud.stack(resource(name, Code=code, Tags=[{"Key": "k", "Value": "v"}]), outputs)
    metadata = client.get_repository(repositoryName=name)["repositoryMetadata"]
    assert cloud.outputs(stack) == {
        "Arn": metadata["Arn"],
        "CloneUrlHttp": metadata["cloneUrlHttp"],
        "Name": name,
        "Ref": metadata["repositoryId"],
    }
    commit = client.get_commit(repositoryName=name, commitId=head(cloud, name))["commit"]
    assert commit["parents"] == []
    assert client.get_file(repositoryName=name, filePath="src/a.py")["fileContent"] == b"print()"
    cloud.wait(lambda: [e["detail"]["event"] for e in events()] == ["referenceCreated"])
    assert client.list_tags_for_resource(resourceArn=metadata["Arn"])["tags"]["k"] == "v"

    renamed = cloud.name("renamed")
    code["S3"]["Key"] = "another.zip"  # read at creation only: a key that does not exist changes nothing
    cloud.stack(resource(renamed, Code=code, RepositoryDescription="new"), outputs, name=stack)
    after = client.get_repository(repositoryName=renamed)["repositoryMetadata"]
    assert after["repositoryId"] == metadata["repositoryId"]
    assert after["repositoryDescription"] == "new"
    assert cloud.delete_stack(stack) == ""
    assert client.batch_get_repositories(repositoryNames=[renamed])["repositories"] == []


BROKEN = [
    (
        "seed that is missing",
        {"Code": {"S3": {"Bucket": "nowhere-bucket", "Key": "k"}}},
        "s3://nowhere-bucket/k",
    ),
    ("misspelt property", {"RepositoryDescripton": "x"}, "RepositoryDescripton"),
    ("wrong type", {"Code": {"S3": {"Bucket": "b"}}}, "required key [Key]"),
]


@pytest.mark.parametrize("more,words", [b[1:] for b in BROKEN], ids=[b[0] for b in BROKEN])
def test_stack_is_refused(cloud, more, words):
    with pytest.raises(AssertionError) as caught:
        cloud.stack(resource(cloud.name("bad"), **more))
    assert words in str(caught.value)
