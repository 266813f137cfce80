"""SageMaker as one service: its parts together."""

from __future__ import annotations

from localaws.services.sagemaker.endpoints import EndpointsMixin
from localaws.services.sagemaker.jobs import JobsMixin
from localaws.services.sagemaker.model_cards import ModelCardsMixin
from localaws.services.sagemaker.models import ModelsMixin
from localaws.services.sagemaker.monitoring_schedules import MonitoringSchedulesMixin
from localaws.services.sagemaker.pipelines import PipelinesMixin
from localaws.services.sagemaker.projects import ProjectsMixin
from localaws.services.sagemaker.registry import RegistryMixin
from localaws.services.sagemaker.studio import StudioMixin
from localaws.services.sagemaker.tags import TagsMixin


class SageMaker(
    StudioMixin,
    ProjectsMixin,
    RegistryMixin,
    TagsMixin,
    JobsMixin,
    PipelinesMixin,
    ModelsMixin,
    ModelCardsMixin,
    MonitoringSchedulesMixin,
    EndpointsMixin,
):
    """Amazon SageMaker: ``cloud.services["sagemaker"]``."""


SERVICES = [SageMaker]
