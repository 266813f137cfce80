"""DynamoDB: a stack's table keeps its key, its time to live and its backups."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from localaws.hooks import keys
from localaws.hooks.answers import triple

if TYPE_CHECKING:
    from collections.abc import Callable

#: hook → the emulator's private names it uses ("module:attribute")
HOOKS: dict[str, tuple[str, ...]] = {
    "tables": (
        "ministack.services.cloudformation.provisioners:_RESOURCE_HANDLERS",
        "ministack.services.dynamodb:_tables",
        "ministack.services.dynamodb:_update_ttl",
        "ministack.services.dynamodb:_update_continuous_backups",
    ),
}


def keep_tables() -> None:
    """Give a stack's table what the emulator leaves out: encryption, time to live, point-in-time recovery."""
    from ministack.services.cloudformation import provisioners

    handler = provisioners._RESOURCE_HANDLERS["AWS::DynamoDB::Table"]
    create, update, with_id = handler["create"], handler["update"], handler.get("update_with_logical_id")

    def make(logical_id: str, props: dict, stack_name: str) -> tuple[str, dict]:
        made = create(logical_id, props, stack_name)
        _set(made[0], {}, props)
        return made

    def change(
        physical_id: str, old: dict, new: dict, stack_name: str, logical_id: str = ""
    ) -> tuple[str, dict]:
        changed = update(physical_id, old, new, stack_name, *([logical_id] if with_id else []))
        _set(changed[0], old if changed[0] == physical_id else {}, new)
        return changed

    handler.update(create=make, update=change)


def _set(name: str, old: dict[str, Any], new: dict[str, Any]) -> None:
    from ministack.services import dynamodb

    encryption = new.get("SSESpecification") or {}
    table = dynamodb._tables[name]
    table["SSEDescription"] = None
    if encryption.get("SSEEnabled") in (True, "true"):
        key = keys.key_arn(encryption.get("KMSMasterKeyId") or "") or ""
        table["SSEDescription"] = {"Status": "ENABLED", "SSEType": "KMS", "KMSMasterKeyArn": key}
    lives, lived = new.get("TimeToLiveSpecification") or {}, old.get("TimeToLiveSpecification") or {}
    if lives != lived and lives:
        enabled = lives.get("Enabled") in (True, "true")
        wanted = {"AttributeName": lives.get("AttributeName"), "Enabled": enabled}
        _done(dynamodb._update_ttl, {"TableName": name, "TimeToLiveSpecification": wanted})
    kept = (new.get("PointInTimeRecoverySpecification") or {}).get("PointInTimeRecoveryEnabled") in (
        True,
        "true",
    )
    wanted = {"PointInTimeRecoveryEnabled": kept}
    if kept or old.get("PointInTimeRecoverySpecification"):
        data = {"TableName": name, "PointInTimeRecoverySpecification": wanted}
        _done(dynamodb._update_continuous_backups, data)


def _done(call: Callable[[dict], Any], data: dict[str, Any]) -> None:
    status, _, body = triple(call(data))
    if status != 200:
        raise ValueError(
            f"{json.loads(body).get('message', body)} (Service: DynamoDb, Status Code: {status})"
        )


def partition_key(name: str) -> str:
    """The name of a table's partition key, "" when the table is not there."""
    from ministack.services import dynamodb

    return (dynamodb._tables.get(name.rpartition("/")[2]) or {}).get("pk_name") or ""


def table_key(name: str) -> str:
    """The key of a table by its name or ARN, "" when it has none of the customer's."""
    from ministack.services import dynamodb

    found = dynamodb._tables.get(name.rpartition("/")[2]) or {}
    return (found.get("SSEDescription") or {}).get("KMSMasterKeyArn", "")
