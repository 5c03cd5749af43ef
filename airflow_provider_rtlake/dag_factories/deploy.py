"""``lakehouse_deploy``: everything declared is brought into being."""

from __future__ import annotations

from collections.abc import Sequence

from airflow.sdk import DAG, Param

from airflow_provider_rtlake.dag_factories.common import connectors_folder, lakehouse_dag, project_folder
from airflow_provider_rtlake.streams.model import Connector

DOC = """
Compares what runs with what is declared and changes the difference; a second run changes nothing.
The order: connectors, then the bronze lanes beside the Pinot tables, then the real-time lanes.
A Pinot table that cannot be changed in place holds up only its own lane: all others are deployed, then both tasks
fail and name it.

| parameter | |
| --- | --- |
| `dry_run` | only show what would change: the tasks' XCom `return_value` holds the plan |
| `prune` | also delete connectors, and stop lanes, that no declaration names any more |
| `rebuild` | delete and remake Pinot tables that cannot be changed in place |
"""


def deploy_dag(dag_file: str, connectors: Sequence[Connector]) -> DAG:
    """``lakehouse_deploy``: everything declared is brought into being; a second run changes nothing.

    :param dag_file: the DAG file's ``__file__``.
    :param connectors: the declarations.
    """
    from airflow_provider_rtlake.operators.flink import FlinkApplyLanesOperator
    from airflow_provider_rtlake.operators.kafka_connect import KafkaConnectApplyConnectorsOperator
    from airflow_provider_rtlake.operators.pinot import PinotApplyTablesOperator

    project = project_folder(dag_file)
    folder, tables = str(connectors_folder(project)), str(project / "pinot_tables")
    dry_run, prune = "{{ params.dry_run }}", "{{ params.prune }}"
    captured = ", ".join(stream.source for connector in connectors for stream in connector.streams)
    with lakehouse_dag(
        "lakehouse_deploy",
        description="Bring everything that is declared into being",
        doc_md=f"{DOC}\nDeclared now: {captured or 'nothing'}.",
        tags=("deploy",),
        params={
            "dry_run": Param(False, type="boolean", description="Only show what would change"),
            "prune": Param(False, type="boolean", description="Also remove what is not declared any more"),
            "rebuild": Param(False, type="boolean", description="Remake Pinot tables that cannot be changed in place"),
        },
    ) as dag:
        capture = KafkaConnectApplyConnectorsOperator(
            task_id="connectors",
            folder=folder,
            dry_run=dry_run,
            prune=prune,
            doc_md="Topics, publication, rights and connectors; waits until every connector runs with every task.",
        )
        bronze = FlinkApplyLanesOperator(
            task_id="bronze_lanes",
            folder=folder,
            tables_folder=tables,
            lane="bronze",
            dry_run=dry_run,
            doc_md="Flink jobs that write every change, and the transactions, to Iceberg.",
        )
        pinot = PinotApplyTablesOperator(
            task_id="pinot_tables",
            connectors_folder=folder,
            tables_folder=tables,
            dry_run=dry_run,
            rebuild="{{ params.rebuild }}",
            doc_md="Topics, schemas and tables of Pinot; waits until every partition is consumed.",
        )
        realtime = FlinkApplyLanesOperator(
            task_id="realtime_lanes",
            folder=folder,
            tables_folder=tables,
            lane="realtime",
            dry_run=dry_run,
            prune=prune,
            pinot_task_id=pinot.task_id,
            # Also where some Pinot tables could not be brought about: their lanes stay as they are
            trigger_rule="all_done_min_one_success",
            doc_md="Flink jobs that feed Pinot's topics; a lane waits until its Pinot table is as declared.",
        )
        capture >> [bronze, pinot, realtime]
        pinot >> realtime
    return dag
