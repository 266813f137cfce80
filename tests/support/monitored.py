"""Traffic like credit applications, its capture lines, and a baseline made by the command line."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import numpy as np

from monitor import cli

PURPOSES = ["car (new)", "car (used)", "radio/television", "furniture", "education", "business", "vacation"]
SHARES = [0.25, 0.11, 0.28, 0.18, 0.08, 0.096, 0.004]
NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)
HOUR = "2026/03/04/11"
BUCKET = "mlops-p-abc"
ENDPOINT = "mlops-p-abc-production"
CAPTURE = "data-capture/production"
TRUTH = "ground-truth/production"
REGION = "us-east-1"

Columns = dict[str, list[str]]


def sample(rng: np.random.Generator, count: int, drift: float = 0.0) -> Columns:
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
        "phone": [
            "" if missing else str(v) for v, missing in zip(phone, rng.random(count) < 0.05, strict=True)
        ],
        "customer": [f"c{rng.integers(10**9)}" for _ in range(count)],
    }


def rows_of(columns: Columns) -> list[tuple[str, ...]]:
    return list(zip(*columns.values(), strict=True))


def line(
    body: str,
    when: datetime = NOON - timedelta(minutes=30),
    content_type: str = "text/csv",
    answer: str | None = "0.3\n",
    answer_type: str = "text/csv; charset=utf-8",
    **meta: Any,
) -> str:
    """A capture line as SageMaker writes it: compact JSON, undeclared content types in base64."""

    def part(text: str, kind: str, mode: str) -> dict[str, Any]:
        encoding = {"text/csv": "CSV", "application/json": "JSON"}.get(kind.partition(";")[0], "BASE64")
        data = base64.b64encode(text.encode()).decode() if encoding == "BASE64" else text
        return {"observedContentType": kind, "mode": mode, "data": data, "encoding": encoding}

    captured = {"endpointInput": part(body, content_type, "INPUT")}
    if answer is not None:
        captured["endpointOutput"] = part(answer, answer_type, "OUTPUT")
    stamp = {"eventId": "0a70500d-3f76", "inferenceTime": when.strftime("%Y-%m-%dT%H:%M:%SZ")} | meta
    record = {"captureData": captured, "eventMetadata": stamp, "eventVersion": "0"}
    return json.dumps(record, separators=(",", ":"))


def requests(columns: Columns, rows: int = 1, start: datetime = NOON - timedelta(minutes=59)) -> list[str]:
    """Capture lines of so many rows a request, spread over the hour."""
    texts = [",".join(row) for row in rows_of(columns)]
    return [
        line("\n".join(texts[i : i + rows]) + "\n", start + timedelta(seconds=i % 3400), eventId=f"e{i:07d}")
        for i in range(0, len(texts), rows)
    ]


def write_csv(path: Path, columns: Columns) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [",".join(columns), *(",".join(row) for row in rows_of(columns))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def make_baseline(folder: Path, columns: Columns, *options: str) -> Path:
    """The data-quality baseline of columns, made by the command line."""
    data = write_csv(folder / "train.csv", columns)
    assert cli.main(["baseline", "--dataset", str(data), "--output", str(folder / "b"), *options]) == 0
    return folder / "b/data_quality"


class Report:
    """What a run has written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("statistics", "constraints", "constraint_violations", "summary"):
            setattr(self, name, json.loads((folder / f"{name}.json").read_text(encoding="utf-8")))

    @property
    def checks(self) -> set[tuple[str, str]]:
        """Which features violate which check."""
        found = self.constraint_violations["violations"]
        return {(one["feature_name"], one["constraint_check_type"]) for one in found}

    @property
    def quarantine(self) -> list[dict[str, Any]]:
        path = self.folder / "quarantine.jsonl"
        return [json.loads(text) for text in path.read_text().splitlines()] if path.is_file() else []

    def measure(self, subject: str, name: str) -> dict[str, Any]:
        (one,) = [m for m in self.summary["measures"] if (m["subject"], m["name"]) == (subject, name)]
        return one


def judge(baseline: Path, folder: Path, lines: Iterable[str] | bytes, **env: str) -> Report:
    """Run the monitor on one captured file, through the command line."""
    capture = folder / "capture" / HOUR
    capture.mkdir(parents=True, exist_ok=True)
    content = lines if isinstance(lines, bytes) else "".join(f"{one}\n" for one in lines).encode()
    (capture / "a.jsonl").write_bytes(content)
    return judge_folder(baseline, folder, **env)


def judge_folder(baseline: Path, folder: Path, **env: str) -> Report:
    argv = ["run", "--kind", "data_quality", "--baseline", str(baseline), "--output", str(folder / "out")]
    argv += ["--capture", str(folder / "capture")]
    assert cli.main(argv, {"SCHEDULED_TIME": "2026-03-04T12:00:00Z"} | env) == 0
    return Report(folder / "out/data-quality/2026/03/04/12")


def put_capture(s3: Any, key: str, lines: Iterable[str]) -> None:
    """An object of captured traffic."""
    body = "".join(f"{one}\n" for one in lines).encode()
    s3.put_object(Bucket=BUCKET, Key=f"{CAPTURE}/{ENDPOINT}/{key}", Body=body)


def job_environment(**more: str) -> dict[str, str]:
    """The environment of a scheduled job."""
    return {
        "MONITOR_KIND": "data_quality",
        "ENDPOINT_NAME": ENDPOINT,
        "SCHEDULED_TIME": "2026-03-04T12:00:00Z",
        "WINDOW_MINUTES": "60",
        "CAPTURE_URI": f"s3://{BUCKET}/{CAPTURE}",
        "GROUND_TRUTH_URI": f"s3://{BUCKET}/{TRUTH}",
        "REPORTS_URI": f"s3://{BUCKET}/monitoring",
        "AWS_REGION": REGION,
    } | more


def job_config(folder: Path, hosts: int, number: int) -> Path:
    """/opt/ml/config of one of several instances."""
    config = folder / f"config-{hosts}-{number}"
    config.mkdir(parents=True)
    names = [f"algo-{n + 1}" for n in range(hosts)]
    content = {"current_host": names[number], "hosts": names, "network_interface_name": "eth0"}
    (config / "resourceconfig.json").write_text(json.dumps(content))
    (config / "processingjobconfig.json").write_text(json.dumps({"ProcessingJobName": "mlops-p-abc-dq-1"}))
    return config


def run_on(hosts: int, flags: list[str], folder: Path, environment: dict[str, str]) -> list[int]:
    """Run the command on all instances of a job at once; the exit code of each."""
    codes = [-1] * hosts

    def one(number: int) -> None:
        config = {"MONITOR_CONFIG_DIR": str(job_config(folder, hosts, number))}
        argv = ["run", *flags, "--output", str(folder / f"out-{number}")]
        codes[number] = cli.main(argv, environment | config)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(hosts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return codes


def close(one: Any, other: Any) -> bool:
    """The same JSON; floating-point numbers to 1e-12."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(close(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(close(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, float) and isinstance(other, float):
        return one == other or abs(one - other) <= 1e-12 * max(abs(one), abs(other))
    return type(one) is type(other) and one == other


def metrics(kind: str = "data_quality") -> dict[str, float]:
    """The metrics that runs of a kind have published."""
    cloudwatch = boto3.client("cloudwatch", region_name=REGION)
    now = datetime.now(UTC)
    wanted = [{"Name": "Endpoint", "Value": ENDPOINT}, {"Name": "MonitorType", "Value": kind}]
    return {
        item["MetricName"]: cloudwatch.get_metric_statistics(
            Namespace="MLOps/Monitoring",
            MetricName=item["MetricName"],
            Dimensions=item["Dimensions"],
            StartTime=now - timedelta(hours=1),
            EndTime=now + timedelta(hours=1),
            Period=7200,
            Statistics=["Maximum"],
        )["Datapoints"][0]["Maximum"]
        for item in cloudwatch.list_metrics(Namespace="MLOps/Monitoring")["Metrics"]
        if sorted(item["Dimensions"], key=str) == sorted(wanted, key=str)
    }
