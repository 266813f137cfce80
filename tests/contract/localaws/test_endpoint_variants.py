"""Shadow variants, serverless and asynchronous endpoints: what they do, and what AWS does not let them do."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from hosting import Hosting, time_scale

SERVERLESS = {"MemorySizeInMB": 2048, "MaxConcurrency": 2}


@pytest.fixture(scope="module")
def hosting(cloud: Any) -> Iterator[Hosting]:
    """Endpoints, in a cloud whose waits pass 500 times faster than AWS's."""
    with time_scale(cloud, 0.002):
        made = Hosting(cloud)
        yield made
        made.close()


def refuse(hosting: Hosting, message: str, *rows: dict[str, Any], **more: Any) -> None:
    """A configuration is refused with a message."""
    with pytest.raises(ClientError, match=message):
        hosting.config(*rows, **more)


# -- shadow --
def captured(hosting: Hosting, prefix: str) -> list[dict[str, Any]]:
    s3 = hosting.cloud.client("s3")
    found = s3.list_objects_v2(Bucket=hosting.bucket, Prefix=prefix).get("Contents", [])
    texts = [s3.get_object(Bucket=hosting.bucket, Key=o["Key"])["Body"].read().decode() for o in found]
    return [json.loads(line) for text in texts for line in text.splitlines()]


def test_a_shadow_sees_copies_and_nobody_feels_it(hosting: Hosting) -> None:
    capture = {
        "EnableCapture": True,
        "InitialSamplingPercentage": 100,
        "DestinationS3Uri": f"s3://{hosting.bucket}/shadowed",
        "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
        "CaptureContentTypeHeader": {"CsvContentTypes": ["text/csv"]},
    }
    shadow = hosting.variant("Shadow", environment={"SUFFIX": "-shadow", "SLOW": "1"})
    name = hosting.endpoint(
        hosting.config(hosting.variant(), ShadowProductionVariants=[shadow], DataCaptureConfig=capture)
    )
    described = hosting.settled(name)
    assert [v["VariantName"] for v in described["ProductionVariants"]] == ["AllTraffic"]
    assert described["ShadowProductionVariants"][0]["CurrentInstanceCount"] == 1
    began = time.monotonic()
    assert {hosting.ask(name, f"row-{n}", InferenceId=f"id-{n}") for n in range(5)} == {"0.5\n"}
    assert time.monotonic() - began < 1, "the shadow takes a second for each"
    with pytest.raises(ClientError, match="Variant Shadow not found"):
        hosting.ask(name, TargetVariant="Shadow")
    lines = hosting.cloud.wait(
        lambda: len(found := captured(hosting, f"shadowed/{name}/Shadow/")) == 5 and found, 15, "captured"
    )
    assert {line["eventMetadata"]["inferenceId"] for line in lines} == {f"id-{n}" for n in range(5)}
    assert {line["captureData"]["endpointOutput"]["data"] for line in lines} == {"0.5-shadow\n"}
    assert {line["captureData"]["endpointInput"]["data"] for line in lines} == {f"row-{n}" for n in range(5)}
    assert len(captured(hosting, f"shadowed/{name}/AllTraffic/")) == 5
    where = {"EndpointName": name, "VariantName": "Shadow"}
    assert hosting.metric("Invocations", **where) == 5
    assert hosting.metric("ModelLatency", "Minimum", **where) >= 1e6
    assert hosting.metric("ModelLatency", "Maximum", **where | {"VariantName": "AllTraffic"}) < 1e6
    # a share of the requests, by the weight beside the production variant's; its errors are its own
    weights = [{"VariantName": "Shadow", "DesiredWeight": 0.0}]
    hosting.sagemaker.update_endpoint_weights_and_capacities(
        EndpointName=name, DesiredWeightsAndCapacities=weights
    )
    assert hosting.settled(name)["ShadowProductionVariants"][0]["CurrentWeight"] == 0
    hosting.ask(name)
    fails = hosting.variant("Shadow", environment={"FAILS": "1"}, InitialVariantWeight=0.5)
    config = hosting.config(hosting.variant(), ShadowProductionVariants=[fails])
    assert hosting.update(name, config)["EndpointConfigName"] == config
    assert {hosting.ask(name) for _ in range(40)} == {"0.5\n"}
    errors = hosting.cloud.wait(lambda: hosting.metric("Invocation5XXErrors", **where), 5, "its errors")
    hosting.cloud.control("clock", advance_seconds=1)  # sends what waits
    errors = hosting.metric("Invocation5XXErrors", **where)
    assert 5 < errors < 35, "about half of 40"
    assert hosting.metric("Invocations", **where) == 5 + errors
    assert hosting.metric("Invocation5XXErrors", **where | {"VariantName": "AllTraffic"}) == 0


def test_what_shadows_exclude(hosting: Hosting) -> None:
    row, shadow = hosting.variant(), hosting.variant("Shadow")
    one = "one variant in ProductionVariants and one in ShadowProductionVariants"
    refuse(hosting, one, row, hosting.variant("B"), ShadowProductionVariants=[shadow])
    refuse(hosting, one, row, ShadowProductionVariants=[shadow, hosting.variant("C")])
    refuse(hosting, "must be unique", row, ShadowProductionVariants=[row])
    serverless = hosting.variant("Shadow", ServerlessConfig=SERVERLESS)
    refuse(hosting, "no shadow variants", row, ShadowProductionVariants=[serverless])


# -- serverless --
def test_a_serverless_endpoint_wakes_up_and_throttles(hosting: Hosting) -> None:
    row = hosting.variant(ServerlessConfig=SERVERLESS)
    name = hosting.endpoint(hosting.config(row))
    variant = hosting.settled(name)["ProductionVariants"][0]
    assert variant["CurrentServerlessConfig"] == SERVERLESS
    assert "CurrentInstanceCount" not in variant
    with time_scale(hosting.cloud, 0.01):  # so that it stays awake for six seconds
        assert hosting.ask(name) == "0.5\n", "from a cold start"
        threads = [threading.Thread(target=hosting.ask, args=(name, "sleep 2")) for _ in range(2)]
        for thread in threads:
            thread.start()

        def throttled() -> ClientError | None:
            try:
                return hosting.ask(name) and None
            except ClientError as error:
                return error

        refused = hosting.cloud.wait(throttled, 4).response
        assert refused["Error"] == {"Code": "ThrottlingException", "Message": "Rate exceeded"}
        assert refused["ResponseMetadata"]["HTTPStatusCode"] == 429
        for thread in threads:
            thread.join()
        assert hosting.ask(name) == "0.5\n"
    where = {"EndpointName": name, "VariantName": "AllTraffic"}
    setup = hosting.cloud.wait(lambda: hosting.metric("ModelSetupTime", "SampleCount", **where), 5)
    assert setup == 1, "one cold start, then warm answers"
    assert hosting.metric("InvocationsPerInstance", **where) is None
    with pytest.raises(ClientError, match="less than or equal to 4194304"):
        hosting.ask(name, "1" * 4_194_305)
    with pytest.raises(ClientError, match="is serverless and has no instance count"):
        hosting.sagemaker.update_endpoint_weights_and_capacities(
            EndpointName=name,
            DesiredWeightsAndCapacities=[{"VariantName": "AllTraffic", "DesiredInstanceCount": 2}],
        )
    with pytest.raises(ClientError, match="serverless variant"):
        hosting.cloud.client("application-autoscaling").register_scalable_target(
            ServiceNamespace="sagemaker",
            ResourceId=f"endpoint/{name}/variant/AllTraffic",
            ScalableDimension="sagemaker:variant:DesiredInstanceCount",
            MinCapacity=1,
            MaxCapacity=2,
        )
    routing = {"TrafficRoutingConfiguration": {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": 0}}
    with pytest.raises(ClientError, match="not supported for serverless endpoints"):
        hosting.sagemaker.update_endpoint(
            EndpointName=name,
            EndpointConfigName=hosting.config(row),
            DeploymentConfig={"BlueGreenUpdatePolicy": routing},
        )


def test_what_serverless_excludes(hosting: Hosting) -> None:
    row = hosting.variant(ServerlessConfig=SERVERLESS)
    capture = {
        "EnableCapture": True,
        "InitialSamplingPercentage": 100,
        "DestinationS3Uri": "s3://x/y",
        "CaptureOptions": [{"CaptureMode": "Input"}],
    }
    refuse(hosting, "DataCaptureConfig is not supported", row, DataCaptureConfig=capture)
    refuse(hosting, "one production variant", row, hosting.variant("B", ServerlessConfig=SERVERLESS))
    refuse(hosting, "excludes InstanceType", {**row, "InstanceType": "ml.m5.large"})
    odd = {"MemorySizeInMB": 1536, "MaxConcurrency": 2}
    refuse(hosting, "MemorySizeInMB must be one of", {**row, "ServerlessConfig": odd})
    much = {**SERVERLESS, "ProvisionedConcurrency": 3}
    refuse(hosting, "must not be greater than MaxConcurrency", {**row, "ServerlessConfig": much})
    refuse(hosting, "MaxConcurrency", {**row, "ServerlessConfig": {**SERVERLESS, "MaxConcurrency": 201}})
    name = hosting.model()
    isolated = hosting.cloud.name("isolated")
    container = hosting.sagemaker.describe_model(ModelName=name)["PrimaryContainer"]
    hosting.sagemaker.create_model(
        ModelName=isolated,
        ExecutionRoleArn=hosting.role,
        PrimaryContainer=container,
        EnableNetworkIsolation=True,
    )
    refuse(hosting, "EnableNetworkIsolation of model", {**row, "ModelName": isolated})


# -- asynchronous --
@pytest.fixture(scope="module")
def topics(cloud: Any) -> dict[str, Any]:
    """Topics of good and bad news, and what was published there."""
    sns, sqs, out = cloud.client("sns"), cloud.client("sqs"), {}
    for kind in ("SuccessTopic", "ErrorTopic"):
        name = cloud.name(kind)
        out[kind] = sns.create_topic(Name=name)["TopicArn"]
        url = sqs.create_queue(QueueName=name)["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        sns.subscribe(TopicArn=out[kind], Protocol="sqs", Endpoint=arn)

        def read(url: str = url) -> list[dict[str, Any]]:
            found = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", [])
            return [json.loads(json.loads(m["Body"])["Message"]) for m in found]

        out[f"read{kind}"] = read
    return out


def asynchronous(hosting: Hosting, topics: dict[str, Any], **more: Any) -> dict[str, Any]:
    notices = {k: topics[k] for k in ("SuccessTopic", "ErrorTopic")}
    output = {
        "S3OutputPath": f"s3://{hosting.bucket}/async/out/",
        "S3FailurePath": f"s3://{hosting.bucket}/async/failed/",
        "NotificationConfig": notices,
        **more,
    }
    return {"OutputConfig": output, "ClientConfig": {"MaxConcurrentInvocationsPerInstance": 2}}


@pytest.fixture(scope="module")
def send(hosting: Hosting) -> Callable[..., dict[str, Any]]:
    """Put an input and ask an asynchronous endpoint for it."""

    def run(name: str, body: str, **more: Any) -> dict[str, Any]:
        key = hosting.cloud.name("async/in")
        hosting.cloud.client("s3").put_object(Bucket=hosting.bucket, Key=key, Body=body.encode())
        return hosting.cloud.client("sagemaker-runtime").invoke_endpoint_async(
            EndpointName=name, InputLocation=f"s3://{hosting.bucket}/{key}", ContentType="text/csv", **more
        )

    return run


def written(hosting: Hosting, uri: str) -> str:
    """An object's content, once it is there."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    s3 = hosting.cloud.client("s3")

    def found() -> str | None:
        try:
            return s3.get_object(Bucket=bucket, Key=key)["Body"].read().decode()
        except s3.exceptions.NoSuchKey:
            return None

    return hosting.cloud.wait(found, 15, uri)


def test_an_asynchronous_endpoint(hosting: Hosting, topics: Any, send: Any) -> None:
    name = hosting.endpoint(hosting.config(AsyncInferenceConfig=asynchronous(hosting, topics)))
    sent = send(name, "1 2", InferenceId="mine", Accept="text/plain")
    assert sent["ResponseMetadata"]["HTTPStatusCode"] == 202
    assert sent["InferenceId"] == "mine"
    assert sent["OutputLocation"].startswith(f"s3://{hosting.bucket}/async/out/")
    assert written(hosting, sent["OutputLocation"]) == "0.5\n0.5\n"
    told = hosting.cloud.wait(topics["readSuccessTopic"], 10)[0]
    assert told["invocationStatus"] == "Completed"
    assert told["inferenceId"] == "mine"
    assert told["requestParameters"]["endpointName"] == name
    assert told["responseParameters"] == {
        "contentType": "text/plain", "outputLocation": sent["OutputLocation"],
    }  # fmt: skip
    assert (told["eventSource"], told["eventName"]) == ("aws:sagemaker", "InferenceResult")
    # a model's failure, and an input that is not there
    failed = send(name, "status 503", InferenceId="bad")
    assert written(hosting, failed["FailureLocation"]) == "as you wish"
    told = hosting.cloud.wait(topics["readErrorTopic"], 10)[0]
    assert (told["invocationStatus"], told["inferenceId"]) == ("Failed", "bad")
    assert "Received server error (503)" in told["failureReason"]
    assert told["responseParameters"]["failureLocation"] == failed["FailureLocation"]
    hosting.cloud.client("sagemaker-runtime").invoke_endpoint_async(
        EndpointName=name, InputLocation=f"s3://{hosting.bucket}/nothing"
    )
    told = hosting.cloud.wait(topics["readErrorTopic"], 10)[0]
    assert told["invocationStatus"] == "Failed" and "download failed" in told["failureReason"]
    # more than one instance takes at once waits; the queue's length is told
    waiting = [send(name, "sleep 1.2") for _ in range(5)]
    where = {"EndpointName": name}
    hosting.cloud.wait(lambda: (hosting.metric("ApproximateBacklogSize", "Maximum", **where) or 0) >= 3, 5)
    for one in waiting:
        assert written(hosting, one["OutputLocation"]) == "0.5\n0.5\n"
    with pytest.raises(ClientError, match="is an asynchronous endpoint: call InvokeEndpointAsync"):
        hosting.ask(name)
    with pytest.raises(ClientError, match="cannot be changed between real-time and asynchronous"):
        hosting.sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=hosting.config())
    live = hosting.endpoint()
    with pytest.raises(ClientError, match="is a real-time endpoint: call InvokeEndpoint"):
        send(live, "1")
    with pytest.raises(ClientError, match="Exactly one of InputLocation and Body"):
        hosting.cloud.client("sagemaker-runtime").invoke_endpoint_async(EndpointName=name)
    with pytest.raises(ClientError, match="only asynchronous endpoints scale to zero"):
        hosting.sagemaker.update_endpoint_weights_and_capacities(
            EndpointName=live,
            DesiredWeightsAndCapacities=[{"VariantName": "AllTraffic", "DesiredInstanceCount": 0}],
        )


def test_asynchronous_work_is_done_under_the_execution_role(hosting: Hosting, topics: Any, send: Any) -> None:
    role = hosting.cloud.role("sagemaker")

    def deny(*actions: str) -> None:
        statement = {"Effect": "Deny", "Action": list(actions), "Resource": "*"}
        hosting.cloud.client("iam").put_role_policy(
            RoleName=role.rpartition("/")[2],
            PolicyName="deny",
            PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [statement]}),
        )

    row = hosting.variant(model=hosting.model(role=role))
    name = hosting.endpoint(hosting.config(row, AsyncInferenceConfig=asynchronous(hosting, topics)))

    def denials(action: str) -> list[dict[str, Any]]:
        found = hosting.cloud.control("denials")
        return [d for d in found if d["action"] == action and role.rpartition("/")[2] in d["by"]]

    for action in ("sns:Publish", "s3:PutObject", "s3:GetObject"):
        deny(action)
        send(name, "1", InferenceId=action)
        hosting.cloud.wait(lambda action=action: denials(action), 10, action)
    told: list[str] = []
    hosting.cloud.wait(
        lambda: told.extend(m["inferenceId"] for m in topics["readErrorTopic"]()) or len(told) > 1, 10
    )
    assert sorted(told) == ["s3:GetObject", "s3:PutObject"]


def test_an_asynchronous_endpoint_scales_to_zero_and_back(hosting: Hosting, topics: Any, send: Any) -> None:
    name = hosting.endpoint(hosting.config(AsyncInferenceConfig=asynchronous(hosting, topics)))
    scaling, watch = hosting.cloud.client("application-autoscaling"), hosting.cloud.client("cloudwatch")
    target = {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"endpoint/{name}/variant/AllTraffic",
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
    }
    scaling.register_scalable_target(**target, MinCapacity=0, MaxCapacity=2)
    hosting.sagemaker.update_endpoint_weights_and_capacities(
        EndpointName=name,
        DesiredWeightsAndCapacities=[{"VariantName": "AllTraffic", "DesiredInstanceCount": 0}],
    )
    assert hosting.settled(name)["ProductionVariants"][0]["CurrentInstanceCount"] == 0
    step = {"MetricIntervalLowerBound": 0, "ScalingAdjustment": 1}
    policy = scaling.put_scaling_policy(
        **target, PolicyName="wake", PolicyType="StepScaling",
        StepScalingPolicyConfiguration={
            "AdjustmentType": "ChangeInCapacity", "StepAdjustments": [step], "Cooldown": 300,
        },
    )["PolicyARN"]  # fmt: skip
    sent = send(name, "1")
    where = {"EndpointName": name}
    hosting.cloud.wait(lambda: hosting.metric("HasBacklogWithoutCapacity", "Maximum", **where) == 1, 5)
    watch.put_metric_alarm(
        AlarmName=hosting.cloud.name("backlog"), Namespace="AWS/SageMaker",
        MetricName="HasBacklogWithoutCapacity", Statistic="Maximum", Period=60, EvaluationPeriods=1,
        Threshold=1, ComparisonOperator="GreaterThanOrEqualToThreshold", AlarmActions=[policy],
        Dimensions=[{"Name": "EndpointName", "Value": name}],
    )  # fmt: skip
    assert written(hosting, sent["OutputLocation"]) == "0.5\n"
    assert hosting.settled(name)["ProductionVariants"][0]["CurrentInstanceCount"] == 1


def test_what_asynchronous_excludes(hosting: Hosting, topics: Any) -> None:
    config = asynchronous(hosting, topics)
    row = hosting.variant(ServerlessConfig=SERVERLESS)
    refuse(hosting, "not supported for serverless", row, AsyncInferenceConfig=config)
    refuse(
        hosting, "not supported for asynchronous", hosting.variant(), AsyncInferenceConfig=config,
        ShadowProductionVariants=[hosting.variant("Shadow")],
    )  # fmt: skip
    https = asynchronous(hosting, topics, S3OutputPath="https://bucket/key")
    refuse(hosting, "is not an S3 URI", hosting.variant(), AsyncInferenceConfig=https)


# -- what is not run --
def test_what_the_local_cloud_does_not_run_is_refused_by_name(hosting: Hosting) -> None:
    row = hosting.variant()
    scaled = {**row, "ManagedInstanceScaling": {"Status": "ENABLED"}}
    refuse(hosting, "NotImplemented.*ManagedInstanceScaling", scaled)
    component = {k: v for k, v in row.items() if k != "ModelName"}
    refuse(hosting, "NotImplemented.*inference components", component, ExecutionRoleArn=hosting.role)
    name = hosting.endpoint()
    with pytest.raises(ClientError, match="NotImplemented.*TargetModel"):
        hosting.ask(name, TargetModel="one-of-many")
    with pytest.raises(ClientError, match="NotImplemented.*does not stream"):
        hosting.cloud.client("sagemaker-runtime").invoke_endpoint_with_response_stream(
            EndpointName=name, Body=b"1"
        )
