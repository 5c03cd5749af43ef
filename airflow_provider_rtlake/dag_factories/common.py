"""What the factories share: where declarations are, which tables they name, what every DAG has."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, Asset, AssetWatcher, Context, get_parsing_context

from airflow_provider_rtlake.assets import table_asset
from airflow_provider_rtlake.streams.load import load_connectors
from airflow_provider_rtlake.streams.model import Connector, Stream
from airflow_provider_rtlake.triggers.nessie import NessieTableChangedTrigger

log = logging.getLogger(__name__)

TAG = "rtlake"
OWNER = "rtlake"
CATALOG = "nessie"  # Trino's name of the lakehouse
SPARK_POOL = "rtlake_spark"  # one Spark driver at a time; the kit makes the pool

# How often, at the latest and at most. The environment can say otherwise without a change of code.
MERGE_CRON = os.environ.get("RTLAKE_MERGE_CRON", "*/10 * * * *")
MERGE_MIN_SECONDS = float(os.environ.get("RTLAKE_MERGE_MIN_SECONDS", "120"))
CHECKS_CRON = os.environ.get("RTLAKE_CHECKS_CRON", "17 * * * *")
MAINTENANCE_CRON = os.environ.get("RTLAKE_MAINTENANCE_CRON", "41 3 * * *")


def project_folder(dag_file: str) -> Path:
    """The project: ``$RTLAKE_PROJECT``, or the folder above the DAGs'.

    :param dag_file: the DAG file's ``__file__``.
    """
    return Path(os.environ.get("RTLAKE_PROJECT") or Path(dag_file).resolve().parent.parent)


def connectors_folder(project: Path) -> Path:
    """Where the declarations are: ``$RTLAKE_CONNECTORS``, or ``connectors/`` of the project.

    :param project: the project's folder.
    """
    return Path(os.environ.get("RTLAKE_CONNECTORS") or project / "connectors")


def log_link(context: Context) -> None:
    """Say where a failed task's log is; for ``on_failure_callback``.

    :param context: the task's context.
    """
    instance = context["ti"]
    log.error("%s.%s failed; its log: %s", instance.dag_id, instance.task_id, getattr(instance, "log_url", "?"))


def lakehouse_dag(dag_id: str, *, description: str, **kwargs: Any) -> DAG:
    """A DAG with what all of them share.

    :param dag_id: its id.
    :param description: one line; the documentation shown in the UI begins with it.
    :param kwargs: further arguments of :class:`airflow.sdk.DAG`.
    """
    kwargs.setdefault("schedule", None)
    tags = {TAG, *kwargs.pop("tags", ())}
    doc = kwargs.pop("doc_md", "")
    # No start date: with one in the past, every DAG would make up for its last time as soon as it is installed.
    return DAG(
        dag_id,
        description=description,
        doc_md=f"{description}.\n\n{doc}".strip(),
        catchup=False,
        max_active_runs=1,
        is_paused_upon_creation=False,
        tags=tags,
        default_args={
            "owner": OWNER,
            # A service that restarts is back within these four minutes; what only a person can mend is not retried.
            "retries": 4,
            "retry_delay": timedelta(seconds=15),
            "retry_exponential_backoff": 2.0,
            "max_retry_delay": timedelta(minutes=2),
            "on_failure_callback": log_link,
        },
        **kwargs,
    )


def streams_of(connectors: Sequence[Connector], *, with_history: bool = False) -> list[Stream]:
    """The captured tables.

    :param connectors: the declarations.
    :param with_history: only those that keep a history.
    """
    streams = [stream for connector in connectors for stream in connector.streams]
    return [stream for stream in streams if stream.history_table] if with_history else streams


def wanted(dag_id: str) -> bool:
    """Whether a DAG file needs to make a DAG: a task's own process needs its own DAG only.

    :param dag_id: its id.
    """
    return get_parsing_context().dag_id in (None, dag_id)


def load(dag_file: str) -> list[Connector]:
    """The declarations that the DAGs are made from.

    :param dag_file: the DAG file's ``__file__``.
    :raises DeclarationError: any of them breaks a rule; Airflow shows it as the file's import error.
    """
    return load_connectors(connectors_folder(project_folder(dag_file)))


def bronze_asset(stream: Stream) -> Asset:
    """Every change of a table; new whenever the bronze lane commits.

    :param stream: the table.
    """
    watcher = AssetWatcher(
        name=f"{stream.bronze_table} commits",
        trigger=NessieTableChangedTrigger(table=stream.bronze_table, min_seconds=MERGE_MIN_SECONDS),
    )
    return table_asset(stream.bronze_table, watchers=[watcher])


def history_asset(stream: Stream) -> Asset:
    """The table's history; new whenever a merge publishes.

    :param stream: a table that keeps one.
    """
    return table_asset(str(stream.history_table))
