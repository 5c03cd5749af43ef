"""Kafka topics by way of the official Kafka connection."""

from __future__ import annotations

from typing import Any

from airflow.providers.common.compat.sdk import BaseHook

from airflow_provider_rtlake.clients.kafka import KafkaClient
from airflow_provider_rtlake.exceptions import UserError

_ALLOWED = ("security.protocol", "client.id")
_ALLOWED_PREFIXES = ("sasl.", "ssl.")


def kafka_client(kafka_conn_id: str) -> KafkaClient:
    """A client for a connection of the official type ``kafka``: its extra holds the settings.

    Only the servers and the settings of a login are taken from it.

    :param kafka_conn_id: connection id.
    :raises UserError: it names no servers.
    """
    extra: dict[str, Any] = BaseHook.get_connection(kafka_conn_id).extra_dejson
    servers = extra.get("bootstrap.servers")
    if not servers:
        raise UserError(f"connection {kafka_conn_id}: extra has no bootstrap.servers; add host:port")
    config = {key: value for key, value in extra.items() if key in _ALLOWED or key.startswith(_ALLOWED_PREFIXES)}
    return KafkaClient({**config, "bootstrap.servers": str(servers)})
