"""Uploads monitor/monitor.py, which the pipeline's baseline step and the scheduled monitor run.

The key holds the content's hash: a change of the monitor never changes what a deployed schedule or a cached
step refers to.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

MONITOR = Path(__file__).parents[1] / "monitor" / "monitor.py"


def upload_monitor(s3: Any, bucket: str, key_arn: str, path: Path = MONITOR) -> str:
    """The S3 address of the monitor's code, uploaded if it is not there yet."""
    content = path.read_bytes()
    key = f"code/monitor/{hashlib.sha256(content).hexdigest()[:16]}/monitor.py"
    try:
        s3.head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("404", "NoSuchKey", "NotFound"):
            raise
        s3.put_object(
            Bucket=bucket,
            Key=key,
            Body=content,
            ContentType="text/x-python",
            ServerSideEncryption="aws:kms",
            SSEKMSKeyId=key_arn,
        )
    return f"s3://{bucket}/{key}"
