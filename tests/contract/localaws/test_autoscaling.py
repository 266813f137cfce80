"""Application Auto Scaling of endpoints: targets, policies and their alarms, scaling by the cloud's clock."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from hosting import Hosting, time_scale
from localaws.services.applicationautoscaling import _check_steps, _step

DIMENSION = "sagemaker:variant:DesiredInstanceCount"


@pytest.fixture(scope="module")
def hosting(cloud: Any) -> Iterator[Hosting]:
    """Endpoints, in a cloud whose waits pass 500 times faster than AWS's."""
    with time_scale(cloud, 0.002):
        made = Hosting(cloud)
        yield made
        made.close()


def of(endpoint: str, variant: str = "AllTraffic") -> dict[str, str]:
    """What names a target."""
    resource = f"endpoint/{endpoint}/variant/{variant}"
    return {"ServiceNamespace": "sagemaker", "ResourceId": resource, "ScalableDimension": DIMENSION}


def tracking(value: float = 10, **more: Any) -> dict[str, Any]:
    metric = {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"}
    return {
        "PolicyName": "tracks",
        "PolicyType": "TargetTrackingScaling",
        "TargetTrackingScalingPolicyConfiguration": {
            "TargetValue": value, "PredefinedMetricSpecification": metric, **more,
        },
    }  # fmt: skip


def count(hosting: Hosting, name: str) -> int:
    return hosting.settled(name)["ProductionVariants"][0]["CurrentInstanceCount"]


def activities(hosting: Hosting, name: str) -> list[dict[str, Any]]:
    """What scaling did, newest first."""
    target = {k: v for k, v in of(name).items() if k != "ScalableDimension"}
    scaling = hosting.cloud.client("application-autoscaling")
    return scaling.describe_scaling_activities(**target)["ScalingActivities"]


def done(hosting: Hosting, name: str) -> bool:
    """Whether all that scaling did has ended well."""
    return {a["StatusCode"] for a in activities(hosting, name)} == {"Successful"}


def test_it_scales_out_and_in_and_a_release_keeps_the_count(hosting: Hosting) -> None:
    name, scaling = hosting.endpoint(), hosting.cloud.client("application-autoscaling")
    watch = hosting.cloud.client("cloudwatch")
    arn = scaling.register_scalable_target(**of(name), MinCapacity=1, MaxCapacity=3, Tags={"team": "red"})[
        "ScalableTargetARN"
    ]
    assert re.fullmatch(r"arn:aws:application-autoscaling:us-east-1:\d{12}:scalable-target/\w+", arn)
    assert scaling.list_tags_for_resource(ResourceARN=arn)["Tags"] == {"team": "red"}
    put = scaling.put_scaling_policy(**of(name), **tracking(ScaleInCooldown=600, ScaleOutCooldown=60))
    assert re.search(
        rf":scalingPolicy:[\w-]+:resource/sagemaker/endpoint/{name}/variant/AllTraffic:policyName/tracks$",
        put["PolicyARN"],
    )
    high, low = (a["AlarmName"] for a in put["Alarms"])
    assert re.fullmatch(rf"TargetTracking-endpoint/{name}/variant/AllTraffic-AlarmHigh-[\w-]{{36}}", high)
    assert "-AlarmLow-" in low
    alarms = {a["AlarmName"]: a for a in watch.describe_alarms(AlarmNames=[high, low])["MetricAlarms"]}
    assert (alarms[high]["Threshold"], alarms[high]["EvaluationPeriods"]) == (10, 3)
    assert (alarms[low]["Threshold"], alarms[low]["EvaluationPeriods"]) == (9, 15)

    def minutes(number: int, requests: int) -> None:
        for _ in range(number):
            for _ in range(requests):
                hosting.ask(name)
            hosting.cloud.control("clock", advance_seconds=60)

    minutes(1, 25)
    assert count(hosting, name) == 1, "one minute of three"
    minutes(1, 25)  # none has spoken against it for three minutes
    hosting.cloud.wait(lambda: count(hosting, name) == 3, 10, "25 a minute, 10 for each")
    activity = activities(hosting, name)[0]
    assert activity["Description"] == "Setting desired instance count to 3."
    assert activity["Cause"] == f"monitor alarm {high} in state ALARM triggered policy tracks"
    hosting.cloud.wait(lambda: done(hosting, name), 5)
    # a release with another model keeps what it scaled to; one with other instances is refused
    config = hosting.config(hosting.variant(environment={"SUFFIX": "-new"}))
    assert hosting.update(name, config, RetainAllVariantProperties=True)["EndpointConfigName"] == config
    assert count(hosting, name) == 3
    other = hosting.config({**hosting.variant(), "InstanceType": "ml.c5.large"})
    renamed = hosting.config(hosting.variant("Another"))
    for wrong in (other, renamed):
        with pytest.raises(ClientError, match=r"variant\(s\) .\[AllTraffic\].* must be deregistered"):
            hosting.sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=wrong)
    # it scales in after a quiet quarter of an hour, one that had some traffic
    minutes(1, 2)
    hosting.cloud.control("clock", advance_seconds=11 * 60)
    assert count(hosting, name) == 3
    hosting.cloud.control("clock", advance_seconds=4 * 60)
    hosting.cloud.wait(lambda: count(hosting, name) == 1, 10, "scaled in")
    # the endpoint goes with its targets and their alarms
    hosting.sagemaker.delete_endpoint(EndpointName=name)
    hosting.made.remove(name)
    targets = scaling.describe_scalable_targets(
        ServiceNamespace="sagemaker", ResourceIds=[of(name)["ResourceId"]]
    )
    assert targets["ScalableTargets"] == []
    assert watch.describe_alarms(AlarmNames=[high, low])["MetricAlarms"] == []


def test_limits_are_kept_and_cooldowns_hold(hosting: Hosting) -> None:
    name, scaling = hosting.endpoint(), hosting.cloud.client("application-autoscaling")
    scaling.register_scalable_target(**of(name), MinCapacity=2, MaxCapacity=4)
    hosting.cloud.wait(lambda: count(hosting, name) == 2, 10, "brought to the minimum")
    steps = [{"MetricIntervalLowerBound": 0, "ScalingAdjustment": 1}]
    policy = scaling.put_scaling_policy(
        **of(name), PolicyName="steps", PolicyType="StepScaling",
        StepScalingPolicyConfiguration={
            "AdjustmentType": "ChangeInCapacity", "StepAdjustments": steps, "Cooldown": 600,
        },
    )["PolicyARN"]  # fmt: skip
    hosting.alarm(name, "Invocations", AlarmActions=[policy], Period=3600)
    hosting.ask(name)
    hosting.cloud.wait(lambda: count(hosting, name) == 3, 10, "one step")
    hosting.cloud.wait(lambda: done(hosting, name), 10, "the cooldown begins when it is done")
    hosting.cloud.control("clock", advance_seconds=540)
    assert count(hosting, name) == 3, "the cooldown holds"
    hosting.cloud.control("clock", advance_seconds=120)
    hosting.cloud.wait(lambda: count(hosting, name) == 4, 10, "after the cooldown")
    hosting.cloud.control("clock", advance_seconds=900)
    assert count(hosting, name) == 4, "the maximum"
    scaling.delete_scaling_policy(**of(name), PolicyName="steps")
    assert (
        scaling.describe_scaling_policies(ServiceNamespace="sagemaker", ResourceId=of(name)["ResourceId"])[
            "ScalingPolicies"
        ]
        == []
    )
    scaling.deregister_scalable_target(**of(name))
    with pytest.raises(ClientError, match="ObjectNotFoundException.*No scalable target registered"):
        scaling.deregister_scalable_target(**of(name))


@pytest.mark.parametrize(
    "kind, amount, breach, now, expected",
    [
        ("ChangeInCapacity", 2, 5, 3, 5),
        ("ChangeInCapacity", -1, -5, 3, 2),
        ("PercentChangeInCapacity", 50, 5, 3, 4),  # 1.5 is rounded down
        ("PercentChangeInCapacity", 10, 5, 3, 4),  # less than one is one
        ("ExactCapacity", 4, 5, 1, 4),
    ],
)
def test_steps(kind: str, amount: int, breach: float, now: int, expected: int) -> None:
    step = {"ScalingAdjustment": amount}
    step["MetricIntervalLowerBound" if breach > 0 else "MetricIntervalUpperBound"] = 0
    assert _step({"AdjustmentType": kind, "StepAdjustments": [step]}, breach, now) == expected
    assert _step({"AdjustmentType": kind, "StepAdjustments": [step]}, -breach, now) is None


def test_steps_have_no_gap() -> None:
    steps = [{"MetricIntervalUpperBound": 10, "ScalingAdjustment": 1}, {"MetricIntervalLowerBound": 20}]
    with pytest.raises(Exception, match="can't overlap or have gaps"):
        _check_steps({"AdjustmentType": "ChangeInCapacity", "StepAdjustments": steps})


def test_what_is_refused(hosting: Hosting) -> None:
    scaling = hosting.cloud.client("application-autoscaling")
    small = hosting.endpoint(hosting.config({**hosting.variant(), "InstanceType": "ml.t2.medium"}))
    name = hosting.endpoint()
    refused = [
        (of(small), 1, 2, "not supported for burstable instance types.*ml.t2.medium"),
        (of("no-such-endpoint"), 1, 2, "variant doesn't exist"),
        (of(name, "Other"), 1, 2, "variant doesn't exist"),
        (of(name), 0, 2, "must be greater than or equal to 1"),
        (of(name), 3, 2, "Maximum capacity cannot be less"),
        ({**of(name), "ResourceId": name}, 1, 2, "Unsupported resource ID"),
        ({**of(name), "ServiceNamespace": "ecs"}, 1, 2, "Unsupported service namespace"),
        (
            {**of(name), "ScalableDimension": "sagemaker:inference-component:DesiredCopyCount"}, 1, 2,
            "NotImplemented",
        ),
    ]  # fmt: skip
    for target, low, high, message in refused:
        with pytest.raises(ClientError, match=message):
            scaling.register_scalable_target(**target, MinCapacity=low, MaxCapacity=high)
    with pytest.raises(ClientError, match="No scalable target registered"):
        scaling.put_scaling_policy(**of(name), **tracking())
    scaling.register_scalable_target(**of(name), MinCapacity=1, MaxCapacity=2)
    other = {"PredefinedMetricType": "ECSServiceAverageCPUUtilization"}
    wrong = {
        "is not supported for sagemaker:variant": {"PredefinedMetricSpecification": other, "TargetValue": 1},
        "Exactly one of": {"TargetValue": 1},
        "MetricName, Namespace and Statistic": {
            "TargetValue": 1, "CustomizedMetricSpecification": {"MetricName": "x"},
        },
    }  # fmt: skip
    for message, config in wrong.items():
        with pytest.raises(ClientError, match=message):
            scaling.put_scaling_policy(
                **of(name), PolicyName="p", PolicyType="TargetTrackingScaling",
                TargetTrackingScalingPolicyConfiguration=config,
            )  # fmt: skip


# -- CloudFormation, permissions --
def template(name: str, value: float = 10, low: int = 1) -> dict[str, Any]:
    target = {
        "ServiceNamespace": "sagemaker", "ResourceId": f"endpoint/{name}/variant/AllTraffic",
        "ScalableDimension": DIMENSION, "MinCapacity": low, "MaxCapacity": 3,
        "Tags": [{"Key": "team", "Value": "red"}],
    }  # fmt: skip
    config = tracking(value)
    policy = {**config, "ScalingTargetId": {"Ref": "Target"}}
    kinds = {"Target": ("ScalableTarget", target), "Policy": ("ScalingPolicy", policy)}
    return {k: {"Type": f"AWS::ApplicationAutoScaling::{t}", "Properties": p} for k, (t, p) in kinds.items()}


def test_a_stack_scales_an_endpoint(hosting: Hosting) -> None:
    cloud, name = hosting.cloud, hosting.endpoint()
    scaling = cloud.client("application-autoscaling")
    outputs = {"Target": {"Value": {"Ref": "Target"}}, "Policy": {"Value": {"Ref": "Policy"}}}
    stack = cloud.stack(template(name), outputs)
    found = cloud.outputs(stack)
    assert found["Target"] == f"endpoint/{name}/variant/AllTraffic|{DIMENSION}|sagemaker"
    policies = scaling.describe_scaling_policies(
        ServiceNamespace="sagemaker", ResourceId=of(name)["ResourceId"]
    )["ScalingPolicies"]
    assert [p["PolicyARN"] for p in policies] == [found["Policy"]]
    cloud.stack(template(name, value=20, low=2), outputs, name=stack)
    assert cloud.outputs(stack) == found, "in place"
    cloud.wait(lambda: count(hosting, name) == 2, 10, "brought to the minimum")
    alarms = cloud.client("cloudwatch").describe_alarms(AlarmNamePrefix=f"TargetTracking-endpoint/{name}/")
    assert sorted(a["Threshold"] for a in alarms["MetricAlarms"]) == [18, 20]
    cloud.delete_stack(stack)
    left = scaling.describe_scalable_targets(
        ServiceNamespace="sagemaker", ResourceIds=[of(name)["ResourceId"]]
    )
    assert left["ScalableTargets"] == []


def test_a_stack_scales_what_its_role_may(hosting: Hosting) -> None:
    """A target has an id of its own, and CloudFormation names a configuration: tags keep projects apart."""
    cloud, iam = hosting.cloud, hosting.cloud.client("iam")
    tags = [{"Key": "team", "Value": "red"}]
    configs = {}
    for team in ("red", "blue"):
        configs[team] = cloud.name("config")
        hosting.sagemaker.create_endpoint_config(
            EndpointConfigName=configs[team],
            ProductionVariants=[hosting.variant()],
            Tags=[{"Key": "team", "Value": team}],
        )
    mine, other = (hosting.endpoint(configs[team]) for team in ("red", "blue"))
    account = f"us-east-1:{cloud.account}"
    own = {"StringEquals": {"aws:ResourceTag/team": "red"}}
    new = {"StringEquals": {"aws:RequestTag/team": "red"}}
    targets = f"arn:aws:application-autoscaling:{account}:scalable-target/*"
    scaling = "application-autoscaling:"
    statements = [
        ("sagemaker:*Endpoint*", f"arn:aws:sagemaker:{account}:endpoint/*", {}),
        ("sagemaker:DescribeEndpointConfig", f"arn:aws:sagemaker:{account}:endpoint-config/*", own),
        (f"{scaling}RegisterScalableTarget", targets, new),
        (f"{scaling}TagResource", targets, new),
        (f"{scaling}ListTagsForResource", targets, own),
        (f"{scaling}*Scal*", targets, own),
        (f"{scaling}Describe*", "*", {}),
        ("cloudwatch:*", "*", {}),
        ("iam:CreateServiceLinkedRole", "*", {}),
    ]
    role = cloud.role("cloudformation")
    document = {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": a, "Resource": r, **({"Condition": c} if c else {})}
            for a, r, c in statements
        ],
    }
    iam.put_role_policy(
        RoleName=role.rpartition("/")[2], PolicyName="all", PolicyDocument=json.dumps(document)
    )

    def stacked(name: str, value: float = 10, stack: str = "") -> tuple[str, str]:
        client, made = cloud.client("cloudformation"), stack or cloud.name("stack")
        call = client.update_stack if stack else client.create_stack
        body = json.dumps({"Resources": template(name, value)})
        call(StackName=made, TemplateBody=body, RoleARN=role, Tags=tags)
        status = cloud.wait(
            lambda: (s := cloud.stack_status(made)) and not s.endswith("IN_PROGRESS") and s, 30
        )
        return made, status

    stack, status = stacked(mine)
    assert status == "CREATE_COMPLETE", cloud.stack_reasons(stack)
    assert stacked(mine, 20, stack)[1] == "UPDATE_COMPLETE", cloud.stack_reasons(stack)
    assert cloud.delete_stack(stack) == "", cloud.stack_reasons(stack)
    stack, status = stacked(other)
    assert status == "ROLLBACK_COMPLETE"
    assert "sagemaker:DescribeEndpointConfig" in str(cloud.stack_reasons(stack))


def test_what_scaling_asks_of_iam(hosting: Hosting) -> None:
    cloud, name = hosting.cloud, hosting.endpoint()
    role = cloud.role("sagemaker")
    short = role.rpartition("/")[2]
    iam = cloud.client("iam")

    def allow(*actions: str) -> None:
        condition = {"StringEquals": {"application-autoscaling:service-namespace": "sagemaker"}}
        own = [a for a in actions if a.startswith("application-autoscaling:")]
        others = [a for a in actions if a not in own]
        statements = [
            {"Effect": "Allow", "Action": own, "Resource": "*", "Condition": condition},
            *([{"Effect": "Allow", "Action": others, "Resource": "*"}] if others else []),
        ]
        document = json.dumps({"Version": "2012-10-17", "Statement": statements})
        iam.put_role_policy(RoleName=short, PolicyName="all", PolicyDocument=document)

    iam.update_assume_role_policy(
        RoleName=short,
        PolicyDocument=json.dumps({
            "Version": "2012-10-17",
            "Statement": [{
                "Effect": "Allow", "Action": "sts:AssumeRole",
                "Principal": {"AWS": f"arn:aws:iam::{cloud.account}:root"},
            }],
        }),
    )  # fmt: skip
    keys = cloud.client("sts").assume_role(RoleArn=role, RoleSessionName="scales")["Credentials"]
    as_role = cloud.client(
        "application-autoscaling",
        aws_access_key_id=keys["AccessKeyId"],
        aws_secret_access_key=keys["SecretAccessKey"],
        aws_session_token=keys["SessionToken"],
    )
    grants = [
        "application-autoscaling:RegisterScalableTarget", "sagemaker:DescribeEndpoint",
        "sagemaker:DescribeEndpointConfig", "sagemaker:UpdateEndpointWeightsAndCapacities",
    ]  # fmt: skip
    made = iam.list_roles(PathPrefix="/aws-service-role/sagemaker.application-autoscaling.amazonaws.com/")
    grants += [] if made["Roles"] else ["iam:CreateServiceLinkedRole"]
    for number, action in enumerate(grants, 1):
        allow("application-autoscaling:None", *[g for g in grants[:number] if g != action])
        with pytest.raises(ClientError, match=f"not authorized to perform: {action}"):
            as_role.register_scalable_target(**of(name), MinCapacity=1, MaxCapacity=2)
    allow(*grants)
    as_role.register_scalable_target(**of(name), MinCapacity=1, MaxCapacity=2)
    with pytest.raises(ClientError, match="PutScalingPolicy"):
        as_role.put_scaling_policy(**of(name), **tracking())
    allow("application-autoscaling:PutScalingPolicy")
    with pytest.raises(ClientError, match="cloudwatch:PutMetricAlarm on resource: .*TargetTracking-endpoint"):
        as_role.put_scaling_policy(**of(name), **tracking())
