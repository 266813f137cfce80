"""The scanners that others wrote, each as a function from templates to findings."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from check import packs
from check.findings import Finding, finding
from check.templates import Template, parameter_sets, resolve, resolved

# Rules of the validation engine that are left out, each for a reason. All but I9001, I9003, I9040 and I4010
# have a namesake in cfn-lint, which runs as well.
LEFT_OUT = {
    "I9001": "counts what a template uses",
    "I9003": "notes that no region was given: a template is for every region",
    "I9040": "counts what a template uses",
    "I4010": "wants documentation in a notation of its own",
    "W9002": "takes a parameter's value for a literal in the template, since each launch has its values",
    "W1001": "a launch's values decide conditions, and it says that what they leave out is missing",
    "W2001": "does not see what an UpdatePolicy refers to (1.14.0)",
    "W1028": "a launch's values decide conditions, so one side of each Fn::If is out of reach",
    "E3050": "takes GetAtt of a role's Arn for a Ref (1.14.0)",
}


def cfn_lint(templates: Iterable[Template]) -> list[Finding]:
    """cfn-lint at its strictest: informational rules, strict types, no literal region, account or
    partition.
    """
    from cfnlint import lint
    from cfnlint.config import ManualArgs

    strict = {
        "E3012": {"strict": True},
        "I3042": {"region": True, "accountId": True, "partition": True},
    }
    config = ManualArgs(include_checks=["I"], regions=["us-east-1"], configure_rules=strict)
    found = []
    for template in templates:
        for match in lint(template.text, config=config):
            path = [str(part) for part in match.path or []]
            resource = path[1] if len(path) > 1 and path[0] == "Resources" else ""
            found.append(
                finding(template, "cfn-lint", match.rule.id, match.message, resource, line=match.linenumber)
            )
    return found


def engine_of(
    templates: Iterable[Template] = (), guard: Iterable[packs.Rule] = (), rego: Iterable[packs.Rule] = ()
) -> Any:
    """AWS's validation engine with rules on top of its own."""
    from cloudformation_validate import CompositeEngine, CompositeEngineConfig, ExternalRuleSource

    def sources(rules: Iterable[packs.Rule]) -> list[Any]:
        return [ExternalRuleSource(name=rule.name, content=rule.source) for rule in rules]

    return CompositeEngine(CompositeEngineConfig(guard_rules=sources(guard), rego_rules=sources(rego)))


def types_of(templates: Iterable[Template]) -> set[str]:
    """The resource types that templates use."""
    return {str(resource["Type"]) for template in templates for resource in template.resources.values()}


class Validate:
    """cloudformation-validate's own rules and cdk-preflight's: what fails at deployment. Rules compile
    once.
    """

    def __init__(self, types: Iterable[str]) -> None:
        self.engine = engine_of(rego=packs.preflight(types))

    def __call__(self, templates: Iterable[Template]) -> list[Finding]:
        from cloudformation_validate import Severity, TemplateContent, ValidateConfig

        found: set[Finding] = set()
        for template in templates:
            content = TemplateContent(template.text, template.name)
            for values in parameter_sets(template).values():
                made = resolve(template.data, values)["Resources"]
                overrides = {
                    name: ",".join(map(str, value)) if isinstance(value, list) else str(value)
                    for name, value in values.items()
                    if name in template.data.get("Parameters", {})
                }
                config = ValidateConfig(severity_level=Severity.INFO, parameter_overrides=overrides)
                for one in self.engine.validate_template(content, config).diagnostics:
                    resource = _resource(template, one)
                    if one.rule_id not in LEFT_OUT and (not resource or resource in made):
                        line = one.start_line or 0
                        found.add(
                            finding(template, "validate", one.rule_id, one.message, resource, line=line)
                        )
        return sorted(found)


def _resource(template: Template, one: Any) -> str:
    return one.entity.logical_id if one.entity and one.entity.logical_id in template.resources else ""


class Guard:
    """Control Tower's proactive controls and the platform's own rules, on what each launch makes."""

    def __init__(self, rules: Sequence[packs.Rule]) -> None:
        # the engine calls the rules of a file after the file, with other signs for dots and hyphens
        self.names = {re.sub(r"\W", "_", rule.name): rule.name for rule in rules}
        # own rules begin with what they are for; that is said where a clause cannot speak for itself
        self.purposes = {rule.name: rule.source.split("\n", 1)[0].lstrip("# ") for rule in packs.own()}
        self.engine = engine_of(guard=rules)

    def __call__(self, templates: Iterable[Template]) -> list[Finding]:
        found: set[Finding] = set()
        for template in templates:
            for _, literal in resolved(template):
                found |= self.judge(template, literal)
        return sorted(found)

    def judge(self, template: Template, literal: dict[str, Any]) -> set[Finding]:
        """Findings in one literal template; the many clauses of a rule that failed are one finding."""
        from cloudformation_validate import Severity, TemplateContent, ValidateConfig

        config = ValidateConfig(severity_level=Severity.DEBUG, disable_builtin_rules=True)
        content = TemplateContent(json.dumps(literal, default=str), template.name)
        found = set()
        for one in self.engine.validate_template(content, config).diagnostics:
            category = (one.category or "").removeprefix("guard:")
            if category not in self.names:
                raise RuntimeError(f"{template.name}: {one.rule_id}: {one.message}")
            text = (one.rule_description or one.message).split("[FIX]")[0]
            if re.fullmatch(r"Rule \w+ failed", text):
                text = self.purposes.get(self.names[category], text)
            text = re.sub(r"^\s*\[[\w.-]+\]:\s*", "", text)
            resource = _resource(template, one) or _resource_of(one.property_path)
            found.add(finding(template, "guard", self.names[category], text, resource))
        # some rules tell the resource in only one of their clauses
        told = {(one.rule, one.message) for one in found if one.resource}
        return {one for one in found if one.resource or (one.rule, one.message) not in told}


def _resource_of(path: str | None) -> str:
    parts = re.split(r"[./]", path or "")
    return parts[1] if parts[0] == "Resources" and len(parts) > 1 else ""


def checkov(templates: Iterable[Template]) -> list[Finding]:
    """checkov's CloudFormation checks, without asking its vendor anything."""
    by_path = {str(template.path.resolve()): template for template in templates}
    report = _checkov(list(by_path))
    if report.parsing_errors:
        raise RuntimeError(f"checkov cannot read {', '.join(report.parsing_errors)}")
    found = set()
    for one in report.failed_checks:
        template = by_path[str(Path(one.file_abs_path).resolve())]
        resource = one.resource.rpartition(".")[2]
        found.add(finding(template, "checkov", one.check_id, one.check_name, resource))
    return sorted(found)


def checkov_counts(templates: Iterable[Template]) -> tuple[int, int]:
    """How many of its checks passed, of how many."""
    report = _checkov([str(template.path.resolve()) for template in templates])
    passed, failed = len(report.passed_checks), len(report.failed_checks)
    return passed, passed + failed


def _checkov(files: list[str]) -> Any:
    os.environ["LOG_LEVEL"] = "ERROR"  # read at import
    logging.getLogger().setLevel(logging.ERROR)
    from checkov.cloudformation.runner import Runner
    from checkov.runner_filter import RunnerFilter

    options = RunnerFilter(framework=["cloudformation"], download_external_modules=False)
    return Runner().run(root_folder=None, files=files, runner_filter=options)
