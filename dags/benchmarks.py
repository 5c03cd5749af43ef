"""The benchmark pipelines, one DAG each."""

from __future__ import annotations

from airflow_provider_rtlake.dag_factories.benchmark import benchmark_dags

for dag in benchmark_dags():
    globals()[dag.dag_id] = dag
