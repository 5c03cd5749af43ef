"""``lakehouse_gold``: the dbt models."""

from __future__ import annotations

from collections.abc import Sequence

from airflow.sdk import DAG, AssetAny, Param

from airflow_provider_rtlake.dag_factories.common import history_asset, lakehouse_dag, project_folder
from airflow_provider_rtlake.dag_factories.dbt import target_folder
from airflow_provider_rtlake.streams.model import Stream

DOC = """
`dbt build` of `dbt/sales` through Cosmos: models and their tests in one dbt process, which is quicker than a process
for each. A model or test that fails fails the task, with dbt's message; what depends on it is not built.

| parameter | |
| --- | --- |
| `select` | models to build, as dbt's `--select`; by default all |
| `full_refresh` | rebuild incremental models from scratch |
"""


def gold_dag(dag_file: str, streams: Sequence[Stream]) -> DAG:
    """``lakehouse_gold``: the dbt models, rebuilt and tested when a history that they read has changed.

    :param dag_file: the DAG file's ``__file__``.
    :param streams: tables that keep a history.
    """
    from airflow_provider_rtlake.operators.dbt import DbtBuildOnceOperator

    project = project_folder(dag_file) / "dbt" / "sales"
    read = [history_asset(stream) for stream in streams if stream.slug == "source_sales"]
    with lakehouse_dag(
        "lakehouse_gold",
        description="Gold models of the sales lakehouse",
        doc_md=DOC,
        schedule=AssetAny(*read) if read else None,
        tags=("dbt",),
        params={
            "select": Param("", type="string", description="As dbt's --select; empty builds all"),
            "full_refresh": Param(False, type="boolean", description="Rebuild incremental models from scratch"),
        },
    ) as dag:
        DbtBuildOnceOperator(
            task_id="dbt_build",
            project_dir=str(project),
            profile="rtlake_sales",
            target_name="lakehouse",
            target=target_folder(project),
            dbt_cmd_flags=["{{ '--select' if params.select else '' }}", "{{ params.select }}"],
            full_refresh="{{ params.full_refresh }}",
            env={
                "RTLAKE_TRINO_HOST": "{{ conn.rtlake_trino.host }}",
                "RTLAKE_TRINO_PORT": "{{ conn.rtlake_trino.port }}",
                "RTLAKE_TRINO_USER": "{{ conn.rtlake_trino.login or 'rtlake' }}",
            },
            doc_md="Models and tests of `dbt/sales`, in one dbt process.",
        )
    return dag
