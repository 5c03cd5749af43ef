"""`rtlake demo`: from a bare machine to compared hops, with one command."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from airflow_provider_rtlake.demo.answers import Answer
from airflow_provider_rtlake.demo.hops import TableHops
from airflow_provider_rtlake.demo.inputs import Input
from airflow_provider_rtlake.demo.run import ADMIN, Demo, Report
from airflow_provider_rtlake.demo.steps import Steps
from airflow_provider_rtlake.exceptions import RtlakeError
from airflow_provider_rtlake.kit import playbook, settings, verbs
from airflow_provider_rtlake.kit.stack import Stack, default_home

app = typer.Typer(rich_markup_mode=None)

_LANES = {
    "pinot": "commit → row in Pinot",
    "bronze": "commit → row of bronze in Trino",
    "history": "commit → history on main (merge started at once)",
}
_DOORS = (
    ("Airflow", "airflow-api-server", f"user admin, password in {{home}}/secrets/{ADMIN}"),
    ("Flink", "flink-jobmanager", "jobs, checkpoints, exceptions"),
    ("Pinot", "pinot", "query console"),
    ("Trino", "trino", "any user name; catalogs nessie and postgresql"),
    ("Nessie", "nessie", "branches and commits: /api/v2/trees"),
    ("Kafka Connect", "connect", "/connectors?expand=status"),
    ("PostgreSQL", "postgresql", "password in {home}/secrets; see ./rtlake status"),
)


@app.command()
def demo(
    rows: Annotated[int, typer.Option("--rows", min=2_000, help="Rows of each table before the changes.")] = 10_000,
    changes: Annotated[int, typer.Option("--changes", min=0, help="Changes of the sales.")] = 10_000,
    source: Annotated[
        Path | None,
        typer.Option("--source", help="Taxi Parquet file or folder; else RTLAKE_TLC_DIR, else made up."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of everything that is made up.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Install, start, bring data in, deploy through Airflow, compare every hop. A second call is quick."""
    begin = time.monotonic()
    given = Input(rows=rows, changes=changes, source=source, seed=seed)
    given.files()  # a wrong --source is found before anything starts
    # The JSON line is the only thing on standard output; people read the rest on standard error.
    told = Console(stderr=True, highlight=False)
    steps = Steps(told)
    report = Report(seconds=steps.seconds)
    try:
        with steps.step("Services: install, start, wait for an answer of each"):
            stack = _up()
        report = Demo(stack, verbs.project() / "connectors", given, steps).run()
    except RtlakeError as error:
        if as_json:
            typer.echo(json.dumps({**report.as_dict(time.monotonic() - begin), "ok": False, "error": str(error)}))
        raise
    show(Console(stderr=True, highlight=False) if as_json else Console(highlight=False), report, stack)
    total = time.monotonic() - begin
    if report.problems:
        for problem in report.problems:
            told.print(f"✗ {problem}", style="red", markup=False)
    else:
        told.print(f"Everything agrees. {total:.0f} s.", style="green")
    if as_json:
        typer.echo(json.dumps(report.as_dict(total)))
    if report.problems:
        raise typer.Exit(1)


def _up() -> Stack:
    home = default_home()
    chosen = settings.load(home)
    kind = chosen.pop("supervisor", None) or playbook.default_supervisor()
    return verbs.bring_up(home, chosen, str(kind))


def show(console: Console, report: Report, stack: Stack) -> None:
    """Print what was found, and where to look.

    :param console: where to.
    :param report: of the demo.
    :param stack: the running stack.
    """
    console.print(_hops(report.hops))
    console.print(_freshness(report))
    for answer in report.answers:
        console.print(_answer(answer))
    console.print(_services(report))
    console.print(_doors(stack))


def _hops(hops: list[TableHops]) -> Table:
    names = list(dict.fromkeys(name for one in hops for name in one.rows))
    table = Table("hop", *(one.table for one in hops), title="Rows at every hop")
    for name in names:
        table.add_row(name.replace("_", " "), *(f"{one.rows[name]:,}" if name in one.rows else "" for one in hops))
    verdicts = ("[green]all agree[/]" if one.equal else "[red]disagree[/]" for one in hops)
    table.add_row("[bold]content[/]", *verdicts)
    return table


def _freshness(report: Report) -> Table:
    table = Table("lane", "p50", "p99", "changes", "", title="Freshness")
    for lane, samples in report.freshness.items():
        numbers = samples.summary()
        shown = ("-" if numbers[key] is None else f"{numbers[key]:,.0f} ms" for key in ("p50", "p99"))
        table.add_row(_LANES.get(lane, lane), *shown, str(numbers["samples"]), samples.histogram())
    return table


def _answer(answer: Answer) -> Group:
    table = Table(*answer.columns, title=f"{escape(answer.question)} ({answer.system})", title_justify="left")
    for row in answer.rows:
        table.add_row(*(escape(_cell(value)) for value in row))
    return Group(table, Text(answer.query + "\n", style="dim"))


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.2f}"
    return "" if value is None else str(value)


def _services(report: Report) -> Table:
    total = sum(state.rss_mb for state in report.services.values())
    table = Table("service", "healthy", "memory", "answer", title=f"Services, {total:,} MB resident")
    for name, state in report.services.items():
        mark = "[green]yes[/]" if state.healthy else "[red]no[/]"
        table.add_row(name, mark, f"{state.rss_mb:,} MB", escape(state.detail))
    return table


def _doors(stack: Stack) -> Table:
    table = Table("where to look", "address", "", title="Doors")
    for name, service, hint in _DOORS:
        if service in stack.services:
            table.add_row(name, stack.service(service).url, escape(hint.format(home=stack.home)))
    return table
