"""What the monitors wrote: the reports of one kind, newest first, of both engines (flow G).

The processing engine writes `monitoring/<folder>/yyyy/mm/dd/hh/`, Model Monitor
`monitoring/<folder>/<endpoint>/<schedule>/yyyy/mm/dd/hh/`
(https://docs.aws.amazon.com/sagemaker/latest/dg/model-monitor-interpreting-results.html). Names and values in
a report may come from whoever calls the endpoint: they are data, bounded and quoted where they are shown.
"""

from __future__ import annotations

import heapq
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

FOLDERS = {
    "data_quality": "data-quality",
    "model_quality": "model-quality",
    "model_bias": "model-bias",
    "model_explainability": "model-explainability",
}
LONGEST_FILE = 5_000_000  # a report is a few kilobytes; what is larger is not read into memory
LONGEST_WALK = 24 * 14  # reports that are looked at to find since when


class Unreadable(ValueError):
    """A file of a report is not what the formats say."""


@dataclass(frozen=True)
class Finding:
    """One thing that is not as the baseline has it."""

    subject: str
    name: str
    value: float | None = None
    baseline: float | None = None
    threshold: float | None = None
    detail: str = ""


@dataclass(frozen=True)
class Report:
    """One run of one monitor."""

    prefix: str
    hour: datetime
    violations: int
    judged: bool = True
    records: int | None = None
    excluded: int | None = None
    unreadable: int | None = None
    window: tuple[str, str] | None = None
    model: str = ""
    findings: list[Finding] = field(default_factory=list)


def reports(s3: Any, bucket: str, kind: str, before: datetime) -> Iterator[Report]:
    """The reports of a kind, newest first, none later than `before`; what has no report is passed over."""
    root = f"monitoring/{FOLDERS[kind]}/"
    top = children(s3, bucket, root)
    layouts = [root] if any(_is_number(name, 4) for name in top) else []
    layouts += [
        f"{root}{endpoint}/{schedule}/"
        for endpoint in top
        if not _is_number(endpoint, 4)
        for schedule in children(s3, bucket, f"{root}{endpoint}/")
    ]
    walks = [_hours(s3, bucket, layout, before) for layout in layouts]
    for hour, prefix in heapq.merge(*walks, reverse=True):
        if found := read(s3, bucket, prefix, hour):
            yield found


def children(s3: Any, bucket: str, prefix: str) -> list[str]:
    """Names of the folders right below a prefix."""
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, Delimiter="/")
    return [
        one["Prefix"].removeprefix(prefix).rstrip("/")
        for page in pages
        for one in page.get("CommonPrefixes", [])
    ]


def _is_number(name: str, digits: int) -> bool:
    return re.fullmatch(rf"[0-9]{{{digits}}}", name) is not None


def _hours(s3: Any, bucket: str, root: str, before: datetime) -> Iterator[tuple[datetime, str]]:
    """Hour folders below yyyy/mm/dd/, newest first; only the folders on the way are listed."""

    def numbers(prefix: str, digits: int) -> list[str]:
        return sorted((n for n in children(s3, bucket, prefix) if _is_number(n, digits)), reverse=True)

    for year in numbers(root, 4):
        for month in numbers(f"{root}{year}/", 2):
            for day in numbers(f"{root}{year}/{month}/", 2):
                for hour in numbers(f"{root}{year}/{month}/{day}/", 2):
                    try:
                        moment = datetime(int(year), int(month), int(day), int(hour), tzinfo=UTC)
                    except ValueError:  # a folder of somebody else's
                        continue
                    if moment <= before:
                        yield moment, f"{root}{year}/{month}/{day}/{hour}/"


def read(s3: Any, bucket: str, prefix: str, hour: datetime) -> Report | None:
    """The report in a folder; None when there is none. Raises Unreadable."""
    files = sizes(s3, bucket, prefix)

    def content(name: str) -> dict[str, Any]:
        return _object(s3, bucket, f"{prefix}{name}", files[name]) if name in files else {}

    if not files.keys() & {"summary.json", "constraint_violations.json", "statistics.json"}:
        return None
    listed = _list(content("constraint_violations.json"), "violations")
    if "summary.json" in files:
        return _of_summary(content("summary.json"), listed, prefix, hour)
    records = _number(content("statistics.json").get("dataset"), "item_count")
    return Report(
        prefix=prefix,
        hour=hour,
        violations=len(listed),
        records=None if records is None else int(records),
        findings=[_of_violation(one) for one in listed],
    )


def _of_summary(summary: dict[str, Any], listed: list[dict[str, Any]], prefix: str, hour: datetime) -> Report:
    found = [
        Finding(
            subject=_text(one.get("subject")),
            name=_text(one.get("name")),
            value=_number(one, "value"),
            baseline=_number(one, "baseline"),
            threshold=_number(one, "threshold"),
            detail=_text(one.get("detail")),
        )
        for one in _list(summary, "measures")
        if one.get("violated") is True
    ]
    worst = (_text(summary.get("worst_subject")), _text(summary.get("worst_name")))
    found.sort(key=lambda one: (one.subject, one.name) != worst)  # stable: the others stay in their order
    window = (_text(summary.get("window_start")), _text(summary.get("window_end")))
    counts = {
        key: None if (number := _number(summary, key)) is None else int(number)
        for key in ("records", "excluded", "unreadable")
    }
    return Report(
        prefix=prefix,
        hour=hour,
        violations=int(_number(summary, "violations") or 0),
        judged=summary.get("status") not in ("not_judged", "no_data"),
        window=window if all(window) else None,
        model=_text(summary.get("model_package_arn")),
        findings=found or [_of_violation(one) for one in listed],
        **counts,
    )


def _of_violation(one: dict[str, Any]) -> Finding:
    """A violation of Model Monitor or Clarify: each kind names its subject differently."""
    facet = f"{one['facet']}={one.get('facet_value', '')}" if one.get("facet") else ""
    subject = one.get("feature_name") or facet or one.get("label") or one.get("metric_name") or ""
    name = one.get("metric_name") if one.get("metric_name") != subject else None
    return Finding(
        subject=_text(subject),
        name=_text(name or one.get("constraint_check_type")),
        detail=_text(one.get("description")),
    )


def since(newer: Report, older: Iterator[Report]) -> tuple[Report, int, Report | None]:
    """The first report of the unbroken row of findings that ends with `newer`, how many of them had findings,
    and the clean report before it (None when the row is longer than was looked at, or nothing was before).

    A run that could not judge (too few records) says neither that the drift was there nor that it was not.
    """
    first, count = newer, 1
    for steps, report in enumerate(older):
        if steps >= LONGEST_WALK:
            break
        if report.violations:
            first, count = report, count + 1
        elif report.judged:
            return first, count, report
    return first, count, None


def fresh(report: Report, alarm: datetime) -> bool:
    """Whether a report is what an alarm of that moment is about: it has findings, and is of that time."""
    return report.violations > 0 and report.hour > alarm - timedelta(hours=3)


def sizes(s3: Any, bucket: str, prefix: str) -> dict[str, int]:
    """The files in a folder and their sizes: to a role that lists in parts, a get says 403 for 404."""
    listed = s3.list_objects_v2(Bucket=bucket, Prefix=prefix, Delimiter="/").get("Contents", [])
    return {one["Key"].removeprefix(prefix): one["Size"] for one in listed}


def _object(s3: Any, bucket: str, key: str, size: int) -> dict[str, Any]:
    if size > LONGEST_FILE:
        raise Unreadable(f"{key} has {size} bytes")
    try:
        content = json.loads(s3.get_object(Bucket=bucket, Key=key)["Body"].read())
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or nested to break the reader
        raise Unreadable(f"{key} is not JSON: {type(error).__name__}") from error
    if not isinstance(content, dict):
        raise Unreadable(f"{key} is no JSON object")
    return content


def _list(content: dict[str, Any], key: str) -> list[dict[str, Any]]:
    found = content.get(key)
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise Unreadable(f"{key} is no list of objects")
    return found


def _number(content: Any, key: str) -> float | None:
    value = content.get(key) if isinstance(content, dict) else None
    usable = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300  # no NaN
    return value if usable else None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)
