"""How a source table looks in the real-time topics and in Pinot: names and types. Pure.

The Flink job that writes the topics and the Pinot tables that read them both follow this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from airflow_provider_rtlake.streams.naming import slug
from airflow_provider_rtlake.streams.schema import Column, TableSchema

Kind = Literal["int", "long", "double", "boolean", "millis", "text"]

# Milliseconds that stand for infinity: Debezium's infinite timestamp, the limit of int64, is in microseconds.
INFINITE_MS = 9_223_372_036_854_775

# What the real-time lane adds to the source's columns, current topic and history topic.
CURRENT_COLUMNS = ("is_deleted", "position", "last_updated_ts", "event_id")
HISTORY_COLUMNS = (
    "record_id",
    "op",
    "op_description",
    "source_db",
    "source_table",
    "tx_id",
    "lsn",
    "event_timestamp",
    "processing_time",
    "position",
)

_KINDS: dict[str, Kind] = {
    "smallint": "int",
    "integer": "int",
    "bigint": "long",
    "oid": "long",
    "real": "double",
    "double precision": "double",
    "numeric": "double",
    "money": "double",
    "boolean": "boolean",
    "date": "millis",
    "timestamp without time zone": "millis",
    "timestamp with time zone": "millis",
}
_PINOT: dict[Kind, str] = {
    "int": "INT",
    "long": "LONG",
    "double": "DOUBLE",
    "boolean": "BOOLEAN",
    "millis": "LONG",
    "text": "STRING",
}
# A double or a count of milliseconds would make one key of two.
_INEXACT = frozenset({"numeric", "money", "date", "timestamp without time zone", "timestamp with time zone"})
_TEXT = frozenset({"STRING", "JSON", "BIG_DECIMAL"})  # Pinot types that take the exact text


@dataclass(frozen=True)
class RealtimeColumn:
    """One source column as the real-time lane sends it.

    :param source: the column in the source.
    :param name: in the current topic and table; history has it as ``before_<name>`` and ``after_<name>``.
    :param kind: ``millis`` is a LONG of milliseconds since 1970 UTC; ``text`` the value as Debezium has it.
    :param key: whether it belongs to the row's key.
    """

    source: Column
    name: str
    kind: Kind
    key: bool

    @property
    def pinot_type(self) -> str:
        """Pinot data type."""
        return _PINOT[self.kind]


def realtime_columns(schema: TableSchema, declared: Mapping[str, str] | None = None) -> tuple[RealtimeColumn, ...]:
    """The captured columns of a table with their names and kinds in the real-time lane, in the table's order.

    :param schema: the source table.
    :param declared: column name in the current table → Pinot type, from a file under ``pinot_tables/``.
        A decimal or a time that is declared STRING there is sent as text. For the history table see
        :func:`image_types`.
    """
    result = []
    for column in schema.captured:
        name, key = realtime_name(column.name), column.name in schema.key
        kind = kind_of(column, key=key)
        if declared is not None and declared.get(name) in _TEXT:
            kind = "text"
        result.append(RealtimeColumn(column, name, kind, key))
    return tuple(result)


def image_types(declared: Mapping[str, str] | None) -> dict[str, str] | None:
    """What :func:`realtime_columns` needs for the history topic, whose columns come twice.

    :param declared: column name in the history table → Pinot type; None where the table is generated.
    :return: name without ``before_`` and ``after_`` → Pinot type; text where either is text.
    """
    if declared is None:
        return None
    result: dict[str, str] = {}
    for column, pinot_type in declared.items():
        prefix, _, name = column.partition("_")
        if prefix in ("before", "after") and result.get(name) not in _TEXT:
            result[name] = pinot_type
    return result


def realtime_name(column: str) -> str:
    """A column's name in the current topic: an identifier that none of the lane's own columns has.

    :param column: name in the source.
    """
    name = slug(column)
    return f"{name}_src" if name in CURRENT_COLUMNS else name


def kind_of(column: Column, *, key: bool) -> Kind:
    """How a column's values travel.

    :param column: the column in the source.
    :param key: whether it belongs to the key, where nothing may be rounded.
    """
    if column.dimensions or column.type.endswith("[]"):
        return "text"
    if key and column.type in _INEXACT:
        return "text"
    return _KINDS.get(column.type, "text")
