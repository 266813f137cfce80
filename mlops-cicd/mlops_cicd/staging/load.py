"""Load: some clients ask without a pause for a while; the answers' times are counted, not kept.

Times go into a histogram whose steps grow by 2 %, so an hour of load takes no more memory than a second.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .checks import Report
from .client import CSV, Client, Row, encode

STEP = math.log(1.02)
MOST_KINDS = 20  # of errors that are told apart


@dataclass
class Tally:
    """What one or several clients saw."""

    times: Counter[int] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    first_error: str = ""

    def answered(self, milliseconds: float) -> None:
        """Count a good answer."""
        self.times[math.ceil(math.log(max(0.01, milliseconds)) / STEP)] += 1

    def failed(self, kind: str, text: str) -> None:
        """Count a failed request."""
        self.errors[kind if kind in self.errors or len(self.errors) < MOST_KINDS else "others"] += 1
        self.first_error = self.first_error or f"{kind}: {text[:200]}"

    def add(self, other: Tally) -> None:
        """Take in what another client saw."""
        self.times.update(other.times)
        self.errors.update(other.errors)
        self.first_error = self.first_error or other.first_error

    @property
    def good(self) -> int:
        """How many requests were answered."""
        return sum(self.times.values())

    @property
    def bad(self) -> int:
        """How many were not."""
        return sum(self.errors.values())

    def percentile(self, share: float) -> float:
        """Milliseconds within which this share of the good answers came, 2 % too many at most."""
        left = math.ceil(share * self.good)
        for place in sorted(self.times):
            left -= self.times[place]
            if left <= 0:
                return math.exp(place * STEP)
        return 0.0


def ask(client: Client, rows: Sequence[Row], begin: int, until: Callable[[], bool], tally: Tally) -> None:
    """One client: a row after the other, from a row of its own on."""
    place = begin
    while until():
        answer = client.request(CSV, encode([rows[place % len(rows)]], CSV))
        if answer.good:
            tally.answered(answer.milliseconds)
        else:
            tally.failed(f"{answer.status} {answer.error}".strip(), answer.body)
        place += 1


def run(
    client: Client,
    rows: Sequence[Row],
    seconds: float,
    clients: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """So many clients for so long; what they saw together."""
    begun = clock()
    tallies = [Tally() for _ in range(clients)]

    def under_way() -> bool:
        return clock() - begun < seconds

    threads = [
        threading.Thread(target=ask, args=(client, rows, number * 17, under_way, tally), daemon=True)
        for number, tally in enumerate(tallies)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spent, total = max(clock() - begun, 1e-9), Tally()
    for tally in tallies:
        total.add(tally)
    return {
        "seconds": round(spent, 1),
        "clients": clients,
        "requests": total.good + total.bad,
        "failed": total.bad,
        "errors": dict(total.errors.most_common()),
        "first_error": total.first_error,
        "per_second": round((total.good + total.bad) / spent, 1),
        **{f"p{round(share * 100)}_ms": round(total.percentile(share), 1) for share in (0.5, 0.95, 0.99)},
    }


def under_load(
    client: Client,
    rows: Sequence[Row],
    seconds: float,
    clients: int,
    budget: float | None,
    report: Report,
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """No request fails under load, and the answers stay within the budget."""
    found = run(client, rows, seconds, clients, clock)
    report.measured["load"] = found
    what = f"{found['requests']} requests of {clients} clients in {found['seconds']:.0f} s"
    report.check("requests under load", found["requests"] > 0, what, "more than none")
    report.check(
        "failed requests under load",
        not found["failed"],
        f"{found['failed']} of {found['requests']}"
        + (f", first {found['first_error']}" if found["failed"] else ""),
        "none",
        "Read the endpoint's log for the first error; a busy endpoint needs more instances "
        "(deployment.staging.instance_count) or a larger type",
    )
    if budget is not None and found["requests"] > found["failed"]:
        report.check(
            "latency under load, 95th percentile",
            found["p95_ms"] <= budget,
            f"{found['p95_ms']:.0f} ms (p50 {found['p50_ms']:.0f}, p99 {found['p99_ms']:.0f})",
            f"up to {budget:.0f} ms",
            "One instance cannot answer so many at once in time: take a larger instance type or more "
            "instances, or allow more (deployment.tests.latency_ms)",
        )
