"""What the managed engine needs beside the baseline: Clarify's analysis, and a reader for Model Monitor.

Model Monitor and Clarify take statistics and constraints as they are. Clarify wants to be told what to
analyse in analysis_config.json, and Model Monitor which part of a captured record holds the features:
https://docs.aws.amazon.com/sagemaker/latest/dg/clarify-processing-job-configure-analysis.html
https://docs.aws.amazon.com/sagemaker/latest/dg/model-monitor-pre-and-post-processing.html
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .payload import LISTS, MISSING
from .settings import read_json

# what SageMaker tells a processing job of itself
JOB_CONFIG = Path("/opt/ml/config/processingjobconfig.json")
# Clarify names no key for the disk of its shadow endpoint, so the platform's boundary lets it use only what
# is encrypted in hardware: this is the smallest of those that a platform allows by default.
SHADOW_INSTANCE = "ml.g4dn.xlarge"
SHAP_ROWS, SHAP_SAMPLES = 10, 100  # each explained row costs rows x samples predictions at most


_WHOLE = re.compile(r"-?(0|[1-9]\d*)", re.ASCII)
_NUMBER = re.compile(r"-?(0|[1-9]\d*|(?=\.))(\.\d+)?([eE][+-]?\d+)?", re.ASCII)


class Shadow(NamedTuple):
    """The endpoint that Clarify makes for each run of the explainability monitor."""

    model: str
    prefix: str


def shadow_of(baseline_uri: str) -> Shadow | None:
    """Names of model and endpoint for a baseline s3://bucket/folder/PIPELINE/EXECUTION/…, None elsewhere.

    Training cannot know the model that a deployment makes. deploy/monitoring.yaml makes one by this name,
    from the same URI; the endpoint's prefix is what the project's execution role may make.
    """
    parts = baseline_uri.removeprefix("s3://").split("/")
    if not baseline_uri.startswith("s3://") or len(parts) < 5:
        return None
    pipeline, execution = parts[2:4]
    project = "-".join(pipeline.split("-")[:3])  # mlops-p-abcdefghijkl, whichever of its pipelines it is
    return Shadow(f"{pipeline}-{execution}", f"{project}-shadow")


def job_output(config: Path = JOB_CONFIG) -> str:
    """Where S3 gets the output of the job that this runs in; "" outside of a job."""
    if not config.is_file():
        return ""
    outputs = (read_json(config).get("ProcessingOutputConfig") or {}).get("Outputs") or []
    return str(outputs[0]["S3Output"]["S3Uri"]).rstrip("/") if outputs else ""


def files(kind: str, options: Mapping[str, Any], baseline_uri: str) -> dict[str, Any]:
    """File name -> content, for the folder of a kind's baseline with these options.json."""
    if kind == "data_quality":
        return {"preprocessor.py": preprocessor(options["features"])}
    if kind == "model_bias":
        return {"analysis_config.json": bias_config(options)}
    shadow = shadow_of(baseline_uri)
    if kind == "model_explainability" and shadow:
        return {"analysis_config.json": explainability_config(options, shadow)}
    return {}


def bias_config(options: Mapping[str, Any]) -> dict[str, Any]:
    """Which groups are compared, and which answer is the good one."""
    settings = options["settings"]
    config = {
        "label_values_or_threshold": [_plain(options["positive_class"])],
        "facet": [
            {
                "name_or_index": facet["name"],
                "value_or_threshold": [_plain(v) for v in facet.get("values") or [facet["threshold"]]],
            }
            for facet in settings["facets"]
        ],
        "headers": [*options["features"], options["target"]],
        "label": options["target"],
    }
    if settings.get("group_variable"):
        config["group_variable"] = settings["group_variable"]
    return config


def explainability_config(options: Mapping[str, Any], shadow: Shadow) -> dict[str, Any]:
    """How attributions are computed, and which model is asked."""
    background: Sequence[Sequence[Any]] = options["background"][:SHAP_ROWS]
    return {
        "methods": {
            "shap": {
                "baseline": [[_plain(value) for value in row] for row in background],
                "num_samples": SHAP_SAMPLES,
                "agg_method": "mean_abs",
                "use_logit": False,
                "save_local_shap_values": False,
            }
        },
        "predictor": {
            "model_name": shadow.model,
            "instance_type": SHADOW_INSTANCE,
            "initial_instance_count": 1,
            "endpoint_name_prefix": shadow.prefix,
            "content_type": "text/csv",
            "accept_type": "text/csv",
            "label_headers": [options["label"]],
        },
        "headers": list(options["features"]),
    }


def _plain(value: Any) -> Any:
    """A value as readers of CSV see it: a number where it looks like one; 007 is a code."""
    if not isinstance(value, str) or not _NUMBER.fullmatch(value):
        return value
    number = float(value)
    if not math.isfinite(number):
        return value
    return int(value) if _WHOLE.fullmatch(value) else number


# Runs in Model Monitor's container, by itself: the standard library, and what the container hands over.
PREPROCESSOR = '''"""Model Monitor calls preprocess_handler for each captured record: its features by name.

Written by the baseline of data quality. One row a request: the contract has no more.
"""

import base64
import csv
import io
import json

FEATURES = {features!r}
LISTS = {lists!r}
MISSING = {missing!r}


def preprocess_handler(inference_record):
    source = inference_record.endpoint_input
    text = source.data
    if source.encoding == "BASE64":
        text = base64.b64decode(text).decode("utf-8")
    text = text.strip()
    row = first_of_json(json.loads(text)) if text[:1] in ("{{", "[") else next(csv.reader(io.StringIO(text)))
    if isinstance(row, dict):
        found = dict(row)
    else:
        names = FEATURES + ["extra_%d" % number for number in range(1, len(row) - len(FEATURES) + 1)]
        found = dict(zip(names, row))
    return {{name: plain(value) for name, value in found.items() if plain(value) is not None}}


def first_of_json(payload):
    if isinstance(payload, dict):
        rows = next((payload[key] for key in LISTS if isinstance(payload.get(key), list)), None)
        if rows is None:
            return payload
        payload = rows
    return payload[0] if payload and isinstance(payload[0], (dict, list)) else payload


def plain(value):
    if isinstance(value, str):
        value = value.strip()
        return None if value.lower() in MISSING else value
    return value
'''


def preprocessor(features: Sequence[str]) -> str:
    """The program that reads captured records for Model Monitor."""
    return PREPROCESSOR.format(features=list(features), lists=LISTS, missing=MISSING)
