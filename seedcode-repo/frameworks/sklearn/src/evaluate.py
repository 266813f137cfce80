"""Judge the model on the test rows (processing container, step Evaluate).

Writes evaluation.json in the format of SageMaker Model Monitor's model quality statistics, so that the model
registry shows the metrics and the pipeline's condition can read them; and beside it golden.json, some test
rows with the scores of this very code: an endpoint of the model must give the same.

On a laptop:  python src/evaluate.py --model build/model --test build/data/test --output build/evaluation
"""

import argparse
import importlib.metadata
import json
import platform
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from inference import METADATA_FILE, Model, ModelError, load_model, probabilities
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    fbeta_score,
    precision_recall_curve,
    precision_score,
    recall_score,
    roc_auc_score,
    roc_curve,
)

DECISION_THRESHOLD = 0.5
# Model Monitor gives a spread from five draws of 80 %, and only where there are enough rows for it.
DRAWS, DRAW_FRACTION, ROWS_FOR_SPREAD = 5, 0.8, 200
CURVE_POINTS = 101
# Rows of golden.json: as many as cover the features, but not more than one small request takes; below FEWEST
# it is filled up with rows from the lowest to the highest score.
FEWEST, MOST = 48, 150
PACKAGES = ("numpy", "pandas", "scikit-learn", "skops")


class EvaluationError(ValueError):
    """The model cannot be judged; the message says what is missing."""


def scores_of(truth: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Return the single-number metrics; class 1 is the positive one."""
    decisions = (scores >= DECISION_THRESHOLD).astype(int)
    negatives, positives = decisions[truth == 0], decisions[truth == 1]
    return {
        "auc": float(roc_auc_score(truth, scores)),
        "accuracy": float(accuracy_score(truth, decisions)),
        "precision": float(precision_score(truth, decisions, zero_division=0)),
        "recall": float(recall_score(truth, decisions, zero_division=0)),
        "f0_5": float(fbeta_score(truth, decisions, beta=0.5, zero_division=0)),
        "f1": float(fbeta_score(truth, decisions, beta=1, zero_division=0)),
        "f2": float(fbeta_score(truth, decisions, beta=2, zero_division=0)),
        "true_positive_rate": float(positives.mean()),
        "false_negative_rate": float(1 - positives.mean()),
        "false_positive_rate": float(negatives.mean()),
        "true_negative_rate": float(1 - negatives.mean()),
    }


def spread_of(truth: np.ndarray, scores: np.ndarray, seed: int = 0) -> dict[str, float | str]:
    """Return the standard deviation of each metric over draws of the rows; "NaN" with too few rows."""
    if len(truth) < ROWS_FOR_SPREAD:
        return dict.fromkeys(scores_of(truth, scores), "NaN")
    rng = np.random.default_rng(seed)
    size = int(len(truth) * DRAW_FRACTION)
    draws = [rng.choice(len(truth), size=size, replace=False) for _ in range(DRAWS)]
    table = pd.DataFrame([scores_of(truth[draw], scores[draw]) for draw in draws])
    return {name: float(value) for name, value in table.std(ddof=0).items()}


def report(truth: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    """Return evaluation.json as a dictionary."""
    if len(set(truth.tolist())) < 2:
        raise EvaluationError("the test rows have one class only; the metrics need both")
    values, spread = scores_of(truth, scores), spread_of(truth, scores)
    metrics: dict[str, Any] = {
        name: {"value": value, "standard_deviation": spread[name]} for name, value in values.items()
    }
    # What a model would reach that always gives the more frequent class.
    constant = int(truth.mean() >= 0.5)
    always = np.full(len(truth), constant)
    metrics["accuracy_best_constant_classifier"] = _exact(accuracy_score(truth, always))
    metrics["precision_best_constant_classifier"] = _exact(precision_score(truth, always, zero_division=0))
    metrics["recall_best_constant_classifier"] = _exact(recall_score(truth, always, zero_division=0))
    matrix = confusion_matrix(truth, scores >= DECISION_THRESHOLD, labels=[0, 1])
    metrics["confusion_matrix"] = {
        str(row): {str(column): int(matrix[row][column]) for column in (0, 1)} for row in (0, 1)
    }
    false_rates, true_rates, _ = roc_curve(truth, scores)
    precisions, recalls, _ = precision_recall_curve(truth, scores)
    metrics["receiver_operating_characteristic_curve"] = {
        "false_positive_rates": _thin(false_rates),
        "true_positive_rates": _thin(true_rates),
    }
    metrics["precision_recall_curve"] = {"precisions": _thin(precisions), "recalls": _thin(recalls)}
    return {"version": 0.0, "dataset": {"item_count": len(truth)}, "binary_classification_metrics": metrics}


def _exact(value: float) -> dict[str, Any]:
    return {"value": float(value), "standard_deviation": "NaN"}


def _thin(values: np.ndarray) -> list[float]:
    # The registry draws the curves; more points would not be seen.
    keep = np.unique(np.linspace(0, len(values) - 1, min(len(values), CURVE_POINTS)).round().astype(int))
    return [float(value) for value in values[keep]]


def rows_of(result: dict[str, Any], moment: datetime) -> list[dict[str, Any]]:
    """Return evaluation.json as rows of a table, one a metric: no reader of tables takes its nested lines."""
    return [
        {
            "evaluated": moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "test_rows": result["dataset"]["item_count"],
            "name": name,
            "value": metric["value"],
            "standard_deviation": None
            if metric["standard_deviation"] == "NaN"
            else metric["standard_deviation"],
        }
        for name, metric in result["binary_classification_metrics"].items()
        if "value" in metric
    ]


def golden(frame: pd.DataFrame, model: Model, scores: np.ndarray) -> dict[str, Any]:
    """Return golden.json: rows that say much about the model, with the score of each.

    They hold every category and the ends of every number that the test rows have, and, for each feature, a
    row in which it is missing. Nothing is drawn by chance, so the same model gives the same file.
    """
    chosen: dict[int, str] = {}
    for name, kind in ((one["name"], one["kind"]) for one in model.metadata["features"]):
        column = frame[name].dropna()
        if kind == "number":
            wanted = {"smallest": column.idxmin(), "largest": column.idxmax()} if len(column) else {}
        else:
            wanted = {str(value): place for value, place in zip(column, column.index, strict=True)}
        for what, place in wanted.items():
            here = frame[name] == frame[name][place]
            if not any(here[row] for row in chosen):
                chosen[int(place)] = f"{name}: {what}"
    order = np.argsort(scores, kind="stable")
    for place in order[np.linspace(0, len(order) - 1, min(FEWEST, len(order))).astype(int)]:
        if len(chosen) < FEWEST:
            chosen.setdefault(int(place), "fills up")
    rows = frame.iloc[list(chosen)][: MOST - len(model.features)]
    reasons = list(chosen.values())[: len(rows)]
    emptied = pd.concat([rows.iloc[[0]]] * len(model.features), ignore_index=True).astype(object)
    for number, name in enumerate(model.features):
        emptied.loc[number, name] = np.nan
    emptied = emptied.astype(frame.dtypes.to_dict())
    everything = pd.concat([rows, emptied], ignore_index=True)[model.features]
    reasons += [f"{name}: missing" for name in model.features]
    found = probabilities(everything, model)
    return {
        "version": 1,
        "features": [{"name": one["name"], "kind": one["kind"]} for one in model.metadata["features"]],
        "target": model.metadata["target"],
        "positive_class": model.metadata["positive_class"],
        "content_types": ["text/csv", "application/json"],
        "packages": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
        "rows": [
            {"values": [_plain(value) for value in row], "score": score, "why": why}
            for row, score, why in zip(everything.to_numpy(dtype=object), found, reasons, strict=True)
        ],
    }


def _plain(value: Any) -> Any:
    # JSON's null is a missing value; a whole number is sent as one, as the rows of the data set are.
    if pd.isna(value):
        return None
    if isinstance(value, str):
        return value
    return int(value) if float(value).is_integer() else float(value)


def model_folder(path: Path, scratch: Path) -> Path:
    """Return the folder of the model: path itself, or what model.tar.gz in it unpacks to."""
    archive = path / "model.tar.gz" if path.is_dir() else path
    if archive.is_file():
        try:
            with tarfile.open(archive) as tar:
                tar.extractall(scratch, filter="data")  # refuses members that would be written outside
        except tarfile.TarError as error:
            raise EvaluationError(f"{archive.name} is refused: {error}; train the model again") from error
        return scratch
    if not (path / METADATA_FILE).is_file():
        raise EvaluationError(f"{path}: neither model.tar.gz nor {METADATA_FILE} is there")
    return path


def run(model_path: Path, test_dir: Path, output: Path) -> dict[str, Any]:
    """Score the test rows, write evaluation.json and golden.json, and return the evaluation."""
    with tempfile.TemporaryDirectory() as scratch:
        model = load_model(model_folder(model_path, Path(scratch)))
    files = sorted(test_dir.glob("*.csv"))
    if not files:
        raise EvaluationError(f"{test_dir}: no CSV file; it is written by preprocess.py")
    kinds = {f["name"]: (float if f["kind"] == "number" else str) for f in model.metadata["features"]}
    frame = pd.concat(
        [pd.read_csv(file, dtype=kinds, keep_default_na=False, na_values=[""]) for file in files],
        ignore_index=True,
    )
    truth = (frame[model.metadata["target"]].astype(str) == model.metadata["positive_class"]).to_numpy(
        dtype=int
    )
    scores = np.array(probabilities(frame, model))
    result = report(truth, scores)
    output.mkdir(parents=True, exist_ok=True)
    for name, content in (("evaluation", result), ("golden", golden(frame, model, scores))):
        (output / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; the defaults are the paths of a SageMaker processing job."""
    root = Path("/opt/ml/processing")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", type=Path, default=root / "input/model", help="model folder, or folder of model.tar.gz"
    )
    parser.add_argument("--test", type=Path, default=root / "input/test", help="folder of the test rows")
    parser.add_argument(
        "--output", type=Path, default=root / "output/evaluation", help="folder for evaluation.json"
    )
    parser.add_argument("--rows", type=Path, help="folder for the same metrics as rows of a table")
    args = parser.parse_args(argv)
    try:
        result = run(args.model, args.test, args.output)
    except (EvaluationError, ModelError) as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 1
    if args.rows:
        args.rows.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(row) + "\n" for row in rows_of(result, datetime.now(UTC))]
        (args.rows / "evaluations.jsonl").write_text("".join(lines), encoding="utf-8")
    metrics = result["binary_classification_metrics"]
    print(
        "evaluate: "
        + ", ".join(f"{name} {metrics[name]['value']:.4f}" for name in ("auc", "accuracy", "recall", "f1"))
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
