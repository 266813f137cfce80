"""Ground truth: what really happened, joined with the predictions on their ids.

It lies in the hour of the prediction, so an hour's predictions need that hour's ground truth and no other.
Where one id has several records, the last one counts (objects by name, then by line): a correction is
uploaded later.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import polars as pl

from .intake import Intake
from .lines import json_line
from .payload import Unreadable, as_text, check_size, decode

TRUTH = "ground_truth_"  # begins the reasons of unreadable ground truth
SCHEMA = {"_id": pl.String, "_row": pl.UInt32, "_truth": pl.String, "_given": pl.UInt32, "_order": pl.Int64}


def read_truth(chunks: Iterable[tuple[Any, bytes, int, bool]], intake: Intake) -> pl.DataFrame:
    """Rows of ground truth: id, row, what happened, rows of its record."""
    frames = [pl.DataFrame(schema=SCHEMA)]
    order = 0
    for source, chunk, first_line, last in chunks:
        rows: list[tuple[Any, ...]] = []
        lines = chunk.split(b"\n")
        for position, line in enumerate(lines):
            if not line.strip():
                continue
            order += 1
            complete = not last or position < len(lines) - 1
            try:
                event, values = read_record(json_line(line, complete))
            except Unreadable as error:
                intake.refuse(f"{TRUTH}{error}", source.name, first_line + position, line)
                continue
            rows += [(event, row, value, len(values), order) for row, value in enumerate(values)]
        frames.append(pl.DataFrame(rows, schema=SCHEMA, orient="row"))
    found = pl.concat(frames)
    latest = found.filter(pl.col("_order") == pl.col("_order").max().over("_id"))
    repeated = found["_order"].n_unique() - latest["_order"].n_unique()
    if repeated:
        intake.excluded["repeated_ground_truth"] += repeated
    intake.truths += latest.height
    return latest.drop("_order")


def read_record(record: Any) -> tuple[str, list[str]]:
    """Id and values, one a row, of a record of ground truth."""
    try:
        event = as_text(record["eventMetadata"]["eventId"])
        part = record["groundTruthData"]
        data = part["data"]
    except (KeyError, TypeError) as error:
        raise Unreadable("not_a_record") from error
    if not event or not isinstance(part, dict):
        raise Unreadable("not_a_record")
    if not isinstance(data, str):
        return event, values_of(data)
    text = decode(part)
    if str(part.get("encoding")).upper() == "JSON":
        try:
            return event, values_of(json.loads(text))
        except RecursionError as error:
            raise Unreadable("nested_too_deep") from error
        except ValueError as error:
            raise Unreadable("not_readable") from error
    check_size(text.count("\n"))
    values = [line.split(",")[0].strip().strip('"').strip() for line in text.split("\n") if line.strip()]
    return event, whole(values)


def values_of(document: Any) -> list[str]:
    """Values of a JSON document: one, or a list of them."""
    values = document if isinstance(document, list) else [document]
    check_size(len(values))
    if any(isinstance(value, (dict, list)) for value in values):
        raise Unreadable("not_readable")
    return whole([as_text(value) or "" for value in values])


def whole(values: list[str]) -> list[str]:
    """The values, if all of them are there."""
    if not values or not all(values):
        raise Unreadable("empty")
    return values


def join_truth(rows: pl.DataFrame, truth: pl.DataFrame, intake: Intake) -> pl.DataFrame:
    """The rows that have ground truth; of the others, how many."""
    joined = rows.join(truth, on=["_id", "_row"], how="left", maintain_order="left")
    absent = joined["_truth"].null_count()
    if absent:
        intake.excluded["no_ground_truth"] += absent
    joined = joined.filter(pl.col("_truth").is_not_null())
    differing = int((joined["_rows"] != joined["_given"]).sum())
    if differing:
        intake.excluded["ground_truth_rows_differ"] += differing
    return joined.filter(pl.col("_rows") == pl.col("_given")).drop("_given")
