"""The tables of deploy/kpi.yaml: each column is written by the monitor, and lies where Athena looks."""

from __future__ import annotations

import importlib
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "mlops-cfn/deploy/kpi.yaml"
TYPES = {"string": (str,), "bigint": (int,), "double": (int, float), "boolean": (bool,)}


class Loader(yaml.SafeLoader):
    """Reads templates; functions become their bare values."""


def _bare(loader: yaml.SafeLoader, _: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    return loader.construct_sequence(node, deep=True) if isinstance(node, yaml.SequenceNode) else node.value


Loader.add_multi_constructor("!", _bare)


def resources() -> dict[str, Any]:
    return yaml.load(TEMPLATE.read_text(), Loader)["Resources"]  # noqa: S506 a SafeLoader


def tables() -> dict[str, Any]:
    """Table → its TableInput."""
    kept = (r["Properties"]["TableInput"] for r in resources().values() if r["Type"] == "AWS::Glue::Table")
    return {table["Name"]: table for table in kept}


def columns(table: str) -> dict[str, str]:
    return {one["Name"]: one["Type"] for one in tables()[table]["StorageDescriptor"]["Columns"]}


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """The output of a run, which is uploaded to the reports' prefix."""
    from monitor import publish
    from monitor.intake import Intake
    from monitor.result import Measure, Result
    from monitor.settings import Settings

    settings = Settings(
        kind="data_quality",
        endpoint="mlops-p-abcdefghijkl-production",
        scheduled=datetime(2026, 11, 21, 10, tzinfo=UTC),
        reports_uri="s3://bucket/monitoring",
        model_package_arn="arn:aws:sagemaker:eu-west-1:123456789012:model-package/x/1",
        baseline=tmp_path / "baseline",
        output=tmp_path / "output",
    )
    measure = Measure("age", "baseline_drift", 0.4, 0.0, 0.2, 0.0001, True)
    result = Result("data_quality", 100, {"version": 0.0}, {"version": 0.0}, [], [measure])
    intake = Intake()
    summary = publish.summarize(settings, result, intake, "run-1")
    publish.write_files(settings, result, intake, summary, [])
    return settings.output


@pytest.mark.parametrize("table", ["runs", "measures"])
def test_each_column_is_what_the_monitor_writes(table: str, written: Path) -> None:
    (file,) = (written / "tables" / table).rglob("*.jsonl")
    lines = file.read_text().splitlines()
    assert len(lines) == 1  # a line each: the SerDe reads no JSON over several
    row = json.loads(lines[0])
    assert list(row) == list(columns(table))
    wrong = {
        n: row[n] for n, kind in columns(table).items() if not isinstance(row[n], (*TYPES[kind], type(None)))
    }
    assert wrong == {}


@pytest.mark.parametrize("table", ["runs", "measures"])
def test_athena_looks_where_the_monitor_writes(table: str, written: Path) -> None:
    parameters = tables()[table]["Parameters"]
    template = parameters["storage.location.template"].removeprefix("${ReportsUri}/")
    assert template.count("${!day}") == 1
    (file,) = (written / "tables" / table).rglob("*.jsonl")
    assert parameters["projection.day.format"] == "yyyy-MM-dd"
    folder = f"{file.parent.relative_to(written).as_posix()}/"
    assert re.fullmatch(re.escape(template).replace(re.escape("${!day}"), r"\d{4}-\d\d-\d\d"), folder)


def test_captured_traffic_lies_where_sagemaker_puts_it() -> None:
    """Endpoint, variant, then the hour; the variant is the one of deploy/realtime.yaml."""
    realtime = (ROOT / "mlops-cfn/deploy/realtime.yaml").read_text()
    variant = re.search(r"VariantName: (\w+)", realtime)
    prefix = re.search(r"DestinationS3Uri: .*?/(data-capture/\S+?)['\s]", realtime)
    assert variant and prefix
    template = tables()["predictions"]["Parameters"]["storage.location.template"]
    where = prefix[1].replace("${Stage}", "production")
    assert template == f"s3://${{BucketName}}/{where}/${{EndpointName}}/{variant[1]}/${{!hour}}/"


def test_every_table_is_read_alike() -> None:
    found = tables()
    assert set(found) == {"predictions", "ground_truth", "runs", "measures", "evaluations"}
    for name, table in found.items():
        storage = table["StorageDescriptor"]
        assert storage["SerdeInfo"]["SerializationLibrary"] == "org.openx.data.jsonserde.JsonSerDe", name
        assert storage["SerdeInfo"]["Parameters"] == {"ignore.malformed.json": "true"}, name
        assert storage["Location"].endswith("/"), name
        keys = [key["Name"] for key in table["PartitionKeys"]]
        if keys:
            assert table["Parameters"]["storage.location.template"].startswith(storage["Location"]), name
            given = {k.split(".")[2] for k in table["Parameters"] if k.startswith(f"projection.{keys[0]}.")}
            assert given == {"type", "format", "range", "interval"}, name


# Decimals of Trino have the scale of their factors: 1.0 * 1 / 3 is 0.3 in Athena, and 0.333… in DuckDB.
ARITHMETIC = re.compile(r"\d+\.\d+\s*[*/]|[*/]\s*\d+\.\d+")


def queries() -> dict[str, str]:
    """Each SQL text of the template by its resource."""
    found = {}
    for name, resource in resources().items():
        if resource["Type"] == "AWS::Athena::NamedQuery":
            found |= branches(name, resource["Properties"]["QueryString"])
        if resource["Type"] == "AWS::QuickSight::DataSet":
            for table in resource["Properties"]["PhysicalTableMap"].values():
                found |= branches(name, table["CustomSql"]["SqlQuery"])
    return found


def branches(name: str, sql: Any) -> dict[str, str]:
    """A text, or those that a condition chooses from."""
    if isinstance(sql, str):
        return {name: sql}
    condition, *chosen = sql
    return {
        key: text
        for word, one in zip((condition, f"not {condition}"), chosen, strict=True)
        for key, text in branches(f"{name} {word}", one).items()
    }


def test_no_query_divides_decimals() -> None:
    assert ARITHMETIC.search("round(1.0 * count(*) / 3, 2)")
    assert {name for name, sql in queries().items() if ARITHMETIC.search(sql)} == set()


def test_queries_on_partitions_say_which() -> None:
    """Without a condition on the partition a query would look into every hour of the projection."""
    partitioned = {name: t["PartitionKeys"][0]["Name"] for name, t in tables().items() if t["PartitionKeys"]}
    for name, sql in queries().items():
        for table, key in partitioned.items():
            if re.search(rf"\b(FROM|JOIN) (\$\{{Database\}}\.)?{table}\b", sql):
                assert re.search(rf"\b({table}\.)?{key} >= date_format\(", sql), (
                    f"{name} reads all of {table}"
                )


def test_the_workgroup_goes_with_its_queries() -> None:
    """A workgroup that has been used is deleted with its history only."""
    assert resources()["Queries"]["Properties"]["RecursiveDeleteOption"] is True


def test_evaluations_have_the_columns_of_their_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "seedcode-repo/frameworks/sklearn/src"))
    evaluate = importlib.import_module("evaluate")
    report = evaluate.report(np.array([0, 0, 1, 1]), np.array([0.1, 0.6, 0.4, 0.9]))
    rows = evaluate.rows_of(report, datetime(2026, 11, 21, tzinfo=UTC))
    assert {tuple(row) for row in rows} == {tuple(columns("evaluations"))}
    place = (ROOT / "seedcode-repo/base/pipeline.py").read_text()
    location = tables()["evaluations"]["StorageDescriptor"]["Location"].removeprefix("${ReportsUri}/")
    assert f"/monitoring/{location}{{settings['pipeline_name']}}" in place
