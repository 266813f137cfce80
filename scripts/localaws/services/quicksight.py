"""QuickSight's resource types: what a stack declares is checked and kept; nothing is drawn.

Users and groups are moto's: a principal must be registered, as an account's subscription has it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from localaws.resource import Attributes, Context, ResourceType

Props = dict[str, Any]
_PRINCIPAL = re.compile(r"arn:[\w-]+:quicksight:[\w-]+:(\d{12}):(user|group)/([\w-]+)/(.+)")


class _Kept(ResourceType):
    """A type that is kept as it was declared; ``kind`` is its word in ARNs, ``identity`` its id."""

    kind = identity = ""
    #: ARN → properties, of all types of QuickSight
    everything: dict[str, Props] = {}

    def create(self, context: Context, props: Props) -> tuple[str, Attributes]:
        arn = context.cloud.arn("quicksight", f"{self.kind}/{props[self.identity]}")
        if arn in self.everything:
            raise ValueError(f"{props[self.identity]} already exists")
        return f"{props['AwsAccountId']}|{props[self.identity]}", self._keep(context, arn, props)

    def update(self, context: Context, physical_id: str, old: Props, new: Props) -> Attributes:
        arn = context.cloud.arn("quicksight", f"{self.kind}/{new[self.identity]}")
        return self._keep(context, arn, new)

    def delete(self, context: Context, physical_id: str, props: Props) -> None:
        self.everything.pop(context.cloud.arn("quicksight", f"{self.kind}/{props[self.identity]}"), None)

    def _keep(self, context: Context, arn: str, props: Props) -> Attributes:
        for permission in props.get("Permissions") or []:
            _check_principal(context, permission["Principal"])
        self.check(context, props)
        self.everything[arn] = props
        return {"Arn": arn}

    def check(self, context: Context, props: Props) -> None:
        """Raise ValueError for what QuickSight refuses beyond the schema."""

    def there(self, arn: str) -> Props:
        """What another declaration names. Raises ValueError when it is not there."""
        found = self.everything.get(arn)
        if found is None:
            raise ValueError(f"{arn} does not exist")
        return found


def _check_principal(context: Context, arn: str) -> None:
    match = _PRINCIPAL.fullmatch(arn)
    quicksight = context.client("quicksight")
    try:
        if match is None:
            raise LookupError
        call = quicksight.describe_user if match[2] == "user" else quicksight.describe_group
        name = "UserName" if match[2] == "user" else "GroupName"
        call(AwsAccountId=match[1], Namespace=match[3], **{name: match[4]})
    except (LookupError, quicksight.exceptions.ResourceNotFoundException):
        raise ValueError(f"Following principals are not valid or not found: [{arn}]") from None


class DataSource(_Kept):
    """AWS::QuickSight::DataSource."""

    type_name = "AWS::QuickSight::DataSource"
    kind, identity = "datasource", "DataSourceId"

    def check(self, context: Context, props: Props) -> None:
        athena = (props.get("DataSourceParameters") or {}).get("AthenaParameters") or {}
        if athena.get("WorkGroup"):
            context.client("athena").get_work_group(WorkGroup=athena["WorkGroup"])
        if athena.get("RoleArn"):
            context.cloud.check_trust(athena["RoleArn"], "quicksight.amazonaws.com")


class DataSet(_Kept):
    """AWS::QuickSight::DataSet."""

    type_name = "AWS::QuickSight::DataSet"
    kind, identity = "dataset", "DataSetId"

    def check(self, context: Context, props: Props) -> None:
        for table in _tables(props):
            self.there(table["DataSourceArn"])


def _tables(props: Props) -> Iterator[Props]:
    for table in (props.get("PhysicalTableMap") or {}).values():
        yield from table.values()


class Dashboard(_Kept):
    """AWS::QuickSight::Dashboard."""

    type_name = "AWS::QuickSight::Dashboard"
    kind, identity = "dashboard", "DashboardId"

    def check(self, context: Context, props: Props) -> None:
        """Each column that a visual shows must be one of its data set."""
        definition = props.get("Definition") or {}
        columns = {
            one["Identifier"]: {
                column["Name"]
                for table in _tables(self.there(one["DataSetArn"]))
                for column in table.get("Columns") or table.get("InputColumns") or []
            }
            for one in definition.get("DataSetIdentifierDeclarations") or []
        }
        for one in _columns(definition.get("Sheets")):
            if one["ColumnName"] not in columns.get(one["DataSetIdentifier"], ()):
                raise ValueError(f"column {one['ColumnName']} is not in data set {one['DataSetIdentifier']}")


def _columns(node: Any) -> Iterator[Props]:
    if isinstance(node, Mapping):
        if {"DataSetIdentifier", "ColumnName"} <= node.keys():
            yield dict(node)
        for value in node.values():
            yield from _columns(value)
    elif isinstance(node, list):
        for value in node:
            yield from _columns(value)


TYPES = [DataSource, DataSet, Dashboard]
