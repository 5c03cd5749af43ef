"""`rtlake stream`: the Flink jobs of the captured tables."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from airflow_provider_rtlake.clients.captured import captured_tables
from airflow_provider_rtlake.clients.flink import FlinkClient
from airflow_provider_rtlake.clients.kafka import KafkaClient
from airflow_provider_rtlake.clients.pinot import PinotBroker
from airflow_provider_rtlake.commands._folders import CONNECTORS, TABLES, ConnectorsDir, TablesDir
from airflow_provider_rtlake.exceptions import DeclarationError, ServiceUnavailable, UserError
from airflow_provider_rtlake.flink_sql.settings import LaneSettings
from airflow_provider_rtlake.kit.stack import Stack
from airflow_provider_rtlake.lanes.backfill import backfill as fill
from airflow_provider_rtlake.lanes.dead_letters import DeadLetter, chosen, dead_letters, dismiss, replay
from airflow_provider_rtlake.lanes.jobs import Applied
from airflow_provider_rtlake.lanes.lanes import (
    Lane,
    LaneName,
    LaneRunner,
    lanes_of,
    names_of,
    select,
    sources_needed,
    stream_of,
)
from airflow_provider_rtlake.lanes.removed import tell_removed
from airflow_provider_rtlake.pinot_config.gather import declared_types
from airflow_provider_rtlake.streams.load import load_connectors
from airflow_provider_rtlake.streams.model import Connector

app = typer.Typer(
    no_args_is_help=True,
    help="Flink jobs of the captured tables: status, apply, stop, backfill, truncates, dead letters.",
    rich_markup_mode=None,
)

Tables = Annotated[list[str] | None, typer.Argument(help="schema.table as declared; all without one.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object.")]
Home = Annotated[Path | None, typer.Option("--home", help="The stack's folder; RTLAKE_HOME by default.")]
LaneKinds = Annotated[
    list[str] | None, typer.Option("--lane", help="Only this lane: bronze, realtime or transactions.")
]


@dataclass
class Workshop:
    """What the commands work with.

    :param stack: the installed stack.
    :param connectors: the declarations.
    :param chosen: the lanes that are asked for.
    :param lanes: the same as rendered.
    :param runner: of the lanes.
    :param problem: why real-time lanes could not be rendered, where that was tolerated.
    """

    stack: Stack
    connectors: list[Connector]
    chosen: list[LaneName]
    lanes: list[Lane]
    runner: LaneRunner
    problem: str = ""


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


def _kafka(stack: Stack) -> KafkaClient:
    # its own remarks at level INFO are of no use to a user
    return KafkaClient({"bootstrap.servers": stack.kafka_bootstrap, "log_level": 3})


@contextmanager
def flink_of(stack: Stack) -> Iterator[FlinkClient]:
    """A client of the stack's Flink.

    :param stack: the installed stack.
    """
    connection = stack.connection("rtlake_flink")
    with FlinkClient(connection.url, str(connection.extra["gateway_url"])) as client:
        yield client


@contextmanager
def workshop(
    home: Path | None,
    folder: Path,
    tables_dir: Path = TABLES,
    *,
    tables: Sequence[str] = (),
    kinds: Sequence[str] = (),
    tolerant: bool = False,
) -> Iterator[Workshop]:
    """Everything that a command needs. Of the source only the tables are read whose real-time lanes are asked for.

    :param home: the stack's folder.
    :param folder: of the declarations.
    :param tables_dir: of the Pinot declarations.
    :param tables: as declared; all where none is named.
    :param kinds: only lanes of these kinds.
    :param tolerant: leave out the real-time lanes where the source does not answer, or has other tables.
    """
    stack = Stack.load(home)
    connectors = load_connectors(folder)
    chosen_lanes = select(names_of(connectors), tables, kinds)
    settings, types, problem = settings_of(stack), declared_types(tables_dir), ""
    try:
        captured = captured_tables(connectors, stack.source_access, sources_needed(chosen_lanes))
        schemas = {stream.source: schema for stream, schema in captured}
        lanes = lanes_of(connectors, schemas, settings, declared=types)
    except (DeclarationError, ServiceUnavailable) as error:
        if not tolerant:
            raise
        problem, lanes = str(error), lanes_of(connectors, {}, settings)
    with flink_of(stack) as client:
        runner = LaneRunner(client, settings, _kafka(stack))
        yield Workshop(stack, connectors, chosen_lanes, select(lanes, tables, kinds), runner, problem)


def echo(result: dict[str, Any], lines: list[str], as_json: bool) -> None:
    """Print a result for people or for machines."""
    for line in [json.dumps(result)] if as_json else lines:
        typer.echo(line)


_DECLARED = {True: "", False: ", not as declared: run rtlake stream apply", None: ", declaration not compared"}


@app.command()
def status(
    tables: Tables = None,
    connectors: ConnectorsDir = CONNECTORS,
    tables_dir: TablesDir = TABLES,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Show each lane's job, its checkpoints and how far it is behind. Exit code 1 if one does not run."""
    with workshop(home, connectors, tables_dir, tables=tables or (), tolerant=True) as shop:
        rendered = {lane.name: lane for lane in shop.lanes}
        found = [shop.runner.status(rendered.get(lane.name, lane)) for lane in shop.chosen]
    healthy = all(entry["state"] == "RUNNING" and entry["as_declared"] for entry in found)
    lines = []
    for entry in found:
        declared = _DECLARED[entry["as_declared"]]
        lines.append(
            f"{entry['lane']:<12} {entry['table']:<32} {entry['state']:<11} lag {entry['lag']}, "
            f"{entry.get('checkpoints', 0)} checkpoints{declared}"
        )
        if entry.get("last_exception") and entry["state"] != "RUNNING":
            lines.append(f"    {entry['last_exception']}")
    lines += [f"the source cannot be compared with: {shop.problem}"] if shop.problem else []
    echo({"ok": healthy, "lanes": found, "problem": shop.problem or None}, lines, as_json)
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
    connectors: ConnectorsDir = CONNECTORS,
    tables_dir: TablesDir = TABLES,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Let every declared lane run as declared; changes nothing that is right already."""
    done: list[dict[str, Any]] = []
    with workshop(home, connectors, tables_dir, tables=tables or (), kinds=lane or ()) as shop:
        if not dry_run:
            shop.runner.make_topics(shop.connectors)

        def told(applied: Applied) -> None:
            done.append(applied.as_dict())
            if not as_json:
                typer.echo(f"{applied.name}: {_told(applied.action, dry_run)} ({applied.reason})")

        shop.runner.apply_all(shop.lanes, dry_run=dry_run, accept_gap=accept_gap, told=told)
        if prune:
            for job in shop.runner.prune(shop.connectors, dry_run=dry_run):
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
    connectors: ConnectorsDir = CONNECTORS,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Stop lanes with a savepoint; `rtlake stream apply` goes on where they stopped."""
    done: list[dict[str, Any]] = []
    stack = Stack.load(home)
    chosen_lanes = select(names_of(load_connectors(connectors)), tables or [], lane or [])
    with flink_of(stack) as client:
        LaneRunner(client, settings_of(stack), _kafka(stack)).stop_all(
            chosen_lanes,
            told=lambda stopped: done.append({"name": stopped[0].name, "stopped": stopped[1]}),
        )
    lines = [f"{entry['name']}: {'stopped' if entry['stopped'] else 'did not run'}" for entry in done]
    echo({"ok": True, "changed": any(entry["stopped"] for entry in done), "lanes": done}, lines, as_json)


@app.command()
def backfill(
    table: Annotated[str, typer.Argument(help="schema.table as declared.")],
    wait: Annotated[float, typer.Option("--wait", help="Seconds for each of its two jobs.")] = 3600.0,
    connectors: ConnectorsDir = CONNECTORS,
    tables_dir: TablesDir = TABLES,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Fill both real-time topics of a table again from bronze; the answers of Pinot stay exact."""
    from airflow_provider_rtlake.demo.access import ICEBERG, Access
    from airflow_provider_rtlake.scd2.returned import returned

    with workshop(home, connectors, tables_dir, tables=[table]) as shop:
        found = [lane for lane in shop.lanes if lane.kind == "realtime"]
        if not found:
            raise UserError(f"{table} is declared with `realtime: false`: it has no topics to fill")
        stream = stream_of(shop.connectors, table)
        refilled = fill(
            shop.runner,
            stream,
            found[0],
            without=returned(Access(shop.stack).trino, ICEBERG, stream.bronze_table, stream.history_base),
            timeout=wait,
            say=(lambda text: None) if as_json else (lambda text: typer.echo(f"{table}: {text}")),
        )
    line = f"{table}: {refilled.messages} changes sent again, {refilled.removed} rows told that truncates removed"
    echo({"ok": True, **refilled.as_dict()}, [line], as_json)


@app.command()
def truncates(
    tables: Tables = None,
    connectors: ConnectorsDir = CONNECTORS,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Tell Pinot's current tables which rows a truncate removed, or were gone when the log began anew."""
    stack, kafka = Stack.load(home), _kafka(Stack.load(home))
    declared = load_connectors(connectors)
    streams = [stream for connector in declared for stream in connector.streams if stream.pinot_current]
    chosen_streams = [stream_of(declared, name) for name in tables] if tables else streams
    with PinotBroker.connect(str(stack.connection("rtlake_pinot").extra["broker_url"])) as broker:
        told = {stream.source: tell_removed(kafka, broker, stream) for stream in chosen_streams}
    lines = [f"{source}: {number} rows" for source, number in told.items()]
    echo({"ok": True, "changed": any(told.values()), "removed": told}, lines, as_json)


letters_app = typer.Typer(no_args_is_help=True, help="Messages that could not be read.", rich_markup_mode=None)
app.add_typer(letters_app, name="dead-letters")

Origins = Annotated[list[str], typer.Argument(help="topic:partition:offset as listed, or all.")]
OnlyTable = Annotated[str | None, typer.Option("--table", help="Only those of this table.")]


def _letters(
    home: Path | None, folder: Path, table: str | None, everything: bool = False
) -> tuple[KafkaClient, list[tuple[Connector, DeadLetter]]]:
    connectors = load_connectors(folder)
    kafka = _kafka(Stack.load(home))
    topic = stream_of(connectors, table).topic if table else None
    found = [
        (connector, letter)
        for connector in connectors
        for letter in dead_letters(kafka, connector, topic=topic, everything=everything)
    ]
    return kafka, found


def _pick(found: list[tuple[Connector, DeadLetter]], origins: list[str]) -> list[tuple[Connector, DeadLetter]]:
    picked = chosen([letter for _, letter in found], origins)
    owners = {letter.origin: connector for connector, letter in found}
    return [(owners[letter.origin], letter) for letter in picked]


@letters_app.command("list")
def list_letters(
    table: OnlyTable = None,
    everything: Annotated[bool, typer.Option("--all", help="Also those replayed or dismissed.")] = False,
    connectors: ConnectorsDir = CONNECTORS,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Show the open dead letters."""
    _, found = _letters(home, connectors, table, everything)
    lines = [f"{letter.origin}  {letter.status}  {letter.reason}  key {letter.key}" for _, letter in found] or [
        "no dead letters"
    ]
    echo({"ok": True, "dead_letters": [letter.as_dict() for _, letter in found]}, lines, as_json)


@letters_app.command("replay")
def replay_letters(
    origins: Origins,
    value: Annotated[
        Path | None,
        typer.Option("--value", exists=True, dir_okay=False, help="File with the corrected value, for one letter."),
    ] = None,
    table: OnlyTable = None,
    connectors: ConnectorsDir = CONNECTORS,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Send dead letters to their topics again."""
    kafka, found = _letters(home, connectors, table)
    picked = _pick(found, origins)
    if value is not None and len(picked) != 1:
        raise UserError(f"--value corrects one letter, but {len(picked)} are named")
    for connector, letter in picked:
        replay(kafka, connector, letter, value=value.read_bytes() if value else None)
    names = [letter.origin for _, letter in picked]
    echo({"ok": True, "replayed": names}, [f"{name}: replayed" for name in names], as_json)


@letters_app.command("dismiss")
def dismiss_letters(
    origins: Origins,
    note: Annotated[str, typer.Option("--note", help="Why nothing more is needed.")],
    table: OnlyTable = None,
    connectors: ConnectorsDir = CONNECTORS,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Say that dead letters need nothing more; the table's check is green again."""
    kafka, found = _letters(home, connectors, table)
    picked = _pick(found, origins)
    for connector, letter in picked:
        dismiss(kafka, connector, letter, note)
    names = [letter.origin for _, letter in picked]
    echo({"ok": True, "dismissed": names}, [f"{name}: dismissed" for name in names], as_json)
