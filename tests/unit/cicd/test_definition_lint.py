"""The definition lint: silent on a right pipeline, and each injected fault is found and named."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import boto3
import pytest

from mlops_cicd.definition_lint import lint

ROLE = "arn:aws:iam::123456789012:role/r"


def processing(name: str, depends: list[str] | None = None, **inputs: Any) -> dict[str, Any]:
    step = {
        "Name": name,
        "Type": "Processing",
        "Arguments": {
            "ProcessingResources": {
                "ClusterConfig": {
                    "InstanceType": {"Get": "Parameters.InstanceType"},
                    "InstanceCount": 1,
                    "VolumeSizeInGB": 10,
                }
            },
            "AppSpecification": {"ImageUri": "image:1", "ContainerEntrypoint": ["python3", "x.py"]},
            "RoleArn": ROLE,
            "ProcessingInputs": [
                {
                    "InputName": key,
                    "S3Input": {
                        "S3Uri": value,
                        "LocalPath": "/opt/ml/processing/input",
                        "S3DataType": "S3Prefix",
                        "S3InputMode": "File",
                    },
                }
                for key, value in inputs.items()
            ],
            "ProcessingOutputConfig": {
                "Outputs": [
                    {
                        "OutputName": "out",
                        "S3Output": {
                            "S3Uri": {
                                "Std:Join": {
                                    "On": "/",
                                    "Values": ["s3://b", {"Get": "Execution.PipelineExecutionId"}],
                                }
                            },
                            "LocalPath": "/opt/ml/processing/output",
                            "S3UploadMode": "EndOfJob",
                        },
                    }
                ]
            },
        },
        "PropertyFiles": [{"PropertyFileName": "Report", "OutputName": "out", "FilePath": "report.json"}],
    }
    return step | ({"DependsOn": depends} if depends else {})


def definition() -> dict[str, Any]:
    output = {"Get": "Steps.Prepare.ProcessingOutputConfig.Outputs['out'].S3Output.S3Uri"}
    return {
        "Version": "2020-12-01",
        "Parameters": [{"Name": "InstanceType", "Type": "String", "DefaultValue": "ml.t3.medium"}],
        "Steps": [
            processing("Prepare", data="s3://b/data"),
            {
                "Name": "Train",
                "Type": "Training",
                "Arguments": {
                    "AlgorithmSpecification": {"TrainingImage": "image:1", "TrainingInputMode": "File"},
                    "RoleArn": ROLE,
                    "OutputDataConfig": {"S3OutputPath": "s3://b/models"},
                    "ResourceConfig": {
                        "InstanceType": "ml.m5.large",
                        "InstanceCount": 1,
                        "VolumeSizeInGB": 10,
                    },
                    "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
                    "InputDataConfig": [
                        {
                            "ChannelName": "train",
                            "DataSource": {"S3DataSource": {"S3Uri": output, "S3DataType": "S3Prefix"}},
                        }
                    ],
                },
            },
            processing("Evaluate", model={"Get": "Steps.Train.ModelArtifacts.S3ModelArtifacts"}),
            {
                "Name": "Check",
                "Type": "Condition",
                "Arguments": {
                    "Conditions": [
                        {
                            "Type": "GreaterThanOrEqualTo",
                            "LeftValue": {
                                "Std:JsonGet": {
                                    "PropertyFile": {"Get": "Steps.Evaluate.PropertyFiles.Report"},
                                    "Path": "auc",
                                }
                            },
                            "RightValue": 0.7,
                        }
                    ],
                    "IfSteps": [
                        {
                            "Name": "Register",
                            "Type": "RegisterModel",
                            "Arguments": {
                                "ModelPackageGroupName": "group",
                                "InferenceSpecification": {
                                    "Containers": [
                                        {
                                            "Image": "image:1",
                                            "ModelDataUrl": {
                                                "Get": "Steps.Train.ModelArtifacts.S3ModelArtifacts"
                                            },
                                        }
                                    ],
                                    "SupportedContentTypes": ["text/csv"],
                                    "SupportedResponseMIMETypes": ["text/csv"],
                                },
                            },
                        }
                    ],
                    "ElseSteps": [{"Name": "Low", "Type": "Fail", "Arguments": {"ErrorMessage": "too low"}}],
                },
            },
        ],
    }


def problems(content: dict[str, Any]) -> list[str]:
    return lint(content, boto3.client("sagemaker").meta.service_model)


def test_a_right_pipeline_has_no_problems() -> None:
    assert problems(definition()) == []


def test_metadata_of_letters_digits_and_a_few_signs_is_right() -> None:
    content = definition()
    reason = {"reason": "Größe drifted: 0.3 at 2026-03-01_12:00", "data": "s3://b/k=v+w/a@b.csv"}
    edit(f"{REGISTER}.CustomerMetadataProperties", reason)(content)
    assert problems(content) == []


def edit(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """A change of one place, `Steps.1.Arguments.RoleArn`; None deletes."""

    def change(content: dict[str, Any]) -> None:
        target: Any = content
        *parents, last = path.split(".")
        for key in parents:
            target = target[int(key) if key.isdigit() else key]
        key = int(last) if last.isdigit() else last
        if value is None:
            del target[key]
        else:
            target[key] = value

    return change


TRAIN = "Steps.1.Arguments"
REGISTER = "Steps.3.Arguments.IfSteps.0.Arguments"
LEFT = "Steps.3.Arguments.Conditions.0.LeftValue"
FAULTS = {
    "required member": (
        edit(f"{TRAIN}.RoleArn", None),
        'step Train (CreateTrainingJob): Missing required parameter in input: "RoleArn"',
    ),
    "unknown member": (edit(f"{TRAIN}.Rolearn", ROLE), 'Unknown parameter in input: "Rolearn"'),
    "wrong type": (
        edit(f"{TRAIN}.ResourceConfig.InstanceCount", "one"),
        "Invalid type for parameter ResourceConfig.InstanceCount",
    ),
    "range": (edit(f"{TRAIN}.ResourceConfig.VolumeSizeInGB", -1), "ResourceConfig.VolumeSizeInGB"),
    "enumeration": (
        edit(f"{TRAIN}.ResourceConfig.InstanceType", "ml.m5.tiny"),
        "ResourceConfig.InstanceType is 'ml.m5.tiny'; allowed: ",
    ),
    "pattern": (edit(f"{TRAIN}.RoleArn", "my-role"), "RoleArn is 'my-role'; it must match"),
    "undeclared parameter": (
        edit("Parameters.0.Name", "Other"),
        "step Prepare: parameter InstanceType is used but not declared",
    ),
    "default": (edit("Parameters.0.DefaultValue", 3), "parameter InstanceType: the default 3 is no String"),
    "unknown step": (
        edit(f"{TRAIN}.ModelPackageConfig", {"ModelPackageGroupArn": {"Get": "Steps.Nobody.X"}}),
        "step Train: reads step Nobody; there is no such step",
    ),
    "unknown property": (
        edit(
            "Steps.2.Arguments.ProcessingInputs.0.S3Input.S3Uri",
            {"Get": "Steps.Train.ModelArtifacts.S3Model"},
        ),
        "step Evaluate: step Train has no property ModelArtifacts.S3Model (no S3Model)",
    ),
    "unknown output": (
        edit(
            f"{TRAIN}.InputDataConfig.0.DataSource.S3DataSource.S3Uri",
            {"Get": "Steps.Prepare.ProcessingOutputConfig.Outputs['train'].S3Output.S3Uri"},
        ),
        "step Train: step Prepare has no output train; it has out",
    ),
    "unknown property file": (
        edit(f"{LEFT}.Std:JsonGet.PropertyFile", {"Get": "Steps.Evaluate.PropertyFiles.Nothing"}),
        "step Check: step Evaluate has no property file Nothing",
    ),
    "execution variable": (
        edit("Steps.0.Arguments.AppSpecification.ImageUri", {"Get": "Execution.Name"}),
        "step Prepare: Execution.Name; allowed: ",
    ),
    "duplicate name": (edit("Steps.2.Name", "Train"), "step Train: there are two steps of this name"),
    "bad name": (edit("Steps.0.Name", "Pre pare"), "a name has letters, digits and inner hyphens"),
    "unknown type": (edit("Steps.1.Type", "Trainig"), "step Train: type Trainig is unknown"),
    "depends on nothing": (edit("Steps.0.DependsOn", ["Later"]), "step Prepare: DependsOn names Later"),
    "cycle": (edit("Steps.0.DependsOn", ["Evaluate"]), "steps wait for each other: "),
    "in a branch": (
        edit("Steps.3.Arguments.IfSteps.0.Arguments.InferenceSpecification.Containers", "none"),
        "step Register (CreateModelPackage): Invalid type for parameter InferenceSpecification.Containers",
    ),
    "no steps": (edit("Steps", []), "the pipeline has no steps"),
    "a long argument": (
        edit("Steps.0.Arguments.AppSpecification.ContainerArguments", ["--options", "x" * 257]),
        "step Prepare (CreateProcessingJob): AppSpecification.ContainerArguments[1] is of length 257;",
    ),
    "an input named as an output": (
        edit("Steps.0.Arguments.ProcessingInputs.0.InputName", "out"),
        "step Prepare: more than one input or output is named out; allowed: one of each name",
    ),
    "many arguments": (
        edit("Steps.0.Arguments.AppSpecification.ContainerArguments", ["x"] * 101),
        "AppSpecification.ContainerArguments is of length 101; allowed: at most 100",
    ),
    "a large disk": (
        edit("Steps.0.Arguments.ProcessingResources.ClusterConfig.VolumeSizeInGB", 16385),
        "ProcessingResources.ClusterConfig.VolumeSizeInGB is 16385; allowed: at most 16384",
    ),
    "metadata that the registry does not take": (
        edit(f"{REGISTER}.CustomerMetadataProperties", {"reason": "age drifted (0.3)"}),
        "CustomerMetadataProperties.reason is 'age drifted (0.3)'; it must match",
    ),
    "default of a parameter": (
        edit("Parameters.0.DefaultValue", "ml.t3.tiny"),
        "ProcessingResources.ClusterConfig.InstanceType is 'ml.t3.tiny'; allowed: ",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_and_named(fault: str) -> None:
    change, expected = FAULTS[fault]
    content = copy.deepcopy(definition())
    change(content)
    found = problems(content)
    assert any(expected in problem for problem in found), found
