"""What arrived in bronze since the last merge."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from airflow_provider_rtlake.scd2.change import RawChange
from airflow_provider_rtlake.scd2.lake import Table, Traffic
from airflow_provider_rtlake.scd2.reads import DataTask, Wanted, read_files, read_pieces
from airflow_provider_rtlake.scd2.store import conform
from airflow_provider_rtlake.scd2.tables import python_values

COLUMNS = pa.schema(
    [
        ("topic", pa.string()),
        ("topic_partition", pa.int32()),
        ("topic_offset", pa.int64()),
        ("kafka_ts", pa.timestamp("us", tz="UTC")),
        ("message_key", pa.string()),
        ("headers", pa.map_(pa.string(), pa.string())),
        ("op", pa.string()),
        ("value_schema", pa.dictionary(pa.int32(), pa.string())),  # long, and few distinct
        ("payload", pa.string()),
    ]
)
_TRANSACTIONS = pa.schema(
    [
        ("topic_offset", pa.int64()),
        ("tx_id", pa.string()),
        ("status", pa.string()),
        ("data_collections", pa.string()),
        ("kafka_ts", pa.timestamp("us", tz="UTC")),
    ]
)


_NOTIFICATIONS = pa.schema(
    [
        ("topic_offset", pa.int64()),
        ("type", pa.string()),
        ("status", pa.string()),
        ("data_collection", pa.string()),
        ("epoch", pa.string()),
        ("row_count", pa.int64()),
        ("kafka_ts", pa.timestamp("us", tz="UTC")),
    ]
)


@dataclass(frozen=True)
class Range:
    """Snapshots of bronze: after ``start`` (None: from the beginning) up to ``end``.

    :param rows: that they added, as their summaries say.
    """

    start: int | None
    end: int
    rows: int


def ranges(table: Table, start: int | None, max_rows: int) -> list[Range]:
    """Cut what is new into ranges of about ``max_rows`` rows, at snapshots.

    :param table: bronze.
    :param start: last snapshot read before; None, or one that is gone, reads all.
    :param max_rows: rows of a range, where a snapshot is not larger itself.
    """
    if table.snapshot_id is None or table.snapshot_id == start:
        return []
    if start is not None and not table.has_ancestor(start):
        start = None
    found: list[Range] = []
    first, rows, last = start, 0, start
    for snapshot, added in table.appended_since(start):
        if rows and rows + added > max_rows and last is not None:
            found.append(Range(first, last, rows))
            first, rows = last, 0
        rows += added
        last = snapshot
    if last is not None and last != start:
        found.append(Range(first, last, rows))
    return found


def _asked(table: Table, part: Range, schema: pa.Schema) -> tuple[list[DataTask], Wanted]:
    ids = table.field_ids()
    few = frozenset(name for name in schema.names if pa.types.is_dictionary(schema.field(name).type))
    wanted = Wanted({name: ids[name] for name in schema.names if name in ids}, dictionaries=few)
    return table.tasks(start=part.start, end=part.end), wanted


def _read(table: Table, part: Range, schema: pa.Schema, traffic: Traffic) -> pa.Table:
    tasks, wanted = _asked(table, part, schema)
    return conform(read_files(table.lake.store, tasks, wanted, traffic), schema)


def read_range(table: Table, part: Range, traffic: Traffic, rows: int) -> Iterator[pa.Table]:
    """Rows of bronze that a range added, with the columns :data:`COLUMNS`, piece by piece.

    :param rows: of a piece.
    """
    tasks, wanted = _asked(table, part, COLUMNS)
    for found in read_pieces(table.lake.store, tasks, wanted, rows, traffic):
        yield conform(found, COLUMNS)


def raw_changes(rows: pa.Table) -> list[RawChange]:
    """Rows of bronze, one by one."""
    values = {name: python_values(rows[name]) for name in rows.column_names if name != "value_schema"}
    values["value_schema"] = _decoded(rows["value_schema"])
    values["headers"] = [None if found is None else dict(found) for found in values["headers"]]
    return [RawChange(*row) for row in zip(*(values[name] for name in RawChange._fields), strict=True)]


def _decoded(column: pa.ChunkedArray) -> list[Any]:
    """Texts of which equal ones are one object."""
    result = []
    for chunk in column.chunks:
        texts = chunk.dictionary.to_pylist()
        result += [None if index is None else texts[index] for index in chunk.indices.to_pylist()]
    return result


def read_transactions(table: Table, part: Range, collection: str, traffic: Traffic) -> tuple[list[dict[str, Any]], int]:
    """END rows of the transactions table that name a collection, and when the newest row of all arrived.

    :param collection: ``schema.table``.
    """
    rows = _read(table, part, _TRANSACTIONS, traffic)
    if not rows.num_rows:
        return [], 0
    newest = int(pc.max(rows["kafka_ts"]).cast(pa.int64()).as_py() or 0)
    named = pc.match_substring(rows["data_collections"], _json_text(collection))
    rows = rows.filter(pc.and_kleene(pc.equal(rows["status"], "END"), named))
    values = {name: python_values(rows[name]) for name in rows.column_names}
    return [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)], newest


def read_notifications(table: Table, part: Range, traffic: Traffic) -> list[dict[str, Any]]:
    """Rows of the table of notifications."""
    rows = _read(table, part, _NOTIFICATIONS, traffic)
    values = {name: python_values(rows[name]) for name in rows.column_names}
    return [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]


def _json_text(text: str) -> str:
    # Kafka Connect's JSON writes other characters as they are, and escapes these two.
    return text.replace("\\", "\\\\").replace('"', '\\"')
