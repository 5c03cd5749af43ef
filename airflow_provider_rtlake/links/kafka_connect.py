"""Links from a task to Kafka Connect."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from airflow.providers.common.compat.sdk import BaseOperatorLink, Context, XCom


class KafkaConnectStatusLink(BaseOperatorLink):
    """Opens the connector's status, as Kafka Connect tells it."""

    name = "Connector status"
    key = "kafka_connect_status_link"

    @property
    def xcom_key(self) -> str:
        """Where the link is stored."""
        return self.key

    @classmethod
    def persist(cls, context: Context, url: str, connector: str) -> None:
        """Store the link of a running task.

        :param context: the task's context.
        :param url: the worker's base URL.
        :param connector: its name; without one the link opens the state of all.
        """
        page = f"{quote(connector, safe='')}/status" if connector else "?expand=status"
        context["ti"].xcom_push(key=cls.key, value=f"{url}/connectors/{page}")

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """The stored link.

        :param operator: the operator.
        :param ti_key: the task instance's key.
        """
        return str(XCom.get_value(key=self.key, ti_key=ti_key) or "")
