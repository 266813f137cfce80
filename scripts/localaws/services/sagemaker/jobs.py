"""Jobs of SageMaker: training, processing, transform and tuning jobs."""

from __future__ import annotations

from localaws.services.sagemaker.processing_jobs import ProcessingJobs
from localaws.services.sagemaker.training_jobs import TrainingJobs


class JobsMixin(ProcessingJobs, TrainingJobs):
    """Jobs: training, processing, transform and tuning jobs."""
