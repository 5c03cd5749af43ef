"""The lakehouse's DAGs, made from the declarations: reading those is all that parsing a DAG file does.

One factory makes one kind of DAG, so a new table gets its DAG by its declaration alone. What is heavy to import is
imported where it is used: the dag processor starts a process for every look at a file.
"""

from airflow_provider_rtlake.dag_factories.checks import checks_dag
from airflow_provider_rtlake.dag_factories.common import (
    SPARK_POOL,
    bronze_asset,
    connectors_folder,
    history_asset,
    load,
    log_link,
    project_folder,
    streams_of,
    wanted,
)
from airflow_provider_rtlake.dag_factories.deploy import deploy_dag
from airflow_provider_rtlake.dag_factories.gold import gold_dag
from airflow_provider_rtlake.dag_factories.maintenance import maintenance_dag
from airflow_provider_rtlake.dag_factories.scd2 import scd2_dag

__all__ = [
    "SPARK_POOL",
    "bronze_asset",
    "checks_dag",
    "connectors_folder",
    "deploy_dag",
    "gold_dag",
    "history_asset",
    "load",
    "log_link",
    "maintenance_dag",
    "project_folder",
    "scd2_dag",
    "streams_of",
    "wanted",
]
