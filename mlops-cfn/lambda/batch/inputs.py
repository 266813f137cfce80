"""Input files of batch projects: which are new, whether they can be scored, and a frozen copy of each.

An input is a version of an object below batch/input/<stage>/. What a job reads is a copy under a name of our
own: a version that is overwritten meanwhile, a header line and a hostile name stay outside of it.
"""

from __future__ import annotations

import csv
import hashlib
import io
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import quote

logger = logging.getLogger(__name__)

STAGES = ("staging", "production")
INPUT, OUTPUT, TESTS = "batch/input", "batch/output", "batch/tests"
RUNS, QUARANTINE = "batch/runs", "batch/quarantine"
TEST_FOLDER = "smoke-test/"  # no reader and no monitor sees the results of what lies here
HEAD = 256 * 1024  # bytes in which the first row must end
PART = 1024**3  # bytes that S3 copies at once; it takes 5 GiB
LONGEST_NAME = 700  # of the 1,024 bytes that a key may have
BOM = b"\xef\xbb\xbf"
AT_ONCE = 16


@dataclass(frozen=True)
class Input:
    """One version of an uploaded object."""

    key: str
    version: str
    size: int
    day: str  # when an object of this name came first: its results stay in this partition

    @property
    def id(self) -> str:
        """Name of the copy that a job reads."""
        return hashlib.sha256(self.key.encode()).hexdigest()[:32]

    @property
    def name(self) -> str:
        """The name below the stage's folder as one part of a key, different for each input.

        Athena does not see what begins with _ or a dot.
        """
        text = quote(self.key.split("/", 3)[3], safe="")
        if text[0] in "_.":
            text = f"%{ord(text[0]):02X}{text[1:]}"
        return text if len(text) <= LONGEST_NAME else f"{text[:LONGEST_NAME]}~{self.id}"

    @property
    def is_test(self) -> bool:
        """Whether a test of the deploy pipeline uploaded it."""
        return self.key.split("/", 3)[3].startswith(TEST_FOLDER)

    def published(self, stage: str, columns: str) -> str:
        """Where readers find its rows: one object, so that it appears and changes as a whole."""
        if self.is_test:
            return f"{TESTS}/{stage}/{self.name}.out"
        return f"{OUTPUT}/{stage}/{columns}/day={self.day}/{self.name}.out"

    def quarantined(self, stage: str) -> str:
        """Where the reason lies when it could not be scored."""
        return f"{QUARANTINE}/{stage}/{self.name}.json"


@dataclass(frozen=True)
class Verdict:
    """What the first row of an input tells: where its rows begin, or why it cannot be scored."""

    begin: int = 0
    empty: bool = False
    refused: str = ""


def stage_of(event: dict[str, Any], project: str) -> str:
    """The stage that an event is about: a schedule's, an upload's, a transform job's."""
    detail = event.get("detail") or {}
    key = (detail.get("object") or {}).get("key", "")
    job = detail.get("TransformJobName", "")
    for stage in STAGES:
        named = event.get("stage") == stage
        if named or key.startswith(f"{INPUT}/{stage}/") or job.startswith(f"mlops-{project}-batch-{stage}-"):
            return stage
    raise ValueError(f"the event names no stage of {', '.join(STAGES)}")


def listing(s3: Any, bucket: str, stage: str) -> Iterator[dict[str, Any]]:
    """The newest version of every object below the stage's folder; folders of the console are none."""
    pages = s3.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=f"{INPUT}/{stage}/")
    for page in pages:
        for item in page.get("Versions", []):
            if item["IsLatest"] and not item["Key"].endswith("/"):
                yield item


def look(s3: Any, bucket: str, one: Input, columns: Sequence[str]) -> Verdict:
    """Judge an input by its first row: empty, with a header that is left out, or not what the model takes."""
    if not one.size:
        return Verdict(empty=True)
    head = s3.get_object(
        Bucket=bucket, Key=one.key, VersionId=one.version, Range=f"bytes=0-{min(one.size, HEAD) - 1}"
    )["Body"].read()
    begin = len(BOM) if head.startswith(BOM) else 0
    end = head.find(b"\n", begin) + 1 or len(head)
    if end == len(head) and len(head) < one.size:
        return Verdict(refused=f"its first line is longer than {HEAD:,} bytes")
    try:
        text = head[begin:end].decode("utf-8")
        cells = next(csv.reader(io.StringIO(text), strict=True), [])
    except UnicodeDecodeError:
        return Verdict(refused="it is not a text in UTF-8: CSV is expected, not compressed")
    except csv.Error as error:
        return Verdict(refused=f"its first line is not CSV: {error}")
    if "\0" in text:
        return Verdict(refused="it is not a text in UTF-8: CSV is expected, not compressed")
    names = [cell.strip() for cell in cells]
    if names == list(columns):
        return Verdict(begin=end, empty=end >= one.size)
    if any(names) and set(names) <= set(columns):
        return Verdict(refused=f"its header is {shown(names)}; expected: {shown(columns)}, in this order")
    if any(names) and len(names) != len(columns):
        return Verdict(
            refused=f"its first line has {len(names)} values; expected {len(columns)}: {shown(columns)}"
        )
    return Verdict(begin=begin, empty=begin >= one.size)


def shown(names: Sequence[str]) -> str:
    """Names in a sentence."""
    text = ", ".join(names)
    return text if len(text) <= 300 else f"{text[:300]} ..."


def freeze(s3: Any, bucket: str, one: Input, begin: int, target: str, key_arn: str) -> None:
    """Copy a version of an input, from a byte on, inside S3: no data comes here."""
    source = {"Bucket": bucket, "Key": one.key, "VersionId": one.version}
    copy(s3, bucket, source, one.size, target, key_arn, begin)


def copy(
    s3: Any,
    bucket: str,
    source: dict[str, str],
    size: int,
    target: str,
    key_arn: str,
    begin: int = 0,
    metadata: dict[str, str] | None = None,
) -> None:
    """Copy an object inside S3: at its target nothing is seen before all of it is there.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/CopyingObjectsMPUapi.html
    """
    how = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": key_arn, "ContentType": "text/csv"}
    if metadata is not None:
        how["Metadata"] = metadata
    if not begin and size <= PART:
        whole = {"MetadataDirective": "REPLACE", "TaggingDirective": "REPLACE"}
        s3.copy_object(Bucket=bucket, Key=target, CopySource=source, **whole, **how)
        return
    upload = s3.create_multipart_upload(Bucket=bucket, Key=target, **how)["UploadId"]
    place = {"Bucket": bucket, "Key": target, "UploadId": upload}
    try:
        parts = []
        for number, start in enumerate(range(begin, size, PART), 1):
            span = f"bytes={start}-{min(start + PART, size) - 1}"
            made = s3.upload_part_copy(CopySource=source, CopySourceRange=span, PartNumber=number, **place)
            parts.append({"PartNumber": number, "ETag": made["CopyPartResult"]["ETag"]})
        s3.complete_multipart_upload(MultipartUpload={"Parts": parts}, **place)
    except BaseException:
        s3.abort_multipart_upload(**place)
        raise


def each(work: Any, items: Sequence[Any]) -> list[Any]:
    """The results of a call for each item, some at a time; the first failure is raised."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(work, items))


def as_json(one: Input) -> dict[str, Any]:
    """An input in the plan of a run."""
    return asdict(one)
