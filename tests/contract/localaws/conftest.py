"""One local cloud for all contract tests, started as a person starts it, used only through its API."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import socket
import subprocess
import sys
import tarfile
import time
import urllib.request
import uuid
import venv
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.config import Config

from localaws import images

ROOT = Path(__file__).resolve().parents[3]


class LocalCloud:
    """What a test needs of the running cloud."""

    def __init__(self, port: int, log: Path) -> None:
        self.port, self.log = port, log
        self.endpoint = f"http://localhost:{port}"
        self.account, self.region = "123456789012", "us-east-1"
        self.access_key = "test"
        self._clients: dict[str, Any] = {}

    def client(self, service: str, **credentials: str) -> Any:
        """A boto3 client; with credentials, under a role."""
        if not credentials and service in self._clients:
            return self._clients[service]
        keys = credentials or {"aws_access_key_id": self.access_key, "aws_secret_access_key": "test"}
        settings = Config(
            retries={"max_attempts": 1}, s3={"addressing_style": "path"}, inject_host_prefix=False
        )
        made = boto3.client(
            service, endpoint_url=self.endpoint, region_name=self.region, config=settings, **keys
        )
        if not credentials:
            self._clients[service] = made
        return made

    def other_account(self, account: str) -> LocalCloud:
        """The same cloud as the root of another account sees it; the account is opened."""
        opened = self.control("accounts", id=account, name=f"account {account}")
        other = LocalCloud(self.port, self.log)
        other.account = account
        other.access_key = next(a["access_key"] for a in opened if a["id"] == account)
        return other

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to use the cloud."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
        }

    @staticmethod
    def name(prefix: str = "test") -> str:
        """A name that no other test uses."""
        return f"{prefix}-{uuid.uuid4().hex[:10]}"

    def role(self, *services: str) -> str:
        """A role that these services may assume, and that may do everything; its ARN."""
        trust = {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Principal": {"Service": [f"{s}.amazonaws.com" for s in services]},
                    "Action": "sts:AssumeRole",
                }
            ],
        }
        name = self.name("role")
        made = self.client("iam").create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust))
        self.allow_all(name)
        return made["Role"]["Arn"]

    def allow_all(self, role: str) -> None:
        """Let a role (by name) do everything: for tests of what a service does, not of permissions."""
        everything = {"Effect": "Allow", "Action": "*", "Resource": "*"}
        document = json.dumps({"Version": "2012-10-17", "Statement": [everything]})
        self.client("iam").put_role_policy(RoleName=role, PolicyName="all", PolicyDocument=document)

    def bucket(self) -> str:
        """A new versioned bucket; its name."""
        name, s3 = self.name("bucket"), self.client("s3")
        s3.create_bucket(Bucket=name)
        s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
        return name

    def stack(self, resources: dict[str, Any], outputs: dict[str, Any] | None = None, name: str = "") -> str:
        """Create or update a stack and wait; its name. Raises StackFailed with the reasons."""
        template = {"Resources": resources, **({"Outputs": outputs} if outputs else {})}
        client, name = self.client("cloudformation"), name or self.name("stack")
        call = client.update_stack if self.stack_status(name) else client.create_stack
        call(StackName=name, TemplateBody=json.dumps(template), Capabilities=["CAPABILITY_NAMED_IAM"])
        status = self.wait(
            lambda: (s := self.stack_status(name)) and not s.endswith("IN_PROGRESS") and s, 60, name
        )
        if status not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
            raise StackFailed(f"{name} is {status}: {self.stack_reasons(name)}")
        return name

    def image(
        self, files: dict[str, str], entrypoint: list[str], python: str = "contract-tests", **environment: str
    ) -> str:
        """Push a container image of texts on a bare Python, as docker would have built it; its URI."""
        name, env = self.name("image"), ROOT / ".cache/images" / python
        if not (env / "bin/python").exists():
            venv.create(env, symlinks=True)
        self.client("ecr").create_repository(repositoryName=name)
        layer = io.BytesIO()
        with tarfile.open(fileobj=layer, mode="w") as archive:
            for path, text in files.items():
                entry = tarfile.TarInfo(path)
                entry.size, entry.mode = len(text.encode()), 0o755
                archive.addfile(entry, io.BytesIO(text.encode()))
        settings = {"Labels": {images.ENVIRONMENT_LABEL: env.name}, "Entrypoint": entrypoint}
        settings["Env"] = [f"{k}={v}" for k, v in environment.items()]
        uri = f"{self.account}.dkr.ecr.{self.region}.amazonaws.com/{name}:v1"
        place = SimpleNamespace(
            endpoint=self.endpoint, account=self.account, cache=ROOT / ".cache", home=self.log.parent
        )
        images.push(place, images.parse(uri), {"os": "linux", "config": settings}, layer.getvalue())
        return uri

    def stack_status(self, name: str) -> str:
        """The status of a stack, "" when there is none."""
        client = self.client("cloudformation")
        try:
            return client.describe_stacks(StackName=name)["Stacks"][0]["StackStatus"]
        except client.exceptions.ClientError:
            return ""

    def stack_reasons(self, name: str) -> list[str]:
        """Why resources of a stack failed."""
        events = self.client("cloudformation").describe_stack_events(StackName=name)["StackEvents"]
        return [e.get("ResourceStatusReason", "") for e in events if e["ResourceStatus"].endswith("FAILED")]

    def outputs(self, stack: str) -> dict[str, str]:
        """A stack's outputs."""
        found = self.client("cloudformation").describe_stacks(StackName=stack)["Stacks"][0]
        return {o["OutputKey"]: o["OutputValue"] for o in found.get("Outputs", [])}

    def delete_stack(self, name: str) -> str:
        """Delete a stack and wait; its last status, "" when it is gone."""
        self.client("cloudformation").delete_stack(StackName=name)
        self.wait(lambda: not self.stack_status(name).endswith("IN_PROGRESS"), 60, name)
        return self.stack_status(name)

    @staticmethod
    def wait(condition: Callable[[], Any], seconds: float = 30, what: str = "") -> Any:
        """The first true value of ``condition()``."""
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < deadline, f"{what or 'condition'}: not within {seconds} seconds"
            time.sleep(0.05)
        return value

    def control(self, what: str, **body: Any) -> Any:
        """The cloud's own switches (health, clock, outbox …)."""
        request = urllib.request.Request(
            f"{self.endpoint}/_localaws/{what}", data=json.dumps(body).encode() if body else None
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())

    def listen(self, **pattern: Any) -> Callable[[], list[dict[str, Any]]]:
        """Start listening for events; call the answer to get those that have come."""
        sqs, events, name = self.client("sqs"), self.client("events"), self.name("listen")
        queue = sqs.create_queue(QueueName=name)["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        events.put_rule(Name=name, EventPattern=json.dumps(pattern))
        events.put_targets(Rule=name, Targets=[{"Id": "queue", "Arn": arn}])
        seen: list[dict[str, Any]] = []

        def read() -> list[dict[str, Any]]:
            while found := sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages"):
                for message in found:
                    seen.append(json.loads(message["Body"]))
                    sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
            return seen

        return read

    def subscribe(self, topic: str, address: str) -> None:
        """Subscribe an e-mail address and confirm it, as its owner does by the link in the first mail."""
        self.client("sns").subscribe(TopicArn=topic, Protocol="email", Endpoint=address)
        mails = [m for m in self.control("outbox") if (m["topic"], m["to"]) == (topic, address)]
        for link in re.findall(r"http\S+ConfirmSubscription\S+", "\n".join(m["body"] for m in mails)):
            urllib.request.urlopen(link, timeout=30).close()

    def git(
        self, *arguments: str, cwd: Path, check: bool = True, signs: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run git as a person without any configuration but, if it ``signs``, the account's keys."""
        env = {"PATH": os.environ["PATH"], "HOME": str(cwd), "GIT_CONFIG_NOSYSTEM": "1"}
        keys = base64.b64encode(f"{self.access_key}:test".encode()).decode()
        if signs:
            env |= {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "http.extraHeader"}
            env["GIT_CONFIG_VALUE_0"] = f"Authorization: Basic {keys}"
        env |= {f"GIT_{who}_{what}": v for who in ("AUTHOR", "COMMITTER") for what, v in _JANE.items()}
        return subprocess.run(
            ["git", *arguments], cwd=cwd, env=env | {"GIT_TERMINAL_PROMPT": "0"}, check=check,
            capture_output=True, text=True,
        )  # fmt: skip


_JANE = {"NAME": "Jane", "EMAIL": "jane@example.com"}


class StackFailed(AssertionError):
    """A stack did not come to a good end."""


def packed(files: dict[str, str]) -> bytes:
    """A zip of texts."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return out.getvalue()


def free_port() -> int:
    """A port that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(folder: Path, *through: str, parent: int | None = None) -> tuple[subprocess.Popen, LocalCloud]:
    """Start a cloud as a person does and wait until it is ready; its files lie in the folder.

    ``through`` is a command that is given the cloud's command line to run.
    """
    python, port = os.environ.get("LOCALAWS_PYTHON") or str(ROOT / ".venv-localaws/bin/python"), free_port()
    command = [*through, python, "-m", "localaws", "--port", str(port), "--cache", str(ROOT / ".cache")]
    command += ["--log", str(folder / "cloud.log"), *(["--parent-pid", str(parent)] if parent else [])]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "PYTHON"))}
    env |= {"PYTHONPATH": str(ROOT / "scripts"), "LOCALAWS_HOME": str(folder)}
    with (folder / "stderr").open("w") as errors:
        process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=errors, text=True)
    assert process.stdout is not None
    if not any(line.startswith("# ready") for line in iter(process.stdout.readline, "")):
        pytest.fail(f"the local cloud did not start: {(folder / 'stderr').read_text()}")
    return process, LocalCloud(port, folder / "cloud.log")


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    """The running cloud."""
    process, made = start(tmp_path_factory.mktemp("cloud"), parent=os.getpid())
    yield made
    process.terminate()
    process.wait(20)
    process.stdout.close()
    if os.environ.get("LOCALAWS_SHOW_LOG"):
        print(made.log.read_text(), file=sys.stderr)


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen, LocalCloud]]]:
    """Start a cloud of the test's own; it is killed at the end."""
    processes: list[subprocess.Popen] = []

    def run(*through: str, parent: int | None = None) -> tuple[subprocess.Popen, LocalCloud]:
        process, made = start(tmp_path, *through, parent=parent)
        processes.append(process)
        return process, made

    yield run
    for process in processes:
        process.kill()
        process.wait(10)
        process.stdout.close()


@pytest.fixture(scope="module")
def shell(cloud: LocalCloud) -> Callable[..., tuple[dict[str, Any], str]]:
    """Run commands in a build of CodeBuild with some files as its source; the build and its log."""
    client, role, bucket = cloud.client("codebuild"), cloud.role("codebuild"), cloud.bucket()

    def run(
        *commands: str, files: dict[str, str] | None = None, **project: Any
    ) -> tuple[dict[str, Any], str]:
        name = cloud.name("shell")
        cloud.client("s3").put_object(Bucket=bucket, Key=name, Body=packed(files or {"empty": ""}))
        spec = json.dumps({"version": "0.2", "phases": {"build": {"commands": list(commands)}}}, indent=1)
        client.create_project(
            name=name,
            source={"type": "S3", "location": f"{bucket}/{name}", "buildspec": spec},
            artifacts={"type": "NO_ARTIFACTS"},
            environment={"type": "LINUX_CONTAINER", "image": "x", "computeType": "BUILD_GENERAL1_SMALL"},
            serviceRole=role,
            **project,
        )
        identifier = client.start_build(projectName=name)["build"]["id"]
        record = cloud.wait(
            lambda: next(
                (b for b in client.batch_get_builds(ids=[identifier])["builds"] if b["buildComplete"]), None
            ),
            120,
            name,
        )
        where = {"logGroupName": record["logs"]["groupName"], "logStreamName": record["logs"]["streamName"]}
        events = cloud.client("logs").get_log_events(**where, startFromHead=True)["events"]
        return record, "".join(e["message"] for e in events)

    return run


@pytest.fixture(scope="session")
def pack() -> Callable[[dict[str, str]], bytes]:
    """Make a zip of texts."""
    return packed
