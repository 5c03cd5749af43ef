"""Reads the captured tables' structure from the source's catalog and checks the declaration against it."""

from __future__ import annotations

import difflib
import json
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_rtlake.exceptions import DeclarationError
from airflow_provider_rtlake.streams.model import Stream
from airflow_provider_rtlake.streams.rules import Path, Problem
from airflow_provider_rtlake.streams.schema import Column, TableSchema
from airflow_provider_rtlake.streams.source_access import explained

if TYPE_CHECKING:
    import psycopg  # reading declarations and DAG files need not wait for it

# What Debezium 3.7's JSON carries exactly, in the snapshot and in the stream (seen on live messages).
_SHARED = """smallint integer bigint oid real "double precision" boolean character "character varying" text citext json
    jsonb uuid date inet cidr macaddr macaddr8 "time with time zone" "timestamp without time zone" hstore ltree
    "timestamp with time zone" int4range int8range numrange tsrange tstzrange daterange"""
_SCALARS = frozenset(shlex.split(_SHARED)) | frozenset(
    shlex.split(
        """numeric money bit "bit varying" xml bytea interval point tsvector geometry geography vector halfvec sparsevec
        "time without time zone" char"""
    )
)
_ARRAY_ELEMENTS = frozenset(shlex.split(_SHARED)) | {"bytea", "char"}
# Scalar types for which Debezium sends NULL, not the placeholder, where PostgreSQL left a large value out.
_SILENT = frozenset(("hstore", "tsvector"))
_KINDS = {
    "v": "is a view",
    "m": "is a materialized view",
    "f": "is a foreign table",
    "S": "is a sequence",
    "i": "is an index",
    "c": "is a composite type",
}

_TABLES = """
SELECT wanted.position, c.oid, c.relkind::text, c.relpersistence::text, c.relreplident::text, c.relispartition,
       (SELECT format('%%I.%%I', pn.nspname, p.relname) FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent
          JOIN pg_namespace pn ON pn.oid = p.relnamespace WHERE i.inhrelid = c.oid LIMIT 1) AS parent,
       EXISTS (SELECT FROM pg_partition_tree(c.oid) leaf JOIN pg_class l ON l.oid = leaf.relid
               WHERE l.reltoastrelid <> 0) OR c.reltoastrelid <> 0 AS has_toast,
       ARRAY(SELECT l.relreplident::text FROM pg_partition_tree(c.oid) leaf JOIN pg_class l ON l.oid = leaf.relid)
         AS identities,
       ARRAY(SELECT a.attname::text FROM pg_index x CROSS JOIN unnest(x.indkey) WITH ORDINALITY k(attnum, place)
               JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = k.attnum
              WHERE x.indrelid = c.oid AND x.indisreplident ORDER BY k.place) AS identity_columns,
       pg_has_role(current_user, c.relowner, 'USAGE') AS owned,
       c.relkind = 'r' AND EXISTS (SELECT FROM pg_inherits h WHERE h.inhparent = c.oid) AS has_children
FROM unnest(%(schemas)s::text[], %(tables)s::text[]) WITH ORDINALITY AS wanted(schema, name, position)
JOIN pg_namespace n ON n.nspname = wanted.schema
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.name
"""

_COLUMNS = """
WITH RECURSIVE domain(oid, base, typmod, depth) AS (
  SELECT t.oid, t.typbasetype, t.typtypmod, 1 FROM pg_type t WHERE t.typtype = 'd'
  UNION ALL
  SELECT d.oid, t.typbasetype, CASE WHEN d.typmod = -1 THEN t.typtypmod ELSE d.typmod END, d.depth + 1
  FROM domain d JOIN pg_type t ON t.oid = d.base AND t.typtype = 'd'
), resolved AS (SELECT DISTINCT ON (oid) oid, base, typmod FROM domain ORDER BY oid, depth DESC)
SELECT a.attrelid AS oid, a.attname AS name, format_type(base.oid, NULL) AS type, base.typname AS internal,
       CASE WHEN d.oid IS NULL THEN a.atttypmod ELSE d.typmod END AS typmod, t.typtype::text AS kind,
       NOT a.attnotnull AND NOT t.typnotnull AS nullable, a.attgenerated <> '' AS generated, a.attndims AS dimensions,
       a.attstorage <> 'p' AS toastable, base.typelem <> 0 AND base.typlen = -1 AS is_array,
       format_type(NULLIF(base.typelem, 0), NULL) AS element, element.typtype::text AS element_kind,
       base.typtype::text AS base_kind
FROM pg_attribute a
JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN resolved d ON d.oid = t.oid
JOIN pg_type base ON base.oid = COALESCE(d.base, t.oid)
LEFT JOIN pg_type element ON element.oid = base.typelem AND base.typlen = -1
WHERE a.attrelid = ANY(%(oids)s) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attrelid, a.attnum
"""

_KEYS = """
SELECT x.indrelid AS oid, x.indisprimary AS is_primary, COALESCE(k.condeferrable, false) AS deferrable,
       ARRAY(SELECT a.attname::text FROM unnest(x.indkey[0:x.indnkeyatts - 1]) WITH ORDINALITY AS c(attnum, place)
             JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = c.attnum ORDER BY c.place) AS columns
FROM pg_index x LEFT JOIN pg_constraint k ON k.conindid = x.indexrelid AND k.contype IN ('p', 'u')
WHERE x.indrelid = ANY(%(oids)s) AND x.indisunique AND x.indisvalid AND x.indpred IS NULL AND x.indexprs IS NULL
"""

_NEAR = """
SELECT format('%%s.%%s', n.nspname, c.relname) AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%%'
ORDER BY 1 LIMIT 5000
"""


@dataclass(frozen=True)
class SourceTable:
    """What the deployment knows of a captured table beyond its columns.

    :param schema: columns, key and replica identity.
    :param full_reason: why REPLICA IDENTITY FULL is needed; None where it is not.
    :param owned: whether the deployment's role may alter the table.
    """

    schema: TableSchema
    full_reason: str | None
    owned: bool


def introspect(connection: psycopg.Connection[dict[str, Any]], streams: Sequence[Stream]) -> dict[str, TableSchema]:
    """The structure of captured tables, checked against their declarations.

    :param connection: to the source database.
    :param streams: the captured tables.
    :return: ``Stream.source`` → structure, without the columns that are excluded.
    :raises DeclarationError: a table, column or key is missing, or a type cannot be carried exactly.
    """
    tables, problems = read_tables(connection, streams)
    if problems:
        raise DeclarationError([_dotted(path) + f": {what}; {fix}" for path, what, fix in problems])
    return {source: table.schema for source, table in tables.items()}


def _dotted(path: Path) -> str:
    return ".".join(str(part) for part in path)


def read_tables(
    connection: psycopg.Connection[dict[str, Any]], streams: Sequence[Stream]
) -> tuple[dict[str, SourceTable], list[Problem]]:
    """The structure of captured tables, and every way in which their declarations do not fit it.

    :param connection: to the source database.
    :param streams: the captured tables.
    :return: ``Stream.source`` → table, and the problems with the path of their key.
    :raises ServiceUnavailable: a partition is locked for longer than is waited.
    """
    schemas = [stream.schema_name for stream in streams]
    names = [stream.table_name for stream in streams]
    with explained(f"reading the structure of {', '.join(stream.source for stream in streams)}"):
        found = {row["position"] - 1: row for row in _query(connection, _TABLES, schemas=schemas, tables=names)}
        oids = [row["oid"] for row in found.values()]
        columns = _grouped(_query(connection, _COLUMNS, oids=oids))
        keys = _grouped(_query(connection, _KEYS, oids=oids))
    roots = {(stream.schema_name, stream.table_name) for stream in streams}
    tables: dict[str, SourceTable] = {}
    problems: list[Problem] = []
    for position, stream in enumerate(streams):
        row = found.get(position)
        path: Path = ("tables", stream.source)
        if row is None:
            problems.append((path, "the source has no such table", _near(connection, stream)))
            continue
        wrong = list(_relation(path, row, roots))
        if not wrong:
            facts = _Facts(stream, row, columns.get(row["oid"], []), keys.get(row["oid"], []))
            wrong = list(facts.problems(path))
            tables[stream.source] = facts.table()
        problems.extend(wrong)
    return tables, problems


def _query(connection: psycopg.Connection[dict[str, Any]], sql: str, **parameters: Any) -> list[dict[str, Any]]:
    return connection.execute(sql, parameters).fetchall()


def _grouped(rows: Iterable[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    groups: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["oid"], []).append(row)
    return groups


def _near(connection: psycopg.Connection[dict[str, Any]], stream: Stream) -> str:
    wanted = f"{stream.schema_name}.{stream.table_name}"
    names = {row["name"].lower(): row["name"] for row in _query(connection, _NEAR)}
    near = difflib.get_close_matches(wanted.lower(), names, n=1, cutoff=0.7)
    return f"did you mean {names[near[0]]}?" if near else "create it first, or remove it from the declaration"


def _relation(path: Path, row: dict[str, Any], roots: set[tuple[str, str]]) -> Iterator[Problem]:
    if row["relkind"] not in ("r", "p"):
        yield (
            path,
            _KINDS.get(row["relkind"], "is no table"),
            "only tables can be captured; name the tables behind it",
        )
    elif row["relpersistence"] != "p":
        yield (
            path,
            "is unlogged or temporary: its changes are not in the log",
            "ALTER TABLE … SET LOGGED, or remove it",
        )
    elif row["relispartition"] and any(f"{schema}.{name}" == row["parent"] for schema, name in roots):
        yield (
            path,
            f"is a partition of {row['parent']}, which is captured too",
            "remove it: changes come through the root",
        )
    elif row["has_children"]:
        yield (
            path,
            "has tables that inherit from it: a snapshot reads their rows as its own, the stream tells of none of them",
            "capture those tables by their own names, or make it a partitioned table",
        )


@dataclass
class _Facts:
    """One table's catalog rows beside its declaration."""

    stream: Stream
    row: dict[str, Any]
    column_rows: list[dict[str, Any]]
    key_rows: list[dict[str, Any]]

    @property
    def primary(self) -> dict[str, Any] | None:
        return next((row for row in self.key_rows if row["is_primary"]), None)

    @property
    def key(self) -> tuple[str, ...]:
        if self.stream.table.key is not None:
            return self.stream.table.key
        return () if self.primary is None else tuple(self.primary["columns"])

    @property
    def captured(self) -> list[dict[str, Any]]:
        excluded = self.stream.table.exclude
        return [row for row in self.column_rows if row["name"] not in excluded]

    @property
    def identity(self) -> str:
        """The weakest of the table and its partitions."""
        identities = set(self.row["identities"] or [self.row["relreplident"]])
        if identities == {"f"}:
            return "full"
        for letter, name in (("n", "nothing"), ("i", "index")):
            if letter in identities:
                return name
        return "default"

    def deferrable(self) -> bool:
        """Whether every unique index that carries the key may be violated inside a transaction."""
        carrying = [row["deferrable"] for row in self.key_rows if set(row["columns"]) == set(self.key)]
        return bool(carrying) and all(carrying)

    def table(self) -> SourceTable:
        schema = TableSchema(
            schema=self.stream.schema_name,
            name=self.stream.table_name,
            columns=tuple(_column(row, has_toast=self.row["has_toast"]) for row in self.captured),
            key=self.key,
            replica_identity=self.identity,
            deferrable_key=self.deferrable(),
            partitioned=self.row["relkind"] == "p",
        )
        return SourceTable(schema, self.full_reason(schema), self.row["owned"])

    def full_reason(self, schema: TableSchema) -> str | None:
        """Why the table needs REPLICA IDENTITY FULL."""
        primary = () if self.primary is None else tuple(self.primary["columns"])
        if schema.deferrable_key:
            return "its key is deferrable, which PostgreSQL accepts as no identity"
        if self.identity == "nothing":
            return "REPLICA IDENTITY NOTHING lets PostgreSQL refuse updates and deletes of a captured table"
        if self.identity == "index" and not set(self.key) <= set(self.row["identity_columns"]):
            return "its identity index does not hold the key"
        if self.identity == "default" and set(self.key) != set(primary):
            return "its declared key is not the primary key, so deletes would not carry it"
        silent = [column.name for column in schema.captured if column.toastable and _arrives_as_null(column)]
        if silent:
            return f"large values of {', '.join(silent[:5])} that an update leaves alone would arrive as NULL"
        large = [column.name for column in schema.captured if column.toastable]
        if self.stream.table.realtime is not False and large:
            return f"the real-time lane would miss large values of {', '.join(large[:5])} that updates leave alone"
        return None

    def problems(self, path: Path) -> Iterator[Problem]:
        yield from self._key_problems(path)
        yield from self._named_columns(path)
        yield from self._same_but_for_case(path)
        for row in self.captured:
            loss = None if row["generated"] else _loss(row)
            if loss is not None and row["name"] not in self.stream.accepted_loss:
                yield (
                    path,
                    f"column {row['name']!r}: {loss}",
                    "accept it by name (accept_loss: [{0}]), or leave it out (exclude: [{0}])".format(
                        _yaml(row["name"])
                    ),
                )
        schema = self.table().schema
        if self.stream.table.replica_identity == "keep" and schema.replica_identity != "full":
            reason = self.full_reason(schema)
            if reason is not None:
                yield (
                    (*path, "replica_identity"),
                    f"REPLICA IDENTITY FULL is needed: {reason}",
                    "write replica_identity: full, or run ALTER TABLE … REPLICA IDENTITY FULL yourself",
                )

    def _same_but_for_case(self, path: Path) -> Iterator[Problem]:
        if self.stream.table.history is False:
            return
        seen: dict[str, str] = {}
        for row in self.captured:
            name = row["name"]
            first = seen.setdefault(name.lower(), name)
            if first != name and not row["generated"]:
                yield (
                    path,
                    f"columns {first!r} and {name!r} differ in case only, which Iceberg's readers do not tell apart",
                    f"leave one out (exclude: [{_yaml(name)}]), or keep no history (history: false)",
                )

    def _key_problems(self, path: Path) -> Iterator[Problem]:
        rows = {row["name"]: row for row in self.column_rows}
        if not self.key:
            yield (
                path,
                "has no primary key",
                "add one in the database, or name the columns of a unique index: key: [column, …]",
            )
            return
        place = path if self.stream.table.key is None else (*path, "key")
        for name in self.key:
            if name not in rows:
                yield place, f"the table has no column {name!r}", _did_you_mean(name, rows)
            elif rows[name]["generated"]:
                yield (
                    place,
                    f"key column {name!r} is generated, and PostgreSQL does not send generated columns",
                    "name the columns of another unique index: key: [column, …]",
                )
            elif rows[name]["nullable"]:
                yield place, f"key column {name!r} may be NULL", "ALTER TABLE … ALTER COLUMN … SET NOT NULL"
            elif name in self.stream.table.exclude:
                yield (*path, "exclude"), f"excludes the key column {name!r}", "keep key columns"
        known = all(name in rows for name in self.key)
        if known and not any(set(row["columns"]) == set(self.key) for row in self.key_rows):
            yield (
                place,
                f"no unique index makes ({', '.join(self.key)}) identify a row",
                "create a unique index on exactly these columns",
            )

    def _named_columns(self, path: Path) -> Iterator[Problem]:
        table = self.stream.table
        rows = {row["name"]: row for row in self.column_rows}
        named: list[tuple[Path, Iterable[str]]] = [
            ((*path, "exclude"), table.exclude),
            ((*path, "accept_loss"), table.accept_loss),
        ]
        if table.history is not False:
            named.append(((*path, "history", "untracked"), table.history.untracked))
            named.append(((*path, "history", "accept_loss"), table.history.accept_loss))
            named.append(((*path, "history", "renamed_from"), table.history.renamed_from))
        for place, names in named:
            for name in names:
                if name not in rows:
                    yield place, f"the table has no column {name!r}", _did_you_mean(name, rows)
        if table.history is not False:
            for name in table.history.untracked:
                if name in self.key:
                    yield (*path, "history", "untracked"), f"{name!r} is a key column", "remove it"


def _arrives_as_null(column: Column) -> bool:
    return column.dimensions > 0 or _plain(column.type) in _SILENT


def _yaml(name: str) -> str:
    return name if name.replace("_", "").isalnum() else json.dumps(name, ensure_ascii=False)


def _did_you_mean(name: str, rows: dict[str, Any]) -> str:
    near = difflib.get_close_matches(name, rows, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else f"it has {', '.join(list(rows)[:12])}"


def _column(row: dict[str, Any], *, has_toast: bool) -> Column:
    precision, scale = _modifier(str(row["internal"]).lstrip("_"), row["typmod"])
    return Column(
        name=row["name"],
        type=row["type"],
        precision=precision,
        scale=scale,
        nullable=row["nullable"],
        generated=row["generated"],
        kind=row["kind"],
        dimensions=max(row["dimensions"], 1) if row["is_array"] else 0,
        toastable=row["toastable"] and has_toast,
    )


def _modifier(internal: str, typmod: int) -> tuple[int | None, int | None]:
    """Precision and scale, length, or digits of the seconds, out of ``pg_attribute.atttypmod``."""
    if typmod < 0:
        return None, None
    if internal == "numeric":
        packed = typmod - 4
        return (packed >> 16) & 0xFFFF, ((packed & 0x7FF) ^ 0x400) - 0x400  # the scale may be negative
    if internal in ("varchar", "bpchar"):
        return typmod - 4, None
    if internal in ("bit", "varbit", "timestamp", "timestamptz", "time", "timetz"):
        return typmod, None  # of a time: digits of its seconds
    return None, None


_LOSSES: tuple[tuple[Callable[[dict[str, Any]], bool], str], ...] = (
    (
        lambda row: row["is_array"] and row["dimensions"] > 1,
        "Debezium's JSON loses the values of an array of more than one dimension",
    ),
    (
        lambda row: row["is_array"] and row["element"] == "numeric",
        "Debezium's JSON loses a numeric array that holds NaN",
    ),
    (
        lambda row: row["is_array"] and row["element"] == "time without time zone",
        "Debezium's JSON loses the microseconds of times in an array",
    ),
    (
        lambda row: row["is_array"] and row["element_kind"] == "e",
        "Debezium's JSON loses an array of an enum that holds NULL",
    ),
    (
        lambda row: row["is_array"] and _plain(row["element"]) not in _ARRAY_ELEMENTS,
        "Debezium's JSON does not carry arrays of this type",
    ),
    (
        lambda row: not row["is_array"] and row["base_kind"] != "e" and _plain(row["type"]) not in _SCALARS,
        "Debezium's JSON does not carry this type",
    ),
)


def _loss(row: dict[str, Any]) -> str | None:
    """Why a column's values would not arrive as they were."""
    return next((f"{text} ({row['type']})" for applies, text in _LOSSES if applies(row)), None)


def _plain(type_name: str) -> str:
    """Without the schema that an extension lives in, and without quotes."""
    return type_name.rsplit(".", 1)[-1].strip('"')
