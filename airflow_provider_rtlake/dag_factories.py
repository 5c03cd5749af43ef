"""The lakehouse's DAGs, made from the declarations: reading those is all that parsing a DAG file does.

One factory makes one kind of DAG, so a new table gets its DAG by its declaration alone.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from airflow.sdk import (
    DAG,
    Asset,
    AssetAlias,
    AssetAny,
    AssetOrTimeSchedule,
    AssetWatcher,
    Context,
    CronTriggerTimetable,
    TaskGroup,
)

from airflow_provider_rtlake.assets import table_asset
from airflow_provider_rtlake.streams.load import load_connectors
from airflow_provider_rtlake.streams.model import Connector, Stream
from airflow_provider_rtlake.triggers.nessie import NessieTableChangedTrigger

log = logging.getLogger(__name__)

START = datetime(2024, 1, 1, tzinfo=timezone.utc)
TAG = "rtlake"
CATALOG = "nessie"  # Trino's name of the lakehouse
SPARK_POOL = "rtlake_spark"  # one Spark driver at a time; the kit makes the pool

# How often, at the latest and at most. The environment can say otherwise without a change of code.
MERGE_CRON = os.environ.get("RTLAKE_MERGE_CRON", "*/10 * * * *")
MERGE_MIN_SECONDS = float(os.environ.get("RTLAKE_MERGE_MIN_SECONDS", "120"))
CHECKS_CRON = os.environ.get("RTLAKE_CHECKS_CRON", "17 * * * *")
MAINTENANCE_CRON = os.environ.get("RTLAKE_MAINTENANCE_CRON", "41 3 * * *")


def project_folder(dag_file: str) -> Path:
    """The project: ``$RTLAKE_PROJECT``, or the folder above the DAGs'.

    :param dag_file: the DAG file's ``__file__``.
    """
    return Path(os.environ.get("RTLAKE_PROJECT") or Path(dag_file).resolve().parent.parent)


def connectors_folder(project: Path) -> Path:
    """Where the declarations are: ``$RTLAKE_CONNECTORS``, or ``connectors/`` of the project.

    :param project: the project's folder.
    """
    return Path(os.environ.get("RTLAKE_CONNECTORS") or project / "connectors")


def log_link(context: Context) -> None:
    """Say where a failed task's log is; for ``on_failure_callback``.

    :param context: the task's context.
    """
    instance = context["ti"]
    log.error("%s.%s failed; its log: %s", instance.dag_id, instance.task_id, getattr(instance, "log_url", "?"))


def _dag(dag_id: str, *, description: str, **kwargs: Any) -> DAG:
    """A DAG with what all of them share."""
    kwargs.setdefault("schedule", None)
    tags = {TAG, *kwargs.pop("tags", ())}
    return DAG(
        dag_id,
        description=description,
        start_date=START,
        catchup=False,
        max_active_runs=1,
        is_paused_upon_creation=False,
        tags=tags,
        default_args={
            "retries": 2,
            "retry_delay": timedelta(seconds=15),
            "on_failure_callback": log_link,
        },
        **kwargs,
    )


def streams_of(connectors: Sequence[Connector], *, with_history: bool = False) -> list[Stream]:
    """The captured tables.

    :param connectors: the declarations.
    :param with_history: only those that keep a history.
    """
    streams = [stream for connector in connectors for stream in connector.streams]
    return [stream for stream in streams if stream.history_table] if with_history else streams


def load(dag_file: str) -> list[Connector]:
    """The declarations that the DAGs are made from.

    :param dag_file: the DAG file's ``__file__``.
    :raises DeclarationError: any of them breaks a rule; Airflow shows it as the file's import error.
    """
    return load_connectors(connectors_folder(project_folder(dag_file)))


def bronze_asset(stream: Stream) -> Asset:
    """Every change of a table; new whenever the bronze lane commits.

    :param stream: the table.
    """
    watcher = AssetWatcher(
        name=f"{stream.bronze_table} commits",
        trigger=NessieTableChangedTrigger(table=stream.bronze_table, min_seconds=MERGE_MIN_SECONDS),
    )
    return table_asset(stream.bronze_table, watchers=[watcher])


def history_asset(stream: Stream) -> Asset:
    """The table's history; new whenever a merge publishes.

    :param stream: a table that keeps one.
    """
    return table_asset(str(stream.history_table))


def scd2_dag_id(stream: Stream) -> str:
    """``scd2_<table>_spark_processing``; ``source_sales`` is ``sales``, as its users know it.

    :param stream: the table.
    """
    return f"scd2_{'sales' if stream.slug == 'source_sales' else stream.slug}_spark_processing"


def deploy_dag(dag_file: str, connectors: Sequence[Connector]) -> DAG:
    """``lakehouse_deploy``: everything declared is brought into being; a second run changes nothing.

    :param dag_file: the DAG file's ``__file__``.
    :param connectors: the declarations.
    """
    from airflow_provider_rtlake.operators.flink import FlinkApplyLanesOperator
    from airflow_provider_rtlake.operators.kafka_connect import KafkaConnectApplyConnectorsOperator
    from airflow_provider_rtlake.operators.pinot import PinotApplyTablesOperator

    project = project_folder(dag_file)
    folder = str(connectors_folder(project))
    with _dag("lakehouse_deploy", description="Bring everything that is declared into being") as dag:
        capture = KafkaConnectApplyConnectorsOperator(task_id="connectors", folder=folder)
        bronze = FlinkApplyLanesOperator(task_id="bronze_lanes", folder=folder, lane="bronze")
        pinot = PinotApplyTablesOperator(
            task_id="pinot_tables", connectors_folder=folder, tables_folder=str(project / "pinot_tables")
        )
        realtime = FlinkApplyLanesOperator(task_id="realtime_lanes", folder=folder, lane="realtime")
        capture >> [bronze, pinot]
        pinot >> realtime
    return dag


def _checks(stream: Stream, *, source: bool) -> TaskGroup:
    """Checks of one history on main."""
    from airflow_provider_rtlake.operators.trino import (
        TrinoFreshnessCheckOperator,
        TrinoScd2InvariantsCheckOperator,
        TrinoScd2SourceCheckOperator,
    )

    history = f"{CATALOG}.{stream.history_table}"
    with TaskGroup("checks" if not source else stream.slug) as group:
        TrinoScd2InvariantsCheckOperator(
            task_id="invariants",
            table=history,
            keys=["scd2_key"],
            # Whether an empty history is right, the comparison with the source tells.
            allow_empty=source,
            skip_if_missing=True,
        )
        TrinoFreshnessCheckOperator(
            task_id="freshness",
            table=f"{CATALOG}.{stream.history_base}_checkpoint",
            column="merged_at",
            reference=f"{CATALOG}.{stream.bronze_table}",
            reference_column="kafka_ts",
            max_age=timedelta(hours=1),
            skip_if_missing=True,
        )
        if source:
            TrinoScd2SourceCheckOperator(
                task_id="equals_source",
                history=history,
                checkpoint=f"{CATALOG}.{stream.history_base}_checkpoint",
                schema=stream.schema_name,
                table=stream.table_name,
                exclude=list(stream.table.exclude),
                allow_empty=True,
                skip_if_missing=True,
            )
    return group


def scd2_dag(dag_file: str, stream: Stream) -> DAG:
    """Merge a table's new changes into its history on a branch, check, publish, and check what readers see.

    :param dag_file: the DAG file's ``__file__``.
    :param stream: a table that keeps a history.
    """
    from airflow_provider_rtlake.operators.iceberg import IcebergScd2NewChangesOperator
    from airflow_provider_rtlake.operators.scd2 import IcebergScd2MergeOperator

    with _dag(
        scd2_dag_id(stream),
        description=f"History of {stream.source} in {stream.history_table}",
        schedule=AssetOrTimeSchedule(
            timetable=CronTriggerTimetable(MERGE_CRON, timezone="UTC"), assets=[bronze_asset(stream)]
        ),
        tags=("scd2",),
    ) as dag:
        new = IcebergScd2NewChangesOperator(
            task_id="new_changes", bronze=stream.bronze_table, checkpoint=f"{stream.history_base}_checkpoint"
        )
        merge = IcebergScd2MergeOperator(
            task_id="merge",
            stream=stream,
            pool=SPARK_POOL,
            outlets=[AssetAlias(f"merged.{stream.history_table}")],
            post_execute=_announce(stream),
        )
        new >> merge >> _checks(stream, source=False)
    return dag


def _announce(stream: Stream) -> Any:
    """A hook that tells Airflow of a new state of the history, where the merge published one."""
    alias, asset = AssetAlias(f"merged.{stream.history_table}"), history_asset(stream)

    def announce(context: Context, result: Any = None) -> None:
        if isinstance(result, dict) and result.get("changed"):
            context["outlet_events"][alias].add(asset, extra={"position": str(result.get("position") or "")})

    return announce


def checks_dag(streams: Sequence[Stream]) -> DAG:
    """``lakehouse_checks``: every history obeys its rules and equals its source at one position of the log.

    :param streams: tables that keep a history.
    """
    with _dag(
        "lakehouse_checks",
        description="Histories obey their rules and equal the source",
        schedule=CronTriggerTimetable(CHECKS_CRON, timezone="UTC"),
        max_active_tasks=2,
    ) as dag:
        for stream in streams:
            _checks(stream, source=True)
    return dag


def gold_dag(dag_file: str, streams: Sequence[Stream]) -> DAG:
    """``lakehouse_gold``: the dbt models, rebuilt and tested when a history that they read has changed.

    One dbt process builds and tests all of them: a process for each model costs seconds each.

    :param dag_file: the DAG file's ``__file__``.
    :param streams: tables that keep a history.
    """
    from cosmos.config import ProfileConfig
    from cosmos.constants import InvocationMode
    from cosmos.operators.local import DbtBuildLocalOperator

    project = project_folder(dag_file) / "dbt" / "sales"
    read = [history_asset(stream) for stream in streams if stream.slug == "source_sales"]
    with _dag(
        "lakehouse_gold",
        description="Gold models of the sales lakehouse",
        schedule=AssetAny(*read) if read else None,
        tags=("dbt",),
    ) as dag:
        DbtBuildLocalOperator(
            task_id="dbt_build",
            project_dir=str(project),
            profile_config=ProfileConfig(
                profile_name="rtlake_sales",
                target_name="lakehouse",
                profiles_yml_filepath=project / "profiles.yml",
            ),
            invocation_mode=InvocationMode.DBT_RUNNER,
            install_deps=False,
            emit_datasets=False,
            append_env=True,
            env={
                "RTLAKE_TRINO_HOST": "{{ conn.rtlake_trino.host }}",
                "RTLAKE_TRINO_PORT": "{{ conn.rtlake_trino.port }}",
                "RTLAKE_TRINO_USER": "{{ conn.rtlake_trino.login or 'rtlake' }}",
                "DO_NOT_TRACK": "1",
            },
        )
    return dag


def maintenance_dag(streams: Sequence[Stream]) -> DAG:
    """``lakehouse_maintenance``: small files become large ones, old snapshots go, what is needed stays.

    :param streams: all captured tables.
    """
    from airflow_provider_rtlake.operators.iceberg import IcebergMaintainTableOperator

    with _dag(
        "lakehouse_maintenance",
        description="Compact and expire the lakehouse's tables",
        schedule=CronTriggerTimetable(MAINTENANCE_CRON, timezone="UTC"),
        max_active_tasks=1,
    ) as dag:
        for stream in streams:
            base = stream.history_base
            with TaskGroup(stream.slug):
                IcebergMaintainTableOperator(
                    task_id="bronze",
                    table=stream.bronze_table,
                    needed_by={f"{base}_checkpoint": "bronze_snapshot"} if base else {},
                )
                for task_id, table in _companions(stream):
                    IcebergMaintainTableOperator(task_id=task_id, table=table, merge_of=stream.history_table)
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
        )
