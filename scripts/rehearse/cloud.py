"""Starts the local cloud as a process of its own and makes sure that it ends: for the rehearsal and for
test fixtures.

The cloud watches the process that started it (`--parent-pid`), so nothing is left running also when that
one is killed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-localaws/bin/python"
READY_WITHIN = 60
ACCOUNT, REGION = "123456789012", "us-east-1"


class CloudError(RuntimeError):
    """The local cloud did not start, or went away; the message ends with its last words."""


def free_port() -> int:
    """A port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def client_environment(port: int, base: dict[str, str] | None = None) -> dict[str, str]:
    """The environment in which boto3, the AWS CLI and git speak to the local cloud, and to nothing else."""
    env = {name: value for name, value in (base or os.environ).items() if not name.startswith("AWS_")}
    return env | {
        "AWS_ENDPOINT_URL": f"http://localhost:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        # a profile on this machine must not lead to a real account
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_PAGER": "",
    }


class LocalCloud:
    """One local cloud: `with LocalCloud(folder) as cloud: …`."""

    def __init__(self, folder: Path, port: int | None = None, time_scale: float | None = None) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.time_scale = time_scale
        self.log = folder / "cloud.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://localhost:{self.port}"

    def start(self, waiting: Callable[[], None] = lambda: None) -> LocalCloud:
        """Start it in a fresh home and come back when it answers."""
        if not PYTHON.exists():
            raise CloudError(f"{PYTHON.parent.parent.name} is missing: run `make setup`")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", self.port)) == 0:  # or its answers would be taken for ours
                raise CloudError(f"port {self.port} is in use on this machine: choose another")
        home = self.folder / "cloud"
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        command = [str(PYTHON), "-m", "localaws", "--port", str(self.port), "--parent-pid", str(os.getpid())]
        command += ["--home", str(home), "--cache", str(ROOT / ".cache")]
        if self.time_scale is not None:
            command += ["--time-scale", str(self.time_scale)]
        env = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        env |= {"PYTHONPATH": str(ROOT / "scripts"), "PYTHONUNBUFFERED": "1"}
        with self.log.open("wb") as log:
            # a session of its own: Ctrl-C reaches the rehearsal first, which then stops the cloud in order
            self.process = subprocess.Popen(
                command,
                env=env,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + READY_WITHIN
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise CloudError(
                    f"the local cloud ended with exit code {self.process.returncode}\n{self.last_words()}"
                )
            if self.is_healthy():
                return self
            waiting()
            time.sleep(0.1)
        self.stop()
        raise CloudError(f"the local cloud was not ready within {READY_WITHIN} s\n{self.last_words()}")

    def is_healthy(self) -> bool:
        """True when it answers."""
        try:
            with urllib.request.urlopen(f"{self.url}/_localaws/health", timeout=5) as answer:
                return answer.status == 200
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            return False

    def control(self, name: str, body: dict[str, Any] | None = None) -> Any:
        """Ask what no AWS API offers: the clock and the mail that was sent."""
        request = urllib.request.Request(f"{self.url}/_localaws/{name}")
        if body is not None:
            request.data, request.headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)

    def open_account(self, account: str, name: str) -> None:
        """Open one more account, as AWS Organizations would; its id is the access key of its root."""
        self.control("accounts", {"id": account, "name": name})

    def environment(self, account: str = ACCOUNT) -> dict[str, str]:
        """For processes that use this cloud as an account's administrator."""
        env = client_environment(self.port)
        return env if account == ACCOUNT else env | {"AWS_ACCESS_KEY_ID": account}

    def last_words(self, lines: int = 30) -> str:
        """The end of its log."""
        return (
            "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""
        )

    def stop(self) -> None:
        """End it and everything it started."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # whatever of its session is left
        self.process.wait()
        self.process = None

    def __enter__(self) -> LocalCloud:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
