"""The metrics are right, in the format of Model Monitor; a model archive of SageMaker is read."""

import json
import tarfile
from pathlib import Path

import evaluate
import inference
import numpy as np
import pandas as pd
import pytest

TRUTH = np.array([0, 0, 0, 1, 1])
SCORES = np.array([0.1, 0.2, 0.7, 0.4, 0.9])


def test_the_metrics_of_a_small_example():
    metrics = evaluate.report(TRUTH, SCORES)["binary_classification_metrics"]
    assert metrics["confusion_matrix"] == {"0": {"0": 2, "1": 1}, "1": {"0": 1, "1": 1}}
    assert metrics["auc"]["value"] == pytest.approx(5 / 6)
    assert metrics["accuracy"]["value"] == pytest.approx(0.6)
    assert metrics["recall"]["value"] == metrics["true_positive_rate"]["value"] == pytest.approx(0.5)
    assert metrics["false_positive_rate"]["value"] == pytest.approx(1 / 3)
    assert metrics["accuracy_best_constant_classifier"]["value"] == pytest.approx(0.6)


def test_few_rows_have_no_standard_deviation():
    assert (
        evaluate.report(TRUTH, SCORES)["binary_classification_metrics"]["auc"]["standard_deviation"] == "NaN"
    )


def test_many_rows_have_one():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 400)
    metrics = evaluate.report(truth, rng.random(400))["binary_classification_metrics"]
    assert 0 < metrics["auc"]["standard_deviation"] < 0.1


def test_one_class_only_is_refused():
    with pytest.raises(evaluate.EvaluationError, match="one class only"):
        evaluate.report(np.zeros(3), np.zeros(3))


def test_the_archive_of_a_training_job_is_read(model_dir: Path, parts: Path, tmp_path: Path):
    (tmp_path / "model").mkdir()
    with tarfile.open(tmp_path / "model" / "model.tar.gz", "w:gz") as tar:
        for file in model_dir.iterdir():
            tar.add(file, file.name)
    assert (
        evaluate.main(
            [f"--model={tmp_path / 'model'}", f"--test={parts / 'test'}", f"--output={tmp_path / 'out'}"]
        )
        == 0
    )
    report = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert report == evaluate.run(model_dir, parts / "test", tmp_path / "again")
    assert report["dataset"]["item_count"] == 200


def test_the_metrics_are_rows_of_a_table_too(model_dir: Path, parts: Path, tmp_path: Path):
    folders = [f"--test={parts / 'test'}", f"--output={tmp_path}", f"--rows={tmp_path / 'rows'}"]
    assert evaluate.main([f"--model={model_dir}", *folders]) == 0
    rows = [json.loads(line) for line in (tmp_path / "rows" / "evaluations.jsonl").read_text().splitlines()]
    report = json.loads((tmp_path / "evaluation.json").read_text())["binary_classification_metrics"]
    assert {row["name"]: row["value"] for row in rows} == {
        name: metric["value"] for name, metric in report.items() if "value" in metric
    }
    assert {row["test_rows"] for row in rows} == {200}
    deviations = {row["name"]: row["standard_deviation"] for row in rows}
    assert deviations["accuracy_best_constant_classifier"] is None  # "NaN" in evaluation.json


def test_a_folder_without_a_model_is_named(parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    assert evaluate.main([f"--model={tmp_path}", f"--test={parts / 'test'}", f"--output={tmp_path}"]) == 1
    assert "neither model.tar.gz nor metadata.json" in capsys.readouterr().err


def test_the_golden_rows_cover_every_category_the_ends_and_missing_values(
    model_dir: Path, parts: Path, tmp_path: Path
):
    evaluate.run(model_dir, parts / "test", tmp_path)
    golden = json.loads((tmp_path / "golden.json").read_text())
    rows = [row["values"] for row in golden["rows"]]
    assert evaluate.FEWEST <= len(rows) <= evaluate.MOST
    test_rows = pd.read_csv(parts / "test" / "test.csv", keep_default_na=False, na_values=[""])
    for place, feature in enumerate(golden["features"]):
        found, there = {row[place] for row in rows}, test_rows[feature["name"]].dropna()
        assert None in found, f"no row without {feature['name']}"
        wanted = {there.min(), there.max()} if feature["kind"] == "number" else set(there)
        assert wanted <= found, f"{feature['name']} lacks {wanted - found}"
    assert len({row["score"] for row in golden["rows"]}) > 10


def test_the_golden_scores_are_those_of_a_request(model_dir: Path, parts: Path, tmp_path: Path):
    evaluate.run(model_dir, parts / "test", tmp_path)
    golden = json.loads((tmp_path / "golden.json").read_text())
    model = inference.load_model(model_dir)
    texts = [["" if value is None else str(value) for value in row["values"]] for row in golden["rows"]]
    again = inference.probabilities(inference.to_frame(texts, model), model)
    assert again == pytest.approx([row["score"] for row in golden["rows"]], abs=1e-9)


def test_the_same_model_has_the_same_golden_rows(model_dir: Path, parts: Path, tmp_path: Path):
    for name in ("one", "two"):
        evaluate.run(model_dir, parts / "test", tmp_path / name)
    assert (tmp_path / "one/golden.json").read_bytes() == (tmp_path / "two/golden.json").read_bytes()
