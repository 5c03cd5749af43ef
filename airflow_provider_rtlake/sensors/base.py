"""What sensors that can wait in the triggerer share."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    BaseSensorOperator,
    Context,
    PokeReturnValue,
    conf,
)
from airflow.triggers.base import BaseTrigger

from airflow_provider_rtlake.exceptions import TerminalError
from airflow_provider_rtlake.operators.errors import no_retry_of_terminal_errors

_GRACE = timedelta(seconds=60)  # Airflow's own limit, should the trigger not keep to its deadline


class WaitingSensor(BaseSensorOperator):
    """Looks once; where the condition does not hold yet, it waits in the worker or in the triggerer.

    Both ways end alike: what cannot come to pass fails for good, a time-out is Airflow's own (no retry), and
    ``soft_fail`` and ``never_fail`` skip the task instead.

    :param deferrable: wait in the triggerer instead of in a worker.
    """

    def __init__(
        self,
        *,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.deferrable = deferrable

    def poke(self, context: Context) -> PokeReturnValue:
        """Look once.

        :param context: the task's context.
        """
        raise NotImplementedError

    def waiting(self, deadline: float) -> BaseTrigger:
        """What waits in the triggerer.

        :param deadline: seconds since 1970 at which it gives up.
        """
        raise NotImplementedError

    def begin(self, context: Context) -> None:
        """Done before the first look, such as storing a link.

        :param context: the task's context.
        """

    def failure(self, event: dict[str, Any]) -> TerminalError:
        """The error that a trigger's event of failure stands for.

        :param event: its ``message`` says why.
        """
        return TerminalError(event["message"])

    def execute(self, context: Context) -> Any:
        """Look, and wait where it does not hold yet.

        :param context: the task's context.
        """
        self.begin(context)
        if not self.deferrable:
            return super().execute(context)
        try:
            first = self.poke(context)
        except AirflowFailException as error:
            if self.soft_fail or self.never_fail:
                raise AirflowSkipException(str(error)) from error
            raise
        if first.is_done:
            return first.xcom_value
        limit = timedelta(seconds=float(self.timeout))
        self.defer(
            trigger=self.waiting(time.time() + limit.total_seconds()),
            method_name="execute_complete",
            timeout=limit + _GRACE,
        )
        return None

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Go on after the triggerer's wait.

        :param context: the task's context.
        :param event: the trigger's: ``status``, ``message`` and ``result``.
        :raises AirflowSensorTimeout: it did not come to pass in time.
        :raises AirflowFailException: it cannot come to pass.
        """
        if event["status"] == "ok":
            return event["result"]
        if event["status"] == "timeout":
            raise AirflowSensorTimeout(f"waited {self.timeout:g} s: {event['message']}")
        with no_retry_of_terminal_errors():
            raise self.failure(event)
