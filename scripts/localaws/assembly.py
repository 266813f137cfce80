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
    found = [s(cloud) for m in modules for s in getattr(m, "SERVICES", ())]
    targets = {name: make(cloud) for m in modules for name, make in getattr(m, "TARGETS", {}).items()}
    raw = {prefix: handler for m in modules for prefix, handler in getattr(m, "RAW", {}).items()}
    gateway = Gateway(cloud, found, raw)
    hooks.register_types(cloud, kinds)
    hooks.keep_nested_attributes()
    hooks.keep_buckets()
    hooks.delete_nested_stacks()
    hooks.register_targets(cloud, targets)
    hooks.use_clock(cloud)
    hooks.read_template_urls()
    hooks.allow_service_tags()
    hooks.read_prefix_lists()
    hooks.alarms_mind_dimensions()
    hooks.keep_mail(cloud)
    hooks.images_are_told()
    hooks.refuse_unknown_parameters()
    hooks.refuse_trust_policies()
    for service in found:
        start = getattr(service, "start", None)
        if start:
            start()
    return gateway
