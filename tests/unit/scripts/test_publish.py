"""Publishing is repeatable, overwrites nothing, and prints a link that launches what it published."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import boto3
import pytest

import publish
import release

ACCOUNT, REGION = "123456789012", "us-east-1"


@pytest.fixture
def session(cloud_session: boto3.Session) -> boto3.Session:
    """The local cloud: moto's S3 refuses every call to a bucket whose policy demands TLS."""
    return cloud_session


def test_publishing_twice_writes_once(session: boto3.Session) -> None:
    built, first = publish.publish(session, release.ROOT, version="9.9.1")
    _, second = publish.publish(session, release.ROOT, version="9.9.1")
    assert (first["new_objects"], second["new_objects"]) == (len(built.objects), 0)
    assert {**first, "new_objects": 0} == second


def test_a_published_key_is_never_overwritten(session: boto3.Session) -> None:
    s3 = session.client("s3")
    publish.ensure_bucket(s3, "a-release-bucket-2", REGION, "aws")
    publish.upload(s3, "a-release-bucket-2", {"1.0.0/x.yaml": b"first"})
    publish.upload(s3, "a-release-bucket-2", {"1.0.0/x.yaml": b"second"})
    assert s3.get_object(Bucket="a-release-bucket-2", Key="1.0.0/x.yaml")["Body"].read() == b"first"


def test_the_bucket_is_versioned_private_and_tls_only(session: boto3.Session) -> None:
    s3 = session.client("s3")
    assert publish.ensure_bucket(s3, "a-release-bucket-3", REGION, "aws")
    assert not publish.ensure_bucket(s3, "a-release-bucket-3", REGION, "aws")
    assert s3.get_bucket_versioning(Bucket="a-release-bucket-3")["Status"] == "Enabled"
    assert all(
        s3.get_public_access_block(Bucket="a-release-bucket-3")["PublicAccessBlockConfiguration"].values()
    )
    statement = json.loads(s3.get_bucket_policy(Bucket="a-release-bucket-3")["Policy"])["Statement"][0]
    assert (statement["Effect"], statement["Condition"]) == (
        "Deny",
        {"Bool": {"aws:SecureTransport": "false"}},
    )


def test_templates_carry_the_tag_that_launch_roles_may_read(session: boto3.Session) -> None:
    built, summary = publish.publish(session, release.ROOT, version="9.9.4")
    tags = session.client("s3").get_object_tagging(
        Bucket=summary["bucket"], Key=built.keys["ProjectTemplate"]
    )
    assert tags["TagSet"] == [{"Key": "servicecatalog:provisioning", "Value": "true"}]


def test_the_quick_create_link_opens_the_published_entry(session: boto3.Session) -> None:
    built, summary = publish.publish(session, release.ROOT, version="9.9.5")
    link = urlsplit(summary["quick_create_url"])
    query = parse_qs(link.fragment.partition("?")[2])
    assert link.netloc == "us-east-1.console.aws.amazon.com"
    assert query == {"templateURL": [summary["template_url"]], "stackName": ["mlops-platform"]}
    assert summary["template_url"] == (
        f"https://mlops-release-{ACCOUNT}-{REGION}.s3.{REGION}.amazonaws.com/{built.entry_key}"
    )


def test_the_entry_that_launches_is_small_enough_to_be_pasted(session: boto3.Session) -> None:
    built = release.build(release.ROOT, "9.9.9", "bucket")
    assert len(built.entry) < 51_200


def test_packaging_needs_no_account(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert publish.main(["--package-only", "--version", "9.9.9", "--out", str(tmp_path)]) == 0
    summary = json.loads(capsys.readouterr().out)
    for key in [*summary["keys"].values(), summary["entry_key"]]:
        assert (tmp_path / "objects" / key).exists(), key
    assert (tmp_path / "1-infra.yaml").read_bytes() == (
        tmp_path / "objects" / summary["entry_key"]
    ).read_bytes()


def test_a_fault_is_one_sentence_and_exit_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert publish.main(["--package-only", "--root", str(tmp_path), "--version", "1.0.0"]) == 1
    assert "1-infra.yaml is missing" in capsys.readouterr().err
