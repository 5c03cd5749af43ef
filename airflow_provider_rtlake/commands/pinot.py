"""`rtlake pinot`: tables from declarations."""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from airflow_provider_rtlake.clients.captured import captured_tables
from airflow_provider_rtlake.clients.kafka import KafkaClient
from airflow_provider_rtlake.clients.pinot import PinotController
from airflow_provider_rtlake.clients.pinot_apply import PinotDeployment
from airflow_provider_rtlake.clients.pinot_topics import PinotTopics
from airflow_provider_rtlake.commands._folders import CONNECTORS, TABLES, ConnectorsDir, TablesDir
from airflow_provider_rtlake.exceptions import UserError
from airflow_provider_rtlake.kit.stack import Stack
from airflow_provider_rtlake.pinot_config.gather import feeding, gather
from airflow_provider_rtlake.pinot_config.model import PinotTable
from airflow_provider_rtlake.pinot_config.render import render
from airflow_provider_rtlake.pinot_config.script import files
from airflow_provider_rtlake.pinot_config.version import LOCKED, PinotVersion
from airflow_provider_rtlake.streams.load import load_connectors
from airflow_provider_rtlake.streams.model import Stream
from airflow_provider_rtlake.streams.schema import TableSchema

app = typer.Typer(
    no_args_is_help=True, help="Pinot tables: generate, validate, plan, apply, delete.", rich_markup_mode=None
)

Tables = Annotated[list[str] | None, typer.Argument(help="Names; all without one.")]
DeclaredOnly = Annotated[
    bool, typer.Option("--declared-only", help="Leave out the tables generated for captured tables.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object.")]
Home = Annotated[Path | None, typer.Option("--home", help="The stack's folder; RTLAKE_HOME by default.")]
Bootstrap = Annotated[str | None, typer.Option("--bootstrap", help="Kafka's host:port for tables that name none.")]
_WORKERS = 8  # tables that are deleted at a time


def _print(result: dict[str, Any], lines: Iterable[str], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(result))
        return
    for line in lines:
        typer.echo(line)


def _captured(stack: Stack, directory: Path, names: list[str]) -> list[tuple[Stream, TableSchema]]:
    connectors = load_connectors(directory)
    return captured_tables(connectors, stack.source_access, feeding(connectors, names))


def _controller(stack: Stack) -> PinotController:
    connection = stack.connection("rtlake_pinot")
    password = stack.password("rtlake_pinot") or ""
    auth = (connection.login, password) if connection.login else None
    return PinotController.connect(connection.url, auth=auth)


def _deployment(stack: Stack, exit_stack: ExitStack, quiet: bool) -> PinotDeployment:
    topics = PinotTopics(KafkaClient({"bootstrap.servers": stack.kafka_bootstrap}))
    controller = exit_stack.enter_context(_controller(stack))
    servers = stack.connection("rtlake_pinot").extra.get("bootstrap_servers") or topics.bootstrap_servers
    console = Console(stderr=True, quiet=quiet, highlight=False, markup=False)
    return PinotDeployment(controller, topics, bootstrap_servers=str(servers), log=console.print)


def _gather(
    stack: Stack, tables_dir: Path, connectors_dir: Path, declared_only: bool, names: list[str] | None
) -> tuple[PinotTable, ...]:
    captured = [] if declared_only else _captured(stack, connectors_dir, names or [])
    return gather(tables_dir, captured, names or ())


@app.command()
def validate(tables_dir: TablesDir = TABLES, as_json: AsJson = False) -> None:
    """Check every declaration; needs no server."""
    tables = gather(tables_dir)
    result = {"ok": True, "tables": [table.table for table in tables]}
    _print(result, [f"{len(tables)} Pinot tables are declared rightly"], as_json)


@app.command()
def generate(
    names: Tables = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write to.")] = Path("build/pinot"),
    tables_dir: TablesDir = TABLES,
    connectors_dir: ConnectorsDir = CONNECTORS,
    declared_only: DeclaredOnly = False,
    bootstrap: Bootstrap = None,
    pinot_version: Annotated[
        str | None, typer.Option("--pinot-version", help="Version to write for; the kit's by default.")
    ] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Write schema.json, table.json and a runnable setup.sh for each table."""
    version = LOCKED
    if pinot_version is not None:
        try:
            version = PinotVersion.parse(pinot_version)
        except ValueError as error:
            raise UserError(f"--pinot-version: {error}") from error
    if declared_only:
        tables = gather(tables_dir, only=names or ())
    else:
        stack = Stack.load(home)
        tables = _gather(stack, tables_dir, connectors_dir, declared_only, names)
        bootstrap = bootstrap or stack.kafka_bootstrap
    rendered = [render(table, bootstrap_servers=bootstrap, version=version) for table in tables]
    written = []
    for one in rendered:
        folder = output / one.name
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files(one).items():
            (folder / name).write_text(content, encoding="utf-8")
        (folder / "setup.sh").chmod(0o755)
        written.append(str(folder))
    _print(
        {"ok": True, "folders": written},
        [f"{folder}: schema.json, table.json, setup.sh" for folder in written],
        as_json,
    )


@app.command()
def plan(
    names: Tables = None,
    tables_dir: TablesDir = TABLES,
    connectors_dir: ConnectorsDir = CONNECTORS,
    declared_only: DeclaredOnly = False,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Show what apply would do; changes nothing."""
    stack = Stack.load(home)
    tables = _gather(stack, tables_dir, connectors_dir, declared_only, names)
    with ExitStack() as exit_stack:
        deployment = _deployment(stack, exit_stack, quiet=True)
        plans = [deployment.plan(table).as_dict() for table in tables]
    changed = any(entry["changed"] for entry in plans)
    lines = [line for entry in plans for line in (f"{entry['table']}: {entry['action']}", *_indented(entry["diff"]))]
    _print({"ok": True, "changed": changed, "tables": plans}, lines, as_json)


def _indented(lines: list[str]) -> list[str]:
    return [f"  {line}" for line in lines]


@app.command()
def apply(
    names: Tables = None,
    tables_dir: TablesDir = TABLES,
    connectors_dir: ConnectorsDir = CONNECTORS,
    declared_only: DeclaredOnly = False,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Remake tables that cannot be changed in place.")] = False,
    wait: Annotated[float, typer.Option("--wait", help="Seconds until a table must be consumed.")] = 120.0,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Bring topics, schemas and tables to what is declared, and wait until they are consumed.

    A table that cannot be changed in place does not keep the others from it; the exit code is 1 then.
    """
    stack = Stack.load(home)
    tables = _gather(stack, tables_dir, connectors_dir, declared_only, names)
    with ExitStack() as exit_stack:
        outcome = _deployment(stack, exit_stack, quiet=as_json).apply_all(tables, rebuild=rebuild, wait=wait)
    done = [applied.as_dict() for applied in outcome.applied]
    hints = [applied.hint for applied in outcome.applied if applied.hint]
    changed = any(entry["changed"] for entry in done)
    lines = [f"{entry['table']}: {'changed' if entry['changed'] else 'as declared'}" for entry in done]
    problems = {name: str(error) for name, error in outcome.problems.items()}
    result = {"ok": not problems, "changed": changed, "tables": done, "hints": hints, "problems": problems}
    _print(result, [*lines, *hints], as_json)
    outcome.raise_problems()


@app.command()
def delete(
    names: Annotated[list[str], typer.Argument(help="Names of the tables.")],
    topics: Annotated[bool, typer.Option("--topics", help="Delete the topics that feed them, too.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Delete tables with their schemas; those that are not there are no error."""
    if not yes:
        what = "tables and their topics" if topics else "tables"
        typer.confirm(f"Delete the Pinot {what} {', '.join(names)}?", abort=True, err=True)
    with ExitStack() as exit_stack:
        deployment = _deployment(Stack.load(home), exit_stack, quiet=as_json)

        def drop(name: str) -> bool:
            topic = _topic_of(deployment.controller, name) if topics else None
            return deployment.delete(name, topic=topic)

        with ThreadPoolExecutor(_WORKERS) as pool:  # each waits for the servers to let go of its segments
            gone = [name for name, was_there in zip(names, pool.map(drop, names), strict=True) if was_there]
    lines = [f"{name}: {'deleted' if name in gone else 'was not there'}" for name in names]
    _print({"ok": True, "changed": bool(gone), "deleted": gone}, lines, as_json)


def _topic_of(controller: PinotController, name: str) -> str | None:
    config = controller.table(name)
    if config is None:
        return None
    streams = config.get("tableIndexConfig", {}).get("streamConfigs") or {}
    topic = streams.get("stream.kafka.topic.name")
    return str(topic) if topic else None
