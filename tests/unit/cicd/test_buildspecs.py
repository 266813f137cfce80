"""Buildspecs only call scripts: grammar, modules, options, variables, and what a shell makes of them."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from .conftest import ROOT

FOLDER = ROOT / "mlops-cicd/buildspecs"
ALLOWED = (
    r'aws codeartifact login --tool pip --domain "\$CODEARTIFACT_DOMAIN" '
    r'--repository "\$CODEARTIFACT_REPOSITORY"',
    r"pip install --quiet --require-hashes --only-binary :all: -r \S+",
    r"python -m mlops_cicd\.(\w+)( .+)?",
    r"\. \./\w+\.env",
)
MODULES = ["validate", "images", "run_pipeline", "select", "smoke_test", "model_cards", "associate_user"]
MODULES += ["platform_release", "platform_sync"]


@pytest.fixture(params=sorted(FOLDER.glob("*.yml")), ids=lambda path: path.stem)
def spec(request: pytest.FixtureRequest) -> dict[str, Any]:
    return yaml.safe_load(request.param.read_text())


def commands(spec: dict[str, Any]) -> list[str]:
    return [command for phase in spec["phases"].values() for command in phase["commands"]]


def test_the_nine_buildspecs_are_there() -> None:
    names = {path.stem for path in FOLDER.glob("*.yml")}
    builds = {"validate", "images", "train", "select", "test", "shadow", "record"}
    assert names == builds | {"associate", "platform"}


def test_a_buildspec_only_calls_scripts(spec: dict[str, Any]) -> None:
    assert spec["version"] == 0.2
    assert set(spec["phases"]) == {"install", "build"}
    for command in commands(spec):
        assert any(re.fullmatch(pattern, command) for pattern in ALLOWED), command


def test_its_scripts_and_requirements_exist(spec: dict[str, Any]) -> None:
    for command in commands(spec):
        if match := re.match(r"python -m (mlops_cicd\.\w+)", command):
            assert callable(importlib.import_module(match[1]).main)
        if (match := re.fullmatch(r"pip install .* -r ([\w./-]+)", command)) and "$" not in match[1]:
            root = ROOT if match[1].startswith("mlops-cicd/") else ROOT / "mlops-cicd"
            assert (root / match[1]).is_file()


def test_exported_variables_are_sourced_into_the_builds_shell(spec: dict[str, Any]) -> None:
    exported = spec.get("env", {}).get("exported-variables", [])
    sourced = [command for command in commands(spec) if command.startswith(". ")]
    assert bool(exported) == bool(sourced)
    for command in sourced:
        name = command.removeprefix(". ./")
        assert any(f"--env {name}" in one for one in commands(spec))


def test_options_in_a_buildspec_are_the_scripts(spec: dict[str, Any]) -> None:
    for command in commands(spec):
        if match := re.match(r"python -m mlops_cicd\.(\w+)", command):
            known = usage(match[1])
            for option in re.findall(r" (--[\w-]+)", command):
                assert option in known, f"{match[1]} has no {option}"


def usage(module: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", f"mlops_cicd.{module}", "--help"],
        cwd=ROOT / "mlops-cicd",
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize("module", MODULES)
def test_wrong_usage_ends_with_2(module: str) -> None:
    with pytest.raises(SystemExit) as stop:
        importlib.import_module(f"mlops_cicd.{module}").main(["--no-such-option"])
    assert stop.value.code == 2


def test_a_fault_is_a_sentence_with_the_scripts_name(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mlops_cicd.validate", "--project-dir", str(tmp_path)],
        cwd=ROOT / "mlops-cicd",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("validate: mlops.yml is missing in ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("variable", "expected"), [({"CODEBUILD_SRC_DIR_Cfn": "/src/cfn"}, "/src/cfn/deploy"), ({}, "")]
)
def test_select_looks_at_the_templates_when_the_pipeline_passes_them(
    variable: dict[str, str], expected: str
) -> None:
    (command,) = [
        one for one in commands(yaml.safe_load((FOLDER / "select.yml").read_text())) if "select " in one
    ]
    word = re.search(r'--templates ("[^"]*")', command)[1]
    done = subprocess.run(
        ["sh", "-c", f"printf %s {word}"], env=variable, capture_output=True, text=True, check=True
    )
    assert done.stdout == expected


def test_only_one_module_knows_the_sdk() -> None:
    for path in (ROOT / "mlops-cicd/mlops_cicd").glob("*.py"):
        if path.name != "sdk.py":
            assert not re.search(r"^\s*(from|import) sagemaker\b", path.read_text(), re.M), path.name


def test_requirements_are_pinned() -> None:
    for path in (ROOT / "mlops-cicd").glob("requirements*.in"):
        for line in path.read_text().splitlines():
            assert re.match(r"(#|-r |[\w.-]+==\S+$|$)", line), f"{path.name}: {line}"
