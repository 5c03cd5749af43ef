"""`rtlake scd2 erase`: a key whose source row is gone, erased everywhere, with a search for what remains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from airflow_provider_rtlake.clients.kafka import KafkaClient
from airflow_provider_rtlake.commands._folders import CONNECTORS, ConnectorsDir
from airflow_provider_rtlake.exceptions import UserError
from airflow_provider_rtlake.kit.stack import Stack
from airflow_provider_rtlake.scd2.erasure import Places, erase_everywhere
from airflow_provider_rtlake.streams.load import load_connectors
from airflow_provider_rtlake.streams.model import Stream


def erase(
    table: Annotated[str, typer.Argument(help="schema.table as declared.")],
    keys: Annotated[list[str], typer.Option("--key", help='A key as JSON, such as {"id":7}; several times.')],
    connectors: ConnectorsDir = CONNECTORS,
    home: Annotated[Path | None, typer.Option("--home", help="The stack's folder; RTLAKE_HOME by default.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Erase keys from history, bronze and topics for good; then search for what remains.

    Their rows must be gone at the source. Older snapshots of the table's lakehouse tables go too.
    """
    stack = Stack.load(home)
    stream = declared_history(connectors, table)
    if not yes:
        typer.confirm(f"erase {', '.join(keys)} of {table}, and older snapshots of its tables, for good?", abort=True)
    places = Places(
        stream=stream,
        kafka=KafkaClient({"bootstrap.servers": stack.kafka_bootstrap, "log_level": 3}),
        source=stack.source_access(stream.connector.database.connection),
        home=stack.home,
    )
    report = erase_everywhere(places, keys)
    if as_json:
        typer.echo(json.dumps({"ok": not report["remains"], **report}))
    else:
        for line in _lines(report):
            typer.echo(line)
    if report["remains"]:
        raise typer.Exit(1)


def declared_history(folder: Path, table: str) -> Stream:
    """A declared table that keeps a history.

    :param folder: of the declarations.
    :param table: ``schema.table``.
    :raises UserError: it is not declared, or keeps none.
    """
    for connector in load_connectors(folder):
        for stream in connector.streams:
            if stream.source == table:
                if stream.history_table is None:
                    raise UserError(f"{folder}: {table} keeps no history")
                return stream
    raise UserError(f"{folder}: {table} is not declared")


def _lines(report: dict[str, Any]) -> list[str]:
    lines = [f"{name}: {count} rows erased" for name, count in report["rows"].items()]
    lines += [f"{report['files']} files of older snapshots deleted"]
    lines += [f"topic {topic}: truncated to {offsets}" for topic, offsets in report["offsets"].items() if offsets]
    lines += [f"searched: {place}: {count}" for place, count in report["searched"].items()]
    lines += [f"REMAINS: {place}: {what}" for place, what in report["remains"].items()]
    return lines or ["nothing was found"]
