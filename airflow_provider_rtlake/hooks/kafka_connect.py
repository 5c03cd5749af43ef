"""Airflow's connection to Kafka Connect."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from airflow.providers.common.compat.sdk import BaseHook

from airflow_provider_rtlake.clients.kafka_connect import ConnectorStatus, KafkaConnectClient
from airflow_provider_rtlake.hooks.sources import source_access
from airflow_provider_rtlake.streams.source_access import SourceAccess

DEFAULT_PORT = 8083


class KafkaConnectHook(BaseHook):
    """Kafka Connect over its REST API.

    The connection's host, port and ``schema`` (``http`` or ``https``) name a worker, login and password are for
    basic authentication. Of the extra, ``verify`` (a CA bundle's path, or false), ``bootstrap_servers`` (Kafka
    brokers as seen from the workers), and ``database_login``, ``secrets_dir`` and ``database_secret`` (Debezium's
    role, and the file in a folder on the workers that holds its password) are read.

    :param kafka_connect_conn_id: connection id.
    :param timeout: seconds for one request. Connect itself gives up after 90.
    """

    conn_name_attr = "kafka_connect_conn_id"
    default_conn_name = "rtlake_kafka_connect"
    conn_type = "kafka_connect"
    hook_name = "Kafka Connect"

    def __init__(self, kafka_connect_conn_id: str = default_conn_name, *, timeout: float = 95.0) -> None:
        super().__init__()
        self.kafka_connect_conn_id = kafka_connect_conn_id
        self.timeout = timeout

    @cached_property
    def extra(self) -> dict[str, Any]:
        """The connection's extra."""
        extra: dict[str, Any] = self.get_connection(self.kafka_connect_conn_id).extra_dejson
        return extra

    @cached_property
    def url(self) -> str:
        """The worker's base URL."""
        connection = self.get_connection(self.kafka_connect_conn_id)
        return f"{connection.schema or 'http'}://{connection.host}:{connection.port or DEFAULT_PORT}"

    def get_conn(self) -> KafkaConnectClient:
        """A client of the connection's worker; close it, or use :attr:`client`."""
        connection = self.get_connection(self.kafka_connect_conn_id)
        verify = self.extra.get("verify")
        return KafkaConnectClient(
            self.url,
            auth=(connection.login, connection.password or "") if connection.login else None,
            timeout=self.timeout,
            verify=verify if isinstance(verify, (bool, str)) and verify != "" else True,
        )

    @cached_property
    def client(self) -> KafkaConnectClient:
        """The hook's own client."""
        return self.get_conn()

    def status(self, connector: str) -> ConnectorStatus | None:
        """State of a connector and its tasks; None where there is no such connector.

        :param connector: its name.
        """
        return self.client.status(connector)

    def source_access(self, conn_id: str) -> SourceAccess:
        """How a source is reached by the deployment and by Debezium.

        :param conn_id: connection id, of the official type ``postgres``.
        :raises UserError: no connection names Debezium's role.
        """
        return source_access(conn_id).with_replication(self.extra)

    def test_connection(self) -> tuple[bool, str]:
        """Ask the worker for its version."""
        try:
            version = self.client.version()
        except Exception as error:
            return False, str(error)
        return True, f"Kafka Connect {version}"
