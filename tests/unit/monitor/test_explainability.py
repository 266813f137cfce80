"""Attributions: exact where they can be known, and a ranking that only real drift upsets."""

from __future__ import annotations

import itertools
import json
import math
import tarfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from monitor import MonitorError, explainability, formats
from monitor.predictor import Predictor
from monitor.settings import BaselineInputs, Settings

Model = Callable[[np.ndarray], np.ndarray]


def scorer(model: Model, background: np.ndarray, rows: np.ndarray) -> explainability.Score:
    """The model on rows that are put together from background and rows."""
    table = np.concatenate([background, rows])
    return lambda source: model(np.take_along_axis(table, source, axis=0))


def shap(model: Model, background: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, float]:
    return explainability.shapley_values(
        scorer(model, background, rows), len(background), len(rows), rows.shape[1]
    )


def by_definition(model: Model, background: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Shapley values by their definition: the weighted mean over all sets of the other features."""
    count = len(row)

    def worth(known: tuple[int, ...]) -> float:
        mixed = background.copy()
        mixed[:, list(known)] = row[list(known)]
        return float(model(mixed).mean())

    values = np.zeros(count)
    for feature in range(count):
        others = [other for other in range(count) if other != feature]
        for size in range(count):
            weight = math.factorial(size) * math.factorial(count - size - 1) / math.factorial(count)
            for known in itertools.combinations(others, size):
                values[feature] += weight * (worth((*known, feature)) - worth(known))
    return values


def draw(rows: int, features: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, features))


# ------------------------------------------------------------ Shapley values


def test_a_linear_model_is_explained_exactly():
    """The value of a feature is its weight times its distance from the background's mean."""
    weights = np.array([2.0, -1, 0, 0.5, 3, 0.1, -4, 1, 1, 1])
    background, rows = draw(25, 10, 1), draw(30, 10, 2)
    values, expected = shap(lambda x: x @ weights + 7, background, rows)
    assert values == pytest.approx(weights * (rows - background.mean(axis=0)))
    assert expected == pytest.approx(background.mean(axis=0) @ weights + 7)


def test_interactions_of_pairs_are_explained_exactly():
    """Which is what antithetic pairs are for: eight features have too many orders to enumerate."""

    def model(x: np.ndarray) -> np.ndarray:
        return x[:, 0] * x[:, 1] + np.sin(x[:, 2]) * x[:, 7] - x[:, 3] ** 2 + x[:, 5]

    background, rows = draw(25, 8, 3), draw(4, 8, 4)
    values, _ = shap(model, background, rows)
    for row, value in zip(rows, values, strict=True):
        assert value == pytest.approx(by_definition(model, background, row))


def test_few_features_are_explained_exactly_whatever_the_model():
    def model(x: np.ndarray) -> np.ndarray:
        return x[:, 0] * x[:, 1] * x[:, 2] + np.maximum(x[:, 0], x[:, 2]) ** 3

    background, rows = draw(25, 3, 5), draw(6, 3, 6)
    values, _ = shap(model, background, rows)
    for row, value in zip(rows, values, strict=True):
        assert value == pytest.approx(by_definition(model, background, row))


def test_values_add_up_to_the_answer():
    """Whatever the interactions: efficiency, one of the axioms."""

    def model(x: np.ndarray) -> np.ndarray:
        return np.tanh(x.prod(axis=1) + x.sum(axis=1))

    background, rows = draw(25, 9, 7), draw(20, 9, 8)
    values, expected = shap(model, background, rows)
    assert values.sum(axis=1) == pytest.approx(model(rows) - expected)


def test_a_model_of_many_interactions_is_explained_nearly():
    def model(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-(x[:, 0] * x[:, 1] * x[:, 2] + x @ np.linspace(-1, 1, 8))))

    background, rows = draw(25, 8, 9), draw(5, 8, 10)
    values, _ = shap(model, background, rows)
    for row, value in zip(rows, values, strict=True):
        assert np.abs(value - by_definition(model, background, row)).max() < 0.05


def test_one_feature_takes_it_all():
    values, expected = shap(lambda x: x[:, 0] ** 2, np.array([[1.0], [3.0]]), np.array([[2.0]]))
    assert expected == 5 and values == pytest.approx(np.array([[-1.0]]))


def test_two_hundred_rows_of_twenty_features_take_seconds():
    calls: list[int] = []

    def model(x: np.ndarray) -> np.ndarray:
        calls.append(len(x))
        return x.sum(axis=1)

    start = time.process_time()
    shap(model, draw(25, 20, 1), draw(200, 20, 2))
    assert time.process_time() - start < 10
    assert len(calls) < 20 and max(calls) <= explainability.MIXED  # many rows a call, and never all of them


# ------------------------------------------------------------ ranking


def test_the_documented_example_has_its_ndcg():
    """Attributions 0.70, 0.50, 0.05 (SAT score, GPA, class rank) and live 0.10, 0.20, 0.70: 0.69."""
    assert explainability.ndcg(np.array([0.7, 0.5, 0.05]), np.array([0.1, 0.2, 0.7])) == pytest.approx(
        0.6876, abs=5e-5
    )


def test_the_same_ranking_is_one():
    weights = np.array([0.3, 0.2, 0.1])
    assert explainability.ndcg(weights, weights * 100) == pytest.approx(1)
    assert explainability.ndcg(np.zeros(3), weights) == 1  # nothing mattered: there is no ranking to lose
    assert explainability.ndcg(np.ones(1), np.ones(1)) == 1


def test_many_rankings_at_once_are_scikit_learns():
    rng = np.random.default_rng(1)
    gains, live = rng.random((50, 7)), rng.random((50, 7))
    expected = [explainability.ndcg(g, x) for g, x in zip(gains, live, strict=True)]
    assert explainability.many_ndcg(gains, live) == pytest.approx(expected)


def test_chance_orders_equal_features_anyhow():
    """Twelve features of the same weight: the order is another one in each sample, and means nothing."""
    found = [
        explainability.order_by_chance(np.abs(draw(100, 12, seed)), np.abs(draw(100, 12, 1000 + seed)))
        for seed in range(40)
    ]
    assert min(found) > 0.001 and 0.3 < float(np.mean(found)) < 0.7  # uniform, as p-values without drift are


def test_an_order_that_is_reversed_is_no_chance():
    scale = np.linspace(0.1, 1, 8)
    baseline, live = np.abs(draw(200, 8, 1)) * scale, np.abs(draw(200, 8, 2)) * scale[::-1]
    assert explainability.order_by_chance(baseline, live) == 1 / (1 + explainability.SHUFFLES)


def test_chance_is_not_judged_without_rows():
    assert explainability.order_by_chance(np.ones((3, 2)), np.ones((0, 2))) == 1


# ------------------------------------------------------------ a run with a model

PROGRAM = '''
"""A model whose score is a logistic function of weighted numbers; c is a category that counts for one."""
import json
import math
from typing import NamedTuple

import numpy as np
import pandas as pd


class Model(NamedTuple):
    weights: dict
    metadata: dict


def load_model(folder):
    return Model(**json.loads((folder / "model.json").read_text()))


def to_frame(rows, model):
    names = [feature["name"] for feature in model.metadata["features"]]
    columns = {}
    for at, feature in enumerate(model.metadata["features"]):
        values = [row[at] for row in rows]
        if feature["kind"] == "number":
            values = [math.nan if value is None else float(value) for value in values]
        columns[feature["name"]] = values
    return pd.DataFrame(columns, columns=names)


def probabilities(frame, model):
    total = sum(
        weight * (frame[name] == "yes" if name == "c" else frame[name].fillna(0)).to_numpy(dtype=float)
        for name, weight in model.weights.items()
    )
    return list(1 / (1 + np.exp(-total)))
'''
WEIGHTS = {"a": 0.8, "b": 0.5, "c": 0.4, "d": 0.02}
SCHEMA = dict.fromkeys("abcd", pl.String)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the program, a model archive, and data."""
    for name in ("program", "model", "train", "test"):
        (tmp_path / name).mkdir()
    (tmp_path / "program" / "inference.py").write_text(PROGRAM)
    kinds = {"a": "number", "b": "number", "c": "category", "d": "number"}
    features = [{"name": name, "kind": kind} for name, kind in kinds.items()]
    content = json.dumps({"weights": WEIGHTS, "metadata": {"features": features, "target": "t"}})
    (tmp_path / "model.json").write_text(content)
    with tarfile.open(tmp_path / "model" / "model.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "model.json", "model.json")
    for name, seed in (("train", 1), ("test", 2)):
        rows(300, seed).with_columns(t=pl.lit("1")).write_csv(tmp_path / name / f"{name}.csv")
    rows(300, 1).write_csv(tmp_path / "baseline.csv")
    monkeypatch.setenv("PROGRAM_DIR", str(tmp_path / "program"))
    return tmp_path


def rows(count: int, seed: int) -> pl.DataFrame:
    """Rows of text, some without a value."""
    rng = np.random.default_rng(seed)
    table = pl.DataFrame(
        {
            "a": [f"{x:.4f}" for x in rng.normal(size=count)],
            "b": [f"{x:.4f}" for x in rng.normal(size=count)],
            "c": rng.choice(["yes", "no"], size=count),
            "d": [f"{x:.4f}" for x in rng.normal(size=count)],
        }
    )
    return table.with_columns(b=pl.when(pl.int_range(count) % 10 > 0).then("b"))


def batch(table: pl.DataFrame, name: str = "id") -> pl.DataFrame:
    """Captured rows, ten a request."""
    place = pl.int_range(table.height)
    return table.with_columns(
        _id=pl.format("{}-{}", pl.lit(name), place // 10), _row=(place % 10).cast(pl.UInt32)
    )


def watch(project: Path, **block: Any) -> explainability.Monitor:
    folder = project / "baseline"
    if not folder.exists():
        inputs = BaselineInputs(
            dataset=project / "baseline.csv",
            train=project / "train",
            holdout=[project / "test"],
            model=project / "model",
            target="t",
            positive_class="1",
            options={"model_explainability": {"sample_size": 120} | block},
        )
        folder.mkdir()
        for name, content in explainability.baseline(inputs).items():
            (folder / name).write_text(json.dumps(content))
    options = json.loads((folder / "options.json").read_text())
    settings = Settings(
        "model_explainability",
        "e",
        datetime.now(UTC),
        min_records=100,
        baseline=folder,
        model=project / "model",
        options=options,
    )
    return explainability.Monitor(folder, settings)


def test_the_baseline_ranks_the_features(project: Path):
    watch(project)
    for name in ("analysis.json", "constraints.json", "statistics.json"):
        document = json.loads((project / "baseline" / name).read_text())
        assert formats.problems("model_explainability", name, document) == []
    explained = document["explanations"]["kernel_shap"]["1"]
    weights = explained["global_shap_values"]
    assert sorted(weights, key=weights.__getitem__, reverse=True) == ["a", "b", "c", "d"]
    options = json.loads((project / "baseline" / "options.json").read_text())
    assert len(options["background"]) == explainability.BACKGROUND
    assert len(options["attributions"]) == 120


def test_clean_traffic_is_quiet(project: Path):
    monitor = watch(project)
    monitor.add(batch(rows(400, 5)))
    result = monitor.finish()
    assert result.judged and not result.violations and result.records == 400 and not result.notes
    assert result.measures[0].name == "ndcg" and result.measures[0].value > 0.98
    assert formats.problems("model_explainability", "analysis.json", result.analysis) == []


def test_a_feature_that_decides_all_of_a_sudden_is_found(project: Path):
    """d hardly mattered; in another unit it drowns the others."""
    monitor = watch(project)
    monitor.add(batch(rows(400, 5).with_columns(d=(pl.col("d").cast(float) * 1e3).cast(pl.String))))
    result = monitor.finish()
    (violation,) = result.violations
    assert violation["label"] == "1" and violation["metric_name"] == "shap"
    assert violation["constraint_check_type"] == "feature_attribution_drift_check"
    assert violation["description"].startswith("Feature attribution drift 0.")
    assert violation["description"].endswith("exceeds threshold 0.9; d went from place 4 to place 1")
    document = {"version": "1.0", "violations": result.violations}
    assert formats.problems("model_explainability", "constraint_violations.json", document) == []
    assert [m.subject for m in result.measures if m.name == "shap"][0] == "d"


def test_a_threshold_of_the_project_is_kept(project: Path):
    monitor = watch(project, ndcg_threshold=0.1)
    monitor.add(batch(rows(400, 5).with_columns(d=(pl.col("d").cast(float) * 1e3).cast(pl.String))))
    assert not monitor.finish().violations


def test_any_division_in_parts_explains_the_same_rows(project: Path):
    table = batch(rows(400, 5))
    whole, first, second = watch(project), watch(project), watch(project)
    whole.add(table)
    for start in range(0, 260, 65):
        first.add(table[start : start + 65])
    second.add(table[260:])
    second.merge(json.loads(json.dumps(first.partial())))
    assert second.sample.equals(whole.sample) and second.sample.height == 120
    assert second.finish() == whole.finish()


def test_the_choice_is_not_the_first_rows(project: Path):
    monitor = watch(project)
    monitor.add(batch(rows(4000, 5)))
    numbers = [int(name.removeprefix("id-")) for name in monitor.sample["_id"]]
    assert 160 < np.mean(numbers) < 240  # of 400 requests


def test_memory_does_not_grow_with_the_rows(project: Path):
    monitor = watch(project)
    for part in range(20):
        monitor.add(batch(rows(500, part), f"part{part}"))
    assert monitor.records == 10_000 and monitor.sample.height == 120
    assert len(json.dumps(monitor.partial())) < 20_000


def test_rows_that_the_model_refuses_are_left_out(project: Path):
    table = rows(110, 5).with_columns(a=pl.when(pl.int_range(110) < 3).then(pl.lit("much")).otherwise("a"))
    monitor = watch(project)
    monitor.add(batch(table))
    result = monitor.finish()
    assert result.notes == ["3 of 110 chosen rows are refused by the model"] and result.judged


def test_too_few_rows_are_not_judged(project: Path):
    monitor = watch(project)
    monitor.add(batch(rows(99, 5).with_columns(d=(pl.col("d").cast(float) * 1e3).cast(pl.String))))
    result = monitor.finish()
    assert not result.judged and not result.violations
    assert result.notes[-1].startswith("99 records in the window, 100 are needed")


def test_an_empty_window_has_documented_files(project: Path):
    result = watch(project).finish()
    assert not result.judged and not result.violations and not result.measures
    assert formats.problems("model_explainability", "analysis.json", result.analysis) == []


def test_another_model_than_the_baselines_is_refused(project: Path):
    monitor = watch(project)
    monitor.names = ["a", "b", "c"]
    monitor.sample = monitor.sample.drop("d")
    monitor.add(batch(rows(400, 5)))
    with pytest.raises(MonitorError, match="model and baseline have different features"):
        monitor.finish()


# ------------------------------------------------------------ the project's model


def test_a_folder_without_the_program_is_named(project: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PROGRAM_DIR", str(project / "model"))
    with pytest.raises(MonitorError, match=r"no inference\.py in .*preprocessing image"):
        Predictor(project / "model")


def test_a_model_that_cannot_be_loaded_is_named(project: Path):
    (project / "empty").mkdir()
    with pytest.raises(MonitorError, match="cannot be loaded"):
        Predictor(project / "empty")


def test_the_program_may_import_what_lies_beside_it(project: Path):
    path = project / "program" / "inference.py"
    path.write_text("import beside_it\n" + path.read_text())
    (project / "program" / "beside_it.py").write_text("")
    assert Predictor(project / "model").features == ["a", "b", "c", "d"]


def test_rows_without_a_feature_are_refused(project: Path):
    with pytest.raises(MonitorError, match="the model needs d; there are a, b, c"):
        Predictor(project / "model").scores(rows(3, 1).drop("d"))


def test_mixed_rows_come_from_where_they_should(project: Path):
    predictor = Predictor(project / "model")
    table = pl.DataFrame([["1", "0", "no", "0"], ["0", "2", "yes", "0"]], schema=SCHEMA, orient="row")
    score = predictor.mixer(predictor.frame(table))
    found = score(np.array([[0, 0, 0, 0], [0, 1, 0, 0], [1, 1, 1, 1]]))
    assert found == pytest.approx(1 / (1 + np.exp(-np.array([0.8, 0.8 + 1.0, 1.0 + 0.4]))))


def test_more_than_two_classes_need_labels(project: Path):
    with pytest.raises(MonitorError, match=r"needs labels\(frame, model\) in inference.py"):
        Predictor(project / "model").labels(rows(3, 1))
