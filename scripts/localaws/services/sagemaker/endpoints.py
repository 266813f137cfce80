"""Endpoint configurations and endpoints."""

from __future__ import annotations

from localaws.services.sagemaker.records import Base


class EndpointsMixin(Base):
    """Endpoint configurations and endpoints."""
