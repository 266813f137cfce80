"""SageMaker's jobs: the image's own program in a process, with the /opt/ml contract."""

from __future__ import annotations

import io
import json
import random
import tarfile
import uuid
from collections.abc import Callable
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from monitor import cli as monitor

PROGRAM = """
import json, os, shutil, signal, sys, time
ml = "/opt/ml"
mode = sys.argv[-1]
print("program", sys.argv[1:], "in", os.getcwd())
if mode == "train":
    parameters = json.load(open(ml + "/input/config/hyperparameters.json"))
    if "fail" in parameters:
        open(ml + "/output/failure", "w").write("the data is bad")
        sys.exit(1)
    if "sleep" in parameters:
        open(ml + "/model/partial", "w").write("so far")
        time.sleep(float(parameters["sleep"]))
    score = 1 - (float(parameters.get("x", 0.5)) - 0.3) ** 2
    print(f"validation:auc={score:.4f}")
    found = {p: sorted(os.listdir(os.path.join(ml, p))) for p in ("input/data/train", "input/config")}
    json.dump({"found": found, "parameters": parameters}, open(ml + "/model/model.json", "w"))
    open(ml + "/output/data/plot.txt", "w").write("plot")
    if os.path.isdir(ml + "/checkpoints"):
        open(ml + "/checkpoints/last", "w").write("1")
else:
    os.makedirs(ml + "/output", exist_ok=True)
    if mode == "fail":
        open(ml + "/output/message", "w").write("no rows")
        sys.exit(2)
    if mode == "note":
        open(ml + "/output/message", "w").write("all well")
    out = ml + "/processing/output"
    shutil.copytree(ml + "/processing/input", out + "/copy")
    json.dump(dict(os.environ), open(out + "/environment.json", "w"))
    json.dump({
        "hosts": open("/etc/hosts").read(), "home": os.listdir(os.environ["HOME"]), "root": os.listdir("/"),
        "resource": json.load(open(ml + "/config/resourceconfig.json")),
        "config": json.load(open(ml + "/config/processingjobconfig.json")),
    }, open(out + "/seen.json", "w"))
"""


@pytest.fixture(scope="module")
def world(cloud: Any) -> dict[str, Any]:
    """A role, a bucket with data, an image whose program does what its last argument says."""
    bucket, s3 = cloud.bucket(), cloud.client("s3")
    for key in ("in/a.csv", "in/deep/b.csv", "in2/c.csv", "in/folder/"):
        s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
    manifest = [{"prefix": f"s3://{bucket}/in/"}, "deep/b.csv"]
    s3.put_object(Bucket=bucket, Key="manifest.json", Body=json.dumps(manifest).encode())
    image = cloud.image({"app/run.py": PROGRAM}, ["python3", "/app/run.py"], FROM_IMAGE="yes")
    return {"role": cloud.role("sagemaker"), "bucket": bucket, "image": image}


def ended(cloud: Any, kind: str, name: str) -> dict[str, Any]:
    """The job's description when it has ended."""
    call = getattr(cloud.client("sagemaker"), f"describe_{kind}_job")
    noun = "".join(word.title() for word in kind.split("_")) + "Job"
    return cloud.wait(
        lambda: (d := call(**{f"{noun}Name": name}))[f"{noun}Status"] not in ("InProgress", "Stopping") and d,
        60,
        name,
    )


@pytest.fixture
def process(cloud: Any, world: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    """Run a processing job; its description at the end."""

    def run(mode: str = "go", uri: str = "in", kind: str = "S3Prefix", **changes: Any) -> dict[str, Any]:
        name = cloud.name("processing")
        root, place = "/opt/ml/processing", f"s3://{world['bucket']}"
        source = {
            "S3Uri": f"{place}/{uri}",
            "S3DataType": kind,
            "S3InputMode": "File",
            "LocalPath": f"{root}/input",
        }
        target = {"S3Uri": f"{place}/out/{name}", "S3UploadMode": "EndOfJob", "LocalPath": f"{root}/output"}
        request = {
            "ProcessingJobName": name,
            "RoleArn": world["role"],
            "AppSpecification": {"ImageUri": world["image"], "ContainerArguments": [mode]},
            "ProcessingResources": {
                "ClusterConfig": {"InstanceCount": 1, "InstanceType": "ml.t3.medium", "VolumeSizeInGB": 5}
            },
            "ProcessingInputs": [{"InputName": "data", "S3Input": source}],
            "ProcessingOutputConfig": {"Outputs": [{"OutputName": "out", "S3Output": target}]},
            "Environment": {"GIVEN": "1"},
        }
        cloud.client("sagemaker").create_processing_job(**{**request, **changes})
        return ended(cloud, "processing", name)

    return run


@pytest.fixture
def training(cloud: Any, world: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    """The request of a training job."""

    def request(**changes: Any) -> dict[str, Any]:
        source = {"S3DataType": "S3Prefix", "S3Uri": f"s3://{world['bucket']}/in"}
        metrics = [{"Name": "auc", "Regex": "validation:auc=([0-9.]+)"}]
        return {
            "TrainingJobName": cloud.name("training"),
            "RoleArn": world["role"],
            "AlgorithmSpecification": {
                "TrainingImage": world["image"], "TrainingInputMode": "File", "MetricDefinitions": metrics,
            },
            "ResourceConfig": {"InstanceCount": 1, "InstanceType": "ml.m5.large", "VolumeSizeInGB": 5},
            "StoppingCondition": {"MaxRuntimeInSeconds": 60},
            "OutputDataConfig": {"S3OutputPath": f"s3://{world['bucket']}/models"},
            "InputDataConfig": [{"ChannelName": "train", "DataSource": {"S3DataSource": source}}],
            **changes,
        }  # fmt: skip

    return request


@pytest.fixture
def train(cloud: Any, training: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Run a training job; its description at the end."""

    def run(**changes: Any) -> dict[str, Any]:
        request = training(**changes)
        cloud.client("sagemaker").create_training_job(**request)
        return ended(cloud, "training", request["TrainingJobName"])

    return run


def body(cloud: Any, uri: str) -> bytes:
    """The content of an object."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return cloud.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()


def keys(cloud: Any, bucket: str, prefix: str) -> list[str]:
    """What lies below a prefix."""
    found = cloud.client("s3").list_objects_v2(Bucket=bucket, Prefix=prefix)
    return [o["Key"].removeprefix(prefix) for o in found.get("Contents", [])]


# -- processing ---
def test_processing_contract(cloud: Any, world: dict[str, Any], process: Callable[..., Any]) -> None:
    done = process("note", Tags=[{"Key": "mlops:cost-center", "Value": "42"}])
    assert done["ProcessingJobStatus"] == "Completed"
    assert done["ExitMessage"] == "all well"
    out = f"out/{done['ProcessingJobName']}/"
    copied = ["copy/a.csv", "copy/deep/b.csv", "copy/in2/c.csv"]  # the prefix "in" has in2/ too
    assert keys(cloud, world["bucket"], out) == [*copied, "environment.json", "seen.json"]
    env = json.loads(body(cloud, f"s3://{world['bucket']}/{out}environment.json"))
    assert env["GIVEN"] == "1"
    assert env["FROM_IMAGE"] == "yes"
    assert env["PROCESSING_JOB_ARN"] == done["ProcessingJobArn"]
    assert env["AWS_ENDPOINT_URL"] == cloud.endpoint
    assert env["AWS_SESSION_TOKEN"]
    leaked = [k for k in env if k.startswith(("MINISTACK", "MOTO", "PYTHONPATH", "GATEWAY", "VIRTUAL"))]
    assert leaked == []
    seen = json.loads(body(cloud, f"s3://{world['bucket']}/{out}seen.json"))
    assert "algo-1" in seen["hosts"]
    assert ".aws" not in seen["home"]
    assert "app" in seen["root"]
    assert seen["resource"]["hosts"] == ["algo-1"]
    assert seen["config"]["ProcessingJobName"] == done["ProcessingJobName"]


def test_processing_with_a_manifest_reads_only_what_it_names(
    cloud: Any, world: dict[str, Any], process: Callable[..., Any]
) -> None:
    done = process(uri="manifest.json", kind="ManifestFile")
    out = f"out/{done['ProcessingJobName']}/copy/"
    assert keys(cloud, world["bucket"], out) == ["deep/b.csv"]


def test_failed_processing_says_why(cloud: Any, world: dict[str, Any], process: Callable[..., Any]) -> None:
    done = process("fail")
    assert done["ProcessingJobStatus"] == "Failed"
    assert done["FailureReason"] == "AlgorithmError: no rows, exit code: 2"
    assert done["ExitMessage"] == "no rows"
    assert keys(cloud, world["bucket"], f"out/{done['ProcessingJobName']}") == []


def test_input_without_objects_fails_as_on_aws(process: Callable[..., Any]) -> None:
    done = process(uri="nothing/here")
    assert done["ProcessingJobStatus"] == "Failed"
    assert done["FailureReason"].startswith("ClientError: No S3 objects found under S3 URL")


def test_log_reaches_cloudwatch(cloud: Any, process: Callable[..., Any]) -> None:
    name = process()["ProcessingJobName"]
    logs, group = cloud.client("logs"), "/aws/sagemaker/ProcessingJobs"
    streams = logs.describe_log_streams(logGroupName=group, logStreamNamePrefix=f"{name}/algo-1-")[
        "logStreams"
    ]
    events = logs.get_log_events(logGroupName=group, logStreamName=streams[0]["logStreamName"])["events"]
    assert events[0]["message"] == "program ['go'] in /"


# -- training ---
def test_training_contract(cloud: Any, world: dict[str, Any], train: Callable[..., Any]) -> None:
    checkpoints = f"s3://{world['bucket']}/checkpoints/{cloud.name()}"
    done = train(HyperParameters={"x": "0.4"}, CheckpointConfig={"S3Uri": checkpoints})
    assert done["TrainingJobStatus"] == done["SecondaryStatus"] == "Completed"
    states = [t["Status"] for t in done["SecondaryStatusTransitions"]]
    assert states == ["Starting", "Downloading", "Training", "Uploading", "Completed"]
    assert [m["MetricName"] for m in done["FinalMetricDataList"]] == ["auc"]
    assert done["FinalMetricDataList"][0]["Value"] == pytest.approx(0.99)
    artifact = f"s3://{world['bucket']}/models/{done['TrainingJobName']}/output/model.tar.gz"
    assert done["ModelArtifacts"]["S3ModelArtifacts"] == artifact
    with tarfile.open(fileobj=io.BytesIO(body(cloud, artifact))) as archive:
        model = json.load(archive.extractfile("model.json"))  # type: ignore[arg-type]
    assert model["parameters"] == {"x": "0.4"}
    assert model["found"]["input/data/train"] == ["a.csv", "deep", "in2"]
    assert {"hyperparameters.json", "inputdataconfig.json", "resourceconfig.json"} <= set(
        model["found"]["input/config"]
    )
    with tarfile.open(
        fileobj=io.BytesIO(body(cloud, artifact.replace("model.tar", "output.tar")))
    ) as archive:
        assert archive.getnames() == ["plot.txt"]
    assert body(cloud, f"{checkpoints}/last") == b"1"


def test_failed_training_tells_what_the_program_wrote(train: Callable[..., Any]) -> None:
    done = train(HyperParameters={"fail": "1"})
    assert done["TrainingJobStatus"] == "Failed"
    assert done["FailureReason"] == "AlgorithmError: the data is bad, exit code: 1"
    assert "ModelArtifacts" not in done


def test_stopped_training_keeps_the_model_so_far(cloud: Any, training: Callable[..., Any]) -> None:
    request, client = training(HyperParameters={"sleep": "60"}), cloud.client("sagemaker")
    name = request["TrainingJobName"]
    client.create_training_job(**request)
    cloud.wait(
        lambda: client.describe_training_job(TrainingJobName=name)["SecondaryStatus"] == "Training", 30
    )
    client.stop_training_job(TrainingJobName=name)
    done = ended(cloud, "training", name)
    assert (done["TrainingJobStatus"], done["SecondaryStatus"]) == ("Stopped", "Stopped")
    assert done["ModelArtifacts"]["S3ModelArtifacts"].endswith("model.tar.gz")
    with pytest.raises(ClientError, match="in status Stopped"):
        client.stop_training_job(TrainingJobName=name)


def test_training_that_takes_too_long_is_stopped(train: Callable[..., Any]) -> None:
    done = train(HyperParameters={"sleep": "60"}, StoppingCondition={"MaxRuntimeInSeconds": 1})
    assert (done["TrainingJobStatus"], done["SecondaryStatus"]) == ("Stopped", "MaxRuntimeExceeded")


def test_state_changes_are_events(cloud: Any, train: Callable[..., Any]) -> None:
    heard = cloud.listen(source=["aws.sagemaker"], **{"detail-type": ["SageMaker Training Job State Change"]})
    name = train()["TrainingJobName"]

    def completed() -> list[dict[str, Any]]:
        mine = [e["detail"] for e in heard() if e["detail"]["TrainingJobName"] == name]
        return [d for d in mine if d["TrainingJobStatus"] == "Completed"]

    detail = cloud.wait(completed, 10)[0]
    assert detail["SecondaryStatus"] == "Completed"
    assert isinstance(detail["CreationTime"], int)
    assert detail["CreationTime"] > 10**12


REFUSED = {
    "a role that SageMaker may not assume": (
        "RoleArn",
        lambda c, w: c.role("lambda"),
        "Could not assume role",
    ),
    "an image that is not there": (
        "AlgorithmSpecification",
        lambda c, w: {"TrainingImage": w["image"].replace(":v1", ":v9"), "TrainingInputMode": "File"},
        "not found",
    ),
    "an unknown subnet": (
        "VpcConfig",
        lambda c, w: {"Subnets": ["subnet-1"], "SecurityGroupIds": ["sg-1"]},
        "subnet-1",
    ),
    "spot without a waiting time": ("EnableManagedSpotTraining", lambda c, w: True, "MaxWaitTimeInSeconds"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_at_creation(cloud: Any, world: Any, training: Callable[..., Any], case: str) -> None:
    member, value, message = REFUSED[case]
    with pytest.raises(ClientError, match=message):
        cloud.client("sagemaker").create_training_job(**training(**{member: value(cloud, world)}))


def test_a_name_is_used_once(cloud: Any, train: Callable[..., Any]) -> None:
    name = train()["TrainingJobName"]
    with pytest.raises(ClientError, match="ResourceInUse"):
        train(TrainingJobName=name)


# -- tuning, transform ---
def test_tuning_searches_with_real_training_jobs(cloud: Any, training: Callable[..., Any]) -> None:
    client, name = cloud.client("sagemaker"), cloud.name("tune")
    definition = {k: v for k, v in training().items() if k != "TrainingJobName"}
    ranges = [{"Name": "x", "MinValue": "0", "MaxValue": "1"}]
    config = {
        "Strategy": "Bayesian",
        "HyperParameterTuningJobObjective": {"Type": "Maximize", "MetricName": "auc"},
        "ResourceLimits": {"MaxNumberOfTrainingJobs": 4, "MaxParallelTrainingJobs": 2},
        "ParameterRanges": {"ContinuousParameterRanges": ranges},
    }
    request = {
        "HyperParameterTuningJobName": name,
        "HyperParameterTuningJobConfig": config,
        "TrainingJobDefinition": {**definition, "StaticHyperParameters": {"seed": "1"}},
    }
    client.create_hyper_parameter_tuning_job(**request)
    done = ended(cloud, "hyper_parameter_tuning", name)
    assert done["HyperParameterTuningJobStatus"] == "Completed"
    assert done["TrainingJobStatusCounters"]["Completed"] == 4
    jobs = client.list_training_jobs_for_hyper_parameter_tuning_job(
        HyperParameterTuningJobName=name, SortBy="FinalObjectiveMetricValue", SortOrder="Descending"
    )["TrainingJobSummaries"]
    values = [j["FinalHyperParameterTuningJobObjectiveMetric"]["Value"] for j in jobs]
    assert values == sorted(values, reverse=True)
    assert done["BestTrainingJob"]["TrainingJobName"] == jobs[0]["TrainingJobName"]
    first = client.describe_training_job(TrainingJobName=jobs[0]["TrainingJobName"])
    assert first["HyperParameters"]["seed"] == "1"
    assert first["TuningJobArn"] == done["HyperParameterTuningJobArn"]
    with pytest.raises(ClientError, match="objective metric"):
        config["HyperParameterTuningJobObjective"]["MetricName"] = "unknown"  # type: ignore[index]
        client.create_hyper_parameter_tuning_job(
            **{**request, "HyperParameterTuningJobName": cloud.name("tune")}
        )


SERVER = """
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def do_POST(self):
        rows = self.rfile.read(int(self.headers["Content-Length"])).decode().split()
        self.send_response(400 if "bad" in rows else 200); self.end_headers()
        sums = [sum(map(float, row.split(","))) for row in rows if row != "bad"]
        form = '{{"sum": {}}}\\n' if "json" in (self.headers["Accept"] or "") else "{}\\n"
        self.wfile.write("".join(form.format(s) for s in sums).encode())
ThreadingHTTPServer(("127.0.0.1", int(os.environ["SAGEMAKER_BIND_TO_PORT"])), Handler).serve_forever()
"""


def test_transform_asks_the_model_server(cloud: Any, world: dict[str, Any]) -> None:
    client, s3, name = cloud.client("sagemaker"), cloud.client("s3"), cloud.name("transform")
    image = cloud.image({"app/serve.py": SERVER}, ["python3", "/app/serve.py"])
    place = f"s3://{world['bucket']}/{name}"
    client.create_model(ModelName=name, ExecutionRoleArn=world["role"], PrimaryContainer={"Image": image})
    s3.put_object(Bucket=world["bucket"], Key=f"{name}/in/rows.csv", Body=b"7,1,2\n8,3,4\n")
    source = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"{place}/in/"}}
    request = {
        "ModelName": name,
        "TransformInput": {"DataSource": source, "ContentType": "text/csv", "SplitType": "Line"},
        "TransformOutput": {
            "S3OutputPath": f"{place}/out", "Accept": "text/csv", "AssembleWith": "Line",
        },
        "TransformResources": {"InstanceCount": 1, "InstanceType": "ml.m5.large"},
        "DataProcessing": {"InputFilter": "$[1:]", "JoinSource": "Input", "OutputFilter": "$[0,-1]"},
    }  # fmt: skip
    client.create_transform_job(TransformJobName=name, **request)
    assert ended(cloud, "transform", name)["TransformJobStatus"] == "Completed"
    assert body(cloud, f"{place}/out/rows.csv.out") == b"7,3.0\n8,7.0\n"
    s3.put_object(Bucket=world["bucket"], Key=f"{name}/in/rows.csv", Body=b"bad\n")
    request["DataProcessing"] = {}
    client.create_transform_job(TransformJobName=f"{name}-2", **request)
    done = ended(cloud, "transform", f"{name}-2")
    assert done["TransformJobStatus"] == "Failed"
    assert "400" in done["FailureReason"]


@pytest.fixture(scope="module")
def capturing(cloud: Any, world: dict[str, Any]) -> dict[str, Any]:
    """The request of a transform job that captures its data."""
    name = cloud.name("capture")
    image = cloud.image({"app/serve.py": SERVER}, ["python3", "/app/serve.py"])
    place = f"s3://{world['bucket']}/{name}"
    cloud.client("sagemaker").create_model(
        ModelName=name, ExecutionRoleArn=world["role"], PrimaryContainer={"Image": image}
    )
    return {
        "ModelName": name,
        "TransformInput": {
            "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"{place}/in"}},
            "ContentType": "text/csv",
            "SplitType": "Line",
        },
        "TransformOutput": {"S3OutputPath": f"{place}/out", "Accept": "text/csv", "AssembleWith": "Line"},
        "TransformResources": {"InstanceCount": 1, "InstanceType": "ml.m5.large"},
        "DataCaptureConfig": {"DestinationS3Uri": f"{place}/captured", "GenerateInferenceId": True},
    }


def test_a_captured_transform_job_is_monitored(
    cloud: Any,
    world: dict[str, Any],
    capturing: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client, s3, name = cloud.client("sagemaker"), cloud.client("s3"), capturing["ModelName"]
    rng = random.Random(7)
    rows = [f"{rng.randrange(1, 7)},{rng.gauss(10, 2):.3f}" for _ in range(600)]
    (tmp_path / "train.csv").write_text("size,weight\n" + "".join(f"{row}\n" for row in rows[:300]))
    for key, some in {"a.csv": rows[300:400], "deep/b.csv": rows[400:]}.items():
        text = "".join(f"{row}\n" for row in some)
        s3.put_object(Bucket=world["bucket"], Key=f"{name}/in/{key}", Body=text.encode())
    client.create_transform_job(TransformJobName=name, **capturing)
    done = ended(cloud, "transform", name)
    assert done["TransformJobStatus"] == "Completed"
    start = done["TransformStartTime"].astimezone(UTC)
    first = body(cloud, f"s3://{world['bucket']}/{name}/out/a.csv.out").decode().splitlines()[0].split(",")
    assert float(first[0]) == pytest.approx(sum(map(float, rows[300].split(","))))
    assert uuid.UUID(first[1])
    assert first[2] == f"{start:%Y-%m-%dT%H:%M:%SZ}"
    manifests = {}
    for item in s3.list_objects_v2(Bucket=world["bucket"], Prefix=f"{name}/captured/")["Contents"]:
        place, _, _ = item["Key"].removeprefix(f"{name}/captured/").rpartition("/")
        manifests[place] = json.loads(body(cloud, f"s3://{world['bucket']}/{item['Key']}"))
    below = f"s3://{world['bucket']}/{name}"
    assert manifests == {
        f"input/{start:%Y/%m/%d/%H}": [{"prefix": f"{below}/in/"}, "a.csv", "deep/b.csv"],
        f"output/{start:%Y/%m/%d/%H}": [{"prefix": f"{below}/out/"}, "a.csv.out", "deep/b.csv.out"],
    }
    for key, value in cloud.environment.items():
        monkeypatch.setenv(key, value)
    assert monitor.main(["baseline", "--dataset", f"{tmp_path}/train.csv", "--output", f"{tmp_path}/b"]) == 0
    environment = cloud.environment | {
        "MONITOR_KIND": "data_quality",
        "ENDPOINT_NAME": name,
        "BATCH_CAPTURE_URI": f"{below}/captured",
        "SCHEDULED_TIME": f"{start + timedelta(hours=1):%Y-%m-%dT%H:00:00Z}",
    }
    argv = ["run", "--baseline", f"{tmp_path}/b/data_quality", "--output", f"{tmp_path}/out"]
    assert monitor.main(argv, environment) == 0
    (path,) = tmp_path.rglob("summary.json")
    summary = json.loads(path.read_text())
    assert (summary["endpoint"], summary["records"], summary["status"]) == (name, 300, "clean")
    assert summary["unreadable_reasons"] == {}


def test_inference_ids_in_json(cloud: Any, world: dict[str, Any], capturing: dict[str, Any]) -> None:
    name = cloud.name("ids")
    place = f"s3://{world['bucket']}/{name}"
    cloud.client("s3").put_object(Bucket=world["bucket"], Key=f"{name}/rows.csv", Body=b"1,2\n3,4\n")
    given = {"DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"{place}/rows.csv"}}}
    request = capturing | {
        "TransformInput": capturing["TransformInput"] | given,
        "TransformOutput": {"S3OutputPath": f"{place}/out", "Accept": "application/jsonlines"},
    }
    cloud.client("sagemaker").create_transform_job(TransformJobName=name, **request)
    done = ended(cloud, "transform", name)
    assert done["TransformJobStatus"] == "Completed"
    answers = [json.loads(line) for line in body(cloud, f"{place}/out/rows.csv.out").splitlines()]
    assert [answer["sum"] for answer in answers] == [3.0, 7.0]
    assert len({uuid.UUID(answer["SageMakerInferenceId"]) for answer in answers}) == 2
    start = done["TransformStartTime"].astimezone(UTC)
    assert {answer["SageMakerInferenceTime"] for answer in answers} == {f"{start:%Y-%m-%dT%H:%M:%SZ}"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"DataCaptureConfig": {"DestinationS3Uri": "https://example.com/x"}}, "not an S3 URI"),
        ({"TransformOutput": {"S3OutputPath": "s3://b/o", "Accept": "image/png"}}, "CSV, JSON"),
    ],
)
def test_capture_of_a_transform_job_that_aws_refuses(
    cloud: Any, capturing: dict[str, Any], change: dict[str, Any], words: str
) -> None:
    with pytest.raises(ClientError, match=words):
        cloud.client("sagemaker").create_transform_job(
            TransformJobName=cloud.name("refused"), **{**capturing, **change}
        )
