"""Tags of everything that SageMaker keeps."""

from __future__ import annotations

from localaws.services.sagemaker.records import Base


class TagsMixin(Base):
    """Tags of everything that SageMaker keeps."""
