"""Athena: queries run as their workgroup says and read what their caller may read."""

from __future__ import annotations

import asyncio
import csv
import dataclasses
import io
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from localaws import clock
from localaws.cloud import caller_key
from localaws.errors import AwsError
from localaws.permissions.requests import Request

if TYPE_CHECKING:
    from localaws.cloud import Cloud
    from localaws.permissions.callers import Caller
    from localaws.queries import Answer, Store

#: hook → the emulator's private names it uses ("module:attribute")
HOOKS: dict[str, tuple[str, ...]] = {
    "queries": (
        "ministack.services.athena:_start_query_execution",
        "ministack.services.athena:_execute_query",
        "ministack.services.athena:_executions",
        "ministack.services.athena:_workgroups",
        "ministack.services.athena:_named_queries",
    ),
}
#: how a service of AWS signs for whoever called it
_FORWARDED = {
    "aws:ViaAWSService": "true",
    "aws:CalledVia": ["athena.amazonaws.com"],
    "aws:CalledViaFirst": "athena.amazonaws.com",
    "aws:CalledViaLast": "athena.amazonaws.com",
}
_SSE = "x-amz-server-side-encryption"


def workgroup_of(parameter: str, identity: str) -> str:
    """The workgroup of a query that is running or saved, "" when there is none."""
    from ministack.services import athena

    kept = athena._named_queries if parameter.startswith("Named") else athena._executions
    return (kept.get(identity) or {}).get("WorkGroup", "")


def run_queries(cloud: Cloud) -> None:
    """Run SELECTs as Athena does (ministack forgets partitions, workgroups and who asks)."""
    from ministack.services import athena

    start = athena._start_query_execution

    def start_as_the_workgroup_says(data: dict[str, Any]) -> Any:
        group = athena._workgroups.get(data.get("WorkGroup", "primary"))
        if group is None:
            return athena.error_response_json("InvalidRequestException", "WorkGroup is not found.", 400)
        if group.get("State") == "DISABLED":
            return athena.error_response_json("InvalidRequestException", "WorkGroup is disabled.", 400)
        if _true(group["Configuration"].get("EnforceWorkGroupConfiguration")):
            data = {k: v for k, v in data.items() if k != "ResultConfiguration"}
        return start(data)

    async def execute(query_id: str, query: str, database: str, ddl: Any, catalog: Any = None) -> None:
        execution = athena._executions[query_id]
        status, began = execution["Status"], clock.time()
        status["State"] = "RUNNING"
        from localaws import queries

        try:
            answer = await asyncio.to_thread(_answer, cloud, execution, query, database)
        except queries.ScanLimit as error:
            status |= {"State": "CANCELLED", "StateChangeReason": str(error)}
        except (queries.QueryError, AwsError) as error:
            status |= {"State": "FAILED", "StateChangeReason": str(error)}
        except Exception as error:  # whatever the engine did: the query must end, and the fault be told
            cloud.log.exception("query %s failed", query_id)
            cloud.faults.append(f"athena: {type(error).__name__}: {error}")
            status |= {"State": "FAILED", "StateChangeReason": f"the local cloud: {error}"}
        else:
            execution["_results"] = {"columns": answer.columns, "rows": answer.rows}
            execution["_column_types"] = answer.types
            execution["Statistics"]["DataScannedInBytes"] = answer.scanned
            status["State"] = "SUCCEEDED"
        milliseconds = int((clock.time() - began) * 1000)
        execution["Statistics"] |= {
            "EngineExecutionTimeInMillis": milliseconds,
            "TotalExecutionTimeInMillis": milliseconds,
        }
        status["CompletionDateTime"] = int(clock.time())

    athena._start_query_execution = start_as_the_workgroup_says
    athena._execute_query = execute


def _true(value: Any) -> bool:
    return str(value).lower() == "true"


def _answer(cloud: Cloud, execution: dict[str, Any], query: str, database: str) -> Answer:
    """Run a query and keep its rows where the workgroup wants them."""
    from ministack.services import athena

    from localaws import queries
    from localaws.permissions.callers import caller_of

    caller = caller_of(cloud, caller_key.get())
    # Athena calls in the caller's name, from outside the caller's network
    caller = dataclasses.replace(caller, keys={**caller.keys, **_FORWARDED}, network=None)
    settings = athena._workgroups[execution["WorkGroup"]]["Configuration"]
    limit = settings.get("BytesScannedCutoffPerQuery")
    answer = queries.run(
        query, database, _store(cloud, caller), clock.now(), None if limit is None else int(limit)
    )
    out = io.StringIO()
    writer = csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerows([answer.columns, *answer.rows])
    place = execution["ResultConfiguration"]["OutputLocation"]
    encryption = (settings.get("ResultConfiguration") or {}).get("EncryptionConfiguration") or {}
    _put(cloud, caller, place, out.getvalue().encode(), encryption)
    return answer


def _ask(cloud: Cloud, caller: Caller, request: Request) -> None:
    """Ask everything that a call asks. Raises QueryError with Athena's words for a denial."""
    from localaws.permissions import gate
    from localaws.permissions.engine import AccessDenied
    from localaws.queries import QueryError

    try:
        for access in gate.questions(cloud, request):
            gate.authorize(cloud, caller, access)
    except AccessDenied as denial:
        raise QueryError(f"Insufficient permissions to execute the query. {denial.message}") from denial


def _store(cloud: Cloud, caller: Caller) -> Store:
    """Glue and S3 as the caller sees them."""
    from localaws.queries import QueryError, Store, Stored

    glue, s3 = cloud.client("glue"), cloud.client("s3")

    def table(database: str, name: str) -> dict[str, Any]:
        _ask(cloud, caller, Request("glue", "GetDatabase", {"Name": database}))
        named = {"DatabaseName": database, "Name": name}
        _ask(cloud, caller, Request("glue", "GetTable", named))
        try:
            return glue.get_table(**named)["Table"]
        except glue.exceptions.EntityNotFoundException as error:
            what = f"Table 'awsdatacatalog.{database}.{name}' does not exist"
            raise QueryError(f"TABLE_NOT_FOUND: {what}") from error

    def objects(bucket: str, prefix: str) -> list[Stored]:
        path, params = f"/{bucket}", {"Bucket": bucket}
        _ask(cloud, caller, Request("s3", "GetBucketLocation", params, "GET", path, query="location"))
        query = f"list-type=2&prefix={quote(prefix)}"
        _ask(cloud, caller, Request("s3", "ListObjectsV2", params, "GET", path, query=query))
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return [Stored(one["Key"], one["Size"]) for page in pages for one in page.get("Contents", [])]

    def read(bucket: str, key: str) -> bytes:
        params = {"Bucket": bucket, "Key": key}
        _ask(cloud, caller, Request("s3", "GetObject", params, "GET", f"/{bucket}/{quote(key)}"))
        return s3.get_object(**params)["Body"].read()

    return Store(table, objects, read)


def _put(cloud: Cloud, caller: Caller, place: str, body: bytes, encryption: dict[str, str]) -> None:
    """Write the rows of an answer, encrypted as the workgroup says."""
    bucket, _, key = place.removeprefix("s3://").partition("/")
    params: dict[str, Any] = {"Bucket": bucket, "Key": key}
    if encryption.get("EncryptionOption") == "SSE_KMS":
        params |= {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": encryption["KmsKey"]}
    elif encryption.get("EncryptionOption") == "SSE_S3":
        params["ServerSideEncryption"] = "AES256"
    headers = {}
    if "ServerSideEncryption" in params:
        headers = {_SSE: params["ServerSideEncryption"]}
    if "SSEKMSKeyId" in params:
        headers[f"{_SSE}-aws-kms-key-id"] = params["SSEKMSKeyId"]
    _ask(cloud, caller, Request("s3", "PutObject", params, "PUT", f"/{bucket}/{quote(key)}", headers))
    cloud.client("s3").put_object(Body=body, **params)
