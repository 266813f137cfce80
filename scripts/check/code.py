"""Code and files: ruff's security rules, and a search for secrets that were committed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import yaml

from check.findings import Finding
from check.templates import ROOT

SECRETS = Path(__file__).with_name("secrets.yml")
# hashes from end to end, or this search's own list
LOCK = re.compile(
    r"(.*/)?requirements[\w-]*\.txt|requirements/.*\.txt|seedcode-repo/locks/.*\.txt|(.*/)?package-lock\.json"
    r"|scripts/check/secrets\.yml"
)


def ruff() -> list[Finding]:
    """ruff's rules of the group S (and unused suppressions), as pyproject.toml sets them."""
    command = [str(Path(sys.executable).with_name("ruff")), "check", "--output-format", "json", "--quiet"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"ruff: {done.stderr.strip()}")
    return [
        Finding(
            Path(one["filename"]).relative_to(ROOT).as_posix(),
            "",
            one["code"] or "syntax",
            "",
            one["message"],
            "ruff",
            one["location"]["row"],
        )
        for one in json.loads(done.stdout)
    ]


def committed() -> list[str]:
    """Files that git tracks, or would."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in done.stdout.splitlines() if (ROOT / name).is_file()]


def secrets(names: Iterable[str] | None = None) -> list[Finding]:
    """What looks like a secret; lines that secrets.yml knows to be harmless have their reason there."""
    from detect_secrets import SecretsCollection
    from detect_secrets.settings import transient_settings

    described = yaml.safe_load(SECRETS.read_text())
    harmless = {one["line"]: re.compile(one["line"]) for one in described["harmless"]}
    found: list[Finding] = []
    used: set[str] = set()
    with transient_settings({key: described[key] for key in ("plugins_used", "filters_used")}):
        collection = SecretsCollection(root=str(ROOT))
        for name in committed() if names is None else names:
            if not LOCK.fullmatch(name):
                collection.scan_file(name)
        for name, secret in collection:
            if name.startswith("tests/") and secret.type in described["invented_in_tests"]:
                continue
            lines = (ROOT / name).read_text(errors="replace").splitlines()
            line = lines[secret.line_number - 1] if secret.line_number <= len(lines) else ""
            excuses = {key for key, pattern in harmless.items() if pattern.search(line)}
            used |= excuses
            if not excuses:
                text = f"looks like a secret ({secret.type}); take it out and revoke it"
                found.append(Finding(name, "", "SECRET", "", text, "secrets", secret.line_number))
    if names is None:
        own = SECRETS.relative_to(ROOT).as_posix()
        for key in harmless.keys() - used:
            text = f"no line is excused by {key!r}; take it out"
            found.append(Finding(own, "", "WAIVER_UNUSED", "", text, "secrets"))
    return sorted(set(found))
