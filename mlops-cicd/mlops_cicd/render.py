"""Template configurations of the stacks that the deploy pipeline launches (flow F): parameters and tags.

What mlops.yml says, and what a model version is made of, as parameters of mlops-cfn/deploy/*.yaml.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from . import deployment
from .batch import batch_parameters, key_figures, monitoring_source
from .console import Fault, say, write_json
from .monitoring import KINDS, enabled_kinds, managed_schedule
from .registry import ModelVersion
from .settings import Project, infra_path, project_path

STAGES = ("staging", "production")
# The configurations and their templates; a stage's own is that of the project's inference mode.
TEMPLATES = {
    "staging": "{mode}.yaml",
    "shadow": "realtime.yaml",
    "production": "{mode}.yaml",
    "monitoring": "monitoring.yaml",
    "kpi": "kpi.yaml",
    "api": "api.yaml",
}
Parameters = dict[str, str]


def common(project: Project) -> Parameters:
    """Parameters of every stack of the deploy pipeline; CloudFormation reads the values of paths itself."""
    return {
        "ProjectId": project.project_id,
        "ProjectName": project.project_name,
        "CostCenter": project.cost_center,
        "ExecutionRoleArn": project_path(project.project_id, "execution-role-arn"),
        "BucketName": project_path(project.project_id, "bucket-name"),
        "KeyArn": project_path(project.project_id, "key-arn"),
        # of the bucket, which is another one where a stage is in another account; older projects have one key
        "BucketKeyArn": project_path(
            project.project_id, "bucket-key-arn" if project.bucket_key_arn else "key-arn"
        ),
        "NotificationTopicArn": project_path(project.project_id, "notification-topic-arn"),
        "SubnetIds": infra_path("private-subnet-ids"),
        "SecurityGroupId": infra_path("compute-security-group-id"),
    }


def stage_parameters(project: Project, config: dict[str, Any], model: ModelVersion, stage: str) -> Parameters:
    """Parameters of the stack of a stage, of the project's inference mode."""
    if config["inference"]["mode"] == "batch":
        return common(project) | batch_parameters(project, config, model, stage)
    return realtime_parameters(project, config, model, stage)


def realtime_parameters(
    project: Project, config: dict[str, Any], model: ModelVersion, stage: str
) -> Parameters:
    """Parameters of deploy/realtime.yaml."""
    asked = config["deployment"]
    block = asked.get(stage, {})  # a serverless endpoint has no sizes
    sizes = {
        "InstanceType": block.get("instance_type", ""),
        "InitialInstanceCount": str(block.get("instance_count", 1)),
    }
    return common(project) | {
        "Stage": stage,
        "ModelPackageArn": model.arn,
        "EndpointKind": asked["endpoint"],
        **(sizes if block else {}),
        **scaling(block),
        **release(config, stage),
        "ServerlessMemoryMb": str(asked["serverless"]["memory_mb"]),
        "ServerlessMaxConcurrency": str(asked["serverless"]["max_concurrency"]),
        "MaxConcurrentInvocations": str(asked["asynchronous"]["max_concurrent_invocations"]),
        "DataCapturePercentage": str(config["monitoring"]["data_capture_percentage"]),
        "LatencyThresholdMicroseconds": str(asked["alarms"]["latency_ms"] * 1000),
        "ShadowModelPackageArn": "",
    }


def scaling(block: dict[str, Any]) -> Parameters:
    """How the instances of a stage follow the load; without the block they do not."""
    wanted = block.get("autoscaling")
    if not wanted:
        return {"ScalingMaximum": "0"}
    return {
        "ScalingMinimum": str(wanted["min"]),
        "ScalingMaximum": str(wanted["max"]),
        "InvocationsPerInstance": str(wanted["invocations_per_instance"]),
    }


def release(config: dict[str, Any], stage: str) -> Parameters:
    """How traffic moves. Staging has none that tells good from bad: its tests come when all has moved."""
    asked = config["deployment"]["release"]
    how, wait = deployment.shift(config), asked["wait_seconds"]
    if stage == "staging":
        how, wait = "all_at_once", 0
    return {
        "ReleaseShift": how.upper(),
        "ReleaseShare": str(asked["share"]),
        "ReleaseWaitSeconds": str(wait),
        "ReleaseTimeoutSeconds": str(deployment.release_seconds(how, asked["share"], wait)),
    }


def shadow_parameters(
    project: Project, config: dict[str, Any], live: ModelVersion, model: ModelVersion
) -> Parameters:
    """Parameters of production while the live version answers and the new one gets copies of requests."""
    asked = config["deployment"]["shadow"]
    return realtime_parameters(project, config, live, "production") | {
        "ShadowModelPackageArn": model.arn,
        "ShadowInstanceCount": str(asked["instance_count"]),
        "ShadowWeight": f"{asked['share'] / 100:g}",
    }


def monitored_kinds(config: dict[str, Any], model: ModelVersion) -> dict[str, str]:
    """The kinds of monitor that the project wants and the version has a baseline of: kind -> its folder.

    A version that is older than a kind stays deployable, so that a bad one can be taken back at any time.
    """
    wanted = {kind: model.baseline(kind) for kind in enabled_kinds(config)}
    if not wanted:  # an endpoint of which nothing is captured
        return {}
    found = {kind: folder for kind, folder in wanted.items() if folder}
    if not found:
        raise Fault(
            f"model version {model.version} has no baseline of {', '.join(wanted)}, so it cannot be "
            "monitored: pipeline.py must register constraints.json of step MonitoringBaseline"
        )
    for kind in wanted.keys() - found:
        say(
            f"version {model.version} has no baseline of {kind}, so this is not monitored before a version "
            "with one is deployed"
        )
    if len(set(found.values())) > 1:
        raise Fault(
            f"model version {model.version}: its baselines are in {', '.join(sorted(set(found.values())))}; "
            "allowed: one folder for all kinds, as step MonitoringBaseline writes them"
        )
    return found


def unmonitored_baseline(project: Project) -> str:
    """What stands for a baseline where no kind of monitor is on: the template wants an address."""
    return f"s3://{project.bucket_name}/pipelines/{project.name}/none/baseline"


def model_data(model: ModelVersion) -> str:
    """S3 address of the version's model.tar.gz."""
    uri = next((one["ModelDataUrl"] for one in model.containers if one.get("ModelDataUrl")), None)
    if not uri:
        raise Fault(f"model version {model.version} names no model data: pipeline.py must register a model")
    return uri


def monitoring_parameters(
    project: Project, config: dict[str, Any], model: ModelVersion, image: str, code: str
) -> Parameters:
    """Parameters of deploy/monitoring.yaml."""
    monitoring = {kind: {} for kind in KINDS} | config["monitoring"]
    kinds = monitored_kinds(config, model)
    quality, bias = monitoring["model_quality"], monitoring["model_bias"]
    delays = [
        monitoring[kind].get("ground_truth_delay_minutes", 0)
        for kind in ("model_quality", "model_bias")
        if kind in kinds
    ]
    delay, window = max(delays, default=0), monitoring.get("window_minutes", 60)
    engine, schedule = monitoring.get("engine", "processing"), monitoring["schedule"]
    simulated = monitoring.get("simulated_traffic") and "data_quality" in kinds  # whose baseline has the rows
    return common(project) | {
        "EndpointName": project.resource("production"),
        "MonitoringEngine": engine,
        "ScheduleExpression": managed_schedule(schedule) or schedule if engine == "managed" else schedule,
        "WindowMinutes": str(window),
        "GroundTruthDelayMinutes": str(delay),
        "GroundTruthWindowMinutes": str(delay + window),
        "DataQualityMinRecords": str(monitoring["data_quality"].get("min_records", 50)),
        "ModelQualityMinRecords": str(quality.get("min_records", 100)),
        "BiasMinRecords": str(bias.get("min_records", 100)),
        "ProblemType": quality.get("problem_type", "BinaryClassification"),
        **{f"{kind.title().replace('_', '')}Enabled": "true" if kind in kinds else "false" for kind in KINDS},
        "IncludeSimulated": "true" if monitoring.get("include_simulated") else "false",
        "SimulatedTraffic": "true" if simulated else "false",
        "InstanceType": monitoring["instance_type"],
        "InstanceCount": str(monitoring.get("instance_count", 1)),
        "MonitorImageUri": image,
        "MonitorCodeUri": code,
        "BaselineUri": next(iter(kinds.values()), unmonitored_baseline(project)),
        "ModelDataUri": model_data(model),
        "ModelPackageArn": model.arn,
        "CaptureUri": f"s3://{project.bucket_name}/data-capture/production",
        "GroundTruthUri": f"s3://{project.bucket_name}/ground-truth/production",
        "ReportsUri": reports(project),
        "EventsRoleArn": project_path(project.project_id, "events-role-arn"),
        "TrafficFunctionArn": project_path(project.project_id, "traffic-function-arn"),
        **(monitoring_source(project, config) if config["inference"]["mode"] == "batch" else {}),
    }


def kpi_parameters(project: Project, config: dict[str, Any]) -> Parameters:
    """Parameters of deploy/kpi.yaml."""
    return common(project) | {
        "EndpointName": project.resource("production"),
        "ReportsUri": reports(project),
        **key_figures(config),
        "QuickSightPrincipalArn": config.get("kpi", {}).get("quicksight_principal", ""),
        "QuickSightRoleArn": project_path(project.project_id, "quicksight-role-arn"),
    }


def reports(project: Project) -> str:
    """Where the monitors write, and the key figures are read."""
    return f"s3://{project.bucket_name}/monitoring"


def monitor_image(ecr: Any, project: Project, model: ModelVersion) -> str:
    """The image that the monitor runs in: what the model version names, else the newest one."""
    named = model.metadata.get("preprocessing_image")
    if named:
        return named
    repository = project.ecr_preprocessing_uri.partition("/")[2]
    pages = ecr.get_paginator("describe_images").paginate(
        repositoryName=repository, filter={"tagStatus": "TAGGED"}
    )
    images = [image for page in pages for image in page["imageDetails"]]
    if not images:
        raise Fault(
            f"ECR repository {repository} holds no image: the build pipeline must run before a deployment"
        )
    newest = max(images, key=lambda image: image["imagePushedAt"])
    return f"{project.ecr_preprocessing_uri}@{newest['imageDigest']}"


class TemplateLoader(yaml.SafeLoader):
    """Reads a CloudFormation template for its parameters; functions are opaque."""


TemplateLoader.add_multi_constructor("!", lambda loader, suffix, node: None)


def fit(parameters: Parameters, template: Path) -> Parameters:
    """Only what the template declares: the two come from repositories that move independently."""
    if not template.is_file():
        raise Fault(f"{template} is missing: the deploy pipeline launches it")
    text = template.read_text(encoding="utf-8")
    declared = yaml.load(text, TemplateLoader).get("Parameters") or {}  # noqa: S506 - a SafeLoader
    needed = [name for name, one in declared.items() if "Default" not in one and name not in parameters]
    if needed:
        raise Fault(
            f"{template.name} needs the parameter {', '.join(needed)}, which these scripts do not know: "
            "bring mlops-cfn and mlops-cicd to the same release"
        )
    return {name: value for name, value in parameters.items() if name in declared}


def render(
    out: Path, name: str, parameters: Parameters, project: Project, templates: Path | None, mode: str
) -> None:
    """Write the template configuration of one stack."""
    if templates and parameters:
        parameters = fit(parameters, templates / TEMPLATES[name].format(mode=mode))
    write_json(out / f"{name}.json", {"Parameters": parameters, "Tags": project.tag_map})
