"""Studio: domains, user profiles, spaces, apps, lifecycle configurations, code repositories."""

from __future__ import annotations

from localaws.services.sagemaker.records import Base


class StudioMixin(Base):
    """Studio: domains, user profiles, spaces, apps, lifecycle configurations, code repositories."""
