"""What mlops.yml asks of the monitors: which kinds, and on which schedule; what contradicts itself there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from .console import quoted

KINDS = ("data_quality", "model_quality", "model_bias", "model_explainability")
DAY = 24 * 60  # minutes; Model Monitor looks at no more at once
KeyPath = tuple[str | int, ...]


def enabled_kinds(config: dict[str, Any]) -> list[str]:
    """The kinds of monitor that the project wants: data quality, and each other kind that has a block."""
    monitoring = {"data_quality": {}} | config["monitoring"]
    return [kind for kind in KINDS if kind in monitoring and monitoring[kind].get("enabled", True)]


def contradictions(config: dict[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    """Settings that are right one by one and wrong together: the key's path, and a sentence."""
    monitoring, kinds = config["monitoring"], enabled_kinds(config)
    if not kinds and config["deployment"]["endpoint"] == "instances":  # of the others nothing is captured
        yield (
            ("monitoring",),
            f"monitoring has no kind that is enabled; allowed: at least one of {', '.join(KINDS)}",
        )
    if monitoring.get("simulated_traffic") and "data_quality" not in kinds:
        yield (
            ("monitoring", "simulated_traffic"),
            "monitoring.simulated_traffic is true and monitoring.data_quality is not enabled; allowed: both, "
            "because the baseline of data quality brings the rows that are sent",
        )
    schedule = monitoring["schedule"]
    if monitoring.get("engine") == "managed" and managed_schedule(schedule) is None:
        yield (
            ("monitoring", "schedule"),
            f"monitoring.schedule is {quoted(schedule)}; allowed with monitoring.engine managed: hourly, "
            "daily, or every 2 to 24 hours, at a full hour, for example cron(0 * * * ? *) or rate(6 hours)",
        )
    if monitoring.get("engine") == "managed" and monitoring.get("window_minutes", 60) > DAY:
        yield (
            ("monitoring", "window_minutes"),
            f"monitoring.window_minutes is {monitoring['window_minutes']}; allowed with monitoring.engine "
            f"managed: at most {DAY}, a day",
        )
    if "model_bias" in kinds:
        yield from facet_mistakes(config)


def facet_mistakes(config: dict[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    """What is wrong with the groups that a model must treat alike."""
    monitoring = config["monitoring"]
    problem = monitoring.get("model_quality", {}).get("problem_type", "BinaryClassification")
    if problem != "BinaryClassification":
        yield (
            ("monitoring", "model_bias"),
            f"monitoring.model_bias is enabled and monitoring.model_quality.problem_type is {problem}; "
            "allowed: BinaryClassification, because bias is measured on yes-or-no decisions",
        )
    seen: set[str] = set()
    for number, facet in enumerate(monitoring["model_bias"]["facets"]):
        path = ("monitoring", "model_bias", "facets", number)
        where, name = ".".join(map(str, path)), quoted(facet["name"])
        if ("values" in facet) == ("threshold" in facet):
            has = "both values and threshold" if "values" in facet else "neither values nor threshold"
            yield path, f"{where}, {name}, has {has}; allowed: one of them, to say who is in the group"
        if facet["name"] == config["data"]["target"]:
            yield path, f"{where} is {name}, the target; allowed: a feature"
        if facet["name"] in seen:
            yield path, f"{where} is {name}, which is there already; allowed: each feature once"
        seen.add(facet["name"])


def managed_schedule(expression: str) -> str | None:
    """The schedule as SageMaker Model Monitor spells it; None where it has no such schedule.

    It knows `cron(0 * ? * * *)`, `cron(0 H ? * * *)` and `cron(0 H/N ? * * *)` alone:
    https://docs.aws.amazon.com/sagemaker/latest/dg/model-monitor-schedule-expression.html
    """
    hours = ""
    if match := re.fullmatch(r"rate\((\d+) (hour|day)s?\)", expression):
        every = int(match[1]) * (24 if match[2] == "day" else 1)
        hours = "*" if every == 1 else f"0/{every}" if every <= 24 else ""
    elif match := re.fullmatch(r"cron\(0 (\S+) [*?] \* [*?] \*\)", expression):
        hours = match[1].replace("*/", "0/")
        first = re.fullmatch(r"(\d{1,2})(?:/(\d{1,2}))?", hours)
        if hours != "*" and not (first and int(first[1]) < 24 and 0 < int(first[2] or 1) <= 24):
            hours = ""
    return f"cron(0 {hours} ? * * *)" if hours else None
