"""Mutations change what they say and nothing else, and every kind of fault is among a sample."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from check.mutations import DELETE, Mutation, apply, data_of, mutants, sample
from check.templates import Template, load

TEXT = """\
Resources:
  Role:
    Type: AWS::IAM::Role
    DeletionPolicy: Delete  # nobody needs it
    Properties:
      PermissionsBoundary: !Ref Boundary
      # who may assume it
      AssumeRolePolicyDocument:
        Version: '2012-10-17'
        Statement: [{Sid: One, Effect: Allow, Principal: {AWS: a}, Action: x:Y}, {Sid: Two, Effect: Deny}]
      Policies:
        - PolicyName: p
          PolicyDocument:
            Statement:
              - Sid: Three
                Effect: Allow
                Action:
                  - s3:GetObject
                  - s3:PutObject
                Resource: !Sub arn:${AWS::Partition}:s3:::${Bucket}/x/*  # the bucket
                Condition:
                  StringEquals:
                    a: b
                  Bool: {c: 'true'}

  # the next one
  Bucket:
    Type: AWS::S3::Bucket
"""


@pytest.fixture
def template(tmp_path: Path) -> Template:
    path = tmp_path / "x.yaml"
    path.write_text(TEXT)
    return Template(path, "x.yaml")


def test_each_mutation_is_made_and_nothing_else(template: Template) -> None:
    made = list(mutants(template))
    texts = {apply(template, mutation) for mutation in made}  # apply itself compares the data
    assert len(texts) == len({mutation.name for mutation in made}) == len(made)
    assert all(data_of(text) != data_of(TEXT) for text in texts)


def test_the_faults_of_a_template(template: Template) -> None:
    kinds = Counter(mutation.kind for mutation in mutants(template))
    wanted = {
        "no-boundary": 1,
        "no-condition": 1,
        "no-condition-key": 2,
        "any-principal": 1,
        "no-deny": 1,
        "deny-allows": 1,
        "any-resource": 1,
        "wide-arn": 1,
        "wide-action": 3,
        "any-action": 2,
        "administrator": 1,
        "no-deletion-policy": 1,
    }
    assert {kind: kinds[kind] for kind in wanted} == wanted


@pytest.mark.parametrize(
    ("path", "value", "gone", "stays"),
    [
        (("Resources", "Role", "DeletionPolicy"), DELETE, "DeletionPolicy", "# who may assume it"),
        (
            ("Resources", "Role", "Properties", "PermissionsBoundary"),
            DELETE,
            "Boundary",
            "# who may assume it",
        ),
        (("Resources", "Bucket"), DELETE, "AWS::S3::Bucket", "Bool: {c: 'true'}"),
        (
            ("Resources", "Role", "Properties", "AssumeRolePolicyDocument", "Statement", 1),
            DELETE,
            "Sid: Two",
            "Sid: One",
        ),
        (
            ("Resources", "Role", "Properties", "AssumeRolePolicyDocument", "Statement", 0),
            DELETE,
            "Sid: One",
            "Sid: Two",
        ),
        (
            ("Resources", "Role", "Properties", "Policies", 0, "PolicyDocument", "Statement", 0, "Action"),
            "'*'",
            "s3:PutObject",
            "# the bucket",
        ),
        (
            ("Resources", "Role", "Properties", "Policies", 0, "PolicyDocument", "Statement", 0, "Condition"),
            DELETE,
            "StringEquals",
            "# the next one",
        ),
    ],
)
def test_the_text_keeps_everything_else(
    template: Template, path: tuple[str | int, ...], value: str, gone: str, stays: str
) -> None:
    text = apply(template, Mutation("x", "x.yaml", path, value))
    assert gone in TEXT and gone not in text
    assert stays in text


def test_a_key_is_added_before_its_siblings(template: Template) -> None:
    arns = ("Resources", "Role", "Properties", "ManagedPolicyArns")
    text = apply(template, Mutation("administrator", "x.yaml", arns, "[x]"))
    assert "    Properties:\n      ManagedPolicyArns: [x]\n      PermissionsBoundary" in text


def test_a_sample_has_every_kind_and_is_the_same_again() -> None:
    everything = [mutation for template in load() for mutation in mutants(template)]
    chosen = sample(everything, 100, seed=1)
    assert chosen == sample(everything, 100, seed=1) != sample(everything, 100, seed=2)
    assert len(chosen) == len(set(chosen)) == 100
    assert {mutation.kind for mutation in chosen} == {mutation.kind for mutation in everything}
    assert len(everything) > 1000
