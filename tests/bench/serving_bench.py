"""Our serving stack beside AWS's open-source scikit-learn serving stack, and beside bare predict calls.

    make bench-serving                      the table
    make bench-serving JSON=1               the same as JSON
    make bench-serving ARGS='--seconds 5'   longer rounds

Same machine, model, payload and client (wrk, which shares the cores), two workers each. Rounds of the two
take turns, so what disturbs the machine disturbs both; the median counts. Beside requests a second stands the
processor time of a request, which stays true on a machine that does other things too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
ANCHOR = ROOT / ".venv-bench-serving"
WORKERS = 2
CLIENTS = (1, 8, 64)
NAMES = {"light": "light, 1", "credit": "credit, 1", "batch": "credit, 1,000"}
ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL", "NUMEXPR")}
LUA = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "text/csv"
local file = io.open(os.getenv("BENCH_BODY"), "rb")
wrk.body = file:read("*a")
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("\\nRESULT %d %d %d %d %d\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout))
end
"""
LIGHT = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import numpy as np
from inference import Model, save_model
from sklearn.linear_model import LogisticRegression
rows = np.random.default_rng(0).normal(size=(500, 5))
features = [{"name": name, "kind": "number"} for name in "abcde"]
metadata = {"features": features, "positive_class": "yes", "negative_class": "no"}
save_model(Model(LogisticRegression().fit(rows, rows[:, 0] > 0), metadata), Path(sys.argv[2]))
"""
BARE = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from inference import load_model, to_frame
model = load_model(Path(sys.argv[2]))
rows = [line.split(",") for line in Path(sys.argv[3]).read_text().splitlines()]
table = to_frame(rows, model)
table = table if hasattr(model.pipeline, "feature_names_in_") else table.to_numpy()
for _ in range(20):
    model.pipeline.predict_proba(table)
print("ready", flush=True)
sys.stdin.readline()
calls, began, used = 0, time.perf_counter(), time.process_time()
while time.perf_counter() - began < float(sys.argv[4]):
    model.pipeline.predict_proba(table)
    calls += 1
print(calls / (time.perf_counter() - began), (time.process_time() - used) / calls)
"""


def free_port() -> int:
    """A port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def tree(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for one in found:
        with contextlib.suppress(OSError):
            found += map(int, Path(f"/proc/{one}/task/{one}/children").read_text().split())
    return found


def cpu_seconds(pids: list[int]) -> float:
    """Processor time of processes so far."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def megabytes(pids: list[int]) -> float:
    """Memory of processes; what they share is counted once."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            match = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
            total += int(match[1]) if match else 0
    return total / 1024


class Stack:
    """A running server of one kind."""

    def __init__(self, kind: str, nginx: bool, case: Case, folder: Path) -> None:
        self.kind, self.nginx, self.folder = kind, nginx, folder
        self.port = free_port()
        folder.mkdir()
        folder.chmod(0o755)
        self.processes: list[subprocess.Popen] = []
        environment = {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("SM_", "SAGEMAKER_"))
            },
            **ONE_THREAD,
            "SM_MODEL_DIR": str(case.model),
        }
        (self._ours if kind == "ours" else self._anchor)(environment, case)
        self._wait()
        self.pids = [pid for process in self.processes for pid in tree(process.pid)]

    def _start(self, command: list[str], environment: dict[str, str]) -> None:
        with (self.folder / "log").open("ab") as log:
            self.processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))

    def _ours(self, environment: dict[str, str], case: Case) -> None:
        self._start(
            [str(ANCHOR / "bin/python"), str(case.project / "containers/inference/serve"), "serve"],
            environment
            | {
                "BIND_ADDRESS": "127.0.0.1",
                "SAGEMAKER_BIND_TO_PORT": str(self.port),
                "SAGEMAKER_MODEL_SERVER_WORKERS": str(WORKERS),
                "SAGEMAKER_USE_NGINX": str(self.nginx).lower(),
            },
        )

    def _anchor(self, environment: dict[str, str], case: Case) -> None:
        # as sagemaker_containers/_server.py starts it, but for the address
        listen = f"127.0.0.1:{self.port}"
        socket_file = f"unix:{self.folder}/gunicorn.sock"
        self._start(
            [
                *(str(ANCHOR / "bin/gunicorn"), "--timeout", "60", "-k", "gevent"),
                *("--pythonpath", f"{case.project / 'src'},{Path(__file__).parent}"),
                *("-b", socket_file if self.nginx else listen, "--no-control-socket"),
                *("--worker-connections", str(1000 * WORKERS), "-w", str(WORKERS), "--log-level", "info"),
                "serving_anchor:app",
            ],
            environment | {"BENCH_FRAME": str(int(case.frame)), "SAGEMAKER_BASE_DIR": str(self.folder)},
        )
        if self.nginx:
            template = next(
                (ANCHOR / "lib").glob("python*/site-packages/sagemaker_containers/etc/nginx.conf.template")
            )
            text = template.read_text().replace("%NGINX_HTTP_PORT%", listen)
            text = text.replace("%NGINX_PROXY_READ_TIMEOUT%", "60").replace(
                "unix:/tmp/gunicorn.sock", socket_file
            )
            text = text.replace("/tmp/nginx.pid", f"{self.folder}/nginx.pid")
            (self.folder / "nginx.conf").write_text(text)
            nginx = str(shutil.which("nginx"))
            self._start([nginx, "-c", f"{self.folder}/nginx.conf", "-p", str(self.folder)], environment)

    def _wait(self) -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and all(process.poll() is None for process in self.processes):
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/ping") as answer,
            ):
                if answer.status == 200:
                    return
            time.sleep(0.1)
        raise SystemExit(f"{self.kind} did not start:\n{(self.folder / 'log').read_text()[-3000:]}")

    def load(self, case: Case, clients: int, seconds: int) -> dict[str, float]:
        """One round of wrk."""
        used = cpu_seconds(self.pids)
        done = subprocess.run(
            [
                *("wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "30s"),
                *("-s", str(case.lua), f"http://127.0.0.1:{self.port}/invocations"),
            ],
            env=os.environ | {"BENCH_BODY": str(case.body)},
            capture_output=True,
            text=True,
            check=True,
        )
        requests, microseconds, p50, p99, errors = map(
            int, re.findall(r"RESULT (.*)", done.stdout)[0].split()
        )
        if errors:
            raise SystemExit(f"{self.kind}: {errors} requests failed\n{done.stdout}")
        return {
            "requests_per_second": requests / microseconds * 1e6,
            "p50_ms": p50 / 1000,
            "p99_ms": p99 / 1000,
            "cpu_us": (cpu_seconds(self.pids) - used) / max(requests, 1) * 1e6,
            "memory_mb": megabytes(self.pids),
        }

    def stop(self) -> None:
        """End all of it."""
        for process in reversed(self.processes):
            process.terminate()
            process.wait(60)


class Case:
    """A model and the request that is sent again and again."""

    def __init__(self, name: str, project: Path, model: Path, body: bytes, frame: bool) -> None:
        self.name, self.project, self.model, self.frame = name, project, model, frame
        self.body, self.lua = model.parent / f"{name}.csv", model.parent / "post.lua"
        self.body.write_bytes(body)
        self.lua.write_text(LUA)


def python(*arguments: object) -> None:
    """Run Python with the packages of the bench."""
    subprocess.run([str(ANCHOR / "bin/python"), *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def cases(folder: Path) -> list[Case]:
    """The light model, and the project's own with one row and with a thousand."""
    project = folder / "project"
    compose = [sys.executable, str(ROOT / "scripts/compose.py"), "--framework", "sklearn"]
    subprocess.run(
        [*compose, "--inference", "realtime", "--out", str(project)], check=True, stdout=subprocess.DEVNULL
    )
    source, data = project / "src", folder / "data"
    python(source / "preprocess.py", "--input", project / "data/german_credit.csv", "--output", data)
    credit, light = folder / "credit/model", folder / "light/model"
    python(
        *(source / "train.py", "--train", data / "train", "--validation", data / "validation"),
        *("--model-dir", credit),
    )
    python("-c", LIGHT, source, light)
    lines = (project / "data/german_credit.csv").read_text().splitlines()[1:1001]
    rows = [line.rpartition(",")[0] for line in lines]
    return [
        Case("light", project, light, b"0.1,-0.2,0.3,0.4,0.5\n", False),
        Case("credit", project, credit, f"{rows[0]}\n".encode(), True),
        Case("batch", project, credit, ("\n".join(rows) + "\n").encode(), True),
    ]


def bare(case: Case, seconds: int) -> tuple[float, float]:
    """Bare predict calls a second of all cores, and processor seconds a call."""
    command = [str(ANCHOR / "bin/python"), "-c", BARE, str(case.project / "src"), str(case.model)]
    running = [
        subprocess.Popen(
            [*command, str(case.body), str(seconds)],
            env=os.environ | ONE_THREAD,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(WORKERS)
    ]
    for one in running:
        assert one.stdout is not None
        one.stdout.readline()
    for one in running:
        assert one.stdin is not None
        one.stdin.write("\n")
        one.stdin.flush()
    found = [tuple(map(float, one.communicate()[0].split())) for one in running]
    return sum(rate for rate, _ in found), statistics.mean(cost for _, cost in found)


def rounds(case: Case, nginx: bool, count: int, seconds: int, folder: Path) -> Iterator[dict[str, Any]]:
    """The two stacks in turns; a row for each number of clients and stack."""
    stacks = [Stack(kind, nginx, case, folder / f"{case.name}-{kind}-{nginx}") for kind in ("ours", "anchor")]
    try:
        for stack in stacks:
            stack.load(case, 8, 1)  # warm
        for clients in CLIENTS if case.name != "batch" else (1,):
            found: dict[str, list[dict[str, float]]] = {"ours": [], "anchor": []}
            for _ in range(count):
                for stack in stacks:
                    found[stack.kind].append(stack.load(case, clients, seconds))
            for kind, results in found.items():
                median = {name: statistics.median(one[name] for one in results) for name in results[0]}
                yield {"case": case.name, "nginx": nginx, "clients": clients, "stack": kind, **median}
    finally:
        for stack in stacks:
            stack.stop()


def table(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = [
        "| model, rows | nginx | clients | stack | requests/s | p50 ms | p99 ms | CPU us | memory MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        lines.append(
            f"| {NAMES[row['case']]} | {'yes' if row['nginx'] else 'no'} | {row['clients']} "
            f"| {row['stack']} | "
            f"{row['requests_per_second']:,.0f} | {row['p50_ms']:.2f} | {row['p99_ms']:.1f} | "
            f"{row['cpu_us']:,.0f} | {row['memory_mb']:,.0f} |"
        )
    lines += ["", *(f"{name}: {value}" for name, value in report["ratios"].items())]
    return "\n".join(lines)


def ratios(rows: list[dict[str, Any]], bare_calls: dict[str, tuple[float, float]]) -> dict[str, float]:
    """What the goals are about."""

    def one(case: str, nginx: bool, clients: int, stack: str) -> dict[str, Any]:
        keys = {"case": case, "nginx": nginx, "clients": clients, "stack": stack}
        return next((row for row in rows if keys.items() <= row.items()), {})

    found: dict[str, float] = {}
    for nginx in sorted({row["nginx"] for row in rows}):
        where = "with nginx" if nginx else "without nginx"
        if "light" in bare_calls:
            ours, anchor = one("light", nginx, 8, "ours"), one("light", nginx, 8, "anchor")
            for name, word in (
                ("requests_per_second", "requests/s"),
                ("p99_ms", "p99"),
                ("cpu_us", "CPU time"),
            ):
                found[f"light model, 8 clients, {where}: {word} of the anchor's"] = ours[name] / anchor[name]
        if "credit" in bare_calls:
            rate, _ = bare_calls["credit"]
            found[f"credit pipeline, 8 clients, {where}: requests/s of bare predict calls/s"] = (
                one("credit", nginx, 8, "ours")["requests_per_second"] / rate
            )
        if "batch" in bare_calls:
            _, cost = bare_calls["batch"]
            found[f"1,000 rows, {where}: CPU time of bare predict"] = (
                one("batch", nginx, 1, "ours")["cpu_us"] / 1e6 / cost
            )
    return {name: round(value, 3) for name, value in found.items()}


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=3, help="of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    args = parser.parse_args()
    if not shutil.which("wrk"):
        print("bench-serving: the client is wrk; install it (apt-get install wrk)", file=sys.stderr)
        return 2
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="bench-serving-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        known = cases(folder)
        calls: dict[str, list[tuple[float, float]]] = {case.name: [] for case in known}
        for nginx in (False, True) if shutil.which("nginx") else (False,):
            for case in (one for one in known if one.name in args.cases):
                calls[case.name].append(bare(case, args.seconds))
                rows += rounds(case, nginx, args.rounds, args.seconds, folder)
                calls[case.name].append(bare(case, args.seconds))
        middle = {
            case: (statistics.median(rate for rate, _ in one), statistics.median(cost for _, cost in one))
            for case, one in calls.items()
            if one
        }
    report = {
        "cores": os.cpu_count(),
        "workers": WORKERS,
        "rows": rows,
        "bare": {
            case: {"calls_per_second": rate, "cpu_us": cost * 1e6} for case, (rate, cost) in middle.items()
        },
        "ratios": ratios(rows, middle),
    }
    print(json.dumps(report, indent=2) if args.json else table(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
