"""Evidently's data drift of one CSV file against another; runs in .venv-bench, in a process of its own."""

from __future__ import annotations

import json
import sys
import time

import pandas as pd
from evidently import DataDefinition, Dataset, Report
from evidently.presets import DataDriftPreset


def main(reference_file: str, current_file: str) -> int:
    """Print how long the report alone took, from data frames to its result."""
    reference, current = pd.read_csv(reference_file), pd.read_csv(current_file)
    numeric = [name for name in reference if pd.api.types.is_numeric_dtype(reference[name])]
    definition = DataDefinition(
        numerical_columns=numeric, categorical_columns=[name for name in reference if name not in numeric]
    )
    began = time.monotonic()
    run = Report([DataDriftPreset()]).run(
        Dataset.from_pandas(current, data_definition=definition),
        Dataset.from_pandas(reference, data_definition=definition),
    )
    found = run.dict()["metrics"]
    seconds = time.monotonic() - began
    print(json.dumps({"seconds": seconds, "rows": len(current), "metrics": len(found)}))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
