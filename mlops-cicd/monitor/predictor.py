"""The project's model, called through the code that serves it: the only place that knows how.

The image of the job has the project's `inference.py` in /opt/program (PROGRAM_DIR names another folder), with

    load_model(folder)              the model; `metadata` has target, positive_class, negative_class, features
    to_frame(rows, model)           a pandas table of raw rows; a ValueError for rows that cannot be scored
    probabilities(frame, model)     a number a row: the positive class's probability, or a regression's value
    labels(frame, model)            optional: the class of each row, where there are more than two

so that what the monitor computes is what the endpoint answers.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import polars as pl

from . import MonitorError
from .settings import unpack_model

PROGRAM = Path("/opt/program")
BATCH = 50_000  # rows that are scored at once: bounds the memory of one call


class Predictor:
    """A model that scores rows."""

    def __init__(self, model: Path, program: Path | None = None) -> None:
        folder, self._unpacked = unpack_model(model)  # a temporary folder lives as long as this object
        self._program = load_program(program or Path(os.environ.get("PROGRAM_DIR") or PROGRAM))
        try:
            self._model = self._program.load_model(folder)
        except (OSError, ValueError) as error:
            raise MonitorError(f"the model in {model} cannot be loaded: {error}") from error
        self.metadata: dict[str, Any] = self._model.metadata
        self.features: list[str] = [feature["name"] for feature in self.metadata["features"]]

    def frame(self, rows: pl.DataFrame) -> Any:
        """The pandas table that the model takes, of rows of text (null is missing)."""
        lacking = [name for name in self.features if name not in rows.columns]
        if lacking:
            raise MonitorError(f"the model needs {', '.join(lacking)}; there are {', '.join(rows.columns)}")
        return self._program.to_frame(rows.select(self.features).rows(), self._model)

    def readable(self, rows: pl.DataFrame) -> pl.Series:
        """Which rows the model takes: a request that the endpoint refused is captured all the same."""

        def good(part: pl.DataFrame) -> Iterator[bool]:
            try:
                self.frame(part)
            except MonitorError:
                raise
            except ValueError:
                if part.height == 1:
                    yield False
                else:  # look for the bad rows by halves: there are few
                    middle = part.height // 2
                    yield from good(part[:middle])
                    yield from good(part[middle:])
            else:
                yield from [True] * part.height

        return pl.Series(list(good(rows)) if rows.height else [], dtype=pl.Boolean)

    def scores_of_frame(self, frame: Any) -> np.ndarray:
        """One number a row of a table that `frame` has made."""
        parts = [frame.iloc[start : start + BATCH] for start in range(0, len(frame), BATCH)]
        scores = [np.asarray(self._program.probabilities(part, self._model), dtype=float) for part in parts]
        return np.concatenate(scores) if scores else np.empty(0)

    def scores(self, rows: pl.DataFrame) -> np.ndarray:
        """One number a row."""
        return self.scores_of_frame(self.frame(rows))

    def mixer(self, frame: Any) -> Callable[[np.ndarray], np.ndarray]:
        """A function that scores rows put together from a frame's: which row each value comes from."""
        columns = {name: frame[name].to_numpy() for name in self.features}

        def score(source: np.ndarray) -> np.ndarray:
            mixed = {name: column[source[:, i]] for i, (name, column) in enumerate(columns.items())}
            return self.scores_of_frame(type(frame)(mixed))

        return score

    def labels(self, rows: pl.DataFrame) -> Sequence[str]:
        """The class of each row, from a model that has more than two."""
        if not hasattr(self._program, "labels"):
            raise MonitorError(
                "MulticlassClassification needs labels(frame, model) in inference.py: one class a row"
            )
        return [str(label) for label in self._program.labels(self.frame(rows), self._model)]


def load_program(folder: Path) -> ModuleType:
    """The project's inference.py as a module."""
    path = folder / "inference.py"
    if not path.is_file():
        raise MonitorError(f"no inference.py in {folder}: run the job in the project's preprocessing image")
    spec = importlib.util.spec_from_file_location("project_inference", path)
    assert spec is not None and spec.loader is not None  # noqa: S101 - a .py file always has both
    module = importlib.util.module_from_spec(spec)
    with importable(folder):  # it may import files that lie beside it
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    return module


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Let modules of a folder be imported by name."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
