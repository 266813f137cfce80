"""Reads a Dockerfile: instructions with their line, continued lines joined, ARG and ENV put in."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

KNOWN = {
    "FROM",
    "ARG",
    "ENV",
    "LABEL",
    "WORKDIR",
    "COPY",
    "ADD",
    "RUN",
    "ENTRYPOINT",
    "CMD",
    "EXPOSE",
    "USER",
    "VOLUME",
    "STOPSIGNAL",
    "HEALTHCHECK",
    "SHELL",
    "MAINTAINER",
}
_VARIABLE = re.compile(r"\\(\$)|\$(?:(\w+)|\{(\w+)(?::([-+])([^}]*))?\})")


class DockerfileError(ValueError):
    """A Dockerfile that cannot be read; the message names the line."""


@dataclass(frozen=True)
class Instruction:
    """One instruction: its name, flags (``--from=…``), the rest, and where it stands."""

    name: str
    flags: dict[str, list[str]]
    value: str
    line: int
    text: str

    def words(self) -> list[str]:
        """The value as a list: JSON (exec) form or words."""
        exec_form = self.exec_form()
        return exec_form if exec_form is not None else shlex.split(self.value)

    def exec_form(self) -> list[str] | None:
        """The value as a JSON list, None in shell form."""
        if self.value.startswith("["):
            try:
                found = json.loads(self.value)
            except ValueError:
                return None
            if isinstance(found, list) and all(isinstance(word, str) for word in found):
                return found
        return None


def read(text: str) -> list[Instruction]:
    """The instructions of a Dockerfile.

    Raises DockerfileError for an unknown instruction or a file without FROM.
    """
    out, pending, first = [], "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#") or (pending and not line.strip()):
            continue
        first = first if pending else number
        pending += line.strip() if not pending else " " + line.strip()
        if pending.endswith("\\"):
            pending = pending[:-1].rstrip()
            continue
        if pending:
            out.append(_instruction(pending, first))
        pending = ""
    if pending:
        out.append(_instruction(pending, first))
    if not any(i.name == "FROM" for i in out):
        raise DockerfileError("the Dockerfile has no FROM instruction")
    return out


def _instruction(text: str, line: int) -> Instruction:
    name, _, rest = text.partition(" ")
    name, rest, flags = name.upper(), rest.strip(), {}
    if name not in KNOWN:
        raise DockerfileError(f"line {line}: unknown instruction: {name}")
    while match := re.match(r"--([a-z-]+)(?:=(\S+))?\s+", rest):
        flags.setdefault(match[1], []).append(match[2] or "")
        rest = rest[match.end() :]
    if not rest:
        raise DockerfileError(f"line {line}: {name} requires at least one argument")
    return Instruction(name, flags, rest, line, text)


def substitute(text: str, values: Mapping[str, str]) -> str:
    """``$NAME``, ``${NAME}``, ``${NAME:-word}`` and ``${NAME:+word}`` replaced."""

    def value(match: re.Match[str]) -> str:
        if match[1]:
            return "$"
        found = values.get(match[2] or match[3] or "", "")
        if match[4] == "-":
            return found or match[5]
        if match[4] == "+":
            return match[5] if found else ""
        return found

    return _VARIABLE.sub(value, text)


def pairs(value: str, line: int) -> dict[str, str]:
    """``NAME=value …`` or the old ``NAME value``."""
    words = shlex.split(value)
    if "=" not in words[0]:
        name, _, rest = value.partition(" ")
        return {name: rest.strip()}
    broken = [word for word in words if "=" not in word]
    if broken:
        raise DockerfileError(f"line {line}: {broken[0]!r} is not of the form NAME=value")
    return dict(word.split("=", 1) for word in words)
