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

import pandas as pd
import skops.io
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
    names = model.features
    for number, row in enumerate(rows, start=1):
        if len(row) != len(names):
            raise BadRequest(f"row {number} has {len(row)} values, expected {len(names)}: {', '.join(names)}")
    if rows and [str(value).strip() for value in rows[0]] == names:
        raise BadRequest("row 1 is a header: send the values only")
    columns: dict[str, list[Any]] = {}
    for position, feature in enumerate(model.metadata["features"]):
        read = _number if feature["kind"] == "number" else _category
        columns[feature["name"]] = [
            read(row[position], number, feature["name"]) for number, row in enumerate(rows, start=1)
        ]
    return pd.DataFrame(columns, columns=names)


def probabilities(frame: pd.DataFrame, model: Model) -> list[float]:
    """Return the probability of the positive class for each row."""
    return [float(value) for value in model.pipeline.predict_proba(frame[model.features])[:, 1]]


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
