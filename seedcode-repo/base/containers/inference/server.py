"""The worker process of the endpoint: reads HTTP, asks the application, writes the answer; and its health.

One thread: what a model computes occupies a core, so threads would only wait for one another. Sockets never
block, so a slow client keeps nobody waiting, also where there is no nginx. Small requests that wait at the
same time are scored together, where the application says that this pays. A worker takes no more new clients
at once than that, and only when it has nothing to compute: what waits stays in the queue that all share.

gunicorn starts the workers, replaces one that dies, and kills one whose request takes longer than the limit.
"""

import contextlib
import itertools
import json
import mmap
import os
import select
import selectors
import socket
import struct
import sys
import time
import traceback
from collections import deque
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httptools
from gunicorn.workers import base

HEADER_BYTES, HEADERS = 32 * 1024, 100
HEADER_SECONDS = 10  # to send the header of a request
GAP_SECONDS, BODY_SECONDS = 15, 60  # between two pieces of a body, and for all of it
IDLE_SECONDS = 75  # a connection without a request
WRITE_SECONDS = 30  # for a client that does not take its answer
LINGER_SECONDS = 2  # to let a client that is still sending read that it was refused
SMALL = 4096  # bytes of a request that is scored together with others
LAST_CALL_SECONDS = (
    0.5  # a client that sends on an idle connection while the server stops still gets its answer
)
CONNECTIONS = 1000  # of one worker
BEAT_SECONDS, LOST_SECONDS = 1.0, 10.0
READ = 256 * 1024
ID = "x-amzn-sagemaker-inference-id"
MEGABYTE = 1024 * 1024


def largest_body() -> int:
    """Bytes: 25 MB, the most that InvokeEndpoint lets through; a transform job says what it sends at most.

    SAGEMAKER_MAX_PAYLOAD_IN_MB is what a transform job sets (0: no limit, then 1,024 MB hold).
    """
    given = os.environ.get("SAGEMAKER_MAX_PAYLOAD_IN_MB", "")
    return max(25, int(given) or 1024) * MEGABYTE if given.isdecimal() else 25 * MEGABYTE


class Health:
    """Which workers can answer: a file that all processes share, with a place for each worker.

    A place holds the worker's last beat, since when it computes (0: it does not), and its process.
    """

    PLACES, PLACE = 1024, struct.Struct("ddq")

    def __init__(self, file: Path, workers: int, busy_seconds: float) -> None:
        self.workers, self.busy_seconds = workers, busy_seconds
        self.stopping = False
        with file.open("ab+") as handle:
            handle.truncate(self.PLACES * self.PLACE.size)
            self._memory = mmap.mmap(handle.fileno(), 0)

    def note(self, worker: int, beat: float, busy_since: float = 0.0) -> None:
        """Write a worker's place; beat 0 takes it away."""
        place = worker % self.PLACES * self.PLACE.size
        self.PLACE.pack_into(self._memory, place, beat, busy_since, os.getpid())

    def ready(self) -> bool:
        """Whether every worker can answer: it beats, or computes for not too long."""
        now = time.monotonic()
        able = sum(
            (now - busy_since <= self.busy_seconds if busy_since else now - beat <= LOST_SECONDS)
            and alive(pid)
            for beat, busy_since, pid in self.PLACE.iter_unpack(self._memory)
            if beat
        )
        return able >= self.workers and not self.stopping


def alive(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def health_from_environment() -> Health:
    """The health file that `serve` has named."""
    timeout = float(os.environ.get("SAGEMAKER_MODEL_SERVER_TIMEOUT") or 60)
    return Health(Path(os.environ["SERVE_HEALTH"]), int(os.environ["SERVE_WORKERS"]), timeout / 2)


def line(**entry: Any) -> bytes:
    """A line of the log: JSON. Nothing of a payload may be in it."""
    stamp = time.time()
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(stamp)) + f".{int(stamp % 1 * 1000):03d}Z"
    return (json.dumps({"time": moment, **entry}) + "\n").encode()


def error_body(reason: str) -> bytes:
    """The body of a refusal."""
    return json.dumps({"error": reason}).encode() + b"\n"


class Request:
    """A request while it is read."""

    __slots__ = ("body", "close", "headers", "method", "refusal", "size", "url")

    def __init__(self) -> None:
        self.url = b""
        self.method = ""
        self.headers: dict[str, str] = {}
        self.body: list[bytes] = []
        self.size = 0
        self.close = True
        self.refusal: tuple[int, str] | None = None


class Connection:
    """One client: its parser calls the on_ methods."""

    def __init__(self, worker: "Worker", client: socket.socket) -> None:
        self.worker, self.client = worker, client
        self.parser = httptools.HttpRequestParser(self)
        self.request = Request()
        self.partial = False  # a request has begun and is not complete
        self.requests: deque[Request] = deque()
        self.out = b""
        self.head_bytes = 0
        self.in_head = True
        self.ended = self.closing = self.lingering = False
        self.watched = 0
        self.began = time.monotonic()
        self.deadline = self.began + HEADER_SECONDS

    # -- the parser's calls
    def on_message_begin(self) -> None:
        """A request begins."""
        self.request = Request()
        self.partial = self.in_head = True
        self.began = time.monotonic()
        self.deadline = self.began + HEADER_SECONDS

    def on_url(self, url: bytes) -> None:
        """A piece of the target."""
        self.request.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; one that may be there once only is refused when it comes again."""
        request = self.request
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        if len(request.headers) >= HEADERS:
            request.refusal = request.refusal or (431, f"more than {HEADERS} headers")
        elif key not in request.headers:
            request.headers[key] = text
        elif key in ("content-type", "content-encoding", "content-length", "host", ID):
            request.refusal = request.refusal or (400, f"the header {key} is there twice")
        else:
            request.headers[key] += f", {text}"

    def on_headers_complete(self) -> None:
        """The header is read: refuse early what would be refused anyway."""
        request = self.request
        self.in_head, self.head_bytes = False, 0
        request.method = self.parser.get_method().decode("latin-1")
        request.close = not self.parser.should_keep_alive()
        length = request.headers.get("content-length", "0")
        codings = request.headers.get("transfer-encoding", "chunked").strip().lower()
        if codings != "chunked":
            request.refusal = request.refusal or (400, "Transfer-Encoding may only be chunked")
        if length.isdecimal() and (len(length) > 15 or int(length) > self.worker.largest):
            request.refusal = request.refusal or self.worker.too_large
        expects = request.headers.get("expect", "").lower() == "100-continue"
        if expects and not request.refusal and not self.requests and not self.out:
            self.out = b"HTTP/1.1 100 Continue\r\n\r\n"

    def on_body(self, piece: bytes) -> None:
        """A piece of the body."""
        request = self.request
        request.size += len(piece)
        if request.size > self.worker.largest:
            request.refusal = request.refusal or self.worker.too_large
        if request.refusal:
            request.body.clear()
        else:
            request.body.append(piece)

    def on_message_complete(self) -> None:
        """The request is complete; it is answered when it is its turn."""
        self.requests.append(self.request)
        self.request = Request()
        self.in_head = True
        self.partial = False

    # -- sockets
    def read(self) -> None:
        """Take what the client has sent."""
        try:
            data = self.client.recv(READ)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.close()
            return
        if self.lingering:
            if not data:
                self.close()
            return
        if not data:
            self.ended = True
            if self.partial:
                self.refuse(400, "the request ended before it was complete")
            elif not self.requests and not self.out:
                self.close()
            return
        if self.in_head:
            self.head_bytes += len(data)
        else:
            self.deadline = min(time.monotonic() + GAP_SECONDS, self.began + BODY_SECONDS)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.refuse(400, "there is nothing to upgrade to")
        except httptools.HttpParserError:
            self.refuse(400, "the request is not HTTP/1.1")
        else:
            request = self.request
            if self.partial and request.refusal:
                self.refuse(*request.refusal)
            elif self.partial and self.in_head and self.head_bytes > HEADER_BYTES:
                self.refuse(431, f"the header is larger than {HEADER_BYTES} bytes")
            elif self.partial and not self.in_head:
                self.deadline = min(time.monotonic() + GAP_SECONDS, self.began + BODY_SECONDS)
            elif self.requests:
                self.head_bytes = 0

    def refuse(self, status: int, reason: str) -> None:
        """Answer a request that cannot be read, behind what was asked before it; then no more is read."""
        request, self.request, self.partial = self.request, Request(), False
        request.refusal, request.close = (status, reason), True
        self.requests.append(request)
        self.closing = True

    def answer(self, request: Request, answer: tuple[int, bytes, str, str, int]) -> None:
        """Write one answer."""
        status, body, content_type, allow, rows = answer
        close = request.close or bool(request.refusal) or self.ended or not self.worker.alive
        phrase = self.worker.phrases.get(status, "")
        head = (
            f"HTTP/1.1 {status} {phrase}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
        )
        if allow:
            head += f"Allow: {allow}\r\n"
        if ID in request.headers:
            head += f"X-Amzn-SageMaker-Inference-Id: {request.headers[ID]}\r\n"
        head += "Connection: close\r\n\r\n" if close else "\r\n"
        self.out += head.encode("latin-1") + (b"" if request.method == "HEAD" else body)
        now = time.monotonic()
        self.worker.log_request(request, status, rows, len(body), now - self.began)
        self.deadline = now + IDLE_SECONDS
        if close:
            self.closing = True
            self.lingering = bool(request.refusal)
            self.requests.clear()
        self.write()

    def write(self) -> None:
        """Send what is to be sent, as far as the client takes it."""
        if self.out:
            try:
                sent = self.client.send(self.out)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError:
                self.close()
                return
            self.out = self.out[sent:]
            if sent and self.out:
                self.deadline = time.monotonic() + WRITE_SECONDS
        if not self.out and self.closing and not self.requests:
            if self.lingering and not self.ended:
                self.deadline = time.monotonic() + LINGER_SECONDS
                try:
                    self.client.shutdown(socket.SHUT_WR)
                except OSError:
                    self.close()
            else:
                self.close()

    def close(self) -> None:
        """Let go of the client."""
        self.worker.forget(self)
        self.client.close()

    @property
    def idle(self) -> bool:
        """Whether nothing is under way."""
        return not self.partial and not self.requests and not self.out


class Worker(base.Worker):
    """gunicorn's worker class: `gunicorn --worker-class server.Worker`."""

    def init_process(self) -> None:
        """Called in the new process."""
        self.largest = largest_body()
        self.too_large = (413, f"the body is larger than {self.largest // MEGABYTE} MB")
        self.phrases = {status.value: status.phrase for status in HTTPStatus}
        self.health = health_from_environment()
        self.selector = selectors.DefaultSelector()
        self.connections: dict[int, Connection] = {}
        self.ready: deque[Connection] = deque()
        self.lines: list[bytes] = []
        super().init_process()

    def run(self) -> None:
        """Serve until told to stop; then answer what was sent."""
        self.most = self.wsgi.most
        for listener in self.sockets:
            listener.setblocking(False)
            self.selector.register(listener, selectors.EVENT_READ, None)
        self.selector.register(self.PIPE[0], selectors.EVENT_READ, None)
        self.beaten = time.monotonic()
        self.beat()
        while self.alive and self.ppid == os.getppid():
            self.turn()
            if time.monotonic() - self.beaten >= BEAT_SECONDS:
                self.beat()
        self.drain()
        self.health.note(self.age, 0.0)

    def drain(self) -> None:
        """Take what the kernel has accepted for us, then no more, and answer all of it."""
        self.alive = False
        for listener in self.sockets:
            # Not answered yet: who has its answer would come again, and this would never end.
            while connection := self.take(listener):
                self.after(connection)
            self.selector.unregister(listener)
            listener.close()
        began = time.monotonic()
        while self.connections and time.monotonic() - began < self.cfg.graceful_timeout:
            if time.monotonic() - began >= LAST_CALL_SECONDS:
                for connection in [one for one in self.connections.values() if one.idle]:
                    connection.close()
            self.turn(0.05)
            self.beat()

    def beat(self) -> None:
        """Say that this worker lives, and give up on clients that take too long."""
        now = time.monotonic()
        self.notify()
        self.health.note(self.age, now)
        computed = now - self.beaten - 2 * BEAT_SECONDS
        self.beaten = now
        if computed > 0:  # meanwhile nothing was read: that is not the clients' doing
            for connection in self.connections.values():
                connection.deadline += computed
        for connection in [one for one in self.connections.values() if one.deadline < now]:
            if connection.requests:
                continue
            if connection.lingering or connection.idle or connection.out:
                connection.close()
            else:
                connection.refuse(408, "the request did not arrive in time")
                self.ready.append(connection)

    def turn(self, wait: float = BEAT_SECONDS) -> None:
        """What can be done now: reads, new clients, one answer for each client that waits for one."""
        listening = []
        for key, mask in self.selector.select(0 if self.ready else wait):
            if isinstance(key.data, Connection):
                connection = key.data
                if mask & selectors.EVENT_WRITE:
                    connection.write()
                if mask & selectors.EVENT_READ and connection.watched:
                    connection.read()
                if connection.requests and not connection.out and connection not in self.ready:
                    self.ready.append(connection)  # answered in this turn: it need not be unwatched for that
                else:
                    self.after(connection)
            elif key.fileobj == self.PIPE[0]:
                os.read(self.PIPE[0], 4096)
            else:
                listening.append(key.fileobj)
        for listener in listening:
            for _ in range(max(1, self.most - len(self.ready))):
                if len(self.connections) >= CONNECTIONS or not (connection := self.take(listener)):
                    break
                connection.read()  # mostly its request is there already
                self.after(connection)
        asked = [(one, one.requests.popleft()) for one in self.ready if one.requests]
        self.ready.clear()
        small = [pair for pair in asked if self.joinable(pair[1])]
        for begin in range(0, len(small), self.most):
            self.answer_together(small[begin : begin + self.most])
        for pair in asked:
            if not self.joinable(pair[1]):
                self.answer_together([pair])
        self.flush()

    def joinable(self, request: Request) -> bool:
        """Whether a request may be scored together with others."""
        path = request.url.partition(b"?")[0]
        return (
            path == b"/invocations"
            and request.method == "POST"
            and not request.refusal
            and request.size < SMALL
        )

    def answer_together(self, asked: list[tuple[Connection, Request]]) -> None:
        """Compute answers and write them; where one cannot be computed with the others, each by itself."""
        now = time.monotonic()
        self.health.note(self.age, now, now)
        answers = []
        if len(asked) > 1:
            with contextlib.suppress(Exception):  # whose fault it is shows when each is asked by itself
                answers = self.wsgi.together([(r.headers, b"".join(r.body)) for _, r in asked])
        for (connection, request), answer in itertools.zip_longest(asked, answers):
            connection.answer(request, answer or self.answer(request))
            self.after(connection)
        self.health.note(self.age, time.monotonic())

    def take(self, listener: Any) -> Connection | None:
        """One new client of those that the kernel has accepted."""
        try:
            client, _ = listener.accept()
        except OSError:
            return None
        client.setblocking(False)
        if client.family != socket.AF_UNIX:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = Connection(self, client)
        self.connections[client.fileno()] = connection
        return connection

    def after(self, connection: Connection) -> None:
        """What to wait for next from a client."""
        descriptor = connection.client.fileno()
        if descriptor < 0:
            return
        events = 0
        if connection.out:
            events = selectors.EVENT_WRITE
        elif connection.requests:
            if connection not in self.ready:
                self.ready.append(connection)
        elif not connection.ended and (not connection.closing or connection.lingering):
            events = selectors.EVENT_READ
        if events != connection.watched:
            if not connection.watched:
                self.selector.register(descriptor, events, connection)
            elif events:
                self.selector.modify(descriptor, events, connection)
            else:
                self.selector.unregister(descriptor)
            connection.watched = events

    def forget(self, connection: Connection) -> None:
        """A client has gone."""
        descriptor = connection.client.fileno()
        if descriptor >= 0:
            if connection.watched:
                self.selector.unregister(descriptor)
            connection.watched = 0
            connection.requests.clear()
            self.connections.pop(descriptor, None)

    def answer(self, request: Request) -> tuple[int, bytes, str, str, int]:
        """Status, body, content type, allowed method, and how many rows were scored."""
        if request.refusal:
            return request.refusal[0], error_body(request.refusal[1]), "application/json", "", 0
        path = request.url.partition(b"?")[0].decode("latin-1")
        if path == "/ping" and not self.health.ready():
            return 503, error_body("not ready"), "application/json", "", 0
        try:
            return self.wsgi(request.method, path, request.headers, b"".join(request.body))
        except Exception as error:
            self.lines.append(line(level="error", event="exception", pid=self.pid, **described(error)))
            return 500, error_body("the model failed; see the log"), "application/json", "", 0

    def log_request(self, request: Request, status: int, rows: int, size: int, seconds: float) -> None:
        """One line; a health check that went well would fill the log and leaves none."""
        if status == 200 and request.url == b"/ping":
            return
        entry = line(
            level="info" if status < 500 else "error",
            event="request",
            method=request.method,
            path=request.url.partition(b"?")[0].decode("latin-1")[:100],
            status=status,
            ms=round(seconds * 1000, 3),
            rows=rows,
            bytes_in=request.size,
            bytes_out=size,
            content_type=request.headers.get("content-type", "")[:100],
            inference_id=request.headers.get(ID, "")[:100],
            pid=self.pid,
        )
        self.lines.append(entry)

    def flush(self) -> None:
        """Write the log: as many lines at once as a pipe takes without another worker's in between."""
        out = b""
        for entry in self.lines:
            if len(out) + len(entry) > select.PIPE_BUF:
                os.write(1, out)
                out = b""
            out += entry
        if out:
            os.write(1, out)
        self.lines.clear()


def described(error: BaseException) -> dict[str, Any]:
    """An exception without its message, which may quote the request."""
    frames = traceback.extract_tb(sys.exc_info()[2] if error is sys.exc_info()[1] else error.__traceback__)
    return {
        "exception": type(error).__name__,
        "where": [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames],
    }
