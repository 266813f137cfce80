"""Waivers: they excuse exactly what they name, they need a reason, and an idle one is a finding."""

from __future__ import annotations

from pathlib import Path

import pytest

from check.findings import Finding, finding, judge
from check.templates import Template

REASON = "The bucket of logs cannot log itself."
BUCKET = """
Resources:
  Bucket:
    Type: AWS::S3::Bucket
    Metadata:
      {metadata}
"""


def template(tmp_path: Path, metadata: str) -> Template:
    path = tmp_path / "x.yaml"
    path.write_text(BUCKET.format(metadata=metadata))
    return Template(path, "x.yaml")


def rules(findings: list[Finding]) -> list[str]:
    return [one.rule for one in findings]


def test_a_waiver_excuses_its_rule_on_its_resource(tmp_path: Path) -> None:
    one = template(tmp_path, f"Waivers: {{RULE: {REASON}}}")
    still_open, waived = judge([one], [finding(one, "x", "RULE", "text", "Bucket")])
    assert still_open == []
    assert [(pair[0].rule, pair[1].reason) for pair in waived] == [("RULE", REASON)]


@pytest.mark.parametrize(
    ("rule", "resource", "part"), [("OTHER", "Bucket", ""), ("RULE", "", ""), ("RULE", "Bucket", "Sid")]
)
def test_a_waiver_excuses_nothing_else(tmp_path: Path, rule: str, resource: str, part: str) -> None:
    one = template(tmp_path, f"Waivers: {{RULE: {REASON}}}")
    still_open, _ = judge([one], [finding(one, "x", rule, "text", resource, part)])
    assert sorted(rules(still_open)) == sorted([rule, "WAIVER_UNUSED"])


def test_a_part_is_waived_by_name(tmp_path: Path) -> None:
    one = template(tmp_path, f"Waivers: {{RULE/Sid: {REASON}}}")
    findings = [finding(one, "x", "RULE", "text", "Bucket", part) for part in ("Sid", "Other")]
    still_open, _ = judge([one], findings)
    assert [one.waiver for one in still_open] == ["RULE/Other"]


@pytest.mark.parametrize("reason", ["''", "ok", "not applicable"])
def test_a_waiver_needs_a_reason(tmp_path: Path, reason: str) -> None:
    one = template(tmp_path, f"Waivers: {{RULE: {reason}}}")
    still_open, _ = judge([one], [finding(one, "x", "RULE", "text", "Bucket")])
    assert rules(still_open) == ["WAIVER_REASON"]


def test_an_idle_waiver_is_seen_by_a_complete_scan_only(tmp_path: Path) -> None:
    one = template(tmp_path, f"Waivers: {{RULE: {REASON}}}")
    assert rules(judge([one], [])[0]) == ["WAIVER_UNUSED"]
    assert judge([one], [], complete=False)[0] == []


@pytest.mark.parametrize(
    "metadata",
    [
        "cfn-lint: {config: {ignore_checks: [E3012]}}",
        "checkov: {skip: [{id: CKV_AWS_18}]}",
        "guard: {SuppressedRules: [X]}",
        "Why: here  # checkov:skip=CKV_AWS_18",
    ],
)
def test_suppressions_of_scanners_are_findings(tmp_path: Path, metadata: str) -> None:
    one = template(tmp_path, metadata)
    assert rules(judge([one], [])[0]) == ["FOREIGN_SUPPRESSION"]


def test_a_finding_has_the_line_of_its_resource(tmp_path: Path) -> None:
    one = template(tmp_path, "Why: here")
    assert finding(one, "x", "RULE", "text", "Bucket").line == 3
    assert finding(one, "x", "RULE", "text", "Nobody").line == 0
