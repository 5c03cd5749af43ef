"""The real-time lane: a message a change to the current and to the history topic, within milliseconds.

Messages may be sent twice, never lost; both of a pair are equal and carry the same event id, so tables keyed by it
(history) or by the row's key and the position (current) give exact answers. The job keeps no state but its offsets.
"""

# ruff: noqa: S608 (every name and text that goes into a statement is quoted by flink_sql.quoting)

from __future__ import annotations

from collections.abc import Callable, Mapping

from airflow_provider_rtlake.exceptions import DeclarationError
from airflow_provider_rtlake.flink_sql.bronze import KEY_LIMIT, dead_letter_ddl
from airflow_provider_rtlake.flink_sql.job import KafkaSource, RenderedJob
from airflow_provider_rtlake.flink_sql.quoting import identifier, literal, options
from airflow_provider_rtlake.flink_sql.settings import LaneSettings
from airflow_provider_rtlake.pinot_config.realtime import (
    INFINITE_MS,
    Kind,
    RealtimeColumn,
    image_types,
    realtime_columns,
)
from airflow_provider_rtlake.streams.connect_config import EPOCH_HEADER, PLACEHOLDER_HEADER
from airflow_provider_rtlake.streams.model import Stream
from airflow_provider_rtlake.streams.schema import TableSchema

_FLINK_TYPES: dict[Kind, str] = {
    "int": "INT",
    "long": "BIGINT",
    "double": "DOUBLE",
    "boolean": "BOOLEAN",
    "millis": "BIGINT",
    "text": "STRING",
}
OPERATIONS = {"r": "SNAPSHOT", "c": "INSERT", "u": "UPDATE", "d": "DELETE", "t": "TRUNCATE"}

NEW_KEY_HEADER = "__debezium.newkey"  # on the delete that a changed key begins with

# Field references of the views below
BEFORE, AFTER, SOURCE, OP = "`payload`.`before`", "`payload`.`after`", "`payload`.`source`", "`payload`.`op`"


def realtime_job(
    stream: Stream,
    schema: TableSchema,
    settings: LaneSettings,
    *,
    declared: Mapping[str, str] | None = None,
    declared_history: Mapping[str, str] | None = None,
) -> RenderedJob:
    """The job of a table's real-time lane.

    :param stream: the captured table; its declaration asks for this lane.
    :param schema: the table as the source's catalog describes it.
    :param settings: of the lanes.
    :param declared: column name in the current table → Pinot type, where ``pinot_tables/`` declares one.
    :param declared_history: the same of the history table.
    :raises DeclarationError: the table cannot be served by this lane.
    """
    check_servable(stream, schema)
    columns = realtime_columns(schema, declared)
    images = realtime_columns(schema, image_types(declared_history))
    inserts = [_current_insert(columns), _history_insert(images)]
    setup = [_current_ddl(stream, columns, settings), _history_ddl(stream, images, settings)]
    missing = _placeholder_condition(columns)
    if missing:
        setup.append(dead_letter_ddl(stream.dead_letter_topic, settings))
        inserts.append(_placeholder_insert(stream, missing))
    return RenderedJob(
        name=stream.realtime_job,
        setup=tuple(setup),
        source=KafkaSource(
            table="`topic`",
            columns=_source_columns(columns),
            options={
                **settings.kafka_options(stream.topic),
                "properties.group.id": stream.realtime_group,
                "scan.topic-partition-discovery.interval": "1 min",
                "key.format": "raw",
                "key.fields": "message_key",
                "value.format": "json",
                "value.fields-include": "EXCEPT_KEY",
                "value.json.ignore-parse-errors": "true",
            },
        ),
        views=(changes_view(deferrable_key=schema.deferrable_key),),
        insert="EXECUTE STATEMENT SET BEGIN\n" + ";\n".join(inserts) + ";\nEND",
        properties=settings.streaming_properties(settings.realtime_interval_ms, "AT_LEAST_ONCE"),
    )


def check_servable(stream: Stream, schema: TableSchema) -> None:
    """Refuse a table that the real-time lane cannot serve exactly.

    :raises DeclarationError: no key, no lane declared, or no complete before-images.
    """
    problems = []
    if stream.table.realtime is False:
        problems.append(f"{stream.source}: realtime: false is declared; there is no real-time lane to run")
    if not schema.key:
        problems.append(f"{stream.source}: key: the table has none; declare `key:` or add a primary key")
    for column in schema.captured:
        if "\n" in column.name or "\r" in column.name:
            problems.append(
                f"{stream.source}: column {column.name!r} has a line break in its name, which Flink SQL cannot "
                "spell; `exclude:` it, or declare `realtime: false`"
            )
    if schema.replica_identity != "full":
        problems.append(
            f"{stream.source}: replica identity is {schema.replica_identity.upper()}, so deletes and large values "
            f"arrive incomplete; run ALTER TABLE {_pg(schema.schema)}.{_pg(schema.name)} REPLICA IDENTITY FULL, or "
            "declare `realtime: false`"
        )
    if problems:
        raise DeclarationError(problems)


def _pg(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _source_columns(columns: tuple[RealtimeColumn, ...]) -> str:
    # Every leaf is a STRING: Flink then hands over the JSON text of numbers, objects and arrays as it stands, so no
    # value can fail to parse, and the message is parsed once for all columns.
    return f"""`message_key` STRING,
  {payload_columns(columns)},
  `topic_partition` INT METADATA FROM 'partition' VIRTUAL,
  `topic_offset` BIGINT METADATA FROM 'offset' VIRTUAL,
  `kafka_ts` TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL,
  `message_headers` MAP<STRING, BYTES> METADATA FROM 'headers' VIRTUAL"""


def payload_columns(columns: tuple[RealtimeColumn, ...]) -> str:
    """The declaration of the field ``payload`` for the JSON format."""
    row = ", ".join(f"{identifier(column.source.name)} STRING" for column in columns)
    return f"""`payload` ROW<`before` ROW<{row}>, `after` ROW<{row}>,
    `source` ROW<`db` STRING, `schema` STRING, `table` STRING, `txId` STRING, `lsn` STRING, `sequence` STRING,
      `ts_ms` BIGINT>,
    `op` STRING, `ts_ms` BIGINT>"""


# The header that names the slot's life: "<n>:<system id>:<timeline>", in quotes
_EPOCH = f"CAST(`message_headers`[{literal(EPOCH_HEADER)}] AS STRING)"


def changes_view(*, deferrable_key: bool) -> str:
    """The view that adds the position of each change and leaves out what is no change.

    :param deferrable_key: two rows may have one key inside a transaction: a row that leaves a key comes before all
        that arrive at it, whatever the order of the statements.
    """
    number = f"""LPAD(COALESCE(SPLIT_INDEX(TRIM(BOTH '"' FROM {_EPOCH}), ':', 0), '0'), 6, '0')"""
    lsn = f"LPAD({SOURCE}.`lsn`, 20, '0')"
    # sequence is ["<last commit>","<lsn>"]; its first part is null until the stream has begun
    streamed = f"""{SOURCE}.`sequence` LIKE '["%'"""
    commit = f"""LPAD(SPLIT_INDEX({SOURCE}.`sequence`, '"', 1), 20, '0')"""
    zero = "0" * 20
    within = lsn
    if deferrable_key:
        left = f"{OP} = 'd' AND `message_headers`[{literal(NEW_KEY_HEADER)}] IS NOT NULL"
        within = f"CASE WHEN {left} THEN '0' ELSE '1' END || {lsn}"
    # A row that a later snapshot reads holds all that was committed before, whatever its own log position says
    place = f"""CASE
    WHEN {OP} = 'r' AND {streamed} THEN '-1-' || {commit} || '-{zero}'
    WHEN {OP} = 'r' THEN '-0-{zero}-' || {lsn}
    WHEN {streamed} THEN '-1-' || {commit} || '-' || {within}
    ELSE '-1-{zero}-' || {lsn} END"""
    operations = ", ".join(literal(op) for op in OPERATIONS)
    return f"""CREATE TEMPORARY VIEW `changes` AS
SELECT *, {number} || {place} AS `position`
FROM `topic`
WHERE {OP} IN ({operations}) AND {SOURCE}.`lsn` IS NOT NULL
  AND ({OP} = 't' OR ({OP} = 'd' AND {BEFORE} IS NOT NULL) OR ({OP} <> 'd' AND {AFTER} IS NOT NULL))"""


_EVENT_ID = f"`position` || ':' || COALESCE({SOURCE}.`txId`, '') || ':' || {OP} || ':' || COALESCE(`message_key`, '')"


def _current_fields(columns: tuple[RealtimeColumn, ...]) -> list[tuple[str, str, str]]:
    """Name, type and expression of each field of the current topic."""
    fields = []
    for column in columns:
        name = identifier(column.source.name)
        # Not COALESCE: an update may set a column to NULL
        value = f"CASE WHEN {OP} = 'd' THEN {BEFORE}.{name} ELSE {AFTER}.{name} END"
        fields.append((column.name, _FLINK_TYPES[column.kind], convert(value, column)))
    return [
        *fields,
        ("is_deleted", "BOOLEAN", f"{OP} = 'd'"),
        ("position", "STRING", "`position`"),
        ("last_updated_ts", "BIGINT", f"{SOURCE}.`ts_ms`"),
        ("event_id", "STRING", _EVENT_ID),
    ]


def _history_fields(columns: tuple[RealtimeColumn, ...]) -> list[tuple[str, str, str]]:
    """Name, type and expression of each field of the history topic."""
    described = " ".join(f"WHEN {literal(op)} THEN {literal(text)}" for op, text in OPERATIONS.items())
    images = []
    for prefix, image in (("after", AFTER), ("before", BEFORE)):
        for column in columns:
            value = convert(f"{image}.{identifier(column.source.name)}", column)
            images.append((f"{prefix}_{column.name}", _FLINK_TYPES[column.kind], value))
    return [
        ("record_id", "STRING", _EVENT_ID),
        *images,
        ("op", "STRING", OP),
        ("op_description", "STRING", f"CASE {OP} {described} END"),
        ("source_db", "STRING", f"{SOURCE}.`db`"),
        ("source_table", "STRING", f"{SOURCE}.`schema` || '.' || {SOURCE}.`table`"),
        ("tx_id", "BIGINT", f"TRY_CAST({SOURCE}.`txId` AS BIGINT)"),
        ("lsn", "BIGINT", f"TRY_CAST({SOURCE}.`lsn` AS BIGINT)"),
        ("event_timestamp", "BIGINT", f"{SOURCE}.`ts_ms`"),
        # The connector's clock, not ours: a change that is sent again stays the same
        ("processing_time", "BIGINT", "`payload`.`ts_ms`"),
        ("position", "STRING", "`position`"),
    ]


def _numeric(value: str) -> str:
    return (
        f"CASE {value} WHEN 'NAN' THEN CAST('NaN' AS DOUBLE) WHEN 'POSITIVE_INFINITY' THEN CAST('Infinity' AS DOUBLE) "
        f"WHEN 'NEGATIVE_INFINITY' THEN CAST('-Infinity' AS DOUBLE) ELSE TRY_CAST({value} AS DOUBLE) END"
    )


def _date(value: str) -> str:
    return (
        f"CASE {value} WHEN '2146033979' THEN {INFINITE_MS} WHEN '-2147472691' THEN -{INFINITE_MS} "  # Debezium's
        f"ELSE TRY_CAST({value} AS BIGINT) * 86400000 END"
    )


def _local_timestamp(value: str, *, in_millis: bool) -> str:
    number = f"TRY_CAST({value} AS BIGINT)"
    # Floor, also before 1970
    millis = number if in_millis else f"{number} / 1000 - CASE WHEN MOD({number}, 1000) < 0 THEN 1 ELSE 0 END"
    return f"GREATEST(LEAST({millis}, {INFINITE_MS}), -{INFINITE_MS})"  # an infinite one is at int64's limits


def _zoned_timestamp(value: str) -> str:
    # 2026-11-21T05:11:12.123456Z, always UTC, with as many digits as needed; "infinity" and "-infinity". Any other
    # text gives null: the column may have become one of texts while the lane runs
    seconds = f"TRY_CAST(REPLACE(SUBSTRING({value} FROM 1 FOR 19), 'T', ' ') AS TIMESTAMP(0))"
    millis = f"TRY_CAST(RPAD(REPLACE(SUBSTRING({value} FROM 21), 'Z', ''), 3, '0') AS BIGINT)"
    return (
        f"CASE {value} WHEN 'infinity' THEN {INFINITE_MS} WHEN '-infinity' THEN -{INFINITE_MS} "
        f"ELSE EXTRACT(EPOCH FROM {seconds}) * 1000 + {millis} END"
    )


_CONVERSIONS: dict[Kind, Callable[[str], str]] = {
    "int": lambda value: f"TRY_CAST({value} AS INT)",
    "long": lambda value: f"TRY_CAST({value} AS BIGINT)",
    "double": lambda value: f"TRY_CAST({value} AS DOUBLE)",
    "boolean": lambda value: f"TRY_CAST({value} AS BOOLEAN)",
    "text": lambda value: value,
}


def convert(value: str, column: RealtimeColumn) -> str:
    """The expression that turns Debezium's spelling of a value into the lane's.

    :param value: expression of type STRING: the JSON text of the value.
    :param column: whose value it is.
    """
    kind, source = column.kind, column.source
    if kind == "double" and source.type in ("numeric", "money"):
        return _numeric(value)
    if kind != "millis":
        return _CONVERSIONS[kind](value)
    if source.type == "date":
        return _date(value)
    if source.type == "timestamp with time zone":
        return _zoned_timestamp(value)
    # Debezium sends milliseconds where the column's digits fit into them
    return _local_timestamp(value, in_millis=source.precision is not None and source.precision <= 3)


def _sink_ddl(name: str, fields: list[tuple[str, str, str]], with_options: Mapping[str, str]) -> str:
    body = ",\n  ".join(f"{identifier(field)} {kind}" for field, kind, _ in fields)
    return f"CREATE TEMPORARY TABLE {name} (\n  {body}\n) WITH (\n  {options(with_options)}\n)"


def _select(fields: list[tuple[str, str, str]], where: str = "") -> str:
    body = ",\n  ".join(f"{expression} AS {identifier(name)}" for name, _, expression in fields)
    return f"SELECT {body}\nFROM `changes`{where}"


def _current_ddl(stream: Stream, columns: tuple[RealtimeColumn, ...], settings: LaneSettings) -> str:
    keys = [column.name for column in columns if column.key]
    with_options = {
        **settings.sink_options(str(stream.current_topic)),
        "key.format": "json",
        "key.fields": ";".join(keys),
        "value.format": "json",
        "value.fields-include": "ALL",
    }
    return _sink_ddl("`current`", _current_fields(columns), with_options)


def _history_ddl(stream: Stream, columns: tuple[RealtimeColumn, ...], settings: LaneSettings) -> str:
    with_options = {
        **settings.sink_options(str(stream.history_topic)),
        "key.format": "raw",
        "key.fields": "record_id",
        "value.format": "json",
        "value.fields-include": "ALL",
    }
    return _sink_ddl("`history`", _history_fields(columns), with_options)


def _current_insert(columns: tuple[RealtimeColumn, ...]) -> str:
    # A truncate names no key: without state it cannot be told to the current topic (see docs/streaming.md)
    return "INSERT INTO `current`\n" + _select(_current_fields(columns), f" WHERE {OP} <> 't'")


def _history_insert(columns: tuple[RealtimeColumn, ...]) -> str:
    return "INSERT INTO `history`\n" + _select(_history_fields(columns))


def _placeholder_condition(columns: tuple[RealtimeColumn, ...]) -> str | None:
    """Whether a change holds the connector's text for a value that PostgreSQL did not send, in any of its spellings.

    With REPLICA IDENTITY FULL there is none. If there is one all the same, the change also goes to the dead letters,
    which turns the table's check red.
    """
    header = f"CAST(`message_headers`[{literal(PLACEHOLDER_HEADER)}] AS STRING)"
    sent = f"TRIM(BOTH '\"' FROM {header})"
    spellings = f"""({sent}, '["' || {sent} || '"]', '{{"' || {sent} || '":"' || {sent} || '"}}', TO_BASE64({sent}))"""
    toastable = [column for column in columns if column.source.toastable]
    return " OR ".join(f"{AFTER}.{identifier(column.source.name)} IN {spellings}" for column in toastable) or None


def _placeholder_insert(stream: Stream, condition: str) -> str:
    topic = literal(stream.topic)
    return f"""INSERT INTO `dead_letters`
SELECT {topic} || ':' || CAST(`topic_partition` AS STRING) || ':' || CAST(`topic_offset` AS STRING),
  {topic}, `topic_partition`, `topic_offset`, `kafka_ts`, 'a value was not sent by PostgreSQL (real-time lane)',
  SUBSTRING(`message_key` FROM 1 FOR {KEY_LIMIT}), CAST(NULL AS STRING),
  CAST(`message_headers` AS MAP<STRING, STRING>)
FROM `changes` WHERE {condition}"""
