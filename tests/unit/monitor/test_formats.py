"""The schemas take the examples of AWS's documentation and refuse them with a rule broken."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from monitor import formats

DOCUMENTED = Path(__file__).with_name("documented")
FILES = sorted(path for path in DOCUMENTED.rglob("*.json"))
LINES = [
    (path.stem, json.loads(line))
    for path in sorted(DOCUMENTED.glob("*.jsonl"))
    for line in path.read_text(encoding="utf-8").splitlines()
]
Change = Callable[[Any], Any]


def read(path: str) -> Any:
    return json.loads((DOCUMENTED / path).read_text(encoding="utf-8"))


def kind_of(path: Path) -> str:
    return path.relative_to(DOCUMENTED).parts[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(DOCUMENTED)))
def test_a_documented_example_has_the_documented_form(path: Path):
    assert formats.problems(kind_of(path), path.name, json.loads(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(("kind", "line"), LINES, ids=[kind for kind, _ in LINES])
def test_a_documented_line_has_the_documented_form(kind: str, line: Any):
    assert formats.problems(kind, "", line) == []


def test_every_example_says_where_it_comes_from():
    table = (DOCUMENTED / "SOURCES.md").read_text(encoding="utf-8")
    patterns = [row.split("`")[1] for row in table.splitlines() if row.startswith("| `")]
    for path in [*FILES, *DOCUMENTED.glob("*.jsonl")]:
        assert any(path.relative_to(DOCUMENTED).match(pattern) for pattern in patterns), path


@pytest.mark.parametrize("path", sorted(formats.FOLDER.iterdir()), ids=lambda path: path.name)
def test_a_schema_is_sound_names_its_page_and_has_an_example(path: Path):
    schema = json.loads(path.read_text(encoding="utf-8"))
    formats.Draft7Validator.check_schema(schema)
    assert "https://docs.aws.amazon.com/sagemaker/latest/dg/" in schema["description"]
    kind, *file = path.name.removesuffix(".schema.json").split(".")
    examples = {(kind_of(example), example.stem) for example in FILES} | {(kind, None) for kind, _ in LINES}
    assert (kind, file[0] if file else None) in examples


def drop(*path: Any) -> Change:
    """Take a member away."""

    def change(document: Any) -> None:
        for key in path[:-1]:
            document = document[key]
        del document[path[-1]]

    return change


def put(value: Any, *path: Any) -> Change:
    """Give a member another value."""

    def change(document: Any) -> None:
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = value

    return change


NUMERIC = ("features", 0, "numerical_statistics")
KLL = (*NUMERIC, "distribution", "kll")
STRING = ("features", 1, "string_statistics")
CONFIG = ("monitoring_config", "distribution_constraints")
BINARY = "binary_classification_metrics"
FACET = ("post_training_bias_metrics", "facets", "feature_2", 0)
SHAP = ("explanations", "kernel_shap", "label0")
DQ = "data_quality/schema"
MQ = "model_quality/binary"
# file of documented/, what is broken, where the complaint is
BROKEN: list[tuple[str, Change, str]] = [
    (f"{DQ}/statistics.json", drop("version"), "document: 'version' is a required property"),
    (f"{DQ}/statistics.json", drop("dataset", "item_count"), "dataset: 'item_count'"),
    (f"{DQ}/statistics.json", put(-1, "dataset", "item_count"), "dataset.item_count: -1"),
    (f"{DQ}/statistics.json", drop("features", 0, "name"), "features[0]: 'name'"),
    (
        f"{DQ}/statistics.json",
        put("Float", "features", 0, "inferred_type"),
        "features[0].inferred_type: 'Float'",
    ),
    (
        f"{DQ}/statistics.json",
        put("String", "features", 0, "inferred_type"),
        "features[0]: 'string_statistics'",
    ),
    (f"{DQ}/statistics.json", put("Integral", "features", 1, "inferred_type"), "features[1]: 'numerical_st"),
    (f"{DQ}/statistics.json", drop(*NUMERIC, "common", "num_missing"), "common: 'num_missing'"),
    (f"{DQ}/statistics.json", drop(*NUMERIC, "std_dev"), "numerical_statistics: 'std_dev' is a dependency"),
    (f"{DQ}/statistics.json", drop(*NUMERIC, "distribution"), "numerical_statistics: 'distribution'"),
    (f"{DQ}/statistics.json", put("2.5", *NUMERIC, "mean"), "mean: '2.5'"),
    (f"{DQ}/statistics.json", put(float("nan"), *NUMERIC, "mean"), "mean: nan is no number"),
    (f"{DQ}/statistics.json", put(-0.1, *NUMERIC, "std_dev"), "std_dev: -0.1"),
    (f"{DQ}/statistics.json", drop(*KLL, "sketch"), "kll: 'sketch'"),
    (f"{DQ}/statistics.json", put([1, 2], *KLL, "sketch", "data"), "sketch.data[0]: 1"),
    (f"{DQ}/statistics.json", drop(*KLL, "sketch", "parameters", "k"), "parameters: 'k'"),
    (f"{DQ}/statistics.json", drop(*KLL, "buckets", 0, "upper_bound"), "buckets[0]: 'upper_bound'"),
    (
        f"{DQ}/statistics.json",
        put([{"lower_bound": 0, "upper_bound": 1, "count": 1}] * 11, *KLL, "buckets"),
        "buckets: ",
    ),
    (f"{DQ}/statistics.json", drop(*STRING, "distinct_count"), "string_statistics: 'distinct_count'"),
    (
        f"{DQ}/statistics.json",
        put(7, *STRING, "distribution", "categorical", "buckets", 0, "value"),
        "value: 7",
    ),
    (f"{DQ}/constraints.json", drop("monitoring_config"), "document: 'monitoring_config'"),
    (f"{DQ}/constraints.json", put(1.2, "features", 0, "completeness"), "completeness: 1.2"),
    (
        f"{DQ}/constraints.json",
        put("yes", "features", 0, "num_constraints", "is_non_negative"),
        "is_non_negative: ",
    ),
    (f"{DQ}/constraints.json", drop("features", 1, "string_constraints", "domains"), "'domains'"),
    (f"{DQ}/constraints.json", put(True, "monitoring_config", "emit_metrics"), "emit_metrics: True"),
    (f"{DQ}/constraints.json", put("Exact", *CONFIG, "comparison_method"), "comparison_method: 'Exact'"),
    (f"{DQ}/constraints.json", put("PSI", *CONFIG, "categorical_drift_method"), "drift_method: 'PSI'"),
    (f"{DQ}/constraints.json", put(2, *CONFIG, "comparison_threshold"), "comparison_threshold: 2"),
    (f"{DQ}/constraints.json", put(2, "monitoring_config", "datatype_check_threshold"), "threshold: 2"),
    (
        "data_quality/sample/constraint_violations.json",
        put("range_check", "violations", 0, "constraint_check_type"),
        "violations[0].constraint_check_type: 'range_check'",
    ),
    (
        "data_quality/sample/constraint_violations.json",
        drop("violations", 1, "feature_name"),
        "violations[1]: 'feature_name'",
    ),
    (
        "data_quality/sample/constraint_violations.json",
        drop("violations", 1, "description"),
        "violations[1]: 'description'",
    ),
    (f"{MQ}/statistics.json", drop(BINARY), "document: "),
    (f"{MQ}/statistics.json", put({"mae": 1}, "regression_metrics"), "document: "),
    (f"{MQ}/statistics.json", drop(BINARY, "recall"), f"{BINARY}: 'recall'"),
    (f"{MQ}/statistics.json", drop(BINARY, "auc", "standard_deviation"), "auc: 'standard_deviation'"),
    (f"{MQ}/statistics.json", put(0.9, BINARY, "auc"), "auc: 0.9"),
    (f"{MQ}/statistics.json", put(None, BINARY, "auc", "value"), "auc.value: None"),
    (f"{MQ}/statistics.json", put("nan", BINARY, "auc", "standard_deviation"), "standard_deviation: 'nan'"),
    (f"{MQ}/statistics.json", put([1, 2], BINARY, "confusion_matrix"), "confusion_matrix: [1, 2]"),
    (
        f"{MQ}/statistics.json",
        drop(BINARY, "precision_recall_curve", "recalls", 0),
        "precision_recall_curve: 5 precisions, 4 recalls",
    ),
    (
        "model_quality/multiclass/statistics.json",
        drop("multiclass_classification_metrics", "accuracy"),
        "accuracy",
    ),
    (
        "model_quality/regression/statistics.json",
        drop("regression_metrics", "r2"),
        "regression_metrics: 'r2'",
    ),
    (
        f"{MQ}/constraints.json",
        drop("binary_classification_constraints", "gini", "threshold"),
        "gini: 'threshold'",
    ),
    (
        f"{MQ}/constraints.json",
        put("<", "binary_classification_constraints", "gini", "comparison_operator"),
        "comparison_operator: '<'",
    ),
    (f"{MQ}/constraints.json", drop("binary_classification_constraints", "gini"), "does not have enough"),
    (
        f"{MQ}/constraint_violations.json",
        put("threshold", "violations", 0, "constraint_check_type"),
        "violations[0].constraint_check_type: 'threshold'",
    ),
    (
        f"{MQ}/constraint_violations.json",
        drop("violations", 0, "metric_name"),
        "violations[0]: 'metric_name'",
    ),
    ("model_bias/analysis.json", drop("post_training_bias_metrics"), "document: "),
    ("model_bias/analysis.json", drop("post_training_bias_metrics", "label"), "metrics: 'label'"),
    ("model_bias/analysis.json", drop(*FACET, "value_or_threshold"), "'value_or_threshold'"),
    ("model_bias/analysis.json", put(1, *FACET, "value_or_threshold"), "value_or_threshold: 1"),
    ("model_bias/analysis.json", put("XYZ", *FACET, "metrics", 0, "name"), "metrics[0].name: 'XYZ'"),
    ("model_bias/analysis.json", put("CI", *FACET, "metrics", 0, "name"), "metrics[0].name: 'CI'"),
    ("model_bias/analysis.json", put("0.7", *FACET, "metrics", 0, "value"), "metrics[0].value: '0.7'"),
    ("model_bias/analysis.json", put(float("inf"), *FACET, "metrics", 0, "value"), "value: inf is no number"),
    ("model_bias/analysis.json", drop(*FACET, "metrics", 0, "value"), "metrics[0]: 'value'"),
    ("model_bias/analysis.json", put(1.0, "version"), "version: "),
    ("model_bias/constraint_violations.json", drop("violations", 0, "facet"), "violations[0]: 'facet'"),
    (
        "model_bias/constraint_violations.json",
        put("bias_check", "violations", 0, "constraint_check_type"),
        "violations[0].constraint_check_type: ",
    ),
    (
        "model_explainability/analysis.json",
        drop("explanations", "kernel_shap"),
        "explanations: 'kernel_shap'",
    ),
    ("model_explainability/analysis.json", drop(*SHAP, "global_shap_values"), "label0: 'global_shap_values'"),
    (
        "model_explainability/analysis.json",
        put("0.02", *SHAP, "global_shap_values", "feature_0"),
        "feature_0: '0.02'",
    ),
    (
        "model_explainability/constraint_violations.json",
        put("ndcg", "violations", 0, "metric_name"),
        "metric_name: ",
    ),
    (
        "model_explainability/constraint_violations.json",
        drop("violations", 1, "label"),
        "violations[1]: 'label'",
    ),
    ("model_explainability/constraint_violations.json", drop("version"), "document: 'version'"),
]


@pytest.mark.parametrize(("path", "change", "complaint"), BROKEN, ids=[f"{p}: {c}" for p, _, c in BROKEN])
def test_a_broken_example_is_refused_at_its_place(path: str, change: Change, complaint: str):
    document = read(path)
    change(document)
    found = formats.problems(path.split("/")[0], path.rsplit("/", 1)[1], document)
    assert any(complaint in problem for problem in found), found


BROKEN_LINES: list[tuple[str, Change, str]] = [
    ("capture", drop("captureData", "endpointInput", "data"), "endpointInput: 'data'"),
    ("capture", put("XML", "captureData", "endpointInput", "encoding"), "encoding: 'XML'"),
    ("capture", put("OUTPUT", "captureData", "endpointInput", "mode"), "mode: "),
    ("capture", put({}, "captureData"), "captureData: {}"),
    ("capture", drop("eventMetadata", "eventId"), "eventMetadata: 'eventId'"),
    ("capture", put("yesterday", "eventMetadata", "inferenceTime"), "inferenceTime: 'yesterday'"),
    ("capture", put("1", "eventVersion"), "eventVersion: "),
    ("ground_truth", put("JSON", "groundTruthData", "encoding"), "encoding: "),
    ("ground_truth", put(1, "groundTruthData", "data"), "data: 1"),
    ("ground_truth", put("", "eventMetadata", "eventId"), "eventId: ''"),
    ("ground_truth", drop("eventVersion"), "document: 'eventVersion'"),
]


@pytest.mark.parametrize(
    ("kind", "change", "complaint"), BROKEN_LINES, ids=[f"{k}: {c}" for k, _, c in BROKEN_LINES]
)
def test_a_broken_line_is_refused_at_its_place(kind: str, change: Change, complaint: str):
    line = copy.deepcopy(next(line for known, line in LINES if known == kind))
    change(line)
    found = formats.problems(kind, "", line)
    assert any(complaint in problem for problem in found), found


def test_a_file_that_nobody_documented_is_named():
    with pytest.raises(LookupError, match=r"no format is documented for drift.json of data_quality"):
        formats.problems("data_quality", "drift.json", {})


@pytest.mark.parametrize("kind", sorted(formats.CLARIFY))
def test_the_baseline_and_the_statistics_of_clarify_are_analyses(kind: str):
    for file in sorted(formats.ANALYSIS):
        assert formats.problems(kind, file, read(f"{kind}/analysis.json")) == []
        assert formats.problems(kind, file, {}) != []
