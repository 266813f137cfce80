"""Which statements of the policies a rehearsal needs, and that each of a list is missed when it is gone.

python -m statements build/rehearsal/evidence.json            every statement that the rehearsal needs
python -m statements build/rehearsal/evidence.json --write    choose the list anew
python -m statements --live 3 [--seed 7]                      rehearse without a statement, three times
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from statements import templates

ROOT = Path(__file__).resolve().parents[2]
LIST = ROOT / "tests/security/statements.yml"
LENGTH = 60
HEAD = f"""# {LENGTH} policy statements: without any one of them the named step is denied the named action.
# Chosen by: make statements ARGS=--write
"""


def needed(evidence: Path, holding: frozenset[str] = frozenset()) -> dict[str, dict[str, Any]]:
    """Statement's name → step, actions and roles that need it, in the order of the story.

    ``holding`` are the conditions of the templates that held in the rehearsal.

    Raises RuntimeError when the engine does not repeat what it decided in the rehearsal.
    """
    env = {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
    command = [str(ROOT / ".venv-localaws/bin/python"), "-m", "statements.replay", str(evidence)]
    found = json.loads(subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE).stdout)
    if found["unlike"]:
        raise RuntimeError(f"{len(found['unlike'])} decisions differ, the first: {found['unlike'][0]}")
    by_document: dict[tuple[str, ...], list[templates.Statement]] = {}
    for statement in templates.statements(ROOT, holding):
        by_document.setdefault(statement.sids, []).append(statement)
    out: dict[str, dict[str, Any]] = {}
    for one in found["needed"]:
        for statement in by_document.get(tuple(one["sids"]), []):
            if statement.sid == one["sid"]:
                kept = out.setdefault(statement.name, {"step": one["step"], "actions": [], "roles": []})
                kept["actions"] += [a for a in one["actions"] if a not in kept["actions"]]
                kept["roles"] += [r for r in one["roles"] if r not in kept["roles"]]
    return out


def choose(found: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    """LENGTH statements, every resource in turn, so that all policies are among them."""
    single = {s.name for s in templates.statements(ROOT) if len(s.sids) == 1}
    queues: dict[str, list[str]] = {}
    for name in found:
        if name not in single:
            queues.setdefault(name.rpartition("/")[0], []).append(name)
    chosen: list[str] = []
    while queues and len(chosen) < LENGTH:
        for resource in list(queues):
            chosen.append(queues[resource].pop(0))
            if not queues[resource]:
                del queues[resource]
    order = list(found)
    rows = sorted(chosen[:LENGTH], key=order.index)
    return [{"statement": n, "step": found[n]["step"], "action": found[n]["actions"][0]} for n in rows]


def live(row: dict[str, str], folder: Path) -> str:
    """Rehearse without a statement; "" when it failed as it must, else what was wrong."""
    command = [sys.executable, "-m", "rehearse", "full", "--json", "--folder", str(folder)]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
    done = subprocess.run(
        [*command, "--without", row["statement"]], env=env, cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    result = json.loads(done.stdout.splitlines()[-1])
    said = json.dumps(result.get("failure", {}))
    if result["passed"]:
        return "the rehearsal passed"
    if "is not authorized to perform" not in said or row["action"].partition(":")[2] not in said:
        return f"the failure does not name {row['action']}: {said[:600]}"
    return ""


def main(argv: list[str] | None = None) -> int:
    """Show, write or try; exit 1 when a statement of the list is not missed."""
    parser = argparse.ArgumentParser(prog="statements", description=__doc__.splitlines()[0])
    parser.add_argument("evidence", nargs="?", type=Path, default=ROOT / "build/rehearsal/evidence.json")
    parser.add_argument("--write", action="store_true", help=f"write the list {LIST.relative_to(ROOT)} anew")
    parser.add_argument("--live", type=int, metavar="N", help="rehearse without N of the list (0: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    if options.live is not None:
        rows = yaml.safe_load(LIST.read_text())
        sample = rows if not options.live else random.Random(options.seed).sample(rows, options.live)  # noqa: S311 - no secret
        wrong = 0
        for number, row in enumerate(sample, 1):
            print(f"{number}/{len(sample)} without {row['statement']} …", file=sys.stderr, flush=True)
            problem = live(row, ROOT / "build/statements")
            wrong += bool(problem)
            print(f"   {problem or 'denied ' + row['action']}", file=sys.stderr, flush=True)
        return 1 if wrong else 0
    if not options.evidence.exists():
        print(f"{options.evidence} is missing: run `make rehearse` first", file=sys.stderr)
        return 2
    found = needed(options.evidence)
    if options.write:
        LIST.write_text(HEAD + yaml.safe_dump(choose(found), sort_keys=False, width=200))
        print(f"{LIST.relative_to(ROOT)}: {LENGTH} of {len(found)} statements")
        return 0
    if options.json:
        print(json.dumps(found, indent=1))
        return 0
    table = Table("statement", "step that is denied without it", "actions", title=f"{len(found)} statements")
    for name, one in found.items():
        table.add_row(name, one["step"], ", ".join(one["actions"][:4]))
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
