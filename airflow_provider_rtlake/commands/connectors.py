"""`rtlake connectors`: capture of source tables from declarations."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from airflow_provider_rtlake.clients.kafka import KafkaClient
from airflow_provider_rtlake.clients.kafka_connect import KafkaConnectClient
from airflow_provider_rtlake.commands._folders import CONNECTORS, ConnectorsDir
from airflow_provider_rtlake.kit.stack import Stack
from airflow_provider_rtlake.streams.connect_apply import Applied, ConnectorDeployment
from airflow_provider_rtlake.streams.connect_plan import Plan
from airflow_provider_rtlake.streams.load import load_declarations
from airflow_provider_rtlake.streams.source_access import SourceAccess

app = typer.Typer(
    no_args_is_help=True,
    help="Connectors: validate, plan, apply, status, delete.",
    rich_markup_mode=None,
)

CONNECT = "rtlake_kafka_connect"
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object.")]
Home = Annotated[Path | None, typer.Option("--home", help="The stack's folder; RTLAKE_HOME by default.")]
Prune = Annotated[bool, typer.Option("--prune", help="Delete connectors that no declaration names.")]


@app.command()
def validate(
    connectors_dir: ConnectorsDir = CONNECTORS,
    online: Annotated[bool, typer.Option("--online", help="Also against the source databases and Debezium.")] = False,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Check every declaration; needs no server."""
    declarations = load_declarations(connectors_dir)
    if online:
        with _deployment(home, quiet=True) as deployment:
            deployment.prepare(declarations)
    tables = {one.connector: [stream.source for stream in one.streams] for one in declarations.connectors}
    if as_json:
        typer.echo(json.dumps({"ok": True, "connectors": tables}))
        return
    total = sum(len(names) for names in tables.values())
    typer.echo(f"{len(tables)} connectors with {total} tables are declared rightly")


@app.command()
def plan(
    connectors_dir: ConnectorsDir = CONNECTORS,
    prune: Prune = False,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Show what apply would do; touches nothing."""
    declarations = load_declarations(connectors_dir)
    with _deployment(home, quiet=True) as deployment:
        plans = deployment.plan(declarations, prune=prune)
    if as_json:
        changes = any(one.changes for one in plans)
        typer.echo(json.dumps({"changes": changes, "connectors": [one.as_dict() for one in plans]}))
        return
    _print_plans(plans)


@app.command()
def apply(
    connectors_dir: ConnectorsDir = CONNECTORS,
    prune: Prune = False,
    wait: Annotated[float, typer.Option("--wait", help="Seconds that a connector may take to run.")] = 120.0,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Bring every declared connector into being and wait until it runs."""
    declarations = load_declarations(connectors_dir)
    with _deployment(home, quiet=as_json, limit=wait) as deployment:
        applied = deployment.apply(declarations, prune=prune)
    if as_json:
        changed = any(one.changed for one in applied)
        typer.echo(json.dumps({"changed": changed, "connectors": [one.as_dict() for one in applied]}))
        return
    _print_applied(applied)


@app.command()
def status(
    connectors_dir: ConnectorsDir = CONNECTORS,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Show connectors, tasks, slots, snapshots; exit code 1 unless all run and no REPLICA IDENTITY FULL is missing."""
    declarations = load_declarations(connectors_dir)
    with _deployment(home, quiet=True) as deployment:
        states = deployment.status(declarations.connectors)
    healthy = all(state["running"] and not state["identity_missing"] for state in states)
    if as_json:
        typer.echo(json.dumps({"ok": healthy, "connectors": states}))
    else:
        _print_states(states)
    if not healthy:
        raise typer.Exit(1)


@app.command()
def delete(
    name: Annotated[str, typer.Argument(help="The connector.")],
    connectors_dir: ConnectorsDir = CONNECTORS,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Delete a connector, declared or not, with its offsets, slot and publication. Topics and tables stay."""
    declarations = load_declarations(connectors_dir)
    if not yes and not as_json:
        typer.confirm(f"Delete the connector {name}? Changes made afterwards are not captured.", abort=True)
    with _deployment(home, quiet=as_json) as deployment:
        result = deployment.delete_named(declarations, name)
    if as_json:
        typer.echo(json.dumps(result))
        return
    slots = ", ".join(result["slots"]) or "none"
    typer.echo(f"{name}: {'deleted' if result['deleted'] else 'was not there'}; replication slots dropped: {slots}")


@contextmanager
def _deployment(home: Path | None, *, quiet: bool, limit: float = 120.0) -> Iterator[ConnectorDeployment]:
    stack = Stack.load(home)
    connection = stack.connection(CONNECT)

    def access(conn_id: str) -> SourceAccess:
        return stack.source_access(conn_id).with_replication(connection.extra)

    login = (connection.login, stack.password(CONNECT) or "") if connection.login else None
    console = Console(stderr=True, quiet=quiet, highlight=False, markup=False, soft_wrap=True)
    with KafkaConnectClient(connection.url, auth=login) as connect:
        yield ConnectorDeployment(
            connect,
            KafkaClient({"bootstrap.servers": stack.kafka_bootstrap}),
            access,
            bootstrap_servers=connection.extra.get("bootstrap_servers"),
            limit=limit,
            say=console.print,
        )


def _table(*names: str) -> Table:
    """Names of connectors and slots are folded, never cut."""
    return Table(*(Column(name, overflow="fold") for name in names))


def _print_plans(plans: list[Plan]) -> None:
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for one in plans:
        reason = f" (new epoch: {one.epoch})" if one.epoch else ""
        console.print(f"{one.connector}: {one.action}{reason}")
        for setting in one.settings:
            console.print(f"  {setting}")
        for what in (*one.source, *one.topics):
            console.print(f"  * {what}")
    if not any(one.changes for one in plans):
        console.print("nothing to change")


def _print_applied(applied: list[Applied]) -> None:
    table = _table("connector", "action", "changed", "state", "epoch", "snapshots of added tables")
    for one in applied:
        table.add_row(
            one.plan.connector,
            one.plan.action,
            "yes" if one.changed else "no",
            "" if one.status is None else one.status.summary,
            one.epoch.partition(":")[0],
            ", ".join(one.snapshots),
        )
    Console(highlight=False, markup=False).print(table)


def _print_states(states: list[dict[str, Any]]) -> None:
    table = _table("connector", "state", "tasks", "slot", "behind (bytes)", "epoch", "snapshot missing")
    for state in states:
        slot = state["slot"]
        slot_state = "active" if slot["active"] else "inactive" if slot["exists"] else "absent"
        table.add_row(
            state["connector"],
            state["state"],
            ", ".join(f"{task['id']} {task['state']}" for task in state["tasks"]) or "none",
            f"{slot['name']} {'LOST' if slot['lost'] else slot_state}",
            "" if slot["lag_bytes"] is None else str(slot["lag_bytes"]),
            state["epoch"].partition(":")[0],
            ", ".join(state["snapshot_missing"]),
        )
    console = Console(highlight=False, markup=False)
    console.print(table)
    for state in states:
        if state["error"]:
            console.print(f"{state['connector']}: {state['error']}", soft_wrap=True)
        if state["identity_missing"]:
            names = ", ".join(state["identity_missing"])
            console.print(
                f"{state['connector']}: without REPLICA IDENTITY FULL: {names}; apply sets it", soft_wrap=True
            )
