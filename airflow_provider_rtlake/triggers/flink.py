"""Waits for Flink jobs without a worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_rtlake.clients.flink import FlinkClient, JobState
from airflow_provider_rtlake.exceptions import TerminalError, TransientError
from airflow_provider_rtlake.hooks.flink import FlinkHook


def look_at_job(client: FlinkClient, job_id: str, states: Sequence[str]) -> tuple[bool, str, str]:
    """One look at a job: whether it is in one of the states, in words, and its state.

    ``RUNNING`` counts once every task runs.

    :param client: of the cluster.
    :param job_id: of the job.
    :param states: that end the wait.
    :raises JobFailed: it ended in another state; the message has the root exception.
    :raises JobNotFound: there is no such job.
    """
    job = client.job(job_id)
    reached = job.state.value in states
    if reached and job.state is JobState.RUNNING:
        reached = job.all_tasks_running
    if not reached and job.state.is_terminal:
        raise client.failure(job)
    return reached, f"job {job.name!r} is {job.state.value}, tasks: {dict(job.tasks)}", job.state.value


def look_at_checkpoints(client: FlinkClient, job_id: str, after_ms: int, number: int) -> tuple[bool, str, int | None]:
    """One look at a job's checkpoints: whether enough were completed, in words, and the last one's id.

    :param client: of the cluster.
    :param job_id: of the job.
    :param after_ms: only a checkpoint triggered after this moment counts, milliseconds since 1970; 0 counts all.
    :param number: completed at least.
    :raises JobFailed: the job ended in failure.
    """
    found = client.checkpoints(job_id)
    if found.completed >= number and found.latest_ms is not None and found.latest_ms > after_ms:
        return True, "", found.latest_id
    job = client.job(job_id)
    if job.state.is_terminal:
        raise client.failure(job)
    return False, f"job {job.name!r}: {found.completed} checkpoints, the last at {found.latest_ms}", found.latest_id


class _FlinkTrigger(BaseTrigger):
    """Looks again and again until a condition holds; ends in exactly one event.

    :param job_id: of the job.
    :param flink_conn_id: connection id.
    :param timeout: seconds for one request.
    :param poll_interval: seconds between two looks.
    :param deadline: seconds since 1970 at which it gives up; None never does.
    :param cancel_on_kill: cancel the job when the task is killed while it waits here.
    """

    def __init__(
        self,
        *,
        job_id: str,
        flink_conn_id: str,
        timeout: float,
        poll_interval: float,
        deadline: float | None,
        cancel_on_kill: bool,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.job_id = job_id
        self.flink_conn_id = flink_conn_id
        self.timeout = timeout
        self.poll_interval = poll_interval
        self.deadline = deadline
        self.cancel_on_kill = cancel_on_kill

    def _arguments(self) -> dict[str, Any]:
        return {
            "job_id": self.job_id,
            "flink_conn_id": self.flink_conn_id,
            "timeout": self.timeout,
            "poll_interval": self.poll_interval,
            "deadline": self.deadline,
            "cancel_on_kill": self.cancel_on_kill,
        }

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """The trigger as it is stored."""
        return f"{type(self).__module__}.{type(self).__qualname__}", self._arguments()

    def look(self, client: FlinkClient) -> tuple[bool, str, Any]:
        """One look: whether the condition holds, why not, and what was found.

        :param client: of the cluster.
        """
        raise NotImplementedError

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look until it holds, the deadline passes, or nothing but a person can help."""
        hook = FlinkHook(self.flink_conn_id, timeout=self.timeout)
        yield TriggerEvent(await self._outcome(hook))  # type: ignore[no-untyped-call]

    async def _outcome(self, hook: FlinkHook) -> dict[str, Any]:
        while True:
            try:
                client = await asyncio.to_thread(lambda: hook.client)
                holds, reason, found = await asyncio.to_thread(self.look, client)
            except TransientError as error:
                holds, reason, found = False, str(error), None
            except TerminalError as error:
                trace = getattr(error, "body", "")
                return self._event("failed", str(error), None, trace)
            if holds:
                return self._event("ok", "", found)
            if self.deadline is not None and time.time() >= self.deadline:
                return self._event("timeout", reason, found)
            await asyncio.sleep(self.poll_interval)

    def _event(self, status: str, message: str, result: Any, trace: str = "") -> dict[str, Any]:
        return {"status": status, "job_id": self.job_id, "message": message, "result": result, "trace": trace[-20_000:]}

    async def on_kill(self) -> None:
        """Cancel the job, where that is wanted."""
        if self.cancel_on_kill:
            hook = FlinkHook(self.flink_conn_id, timeout=self.timeout)
            await asyncio.to_thread(lambda: hook.client.cancel(self.job_id))


class FlinkJobTrigger(_FlinkTrigger):
    """Waits until a job is in one of some states.

    :param states: such as ``FINISHED``, or ``RUNNING`` (every task runs).
    """

    def __init__(self, *, states: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.states = list(states)

    def _arguments(self) -> dict[str, Any]:
        return {"states": self.states, **super()._arguments()}

    def look(self, client: FlinkClient) -> tuple[bool, str, Any]:
        """See the base class.

        :param client: of the cluster.
        """
        return look_at_job(client, self.job_id, self.states)


class FlinkCheckpointTrigger(_FlinkTrigger):
    """Waits until a job has completed checkpoints.

    :param after_ms: only a checkpoint triggered after this moment counts, milliseconds since 1970.
    :param number: completed at least.
    """

    def __init__(self, *, after_ms: int, number: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.after_ms = after_ms
        self.number = number

    def _arguments(self) -> dict[str, Any]:
        return {"after_ms": self.after_ms, "number": self.number, **super()._arguments()}

    def look(self, client: FlinkClient) -> tuple[bool, str, Any]:
        """See the base class.

        :param client: of the cluster.
        """
        return look_at_checkpoints(client, self.job_id, self.after_ms, self.number)


__all__ = ["FlinkCheckpointTrigger", "FlinkJobTrigger", "look_at_checkpoints", "look_at_job"]
