"""Reads the model registry (flow F): a group's last approved version, its baselines, its evaluation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from .console import Fault, quoted

BLOCKS = ("DriftCheckBaselines", "ModelMetrics")
# Where a model version names the constraints of each kind of monitor.
CONSTRAINTS = {
    "data_quality": ("ModelDataQuality", "Constraints"),
    "model_quality": ("ModelQuality", "Constraints"),
    "model_bias": ("Bias", "PostTrainingConstraints"),
    "model_explainability": ("Explainability", "Constraints"),
}


@dataclass(frozen=True)
class ModelVersion:
    """What the deploy pipeline needs of a model package."""

    arn: str
    version: int
    description: dict[str, Any]

    def artefact(self, *path: str, blocks: tuple[str, ...] = BLOCKS) -> str | None:
        """S3 address of a baseline or metrics file, such as ("ModelQuality", "Statistics")."""
        for block in blocks:
            value: Any = self.description.get(block) or {}
            for name in path:
                value = value.get(name) or {}
            if value.get("S3Uri"):
                return value["S3Uri"]
        return None

    def artefacts(self) -> Iterator[tuple[str, str]]:
        """Every file of the metrics and baselines: its place, such as `Bias Report`, and its S3 address."""
        for block in BLOCKS:
            for part, files in (self.description.get(block) or {}).items():
                yield from ((f"{part} {name}", file.get("S3Uri", "")) for name, file in files.items())

    @property
    def evaluation(self) -> str | None:
        """S3 address of the evaluation on the test rows."""
        return self.artefact("ModelQuality", "Statistics", blocks=BLOCKS[::-1])

    def baseline(self, kind: str) -> str | None:
        """S3 folder with a folder of this kind's baseline; None where the version has no such baseline."""
        uri = self.artefact(*CONSTRAINTS[kind], blocks=BLOCKS[:1])
        if not uri:
            return None
        folder, found, _ = uri.rpartition(f"/{kind}/constraints.json")
        if not found or uri != f"{folder}/{kind}/constraints.json":
            raise Fault(
                f"model version {self.version}: its constraints of {kind} are {quoted(uri, 200)}; allowed: "
                f"<folder>/{kind}/constraints.json, as step MonitoringBaseline writes them"
            )
        return folder

    def decided(self) -> tuple[float, int]:
        """When it was approved or rejected, to sort by; of one that was never changed, when it was made."""
        times = [self.description.get(name) for name in ("LastModifiedTime", "CreationTime")]
        return next((one.timestamp() for one in times if one), 0.0), self.version

    @property
    def containers(self) -> list[dict[str, Any]]:
        """The containers that an endpoint of this version runs."""
        return (self.description.get("InferenceSpecification") or {}).get("Containers") or []

    @property
    def metadata(self) -> dict[str, str]:
        """The customer metadata: commit, project, data hash."""
        return self.description.get("CustomerMetadataProperties") or {}


def last_approved(sagemaker: Any, group: str) -> ModelVersion | None:
    """The approved version that was decided on last, or None.

    The registry keeps no time of a decision, and no list of versions tells when they were changed; a
    version's description does, and after its registration only a decision changes it.
    """
    pages = sagemaker.get_paginator("list_model_packages").paginate(
        ModelPackageGroupName=group, ModelApprovalStatus="Approved"
    )
    arns = [package["ModelPackageArn"] for page in pages for package in page["ModelPackageSummaryList"]]
    return max((describe(sagemaker, arn) for arn in arns), key=ModelVersion.decided, default=None)


def describe(sagemaker: Any, arn: str) -> ModelVersion:
    """A model version by its ARN."""
    answer = sagemaker.describe_model_package(ModelPackageName=arn)
    return ModelVersion(arn, int(answer.get("ModelPackageVersion") or arn.rpartition("/")[2]), answer)


LARGEST = 16 * 1024 * 1024  # bytes of an evaluation or baseline


def read_json(s3: Any, uri: str) -> Any:
    """A JSON file of the project's bucket."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    try:
        content = s3.get_object(Bucket=bucket, Key=key)["Body"].read(LARGEST + 1)
        if len(content) > LARGEST:
            raise Fault(f"{uri} is larger than {LARGEST:,} bytes; the model version must refer to a report")
        return json.loads(content)
    except ClientError as error:
        code = error.response["Error"]["Code"]
        raise Fault(f"cannot read {uri}, to which the model version refers: {code}") from error
    except (ValueError, RecursionError) as error:
        raise Fault(f"{quoted(uri, 200)} is not JSON: {error}") from error


def metric_value(evaluation: Any, metric: str, levels: int = 8) -> float | None:
    """A metric in an evaluation report, wherever it stands: {"auc": 0.8} or {"auc": {"value": 0.8, …}}."""
    if not isinstance(evaluation, dict) or not levels:
        return None
    found = evaluation.get(metric)
    if isinstance(found, dict):
        found = found.get("value")
    if isinstance(found, (int, float)) and not isinstance(found, bool):
        return float(found)
    for value in evaluation.values():
        inner = metric_value(value, metric, levels - 1)
        if inner is not None:
            return inner
    return None
