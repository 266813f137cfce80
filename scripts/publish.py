"""Publishes a release of the platform to S3 and prints the link that launches it (flow A).

Called by a Full Stack Developer (`make publish`), by scripts/deploy.py, by ModelRepoPipeline and by the
rehearsal. Publishing the same commit again changes nothing; a published key is never overwritten, and what
the bucket holds is compared with the release before anybody is told of it. JSON on stdout, sentences on
stderr.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import boto3
from botocore.exceptions import BotoCoreError, ClientError

import release

STACK_NAME = "mlops-platform"
BUILD = release.ROOT / "build/release"
# CloudFormation reads nested and product templates under the launch roles, which may read objects with this
# tag only
TEMPLATE_TAG = "servicecatalog:provisioning=true"


class PublishError(RuntimeError):
    """Publishing cannot go on; the message says why and what to do."""


FAULTS = (release.ReleaseError, release.compose.ComposeError, PublishError)


def default_bucket(account: str, region: str) -> str:
    """The release bucket of an account and region."""
    return f"mlops-release-{account}-{region}"


def dns_suffix(session: boto3.Session, region: str) -> str:
    """amazonaws.com, or what the region's partition uses."""
    return "amazonaws.com.cn" if session.get_partition_for_region(region) == "aws-cn" else "amazonaws.com"


def ensure_bucket(s3: Any, bucket: str, region: str, partition: str) -> bool:
    """Make the release bucket if it is not there: versioned, private, TLS only. True when it was made."""
    try:
        s3.head_bucket(Bucket=bucket)
        return False
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
            raise PublishError(
                f"bucket {bucket} exists but is not yours to use: pass --bucket with another name"
            ) from error
    place = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
    s3.create_bucket(Bucket=bucket, **place)
    s3.put_public_access_block(
        Bucket=bucket,
        PublicAccessBlockConfiguration={
            "BlockPublicAcls": True,
            "IgnorePublicAcls": True,
            "BlockPublicPolicy": True,
            "RestrictPublicBuckets": True,
        },
    )
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    arn = f"arn:{partition}:s3:::{bucket}"
    tls_only = {
        "Sid": "TlsOnly",
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:*",
        "Resource": [arn, f"{arn}/*"],
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }
    # Stacks, projects and pipelines run what lies at a published key: nobody may put other content there.
    never_overwritten = {
        "Sid": "NeverOverwritten",
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:PutObject",
        "Resource": f"{arn}/*",
        "Condition": {"Null": {"s3:if-none-match": "true"}, "Bool": {"s3:ObjectCreationOperation": "true"}},
    }
    policy = {"Version": "2012-10-17", "Statement": [tls_only, never_overwritten]}
    s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))
    return True


def upload(s3: Any, bucket: str, objects: dict[str, bytes]) -> int:
    """Put what is not there yet and return how many that were."""
    new = 0
    for key, data in sorted(objects.items()):
        try:
            s3.head_object(Bucket=bucket, Key=key)
            continue
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
                raise
        tag = {"Tagging": TEMPLATE_TAG} if key.endswith(".yaml") else {}
        try:
            # IfNoneMatch: another publisher may have been faster, and a published key stays as it is
            s3.put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*", **tag)
        except ClientError as error:
            if error.response["Error"]["Code"] != "PreconditionFailed":
                raise
        new += 1
    return new


def verify(s3: Any, bucket: str, checksums: Mapping[str, str]) -> None:
    """Compare what the bucket holds with the release's checksums. Raises PublishError for a difference."""
    for key, expected in sorted(checksums.items()):
        try:
            content = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        except ClientError as error:
            code = error.response["Error"]["Code"]
            raise PublishError(f"s3://{bucket}/{key} of the release cannot be read ({code})") from error
        found = hashlib.sha256(content).hexdigest()
        if found != expected:
            raise PublishError(
                f"s3://{bucket}/{key} is not what this release holds (SHA-256 {found}, expected {expected}): "
                "somebody changed it. Deploy nothing from this bucket, look at the object's versions, and "
                "publish to another bucket (--bucket)"
            )


def quick_create_url(region: str, suffix: str, template_url: str, stack_name: str = STACK_NAME) -> str:
    """The link that opens the launch form with everything filled in."""
    console = "amazonaws.cn" if suffix.endswith(".cn") else "aws.amazon.com"
    return (
        f"https://{region}.console.{console}/cloudformation/home?region={region}#/stacks/create/review"
        f"?templateURL={quote(template_url, safe='')}&stackName={quote(stack_name, safe='')}"
    )


def write_package(built: release.Release, summary: dict[str, Any], folder: Path, with_objects: bool) -> None:
    """What other tools read: the packaged entry (taskcat), the summary, and the objects of a package that
    is not uploaded.
    """
    shutil.rmtree(folder / "objects", ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "1-infra.yaml").write_bytes(built.entry)
    (folder / "release.json").write_text(json.dumps(summary, indent=2) + "\n")
    for key, data in built.objects.items() if with_objects else ():
        path = folder / "objects" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def publish(
    session: boto3.Session, root: Path, bucket: str | None = None, version: str | None = None
) -> tuple[release.Release, dict[str, Any]]:
    """Build the release of these sources, upload what is new and return it with its summary."""
    region = session.region_name
    if not region:
        raise PublishError("no region: set AWS_REGION or configure one with `aws configure`")
    account = session.client("sts").get_caller_identity()["Account"]
    built = release.build(
        root, version or release.version_of(root), bucket or default_bucket(account, region)
    )
    s3 = session.client("s3")
    ensure_bucket(s3, built.bucket, region, session.get_partition_for_region(region))
    new = upload(s3, built.bucket, built.objects)
    verify(s3, built.bucket, built.checksums)
    suffix = dns_suffix(session, region)
    url = f"https://{built.bucket}.s3.{region}.{suffix}/{built.entry_key}"
    return built, {
        "version": built.version,
        "bucket": built.bucket,
        "template_url": url,
        "quick_create_url": quick_create_url(region, suffix, url),
        "keys": built.keys,
        "manifest_key": built.manifest_key,
        "new_objects": new,
    }


def main(argv: list[str] | None = None, session: boto3.Session | None = None) -> int:
    """Publish, or only package; exit 0 done, 1 fault, 2 usage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--bucket", help="release bucket; default mlops-release-<account>-<region>, made if absent"
    )
    parser.add_argument("--version", help="default: the git tag, or the last tag and the commit")
    parser.add_argument("--root", type=Path, default=release.ROOT, help="the platform's sources")
    parser.add_argument("--out", type=Path, default=BUILD, help="folder for 1-infra.yaml and release.json")
    parser.add_argument(
        "--package-only", action="store_true", help="build everything into --out and upload nothing"
    )
    arguments = parser.parse_args(argv)
    try:
        if arguments.package_only:
            bucket = arguments.bucket or "unpublished"
            built = release.build(
                arguments.root, arguments.version or release.version_of(arguments.root), bucket
            )
            summary = {
                "version": built.version,
                "bucket": built.bucket,
                "keys": built.keys,
                "entry_key": built.entry_key,
                "manifest_key": built.manifest_key,
            }
        else:
            built, summary = publish(
                session or boto3.Session(), arguments.root, arguments.bucket, arguments.version
            )
    except (*FAULTS, ClientError, BotoCoreError) as error:
        print(f"publish: {error}", file=sys.stderr)
        return 1
    write_package(built, summary, arguments.out, arguments.package_only)
    print(json.dumps(summary, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
