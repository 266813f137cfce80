"""Runs in the scanners' environment: reads cases as JSON, answers which messages each rule has for each."""

from __future__ import annotations

import json
import sys

from cloudformation_validate import Severity, TemplateContent, ValidateConfig

from check import packs, scanners

CONFIG = ValidateConfig(severity_level=Severity.DEBUG, disable_builtin_rules=True)


def main() -> None:
    """{rule: [resources, …]} -> {rule: [[message, …], …]}"""
    rules = {rule.name: rule for rule in packs.own()}
    answer = {}
    for name, cases in json.load(sys.stdin).items():
        engine = scanners.engine_of(guard=[rules[name]])
        answer[name] = []
        for resources in cases:
            content = TemplateContent(json.dumps({"Resources": resources}))
            found = engine.validate_template(content, CONFIG).diagnostics
            assert all(one.category == f"guard:{name}" for one in found), found
            answer[name].append([one.rule_description or one.message for one in found])
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
