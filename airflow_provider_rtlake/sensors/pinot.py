"""Sensors on a Pinot cluster: tables that consume, rows that are fresh."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import cached_property
from typing import Any

from airflow.providers.common.compat.sdk import Context, PokeReturnValue

from airflow_provider_rtlake.hooks.pinot import PinotControllerHook
from airflow_provider_rtlake.links.pinot import PinotTableLink
from airflow_provider_rtlake.operators.errors import no_retry_of_terminal_errors
from airflow_provider_rtlake.sensors.base import WaitingSensor
from airflow_provider_rtlake.triggers.pinot import (
    PinotFreshnessTrigger,
    PinotIngestionTrigger,
    look_at_freshness,
    look_at_ingestion,
)


class _PinotSensor(WaitingSensor):
    """What both share.

    :param pinot_conn_id: connection id (templated).
    :param request_timeout: seconds for one request.
    :param deferrable: wait in the triggerer instead of in a worker.
    """

    template_fields: Sequence[str] = ("pinot_conn_id",)
    operator_extra_links = (PinotTableLink(),)
    ui_color = "#e8dff5"

    def __init__(
        self,
        *,
        pinot_conn_id: str = PinotControllerHook.default_conn_name,
        request_timeout: float = 30.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.pinot_conn_id = pinot_conn_id
        self.request_timeout = request_timeout

    @cached_property
    def hook(self) -> PinotControllerHook:
        """The hook, made when first needed."""
        return PinotControllerHook(self.pinot_conn_id, timeout=self.request_timeout)

    def look(self) -> tuple[bool, str, Any]:
        """One look: whether the condition holds, why not, and what was found."""
        raise NotImplementedError

    def trigger(self, arguments: dict[str, Any]) -> PinotIngestionTrigger | PinotFreshnessTrigger:
        """What waits in the triggerer.

        :param arguments: those that every trigger here takes.
        """
        raise NotImplementedError

    def shown_table(self) -> str:
        """The table that the link opens."""
        raise NotImplementedError

    def poke(self, context: Context) -> PokeReturnValue:
        """Look once.

        :param context: the task's context.
        """
        with no_retry_of_terminal_errors(), closing(self.hook):
            holds, reason, found = self.look()
        if not holds:
            self.log.info("%s", reason)
        return PokeReturnValue(is_done=holds, xcom_value=found)

    def begin(self, context: Context) -> None:
        """Store the link.

        :param context: the task's context.
        """
        PinotTableLink.persist(context, self.hook.controller_url, self.shown_table())

    def waiting(self, deadline: float) -> PinotIngestionTrigger | PinotFreshnessTrigger:
        """See the base class.

        :param deadline: seconds since 1970.
        """
        return self.trigger(
            {
                "pinot_conn_id": self.pinot_conn_id,
                "timeout": self.request_timeout,
                "poll_interval": self.poke_interval,
                "deadline": deadline,
            }
        )


class PinotIngestionHealthySensor(_PinotSensor):
    """Waits until every partition of tables is consumed and no server complains.

    :param tables: names, or name → partitions that must be consumed (templated).
    :param pinot_conn_id: connection id (templated).
    :return: the names.
    """

    template_fields = ("pinot_conn_id", "tables")

    def __init__(self, *, tables: Sequence[str] | Mapping[str, int | None] | str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tables = tables

    def _wanted(self) -> dict[str, int | None]:
        if isinstance(self.tables, str):
            return {self.tables: None}
        if isinstance(self.tables, Mapping):
            return dict(self.tables)
        return dict.fromkeys(self.tables)

    def look(self) -> tuple[bool, str, Any]:
        """See the base class."""
        return look_at_ingestion(self.hook, self._wanted())

    def trigger(self, arguments: dict[str, Any]) -> PinotIngestionTrigger:
        """See the base class.

        :param arguments: those that every trigger here takes.
        """
        return PinotIngestionTrigger(tables=self._wanted(), **arguments)

    def shown_table(self) -> str:
        """The first table."""
        return next(iter(self._wanted()), "")


class PinotFreshnessSensor(_PinotSensor):
    """Waits until the newest row of a table is young enough.

    :param table: table (templated).
    :param time_column: column of milliseconds since 1970 (templated).
    :param max_lag: seconds.
    :param where: which rows count, as SQL (templated).
    :param pinot_conn_id: connection id (templated).
    :return: the age of the newest row in seconds.
    """

    template_fields = ("pinot_conn_id", "table", "time_column", "where")

    def __init__(
        self,
        *,
        table: str,
        time_column: str = "last_updated_ts",
        max_lag: float = 60.0,
        where: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.table = table
        self.time_column = time_column
        self.max_lag = max_lag
        self.where = where

    def look(self) -> tuple[bool, str, Any]:
        """See the base class."""
        return look_at_freshness(self.hook, self.table, self.time_column, self.max_lag, self.where)

    def trigger(self, arguments: dict[str, Any]) -> PinotFreshnessTrigger:
        """See the base class.

        :param arguments: those that every trigger here takes.
        """
        return PinotFreshnessTrigger(
            table=self.table,
            time_column=self.time_column,
            max_lag=self.max_lag,
            where=self.where,
            **arguments,
        )

    def shown_table(self) -> str:
        """The table."""
        return self.table
