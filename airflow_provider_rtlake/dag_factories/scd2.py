"""``scd2_<table>_spark_processing``: the merge of one table's changes into its history."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, AssetAlias, AssetOrTimeSchedule, Context, CronTriggerTimetable, Param

from airflow_provider_rtlake.dag_factories.checks import table_checks, tell_removed_rows
from airflow_provider_rtlake.dag_factories.common import (
    MERGE_CRON,
    SPARK_POOL,
    bronze_asset,
    history_asset,
    lakehouse_dag,
)
from airflow_provider_rtlake.streams.model import Stream

DOC = """
Skips while bronze holds nothing new. The merge works on a Nessie branch, checks its own result there, and publishes all
of it in one commit; then the history is checked as readers see it. Never two at once. A merge that breaks a rule fails
for good and leaves its branch for inspection; what is published stays as it was.

| parameter | |
| --- | --- |
| `patience_seconds` | how long an incomplete transaction holds back what follows it |
| `max_rows` | rows of bronze taken in one merge; more are taken in several |
"""


def scd2_dag(dag_file: str, stream: Stream) -> DAG:
    """Merge a table's new changes into its history on a branch, check, publish, and check what readers see.

    :param dag_file: the DAG file's ``__file__``.
    :param stream: a table that keeps a history.
    """
    from airflow_provider_rtlake.operators.iceberg import IcebergScd2NewChangesOperator
    from airflow_provider_rtlake.operators.scd2 import IcebergScd2MergeOperator
    from airflow_provider_rtlake.scd2.request import MergeRequest

    defaults = MergeRequest.model_fields

    with lakehouse_dag(
        stream.merge_dag,
        description=f"History of {stream.source} in {stream.history_table}",
        doc_md=DOC,
        schedule=AssetOrTimeSchedule(
            timetable=CronTriggerTimetable(MERGE_CRON, timezone="UTC"), assets=[bronze_asset(stream)]
        ),
        tags=("scd2",),
        params={
            "patience_seconds": Param(
                defaults["patience_seconds"].default,
                type="number",
                minimum=0,
                description="Wait for whole transactions",
            ),
            "max_rows": Param(
                defaults["max_rows"].default, type="integer", minimum=1, description="Rows of bronze in one merge"
            ),
        },
    ) as dag:
        new = IcebergScd2NewChangesOperator(
            task_id="new_changes",
            bronze=stream.bronze_table,
            checkpoint=f"{stream.history_base}_checkpoint",
            doc_md="Skips the rest while bronze holds nothing that the history has not seen.",
        )
        merge = IcebergScd2MergeOperator(
            task_id="merge",
            stream=stream,
            settings={"patience_seconds": "{{ params.patience_seconds }}", "max_rows": "{{ params.max_rows }}"},
            pool=SPARK_POOL,
            outlets=[AssetAlias(f"merged.{stream.history_table}")],
            post_execute=_announce(stream),
            doc_md=f"Merges `{stream.bronze_table}` into `{stream.history_table}` and publishes it.",
        )
        new >> merge >> table_checks(stream, source=False)
        if stream.pinot_current:
            merge >> tell_removed_rows(dag_file, stream)
    return dag


def _announce(stream: Stream) -> Any:
    """A hook that tells Airflow of a new state of the history, where the merge published one."""
    alias, asset = AssetAlias(f"merged.{stream.history_table}"), history_asset(stream)

    def announce(context: Context, result: Any = None) -> None:
        if isinstance(result, dict) and result.get("changed"):
            context["outlet_events"][alias].add(asset, extra={"position": str(result.get("position") or "")})

    return announce
