"""Every template keeps every house rule, and every rule finds the fixture that breaks it."""

from __future__ import annotations

from pathlib import Path

import pytest
from cfnlint import lint
from cfnlint.config import ManualArgs
from data_rules import RULES as DATA_RULES
from house_rules import CFN, TEMPLATES, Rule, Template, load
from house_rules import RULES as HOUSE_RULES

RULES = [*HOUSE_RULES, *DATA_RULES]
FIXTURES = Path(__file__).parent / "fixtures"
STRICT = ManualArgs(include_checks=["I"], regions=["us-east-1"])


@pytest.fixture(autouse=True)
def small_limits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fixtures of size rules are judged by small limits, so that they need not be large."""
    if "rule_finds" in request.node.name:
        monkeypatch.setattr("house_rules.MAX_ENTRY_LINES", 10)
        monkeypatch.setattr("house_rules.MAX_ENTRY_BYTES", 100)
        monkeypatch.setattr("house_rules.MAX_MANAGED_POLICY", 100)
        monkeypatch.setattr("house_rules.MAX_INLINE_POLICIES", 100)
        monkeypatch.setattr("house_rules.MAX_TRUST_POLICY", 100)


def name_of(path: Path) -> str:
    return path.relative_to(CFN).as_posix() if path.is_relative_to(CFN) else path.stem


def findings(path: Path) -> list[str]:
    return [
        f"line {match.linenumber}: {match.rule.id} {match.message}"
        for match in lint(path.read_text(), config=STRICT)
    ]


@pytest.fixture(params=TEMPLATES, ids=name_of)
def template(request: pytest.FixtureRequest) -> Template:
    return load(request.param)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule_is_kept(template: Template, rule: Rule) -> None:
    assert list(rule(template)) == []


def test_cfn_lint_is_silent(template: Template) -> None:
    assert findings(template.path) == []


def test_suppressions_have_reasons(template: Template) -> None:
    for name, resource in template.resources.items():
        lint_metadata = resource.get("Metadata", {}).get("cfn-lint", {})
        assert not lint_metadata or lint_metadata.get("reason"), f"{name}: a suppression without a reason"
    assert "cfn-lint" not in template.data.get("Metadata", {}), "a suppression for a whole template"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule_finds_its_fixture(rule: Rule) -> None:
    """A fixture's first lines say what the rule must find: '# expect: <sentence>', one line a finding."""
    folder = FIXTURES / rule.__name__
    paths = sorted(folder.glob("*.yaml")) if folder.is_dir() else [folder.with_suffix(".yaml")]
    for path in paths:
        bad = load(path)
        expected = [line.removeprefix("# expect: ") for line in bad.lines if line.startswith("# expect: ")]
        assert expected, f"{path} does not say what is to be found"
        assert list(rule(bad)) == expected


@pytest.mark.parametrize("path", sorted((FIXTURES / "cfn_lint").glob("*.yaml")), ids=lambda path: path.stem)
def test_cfn_lint_finds_its_fixture(path: Path) -> None:
    expected = [
        line.removeprefix("# expect: ")
        for line in path.read_text().splitlines()
        if line.startswith("# expect: ")
    ]
    found = findings(path)
    assert len(found) == len(expected)
    assert all(text in line for text, line in zip(expected, found, strict=True)), found
