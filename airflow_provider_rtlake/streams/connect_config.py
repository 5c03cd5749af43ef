"""The complete Debezium configuration of a declared connector."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from airflow_provider_rtlake.streams.model import Connector, Stream
from airflow_provider_rtlake.streams.schema import TableSchema
from airflow_provider_rtlake.streams.source import SourceTable
from airflow_provider_rtlake.streams.source_access import SourceAccess

EPOCH_HEADER = "rtlake.epoch"
PLACEHOLDER_HEADER = "rtlake.unavailable"  # what stands for a large value that PostgreSQL did not send
_EPOCH_KEY = "transforms.epoch.value.literal"
_PLACEHOLDER_KEY = "unavailable.value.placeholder"
HEARTBEAT_PREFIX = "rtlake.heartbeat"  # of logical messages; Debezium is told to drop them
_WAL_BEHIND = 16 * 2**20  # bytes
_RETENTION_MS = 7 * 24 * 3600 * 1000


@dataclass(frozen=True)
class Epoch:
    """One life of a replication slot.

    :param number: counted from 1, never used twice for a connector.
    :param system_id: the database cluster's identity.
    :param timeline: of the cluster.
    """

    number: int
    system_id: str
    timeline: int

    @property
    def text(self) -> str:
        """As it stands in the header of every record."""
        return f"{self.number}:{self.system_id}:{self.timeline}"

    @classmethod
    def parse(cls, text: str) -> Epoch:
        """Read :attr:`text` back.

        :param text: the header's value.
        :raises ValueError: it is no epoch.
        """
        number, system_id, timeline = text.split(":")
        return cls(int(number), system_id, int(timeline))


def epoch_of(config: Mapping[str, str]) -> Epoch | None:
    """The epoch that a running connector writes; None where it was not made by this project.

    :param config: its configuration.
    """
    try:
        return Epoch.parse(config[_EPOCH_KEY].strip('"'))
    except (KeyError, ValueError):
        return None


def placeholder_of(config: Mapping[str, str]) -> str | None:
    """What stands for a large value that PostgreSQL did not send; None where the connector has no text of its own.

    :param config: its configuration.
    """
    return config.get(_PLACEHOLDER_KEY)


def render_config(
    connector: Connector,
    tables: Mapping[str, SourceTable],
    source: SourceAccess,
    *,
    epoch: Epoch,
    placeholder: str,
    bootstrap_servers: str,
) -> dict[str, str]:
    """The configuration that Kafka Connect gets.

    :param connector: the declaration.
    :param tables: ``Stream.source`` → what the source's catalog says of it.
    :param source: where Debezium reads; its password is a reference that Connect resolves.
    :param epoch: of the replication slot.
    :param placeholder: random text that stands for a large value that PostgreSQL did not send.
    :param bootstrap_servers: Kafka brokers as seen from Connect's workers.
    """
    access = source.for_connector(connector)
    config = {
        "name": connector.connector,
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "tasks.max": "1",
        "database.hostname": access.host,
        "database.port": str(access.port),
        "database.user": access.replication_user,
        "database.password": access.replication_password,
        "database.dbname": access.dbname,
        "database.sslmode": access.sslmode,
        "topic.prefix": connector.topic_prefix,
        "plugin.name": "pgoutput",
        "slot.name": connector.slot_name,
        "publication.name": connector.publication,
        "publication.autocreate.mode": "disabled",
        "table.include.list": ",".join(table_pattern(stream) for stream in connector.streams),
        "snapshot.mode": "initial",
        **_VALUES,
        _PLACEHOLDER_KEY: placeholder,
        "heartbeat.interval.ms": str(connector.heartbeat_ms),
        "topic.creation.default.replication.factor": "-1",
        "topic.creation.default.partitions": str(connector.partitions),
        "topic.creation.default.cleanup.policy": "delete",
        "topic.creation.default.retention.ms": str(_RETENTION_MS),
        "notification.enabled.channels": "sink",
        "notification.sink.topic.name": connector.notification_topic,
        "signal.enabled.channels": "kafka",
        "signal.kafka.topic": connector.signal_topic,
        "signal.kafka.bootstrap.servers": bootstrap_servers,
        "signal.kafka.groupId": signal_group(connector),
        "signal.kafka.poll.timeout.ms": "500",
        "signal.poll.interval.ms": "1000",
        "transforms": "epoch,unavailable",
        "transforms.epoch.type": "org.apache.kafka.connect.transforms.InsertHeader",
        "transforms.epoch.header": EPOCH_HEADER,
        # In quotes, which arrive with it: a literal that begins with a digit would be taken for a number.
        _EPOCH_KEY: f'"{epoch.text}"',
        "transforms.unavailable.type": "org.apache.kafka.connect.transforms.InsertHeader",
        "transforms.unavailable.header": PLACEHOLDER_HEADER,
        "transforms.unavailable.value.literal": placeholder,
        "message.prefix.exclude.list": re.escape(HEARTBEAT_PREFIX),
        **_TUNING,
    }
    if connector.heartbeat_ms:
        config["heartbeat.action.query"] = heartbeat_query(connector)
    excluded = [column_pattern(stream, name) for stream in connector.streams for name in stream.table.exclude]
    if excluded:
        config["column.exclude.list"] = ",".join(excluded)
    keys = [_key(stream, tables[stream.source].schema) for stream in connector.streams if stream.table.key is not None]
    if keys:
        config["message.key.columns"] = ";".join(keys)
    config.update({name: _text(value) for name, value in connector.config.items()})
    return config


def heartbeat_query(connector: Connector) -> str:
    """What Debezium runs with each heartbeat.

    Without a write of its own an idle table would keep the slot from moving while others fill the log. A transaction
    of its own would be two markers each time, so it is none, but for one case: a task that was restarted looks for
    the next transaction before it lets the slot move, and where no captured table changes there is none.

    :param connector: the declaration.
    """
    behind = f"pg_current_wal_lsn() - confirmed_flush_lsn > {_WAL_BEHIND}"
    return (
        f"SELECT pg_logical_emit_message(coalesce({behind}, false), '{HEARTBEAT_PREFIX}', '')"  # noqa: S608
        f" FROM pg_replication_slots WHERE slot_name = '{connector.slot_name}'"
    )


_VALUES = {
    "key.converter": "org.apache.kafka.connect.json.JsonConverter",
    "key.converter.schemas.enable": "false",
    "value.converter": "org.apache.kafka.connect.json.JsonConverter",
    "value.converter.schemas.enable": "true",
    "decimal.handling.mode": "string",
    "interval.handling.mode": "string",
    "hstore.handling.mode": "json",
    "binary.handling.mode": "base64",
    "column.propagate.source.type": ".*",
    "provide.transaction.metadata": "true",
    "tombstones.on.delete": "true",
    "skipped.operations": "none",
    "extended.headers.enabled": "false",
}

# What a declaration's own config may change.
_TUNING = {
    # The server takes a moment to notice that the task before has let the slot go.
    "slot.retry.delay.ms": "1000",
    "slot.max.retries": "30",
    "poll.interval.ms": "20",
    "max.batch.size": "8192",
    "max.queue.size": "32768",
    "producer.override.linger.ms": "5",
    "producer.override.batch.size": "262144",
    "producer.override.compression.type": "lz4",
}


def signal_group(connector: Connector) -> str:
    """The consumer group that Debezium reads its signals with.

    :param connector: the declaration.
    """
    return f"rtlake-signals-{connector.connector}"


def table_pattern(stream: Stream) -> str:
    """The regular expression that names exactly one table for Debezium, which ignores case unless told otherwise.

    :param stream: the table.
    """
    return f"(?-i){_literal(stream.schema_name)}\\.{_literal(stream.table_name)}"


def column_pattern(stream: Stream, column: str) -> str:
    """The regular expression that names exactly one column.

    :param stream: the table.
    :param column: as the database spells it.
    """
    return f"{table_pattern(stream)}\\.{_literal(column)}"


def _literal(name: str) -> str:
    """A name as a Java regular expression without any character that Debezium splits its lists at."""
    return "".join(
        character if character.isascii() and (character.isalnum() or character == "_") else f"\\x{{{ord(character):x}}}"
        for character in name
    )


def _key(stream: Stream, schema: TableSchema) -> str:
    return f"{table_pattern(stream)}:{','.join(schema.key)}"


def _text(value: str | int | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
