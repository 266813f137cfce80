"""The scripts that people run: what they ask of AWS, and what they say when there is nothing to do."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

import approve
import deploy
import hooks
import setup
import teardown

GROUP = "mlops-p-1"


class Registry:
    """Model versions, newest first, over two pages."""

    def __init__(self, *versions: tuple[int, str]) -> None:
        self.found = [
            {"ModelPackageArn": f"arn/{v}", "ModelPackageVersion": v, "ModelApprovalStatus": status}
            for v, status in versions
        ]
        self.asked: dict[str, Any] = {}

    def get_paginator(self, name: str) -> Registry:
        return self

    def paginate(self, **asked: Any) -> list[dict[str, Any]]:
        self.asked = asked
        return [{"ModelPackageSummaryList": self.found[:1]}, {"ModelPackageSummaryList": self.found[1:]}]


class Waiting:
    """A deploy pipeline that stands at its approval."""

    def get_pipeline_state(self, name: str) -> dict[str, Any]:
        latest = {"status": "InProgress", "token": "t"}
        actions = [{"actionName": "ApproveProduction", "latestExecution": latest}]
        return {"stageStates": [{"stageName": "Production", "actionStates": actions}]}

    def get_paginator(self, name: str) -> Waiting:
        assert name == "list_action_executions"
        return self

    def paginate(self, pipelineName: str) -> list[dict[str, Any]]:  # noqa: N803
        def action(status: str, text: str) -> dict[str, Any]:
            said = {"CustomData": text, "ExternalEntityLink": "https://console/report"}
            return {
                "actionName": "ApproveProduction",
                "status": status,
                "input": {"resolvedConfiguration": said},
            }

        old, new = action("Succeeded", "an older question"), action("InProgress", "Passed all 20 checks")
        return [{"actionExecutionDetails": [new]}, {"actionExecutionDetails": [old]}]


class TestApprove:
    """Which version a decision is about."""

    def test_the_newest_that_waits_is_chosen(self) -> None:
        registry = Registry((4, "Approved"), (3, "PendingManualApproval"), (2, "PendingManualApproval"))
        assert approve.choose(registry, GROUP, None) == "arn/3"
        assert (registry.asked["SortBy"], registry.asked["SortOrder"]) == ("CreationTime", "Descending")

    def test_a_version_that_is_not_there_is_told_which_are(self) -> None:
        with pytest.raises(approve.NothingToDecideError, match="no version 7; versions: 2, 1"):
            approve.choose(Registry((2, "Approved"), (1, "Rejected")), GROUP, 7)

    def test_nothing_that_waits_is_said(self) -> None:
        with pytest.raises(approve.NothingToDecideError, match="push to main"):
            approve.choose(Registry((1, "Approved")), GROUP, None)

    @pytest.mark.parametrize(
        ("typed", "terminal", "sure", "decided"),
        [
            ("approve", True, False, True),
            ("", True, False, False),
            ("yes", True, False, False),
            ("", True, True, True),
            ("", False, False, True),
        ],
    )
    def test_what_is_asked_is_shown_first(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
        typed: str, terminal: bool, sure: bool, decided: bool,
    ) -> None:  # fmt: skip
        stdin = io.StringIO(f"{typed}\n")
        monkeypatch.setattr(stdin, "isatty", lambda: terminal)
        monkeypatch.setattr("sys.stdin", stdin)
        pipeline = Waiting()
        if decided:
            approve.ask(pipeline, "p", "Approved", sure)
        else:
            with pytest.raises(approve.NothingToDecideError, match="nothing was decided"):
                approve.ask(pipeline, "p", "Approved", sure)
        shown = capsys.readouterr().err
        assert "Passed all 20 checks" in shown and "https://console/report" in shown
        assert "an older question" not in shown

    def test_the_waiting_action_is_found_by_its_token(self) -> None:
        state = {
            "stageStates": [
                {
                    "stageName": "Staging",
                    "actionStates": [{"actionName": "Test", "latestExecution": {"status": "InProgress"}}],
                },
                {
                    "stageName": "Production",
                    "actionStates": [
                        {
                            "actionName": "ApproveProduction",
                            "latestExecution": {"status": "InProgress", "token": "t-1"},
                        },
                        {"actionName": "Deploy"},
                    ],
                },
            ]
        }
        codepipeline = type("CodePipeline", (), {"get_pipeline_state": lambda self, name: state})()
        assert approve.waiting_approval(codepipeline, "p") == {
            "pipelineName": "p",
            "stageName": "Production",
            "actionName": "ApproveProduction",
            "token": "t-1",
        }


class Stacks:
    """CloudFormation with at most one stack."""

    def __init__(self, exists: bool, unchanged: bool = False) -> None:
        self.exists, self.unchanged = exists, unchanged
        self.calls: dict[str, dict[str, Any]] = {}

    def describe_stacks(self, StackName: str) -> dict[str, Any]:  # noqa: N803
        if not self.exists:
            raise ClientError(
                {"Error": {"Code": "ValidationError", "Message": "Stack does not exist"}}, "DescribeStacks"
            )
        parameters = [
            {"ParameterKey": "AdminEmail"},
            {"ParameterKey": "Dropped"},
            {"ParameterKey": "VpcCidr"},
        ]
        return {"Stacks": [{"StackStatus": "CREATE_COMPLETE", "Parameters": parameters}]}

    def get_template_summary(self, TemplateURL: str) -> dict[str, Any]:  # noqa: N803
        return {
            "Parameters": [
                {"ParameterKey": "AdminEmail"},
                {"ParameterKey": "VpcCidr"},
                {"ParameterKey": "New"},
            ]
        }

    def create_stack(self, **asked: Any) -> None:
        self.calls["create"] = asked

    def update_stack(self, **asked: Any) -> None:
        self.calls["update"] = asked
        if self.unchanged:
            message = "No updates are to be performed."
            raise ClientError({"Error": {"Code": "ValidationError", "Message": message}}, "UpdateStack")


class TestDeploy:
    """One command for the first launch and for every later one."""

    def test_the_first_time_creates(self) -> None:
        stacks = Stacks(exists=False)
        assert deploy.start(stacks, "x", "https://…", {"AdminEmail": "a@b.c"}) == "create"
        assert stacks.calls["create"]["Parameters"] == [
            {"ParameterKey": "AdminEmail", "ParameterValue": "a@b.c"}
        ]

    def test_an_update_keeps_what_is_not_given_and_forgets_what_is_gone(self) -> None:
        stacks = Stacks(exists=True)
        assert deploy.start(stacks, "x", "https://…", {"AdminEmail": "a@b.c"}) == "update"
        assert stacks.calls["update"]["Parameters"] == [
            {"ParameterKey": "AdminEmail", "ParameterValue": "a@b.c"},
            {"ParameterKey": "VpcCidr", "UsePreviousValue": True},
        ]

    def test_nothing_new_is_no_fault(self) -> None:
        assert deploy.start(Stacks(exists=True, unchanged=True), "x", "https://…", {}) == "none"

    def test_a_parameter_without_a_value_is_a_usage_error(self) -> None:
        with pytest.raises(SystemExit) as end:
            deploy.main(["--parameter", "AdminEmail"])
        assert end.value.code == 2


def test_what_stays_is_read_from_the_templates_policies() -> None:
    template = (
        "Resources:\n  Data: {Type: 'AWS::S3::Bucket', DeletionPolicy: Retain}\n"
        "  Log: {Type: 'AWS::Logs::LogGroup', DeletionPolicy: RetainExceptOnCreate}\n"
        "  Role: {Type: 'AWS::IAM::Role', Properties: {Path: !Sub '/${AWS::StackName}/'}}\n"
        "  Off: {Type: 'AWS::S3::Bucket', DeletionPolicy: Retain, Condition: Never}\n"
    )
    there = [
        ("Data", "AWS::S3::Bucket", "data-1"),
        ("Log", "AWS::Logs::LogGroup", "/l"),
        ("Role", "AWS::IAM::Role", "r"),
    ]

    class CloudFormation:
        def get_template(self, StackName: str) -> dict[str, Any]:  # noqa: N803
            return {"TemplateBody": template}

        def get_paginator(self, name: str) -> CloudFormation:
            return self

        def paginate(self, StackName: str) -> list[dict[str, Any]]:  # noqa: N803
            rows = [{"LogicalResourceId": n, "ResourceType": t, "PhysicalResourceId": p} for n, t, p in there]
            return [{"StackResourceSummaries": rows}]

    found = teardown.retained(CloudFormation(), ["arn:aws:cloudformation:r:1:stack/x/1"])
    assert [(item["type"], item["id"]) for item in found] == [
        ("AWS::Logs::LogGroup", "/l"),
        ("AWS::S3::Bucket", "data-1"),
    ]


class TestSetup:
    """The user's pip settings reach uv, which does not read them."""

    def test_a_private_index_is_passed_on(self) -> None:
        assert setup.uv_options({"index-url": "https://pypi.example.com/simple"}) == [
            "--index-url",
            "https://pypi.example.com/simple",
        ]

    def test_several_indexes_are_searched_as_pip_does(self, tmp_path: Path) -> None:
        options = setup.uv_options(
            {"extra-index-url": "https://a.example.com https://b.example.com", "find-links": str(tmp_path)}
        )
        assert options.count("--extra-index-url") == 2
        assert options[-2:] == ["--index-strategy", "unsafe-best-match"]
        assert ["--find-links", str(tmp_path)] == options[4:6]

    def test_a_certificate_and_a_timeout_are_passed_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("SSL_CERT_FILE", "UV_HTTP_TIMEOUT"):
            monkeypatch.delenv(name, raising=False)
        env = setup.uv_environment({"cert": "/etc/ca.pem", "timeout": "60"})
        assert (env["SSL_CERT_FILE"], env["UV_HTTP_TIMEOUT"]) == ("/etc/ca.pem", "60")

    def test_another_lock_makes_a_stamp_stale(self, tmp_path: Path) -> None:
        lock = tmp_path / "lock.txt"
        lock.write_text("a==1")
        (tmp_path / "env").mkdir()
        (tmp_path / "env/.stamp").write_text(setup.digest(lock))
        assert setup.is_fresh(tmp_path / "env", setup.digest(lock))
        lock.write_text("a==2")
        assert not setup.is_fresh(tmp_path / "env", setup.digest(lock))

    def test_a_missing_git_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(setup.shutil, "which", lambda name: None)
        with pytest.raises(setup.SetupError, match="git was not found"):
            setup.check_prerequisites()


class TestHooks:
    """What a commit must not carry."""

    def test_an_executed_notebook(self, tmp_path: Path) -> None:
        cell = {"cell_type": "code", "outputs": [], "execution_count": 1}
        path = tmp_path / "a.ipynb"
        path.write_text(json.dumps({"cells": [cell]}))
        assert hooks.main(["notebooks", str(path)]) == 1
        path.write_text(json.dumps({"cells": [{**cell, "execution_count": None}]}))
        assert hooks.main(["notebooks", str(path)]) == 0

    def test_a_large_file(self, tmp_path: Path) -> None:
        path = tmp_path / "model.bin"
        path.write_bytes(b"0" * (hooks.LARGEST + 1))
        assert hooks.main(["large", str(path)]) == 1

    def test_a_key(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "settings.py"
        path.write_text("KEY = '" + "AKIA" + "ABCDEFGHIJKLMNOP" + "'")
        assert hooks.main(["secrets", str(path)]) == 1
        assert "an AWS access key" in capsys.readouterr().out
