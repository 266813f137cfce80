"""Print a project's pipeline definition, made with the AWS API mocked.

python define_pipeline.py <project folder> < settings.json > {"definition": …, "objects": …}

A program of its own: the tests compare what two processes make of the same files, and several projects have
the same module names.
"""

import json
import logging
import socket
import sys
import warnings

import boto3
from moto import mock_aws


def main() -> None:
    """Read the settings from standard input and write the definition to standard output."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    settings = json.load(sys.stdin)
    sys.path.insert(0, sys.argv[1])
    with mock_aws():
        # Whatever is not mocked must not reach a network either.
        socket.socket.connect = refuse  # type: ignore[method-assign]
        s3 = boto3.client("s3")
        s3.create_bucket(Bucket=settings["bucket"])
        from pipeline import get_pipeline
        from sagemaker.core.workflow.pipeline_context import PipelineSession

        quiet = {"SchemaVersion": "1.0", "SageMaker": {"PythonSDK": {"Modules": {"TelemetryOptOut": True}}}}
        session = PipelineSession(
            boto_session=boto3.Session(), default_bucket=settings["bucket"], sagemaker_config=quiet
        )
        pipeline = get_pipeline(settings, session)
        definition = pipeline.definition()
        get_pipeline(settings, session)  # a second time: nothing may be uploaded twice
        versions = s3.list_objects_v2(Bucket=settings["bucket"]).get("Contents", [])
        heads = {o["Key"]: s3.head_object(Bucket=settings["bucket"], Key=o["Key"]) for o in versions}
        json.dump(
            {
                "definition": definition,
                "objects": {
                    key: [head["ContentLength"], head.get("SSEKMSKeyId")] for key, head in heads.items()
                },
            },
            sys.stdout,
        )


def refuse(self: socket.socket, address: object) -> None:
    """Stand in for socket.connect."""
    raise OSError(f"a connection to {address} was tried while the pipeline was defined")


if __name__ == "__main__":
    main()
