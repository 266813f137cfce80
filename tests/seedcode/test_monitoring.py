"""The notebook of the monitors and the module it reads with: own reports, AWS's documented ones, and none."""

import io
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import boto3
import nbformat
import pytest
from moto import mock_aws
from moto.server import ThreadedMotoServer
from nbclient import NotebookClient

import compose

DOCUMENTED = Path(__file__).resolve().parents[1] / "unit/monitor/documented"
PROJECT_ID = "p-abc123def456"
BUCKET = f"mlops-{PROJECT_ID}-123456789012-us-east-1"
KINDS = ("data_quality", "model_quality", "model_bias", "model_explainability")
NOW = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
# kind -> (subject, name, baseline, limit, value without drift, value with it)
MEASURE = {
    "data_quality": ("credit_amount", "distance", None, 0.1, 0.04, 0.42),
    "model_quality": ("model", "auc", 0.80, 0.75, 0.79, 0.61),
    "model_bias": ("age=25", "DPPL", 0.02, 0.1, 0.03, 0.31),
    "model_explainability": ("label0", "ndcg", 1.0, 0.9, 0.99, 0.71),
}


@pytest.fixture(scope="module")
def monitoring(project: Path) -> ModuleType:
    specification = spec_from_file_location("project_monitoring", project / "src" / "monitoring.py")
    module = module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def summary(kind: str, scheduled: datetime, drifted: bool) -> dict[str, Any]:
    """summary.json as the project's own engine writes it."""
    subject, name, baseline, threshold, clean, off = MEASURE[kind]
    value = off if drifted else clean
    return {
        "run_id": f"{kind}-{scheduled:%H}",
        "endpoint": f"mlops-{PROJECT_ID}-production",
        "kind": kind,
        "engine": "processing",
        "scheduled": scheduled.isoformat(),
        "records": 240,
        "excluded": 2,
        "unreadable": 1,
        "violations": int(drifted),
        "status": "violations" if drifted else "clean",
        "worst_subject": subject,
        "worst_name": name,
        "worst_value": value,
        "worst_threshold": threshold,
        "measures": [
            {
                "subject": subject,
                "name": name,
                "value": value,
                "baseline": baseline,
                "threshold": threshold,
                "p_value": 0.0,
                "violated": drifted,
            },
            {"subject": "age", "name": "distance", "value": 0.01, "threshold": 0.1, "violated": False},
        ],
        "notes": [f"{subject} moved"] if drifted else [],
    }


def own_report(kind: str, scheduled: datetime, drifted: bool) -> dict[str, bytes]:
    """Key -> content of one run."""
    folder = f"monitoring/{kind.replace('_', '-')}/{scheduled:%Y/%m/%d/%H}/"
    return {
        f"{folder}summary.json": json.dumps(summary(kind, scheduled, drifted)).encode(),
        f"{folder}statistics.json": b"{}",
        f"{folder}constraint_violations.json": b'{"violations": []}',
        f"{folder}report.html": f"<h1>{kind}</h1><script>alert(1)</script>".encode(),
    }


def managed_report(kind: str, source: str, scheduled: datetime) -> dict[str, bytes]:
    """What Model Monitor and Clarify write, from AWS's documentation."""
    folder = f"monitoring/{kind.replace('_', '-')}/endpoint/schedule/{scheduled:%Y/%m/%d/%H}/"
    files = sorted((DOCUMENTED / source).glob("*.json"))
    assert files
    return {f"{folder}{path.name}": path.read_bytes() for path in files}


def own_reports() -> dict[str, bytes]:
    """Thirty hours of all four kinds, each drifting since another hour, and a table, which is no report."""
    found = {"monitoring/tables/runs/date=2026-01-01/data_quality-0000-r.jsonl": b"{}\n"}
    for number, kind in enumerate(KINDS):
        for age in range(30):
            found |= own_report(kind, NOW - timedelta(hours=age), drifted=age <= number)
    return found


@pytest.fixture
def s3() -> Iterator[Any]:
    with mock_aws():
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket=BUCKET)
        yield client


def put(s3: Any, objects: dict[str, bytes]) -> None:
    for key, body in objects.items():
        s3.put_object(Bucket=BUCKET, Key=key, Body=body)


def read(monitoring: ModuleType, s3: Any, **options: Any) -> list[dict[str, Any]]:
    return monitoring.read_reports(s3, BUCKET, monitoring.find_reports(s3, BUCKET, **options))


# The project's own engine


def test_the_newest_report_of_each_kind_is_read(monitoring: ModuleType, s3: Any):
    put(s3, own_reports())
    runs = read(monitoring, s3)
    assert len(runs) == 120 and runs == sorted(runs, key=lambda r: r["scheduled"])
    table = monitoring.verdicts(runs)
    assert list(table.index) == list(KINDS)
    assert set(table["scheduled"]) == {f"{NOW:%Y-%m-%d %H:%M}"} and set(table["verdict"]) == {"DRIFT"}
    assert table.loc["model_quality", "farthest off"] == "model auc 0.61"
    assert table.loc["model_quality", "limit"] == "0.75"
    assert table.loc["model_bias", "report"] == f"s3://{BUCKET}/monitoring/model-bias/{NOW:%Y/%m/%d/%H}/"


def test_an_earlier_time_has_the_verdicts_of_then(monitoring: ModuleType, s3: Any):
    put(s3, own_reports())
    then = monitoring.verdicts(read(monitoring, s3), before=NOW - timedelta(hours=9))
    assert set(then["verdict"]) == {"no drift"}
    assert set(then["scheduled"]) == {f"{NOW - timedelta(hours=10):%Y-%m-%d %H:%M}"}


def test_what_drifts_is_told_with_its_beginning(monitoring: ModuleType, s3: Any):
    put(s3, own_reports())
    found = monitoring.drifting(read(monitoring, s3)).set_index("kind")
    assert list(found.index) == list(KINDS)
    for number, kind in enumerate(KINDS):
        assert found.loc[kind, "since"] == NOW - timedelta(hours=number)
        assert found.loc[kind, "runs"] == number + 1
        assert found.loc[kind, "subject"] == MEASURE[kind][0]
        assert found.loc[kind, "value"] == MEASURE[kind][5]


def test_a_clean_run_ends_a_drift_and_a_run_without_data_does_not(monitoring: ModuleType):
    def run(age: int, status: str, violated: bool) -> dict[str, Any]:
        hit = {"subject": "a", "name": "distance", "violated": violated}
        return {
            "kind": "data_quality",
            "scheduled": NOW - timedelta(hours=age),
            "status": status,
            "measures": [hit],
        }

    runs = [
        run(4, "violations", True),
        run(3, "clean", False),
        run(2, "violations", True),
        run(1, "no_data", False),
    ]
    (row,) = monitoring.drifting([*runs, run(0, "violations", True)]).to_dict("records")
    assert (row["since"], row["runs"]) == (NOW - timedelta(hours=2), 2)
    assert monitoring.drifting([*runs, run(0, "clean", False)]).empty


def test_older_reports_are_left_alone(monitoring: ModuleType, s3: Any):
    for days in (1, 5, 40):
        put(s3, own_report("data_quality", NOW - timedelta(days=days), drifted=False))
    assert len(read(monitoring, s3)) == 2
    assert len(read(monitoring, s3, days=3)) == 1
    assert len(read(monitoring, s3, days=60)) == 3
    assert len(read(monitoring, s3, days=14, until=NOW - timedelta(days=4))) == 1


def test_a_report_that_is_cut_off_does_not_hide_the_others(monitoring: ModuleType, s3: Any):
    put(s3, own_report("data_quality", NOW - timedelta(hours=1), drifted=True))
    put(s3, {f"monitoring/data-quality/{NOW:%Y/%m/%d/%H}/summary.json": b'{"status": "cle'})
    runs = read(monitoring, s3)
    assert [run["status"] for run in runs] == ["violations", "no_data"]
    assert len(monitoring.drifting(runs)) == 1


def test_a_bucket_without_reports_gives_empty_tables(monitoring: ModuleType, s3: Any):
    runs = read(monitoring, s3)
    assert runs == []
    assert set(monitoring.verdicts(runs)["verdict"]) == {"no report"}
    assert monitoring.drifting(runs).empty and monitoring.all_measures(runs).empty
    assert monitoring.plot(monitoring.all_measures(runs), "data_quality") is None


# Model Monitor and Clarify


MANAGED = [
    ("data_quality", "data_quality/sample"),
    ("model_quality", "model_quality/binary"),
    ("model_bias", "model_bias"),
    ("model_explainability", "model_explainability"),
]


def test_the_files_of_the_managed_engine_are_read(monitoring: ModuleType, s3: Any):
    for kind, source in MANAGED:
        put(s3, managed_report(kind, source, NOW))
    runs = read(monitoring, s3)
    table = monitoring.verdicts(runs)
    assert set(table["verdict"]) == {"DRIFT"}
    assert table["violations"].to_dict() == dict(zip(KINDS, ("3", "1", "2", "2"), strict=True))
    assert table.loc["data_quality", "records"] == "418" and table.loc["model_quality", "records"] == "4"
    assert table.loc["model_explainability", "farthest off"] == "label0 ndcg 0.764"
    assert table.loc["model_explainability", "limit"] == "0.9"
    found = monitoring.drifting(runs).set_index(["subject", "measure"])
    assert found.loc[("store_and_fwd_flag", "categorical_values_check"), "value"] == 0.009009009009009009
    assert found.loc[("model", "gini"), "threshold"] == 0.6611
    assert found.loc[("Age=40", "DPPL"), "value"] == -0.0791244970125596
    measures = monitoring.all_measures(runs).set_index(["kind", "subject", "name"])
    assert measures.loc[("model_quality", "model", "recall"), "value"] == 1.0
    assert measures.loc[("model_bias", "feature_2=1", "DI"), "value"] == 0.711340206185567
    assert measures.loc[("model_explainability", "feature_0", "shap"), "value"] == 0.022486410860333206


@pytest.mark.parametrize("source", ["multiclass", "regression"])
def test_other_problem_types_are_read(monitoring: ModuleType, s3: Any, source: str):
    put(s3, managed_report("model_quality", f"model_quality/{source}", NOW))
    (run,) = read(monitoring, s3)
    assert run["status"] == "clean" and len(run["measures"]) >= 4


@pytest.mark.parametrize(
    ("description", "numbers"),
    [
        ("Value: 0.009 does not meet the constraint requirement! ", (0.009, None)),
        ("Value -0.0791244970125596 does not meet the constraint requirement", (-0.0791244970125596, None)),
        ("Feature attribution drift 0.76 exceeds threshold 0.9", (0.76, 0.9)),
        ("Baseline drift distance: 0.31 exceeds threshold: 0.1", (0.31, 0.1)),
        ("Metric gini with 0.6111 was LessThanThreshold 0.6611", (0.6111, 0.6611)),
        ("Metric f2 with 1.5E-3 was LessThanThreshold '0.7'", (0.0015, 0.7)),
        ("Column age is missing", (None, None)),
    ],
)
def test_numbers_are_found_in_descriptions(monitoring: ModuleType, description: str, numbers: tuple):
    assert monitoring.numbers_of(description) == numbers


def test_a_bias_baseline_beside_the_analysis_is_shown(monitoring: ModuleType):
    analysis = json.loads((DOCUMENTED / "model_bias/analysis.json").read_text())
    (first, _) = monitoring.bias_measures(analysis, analysis, [])
    assert (first["subject"], first["baseline"]) == ("feature_2=1", 0.711340206185567)


# Plots and pages


def test_a_plot_shows_value_limit_baseline_and_drift_without_colour(monitoring: ModuleType, s3: Any):
    put(s3, own_reports())
    figure = monitoring.plot(monitoring.all_measures(read(monitoring, s3)), "model_quality")
    first = figure.axes[0]
    assert first.get_title(loc="left") == "model: auc"  # drifted, so before age
    styles = {line.get_label(): line for line in first.get_lines()}
    assert {"drift", "threshold", "baseline"} <= set(styles)
    assert len(styles["drift"].get_xdata()) == 2
    assert {line.get_color() for line in first.get_lines()} == {"black"}
    image = io.BytesIO()
    figure.savefig(image)
    assert image.getvalue().startswith(b"\x89PNG")


def test_names_of_callers_are_not_read_as_formulas(monitoring: ModuleType):
    row = {"kind": "data_quality", "scheduled": NOW, "name": "distance", "value": 0.1, "violated": True}
    frame = monitoring.all_measures([{**row, "measures": [{**row, "subject": r"$\frac{<script>"}]}])
    monitoring.plot(frame, "data_quality").savefig(io.BytesIO())


def test_what_has_a_limit_is_drawn_before_what_only_moves(monitoring: ModuleType):
    moves = {"subject": "age", "name": "shap", "value": 9.0, "baseline": 1.0}
    judged = {"subject": "model", "name": "ndcg", "value": 0.99, "baseline": 1.0, "threshold": 0.9}
    run = {"kind": "model_explainability", "scheduled": NOW, "measures": [moves, judged]}
    figure = monitoring.plot(monitoring.all_measures([run]), "model_explainability")
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["model: ndcg", "age: shap"]


def test_only_so_many_measures_are_drawn(monitoring: ModuleType):
    measures = [{"subject": f"f{i}", "name": "distance", "value": i / 100} for i in range(40)]
    frame = monitoring.all_measures([{"kind": "data_quality", "scheduled": NOW, "measures": measures}])
    assert len(monitoring.plot(frame, "data_quality").axes) == 6


def test_the_page_of_a_report_is_shown_where_nothing_can_run(monitoring: ModuleType, s3: Any):
    put(s3, own_report("data_quality", NOW, drifted=True))
    uri = f"s3://{BUCKET}/monitoring/data-quality/{NOW:%Y/%m/%d/%H}/"
    frame = monitoring.frame_of(s3, BUCKET, uri)
    assert frame.startswith('<iframe sandbox=""') and "<script>" not in frame
    assert "has no report.html" in monitoring.frame_of(s3, BUCKET, f"s3://{BUCKET}/monitoring/<b>/")
    assert "<b>" not in monitoring.frame_of(s3, BUCKET, f"s3://{BUCKET}/monitoring/<b>/")


# The notebook


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """moto as a server, because a notebook runs in a process of its own."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def run_notebook(
    project: Path, endpoint: str, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    """Execute the notebook with objects in the project's bucket: its text, HTML and number of pictures."""
    for name in os.environ:
        if name not in environment:
            monkeypatch.delenv(name)
    for name, value in {**environment, "AWS_ENDPOINT_URL": endpoint, "PROJECT_ID": PROJECT_ID}.items():
        monkeypatch.setenv(name, value)
    s3, ssm = boto3.client("s3"), boto3.client("ssm")
    s3.create_bucket(Bucket=BUCKET)
    name = f"/mlops/projects/{PROJECT_ID}/bucket-name"
    ssm.put_parameter(Name=name, Value=BUCKET, Type="String", Overwrite=True)

    def runner(objects: dict[str, bytes], folder: Path = project) -> tuple[str, str, int]:
        put(s3, objects)
        notebook = nbformat.read(folder / "notebooks" / "02-monitoring.ipynb", as_version=4)
        kernel = {"metadata": {"path": str(folder / "notebooks")}}
        NotebookClient(notebook, timeout=120, kernel_name="python3", resources=kernel).execute()
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
        text = "".join(output.get("text", "") for output in outputs)
        html = "".join(output.get("data", {}).get("text/html", "") for output in outputs)
        pictures = sum("image/png" in output.get("data", {}) for output in outputs)
        return text, html, pictures

    yield runner
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
        for item in page.get("Contents", []):
            s3.delete_object(Bucket=BUCKET, Key=item["Key"])
    s3.delete_bucket(Bucket=BUCKET)


@pytest.mark.slow
def test_the_notebook_shows_all_four_kinds(run_notebook: Any):
    text, html, pictures = run_notebook(own_reports())
    assert "120 reports" in text and "No report" not in text
    assert f"{(NOW - timedelta(days=1)).date()}:" in text  # the earlier day
    assert pictures == 4
    for kind in KINDS:
        assert f"<th>{kind}</th>" in html
    assert "no drift" in html and "DRIFT" in html
    assert "credit_amount moved" in text
    assert "<iframe sandbox" in html and "<script>alert" not in html


@pytest.mark.slow
def test_the_notebook_reads_the_managed_engines_files(run_notebook: Any):
    objects: dict[str, bytes] = {}
    for kind, source in MANAGED:
        objects |= managed_report(kind, source, NOW)
    text, html, pictures = run_notebook(objects)
    assert "4 reports" in text
    assert pictures == 4
    assert "Feature attribution drift 0.7639720923277322 exceeds threshold 0.9" in text
    assert "store_and_fwd_flag" in html and "has no report.html" in html


@pytest.mark.slow
def test_the_notebook_says_what_to_wait_for(run_notebook: Any):
    text, html, pictures = run_notebook({})
    assert f"No report of the last 14 days in s3://{BUCKET}/monitoring/." in text
    assert "approve a model version" in text and "send requests, and wait" in text
    assert "cron(0 * * * ? *)" in text
    assert "no report of data_quality yet" in text and "Nothing drifts" in text
    assert pictures == 0 and html.count("no report") >= 8


@pytest.mark.slow
def test_the_notebook_of_a_batch_project_speaks_of_files(run_notebook: Any, tmp_path: Path):
    compose.write_folder(compose.compose("sklearn", "batch"), tmp_path / "batch")
    text, _, _ = run_notebook({}, tmp_path / "batch")
    assert "upload files to batch/input/production/, and wait" in text and "requests" not in text
