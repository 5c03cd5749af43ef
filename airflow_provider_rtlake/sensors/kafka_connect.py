"""A sensor on connectors: they run with every task."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from airflow.providers.common.compat.sdk import Context, PokeReturnValue

from airflow_provider_rtlake.exceptions import ConnectorFailed, TerminalError
from airflow_provider_rtlake.hooks.kafka_connect import KafkaConnectHook
from airflow_provider_rtlake.links.kafka_connect import KafkaConnectStatusLink
from airflow_provider_rtlake.operators.errors import no_retry_of_terminal_errors
from airflow_provider_rtlake.sensors.base import WaitingSensor
from airflow_provider_rtlake.triggers.kafka_connect import KafkaConnectRunningTrigger, look_at_connectors


class KafkaConnectRunningSensor(WaitingSensor):
    """Wait until connectors run with every task.

    :param connectors: their names (templated).
    :param fail_on_failed: fail as soon as a connector or task has failed, instead of waiting for a restart.
    :param kafka_connect_conn_id: connection id (templated).
    :param request_timeout: seconds for one request.
    :param deferrable: wait in the triggerer instead of in a worker.
    :return: the names of the connectors that run.
    """

    template_fields: Sequence[str] = ("kafka_connect_conn_id", "connectors")
    operator_extra_links = (KafkaConnectStatusLink(),)
    ui_color = "#d9e7f5"

    def __init__(
        self,
        *,
        connectors: Sequence[str],
        fail_on_failed: bool = True,
        kafka_connect_conn_id: str = KafkaConnectHook.default_conn_name,
        request_timeout: float = 30.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.connectors = connectors
        self.fail_on_failed = fail_on_failed
        self.kafka_connect_conn_id = kafka_connect_conn_id
        self.request_timeout = request_timeout

    @cached_property
    def hook(self) -> KafkaConnectHook:
        """The hook, made when first needed."""
        return KafkaConnectHook(self.kafka_connect_conn_id, timeout=self.request_timeout)

    @property
    def names(self) -> list[str]:
        """The connectors, also where a template gave one name as text."""
        return [self.connectors] if isinstance(self.connectors, str) else list(self.connectors)

    def poke(self, context: Context) -> PokeReturnValue:
        """Look once.

        :param context: the task's context.
        """
        with no_retry_of_terminal_errors():
            running, waiting = look_at_connectors(self.hook, self.names)
            message = "; ".join(f"{name}: {state}" for name, state in waiting.items())
            if self.fail_on_failed and any("FAILED" in state for state in waiting.values()):
                raise ConnectorFailed("Kafka Connect", message)
        if waiting:
            self.log.info("%s", message)
        return PokeReturnValue(is_done=not waiting, xcom_value=running)

    def begin(self, context: Context) -> None:
        """Store the link.

        :param context: the task's context.
        """
        KafkaConnectStatusLink.persist(context, self.hook.url, self.names[0] if len(self.names) == 1 else "")

    def waiting(self, deadline: float) -> KafkaConnectRunningTrigger:
        """See the base class.

        :param deadline: seconds since 1970.
        """
        return KafkaConnectRunningTrigger(
            connectors=self.names,
            kafka_connect_conn_id=self.kafka_connect_conn_id,
            timeout=self.request_timeout,
            poll_interval=self.poke_interval,
            deadline=deadline,
            fail_on_failed=self.fail_on_failed,
        )

    def failure(self, event: dict[str, Any]) -> TerminalError:
        """See the base class.

        :param event: with the connectors' states and traces.
        """
        return ConnectorFailed("Kafka Connect", event["message"])
