"""Athena and Glue: queries by id belong to a workgroup, a table to its database and the account's catalog."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from localaws.hooks import athena as hook
from localaws.permissions.access import Access
from localaws.permissions.requests import Request

if TYPE_CHECKING:
    from localaws.cloud import Cloud

#: parameters that name a query, running or saved
_QUERIES = ("NamedQueryId", "NamedQueryIds", "QueryExecutionId", "QueryExecutionIds")
_IN_A_WORKGROUP = ("CreateNamedQuery", "ListNamedQueries", "ListQueryExecutions", "StartQueryExecution")


def athena(cloud: Cloud, request: Request) -> list[Access] | None:
    """The workgroup of a call: what it names, what its query is in, else the primary one."""
    from localaws.permissions import mapping

    params, action = request.params, f"athena:{request.operation}"
    groups = [params["WorkGroup"]] if params.get("WorkGroup") else []
    for name in _QUERIES:
        ids = params.get(name) or []
        # a query that is not there is in no workgroup that anybody may use
        groups += [hook.workgroup_of(name, one) or "*" for one in ([ids] if isinstance(ids, str) else ids)]
    if request.operation == "CreateWorkGroup":
        groups = [params["Name"]]
    if not groups and request.operation in _IN_A_WORKGROUP:
        groups = ["primary"]
    if not groups:
        return None
    details = mapping.action_details(action) or {"conditionKeys": [], "resourceTypes": []}
    tags = mapping.request_tags(details, params)
    return [
        Access(action, cloud.arn("athena", f"workgroup/{group}"), tags) for group in dict.fromkeys(groups)
    ]


def glue(cloud: Cloud, request: Request) -> list[Access] | None:
    """A call needs the right on its table, the database above it, and the catalog above that."""
    from localaws.permissions import mapping

    action = f"glue:{request.operation}"
    details = mapping.action_details(action)
    kinds = {kind["name"] for kind in (details or {}).get("resourceTypes", []) if kind["required"]}
    if not details or not kinds & {"database", "table", "rootcatalog"}:
        return None
    return [Access(action, arn) for arn in catalog_arns(cloud, request.params, kinds)]


def catalog_arns(cloud: Cloud, params: dict[str, Any], kinds: set[str]) -> list[str]:
    """The catalog, the database and the table that a call's parameters name; * for what they do not name."""
    inner = params.get("DatabaseInput") or params.get("TableInput") or {}
    name = params.get("TableName") or params.get("Name") or inner.get("Name")
    database = (
        params.get("DatabaseName") or name or "*"
    )  # DeleteDatabase names a database, and is about its tables
    table = name if params.get("DatabaseName") else None
    found = [cloud.arn("glue", "catalog"), cloud.arn("glue", f"database/{database}")]
    if "table" in kinds:
        found.append(cloud.arn("glue", f"table/{database}/{table or '*'}"))
    if "userdefinedfunction" in kinds:
        found.append(cloud.arn("glue", f"userDefinedFunction/{database}/*"))
    return found


ACCESSES = {"athena": athena, "glue": glue}
