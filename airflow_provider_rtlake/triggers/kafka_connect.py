"""Waits for connectors without a worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_rtlake.exceptions import TerminalError, TransientError
from airflow_provider_rtlake.hooks.kafka_connect import KafkaConnectHook


def look_at_connectors(hook: KafkaConnectHook, connectors: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Which connectors run with every task, and why the others do not; the one look that sensor and trigger share.

    :param hook: the connection.
    :param connectors: their names.
    :return: names of those that run, and name → state of the others; FAILED ones with their trace.
    """
    running, waiting = [], {}
    for name in connectors:
        status = hook.status(name)
        if status is not None and status.running:
            running.append(name)
        else:
            told = "unknown to Kafka Connect" if status is None else f"{status.summary} {status.failure}".strip()
            waiting[name] = told
    return running, waiting


class KafkaConnectRunningTrigger(BaseTrigger):
    """Waits until connectors run with every task; ends in exactly one event.

    A failed task may be on its way back (somebody restarts it): it ends the wait only where ``fail_on_failed`` says so.

    :param connectors: their names.
    :param kafka_connect_conn_id: connection id.
    :param timeout: seconds for one request.
    :param poll_interval: seconds between two looks.
    :param deadline: seconds since 1970 at which it gives up; None never does.
    :param fail_on_failed: give up as soon as a connector or task has failed.
    """

    def __init__(
        self,
        *,
        connectors: Sequence[str],
        kafka_connect_conn_id: str,
        timeout: float,
        poll_interval: float,
        deadline: float | None,
        fail_on_failed: bool,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.connectors = list(connectors)
        self.kafka_connect_conn_id = kafka_connect_conn_id
        self.timeout = timeout
        self.poll_interval = poll_interval
        self.deadline = deadline
        self.fail_on_failed = fail_on_failed

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """The trigger as it is stored."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "connectors": self.connectors,
                "kafka_connect_conn_id": self.kafka_connect_conn_id,
                "timeout": self.timeout,
                "poll_interval": self.poll_interval,
                "deadline": self.deadline,
                "fail_on_failed": self.fail_on_failed,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look until they run, the deadline passes, or nothing but a person can help."""
        hook = KafkaConnectHook(self.kafka_connect_conn_id, timeout=self.timeout)
        yield TriggerEvent(await self._outcome(hook))  # type: ignore[no-untyped-call]

    async def _outcome(self, hook: KafkaConnectHook) -> dict[str, Any]:
        while True:
            try:
                running, waiting = await asyncio.to_thread(look_at_connectors, hook, self.connectors)
            except TransientError as error:
                running, waiting = [], {"Kafka Connect": str(error)}
            except TerminalError as error:
                return {"status": "failed", "message": str(error), "result": None}
            message = "; ".join(f"{name}: {state}" for name, state in waiting.items())
            if not waiting:
                return {"status": "ok", "message": "", "result": running}
            if self.fail_on_failed and any("FAILED" in state for state in waiting.values()):
                return {"status": "failed", "message": message, "result": running}
            if self.deadline is not None and time.time() >= self.deadline:
                return {"status": "timeout", "message": message, "result": running}
            await asyncio.sleep(self.poll_interval)
