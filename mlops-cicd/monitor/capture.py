"""Captured traffic of a window: lists the objects of its hours, streams them in bounded pieces, gives rows.

Objects lie at <prefix>/<endpoint>/<variant>/yyyy/mm/dd/hh/*.jsonl, in the hour of their writing. Memory does
not grow with what is read: an object is read piece by piece, and a few pieces are on their way at a time.
"""

from __future__ import annotations

import re
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import polars as pl

from . import MonitorError
from .intake import Intake
from .lines import Counted, Wanted, occurrences, read_lines
from .payload import present
from .settings import Settings
from .truth import TRUTH, join_truth, read_truth

Refuse = Callable[[str, int, bytes], None]

PIECE = 16 << 20  # bytes that are parsed at once
LONGEST_LINE = 64 << 20  # an endpoint takes 25 MB a request, a third more in base64
LARGEST_UNPACKED = 64 << 30  # of one gzip object: deflate packs 1,000 to 1
READERS = 2  # pieces that are parsed side by side
AHEAD = 8  # objects whose beginning is fetched before their turn
TRIES = 4
ENDINGS = (".jsonl", ".jsonl.gz")
SHADOW = "Shadow"  # the variant that gets copies of requests, and whose answers nobody gets
HOUR = re.compile(r"(?:^|/)(\d{4}/\d\d/\d\d/\d\d)/[^/]*$")
GONE = ("NoSuchKey", "404", "NotFound")


@dataclass(frozen=True)
class Source:
    """One object or file."""

    name: str
    hour: str  # its folder yyyy/mm/dd/hh, or nothing
    open: Callable[[], Iterator[bytes]]


class Gone(Exception):
    """A listed object is there no more."""


@dataclass(frozen=True)
class Share:
    """Which part of the objects this host reads."""

    index: int = 0
    count: int = 1

    def has(self, name: str) -> bool:
        """Whether an object is of this part; by its name alone, so that a late listing changes nothing."""
        return zlib.crc32(name.encode("utf-8")) % self.count == self.index


# ------------------------------------------------------------ where


def split_uri(uri: str, setting: str) -> tuple[str, str]:
    """Bucket and key prefix of an s3:// address."""
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    if not uri.startswith("s3://") or not bucket:
        raise MonitorError(f"{setting} is {uri!r}; it must look like s3://bucket/prefix")
    return bucket, prefix.strip("/")


def list_keys(s3: Any, bucket: str, prefix: str) -> list[str]:
    """Keys below a prefix, in order."""
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return sorted(item["Key"] for page in pages for item in page.get("Contents", []) if item["Size"])


def s3_sources(s3: Any, bucket: str, prefixes: list[str], intake: Intake) -> list[Source]:
    """Objects below prefixes that hold capture or ground truth."""
    keys = [key for prefix in prefixes for key in list_keys(s3, bucket, prefix)]
    found = [
        Source(f"s3://{bucket}/{key}", hour_of(key), lambda key=key: stream_object(s3, bucket, key))
        for key in keys
        if key.endswith(ENDINGS)
    ]
    intake.ignored += len(keys) - len(found)
    return found


def capture_sources(settings: Settings, s3: Any, intake: Intake) -> list[Source]:
    """Objects that can hold the window's records, hour by hour, over all variants that answer."""
    hours = list(settings.window.hours())
    if settings.capture is not None:
        return folder_sources(settings.capture, hours, intake)
    bucket, prefix = split_uri(settings.capture_uri, "CAPTURE_URI")
    root = f"{prefix}/{settings.endpoint}/" if prefix else f"{settings.endpoint}/"
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=root, Delimiter="/")
    variants = sorted(item["Prefix"] for page in pages for item in page.get("CommonPrefixes", []))
    variants = [one for one in variants if one != f"{root}{SHADOW}/"]
    return s3_sources(s3, bucket, [f"{v}{hour}/" for hour in hours for v in variants], intake)


def truth_sources(settings: Settings, s3: Any, intake: Intake) -> list[Source]:
    """Objects with ground truth of the window's hours."""
    hours = list(settings.window.hours())
    if settings.ground_truth is not None:
        return folder_sources(settings.ground_truth, hours, intake)
    if not settings.ground_truth_uri:
        raise MonitorError(f"GROUND_TRUTH_URI is not set: {settings.kind} needs what really happened")
    bucket, prefix = split_uri(settings.ground_truth_uri, "GROUND_TRUTH_URI")
    root = f"{prefix}/" if prefix else ""
    return s3_sources(s3, bucket, [f"{root}{hour}/" for hour in hours], intake)


def folder_sources(folder: Path, hours: list[str], intake: Intake) -> list[Source]:
    """Files of a folder; those in folders of other hours are left out."""
    if not folder.is_dir():
        raise MonitorError(f"{folder} is no folder: captured files are expected there")
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        hour = hour_of(name)
        if hour and hour not in hours:
            continue
        if not name.endswith(ENDINGS):
            intake.ignored += 1
        else:
            found.append(Source(name, hour, lambda path=path: stream_file(path)))
    return sorted(found, key=lambda source: (source.hour, source.name))


def hour_of(name: str) -> str:
    """Folder yyyy/mm/dd/hh of an object."""
    match = HOUR.search(name)
    return match[1] if match else ""


# ------------------------------------------------------------ bytes


def stream_file(path: Path) -> Iterator[bytes]:
    """Bytes of a file, piece by piece."""
    with path.open("rb", buffering=0) as stream:
        while piece := stream.read(PIECE):
            yield piece


def stream_object(s3: Any, bucket: str, key: str) -> Iterator[bytes]:
    """Bytes of an object, piece by piece; a broken connection goes on where it broke."""
    from botocore.exceptions import ClientError, HTTPClientError, ReadTimeoutError, ResponseStreamingError

    broken = (HTTPClientError, ReadTimeoutError, ResponseStreamingError, ConnectionError)
    offset, tries, etag = 0, 0, ""
    while True:
        wanted: dict[str, Any] = {"Range": f"bytes={offset}-", "IfMatch": etag} if offset else {}
        try:
            answer = s3.get_object(Bucket=bucket, Key=key, **wanted)
            etag = answer["ETag"]
            size = offset + answer["ContentLength"]
            while offset < size and (piece := answer["Body"].read(PIECE)):
                offset += len(piece)
                tries = 0
                yield piece
            if offset >= size:
                return
        except ClientError as error:
            if error.response["Error"]["Code"] in GONE and not offset:
                raise Gone(key) from error
            raise MonitorError(f"s3://{bucket}/{key} cannot be read: {error}") from error
        except broken as error:
            if tries >= TRIES:
                raise MonitorError(f"s3://{bucket}/{key} cannot be read: {error}") from error
        tries += 1
        if tries > TRIES:
            raise MonitorError(f"s3://{bucket}/{key} ended after {offset} bytes, again and again")
        time.sleep(0.2 * 2**tries)


def unpack(pieces: Iterator[bytes], refuse: Callable[[str], None]) -> Iterator[bytes]:
    """Bytes as they are, or out of gzip; what is wrong with gzip is told, what came before it is given."""
    first = next(pieces, b"")
    if not first.startswith(b"\x1f\x8b"):
        yield first
        yield from pieces
        return
    decoder: Any = None
    unpacked = 0
    for packed in chain([first], pieces):
        rest = packed
        while rest:
            decoder = decoder or zlib.decompressobj(wbits=31)
            try:
                piece = decoder.decompress(rest, PIECE)
            except zlib.error:
                refuse("gzip_damaged")
                return
            unpacked += len(piece)
            if unpacked > LARGEST_UNPACKED:
                refuse("gzip_too_large")
                return
            yield piece
            if decoder.eof:  # perhaps files that were appended to one another
                rest, decoder = decoder.unused_data, None
            else:
                rest = decoder.unconsumed_tail
    if decoder is not None:
        yield decoder.flush()
        refuse("gzip_truncated")


def whole_lines(pieces: Iterator[bytes], refuse: Refuse) -> Iterator[tuple[bytes, int, bool]]:
    """Chunks of whole lines, the number of the first, and whether it is the last chunk of the object."""
    rest: list[bytes] = []
    length, line, begun, skipping = 0, 1, False, False
    for piece in pieces:
        if not begun and piece:
            begun, piece = True, piece.removeprefix(b"\xef\xbb\xbf")
        if skipping:
            end = piece.find(b"\n")
            if end < 0:
                continue
            piece, skipping, line = piece[end + 1 :], False, line + 1
        end = piece.rfind(b"\n") + 1
        if not end:
            rest.append(piece)
            length += len(piece)
            if length > LONGEST_LINE:
                refuse("line_too_long", line, rest[0])
                rest, length, skipping = [], 0, True
            continue
        chunk = b"".join([*rest, memoryview(piece)[:end]])
        rest, length = [piece[end:]], len(piece) - end
        yield chunk, line, False
        line += occurrences(chunk, "\n")
    if length:
        yield b"".join(rest), line, True


# ------------------------------------------------------------ rows


def ahead(
    sources: Iterable[Source], pool: ThreadPoolExecutor
) -> Iterator[tuple[Source, Iterator[bytes] | None]]:
    """Streams whose first piece is on its way: most objects are small, and each answer takes its time."""

    def begin(source: Source) -> Iterator[bytes] | None:
        stream = source.open()
        try:
            return chain([next(stream, b"")], stream)
        except Gone:
            return None

    coming: deque[tuple[Source, Future[Iterator[bytes] | None]]] = deque()
    for source in sources:
        coming.append((source, pool.submit(begin, source)))
        if len(coming) > AHEAD:
            first, stream = coming.popleft()
            yield first, stream.result()
    for first, stream in coming:
        yield first, stream.result()


def chunks(
    sources: Iterable[Source], pool: ThreadPoolExecutor, intake: Intake, prefix: str = ""
) -> Iterator[tuple[Source, bytes, int, bool]]:
    """Chunks of whole lines of all sources."""
    for source, stream in ahead(sources, pool):
        name = source.name
        if stream is None:
            intake.refuse(f"{prefix}object_gone", name, 0)
            continue
        pieces = unpack(stream, lambda reason, name=name: intake.refuse(prefix + reason, name, 0))
        for chunk, line, last in whole_lines(
            pieces, lambda reason, line, text, name=name: intake.refuse(prefix + reason, name, line, text)
        ):
            yield source, chunk, line, last


def read_rows(sources: Iterable[Source], wanted: Wanted, intake: Intake) -> Iterator[pl.DataFrame | Counted]:
    """Rows of all sources, in their order; chunks are parsed side by side."""

    def parse(chunk: bytes, line: int, last: bool, name: str) -> tuple[list[Any], Intake]:
        account = Intake()
        return read_lines(chunk, line, last, wanted, account, name), account

    coming: deque[Future[tuple[list[Any], Intake]]] = deque()

    def oldest() -> list[Any]:
        frames, account = coming.popleft().result()
        intake.merge(account.partial())
        return frames

    with ThreadPoolExecutor(READERS) as parsers, ThreadPoolExecutor(AHEAD) as fetchers:
        for source, chunk, line, last in chunks(sources, fetchers, intake):
            coming.append(parsers.submit(parse, chunk, line, last, source.name))
            if len(coming) > READERS:
                yield from oldest()
        while coming:
            yield from oldest()


def batches(
    settings: Settings, wanted: Wanted, s3: Any, share: Share, intake: Intake, needs_truth: bool
) -> Iterator[pl.DataFrame | Counted]:
    """Batches of rows as a kind's monitor takes them."""
    captured: list[Any]
    read: Callable[[Any, Wanted, Intake], Iterator[pl.DataFrame | Counted]] = read_rows
    if settings.batch:
        from . import batch  # which builds on this module

        # every part lists all of it, the first one counts
        captured = batch.pairs(settings, s3, intake if not share.index else Intake())
        read = batch.read_rows
    else:
        captured = capture_sources(settings, s3, intake)
    truths = truth_sources(settings, s3, intake) if needs_truth else []
    for hour in sorted({source.hour for source in captured + truths}):
        own = [one for one in captured if one.hour == hour and share.has(one.name)]
        truth = None
        if needs_truth and (own or not share.index):
            fitting = [one for one in truths if not hour or one.hour in ("", hour)]
            with ThreadPoolExecutor(AHEAD) as fetchers:
                # every part reads all of it, the first one counts
                account = intake if not share.index else Intake()
                truth = read_truth(chunks(fitting, fetchers, account, TRUTH), account)
        for frame in read(own, wanted, intake):
            if isinstance(frame, Counted):
                yield frame
                continue
            rows = frame.with_columns(present(pl.col(*wanted.names)))
            if truth is not None:
                rows = join_truth(rows, truth, intake)
            if rows.height:
                yield rows.drop("_rows")
