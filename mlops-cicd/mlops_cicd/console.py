"""What every script shares with its caller: exit codes, sentences on stderr, files that a buildspec reads."""

from __future__ import annotations

import functools
import json
import shlex
import sys
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

OK, FAULT, USAGE, NOTHING_TO_DO = 0, 1, 2, 3


class Fault(Exception):
    """The task failed; the message is a sentence for the person who reads the build log."""


def is_hidden(character: str) -> bool:
    """Whether a character is one that nobody sees: control codes, zero width, direction, line separators."""
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def printable(text: str) -> str:
    """A text for the log: hidden characters are spelled out, and only the first line begins at the margin.

    What people, jobs and AWS's answers put into a message can neither colour the log nor forge a line of it.
    """
    shown = "".join(
        repr(one)[1:-1] if is_hidden(one) and one not in "\n\t" else one for one in text.rstrip("\n")
    )
    first, *rest = shown.split("\n")
    return "\n".join([first, *(line if line[:1] in (" ", "") else f"  {line}" for line in rest)])


def quoted(value: Any, limit: int = 60) -> str:
    """What somebody wrote, in quotes, in ASCII and short, so that a look-alike letter shows what it is."""
    text = json.dumps(value, default=str)
    return text if len(text) <= limit else text[: limit - 3] + '…"'


def script(main: Callable[..., int]) -> Callable[..., int]:
    """Turn faults that a person can act on into a sentence and exit code 1; others keep their traceback."""

    @functools.wraps(main)
    def guarded(*args: Any, **kwargs: Any) -> int:
        name = Path(main.__code__.co_filename).stem
        try:
            return main(*args, **kwargs)
        except Fault as fault:
            complain(f"{name}: {fault}")
        except ClientError as error:
            detail = error.response.get("Error", {})
            complain(
                f"{name}: AWS refused {error.operation_name}: {detail.get('Code')}: {detail.get('Message')}"
            )
        except BotoCoreError as error:
            complain(f"{name}: cannot call AWS: {error}")
        return FAULT

    return guarded


def say(text: str = "") -> None:
    """One line of progress, at once: CodeBuild shows a log while the build runs."""
    print(printable(text), flush=True)


def complain(text: str) -> None:
    """Why the script ends, on stderr."""
    print(printable(text), file=sys.stderr, flush=True)


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
