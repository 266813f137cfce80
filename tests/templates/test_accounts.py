"""Stages in other accounts: what the two sides must agree on, though neither can see the other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from house_rules import CFN, MAX_ENTRY_BYTES, TEMPLATES, as_list, load, walk

from statements.templates import ELSEWHERE, statements

ROOT = CFN.parent
GRANTS = ROOT / "tests/security/cross_account.yml"
LONGEST_ID = "p-" + "a" * 18  # what the templates allow; SageMaker's have 14 characters
NAMED = re.compile(r"role/mlops/projects/mlops-(?:\$\{\w+\}|p-\*)-([a-z]+)")
# An account that is not the template's own, or a resource that lies in one.
FOREIGN = re.compile(r"(Staging|Production|Tooling)AccountId|StageAccountIds|Project(BucketName|KeyArn)")
# Of the stacks that stay in the project's account: monitors, and what starts them.
NOT_ELSEWHERE = {"MakeMonitors", "KeepMonitors", "ScheduleMonitors", "Schedules", "PassEventsRole"}


def roles() -> dict[str, dict[str, Any]]:
    """The roles of a project in the account of a stage, by the end of their names."""
    found = load(CFN / "accounts/project.yaml").of_type("AWS::IAM::Role")
    return {props["RoleName"]["Fn::Sub"].rpartition("-")[2]: props for _, props in found}


def statements_of(template: str, resource: str) -> dict[str, dict[str, Any]]:
    """The statements of a role's own policies, by Sid."""
    policies = load(CFN / template).resources[resource]["Properties"]["Policies"]
    return {s["Sid"]: s for p in policies for s in p["PolicyDocument"]["Statement"] if "Sid" in s}


def texts() -> Iterator[tuple[Path, str]]:
    """Every template, and the scripts that name roles."""
    for path in (*TEMPLATES, ROOT / "mlops-cicd/mlops_cicd/accounts.py"):
        yield path, path.read_text()


def test_names_fit() -> None:
    for end in roles():
        name = f"mlops-{LONGEST_ID}-{end}"
        assert len(name) <= 64, name
        session = f"mlops-{LONGEST_ID}-production"
        assert len(session) <= 64, session


def test_each_role_that_the_tooling_side_names_is_made_and_each_that_is_made_is_named() -> None:
    named = {end for path, text in texts() if path.parent.name != "accounts" for end in NAMED.findall(text)}
    script = (ROOT / "mlops-cicd/mlops_cicd/accounts.py").read_text()
    named |= set(re.findall(r'role_arn\(\w+, \w+, "(\w+)"\)', script))
    assert named == set(roles()) == {"deliver", "stacks", "model", "release"}


def test_every_role_has_the_boundary_of_its_account() -> None:
    assert {str(role["PermissionsBoundary"]) for role in roles().values()} == {
        str({"Ref": "PermissionsBoundaryArn"})
    }


@pytest.mark.parametrize(("end", "who"), [("deliver", "PipelineRoleArn"), ("release", "ReleaseRoleArn")])
def test_a_role_is_taken_by_exactly_one_role_of_the_tooling_account(end: str, who: str) -> None:
    (trust,) = roles()[end]["AssumeRolePolicyDocument"]["Statement"]
    assert trust["Principal"] == {"AWS": {"Fn::Sub": "arn:${AWS::Partition}:iam::${ToolingAccountId}:root"}}
    assert trust["Condition"] == {"ArnEquals": {"aws:PrincipalArn": {"Ref": who}}}
    assert trust["Action"] == "sts:AssumeRole"


@pytest.mark.parametrize("end", ["stacks", "model"])
def test_the_other_roles_are_taken_by_services_of_their_account_only(end: str) -> None:
    (trust,) = roles()[end]["AssumeRolePolicyDocument"]["Statement"]
    assert list(trust["Principal"]) == ["Service"]
    assert "aws:SourceAccount" in str(trust["Condition"])


def test_stacks_there_may_do_what_stacks_here_may_do_for_an_endpoint() -> None:
    here = statements_of("project/identity.yaml", "DeployRole")
    there = statements_of("accounts/project.yaml", "StacksRole")
    wanted = set(here) - NOT_ELSEWHERE
    assert set(there) == wanted
    for sid in wanted - {"ReadModelPackage"}:  # which is of another account there
        assert set(as_list(there[sid]["Action"])) == set(as_list(here[sid]["Action"])), sid
        assert there[sid].get("Condition") == here[sid].get("Condition"), sid


def test_grants_that_cross_accounts_are_listed() -> None:
    """Both ways: nothing crosses that is not on the list, and the list names what is there."""
    every = {s.name: s for s in statements(ROOT, ELSEWHERE)}
    listed = {row["statement"] for row in yaml.safe_load(GRANTS.read_text())}
    assert listed - set(every) == set()
    lines = {path.relative_to(CFN).as_posix(): path.read_text().splitlines() for path in TEMPLATES}
    crossing = set()
    for name, statement in every.items():
        text = "\n".join(lines[statement.template][statement.first : statement.last])
        if FOREIGN.search(text) or re.search(r"!Ref (Pipeline|Release)RoleArn\b", text):
            crossing.add(name)
    assert crossing == listed


def test_each_grant_names_one_role_or_alarms_of_one_account() -> None:
    """A root opens a whole account, so a condition must say who of it."""
    for path in (CFN / "2-smproject.yaml", CFN / "project/data.yaml"):
        for name, statement in load(path).statements():
            if not str(statement.get("Sid", "")).startswith(("Staging", "Production", "AlarmsOf")):
                continue
            condition = str(statement["Condition"])
            stage = next(one for one in ("Staging", "Production") if one in statement["Sid"])
            other = {"Staging": "Production", "Production": "Staging"}[stage]
            assert f"{other}Account" not in str(statement), (name, statement["Sid"])
            if "Service" in statement["Principal"]:
                assert "aws:SourceAccount" in condition, (name, statement["Sid"])
            else:
                assert "aws:PrincipalArn" in condition, (name, statement["Sid"])
                assert f"${{{stage}AccountId}}" in condition, (name, statement["Sid"])


def test_what_is_launched_in_another_account_is_small_enough_for_the_api() -> None:
    """The release's bucket is closed to other accounts, so templates travel in the request."""
    for path in (CFN / "accounts").glob("*.yaml"):
        assert len(path.read_bytes()) <= MAX_ENTRY_BYTES, path.name
        assert not list(load(path).of_type("AWS::CloudFormation::Stack")), path.name


def test_a_model_elsewhere_needs_no_other_endpoint_than_that_of_s3() -> None:
    """Network isolation: the container calls nothing. Interface endpoints would cost, and open ways."""
    endpoints = dict(load(CFN / "accounts/account.yaml").of_type("AWS::EC2::VPCEndpoint"))
    assert list(endpoints) == ["S3Endpoint"]
    groups = dict(load(CFN / "accounts/account.yaml").of_type("AWS::EC2::SecurityGroup"))
    assert all("SecurityGroupIngress" not in group for group in groups.values())
    for node in walk(load(CFN / "accounts/account.yaml").data):
        assert not (isinstance(node, dict) and "Custom::" in str(node.get("Type", "")))
