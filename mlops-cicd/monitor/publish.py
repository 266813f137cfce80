"""What a run leaves behind: report files, rows for Athena, CloudWatch metrics, and a few lines to read."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from . import KINDS, NAMESPACE
from .capture import split_uri
from .intake import Intake
from .result import Measure, Result
from .settings import Settings

LOG = logging.getLogger("monitor")
HISTORY_DAYS = 3
MOST_HISTORY = 72
CLARIFY = ("model_bias", "model_explainability")  # their files say version "1.0", as Clarify's do
ROW_COLUMNS = (
    *("run_id", "endpoint", "kind", "engine", "scheduled", "window_start", "window_end"),
    *("records", "excluded", "unreadable", "violations", "status"),
    *("worst_subject", "worst_name", "worst_value", "worst_baseline", "worst_threshold"),
    *("report_uri", "model_package_arn"),
)
WHOLE_MODEL = ("", "model")  # subjects that are no feature and no facet

Json = dict[str, Any]


def summarize(
    settings: Settings, result: Result, intake: Intake, run_id: str, engine: str = "processing"
) -> Json:
    """summary.json: the run's row, the measures, and what was left out."""
    worst = worst_of(result.measures)
    row: Json = {
        "run_id": run_id,
        "endpoint": settings.endpoint,
        "kind": settings.kind,
        "engine": engine,
        "scheduled": time_text(settings.scheduled),
        "window_start": time_text(settings.window.start),
        "window_end": time_text(settings.window.end),
        "records": result.records,
        "excluded": sum(intake.excluded.values()),
        "unreadable": sum(intake.unreadable.values()),
        "violations": len(result.violations),
        "status": status_of(result),
        "worst_subject": worst.subject if worst else None,
        "worst_name": worst.name if worst else None,
        "worst_value": worst.value if worst else None,
        "worst_baseline": worst.baseline if worst else None,
        "worst_threshold": worst.threshold if worst else None,
        "report_uri": f"{settings.reports_uri}/{settings.report_folder}/" if settings.reports_uri else "",
        "model_package_arn": settings.model_package_arn,
    }
    return row | {
        "measures": [measure_row(measure) for measure in result.measures],
        "notes": result.notes,
        "requests": intake.requests,
        "requests_by_hour": dict(sorted(intake.by_hour.items())),
        "unreadable_reasons": dict(sorted(intake.unreadable.items())),
        "excluded_reasons": dict(sorted(intake.excluded.items())),
        "ground_truth": intake.truths,
        "ignored_objects": intake.ignored,
    }


def time_text(moment: Any) -> str:
    """A time as all files write it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def status_of(result: Result) -> str:
    """clean, violations, not_judged or no_data."""
    if result.violations:
        return "violations"
    if not result.records:
        return "no_data"
    return "clean" if result.judged else "not_judged"


def worst_of(measures: list[Measure]) -> Measure | None:
    """What a person should look at first: violated, least likely by chance, farthest beyond its threshold."""

    def rank(measure: Measure) -> tuple[bool, float, float]:
        p_value = 1.0 if measure.p_value is None else measure.p_value
        beyond = 0.0
        if measure.value is not None and measure.threshold is not None:
            beyond = abs(measure.value - measure.threshold) / max(abs(measure.threshold), 1e-9)
        return measure.violated, -p_value, beyond

    known = [measure for measure in measures if measure.value is not None]
    return max(known, key=rank) if known else None


def measure_row(measure: Measure) -> Json:
    """A measure as JSON."""
    return {
        "subject": measure.subject,
        "name": measure.name,
        "value": measure.value,
        "baseline": measure.baseline,
        "threshold": measure.threshold,
        "p_value": measure.p_value,
        "violated": measure.violated,
        "detail": measure.detail,
    }


def write_files(
    settings: Settings, result: Result, intake: Intake, summary: Json, history: list[Json]
) -> Path:
    """The report's folder and the rows for Athena, in a tree that mirrors the reports' prefix."""
    from .report import render

    folder = settings.output / settings.report_folder
    version: Any = "1.0" if settings.kind in CLARIFY else 0.0
    write_json(folder / "statistics.json", result.statistics, indent=None)  # thousands of numbers
    write_json(folder / "constraints.json", result.constraints)
    write_json(folder / "constraint_violations.json", {"version": version, "violations": result.violations})
    if result.analysis is not None:
        write_json(folder / "analysis.json", result.analysis)
    write_json(folder / "summary.json", summary)
    if intake.unreadable:
        write_text(folder / "quarantine.jsonl", intake.quarantine_lines())
    baseline = next(iter(sorted(settings.baseline.rglob("analysis.json"))), None)
    baseline = baseline or next(iter(sorted(settings.baseline.rglob("statistics.json"))), None)
    known = json.loads(baseline.read_text(encoding="utf-8")) if baseline else None
    write_text(folder / "report.html", render(summary, result, history, known))

    day = settings.scheduled.strftime("%Y-%m-%d")
    name = f"date={day}/{settings.kind}-{settings.scheduled:%H%M}-{summary['run_id']}.jsonl"
    tables = settings.output / "tables"
    row = {key: summary[key] for key in ROW_COLUMNS}
    write_text(tables / "runs" / name, json.dumps(row) + "\n")
    about = {key: summary[key] for key in ("run_id", "endpoint", "kind", "scheduled")}
    columns = ("subject", "name", "value", "baseline", "threshold", "p_value", "violated")
    lines = [json.dumps(about | {key: one[key] for key in columns}) + "\n" for one in summary["measures"]]
    if lines:
        write_text(tables / "measures" / name, "".join(lines))
    return folder


def write_json(path: Path, content: Any, indent: int | None = 1) -> None:
    """A JSON file without NaN, which is no JSON."""
    write_text(path, json.dumps(content, indent=indent, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """A file and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


# ------------------------------------------------------------ CloudWatch


def metrics_of(settings: Settings, result: Result, intake: Intake) -> dict[str, float]:
    """Names and values of a run's metrics; the alarms watch constraint_violations."""
    values: dict[str, float] = {
        "constraint_violations": len(result.violations),
        "records": result.records,
        "unreadable": sum(intake.unreadable.values()),
    }
    if result.constraints.get("monitoring_config", {}).get("emit_metrics", "Enabled") != "Enabled":
        return values
    for measure in result.measures:
        if measure.value is not None and (name := metric_name(settings.kind, measure)):
            values[name] = float(measure.value)
    return values


def metric_name(kind: str, measure: Measure) -> str:
    """Name of a measure's metric, after Model Monitor's; nothing for one without (each metric costs)."""
    if kind == "data_quality":
        return f"feature_baseline_drift_{measure.subject}" if measure.name == "baseline_drift" else ""
    if measure.subject in WHOLE_MODEL:
        return measure.name
    if kind == "model_bias":
        return f"bias_metric_{measure.name}_{measure.subject}"
    return f"feature_{measure.name}_{measure.subject}"


def put_metrics(cloudwatch: Any, settings: Settings, values: dict[str, float]) -> None:
    """Publish a run's metrics."""
    dimensions = [
        {"Name": "Endpoint", "Value": settings.endpoint},
        {"Name": "MonitorType", "Value": settings.kind},
    ]
    data = [
        {"MetricName": metric_text(name), "Dimensions": dimensions, "Value": value, "Unit": "None"}
        for name, value in values.items()
    ]
    for start in range(0, len(data), 500):  # PutMetricData takes 1,000 at most
        cloudwatch.put_metric_data(Namespace=NAMESPACE, MetricData=data[start : start + 500])


def metric_text(name: str) -> str:
    """A metric's name has 1 to 255 ASCII characters."""
    return "".join(character if " " < character < "\x7f" else "_" for character in name)[:255]


# ------------------------------------------------------------ earlier runs


def read_history(s3: Callable[[], Any], settings: Settings) -> list[Json]:
    """Rows of the earlier runs of this endpoint and kind, oldest first; a report does without if need be."""
    if not settings.reports_uri:
        return []
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, prefix = split_uri(settings.reports_uri, "REPORTS_URI")
    root = f"{prefix}/tables/runs/" if prefix else "tables/runs/"
    rows: list[Json] = []
    try:
        client = s3()
        for back in range(HISTORY_DAYS):
            day = (settings.scheduled - timedelta(days=back)).strftime("%Y-%m-%d")
            pages = client.get_paginator("list_objects_v2").paginate(
                Bucket=bucket, Prefix=f"{root}date={day}/{settings.kind}-"
            )
            keys = sorted((item["Key"] for page in pages for item in page.get("Contents", [])), reverse=True)
            for key in keys[: MOST_HISTORY - len(rows)]:
                body = client.get_object(Bucket=bucket, Key=key)["Body"].read()
                rows += [json.loads(line) for line in body.splitlines() if line.strip()]
    except (BotoCoreError, ClientError, ValueError) as error:
        LOG.warning("earlier runs cannot be read, the report does without: %s", error)
    scheduled = time_text(settings.scheduled)
    same = [row for row in rows if row.get("endpoint") == settings.endpoint and row["scheduled"] < scheduled]
    return sorted(same, key=lambda row: row["scheduled"])


def tell(settings: Settings, result: Result, intake: Intake, summary: Json) -> None:
    """The lines of the job's log."""
    window = settings.window
    span = f"{window.start:%Y-%m-%d %H:%M} to {window.end:%Y-%m-%d %H:%M} UTC"
    kind = KINDS[settings.kind].folder
    print(
        f"{settings.endpoint}, {kind}, {span}: {result.records} records, {len(result.violations)} violations"
    )
    if intake.unreadable:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(intake.unreadable.items()))
        print(f"{sum(intake.unreadable.values())} could not be read (quarantine.jsonl): {reasons}")
    for note in result.notes:
        print(note)
    for violation in result.violations:
        subject = (
            violation.get("feature_name") or violation.get("facet") or violation.get("metric_name") or ""
        )
        subject = subject or violation.get("label", "")
        print(f"  {subject}: {violation['constraint_check_type']}: {violation['description']}")
    if summary["report_uri"]:
        print(f"report: {summary['report_uri']}")
