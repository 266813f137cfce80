"""Athena's queries: SQL of Athena's engine on the files of Glue tables, run by DuckDB.

Tables are those of the OpenX JSON SerDe and of OpenCSVSerDe, whole or with a projected partition of dates;
anything else is refused by name. sqlglot reads the SQL in Athena's dialect and writes it in DuckDB's, so what
only DuckDB knows does not pass for a query of Athena.
https://docs.aws.amazon.com/athena/latest/ug/openx-json-serde.html
https://docs.aws.amazon.com/athena/latest/ug/csv-serde.html
https://docs.aws.amazon.com/athena/latest/ug/partition-projection-supported-types.html
"""

from __future__ import annotations

import csv
import json
import math
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any

import duckdb
import sqlglot
from dateutil.relativedelta import relativedelta
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.scope import Scope, traverse_scope

OPENX = "org.openx.data.jsonserde.JsonSerDe"
OPEN_CSV = "org.apache.hadoop.hive.serde2.OpenCSVSerde"
_TYPES = {
    "string": "VARCHAR",
    "varchar": "VARCHAR",
    "bigint": "BIGINT",
    "int": "INTEGER",
    "integer": "INTEGER",
    "double": "DOUBLE",
    "boolean": "BOOLEAN",
}
#: DuckDB's types → what Athena calls them in its answers
_ANSWERED = {
    "BIGINT": "bigint",
    "HUGEINT": "bigint",
    "INTEGER": "integer",
    "DOUBLE": "double",
    "BOOLEAN": "boolean",
    "DATE": "date",
    "TIMESTAMP": "timestamp",
    "TIMESTAMP WITH TIME ZONE": "timestamp with time zone",
}
_JAVA_DATE = {"yyyy": "%Y", "MM": "%m", "dd": "%d", "HH": "%H", "mm": "%M"}
_NOW = re.compile(r"\s*NOW\s*(?:([+-])\s*(\d+)\s*(YEAR|MONTH|WEEK|DAY|HOUR|MINUTE)S?\s*)?")


class QueryError(ValueError):
    """The query fails; the text is what Athena gives as the reason."""


class ScanLimit(QueryError):
    """The query would read more than its workgroup lets it."""


@dataclass(frozen=True)
class Stored:
    """An object of S3: its key below the bucket, and its size."""

    key: str
    size: int


@dataclass
class Store:
    """What a query asks of the catalog and of S3, in the name of who runs it."""

    table: Callable[[str, str], Mapping[str, Any]]  # (database, name) -> Glue's table, else QueryError
    objects: Callable[[str, str], Iterable[Stored]]  # (bucket, prefix)
    read: Callable[[str, str], bytes]  # (bucket, key)


@dataclass
class Answer:
    """Rows as Athena gives them, and how many bytes were read for them."""

    columns: list[str] = field(default_factory=list)
    types: list[str] = field(default_factory=list)
    rows: list[list[Any]] = field(default_factory=list)
    scanned: int = 0


def run(sql: str, database: str, store: Store, now: datetime, limit: int | None = None) -> Answer:
    """Answer one SELECT. Raises QueryError, ScanLimit when it would read more than ``limit`` bytes."""
    query = parse(sql)
    answer = Answer()
    with tempfile.TemporaryDirectory(prefix="localaws-athena-") as folder:
        connection = duckdb.connect(":memory:", config={"autoinstall_known_extensions": "false"})
        try:
            connection.execute("SET TimeZone = 'UTC'")
            sources = list(_sources(query))
            wanted = []
            for number, (node, alias, conditions) in enumerate(sources):
                name = node.name.lower()
                glue = store.table((node.db or database).lower(), name)
                files = list(_files(glue, store, now, connection, conditions))
                answer.scanned += sum(stored.size for _, stored, _ in files)
                wanted.append((number, node, alias, glue, files))
            if limit is not None and answer.scanned > limit:
                raise ScanLimit("Bytes scanned limit was exceeded")
            for number, node, alias, glue, files in wanted:
                local = f"source_{number}"
                _load(connection, local, glue, files, store, Path(folder) / f"{local}.json")
                node.replace(exp.to_table(local, alias=alias))
            connection.execute("SET enable_external_access = false")
            result = connection.execute(_for_duckdb(query, now).sql(dialect="duckdb"))
            answer.columns = [column[0] for column in result.description]
            answer.types = [_ANSWERED.get(str(column[1]), "varchar") for column in result.description]
            answer.rows = [[_text(value) for value in row] for row in result.fetchall()]
        except duckdb.Error as error:
            raise QueryError(f"the local cloud's engine: {error}") from error
        finally:
            connection.close()
    return answer


# -- SQL -------------------------------------------------------------------------------------------------
def parse(sql: str) -> exp.Expression:
    """The query, which must be one SELECT with functions that Athena's dialect knows."""
    try:
        found = sqlglot.parse(sql, dialect="athena")
    except SqlglotError as error:
        raise QueryError(f"SYNTAX_ERROR: {error}") from error
    if len(found) != 1:
        raise QueryError("Only one sql statement is allowed")
    query = found[0]
    if not isinstance(query, exp.Query):
        raise QueryError(f"the local cloud runs queries only, not {sql.split(None, 1)[0].upper()}")
    for function in query.find_all(exp.Anonymous):
        raise QueryError(f"FUNCTION_NOT_FOUND: Function '{function.name.lower()}' not registered")
    return query


def _sources(query: exp.Expression) -> Iterator[tuple[exp.Table, str, list[exp.Expression]]]:
    """Each table that is read, the name that it has in its SELECT, and the conditions on it alone."""
    for scope in traverse_scope(query):
        for alias, source in scope.sources.items():
            if isinstance(source, exp.Table):
                if not isinstance(source.this, exp.Identifier):  # a function of DuckDB that reads files
                    raise QueryError(f"FUNCTION_NOT_FOUND: Table function {source.sql()} not registered")
                yield source, alias, _conditions(scope, alias)


def _conditions(scope: Scope, alias: str) -> list[exp.Expression]:
    where = scope.expression.args.get("where")
    alone, found = len(scope.sources) == 1, []
    parts = (
        where.this.flatten() if where and isinstance(where.this, exp.And) else [where.this] if where else []
    )
    for condition in parts:
        tables = {column.table for column in condition.find_all(exp.Column)}
        if not condition.find(exp.Select) and (tables == {alias} or (alone and tables == {""})):
            found.append(condition)
    return found


def _for_duckdb(query: exp.Expression, now: datetime) -> exp.Expression:
    """The query with the cloud's time, and with Trino's null for the members of what is no JSON."""
    stamp = exp.Literal.string(now.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f+00"))

    def changed(node: exp.Expression) -> exp.Expression:
        if isinstance(node, exp.CurrentTimestamp):
            return exp.cast(stamp.copy(), "timestamptz")
        if isinstance(node, exp.CurrentDate):
            return exp.cast(exp.cast(stamp.copy(), "timestamptz"), "date")
        if isinstance(node, exp.JSONExtract | exp.JSONExtractScalar):
            text = node.this.copy()
            valid = exp.func("json_valid", text.copy(), dialect="duckdb")
            node.set("this", exp.Paren(this=exp.Case(ifs=[exp.If(this=valid, true=text)])))
        return node

    return query.transform(changed)


def _text(value: Any) -> Any:
    """A value as Athena writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S.") + f"{value.microsecond // 1000:03d}"
    return value


# -- partitions ------------------------------------------------------------------------------------------
def _files(
    glue: Mapping[str, Any],
    store: Store,
    now: datetime,
    connection: Any,
    conditions: list[exp.Expression],
) -> Iterator[tuple[str, Stored, str | None]]:
    """(bucket, object, value of the partition) of what the query reads of a table."""
    keys = [key["Name"] for key in glue.get("PartitionKeys") or []]
    if not keys:
        bucket, prefix = _place(glue["StorageDescriptor"]["Location"])
        yield from ((bucket, stored, None) for stored in _visible(store, bucket, prefix))
        return
    projection = Projection.of(glue, keys)
    conditions = [c for c in conditions if _column_names(c) == {keys[0]}]
    kept: dict[str, bool] = {}
    for stored in _visible(store, projection.bucket, projection.prefix):
        value = projection.value(stored.key, now)
        if value is None:
            continue
        if value not in kept:
            kept[value] = all(_holds(connection, condition, keys[0], value, now) for condition in conditions)
        if kept[value]:
            yield projection.bucket, stored, value


def _column_names(condition: exp.Expression) -> set[str]:
    return {column.name.lower() for column in condition.find_all(exp.Column)}


def _holds(connection: Any, condition: exp.Expression, name: str, value: str, now: datetime) -> bool:
    """Whether a partition's value fulfils a condition."""

    def filled(node: exp.Expression) -> exp.Expression:
        return exp.Literal.string(value) if isinstance(node, exp.Column) else node

    asked = _for_duckdb(condition.copy().transform(filled), now)
    return bool(connection.execute(f"SELECT {asked.sql(dialect='duckdb')}").fetchone()[0])


def _place(location: str) -> tuple[str, str]:
    bucket, _, prefix = location.removeprefix("s3://").partition("/")
    return bucket, prefix if not prefix or prefix.endswith("/") else f"{prefix}/"


def _visible(store: Store, bucket: str, prefix: str) -> Iterator[Stored]:
    """Objects below a prefix; names that begin with _ or . are hidden from Athena."""
    for stored in store.objects(bucket, prefix):
        parts = stored.key.removeprefix(prefix).split("/")
        if parts[-1] and not any(part.startswith(("_", ".")) for part in parts):
            yield stored


@dataclass(frozen=True)
class Projection:
    """One projected partition of dates, and where its values stand in the keys of objects."""

    bucket: str
    prefix: str  # what all keys begin with
    pattern: re.Pattern[str]
    format: str
    first: str
    last: str

    @classmethod
    def of(cls, glue: Mapping[str, Any], keys: list[str]) -> Projection:
        """Read it from a table's parameters. Raises QueryError for what the local cloud does not project."""
        given, name = glue.get("Parameters") or {}, f"{glue['DatabaseName']}.{glue['Name']}"
        if given.get("projection.enabled", "").lower() != "true":
            raise QueryError(f"the local cloud reads partitions that are projected, and {name} has others")
        kind = given.get(f"projection.{keys[0]}.type")
        if len(keys) != 1 or kind != "date":
            what = f"{', '.join(keys)} ({kind})"
            raise QueryError(f"the local cloud projects one partition of dates; {name} has {what}")
        prefix = f"projection.{keys[0]}."
        missing = [f"{prefix}{part}" for part in ("format", "range") if f"{prefix}{part}" not in given]
        template = given.get("storage.location.template", "")
        place = "${" + keys[0] + "}"
        if missing or template.count(place) != 1:
            what = ", ".join(missing or ["storage.location.template"])
            raise QueryError(f"INVALID_TABLE_PROPERTY: {name} needs {what} for partition {keys[0]}")
        bucket, path = _place(template)
        before, _, after = path.partition(place)
        form = given[f"{prefix}format"]
        digits = re.sub("|".join(_JAVA_DATE), lambda m: rf"\d{{{len(m[0])}}}", form)
        first, _, last = given[f"{prefix}range"].partition(",")
        pattern = re.compile(f"{re.escape(before)}({digits}){re.escape(after)}")
        return cls(bucket, before, pattern, form, first, last)

    def value(self, key: str, now: datetime) -> str | None:
        """The partition that an object lies in; None outside of all."""
        match = self.pattern.match(key)
        if match is None:
            return None
        try:
            moment = self._read(match[1])
        except ValueError:  # the 31st of June is no partition
            return None
        return match[1] if self._bound(self.first, now) <= moment <= self._bound(self.last, now) else None

    def _read(self, text: str) -> datetime:
        form = re.sub("|".join(_JAVA_DATE), lambda m: _JAVA_DATE[m[0]], self.format)
        return datetime.strptime(text, form).replace(tzinfo=UTC)

    def _bound(self, text: str, now: datetime) -> datetime:
        match = _NOW.fullmatch(text)
        if not match:
            return self._read(text.strip())
        sign, number, unit = match.groups()
        if not sign:
            return now
        step = relativedelta(**{f"{unit.lower()}s": int(number)})
        return now - step if sign == "-" else now + step


# -- rows ------------------------------------------------------------------------------------------------
def _load(
    connection: Any,
    name: str,
    glue: Mapping[str, Any],
    files: list[tuple[str, Stored, str | None]],
    store: Store,
    scratch: Path,
) -> None:
    """Make a DuckDB table of the files, with the columns that Glue names."""
    storage = glue["StorageDescriptor"]
    serde = storage["SerdeInfo"]
    library, given = serde["SerializationLibrary"], serde.get("Parameters") or {}
    if library not in (OPENX, OPEN_CSV):
        raise QueryError(f"the local cloud reads tables of {OPENX} and {OPEN_CSV}, not of {library}")
    ignore = given.get("ignore.malformed.json", "").lower() == "true"
    columns = [(column["Name"].lower(), hive_type(column["Type"])) for column in storage["Columns"]]
    partitions = [key["Name"].lower() for key in glue.get("PartitionKeys") or []]
    with scratch.open("w", encoding="utf-8") as out:
        for bucket, stored, value in files:
            more = {"$path": f"s3://{bucket}/{stored.key}"} | dict.fromkeys(partitions, value)
            text = store.read(bucket, stored.key).decode("utf-8", "replace")
            rows = openx_rows(text, columns, ignore) if library == OPENX else csv_rows(text, columns, given)
            for row in rows:
                out.write(json.dumps(row | more) + "\n")
    types = {n: duck_type(t) for n, t in columns} | dict.fromkeys([*partitions, "$path"], "VARCHAR")
    given = ", ".join(f'"{column}" {kind}' for column, kind in types.items())
    connection.execute(f"CREATE TABLE {name} ({given})")
    if scratch.stat().st_size:  # of an empty file DuckDB does not know the columns
        connection.read_json(str(scratch), columns=types, format="newline_delimited").insert_into(name)


HiveType = str | dict[str, Any]


def hive_type(text: str) -> HiveType:
    """A column's type: its name, or the members of a struct."""
    text = text.strip().lower()
    if not text.startswith("struct<"):
        if text not in _TYPES:
            raise QueryError(f"the local cloud does not know the column type {text}")
        return text
    members, depth, start = {}, 0, 7
    for place, sign in enumerate(text):
        depth += (sign == "<") - (sign == ">")
        if (sign == "," and depth == 1) or (sign == ">" and depth == 0):
            name, _, kind = text[start:place].partition(":")
            members[name.strip()] = hive_type(kind)
            start = place + 1
    return members


def duck_type(kind: HiveType) -> str:
    """DuckDB's name of a type."""
    if isinstance(kind, str):
        return _TYPES[kind]
    return "STRUCT(" + ", ".join(f'"{name}" {duck_type(inner)}' for name, inner in kind.items()) + ")"


def openx_rows(text: str, columns: list[tuple[str, HiveType]], ignore: bool) -> Iterator[dict[str, Any]]:
    """The rows of a file: a line each, and all nulls for a line that holds no object."""
    lines = text.split("\n")
    for line in lines[:-1] if lines[-1] == "" else lines:
        found: Any = None
        if line.strip().startswith("{"):
            try:
                found = _lower(json.loads(line, parse_constant=str))
            except ValueError as error:
                if not ignore:
                    what = f"Row is not a valid JSON Object - {error}"
                    raise QueryError(f"HIVE_CURSOR_ERROR: {what}") from error
        yield {name: _decoded((found or {}).get(name), kind) for name, kind in columns}


def csv_rows(
    text: str, columns: list[tuple[str, HiveType]], given: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    """The rows of a file: each line is one, also inside of quotes; a value that is lacking is null."""
    form = {"delimiter": given.get("separatorChar", ","), "quotechar": given.get("quoteChar", '"')}
    escape = given.get("escapeChar", "\\")
    lines = text.split("\n")
    for line in lines[:-1] if lines[-1] == "" else lines:
        cells = next(csv.reader([line.removesuffix("\r")], escapechar=escape, **form), [])
        row: dict[str, Any] = {}
        for (name, kind), cell in zip_longest(columns, cells[: len(columns)]):
            if cell == "" and kind not in ("string", "varchar"):
                raise QueryError(f"HIVE_BAD_DATA: Error parsing field value '' for field {name}")
            row[name] = None if cell is None else _of_csv(cell, kind, name)
        yield row


def _of_csv(cell: str, kind: HiveType, name: str) -> Any:
    """A value of a CSV file as the column's type has it; what does not fit ends the query."""
    if kind in ("string", "varchar"):
        return cell
    value = _decoded(cell, kind)
    if value is None:
        raise QueryError(f"HIVE_BAD_DATA: Error parsing field value '{cell}' for field {name}")
    return value


def _lower(value: Any) -> Any:
    """Keys in lower case, as the SerDe compares them."""
    if isinstance(value, dict):
        return {key.lower(): _lower(inner) for key, inner in value.items()}
    return [_lower(inner) for inner in value] if isinstance(value, list) else value


def _decoded(value: Any, kind: HiveType) -> Any:
    """A JSON value as the column's type has it; null for a text that is no such number."""
    if value is None:
        return None
    if isinstance(kind, dict):
        if not isinstance(value, dict):
            raise QueryError(f"HIVE_CURSOR_ERROR: {type(value).__name__} can not be coerced to a struct")
        return {name: _decoded(value.get(name), inner) for name, inner in kind.items()}
    text = value if isinstance(value, str) else json.dumps(value)
    if kind in ("string", "varchar"):
        return text
    if isinstance(value, dict | list):
        raise QueryError(f"HIVE_CURSOR_ERROR: a JSON {type(value).__name__} can not be coerced to a {kind}")
    if kind == "boolean":
        return text.lower() == "true"
    try:
        if kind != "double":
            return int(text)
        number = float(text)
        return number if math.isfinite(number) else text  # JSON has no such numbers, DuckDB reads their names
    except ValueError:
        return None
