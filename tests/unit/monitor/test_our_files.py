"""The files that our own engine writes have the documented form, in a clean run and in a drifted one."""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from moto import mock_aws

import compose
from monitor import KINDS, formats, shards
from monitored import close, run_on

ROOT = Path(__file__).resolve().parents[3]
DOCUMENTED = Path(__file__).with_name("documented")
ENDPOINT = "mlops-p-abc-production"
NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)
HOUR = "2026/03/04/11"
FILES = {
    "data_quality": ("statistics.json", "constraints.json", "constraint_violations.json"),
    "model_quality": ("statistics.json", "constraints.json", "constraint_violations.json"),
    "model_bias": ("statistics.json", "constraints.json", "constraint_violations.json", "analysis.json"),
    "model_explainability": (
        "statistics.json",
        "constraints.json",
        "constraint_violations.json",
        "analysis.json",
    ),
}
Folders = dict[str, Path]


def python(*arguments: object, cwd: Path, **variables: str) -> str:
    """Run Python in a process of its own, without anybody's AWS settings."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "mlops-cicd"), **variables}
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A composed project with a trained model."""
    folder = tmp_path_factory.mktemp("files") / "project"
    compose.write_folder(compose.compose("sklearn", "realtime"), folder)
    data = folder / "build/data"
    python("src/preprocess.py", "--input", "data/german_credit.csv", "--output", data, cwd=folder)
    train = ("--train", data / "train", "--validation", data / "validation")
    python("src/train.py", *train, "--model-dir", folder / "build/model", cwd=folder)
    return folder


@pytest.fixture(scope="module")
def baselines(project: Path) -> Path:
    """The baseline of all four kinds."""
    config = yaml.safe_load((project / "mlops.yml").read_text(encoding="utf-8"))
    options = config["monitoring"] | {"model_explainability": {"ndcg_threshold": 0.99, "sample_size": 60}}
    data, target = project / "build/data", config["data"]["target"]
    python(
        *("-m", "monitor", "baseline", "--options", json.dumps(options), "--output", project / "baseline"),
        *("--dataset", data / "baseline/baseline.csv", "--train", data / "train"),
        *("--holdout", data / "validation", "--holdout", data / "test", "--model", project / "build/model"),
        *("--target", target, "--positive-class", config["data"]["positive_class"]),
        cwd=project,
        PROGRAM_DIR=str(project / "src"),
    )
    return project / "baseline"


def traffic(project: Path, folder: Path, drifted: bool) -> None:
    """Captured requests of ten rows with their answers, and the truth of each row."""
    rng = random.Random(5)
    with (project / "build/data/test/test.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file)) * 5
    capture = folder / "capture" / ENDPOINT / "AllTraffic" / HOUR
    truths = folder / "truth" / HOUR
    capture.mkdir(parents=True)
    truths.mkdir(parents=True)
    answers: list[dict[str, Any]] = []
    lines: list[dict[str, Any]] = []
    for number in range(0, len(rows), 10):
        part = [dict(row) for row in rows[number : number + 10]]
        truth = [row.pop("credit_risk") for row in part]
        scores = [min(0.99, max(0.01, rng.gauss(0.75 if t == "bad" else 0.25, 0.2))) for t in truth]
        if drifted:
            scores = [0.01 + 0.98 * rng.random() * (int(row["age"]) > 25) for row in part]
            for row in part:
                row |= {"duration_months": str(int(row["duration_months"]) * 100), "purpose": "space_travel"}
        moment = NOON - timedelta(minutes=50) + timedelta(seconds=number)
        lines.append(
            {
                "captureData": {
                    "endpointInput": {
                        "observedContentType": "text/csv",
                        "mode": "INPUT",
                        "data": "\n".join(",".join(row.values()) for row in part),
                        "encoding": "CSV",
                    },
                    "endpointOutput": {
                        "observedContentType": "text/csv; charset=utf-8",
                        "mode": "OUTPUT",
                        "data": "\n".join(f"{score:.6f}" for score in scores),
                        "encoding": "CSV",
                    },
                },
                "eventMetadata": {
                    "eventId": f"e{number}",
                    "inferenceId": f"order-{number}",
                    "inferenceTime": f"{moment:%Y-%m-%dT%H:%M:%SZ}",
                },
                "eventVersion": "0",
            }
        )
        answers.append(
            {
                "groundTruthData": {"data": "\n".join(truth), "encoding": "CSV"},
                "eventMetadata": {"eventId": f"order-{number}"},
                "eventVersion": "0",
            }
        )
    assert [formats.problems("capture", "", line) for line in lines] == [[]] * len(lines)
    assert [formats.problems("ground_truth", "", line) for line in answers] == [[]] * len(answers)
    (capture / "one.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\nnot JSON\n", encoding="utf-8")
    (truths / "one.jsonl").write_text("\n".join(map(json.dumps, answers)) + "\n", encoding="utf-8")


@pytest.fixture(scope="module", params=["clean", "drifted"])
def reports(request: pytest.FixtureRequest, project: Path, baselines: Path) -> Folders:
    """The report of each kind of one hour."""
    folder = project.parent / request.param
    traffic(project, folder, request.param == "drifted")
    for kind in KINDS:
        python(
            *("-m", "monitor", "run", "--kind", kind, "--baseline", baselines / kind),
            *("--capture", folder / "capture", "--ground-truth", folder / "truth"),
            *("--model", project / "build/model", "--output", folder / "reports"),
            cwd=project,
            PROGRAM_DIR=str(project / "src"),
            SCHEDULED_TIME=NOON.isoformat(),
        )
    return {kind: folder / "reports" / KINDS[kind].folder / "2026/03/04/12" for kind in KINDS}


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_baseline_has_the_documented_form(baselines: Path, kind: str):
    for file in FILES[kind]:
        if file != "constraint_violations.json":
            assert formats.problems(kind, file, read(baselines / kind / file)) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_report_has_the_documented_form(reports: Folders, kind: str):
    for file in FILES[kind]:
        assert formats.problems(kind, file, read(reports[kind] / file)) == []
    summary = read(reports[kind] / "summary.json")
    violations = read(reports[kind] / "constraint_violations.json")["violations"]
    drifted = "drifted" in reports[kind].parts
    assert summary["status"] == ("violations" if drifted else "clean"), summary["notes"]
    assert bool(violations) is drifted and summary["records"] == 1000
    page = (reports[kind] / "report.html").read_text(encoding="utf-8")
    assert ("Drift found" in page) is drifted and "Baseline and live" in page


@pytest.mark.slow
def test_the_members_are_those_of_the_documented_examples(reports: Folders):
    ours = read(reports["model_quality"] / "statistics.json")["binary_classification_metrics"]
    example = read(DOCUMENTED / "model_quality/binary/statistics.json")["binary_classification_metrics"]
    assert set(ours) == set(example)
    ours = read(reports["data_quality"] / "statistics.json")
    example = read(DOCUMENTED / "data_quality/schema/statistics.json")
    assert set(ours) >= set(example)
    for known in example["features"]:
        block = "string_statistics" if "string_statistics" in known else "numerical_statistics"
        features = [feature for feature in ours["features"] if block in feature]
        assert features
        for feature in features:
            assert set(feature) == set(known) and set(feature[block]) == set(known[block])
    ours = read(reports["data_quality"] / "constraints.json")
    example = read(DOCUMENTED / "data_quality/schema/constraints.json")
    assert set(ours) == set(example)
    assert set(ours["monitoring_config"]) == set(example["monitoring_config"])
    for name in ("model_bias", "model_explainability"):
        ours, example = (read(folder / "analysis.json") for folder in (reports[name], DOCUMENTED / name))
        assert set(ours) >= set(example)


@pytest.fixture
def bucket() -> Iterator[Any]:
    with mock_aws():
        session = boto3.Session(region_name="us-east-1")
        session.client("s3").create_bucket(Bucket="reports")
        yield session


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_sdk_loads_them(reports: Folders, bucket: boto3.Session, kind: str):
    from sagemaker.core.helper.session_helper import Session
    from sagemaker.core.model_monitor.monitoring_files import Constraints, ConstraintViolations, Statistics

    session = Session(boto_session=bucket, default_bucket="reports")
    for loader, file in (
        (Statistics, "statistics.json"),
        (Constraints, "constraints.json"),
        (ConstraintViolations, "constraint_violations.json"),
    ):
        bucket.client("s3").upload_file(str(reports[kind] / file), "reports", file)
        loaded = loader.from_s3_uri(f"s3://reports/{file}", sagemaker_session=session)
        assert loaded.body_dict == read(reports[kind] / file)
    if kind == "data_quality":  # what the SDK offers to change
        constraints = Constraints.from_s3_uri("s3://reports/constraints.json", sagemaker_session=session)
        constraints.set_monitoring(enable_monitoring=False)
        constraints.set_monitoring(enable_monitoring=False, feature_name="age")
        assert formats.problems(kind, "constraints.json", constraints.body_dict) == []


@pytest.mark.slow
def test_the_notebook_reads_them_with_and_without_the_summary(
    reports: Folders, project: Path, bucket: boto3.Session
):
    """What only the documented files tell is the same verdict, subject by subject."""
    specification = spec_from_file_location("project_monitoring", project / "src/monitoring.py")
    monitoring = module_from_spec(specification)
    specification.loader.exec_module(monitoring)
    s3 = bucket.client("s3")

    def table() -> Any:
        found = monitoring.find_reports(s3, "reports", until=NOON)
        runs = monitoring.read_reports(s3, "reports", found)
        assert len(runs) == len(KINDS)
        drifting = monitoring.drifting(runs)
        return monitoring.verdicts(runs)[["verdict", "violations"]], set(
            drifting["kind"] + drifting["subject"]
        )

    for kind, folder in reports.items():
        for path in folder.iterdir():
            s3.upload_file(str(path), "reports", f"monitoring/{KINDS[kind].folder}/2026/03/04/12/{path.name}")
    verdicts, subjects = table()
    for kind in KINDS:
        s3.delete_object(Bucket="reports", Key=f"monitoring/{KINDS[kind].folder}/2026/03/04/12/summary.json")
    plain, plain_subjects = table()
    assert plain.equals(verdicts)
    # Clarify names the label of a ranking, our measures the model
    assert {s for s in plain_subjects if "explain" not in s} == {s for s in subjects if "explain" not in s}
    assert len(plain_subjects) == len(subjects)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_three_instances_find_what_one_finds(
    kind: str, baselines: Path, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Reports of all kinds, from S3; numbers may differ where floating-point sums have another order."""
    monkeypatch.setenv("PROGRAM_DIR", str(project / "src"))
    monkeypatch.setattr(shards, "POLL_SECONDS", 0.05)
    traffic(project, tmp_path, drifted=True)
    found = {}
    with mock_aws():
        s3 = boto3.client("s3", region_name="us-east-1")
        s3.create_bucket(Bucket="reports")
        (one,) = (tmp_path / "capture").rglob("*.jsonl")
        lines = one.read_text().splitlines()
        for number in range(0, len(lines), 7):
            key = f"capture/{ENDPOINT}/AllTraffic/{HOUR}/{number:03}.jsonl"
            s3.put_object(Bucket="reports", Key=key, Body="\n".join(lines[number : number + 7]) + "\n")
        (one,) = (tmp_path / "truth").rglob("*.jsonl")
        s3.put_object(Bucket="reports", Key=f"truth/{HOUR}/one.jsonl", Body=one.read_bytes())
        for hosts in (1, 3):
            flags = ["--baseline", baselines / kind, "--model", project / "build/model"]
            environment = {
                "MONITOR_KIND": kind,
                "ENDPOINT_NAME": ENDPOINT,
                "SCHEDULED_TIME": NOON.isoformat(),
                "CAPTURE_URI": "s3://reports/capture",
                "GROUND_TRUTH_URI": "s3://reports/truth",
                "REPORTS_URI": "s3://reports/monitoring",
                "AWS_REGION": "us-east-1",
            }
            run_on(hosts, [str(flag) for flag in flags], tmp_path / str(hosts), environment)
            folder = tmp_path / str(hosts) / "out-0" / KINDS[kind].folder / "2026/03/04/12"
            found[hosts] = {name: read(folder / name) for name in (*FILES[kind], "summary.json")}
    assert found[1]["summary.json"]["records"] == 1000
    assert found[1]["summary.json"]["violations"] > 0
    for name, content in found[1].items():
        assert close(content, found[3][name]), name
