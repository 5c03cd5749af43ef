"""Events of a Nessie catalog."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from airflow_provider_rtlake.clients.nessie import NessieClient
from airflow_provider_rtlake.exceptions import NotFound, ServiceError
from airflow_provider_rtlake.hooks.nessie import NessieHook


class NessieTableChangedTrigger(BaseEventTrigger):
    """Fires each time a table has a new snapshot: the watcher behind an asset that schedules a DAG.

    It fires once when it begins and the table is there, because it cannot know what was committed before, and
    never ends. A server that does not answer is asked again.

    :param table: ``namespace.name``.
    :param branch: the branch to look at; by default the connection's.
    :param poll_seconds: seconds between two looks.
    :param min_seconds: at least so many seconds between two events, so that a lane that commits all the time
        does not start a run for each commit.
    :param nessie_conn_id: connection id.
    """

    def __init__(
        self,
        *,
        table: str,
        branch: str | None = None,
        poll_seconds: float = 10.0,
        min_seconds: float = 60.0,
        nessie_conn_id: str = NessieHook.default_conn_name,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.table = table
        self.branch = branch
        self.poll_seconds = poll_seconds
        self.min_seconds = min_seconds
        self.nessie_conn_id = nessie_conn_id

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Class path and arguments."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "table": self.table,
                "branch": self.branch,
                "poll_seconds": self.poll_seconds,
                "min_seconds": self.min_seconds,
                "nessie_conn_id": self.nessie_conn_id,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look again and again; one event for each change seen."""
        with NessieHook(self.nessie_conn_id) as hook:
            async for event in self._watch(hook):
                yield event

    async def _watch(self, hook: NessieHook) -> AsyncIterator[TriggerEvent]:
        known: int | None = None
        fired = -self.min_seconds
        while True:
            try:
                snapshot = await asyncio.to_thread(self._snapshot, hook)
            except ServiceError as error:
                self.log.warning("%s", error)
                snapshot = known
            due = time.monotonic() - fired >= self.min_seconds
            if snapshot is not None and snapshot != known and due:
                known, fired = snapshot, time.monotonic()
                event = {"table": self.table, "snapshot_id": snapshot}
                yield TriggerEvent(event)  # type: ignore[no-untyped-call]
            await asyncio.sleep(self.poll_seconds)

    def _snapshot(self, hook: NessieHook) -> int | None:
        """The table's newest snapshot; None where there is no table, or an empty one."""
        client: NessieClient = hook.client
        try:
            entry = client.content(tuple(self.table.split(".")), self.branch or hook.branch)
        except NotFound:
            return None
        return None if entry is None or entry.snapshot_id in (None, -1) else entry.snapshot_id
