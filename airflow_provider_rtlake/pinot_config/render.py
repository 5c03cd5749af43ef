"""Makes Pinot's ``schema.json`` and ``table.json`` from a declaration. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from airflow_provider_rtlake.exceptions import UserError
from airflow_provider_rtlake.pinot_config.model import MILLIS_FORMAT, Column, PinotTable, Scalar
from airflow_provider_rtlake.pinot_config.version import LOCKED, PinotVersion

DEFAULT_BOOTSTRAP = "localhost:9092"
Json = dict[str, Any]


@dataclass(frozen=True)
class Topic:
    """The Kafka topic that a table reads.

    :param name: topic.
    :param partitions: number.
    :param replication_factor: copies of each partition.
    :param config: topic settings, as Kafka spells them.
    """

    name: str
    partitions: int
    replication_factor: int
    config: dict[str, str]


@dataclass(frozen=True)
class Rendered:
    """A declaration as Pinot and Kafka want it.

    :param declaration: what it was made from.
    :param schema: body of ``POST /schemas``.
    :param table: body of ``POST /tables``.
    :param topic: the topic to create.
    """

    declaration: PinotTable
    schema: Json
    table: Json
    topic: Topic

    @property
    def name(self) -> str:
        """Table name in Pinot, without ``_REALTIME``."""
        return self.declaration.full_name


def render(table: PinotTable, *, bootstrap_servers: str | None = None, version: PinotVersion = LOCKED) -> Rendered:
    """Schema, table configuration and topic of a declaration.

    :param table: the declaration.
    :param bootstrap_servers: ``host:port`` list for a table that declares none.
    :param version: the Pinot server's.
    :raises UserError: the server's version lacks something that the declaration asks for.
    """
    if table.database != "default" and not version.databases:
        raise UserError(
            f"table {table.table}: database {table.database!r} needs Pinot 1.2 or later, the server is"
            f" {version.major}.{version.minor}; remove the key database"
        )
    servers = table.kafka.bootstrap_servers or bootstrap_servers or DEFAULT_BOOTSTRAP
    return Rendered(table, schema_json(table), table_json(table, servers, version), topic_of(table))


def schema_json(table: PinotTable) -> Json:
    """Body of ``POST /schemas``.

    :param table: the declaration.
    """
    result: Json = {
        "schemaName": table.full_name,
        "dimensionFieldSpecs": _fields(table, "dimension"),
        "metricFieldSpecs": _fields(table, "metric"),
        "dateTimeFieldSpecs": _fields(table, "dateTime"),
    }
    if table.upsert is not None:
        result["primaryKeyColumns"] = list(table.upsert.primary_key)
    return {key: value for key, value in result.items() if value}


def _fields(table: PinotTable, field: str) -> list[Json]:
    return [_field(name, column) for name, column in table.columns.items() if column.field == field]


def _field(name: str, column: Column) -> Json:
    result: Json = {"name": name, "dataType": column.type}
    if column.field == "dateTime":
        timestamp = column.type == "TIMESTAMP"
        result["format"] = column.format or ("1:MILLISECONDS:TIMESTAMP" if timestamp else MILLIS_FORMAT)
        result["granularity"] = column.granularity or "1:MILLISECONDS"
    if column.type in ("STRING", "JSON", "BYTES"):
        result["maxLength"] = column.max_length
    if column.default is not None:
        result["defaultNullValue"] = column.default
    return result


def table_json(table: PinotTable, bootstrap_servers: str, version: PinotVersion = LOCKED) -> Json:
    """Body of ``POST /tables``.

    :param table: the declaration.
    :param bootstrap_servers: ``host:port`` list.
    :param version: the Pinot server's.
    """
    segments: Json = {
        "timeColumnName": table.time_column,
        "schemaName": table.full_name,
        "replication": str(table.replication),
        "replicasPerPartition": str(table.replication),
    }
    if table.retention_days is not None:
        segments |= {"retentionTimeUnit": "DAYS", "retentionTimeValue": str(table.retention_days)}
    index: Json = {
        "loadMode": table.load_mode,
        "nullHandlingEnabled": table.null_handling,
        "streamConfigs": _stream(table, bootstrap_servers, version),
    }
    raw = [name for name, column in table.columns.items() if not column.dictionary]
    for key, names in (
        ("noDictionaryColumns", raw),
        ("invertedIndexColumns", list(table.inverted_index)),
        ("rangeIndexColumns", list(table.range_index)),
    ):
        if names:
            index[key] = names
    result: Json = {
        "tableName": table.full_name,
        "tableType": table.type,
        "segmentsConfig": segments,
        "tenants": {"broker": table.tenant, "server": table.tenant},
        "tableIndexConfig": index,
        "metadata": {},
    }
    if table.upsert is not None:
        # A key's rows must all be answered by one server, or two replicas show two states.
        result["routing"] = {"instanceSelectorType": "strictReplicaGroup"}
        result["upsertConfig"] = _upsert(table, version)
    return result


def _upsert(table: PinotTable, version: PinotVersion) -> Json:
    upsert = table.upsert
    if upsert is None:
        return {}
    result: Json = {"mode": "FULL"}
    if version.upsert_snapshots:
        result["enableSnapshot"] = upsert.snapshot
    if version.several_comparison_columns:
        result["comparisonColumns"] = [upsert.comparison_column]
    else:
        result["comparisonColumn"] = upsert.comparison_column
    if upsert.delete_column is not None and version.upsert_deletes:
        result["deleteRecordColumn"] = upsert.delete_column
    return result


def _stream(table: PinotTable, bootstrap_servers: str, version: PinotVersion) -> dict[str, str]:
    kafka, segment = table.kafka, table.segment
    result = {
        "streamType": "kafka",
        "stream.kafka.topic.name": kafka.topic,
        "stream.kafka.broker.list": bootstrap_servers,
        "stream.kafka.consumer.type": "lowlevel",
        "stream.kafka.consumer.factory.class.name": version.consumer_factory,
        "stream.kafka.decoder.class.name": version.decoder,
        "stream.kafka.consumer.prop.auto.offset.reset": kafka.offset_reset,
        "stream.kafka.isolation.level": kafka.isolation_level,
        "realtime.segment.flush.threshold.rows": str(segment.flush_rows),
        "realtime.segment.flush.threshold.time": segment.flush_time,
        "realtime.segment.flush.threshold.segment.size": segment.size,
    }
    # Pinot's Kafka consumer takes every setting of the stream's map whose name Kafka knows.
    return result | {key: text(value) for key, value in kafka.consumer.items()}


def topic_of(table: PinotTable) -> Topic:
    """The topic that a table reads.

    :param table: the declaration.
    """
    kafka = table.kafka
    config = {"cleanup.policy": kafka.cleanup_policy} | {key: text(value) for key, value in kafka.config.items()}
    return Topic(kafka.topic, kafka.partitions, kafka.replication_factor, config)


def text(value: Scalar) -> str:
    """A setting as Kafka and Pinot write it.

    :param value: from YAML.
    """
    return str(value).lower() if isinstance(value, bool) else str(value)


def to_json(value: Json) -> str:
    """JSON as it is written to files: indented, in the declaration's order, with a final newline.

    :param value: the document.
    """
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
