"""`rtlake scd2`: merge bronze into the histories, and see how far they are."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from airflow_provider_rtlake.clients.nessie import NessieClient
from airflow_provider_rtlake.commands._folders import CONNECTORS, ConnectorsDir
from airflow_provider_rtlake.commands._scd2_erase import declared_history, erase
from airflow_provider_rtlake.commands._scd2_query import query
from airflow_provider_rtlake.exceptions import UserError
from airflow_provider_rtlake.kit.stack import Stack
from airflow_provider_rtlake.scd2.request import request_for
from airflow_provider_rtlake.scd2.serve import socket_path
from airflow_provider_rtlake.scd2.submit import APPLICATION, REBUILD, run, session_environment
from airflow_provider_rtlake.streams.load import load_connectors
from airflow_provider_rtlake.streams.model import Stream

app = typer.Typer(
    no_args_is_help=True,
    help="SCD2 histories of the captured tables: merge, serve, rebuild, status, query, erase.",
    rich_markup_mode=None,
)

Tables = Annotated[list[str] | None, typer.Argument(help="schema.table as declared; all without one.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object.")]
Home = Annotated[Path | None, typer.Option("--home", help="The stack's folder; RTLAKE_HOME by default.")]


def histories(folder: Path, tables: list[str] | None) -> list[Stream]:
    """The declared tables that keep a history.

    :param folder: of the declarations.
    :param tables: only these.
    :raises UserError: one of them is not declared, or keeps no history.
    """
    declared = {stream.source: stream for connector in load_connectors(folder) for stream in connector.streams}
    kept = {source: stream for source, stream in declared.items() if stream.history_table is not None}
    for source in tables or ():
        if source not in kept:
            reason = "keeps no history" if source in declared else "is not declared"
            raise UserError(f"{folder}: {source} {reason}; with history: {', '.join(sorted(kept)) or 'none'}")
    return [stream for source, stream in kept.items() if not tables or source in tables]


@app.command()
def merge(
    tables: Tables = None,
    connectors: ConnectorsDir = CONNECTORS,
    home: Home = None,
    as_json: AsJson = False,
    patience: Annotated[
        float, typer.Option(help="Seconds that an incomplete transaction holds back what follows it.")
    ] = 300.0,
    snapshot_patience: Annotated[
        float, typer.Option(help="Seconds that a snapshot whose end nothing tells waits for more rows.")
    ] = 20.0,
) -> None:
    """Merge what is new into the histories: the same job as the Airflow operator's, in one Spark session."""
    stack = Stack.load(home)
    requests = [
        request_for(stream, patience_seconds=patience, snapshot_patience_seconds=snapshot_patience)
        for stream in histories(connectors, tables)
    ]
    results = run(requests, home=stack.home)
    _tell(results, as_json)


def _tell(results: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """Print what merges did."""
    if as_json:
        typer.echo(json.dumps({"ok": True, "merges": results}))
        return
    for result in results:
        state = f"{result['changes']} changes up to {result['position']}" if result["changed"] else "nothing new"
        waiting = f", {result['waiting']} changes wait for the rest of their transactions" if result["waiting"] else ""
        typer.echo(f"{result['table']}: {state}{waiting} ({result['seconds']} s)")


@app.command()
def rebuild(
    table: Annotated[str, typer.Argument(help="schema.table as declared.")],
    connectors: ConnectorsDir = CONNECTORS,
    home: Home = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Drop a history and build it anew from bronze, as declared now: for columns whose type has to be another one.

    Bronze is read first, and must hold everything that the history was made from. Erased keys stay erased.
    """
    stack = Stack.load(home)
    request = request_for(declared_history(connectors, table))
    if not yes:
        typer.confirm(f"drop {request.history} and build it anew from {request.bronze}?", abort=True)
    _tell(run([request], home=stack.home, application=REBUILD), as_json)


@app.command()
def serve(
    tables: Tables = None,
    connectors: ConnectorsDir = CONNECTORS,
    home: Home = None,
    follow: Annotated[bool, typer.Option("--follow", help="Merge the tables whenever their bronze moves.")] = False,
    every: Annotated[float, typer.Option(min=0.05, help="Seconds between looks at followed tables.")] = 0.2,
    patience: Annotated[
        float, typer.Option(help="Seconds that an incomplete transaction holds back what follows it.")
    ] = 300.0,
) -> None:
    """Keep a Spark session for merges, until stopped: tasks with mode="warm" ask it, and it can follow tables itself.

    Runs in the foreground, for a supervisor. May be killed at any time: a merge is one step.
    """
    stack = Stack.load(home)
    path = socket_path(stack.home)
    path.parent.mkdir(parents=True, exist_ok=True)
    options = ["--serve", str(path)]
    if follow:
        requests = [request_for(stream, patience_seconds=patience) for stream in histories(connectors, tables)]
        listed = path.with_name("followed.json")
        listed.write_text(json.dumps([request.model_dump(mode="json") for request in requests]), encoding="utf-8")
        options += ["--request", str(listed), "--every", str(every)]
    variables = session_environment(stack.home)
    python = variables.get("PYSPARK_DRIVER_PYTHON", sys.executable)
    os.execve(python, [python, APPLICATION, *options], variables)  # noqa: S606 - no shell is wanted


@app.command()
def status(
    tables: Tables = None, connectors: ConnectorsDir = CONNECTORS, home: Home = None, as_json: AsJson = False
) -> None:
    """Show each history's snapshot on main, and branches that merges left or kept."""
    stack = Stack.load(home)
    rows: list[dict[str, Any]] = []
    with NessieClient(f"{stack.connection('rtlake_nessie').url}/api/v2") as nessie:
        names = [reference.name for reference in nessie.references()]
        for stream in histories(connectors, tables):
            history, base = str(stream.history_table), str(stream.history_base)
            entries = {
                kind: nessie.content(tuple(name.split(".")))
                for kind, name in (
                    ("bronze", stream.bronze_table),
                    ("history", history),
                    ("base", f"{base}_checkpoint"),
                )
            }
            rows.append(
                {
                    "table": stream.source,
                    "history": history,
                    "bronze_snapshot": entries["bronze"] and entries["bronze"].snapshot_id,
                    "history_snapshot": entries["history"] and entries["history"].snapshot_id,
                    "branches": [name for name in names if f"/{history}/" in name],
                }
            )
    if as_json:
        typer.echo(json.dumps({"histories": rows}))
        return
    for row in rows:
        state = "no merge yet" if row["history_snapshot"] is None else f"snapshot {row['history_snapshot']}"
        branches = f", branches: {', '.join(row['branches'])}" if row["branches"] else ""
        typer.echo(f"{row['table']:<32} {row['history']}: {state}{branches}")


app.command("erase")(erase)
app.command("query")(query)
