"""Ground truth: joined on the id, row by row; late, repeated, absent and unreadable ones are told."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from monitor import capture
from monitor.intake import Intake
from monitor.lines import Wanted
from monitor.settings import Settings
from monitored import HOUR, NOON, line


def truth(event: Any, data: Any, encoding: str = "CSV") -> str:
    """A line of ground truth, as the documentation of Model Monitor has it."""
    record = {"groundTruthData": {"data": data, "encoding": encoding}, "eventMetadata": {"eventId": event}}
    return json.dumps(record | {"eventVersion": "0"})


def join(
    folder: Path, requests: list[str], truths: list[str], hour: str = HOUR, share: capture.Share | None = None
) -> tuple[list[tuple[Any, ...]], Intake]:
    """Rows with ground truth: features, id, row and truth."""
    for name, its_hour, lines in (("capture", HOUR, requests), ("truth", hour, truths)):
        (folder / name / its_hour).mkdir(parents=True, exist_ok=True)
        (folder / name / its_hour / "a.jsonl").write_text("".join(f"{one}\n" for one in lines))
    settings = Settings(
        "model_quality",
        "e",
        NOON,
        capture=folder / "capture",
        ground_truth=folder / "truth",
        window_minutes=180,
    )
    wanted = Wanted(("x", "y"), settings.window, outputs=True)
    account = Intake()
    share = share or capture.Share()
    frames = list(capture.batches(settings, wanted, None, share, account, needs_truth=True))
    if not frames:
        return [], account
    rows = pl.concat(frames)
    assert rows.columns == ["x", "y", "_id", "_row", "_time", "_score", "_label", "_truth"]
    return rows.select("x", "_id", "_row", "_score", "_truth").rows(), account


def test_predictions_meet_their_outcome_by_inference_id_else_event_id(tmp_path: Path) -> None:
    requests = [
        line("1,a", inferenceId="mine", eventId="e1"),
        line("2,b", eventId="e2"),
        line("3,c", inferenceId="", eventId="e3"),
        line("4,d", eventId="e4"),
    ]
    truths = [truth("mine", "1"), truth("e2", "0\n"), truth("e3", "good"), truth("e1", "9"), truth("x", "9")]
    rows, account = join(tmp_path, requests, truths)
    assert rows == [
        ("1", "mine", 0, 0.3, "1"),
        ("2", "e2", 0, 0.3, "0"),
        ("3", "e3", 0, 0.3, "good"),
    ]
    assert account.excluded == {"no_ground_truth": 1}
    assert account.truths == 5


def test_many_rows_of_a_request_meet_their_lines(tmp_path: Path) -> None:
    requests = [
        line("1,a\n2,b\n3,c\n", eventId="e1", answer="0.1\n0.2\n0.3\n"),
        line("4,d\n5,e\n", eventId="e2", answer="0.4\n0.5\n"),
        line("6,f\n", eventId="e3", answer="0.6\n"),
    ]
    truths = [truth("e1", "1\n0\n1"), truth("e2", "1"), truth("e3", "1\n0")]
    rows, account = join(tmp_path, requests, truths)
    assert [(row[0], row[2], row[3], row[4]) for row in rows] == [
        ("1", 0, 0.1, "1"),
        ("2", 1, 0.2, "0"),
        ("3", 2, 0.3, "1"),
    ]
    # the first row of e2 and the row of e3 have a truth, of another number of rows; the second of e2 has none
    assert account.excluded == {"ground_truth_rows_differ": 2, "no_ground_truth": 1}


def test_the_last_of_several_outcomes_counts_as_a_whole(tmp_path: Path) -> None:
    requests = [line("1,a\n2,b\n", eventId="e1", answer="0.1\n0.2\n")]
    truths = [truth("e1", "1\n1\n1"), truth("e1", "0\n0"), truth("e1", "1\n0")]
    rows, account = join(tmp_path, requests, truths)
    assert [row[4] for row in rows] == ["1", "0"]
    assert account.excluded == {"repeated_ground_truth": 2}


def test_ground_truth_of_another_hour_is_not_looked_for(tmp_path: Path) -> None:
    rows, account = join(tmp_path, [line("1,a", eventId="e1")], [truth("e1", "1")], hour="2026/03/04/10")
    assert rows == []
    assert account.excluded == {"no_ground_truth": 1}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not_json"),
        ("[" * 100_000, "nested_too_deep"),
        ("7", "not_a_record"),
        ('{"eventMetadata": {"eventId": "e1"}}', "not_a_record"),
        (truth(None, "1"), "not_a_record"),
        (truth("", "1"), "not_a_record"),
        (truth("e1", ""), "empty"),
        (truth("e1", None), "empty"),
        (truth("e1", []), "empty"),
        (truth("e1", "1,\n,2"), "empty"),
        (truth("e1", {"a": 1}), "not_readable"),
        (truth("e1", "{", "JSON"), "not_readable"),
        (truth("e1", "?", "BASE64"), "bad_base64"),
    ],
)
def test_unreadable_ground_truth_is_counted_and_kept_aside(tmp_path: Path, text: str, reason: str) -> None:
    good = truth("e1", "1")
    rows, account = join(tmp_path, [line("1,a", eventId="e1")], [text, good])
    assert len(rows) == 1
    assert account.unreadable == {f"ground_truth_{reason}": 1}
    assert (account.quarantine[0]["object"], account.quarantine[0]["line"]) == (f"{HOUR}/a.jsonl", 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (truth("e1", "1, extra"), "1"),
        (truth("e1", ' "bad" '), "bad"),
        (truth("e1", "1", "JSON"), "1"),
        (truth("e1", "[1.0]", "JSON"), "1"),
        (truth("e1", 1), "1"),
        (truth("e1", [0]), "0"),
        (truth("e1", base64.b64encode(b"good\n").decode(), "BASE64"), "good"),
    ],
)
def test_outcomes_are_read_in_every_encoding(tmp_path: Path, text: str, expected: str) -> None:
    rows, _ = join(tmp_path, [line("1,a", eventId="e1")], [text])
    assert [row[4] for row in rows] == [expected]


@pytest.mark.parametrize(
    ("answer", "kind", "expected"),
    [
        ("0.25\n", "text/csv", (0.25, None)),
        ("good\n", "text/csv", (None, "good")),
        ("good,0.25", "text/csv", (0.25, "good")),
        ('{"predictions": [{"probability": 0.25, "label": "good"}]}', "application/json", (0.25, "good")),
        ('{"predictions": [0.25]}', "application/json", (0.25, None)),
        ("[[0.75, 0.25]]", "application/json", (0.25, None)),
        ('{"score": 0.25}', "application/json", (0.25, None)),
        ('["good"]', "application/json", (None, "good")),
    ],
)
def test_answers_give_a_score_and_a_label(
    tmp_path: Path, answer: str, kind: str, expected: tuple[float | None, str | None]
) -> None:
    (tmp_path / "a.jsonl").write_text(line("1,a", answer=answer, answer_type=kind))
    settings = Settings("model_quality", "e", NOON, capture=tmp_path)
    wanted = Wanted(("x", "y"), settings.window, outputs=True)
    (frame,) = capture.batches(settings, wanted, None, capture.Share(), Intake(), needs_truth=False)
    assert frame.select("_score", "_label").rows() == [expected]


def test_features_are_stripped_and_missing_ones_are_null(tmp_path: Path) -> None:
    rows, _ = join(tmp_path, [line(" 1 , a ", eventId="e1"), line("NaN,", eventId="e2")], [
        truth("e1", "1"), truth("e2", "1")
    ])  # fmt: skip
    assert [row[0] for row in rows] == ["1", None]


def test_every_part_has_all_ground_truth_and_one_of_them_counts_it(tmp_path: Path) -> None:
    requests, truths = [line("1,a", eventId="e1")], [truth("e1", "1"), truth("e1", "0"), "{"]
    rows, accounts = [], []
    for index in range(3):
        share = capture.Share(index, 3)
        some, account = join(tmp_path, requests, truths, share=share)
        rows += some
        accounts.append(account)
    assert [row[4] for row in rows] == ["0"]
    whole = accounts[0]
    for account in accounts[1:]:
        whole.merge(account.partial())
    single = join(tmp_path, requests, truths)[1]
    assert whole.partial() == single.partial()
