"""The lakehouse: deploy what is declared, keep the histories, check, build gold, maintain. Airflow's DAGs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from airflow.sdk import DAG

from airflow_provider_rtlake import dag_factories as make

CONNECTORS = make.load(__file__)
STREAMS = make.streams_of(CONNECTORS)
HISTORIES = make.streams_of(CONNECTORS, with_history=True)

DAGS: dict[str, Callable[[], DAG]] = {
    "lakehouse_deploy": partial(make.deploy_dag, __file__, CONNECTORS),
    "lakehouse_checks": partial(make.checks_dag, __file__, STREAMS),
    "lakehouse_gold": partial(make.gold_dag, __file__, HISTORIES),
    "lakehouse_maintenance": partial(make.maintenance_dag, STREAMS),
    **{stream.merge_dag: partial(make.scd2_dag, __file__, stream) for stream in HISTORIES},
}

for dag_id, build in DAGS.items():
    if make.wanted(dag_id):
        globals()[dag_id] = build()
