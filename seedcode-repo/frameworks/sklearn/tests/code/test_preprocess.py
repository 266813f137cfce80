"""Bad data is refused with a sentence that says what is wrong; good data is split the same way every time."""

import json
from pathlib import Path

import pandas as pd
import preprocess
import pytest


@pytest.fixture
def raw(data_file: Path) -> pd.DataFrame:
    return preprocess.read_csv(data_file)


def test_a_missing_column_is_named(raw: pd.DataFrame):
    with pytest.raises(preprocess.DataError, match="missing column 'age', 'job'"):
        preprocess.check(raw.drop(columns=["age", "job"]), "credit_risk", "bad")


def test_a_text_in_a_number_column_is_named_with_its_row(raw: pd.DataFrame):
    raw.loc[7, "age"] = "old"
    with pytest.raises(
        preprocess.DataError, match=r"column 'age', row 8: 'old' is not a number \(1 such rows\)"
    ):
        preprocess.check(raw, "credit_risk", "bad")


def test_infinity_is_not_a_number(raw: pd.DataFrame):
    raw.loc[0, "credit_amount"] = "inf"
    with pytest.raises(preprocess.DataError, match="column 'credit_amount', row 1: 'inf'"):
        preprocess.check(raw, "credit_risk", "bad")


def test_an_empty_column_is_named(raw: pd.DataFrame):
    raw["housing"] = None
    with pytest.raises(preprocess.DataError, match="column 'housing' has no values"):
        preprocess.check(raw, "credit_risk", "bad")


def test_an_empty_target_is_counted(raw: pd.DataFrame):
    raw.loc[[3, 4], "credit_risk"] = None
    with pytest.raises(preprocess.DataError, match="'credit_risk' .* is empty in 2 rows"):
        preprocess.check(raw, "credit_risk", "bad")


def test_a_wrong_positive_class_is_answered_with_the_classes_found(raw: pd.DataFrame):
    with pytest.raises(preprocess.DataError, match="one of them 'Bad'.*found 'bad', 'good'"):
        preprocess.check(raw, "credit_risk", "Bad")


def test_too_few_rows_of_a_class_are_refused(raw: pd.DataFrame):
    few = pd.concat([raw[raw.credit_risk == "good"], raw[raw.credit_risk == "bad"].head(3)])
    with pytest.raises(preprocess.DataError, match="class 'bad' has 3 rows"):
        preprocess.check(few, "credit_risk", "bad")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty"),
        ("age,job\n", "a header but no rows"),
        (b"\xff\xfe\x00a", "not a CSV file in UTF-8"),
    ],
    ids=["empty", "header only", "not text"],
)
def test_a_file_without_rows_is_refused(tmp_path: Path, content: str | bytes, message: str):
    file = tmp_path / "data.csv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(preprocess.DataError, match=message):
        preprocess.read_csv(file)


def test_several_files_are_one_table(raw: pd.DataFrame, tmp_path: Path):
    (tmp_path / "2026").mkdir()
    raw[:400].to_csv(tmp_path / "a.csv", index=False)
    raw[400:].to_csv(tmp_path / "2026" / "b.csv", index=False)
    (tmp_path / "readme.txt").write_text("not data")
    whole = preprocess.check(preprocess.read_data(tmp_path), "credit_risk", "bad")
    expected = preprocess.check(raw, "credit_risk", "bad")
    in_order = pd.concat([expected[400:], expected[:400]])  # 2026/b.csv comes before a.csv
    assert whole.reset_index(drop=True).equals(in_order.reset_index(drop=True))


def test_a_file_with_another_header_is_named(raw: pd.DataFrame, tmp_path: Path):
    raw.to_csv(tmp_path / "a.csv", index=False)
    raw.rename(columns={"age": "years"}).to_csv(tmp_path / "b.csv", index=False)
    with pytest.raises(preprocess.DataError, match="b.csv: its header is not that of a.csv.* 'age', 'years'"):
        preprocess.read_data(tmp_path)
    raw[raw.columns[::-1]].to_csv(tmp_path / "b.csv", index=False)
    with pytest.raises(preprocess.DataError, match="b.csv: .* 'the order of the columns'"):
        preprocess.read_data(tmp_path)


def test_a_mistake_in_one_of_several_files_is_named_with_its_file(raw: pd.DataFrame, tmp_path: Path):
    raw.to_csv(tmp_path / "a.csv", index=False)
    raw.loc[7, "age"] = "old"
    raw.to_csv(tmp_path / "b.csv", index=False)
    with pytest.raises(preprocess.DataError, match=r"column 'age', file b.csv, row 8: 'old' is not a number"):
        preprocess.check(preprocess.read_data(tmp_path), "credit_risk", "bad")
    (tmp_path / "c.csv").write_text("")
    with pytest.raises(preprocess.DataError, match="c.csv: the file is empty"):
        preprocess.read_data(tmp_path)


def test_a_folder_without_data_is_refused(tmp_path: Path):
    (tmp_path / "data.parquet").write_bytes(b"PAR1")
    for path in (tmp_path, tmp_path / "missing.csv"):
        with pytest.raises(preprocess.DataError, match="no CSV file is there"):
            preprocess.read_data(path)


def test_missing_values_are_kept_for_the_model_to_impute(raw: pd.DataFrame):
    raw.loc[0, ["age", "job"]] = None
    assert preprocess.check(raw, "credit_risk", "bad").loc[0, ["age", "job"]].isna().all()


def test_the_same_seed_gives_the_same_rows(raw: pd.DataFrame):
    frame = preprocess.check(raw, "credit_risk", "bad")
    first, again, other = (preprocess.split(frame, "credit_risk", 0.2, seed) for seed in (1, 1, 2))
    assert all(first[name].equals(again[name]) for name in first)
    assert not first["test"].equals(other["test"])


def test_the_baseline_has_the_raw_features_of_the_training_rows_only(parts: Path):
    baseline = pd.read_csv(parts / "baseline" / "baseline.csv", keep_default_na=False)
    assert list(baseline.columns) == list(preprocess.FEATURES)
    assert len(baseline) == len(pd.read_csv(parts / "train" / "train.csv"))


def test_the_description_names_features_and_classes(parts: Path):
    description = json.loads((parts / "train" / "features.json").read_text())
    assert [feature["name"] for feature in description["features"]] == list(preprocess.FEATURES)
    assert (description["positive_class"], description["negative_class"]) == ("bad", "good")


def test_the_command_reports_a_mistake_on_standard_error(tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "data.csv").write_text("age\n1\n")
    assert preprocess.main(["--input", str(tmp_path), "--output", str(tmp_path / "out")]) == 1
    assert "preprocess: missing column 'checking_account'" in capsys.readouterr().err
