"""The form of an emulator's answers."""

from __future__ import annotations

from typing import Any


def triple(answer: Any) -> tuple[int, dict, bytes]:
    """Status, headers and body (as bytes) of an answer."""
    status, headers, body = answer
    return status, headers, body if isinstance(body, bytes) else str(body).encode()
