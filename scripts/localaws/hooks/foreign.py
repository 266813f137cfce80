"""Which account owns what the emulator keeps, where no ARN tells it: buckets, and keys of ciphertexts."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from localaws.hooks import policies

#: hook → the emulator's private names it uses ("module:attribute")
HOOKS: dict[str, tuple[str, ...]] = {
    "bucket_owner": ("ministack.services.s3:_bucket_owner_account",),
    "ciphertext_owner": ("ministack.services.kms:_keys",),
    "copies": ("ministack.services.s3:_copy_source_denied", "ministack.services.s3:_error"),
}


def bucket_owner(bucket: str) -> str | None:
    """The account that has a bucket of this name, None when nobody has."""
    from ministack.services import s3

    return s3._bucket_owner_account(bucket)


def ciphertext_owner(blob: bytes | str) -> str | None:
    """The account of the key that a ciphertext was made with, None when it does not tell."""
    return key_owner(policies.key_of_ciphertext(blob))


def key_owner(key: str) -> str | None:
    """The account of a key by its id, None for an unknown one."""
    from ministack.services import kms

    return next((scope[0] for scope in kms._keys.to_dict() if scope[-1] == key), None)


def refuse_copies() -> None:
    """Refuse to copy an object of another account's bucket: the emulator looks in one account."""
    from ministack.core.responses import get_account_id
    from ministack.services import s3

    def refused(headers: dict[str, str], *_: Any) -> Any:
        source = unquote(headers.get("x-amz-copy-source", "")).lstrip("/").partition("/")[0]
        if not source or bucket_owner(source) in (None, get_account_id()):
            return None
        reason = "the local cloud copies no objects from one account's bucket to another's"
        return s3._error("NotImplemented", reason, 501, f"/{source}")

    s3._copy_source_denied = refused
