"""The lakehouse: deploy what is declared, keep the histories, check, build gold, maintain."""

from __future__ import annotations

from airflow_provider_rtlake import dag_factories as make

CONNECTORS = make.load(__file__)
STREAMS = make.streams_of(CONNECTORS)
HISTORIES = make.streams_of(CONNECTORS, with_history=True)

lakehouse_deploy = make.deploy_dag(__file__, CONNECTORS)
lakehouse_checks = make.checks_dag(HISTORIES)
lakehouse_gold = make.gold_dag(__file__, HISTORIES)
lakehouse_maintenance = make.maintenance_dag(STREAMS)

for stream in HISTORIES:
    globals()[make.scd2_dag_id(stream)] = make.scd2_dag(__file__, stream)
