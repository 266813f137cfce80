"""Decides the matrix's cells by making the calls, each under the subject's role, in the local cloud."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError
from matrix import Cell, Subject, filled, question
from world import PEOPLE, World

_SETTINGS = Config(
    retries={"max_attempts": 1},
    s3={"addressing_style": "path"},
    inject_host_prefix=False,
    max_pool_connections=4,
)
_WORKERS = 4


class Callers:
    """Sessions of the subjects, as people and services get them.

    Data scientists and the platform's personas are taken by people of the account, as their trust policies
    say. What only services may take, the administrator opens to the same people first: whose session it is
    makes no difference to what its policies allow. Who may take a role at all is asked in rows of its own.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self._clients: dict[tuple[str, str], Any] = {}
        root = world.session()
        self._people = world.session(
            root.client("sts").assume_role(RoleArn=world.places["red"]["people"], RoleSessionName="matrix")[
                "Credentials"
            ]
        )
        self._iam = root.client("iam")

    def session(self, subject: Subject) -> boto3.Session:
        """A session of a subject's role."""
        role, sts = self.world.role(subject), self._people.client("sts", config=_SETTINGS)
        try:
            keys = sts.assume_role(RoleArn=role, RoleSessionName="matrix")["Credentials"]
        except ClientError as error:
            if error.response["Error"]["Code"] not in DENIED:
                raise
            self._open(role)
            keys = sts.assume_role(RoleArn=role, RoleSessionName="matrix")["Credentials"]
        return self.world.session(keys)

    def _open(self, role: str) -> None:
        name, people = role.rpartition("/")[2], self.world.places["red"]["people"]
        trust = self._iam.get_role(RoleName=name)["Role"]["AssumeRolePolicyDocument"]
        trust["Statement"].append(
            {"Sid": PEOPLE, "Effect": "Allow", "Principal": {"AWS": people}, "Action": "sts:AssumeRole"}
        )
        self._iam.update_assume_role_policy(RoleName=name, PolicyDocument=json.dumps(trust))

    def client(self, subject: Subject, service: str) -> Any:
        """A client of a subject."""
        key = (subject.name, service)
        if key not in self._clients:
            if (subject.name, "") not in self._clients:
                self._clients[subject.name, ""] = self.session(subject)
            session = self._clients[subject.name, ""]
            self._clients[key] = session if service == "git" else session.client(service, config=_SETTINGS)
        return self._clients[key]


#: how services say that a caller has no permission
_GIT_DENIED = re.compile(r"403|not authorized to perform|declined")
DENIED = ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthorizationError")


class _Git:
    """Pushes with git, as aws codecommit's credential helper lets a person or a build do."""

    def __init__(self, endpoint: str, folder: Path) -> None:
        self.endpoint, self.folder = endpoint, folder
        self._clones: dict[str, Path] = {}
        self._lock = threading.Lock()

    def _run(self, keys: Any, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        basic = base64.b64encode(f"{keys.access_key}%{keys.token}:local".encode()).decode()
        who = ["-c", "user.name=matrix", "-c", "user.email=matrix@example.com"]
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
        }
        return subprocess.run(
            ["git", "-c", f"http.extraHeader=Authorization: Basic {basic}", *who, *arguments],
            cwd=cwd, env=environment, capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    def _clone(self, repository: str) -> Path:
        """The administrator's clone with one commit more, which fits on top of main."""
        with self._lock:
            if repository not in self._clones:
                clone, admin = self.folder / repository, SimpleNamespace(access_key="test", token="")
                address = f"{self.endpoint}/v1/repos/{repository}"
                for command, cwd in (
                    (("clone", "--quiet", address, str(clone)), self.folder),
                    (("commit", "--quiet", "--allow-empty", "-m", "matrix"), clone),
                ):
                    done = self._run(admin, *command, cwd=cwd)
                    assert done.returncode == 0, done.stderr
                self._clones[repository] = clone
            return self._clones[repository]

    def push(self, session: boto3.Session, repository: str, branch: str) -> tuple[bool, str]:
        """(allowed, what git said)."""
        keys = session.get_credentials().get_frozen_credentials()
        address = f"{self.endpoint}/v1/repos/{repository}"
        arguments = ("push", address, f"HEAD:refs/heads/{branch}")
        clone = self._clone(repository)
        with self._lock:  # two at once would race for the same branch
            done = self._run(keys, *arguments, cwd=clone)
        said = done.stderr.strip()
        if done.returncode and not _GIT_DENIED.search(said):
            raise AssertionError(f"git push to {repository}: {said}")
        return done.returncode == 0, said


def ask(cell: Cell, names: dict[str, Any], client: Any, git: _Git) -> tuple[bool, str]:
    """(allowed, what was answered). Any answer but a denial comes after the permission was given."""
    parameters = filled(cell.row.parameters, names)
    if cell.row.service == "git":
        return git.push(client, **parameters)
    try:
        getattr(client, cell.row.operation)(**parameters)
    except ClientError as error:
        code, status = error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]
        said = error.response["Error"].get("Message", "")
        if code in DENIED:
            asked = [question(line, names)[0] for line in cell.row.asks]
            if not any(f"perform: {action} " in f"{said} " for action in asked):
                raise AssertionError(f"{cell}: denied for something else than {asked}: {said}") from error
            return False, said
        if status >= 500:
            raise AssertionError(f"{cell}: {code} {said}") from error
        return True, f"{code}: {said}"
    return True, ""


def decide(world: World, cells: list[Cell], folder: Path) -> dict[Cell, tuple[bool, str]]:
    """Every cell's answer; what must be denied is asked first, as what is allowed may change something.

    Sessions made here are none of Studio's, so whatever takes one is denied.
    """
    callers, answers = Callers(world), {}
    git = _Git(world.cloud.url, folder)
    cells = [cell for cell in cells if not cell.row.simulated]
    for cell in cells:  # clients are made by one thread
        callers.client(cell.subject, cell.row.service)

    def one(cell: Cell) -> tuple[bool, str]:
        return ask(cell, world.names(cell), callers.client(cell.subject, cell.row.service), git)

    for expected in (False, True):
        batch = [cell for cell in cells if cell.allowed_outside_studio is expected]
        with ThreadPoolExecutor(_WORKERS) as pool:
            answers |= zip(batch, pool.map(one, batch), strict=True)
    return answers
