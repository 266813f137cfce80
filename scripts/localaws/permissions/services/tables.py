"""DynamoDB: a question about items says which they are.

https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/specifying-conditions.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from localaws.hooks.tables import partition_key
from localaws.permissions import mapping
from localaws.permissions.access import Access
from localaws.permissions.requests import Request

if TYPE_CHECKING:
    from localaws.cloud import Cloud


def dynamodb(cloud: Cloud, request: Request) -> list[Access] | None:
    """The questions of a call about one item, with the value of its partition key."""
    item = request.params.get("Key") or request.params.get("Item")
    if not item:
        return None
    value = item.get(partition_key(request.params.get("TableName", "")), {})
    context = {"dynamodb:LeadingKeys": [str(next(iter(value.values())))]} if value else {}
    return mapping.generic(cloud, f"dynamodb:{request.operation}", request.params, context)


ACCESSES = {"dynamodb": dynamodb}
