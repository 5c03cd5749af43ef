"""Waits for a commit to an Iceberg table on Nessie."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_rtlake.exceptions import TerminalError, TransientError
from airflow_provider_rtlake.hooks.nessie import NessieHook


def new_snapshot(hook: NessieHook, table: str, since: int | None) -> int | None:
    """The table's snapshot on main, where it is another one than ``since``.

    :param table: ``namespace.name``.
    :param since: snapshot known already; None takes any.
    """
    entry = hook.client.content(tuple(table.split(".")))
    found = None if entry is None else entry.snapshot_id
    return None if found in (None, -1, since) else found


class IcebergNewSnapshotTrigger(BaseTrigger):
    """Fires once, when the table has a snapshot other than the known one.

    :param table: ``namespace.name``.
    :param since: snapshot known already; None takes any.
    :param nessie_conn_id: connection id.
    :param poll_interval: seconds between two looks.
    :param deadline: seconds since 1970 at which it gives up; None never does.
    """

    def __init__(
        self,
        *,
        table: str,
        since: int | None,
        nessie_conn_id: str = NessieHook.default_conn_name,
        poll_interval: float = 5.0,
        deadline: float | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.table = table
        self.since = since
        self.nessie_conn_id = nessie_conn_id
        self.poll_interval = poll_interval
        self.deadline = deadline

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """The trigger as it is stored."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "table": self.table,
                "since": self.since,
                "nessie_conn_id": self.nessie_conn_id,
                "poll_interval": self.poll_interval,
                "deadline": self.deadline,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look until there is one, the deadline passes, or nothing but a person can help."""
        yield TriggerEvent(await self._outcome())  # type: ignore[no-untyped-call]

    async def _outcome(self) -> dict[str, Any]:
        with NessieHook(self.nessie_conn_id) as hook:
            while True:
                try:
                    found = await asyncio.to_thread(new_snapshot, hook, self.table, self.since)
                except TransientError as error:
                    self.log.warning("%s", error)
                    found = None
                except TerminalError as error:
                    return {"status": "failed", "message": str(error), "result": None}
                if found is not None:
                    return {"status": "ok", "message": "", "result": found}
                if self.deadline is not None and time.time() >= self.deadline:
                    return {"status": "timeout", "message": f"{self.table} got no new snapshot", "result": None}
                await asyncio.sleep(self.poll_interval)
