"""`rtlake stream`: the Flink jobs of the captured tables."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from airflow_provider_rtlake.clients.captured import captured_tables
from airflow_provider_rtlake.clients.flink import FlinkClient
from airflow_provider_rtlake.clients.kafka import KafkaClient
from airflow_provider_rtlake.flink_sql.settings import LaneSettings
from airflow_provider_rtlake.kit.stack import Stack
from airflow_provider_rtlake.lanes.lanes import Lane, LaneRunner, lanes_of, select
from airflow_provider_rtlake.streams.load import load_connectors
from airflow_provider_rtlake.streams.model import Connector
from airflow_provider_rtlake.streams.schema import TableSchema
from airflow_provider_rtlake.streams.source_access import SourceAccess

app = typer.Typer(
    no_args_is_help=True,
    help="Flink jobs of the captured tables: status, apply, stop, backfill, dead letters.",
    rich_markup_mode=None,
)

Tables = Annotated[list[str] | None, typer.Argument(help="schema.table as declared; all without one.")]
ConnectorsDir = Annotated[Path, typer.Option("--connectors", help="Folder of the connectors' declarations.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object.")]
Home = Annotated[Path | None, typer.Option("--home", help="The stack's folder; RTLAKE_HOME by default.")]
LaneKinds = Annotated[
    list[str] | None, typer.Option("--lane", help="Only this lane: bronze, realtime or transactions.")
]
_CONNECTORS = Path("connectors")


@dataclass
class Workshop:
    """What the commands work with.

    :param stack: the installed stack.
    :param connectors: the declarations.
    :param schemas: ``schema.table`` → structure.
    :param lanes: every declared lane.
    :param runner: of the lanes.
    """

    stack: Stack
    connectors: list[Connector]
    schemas: dict[str, TableSchema]
    lanes: list[Lane]
    runner: LaneRunner


def settings_of(stack: Stack) -> LaneSettings:
    """The lanes' settings of an installed stack.

    :param stack: the installed stack.
    """
    s3 = stack.connection("rtlake_s3").extra
    nessie = stack.connection("rtlake_nessie")
    return LaneSettings(
        bootstrap=stack.kafka_bootstrap,
        nessie_uri=f"{nessie.url}/api/v2",
        s3_endpoint=str(s3["endpoint_url"]),
        region=str(s3.get("region_name", "us-east-1")),
        warehouse=str(nessie.extra.get("warehouse", "s3://lakehouse/warehouse")),
    ).tuned(stack.connection("rtlake_flink").extra)


@contextmanager
def flink_of(stack: Stack) -> Iterator[FlinkClient]:
    """A client of the stack's Flink.

    :param stack: the installed stack.
    """
    connection = stack.connection("rtlake_flink")
    with FlinkClient(connection.url, str(connection.extra["gateway_url"])) as client:
        yield client


@contextmanager
def workshop(home: Path | None, folder: Path) -> Iterator[Workshop]:
    """Everything that a command needs.

    :param home: the stack's folder.
    :param folder: of the declarations.
    """
    stack = Stack.load(home)
    connectors = load_connectors(folder)

    def access(conn_id: str) -> SourceAccess:
        connection = stack.connection(conn_id)
        return SourceAccess.of_connection(
            host=connection.host,
            port=connection.port,
            login=connection.login or "",
            password=stack.password(conn_id) or "",
            schema=connection.schema,
            extra=connection.extra,
        )

    schemas = {stream.source: schema for stream, schema in captured_tables(connectors, access)}
    settings = settings_of(stack)
    lanes = lanes_of(connectors, schemas, settings)
    with flink_of(stack) as client:
        runner = LaneRunner(client, settings, KafkaClient({"bootstrap.servers": stack.kafka_bootstrap}))
        yield Workshop(stack, connectors, schemas, lanes, runner)


def echo(result: dict[str, Any], lines: list[str], as_json: bool) -> None:
    """Print a result for people or for machines."""
    for line in [json.dumps(result)] if as_json else lines:
        typer.echo(line)


@app.command()
def status(
    tables: Tables = None,
    connectors: ConnectorsDir = _CONNECTORS,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Show each lane's job, its checkpoints and how far it is behind. Exit code 1 if one does not run."""
    with workshop(home, connectors) as shop:
        found = [shop.runner.status(lane) for lane in select(shop.lanes, tables or [])]
    healthy = all(entry["state"] == "RUNNING" and entry["as_declared"] for entry in found)
    lines = []
    for entry in found:
        declared = "" if entry["as_declared"] else ", not as declared: run rtlake stream apply"
        lines.append(
            f"{entry['lane']:<12} {entry['table']:<32} {entry['state']:<11} lag {entry['lag']}, "
            f"{entry.get('checkpoints', 0)} checkpoints{declared}"
        )
        if entry.get("last_exception") and entry["state"] != "RUNNING":
            lines.append(f"    {entry['last_exception']}")
    echo({"ok": healthy, "lanes": found}, lines, as_json)
    if not healthy:
        raise typer.Exit(1)


@app.command()
def apply(
    tables: Tables = None,
    lane: LaneKinds = None,
    prune: Annotated[bool, typer.Option("--prune", help="Stop jobs of lanes that are no longer declared.")] = False,
    accept_gap: Annotated[
        bool, typer.Option("--accept-gap", help="Go on although Kafka lost messages that were never read.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")] = False,
    connectors: ConnectorsDir = _CONNECTORS,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Let every declared lane run as declared; changes nothing that is right already."""
    done: list[dict[str, Any]] = []
    with workshop(home, connectors) as shop:
        if not dry_run:
            shop.runner.make_topics(shop.connectors)
        for one in select(shop.lanes, tables or [], lane or []):
            applied = shop.runner.apply(one, dry_run=dry_run, accept_gap=accept_gap)
            done.append(applied.as_dict())
            if not as_json:
                typer.echo(f"{applied.name}: {_told(applied.action, dry_run)} ({applied.reason})")
        if prune:
            prefixes = [connector.topic_prefix for connector in shop.connectors]
            for job in shop.runner.undeclared(shop.lanes, prefixes):
                if not dry_run:
                    shop.runner.client.cancel(job.job_id)
                done.append({"name": job.name, "job_id": job.job_id, "action": "prune", "changed": True})
                if not as_json:
                    typer.echo(f"{job.name}: {'would be stopped' if dry_run else 'stopped'} (not declared)")
    if as_json:
        echo({"ok": True, "changed": any(entry["changed"] for entry in done), "lanes": done}, [], True)


def _told(action: str, dry_run: bool) -> str:
    if action == "keep":
        return "as declared"
    return f"would {action}" if dry_run else {"start": "started", "replace": "replaced"}[action]


@app.command()
def stop(
    tables: Tables = None,
    lane: LaneKinds = None,
    connectors: ConnectorsDir = _CONNECTORS,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Stop lanes with a savepoint; `rtlake stream apply` goes on where they stopped."""
    done = []
    with workshop(home, connectors) as shop:
        for one in select(shop.lanes, tables or [], lane or []):
            done.append({"name": one.job.name, "stopped": shop.runner.stop(one)})
    lines = [f"{entry['name']}: {'stopped' if entry['stopped'] else 'did not run'}" for entry in done]
    echo({"ok": True, "changed": any(entry["stopped"] for entry in done), "lanes": done}, lines, as_json)
