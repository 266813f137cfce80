"""Puts the cloud together: which services, resource types, event targets and paths there are.

Each module of ``localaws.services`` offers, where it has them, SERVICES (classes), TYPES (resource types),
TARGETS (event targets by the ARN's service: ``f(cloud) -> callable(target, payload)``) and RAW (path prefix →
handler).
"""

from __future__ import annotations

import importlib
import pkgutil

from localaws import hooks, services
from localaws.cloud import Cloud
from localaws.gateway import Gateway


def assemble(cloud: Cloud) -> Gateway:
    """The gateway of a new cloud, with every hook in place."""
    modules = [
        importlib.import_module(m.name)
        for m in pkgutil.walk_packages(services.__path__, f"{services.__name__}.")
    ]
    kinds = [kind() for m in modules for kind in getattr(m, "TYPES", ())]
    classes = [s for m in modules for s in getattr(m, "SERVICES", ())]
    cloud.make_services = lambda there: {s.name: s(there) for s in classes}
    targets = {name: make(cloud) for m in modules for name, make in getattr(m, "TARGETS", {}).items()}
    raw = {prefix: handler for m in modules for prefix, handler in getattr(m, "RAW", {}).items()}
    gateway = Gateway(cloud, raw)
    cloud.open_services(cloud.first_account)
    hooks.install(cloud, kinds, targets)
    cloud.start_services(cloud.first_account)
    return gateway
