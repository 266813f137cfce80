"""The data-quality monitor: quiet on clean traffic, loud on drift, true to the documented file formats."""

from __future__ import annotations

import base64
import importlib.util
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import boto3
import numpy as np
import pytest
from moto import mock_aws

ROOT = Path(__file__).parents[3]


def load_monitor() -> ModuleType:
    """The monitor is one file outside any package, as the job runs it."""
    spec = importlib.util.spec_from_file_location("monitor", ROOT / "mlops-cicd/monitor/monitor.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["monitor"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


monitor = load_monitor()

PURPOSES = ["car (new)", "car (used)", "radio/television", "furniture", "education", "business", "vacation"]
SHARES = [0.25, 0.11, 0.28, 0.18, 0.08, 0.096, 0.004]
NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)
BUCKET = "mlops-p-abc"
ENDPOINT = "mlops-p-abc-production"
PREFIX = "data-capture/production"


def sample(rng: np.random.Generator, count: int, drift: float = 0.0) -> dict[str, list[Any]]:
    """Columns like credit applications: few-valued integers, skewed numbers, rare categories, gaps."""
    shares = np.array(SHARES)
    if drift:
        shares[2], shares[5] = shares[2] - 0.25 * drift, shares[5] + 0.25 * drift
    income = rng.lognormal(8 + drift, 0.7, count).round(2)
    phone = rng.choice(["yes", "none"], count, p=[0.4, 0.6])
    return {
        "duration": [str(v) for v in rng.choice([6, 12, 18, 24, 36, 48], count) + round(12 * drift)],
        "rate": [str(v) for v in rng.integers(1, 5, count)],
        "amount": [str(v) for v in income],
        "purpose": [str(v) for v in rng.choice(PURPOSES, count, p=shares)],
        "phone": ["" if missing else v for v, missing in zip(phone, rng.random(count) < 0.05, strict=True)],
        "customer": [f"c{rng.integers(10**9)}" for _ in range(count)],
    }


def judge(baseline: dict[str, list[Any]], live: dict[str, list[Any]]) -> Any:
    """Compare two samples as a run does."""
    statistics = monitor.dataset_statistics(baseline)
    constraints = monitor.suggest_constraints(statistics, 0.1)
    types = {feature["name"]: feature["inferred_type"] for feature in constraints["features"]}
    return monitor.compare(monitor.dataset_statistics(live, types), live, statistics, constraints, 50)


def checks(result: Any) -> set[tuple[str, str]]:
    return {(v["feature_name"], v["constraint_check_type"]) for v in result.violations}


# ------------------------------------------------------------ statistics


def test_clean_traffic_raises_no_false_alarm() -> None:
    rng = np.random.default_rng(7)
    alarms = 0
    for _ in range(60):
        baseline = sample(rng, int(rng.integers(300, 1500)))
        alarms += bool(judge(baseline, sample(rng, int(rng.integers(60, 600)))).violations)
    assert alarms == 0


def test_rows_resampled_from_the_baseline_itself_raise_no_alarm() -> None:
    rng = np.random.default_rng(11)
    baseline = sample(rng, 800)
    for _ in range(40):
        rows = rng.integers(0, 800, 250)
        live = {name: [values[i] for i in rows] for name, values in baseline.items()}
        assert judge(baseline, live).violations == []


@pytest.mark.parametrize("seed", range(8))
def test_drifted_traffic_is_found_in_every_drifted_feature(seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = checks(judge(sample(rng, 800), sample(rng, 300, drift=1.0)))
    assert {("duration", "baseline_drift_check"), ("amount", "baseline_drift_check")} <= found
    assert ("purpose", "baseline_drift_check") in found
    assert ("rate", "baseline_drift_check") not in found


def test_too_few_records_are_not_judged_and_say_so() -> None:
    rng = np.random.default_rng(3)
    result = judge(sample(rng, 800), sample(rng, 20, drift=1.0))
    assert "baseline_drift_check" not in {check for _, check in checks(result)}
    assert "20 records" in result.notes[0]
    assert "50 are needed" in result.notes[0]


def test_a_small_but_certain_difference_below_the_threshold_is_tolerated() -> None:
    rng = np.random.default_rng(5)
    baseline = {"x": list(rng.normal(0, 1, 20000))}
    live = {"x": list(rng.normal(0.1, 1, 20000))}  # distance about 0.04, p-value about 1e-14
    result = judge(baseline, live)
    assert result.drift["x"]["p_value"] < 1e-6
    assert result.violations == []


def test_text_in_a_number_column_is_a_type_violation() -> None:
    rng = np.random.default_rng(1)
    live = sample(rng, 200)
    live["rate"] = ["two" if i % 3 == 0 else v for i, v in enumerate(live["rate"])]
    (violation,) = [
        v for v in judge(sample(rng, 800), live).violations if v["constraint_check_type"] == "data_type_check"
    ]
    assert violation["feature_name"] == "rate"
    assert "'two'" in violation["description"]
    assert "Integral" in violation["description"]


def test_whole_floats_are_integers() -> None:
    assert monitor.conforms("24.0", "Integral")
    assert monitor.conforms(24.0, "Integral")
    assert not monitor.conforms("24.5", "Integral")


def test_more_missing_values_than_before_are_found() -> None:
    rng = np.random.default_rng(2)
    live = sample(rng, 300)
    live["phone"] = ["" if i % 3 == 0 else v for i, v in enumerate(live["phone"])]
    live["duration"] = ["" if i % 10 == 0 else v for i, v in enumerate(live["duration"])]
    found = checks(judge(sample(rng, 800), live))
    assert {("phone", "completeness_check"), ("duration", "completeness_check")} <= found


def test_none_is_a_category_not_a_missing_value() -> None:
    assert not monitor.is_missing("none")
    assert monitor.is_missing("NaN")
    assert monitor.is_missing(None)
    assert monitor.is_missing(float("nan"))


def test_new_categories_are_found_and_one_rare_one_is_not() -> None:
    rng = np.random.default_rng(4)
    baseline, live = sample(rng, 800), sample(rng, 300)
    live["purpose"][0] = "boat"
    assert judge(baseline, live).violations == []
    live["purpose"][:40] = ["boat"] * 40
    (violation,) = [
        v
        for v in judge(baseline, live).violations
        if v["constraint_check_type"] == "categorical_values_check"
    ]
    assert "'boat'" in violation["description"]


def test_identifiers_have_no_distribution() -> None:
    rng = np.random.default_rng(6)
    result = judge(sample(rng, 800), sample(rng, 300))
    assert "customer" not in result.drift
    assert {"duration", "rate", "amount", "purpose", "phone"} == set(result.drift)


@pytest.mark.parametrize("count", [1, 10, 2048, 2049, 5000, 100_003])
def test_a_sketch_keeps_the_count_and_the_distribution(count: int) -> None:
    values = np.random.default_rng(count).normal(size=count)
    kept, weights = monitor.unsketch(monitor.sketch(values))
    assert weights.sum() == count
    assert len(kept) <= 2 * monitor.SKETCH_SIZE
    assert monitor.numeric_distance((kept, weights), values) <= (0 if count <= 2048 else 2 / 2048)


def test_the_distance_is_scipys_kolmogorov_smirnov_statistic() -> None:
    from scipy.stats import ks_2samp

    rng = np.random.default_rng(9)
    a, b = rng.integers(0, 9, 700).astype(float), rng.integers(1, 9, 210).astype(float)
    oracle = ks_2samp(a, b, method="asymp")
    distance = monitor.numeric_distance((np.sort(a), np.ones(700)), b)
    assert distance == pytest.approx(oracle.statistic)
    assert monitor.numeric_p_value(distance, 700, 210) == pytest.approx(oracle.pvalue, rel=0.05)


def test_the_share_test_is_near_fishers() -> None:
    from scipy.stats import fisher_exact

    ours = monitor.share_p_value(40, 800, 30, 300)
    assert ours == pytest.approx(fisher_exact([[40, 760], [30, 270]]).pvalue, rel=0.6)
    assert monitor.share_p_value(0, 800, 0, 300) == 1.0


def test_the_sdk_reads_the_files(tmp_path: Path) -> None:
    from sagemaker.core.model_monitor.monitoring_files import Constraints, Statistics

    statistics = monitor.dataset_statistics(sample(np.random.default_rng(0), 100))
    constraints = monitor.suggest_constraints(statistics, 0.1)
    assert Statistics(statistics, "s3://b/statistics.json").body_dict["dataset"]["item_count"] == 100
    assert Constraints(constraints, "s3://b/constraints.json").body_dict["features"]


# ------------------------------------------------------------ capture and columns


def line(body: str, when: datetime, content_type: str = "text/csv", **extra: Any) -> str:
    encoding = {"text/csv": "CSV", "application/json": "JSON"}.get(content_type, "BASE64")
    data = base64.b64encode(body.encode()).decode() if encoding == "BASE64" else body
    return json.dumps(
        {
            "captureData": {
                "endpointInput": {
                    "observedContentType": content_type,
                    "mode": "INPUT",
                    "data": data,
                    "encoding": encoding,
                },
                "endpointOutput": {
                    "observedContentType": "text/csv",
                    "mode": "OUTPUT",
                    "data": "0.3",
                    "encoding": "CSV",
                },
            },
            "eventMetadata": {"eventId": "e", "inferenceTime": when.strftime("%Y-%m-%dT%H:%M:%SZ")} | extra,
            "eventVersion": "0",
        }
    )


@pytest.mark.parametrize(
    ("content_type", "body", "expected"),
    [
        ("text/csv", "1,a\n2,b\n", {"x": ["1", "2"], "y": ["a", "b"]}),
        ("text/csv", "x,y\n1,a", {"x": ["1"], "y": ["a"]}),
        ("text/csv", '1,"a, b"', {"x": ["1"], "y": ["a, b"]}),
        ("application/json", '{"x": 1, "y": "a"}', {"x": [1], "y": ["a"]}),
        ("application/json", '[{"x": 1, "y": "a"}, {"y": "b", "x": 2}]', {"x": [1, 2], "y": ["a", "b"]}),
        ("application/json", "[[1, null]]", {"x": [1], "y": [None]}),
        ("application/json", '[1, "a"]', {"x": [1], "y": ["a"]}),
        ("application/json", '{"instances": [[1, "a"]]}', {"x": [1], "y": ["a"]}),
        ("application/json", '{"x": [1, 2], "y": ["a", "b"]}', {"x": [1, 2], "y": ["a", "b"]}),
        ("application/jsonlines", '{"x": 1, "y": "a"}\n{"x": 2, "y": "b"}\n', {"x": [1, 2], "y": ["a", "b"]}),
        ("", '{"x": 1, "y": "a"}', {"x": [1], "y": ["a"]}),
    ],
)
def test_requests_become_columns(content_type: str, body: str, expected: dict[str, list[Any]]) -> None:
    traffic = monitor.to_columns([(content_type, body)], ["x", "y"])
    assert traffic.columns == expected
    assert (traffic.extra, traffic.absent, traffic.unreadable) == ([], [], 0)


def test_missing_and_extra_columns_are_named() -> None:
    traffic = monitor.to_columns([("text/csv", "1\n2\n")], ["x", "y"])
    assert traffic.absent == ["y"]
    traffic = monitor.to_columns([("text/csv", "1,a,9\n2,b,9\n")], ["x", "y"])
    assert traffic.extra == ["column_3"]
    traffic = monitor.to_columns([("application/json", '[{"x": 1, "z": 2}]')], ["x", "y"])
    assert (traffic.absent, traffic.extra) == (["y"], ["z"])


def test_one_bad_request_among_many_is_no_schema_violation() -> None:
    traffic = monitor.to_columns(
        [("text/csv", "1,a\n" * 50), ("text/csv", "1,a,3"), ("application/json", "{")], ["x", "y"]
    )
    assert (traffic.records, traffic.extra, traffic.absent, traffic.unreadable) == (51, [], [], 1)


def test_only_the_window_is_read_and_smoke_tests_are_left_out() -> None:
    window = monitor.Window.before(NOON, 60)
    capture = monitor.read_capture(
        [
            line("1,a", NOON - timedelta(minutes=61)),
            line("2,a", NOON - timedelta(minutes=60)),
            line("3,a", NOON - timedelta(seconds=1), "application/x-unlisted"),
            line("4,a", NOON),
            line("5,a", NOON - timedelta(minutes=5), inferenceId="smoke-test-7"),
            "not json",
            "",
        ],
        window,
    )
    assert [text for _, text in capture.payloads] == ["2,a", "3,a"]
    assert (capture.smoke_tests, capture.unreadable) == (1, 1)
    assert capture.by_hour == {"2026-03-04T11:00Z": 2}


def test_a_window_lists_every_hour_it_touches() -> None:
    window = monitor.Window.before(datetime(2026, 1, 1, 0, 30, tzinfo=UTC), 60)
    assert list(window.hours()) == ["2025/12/31/23", "2026/01/01/00"]


# ------------------------------------------------------------ commands


def write_csv(path: Path, columns: dict[str, list[Any]]) -> None:
    rows = zip(*columns.values(), strict=True)
    path.write_text("\n".join([",".join(columns), *(",".join(map(str, row)) for row in rows)]) + "\n")


@pytest.fixture
def baseline(tmp_path: Path) -> Path:
    """The baseline that `monitor.py baseline` makes of 800 rows."""
    columns = sample(np.random.default_rng(21), 800)
    write_csv(tmp_path / "train.csv", columns | {"label": ["1"] * 800})
    folder = tmp_path / "baseline"
    argv = ["baseline", "--dataset", str(tmp_path / "train.csv"), "--output", str(folder), "--drop", "label"]
    assert monitor.main(argv) == 0
    return folder


def run(baseline: Path, output: Path, lines: list[str], **env: str) -> tuple[int, dict[str, float]]:
    """Run the monitor against S3 and CloudWatch of moto; the exit code and the metrics."""
    with mock_aws():
        s3 = boto3.client("s3", region_name="us-east-1")
        s3.create_bucket(Bucket=BUCKET)
        for number, text in enumerate(lines):
            when = (
                json.loads(text)["eventMetadata"]["inferenceTime"]
                if text.startswith("{")
                else "2026-03-04T11:00"
            )
            hour = when[:13].replace("-", "/").replace("T", "/")
            s3.put_object(
                Bucket=BUCKET, Key=f"{PREFIX}/{ENDPOINT}/AllTraffic/{hour}/{number}.jsonl", Body=text.encode()
            )
        cloudwatch = boto3.client("cloudwatch", region_name="us-east-1")
        environment = {
            "ENDPOINT_NAME": ENDPOINT,
            "SCHEDULED_TIME": "2026-03-04T12:00:00Z",
            "WINDOW_MINUTES": "60",
            "CAPTURE_PREFIX": f"s3://{BUCKET}/{PREFIX}",
            "REPORTS_URI": f"s3://{BUCKET}/monitoring/data-quality",
        } | env
        code = monitor.main(
            ["run", "--baseline", str(baseline), "--output", str(output)],
            environment,
            {"s3": s3, "cloudwatch": cloudwatch}.__getitem__,
        )
        metrics = {
            item["MetricName"]: cloudwatch.get_metric_statistics(
                Namespace="MLOps/Monitoring",
                MetricName=item["MetricName"],
                Dimensions=item["Dimensions"],
                StartTime=datetime.now(UTC) - timedelta(hours=1),
                EndTime=datetime.now(UTC) + timedelta(hours=1),
                Period=7200,
                Statistics=["Maximum"],
            )["Datapoints"][0]["Maximum"]
            for item in cloudwatch.list_metrics(Namespace="MLOps/Monitoring")["Metrics"]
            if {"Name": "Endpoint", "Value": ENDPOINT} in item["Dimensions"]
        }
        return code, metrics


def requests(columns: dict[str, list[Any]], start: datetime = NOON - timedelta(minutes=59)) -> list[str]:
    rows = list(zip(*columns.values(), strict=True))
    return [
        line("\n".join(",".join(row) for row in rows[i : i + 10]), start + timedelta(seconds=i // 10))
        for i in range(0, len(rows), 10)
    ]


def test_a_clean_hour_gives_a_report_without_violations(baseline: Path, tmp_path: Path) -> None:
    code, metrics = run(baseline, tmp_path / "out", requests(sample(np.random.default_rng(31), 300)))
    report = tmp_path / "out/2026/03/04/12"
    assert code == 0
    assert json.loads((report / "constraint_violations.json").read_text())["violations"] == []
    assert json.loads((report / "statistics.json").read_text())["dataset"]["item_count"] == 300
    assert json.loads((report / "constraints.json").read_text())["monitoring_config"]
    assert metrics["constraint_violations"] == 0
    assert metrics["records"] == 300
    assert 0 < metrics["feature_baseline_drift_amount"] < 0.2


def test_a_drifted_hour_gives_violations_metrics_and_exit_code_0(
    baseline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, metrics = run(baseline, tmp_path / "out", requests(sample(np.random.default_rng(32), 300, drift=1)))
    violations = json.loads((tmp_path / "out/2026/03/04/12/constraint_violations.json").read_text())[
        "violations"
    ]
    drift = json.loads((tmp_path / "out/2026/03/04/12/drift.json").read_text())
    assert code == 0
    assert {"duration", "amount", "purpose"} <= {violation["feature_name"] for violation in violations}
    assert metrics["constraint_violations"] == len(violations)
    assert metrics["feature_baseline_drift_duration"] == pytest.approx(
        drift["features"]["duration"]["distance"]
    )
    assert "report: s3://mlops-p-abc/monitoring/data-quality/2026/03/04/12/" in capsys.readouterr().out


def test_an_hour_without_traffic_says_so(
    baseline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = requests(sample(np.random.default_rng(33), 100, drift=1), NOON - timedelta(hours=3))
    code, metrics = run(baseline, tmp_path / "out", old)
    assert code == 0
    assert metrics == {"constraint_violations": 0, "records": 0}
    assert (
        "no records of mlops-p-abc-production from 2026-03-04 11:00 to 2026-03-04 12:00 UTC"
        in capsys.readouterr().out
    )


def test_a_mounted_capture_folder_is_read_when_no_prefix_is_given(baseline: Path, tmp_path: Path) -> None:
    (tmp_path / "capture").mkdir()
    (tmp_path / "capture/a.jsonl").write_text("\n".join(requests(sample(np.random.default_rng(34), 200))))
    with mock_aws():
        client = boto3.client("cloudwatch", region_name="us-east-1")
        code = monitor.main(
            [
                "run",
                "--baseline",
                str(baseline),
                "--capture",
                str(tmp_path / "capture"),
                "--output",
                str(tmp_path / "o"),
            ],
            {"ENDPOINT_NAME": ENDPOINT, "SCHEDULED_TIME": "2026-03-04T12:00:00+00:00"},
            lambda name: client,
        )
    assert code == 0
    assert (
        json.loads((tmp_path / "o/2026/03/04/12/statistics.json").read_text())["dataset"]["item_count"] == 200
    )


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"ENDPOINT_NAME": ""}, "ENDPOINT_NAME is not set"),
        ({"CAPTURE_PREFIX": "bucket/prefix"}, "s3://bucket/prefix"),
    ],
)
def test_a_wrong_setting_is_a_fault_with_a_sentence(
    baseline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], env: dict[str, str], message: str
) -> None:
    code, _ = run(baseline, tmp_path / "out", [], **env)
    assert code == 1
    assert message in capsys.readouterr().err


def test_an_absent_baseline_is_a_fault_that_names_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _ = run(tmp_path, tmp_path / "out", [])
    assert code == 1
    assert "no statistics.json below" in capsys.readouterr().err


@pytest.mark.parametrize(("content", "message"), [("a,b\n1\n", "line 2 has 1 values"), ("a,b\n", "no rows")])
def test_a_broken_data_set_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, message: str
) -> None:
    (tmp_path / "d.csv").write_text(content)
    assert (
        monitor.main(["baseline", "--dataset", str(tmp_path / "d.csv"), "--output", str(tmp_path / "o")]) == 1
    )
    assert message in capsys.readouterr().err
