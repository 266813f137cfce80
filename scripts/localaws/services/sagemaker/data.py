"""S3 and archives for jobs and model servers: what they read and write, under their role."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError


class DataError(RuntimeError):
    """Data that cannot be read or written; worded as SageMaker's FailureReason (``ClientError: …``)."""


def split(uri: str) -> tuple[str, str]:
    """Bucket and key of an S3 URI."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def join(uri: str, *parts: str) -> str:
    """An S3 URI with parts below it."""
    return "/".join([uri.rstrip("/"), *(p.strip("/") for p in parts)])


def keys(s3: Any, uri: str) -> Iterator[str]:
    """Every key below a prefix; folder markers are left out."""
    bucket, prefix = split(uri)
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        yield from (o["Key"] for o in page.get("Contents", []) if not o["Key"].endswith("/"))


def relative(key: str, prefix: str) -> str:
    """Where SageMaker puts an object: below the prefix when that is a folder, else below its folder."""
    if key != prefix and (prefix.endswith("/") or not prefix or key[len(prefix) :].startswith("/")):
        return key[len(prefix) :].lstrip("/")
    return key[prefix.rfind("/") + 1 :]


def download(s3: Any, uri: str, target: Path, kind: str = "S3Prefix", role: str = "") -> int:
    """Download what a data source names (``S3Prefix`` or ``ManifestFile``) into a folder; how many files.

    Raises DataError when there is nothing, or the role may not read it.
    """
    target.mkdir(parents=True, exist_ok=True)
    bucket, prefix = split(uri)
    try:
        if kind == "ManifestFile":
            wanted = list(_manifest(s3, uri))
        elif kind == "S3Prefix":
            wanted = [(bucket, key, relative(key, prefix)) for key in keys(s3, uri)]
        else:
            raise DataError(
                f"ClientError: S3DataType {kind} is not run by the local cloud; use S3Prefix or ManifestFile"
            )
        for place, key, path in wanted:
            file = target / path
            file.parent.mkdir(parents=True, exist_ok=True)
            s3.download_file(place, key, str(file))
    except ClientError as error:
        raise DataError(_denied(error, uri, role)) from error
    if not wanted:
        raise DataError(
            f'ClientError: No S3 objects found under S3 URL "{uri}" given in input data source. '
            "Please ensure that "
            "the bucket exists in the selected region, that objects exist under that S3 prefix, and "
            "that the role "
            f'"{role}" has "s3:ListBucket" permissions on bucket "{bucket}".'
        )
    return len(wanted)


def _manifest(s3: Any, uri: str) -> Iterator[tuple[str, str, str]]:
    bucket, key = split(uri)
    try:
        first, *rest = json.loads(s3.get_object(Bucket=bucket, Key=key)["Body"].read())
        place, prefix = split(first["prefix"])
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(
            f'ClientError: Manifest file {uri} is not a JSON list that begins with {{"prefix": "s3://…"}}'
        ) from error
    for name in rest:
        yield place, prefix + name, name


def read(s3: Any, uri: str) -> bytes:
    """One object's content. Raises DataError."""
    bucket, key = split(uri)
    try:
        return s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    except ClientError as error:
        raise DataError(_denied(error, uri, "")) from error


def upload(s3: Any, source: Path, uri: str, key_id: str | None = None) -> int:
    """Upload a file to ``uri``, or a folder's files below it; how many."""
    files = [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.is_file())
    bucket, prefix = split(uri)
    for file in files:
        key = (
            prefix
            if source.is_file()
            else "/".join(p for p in (prefix.rstrip("/"), str(file.relative_to(source))) if p)
        )
        put(s3, bucket, key, file.read_bytes(), key_id)
    return len(files)


def put(s3: Any, bucket: str, key: str, body: bytes, key_id: str | None = None) -> None:
    """Write one object under the job's key, or the key of S3 that AWS manages. Raises DataError."""
    extra = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": key_id or "alias/aws/s3"}
    try:
        s3.put_object(Bucket=bucket, Key=key, Body=body, **extra)
    except ClientError as error:
        raise DataError(_denied(error, f"s3://{bucket}/{key}", "", "upload")) from error


def pack(folder: Path) -> bytes:
    """A folder's content as a gzipped tar, the form of ``model.tar.gz``."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", compresslevel=6) as archive:
        for path in sorted(folder.iterdir()):
            archive.add(path, path.name)
    return out.getvalue()


def unpack(content: bytes, target: Path, uri: str) -> None:
    """Unpack a ``model.tar.gz``. Raises DataError."""
    target.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            archive.extractall(target, filter="data")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(
            f'Failed to extract model data archive from URL "{uri}". Please ensure that the object '
            "located at the URL "
            f"is a valid tar.gz archive. ({error})"
        ) from error


def exists(s3: Any, uri: str) -> bool:
    """Whether an object is there (a prefix with objects counts when the URI ends with a slash)."""
    bucket, key = split(uri)
    try:
        if uri.endswith("/") or not key:
            return bool(s3.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1).get("KeyCount"))
        s3.head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
            return False
        raise
    return True


def _denied(error: ClientError, uri: str, role: str, what: str = "download") -> str:
    problem = error.response["Error"]
    return (
        f"ClientError: Data {what} failed:{problem.get('Code')} "
        f"({error.response['ResponseMetadata']['HTTPStatusCode']}) "
        f"for {uri}{f' under role {role}' if role else ''}: {problem.get('Message')}"
    )
