"""The report of a release's tests: report.json for programs, report.html for the person who approves.

Both are below releases/<model version>/<pipeline execution>/<stage>/ in the project's bucket.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from monitor.report import Html, number, page, sentence, shown, table

from ..settings import Project

CONSOLES = {"aws": "console.aws.amazon.com", "aws-cn": "console.amazonaws.cn"}
CONSOLES |= {"aws-us-gov": "console.amazonaws-us-gov.com"}
TITLES = {
    "first_request_ms": "First request, ms",
    "latency_ms": "Latency of single rows, ms",
    "load": "Load",
    "golden": "Golden rows",
    "metric": "Metric",
}


def prefix(version: int | str, execution: str, stage: str) -> str:
    """Where the report of a stage is."""
    return f"releases/{version}/{execution}/{stage}"


def console_url(project: Project, key: str) -> str:
    """The object's page in the console of S3: who may read the bucket opens it there.

    A presigned link would end with the build's credentials, long before an approval.
    """
    home = CONSOLES.get(project.partition, CONSOLES["aws"])
    place = f"{project.region}." if project.partition != "aws-us-gov" else ""
    return f"https://{place}{home}/s3/object/{project.bucket_name}?region={project.region}&prefix={key}"


def upload(s3: Any, project: Project, key: str, text: str, content_type: str) -> str:
    """Write a text of a release, encrypted with the project's key; its address."""
    s3.put_object(
        Bucket=project.bucket_name,
        Key=key,
        Body=text.encode(),
        ContentType=content_type,
        ServerSideEncryption="aws:kms",
        SSEKMSKeyId=project.key_arn,
    )
    return f"s3://{project.bucket_name}/{key}"


def write(s3: Any, project: Project, content: dict[str, Any], folder: str) -> str:
    """Upload both forms; the key of the page."""
    upload(s3, project, f"{folder}/report.json", json.dumps(content, indent=2) + "\n", "application/json")
    upload(s3, project, f"{folder}/report.html", render(content), "text/html; charset=utf-8")
    return f"{folder}/report.html"


def render(content: dict[str, Any]) -> str:
    """The page: the verdict, what would change, then every check."""
    title = f"Model version {content['model_version']} in {content['stage']}"
    notes = content.get("release_notes") or {}
    return page(
        f"{title}: {content['project_name']}",
        [
            *verdict(content, title),
            *comparison(notes.get("metrics") or [], notes.get("live_version")),
            *changes(notes),
            *checks(content["checks"]),
            *measured(content.get("measured") or {}),
        ],
    )


def verdict(content: dict[str, Any], title: str) -> list[str]:
    """What came out, in one glance."""
    failed = [check for check in content["checks"] if not check["passed"]]
    sign, word = (
        ("▲", f"{len(failed)} of {len(content['checks'])} checks failed")
        if failed
        else (
            "✓",
            f"All {len(content['checks'])} checks passed",
        )
    )
    facts = [
        ("Project", content["project_name"]),
        ("Endpoint", content["endpoint"]),
        ("Model version", content["model_version"]),
        ("Live in production", (content.get("release_notes") or {}).get("live_version") or "none"),
        ("Pipeline execution", content["pipeline_execution_id"]),
        ("Tested (UTC)", str(content["finished"])[:16].replace("T", " ")),
    ]
    return [
        f"<h1>{shown(title)}</h1>",
        f'<div class="verdict{" violations" if failed else ""}"><p><b>{sign} {shown(word)}</b></p>',
        *(f"<p>{sentence(text)}</p>" for text in content.get("failures") or []),
        *(f"<p>{sentence(text)}</p>" for text in content.get("notes") or []),
        "</div><dl>",
        *(f"<div><dt>{shown(name)}</dt><dd>{shown(value)}</dd></div>" for name, value in facts),
        "</dl>",
    ]


def comparison(rows: Sequence[dict[str, Any]], live: Any) -> list[str]:
    """The new version's metrics beside the live one's."""
    if not rows:
        return []
    cells = [
        (
            "",
            (
                row["name"],
                figure(row["new"]),
                figure(row["live"]),
                figure(row["difference"], sign=True),
            ),
        )
        for row in rows
    ]
    head = (
        "Metric on the test rows of its training",
        "This version",
        f"Live ({live or 'none'})",
        "Difference",
    )
    return ["<h2>Metrics beside the live version</h2>", table(head, cells, (1, 2, 3))]


def figure(value: Any, sign: bool = False) -> str:
    """A metric with four digits; a dash for none."""
    if not isinstance(value, int | float):
        return "–"
    return f"{value:+.4f}" if sign else f"{value:.4f}"


def changes(notes: dict[str, Any]) -> list[str]:
    """What the version is made of, beside the live one; and the commits between the two."""
    parts: list[str] = []
    if rows := notes.get("changes"):
        cells = [
            (
                "hit" if row["changed"] else "",
                (row["what"], Html(sentence(row["new"])), Html(sentence(row["live"]))),
            )
            for row in rows
        ]
        parts += ["<h2>What changed</h2>", table(("", "This version", "Live"), cells)]
    if commits := notes.get("commits"):
        cells = [
            ("", (one["id"][:8], one["date"][:10], one["author"], Html(sentence(one["subject"]))))
            for one in commits
        ]
        parts += ["<h2>Commits</h2>", table(("Commit", "Date", "Author", "Subject"), cells)]
    if files := notes.get("files"):
        parts += [
            "<h2>Files</h2>",
            table(("", "File"), [("", (one["change"], one["path"])) for one in files]),
        ]
    parts += [f'<p class="soft">{sentence(text)}</p>' for text in notes.get("remarks") or []]
    return parts


def checks(found: Iterable[dict[str, Any]]) -> list[str]:
    """Every check, those that failed first."""
    rows = [
        (
            "" if check["passed"] else "hit",
            (
                "ok" if check["passed"] else Html("▲&nbsp;failed"),
                check["group"],
                check["name"],
                Html(sentence(check["found"])),
                Html(sentence(check["required"])),
            ),
        )
        for check in sorted(found, key=lambda check: check["passed"])
    ]
    return ["<h2>Checks</h2>", table(("", "Test", "Check", "Found", "Required"), rows)]


def measured(found: dict[str, Any]) -> list[str]:
    """The numbers behind the checks."""
    parts: list[str] = []
    for name, values in found.items():
        flat = values if isinstance(values, dict) else {name: values}
        cells = [
            ("", (key.replace("_", " "), plain(value)))
            for key, value in flat.items()
            if value not in ("", {})
        ]
        parts += [f"<h2>{shown(TITLES.get(name, name))}</h2>", table(("", ""), cells)]
    return parts


def plain(value: Any) -> Html:
    """A number, a text or a few of them."""
    if isinstance(value, dict):
        return Html(", ".join(f"{sentence(key)} {plain(one)}" for key, one in value.items()))
    return Html(number(value) if isinstance(value, int | float) else sentence(value))
