"""The only module that knows the SageMaker Python SDK and its quirks (v3, pinned in requirements.txt).

- Telemetry: a session calls home (an S3 bucket, sts) unless its configuration opts out; a build in the VPC
  would wait for a route that does not exist.
- Role check: trainers and pipelines simulate the execution role's policies unless
  SAGEMAKER_VALIDATE_ROLE says no; the build role may not, and need not, do that.
- Noise: the SDK logs what it sets and drops, a screen of it a pipeline; the build log is for people.
- Default bucket: a session without one creates sagemaker-<region>-<account>; ours has the project's.
- Importing costs seconds, so it is done in the functions.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from .console import Fault

CONFIGURATION = {"SchemaVersion": "1.0", "SageMaker": {"PythonSDK": {"Modules": {"TelemetryOptOut": True}}}}
MODULE_NAME = "project_pipeline"


def pipeline_session(boto_session: Any, bucket: str) -> Any:
    """A PipelineSession that creates no bucket, calls no home and simulates no role."""
    os.environ["SAGEMAKER_VALIDATE_ROLE"] = "false"
    from sagemaker.core.workflow.pipeline_context import PipelineSession

    return PipelineSession(boto_session=boto_session, default_bucket=bucket, sagemaker_config=CONFIGURATION)


@contextmanager
def quiet() -> Iterator[None]:
    """Drop log records below errors: the SDK resets its loggers' levels as it goes, so levels do not help."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def base_image(framework: dict[str, str], image: str, region: str, instance_type: str) -> str:
    """Address of the SageMaker image that a project's image is built on, in AWS's registry of the region."""
    from sagemaker.core import image_uris

    scope = "inference" if image == "inference" else "training"
    try:
        return image_uris.retrieve(
            framework["name"],
            region,
            version=framework["version"],
            instance_type=instance_type,
            image_scope=scope,
        )
    except ValueError as error:
        reason = str(error).strip().splitlines()[0]
        raise Fault(
            f"mlops.yml: framework {framework['name']} {framework['version']} has no {scope} image "
            f"in {region}: {reason}"
        ) from error


def load_definition(project: Path, settings: dict[str, Any], session: Any) -> str:
    """The definition JSON of the pipeline that the project's pipeline.py describes."""
    with quiet(), working_in(project):
        module = load_module(project / "pipeline.py")
        get_pipeline = getattr(module, "get_pipeline", None)
        if not callable(get_pipeline):
            raise Fault("pipeline.py has no function get_pipeline(settings, session): the build calls it")
        pipeline = get_pipeline(settings, session)
        if not callable(getattr(pipeline, "definition", None)):
            raise Fault(
                f"get_pipeline in pipeline.py returned {type(pipeline).__name__}; it must return a Pipeline"
            )
        if pipeline.name != settings["pipeline_name"]:
            raise Fault(
                f"pipeline.py names its pipeline {pipeline.name}; it must be settings['pipeline_name'], "
                f"which is {settings['pipeline_name']}"
            )
        definition = pipeline.definition()
    json.loads(definition)
    return definition


def load_module(path: Path) -> ModuleType:
    """Import the project's pipeline.py under a name that no package has."""
    if not path.is_file():
        raise Fault(f"{path} is missing: it describes the project's pipeline")
    spec = importlib.util.spec_from_file_location(MODULE_NAME, path)
    if spec is None or spec.loader is None:
        raise Fault(f"{path} is no Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[MODULE_NAME] = module
    spec.loader.exec_module(module)
    return module


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Relative paths and imports in the project's code mean the project."""
    before, path = Path.cwd(), list(sys.path)
    os.chdir(folder)
    sys.path.insert(0, str(folder.resolve()))
    try:
        yield
    finally:
        os.chdir(before)
        sys.path[:] = path
