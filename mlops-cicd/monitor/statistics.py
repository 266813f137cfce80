"""Statistics of a feature in the documented form, from states that merge: parts give the same as the whole.

Counts are whole numbers and add up exactly in any order. Moments are merged by the formula of Chan, Golub and
LeVeque (1979). Numbers are counted one by one while few are different, and beyond that in cells of equal
relative width (DDSketch: Masson, Rim and Lee, VLDB 2019), strings one by one while few are different, and
beyond that those with the smallest hashes (k minimum values: Bar-Yossef et al., RANDOM 2002). Which of them
it is depends on the set of values alone, never on their order.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from .payload import LARGEST_NUMBER, present

SKETCH_SIZE = 2048
BUCKETS = 10
MAX_DOMAIN = 100  # more distinct strings than this are identifiers or free text, not categories
MOST_STRINGS = 2048  # distinct strings of which the numbers are kept
LONGEST_STRING = 256  # characters by which a category is told
ACCURACY = 0.001  # relative, of a cell's middle
GAMMA = (1 + ACCURACY) / (1 - ACCURACY)
HASH_SPACE = 2.0**64
SKETCH_PARAMETERS = {"c": 0.64, "k": float(SKETCH_SIZE)}
NUMERIC = ("Integral", "Fractional")


# ------------------------------------------------------------ values with counts


def sum_counts(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Counts of several parts together, without what stands around the values."""
    return (
        pl.concat(frames)
        .select(present(pl.col("text").str.slice(0, LONGEST_STRING)), pl.col("count").cast(pl.Int64))
        .group_by("text", maintain_order=True)
        .agg(pl.col("count").sum())
    )


def numbers_of(text: pl.Expr) -> pl.Expr:
    """The finite numbers that texts stand for; null where a text is none."""
    number = text.cast(pl.Float64, strict=False)
    return pl.when(number.abs() <= LARGEST_NUMBER).then(number)


# ------------------------------------------------------------ numbers


@dataclass
class Moments:
    """Number, mean and sum of squared differences from it."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def merge(self, count: int, mean: float, squares: float) -> None:
        """Chan, Golub and LeVeque (1979), formula 2.1."""
        if not count:
            return
        total = self.count + count
        delta = mean - self.mean
        self.squares += squares + delta * delta * self.count * count / total
        self.mean += delta * count / total
        self.count = total

    def add(self, values: np.ndarray, counts: np.ndarray) -> None:
        """Take in values that are there so many times."""
        count = int(counts.sum())
        if count:
            mean = math.fsum(values * counts) / count
            self.merge(count, mean, math.fsum(counts * (values - mean) ** 2))


@dataclass
class Distribution:
    """Numbers and how often each is there; in cells once too many are different."""

    counts: Counter[float] = field(default_factory=Counter)
    cells: Counter[int] | None = None
    low: float = math.inf
    high: float = -math.inf

    def add(self, values: np.ndarray, counts: np.ndarray) -> None:
        """Take in values that are there so many times."""
        if not len(values):
            return
        self.low = min(self.low, float(values.min()))
        self.high = max(self.high, float(values.max()))
        if self.cells is None and len(values) <= 2 * SKETCH_SIZE:
            for value, count in zip((values + 0.0).tolist(), counts.tolist(), strict=True):
                self.counts[value] += count
            if len(self.counts) > SKETCH_SIZE:
                self._collapse()
        else:
            self._collapse()
            self._add_cells(values, counts)

    def merge(self, partial: Mapping[str, Any]) -> None:
        """Take in another part."""
        values = np.array([value for value, _ in partial["counts"]], dtype=float)
        counts = np.array([count for _, count in partial["counts"]], dtype=np.int64)
        self.add(values, counts)
        if partial["cells"] is not None:
            self._collapse()
            self.low, self.high = min(self.low, partial["low"]), max(self.high, partial["high"])
            for cell, count in partial["cells"]:
                self.cells[cell] += count  # type: ignore[index]

    def partial(self) -> dict[str, Any]:
        """This state as JSON."""
        empty = self.low > self.high
        return {
            "counts": sorted(self.counts.items()),
            "cells": None if self.cells is None else sorted(self.cells.items()),
            "low": None if empty else self.low,
            "high": None if empty else self.high,
        }

    def values(self) -> tuple[np.ndarray, np.ndarray]:
        """Sorted values and their counts; the middles of cells."""
        if self.cells is None:
            pairs = sorted(self.counts.items())
        else:
            pairs = [
                (min(max(middle(cell), self.low), self.high), count)
                for cell, count in sorted(self.cells.items())
            ]
        return np.array([v for v, _ in pairs], dtype=float), np.array([n for _, n in pairs], dtype=np.int64)

    def _collapse(self) -> None:
        if self.cells is None:
            self.cells = Counter()
            kept, self.counts = self.counts, Counter()
            self._add_cells(
                np.fromiter(kept.keys(), dtype=float, count=len(kept)),
                np.fromiter(kept.values(), dtype=np.int64, count=len(kept)),
            )

    def _add_cells(self, values: np.ndarray, counts: np.ndarray) -> None:
        cells, inverse = np.unique(cell_of(values), return_inverse=True)
        sums = np.zeros(len(cells), dtype=np.int64)
        np.add.at(sums, inverse, counts)
        for cell, count in zip(cells.tolist(), sums.tolist(), strict=True):
            self.cells[cell] += count  # type: ignore[index]


SMALLEST = 1e-140  # nearer to zero is zero
OFFSET = math.ceil(math.log(LARGEST_NUMBER / SMALLEST) / math.log(GAMMA)) + 2


def cell_of(values: np.ndarray) -> np.ndarray:
    """The cell of each number: 0 is zero, the sign is the number's, a higher cell is farther from zero."""
    size = np.abs(values)
    with np.errstate(divide="ignore"):
        level = np.ceil(np.log(np.maximum(size, SMALLEST) / SMALLEST) / math.log(GAMMA)).astype(np.int64) + 1
    return np.where(size < SMALLEST, 0, np.sign(values).astype(np.int64) * level)


def middle(cell: int) -> float:
    """The value that stands for a cell, at most ACCURACY away from any in it."""
    if not cell:
        return 0.0
    upper = SMALLEST * math.exp((abs(cell) - 1) * math.log(GAMMA))
    return math.copysign(2 * upper / (1 + GAMMA), cell)


# ------------------------------------------------------------ strings


@dataclass
class Strings:
    """Distinct strings and how often each is there; of too many, those with the smallest hashes."""

    counts: Counter[str] = field(default_factory=Counter)
    hashes: dict[str, int] = field(default_factory=dict)
    limit: int | None = None  # hashes from here on are dropped; None while every string is kept

    def add(self, texts: pl.Series, counts: pl.Series) -> None:
        """Take in strings that are there so many times."""
        # the same for all hosts of a run, which have one image
        self._take(zip(texts.to_list(), texts.hash(seed=0).to_list(), counts.to_list(), strict=True))

    def merge(self, partial: Mapping[str, Any]) -> None:
        """Take in another part."""
        if partial["limit"] is not None:
            self.limit = partial["limit"] if self.limit is None else min(self.limit, partial["limit"])
        self._take((text, hashed, count) for text, hashed, count in partial["strings"])

    def partial(self) -> dict[str, Any]:
        """This state as JSON."""
        return {
            "strings": sorted((text, self.hashes[text], count) for text, count in self.counts.items()),
            "limit": self.limit,
        }

    @property
    def distinct(self) -> float:
        """How many different strings there were; an estimate when not all were kept."""
        if self.limit is None:
            return float(len(self.counts))
        return float(round((len(self.counts)) * HASH_SPACE / self.limit))

    def _take(self, items: Any) -> None:
        for text, hashed, count in items:
            if self.limit is None or hashed < self.limit:
                self.counts[text] += count
                self.hashes[text] = hashed
                if len(self.counts) > 2 * MOST_STRINGS:
                    self._trim()
        self._trim()

    def _trim(self) -> None:
        if self.limit is None and len(self.counts) <= MOST_STRINGS:
            return
        ordered = sorted(self.hashes.values())
        if len(ordered) > MOST_STRINGS:
            self.limit = ordered[MOST_STRINGS]
        for text in [text for text, hashed in self.hashes.items() if hashed >= self.limit]:  # type: ignore[operator]
            del self.counts[text], self.hashes[text]


# ------------------------------------------------------------ the documented form


def sketch(values: np.ndarray, counts: np.ndarray) -> list[list[float]]:
    """Order statistics in KLL's layout: an item of level i is 2**i values; exact up to SKETCH_SIZE."""
    total = int(counts.sum())
    if not total:
        return [[]]
    ends = np.cumsum(counts)

    def at(position: np.ndarray | int) -> Any:
        """Values at positions of the sorted data."""
        return values[np.searchsorted(ends, position, side="right")]

    level = max(0, math.ceil(math.log2(total / SKETCH_SIZE)))
    step = 2**level
    whole = total // step
    levels: list[list[float]] = [[] for _ in range(level + 1)]
    levels[level] = at(np.arange(whole) * step + step // 2).tolist()
    begin = whole * step
    for lower in range(level - 1, -1, -1):  # the rest is shorter than one step: write its length in binary
        if total - begin >= 2**lower:
            levels[lower].append(float(at(begin + 2**lower // 2)))
            begin += 2**lower
    return levels


def unsketch(levels: Sequence[Sequence[float]]) -> tuple[np.ndarray, np.ndarray]:
    """Distinct values of a sketch, sorted, and their weights."""
    values = np.array([value for level in levels for value in level], dtype=float)
    weights = np.array([2**i for i, level in enumerate(levels) for _ in level], dtype=np.int64)
    distinct, inverse = np.unique(values, return_inverse=True)
    sums = np.zeros(len(distinct), dtype=np.int64)
    np.add.at(sums, inverse, weights)
    return distinct, sums


def numerical_block(
    moments: Moments, distribution: Distribution, present: int, missing: int
) -> dict[str, Any]:
    """numerical_statistics of one feature."""
    block: dict[str, Any] = {"common": {"num_present": present, "num_missing": missing}}
    if not moments.count:
        return block
    values, counts = distribution.values()
    low, high = distribution.low, distribution.high
    filled, edges = np.histogram(
        values,
        bins=BUCKETS,
        range=(low, high if high > low else low + max(1.0, abs(low) / 1e6)),
        weights=counts,
    )
    return block | {
        "mean": moments.mean,
        "sum": moments.mean * moments.count,
        "std_dev": math.sqrt(moments.squares / moments.count),
        "min": low,
        "max": high,
        "distribution": {
            "kll": {
                "buckets": [
                    {"lower_bound": float(a), "upper_bound": float(b), "count": float(n)}
                    for a, b, n in zip(edges[:-1], edges[1:], filled, strict=True)
                ],
                "sketch": {"parameters": SKETCH_PARAMETERS, "data": sketch(values, counts)},
            }
        },
    }


def string_block(strings: Strings, present: int, missing: int) -> dict[str, Any]:
    """string_statistics of one feature."""
    common = sorted(strings.counts.items(), key=lambda item: (-item[1], item[0]))[:MAX_DOMAIN]
    return {
        "common": {"num_present": present, "num_missing": missing},
        "distinct_count": strings.distinct,
        "distribution": {
            "categorical": {"buckets": [{"value": value, "count": count} for value, count in common]}
        },
    }


def common_of(feature: Mapping[str, Any]) -> tuple[int, int]:
    """How many values of a feature are present and missing."""
    common = (feature.get("numerical_statistics") or feature["string_statistics"])["common"]
    return int(common["num_present"]), int(common["num_missing"])


def is_categorical(feature: Mapping[str, Any]) -> bool:
    """Whether a string feature has few values that repeat; identifiers have no distribution to keep."""
    block = feature.get("string_statistics")
    if not block or feature["inferred_type"] != "String":
        return False
    return 0 < block["distinct_count"] <= min(MAX_DOMAIN, max(2, block["common"]["num_present"] / 2))
