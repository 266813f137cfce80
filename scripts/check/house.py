"""The rules of tests/templates as one more scanner: each has a fixture there that breaks it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from functools import cache
from typing import Any

from check.findings import Finding, finding
from check.templates import ROOT, Template

FOLDER = ROOT / "tests/templates"


@cache
def rules() -> tuple[list[Any], Any]:
    """All rules of the modules *_rules.py, and the class of templates that they take."""
    if str(FOLDER) not in sys.path:
        sys.path.insert(0, str(FOLDER))
    modules = {
        path.stem: importlib.import_module(path.stem) for path in sorted(FOLDER.glob("[!t]*_rules.py"))
    }
    # a module without RULES judges several templates at once: pytest runs it
    every = [rule for module in modules.values() for rule in getattr(module, "RULES", [])]
    return every, modules["house_rules"].Template


def check(templates: Iterable[Template]) -> list[Finding]:
    """Every rule on every template. They take no waiver: who breaks one mends it, or changes the rule."""
    every, kind = rules()
    return [
        finding(template, "house", rule.__name__, sentence)
        for template in templates
        for rule in every
        for sentence in rule(kind(template.path))
    ]
