"""Everything that waits in the triggerer, and two jobs to be killed. A test puts this file beside the stack's DAGs.

What it works on comes as the run's parameters; the test makes it, lets each task wait, and then lets its wait end.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from airflow.sdk import DAG, Param

from airflow_provider_rtlake.operators.flink import FlinkRunJarOperator, FlinkRunSqlOperator, FlinkStopJobOperator
from airflow_provider_rtlake.operators.pinot import PinotApplyTablesOperator
from airflow_provider_rtlake.sensors.flink import FlinkCheckpointSensor, FlinkJobSensor
from airflow_provider_rtlake.sensors.kafka_connect import KafkaConnectRunningSensor
from airflow_provider_rtlake.sensors.pinot import PinotFreshnessSensor, PinotIngestionHealthySensor
from airflow_provider_rtlake.sensors.scd2 import IcebergNewSnapshotSensor

LIMIT = 240  # seconds that each may wait


def numbers(rows: int, per_second: int) -> list[str]:
    """Statements of a job that makes so many rows and throws them away."""
    bounded = f", 'number-of-rows' = '{rows}'" if rows else ""
    return [
        "CREATE TEMPORARY TABLE made (n BIGINT) WITH "
        f"('connector' = 'datagen', 'rows-per-second' = '{per_second}'{bounded})",
        "CREATE TEMPORARY TABLE gone (n BIGINT) WITH ('connector' = 'blackhole')",
        "INSERT INTO gone SELECT n FROM made",
    ]


def name(what: str) -> str:
    """A job's name, another one for each run."""
    return f"it waits {what} {{{{ run_id }}}}"


with DAG(
    "rtlake_waits",
    schedule=None,
    start_date=datetime(2024, 1, 1, tzinfo=timezone.utc),
    catchup=False,
    is_paused_upon_creation=False,
    default_args={"retries": 0},
    tags=["rtlake", "test"],
    params={
        key: Param("", type="string")
        for key in ("connector", "pinot_table", "pinot_folder", "lake_table", "snapshot", "jar")
    },
):
    sensor: dict[str, Any] = {"deferrable": True, "poke_interval": 2, "timeout": LIMIT}
    job: dict[str, Any] = {"deferrable": True, "poll_interval": 1, "wait_seconds": LIMIT}

    KafkaConnectRunningSensor(task_id="connector_runs", connectors="{{ params.connector }}", **sensor)
    PinotApplyTablesOperator(
        task_id="pinot_applied",
        tables_folder="{{ params.pinot_folder }}",
        deferrable=True,
        poll_interval=1,
        wait_seconds=LIMIT,
    )
    PinotIngestionHealthySensor(task_id="pinot_healthy", tables="{{ params.pinot_table }}", **sensor)
    PinotFreshnessSensor(task_id="pinot_fresh", table="{{ params.pinot_table }}", time_column="at_ms", **sensor)
    IcebergNewSnapshotSensor(
        task_id="new_snapshot", table="{{ params.lake_table }}", since="{{ params.snapshot }}", **sensor
    )
    FlinkRunSqlOperator(task_id="sql_finished", sql=numbers(150, 5), job_name=name("finished"), **job)
    started = FlinkRunSqlOperator(
        task_id="sql_started", sql=numbers(250, 5), job_name=name("started"), wait_for="submitted", **job
    )
    started >> FlinkJobSensor(
        task_id="job_finished",
        job_id="{{ ti.xcom_pull('sql_started')['job_id'] }}",
        states=["FINISHED"],
        **sensor,
    )
    streaming = FlinkRunSqlOperator(
        task_id="sql_streaming",
        sql=numbers(0, 1),
        job_name=name("streaming"),
        streaming=True,
        properties={"execution.checkpointing.interval": "2 s"},
    )
    checkpoints = FlinkCheckpointSensor(task_id="checkpoints", job_name=name("streaming"), number=15, **sensor)
    stopped = FlinkStopJobOperator(
        task_id="stopped", job_name=name("streaming"), savepoint=False, trigger_rule="all_done"
    )
    streaming >> checkpoints >> stopped
    FlinkRunJarOperator(task_id="jar_finished", jar="{{ params.jar }}", arguments=[name("jar")], **job)
    FlinkRunSqlOperator(task_id="killed_deferred", sql=numbers(9_999, 1), job_name=name("killed 1"), **job)
    FlinkRunSqlOperator(
        task_id="killed_running",
        sql=numbers(9_999, 1),
        job_name=name("killed 2"),
        **{**job, "deferrable": False},
    )
