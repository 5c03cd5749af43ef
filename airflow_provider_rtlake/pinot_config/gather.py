"""All Pinot tables of a project: the declared ones and those generated for captured tables. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from pathlib import Path

from airflow_provider_rtlake.exceptions import UserError
from airflow_provider_rtlake.pinot_config.defaults import complete
from airflow_provider_rtlake.pinot_config.load import load_directory
from airflow_provider_rtlake.pinot_config.model import PinotTable
from airflow_provider_rtlake.streams.model import Connector, Stream
from airflow_provider_rtlake.streams.schema import TableSchema


def declared_types(tables_dir: Path) -> dict[str, dict[str, str]]:
    """The columns' types of every declared table: what the real-time lane sends follows them.

    :param tables_dir: folder of the declarations.
    :return: table → column → Pinot type.
    :raises DeclarationError: with every mistake in the declarations.
    """
    return {
        table.table: {name: column.type for name, column in table.columns.items()}
        for table in load_directory(tables_dir)
    }


def feeding(connectors: Iterable[Connector], tables: Collection[str]) -> set[str] | None:
    """The captured tables whose structure is needed to generate some Pinot tables.

    :param connectors: the declarations.
    :param tables: names of Pinot tables; none of them means all.
    :return: captured tables as declared; None means all.
    """
    if not tables:
        return None
    streams = [stream for connector in connectors for stream in connector.streams]
    return {stream.source for stream in streams if {stream.pinot_current, stream.pinot_history} & set(tables)}


def gather(
    tables_dir: Path, captured: Iterable[tuple[Stream, TableSchema]] = (), only: Collection[str] = ()
) -> tuple[PinotTable, ...]:
    """Every table, or those that are named.

    :param tables_dir: folder of the declarations.
    :param captured: captured tables, for which tables are generated where none are declared.
    :param only: names; none of them means all.
    :raises DeclarationError: with every mistake in the declarations.
    :raises UserError: a name is neither declared nor generated.
    """
    tables = complete(load_directory(tables_dir), captured)
    names = [table.table for table in tables]
    for name in only:
        if name not in names:
            close = difflib.get_close_matches(name, names, 1)
            known = f"did you mean {close[0]}?" if close else f"there are: {', '.join(names) or 'none'}"
            raise UserError(f"no Pinot table {name} is declared in {tables_dir} or generated; {known}")
    return tuple(table for table in tables if not only or table.table in only)
