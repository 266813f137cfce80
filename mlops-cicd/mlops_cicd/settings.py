"""A project's settings, read from the SSM parameters that the stacks write (flows E, F and C).

`/mlops/projects/<id>/<key>` is written by 2-smproject, `/mlops/infra/<key>` by 1-infra. Only what the scripts
use is read, so that a stack may add keys, and leave out what nobody needs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .console import Fault, quoted

PROJECT_KEYS = (
    "project-name",
    "cost-center",
    "framework",
    "inference-mode",
    "execution-role-arn",
    "bucket-name",
    "key-arn",
    "ecr-preprocessing-uri",
    "ecr-training-uri",
    "ecr-inference-uri",
    "model-package-group-name",
    "retraining-state-machine-arn",
)
# What projects of older releases have not: the empty text means the own account, and the project's key.
LATER_KEYS = ("staging-account-id", "production-account-id", "bucket-key-arn")
INFRA_KEYS = ("private-subnet-ids", "compute-security-group-id")
IMAGES = ("preprocessing", "training", "inference")
BATCH = 10  # GetParameters takes no more names
PROJECT_ID = re.compile(r"p-[a-z0-9]{8,18}")  # as in the templates
USER = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,35}")  # as in 3-user
COMMIT = re.compile(r"[0-9a-f]{7,64}")


def project_path(project_id: str, key: str) -> str:
    """Path of a parameter that 2-smproject writes."""
    return f"/mlops/projects/{project_id}/{key}"


def infra_path(key: str) -> str:
    """Path of a parameter that 1-infra writes."""
    return f"/mlops/infra/{key}"


def checked_project_id(text: str) -> str:
    """A project id; anything else would become part of a path, a name or an ARN."""
    if not text:
        raise Fault("no project id: give --project-id p-…, or set PROJECT_ID")
    if not PROJECT_ID.fullmatch(text):
        raise Fault(
            f"project id {quoted(text)}: allowed is p- with 8 to 18 small letters and digits, for example "
            "p-abcdefghijkl; the project's page in Studio shows it"
        )
    return text


def checked_commit(text: str) -> str:
    """A commit id, or nothing where it is not known."""
    if text and not COMMIT.fullmatch(text):
        raise Fault(
            f"commit {quoted(text)}: allowed are 7 to 64 digits and letters a to f, as `git rev-parse HEAD` "
            "prints them"
        )
    return text


def read_parameters(ssm: Any, paths: Iterable[str], later: Iterable[str] = ()) -> dict[str, str]:
    """Values by path; a missing one is a fault that says which stack should have written it.

    Those of `later` may be missing: a project that was made before them has the empty text there.
    """
    may_miss = list(later)
    wanted = [*paths, *may_miss]
    values: dict[str, str] = {}
    missing: list[str] = []
    for start in range(0, len(wanted), BATCH):
        answer = ssm.get_parameters(Names=wanted[start : start + BATCH], WithDecryption=True)
        values |= {parameter["Name"]: parameter["Value"] for parameter in answer["Parameters"]}
        missing += [path for path in answer["InvalidParameters"] if path not in may_miss]
    values |= {path: "" for path in may_miss if path not in values}
    if missing:
        writer = {"infra": "1-infra", "projects": "2-smproject"}.get(missing[0].split("/")[2], "its stack")
        if "/users/" in missing[0]:
            writer = "3-user"
        raise Fault(
            f"SSM parameter {', '.join(sorted(missing))} does not exist; {writer} writes it: "
            "check the project id and that the stack is complete"
        )
    return values


@dataclass(frozen=True)
class Project:
    """Everything that the build and deploy scripts know of a project."""

    project_id: str
    region: str
    project_name: str
    cost_center: str
    framework: str
    inference_mode: str
    execution_role_arn: str
    bucket_name: str
    key_arn: str
    ecr_preprocessing_uri: str
    ecr_training_uri: str
    ecr_inference_uri: str
    model_package_group_name: str
    retraining_state_machine_arn: str
    subnets: tuple[str, ...]
    security_groups: tuple[str, ...]
    staging_account_id: str = ""  # empty: the project's own account
    production_account_id: str = ""
    bucket_key_arn: str = ""

    @property
    def partition(self) -> str:
        """aws, aws-cn or aws-us-gov."""
        return self.execution_role_arn.split(":")[1]

    @property
    def account(self) -> str:
        """The account that the project lives in."""
        return self.execution_role_arn.split(":")[4]

    @property
    def name(self) -> str:
        """The stem of the project's physical names."""
        return f"mlops-{self.project_id}"

    @property
    def training_state_machine_arn(self) -> str:
        """The state machine that a build makes of the pipeline, if mlops.yml wants one."""
        return f"{self.retraining_state_machine_arn.rpartition(':')[0]}:{self.name}-training"

    @property
    def tag_map(self) -> dict[str, str]:
        """The tags of everything that the project owns; isolation rests on them."""
        return {
            "sagemaker:project-id": self.project_id,
            "sagemaker:project-name": self.project_name,
            "mlops:cost-center": self.cost_center,
        }

    @property
    def tags(self) -> list[dict[str, str]]:
        """The same tags in the shape that most AWS calls take."""
        return [{"Key": key, "Value": value} for key, value in self.tag_map.items()]

    def repository_uri(self, image: str) -> str:
        """ECR repository of one of the project's three images."""
        return {
            "preprocessing": self.ecr_preprocessing_uri,
            "training": self.ecr_training_uri,
            "inference": self.ecr_inference_uri,
        }[image]

    def resource(self, suffix: str) -> str:
        """Name of a stage's endpoint or stack: mlops-<id>-staging."""
        return f"{self.name}-{suffix}"

    def check(self, config: dict[str, Any]) -> None:
        """mlops.yml must be of the kind that the project's pipelines were made for."""
        mode = config["inference"]["mode"]
        if mode != self.inference_mode:
            raise Fault(
                f"mlops.yml: inference.mode is {mode}; project {self.project_name} was created for "
                f"{self.inference_mode}: change it back, or create a project for {mode}"
            )

    def for_pipeline(
        self, config: dict[str, Any], images: dict[str, str], commit: str, monitor_uri: str
    ) -> dict[str, Any]:
        """The settings that the project's `get_pipeline` receives."""
        return {
            "project_id": self.project_id,
            "project_name": self.project_name,
            "region": self.region,
            "account": self.account,
            "partition": self.partition,
            "role_arn": self.execution_role_arn,
            "bucket": self.bucket_name,
            "key_arn": self.key_arn,
            "model_package_group": self.model_package_group_name,
            "pipeline_name": self.name,
            "subnets": list(self.subnets),
            "security_groups": list(self.security_groups),
            "images": dict(images),
            "commit": commit,
            "tags": self.tags,
            "monitor": {"code_uri": monitor_uri},
            "config": config,
        }


def load_project(ssm: Any, project_id: str, region: str) -> Project:
    """Read a project's settings."""
    checked_project_id(project_id)
    values = read_parameters(
        ssm,
        [project_path(project_id, key) for key in PROJECT_KEYS] + [infra_path(key) for key in INFRA_KEYS],
        [project_path(project_id, key) for key in LATER_KEYS],
    )
    keys = (*PROJECT_KEYS, *LATER_KEYS)
    fields = {key.replace("-", "_"): values[project_path(project_id, key)] for key in keys}
    return Project(
        project_id=project_id,
        region=region,
        subnets=tuple(values[infra_path("private-subnet-ids")].split(",")),
        security_groups=(values[infra_path("compute-security-group-id")],),
        **fields,
    )
