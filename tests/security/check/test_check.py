"""The command: what it prints, its exit codes, and that it notices when a template becomes less safe."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from check import compliance
from check.findings import Finding, Waiver
from check.mutate import SURVIVORS
from check.templates import CFN, load

Scanners = Callable[..., subprocess.CompletedProcess[str]]
BAD = """\
AWSTemplateFormatVersion: '2010-09-09'
Resources:
  Domain:
    Type: AWS::SageMaker::Domain
    Properties:
      AuthMode: IAM
      DomainName: studio
      Nonsense: true
      DefaultUserSettings: {ExecutionRole: !GetAtt Role.Arn}
      SubnetIds: [subnet-0123456789abcdef0]
      VpcId: vpc-0123456789abcdef0
  Role:
    Type: AWS::IAM::Role
    Metadata:
      Waivers:
        RoleHasBoundary: A test of waivers has no boundary.
    Properties:
      AssumeRolePolicyDocument:
        Version: '2012-10-17'
        Statement:
          - {Sid: S, Effect: Allow, Principal: {Service: sagemaker.amazonaws.com}, Action: sts:AssumeRole}
      Policies:
        - PolicyName: p
          PolicyDocument:
            Version: '2012-10-17'
            Statement: [{Sid: Pass, Effect: Allow, Action: 'iam:PassRole', Resource: '*'}]
"""


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    path = tmp_path / "bad.yaml"
    path.write_text(BAD)
    return path


def test_every_scanner_of_templates_finds_what_is_its(scanners: Scanners, bad: Path) -> None:
    done = scanners("-m", "check", "--json", str(bad))
    assert done.returncode == 1, done.stderr
    said = json.loads(done.stdout)
    found = {(one["scanner"], one["rule"], one["resource"]) for one in said["open"]}
    assert {
        ("guard", "SageMakerDomainVpcOnly", "Domain"),
        ("guard", "TrustConfusedDeputy", "Role"),
        ("guard", "PassRoleScoped", "Role"),
        ("checkov", "CKV_AWS_187", "Domain"),
        ("iam", "IAM_UNCONDITIONED", "Role"),
        ("cfn-lint", "E3002", "Domain"),
        ("validate", "F3002", "Domain"),
        ("house", "roles_are_bounded", ""),
    } <= found
    assert [(one["rule"], one["reason"]) for one in said["waived"]] == [
        ("RoleHasBoundary", "A test of waivers has no boundary.")
    ]
    assert not said["passed"] and not said["failed"] and said["templates"] == 1


def test_people_read_where_what_and_why(scanners: Scanners, bad: Path) -> None:
    done = scanners("-m", "check", "--only", "guard", str(bad))
    assert done.returncode == 1
    assert "bad.yaml:3  Domain  SageMakerDomainVpcOnly  (guard)" in done.stdout
    assert "a Studio domain is VpcOnly" in done.stdout


def test_a_good_template_passes(scanners: Scanners, tmp_path: Path) -> None:
    good = tmp_path / "good.yaml"
    good.write_text(
        "AWSTemplateFormatVersion: '2010-09-09'\nResources:\n  Queue:\n    Type: AWS::SNS::Topic\n"
    )
    done = scanners("-m", "check", "--only", "validate", str(good))
    assert done.returncode == 0, done.stdout
    assert "nothing open" in done.stdout


def test_what_is_no_yaml_is_said_once(scanners: Scanners, tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("Resources: {a: b: c}")
    done = scanners("-m", "check", str(broken))
    assert done.returncode == 2
    assert done.stderr.startswith("check: broken.yaml: ") and "Traceback" not in done.stderr


def test_a_scanner_that_fails_does_not_pass(scanners: Scanners, tmp_path: Path) -> None:
    odd = tmp_path / "odd.yaml"
    odd.write_text(BAD.replace("!GetAtt Role.Arn", "{'Fn::Transform': {Name: x}}"))
    done = scanners("-m", "check", "--only", "guard", str(odd))
    assert done.returncode == 2
    assert "guard failed: NotImplementedError: Fn::Transform" in done.stdout


def test_secrets_are_found(scanners: Scanners) -> None:
    leak = "scripts/check/leak_of_a_test.py"
    path = CFN.parent / leak
    path.write_text('KEY = "AKIA' + "IOSFODNN7EXAMPLX" + '"\n')
    try:
        done = scanners("-c", f"from check import code; print(code.secrets(['{leak}']))")
    finally:
        path.unlink()
    assert "looks like a secret (AWS Access Key)" in done.stdout, done.stderr


@pytest.mark.slow
def test_a_sample_of_faults_is_noticed(scanners: Scanners) -> None:
    """The whole is `make mutate`, which wants a judgement for each survivor, too.

    The seed is fixed, so that a failure can be looked at again.
    """
    done = scanners("-m", "check.mutate", "--json", "--first", "--count", "40", "--seed", "11")
    said = json.loads(done.stdout)
    survived = [one["mutation"] for one in said["mutations"] if not one["caught_by"]]
    assert len(said["mutations"]) == 40
    assert said["rate"] >= 0.9, survived


def test_survivors_are_judged_in_words() -> None:
    for one in yaml.safe_load(SURVIVORS.read_text()):
        assert set(one) == {"mutation", "judgement"}
        assert len(one["judgement"]) > 30, one


# ---- the compliance tables ---------------------------------------------------------------------------------


def scan_of(tmp_path: Path, *found: tuple[str, str], waived: str = "") -> compliance.Scan:
    path = tmp_path / "x.yaml"
    path.write_text("Resources:\n  One: {Type: AWS::S3::Bucket}\n  Two: {Type: AWS::S3::Bucket}\n")
    findings = [Finding("x.yaml", resource, rule, "", "text", "guard") for rule, resource in found]
    if waived:
        pairs = [(one, Waiver(one.file, one.resource, one.rule, waived)) for one in findings]
        return compliance.Scan(load(path.parent), [], pairs)
    return compliance.Scan(load(path.parent), findings, [])


def test_a_control_is_met_when_its_rules_are_silent(tmp_path: Path) -> None:
    assert scan_of(tmp_path).verdict(["R"], ["AWS::S3::Bucket"]) == ("yes", "R")
    assert scan_of(tmp_path, ("OTHER", "One")).verdict(["R"], ["AWS::S3::Bucket"])[0] == "yes"


def test_a_control_is_not_met_when_a_rule_speaks(tmp_path: Path) -> None:
    assert scan_of(tmp_path, ("R", "One")).verdict(["S", "R"], ["AWS::S3::Bucket"]) == ("no", "open: One")


def test_a_waiver_is_told(tmp_path: Path) -> None:
    assert scan_of(tmp_path, ("R", "One"), waived="why").verdict(["R"], ["AWS::S3::Bucket"]) == (
        "but",
        "One: why",
    )
    both = scan_of(tmp_path, ("R", "One"), ("R", "Two"), waived="why")
    assert both.verdict(["R"], ["AWS::S3::Bucket"]) == ("no", "One, Two: why")


def test_the_document_must_be_that_of_the_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = tmp_path / "docs/compliance.md"
    document.parent.mkdir()
    document.write_text("<!-- made by check: waivers -->\nold\n<!-- end -->\n")
    monkeypatch.setattr(compliance, "DOCUMENT", document)
    monkeypatch.setattr(compliance, "ROOT", tmp_path)
    scan = scan_of(tmp_path, ("R", "One"), waived="why")
    assert [one.rule for one in compliance.stale(scan)] == ["DOCS_STALE"]
    compliance.write(scan)
    assert compliance.stale(scan) == []
    assert "| `x.yaml` | One | R | why |" in document.read_text()


def test_every_security_hub_control_says_what_decides_it() -> None:
    for control, about in compliance.security_hub().items():
        assert about["title"], control
        assert "account" in about or about["types"], control
        assert ("text" in about) == ("met" in about), control
        assert len({"by", "text", "account", "endpoint"} & about.keys()) <= 1, control


def test_rules_that_decide_controls_exist(scanners: Scanners) -> None:
    rules = sorted({rule for about in compliance.security_hub().values() for rule in about.get("by", [])})
    program = """
import json
import checkov.cloudformation.runner
from checkov.cloudformation.checks.resource.registry import cfn_registry
from check import house, packs
known = [control.rule.name for control in packs.controls()] + [rule.name for rule in packs.own()]
known += [rule.__name__ for rule in house.rules()[0]]
known += [check.id for checks in cfn_registry.checks.values() for check in checks]
print(json.dumps(known))
"""
    done = scanners("-c", program)
    assert done.returncode == 0, done.stderr
    known = {*json.loads(done.stdout), "IAM_DECRYPT_ALL", "IAM_ANYBODY", "W2531"}
    assert [rule for rule in rules if rule not in known] == []


def test_a_copy_of_the_templates_is_what_they_are(tmp_path: Path) -> None:
    """Mutations are looked at in a copy; the copy must be read as the original is."""
    shutil.copytree(CFN, tmp_path / "mlops-cfn")
    assert [one.name for one in load(tmp_path / "mlops-cfn")] == [one.name for one in load()]
