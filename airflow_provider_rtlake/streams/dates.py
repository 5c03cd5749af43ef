"""Dates that a snapshot of Debezium 3.7 changes: found in the source before a snapshot is taken.

The stream tells every date as it is. A snapshot reads dates through ``java.sql.Date``, whose year has no era, so that
44 BC arrives as 44 AD; and whose calendar lacks 5 to 14 October 1582, which arrive ten days later
(tests/integration/test_scd2_snapshot_values.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import psycopg
from psycopg import sql

from airflow_provider_rtlake.streams.model import Stream
from airflow_provider_rtlake.streams.rules import Path, Problem
from airflow_provider_rtlake.streams.source import SourceTable
from airflow_provider_rtlake.streams.source_access import explained

_CHANGED = sql.SQL("(isfinite({column}) AND {column} < '0001-01-01') OR {column} BETWEEN '1582-10-05' AND '1582-10-14'")


def changed_dates(
    connection: psycopg.Connection[dict[str, Any]], streams: Sequence[Stream], tables: Mapping[str, SourceTable]
) -> Iterator[Problem]:
    """Problems of columns whose dates a snapshot would change. Reads each table that has a column of dates once.

    :param connection: to the source database.
    :param streams: that a snapshot is about to read.
    :param tables: their structure, by ``Stream.source``.
    :raises ServiceUnavailable: a table is locked for longer than is waited.
    :raises UserError: the deployment's role may not read a table.
    """
    for stream in streams:
        names = [
            column.name
            for column in tables[stream.source].schema.captured
            if column.type == "date" and not column.dimensions and column.name not in stream.accepted_loss
        ]
        if not names:
            continue
        parts = [
            sql.SQL("coalesce(bool_or({}), false)").format(_CHANGED.format(column=sql.Identifier(name)))
            for name in names
        ]
        table = sql.Identifier(stream.schema_name, stream.table_name)
        query = sql.SQL("SELECT ARRAY[{}] AS found FROM {}").format(sql.SQL(", ").join(parts), table)
        with explained(f"looking for dates in {stream.source} that a snapshot would change"):
            row = connection.execute(query).fetchone()
        for name, found in zip(names, row["found"] if row else (), strict=False):
            if found:
                path: Path = ("tables", stream.source)
                yield (
                    path,
                    f"column {name!r} holds dates before Christ, or of 5 to 14 October 1582, which a snapshot changes",
                    f"correct them, accept it by name (accept_loss: [{name}]), or leave it out (exclude: [{name}])",
                )
