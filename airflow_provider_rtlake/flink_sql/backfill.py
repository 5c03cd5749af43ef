"""Fills the real-time topics of a table again from its bronze table.

Two bounded jobs: the first copies the messages from bronze to a topic of their own, as they arrived; the second is the
real-time lane itself over that topic. So a message that is sent again is equal to the first one, event id and position
included, and the answers of the tables that read the topics stay exact.
"""

# ruff: noqa: S608 (every name and text that goes into a statement is quoted by flink_sql.quoting)

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from airflow_provider_rtlake.flink_sql.job import EARLIEST, KafkaSource, RenderedJob
from airflow_provider_rtlake.flink_sql.quoting import options, table
from airflow_provider_rtlake.flink_sql.settings import CATALOG, LaneSettings
from airflow_provider_rtlake.streams.model import Stream


def copy_job(
    stream: Stream, topic: str, settings: LaneSettings, without: Mapping[int, Sequence[int]] | None = None
) -> RenderedJob:
    """The job that copies a bronze table to a topic.

    :param stream: the captured table.
    :param topic: to write to.
    :param settings: of the lanes.
    :param without: partition → offsets of messages that are left out.
    """
    with_options = {
        **settings.sink_options(topic),
        "key.format": "raw",
        "key.fields": "message_key",
        "value.format": "raw",
        "value.fields-include": "EXCEPT_KEY",
    }
    sink = f"""CREATE TEMPORARY TABLE `copy` (
  `message_key` STRING, `value` STRING, `message_headers` MAP<STRING, BYTES> METADATA FROM 'headers'
) WITH (
  {options(with_options)}
)"""
    insert = f"""INSERT INTO `copy`
SELECT `message_key`, '{{"payload":' || `payload` || '}}', CAST(`headers` AS MAP<STRING, BYTES>)
FROM {table(stream.bronze_table, CATALOG)}{_leaving_out(without or {})}"""
    return RenderedJob(
        name=f"backfill.copy.{stream.topic}",
        setup=(settings.catalog_ddl(), sink),
        insert=insert,
        properties={
            "execution.runtime-mode": "batch",
            "parallelism.default": str(settings.parallelism),
            "table.local-time-zone": "UTC",
            "restart-strategy.type": "fixed-delay",
            "restart-strategy.fixed-delay.attempts": "3",
            "restart-strategy.fixed-delay.delay": "2 s",
        },
    )


def _leaving_out(without: Mapping[int, Sequence[int]]) -> str:
    parts = [
        f"(`topic_partition` = {partition:d} AND `topic_offset` IN ({', '.join(f'{offset:d}' for offset in offsets)}))"
        for partition, offsets in sorted(without.items())
        if offsets
    ]
    return f"\nWHERE NOT ({' OR '.join(parts)})" if parts else ""


def count_changes(refill: RenderedJob) -> tuple[str, ...]:
    """Statements of which the last one counts the messages that a refill takes for changes, by the lane's own rule.

    :param refill: from :func:`refill_job`.
    """
    if refill.source is None:
        raise ValueError(f"{refill.name} reads no topic")
    return (refill.source.ddl(EARLIEST), *refill.views, "SELECT COUNT(*) FROM `changes`")


def refill_job(stream: Stream, lane: RenderedJob, topic: str) -> RenderedJob:
    """The real-time lane's job over another topic, up to that topic's present end.

    :param stream: the captured table.
    :param lane: the job of its real-time lane.
    :param topic: holds the copied messages.
    """
    source = lane.source
    if source is None:
        raise ValueError(f"{lane.name} reads no topic")
    bounded: dict[str, str] = {
        **{key: value for key, value in source.options.items() if not key.startswith("scan.")},
        "topic": topic,
        "properties.group.id": f"rtlake.backfill.{stream.topic}",
        "scan.bounded.mode": "latest-offset",
    }
    return replace(
        lane,
        name=f"backfill.refill.{stream.topic}",
        source=KafkaSource(source.table, source.columns, bounded),
        properties={
            **lane.properties,
            "restart-strategy.type": "fixed-delay",
            "restart-strategy.fixed-delay.attempts": "3",
            "restart-strategy.fixed-delay.delay": "2 s",
        },
    )
