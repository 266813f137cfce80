"""A run on several instances gives what one gives, and fails clearly when an instance is lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import polars as pl
import pytest
from moto import mock_aws

from monitor import cli, shards
from monitor.data_quality import Feature
from monitor.lines import count_texts
from monitor.shards import Hosts, Meeting
from monitor.statistics import MOST_STRINGS, SKETCH_SIZE, sum_counts
from monitored import (
    BUCKET,
    HOUR,
    REGION,
    Report,
    close,
    job_config,
    job_environment,
    metrics,
    put_capture,
    requests,
    run_on,
    sample,
)

PARTS = "monitoring/parts/mlops-p-abc-dq-1/"


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(shards, "POLL_SECONDS", 0.05)
    with mock_aws():
        client = boto3.client("s3", region_name=REGION)
        client.create_bucket(Bucket=BUCKET)
        yield client


def on(hosts: int, baseline: Path, folder: Path, **env: str) -> list[int]:
    """Exit codes of a run on so many instances."""
    return run_on(hosts, ["--baseline", str(baseline)], folder, job_environment(**env))


def fill(s3: Any, drift: float) -> None:
    lines = requests(sample(np.random.default_rng(6), 3000, drift=drift))
    for number in range(12):
        name = f"AllTraffic/{HOUR}/{number:02}.jsonl"
        put_capture(s3, name, [*lines[number * 250 : (number + 1) * 250], "bad", f"worse {number}"])


@pytest.mark.parametrize("drift", [0.0, 1.0])
def test_three_instances_give_what_one_gives(s3: Any, baseline: Path, tmp_path: Path, drift: float) -> None:
    fill(s3, drift)
    assert on(1, baseline, tmp_path / "one") == [0]
    alone = metrics()
    assert on(3, baseline, tmp_path / "three") == [0, 0, 0]
    one = Report(tmp_path / "one/out-0/data-quality/2026/03/04/12")
    three = Report(tmp_path / "three/out-0/data-quality/2026/03/04/12")
    for name in ("statistics", "constraints", "constraint_violations", "summary"):
        assert close(getattr(one, name), getattr(three, name)), name
    assert one.quarantine == three.quarantine
    assert len(one.quarantine) == 24
    assert one.summary["records"] == 3000
    assert bool(one.checks) == bool(drift)
    assert close(alone, metrics())
    assert not (tmp_path / "three/out-1").exists()  # one instance reports
    left = s3.list_objects_v2(Bucket=BUCKET, Prefix="monitoring/")["Contents"]
    # below the prefix that the project's bucket forgets after some days (project/data.yaml)
    assert [item["Key"] for item in left] == [f"{PARTS}algo-2.json", f"{PARTS}algo-3.json"]


def test_each_object_is_read_by_one_instance() -> None:
    names = [f"s3://b/{number}.jsonl" for number in range(1000)]
    hosts = [Hosts(f"algo-{n}", tuple(f"algo-{m}" for m in range(1, 6))) for n in range(1, 6)]
    shares = [sum(host.share.has(name) for host in hosts) for name in names]
    assert set(shares) == {1}
    assert all(150 < sum(host.share.has(name) for name in names) < 250 for host in hosts)


def test_a_lost_instance_is_a_fault_that_names_it(
    s3: Any, baseline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(s3, 0.0)
    argv = ["run", "--baseline", str(baseline), "--output", str(tmp_path / "out")]
    config = str(job_config(tmp_path, 3, 0))
    environment = job_environment(MONITOR_CONFIG_DIR=config, MONITOR_WAIT_SECONDS="0.2")
    assert cli.main(argv, environment) == 1
    said = capsys.readouterr().err
    assert "algo-2, algo-3 delivered no part within 0.2 seconds" in said
    assert not (tmp_path / "out").exists()
    assert metrics() == {}  # an hour that was judged in part would look clean


def test_an_instance_that_fails_says_why_and_nobody_waits(
    s3: Any,
    baseline: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fill(s3, 0.0)
    scan = cli.scan

    def failing(settings: Any, client: Any, share: Any) -> Any:
        if share.index == 1:
            raise OSError("disk full")
        return scan(settings, client, share)

    monkeypatch.setattr(cli, "scan", failing)
    assert on(2, baseline, tmp_path, MONITOR_WAIT_SECONDS="300") == [1, 1]
    assert "algo-2 could not read its part: OSError: disk full" in capsys.readouterr().err


def test_parts_of_an_earlier_run_are_not_taken_for_this_one(s3: Any) -> None:
    Meeting(s3, f"s3://{BUCKET}/monitoring", "mlops-p-abc-dq-0").deliver("algo-2", {"monitor": {}})
    meeting = Meeting(s3, f"s3://{BUCKET}/monitoring", "mlops-p-abc-dq-1")
    with pytest.raises(ValueError, match="algo-2 delivered no part"):
        meeting.collect(("algo-2",), seconds=0)


def test_a_damaged_part_is_a_fault(s3: Any) -> None:
    s3.put_object(Bucket=BUCKET, Key=f"{PARTS}algo-2.json", Body=b"\x1f\x8bnothing")
    meeting = Meeting(s3, f"s3://{BUCKET}/monitoring", "mlops-p-abc-dq-1")
    with pytest.raises(ValueError, match="the part of algo-2 cannot be read"):
        meeting.collect(("algo-2",), seconds=0)


def test_a_run_on_several_instances_needs_a_place_to_meet(
    s3: Any, baseline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert on(2, baseline, tmp_path, REPORTS_URI="") == [1, 1]
    assert "REPORTS_URI is not set" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["{", '{"hosts": ["a"]}', '{"hosts": ["a"], "current_host": "b"}'])
def test_a_strange_resource_configuration_is_a_fault(tmp_path: Path, content: str) -> None:
    (tmp_path / "resourceconfig.json").write_text(content)
    with pytest.raises(ValueError, match="resourceconfig.json"):
        Hosts.read(tmp_path)


def test_one_instance_needs_no_configuration(tmp_path: Path) -> None:
    assert Hosts.read(tmp_path) == Hosts("algo-1", ("algo-1",))
    names = [f"algo-{number}" for number in range(1, 13)]
    content = {"hosts": sorted(names), "current_host": "algo-2"}
    (tmp_path / "resourceconfig.json").write_text(json.dumps(content))
    assert Hosts.read(tmp_path).names == tuple(names)


# ------------------------------------------------------------ states


def texts(rng: np.random.Generator, kind: str, count: int) -> list[str]:
    values: Any = {
        "few numbers": lambda: rng.integers(-3, 40, count),
        "many numbers": lambda: rng.lognormal(8, 3, count) * rng.choice([-1, 1], count),
        "extreme numbers": lambda: rng.choice([0.0, -0.0, 1e139, -1e139, 1e-300, 5e200, 1.5], count),
        "categories": lambda: rng.choice(["a", "b", "none", "", "1", "1.0", "boat"], count),
        "identifiers": lambda: rng.integers(0, 10**6, count),
    }[kind]()
    return [str(value) for value in values]


@pytest.mark.parametrize(
    "kind", ["few numbers", "many numbers", "extreme numbers", "categories", "identifiers"]
)
@pytest.mark.parametrize("seed", range(4))
def test_parts_in_any_order_give_the_whole(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = texts(rng, kind, 20_000)
    inferred = "Fractional" if "numbers" in kind else "String"
    points = np.array([-2.0, 0.0, 3.0, 3.5, 20.0])

    def feature(some: list[str]) -> Feature:
        made = Feature(inferred, points if inferred == "Fractional" else None, ["a", "b"])
        for begin in range(0, len(some), 3_000):
            column = pl.Series("x", some[begin : begin + 3_000], dtype=pl.String)
            made.add(sum_counts([count_texts(column)]))
        return made

    whole = feature(values)
    cuts = sorted(rng.integers(0, len(values), 5).tolist())
    parts = [values[a:b] for a, b in zip([0, *cuts], [*cuts, len(values)], strict=True)]
    rng.shuffle(parts)
    merged = feature(parts[0])
    for part in parts[1:]:
        merged.merge(json.loads(json.dumps(feature(part).partial())))
    assert close(whole.statistics("x"), merged.statistics("x"))
    assert whole.places.tolist() == merged.places.tolist()
    one, other = whole.partial(), merged.partial()
    assert all(one[key] == other[key] for key in one if key not in ("moments",))
    assert len(one["distribution"]["counts"]) <= SKETCH_SIZE
    assert len(one["strings"]["strings"]) <= MOST_STRINGS


def test_moments_are_numpys() -> None:
    values = np.random.default_rng(1).lognormal(8, 2, 30_000)
    feature = Feature("Fractional")
    for some in np.array_split(values, 7):
        feature.add(sum_counts([count_texts(pl.Series("x", [repr(float(v)) for v in some]))]))
    block = feature.statistics("x")["numerical_statistics"]
    assert block["mean"] == pytest.approx(values.mean(), rel=1e-12)
    assert block["std_dev"] == pytest.approx(values.std(), rel=1e-12)
    assert (block["min"], block["max"]) == (values.min(), values.max())
    assert sum(bucket["count"] for bucket in block["distribution"]["kll"]["buckets"]) == 30_000


def test_quantiles_of_many_numbers_are_near() -> None:
    """Cells are 0.2 % wide, so a quantile of the sketch is that near, and a step of 16 in rank."""
    values = np.sort(np.random.default_rng(2).lognormal(8, 2, 30_000))
    feature = Feature("Fractional")
    feature.add(sum_counts([count_texts(pl.Series("x", [repr(float(v)) for v in values]))]))
    kept, counts = feature.distribution.values()
    ranks = np.cumsum(counts) - 1
    assert np.abs(kept / values[ranks] - 1).max() < 0.0021


def test_the_number_of_distinct_strings_is_estimated_well() -> None:
    feature = Feature("String")
    for begin in range(0, 100_000, 20_000):
        column = pl.Series("x", [f"customer {n % 50_000}" for n in range(begin, begin + 20_000)])
        feature.add(sum_counts([count_texts(column)]))
    assert feature.statistics("x")["string_statistics"]["distinct_count"] == pytest.approx(50_000, rel=0.08)
    assert all(count == 2 for count in feature.strings.counts.values())  # of those kept, all are counted
