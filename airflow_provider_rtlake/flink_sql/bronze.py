"""The bronze lane: every message of a topic, exactly as it arrived, once, in an Iceberg table."""

# ruff: noqa: S608 (every name and text that goes into a statement is quoted by flink_sql.quoting)

from __future__ import annotations

from dataclasses import replace

from airflow_provider_rtlake.flink_sql.job import KafkaSource, RenderedJob
from airflow_provider_rtlake.flink_sql.quoting import literal, options, table
from airflow_provider_rtlake.flink_sql.settings import CATALOG, LaneSettings
from airflow_provider_rtlake.streams.connect_config import EPOCH_HEADER
from airflow_provider_rtlake.streams.model import Connector, Stream

SOURCE, DEAD, STAGING = "`topic`", "`dead_letters`", "`staging`"
VALUE_LIMIT, KEY_LIMIT = 150_000, 10_000  # characters kept in a dead letter: with escapes below Kafka's 1 MB

_SOURCE_COLUMNS = """`message_key` STRING,
  `value` STRING,
  `topic_partition` INT METADATA FROM 'partition' VIRTUAL,
  `topic_offset` BIGINT METADATA FROM 'offset' VIRTUAL,
  `kafka_ts` TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL,
  `message_headers` MAP<STRING, BYTES> METADATA FROM 'headers' VIRTUAL"""

# JsonConverter writes {"schema":{"type":"struct",…},"payload":{…}}. The first },"payload": ends the schema: inside a
# JSON string its quotes would be escaped. So both texts are cut out as they are; parsing and writing them again would
# alter numbers.
#
# UNNEST of a one-row array is a barrier: without it the planner copies each expression to every place that uses its
# result, and a message would be searched and parsed some forty times. Most of a message is its schema, and Flink's
# functions on texts walk through them character by character: so SPLIT once, TRIM and || (which copy) instead of
# SUBSTRING and CHAR_LENGTH (which count), and no JSON function on the schema. docs/streaming.md has the figures.
_BORDER = '},"payload":'
_CUT = f"""SELECT * FROM `topic`
CROSS JOIN UNNEST(ARRAY[ROW(SPLIT(`value`, '{_BORDER}'))]) AS `cut` (`parts`)
WHERE `value` IS NOT NULL"""  # tombstones carry nothing
_SCHEMA = "'{\"' || TRIM(LEADING '{\":schema' FROM `parts`[1]) || '}'"
_REST = f"ARRAY_JOIN(ARRAY_SLICE(`parts`, 2), '{_BORDER}')"  # where the payload holds such a text, too
_SPLIT = f"""SELECT * FROM `cut`
CROSS JOIN UNNEST(ARRAY[CASE
  WHEN CARDINALITY(`parts`) = 1 OR `value` NOT LIKE '{{"schema":{{"type":"struct"%' OR `value` NOT LIKE '%}}}}'
    THEN ROW(CAST(NULL AS STRING), CAST(NULL AS STRING))
  WHEN CARDINALITY(`parts`) = 2
    THEN ROW({_SCHEMA}, SUBSTRING(`parts`[2] FROM 1 FOR CHAR_LENGTH(`parts`[2]) - 1))
  ELSE ROW({_SCHEMA}, SUBSTRING({_REST} FROM 1 FOR CHAR_LENGTH({_REST}) - 1))
END]) AS `envelope` (`value_schema`, `payload`)"""

_NOT_AN_ENVELOPE = """`payload` IS NULL THEN
      CASE WHEN `value` IS JSON OBJECT THEN 'no schema and payload' ELSE 'not JSON' END"""

_CHANGE_FIELDS = {
    "op": "JSON_VALUE(`payload`, '$.op')",
    "lsn": "JSON_VALUE(`payload`, '$.source.lsn')",
    # A row must be there, not only no null: the real-time lane asks for it, too. Inside a JSON string the quotes would
    # be escaped; asking JSON_QUERY for what is missing costs an exception each time.
    "no_before": "`payload` NOT LIKE '%\"before\":{%'",
    "no_after": "`payload` NOT LIKE '%\"after\":{%'",
}
_CHANGE_REASON = f"""CASE
    WHEN {_NOT_AN_ENVELOPE}
    WHEN `op` IS NULL THEN CASE WHEN `payload` IS JSON OBJECT THEN 'no op' ELSE 'payload is not JSON' END
    WHEN `op` NOT IN ('r', 'c', 'u', 'd', 't') THEN 'unknown op'
    WHEN `lsn` IS NULL THEN 'no source.lsn'
    WHEN `op` IN ('r', 'c', 'u') AND `no_after` THEN 'no after'
    WHEN `op` = 'd' AND `no_before` THEN 'no before'
  END"""

_TRANSACTION_FIELDS = {
    "tx_id": "JSON_VALUE(`payload`, '$.id')",
    "status": "JSON_VALUE(`payload`, '$.status')",
    "event_count": "JSON_VALUE(`payload`, '$.event_count')",
}
_TRANSACTION_REASON = f"""CASE
    WHEN {_NOT_AN_ENVELOPE}
    WHEN `tx_id` IS NULL THEN
      CASE WHEN `payload` IS JSON OBJECT THEN 'no transaction id' ELSE 'payload is not JSON' END
    WHEN `status` IS NULL OR `status` NOT IN ('BEGIN', 'END') THEN 'unknown status'
  END"""

_NOTIFICATION_FIELDS = {
    "type": "JSON_VALUE(`payload`, '$.type')",
}
_NOTIFICATION_REASON = f"""CASE
    WHEN {_NOT_AN_ENVELOPE}
    WHEN `type` IS NULL THEN CASE WHEN `payload` IS JSON OBJECT THEN 'no type' ELSE 'payload is not JSON' END
  END"""

_RARE_MS = 5000  # notifications are few, and each checkpoint has its price

_COLUMNS = {
    "topic": "STRING",
    "topic_partition": "INT",
    "topic_offset": "BIGINT",
    "kafka_ts": "TIMESTAMP_LTZ(6)",
    "message_key": "STRING",
    "headers": "MAP<STRING, STRING>",
    "op": "STRING",
    "value_schema": "STRING",
    "payload": "STRING",
    "dt": "STRING",
}
_TRANSACTION_COLUMNS = {
    "topic_partition": "INT",
    "topic_offset": "BIGINT",
    "kafka_ts": "TIMESTAMP_LTZ(6)",
    "tx_id": "STRING",
    "status": "STRING",
    "event_count": "BIGINT",
    "data_collections": "STRING",
    "payload": "STRING",
    "dt": "STRING",
}
_NOTIFICATION_COLUMNS = {
    "topic_partition": "INT",
    "topic_offset": "BIGINT",
    "kafka_ts": "TIMESTAMP_LTZ(6)",
    "type": "STRING",
    "aggregate_type": "STRING",
    "epoch": "STRING",
    "data_collection": "STRING",
    "status": "STRING",
    "row_count": "BIGINT",
    "payload": "STRING",
    "dt": "STRING",
}
_DAY = "DATE_FORMAT(`kafka_ts`, 'yyyy-MM-dd')"  # the session's zone is UTC

_TABLE_PROPERTIES = {
    "format-version": "2",
    "write.format.default": "parquet",
    "write.parquet.compression-codec": "zstd",
    "write.distribution-mode": "none",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "20",
    "commit.retry.num-retries": "20",
    # Bounds of long texts only make manifests fat; those of the position are what readers prune by.
    "write.metadata.metrics.default": "counts",
    "write.metadata.metrics.column.topic_partition": "full",
    "write.metadata.metrics.column.topic_offset": "full",
    "write.metadata.metrics.column.kafka_ts": "full",
    # An idle topic leaves no snapshots.
    "flink.max-continuous-empty-commits": "2147483647",
}


def bronze_job(stream: Stream, settings: LaneSettings) -> RenderedJob:
    """The job that writes one captured table's bronze table.

    :param stream: the captured table.
    :param settings: of the lanes.
    """
    bronze = table(stream.bronze_table, CATALOG)
    columns = f"""{literal(stream.topic)}, `topic_partition`, `topic_offset`, CAST(`kafka_ts` AS TIMESTAMP_LTZ(6)),
  `message_key`, CAST(`message_headers` AS MAP<STRING, STRING>),
  `op`, `value_schema`, `payload`, {_DAY}"""
    good = f"SELECT {columns}\nFROM `judged` WHERE `reason` IS NULL"
    inserts = [f"INSERT INTO {bronze}\n{good}"]
    extra: list[str] = []
    if stream.table.parquet_staging:
        extra = [_staging_ddl(stream.table.parquet_staging, settings)]
        inserts.append(f"INSERT INTO {STAGING}\n{good}")
    return _job(
        name=stream.bronze_job,
        topic=stream.topic,
        dead_letters=stream.dead_letter_topic,
        tables=[_iceberg_ddl(stream.bronze_table, _COLUMNS), *extra],
        namespace=stream.bronze_table.split(".", 1)[0],
        fields=_CHANGE_FIELDS,
        reason=_CHANGE_REASON,
        inserts=inserts,
        settings=settings,
    )


def transactions_job(connector: Connector, settings: LaneSettings) -> RenderedJob:
    """The job that writes a connector's transaction markers.

    :param connector: as declared.
    :param settings: of the lanes.
    """
    stream = connector.streams[0]
    name = stream.bronze_transactions
    good = f"""SELECT `topic_partition`, `topic_offset`, CAST(`kafka_ts` AS TIMESTAMP_LTZ(6)),
  `tx_id`, `status`, TRY_CAST(`event_count` AS BIGINT),
  CASE WHEN `status` = 'END' THEN JSON_QUERY(`payload`, '$.data_collections') END, `payload`, {_DAY}
FROM `judged` WHERE `reason` IS NULL"""
    return _job(
        name=f"bronze.{connector.transaction_topic}",
        topic=connector.transaction_topic,
        dead_letters=stream.dead_letter_topic,
        tables=[_iceberg_ddl(name, _TRANSACTION_COLUMNS)],
        namespace=name.split(".", 1)[0],
        fields=_TRANSACTION_FIELDS,
        reason=_TRANSACTION_REASON,
        inserts=[f"INSERT INTO {table(name, CATALOG)}\n{good}"],
        settings=settings,
    )


def notifications_job(connector: Connector, settings: LaneSettings) -> RenderedJob:
    """The job that writes what Debezium tells of its snapshots: when one of a table is whole, and how many rows it has.

    :param connector: as declared.
    :param settings: of the lanes.
    """
    stream = connector.streams[0]
    name = stream.bronze_notifications
    more = "JSON_VALUE(`payload`, '$.additional_data.{}')"
    good = f"""SELECT `topic_partition`, `topic_offset`, CAST(`kafka_ts` AS TIMESTAMP_LTZ(6)),
  `type`, JSON_VALUE(`payload`, '$.aggregate_type'), CAST(`message_headers`[{literal(EPOCH_HEADER)}] AS STRING),
  {more.format("scanned_collection")}, {more.format("status")},
  TRY_CAST({more.format("total_rows_scanned")} AS BIGINT), `payload`, {_DAY}
FROM `judged` WHERE `reason` IS NULL"""
    return _job(
        name=f"bronze.{connector.notification_topic}",
        topic=connector.notification_topic,
        dead_letters=stream.dead_letter_topic,
        tables=[_iceberg_ddl(name, _NOTIFICATION_COLUMNS)],
        namespace=name.split(".", 1)[0],
        fields=_NOTIFICATION_FIELDS,
        reason=_NOTIFICATION_REASON,
        inserts=[f"INSERT INTO {table(name, CATALOG)}\n{good}"],
        settings=replace(settings, bronze_interval_ms=max(settings.bronze_interval_ms, _RARE_MS)),
    )


def _job(
    *,
    name: str,
    topic: str,
    dead_letters: str,
    tables: list[str],
    namespace: str,
    fields: dict[str, str],
    reason: str,
    inserts: list[str],
    settings: LaneSettings,
) -> RenderedJob:
    bad = f"""INSERT INTO {DEAD}
SELECT {literal(topic)} || ':' || CAST(`topic_partition` AS STRING) || ':' || CAST(`topic_offset` AS STRING),
  {literal(topic)}, `topic_partition`, `topic_offset`, `kafka_ts`, `reason`,
  SUBSTRING(`message_key` FROM 1 FOR {KEY_LIMIT}), SUBSTRING(`value` FROM 1 FOR {VALUE_LIMIT}),
  CAST(`message_headers` AS MAP<STRING, STRING>)
FROM `judged` WHERE `reason` IS NOT NULL"""
    body = ";\n".join([*inserts, bad])
    parsed = ",\n  ".join(fields.values())
    return RenderedJob(
        name=name,
        setup=(
            settings.catalog_ddl(),
            f"CREATE DATABASE IF NOT EXISTS {table(namespace, CATALOG)}",
            *tables,
            dead_letter_ddl(dead_letters, settings),
        ),
        source=KafkaSource(
            table=SOURCE,
            columns=_SOURCE_COLUMNS,
            options={
                **settings.kafka_options(topic),
                "properties.group.id": f"rtlake.{name}",
                "scan.topic-partition-discovery.interval": "1 min",
                "key.format": "raw",
                "key.fields": "message_key",
                "value.format": "raw",
                "value.fields-include": "EXCEPT_KEY",
            },
        ),
        views=(
            f"CREATE TEMPORARY VIEW `cut` AS\n{_CUT}",
            f"CREATE TEMPORARY VIEW `split` AS\n{_SPLIT}",
            f"CREATE TEMPORARY VIEW `parsed` AS\nSELECT * FROM `split`\nCROSS JOIN UNNEST(ARRAY[ROW(\n  {parsed}\n)])"
            f" AS `fields` ({', '.join(f'`{name}`' for name in fields)})",
            f"CREATE TEMPORARY VIEW `judged` AS\nSELECT *,\n  {reason} AS `reason`\nFROM `parsed`",
        ),
        insert=f"EXECUTE STATEMENT SET BEGIN\n{body};\nEND",
        properties=settings.streaming_properties(settings.bronze_interval_ms, "EXACTLY_ONCE"),
    )


def _iceberg_ddl(name: str, columns: dict[str, str]) -> str:
    body = ",\n  ".join(f"`{column}` {kind}" for column, kind in columns.items())
    return (
        f"CREATE TABLE IF NOT EXISTS {table(name, CATALOG)} (\n  {body}\n) PARTITIONED BY (`dt`) "
        f"WITH (\n  {options(_TABLE_PROPERTIES)}\n)"
    )


def _staging_ddl(folder: str, settings: LaneSettings) -> str:
    body = ",\n  ".join(f"`{column}` {kind}" for column, kind in _COLUMNS.items())
    files = {
        "connector": "filesystem",
        "path": f"{settings.staging.rstrip('/')}/{folder.strip('/')}",
        "format": "parquet",
        "parquet.compression": "ZSTD",
        "sink.rolling-policy.file-size": "128MB",
        "sink.rolling-policy.rollover-interval": "5 min",
        "sink.rolling-policy.check-interval": "30 s",
    }
    return f"CREATE TEMPORARY TABLE {STAGING} (\n  {body}\n) PARTITIONED BY (`dt`) WITH (\n  {options(files)}\n)"


def dead_letter_ddl(topic: str, settings: LaneSettings) -> str:
    """The table of dead letters, keyed by the place the message came from.

    :param topic: of the dead letters.
    :param settings: of the lanes.
    """
    with_options = {
        **settings.sink_options(topic),
        "key.format": "raw",
        "key.fields": "origin",
        "value.format": "json",
        "value.fields-include": "EXCEPT_KEY",
        "value.json.timestamp-format.standard": "ISO-8601",
    }
    return f"""CREATE TEMPORARY TABLE {DEAD} (
  `origin` STRING, `topic` STRING, `partition` INT, `offset` BIGINT, `kafka_ts` TIMESTAMP_LTZ(3), `reason` STRING,
  `key` STRING, `value` STRING, `headers` MAP<STRING, STRING>
) WITH (
  {options(with_options)}
)"""
