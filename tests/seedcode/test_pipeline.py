"""The pipeline definition: valid for SageMaker, the same in every process, wired as the platform expects."""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest

from mlops_cicd.config import load_config
from mlops_cicd.definition_lint import lint

Definitions = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def defined(definitions: Definitions) -> dict[str, Any]:
    return definitions["stable"]


@pytest.fixture(scope="module")
def definition(defined: dict[str, Any]) -> dict[str, Any]:
    return json.loads(defined["definition"])


@pytest.fixture(scope="module")
def steps(definition: dict[str, Any]) -> dict[str, Any]:
    """All steps by name, those inside the condition too."""
    outer = {step["Name"]: step for step in definition["Steps"]}
    inner = outer["CheckQuality"]["Arguments"]
    return outer | {step["Name"]: step for step in [*inner["IfSteps"], *inner["ElseSteps"]]}


def jobs(steps: dict[str, Any]) -> dict[str, Any]:
    return {name: step for name, step in steps.items() if step["Type"] in ("Processing", "Training")}


def test_two_processes_make_the_same_definition(define: Callable, settings: dict, defined: dict[str, Any]):
    assert define({"x": settings}, PYTHONHASHSEED="7", TZ="Asia/Tokyo") == {"x": defined}


def test_the_api_would_accept_it(definition: dict[str, Any]):
    client = boto3.client("sagemaker", region_name="us-east-1")
    assert lint(definition, client.meta.service_model) == []


def test_the_steps_and_what_they_are(steps: dict[str, Any]):
    assert {name: step["Type"] for name, step in steps.items()} == {
        "Preprocess": "Processing",
        "Train": "Training",
        "Evaluate": "Processing",
        "MonitoringBaseline": "Processing",
        "CheckQuality": "Condition",
        "RegisterModel": "RegisterModel",
        "QualityTooLow": "Fail",
    }


def test_every_job_is_cached_tagged_encrypted_and_in_the_vpc(steps: dict[str, Any], settings: dict):
    for name, step in jobs(steps).items():
        arguments = step["Arguments"]
        assert step["CacheConfig"] == {"Enabled": True, "ExpireAfter": "P30D"}, name
        assert arguments["Tags"] == settings["tags"], name
        assert arguments["RoleArn"] == settings["role_arn"], name
        vpc = arguments.get("VpcConfig") or arguments["NetworkConfig"]["VpcConfig"]
        assert vpc == {"Subnets": settings["subnets"], "SecurityGroupIds": settings["security_groups"]}, name
        traffic = {**arguments, **arguments.get("NetworkConfig", {})}
        assert traffic["EnableInterContainerTrafficEncryption"] is True, name
        resources = arguments.get("ResourceConfig") or arguments["ProcessingResources"]["ClusterConfig"]
        output = arguments.get("OutputDataConfig") or arguments["ProcessingOutputConfig"]
        assert resources["VolumeKmsKeyId"] == output["KmsKeyId"] == settings["key_arn"], name


def test_the_settings_of_mlops_yml_arrive(definition: dict[str, Any], steps: dict[str, Any], config: dict):
    defaults = {parameter["Name"]: parameter["DefaultValue"] for parameter in definition["Parameters"]}
    assert defaults["ProcessingInstanceType"] == config["processing"]["instance_type"]
    assert defaults["TrainingInstanceType"] == config["training"]["instance_type"]
    assert defaults["MetricThreshold"] == config["evaluation"]["threshold"]
    train = steps["Train"]["Arguments"]
    assert train["HyperParameters"] == {k: str(v) for k, v in config["training"]["hyperparameters"].items()}
    assert train["EnableManagedSpotTraining"] is config["training"]["use_spot"]
    seconds = config["training"]["max_runtime_minutes"] * 60
    assert train["StoppingCondition"] == {"MaxRuntimeInSeconds": seconds, "MaxWaitTimeInSeconds": 2 * seconds}


def test_the_data_is_uploaded_under_its_hash_with_the_projects_key(
    defined: dict[str, Any], definition: dict[str, Any], project: Path, settings: dict
):
    file = project / settings["config"]["data"]["source"]
    key = f"data/{hashlib.sha256(file.read_bytes()).hexdigest()}/{file.name}"
    assert defined["objects"][key] == [file.stat().st_size, settings["key_arn"]]
    assert {key_arn for _, key_arn in defined["objects"].values()} == {settings["key_arn"]}
    defaults = {parameter["Name"]: parameter["DefaultValue"] for parameter in definition["Parameters"]}
    assert defaults["InputDataUri"] == f"s3://{settings['bucket']}/{key}"


def test_data_in_s3_is_used_where_it_is(definitions: Definitions):
    defined = definitions["data in S3"]
    defaults = {p["Name"]: p["DefaultValue"] for p in json.loads(defined["definition"])["Parameters"]}
    assert defaults["InputDataUri"] == "s3://another-bucket/credit/2026.csv"
    assert [key for key in defined["objects"] if key.startswith("data/")] == []


def test_a_data_file_that_is_not_there_is_named(definitions: Definitions):
    assert definitions["no data"] == {
        "error": "mlops.yml: data.source is 'data/missing.csv', and there is no such file in the repository"
    }


def test_the_registered_version_says_where_it_is_from(steps: dict[str, Any], settings: dict):
    register = steps["RegisterModel"]["Arguments"]
    assert register["ModelApprovalStatus"] == "PendingManualApproval"
    assert register["ModelPackageGroupName"] == settings["model_package_group"]
    assert register["CustomerMetadataProperties"] == {
        "commit": settings["commit"],
        "project_id": settings["project_id"],
        "data_uri": {"Get": "Parameters.InputDataUri"},
        "retraining_reason": {"Get": "Parameters.RetrainingReason"},
        "preprocessing_image": settings["images"]["preprocessing"],
    }
    (container,) = register["InferenceSpecification"]["Containers"]
    assert container["Image"] == settings["images"]["inference"]
    assert container["ModelDataUrl"] == {"Get": "Steps.Train.ModelArtifacts.S3ModelArtifacts"}
    assert register["InferenceSpecification"]["SupportedContentTypes"] == ["text/csv", "application/json"]


def registered(definition: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """ModelMetrics and DriftCheckBaselines with their files as `Step/output/file`."""
    condition = json.loads(definition)["Steps"][-1]
    (register,) = condition["Arguments"]["IfSteps"]

    def short(entry: dict[str, Any]) -> str:
        assert entry["ContentType"] == "application/json"
        folder, name = entry["S3Uri"]["Std:Join"]["Values"]
        step, output = re.fullmatch(
            r"Steps\.(\w+)\.\S+Outputs\['(\w+)'\]\.S3Output\.S3Uri", folder["Get"]
        ).groups()
        return f"{step}/{output}/{name}"

    return tuple(
        {
            part: {name: short(entry) for name, entry in files.items()}
            for part, files in register["Arguments"][block].items()
            if files
        }
        for block in ("ModelMetrics", "DriftCheckBaselines")
    )


def test_metrics_and_baselines_of_every_kind_are_registered(definitions: Definitions):
    folder = "MonitoringBaseline/baseline"
    metrics, checks = registered(definitions["stable"]["definition"])
    data = {
        "Statistics": f"{folder}/data_quality/statistics.json",
        "Constraints": f"{folder}/data_quality/constraints.json",
    }
    assert metrics == {
        "ModelQuality": {
            "Statistics": "Evaluate/evaluation/evaluation.json",
            "Constraints": f"{folder}/model_quality/constraints.json",
        },
        "ModelDataQuality": data,
        "Bias": {"Report": f"{folder}/model_bias/analysis.json"},
        "Explainability": {"Report": f"{folder}/model_explainability/analysis.json"},
    }
    assert checks == {
        "ModelQuality": {
            "Statistics": f"{folder}/model_quality/statistics.json",
            "Constraints": f"{folder}/model_quality/constraints.json",
        },
        "ModelDataQuality": data,
        "Bias": {
            "ConfigFile": f"{folder}/model_bias/analysis_config.json",
            "PreTrainingConstraints": f"{folder}/model_bias/constraints.json",
            "PostTrainingConstraints": f"{folder}/model_bias/constraints.json",
        },
        "Explainability": {
            "ConfigFile": f"{folder}/model_explainability/analysis_config.json",
            "Constraints": f"{folder}/model_explainability/constraints.json",
        },
    }


def test_a_kind_that_is_switched_off_is_neither_made_nor_registered(definitions: Definitions):
    only = definitions["data quality only"]
    (options,) = only["files"].values()
    assert list(json.loads(options)) == ["data_quality"]
    metrics, checks = registered(only["definition"])
    assert set(metrics) == set(checks) == {"ModelDataQuality", "ModelQuality"}
    assert checks["ModelQuality"] == {"Statistics": "Evaluate/evaluation/evaluation.json"}
    without = definitions["without data quality"]
    (options,) = without["files"].values()
    assert list(json.loads(options)) == ["model_bias", "model_explainability", "model_quality"]
    for block in registered(without["definition"]):
        assert set(block) == {"ModelQuality", "Bias", "Explainability"}


def test_the_baseline_is_told_what_mlops_yml_says(
    defined: dict[str, Any], steps: dict[str, Any], config: dict, settings: dict
):
    """In a file: SageMaker takes no argument of more than 256 characters."""
    ((key, text),) = defined["files"].items()
    kinds = ("data_quality", "model_quality", "model_bias", "model_explainability")
    assert json.loads(text) == {kind: config["monitoring"][kind] for kind in kinds}
    arguments = steps["MonitoringBaseline"]["Arguments"]
    inputs = {one["InputName"]: one["S3Input"]["S3Uri"] for one in arguments["ProcessingInputs"]}
    assert inputs["options"] == f"s3://{settings['bucket']}/{key}"
    assert inputs["code"] == settings["monitor"]["code_uri"]
    assert inputs["model"] == {"Get": "Steps.Train.ModelArtifacts.S3ModelArtifacts"}
    words = arguments["AppSpecification"]["ContainerArguments"]
    assert words[words.index("--target") + 1] == config["data"]["target"]
    assert words[words.index("--positive-class") + 1] == config["data"]["positive_class"]


def test_only_what_changes_the_baseline_makes_it_anew(definitions: Definitions):
    """Step caching compares arguments: a new schedule must not cost a baseline, a new facet must."""

    def baseline(name: str) -> dict[str, Any]:
        steps = json.loads(definitions[name]["definition"])["Steps"]
        return next(step for step in steps if step["Name"] == "MonitoringBaseline")

    assert baseline("another schedule") == baseline("stable")
    assert baseline("another facet") != baseline("stable")


def test_the_refusal_says_metric_value_and_threshold(steps: dict[str, Any]):
    values = steps["QualityTooLow"]["Arguments"]["ErrorMessage"]["Std:Join"]["Values"]
    (condition,) = steps["CheckQuality"]["Arguments"]["Conditions"]
    assert "auc" in values[0]
    assert condition["Type"] == "GreaterThanOrEqualTo"
    assert [values[1], values[3]] == [condition["LeftValue"], condition["RightValue"]]


def test_without_registration_nothing_reaches_the_registry(definitions: Definitions):
    steps = json.loads(definitions["experimental"]["definition"])["Steps"]
    assert [step["Name"] for step in steps] == ["Preprocess", "Train", "Evaluate", "CheckQuality"]
    assert steps[-1]["Arguments"]["IfSteps"] == []
    assert definitions["experimental"]["files"] == {}
    names = [one["Name"] for one in json.loads(definitions["experimental"]["definition"])["Parameters"]]
    assert "RetrainingReason" not in names


def test_another_setting_is_another_definition(definitions: Definitions):
    assert definitions["another seed"]["definition"] != definitions["stable"]["definition"]


def test_the_configuration_is_valid(project: Path):
    assert load_config(project / "mlops.yml")["version"] == 1
