"""CodeDeploy: an alias is moved in steps, tried by hooks, watched by alarms, and taken back."""

from __future__ import annotations

import io
import json
import zipfile
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

VERSION = "def handler(event, context):\n    return {'version': %r}\n"
HOOK = """
import boto3, os
def handler(event, context):
    deploy = boto3.client("codedeploy")
    targets = deploy.list_deployment_targets(deploymentId=event["DeploymentId"])["targetIds"]
    found = deploy.batch_get_deployment_targets(deploymentId=event["DeploymentId"], targetIds=targets)
    about = found["deploymentTargets"][0]["lambdaTarget"]["lambdaFunctionInfo"]
    print("asked about", about["targetVersion"])
    if os.environ.get("SAY"):
        deploy.put_lifecycle_event_hook_execution_status(
            deploymentId=event["DeploymentId"],
            lifecycleEventHookExecutionId=event["LifecycleEventHookExecutionId"], status=os.environ["SAY"])
"""


def packed(text: str) -> bytes:
    """A function's code."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("index.py", text)
    return out.getvalue()


@pytest.fixture(scope="module")
def hooks(cloud: Any) -> Callable[[str], str]:
    """A function that says Succeeded or Failed of a deployment; its name."""
    role = cloud.role("lambda")

    def made(say: str) -> str:
        name = cloud.name("hook")
        cloud.client("lambda").create_function(
            FunctionName=name, Runtime="python3.12", Handler="index.handler", Role=role, Timeout=20,
            Code={"ZipFile": packed(HOOK)}, Environment={"Variables": {"SAY": say}},
        )  # fmt: skip
        return name

    return made


class Release:
    """A function with two versions, its alias at the first, and an application of CodeDeploy."""

    def __init__(
        self, cloud: Any, configuration: str = "LambdaCanary10Percent5Minutes", **group: Any
    ) -> None:
        self.cloud, self.name = cloud, cloud.name("fn")
        self.lambda_, self.deploy = cloud.client("lambda"), cloud.client("codedeploy")
        self.lambda_.create_function(
            FunctionName=self.name, Runtime="python3.12", Handler="index.handler", Role=cloud.role("lambda"),
            Code={"ZipFile": packed(VERSION % 1)}, Publish=True,
        )  # fmt: skip
        self.lambda_.create_alias(FunctionName=self.name, Name="live", FunctionVersion="1")
        self.lambda_.update_function_code(FunctionName=self.name, ZipFile=packed(VERSION % 2), Publish=True)
        self.deploy.create_application(applicationName=self.name, computePlatform="Lambda")
        self.deploy.create_deployment_group(
            applicationName=self.name, deploymentGroupName="live", serviceRoleArn=cloud.role("codedeploy"),
            deploymentConfigName=f"CodeDeployDefault.{configuration}",
            deploymentStyle={"deploymentType": "BLUE_GREEN", "deploymentOption": "WITH_TRAFFIC_CONTROL"},
            autoRollbackConfiguration={
                "enabled": True,
                "events": ["DEPLOYMENT_FAILURE", "DEPLOYMENT_STOP_ON_ALARM", "DEPLOYMENT_STOP_ON_REQUEST"],
            },
            **group,
        )  # fmt: skip

    def start(self, **hooks: str) -> str:
        """Begin a deployment of version 2."""
        moved = {"Name": self.name, "Alias": "live", "CurrentVersion": "1", "TargetVersion": "2"}
        spec = {
            "version": 0.0,
            "Resources": [{self.name: {"Type": "AWS::Lambda::Function", "Properties": moved}}],
            "Hooks": [{name: function} for name, function in hooks.items()],
        }
        revision = {"revisionType": "AppSpecContent", "appSpecContent": {"content": json.dumps(spec)}}
        made = self.deploy.create_deployment(
            applicationName=self.name, deploymentGroupName="live", revision=revision
        )
        return made["deploymentId"]

    def about(self, deployment: str) -> dict[str, Any]:
        return self.deploy.get_deployment(deploymentId=deployment)["deploymentInfo"]

    def end(self, deployment: str) -> dict[str, Any]:
        """What became of it."""
        return self.cloud.wait(
            lambda: (i := self.about(deployment))["status"] in ("Succeeded", "Failed", "Stopped") and i, 40
        )

    def alias(self) -> tuple[str, dict[str, float]]:
        found = self.lambda_.get_alias(FunctionName=self.name, Name="live")
        weights = (found.get("RoutingConfig") or {}).get("AdditionalVersionWeights") or {}
        return found["FunctionVersion"], weights

    def events(self, deployment: str) -> dict[str, str]:
        target = self.deploy.get_deployment_target(deploymentId=deployment, targetId=f"{self.name}:live")
        found = target["deploymentTarget"]["lambdaTarget"]["lifecycleEvents"]
        return {one["lifecycleEventName"]: one["status"] for one in found}


def test_a_canary_goes_through_its_steps(cloud: Any, hooks: Callable[[str], str]) -> None:
    release, hook = Release(cloud), hooks("Succeeded")
    told = cloud.listen(source=["aws.codedeploy"], detail={"application": [release.name]})
    deployment = release.start(BeforeAllowTraffic=hook, AfterAllowTraffic=hook)
    cloud.wait(lambda: release.alias() == ("1", {"2": 0.1}), 20, "the canary")
    # how many callers such an alias sends there is seen on one that no deployment moves meanwhile
    canary = {"FunctionVersion": "1", "RoutingConfig": {"AdditionalVersionWeights": {"2": 0.1}}}
    release.lambda_.create_alias(FunctionName=release.name, Name="still", **canary)
    answers = Counter(
        json.loads(release.lambda_.invoke(FunctionName=release.name, Qualifier="still")["Payload"].read())[
            "version"
        ]
        for _ in range(60)
    )
    assert answers.total() == 60 and answers[1] > 40
    assert release.end(deployment)["status"] == "Succeeded"
    assert release.alias() == ("2", {})
    assert set(release.events(deployment).values()) == {"Succeeded"}
    states = cloud.wait(lambda: len(found := [e["detail"]["state"] for e in told()]) > 1 and found)
    assert states == ["START", "SUCCESS"]


def test_a_linear_deployment_has_a_step_for_each_tenth(cloud: Any) -> None:
    release = Release(cloud, "LambdaLinear10PercentEvery1Minute")
    deployment, seen = release.start(), set()
    while release.about(deployment)["status"] in ("Created", "InProgress"):
        seen |= set(release.alias()[1].values())
    assert len(seen) > 4 and seen <= {n / 10 for n in range(1, 10)}
    assert release.alias() == ("2", {}) and release.about(deployment)["status"] == "Succeeded"


def test_a_hook_that_fails_keeps_callers_where_they_are(cloud: Any, hooks: Callable[[str], str]) -> None:
    release = Release(cloud)
    deployment = release.start(BeforeAllowTraffic=hooks("Failed"))
    found = release.end(deployment)
    assert (found["status"], found["errorInformation"]["code"]) == ("Failed", "HOOK_EXECUTION_FAILURE")
    assert release.events(deployment)["AllowTraffic"] == "Pending" and release.alias() == ("1", {})
    back = release.about(found["rollbackInfo"]["rollbackDeploymentId"])
    assert (back["creator"], back["status"]) == ("codeDeployRollback", "Succeeded")


def test_a_hook_after_the_move_takes_it_back(cloud: Any, hooks: Callable[[str], str]) -> None:
    release = Release(cloud, "LambdaAllAtOnce")
    found = release.end(release.start(AfterAllowTraffic=hooks("Failed")))
    assert found["status"] == "Failed" and release.alias() == ("1", {})


def test_an_alarm_stops_the_canary(cloud: Any) -> None:
    alarm, cloudwatch = cloud.name("alarm"), cloud.client("cloudwatch")
    cloudwatch.put_metric_alarm(
        AlarmName=alarm, Namespace="Test", MetricName="x", Statistic="Sum", Period=60, EvaluationPeriods=1,
        Threshold=1, ComparisonOperator="GreaterThanThreshold", TreatMissingData="ignore",
    )  # fmt: skip
    release = Release(cloud, alarmConfiguration={"enabled": True, "alarms": [{"name": alarm}]})
    deployment = release.start()
    cloud.wait(lambda: release.alias()[1], 20, "the canary")
    cloudwatch.set_alarm_state(AlarmName=alarm, StateValue="ALARM", StateReason="test")
    found = release.end(deployment)
    assert (found["status"], found["errorInformation"]["code"]) == ("Stopped", "ALARM_ACTIVE")
    assert alarm in found["errorInformation"]["message"] and release.alias() == ("1", {})


def test_a_person_stops_it(cloud: Any) -> None:
    release = Release(cloud)
    deployment = release.start()
    cloud.wait(lambda: release.alias()[1], 20, "the canary")
    with pytest.raises(ClientError, match="already has an active Deployment"):
        release.start()
    release.deploy.stop_deployment(deploymentId=deployment)
    assert release.end(deployment)["status"] == "Stopped" and release.alias() == ("1", {})


def test_what_codedeploy_refuses(cloud: Any) -> None:
    deploy = cloud.client("codedeploy")
    with pytest.raises(ClientError, match="compute platform Server: the local cloud deploys Lambda"):
        deploy.create_application(applicationName=cloud.name())
    release = Release(cloud)
    group = {
        "applicationName": release.name, "deploymentGroupName": "other",
        "deploymentStyle": {"deploymentType": "BLUE_GREEN", "deploymentOption": "WITH_TRAFFIC_CONTROL"},
    }  # fmt: skip
    with pytest.raises(ClientError, match="InvalidRoleException"):
        deploy.create_deployment_group(**group, serviceRoleArn=cloud.role("lambda"))
    with pytest.raises(ClientError, match="No deployment configuration found"):
        deploy.create_deployment_group(
            **group, serviceRoleArn=cloud.role("codedeploy"), deploymentConfigName="CodeDeployDefault.Fast"
        )
    with pytest.raises(ClientError, match="InvalidLifecycleEventHookExecutionIdException"):
        deployment = release.start()
        deploy.put_lifecycle_event_hook_execution_status(
            deploymentId=deployment, lifecycleEventHookExecutionId="guessed", status="Succeeded"
        )
