"""Sensors on Flink jobs: their state, their checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from airflow.providers.common.compat.sdk import Context, PokeReturnValue

from airflow_provider_rtlake.exceptions import JobFailed, JobNotFound, TerminalError
from airflow_provider_rtlake.hooks.flink import FlinkHook
from airflow_provider_rtlake.lanes.jobs import seen_jobs
from airflow_provider_rtlake.links.flink import FlinkJobLink
from airflow_provider_rtlake.operators.errors import no_retry_of_terminal_errors
from airflow_provider_rtlake.sensors.base import WaitingSensor
from airflow_provider_rtlake.triggers.flink import (
    FlinkCheckpointTrigger,
    FlinkJobTrigger,
    look_at_checkpoints,
    look_at_job,
)


class _FlinkSensor(WaitingSensor):
    """What both share.

    :param job_id: of the job (templated).
    :param job_name: of the job, the newest of that name, where no id is given (templated).
    :param flink_conn_id: connection id (templated).
    :param request_timeout: seconds for one request.
    :param deferrable: wait in the triggerer instead of in a worker.
    """

    template_fields: Sequence[str] = ("flink_conn_id", "job_id", "job_name")
    operator_extra_links = (FlinkJobLink(),)
    ui_color = "#f5dfe4"

    def __init__(
        self,
        *,
        job_id: str | None = None,
        job_name: str | None = None,
        flink_conn_id: str = FlinkHook.default_conn_name,
        request_timeout: float = 30.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job_id = job_id
        self.job_name = job_name
        self.flink_conn_id = flink_conn_id
        self.request_timeout = request_timeout

    @cached_property
    def hook(self) -> FlinkHook:
        """The hook, made when first needed."""
        return FlinkHook(self.flink_conn_id, timeout=self.request_timeout)

    def found_job(self) -> str:
        """The job's id.

        :raises JobNotFound: no job of that name is known.
        """
        if self.job_id:
            return self.job_id
        seen = seen_jobs(self.hook.client, str(self.job_name))
        if not seen:
            raise JobNotFound("Flink", f"no job named {self.job_name!r} is known")
        return seen[0].job.job_id

    def look(self, job_id: str) -> tuple[bool, str, Any]:
        """One look: whether the condition holds, why not, and what was found.

        :param job_id: of the job.
        """
        raise NotImplementedError

    def trigger(self, arguments: dict[str, Any]) -> FlinkJobTrigger | FlinkCheckpointTrigger:
        """What waits in the triggerer.

        :param arguments: those that every trigger here takes.
        """
        raise NotImplementedError

    def poke(self, context: Context) -> PokeReturnValue:
        """Look once.

        :param context: the task's context.
        """
        with no_retry_of_terminal_errors():
            job_id = self.found_job()
            FlinkJobLink.persist(context, self.hook.job_url(job_id))
            holds, reason, found = self.look(job_id)
        if not holds:
            self.log.info("%s", reason)
        return PokeReturnValue(is_done=holds, xcom_value=found)

    def waiting(self, deadline: float) -> FlinkJobTrigger | FlinkCheckpointTrigger:
        """See the base class.

        :param deadline: seconds since 1970.
        """
        return self.trigger(
            {
                "job_id": self.found_job(),
                "flink_conn_id": self.flink_conn_id,
                "timeout": self.request_timeout,
                "poll_interval": self.poke_interval,
                "deadline": deadline,
                "cancel_on_kill": False,
            }
        )

    def failure(self, event: dict[str, Any]) -> TerminalError:
        """See the base class.

        :param event: with Flink's ``trace``.
        """
        if event.get("trace"):
            self.log.error("Flink says:\n%s", event["trace"])
        return JobFailed("Flink", event["message"], body=event.get("trace", ""))


class FlinkJobSensor(_FlinkSensor):
    """Waits until a job is in one of some states. A job that ends in another one fails the task, with its exception.

    :param states: such as ``FINISHED``, or ``RUNNING`` (every task runs).
    :param job_id: of the job (templated).
    :param job_name: of the job, the newest of that name, where no id is given (templated).
    :param flink_conn_id: connection id (templated).
    :return: the state.
    """

    def __init__(self, *, states: Sequence[str] = ("RUNNING", "FINISHED"), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.states = states

    def look(self, job_id: str) -> tuple[bool, str, Any]:
        """See the base class.

        :param job_id: of the job.
        """
        return look_at_job(self.hook.client, job_id, self.states)

    def trigger(self, arguments: dict[str, Any]) -> FlinkJobTrigger:
        """See the base class.

        :param arguments: those that every trigger here takes.
        """
        return FlinkJobTrigger(states=list(self.states), **arguments)


class FlinkCheckpointSensor(_FlinkSensor):
    """Waits until a job has completed checkpoints.

    :param number: completed at least.
    :param after_ms: only a checkpoint triggered after this moment counts, milliseconds since 1970.
    :param job_id: of the job (templated).
    :param job_name: of the job, the newest of that name, where no id is given (templated).
    :param flink_conn_id: connection id (templated).
    :return: the last checkpoint's id.
    """

    def __init__(self, *, number: int = 1, after_ms: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.number = number
        self.after_ms = after_ms

    def look(self, job_id: str) -> tuple[bool, str, Any]:
        """See the base class.

        :param job_id: of the job.
        """
        return look_at_checkpoints(self.hook.client, job_id, self.after_ms, self.number)

    def trigger(self, arguments: dict[str, Any]) -> FlinkCheckpointTrigger:
        """See the base class.

        :param arguments: those that every trigger here takes.
        """
        return FlinkCheckpointTrigger(after_ms=self.after_ms, number=self.number, **arguments)
