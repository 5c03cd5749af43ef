"""The benchmark pipelines, one DAG each; and the ways to run dbt that were measured to choose one."""

from __future__ import annotations

from airflow_provider_rtlake.dag_factories.benchmark import benchmark_dags
from airflow_provider_rtlake.dag_factories.dbt_modes import dbt_mode_dags

for dag in [*benchmark_dags(), *dbt_mode_dags()]:
    globals()[dag.dag_id] = dag
