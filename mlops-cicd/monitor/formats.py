"""The documented formats of monitoring files, as JSON Schemas (formats/*.schema.json), and their check.

Not part of the job: it needs jsonschema, which the image of the job has not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft7Validator

FOLDER = Path(__file__).with_name("formats")
# Of Clarify's two kinds, the constraints of a baseline and the statistics of a run are analyses, too.
ANALYSIS = frozenset({"analysis.json", "constraints.json", "statistics.json"})
CLARIFY = frozenset({"model_bias", "model_explainability"})
CURVES = (
    ("receiver_operating_characteristic_curve", "false_positive_rates", "true_positive_rates"),
    ("precision_recall_curve", "precisions", "recalls"),
)


@cache
def schema(kind: str, file: str = "") -> dict[str, Any]:
    """The schema of a file of a kind of monitor; kind capture or ground_truth: of one line."""
    if kind in CLARIFY and file in ANALYSIS:
        file = "analysis.json"
    name = ".".join(part for part in (kind, file.removesuffix(".json"), "schema.json") if part)
    path = FOLDER / name
    if not path.is_file():
        raise LookupError(f"no format is documented for {file or 'a line'} of {kind}")
    return json.loads(path.read_text(encoding="utf-8"))


def problems(kind: str, file: str, document: Any) -> list[str]:
    """What is wrong with a document and where, a sentence a fault; nothing if it has the documented form."""
    errors = Draft7Validator(schema(kind, file)).iter_errors(document)
    found = [
        f"{place(error.absolute_path)}: {error.message}"
        for error in sorted(errors, key=lambda error: list(map(str, error.absolute_path)))
    ]
    found += [f"{place(path)}: {value} is no number of JSON" for path, value in not_finite(document)]
    if not found and (kind, file) == ("model_quality", "statistics.json"):
        found += uneven_curves(document.get("binary_classification_metrics", {}))
    return found


def place(path: Any) -> str:
    """Where in a document, as people write it: features[3].name."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text or "document"


def not_finite(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], float]]:
    """The numbers that Python writes as NaN or Infinity, which no other reader of JSON takes."""
    if isinstance(value, float) and not math.isfinite(value):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from not_finite(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from not_finite(item, (*path, index))


def uneven_curves(metrics: dict[str, Any]) -> list[str]:
    """Curves whose two lists are of different length, which a schema cannot say."""
    return [
        f"binary_classification_metrics.{name}: {len(metrics[name][x])} {x}, {len(metrics[name][y])} {y}"
        for name, x, y in CURVES
        if name in metrics and len(metrics[name][x]) != len(metrics[name][y])
    ]
