"""Data-quality monitor of an endpoint (flow G): one file that runs inside a SageMaker Processing job.

    monitor.py baseline   training data (CSV with a header)  -> statistics.json, constraints.json
    monitor.py run        captured traffic of one time window -> statistics.json, constraints.json,
                          constraint_violations.json, drift.json, and CloudWatch metrics

The first three files have the documented formats of SageMaker Model Monitor, so that notebooks, alarms and
dashboards do not care which engine wrote them; drift.json holds what a plot needs. The pipeline calls
`baseline`, EventBridge Scheduler starts `run`. A run that finds violations ends with 0: a violation is a
result, not a fault of the job.

A sample always differs a little from its baseline. Each judgement therefore needs both an effect that matters
(the thresholds in constraints.json) and evidence that chance did not make it (FALSE_ALARM_RATE, shared by all
tests of a run).
"""

from __future__ import annotations

import argparse
import base64
import binascii
import csv
import io
import json
import logging
import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import hypergeom, kstwo

LOG = logging.getLogger("monitor")

NAMESPACE = "MLOps/Monitoring"
MONITOR_TYPE = "data_quality"
FALSE_ALARM_RATE = 0.001  # of one clean run, all its tests together: one in six weeks of hourly runs
MISSING = frozenset({"", "na", "n/a", "nan", "null"})  # in lower case; "none" is a value ("no guarantor")
SMOKE_TEST_PREFIX = "smoke-test"  # inference ids of the deploy pipeline's own tests: not real traffic
SKETCH_SIZE = 2048
MAX_DOMAIN = 100  # more distinct strings than this are identifiers or free text, not categories
BUCKETS = 10
LARGEST_NUMBER = 1e150  # its square is still a number; a larger one is no measurement
MOST_EXTRA = 50  # unknown columns that a report names

Row = list[Any]
Columns = dict[str, list[Any]]


class MonitorError(ValueError):
    """The input cannot be monitored; the message says what was found and what to do."""


# ------------------------------------------------------------ values and types


def is_missing(value: Any) -> bool:
    """Whether a captured or baseline value stands for "no value"."""
    if value is None:
        return True
    if isinstance(value, float):
        return math.isnan(value)
    return isinstance(value, str) and value.strip().lower() in MISSING


def as_number(value: Any) -> float | None:
    """The finite number a value stands for, or None."""
    if isinstance(value, bool):
        return float(value)
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):  # an integer of JSON may have any number of digits
        return None
    return number if abs(number) <= LARGEST_NUMBER else None  # false for a NaN too


def as_text(value: Any) -> str:
    """The category a value stands for; 1 and 1.0 are the same one."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def infer_type(values: Sequence[Any]) -> str:
    """Integral, Fractional, String or Unknown (no value at all)."""
    present = [value for value in values if not is_missing(value)]
    if not present:
        return "Unknown"
    numbers = [as_number(value) for value in present]
    if any(number is None for number in numbers):
        return "String"
    return "Integral" if all(number.is_integer() for number in numbers) else "Fractional"


def conforms(value: Any, inferred_type: str) -> bool:
    """Whether a present value is of a feature's type."""
    if inferred_type == "Unknown":
        return True
    number = as_number(value)
    if inferred_type == "String":
        return True  # any text is text; values that never were seen are the business of the domain check
    if number is None:
        return False
    return inferred_type == "Fractional" or number.is_integer()


# ------------------------------------------------------------ sketch and statistics


def sketch(values: np.ndarray) -> list[list[float]]:
    """Order statistics in KLL's layout: an item of level i is 2**i values; exact up to SKETCH_SIZE."""
    ordered = np.sort(values)
    level = max(0, math.ceil(math.log2(len(ordered) / SKETCH_SIZE))) if len(ordered) else 0
    step = 2**level
    whole = len(ordered) // step
    levels: list[list[float]] = [[] for _ in range(level + 1)]
    levels[level] = [float(x) for x in ordered[: whole * step][step // 2 :: step]]
    rest = [float(x) for x in ordered[whole * step :]]
    for lower in range(level - 1, -1, -1):  # the rest is shorter than one step: write its length in binary
        if len(rest) >= 2**lower:
            levels[lower].append(rest[2**lower // 2])
            rest = rest[2**lower :]
    return levels


def unsketch(levels: Sequence[Sequence[float]]) -> tuple[np.ndarray, np.ndarray]:
    """Sorted values of a sketch and their weights."""
    values = np.array([value for level in levels for value in level], dtype=float)
    weights = np.array([2.0**i for i, level in enumerate(levels) for _ in level])
    order = np.argsort(values, kind="stable")
    return values[order], weights[order]


def numerical_statistics(numbers: np.ndarray, present: int, missing: int) -> dict[str, Any]:
    """The numerical_statistics block of one feature."""
    block: dict[str, Any] = {"common": {"num_present": present, "num_missing": missing}}
    if not len(numbers):
        return block
    low, high = float(numbers.min()), float(numbers.max())
    counts, edges = np.histogram(numbers, bins=BUCKETS, range=(low, high if high > low else low + 1.0))
    return block | {
        "mean": float(numbers.mean()),
        "sum": float(numbers.sum()),
        "std_dev": float(numbers.std()),
        "min": low,
        "max": high,
        "distribution": {
            "kll": {
                "buckets": [
                    {"lower_bound": float(a), "upper_bound": float(b), "count": float(n)}
                    for a, b, n in zip(edges[:-1], edges[1:], counts, strict=True)
                ],
                "sketch": {"parameters": {"c": 0.64, "k": float(SKETCH_SIZE)}, "data": sketch(numbers)},
            }
        },
    }


def feature_statistics(name: str, values: Sequence[Any], inferred_type: str | None = None) -> dict[str, Any]:
    """Statistics of one feature; the type is inferred unless the baseline has fixed it."""
    kind = inferred_type or infer_type(values)
    present = [value for value in values if not is_missing(value)]
    missing = len(values) - len(present)
    if kind in ("Integral", "Fractional"):
        numbers = np.array([n for n in map(as_number, present) if n is not None], dtype=float)
        return {
            "name": name,
            "inferred_type": kind,
            "numerical_statistics": numerical_statistics(numbers, len(present), missing),
        }
    counts = Counter(map(as_text, present))
    return {
        "name": name,
        "inferred_type": kind,
        "string_statistics": {
            "common": {"num_present": len(present), "num_missing": missing},
            "distinct_count": float(len(counts)),
            "distribution": {
                "categorical": {
                    "buckets": [
                        {"value": value, "count": count} for value, count in counts.most_common(MAX_DOMAIN)
                    ]
                }
            },
        },
    }


def dataset_statistics(columns: Columns, types: dict[str, str] | None = None) -> dict[str, Any]:
    """statistics.json of a data set."""
    count = max((len(values) for values in columns.values()), default=0)
    features = [feature_statistics(name, values, (types or {}).get(name)) for name, values in columns.items()]
    return {"version": 0.0, "dataset": {"item_count": count}, "features": features}


def suggest_constraints(statistics: dict[str, Any], drift_threshold: float) -> dict[str, Any]:
    """constraints.json that a baseline suggests."""
    features = []
    for feature in statistics["features"]:
        block = feature.get("numerical_statistics") or feature["string_statistics"]
        common = block["common"]
        total = common["num_present"] + common["num_missing"]
        constraint: dict[str, Any] = {
            "name": feature["name"],
            "inferred_type": feature["inferred_type"],
            "completeness": common["num_present"] / total if total else 0.0,
        }
        if "numerical_statistics" in feature:
            constraint["num_constraints"] = {"is_non_negative": block.get("min", 0.0) >= 0}
        elif is_categorical(feature):
            buckets = block["distribution"]["categorical"]["buckets"]
            constraint["string_constraints"] = {"domains": sorted(bucket["value"] for bucket in buckets)}
        features.append(constraint)
    return {
        "version": 0.0,
        "features": features,
        "monitoring_config": {
            "evaluate_constraints": "Enabled",
            "emit_metrics": "Enabled",
            "datatype_check_threshold": 0.1,
            "domain_content_threshold": 0.01,
            "distribution_constraints": {
                "perform_comparison": "Enabled",
                "comparison_threshold": drift_threshold,
                "comparison_method": "Robust",
                "categorical_comparison_threshold": drift_threshold,
                "categorical_drift_method": "LInfinity",
            },
        },
    }


def is_categorical(feature: dict[str, Any]) -> bool:
    """Whether a string feature has few values that repeat; identifiers have no distribution to keep."""
    block = feature.get("string_statistics")
    if not block or feature["inferred_type"] != "String":
        return False
    present = block["common"]["num_present"]
    return 0 < block["distinct_count"] <= min(MAX_DOMAIN, max(2, present / 2))


# ------------------------------------------------------------ distances and chance


def numeric_distance(baseline: tuple[np.ndarray, np.ndarray], live: np.ndarray) -> float:
    """Largest difference of two cumulative distributions (L-infinity, the Kolmogorov-Smirnov statistic)."""
    values, weights = baseline
    points = np.unique(np.concatenate([values, live]))
    cumulated = np.concatenate([[0.0], np.cumsum(weights)]) / weights.sum()
    at_baseline = cumulated[np.searchsorted(values, points, side="right")]
    at_live = np.searchsorted(np.sort(live), points, side="right") / len(live)
    return float(np.abs(at_baseline - at_live).max())


def numeric_p_value(distance: float, baseline_count: float, live_count: int) -> float:
    """Two-sample Kolmogorov-Smirnov p-value; conservative where values repeat."""
    effective = max(1, round(baseline_count * live_count / (baseline_count + live_count)))
    return float(kstwo.sf(distance, effective))


def categorical_distance(baseline: dict[str, float], live: dict[str, float]) -> tuple[float, str]:
    """Largest difference of a category's share, and that category."""
    total_baseline, total_live = sum(baseline.values()), sum(live.values())
    differences = {
        value: abs(baseline.get(value, 0) / total_baseline - live.get(value, 0) / total_live)
        for value in sorted(baseline.keys() | live.keys())
    }
    worst = max(differences, key=differences.__getitem__)
    return differences[worst], worst


def share_p_value(baseline_hits: float, baseline_count: float, live_hits: float, live_count: float) -> float:
    """Two-sided exact test (Fisher's, doubled tail) that two shares are the same."""
    hits, total = round(baseline_hits + live_hits), round(baseline_count + live_count)
    law = hypergeom(total, hits, round(live_count))
    return float(min(1.0, 2 * min(law.cdf(round(live_hits)), law.sf(round(live_hits) - 1))))


# ------------------------------------------------------------ the comparison


@dataclass
class Comparison:
    """What a run found."""

    violations: list[dict[str, str]] = field(default_factory=list)
    drift: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def violate(self, feature: str, check: str, description: str) -> None:
        """Record one violation."""
        name = feature if feature.isprintable() else ascii(feature)
        self.violations.append(
            {"feature_name": name[:256], "constraint_check_type": check, "description": description}
        )


def compare(
    live: dict[str, Any],
    columns: Columns,
    baseline: dict[str, Any],
    constraints: dict[str, Any],
    min_records: int,
    extra_columns: Sequence[str] = (),
) -> Comparison:
    """Judge live traffic against the baseline by the rules of constraints.json."""
    result = Comparison()
    config = constraints["monitoring_config"]
    known = {feature["name"]: feature for feature in baseline["features"]}
    seen = {feature["name"]: feature for feature in live["features"]}
    count = live["dataset"]["item_count"]
    for name in extra_columns:
        shown = ascii(name[:60])  # whoever calls the endpoint has chosen it
        result.violate(name, "extra_column_check", f"Column {shown} is in the traffic, not in the baseline")
    enough = count >= min_records
    if not enough:
        result.notes.append(
            f"{count} records in the window, {min_records} are needed to judge drift: it was not judged"
        )
    # Bonferroni: completeness, domain and drift of each feature are the tests that chance can fail.
    alpha = FALSE_ALARM_RATE / max(1, 3 * len(constraints["features"]))
    for constraint in constraints["features"]:
        name = constraint["name"]
        overrides = constraint.get("monitoringConfigOverrides") or {}
        rules = config | {key: value for key, value in overrides.items() if key != "distribution_constraints"}
        rules["distribution_constraints"] = config.get("distribution_constraints", {}) | overrides.get(
            "distribution_constraints", {}
        )
        if rules.get("evaluate_constraints", "Enabled") != "Enabled":
            continue
        if name not in seen:
            result.violate(
                name, "missing_column_check", f"Column {name} of the baseline is not in the traffic"
            )
            continue
        check_type(result, constraint, columns[name], rules)
        if name in known:
            check_completeness(result, constraint, known[name], seen[name], alpha)
            check_domain(result, constraint, known[name], columns[name], rules, alpha)
            if rules["distribution_constraints"].get("perform_comparison", "Enabled") == "Enabled":
                check_drift(result, known[name], seen[name], columns[name], rules, alpha, judge=enough)
    return result


def check_type(
    result: Comparison, constraint: dict[str, Any], values: Sequence[Any], rules: dict[str, Any]
) -> None:
    """data_type_check: too many values are not of the feature's type."""
    present = [value for value in values if not is_missing(value)]
    if not present:
        return
    wrong = [value for value in present if not conforms(value, constraint["inferred_type"])]
    share, allowed = len(wrong) / len(present), float(rules.get("datatype_check_threshold", 0.1))
    if share > allowed:
        result.violate(
            constraint["name"],
            "data_type_check",
            f"Data type match requirement is not met: {share:.1%} of the values are not "
            f"{constraint['inferred_type']} (for example {str(wrong[0])[:40]!r}); "
            f"up to {allowed:.0%} is allowed",
        )


def check_completeness(
    result: Comparison, constraint: dict[str, Any], known: dict[str, Any], seen: dict[str, Any], alpha: float
) -> None:
    """completeness_check: more values are missing than the baseline and chance explain."""
    before, now = counts_of(known), counts_of(seen)
    if not sum(before) or not sum(now):
        return
    completeness = now[0] / sum(now)
    if (
        completeness < constraint["completeness"]
        and share_p_value(before[1], sum(before), now[1], sum(now)) < alpha
    ):
        result.violate(
            constraint["name"],
            "completeness_check",
            f"Completeness {completeness:.3f} is below the baseline's {constraint['completeness']:.3f}",
        )


def check_domain(
    result: Comparison,
    constraint: dict[str, Any],
    known: dict[str, Any],
    values: Sequence[Any],
    rules: dict[str, Any],
    alpha: float,
) -> None:
    """categorical_values_check: categories that the baseline never saw."""
    domain = (constraint.get("string_constraints") or {}).get("domains")
    texts = [as_text(value) for value in values if not is_missing(value)]
    if not domain or not texts:
        return
    allowed_values = set(domain)
    unknown = Counter(text for text in texts if text not in allowed_values)
    share, allowed = sum(unknown.values()) / len(texts), float(rules.get("domain_content_threshold", 0.01))
    if share > allowed and share_p_value(0, counts_of(known)[0], sum(unknown.values()), len(texts)) < alpha:
        examples = ", ".join(repr(value[:40]) for value, _ in unknown.most_common(3))
        result.violate(
            constraint["name"],
            "categorical_values_check",
            f"{share:.1%} of the values are not in the baseline's domain (for example {examples}); "
            f"up to {allowed:.0%} is allowed",
        )


def check_drift(
    result: Comparison,
    known: dict[str, Any],
    seen: dict[str, Any],
    values: Sequence[Any],
    rules: dict[str, Any],
    alpha: float,
    judge: bool,
) -> None:
    """baseline_drift_check: the distribution moved, by more than is allowed and than chance explains."""
    name, limits = known["name"], rules["distribution_constraints"]
    if "numerical_statistics" in known:
        threshold = float(limits.get("comparison_threshold", 0.1))
        data = (
            known["numerical_statistics"].get("distribution", {}).get("kll", {}).get("sketch", {}).get("data")
        )
        live = np.array([n for n in map(as_number, values) if n is not None], dtype=float)
        if not data or not len(live):
            return
        baseline = unsketch(data)
        distance = numeric_distance(baseline, live)
        p_value = numeric_p_value(distance, baseline[1].sum(), len(live))
        simple = limits.get("comparison_method", "Robust") == "Simple"
        subject = "the cumulative distributions"
    elif is_categorical(known):
        threshold = float(limits.get("categorical_comparison_threshold", 0.1))
        before, now = buckets_of(known), Counter(as_text(value) for value in values if not is_missing(value))
        if not now:
            return
        distance, worst = categorical_distance(before, now)
        tests = len(before.keys() | now.keys())
        p_value = min(
            1.0,
            tests
            * share_p_value(before.get(worst, 0), sum(before.values()), now.get(worst, 0), sum(now.values())),
        )
        simple = False
        subject = f"the shares of {worst[:40]!r}"
    else:
        return
    violated = judge and distance > threshold and (simple or p_value < alpha)
    result.drift[name] = {
        "distance": distance,
        "p_value": p_value,
        "threshold": threshold,
        "violated": bool(violated),
        "type": seen["inferred_type"],
    }
    if violated:
        result.violate(
            name,
            "baseline_drift_check",
            f"Baseline drift distance {distance:.3f} exceeds threshold {threshold:g}: "
            f"{subject} differ (p = {p_value:.1e})",
        )


def counts_of(feature: dict[str, Any]) -> tuple[int, int]:
    """How many values are present and missing."""
    common = (feature.get("numerical_statistics") or feature["string_statistics"])["common"]
    return int(common["num_present"]), int(common["num_missing"])


def buckets_of(feature: dict[str, Any]) -> dict[str, float]:
    """Category -> count of a string feature."""
    buckets = feature["string_statistics"]["distribution"]["categorical"]["buckets"]
    return {bucket["value"]: bucket["count"] for bucket in buckets}


# ------------------------------------------------------------ data capture


@dataclass(frozen=True)
class Window:
    """The half-open time span [start, end) of one run, in UTC."""

    start: datetime
    end: datetime

    @classmethod
    def before(cls, scheduled: datetime, minutes: int) -> Window:
        """The window that a run scheduled at this time looks at."""
        return cls(scheduled - timedelta(minutes=minutes), scheduled)

    def hours(self) -> Iterator[str]:
        """Capture folders that can hold the window's records: a record lies in the hour of its writing."""
        hour = self.start.replace(minute=0, second=0, microsecond=0)
        while hour <= self.end:
            yield hour.strftime("%Y/%m/%d/%H")
            hour += timedelta(hours=1)

    def holds(self, moment: datetime) -> bool:
        """Whether a record of this time belongs to the window."""
        return self.start <= moment < self.end


def parse_time(text: str) -> datetime:
    """An ISO time, UTC where it names no zone."""
    moment = datetime.fromisoformat(text.strip().replace("Z", "+00:00"))
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def split_uri(uri: str) -> tuple[str, str]:
    """Bucket and key prefix of an s3:// address."""
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    if not uri.startswith("s3://") or not bucket:
        raise MonitorError(f"CAPTURE_PREFIX is {uri!r}; it must look like s3://bucket/prefix")
    return bucket, prefix.strip("/")


def s3_capture_lines(s3: Any, uri: str, endpoint: str, window: Window) -> Iterator[str]:
    """Capture lines of the window's hours: <prefix>/<endpoint>/<variant>/yyyy/mm/dd/hh/*.jsonl."""
    bucket, prefix = split_uri(uri)
    root = f"{prefix}/{endpoint}/" if prefix else f"{endpoint}/"
    pages = s3.get_paginator("list_objects_v2")
    variants = [
        item["Prefix"]
        for page in pages.paginate(Bucket=bucket, Prefix=root, Delimiter="/")
        for item in page.get("CommonPrefixes", [])
    ]
    for variant in variants:
        for hour in window.hours():
            for page in pages.paginate(Bucket=bucket, Prefix=f"{variant}{hour}/"):
                for item in page.get("Contents", []):
                    body = s3.get_object(Bucket=bucket, Key=item["Key"])["Body"].read()
                    # not splitlines: a text may hold other separators; one bad file must not hide the rest
                    yield from body.decode("utf-8", errors="replace").split("\n")


def local_capture_lines(folder: Path) -> Iterator[str]:
    """Capture lines of a folder that the job has mounted."""
    for path in sorted(folder.rglob("*.jsonl")):
        yield from path.read_text(encoding="utf-8", errors="replace").split("\n")


@dataclass
class Capture:
    """Requests read from data capture."""

    payloads: list[tuple[str, str]] = field(default_factory=list)  # (content type, text)
    smoke_tests: int = 0
    unreadable: int = 0
    by_hour: Counter[str] = field(default_factory=Counter)


def read_capture(lines: Iterable[str], window: Window) -> Capture:
    """The real requests of the window."""
    capture = Capture()
    for line in lines:
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            meta, sent = record["eventMetadata"], record["captureData"]["endpointInput"]
            if not window.holds(parse_time(meta["inferenceTime"])):
                continue
            if str(meta.get("inferenceId") or "").startswith(SMOKE_TEST_PREFIX):
                capture.smoke_tests += 1
                continue
            capture.payloads.append((sent.get("observedContentType") or "", decode(sent)))
            capture.by_hour[parse_time(meta["inferenceTime"]).strftime("%Y-%m-%dT%H:00Z")] += 1
        # json, base64 and unicode errors are ValueErrors; who calls the endpoint chooses what is read
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
            capture.unreadable += 1
    return capture


def decode(sent: dict[str, Any]) -> str:
    """The request's text; capture writes content types that its configuration does not list in base64."""
    if sent.get("encoding") == "BASE64":
        try:
            return base64.b64decode(sent["data"], validate=True).decode("utf-8")
        except binascii.Error as error:
            raise ValueError(str(error)) from error
    return sent["data"]


def payload_rows(
    content_type: str, text: str, names: Sequence[str]
) -> tuple[list[Row], list[dict[str, Any]]]:
    """Rows by position and rows by name of one request."""
    body = text.strip()
    if "json" in content_type.lower() or (not content_type and body[:1] in ("{", "[")):
        if "lines" in content_type.lower():
            documents: Any = [json.loads(line) for line in body.splitlines() if line.strip()]
        else:
            documents = json.loads(body)
        return json_rows(documents)
    rows = [row for row in csv.reader(io.StringIO(text), skipinitialspace=True) if row]
    if rows and [cell.strip() for cell in rows[0]] == list(names):
        rows = rows[1:]
    return [list(row) for row in rows], []


def json_rows(document: Any) -> tuple[list[Row], list[dict[str, Any]]]:
    """A record, a row, a list of either, or one of these under instances, inputs, data or features."""
    if isinstance(document, dict):
        for key in ("instances", "inputs", "data", "features"):
            if isinstance(document.get(key), list):
                return json_rows(document[key])
        if document and all(isinstance(value, list) for value in document.values()):  # {"age": [31, 40], …}
            return [], [dict(zip(document, row, strict=True)) for row in zip(*document.values(), strict=True)]
        return [], [document]
    if not isinstance(document, list):
        raise ValueError("neither a record nor a row")
    if document and all(isinstance(item, (dict, list)) for item in document):
        rows: list[Row] = []
        named: list[dict[str, Any]] = []
        for item in document:
            more_rows, more_named = json_rows(item)
            rows += more_rows
            named += more_named
        return rows, named
    return [document], []


@dataclass
class Traffic:
    """Live values by feature, and what did not fit the baseline's columns."""

    columns: Columns
    records: int = 0
    extra: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    unreadable: int = 0


def to_columns(payloads: Iterable[tuple[str, str]], names: Sequence[str], tolerated: float = 0.1) -> Traffic:
    """Line the requests up with the baseline's columns.

    A column is missing (or extra) when more than the tolerated share of the records lacks (or has) it: a
    single bad request must not raise an alarm that should be about the senders' schema.
    """
    traffic = Traffic({name: [] for name in names})
    lacking: Counter[str] = Counter()
    surplus: Counter[str] = Counter()
    for content_type, text in payloads:
        try:
            rows, named = payload_rows(content_type, text, names)
        except (AttributeError, RecursionError, TypeError, ValueError, csv.Error):
            traffic.unreadable += 1
            continue
        for row in rows:
            surplus.update(f"column_{index + 1}" for index in range(len(names), len(row)))
            lacking.update(names[len(row) :])
            for index, name in enumerate(names):
                traffic.columns[name].append(row[index] if index < len(row) else None)
        for record in named:
            surplus.update(key for key in record if key not in traffic.columns)
            lacking.update(name for name in names if name not in record)
            for name in names:
                traffic.columns[name].append(record.get(name))
        traffic.records += len(rows) + len(named)
    limit = tolerated * traffic.records
    traffic.absent = [name for name in names if lacking[name] > limit]
    traffic.extra = [name for name in surplus if surplus[name] > limit][:MOST_EXTRA]
    return traffic


# ------------------------------------------------------------ commands


def find(folder: Path, name: str) -> Path:
    """A baseline file, wherever below the folder the job has put it."""
    found = sorted(folder.rglob(name))
    if not found:
        raise MonitorError(f"no {name} below {folder}: mount the model package's baseline there")
    return found[0]


def write(folder: Path, name: str, content: dict[str, Any]) -> None:
    """Write one report file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_csv(path: Path, drop: Sequence[str] = ()) -> Columns:
    """Columns of a CSV data set with a header; a folder stands for all CSV files in it."""
    paths = sorted(path.rglob("*.csv")) if path.is_dir() else [path]
    if not paths or not paths[0].is_file():
        raise MonitorError(f"no CSV file at {path}: give the training data, with a header, to --dataset")
    columns: Columns = {}
    for one in paths:
        with one.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream)
            header = [name.strip() for name in next(reader, [])]
            if columns and list(columns) != header:
                raise MonitorError(f"{one} has other columns than {paths[0]}: one baseline needs one header")
            columns = columns or {name: [] for name in header}
            for number, row in enumerate(reader, start=2):
                if not row:
                    continue
                if len(row) != len(header):
                    raise MonitorError(
                        f"{one} line {number} has {len(row)} values, its header has {len(header)}"
                    )
                for name, value in zip(header, row, strict=True):
                    columns[name].append(value)
    absent = [name for name in drop if name not in columns]
    if absent:
        raise MonitorError(f"--drop {absent[0]}: no such column; there are {', '.join(columns)}")
    return {name: values for name, values in columns.items() if name not in drop}


def baseline_command(options: argparse.Namespace) -> int:
    """Write statistics.json and constraints.json of the training data."""
    columns = read_csv(options.dataset, options.drop)
    statistics = dataset_statistics(columns)
    if not statistics["dataset"]["item_count"]:
        raise MonitorError(f"{options.dataset} has a header but no rows: a baseline needs the training data")
    write(options.output, "statistics.json", statistics)
    write(options.output, "constraints.json", suggest_constraints(statistics, options.drift_threshold))
    rows = statistics["dataset"]["item_count"]
    print(f"baseline of {rows} rows and {len(columns)} features written to {options.output}")
    return 0


def put_metrics(cloudwatch: Any, endpoint: str, values: dict[str, float]) -> None:
    """Publish a run's metrics; the alarm of the monitoring stack watches constraint_violations."""
    dimensions = [{"Name": "Endpoint", "Value": endpoint}, {"Name": "MonitorType", "Value": MONITOR_TYPE}]
    data = [
        {"MetricName": name[:255], "Dimensions": dimensions, "Value": float(value), "Unit": "None"}
        for name, value in values.items()
    ]
    for start in range(0, len(data), 500):  # PutMetricData takes 1,000 at most
        cloudwatch.put_metric_data(Namespace=NAMESPACE, MetricData=data[start : start + 500])


def run_command(options: argparse.Namespace, env: dict[str, str], client: Callable[[str], Any]) -> int:
    """Compare one window of captured traffic with the baseline."""
    endpoint = env.get("ENDPOINT_NAME", "")
    if not endpoint:
        raise MonitorError("ENDPOINT_NAME is not set: the schedule must say which endpoint to look at")
    scheduled = parse_time(env["SCHEDULED_TIME"]) if env.get("SCHEDULED_TIME") else datetime.now(UTC)
    window = Window.before(scheduled, int(env.get("WINDOW_MINUTES", "60")))
    statistics = json.loads(find(options.baseline, "statistics.json").read_text(encoding="utf-8"))
    constraints = json.loads(find(options.baseline, "constraints.json").read_text(encoding="utf-8"))
    min_records = options.min_records or int(env.get("MIN_RECORDS") or "50")
    names = [feature["name"] for feature in constraints["features"]]
    types = {feature["name"]: feature["inferred_type"] for feature in constraints["features"]}

    source = env.get("CAPTURE_PREFIX", "")
    lines = (
        s3_capture_lines(client("s3"), source, endpoint, window)
        if source
        else local_capture_lines(options.capture)
    )
    capture = read_capture(lines, window)
    traffic = to_columns(capture.payloads, names)
    unreadable = capture.unreadable + traffic.unreadable
    span = f"{window.start:%Y-%m-%d %H:%M} to {window.end:%Y-%m-%d %H:%M} UTC"
    if unreadable:
        LOG.warning("%s captured requests could not be read and were left out", unreadable)

    columns = {name: values for name, values in traffic.columns.items() if name not in traffic.absent}
    live = dataset_statistics(columns, types)
    if traffic.records:
        result = compare(live, columns, statistics, constraints, min_records, traffic.extra)
    else:
        live["features"] = []
        result = Comparison(notes=[f"no records of {endpoint} from {span}: nothing to compare"])

    folder = options.output / scheduled.strftime("%Y/%m/%d/%H")
    write(folder, "statistics.json", live)
    write(folder, "constraints.json", constraints)
    write(folder, "constraint_violations.json", {"version": 0.0, "violations": result.violations})
    write(
        folder,
        "drift.json",
        {
            "endpoint": endpoint,
            "monitor_type": MONITOR_TYPE,
            "window": {"start": window.start.isoformat(), "end": window.end.isoformat()},
            "records": traffic.records,
            "smoke_tests": capture.smoke_tests,
            "unreadable": unreadable,
            "requests_by_hour": dict(sorted(capture.by_hour.items())),
            "features": result.drift,
            "notes": result.notes,
        },
    )
    metrics: dict[str, float] = {"constraint_violations": len(result.violations), "records": traffic.records}
    if constraints["monitoring_config"].get("emit_metrics", "Enabled") == "Enabled":
        metrics |= {
            f"feature_baseline_drift_{name}": drift["distance"] for name, drift in result.drift.items()
        }
    put_metrics(client("cloudwatch"), endpoint, metrics)

    print(f"{endpoint}, {span}: {traffic.records} records, {len(result.violations)} violations")
    for note in result.notes:
        print(note)
    for violation in result.violations:
        print("  {feature_name}: {constraint_check_type}: {description}".format(**violation))
    if env.get("REPORTS_URI"):
        print(f"report: {env['REPORTS_URI'].rstrip('/')}/{scheduled:%Y/%m/%d/%H}/")
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(prog="monitor.py", description=(__doc__ or "").splitlines()[0])
    commands = root.add_subparsers(dest="command", required=True)
    processing = Path("/opt/ml/processing")
    baseline = commands.add_parser("baseline", help="training data -> statistics.json, constraints.json")
    baseline.add_argument("--dataset", "--input", type=Path, default=processing / "input/baseline")
    baseline.add_argument("--output", "--output-dir", type=Path, default=processing / "output")
    baseline.add_argument("--drop", action="append", default=[], help="a column to leave out: the target")
    baseline.add_argument("--drift-threshold", type=float, default=0.1)
    run = commands.add_parser("run", help="captured traffic -> report and metrics")
    run.add_argument("--baseline", type=Path, default=processing / "input/baseline")
    run.add_argument("--capture", type=Path, default=processing / "input/capture")
    run.add_argument("--output", "--output-dir", type=Path, default=processing / "output")
    run.add_argument("--min-records", type=int, help="default: MIN_RECORDS, else 50")
    return root


def main(
    argv: Sequence[str] | None = None,
    env: dict[str, str] | None = None,
    client: Callable[[str], Any] | None = None,
) -> int:
    """Run one subcommand; 0 also with violations, 1 when the input cannot be monitored."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    options = parser().parse_args(argv)
    environment = dict(os.environ) if env is None else env
    try:
        if options.command == "baseline":
            return baseline_command(options)
        return run_command(options, environment, client or make_client(environment))
    except (MonitorError, OSError, ValueError) as error:
        print(f"monitor.py {options.command}: {error}", file=sys.stderr)
        return 1


def make_client(env: dict[str, str]) -> Callable[[str], Any]:
    """AWS clients of the job's region; imported late because a baseline needs none."""
    import boto3

    session = boto3.Session(region_name=env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION"))
    return session.client


if __name__ == "__main__":
    sys.exit(main())
