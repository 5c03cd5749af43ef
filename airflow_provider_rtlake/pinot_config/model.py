"""The declaration of one Pinot table, one file each under ``pinot_tables/``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Scalar = bool | int | float | str
DataType = Literal["INT", "LONG", "FLOAT", "DOUBLE", "BIG_DECIMAL", "BOOLEAN", "TIMESTAMP", "STRING", "JSON", "BYTES"]
FieldType = Literal["dimension", "metric", "dateTime"]
MILLIS_FORMAT = "1:MILLISECONDS:EPOCH"
# Pinot cuts strings at 512 characters unless told otherwise.
UNLIMITED = 2_147_483_647

_StrictBool = Annotated[bool, Field(strict=True)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Column(_Strict):
    """One column.

    :param type: Pinot data type.
    :param field: dimension, metric or dateTime.
    :param default: what stands for null, where the type's own default does not do.
    :param format: of a dateTime column; milliseconds since 1970 by default.
    :param granularity: of a dateTime column.
    :param max_length: characters kept of a STRING or JSON column; all by default.
    :param dictionary: False stores the values as they are: for columns in which nearly each value is another.
    """

    type: DataType
    field: FieldType = "dimension"
    default: Scalar | None = None
    format: str | None = None
    granularity: str | None = None
    max_length: Annotated[int, Field(strict=True, ge=1, le=UNLIMITED)] = UNLIMITED
    dictionary: _StrictBool = True


class Kafka(_Strict):
    """The topic that feeds the table.

    :param topic: its name.
    :param bootstrap_servers: ``host:port``, comma-separated; by default those of the stack.
    :param offset_reset: where a new table begins to read.
    :param partitions: of the topic, when it is created or grown.
    :param replication_factor: of the topic, when it is created.
    :param cleanup_policy: of the topic.
    :param isolation_level: whether messages of open or aborted transactions are read.
    :param config: further settings of the topic.
    :param consumer: further settings of Pinot's Kafka consumer.
    """

    topic: str
    bootstrap_servers: str | None = None
    offset_reset: Literal["smallest", "largest"] = "smallest"
    partitions: Annotated[int, Field(strict=True, ge=1, le=1000)] = 3
    replication_factor: Annotated[int, Field(strict=True, ge=1, le=32)] = 1
    cleanup_policy: Literal["delete", "compact", "compact,delete"] = "delete"
    isolation_level: Literal["read_committed", "read_uncommitted"] = "read_committed"
    config: dict[str, Scalar] = Field(default_factory=dict)
    consumer: dict[str, Scalar] = Field(default_factory=dict)


class Upsert(_Strict):
    """How an upsert table finds the row to show.

    :param primary_key: columns that identify a row; the topic is keyed by them.
    :param comparison_column: of two rows with one key the one with the greater value is shown; on equal
        values the later message.
    :param snapshot: keep which rows are valid on disk, for a faster restart; servers before 0.12 cannot, and
        find out anew.
    :param delete_column: BOOLEAN; from Pinot 1.0 on a row in which it is true is not shown. Older servers
        show it, so queries filter by it.
    """

    primary_key: tuple[str, ...]
    comparison_column: str
    snapshot: _StrictBool = True
    delete_column: str | None = None


class Segment(_Strict):
    """When a consuming segment is closed.

    :param flush_rows: rows after which it is closed; 0 lets the size decide.
    :param flush_time: age after which it is closed: ``24h``, ``90m``.
    :param size: wanted size where ``flush_rows`` is 0: ``100M``.
    """

    flush_rows: Annotated[int, Field(strict=True, ge=0, le=100_000_000)] = 500_000
    flush_time: str = "24h"
    size: str = "100M"


class PinotTable(_Strict):
    """One Pinot table and the topic that feeds it.

    :param table: name, without ``_REALTIME``.
    :param database: Pinot's logical database; servers before 1.2 have ``default`` only.
    :param type: REALTIME: fed from a topic.
    :param mode: ``upsert`` shows the last state of each key, ``append`` every message.
    :param kafka: the topic.
    :param time_column: dateTime column that retention goes by.
    :param upsert: for mode ``upsert``.
    :param retention_days: days after which closed segments are dropped; None keeps them.
    :param columns: name → column.
    :param segment: when a consuming segment is closed.
    :param replication: replicas of each segment.
    :param load_mode: MMAP, or HEAP for small tables that must be fast.
    :param null_handling: remember which values were null, so that ``IS NULL`` works.
    :param inverted_index: columns with an inverted index.
    :param range_index: columns with a range index.
    :param tenant: broker and server tenant.
    :param comment: for readers; goes nowhere.
    """

    table: str
    database: str = "default"
    type: Literal["REALTIME"] = "REALTIME"
    mode: Literal["upsert", "append"]
    kafka: Kafka
    time_column: str
    upsert: Upsert | None = None
    retention_days: Annotated[int, Field(strict=True, ge=1, le=36_500)] | None = None
    columns: Annotated[dict[str, Column], Field(min_length=1)]
    segment: Segment = Segment()
    replication: Annotated[int, Field(strict=True, ge=1, le=32)] = 1
    load_mode: Literal["MMAP", "HEAP"] = "MMAP"
    null_handling: _StrictBool = True
    inverted_index: tuple[str, ...] = ()
    range_index: tuple[str, ...] = ()
    tenant: str = "DefaultTenant"
    comment: str | None = None

    @property
    def full_name(self) -> str:
        """Name in Pinot: with the database in front unless it is the default one."""
        return self.table if self.database == "default" else f"{self.database}.{self.table}"


class GlobalKafka(_Strict):
    """Defaults of ``kafka``; see :class:`Kafka`."""

    bootstrap_servers: str | None = None
    offset_reset: Literal["smallest", "largest"] | None = None
    partitions: Annotated[int, Field(strict=True, ge=1, le=1000)] | None = None
    replication_factor: Annotated[int, Field(strict=True, ge=1, le=32)] | None = None
    isolation_level: Literal["read_committed", "read_uncommitted"] | None = None
    config: dict[str, Scalar] = Field(default_factory=dict)
    consumer: dict[str, Scalar] = Field(default_factory=dict)


class GlobalSection(_Strict):
    """Defaults of every table, in ``_global.yaml``, or of one, in its own file. A table's own keys win.

    :param kafka: see :class:`Kafka`.
    :param segment: see :class:`Segment`.
    """

    database: str | None = None
    kafka: GlobalKafka = GlobalKafka()
    segment: Segment = Segment()
    retention_days: Annotated[int, Field(strict=True, ge=1, le=36_500)] | None = None
    replication: Annotated[int, Field(strict=True, ge=1, le=32)] | None = None
    load_mode: Literal["MMAP", "HEAP"] | None = None
    null_handling: _StrictBool | None = None
    tenant: str | None = None
