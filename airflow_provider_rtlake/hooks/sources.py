"""Source databases by way of the official PostgreSQL connection."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from airflow.providers.common.compat.sdk import BaseHook

from airflow_provider_rtlake.clients.captured import captured_tables
from airflow_provider_rtlake.streams.model import Connector, Stream
from airflow_provider_rtlake.streams.schema import TableSchema
from airflow_provider_rtlake.streams.source_access import SourceAccess


def source_access(conn_id: str) -> SourceAccess:
    """How a connection's server is reached.

    :param conn_id: connection id, of the official type ``postgres``.
    :raises UserError: its extra lacks what Debezium needs.
    """
    connection = BaseHook.get_connection(conn_id)
    return SourceAccess.of_connection(
        host=str(connection.host),
        port=connection.port,
        login=str(connection.login),
        password=connection.password or "",
        schema=connection.schema,
        extra=connection.extra_dejson,
    )


def captured_of(
    connectors: Iterable[Connector], only: Collection[str] | None = None
) -> list[tuple[Stream, TableSchema]]:
    """Captured tables with their structure, see :func:`captured_tables`.

    :param connectors: the declarations.
    :param only: these tables, as declared; None means all.
    """
    return captured_tables(connectors, source_access, only)
