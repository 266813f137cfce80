"""Print a project's pipeline definitions, made with the AWS API mocked.

python define_pipeline.py <project folder> < {name: settings} > {name: {"definition", "objects", "files"}}

A program of its own: the tests compare what two processes make of the same files, and several projects have
the same module names. A definition that fails is given as {"error": …}.
"""

import json
import logging
import socket
import sys
import warnings
from typing import Any

import boto3
from moto import mock_aws

QUIET = {"SchemaVersion": "1.0", "SageMaker": {"PythonSDK": {"Modules": {"TelemetryOptOut": True}}}}

SESSION = boto3.Session()  # one for all: it reads the service models once


def define(settings: dict[str, Any]) -> dict[str, Any]:
    """Make one definition in an account of its own; what it is, and what was uploaded for it."""
    from pipeline import get_pipeline
    from sagemaker.core.workflow.pipeline_context import PipelineSession

    bucket = settings["bucket"]
    with mock_aws():
        s3 = SESSION.client("s3")
        s3.create_bucket(Bucket=bucket)
        session = PipelineSession(boto_session=SESSION, default_bucket=bucket, sagemaker_config=QUIET)
        try:
            definition = get_pipeline(settings, session).definition()
        except FileNotFoundError as error:
            return {"error": str(error)}
        keys = [entry["Key"] for entry in s3.list_objects_v2(Bucket=bucket).get("Contents", [])]
        heads = {key: s3.head_object(Bucket=bucket, Key=key) for key in keys}
        files = {
            key: s3.get_object(Bucket=bucket, Key=key)["Body"].read().decode()
            for key in keys
            if key.endswith(".json")
        }
    objects = {key: [head["ContentLength"], head.get("SSEKMSKeyId")] for key, head in heads.items()}
    return {"definition": definition, "objects": objects, "files": files}


def refuse(self: socket.socket, address: object) -> None:
    """Stand in for socket.connect: what is not mocked must not reach a network."""
    raise OSError(f"a connection to {address} was tried while the pipeline was defined")


def main() -> None:
    """Read the settings from standard input and write the definitions to standard output."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    sys.path.insert(0, sys.argv[1])
    socket.socket.connect = refuse  # type: ignore[method-assign]
    json.dump({name: define(settings) for name, settings in json.load(sys.stdin).items()}, sys.stdout)


if __name__ == "__main__":
    main()
