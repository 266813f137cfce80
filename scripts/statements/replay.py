"""Decide what a rehearsal asked of IAM once more without one statement at a time.

Runs in the local cloud's environment, whose engine decides: reads the path of an evidence.json, prints JSON:
for each statement that carries a question, the documents it stood in, the actions and the first step.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from localaws.permissions.access import Access
from localaws.permissions.engine import Policies, Principal, decide

Documents = dict[str, dict[str, Any]]
Question = dict[str, Any]


def statements_of(document: dict[str, Any]) -> list[dict[str, Any]]:
    """A document's statements as a list."""
    found = document.get("Statement", [])
    return found if isinstance(found, list) else [found]


def allowed(question: Question, documents: Documents) -> bool:
    """The engine's decision of a recorded question."""
    named = question["policies"]
    account = question["role"].split(":")[4]

    def one(kind: str) -> dict[str, Any] | None:
        return documents[named[kind]] if named.get(kind) else None

    session = named.get("session")
    having = Policies(
        tuple(documents[name] for name in named["identity"]),
        one("boundary"),
        tuple(documents[name] for name in session) if session is not None else None,
        one("resource"),
        named["resource_owner"],
        one("endpoint"),
    )
    principal = Principal(question["by"], account, question["role"], keys=question["keys"])
    access = Access(question["action"], question["resource"], question["context"])
    return decide(principal, access, having).allowed


def candidates(question: Question, documents: Documents) -> Iterator[tuple[str, int]]:
    """Allow statements (document, index) whose actions match the question's."""
    from ministack.core.iam_evaluator import fnmatch_iam

    named = question["policies"]
    names = [*named["identity"], *(named.get("session") or [])]
    names += [named[kind] for kind in ("boundary", "resource", "endpoint") if named.get(kind)]
    for name in dict.fromkeys(names):
        for index, statement in enumerate(statements_of(documents[name])):
            actions = statement.get("Action", [])
            actions = [actions] if isinstance(actions, str) else actions
            matches = any(fnmatch_iam(question["action"], action) for action in actions)
            if statement.get("Effect") == "Allow" and (matches or "NotAction" in statement):
                yield name, index


def step_of(evidence: dict[str, Any], first: float) -> str:
    """The step of the rehearsal that was under way at a moment."""
    at = first - evidence["began"]
    begun = [s for s in evidence["steps"] if s["began"] <= at]
    return f"{begun[-1]['case']}: {begun[-1]['title']}" if begun else "before the first step"


def replay(evidence: dict[str, Any]) -> dict[str, Any]:
    """Statements with what needs them (``needed``), recorded decisions that are not repeated (``unlike``)."""
    documents: Documents = evidence["policies"]
    needed: dict[tuple[str, int], dict[str, Any]] = {}
    unlike = []
    for question in sorted(evidence["questions"], key=lambda q: q["first"]):
        if bool(question["denied"]) == allowed(question, documents):
            unlike.append(question)
        if question["denied"]:
            continue
        for name, index in candidates(question, documents):
            left = statements_of(documents[name])[:index] + statements_of(documents[name])[index + 1 :]
            without = {**documents, name: {**documents[name], "Statement": left}}
            if allowed(question, without):
                continue
            statement = statements_of(documents[name])[index]
            found = needed.setdefault(
                (name, index),
                {
                    "document": name,
                    "sid": statement.get("Sid", ""),
                    "sids": [s.get("Sid", "") for s in statements_of(documents[name])],
                    "step": step_of(evidence, question["first"]),
                    "actions": [],
                    "roles": [],
                },
            )
            for key, value in (("actions", question["action"]), ("roles", question["role"])):
                if value not in found[key]:
                    found[key].append(value)
    return {"needed": list(needed.values()), "unlike": unlike}


if __name__ == "__main__":
    json.dump(replay(json.loads(Path(sys.argv[1]).read_text())), sys.stdout)
