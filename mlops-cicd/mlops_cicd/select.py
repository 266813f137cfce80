"""Stage Select of the deploy pipeline (flow F): which model version to deploy, and with which parameters.

The newest approved version is deployed, so that rejecting the live one brings back the one before it. When
production already runs it (a duplicate event, an approval of an older version), DEPLOY is false and the
stages are skipped.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import boto3
import yaml
from botocore.exceptions import ClientError

from .config import load_config
from .console import OK, Fault, quoted, say, script, write_env, write_json
from .monitor_code import upload_monitor
from .monitoring import KINDS, enabled_kinds, managed_schedule
from .registry import ModelVersion, newest_approved
from .settings import Project, infra_path, load_project, project_path

STAGES = ("staging", "production")
TEMPLATES = {
    "staging": "realtime.yaml",
    "production": "realtime.yaml",
    "monitoring": "monitoring.yaml",
    "kpi": "kpi.yaml",
}
# A stack in another state does not run what its parameters say.
LIVE = {
    "CREATE_COMPLETE",
    "UPDATE_COMPLETE",
    "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS",
    "UPDATE_ROLLBACK_COMPLETE",
}
VERSION_OF_AN_IMAGE = r"(:[\w.-]{1,128}|@sha256:[0-9a-f]{64})"
Parameters = dict[str, str]


def live_model(cloudformation: Any, stack: str) -> str | None:
    """The model package that a stage's stack runs, or None."""
    try:
        described = cloudformation.describe_stacks(StackName=stack)["Stacks"][0]
    except ClientError as error:
        if "does not exist" in error.response["Error"]["Message"]:
            return None
        raise
    if described["StackStatus"] not in LIVE:
        return None
    values = {one["ParameterKey"]: one.get("ParameterValue") for one in described.get("Parameters", [])}
    return values.get("ModelPackageArn")


def check_origin(project: Project, model: ModelVersion) -> None:
    """Everything that a version makes run must be the project's own.

    Whoever may register or edit a version chooses its images and files, and one approval puts them under the
    project's roles: an image from elsewhere is not what the build pipeline built and tested.
    """
    images = [("its monitor's image", model.metadata.get("preprocessing_image"), "preprocessing")]
    files = [(f"its {place}", uri) for place, uri in model.artefacts()]
    for number, container in enumerate(model.containers, start=1):
        images.append((f"the image of container {number}", container.get("Image"), "inference"))
        files.append((f"the model of container {number}", container.get("ModelDataUrl")))
    redo = "register the version with the build pipeline, and reject this one"
    for what, uri, name in images:
        home = project.repository_uri(name)
        if uri and not re.fullmatch(re.escape(home) + VERSION_OF_AN_IMAGE, uri, re.ASCII):
            raise Fault(
                f"model version {model.version}: {what} is {quoted(uri, 200)}; "
                f"allowed: an image of {home}: {redo}"
            )
    for what, uri in files:
        home = f"s3://{project.bucket_name}/"
        if uri and not (uri.startswith(home) and uri.isprintable()):
            raise Fault(
                f"model version {model.version}: {what} is {quoted(uri, 200)}; "
                f"allowed: a file below {home}: {redo}"
            )


def common(project: Project) -> Parameters:
    """Parameters of every stack of the deploy pipeline; CloudFormation reads the values of paths itself."""
    return {
        "ProjectId": project.project_id,
        "ProjectName": project.project_name,
        "CostCenter": project.cost_center,
        "ExecutionRoleArn": project_path(project.project_id, "execution-role-arn"),
        "BucketName": project_path(project.project_id, "bucket-name"),
        "KeyArn": project_path(project.project_id, "key-arn"),
        "NotificationTopicArn": project_path(project.project_id, "notification-topic-arn"),
        "SubnetIds": infra_path("private-subnet-ids"),
        "SecurityGroupId": infra_path("compute-security-group-id"),
    }


def realtime_parameters(
    project: Project, config: dict[str, Any], model: ModelVersion, stage: str
) -> Parameters:
    """Parameters of deploy/realtime.yaml."""
    block = config["deployment"][stage]
    return common(project) | {
        "Stage": stage,
        "ModelPackageArn": model.arn,
        "InstanceType": block["instance_type"],
        "InitialInstanceCount": str(block["instance_count"]),
        "DataCapturePercentage": str(config["monitoring"]["data_capture_percentage"]),
    }


def monitored_kinds(config: dict[str, Any], model: ModelVersion) -> dict[str, str]:
    """The kinds of monitor that the project wants and the version has a baseline of: kind -> its folder.

    A version that is older than a kind stays deployable, so that a bad one can be taken back at any time.
    """
    wanted = {kind: model.baseline(kind) for kind in enabled_kinds(config)}
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
        "BaselineUri": next(iter(kinds.values())),
        "ModelDataUri": model_data(model),
        "ModelPackageArn": model.arn,
        "CaptureUri": f"s3://{project.bucket_name}/data-capture/production",
        "GroundTruthUri": f"s3://{project.bucket_name}/ground-truth/production",
        "ReportsUri": reports(project),
        "EventsRoleArn": project_path(project.project_id, "events-role-arn"),
        "TrafficFunctionArn": project_path(project.project_id, "traffic-function-arn"),
    }


def kpi_parameters(project: Project, config: dict[str, Any]) -> Parameters:
    """Parameters of deploy/kpi.yaml."""
    return common(project) | {
        "EndpointName": project.resource("production"),
        "ReportsUri": reports(project),
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


def render(out: Path, name: str, parameters: Parameters, project: Project, templates: Path | None) -> None:
    """Write the template configuration of one stack."""
    if templates and parameters:
        parameters = fit(parameters, templates / TEMPLATES[name])
    write_json(out / f"{name}.json", {"Parameters": parameters, "Tags": project.tag_map})


def folder(text: str) -> Path | None:
    """An optional folder: an environment variable that is not set arrives as an empty argument."""
    return Path(text) if text else None


@script
def main(argv: Sequence[str] | None = None, session: Any = None) -> int:
    """Select a model version; write a template configuration for each stack, and select.env."""
    parser = argparse.ArgumentParser(prog="mlops_cicd.select", description=__doc__)
    parser.add_argument("--project-id", default=os.environ.get("PROJECT_ID", ""))
    parser.add_argument("--project-dir", type=Path, required=True)
    parser.add_argument("--templates", type=folder, help="folder deploy/ of mlops-cfn; '' = do not look")
    parser.add_argument("--out", type=Path, required=True, help="folder of the template configurations")
    parser.add_argument(
        "--env", type=Path, required=True, help="file of `export` lines for the buildspec to source"
    )
    options = parser.parse_args(argv)
    session = session or boto3.Session()
    project = load_project(session.client("ssm"), options.project_id, session.region_name)
    model = newest_approved(session.client("sagemaker"), project.model_package_group_name)
    live = live_model(session.client("cloudformation"), project.resource("production"))

    rendered: dict[str, Parameters] = {name: {} for name in TEMPLATES}
    deploy = model is not None and model.arn != live
    if model is None:
        kept = f"; production keeps {live}" if live else ""
        say(f"nothing to deploy: no version of {project.model_package_group_name} is approved{kept}")
        say("approve a version in the model registry (Studio, Models) to deploy it")
    elif not deploy:
        say(f"nothing to deploy: version {model.version}, the newest approved one, is live in production")
    else:
        config = load_config(options.project_dir / "mlops.yml")
        project.check(config)
        check_origin(project, model)
        code = upload_monitor(session.client("s3"), project.bucket_name, project.key_arn)
        image = monitor_image(session.client("ecr"), project, model)
        for stage in STAGES:
            rendered[stage] = realtime_parameters(project, config, model, stage)
        rendered["monitoring"] = monitoring_parameters(project, config, model, image, code)
        rendered["kpi"] = kpi_parameters(project, config)
        say(f"version {model.version} of {project.model_package_group_name} will be deployed")
        say(f"production runs {live or 'no model yet'}")
    for name, parameters in rendered.items():
        render(options.out, name, parameters, project, options.templates)
    write_env(
        options.env,
        {
            "DEPLOY": "true" if deploy else "false",
            "MODEL_PACKAGE_ARN": model.arn if model else "none",
            "MODEL_VERSION": str(model.version) if model else "none",
        },
    )
    return OK


if __name__ == "__main__":
    sys.exit(main())
