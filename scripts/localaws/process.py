"""Processes of builds, jobs and endpoints: each in a group of its own, none left when the cloud is gone.

``start`` puts a small keeper process (this file, run as a script) between the cloud and the program. The
keeper holds one end of a pipe whose other end the cloud holds: when the cloud ends, also by kill -9, the pipe
closes and the keeper kills the program with everything it started. (PR_SET_PDEATHSIG alone will not do: it
fires when the *thread* that forked ends, is lost in a new user namespace, and reaches the direct child only.)
The keeper is the program's "init": what the program leaves running in the background ends with it, as in a
container.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time

TYPE_CHECKING = False  # not typing's: the keeper starts in 15 ms because it imports next to nothing
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from subprocess import Popen
    from typing import Any

_running: set = set()


def start(
    argv: Sequence[str | Path],
    *,
    cwd: str | Path | None,
    env: Mapping[str, str],
    stdout: Any,
    stderr: Any = None,
    stdin: Any = None,
) -> Popen:
    """Start a program with exactly this environment; ``stderr`` goes to ``stdout``'s file unless given.

    ``wait`` and ``returncode`` are the program's own (``-9`` after a SIGKILL). Raises FileNotFoundError at
    once for a program that is not on the given environment's PATH.
    """
    import shutil
    import subprocess

    words = [str(word) for word in argv]
    if "/" not in words[0] and shutil.which(words[0], path=env.get("PATH", os.defpath)) is None:
        raise FileNotFoundError(f"{words[0]}: not found on PATH {env.get('PATH', os.defpath)}")
    theirs, ours = os.pipe()
    try:
        popen = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(theirs), *words],
            cwd=cwd,
            env=dict(env),
            stdout=stdout,
            stderr=subprocess.STDOUT if stderr is None else stderr,
            stdin=subprocess.DEVNULL if stdin is None else stdin,
            pass_fds=(theirs,),
            start_new_session=True,
        )
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    popen.lifeline = _Lifeline(ours)  # type: ignore[attr-defined]
    # threads start programs at once: a copy of the set is made in one step, its iteration is not one
    _running.difference_update([p for p in list(_running) if p.poll() is not None])
    _running.add(popen)  # a reference, so that a caller who forgets the object does not end the program
    return popen


def kill_tree(popen: Popen, grace: float = 0.0) -> None:
    """End a program and all that it started: SIGTERM, ``grace`` seconds later SIGKILL."""
    import subprocess

    if grace > 0 and popen.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            popen.terminate()  # the keeper passes it on
        with contextlib.suppress(subprocess.TimeoutExpired):
            popen.wait(grace)
    popen.lifeline.close()  # type: ignore[attr-defined]
    try:
        popen.wait(5)
    except subprocess.TimeoutExpired:  # a keeper that does not answer
        with contextlib.suppress(ProcessLookupError):
            os.killpg(popen.pid, signal.SIGKILL)
        popen.wait(5)


def kill_all() -> None:
    """End every program that was started here (the cloud shuts down)."""
    for popen in list(_running):
        popen.lifeline.close()
    for popen in list(_running):
        kill_tree(popen)


class _Lifeline:
    """The cloud's end of the pipe; open as long as the program may live."""

    def __init__(self, fd: int) -> None:
        self.fd: int | None = fd

    def close(self) -> None:
        fd, self.fd = self.fd, None
        if fd is not None:
            os.close(fd)

    __del__ = close


# -- the keeper ------------------------------------------------------------------------------------------
def _keep(lifeline: int, argv: list[str]) -> None:
    """Run a program until it ends or the lifeline closes; ends as the program ended."""
    _prctl(36)  # PR_SET_CHILD_SUBREAPER: what the program orphans becomes ours
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    stopping = []
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: stopping.append(signal.SIGTERM))
    signal.signal(signal.SIGINT, lambda *_: stopping.append(signal.SIGINT))
    os.set_inheritable(lifeline, False)
    child = os.fork()
    if child == 0:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)  # Python ignores SIGPIPE; programs must not inherit that
        _prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: should the keeper itself be killed
        try:
            os.execvp(argv[0], argv)  # noqa: S606 - the service that it keeps
        except OSError as error:
            os.write(2, f"{argv[0]}: {error.strerror}\n".encode())
            os._exit(127 if isinstance(error, FileNotFoundError) else 126)
    status = None
    while status is None:
        readable, _, _ = select.select([lifeline, woken], [], [])
        if woken in readable:
            os.read(woken, 4096)
        while stopping:
            _signal_all(stopping.pop(0))
        if lifeline in readable:
            _signal_all(signal.SIGKILL)
        status = _reap(child)
    _end_rest()
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        with contextlib.suppress(ImportError, ValueError):
            import resource

            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _reap(child: int) -> int | None:
    """Collect what has ended; the program's status when it is among it."""
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == child:
            found = status


def _end_rest() -> None:
    """Kill what the program left behind."""
    for _ in range(100):
        _signal_all(signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.02)


def _signal_all(number: int) -> None:
    """Send a signal to every descendant, whatever group or session it has moved to."""
    for pid in _descendants(os.getpid()):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _descendants(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for pid, parent in _processes():
        children.setdefault(parent, []).append(pid)
    found, todo = [], [root]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def _processes() -> list[tuple[int, int]]:
    """(pid, parent) of each process of this machine."""
    out = []
    if not os.path.isdir("/proc/self"):  # noqa: PTH112 - no pathlib: it doubles the keeper's start
        for line in os.popen("ps -axo pid=,ppid="):  # noqa: S605 - fixed; subprocess doubles the start
            pid, parent = line.split()
            out.append((int(pid), int(parent)))
        return out
    for name in os.listdir("/proc"):  # noqa: PTH208
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123
                    stat = file.read()
            except OSError:
                continue
            out.append((int(name), int(stat[stat.rindex(b")") + 2 :].split()[1])))
    return out


def _prctl(option: int, value: int = 1) -> None:
    """Call prctl(2) where there is one; the pipe works without it."""
    with contextlib.suppress(Exception):
        import ctypes

        ctypes.CDLL(None).prctl(option, int(value), 0, 0, 0)


if __name__ == "__main__":
    _keep(int(sys.argv[1]), sys.argv[2:])
