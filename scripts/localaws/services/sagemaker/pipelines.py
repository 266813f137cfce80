"""SageMaker Pipelines: definitions, executions, steps."""

from __future__ import annotations

from localaws.services.sagemaker.records import Base


class PipelinesMixin(Base):
    """SageMaker Pipelines: definitions, executions, steps."""
