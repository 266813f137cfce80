"""One question that IAM answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Access:
    """May the caller do ``action`` on ``resource`` in this ``context``?

    ``action`` is ``service:Name``, ``resource`` an ARN or ``*`` for an action without resources, ``context``
    the condition keys that the service supplies (a str, or a list of them for a multivalued key).
    """

    action: str
    resource: str = "*"
    context: Mapping[str, Any] = field(default_factory=dict)

    @property
    def service(self) -> str:
        """IAM's prefix of the service."""
        return self.action.partition(":")[0]
