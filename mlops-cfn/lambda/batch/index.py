"""Scores what is uploaded to a batch project, once (called by a schedule, by uploads, and by ends of jobs).

Each call looks at what there is and does the next thing: publish the results of a job that has ended, else
start a job on the inputs that are new. One call of a stage works at a time (a lock in the project's table);
a call that comes meanwhile asks that one to look again. What a killed call leaves is found by the next one,
because everything it was going to do is written down before:

    batch#<stage>              the lock, and the run under way: its job, model and columns
    batch#<stage>#<hash>       an input: the version that was dealt with, and how
    batch/runs/<stage>/<run>/  in/ frozen copies, plan.json what they are, out/ what the job wrote

An input's result is one object: readers see all of a version's rows, or all of the one's before.
https://docs.aws.amazon.com/sagemaker/latest/dg/batch-transform.html
"""

import json
import logging
import os
import re
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import boto3
import catalog
import inputs
from botocore.exceptions import ClientError
from inputs import Input

logger = logging.getLogger()
logger.setLevel(logging.INFO)

LEASE_SECONDS = 960  # longer than the function may run: who lost the lock works no more
AT_ONCE = 1000  # inputs of a job
BYTES_AT_ONCE = 64 * 1024**3  # of a job, if it has more inputs than one
TRIES = 3  # jobs that end without an input's result, for no reason that lies in the input
METRICS = "MLOps/Batch"
# the lines that SageMaker writes of an input that its model did not take
LOG_GROUP = "/aws/sagemaker/TransformJobs"
REFUSED = re.compile(r"ClientError: 4\d\d")
ALIVE = ("InProgress", "Stopping")


@dataclass
class World:
    """A stage of the project, and the clients."""

    stage: str
    project: str
    name: str
    bucket: str
    key_arn: str
    table: str
    topic: str
    me: str  # the same in each attempt at one event
    scheduled: bool
    client: Callable[[str], Any]

    @cached_property
    def s3(self) -> Any:
        """S3."""
        return self.client("s3")

    @cached_property
    def dynamodb(self) -> Any:
        """DynamoDB."""
        return self.client("dynamodb")

    @cached_property
    def sagemaker(self) -> Any:
        """SageMaker."""
        return self.client("sagemaker")

    @property
    def database(self) -> str:
        """The project's database, as deploy/kpi.yaml names it."""
        return f"mlops_{self.project}".replace("-", "_")

    def item_id(self, one: Input | None = None) -> dict[str, dict[str, str]]:
        """Key of the stage's item, or of an input's."""
        return {"id": {"S": f"batch#{self.stage}" + (f"#{one.id}" if one else "")}}

    def run_key(self, run: str, *parts: str) -> str:
        """A key in the folder of a run."""
        return "/".join((inputs.RUNS, self.stage, run, *parts))

    def change(self, key: dict[str, Any], text: str, condition: str = "", **values: Any) -> dict[str, Any]:
        """Update an item; its attributes, or nothing where the condition does not hold."""
        more = {"ConditionExpression": condition} if condition else {}
        if values:
            more["ExpressionAttributeValues"] = {f":{name}": given(value) for name, value in values.items()}
        try:
            return self.dynamodb.update_item(
                TableName=self.table, Key=key, UpdateExpression=text, ReturnValues="ALL_NEW", **more
            )["Attributes"]
        except ClientError as error:
            if error.response["Error"]["Code"] == "ConditionalCheckFailedException":
                return {}
            raise


def given(value: Any) -> dict[str, Any]:
    """A value as DynamoDB takes it."""
    if isinstance(value, (set, frozenset)):
        return {"SS": sorted(value)}
    return {"N": str(value)} if isinstance(value, int) else {"S": value}


# ---- One call at a time ------------------------------------------------------------------------------------


def reconcile(world: World) -> str:
    """Bring the stage on; what was done, in a sentence."""
    settings = settings_of(world)
    if settings is None:
        return f"{world.stage}: no model is deployed"
    key, now = world.item_id(), int(time.time())
    if world.scheduled:
        world.change(key, "SET due = :yes", yes="yes")  # also for a call that has the lock already
    item = world.change(
        key,
        "SET locked_by = :me, locked_until = :until ADD calls :one",
        "attribute_not_exists(locked_by) OR locked_by = :me OR locked_until < :now",
        me=world.me, until=now + LEASE_SECONDS, now=now, one=1,
    )  # fmt: skip
    if not item:
        world.change(key, "ADD calls :one", one=1)
        return f"{world.stage}: another call is at work and looks again at its end"
    said: list[str] = []
    try:
        while True:
            while go_on(world, settings, said):
                pass
            tell(world, said)
            said.append(f"table {catalogue(world, settings)}")
            free = "REMOVE locked_by, locked_until"
            if world.change(key, free, "locked_by = :me AND calls = :seen", me=world.me, seen=calls_of(item)):
                return f"{world.stage}: {', '.join(said)}"
            item = world.dynamodb.get_item(TableName=world.table, Key=key, ConsistentRead=True)["Item"]
            if item.get("locked_by", {}).get("S") != world.me:
                raise RuntimeError("this call was away for longer than its lease: another one is at work")
    except BaseException:
        world.change(key, "SET locked_until = :now", "locked_by = :me", me=world.me, now=0)
        raise


def calls_of(item: dict[str, Any]) -> int:
    """How often the stage was to be looked at."""
    return int(item["calls"]["N"])


def settings_of(world: World) -> dict[str, Any] | None:
    """What the stage's stack deploys; None while there is none."""
    try:
        name = f"mlops-{world.project}-{world.stage}"
        stack = world.client("cloudformation").describe_stacks(StackName=name)["Stacks"][0]
    except ClientError as error:
        if "does not exist" in error.response["Error"]["Message"]:
            return None
        raise
    outputs = {one["OutputKey"]: one["OutputValue"] for one in stack.get("Outputs", [])}
    if "Settings" not in outputs or "DELETE" in stack["StackStatus"]:
        return None
    settings = json.loads(outputs["Settings"])
    keys = [name for name in settings["key_columns"].split(",") if name]
    bucket, _, key = settings["features_uri"].removeprefix("s3://").partition("/")
    features = json.loads(world.s3.get_object(Bucket=bucket, Key=key)["Body"].read())["features"]
    return settings | {"keys": len(keys), "columns": [*keys, *features]}


def catalogue(world: World, settings: dict[str, Any]) -> str:
    """Let the table have the columns of the deployed model."""
    wanted = catalog.table_of(world.bucket, world.name, world.stage, settings["columns"])
    return catalog.keep(world.client("glue"), world.database, wanted)


# ---- The next thing to do ----------------------------------------------------------------------------------


def go_on(world: World, settings: dict[str, Any], said: list[str]) -> bool:
    """Do the next thing; whether there may be another one at once."""
    item = world.dynamodb.get_item(TableName=world.table, Key=world.item_id(), ConsistentRead=True)["Item"]
    if "under_way" not in item:
        return begin(world, settings, "due" in item, said)
    run = json.loads(item["under_way"]["S"])
    job = job_of(world, run["job"])
    if job is None:  # killed between writing it down and starting it; the model may be another one by now
        if run["columns"] != catalog.fingerprint(settings["columns"]):
            world.change(world.item_id(), "REMOVE under_way", "locked_by = :me", me=world.me)
            return True
        run = note_run(world, run["id"], settings)
        start(world, settings, run)
        said.append(f"started {run['job']}")
        return False
    if job["TransformJobStatus"] in ALIVE:
        said.append(f"{run['job']} is at work")
        return False
    publish(world, run, job, said)
    world.change(world.item_id(), "REMOVE under_way", "locked_by = :me", me=world.me)
    return True


def begin(world: World, settings: dict[str, Any], due: bool, said: list[str]) -> bool:
    """Freeze what is new, write down a run, and start its job."""
    found = new_inputs(world, uploads=due or settings["on_upload"] == "true")
    if not found:
        if due:
            world.change(world.item_id(), "REMOVE due", "locked_by = :me", me=world.me)
        return False
    run = f"{datetime.now(UTC):%y%m%d%H%M%S}-{secrets.token_hex(2)}"

    def prepare(one: Input) -> Input | None:
        verdict = inputs.look(world.s3, world.bucket, one, settings["columns"])
        if verdict.refused:
            quarantine(world, one, verdict.refused, "")
            return None
        if verdict.empty:
            put_empty(world, settings, one)
            return None
        target = world.run_key(run, "in", f"{one.id}.csv")
        inputs.freeze(world.s3, world.bucket, one, verdict.begin, target, world.key_arn)
        return one

    prepared = inputs.each(prepare, found)
    frozen = [one for one in prepared if one]
    refused = len(found) - len(frozen)
    if refused:
        said.append(f"{refused} inputs without a job")
    if not frozen:
        return True
    plan = {"inputs": [*map(inputs.as_json, frozen)]}
    world.s3.put_object(
        Bucket=world.bucket, Key=world.run_key(run, "plan.json"), Body=json.dumps(plan).encode()
    )
    noted = note_run(world, run, settings)
    start(world, settings, noted)
    said.append(f"started {noted['job']} with {len(frozen)} inputs")
    return False


def note_run(world: World, run: str, settings: dict[str, Any]) -> dict[str, str]:
    """Write a run down: from here on, whoever calls brings it to its end."""
    noted = {
        "id": run,
        "job": f"mlops-{world.project}-batch-{world.stage}-{run}",  # 6 + 20 + 7 + 10 + 1 + 17 = 61 of 63
        "model": settings["model_package_arn"],
        "columns": catalog.fingerprint(settings["columns"]),
    }
    text = json.dumps(noted)
    if not world.change(world.item_id(), "SET under_way = :run", "locked_by = :me", run=text, me=world.me):
        raise RuntimeError("this call was away for longer than its lease: another one is at work")
    return noted


def new_inputs(world: World, uploads: bool) -> list[Input]:
    """The inputs of the next job: versions that nobody has dealt with; without uploads, those of tests."""
    found: list[Input] = []
    size = 0
    waiting: list[dict[str, Any]] = []

    def take() -> bool:
        nonlocal size
        known = items_of(world, waiting)
        for listed in waiting:
            item = known.get(item_name(world, listed["Key"]), {})
            if item.get("version", {}).get("S") == listed["VersionId"]:
                continue
            day = item.get("day", {}).get("S") or f"{listed['LastModified'].astimezone(UTC):%Y-%m-%d}"
            one = Input(listed["Key"], listed["VersionId"], listed["Size"], day)
            if found and (len(found) >= AT_ONCE or size + one.size > BYTES_AT_ONCE):
                return False
            found.append(one)
            size += one.size
        waiting.clear()
        return True

    for listed in inputs.listing(world.s3, world.bucket, world.stage):
        if uploads or Input(listed["Key"], "", 0, "").is_test:
            waiting.append(listed)
        if len(waiting) == 100 and not take():
            return found
    take()
    return found


def item_name(world: World, key: str) -> str:
    """Id of an input's item."""
    return world.item_id(Input(key, "", 0, ""))["id"]["S"]


def items_of(world: World, listed: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Items of at most a hundred inputs, by id."""
    wanted = [{"id": {"S": item_name(world, one["Key"])}} for one in listed]
    found: dict[str, dict[str, Any]] = {}
    while wanted:
        asked = {world.table: {"Keys": wanted, "ConsistentRead": True}}
        answer = world.dynamodb.batch_get_item(RequestItems=asked)
        found |= {item["id"]["S"]: item for item in answer["Responses"].get(world.table, [])}
        wanted = answer.get("UnprocessedKeys", {}).get(world.table, {}).get("Keys", [])
    return found


# ---- The job -----------------------------------------------------------------------------------------------


def job_of(world: World, name: str) -> dict[str, Any] | None:
    """A transform job; None when there is none."""
    try:
        return world.sagemaker.describe_transform_job(TransformJobName=name)
    except ClientError as error:
        if error.response["Error"]["Code"] in ("ResourceNotFound", "ValidationException"):
            return None
        raise


def start(world: World, settings: dict[str, Any], run: dict[str, str]) -> None:
    """Start the job of a run: each row goes to the model without its key columns, and comes back whole."""
    folder = f"s3://{world.bucket}/{world.run_key(run['id'])}"
    try:
        world.sagemaker.create_transform_job(
            TransformJobName=run["job"],
            ModelName=settings["model_name"],
            MaxConcurrentTransforms=settings["max_concurrent_transforms"],
            MaxPayloadInMB=settings["max_payload_mb"],
            BatchStrategy=settings["strategy"],
            ModelClientConfig={
                "InvocationsTimeoutInSeconds": settings["timeout_seconds"],
                "InvocationsMaxRetries": 1,
            },
            TransformInput={
                "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"{folder}/in/"}},
                "ContentType": "text/csv",
                "SplitType": "Line",
            },
            TransformOutput={
                "S3OutputPath": f"{folder}/out",
                "Accept": "text/csv",
                "AssembleWith": "Line",
                "KmsKeyId": world.key_arn,
            },
            TransformResources={
                "InstanceType": settings["instance_type"],
                "InstanceCount": settings["instance_count"],
                "VolumeKmsKeyId": world.key_arn,
            },
            DataProcessing={
                "InputFilter": f"$[{settings['keys']}:]" if settings["keys"] else "$",
                "JoinSource": "Input",
            },
            Tags=[{"Key": key, "Value": value} for key, value in settings["tags"].items()],
        )
    except ClientError as error:
        if error.response["Error"]["Code"] != "ResourceInUse":  # an attempt before made it
            raise


# ---- Results -----------------------------------------------------------------------------------------------


def publish(world: World, run: dict[str, str], job: dict[str, Any], said: list[str]) -> None:
    """Show readers what the job of a run made, input by input; set aside what the model refused."""
    body = world.s3.get_object(Bucket=world.bucket, Key=world.run_key(run["id"], "plan.json"))["Body"]
    plan = json.loads(body.read())
    planned = [Input(**one) for one in plan["inputs"]]
    folder = world.run_key(run["id"], "out/")
    sizes: dict[str, int] = {}
    for page in world.s3.get_paginator("list_objects_v2").paginate(Bucket=world.bucket, Prefix=folder):
        sizes |= {item["Key"].removeprefix(folder): item["Size"] for item in page.get("Contents", [])}
    lacking = [one for one in planned if f"{one.id}.csv.out" not in sizes]
    reasons = refusals(world, run["job"]) if lacking else {}

    def show(one: Input) -> str:
        name = f"{one.id}.csv.out"
        if name in sizes:
            target = one.published(world.stage, run["columns"])
            if metadata_of(world, target).get("run") != run["id"]:  # else an attempt before did this
                about = {"run": run["id"], "input-version": one.version, "model": run["model"]}
                source = {"Bucket": world.bucket, "Key": folder + name}
                inputs.copy(
                    world.s3, world.bucket, source, sizes[name], target, world.key_arn, metadata=about
                )
            note(world, one, "scored", run["id"], run["model"])
            return "scored"
        if reason := reasons.get(f"{one.id}.csv"):
            quarantine(world, one, reason, run["job"])
            return "quarantined"
        return try_again(world, one, run, job)

    done = inputs.each(show, planned)
    if "tried" in done or (lacking and not reasons):
        count(world, "JobsFailed", 1)
    counts = {word: done.count(word) for word in ("scored", "quarantined", "tried") if word in done}
    said.append(f"{run['job']} {job['TransformJobStatus']}: {counts}")
    count(world, "InputsScored", counts.get("scored", 0))


def metadata_of(world: World, key: str) -> dict[str, str]:
    """What an object says of itself; nothing when there is none."""
    try:
        return world.s3.head_object(Bucket=world.bucket, Key=key)["Metadata"]
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
            return {}
        raise


def put_empty(world: World, settings: dict[str, Any], one: Input) -> None:
    """An input without rows has no rows: readers lose those of the version before."""
    target = one.published(world.stage, catalog.fingerprint(settings["columns"]))
    world.s3.put_object(
        Bucket=world.bucket, Key=target, Body=b"", ServerSideEncryption="aws:kms", SSEKMSKeyId=world.key_arn,
        Metadata={"input-version": one.version},
    )  # fmt: skip
    note(world, one, "empty", "", "")


def note(world: World, one: Input, state: str, run: str, model: str) -> None:
    """Remember that a version is dealt with, so that nobody does it again."""
    told = {
        "input": one.key, "version": one.version, "day": one.day, "state": state,
        "run": run, "model": model, "at": now(),
    }  # fmt: skip
    before = world.dynamodb.update_item(
        TableName=world.table,
        Key=world.item_id(one),
        UpdateExpression="SET " + ", ".join(f"#{name} = :{name}" for name in told) + " REMOVE tries",
        ExpressionAttributeNames={f"#{name}": name for name in told},
        ExpressionAttributeValues={f":{name}": given(value) for name, value in told.items()},
        ReturnValues="ALL_OLD",
    ).get("Attributes", {})
    if state != "quarantined" and before.get("state", {}).get("S") == "quarantined":
        world.s3.delete_object(Bucket=world.bucket, Key=one.quarantined(world.stage))


def try_again(world: World, one: Input, run: dict[str, str], job: dict[str, Any]) -> str:
    """A job left no result, and not because of the input: it has some jobs more."""
    attempt = f"{one.version} {run['id']}"  # a set: publishing the same run again counts it once
    item = world.change(world.item_id(one), "ADD tries :tries", tries={attempt})
    tries = [name for name in item["tries"]["SS"] if name.startswith(f"{one.version} ")]
    if len(tries) < TRIES:
        return "tried"
    reason = job.get("FailureReason") or f"the job ended as {job['TransformJobStatus']}"
    quarantine(world, one, f"{len(tries)} jobs gave no result: {reason}", run["job"])
    return "quarantined"


# ---- What could not be scored ------------------------------------------------------------------------------


def quarantine(world: World, one: Input, reason: str, job: str) -> None:
    """Set an input aside with the reason. It stays where it is; a new version of it is tried anew."""
    record = {
        "input": f"s3://{world.bucket}/{one.key}", "version": one.version, "reason": reason, "job": job,
        "stage": world.stage, "at": now(),
    }  # fmt: skip
    body = json.dumps(record, indent=2).encode() + b"\n"
    world.s3.put_object(Bucket=world.bucket, Key=one.quarantined(world.stage), Body=body)
    if not one.is_test:  # until the owner is told
        world.change(world.item_id(), "ADD untold :one", one={f"{one.key[:120]}: {reason[:160]}"})
    note(world, one, "quarantined", "", "")


def refusals(world: World, job: str) -> dict[str, str]:
    """Why the model refused inputs, by their names, as SageMaker's log of the job tells it."""
    logs, said = world.client("logs"), {}
    try:
        streams = logs.describe_log_streams(logGroupName=LOG_GROUP, logStreamNamePrefix=f"{job}/")
        for stream in streams["logStreams"]:
            if not stream["logStreamName"].endswith("/data-log"):
                continue
            pages = events_of(logs, stream["logStreamName"])
            for line in pages:
                if match := re.search(r"/in/([0-9a-f]{32}\.csv): ?(.*)", line, re.DOTALL):
                    said.setdefault(match[1], []).append(match[2].strip())
    except logs.exceptions.ResourceNotFoundException:
        return {}
    return {name: reason_in(lines) for name, lines in said.items() if any(map(REFUSED.match, lines))}


def events_of(logs: Any, stream: str) -> Any:
    """The lines of a log stream; the last page names itself as the next one."""
    token: dict[str, str] = {}
    while True:
        page = logs.get_log_events(logGroupName=LOG_GROUP, logStreamName=stream, startFromHead=True, **token)
        yield from (event["message"] for event in page["events"])
        following = {"nextToken": page["nextForwardToken"]}
        if following == token:
            return
        token = following


def reason_in(lines: list[str]) -> str:
    """The model's own sentence, without what SageMaker writes around it."""
    text = " ".join(line for line in lines if line and line != "Message:" and not REFUSED.match(line))
    with suppress(ValueError, KeyError, TypeError):
        text = str(json.loads(text)["error"])
    return f"the model refused a row: {text[:1000]}" if text else "the model refused a row"


def tell(world: World, said: list[str]) -> None:
    """Tell the owner of what was set aside: once, and again where it is not sure that it was told."""
    item = world.dynamodb.get_item(TableName=world.table, Key=world.item_id(), ConsistentRead=True)["Item"]
    untold = item.get("untold", {}).get("SS", [])
    if not untold:
        return
    some = "\n".join(f"  {line}" for line in untold[:20])
    rest = f"\n  ... and {len(untold) - 20} more" if len(untold) > 20 else ""
    place = f"s3://{world.bucket}/{inputs.QUARANTINE}/{world.stage}/"
    world.client("sns").publish(
        TopicArn=world.topic,
        Subject=f"Project {world.name}: {len(untold)} inputs not scored in {world.stage}",
        Message=f"These inputs of project {world.name} ({world.stage}) could not be scored:\n{some}{rest}\n\n"
        f"The others were. Each has its reason in {place}\n"
        "They are where they were uploaded. Upload a corrected file under the same name.\n",
    )
    count(world, "InputsQuarantined", len(untold))
    said.append(f"told of {len(untold)} inputs")
    world.change(world.item_id(), "DELETE untold :told", told=set(untold))


def count(world: World, metric: str, value: int) -> None:
    """Count something for the alarms."""
    if value:
        dimensions = [{"Name": "ProjectId", "Value": world.project}, {"Name": "Stage", "Value": world.stage}]
        datum = {"MetricName": metric, "Dimensions": dimensions, "Value": value, "Unit": "Count"}
        world.client("cloudwatch").put_metric_data(Namespace=METRICS, MetricData=[datum])


def now() -> str:
    """The time, for people."""
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


def handler(
    event: dict[str, Any], context: Any, client: Callable[[str], Any] = boto3.client
) -> dict[str, str]:
    """Entry point."""
    project = os.environ["PROJECT_ID"]
    world = World(
        stage=inputs.stage_of(event, project),
        project=project,
        name=os.environ["PROJECT_NAME"],
        bucket=os.environ["BUCKET_NAME"],
        key_arn=os.environ["KEY_ARN"],
        table=os.environ["STATE_TABLE_NAME"],
        topic=os.environ["TOPIC_ARN"],
        me=context.aws_request_id,
        scheduled="stage" in event,
        client=client,
    )
    done = reconcile(world)
    logger.info("%s", done)
    return {"done": done}
