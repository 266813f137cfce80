"""Every place where the local cloud reaches into an emulator's private names, and nothing else.

One module a concern of the emulator. Each names its hooks in its own HOOKS with the private names they rely
on; tests/contract holds one test a hook, so that raising an emulator's pinned version shows at once what
moved.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from localaws.hooks import (
    alarms,
    apis,
    athena,
    census,
    clocks,
    cloudformation,
    events,
    foreign,
    functions,
    identity,
    keys,
    mail,
    nested,
    network,
    policies,
    releases,
    states,
    storage,
    tables,
)
from localaws.hooks.cloudformation import service_documents, service_tags
from localaws.hooks.events import put_service_event
from localaws.hooks.identity import caller_arn, scope_request, serve_in

if TYPE_CHECKING:
    from localaws.cloud import Cloud
    from localaws.resource import ResourceType

__all__ = [
    "HOOKS",
    "caller_arn",
    "install",
    "put_service_event",
    "scope_request",
    "serve_in",
    "service_documents",
    "service_tags",
]
_MODULES = (
    alarms,
    apis,
    athena,
    census,
    clocks,
    cloudformation,
    events,
    foreign,
    functions,
    identity,
    keys,
    mail,
    nested,
    network,
    policies,
    releases,
    states,
    storage,
    tables,
)
#: hook → the emulator's private names it uses ("module:attribute"), of all modules
HOOKS: dict[str, tuple[str, ...]] = {hook: names for m in _MODULES for hook, names in m.HOOKS.items()}


def install(cloud: Cloud, types: list[ResourceType], targets: dict[str, events.Target]) -> None:
    """Set every hook, once in the life of the process.

    ``types`` are the cloud's own resource types, ``targets`` its deliveries of events by the service in the
    target's ARN. The types come first: the hooks that follow work on what is registered by then.
    """
    cloudformation.register_types(cloud, types)
    nested.keep_nested_attributes()
    storage.keep_buckets()
    nested.delete_nested_stacks()
    events.register_targets(cloud, targets)
    events.tell_of_senders(cloud)
    events.refuse_targets_without_role()
    clocks.use_clock(cloud)
    cloudformation.read_template_urls()
    cloudformation.allow_service_tags()
    cloudformation.tell_of_stacks(cloud)
    network.read_prefix_lists()
    network.keep_vpc_endpoints()
    network.session_networks(cloud)
    alarms.alarms_mind_dimensions()
    alarms.tell_of_lost_actions(cloud)
    alarms.tell_of_changes(cloud)
    mail.keep_topics()
    mail.keep_mail(cloud)
    storage.images_are_told()
    storage.registry_tokens(cloud)
    cloudformation.refuse_unknown_parameters()
    identity.serve_where_told()
    foreign.refuse_copies()
    identity.refuse_trust_policies()
    identity.keep_boundaries()
    functions.run_under_roles(cloud)
    releases.run_images(cloud)
    releases.split_aliases()
    releases.keep_networks()
    releases.update_aliases(cloud)
    athena.run_queries(cloud)
    keys.check_log_keys(cloud)
    tables.keep_tables()
    states.run_tasks_under_roles(cloud)
    states.keep_the_clouds_time(cloud)
    states.assign_together()
    states.read_definitions()
    states.refuse_definitions()
    states.keep_records(cloud)
    cloudformation.ask_for_stacks(cloud)  # last: it goes around what the others did to the handlers
