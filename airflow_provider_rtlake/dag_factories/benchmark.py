"""The benchmark pipelines' DAGs: all alike, because what is a pipeline's own is in its declaration and engine."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, BaseOperator, Param

from airflow_provider_rtlake.bench.catalog import PIPELINES, TIERS, Pipeline
from airflow_provider_rtlake.dag_factories.common import OWNER, TAG, log_link, wanted
from airflow_provider_rtlake.operators.benchmark import (
    BenchmarkBeginOperator,
    BenchmarkRecordOperator,
    BenchmarkStageOperator,
)

_FOLDER = "{{ ti.xcom_pull('begin') }}"
_LIMIT = timedelta(minutes=20)  # for one stage


def benchmark_dags() -> list[DAG]:
    """One DAG for each pipeline that can run."""
    return [benchmark_dag(one) for one in PIPELINES if not one.not_run and wanted(one.dag_id)]


def benchmark_dag(pipeline: Pipeline) -> DAG:
    """begin → prepare → generate → process → dbt → query → check → record.

    :param pipeline: its declaration.
    """
    with DAG(
        pipeline.dag_id,
        description=pipeline.title,
        doc_md=f"{pipeline.title}. Tier: {TIERS[pipeline.tier]}. Its record is in the folder of `rtlake report`.",
        schedule=None,
        catchup=False,
        max_active_runs=1,
        is_paused_upon_creation=False,
        tags={TAG, "benchmark", pipeline.tier},
        # A stage that is tried again would be measured twice.
        default_args={"owner": OWNER, "retries": 0, "on_failure_callback": log_link, "execution_timeout": _LIMIT},
        params={
            "events": Param(10_000, type="integer", minimum=100, description="How many"),
            "source": Param("", type="string", description="Taxi Parquet file or folder; empty: as the machine says"),
            "synthetic": Param(False, type="boolean", description="Make the trips up in any case"),
            "mode": Param(pipeline.modes[0], enum=list(pipeline.modes), description="How to process"),
            "exclusive": Param(False, type="boolean", description="Stop services that are not needed, but Airflow's"),
        },
    ) as dag:
        last: BaseOperator = BenchmarkBeginOperator(
            task_id="begin",
            pipeline=pipeline.id,
            events="{{ params.events }}",
            source="{{ params.source }}",
            synthetic="{{ params.synthetic }}",
            mode="{{ params.mode }}",
            exclusive="{{ params.exclusive }}",
        )
        for name in pipeline.stages:
            stage = _dbt() if name == "dbt" else BenchmarkStageOperator(task_id=name, stage=name, folder=_FOLDER)
            last >> stage
            last = stage
        last >> BenchmarkRecordOperator(task_id="record", folder=_FOLDER, trigger_rule="all_done")
    return dag


def _dbt() -> BaseOperator:
    """The dbt stage, and beside the way its nodes: the stages that follow do not wait for what only shows."""
    from airflow_provider_rtlake.bench import dbt
    from airflow_provider_rtlake.dag_factories.dbt import nodes
    from airflow_provider_rtlake.operators.benchmark_dbt import BenchmarkDbtOperator

    project = dbt.project()
    stage = BenchmarkDbtOperator(
        task_id="dbt",
        folder=_FOLDER,
        project_dir=str(project),
        profile=dbt.PROFILE,
        target_name="duckdb",
        target="",  # beside the run's database
    )
    nodes("dbt_nodes", project, profile=dbt.PROFILE, target_name="duckdb", build=stage)
    return stage
