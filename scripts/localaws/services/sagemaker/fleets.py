"""The instances of endpoints: a fleet has the variants of one endpoint configuration, a variant its servers.

A variant of n instances runs min(n, AT_MOST) processes of its container: the first instance that dies, scales
in or is drained is real, and a machine with two cores still carries two fleets of four instances. Counts that
Describe and the metrics tell are AWS's, whatever runs. A serverless variant runs one process, or none.
"""

from __future__ import annotations

import contextlib
import contextvars
import random
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from localaws.errors import AwsError
from localaws.services.sagemaker.hosting import INVOCATION_TIMEOUT, NoAnswer, Server, ServerFailed, Unreached

if TYPE_CHECKING:
    from localaws.services.sagemaker.deployments import DeploymentsMixin

Record = dict[str, Any]
LOGS = "/aws/sagemaker/Endpoints"
#: processes of one variant
AT_MOST = 2
#: seconds without a request after which a serverless variant lets its compute go
#: (AWS says only "after some time": https://docs.aws.amazon.com/sagemaker/latest/dg/serverless-endpoints.html)
SERVERLESS_IDLE = 600


class Variant:
    """One variant of a fleet: its servers, its weight, how many instances it has."""

    def __init__(self, service: DeploymentsMixin, endpoint: str, row: Record, shadow: bool = False) -> None:
        self.service, self.cloud, self.endpoint, self.row = service, service.cloud, endpoint, row
        self.name, self.shadow = row["VariantName"], shadow
        self.serverless: Record | None = row.get("ServerlessConfig")
        self.weight = float(row.get("InitialVariantWeight", 1.0))
        self.count = 1 if self.serverless else int(row.get("InitialInstanceCount") or 1)
        model = service.models.find(row["ModelName"])
        if model is None:
            raise ServerFailed(f'Could not find model "{service.models.arn(row["ModelName"])}".')
        self.model: Record = model
        self.role: str = model["ExecutionRoleArn"]
        self.image: Any = None
        self.under_way = 0  # requests that were routed here
        self._servers: list[Server] = []
        self._changed = threading.Condition()
        self._waking = threading.Lock()
        self._sleep: threading.Timer | None = None

    # -- instances -------------------------------------------------------------------------------------------
    def start(self) -> None:
        """Start the servers of all instances. Raises ServerFailed."""
        self._grow(min(self.count, AT_MOST))
        if self.serverless and not self.serverless.get("ProvisionedConcurrency"):
            self._doze()

    def scale(self, count: int) -> None:
        """Have another number of instances: new ones are healthy first, old ones answer what is under way."""
        wanted = min(count, AT_MOST)
        self._grow(wanted)
        self.count = count
        with self._changed:
            surplus, self._servers = self._servers[wanted:], self._servers[:wanted]
        for server in surplus:
            self._wait(lambda s=server: not s.answering)
            server.stop()

    def _grow(self, wanted: int) -> None:
        """Start what is missing, all at once. Raises ServerFailed, with nothing started left running."""
        new = [self._instance() for _ in range(wanted - len(self._servers))]
        if not new:
            return
        limits = [
            self.row.get(f"{what}TimeoutInSeconds")
            for what in ("ContainerStartupHealthCheck", "ModelDataDownload")
        ]
        with ThreadPoolExecutor(len(new)) as pool:
            started = [pool.submit(contextvars.copy_context().run, s.start, *limits) for s in new]
        failed = next((e for e in (f.exception() for f in started) if e), None)
        if failed:
            for server in new:
                server.stop()
            raise failed
        self.image = new[0].image
        with self._changed:
            self._servers += new

    def _instance(self) -> Server:
        kind = "shadow" if self.shadow else "production"
        return Server(
            self.service,
            self.model["_container"],
            self.role,
            f"primary container for {kind} variant {self.name}",
            (f"{LOGS}/{self.endpoint}", f"{self.name}/i-{uuid.uuid4().hex[:17]}"),
            self.model,
            keep=True,
        )

    @property
    def servers(self) -> int:
        """How many servers can answer."""
        return len([s for s in self._servers if s.ready])

    def drain(self) -> None:
        """Wait until what was routed here is answered."""
        self._wait(lambda: not self.under_way)

    def _wait(self, condition: Any, timeout: float = INVOCATION_TIMEOUT) -> None:
        with self._changed:
            self._changed.wait_for(condition, timeout)

    def stop(self) -> None:
        """End all servers."""
        if self._sleep:
            self._sleep.cancel()
        with self._changed:
            servers, self._servers = self._servers, []
        for server in servers:
            server.stop()

    # -- serverless ------------------------------------------------------------------------------------------
    def _doze(self) -> None:
        with self._waking:
            with self._changed:
                if self.under_way:
                    return
                servers, self._servers = self._servers, []
            for server in servers:
                server.stop()

    def _wake(self) -> None:
        with self._waking:
            if self._sleep:
                self._sleep.cancel()
            self._grow(1)

    def _sleep_later(self) -> None:
        if self._sleep:
            self._sleep.cancel()
        self._sleep = threading.Timer(max(1.0, SERVERLESS_IDLE * self.cloud.time_scale), self._doze)
        self._sleep.daemon = True
        self._sleep.start()

    # -- requests --------------------------------------------------------------------------------------------
    def enter(self) -> None:
        """Count a request that is routed here. Raises AwsError ThrottlingException."""
        with self._changed:
            if self.serverless and self.under_way >= self.serverless["MaxConcurrency"]:
                raise AwsError("ThrottlingException", "Rate exceeded", 429)
            self.under_way += 1

    def leave(self) -> None:
        """The request is answered."""
        with self._changed:
            self.under_way -= 1
            self._changed.notify_all()
        if self.serverless and not self.serverless.get("ProvisionedConcurrency") and not self.under_way:
            self._sleep_later()

    def invoke(
        self, body: bytes, headers: dict[str, str], timeout: float = INVOCATION_TIMEOUT
    ) -> tuple[tuple[int, dict[str, str], bytes], float, float]:
        """The answer of an instance, the seconds that it took, and those that a cold start took.

        A request that an instance could not even be sent goes to another one. Raises NoAnswer.
        """
        setup = 0.0
        if self.serverless and not self._servers:
            began = time.perf_counter()
            try:
                self._wake()
            except ServerFailed as error:
                raise NoAnswer(str(error)) from error
            setup = time.perf_counter() - began
        tried: list[Server] = []
        while True:
            server = self._pick(tried)
            began = time.perf_counter()
            try:
                return server.invoke(body, headers, timeout), time.perf_counter() - began, setup
            except Unreached:
                tried.append(server)
                if len(tried) >= len(self._servers):
                    raise
            finally:
                with self._changed:
                    server.answering -= 1
                    self._changed.notify_all()

    def _pick(self, tried: list[Server]) -> Server:
        with self._changed:
            left = [s for s in self._servers if s not in tried]
            ready = [s for s in left if s.ready and s.alive] or left
            if not ready:
                raise NoAnswer(f"variant {self.name} has no instance")
            routing = (self.row.get("RoutingConfig") or {}).get("RoutingStrategy", "RANDOM")
            if routing == "LEAST_OUTSTANDING_REQUESTS":
                least = min(s.answering for s in ready)
                ready = [s for s in ready if s.answering == least]
            server = random.choice(ready)
            server.answering += 1
            return server


class Fleet:
    """The variants of one endpoint configuration, and the share of the traffic that they get."""

    def __init__(self, service: DeploymentsMixin, endpoint: str, config: Record) -> None:
        self.config, self.share = config, 1.0
        self.variants = {
            row["VariantName"]: Variant(service, endpoint, row) for row in config["ProductionVariants"]
        }
        shadows = config.get("ShadowProductionVariants") or []
        self.shadow = Variant(service, endpoint, shadows[0], shadow=True) if shadows else None

    @property
    def all(self) -> list[Variant]:
        """Production variants and the shadow."""
        return [*self.variants.values(), *([self.shadow] if self.shadow else [])]

    def named(self, name: str) -> Variant | None:
        """The variant of a name."""
        return next((v for v in self.all if v.name == name), None)

    @property
    def instances(self) -> int:
        """The instances of all production variants."""
        return sum(v.count for v in self.variants.values())

    @property
    def capture(self) -> Record | None:
        """The capture of its requests, None where it is off."""
        config = self.config.get("DataCaptureConfig")
        return config if config and config.get("EnableCapture") else None

    def start(self) -> None:
        """Start all servers. Raises ServerFailed, with nothing left running."""
        try:
            for variant in self.all:
                variant.start()
        except BaseException:
            self.stop()
            raise

    def choose(self) -> Variant:
        """A production variant by the weights."""
        found = list(self.variants.values())
        weights = [v.weight for v in found]
        return random.choices(found, weights)[0] if sum(weights) else found[0]

    def shadowed(self) -> Variant | None:
        """The shadow variant, if it gets a copy of this request.

        Its weight beside that of the production variant is the share of the requests that it sees.
        https://docs.aws.amazon.com/sagemaker/latest/dg/model-shadow-deployment.html
        """
        if self.shadow is None:
            return None
        whole = next(iter(self.variants.values())).weight
        return self.shadow if whole and random.random() < self.shadow.weight / whole else None

    def retire(self) -> None:
        """End all servers once they have answered what is under way (the traffic has moved away)."""
        for variant in self.all:
            variant.drain()
        self.stop()

    def stop(self) -> None:
        """End all servers."""
        for variant in self.all:
            with contextlib.suppress(Exception):
                variant.stop()


@contextlib.contextmanager
def entered(variant: Variant) -> Iterator[Variant]:
    """Leave the variant at the end of a request that entered it when it was routed."""
    try:
        yield variant
    finally:
        variant.leave()
