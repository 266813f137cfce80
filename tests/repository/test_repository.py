"""The repository itself: what a stranger meets first tells the truth."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

import docs
import hooks
import setup

ROOT = Path(__file__).resolve().parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
FILES = subprocess.run(
    ["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=True
).stdout.split("\n")[:-1]


def test_generated_documentation_is_fresh(capsys: pytest.CaptureFixture[str]) -> None:
    assert docs.main(["--check"]) == 0, capsys.readouterr().err


def test_the_readme_is_short_and_begins_with_the_two_commands() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 150
    commands = [line.split("#")[0].strip() for line in lines if line.startswith("    make ")]
    assert commands[:2] == ["make rehearse", "make test"]


@pytest.mark.parametrize(
    "name", ["README.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
)
def test_links_lead_somewhere(name: str) -> None:
    path = ROOT / name
    for target in re.findall(r"\]\(([^)#]+)", path.read_text()):
        assert target.startswith("http") or (path.parent / target).exists(), target


def test_make_targets_named_in_the_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"(?:`|^    )make ([a-z-]+)", path.read_text(), re.MULTILINE):
            assert target in targets, f"{path.name}: make {target}"


def test_each_target_is_one_line_with_help() -> None:
    phony = set(re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)[1].split())
    for block in re.findall(r"^([a-z-]+):(.*)\n((?:\t.*\n)*)", MAKEFILE, re.MULTILINE):
        name, head, recipe = block
        assert "## " in head, f"{name} has no help"
        assert recipe.count("\n") <= 1, f"{name} has more than one line"
        assert name in phony, f"{name} is not in .PHONY"


def test_each_top_level_folder_has_an_owner() -> None:
    owners = (ROOT / ".github/CODEOWNERS").read_text()
    for folder in {
        name.split("/")[0] for name in FILES if name.startswith(("mlops-", "seedcode", "scripts", "docs"))
    }:
        assert f"\n/{folder}/ " in owners, folder


def test_continuous_integration_runs_what_people_run() -> None:
    assert "make test" in (ROOT / ".ci/run").read_text()


def test_every_lock_is_pinned_with_hashes() -> None:
    locks = [f"{name}.txt" for name in (*setup.ENVIRONMENTS, *setup.WITHOUT_DEPENDENCIES.values())] + [
        f"wheels-{name}.txt" for name in setup.WHEEL_LOCKS
    ]
    for lock in locks:
        text = (ROOT / "requirements" / lock).read_text()
        pins = re.findall(r"^[A-Za-z0-9._-]+(?:\[.*\])?==", text, re.MULTILINE)
        assert pins, lock
        assert text.count("--hash=sha256:") >= len(pins), lock


def test_what_a_lock_is_made_from_is_in_it() -> None:
    for name in setup.ENVIRONMENTS:
        wanted = (ROOT / f"requirements/{name}.in").read_text()
        locked = (ROOT / f"requirements/{name}.txt").read_text()
        for pin in re.findall(r"^([A-Za-z0-9._-]+)(?:\[.*\])?==([\d.]+)$", wanted, re.MULTILINE):
            assert f"{pin[0]}=={pin[1]} " in locked, f"{'=='.join(pin)} is not in {name}.txt: run make lock"


def test_no_committed_file_is_a_secret_or_build_output() -> None:
    for name in FILES:
        assert not re.search(r"(^|/)(__pycache__|build|\.venv[^/]*|\.cache)/|\.pyc$", name), name
        path = ROOT / name
        if path.is_file() and path.suffix not in (".png", ".zip"):
            assert not hooks.secrets(path), name


def test_limits_say_what_to_do_instead() -> None:
    for item in yaml.safe_load((ROOT / "docs/limits.yml").read_text()):
        assert set(item) == {"area", "limit", "instead"}
        assert all(item[key].strip() for key in item)
