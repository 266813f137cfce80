"""Rows of one request and its answer: CSV, JSON and JSON Lines, rows by position and by name."""

from __future__ import annotations

import base64
import binascii
import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, NamedTuple

import polars as pl

# in lower case; "none" is a value ("no guarantor")
MISSING = ("", "na", "n/a", "nan", "null")
LISTS = ("instances", "inputs", "data", "features")  # keys under which JSON requests hold their rows
ANSWERS = ("predictions", "outputs", "data")
SCORES = ("probability", "score", "predicted_probability", "prediction")
LABELS = ("label", "predicted_label", "class")
LONGEST_CELL = 1000  # of a nested value
MOST_EXTRA = 1000  # extra values of a row that are counted
# A request has 25 MB at most. As "1" and an end of line, that is rows enough to fill an instance's memory.
MOST_CELLS = 20_000_000  # of a request
ROW_COST = 8  # a row takes the memory of so many cells more

Row = list[str | None]


class Unreadable(ValueError):
    """A record that cannot be read; the message is the reason that reports count it under."""


class Rows(NamedTuple):
    """Rows of a request, lined up with the features; and the columns that did not fit, by number of rows."""

    cells: list[Row]
    lacking: Counter[str]
    extra: Counter[str]


def present(text: pl.Expr) -> pl.Expr:
    """Stripped text; null where nothing, or a word for nothing, stands."""
    stripped = text.str.strip_chars()
    return pl.when(~stripped.str.to_lowercase().is_in(MISSING)).then(stripped)


def decode(part: Any) -> str:
    """Text of an endpointInput or endpointOutput.

    Capture writes content types that its configuration does not list in base64.
    """
    if not isinstance(part, dict) or not isinstance(part.get("data"), str):
        raise Unreadable("not_a_capture_record")
    text: str = part["data"]
    if part.get("encoding") != "BASE64":
        return text
    try:
        return base64.b64decode(text, validate=True).decode("utf-8")
    except (binascii.Error, ValueError) as error:
        reason = "payload_not_text" if isinstance(error, UnicodeDecodeError) else "bad_base64"
        raise Unreadable(reason) from error


def is_csv(content_type: str) -> bool:
    """Whether a content type says CSV."""
    return "csv" in content_type.lower()


def request_rows(content_type: str, text: str, names: Sequence[str]) -> Rows:
    """Rows of a request, in the order of the features."""
    body = text.strip().removeprefix("\ufeff")
    if not body:
        raise Unreadable("empty_payload")
    if not body.isascii():
        body = whole_characters(body)
    declared = content_type.lower()
    if "json" in declared:
        return _line_up(_json_rows(_documents(body, "lines" in declared)), names)
    if is_csv(declared):
        return _line_up(_csv_rows(body, names), names, as_cells=list)
    # an undeclared type: what it is must show, and fit
    if body[0] in "{[":
        rows = _line_up(_json_rows(_documents(body, False)), names)
    else:
        rows = _line_up(_csv_rows(body, names), names, as_cells=list)
    if rows.lacking or rows.extra:
        raise Unreadable("unknown_content_type")
    return rows


def _documents(body: str, lines: bool) -> Any:
    try:
        if lines:
            return [json.loads(line) for line in body.split("\n") if line.strip()]
        return json.loads(body)
    except RecursionError as error:
        raise Unreadable("nested_too_deep") from error
    except ValueError as error:  # also an integer with thousands of digits
        raise Unreadable("payload_not_json") from error


def _csv_rows(body: str, names: Sequence[str]) -> list[Any]:
    check_size(body.count("\n"), len(names))
    if '"' not in body:  # most payloads; the csv module is several times slower
        rows = [line.split(",") for line in body.replace("\r\n", "\n").split("\n") if line.strip()]
    else:
        try:
            reader = csv.reader(io.StringIO(body, newline=""), skipinitialspace=True, strict=True)
            rows = [row for row in reader if row]
        except csv.Error as error:
            raise Unreadable("payload_not_csv") from error
    if rows and [cell.strip() for cell in rows[0]] == list(names):
        rows = rows[1:]
    return rows


def _json_rows(document: Any) -> list[Any]:
    """A record, a row, a list of either, or one of these under a known key; columns of lists too."""
    try:
        return _flatten(document)
    except RecursionError as error:
        raise Unreadable("nested_too_deep") from error


def _flatten(document: Any) -> list[Any]:
    if isinstance(document, dict):
        for key in LISTS:
            if isinstance(document.get(key), list):
                return _flatten(document[key])
        if document and all(isinstance(value, list) for value in document.values()):  # {"age": [31, 40], …}
            if len({len(value) for value in document.values()}) > 1:
                raise Unreadable("columns_of_different_length")
            check_size(len(next(iter(document.values()))))
            return [dict(zip(document, row, strict=True)) for row in zip(*document.values(), strict=True)]
        if isinstance(document.get("features"), dict):
            return [document["features"]]
        return [document]
    if not isinstance(document, list):
        raise Unreadable("no_rows_in_payload")
    check_size(len(document))
    if document and all(isinstance(item, (dict, list)) for item in document):
        return [row for item in document for row in _flatten(item)]
    return [document]


def check_size(rows: int, width: int = 1) -> None:
    """Refuse more rows than there is memory for."""
    if rows * (width + ROW_COST) > MOST_CELLS:
        raise Unreadable("too_many_rows")


def json_cells(row: list[Any]) -> Row:
    """Values of JSON as text."""
    return [as_text(value) for value in row]


def _line_up(
    rows: list[Any], names: Sequence[str], as_cells: Callable[[list[Any]], Row] = json_cells
) -> Rows:
    """Rows by position (lists) and by name (objects) in the order of the features."""
    width, known = len(names), set(names)
    check_size(len(rows), width)
    lined: list[Row] = []
    lacking: Counter[str] = Counter()
    extra: Counter[str] = Counter()
    for row in rows:
        if isinstance(row, dict):
            lined.append([as_text(row.get(name)) for name in names])
            if row.keys() != known:
                lacking.update(name for name in names if name not in row)
                unknown = (as_text(name) or "" for name in row if name not in known)
                extra.update(islice(unknown, MOST_EXTRA))
            continue
        cells = as_cells(row)
        if len(cells) != width:
            lacking.update(names[len(cells) :])
            last = min(len(cells), width + MOST_EXTRA)
            extra.update(f"column_{position + 1}" for position in range(width, last))
            cells = (cells + [None] * width)[:width]
        lined.append(cells)
    return Rows(lined, lacking, extra)


def whole_characters(text: str) -> str:
    """The text without halves of surrogate pairs: JSON can write them, but they are no characters."""
    return text.encode("utf-8", errors="replace").decode("utf-8")


def as_text(value: Any) -> str | None:
    """A value of a request as the text that a CSV request would have; 1 and 1.0 are the same."""
    if isinstance(value, str):
        return value if value.isascii() else whole_characters(value)
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, (int, float)):
        try:
            return repr(value)
        except ValueError:  # more digits than Python writes
            return "inf"
    return as_text(json.dumps(value)[:LONGEST_CELL])


# ------------------------------------------------------------ answers


def answers(content_type: str, text: str) -> list[tuple[float | None, str | None]]:
    """Score and label of each row of an answer."""
    body = text.strip()
    if not body:
        raise Unreadable("empty_answer")
    if "json" in content_type.lower() or body[0] in "{[":
        try:
            predictions = _predictions(json.loads(body))
        except RecursionError as error:
            raise Unreadable("nested_too_deep") from error
        except ValueError as error:
            raise Unreadable("answer_not_readable") from error
        check_size(len(predictions))
        return [_answer(item) for item in predictions]
    check_size(body.count("\n"))
    found = []
    for line in body.replace("\r\n", "\n").split("\n"):
        if line.strip():
            cells = [cell.strip().strip('"') for cell in line.split(",")]
            numbers = [number for number in map(as_number, cells) if number is not None]
            words = [cell for cell in cells if as_number(cell) is None]
            found.append((numbers[0] if numbers else None, words[0] if words else None))
    return found


def _predictions(document: Any) -> list[Any]:
    if isinstance(document, dict):
        for key in ANSWERS:
            if isinstance(document.get(key), list):
                return document[key]
        return [document]
    return document if isinstance(document, list) else [document]


def _answer(item: Any) -> tuple[float | None, str | None]:
    if isinstance(item, dict):
        scores = (as_number(item.get(key)) for key in SCORES)
        labels = (as_text(item[key]) for key in LABELS if item.get(key) is not None)
        return next((score for score in scores if score is not None), None), next(labels, None)
    if isinstance(item, list):
        item = item[-1] if item else None  # probabilities of the classes: the positive one is the last
    number = as_number(item)
    return number, None if number is not None or item is None else as_text(item)


def as_number(value: Any) -> float | None:
    """The finite number a value stands for, or None."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if abs(number) <= LARGEST_NUMBER else None  # false for a NaN too


LARGEST_NUMBER = 1e140  # the sum of the squares of many is still a number; a larger one is no measurement
