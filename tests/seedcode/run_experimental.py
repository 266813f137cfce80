"""Run a project's experimental.py with the AWS API mocked, and print what it left: pipelines and executions.

python run_experimental.py <project folder> <project id>
"""

import json
import logging
import sys
import warnings

import boto3
from moto import mock_aws

ACCOUNT = "123456789012"


def prepare(project: str) -> None:
    """What the infrastructure, the project and its first build have made."""
    ssm, ecr = boto3.client("ssm"), boto3.client("ecr")
    values = {
        "infra/private-subnet-ids": "subnet-11111111,subnet-22222222",
        "infra/compute-security-group-id": "sg-11111111",
        f"projects/{project}/project-name": "credit",
        f"projects/{project}/cost-center": "4711",
        f"projects/{project}/execution-role-arn": f"arn:aws:iam::{ACCOUNT}:role/mlops/projects/execution",
        f"projects/{project}/bucket-name": f"mlops-{project}-{ACCOUNT}-us-east-1",
        f"projects/{project}/key-arn": f"arn:aws:kms:us-east-1:{ACCOUNT}:key/11111111",
        f"projects/{project}/model-package-group-name": f"mlops-{project}",
    }
    for image in ("preprocessing", "training", "inference"):
        name = f"mlops-{project}/{image}"
        created = ecr.create_repository(repositoryName=name)["repository"]
        values[f"projects/{project}/ecr-{image}-uri"] = created["repositoryUri"]
        manifest = {"schemaVersion": 2, "config": {"digest": f"sha256:{image}"}, "layers": []}
        ecr.put_image(
            repositoryName=name,
            imageManifest=json.dumps(manifest),
            imageManifestMediaType="application/vnd.docker.distribution.manifest.v2+json",
            imageTag="0123456789ab",
        )
    for key, value in values.items():
        ssm.put_parameter(Name=f"/mlops/{key}", Value=value, Type="String")
    boto3.client("s3").create_bucket(Bucket=values[f"projects/{project}/bucket-name"])


def main() -> int:
    """Run it twice: a pipeline that exists is updated."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    folder, project = sys.argv[1:]
    sys.path.insert(0, folder)
    import experimental

    with mock_aws():
        prepare(project)
        codes = [experimental.main(["--wait"]) for _ in range(2)]
        sagemaker = boto3.client("sagemaker")
        (pipeline,) = sagemaker.list_pipelines()["PipelineSummaries"]
        described = sagemaker.describe_pipeline(PipelineName=pipeline["PipelineName"])
        executions = sagemaker.list_pipeline_executions(PipelineName=pipeline["PipelineName"])
        tags = sagemaker.list_tags(ResourceArn=described["PipelineArn"])["Tags"]
    result = {
        "codes": codes,
        "name": described["PipelineName"],
        "role": described["RoleArn"],
        "definition": json.loads(described["PipelineDefinition"]),
        "executions": len(executions["PipelineExecutionSummaries"]),
        "tags": {tag["Key"]: tag["Value"] for tag in tags},
    }
    print("RESULT " + json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
