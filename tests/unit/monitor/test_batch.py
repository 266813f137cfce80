"""Batch Transform: objects that belong together, their lines as rows, and what becomes of bad ones."""

from __future__ import annotations

import gzip
import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import polars as pl
import pytest
from moto import mock_aws

from monitor import batch, capture, cli, formats, model_quality, shards
from monitor.intake import Intake
from monitor.lines import Wanted
from monitor.settings import Settings
from monitored import (
    BUCKET,
    ENDPOINT,
    HOUR,
    NOON,
    REGION,
    TRUTH,
    Report,
    close,
    job_environment,
    metrics,
    rows_of,
    run_on,
    sample,
)

Files = dict[str, bytes | str]
START = "2026-03-04T11:20:00Z"  # of the job, as its answers have it


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(shards, "POLL_SECONDS", 0.05)
    with mock_aws():
        client = boto3.client("s3", region_name=REGION)
        client.create_bucket(Bucket=BUCKET)
        yield client


def content(text: bytes | str) -> bytes:
    return text.encode() if isinstance(text, str) else text


def write(folder: Path, files: Files) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content(text))
    return folder


def put(s3: Any, prefix: str, files: Files) -> None:
    for name, text in files.items():
        s3.put_object(Bucket=BUCKET, Key=f"{prefix}/{name}", Body=content(text))


def csv_of(seed: int, count: int, drift: float = 0.0) -> str:
    return "".join(",".join(row) + "\n" for row in rows_of(sample(np.random.default_rng(seed), count, drift)))


def manifest(prefix: str, *names: str) -> str:
    """As the documentation shows it, over several lines."""
    return json.dumps([{"prefix": prefix}, *names], indent=4)


def rows(
    folder: Path,
    inputs: Files,
    outputs: Files,
    *,
    outputs_wanted: bool = True,
    join: str = "None",
    keys: int = 0,
) -> tuple[list[tuple[Any, ...]], Intake]:
    """Rows of a job's files, with two features x and y."""
    settings = Settings(
        "model_quality",
        "m",
        NOON,
        batch_input=None if join == "Input" else write(folder / "in", inputs),
        batch_output=write(folder / "out", outputs),
        batch_join_source=join,
    )
    wanted = Wanted(("x", "y"), settings.window, outputs=outputs_wanted, keys=keys)
    account = Intake()
    frames = list(capture.batches(settings, wanted, None, capture.Share(), account, needs_truth=False))
    for frame in frames:
        assert frame.schema == {k: v for k, v in wanted.schema.items() if k != "_rows"}
    found = pl.concat(frames).drop("_time") if frames else pl.DataFrame(schema=list("xy"))
    assert found.height == account.records
    return found.rows(), account


def judge(baseline: Path, folder: Path, *flags: str, **env: str) -> Report:
    argv = ["run", "--kind", "data_quality", "--baseline", str(baseline), "--output", str(folder / "report")]
    assert cli.main([*argv, *flags], {"SCHEDULED_TIME": "2026-03-04T12:00:00Z"} | env) == 0
    return Report(folder / "report/data-quality/2026/03/04/12")


def s3_environment(**more: str) -> dict[str, str]:
    return {k: v for k, v in job_environment().items() if k != "CAPTURE_URI"} | more


def captured_job(s3: Any, inputs: Files, outputs: Files, hour: str = HOUR, name: str = "job") -> None:
    """What a transform job with data capture leaves behind."""
    put(s3, f"batch/{name}/in", inputs)
    put(s3, f"batch/{name}/out", outputs)
    put(s3, f"captured/input/{hour}", {f"{name}-a1": manifest(f"s3://{BUCKET}/batch/{name}/in/", *inputs)})
    put(s3, f"captured/output/{hour}", {f"{name}-b2": manifest(f"s3://{BUCKET}/batch/{name}/out/", *outputs)})


# ------------------------------------------------------------ whole runs


def test_a_clean_and_a_drifted_batch_in_folders(baseline: Path, tmp_path: Path) -> None:
    for drift in (0.0, 1.0):
        place = tmp_path / str(drift)
        inputs = {f"{n}.csv": csv_of(40 + n, 150, drift) for n in range(2)}
        folder = write(place / "in", inputs)
        out = write(place / "out", {f"{name}.out": "0.5\n" * 150 for name in inputs})
        found = judge(baseline, place, "--batch-input", str(folder), "--batch-output", str(out))
        assert found.summary["records"] == 300
        assert found.summary["requests_by_hour"] == {"2026-03-04T11:00Z": 300}
        features = {feature for feature, _ in found.checks}
        assert features >= {"duration", "amount", "purpose"} if drift else not features
        for name in ("statistics", "constraints", "constraint_violations"):
            assert formats.problems("data_quality", f"{name}.json", getattr(found, name)) == []


@pytest.mark.parametrize("drift", [0.0, 1.0])
def test_a_captured_job_in_s3(s3: Any, baseline: Path, tmp_path: Path, drift: float) -> None:
    inputs = {"a.csv": csv_of(50, 200, drift), "deep/b.csv": csv_of(51, 100, drift)}
    outputs = {f"{name}.out": "0.5\n" * text.count("\n") for name, text in inputs.items()}
    captured_job(s3, inputs, outputs)
    captured_job(
        s3, {"old.csv": csv_of(52, 90, 1 - drift)}, {"old.csv.out": "0\n" * 90}, "2026/03/04/10", "o"
    )
    captured_job(
        s3, {"new.csv": csv_of(53, 90, 1 - drift)}, {"new.csv.out": "0\n" * 90}, "2026/03/04/12", "n"
    )
    env = s3_environment(BATCH_CAPTURE_URI=f"s3://{BUCKET}/captured")
    assert cli.main(["run", "--baseline", str(baseline), "--output", str(tmp_path)], env) == 0
    found = Report(tmp_path / "data-quality/2026/03/04/12")
    assert (found.summary["records"], found.summary["unreadable"]) == (300, 0)
    assert found.summary["endpoint"] == ENDPOINT
    assert found.summary["status"] == ("violations" if drift else "clean")
    assert metrics()["constraint_violations"] == len(found.checks)
    assert metrics()["records"] == 300
    assert (tmp_path / "tables/runs/date=2026-03-04/data_quality-1200-dq-202603041200.jsonl").is_file()


def test_outputs_without_capture_count_when_they_were_written(
    s3: Any, baseline: Path, tmp_path: Path
) -> None:
    put(s3, "batch/in", {"a.csv": csv_of(60, 120), "2026/03/04/08/b.csv": csv_of(61, 120)})
    put(s3, "batch/in2", {"c.csv": csv_of(62, 60)})  # another prefix, though it begins alike
    put(s3, "batch/in/out", {"a.csv.out": "0\n" * 120, "2026/03/04/08/b.csv.out": "0\n" * 120, "log": "x"})
    env = s3_environment(
        BATCH_INPUT_URI=f"s3://{BUCKET}/batch/in/", BATCH_OUTPUT_URI=f"s3://{BUCKET}/batch/in/out"
    )
    soon = datetime.now(UTC) + timedelta(minutes=10)
    for number, (time, records) in enumerate([(soon.isoformat(), 120), ("2026-03-04T09:00:00Z", 120)]):
        output = tmp_path / str(number)
        argv = ["run", "--baseline", str(baseline), "--output", str(output)]
        assert cli.main(argv, env | {"SCHEDULED_TIME": time}) == 0
        found = Report(next(output.rglob("summary.json")).parent)
        assert (found.summary["records"], found.summary["unreadable"]) == (records, 0)
        assert found.summary["ignored_objects"] == 1


@pytest.mark.parametrize("drift", [0.0, 1.0])
def test_several_instances_give_what_one_gives(s3: Any, baseline: Path, tmp_path: Path, drift: float) -> None:
    inputs = {f"{n}.csv": csv_of(n, 250, drift) + '"open\n' for n in range(8)}
    outputs = {f"{name}.out": "0.5\n" * 251 for name in inputs if name != "3.csv"}
    captured_job(s3, inputs, outputs)
    found = []
    for hosts in (1, 3):
        folder = tmp_path / str(hosts)
        env = s3_environment(BATCH_CAPTURE_URI=f"s3://{BUCKET}/captured")
        assert run_on(hosts, ["--baseline", str(baseline)], folder, env) == [0] * hosts
        found.append(Report(folder / "out-0/data-quality/2026/03/04/12"))
    one, three = found
    assert one.summary["records"] == 7 * 250
    assert one.summary["unreadable_reasons"] == {"payload_not_csv": 7, "output_missing": 1}
    assert close(one.statistics, three.statistics)
    assert close(one.constraint_violations, three.constraint_violations)
    differs = {"run_id", "measures"}
    assert {k: v for k, v in one.summary.items() if k not in differs} == {
        k: v for k, v in three.summary.items() if k not in differs
    }
    assert one.quarantine == three.quarantine


def quality_baseline(folder: Path) -> Path:
    """Model quality of a model that is right nine times in ten."""
    rng = np.random.default_rng(1)
    truth, score = classes(rng, 2000, 0.9)
    options = {"problem_type": "BinaryClassification", "positive_class": "bad", "negative_class": "good"}
    tally = model_quality.tally_of(options)
    labels = pl.Series([None] * 2000, dtype=pl.String)
    tally.add(pl.DataFrame({"_score": score, "_label": labels, "_truth": truth}), options)
    problem = options["problem_type"]
    _, values = model_quality.statistics_of(tally, problem)
    constraints = model_quality.suggest_constraints(values, tally.judged, problem, model_quality.TOLERANCE)
    options |= {"features": ["x", "y"], "baseline": {"values": values, "spreads": tally.spreads()}}
    return write(folder, {"constraints.json": json.dumps(constraints), "options.json": json.dumps(options)})


def classes(rng: np.random.Generator, count: int, right: float) -> tuple[list[str], list[float]]:
    """Classes and scores, of which so many are right."""
    bad = rng.random(count) < 0.4
    answered = np.where(rng.random(count) < right, bad, ~bad)
    score = np.where(answered, 0.8, 0.2) + rng.uniform(-0.1, 0.1, count)
    return ["bad" if one else "good" for one in bad], [float(one) for one in score.round(6)]


@pytest.mark.parametrize(("right", "status"), [(0.9, "clean"), (0.6, "violations")])
@pytest.mark.parametrize("ids", [True, False])
def test_model_quality_of_a_captured_job(
    s3: Any, tmp_path: Path, right: float, status: str, ids: bool
) -> None:
    rng = np.random.default_rng(2)
    inputs, outputs, truths = {}, {}, []
    for number in range(6):
        truth, score = classes(rng, 200, right)
        name = f"{number}.csv"
        inputs[name] = "".join(f"{n},p\n" for n in range(200))
        names = [str(uuid.UUID(bytes=rng.bytes(16))) if ids else f"{name}#{n + 1}" for n in range(200)]
        tails = [f",{one},{START}" if ids else "" for one in names]
        outputs[f"{name}.out"] = "".join(f"{a}{b}\n" for a, b in zip(score, tails, strict=True))
        truths += [
            {"groundTruthData": {"data": one, "encoding": "CSV"}, "eventMetadata": {"eventId": event}}
            for one, event in zip(truth, names, strict=True)
        ]
    captured_job(s3, inputs, outputs)
    put(s3, f"{TRUTH}/{HOUR}", {"t.jsonl": "".join(json.dumps(one) + "\n" for one in truths[:-1])})
    baseline = quality_baseline(tmp_path / "baseline")
    env = s3_environment(BATCH_CAPTURE_URI=f"s3://{BUCKET}/captured", MONITOR_KIND="model_quality")
    found = []
    for hosts in (1, 3):
        assert run_on(hosts, ["--baseline", str(baseline)], tmp_path / str(hosts), env) == [0] * hosts
        found.append(Report(tmp_path / str(hosts) / "out-0/model-quality/2026/03/04/12"))
    one, three = found
    assert one.summary["status"] == status
    assert one.summary["records"] == 6 * 200 - 1
    assert one.summary["excluded_reasons"] == {"no_ground_truth": 1}
    assert close(one.statistics, three.statistics)
    assert close(one.constraint_violations, three.constraint_violations)


# ------------------------------------------------------------ lines


def test_lines_join_their_answers_by_number(tmp_path: Path) -> None:
    found, account = rows(tmp_path, {"d/a.csv": "1,p\n2,q\n\n3,r"}, {"d/a.csv.out": "0.1\n0.2\n0.3\n"})
    assert found == [
        ("1", "p", "d/a.csv#1", 0, 0.1, None),
        ("2", "q", "d/a.csv#2", 0, 0.2, None),
        ("3", "r", "d/a.csv#4", 0, 0.3, None),
    ]
    assert (account.requests, account.records, account.by_hour) == (3, 3, {"2026-03-04T11:00Z": 3})


@pytest.mark.parametrize("space", ["", " "])
def test_generated_inference_ids_are_taken_off_the_answers(tmp_path: Path, space: str) -> None:
    ids = [str(uuid.UUID(int=number)) for number in range(3)]
    output = "".join(f"0.{n},{space}{name},{START}\n" for n, name in enumerate(ids))
    found, _ = rows(tmp_path, {"a.csv": "1,p\n2,q\n3,r\n"}, {"a.csv.out": output})
    assert [row[2:5] for row in found] == [(name, 0, float(f"0.{n}")) for n, name in enumerate(ids)]
    answer = {"probability": 0.7, "label": "bad", "SageMakerInferenceId": ids[2]}
    text = json.dumps(answer | {"SageMakerInferenceTime": START})
    found, _ = rows(tmp_path / "json", {"a": '{"x": 1, "y": "p"}\n'}, {"a.out": text + "\n"})
    assert found == [("1", "p", ids[2], 0, 0.7, "bad")]


@pytest.mark.parametrize("count", [3, 3000])
def test_joined_lines_hold_input_and_answer(tmp_path: Path, count: int) -> None:
    name = str(uuid.uuid4())
    for number, (tail, label) in enumerate(
        {"0.5": None, f"0.5,{name},{START}": None, "0.5,good": "good"}.items()
    ):
        output = f"1,p,{tail}\n" * count + f'2,"q,r",{tail}\n'
        found, account = rows(tmp_path / str(number), {}, {"a.out": output}, join="Input")
        key = name if name in tail else "a#1"
        assert found[0] == ("1", "p", key, 0, 0.5, label)
        assert found[-1][:2] == ("2", "q,r")
        assert len(found) == count + 1
        assert not account.unreadable
    lines = [
        {"x": 1, "y": "p", "SageMakerOutput": {"probability": 0.4}},
        {"SageMakerInput": [2, "q"], "SageMakerOutput": 0.5, "SageMakerInferenceId": name},
    ]
    text = "".join(json.dumps(one) + "\n" for one in lines)
    found, account = rows(tmp_path / "json", {}, {"a.out": text}, join="Input")
    assert found == [("1", "p", "a#1", 0, 0.4, None), ("2", "q", name, 0, 0.5, None)]
    assert not account.surplus


@pytest.mark.parametrize("count", [3, 3000])
def test_key_columns_stand_before_the_features(tmp_path: Path, count: int) -> None:
    """The first one is the name of the line, which ground truth tells; a quoted one is no other."""
    output = "c1,branch,1,p,0.5\n" * count + '"c,2",branch,2,q,0.25\n'
    found, account = rows(tmp_path, {}, {"a.out": output}, join="Input", keys=2)
    assert set(found) == {("1", "p", "c1", 0, 0.5, None), ("2", "q", "c,2", 0, 0.25, None)}
    assert len(found) == count + 1 and not account.unreadable
    found, account = rows(tmp_path / "other", {}, {"a.out": "1,p,0.5\n"}, join="Input", keys=2)
    assert found == [] and account.unreadable == {"joined_columns": 1}, "of a model with other columns"


def test_both_ways_of_reading_give_the_same(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    ids = [str(uuid.UUID(bytes=rng.bytes(16))) for _ in range(400)]
    cells = ["", "a b", " p ", "é", "7", "NA"]
    given = [f"{rng.normal():.3f},{cells[n % 6]}" for n in range(400)]
    made = [f"{rng.random():.3f},{name},{START}" for name in ids]
    fast, account = rows(tmp_path / "1", {"a": "\n".join(given)}, {"a.out": "\n".join(made)})
    quoted = ['"{}","{}"'.format(*one.split(",")) for one in given]
    slow, other = rows(tmp_path / "2", {"a": "\n".join(quoted)}, {"a.out": "\n".join(made)})
    mixed = [one if n % 3 else quote for n, (one, quote) in enumerate(zip(given, quoted, strict=True))]
    both, _ = rows(tmp_path / "3", {"a": "\r\n".join(mixed)}, {"a.out": "\n".join(made)})
    assert fast == slow
    assert sorted(both, key=str) == sorted(fast, key=str)
    assert account.partial() == other.partial()


def test_chunks_that_end_elsewhere_stay_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "PIECE", 1000)
    given = "".join(f"{n},{'p' * (n % 50)}\n" for n in range(5000))
    made = "".join(f"0.{n:04}\n" for n in range(5000))
    found, account = rows(tmp_path, {"a": given}, {"a.out": gzip.compress(made.encode())})
    assert [(row[0], row[2], row[4]) for row in found] == [
        (str(n), f"a#{n + 1}", float(f"0.{n:04}")) for n in range(5000)
    ]
    assert not account.unreadable


# ------------------------------------------------------------ bad ones

BAD: list[tuple[str, bytes | str, bytes | str, int, dict[str, int] | None]] = [
    ("empty", "", "", 0, {}),
    ("blank", "\n \n", "\n", 0, {}),
    ("fewer answers", "1,p\n2,q\n", "0.1\n", 0, {"answer_rows_differ": 1}),
    ("more answers", "1,p\n", "0.1\n0.2\n", 0, {"answer_rows_differ": 1}),
    ("empty output", "1,p\n", "", 0, {"answer_rows_differ": 1}),
    ("one document for many", "1,p\n2,q\n", '{"predictions": [0.1, 0.2]}\n', 0, {"answer_rows_differ": 1}),
    ("header with an answer", "x,y\n1,p\n", "0.9\n0.1\n", 1, {}),
    ("header without one", "x, y\n1,p\n2,q\n", "0.1\n0.2\n", 2, {}),
    ("header again", "1,p\nx,y\n2,q\n", "0.1\n0.9\n0.2\n", 2, {}),
    ("header alone", "x,y\n", "", 0, {}),
    ("crlf and bom", "\ufeff1,p\r\n2,q\r\n", "0.1\r\n0.2\r\n", 2, {}),
    # SplitType Line cuts at every line break, also at one between quotes: two records that are none
    ("quoted line break", '1,"p\nq"\n2,r\n', "0.1\n0.2\n0.3\n", 2, {"payload_not_csv": 1}),
    ("not utf-8", b"1,p\n2,\xff\n", "0.1\n0.2\n", 1, {"not_utf8": 1}),
    ("utf-16", "1,p\n".encode("utf-16"), "0.1\n0.2\n", 0, {"not_utf8": 1, "payload_not_csv": 1}),
    ("zeros", b"1,p\n\x00\x00\n", "0.1\n0.2\n", 1, {"payload_not_csv": 1}),
    ("damaged gzip", gzip.compress(b"1,p\n2,q\n" * 99)[:-9], "0.1\n", 0, None),
    ("json that is none", '{"x": 1\n1,p\n', "0.1\n0.2\n", 1, {"payload_not_json": 1}),
    ("json too deep", "[" * 100_000 + "\n1,p\n", "0.1\n0.2\n", 1, {"nested_too_deep": 1}),
    ("no answer in json", "1,p\n2,q\n", "{\n0.2\n", 1, {"answer_not_readable": 1}),
    ("rows of a line", '{"instances": [[1, "p"], [2, "q"]]}\n', '{"predictions": [0.1, 0.2]}\n', 2, {}),
    ("rows of a line differ", '{"instances": [[1, "p"], [2, "q"]]}\n', "0.1\n", 0, {"answer_rows_differ": 1}),
    ("array", '[1, "p"]\n[2,3]\n', "0.1\n0.2\n", 2, {}),
]


@pytest.mark.parametrize(
    ("inputs", "outputs", "count", "reasons"), [case[1:] for case in BAD], ids=[c[0] for c in BAD]
)
def test_bad_files(
    tmp_path: Path, inputs: bytes | str, outputs: bytes | str, count: int, reasons: dict[str, int] | None
) -> None:
    for name, text in (("a", inputs), ("good", "1,p\n")):
        write(tmp_path / "in", {name: text})
    found, account = rows(tmp_path, {}, {"a.out": outputs, "good.out": "0.5\n"})
    assert len(found) == count + 1  # one bad file costs no other
    expected = {"gzip_truncated": 1, "answer_rows_differ": 1} if reasons is None else reasons
    assert account.unreadable == expected
    assert sum(account.unreadable.values()) == len(account.quarantine)
    # data quality needs no answers, and so does not miss them
    found, account = rows(tmp_path, {}, {}, outputs_wanted=False)
    assert "answer_rows_differ" not in account.unreadable


def test_a_line_that_is_too_long_shifts_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "LONGEST_LINE", 5000)
    monkeypatch.setattr(capture, "PIECE", 1000)
    given = "1,p\n2," + "q" * 20_000 + "\n3,r\n4," + "s" * 20_000
    found, account = rows(tmp_path, {"a": given}, {"a.out": "0.1\n0.2\n0.3\n0.4\n"})
    assert [(row[0], row[2], row[4]) for row in found] == [("1", "a#1", 0.1), ("3", "a#3", 0.3)]
    assert account.unreadable == {"line_too_long": 2}


def test_columns_that_are_too_many_or_too_few_are_counted(tmp_path: Path) -> None:
    found, account = rows(tmp_path, {"a": "1,p\n2\n3,r,s\n"}, {"a.out": "0.1\n0.2\n0.3\n"})
    assert sorted(row[:2] for row in found if row[1]) == [("1", "p"), ("3", "r")]
    assert ("2", None) in [row[:2] for row in found]
    assert (account.lacking, account.surplus) == ({"y": 1}, {"column_3": 1})


@pytest.mark.parametrize("line", ["1,p", "1,p,0.1,0.2", "1,p,0.1,a,b", '{"x": 1}', '1,"p,0.1'])
def test_joined_lines_that_cannot_be_parted(tmp_path: Path, line: str) -> None:
    found, account = rows(tmp_path, {}, {"a.out": f"1,p,0.1\n{line}\n"}, join="Input")
    assert [row[0] for row in found] == ["1"]
    assert sum(account.unreadable.values()) == 1


def test_inputs_and_outputs_that_have_no_counterpart(tmp_path: Path) -> None:
    found, account = rows(tmp_path, {"a": "1,p\n", "b": "2,q\n"}, {"a.out": "0.1\n", "c.out": "0.3\n"})
    assert [row[0] for row in found] == ["1"]
    assert account.unreadable == {"output_missing": 1, "input_missing": 1}


def from_manifests(s3: Any, **settings: Any) -> tuple[list[batch.Pair], Intake]:
    asked = Settings("data_quality", "m", NOON, batch_capture_uri=f"s3://{BUCKET}/captured", **settings)
    account = Intake()
    return batch.pairs(asked, s3, account), account


@pytest.mark.parametrize(
    "text",
    ["", "{", "{}", "[]", '["a"]', '[{"prefix": 3}, "a"]', '[{"prefix": "s3://b/"}, 3]', "[" * 9999, b"\xff"],
)
def test_manifests_that_cannot_be_read(s3: Any, text: bytes | str) -> None:
    captured_job(s3, {"a": "1,p\n"}, {"a.out": "0.1\n"})
    put(s3, f"captured/input/{HOUR}", {"bad": text})
    found, account = from_manifests(s3)
    assert [pair.key for pair in found] == ["a"]
    assert account.unreadable == ({"manifest_not_readable": 1} if text else {})


def test_two_jobs_of_an_hour_whose_files_have_the_same_names(s3: Any) -> None:
    captured_job(s3, {"a": "1,p\n"}, {"a.out": "0.1\n"}, name="one")
    captured_job(s3, {"a": "2,p\n"}, {"a.out": "0.2\n"}, name="two")
    found, account = from_manifests(s3)
    assert (found, account.unreadable) == ([], {"pairing_ambiguous": 2})
    for name in ("one", "two"):  # manifests that share a name say which belong together
        for side, folder, key in (("input", "in", "a"), ("output", "out", "a.out")):
            text = manifest(f"s3://{BUCKET}/batch/{name}/{folder}/", key)
            put(s3, f"captured/{side}/{HOUR}", {f"{name}.jsonl": text})
    for old in ("one-a1", "two-a1"):
        s3.delete_object(Bucket=BUCKET, Key=f"captured/input/{HOUR}/{old}")
        s3.delete_object(Bucket=BUCKET, Key=f"captured/output/{HOUR}/{old[:3]}-b2")
    found, account = from_manifests(s3)
    assert not account.unreadable
    places = [(pair.input and pair.input.name[-8:], pair.output.name[-13:]) for pair in found]
    assert places == [("one/in/a", "one/out/a.out"), ("two/in/a", "two/out/a.out")]


def test_objects_that_are_gone(s3: Any) -> None:
    captured_job(s3, {"a": "1,p\n", "b": "2,q\n"}, {"a.out": "0.1\n", "b.out": "0.2\n"})
    s3.delete_object(Bucket=BUCKET, Key="batch/job/out/a.out")
    found, account = from_manifests(s3)
    wanted = Wanted(("x", "y"), Settings("model_quality", "m", NOON).window, outputs=True)
    (frame,) = batch.read_rows(found, wanted, account)
    assert frame["x"].to_list() == ["2"]
    assert account.unreadable == {"object_gone": 1}


def test_a_manifest_on_a_laptop_reads_no_file_outside_its_folder(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"secret.csv": "1,p\n", "in/a.csv": "2,q\n", "out/a.csv.out": "0.2\n", "secret.csv.out": "0.1\n"},
    )
    names = ["../secret.csv", "a.csv"]
    for side, prefix, ending in (("input", "s3://b/in/", ""), ("output", "s3://b/out/", ".out")):
        write(
            tmp_path / "captured" / side / HOUR, {"m": manifest(prefix, *(name + ending for name in names))}
        )
    folders = {
        name: tmp_path / place for name, place in {"batch_capture": "captured", "batch_input": "in"}.items()
    }
    settings = Settings("data_quality", "m", NOON, batch_output=tmp_path / "out", **folders)
    account = Intake()
    assert [pair.key for pair in batch.pairs(settings, None, account)] == ["a.csv"]
    assert account.unreadable["object_gone"] == 2


# ------------------------------------------------------------ ground truth, settings, memory


def test_ground_truth_joins_on_the_id_or_on_the_line(s3: Any) -> None:
    name = str(uuid.uuid4())
    captured_job(s3, {"a": "1,p\n2,q\n"}, {"a.out": f"0.1\n0.2,{name},{START}\n"})
    line = '{{"groundTruthData":{{"data":"{}","encoding":"CSV"}},"eventMetadata":{{"eventId":"{}"}}}}\n'
    put(s3, f"{TRUTH}/{HOUR}", {"t.jsonl": line.format(1, "a#1") + line.format(0, name)})
    settings = Settings(
        "model_quality",
        "m",
        NOON,
        batch_capture_uri=f"s3://{BUCKET}/captured",
        ground_truth_uri=f"s3://{BUCKET}/{TRUTH}",
    )
    wanted, account = Wanted(("x", "y"), settings.window, outputs=True), Intake()
    found = pl.concat(capture.batches(settings, wanted, s3, capture.Share(), account, needs_truth=True))
    assert sorted(found.select("x", "_score", "_truth").rows()) == [("1", 0.1, "1"), ("2", 0.2, "0")]


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({}, "set: none"),
        ({"CAPTURE_URI": "s3://b/c", "BATCH_OUTPUT_URI": "s3://b/o"}, "CAPTURE_URI and BATCH_OUTPUT_URI"),
        ({"BATCH_OUTPUT_URI": "s3://b/o"}, "BATCH_INPUT_URI is not set"),
        ({"BATCH_CAPTURE_URI": "s3://b/c", "BATCH_INPUT_URI": "s3://b/i"}, "another one"),
        ({"CAPTURE_URI": "s3://b/c", "BATCH_INPUT_URI": "s3://b/i"}, "another one"),
        ({"BATCH_OUTPUT_URI": "s3://b/o", "BATCH_JOIN_SOURCE": "yes"}, "BATCH_JOIN_SOURCE is 'yes'"),
        ({"CAPTURE_URI": "s3://b/c", "BATCH_JOIN_SOURCE": "Input"}, "only batch jobs join"),
        ({"CAPTURE_URI": "s3://b/c", "BATCH_KEY_COLUMNS": "1"}, "only joined lines"),
        ({"BATCH_CAPTURE_URI": "b/c"}, "s3://bucket/prefix"),
    ],
)
def test_sources_that_do_not_fit(
    s3: Any,
    baseline: Path,
    tmp_path: Path,
    env: dict[str, str],
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = ["run", "--baseline", str(baseline), "--output", str(tmp_path)]
    assert cli.main(argv, s3_environment(**env)) == 1
    assert words in capsys.readouterr().err


def test_most_lines_are_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line in a hundred that is not plain does not make the others slow."""
    seen: list[int] = []
    before = batch.read_record
    monkeypatch.setattr(batch, "read_record", lambda *some: (seen.append(some[1]), before(*some))[1])
    given = [f'{n},"p"' if n % 100 == 0 else f"{n},p" for n in range(2000)]
    found, _ = rows(tmp_path, {"a": "\n".join(given)}, {"a.out": "0.5\n" * 2000})
    assert len(found) == 2000
    assert seen == [n + 1 for n in range(0, 2000, 100)]
