"""mlops.yml, the one configuration file of a project: read it, and judge it by schema/mlops.schema.json."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft7Validator
from jsonschema.exceptions import ValidationError

from . import batch, deployment, monitoring
from .console import Fault, is_hidden, quoted

SCHEMA = Path(__file__).parents[1] / "schema" / "mlops.schema.json"
KeyPath = tuple[str | int, ...]
LARGEST, DEEPEST = 64 * 1024, 12  # bytes and levels: many times what any project writes
NESTING = {
    yaml.BlockMappingStartToken: 1,
    yaml.BlockSequenceStartToken: 1,
    yaml.FlowMappingStartToken: 1,
    yaml.FlowSequenceStartToken: 1,
    yaml.BlockEndToken: -1,
    yaml.FlowMappingEndToken: -1,
    yaml.FlowSequenceEndToken: -1,
}
# What YAML can do beyond plain data: values that grow out of nothing, and objects of the program's own.
REFUSED = {
    yaml.AnchorToken: "an anchor (&)",
    yaml.AliasToken: "an alias (*)",
    yaml.TagToken: "a tag (!)",
    yaml.DirectiveToken: "a directive (%)",
}


def load_config(path: Path) -> dict[str, Any]:
    """The validated configuration with its defaults."""
    return with_defaults(read_config(path), schema())


def read_config(path: Path) -> dict[str, Any]:
    """The configuration as it is written, for the project's own code; every mistake is named in the fault."""
    if not path.is_file():
        raise Fault(
            f"{path.name} is missing in {path.parent}: a project has it at the root of its repository"
        )
    text = read(path)
    problems = check(text, path.name)
    if problems:
        raise Fault("\n  ".join([f"{path.name} has {len(problems)} mistake(s)", *problems]))
    return yaml.safe_load(text)


def schema() -> dict[str, Any]:
    """The schema; the only place that has defaults."""
    return json.loads(SCHEMA.read_text(encoding="utf-8"))


def with_defaults(value: Any, node: dict[str, Any], root: dict[str, Any] | None = None) -> Any:
    """The value, and what the schema says of the keys that it does not have."""
    root = root or node
    node = root["definitions"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node
    if not isinstance(value, dict):
        return value
    children = node.get("properties", {})
    missing = {key: one["default"] for key, one in children.items() if "default" in one and key not in value}
    return {key: with_defaults(one, children.get(key, {}), root) for key, one in (value | missing).items()}


def read(path: Path) -> str:
    """The file's text; a link, a huge file and what is not UTF-8 are faults."""
    if path.is_symlink():
        raise Fault(f"{path.name} is a link; it must be a file of the repository: commit the file itself")
    content = path.read_bytes()
    if len(content) > LARGEST:
        raise Fault(
            f"{path.name} has {len(content):,} bytes; allowed: at most {LARGEST:,}. It holds settings only: "
            "put data into data/ or S3"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Fault(
            f"{path.name} has byte 0x{content[error.start]:02x} at position {error.start}, which is not "
            "UTF-8: save it as UTF-8"
        ) from error


def unsafe(text: str, name: str) -> list[str]:
    """What must not even be parsed: hidden characters, YAML's programs, and nesting that takes for ever."""
    for number, line in enumerate(text.split("\n"), start=1):
        if hidden := next((one for one in line.rstrip("\r") if is_hidden(one) and one != "\t"), None):
            return [
                f"{name} line {number}: the hidden character U+{ord(hidden):04X} stands at column "
                f"{line.index(hidden) + 1}; allowed: what a reader can see. Delete it"
            ]
    depth = 0
    for token in yaml.scan(text, Loader=yaml.SafeLoader):
        line = token.start_mark.line + 1
        if type(token) in REFUSED:
            return [f"{name} line {line}: {REFUSED[type(token)]} is found; allowed: plain keys and values"]
        depth += NESTING.get(type(token), 0)
        if depth > DEEPEST:
            return [f"{name} line {line}: nested more than {DEEPEST} levels deep; three are enough"]
    return []


def odd_values(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    """Values that no rule of the schema sees: numbers that are none, and hidden characters in a text."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from odd_values(inner, (*path, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from odd_values(inner, (*path, number))
    elif isinstance(value, float) and not math.isfinite(value):
        yield path, f"{dotted(path)} is {value}; allowed: a finite number"
    elif isinstance(value, str) and any(map(is_hidden, value)):
        yield path, f"{dotted(path)} is {quoted(value)}; allowed: a text without hidden characters"


def check(text: str, name: str = "mlops.yml") -> list[str]:
    """Every mistake as a sentence with line, key, what was found and what is allowed."""
    try:
        if problems := unsafe(text, name):
            return problems
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        return [f"{name} line {line}: this is not YAML: {error.problem or error.context}"]
    except (yaml.YAMLError, ValueError) as error:  # such as a date that the calendar does not have
        return [f"{name}: a value cannot be read: {error}; put it in quotes if it is a text"]
    if root is None or not isinstance(content, dict):
        return [f"{name} line 1: a mapping of keys to values is expected, the file holds {describe(content)}"]
    lines: dict[KeyPath, int] = {}
    problems = [f"{name} line {line}: {text}" for line, text in index_lines(root, (), lines)]
    errors = sorted(
        Draft7Validator(schema()).iter_errors(content), key=lambda error: list(map(str, error.path))
    )
    found = [(line_of(error, lines), explain(error)) for error in errors]
    found += [(lines.get(path, 1), sentence) for path, sentence in odd_values(content, ())]
    if not found:  # what the rules compare is of the right type then
        full = with_defaults(content, schema())
        rules = [one.contradictions for one in (monitoring, deployment, batch)]
        found = [(nearest(path, lines), sentence) for rule in rules for path, sentence in rule(full)]
    return problems + [f"{name} line {line}: {sentence}" for line, sentence in sorted(found)]


def nearest(path: KeyPath, lines: dict[KeyPath, int]) -> int:
    """The line of a key, or of the block that a default of it would stand in."""
    while path not in lines:
        path = path[:-1]
    return lines[path]


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
        "maxLength": "length at most",
        "maxProperties": "keys at most",
        "minItems": "entries at least",
        "maxItems": "entries at most",
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
    words = [str(one) if re.fullmatch(r"[\w-]{1,60}", str(one), re.ASCII) else quoted(one) for one in path]
    return ".".join(words) or "the file"


def describe(value: Any) -> str:
    """A value as a reader of YAML knows it."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    return "empty" if value is None else quoted(value)


def data_file(project: Path, source: str) -> Path:
    """The data file in the repository; a path that leads out of it, also by a link, is a fault."""
    path = project / source
    if not path.resolve().is_relative_to(project.resolve()) or not path.is_file():
        raise Fault(
            f"data.source is {source}; the repository has no such file: commit it, or give s3://bucket/key"
        )
    return path
