"""What one run finds, and what a kind of monitor has to offer."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import polars as pl

    from .settings import Settings


@dataclass(frozen=True)
class Measure:
    """One number that was judged, or could not be."""

    subject: str  # a feature, a facet, or the model
    name: str
    value: float | None
    baseline: float | None = None
    threshold: float | None = None
    p_value: float | None = None
    violated: bool = False
    detail: str = ""


@dataclass
class Result:
    """What a run found. Violations are results, not faults of the job."""

    kind: str
    records: int
    statistics: dict[str, Any]
    constraints: dict[str, Any]
    violations: list[dict[str, Any]] = field(default_factory=list)
    measures: list[Measure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    analysis: dict[str, Any] | None = None
    judged: bool = True


class Monitor(Protocol):
    """A scan of one kind. Scans of parts of the traffic merge into the scan of the whole."""

    needs_outputs: bool  # batches have _score and _label
    needs_truth: bool  # batches have _truth, and only the rows that have one

    def __init__(self, baseline: Path, settings: Settings) -> None:
        """Read the kind's baseline folder."""

    def add(self, batch: pl.DataFrame) -> None:
        """Take in a batch of rows.

        Columns: every feature of the baseline as String (null = missing, stripped), `_id` String, `_row`
        UInt32, `_time` Datetime[us, UTC]; `_score` Float64 and `_label` String with needs_outputs; `_truth`
        String with needs_truth.
        """

    def partial(self) -> dict[str, Any]:
        """The state of this part, as JSON."""

    def merge(self, partial: dict[str, Any]) -> None:
        """Take in another part's state."""

    def finish(self) -> Result:
        """Judge what was taken in."""
