"""``lakehouse_maintenance``: the tables' upkeep."""

from __future__ import annotations

from collections.abc import Sequence

from airflow.sdk import DAG, CronTriggerTimetable, Param, TaskGroup

from airflow_provider_rtlake.dag_factories.common import MAINTENANCE_CRON, lakehouse_dag
from airflow_provider_rtlake.streams.model import Connector, Stream

DOC = """
Small files become large ones, manifests are rewritten, old snapshots and orphaned files go. What another branch or tag
can see stays, and so does what a merge still has to read. What was not done, the tasks' XCom says with the reason.

| parameter | |
| --- | --- |
| `dry_run` | only say what would be done |
"""
DRY_RUN = "{{ params.dry_run }}"


def maintenance_dag(streams: Sequence[Stream]) -> DAG:
    """``lakehouse_maintenance``: small files become large ones, old snapshots go, what is needed stays.

    :param streams: all captured tables.
    """
    from airflow_provider_rtlake.operators.iceberg import IcebergMaintainTableOperator

    with lakehouse_dag(
        "lakehouse_maintenance",
        description="Compact and expire the lakehouse's tables",
        doc_md=DOC,
        schedule=CronTriggerTimetable(MAINTENANCE_CRON, timezone="UTC"),
        max_active_tasks=1,
        tags=("maintenance",),
        params={"dry_run": Param(False, type="boolean", description="Only say what would be done")},
    ) as dag:
        for stream in streams:
            base = stream.history_base
            with TaskGroup(stream.slug, tooltip=f"Tables of {stream.source}"):
                IcebergMaintainTableOperator(
                    task_id="bronze",
                    table=stream.bronze_table,
                    needed_by={f"{base}_checkpoint": "bronze_snapshot"} if base else {},
                    dry_run=DRY_RUN,
                    doc_md=f"Upkeep of `{stream.bronze_table}`; what the history has not read yet stays.",
                )
                for task_id, table in _companions(stream):
                    IcebergMaintainTableOperator(
                        task_id=task_id,
                        table=table,
                        merge_of=stream.history_table,
                        dry_run=DRY_RUN,
                        doc_md=f"Upkeep of `{table}`, not while a merge is unpublished.",
                    )
        for connector in {stream.connector.connector: stream.connector for stream in streams}.values():
            _maintain_transactions(connector)
    return dag


def _companions(stream: Stream) -> list[tuple[str, str]]:
    if stream.history_table is None:
        return []
    base = stream.history_base
    return [
        ("history", stream.history_table),
        ("changes", f"{base}_changes"),
        ("checkpoint", f"{base}_checkpoint"),
    ]


def _maintain_transactions(connector: Connector) -> None:
    from airflow_provider_rtlake.operators.iceberg import IcebergMaintainTableOperator

    streams = connector.streams
    if streams:
        IcebergMaintainTableOperator(
            task_id=f"{connector.connector}.transactions",
            table=streams[0].bronze_transactions,
            needed_by={
                f"{stream.history_base}_checkpoint": "transactions_snapshot"
                for stream in streams
                if stream.history_base
            },
            dry_run=DRY_RUN,
            doc_md="Upkeep of the connector's transaction markers.",
        )
