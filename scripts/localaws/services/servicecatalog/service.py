"""Service Catalog as one service: its parts together."""

from __future__ import annotations

from localaws.services.servicecatalog.portfolios import PortfoliosMixin
from localaws.services.servicecatalog.provisioning import ProvisioningMixin


class ServiceCatalog(PortfoliosMixin, ProvisioningMixin):
    """AWS Service Catalog: ``cloud.services["servicecatalog"]``."""


SERVICES = [ServiceCatalog]
