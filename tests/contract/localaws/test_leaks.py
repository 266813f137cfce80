"""The search for secrets finds them, wherever and however they lie open."""

from __future__ import annotations

import base64
import gzip
import io
import json
import tarfile
import uuid
import zipfile
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from localaws.leaks import Finder

SECRET = "s3cr3t/of+a-session=="
ROW = ["below_0_dm", "6", "radio_tv", "1169"]


def tar(data: bytes) -> bytes:
    """A tar with one file."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        entry = tarfile.TarInfo("a/b")
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def zipped(data: bytes) -> bytes:
    """A zip with one file."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.txt", data)
    return out.getvalue()


PLAIN = f"export TOKEN={SECRET}\n".encode()
OPEN: dict[str, bytes] = {
    "as it is": PLAIN,
    "in a URL": f"https://h/?X-Amz-Security-Token={quote(SECRET, safe='')}&a=b".encode(),
    **{
        f"in base64 from {n}": b"Authorization: Basic " + base64.b64encode(b"a" * n + SECRET.encode() + b":x")
        for n in range(4)
    },
    "in a word": f"xx{SECRET}yy".encode(),
    "in a gzip": gzip.compress(PLAIN),
    "in a zip": zipped(PLAIN),
    "in a tar": tar(PLAIN),
    "in a tar.gz in a zip in a tar": tar(zipped(gzip.compress(tar(PLAIN)))),
}


@pytest.mark.parametrize("data", OPEN.values(), ids=OPEN)
def test_a_secret_is_found(data):
    assert {what for what, _ in Finder({"it": SECRET}).find(data)} == {"it"}


def test_what_is_no_secret_is_not_found():
    finder = Finder({"it": SECRET}, {"row": ROW})
    for data in (b"", PLAIN.replace(b"s3", b"s4"), gzip.compress(b"x")[:-3], b"PK\x03\x04 no zip", b"1169,6"):
        assert list(finder.find(data)) == []


@pytest.mark.parametrize(
    "text", [",".join(ROW), json.dumps(ROW), "0  below_0_dm    6  radio_tv   1169 \n", "|".join(ROW)]
)
def test_a_row_is_found_in_any_dress(text):
    assert list(Finder({}, {"row": ROW}).find(text.encode(), "log")) == [("row", "log")]


def test_a_short_secret_is_refused():
    with pytest.raises(ValueError, match="too short"):
        Finder({"it": "abc"})


def where(cloud: Any, secret: str) -> set[str]:
    """The kinds of places in which the running cloud finds a secret."""
    seen = cloud.control("leaks", secrets={"planted": secret})
    return {one["where"].partition(":")[0] for one in seen["found"] if one["what"] == "planted"}


def in_log(cloud: Any, secret: str) -> None:
    group = cloud.name("/group")
    cloud.client("logs").create_log_group(logGroupName=group)
    cloud.client("logs").create_log_stream(logGroupName=group, logStreamName="x")
    events = [{"timestamp": 1_800_000_000_000, "message": f"+ export X={secret}"}]
    cloud.client("logs").put_log_events(logGroupName=group, logStreamName="x", logEvents=events)


def in_stack(cloud: Any, secret: str) -> None:
    cloud.stack({"Topic": {"Type": "AWS::SNS::Topic"}}, {"Out": {"Value": secret}})


def in_parameter(cloud: Any, secret: str) -> None:
    cloud.client("ssm").put_parameter(Name=f"/{cloud.name()}", Type="String", Value=secret)


def in_object(cloud: Any, secret: str) -> None:
    cloud.client("s3").put_object(Bucket=cloud.bucket(), Key="a.zip", Body=zipped(secret.encode()))


def in_old_version(cloud: Any, secret: str) -> None:
    bucket = cloud.bucket()
    for body in (secret, "nothing"):
        cloud.client("s3").put_object(Bucket=bucket, Key="a", Body=body)


def in_repository(cloud: Any, secret: str) -> None:
    name = cloud.name()
    cloud.client("codecommit").create_repository(repositoryName=name)
    files = [{"filePath": "a", "fileContent": secret.encode()}]
    cloud.client("codecommit").create_commit(repositoryName=name, branchName="main", putFiles=files)


def in_image(cloud: Any, secret: str) -> None:
    cloud.image({"/etc/pip.conf": secret}, ["/run"])


def in_mail(cloud: Any, secret: str) -> None:
    topic = cloud.client("sns").create_topic(Name=cloud.name())["TopicArn"]
    cloud.subscribe(topic, "jane@example.com")
    cloud.client("sns").publish(TopicArn=topic, Message=secret)


def in_build(cloud: Any, secret: str) -> None:
    variable = {"name": "A", "value": secret, "type": "PLAINTEXT"}
    spec = {"version": "0.2", "phases": {"build": {"commands": ["true"]}}}
    cloud.client("codebuild").create_project(
        name=cloud.name(),
        source={"type": "NO_SOURCE", "buildspec": json.dumps(spec, indent=1)},
        artifacts={"type": "NO_ARTIFACTS"},
        environment={
            "type": "LINUX_CONTAINER", "image": "x", "computeType": "BUILD_GENERAL1_SMALL",
            "environmentVariables": [variable],
        },
        serviceRole=cloud.role("codebuild"),
    )  # fmt: skip


def in_model(cloud: Any, secret: str) -> None:
    image = cloud.image({"/run": ""}, ["/run"])
    container = {"Image": image, "Environment": {"A": secret}}
    role = cloud.role("sagemaker")
    cloud.client("sagemaker").create_model(
        ModelName=cloud.name(), ExecutionRoleArn=role, PrimaryContainer=container
    )


PLACES: list[tuple[Callable[[Any, str], None], str]] = [
    (in_log, "log"),
    (in_stack, "stack"),
    (in_parameter, "parameter"),
    (in_object, "object"),
    (in_old_version, "object"),
    (in_repository, "repository"),
    (in_image, "image"),
    (in_mail, "mail"),
    (in_build, "build"),
    (in_model, "sagemaker"),
]


@pytest.mark.parametrize(("put", "kind"), PLACES, ids=[p[0].__name__ for p in PLACES])
def test_the_cloud_finds_it_there(cloud, put, kind):
    secret = f"planted-{uuid.uuid4().hex}"
    assert where(cloud, secret) == set()
    put(cloud, secret)
    assert where(cloud, secret) == {kind}


def test_secrets_manager_is_its_place(cloud):
    secret = f"planted-{uuid.uuid4().hex}"
    cloud.client("secretsmanager").create_secret(Name=cloud.name(), SecretString=secret)
    assert where(cloud, secret) == set()


def test_hook_session_secrets(cloud):
    keys = cloud.client("sts").assume_role(RoleArn=cloud.role("lambda"), RoleSessionName="jane")[
        "Credentials"
    ]
    cloud.client("ssm").put_parameter(Name=f"/{cloud.name()}", Type="String", Value=keys["SecretAccessKey"])
    found = [one for one in cloud.control("leaks", secrets={})["found"] if "/jane" in one["what"]]
    assert [one["where"].partition(":")[0] for one in found] == ["parameter"]
