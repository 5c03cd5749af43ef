"""The declaration: a connector and the tables it captures."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from airflow_provider_rtlake.streams.naming import slug, split_qualified, topic_part

_OF_THE_CONNECTOR = ("transactions", "notifications")  # bronze tables that no captured table's name may take


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class History(_Strict):
    """How a table's SCD Type 2 history is kept.

    :param table: Iceberg table, ``namespace.name``; by default ``default.<table>_scd2_iceberg``.
    :param untracked: Type 1 columns: a change of them alone opens no version.
    :param renamed_from: new column name → the old one that it continues.
    :param accept_loss: columns whose type Debezium's JSON cannot carry exactly, accepted by name.
    """

    table: str | None = None
    untracked: tuple[str, ...] = ()
    renamed_from: dict[str, str] = Field(default_factory=dict)
    accept_loss: tuple[str, ...] = ()


class Realtime(_Strict):
    """The real-time lane of a table: two topics, each served by a Pinot table.

    :param current_topic: last state of each key, compacted.
    :param history_topic: one message a change.
    :param current_table: Pinot upsert table on the current topic; None takes the generated default.
    :param history_table: Pinot table of changes on the history topic.
    :param partitions: of both topics.
    """

    current_topic: str | None = None
    history_topic: str | None = None
    current_table: str | None = None
    history_table: str | None = None
    partitions: int = Field(default=3, ge=1, le=64)


class Table(_Strict):
    """One captured table.

    :param name: identifier that the derived names (bronze table, topics, jobs, Pinot tables) are made from; by
        default the table's name, with the schema before it where that is not ``public``.
    :param key: columns that identify a row; by default the primary key.
    :param exclude: columns that are not captured.
    :param history: False keeps no history.
    :param realtime: False serves it nowhere.
    :param parquet_staging: also write plain Parquet files under ``staging/<value>/dt=…`` of the bucket
        ``streaming``.
    :param replica_identity: ``full`` lets the deployment set REPLICA IDENTITY FULL, ``keep`` leaves the table as it
        is (an error where FULL is needed). By default FULL is set where the table has a real-time lane or a
        deferrable key.
    :param accept_loss: columns whose type Debezium's JSON cannot carry exactly, accepted by name.
    """

    name: str | None = None
    key: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    history: History | Literal[False] = History()
    realtime: Realtime | Literal[False] = Realtime()
    parquet_staging: str | None = None
    replica_identity: Literal["full", "keep"] | None = None
    accept_loss: tuple[str, ...] = ()


class Database(_Strict):
    """The source database.

    :param connection: Airflow connection id (and name in the stack's settings): host, port, user, password.
    :param name: database name; by default the connection's.
    """

    connection: str = "rtlake_source"
    name: str | None = None


class Connector(_Strict):
    """One Debezium connector for PostgreSQL and the tables it captures. One YAML file each.

    :param connector: name in Kafka Connect.
    :param database: the source.
    :param topic_prefix: first part of each topic's name.
    :param publication: PostgreSQL publication, made by the deployment.
    :param slot: replication slot; by default made from the connector's name.
    :param heartbeat_ms: milliseconds between heartbeats, which let the slot move on while no captured table
        changes; 0 sends none.
    :param partitions: of the captured tables' topics.
    :param config: further Debezium settings, which win over the defaults; none of those that this project derives.
    :param tables: ``schema.table`` → how it is kept.
    """

    connector: str
    database: Database = Database()
    topic_prefix: str
    publication: str = "dbz_publication"
    slot: str | None = None
    heartbeat_ms: int = Field(default=10_000, ge=0)
    partitions: int = Field(default=3, ge=1, le=64)
    config: dict[str, str | int | bool] = Field(default_factory=dict)
    tables: dict[str, Table]

    @property
    def slot_name(self) -> str:
        """The replication slot: PostgreSQL allows lower-case letters, digits and underscores, 63 bytes."""
        return self.slot or slug(f"rtlake_{self.connector}".replace("-", "_").lower(), length=63)

    @property
    def transaction_topic(self) -> str:
        """Where Debezium tells the begin and end of each transaction."""
        return f"{self.topic_prefix}.transaction"

    @property
    def dead_letter_topic(self) -> str:
        """Where messages that cannot be read go."""
        return f"{self.topic_prefix}.dead_letters"

    @property
    def notification_topic(self) -> str:
        """Where Debezium tells the progress of snapshots."""
        return f"{self.topic_prefix}.notifications"

    @property
    def signal_topic(self) -> str:
        """Where the deployment asks Debezium for the snapshot of a table that was added later."""
        return f"{self.topic_prefix}.signals"

    @property
    def heartbeat_topic(self) -> str:
        """Debezium's heartbeats."""
        return f"__debezium-heartbeat.{self.topic_prefix}"

    @property
    def streams(self) -> tuple[Stream, ...]:
        """The captured tables with every derived name, in the order of the file."""
        return tuple(Stream(connector=self, source=name, table=table) for name, table in self.tables.items())


class Stream(_Strict):
    """A captured table with all the names derived from its declaration. What every other room works with.

    :param connector: the connector that captures it.
    :param source: ``schema.table`` as declared.
    :param table: its declaration.
    """

    connector: Connector
    source: str
    table: Table

    @property
    def schema_name(self) -> str:
        """PostgreSQL schema, as the database spells it."""
        return split_qualified(self.source)[0]

    @property
    def table_name(self) -> str:
        """PostgreSQL table, as the database spells it."""
        return split_qualified(self.source)[1]

    @property
    def slug(self) -> str:
        """Identifier made from schema and table; ``public`` is left out.

        Holds no ``__``, also not with ``_current`` appended: Pinot separates the parts of a segment's name by it.
        """
        if self.table.name is not None:
            return self.table.name
        schema, table = split_qualified(self.source)
        pretty = table if schema == "public" else f"{schema}_{table}"
        if slug(pretty) == pretty and "__" not in f"{pretty}_":
            return pretty
        return slug(f"{schema}.{table}" if schema != "public" or "__" in f"{table}_" else table)

    @property
    def topic(self) -> str:
        """Debezium's topic."""
        return f"{self.connector.topic_prefix}.{topic_part(self.schema_name)}.{topic_part(self.table_name)}"

    @property
    def dead_letter_topic(self) -> str:
        """Where messages that cannot be read go, one topic for each connector."""
        return self.connector.dead_letter_topic

    @property
    def accepted_loss(self) -> frozenset[str]:
        """Columns whose type Debezium's JSON cannot carry exactly, accepted by name."""
        history = () if self.table.history is False else self.table.history.accept_loss
        return frozenset((*self.table.accept_loss, *history))

    @property
    def bronze_table(self) -> str:
        """Iceberg table of every change, ``namespace.name``."""
        name = f"{self.slug}_table" if self.slug in _OF_THE_CONNECTOR else self.slug
        return f"bronze.{slug(self.connector.topic_prefix)}_{name}"

    @property
    def bronze_transactions(self) -> str:
        """Iceberg table of the connector's transaction markers."""
        return f"bronze.{slug(self.connector.topic_prefix)}_transactions"

    @property
    def bronze_notifications(self) -> str:
        """Iceberg table of what Debezium tells of the connector's snapshots."""
        return f"bronze.{slug(self.connector.topic_prefix)}_notifications"

    @property
    def history_table(self) -> str | None:
        """Iceberg table of the history, ``namespace.name``; None where none is kept."""
        if self.table.history is False:
            return None
        return self.table.history.table or f"default.{self.slug}_scd2_iceberg"

    @property
    def history_base(self) -> str | None:
        """What the history's companion tables (checkpoint, changes) are named after: ``default.<x>_scd2``."""
        name = self.history_table
        return None if name is None else name.removesuffix("_iceberg")

    @property
    def merge_dag(self) -> str:
        """Id of the Airflow DAG that merges the history; ``source_sales`` is ``sales``, as its users know it."""
        return f"scd2_{'sales' if self.slug == 'source_sales' else self.slug}_spark_processing"

    @property
    def current_topic(self) -> str | None:
        """Topic of the last state of each key."""
        realtime = self.table.realtime
        return None if realtime is False else realtime.current_topic or f"{self.slug}_current"

    @property
    def history_topic(self) -> str | None:
        """Topic of one message a change."""
        realtime = self.table.realtime
        return None if realtime is False else realtime.history_topic or f"{self.slug}_history"

    @property
    def pinot_current(self) -> str | None:
        """Pinot upsert table."""
        realtime = self.table.realtime
        return None if realtime is False else realtime.current_table or f"{self.slug}_current"

    @property
    def pinot_history(self) -> str | None:
        """Pinot table of changes."""
        realtime = self.table.realtime
        return None if realtime is False else realtime.history_table or f"{self.slug}_history"

    @property
    def bronze_job(self) -> str:
        """Name of the Flink job of the bronze lane."""
        return f"bronze.{self.topic}"

    @property
    def realtime_job(self) -> str:
        """Name of the Flink job of the real-time lane."""
        return f"realtime.{self.topic}"

    @property
    def realtime_group(self) -> str:
        """Consumer group under which that job commits what it has read."""
        return f"rtlake.{self.realtime_job}"
