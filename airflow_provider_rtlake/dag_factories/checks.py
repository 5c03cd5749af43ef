"""``lakehouse_checks``, and the checks of one history that its merge ends with."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from airflow.sdk import DAG, CronTriggerTimetable, TaskGroup

from airflow_provider_rtlake.dag_factories.common import (
    CATALOG,
    CHECKS_CRON,
    connectors_folder,
    lakehouse_dag,
    project_folder,
)
from airflow_provider_rtlake.streams.model import Connector, Stream

if TYPE_CHECKING:
    from airflow_provider_rtlake.operators.pinot import PinotTellRemovedRowsOperator

DOC = """
A failed check names its rule, the keys and what to do in its message and in the XCom `failure`; it is not retried.
Nothing is changed by any of them. While
a table has nothing in bronze that is older than an hour, its checks are skipped; from then on a history that is missing
is a failure. Of tables without a history only the dead letters are checked; `pinot_removed_rows` is no check, but tells
Pinot of the rows that a truncate took away.

| check | fails when |
| --- | --- |
| `invariants` | a version overlaps another, is empty or inverted, or a key has two current ones |
| `freshness` | the merges are more than an hour behind bronze |
| `dead_letters` | messages of the table could not be read and were neither replayed nor dismissed |
| `unread` | rows of bronze were not understood by the merge, and nobody has settled them |
| `equals_source` | the current state is not what the source held at one position of its log |
"""


def table_checks(stream: Stream, *, source: bool) -> TaskGroup:
    """Checks of one history on main.

    :param stream: a table that keeps a history.
    :param source: also compare it with the source; the group is named after the table then.
    """
    from airflow_provider_rtlake.operators.trino import (
        TrinoFreshnessCheckOperator,
        TrinoScd2InvariantsCheckOperator,
        TrinoScd2SourceCheckOperator,
        TrinoScd2UnreadCheckOperator,
    )

    history = f"{CATALOG}.{stream.history_table}"
    checkpoint = f"{CATALOG}.{stream.history_base}_checkpoint"
    bronze = f"{CATALOG}.{stream.bronze_table}"
    with TaskGroup("checks" if not source else stream.slug, tooltip=f"Checks of {stream.history_table}") as group:
        TrinoScd2InvariantsCheckOperator(
            task_id="invariants",
            table=history,
            keys=["scd2_key"],
            # Whether an empty history is right, the comparison with the source tells.
            allow_empty=source,
            fed_from=bronze,
            doc_md="One current version a key, no overlap, nothing empty or inverted, no gap but by delete.",
        )
        TrinoFreshnessCheckOperator(
            task_id="freshness",
            table=checkpoint,
            column="merged_at",
            reference=bronze,
            reference_column="kafka_ts",
            max_age=timedelta(hours=1),
            fed_from=bronze,
            doc_md="How far the last merge is behind the newest change in bronze.",
        )
        _dead_letters(stream)
        TrinoScd2UnreadCheckOperator(
            task_id="unread",
            table=f"{CATALOG}.{stream.history_base}_unread",
            doc_md="Rows of bronze that the merge could not understand: none may wait.",
        )
        if source:
            TrinoScd2SourceCheckOperator(
                task_id="equals_source",
                history=history,
                checkpoint=checkpoint,
                schema=stream.schema_name,
                table=stream.table_name,
                exclude=list(stream.table.exclude),
                renamed_from=stream.table.history.renamed_from if stream.table.history else None,
                allow_empty=True,
                fed_from=bronze,
                doc_md="The current state against the source, both as of one position of PostgreSQL's log.",
            )
    return group


def tell_removed_rows(dag_file: str, stream: Stream) -> PinotTellRemovedRowsOperator:
    """A task that tells Pinot what no message told.

    :param dag_file: the DAG file's ``__file__``.
    :param stream: a table that Pinot serves.
    """
    from airflow_provider_rtlake.operators.pinot import PinotTellRemovedRowsOperator

    return PinotTellRemovedRowsOperator(
        task_id="pinot_removed_rows",
        connectors_folder=str(connectors_folder(project_folder(dag_file))),
        tables=[stream.source],
        doc_md="Tells Pinot's current table of rows that a truncate took away: it sends no message for each.",
    )


def checks_dag(dag_file: str, streams: Sequence[Stream]) -> DAG:
    """``lakehouse_checks``: every history obeys its rules and equals its source at one position of the log.

    :param dag_file: the DAG file's ``__file__``.
    :param streams: all captured tables; of those without a history only the messages are looked at.
    """
    with lakehouse_dag(
        "lakehouse_checks",
        description="Histories obey their rules and equal the source, and no message waits unread",
        doc_md=DOC,
        schedule=CronTriggerTimetable(CHECKS_CRON, timezone="UTC"),
        max_active_tasks=2,
        tags=("checks",),
    ) as dag:
        for stream in streams:
            if stream.history_table is not None:
                table_checks(stream, source=True)
                continue
            with TaskGroup(stream.slug, tooltip=f"Messages of {stream.source}"):
                _dead_letters(stream)
                if stream.pinot_current:  # with a history, its merges do this
                    tell_removed_rows(dag_file, stream)
        for connector in {stream.connector.connector: stream.connector for stream in streams}.values():
            _transactions_check(connector)
    return dag


def _dead_letters(stream: Stream) -> None:
    from airflow_provider_rtlake.operators.kafka import KafkaDeadLettersCheckOperator

    KafkaDeadLettersCheckOperator(
        task_id="dead_letters",
        dead_letter_topic=stream.dead_letter_topic,
        topics=[stream.topic],
        doc_md="Messages of this table that the lanes could not read: each must be replayed or dismissed.",
    )


def _transactions_check(connector: Connector) -> None:
    """Dead letters that belong to no table: the connector's transaction markers."""
    from airflow_provider_rtlake.operators.kafka import KafkaDeadLettersCheckOperator

    KafkaDeadLettersCheckOperator(
        task_id=f"{connector.connector}.transactions",
        dead_letter_topic=connector.dead_letter_topic,
        except_topics=[stream.topic for stream in connector.streams],
        doc_md="Messages of the connector's own topics (transactions) that could not be read.",
    )
