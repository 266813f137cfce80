"""Releases as callers see them: no request is lost, a bad one goes back, and what cannot start says why."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from hosting import Hosting, canary, time_scale
from localaws.hooks.alarms import state_of
from localaws.services.sagemaker.deployments import steps


@pytest.fixture(scope="module")
def hosting(cloud: Any) -> Iterator[Hosting]:
    """Endpoints, in a cloud whose waits pass 500 times faster than AWS's."""
    with time_scale(cloud, 0.002):
        made = Hosting(cloud)
        yield made
        made.close()


# -- shifting --
def percent(value: int) -> dict[str, Any]:
    return {"Type": "CAPACITY_PERCENT", "Value": value}


def blue_green(kind: str, **more: Any) -> dict[str, Any]:
    routing = {"Type": kind, "WaitIntervalInSeconds": 60, **more}
    return {"BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": routing}}


@pytest.mark.parametrize(
    "deployment, expected",
    [
        (blue_green("ALL_AT_ONCE"), [(1, 60)]),
        (blue_green("CANARY", CanarySize=percent(25)), [(0.25, 60), (1, 60)]),
        (blue_green("LINEAR", LinearStepSize=percent(40)), [(0.4, 60), (0.8, 60), (1, 60)]),
        (
            blue_green("LINEAR", LinearStepSize={"Type": "INSTANCE_COUNT", "Value": 1}),
            [(0.25, 60), (0.5, 60), (0.75, 60), (1, 60)],
        ),
        (
            {"RollingUpdatePolicy": {"MaximumBatchSize": percent(50), "WaitIntervalInSeconds": 30}},
            [(0.5, 30), (1, 30)],
        ),
        ({}, [(1, 0)]),
    ],
)
def test_steps_of_a_shift(deployment: dict[str, Any], expected: list[tuple[float, int]]) -> None:
    assert [(round(share, 2), wait) for share, wait in steps(deployment, 4)] == expected


def test_a_good_release_loses_no_request_and_keeps_the_capacity(hosting: Hosting) -> None:
    name = hosting.endpoint()
    wanted = [{"VariantName": "AllTraffic", "DesiredInstanceCount": 2}]
    hosting.sagemaker.update_endpoint_weights_and_capacities(
        EndpointName=name, DesiredWeightsAndCapacities=wanted
    )
    assert hosting.settled(name)["ProductionVariants"][0]["CurrentInstanceCount"] == 2
    alarm, stages = hosting.alarm(name), set()
    config = hosting.config(hosting.variant(environment={"SUFFIX": "-new"}))
    with hosting.load(name) as load:
        hosting.sagemaker.update_endpoint(
            EndpointName=name,
            EndpointConfigName=config,
            DeploymentConfig=canary(alarm, wait=300),
            RetainAllVariantProperties=True,
        )
        while (found := hosting.sagemaker.describe_endpoint(EndpointName=name))[
            "EndpointStatus"
        ] == "Updating":
            summary = found.get("PendingDeploymentSummary", {})
            assert not summary or summary["EndpointConfigName"] == config
            for variant in summary.get("ProductionVariants", []):
                stages |= {stage["Status"] for stage in variant["VariantStatus"]}
    assert found["EndpointStatus"] == "InService"
    assert found["EndpointConfigName"] == config
    assert "PendingDeploymentSummary" not in found
    assert load.failures == []
    assert set(load.answers) == {"0.5", "0.5-new"}
    assert "Baking" in stages
    assert found["ProductionVariants"][0]["CurrentInstanceCount"] == 2, "not the configuration's 1"
    assert hosting.ask(name) == "0.5-new\n"
    where = {"EndpointName": name, "VariantName": "AllTraffic"}
    alone = hosting.cloud.wait(
        lambda: hosting.metric("Invocations", **where, EndpointConfigName=config), 5, "metric of one fleet"
    )
    assert 0 < alone < hosting.metric("Invocations", **where), "both fleets are in the variant's series"


def test_a_model_that_fails_is_taken_back_by_its_own_errors(hosting: Hosting) -> None:
    name = hosting.endpoint()
    before, alarm = hosting.settled(name)["EndpointConfigName"], hosting.alarm(name)
    config = hosting.config(hosting.variant(environment={"FAILS": "1"}))
    with hosting.load(name, clients=4) as load:
        found = hosting.update(name, config, DeploymentConfig=canary(alarm, wait=3600, share=25))
        failed = len(load.failures)
        hosting.cloud.wait(lambda: sum(load.answers.values()) > 100, 20)
    assert found["EndpointConfigName"] == before
    assert f"ALARM state: {alarm}" in found["FailureReason"]
    assert load.failures, "the canary answered"
    assert all("Received server error (500) from primary" in f for f in load.failures), load.failures
    assert len(load.failures) <= failed + 4, "after the rollback nothing fails but what was under way"
    # an alarm that is on already ends a release before the new fleet sees a request
    good = hosting.config(hosting.variant(environment={"SUFFIX": "-new"}))
    with hosting.load(name) as load:
        found = hosting.update(name, good, DeploymentConfig=canary(alarm))
    assert found["EndpointConfigName"] == before
    assert alarm in found["FailureReason"]
    assert (set(load.answers), load.failures) == ({"0.5"}, [])
    hosting.cloud.control("clock", advance_seconds=120)
    assert hosting.update(name, good, DeploymentConfig=canary(alarm, wait=0))["EndpointConfigName"] == good


def test_a_deployment_that_takes_too_long_is_taken_back(hosting: Hosting) -> None:
    name = hosting.endpoint()
    before = hosting.settled(name)["EndpointConfigName"]
    routing = {"Type": "LINEAR", "LinearStepSize": percent(20), "WaitIntervalInSeconds": 300}
    policy = {"TrafficRoutingConfiguration": routing, "MaximumExecutionTimeoutInSeconds": 600}
    config = hosting.config(hosting.variant(environment={"SUFFIX": "-new"}))
    found = hosting.update(name, config, DeploymentConfig={"BlueGreenUpdatePolicy": policy})
    assert found["EndpointConfigName"] == before
    assert "MaximumExecutionTimeoutInSeconds" in found["FailureReason"]
    assert hosting.ask(name) == "0.5\n"


def test_what_a_deployment_refuses(hosting: Hosting) -> None:
    name = hosting.endpoint(hosting.config(hosting.variant(count=2)))
    alarm, config = hosting.alarm(name), hosting.settled(name)["EndpointConfigName"]
    rolling = {"MaximumBatchSize": percent(50), "WaitIntervalInSeconds": 0}
    two = {"Type": "INSTANCE_COUNT", "Value": 2}
    refused = [
        (canary(share=51), "CanarySize must be between 1 and 50 percent"),
        (blue_green("CANARY", CanarySize=two), "at most 50 percent of the variant's 2 instances"),
        (blue_green("CANARY"), "CanarySize is required"),
        (blue_green("LINEAR", LinearStepSize=percent(5)), "LinearStepSize must be between 10 and 50"),
        ({"RollingUpdatePolicy": {**rolling, "MaximumBatchSize": percent(4)}}, "between 5 and 50"),
        ({**canary(), "RollingUpdatePolicy": rolling}, "exclude one another"),
        (canary(wait=600, MaximumExecutionTimeoutInSeconds=600), "must be greater than the total"),
        (canary(alarm, "no-such-alarm"), "Could not find CloudWatch alarms no-such-alarm"),
    ]
    for deployment, message in refused:
        with pytest.raises(ClientError, match=message):
            hosting.sagemaker.update_endpoint(
                EndpointName=name, EndpointConfigName=config, DeploymentConfig=deployment
            )
    # the execution role reads the alarms
    blind = hosting.cloud.role("sagemaker")
    statement = {"Effect": "Deny", "Action": "cloudwatch:DescribeAlarms", "Resource": "*"}
    hosting.cloud.client("iam").put_role_policy(
        RoleName=blind.rpartition("/")[2],
        PolicyName="blind",
        PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [statement]}),
    )
    unread = hosting.config(hosting.variant(model=hosting.model(role=blind)))
    with pytest.raises(ClientError, match="must be allowed cloudwatch:DescribeAlarms"):
        hosting.sagemaker.update_endpoint(
            EndpointName=name, EndpointConfigName=unread, DeploymentConfig=canary(alarm)
        )
    renamed = hosting.config(hosting.variant("Another"))
    with pytest.raises(ClientError, match="variants keep their names: AllTraffic became Another"):
        hosting.sagemaker.update_endpoint(
            EndpointName=name, EndpointConfigName=renamed, DeploymentConfig=canary()
        )
    assert hosting.settled(name)["EndpointStatus"] == "InService"


def test_what_an_update_retains(hosting: Hosting) -> None:
    name, deployment = hosting.endpoint(hosting.config(hosting.variant(count=2))), canary(wait=0, share=10)
    other = hosting.config(hosting.variant(InitialVariantWeight=3.0))
    kept = hosting.update(
        name, other, RetainAllVariantProperties=True, DeploymentConfig=deployment,
        ExcludeRetainedVariantProperties=[{"VariantPropertyType": "DesiredWeight"}],
    )  # fmt: skip
    variant = kept["ProductionVariants"][0]
    assert (variant["CurrentInstanceCount"], variant["CurrentWeight"]) == (2, 3)
    assert kept["LastDeploymentConfig"] == deployment
    again = hosting.update(name, hosting.config(), RetainDeploymentConfig=True)
    assert again["ProductionVariants"][0]["CurrentInstanceCount"] == 1, "the configuration's"
    assert again["LastDeploymentConfig"] == deployment


def resources(hosting: Hosting, name: str, alarm: str, **environment: str) -> dict[str, Any]:
    """Model, configuration and endpoint of a stack that releases by a canary."""
    container = {"Image": hosting.image, "ModelDataUrl": hosting.data, "Environment": environment}
    row = hosting.variant(model="x") | {"ModelName": {"Fn::GetAtt": ["Model", "ModelName"]}}
    endpoint = {
        "EndpointName": name,
        "EndpointConfigName": {"Fn::GetAtt": ["Config", "EndpointConfigName"]},
        "DeploymentConfig": canary(alarm, wait=300),
    }
    made = {
        "Model": {"ExecutionRoleArn": hosting.role, "PrimaryContainer": container},
        "EndpointConfig": {"ProductionVariants": [row]},
        "Endpoint": endpoint,
    }
    return {
        k.removeprefix("Endpoint") or k: {"Type": f"AWS::SageMaker::{k}", "Properties": v}
        for k, v in made.items()
    }


def test_a_stack_goes_back_with_its_endpoint(hosting: Hosting) -> None:
    cloud, name = hosting.cloud, hosting.cloud.name("endpoint")
    alarm = hosting.alarm(name)
    stack = cloud.stack(resources(hosting, name, alarm))
    with hosting.load(name) as load:
        with pytest.raises(AssertionError, match=f"UPDATE_ROLLBACK_COMPLETE.*ALARM state: {alarm}"):
            cloud.stack(resources(hosting, name, alarm, FAILS="1"), name=stack)
        heard = load.answers["0.5"]
        cloud.wait(lambda: load.answers["0.5"] > heard + 20, 10)
    assert set(load.answers) == {"0.5"}
    assert all("(500)" in failure for failure in load.failures)
    assert hosting.settled(name)["EndpointStatus"] == "InService"
    models = [m["ModelName"] for m in hosting.sagemaker.list_models(MaxResults=100)["Models"]]
    assert len([m for m in models if stack in m]) == 1, "the failed one is gone"
    cloud.control("clock", advance_seconds=120)
    with hosting.load(name) as load:
        cloud.stack(resources(hosting, name, alarm, SUFFIX="-new"), name=stack)
    assert load.failures == []
    assert hosting.ask(name) == "0.5-new\n"
    assert cloud.delete_stack(stack) == ""


# -- instances --
def test_an_instance_that_dies_takes_only_what_it_had(hosting: Hosting) -> None:
    name = hosting.endpoint(hosting.config(hosting.variant(count=2)))
    logs, group = hosting.cloud.client("logs"), f"/aws/sagemaker/Endpoints/{name}"

    def starts() -> list[int]:
        try:
            streams = logs.describe_log_streams(logGroupName=group)["logStreams"]
        except logs.exceptions.ResourceNotFoundException:  # until somebody says something
            return []
        lines = [
            logs.get_log_events(logGroupName=group, logStreamName=s["logStreamName"])["events"]
            for s in streams
        ]
        return sorted(sum("model says" in e["message"] for e in events) for events in lines)

    hosting.cloud.wait(lambda: starts() == [1, 1], 40, "an instance, a stream")
    with hosting.load(name, clients=1) as load:
        hosting.cloud.wait(lambda: sum(load.answers.values()) > 5, 30)
        with pytest.raises(ClientError, match="ModelError.*closed the connection"):
            hosting.ask(name, "die")
        heard = sum(load.answers.values())
        hosting.cloud.wait(lambda: sum(load.answers.values()) > heard + 10, 40)
        hosting.cloud.wait(lambda: starts() == [1, 2], 40, "the instance is back")
    assert len(load.failures) <= 1, load.failures


def test_what_is_under_way_is_answered_when_instances_go(hosting: Hosting) -> None:
    name, heard = hosting.endpoint(hosting.config(hosting.variant(count=2))), []
    slow = [threading.Thread(target=lambda: heard.append(hosting.ask(name, "sleep 1.5"))) for _ in range(4)]
    for thread in slow:
        thread.start()
    config = hosting.config(hosting.variant(environment={"SUFFIX": "-new"}))
    hosting.cloud.wait(lambda: all(t.is_alive() for t in slow))
    assert hosting.update(name, config)["EndpointConfigName"] == config
    for thread in slow:
        thread.join()
    assert heard == ["0.5\n0.5\n"] * 4


# -- failures --
def test_endpoints_that_cannot_start_say_why(hosting: Hosting) -> None:
    cloud, image = hosting.cloud, hosting.image
    nothing = cloud.image({"app/serve.py": "pass"}, ["/app/no-such-program"])
    gone = cloud.image({"app/serve.py": "pass"}, ["python3", "/app/serve.py"])
    lost = f"s3://{hosting.bucket}/lost.tar.gz"
    cloud.client("s3").copy_object(
        Bucket=hosting.bucket, Key="lost.tar.gz", CopySource=f"{hosting.bucket}/model.tar.gz"
    )
    damaged = f"s3://{hosting.bucket}/damaged.tar.gz"
    cloud.client("s3").put_object(Bucket=hosting.bucket, Key="damaged.tar.gz", Body=b"no archive")
    models = {
        "did not pass the ping health check.*exit code 1": hosting.model({"BROKEN": "1"}),
        "did not pass the ping health check.*no HTTP 200 at /ping in 120 s": hosting.model(
            {"NEVER_READY": "1"}
        ),
        "CannotStartContainerError": hosting.model(Image=nothing),
        "cannot pull its image": hosting.model(Image=gone),
        "Failed to download model data": hosting.model(ModelDataUrl=lost),
        "Failed to extract model data archive": hosting.model(ModelDataUrl=damaged),
    }
    repository = gone.partition("/")[2].partition(":")[0]
    cloud.client("ecr").batch_delete_image(repositoryName=repository, imageIds=[{"imageTag": "v1"}])
    cloud.client("s3").delete_object(Bucket=hosting.bucket, Key="lost.tar.gz")
    assert image != gone
    with time_scale(cloud, 0.0005):
        timeout = {"ContainerStartupHealthCheckTimeoutInSeconds": 120}
        configs = {words: hosting.config(hosting.variant(model=m, **timeout)) for words, m in models.items()}
        names = {words: hosting.start(config) for words, config in configs.items()}
        for words, name in names.items():
            found = hosting.settled(name)
            assert found["EndpointStatus"] == "Failed"
            with pytest.raises(AssertionError, match=words):
                raise AssertionError(found["FailureReason"])
        name = next(iter(names.values()))
        with pytest.raises(ClientError, match="Cannot update failed endpoint"):
            hosting.sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=hosting.config())
        with pytest.raises(ClientError, match="is not in service"):
            hosting.ask(name)


def test_a_model_that_does_not_answer_in_time(hosting: Hosting) -> None:
    name = hosting.endpoint()
    with time_scale(hosting.cloud, 0.0001), pytest.raises(ClientError) as caught:
        hosting.ask(name, "sleep 5")  # 60 seconds of AWS's are 0.6 here
    answer = caught.value.response
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 424
    assert answer["OriginalStatusCode"] == 500
    assert "Your invocation timed out while waiting for a response from container primary" in str(answer)
    with pytest.raises(ClientError, match="less than or equal to 6291456"):
        hosting.ask(name, "1" * 6_291_457)


# -- alarms --
@pytest.mark.parametrize(
    "periods, wanted, missing, expected",
    [  # newest first; X breaches, 0 does not, - has no data
        ("X00", 1, "missing", "ALARM"),
        ("XX0", 3, "missing", "OK"),
        ("XXX", 3, "missing", "ALARM"),
        ("--X", 3, "missing", "ALARM"),
        ("--X", 3, "ignore", None),
        ("--X", 3, "notBreaching", "OK"),
        ("--X", 3, "breaching", "ALARM"),
        ("X--", 3, "missing", None),
        ("---", 3, "missing", "INSUFFICIENT_DATA"),
        ("---", 3, "ignore", None),
        ("---", 1, "notBreaching", "OK"),
        ("0--", 3, "missing", "OK"),
    ],
)
def test_states_of_alarms(periods: str, wanted: int, missing: str, expected: str | None) -> None:
    breaching = [{"X": True, "0": False, "-": None}[p] for p in periods]
    assert state_of(breaching, wanted, missing) == expected
