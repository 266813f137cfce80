"""The engine's side of the comparison: reads {policies, cases} from stdin as the oracle does, in the local
cloud's environment.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from localaws.permissions.access import Access
from localaws.permissions.engine import Policies, Principal, decide


def answer(one: dict[str, Any], policies: dict[str, Any]) -> dict[str, Any]:
    """One decision, in the oracle's words."""
    found = decide(
        Principal(one["session_arn"], one["account"], one["role"], keys=_of_principal(one["context"])),
        Access(one["action"], one["resource"], one["context"]),
        Policies(
            identity=tuple(policies[name] for name in one["identity"]),
            boundary=policies[one["boundary"][0]] if one["boundary"] else None,
            session=(policies[one["session"]],) if one["session"] else None,
            resource=policies[one["resourcePolicy"]] if one["resourcePolicy"] else None,
            resource_owner=one["owner"],
            endpoint=policies[one["endpoint"][0]] if one["endpoint"] else None,
        ),
        region=one["context"].get("aws:RequestedRegion", "us-east-1"),
    )
    if found.allowed:
        return {"decision": "Allowed"}
    return {"decision": "ExplicitlyDenied" if found.explicit else "ImplicitlyDenied"}


def _of_principal(context: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in context.items() if key.startswith("aws:Principal")}


if __name__ == "__main__":
    given = json.load(sys.stdin)
    json.dump([answer(one, given["policies"]) for one in given["cases"]], sys.stdout)
