"""SageMaker Pipelines: a definition is refused or run, step by step, as on AWS."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

PROGRAM = """
import json, os, sys
if sys.argv[-1] == "train":
    if json.load(open("/opt/ml/input/config/hyperparameters.json")).get("fail"):
        open("/opt/ml/output/failure", "w").write("did not converge")
        sys.exit(1)
    open("/opt/ml/model/m", "w").write("m")
else:
    score = float(sys.argv[-1])
    json.dump({"metrics": {"auc": {"value": score}}}, open("/opt/ml/processing/output/evaluation.json", "w"))
"""
FUNCTION = "def handler(event, context):\n    return {'answer': event['question'] * 2}\n"


@pytest.fixture(scope="module")
def world(cloud: Any) -> dict[str, Any]:
    """A role, a bucket with data, one image for all steps."""
    bucket = cloud.bucket()
    cloud.client("s3").put_object(Bucket=bucket, Key="in/a.csv", Body=b"1")
    image = cloud.image({"app/run.py": PROGRAM}, ["python3", "/app/run.py"])
    return {"role": cloud.role("sagemaker"), "bucket": bucket, "image": image}


def processing(world: dict[str, Any], name: str, source: Any, score: str = "0.9") -> dict[str, Any]:
    """A processing step that writes evaluation.json."""
    here = ["pipelines", {"Get": "Execution.PipelineName"}, {"Get": "Execution.PipelineExecutionId"}, name]
    target = {"Std:Join": {"On": "/", "Values": [f"s3://{world['bucket']}", *here]}}
    file = {"S3DataType": "S3Prefix", "S3InputMode": "File"}
    root = "/opt/ml/processing"
    upload = {"S3Uri": target, "LocalPath": f"{root}/output", "S3UploadMode": "EndOfJob"}
    instance = {"Get": "Parameters.Instance"}
    return {
        "Name": name,
        "Type": "Processing",
        "Arguments": {
            "RoleArn": world["role"],
            "AppSpecification": {"ImageUri": world["image"], "ContainerArguments": [score]},
            "ProcessingResources": {
                "ClusterConfig": {"InstanceCount": 1, "InstanceType": instance, "VolumeSizeInGB": 5}
            },
            "ProcessingInputs": [
                {"InputName": "data", "S3Input": {"S3Uri": source, "LocalPath": f"{root}/input", **file}}
            ],
            "ProcessingOutputConfig": {"Outputs": [{"OutputName": "out", "S3Output": upload}]},
        },
    }


@pytest.fixture
def definition(world: dict[str, Any]) -> dict[str, Any]:
    """Prepare → Train → Evaluate → Check → Register, or Fail."""
    score = {
        "Std:JsonGet": {
            "PropertyFile": {"Get": "Steps.Evaluate.PropertyFiles.Report"},
            "Path": "metrics.auc.value",
        }
    }
    prepare = processing(world, "Prepare", f"s3://{world['bucket']}/in/")
    output = {"Get": "Steps.Prepare.ProcessingOutputConfig.Outputs['out'].S3Output.S3Uri"}
    source = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": output}}
    train = {
        "Name": "Train",
        "Type": "Training",
        "Arguments": {
            "RoleArn": world["role"],
            "AlgorithmSpecification": {"TrainingImage": world["image"], "TrainingInputMode": "File"},
            "ResourceConfig": {"InstanceCount": 1, "InstanceType": "ml.m5.large", "VolumeSizeInGB": 5},
            "StoppingCondition": {"MaxRuntimeInSeconds": 60},
            "OutputDataConfig": {"S3OutputPath": f"s3://{world['bucket']}/models"},
            "InputDataConfig": [{"ChannelName": "train", "DataSource": source}],
            "HyperParameters": {"depth": "3"},
        },
    }
    for step in (prepare, train):
        step["CacheConfig"] = {"Enabled": True, "ExpireAfter": "P30D"}
    artifact = {"Get": "Steps.Train.ModelArtifacts.S3ModelArtifacts"}
    evaluate = processing(world, "Evaluate", artifact)
    report = {"PropertyFileName": "Report", "OutputName": "out", "FilePath": "evaluation.json"}
    evaluate["PropertyFiles"] = [report]
    container = {"Image": world["image"], "ModelDataUrl": artifact}
    inference = {"Containers": [container], "SupportedContentTypes": ["text/csv"]}
    register = {
        "Name": "Register",
        "Type": "RegisterModel",
        "Arguments": {
            "ModelPackageGroupName": {"Get": "Parameters.Group"},
            "ModelApprovalStatus": "PendingManualApproval",
            "InferenceSpecification": {**inference, "SupportedResponseMIMETypes": ["text/csv"]},
        },
    }
    message = {
        "Std:Join": {"On": " ", "Values": ["auc is", score, "and must be", {"Get": "Parameters.Least"}]}
    }
    condition = {
        "Type": "GreaterThanOrEqualTo",
        "LeftValue": score,
        "RightValue": {"Get": "Parameters.Least"},
    }
    check = {
        "Name": "Check",
        "Type": "Condition",
        "Arguments": {
            "Conditions": [condition],
            "IfSteps": [register],
            "ElseSteps": [{"Name": "TooLow", "Type": "Fail", "Arguments": {"ErrorMessage": message}}],
        },
    }
    return {
        "Version": "2020-12-01",
        "Parameters": [
            {"Name": "Instance", "Type": "String", "DefaultValue": "ml.t3.medium"},
            {"Name": "Least", "Type": "Float", "DefaultValue": 0.7},
            {"Name": "Group", "Type": "String", "DefaultValue": "set-by-test"},
        ],
        "Steps": [prepare, train, evaluate, check],
    }


@pytest.fixture
def create(cloud: Any, world: dict[str, Any]) -> Callable[..., str]:
    """Create a pipeline; its name."""

    def run(definition: Any, **more: Any) -> str:
        text, name = (
            definition if isinstance(definition, str) else json.dumps(definition),
            cloud.name("pipeline"),
        )
        cloud.client("sagemaker").create_pipeline(
            PipelineName=name,
            PipelineDefinition=text,
            RoleArn=world["role"],
            ClientRequestToken="t" * 32,
            **more,
        )
        return name

    return run


@pytest.fixture
def execute(cloud: Any) -> Callable[..., dict[str, Any]]:
    """Run a pipeline; its description at the end, with ``steps`` by name."""

    def run(name: str, **parameters: str) -> dict[str, Any]:
        given = [{"Name": k, "Value": v} for k, v in parameters.items()]
        started = cloud.client("sagemaker").start_pipeline_execution(
            PipelineName=name, PipelineParameters=given
        )
        return finished(cloud, started["PipelineExecutionArn"])

    return run


def finished(cloud: Any, arn: str) -> dict[str, Any]:
    """An execution's description when it has ended, with ``steps`` by name in the order they began."""
    client = cloud.client("sagemaker")
    done = cloud.wait(
        lambda: (
            (d := client.describe_pipeline_execution(PipelineExecutionArn=arn))["PipelineExecutionStatus"]
            not in ("Executing", "Stopping")
            and d
        ),
        60,
        arn,
    )
    steps = client.list_pipeline_execution_steps(PipelineExecutionArn=arn, SortOrder="Ascending")
    done["steps"] = {s["StepName"]: s for s in steps["PipelineExecutionSteps"]}
    return done


def test_runs_registers_and_takes_former_results(
    cloud: Any, definition: Any, create: Callable[..., str], execute: Callable[..., Any]
) -> None:
    client, group = cloud.client("sagemaker"), cloud.name("group")
    name = create(definition, Tags=[{"Key": "sagemaker:project-id", "Value": "p-1"}])
    first = execute(name, Group=group)
    assert first["PipelineExecutionStatus"] == "Succeeded"
    assert list(first["steps"]) == ["Prepare", "Train", "Evaluate", "Check", "Register"]
    assert first["steps"]["Check"]["Metadata"]["Condition"]["Outcome"] == "True"
    version = first["steps"]["Register"]["Metadata"]["RegisterModel"]["Arn"]
    assert client.describe_model_package(ModelPackageName=version)["ModelPackageVersion"] == 1
    job = first["steps"]["Prepare"]["Metadata"]["ProcessingJob"]["Arn"]
    execution_id = first["PipelineExecutionArn"].rpartition("/")[2]
    assert job.rpartition("/")[2].startswith(f"pipelines-{execution_id}-Prepare-")
    assert {"Key": "sagemaker:project-id", "Value": "p-1"} in client.list_tags(ResourceArn=job)["Tags"]

    second = execute(name, Group=group)
    hits = {n: s["CacheHitResult"] for n, s in second["steps"].items() if s.get("CacheHitResult")}
    assert set(hits) == {"Prepare", "Train"}, "Evaluate has no CacheConfig"
    assert hits["Train"] == {"SourcePipelineExecutionArn": first["PipelineExecutionArn"]}
    assert second["steps"]["Register"]["Metadata"]["RegisterModel"]["Arn"].endswith("/2")

    definition["Steps"][1]["Arguments"]["HyperParameters"]["depth"] = "4"
    client.update_pipeline(PipelineName=name, PipelineDefinition=json.dumps(definition))
    third = execute(name, Group=group)
    assert "CacheHitResult" not in third["steps"]["Train"]
    summaries = client.list_pipeline_executions(PipelineName=name)["PipelineExecutionSummaries"]
    assert [s["PipelineExecutionStatus"] for s in summaries] == ["Succeeded"] * 3


def test_a_fail_step_tells_its_reason(
    cloud: Any, definition: Any, create: Callable[..., str], execute: Callable[..., Any]
) -> None:
    done = execute(create(definition), Least="0.95")
    assert done["PipelineExecutionStatus"] == "Failed"
    assert done["FailureReason"] == "Step failure: One or multiple steps failed."
    assert done["steps"]["TooLow"]["FailureReason"] == "auc is 0.9 and must be 0.95"
    assert "Register" not in done["steps"]


def test_a_failed_job_is_the_steps_reason_and_is_retried(
    cloud: Any, definition: Any, create: Callable[..., str], execute: Callable[..., Any]
) -> None:
    client = cloud.client("sagemaker")
    definition["Steps"][1]["Arguments"]["HyperParameters"]["fail"] = "1"
    done = execute(create(definition))
    reason = "ClientError: AlgorithmError: did not converge, exit code: 1"
    assert done["steps"]["Train"]["FailureReason"] == reason
    assert list(done["steps"]) == ["Prepare", "Train"]
    arn = done["PipelineExecutionArn"]
    client.retry_pipeline_execution(PipelineExecutionArn=arn, ClientRequestToken="r" * 32)
    again = finished(cloud, arn)
    assert again["steps"]["Prepare"] == done["steps"]["Prepare"]
    assert again["steps"]["Train"]["Metadata"] != done["steps"]["Train"]["Metadata"]


def test_stop_ends_the_job(cloud: Any, definition: Any, create: Callable[..., str]) -> None:
    client, name = cloud.client("sagemaker"), create(definition)
    arn = client.start_pipeline_execution(PipelineName=name)["PipelineExecutionArn"]

    def job() -> str:
        steps = client.list_pipeline_execution_steps(PipelineExecutionArn=arn)["PipelineExecutionSteps"]
        return steps[0]["Metadata"].get("ProcessingJob", {}).get("Arn", "") if steps else ""

    made = cloud.wait(job, 20)
    client.stop_pipeline_execution(PipelineExecutionArn=arn)
    assert finished(cloud, arn)["PipelineExecutionStatus"] == "Stopped"
    described = client.describe_processing_job(ProcessingJobName=made.rpartition("/")[2])
    assert described["ProcessingJobStatus"] == "Stopped"
    with pytest.raises(ClientError, match="ConflictException"):
        client.stop_pipeline_execution(PipelineExecutionArn=arn)


def test_lambda_step_and_every_condition(
    cloud: Any, world: dict[str, Any], pack: Any, create: Callable[..., str], execute: Callable[..., Any]
) -> None:
    name = cloud.name("function")
    arn = cloud.client("lambda").create_function(
        FunctionName=name, Runtime="python3.11", Handler="index.handler", Role=cloud.role("lambda"),
        Code={"ZipFile": pack({"index.py": FUNCTION})},
    )["FunctionArn"]  # fmt: skip
    answer = {"Get": "Steps.Ask.OutputParameters['answer']"}
    compare = {"LeftValue": answer, "RightValue": 42}
    true = [
        {"Type": "Equals", **compare},
        {"Type": "LessThanOrEqualTo", **compare},
        {"Type": "GreaterThanOrEqualTo", **compare},
        {"Type": "Not", "Expression": {"Type": "GreaterThan", **compare}},
        {"Type": "Or", "Conditions": [{"Type": "LessThan", **compare}, {"Type": "Equals", **compare}]},
        {"Type": "In", "QueryValue": answer, "Values": [1, 42]},
    ]
    steps = [
        {
            "Name": "Ask", "Type": "Lambda", "FunctionArn": arn, "Arguments": {"question": 21},
            "OutputParameters": [{"OutputName": "answer", "OutputType": "Integer"}],
        },
        {"Name": "Check", "Type": "Condition", "Arguments": {"Conditions": true, "IfSteps": []}},
    ]  # fmt: skip
    done = execute(create({"Version": "2020-12-01", "Steps": steps}))
    assert done["steps"]["Check"]["Metadata"]["Condition"]["Outcome"] == "True", done["steps"]
    outputs = done["steps"]["Ask"]["Metadata"]["Lambda"]["OutputParameters"]
    assert outputs == [{"Name": "answer", "Value": "42"}]


def broken(*path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    """A change to a definition; the value None removes."""

    def change(definition: Any) -> None:
        for part in path[:-1]:
            definition = definition[part]
        if value is None:
            del definition[path[-1]]
        else:
            definition[path[-1]] = value

    return change


REFUSED = {
    "no JSON": (None, "not valid JSON"),
    "a misspelt argument": (broken("Steps", 0, "Arguments", "RoleArm", value="x"), "has no member RoleArm"),
    "a missing argument": (
        broken("Steps", 1, "Arguments", "OutputDataConfig", value=None),
        "OutputDataConfig is required",
    ),
    "a wrong type": (
        broken("Steps", 1, "Arguments", "StoppingCondition", "MaxRuntimeInSeconds", value="soon"),
        "must be a number",
    ),
    "an unknown parameter": (
        broken("Steps", 1, "Arguments", "HyperParameters", "depth", value={"Get": "Parameters.Depth"}),
        "unknown parameter reference 'Parameters.Depth'",
    ),
    "an unknown property": (
        broken("Steps", 1, "Arguments", "HyperParameters", "depth", value={"Get": "Steps.Prepare.Output"}),
        "unknown property reference",
    ),
    "an unknown output": (
        broken("Steps", 2, "PropertyFiles", 0, "OutputName", value="nothing"),
        "reads the unknown output",
    ),
    "an unknown step type": (broken("Steps", 1, "Type", value="Learning"), "unknown step type"),
    "a step of a closed service": (
        broken("Steps", 0, "Type", value="QualityCheck"),
        "closed to new customers",
    ),
    "a name twice": (broken("Steps", 1, "Name", value="Prepare"), "is used twice"),
    "a circle": (
        broken("Steps", 0, "DependsOn", value=["Evaluate"]),
        "in a circle: Prepare, Train, Evaluate$",
    ),
    "a default that is not allowed": (
        broken("Parameters", 0, "EnumValues", value=["ml.m5.large"]),
        "is not in EnumValues",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_definition(case: str, definition: Any, create: Callable[..., str]) -> None:
    change, message = REFUSED[case]
    text: Any = "{"
    if change:
        text = copy.deepcopy(definition)
        change(text)
    with pytest.raises(ClientError, match=f"ValidationException.*{message}"):
        create(text)


def test_refused_start(cloud: Any, definition: Any, create: Callable[..., str], execute: Any) -> None:
    name = create(definition)
    with pytest.raises(ClientError, match="Unknown pipeline parameters"):
        execute(name, Leest="1")
    with pytest.raises(ClientError, match="not of type Float"):
        execute(name, Least="much")


def test_started_by_an_event(cloud: Any, world: Any, definition: Any, create: Callable[..., str]) -> None:
    client, events, name = cloud.client("sagemaker"), cloud.client("events"), create(definition)
    heard = cloud.listen(**{"detail-type": ["SageMaker Model Building Pipeline Execution Status Change"]})
    arn = client.describe_pipeline(PipelineName=name)["PipelineArn"]
    events.put_rule(Name=name, EventPattern=json.dumps({"source": [name]}))
    parameters = {"PipelineParameterList": [{"Name": "Least", "Value": "0.99"}]}
    target = {
        "Id": "1",
        "Arn": arn,
        "RoleArn": cloud.role("events"),
        "SageMakerPipelineParameters": parameters,
    }
    events.put_targets(Rule=name, Targets=[target])
    events.put_events(Entries=[{"Source": name, "DetailType": "go", "Detail": "{}"}])
    found = cloud.wait(
        lambda: client.list_pipeline_executions(PipelineName=name)["PipelineExecutionSummaries"], 20
    )
    done = finished(cloud, found[0]["PipelineExecutionArn"])
    assert "must be 0.99" in done["steps"]["TooLow"]["FailureReason"]

    def states() -> list[str]:
        mine = [e["detail"] for e in heard() if e["detail"]["pipelineArn"] == arn]
        return [d["currentPipelineExecutionStatus"] for d in mine]

    assert cloud.wait(lambda: "Failed" in (s := states()) and s, 10)[-1] == "Failed"


def test_cloudformation_type(cloud: Any, world: dict[str, Any], definition: Any) -> None:
    client, name = cloud.client("sagemaker"), cloud.name("pipeline")
    properties = {
        "PipelineName": name,
        "RoleArn": world["role"],
        "PipelineDefinition": {"PipelineDefinitionBody": json.dumps(definition)},
        "Tags": [{"Key": "a", "Value": "1"}],
    }
    resources = {"Pipeline": {"Type": "AWS::SageMaker::Pipeline", "Properties": properties}}
    stack = cloud.stack(resources, {"Name": {"Value": {"Ref": "Pipeline"}}})
    assert cloud.outputs(stack)["Name"] == name
    definition["Parameters"][1]["DefaultValue"] = 0.8
    properties["PipelineDefinition"] = {"PipelineDefinitionBody": json.dumps(definition)}
    properties["Tags"] = [{"Key": "a", "Value": "2"}]
    cloud.stack(resources, name=stack)
    described = client.describe_pipeline(PipelineName=name)
    assert json.loads(described["PipelineDefinition"])["Parameters"][1]["DefaultValue"] == 0.8
    tags = client.list_tags(ResourceArn=described["PipelineArn"])["Tags"]
    assert {"Key": "a", "Value": "2"} in tags
    cloud.delete_stack(stack)
    with pytest.raises(ClientError, match="does not exist"):
        client.describe_pipeline(PipelineName=name)
