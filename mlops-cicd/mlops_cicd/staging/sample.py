"""The labelled rows that a deployed model is asked about: the project's own data."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import data_file
from ..console import Fault

MAX_ROWS = 500


@dataclass(frozen=True)
class Sample:
    """Labelled rows in the order in which the model takes them."""

    features: list[list[str]]
    positive: list[bool]
    names: list[str]

    @property
    def number(self) -> int | None:
        """The place of a feature that is a number in every row."""
        for place in range(len(self.names)):
            if all(is_number(row[place]) for row in self.features):
                return place
        return None


def is_number(text: str) -> bool:
    """Whether a value is a number."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def read_sample(text: str, target: str, positive_class: str, limit: int = MAX_ROWS) -> Sample:
    """Rows evenly spread over the data set, without the target."""
    rows = [row for row in csv.reader(io.StringIO(text)) if row]
    if len(rows) < 2 or target not in rows[0]:
        raise Fault(f"the sample data has no column {target} (data.target in mlops.yml) or no rows")
    place, body = rows[0].index(target), rows[1:]
    if ragged := [number for number, row in enumerate(body, start=2) if len(row) != len(rows[0])]:
        raise Fault(f"row {ragged[0]} of the sample data has another number of values than its header")
    step = max(1, math.ceil(len(body) / limit))
    chosen = body[::step]
    return Sample(
        [row[:place] + row[place + 1 :] for row in chosen],
        [same_label(row[place], positive_class) for row in chosen],
        rows[0][:place] + rows[0][place + 1 :],
    )


def same_label(found: str, wanted: str) -> bool:
    """Whether a label is the positive one; 1 and 1.0 are the same."""
    if found.strip() == wanted:
        return True
    try:
        return float(found) == float(wanted)
    except ValueError:
        return False


def load_sample(project_dir: Path, config: dict[str, Any], s3: Any) -> Sample:
    """The project's data, from its repository or from S3."""
    data = config["data"]
    source = data["source"]
    if source.startswith("s3://"):
        bucket, _, key = source.removeprefix("s3://").partition("/")
        text = s3.get_object(Bucket=bucket, Key=key)["Body"].read().decode("utf-8-sig")
    else:
        text = data_file(project_dir, source).read_text(encoding="utf-8-sig")
    return read_sample(text, data["target"], str(data.get("positive_class", 1)))
