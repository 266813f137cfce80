"""Processes of the cloud: none is left when the cloud is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from localaws import process

PATH = {"PATH": "/usr/local/bin:/usr/bin:/bin"}


def alive(mark: str) -> list[int]:
    """Processes whose command line holds the mark."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if mark in (entry / "cmdline").read_text() and (entry / "stat").read_text().split()[2] != "Z":
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def soon(condition: Callable[[], bool], seconds: float = 5) -> bool:
    """Whether the condition comes true."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def test_exit_code_output_and_environment(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out:
        command = ["sh", "-c", "echo $A; echo oops >&2; exit 3"]
        popen = process.start(command, cwd=tmp_path, env={**PATH, "A": "b"}, stdout=out)
        assert popen.wait(10) == 3
    assert (tmp_path / "out").read_text() == "b\noops\n"


def test_signal_of_the_program_is_the_return_code(tmp_path: Path) -> None:
    popen = process.start(["sh", "-c", "kill -SEGV $$"], cwd=tmp_path, env=PATH, stdout=subprocess.DEVNULL)
    assert popen.wait(10) == -signal.SIGSEGV


def test_unknown_program_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        process.start(["no-such-program"], cwd=tmp_path, env=PATH, stdout=None)


def test_kill_tree_ends_what_left_the_group(tmp_path: Path) -> None:
    command = ["sh", "-c", "setsid sleep 7771 & sleep 7771"]
    popen = process.start(command, cwd=tmp_path, env=PATH, stdout=subprocess.DEVNULL)
    assert soon(lambda: len(alive("sleep\x007771")) == 2)
    process.kill_tree(popen)
    assert popen.returncode == -signal.SIGKILL
    assert not alive("sleep\x007771")


def test_kill_tree_lets_the_program_say_goodbye(tmp_path: Path) -> None:
    script = "trap 'echo bye > bye; exit 5' TERM; touch ready; while :; do sleep 0.05; done"
    popen = process.start(["sh", "-c", script], cwd=tmp_path, env=PATH, stdout=subprocess.DEVNULL)
    assert soon((tmp_path / "ready").exists)
    process.kill_tree(popen, grace=5)
    assert popen.returncode == 5
    assert (tmp_path / "bye").exists()


def test_what_the_program_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    popen = process.start(
        ["sh", "-c", "(setsid sleep 7772 &)"], cwd=tmp_path, env=PATH, stdout=subprocess.DEVNULL
    )
    assert popen.wait(10) == 0
    assert not alive("sleep\x007772")


@pytest.mark.parametrize("from_a_thread", [False, True], ids=["main thread", "thread that has ended"])
def test_kill_9_of_the_owner_leaves_nothing(tmp_path: Path, from_a_thread: bool) -> None:
    owner = f"""
import sys, threading, time
from localaws import process
def start():
    command = ["sh", "-c", "setsid sleep 7773 & sleep 7773"]
    process.start(command, cwd={str(tmp_path)!r}, env={PATH!r}, stdout=None)
if {from_a_thread}:
    thread = threading.Thread(target=start); thread.start(); thread.join()
else:
    start()
time.sleep(60)
"""
    scripts = Path(process.__file__).parents[1]
    started = subprocess.Popen(
        [sys.executable, "-c", owner],
        env={**os.environ, "PYTHONPATH": str(scripts)},
        stdout=subprocess.DEVNULL,
    )
    assert soon(lambda: len(alive("sleep\x007773")) == 2)
    time.sleep(0.2)
    assert len(alive("sleep\x007773")) == 2, "it ended with the thread that started it"
    started.kill()
    started.wait()
    assert soon(lambda: not alive("sleep\x007773"))
