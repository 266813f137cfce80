"""DynamoDB: a question about items says which they are.

https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/specifying-conditions.html
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from localaws.hooks.tables import partition_key
from localaws.permissions import mapping
from localaws.permissions.access import Access
from localaws.permissions.requests import Request

if TYPE_CHECKING:
    from localaws.cloud import Cloud


def dynamodb(cloud: Cloud, request: Request) -> list[Access] | None:
    """The questions of a call about items, with the values of their partition keys; one a table."""
    params, action = request.params, f"dynamodb:{request.operation}"
    if request.operation in ("BatchGetItem", "BatchWriteItem"):
        return [
            one
            for name, asked in params.get("RequestItems", {}).items()
            for one in mapping.generic(cloud, action, {"TableName": name}, leading(name, items_of(asked)))
        ]
    item = params.get("Key") or params.get("Item")
    if not item:
        return None
    return mapping.generic(cloud, action, params, leading(params.get("TableName", ""), [item]))


def items_of(asked: Any) -> Iterator[Mapping[str, Any]]:
    """Keys or items of one table in a call about many."""
    if isinstance(asked, Mapping):  # to read
        yield from asked.get("Keys", [])
        return
    for change in asked:
        yield from (one.get("Item") or one["Key"] for one in change.values())


def leading(table: str, items: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The condition key of items' partition keys; nothing when none is told."""
    name = partition_key(table)
    values = [str(next(iter(item[name].values()))) for item in items if item.get(name)]
    return {"dynamodb:LeadingKeys": list(dict.fromkeys(values))} if values else {}


ACCESSES = {"dynamodb": dynamodb}
