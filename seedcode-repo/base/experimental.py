"""Run this working copy's pipeline beside the stable one: it trains and evaluates, never deploys.

    python experimental.py            create or update mlops-<project id>-experimental, and start it
    python experimental.py --wait     the same, and wait for the end

For Studio (or a laptop with the rights of the project's Data Scientist). The images are the newest that the
build pipeline pushed; code in src/ that is in an image takes effect after a build. The project is found from
PROJECT_ID or from the git remote.
"""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import boto3
import yaml

ROOT = Path(__file__).resolve().parent
PROJECT_ID = re.compile(r"mlops-(p-[a-z0-9]{12})(?:\.git)?/?$")


class ExperimentError(LookupError):
    """The pipeline cannot be started; the message says what is missing and what to do."""


def project_id() -> str:
    """Return the id of the project that this repository belongs to."""
    if os.environ.get("PROJECT_ID"):
        return os.environ["PROJECT_ID"]
    git = subprocess.run(
        ["git", "remote", "get-url", "origin"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    match = PROJECT_ID.search(git.stdout.strip())
    if not match:
        raise ExperimentError("which project? set PROJECT_ID, or work in a clone of the project's repository")
    return match[1]


def parameters(ssm: Any, path: str) -> dict[str, str]:
    """Return the SSM parameters directly below path, by their last name."""
    pages = ssm.get_paginator("get_parameters_by_path").paginate(Path=path)
    found = {p["Name"].rsplit("/", 1)[1]: p["Value"] for page in pages for p in page["Parameters"]}
    if not found:
        raise ExperimentError(f"SSM has no parameters below {path}; is the project id right, and the region?")
    return found


def newest_image(ecr: Any, uri: str) -> str:
    """Return the newest image of the ECR repository at uri, by its digest."""
    repository = uri.split("/", 1)[1]
    pages = ecr.get_paginator("describe_images").paginate(
        repositoryName=repository, filter={"tagStatus": "TAGGED"}
    )
    images = [image for page in pages for image in page["imageDetails"]]
    if not images:
        raise ExperimentError(f"{repository} has no image yet; the first run of the build pipeline makes it")
    return f"{uri}@{max(images, key=lambda image: image['imagePushedAt'])['imageDigest']}"


def read_settings(project: str, session: boto3.Session) -> dict[str, Any]:
    """Return the settings that get_pipeline() takes."""
    ssm, ecr = session.client("ssm"), session.client("ecr")
    own, infra = parameters(ssm, f"/mlops/projects/{project}"), parameters(ssm, "/mlops/infra")
    role = own["execution-role-arn"]
    return {
        "project_id": project,
        "project_name": own["project-name"],
        "region": session.region_name,
        "account": role.split(":")[4],
        "partition": role.split(":")[1],
        "role_arn": role,
        "bucket": own["bucket-name"],
        "key_arn": own["key-arn"],
        "model_package_group": own["model-package-group-name"],
        "pipeline_name": f"mlops-{project}-experimental",
        "subnets": infra["private-subnet-ids"].split(","),
        "security_groups": [infra["compute-security-group-id"]],
        "images": {name: newest_image(ecr, own[f"ecr-{name}-uri"]) for name in ("preprocessing", "training")},
        "commit": "experimental",
        "tags": [
            {"Key": "sagemaker:project-id", "Value": project},
            {"Key": "sagemaker:project-name", "Value": own["project-name"]},
            {"Key": "mlops:cost-center", "Value": own["cost-center"]},
        ],
        "register": False,
        "config": yaml.safe_load((ROOT / "mlops.yml").read_text(encoding="utf-8")),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; prints the ARN of the execution."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--wait", action="store_true", help="wait for the end; exit code 1 if the run fails")
    args = parser.parse_args(argv)
    session = boto3.Session()
    try:
        settings = read_settings(project_id(), session)
    except ExperimentError as error:
        print(f"experimental: {error}", file=sys.stderr)
        return 1

    # Imported late: the SDK takes seconds, and is not needed to find a mistake above.
    from botocore.exceptions import WaiterError
    from pipeline import get_pipeline
    from sagemaker.core.workflow.pipeline_context import PipelineSession

    quiet = {"SchemaVersion": "1.0", "SageMaker": {"PythonSDK": {"Modules": {"TelemetryOptOut": True}}}}
    # Else the SDK asks IAM about the role, which a Data Scientist may not.
    os.environ.setdefault("SAGEMAKER_VALIDATE_ROLE", "false")
    pipeline = get_pipeline(
        settings,
        PipelineSession(boto_session=session, default_bucket=settings["bucket"], sagemaker_config=quiet),
    )
    pipeline.upsert(role_arn=settings["role_arn"], tags=settings["tags"])
    execution = pipeline.start()
    print(execution.arn)
    if args.wait:
        try:
            execution.wait()
        except WaiterError:
            for step in execution.list_steps():
                if step.get("FailureReason"):
                    print(f"experimental: {step['StepName']}: {step['FailureReason']}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
