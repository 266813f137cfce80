"""The model registry: groups and packages."""

from __future__ import annotations

from localaws.services.sagemaker.records import Base


class RegistryMixin(Base):
    """The model registry: groups and packages."""
