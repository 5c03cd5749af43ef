"""The captured tables of all connectors with their structure, read from the sources. No Airflow."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from airflow_provider_rtlake.streams.model import Connector, Stream
from airflow_provider_rtlake.streams.schema import TableSchema
from airflow_provider_rtlake.streams.source import introspect
from airflow_provider_rtlake.streams.source_access import SourceAccess


def captured_tables(
    connectors: Iterable[Connector], access: Callable[[str], SourceAccess]
) -> list[tuple[Stream, TableSchema]]:
    """Every captured table with its structure, in the order of the declarations.

    :param connectors: the declarations.
    :param access: connection id → how the source is reached.
    :raises DeclarationError: a declaration does not fit its source.
    :raises ServiceUnavailable: a source does not answer.
    """
    result = []
    for connector in connectors:
        door = access(connector.database.connection).for_connector(connector)
        with door.connect() as connection:
            schemas = introspect(connection, connector.streams)
        result += [(stream, schemas[stream.source]) for stream in connector.streams]
    return result
