"""Stage Select of the deploy pipeline (flow F): which model version to deploy, and with which parameters.

Of the approved versions, the one that was decided on last is deployed: a new one, an older one that was
approved again, or, when the live one is rejected, the one that was decided on before it. When production
already runs it (an event that came twice, or late), DEPLOY is false and the stages are skipped.
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
from botocore.exceptions import ClientError

from . import accounts
from .config import load_config
from .console import OK, Fault, quoted, say, script, write_env
from .deployment import impossible_changes
from .monitor_code import upload_monitor
from .registry import ModelVersion, describe, last_approved
from .render import (
    STAGES,
    TEMPLATES,
    Parameters,
    kpi_parameters,
    monitor_image,
    monitoring_parameters,
    render,
    shadow_parameters,
    stage_parameters,
)
from .settings import Project, load_project

# A stack in another state does not run what its parameters say.
LIVE = {
    "CREATE_COMPLETE",
    "UPDATE_COMPLETE",
    "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS",
    "UPDATE_ROLLBACK_COMPLETE",
}
VERSION_OF_AN_IMAGE = r"(:[\w.-]{1,128}|@sha256:[0-9a-f]{64})"


def running(cloudformation: Any, stack: str) -> Parameters:
    """The parameters that a stage's stack runs with; empty where none does."""
    try:
        described = cloudformation.describe_stacks(StackName=stack)["Stacks"][0]
    except ClientError as error:
        if "does not exist" in error.response["Error"]["Message"]:
            return {}
        raise
    if described["StackStatus"] not in LIVE:
        return {}
    return {one["ParameterKey"]: one.get("ParameterValue", "") for one in described.get("Parameters", [])}


def live_model(cloudformation: Any, stack: str) -> str | None:
    """The model package that a stage's stack runs, or None."""
    return running(cloudformation, stack).get("ModelPackageArn")


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
    images.append(("the image of its API", model.metadata.get("api_image"), "inference"))
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


def render_all(
    project: Project,
    config: dict[str, Any],
    model: ModelVersion,
    live: ModelVersion | None,
    session: Any,
) -> dict[str, Parameters]:
    """Parameters of every stack that this release touches, by the name of the configuration."""
    code = upload_monitor(session.client("s3"), project.bucket_name, project.key_arn)
    image = monitor_image(session.client("ecr"), project, model)
    rendered = {stage: stage_parameters(project, config, model, stage) for stage in STAGES}
    rendered["monitoring"] = monitoring_parameters(project, config, model, image, code)
    rendered["kpi"] = kpi_parameters(project, config)
    if live and "shadow" in config["deployment"]:
        rendered["shadow"] = shadow_parameters(project, config, live, model)
    if "api" in config["deployment"]:
        from .api import api_parameters

        rendered["api"] = api_parameters(project, config, model, session)
    return rendered


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
    sagemaker = session.client("sagemaker")
    model = last_approved(sagemaker, project.model_package_group_name)
    expected = os.environ.get("EXPECTED_MODEL_PACKAGE_ARN", "")  # before production: is it still this one?
    if expected and (model is None or model.arn != expected):
        raise Fault(
            f"{expected} was selected, and since then somebody decided otherwise: the last one approved is "
            f"{model.arn if model else 'none'}. The release ends here; that decision has one of its own"
        )
    # A pipeline runs once when it is made, before the account of a stage can be prepared for its project.
    looked_at = [stage for stage in STAGES if model or not accounts.is_elsewhere(project, stage)]
    stacks: dict[str, Parameters] = dict.fromkeys(STAGES, {})
    for stage in looked_at:
        there = accounts.stage_session(session, project, stage)
        stacks[stage] = running(there.client("cloudformation"), project.resource(stage))
    live = stacks["production"].get("ModelPackageArn")
    left = stacks["production"].get("ShadowModelPackageArn")  # of a comparison that failed

    rendered: dict[str, Parameters] = {}
    if model is None:
        kept = f"; production keeps {live}" if live else ""
        say(f"nothing to deploy: no version of {project.model_package_group_name} is approved{kept}")
        say("approve a version in the model registry (Studio, Models) to deploy it")
    elif model.arn == live and not left:
        say(f"nothing to deploy: version {model.version}, the last one approved, is live in production")
    else:
        config = load_config(options.project_dir / "mlops.yml")
        project.check(config)
        check_origin(project, model)
        accounts.check(project, config, model)
        before = describe(sagemaker, live) if live and live != model.arn else None
        rendered = render_all(project, config, model, before, session)
        for stage in STAGES:
            if problems := list(impossible_changes(stacks[stage], rendered[stage], project.resource(stage))):
                raise Fault("\n  ".join(["mlops.yml asks for what SageMaker does not do", *problems]))
        say(f"version {model.version} of {project.model_package_group_name} will be deployed")
        say(f"production runs {live or 'no model yet'}")
        if left and left != model.arn:
            say(f"and ends the comparison with {left}, which got copies of its requests")
        how = rendered["production"].get("ReleaseShift", "").lower()
        if how:
            say(f"production's traffic moves {how.replace('_', ' ')} (deployment.release of mlops.yml)")
    for name in TEMPLATES:
        render(options.out, name, rendered.get(name, {}), project, options.templates, project.inference_mode)
    write_env(
        options.env,
        {
            "DEPLOY": "true" if rendered else "false",
            "SHADOW": "true" if "shadow" in rendered else "false",
            "API": "true" if "api" in rendered else "false",
            "MODEL_PACKAGE_ARN": model.arn if model else "none",
            "MODEL_VERSION": str(model.version) if model else "none",
            "LIVE_MODEL_PACKAGE_ARN": live or "none",
        },
    )
    return OK


if __name__ == "__main__":
    sys.exit(main())
