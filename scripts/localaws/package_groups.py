"""Package groups of CodeArtifact: which packages a pattern means, and how their versions may enter a domain.

Patterns are ``/*``, ``/pypi/*``, ``/pypi//*``, ``/pypi//name~`` (a prefix that ends where a word ends) and
``/pypi//name$``; a package belongs to the most specific group that matches, and a setting of INHERIT is its
parent's. Python packages have no namespace, hence the two slashes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from localaws.errors import AwsError

ROOT = "/*"
PUBLISH, EXTERNAL, INTERNAL = KINDS = ("PUBLISH", "EXTERNAL_UPSTREAM", "INTERNAL_UPSTREAM")
MODES = ("ALLOW", "ALLOW_SPECIFIC_REPOSITORIES", "BLOCK", "INHERIT")
FORMATS = "npm|pypi|maven|nuget|generic|ruby|swift|cargo"
_PART = r"[^/*~$#\s]*"
_SYNTAX = re.compile(
    rf"/\*|/({FORMATS})/(\*|{_PART}~|{_PART}/(\*|[^/*~$#\s]+[~$]))",
)


@dataclass
class Group:
    """One group of a domain."""

    pattern: str
    domain: str
    created: Any
    contact: str = ""
    description: str = ""
    modes: dict[str, str] = field(default_factory=lambda: dict.fromkeys(KINDS, "INHERIT"))
    allowed: dict[str, set[str]] = field(default_factory=lambda: {kind: set() for kind in KINDS})


def root(domain: str, created: Any) -> Group:
    """The group that every domain has: everything may enter in every way."""
    return Group(ROOT, domain, created, modes=dict.fromkeys(KINDS, "ALLOW"))


def check(pattern: str) -> str:
    """A pattern as AWS takes it. Raises AwsError ValidationException."""
    if not _SYNTAX.fullmatch(pattern) or (pattern.startswith("/pypi/") and pattern[6:7] not in ("/", "*")):
        raise AwsError("ValidationException", f"The package group pattern '{pattern}' is not valid.")
    return pattern


def matches(pattern: str, path: str) -> bool:
    """Whether a package (/format/namespace/name), or the stem of another pattern, lies within a pattern."""
    stem, suffix = pattern[:-1], pattern[-1]
    if suffix == "$":
        return path == stem
    if suffix == "*":
        return path.startswith(stem)
    # a prefix of whole words: mlops~ means mlops and mlops-core, not mlopsx
    rest = path[len(stem) :]
    return path.startswith(stem) and (not rest or not rest[0].isalnum() or not stem[-1:].isalnum())


def group_of(groups: Iterable[Group], path: str) -> Group:
    """The most specific group that a package belongs to."""
    order = {"$": 2, "~": 1, "*": 0}
    found = [group for group in groups if matches(group.pattern, path)]
    return max(found, key=lambda group: (len(group.pattern), order[group.pattern[-1]]))


def parent_of(groups: Iterable[Group], group: Group) -> Group | None:
    """The group around a group; the root has none."""
    if group.pattern == ROOT:
        return None
    around = [g for g in groups if g is not group and g.pattern[-1] != "$"]
    return group_of(around, group.pattern[:-1])


def effective(groups: Iterable[Group], group: Group, kind: str) -> Group:
    """The group whose setting applies: the first upwards that does not inherit."""
    groups = list(groups)
    while group.modes[kind] == "INHERIT" and (above := parent_of(groups, group)):
        group = above
    return group


def permits(groups: Iterable[Group], path: str, kind: str, repository: str) -> bool:
    """Whether versions of a package may enter a repository in a way."""
    groups = list(groups)
    decides = effective(groups, group_of(groups, path), kind)
    mode = decides.modes[kind]
    return mode == "ALLOW" or (mode == "ALLOW_SPECIFIC_REPOSITORIES" and repository in decides.allowed[kind])
