"""Which VPC endpoints the platform's builds, jobs and Studio used, against the table that the tests read."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import yaml

from rehearse.cloud import ROOT

if TYPE_CHECKING:
    from rehearse.engine import Rehearsal

TABLE = ROOT / "tests/templates/vpc_calls.yml"
HEAD = """# What went through which VPC endpoint in a whole rehearsal, by kind of caller.
# Generated: WRITE_ROUTES=1 make rehearse
"""


def as_written(r: Rehearsal) -> str:
    """Compare with the table; with WRITE_ROUTES=1 write it anew."""
    found = r.cloud.control("routes")
    if os.environ.get("WRITE_ROUTES"):
        TABLE.write_text(HEAD + yaml.safe_dump(found))
    table = yaml.safe_load(TABLE.read_text())
    new = {f"{name}: {kind}" for name, kinds in found.items() for kind in kinds}
    old = {f"{name}: {kind}" for name, kinds in table.items() for kind in kinds}
    wrong = [f"new: {one}" for one in sorted(new - old)] + [f"not seen: {one}" for one in sorted(old - new)]
    where = TABLE.relative_to(ROOT).as_posix()
    r.check(not wrong, f"{where} is not what was called; WRITE_ROUTES=1 make rehearse", wrong, where)
    return f"{len(found)} endpoints, as in {where}"
