"""Model servers: the container's own server on a loopback port, for endpoints and transform jobs.

Limits of AWS pass as fast as the cloud's other waits, but a process needs real time (``limit``).
"""

from __future__ import annotations

import http.client
import shutil
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

from localaws import containers, images, process
from localaws.services.sagemaker import data
from localaws.services.sagemaker.running import LogFollower

if TYPE_CHECKING:
    from localaws.cloud import Cloud
    from localaws.services.sagemaker.job_base import JobBase

Record = dict[str, Any]
#: seconds that SageMaker waits for an answer of the container
#: https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html
INVOCATION_TIMEOUT = 60
#: seconds for the container's first 200 at /ping (the same page), and for the model's download, by default
PING_TIMEOUT, DOWNLOAD_TIMEOUT = 480, 3600
#: seconds of AWS's time that limits count as at least: at the time scale 0.01 a server has 45 real seconds to
#: start, and 60 to answer
_START, _ANSWER = 4500, 6000


class ServerFailed(RuntimeError):
    """A model server that cannot be started; the message is AWS's FailureReason."""


class NoAnswer(RuntimeError):
    """The container did not answer in time, or not at all."""


class Unreached(NoAnswer):
    """Nothing listens: the request was not sent."""


def limit(cloud: Cloud, seconds: float, least: float) -> float:
    """Real seconds of a limit of AWS: scaled as waits are, counted as ``least`` of AWS's seconds at least."""
    return min(seconds, max(seconds, least) * cloud.time_scale)


class Server:
    """One container that serves a model, for an instance of a variant (or for a transform job).

    With ``keep`` a container that ends is started again, as SageMaker does on an instance of an endpoint.
    """

    def __init__(
        self,
        service: JobBase,
        container: Record,
        role: str,
        where: str,
        log: tuple[str, str],
        model: Record,
        keep: bool = False,
    ) -> None:
        self.service, self.cloud = service, service.cloud
        self.container, self.role, self.where = container, role, where
        self.vpc, self.isolated = model.get("VpcConfig"), model.get("EnableNetworkIsolation")
        self.log, self._keep = log, keep
        self.folder = self.cloud.home / "sagemaker" / "servers" / self.cloud.new_id(length=12)
        self.image: images.Image | None = None
        self.port = 0
        self._popen: Any = None
        self.answering = 0  # requests under way; whoever routes counts them (fleets.py)
        self.ready = False  # whether it passed its health check
        self._stopping = threading.Event()
        self._follower: threading.Thread | None = None

    # -- start, stop -----------------------------------------------------------------------------------------
    def start(self, startup: float | None = None, download: float | None = None) -> None:
        """Fetch image and model, start the container, wait for its health. Raises ServerFailed.

        ``startup`` and ``download`` are AWS's timeouts of a variant in seconds.
        """
        try:
            self.image = self.service.image_for(self.container["Image"], self.role)
        except images.ImageError as error:
            raise ServerFailed(
                f"The {self.where} cannot pull its image {self.container['Image']}: {error}"
            ) from error
        began = time.monotonic()
        self._fetch_model()
        if time.monotonic() - began > limit(self.cloud, download or DOWNLOAD_TIMEOUT, _START):
            raise ServerFailed(
                f"The model data of the {self.where} was not downloaded and extracted within "
                f"{download or DOWNLOAD_TIMEOUT:.0f} seconds (ModelDataDownloadTimeoutInSeconds)."
            )
        self._launch()
        self._wait_healthy(startup or PING_TIMEOUT)
        self.ready = True

    def stop(self) -> None:
        """End the container, what it started, and its folder."""
        self.ready = False
        self._stopping.set()
        if self._popen is not None:
            process.kill_tree(self._popen, 1.0)
        if self._follower is not None:
            self._follower.join(3)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _fetch_model(self) -> None:
        model = self.folder / "ml/model"
        model.mkdir(parents=True)
        source = (self.container.get("ModelDataSource") or {}).get("S3DataSource") or {}
        uri = self.container.get("ModelDataUrl") or source.get("S3Uri")
        if not uri:
            return
        s3 = self.service.s3_as(self.role, self.vpc)
        try:
            if source.get("CompressionType") == "None":
                data.download(s3, uri, model, "S3Prefix", self.role)
            else:
                data.unpack(data.read(s3, uri), model, uri)
        except data.DataError as error:
            raise ServerFailed(
                f'Failed to download model data for the {self.where} from URL: "{uri}". Please '
                "ensure that there is an object located "
                "at the URL and that the role passed to CreateModel has permissions to download the "
                f"object. ({error})"
            ) from error

    def _launch(self) -> None:
        assert self.image is not None
        self.port = _free_port()
        # BIND_ADDRESS: no listener of the local cloud may be reached from another machine
        env = {
            **self.service.environment_as(self.role, self.vpc, self.isolated),
            "SAGEMAKER_BIND_TO_PORT": self.port,
            "SAGEMAKER_SAFE_PORT_RANGE": "21000-21999",
            "BIND_ADDRESS": "127.0.0.1",
            **(self.container.get("Environment") or {}),
        }
        argv = containers.argv_of(self.image, self.container.get("ContainerEntrypoint"), ["serve"])
        file = self.folder / "log"
        with file.open("ab") as out:
            told = out.tell()  # what the container before it said is in the log already
            self._popen = containers.start(
                self.cloud, self.image, self.folder, argv, env, out, hosts=("model.local",)
            )
        follower = LogFollower(self.cloud, file, *self.log, keep=False, skip=told)
        self._follower = self.cloud.spawn(self._follow, follower, self._popen, name=f"log-{self.where}")

    def _follow(self, follower: LogFollower, popen: Any) -> None:
        while not self._stopping.wait(0.2) and popen.poll() is None:
            follower.push()
        follower.close()
        if self._keep and self.ready and not self._stopping.is_set() and not self.cloud.stopping:
            self.ready = False
            self.cloud.spawn(self._again, name=f"restart-{self.where}")

    def _again(self) -> None:
        """Start a container that has ended again until it is healthy."""
        while not self._stopping.is_set() and not self.cloud.stopping:
            self._launch()
            try:
                self._wait_healthy(PING_TIMEOUT)
                self.ready = True
                return
            except ServerFailed as error:
                self.cloud.log.warning("%s", error)
                if self._popen is not None:
                    process.kill_tree(self._popen, 1.0)
                self._stopping.wait(1)

    def _wait_healthy(self, seconds: float) -> None:
        timeout = limit(self.cloud, seconds, _START)
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and self._popen.poll() is None and not self._stopping.is_set():
            if self.healthy():
                return
            self._stopping.wait(0.1)
        ended = self._popen.poll()
        if ended in (126, 127):  # there is nothing to run
            raise ServerFailed(
                f"CannotStartContainerError. Please ensure the {self.where} starts correctly when invoked "
                f"with 'docker run <image> serve' (exit code {ended})"
            )
        note = (
            f" (the container ended with exit code {ended})"
            if ended is not None
            else f" (no HTTP 200 at /ping in {seconds:.0f} s, here {timeout:.0f} s)"
        )
        raise ServerFailed(
            f"The {self.where} did not pass the ping health check. Please check CloudWatch logs for "
            f"this endpoint.{note}"
        )

    def healthy(self) -> bool:
        """Whether the container answers 200 at /ping."""
        try:
            return self._request("GET", "/ping", None, {}, 2)[0] == 200
        except NoAnswer:
            return False

    @property
    def alive(self) -> bool:
        """Whether the container still runs."""
        return self._popen is not None and self._popen.poll() is None

    # -- requests --------------------------------------------------------------------------------------------
    def invoke(
        self, body: bytes, headers: dict[str, str], timeout: float = INVOCATION_TIMEOUT
    ) -> tuple[int, dict[str, str], bytes]:
        """POST /invocations: status, headers (lower case), body. Raises NoAnswer."""
        return self._request("POST", "/invocations", body, headers, limit(self.cloud, timeout, _ANSWER))

    def _request(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str], timeout: float
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.connect()
        except OSError as error:
            raise Unreached(str(error) or type(error).__name__) from error
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise NoAnswer(str(error) or type(error).__name__) from error
        finally:
            connection.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
