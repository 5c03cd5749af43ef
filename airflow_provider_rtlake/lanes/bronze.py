"""Where the bronze lane goes on: the bronze table itself says what it has, and so nothing is lost or doubled."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import tenacity

from airflow_provider_rtlake.clients.flink import FlinkClient, SqlSession
from airflow_provider_rtlake.exceptions import ServiceUnavailable, TerminalError
from airflow_provider_rtlake.flink_sql.job import EARLIEST, StartPoint
from airflow_provider_rtlake.flink_sql.quoting import identifier, literal, table
from airflow_provider_rtlake.flink_sql.settings import CATALOG, LaneSettings

BATCH = {
    "execution.runtime-mode": "batch",
    "parallelism.default": "1",
    "table.local-time-zone": "UTC",
    "restart-strategy.type": "none",  # a query that fails tells why at once
}


class OffsetGap(TerminalError):
    """Kafka no longer has messages that bronze has not read, or the topic is another one of the same name."""


@contextmanager
def lake_session(client: FlinkClient, settings: LaneSettings) -> Iterator[SqlSession]:
    """A session for bounded queries over the lakehouse, run by the Flink cluster.

    :param client: of the cluster.
    :param settings: of the lanes.
    """
    with client.session({**BATCH, "pipeline.name": "rtlake query"}) as session:
        session.execute(settings.catalog_ddl())
        yield session


def has_table(session: SqlSession, name: str) -> bool:
    """Whether the lakehouse has a table.

    :param session: from :func:`lake_session`.
    :param name: ``namespace.name``.
    """
    namespace, short = name.split(".", 1)
    databases = session.execute(f"SHOW DATABASES FROM {identifier(CATALOG)} LIKE {literal(namespace)}").rows
    if (namespace,) not in databases:
        return False
    return (short,) in session.execute(f"SHOW TABLES FROM {table(namespace, CATALOG)} LIKE {literal(short)}").rows


def next_offsets(
    client: FlinkClient, settings: LaneSettings, name: str, partitions: Iterable[int], *, timeout: float = 300.0
) -> dict[int, int]:
    """The first offset of each partition that a bronze table does not have; partitions without rows are left out.

    Flink commits all partitions of a checkpoint in one Iceberg snapshot and reads each in order, so everything below
    the highest offset of a partition is in the table.

    :param client: of the cluster.
    :param settings: of the lanes.
    :param name: bronze table, ``namespace.name``.
    :param partitions: of the topic.
    :param timeout: seconds.
    """
    numbers = sorted(partitions)
    if not numbers:
        return {}
    # Not GROUP BY: that needs managed memory, which a small TaskManager has none of
    columns = ", ".join(f"MAX(CASE WHEN `topic_partition` = {n} THEN `topic_offset` END)" for n in numbers)
    statement = f"SELECT {columns} FROM {table(name, CATALOG)}"  # noqa: S608 (numbers, and a quoted name)
    retrying = tenacity.Retrying(  # a TaskManager that has just died is given work until its heartbeat is missed
        stop=tenacity.stop_after_delay(timeout),
        wait=tenacity.wait_exponential(multiplier=0.5, max=5.0),
        retry=tenacity.retry_if_exception_type(ServiceUnavailable),
        reraise=True,
    )
    with lake_session(client, settings) as session:
        if not has_table(session, name):
            return {}
        (row,) = retrying(session.execute, statement, timeout=timeout).rows
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
