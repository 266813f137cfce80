"""What every script shares with its caller: exit codes, sentences on stderr, files that a buildspec reads."""

from __future__ import annotations

import functools
import json
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

OK, FAULT, USAGE, NOTHING_TO_DO = 0, 1, 2, 3


class Fault(Exception):
    """The task failed; the message is a sentence for the person who reads the build log."""


def script(main: Callable[..., int]) -> Callable[..., int]:
    """Turn faults that a person can act on into a sentence and exit code 1; others keep their traceback."""

    @functools.wraps(main)
    def guarded(*args: Any, **kwargs: Any) -> int:
        name = Path(main.__code__.co_filename).stem
        try:
            return main(*args, **kwargs)
        except Fault as fault:
            print(f"{name}: {fault}", file=sys.stderr, flush=True)
        except ClientError as error:
            detail = error.response.get("Error", {})
            print(
                f"{name}: AWS refused {error.operation_name}: {detail.get('Code')}: {detail.get('Message')}",
                file=sys.stderr,
                flush=True,
            )
        except BotoCoreError as error:
            print(f"{name}: cannot call AWS: {error}", file=sys.stderr, flush=True)
        return FAULT

    return guarded


def say(text: str = "") -> None:
    """One line of progress, at once: CodeBuild shows a log while the build runs."""
    print(text, flush=True)


def write_json(path: Path, content: Any) -> None:
    """Write a file that another step or service reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_env(path: Path, variables: Mapping[str, str]) -> None:
    """Write `export NAME='value'` lines for the buildspec to source.

    CodeBuild exports only variables of the build's own shell, never those of a child process.
    """
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines), encoding="utf-8")


def table(rows: list[tuple[str, ...]], header: tuple[str, ...]) -> str:
    """A text table."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in [header, *rows]
    ]
    return "\n".join(
        line.rstrip() for line in [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]
    )
