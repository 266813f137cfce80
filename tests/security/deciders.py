"""Two judges of one question: the oracle (an IAM simulator of its own make, in Node) and the local cloud's
engine. Each runs in a process of its own and takes all questions at once.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
ORACLE = Path(__file__).parent / "oracle"
ENGINE_PYTHON = ROOT / ".venv-localaws/bin/python"

Statements = list[dict[str, Any]]


@dataclass(frozen=True)
class Question:
    """May ``principal`` do ``action`` on ``resource``, given every policy that has a say?

    The policies are lists of statements. None is a policy that does not exist, which is not the same as an
    empty one: an empty boundary allows nothing. ``organization`` are the levels below the account's root.
    """

    name: str
    principal: str
    action: str
    resource: str
    owner: str
    context: Mapping[str, Any] = field(default_factory=dict)
    identity: Statements = field(default_factory=list)
    boundary: Statements | None = None
    session: Statements | None = None
    resource_policy: Statements | None = None
    endpoint: Statements | None = None
    organization: Sequence[Statements] = ()

    @property
    def account(self) -> str:
        """The account of the principal, "" for a service."""
        return self.principal.split(":")[4] if self.principal.startswith("arn:") else ""

    @property
    def role(self) -> str:
        """The role of the principal, "" for a service. A session's ARN is without the role's path."""
        if ":assumed-role/" in self.principal:
            return f"arn:aws:iam::{self.account}:role/{self.principal.split('/')[1]}"
        return self.principal if self.account else ""

    @property
    def session_arn(self) -> str:
        """The principal as the local cloud sees it, who calls as a session of the role."""
        if ":role/" in self.principal:
            return f"arn:aws:sts::{self.account}:assumed-role/{self.principal.rpartition('/')[2]}/session"
        return self.principal


@dataclass(frozen=True)
class Answer:
    """``decision`` is Allowed, ExplicitlyDenied or ImplicitlyDenied; ``ignored`` are context keys that AWS
    does not send with the action; ``error`` says why the question itself is wrong.
    """

    decision: str
    ignored: tuple[str, ...] = ()
    error: str = ""

    @property
    def allowed(self) -> bool:
        """Whether the call goes through."""
        return self.decision == "Allowed"


class _Policies:
    """Each policy travels once, however many questions it has a say in."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self._seen: dict[int, tuple[Statements, str]] = {}  # the list is kept, so its id stays its own

    def __call__(self, statements: Statements | None) -> str | None:
        if statements is None:
            return None
        if id(statements) not in self._seen:
            text = json.dumps({"Version": "2012-10-17", "Statement": statements}, sort_keys=True)
            name = self.names.setdefault(text, f"policy-{len(self.names)}")
            self._seen[id(statements)] = (statements, name)
        return self._seen[id(statements)][1]

    def documents(self) -> dict[str, Any]:
        return {name: json.loads(text) for text, name in self.names.items()}


def _payload(questions: Iterable[Question]) -> str:
    policy, cases = _Policies(), []
    for q in questions:
        cases.append(
            {
                "principal": q.principal,
                "account": q.account,
                "role": q.role,
                "session_arn": q.session_arn,
                "action": q.action,
                "resource": q.resource,
                "owner": q.owner,
                "context": dict(q.context),
                # the oracle rejects a policy without statements, IAM's way of saying "no policy"
                "identity": [policy(q.identity)] if q.identity else [],
                "boundary": None if q.boundary is None else [policy(q.boundary)],
                "session": policy(q.session),
                "resourcePolicy": policy(q.resource_policy),
                "endpoint": None if q.endpoint is None else [policy(q.endpoint)],
                "organization": [[policy(level)] for level in q.organization],
            }
        )
    return json.dumps({"policies": policy.documents(), "cases": cases})


def _answers(command: list[str], questions: list[Question], **settings: Any) -> list[Answer]:
    done = subprocess.run(
        command, input=_payload(questions), capture_output=True, text=True, timeout=300, **settings
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    found = json.loads(done.stdout)
    assert len(found) == len(questions), f"{len(found)} answers to {len(questions)} questions"
    return [
        Answer("", error=json.dumps(one["error"]))
        if "error" in one
        else Answer(one["decision"], tuple(one.get("ignored", ())))
        for one in found
    ]


def oracle(questions: list[Question]) -> list[Answer]:
    """What the simulator says."""
    if not (ORACLE / "node_modules/.package-lock.json").exists():
        raise RuntimeError("the oracle is not installed: run `python3 scripts/setup.py oracle` (needs node)")
    return _answers(["node", str(ORACLE / "decide.mjs")], questions)


def engine(questions: list[Question]) -> list[Answer]:
    """What the engine of the local cloud says; it knows no organizations, as the local cloud has none."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return _answers(
        [str(ENGINE_PYTHON), str(Path(__file__).parent / "engine_decide.py")],
        questions,
        env=env | {"PYTHONPATH": str(ROOT / "scripts")},
    )
