"""Makes the environments that everything else runs in; every make target calls it first, and it does
nothing when nothing changed.

`.venv` (templates, scripts, tests), `.venv-localaws` (the local cloud), `.venv-check` (the scanners; `make
check` asks for it), `.venv-bench` (what `make bench` compares with, and asks for), the wheel store
`.cache/wheels` (what builds inside the local cloud install from) and the oracle of tests/security (npm; `make
test` asks for it) are made from lock files. A stamp in each holds the hash of its lock, so a second run costs
milliseconds and needs no network. Only the standard
library may be imported here: this runs before anything is installed.
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 11):  # before any import or syntax that an older Python does not know
    sys.exit(
        f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}: "
        "install it, then make PYTHON=python3.11"
    )

import argparse
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache"
BOOTSTRAP = CACHE / "bootstrap"
WHEELS = CACHE / "wheels"
ORACLE = ROOT / "tests/security/oracle"
# directories of requirements/ locks, by what make asks for
ENVIRONMENTS = {
    "dev": ROOT / ".venv",
    "localaws": ROOT / ".venv-localaws",
    "check": ROOT / ".venv-check",
    "bench": ROOT / ".venv-bench",
    "bench-serving": ROOT / ".venv-bench-serving",
}
# packages that are never imported, or that ask for packages of long ago: what they ask for is left out
WITHOUT_DEPENDENCIES = {"check": "check-rules", "bench-serving": "bench-serving-toolkit"}
# what is installed inside the local cloud: the lock of each is requirements/wheels-<name>.txt
WHEEL_LOCKS = ("cicd", "project", "image-sklearn")


WITHIN_CICD = ("--constraint", "requirements/wheels-cicd.txt")
WITHIN_PROJECT = ("--constraint", "requirements/wheels-project.txt")
# how a Data Scientist, who has no `make lock`, resolves a project's requirements anew
COMPILE = "pip-compile --generate-hashes --allow-unsafe --output-file={0}.txt {0}.in"


class SetupError(RuntimeError):
    """Something that the person at the keyboard has to mend; the message says what."""


def say(text: str) -> None:
    """Progress goes to stderr: stdout belongs to what make was asked for."""
    print(f"setup: {text}", file=sys.stderr, flush=True)


def check_prerequisites() -> None:
    """Git and the venv module are all that is needed beside Python and make."""
    if not shutil.which("git"):
        raise SetupError("git was not found: install it, then run make again")
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError as error:
        raise SetupError(
            f"this Python cannot make virtual environments ({error}): "
            "on Debian or Ubuntu install python3-venv, then run make again"
        ) from error


def digest(*parts: Path | str) -> str:
    """What an environment depends on: the interpreter and its lock."""
    sha = hashlib.sha256(f"{sys.version}|{sys.platform}|{os.uname().machine}".encode())
    for part in parts:
        sha.update(part.read_bytes() if isinstance(part, Path) else part.encode())
    return sha.hexdigest()


def is_fresh(folder: Path, wanted: str) -> bool:
    """True when the folder was finished for exactly this digest."""
    stamp = folder / ".stamp"
    return stamp.is_file() and stamp.read_text() == wanted


def run(command: list[str], env: dict[str, str] | None = None) -> None:
    """Run one installer command; its output is shown only when it fails."""
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-25:])
        raise SetupError(f"{' '.join(command[:6])} … failed with exit code {done.returncode}:\n{tail}")


def pip_configuration() -> dict[str, str]:
    """The user's pip settings; uv does not read them, so a private index or certificate would be lost."""
    done = subprocess.run(
        [str(BOOTSTRAP / "bin/python"), "-m", "pip", "config", "list"],
        capture_output=True,
        text=True,
        check=True,
    )
    settings: dict[str, str] = {}
    for line in done.stdout.splitlines():
        name, _, value = line.partition("=")
        # the later line wins, as in pip: environment over user over global
        scope, _, key = name.rpartition(".")
        if scope in ("global", "install", ":env:"):
            settings[key] = value.strip("'\"")
    settings |= {
        name[4:].lower().replace("_", "-"): value
        for name, value in os.environ.items()
        if name.startswith("PIP_") and value
    }
    return settings


def uv_options(settings: dict[str, str]) -> list[str]:
    """Translate pip's settings to uv's options."""
    options: list[str] = []
    if settings.get("no-index", "").lower() in ("1", "true", "yes"):
        options.append("--no-index")
    if settings.get("index-url"):
        options += ["--index-url", settings["index-url"]]
    for url in settings.get("extra-index-url", "").split():
        options += ["--extra-index-url", url]
    for place in settings.get("find-links", "").split():
        if "://" in place or Path(place).is_dir():
            options += ["--find-links", place]
    if settings.get("extra-index-url"):
        # pip looks at all indexes for the best version; uv stops at the first that knows the name
        options += ["--index-strategy", "unsafe-best-match"]
    return options


def uv_environment(settings: dict[str, str]) -> dict[str, str]:
    """Translate what uv reads from the environment only."""
    env = dict(os.environ)
    if settings.get("cert"):
        env.setdefault("SSL_CERT_FILE", settings["cert"])
    if settings.get("timeout") or settings.get("default-timeout"):
        env.setdefault("UV_HTTP_TIMEOUT", settings.get("timeout") or settings["default-timeout"])
    env.pop("VIRTUAL_ENV", None)
    return env


def make_bootstrap() -> None:
    """A small environment that holds the pinned uv, installed by the user's pip."""
    lock = ROOT / "requirements/bootstrap.txt"
    wanted = digest(lock)
    if is_fresh(BOOTSTRAP, wanted):
        return
    say("bootstrap (uv)")
    shutil.rmtree(BOOTSTRAP, ignore_errors=True)
    run([sys.executable, "-m", "venv", str(BOOTSTRAP)])
    pip = [str(BOOTSTRAP / "bin/python"), "-m", "pip", "install", "--quiet", "--no-deps"]
    run([*pip, "--only-binary=:all:", "--require-hashes", "-r", str(lock)])
    (BOOTSTRAP / ".stamp").write_text(wanted)


def make_environment(name: str) -> None:
    """One virtual environment, exactly as its lock says."""
    folder = ENVIRONMENTS[name]
    names = [name, *([WITHOUT_DEPENDENCIES[name]] if name in WITHOUT_DEPENDENCIES else [])]
    locks = [ROOT / f"requirements/{lock}.txt" for lock in names]
    wanted = digest(*locks)
    if is_fresh(folder, wanted):
        return
    make_bootstrap()
    say(f"{folder.name} from {' and '.join(lock.relative_to(ROOT).as_posix() for lock in locks)}")
    settings = pip_configuration()
    env = uv_environment(settings)
    uv = str(BOOTSTRAP / "bin/uv")
    shutil.rmtree(folder, ignore_errors=True)
    run([uv, "venv", "--quiet", "--python", sys.executable, str(folder)], env)
    python = str(folder / "bin/python")
    options = uv_options(settings)
    # compiled once here: every test, build and notebook starts in processes of its own
    sync = [uv, "pip", "sync", "--quiet", "--compile-bytecode", "--require-hashes", "--python", python]
    run([*sync, *options, *map(str, locks)], env)
    (folder / ".stamp").write_text(wanted)


def make_wheels() -> None:
    """Fill the wheel store with everything that a build or an image inside the local cloud may install."""
    locks = [ROOT / f"requirements/wheels-{name}.txt" for name in WHEEL_LOCKS]
    wanted = digest(*locks)
    if is_fresh(WHEELS, wanted):
        return
    make_bootstrap()
    say("wheel store .cache/wheels")
    WHEELS.mkdir(parents=True, exist_ok=True)
    (WHEELS / ".stamp").unlink(missing_ok=True)
    pip = [
        str(BOOTSTRAP / "bin/python"),
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",  # a source distribution runs code of its own when it is built
        "--wheel-dir",
        str(WHEELS),
    ]
    for lock in locks:
        run([*pip, "--require-hashes", "-r", str(lock)])
    (WHEELS / ".stamp").write_text(wanted)


def make_oracle() -> None:
    """The simulator of IAM that tests compare the local cloud with: a package of npm, for tests only."""
    wanted = digest(ORACLE / "package.json", ORACLE / "package-lock.json")
    if is_fresh(ORACLE / "node_modules", wanted):
        return
    if not (shutil.which("node") and shutil.which("npm")):
        raise SetupError(
            "node and npm were not found: the tests compare decisions about permissions with a simulator "
            "that runs in them. Install Node.js 20 or newer, then run make again (only tests need it)"
        )
    say("the oracle of tests/security (npm)")
    # nothing of these packages runs at installation
    run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(ORACLE)])
    (ORACLE / "node_modules/.stamp").write_text(wanted)


def project_requirements(folder: Path) -> list[str]:
    """What every composed project asks for, written where uv can read it."""
    import compose

    written = []
    for framework, inference in compose.combinations():
        for path, content in compose.compose(framework, inference).items():
            if re.fullmatch(r"(.*/)?requirements[\w-]*\.in", path):
                target = folder / f"{framework}-{inference}" / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
                written.append(str(target))
    return written


def resolve(
    lock: str, inputs: list[str], settings: dict[str, str], extra: Sequence[str] = (), by: str = "make lock"
) -> None:
    """One lock file from its inputs, for every Python from 3.11 on, with hashes."""
    output = lock if "/" in lock else f"requirements/{lock}.txt"
    say(f"resolving {output}")
    command = [
        str(BOOTSTRAP / "bin/uv"),
        "pip",
        "compile",
        "--quiet",
        "--universal",
        "--python-version",
        "3.11",
    ]
    command += ["--generate-hashes", "--no-emit-index-url", "--no-emit-find-links", "--no-annotate"]
    # only the main index: a wheel that some machine built itself has a hash that no other machine can check
    only_index = {key: value for key, value in settings.items() if key == "index-url"}
    command += [*uv_options(only_index), "--custom-compile-command", by]
    command += ["--output-file", output, *extra, *inputs]
    done = subprocess.run(command, cwd=ROOT, env=uv_environment(settings), capture_output=True, text=True)
    if done.returncode:
        raise SetupError(f"{output} cannot be resolved:\n{done.stderr}")


def write_locks() -> None:
    """Resolve requirements/*.in and what is installed inside the local cloud anew; `make lock` calls this."""
    make_bootstrap()
    settings = pip_configuration()
    for name in ENVIRONMENTS:
        resolve(name, [f"requirements/{name}.in"], settings)
    for name in WITHOUT_DEPENDENCIES.values():
        resolve(name, [f"requirements/{name}.in"], settings, ("--no-deps",))
    resolve("bootstrap", ["requirements/bootstrap.in"], settings)
    # What builds install: the store holds all of it, and each lock is a part of the store's.
    cicd = sorted(p.relative_to(ROOT).as_posix() for p in ROOT.glob("mlops-cicd/requirements*.in"))
    resolve("wheels-cicd", cicd, settings)
    for name in cicd:
        resolve(f"{name[:-3]}.txt", [name], settings, WITHIN_CICD)
    resolve("wheels-image-sklearn", ["requirements/image-sklearn.in"], settings)
    with tempfile.TemporaryDirectory() as folder:
        wanted = project_requirements(Path(folder))
        resolve("wheels-project", wanted, settings)
        for name in (one for one in wanted if one.endswith("/requirements-dev.in")):
            lock = f"seedcode-repo/locks/{Path(name).parent.name}.txt"
            resolve(lock, [name], settings, WITHIN_PROJECT, COMPILE.format("requirements-dev"))
    for path in sorted(ROOT.glob("seedcode-repo/frameworks/*/containers/requirements.in")):
        # pip must leave alone what the SageMaker image brings
        image = (ROOT / f"requirements/image-{path.parts[-3]}.in").read_text()
        brought = sorted(set(re.findall(r"^([A-Za-z0-9._-]+)==", image, re.MULTILINE)))
        left_out = [word for name in brought for word in ("--no-emit-package", name)]
        name = path.relative_to(ROOT).as_posix()
        by = COMPILE.format("requirements")
        resolve(f"{name[:-3]}.txt", [name], settings, [*WITHIN_PROJECT, *left_out], by)


@contextmanager
def one_at_a_time():
    """Two make runs at once must not build the same environment twice; the second waits for the first."""
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "setup.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def main(argv: list[str] | None = None) -> int:
    """Make what is asked for; exit 0 when it is there."""
    steps: dict[str, Callable[[], None]] = {
        "dev": lambda: make_environment("dev"),
        "localaws": lambda: make_environment("localaws"),
        "check": lambda: make_environment("check"),
        "bench": lambda: make_environment("bench"),
        "bench-serving": lambda: make_environment("bench-serving"),
        "wheels": make_wheels,
        "oracle": make_oracle,
        "lock": write_locks,
    }
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[*steps, []], help="default: dev localaws wheels")
    parts = parser.parse_args(argv).parts or ["dev", "localaws", "wheels"]
    began = time.monotonic()
    try:
        check_prerequisites()
        with one_at_a_time():
            for part in parts:
                steps[part]()
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    if time.monotonic() - began > 2:
        say(json.dumps({"seconds": round(time.monotonic() - began, 1), "parts": parts}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
