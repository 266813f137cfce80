"""What a mail may consist of: a subject that SNS takes, text in which what others wrote stays a quotation.

https://docs.aws.amazon.com/sns/latest/api/API_Publish.html: a subject is ASCII, begins with a letter, a
number or a punctuation mark, has no line breaks or control characters, and is at most 100 characters long.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

LONGEST_SUBJECT = 100
LONGEST_BODY = 60_000  # of the 262,144 bytes that SNS takes
CONSOLES = {
    "aws": "console.aws.amazon.com",
    "aws-cn": "console.amazonaws.cn",
    "aws-us-gov": "console.amazonaws-us-gov.com",
}


@dataclass(frozen=True)
class Notice:
    """One mail. `what` and `when` make it that notice and no other: it is told once."""

    what: str
    when: str
    subject: str
    body: str


def subject(project: str, text: str) -> str:
    """A subject line; what does not fit is cut."""
    line = re.sub(r"\s+", " ", f"[{project}] {text}").encode("ascii", "replace").decode()
    line = re.sub(r"[^ -~]", "?", line).strip()
    return line if len(line) <= LONGEST_SUBJECT else line[: LONGEST_SUBJECT - 3] + "..."


def body(*lines: str | None) -> str:
    """Lines of a mail; None leaves one out."""
    return "\n".join(line for line in lines if line is not None)[:LONGEST_BODY] + "\n"


def quoted(value: Any, limit: int = 60) -> str:
    """What somebody else wrote: in quotes, in ASCII, short, on one line, and no address that a mail reader
    turns into a link."""
    text = json.dumps(str(value)).replace("\x7f", "\\u007f").replace("://", ":_//")
    return text if len(text) <= limit else text[: limit - 4] + '..."'


def number(value: float | None) -> str:
    """A measured value, four digits long."""
    return "-" if value is None else f"{value:.4g}"


def moment(value: Any) -> str:
    """A time as people read it; what is no time is shown as it came."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return quoted(value)
    return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def console(partition: str, region: str, path: str) -> str:
    """The address of a page of the console."""
    return f"https://{region}.{CONSOLES.get(partition, CONSOLES['aws'])}/{path}"


def s3_page(partition: str, region: str, bucket: str, key: str) -> str:
    """The page of an object, from which it is opened or downloaded."""
    return console(partition, region, f"s3/object/{bucket}?region={region}&prefix={quote(key)}")
