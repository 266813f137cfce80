"""Jobs of SageMaker: training, processing, transform and tuning jobs."""

from __future__ import annotations

from localaws.services.sagemaker.records import Base


class JobsMixin(Base):
    """Jobs: training, processing, transform and tuning jobs."""
