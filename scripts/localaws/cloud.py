"""The running cloud, as its services see it: clients, roles, events, logs, background work, places."""

from __future__ import annotations

import base64
import contextlib
import contextvars
import logging
import os
import re
import threading
import time as real_time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config

from localaws import clock
from localaws.errors import AwsError

if TYPE_CHECKING:
    from localaws.permissions.network import Network

#: who makes the current request: an access key id, "" for the root of the account
caller_key: contextvars.ContextVar[str] = contextvars.ContextVar("localaws_caller_key", default="")


class Cloud:
    """Accounts of AWS on one port of this machine: the caller's credentials say in which one a request works.

    ``account`` is that of the current request, and of the background work that it began. ``at`` gives the
    cloud as one account sees it, whatever request is being served; each service is made with such a view.
    """

    #: access keys of the first account's root: who launches the platform, and whoever did not sign
    ROOT_KEYS = ("test", "testing")
    #: services of which no AWS page says that they name their account when they assume a role
    WITHOUT_SOURCE = ("cloudformation.amazonaws.com",)

    def __init__(
        self, port: int, home: Path, cache: Path, account: str, region: str, time_scale: float = 0.01
    ) -> None:
        self.port = port
        self.home = home  # this run's files: repositories, builds, jobs; removed at the end
        self.cache = cache  # kept between runs: Python environments of images, wheels
        self.first_account = account
        self.accounts: dict[str, str] = {}  # id → name, of every account there is
        self.region = region
        self.partition = "aws"
        self.time_scale = time_scale
        self.endpoint = f"http://localhost:{port}"
        self.log = logging.getLogger("localaws")
        self.services_of: dict[str, dict[str, Any]] = {}  # account → our services in it, by name
        self.calls: deque[dict[str, Any]] = deque(maxlen=100_000)
        self.outbox: list[dict[str, Any]] = []
        self.undelivered: list[str] = []
        self.faults: list[str] = []
        self.internal_keys: dict[str, str] = {}  # account → access key of work that AWS does inside itself
        self.enforce = True  # whether policies decide; the account's root is never asked
        self.evidence: Any = None  # what IAM was asked (permissions.gate.Evidence)
        self.networks: dict[str, Network] = {}  # access key → where its holder sits in a VPC
        self.routes: dict[str, set[str]] = {}  # VPC endpoint → what in a VPC went through it
        self.tokens: dict[str, str] = {}  # token of docker → the access key that asked for it
        self.session_keys: dict[str, dict[str, Any]] = {}  # access key → condition keys of the session
        self._clients: dict[tuple[str, str], Any] = {}
        self._clients_lock = threading.Lock()
        self._stopping = threading.Event()
        self._closers: list[Callable[[], None]] = []
        #: makes our services for an account (assembly.py)
        self.make_services: Callable[[Cloud], dict[str, Any]] = lambda cloud: {}
        self.add_account(account, "first")

    # -- accounts ----------------------------------------------------------------------------------------
    @property
    def account(self) -> str:
        """The account of the current request, or of the work that it began; else the first."""
        from ministack.core.responses import get_account_id

        return get_account_id()

    @property
    def services(self) -> dict[str, Any]:
        """Our services in this account, by botocore's name."""
        return self.services_of.get(self.account, {})

    @property
    def internal_key(self) -> str:
        """The access key with which AWS works for this account inside itself."""
        return self.internal_keys[self.account]

    def at(self, account: str) -> Cloud:
        """The cloud as one account sees it."""
        return _AccountCloud(self, account)

    def add_account(self, account: str, name: str) -> None:
        """Open an account. Raises ValueError for an id that is none, or taken."""
        if not re.fullmatch(r"\d{12}", account) or account in self.accounts:
            raise ValueError(f"account {account!r} is taken, or no id of 12 digits")
        self.internal_keys[account] = f"AWSINTERNAL{uuid.uuid4().hex[:16].upper()}"
        self.accounts[account] = name
        if self.services_of:  # those of the first account are made when the cloud is put together
            self.open_services(account)
            self.start_services(account)

    def open_services(self, account: str) -> None:
        """Make our services of an account."""
        with self.at(account).scope():
            self.services_of[account] = self.make_services(self.at(account))

    def start_services(self, account: str) -> None:
        """Let our services of an account begin what they do by themselves."""
        with self.at(account).scope():
            for service in self.services_of[account].values():
                if start := getattr(service, "start", None):
                    start()

    def root_key(self, account: str) -> str:
        """The access key of an account's root: its id, but for the first account."""
        return self.ROOT_KEYS[0] if account == self.first_account else account

    def account_of_key(self, access_key: str) -> str:
        """The account that an access key belongs to; the first one for a key that nobody was given."""
        from localaws.hooks import policies

        for account, key in self.internal_keys.items():
            if access_key == key:
                return account
        if access_key in self.accounts:
            return access_key
        session = policies.session_of(access_key)
        return session["Arn"].split(":")[4] if session else self.first_account

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """Work in this account and region: what the emulator keeps is looked up there."""
        from ministack.core.responses import request_scope

        with request_scope(self.account, self.region):
            yield

    # -- talking to other services, as AWS does: through their API ---------------------------------------
    def client(
        self,
        service: str,
        role: str | None = None,
        principal: str = "",
        session: str = "local-cloud",
        network: Network | None = None,
    ) -> Any:
        """A boto3 client of this cloud; with ``role`` (an ARN), under credentials of that role.

        ``principal`` is the service that assumes the role (``codebuild.amazonaws.com``): the role's trust
        policy must name it, else AwsError AccessDenied. ``network`` is the VPC that the calls come from.
        """
        if role:
            keys = self.role_credentials(role, principal, session, network=network)
            return self._make_client(service, keys)
        whose = (self.account, service)
        with self._clients_lock:
            found = self._clients.get(whose)
        if found is None:
            found = self._clients.setdefault(whose, self._make_client(service, self.root_credentials()))
        return found

    def _make_client(self, service: str, keys: dict[str, str]) -> Any:
        # boto3's session makes clients for one thread at a time; the clients serve many
        with self._clients_lock:
            return boto3.client(
                service,
                endpoint_url=self.endpoint,
                region_name=self.region,
                config=_CLIENT,
                aws_access_key_id=keys["AccessKeyId"],
                aws_secret_access_key=keys["SecretAccessKey"],
                aws_session_token=keys.get("SessionToken"),
            )

    def root_credentials(self) -> dict[str, str]:
        """The account's own credentials, for work that AWS does inside itself."""
        return {"AccessKeyId": self.internal_key, "SecretAccessKey": "internal"}

    def client_of_caller(self, service: str) -> Any:
        """A client under the credentials of who makes the current request, as AWS's services call each other.

        https://docs.aws.amazon.com/IAM/latest/UserGuide/access_forward_access_sessions.html
        """
        key = caller_key.get() or self.internal_key
        return self._make_client(service, {"AccessKeyId": key, "SecretAccessKey": "forwarded"})

    def role_credentials(
        self,
        role: str,
        principal: str,
        session: str = "local-cloud",
        seconds: int = 3600,
        network: Network | None = None,
    ) -> dict[str, str]:
        """Temporary credentials of a role that a service (or the account) assumes.

        ``network`` is where their holder sits in a VPC: its calls reach only what has an endpoint there.
        """
        if principal:
            self.check_trust(role, principal)
        name = re.sub(r"[^\w+=,.@-]", "-", session)[:64]
        answer = self.client("sts").assume_role(RoleArn=role, RoleSessionName=name, DurationSeconds=seconds)
        keys = answer["Credentials"]
        if network:
            self.networks[keys["AccessKeyId"]] = network
        return keys

    def role_environment(
        self, role: str, principal: str, session: str, network: Network | None = None
    ) -> dict[str, str]:
        """What a process needs in its environment to call this cloud under a role, from ``network``."""
        keys = self.role_credentials(role, principal, session, network=network)
        return {
            "AWS_ACCESS_KEY_ID": keys["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": keys["SecretAccessKey"],
            "AWS_SESSION_TOKEN": keys["SessionToken"],
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
            **self._git_environment(keys),
        }

    def _git_environment(self, keys: dict[str, str]) -> dict[str, str]:
        """Lets git send what ``aws codecommit credential-helper`` makes for AWS's host names only."""
        user = f"{keys['AccessKeyId']}%{keys['SessionToken']}"
        basic = base64.b64encode(f"{user}:local".encode()).decode()
        return {
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"http.{self.endpoint}/v1/repos/.extraHeader",
            "GIT_CONFIG_VALUE_0": f"Authorization: Basic {basic}",
        }

    def check_trust(self, role: str, principal: str, source: str = "") -> dict[str, Any]:
        """The role, if its trust policy lets the service principal assume it, for the resource ``source``.

        Raises AwsError AccessDenied naming the role and the principal that is missing.
        """
        match = re.fullmatch(r"arn:[\w-]+:iam::\d{12}:role/(?:.*/)?([\w+=,.@-]+)", role or "")
        if not match:
            raise AwsError("ValidationException", f"{role!r} is not the ARN of an IAM role")
        try:
            found = self.at(role.split(":")[4]).client("iam").get_role(RoleName=match[1])["Role"]
        except Exception as error:
            raise AwsError("ValidationException", f"Role {role} does not exist: {error}") from error
        from localaws.hooks import policies

        keys = {} if principal in self.WITHOUT_SOURCE else {"aws:SourceAccount": self.account}
        keys |= {"aws:SourceArn": source} if source else {}
        if policies.trusts(found["AssumeRolePolicyDocument"], principal, role, keys):
            return found
        raise AwsError(
            "AccessDeniedException",
            f"{principal} is not authorized to perform: sts:AssumeRole on {role} "
            f"(the role's trust policy does not allow it to {principal} with {keys or 'no condition keys'})",
        )

    # -- events, logs ------------------------------------------------------------------------------------
    def emit(
        self, source: str, detail_type: str, detail: dict[str, Any], resources: list[str] | None = None
    ) -> None:
        """Put an AWS service event (``aws.sagemaker`` …) on the default bus."""
        from localaws import hooks

        hooks.put_service_event(self, source, detail_type, detail, resources or [])

    def log_events(self, group: str, stream: str, lines: list[str]) -> None:
        """Append lines to a log stream of CloudWatch Logs; group and stream are made when missing."""
        logs = self.client("logs")
        for make, arguments in (
            (logs.create_log_group, {"logGroupName": group}),
            (logs.create_log_stream, {"logGroupName": group, "logStreamName": stream}),
        ):
            with contextlib.suppress(logs.exceptions.ResourceAlreadyExistsException):
                make(**arguments)
        stamp = int(clock.time() * 1000)
        for start in range(0, len(lines), 1000):
            events = [{"timestamp": stamp, "message": line or " "} for line in lines[start : start + 1000]]
            if events:
                logs.put_log_events(logGroupName=group, logStreamName=stream, logEvents=events)

    def record_call(self, service: str, operation: str, by: str) -> None:
        """Remember an API call from outside for /_localaws/calls; ``by`` is a role's ARN or ``root``."""
        call = {"at": clock.now().isoformat(), "service": service, "operation": operation, "by": by}
        self.calls.append({**call, "account": self.account})

    # -- names, time, background work --------------------------------------------------------------------
    def arn(self, service: str, resource: str) -> str:
        """An ARN of this account and region."""
        return f"arn:{self.partition}:{service}:{self.region}:{self.account}:{resource}"

    @staticmethod
    def new_id(prefix: str = "", length: int = 13) -> str:
        """A random lower-case id as AWS makes them (``prod-abc…``)."""
        return prefix + uuid.uuid4().hex[:length]

    def pause(self, seconds: float) -> None:
        """Let the time pass that AWS takes for something, scaled by the setting ``time_scale``."""
        self._stopping.wait(seconds * self.time_scale)

    @property
    def stopping(self) -> bool:
        """Whether the cloud is shutting down: background work ends then."""
        return self._stopping.is_set()

    def spawn(self, function: Callable[..., Any], *arguments: Any, name: str = "work") -> threading.Thread:
        """Run something in the background in the request's account and region; a fault is logged and told."""
        with self.scope():
            context = contextvars.copy_context()

        def run() -> None:
            try:
                context.run(function, *arguments)
            except Exception as error:
                if not self.stopping:
                    self.log.exception("background %s failed", name)
                    self.faults.append(f"{name}: {type(error).__name__}: {error}")

        thread = threading.Thread(target=run, name=f"localaws-{name}", daemon=True)
        thread.start()
        return thread

    def wait_until(self, condition: Callable[[], Any], timeout: float, interval: float = 0.05) -> Any:
        """Poll until ``condition()`` is true or ``timeout`` real seconds have passed; its last value."""
        deadline = real_time.monotonic() + timeout
        while True:
            value = condition()
            if value or real_time.monotonic() > deadline or self.stopping:
                return value
            real_time.sleep(interval)

    def on_close(self, function: Callable[[], None]) -> None:
        """Call at shutdown (to end the processes that a service started)."""
        self._closers.append(function)

    def close(self) -> None:
        """End background work and the processes of builds, jobs and endpoints."""
        self._stopping.set()
        for function in reversed(self._closers):
            try:
                function()
            except Exception:
                self.log.exception("closing failed")

    def environment(self) -> dict[str, str]:
        """The exports a person or a rehearsal needs to use this cloud."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
        }


class _AccountCloud(Cloud):
    """The cloud as one account sees it; all else is shared with the whole."""

    def __init__(self, whole: Cloud, account: str) -> None:
        object.__setattr__(self, "_whole", getattr(whole, "_whole", whole))
        object.__setattr__(self, "_account", account)

    @property
    def account(self) -> str:
        return self._account

    @property
    def home(self) -> Path:
        """This run's files of the account: its own folder, but for the first account."""
        whole = self._whole
        own = self._account == whole.first_account
        return whole.home if own else whole.home / "accounts" / self._account

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "_whole"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._whole, name, value)


_CLIENT = Config(
    retries={"max_attempts": 1},
    read_timeout=600,
    max_pool_connections=50,
    s3={"addressing_style": "path"},
    inject_host_prefix=False,
)


def default_home() -> Path:
    """A fresh folder for one run, below the system's temporary folder."""
    import tempfile

    return Path(tempfile.mkdtemp(prefix="local-cloud-", dir=os.environ.get("LOCALAWS_HOME") or None))
