"""Start and end of the cloud: its listeners, what is left after it, and use of it with the stock AWS CLI."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
PYTHON = os.environ.get("LOCALAWS_PYTHON") or str(ROOT / ".venv-localaws/bin/python")
#: a parent of the cloud that does nothing but live
PARENT = "import os, subprocess, sys; subprocess.call([*sys.argv[1:], '--parent-pid', str(os.getpid())])"


def running(*marks: str) -> list[int]:
    """Processes whose command line holds one of the marks."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_text()
            except OSError:
                continue
            if any(mark in words for mark in marks):
                found.append(int(entry.name))
    return found


def open_port(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def soon(condition: Callable[[], Any], seconds: float = 15) -> bool:
    """Whether the condition comes true."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return bool(condition())


def sleeping_build(cloud) -> str:
    """Start a build that does not end, with a process in its background; the mark of both."""
    mark, name, client = f"9{uuid.uuid4().int % 10**8}", cloud.name("sleeper"), cloud.client("codebuild")
    client.create_project(
        name=name,
        source={
            "type": "NO_SOURCE",
            "buildspec": "version: 0.2\nphases:\n  build:\n    commands:\n"
            f"      - sleep {mark} & sleep {mark}\n",
        },
        artifacts={"type": "NO_ARTIFACTS"},
        environment={"type": "LINUX_CONTAINER", "image": "x", "computeType": "BUILD_GENERAL1_SMALL"},
        serviceRole=cloud.role("codebuild"),
    )
    client.start_build(projectName=name)
    sleepers = f"sleep\0{mark}"
    cloud.wait(lambda: len(running(sleepers)) == 2, 30, "the build's processes")
    return mark


def assert_nothing_left(cloud, mark: str) -> None:
    """No process of the cloud or of its build, and no port."""
    marks = (f"--port\0{cloud.port}", mark)
    assert soon(lambda: not running(*marks)), [
        Path(f"/proc/{p}/cmdline").read_text() for p in running(*marks)
    ]
    assert not open_port(cloud.port)


def homes(folder: Path) -> list[Path]:
    """The folders of runs that are left."""
    return list(folder.glob("local-cloud-*"))


# -- the end ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_and_leaves_nothing(started, tmp_path, number):
    process, cloud = started()
    mark = sleeping_build(cloud)
    assert len(homes(tmp_path)) == 1
    process.send_signal(number)
    assert process.wait(20) == 0
    assert_nothing_left(cloud, mark)
    assert homes(tmp_path) == []
    assert "Traceback" not in (tmp_path / "stderr").read_text() + cloud.log.read_text()


def test_killing_the_parent_ends_it_and_leaves_nothing(started, tmp_path):
    parent, cloud = started(sys.executable, "-c", PARENT)
    mark = sleeping_build(cloud)
    parent.kill()  # nobody collects the parent yet: a zombie is no parent either
    assert_nothing_left(cloud, mark)
    assert homes(tmp_path) == []


def test_killing_the_cloud_leaves_nothing_that_runs(started):
    process, cloud = started()
    mark = sleeping_build(cloud)
    process.kill()
    process.wait(10)
    assert_nothing_left(cloud, mark)


# -- the start -------------------------------------------------------------------------------------------
def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Start the cloud where it cannot start."""
    command = [PYTHON, "-m", "localaws", *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)


def test_a_taken_port_is_told(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("--port", str(port), "--cache", str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"port {port} is in use on this machine; choose another with PORT= (--port)\n"


def test_an_impossible_port_is_told(tmp_path):
    done = run("--port", "70000", "--cache", str(tmp_path))
    assert done.returncode == 2
    assert "70000" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


# -- its listeners ---------------------------------------------------------------------------------------
def family(pid: int) -> set[int]:
    """A process and all below it."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    found = {pid}
    while more := {p for p, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def listeners(pid: int) -> Iterator[tuple[str, str, int]]:
    """(protocol, hexadecimal address, port) of each socket on which the process or one below it listens."""
    inodes = set()
    for one in family(pid):
        for link in Path(f"/proc/{one}/fd").iterdir():
            try:
                inodes |= set(re.findall(r"socket:\[(\d+)\]", str(link.readlink())))
            except OSError:
                continue
    for protocol, states in {"tcp": {"0A"}, "tcp6": {"0A"}, "udp": {"07"}, "udp6": {"07"}}.items():
        for line in Path(f"/proc/{pid}/net/{protocol}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] in states and words[9] in inodes:
                address, _, port = words[1].partition(":")
                yield protocol, address, int(port, 16)


def test_all_listeners_are_on_this_machine_only(started):
    process, cloud = started()
    sleeping_build(cloud)
    functions, name = cloud.client("lambda"), cloud.name("function")
    archive = Path(cloud.log.parent / "f.zip")
    subprocess.run(
        [sys.executable, "-c", "import sys, zipfile; zipfile.ZipFile(sys.argv[1], 'w').writestr("
         "'index.py', 'def handler(event, context): return 42')", str(archive)], check=True,
    )  # fmt: skip
    functions.create_function(
        FunctionName=name, Role=cloud.role("lambda"), Runtime="python3.12", Handler="index.handler",
        Code={"ZipFile": archive.read_bytes()},
    )  # fmt: skip
    assert functions.invoke(FunctionName=name)["Payload"].read() == b"42"
    found = list(listeners(process.pid))
    assert ("tcp", "0100007F", cloud.port) in found
    assert {(protocol, address) for protocol, address, _ in found} == {("tcp", "0100007F")}, found


# -- a person's use of it --------------------------------------------------------------------------------
@pytest.fixture
def made(tmp_path: Path) -> Iterator[tuple[subprocess.Popen, int, list[str]]]:
    """`make cloud` in a shell of its own: the process, the port, and what it printed until it was ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "PYTHON", "MAKE"))}
    process = subprocess.Popen(
        ["make", "cloud", f"PORT={port}"], cwd=ROOT, env=env, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    lines: list[str] = []
    while not lines or not lines[-1].startswith("# ready"):
        line = process.stdout.readline()
        if not line:
            pytest.fail("make cloud: " + "".join(lines))
        lines.append(line)
    yield process, port, lines
    for pid in running(f"--port\0{port}"):
        os.kill(pid, signal.SIGKILL)
    process.kill()
    process.wait(10)
    process.stdout.close()


def test_make_cloud_is_used_with_the_aws_cli(made, tmp_path):
    process, port, lines = made
    exports = [line.rstrip("\n") for line in lines if line.startswith("export ")]
    assert f"export AWS_ENDPOINT_URL=http://localhost:{port}" in exports
    assert lines[-1] == f"# ready on http://localhost:{port}; Ctrl-C ends it\n"
    aws, shell = Path(PYTHON).parent / "aws", tmp_path / "exports"
    shell.write_text("\n".join(exports))

    def cli(command: str) -> Any:
        """What a person's shell answers who has pasted the export lines."""
        script = f"source {shell} && {aws} {command} --output json"
        env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
        done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout or "null")

    assert cli("sts get-caller-identity")["Account"] == "123456789012"
    cli("s3api create-bucket --bucket made-by-hand")  # of the emulators
    assert "made-by-hand" in {b["Name"] for b in cli("s3api list-buckets")["Buckets"]}
    cli("codecommit create-repository --repository-name by-hand")  # ours
    assert [r["repositoryName"] for r in cli("codecommit list-repositories")["repositories"]] == ["by-hand"]
    os.killpg(process.pid, signal.SIGINT)  # Ctrl-C reaches all of a terminal's processes
    process.wait(20)
    assert soon(lambda: not running(f"--port\0{port}"))
    assert not open_port(port)


def test_make_cloud_ends_with_make(made):
    process, port, _ = made
    process.kill()
    process.wait(10)
    assert soon(lambda: not running(f"--port\0{port}"))
    assert not open_port(port)
