"""Source databases by way of the official PostgreSQL connection."""

from __future__ import annotations

from pathlib import Path

from airflow.providers.common.compat.sdk import BaseHook

from airflow_provider_rtlake.clients.captured import captured_tables
from airflow_provider_rtlake.streams.load import load_connectors
from airflow_provider_rtlake.streams.model import Stream
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


def captured_of(folder: Path) -> list[tuple[Stream, TableSchema]]:
    """The captured tables of a folder of declarations with their structure.

    :param folder: of ``connectors/*.yaml``.
    :raises DeclarationError: with every mistake in the declarations, or where they do not fit their sources.
    """
    return captured_tables(load_connectors(folder), source_access)
