"""Lambda functions of container images: the image's own entry point, with Lambda's Runtime API before it.

An execution environment is one container and one Runtime API on a loopback port. The container's runtime
interface client asks for the next event and posts its answer, as on AWS; an environment answers one request
at a time and is kept for the next one.
https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
"""

from __future__ import annotations

import json
import queue
import re
import shutil
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from localaws import containers, images, process

if TYPE_CHECKING:
    from localaws.cloud import Cloud

Record = dict[str, Any]
_API = "/2018-06-01/runtime"
#: seconds in which an environment must ask for its first event; AWS gives the first try 10 and then begins
#: anew with the function's own limit, on machines that nothing else uses
_INIT_SECONDS = 60.0


class Environment:
    """One container of a function's image, and the Runtime API that it asks."""

    def __init__(self, cloud: Cloud, config: Record, keys: dict[str, str]) -> None:
        self.cloud, self.config = cloud, config
        self.folder = cloud.home / "functions" / cloud.new_id(length=12)
        self.folder.mkdir(parents=True)
        self._events: queue.Queue[tuple[str, bytes, float] | None] = queue.Queue()
        self._answers: queue.Queue[tuple[str, bool, bytes]] = queue.Queue()
        self.asked = threading.Event()  # the container has asked for an event
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        self._log = (self.folder / "log").open("wb")
        self._read = 0
        image = images.pull(cloud, config["ImageUri"])
        settings = ((config.get("ImageConfigResponse") or {}).get("ImageConfig")) or {}
        argv = containers.argv_of(image, settings.get("EntryPoint") or None, settings.get("Command") or None)
        self._popen = containers.start(
            cloud, image, self.folder, argv, self._environment(keys, argv), self._log
        )

    def _environment(self, keys: dict[str, str], argv: list[str]) -> dict[str, str]:
        config, (host, port) = self.config, self._server.server_address[:2]
        own = ((config.get("Environment") or {}).get("Variables")) or {}
        return {
            **own,
            **keys,
            "AWS_LAMBDA_RUNTIME_API": f"{host}:{port}",
            "AWS_LAMBDA_FUNCTION_NAME": config["FunctionName"],
            "AWS_LAMBDA_FUNCTION_VERSION": config.get("Version", "$LATEST"),
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(config.get("MemorySize", 128)),
            "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{config['FunctionName']}",
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "AWS_REGION": self.cloud.region,
            "AWS_DEFAULT_REGION": self.cloud.region,
            "AWS_ENDPOINT_URL": self.cloud.endpoint,
            "AWS_EC2_METADATA_DISABLED": "true",
            "_HANDLER": argv[-1],
        }

    # -- what the container asks -----------------------------------------------------------------------------
    def next(self) -> tuple[str, bytes, float] | None:
        """The next event: request id, body, deadline; None when the environment ends."""
        self.asked.set()
        return self._events.get()

    def answer(self, request: str, failed: bool, body: bytes) -> None:
        """What the container posted for a request (or for its start)."""
        self._answers.put((request, failed, body))

    # -- what the cloud does ---------------------------------------------------------------------------------
    def invoke(self, event: Any, request: str, seconds: float) -> Record:
        """Have one event answered, in the emulator's form: body, error, log; one that failed ends."""
        begun = time.monotonic()
        while not self.asked.wait(0.02):
            if not self.alive or not self._answers.empty() or time.monotonic() - begun > _INIT_SECONDS:
                return self._broken(request, "Runtime.InitError", "the container did not start")
        self._events.put((request, json.dumps(event).encode(), time.time() + seconds))
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                found, failed, body = self._answers.get(timeout=0.05)
            except queue.Empty:
                if not self.alive:
                    return self._broken(request, "Runtime.ExitError", "Runtime exited")
                continue
            if found == request:
                return {"body": _parsed(body), "error": failed, "log": self._logged()}
        self.end()
        text = f"{request} Task timed out after {seconds:.2f} seconds"
        return self._failure("Sandbox.Timedout", text)

    def _broken(self, request: str, kind: str, why: str) -> Record:
        posted = self._answers.get() if not self._answers.empty() else None
        self.end()
        if posted:  # what the runtime interface client says of its start
            return {"body": _parsed(posted[2]), "error": True, "log": self._logged()}
        return self._failure(kind, f"RequestId: {request} Error: {why}")

    def _failure(self, kind: str, message: str) -> Record:
        return {"body": {"errorType": kind, "errorMessage": message}, "error": True, "log": self._logged()}

    def _logged(self) -> str:
        """What the container wrote since the last time."""
        with (self.folder / "log").open("rb") as file:
            file.seek(self._read)
            text = file.read()
        self._read += len(text)
        return text.decode(errors="replace")

    @property
    def alive(self) -> bool:
        """Whether the container runs."""
        return self._popen.poll() is None

    def end(self) -> None:
        """End the container and its Runtime API."""
        self._events.put(None)
        process.kill_tree(self._popen, 0.2)
        self._server.shutdown()
        self._server.server_close()
        self._log.close()

    def remove(self) -> None:
        """End it, and remove its files."""
        if self.alive:
            self.end()
        shutil.rmtree(self.folder, ignore_errors=True)


class Environments:
    """The environments of all functions: an idle one of the same code and settings is used again."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self._idle: dict[str, list[Environment]] = {}
        self._all: list[Environment] = []
        self._lock = threading.Lock()
        cloud.on_close(self.close)

    def invoke(self, config: Record, event: Any, request: str, keys: Any) -> Record:
        """Answer one event; ``keys(config)`` gives the credentials of a new environment."""
        function = config["FunctionArn"].split(":function:")[0] + config["FunctionName"]
        place = f"{function} {config.get('Version')} {config['ImageUri']} {config.get('RevisionId')}"
        with self._lock:
            found = self._idle.get(place) or []
            one = found.pop() if found else None
        try:
            if one is None or not one.alive:
                one = Environment(self.cloud, config, keys(config))
                with self._lock:
                    self._all.append(one)
        except (images.ImageError, containers.ContainersUnavailable) as error:
            said = {"errorType": "Runtime.ImageError", "errorMessage": str(error)}
            return {"body": said, "error": True, "log": ""}
        answer = one.invoke(event, request, float(config.get("Timeout", 3)))
        with self._lock:
            if one.alive:
                self._idle.setdefault(place, []).append(one)
        return answer

    def close(self) -> None:
        """End every container."""
        for one in self._all:
            one.remove()


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body) if body else None
    except ValueError:
        return body.decode(errors="replace")


def _handler(environment: Environment) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """The Runtime API of one environment."""

        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path != f"{_API}/invocation/next":
                return self._answer(404, {"errorType": "InvalidPath"})
            event = environment.next()
            if event is None:
                self.close_connection = True
                return None
            request, body, deadline = event
            self.send_response(200)
            self.send_header("Lambda-Runtime-Aws-Request-Id", request)
            self.send_header("Lambda-Runtime-Deadline-Ms", str(int(deadline * 1000)))
            arn = environment.config["FunctionArn"]
            self.send_header("Lambda-Runtime-Invoked-Function-Arn", arn)
            self.send_header(
                "Lambda-Runtime-Trace-Id", f"Root=1-{uuid.uuid4().hex[:8]}-{uuid.uuid4().hex[:24]}"
            )
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return None

        def do_POST(self) -> None:
            body = self._body()
            match = re.fullmatch(rf"{_API}/(?:invocation/([\w-]+)/(response|error)|init/error)", self.path)
            if not match:
                return self._answer(404, {"errorType": "InvalidPath"})
            environment.answer(match[1] or "", match[2] != "response", body)
            return self._answer(202, {"status": "OK"})

        def _body(self) -> bytes:
            if "chunked" not in self.headers.get("Transfer-Encoding", "").lower():
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def _answer(self, status: int, content: Record) -> None:
            text = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None:
            """Nothing: the container's own log is what counts."""

    return Handler
