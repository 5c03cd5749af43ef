"""Pinot tables as tasks. Each can be run again without harm."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import BaseOperator, Context, conf

from airflow_provider_rtlake.clients.pinot_apply import PinotDeployment
from airflow_provider_rtlake.clients.pinot_topics import PinotTopics
from airflow_provider_rtlake.exceptions import NotFound, TerminalError, WaitTimeout
from airflow_provider_rtlake.hooks.kafka import kafka_client
from airflow_provider_rtlake.hooks.pinot import PinotControllerHook
from airflow_provider_rtlake.hooks.sources import captured_of
from airflow_provider_rtlake.lanes.lanes import stream_of
from airflow_provider_rtlake.lanes.removed import tell_removed
from airflow_provider_rtlake.links.pinot import PinotTableLink
from airflow_provider_rtlake.operators.errors import no_retry_of_terminal_errors
from airflow_provider_rtlake.operators.values import truth
from airflow_provider_rtlake.pinot_config.gather import feeding, gather
from airflow_provider_rtlake.pinot_config.model import PinotTable
from airflow_provider_rtlake.streams.load import load_connectors
from airflow_provider_rtlake.triggers.pinot import PinotIngestionTrigger

NOT_AS_DECLARED = "not_as_declared"  # XCom of the tables that an apply could not bring about


class _PinotOperator(BaseOperator):
    """What all of them share.

    :param pinot_conn_id: connection id (templated).
    :param kafka_conn_id: connection id of the Kafka cluster that feeds Pinot (templated).
    :param request_timeout: seconds for one request.
    """

    template_fields: Sequence[str] = ("pinot_conn_id", "kafka_conn_id")
    operator_extra_links = (PinotTableLink(),)
    ui_color = "#e8dff5"

    def __init__(
        self,
        *,
        pinot_conn_id: str = PinotControllerHook.default_conn_name,
        kafka_conn_id: str = "rtlake_kafka",
        request_timeout: float = 30.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.pinot_conn_id = pinot_conn_id
        self.kafka_conn_id = kafka_conn_id
        self.request_timeout = request_timeout

    @cached_property
    def hook(self) -> PinotControllerHook:
        """The hook, made when first needed."""
        return PinotControllerHook(self.pinot_conn_id, timeout=self.request_timeout)

    @cached_property
    def deployment(self) -> PinotDeployment:
        """What does the work."""
        topics = PinotTopics(kafka_client(self.kafka_conn_id))
        servers = self.hook.bootstrap_servers or topics.bootstrap_servers
        return PinotDeployment(
            self.hook.controller,
            topics,
            bootstrap_servers=servers,
            log=lambda line: self.log.info("%s", line),
        )

    def execute(self, context: Context) -> dict[str, Any]:
        """Do it; terminal errors fail the task without a retry.

        :param context: the task's context.
        """
        with no_retry_of_terminal_errors(), closing(self.hook):
            return self.run(context)

    def run(self, context: Context) -> dict[str, Any]:
        """What the operator does.

        :param context: the task's context.
        :return: what goes to XCom.
        """
        raise NotImplementedError


class PinotApplyTablesOperator(_PinotOperator):
    """Bring Pinot tables, their schemas and topics to what is declared. A second run changes nothing.

    A table that cannot be changed in place does not keep the others from it: the task fails at its end, naming all of
    them, and they are in the XCom ``not_as_declared``.

    :param tables_folder: folder of ``pinot_tables/*.yaml`` (templated).
    :param connectors_folder: folder of ``connectors/*.yaml``: captured tables without a file of their own get
        the generated tables; None generates none (templated).
    :param tables: names; by default all (templated).
    :param rebuild: delete and remake tables that cannot be changed in place; their rows come back from what
        the topics still hold, and by ``rtlake stream backfill`` (templated).
    :param wait_seconds: until every partition of every table must be consumed.
    :param dry_run: only return the plan (templated).
    :param poll_interval: seconds between two looks while deferred.
    :param deferrable: wait in the triggerer instead of in a worker.
    :param pinot_conn_id: connection id (templated).
    :param kafka_conn_id: connection id (templated).
    :return: ``changed``, and for each table ``action`` and ``diff``.
    """

    template_fields = (
        "pinot_conn_id",
        "kafka_conn_id",
        "tables_folder",
        "connectors_folder",
        "tables",
        "rebuild",
        "only_plan",
    )

    def __init__(
        self,
        *,
        tables_folder: str = "pinot_tables",
        connectors_folder: str | None = None,
        tables: Collection[str] = (),
        rebuild: bool | str = False,
        wait_seconds: float = 120.0,
        dry_run: bool | str = False,
        poll_interval: float = 2.0,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.tables_folder = tables_folder
        self.connectors_folder = connectors_folder
        self.tables = tables
        self.rebuild = rebuild
        self.wait_seconds = wait_seconds
        self.only_plan = dry_run
        self.poll_interval = poll_interval
        self.deferrable = deferrable

    def declared(self) -> tuple[PinotTable, ...]:
        """The tables, read and checked as a whole before anything is touched."""
        connectors = [] if self.connectors_folder is None else load_connectors(self.connectors_folder)
        captured = captured_of(connectors, feeding(connectors, self.tables))
        return gather(Path(self.tables_folder), captured, self.tables)

    def run(self, context: Context) -> dict[str, Any]:
        """Compare, change the difference, wait.

        :param context: the task's context.
        """
        tables = self.declared()
        only_table = tables[0].full_name if len(tables) == 1 else ""
        PinotTableLink.persist(context, self.hook.controller_url, only_table)
        if truth(self.only_plan, "dry_run"):
            plans = [self.deployment.plan(table).as_dict() for table in tables]
            context["ti"].xcom_push(key=NOT_AS_DECLARED, value=[])
            return {"changed": any(plan["changed"] for plan in plans), "tables": plans, "dry_run": True}
        outcome = self.deployment.apply_all(tables, rebuild=truth(self.rebuild, "rebuild"), wait=None)
        for applied in outcome.applied:
            if applied.hint:
                self.log.warning("%s", applied.hint)
        context["ti"].xcom_push(key=NOT_AS_DECLARED, value=list(outcome.problems))
        outcome.raise_problems()
        done = [applied.as_dict() for applied in outcome.applied]
        result = {"changed": any(entry["changed"] for entry in done), "tables": done}
        self._wait({table.full_name: table.kafka.partitions for table in tables}, result)
        return result

    def _wait(self, tables: dict[str, int | None], result: dict[str, Any]) -> None:
        """Until all are consumed: here, or in the triggerer."""
        end = time.monotonic() + self.wait_seconds
        unhealthy = self.hook.unhealthy(tables)
        if unhealthy and self.deferrable:
            self.defer(
                trigger=PinotIngestionTrigger(
                    tables=tables,
                    pinot_conn_id=self.pinot_conn_id,
                    timeout=self.request_timeout,
                    poll_interval=self.poll_interval,
                    deadline=time.time() + self.wait_seconds,
                ),
                method_name="execute_complete",
                kwargs={"result": result},
            )
        while unhealthy:
            if time.monotonic() >= end:
                reasons = "; ".join(f"{name}: {why}" for name, why in unhealthy.items())
                raise WaitTimeout(f"waited {self.wait_seconds:.0f} s for ingestion: {reasons}")
            time.sleep(0.5)
            unhealthy = self.hook.unhealthy(tables)

    def execute_complete(self, context: Context, event: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
        """Take up the trigger's event.

        :param context: the task's context.
        :param event: ``status`` and ``message``.
        :param result: what was done before the wait.
        """
        if event["status"] == "timeout":
            raise WaitTimeout(f"waited {self.wait_seconds:.0f} s for ingestion: {event['message']}")
        if event["status"] != "ok":
            with no_retry_of_terminal_errors():
                raise TerminalError(event["message"])
        return result


class PinotTellRemovedRowsOperator(_PinotOperator):
    """Let current tables know of rows that went away without a message of their own: by a truncate, or while nothing
    was captured. Two small queries a table where there is nothing to tell.

    :param connectors_folder: folder of ``connectors/*.yaml`` (templated).
    :param tables: only these, as declared (templated).
    :param pinot_conn_id: connection id, with the broker in its extra (templated).
    :param kafka_conn_id: connection id (templated).
    :return: ``changed``, and ``removed``: table → rows told.
    """

    template_fields = ("pinot_conn_id", "kafka_conn_id", "connectors_folder", "tables")

    def __init__(self, *, connectors_folder: str = "connectors", tables: Collection[str] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.connectors_folder = connectors_folder
        self.tables = tables

    def run(self, context: Context) -> dict[str, Any]:
        """Look at each table, and tell what is missing.

        :param context: the task's context.
        """
        connectors = load_connectors(self.connectors_folder)
        streams = [stream for connector in connectors for stream in connector.streams if stream.pinot_current]
        if self.tables:
            streams = [stream_of(connectors, name) for name in self.tables]
        kafka = kafka_client(self.kafka_conn_id)
        removed = {stream.source: tell_removed(kafka, self.hook.broker, stream) for stream in streams}
        for source, rows in removed.items():
            self.log.info("%s: %d removed rows told", source, rows)
        return {"changed": any(removed.values()), "removed": removed}


class PinotDeleteTableOperator(_PinotOperator):
    """Delete a table and its schema; nothing happens where it is not there.

    :param table: its name (templated).
    :param topic: topic to delete too (templated).
    :param wait_seconds: until the servers must have let go of its segments.
    :param pinot_conn_id: connection id (templated).
    :param kafka_conn_id: connection id (templated).
    :return: ``table`` and ``changed``.
    """

    template_fields = ("pinot_conn_id", "kafka_conn_id", "table", "topic")

    def __init__(self, *, table: str, topic: str | None = None, wait_seconds: float = 120.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.table = table
        self.topic = topic
        self.wait_seconds = wait_seconds

    def run(self, context: Context) -> dict[str, Any]:
        """Delete it.

        :param context: the task's context.
        """
        changed = self.deployment.delete(self.table, topic=self.topic, wait=self.wait_seconds)
        return {"table": self.table, "changed": changed}


class PinotReloadSegmentsOperator(_PinotOperator):
    """Let the servers load a table's segments anew, with its present schema and indexes.

    :param table: its name (templated).
    :param pinot_conn_id: connection id (templated).
    :return: ``table``, ``changed`` and the server's ``status``.
    """

    template_fields = ("pinot_conn_id", "kafka_conn_id", "table")

    def __init__(self, *, table: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.table = table

    def run(self, context: Context) -> dict[str, Any]:
        """Reload them.

        :param context: the task's context.
        """
        PinotTableLink.persist(context, self.hook.controller_url, self.table)
        if self.hook.controller.table(self.table) is None:
            raise NotFound("Pinot controller", f"there is no table {self.table}", status=404)
        return {"table": self.table, "changed": True, **self.hook.controller.reload_segments(self.table)}
