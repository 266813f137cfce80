"""Inputs and outputs of Batch Transform as rows: which objects belong together, and their lines.

Which objects: those that manifests of data capture name (<destination>/input/yyyy/mm/dd/hh/ and output/…, the
hour in which the job started), or every <name>.out below an output prefix. What a line is: one record, its
answer being the line of the same number, or the rest of the line where the job joined them.

https://docs.aws.amazon.com/sagemaker/latest/dg/model-monitor-data-capture-batch.html
https://docs.aws.amazon.com/sagemaker/latest/dg/batch-transform-data-processing.html
"""

from __future__ import annotations

import csv
import json
import re
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from . import MonitorError
from .capture import (
    AHEAD,
    READERS,
    Gone,
    Source,
    hour_of,
    split_uri,
    stream_file,
    stream_object,
    unpack,
    whole_lines,
)
from .intake import Intake
from .lines import CONTROL, Counted, Wanted, frame_of, is_clean, is_utf8, occurrences
from .payload import LARGEST_NUMBER, Unreadable, answers, as_text, request_rows
from .settings import Settings

ENDING = ".out"
LARGEST_MANIFEST = 64 << 20  # bytes
SKIPPED = b""  # for a line that was too long, so that the others keep their numbers; no other is blank
BLANK = re.compile(rb"[ \t]*")
NOT_PLAIN = (b"\n\n", b"\n[", b"\n{")  # JSON, or a line that was skipped
LIKELY_BLANK = (b"\n\n", b" \n", b"\t\n")  # in a chunk that has blank lines
UUID = r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}"
STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z"  # start of the job, which its folder tells, too
ID_FIELD, TIME_FIELD = "SageMakerInferenceId", "SageMakerInferenceTime"
INPUT_FIELD, OUTPUT_FIELD = "SageMakerInput", "SageMakerOutput"  # of joined JSON


@dataclass(frozen=True)
class Pair:
    """An input object and its output; of a joined job the output alone."""

    name: str  # by which hosts share the work
    key: str  # of the input, below its prefix
    hour: str
    time: datetime
    input: Source | None
    output: Source


@dataclass(frozen=True)
class Item:
    """An object below a prefix, or a file below a folder."""

    key: str  # below it
    source: Source
    written: datetime | None = None  # of a file it says little


class Entry(NamedTuple):
    """An object that a manifest names."""

    prefix: str
    key: str


# ------------------------------------------------------------ which objects


def pairs(settings: Settings, s3: Any, intake: Intake) -> list[Pair]:
    """Transformed objects of the window, in order."""
    if settings.batch_capture is not None or settings.batch_capture_uri:
        found = captured_pairs(settings, s3, intake)
    else:
        found = plain_pairs(settings, s3, intake)
    return sorted(found, key=lambda pair: (pair.hour, pair.name, pair.output.name))


def listing(s3: Any, folder: Path | None, uri: str, setting: str) -> Iterator[Item]:
    """Objects below a prefix, or the one that it names; or files below a folder."""
    if folder is not None:
        if not folder.is_dir():
            raise MonitorError(f"{folder} is no folder: files of batch jobs are expected there")
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            key = path.relative_to(folder).as_posix()
            yield Item(key, Source(key, hour_of(key), lambda path=path: stream_file(path)))
        return
    bucket, prefix = split_uri(uri, setting)
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for item in page.get("Contents", []):
            name = item["Key"]
            if name == prefix:
                key = name.rpartition("/")[2]
            elif not prefix or name.startswith(f"{prefix}/"):
                key = name.removeprefix(prefix).lstrip("/")
            else:
                continue
            if key and not key.endswith("/"):
                yield Item(key, s3_source(s3, bucket, name), item["LastModified"].astimezone(UTC))


def s3_source(s3: Any, bucket: str, key: str) -> Source:
    """An object."""
    return Source(f"s3://{bucket}/{key}", hour_of(key), lambda: stream_object(s3, bucket, key))


def start_of(hour: str) -> datetime:
    """The beginning of a folder's hour; a folder that names none is of no window."""
    try:
        return datetime.strptime(hour, "%Y/%m/%d/%H").replace(tzinfo=UTC)
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)


def plain_pairs(settings: Settings, s3: Any, intake: Intake) -> Iterator[Pair]:
    """Outputs that were written in the window, each with its input.

    A folder yyyy/mm/dd/hh in the name of an output says when; without one, the time of its writing does.
    """
    window = settings.window

    def time_of(item: Item) -> datetime:
        if item.source.hour:
            return start_of(item.source.hour)
        return item.written or window.start

    outputs = list(listing(s3, settings.batch_output, settings.batch_output_uri, "BATCH_OUTPUT_URI"))
    inputs: dict[str, Item] = {}
    if not settings.joined:
        own = {item.source.name for item in outputs} if settings.batch_output is None else set()
        for item in listing(s3, settings.batch_input, settings.batch_input_uri, "BATCH_INPUT_URI"):
            if not item.key.endswith(ENDING) and item.source.name not in own:
                inputs[item.key] = item
    answered = set()
    for output in outputs:
        if not output.key.endswith(ENDING):
            intake.ignored += 1
            continue
        key = output.key.removesuffix(ENDING)
        answered.add(key)
        time = time_of(output)
        if not window.holds(time):
            continue
        hour = output.source.hour or (f"{time:%Y/%m/%d/%H}" if output.written else "")
        if settings.joined:
            yield Pair(output.source.name, key, hour, time, None, output.source)
        elif key in inputs:
            yield Pair(inputs[key].source.name, key, hour, time, inputs[key].source, output.source)
        else:
            intake.refuse("input_missing", output.source.name, 0)
    for key, item in inputs.items():
        if key not in answered and window.holds(time_of(item)):
            intake.refuse("output_missing", item.source.name, 0)


def captured_pairs(settings: Settings, s3: Any, intake: Intake) -> Iterator[Pair]:
    """Objects that the manifests of the window's hours name."""
    for hour in settings.window.hours():
        time = start_of(hour)
        if not settings.window.holds(time):
            continue
        sides = []
        for side in ("input", "output"):
            folder = settings.batch_capture / side / hour if settings.batch_capture is not None else None
            if folder is not None and not folder.is_dir():
                sides.append({})
                continue
            uri = f"{settings.batch_capture_uri.rstrip('/')}/{side}/{hour}"
            items = list(listing(s3, folder, uri, "BATCH_CAPTURE_URI"))
            sides.append({item.key: read_manifest(item.source, intake) for item in items})
        inputs, outputs = sides
        if inputs.keys() == outputs.keys():  # a job's two manifests may share a name
            groups = [(inputs[name], outputs[name]) for name in inputs]
        else:
            groups = [(sum(inputs.values(), []), sum(outputs.values(), []))]
        seen: set[tuple[Source | str, ...]] = set()
        for given, made in groups:
            for entry, output in matched(given, made, intake, joined=settings.joined):
                if (entry, output) in seen:
                    continue
                seen.add((entry, output))
                source = entry and resolve(settings, s3, settings.batch_input, entry, intake)
                result = resolve(settings, s3, settings.batch_output, output, intake)
                if result is None or (entry and source is None):
                    continue
                key = output.key.removesuffix(ENDING)
                yield Pair((source or result).name, key, hour, time, source or None, result)


def read_manifest(source: Source, intake: Intake) -> list[Entry]:
    """Objects that a manifest names: [{"prefix": "s3://…"}, "key", …]."""
    content = b""
    try:
        for piece in source.open():
            content += piece
            if len(content) > LARGEST_MANIFEST:
                raise ValueError("it is too large")
        text, place, entries = content.decode("utf-8").strip(), 0, []
        while place < len(text):
            document, place = json.JSONDecoder().raw_decode(text, place)
            prefix = document[0]["prefix"]
            if not prefix.startswith("s3://") or not all(isinstance(key, str) for key in document[1:]):
                raise ValueError("it names no objects")
            entries += [Entry(prefix, key) for key in document[1:]]
            place += len(text[place:]) - len(text[place:].lstrip())
    except Gone:
        intake.refuse("object_gone", source.name, 0)
        return []
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        intake.refuse("manifest_not_readable", source.name, 0, content)
        return []
    return entries


def matched(
    inputs: list[Entry], outputs: list[Entry], intake: Intake, joined: bool
) -> Iterator[tuple[Entry | None, Entry]]:
    """Inputs and outputs that belong together by their names."""
    by_key: dict[str, set[Entry]] = {}
    for entry in inputs:
        by_key.setdefault(entry.key, set()).add(entry)
    answered = set()
    for output in outputs:
        if not output.key.endswith(ENDING):
            intake.ignored += 1
            continue
        key = output.key.removesuffix(ENDING)
        answered.add(key)
        if joined:
            yield None, output
            continue
        found = by_key.get(key, set())
        if len(found) == 1:
            yield next(iter(found)), output
        else:  # several jobs of one hour whose inputs have the same names below other prefixes
            reason = "pairing_ambiguous" if found else "input_missing"
            intake.refuse(reason, output.prefix + output.key, 0)
    for key in sorted(by_key.keys() - answered):
        for entry in sorted(by_key[key]):
            intake.refuse("output_missing", entry.prefix + entry.key, 0)


def resolve(settings: Settings, s3: Any, folder: Path | None, entry: Entry, intake: Intake) -> Source | None:
    """The object of an entry; on a laptop, the file of its key below the folder that was given."""
    if settings.batch_capture is None:
        bucket, _, key = (entry.prefix + entry.key).removeprefix("s3://").partition("/")
        return s3_source(s3, bucket, key)
    if folder is None:
        raise MonitorError("--batch-capture needs --batch-output, and --batch-input unless the job joined")
    path = folder / entry.key
    if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
        intake.refuse("object_gone", entry.key, 0)
        return None
    return Source(entry.key, "", lambda: stream_file(path))


# ------------------------------------------------------------ lines


@dataclass(frozen=True)
class Lines:
    """Lines that are not blank, each with an end, and their numbers in the object."""

    text: bytes
    numbers: np.ndarray

    def cut(self, count: int) -> tuple[Lines, Lines | None]:
        """The first lines, and the others."""
        if count == len(self.numbers):
            return self, None
        place = int(np.flatnonzero(np.frombuffer(self.text, dtype=np.uint8) == 10)[count - 1]) + 1
        rest = Lines(self.text[place:], self.numbers[count:])
        return Lines(self.text[:place], self.numbers[:count]), rest

    def split(self) -> list[bytes]:
        """Each line."""
        return self.text.split(b"\n")[:-1]

    def only(self, places: np.ndarray) -> Lines:
        """Some of the lines."""
        lines = self.split()
        return Lines(b"".join(lines[place] + b"\n" for place in places), self.numbers[places])


def lines_of(source: Source, intake: Intake) -> Iterator[Lines]:
    """Chunks of the lines of an object."""
    skipped: list[int] = []

    def refuse(reason: str, line: int, text: bytes) -> None:
        intake.refuse(reason, source.name, line, text)
        skipped.append(line)

    pieces = unpack(source.open(), lambda reason: intake.refuse(reason, source.name, 0))
    for piece, first, _ in whole_lines(pieces, refuse):
        chunk = piece if piece.endswith(b"\n") else piece + b"\n"
        if b"\r" in chunk:
            chunk = chunk.replace(b"\r\n", b"\n")
        numbers = np.arange(first, first + occurrences(chunk, "\n"), dtype=np.int64)
        if chunk[:1] in b" \t\n" or any(text in chunk for text in LIKELY_BLANK):
            every = chunk.split(b"\n")[:-1]
            places = [place for place, line in enumerate(every) if not BLANK.fullmatch(line)]
            chunk = b"".join(every[place] + b"\n" for place in places)
            numbers = numbers[places]
        if skipped:
            chunk = (SKIPPED + b"\n") * len(skipped) + chunk
            numbers = np.concatenate([np.array(skipped, dtype=np.int64), numbers])
            skipped.clear()
        if len(numbers):
            yield Lines(chunk, numbers)
    if skipped:
        yield Lines((SKIPPED + b"\n") * len(skipped), np.array(skipped, dtype=np.int64))


def is_header(line: bytes, names: tuple[str, ...]) -> bool:
    """Whether a line begins with the names of the features."""
    try:
        cells = next(csv.reader([line.decode("utf-8", errors="replace")]), [])
    except csv.Error:
        return False
    return [cell.strip() for cell in cells[: len(names)]] == list(names)


@dataclass
class Size:
    """What a first reading of an object tells."""

    lines: int = 0
    first: bytes | None = None
    account: Intake = field(default_factory=Intake)

    @classmethod
    def of(cls, source: Source) -> Size:
        """Read an object."""
        size = cls()
        for lines in lines_of(source, size.account):
            size.first = first_line(lines) if size.first is None else size.first
            size.lines += len(lines.numbers)
        return size


def measure(pair: Pair) -> tuple[Size, Size] | str:
    """Sizes of input and output, or the one that is gone.

    Lines are joined by their number, so one that is lacking anywhere would shift all others: that is known
    before the first row is given.
    """
    sizes = []
    for source in (pair.input or pair.output, pair.output):
        try:
            sizes.append(Size.of(source))
        except Gone:
            return source.name
    return sizes[0], sizes[1]


def blocks(
    pair: Pair, wanted: Wanted, intake: Intake, sizes: tuple[Size, Size] | str | None
) -> Iterator[tuple[Lines, Lines | None]]:
    """Lines of the input, and their answers where these are in an object of their own; none are headers."""
    if isinstance(sizes, str):
        intake.refuse("object_gone", sizes, 0)
        return
    source = pair.input or pair.output
    try:
        if sizes is None:
            chunks = lines_of(source, intake)
            lines = next(chunks, None)
            if lines and is_header(first_line(lines), wanted.names):
                lines = lines.cut(1)[1]
            while lines := lines or next(chunks, None):
                yield lines, None
                lines = None
        else:
            yield from joined_blocks(pair, wanted, intake, *sizes)
    except Gone:
        intake.refuse("object_gone", source.name, 0)


def joined_blocks(
    pair: Pair, wanted: Wanted, intake: Intake, given: Size, made: Size
) -> Iterator[tuple[Lines, Lines]]:
    """Lines of input and output that belong together; a header may have an answer or none."""
    header = is_header(given.first or b"", wanted.names)
    if made.lines != given.lines and not (header and made.lines == given.lines - 1):
        for size in (given, made):
            intake.merge(size.account.partial())
        differ(pair, intake, f"{given.lines} lines of input, {made.lines} of output")
        return
    ins, outs = lines_of(pair.input or pair.output, intake), lines_of(pair.output, intake)
    left = right = None
    if header:
        left = behind_first(ins)
        right = behind_first(outs) if made.lines == given.lines else None
    while True:
        left = left or next(ins, None)
        right = right or next(outs, None)
        if left is None or right is None:
            break
        count = min(len(left.numbers), len(right.numbers))
        (one, left), (other, right) = left.cut(count), right.cut(count)
        yield one, other
    if left or right:
        differ(pair, intake, "the objects were changed while they were read")


def first_line(lines: Lines) -> bytes:
    """The first of the lines."""
    return lines.text[: lines.text.find(b"\n")]


def behind_first(chunks: Iterator[Lines]) -> Lines | None:
    """What comes after the first line of the first chunk."""
    lines = next(chunks, None)
    return lines.cut(1)[1] if lines else None


def differ(pair: Pair, intake: Intake, text: str) -> None:
    """Which answer belongs to which line is unknown."""
    intake.refuse("answer_rows_differ", pair.output.name, 0, text)


# ------------------------------------------------------------ rows


def read_rows(found: Iterable[Pair], wanted: Wanted, intake: Intake) -> Iterator[pl.DataFrame | Counted]:
    """Rows of all pairs, in their order; chunks are parsed side by side."""

    def parse(pair: Pair, given: Lines, made: Lines | None) -> tuple[list[Any], Intake]:
        account = Intake()
        return read_block(pair, given, made, wanted, account), account

    coming: deque[Future[tuple[list[Any], Intake]]] = deque()

    def oldest() -> list[Any]:
        frames, account = coming.popleft().result()
        intake.merge(account.partial())
        return frames

    with ThreadPoolExecutor(READERS) as parsers, ThreadPoolExecutor(AHEAD) as fetchers:
        for pair, sizes in measured(found, wanted, fetchers):
            for given, made in blocks(pair, wanted, intake, sizes):
                coming.append(parsers.submit(parse, pair, given, made))
                if len(coming) > READERS:
                    yield from oldest()
        while coming:
            yield from oldest()


def measured(
    found: Iterable[Pair], wanted: Wanted, pool: ThreadPoolExecutor
) -> Iterator[tuple[Pair, tuple[Size, Size] | str | None]]:
    """Pairs with their sizes, where two objects are joined; a few are measured ahead of their turn."""
    coming: deque[tuple[Pair, Future[Any] | None]] = deque()

    def result(pair: Pair, future: Future[Any] | None) -> tuple[Pair, Any]:
        return pair, future.result() if future else None

    for pair in found:
        joins = wanted.outputs and pair.input is not None
        coming.append((pair, pool.submit(measure, pair) if joins else None))
        if len(coming) > READERS:
            yield result(*coming.popleft())
    while coming:
        yield result(*coming.popleft())


def read_block(pair: Pair, given: Lines, made: Lines | None, wanted: Wanted, intake: Intake) -> list[Any]:
    """Rows of lines: those of plain CSV all at once, the others one by one."""
    joined = pair.input is None
    frames: list[pl.DataFrame] = []
    good = quickly(pair, given, made, wanted, frames)
    if good is None:  # some line is of another kind: look at each
        plain = np.array([is_plain(line) for line in given.split()], dtype=bool)
        widths = np.array([line.count(b",") for line in given.split()])
        plain &= widths == (most_common(widths[plain]) if joined else len(wanted.names) - 1)
        if made is not None:
            plain &= np.array([is_plain(line) for line in made.split()], dtype=bool)
            widths = np.array([line.count(b",") for line in made.split()])
            plain &= widths == most_common(widths[plain])
        places = np.flatnonzero(plain)
        good = np.zeros(len(plain), dtype=bool)
        if len(places):
            some = quickly(pair, given.only(places), made.only(places) if made else None, wanted, frames)
            if some is not None:
                good[places] = some
    done = int(good.sum())
    intake.requests += done
    intake.records += done
    if done:
        intake.by_hour[f"{pair.time:%Y-%m-%dT%H:00Z}"] += done
    left = np.flatnonzero(~good)
    if len(left):
        texts, tails = given.split(), made.split() if made else None
        some = [(int(given.numbers[n]), texts[n], tails[n] if tails else None) for n in left]
        frames.append(one_by_one(pair, some, wanted, intake))
    kept = [frame for frame in frames if frame.height]
    return [Counted.of(frame) for frame in kept] if wanted.counted else kept


def most_common(widths: np.ndarray) -> int:
    """The most frequent of some small numbers."""
    return int(np.bincount(widths).argmax()) if len(widths) else -1


def is_plain(line: bytes) -> bool:
    """Whether a line can be cut at its commas."""
    if line == SKIPPED or b'"' in line or line[:1] in (b"[", b"{"):
        return False
    return not CONTROL.search(line) and is_utf8(line)


def cells_of(lines: Lines, width: int) -> pl.DataFrame | None:
    """Cells of lines that all have so many, and no quotes; else nothing."""
    text, count = lines.text, len(lines.numbers)
    if b'"' in text or any(mark in text for mark in NOT_PLAIN) or text[:1] in (b"\n", b"[", b"{"):
        return None
    # no line may have more cells, so if the sum is right, each has just so many
    if occurrences(text, ",") != count * (width - 1) or not is_clean(text, count):
        return None
    schema = {f"cell_{number}": pl.String for number in range(width)}
    try:
        frame = pl.read_csv(text, has_header=False, schema=schema, quote_char=None, n_threads=1)
    except pl.exceptions.PolarsError:
        return None
    return frame if frame.height == count else None


def quickly(
    pair: Pair, given: Lines, made: Lines | None, wanted: Wanted, frames: list[pl.DataFrame]
) -> np.ndarray | None:
    """Add rows of the lines to the frames, and tell which they are; None if the lines are not all plain."""
    features = len(wanted.names)
    keys = wanted.keys if pair.input is None else 0
    if made is None and pair.input is None:
        width = first_line(given).count(b",") + 1
        if width - keys - features not in (1, 3) or (frame := cells_of(given, width)) is None:
            return None
        tail = frame.select(frame.columns[keys + features :])
    else:
        if (frame := cells_of(given, features)) is None:
            return None
        tail = None
        if made is not None:
            width = first_line(made).count(b",") + 1
            if width not in (1, 3) or (tail := cells_of(made, width)) is None:
                return None
    columns = frame.columns[keys:]
    rows = frame.select(pl.col(columns[number]).alias(name) for number, name in enumerate(wanted.names))
    # perhaps a header; one by one it is known
    good = rows.select(pl.first().str.strip_chars().ne_missing(wanted.names[0])).to_series()
    ids = None
    if tail is not None:
        score = tail.to_series(0).str.strip_chars().cast(pl.Float64, strict=False)
        if wanted.outputs or pair.input is None:
            good &= (score.is_finite() & (score.abs() <= LARGEST_NUMBER)).fill_null(value=False)
        if tail.width == 3:
            ids = tail.to_series(1).str.strip_chars()
            good &= ids.str.contains(f"^{UUID}$").fill_null(value=False)
            good &= tail.to_series(2).str.strip_chars().str.contains(f"^{STAMP}$").fill_null(value=False)
    if not wanted.counted:
        if keys and ids is None:
            ids = frame.to_series(0).str.strip_chars()
        if ids is None:
            ids = pl.select(pl.lit(f"{pair.key}#") + pl.Series(given.numbers).cast(pl.String)).to_series()
        rows = rows.with_columns(
            ids.alias("_id"),
            pl.lit(0, pl.UInt32).alias("_row"),
            pl.lit(1, pl.UInt32).alias("_rows"),
            pl.lit(pair.time, pl.Datetime("us", "UTC")).alias("_time"),
        )
        if wanted.outputs:
            rows = rows.with_columns(score.alias("_score"), pl.lit(None, pl.String).alias("_label"))
    frames.append(rows if good.all() else rows.filter(good))
    return good.to_numpy()


def one_by_one(
    pair: Pair, lines: list[tuple[int, bytes, bytes | None]], wanted: Wanted, intake: Intake
) -> pl.DataFrame:
    """Rows of numbered lines and their answers, whatever they are."""
    rows: list[tuple[Any, ...]] = []
    for number, text, tail in lines:
        if SKIPPED in (text, tail):  # told already
            continue
        try:
            read_record(pair, number, text, tail, wanted, intake, rows)
        except Unreadable as error:
            intake.refuse(str(error), (pair.input or pair.output).name, number, text)
    return frame_of(rows, wanted)


def read_record(
    pair: Pair,
    number: int,
    text: bytes,
    tail: bytes | None,
    wanted: Wanted,
    intake: Intake,
    rows: list[tuple[Any, ...]],
) -> None:
    """Append the rows of one line."""
    record = decoded(text)
    if "\0" in record:
        raise Unreadable("payload_not_csv")  # as UTF-16 has it; it is nowhere in text
    name = ""
    if pair.input is None:
        if is_header(text, wanted.names):
            return
        record, answer, name = parted(record, len(wanted.names), wanted.keys)
    elif tail is not None:
        answer, name = without_id(decoded(tail))
    else:
        answer = None
    found = request_rows(type_of(record), record, wanted.names)
    count = len(found.cells)
    if not count:  # a header
        return
    tails: Any = [()] * count
    if wanted.outputs:
        tails = answers(type_of(answer or ""), answer or "")
        if len(tails) != count:
            raise Unreadable("answer_rows_differ")
    if wanted.counted:
        rows += map(tuple, found.cells)
    else:
        name = name or f"{pair.key}#{number}"
        rows += [
            (*cells, name, place, count, pair.time, *tail)
            for place, (cells, tail) in enumerate(zip(found.cells, tails, strict=True))
        ]
    intake.requests += 1
    intake.records += count
    intake.by_hour[f"{pair.time:%Y-%m-%dT%H:00Z}"] += 1
    intake.lacking.update(found.lacking)
    intake.see_extra(found.extra)


def decoded(line: bytes) -> str:
    """A line as text."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Unreadable("not_utf8") from error


def type_of(text: str) -> str:
    """Content type of a line: objects of a batch declare none."""
    return "application/json" if text.lstrip()[:1] in ("{", "[") else "text/csv"


def is_json(text: str) -> bool:
    """Whether a line is to be JSON."""
    return type_of(text) == "application/json"


def document_of(text: str, reason: str) -> Any:
    """The JSON of a line."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise Unreadable("nested_too_deep") from error
    except ValueError as error:
        raise Unreadable(reason) from error


def taken_id(document: Any) -> str:
    """The inference id of a JSON answer, taken out of it."""
    if not isinstance(document, dict):
        return ""
    document.pop(TIME_FIELD, None)
    return as_text(document.pop(ID_FIELD, None)) or ""


def without_id(text: str) -> tuple[str, str]:
    """An answer without the inference id and time that end it, and the id."""
    if is_json(text):
        if ID_FIELD not in text:
            return text, ""
        document = document_of(text, "answer_not_readable")
        name = taken_id(document)
        return json.dumps(document), name
    cells = text.rsplit(",", 2)
    if len(cells) == 3:
        name, time = (cell.strip().strip('"') for cell in cells[1:])
        if re.fullmatch(UUID, name) and re.fullmatch(STAMP, time):
            return cells[0], name
    return text, ""


def parted(text: str, features: int, keys: int = 0) -> tuple[str, str, str]:
    """Input, answer and inference id of a joined line."""
    if is_json(text):
        document = document_of(text, "payload_not_json")
        if not isinstance(document, dict) or OUTPUT_FIELD not in document:
            raise Unreadable("no_answer")
        name = taken_id(document)
        answer = document.pop(OUTPUT_FIELD)
        return json.dumps(document.get(INPUT_FIELD, document)), json.dumps(answer), name
    body, name = without_id(text)
    try:
        cells = next(csv.reader([body], skipinitialspace=True, strict=True), [])
    except csv.Error as error:
        raise Unreadable("payload_not_csv") from error
    if keys:
        name, cells = name or "".join(cells[:1]), cells[keys:]
    rest = cells[features:]
    words = sum(is_word(cell) for cell in rest)
    # a score, or a label, or both: with more, what is the answer's and what the input's cannot be told
    if len(rest) not in (1, 2) or (len(rest) == 2 and words != 1):
        raise Unreadable("joined_columns")
    return line_of(cells[:features]), ",".join(rest), name


def is_word(cell: str) -> bool:
    """Whether a cell is no number."""
    try:
        float(cell)
    except ValueError:
        return True
    return False


def line_of(cells: list[str]) -> str:
    """Cells as a line of CSV."""
    return ",".join('"' + cell.replace('"', '""') + '"' for cell in cells)
