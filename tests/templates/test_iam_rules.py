"""Every policy keeps every rule of iam_rules.py, and every rule finds the fixture that breaks it."""

from __future__ import annotations

from pathlib import Path

import pytest
from house_rules import CFN, TEMPLATES, Rule, Template, load
from iam_rules import RULES, actions, overlap

FIXTURES = Path(__file__).parent / "fixtures" / "iam"


@pytest.fixture(params=TEMPLATES, ids=lambda path: path.relative_to(CFN).as_posix())
def template(request: pytest.FixtureRequest) -> Template:
    return load(request.param)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule_is_kept(template: Template, rule: Rule) -> None:
    assert list(rule(template)) == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule_finds_its_fixture(rule: Rule, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fixture's first lines say what the rule must find, one line a finding."""
    monkeypatch.setattr("iam_rules.MAX_MANAGED_POLICY", 100)
    monkeypatch.setattr("iam_rules.MAX_INLINE_POLICIES", 200)
    monkeypatch.setattr("iam_rules.MAX_ATTACHED", 2)
    bad = load(FIXTURES / f"{rule.__name__}.yaml")
    expected = [line.removeprefix("# expect: ") for line in bad.lines if line.startswith("# expect: ")]
    assert expected, f"{bad.path} does not say what is to be found"
    assert list(rule(bad)) == expected


@pytest.mark.parametrize(
    ("left", "right", "meet"),
    [
        ("arn:*:s3:::*/*", "arn:aws:s3:::bucket", False),
        ("arn:*:s3:::*/*", "arn:aws:s3:::bucket/key", True),
        ("a*c", "abc*", True),
        ("a?c", "abd", False),
        ("*", "", True),
    ],
)
def test_patterns_overlap(left: str, right: str, meet: bool) -> None:
    assert overlap(left, right) is overlap(right, left) is meet


def test_actions_are_those_of_iam() -> None:
    assert [action.name for action in actions("kms:ReEncrypt*")] == ["kms:ReEncryptFrom", "kms:ReEncryptTo"]
    assert actions("nothing:Get") == ()
