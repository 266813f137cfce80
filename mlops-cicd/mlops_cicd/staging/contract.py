"""The serving contract: both content types, answers that agree, and reasons for what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ..console import quoted
from .checks import Report
from .client import CSV, JSON, Answer, Client, Row, encode, predict

ROWS = 5
CLOSE = 1e-5  # the answers have six digits
SERVING = "Compare src/serving.py of the project with the one of its template"


def answers(client: Client, rows: Sequence[Row], report: Report) -> None:
    """CSV and JSON are both taken, and say the same."""
    some = rows[:ROWS]
    by_csv, _ = predict(client, some, CSV)
    report.check("CSV is answered", True, f"{len(some)} rows", "one number a row")
    by_json, _ = predict(client, some, JSON)
    report.check("JSON is answered", True, f"{len(some)} rows", "one probability a row")
    gap = max(abs(one - other) for one, other in zip(by_csv, by_json, strict=True))
    report.check("CSV and JSON agree", gap < CLOSE, f"{gap:.1e} apart", f"less than {CLOSE:.0e}", SERVING)


def refusals(client: Client, rows: Sequence[Row], number: int | None, report: Report) -> None:
    """Bad input is the caller's fault: a 4xx with a sentence, never a 5xx."""
    row = list(rows[0])
    cases = [
        ("a wrong content type", "application/x-unknown", encode([row], CSV), 415),
        ("a row with a value too few", CSV, encode([row[:-1]], CSV), 400),
        ("a row with a value too many", JSON, encode([[*row, 1]], JSON), 400),
        ("a body that is not JSON", JSON, b'{"instances": [[', 400),
    ]
    if number is not None:
        wrong = [*row[:number], "not-a-number", *row[number + 1 :]]
        cases.append(("a text where a number belongs", CSV, encode([wrong], CSV), 400))
    for what, content_type, body, status in cases:
        answer = client.request(content_type, body)
        passed = answer.status == status and bool(reason(answer))
        found = f"{answer.status or answer.error or 'nothing'} {quoted(answer.body[:200], 120)}"
        report.check(f"{what} is refused", passed, found, f'{status} with {{"error": the reason}}', SERVING)


def reason(answer: Answer) -> str:
    """The reason in a refusal; the file of an asynchronous one has SageMaker's words around it."""
    text = answer.body
    start, end = text.find("{"), text.rfind("}")
    try:
        body = json.loads(text[start : end + 1])
        return str(body.get("error", "")) if isinstance(body, dict) else ""
    except ValueError:
        return ""
