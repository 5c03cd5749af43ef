"""Waits for Pinot without a worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_rtlake.exceptions import TerminalError, TransientError
from airflow_provider_rtlake.hooks.pinot import PinotControllerHook


class _PinotTrigger(BaseTrigger):
    """Looks again and again until a condition holds; ends in exactly one event.

    :param pinot_conn_id: connection id.
    :param timeout: seconds for one request.
    :param poll_interval: seconds between two looks.
    :param deadline: seconds since 1970 at which it gives up; None never does.
    """

    def __init__(self, *, pinot_conn_id: str, timeout: float, poll_interval: float, deadline: float | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.pinot_conn_id = pinot_conn_id
        self.timeout = timeout
        self.poll_interval = poll_interval
        self.deadline = deadline

    def _arguments(self) -> dict[str, Any]:
        return {
            "pinot_conn_id": self.pinot_conn_id,
            "timeout": self.timeout,
            "poll_interval": self.poll_interval,
            "deadline": self.deadline,
        }

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """The trigger as it is stored."""
        return f"{type(self).__module__}.{type(self).__qualname__}", self._arguments()

    def look(self, hook: PinotControllerHook) -> tuple[bool, str, Any]:
        """One look: whether the condition holds, why not, and what was found.

        :param hook: the connection.
        """
        raise NotImplementedError

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look until it holds, the deadline passes, or nothing but a person can help."""
        with PinotControllerHook(self.pinot_conn_id, timeout=self.timeout) as hook:
            outcome = await self._outcome(hook)
        yield TriggerEvent(outcome)  # type: ignore[no-untyped-call]

    async def _outcome(self, hook: PinotControllerHook) -> dict[str, Any]:
        while True:
            try:
                holds, reason, found = await asyncio.to_thread(self.look, hook)
            except TransientError as error:
                holds, reason, found = False, str(error), None
            except TerminalError as error:
                return {"status": "failed", "message": str(error), "result": None}
            if holds:
                return {"status": "ok", "message": "", "result": found}
            if self.deadline is not None and time.time() >= self.deadline:
                return {"status": "timeout", "message": reason, "result": found}
            await asyncio.sleep(self.poll_interval)


class PinotIngestionTrigger(_PinotTrigger):
    """Waits until tables are consumed in every partition.

    :param tables: name → partitions that must be consumed, or None for those that there are.
    """

    def __init__(self, *, tables: Mapping[str, int | None], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tables = dict(tables)

    def _arguments(self) -> dict[str, Any]:
        return {"tables": self.tables, **super()._arguments()}

    def look(self, hook: PinotControllerHook) -> tuple[bool, str, Any]:
        """See the base class.

        :param hook: the connection.
        """
        return look_at_ingestion(hook, self.tables)


class PinotFreshnessTrigger(_PinotTrigger):
    """Waits until a table's newest row is young enough.

    :param table: table.
    :param time_column: column of milliseconds since 1970.
    :param max_lag: seconds.
    :param where: which rows count.
    """

    def __init__(
        self, *, table: str, time_column: str, max_lag: float, where: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.table = table
        self.time_column = time_column
        self.max_lag = max_lag
        self.where = where

    def _arguments(self) -> dict[str, Any]:
        return {
            "table": self.table,
            "time_column": self.time_column,
            "max_lag": self.max_lag,
            "where": self.where,
            **super()._arguments(),
        }

    def look(self, hook: PinotControllerHook) -> tuple[bool, str, Any]:
        """See the base class.

        :param hook: the connection.
        """
        return look_at_freshness(hook, self.table, self.time_column, self.max_lag, self.where)


def look_at_ingestion(hook: PinotControllerHook, tables: Mapping[str, int | None]) -> tuple[bool, str, list[str]]:
    """Whether all tables are consumed; the one look that sensor and trigger share.

    :param hook: the connection.
    :param tables: name → partitions, or None.
    """
    unhealthy = hook.unhealthy(tables)
    reason = "; ".join(f"{name}: {why}" for name, why in unhealthy.items())
    return not unhealthy, reason, sorted(set(tables) - set(unhealthy))


def look_at_freshness(
    hook: PinotControllerHook, table: str, time_column: str, max_lag: float, where: str | None
) -> tuple[bool, str, float | None]:
    """Whether the newest row is young enough; the one look that sensor and trigger share.

    :param hook: the connection.
    :param table: table.
    :param time_column: column of milliseconds since 1970.
    :param max_lag: seconds.
    :param where: which rows count.
    """
    lag = hook.lag_seconds(table, time_column, where)
    if lag is None:
        return False, f"{table} has no row", None
    return lag <= max_lag, f"the newest row of {table} is {lag:.1f} s old, {max_lag} s are allowed", lag
