"""Read and plot the monitoring reports in the project's bucket, whichever engine wrote them.

Both engines write the files of SageMaker Model Monitor and Clarify; the project's own engine adds
summary.json, which says it all in one form. `summarize` brings the other engine's files into that form.
"""

import html
import json
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure

FOLDERS = {
    "data_quality": "data-quality",
    "model_quality": "model-quality",
    "model_bias": "model-bias",
    "model_explainability": "model-explainability",
}
FILES = ("statistics.json", "constraints.json", "constraint_violations.json", "analysis.json")
# <anything>/yyyy/mm/dd/hh/<file>: Model Monitor puts the endpoint and the schedule before the hour
PLACE = re.compile(r"^(.*/\d{4}/\d{2}/\d{2}/\d{2}/)([^/]+)$")
NUMBER = r"(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)"
EXCEEDS = re.compile(rf"{NUMBER}\D*?threshold:?\s*'?{NUMBER}", re.IGNORECASE)
VERDICTS = {"clean": "no drift", "violations": "DRIFT", "not_judged": "not judged", "no_data": "no data"}
MEASURES = ["kind", "scheduled", "subject", "name", "value", "baseline", "threshold", "p_value", "violated"]


class Report(NamedTuple):
    """One run's folder in the bucket."""

    kind: str
    scheduled: datetime
    prefix: str
    files: frozenset[str]


def find_reports(s3: Any, bucket: str, days: int = 14, until: datetime | None = None) -> list[Report]:
    """Return the reports of the last days (before until), the oldest first."""
    since = (until or datetime.now(UTC)) - timedelta(days=days)
    pages = s3.get_paginator("list_objects_v2")
    found: dict[tuple[str, str], set[str]] = {}
    for kind, folder in FOLDERS.items():
        root = f"monitoring/{folder}/"
        # keys are sorted: own reports before that day are not even listed
        start = f"{root}{since:%Y/%m/%d}"
        for page in pages.paginate(Bucket=bucket, Prefix=root, StartAfter=start):
            for item in page.get("Contents", []):
                if place := PLACE.match(item["Key"]):
                    found.setdefault((kind, place[1]), set()).add(place[2])
    reports = [
        Report(kind, hour_of(prefix), prefix, frozenset(files))
        for (kind, prefix), files in found.items()
        if files & {"summary.json", *FILES}
    ]
    wanted = [r for r in reports if since <= r.scheduled and (until is None or r.scheduled <= until)]
    return sorted(wanted, key=lambda r: (r.scheduled, r.kind))


def hour_of(prefix: str) -> datetime:
    """Return the hour that a report's folder is named after."""
    return datetime.strptime("/".join(prefix.split("/")[-5:-1]), "%Y/%m/%d/%H").replace(tzinfo=UTC)


def read_json(s3: Any, bucket: str, key: str) -> dict[str, Any]:
    """Return a JSON object of the bucket; what cannot be read is empty."""
    try:
        content = json.loads(s3.get_object(Bucket=bucket, Key=key)["Body"].read())
    except ValueError:  # cut off, or not JSON at all
        return {}
    return content if isinstance(content, dict) else {}


def read_report(s3: Any, bucket: str, report: Report) -> dict[str, Any]:
    """Return what a run found, in the form of summary.json."""
    summary: dict[str, Any] = {}
    if "summary.json" in report.files:
        summary = read_json(s3, bucket, f"{report.prefix}summary.json")
    if not summary:
        files = {name: read_json(s3, bucket, report.prefix + name) for name in FILES if name in report.files}
        summary = summarize(report.kind, files)
    return {
        **summary,
        "kind": report.kind,
        "scheduled": report.scheduled,
        "report_uri": f"s3://{bucket}/{report.prefix}",
    }


def read_reports(s3: Any, bucket: str, reports: Sequence[Report]) -> list[dict[str, Any]]:
    """Return what each run found; many small files are read at once."""
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(lambda report: read_report(s3, bucket, report), reports))


# What Model Monitor and Clarify write


def summarize(kind: str, files: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the files of Model Monitor or Clarify in the form of summary.json."""
    violations = files.get("constraint_violations.json", {}).get("violations", [])
    statistics = files.get("analysis.json") or files.get("statistics.json", {})
    readers = {
        "data_quality": lambda: data_quality_measures(violations),
        "model_quality": lambda: model_quality_measures(
            statistics, files.get("constraints.json", {}), violations
        ),
        "model_bias": lambda: bias_measures(statistics, files.get("constraints.json", {}), violations),
        "model_explainability": lambda: attribution_measures(statistics, violations),
    }
    measures = readers[kind]()
    worst = next((measure for measure in measures if measure["violated"]), {})
    return {
        "engine": "managed",
        "records": statistics.get("dataset", {}).get("item_count"),
        "violations": len(violations),
        "status": "violations" if violations else "clean" if statistics else "no_data",
        **{f"worst_{key}": worst.get(key) for key in ("subject", "name", "value", "baseline", "threshold")},
        "measures": measures,
        "notes": [str(violation.get("description", "")).strip() for violation in violations],
    }


def measure(subject: Any, name: Any, value: Any, threshold: Any = None, **more: Any) -> dict[str, Any]:
    """Return one row of measures."""
    return {
        "subject": str(subject),
        "name": str(name),
        "value": value if isinstance(value, int | float) else None,
        "threshold": threshold,
        "baseline": None,
        "p_value": None,
        "violated": False,
        **more,
    }


def numbers_of(description: str) -> tuple[float | None, float | None]:
    """Return the value and the threshold that a violation's description tells."""
    if both := EXCEEDS.search(description):
        return float(both[1]), float(both[2])
    one = re.search(NUMBER, description)
    return (float(one[1]) if one else None), None


def data_quality_measures(violations: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what violated the constraints: Model Monitor writes no distance of what did not."""
    return [
        measure(
            violation.get("feature_name", ""),
            violation.get("constraint_check_type", ""),
            *numbers_of(str(violation.get("description", ""))),
            violated=True,
        )
        for violation in violations
    ]


def section_of(document: dict[str, Any], ending: str) -> dict[str, Any]:
    """Return the section of the problem type: binary_classification_metrics and the like."""
    return next((value for key, value in document.items() if key.endswith(ending)), {})


def model_quality_measures(
    statistics: dict[str, Any], constraints: dict[str, Any], violations: Iterable[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the metrics with their constraints."""
    metrics, limits = section_of(statistics, "_metrics"), section_of(constraints, "_constraints")
    found = {
        name: measure("model", name, metric["value"], limits.get(name, {}).get("threshold"))
        for name, metric in metrics.items()
        if isinstance(metric, dict) and "value" in metric
    }
    for violation in violations:
        name = str(violation.get("metric_name", ""))
        value, threshold = numbers_of(str(violation.get("description", "")))
        known = found.setdefault(name, measure("model", name, value, threshold))
        known["violated"] = True
    return sorted(found.values(), key=lambda m: not m["violated"])


def bias_values(analysis: dict[str, Any]) -> dict[tuple[str, str, str], float]:
    """Return the metrics of an analysis.json, by facet, value and name."""
    return {
        (facet, str(group.get("value_or_threshold", "")), metric["name"]): metric["value"]
        for stage in ("pre_training_bias_metrics", "post_training_bias_metrics")
        for facet, groups in analysis.get(stage, {}).get("facets", {}).items()
        for group in groups
        for metric in group.get("metrics", [])
        if isinstance(metric.get("value"), int | float)
    }


def bias_measures(
    analysis: dict[str, Any], constraints: dict[str, Any], violations: Iterable[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the bias metrics of each group; the baseline is the limit."""
    before, now = bias_values(constraints), bias_values(analysis)
    hit = {
        (str(v.get("facet", "")), str(v.get("facet_value", "")), str(v.get("metric_name", ""))): numbers_of(
            str(v.get("description", ""))
        )[0]
        for v in violations
    }
    rows = [
        measure(
            f"{facet}={value}",
            name,
            now.get((facet, value, name), hit.get((facet, value, name))),
            baseline=before.get((facet, value, name)),
            violated=(facet, value, name) in hit,
        )
        for facet, value, name in {**hit, **now}
    ]
    return sorted(rows, key=lambda m: not m["violated"])


def attribution_measures(
    analysis: dict[str, Any], violations: Iterable[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the violated rankings, and the global SHAP value of each feature."""
    rows = [
        measure(v.get("label", ""), "ndcg", *numbers_of(str(v.get("description", ""))), violated=True)
        for v in violations
    ]
    for label in analysis.get("explanations", {}).get("kernel_shap", {}).values():
        rows += [measure(name, "shap", value) for name, value in label.get("global_shap_values", {}).items()]
    return rows


# Tables and plots


def verdicts(runs: Sequence[dict[str, Any]], before: datetime | None = None) -> pd.DataFrame:
    """Return the newest run of each kind (before a time): a row a kind, also for a kind without a report."""
    rows = {}
    for kind in FOLDERS:
        past = [r for r in runs if r["kind"] == kind and (before is None or r["scheduled"] < before)]
        run = max(past, key=lambda r: r["scheduled"], default={})
        status = str(run.get("status", ""))
        off = [run.get("worst_subject"), run.get("worst_name"), shown(run.get("worst_value"))]
        rows[kind] = {
            "scheduled": f"{run['scheduled']:%Y-%m-%d %H:%M}" if run else "",
            "verdict": VERDICTS.get(status, status) if run else "no report",
            "records": shown(run.get("records")),
            "unreadable": shown(run.get("unreadable")),
            "violations": shown(run.get("violations")),
            "farthest off": " ".join(str(part) for part in off if part),
            "limit": shown(run.get("worst_threshold")),
            "report": run.get("report_uri", ""),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def shown(value: Any) -> str:
    """Return a number as people read it; nothing for none."""
    if value is None or value != value:
        return ""
    return (
        f"{value:,}" if isinstance(value, int) else f"{value:.3g}" if isinstance(value, float) else str(value)
    )


def all_measures(runs: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Return every measure of every run: a row a measure."""
    rows = [
        {key: {**m, "kind": run["kind"], "scheduled": run["scheduled"]}.get(key) for key in MEASURES}
        for run in runs
        for m in run.get("measures") or []
    ]
    frame = pd.DataFrame(rows, columns=MEASURES)
    for name in ("value", "baseline", "threshold", "p_value"):
        frame[name] = pd.to_numeric(frame[name], errors="coerce")
    return frame.assign(violated=frame["violated"].fillna(False).astype(bool))


def drifting(runs: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Return what drifts now, and since when: violated in the newest judged run and all right before it."""
    judged = [run for run in runs if run.get("status") in ("clean", "violations")]
    rows = []
    for kind in FOLDERS:
        newest_first = sorted(
            (r for r in judged if r["kind"] == kind), key=lambda r: r["scheduled"], reverse=True
        )
        hits = [
            {(m["subject"], m["name"]): m for m in run.get("measures") or [] if m.get("violated")}
            for run in newest_first
        ]
        for subject, name in hits[0] if hits else ():
            streak = next((i for i, hit in enumerate(hits) if (subject, name) not in hit), len(hits))
            now = hits[0][subject, name]
            rows.append(
                {
                    "kind": kind,
                    "subject": subject,
                    "measure": name,
                    "since": newest_first[streak - 1]["scheduled"],
                    "runs": streak,
                    **{key: now.get(key) for key in ("value", "baseline", "threshold")},
                }
            )
    columns = ["kind", "subject", "measure", "since", "runs", "value", "baseline", "threshold"]
    return pd.DataFrame(rows, columns=columns)


def plot(measures: pd.DataFrame, kind: str, most: int = 6) -> Figure | None:
    """Plot the measures of a kind over time, those that are farthest over their limit first; None if none."""
    found = measures[(measures["kind"] == kind) & measures["value"].notna()]
    if found.empty:
        return None
    series = sorted(found.groupby(["subject", "name"]), key=lambda item: interest(item[1]), reverse=True)
    figure = Figure(figsize=(9, 1 + 1.5 * len(series[:most])), layout="constrained")
    axes = figure.subplots(len(series[:most]), 1, sharex=True, squeeze=False)[:, 0]
    for axis, ((subject, name), rows) in zip(axes, series, strict=False):
        rows = rows.sort_values("scheduled")
        axis.plot(rows["scheduled"], rows["value"], color="black", marker="o", markersize=3, linewidth=1)
        hit = rows[rows["violated"]]
        axis.plot(hit["scheduled"], hit["value"], "X", color="black", markersize=9, label="drift")
        for column, style in (("threshold", "--"), ("baseline", ":")):
            if rows[column].notna().any():
                axis.plot(
                    rows["scheduled"], rows[column], color="black", linestyle=style, linewidth=1, label=column
                )
        axis.set_title(f"{subject}: {name}", loc="left", fontsize=9, parse_math=False)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=8)
    locator = AutoDateLocator()
    axes[-1].xaxis.set_major_locator(locator)
    axes[-1].xaxis.set_major_formatter(ConciseDateFormatter(locator))
    return figure


def interest(rows: pd.DataFrame) -> tuple[int, bool, float]:
    """Return what a plot shows first: most violations, then what has a limit, then the largest change."""
    start = rows["baseline"].fillna(rows["value"].iloc[0])
    judged = bool(rows["threshold"].notna().any())
    return int(rows["violated"].sum()), judged, float((rows["value"] - start).abs().max())


def frame_of(s3: Any, bucket: str, uri: str, height: int = 700) -> str:
    """Return the page of a report in a frame of its own, in which nothing can run."""
    key = f"{uri.removeprefix(f's3://{bucket}/')}report.html"
    try:
        page = s3.get_object(Bucket=bucket, Key=key)["Body"].read().decode()
    except s3.exceptions.NoSuchKey:
        return f"<p>{html.escape(uri)} has no report.html: only the project's own engine writes one.</p>"
    return f'<iframe sandbox="" width="100%" height="{height}" srcdoc="{html.escape(page)}"></iframe>'
