"""Run a container image as a process: jobs and model servers, with the ``/opt/ml`` of SageMaker.

The process sees the image's files, the image's Python first on PATH, its own ``/opt/ml``, ``/tmp`` and home,
and exactly the environment it is given, nothing of the cloud's. namespace.py makes that root; process.py
keeps the process.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from localaws import process, toolbox

if TYPE_CHECKING:
    from localaws.cloud import Cloud

_SCRIPT = Path(__file__).with_name("namespace.py")
_SYSTEM_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
_NEEDED = (
    "Jobs and endpoints of the local cloud run in Linux mount namespaces. That takes root, or a "
    "kernel that allows "
    "user namespaces (kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0, "
    "user.max_user_namespaces > 0); inside Docker, run with --privileged or with "
    "--cap-add SYS_ADMIN --security-opt seccomp=unconfined --security-opt apparmor=unconfined."
)


class Image(Protocol):
    """What this module needs of a pulled image (images.Image)."""

    rootfs: Path
    env: dict[str, str]
    entrypoint: list[str]
    command: list[str]
    workdir: str
    python_env: Path


class ContainersUnavailable(RuntimeError):
    """This machine does not let the cloud make namespaces; the message says what is needed."""


def argv_of(
    image: Image, entrypoint: list[str] | None = None, arguments: list[str] | None = None
) -> list[str]:
    """The program and its arguments, as ``docker run --entrypoint`` puts them together."""
    if entrypoint:
        return [*entrypoint, *(arguments or [])]
    return [*image.entrypoint, *(image.command if arguments is None else arguments)]


def environment_of(image: Image, env: Mapping[str, Any]) -> dict[str, str]:
    """The container's environment: the image's, then ``env``, and what any container has."""
    merged = {
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        **image.env,
        **{k: str(v) for k, v in env.items()},
    }
    merged["HOME"] = "/root"
    merged["PATH"] = _path(merged.get("PATH", ""), str(image.python_env / "bin"))
    return merged


def _path(wanted: str, programs: str) -> str:
    """The image's PATH, its Python environment where an image has its Python: before the system's folders."""
    parts = [p for p in wanted.split(":") if p and p != programs]
    first = next((n for n, p in enumerate(parts) if p in _SYSTEM_PATH), len(parts))
    return ":".join([*parts[:first], programs, *parts[first:], *(p for p in _SYSTEM_PATH if p not in parts)])


def start(
    cloud: Cloud,
    image: Image,
    folder: Path,
    argv: list[str],
    env: Mapping[str, Any],
    stdout: Any,
    hosts: Iterable[str] = ("algo-1",),
) -> subprocess.Popen:
    """Start a container; ``folder/ml`` becomes its ``/opt/ml``, the rest of ``folder`` its ``/tmp`` and home.

    Raises ContainersUnavailable where the machine forbids namespaces, FileNotFoundError never: a program that
    the image lacks ends with code 127 and says so in the log, as in a container.
    """
    check()
    spec = _spec(image, folder, argv, hosts)
    spec["keep"] = [str(p) for p in {cloud.cache, folder, image.rootfs, *_python_of(image.python_env)}]
    file = folder / "container.json"
    file.write_text(json.dumps(spec))
    # The namespace is entered by this cloud's own Python; the program then gets the image's.
    return process.start(
        [sys.executable, "-I", "-S", _SCRIPT, file], cwd=folder, env=environment_of(image, env), stdout=stdout
    )


def build_argv(cache: Path, image: Image, folder: Path, argv: list[str], upper: Path) -> list[str]:
    """The command that runs ``argv`` as a RUN of an image's build: what it changes is kept, files below
    ``upper`` and packages in the image's own Python environment.

    Raises ContainersUnavailable where the machine forbids namespaces.
    """
    check()
    spec = _spec(image, folder, argv, ())
    spec["upper"] = str(upper.resolve())
    kept = {cache, folder, image.rootfs, *_python_of(image.python_env)}
    # The build's pip is this package's (toolbox.py), which may lie below /tmp or /root too.
    kept |= {_SCRIPT.parent, Path(toolbox.uv()).resolve().parent, *_python_of(Path(sys.prefix))}
    spec["keep"] = [str(p) for p in kept]
    file = folder / "container.json"
    file.write_text(json.dumps(spec))
    return [sys.executable, "-I", "-S", str(_SCRIPT), str(file)]


def _spec(image: Image, folder: Path, argv: list[str], hosts: Iterable[str]) -> dict[str, Any]:
    folders = {"tmp": folder / "tmp", "root": folder / "home"}
    for path in (*folders.values(), folder / "ml", folder / "scratch"):
        path.mkdir(parents=True, exist_ok=True)
    folders["tmp"].chmod(0o1777)
    return {
        "rootfs": str(image.rootfs.resolve()),
        "python_env": str(image.python_env.absolute()),
        "ml": str(folder / "ml"),
        "scratch": str(folder / "scratch"),
        "folders": {k: str(v) for k, v in folders.items()},
        "hosts": list(hosts),
        "workdir": image.workdir or "/",
        "argv": argv,
        "keep": [],
    }


def _python_of(environment: Path) -> set[Path]:
    """The folders that a virtual environment's interpreter is made of, wherever they lie."""
    real = Path(os.path.realpath(environment / "bin" / "python"))
    found = {environment, real.parent.parent}
    home = [
        line.partition("=")[2].strip()
        for line in _lines(environment / "pyvenv.cfg")
        if line.startswith("home")
    ]
    return found | {Path(h).parent for h in home}


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.is_file() else []


@functools.cache
def check() -> None:
    """Make one empty container. Raises ContainersUnavailable."""
    with tempfile.TemporaryDirectory(prefix="localaws-trial-") as name:
        folder = Path(name).resolve()
        for path in ("rootfs", "env/bin"):
            (folder / path).mkdir(parents=True)
        (folder / "env/bin/python").symlink_to(os.path.realpath(sys.executable))
        trial = _Trial(folder / "rootfs", {}, [], [], "/", folder / "env")
        (folder / "job").mkdir()
        file = folder / "trial.json"
        file.write_text(json.dumps({**_spec(trial, folder / "job", [], ()), "keep": [name]}))
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(_SCRIPT), str(file)], capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise ContainersUnavailable(f"{(done.stderr or done.stdout).strip().splitlines()[-1]}. {_NEEDED}")


class _Trial:
    def __init__(
        self, rootfs: Path, env: dict, entrypoint: list, command: list, workdir: str, python_env: Path
    ) -> None:
        self.rootfs, self.env, self.entrypoint = rootfs, env, entrypoint
        self.command, self.workdir, self.python_env = command, workdir, python_env
