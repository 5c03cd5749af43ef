"""What is read of the source's catalog and refused, and what becomes of PostgreSQL's errors."""

from __future__ import annotations

from typing import Any, cast

import psycopg
import pytest

from airflow_provider_rtlake.exceptions import RtlakeError, ServiceUnavailable, UserError
from airflow_provider_rtlake.streams import source
from airflow_provider_rtlake.streams.dates import changed_dates
from airflow_provider_rtlake.streams.model import Connector, Table
from airflow_provider_rtlake.streams.rules import Problem
from airflow_provider_rtlake.streams.schema import Column, TableSchema
from airflow_provider_rtlake.streams.source import SourceTable, read_tables
from airflow_provider_rtlake.streams.source_access import LOCK_SECONDS, SourceAccess

STREAMS = Connector(connector="c", topic_prefix="p", tables={"public.orders": Table()}).streams
TABLE = {
    "position": 1,
    "oid": 7,
    "relkind": "r",
    "relpersistence": "p",
    "relreplident": "f",
    "relispartition": False,
    "parent": None,
    "has_toast": True,
    "identities": ["f"],
    "identity_columns": [],
    "owned": True,
    "has_children": False,
}
COLUMN = {
    "oid": 7,
    "name": "id",
    "type": "integer",
    "internal": "int4",
    "typmod": -1,
    "kind": "b",
    "nullable": False,
    "generated": False,
    "dimensions": 0,
    "toastable": False,
    "is_array": False,
    "element": None,
    "element_kind": None,
    "base_kind": "b",
}
KEY = {"oid": 7, "is_primary": True, "deferrable": False, "columns": ["id"]}


class Catalog:
    """Answers the queries of the source's structure."""

    def __init__(self, **rows: list[dict[str, Any]]) -> None:
        self.answers = {getattr(source, name): found for name, found in rows.items()}

    def execute(self, query: str, _: Any) -> Any:
        self.rows = self.answers[query]
        return self

    def fetchall(self) -> list[dict[str, Any]]:
        return self.rows


def problems(table: dict[str, Any] | None = None, column: dict[str, Any] | None = None) -> list[Problem]:
    """What is wrong with a table that is right but for this."""
    catalog = Catalog(_TABLES=[TABLE | (table or {})], _COLUMNS=[COLUMN | (column or {})], _KEYS=[KEY])
    return read_tables(cast(Any, catalog), STREAMS)[1]


def test_a_plain_table_is_right() -> None:
    assert problems() == []


def test_a_table_that_others_inherit_from_is_refused() -> None:
    ((path, what, fix),) = problems(table={"has_children": True})
    assert path == ("tables", "public.orders")
    assert "inherit from it" in what and "by their own names" in fix


def test_a_generated_key_is_refused() -> None:
    ((path, what, fix),) = problems(column={"generated": True})
    assert path == ("tables", "public.orders")
    assert "'id' is generated" in what and "key: [column, …]" in fix


class Refusing:
    """A connection to a database that refuses everything."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def execute(self, *_: Any) -> Any:
        raise self.error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (psycopg.errors.InsufficientPrivilege("permission denied for table orders"), UserError),
        (psycopg.errors.LockNotAvailable("canceling statement due to lock timeout"), ServiceUnavailable),
    ],
)
def test_refusals_are_told_with_what_was_tried(error: Exception, told: type[RtlakeError]) -> None:
    connection = cast(Any, Refusing(error))
    table = SourceTable(TableSchema("public", "orders", (Column("day", "date"),), ("day",)), None, True)
    with pytest.raises(told, match=rf"dates in public\.orders .*{error}"):
        list(changed_dates(connection, STREAMS, {"public.orders": table}))
    with pytest.raises(told, match=rf"structure of public\.orders.*{error}"):
        read_tables(connection, STREAMS)


def test_no_statement_waits_for_a_lock_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(psycopg, "connect", lambda **fields: given.update(fields))
    SourceAccess(host="h", port=5432, dbname="d", user="u", password="p").connect()
    assert given["options"] == f"-c lock_timeout={LOCK_SECONDS}s"
