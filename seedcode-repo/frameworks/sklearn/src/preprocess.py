"""Check the raw data and split it (processing container, step Preprocess).

Reads a CSV file, or all CSV files of a folder that have the same header, and writes, below the output folder:

    train/train.csv, train/features.json      what train.py learns from
    validation/validation.csv                 what train.py reports while training
    test/test.csv                             what evaluate.py judges the model on
    baseline/baseline.csv                     raw features of the training rows: the reference of the monitors

On a laptop:  python src/preprocess.py --input data/german_credit.csv --output build/data
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from sklearn.model_selection import train_test_split

# The features, in the order in which the endpoint expects them. With data of your own, this is the table to
# change.
FEATURES = {
    "checking_account": "category",
    "duration_months": "number",
    "credit_history": "category",
    "purpose": "category",
    "credit_amount": "number",
    "savings_account": "category",
    "employment_since": "category",
    "installment_rate": "number",
    "personal_status": "category",
    "other_debtors": "category",
    "residence_since": "number",
    "property": "category",
    "age": "number",
    "other_installment_plans": "category",
    "housing": "category",
    "existing_credits": "number",
    "job": "category",
    "dependents": "number",
    "telephone": "category",
    "foreign_worker": "category",
}
MINIMUM_ROWS_PER_CLASS = 10
VALIDATION_FRACTION = 0.2  # of the rows that are not kept for the test


class DataError(ValueError):
    """The data cannot be used; the message says which column or row, and why."""


def read_data(path: Path) -> pd.DataFrame:
    """Read the CSV file at path, or all CSV files below it as one table, which then must have one header."""
    files = [path] if path.is_file() else sorted(path.rglob("*.csv"))
    if not files:
        raise DataError(f"{path}: no CSV file is there")
    if len(files) == 1:
        return read_csv(files[0])
    frames = {file.relative_to(path).as_posix(): read_csv(file) for file in files}
    (first, model), *others = frames.items()
    for name, frame in others:
        if list(frame.columns) != list(model.columns):
            differ = sorted(set(frame.columns) ^ set(model.columns)) or ["the order of the columns"]
            raise DataError(
                f"{name}: its header is not that of {first}; they differ in {', '.join(map(repr, differ))}"
            )
    return pd.concat(frames)  # each row is known by its file and its number there


def read_csv(path: Path) -> pd.DataFrame:
    """Read a CSV file as text, so that what is wrong in it can be named exactly."""
    try:
        # Only an empty field is missing: "NA" or "none" may be a category.
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, na_values=[""])
    except pd.errors.EmptyDataError as error:
        raise DataError(f"{path.name}: the file is empty") from error
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise DataError(f"{path.name}: not a CSV file in UTF-8: {error}") from error
    if frame.empty:
        raise DataError(f"{path.name}: the file has a header but no rows")
    return frame


def check(raw: pd.DataFrame, target: str, positive_class: str) -> pd.DataFrame:
    """Return the features (typed) and the target of raw, or raise a DataError that names what is wrong."""
    expected = [*FEATURES, target]
    missing = [column for column in expected if column not in raw.columns]
    if missing:
        raise DataError(
            f"missing column {', '.join(map(repr, missing))};"
            f" the file has {', '.join(map(repr, raw.columns))}"
        )
    frame = raw[expected].copy()
    for column, kind in FEATURES.items():
        if frame[column].isna().all():
            raise DataError(f"column {column!r} has no values")
        if kind == "number":
            numbers = pd.to_numeric(frame[column], errors="coerce").replace(
                [float("inf"), float("-inf")], float("nan")
            )
            wrong = frame.index[numbers.isna() & frame[column].notna()]
            if len(wrong):
                row = wrong[0]
                place = f"row {row + 1}" if frame.index.nlevels == 1 else f"file {row[0]}, row {row[1] + 1}"
                raise DataError(
                    f"column {column!r}, {place}: {frame.at[row, column]!r} is not a number"
                    f" ({len(wrong)} such rows)"
                )
            frame[column] = numbers
    if frame[target].isna().any():
        raise DataError(f"column {target!r} (the target) is empty in {int(frame[target].isna().sum())} rows")
    counts = frame[target].value_counts()
    if positive_class not in counts or len(counts) != 2:
        raise DataError(
            f"column {target!r} (the target) must have two classes, one of them {positive_class!r}"
            f" (data.positive_class in mlops.yml); found {', '.join(map(repr, sorted(counts.index)))}"
        )
    if counts.min() < MINIMUM_ROWS_PER_CLASS:
        raise DataError(
            f"column {target!r}: class {counts.idxmin()!r} has {counts.min()} rows,"
            f" at least {MINIMUM_ROWS_PER_CLASS} are needed for a split"
        )
    return frame


def split(frame: pd.DataFrame, target: str, test_fraction: float, seed: int) -> dict[str, pd.DataFrame]:
    """Split into train, validation and test, with equal shares of the classes; a seed gives the same rows."""
    rest, test = train_test_split(frame, test_size=test_fraction, random_state=seed, stratify=frame[target])
    train, validation = train_test_split(
        rest, test_size=VALIDATION_FRACTION, random_state=seed, stratify=rest[target]
    )
    return {"train": train, "validation": validation, "test": test}


def describe(target: str, positive_class: str, frame: pd.DataFrame) -> dict[str, Any]:
    """Return what the later steps must know of the data: order and kind of the features, and the classes."""
    negative_class = next(value for value in sorted(frame[target].unique()) if value != positive_class)
    return {
        "features": [{"name": name, "kind": kind} for name, kind in FEATURES.items()],
        "target": target,
        "positive_class": positive_class,
        "negative_class": negative_class,
    }


def run(
    source: Path, output: Path, target: str, positive_class: str, test_fraction: float, seed: int
) -> dict[str, int]:
    """Check, split and write; returns the number of rows of each part."""
    frame = check(read_data(source), target, positive_class)
    parts = split(frame, target, test_fraction, seed)
    for name, part in parts.items():
        (output / name).mkdir(parents=True, exist_ok=True)
        part.to_csv(output / name / f"{name}.csv", index=False)
    description = describe(target, positive_class, frame)
    (output / "train" / "features.json").write_text(
        json.dumps(description, indent=2) + "\n", encoding="utf-8"
    )
    (output / "baseline").mkdir(parents=True, exist_ok=True)
    parts["train"][list(FEATURES)].to_csv(output / "baseline" / "baseline.csv", index=False)
    return {name: len(part) for name, part in parts.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; the defaults are the paths of a SageMaker processing job."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--input",
        type=Path,
        default=Path("/opt/ml/processing/input/data"),
        help="CSV file, or a folder of such",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("/opt/ml/processing/output"), help="folder to write to"
    )
    parser.add_argument("--target", default="credit_risk", help="name of the target column")
    parser.add_argument(
        "--positive-class", default="bad", help="target value whose probability the model gives"
    )
    parser.add_argument("--test-fraction", type=float, default=0.2, help="share of rows kept for the test")
    parser.add_argument("--seed", type=int, default=42, help="seed of the split")
    args = parser.parse_args(argv)
    if not 0 < args.test_fraction <= 0.5:
        parser.error(f"--test-fraction: {args.test_fraction} is not above 0 and up to 0.5")
    try:
        rows = run(args.input, args.output, args.target, args.positive_class, args.test_fraction, args.seed)
    except DataError as error:
        print(f"preprocess: {error}", file=sys.stderr)
        return 1
    print(f"preprocess: rows {json.dumps(rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
