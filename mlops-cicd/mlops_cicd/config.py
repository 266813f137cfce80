"""mlops.yml, the one configuration file of a project: read it, and judge it by schema/mlops.schema.json."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft7Validator
from jsonschema.exceptions import ValidationError

from .console import Fault

SCHEMA = Path(__file__).parents[1] / "schema" / "mlops.schema.json"
KeyPath = tuple[str | int, ...]


def load_config(path: Path) -> dict[str, Any]:
    """The validated configuration; every mistake in it is named in the fault."""
    if not path.is_file():
        raise Fault(
            f"{path.name} is missing in {path.parent}: a project has it at the root of its repository"
        )
    text = path.read_text(encoding="utf-8")
    problems = check(text, path.name)
    if problems:
        raise Fault("\n  ".join([f"{path.name} has {len(problems)} mistake(s)", *problems]))
    return yaml.safe_load(text)


def check(text: str, name: str = "mlops.yml") -> list[str]:
    """Every mistake as a sentence with line, key, what was found and what is allowed."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        return [f"{name} line {line}: this is not YAML: {error.problem or error.context}"]
    if root is None or not isinstance(content, dict):
        return [f"{name} line 1: a mapping of keys to values is expected, the file holds {describe(content)}"]
    lines: dict[KeyPath, int] = {}
    problems = [f"{name} line {line}: {text}" for line, text in index_lines(root, (), lines)]
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    errors = sorted(
        Draft7Validator(schema).iter_errors(content), key=lambda error: list(map(str, error.path))
    )
    found = [(line_of(error, lines), explain(error)) for error in errors]
    return problems + [f"{name} line {line}: {sentence}" for line, sentence in sorted(found)]


def index_lines(node: yaml.Node, path: KeyPath, lines: dict[KeyPath, int]) -> Iterator[tuple[int, str]]:
    """Fill the line of every key path; yields keys that are written twice: YAML would keep the last."""
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            here = (*path, key.value)
            if key.value in seen:
                yield key.start_mark.line + 1, f"{dotted(here)} is written twice; keep one of them"
            seen.add(key.value)
            lines[here] = key.start_mark.line + 1
            yield from index_lines(value, here, lines)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            yield from index_lines(value, (*path, number), lines)


def line_of(error: ValidationError, lines: dict[KeyPath, int]) -> int:
    """The line of the key that an error is about."""
    path = tuple(error.absolute_path)
    if error.validator == "additionalProperties":
        unknown = [(*path, key) for key in unknown_keys(error)]
        return min((lines[key] for key in unknown if key in lines), default=lines.get(path, 1))
    if error.parent is None and error.validator != "required" and is_key_error(error):
        return lines.get((*path, error.instance), lines.get(path, 1))
    return lines.get(path, 1)


def is_key_error(error: ValidationError) -> bool:
    """Whether the error is about a key's own spelling (propertyNames)."""
    return "propertyNames" in error.absolute_schema_path


def unknown_keys(error: ValidationError) -> list[str]:
    """The keys that an object must not have."""
    return sorted(str(key) for key in error.instance if key not in error.schema["properties"])


def explain(error: ValidationError) -> str:
    """One sentence: key, found, allowed."""
    path = tuple(error.absolute_path)
    key, rule, found = dotted(path), error.validator_value, describe(error.instance)
    hint = error.schema.get("description", "")
    hint = f" ({hint})" if hint and error.validator in ("pattern", "type", "enum") else ""
    if error.validator == "additionalProperties":
        return "; ".join(unknown_key(path, unknown, error) for unknown in unknown_keys(error))
    if error.validator == "required":
        missing = next(name for name in rule if name not in error.instance and repr(name) in error.message)
        return f"{dotted((*path, missing))} is missing; it must be set"
    if is_key_error(error):
        return (
            f"{key} has the key {found}; allowed: names of two letters or more, of letters, digits, - and _"
        )
    if error.validator == "type":
        allowed = " or ".join([rule] if isinstance(rule, str) else rule)
        return f"{key} is {found}; allowed: {allowed}{hint}"
    if error.validator == "enum":
        return f"{key} is {found}; allowed: {', '.join(map(str, rule))}{hint}"
    if error.validator == "const":
        return f"{key} is {found}; allowed: {rule}"
    if error.validator == "pattern":
        return f"{key} is {found}; allowed: {hint.strip(' ()') or 'text like ' + rule}"
    limits = {
        "minimum": "at least",
        "maximum": "at most",
        "exclusiveMinimum": "more than",
        "minLength": "length at least",
    }
    if error.validator in limits:
        return f"{key} is {found}; allowed: {limits[error.validator]} {rule}"
    return f"{key} is {found}: {error.message}"


def unknown_key(path: KeyPath, unknown: str, error: ValidationError) -> str:
    """A sentence on a key that does not exist, with the nearest one that does."""
    allowed = sorted(error.schema["properties"])
    near = difflib.get_close_matches(unknown, allowed, n=1)
    guess = f"did you mean {near[0]}? " if near else ""
    return f"{dotted((*path, unknown))} is not a known key; {guess}allowed: {', '.join(allowed)}"


def dotted(path: KeyPath) -> str:
    """training.instance_type"""
    return ".".join(map(str, path)) or "the file"


def describe(value: Any) -> str:
    """A value as a reader of YAML knows it."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    text = json.dumps(value, default=str)
    return "empty" if value is None else text if len(text) <= 60 else text[:57] + '…"'
