"""Plants a secret, and looks at the end whether it, a credential or a person's data lies open."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

if TYPE_CHECKING:
    from rehearse.engine import Rehearsal

SECRET = "mlops/rehearsal"  # noqa: S105 - its name
#: every secret of the run, for whoever looks at what lies outside of the cloud (the report, what was printed)
FILE = "secrets.json"
#: where people's data is at home: the bucket of the project, its repository, and the release with its seed
AT_HOME = ("object: ", "repository: ")
ROWS = 40


def plant(r: Rehearsal) -> None:
    """Keep a secret where secrets belong; nothing of the platform has a reason to read it."""
    r.planted["the secret in Secrets Manager"] = f"canary-{uuid4().hex}{uuid4().hex}"
    for value in r.planted.values():
        r.administrator().client("secretsmanager").create_secret(Name=SECRET, SecretString=value)


def nothing_leaked(r: Rehearsal, people: Iterable[list[str]]) -> str:
    """Fail if a secret stands anywhere, or a person's row outside of the data's home."""
    rows = {f"person {number}": row for number, row in enumerate(people, 1)}
    seen = r.cloud.control("leaks", {"secrets": r.planted, "rows": rows})
    keep = r.folder / FILE
    keep.touch(mode=0o600)
    keep.write_text(json.dumps(list(seen["values"].values())))
    found = [
        f"{one['what']} in {one['where']}"
        for one in seen["found"]
        if one["what"] not in rows or not one["where"].startswith(AT_HOME)
    ]
    r.check(not found, f"{len(found)} secrets or rows of personal data lie open", sorted(found)[:50])
    home = Counter(one["what"] for one in seen["found"] if one["what"] in rows)
    r.check(len(home) == len(rows), "the search does not find people where their data is at home")
    places = ", ".join(f"{number} {kind}" for kind, number in sorted(seen["searched"].items()))
    return f"{len(seen['values'])} secrets and {len(rows)} people in none of {places}"


def in_files(folder: Path, secrets: list[str], beside: tuple[str, ...] = ()) -> list[str]:
    """The files below a folder in which a secret stands, except those below ``beside``."""
    words = [secret.encode() for secret in secrets]
    found = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()):
        name = path.relative_to(folder).as_posix()
        if name != FILE and not name.startswith(beside):
            data = path.read_bytes()
            found += [name] if any(word in data for word in words) else []
    return found


def people_of(rows: list[list[str]], drifted: list[list[str]]) -> list[list[str]]:
    """Some of the people whose data the rehearsal sends: as they are, and as they drifted."""
    return [*rows[:ROWS], *drifted[:ROWS]]
