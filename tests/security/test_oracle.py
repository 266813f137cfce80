"""The engine that decides in the local cloud agrees with an independent simulator of IAM."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from deciders import Question, engine, oracle
from random_policies import questions

DECISIONS = ("Allowed", "ExplicitlyDenied", "ImplicitlyDenied")
BATTERY = yaml.safe_load((Path(__file__).parent / "battery.yml").read_text())


def question(case: dict[str, Any]) -> Question:
    """A case of the battery."""
    return Question(case["case"], **{k: v for k, v in case.items() if k not in ("case", "expect", "judge")})


def test_names_of_the_battery_are_unique() -> None:
    names = [case["case"] for case in BATTERY]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("judge", [oracle, engine])
def test_the_battery_is_decided_as_aws_documents(judge: Any) -> None:
    # the engine decides for roles; the local cloud has no organizations, and services are asked about trust
    roles = [case for case in BATTERY if question(case).role and "organization" not in case]
    cases = [case for case in BATTERY if "judge" not in case] if judge is oracle else roles
    answers = judge([question(case) for case in cases])
    wrong = [
        f"{case['case']}: {answer.error or answer.decision}, expected {case['expect']}"
        for case, answer in zip(cases, answers, strict=True)
        if answer.decision != case["expect"]
    ]
    assert not wrong


@pytest.mark.parametrize("seed", range(8))
def test_random_questions_are_decided_alike(seed: int) -> None:
    asked = questions(250, seed)
    expected, decided = oracle(asked), engine(asked)
    faults = [f"{q.name}: {a.error}" for q, a in zip(asked, expected, strict=True) if a.error]
    assert not faults, "the generator asks what IAM cannot be asked"
    counts = Counter(answer.decision for answer in expected)
    assert min(counts[d] for d in DECISIONS) > 25, f"too one-sided to show anything: {counts}"
    different = [
        f"seed {seed}, {q}: the simulator says {a.decision}, the engine {b.decision}"
        for q, a, b in zip(asked, expected, decided, strict=True)
        if a.decision != b.decision
    ]
    assert not different, f"{len(different)} of {len(asked)}\n" + "\n".join(different[:5])
