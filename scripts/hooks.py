"""Checks of the pre-commit hook that no kept tool does offline: `python scripts/hooks.py
notebooks|large|secrets FILE…`.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

LARGEST = 500_000
SECRETS = {
    "an AWS access key": re.compile(r"\b(AKIA|ASIA)[0-9A-Z]{16}\b"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
}


def notebooks(path: Path) -> str:
    """Outputs and counters of a run make every diff unreadable, and may carry data."""
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    run = sum(bool(cell["outputs"]) or cell["execution_count"] is not None for cell in cells)
    return f"{run} executed cells; clear all outputs" if run else ""


def large(path: Path) -> str:
    """Data and models belong to S3."""
    size = path.stat().st_size
    return f"{size:,} bytes, at most {LARGEST:,}; put data into S3" if size > LARGEST else ""


def secrets(path: Path) -> str:
    """The kinds that leak most."""
    text = path.read_text(errors="replace")
    found = [kind for kind, pattern in SECRETS.items() if pattern.search(text)]
    return f"looks like {' and '.join(found)}; take it out and revoke it" if found else ""


CHECKS: dict[str, Callable[[Path], str]] = {"notebooks": notebooks, "large": large, "secrets": secrets}


def main(argv: list[str]) -> int:
    """Exit 1 when a file has a finding."""
    if not argv or argv[0] not in CHECKS:
        print(f"usage: hooks.py {'|'.join(CHECKS)} FILE…", file=sys.stderr)
        return 2
    # lock files are large by nature: a hash for every file of every package
    files = [Path(name) for name in argv[1:] if not (argv[0] == "large" and name.startswith("requirements/"))]
    findings = [f"{path}: {finding}" for path in files if (finding := CHECKS[argv[0]](path))]
    print("\n".join(findings), end="\n" if findings else "")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
