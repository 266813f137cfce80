"""CodeCommit: repositories that are real git repositories, through the API and over HTTP with git itself.

The clone URL is ``http://localhost:<port>/v1/repos/<name>``. AWS asks git for credentials (HTTPS signed by
``aws codecommit credential-helper``, which keeps silent for hosts that are not AWS's); the local cloud takes
any credentials and none, so that a person can simply ``git clone``. What arrives, by push or by API, is
announced on EventBridge as ``CodeCommit Repository State Change``.
"""

from __future__ import annotations

import base64
import gzip
import io
import os
import re
import shutil
import subprocess
import tempfile
import threading
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from localaws import clock, hooks
from localaws.cloud import Cloud, caller_key
from localaws.errors import AwsError
from localaws.permissions import callers, gate
from localaws.permissions.access import Access
from localaws.resource import Attributes, Context, ResourceType
from localaws.service import Response, Service, page

EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
_MODES = {"100644": "NORMAL", "100755": "EXECUTABLE", "120000": "SYMLINK"}
_GIT_MODES = {name: mode for mode, name in _MODES.items()}


class GitError(RuntimeError):
    """git ended with an error; its own words."""


class Repository:
    """One bare repository on disk and what CodeCommit knows beside it."""

    def __init__(
        self,
        cloud: Cloud,
        name: str,
        description: str = "",
        tags: dict[str, str] | None = None,
        key: str = "",
    ) -> None:
        self.cloud = cloud
        self.id = str(uuid.uuid4())
        self.name = name
        self.description = description
        self.tags = dict(tags or {})
        self.key = key
        self.created = self.modified = clock.now()
        self.default_branch = ""
        self.triggers: list[dict[str, Any]] = []
        self.lock = threading.RLock()
        self.path = cloud.home / "git" / f"{self.id}.git"
        self.path.mkdir(parents=True)
        self.git("init", "--quiet", "--bare", "--initial-branch=main", ".")
        # no background work of git's own: nothing may outlive the cloud
        for key_, value in (
            ("http.receivepack", "true"),
            ("receive.autogc", "false"),
            ("gc.auto", "0"),
            ("uploadpack.allowAnySHA1InWant", "true"),
            ("core.logAllRefUpdates", "false"),
        ):
            self.git("config", key_, value)

    @property
    def arn(self) -> str:
        """The repository's ARN."""
        return self.cloud.arn("codecommit", self.name)

    def git(self, *arguments: str, stdin: bytes | None = None, **env: str) -> bytes:
        """Run git in the repository; its standard output. Raises GitError."""
        done = subprocess.run(
            ["git", *arguments],
            cwd=self.path,
            input=stdin,
            capture_output=True,
            env=_environment(self.cloud, **env),
        )
        if done.returncode:
            raise GitError(done.stderr.decode(errors="replace").strip())
        return done.stdout

    def text(self, *arguments: str) -> str:
        """Like ``git``, as text without the last line end."""
        return self.git(*arguments).decode(errors="replace").rstrip("\n")

    def references(self) -> dict[str, str]:
        """Full names of branches and tags, and the commits they point at."""
        lines = self.text("for-each-ref", "--format=%(objectname) %(refname)").splitlines()
        return {name: commit for commit, name in (line.split(" ", 1) for line in lines)}

    def branches(self) -> dict[str, str]:
        """Branch names and their commits."""
        return {
            n.removeprefix("refs/heads/"): c
            for n, c in self.references().items()
            if n.startswith("refs/heads/")
        }

    def resolve(self, specifier: str) -> str | None:
        """The commit that a branch, a tag or an id names."""
        for candidate in (f"refs/heads/{specifier}", f"refs/tags/{specifier}", specifier):
            try:
                return self.text("rev-parse", "--verify", "--quiet", f"{candidate}^{{commit}}")
            except GitError:
                continue
        return None

    @contextmanager
    def announced(self, caller: str) -> Iterator[None]:
        """Do something that may move references, then announce each that moved."""
        with self.lock:
            before = self.references()
            yield
            after = self.references()
        heads = [n.removeprefix("refs/heads/") for n in after if n.startswith("refs/heads/")]
        if heads and self.default_branch not in heads:
            self.set_default("main" if "main" in heads else heads[0])
        for name in sorted({*before, *after}):
            if before.get(name) == after.get(name):
                continue
            kind = (
                "referenceCreated"
                if name not in before
                else "referenceDeleted"
                if name not in after
                else "referenceUpdated"
            )
            reference_type, short = (
                ("tag", name[10:])
                if name.startswith("refs/tags/")
                else ("branch", name.removeprefix("refs/heads/"))
            )
            detail = {
                "callerUserArn": caller,
                "commitId": after.get(name),
                "event": kind,
                "oldCommitId": before.get(name),
                "referenceFullName": name,
                "referenceName": short,
                "referenceType": reference_type,
                "repositoryId": self.id,
                "repositoryName": self.name,
            }
            detail = {k: v for k, v in detail.items() if v is not None}
            self.cloud.emit("aws.codecommit", "CodeCommit Repository State Change", detail, [self.arn])

    def set_default(self, branch: str) -> None:
        """Make a branch the default one, also for ``git clone``."""
        self.default_branch = branch
        self.git("symbolic-ref", "HEAD", f"refs/heads/{branch}")

    def commit(
        self, branch: str, tree: str, parents: list[str], message: str, author: str, email: str
    ) -> str:
        """Record a tree on a branch; the new commit's id."""
        stamp = f"{int(clock.time())} +0000"
        who = {
            "GIT_AUTHOR_NAME": author,
            "GIT_AUTHOR_EMAIL": email,
            "GIT_AUTHOR_DATE": stamp,
            "GIT_COMMITTER_NAME": author,
            "GIT_COMMITTER_EMAIL": email,
            "GIT_COMMITTER_DATE": stamp,
        }
        flags = [part for parent in parents for part in ("-p", parent)]
        made = (
            self.git("commit-tree", tree, *flags, "-F", "-", stdin=(message or "\n").encode(), **who)
            .decode()
            .strip()
        )
        self.git("update-ref", f"refs/heads/{branch}", made)
        self.modified = clock.now()
        return made

    def tree_with(self, base: str | None, puts: dict[str, tuple[str, bytes]], deletes: list[str]) -> str:
        """The tree of ``base`` (a commit or None) with files put (path → mode, content) and deleted."""
        with tempfile.TemporaryDirectory(dir=self.path.parent) as folder:
            index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
            if base:
                self.git("read-tree", base, **index)
            lines = [f"0 {'0' * 40}\t{path}" for path in deletes]
            for path, (mode, content) in puts.items():
                blob = self.git("hash-object", "-w", "--stdin", stdin=content).decode().strip()
                lines.append(f"{_GIT_MODES[mode]} {blob}\t{path}")
            self.git(
                "update-index",
                "--add",
                "--remove",
                "-z",
                "--index-info",
                stdin="".join(f"{line}\0" for line in lines).encode(),
                **index,
            )
            return self.git("write-tree", **index).decode().strip()

    def entry(self, commit: str, path: str) -> tuple[str, str, str] | None:
        """Mode, type and id of what a path names in a commit."""
        line = self.git("ls-tree", "-z", commit, "--", path.strip("/")).rstrip(b"\0").decode()
        if not line:
            return None
        mode, kind, blob = line.split("\t")[0].split()
        return mode, kind, blob

    def archive(self, commit: str) -> bytes:
        """All files of a commit as a zip, as a pipeline's source action stores them."""
        return self.git("archive", "--format=zip", "-1", commit)


def _environment(cloud: Cloud, **more: str) -> dict[str, str]:
    """A person's own git configuration must not reach the cloud's repositories."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(cloud.home),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "LC_ALL": "C.UTF-8",
        **more,
    }


class CodeCommit(Service):
    """The API, over real git."""

    name = "codecommit"

    def __init__(self, cloud: Cloud) -> None:
        super().__init__(cloud)
        self.repositories: dict[str, Repository] = {}
        self.pull_requests: dict[str, dict[str, Any]] = {}
        self.lock = threading.RLock()

    # -- repositories -----------------------------------------------------------------------------------
    def find(self, name: str) -> Repository:
        """The repository of that name. Raises AwsError RepositoryDoesNotExistException."""
        found = self.repositories.get(name)
        if found is None:
            raise AwsError("RepositoryDoesNotExistException", f"{name} does not exist")
        return found

    def _metadata(self, repository: Repository) -> dict[str, Any]:
        return {
            "accountId": self.cloud.account,
            "repositoryId": repository.id,
            "repositoryName": repository.name,
            "repositoryDescription": repository.description or None,
            "defaultBranch": repository.default_branch or None,
            "lastModifiedDate": repository.modified,
            "creationDate": repository.created,
            "Arn": repository.arn,
            "cloneUrlHttp": f"{self.cloud.endpoint}/v1/repos/{repository.name}",
            "cloneUrlSsh": f"ssh://git-codecommit.{self.cloud.region}.amazonaws.com/v1/repos/{repository.name}",
            "kmsKeyId": repository.key or self.cloud.arn("kms", "alias/aws/codecommit"),
        }

    def create_repository(self, params: dict[str, Any]) -> dict[str, Any]:
        name = params["repositoryName"]
        if not re.fullmatch(r"[\w.-]+", name) or name.endswith(".git"):
            raise AwsError("InvalidRepositoryNameException", f"The repository name {name} is not valid.")
        with self.lock:
            if name in self.repositories:
                raise AwsError("RepositoryNameExistsException", f"Repository named {name} already exists")
            made = Repository(
                self.cloud,
                name,
                params.get("repositoryDescription", ""),
                params.get("tags"),
                params.get("kmsKeyId", ""),
            )
            self.repositories[name] = made
        return {"repositoryMetadata": self._metadata(made)}

    def get_repository(self, params: dict[str, Any]) -> dict[str, Any]:
        return {"repositoryMetadata": self._metadata(self.find(params["repositoryName"]))}

    def batch_get_repositories(self, params: dict[str, Any]) -> dict[str, Any]:
        names = params["repositoryNames"]
        return {
            "repositories": [self._metadata(self.repositories[n]) for n in names if n in self.repositories],
            "repositoriesNotFound": [n for n in names if n not in self.repositories],
        }

    def list_repositories(self, params: dict[str, Any]) -> dict[str, Any]:
        chosen = sorted(
            self.repositories.values(),
            key=lambda r: r.modified if params.get("sortBy") == "lastModifiedDate" else r.name,
            reverse=params.get("order") == "descending",
        )
        items, token = page(chosen, params, token_key="nextToken", default=1000)
        return {
            "repositories": [{"repositoryName": r.name, "repositoryId": r.id} for r in items],
            "nextToken": token,
        }

    def delete_repository(self, params: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            gone = self.repositories.pop(params["repositoryName"], None)
        if gone is None:
            return {}
        shutil.rmtree(gone.path, ignore_errors=True)
        return {"repositoryId": gone.id}

    def update_repository_name(self, params: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            found = self.find(params["oldName"])
            if params["newName"] in self.repositories:
                raise AwsError(
                    "RepositoryNameExistsException", f"Repository named {params['newName']} already exists"
                )
            del self.repositories[found.name]
            found.name = params["newName"]
            self.repositories[found.name] = found
        return {}

    def update_repository_description(self, params: dict[str, Any]) -> dict[str, Any]:
        self.find(params["repositoryName"]).description = params.get("repositoryDescription", "")
        return {}

    def update_repository_encryption_key(self, params: dict[str, Any]) -> dict[str, Any]:
        found = self.find(params["repositoryName"])
        original, found.key = found.key, params["kmsKeyId"]
        return {"repositoryId": found.id, "kmsKeyId": found.key, "originalKmsKeyId": original or None}

    def put_repository_triggers(self, params: dict[str, Any]) -> dict[str, Any]:
        self.find(params["repositoryName"]).triggers = params["triggers"]
        return {"configurationId": str(uuid.uuid4())}

    def get_repository_triggers(self, params: dict[str, Any]) -> dict[str, Any]:
        return {
            "configurationId": str(uuid.uuid4()),
            "triggers": self.find(params["repositoryName"]).triggers,
        }

    def _by_arn(self, arn: str) -> Repository:
        return self.find(arn.rpartition(":")[2])

    def tag_resource(self, params: dict[str, Any]) -> dict[str, Any]:
        self._by_arn(params["resourceArn"]).tags.update(params["tags"])
        return {}

    def untag_resource(self, params: dict[str, Any]) -> dict[str, Any]:
        found = self._by_arn(params["resourceArn"])
        found.tags = {k: v for k, v in found.tags.items() if k not in params["tagKeys"]}
        return {}

    def list_tags_for_resource(self, params: dict[str, Any]) -> dict[str, Any]:
        return {"tags": self._by_arn(params["resourceArn"]).tags}

    def resource_tags(self, arn: str) -> dict[str, str]:
        """The tags of a repository by its ARN, for conditions of policies."""
        return next((r.tags for r in self.repositories.values() if r.arn == arn), {})

    def target_of(self, pull_request: str) -> dict[str, Any] | None:
        """Repository and branches of a pull request; None for one that is not there."""
        found = self.pull_requests.get(pull_request)
        return found["pullRequestTargets"][0] if found else None

    # -- branches ---------------------------------------------------------------------------------------
    def _branch(self, repository: Repository, name: str) -> str:
        commit = repository.branches().get(name)
        if commit is None:
            raise AwsError(
                "BranchDoesNotExistException",
                f"The branch {name} does not exist in the repository {repository.name}.",
            )
        return commit

    def get_branch(self, params: dict[str, Any]) -> dict[str, Any]:
        found = self.find(params["repositoryName"])
        return {
            "branch": {
                "branchName": params["branchName"],
                "commitId": self._branch(found, params["branchName"]),
            }
        }

    def list_branches(self, params: dict[str, Any]) -> dict[str, Any]:
        items, token = page(
            sorted(self.find(params["repositoryName"]).branches()),
            params,
            token_key="nextToken",
            default=1000,
        )
        return {"branches": items, "nextToken": token}

    def create_branch(self, params: dict[str, Any]) -> dict[str, Any]:
        found, name = self.find(params["repositoryName"]), params["branchName"]
        if name in found.branches():
            raise AwsError("BranchNameExistsException", f"The branch {name} already exists.")
        if found.resolve(params["commitId"]) != params["commitId"]:
            raise AwsError("CommitDoesNotExistException", f"The commit {params['commitId']} does not exist.")
        with found.announced(hooks.caller_arn(self.cloud)):
            found.git("update-ref", f"refs/heads/{name}", params["commitId"])
        return {}

    def delete_branch(self, params: dict[str, Any]) -> dict[str, Any]:
        found, name = self.find(params["repositoryName"]), params["branchName"]
        if name == found.default_branch:
            raise AwsError(
                "DefaultBranchCannotBeDeletedException", f"The default branch {name} cannot be deleted."
            )
        commit = found.branches().get(name)
        if commit is None:
            return {}
        with found.announced(hooks.caller_arn(self.cloud)):
            found.git("update-ref", "-d", f"refs/heads/{name}")
        return {"deletedBranch": {"branchName": name, "commitId": commit}}

    def update_default_branch(self, params: dict[str, Any]) -> dict[str, Any]:
        found = self.find(params["repositoryName"])
        self._branch(found, params["defaultBranchName"])
        found.set_default(params["defaultBranchName"])
        return {}

    # -- files and commits ------------------------------------------------------------------------------
    def _commit_of(self, repository: Repository, specifier: str | None) -> str:
        wanted = specifier or repository.default_branch
        commit = repository.resolve(wanted) if wanted else None
        if commit is None:
            raise AwsError(
                "CommitDoesNotExistException",
                f"The commit {wanted or '(no commit yet)'} does not exist in {repository.name}.",
            )
        return commit

    def get_file(self, params: dict[str, Any]) -> dict[str, Any]:
        found = self.find(params["repositoryName"])
        commit = self._commit_of(found, params.get("commitSpecifier"))
        entry = found.entry(commit, params["filePath"])
        if entry is None or entry[1] != "blob":
            raise AwsError(
                "FileDoesNotExistException",
                f"The file {params['filePath']} does not exist in {found.name} at {commit}.",
            )
        content = found.git("cat-file", "blob", entry[2])
        return {
            "commitId": commit,
            "blobId": entry[2],
            "filePath": params["filePath"],
            "fileMode": _MODES.get(entry[0], "NORMAL"),
            "fileSize": len(content),
            "fileContent": content,
        }

    def get_blob(self, params: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"content": self.find(params["repositoryName"]).git("cat-file", "blob", params["blobId"])}
        except GitError as error:
            raise AwsError(
                "BlobIdDoesNotExistException", f"The blob {params['blobId']} does not exist."
            ) from error

    def get_folder(self, params: dict[str, Any]) -> dict[str, Any]:
        found = self.find(params["repositoryName"])
        commit, folder = (
            self._commit_of(found, params.get("commitSpecifier")),
            params["folderPath"].strip("/"),
        )
        entry = (
            found.entry(commit, folder)
            if folder
            else ("", "tree", found.text("rev-parse", f"{commit}^{{tree}}"))
        )
        if entry is None or entry[1] != "tree":
            raise AwsError(
                "FolderDoesNotExistException",
                f"The folder {params['folderPath']} does not exist in {found.name} at {commit}.",
            )
        answer: dict[str, Any] = {
            "commitId": commit,
            "folderPath": folder,
            "treeId": entry[2],
            "subFolders": [],
            "files": [],
            "symbolicLinks": [],
            "subModules": [],
        }
        for line in found.git("ls-tree", "-z", entry[2]).decode().split("\0"):
            if not line:
                continue
            (mode, kind, blob), name = line.split("\t")[0].split(), line.split("\t", 1)[1]
            where = {"absolutePath": f"{folder}/{name}".lstrip("/"), "relativePath": name}
            if kind == "tree":
                answer["subFolders"].append({"treeId": blob, **where})
            elif mode == "120000":
                answer["symbolicLinks"].append({"blobId": blob, "fileMode": "SYMLINK", **where})
            else:
                answer["files"].append({"blobId": blob, "fileMode": _MODES.get(mode, "NORMAL"), **where})
        return answer

    def _parent(self, repository: Repository, params: dict[str, Any]) -> str | None:
        """The commit that a change goes on top of, refused where AWS refuses it."""
        branch, parent = params["branchName"], params.get("parentCommitId")
        branches = repository.branches()
        if not branches:
            if parent:
                raise AwsError(
                    "ParentCommitDoesNotExistException",
                    f"The parent commit {parent} does not exist: the repository is empty.",
                )
            return None
        tip = branches.get(branch)
        if tip is None:
            if not parent:
                raise AwsError(
                    "BranchDoesNotExistException",
                    f"The branch {branch} does not exist in the repository {repository.name}.",
                )
            return parent
        if not parent:
            raise AwsError(
                "ParentCommitIdRequiredException",
                f"The branch {branch} has commits: give parentCommitId ({tip}).",
            )
        if parent != tip:
            raise AwsError(
                "ParentCommitIdOutdatedException",
                f"The parent commit {parent} is not the tip of {branch} ({tip}).",
            )
        return tip

    def _change(
        self,
        repository: Repository,
        params: dict[str, Any],
        puts: dict[str, tuple[str, bytes]],
        deletes: list[str],
    ) -> tuple[str, str]:
        _check_paths(*puts, *deletes)
        with repository.announced(hooks.caller_arn(self.cloud)):
            parent = self._parent(repository, params)
            for path in deletes:
                if parent is None or repository.entry(parent, path) is None:
                    raise AwsError(
                        "FileDoesNotExistException", f"The file {path} does not exist in {repository.name}."
                    )
            tree = repository.tree_with(parent, puts, deletes)
            if parent and tree == repository.text("rev-parse", f"{parent}^{{tree}}"):
                raise AwsError(
                    "NoChangeException" if len(puts) != 1 or deletes else "SameFileContentException",
                    "The commit would not change anything: the content is already on the branch.",
                )
            caller = hooks.caller_arn(self.cloud).rpartition("/")[2].rpartition(":")[2]
            made = repository.commit(
                params["branchName"],
                tree,
                [parent] if parent else [],
                params.get("commitMessage", ""),
                params.get("authorName") or params.get("name") or caller,
                params.get("email") or "",
            )
        return made, tree

    def put_file(self, params: dict[str, Any]) -> dict[str, Any]:
        found = self.find(params["repositoryName"])
        made, tree = self._change(
            found, params, {params["filePath"]: (params.get("fileMode", "NORMAL"), params["fileContent"])}, []
        )
        entry = found.entry(made, params["filePath"])
        return {"commitId": made, "blobId": entry[2] if entry else "", "treeId": tree}

    def delete_file(self, params: dict[str, Any]) -> dict[str, Any]:
        found = self.find(params["repositoryName"])
        entry = found.entry(params["parentCommitId"], params["filePath"])
        made, tree = self._change(found, params, {}, [params["filePath"]])
        return {
            "commitId": made,
            "blobId": entry[2] if entry else "",
            "treeId": tree,
            "filePath": params["filePath"],
        }

    def create_commit(self, params: dict[str, Any]) -> dict[str, Any]:
        found = self.find(params["repositoryName"])
        parent = params.get("parentCommitId")
        puts: dict[str, tuple[str, bytes]] = {}
        deletes = [d["filePath"] for d in params.get("deleteFiles", [])]
        for file in params.get("putFiles", []):
            content = file.get("fileContent")
            if content is None:
                source = (file.get("sourceFile") or {}).get("filePath", "")
                entry = found.entry(parent, source) if parent and source else None
                if entry is None:
                    raise AwsError(
                        "FileContentRequiredException",
                        f"{file['filePath']}: give fileContent, or sourceFile of a file that exists.",
                    )
                content = found.git("cat-file", "blob", entry[2])
                if file["sourceFile"].get("isMove"):
                    deletes.append(source)
            puts[file["filePath"]] = (file.get("fileMode", "NORMAL"), content)
        for mode in params.get("setFileModes", []):
            entry = found.entry(parent, mode["filePath"]) if parent else None
            if entry is None:
                raise AwsError(
                    "FileDoesNotExistException",
                    f"The file {mode['filePath']} does not exist in {found.name}.",
                )
            puts[mode["filePath"]] = (mode["fileMode"], found.git("cat-file", "blob", entry[2]))
        made, tree = self._change(found, params, puts, deletes)
        listed = [
            {"absolutePath": p, "blobId": (found.entry(made, p) or ("", "", ""))[2], "fileMode": m}
            for p, (m, _) in puts.items()
        ]
        return {
            "commitId": made,
            "treeId": tree,
            "filesAdded": listed,
            "filesUpdated": [],
            "filesDeleted": [{"absolutePath": p} for p in deletes],
        }

    def _describe(self, repository: Repository, commit: str) -> dict[str, Any]:
        shown = repository.text(
            "show",
            "-s",
            "--format=%H%x00%T%x00%P%x00%an%x00%ae%x00%ad%x00%cn%x00%ce%x00%cd%x00%B",
            "--date=raw",
            commit,
        )
        made, tree, parents, author, email, date, committer, committer_email, committed, message = (
            shown.split("\0", 9)
        )
        return {
            "commitId": made,
            "treeId": tree,
            "parents": parents.split(),
            "message": message.rstrip("\n") + "\n",
            "author": {"name": author, "email": email, "date": date},
            "committer": {"name": committer, "email": committer_email, "date": committed},
            "additionalData": "",
        }

    def get_commit(self, params: dict[str, Any]) -> dict[str, Any]:
        found = self.find(params["repositoryName"])
        try:
            return {
                "commit": self._describe(
                    found, found.text("rev-parse", "--verify", f"{params['commitId']}^{{commit}}")
                )
            }
        except GitError as error:
            raise AwsError(
                "CommitIdDoesNotExistException",
                f"The commit {params['commitId']} does not exist in {found.name}.",
            ) from error

    def batch_get_commits(self, params: dict[str, Any]) -> dict[str, Any]:
        commits, errors = [], []
        for wanted in params["commitIds"]:
            try:
                commits.append(
                    self.get_commit({"repositoryName": params["repositoryName"], "commitId": wanted})[
                        "commit"
                    ]
                )
            except AwsError as error:
                errors.append({"commitId": wanted, "errorCode": error.code, "errorMessage": error.message})
        return {"commits": commits, "errors": errors}

    def get_differences(self, params: dict[str, Any]) -> dict[str, Any]:
        found = self.find(params["repositoryName"])
        after = self._commit_of(found, params["afterCommitSpecifier"])
        before = (
            self._commit_of(found, params["beforeCommitSpecifier"])
            if params.get("beforeCommitSpecifier")
            else EMPTY_TREE
        )
        paths = [p for p in (params.get("beforePath"), params.get("afterPath")) if p]
        fields = (
            found.git("diff-tree", "-r", "-z", "--no-commit-id", "--no-renames", before, after, "--", *paths)
            .decode()
            .split("\0")
        )
        out = []
        for head, path in zip(fields[::2], fields[1::2], strict=False):
            old_mode, new_mode, old, new, kind = head.lstrip(":").split()
            entry: dict[str, Any] = {"changeType": kind if kind in "AMD" else "M"}
            if kind != "A":
                entry["beforeBlob"] = {"blobId": old, "path": path, "mode": old_mode}
            if kind != "D":
                entry["afterBlob"] = {"blobId": new, "path": path, "mode": new_mode}
            out.append(entry)
        items, token = page(out, params, size_key="MaxResults", default=400)
        return {"differences": items, "NextToken": token}

    # -- pull requests ----------------------------------------------------------------------------------
    def create_pull_request(self, params: dict[str, Any]) -> dict[str, Any]:
        targets = []
        for target in params["targets"]:
            found = self.find(target["repositoryName"])
            destination = target.get("destinationReference") or found.default_branch
            source, into = (
                self._branch(found, r.removeprefix("refs/heads/"))
                for r in (target["sourceReference"], destination)
            )
            targets.append(
                {
                    "repositoryName": found.name,
                    "sourceReference": f"refs/heads/{target['sourceReference'].removeprefix('refs/heads/')}",
                    "destinationReference": f"refs/heads/{destination.removeprefix('refs/heads/')}",
                    "sourceCommit": source,
                    "destinationCommit": into,
                    "mergeBase": found.text("merge-base", source, into),
                    "mergeMetadata": {"isMerged": False},
                }
            )
        with self.lock:
            number = str(len(self.pull_requests) + 1)
            made = {
                "pullRequestId": number,
                "title": params["title"],
                "description": params.get("description"),
                "lastActivityDate": clock.now(),
                "creationDate": clock.now(),
                "pullRequestStatus": "OPEN",
                "authorArn": hooks.caller_arn(self.cloud),
                "pullRequestTargets": targets,
                "clientRequestToken": params.get("clientRequestToken"),
                "revisionId": uuid.uuid4().hex,
            }
            self.pull_requests[number] = made
        self._tell(made, "pullRequestCreated")
        return {"pullRequest": made}

    def _tell(self, request: dict[str, Any], event: str) -> None:
        target = request["pullRequestTargets"][0]
        found = self.find(target["repositoryName"])
        detail = {
            "event": event,
            "pullRequestId": request["pullRequestId"],
            "pullRequestStatus": request["pullRequestStatus"].capitalize(),
            "isMerged": str(target["mergeMetadata"]["isMerged"]),
            "title": request["title"],
            "author": request["authorArn"],
            "callerUserArn": hooks.caller_arn(self.cloud),
            "sourceReference": target["sourceReference"],
            "destinationReference": target["destinationReference"],
            "sourceCommit": target["sourceCommit"],
            "destinationCommit": target["destinationCommit"],
            "repositoryNames": [found.name],
            "revisionId": request["revisionId"],
        }
        self.cloud.emit("aws.codecommit", "CodeCommit Pull Request State Change", detail, [found.arn])

    def _request(self, number: str) -> dict[str, Any]:
        if number not in self.pull_requests:
            raise AwsError("PullRequestDoesNotExistException", f"The pull request {number} does not exist.")
        return self.pull_requests[number]

    def get_pull_request(self, params: dict[str, Any]) -> dict[str, Any]:
        return {"pullRequest": self._request(params["pullRequestId"])}

    def list_pull_requests(self, params: dict[str, Any]) -> dict[str, Any]:
        self.find(params["repositoryName"])
        chosen = [
            n
            for n, r in self.pull_requests.items()
            if r["pullRequestTargets"][0]["repositoryName"] == params["repositoryName"]
            and params.get("pullRequestStatus") in (None, r["pullRequestStatus"])
        ]
        items, token = page(chosen[::-1], params, size_key="maxResults", token_key="nextToken")
        return {"pullRequestIds": items, "nextToken": token}

    def update_pull_request_status(self, params: dict[str, Any]) -> dict[str, Any]:
        request = self._request(params["pullRequestId"])
        request["pullRequestStatus"] = params["pullRequestStatus"]
        self._tell(request, "pullRequestStatusChanged")
        return {"pullRequest": request}

    def _merge(
        self, repository: Repository, source: str, destination: str, option: str, params: dict[str, Any]
    ) -> str:
        """Merge two commits onto a branch; the branch's new commit."""
        into = self._branch(repository, destination)
        with repository.announced(hooks.caller_arn(self.cloud)):
            if option == "FAST_FORWARD_MERGE":
                if repository.text("merge-base", source, into) != into:
                    raise AwsError(
                        "ManualMergeRequiredException",
                        f"{destination} has commits that the source lacks: it cannot be fast-forwarded.",
                    )
                repository.git("update-ref", f"refs/heads/{destination}", source)
                return source
            try:
                tree = repository.text("merge-tree", "--write-tree", into, source)
            except GitError as error:
                raise AwsError(
                    "ManualMergeRequiredException",
                    "The merge has conflicts; resolve them on the source branch.",
                ) from error
            parents = [into] if option == "SQUASH_MERGE" else [into, source]
            author = (
                params.get("authorName") or hooks.caller_arn(self.cloud).rpartition("/")[2].rpartition(":")[2]
            )
            message = params.get("commitMessage") or f"Merge {source[:8]} into {destination}"
            return repository.commit(
                destination, tree.splitlines()[0], parents, message, author, params.get("email") or ""
            )

    def _merge_request(self, params: dict[str, Any], option: str) -> dict[str, Any]:
        request = self._request(params["pullRequestId"])
        if request["pullRequestStatus"] != "OPEN":
            raise AwsError(
                "PullRequestAlreadyClosedException", f"The pull request {request['pullRequestId']} is closed."
            )
        target = next(
            t for t in request["pullRequestTargets"] if t["repositoryName"] == params["repositoryName"]
        )
        found = self.find(target["repositoryName"])
        source = self._branch(found, target["sourceReference"].removeprefix("refs/heads/"))
        if params.get("sourceCommitId") not in (None, source):
            raise AwsError(
                "TipOfSourceReferenceIsDifferentException", f"The tip of the source branch is {source}."
            )
        made = self._merge(
            found, source, target["destinationReference"].removeprefix("refs/heads/"), option, params
        )
        target |= {
            "sourceCommit": source,
            "mergeMetadata": {
                "isMerged": True,
                "mergedBy": hooks.caller_arn(self.cloud),
                "mergeCommitId": made,
                "mergeOption": option,
            },
        }
        request |= {"pullRequestStatus": "CLOSED", "lastActivityDate": clock.now()}
        self._tell(request, "pullRequestMergeStatusUpdated")
        return {"pullRequest": request}

    def merge_pull_request_by_fast_forward(self, params: dict[str, Any]) -> dict[str, Any]:
        return self._merge_request(params, "FAST_FORWARD_MERGE")

    def merge_pull_request_by_squash(self, params: dict[str, Any]) -> dict[str, Any]:
        return self._merge_request(params, "SQUASH_MERGE")

    def merge_pull_request_by_three_way(self, params: dict[str, Any]) -> dict[str, Any]:
        return self._merge_request(params, "THREE_WAY_MERGE")

    def merge_branches_by_fast_forward(self, params: dict[str, Any]) -> dict[str, Any]:
        found = self.find(params["repositoryName"])
        target = params.get("targetBranch") or params["destinationCommitSpecifier"]
        made = self._merge(
            found,
            self._commit_of(found, params["sourceCommitSpecifier"]),
            target,
            "FAST_FORWARD_MERGE",
            params,
        )
        return {"commitId": made, "treeId": found.text("rev-parse", f"{made}^{{tree}}")}

    # -- for the pipeline and the build, which AWS lets read repositories inside the service ------------
    def seed(self, name: str, branch: str, archive: bytes) -> str:
        """Commit the files of a zip as a repository's first commit (``Code.S3`` of the resource type).

        Every file becomes a normal one: whether AWS keeps the executable bit of a zip is not documented, so
        nothing may rely on it.
        """
        found = self.find(name)
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            puts = {i.filename: ("NORMAL", opened.read(i)) for i in opened.infolist() if not i.is_dir()}
        _check_paths(*puts)
        with found.announced(hooks.caller_arn(self.cloud)):
            return found.commit(
                branch,
                found.tree_with(None, puts, []),
                [],
                "Initial commit by AWS CloudFormation",
                "AWS CloudFormation",
                "",
            )


# -- git over HTTP -------------------------------------------------------------------------------------
def serve_git(cloud: Cloud, method: str, path: str, headers: dict[str, str], *sent: Any) -> Response:
    """``git clone``, ``fetch`` and ``push`` at /v1/repos/<name>, by git's own HTTP backend."""
    caller = hooks.scope_request(cloud, _access_key(headers))
    return caller.run(_serve_git, cloud, method, path, headers, *sent)


def _serve_git(
    cloud: Cloud, method: str, path: str, headers: dict[str, str], query: str, body: bytes
) -> Response:
    name, _, rest = unquote(path.removeprefix("/v1/repos/")).partition("/")
    service: CodeCommit = cloud.services["codecommit"]
    found = service.repositories.get(name) or service.repositories.get(name.removesuffix(".git"))
    if found is None:
        return 404, {"Content-Type": "text/plain"}, f"repository {name} does not exist\n".encode()
    if rest not in ("info/refs", "git-upload-pack", "git-receive-pack", "HEAD") and not rest.startswith(
        "objects/"
    ):
        return 404, {"Content-Type": "text/plain"}, f"{path} is not part of git's HTTP protocol\n".encode()
    env = {
        "GIT_PROJECT_ROOT": str(found.path),
        "GIT_HTTP_EXPORT_ALL": "1",
        "PATH_INFO": f"/{rest}",
        "REQUEST_METHOD": method,
        "QUERY_STRING": query,
        "CONTENT_TYPE": headers.get("content-type", ""),
        "CONTENT_LENGTH": str(len(body)),
        "HTTP_CONTENT_ENCODING": headers.get("content-encoding", ""),
        "GIT_PROTOCOL": headers.get("git-protocol", ""),
        "REMOTE_USER": "git",
        "REMOTE_ADDR": "127.0.0.1",
    }
    if refused := _refusal(found, rest, query, headers, body):
        return refused
    if rest == "git-receive-pack":
        with found.announced(hooks.caller_arn(cloud)):
            return _backend(found, env, body)
    return _backend(found, env, body)


def _refusal(
    repository: Repository, rest: str, query: str, headers: dict[str, str], body: bytes
) -> Response | None:
    """What git is told when its user may not pull or push; None when it may.

    A push is asked twice as on AWS: for the repository, then with the references that it updates.
    """
    pushes = rest == "git-receive-pack" or "service=git-receive-pack" in query
    action = "codecommit:GitPush" if pushes else "codecommit:GitPull"
    contexts: list[dict[str, Any]] = [{}]
    if rest == "git-receive-pack":
        content = gzip.decompress(body) if headers.get("content-encoding") == "gzip" else body
        found = re.findall(rb"[0-9a-f]{40} [0-9a-f]{40} ([^\0\n]+)", content.partition(b"PACK")[0])
        # the key has one value: each reference is a question of its own
        contexts = [{"codecommit:References": ref.decode("utf-8", "replace")} for ref in found] or [{}]
    cloud = repository.cloud
    if cloud.enforce and not headers.get("authorization"):
        # git asks its credential helper only when it is told to: without this nobody would be who they are
        return 401, {"WWW-Authenticate": 'Basic realm="codecommit"', "Content-Type": "text/plain"}, b""
    try:
        caller = callers.caller_of(cloud, caller_key.get())
        endpoint = None if caller.unrestricted else gate.way_in(cloud, caller, "git-codecommit")
        for context in contexts:
            gate.authorize(cloud, caller, Access(action, repository.arn, context), endpoint)
    except AwsError as error:
        return 403, {"Content-Type": "text/plain"}, f"{error.message}\n".encode()
    return None


def _check_paths(*paths: str) -> None:
    """Refuse paths that git would not check out. Raises AwsError."""
    for path in paths:
        if not path or path.startswith("/") or {"..", ".git"} & set(Path(path).parts):
            raise AwsError("InvalidPathException", f"The path {path!r} is not valid.")


def _access_key(headers: dict[str, str]) -> str:
    """The access key that AWS's credential helper sends as the user name (``<key>%<session token>``)."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(value).decode().partition(":")[0].partition("%")[0]
    except ValueError:
        return ""


def _backend(repository: Repository, env: dict[str, str], body: bytes) -> Response:
    done = subprocess.run(
        ["git", "http-backend"], input=body, capture_output=True, env=_environment(repository.cloud, **env)
    )
    head, _, content = done.stdout.partition(b"\r\n\r\n")
    if not head:
        return 500, {"Content-Type": "text/plain"}, done.stderr
    headers = dict(line.split(": ", 1) for line in head.decode("latin-1").split("\r\n") if ": " in line)
    repository.modified = clock.now()
    return int(headers.pop("Status", "200 OK").split()[0]), headers, content


def author_date(raw: str) -> str:
    """git's raw date (``1767225600 +0000``) as the pipeline's source variables show it."""
    return datetime.fromtimestamp(int(raw.split()[0]), tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# -- CloudFormation ------------------------------------------------------------------------------------
class RepositoryType(ResourceType):
    """AWS::CodeCommit::Repository.

    ``Code`` is read when the repository is created and never again, as on AWS.
    """

    type_name = "AWS::CodeCommit::Repository"

    def create(self, context: Context, props: dict[str, Any]) -> tuple[str, Attributes]:
        client = context.client("codecommit")
        tags = {t["Key"]: str(t["Value"]) for t in props.get("Tags", [])}
        archive, branch = self._archive(context, props.get("Code"))
        optional = {
            "repositoryDescription": props.get("RepositoryDescription"),
            "kmsKeyId": props.get("KmsKeyId"),
            "tags": tags or None,
        }
        made = client.create_repository(
            repositoryName=props["RepositoryName"], **{k: v for k, v in optional.items() if v}
        )
        if archive is not None:
            try:
                context.cloud.services["codecommit"].seed(props["RepositoryName"], branch, archive)
            except (zipfile.BadZipFile, AwsError) as error:
                client.delete_repository(repositoryName=props["RepositoryName"])
                raise ValueError(f"Code.S3 cannot be the first commit: {error}") from error
        if props.get("Triggers"):
            client.put_repository_triggers(
                repositoryName=props["RepositoryName"], triggers=[_lower(t) for t in props["Triggers"]]
            )
        found = made["repositoryMetadata"]
        return found["repositoryId"], {
            "Arn": found["Arn"],
            "CloneUrlHttp": found["cloneUrlHttp"],
            "CloneUrlSsh": found["cloneUrlSsh"],
            "Name": found["repositoryName"],
            "RepositoryId": found["repositoryId"],
        }

    @staticmethod
    def _archive(context: Context, code: dict[str, Any] | None) -> tuple[bytes | None, str]:
        """The seed zip, read before anything is made: a wrong key fails the resource as it does on AWS."""
        if not code:
            return None, ""
        where = code["S3"]
        version = {"VersionId": where["ObjectVersion"]} if where.get("ObjectVersion") else {}
        try:
            content = (
                context.client("s3")
                .get_object(Bucket=where["Bucket"], Key=where["Key"], **version)["Body"]
                .read()
            )
        except Exception as error:
            raise ValueError(
                f"Could not read the repository's code from s3://{where['Bucket']}/{where['Key']}: {error}"
            ) from error
        if len(content) > 20 * 1024 * 1024:
            raise ValueError(
                f"s3://{where['Bucket']}/{where['Key']} has {len(content)} bytes; a repository can be "
                "seeded with 20 MB at most"
            )
        return content, code.get("BranchName") or "main"

    def update(self, context: Context, physical_id: str, old: dict, new: dict) -> Attributes:
        client = context.client("codecommit")
        if old["RepositoryName"] != new["RepositoryName"]:
            client.update_repository_name(oldName=old["RepositoryName"], newName=new["RepositoryName"])
        name = new["RepositoryName"]
        client.update_repository_description(
            repositoryName=name, repositoryDescription=new.get("RepositoryDescription", "")
        )
        if new.get("KmsKeyId") and new.get("KmsKeyId") != old.get("KmsKeyId"):
            client.update_repository_encryption_key(repositoryName=name, kmsKeyId=new["KmsKeyId"])
        client.put_repository_triggers(
            repositoryName=name, triggers=[_lower(t) for t in new.get("Triggers", [])]
        )
        found = client.get_repository(repositoryName=name)["repositoryMetadata"]
        retag(client, found["Arn"], old.get("Tags", []), new.get("Tags", []))
        return {
            "Arn": found["Arn"],
            "CloneUrlHttp": found["cloneUrlHttp"],
            "CloneUrlSsh": found["cloneUrlSsh"],
            "Name": name,
        }

    def delete(self, context: Context, physical_id: str, props: dict[str, Any]) -> None:
        context.client("codecommit").delete_repository(repositoryName=props["RepositoryName"])


def retag(client: Any, arn: str, old: list[dict], new: list[dict]) -> None:
    """Make a repository's tags what the template says now."""
    wanted = {t["Key"]: str(t["Value"]) for t in new}
    gone = [t["Key"] for t in old if t["Key"] not in wanted]
    if gone:
        client.untag_resource(resourceArn=arn, tagKeys=gone)
    if wanted:
        client.tag_resource(resourceArn=arn, tags=wanted)


def _lower(value: dict[str, Any]) -> dict[str, Any]:
    return {k[0].lower() + k[1:]: v for k, v in value.items()}


SERVICES = (CodeCommit,)
TYPES = (RepositoryType,)
RAW = {"/v1/repos/": serve_git}
