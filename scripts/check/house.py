"""The house rules of tests/templates as one more scanner: each has a fixture there that breaks it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from types import ModuleType

from check.findings import Finding, finding
from check.templates import ROOT, Template


def rules() -> ModuleType:
    """The module that holds them; it lies beside its fixtures."""
    folder = str(ROOT / "tests/templates")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    import house_rules

    return house_rules


def check(templates: Iterable[Template]) -> list[Finding]:
    """Every house rule on every template. They take no waiver: who breaks one changes the rule."""
    module = rules()
    return [
        finding(template, "house", rule.__name__, sentence)
        for template in templates
        for rule in module.RULES
        for sentence in rule(module.Template(template.path))
    ]
