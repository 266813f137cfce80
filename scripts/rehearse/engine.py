"""The engine of every rehearsal: starts the cloud, runs a scenario's use cases and steps, and turns what
goes wrong into a finding.

A scenario never prints and never sleeps in a loop of its own: it opens use cases and steps, waits with
`wait`, and keeps what the report shows in `facts`. What it prints, and in which form, is the business of
progress.py.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import shutil
import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

import account
from rehearse import scenarios
from rehearse.cloud import ACCOUNT, ROOT, CloudError, LocalCloud
from rehearse.progress import Progress

# local answers come fast; a call that hangs must become a finding before the person gives up
FRESH = ("homes", "notebooks", "sources", "tools")  # made anew by every rehearsal
SEEDS = 20  # how often each hour of scenario drift is made anew for the table of rates
CLIENT = Config(connect_timeout=5, read_timeout=120, retries={"max_attempts": 2, "mode": "standard"})


class Failure(Exception):
    """What stopped a rehearsal: one sentence, the reasons or the end of a log, and where to look."""

    def __init__(self, message: str, reasons: list[str] | None = None, look_at: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.reasons = reasons or []
        self.look_at = look_at
        self.where = ""  # the use case and step, filled in by the engine


@dataclass
class Step:
    """One line of the progress: what is being done, how long it took, what came out."""

    title: str
    began: float
    seconds: float = 0.0
    detail: str = ""
    state: str = "running"
    changed: Callable[[], None] = field(default=lambda: None, repr=False)

    def say(self, detail: str) -> None:
        """Show how far it is, or what came out."""
        if detail != self.detail:
            self.detail = detail
            self.changed()


@dataclass
class UseCase:
    """One use case of the platform, or another chapter of a scenario."""

    letter: str
    title: str
    began: float = 0.0
    seconds: float = 0.0
    state: str = "waiting"
    steps: list[Step] = field(default_factory=list)


class Census(threading.Thread):
    """Counts stacks and their resources while the rehearsal goes on."""

    def __init__(self, cloud: LocalCloud, every: float = 2.0) -> None:
        super().__init__(daemon=True, name="census")
        self.cloud = cloud
        self.every = every
        self.stacks: dict[str, dict[str, Any]] = {}
        self.ended = threading.Event()

    def run(self) -> None:
        """Until told to end."""
        while not self.ended.wait(self.every):
            with suppress(OSError):  # the cloud is busy or going down; the next count will tell
                self.count()

    def count(self) -> None:
        """Ask the cloud itself: nobody's permissions are needed to look at a display."""
        self.stacks = {stack["id"]: stack for stack in self.cloud.control("stacks")}

    def totals(self) -> dict[str, int]:
        """Stacks, resources that are there, resources under way."""
        stacks = list(self.stacks.values())
        return {
            "stacks": len(stacks),
            "resources": sum(sum(s["types"].values()) for s in stacks),
            "pending": sum(s["pending"] for s in stacks),
        }


class Rehearsal:
    """What a scenario is given: the cloud, use cases and steps, waiting, running commands, and a place for
    facts.
    """

    def __init__(
        self, name: str, cloud: LocalCloud, progress: Progress, folder: Path, keep: bool = False
    ) -> None:
        self.name = name
        self.keep = keep  # leave everything up for the person: a scenario then skips its teardown
        self.cloud = cloud
        self.progress = progress
        self.folder = folder
        self.seeds = SEEDS
        self.without = ""  # a policy statement that the templates of this rehearsal lack
        self.facts: dict[str, Any] = {}
        self.cases: list[UseCase] = []
        self.began = time.monotonic()
        self.census = Census(cloud)
        self._sessions: dict[tuple[str, str], boto3.Session] = {}
        self.planted: dict[str, str] = {}  # secrets that must show up nowhere

    # --- use cases and steps

    @contextmanager
    def use_case(self, letter: str, title: str) -> Iterator[UseCase]:
        """Everything inside belongs to this use case; a failure inside is reported under its letter."""
        case = UseCase(letter, title, began=time.monotonic() - self.began, state="running")
        self.cases.append(case)
        self.progress.use_case(case)
        try:
            yield case
        except BaseException:
            case.state = "failed"
            raise
        else:
            case.state = "passed"
        finally:
            case.seconds = time.monotonic() - self.began - case.began
            self.progress.use_case(case)

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """One step of the current use case."""
        case = self.cases[-1]
        step = Step(title, time.monotonic() - self.began)
        step.changed = lambda: self.progress.step(case, step)
        case.steps.append(step)
        self.progress.step(case, step)
        try:
            yield step
        except BaseException as error:
            step.state = "failed"
            if isinstance(error, Exception):
                raise self._failure(
                    error, f"use case {case.letter} ({case.title}), step “{title}”"
                ) from error
            raise
        else:
            step.state = "done"
        finally:
            step.seconds = time.monotonic() - self.began - step.began
            self.progress.step(case, step)

    def _failure(self, error: Exception, where: str) -> Failure:
        """Any exception as a finding: what happened, why, where to look."""
        if isinstance(error, Failure):
            failure = error
        elif isinstance(error, account.FailedError):
            failure = Failure(error.args[0], error.reasons, error.look_at)
        elif isinstance(error, ClientError):
            failure = Failure(f"{error.operation_name}: {error}", [], f"the cloud's log {self.cloud.log}")
        elif isinstance(error, BotoCoreError | CloudError):
            failure = Failure(
                str(error), self.cloud.last_words().splitlines(), f"the cloud's log {self.cloud.log}"
            )
        else:
            lines = traceback.format_exception(error)
            failure = Failure(
                f"{type(error).__name__}: {error}",
                "".join(lines).splitlines()[-12:],
                "this is a fault of the rehearsal",
            )
        failure.where = failure.where or where
        failure.reasons += self._denials(set(failure.reasons))
        return failure

    def _denials(self, said: set[str]) -> list[str]:
        """What IAM denied so far: a step that waits in vain seldom says itself that somebody may not."""
        with suppress(OSError, CloudError):
            found = dict.fromkeys(one["message"] for one in self.cloud.control("denials"))
            return [f"denied: {message}" for message in found if message not in said][-8:]
        return []

    # --- what scenarios do with it

    def administrator(self, account: str = ACCOUNT) -> boto3.Session:
        """The administrator of an account: launches what it begins with and deletes it, nothing else."""
        env = self.cloud.environment(account)
        return boto3.Session(
            aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
            region_name=env["AWS_REGION"],
        )

    def persona(self, role: str, name: str) -> boto3.Session:
        """A person's session of a role, kept for the whole rehearsal.

        Signing in with the account's own keys stands for the company's identity provider.
        """
        if (role, name) not in self._sessions:
            sts = self.administrator(role.split(":")[4]).client("sts")
            found = sts.assume_role(RoleArn=role, RoleSessionName=name)["Credentials"]
            self._sessions[role, name] = boto3.Session(
                aws_access_key_id=found["AccessKeyId"],
                aws_secret_access_key=found["SecretAccessKey"],
                aws_session_token=found["SessionToken"],
                region_name=self.cloud.environment()["AWS_REGION"],
            )
        return self._sessions[role, name]

    def role_environment(self, role: str, home: Path, name: str) -> dict[str, str]:
        """The environment of a person who works under a role, with a home of their own."""
        keys = self.persona(role, name).get_credentials().get_frozen_credentials()
        # what a Studio space has: an AWS CLI, and a Python with pip; not the environments of this repository
        tools = self.folder / "tools"
        tools.mkdir(exist_ok=True)
        if not (tools / "aws").exists():
            (tools / "aws").symlink_to(ROOT / ".venv-localaws/bin/aws")
        path = [str(tools), str(ROOT / ".cache/bootstrap/bin"), os.environ.get("PATH", "/usr/bin:/bin")]
        return {
            **{
                name: value
                for name, value in self.cloud.environment().items()
                if not name.startswith(("PYTHON", "VIRTUAL", "GIT_", "PIP_"))
            },
            "AWS_ACCESS_KEY_ID": keys.access_key,
            "AWS_SECRET_ACCESS_KEY": keys.secret_key,
            "AWS_SESSION_TOKEN": keys.token,
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home / ".config"),
            "PATH": os.pathsep.join(path),
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_CONFIG_NOSYSTEM": "1",
        }

    def run(self, command: list[str], cwd: Path, env: dict[str, str], timeout: float = 600) -> str:
        """Run a command as a person would; its output is the reason when it fails."""
        shown = " ".join(command)
        try:
            done = subprocess.run(
                command,
                cwd=cwd,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired as error:
            raise Failure(
                f"`{shown}` did not end within {timeout:.0f} s", str(error.stdout or "").splitlines()[-20:]
            ) from error
        if done.returncode:
            raise Failure(
                f"`{shown}` ended with exit code {done.returncode}",
                done.stdout.splitlines()[-25:],
                f"folder {cwd}",
            )
        return done.stdout

    def wait(self, what: str, probe: Callable[[], Any], timeout: float = 300, every: float = 0.5) -> Any:
        """Ask until the answer is not None."""
        return account.poll(what, probe, timeout, every, self.tick)

    def tick(self) -> None:
        """Called while something is waited for: notices a cloud that went away."""
        if self.cloud.process is not None and self.cloud.process.poll() is not None:
            raise CloudError(f"the local cloud ended by itself (exit code {self.cloud.process.returncode})")

    def check(
        self, condition: bool, message: str, reasons: list[str] | None = None, look_at: str = ""
    ) -> None:
        """A rehearsal proves something only where it could have failed."""
        if not condition:
            raise Failure(message, reasons, look_at)


def summary(facts: dict[str, Any]) -> dict[str, Any]:
    """What machines may want to know of a run, small enough for a line."""
    found: dict[str, Any] = {"release": facts.get("release", {}).get("version")}
    if versions := facts.get("versions"):
        found["model"] = {key: versions[-1][key] for key in ("version", "commit", "metrics")}
    if hours := facts.get("hours"):
        found["monitors"] = {hour.title: sorted(hour.fired) for hour in hours}
    if notices := facts.get("notices"):
        found["mails"] = [mail["subject"] for mail in notices]
    if tables := facts.get("tables"):
        found["tables"] = tables
    found |= {name: facts[name] for name in ("stopped", "records") if name in facts}  # of batch inference
    if left := facts.get("left"):
        found["left"] = {kind: len(items) for kind, items in left.items()}
    return found


def available() -> dict[str, str]:
    """Scenario name -> the first sentence or two of its description."""
    found = {}
    for module in pkgutil.iter_modules(scenarios.__path__):
        text = (importlib.import_module(f"{scenarios.__name__}.{module.name}").__doc__ or "").strip()
        found[module.name.replace("_", "-")] = " ".join(text.split("\n\n")[0].split())
    return found


def load(name: str) -> ModuleType:
    """The scenario's module; an unknown name is a LookupError that lists the known ones."""
    if name not in (names := available()):
        raise LookupError(f"there is no scenario {name!r}; scenarios: {', '.join(sorted(names))}")
    return importlib.import_module(f"{scenarios.__name__}.{name.replace('-', '_')}")


def rehearse(
    name: str,
    progress: Progress,
    folder: Path,
    port: int | None = None,
    keep: Callable[[LocalCloud], None] | None = None,
    without: str = "",
    seeds: int = SEEDS,
) -> dict[str, Any]:
    """Run one scenario on a fresh cloud and return its result; the cloud is gone afterwards.

    ``without`` names a policy statement (template/resource/Sid) that is taken out of the templates first.
    """
    scenario = load(name)
    folder.mkdir(parents=True, exist_ok=True)
    for left_over in FRESH:
        shutil.rmtree(folder / left_over, ignore_errors=True)
    cloud = LocalCloud(folder, port)
    # this process and all it starts speak to the local cloud only, whatever profile the person has
    for variable in [v for v in os.environ if v.startswith("AWS_")]:
        del os.environ[variable]
    os.environ.update(cloud.environment())
    rehearsal = Rehearsal(name, cloud, progress, folder, keep is not None)
    rehearsal.without, rehearsal.seeds = without, seeds
    failure: Failure | None = None
    progress.begin(rehearsal)
    try:
        try:
            cloud.start(rehearsal.tick)
            rehearsal.census.start()
            scenario.run(rehearsal)
        except Failure as error:
            failure = error
        except Exception as error:  # the one broad catch: whatever happens must end as a finding
            failure = rehearsal._failure(error, "outside of a step")
        result = {
            "event": "result",
            "scenario": name,
            "passed": failure is None,
            "seconds": round(time.monotonic() - rehearsal.began, 1),
            "use_cases": {
                c.letter: {"title": c.title, "passed": c.state == "passed", "seconds": round(c.seconds, 1)}
                for c in rehearsal.cases
            },
            "facts": summary(rehearsal.facts),
        }
        if failure:
            result["failure"] = {
                "where": failure.where,
                "message": failure.message,
                "reasons": failure.reasons,
                "look_at": failure.look_at,
            }
        from rehearse import report  # needs the rehearsal's types

        result["report"] = str(report.write(rehearsal, result, folder / "report.html"))
        progress.end(result)
        if keep and cloud.is_healthy():
            rehearsal.census.ended.set()
            keep(cloud)
        return result
    finally:
        rehearsal.census.ended.set()
        keep_evidence(rehearsal)
        cloud.stop()


def keep_evidence(r: Rehearsal, name: str = "evidence.json") -> None:
    """Write what IAM was asked (role, action, resource, keys), what it denied, and when each step ran.

    The reports of least privilege and the tests of single statements read it.
    """
    if not r.cloud.is_healthy():
        return
    steps = [
        {"case": case.letter, "title": step.title, "began": step.began, "seconds": step.seconds}
        for case in r.cases
        for step in case.steps
    ]
    began = time.time() - (time.monotonic() - r.began)
    found = {kind: r.cloud.control(kind) for kind in ("questions", "policies", "denials")}
    text = json.dumps({"scenario": r.name, "began": began, "steps": steps, **found}, indent=1)
    (r.folder / name).write_text(text)
