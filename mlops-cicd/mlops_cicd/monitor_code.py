"""Packs monitor/ into one file, monitor.pyz, and uploads it: the pipeline's baseline step and the scheduled
monitors run it.

The key holds the content's hash: a change of the monitor never changes what a deployed schedule or a cached
step refers to. The same sources always give the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

MONITOR = Path(__file__).parents[1] / "monitor"
NAME = "monitor.pyz"
NOT_IN_THE_JOB = ("formats.py",)  # checks files in tests and notebooks; needs what the job's image has not
START = "import sys\n\nfrom monitor.cli import main\n\nsys.exit(main())\n"


def pack(folder: Path = MONITOR) -> bytes:
    """The package as a zip file that Python runs."""
    files = {"__main__.py": START.encode()}
    files |= {
        f"{folder.name}/{path.name}": path.read_bytes()
        for path in sorted(folder.glob("*.py"))
        if path.name not in NOT_IN_THE_JOB
    }
    packed = io.BytesIO()
    # stored: how well zlib packs depends on its version
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name)  # of 1980-01-01, whenever the file was written
            entry.create_system = 3
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)
    return packed.getvalue()


def upload_monitor(s3: Any, bucket: str, key_arn: str, folder: Path = MONITOR) -> str:
    """The S3 address of the monitor's code, uploaded if it is not there yet."""
    content = pack(folder)
    key = f"code/monitor/{hashlib.sha256(content).hexdigest()[:16]}/{NAME}"
    try:
        s3.head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("404", "NoSuchKey", "NotFound"):
            raise
        s3.put_object(
            Bucket=bucket,
            Key=key,
            Body=content,
            ContentType="application/zip",
            ServerSideEncryption="aws:kms",
            SSEKMSKeyId=key_arn,
        )
    return f"s3://{bucket}/{key}"


def main(argv: Sequence[str] | None = None) -> int:
    """Write monitor.pyz, for a laptop."""
    parser = argparse.ArgumentParser(prog="mlops_cicd.monitor_code", description=main.__doc__)
    parser.add_argument("--output", type=Path, default=Path(NAME))
    output = parser.parse_args(argv).output
    output.write_bytes(pack())
    print(output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
