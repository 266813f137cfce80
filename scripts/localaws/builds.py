"""Runs one build of CodeBuild: the phases of its buildspec, in a shell, as a process of its own.

All commands run in one instance of the shell, as CodeBuild's version 0.2 says: variables, functions and the
folder stay from one command to the next, through all phases. The log goes to CloudWatch Logs while the build
runs. What needs real machines is not there and the log says so: the chosen image and runtime versions,
caches, the VPC.
"""

from __future__ import annotations

import base64
import contextlib
import fnmatch
import hashlib
import io
import json
import os
import re
import select
import shlex
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from localaws import buildspec, clock, process, toolbox
from localaws.buildspec import Artifacts, Buildspec, BuildspecError, Phase
from localaws.cloud import Cloud
from localaws.layers import Layers
from localaws.permissions.network import network_of

PRINCIPAL = "codebuild.amazonaws.com"
#: what AWS takes for these phases, in seconds
_PROVISIONING, _QUEUED = 20, 2
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: put behind a command's output to know when all of it was read; no program prints this
_MARK = b"\0localaws-end-of-command\0"


class BuildFailed(Exception):
    """A phase failed: status code and message of its context."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


class BuildStopped(Exception):
    """The build was stopped or ran out of time."""


class Log:
    """The build's log stream, written under the build's role while lines come in."""

    def __init__(self, client: Any, group: str, stream: str, enabled: bool) -> None:
        self.client, self.group, self.stream, self.enabled = client, group, stream, enabled
        self.tail: list[str] = []
        self._waiting: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self.done = threading.Event()
        if enabled:
            self._make()

    def _make(self) -> None:
        exists = self.client.exceptions.ResourceAlreadyExistsException
        place = {"logGroupName": self.group, "logStreamName": self.stream}
        with contextlib.suppress(exists):
            try:
                self.client.create_log_stream(**place)
            except self.client.exceptions.ResourceNotFoundException:
                self.client.create_log_group(logGroupName=self.group)
                self.client.create_log_stream(**place)

    def write(self, line: str) -> None:
        """Take a line; it is sent with the next flush."""
        with self._lock:
            self.tail = [*self.tail[-199:], line]
            self._waiting.append(
                {"timestamp": int(clock.time() * 1000), "message": (line or " ")[:250_000] + "\n"}
            )

    def keep_sending(self) -> None:
        """Send what comes in, a few times a second, until ``done`` is set."""
        while not self.done.wait(0.4):
            self.flush()

    def flush(self) -> None:
        """Send what is waiting."""
        with self._lock:
            batch, self._waiting = self._waiting, []
        for start in range(0, len(batch) if self.enabled else 0, 500):
            self.client.put_log_events(
                logGroupName=self.group, logStreamName=self.stream, logEvents=batch[start : start + 500]
            )


class Build:
    """One run. ``record`` is the API's view of it, changed as the build proceeds.

    ``tell`` announces changes.
    """

    def __init__(
        self,
        cloud: Cloud,
        record: dict[str, Any],
        inputs: Inputs,
        tell: Callable[[dict[str, Any], str], None],
    ) -> None:
        self.cloud, self.record, self.inputs, self.tell = cloud, record, inputs, tell
        self.uuid = record["id"].partition(":")[2]
        self.home = cloud.home / "builds" / self.uuid
        self.spec: Buildspec | None = None
        self.shell: Shell | None = None
        self.log: Log | None = None
        self.env: dict[str, str] = {}
        self.stopping = threading.Event()
        self.outputs: dict[str, bytes] = {}
        self.succeeding = True
        self._phase: dict[str, Any] = {}
        self._deadline = float("inf")

    # -- phases -----------------------------------------------------------------------------------------
    def run(self) -> None:
        """Run to the end; never raises."""
        status = "FAILED"
        try:
            self._enter("SUBMITTED")
            self._enter("QUEUED")
            self.cloud.pause(_QUEUED)
            self._enter("PROVISIONING")
            self._provision()
            self._deadline = time.monotonic() + self.record["timeoutInMinutes"] * 60
            self._enter("DOWNLOAD_SOURCE")
            self._download()
            self._phases()
            status = "SUCCEEDED" if self.succeeding else "FAILED"
        except BuildFailed as error:
            self._leave("FAILED", error.code, error.message)
        except BuildStopped:
            timed_out = not self.stopping.is_set()
            status = "TIMED_OUT" if timed_out else "STOPPED"
            self._leave(
                status,
                "BUILD_TIMED_OUT" if timed_out else "",
                f"Build has timed out after {self.record['timeoutInMinutes']} minutes." if timed_out else "",
            )
        except Exception as error:
            if not self.cloud.stopping:
                self.cloud.log.exception("build %s failed", self.record["id"])
            status = "FAULT"
            self._leave("FAULT", "INTERNAL_ERROR", f"{type(error).__name__}: {error}")
        finally:
            try:
                self._finish(status)
                Layers(self.cloud.cache, self.home / "python").keep_bytecode()
            finally:
                shutil.rmtree(self.home, ignore_errors=True)

    def _enter(self, name: str) -> None:
        self._leave("SUCCEEDED")
        self._phase = {"phaseType": name, "startTime": clock.now()}
        self.record["phases"].append(self._phase)
        self.record["currentPhase"] = name
        if name in ("INSTALL", "PRE_BUILD", "BUILD", "POST_BUILD"):
            self._say(f"Entering phase {name}")

    def _leave(self, status: str, code: str = "", message: str = "") -> None:
        """Close the current phase, once."""
        if not self._phase or "phaseStatus" in self._phase:
            return
        end = clock.now()
        seconds = int((end - self._phase["startTime"]).total_seconds())
        self._phase |= {
            "phaseStatus": status,
            "endTime": end,
            "durationInSeconds": seconds,
            "contexts": [{"statusCode": code, "message": message}],
        }
        if self.log and self._phase["phaseType"] not in ("SUBMITTED", "QUEUED", "PROVISIONING"):
            self._say(f"Phase complete: {self._phase['phaseType']} State: {status}")
            self._say(f"Phase context status code: {code} Message: {message}")
        self.tell(self.record, self._phase["phaseType"])

    def _provision(self) -> None:
        self.cloud.pause(_PROVISIONING)
        name = f"AWSCodeBuild-{self.uuid}"
        try:
            network = network_of(self.cloud, self.record.get("vpcConfig"), "build")
            self.env = self.cloud.role_environment(self.record["serviceRole"], PRINCIPAL, name, network)
        except Exception as error:
            raise BuildFailed(
                "ACCESS_DENIED",
                f"CodeBuild is not authorized to perform: sts:AssumeRole on {self.record['serviceRole']}: "
                f"{getattr(error, 'message', error)}",
            ) from error
        logs = self.record["logs"]
        try:
            self.log = Log(
                self._client("logs"),
                logs["groupName"],
                logs["streamName"],
                logs["cloudWatchLogs"]["status"] == "ENABLED",
            )
        except Exception as error:
            raise BuildFailed(
                "ACCESS_DENIED",
                f"Service role {self.record['serviceRole']} does not allow AWS CodeBuild to create Amazon "
                f"CloudWatch Logs log streams for build {self.record['arn']}. Error message: {error}",
            ) from error
        self.cloud.spawn(self.log.keep_sending, name="build-log")
        for folder in ("home", "tmp", "source", "control"):
            (self.home / folder).mkdir(parents=True)
        tools = toolbox.furnish(self.cloud, self.home / "python", internet="vpcConfig" not in self.record)
        self._say(
            f"Waiting for agent ping; image {self.record['environment']['image']}: this machine's programs "
            "and Python "
            f"{sys.version.split()[0]} stand in for it"
        )
        self.env |= tools

    def _client(self, service: str) -> Any:
        import boto3

        return boto3.client(
            service,
            endpoint_url=self.cloud.endpoint,
            region_name=self.cloud.region,
            aws_access_key_id=self.env["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.env["AWS_SECRET_ACCESS_KEY"],
            aws_session_token=self.env["AWS_SESSION_TOKEN"],
        )

    def _download(self) -> None:
        """Lay out the sources, read the buildspec, resolve the environment."""
        folders = {}
        for number, source in enumerate(self.inputs.sources):
            folder = self.home / "source" / f"src{number}" / "src"
            folder.mkdir(parents=True)
            try:
                source.fetch(self, folder)
            except BuildFailed:
                raise
            except Exception as error:
                raise BuildFailed("CLIENT_ERROR", f"{source.describe()}: {error}") from error
            folders[source.identifier] = folder
        self.source = folders[""]
        text = self._buildspec_text(folders)
        try:
            self.spec = buildspec.parse(text)
        except BuildspecError as error:
            raise BuildFailed("YAML_FILE_ERROR", str(error)) from error
        for key in self.spec.ignored:
            self._say(f"buildspec key '{key}' is left aside: the local cloud has no {key}")
        self.env |= self._variables(folders)

    def _buildspec_text(self, folders: dict[str, Path]) -> str:
        wanted = self.record["source"].get("buildspec") or ""
        if "\n" in wanted:
            return wanted
        if wanted.startswith("arn:"):
            bucket, _, key = wanted.split(":::", 1)[1].partition("/")
            return self._client("s3").get_object(Bucket=bucket, Key=key)["Body"].read().decode()
        path = self.source / (wanted or "buildspec.yml")
        if not path.is_file():
            raise BuildFailed("YAML_FILE_ERROR", f"stat {path}: no such file or directory")
        return path.read_text()

    def _variables(self, folders: dict[str, Path]) -> dict[str, str]:
        """The build's environment, the stronger over the weaker.

        CodeBuild's own, the project's and call's, the buildspec's.
        """
        assert self.spec
        record = self.record
        out = {k: v for k, v in self.spec.variables.items()}
        for name, parameter in self.spec.parameters.items():
            out[name] = self._parameter(parameter)
        for name, secret in self.spec.secrets.items():
            out[name] = self._secret(secret)
        for variable in record["environment"].get("environmentVariables", []):
            kind, value = variable.get("type", "PLAINTEXT"), variable["value"]
            out[variable["name"]] = (
                self._parameter(value)
                if kind == "PARAMETER_STORE"
                else self._secret(value)
                if kind == "SECRETS_MANAGER"
                else value
            )
        out |= {
            "CODEBUILD_BUILD_ARN": record["arn"],
            "CODEBUILD_BUILD_ID": record["id"],
            "CODEBUILD_BUILD_IMAGE": record["environment"]["image"],
            "CODEBUILD_BUILD_NUMBER": str(record["buildNumber"]),
            "CODEBUILD_BUILD_SUCCEEDING": "1",
            "CODEBUILD_INITIATOR": record["initiator"],
            "CODEBUILD_KMS_KEY_ID": record["encryptionKey"],
            "CODEBUILD_LOG_PATH": record["logs"]["streamName"],
            "CODEBUILD_CI": "true",
            "CODEBUILD_RESOLVED_SOURCE_VERSION": record.get("resolvedSourceVersion", ""),
            "CODEBUILD_SRC_DIR": str(self.source),
            "CODEBUILD_SOURCE_VERSION": record.get("sourceVersion", ""),
            "CODEBUILD_SOURCE_REPO_URL": record["source"].get("location", ""),
            "CODEBUILD_START_TIME": str(int(record["startTime"].timestamp() * 1000)),
            "CODEBUILD_CONTAINER_NAME": "default",
            "CODEBUILD_PROJECT_ARN": self.cloud.arn("codebuild", f"project/{record['projectName']}"),
            "CI": "true",
            **{f"CODEBUILD_SRC_DIR_{name}": str(folder) for name, folder in folders.items() if name},
            "HOME": str(self.home / "home"),
            "TMPDIR": str(self.home / "tmp"),
            "LANG": "C.UTF-8",
            "USER": "root",
            "TERM": "dumb",
            "PYTHONUNBUFFERED": "1",
            "PATH": f"{self.home / 'python' / 'bin'}:{_SYSTEM_PATH}",
        }
        return out

    def _parameter(self, name: str) -> str:
        try:
            return self._client("ssm").get_parameter(Name=name, WithDecryption=True)["Parameter"]["Value"]
        except Exception as error:
            raise BuildFailed(
                "CLIENT_ERROR", f"Decrypted Variables Error: parameter does not exist: {name} ({error})"
            ) from error

    def _secret(self, reference: str) -> str:
        """``secret-id:json-key:version-stage:version-id``; an ARN as id has seven parts of its own."""
        parts = reference.split(":")
        ends = 7 if reference.startswith("arn:") else 1
        name, (key, stage, version) = ":".join(parts[:ends]), [*parts[ends:], "", "", ""][:3]
        which = {k: v for k, v in (("VersionStage", stage), ("VersionId", version)) if v}
        try:
            text = self._client("secretsmanager").get_secret_value(SecretId=name, **which)["SecretString"]
            return str(json.loads(text)[key]) if key else text
        except KeyError as error:
            raise BuildFailed(
                "CLIENT_ERROR", f"Secrets Manager Error: the secret {name} has no key {key}"
            ) from error
        except Exception as error:
            raise BuildFailed("CLIENT_ERROR", f"Secrets Manager Error Message: {name}: {error}") from error

    def _phases(self) -> None:
        """install and pre_build end the build when they fail.

        Post_build and the artifacts follow a failed build phase.
        """
        assert self.spec
        self.shell = Shell(self.spec.shell, self.home / "control", self.source, self.env, self._take)
        failure: BuildFailed | None = None
        try:
            for name in buildspec.PHASES:
                phase = self.spec.phases.get(name, Phase(name))
                self._enter(name.upper())
                try:
                    self._commands(phase)
                except BuildFailed as error:
                    self.succeeding = False
                    self._leave("FAILED", error.code, error.message)
                    failure = failure or error
                    if phase.on_failure == "ABORT" or (
                        phase.on_failure != "CONTINUE" and name in ("install", "pre_build")
                    ):
                        return
            self._enter("UPLOAD_ARTIFACTS")
            try:
                self._artifacts()
            except BuildFailed as error:
                self.succeeding = False
                self._leave("FAILED", error.code, error.message)
        finally:
            self._export()

    def _commands(self, phase: Phase) -> None:
        assert self.shell
        for runtime, version in phase.runtimes.items():
            self._say(
                f"Selecting '{runtime}' runtime version '{version}': Python {sys.version.split()[0]} of "
                "this machine stands in for it"
                if runtime == "python"
                else f"Selecting '{runtime}' runtime version '{version}': the local cloud has this "
                "machine's, if any"
            )
        failed: BuildFailed | None = None
        try:
            for command in phase.commands:
                self._command(command)
        except BuildFailed as error:
            failed = error
        for command in phase.finally_:
            try:
                self._command(command)
            except BuildFailed as error:
                failed = failed or error
        if failed:
            raise failed

    def _command(self, command: str) -> None:
        assert self.shell
        self._say(f"Running command {command.rstrip()}")
        code = self.shell.run(
            command, {"CODEBUILD_BUILD_SUCCEEDING": "1" if self.succeeding else "0"}, self._stop_now
        )
        if code:
            self._say(f"Command did not execute successfully {command.rstrip()} exit status {code}")
            raise BuildFailed(
                "COMMAND_EXECUTION_ERROR",
                f"Error while executing command: {command.rstrip()}. Reason: exit status {code}",
            )

    def _stop_now(self) -> bool:
        if self.stopping.is_set() or self.cloud.stopping or time.monotonic() > self._deadline:
            raise BuildStopped
        return False

    # -- what comes out ---------------------------------------------------------------------------------
    def _artifacts(self) -> None:
        """Collect the output artifacts as zips and hand them to whoever wants them."""
        assert self.spec
        wanted = [("", self.spec.artifacts), *self.spec.secondary.items()]
        for identifier, artifacts in wanted:
            if artifacts is None or not self.inputs.wants(identifier):
                continue
            self.outputs[identifier] = self._collect(artifacts)
        self.inputs.deliver(self)

    def _collect(self, artifacts: Artifacts) -> bytes:
        base = self.source / self._expand(artifacts.base)
        found: dict[str, Path] = {}
        if not base.is_dir():
            raise BuildFailed("CLIENT_ERROR", f"no matching base directory path found for {artifacts.base}")
        self._say(f"Expanding base directory path: {artifacts.base or '.'}")
        for pattern in artifacts.files:
            text = self._expand(pattern)
            self._say(f"Expanding file path {text}")
            matches = [p for p in _expand(base, text) if p.is_file()]
            for path in matches:
                relative = path.relative_to(base) if path.is_relative_to(base) else Path(path.name)
                if not any(fnmatch.fnmatch(str(relative), e) for e in artifacts.exclude):
                    found[relative.name if artifacts.discard_paths else str(relative)] = path
        if not found:
            raise BuildFailed(
                "CLIENT_ERROR",
                f"no matching artifact paths found for {', '.join(artifacts.files)} in "
                f"{artifacts.base or 'the source'}",
            )
        self._say(f"Found {len(found)} file(s)")
        return pack(found)

    def _expand(self, text: str) -> str:
        variables = {**self.env, **(self.shell.variables() if self.shell else {})}
        return re.sub(r"\$\{?(\w+)\}?", lambda m: variables.get(m[1], m[0]), text)

    def _export(self) -> None:
        """Note the exported variables' values as the shell left them."""
        if self.spec and self.shell:
            values = {**self.env, **self.shell.variables()}
            self.record["exportedEnvironmentVariables"] = [
                {"name": n, "value": values[n]} for n in self.spec.exported if n in values
            ]

    def _finish(self, status: str) -> None:
        if self.shell:
            self.shell.close()
        if self._phase.get("phaseStatus") is None:
            self._leave("SUCCEEDED")
        if self._phase.get("phaseType") != "FINALIZING":
            self._enter("FINALIZING")
            self._leave("SUCCEEDED")
        if self.log:
            self.log.done.set()
            self.log.flush()
        end = clock.now()
        self.record["phases"].append({"phaseType": "COMPLETED", "startTime": end})
        self.record |= {
            "currentPhase": "COMPLETED",
            "endTime": end,
            "buildStatus": status,
            "buildComplete": True,
        }
        self.tell(self.record, "")

    # -- log --------------------------------------------------------------------------------------------
    def _say(self, text: str) -> None:
        if self.log:
            for number, line in enumerate(text.splitlines() or [""]):
                self.log.write(
                    f"[Container] {clock.now():%Y/%m/%d %H:%M:%S.%f} {line}" if number == 0 else line
                )

    def _take(self, line: str) -> None:
        if self.log:
            self.log.write(line)


class Shell:
    """One shell that is given command after command, and is replaced when a command ends it (``exit 1``)."""

    _LOOP = """
exec 3<"$1/commands" 4>"$1/results"
set -a; [ -f "$1/state" ] && . "$1/state" 2>/dev/null; set +a
[ -f "$1/cwd" ] && cd "$(cat "$1/cwd")"
__control=$1; shift
__save() {
  export -p >"$__control/state.new"
  mv "$__control/state.new" "$__control/state"
  pwd >"$__control/cwd"
}
trap '__save' EXIT
while IFS= read -r __file <&3; do
  . "$__file" </dev/null 3<&- 4>&-
  __code=$?
  __save
  echo $__code >&4
done
"""

    def __init__(
        self, name: str, control: Path, cwd: Path, env: dict[str, str], take: Callable[[str], None]
    ) -> None:
        self.name, self.control, self.cwd, self.env, self.take = name, control, cwd, env, take
        self.popen: subprocess.Popen | None = None
        self._count = 0
        self._mark = -1
        self._settled = threading.Event()
        self._reader: threading.Thread | None = None
        for fifo in ("commands", "results"):
            os.mkfifo(control / fifo)
        # open for reading and writing: neither side waits for the other, and the pipe never reports its end
        self._commands = os.open(control / "commands", os.O_RDWR)
        self._results = os.open(control / "results", os.O_RDWR | os.O_NONBLOCK)
        (control / "loop.sh").write_text(self._LOOP)

    def _start(self) -> None:
        # sh of CodeBuild's Amazon Linux images is bash
        bash = shutil.which("bash")
        argv = (
            ["bash", "--noprofile", "--norc"]
            if self.name == "bash" and bash
            else ["bash", "--noprofile", "--norc", "--posix"]
            if bash
            else ["sh"]
        )
        self._detach()
        out, self._mark = os.pipe()
        self.popen = process.start(
            [*argv, str(self.control / "loop.sh"), str(self.control)],
            cwd=self.cwd,
            env=self.env,
            stdout=self._mark,
        )
        self._reader = threading.Thread(target=self._read, args=(out,), daemon=True)
        self._reader.start()

    def _read(self, descriptor: int) -> None:
        """Hand on lines as they come; ``\\r`` of progress bars ends a line too."""
        rest = b""
        with os.fdopen(descriptor, "rb", buffering=0) as pipe:
            while chunk := pipe.read(65536):
                *lines, rest = re.split(rb"\r?\n|\r", rest + chunk)
                for line in lines:
                    if line.endswith(_MARK):
                        line = line.removesuffix(_MARK)
                        self._settled.set()
                        if not line:
                            continue
                    self.take(line.decode(errors="replace"))
        if rest:
            self.take(rest.decode(errors="replace"))

    def run(self, command: str, env: dict[str, str], stop: Callable[[], bool]) -> int:
        """Run a command in the shell; its exit status. ``stop`` raises to end it."""
        if self.popen is None or self.popen.poll() is not None:
            self._start()
        assert self.popen
        self._count += 1
        file = self.control / f"script-{self._count}.sh"
        exports = "".join(f"export {k}={shlex.quote(v)}\n" for k, v in env.items())
        file.write_text(f"{exports}{command}\n")
        os.write(self._commands, f"{file}\n".encode())
        try:
            while True:
                stop()
                ready, _, _ = select.select([self._results], [], [], 0.1)
                if ready:
                    code = int(os.read(self._results, 64).split()[0])
                    self._settle()
                    return code
                if self.popen.poll() is not None:
                    self._settle()
                    return self.popen.returncode or 0
        except BaseException:
            process.kill_tree(self.popen)
            raise

    def _settle(self) -> None:
        """Wait until the reader has taken all that the command printed: until it finds a mark behind it."""
        self._settled.clear()
        os.write(self._mark, _MARK + b"\n")
        self._settled.wait(5)

    def _detach(self) -> None:
        """Let the reader of a shell that has ended come to its end."""
        if self._mark >= 0:
            os.close(self._mark)
            self._mark = -1
        if self._reader:
            self._reader.join(5)

    def variables(self) -> dict[str, str]:
        """The shell's exported and plain variables after the last command."""
        state = self.control / "state"
        if not state.is_file():
            return {}
        text = subprocess.run(
            ["bash", "-c", 'set -a; . "$1"; env -0', "bash", str(state)],
            capture_output=True,
            env={"PATH": os.defpath},
        ).stdout
        return dict(pair.split("=", 1) for pair in text.decode(errors="replace").split("\0") if "=" in pair)

    def close(self) -> None:
        """End the shell and what it left running."""
        if self.popen:
            process.kill_tree(self.popen)
        self._detach()
        for descriptor in (self._commands, self._results):
            os.close(descriptor)


class Source:
    """Where a build's files come from; ``identifier`` is "" for the primary source."""

    identifier = ""

    def fetch(self, build: Build, folder: Path) -> None:
        """Put the files into the folder; nothing for NO_SOURCE."""

    def describe(self) -> str:
        """What it is, for an error."""
        return "source"


class ZipSource(Source):
    """A zip in S3, fetched under the build's role: of a pipeline's artifact or of source type S3."""

    def __init__(self, identifier: str, bucket: str, key: str, version: str = "") -> None:
        self.identifier, self.bucket, self.key, self.version = identifier, bucket, key, version

    def describe(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    def fetch(self, build: Build, folder: Path) -> None:
        which = {"VersionId": self.version} if self.version else {}
        content = build._client("s3").get_object(Bucket=self.bucket, Key=self.key, **which)["Body"].read()
        # CodeBuild's unzip keeps no executable bits of CodePipeline's zips: call scripts through their
        # interpreter
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            archive.extractall(folder)


class GitSource(Source):
    """A CodeCommit repository, at a branch, tag or commit."""

    def __init__(self, identifier: str, location: str, version: str, depth: int) -> None:
        self.identifier, self.location, self.version, self.depth = identifier, location, version, depth

    def describe(self) -> str:
        return self.location

    def fetch(self, build: Build, folder: Path) -> None:
        name = self.location.rstrip("/").rpartition("/v1/repos/")[2]
        url = f"{build.cloud.endpoint}/v1/repos/{name}"
        token = base64.b64encode(f"{build.env['AWS_ACCESS_KEY_ID']}:of-the-build".encode()).decode()
        env = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(build.home / "home"),
            "GIT_CONFIG_COUNT": "1",  # the build's role pulls
            "GIT_CONFIG_KEY_0": "http.extraHeader",
            "GIT_CONFIG_VALUE_0": f"Authorization: Basic {token}",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
        }
        wanted = self.version.removeprefix("refs/heads/") or "HEAD"
        for arguments in (["clone", "--quiet", "--no-checkout", url, "."], ["checkout", "--quiet", wanted]):
            if wanted == "HEAD" and arguments[0] == "checkout":
                arguments = ["checkout", "--quiet"]
            done = subprocess.run(["git", *arguments], cwd=folder, env=env, capture_output=True, text=True)
            if done.returncode:
                raise BuildFailed(
                    "GIT_CLONE_FAILED" if arguments[0] == "clone" else "CLIENT_ERROR",
                    f"{url}: {done.stderr.strip()}",
                )
        resolved = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=folder, env=env, capture_output=True, text=True
        ).stdout.strip()
        if not self.identifier:
            build.record["resolvedSourceVersion"] = resolved


class Inputs:
    """A build's sources and what becomes of its artifacts."""

    def __init__(
        self,
        sources: list[Source],
        wanted: set[str] | None = None,
        deliver: Callable[[Build], None] | None = None,
    ) -> None:
        self.sources, self._wanted, self._deliver = sources, wanted, deliver

    def wants(self, identifier: str) -> bool:
        """Whether the artifact of that identifier ("" for the primary) goes anywhere."""
        return self._wanted is None or identifier in self._wanted

    def deliver(self, build: Build) -> None:
        """Store the artifacts; raises BuildFailed."""
        if self._deliver:
            self._deliver(build)


def pack(files: dict[str, Path]) -> bytes:
    """A zip of files by their names in it."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in sorted(files.items()):
            archive.write(path, name)
    return out.getvalue()


def checksum(content: bytes) -> str:
    """SHA-256 of an artifact, as BatchGetBuilds shows it."""
    return hashlib.sha256(content).hexdigest()


def _expand(base: Path, pattern: str) -> list[Path]:
    """The files that an artifact pattern names: a path, ``*``, ``**/*``, a folder followed by ``/**``."""
    if pattern.startswith("/"):
        return [Path(pattern)]
    pattern = pattern.removeprefix("./")
    if pattern.endswith("**"):
        pattern += "/*"
    if any(c in pattern for c in "*?["):
        return sorted(base.glob(pattern))
    return [base / pattern]
