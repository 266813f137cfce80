"""Train the model (training container, step Train).

Follows the contract of a SageMaker training job: hyperparameters from input/config/hyperparameters.json, data
from input/data/{train,validation}, the model to model/, and the reason of a failure to output/failure, all
below /opt/ml.

On a laptop:
    python src/train.py --train build/data/train --validation build/data/validation --model-dir build/model
"""

import argparse
import json
import os
import platform
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import sklearn
from inference import Model, probabilities, save_model
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

# name: (default, type, lowest, highest)
HYPERPARAMETERS: dict[str, tuple[Any, type, float, float]] = {
    "algorithm": ("logistic_regression", str, 0, 0),
    "random_seed": (42, int, 0, 2**31),
    "inverse_regularization": (0.1, float, 1e-6, 1e6),  # logistic_regression
    "max_iterations": (1000, int, 1, 100_000),  # logistic_regression
    "trees": (120, int, 1, 5000),  # gradient_boosting
    "learning_rate": (0.05, float, 1e-4, 1),  # gradient_boosting
    "max_depth": (3, int, 1, 16),  # gradient_boosting
}
ALGORITHMS = ("logistic_regression", "gradient_boosting")
LONGEST_FAILURE = 1024  # SageMaker shows no more of output/failure


class TrainingError(ValueError):
    """Training cannot start; the message says which hyperparameter or file, and what is allowed."""


def read_hyperparameters(given: Mapping[str, str]) -> dict[str, Any]:
    """Turn SageMaker's strings into typed values, defaults filled in; an unknown or bad one is an error."""
    unknown = sorted(
        name for name in given if name not in HYPERPARAMETERS and not name.startswith("sagemaker_")
    )
    if unknown:
        raise TrainingError(
            f"unknown hyperparameter {', '.join(unknown)}; known: {', '.join(HYPERPARAMETERS)}"
        )
    values: dict[str, Any] = {}
    for name, (default, kind, lowest, highest) in HYPERPARAMETERS.items():
        text = str(given.get(name, default))
        try:
            value = kind(text)
        except ValueError as error:
            raise TrainingError(f"hyperparameter {name}: {text!r} is not of type {kind.__name__}") from error
        if kind is not str and not lowest <= value <= highest:
            raise TrainingError(f"hyperparameter {name}: {value} is not between {lowest} and {highest}")
        values[name] = value
    if values["algorithm"] not in ALGORITHMS:
        raise TrainingError(
            f"hyperparameter algorithm: {values['algorithm']!r} is not one of {', '.join(ALGORITHMS)}"
        )
    return values


def build_pipeline(features: Sequence[Mapping[str, str]], values: Mapping[str, Any]) -> Pipeline:
    """Return the unfitted pipeline: imputation, scaling and one-hot encoding, then the classifier."""
    numbers = [feature["name"] for feature in features if feature["kind"] == "number"]
    categories = [feature["name"] for feature in features if feature["kind"] == "category"]
    number_steps = Pipeline([("impute", SimpleImputer(strategy="median")), ("scale", StandardScaler())])
    category_steps = Pipeline(
        [
            ("impute", SimpleImputer(strategy="most_frequent")),
            # A category that was never seen must not stop the endpoint; the monitor reports it.
            ("encode", OneHotEncoder(handle_unknown="ignore", sparse_output=False)),
        ]
    )
    if values["algorithm"] == "gradient_boosting":
        classifier: Any = GradientBoostingClassifier(
            n_estimators=values["trees"],
            learning_rate=values["learning_rate"],
            max_depth=values["max_depth"],
            random_state=values["random_seed"],
        )
    else:
        classifier = LogisticRegression(
            C=values["inverse_regularization"],
            max_iter=values["max_iterations"],
            random_state=values["random_seed"],
        )
    columns = ColumnTransformer(
        [("numbers", number_steps, numbers), ("categories", category_steps, categories)]
    )
    return Pipeline([("columns", columns), ("classifier", classifier)])


def read_part(folder: Path, description: Mapping[str, Any]) -> tuple[pd.DataFrame, np.ndarray]:
    """Read one part of the split: the features, and 1 where the target is the positive class."""
    files = sorted(folder.glob("*.csv"))
    if not files:
        raise TrainingError(f"{folder}: no CSV file; is the channel connected to the preprocessing step?")
    kinds = {f["name"]: (float if f["kind"] == "number" else str) for f in description["features"]}
    frame = pd.concat(
        [pd.read_csv(file, dtype=kinds, keep_default_na=False, na_values=[""]) for file in files],
        ignore_index=True,
    )
    labels = (frame[description["target"]].astype(str) == description["positive_class"]).to_numpy(dtype=int)
    return frame[list(kinds)], labels


def train(
    train_dir: Path, validation_dir: Path, model_dir: Path, given: Mapping[str, str]
) -> dict[str, float]:
    """Fit, save the model, and return the metrics on the validation part."""
    values = read_hyperparameters(given)
    description_file = train_dir / "features.json"
    if not description_file.is_file():
        raise TrainingError(f"{description_file}: not found; it is written by preprocess.py")
    description = json.loads(description_file.read_text(encoding="utf-8"))
    frame, labels = read_part(train_dir, description)
    pipeline = build_pipeline(description["features"], values)
    pipeline.fit(frame, labels)
    metadata = {
        **description,
        "hyperparameters": values,
        "rows": len(frame),
        "versions": {"python": platform.python_version(), "scikit-learn": sklearn.__version__},
    }
    model = Model(pipeline, metadata)
    validation, truth = read_part(validation_dir, description)
    scores = np.array(probabilities(validation, model))
    metrics = {
        "auc": float(roc_auc_score(truth, scores)),
        "accuracy": float(accuracy_score(truth, scores >= 0.5)),
    }
    metadata["validation"] = metrics
    save_model(model, model_dir)
    return metrics


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; the defaults are the paths of a SageMaker training job."""
    root = Path("/opt/ml")
    data = root / "input/data"
    environment = os.environ
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "command", nargs="?", choices=["train"], default="train", help="SageMaker passes 'train'"
    )
    parser.add_argument(
        "--train", type=Path, default=Path(environment.get("SM_CHANNEL_TRAIN", data / "train"))
    )
    parser.add_argument(
        "--validation", type=Path, default=Path(environment.get("SM_CHANNEL_VALIDATION", data / "validation"))
    )
    parser.add_argument(
        "--model-dir", type=Path, default=Path(environment.get("SM_MODEL_DIR", root / "model"))
    )
    parser.add_argument(
        "--output-dir", type=Path, default=Path(environment.get("SM_OUTPUT_DIR", root / "output"))
    )
    parser.add_argument(
        "--config-dir", type=Path, default=Path(environment.get("SM_INPUT_CONFIG_DIR", root / "input/config"))
    )
    parser.add_argument(
        "--hyperparameter", action="append", default=[], metavar="NAME=VALUE", help="may be repeated"
    )
    args = parser.parse_args(argv)
    try:
        file = args.config_dir / "hyperparameters.json"
        given = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        given |= dict(pair.split("=", 1) if "=" in pair else (pair, "") for pair in args.hyperparameter)
        metrics = train(args.train, args.validation, args.model_dir, given)
    except Exception as error:  # the one broad catch: the reason must reach the job's description
        reason = str(error) if isinstance(error, TrainingError) else f"{type(error).__name__}: {error}"
        if not isinstance(error, TrainingError):
            traceback.print_exc()
        print(f"train: {reason}", file=sys.stderr)
        if args.output_dir.is_dir():
            (args.output_dir / "failure").write_text(reason[:LONGEST_FAILURE], encoding="utf-8")
        return 1
    # The form that the metric definitions of the training job look for.
    for name, value in metrics.items():
        print(f"validation:{name}={value:.6f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
