"""A model server of a few lines behind endpoints of the local cloud, and a client that never stops asking."""

from __future__ import annotations

import io
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

#: answers its model's text and SUFFIX a word of the request; "status N", "sleep N" and "die" are obeyed
SERVER = """
import json, os, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
assert sys.argv[1:] == ["serve"], sys.argv
print("model says", open("/opt/ml/model/answer").read(), flush=True)
if os.environ.get("BROKEN"):
    sys.exit("cannot load the model")
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(503 if os.environ.get("NEVER_READY") else 200); self.end_headers()
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        word, _, value = body.partition(" ")
        if os.environ.get("FAILS"):
            word, value = "status", "500"
        if word == "status":
            self.send_response(int(value)); self.end_headers(); self.wfile.write(b"as you wish"); return
        if word == "die":
            os._exit(3)
        time.sleep(float(value if word == "sleep" else os.environ.get("SLOW", 0)))
        self.send_response(200)
        self.send_header("Content-Type", self.headers.get("Accept") or "text/csv")
        self.send_header("X-Amzn-SageMaker-Custom-Attributes", self.headers.get("X-Amzn-SageMaker-Custom-Attributes", ""))
        self.end_headers()
        answer = open("/opt/ml/model/answer").read() + os.environ.get("SUFFIX", "")
        self.wfile.write("".join(answer + "\\n" for _ in body.split()).encode())
    def log_message(self, *_): pass
class Server(ThreadingHTTPServer):
    request_queue_size = 64
Server(("127.0.0.1", int(os.environ["SAGEMAKER_BIND_TO_PORT"])), Handler).serve_forever()
"""  # noqa: E501 - one line of the program

BUSY = ("Creating", "Updating", "RollingBack")


class Hosting:
    """A role, a bucket with a packed model, an image with the model server; endpoints of them."""

    def __init__(self, cloud: Any) -> None:
        self.cloud, self.role, self.bucket = cloud, cloud.role("sagemaker"), cloud.bucket()
        self.image = cloud.image({"app/serve.py": SERVER}, ["python3", "/app/serve.py"])
        self.data = f"s3://{self.bucket}/model.tar.gz"
        self.sagemaker, self.made = cloud.client("sagemaker"), []
        cloud.client("s3").put_object(Bucket=self.bucket, Key="model.tar.gz", Body=packed_model())

    def model(self, environment: dict[str, str] | None = None, **container: Any) -> str:
        """Create a model; its name."""
        name, role = self.cloud.name("model"), container.pop("role", self.role)
        given = {
            "Image": self.image,
            "ModelDataUrl": self.data,
            "Environment": environment or {},
            **container,
        }
        self.sagemaker.create_model(ModelName=name, ExecutionRoleArn=role, PrimaryContainer=given)
        return name

    def variant(self, name: str = "AllTraffic", model: str = "", **more: Any) -> dict[str, Any]:
        """A row of a configuration; with ServerlessConfig one without instances."""
        row = {"VariantName": name, "ModelName": model or self.model(more.pop("environment", None))}
        if "ServerlessConfig" not in more:
            row |= {"InstanceType": "ml.m5.large", "InitialInstanceCount": more.pop("count", 1)}
        return {**row, "InitialVariantWeight": 1.0, **more}

    def config(self, *rows: dict[str, Any], **more: Any) -> str:
        """Create a configuration; its name."""
        name, given = self.cloud.name("config"), list(rows) or [self.variant()]
        self.sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=given, **more)
        return name

    def start(self, config: str) -> str:
        """Begin to create an endpoint; its name."""
        name = self.cloud.name("endpoint")
        self.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=config)
        self.made.append(name)
        return name

    def endpoint(self, config: str = "") -> str:
        """An endpoint in service; its name."""
        name = self.start(config or self.config())
        described = self.settled(name)
        assert described["EndpointStatus"] == "InService", described.get("FailureReason")
        return name

    def settled(self, name: str) -> dict[str, Any]:
        """The endpoint's description when it is in no transition."""

        def described() -> Any:
            found = self.sagemaker.describe_endpoint(EndpointName=name)
            return found["EndpointStatus"] not in BUSY and found

        return self.cloud.wait(described, 60, name)

    def update(self, name: str, config: str, **more: Any) -> dict[str, Any]:
        """Update an endpoint and wait; its description."""
        self.sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=config, **more)
        return self.settled(name)

    def ask(self, name: str, body: str = "1,2", **more: Any) -> str:
        """The answer of an endpoint."""
        request = {"EndpointName": name, "Body": body, "ContentType": "text/csv", **more}
        return self.cloud.client("sagemaker-runtime").invoke_endpoint(**request)["Body"].read().decode()

    def metric(self, name: str, statistic: str = "Sum", **dimensions: str) -> float | None:
        """A metric of the last two hours."""
        now = datetime.fromisoformat(self.cloud.control("clock")["now"])
        points = self.cloud.client("cloudwatch").get_metric_statistics(
            Namespace="AWS/SageMaker", MetricName=name, Period=7200, Statistics=[statistic],
            Dimensions=[{"Name": k, "Value": v} for k, v in dimensions.items()],
            StartTime=now - timedelta(hours=1), EndTime=now + timedelta(hours=1),
        )["Datapoints"]  # fmt: skip
        return sum(p[statistic] for p in points) if points else None

    def alarm(self, endpoint: str, metric: str = "Invocation5XXErrors", **more: Any) -> str:
        """An alarm on a variant's metric, which one occurrence sets off; its name."""
        name = self.cloud.name("alarm")
        dimensions = {"EndpointName": endpoint, "VariantName": "AllTraffic"}
        self.cloud.client("cloudwatch").put_metric_alarm(**{
            "AlarmName": name, "Namespace": "AWS/SageMaker", "MetricName": metric, "Statistic": "Sum",
            "Period": 60, "EvaluationPeriods": 1, "Threshold": 0, "TreatMissingData": "notBreaching",
            "ComparisonOperator": "GreaterThanThreshold",
            "Dimensions": [{"Name": k, "Value": v} for k, v in dimensions.items()], **more,
        })  # fmt: skip
        return name

    @contextmanager
    def load(self, endpoint: str, clients: int = 2) -> Iterator[Load]:
        """Clients that ask an endpoint without a pause."""
        made = Load(self.cloud, endpoint, clients)
        try:
            yield made
        finally:
            made.stop()

    def close(self) -> None:
        """Delete all endpoints."""
        for name in self.made:
            if self.settled(name):
                self.sagemaker.delete_endpoint(EndpointName=name)
        self.made.clear()


class Load:
    """Clients in the background that count what they hear."""

    def __init__(self, cloud: Any, endpoint: str, clients: int) -> None:
        self.answers: Counter[str] = Counter()
        self.failures: list[str] = []
        self._over, self._lock = threading.Event(), threading.Lock()
        settings = Config(retries={"max_attempts": 0}, max_pool_connections=clients)
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
        self._runtime = boto3.client(
            "sagemaker-runtime",
            endpoint_url=cloud.endpoint,
            region_name=cloud.region,
            config=settings,
            **keys,
        )
        self._threads = [threading.Thread(target=self._run, args=(endpoint,)) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _run(self, endpoint: str) -> None:
        request = {"EndpointName": endpoint, "Body": "1", "ContentType": "text/csv"}
        while not self._over.is_set():
            try:
                heard = self._runtime.invoke_endpoint(**request)["Body"].read().decode().strip()
            except ClientError as error:
                with self._lock:
                    self.failures.append(str(error))
            except Exception as error:  # a broken connection is a lost request too
                with self._lock:
                    self.failures.append(f"{type(error).__name__}: {error}")
            else:
                with self._lock:
                    self.answers[heard] += 1
            time.sleep(0.01)

    def stop(self) -> None:
        """End, with what is under way answered."""
        self._over.set()
        for thread in self._threads:
            thread.join()


def packed_model() -> bytes:
    """A model.tar.gz with the one file that the server reads."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        entry = tarfile.TarInfo("answer")
        entry.size = 3
        archive.addfile(entry, io.BytesIO(b"0.5"))
    return out.getvalue()


def canary(*alarms: str, wait: int = 300, share: int = 50, **more: Any) -> dict[str, Any]:
    """A deployment that first gives the new fleet a part of the traffic."""
    routing = {
        "Type": "CANARY",
        "CanarySize": {"Type": "CAPACITY_PERCENT", "Value": share},
        "WaitIntervalInSeconds": wait,
    }
    policy = {"TrafficRoutingConfiguration": routing, "TerminationWaitInSeconds": 0, **more}
    rollback = {"AutoRollbackConfiguration": {"Alarms": [{"AlarmName": a} for a in alarms]}} if alarms else {}
    return {"BlueGreenUpdatePolicy": policy, **rollback}


@contextmanager
def time_scale(cloud: Any, value: float) -> Iterator[None]:
    """Let AWS's waits pass faster, or slower."""
    before = cloud.control("settings")["time_scale"]
    cloud.control("settings", time_scale=value)
    try:
        yield
    finally:
        cloud.control("settings", time_scale=before)
