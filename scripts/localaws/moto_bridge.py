"""moto as the in-process API of services that neither ministack nor this package has.

Its answers are records, not behaviour; a service on this list that the platform comes to rely on gets a
module here.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

if TYPE_CHECKING:
    from localaws.cloud import Cloud

SERVICES = ("quicksight",)


def install(ministack_app: Any, cloud: Cloud) -> None:
    """Register moto for SERVICES in ministack's gateway."""
    from ministack.core import router
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.test import EnvironBuilder, run_wsgi_app

    dispatcher = DomainDispatcherApplication(create_backend_app)

    def call(method: str, path: str, headers: dict, body: bytes, query: dict) -> tuple[int, dict, bytes]:
        sent = {k: v for k, v in headers.items() if k != "content-length"}
        sent["x-moto-account-id"] = cloud.account
        builder = EnvironBuilder(
            method=method,
            path=path,
            query_string=urlencode(query, doseq=True),
            headers=sent,
            data=body or b"",
            base_url=cloud.endpoint,
        )
        chunks, status, answered = run_wsgi_app(dispatcher, builder.get_environ())
        return int(status.split()[0]), dict(answered), b"".join(chunks)

    async def handle(
        method: str, path: str, headers: dict, body: bytes, query: dict
    ) -> tuple[int, dict, bytes]:
        return await asyncio.to_thread(call, method, path, headers, body, query)

    for name in SERVICES:
        ministack_app.SERVICE_HANDLERS[name] = handle
        router.SERVICE_PATTERNS.setdefault(name, {})  # else its router scans every botocore model (3 s)
