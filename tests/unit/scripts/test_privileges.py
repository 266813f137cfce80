"""What make privileges makes of grants and of what a rehearsal used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import privileges
from privileges import Reason, Role, judge, roles_of, use

TEMPLATE = """
Resources:
  BuildRole:
    Type: AWS::IAM::Role
    Properties:
      Path: /mlops/projects/
      Policies:
        - PolicyName: own
          PolicyDocument:
            Statement:
              - {Sid: Logs, Effect: Allow, Action: [logs:CreateLogStream, logs:PutLogEvents], Resource: x}
              - {Sid: Never, Effect: Deny, Action: s3:DeleteBucket, Resource: x}

  Shared:
    Type: AWS::IAM::ManagedPolicy
    Properties:
      Path: /mlops/projects/
      Roles: [!Ref BuildRole]
      PolicyDocument:
        Statement: [{Sid: See, Effect: Allow, Action: sagemaker:Describe*, Resource: x}]
"""
ARN = "arn:aws:iam::123456789012:role/mlops/projects/SC-1-pp-abc-Identity-1ABCDEFGHIJ-0123456789AB"


@pytest.fixture
def template(tmp_path: Path) -> Path:
    path = tmp_path / "roles.yaml"
    path.write_text(TEMPLATE)
    return path


def question(action: str, role: str = ARN, denied: str = "") -> dict[str, object]:
    keys = {"aws:PrincipalTag/aws:cloudformation:logical-id": "BuildRole"} if role == ARN else {}
    return {"role": role, "action": action, "denied": denied, "keys": keys}


def test_inline_and_attached_policies_are_granted(template: Path) -> None:
    role = roles_of([template])["/mlops/projects/", "BuildRole"]
    assert role.granted == {
        ("Logs", "logs:CreateLogStream"),
        ("Logs", "logs:PutLogEvents"),
        ("See", "sagemaker:Describe*"),
    }


def test_use_is_told_by_role_and_action(template: Path) -> None:
    roles = roles_of([template])
    asked = [
        question("logs:PutLogEvents"),
        question("sagemaker:DescribeModel"),
        question("logs:CreateLogStream", denied="no"),
        question("logs:CreateLogStream", role=""),  # the account's own
        question("logs:CreateLogStream", role="arn:aws:iam::123456789012:role/people"),
    ]
    assert use(roles, asked) == {"arn:aws:iam::123456789012:role/people"}
    assert roles["/mlops/projects/", "BuildRole"].unused() == [("Logs", "logs:CreateLogStream")]


def test_what_is_unused_needs_a_reason_and_a_reason_something_unused() -> None:
    role = Role("/mlops/projects/", "BuildRole", {("Logs", "logs:PutLogEvents"), ("See", "ecr:ListImages")})
    fits, idle = Reason("Build*", "Logs", "*", "a failing build"), Reason("*", "Other", "*", "of old")
    kept, faults = judge([role], [fits, idle])
    assert [(statement, action) for _, statement, action, _ in kept] == [("Logs", "logs:PutLogEvents")]
    assert faults == [
        "BuildRole.See: ecr:ListImages is granted, never used, and no reason says why",
        "privileges.yml: *.Other * explains nothing any more",
    ]


def test_the_command_writes_the_page_and_fails_on_a_fault(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    evidence, reasons, page = (tmp_path / name for name in ("evidence.json", "reasons.yml", "page.md"))
    evidence.write_text(json.dumps({"questions": [question("logs:PutLogEvents")]}))
    reasons.write_text("- {statement: See, reason: people look at it}\n")
    monkeypatch.setattr(privileges, "TEMPLATES", tmp_path)
    monkeypatch.setattr(privileges, "REASONS", reasons)
    arguments = ["--evidence", str(evidence), "--out", str(page)]
    assert privileges.main(arguments) == 1
    assert "BuildRole.Logs: logs:CreateLogStream is granted, never used" in capsys.readouterr().err
    assert "| `projects/BuildRole` | 3 | 1 | 2 |" in page.read_text()
    assert "people look at it" in page.read_text()
    evidence.write_text(
        json.dumps({"questions": [question("logs:PutLogEvents"), question("logs:CreateLogStream")]})
    )
    assert privileges.main(arguments) == 0


def test_without_a_rehearsal_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert privileges.main(["--evidence", str(tmp_path / "none.json")]) == 2
    assert "run `make rehearse` first" in capsys.readouterr().err
