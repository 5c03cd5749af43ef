"""The captured tables of all connectors with their structure, read from the sources. No Airflow."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from airflow_provider_rtlake.exceptions import DeclarationError
from airflow_provider_rtlake.streams.model import Connector, Stream
from airflow_provider_rtlake.streams.schema import TableSchema
from airflow_provider_rtlake.streams.source import introspect
from airflow_provider_rtlake.streams.source_access import SourceAccess


def captured_tables(
    connectors: Iterable[Connector], access: Callable[[str], SourceAccess], only: Collection[str] | None = None
) -> list[tuple[Stream, TableSchema]]:
    """Captured tables with their structure, in the order of the declarations. A source is asked only where needed.

    :param connectors: the declarations.
    :param access: connection id → how the source is reached.
    :param only: these tables, as declared; None means all.
    :raises DeclarationError: a declaration does not fit its source.
    :raises ServiceUnavailable: a source does not answer.
    """
    result = []
    for connector in connectors:
        streams = [stream for stream in connector.streams if only is None or stream.source in only]
        if not streams:
            continue
        door = access(connector.database.connection).for_connector(connector)
        with door.connect() as connection:
            try:
                schemas = introspect(connection, streams)
            except DeclarationError as error:
                raise DeclarationError(
                    [f"connector {connector.connector}: {text}" for text in error.problems]
                ) from error
        result += [(stream, schemas[stream.source]) for stream in streams]
    return result
