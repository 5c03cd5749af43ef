"""What became of one node of a dbt build, shown by the triggerer: no worker process is started for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TaskFailedEvent, TaskSkippedEvent, TaskSuccessEvent, TriggerEvent

_EVENTS = {"success": TaskSuccessEvent, "failed": TaskFailedEvent, "skipped": TaskSkippedEvent}


class DbtNodeTrigger(BaseTrigger):
    """Ends the task as the node has ended.

    :param dag_run: ``dag id/run id`` of the run whose build is shown (templated).
    :param node: the node's unique id.
    """

    def __init__(self, *, dag_run: str, node: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dag_run = dag_run
        self.node = node

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Class path and arguments."""
        path = f"{type(self).__module__}.{type(self).__qualname__}"
        return path, {"dag_run": self.dag_run, "node": self.node}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """One event."""
        from airflow_provider_rtlake.bench import dbt, drive

        found = await asyncio.to_thread(dbt.node_outcome, drive.results_folder(), self.dag_run, self.node)
        self.log.info("%s in %.2f s: %s", found.status, found.seconds, found.words)
        yield _EVENTS[found.status]()
