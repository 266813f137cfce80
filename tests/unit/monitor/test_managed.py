"""Files of the managed engine, against the SageMaker SDK that writes them for notebooks."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from monitor import managed

FEATURES = ["age", "purpose", "amount"]
OPTIONS = {
    "features": FEATURES,
    "target": "credit_risk",
    "positive_class": "1",
    "label": "1",
    "background": [["35", "car", None], ["52", "007", "1e3"]],
    "settings": {
        "facets": [{"name": "age", "threshold": 25.0}, {"name": "purpose", "values": ["car", "boat"]}],
        "group_variable": "purpose",
    },
}
URI = "s3://bucket/pipelines/mlops-p-abcdefghijkl/abc123def456/MonitoringBaseline/baseline"


def test_bias_config_is_the_sdks() -> None:
    from sagemaker.core.clarify import BiasConfig
    from sagemaker.core.model_monitor.clarify_model_monitoring import BiasAnalysisConfig

    theirs = BiasAnalysisConfig(
        BiasConfig(
            label_values_or_threshold=[1],
            facet_name=["age", "purpose"],
            facet_values_or_threshold=[[25.0], ["car", "boat"]],
            group_name="purpose",
        ),
        headers=[*FEATURES, "credit_risk"],
        label="credit_risk",
    )
    assert managed.bias_config(OPTIONS) == theirs._to_dict()


def test_explainability_config_is_the_sdks() -> None:
    from sagemaker.core.clarify import ModelConfig, SHAPConfig
    from sagemaker.core.model_monitor.clarify_model_monitoring import ExplainabilityAnalysisConfig

    theirs = ExplainabilityAnalysisConfig(
        SHAPConfig(
            baseline=[[35, "car", None], [52, "007", 1000.0]],
            num_samples=100,
            agg_method="mean_abs",
            save_local_shap_values=False,
        ),
        ModelConfig(
            model_name="mlops-p-abcdefghijkl-abc123def456",
            instance_count=1,
            instance_type="ml.g4dn.xlarge",
            endpoint_name_prefix="mlops-p-abcdefghijkl-shadow",
            content_type="text/csv",
            accept_type="text/csv",
        ),
        headers=FEATURES,
        label_headers=["1"],
    )
    shadow = managed.shadow_of(URI)
    assert shadow is not None
    assert managed.explainability_config(OPTIONS, shadow) == theirs._to_dict()


@pytest.mark.parametrize(
    "given, plain",
    [
        ("1", 1), ("-2", -2), ("1.50", 1.5), ("1e3", 1000.0), (".5", 0.5), ("007", "007"), ("1_000", "1_000"),
        ("nan", "nan"), ("inf", "inf"), ("1e999", "1e999"), ("car", "car"), ("-", "-"), ("e5", "e5"),
        (".", "."), ("", ""), (None, None), (3, 3),
    ],
)  # fmt: skip
def test_values_are_as_csv_readers_see_them(given: Any, plain: Any) -> None:
    found = managed._plain(given)
    assert found == plain and type(found) is type(plain)
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("uri", ["", "/tmp/out", "s3://bucket/baseline", "s3://bucket/a/b"])
def test_outside_of_a_pipeline_no_model_can_be_named(uri: str) -> None:
    assert managed.shadow_of(uri) is None
    assert managed.files("model_explainability", OPTIONS, uri) == {}


def test_each_kind_has_its_files() -> None:
    found = {kind: set(managed.files(kind, OPTIONS, URI)) for kind in ("data_quality", "model_quality")}
    assert found == {"data_quality": {"preprocessor.py"}, "model_quality": set()}
    for kind in ("model_bias", "model_explainability"):
        assert set(managed.files(kind, OPTIONS, URI)) == {"analysis_config.json"}


def test_the_job_says_where_its_output_goes(tmp_path: Path) -> None:
    config = tmp_path / "processingjobconfig.json"
    assert managed.job_output(config) == ""
    output = {"OutputName": "baseline", "S3Output": {"S3Uri": URI + "/", "LocalPath": "/opt/ml/x"}}
    config.write_text(json.dumps({"ProcessingOutputConfig": {"Outputs": [output]}}))
    assert managed.job_output(config) == URI
    config.write_text("{}")
    assert managed.job_output(config) == ""


def handle(data: str, encoding: str = "CSV", features: list[str] = FEATURES) -> dict[str, Any]:
    """What Model Monitor gets for a captured request."""
    program: dict[str, Any] = {}
    exec(compile(managed.preprocessor(features), "preprocessor.py", "exec"), program)  # noqa: S102 - our own
    source = SimpleNamespace(data=data, encoding=encoding, observed_content_type="text/csv")
    answer = SimpleNamespace(data="0.7\n", encoding="CSV")
    return program["preprocess_handler"](SimpleNamespace(endpoint_input=source, endpoint_output=answer))


@pytest.mark.parametrize(
    "data, encoding, found",
    [
        ("35,car,100\n", "CSV", {"age": "35", "purpose": "car", "amount": "100"}),
        ('35," a, b ",100', "CSV", {"age": "35", "purpose": "a, b", "amount": "100"}),
        ("35,,NA", "CSV", {"age": "35"}),
        ("35,car", "CSV", {"age": "35", "purpose": "car"}),
        ("35,car,1,2", "CSV", {"age": "35", "purpose": "car", "amount": "1", "extra_1": "2"}),
        (base64.b64encode(b"35,car,1").decode(), "BASE64", {"age": "35", "purpose": "car", "amount": "1"}),
        ('{"age": 35, "purpose": "car", "amount": null}', "JSON", {"age": 35, "purpose": "car"}),
        (
            '{"instances": [[35, "car", 1], [36, "car", 2]]}',
            "JSON",
            {"age": 35, "purpose": "car", "amount": 1},
        ),
        ('{"instances": [{"age": 35}]}', "JSON", {"age": 35}),
        ('[35, "car", 1]', "JSON", {"age": 35, "purpose": "car", "amount": 1}),
    ],
)
def test_requests_are_read_by_name(data: str, encoding: str, found: dict[str, Any]) -> None:
    assert handle(data, encoding) == found


def test_names_of_features_are_data() -> None:
    """A feature's name cannot become part of the program."""
    hostile = ['"]; raise SystemExit #', "{x}", "a\nb"]
    assert handle("1,2,3", features=hostile) == dict(zip(hostile, "123", strict=True))
