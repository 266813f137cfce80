"""The seed's pipeline, driven by SageMaker Pipelines and by Step Functions: both make the same model version.

The pipeline is the one that the seed code describes; its three images hold small programs, so that both runs
take seconds. What the programs are given must be the same, too: they write it down.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import boto3
import pytest

from localaws import asl
from mlops_cicd import sdk, step_functions
from mlops_cicd.config import load_config
from mlops_cicd.settings import Project

ROOT = Path(__file__).resolve().parents[3]
ID = "p-orchestrated"

#: what each job does: it writes down its arguments and inputs, and leaves what the next one reads
PROGRAM = """
import json, os, pathlib, sys
out = pathlib.Path(sys.argv[sys.argv.index("--output") + 1])
inputs = pathlib.Path("/opt/ml/processing/input")
given = [sys.argv[1:], sorted(str(p.relative_to(inputs)) for p in inputs.rglob("*") if p.is_file())]
def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
"""
PREPROCESS = (
    PROGRAM
    + """
for name in ("train", "validation", "test", "baseline"):
    write(out / name / f"{name}.csv", "a,b\\n1,2\\n")
write(out / "train" / "given.json", given)
"""
)
EVALUATE = (
    PROGRAM
    + """
metric = {"value": float(os.environ.get("AUC", "0.9")), "standard_deviation": 0.01}
write(out / "evaluation.json", {"binary_classification_metrics": {"auc": metric}, "given": given})
"""
)
MONITOR = (
    PROGRAM
    + """
for kind in ("data_quality", "model_quality", "model_bias", "model_explainability"):
    for name in ("statistics", "constraints", "analysis", "analysis_config"):
        write(out / kind / f"{name}.json", {"kind": kind, "given": given})
"""
)
TRAIN = """
import pathlib
pathlib.Path("/opt/ml/model").mkdir(parents=True, exist_ok=True)
pathlib.Path("/opt/ml/model/model.json").write_text(pathlib.Path("/opt/ml/input/config/hyperparameters.json").read_text())
"""


@pytest.fixture(scope="module")
def world(cloud, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A project's settings and configuration, with images of small programs."""
    bucket, role = cloud.bucket(), cloud.role("sagemaker", "states")
    group = f"mlops-{ID}"
    cloud.client("sagemaker").create_model_package_group(ModelPackageGroupName=group)
    cloud.client("s3").put_object(Bucket=bucket, Key="code/monitor.pyz", Body=MONITOR.encode())
    jobs = cloud.image(
        {"opt/program/preprocess.py": PREPROCESS, "opt/program/evaluate.py": EVALUATE},
        ["python3", "/opt/program/preprocess.py"],
    )
    training = cloud.image({"opt/program/train.py": TRAIN}, ["python3", "/opt/program/train.py"])
    sys.path.insert(0, str(ROOT / "scripts"))
    import compose

    folder = tmp_path_factory.mktemp("seed")
    compose.write_folder(compose.compose("sklearn", "realtime"), folder / "seed")
    machine = f"arn:aws:states:{cloud.region}:{cloud.account}:stateMachine:{group}-retraining"
    project = Project(
        *(ID, cloud.region, "credit", "4711", "sklearn", "realtime", role, bucket, "", "", "", ""),
        *(group, machine, (), ()),
    )
    images = {"preprocessing": jobs, "training": training, "inference": jobs}
    config = load_config(folder / "seed/mlops.yml")
    settings = project.for_pipeline(config, images, "c0ffee" * 6 + "abcd", f"s3://{bucket}/code/monitor.pyz")
    return {"project": project, "settings": settings, "folder": folder / "seed", "group": group}


@pytest.fixture(scope="module")
def definition(cloud, world: dict[str, Any]) -> dict[str, Any]:
    """The seed's pipeline, as the build makes it."""
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": cloud.region}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", cloud.endpoint)
        session = sdk.pipeline_session(boto3.Session(**keys), world["project"].bucket_name)
        text = sdk.load_definition(world["folder"], world["settings"], session)
    return json.loads(text)


@pytest.fixture(scope="module")
def machine(cloud, world: dict[str, Any], definition: dict[str, Any]) -> str:
    """The state machine of the same pipeline."""
    made = step_functions.translate(definition, world["project"].name)
    assert asl.problems(json.loads(json.dumps(made).replace("${Partition}", "aws"))) == []
    return cloud.client("stepfunctions").create_state_machine(
        name=f"{world['group']}-training",
        definition=json.dumps(made).replace("${Partition}", "aws"),
        roleArn=world["project"].execution_role_arn,
    )["stateMachineArn"]


def by_pipelines(
    cloud: Any, world: dict[str, Any], definition: dict[str, Any], **given: str
) -> dict[str, Any]:
    sagemaker, name = cloud.client("sagemaker"), world["group"]
    try:
        sagemaker.create_pipeline(
            PipelineName=name,
            PipelineDefinition=json.dumps(definition),
            RoleArn=world["project"].execution_role_arn,
        )
    except sagemaker.exceptions.ClientError:
        sagemaker.update_pipeline(PipelineName=name, PipelineDefinition=json.dumps(definition))
    arn = sagemaker.start_pipeline_execution(
        PipelineName=name, PipelineParameters=[{"Name": k, "Value": v} for k, v in given.items()]
    )["PipelineExecutionArn"]
    look = lambda: sagemaker.describe_pipeline_execution(PipelineExecutionArn=arn)  # noqa: E731
    cloud.wait(lambda: look()["PipelineExecutionStatus"] != "Executing", 120, arn)
    steps = sagemaker.list_pipeline_execution_steps(PipelineExecutionArn=arn)["PipelineExecutionSteps"]
    return {"status": look()["PipelineExecutionStatus"], "steps": {s["StepName"]: s for s in steps}}


def by_workflow(cloud: Any, machine: str, definition: dict[str, Any], **given: str) -> dict[str, Any]:
    states = cloud.client("stepfunctions")
    arn = states.start_execution(stateMachineArn=machine, input=json.dumps({"parameters": given}))[
        "executionArn"
    ]
    names = step_functions.step_names(definition)
    described, steps = step_functions.follow(states, arn, names, lambda _: time.sleep(0.3))
    return {
        "status": described["PipelineExecutionStatus"],
        "reason": described["FailureReason"],
        "steps": {s["StepName"]: s for s in steps},
    }


def version(cloud: Any, done: dict[str, Any]) -> dict[str, Any]:
    """What a registered version holds, without what differs from run to run: ids, times, its number."""
    arn = done["steps"]["RegisterModel"]["Metadata"]["RegisterModel"]["Arn"]
    found = cloud.client("sagemaker").describe_model_package(ModelPackageName=arn)
    own = (
        "ModelPackageVersion",
        "ModelPackageName",
        "ModelPackageArn",
        "CreationTime",
        "LastModifiedTime",
        "ResponseMetadata",
        "CreatedBy",
    )
    text = json.dumps({k: v for k, v in found.items() if k not in own}, default=str, sort_keys=True)
    text = re.sub(rf"/pipelines/mlops-{ID}/[a-z0-9]{{12}}/", "/pipelines/RUN/", text)
    return json.loads(re.sub(r"/models/[^\"]*?/output/model.tar.gz", "/models/JOB/model.tar.gz", text))


def files(cloud: Any, package: dict[str, Any], done: dict[str, Any]) -> dict[str, Any]:
    """The files that a version names, read."""
    arn = done["steps"]["RegisterModel"]["Metadata"]["RegisterModel"]["Arn"]
    found = cloud.client("sagemaker").describe_model_package(ModelPackageName=arn)
    out = {}

    def look(path: str, node: Any) -> None:
        for key, value in node.items():
            if isinstance(value, dict):
                look(f"{path}/{key}", value)
            elif key == "S3Uri":
                bucket, _, name = value.removeprefix("s3://").partition("/")
                body = cloud.client("s3").get_object(Bucket=bucket, Key=name)["Body"].read()
                out[path] = re.sub(r"/[a-z0-9]{12}/", "/RUN/", body.decode())

    look("", {"metrics": found["ModelMetrics"], "baselines": found["DriftCheckBaselines"]})
    return out


def test_both_make_the_same_version(cloud, world, definition, machine):
    given = {"RetrainingReason": "drift:1 - test", "MetricThreshold": "0.8"}
    one = by_pipelines(cloud, world, definition, **given)
    other = by_workflow(cloud, machine, definition, **given)
    assert (one["status"], other["status"]) == ("Succeeded", "Succeeded"), other
    assert set(one["steps"]) == set(other["steps"]) == {
        "Preprocess", "Train", "Evaluate", "MonitoringBaseline", "CheckQuality", "RegisterModel",
    }  # fmt: skip
    first, second = version(cloud, one), version(cloud, other)
    assert first == second
    assert first["CustomerMetadataProperties"]["retraining_reason"] == "drift:1 - test"
    assert first["ModelApprovalStatus"] == "PendingManualApproval"
    assert files(cloud, first, one) == files(cloud, second, other) != {}


def test_both_refuse_a_model_below_the_threshold_in_the_same_words(cloud, world, definition, machine):
    one = by_pipelines(cloud, world, definition, MetricThreshold="0.95")
    other = by_workflow(cloud, machine, definition, MetricThreshold="0.95")
    assert (one["status"], other["status"]) == ("Failed", "Failed")
    message = one["steps"]["QualityTooLow"]["Metadata"]["Fail"]["ErrorMessage"]
    assert message.startswith("The model was not registered: auc is 0.9")
    assert other["steps"]["QualityTooLow"]["Metadata"]["Fail"]["ErrorMessage"] == message
    assert "RegisterModel" not in other["steps"]


def test_a_failed_job_ends_the_workflow_with_its_reason(cloud, world, definition):
    broken = json.loads(json.dumps(definition).replace("/opt/program/evaluate.py", "/opt/program/none.py"))
    made = json.dumps(step_functions.translate(broken, world["project"].name)).replace("${Partition}", "aws")
    arn = cloud.client("stepfunctions").create_state_machine(
        name=cloud.name("training"), definition=made, roleArn=world["project"].execution_role_arn
    )["stateMachineArn"]
    done = by_workflow(cloud, arn, broken)
    assert done["status"] == "Failed"
    failed = done["steps"]["Evaluate"]
    assert failed["StepStatus"] == "Failed" and "AlgorithmError" in failed["FailureReason"]
    job = failed["Metadata"]["ProcessingJob"]["Arn"].rpartition("/")[2]
    assert re.fullmatch(rf"mlops-{ID}-[0-9a-f]{{12}}-Evaluate", job)
    assert done["steps"]["Train"]["StepStatus"] == "Succeeded" and "CheckQuality" not in done["steps"]
