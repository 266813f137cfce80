"""The endpoint's server as it really runs: hostile clients, health, stopping under load.

With nginx in front where this machine has it, and gunicorn alone everywhere: both must stand the same.
"""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import compose

AGREE = Path(__file__).with_name("agree.py")
FRONTS = ["gunicorn", *(["nginx"] if shutil.which("nginx") else [])]
LARGEST = 25 * 1024 * 1024
LEAKS = [
    *(b"Traceback", b".py", b"/tmp", b"/opt/", b"site-packages", b"File ", b"Exception", b"object at 0x"),
    *(
        b"sklearn",
        b"pandas",
        b"numpy",
        b"pyarrow",
        b"Arrow",
        b"skops",
        b"gunicorn",
        b"httptools",
        b"inference.",
    ),
]


def post(body: bytes, content_type: str = "text/csv", *more: str, length: object = None) -> bytes:
    """A request as bytes."""
    lines = [
        "POST /invocations HTTP/1.1",
        "Host: model",
        *([f"Content-Type: {content_type}"] if content_type else []),
        f"Content-Length: {len(body) if length is None else length}",
        *more,
    ]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


class Server:
    """`serve` in a process group of its own."""

    def __init__(
        self, project: Path, model: Path, environment: dict[str, str], log: Path, front: str
    ) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.log = log
        with log.open("ab") as stream:  # nginx opens it again: both append
            self.process = subprocess.Popen(
                [sys.executable, str(project / "containers/inference/serve"), "serve"],
                env=environment
                | {
                    "SM_MODEL_DIR": str(model),
                    "BIND_ADDRESS": "127.0.0.1",
                    "SAGEMAKER_BIND_TO_PORT": str(self.port),
                    "SAGEMAKER_MODEL_SERVER_WORKERS": "2",
                    "SAGEMAKER_USE_NGINX": str(front == "nginx").lower(),
                },
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def connect(self, timeout: float = 30) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout)

    def wait(self) -> None:
        """Until /ping says that it is ready; before, it may only say that it is not."""
        end = time.monotonic() + 90
        while self.process.poll() is None and time.monotonic() < end:
            with contextlib.suppress(OSError, http.client.HTTPException):
                status = self.ask("GET", "/ping")[0]
                assert status in (200, 503)
                if status == 200:
                    return
            time.sleep(0.1)
        pytest.fail(f"not ready:\n{self.log.read_text()}")

    def ask(
        self, method: str, path: str, body: bytes = b"", **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(
                method, path, body or None, {k.replace("_", "-"): v for k, v in headers.items()}
            )
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def score(self, body: bytes) -> bytes:
        status, _, text = self.ask("POST", "/invocations", body, Content_Type="text/csv")
        assert status == 200, text
        return text

    def workers(self) -> list[int]:
        """Processes that answer: children of gunicorn, which is the first child of serve."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [
            int(pid) for pid in Path(f"/proc/{children[0]}/task/{children[0]}/children").read_text().split()
        ]

    def lines(self) -> list[dict[str, Any]]:
        """The log; each line is JSON."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(40)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serving") / "project"
    compose.write_folder(compose.compose("sklearn", "realtime"), folder)
    return folder


@pytest.fixture(scope="module")
def model(project: Path, run: Callable) -> Path:
    folder = project / "build"
    script = "preprocess.py", "--input", "data/german_credit.csv", "--output", folder / "data"
    assert run(f"src/{script[0]}", *script[1:], cwd=project).returncode == 0
    parts = ("--train", folder / "data/train", "--validation", folder / "data/validation")
    done = run("src/train.py", *parts, "--model-dir", folder / "model", cwd=project)
    assert done.returncode == 0, done.stderr
    return folder / "model"


@pytest.fixture(scope="module")
def rows(project: Path) -> list[bytes]:
    lines = (project / "data/german_credit.csv").read_bytes().splitlines()[1:]
    return [line.rpartition(b",")[0] + b"\n" for line in lines]


@pytest.fixture
def start(
    project: Path, model: Path, environment: dict[str, str], tmp_path: Path
) -> Iterator[Callable[[str], Server]]:
    started: list[Server] = []

    def starter(front: str) -> Server:
        started.append(Server(project, model, environment, tmp_path / f"log{len(started)}", front))
        started[-1].wait()
        return started[-1]

    yield starter
    for one in started:
        if one.process.poll() is None:
            one.stop()


# ------------------------------------------------------------------ hostile requests


def bodies(row: bytes) -> Iterator[tuple[str, bytes]]:
    """Requests that are HTTP, with a body that is not what it should be."""
    values = row.strip().split(b",")

    def changed(place: int, value: bytes) -> bytes:
        return b",".join([*values[:place], value, *values[place + 1 :]]) + b"\n"

    wrong = [
        *(
            b"old",
            b"inf",
            b"-inf",
            b"nan",
            b"NaN",
            b"1e999",
            b"0x10",
            b"1,5",
            b"--1",
            b"1e",
            b"None",
            b"[]",
            b"{}",
        ),
        *(
            b"true",
            b"1" * 100_000,
            b"\x00",
            b"\xff",
            b"\xc3",
            b"1;2",
            b"'1'",
            b"${jndi:ldap://x}",
            b"=1+1",
            b"%s%n",
        ),
        *(
            b"../../etc/passwd",
            b"<script>",
            b"\xed\xa0\x80",
            b"\xe2\x80\x83",
            b'"',
            b'1"2',
            b'""1',
            b"1\x1a",
            b"\x7f",
        ),
    ]
    for place, value in enumerate(wrong):
        yield f"number {place}", post(changed(1, value))
        yield f"text {place}", post(changed(0, value))
    for count in (0, 1, 19, 21, 1000, 100_000):
        yield f"{count} columns", post(b",".join([b"1"] * count) + b"\n")
    for place, body in enumerate(
        [
            *(
                b"",
                b"\n",
                b"\r\n" * 50,
                b",",
                b"," * 19,
                b"," * 100_000,
                b"\x00" * 5000,
                b"\xff" * 5000,
                os.urandom(9000),
            ),
            *(
                b'"' * 999,
                b'"a\n' * 999,
                row * 999 + b"x",
                row * 500 + b'"',
                row + row[:-9],
                b"\xef\xbb\xbf",
                b"\n" * 100_000,
            ),
            *(
                row.decode().encode("utf-16"),
                row.decode().encode("utf-32"),
                b"\x1f\x8b\x08\x00",
                b"PK\x03\x04" * 99,
            ),
            *(
                b"a" * 200_000,
                b"\r" * 9999,
                row.replace(b"\n", b"\r") * 99,
                row.replace(b",", b";"),
                row.replace(b",", b"\t"),
            ),
        ]
    ):
        yield f"csv {place}", post(body)
    whole = json.dumps([value.decode() for value in values]).encode()
    for place, body in enumerate(
        [
            *(
                b"",
                b"{",
                b"[",
                b"}",
                b"null",
                b"1",
                b'"x"',
                b"[]",
                b"{}",
                b"true",
                b"\x00",
                b"\xff",
                b"nan",
                b"{}{}",
            ),
            *(
                b'{"instances": null}',
                b'{"instances": {}}',
                b'{"instances": []}',
                b'{"instances": [[]]}',
                b'{"instances": 1}',
            ),
            *(
                b'{"instances": [null]}',
                b'{"instances": [1]}',
                b'{"instances": ["x"]}',
                b'{"instances": [{}]}',
            ),
            *(
                b'{"instances": [{"age": 1}]}',
                b'{"instances": [{"age": 1, "age": 2}]}',
                b'{"instances": [[[]]]}',
            ),
            b'{"instances": [], "instances": [' + whole + b"]}",
            b'{"instances": [' + whole + b"]",
            b'{"instances": [' + whole + b"]}x",
            b'{"instances": [' + whole + b", []]}",
            b'{"instances": [' + b"[" * 100_000 + b"]" * 100_000 + b"]}",
            b"[" * 1_000_000,
            b'{"a":' * 200_000,
            b'{"instances": [' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"]}",
            b'{"instances": [' + whole.replace(values[1], b"9" * 5000) + b"]}",
            *(
                b'{"instances": [[' + b", ".join([b'"x"', value, *[b'"x"'] * 18]) + b"]]}"
                for value in (
                    *(
                        b"1e999",
                        b"-1e999",
                        b"NaN",
                        b"Infinity",
                        b"-Infinity",
                        b"true",
                        b"[]",
                        b"{}",
                        b'"x"',
                        b"9" * 4000,
                    ),
                    *(b"9" * 400, b'"\\u0000"', b'"\\ud800"', b"1e-999", b"[1]", b'{"a": 1}', b"9" * 100_000),
                )
            ),
            b'{"instances": [{' + b",".join(b'"k%d": 1' % number for number in range(20_000)) + b"}]}",
            row.decode().encode("utf-16"),
            b'\xef\xbb\xbf{"instances": 1}',
            b'{"instances": ["' + b"\\u0000" * 50_000 + b'"]}',
        ]
    ):
        yield f"json {place}", post(body, "application/json")
    for place, header in enumerate(
        [
            *(
                "image/png",
                "text/csv; charset=utf-16",
                "application/json; charset=latin-1",
                "x" * 4000,
                "text/csv, x",
                "/",
            ),
            *(
                "application/x-www-form-urlencoded",
                "multipart/form-data; boundary=x",
                "text/html",
                "TEXT/CSV;;;=",
                ";",
                "*/*",
            ),
            *(
                "application/x-npy",
                "application/octet-stream",
                "application/jsonlines",
                "text/csv; charset=\xff",
                "%00",
            ),
        ]
    ):
        yield f"content type {place}", post(b"x", header)
    for place, header in enumerate(
        [
            *(
                "Accept: image/png",
                "Accept: ,,,;q=",
                "Accept: */*;q=nan",
                "Accept: text/csv;q=0",
                "Accept: " + "a/b," * 900,
            ),
            *(
                "Content-Encoding: gzip",
                "Content-Encoding: br, gzip",
                "Expect: 200-ok",
                "X-Amzn-SageMaker-Inference-Id: \xff\xfe",
            ),
            *(
                "X-Amzn-SageMaker-Inference-Id: " + "i" * 4000,
                "Range: bytes=0-1",
                "If-Match: x",
                "Cookie: a=b",
                "TE: trailers",
            ),
            *(
                "X-Amzn-SageMaker-Inference-Id: a\r\nX-Amzn-SageMaker-Inference-Id: b",
                "Content-Type: application/json",
            ),
            *(
                "Host: other",
                "Upgrade: websocket\r\nConnection: Upgrade",
                "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings",
            ),
            *(
                "Connection: close, close",
                "Connection: " + "x" * 999,
                "Transfer-Encoding: gzip",
                "X-Forwarded-For: ::1",
            ),
            *("X-HTTP-Method-Override: DELETE", "Content-Length: 1", "Content-Length: 99", "Proxy: http://x"),
        ]
    ):
        yield f"header {place}", post(row.replace(b"A", b"?") * 2 + b"x", "text/csv", header)


def raw(row: bytes) -> Iterator[tuple[str, bytes]]:
    """What is not quite HTTP."""
    good = post(row)
    start = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: text/csv\r\n"
    chunked = start + b"Transfer-Encoding: chunked\r\n\r\n"
    for place, data in enumerate(
        [
            *(
                b"\r\n\r\n",
                b"GET\r\n\r\n",
                b"\x00" * 99 + b"\r\n\r\n",
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
            ),
            *(
                b"GET / HTTP/1.1\r\n\r\n",
                b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
                b"GET /\r\n\r\n",
                b"get / http/1.1\r\nHost: x\r\n\r\n",
            ),
            *(
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
                b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
            ),
            *(
                b"TRACE / HTTP/1.1\r\nHost: x\r\n\r\n",
                b"DELETE /invocations HTTP/1.1\r\nHost: x\r\n\r\n",
                b"A" * 40_000 + b"\r\n\r\n",
            ),
            *(b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /%00 HTTP/1.1\r\nHost: x\r\n\r\n"),
            *(
                b"GET /ping%2f.. HTTP/1.1\r\nHost: x\r\n\r\n",
                b"GET //ping HTTP/1.1\r\nHost: x\r\n\r\n",
                b"GET ping HTTP/1.1\r\n\r\n",
            ),
            *(
                b"GET /invocations HTTP/1.1\r\nHost: x\r\n\r\n",
                b"PUT /ping HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
            ),
            b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET /ping HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 2000 + b"\r\n",
            b"GET /nothing HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 60_000 + b"\r\n\r\n",
            b"GET /nothing HTTP/1.1\r\nHost: x\r\nX y: z\r\n\r\n",
            b"GET /nothing HTTP/1.1\r\nHost: x\r\n folded: z\r\n\r\n",
            b"GET /nothing HTTP/1.1\r\nHost: x\r\nX: \x00\r\n\r\n",
            b"GET /nothing HTTP/1.1\r\nHost: x\r\n: empty\r\n\r\n",
            b"GET /nothing HTTP/1.1\nHost: x\n\n",
            *(
                start + b"Content-Length: " + value + b"\r\n\r\n" + row
                for value in (
                    *(
                        b"-1",
                        b"+5",
                        b"0x10",
                        b"1e3",
                        b"abc",
                        b"",
                        b" ",
                        b"1 2",
                        b"1,1",
                        b"1_0",
                        b"9" * 30,
                        b"99999999999",
                    ),
                    *(b"26214401", b"18446744073709551616", b"\xd9\xa1"),
                )
            ),
            start + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n" + row,
            start + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            start + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
            start + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
            start + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
            start + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
            start + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
            *(
                chunked + data
                for data in (
                    *(
                        b"0\r\n\r\n",
                        b"x\r\n",
                        b"-1\r\n",
                        b"5\r\nabc\r\n0\r\n\r\n",
                        b"ffffffffffffffffff\r\n",
                        b"1\r\nab\r\n0\r\n\r\n",
                    ),
                    *(
                        b"1;x=" + b"y" * 70_000 + b"\r\n1\r\n0\r\n\r\n",
                        b"1\r\nx\r\n" * 2000 + b"0\r\n\r\n",
                        b"1 \r\nx\r\n0\r\n\r\n",
                    ),
                    *(
                        b"1\nx\n0\n\n",
                        b"\r\n",
                        b"0x1\r\nx\r\n0\r\n\r\n",
                        b"1\r\nx\r\n0\r\nContent-Length: 9\r\n\r\n",
                    ),
                )
            ),
            good + b"garbage\r\n\r\n",
            good.replace(b"\r\n", b"\n", 3),
            good * 3 + b"\x00",
            b"\r\n" * 100 + b"x",
        ]
    ):
        yield f"raw {place}", data


def exchange(server: Server, data: bytes, half: bool = True) -> bytes:
    """Send bytes, say that no more comes, and read what is answered until the other side closes."""
    answer = b""
    with server.connect() as client:
        sender = threading.Thread(target=send, args=(client, data, half), daemon=True)
        sender.start()
        with contextlib.suppress(ConnectionError):
            while piece := client.recv(65536):
                answer += piece
        sender.join(30)
    return answer


def send(client: socket.socket, data: bytes, half: bool) -> None:
    """A server that has seen enough may close while this still sends."""
    with contextlib.suppress(OSError):
        client.sendall(data)
        if half:
            client.shutdown(socket.SHUT_WR)


def statuses(answer: bytes) -> list[int]:
    """The statuses of the answers on a connection."""
    found = []
    while answer:
        if answer.startswith(b'{"error": '):  # nginx answers HTTP/0.9 in its way: without a header
            return [*found, 400]
        head, _, rest = answer.partition(b"\r\n\r\n")
        line, *headers = head.split(b"\r\n")
        assert line.startswith(b"HTTP/1."), answer[:300]
        sizes = [int(h.split(b":")[1]) for h in headers if h.lower().startswith(b"content-length")]
        found.append(int(line.split()[1]))
        if found[-1] in (100, 204, 304):
            answer = rest
            continue
        assert len(sizes) == 1, head
        answer = rest[sizes[0] :]
    return found


class Honest(threading.Thread):
    """A client like any other, beside the hostile ones."""

    def __init__(self, server: Server, row: bytes, expected: bytes) -> None:
        super().__init__(daemon=True)
        self.server, self.row, self.expected = server, row, expected
        self.ended = threading.Event()
        self.seconds: list[float] = []
        self.failures: list[object] = []

    def run(self) -> None:
        while not self.ended.is_set():
            began = time.monotonic()
            try:
                if (text := self.server.score(self.row)) != self.expected:
                    self.failures.append(text)
            except (OSError, http.client.HTTPException, AssertionError) as error:
                self.failures.append(error)
            self.seconds.append(time.monotonic() - began)


@pytest.mark.parametrize("front", FRONTS)
def test_hostile_requests_are_refused_and_harm_nobody(
    front: str, start: Callable[[str], Server], rows: list[bytes]
) -> None:
    """No 5xx, no crash, no word about the inside, and no honest client waits for a hostile one."""
    server = start(front)
    workers = server.workers()
    expected = server.score(rows[0])
    # Slow ones first: they hang while the others are tried, more of them than a pool of threads would have.
    slow = [server.connect(60) for _ in range(60)]
    for number, client in enumerate(slow):
        client.sendall((b"POST /invoc", post(rows[0])[:-5])[number % 2])
    honest = Honest(server, rows[0], expected)
    honest.start()
    hostile = [*bodies(rows[0]), *raw(rows[0])]
    assert len(hostile) >= 200
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda one: exchange(server, one[1]), hostile))
    for name, size in (("declared", LARGEST + 1), ("lied", None)):
        if size:
            answers.append(exchange(server, post(b"x" * 1000, length=size), half=False))
        else:
            chunk = b"100000\r\n" + b"1" * 0x100000 + b"\r\n"
            head = post(b"", "text/csv", "Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b"")
            answers.append(exchange(server, head + chunk * 27, half=False))
        hostile.append((f"too large, {name}", b""))
    for (name, _), answer in zip(hostile, answers, strict=True):
        found = statuses(answer)
        assert all(status < 500 for status in found), (name, answer[:500])
        for word in LEAKS:
            assert word not in answer, (name, answer[:500])
        if name.startswith("too large"):
            assert found == [413], (name, answer[:300])
        if not name.startswith("raw"):
            assert found, name
        if found and found[-1] >= 400:
            text = answer.rpartition(b"\r\n\r\n")[2]
            assert text.startswith(b'{"error": ') and len(text) < 4000, (name, answer[-500:])
            assert json.loads(text)["error"], name
    for client in slow:  # in the end they are told, or the connection is closed
        with contextlib.suppress(ConnectionError), client:
            assert client.recv(100)[:12] in (b"", b"HTTP/1.1 408")
    honest.ended.set()
    honest.join(30)
    assert honest.failures == []
    # This test uses the same cores; but who waits for a slow client waits for ten seconds.
    assert statistics.median(honest.seconds) < 0.5 and max(honest.seconds) < 5
    assert server.workers() == workers and server.ask("GET", "/ping")[0] == 200
    assert server.score(rows[0]) == expected
    for line in server.lines():
        assert line["event"] in ("request", "refused"), line
        assert line["status"] < 500 or line["path"] == "/ping", line  # not ready, at first
    assert "jndi" not in server.log.read_text() and "passwd_" not in server.log.read_text()
    assert server.stop() == 0


@pytest.mark.parametrize("front", FRONTS)
def test_contract_of_a_good_request(front: str, start: Callable[[str], Server], rows: list[bytes]) -> None:
    """The inference id comes back and is logged; the log has no payload; chunks are taken."""
    server = start(front)
    status, headers, text = server.ask(
        "POST", "/invocations", rows[0], Content_Type="text/csv", X_Amzn_SageMaker_Inference_Id="id-7"
    )
    assert (status, headers["x-amzn-sagemaker-inference-id"], headers["content-type"]) == (
        200,
        "id-7",
        "text/csv",
    )
    request = post(rows[0])
    assert statuses(exchange(server, request * 5)) == [200] * 5  # one behind the other, unasked
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(row), row) for row in rows[:50]) + b"0\r\n\r\n"
    head = post(b"", "text/csv", "Transfer-Encoding: chunked", "Connection: close")
    answer = exchange(server, head.replace(b"Content-Length: 0\r\n", b"") + chunks)
    assert answer.partition(b"\r\n\r\n")[2].splitlines()[0] == text.strip() and answer.count(b"0.") >= 50
    with server.connect() as client:  # who asks first is told to go on
        client.sendall(post(rows[0], "text/csv", "Expect: 100-continue")[: -len(rows[0])])
        assert client.recv(100).startswith(b"HTTP/1.1 100 Continue")
        client.sendall(rows[0])
        assert client.recv(1000).startswith(b"HTTP/1.1 200 OK")
    assert server.ask("HEAD", "/ping")[::2] == (200, b"")
    assert server.stop() == 0
    (line,) = [line for line in server.lines() if line.get("inference_id") == "id-7"]
    assert (line["status"], line["rows"], line["bytes_in"], line["path"]) == (
        200,
        1,
        len(rows[0]),
        "/invocations",
    )
    assert rows[0].decode().split(",")[4] not in json.dumps({**line, "time": ""})


@pytest.mark.parametrize("front", FRONTS)
def test_who_asks_at_the_same_time_gets_the_own_answer(
    front: str, start: Callable[[str], Server], rows: list[bytes]
) -> None:
    """Requests that are scored together: of every three one is wrong, and two differ in form."""
    server = start(front)
    asked = []
    for number, row in enumerate(rows[:48]):
        bad = row.replace(b",", b",x", 1) if number % 3 == 0 else row
        accept = "application/json" if number % 3 == 1 else "text/csv"
        asked.append((bad, {"Content_Type": "text/csv", "Accept": accept}))

    def ask(one: tuple[bytes, dict[str, str]]) -> tuple[int, bytes]:
        status, _, text = server.ask("POST", "/invocations", one[0], **one[1])
        return status, text

    alone = [ask(one) for one in asked]
    assert [status for status, _ in alone] == [400, 200, 200] * 16
    with ThreadPoolExecutor(16) as clients:
        for _ in range(20):
            assert list(clients.map(ask, asked)) == alone


@pytest.mark.parametrize("front", FRONTS)
def test_a_stop_under_load_fails_no_request(
    front: str, start: Callable[[str], Server], rows: list[bytes]
) -> None:
    """Whoever could connect and ask is answered; then nobody can connect."""
    server = start(front)
    body = b"".join(rows[:200])
    answered, failed = [], []

    def client() -> None:
        while True:
            try:
                connection = server.connect()
            except OSError:
                return  # the server is gone
            with connection:
                try:
                    connection.sendall(post(body, "text/csv", "Connection: close"))
                    answer = b""
                    while piece := connection.recv(65536):
                        answer += piece
                except OSError as error:
                    failed.append(error)
                    return
            (
                answered if answer.startswith(b"HTTP/1.1 200") and answer.count(b"\n0.") == 200 else failed
            ).append(answer)

    threads = [threading.Thread(target=client, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    while len(answered) < 50 and not failed:
        time.sleep(0.01)
    assert server.stop() == 0
    for thread in threads:
        thread.join(30)
    assert failed == [] and len(answered) >= 50
    with pytest.raises(ProcessLookupError):
        os.killpg(server.process.pid, 0)


def test_a_port_that_is_taken_is_named(project: Path, model: Path, environment: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        more = {"BIND_ADDRESS": "127.0.0.1", "SAGEMAKER_BIND_TO_PORT": str(port), "SM_MODEL_DIR": str(model)}
        done = subprocess.run(
            [sys.executable, str(project / "containers/inference/serve"), "serve"],
            env=environment | more,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 1
    assert done.stderr.startswith(f"serve: cannot listen on 127.0.0.1:{port}: Address already in use")
    assert "SAGEMAKER_BIND_TO_PORT" in done.stderr and "Traceback" not in done.stderr


def test_ping_fails_while_a_worker_is_missing(start: Callable[[str], Server], rows: list[bytes]) -> None:
    """gunicorn cannot replace a worker that dies while it is stopped itself; then one worker is not two."""
    server = start(FRONTS[-1])
    (first, *_) = server.workers()
    parent = int(Path(f"/proc/{first}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(parent, signal.SIGSTOP)
    os.kill(first, signal.SIGKILL)
    # a zombie, until its parent goes on: only its beat tells
    deadline = time.monotonic() + 20
    while server.ask("GET", "/ping")[0] == 200 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert server.ask("GET", "/ping")[0] == 503
    server.score(rows[0])  # the other one answers
    os.kill(parent, signal.SIGCONT)
    server.wait()
    assert server.stop() == 0


def test_what_ready_means(project: Path, run: Callable, tmp_path: Path) -> None:
    """All workers beat, or compute for not too long; a stopping server is not ready."""
    script = f"""
import os, sys, time
from pathlib import Path
sys.path.insert(0, {str(project / "containers/inference")!r})
import server
health = server.Health(Path({str(tmp_path / "health")!r}), 2, 30)
now = time.monotonic()
seen = [health.ready()]
health.note(1, now); seen.append(health.ready())
health.note(2, now); seen.append(health.ready())
health.note(2, now - 60); seen.append(health.ready())
health.note(2, now - 60, now - 20); seen.append(health.ready())
health.note(2, now - 60, now - 31); seen.append(health.ready())
health.note(3, now); seen.append(health.ready())
health.note(1, 0.0); seen.append(health.ready())
health.note(1, now); health.stopping = True; seen.append(health.ready())
os.environ["SAGEMAKER_MAX_PAYLOAD_IN_MB"] = "100"
print(seen, server.largest_body() >> 20)
"""
    done = run("-c", script)
    seen = [False, False, True, False, True, False, True, False, False]
    assert done.stdout.strip() == f"{seen} 100", done.stdout + done.stderr


def test_a_signal_belongs_to_the_server_while_rows_are_read(
    project: Path, model: Path, rows: list[bytes], run: Callable
) -> None:
    """A stop neither fails the request that is being read nor gets lost: Arrow by itself would do both."""
    script = f"""
import os, signal, sys, threading
from pathlib import Path
sys.path.insert(0, "src")
import inference
heard, model = [], inference.load_model(Path({str(model)!r}))
signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
body, ended = {b"".join(rows)!r} * 20, threading.Event()
def send():
    while not ended.wait(0.002):
        os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=send).start()
try:
    for _ in range(30):
        assert len(inference.read_csv(body, model)) == {20 * len(rows)}
finally:
    ended.set()
assert len(heard) > 20, heard
"""
    (path := project / "signals.py").write_text(script)
    done = run(path, cwd=project)
    assert done.returncode == 0, done.stderr


def test_the_fast_and_the_exact_way_to_read_rows_agree(project: Path, run: Callable) -> None:
    done = run(AGREE, 20261121, 2500, cwd=project)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout) > 1000  # the fast way was really tried
