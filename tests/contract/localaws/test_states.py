"""Step Functions and DynamoDB in the local cloud: roles, time, checks and records as in AWS."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

TRUST = {"Effect": "Allow", "Principal": {"Service": "states.amazonaws.com"}, "Action": "sts:AssumeRole"}


def document(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def role_of(cloud: Any, *statements: dict[str, Any], trust: dict[str, Any] = TRUST) -> str:
    """A role of state machines that may do what the statements say; its ARN."""
    name, iam = cloud.name("states"), cloud.client("iam")
    made = iam.create_role(RoleName=name, AssumeRolePolicyDocument=document(trust))
    if statements:
        iam.put_role_policy(RoleName=name, PolicyName="work", PolicyDocument=document(*statements))
    return made["Role"]["Arn"]


def run(cloud: Any, states: dict[str, Any], role: str = "", given: Any = None, wait: bool = True) -> Any:
    """Run a machine of these states (the first is the start); the execution when it is over, or its ARN."""
    client = cloud.client("stepfunctions")
    definition = {"QueryLanguage": "JSONata", "StartAt": next(iter(states)), "States": states}
    machine = client.create_state_machine(
        name=cloud.name("machine"), definition=json.dumps(definition), roleArn=role or role_of(cloud)
    )["stateMachineArn"]
    arn = client.start_execution(stateMachineArn=machine, input=json.dumps(given or {}))["executionArn"]
    return ended(cloud, arn) if wait else arn


def ended(cloud: Any, arn: str) -> dict[str, Any]:
    client = cloud.client("stepfunctions")
    return cloud.wait(
        lambda: (e := client.describe_execution(executionArn=arn))["status"] != "RUNNING" and e, 20, arn
    )


def task(resource: str, arguments: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"Type": "Task", "Resource": f"arn:aws:states:::{resource}", "Arguments": arguments, **more}


def test_hook_state_tasks(cloud):
    """A task is a call of the machine's role; what the cloud does not run fails by its name."""
    bucket = cloud.bucket()
    write = {"Effect": "Allow", "Action": "s3:PutObject", "Resource": f"arn:aws:s3:::{bucket}/mine/*"}
    role = role_of(cloud, write)
    put = {"Bucket": bucket, "Key": "mine/x.json", "Body": {"a": [1, "b"]}}
    done = run(cloud, {"Put": task("aws-sdk:s3:putObject", put, End=True)}, role)
    assert done["status"] == "SUCCEEDED", done
    body = cloud.client("s3").get_object(Bucket=bucket, Key="mine/x.json")["Body"].read()
    assert json.loads(body) == {"a": [1, "b"]}

    other = {**put, "Key": "theirs/x.json"}
    denied = run(cloud, {"Put": task("aws-sdk:s3:putObject", other, End=True)}, role)
    assert denied["error"] == "S3.AccessDeniedException"
    assert "is not authorized to perform: s3:PutObject" in denied["cause"]

    untrusted = role_of(cloud, write, trust={**TRUST, "Principal": {"Service": "lambda.amazonaws.com"}})
    refused = run(cloud, {"Put": task("aws-sdk:s3:putObject", put, End=True)}, untrusted)
    assert (
        refused["error"] == "States.Permissions"
        and "states.amazonaws.com is not authorized" in refused["cause"]
    )

    unknown = run(cloud, {"Put": task("bedrock:invokeModel", {}, End=True)}, role)
    assert unknown["cause"] == "the local cloud does not run arn:aws:states:::bedrock:invokeModel"
    wrong = run(cloud, {"Put": task("aws-sdk:s3:putObject", {**put, "Buket": "x"}, End=True)}, role)
    assert wrong["cause"] == "The field 'Buket' is not supported by Step Functions at /"


def test_errors_are_called_as_the_sdk_for_java_calls_them(cloud):
    role = cloud.role("states")
    start = task("aws-sdk:sagemaker:startPipelineExecution", {"PipelineName": "none"}, End=True)
    assert run(cloud, {"Start": start}, role)["error"] == "SageMaker.ResourceNotFoundException"
    get = task("aws-sdk:s3:getObject", {"Bucket": cloud.bucket(), "Key": "none"}, End=True)
    assert run(cloud, {"Get": get}, role)["error"] == "S3.NoSuchKeyException"
    long = task("aws-sdk:sagemaker:describePipelineExecution", {"PipelineExecutionArn": "x"}, End=True)
    assert run(cloud, {"Look": long}, role)["error"] in ("SageMaker.SageMakerException", "States.Runtime")


def test_a_result_longer_than_a_state_carries_fails(cloud):
    bucket = cloud.bucket()
    cloud.client("s3").put_object(Bucket=bucket, Key="long", Body=b"x" * 270_000)
    get = task("aws-sdk:s3:getObject", {"Bucket": bucket, "Key": "long"}, End=True)
    assert run(cloud, {"Get": get}, cloud.role("states"))["error"] == "States.DataLimitExceeded"


def test_hook_state_waits(cloud):
    """A wait is scaled; it is over at once when the clock moves past it, and $millis() is that clock."""
    look = {"Type": "Pass", "Output": "{% $millis() %}", "End": True}
    before = json.loads(run(cloud, {"Look": look})["output"])
    cloud.control("clock", advance_seconds=600)
    after = json.loads(run(cloud, {"Look": look})["output"])
    assert 600_000 <= after - before < 660_000

    scale = cloud.control("settings")["time_scale"]
    cloud.control("settings", time_scale=1)
    began = time.monotonic()
    arn = run(cloud, {"Rest": {"Type": "Wait", "Seconds": 120, "Next": "Look"}, "Look": look}, wait=False)
    time.sleep(1)
    assert cloud.client("stepfunctions").describe_execution(executionArn=arn)["status"] == "RUNNING"
    cloud.control("clock", advance_seconds=120)
    assert ended(cloud, arn)["status"] == "SUCCEEDED" and time.monotonic() - began < 20
    cloud.control("settings", time_scale=0.001)
    began = time.monotonic()
    run(cloud, {"Rest": {"Type": "Wait", "Seconds": 600, "Next": "Look"}, "Look": look})
    assert time.monotonic() - began < 5
    cloud.control("settings", time_scale=scale)


def test_hook_state_variables(cloud):
    """Expressions of one Assign see the variables as they were; Succeed has an Output."""
    states = {
        "First": {"Type": "Pass", "Assign": {"a": 1, "b": 1}, "Next": "Second"},
        "Second": {"Type": "Pass", "Assign": {"a": "{% $a + 1 %}", "b": "{% $a + 10 %}"}, "Next": "End"},
        "End": {"Type": "Succeed", "Output": {"a": "{% $a %}", "b": "{% $b %}"}},
    }
    assert json.loads(run(cloud, states)["output"]) == {"a": 2, "b": 11}


LOGS = [
    f"logs:{name}"
    for name in (
        *("CreateLogDelivery", "DeleteLogDelivery", "DescribeLogGroups", "DescribeResourcePolicies"),
        *("GetLogDelivery", "ListLogDeliveries", "PutResourcePolicy", "UpdateLogDelivery"),
    )
]


def machine(cloud: Any, definition: str, role: str, **more: Any) -> dict[str, Any]:
    bucket = cloud.bucket()
    cloud.client("s3").put_object(Bucket=bucket, Key="m.asl.yml", Body=definition.encode())
    place = {"Bucket": bucket, "Key": "m.asl.yml"}
    properties = {
        "RoleArn": role,
        "DefinitionS3Location": place,
        "DefinitionSubstitutions": {"Word": "hello"},
    }
    return {"M": {"Type": "AWS::StepFunctions::StateMachine", "Properties": {**properties, **more}}}


YAML = """
QueryLanguage: JSONata
StartAt: Say # a comment
States:
  Say: {Type: Succeed, Output: '{% "${Word}" & " world" %}'}
"""


def test_hook_state_definitions(cloud):
    """A definition may be YAML in S3; what Step Functions refuses, the stack refuses."""
    client, role = cloud.client("stepfunctions"), cloud.role("states")
    stack = cloud.stack(machine(cloud, YAML, role), {"Arn": {"Value": {"Ref": "M"}}})
    arn = client.start_execution(stateMachineArn=cloud.outputs(stack)["Arn"])["executionArn"]
    assert ended(cloud, arn)["output"] == '"hello world"'

    with pytest.raises(AssertionError, match="MISSING_TRANSITION_TARGET: /Go leads to 'Nowhere'"):
        cloud.stack(machine(cloud, "{StartAt: Go, States: {Go: {Type: Pass, Next: Nowhere}}}", role))
    with pytest.raises(AssertionError, match="SCHEMA_VALIDATION_FAILED: E3601"):
        cloud.stack(
            machine(cloud, "{StartAt: Go, States: {Go: {Type: Pass, Parameter: 1, End: true}}}", role)
        )
    with pytest.raises(AssertionError, match="INVALID_JSONATA_EXPRESSION"):
        cloud.stack(machine(cloud, YAML.replace('" world"', '" world'), role))
    broken = {"name": "x", "definition": '{"StartAt": "Go", "States": {}}', "roleArn": role}
    with pytest.raises(client.exceptions.InvalidDefinition, match="SCHEMA_VALIDATION_FAILED"):
        client.create_state_machine(**broken)
    untrusted = role_of(cloud, trust={**TRUST, "Principal": {"Service": "lambda.amazonaws.com"}})
    with pytest.raises(AssertionError, match="authorized to assume the provided role"):
        cloud.stack(machine(cloud, YAML, untrusted))

    group = cloud.name("/aws/vendedlogs/log")
    cloud.client("logs").create_log_group(logGroupName=group)
    place = {"LogGroupArn": f"arn:aws:logs:{cloud.region}:{cloud.account}:log-group:{group}:*"}
    logging = {"Level": "ALL", "Destinations": [{"CloudWatchLogsLogGroup": place}]}
    lacking = role_of(cloud, {"Effect": "Allow", "Action": LOGS[1:], "Resource": "*"})
    with pytest.raises(
        AssertionError, match="not authorized to access the Log Destination.*logs:CreateLogDelivery"
    ):
        cloud.stack(machine(cloud, YAML, lacking, LoggingConfiguration=logging))
    allowed = role_of(cloud, {"Effect": "Allow", "Action": LOGS, "Resource": "*"})
    cloud.stack(machine(cloud, YAML, allowed, LoggingConfiguration=logging))


def key_of(cloud: Any, *statements: dict[str, Any]) -> str:
    """A key which only these statements, and the account's administration, let anybody use."""
    root = {"AWS": f"arn:aws:iam::{cloud.account}:root"}
    admin = {"Effect": "Allow", "Principal": root, "Action": ["kms:PutKeyPolicy"], "Resource": "*"}
    used = [{"Effect": "Allow", "Principal": root, "Resource": "*", **s} for s in statements]
    return cloud.client("kms").create_key(Policy=document(admin, *used))["KeyMetadata"]["Arn"]


def test_hook_state_records(cloud):
    """The log has the steps; an event of an encrypted machine has none of its data."""
    seen = cloud.listen(source=["aws.states"])
    group = cloud.name("/aws/vendedlogs/log")
    cloud.client("logs").create_log_group(logGroupName=group)
    place = {"LogGroupArn": f"arn:aws:logs:{cloud.region}:{cloud.account}:log-group:{group}:*"}
    logging = {
        "Level": "ALL",
        "IncludeExecutionData": False,
        "Destinations": [{"CloudWatchLogsLogGroup": place}],
    }
    key = key_of(cloud, {"Action": ["kms:Decrypt", "kms:GenerateDataKey"]})
    encryption = {"Type": "CUSTOMER_MANAGED_KMS_KEY", "KmsKeyId": key}
    resources = machine(
        cloud, YAML, cloud.role("states"), LoggingConfiguration=logging, EncryptionConfiguration=encryption
    )
    arn = cloud.outputs(cloud.stack(resources, {"Arn": {"Value": {"Ref": "M"}}}))["Arn"]
    client = cloud.client("stepfunctions")
    execution = client.start_execution(stateMachineArn=arn, input='{"secret": 1}')["executionArn"]
    ended(cloud, execution)
    cloud.wait(lambda: sum(e["detail"]["executionArn"] == execution for e in seen()) == 2, 10, "two events")
    details = [e["detail"] for e in seen() if e["detail"]["executionArn"] == execution]
    assert [d["status"] for d in details] == ["RUNNING", "SUCCEEDED"]
    assert all(d["input"] is d["output"] is None for d in details)
    logs = cloud.client("logs")
    lines = cloud.wait(
        lambda: [
            json.loads(e["message"])
            for s in logs.describe_log_streams(logGroupName=group)["logStreams"]
            for e in logs.get_log_events(logGroupName=group, logStreamName=s["logStreamName"])["events"]
        ],
        10,
        group,
    )
    kinds = [line["type"] for line in lines]
    assert kinds == ["ExecutionStarted", "SucceedStateEntered", "SucceedStateExited", "ExecutionSucceeded"]
    assert "secret" not in json.dumps(lines) and lines[1]["details"] == {"name": "Say"}


def test_an_encrypted_machine_needs_its_key(cloud):
    """The role of a machine, and whoever reads an execution, must be let by the key's policy."""
    encryption = {"Type": "CUSTOMER_MANAGED_KMS_KEY", "KmsKeyId": key_of(cloud)}
    with pytest.raises(AssertionError, match="may not kms:Decrypt"):
        cloud.stack(machine(cloud, YAML, cloud.role("states"), EncryptionConfiguration=encryption))
    encryption["KmsKeyId"] = key_of(cloud, {"Action": ["kms:Decrypt", "kms:GenerateDataKey"]})
    resources = machine(cloud, YAML, cloud.role("states"), EncryptionConfiguration=encryption)
    arn = cloud.outputs(cloud.stack(resources, {"Arn": {"Value": {"Ref": "M"}}}))["Arn"]
    execution = cloud.client("stepfunctions").start_execution(stateMachineArn=arn)["executionArn"]
    ended(cloud, execution)
    read = {"Effect": "Allow", "Action": "states:DescribeExecution", "Resource": "*"}
    decrypt = {"Effect": "Allow", "Action": "kms:Decrypt", "Resource": "*"}
    person = {**TRUST, "Principal": {"AWS": f"arn:aws:iam::{cloud.account}:root"}}
    for statements, allowed in (((read,), False), ((read, decrypt), True)):
        keys = cloud.client("sts").assume_role(
            RoleArn=role_of(cloud, *statements, trust=person), RoleSessionName="reader"
        )["Credentials"]
        states = cloud.client(
            "stepfunctions",
            aws_access_key_id=keys["AccessKeyId"],
            aws_secret_access_key=keys["SecretAccessKey"],
            aws_session_token=keys["SessionToken"],
        )
        if allowed:
            assert states.describe_execution(executionArn=execution)["output"] == '"hello world"'
        else:
            with pytest.raises(states.exceptions.ClientError, match="kms:Decrypt"):
                states.describe_execution(executionArn=execution)


def table(name: str, **more: Any) -> dict[str, Any]:
    properties = {
        "TableName": name,
        "AttributeDefinitions": [{"AttributeName": "id", "AttributeType": "S"}],
        "KeySchema": [{"AttributeName": "id", "KeyType": "HASH"}],
        "BillingMode": "PAY_PER_REQUEST",
    }
    return {"T": {"Type": "AWS::DynamoDB::Table", "Properties": {**properties, **more}}}


def test_hook_tables(cloud):
    """A stack's table has its key, its time to live and its backups; an update changes them."""
    client, name = cloud.client("dynamodb"), cloud.name("table")
    key = key_of(cloud, {"Action": "kms:*"})
    settings = {
        "SSESpecification": {"SSEEnabled": True, "SSEType": "KMS", "KMSMasterKeyId": key},
        "TimeToLiveSpecification": {"AttributeName": "expires", "Enabled": True},
        "PointInTimeRecoverySpecification": {"PointInTimeRecoveryEnabled": True},
    }
    stack = cloud.stack(table(name, **settings))

    def backups() -> str:
        found = client.describe_continuous_backups(TableName=name)["ContinuousBackupsDescription"]
        return found["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"]

    assert client.describe_table(TableName=name)["Table"]["SSEDescription"]["KMSMasterKeyArn"] == key
    lives = client.describe_time_to_live(TableName=name)["TimeToLiveDescription"]
    assert (lives["TimeToLiveStatus"], lives["AttributeName"]) == ("ENABLED", "expires")
    assert backups() == "ENABLED"
    client.put_item(TableName=name, Item={"id": {"S": "kept"}})
    settings["PointInTimeRecoverySpecification"] = {"PointInTimeRecoveryEnabled": False}
    cloud.stack(table(name, **settings), name=stack)
    assert backups() == "DISABLED"
    assert client.get_item(TableName=name, Key={"id": {"S": "kept"}})["Item"] == {"id": {"S": "kept"}}


def test_items_are_asked_for_by_their_key_and_need_the_tables_key(cloud):
    name = cloud.name("table")
    allowed = {
        "Action": "kms:Decrypt",
        "Condition": {"StringEquals": {"kms:ViaService": "dynamodb.us-east-1.amazonaws.com"}},
    }
    key = key_of(cloud, allowed)
    cloud.stack(table(name, SSESpecification={"SSEEnabled": True, "SSEType": "KMS", "KMSMasterKeyId": key}))
    arn = f"arn:aws:dynamodb:{cloud.region}:{cloud.account}:table/{name}"
    keys = {"ForAllValues:StringLike": {"dynamodb:LeadingKeys": ["mine", "code#*"]}}
    items = {
        "Effect": "Allow",
        "Action": ["dynamodb:GetItem", "dynamodb:PutItem"],
        "Resource": arn,
        "Condition": keys,
    }
    use = {"Effect": "Allow", "Action": "kms:Decrypt", "Resource": key}

    def put(identifier: str, *statements: dict[str, Any]) -> dict[str, Any]:
        arguments = {"TableName": name, "Item": {"id": {"S": identifier}}}
        return run(cloud, {"Put": task("dynamodb:putItem", arguments, End=True)}, role_of(cloud, *statements))

    assert put("mine", items, use)["status"] == put("code#1", items, use)["status"] == "SUCCEEDED"
    theirs = put("theirs", items, use)
    assert theirs["error"] == "DynamoDB.AmazonDynamoDBException" and "dynamodb:PutItem" in theirs["cause"]
    assert "kms:Decrypt" in put("mine", items)["cause"]


def test_items_of_many_are_asked_for_by_all_their_keys(cloud):
    name = cloud.name("table")
    cloud.stack(table(name))
    arn = f"arn:aws:dynamodb:{cloud.region}:{cloud.account}:table/{name}"
    own = {
        "Effect": "Allow", "Action": ["dynamodb:BatchGetItem", "dynamodb:BatchWriteItem"], "Resource": arn,
        "Condition": {"ForAllValues:StringLike": {"dynamodb:LeadingKeys": "mine#*"}},
    }  # fmt: skip
    role = role_of(cloud, own)

    def asked(action: str, what: Any) -> dict[str, Any]:
        arguments = {"RequestItems": {name: what}}
        return run(cloud, {"Ask": task(f"aws-sdk:dynamodb:{action}", arguments, End=True)}, role)

    for names, status in (("mine#1", "mine#2"), "SUCCEEDED"), (("mine#1", "theirs"), "FAILED"):
        keys = [{"id": {"S": one}} for one in names]
        written = asked("batchWriteItem", [{"PutRequest": {"Item": key}} for key in keys])
        read = asked("batchGetItem", {"Keys": keys})
        assert (written["status"], read["status"]) == (status, status), (written, read)
    assert "dynamodb:BatchGetItem on resource: " + arn in read["cause"]


def test_hook_alarm_events(cloud):
    """Each change of an alarm is an event, though the alarm has no action."""
    seen = cloud.listen(source=["aws.cloudwatch"])
    watch, name = cloud.client("cloudwatch"), cloud.name("alarm")
    watch.put_metric_alarm(
        AlarmName=name, Namespace="N", MetricName="m", Period=60, EvaluationPeriods=1, Threshold=1,
        ComparisonOperator="GreaterThanThreshold", Statistic="Maximum", AlarmDescription="why",
        Dimensions=[{"Name": "Endpoint", "Value": "e"}],
    )  # fmt: skip
    for value in ("ALARM", "ALARM", "OK"):
        watch.set_alarm_state(AlarmName=name, StateValue=value, StateReason=f"is {value}")

    def mine() -> list[dict[str, Any]]:
        return [e for e in seen() if e["detail"].get("alarmName") == name]

    cloud.wait(lambda: len(mine()) == 2, 10, "two events")
    first, second = sorted(mine(), key=lambda e: e["detail"]["state"]["value"])
    assert first["detail-type"] == "CloudWatch Alarm State Change"
    assert first["resources"] == [f"arn:aws:cloudwatch:{cloud.region}:{cloud.account}:alarm:{name}"]
    assert first["detail"]["state"]["reason"] == "is ALARM"
    assert second["detail"]["previousState"]["value"] == "ALARM"
    metric = {"namespace": "N", "name": "m", "dimensions": {"Endpoint": "e"}}
    (series,) = first["detail"]["configuration"]["metrics"]
    assert series["metricStat"] == {"metric": metric, "period": 60, "stat": "Maximum"}


def lost(cloud: Any) -> list[str]:
    return cloud.control("health")["undelivered"]


def test_a_rule_starts_a_machine_only_under_a_role_that_may(cloud):
    client, events = cloud.client("stepfunctions"), cloud.client("events")
    definition = {"StartAt": "End", "States": {"End": {"Type": "Succeed"}}}
    arn = client.create_state_machine(
        name=cloud.name("machine"), definition=json.dumps(definition), roleArn=role_of(cloud)
    )["stateMachineArn"]
    trust = {**TRUST, "Principal": {"Service": "events.amazonaws.com"}}
    start = {"Effect": "Allow", "Action": "states:StartExecution", "Resource": arn}
    for statements, started in (((), 0), ((start,), 1)):
        rule, source = cloud.name("rule"), cloud.name("source")
        events.put_rule(Name=rule, EventPattern=json.dumps({"source": [source]}))
        role = role_of(cloud, *statements, trust=trust)
        events.put_targets(
            Rule=rule, Targets=[{"Id": "m", "Arn": arn, "RoleArn": role, "Input": '{"by": "rule"}'}]
        )
        told = len(lost(cloud))
        events.put_events(Entries=[{"Source": source, "DetailType": "x", "Detail": "{}"}])
        if started:
            (execution,) = cloud.wait(
                lambda: client.list_executions(stateMachineArn=arn)["executions"], 10, rule
            )
            assert ended(cloud, execution["executionArn"])["output"] == '{"by": "rule"}'
        else:
            cloud.wait(lambda n=told: len(lost(cloud)) > n, 10, "a failed delivery")
            assert "states:StartExecution" in lost(cloud)[-1]
