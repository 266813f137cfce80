"""One test a hook into an emulator's private names: they are there, and what the hook is for happens.

Raising a pinned emulator shows here what moved. HOOKS is read from the source, because the emulators are
installed in the cloud's own environment only.
"""

from __future__ import annotations

import ast
import hashlib
import io
import json
import os
import re
import subprocess
import tarfile
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

ROOT = Path(__file__).resolve().parents[3]
SOURCE = ROOT / "scripts/localaws/hooks"


def hooks() -> dict[str, tuple[str, ...]]:
    """The HOOKS tables of the modules of hooks, as one."""
    found: dict[str, tuple[str, ...]] = {}
    for file in sorted(SOURCE.glob("[!_]*.py")):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == "HOOKS":
                table = ast.literal_eval(node.value)
                assert not set(table) & set(found), f"{file.name} names a hook again"
                found |= table
    return found


HOOKS = hooks()
NAMES = sorted({name for names in HOOKS.values() for name in names})


def test_each_private_name_is_there():
    script = (
        "import importlib, json, sys\n"
        "def found(n):\n"
        "    module, _, name = n.partition(':')\n"
        "    return hasattr(importlib.import_module(module), name)\n"
        "print(json.dumps([n for n in json.loads(sys.argv[1]) if not found(n)]))\n"
    )
    python = os.environ.get("LOCALAWS_PYTHON") or str(ROOT / ".venv-localaws/bin/python")
    done = subprocess.run(
        [python, "-c", script, json.dumps(NAMES)], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout.splitlines()[-1]) == []


def private_names(source: str) -> set[str]:
    """The private names of emulators that a module uses, as HOOKS writes them."""
    tree, modules, used = ast.parse(source), {}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("ministack", "moto"):
            for name in node.names:
                if name.name.startswith("_"):
                    used.add(f"{node.module}:{name.name}")
                modules[name.asname or name.name] = f"{node.module}.{name.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            private = node.attr.startswith("_") and not node.attr.startswith("__")
            if private and node.value.id in modules:
                used.add(f"{modules[node.value.id]}:{node.attr}")
    return used


def test_each_private_name_is_named():
    sources = {f: private_names(f.read_text()) for f in (SOURCE.parent).rglob("*.py")}
    assert set().union(*(names for f, names in sources.items() if f.parent == SOURCE)) <= set(NAMES)
    assert {f.name: n for f, n in sources.items() if n and f.parent != SOURCE} == {}


def test_each_hook_has_a_test():
    sources = (f.read_text() for f in Path(__file__).parent.glob("test_*.py"))
    tested = {name for text in sources for name in re.findall(r"^def test_hook_(\w+)", text, re.MULTILINE)}
    assert tested == set(HOOKS)


def test_hook_resource_types(cloud):
    name = cloud.name("repo")
    repository = {"Type": "AWS::CodeCommit::Repository", "Properties": {"RepositoryName": name}}
    template = json.dumps({"Resources": {"Repository": repository}})
    stack, client = cloud.name("stack"), cloud.client("cloudformation")
    client.create_stack(StackName=stack, TemplateBody=template, Tags=[{"Key": "of", "Value": "the stack"}])
    cloud.wait(lambda: cloud.stack_status(stack) == "CREATE_COMPLETE")
    codecommit = cloud.client("codecommit")
    arn = codecommit.get_repository(repositoryName=name)["repositoryMetadata"]["Arn"]
    assert codecommit.list_tags_for_resource(resourceArn=arn)["tags"]["of"] == "the stack"
    # the emulator's own types are checked against their schemas too
    with pytest.raises(AssertionError, match="VersioningConfig"):
        cloud.stack({"Bucket": {"Type": "AWS::S3::Bucket", "Properties": {"VersioningConfig": {}}}})
    with pytest.raises(ClientError, match="AWS::CodeCommit::Repositry"):
        cloud.stack({"Repository": {"Type": "AWS::CodeCommit::Repositry", "Properties": {}}})


def test_hook_nested_attributes(cloud):
    bucket, name, s3 = cloud.bucket(), cloud.name("repo"), cloud.client("s3")
    repository = {"Type": "AWS::CodeCommit::Repository", "Properties": {"RepositoryName": name}}
    url = {"Url": {"Value": {"Fn::GetAtt": ["Repository", "CloneUrlHttp"]}}}

    def nested(key: str, **more: Any) -> dict[str, Any]:
        template = {"Resources": {"Repository": repository, **more}, "Outputs": url}
        s3.put_object(Bucket=bucket, Key=key, Body=json.dumps(template).encode())
        where = f"https://{bucket}.s3.{cloud.region}.amazonaws.com/{key}"
        return {"Nested": {"Type": "AWS::CloudFormation::Stack", "Properties": {"TemplateURL": where}}}

    outputs = {"Url": {"Value": {"Fn::GetAtt": ["Nested", "Outputs.Url"]}}}
    stack = cloud.stack(nested("one.json"), outputs)
    assert cloud.outputs(stack)["Url"] == f"{cloud.endpoint}/v1/repos/{name}"
    cloud.stack(nested("two.json", Topic={"Type": "AWS::SNS::Topic"}), outputs, name=stack)
    assert cloud.outputs(stack)["Url"] == f"{cloud.endpoint}/v1/repos/{name}"


def test_hook_service_events(cloud):
    name = cloud.name("repo")
    read = cloud.listen(source=["aws.codecommit"], detail={"repositoryName": [name]})
    client = cloud.client("codecommit")
    client.create_repository(repositoryName=name)
    client.create_commit(
        repositoryName=name, branchName="main", putFiles=[{"filePath": "a", "fileContent": b"a"}]
    )
    event = cloud.wait(read)[0]
    assert event["account"] == cloud.account
    assert event["region"] == cloud.region
    # while the public API refuses to play a service, as on AWS
    entry = {"Source": "aws.codecommit", "DetailType": "x", "Detail": "{}"}
    answer = cloud.client("events").put_events(Entries=[entry])["Entries"][0]
    assert answer["ErrorCode"] == "NotAuthorizedForSourceException"


def test_hook_event_targets(cloud):
    events, source = cloud.client("events"), cloud.name("source")
    rule, role = cloud.name("rule"), cloud.role("events")
    arn = f"arn:aws:glue:{cloud.region}:{cloud.account}:workflow/{rule}"  # nothing here delivers to Glue
    events.put_rule(Name=rule, EventPattern=json.dumps({"source": [source]}))
    events.put_targets(Rule=rule, Targets=[{"Id": "t", "Arn": arn, "RoleArn": role}])
    events.put_events(Entries=[{"Source": source, "DetailType": "x", "Detail": "{}"}])
    cloud.wait(lambda: any(arn in line for line in cloud.control("health")["undelivered"]))


def test_hook_put_targets(cloud):
    events, rule = cloud.client("events"), cloud.name("rule")
    arn = f"arn:aws:codepipeline:{cloud.region}:{cloud.account}:x"
    events.put_rule(Name=rule, ScheduleExpression="rate(1 day)")
    with pytest.raises(ClientError, match=f"RoleArn is required for target {arn}"):
        events.put_targets(Rule=rule, Targets=[{"Id": "t", "Arn": arn}])


def test_hook_scheduler_targets(cloud):
    scheduler, name = cloud.client("scheduler"), cloud.name("parameter")
    request = {"Name": f"/{name}", "Type": "String", "Value": "<aws.scheduler.scheduled-time>"}
    scheduler.create_schedule(
        Name=name,
        ScheduleExpression="rate(1 hour)",
        FlexibleTimeWindow={"Mode": "OFF"},
        Target={
            "Arn": "arn:aws:scheduler:::aws-sdk:ssm:putParameter",
            "RoleArn": cloud.role("scheduler"),
            "Input": json.dumps(request),
        },
    )
    cloud.control("clock", advance_seconds=3700)
    ssm = cloud.client("ssm")

    def written() -> str:
        try:
            return ssm.get_parameter(Name=f"/{name}")["Parameter"]["Value"]
        except ssm.exceptions.ParameterNotFound:
            return ""

    value = cloud.wait(written, what="the schedule's call")
    assert value.endswith(":00Z")
    scheduler.delete_schedule(Name=name)


def test_hook_stack_events(cloud):
    heard = cloud.listen(source=["aws.cloudformation"])
    stack = cloud.stack({"Kept": {"Type": "AWS::SNS::Topic"}})
    arn = cloud.client("cloudformation").describe_stacks(StackName=stack)["Stacks"][0]["StackId"]

    def told() -> dict[str, str]:
        mine = [e["detail"] for e in heard() if e["detail"]["stack-id"] == arn]
        return {one["status-details"]["status"]: one["status-details"]["status-reason"] for one in mine}

    cloud.wait(lambda: "CREATE_COMPLETE" in told(), what="the stack's end")
    assert set(told()) == {"CREATE_IN_PROGRESS", "CREATE_COMPLETE"}, "a resource is not the stack"
    (event,) = [e for e in heard() if "COMPLETE" in str(e) and e["detail"]["stack-id"] == arn]
    assert event["detail-type"] == "CloudFormation Stack Status Change"
    assert event["resources"] == [arn]
    cloud.delete_stack(stack)
    cloud.wait(lambda: "DELETE_COMPLETE" in told(), what="the stack's deletion")


FUNCTION = """
import boto3
def handler(event, context):
    boto3.client("ssm").put_parameter(Name=event["name"], Type="String", Value=event["time"])
"""


def test_schedule_calls_a_function_under_its_role(cloud, pack):
    """EventBridge Scheduler asks the schedule's role, no policy of the function, and fills in the input."""
    client, scheduler, ssm = cloud.client("lambda"), cloud.client("scheduler"), cloud.client("ssm")
    name, weak = cloud.name("called"), cloud.role("scheduler")
    cloud.client("iam").delete_role_policy(RoleName=weak.rpartition("/")[2], PolicyName="all")
    arn = client.create_function(
        FunctionName=name,
        Runtime="python3.13",
        Handler="index.handler",
        Role=cloud.role("lambda"),
        Code={"ZipFile": pack({"index.py": FUNCTION})},
    )["FunctionArn"]
    for number, role in enumerate((cloud.role("scheduler"), weak)):
        what = {"name": f"/{name}/{number}", "time": "<aws.scheduler.scheduled-time>"}
        scheduler.create_schedule(
            Name=f"{name}-{number}",
            ScheduleExpression="rate(1 hour)",
            FlexibleTimeWindow={"Mode": "OFF"},
            Target={"Arn": arn, "RoleArn": role, "Input": json.dumps(what)},
        )

    def found() -> dict[str, str]:
        return {p["Name"]: p["Value"] for p in ssm.get_parameters_by_path(Path=f"/{name}")["Parameters"]}

    def lost() -> list[str]:
        return [one for one in cloud.control("health")["undelivered"] if f"{name}-1" in one]

    before = cloud.control("settings")["enforce"]
    cloud.control("settings", enforce=True)
    cloud.control("clock", advance_seconds=3700)
    try:
        cloud.wait(found, what="the function's call")
        cloud.wait(lost, what="the refusal")
    finally:
        cloud.control("settings", enforce=before)
        for number in range(2):
            scheduler.delete_schedule(Name=f"{name}-{number}")
    assert list(found()) == [f"/{name}/0"]
    assert found()[f"/{name}/0"].endswith(":00Z")
    assert "lambda:InvokeFunction" in lost()[0]


def test_hook_clock(cloud):
    before = cloud.control("clock")["offset_seconds"]
    events, sqs, name = cloud.client("events"), cloud.client("sqs"), cloud.name("hourly")
    queue = sqs.create_queue(QueueName=name)["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    events.put_rule(Name=name, ScheduleExpression="rate(1 hour)")
    events.put_targets(Rule=name, Targets=[{"Id": "queue", "Arn": arn}])
    cloud.control("clock", advance_seconds=3700)
    cloud.wait(lambda: sqs.receive_message(QueueUrl=queue).get("Messages"), what="the hourly rule")
    assert cloud.control("clock")["offset_seconds"] == before + 3700
    events.remove_targets(Rule=name, Ids=["queue"])
    events.delete_rule(Name=name)


def test_hook_prefix_lists(cloud):
    ec2 = cloud.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.9.0.0/24")["Vpc"]["VpcId"]
    group = ec2.create_security_group(GroupName=cloud.name("group"), Description="x", VpcId=vpc)["GroupId"]
    rule = {
        "IpProtocol": "tcp",
        "FromPort": 443,
        "ToPort": 443,
        "PrefixListIds": [{"PrefixListId": "pl-63a5400a"}],
    }
    ec2.authorize_security_group_egress(GroupId=group, IpPermissions=[rule])
    found = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["IpPermissionsEgress"]
    assert "pl-63a5400a" in [p["PrefixListId"] for r in found for p in r.get("PrefixListIds", [])]


def test_hook_service_tags(cloud):
    client = cloud.client("cloudformation")
    template = json.dumps({"Resources": {"Topic": {"Type": "AWS::SNS::Topic"}}})
    with pytest.raises(ClientError, match="aws:"):
        tags = [{"Key": "aws:servicecatalog:x", "Value": "mine"}]
        client.create_stack(StackName=cloud.name("stack"), TemplateBody=template, Tags=tags)


def test_hook_template_url(cloud):
    bucket, stack, client = cloud.bucket(), cloud.name("stack"), cloud.client("cloudformation")
    template = json.dumps({"Resources": {"Topic": {"Type": "AWS::SNS::Topic"}}})
    cloud.client("s3").put_object(Bucket=bucket, Key="a/t.json", Body=template.encode())
    client.create_stack(StackName=stack, TemplateURL=f"https://{bucket}.s3.us-east-1.amazonaws.com/a/t.json")
    cloud.wait(lambda: cloud.stack_status(stack) == "CREATE_COMPLETE")


def test_hook_alarm_dimensions(cloud):
    watch, name = cloud.client("cloudwatch"), cloud.name("alarm")
    watch.put_metric_alarm(
        AlarmName=name,
        Namespace="Test",
        MetricName=name,
        Statistic="Maximum",
        Period=60,
        EvaluationPeriods=1,
        Threshold=1,
        ComparisonOperator="GreaterThanOrEqualToThreshold",
        Dimensions=[{"Name": "Endpoint", "Value": "mine"}],
        TreatMissingData="notBreaching",
    )

    def report(endpoint: str) -> None:
        dimensions = [{"Name": "Endpoint", "Value": endpoint}]
        watch.put_metric_data(
            Namespace="Test", MetricData=[{"MetricName": name, "Value": 5, "Dimensions": dimensions}]
        )

    def state() -> str:
        return watch.describe_alarms(AlarmNames=[name])["MetricAlarms"][0]["StateValue"]

    report("another's")
    assert state() != "ALARM"
    report("mine")
    cloud.wait(lambda: state() == "ALARM")


def test_hook_alarm_periods(cloud):
    """Two of two minutes must breach; a state passes with its data; one set by hand holds for a minute."""
    watch, name = cloud.client("cloudwatch"), cloud.name("alarm")
    watch.put_metric_alarm(
        AlarmName=name, Namespace="Test", MetricName=name, Statistic="Maximum", Period=60,
        EvaluationPeriods=2, Threshold=1, ComparisonOperator="GreaterThanThreshold",
        TreatMissingData="notBreaching",
    )  # fmt: skip

    def report(value: float) -> None:
        watch.put_metric_data(Namespace="Test", MetricData=[{"MetricName": name, "Value": value}])

    def state() -> str:
        return watch.describe_alarms(AlarmNames=[name])["MetricAlarms"][0]["StateValue"]

    report(5)
    assert state() == "OK", "one minute of two"
    cloud.control("clock", advance_seconds=60)
    report(5)
    assert state() == "ALARM"
    cloud.control("clock", advance_seconds=120)
    assert state() == "OK", "nothing new breaches"
    watch.set_alarm_state(AlarmName=name, StateValue="ALARM", StateReason="a test")
    report(0)
    assert state() == "ALARM"
    cloud.control("clock", advance_seconds=61)
    assert state() == "OK"


def test_hook_alarm_actions(cloud):
    watch, sns, name = cloud.client("cloudwatch"), cloud.client("sns"), cloud.name("alarm")
    topics = [sns.create_topic(Name=f"{name}-{which}")["TopicArn"] for which in ("open", "closed")]
    for topic in topics:
        cloud.subscribe(topic, f"{name}@example.com")
    statement = {"Effect": "Allow", "Principal": {"Service": "events.amazonaws.com"}, "Action": "sns:Publish"}
    policy = {"Version": "2012-10-17", "Statement": [statement | {"Resource": topics[1]}]}
    sns.set_topic_attributes(TopicArn=topics[1], AttributeName="Policy", AttributeValue=json.dumps(policy))
    function = f"arn:aws:lambda:{cloud.region}:{cloud.account}:function:{name}"
    watch.put_metric_alarm(
        AlarmName=name, Namespace="Test", MetricName=name, Statistic="Maximum", Period=60,
        EvaluationPeriods=1, Threshold=1, ComparisonOperator="GreaterThanThreshold",
        AlarmActions=[*topics, function],
    )  # fmt: skip
    watch.set_alarm_state(AlarmName=name, StateValue="ALARM", StateReason="a test")
    mails = [m for m in cloud.control("outbox") if m["to"] == f"{name}@example.com" and name in m["body"]]
    assert [m["topic"] for m in mails if "ALARM" in m["subject"]] == topics[:1]
    told = [u for u in cloud.control("health")["undelivered"] if name in u]
    assert any(topics[1] in u and "cloudwatch.amazonaws.com" in u for u in told)
    assert any(function in u for u in told)


def test_hook_mail(cloud):
    sns = cloud.client("sns")
    topic = sns.create_topic(Name=cloud.name("topic"))["TopicArn"]
    sns.subscribe(TopicArn=topic, Protocol="email", Endpoint="before@example.com")
    cloud.subscribe(topic, "jane@example.com")
    message = json.dumps({"default": "for machines", "email": "for people"})
    sns.publish(TopicArn=topic, Subject="news", Message=message, MessageStructure="json")
    mails = [m for m in cloud.control("outbox") if m["topic"] == topic and m["subject"] == "news"]
    assert [(m["to"], m["body"]) for m in mails] == [("jane@example.com", "for people")]


def test_hook_topics(cloud):
    """A stack's topic is encrypted with its key, and no longer when the template takes it away."""
    key = cloud.client("kms").create_key()["KeyMetadata"]["Arn"]
    topic = {"Type": "AWS::SNS::Topic", "Properties": {"DisplayName": "news", "KmsMasterKeyId": key}}
    stack, sns = cloud.stack({"Topic": topic}), cloud.client("sns")
    resources = cloud.client("cloudformation").describe_stack_resources(StackName=stack)["StackResources"]
    arn = resources[0]["PhysicalResourceId"]
    assert sns.get_topic_attributes(TopicArn=arn)["Attributes"]["KmsMasterKeyId"] == key
    del topic["Properties"]["KmsMasterKeyId"]
    cloud.stack({"Topic": topic}, name=stack)
    assert "KmsMasterKeyId" not in sns.get_topic_attributes(TopicArn=arn)["Attributes"]


def test_hook_images(cloud):
    ecr, name = cloud.client("ecr"), cloud.name("repository")
    uri = ecr.create_repository(repositoryName=name)["repository"]["repositoryUri"]
    assert uri == f"{cloud.account}.dkr.ecr.{cloud.region}.amazonaws.com/{name}"
    with pytest.raises(ecr.exceptions.ImageNotFoundException, match="imageTag:'none'"):
        ecr.describe_images(repositoryName=name, imageIds=[{"imageTag": "none"}])
    (data,) = ecr.get_authorization_token()["authorizationData"]
    headers = {"Host": uri.partition("/")[0], "Authorization": f"Basic {data['authorizationToken']}"}

    def uploaded(content: bytes) -> dict[str, Any]:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        url = f"{cloud.endpoint}/v2/{name}/blobs/uploads/?digest={digest}"
        with urllib.request.urlopen(urllib.request.Request(url, content, headers, method="POST")):
            return {"digest": digest, "size": len(content)}

    def put(manifest: dict[str, Any]) -> dict[str, Any]:
        given = {"repositoryName": name, "imageManifest": json.dumps(manifest), "imageTag": "one"}
        return ecr.put_image(**given)["image"]

    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w:gz"):
        pass
    parts = {"config": uploaded(b"{}"), "layers": [uploaded(layer.getvalue())]}
    by_digest = urllib.request.Request(
        f"{cloud.endpoint}/v2/{name}/manifests/{put(parts)['imageId']['imageDigest']}", headers=headers
    )
    with urllib.request.urlopen(by_digest) as answer:
        assert json.load(answer) == parts
    found = ecr.describe_images(repositoryName=name, imageIds=[{"imageTag": "one"}])["imageDetails"][0]
    assert found["imageSizeInBytes"] == sum(part["size"] for part in (parts["config"], *parts["layers"]))


def test_hook_unknown_parameters(cloud):
    client, stack = cloud.client("cloudformation"), cloud.name("stack")
    template = json.dumps({"Resources": {"Topic": {"Type": "AWS::SNS::Topic"}}})
    given: dict[str, Any] = {
        "TemplateBody": template,
        "Parameters": [{"ParameterKey": "Nam", "ParameterValue": "x"}],
    }
    words = r"Parameters: \[Nam\] do not exist in the template"
    with pytest.raises(ClientError, match=words):
        client.create_stack(StackName=stack, **given)
    with pytest.raises(ClientError, match=words):
        client.create_change_set(StackName=stack, ChangeSetName="c", ChangeSetType="CREATE", **given)
    client.create_stack(StackName=stack, TemplateBody=template)
    cloud.wait(lambda: cloud.stack_status(stack) == "CREATE_COMPLETE")
    with pytest.raises(ClientError, match=words):
        client.update_stack(StackName=stack, **given)


def test_hook_stack_permissions(cloud):
    iam, name = cloud.client("iam"), cloud.name("role")
    trust = {"Effect": "Allow", "Principal": {"Service": "cloudformation.amazonaws.com"}}
    document = {"Version": "2012-10-17", "Statement": [trust | {"Action": "sts:AssumeRole"}]}
    role = iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(document))["Role"]["Arn"]
    template = {"Resources": {"Topic": {"Type": "AWS::SNS::Topic"}}}
    cloud.control("settings", enforce=True)
    cloud.client("cloudformation").create_stack(
        StackName=name, TemplateBody=json.dumps(template), RoleARN=role
    )
    cloud.wait(lambda: cloud.stack_status(name) == "ROLLBACK_COMPLETE", 30, name)
    assert "not authorized to perform: sns:CreateTopic" in " ".join(cloud.stack_reasons(name))
    # a deletion uses the role too, unless it names another: so the stack tells it
    assert cloud.client("cloudformation").describe_stacks(StackName=name)["Stacks"][0]["RoleARN"] == role


def test_hook_queries(cloud):
    """A workgroup's settings go before the caller's, and a query reads what SQL of Athena asks for."""
    athena, group, bucket = cloud.client("athena"), cloud.name("group"), cloud.bucket()
    settings = {"EnforceWorkGroupConfiguration": True}
    settings["ResultConfiguration"] = {"OutputLocation": f"s3://{bucket}/own/"}
    athena.create_work_group(Name=group, Configuration=settings)

    def asked(sql: str) -> dict[str, Any]:
        other = {"OutputLocation": f"s3://{bucket}/other/"}
        started = athena.start_query_execution(QueryString=sql, WorkGroup=group, ResultConfiguration=other)
        identity = started["QueryExecutionId"]

        def ended() -> Any:
            found = athena.get_query_execution(QueryExecutionId=identity)["QueryExecution"]
            return found if found["Status"]["State"] not in ("QUEUED", "RUNNING") else None

        return cloud.wait(ended, 30, sql)

    place = asked("SELECT date_format(current_timestamp, '%Y') AS year")["ResultConfiguration"]
    assert place["OutputLocation"].startswith(f"s3://{bucket}/own/")
    body = cloud.client("s3").get_object(Bucket=bucket, Key=place["OutputLocation"].split("/", 3)[3])["Body"]
    assert re.fullmatch(rb'"year"\n"\d{4}"\n', body.read())
    status = asked("SELECT strftime(current_timestamp, '%Y')")["Status"]
    assert "not registered" in status["StateChangeReason"]
    with pytest.raises(ClientError, match="WorkGroup is not found"):
        athena.start_query_execution(QueryString="SELECT 1", WorkGroup="nowhere")


def test_hook_trust_policies(cloud):
    statement = {"Effect": "Allow", "Action": "sts:AssumeRole"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    iam = cloud.client("iam")
    with pytest.raises(iam.exceptions.MalformedPolicyDocumentException, match="Principal"):
        iam.create_role(RoleName=cloud.name("role"), AssumeRolePolicyDocument=document)


def test_hook_caller(cloud):
    role = cloud.role("lambda")
    keys = cloud.client("sts").assume_role(RoleArn=role, RoleSessionName="jane")["Credentials"]
    client = cloud.client(
        "codecommit",
        aws_access_key_id=keys["AccessKeyId"],
        aws_secret_access_key=keys["SecretAccessKey"],
        aws_session_token=keys["SessionToken"],
    )
    name = cloud.name("repo")
    read = cloud.listen(source=["aws.codecommit"], detail={"repositoryName": [name]})
    client.create_repository(repositoryName=name)
    client.create_commit(
        repositoryName=name, branchName="main", putFiles=[{"filePath": "a", "fileContent": b"a"}]
    )
    who = cloud.wait(read)[0]["detail"]["callerUserArn"]
    assert who == f"arn:aws:sts::{cloud.account}:assumed-role/{role.rpartition('/')[2]}/jane"


def test_hook_scope(cloud):
    # a service of ours that calls the emulator in the background works in the same account and region
    metadata = cloud.client("codecommit").create_repository(repositoryName=cloud.name("repo"))[
        "repositoryMetadata"
    ]
    assert metadata["Arn"].startswith(f"arn:aws:codecommit:{cloud.region}:{cloud.account}:")
    assert cloud.client("sts").get_caller_identity()["Account"] == cloud.account


def test_hook_buckets(cloud):
    key = cloud.client("kms").create_key()["KeyMetadata"]["Arn"]
    default = {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": key}
    rule = {"BucketKeyEnabled": True, "ServerSideEncryptionByDefault": default}
    properties = {
        "Tags": [{"Key": "team", "Value": "x"}],
        "BucketEncryption": {"ServerSideEncryptionConfiguration": [rule]},
    }
    resources = {"Bucket": {"Type": "AWS::S3::Bucket", "Properties": properties}}
    stack, s3 = cloud.stack(resources, {"Bucket": {"Value": {"Ref": "Bucket"}}}), cloud.client("s3")
    bucket = cloud.outputs(stack)["Bucket"]
    assert {"Key": "team", "Value": "x"} in s3.get_bucket_tagging(Bucket=bucket)["TagSet"]
    assert s3.put_object(Bucket=bucket, Key="x", Body=b"x")["SSEKMSKeyId"] == key
    found = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"][0]
    assert found["BucketKeyEnabled"] is True
    assert cloud.delete_stack(stack) == "DELETE_FAILED"
    assert "not empty" in " ".join(cloud.stack_reasons(stack))
    s3.delete_object(Bucket=bucket, Key="x")
    assert cloud.delete_stack(stack) == ""


def test_hook_nested_deletes(cloud):
    where, s3, sns = cloud.bucket(), cloud.client("s3"), cloud.client("sns")
    inner = {
        "Resources": {
            "Kept": {"Type": "AWS::SNS::Topic", "DeletionPolicy": "Retain"},
            "Bucket": {"Type": "AWS::S3::Bucket"},
        },
        "Outputs": {"Kept": {"Value": {"Ref": "Kept"}}, "Bucket": {"Value": {"Ref": "Bucket"}}},
    }
    s3.put_object(Bucket=where, Key="inner.json", Body=json.dumps(inner).encode())
    url = f"https://{where}.s3.{cloud.region}.amazonaws.com/inner.json"
    outputs = {key: {"Value": {"Fn::GetAtt": ["Inner", f"Outputs.{key}"]}} for key in inner["Outputs"]}
    nested = {"Inner": {"Type": "AWS::CloudFormation::Stack", "Properties": {"TemplateURL": url}}}
    stack = cloud.stack(nested, outputs)
    made = cloud.outputs(stack)
    s3.put_object(Bucket=made["Bucket"], Key="x", Body=b"x")
    assert cloud.delete_stack(stack) == "DELETE_FAILED"
    s3.delete_object(Bucket=made["Bucket"], Key="x")
    assert cloud.delete_stack(stack) == ""
    assert sns.get_topic_attributes(TopicArn=made["Kept"])


def test_hook_vpc_endpoints(cloud):
    ec2, policy = cloud.client("ec2"), {"Version": "2012-10-17", "Statement": []}
    vpc = ec2.create_vpc(CidrBlock="10.8.0.0/16")["Vpc"]["VpcId"]
    group = ec2.create_security_group(VpcId=vpc, GroupName="doors", Description="doors")["GroupId"]
    made = ec2.create_vpc_endpoint(
        VpcId=vpc,
        VpcEndpointType="Interface",
        ServiceName="com.amazonaws.us-east-1.sts",
        SecurityGroupIds=[group],
        PrivateDnsEnabled=False,
        PolicyDocument=json.dumps(policy),
    )["VpcEndpoint"]
    told = ec2.describe_vpc_endpoints(VpcEndpointIds=[made["VpcEndpointId"]])["VpcEndpoints"][0]
    for found in (made, told):
        assert json.loads(found["PolicyDocument"]) == policy
        assert [g["GroupId"] for g in found["Groups"]] == [group]
        assert found["PrivateDnsEnabled"] is False


def test_hook_networks(cloud):
    """What the emulator keeps of networks is what test_network.py relies on."""
    ec2 = cloud.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.9.0.0/24")["Subnet"]["SubnetId"]
    made = cloud.client("sagemaker").create_domain(
        DomainName=cloud.name("domain"),
        AuthMode="IAM",
        VpcId=vpc,
        SubnetIds=[subnet],
        AppNetworkAccessType="VpcOnly",
        HomeEfsFileSystemCreation="Disabled",
        DefaultUserSettings={
            "ExecutionRole": (role := cloud.role("sagemaker")),
            "SecurityGroups": [
                ec2.create_security_group(VpcId=vpc, GroupName="inside", Description="x")["GroupId"]
            ],
        },
    )
    domain = made["DomainArn"].rpartition("/")[2]
    assert "AWS_ACCESS_KEY_ID" in cloud.control("studio", domain=domain, role=role, session="jane")


def test_hook_session_networks(cloud):
    keys = cloud.client("sts").assume_role(RoleArn=cloud.role("sagemaker"), RoleSessionName="out")
    client = cloud.client(
        "sts",
        aws_access_key_id=keys["Credentials"]["AccessKeyId"],
        aws_secret_access_key=keys["Credentials"]["SecretAccessKey"],
        aws_session_token=keys["Credentials"]["SessionToken"],
    )
    assert client.get_caller_identity()["Arn"].endswith("/out")


def test_hook_registry_tokens(cloud):
    ecr = cloud.client("ecr")
    tokens = [ecr.get_authorization_token()["authorizationData"][0]["authorizationToken"] for _ in range(2)]
    assert tokens[0] != tokens[1]


def test_hook_boundaries(cloud):
    # a role of a stack has its boundary, gets another, and none that does not exist
    iam = cloud.client("iam")
    document = json.dumps(
        {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
    )
    first, second = (
        iam.create_policy(PolicyName=cloud.name("limit"), PolicyDocument=document)["Policy"]["Arn"]
        for _ in range(2)
    )
    trust = {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}

    def role(boundary: str) -> dict[str, Any]:
        return {
            "Role": {
                "Type": "AWS::IAM::Role",
                "Properties": {
                    "AssumeRolePolicyDocument": {"Version": "2012-10-17", "Statement": [trust]},
                    "PermissionsBoundary": boundary,
                },
            }
        }

    def boundary_of() -> str:
        found = iam.get_role(RoleName=cloud.outputs(stack)["Name"])["Role"]
        return found["PermissionsBoundary"]["PermissionsBoundaryArn"]

    stack = cloud.stack(role(first), {"Name": {"Value": {"Ref": "Role"}}})
    assert boundary_of() == first
    cloud.stack(role(second), {"Name": {"Value": {"Ref": "Role"}}}, stack)
    assert boundary_of() == second
    with pytest.raises(AssertionError, match="does not exist or is not attachable"):
        cloud.stack(role(f"{first}-none"))


def packed(files: dict[str, str]) -> bytes:
    """A zip of texts."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return out.getvalue()


RUNTIME = """
import json, os, urllib.request
api = f"http://{os.environ['AWS_LAMBDA_RUNTIME_API']}/2018-06-01/runtime/invocation"
print("started as", os.environ["AWS_LAMBDA_FUNCTION_NAME"], flush=True)
while True:
    with urllib.request.urlopen(f"{api}/next") as asked:
        request, event = asked.headers["Lambda-Runtime-Aws-Request-Id"], json.loads(asked.read())
    if event.get("die"):
        os._exit(3)
    what = "error" if event.get("fail") else "response"
    answer = {"errorMessage": "as asked"} if event.get("fail") else {"got": event, "pid": os.getpid()}
    url, body = f"{api}/{request}/{what}", json.dumps(answer).encode()
    urllib.request.urlopen(urllib.request.Request(url, body)).close()
"""


def test_hook_image_functions(cloud: Any) -> None:
    lambda_, name = cloud.client("lambda"), cloud.name("image")
    uri = cloud.image({"app/main.py": RUNTIME}, ["python3", "/app/main.py"])
    lambda_.create_function(
        FunctionName=name, PackageType="Image", Code={"ImageUri": uri}, Role=cloud.role("lambda"), Timeout=5
    )

    def ask(**event: Any) -> tuple[str, Any]:
        found = lambda_.invoke(FunctionName=name, Payload=json.dumps(event).encode())
        return found.get("FunctionError", ""), json.loads(found["Payload"].read())

    first, second = ask(a=1), ask(a=2)
    assert first[1]["got"] == {"a": 1} and second[1]["got"] == {"a": 2}
    assert first[1]["pid"] == second[1]["pid"]  # the environment is used again
    assert ask(fail=True)[1] == {"errorMessage": "as asked"}
    assert ask(die=True)[1]["errorType"] == "Runtime.ExitError"
    assert ask(a=3)[1]["got"] == {"a": 3}
    logs = cloud.client("logs").filter_log_events(logGroupName=f"/aws/lambda/{name}")["events"]
    assert any(f"started as {name}" in one["message"] for one in logs)


def _versions(cloud: Any) -> str:
    """A function with two versions that say which they are."""
    lambda_, name = cloud.client("lambda"), cloud.name("fn")
    code = "def handler(event, context):\n    return {'statusCode': 200, 'body': '%s'}\n"
    lambda_.create_function(
        FunctionName=name, Runtime="python3.12", Handler="index.handler", Role=cloud.role("lambda"),
        Code={"ZipFile": packed({"index.py": code % 1})}, Publish=True,
    )  # fmt: skip
    lambda_.update_function_code(FunctionName=name, ZipFile=packed({"index.py": code % 2}), Publish=True)
    return name


def test_hook_alias_weights(cloud: Any) -> None:
    lambda_, name = cloud.client("lambda"), _versions(cloud)
    weights = {"AdditionalVersionWeights": {"2": 0.5}}
    lambda_.create_alias(FunctionName=name, Name="live", FunctionVersion="1", RoutingConfig=weights)
    answers = [lambda_.invoke(FunctionName=name, Qualifier="live")["ExecutedVersion"] for _ in range(40)]
    assert set(answers) == {"1", "2"}
    found = cloud.client("cloudwatch").list_metrics(
        Namespace="AWS/Lambda",
        MetricName="Duration",
        Dimensions=[{"Name": "Resource", "Value": f"{name}:live"}],
    )["Metrics"]
    assert {len(one["Dimensions"]) for one in found} == {2, 3}


def test_hook_function_networks(cloud: Any) -> None:
    ec2 = cloud.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.8.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.8.0.0/24")["Subnet"]["SubnetId"]
    group = ec2.create_security_group(GroupName="f", Description="x", VpcId=vpc)["GroupId"]
    code = {"ZipFile": "def handler(event, context): pass"}
    function = {"Runtime": "python3.12", "Handler": "index.handler", "Code": code}
    function |= {"Role": cloud.role("lambda")}
    inside = {**function, "VpcConfig": {"SubnetIds": [subnet], "SecurityGroupIds": [group]}}

    def resources(properties: dict[str, Any]) -> dict[str, Any]:
        return {"Function": {"Type": "AWS::Lambda::Function", "Properties": properties}}

    outputs = {"Name": {"Value": {"Ref": "Function"}}}
    stack = cloud.stack(resources(inside), outputs)
    name, lambda_ = cloud.outputs(stack)["Name"], cloud.client("lambda")
    found = lambda_.get_function_configuration(FunctionName=name)["VpcConfig"]
    assert (found["SubnetIds"], found["VpcId"]) == ([subnet], vpc)
    cloud.stack(resources(function), outputs, stack)
    found = lambda_.get_function_configuration(FunctionName=name).get("VpcConfig") or {}
    assert not found.get("SubnetIds")


def test_hook_alias_updates(cloud: Any) -> None:
    name, role = _versions(cloud), cloud.role("codedeploy")
    style = {"DeploymentType": "BLUE_GREEN", "DeploymentOption": "WITH_TRAFFIC_CONTROL"}

    def resources(version: str) -> dict[str, Any]:
        group = {"ApplicationName": {"Ref": "App"}, "DeploymentStyle": style, "ServiceRoleArn": role}
        moves = {"ApplicationName": {"Ref": "App"}, "DeploymentGroupName": {"Ref": "Group"}}
        alias = {"Name": "live", "FunctionName": name, "FunctionVersion": version}
        return {
            "App": {"Type": "AWS::CodeDeploy::Application", "Properties": {"ComputePlatform": "Lambda"}},
            "Group": {"Type": "AWS::CodeDeploy::DeploymentGroup", "Properties": group},
            "Live": {
                "Type": "AWS::Lambda::Alias",
                "Properties": alias,
                "UpdatePolicy": {"CodeDeployLambdaAliasUpdate": moves},
            },
        }

    stack = cloud.stack(resources("1"), {"App": {"Value": {"Ref": "App"}}})
    deploy, application = cloud.client("codedeploy"), cloud.outputs(stack)["App"]
    assert deploy.list_deployments(applicationName=application)["deployments"] == []
    cloud.stack(resources("2"), {"App": {"Value": {"Ref": "App"}}}, stack)
    assert len(deploy.list_deployments(applicationName=application)["deployments"]) == 1
    assert cloud.client("lambda").get_alias(FunctionName=name, Name="live")["FunctionVersion"] == "2"


def _api(cloud: Any, allowed: bool = True) -> str:
    """An HTTP API with signatures of IAM before a function; its id."""
    name, arn = _versions(cloud), cloud.client("lambda").get_function
    function = arn(FunctionName=name)["Configuration"]["FunctionArn"]
    route = {"ApiId": {"Ref": "Api"}, "RouteKey": "POST /ask", "AuthorizationType": "AWS_IAM"}
    proxy = {"ApiId": {"Ref": "Api"}, "IntegrationType": "AWS_PROXY", "IntegrationUri": function}
    resources = {
        "Api": {"Type": "AWS::ApiGatewayV2::Api", "Properties": {"Name": "x", "ProtocolType": "HTTP"}},
        "Proxy": {
            "Type": "AWS::ApiGatewayV2::Integration",
            "Properties": {**proxy, "PayloadFormatVersion": "2.0"},
        },
        "Route": {
            "Type": "AWS::ApiGatewayV2::Route",
            "Properties": {**route, "Target": {"Fn::Sub": "integrations/${Proxy}"}},
        },
        "Stage": {
            "Type": "AWS::ApiGatewayV2::Stage",
            "Properties": {"ApiId": {"Ref": "Api"}, "StageName": "$default", "AutoDeploy": True},
        },
    }
    if allowed:
        cloud.client("lambda").add_permission(
            FunctionName=name,
            StatementId="api",
            Action="lambda:InvokeFunction",
            Principal="apigateway.amazonaws.com",
        )
    return cloud.outputs(cloud.stack(resources, {"Id": {"Value": {"Ref": "Api"}}}))["Id"]


def _ask(cloud: Any, api: str, keys: tuple[str, ...] = ()) -> tuple[int, str]:
    """One call of an API, signed with these keys."""
    url = f"https://{api}.execute-api.{cloud.region}.amazonaws.com/ask"
    request = AWSRequest("POST", url, data=b"x", headers={"Content-Type": "text/plain"})
    if keys:
        SigV4Auth(Credentials(*keys), "execute-api", cloud.region).add_auth(request)
    headers = {**dict(request.headers.items()), "Host": f"{api}.execute-api.{cloud.region}.amazonaws.com"}
    try:
        sent = urllib.request.Request(f"{cloud.endpoint}/ask", b"x", headers)
        with urllib.request.urlopen(sent, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_hook_api_calls(cloud: Any) -> None:
    api = _api(cloud)
    assert _ask(cloud, api)[0] == 403
    assert _ask(cloud, api, ("test", "test")) == (200, "2")
    assert _ask(cloud, "0" * 8, ("test", "test"))[0] == 403
    assert _ask(cloud, _api(cloud, allowed=False), ("test", "test"))[0] == 500


def test_hook_api_signatures(cloud: Any) -> None:
    api, arn = _api(cloud), cloud.role("ec2")
    trust = {"Effect": "Allow", "Principal": {"AWS": cloud.account}, "Action": "sts:AssumeRole"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    cloud.client("iam").update_assume_role_policy(RoleName=arn.rpartition("/")[2], PolicyDocument=document)
    keys = cloud.client("sts").assume_role(RoleArn=arn, RoleSessionName="caller")["Credentials"]
    key, secret, token = keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"]
    assert _ask(cloud, api, (key, secret, token)) == (200, "2")
    assert _ask(cloud, api, (key, "guessed", token))[0] == 403
    cloud.client("iam").delete_role_policy(RoleName=arn.rpartition("/")[2], PolicyName="all")
    assert _ask(cloud, api, (key, secret, token))[0] == 403
