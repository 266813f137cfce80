"""A scheduled run, from S3 to the report, the rows for Athena and the metrics; and baselines."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
from botocore.exceptions import ClientError
from botocore.response import StreamingBody
from moto import mock_aws

from mlops_cicd.monitor_code import pack
from monitor import KINDS, capture, cli, formats
from monitor.publish import ROW_COLUMNS, metric_text
from monitor.settings import Settings, Window, parse_time
from monitored import (
    BUCKET,
    CAPTURE,
    ENDPOINT,
    HOUR,
    NOON,
    REGION,
    Report,
    job_environment,
    judge,
    line,
    metrics,
    put_capture,
    requests,
    sample,
    write_csv,
)


@pytest.fixture
def s3() -> Iterator[Any]:
    with mock_aws():
        client = boto3.client("s3", region_name=REGION)
        client.create_bucket(Bucket=BUCKET)
        yield client


def run(baseline: Path, output: Path, **env: str) -> int:
    return cli.main(["run", "--baseline", str(baseline), "--output", str(output)], job_environment(**env))


def report(output: Path, hour: str = "2026/03/04/12") -> Report:
    return Report(output / "data-quality" / hour)


# ------------------------------------------------------------ what is read


def test_a_clean_hour_gives_a_report_without_violations(s3: Any, baseline: Path, tmp_path: Path) -> None:
    lines = requests(sample(np.random.default_rng(31), 300), rows=10)
    put_capture(s3, f"AllTraffic/{HOUR}/a.jsonl", lines[:11])
    put_capture(s3, f"AllTraffic/{HOUR}/b.jsonl", lines[11:20])
    put_capture(s3, f"Shadow/{HOUR}/a.jsonl", lines[:20])  # copies of requests: what nobody was answered
    put_capture(s3, f"Second/{HOUR}/c.jsonl", lines[20:])
    assert run(baseline, tmp_path) == 0
    found = report(tmp_path)
    assert found.constraint_violations["violations"] == []
    assert found.statistics["dataset"]["item_count"] == 300
    assert found.summary["status"] == "clean"
    assert found.summary["requests_by_hour"] == {"2026-03-04T11:00Z": 30}
    assert not (found.folder / "quarantine.jsonl").exists()
    published = metrics()
    assert (published["constraint_violations"], published["records"], published["unreadable"]) == (0, 300, 0)
    assert 0 < published["feature_baseline_drift_amount"] < 0.2
    assert "feature_baseline_drift_customer" not in published


def test_a_drifted_hour_gives_violations_metrics_and_exit_code_0(
    s3: Any, baseline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_capture(
        s3, f"AllTraffic/{HOUR}/a.jsonl", requests(sample(np.random.default_rng(32), 300, drift=1), rows=10)
    )
    assert run(baseline, tmp_path, MODEL_PACKAGE_ARN="arn:aws:sagemaker:us-east-1:1:model-package/m/3") == 0
    found = report(tmp_path)
    assert {feature for feature, _ in found.checks} >= {"duration", "amount", "purpose"}
    assert metrics()["constraint_violations"] == len(found.constraint_violations["violations"])
    assert metrics()["feature_baseline_drift_duration"] == pytest.approx(
        found.measure("duration", "baseline_drift")["value"]
    )
    said = capsys.readouterr().out
    assert f"report: s3://{BUCKET}/monitoring/data-quality/2026/03/04/12/" in said
    assert "amount: baseline_drift_check" in said
    assert found.summary["status"] == "violations"
    assert found.summary["worst_name"] == "baseline_drift"
    assert found.summary["worst_value"] > found.summary["worst_threshold"] == 0.1
    (row,) = rows_of(tmp_path / "tables/runs/date=2026-03-04/data_quality-1200-dq-202603041200.jsonl")
    assert list(row) == list(ROW_COLUMNS)
    assert row.items() <= found.summary.items()
    assert row["model_package_arn"].endswith("/m/3")
    measures = rows_of(tmp_path / "tables/measures/date=2026-03-04/data_quality-1200-dq-202603041200.jsonl")
    assert len(measures) == len(found.summary["measures"]) > 10
    assert {one["run_id"] for one in measures} == {row["run_id"]}


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text().splitlines()]


def test_the_files_have_the_documented_form(baseline: Path, tmp_path: Path) -> None:
    for number, drift in enumerate((0.0, 1.0)):
        lines = requests(sample(np.random.default_rng(33), 200, drift=drift))
        found = judge(baseline, tmp_path / str(number), [*lines, "x"])
        for name in ("statistics", "constraints", "constraint_violations"):
            assert formats.problems("data_quality", f"{name}.json", getattr(found, name)) == []
    for name in ("statistics", "constraints"):
        content = json.loads((baseline / f"{name}.json").read_text())
        assert formats.problems("data_quality", f"{name}.json", content) == []


def test_the_sdk_reads_the_files(baseline: Path, tmp_path: Path) -> None:
    from sagemaker.core.model_monitor.monitoring_files import Constraints, Statistics

    found = judge(baseline, tmp_path, requests(sample(np.random.default_rng(0), 100)))
    assert Statistics(found.statistics, "s3://b/statistics.json").body_dict["dataset"]["item_count"] == 100
    assert Constraints(found.constraints, "s3://b/constraints.json").body_dict["features"]


def test_an_hour_without_traffic_says_so(
    s3: Any, baseline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = requests(sample(np.random.default_rng(33), 100, drift=1), start=NOON - timedelta(hours=3))
    put_capture(s3, "AllTraffic/2026/03/04/09/a.jsonl", old)
    assert run(baseline, tmp_path) == 0
    found = report(tmp_path)
    assert (found.summary["status"], found.summary["violations"]) == ("no_data", 0)
    assert metrics() == {"constraint_violations": 0, "records": 0, "unreadable": 0}
    assert (
        f"no records of {ENDPOINT} from 2026-03-04 11:00 to 2026-03-04 12:00 UTC" in capsys.readouterr().out
    )
    assert formats.problems("data_quality", "statistics.json", found.statistics) == []


def test_only_the_window_is_read_and_marked_traffic_is_left_out(
    s3: Any, baseline: Path, tmp_path: Path
) -> None:
    body = "6,2,3000.5,business,yes,c1"
    lines = [
        line(body, NOON - timedelta(minutes=61)),
        line(body, NOON - timedelta(minutes=60)),
        line(body, NOON - timedelta(seconds=1), "application/x-unlisted"),
        line(body, NOON),
        line(body, inferenceId="smoke-test-7"),
        line(body, inferenceId="simulated-7"),
        "not json",
    ]
    put_capture(s3, f"AllTraffic/{HOUR}/a.jsonl", lines)
    assert run(baseline, tmp_path / "1") == 0
    summary = report(tmp_path / "1").summary
    assert (summary["records"], summary["status"]) == (2, "not_judged")
    assert summary["excluded_reasons"] == {"outside_window": 2, "simulated": 1, "smoke_test": 1}
    assert summary["unreadable_reasons"] == {"not_json": 1}
    assert (summary["excluded"], summary["unreadable"]) == (4, 1)
    assert metrics()["unreadable"] == 1
    (kept,) = report(tmp_path / "1").quarantine
    assert kept["object"] == f"s3://{BUCKET}/{CAPTURE}/{ENDPOINT}/AllTraffic/{HOUR}/a.jsonl"
    assert (kept["line"], kept["text"]) == (7, "not json")
    assert run(baseline, tmp_path / "2", INCLUDE_SIMULATED="true") == 0
    assert report(tmp_path / "2").summary["records"] == 3


def test_a_window_ends_before_the_schedule_by_the_delay(s3: Any, baseline: Path, tmp_path: Path) -> None:
    put_capture(s3, "AllTraffic/2026/03/04/09/a.jsonl", [line("6,2,3000.5,business,yes,c1", NOON - HALF * 5)])
    assert run(baseline, tmp_path, DELAY_MINUTES="120", WINDOW_MINUTES="60", MIN_RECORDS="1") == 0
    summary = report(tmp_path).summary
    assert (summary["window_start"], summary["window_end"]) == (
        "2026-03-04T09:00:00Z",
        "2026-03-04T10:00:00Z",
    )
    assert (summary["records"], summary["status"]) == (1, "clean")


HALF = timedelta(minutes=30)


def test_a_window_lists_every_hour_it_touches() -> None:
    window = Window(parse_time("2025-12-31T23:30:00Z"), parse_time("2026-01-01T00:30:00Z"))
    assert list(window.hours()) == ["2025/12/31/23", "2026/01/01/00"]


def test_earlier_runs_are_in_the_report(s3: Any, baseline: Path, tmp_path: Path) -> None:
    for hour, drift in (("10", 0.0), ("11", 1.0)):
        when = parse_time(f"2026-03-04T{hour}:00:00Z")
        columns = sample(np.random.default_rng(40), 200, drift=drift)
        put_capture(s3, f"AllTraffic/2026/03/04/{hour}/a.jsonl", requests(columns, start=when))
        output = tmp_path / hour
        assert run(baseline, output, SCHEDULED_TIME=f"2026-03-04T{int(hour) + 1}:00:00Z") == 0
        for path in (output / "tables").rglob("*.jsonl"):  # as SageMaker uploads the output
            key = f"monitoring/{path.relative_to(output).as_posix()}"
            s3.put_object(Bucket=BUCKET, Key=key, Body=path.read_bytes())
    page = (tmp_path / "11/data-quality/2026/03/04/12/report.html").read_text()
    assert "2026-03-04 11:00" in page or "2026-03-04T11:00" in page


# ------------------------------------------------------------ S3 that does not behave


class Broken(io.BytesIO):
    """A body whose connection breaks after some bytes."""

    def __init__(self, content: bytes, after: int) -> None:
        super().__init__(content)
        self.left = after

    def read(self, size: int = -1) -> bytes:
        if self.left <= 0:
            raise ConnectionResetError("reset")
        piece = super().read(min(size, self.left))
        self.left -= len(piece)
        return piece


def breaking(s3: Any, monkeypatch: pytest.MonkeyPatch, after: int) -> list[dict[str, Any]]:
    """Let every answer of GetObject break after so many bytes; the calls that are made."""
    calls: list[dict[str, Any]] = []
    original = s3.get_object

    def get_object(**wanted: Any) -> dict[str, Any]:
        calls.append(wanted)
        answer = original(**wanted)
        content = answer["Body"].read()
        answer["Body"] = StreamingBody(Broken(content, after), len(content))
        return answer

    monkeypatch.setattr(s3, "get_object", get_object)
    monkeypatch.setattr(capture.time, "sleep", lambda seconds: None)
    return calls


def test_a_broken_connection_goes_on_where_it_broke(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytes(range(256)) * 40
    s3.put_object(Bucket=BUCKET, Key="k", Body=content)
    calls = breaking(s3, monkeypatch, 3000)
    assert b"".join(capture.stream_object(s3, BUCKET, "k")) == content
    assert [call.get("Range") for call in calls] == [None, "bytes=3000-", "bytes=6000-", "bytes=9000-"]
    assert all("IfMatch" in call for call in calls[1:])  # never a mixture of two versions


def test_a_connection_that_never_works_is_a_fault_that_names_the_object(
    s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.put_object(Bucket=BUCKET, Key="k", Body=b"x" * 10)
    calls = breaking(s3, monkeypatch, 0)
    with pytest.raises(ValueError, match=f"s3://{BUCKET}/k cannot be read"):
        list(capture.stream_object(s3, BUCKET, "k"))
    assert len(calls) == capture.TRIES + 1


def test_an_object_that_is_gone_is_counted_and_one_that_is_forbidden_is_a_fault(
    s3: Any,
    baseline: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = requests(sample(np.random.default_rng(31), 60))
    for name in ("a", "b"):
        put_capture(s3, f"AllTraffic/{HOUR}/{name}.jsonl", lines)
    original, code = s3.get_object, "NoSuchKey"

    def get_object(**wanted: Any) -> Any:
        if wanted["Key"].endswith("a.jsonl") and CAPTURE in wanted["Key"]:
            raise ClientError({"Error": {"Code": code, "Message": "no"}}, "GetObject")
        return original(**wanted)

    monkeypatch.setattr(s3, "get_object", get_object)
    clients = {"s3": s3, "cloudwatch": boto3.client("cloudwatch", region_name=REGION)}
    argv = ["run", "--baseline", str(baseline), "--output", str(tmp_path)]
    assert cli.main(argv, job_environment(), clients.__getitem__) == 0
    assert report(tmp_path).summary["unreadable_reasons"] == {"object_gone": 1}
    assert report(tmp_path).summary["records"] == 60
    code = "AccessDenied"
    assert cli.main(argv, job_environment(), clients.__getitem__) == 1
    assert "a.jsonl cannot be read" in capsys.readouterr().err


# ------------------------------------------------------------ settings and baselines


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"ENDPOINT_NAME": ""}, "ENDPOINT_NAME is not set"),
        ({"MONITOR_KIND": "dq"}, "MONITOR_KIND is 'dq'"),
        ({"CAPTURE_URI": "bucket/prefix"}, "s3://bucket/prefix"),
        ({"WINDOW_MINUTES": "soon"}, "WINDOW_MINUTES is 'soon'"),
        ({"WINDOW_MINUTES": "0"}, "at least 1"),
        ({"SCHEDULED_TIME": "noon"}, "'noon' is not a time"),
    ],
)
def test_a_wrong_setting_is_a_fault_with_a_sentence(
    baseline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], env: dict[str, str], message: str
) -> None:
    with mock_aws():
        assert run(baseline, tmp_path, **env) == 1
    assert message in capsys.readouterr().err


def test_an_absent_or_damaged_baseline_is_a_fault_that_names_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, tmp_path / "out") == 1
    assert "no options.json below" in capsys.readouterr().err
    (tmp_path / "options.json").write_text("{")
    assert run(tmp_path, tmp_path / "out") == 1
    assert "options.json cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1\n", "line 2 has 1 values, its header has 2"),
        ("a,b\n1,2\n1,2,3\n", "line 3 has 3 values, its header has 2"),
        ("a,b\n", "no rows"),
        ("", "is empty"),
        ("a,a\n1,2\n", "twice"),
    ],
)
def test_a_broken_data_set_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, message: str
) -> None:
    (tmp_path / "d.csv").write_text(content)
    assert cli.main(["baseline", "--dataset", str(tmp_path / "d.csv"), "--output", str(tmp_path / "o")]) == 1
    assert message in capsys.readouterr().err


def test_a_baseline_says_what_a_run_must_know_and_gives_a_sample(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    data = write_csv(tmp_path / "train.csv", sample(rng, 300))
    held_out = write_csv(tmp_path / "held/out.csv", sample(rng, 150) | {"risk": ["good"] * 150})
    options = {
        "data_quality": {"drift_threshold": 0.2, "min_records": 7},
        "model_quality": {"enabled": False},
    }
    argv = ["baseline", "--dataset", str(data), "--holdout", str(held_out.parent), "--target", "risk"]
    argv += ["--positive-class", "bad", "--options", json.dumps(options), "--output", str(tmp_path / "o")]
    assert cli.main(argv) == 0
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == ["data_quality"]
    folder = tmp_path / "o/data_quality"
    assert json.loads((folder / "options.json").read_text()) == {
        "kind": "data_quality",
        "settings": {"drift_threshold": 0.2, "min_records": 7},
        "features": ["duration", "rate", "amount", "purpose", "phone", "customer"],
        "target": "risk",
        "positive_class": "bad",
        "problem_type": "BinaryClassification",
    }
    constraints = json.loads((folder / "constraints.json").read_text())
    assert constraints["monitoring_config"]["distribution_constraints"]["comparison_threshold"] == 0.2
    rows = (folder / "sample.csv").read_text().splitlines()
    assert len(rows) == 100
    assert rows[0] == ",".join(held_out.read_text().splitlines()[1].split(",")[:-1])
    assert Settings.from_env(job_environment(), baseline=folder).min_records == 7
    assert Settings.from_env(job_environment(MIN_RECORDS="9"), baseline=folder).min_records == 9


# ------------------------------------------------------------ the one file


def test_the_one_file_runs_where_nothing_of_the_repository_is(baseline: Path, tmp_path: Path) -> None:
    (tmp_path / "monitor.pyz").write_bytes(pack())
    capture_folder = tmp_path / "capture"
    capture_folder.mkdir()
    lines = requests(sample(np.random.default_rng(3), 120))
    (capture_folder / "a.jsonl").write_text("\n".join(lines))
    argv = ["run", "--kind", "data_quality", "--baseline", baseline, "--capture", capture_folder]
    done = subprocess.run(
        [
            sys.executable,
            "-I",
            str(tmp_path / "monitor.pyz"),
            *map(str, argv),
            "--output",
            str(tmp_path / "o"),
        ],
        env={"PATH": os.environ["PATH"], "SCHEDULED_TIME": "2026-03-04T12:00:00Z"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "120 records, 0 violations" in done.stdout
    assert pack() == (tmp_path / "monitor.pyz").read_bytes()  # the same sources, the same bytes


def test_names_are_the_ones_that_templates_use() -> None:
    assert [(kind.folder, kind.part, kind.managed) for kind in KINDS.values()] == [
        ("data-quality", "dq", "DataQuality"),
        ("model-quality", "mq", "ModelQuality"),
        ("model-bias", "mb", "ModelBias"),
        ("model-explainability", "me", "ModelExplainability"),
    ]
    assert (
        metric_text("feature_baseline_drift_größe\n" + "x" * 300)
        == ("feature_baseline_drift_gr__e_" + "x" * 300)[:255]
    )


# ------------------------------------------------------------ memory


@pytest.mark.slow
def test_memory_does_not_grow_with_what_is_read(baseline: Path, tmp_path: Path) -> None:
    lines = "".join(f"{one}\n" for one in requests(sample(np.random.default_rng(5), 20_000)))
    peaks = []
    for copies in (4, 16):
        folder = tmp_path / str(copies)
        folder.mkdir()
        with (folder / "a.jsonl").open("w") as stream:
            for _ in range(copies):
                stream.write(lines)
        code = (
            "import resource, sys; from monitor.cli import main; code = main(sys.argv[1:]);"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(code)"
        )
        argv = [
            "run",
            "--kind",
            "data_quality",
            "--baseline",
            baseline,
            "--capture",
            folder,
            "--output",
            tmp_path,
        ]
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, argv)],
            env={
                "PATH": os.environ["PATH"],
                "SCHEDULED_TIME": "2026-03-04T12:00:00Z",
                "PYTHONPATH": str(Path(cli.__file__).parents[1]),
            },
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout.split()[-1]) / 1024)
    assert peaks[1] < peaks[0] + 100, peaks  # MiB, for 120 MiB more to read
