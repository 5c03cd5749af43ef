"""The taxi pipeline as Flink SQL: one text for batch and for streaming."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from airflow_provider_rtlake.bench import silver
from airflow_provider_rtlake.demo import taxi
from airflow_provider_rtlake.exceptions import UserError
from airflow_provider_rtlake.flink_sql.job import RenderedJob
from airflow_provider_rtlake.flink_sql.quoting import identifier, options, table
from airflow_provider_rtlake.flink_sql.settings import CATALOG, LaneSettings

TYPES = {"int32": "INT", "int64": "BIGINT", "double": "DOUBLE", "string": "STRING", "timestamp[us]": "TIMESTAMP(6)"}
_PROPERTIES = {
    "format-version": "2",
    "write.parquet.compression-codec": "zstd",
    "write.distribution-mode": "none",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "20",
    "commit.retry.num-retries": "20",
    "flink.max-continuous-empty-commits": "2147483647",
}
CHECKPOINT_MS = 1000
_CHECKPOINT_ON_DISK_MS = 10_000  # each one flushes what is in memory, and makes files and a commit of each table
HEAP_EVENTS = 500_000  # events whose state the task manager's heap (640 MB) is sure to hold
_MB = 2**20
_HEAP_BYTES_EACH = 600  # of heap for each row of silver when it is rewritten: its writer keeps a place for each key
_ON_DISK = {
    "state.backend.type": "rocksdb",
    "state.backend.rocksdb.memory.fixed-per-slot": "256 mb",  # of managed memory a slot has a 64th
    "state.backend.rocksdb.use-bloom-filter": "true",  # nearly every trip is new: looked for in vain
    "execution.checkpointing.incremental": "true",
}


def refuse_little_heap(events: int, there: int) -> None:
    """Tell before a run what would end it after minutes.

    :param events: of the run.
    :param there: heap for tasks, bytes.
    :raises UserError: too little.
    """
    needed = _HEAP_BYTES_EACH * events
    if there < needed:
        asked = 256 * math.ceil((needed / _MB + 128) / 256)  # the framework has 128 of it
        raise UserError(
            f"{events} events need {needed // _MB} MB of heap for tasks, Flink's task manager has {there // _MB}: "
            f"rtlake up --set flink_taskmanager_heap_mb={asked} (under systemd flink_taskmanager_memory_max, too)"
        )


@dataclass(frozen=True)
class Stretch:
    """A part of the topic: what one run reads.

    :param starts: first offset of each partition.
    :param ends: offset after the last one of each partition.
    """

    starts: Mapping[int, int]
    ends: Mapping[int, int]

    def source_options(self) -> dict[str, str]:
        """The Kafka connector's options: the job ends by itself, in batch and in streaming."""
        return {
            "scan.startup.mode": "specific-offsets",
            "scan.startup.specific-offsets": _offsets(self.starts),
            "scan.bounded.mode": "specific-offsets",
            "scan.bounded.specific-offsets": _offsets(self.ends),
        }


def _offsets(of: Mapping[int, int]) -> str:
    return ";".join(f"partition:{partition},offset:{offset}" for partition, offset in sorted(of.items()))


def names(namespace: str) -> dict[str, str]:
    """The tables of a pipeline, ``namespace.name``."""
    return {name: f"{namespace}.{name}" for name in ("bronze", "silver", "rejected")}


def setup(settings: LaneSettings, namespace: str, *, anew: bool = True) -> list[str]:
    """Statements that make the tables anew, empty.

    :param settings: where the services are.
    :param namespace: of the pipeline's tables.
    :param anew: drop what an earlier run left.
    """
    found = names(namespace)
    business = ",\n  ".join(f"{name} {_business_type(name)}" for name in silver.BUSINESS if name != "trip_id")
    with_options = f"WITH (\n  {options(_PROPERTIES)}\n)"
    drops = [f"DROP TABLE IF EXISTS {table(name, CATALOG)}" for name in found.values()] if anew else []
    return [
        settings.catalog_ddl(),
        f"CREATE DATABASE IF NOT EXISTS {identifier(CATALOG)}.{identifier(namespace)}",
        *drops,
        f"CREATE TABLE {table(found['bronze'], CATALOG)} (\n  kafka_partition INT, kafka_offset BIGINT, "
        f"ingested_at TIMESTAMP(6), message_key STRING, payload STRING\n) {with_options}",
        f"CREATE TABLE {table(found['silver'], CATALOG)} (\n  source_row BIGINT, ingested_at TIMESTAMP(6), "
        f"trip_id STRING NOT NULL,\n  {business},\n  PRIMARY KEY (trip_id) NOT ENFORCED\n) {with_options}",
        f"CREATE TABLE {table(found['rejected'], CATALOG)} (\n  source_row BIGINT, ingested_at TIMESTAMP(6), "
        f"trip_id STRING,\n  {business},\n  reason STRING\n) {with_options}",
    ]


def _business_type(name: str) -> str:
    kind = silver.COLUMNS[name][0]
    return "TIMESTAMP(6)" if kind == "TIMESTAMP" else kind


def sources(settings: LaneSettings, topic: str, stretch: Stretch, group: str) -> list[str]:
    """The topic as it came and as typed columns.

    :param group: consumer group, for its name in monitoring.
    """
    kafka = {**settings.kafka_options(topic), "properties.group.id": group, **stretch.source_options()}
    meta = (
        "`partition` INT METADATA VIRTUAL, `offset` BIGINT METADATA VIRTUAL, "
        "`kafka_ts` TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL"
    )
    raw = {
        **kafka, "key.format": "raw", "key.fields": "message_key", "value.format": "raw",
        "value.fields-include": "EXCEPT_KEY",
    }  # fmt: skip
    typed = {
        **kafka, "format": "json", "json.ignore-parse-errors": "true", "json.timestamp-format.standard": "SQL",
    }  # fmt: skip
    columns = ", ".join(f"{identifier(f.name)} {TYPES[str(f.type)]}" for f in taxi.SCHEMA)
    return [
        f"CREATE TEMPORARY TABLE raw_events (message_key STRING, payload STRING, {meta}) WITH (\n  {options(raw)}\n)",
        f"CREATE TEMPORARY TABLE trip_events ({identifier(silver.ROW_NUMBER)} BIGINT, {columns}, {meta}) "
        f"WITH (\n  {options(typed)}\n)",
    ]


def views(months: Sequence[str]) -> list[str]:
    """Judged rows, over ``trip_events``.

    :param months: of the run.
    """
    relation = "(SELECT *, CAST(`kafka_ts` AS TIMESTAMP(6)) AS ingested_at FROM trip_events) AS events"
    return [f"CREATE TEMPORARY VIEW judged AS {silver.judged(relation, 'flink', months)}"]


def dead_letters(settings: LaneSettings, topic: str) -> str:
    """Messages that are no JSON object."""
    kafka = {
        **settings.sink_options(topic), "key.format": "raw", "key.fields": "message_key", "value.format": "raw",
        "value.fields-include": "EXCEPT_KEY",
    }  # fmt: skip
    return (
        "CREATE TEMPORARY TABLE dead_letters (message_key STRING, payload STRING, "
        f"headers MAP<STRING, BYTES> METADATA) WITH (\n  {options(kafka)}\n)"
    )


def inserts(namespace: str) -> list[str]:
    """Bronze, silver, what silver refuses, and what is no message at all."""
    found = names(namespace)
    columns = ", ".join(("source_row", "ingested_at", *silver.BUSINESS))
    return [
        f"INSERT INTO {table(found['bronze'], CATALOG)} SELECT `partition`, `offset`, "  # noqa: S608
        "CAST(`kafka_ts` AS TIMESTAMP(6)), message_key, payload FROM raw_events",
        f"INSERT INTO {table(found['silver'], CATALOG)} {silver.latest('judged')}",
        f"INSERT INTO {table(found['rejected'], CATALOG)} SELECT {columns}, reason FROM judged "  # noqa: S608
        "WHERE reason IS NOT NULL",
        "INSERT INTO dead_letters SELECT message_key, payload, MAP['reason', ENCODE('not a JSON object', 'UTF-8')] "
        "FROM raw_events WHERE payload IS NULL OR payload IS NOT JSON OBJECT",
    ]


def job(
    name: str,
    settings: LaneSettings,
    *,
    namespace: str,
    topic: str,
    dlq: str,
    stretch: Stretch,
    months: Sequence[str],
    mode: str,
    events: int,
    more_setup: Sequence[str] = (),
    more_inserts: Sequence[str] = (),
    origin: Sequence[str] | None = None,
) -> RenderedJob:
    """The whole job.

    :param name: of the job.
    :param topic: of the events.
    :param dlq: topic of the dead letters.
    :param stretch: what it reads.
    :param mode: ``batch`` or ``streaming``; the SQL is the same.
    :param events: how many, for the choice of the state's place.
    :param more_setup: further definitions.
    :param more_inserts: further sinks.
    :param origin: definitions of ``raw_events`` and ``trip_events``, where they are not plain events.
    """
    definitions = [
        settings.catalog_ddl(),
        *(origin if origin is not None else sources(settings, topic, stretch, name)),
        dead_letters(settings, dlq),
        *views(months),
        *more_setup,
    ]
    body = ";\n".join([*inserts(namespace), *more_inserts])
    return RenderedJob(
        name, tuple(definitions), f"EXECUTE STATEMENT SET BEGIN\n{body};\nEND", properties(settings, mode, events)
    )


COMPACTED = ("bronze", "silver")


def compaction(
    name: str, settings: LaneSettings, *, namespace: str, compacted: Sequence[str] = COMPACTED
) -> RenderedJob:
    """The job that rewrites a run's tables: each checkpoint left files, each correction a delete file.

    An overwrite is one commit, and the tables hold one run only, so there is no old part that it could leave alone.

    :param name: of the job.
    :param namespace: of the pipeline's tables.
    :param compacted: which of them.
    """
    tables = [table(names(namespace)[one], CATALOG) for one in compacted]
    body = ";\n".join(f"INSERT OVERWRITE {one} SELECT * FROM {one}" for one in tables)  # noqa: S608
    return RenderedJob(
        name,
        (settings.catalog_ddl(),),
        f"EXECUTE STATEMENT SET BEGIN\n{body};\nEND",
        # A writer gets its rows by key, and in batch those would be sorted first: nobody needs that here.
        properties(settings, "batch")
        | {"execution.sorted-inputs.enabled": "false", "execution.batch-state-backend.enabled": "false"},
    )


def properties(settings: LaneSettings, mode: str, events: int = 0) -> dict[str, str]:
    """Session properties of a mode.

    :param events: a streaming job keeps a row for each; so many that the heap cannot hold them go to RocksDB.
    """
    # A job that fails must end: a run in which it restarted would be void anyway.
    no_restart = {"restart-strategy.type": "none"}
    if mode == "streaming":
        large = events > HEAP_EVENTS
        interval = _CHECKPOINT_ON_DISK_MS if large else CHECKPOINT_MS
        return settings.streaming_properties(interval, "EXACTLY_ONCE") | no_restart | (_ON_DISK if large else {})
    return {
        "execution.runtime-mode": "batch",
        "parallelism.default": str(settings.parallelism),
        "table.local-time-zone": "UTC",
        "pipeline.object-reuse": "true",
        **no_restart,
    }
