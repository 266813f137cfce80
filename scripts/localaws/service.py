"""What every service of the local cloud shares: the wire protocol, from botocore's model of the service.

A service is a subclass of ``Service`` with one method an operation, named as boto3 names it, that takes the
request's parameters in the API's own spelling and returns the answer likewise. The request is checked against
the model before the method is called (required members, types, lengths, ranges, patterns, enumerations), so a
call that AWS would refuse is refused here, and an operation without a method is an error that names it.
"""

from __future__ import annotations

import base64
import functools
import json
import re
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote

import botocore.session
import regex
from botocore import xform_name
from botocore.model import OperationModel, Shape
from dateutil.parser import isoparse

from localaws import clock
from localaws.errors import AwsError

if TYPE_CHECKING:
    from localaws.cloud import Cloud

Response = tuple[int, dict[str, str], bytes]
_SESSION = botocore.session.get_session()


@functools.cache
def model(service: str) -> Any:
    """botocore's model of a service (``sagemaker``, ``codepipeline`` …)."""
    return _SESSION.get_service_model(service)


class Service:
    """A service of the local cloud: ``name`` is botocore's name of it."""

    name = ""
    #: operations that are answered under another service's endpoint (sagemaker-runtime signs as sagemaker)
    signing_name = ""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.model = model(self.name)

    # -- wire --------------------------------------------------------------------------------------------
    def handle(self, method: str, path: str, headers: dict[str, str], query: str, body: bytes) -> Response:
        """Answer one HTTP request, errors included."""
        request_id = str(uuid.uuid4())
        try:
            operation, params = self._parse(method, path, headers, query, body)
            check(operation, params)
            function = getattr(self, xform_name(operation.name), None)
            if function is None:
                raise AwsError(
                    "NotImplemented",
                    f"{self.name}:{operation.name} is not implemented in the local cloud",
                    501,
                )
            answer = function(params)
            return self._serialize(operation, answer or {}, request_id)
        except AwsError as error:
            return self._error(error, request_id)
        except Exception as error:  # a fault of the local cloud: say so, never let the client hang
            self.cloud.log.exception("%s failed", self.name)
            return self._error(
                AwsError("InternalFailure", f"{type(error).__name__}: {error}", 500), request_id
            )

    @property
    def _protocol(self) -> str:
        return self.model.metadata["protocol"]

    def _parse(self, method, path, headers, query, body) -> tuple[OperationModel, dict[str, Any]]:
        if self._protocol == "json":
            target = headers.get("x-amz-target", "").rpartition(".")[2]
            if target not in self.model.operation_names:
                raise AwsError(
                    "UnknownOperationException", f"{self.name} has no operation {target or '(none)'}"
                )
            operation = self.model.operation_model(target)
            raw = json.loads(body or b"{}")
            return operation, from_wire(operation.input_shape, raw) if operation.input_shape else {}
        for name, pattern in self._routes(method):
            if match := pattern.fullmatch(path.rstrip("/") or "/"):
                operation = self.model.operation_model(name)
                return operation, self._parse_rest(operation, match, headers, query, body)
        raise AwsError("UnknownOperationException", f"{self.name} has no operation at {method} {path}", 404)

    @functools.lru_cache(maxsize=16)  # noqa: B019 - services live as long as the process
    def _routes(self, method: str) -> list[tuple[str, re.Pattern]]:
        routes = []
        for name in self.model.operation_names:
            http = self.model.operation_model(name).http
            if http["method"] != method:
                continue
            uri = http["requestUri"].split("?")[0].rstrip("/") or "/"
            pattern = re.sub(r"\{(\w+)\+\}", r"(?P<\1>.+)", uri)
            pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", pattern)
            routes.append((uri.count("{"), name, re.compile(pattern)))
        return [(name, pattern) for _, name, pattern in sorted(routes, key=lambda r: (r[0], r[1]))]

    def _parse_rest(self, operation, match, headers, query, body) -> dict[str, Any]:
        shape = operation.input_shape
        if shape is None:
            return {}
        values = {k: v for k, v in parse_qs(query, keep_blank_values=True).items()}
        payload = shape.serialization.get("payload")
        params: dict[str, Any] = {}
        document = {}
        if payload is None and body and body.strip().startswith(b"{"):
            document = from_wire(shape, json.loads(body))
        for member, member_shape in shape.members.items():
            wire = member_shape.serialization.get("name", member)
            location = member_shape.serialization.get("location")
            if location == "uri":
                params[member] = unquote(match.group(wire))
            elif location == "querystring" and wire in values:
                found = values[wire]
                params[member] = (
                    found if member_shape.type_name == "list" else convert(member_shape, found[0])
                )
            elif location == "header" and wire.lower() in headers:
                params[member] = convert(member_shape, headers[wire.lower()])
            elif member == payload:
                params[member] = (
                    body
                    if member_shape.type_name == "blob"
                    else from_wire(member_shape, json.loads(body or b"{}"))
                )
            elif location is None and member in document:
                params[member] = document[member]
        return params

    def _serialize(self, operation: OperationModel, answer: dict, request_id: str) -> Response:
        headers = {"x-amzn-RequestId": request_id}
        shape = operation.output_shape
        if self._protocol == "json":
            headers["Content-Type"] = (
                f"application/x-amz-json-{self.model.metadata.get('jsonVersion', '1.1')}"
            )
            return 200, headers, json.dumps(to_wire(shape, answer)).encode() if shape else b"{}"
        headers["Content-Type"] = "application/json"
        status = operation.http.get("responseCode", 200)
        if shape is None:
            return status, headers, b""
        payload = shape.serialization.get("payload")
        document = {}
        for member, member_shape in shape.members.items():
            if answer.get(member) is None:
                continue
            location = member_shape.serialization.get("location")
            if location == "header":
                headers[member_shape.serialization["name"]] = str(answer[member])
            elif location == "statusCode":
                status = int(answer[member])
            elif member != payload:
                document[member] = answer[member]
        if payload and shape.members[payload].type_name == "blob":
            content = answer.get(payload) or b""
            return status, headers, content if isinstance(content, bytes) else str(content).encode()
        if payload:
            return (
                status,
                headers,
                json.dumps(to_wire(shape.members[payload], answer.get(payload) or {})).encode(),
            )
        return status, headers, json.dumps(to_wire(shape, document)).encode()

    def _error(self, error: AwsError, request_id: str) -> Response:
        document = {"__type": error.code, "message": error.message, "Message": error.message, **error.fields}
        headers = {
            "x-amzn-RequestId": request_id,
            "x-amzn-ErrorType": error.code,
            "Content-Type": "application/json",
        }
        if self._protocol == "json":
            headers["Content-Type"] = (
                f"application/x-amz-json-{self.model.metadata.get('jsonVersion', '1.1')}"
            )
        return error.status, headers, json.dumps(document).encode()


# -- values between the wire and Python ------------------------------------------------------------------
def convert(shape: Shape, text: str) -> Any:
    """A header, path or query value as the type its shape says."""
    if shape.type_name in ("integer", "long"):
        return int(text)
    if shape.type_name in ("float", "double"):
        return float(text)
    if shape.type_name == "boolean":
        return text == "true"
    if shape.type_name == "timestamp":
        return isoparse(text)
    return text


def from_wire(shape: Shape | None, value: Any) -> Any:
    """A decoded JSON value with blobs as bytes and timestamps as datetimes.

    Unknown members are dropped, as AWS does.
    """
    if value is None or shape is None:
        return value
    if shape.type_name == "structure" and isinstance(value, dict):
        if getattr(shape, "is_document_type", False):
            return value
        names = {m.serialization.get("name", n): (n, m) for n, m in shape.members.items()}
        return {
            names[k][0]: from_wire(names[k][1], v) for k, v in value.items() if k in names and v is not None
        }
    if shape.type_name == "list" and isinstance(value, list):
        return [from_wire(shape.member, v) for v in value]
    if shape.type_name == "map" and isinstance(value, dict):
        return {k: from_wire(shape.value, v) for k, v in value.items()}
    if shape.type_name == "blob" and isinstance(value, str):
        return base64.b64decode(value)
    if shape.type_name == "timestamp":
        return (
            datetime.fromtimestamp(value, tz=UTC) if isinstance(value, int | float) else isoparse(str(value))
        )
    return value


def to_wire(shape: Shape | None, value: Any) -> Any:
    """An answer as JSON: only what the shape has, datetimes as epoch seconds, bytes as base64."""
    if value is None or shape is None:
        return value
    if shape.type_name == "structure":
        if getattr(shape, "is_document_type", False):
            return value
        return {
            m.serialization.get("name", n): to_wire(m, value[n])
            for n, m in shape.members.items()
            if value.get(n) is not None
        }
    if shape.type_name == "list":
        return [to_wire(shape.member, v) for v in value]
    if shape.type_name == "map":
        return {str(k): to_wire(shape.value, v) for k, v in value.items()}
    if shape.type_name == "timestamp":
        if isinstance(value, datetime):
            return (
                value.isoformat()
                if shape.serialization.get("timestampFormat") == "iso8601"
                else value.timestamp()
            )
        return value
    if shape.type_name == "blob":
        return base64.b64encode(value if isinstance(value, bytes) else str(value).encode()).decode()
    if shape.type_name in ("integer", "long") and value is not None:
        return int(value)
    if shape.type_name in ("float", "double"):
        return float(value)
    return value if isinstance(value, bool | str) else str(value)


# -- what AWS refuses ------------------------------------------------------------------------------------
_FAILED = "failed to satisfy constraint: "


def check(operation: OperationModel, params: dict[str, Any]) -> None:
    """Refuse parameters that break the operation's model.

    Raises AwsError ValidationException in AWS's words, all findings in one message.
    """
    if operation.input_shape is None:
        return
    findings = list(findings_of(operation.input_shape, params, ""))
    if findings:
        count = f"{len(findings)} validation error{'s' if len(findings) > 1 else ''} detected: "
        code = (
            "ValidationException"
            if operation.service_model.service_name != "servicecatalog"
            else "InvalidParametersException"
        )
        raise AwsError(code, count + "; ".join(findings))


def findings_of(shape: Shape, value: Any, path: str) -> Iterator[str]:
    """Each way in which a value breaks its shape, as a sentence of AWS's form."""
    where = path or shape.name
    kind = shape.type_name
    meta = shape.metadata
    wanted = {"string": str, "structure": dict, "list": list, "map": dict, "boolean": bool}.get(kind)
    if (
        wanted
        and not isinstance(value, wanted)
        and not (kind == "structure" and getattr(shape, "is_document_type", False))
    ):
        yield f"Value {value!r} at '{where}' {_FAILED}Member must be a {kind}"
        return
    if kind == "structure":
        for name in shape.required_members:
            if value.get(name) is None:
                member = f"{path}.{name}" if path else name
                yield f"Value null at '{member}' {_FAILED}Member must not be null"
        for name, member in value.items():
            if name in shape.members and member is not None:
                yield from findings_of(shape.members[name], member, f"{path}.{name}" if path else name)
    elif kind == "list":
        yield from _bounds(len(value), meta, where, "length")
        for number, item in enumerate(value, 1):
            yield from findings_of(shape.member, item, f"{where}.{number}.member")
    elif kind == "map":
        yield from _bounds(len(value), meta, where, "length")
        for key, item in value.items():
            yield from findings_of(shape.value, item, f"{where}.{key}.value")
    elif kind == "string":
        yield from _bounds(len(value), meta, where, "length", value)
        if meta.get("enum") and value not in meta["enum"]:
            allowed = ", ".join(meta["enum"])
            yield f"Value '{value}' at '{where}' {_FAILED}Member must satisfy enum value set: [{allowed}]"
        if meta.get("pattern") and not _matches(meta["pattern"], value):
            wanted = f"Member must satisfy regular expression pattern: {meta['pattern']}"
            yield f"Value '{value}' at '{where}' {_FAILED}{wanted}"
    elif kind in ("integer", "long", "float", "double"):
        if isinstance(value, bool) or not isinstance(value, int | float):
            yield f"Value {value!r} at '{where}' {_FAILED}Member must be a number"
        else:
            yield from _bounds(value, meta, where, "value", value)


def _bounds(size: float, meta: dict, where: str, what: str, value: Any = None) -> Iterator[str]:
    shown = f"Value '{value}'" if value is not None else "Value"
    for bound, broken, words in (("min", "<", "greater"), ("max", ">", "less")):
        limit = meta.get(bound)
        if limit is not None and (size < limit if broken == "<" else size > limit):
            yield f"{shown} at '{where}' {_FAILED}Member must have {what} {words} than or equal to {limit}"


def as_served(value: str) -> str:
    """A URL of this cloud (``http://localhost:…``) as AWS would give it out: with https, as patterns want."""
    return f"https{value[4:]}" if value.startswith("http://localhost:") else value


def _matches(pattern: str, value: str) -> bool:
    value = as_served(value)
    try:
        return regex.fullmatch(pattern, value, flags=regex.DOTALL) is not None
    except regex.error:  # some models hold Java expressions that no Python engine reads
        return True


def page(
    items: list,
    params: dict[str, Any],
    size_key: str = "MaxResults",
    token_key: str = "NextToken",
    default: int = 100,
):
    """One page of a list and the token of the next one (None on the last): ``items, token``.

    Raises AwsError for a token that was not given out.
    """
    token = params.get(token_key)
    try:
        start = int(base64.b64decode(token)) if token else 0
    except ValueError:
        raise AwsError("ValidationException", f"Invalid {token_key}: {token}") from None
    end = start + int(params.get(size_key) or default)
    return items[start:end], base64.b64encode(str(end).encode()).decode() if end < len(items) else None


def moment() -> datetime:
    """The cloud's time, for CreationTime and the like."""
    return clock.now()
