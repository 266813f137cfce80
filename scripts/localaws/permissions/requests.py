"""What an HTTP request asks for: service, operation and parameters.

botocore's models say it, moto's router and parsers read it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote

#: name that requests are signed for → botocore's name of the service, where they differ
_BY_SIGNATURE = {
    "monitoring": "cloudwatch",
    "states": "stepfunctions",
    "tagging": "resourcegroupstaggingapi",
    "elasticfilesystem": "efs",
    "elasticloadbalancing": "elbv2",
}
_SCOPE = re.compile(r"Credential=([^/]+)/\d+/([^/]+)/([^/]+)/")


@dataclass(frozen=True)
class Request:
    """One API call: botocore's ``service`` and ``operation``, its parameters, and the request as it came."""

    service: str
    operation: str
    params: dict[str, Any]
    method: str = "POST"
    path: str = "/"
    headers: dict[str, str] = field(default_factory=dict)
    query: str = ""
    body: bytes = b""


def signature(headers: dict[str, str], query: str) -> tuple[str, str]:
    """The access key and the service that a request was signed for, "" where it was not.

    In the header, in a presigned address, or as the user name that a git client sends.
    """
    found = _SCOPE.search(headers.get("authorization", ""))
    if found:
        return found[1], found[3]
    if "X-Amz-Credential" in query:
        parts = parse_qs(query)["X-Amz-Credential"][0].split("/")
        return parts[0], parts[3] if len(parts) > 3 else ""
    return "", ""


def service_of(signed: str, path: str) -> str:
    """botocore's name of the service that a request was signed for."""
    if signed == "sagemaker" and path.startswith(("/endpoints/", "/BatchPut")):
        return "sagemaker-metrics" if path.startswith("/BatchPut") else "sagemaker-runtime"
    return _BY_SIGNATURE.get(signed, signed)


def read(
    service: str, method: str, path: str, headers: dict[str, str], query: str, body: bytes
) -> Request | None:
    """The call in a request, None when it is none of the service that it was signed for."""
    from botocore.exceptions import UnknownServiceError
    from moto.core.parse import PROTOCOL_PARSERS
    from moto.core.request import Request as Incoming
    from moto.core.request import determine_request_protocol
    from moto.core.routing import get_service_router
    from moto.core.utils import get_service_model
    from werkzeug.exceptions import HTTPException

    incoming = Incoming.from_primitives(
        method, f"http://localhost{path}{'?' + query if query else ''}", headers, body
    )
    try:
        model = get_service_model(service)
        # the gateway goes by the target: a call signed for one service must not be read as another's
        target = headers.get("x-amz-target", "").partition(".")[0]
        if target and target != model.metadata.get("targetPrefix"):
            return None
        operation, labels = get_service_router(service).match(incoming)
        protocol = determine_request_protocol(model, incoming.content_type)
        params = PROTOCOL_PARSERS[protocol](operation, map_type=dict).parse(
            {
                "method": method,
                "values": incoming.values,
                "headers": incoming.headers,
                "body": incoming.data,
                "url_path": unquote(path),
                "url_params": labels,
            }
        )
    except (HTTPException, NotImplementedError, UnknownServiceError):
        return None
    return Request(service, operation.name, dict(params or {}), method, path, headers, query, body)
