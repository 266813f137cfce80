"""What the framework promises for every service and type: refusals, events, time, mail, nested stacks."""

from __future__ import annotations

import json
import urllib.error
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

REPOSITORY = "AWS::CodeCommit::Repository"


def topics(cloud) -> set[str]:
    """The names of all topics."""
    pages = cloud.client("sns").get_paginator("list_topics").paginate()
    return {t["TopicArn"].rpartition(":")[2] for page in pages for t in page["Topics"]}


def refused(cloud, kind: str, **properties: Any) -> str:
    """The reason for which a stack with one resource of this kind could not be made; it leaves nothing."""
    name = cloud.name("stack")
    with pytest.raises(AssertionError) as caught:
        cloud.stack({"Thing": {"Type": kind, "Properties": properties}}, name=name)
    assert cloud.stack_status(name) == "ROLLBACK_COMPLETE"
    assert cloud.delete_stack(name) == ""
    return str(caught.value)


def trust(**principal: Any) -> dict[str, Any]:
    """A trust policy; without arguments one that names nobody."""
    statement = {"Effect": "Allow", "Action": "sts:AssumeRole"}
    statement |= {"Principal": principal} if principal else {}
    return {"Version": "2012-10-17", "Statement": [statement]}


# -- properties ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("kind", "known"),
    [(REPOSITORY, {"RepositoryName": "never-made"}), ("AWS::SQS::Queue", {})],
    ids=["ours", "the emulator's"],
)
def test_misspelt_property(cloud, kind, known):
    reason = refused(cloud, kind, **known, Descripton="x")
    assert "Properties validation failed for resource Thing with message" in reason
    assert "#: extraneous key [Descripton] is not permitted" in reason


@pytest.mark.parametrize(
    ("kind", "missing"), [(REPOSITORY, "RepositoryName"), ("AWS::SNS::Subscription", "TopicArn")]
)
def test_missing_required_property(cloud, kind, missing):
    given = {"Protocol": "sqs"} if kind != REPOSITORY else {}
    assert f"#: required key [{missing}] not found" in refused(cloud, kind, **given)


def test_nested_property_is_named_with_its_path(cloud):
    reason = refused(cloud, "AWS::S3::Bucket", VersioningConfiguration={"Status": "On"})
    assert "#/VersioningConfiguration/Status: " in reason
    assert "'On' is not a valid enum value" in reason


def test_read_only_property(cloud):
    reason = refused(cloud, REPOSITORY, RepositoryName=cloud.name("repo"), Arn="arn:aws:codecommit:::x")
    assert "[Arn]" in reason
    assert "read only" in reason


def test_unknown_type(cloud):
    name, client = cloud.name("stack"), cloud.client("cloudformation")
    body = json.dumps({"Resources": {"Thing": {"Type": "AWS::CodeCommit::Repositry"}}})
    with pytest.raises(ClientError) as caught:
        client.create_stack(StackName=name, TemplateBody=body)
    error = caught.value.response["Error"]
    assert error["Code"] == "ValidationError"
    assert "Unrecognized resource types: [AWS::CodeCommit::Repositry]" in error["Message"]
    assert cloud.stack_status(name) == ""


# -- what AWS's services refuse when CloudFormation calls them -------------------------------------------
def test_role_without_principal(cloud):
    reason = refused(cloud, "AWS::IAM::Role", AssumeRolePolicyDocument=trust())
    assert "Missing required field Principal" in reason
    assert "MalformedPolicyDocument" in reason


def test_update_of_a_role_to_no_principal_rolls_back(cloud):
    name = cloud.name("role")
    role = {
        "Type": "AWS::IAM::Role",
        "Properties": {"RoleName": name, "AssumeRolePolicyDocument": trust(Service="lambda.amazonaws.com")},
    }
    stack = cloud.stack({"Role": role})
    role["Properties"]["AssumeRolePolicyDocument"] = trust()
    with pytest.raises(AssertionError, match="Missing required field Principal"):
        cloud.stack({"Role": role}, name=stack)
    assert cloud.stack_status(stack) == "UPDATE_ROLLBACK_COMPLETE"
    kept = cloud.client("iam").get_role(RoleName=name)["Role"]["AssumeRolePolicyDocument"]
    assert kept["Statement"][0]["Principal"] == {"Service": "lambda.amazonaws.com"}


def test_function_whose_role_does_not_trust_lambda(cloud):
    function = {
        "Role": cloud.role("sagemaker"),
        "Runtime": "python3.12",
        "Handler": "index.handler",
        "Code": {"ZipFile": "def handler(event, context): pass"},
    }
    reason = refused(cloud, "AWS::Lambda::Function", **function)
    assert "The role defined for the function cannot be assumed by Lambda." in reason
    assert "lambda.amazonaws.com" in reason


def test_rule_target_without_role(cloud):
    arn = f"arn:aws:codebuild:{cloud.region}:{cloud.account}:project/x"
    target = {"Arn": arn, "Id": "build"}
    reason = refused(cloud, "AWS::Events::Rule", ScheduleExpression="rate(1 day)", Targets=[target])
    assert f"RoleArn is required for target {arn}." in reason
    events, rule = cloud.client("events"), cloud.name("rule")
    events.put_rule(Name=rule, ScheduleExpression="rate(1 day)")
    with pytest.raises(ClientError, match="RoleArn is required for target") as caught:
        events.put_targets(Rule=rule, Targets=[target])
    assert caught.value.response["Error"]["Code"] == "ValidationException"


# -- replacement -----------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def model(cloud) -> Callable[..., dict[str, Any]]:
    """Make the resource of a model, with a variable x; all that a model has is createOnly."""
    role = cloud.role("sagemaker")
    image = cloud.image({"serve": "#!/bin/sh\n"}, ["/serve"])

    def make(x: str, **properties: Any) -> dict[str, Any]:
        properties["PrimaryContainer"] = {"Image": image, "Environment": {"X": x}}
        properties["ExecutionRoleArn"] = role
        return {"Model": {"Type": "AWS::SageMaker::Model", "Properties": properties}}

    return make


def test_a_custom_named_resource_is_not_replaced(cloud, model):
    name, client = cloud.name("model"), cloud.client("sagemaker")
    stack = cloud.stack(model(x="1", ModelName=name))
    words = (
        "CloudFormation cannot update a stack when a custom-named resource requires replacing. "
        f"Rename {name} and update the stack again."
    )
    with pytest.raises(AssertionError, match=words):
        cloud.stack(model(x="2", ModelName=name), name=stack)
    assert cloud.stack_status(stack) == "UPDATE_ROLLBACK_COMPLETE"
    assert client.describe_model(ModelName=name)["PrimaryContainer"]["Environment"] == {"X": "1"}
    renamed = cloud.name("model")
    cloud.stack(model(x="2", ModelName=renamed), name=stack)
    assert client.describe_model(ModelName=renamed)["PrimaryContainer"]["Environment"] == {"X": "2"}
    with pytest.raises(ClientError, match="Could not find model"):
        client.describe_model(ModelName=name)


def test_an_unnamed_resource_is_replaced(cloud, model):
    client = cloud.client("sagemaker")
    outputs = {"Name": {"Value": {"Fn::GetAtt": ["Model", "ModelName"]}}}
    stack = cloud.stack(model(x="1"), outputs)
    first = cloud.outputs(stack)["Name"]
    cloud.stack(model(x="2"), outputs, name=stack)
    second = cloud.outputs(stack)["Name"]
    assert first != second
    assert client.describe_model(ModelName=second)["PrimaryContainer"]["Environment"] == {"X": "2"}
    with pytest.raises(ClientError, match="Could not find model"):
        client.describe_model(ModelName=first)


# -- APIs ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("service", "operation", "parameters"),
    [
        ("codepipeline", "poll_for_third_party_jobs", {"actionTypeId": {
            "category": "Build", "owner": "ThirdParty", "provider": "x", "version": "1"}}),
        ("sagemaker", "list_hubs", {}),
        ("sns", "list_sms_sandbox_phone_numbers", {}),
        ("ssm", "list_ops_metadata", {}),
        ("braket", "search_quantum_tasks", {"filters": []}),
    ],
)  # fmt: skip
def test_an_unimplemented_operation_is_named(cloud, service, operation, parameters):
    client = cloud.client(service)
    with pytest.raises(ClientError) as caught:
        getattr(client, operation)(**parameters)
    error = caught.value.response["Error"]
    assert client.meta.method_to_api_mapping[operation] in error["Message"] or service in error["Message"]


def test_bad_parameters_are_named(cloud):
    with pytest.raises(ClientError) as caught:
        cloud.client("codecommit").get_repository(repositoryName="two words")
    error = caught.value.response["Error"]
    assert error["Code"] == "ValidationException"
    assert error["Message"].startswith("1 validation error detected: Value 'two words' at 'repositoryName'")
    with pytest.raises(ClientError) as caught:
        cloud.client("sagemaker").list_models(SortBy="Size", MaxResults=1000)
    message = caught.value.response["Error"]["Message"]
    assert message.startswith("2 validation errors detected: ")
    assert "Value 'Size' at 'SortBy' failed to satisfy constraint: Member must satisfy enum" in message
    assert "'MaxResults' failed to satisfy constraint: Member must have value less than or equal" in message


# -- events ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "resource",
    ["glue:{}:workflow/x", "sqs:{}:no-such-queue", "lambda:{}:function:no-such-function", "sns:{}:no-such"],
)
def test_an_event_that_nobody_gets_is_told(cloud, resource):
    events, source, rule = cloud.client("events"), cloud.name("source"), cloud.name("rule")
    arn = "arn:aws:" + resource.format(f"{cloud.region}:{cloud.account}") + cloud.name("-")
    events.put_rule(Name=rule, EventPattern=json.dumps({"source": [source]}))
    target = {"Id": "t", "Arn": arn} | ({"RoleArn": cloud.role("events")} if "glue" in arn else {})
    events.put_targets(Rule=rule, Targets=[target])
    events.put_events(Entries=[{"Source": source, "DetailType": "x", "Detail": "{}"}])
    cloud.wait(lambda: any(arn in line for line in cloud.control("health")["undelivered"]), 10, arn)


def test_an_event_needs_the_topics_permission(cloud):
    events, sns, source, rule = (
        cloud.client("events"),
        cloud.client("sns"),
        cloud.name("s"),
        cloud.name("rule"),
    )
    topic = sns.create_topic(Name=cloud.name("topic"))["TopicArn"]
    cloud.subscribe(topic, address := f"{rule}@example.com")
    rule_arn = events.put_rule(Name=rule, EventPattern=json.dumps({"source": [source]}))["RuleArn"]
    events.put_targets(Rule=rule, Targets=[{"Id": "t", "Arn": topic}])

    def mails() -> int:
        events.put_events(Entries=[{"Source": source, "DetailType": "x", "Detail": "{}"}])
        return len([m for m in cloud.control("outbox") if m["to"] == address]) - 1

    def let(arn: str) -> None:
        statement = {
            "Effect": "Allow",
            "Principal": {"Service": "events.amazonaws.com"},
            "Action": "sns:Publish",
            "Resource": topic,
            "Condition": {"ArnEquals": {"aws:SourceArn": arn}},
        }
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        sns.set_topic_attributes(TopicArn=topic, AttributeName="Policy", AttributeValue=policy)

    assert mails() == 0
    told = [u for u in cloud.control("health")["undelivered"] if topic in u]
    assert "no resource-based policy allows events.amazonaws.com the sns:Publish action" in told[-1]
    let(f"{rule_arn}-another")
    assert mails() == 0
    let(rule_arn)
    cloud.wait(mails, 10, "the mail")
    sns.set_topic_attributes(TopicArn=topic, AttributeName="KmsMasterKeyId", AttributeValue="alias/aws/sns")
    before = len([m for m in cloud.control("outbox") if m["to"] == address]) - 1
    assert mails() == before  # EventBridge does not say which rule it is when a topic is encrypted


def test_an_event_needs_the_functions_permission(cloud, pack):
    events, functions, name = cloud.client("events"), cloud.client("lambda"), cloud.name("function")
    bucket = cloud.bucket()
    code = "import boto3\ndef handler(event, context): boto3.client('s3').put_object("
    code += f"Bucket='{bucket}', Key='called')\n"
    arn = functions.create_function(
        FunctionName=name, Role=cloud.role("lambda"), Runtime="python3.12", Handler="index.handler",
        Code={"ZipFile": pack({"index.py": code})},
    )["FunctionArn"]  # fmt: skip
    rule = events.put_rule(Name=name, EventPattern=json.dumps({"source": [name]}))["RuleArn"]
    events.put_targets(Rule=name, Targets=[{"Id": "t", "Arn": arn}])

    def called() -> bool:
        return "Contents" in cloud.client("s3").list_objects_v2(Bucket=bucket)

    events.put_events(Entries=[{"Source": name, "DetailType": "x", "Detail": "{}"}])
    told = [u for u in cloud.control("health")["undelivered"] if arn in u]
    assert "lambda:InvokeFunction" in told[0]
    functions.add_permission(
        FunctionName=name, StatementId="events", Action="lambda:InvokeFunction",
        Principal="events.amazonaws.com", SourceArn=rule,
    )  # fmt: skip
    assert not called()
    events.put_events(Entries=[{"Source": name, "DetailType": "x", "Detail": "{}"}])
    cloud.wait(called, 20, "the function's call")


def test_a_schedule_that_cannot_call_is_told(cloud):
    scheduler, name = cloud.client("scheduler"), cloud.name("schedule")
    request = {"Name": f"/{name}", "Type": "String", "Value": "x"}
    scheduler.create_schedule(
        Name=name,
        ScheduleExpression="rate(1 hour)",
        FlexibleTimeWindow={"Mode": "OFF"},
        Target={
            "Arn": "arn:aws:scheduler:::aws-sdk:ssm:putParameter",
            "RoleArn": cloud.role("lambda"),
            "Input": json.dumps(request),
        },
    )
    cloud.control("clock", advance_seconds=3700)
    told = lambda: [u for u in cloud.control("health")["undelivered"] if name in u]  # noqa: E731
    assert "scheduler.amazonaws.com" in cloud.wait(told, 10, "the failed call")[0]
    scheduler.delete_schedule(Name=name)


# -- time ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("expression", ["rate(1 hour)", "cron(5 * * * ? *)"])
def test_each_occurrence_of_a_schedule_fires(cloud, expression):
    events, sqs, name = cloud.client("events"), cloud.client("sqs"), cloud.name("hourly")
    queue = sqs.create_queue(QueueName=name)["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    events.put_rule(Name=name, ScheduleExpression=expression)
    events.put_targets(Rule=name, Targets=[{"Id": "queue", "Arn": arn}])
    cloud.control("clock", advance_seconds=3 * 3600 + 60)
    times: list[str] = []

    def read() -> bool:
        for message in sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages", []):
            times.append(json.loads(message["Body"])["time"])
            sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
        return len(times) >= 3

    cloud.wait(read, 10, f"three events of {expression}")
    hours = {t[:13] for t in times}
    assert (len(times), len(hours)) == (3, 3), times
    if "cron" in expression:
        assert {t[14:16] for t in times} == {"05"}
    events.remove_targets(Rule=name, Ids=["queue"])
    events.delete_rule(Name=name)


def test_a_schedule_due_at_the_next_minute_fires(cloud):
    events, sqs, name = cloud.client("events"), cloud.client("sqs"), cloud.name("minutely")
    queue = sqs.create_queue(QueueName=name)["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    now = cloud.control("clock")["now"]
    minute = (int(now[14:16]) + 1) % 60
    events.put_rule(Name=name, ScheduleExpression=f"cron({minute} * * * ? *)")
    events.put_targets(Rule=name, Targets=[{"Id": "queue", "Arn": arn}])
    cloud.control("clock", advance_seconds=60)
    cloud.wait(lambda: sqs.receive_message(QueueUrl=queue).get("Messages"), 10, "the first occurrence")
    events.remove_targets(Rule=name, Ids=["queue"])
    events.delete_rule(Name=name)


@pytest.mark.parametrize("seconds", [-1, "soon", None])
def test_the_clock_only_moves_forward(cloud, seconds):
    before = cloud.control("clock")["offset_seconds"]
    with pytest.raises(urllib.error.HTTPError) as caught:
        cloud.control("clock", advance_seconds=seconds)
    assert caught.value.code == 400
    assert "advance_seconds" in json.loads(caught.value.read())["error"]
    assert cloud.control("clock")["offset_seconds"] == before


# -- mail and alarms -------------------------------------------------------------------------------------
@pytest.mark.parametrize("form", ["in the topic", "of its own"])
def test_mail_needs_a_confirmed_address(cloud, form):
    sns, address = cloud.client("sns"), f"{cloud.name('jane')}@example.com"
    subscription = {"Protocol": "email", "Endpoint": address}
    resources: dict[str, Any] = {"Topic": {"Type": "AWS::SNS::Topic", "Properties": {}}}
    if form == "in the topic":
        resources["Topic"]["Properties"] = {"Subscription": [subscription]}
    else:
        properties = {"TopicArn": {"Ref": "Topic"}, **subscription}
        resources["Subscription"] = {"Type": "AWS::SNS::Subscription", "Properties": properties}
    topic = cloud.outputs(cloud.stack(resources, {"Topic": {"Value": {"Ref": "Topic"}}}))["Topic"]

    def mails() -> list[str]:
        return [m["subject"] for m in cloud.control("outbox") if m["to"] == address]

    asked = "AWS Notification - Subscription Confirmation"
    assert mails() == [asked]
    sns.publish(TopicArn=topic, Subject="too early", Message="x")
    assert mails() == [asked]
    cloud.subscribe(topic, address)
    sns.publish(TopicArn=topic, Subject="news", Message="x")
    assert mails() == [asked, "news"]


def test_an_alarm_without_dimensions_reads_the_series_without(cloud):
    watch, name = cloud.client("cloudwatch"), cloud.name("alarm")
    watch.put_metric_alarm(
        AlarmName=name, Namespace="Test", MetricName=name, Statistic="Maximum", Period=60,
        EvaluationPeriods=1, Threshold=1, ComparisonOperator="GreaterThanOrEqualToThreshold",
    )  # fmt: skip

    def report(*dimensions: tuple[str, str]) -> str:
        series = [{"Name": k, "Value": v} for k, v in dimensions]
        data = [{"MetricName": name, "Value": 5, "Dimensions": series}]
        watch.put_metric_data(Namespace="Test", MetricData=data)
        return watch.describe_alarms(AlarmNames=[name])["MetricAlarms"][0]["StateValue"]

    assert report(("Endpoint", "x"), ("Variant", "y")) != "ALARM"
    assert report(("Endpoint", "x")) != "ALARM"
    report()
    cloud.wait(
        lambda: watch.describe_alarms(AlarmNames=[name])["MetricAlarms"][0]["StateValue"] == "ALARM",
        10, "the alarm",
    )  # fmt: skip


# -- nested stacks ---------------------------------------------------------------------------------------
@pytest.fixture
def child(cloud):
    """Make the resource of a nested stack from the child's resources."""
    bucket = cloud.bucket()

    def make(resources: dict[str, Any], outputs: dict[str, Any] | None = None, **parameters: str) -> dict:
        key = cloud.name("child")
        declared = {k: {"Type": "String"} for k in parameters if k != "Surplus"}
        template = {"Resources": resources, "Outputs": outputs or {}, "Parameters": declared}
        cloud.client("s3").put_object(Bucket=bucket, Key=key, Body=json.dumps(template).encode())
        properties = {"TemplateURL": f"https://{bucket}.s3.{cloud.region}.amazonaws.com/{key}"}
        properties |= {"Parameters": parameters} if parameters else {}
        return {"Child": {"Type": "AWS::CloudFormation::Stack", "Properties": properties}}

    return make


def topic(name: str) -> dict[str, Any]:
    """A topic's resource."""
    return {"Type": "AWS::SNS::Topic", "Properties": {"TopicName": name}}


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ({"Type": REPOSITORY, "Properties": {}}, r"required key \[RepositoryName\] not found"),
        ({"Type": "AWS::SNS::Topik"}, "AWS::SNS::Topik"),
        ({"Type": "AWS::SNS::Topic", "Properties": {"Nam": "x"}}, r"extraneous key \[Nam\]"),
    ],
    ids=["missing property", "unknown type", "misspelt property"],
)
def test_a_failing_child_fails_the_parent_and_leaves_nothing(cloud, child, broken, words):
    inner, beside = cloud.name("inner"), cloud.name("beside")
    resources = child({"Topic": topic(inner), "Broken": {**broken, "DependsOn": "Topic"}})
    resources["Beside"] = topic(beside)
    stack = cloud.name("stack")
    with pytest.raises(AssertionError, match=words) as caught:
        cloud.stack(resources, name=stack)
    assert "Embedded stack" in str(caught.value)
    assert cloud.stack_status(stack) == "ROLLBACK_COMPLETE"
    assert not {inner, beside} & topics(cloud)
    left = cloud.client("cloudformation").list_stacks()["StackSummaries"]
    children = [s for s in left if s["StackName"].startswith(f"{stack}-Child-")]
    assert {s["StackStatus"] for s in children} <= {"DELETE_COMPLETE"}


def test_a_child_that_fails_to_update_is_rolled_back(cloud, child):
    inner, added = cloud.name("inner"), cloud.name("added")
    stack = cloud.stack(child({"Topic": topic(inner)}))
    worse = child(
        {"Topic": topic(inner), "Added": topic(added), "Bad": {"Type": REPOSITORY, "DependsOn": "Added"}}
    )
    with pytest.raises(AssertionError, match="RepositoryName"):
        cloud.stack(worse, name=stack)
    assert cloud.stack_status(stack) == "UPDATE_ROLLBACK_COMPLETE"
    assert inner in topics(cloud)
    assert added not in topics(cloud)
    found = cloud.client("cloudformation").list_stacks()["StackSummaries"]
    own = [s["StackStatus"] for s in found if s["StackName"].startswith(f"{stack}-Child-")]
    assert own == ["UPDATE_ROLLBACK_COMPLETE"]
    better = child({"Topic": topic(inner), "Added": topic(added)})
    cloud.stack(better, name=stack)
    assert {inner, added} <= topics(cloud)
    assert cloud.delete_stack(stack) == ""
    assert not {inner, added} & topics(cloud)


def test_a_child_refuses_parameters_that_it_has_not(cloud, child):
    with pytest.raises(AssertionError, match=r"Parameters: \[Surplus\] do not exist in the template"):
        cloud.stack(child({"Topic": topic(cloud.name("inner"))}, Surplus="x"))


def test_retained_resources_of_a_child_stay(cloud, child):
    kept, gone = cloud.name("kept"), cloud.name("gone")
    resources = child({"Kept": {**topic(kept), "DeletionPolicy": "Retain"}, "Gone": topic(gone)})
    stack = cloud.stack(resources)
    assert cloud.delete_stack(stack) == ""
    assert kept in topics(cloud)
    assert gone not in topics(cloud)


def test_retained_resources_of_a_child_that_is_taken_out_stay(cloud, child):
    kept, gone, other = cloud.name("kept"), cloud.name("gone"), cloud.name("other")
    resources = child({"Kept": {**topic(kept), "DeletionPolicy": "Retain"}, "Gone": topic(gone)})
    stack = cloud.stack({**resources, "Other": topic(other)})
    cloud.stack({"Other": topic(other)}, name=stack)
    cloud.wait(lambda: gone not in topics(cloud), 10, "the child's end")
    assert {kept, other} <= topics(cloud)


def test_attributes_of_a_child_survive_an_update(cloud, child):
    name = cloud.name("repo")
    repository = {"Type": REPOSITORY, "Properties": {"RepositoryName": name}}
    outputs = {"Arn": {"Value": {"Fn::GetAtt": ["Repository", "Arn"]}}}
    outer = {"Arn": {"Value": {"Fn::GetAtt": ["Child", "Outputs.Arn"]}}}
    stack = cloud.stack(child({"Repository": repository}, outputs), outer)
    before = cloud.outputs(stack)["Arn"]
    described = {**repository, "Properties": {"RepositoryName": name, "RepositoryDescription": "x"}}
    cloud.stack(child({"Repository": described}, outputs), outer, name=stack)
    assert cloud.outputs(stack)["Arn"] == before
    cloud.stack(child({"Repository": described, "More": topic(cloud.name("t"))}, outputs), outer, name=stack)
    assert (
        cloud.outputs(stack)["Arn"] == before == f"arn:aws:codecommit:{cloud.region}:{cloud.account}:{name}"
    )
