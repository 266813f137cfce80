"""Bad capture files: each case of the table in docs/monitoring.md, written out, read, and accounted for."""

from __future__ import annotations

import base64
import gzip
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pytest

from monitor import capture, intake, payload
from monitor.intake import Intake
from monitor.lines import Counted, Wanted, read_carefully, read_lines
from monitor.settings import Settings
from monitored import HOUR, NOON, line

ROOT = Path(__file__).resolve().parents[3]
NAMES = ("x", "y")
GOOD = line("1,a\n")
RECORD = json.loads(GOOD)
OUTSIDE = NOON - timedelta(minutes=61)


class Case(NamedTuple):
    """What a file holds and what becomes of it."""

    name: str
    content: bytes
    rows: list[tuple[str | None, ...]]
    unreadable: dict[str, int]
    excluded: dict[str, int]
    outputs: bool = False


def changed(change: Callable[[dict[str, Any]], Any]) -> str:
    """The good line with a change."""
    record = json.loads(GOOD)
    return json.dumps(change(record) or record)


def without(*path: str) -> str:
    """The good line without a key."""

    def cut(record: dict[str, Any]) -> None:
        for key in path[:-1]:
            record = record[key]
        del record[path[-1]]

    return changed(cut)


def setting(value: Any, *path: str) -> str:
    """The good line with another value."""

    def put(record: dict[str, Any]) -> None:
        for key in path[:-1]:
            record = record[key]
        record[path[-1]] = value

    return changed(put)


ONE = [("1", "a")]
DATA = ("captureData", "endpointInput", "data")
TYPE = ("captureData", "endpointInput", "observedContentType")


def case(
    name: str,
    *lines: str | bytes,
    rows: list[tuple[str | None, ...]] = ONE,
    unreadable: dict[str, int] | None = None,
    excluded: dict[str, int] | None = None,
    outputs: bool = False,
    end: bytes = b"\n",
) -> Case:
    """A file of a good line and these."""
    texts = [text if isinstance(text, bytes) else text.encode() for text in (GOOD, *lines)]
    return Case(name, b"\n".join(texts) + end, rows, unreadable or {}, excluded or {}, outputs)


def json_line(body: str) -> str:
    return line(body, content_type="application/json")


PACKED = gzip.compress(f"{GOOD}\n{GOOD}\n".encode(), mtime=0)
BIG = gzip.compress("".join(f"{line(f'{n},a')}\n" for n in range(3000)).encode(), mtime=0)

CASES = [
    # files
    Case("an empty file", b"", [], {}, {}),
    Case("only line ends", b"\n\n\r\n\n", [], {}, {}),
    case("no line end at the end", end=b""),
    case("the last line is cut short", GOOD[:200], unreadable={"truncated": 1}, end=b""),
    case("a line in the middle is cut short", GOOD[:200], GOOD, rows=ONE * 2, unreadable={"not_json": 1}),
    case("lines end as on Windows", GOOD + "\r", rows=ONE * 2, end=b"\r\n"),
    Case("a byte order mark", b"\xef\xbb\xbf" + GOOD.encode() + b"\n", ONE, {}, {}),
    Case("UTF-16", f"{GOOD}\n".encode("utf-16"), [], {"not_utf8": 1, "truncated": 1}, {}),
    case(
        "a line in Latin-1", line("1,ä").replace("\\u00e4", "ä").encode("latin-1"), unreadable={"not_utf8": 1}
    ),
    Case("gzip", PACKED, ONE * 2, {}, {}),
    Case("two gzip files in one", PACKED + PACKED, ONE * 4, {}, {}),
    Case("gzip that is cut short", BIG[: len(BIG) // 2], [], {"gzip_truncated": 1, "truncated": 1}, {}),
    Case(
        "gzip that is damaged", PACKED[:12] + b"\xff\xff\xff\xff" + PACKED[16:], [], {"gzip_damaged": 1}, {}
    ),
    Case("something behind gzip", PACKED + b"hello", ONE * 2, {"gzip_damaged": 1}, {}),
    case(
        "a line longer than any request", "x" * 3_000_000, GOOD, rows=ONE * 2, unreadable={"line_too_long": 1}
    ),
    case("bytes of no text", bytes(range(128, 160)), unreadable={"not_utf8": 1}),
    case("a NUL byte in a value", GOOD.replace("1,a", "1,\0"), unreadable={"not_json": 1}),
    # records
    case("another JSON", '{"a": 1}', "[]", "3", '"x"', "null", unreadable={"not_a_capture_record": 5}),
    case("NaN for a record", "NaN", unreadable={"not_a_capture_record": 1}),
    case("nested without end", "[" * 100_000, unreadable={"nested_too_deep": 1}),
    case("no input", without("captureData", "endpointInput"), unreadable={"not_a_capture_record": 1}),
    case("the input is a list", setting([], *DATA[:2]), unreadable={"not_a_capture_record": 1}),
    case("no data", without(*DATA), unreadable={"not_a_capture_record": 1}),
    case("the data are a number", setting(7, *DATA), unreadable={"not_a_capture_record": 1}),
    case("no time", without("eventMetadata", "inferenceTime"), unreadable={"not_a_capture_record": 1}),
    case("a time that is none", setting("noon", "eventMetadata", "inferenceTime"), unreadable={"no_time": 1}),
    case("a time that is a number", setting(7, "eventMetadata", "inferenceTime"), unreadable={"no_time": 1}),
    case(
        "a time without a zone",
        setting("2026-03-04T11:30:00", "eventMetadata", "inferenceTime"),
        rows=ONE * 2,
    ),
    case(
        "a time of another zone",
        setting("2026-03-04T12:30:00.5+01:00", "eventMetadata", "inferenceTime"),
        rows=ONE * 2,
    ),
    case("late or early", line("1,a", OUTSIDE), line("1,a", NOON), excluded={"outside_window": 2}),
    case("an id twice", GOOD, rows=ONE * 2),
    case("an id that is a number", setting(7, "eventMetadata", "eventId"), rows=ONE * 2),
    case("no id", without("eventMetadata", "eventId"), rows=ONE * 2),
    case("a smoke test", line("1,a", inferenceId="smoke-test-7"), excluded={"smoke_test": 1}),
    case("simulated traffic", line("1,a", inferenceId="simulated-7"), excluded={"simulated": 1}),
    # payloads
    case("an empty payload", line(""), line(" \n"), unreadable={"empty_payload": 2}),
    case("damaged base64", setting("BASE64", *DATA[:2], "encoding"), unreadable={"bad_base64": 1}),
    case(
        "a picture",
        line("x", content_type="image/png").replace(
            base64.b64encode(b"x").decode(), base64.b64encode(b"\x89PNG\r\n\xff").decode()
        ),
        unreadable={"payload_not_text": 1},
    ),
    case(
        "an undeclared type with rows", line("2,b", content_type="application/x-own"), rows=[*ONE, ("2", "b")]
    ),
    case(
        "an undeclared type without rows",
        line("hello", content_type="text/plain"),
        line("hello", content_type=""),
        unreadable={"unknown_content_type": 2},
    ),
    case("no content type", setting(None, *TYPE), rows=ONE * 2),
    case("JSON that is cut short", json_line('{"x": 1, "y"'), unreadable={"payload_not_json": 1}),
    case("JSON nested without end", json_line("[" * 50_000), unreadable={"nested_too_deep": 1}),
    case("JSON that is a number", json_line("7"), unreadable={"no_rows_in_payload": 1}),
    case("a number of 5,000 digits", json_line(f"[{'9' * 5000}, 1]"), unreadable={"payload_not_json": 1}),
    case(
        "columns of different length",
        json_line('{"x": [1, 2], "y": ["a"]}'),
        unreadable={"columns_of_different_length": 1},
    ),
    case("nested values", json_line('[{"x": {"z": 1}, "y": [2]}]'), rows=[*ONE, ('{"z": 1}', "[2]")]),
    case("half a surrogate pair", json_line('{"x": 1, "y": "\\ud800"}'), rows=[*ONE, ("1", "?")]),
    case("CSV with a quote that never ends", line('1,"a'), unreadable={"payload_not_csv": 1}),
    case("a header in the payload", line("x,y\n2,b\n"), rows=[*ONE, ("2", "b")]),
    case("too few values", line("2"), rows=[*ONE, ("2", None)]),
    case("too many values", line("2,b,c,d"), rows=[*ONE, ("2", "b")]),
    case("empty values", line(","), rows=[*ONE, ("", "")]),
    case(
        "more rows than there is memory for",
        line("1\n" * 300_000),
        json_line(f"[{'[],' * 300_000}[]]"),
        json_line(json.dumps({"x": [1] * 300_000})),
        unreadable={"too_many_rows": 3},
    ),
    # answers, where a monitor needs them
    case(
        "more answers than there is memory for",
        line("1,a", answer="1\n" * 300_000),
        line("1,a", answer=f"[{'1,' * 300_000}1]", answer_type="application/json"),
        unreadable={"too_many_rows": 2},
        outputs=True,
    ),
    case("no answer", line("1,a", answer=None), unreadable={"no_answer": 1}, outputs=True),
    case("an empty answer", line("1,a", answer=""), unreadable={"empty_answer": 1}, outputs=True),
    case(
        "an answer that is no JSON",
        line("1,a", answer="{", answer_type="application/json"),
        unreadable={"answer_not_readable": 1},
        outputs=True,
    ),
    case("fewer answers than rows", line("1,a\n2,b\n"), unreadable={"answer_rows_differ": 1}, outputs=True),
]


def settings_of(folder: Path, **more: Any) -> Settings:
    return Settings("data_quality", "e", NOON, capture=folder, **more)


def read(folder: Path, wanted: Wanted) -> tuple[Any, Intake]:
    """All rows of a folder of capture, or the counts of their values, and the account of them."""
    account = Intake()
    found: list[Any] = list(
        capture.batches(settings_of(folder), wanted, None, capture.Share(), account, needs_truth=False)
    )
    if wanted.counted:
        return added_up(found), account
    return pl.concat(found) if found else pl.DataFrame(schema=wanted.schema), account


def added_up(found: Iterable[Counted]) -> dict[str, Counter[str]]:
    """Counts of the values of each column, without the space around them."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in NAMES}
    for one in found:
        for name, texts in one.texts.items():
            assert texts["count"].sum() == one.rows
            for text, count in texts.rows():
                counts[name][(text or "").strip()] += count
    return counts


def counts_of(rows: pl.DataFrame) -> dict[str, Counter[str]]:
    """The same, counted row by row."""
    return {name: Counter((text or "").strip() for text in rows[name]) for name in NAMES}


@pytest.mark.parametrize("one", CASES, ids=[one.name for one in CASES])
def test_a_bad_file_ends_as_documented(one: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "LONGEST_LINE", 2_500_000)
    monkeypatch.setattr(payload, "MOST_CELLS", 2_000_000)
    monkeypatch.setattr(capture, "PIECE", 64 << 10)
    (tmp_path / HOUR).mkdir(parents=True)
    (tmp_path / HOUR / "a.jsonl").write_bytes(one.content)
    window = settings_of(tmp_path).window
    rows, account = read(tmp_path, Wanted(NAMES, window, outputs=one.outputs))
    expected = one.rows
    if one.name == "gzip that is cut short":  # what came before the cut is read
        expected = [(str(number), "a") for number in range(rows.height)]
        assert 100 < rows.height < 3000
    assert rows.select(NAMES).rows() == [tuple(cell or None for cell in row) for row in expected]
    if not one.outputs:  # data quality is content with counts
        counted, same = read(tmp_path, Wanted(NAMES, window, counted=True))
        assert counted == counts_of(rows)
        assert same.partial() == account.partial()
    assert dict(account.unreadable) == one.unreadable
    assert dict(account.excluded) == one.excluded
    assert account.records == rows.height
    assert sum(account.by_hour.values()) == account.requests
    kept = [json.loads(text) for text in account.quarantine_lines().splitlines()]
    assert [entry["reason"] for entry in kept] == sorted(
        account.unreadable.elements(), key=[entry["reason"] for entry in kept].index
    )
    assert all(len(entry["text"]) <= intake.KEPT_TEXT for entry in kept)


def test_every_outcome_has_a_case_and_a_line_in_the_documentation() -> None:
    sources = [ROOT / f"mlops-cicd/monitor/{name}.py" for name in ("payload", "lines", "capture", "truth")]
    text = "".join(path.read_text() for path in sources)
    reasons = set(re.findall(r'Unreadable\("(\w+)"', text)) | set(re.findall(r'refuse\("(\w+)"', text))
    reasons |= set(re.findall(r'reason = "(\w+)" if .* else "(\w+)"', text)[0]) | {"not_json", "truncated"}
    documentation = (ROOT / "docs/monitoring.md").read_text()
    section = documentation.partition("## Capture files")[2].partition("\n## ")[0]
    documented = set(re.findall(r"`(\w+)`", section))
    shown = {reason for one in CASES for reason in (*one.unreadable, *one.excluded)}
    only_truth = {"not_a_record", "not_readable", "empty"}  # in test_truth.py
    reasons -= only_truth
    documented |= {reason.removeprefix("ground_truth_") for reason in documented}
    assert only_truth <= documented
    assert reasons <= documented, reasons - documented
    assert reasons - {"gzip_too_large"} <= shown, reasons - shown
    assert len(CASES) >= 25


def test_a_gzip_bomb_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "LARGEST_UNPACKED", 3 << 20)
    monkeypatch.setattr(capture, "LONGEST_LINE", 1 << 20)
    monkeypatch.setattr(capture, "PIECE", 256 << 10)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(bytes(64 << 20)))
    rows, account = read(tmp_path, Wanted(NAMES, settings_of(tmp_path).window))
    assert rows.height == 0
    assert dict(account.unreadable) == {"line_too_long": 1, "gzip_too_large": 1}


def test_an_absent_folder_is_a_fault_and_other_files_are_ignored(tmp_path: Path) -> None:
    wanted = Wanted(NAMES, settings_of(tmp_path).window)
    with pytest.raises(ValueError, match="is no folder"):
        read(tmp_path / "absent", wanted)
    (tmp_path / HOUR).mkdir(parents=True)
    (tmp_path / HOUR / "_SUCCESS").write_text("")
    (tmp_path / HOUR / "notes.txt").write_text("hello")
    (tmp_path / "2026/03/04/09").mkdir()
    (tmp_path / "2026/03/04/09/old.jsonl").write_text("of another hour: not even opened")
    rows, account = read(tmp_path, wanted)
    assert (rows.height, account.ignored, dict(account.unreadable)) == (0, 2, {})


def test_what_does_not_fit_into_the_quarantine_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "KEPT", 5)
    (tmp_path / "a.jsonl").write_text("".join(f"bad {number}\n" for number in range(12)))
    _, account = read(tmp_path, Wanted(NAMES, settings_of(tmp_path).window, counted=True))
    kept = [json.loads(text) for text in account.quarantine_lines().splitlines()]
    assert [entry.get("text") for entry in kept] == ["bad 0", "bad 1", "bad 2", "bad 3", "bad 4", None]
    assert kept[-1] == {"not_kept": 7}
    assert [entry["line"] for entry in kept[:-1]] == [1, 2, 3, 4, 5]
    assert account.unreadable == {"not_json": 12}


# ------------------------------------------------------------ the two ways of reading


def spoil(text: str, rng: random.Random) -> bytes:
    """A capture line with something unusual in it, most of the time still a capture line."""
    choices: list[Callable[[str], str | bytes]] = [
        lambda t: t.replace("1,a", '1,\\"a\\"'),
        lambda t: t.replace("1,a", "1,\\u0061"),
        lambda t: t.replace("1,a", "x,y"),
        lambda t: t.replace("1,a", "1,a,b"),
        lambda t: t.replace("1,a", "1"),
        lambda t: t.replace("1,a", " 1 , ä "),
        lambda t: t.replace("1,a", "1,a\\n2,b"),
        lambda t: t.replace("1,a", "1,\\\\"),
        lambda t: t.replace("1,a", ","),
        lambda t: t.replace("1,a", '","data":"7,z'),
        lambda t: t.replace("\\n", "\\r\\n"),
        lambda t: t.replace("\\n", ""),
        lambda t: t.replace("0.3", rng.choice(["0.4", "nan", "good", "", "1e999", "0.1,0.9", " 0.5 "])),
        lambda t: t.replace("0a70500d", rng.choice(["", "ü", "a,b", "smoke-test", '\\"', "x" * 300])),
        lambda t: t.replace("11:30:00Z", rng.choice(["10:30:00Z", "11:59:59Z", "12:00:00Z", "11:3:0Z", "x"])),
        lambda t: t.replace("2026-03-04", rng.choice(["2026-3-04", "2026-13-04", "2026-02-30"])),
        lambda t: t + rng.choice(["}", " ", "\t", ",", "\r"]),
        lambda t: t.replace('"eventVersion":"0"', rng.choice(['"eventVersion":"1"', '"data":"x"'])),
        lambda t: t.replace('"encoding":"CSV"', '"encoding":"BASE64"', 1),
        lambda t: t.replace("text/csv", rng.choice(["application/json", "text/plain", ""]), 1),
        lambda t: t[: rng.randrange(len(t))],
        lambda t: "",
        lambda t: t.encode().replace(b"a", b"\xff", 1),
        lambda t: t.replace("a", rng.choice("\0\x1e\x1f\x0b"), 1),
        lambda t: t.replace('"eventMetadata":{', '"eventMetadata":{"inferenceId":"simulated-1",'),
        lambda t: t.replace('"eventMetadata":{', '"eventMetadata":{"inferenceId":"",'),
        lambda t: t.replace('"eventMetadata":{', '"eventMetadata":{"inferenceTime":"z",'),
        lambda t: json.dumps(json.loads(t)),
        lambda t: json.dumps(json.loads(t), sort_keys=True, separators=(",", ":")),
    ]
    spoiled = rng.choice(choices)(text)
    return spoiled if isinstance(spoiled, bytes) else spoiled.encode()


@pytest.mark.parametrize("outputs", [False, True])
@pytest.mark.parametrize("seed", range(25))
def test_the_fast_way_reads_what_the_careful_way_reads(seed: int, outputs: bool) -> None:
    rng = random.Random(seed)
    forms = [GOOD, line("1,a\n", inferenceId="c-1"), line("1,a"), json.dumps(RECORD)]
    base = rng.choice(forms)
    share = rng.choice([0.3, 0.003])
    lines = [spoil(base, rng) if rng.random() < share else base.encode() for _ in range(400)]
    chunk = b"\n".join(lines) + rng.choice([b"\n", b""])
    wanted = Wanted(NAMES, settings_of(Path()).window, outputs=outputs)
    fast, careful = Intake(), Intake()
    rows = read_lines(chunk, 1, True, wanted, fast, "f")
    numbered = list(enumerate(chunk.replace(b"\r\n", b"\n").split(b"\n"), start=1))
    expected = read_carefully(numbered, not chunk.endswith(b"\n"), wanted, careful, "f")
    assert sorted_rows(*rows) == sorted_rows(expected)
    assert fast.partial() == careful.partial()
    if not outputs:
        counted = Wanted(NAMES, wanted.window, counted=True)
        third = Intake()
        assert added_up(read_lines(chunk, 1, True, counted, third, "f")) == counts_of(expected)
        assert third.partial() == careful.partial()


def sorted_rows(*frames: pl.DataFrame) -> list[str]:
    """Rows in an order of their own; space around a value says nothing, an empty text is a missing one."""
    texts = pl.col(pl.String).fill_null("").str.strip_chars()
    return sorted(str(row) for frame in frames for row in frame.with_columns(texts).rows())


def test_most_lines_go_the_fast_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the fast way would be right by never being used."""
    slow: list[int] = []
    original = read_carefully

    def counted(lines: Any, *rest: Any) -> pl.DataFrame:
        slow.append(len(lines))
        return original(lines, *rest)

    monkeypatch.setattr("monitor.lines.read_carefully", counted)
    lines = [line(f"{n},a\n", inferenceId=f"c{n}") for n in range(500)] + [line("1,2,3"), "x"]
    lines += [line(f"{n},b", eventId=f"e{n}") for n in range(400)]
    text = "\n".join(lines).encode() + b"\n"
    for wanted in (
        Wanted(NAMES, settings_of(Path()).window, outputs=True),
        Wanted(NAMES, settings_of(Path()).window, counted=True),
    ):
        slow.clear()
        account = Intake()
        read_lines(text, 1, True, wanted, account, "f")
        assert account.records == 901
        assert sum(slow) == 2


def test_a_chunk_of_one_form_is_counted_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monitor.lines.finish_form", None)  # the way of chunks that are not all the same
    lines = [line(f"{n % 7}, a\n", eventId=f"e{n}") for n in range(500)]
    wanted = Wanted(NAMES, settings_of(Path()).window, counted=True)
    found = read_lines("\n".join(lines).encode() + b"\n", 1, True, wanted, Intake(), "f")
    assert added_up(found)["y"] == {"a": 500}
