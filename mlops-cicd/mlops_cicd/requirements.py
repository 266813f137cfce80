"""What a build may install: packages at one version, each file of which has a known hash (flow E).

pip refuses a file without hashes by itself. What it would follow are the options and addresses that a
requirements file may hold: another index, an archive from anywhere, a folder whose setup.py it runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from .console import Fault, quoted

FILES = ("requirements-dev.txt", "containers/requirements.txt")
PIN = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._-]*(\[[A-Za-z0-9,._-]+\])?==[A-Za-z0-9.!+_-]+"  # name[extra]==version
    r"( *; *[\w\s.'\"<>=!~()-]+?)?"  # environment marker
    r"( +--hash=sha256:[0-9a-f]{64})+",
    re.ASCII,
)
MOST_PROBLEMS = 5


def entries(text: str) -> Iterator[tuple[int, str]]:
    """The entries of a requirements file with their line, comments dropped and continued lines joined."""
    start, pending = 0, ""
    for number, line in enumerate(text.splitlines(), start=1):
        start = start or number
        stripped = re.sub(r"(^|\s)#.*$", "", line).strip()
        if stripped.endswith("\\"):
            pending += stripped[:-1] + " "
            continue
        if entry := " ".join((pending + stripped).split()):
            yield start, entry
        start, pending = 0, ""
    if pending.strip():
        yield start, " ".join(pending.split())


def check_requirements(project: Path) -> None:
    """Every requirements file of a project holds pins with hashes and nothing else."""
    problems: list[str] = []
    for name in FILES:
        path = project / name
        if not path.is_file():
            raise Fault(f"the repository has no {name}: restore it from the project template")
        for line, entry in entries(path.read_text(encoding="utf-8", errors="replace")):
            if not PIN.fullmatch(entry):
                problems.append(f"{name} line {line}: {quoted(entry)}")
    if problems:
        more = [f"and {len(problems) - MOST_PROBLEMS} more"] if len(problems) > MOST_PROBLEMS else []
        raise Fault(
            "\n  ".join(
                [
                    "only packages with version and hash are installed (name==version --hash=sha256:…), from "
                    "the private index; found:",
                    *problems[:MOST_PROBLEMS],
                    *more,
                    "write the package into the .in file beside it, then run `pip install pip-tools` and the "
                    "command that stands in the first lines of the .txt file",
                ]
            )
        )
