"""The project's figures as the Data Scientist reads them: every saved query, run in her name (flow G)."""

from __future__ import annotations

from typing import Any

from rehearse import story
from rehearse.engine import Failure, Rehearsal

Rows = list[dict[str, str | None]]


def query_all(r: Rehearsal, made: story.Project, name: str = "jane-doe") -> dict[str, Rows]:
    """The rows of each saved query of the project; each has some, and they say what the rehearsal did."""
    athena = story.person(r, made, name).client("athena")
    group = f"mlops-{made.id}"
    found = {one["Name"]: ask(r, athena, one, group) for one in saved_queries(athena, group)}
    r.check(len(found) >= 7, f"workgroup {group} has the saved queries {', '.join(sorted(found))} only")
    empty = sorted(query for query, rows in found.items() if not rows)
    r.check(not empty, f"no rows from {', '.join(empty)}", look_at=f"workgroup {group} in Athena")
    runs = {row["kind"]: row for row in found["latest-reports"]}
    r.check(
        "data_quality" in runs, f"table runs has no run of data_quality, but of {', '.join(map(str, runs))}"
    )
    total = sum(int(row["predictions"] or 0) for row in found["predictions-per-day"])
    asked = sum(int(row["requests"] or 0) for row in found["predictions-without-ground-truth"])
    r.check(total > 0 and asked > 0, f"{asked} requests brought {total} predictions")
    pipelines = {row["pipeline"] for row in found["evaluations"]}
    r.check(
        group in pipelines, f"table evaluations has rows of {', '.join(map(str, pipelines))}, not of {group}"
    )
    r.facts["kpi"] = {query: {"rows": len(rows), "first": rows[:3]} for query, rows in found.items()}
    return found


def saved_queries(athena: Any, group: str) -> list[dict[str, Any]]:
    """The saved queries of a workgroup."""
    pages = athena.get_paginator("list_named_queries").paginate(WorkGroup=group)
    ids = [identity for page in pages for identity in page["NamedQueryIds"]]
    return athena.batch_get_named_query(NamedQueryIds=ids)["NamedQueries"] if ids else []


def ask(r: Rehearsal, athena: Any, query: dict[str, Any], group: str) -> Rows:
    """Run a saved query and wait; its rows. Raises Failure with Athena's reason."""
    started = athena.start_query_execution(
        QueryString=query["QueryString"],
        QueryExecutionContext={"Database": query["Database"]},
        WorkGroup=group,
    )["QueryExecutionId"]

    def ended() -> dict[str, Any] | None:
        found = athena.get_query_execution(QueryExecutionId=started)["QueryExecution"]["Status"]
        return found if found["State"] not in ("QUEUED", "RUNNING") else None

    status = r.wait(f"query {query['Name']}", ended, 120, 0.1)
    if status["State"] != "SUCCEEDED":
        raise Failure(
            f"query {query['Name']} ended as {status['State']}", [status.get("StateChangeReason", "")]
        )
    pages = athena.get_paginator("get_query_results").paginate(QueryExecutionId=started)
    cells = [
        [cell.get("VarCharValue") for cell in row["Data"]]
        for page in pages
        for row in page["ResultSet"]["Rows"]
    ]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[1:]]
