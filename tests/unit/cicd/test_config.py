"""mlops.yml: each mistake is named with key, value, what is allowed and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlops_cicd import config
from mlops_cicd.console import Fault

from .conftest import CONFIG


def test_a_right_file_is_read() -> None:
    assert config.check(CONFIG) == []


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (
            "instance_type: ml.m5.large",
            "instance_type: m5.large",
            'line 6: training.instance_type is "m5.large"; allowed: A SageMaker instance type, for example',
        ),
        (
            "training:",
            "trainin:",
            "line 5: trainin is not a known key; did you mean training? allowed: data, deployment,",
        ),
        ("training:", "trainin:", "line 1: training is missing; it must be set"),
        ("threshold: 0.7", "threshold: 7", "line 8: evaluation.threshold is 7; allowed: at most 1"),
        (
            "threshold: 0.7",
            "threshold: high",
            'line 8: evaluation.threshold is "high"; allowed: number',
        ),
        (
            "metric: auc",
            "metric: roc",
            'line 8: evaluation.metric is "roc"; allowed: auc, accuracy, f1, precision, recall',
        ),
        ("version: 1\n", "version: 2\n", "line 1: version is 2; allowed: 1"),
        (
            "algorithm: logistic",
            "C: logistic",
            'line 7: training.hyperparameters has the key "C"; allowed: names of two letters or more',
        ),
        (
            "cron(0 * * * ? *)",
            "hourly",
            'line 15: monitoring.schedule is "hourly"; allowed: EventBridge Scheduler expression',
        ),
        (
            "instance_count: 2",
            "instance_count: 0",
            "line 12: deployment.production.instance_count is 0; allowed: at least 1",
        ),
        ("drift_threshold: 0.1", "drift_threshold: 0", "is 0; allowed: more than 0"),
        (
            "mode: realtime",
            "mode: realtime, colour: red",
            "line 9: inference.colour is not a known key; allowed:",
        ),
        (
            "instance_type: ml.m5.large",
            "instance_type:",
            "line 6: training.instance_type is empty; allowed: string",
        ),
        ("version: 1\n", "version: 1\nversion: 1\n", "line 2: version is written twice; keep one of them"),
        ("version: 1\n", "version: [1\n", "this is not YAML"),
        (
            "source: data/rows.csv",
            "source: /etc/passwd",
            'line 3: data.source is "/etc/passwd"; allowed: A CSV file',
        ),
    ],
)
def test_a_mistake_is_named(before: str, after: str, expected: str) -> None:
    assert before in CONFIG
    problems = config.check(CONFIG.replace(before, after, 1))
    assert any(expected in problem for problem in problems), problems
    assert all(problem.startswith("mlops.yml line ") for problem in problems)


@pytest.mark.parametrize("text", ["", "- a\n", "just text"])
def test_a_file_that_is_no_mapping_is_refused(text: str) -> None:
    (problem,) = config.check(text)
    assert "a mapping of keys to values is expected" in problem


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "mlops.yml"
    path.write_text(CONFIG.replace("version: 1", "version: 3").replace("metric: auc", "metric: x"))
    with pytest.raises(Fault, match=r"2 mistake\(s\)"):
        config.load_config(path)


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(Fault, match="mlops.yml is missing"):
        config.load_config(tmp_path / "mlops.yml")
