"""Calls of APIs: <id>.execute-api.<region>.amazonaws.com, by the host that a request names.

Who calls, through which network, how often and what the log keeps is decided here; the emulator validates
tokens, matches routes and calls the function.
https://docs.aws.amazon.com/apigateway/latest/developerguide/apigateway-control-access-to-api.html
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
import uuid
from typing import Any
from urllib.parse import parse_qs

from localaws import clock, hooks
from localaws.cloud import Cloud
from localaws.errors import AwsError
from localaws.hooks import releases
from localaws.permissions import gate, requests
from localaws.permissions.access import Access
from localaws.permissions.callers import caller_of
from localaws.permissions.network import NoRoute
from localaws.service import Response

Record = dict[str, Any]
#: of an API by itself, or of a private API by the VPC's endpoint
_HOST = re.compile(
    r"([a-z0-9]{8,10})(?:-vpce-[0-9a-f]+)?\.execute-api\.[a-z0-9-]+\.amazonaws\.com(?:\.cn)?(?::\d+)?"
)


def asked(headers: dict[str, str]) -> str:
    """The API whose host a request names, "" for none."""
    match = _HOST.fullmatch(headers.get("host", ""))
    return match[1] if match else ""


class Refused(Exception):
    """A call that API Gateway answers itself."""

    def __init__(self, status: int, message: str, word: str = "message") -> None:
        super().__init__(message)
        self.status, self.answer = status, {word: message}


class ExecuteApi:
    """The data plane of API Gateway."""

    name = "execute-api"

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self._buckets: dict[tuple[str, str], tuple[float, float]] = {}
        self._lock = threading.Lock()

    def resource_policy(self, arn: str) -> Any:
        """The policy of the API that a method belongs to; HTTP APIs have none."""
        api = hooks.apis.rest_api(arn.split(":")[5].split("/")[0])
        return (api or {}).get("policy") or None

    def handle(self, method: str, path: str, headers: Record, query: str, body: bytes) -> Response:
        """Answer one call."""
        begun, api = time.perf_counter(), asked(headers)
        context: Record = {
            "requestId": str(uuid.uuid4()),
            "requestTime": clock.now().strftime("%d/%b/%Y:%H:%M:%S +0000"),
            "httpMethod": method,
            "identity.sourceIp": "127.0.0.1",
            "path": path,
        }
        found = hooks.apis.find(api, path)
        if found is None:
            return _answer(403, {"message": "Forbidden"})
        context |= {
            "routeKey": f"{method} {found.path}",
            "resourcePath": found.path,
            "stage": found.stage_name,
        }
        try:
            status, answered, content = self._call(found, method, headers, query, body, context)
        except Refused as refused:
            context["error.message"] = refused.answer.get("message", refused.answer.get("Message", ""))
            status, answered, content = _answer(refused.status, refused.answer)
        context |= {"status": status, "responseLength": len(content)}
        context["responseLatency"] = round((time.perf_counter() - begun) * 1000)
        self._measure(found, status, context["responseLatency"])
        self._log(found, context)
        return status, answered, content

    def _call(
        self, found: Any, method: str, headers: Record, query: str, body: bytes, context: Record
    ) -> Response:
        if found.closed:
            raise Refused(403, "Forbidden")
        arn = self.cloud.arn("execute-api", f"{found.api_id}/{found.stage_name}/{method}{found.path}")
        kind = hooks.apis.authorization(found, method)
        self._reach(found, headers, query, arn, kind)
        if kind == "AWS_IAM":
            context["identity.userArn"] = self._authorize(found, method, headers, query, body, arn)
        elif kind not in ("JWT", None):
            raise Refused(501, f"the local cloud does not run authorization {kind}")
        if not found.rest:
            self._throttle(found)
        return self._forward(found, method, headers, query, body, arn, context)

    def _reach(self, found: Any, headers: Record, query: str, arn: str, kind: str | None) -> None:
        """Refuse a way that there is not: to a private API from outside, to a public one from inside."""
        key, _ = requests.signature(headers, query)
        network = self.cloud.networks.get(key)
        if found.private and network is None:
            # the name of a private API resolves inside its VPC only
            raise Refused(403, "Forbidden")
        if network is not None and not found.private:
            # with the endpoint's private names every API is looked for behind it, where public ones are not
            raise Refused(403, "Forbidden")

    def _authorize(self, found: Any, method: str, headers: Record, query: str, body: bytes, arn: str) -> str:
        key, service = requests.signature(headers, query)
        if not key:
            raise Refused(403, "Missing Authentication Token" if found.rest else "Forbidden")
        try:
            caller = caller_of(self.cloud, key)
            hooks.apis.check_signature(
                self.cloud, key, service, method, found.asked_path, headers, query, body
            )
            endpoint = gate.way_in(self.cloud, caller, "execute-api")
            if endpoint is not None and found.endpoints and endpoint.id not in found.endpoints:
                raise Refused(403, "Forbidden")
            gate.authorize(self.cloud, caller, Access("execute-api:Invoke", arn), endpoint)
        except NoRoute as error:
            raise Refused(403, error.message) from error
        except AwsError as error:
            if found.rest:
                raise Refused(403, error.message, "Message") from error
            raise Refused(403, "Forbidden") from error
        return caller.arn

    def _throttle(self, found: Any) -> None:
        """Refuse what comes faster than the stage's rate, beyond its burst (a token bucket)."""
        limits = found.stage.get("defaultRouteSettings")
        rate, burst = (hooks.apis.member(limits, f"throttling{kind}Limit") for kind in ("Rate", "Burst"))
        if rate is None or burst is None:
            return
        with self._lock:
            now, place = time.monotonic(), (found.api_id, found.stage_name)
            tokens, last = self._buckets.get(place, (float(burst), now))
            tokens = min(float(burst), tokens + (now - last) * float(rate))
            self._buckets[place] = (tokens - 1 if tokens >= 1 else tokens, now)
        if tokens < 1:
            raise Refused(429, "Too Many Requests")

    def _forward(
        self, found: Any, method: str, headers: Record, query: str, body: bytes, arn: str, context: Record
    ) -> Response:
        token = releases.calling_for.set(arn)
        try:
            status, answered, content = asyncio.run(
                hooks.apis.execute(
                    found, method, headers, body, parse_qs(query, keep_blank_values=True), query
                )
            )
        except releases.NotAllowed as error:
            self.cloud.log.warning("%s", error)
            context["error.message"] = "Internal server error"
            return _answer(500, {"message": "Internal Server Error"})
        finally:
            releases.calling_for.reset(token)
        return status, {k: str(v) for k, v in answered.items()}, content

    def _measure(self, found: Any, status: int, milliseconds: float) -> None:
        if found.rest:
            names, place = ("4XXError", "5XXError"), {"ApiName": found.api["name"], "Stage": found.stage_name}
        else:
            names, place = ("4xx", "5xx"), {"ApiId": found.api_id, "Stage": found.stage_name}
        hooks.apis.measure(place, "Count", 1, "Count")
        hooks.apis.measure(place, names[0], 1 if 400 <= status < 500 else 0, "Count")
        hooks.apis.measure(place, names[1], 1 if status >= 500 else 0, "Count")
        hooks.apis.measure(place, "Latency", milliseconds, "Milliseconds")

    def _log(self, found: Any, context: Record) -> None:
        settings = found.stage.get("accessLogSettings")
        destination, form = (hooks.apis.member(settings, name) for name in ("destinationArn", "format"))
        if not destination or not form:
            return
        line = re.sub(r"\$context\.([A-Za-z0-9_.]+)", lambda m: str(context.get(m[1], "-")), form)
        group = destination.split(":log-group:")[1].removesuffix(":*")
        self.cloud.log_events(group, f"{found.api_id}-{found.stage_name.strip('$')}", [line])


def _answer(status: int, content: Record) -> Response:
    return status, {"Content-Type": "application/json"}, json.dumps(content).encode()


SERVICES = [ExecuteApi]
