"""CodeBuild's buildspec, version 0.2: read, checked, and its errors worded as CodeBuild words them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

PHASES = ("install", "pre_build", "build", "post_build")
_TOP = {"version", "run-as", "env", "proxy", "batch", "phases", "reports", "artifacts", "cache"}
_ENV = {
    "shell",
    "variables",
    "parameter-store",
    "secrets-manager",
    "exported-variables",
    "git-credential-helper",
}
_PHASE = {"run-as", "on-failure", "runtime-versions", "commands", "finally"}
_ARTIFACTS = {
    "files",
    "name",
    "discard-paths",
    "base-directory",
    "exclude-paths",
    "enable-symlinks",
    "s3-prefix",
    "secondary-artifacts",
    "secondary-artifacts-name",
}


class BuildspecError(ValueError):
    """A buildspec that CodeBuild would refuse (``YAML_FILE_ERROR``)."""


class _Strings(yaml.SafeLoader):
    """Reads scalars as they are written.

    ``VERSION: 1.10`` is the text ``1.10``, ``true`` the text ``true``.
    """


_Strings.yaml_implicit_resolvers = {
    first: [
        (tag, expression)
        for tag, expression in rules
        if tag in ("tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")
    ]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


@dataclass(frozen=True)
class Phase:
    """One phase's commands."""

    name: str
    commands: list[str] = field(default_factory=list)
    finally_: list[str] = field(default_factory=list)
    on_failure: str = ""
    runtimes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Artifacts:
    """Which files make an output artifact."""

    files: list[str]
    name: str = ""
    base: str = ""
    discard_paths: bool = False
    exclude: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Buildspec:
    """A checked buildspec."""

    shell: str
    variables: dict[str, str]
    parameters: dict[str, str]
    secrets: dict[str, str]
    exported: list[str]
    phases: dict[str, Phase]
    artifacts: Artifacts | None
    secondary: dict[str, Artifacts]
    ignored: list[str]


def parse(text: str) -> Buildspec:
    """Read a buildspec. Raises BuildspecError naming the key that is wrong."""
    try:
        document = yaml.load(text, Loader=_Strings)  # noqa: S506 - a SafeLoader without type guessing
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise BuildspecError(f"{getattr(error, 'problem', None) or error}{where}") from error
    if not isinstance(document, dict):
        raise BuildspecError("the buildspec is not a YAML mapping")
    _keys(document, _TOP, "the buildspec")
    version = document.get("version")
    if version != "0.2":
        raise BuildspecError(f"version is {version!r}; the local cloud runs buildspec version 0.2")
    env = _mapping(document, "env", "the buildspec")
    _keys(env, _ENV, "env")
    shell = env.get("shell", "sh")
    if shell not in ("sh", "bash", "/bin/sh", "/bin/bash"):
        raise BuildspecError(f"env.shell is {shell!r}; on Linux it is sh or bash")
    exported = _strings(env, "exported-variables", "env")
    for name in exported:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise BuildspecError(f"env.exported-variables: {name!r} is not the name of a variable")
    found = _mapping(document, "phases", "the buildspec")
    _keys(found, set(PHASES), "phases")
    if not found:
        raise BuildspecError("phases: at least one phase is needed")
    phases = {name: _phase(name, found.get(name) or {}) for name in PHASES if name in found}
    primary, secondary = None, {}
    artifacts = _mapping(document, "artifacts", "the buildspec")
    if artifacts:
        _keys(artifacts, _ARTIFACTS, "artifacts")
        named = _mapping(artifacts, "secondary-artifacts", "artifacts")
        secondary = {
            name: _artifacts(value, f"artifacts.secondary-artifacts.{name}") for name, value in named.items()
        }
        if artifacts.get("files") or not named:
            primary = _artifacts(artifacts, "artifacts")
    ignored = [key for key in ("cache", "reports", "proxy", "batch", "run-as") if key in document]
    return Buildspec(
        shell.rpartition("/")[2],
        _texts(env, "variables", "env"),
        _texts(env, "parameter-store", "env"),
        _texts(env, "secrets-manager", "env"),
        exported,
        phases,
        primary,
        secondary,
        ignored,
    )


def _phase(name: str, value: Any) -> Phase:
    if not isinstance(value, dict):
        raise BuildspecError(f"phases.{name} is not a mapping")
    _keys(value, _PHASE, f"phases.{name}")
    on_failure = value.get("on-failure", "")
    if on_failure not in ("", "ABORT", "CONTINUE"):
        raise BuildspecError(
            f"phases.{name}.on-failure is {on_failure!r}; the local cloud knows ABORT and CONTINUE"
        )
    return Phase(
        name,
        _commands(value, "commands", name),
        _commands(value, "finally", name),
        on_failure,
        _texts(value, "runtime-versions", f"phases.{name}"),
    )


def _commands(value: dict, key: str, phase: str) -> list[str]:
    found = value.get(key)
    if found is None:
        return []
    if isinstance(found, str):
        return [found]
    if not isinstance(found, list):
        raise BuildspecError(f"phases.{phase}.{key} is not a list of commands")
    for number, command in enumerate(found):
        if not isinstance(command, str):
            raise BuildspecError(
                f"Expected Commands[{number}] to be of string type: found {_kind(command)} instead in "
                f"phases.{phase}.{key}; "
                "quote a command that holds ': '"
            )
    return found


def _artifacts(value: Any, where: str) -> Artifacts:
    if not isinstance(value, dict):
        raise BuildspecError(f"{where} is not a mapping")
    _keys(value, _ARTIFACTS, where)
    files = _strings(value, "files", where)
    if not files:
        raise BuildspecError(f"{where}.files is missing")
    discard = str(value.get("discard-paths", "no")).lower()
    return Artifacts(
        files,
        value.get("name") or "",
        value.get("base-directory") or "",
        discard in ("yes", "true"),
        _strings(value, "exclude-paths", where),
    )


def _mapping(document: dict, key: str, where: str) -> dict:
    value = document.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BuildspecError(f"{key} of {where} is not a mapping")
    return value


def _texts(document: dict, key: str, where: str) -> dict[str, str]:
    value = _mapping(document, key, where)
    for name, text in value.items():
        if not isinstance(text, str | None):
            raise BuildspecError(f"{where}.{key}.{name} is not a text")
    return {str(k): v or "" for k, v in value.items()}


def _strings(document: dict, key: str, where: str) -> list[str]:
    value = document.get(key) or []
    value = [value] if isinstance(value, str) else value
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise BuildspecError(f"{where}.{key} is not a list of texts")
    return value


def _keys(document: dict, allowed: set[str], where: str) -> None:
    unknown = sorted(str(k) for k in document if k not in allowed)
    if unknown:
        raise BuildspecError(
            f"unknown key {', '.join(unknown)} in {where}; there are {', '.join(sorted(allowed))}"
        )


def _kind(value: Any) -> str:
    return "subkeys" if isinstance(value, dict) else "a list" if isinstance(value, list) else "nothing"
