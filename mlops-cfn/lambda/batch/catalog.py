"""The table of a stage's results in Glue: its columns are those of the model, which no template can know."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any

from botocore.exceptions import ClientError

PREDICTION = "prediction"


def fingerprint(columns: Sequence[str]) -> str:
    """A short name of a set of columns: results of other columns are other rows, and lie elsewhere."""
    return hashlib.sha256("\n".join(columns).encode()).hexdigest()[:8]


def column_names(columns: Sequence[str]) -> list[str]:
    """Names as Athena takes them: small letters, digits and underscores, each once."""
    found: list[str] = []
    for name in columns:
        plain = re.sub(r"[^a-z0-9_]", "_", name.lower())[:250] or "_"
        number, given = 1, plain
        while plain in found or plain in (PREDICTION, "day"):
            number += 1
            plain = f"{given}_{number}"
        found.append(plain)
    return found


def table_of(bucket: str, project_name: str, stage: str, columns: Sequence[str]) -> dict[str, Any]:
    """The table's definition. Values stay text: OpenCSVSerDe reads no empty number."""
    place = f"s3://{bucket}/batch/output/{stage}/{fingerprint(columns)}"
    return {
        "Name": f"batch_{stage}",
        "Description": f"Batch predictions of {project_name}, by the UTC day of an input's first upload",
        "TableType": "EXTERNAL_TABLE",
        "Parameters": {
            "EXTERNAL": "TRUE",
            "classification": "csv",
            "projection.enabled": "true",
            "projection.day.type": "date",
            "projection.day.format": "yyyy-MM-dd",
            "projection.day.interval": "1",
            "projection.day.interval.unit": "DAYS",
            "projection.day.range": "NOW-10YEARS,NOW+1DAYS",
            "storage.location.template": f"{place}/day=${{day}}/",
        },
        "PartitionKeys": [{"Name": "day", "Type": "string"}],
        "StorageDescriptor": {
            "Location": f"{place}/",
            "InputFormat": "org.apache.hadoop.mapred.TextInputFormat",
            "OutputFormat": "org.apache.hadoop.hive.ql.io.HiveIgnoreKeyTextOutputFormat",
            "SerdeInfo": {
                "SerializationLibrary": "org.apache.hadoop.hive.serde2.OpenCSVSerde",
                "Parameters": {"separatorChar": ",", "quoteChar": '"'},
            },
            "Columns": [
                *({"Name": name, "Type": "string"} for name in column_names(columns)),
                {"Name": PREDICTION, "Type": "double"},
            ],
        },
    }


def keep(glue: Any, database: str, wanted: dict[str, Any]) -> str:
    """Make or change the table; what was done. Its database comes with the project's key figures."""
    try:
        found = glue.get_table(DatabaseName=database, Name=wanted["Name"])["Table"]
    except ClientError as error:
        if error.response["Error"]["Code"] != "EntityNotFoundException":
            raise
        try:
            glue.create_table(DatabaseName=database, TableInput=wanted)
        except ClientError as missing:
            if missing.response["Error"]["Code"] == "AlreadyExistsException":
                return "made by another call"
            if missing.response["Error"]["Code"] != "EntityNotFoundException":
                raise
            return f"no database {database} yet"
        return "made"
    same = ("StorageDescriptor", "Parameters", "PartitionKeys")
    if all(is_part(wanted[name], found.get(name)) for name in same):
        return "kept"
    glue.update_table(DatabaseName=database, TableInput=wanted)
    return "changed"


def is_part(wanted: Any, found: Any) -> bool:
    """Whether Glue has what is wanted; it may have more, such as times and defaults."""
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(is_part(v, found.get(k)) for k, v in wanted.items())
    if isinstance(wanted, list):
        return isinstance(found, list) and len(found) == len(wanted) and all(map(is_part, wanted, found))
    return wanted == found
