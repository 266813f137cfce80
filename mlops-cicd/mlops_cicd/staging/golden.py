"""The golden rows: a deployed model gives the scores that training's own code gave (src/evaluate.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from ..console import Fault, quoted
from ..registry import read_json
from .checks import Report
from .client import CSV, JSON, Client, predict

NAME = "golden.json"
# Answers have six digits, and processors differ in the last bits of a double; a model that is not the same,
# or rows that are read otherwise than in training, differ by far more.
TOLERANCE = 1e-5
BATCH = 50
ADVICE = (
    "The endpoint does not compute what training computed: compare the packages of the training and the "
    "inference image, and how src/inference.py reads a row with how src/preprocess.py writes it"
)


@dataclass(frozen=True)
class Golden:
    """Rows with their scores."""

    features: list[dict[str, str]]
    packages: dict[str, str]
    rows: list[dict[str, Any]]

    @property
    def values(self) -> list[list[Any]]:
        """The rows as a request has them."""
        return [row["values"] for row in self.rows]


def beside(evaluation: str) -> str:
    """The address of golden.json: step Evaluate writes it beside evaluation.json."""
    return f"{evaluation.rpartition('/')[0]}/{NAME}"


def load(s3: Any, evaluation: str) -> Golden | None:
    """The golden rows of a model version; None for one that was trained before there were any."""
    uri = beside(evaluation)
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    try:
        s3.head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if error.response["Error"]["Code"] in ("404", "NoSuchKey", "NotFound"):
            return None
        raise
    content = read_json(s3, uri)
    try:
        found = Golden(content["features"], content["packages"], content["rows"])
        width = len(found.features)
        good = found.rows and all(
            len(row["values"]) == width and 0 <= row["score"] <= 1 for row in found.rows
        )
    except (KeyError, TypeError) as error:
        raise Fault(f"{uri} is not what step Evaluate writes: {error!r}") from error
    if not good:
        raise Fault(f"{uri} has no rows, or rows of another shape than {width} values and a score")
    return found


def same_scores(client: Client, golden: Golden, report: Report, kinds: tuple[str, ...] = (CSV, JSON)) -> None:
    """Ask for every golden row, in each content type, and name the worst one."""
    for kind in kinds:
        scores: list[float] = []
        for start in range(0, len(golden.rows), BATCH):
            found, _ = predict(client, golden.values[start : start + BATCH], kind)
            scores += found
        gaps = [abs(score - row["score"]) for score, row in zip(scores, golden.rows, strict=True)]
        place = max(range(len(gaps)), key=gaps.__getitem__)
        worst = golden.rows[place]
        found_text = f"{gaps[place]:.1e} apart at most"
        if gaps[place] > TOLERANCE:
            off = sum(gap > TOLERANCE for gap in gaps)
            found_text += (
                f", in {off} of {len(gaps)} rows; worst is row {place + 1} ({worst['why']}): "
                f"{scores[place]:.6f} instead of {worst['score']:.6f} for {quoted(worst['values'], 300)}"
            )
        name = f"scores as in training, {kind.rpartition('/')[2].upper()}"
        report.check(
            name, gaps[place] <= TOLERANCE, found_text, f"{len(gaps)} rows within {TOLERANCE:.0e}", ADVICE
        )
    report.measured["golden"] = {"rows": len(golden.rows), "packages": golden.packages}
