"""SageMaker Projects on top of Service Catalog."""

from __future__ import annotations

from localaws.services.sagemaker.records import Base


class ProjectsMixin(Base):
    """SageMaker Projects on top of Service Catalog."""
