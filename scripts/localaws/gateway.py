"""The one port: routes each request to our services, to git and pip, or to the emulators."""

from __future__ import annotations

import asyncio
import functools
import json
import re
import threading
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs

from localaws import clock, hooks
from localaws.cloud import Cloud, caller_key
from localaws.errors import AwsError
from localaws.permissions import gate, registry, requests, whereabouts
from localaws.service import Response
from localaws.services import execute_api

_CREDENTIAL = re.compile(r"Credential=([^/]+)/\d+/[^/]+/([^/]+)/")
#: x-amz-target prefixes of the services that are ours (the json protocol)
_TARGETS = {
    "SageMaker": "sagemaker",
    "AWS242ServiceCatalogService": "servicecatalog",
    "CodeCommit_20150413": "codecommit",
    "CodePipeline_20150709": "codepipeline",
    "CodeBuild_20161006": "codebuild",
    "CodeDeploy_20141006": "codedeploy",
}
#: paths that are not AWS APIs: prefix → (cloud, method, path, headers, query, body) → response
Raw = Callable[[Cloud, str, str, dict[str, str], str, bytes], Response]


class Gateway:
    """An ASGI application in front of ministack's."""

    def __init__(self, cloud: Cloud, raw: dict[str, Raw]) -> None:
        import ministack.app

        from localaws import moto_bridge

        self.cloud = cloud
        cloud.evidence = gate.Evidence()
        self.raw = {"/_localaws/": control, **raw}
        self.inner = ministack.app.app
        self.handlers = ministack.app.SERVICE_HANDLERS
        moto_bridge.install(ministack.app, cloud)

    async def __call__(
        self, scope: dict, receive: Callable[[], Awaitable[dict]], send: Callable[[dict], Awaitable[None]]
    ) -> None:
        if scope["type"] != "http":
            return await self.inner(scope, receive, send)
        path = scope["path"]
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
        handler: Callable[..., Response] | None = None
        for prefix, function in self.raw.items():
            if path.startswith(prefix):
                handler = lambda *request, f=function: f(self.cloud, *request)  # noqa: E731
        if execute_api.asked(headers):  # who may call an API says the API, not a policy for API calls alone
            handler = lambda *request: self.cloud.services["execute-api"].handle(*request)  # noqa: E731
        raw_path = scope.get("raw_path", path.encode()).decode().split("?")[0]
        query = scope.get("query_string", b"").decode()
        signed_key, signed = requests.signature(headers, query)
        access_key, _, name = self._service(headers, path)
        access_key = access_key or signed_key
        replay, account = receive, self.cloud.account_of_key(access_key)
        if handler is None and signed:
            refused, replay, account = await self._checked(scope, receive, headers, raw_path, query, signed)
            if refused:
                return await _send(send, refused)
        elif handler is None and not _open(path, query):
            error = AwsError("MissingAuthenticationToken", "Request is missing Authentication Token", 403)
            service = _TARGETS.get(headers.get("x-amz-target", "").partition(".")[0], "s3")
            service = "sts" if "x-www-form-urlencoded" in headers.get("content-type", "") else service
            return await _send(send, gate.denied_answer(service, error, headers, ""))
        if not signed and path.startswith("/v2/"):
            account = registry.account(self.cloud, headers)
            context = hooks.scope_request(self.cloud, access_key, account)
            pushed = (self.cloud, scope["method"], raw_path, headers)
            refused = await _in_thread(context, registry.refusal, *pushed)
            if refused:
                return await _send(send, refused)
        if handler is None and name:
            handler = self.cloud.services_of[account][name].handle
        if handler is None and not self._emulated(signed):
            handler = functools.partial(_not_served, signed)
        if handler is None:
            caller_key.set(access_key)  # for CloudFormation, which works on in the caller's name
            hooks.serve_in(account)
            return await self.inner(scope, replay, send)
        body = await _body(replay)
        request = (scope["method"], raw_path if name else path, headers, query, body)
        answer = await _in_thread(hooks.scope_request(self.cloud, access_key, account), handler, *request)
        await _send(send, answer)

    async def _checked(
        self, scope: dict, receive: Callable, headers: dict[str, str], path: str, query: str, signed: str
    ) -> tuple[Response | None, Callable, str]:
        """The refusal of a request (None if its caller may make it), its body to read again, and its account.

        A request works where what it names is, which may be in another account than the caller's.
        """
        access_key, _ = requests.signature(headers, query)
        service, account = requests.service_of(signed, path), self.cloud.account_of_key(access_key)
        internal = access_key in self.cloud.internal_keys.values()
        if not service or internal and (len(self.cloud.accounts) == 1 or not whereabouts.crosses(service)):
            return None, receive, account
        body, again = b"", receive
        if service != "s3" or scope["method"] == "POST":  # an object may be large, and says nothing here
            body = await _body(receive)
            again = _replayed(body)
        arguments = (self.cloud, access_key, service, scope["method"], path, headers, query, body)
        context = hooks.scope_request(self.cloud, access_key, account)
        refused, served_in = await _in_thread(context, _refusal, *arguments)
        return refused, again, served_in

    def _service(self, headers: dict[str, str], path: str) -> tuple[str, str, str]:
        """The caller's access key, the service it signed for, and our service's name ("" for another)."""
        match = _CREDENTIAL.search(headers.get("authorization", ""))
        access_key, signed = match.groups() if match else ("", "")
        target = headers.get("x-amz-target", "").partition(".")[0]
        name = _TARGETS.get(target, "")
        if not name and signed == "sagemaker":
            name = "sagemaker-metrics" if path.startswith("/BatchPut") else "sagemaker-runtime"
        ours = self.cloud.services_of[self.cloud.first_account]
        return access_key, signed, next((n for n in (name, signed) if n in ours), "")

    @functools.cache  # noqa: B019 - there is one gateway
    def _emulated(self, signed: str) -> bool:
        """Whether the emulators serve requests that are signed for this service (or for none)."""
        from ministack.core import router

        if not signed or signed in router.SERVICE_PATTERNS:
            return True
        request = {"authorization": f"AWS4-HMAC-SHA256 Credential=x/20000101/x/{signed}/aws4_request"}
        return router.detect_service("POST", "/", request, {}) in self.handlers


def _open(path: str, query: str) -> bool:
    """Whether AWS answers without a signature here: links in mails, registries, the cloud's pages."""
    links = ("Action=ConfirmSubscription", "Action=Unsubscribe")
    keys = path.endswith(("/.well-known/jwks.json", "/.well-known/openid-configuration"))  # of user pools
    return path.startswith(("/_", "/v2/")) or path == "/v2" or keys or any(link in query for link in links)


def _refusal(cloud: Cloud, access_key: str, service: str, *request: Any) -> tuple[Response | None, str]:
    """What refuses a request, None if nothing does, and the account in which it works."""
    _, path, headers, *_ = request
    try:
        read = requests.read(service, *request)
        gate.check(cloud, access_key, service, read, *request)
    except AwsError as error:
        return gate.denied_answer(service, error, headers, hooks.caller_arn(cloud)), cloud.account
    except Exception as error:
        cloud.log.exception("permissions of %s %s", service, headers.get("x-amz-target", path))
        cloud.faults.append(f"permissions of {service}: {type(error).__name__}: {error}")
        failure = AwsError("InternalFailure", str(error), 500)
        return gate.denied_answer(service, failure, headers, ""), cloud.account
    return None, whereabouts.account(cloud, read)


def _replayed(body: bytes) -> Callable[[], Awaitable[dict]]:
    """A body that was read, to be read once more."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict:
        return messages.pop() if messages else {"type": "http.disconnect"}

    return receive


async def _send(send: Callable[[dict], Awaitable[None]], answer: Response) -> None:
    status, headers, content = answer
    sent = [
        (k.lower().encode(), str(v).encode()) for k, v in headers.items() if k.lower() != "content-length"
    ]
    sent.append((b"content-length", str(len(content)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": sent})
    await send({"type": "http.response.body", "body": content})


def _not_served(service: str, method: str, path: str, *_: Any) -> Response:
    message = f"{service} is not implemented in the local cloud ({method} {path})"
    status, headers, body = _json({"__type": "NotImplemented", "message": message}, 501)
    return status, {**headers, "x-amzn-ErrorType": "NotImplemented"}, body


async def _body(receive: Callable[[], Awaitable[dict]]) -> bytes:
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


async def _in_thread(context: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """Run a handler on a thread of its own.

    Handlers call back into this server, so a pool could fill up and deadlock.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future = loop.create_future()

    def deliver(result: Any, error: BaseException | None) -> None:
        if not future.done():
            future.set_exception(error) if error else future.set_result(result)

    def run() -> None:
        try:
            result, error = context.run(function, *arguments), None
        except Exception as fault:
            result, error = None, fault
        loop.call_soon_threadsafe(deliver, result, error)

    threading.Thread(target=run, name="localaws-request", daemon=True).start()
    return await future


def control(
    cloud: Cloud, method: str, path: str, headers: dict[str, str], query: str, body: bytes
) -> Response:
    """The cloud's own switches, for the rehearsal and for a person with curl.

    They are health, accounts (all of them; POST opens one, as AWS Organizations would), clock, outbox,
    settings, stacks, calls, what IAM was asked and denied (questions, denials), which VPC endpoints were used
    (routes), and the environment of a Studio space (studio).
    """
    what = path.removeprefix("/_localaws/").strip("/")
    sent = json.loads(body) if body else {}
    if what == "health":
        return _json(
            {
                "status": "ready",
                "undelivered": cloud.undelivered,
                "faults": cloud.faults,
                "account": cloud.account,
                "accounts": sorted(cloud.accounts),
                "region": cloud.region,
            }
        )
    if what == "clock":
        if method == "POST":
            try:
                clock.advance(sent["advance_seconds"])
            except (KeyError, TypeError, ValueError) as error:
                return _json({"error": f'clock takes {{"advance_seconds": n}}, n >= 0: {error}'}, 400)
        return _json({"now": clock.now().isoformat(), "offset_seconds": clock.offset()})
    if what == "accounts":
        if method == "POST":
            try:
                cloud.add_account(sent["id"], sent["name"])
            except (KeyError, TypeError, ValueError) as error:
                return _json({"error": f'accounts takes {{"id": 12 digits, "name"}}: {error}'}, 400)
        return _json([{"id": i, "name": n, **_root_keys(cloud, i)} for i, n in cloud.accounts.items()])
    if what == "outbox":
        return _json(cloud.outbox)
    if what == "routes":
        return _json({name: sorted(kinds) for name, kinds in sorted(cloud.routes.items())})
    if what == "studio":
        try:
            studio = cloud.services["sagemaker"]
            return _json(studio.space_environment(sent["domain"], sent["role"], sent["session"]))
        except (AwsError, KeyError, TypeError) as error:
            return _json({"error": f'studio takes {{"domain", "role", "session"}}: {error}'}, 400)
    if what == "settings":
        if method == "POST":
            try:
                unknown = set(sent) - {"time_scale", "enforce"}
                if unknown or not isinstance(sent.get("enforce", True), bool):
                    raise ValueError(f"{sent} is not understood")
                cloud.time_scale = float(sent.get("time_scale", cloud.time_scale))
                cloud.enforce = sent.get("enforce", cloud.enforce)
            except (TypeError, ValueError) as error:
                return _json(
                    {"error": f'settings takes {{"time_scale": n, "enforce": true|false}}: {error}'}, 400
                )
        return _json({"time_scale": cloud.time_scale, "enforce": cloud.enforce})
    if what == "stacks":
        return _json(hooks.census.stacks())
    if what == "leaks":
        from localaws import leaks

        return _json(leaks.look(cloud, sent.get("secrets", {}), sent.get("rows", {})))
    if what == "denials":
        return _json(cloud.evidence.denials)
    if what == "policies":
        return _json(cloud.evidence.documents)
    if what == "questions":
        return _json(list(cloud.evidence.questions.values()))
    if what == "calls":
        wanted = parse_qs(query).get("service")
        return _json([c for c in cloud.calls if not wanted or c["service"] in wanted])
    there_are = "health, accounts, clock, outbox, settings, stacks, calls, denials, questions, policies"
    return _json({"error": f"{what!r} is unknown; there are {there_are}, routes, studio"}, 404)


def _root_keys(cloud: Cloud, account: str) -> dict[str, str]:
    return {"access_key": cloud.root_key(account), "secret_key": "test"}


def _json(value: Any, status: int = 200) -> Response:
    return status, {"Content-Type": "application/json"}, json.dumps(value, default=str).encode()
