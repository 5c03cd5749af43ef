"""`rtlake scd2 query`: current rows, rows as of a time, changes between two times."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from airflow_provider_rtlake.checks.names import TableName, literal
from airflow_provider_rtlake.commands._folders import CONNECTORS, ConnectorsDir
from airflow_provider_rtlake.commands._scd2_erase import declared_history
from airflow_provider_rtlake.demo.access import ICEBERG, Access
from airflow_provider_rtlake.exceptions import UserError
from airflow_provider_rtlake.kit.stack import Stack
from airflow_provider_rtlake.scd2.names import RESERVED
from airflow_provider_rtlake.scd2.queries import changes_between, current_rows, rows_as_of


def query(
    table: Annotated[str, typer.Argument(help="schema.table as declared.")],
    as_of: Annotated[str | None, typer.Option("--as-of", help="Rows as they were at a time (ISO 8601, UTC).")] = None,
    begin: Annotated[str | None, typer.Option("--from", help="Changes from this time on.")] = None,
    end: Annotated[str | None, typer.Option("--to", help="Changes before this time.")] = None,
    only_sql: Annotated[bool, typer.Option("--sql", help="Print the Trino query; do not run it.")] = False,
    limit: Annotated[int, typer.Option(help="Rows shown at most.")] = 100,
    connectors: ConnectorsDir = CONNECTORS,
    home: Annotated[Path | None, typer.Option("--home", help="The stack's folder; RTLAKE_HOME by default.")] = None,
) -> None:
    """Ask a history: its current rows; or as of a time; or what changed between two times. One JSON object a row."""
    if (begin is None) != (end is None) or (as_of and begin):
        raise UserError("give --as-of TIME, or --from TIME and --to TIME, or none of them for the current rows")
    access = Access(Stack.load(home))
    name = TableName(ICEBERG, *str(declared_history(connectors, table).history_table).split(".", 1))
    condition = f"table_schema = {literal(name.schema)} AND table_name = {literal(name.table)}"
    listing = f"SELECT column_name FROM {name.catalog}.information_schema.columns WHERE {condition}"  # noqa: S608
    found = access.trino(f"{listing} ORDER BY ordinal_position")
    columns = [str(row[0]) for row in found if row[0] not in RESERVED]
    if not columns:
        raise UserError(f"{table}: {name} is not there yet; merge first (rtlake scd2 merge)")
    shown = columns
    if as_of:
        statement = rows_as_of(name, columns, as_of)
    elif begin and end:
        statement = changes_between(name, columns, begin, end)
        shown = ["change", "changed_at", *columns, "transaction", "position"]
    else:
        statement = current_rows(name, columns)
    if only_sql:
        typer.echo(statement)
        return
    for row in access.trino(f"SELECT * FROM ({statement}) LIMIT {limit}"):  # noqa: S608
        typer.echo(json.dumps(dict(zip(shown, row, strict=True)), default=str, ensure_ascii=False))
