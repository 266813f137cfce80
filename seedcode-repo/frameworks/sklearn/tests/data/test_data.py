"""What the model relies on in the data: columns, values, ranges, balance, and no leak into training."""

from pathlib import Path

import pandas as pd
import preprocess
import pytest

RANGES = {
    "duration_months": (1, 120),
    "credit_amount": (100, 100_000),
    "installment_rate": (1, 4),
    "residence_since": (1, 4),
    "age": (18, 100),
    "existing_credits": (1, 10),
    "dependents": (1, 10),
}
MOST_CATEGORIES = 20


@pytest.fixture(scope="module")
def frame(data_file: Path, config: dict) -> pd.DataFrame:
    return preprocess.check(
        preprocess.read_csv(data_file), config["data"]["target"], config["data"]["positive_class"]
    )


def test_the_columns_are_the_features_and_the_target(data_file: Path, config: dict):
    assert list(preprocess.read_csv(data_file).columns) == [*preprocess.FEATURES, config["data"]["target"]]


def test_there_is_enough_of_both_classes(frame: pd.DataFrame, config: dict):
    share = (frame[config["data"]["target"]] == config["data"]["positive_class"]).mean()
    assert len(frame) >= 500 and 0.05 <= share <= 0.95


def test_no_value_is_missing(frame: pd.DataFrame):
    assert frame.isna().sum()[lambda missing: missing > 0].empty


@pytest.mark.parametrize("column", [name for name, kind in preprocess.FEATURES.items() if kind == "number"])
def test_numbers_are_in_their_range(frame: pd.DataFrame, column: str):
    lowest, highest = RANGES[column]
    assert frame[column].between(lowest, highest).all()


@pytest.mark.parametrize("column", [name for name, kind in preprocess.FEATURES.items() if kind == "category"])
def test_categories_are_few_and_clean(frame: pd.DataFrame, column: str):
    values = frame[column].unique()
    assert 2 <= len(values) <= MOST_CATEGORIES
    assert all(value == value.strip().lower() and "," not in value for value in values)


def test_no_applicant_is_in_two_parts(parts: Path):
    rows = {
        name: set(
            map(
                tuple,
                pd.read_csv(parts / name / f"{name}.csv", dtype=str)[list(preprocess.FEATURES)].to_numpy(),
            )
        )
        for name in ("train", "validation", "test")
    }
    assert not rows["train"] & rows["test"]
    assert not rows["train"] & rows["validation"]
    assert not rows["validation"] & rows["test"]


def test_every_part_has_the_same_share_of_the_positive_class(parts: Path, frame: pd.DataFrame, config: dict):
    target, positive = config["data"]["target"], config["data"]["positive_class"]
    whole = (frame[target] == positive).mean()
    for name in ("train", "validation", "test"):
        part = pd.read_csv(parts / name / f"{name}.csv")
        assert (part[target] == positive).mean() == pytest.approx(whole, abs=0.01), name


def test_no_single_feature_gives_the_target_away(frame: pd.DataFrame, config: dict):
    bad = frame[config["data"]["target"]] == config["data"]["positive_class"]
    for column in preprocess.FEATURES:
        groups = bad.groupby(frame[column]).agg(["mean", "size"])
        large = groups[groups["size"] >= 50]["mean"]
        assert large.between(0.01, 0.99).all(), column
