"""What prepare-account refuses, and what it launches where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

import prepare_account
import release
import teardown

TOOLING, STAGING, OTHER = "123456789012", "210987654321", "999999999999"
ID = "p-abcdefghijkl"
TEMPLATES = {name: Path("mlops-cfn/accounts") / file for name, file in prepare_account.TEMPLATES.items()}
ROLE = f"arn:aws:iam::{TOOLING}:role/mlops/projects"
SETTINGS = {
    "project-name": "churn",
    "cost-center": "4711",
    "pipeline-role-arn": f"{ROLE}/pipeline",
    "release-role-arn": f"{ROLE}/release",
    "bucket-name": f"mlops-{ID}-{TOOLING}-eu-west-1",
    "key-arn": f"arn:aws:kms:eu-west-1:{TOOLING}:key/1",
    "notification-topic-arn": f"arn:aws:sns:eu-west-1:{TOOLING}:topic",
    "staging-account-id": STAGING,
    "production-account-id": TOOLING,
}


class Account:
    """One account as boto3 shows it: a session, and each of its clients."""

    def __init__(self, number: str, ssm: dict[str, str] | None = None, region: str = "eu-west-1") -> None:
        self.number, self.region_name = number, region
        self.ssm = ssm or {}
        self.stacks: dict[str, dict[str, Any]] = {}
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.objects: dict[str, bytes] = {}
        self.rules: list[dict[str, Any]] = [{"IpProtocol": "-1"}]
        self.denied = ""

    def client(self, service: str) -> Account:
        return self

    def get_caller_identity(self) -> dict[str, str]:
        return {"Account": self.number}

    def get_paginator(self, operation: str) -> Account:
        self.paging = operation
        return self

    def paginate(self, **asked: Any) -> list[dict[str, Any]]:
        if self.paging == "get_parameters_by_path":
            path = asked["Path"] + "/"
            if self.denied:
                raise ClientError({"Error": {"Code": "AccessDeniedException", "Message": self.denied}}, "x")
            found = [{"Name": k, "Value": v} for k, v in self.ssm.items() if k.startswith(path)]
            return [{"Parameters": found}]
        if self.paging == "list_projects":
            one = {"ProjectName": "churn", "ProjectId": ID, "ProjectStatus": "CreateCompleted"}
            return [{"ProjectSummaryList": [one]}]
        key = {"ResourceType": "AWS::KMS::Key", "PhysicalResourceId": "key-1"}
        role = {"ResourceType": "AWS::IAM::Role", "PhysicalResourceId": "role-1"}
        return [{"StackResourceSummaries": [key, role]}]

    def list_objects_v2(self, Bucket: str, Prefix: str) -> dict[str, Any]:  # noqa: N803
        return {"Contents": [{"Key": key} for key in self.objects if key.startswith(Prefix)]}

    def get_object(self, Bucket: str, Key: str) -> dict[str, Any]:  # noqa: N803
        class Body:
            read = staticmethod(lambda: self.objects[Key])

        return {"Body": Body}

    def describe_managed_prefix_lists(self, Filters: list[Any]) -> dict[str, Any]:  # noqa: N803
        return {"PrefixLists": [{"PrefixListId": "pl-63a5400a", "PrefixListName": Filters[0]["Values"][0]}]}

    def describe_security_groups(self, GroupIds: list[str]) -> dict[str, Any]:  # noqa: N803
        return {"SecurityGroups": [{"IpPermissions": [], "IpPermissionsEgress": self.rules}]}

    def revoke_security_group_egress(self, **asked: Any) -> None:
        self.rules = []

    def describe_stacks(self, StackName: str) -> dict[str, Any]:  # noqa: N803
        if StackName not in self.stacks:
            raise ClientError({"Error": {"Code": "ValidationError", "Message": "does not exist"}}, "x")
        found = self.stacks[StackName]
        outputs = [{"OutputKey": "DefaultSecurityGroupId", "OutputValue": "sg-1"}]
        return {"Stacks": [{"StackId": StackName, "StackStatus": found["status"], "Outputs": outputs,
                            "Parameters": found.get("Parameters", [])}]}  # fmt: skip

    def create_stack(self, **asked: Any) -> None:
        self.calls.append(("create", asked))
        self.stacks[asked["StackName"]] = {**asked, "status": "CREATE_COMPLETE"}

    def update_stack(self, **asked: Any) -> None:
        before = self.stacks[asked["StackName"]]
        given = [p for p in asked["Parameters"] if "UsePreviousValue" not in p]
        if given == before["Parameters"] and asked["TemplateBody"] == before["TemplateBody"]:
            message = "No updates are to be performed."
            raise ClientError({"Error": {"Code": "ValidationError", "Message": message}}, "UpdateStack")
        self.calls.append(("update", asked))
        self.stacks[asked["StackName"]] |= {**asked, "status": "UPDATE_COMPLETE"}

    def delete_stack(self, StackName: str) -> None:  # noqa: N803
        self.calls.append(("delete", {"StackName": StackName}))
        del self.stacks[StackName]


@pytest.fixture
def tooling() -> Account:
    """The tooling account, with a release and a project whose staging is elsewhere."""
    infra = {"release-bucket-name": "releases", "release-version": "1.2.0", "stage-account-ids": STAGING}
    ssm = {f"/mlops/infra/{k}": v for k, v in infra.items()}
    made = Account(TOOLING, ssm | {f"/mlops/projects/{ID}/{k}": v for k, v in SETTINGS.items()})
    for name, path in TEMPLATES.items():
        data = path.read_bytes()
        made.objects[f"1.2.0/accounts/{name}.{release.short_hash(data)}.yaml"] = data
    return made


def run(tooling: Account, target: Account, *arguments: str, status: int = 0) -> None:
    assert prepare_account.main(["--profile", "x", *arguments], tooling, target) == status


def test_account_and_project_are_launched_from_the_release(
    tooling: Account, capsys: pytest.CaptureFixture[str]
) -> None:
    target = Account(STAGING)
    run(tooling, target, "--project", "churn", "--parameter", "VpcCidr=10.1.0.0/16")
    (_, first), (_, second) = target.calls
    assert (first["StackName"], second["StackName"]) == ("mlops-account", f"mlops-account-{ID}")
    assert first["TemplateBody"] == TEMPLATES["account"].read_text()
    given = {p["ParameterKey"]: p["ParameterValue"] for p in first["Parameters"]}
    assert given == {"ToolingAccountId": TOOLING, "S3PrefixListId": "pl-63a5400a", "VpcCidr": "10.1.0.0/16"}
    given = {p["ParameterKey"]: p["ParameterValue"] for p in second["Parameters"]}
    assert given["PipelineRoleArn"] == SETTINGS["pipeline-role-arn"]
    assert {t["Key"]: t["Value"] for t in second["Tags"]}["sagemaker:project-id"] == ID
    answer = json.loads(capsys.readouterr().out)
    assert answer["rules_closed"] == 1
    assert answer["next"] == [f"project churn: the next approved version is deployed to account {STAGING}"]


def test_once_more_changes_nothing(tooling: Account, capsys: pytest.CaptureFixture[str]) -> None:
    target = Account(STAGING)
    run(tooling, target, "--project", "churn")
    capsys.readouterr()
    run(tooling, target, "--project", "churn")
    assert len(target.calls) == 2
    assert set(json.loads(capsys.readouterr().out)["stacks"].values()) == {"none"}


def test_what_was_set_once_stays(tooling: Account) -> None:
    target = Account(STAGING)
    run(tooling, target, "--parameter", "VpcCidr=10.1.0.0/16")
    data = TEMPLATES["account"].read_bytes() + b"# a later release\n"
    tooling.objects = {k: v for k, v in tooling.objects.items() if "account." not in k.split("/")[-1]}
    tooling.objects[f"1.2.0/accounts/account.{release.short_hash(data)}.yaml"] = data
    run(tooling, target)
    kind, asked = target.calls[-1]
    assert kind == "update"
    assert {"ParameterKey": "VpcCidr", "UsePreviousValue": True} in asked["Parameters"]


@pytest.mark.parametrize(
    ("number", "ssm", "words"),
    [
        (TOOLING, {}, "is the tooling account itself"),
        (OTHER, {}, f"StageAccountIds={STAGING},{OTHER}"),
        (STAGING, {"/mlops/infra/portfolio-id": "port-1"}, "a platform of its own"),
        (STAGING, {"/mlops/infra/tooling-account-id": OTHER}, f"the platform of account {OTHER}"),
    ],
)
def test_an_account_that_cannot_be_one_of_a_stage_is_refused(
    tooling: Account, capsys: pytest.CaptureFixture[str], number: str, ssm: dict[str, str], words: str
) -> None:
    target = Account(number, ssm)
    run(tooling, target, status=1)
    assert words in capsys.readouterr().err
    assert not target.calls


def test_another_region_is_refused(tooling: Account, capsys: pytest.CaptureFixture[str]) -> None:
    run(tooling, Account(STAGING, region="us-east-1"), status=1)
    assert "the profile works in us-east-1, the platform in eu-west-1" in capsys.readouterr().err


def test_the_tooling_account_can_be_named(tooling: Account, capsys: pytest.CaptureFixture[str]) -> None:
    run(tooling, Account(STAGING), "--tooling-account", OTHER, status=1)
    assert f"of account {TOOLING}, not of {OTHER}" in capsys.readouterr().err


def test_a_project_that_is_not_there_or_not_in_this_account_is_refused(
    tooling: Account, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tooling, Account(STAGING), "--project", "chrun", status=1)
    assert "projects there: churn" in capsys.readouterr().err
    tooling.ssm[f"/mlops/projects/{ID}/staging-account-id"] = TOOLING
    run(tooling, Account(STAGING), "--project", "churn", status=1)
    assert (
        f"staging in {TOOLING}, production in {TOOLING}, and nothing in {STAGING}" in capsys.readouterr().err
    )
    del tooling.ssm[f"/mlops/projects/{ID}/pipeline-role-arn"]
    run(tooling, Account(STAGING), "--project", "churn", status=1)
    assert "pipeline-role-arn is not there): update it in Service Catalog" in capsys.readouterr().err


def test_missing_rights_are_told_with_whose_are_needed(
    tooling: Account, capsys: pytest.CaptureFixture[str]
) -> None:
    target = Account(STAGING)
    target.denied = "not authorized to perform: ssm:GetParametersByPath"
    run(tooling, target, status=1)
    said = capsys.readouterr().err
    assert "ssm:GetParametersByPath" in said
    assert f"credentials of an administrator of account {STAGING}" in said


def test_a_changed_template_is_not_launched(tooling: Account, capsys: pytest.CaptureFixture[str]) -> None:
    key = next(key for key in tooling.objects if "/account." in key)
    tooling.objects[key] += b"# somebody was here"
    target = Account(STAGING)
    run(tooling, target, status=1)
    assert "is not what was published" in capsys.readouterr().err
    assert not target.calls


def test_a_release_without_accounts_is_told(tooling: Account, capsys: pytest.CaptureFixture[str]) -> None:
    tooling.objects = {}
    run(tooling, Account(STAGING), status=1)
    assert "release 1.2.0 knows no other accounts" in capsys.readouterr().err


def test_removal_shows_first_and_deletes_endpoints_before_roles(
    tooling: Account, capsys: pytest.CaptureFixture[str]
) -> None:
    target = Account(STAGING, {f"/mlops/projects/{ID}/project-name": "churn"})
    for name in ("mlops-account", f"mlops-account-{ID}", f"mlops-{ID}-staging"):
        target.stacks[name] = {"status": "CREATE_COMPLETE"}
    run(tooling, target, "--remove", status=1)
    assert "remove these first, each with --project" in capsys.readouterr().err
    run(tooling, target, "--remove", "--project", "churn")
    shown = json.loads(capsys.readouterr().out)
    assert shown["deleted"] is False
    assert shown["stacks"] == [f"mlops-{ID}-staging", f"mlops-account-{ID}"]
    assert {one["type"] for one in shown["retained"]} == {"AWS::KMS::Key"}
    assert not target.calls
    run(tooling, target, "--remove", "--project", "churn", "--yes")
    assert [asked["StackName"] for _, asked in target.calls] == shown["stacks"]
    target.ssm = {}
    run(tooling, target, "--remove", "--yes")
    assert not target.stacks
    run(tooling, target, "--remove", "--yes", status=3)


def test_files_and_commands_for_stack_sets(
    tooling: Account, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run(tooling, Account(STAGING), "--stackset", str(tmp_path), "--project", "churn")
    commands = json.loads(capsys.readouterr().out)["commands"]
    assert len(commands) == 4
    assert f"--accounts {STAGING} --regions eu-west-1" in commands[3]
    assert (tmp_path / "project.yaml").read_text() == TEMPLATES["project"].read_text()
    parameters = json.loads((tmp_path / f"mlops-account-{ID}.json").read_text())
    assert {"ParameterKey": "ProjectId", "ParameterValue": ID} in parameters


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        prepare_account.main([])
    with pytest.raises(SystemExit, match="2"):
        prepare_account.main(["--profile", "x", "--parameter", "VpcCidr"])
    assert prepare_account.main(["--profile", "no-such-profile-here", "--remove"]) == 1
    assert "aws configure list-profiles" in capsys.readouterr().err


def test_a_teardown_names_what_is_elsewhere() -> None:
    (said,) = teardown.elsewhere("churn", SETTINGS)
    assert said.startswith(f"account {STAGING}: make prepare-account")
    assert "--project churn --remove --yes" in said
    here = {**SETTINGS, "staging-account-id": TOOLING}
    assert teardown.elsewhere("churn", here) == []
    assert teardown.elsewhere("churn", {}) == []  # of an older release
