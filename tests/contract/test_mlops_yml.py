"""mlops.yml, both ways: what the seed code ships is valid; every key of the schema is read by somebody."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlops_cicd import config

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "mlops-cicd/schema/mlops.schema.json").read_text())
SEEDCODE = ROOT / "seedcode-repo"
# Keys that tell a reader something and choose nothing: the format's version, the only comparison there is.
SILENT = {"version", "comparison"}
# What only an endpoint has, and what only batch jobs have: the other's file does not show it.
OF_AN_ENDPOINT = (
    *(
        f"deployment.{name}"
        for name in ("staging", "production", "endpoint", "release", "alarms", "serverless")
    ),
    *(f"deployment.{name}" for name in ("asynchronous", "shadow", "tests", "api")),
    *(f"monitoring.{name}" for name in ("simulated_traffic", "include_simulated")),
)
OF_THE_OTHER = {"batch": OF_AN_ENDPOINT, "realtime": ("deployment.batch",)}


def combinations() -> list[tuple[str, str]]:
    frameworks = sorted(path.name for path in (SEEDCODE / "frameworks").iterdir() if path.is_dir())
    inference = sorted(path.name for path in (SEEDCODE / "inference").iterdir() if path.is_dir())
    return [(one, other) for one in frameworks for other in inference]


@pytest.fixture(params=combinations(), ids="-".join)
def composed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The files of a project that the seed code composes."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import compose

    return compose.compose(*request.param)


def test_the_shipped_configuration_is_valid(composed: dict[str, bytes]) -> None:
    assert config.check(composed["mlops.yml"].decode()) == []


def test_the_shipped_configuration_shows_every_key(composed: dict[str, bytes]) -> None:
    """A key that the file does not show is a key that a Data Scientist does not know."""
    shipped = set(leaves(yaml.safe_load(uncommented(composed["mlops.yml"].decode()))))
    hidden = {path for path in schema_leaves(SCHEMA) if path not in shipped}
    mode = yaml.safe_load(composed["mlops.yml"])["inference"]["mode"]
    hidden = {path for path in hidden if not path.startswith(OF_THE_OTHER[mode])}
    assert hidden <= {"processing.max_runtime_minutes", "training.hyperparameters"}


def test_a_block_that_is_shown_as_a_comment_may_be_switched_on(composed: dict[str, bytes]) -> None:
    """All of them together, with what their comments ask for: an instance type that scales, two instances."""
    text = uncommented(composed["mlops.yml"].decode())
    before, found, production = text.partition("  production:\n")
    if found:
        production = production.replace("ml.t2.medium", "ml.m5.large", 1)
        production = production.replace("instance_count: 1", "instance_count: 2", 1)
    assert config.check(before + found + production) == []


def uncommented(text: str) -> str:
    """The file with its commented keys: lines such as `  # shadow:` and `  #   share: 100`."""
    return re.sub(r"(?m)^( *)# ((?:  )*[a-z_]+:(?: [^ ]+| \[.*\]| \{.*\})?(?: #.*)?)$", r"\1\2", text)


def test_every_key_of_the_schema_is_read(composed: dict[str, bytes]) -> None:
    folders = (ROOT / "mlops-cicd/mlops_cicd", ROOT / "mlops-cicd/monitor")
    code = [path.read_text() for folder in folders for path in folder.rglob("*.py")]
    code += [content.decode() for path, content in composed.items() if path.endswith(".py")]
    text = "\n".join(code)
    for path in schema_leaves(SCHEMA):
        key = path.rpartition(".")[2]
        if key not in SILENT:
            assert re.search(rf"""["']{key}["']""", text), f"{path} is in the schema and nobody reads it"


def test_every_object_is_closed() -> None:
    """A typo is found only where no other key is allowed."""
    for path, one in objects(SCHEMA, ""):
        assert one.get("additionalProperties") is not None, f"{path or 'the root'} takes any key"


def schema_leaves(node: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, child in node.get("properties", {}).items():
        path = f"{prefix}.{key}" if prefix else key
        target = resolve(child)
        if "properties" in target:
            yield from schema_leaves(target, path)
        else:
            yield path


def objects(node: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    target = resolve(node)
    if target.get("type") == "object":
        yield path, target
        for key, child in target.get("properties", {}).items():
            yield from objects(child, f"{path}.{key}")


def resolve(node: dict[str, Any]) -> dict[str, Any]:
    name = node.get("$ref", "").rpartition("/")[2]
    return SCHEMA["definitions"][name] if name else node


def leaves(node: Any, prefix: str = "") -> Iterator[str]:
    for key, child in node.items():
        path = f"{prefix}.{key}" if prefix else str(key)
        yield path
        if isinstance(child, dict):
            yield from leaves(child, path)
