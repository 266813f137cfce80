"""Load the model and predict: the one place that evaluation and serving share, so both give the same numbers.

A model folder holds `model.skops` (the scikit-learn pipeline) and `metadata.json` (features, classes, how it
was trained).
"""

import json
import math
import reprlib
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import skops.io
from pyarrow import csv as arrow
from sklearn.pipeline import Pipeline

MODEL_FILE = "model.skops"
METADATA_FILE = "metadata.json"
# What a model file may contain beyond the types that skops trusts by itself. skops refuses anything else, so
# a model file cannot run code of its own. Add a type here, on purpose, when a new kind of model needs it.
TRUSTED_TYPES = [
    "numpy.dtype",  # of the one-hot encoder
    # Gradient boosting. skops warns that a forged tree could crash the process; this one comes from the
    # project's own training job, through a bucket that only the project's roles can write to.
    "sklearn.tree._tree.Tree",
]

# A server is asked to stop by SIGTERM. Arrow would take that as "cancel what you read", fail the request that
# is under way, and keep the signal from the server.
pa.enable_signal_handlers(False)

# Letters, digits, and what stands between them; all bytes of other languages' letters are left to to_frame.
PLAIN = bytes(range(0x20, 0x7F)).replace(b'"', b"") + b"\n"
# A space beside a comma or a line end; looked for one by one, which is faster than a regular expression.
AMBIGUOUS = b", ", b" ,", b"\n ", b" \n"


class ModelError(ValueError):
    """The model cannot be used; the message says which file and why."""


class BadRequest(ValueError):
    """The rows cannot be scored; the message names the row and the column."""


class Model(NamedTuple):
    """A fitted pipeline and what was written down when it was trained."""

    pipeline: Pipeline
    metadata: dict[str, Any]

    @property
    def features(self) -> list[str]:
        """Names of the features, in the order of the rows."""
        return [feature["name"] for feature in self.metadata["features"]]


def save_model(model: Model, folder: Path) -> None:
    """Write the model, and make sure at once that it can be loaded again."""
    folder.mkdir(parents=True, exist_ok=True)
    skops.io.dump(model.pipeline, folder / MODEL_FILE)
    (folder / METADATA_FILE).write_text(json.dumps(model.metadata, indent=2) + "\n", encoding="utf-8")
    unknown = set(skops.io.get_untrusted_types(file=folder / MODEL_FILE)) - set(TRUSTED_TYPES)
    if unknown:
        raise ValueError(
            f"the model has types that src/inference.py does not trust: {', '.join(sorted(unknown))}"
        )


def load_model(folder: Path) -> Model:
    """Read a model folder."""
    if not (folder / METADATA_FILE).is_file():
        raise ModelError(f"{folder}: no {METADATA_FILE} there, so this is no model of this project")
    try:
        metadata = json.loads((folder / METADATA_FILE).read_text(encoding="utf-8"))
        return Model(skops.io.load(folder / MODEL_FILE, trusted=TRUSTED_TYPES), metadata)
    except zipfile.BadZipFile as error:  # a pickle, for example: it would run code when it is loaded
        raise ModelError(
            f"{folder / MODEL_FILE} was not written by skops ({error}): save the model with save_model()"
        ) from error
    except (TypeError, ValueError, RecursionError) as error:
        raise ModelError(f"the model in {folder} is refused: {error}") from error


def to_frame(rows: Sequence[Sequence[Any]], model: Model) -> pd.DataFrame:
    """Turn raw rows (features in order, an empty value is missing) into the table that the pipeline takes."""
    columns = _columns(rows, model)
    if not any(column.dtype == object for column in columns):
        return pd.DataFrame(np.array(columns).T, columns=model.features)  # one block: made in the least time
    return pd.DataFrame(dict(zip(model.features, columns, strict=True)), copy=False)


def to_table(rows: Sequence[Sequence[Any]], model: Model) -> pd.DataFrame | np.ndarray:
    """The same as an array where the pipeline takes one: it was fitted without names, and all are numbers.

    For one row a table costs more time than many a model.
    """
    if hasattr(model.pipeline, "feature_names_in_"):
        return to_frame(rows, model)
    return np.array(_columns(rows, model)).T


def names_columns(row: Sequence[Any], model: Model) -> bool:
    """Whether a row is a header."""
    return [str(value).strip() for value in row] == model.features


def read_csv(body: bytes, model: Model) -> pd.DataFrame | None:
    """The table of many rows of CSV, read at once; None for what to_frame has to look at, row by row.

    Where this gives a table, it is the one that to_frame gives: what Python and Arrow may read in two ways
    (quotes, spaces around values, characters that are not printed, words for infinity) is left to to_frame.
    """
    if b"\r" in body:
        body = body.replace(b"\r\n", b"\n")
    names = model.features
    if not body or body.translate(None, PLAIN):
        return None
    if b" " in body and (b" " in (body[:1], body[-1:]) or any(pair in body for pair in AMBIGUOUS)):
        return None
    if body.startswith(names[0].encode()):  # a header, perhaps
        return None
    kinds = {
        feature["name"]: pa.float64() if feature["kind"] == "number" else pa.string()
        for feature in model.metadata["features"]
    }
    try:
        table = arrow.read_csv(
            pa.BufferReader(body),
            read_options=arrow.ReadOptions(column_names=names, use_threads=False, block_size=len(body) + 1),
            parse_options=arrow.ParseOptions(quote_char=False),
            convert_options=arrow.ConvertOptions(
                column_types=kinds,
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )
    except (pa.ArrowInvalid, pa.ArrowKeyError):
        return None
    frame = table.to_pandas(use_threads=False)
    for name, kind in kinds.items():
        missing = table[name].null_count
        if kind == pa.float64():
            if np.isfinite(frame[name].to_numpy()).sum() != len(frame) - missing:
                return None
        elif missing and frame[name].dtype == object:  # None: the imputer looks for NaN
            frame[name] = frame[name].where(frame[name].notna(), np.nan)
    return frame if len(frame) else None


def probabilities(table: pd.DataFrame | np.ndarray, model: Model) -> list[float]:
    """Return the probability of the positive class for each row of a table, or of what to_table gives.

    Each row by itself: the endpoint scores the rows of several requests in one call.
    """
    names = model.features
    if isinstance(table, pd.DataFrame):
        if list(table.columns) != names:
            table = table[names]
        # A pipeline that was fitted without names takes an array; one with names the table.
        table = table if hasattr(model.pipeline, "feature_names_in_") else table.to_numpy()
    try:
        scores = model.pipeline.predict_proba(table)[:, 1]
    except ValueError as error:
        missing = np.argwhere(pd.isna(table))
        if not len(missing):
            raise
        row, column = missing[0]
        raise BadRequest(f"row {row + 1}, column {names[column]!r}: this model needs a value") from error
    return scores.tolist()


def _columns(rows: Sequence[Sequence[Any]], model: Model) -> list[np.ndarray]:
    """The values of each feature: numbers, or objects that are texts."""
    names = model.features
    width = len(names)
    if any(len(row) != width for row in rows):
        number, row = next((number, row) for number, row in enumerate(rows, start=1) if len(row) != width)
        raise BadRequest(f"row {number} has {len(row)} values, expected {width}: {', '.join(names)}")
    if rows and names_columns(rows[0], model):
        raise BadRequest("row 1 is a header: send the values only")
    values = list(zip(*rows, strict=True)) if rows else [()] * width
    return [
        (_numbers if feature["kind"] == "number" else _categories)(column, feature["name"])
        for column, feature in zip(values, model.metadata["features"], strict=True)
    ]


def _numbers(values: Sequence[Any], column: str) -> np.ndarray:
    """The numbers of a column at once where they are plain, one by one where not."""
    kinds = set(map(type, values))
    if kinds <= {int, float} or kinds == {str}:
        try:
            numbers = np.array(list(map(float, values)))
        except (ValueError, OverflowError):
            pass
        else:
            if np.isfinite(numbers).all():
                return numbers
    return np.array([_number(value, row, column) for row, value in enumerate(values, start=1)], dtype=float)


def _categories(values: Sequence[Any], column: str) -> np.ndarray:
    """The texts of a column at once where they are plain, one by one where not."""
    found: list[Any] = []
    if set(map(type, values)) == {str}:
        found = list(map(str.strip, values))
    if not found or "" in found:
        found = [_category(value, row, column) for row, value in enumerate(values, start=1)]
    texts = np.empty(len(found), dtype=object)
    texts[:] = found
    return texts


def _number(value: Any, row: int, column: str) -> float:
    if value is None or (isinstance(value, str) and not value.strip()):
        return float("nan")
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):  # an integer of JSON may have any number of digits
        number = math.inf
    if isinstance(value, bool) or not math.isfinite(number):
        raise BadRequest(f"row {row}, column {column!r}: {reprlib.repr(value)} is not a number")
    return number


def _category(value: Any, row: int, column: str) -> str | float:
    if value is None or (isinstance(value, str) and not value.strip()):
        return float("nan")
    if not isinstance(value, str):
        raise BadRequest(f"row {row}, column {column!r}: {reprlib.repr(value)} is not a text")
    return value.strip()
