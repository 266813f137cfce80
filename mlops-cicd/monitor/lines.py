"""Capture lines to rows, in two ways that give the same rows.

The careful way reads any line: JSON, then the payload. The fast way knows the form of one line, and reads
lines of that form, which differ only in the values, many times faster: the chunk is cut at commas by Polars'
CSV reader, each cell must hold the form's constant text, and what remains are the values. A line of another
form goes the careful way, so nothing is read that is not exactly the form.

Why cutting is exact: a form is valid JSON with strings where values stand. The values that are accepted hold
no quote, backslash, comma or control character, so inside those strings they mean themselves.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import numpy as np
import polars as pl

from .intake import Intake
from .payload import LARGEST_NUMBER, Unreadable, answers, as_text, decode, is_csv, request_rows
from .settings import Window

# beginnings of inference ids that mark traffic of no customer
SMOKE_TEST = "smoke-test"
SIMULATED = "simulated-"
MOST_FORMS = 3  # that are tried on one chunk
FEWEST_LINES = 100  # fewer are quicker read the careful way
BLOCK = 256 << 10  # bytes
PROBES = 9  # lines of a chunk that its form is guessed from

VALUE = re.compile(rb'"(data|eventId|inferenceId|inferenceTime)"\s*:\s*"((?:[^"\\]|\\.)*)"')
LINE_END = re.compile(rb"(?:\\r)?\\n$")  # as JSON writes it
PLAIN = re.compile(rb'[^"\\\x00-\x1f]*')
CONTROL = re.compile(rb"[\x00-\x1f]")
MARK = "\x1e"  # where a value stands in a form; no line has it, it is a control character
# where the values of a capture line stand
PLACES: dict[str, tuple[str, ...]] = {
    "input": ("captureData", "endpointInput", "data"),
    "output": ("captureData", "endpointOutput", "data"),
    "event": ("eventMetadata", "eventId"),
    "inference": ("eventMetadata", "inferenceId"),
    "time": ("eventMetadata", "inferenceTime"),
}


@dataclass(frozen=True)
class Wanted:
    """What lines are read for."""

    names: tuple[str, ...]  # of the features
    window: Window
    outputs: bool = False
    simulated: bool = False  # keep simulated traffic
    counted: bool = False  # the distinct values of each feature and their numbers are enough
    keys: int = 0  # columns before the features of joined lines; the first one is the line's id

    @property
    def schema(self) -> dict[str, Any]:
        """Columns of the rows that are read; cells are as they were sent."""
        columns: dict[str, Any] = dict.fromkeys(self.names, pl.String)
        if self.counted:
            return columns
        columns |= {
            "_id": pl.String,
            "_row": pl.UInt32,
            "_rows": pl.UInt32,
            "_time": pl.Datetime("us", "UTC"),
        }
        return columns | ({"_score": pl.Float64, "_label": pl.String} if self.outputs else {})


@dataclass(frozen=True)
class Counted:
    """Rows of which only the distinct texts of each column, and the number of each, are kept."""

    rows: int
    texts: dict[str, pl.DataFrame]

    @classmethod
    def of(cls, frame: pl.DataFrame) -> Counted:
        """The texts of a frame's columns."""
        return cls(frame.height, {name: count_texts(frame[name]) for name in frame.columns})


def count_texts(column: pl.Series) -> pl.DataFrame:
    """Distinct texts of a column and how often each is there."""
    return column.alias("text").value_counts(name="count")


# ------------------------------------------------------------ the careful way


@lru_cache(maxsize=8192)  # times have seconds, an hour has 3,600 of them
def moment_of(text: str) -> datetime:
    """Time of a record."""
    try:
        moment = datetime.fromisoformat(text.strip().replace("Z", "+00:00"))
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise Unreadable("no_time") from error


def reason_to_exclude(inference_id: str, wanted: Wanted) -> str:
    """Why marked traffic is left out, or nothing."""
    if inference_id.startswith(SMOKE_TEST):
        return "smoke_test"
    if inference_id.startswith(SIMULATED) and not wanted.simulated:
        return "simulated"
    return ""


def json_line(line: bytes, complete: bool) -> Any:
    """The JSON of a line."""
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise Unreadable("not_utf8") from error
    except RecursionError as error:
        raise Unreadable("nested_too_deep") from error
    except ValueError as error:
        raise Unreadable("not_json" if complete else "truncated") from error


def read_line(
    line: bytes, complete: bool, wanted: Wanted, intake: Intake, rows: list[tuple[Any, ...]]
) -> None:
    """Append the rows of one capture line."""
    record = json_line(line, complete)
    try:
        meta, data = record["eventMetadata"], record["captureData"]
        sent, time = data["endpointInput"], meta["inferenceTime"]
        marked = as_text(meta.get("inferenceId")) or ""
        event = as_text(meta.get("eventId")) or ""
    except (KeyError, TypeError, AttributeError) as error:
        raise Unreadable("not_a_capture_record") from error
    if not isinstance(time, str):
        raise Unreadable("no_time")
    moment = moment_of(time)
    if not wanted.window.holds(moment):
        intake.excluded["outside_window"] += 1
        return
    if reason := reason_to_exclude(marked, wanted):
        intake.excluded[reason] += 1
        return
    text = decode(sent)
    found = request_rows(as_text(sent.get("observedContentType")) or "", text, wanted.names)
    count = len(found.cells)
    tails: Any = [()] * count
    if wanted.outputs:
        answer = data.get("endpointOutput")
        if not isinstance(answer, dict) or "data" not in answer:
            raise Unreadable("no_answer")
        tails = answers(as_text(answer.get("observedContentType")) or "", decode(answer))
        if len(tails) != count:
            raise Unreadable("answer_rows_differ")
    if wanted.counted:
        rows += map(tuple, found.cells)
    else:
        rows += [
            (*cells, marked or event, number, count, moment, *tail)
            for number, (cells, tail) in enumerate(zip(found.cells, tails, strict=True))
        ]
    intake.requests += 1
    intake.records += count
    intake.by_hour[f"{moment:%Y-%m-%dT%H:00Z}"] += 1
    intake.lacking.update(found.lacking)
    intake.see_extra(found.extra)


def read_carefully(
    lines: Sequence[tuple[int, bytes]], last: bool, wanted: Wanted, intake: Intake, source: str
) -> pl.DataFrame:
    """Rows of numbered lines; with `last`, the last of them has no end and may be cut short."""
    rows: list[tuple[Any, ...]] = []
    for position, (number, line) in enumerate(lines):
        if not line.strip():
            continue
        try:
            read_line(line, not last or position < len(lines) - 1, wanted, intake, rows)
        except Unreadable as error:
            intake.refuse(str(error), source, number, line)
    return frame_of(rows, wanted)


def frame_of(rows: Sequence[tuple[Any, ...]], wanted: Wanted) -> pl.DataFrame:
    """Rows as a table."""
    columns = list(zip(*rows, strict=True)) or [()] * len(wanted.schema)
    return pl.DataFrame(
        [
            pl.Series(name, values, dtype=kind, strict=False)
            for (name, kind), values in zip(wanted.schema.items(), columns, strict=True)
        ]
    )


# ------------------------------------------------------------ the fast way


@dataclass(frozen=True)
class Cell:
    """What stands between two commas of a line: constant text, or a value with constant text around it."""

    before: str
    value: str = ""  # its name; "" is none
    after: str = ""

    def tests(self, column: str) -> list[pl.Expr]:
        """What tells that a column holds such cells; null is no."""
        text = pl.col(column)
        if not self.value:
            return [(text == self.before).fill_null(value=False)]
        if not (self.before or self.after):
            return []
        fits = text.str.starts_with(self.before) & text.str.ends_with(self.after)
        fits &= text.str.len_bytes() >= len((self.before + self.after).encode())
        return [fits.fill_null(value=False)]

    def strip(self, text: pl.Expr) -> pl.Expr:
        """The value alone."""
        return text.str.strip_prefix(self.before).str.strip_suffix(self.after)


@dataclass(frozen=True)
class Form:
    """The form of capture lines that differ only in their values."""

    cells: tuple[Cell, ...]
    quotes: int
    backslashes: int

    @classmethod
    def of(cls, line: bytes, wanted: Wanted) -> Form | None:
        """The form of this line, if it is one that the fast way can read."""
        try:
            text = with_marks(line, wanted)
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
            return None
        if text is None:
            return None
        cells = []
        for cell in text.split(","):
            before, *rest = cell.split(MARK)
            if len(rest) not in (0, 2):
                return None
            cells.append(Cell(before, *rest))
        constants = text.split(MARK)[::2]
        return cls(tuple(cells), sum(c.count('"') for c in constants), sum(c.count("\\") for c in constants))


def with_marks(line: bytes, wanted: Wanted) -> str | None:
    """The line with a mark, the value's name and a mark in place of each value."""
    line.decode("utf-8")
    data = json.loads(line)["captureData"]
    parts = {"input": data["endpointInput"], "output": data.get("endpointOutput") or {}}
    for name in ("input", "output") if wanted.outputs else ("input",):
        if parts[name]["encoding"] != "CSV" or not is_csv(parts[name]["observedContentType"]):
            return None
    # put a token in the place of whatever may be a value, and see where JSON finds it
    found = list(VALUE.finditer(line))
    tokens = [f"token-{number}-" for number in range(len(found))]
    probe = json.loads(replaced(line, found, tokens))
    names: dict[str, str] = {}
    for name, path in PLACES.items():
        value: Any = probe
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            names[value] = name
    if set(names) != set(tokens) or not {"input", "event", "time"} <= set(names.values()):
        return None
    texts = []
    for token, match in zip(tokens, found, strict=True):
        name, raw = names[token], match[2]
        end = LINE_END.search(raw) if name in ("input", "output") else None
        value = raw[: end.start()] if end else raw
        count = value.count(b",") + 1
        expected = len(wanted.names) if name == "input" else 1
        free = name == "output" and not wanted.outputs
        if not PLAIN.fullmatch(value) or (count != expected and not free):
            return None
        text = ",".join(f"{MARK}{name}:{number}{MARK}" for number in range(count))
        texts.append(text + (end[0].decode() if end else ""))
    return replaced(line, found, texts).decode("utf-8")


def replaced(line: bytes, found: Sequence[re.Match[bytes]], texts: Sequence[str]) -> bytes:
    """The line with other values."""
    pieces, end = [], 0
    for match, text in zip(found, texts, strict=True):
        pieces += [line[end : match.start(2)], text.encode()]
        end = match.end(2)
    return b"".join([*pieces, line[end:]])


def read_form(
    form: Form, chunk: bytes, count: int, wanted: Wanted, intake: Intake
) -> tuple[pl.DataFrame | Counted, np.ndarray] | None:
    """Rows of the lines that have this form, and whether each line was read."""
    columns = [f"cell_{number}" for number in range(len(form.cells))]
    try:
        frame = pl.read_csv(
            chunk,
            has_header=False,
            schema=dict.fromkeys(columns, pl.String),
            quote_char=None,
            truncate_ragged_lines=True,
            n_threads=1,  # chunks are read side by side
        )
    except pl.exceptions.PolarsError:
        return None
    if frame.height != count:  # lines and rows must be the same
        return None
    exact = {'"': form.quotes, "\\": form.backslashes, ",": len(form.cells) - 1}
    # a line that fits has so many of each at least, so if there are no more in all, each has just so many
    plain = all(occurrences(chunk, character) == count * number for character, number in exact.items())
    if wanted.counted and plain and (counted := count_form(form, frame, wanted, intake)):
        return counted, np.ones(count, dtype=bool)
    values = {
        cell.value: cell.strip(pl.col(column))
        for column, cell in zip(columns, form.cells, strict=True)
        if cell.value
    }
    tests = [test for column, cell in zip(columns, form.cells, strict=True) for test in cell.tests(column)]
    first = values["input:0"].str.strip_chars()
    tests.append(first.ne_missing(wanted.names[0]))  # perhaps a header; the careful way knows
    if len(wanted.names) == 1:
        tests.append((first != "").fill_null(value=False))  # perhaps nothing at all
    chosen = {f"input:{number}": values[f"input:{number}"] for number in range(len(wanted.names))}
    names = ["time:0", "event:0", "inference:0"] + (["output:0"] if wanted.outputs else [])
    chosen |= {name: values[name] for name in names if name in values}
    fits = pl.all_horizontal(tests)
    # one after the other: chunks are read side by side, so there are threads enough
    table = frame.select_seq(fits.alias("fits"), *(value.alias(name) for name, value in chosen.items()))
    fitting = table["fits"]
    if not (plain and fitting.all()):
        lines = pl.Series(chunk.decode("utf-8").split("\n")[:-1])
        for character, number in exact.items():
            fitting &= lines.str.count_matches(character, literal=True) == number
    rows, fitting = finish_form(table, fitting, wanted, intake)
    return (Counted.of(rows) if wanted.counted else rows), fitting.to_numpy()


def finish_form(
    table: pl.DataFrame, fitting: pl.Series, wanted: Wanted, intake: Intake
) -> tuple[pl.DataFrame, pl.Series]:
    """Rows of the lines that fit, by their times, marks and answers."""
    times = known_times(count_texts(table["time:0"]), wanted.window)
    score = None
    if wanted.outputs:
        score = table["output:0"].str.strip_chars().cast(pl.Float64, strict=False)
        fitting &= (score.is_finite() & (score.abs() <= LARGEST_NUMBER)).fill_null(value=False)
    keep = fitting
    if not times["inside"].all(ignore_nulls=False):  # null: a time that the careful way may know
        joined = table.select(text="time:0").join(times, on="text", how="left", maintain_order="left")
        fitting &= joined["inside"].is_not_null()
        keep = fitting & joined["inside"].fill_null(value=False)
        if outside := int(fitting.sum()) - int(keep.sum()):
            intake.excluded["outside_window"] += outside
    if "inference:0" in table.columns:
        marked = table["inference:0"].fill_null("")
        marks = {"smoke_test": SMOKE_TEST} | ({} if wanted.simulated else {"simulated": SIMULATED})
        for reason, prefix in marks.items():
            out = keep & marked.str.starts_with(prefix)
            if number := int(out.sum()):
                intake.excluded[reason] += number
                keep &= ~out
    if not keep.all():
        table = table.filter(keep)
        score = score.filter(keep) if score is not None else None
        times = known_times(count_texts(table["time:0"]), wanted.window)
    take_in(intake, table.height, times)
    rows = table.select_seq(pl.col(f"input:{number}").alias(name) for number, name in enumerate(wanted.names))
    if wanted.counted:
        return rows, fitting
    event = pl.col("event:0").fill_null("")
    ids = (
        pl.when(pl.col("inference:0") != "").then("inference:0").otherwise(event)
        if ("inference:0" in table.columns)
        else event
    )
    moments = table.select(text=pl.col("time:0")).join(times, on="text", how="left", maintain_order="left")
    rows = rows.with_columns(
        table.select(ids.alias("_id")).to_series(),
        pl.lit(0, pl.UInt32).alias("_row"),
        pl.lit(1, pl.UInt32).alias("_rows"),
        moments["moment"].alias("_time"),
    )
    if score is not None:
        rows = rows.with_columns(score.alias("_score"), pl.lit(None, pl.String).alias("_label"))
    return rows, fitting


def count_form(form: Form, frame: pl.DataFrame, wanted: Wanted, intake: Intake) -> Counted | None:
    """Counts of lines that all have this form and belong to the window; None when there are others.

    Most chunks are such. What their cells are is then seen on the distinct ones alone, which are few.
    """
    cells = {cell.value: (cell, name) for cell, name in zip(form.cells, frame.columns, strict=True)}
    few = {f"input:{number}" for number in range(len(wanted.names))} | {"time:0"}
    tests = [
        test
        for cell, name in zip(form.cells, frame.columns, strict=True)
        if cell.value not in few
        for test in cell.tests(name)
    ]
    marks = [SMOKE_TEST] if wanted.simulated else [SMOKE_TEST, SIMULATED]
    if "inference:0" in cells:
        cell, name = cells["inference:0"]
        tests += [~pl.col(name).str.starts_with(cell.before + mark) for mark in marks]
    if len(wanted.names) == 1 or not frame.select_seq(pl.all_horizontal(tests)).to_series().all(
        ignore_nulls=False
    ):
        return None
    found: dict[str, pl.DataFrame] = {}
    for value in few:
        cell, name = cells[value]
        counted = count_texts(frame[name])
        if cell.before or cell.after:
            fits = counted.select_seq(pl.all_horizontal(cell.tests("text"))).to_series()
            if not fits.all(ignore_nulls=False):
                return None
            counted = counted.select_seq(cell.strip(pl.col("text")).alias("text"), "count")
        found[value] = counted
    times = known_times(found["time:0"], wanted.window)
    header = found["input:0"].select((pl.col("text").str.strip_chars() == wanted.names[0]).any()).item()
    if header or not times["inside"].all(ignore_nulls=False):
        return None
    take_in(intake, frame.height, times)
    return Counted(frame.height, {name: found[f"input:{n}"] for n, name in enumerate(wanted.names)})


def known_times(counted: pl.DataFrame, window: Window) -> pl.DataFrame:
    """Distinct times: text, count, moment, and whether it is inside the window; null where it is no time."""
    text, moment = pl.col("text"), pl.col("moment")
    parsed = text.str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_unit="us", time_zone="UTC", strict=False)
    # of this length the format leaves no freedom
    timed = counted.with_columns(moment=pl.when(text.str.len_bytes() == 20).then(parsed))
    return timed.with_columns(inside=moment.is_between(window.start, window.end, closed="left"))


def take_in(intake: Intake, rows: int, times: pl.DataFrame) -> None:
    """Count requests of one row."""
    intake.requests += rows
    intake.records += rows
    hours = times.group_by(pl.col("moment").dt.truncate("1h")).agg(pl.col("count").sum())
    for hour, number in hours.iter_rows():
        intake.by_hour[f"{hour:%Y-%m-%dT%H:00Z}"] += number


# ------------------------------------------------------------ both


def read_lines(
    chunk: bytes, first_line: int, last: bool, wanted: Wanted, intake: Intake, source: str
) -> list[pl.DataFrame] | list[Counted]:
    """Rows of a chunk of whole lines; with `last` it is the end of its object."""
    open_end = last and bool(chunk) and not chunk.endswith(b"\n")
    if b"\r" in chunk:
        chunk = chunk.replace(b"\r\n", b"\n")
    careful: list[tuple[int, bytes]] = []
    if open_end:  # may be cut short
        position = chunk.rfind(b"\n") + 1
        careful.append((first_line + occurrences(chunk, "\n"), chunk[position:]))
        chunk = chunk[:position]
    numbers: np.ndarray | None = None  # of the lines, where they are not all those of the chunk
    count = occurrences(chunk, "\n")
    if not is_clean(chunk, count):
        lines = chunk.split(b"\n")[:-1]
        doubtful = [bool(CONTROL.search(line) or not is_utf8(line)) for line in lines]
        careful += [(first_line + number, lines[number]) for number in np.flatnonzero(doubtful).tolist()]
        numbers = np.flatnonzero(~np.array(doubtful, dtype=bool))
        chunk = b"".join(lines[number] + b"\n" for number in numbers)
        count = len(numbers)
    frames: list[Any] = []
    for _ in range(MOST_FORMS):
        if count < FEWEST_LINES or (form := likely_form(chunk, wanted)) is None:
            break
        done = read_form(form, chunk, count, wanted, intake)
        if done is None:
            break
        frames.append(done[0])
        if done[1].all():
            chunk, count = b"", 0
            break
        if not done[1].any():
            break
        left = np.flatnonzero(~done[1])
        lines = chunk.split(b"\n")
        chunk = b"".join(lines[number] + b"\n" for number in left)
        numbers = left if numbers is None else numbers[left]
        count = len(left)
    if count:
        rest = chunk.split(b"\n")[:-1]
        places = range(count) if numbers is None else numbers.tolist()
        careful += [(first_line + number, line) for number, line in zip(places, rest, strict=True)]
    if careful:
        careful.sort()
        rows = read_carefully(careful, open_end, wanted, intake, source)
        frames.append(Counted.of(rows) if wanted.counted else rows)
    return [frame for frame in frames if (frame.rows if wanted.counted else frame.height)]


def is_clean(chunk: bytes, count: int) -> bool:
    """Whether no line has a control character, or is not UTF-8."""
    if sum(int(np.count_nonzero(block < 32)) for block in blocks(chunk)) != count:
        return False
    return chunk.isascii() or is_utf8(chunk)


def occurrences(chunk: bytes, character: str) -> int:
    """How often a character is in the chunk."""
    return sum(int(np.count_nonzero(block == ord(character))) for block in blocks(chunk))


def blocks(chunk: bytes) -> Iterator[np.ndarray]:
    """The bytes in pieces that stay in the processor's cache."""
    array = np.frombuffer(chunk, dtype=np.uint8)
    for begin in range(0, len(array), BLOCK):
        yield array[begin : begin + BLOCK]


def is_utf8(text: bytes) -> bool:
    """Whether bytes are UTF-8."""
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def likely_form(chunk: bytes, wanted: Wanted) -> Form | None:
    """The form that most of a few lines of the chunk have."""
    step = len(chunk) // PROBES
    forms: Counter[Form] = Counter()
    for number in range(PROBES):
        begin = chunk.rfind(b"\n", 0, number * step + 1) + 1
        if form := Form.of(chunk[begin : chunk.find(b"\n", begin)], wanted):
            forms[form] += 1
    return max(forms, key=forms.__getitem__) if forms else None
