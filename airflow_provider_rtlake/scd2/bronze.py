"""What arrived in bronze since the last merge."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from airflow_provider_rtlake.scd2.change import RawChange
from airflow_provider_rtlake.scd2.lake import Table, Traffic, collect
from airflow_provider_rtlake.scd2.tables import python_values

_FEW_SCHEMAS = 4


@dataclass(frozen=True)
class Range:
    """Snapshots of bronze: after ``start`` (None: from the beginning) up to ``end``.

    :param rows: that they added, as their summaries say.
    """

    start: int | None
    end: int
    rows: int


@dataclass
class SchemaTexts:
    """Message schemas by their hash: each distinct one is fetched from bronze once in a session, not once a row."""

    texts: dict[tuple[int, int], str] = field(default_factory=dict)


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


def read_range(table: Table, part: Range, schemas: SchemaTexts, traffic: Traffic) -> list[RawChange]:
    """Rows of bronze that a range added.

    :param schemas: filled with the schemas met.
    """
    frame = table.frame(part.start, part.end)
    rows = collect(
        frame.selectExpr(
            "topic",
            "topic_partition",
            "topic_offset",
            "kafka_ts",
            "message_key",
            "headers",
            "op",
            "xxhash64(value_schema) AS schema_hash",
            "length(value_schema) AS schema_length",
            "payload",
        ),
        traffic,
    )
    values = {name: python_values(rows[name]) for name in rows.column_names}
    wanted = list(zip(values["schema_hash"], values["schema_length"], strict=True))
    missing = set(wanted) - schemas.texts.keys()
    if missing:
        _fetch_schemas(frame, missing, schemas)
    texts = [schemas.texts[key] for key in wanted]
    headers = [None if found is None else dict(found) for found in values["headers"]]
    names = ("topic", "topic_partition", "topic_offset", "kafka_ts", "message_key")
    return [
        RawChange(*row)
        for row in zip(*(values[name] for name in names), headers, values["op"], texts, values["payload"], strict=True)
    ]


def _fetch_schemas(frame: Any, missing: set[tuple[int, int]], schemas: SchemaTexts) -> None:
    columns = "xxhash64(value_schema) AS schema_hash", "length(value_schema) AS schema_length", "value_schema"
    if len(missing) <= _FEW_SCHEMAS:  # one row of each is found without a shuffle
        parts = [
            frame.where(f"xxhash64(value_schema) = {hashed} AND length(value_schema) = {length}").limit(1)
            for hashed, length in missing
        ]
    else:
        parts = [frame.groupBy("value_schema").count()]
    for part in parts:
        for row in collect(part.selectExpr(*columns)).to_pylist():
            schemas.texts[row["schema_hash"], row["schema_length"]] = row["value_schema"]


def read_transactions(table: Table, part: Range, collection: str) -> tuple[list[dict[str, Any]], int]:
    """END rows of the transactions table that name a collection, and when the newest row of all arrived.

    :param collection: ``schema.table``.
    """
    from pyspark.sql import functions as F

    frame = table.frame(part.start, part.end)
    concerns = (F.col("status") == "END") & F.col("data_collections").contains(_json_text(collection))
    listed = F.when(concerns, F.col("data_collections")).alias("data_collections")
    rows: pa.Table = collect(frame.select("topic_offset", "tx_id", listed, "kafka_ts"))
    values = {name: python_values(rows[name]) for name in rows.column_names}
    found = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
    newest = max((int(row["kafka_ts"]) for row in found), default=0)
    return [row for row in found if row["data_collections"] is not None], newest


def _json_text(text: str) -> str:
    # Kafka Connect's JSON writes other characters as they are, and escapes these two.
    return text.replace("\\", "\\\\").replace('"', '\\"')
