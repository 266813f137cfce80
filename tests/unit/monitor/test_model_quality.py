"""Model quality: scikit-learn's numbers from counts, and what a run makes of drift and of chance."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn import metrics as sk

from monitor import MonitorError, chance, formats, model_quality
from monitor.settings import Settings

BINARY, MULTICLASS, REGRESSION = "BinaryClassification", "MulticlassClassification", "Regression"


def binary_rows(count: int, seed: int, skill: float = 1.5, positives: float = 0.3) -> pl.DataFrame:
    """Captured rows; the larger the skill, the better the scores tell the classes apart."""
    rng = np.random.default_rng(seed)
    truth = rng.random(count) < positives
    score = 1 / (1 + np.exp(-(rng.normal(size=count) + skill * (truth - 0.5) - 0.3)))
    return pl.DataFrame(
        {
            "_score": np.round(score, 6),
            "_label": pl.Series([None] * count, dtype=pl.String),
            "_truth": np.where(truth, "bad", "good"),
        }
    )


def multiclass_rows(count: int, seed: int, right: float = 0.8) -> pl.DataFrame:
    """Captured rows with one of three labels."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(["cat", "dog", "fish"], size=count, p=[0.5, 0.3, 0.2])
    label = np.where(rng.random(count) < right, truth, rng.choice(["cat", "dog", "fish"], size=count))
    return pl.DataFrame({"_score": [0.0] * count, "_label": label, "_truth": truth})


def regression_rows(count: int, seed: int, error: float = 2.0) -> pl.DataFrame:
    """Captured rows with a number; the truth is far from zero, where sums of squares lose digits."""
    rng = np.random.default_rng(seed)
    truth = 1e6 + rng.normal(0, 10, size=count)
    schema = {"_label": pl.String}
    return pl.DataFrame(
        {
            "_score": truth + rng.normal(0, error, size=count),
            "_label": [None] * count,
            "_truth": [repr(float(x)) for x in truth],
        },
        schema_overrides=schema,
    )


ROWS = {BINARY: binary_rows, MULTICLASS: multiclass_rows, REGRESSION: regression_rows}


def options_of(problem: str) -> dict[str, Any]:
    center = {"center": 1e6} if problem == REGRESSION else {}
    return {"problem_type": problem, "positive_class": "bad", "negative_class": "good", **center}


def counted(problem: str, rows: pl.DataFrame) -> Any:
    tally = model_quality.tally_of(options_of(problem))
    tally.add(rows, options_of(problem))
    return tally


def watch(folder: Path, problem: str, rows: pl.DataFrame, min_records: int = 100) -> model_quality.Monitor:
    """A monitor whose baseline is these rows."""
    tally = counted(problem, rows)
    _, values = model_quality.statistics_of(tally, problem)
    constraints = model_quality.suggest_constraints(values, tally.judged, problem, model_quality.TOLERANCE)
    (folder / "constraints.json").write_text(json.dumps(constraints))
    options = options_of(problem) | {"baseline": {"values": values, "spreads": tally.spreads()}}
    settings = Settings("model_quality", "e", datetime.now(UTC), min_records=min_records, options=options)
    return model_quality.Monitor(folder, settings)


# ------------------------------------------------------------ metrics


def test_counts_give_what_scikit_learn_gives_for_the_rows():
    rows = binary_rows(700, 1)
    truth = (rows["_truth"] == "bad").to_numpy().astype(int)
    score = rows["_score"].to_numpy()
    answer = (score >= 0.5).astype(int)
    values, blocks = counted(BINARY, rows).metrics()
    rejected, accepted = answer[truth == 0], answer[truth == 1]
    expected = {
        "auc": sk.roc_auc_score(truth, score),
        "accuracy": sk.accuracy_score(truth, answer),
        "recall": sk.recall_score(truth, answer),
        "precision": sk.precision_score(truth, answer),
        "f0_5": sk.fbeta_score(truth, answer, beta=0.5),
        "f1": sk.f1_score(truth, answer),
        "f2": sk.fbeta_score(truth, answer, beta=2),
        "true_positive_rate": accepted.mean(),
        "false_negative_rate": 1 - accepted.mean(),
        "false_positive_rate": rejected.mean(),
        "true_negative_rate": 1 - rejected.mean(),
        # the more frequent class is "good"
        "accuracy_best_constant_classifier": 1 - truth.mean(),
        "recall_best_constant_classifier": 0.0,
        "precision_best_constant_classifier": 0.0,
        "f0_5_best_constant_classifier": 0.0,
        "f1_best_constant_classifier": 0.0,
        "f2_best_constant_classifier": 0.0,
    }
    assert values == pytest.approx(expected)
    assert blocks["confusion_matrix"]["1"]["0"] == int(((truth == 1) & (answer == 0)).sum())
    curve = blocks["receiver_operating_characteristic_curve"]
    assert len(curve["true_positive_rates"]) <= model_quality.CURVE_POINTS
    area = np.trapezoid(curve["true_positive_rates"], curve["false_positive_rates"])
    assert area == pytest.approx(values["auc"], abs=0.01)  # few points, the same curve


def test_metrics_of_the_documented_confusion_matrix():
    """The page on metrics: one of one found, two of three taken for it wrongly; recall 1, precision 1/3, …"""
    values = model_quality.matrix_metrics(np.array([[1, 2], [0, 1]]))
    assert values == pytest.approx(
        {
            "recall": 1.0,
            "precision": 1 / 3,
            "accuracy": 0.5,
            "true_positive_rate": 1.0,
            "true_negative_rate": 1 / 3,
            "false_positive_rate": 2 / 3,
            "false_negative_rate": 0.0,
            "f0_5": 0.3846153846153846,
            "f1": 0.5,
            "f2": 0.7142857142857143,
        }
    )


def test_many_matrices_at_once_give_what_scikit_learn_gives():
    matrix = np.array([[50, 7], [11, 23]])
    many = model_quality.table_metrics(np.array([matrix, matrix[::-1]]))
    for place, one in enumerate((matrix, matrix[::-1])):
        single = model_quality.matrix_metrics(one)
        assert {name: values[place] for name, values in many.items()} == pytest.approx(single)


def test_several_classes_are_weighted_by_the_truth():
    rows = multiclass_rows(500, 2)
    truth, label = rows["_truth"].to_list(), rows["_label"].to_list()
    values, blocks = counted(MULTICLASS, rows).metrics()
    assert values["accuracy"] == pytest.approx(sk.accuracy_score(truth, label))
    assert values["weighted_precision"] == pytest.approx(sk.precision_score(truth, label, average="weighted"))
    assert values["weighted_f2"] == pytest.approx(sk.fbeta_score(truth, label, beta=2, average="weighted"))
    assert values["accuracy_best_constant_classifier"] == pytest.approx(truth.count("cat") / 500)
    assert sum(sum(row.values()) for row in blocks["confusion_matrix"].values()) == 500


def test_the_fast_weighted_metrics_are_scikit_learns():
    matrix = np.array([[50, 7, 0], [11, 23, 0], [4, 1, 0]])  # one class is never answered
    assert model_quality.weighted_table_metrics(matrix) == pytest.approx(
        model_quality.weighted_metrics(matrix)
    )


def test_sums_give_what_scikit_learn_gives_for_the_rows():
    rows = regression_rows(400, 3)
    truth, answer = rows["_truth"].cast(float).to_numpy(), rows["_score"].to_numpy()
    values, _ = counted(REGRESSION, rows).metrics()
    assert values == pytest.approx(
        {
            "mae": sk.mean_absolute_error(truth, answer),
            "mse": sk.mean_squared_error(truth, answer),
            "rmse": sk.root_mean_squared_error(truth, answer),
            "r2": sk.r2_score(truth, answer),
        },
        rel=1e-9,
    )


# ------------------------------------------------------------ answers and truth


@pytest.mark.parametrize(
    ("score", "label", "truth", "cell"),
    [
        (0.7, None, "bad", (1, 1)),
        (0.5, None, "0", (0, 1)),
        (0.4999, None, "1", (1, 0)),
        (0.9, "good", "good", (0, 0)),  # a label comes before the score: it knows its own threshold
        (None, "bad", "good", (0, 1)),
        (None, None, "bad", None),
        (0.9, None, "perhaps", None),
        (float("nan"), None, "bad", None),
        (0.9, None, "1.0", (1, 1)),
    ],
)
def test_what_counts_as_answer_and_truth(
    score: float | None, label: str | None, truth: str, cell: tuple[int, int] | None
):
    schema = {"_score": pl.Float64, "_label": pl.String, "_truth": pl.String}
    tally = counted(BINARY, pl.DataFrame([[score, label, truth]], schema=schema, orient="row"))
    expected = np.zeros((2, 2))
    if cell:
        expected[cell] = 1
    assert (tally.matrix == expected).all()
    assert (tally.records, tally.excluded) == ((1, 0) if cell else (0, 1))


# ------------------------------------------------------------ spreads


def test_the_spread_of_the_area_is_delongs():
    """The placement values of DeLong, DeLong & Clarke-Pearson (1988), row by row, ties counted half."""
    rng = np.random.default_rng(4)
    low, high = rng.integers(0, 8, 30), rng.integers(3, 11, 20)
    pairs = (high[:, None] > low) + (high[:, None] == low) / 2
    expected = math.sqrt(pairs.mean(axis=1).var(ddof=1) / 20 + pairs.mean(axis=0).var(ddof=1) / 30)
    counts = [np.bincount(values, minlength=11).astype(float) for values in (low, high)]
    assert chance.auc_spread(*counts) == pytest.approx(expected)
    assert math.isnan(chance.auc_spread(np.array([5.0]), np.array([1.0])))


@pytest.mark.parametrize("problem", [BINARY, MULTICLASS, REGRESSION])
def test_spreads_are_those_of_further_samples(problem: str):
    """200 samples of 300 rows: each metric scatters as the spread of one sample says, within a third."""
    make = ROWS[problem]
    drawn = [counted(problem, make(300, seed)).metrics()[0] for seed in range(200)]
    said = [counted(problem, make(300, 1000 + seed)).spreads() for seed in range(10)]
    for name in counted(problem, make(300, 0)).judged:
        seen = float(np.std([values[name] for values in drawn]))
        assert np.mean([spread[name] for spread in said]) == pytest.approx(seen, rel=0.34), name


def test_a_standard_deviation_needs_200_rows():
    for count, given in ((199, False), (200, True)):
        statistics, _ = model_quality.statistics_of(counted(BINARY, binary_rows(count, 5)), BINARY)
        auc = statistics["binary_classification_metrics"]["auc"]["standard_deviation"]
        assert (auc == "NaN") is not given
        # five draws of 80 % scatter half as much as samples do: sqrt(0.2 / 0.8)
        assert not given or 0.002 < auc < 0.06


# ------------------------------------------------------------ a run


@pytest.mark.parametrize("problem", [BINARY, MULTICLASS, REGRESSION])
def test_clean_traffic_is_quiet(tmp_path: Path, problem: str):
    make = ROWS[problem]
    for seed in range(10):
        monitor = watch(tmp_path, problem, make(360, seed))
        monitor.add(make(300, 100 + seed))
        result = monitor.finish()
        assert result.judged and not result.violations, seed


@pytest.mark.parametrize(
    ("problem", "worse", "named"),
    [
        (BINARY, {"skill": 0.0}, "auc"),
        (MULTICLASS, {"right": 0.5}, "accuracy"),
        (REGRESSION, {"error": 3.0}, "rmse"),
    ],
)
def test_worse_answers_are_found(tmp_path: Path, problem: str, worse: dict[str, float], named: str):
    make = ROWS[problem]
    monitor = watch(tmp_path, problem, make(360, 1))
    monitor.add(make(400, 2, **worse))
    result = monitor.finish()
    found = {v["metric_name"]: v for v in result.violations}
    assert named in found
    (measure,) = [m for m in result.measures if m.name == named]
    assert measure.violated and measure.p_value < chance.level(len(result.measures))
    operator = "GreaterThanThreshold" if problem == REGRESSION else "LessThanThreshold"
    assert found[named]["constraint_check_type"] == operator
    assert "at training time" in found[named]["description"]
    assert formats.problems("model_quality", "statistics.json", result.statistics) == []
    assert formats.problems("model_quality", "constraints.json", result.constraints) == []
    document = {"version": 0.0, "violations": result.violations}
    assert formats.problems("model_quality", "constraint_violations.json", document) == []


def test_better_answers_are_no_violation(tmp_path: Path):
    monitor = watch(tmp_path, BINARY, binary_rows(360, 1))
    monitor.add(binary_rows(400, 2, skill=4))
    assert not monitor.finish().violations


def test_what_chance_can_make_is_no_violation(tmp_path: Path):
    """Twenty rows of which half are wrong: far below the threshold, and no evidence."""
    monitor = watch(tmp_path, BINARY, binary_rows(360, 1), min_records=1)
    monitor.add(binary_rows(20, 11, skill=0.7))
    result = monitor.finish()
    (area,) = [m for m in result.measures if m.name == "auc"]
    assert area.value < area.threshold and area.p_value > 0.001 and not result.violations


def test_a_certain_difference_that_does_not_matter_is_no_violation(tmp_path: Path):
    monitor = watch(tmp_path, BINARY, binary_rows(200_000, 1))
    monitor.add(binary_rows(200_000, 2, skill=1.45))
    result = monitor.finish()
    (area,) = [m for m in result.measures if m.name == "auc"]
    assert area.p_value < 1e-6 and area.baseline - area.value < 0.05 and not result.violations


def test_a_threshold_that_a_person_has_set_is_kept(tmp_path: Path):
    monitor = watch(tmp_path, BINARY, binary_rows(360, 1))
    rule = {"threshold": 0.99, "comparison_operator": "LessThanThreshold"}
    monitor.constraints["binary_classification_constraints"] = {"auc": rule}
    monitor.options["baseline"] = {"values": {}, "spreads": {}}
    monitor.add(binary_rows(300, 2))
    assert [v["metric_name"] for v in monitor.finish().violations] == ["auc"]


def test_too_few_rows_are_not_judged(tmp_path: Path):
    monitor = watch(tmp_path, BINARY, binary_rows(360, 1))
    monitor.add(binary_rows(99, 2, skill=-3))
    result = monitor.finish()
    assert not result.judged and not result.violations
    assert result.notes == [
        "99 records with ground truth in the window, 100 are needed to judge model quality: it was not judged"
    ]


@pytest.mark.parametrize("problem", [BINARY, MULTICLASS, REGRESSION])
def test_an_empty_window_has_documented_files(tmp_path: Path, problem: str):
    result = watch(tmp_path, problem, ROWS[problem](360, 1)).finish()
    assert not result.judged and not result.violations and not result.measures
    assert formats.problems("model_quality", "statistics.json", result.statistics) == []


def test_a_window_with_one_class_has_no_area(tmp_path: Path):
    monitor = watch(tmp_path, BINARY, binary_rows(360, 1))
    monitor.add(binary_rows(300, 2).filter(pl.col("_truth") == "good"))
    result = monitor.finish()
    assert "auc is not defined for the answers and truths of the window" in result.notes
    assert "recall" not in {v["metric_name"] for v in result.violations}  # nobody was there to be found


@pytest.mark.parametrize("problem", [BINARY, MULTICLASS, REGRESSION])
def test_parts_give_what_the_whole_gives(tmp_path: Path, problem: str):
    rows = ROWS[problem](500, 6)
    base = ROWS[problem](360, 1)
    whole, first, second = (watch(tmp_path, problem, base) for _ in range(3))
    whole.add(rows)
    for start in range(0, 300, 50):
        first.add(rows[start : start + 50])
    second.add(rows[300:])
    second.merge(json.loads(json.dumps(first.partial())))
    one, other = second.finish(), whole.finish()
    assert (one.statistics, one.violations, one.records) == (
        other.statistics,
        other.violations,
        other.records,
    )


def test_memory_does_not_grow_with_the_rows(tmp_path: Path):
    tally = counted(BINARY, binary_rows(1000, 1))
    before = tally.by_score.nbytes
    tally.add(binary_rows(100_000, 2), options_of(BINARY))
    assert tally.by_score.nbytes == before < 20e6
    free_text = pl.DataFrame({"_score": [0.0] * 600, "_label": [f"text {i}" for i in range(600)]})
    with pytest.raises(MonitorError, match="more than 500 distinct labels"):
        counted(MULTICLASS, free_text.with_columns(_truth=pl.col("_label")))


def test_an_unknown_problem_is_refused():
    with pytest.raises(MonitorError, match="must be one of BinaryClassification"):
        model_quality.tally_of({"problem_type": "Clustering"})
