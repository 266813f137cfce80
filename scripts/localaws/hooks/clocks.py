"""Time: the emulator keeps the cloud's clock, and schedules fire when it moves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from localaws import clock

if TYPE_CHECKING:
    from localaws.cloud import Cloud

#: hook → the emulator's private names it uses ("module:attribute")
HOOKS: dict[str, tuple[str, ...]] = {
    "clock": (
        "ministack.services.eventbridge:_tick_scheduled_rules",
        "ministack.services.scheduler:time",
        "ministack.services.eventbridge:time",
        "ministack.services.cloudwatch:time",
        "ministack.services.cloudwatch_logs:time",
        "ministack.services.sns:time",
        "ministack.services.sqs:time",
    ),
}


def use_clock(cloud: Cloud) -> None:
    """Let schedules, rules, metrics and alarms keep the cloud's time, and tick at once when it moves."""
    from ministack.core.responses import request_scope
    from ministack.services import cloudwatch, cloudwatch_logs, eventbridge, scheduler, sns, sqs

    # with the queues: a message that a rule sends is visible from the rule's time on
    for module in (scheduler, eventbridge, cloudwatch, cloudwatch_logs, sns, sqs):
        module.time = clock

    def tick() -> None:
        with request_scope(cloud.account, cloud.region):
            scheduler._tick_schedules()
            eventbridge._tick_scheduled_rules()

    clock.on_advance(tick)
