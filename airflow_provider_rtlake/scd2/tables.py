"""The tables of a history: their columns, their rows as Arrow, and how the history follows the source's schema."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from airflow_provider_rtlake.exceptions import TerminalError
from airflow_provider_rtlake.scd2.change import Change, RawChange, Shape, key_hash
from airflow_provider_rtlake.scd2.fold import Event, Mark, Version, record_hash
from airflow_provider_rtlake.scd2.names import HISTORY_COLUMNS as HISTORY_COLUMNS
from airflow_provider_rtlake.scd2.names import RESERVED
from airflow_provider_rtlake.scd2.plan import Stored
from airflow_provider_rtlake.scd2.position import Position
from airflow_provider_rtlake.scd2.values import normal, widened

BUCKETS = "rtlake.scd2.buckets"  # table property
CHANGES_COLUMNS: tuple[tuple[str, str], ...] = (
    ("scd2_bucket", "int"),
    ("scd2_key_hash", "bigint"),
    ("scd2_key", "string"),
    ("position", "string"),
    ("tx_id", "bigint"),
    ("op", "string"),
    ("topic", "string"),
    ("topic_partition", "int"),
    ("topic_offset", "bigint"),
    ("kafka_ts", "timestamp"),
    ("message_key", "string"),
    ("headers", "string"),
    ("value_schema", "string"),
    ("payload", "string"),
    ("merge_id", "string"),
)

CHECKPOINT_COLUMNS: tuple[tuple[str, str], ...] = (
    ("merge_id", "string"),
    ("merged_at", "timestamp"),
    ("position", "string"),
    ("epoch", "string"),
    ("bronze_table", "string"),
    ("bronze_snapshot", "bigint"),
    ("bronze_seen", "bigint"),
    ("transactions_snapshot", "bigint"),
    ("marks", "string"),
    ("pending", "string"),
    ("statistics", "string"),
)

UNREAD_COLUMNS: tuple[tuple[str, str], ...] = (
    ("topic", "string"),
    ("topic_partition", "int"),
    ("topic_offset", "bigint"),
    ("kafka_ts", "timestamp"),
    ("message_key", "string"),
    ("reason", "string"),
    ("merge_id", "string"),
)

_SPARK = {"int": "int", "long": "bigint", "timestamp": "timestamp_ntz", "timestamptz": "timestamp"}


class SchemaIncompatible(TerminalError):
    """A column of the source has a type that the history's column cannot hold."""


def quoted(name: str) -> str:
    """A name as Spark SQL takes any name."""
    return "`" + name.replace("`", "``") + "`"


def spark_type(iceberg: str) -> str:
    """Spark SQL's spelling of an Iceberg type."""
    if iceberg.startswith("list<"):
        return f"array<{spark_type(iceberg[5:-1])}>"
    return _SPARK.get(iceberg, iceberg)


@dataclass(frozen=True)
class Evolution:
    """How the history's columns have to change before a batch fits.

    :param added: name and Iceberg type.
    :param renamed: old name and new name.
    :param widened: name and new Iceberg type.
    """

    added: tuple[tuple[str, str], ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    widened: tuple[tuple[str, str], ...] = ()

    def statements(self, table: str) -> list[str]:
        """The ALTER statements.

        :param table: quoted name.
        """
        return [
            *(f"ALTER TABLE {table} RENAME COLUMN {quoted(old)} TO {quoted(new)}" for old, new in self.renamed),
            *(f"ALTER TABLE {table} ADD COLUMN {quoted(name)} {spark_type(kind)}" for name, kind in self.added),
            *(
                f"ALTER TABLE {table} ALTER COLUMN {quoted(name)} TYPE {spark_type(kind)}"
                for name, kind in self.widened
            ),
        ]


def evolution(
    table: str, present: Mapping[str, str], shapes: Iterable[Shape], renamed_from: Mapping[str, str]
) -> Evolution:
    """Compare the history's columns with those of the messages.

    :param table: history table, for messages.
    :param present: its source columns: name → Iceberg type; empty for a new table.
    :param shapes: of the batch, oldest first.
    :param renamed_from: new column → old one.
    :raises SchemaIncompatible: no type holds both.
    """
    columns = dict(present)
    renamed = []
    wanted = {column.name: column for shape in shapes for column in shape.columns}
    for new, old in renamed_from.items():
        if new in wanted and new not in columns and old in columns:
            columns[new] = columns.pop(old)
            renamed.append((old, new))
    added, wider = [], {}
    for shape in shapes:
        for column in shape.columns:
            if column.name in RESERVED:
                raise SchemaIncompatible(
                    f"{table}: column {column.name} of the source has a name that the history itself uses; exclude it"
                )
            known = columns.get(column.name)
            if known is None:
                columns[column.name] = column.iceberg
                added.append(column.name)
                continue
            both = widened(known, column.iceberg)
            if both is None:
                raise SchemaIncompatible(
                    f"{table}: column {column.name} is {known} in the history, and {column.iceberg} "
                    f"({column.postgres}) at the source: no type holds both; nothing was written. List the "
                    "column under history: accept_loss to keep it as text, and rebuild the history (rtlake scd2 "
                    "rebuild TABLE); or exclude it"
                )
            if both != normal(known):
                columns[column.name] = both
                if column.name in present or column.name in {new for _, new in renamed}:
                    wider[column.name] = both
    return Evolution(tuple((name, columns[name]) for name in added), tuple(renamed), tuple(sorted(wider.items())))


# --- Arrow ---

_ARROW: dict[str, pa.DataType] = {
    "boolean": pa.bool_(),
    "int": pa.int32(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us"),
    "timestamptz": pa.timestamp("us", tz="UTC"),
    "string": pa.string(),
    "binary": pa.binary(),
}


def _arrow_type(kind: Any) -> pa.DataType:
    if isinstance(kind, dict):  # a list
        element = pa.field("element", _arrow_type(kind["element"]), metadata=_field_id(kind["element-id"]))
        return pa.list_(element)
    return scalar_type(kind)


def scalar_type(kind: str) -> pa.DataType:
    """Arrow's form of an Iceberg type that is no list, struct or map.

    :raises KeyError: for any other.
    """
    if kind.startswith("decimal("):
        precision, scale = kind[8:-1].split(",")
        return pa.decimal128(int(precision), int(scale))
    return _ARROW[kind]


def _field_id(number: int) -> dict[str, str]:
    return {"PARQUET:field_id": str(number)}


def arrow_schema(iceberg_json: str) -> pa.Schema:
    """The Arrow schema of an Iceberg table, with the field ids that its files must carry.

    :param iceberg_json: as of Iceberg's ``SchemaParser``.
    """
    fields = json.loads(iceberg_json)["fields"]
    return pa.schema(
        [
            pa.field(
                field["name"],
                _arrow_type(field["type"]),
                not field["required"],
                metadata=_field_id(field["id"]),
            )
            for field in fields
        ]
    )


def column_types(iceberg_json: str) -> dict[str, str]:
    """Name → Iceberg type, lists spelled ``list<element>``."""
    result = {}
    for field in json.loads(iceberg_json)["fields"]:
        kind = field["type"]
        result[field["name"]] = f"list<{normal(kind['element'])}>" if isinstance(kind, dict) else normal(kind)
    return result


def source_columns(iceberg_json: str) -> dict[str, str]:
    """Those of :func:`column_types` that come from the source."""
    return {name: kind for name, kind in column_types(iceberg_json).items() if name not in RESERVED}


def python_values(column: pa.ChunkedArray) -> list[Any]:
    """A column's values in the form of :mod:`.values`: dates and timestamps as numbers."""
    kind = column.type
    if pa.types.is_date(kind):
        column = column.cast(pa.int32())
    elif pa.types.is_timestamp(kind):
        column = column.cast(pa.int64())
    elif pa.types.is_list(kind):
        inner = kind.value_type
        if pa.types.is_date(inner):
            column = column.cast(pa.list_(pa.int32()))
        elif pa.types.is_timestamp(inner):
            column = column.cast(pa.list_(pa.int64()))
    return list(column.to_pylist())


class Layout:
    """The history table as it stands: turns versions into rows and back.

    :param iceberg_json: schema.
    :param buckets: number of partitions of the last versions.
    :param untracked: Type 1 columns.
    """

    def __init__(self, iceberg_json: str, buckets: int, untracked: frozenset[str]) -> None:
        self.schema = arrow_schema(iceberg_json)
        self.columns = tuple(source_columns(iceberg_json))
        self.buckets = buckets
        self.untracked = untracked

    def bucket(self, hashed: int) -> int:
        """Partition of a key."""
        return hashed % self.buckets

    def rows(self, versions: Sequence[tuple[Version, bool]]) -> dict[tuple[bool, int], pa.Table]:
        """Versions as Arrow, one table for each partition, ordered by key.

        :param versions: with whether each is its key's last.
        """
        groups: dict[tuple[bool, int], list[tuple[int, Version]]] = {}
        for version, last in versions:
            hashed = key_hash(version.key)
            groups.setdefault((last, self.bucket(hashed)), []).append((hashed, version))
        return {
            partition: self._table(sorted(group, key=lambda pair: (pair[0], pair[1].start)), *partition)
            for partition, group in groups.items()
        }

    def _table(self, group: list[tuple[int, Version]], last: bool, bucket: int) -> pa.Table:
        versions = [version for _, version in group]
        content: dict[str, list[Any]] = {
            name: [version.values.get(name) for version in versions] for name in self.columns
        }
        content |= {
            "effective_start_ts": [version.start for version in versions],
            "effective_end_ts": [version.end for version in versions],
            "is_current": [version.is_current for version in versions],
            "is_deleted": [version.deleted for version in versions],
            "record_hash": [record_hash(version.values, self.untracked) for version in versions],
            "scd2_last": [last] * len(versions),
            "scd2_bucket": [bucket] * len(versions),
            "scd2_key_hash": [hashed for hashed, _ in group],
            "scd2_key": [version.key for version in versions],
            "scd2_last_position": [version.last_position.text for version in versions],
            "scd2_origin": [version.origin for version in versions],
            "scd2_moved": [version.moved for version in versions],
            **_events("opened", [version.opened for version in versions]),
            **_events("closed", [version.closed for version in versions]),
            "scd2_closed_by": [version.closed_by for version in versions],
            "scd2_previous_key": [version.previous_key for version in versions],
            "scd2_next_key": [version.next_key for version in versions],
            "scd2_unknown": [json.dumps(sorted(version.unknown)) if version.unknown else None for version in versions],
        }
        return pa.table([pa.array(content[field.name], field.type) for field in self.schema], schema=self.schema)

    def read(self, table: pa.Table) -> list[Stored]:
        """Rows read with their ``_file`` and ``_pos``, as stored versions."""
        values = {name: python_values(table[name]) for name in table.column_names}
        stored = []
        for index in range(table.num_rows):
            row = {name: column[index] for name, column in values.items()}
            unknown = row["scd2_unknown"]
            version = Version(
                key=row["scd2_key"],
                values={name: row[name] for name in self.columns},
                start=row["effective_start_ts"],
                end=row["effective_end_ts"],
                deleted=row["is_deleted"],
                origin=row["scd2_origin"],
                moved=row["scd2_moved"],
                opened=_event("opened", row),  # type: ignore[arg-type]
                closed=_event("closed", row),
                closed_by=row["scd2_closed_by"],
                previous_key=row["scd2_previous_key"],
                next_key=row["scd2_next_key"],
                unknown=frozenset(json.loads(unknown)) if unknown else frozenset(),
                last_position=Position.parse(row["scd2_last_position"]),
            )
            ref = (row["_file"], row["_pos"], row["scd2_bucket"])
            stored.append(Stored(version, row["scd2_last"], ref))
        return stored


def _events(name: str, events: Sequence[Event | None]) -> dict[str, list[Any]]:
    return {
        f"scd2_{name}_position": [event and event.position.text for event in events],
        f"scd2_{name}_lsn": [event and event.position.lsn for event in events],
        f"scd2_{name}_tx": [event and event.tx for event in events],
        f"scd2_{name}_topic": [event and event.topic for event in events],
        f"scd2_{name}_partition": [event and event.partition for event in events],
        f"scd2_{name}_offset": [event and event.offset for event in events],
    }


def _event(name: str, row: Mapping[str, Any]) -> Event | None:
    position = row[f"scd2_{name}_position"]
    if position is None:
        return None
    return Event(
        Position.parse(position),
        row[f"scd2_{name}_tx"],
        row[f"scd2_{name}_topic"],
        row[f"scd2_{name}_partition"],
        row[f"scd2_{name}_offset"],
    )


def changes_table(changes: Sequence[Change], schema: pa.Schema, buckets: int, merge_id: str) -> dict[int, pa.Table]:
    """Applied changes as Arrow, one table for each bucket, ordered by key."""
    groups: dict[int, list[tuple[int, Change]]] = {}
    for change in changes:
        hashed = key_hash(str(change.key))
        groups.setdefault(hashed % buckets, []).append((hashed, change))
    result = {}
    for bucket, group in groups.items():
        group.sort(key=lambda pair: (pair[0], pair[1].position))
        raws = [change.raw for _, change in group]
        content: dict[str, list[Any]] = {
            "scd2_bucket": [bucket] * len(group),
            "scd2_key_hash": [hashed for hashed, _ in group],
            "scd2_key": [change.key for _, change in group],
            "position": [change.position.text for _, change in group],
            "tx_id": [change.tx for _, change in group],
            "op": [raw.op for raw in raws],
            "topic": [raw.topic for raw in raws],
            "topic_partition": [raw.topic_partition for raw in raws],
            "topic_offset": [raw.topic_offset for raw in raws],
            "kafka_ts": [raw.kafka_ts for raw in raws],
            "message_key": [raw.message_key for raw in raws],
            "headers": [None if raw.headers is None else json.dumps(raw.headers) for raw in raws],
            "value_schema": [raw.value_schema for raw in raws],
            "payload": [raw.payload for raw in raws],
            "merge_id": [merge_id] * len(group),
        }
        result[bucket] = pa.table([pa.array(content[field.name], field.type) for field in schema], schema=schema)
    return result


def read_changes(table: pa.Table) -> list[RawChange]:
    """Rows of the changes table as they were in bronze."""
    values = {name: python_values(table[name]) for name in table.column_names}
    return [
        RawChange._make((*row[:5], None if row[5] is None else json.loads(row[5]), *row[6:]))
        for row in zip(*(values[name] for name in RawChange._fields), strict=True)
    ]


def mark_json(mark: Mark) -> list[Any]:
    """A mark for the checkpoint."""
    place = [mark.topic, mark.partition, mark.offset, mark.kafka_ts, mark.since and mark.since.text]
    return [mark.kind, mark.position.text, mark.tx, mark.ts, *place]


def mark_from(data: Sequence[Any]) -> Mark:
    """The inverse of :func:`mark_json`."""
    kind, position, tx, ts, topic, partition, offset, *later = data
    kafka_ts, since = later or (0, None)  # written before there were these two
    where = Position.parse(position)
    return Mark(kind, where, tx, ts, topic, partition, offset, kafka_ts, since and Position.parse(since))


def create_statement(
    table: str, columns: Sequence[tuple[str, str]], partitions: Sequence[str], **properties: str
) -> str:
    """CREATE TABLE.

    :param table: quoted name.
    :param columns: name and Spark type.
    :param partitions: columns to partition by.
    :param properties: further table properties, ``__`` for a dot.
    """
    own = {
        "format-version": "2",
        "write.delete.mode": "merge-on-read",
        "write.update.mode": "merge-on-read",
        "write.merge.mode": "merge-on-read",
        "write.parquet.compression-codec": "zstd",
        **{name.replace("__", "."): value for name, value in properties.items()},
    }
    listed = ", ".join(f"{quoted(name)} {kind}" for name, kind in columns)
    by = f" PARTITIONED BY ({', '.join(map(quoted, partitions))})" if partitions else ""
    settings = ", ".join(f"'{name}'='{value}'" for name, value in own.items())
    return f"CREATE TABLE IF NOT EXISTS {table} ({listed}) USING iceberg{by} TBLPROPERTIES ({settings})"
