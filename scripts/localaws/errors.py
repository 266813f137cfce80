"""The one exception that services raise to answer a request with an error of AWS's form."""

from __future__ import annotations


class AwsError(Exception):
    """An error answer: AWS's error code, its message, and the HTTP status."""

    def __init__(self, code: str, message: str, status: int = 400, **fields: object) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status
        self.fields = fields
