"""Batch inference in mlops.yml (flow F): what it asks of deploy/batch.yaml, and what contradicts itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .console import Fault
from .monitoring import KINDS
from .registry import ModelVersion
from .settings import Project, project_path

KeyPath = tuple[str | int, ...]
# The first of them that a version has a baseline of tells the features; they are the same in all.
FEATURES_FILE = "options.json"
OF_THE_TABLE = ("prediction", "day")  # the other columns of the table of results (lambda/batch)
LARGEST_PAYLOAD = 100  # megabytes of all requests at once, a limit of CreateTransformJob


def batch_settings(config: dict[str, Any]) -> dict[str, Any]:
    """The block deployment.batch with its defaults, which are in the schema alone."""
    from .config import schema, with_defaults

    rules = schema()
    node = rules["properties"]["deployment"]["properties"]["batch"]
    return with_defaults(config["deployment"].get("batch", {}), node, rules)


def batch_parameters(
    project: Project, config: dict[str, Any], model: ModelVersion, stage: str
) -> dict[str, str]:
    """Parameters of deploy/batch.yaml besides those of every stack."""
    block = batch_settings(config)
    return {
        "Stage": stage,
        "ModelPackageArn": model.arn,
        "FeaturesUri": features_uri(model),
        "KeyColumns": ",".join(block["key_columns"]),
        "ScheduleExpression": block["schedule"],
        "OnUpload": "true" if block["on_upload"] else "false",
        "InstanceType": block["instance_type"],
        "InstanceCount": str(block["instance_count"]),
        "Strategy": block["strategy"],
        "MaxPayloadMb": str(block["max_payload_mb"]),
        "MaxConcurrentTransforms": str(block["max_concurrent_transforms"]),
        "TimeoutSeconds": str(block["timeout_seconds"]),
        "EventsRoleArn": project_path(project.project_id, "events-role-arn"),
        "BatchFunctionArn": project_path(project.project_id, "batch-function-arn"),
    }


def features_uri(model: ModelVersion) -> str:
    """S3 address of the file that names the version's features in order."""
    for kind in KINDS:
        if folder := model.baseline(kind):
            return f"{folder}/{kind}/{FEATURES_FILE}"
    raise Fault(
        f"model version {model.version} has no baseline of {', '.join(KINDS)}, so its features are not "
        "known: pipeline.py must register constraints.json of step MonitoringBaseline"
    )


def monitoring_source(project: Project, config: dict[str, Any]) -> dict[str, str]:
    """What the monitors of a batch project read: published results, each row with its input."""
    return {
        "CaptureUri": "",
        "BatchOutputUri": f"s3://{project.bucket_name}/batch/output/production",
        "BatchKeyColumns": str(len(batch_settings(config)["key_columns"])),
    }


def key_figures(config: dict[str, Any]) -> dict[str, str]:
    """What deploy/kpi.yaml reads: requests, or results and their column that ground truth names."""
    mode = config["inference"]["mode"]
    keys = batch_settings(config)["key_columns"] if mode == "batch" else []
    return {"InferenceMode": mode, "KeyColumn": next(iter(keys), "")}


def contradictions(config: dict[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    """Settings that are right one by one and wrong together: the key's path, and a sentence."""
    if config["inference"]["mode"] != "batch":
        if "batch" in config["deployment"]:
            yield (
                ("deployment", "batch"),
                "deployment.batch is set; allowed with inference.mode batch only",
            )
        return
    names = batch_settings(config)["key_columns"]
    for number, name in enumerate(names):
        path = ("deployment", "batch", "key_columns", number)
        if name in names[:number]:
            yield path, f"deployment.batch.key_columns has {name} twice; allowed: each name once"
        if name in OF_THE_TABLE:
            yield (
                path,
                f"deployment.batch.key_columns has {name}, which the table of results has besides; "
                "allowed: other names",
            )
        if name == config["data"]["target"]:
            yield (
                path,
                f"deployment.batch.key_columns has {name}, the target; allowed: names of other columns",
            )
    block = batch_settings(config)
    payload = block["max_concurrent_transforms"] * block["max_payload_mb"]
    if payload > LARGEST_PAYLOAD:
        yield (
            ("deployment", "batch", "max_concurrent_transforms"),
            f"deployment.batch.max_concurrent_transforms times max_payload_mb is {payload}; allowed: up to "
            f"{LARGEST_PAYLOAD}",
        )
    monitoring = config["monitoring"]
    if monitoring.get("engine") == "managed":
        yield (
            ("monitoring", "engine"),
            "monitoring.engine is managed; allowed with inference.mode batch: processing, which reads the "
            "published results",
        )
    if monitoring.get("simulated_traffic"):
        yield (
            ("monitoring", "simulated_traffic"),
            "monitoring.simulated_traffic is true; allowed with inference.mode batch: false, because there "
            "is no endpoint that could be asked",
        )
