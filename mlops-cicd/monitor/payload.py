"""Rows of a request: CSV, JSON and JSON Lines, by position and by name."""

from __future__ import annotations

import polars as pl

# in lower case; "none" is a value ("no guarantor")
MISSING = ("", "na", "n/a", "nan", "null")


def present(text: pl.Expr) -> pl.Expr:
    """Stripped text; null where nothing, or a word for nothing, stands."""
    stripped = text.str.strip_chars()
    return pl.when(~stripped.str.to_lowercase().is_in(MISSING)).then(stripped)
