"""Jobs of SageMaker: training, processing, transform and tuning jobs."""

from __future__ import annotations

from localaws.services.sagemaker.processing_jobs import ProcessingJobs
from localaws.services.sagemaker.transform_jobs import TransformJobs
from localaws.services.sagemaker.tuning_jobs import TuningJobs


class JobsMixin(ProcessingJobs, TuningJobs, TransformJobs):
    """Jobs: training, processing, transform and tuning jobs."""
