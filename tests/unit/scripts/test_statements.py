"""Which statements of the policies a rehearsal needs: where they stand, and what is denied without them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from statements import __main__ as statements
from statements import templates

TEMPLATE = """\
AWSTemplateFormatVersion: '2010-09-09'
Resources:
  Reader:
    Type: AWS::IAM::ManagedPolicy
    Properties:
      PolicyDocument:
        Version: '2012-10-17'
        Statement:
          - Sid: Lists
            Effect: Allow
            Action: s3:ListBucket
            Resource: '*'  # an example
          # about the next one
          - {Sid: Reads, Effect: Allow, Action: s3:GetObject, Resource: '*'}
          - Sid: Never
            Effect: Deny
            Action: s3:DeleteObject
            Resource: '*'
"""
ROLE = "arn:aws:iam::123456789012:role/reader"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with one template."""
    folder = tmp_path / "mlops-cfn"
    folder.mkdir()
    (folder / "t.yaml").write_text(TEMPLATE)
    return tmp_path


@pytest.mark.parametrize("sid", ["Lists", "Reads", "Never"])
def test_a_statement_is_taken_out_whole(root: Path, sid: str) -> None:
    templates.without(root, f"t.yaml/Reader/{sid}")
    left = (root / "mlops-cfn/t.yaml").read_text()
    assert f"Sid: {sid}" not in left
    assert {s.sid for s in templates.statements(root)} == {"Lists", "Reads", "Never"} - {sid}
    assert "# about the next one" in left or sid == "Reads"


def test_a_name_that_no_statement_has_is_an_error_that_tells_what_is_near(root: Path) -> None:
    with pytest.raises(LookupError, match="t.yaml/Reader/Reads"):
        templates.without(root, "other.yaml/Reader/Reads")


def test_the_only_statement_of_a_policy_stays(root: Path) -> None:
    for sid in ("Lists", "Reads"):
        templates.without(root, f"t.yaml/Reader/{sid}")
    with pytest.raises(LookupError, match="only statement"):
        templates.without(root, "t.yaml/Reader/Never")


def evidence(*asked: tuple[str, str], denied: str = "") -> dict[str, Any]:
    """What a rehearsal of one step leaves: (action, resource) of each question of the reader."""
    allow = {"Effect": "Allow", "Resource": "*"}
    policy = [
        allow | {"Sid": "Lists", "Action": "s3:ListBucket"},
        allow | {"Sid": "Reads", "Action": "s3:GetObject"},
        allow | {"Sid": "Never", "Effect": "Deny", "Action": "s3:DeleteObject"},
    ]
    one = {
        "role": ROLE,
        "by": "arn:aws:sts::123456789012:assumed-role/reader/jane",
        "context": {},
        "keys": {},
        "first": 12.0,
        "denied": denied,
        "policies": {"identity": ["d"], "session": None, "resource_owner": None},
    }
    return {
        "began": 10.0,
        "steps": [{"case": "D", "title": "look", "began": 1.0, "seconds": 5.0}],
        "policies": {"d": {"Version": "2012-10-17", "Statement": policy}},
        "questions": [{**one, "action": action, "resource": resource} for action, resource in asked],
    }


def found(tmp_path: Path, recorded: dict[str, Any], root: Path, monkeypatch: Any) -> dict[str, Any]:
    """What ``needed`` makes of it, with the template above."""
    real = templates.statements
    monkeypatch.setattr(templates, "statements", lambda _, *holding: real(root, *holding))
    (tmp_path / "evidence.json").write_text(json.dumps(recorded))
    return statements.needed(tmp_path / "evidence.json")


def test_what_a_step_would_be_denied_names_its_statement(
    root: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    recorded = evidence(("s3:ListBucket", "arn:aws:s3:::b"))
    needed = found(tmp_path, recorded, root, monkeypatch)
    assert needed == {
        "t.yaml/Reader/Lists": {"step": "D: look", "actions": ["s3:ListBucket"], "roles": [ROLE]}
    }


def test_a_decision_that_is_not_repeated_is_an_error(root: Path, tmp_path: Path, monkeypatch: Any) -> None:
    recorded = evidence(("s3:DeleteObject", "arn:aws:s3:::b/x"))  # recorded as allowed, which it cannot be
    with pytest.raises(RuntimeError, match="1 decisions differ"):
        found(tmp_path, recorded, root, monkeypatch)
