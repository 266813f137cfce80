"""mlops.yml: each mistake is named with key, value, what is allowed and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlops_cicd import config, deployment, monitoring
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


BIAS = """\
  model_quality: {problem_type: BinaryClassification, min_records: 100, ground_truth_delay_minutes: 60}
  model_bias: {facets: [{name: age, threshold: 25}, {name: job, values: [none, 2]}]}
  model_explainability: {ndcg_threshold: 0.9, sample_size: 200}
kpi: {quicksight_principal: 'arn:aws:quicksight:us-east-1:123456789012:user/default/jane'}
"""


def test_all_kinds_of_monitor_may_be_set() -> None:
    assert config.check(CONFIG + BIAS) == []
    # the block of a kind that is switched off may stay as it was
    assert config.check(CONFIG + BIAS.replace("facets: [", "enabled: false, facets: [{name: label}, ")) == []


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (
            "{name: age, threshold: 25}",
            "{name: age}",
            'line 20: monitoring.model_bias.facets.0, "age", has neither values nor threshold',
        ),
        (
            "{name: age, threshold: 25}",
            "{name: age, threshold: 25, values: [1]}",
            "both values and",
        ),
        (
            "name: job",
            "name: age",
            'monitoring.model_bias.facets.1 is "age", which is there already',
        ),
        ("name: job", "name: label", 'facets.1 is "label", the target; allowed: a feature'),
        (
            "{facets: [",
            "{facet: [",
            "line 20: monitoring.model_bias.facet is not a known key; did you mean",
        ),
        ("facets: [{name: age, threshold: 25}, {name: job, values: [none, 2]}]", "facets: []", "facets"),
        (
            "[none, 2]",
            "[]",
            "line 20: monitoring.model_bias.facets.1.values is a list; allowed: entries",
        ),
        (
            "BinaryClassification",
            "Regression",
            "line 20: monitoring.model_bias is enabled and monitoring.model_quality.problem_type",
        ),
        (
            "BinaryClassification",
            "Classification",
            'problem_type is "Classification"; allowed: BinaryClassification, MulticlassClassification',
        ),
        ("ndcg_threshold: 0.9", "ndcg_threshold: 1.1", "ndcg_threshold is 1.1; allowed: at most 1"),
        (
            "data_quality: {",
            "simulated_traffic: true\n  data_quality: {enabled: false, ",
            "simulated_traffic is",
        ),
        (
            "window_minutes: 60",
            "engine: managed\n  window_minutes: 1441",
            "line 18: monitoring.window_minutes is 1441; allowed with monitoring.engine managed: at most",
        ),
        ("window_minutes: 60", "engine: clarify", 'engine is "clarify"; allowed: processing, managed'),
        (
            "window_minutes: 60",
            "instance_count: 21",
            "line 17: monitoring.instance_count is 21; allowed: at most 20",
        ),
        (":user/default/jane", ":role/jane", "line 22: kpi.quicksight_principal is"),
    ],
)
def test_a_mistake_in_monitoring_is_named(before: str, after: str, expected: str) -> None:
    text = CONFIG + BIAS
    assert before in text
    problems = config.check(text.replace(before, after, 1))
    assert any(expected in problem for problem in problems), problems


def test_without_any_kind_nothing_would_be_monitored() -> None:
    (problem,) = config.check(CONFIG.replace("data_quality: {", "data_quality: {enabled: false, "))
    assert problem.startswith(
        "mlops.yml line 13: monitoring has no kind that is enabled; allowed: at least one"
    )


@pytest.mark.parametrize(
    ("schedule", "managed"),
    [
        ("cron(0 * * * ? *)", "cron(0 * ? * * *)"),
        ("cron(0 * ? * * *)", "cron(0 * ? * * *)"),
        ("cron(0 12 * * ? *)", "cron(0 12 ? * * *)"),
        ("cron(0 */6 * * ? *)", "cron(0 0/6 ? * * *)"),
        ("cron(0 17/12 * * ? *)", "cron(0 17/12 ? * * *)"),
        ("rate(1 hour)", "cron(0 * ? * * *)"),
        ("rate(6 hours)", "cron(0 0/6 ? * * *)"),
        ("rate(1 day)", "cron(0 0/24 ? * * *)"),
        ("rate(30 minutes)", None),
        ("rate(2 days)", None),
        ("cron(30 * * * ? *)", None),
        ("cron(0 25 * * ? *)", None),
        ("cron(0 9,17 * * ? *)", None),
        ("cron(0 12 ? * MON *)", None),
    ],
)
def test_the_managed_engine_takes_the_schedules_that_model_monitor_knows(
    schedule: str, managed: str | None
) -> None:
    assert monitoring.managed_schedule(schedule) == managed
    text = CONFIG.replace("cron(0 * * * ? *)", schedule)
    assert config.check(text) == []
    problems = config.check(text.replace("  schedule:", "  engine: managed\n  schedule:"))
    if managed:
        assert problems == []
    else:
        (problem,) = problems
        assert (
            f'line 16: monitoring.schedule is "{schedule}"; allowed with monitoring.engine managed:'
            in problem
        )


def test_kinds_are_on_where_they_have_a_block() -> None:
    blocks = {"model_quality": {"problem_type": "Regression"}, "model_bias": {"enabled": False}}
    assert monitoring.enabled_kinds({"monitoring": blocks}) == ["data_quality", "model_quality"]
    assert monitoring.enabled_kinds({"monitoring": {"data_quality": {"enabled": False}}}) == []


@pytest.mark.parametrize("key", ["a b.csv", "credit (2).csv", "x" * 250, "größe.csv"])
def test_an_address_that_the_registry_cannot_keep_is_refused_before_training(key: str) -> None:
    """CustomerMetadataProperties take 256 letters, digits, spaces and _.:/=+-@; the data's address is one."""
    (problem,) = config.check(CONFIG.replace("data/rows.csv", f'"s3://a-bucket/{key}"'))
    assert "line 3: data.source is" in problem
    assert config.check(CONFIG.replace("data/rows.csv", "s3://a-bucket/training-data/2026/")) == []


INSTANCES = "production: {instance_type: ml.t2.large, instance_count: 2}"
SCALING = (
    "production: {instance_type: ml.m5.large, instance_count: 2, autoscaling: {min: 2, max: 4}}\n"
    "  release: {shift: canary, share: 25, wait_seconds: 300}\n"
    "  shadow: {share: 50, requests: 20}"
)


def with_deployment(after: str) -> str:
    assert INSTANCES in CONFIG
    return CONFIG.replace(INSTANCES, after)


def test_an_old_file_gets_the_defaults(tmp_path: Path) -> None:
    """A project that was made before these keys is as it was; the file itself is not changed for its code."""
    path = tmp_path / "mlops.yml"
    path.write_text(CONFIG)
    found = config.load_config(path)["deployment"]
    assert found["release"] == {"share": 25, "wait_seconds": 300}
    assert (found["endpoint"], found["alarms"], found["tests"]["load_clients"]) == (
        "instances",
        {"latency_ms": 1000},
        4,
    )
    assert "shadow" not in found and "autoscaling" not in found["production"]
    assert set(config.read_config(path)["deployment"]) == {"staging", "production"}
    path.write_text(with_deployment(SCALING))
    found = config.load_config(path)["deployment"]
    assert found["production"]["autoscaling"]["invocations_per_instance"] == 600
    assert (found["shadow"]["share"], found["shadow"]["wait_minutes"]) == (50, 60)


@pytest.mark.parametrize(
    ("how", "share", "wait", "seconds"),
    [
        ("canary", 25, 300, 2 * 300 + 3720),
        ("linear", 30, 300, 4 * 300 + 3720),
        ("all_at_once", 25, 300, 300 + 3720),
        ("all_at_once", 25, 0, 3720),
    ],
)
def test_a_release_has_time_for_its_waits(how: str, share: int, wait: int, seconds: int) -> None:
    assert deployment.release_seconds(how, share, wait) == seconds


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (
            "instance_count: 2, autoscaling: {min: 2, max: 4}",
            "instance_count: 1",
            "line 13: deployment.release.shift is canary and deployment.production.instance_count is 1; "
            "allowed: 2 or more instances, or all_at_once",
        ),
        ("min: 2", "min: 1", "line 12: deployment.production.autoscaling.min is 1; allowed with"),
        ("min: 2", "min: 5", "deployment.production.autoscaling.min is 5; allowed: at most max, which is 4"),
        ("count: 2", "count: 5", "deployment.production.instance_count is 5; allowed: 2 to 4, as"),
        (
            "ml.m5.large, ",
            "ml.t2.large, ",
            "instance_type is ml.t2.large; allowed with deployment.production.autos",
        ),
        (
            "ml.m5.large, ",
            "ml.inf1.xlarge, ",
            "instance_type is ml.inf1.xlarge; allowed with deployment.release",
        ),
        (
            "share: 25",
            "share: 5",
            "line 13: deployment.release.share is 5; allowed with deployment.release.shift",
        ),
        ("share: 25", "share: 51", "line 13: deployment.release.share is 51; allowed: at most 50"),
        (
            "shift: canary, share: 25",
            "shift: linear, share: 9",
            "share is 9; allowed with deployment.release",
        ),
        (
            "shift: canary, share: 25, wait_seconds: 300",
            "shift: linear, share: 10, wait_seconds: 3000",
            "line 13: deployment.release.wait_seconds is 3000; allowed with deployment.release.shift linear "
            "and share 10: at most 2508, because a release must end within 8 hours",
        ),
        (
            "wait_seconds: 300",
            "wait_seconds: 60",
            "deployment.release.wait_seconds is 60; allowed: at least 180",
        ),
        (
            "data_capture_percentage: 100",
            "data_capture_percentage: 0",
            "monitoring.data_capture_percentage is 0; allowed with deployment.shadow: 1 to 100",
        ),
        ("  shadow:", "  shadows:", "deployment.shadows is not a known key; did you mean shadow?"),
        (
            "  staging: {instance_type: ml.t2.medium, instance_count: 1}\n",
            "",
            "line 10: deployment.staging is missing; it must be set",
        ),
        (
            "  release:",
            "  endpoint: serverless\n  release:",
            "line 14: deployment.release.shift is canary; allowed",
        ),
        (
            "  release:",
            "  endpoint: serverless\n  release:",
            "deployment.shadow is set; allowed with deployment.endp",
        ),
        (
            "  release:",
            "  endpoint: serverless\n  release:",
            "line 12: deployment.production.autoscaling is set; allowed with deployment.endpoint serverless",
        ),
        (
            "  release:",
            "  endpoint: serverless\n  release:",
            "monitoring.data_capture_percentage is 100; allowed with deployment.endpoint serverless: 0",
        ),
        (
            "  release:",
            "  endpoint: serverless\n  release:",
            "monitoring.data_quality is enabled; allowed with deployment.endpoint serverless: enabled: false",
        ),
        (
            "  release:",
            "  endpoint: asynchronous\n  release:",
            "shadow is set; allowed with deployment.endpoint asy",
        ),
        (
            "  release:",
            "  endpoint: asynchronous\n  release:",
            "deployment.production.autoscaling is set; allowed with deployment.endpoint asynchronous: none",
        ),
        (
            "mode: realtime",
            "mode: batch",
            "deployment.shadow is set; allowed with inference.mode batch: no shadow",
        ),
        (
            "mode: realtime",
            "mode: batch",
            "deployment.production.autoscaling is set; allowed with inference.mode",
        ),
    ],
)
def test_a_mistake_in_deployment_is_named(before: str, after: str, expected: str) -> None:
    text = with_deployment(SCALING)
    assert config.check(text) == []
    assert before in text
    problems = config.check(text.replace(before, after, 1))
    assert any(expected in problem for problem in problems), problems


def test_serverless_and_asynchronous_are_right_without_what_they_lack() -> None:
    text = CONFIG.replace("data_capture_percentage: 100", "data_capture_percentage: 0")
    text = text.replace("data_quality: {", "data_quality: {enabled: false, ")
    for kind in ("serverless", "asynchronous"):
        assert config.check(text.replace("deployment:", f"deployment:\n  endpoint: {kind}")) == []
    (problem,) = config.check(text)  # instances without any monitor
    assert "monitoring has no kind that is enabled" in problem
