"""How fast the data-quality monitor reads an hour of captured traffic, and with how much memory (make bench).

    monitor    the whole job on a capture file: start, parse, compare, report (a process of its own)
    judging    the monitor's comparison alone, of the same rows in a data frame, as Evidently has them
    parsing    nothing but parsing that file's JSON lines with Polars, the fields that the monitor needs
    Evidently  its data drift on the same rows, already in a data frame; its whole process next to it

The rows have the 20 features of the seed's credit data, drawn column by column, one row a request. No test:
figures depend on the machine, and on what else it does.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "seedcode-repo/base/data/german_credit.csv"
TARGET = "credit_risk"
BENCH_PYTHON = ROOT / ".venv-bench/bin/python"
SCHEDULED = "2026-03-04T12:00:00Z"
AT_ONCE = 250_000
CHUNK = 8 << 20
LINE = (
    '{"captureData":{"endpointInput":{"observedContentType":"text/csv","mode":"INPUT","data":"%s\\n",'
    '"encoding":"CSV"},"endpointOutput":{"observedContentType":"text/csv; charset=utf-8","mode":"OUTPUT",'
    '"data":"%s\\n","encoding":"CSV"}},"eventMetadata":{"eventId":"%s","inferenceTime":"%s"},"eventVersion":"0"}\n'
)
FIELDS = {
    "captureData": pl.Struct(
        {"endpointInput": pl.Struct(dict.fromkeys(("observedContentType", "data", "encoding"), pl.String))}
    ),
    "eventMetadata": pl.Struct(dict.fromkeys(("eventId", "inferenceId", "inferenceTime"), pl.String)),
}


# ------------------------------------------------------------ data


def rows(known: pl.DataFrame, count: int) -> Iterator[pl.DataFrame]:
    """Rows like the known ones: each column drawn for itself, the amount from a continuum."""
    rng = np.random.default_rng(1)
    while count > 0:
        some = min(count, AT_ONCE)
        columns = {name: known[name].gather(rng.integers(0, known.height, some)) for name in known.columns}
        amounts = known["credit_amount"].cast(pl.Float64).log()
        logs = rng.normal(amounts.mean(), amounts.std(), some)
        columns["credit_amount"] = pl.Series(np.exp(logs).round().astype(int)).cast(pl.String)
        yield pl.DataFrame(columns)
        count -= some


def write_capture(folder: Path, count: int) -> int:
    """A capture file, and the same rows as CSV."""
    file, table = folder / "capture.jsonl", folder / "rows.csv"
    known = pl.read_csv(DATA, infer_schema=False).drop(TARGET)
    rng = np.random.default_rng(2)
    with file.open("w") as lines, table.open("wb") as plain:
        for number, frame in enumerate(rows(known, count)):
            frame.write_csv(plain, include_header=not number)
            texts = frame.select(pl.concat_str(pl.all(), separator=",")).to_series().to_list()
            scores = rng.random(frame.height).round(6).tolist()
            ids = [f"{a:08x}-{b:04x}-4{b:03x}-{c:04x}-{a:08x}{b:04x}" for a, b, c in zip(
                rng.integers(0, 2**32, frame.height).tolist(),
                rng.integers(0, 2**12, frame.height).tolist(),
                rng.integers(0, 2**16, frame.height).tolist(),
                strict=True,
            )]  # fmt: skip
            seconds = np.sort(rng.integers(0, 3600, frame.height)).tolist()
            times = [f"2026-03-04T11:{second // 60:02}:{second % 60:02}Z" for second in seconds]
            lines.writelines(LINE % one for one in zip(texts, scores, ids, times, strict=True))
    return 0


# ------------------------------------------------------------ measuring


def measure(command: list[str], env: dict[str, str] | None = None) -> dict[str, Any]:
    """Run a process: seconds, processor seconds, peak memory, and the last line it says."""
    began = time.monotonic()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, env=(env or {}) | {"PATH": os.environ["PATH"]}, stdout=said)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        text = said.read().decode()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed with exit code {process.returncode}")
    return {
        "seconds": time.monotonic() - began,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_mib": usage.ru_maxrss / 1024,
        "said": text.strip().splitlines()[-1] if text.strip() else "",
    }


def parse(file: Path) -> int:
    """Nothing but parsing; chunk by chunk, as memory is limited."""
    count, rest = 0, b""
    with file.open("rb", buffering=0) as stream:
        while piece := stream.read(CHUNK):
            piece = rest + piece
            end = piece.rfind(b"\n") + 1
            rest = piece[end:]
            count += pl.read_ndjson(io.BytesIO(piece[:end]), schema=FIELDS).height
    print(count)
    return 0


def judge(folder: Path, baseline: Path) -> int:
    """The monitor's comparison alone: rows in a data frame, and then the clock."""
    sys.path.insert(0, str(ROOT / "mlops-cicd"))
    from monitor.data_quality import Monitor
    from monitor.settings import Settings, parse_time

    frame = pl.read_csv(folder / "rows.csv", infer_schema=False)
    began = time.monotonic()
    monitor = Monitor(baseline, Settings("data_quality", "bench", parse_time(SCHEDULED)))
    monitor.add(frame)
    records = monitor.finish().records
    print(json.dumps({"seconds": time.monotonic() - began, "rows": records}))
    return 0


def monitor_command(work: Path, folder: Path) -> list[str]:
    """A run of the monitor on a folder of capture."""
    kind = ["--kind", "data_quality", "--baseline", str(work / "baseline/data_quality")]
    return [
        *(sys.executable, str(work / "monitor.pyz"), "run", *kind),
        *("--capture", str(folder), "--output", str(folder / "report")),
    ]


def bench(work: Path, count: int, evidently: bool) -> dict[str, Any]:
    """All figures for so many rows."""
    folder = work / str(count)
    folder.mkdir()
    capture, table = folder / "capture.jsonl", folder / "rows.csv"
    say(f"writing {count:,} captured requests")
    # in a process of its own: a child's peak of memory is at least its parent's size when it began
    measure([sys.executable, __file__, "--rows", str(count), "--write", str(folder)])
    size = capture.stat().st_size
    say(f"monitor and parsing, {size / 2**20:,.0f} MiB")
    subprocess.run(["cat", str(capture)], stdout=subprocess.DEVNULL, check=True)  # all read it from memory
    parsing = measure([sys.executable, __file__, "--parse", str(capture)])
    monitor = measure(monitor_command(work, folder), {"SCHEDULED_TIME": SCHEDULED})
    baseline = work / "baseline/data_quality"
    judging = measure([sys.executable, __file__, "--judge", str(folder), str(baseline)])
    seconds = json.loads(judging["said"])["seconds"]
    result: dict[str, Any] = {"rows": count, "bytes": size, "monitor": monitor, "parsing": parsing}
    result["judging_seconds"] = seconds
    if evidently:
        say("Evidently")
        script = Path(__file__).with_name("evidently_drift.py")
        command = [str(BENCH_PYTHON), str(script), str(work / "features.csv"), str(table)]
        whole = measure(command, {"DO_NOT_TRACK": "1", "HOME": str(work)})
        result["evidently"] = whole | {"drift_seconds": json.loads(whole["said"])["seconds"]}
        result["times_evidently"] = result["evidently"]["drift_seconds"] / monitor["seconds"]
        result["times_evidently_judging"] = result["evidently"]["drift_seconds"] / seconds
        result["times_evidently_whole"] = whole["seconds"] / monitor["seconds"]
    result["times_parsing"] = monitor["seconds"] / parsing["seconds"]
    capture.unlink()
    return result


def say(text: str) -> None:
    """Progress; the figures go to stdout."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def show(result: dict[str, Any]) -> None:
    """One block of figures to read."""
    print(f"\n{result['rows']:,} records, {result['bytes'] / 2**20:,.0f} MiB")
    names = {
        "monitor": "monitor, whole job",
        "parsing": "merely parsing",
        "evidently": "Evidently, whole process",
    }
    for key, name in names.items():
        if key in result:
            one = result[key]
            more = f"{one['cpu_seconds']:8.2f} s of processors {one['peak_mib']:7,.0f} MiB at most"
            show_row(name, result["rows"], one["seconds"], more)
    show_row("monitor, judging alone", result["rows"], result["judging_seconds"], "")
    if "evidently" in result:
        show_row("Evidently, drift alone", result["rows"], result["evidently"]["drift_seconds"], "")
        print(f"  from a data frame to the verdict: {result['times_evidently_judging']:.1f} times Evidently")
        print(f"  the whole job is {result['times_evidently']:.1f} times as fast as Evidently's drift alone")
        print(f"  and {result['times_evidently_whole']:.1f} times as fast as Evidently's whole process")
    print(f"  the whole job takes {result['times_parsing']:.2f} times as long as merely parsing the file")


def show_row(name: str, count: int, seconds: float, more: str) -> None:
    """One line of a block."""
    print(f"  {name:26}{count / seconds:12,.0f} rows/s {seconds:8.2f} s {more}")


def main() -> int:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 5_000_000])
    parser.add_argument(
        "--evidently", type=int, default=1_000_000, help="compare up to so many rows; 0 never"
    )
    parser.add_argument("--json", action="store_true", help="figures as JSON")
    parser.add_argument("--parse", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--judge", type=Path, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.judge:
        return judge(*options.judge)
    if options.write:
        return write_capture(options.write, options.rows[0])
    if options.parse:
        return parse(options.parse)
    sys.path.insert(0, str(ROOT / "mlops-cicd"))
    from mlops_cicd.monitor_code import pack

    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        work = Path(folder)
        (work / "monitor.pyz").write_bytes(pack())
        features = work / "features.csv"
        pl.read_csv(DATA, infer_schema=False).drop(TARGET).write_csv(features)
        command = [sys.executable, str(work / "monitor.pyz"), "baseline", "--dataset", str(features)]
        measure([*command, "--output", str(work / "baseline")])
        results = [bench(work, count, count <= options.evidently) for count in options.rows]
    if options.json:
        print(json.dumps(results, indent=1))
    else:
        for result in results:
            show(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
