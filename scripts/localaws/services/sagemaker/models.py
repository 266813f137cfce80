"""Models of the hosting side."""

from __future__ import annotations

from localaws.services.sagemaker.records import Base


class ModelsMixin(Base):
    """Models of the hosting side."""
