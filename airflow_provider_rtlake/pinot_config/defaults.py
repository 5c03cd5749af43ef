"""Pinot tables for a captured table that has no file under ``pinot_tables/``. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from airflow_provider_rtlake.pinot_config.model import Column, Kafka, PinotTable, Upsert
from airflow_provider_rtlake.pinot_config.realtime import RealtimeColumn, realtime_columns
from airflow_provider_rtlake.streams.model import Realtime, Stream
from airflow_provider_rtlake.streams.schema import TableSchema

HISTORY_RETENTION_DAYS = 90
_WEEK_MS = 7 * 24 * 3600 * 1000
_MILLIS = Column(type="LONG", field="dateTime")
_TEXT = Column(type="STRING")
_UNIQUE_TEXT = Column(type="STRING", dictionary=False)


def default_tables(stream: Stream, schema: TableSchema) -> tuple[PinotTable, ...]:
    """The current and the history table of a captured table; none where it is not served.

    :param stream: the declaration.
    :param schema: the source table.
    """
    if stream.table.realtime is False:
        return ()
    return (_current(stream, schema, stream.table.realtime), _history(stream, schema, stream.table.realtime))


def complete(declared: Iterable[PinotTable], captured: Iterable[tuple[Stream, TableSchema]]) -> tuple[PinotTable, ...]:
    """The declared tables, and the generated ones of captured tables whose names are not declared.

    :param declared: from ``pinot_tables/``.
    :param captured: the captured tables.
    """
    result = {table.table: table for table in declared}
    for stream, schema in captured:
        for table in default_tables(stream, schema):
            result.setdefault(table.table, table)
    return tuple(result.values())


def _current(stream: Stream, schema: TableSchema, realtime: Realtime) -> PinotTable:
    columns = realtime_columns(schema)
    return PinotTable(
        table=stream.pinot_current or "",
        mode="upsert",
        kafka=Kafka(topic=stream.current_topic or "", partitions=realtime.partitions, cleanup_policy="compact"),
        time_column="last_updated_ts",
        upsert=Upsert(
            primary_key=tuple(column.name for column in _in_key_order(columns, schema)),
            comparison_column="position",
        ),
        columns={column.name: _column(column) for column in columns}
        | {
            "is_deleted": Column(type="BOOLEAN"),
            "position": _UNIQUE_TEXT,
            "last_updated_ts": _MILLIS,
            "event_id": _UNIQUE_TEXT,
        },
    )


def _history(stream: Stream, schema: TableSchema, realtime: Realtime) -> PinotTable:
    columns = realtime_columns(schema)
    images = {f"{image}_{column.name}": _column(column) for image in ("after", "before") for column in columns}
    return PinotTable(
        table=stream.pinot_history or "",
        mode="upsert",
        kafka=Kafka(
            topic=stream.history_topic or "",
            partitions=realtime.partitions,
            config={"retention.ms": _WEEK_MS},
        ),
        time_column="event_timestamp",
        retention_days=HISTORY_RETENTION_DAYS,
        # A change that is delivered again has the same id: keyed by it the table holds each change once.
        upsert=Upsert(primary_key=("record_id",), comparison_column="position"),
        columns={"record_id": _UNIQUE_TEXT}
        | images
        | {
            "op": _TEXT,
            "op_description": _TEXT,
            "source_db": _TEXT,
            "source_table": _TEXT,
            "tx_id": Column(type="LONG"),
            "lsn": Column(type="LONG"),
            "event_timestamp": _MILLIS,
            "processing_time": _MILLIS,
            "position": _UNIQUE_TEXT,
        },
    )


def _in_key_order(columns: Iterable[RealtimeColumn], schema: TableSchema) -> list[RealtimeColumn]:
    return sorted((column for column in columns if column.key), key=lambda column: schema.key.index(column.source.name))


def _column(column: RealtimeColumn) -> Column:
    """Numbers outside the key are metrics: null then counts as 0 in a sum, not as the smallest number."""
    if column.kind == "millis":
        return _MILLIS
    number = column.kind in ("int", "long", "double")
    return Column.model_validate(
        {"type": column.pinot_type, "field": "metric" if number and not column.key else "dimension"}
    )
