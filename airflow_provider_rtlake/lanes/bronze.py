"""Where the bronze lane goes on: the bronze table itself says what it has, and so nothing is lost or doubled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from airflow_provider_rtlake.clients.flink import FlinkClient, StatementResult
from airflow_provider_rtlake.exceptions import StatementFailed, TerminalError
from airflow_provider_rtlake.flink_sql.job import EARLIEST, StartPoint
from airflow_provider_rtlake.flink_sql.quoting import literal, table
from airflow_provider_rtlake.flink_sql.settings import CATALOG, LaneSettings

BATCH = {
    "execution.runtime-mode": "batch",
    "parallelism.default": "1",
    "table.local-time-zone": "UTC",
    "restart-strategy.type": "none",  # a query that fails tells why at once
}


class OffsetGap(TerminalError):
    """Kafka no longer has messages that bronze has not read, or the topic is another one of the same name."""


def query(client: FlinkClient, settings: LaneSettings, statement: str, *, timeout: float = 300.0) -> StatementResult:
    """Run a bounded query over the lakehouse on the Flink cluster.

    :param client: of the cluster.
    :param settings: of the lanes.
    :param statement: a SELECT.
    :param timeout: seconds.
    """
    with client.session({**BATCH, "pipeline.name": "rtlake query"}) as session:
        session.execute(settings.catalog_ddl())
        return session.execute(statement, timeout=timeout)


def table_exists(client: FlinkClient, settings: LaneSettings, name: str) -> bool:
    """Whether the lakehouse has a table.

    :param client: of the cluster.
    :param settings: of the lanes.
    :param name: ``namespace.name``.
    """
    namespace, short = name.split(".", 1)
    statement = f"SHOW TABLES FROM {table(namespace, CATALOG)} LIKE {literal(short)}"
    try:
        rows = query(client, settings, statement).rows
    except StatementFailed as error:
        if "does not exist" in str(error) or "doesn't exist" in str(error) or "not exist" in error.body:
            return False
        raise
    return any(str(row[0]) == short for row in rows)


def next_offsets(client: FlinkClient, settings: LaneSettings, name: str, partitions: Iterable[int]) -> dict[int, int]:
    """The first offset of each partition that a bronze table does not have; partitions without rows are left out.

    Flink commits all partitions of a checkpoint in one Iceberg snapshot and reads each in order, so everything below
    the highest offset of a partition is in the table.

    :param client: of the cluster.
    :param settings: of the lanes.
    :param name: bronze table, ``namespace.name``.
    :param partitions: of the topic.
    """
    numbers = sorted(partitions)
    if not numbers or not table_exists(client, settings, name):
        return {}
    # Not GROUP BY: that needs managed memory, which a small TaskManager has none of
    columns = ", ".join(f"MAX(CASE WHEN `topic_partition` = {n} THEN `topic_offset` END)" for n in numbers)
    statement = f"SELECT {columns} FROM {table(name, CATALOG)}"  # noqa: S608 (numbers, and a quoted name)
    row = query(client, settings, statement).rows[0]
    return {n: int(highest) + 1 for n, highest in zip(numbers, row, strict=True) if highest is not None}


def bronze_start(
    topic: str, following: Mapping[int, int], ends: Mapping[int, tuple[int, int]], *, accept_gap: bool = False
) -> StartPoint:
    """Where to begin reading a topic so that bronze gets every message once.

    :param topic: its name.
    :param following: partition → first offset that bronze does not have.
    :param ends: first and next offset of each of the topic's partitions.
    :param accept_gap: go on although messages that bronze has not read are gone from Kafka.
    :raises OffsetGap: Kafka lost such messages, or the topic was deleted and made again.
    """
    if not following:
        return EARLIEST
    problems = []
    for partition, (first, end) in sorted(ends.items()):
        wanted = following.get(partition, 0)
        if wanted > end:
            problems.append(
                f"{topic} partition {partition} ends at {end}, but bronze has offsets up to {wanted - 1}: the "
                "topic was deleted and made again; give the table a new topic prefix, or delete its bronze table"
            )
        elif partition in following and wanted < first and not accept_gap:
            problems.append(
                f"{topic} partition {partition} begins at {first}, but bronze needs it from {wanted} on: Kafka's "
                "retention removed messages that were never read; take a new snapshot of the table and apply with "
                "--accept-gap"
            )
    if problems:
        raise OffsetGap("\n".join(problems))
    return StartPoint("offsets", {partition: following.get(partition, 0) for partition in ends})
