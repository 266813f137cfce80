"""Track experiment runs: in MLflow where MLFLOW_TRACKING_URI is set, else in a file."""

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd


def log_run(
    name: str,
    parameters: Mapping[str, Any],
    metrics: Mapping[str, float],
    folder: Path = Path("runs"),
    experiment: str = "local",
) -> str:
    """Record one run, and return where it was recorded."""
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if uri:
        import mlflow  # only where it is configured: the project does not depend on it

        mlflow.set_tracking_uri(uri)
        mlflow.set_experiment(experiment)
        with mlflow.start_run(run_name=name):
            mlflow.log_params(dict(parameters))
            mlflow.log_metrics(dict(metrics))
        return uri
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "experiment": experiment,
        "name": name,
        "parameters": dict(parameters),
        "metrics": dict(metrics),
    }
    with (folder / "runs.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
    return str(folder / "runs.jsonl")


def read_runs(folder: Path = Path("runs")) -> pd.DataFrame:
    """Return the runs recorded in the local file: a row a run, its parameters and metrics as columns."""
    file = folder / "runs.jsonl"
    if not file.is_file():
        return pd.DataFrame()
    records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return pd.DataFrame(
        [{"time": r["time"], "name": r["name"], **r["parameters"], **r["metrics"]} for r in records]
    )
