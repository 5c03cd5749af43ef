"""`rtlake generate`: input for the source database."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from airflow_provider_rtlake.demo import sales, taxi
from airflow_provider_rtlake.demo.access import Access
from airflow_provider_rtlake.exceptions import UserError
from airflow_provider_rtlake.kit.stack import Stack

app = typer.Typer(no_args_is_help=True, help="Input: sales with their changes, taxi trips.", rich_markup_mode=None)

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object.")]
Home = Annotated[Path | None, typer.Option("--home", help="The stack's folder; RTLAKE_HOME by default.")]
Seed = Annotated[int, typer.Option("--seed", help="Of the random sequence: the same seed, the same input.")]


def bar() -> Progress:
    """Progress on standard error, so that standard output holds the result alone."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )


@app.command("sales")
def generate_sales(
    rows: Annotated[int, typer.Option("--rows", min=0, help="Rows to insert first, by COPY.")] = 0,
    changes: Annotated[int | None, typer.Option("--changes", min=0, help="Committed changes.")] = None,
    duration: Annotated[float | None, typer.Option("--duration", min=0, help="Seconds.")] = None,
    rate: Annotated[float | None, typer.Option("--rate", help="Changes a second; as fast as possible without.")] = None,
    mix: Annotated[str, typer.Option("--mix", help="inserts:updates:deletes")] = "40:50:10",
    seed: Seed = 1,
    table: Annotated[str, typer.Option("--table", help="schema.table")] = sales.DEFAULT_TABLE,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Insert, update and delete sales: several rows a transaction, rollbacks, deleted keys that come back."""
    if not rows and changes is None and duration is None:
        raise UserError("say how much: --rows, --changes or --duration")
    proportions = sales.Mix.parse(mix)
    with Access(Stack.load(home)).source() as conn, bar() as progress:
        sales.create(conn, table)
        copied = 0
        if rows:
            found = sales.read(conn, table)
            maker = sales.Generator(found, seed=seed, start=found[-1][-1] if found else None)
            copied = sales.copy_in(conn, maker.fresh_rows(rows), table)
        result = sales.Result()
        if changes is not None or duration is not None:
            task = progress.add_task("changes", total=changes)
            result = sales.run(
                conn,
                changes=changes,
                duration=duration,
                rate=rate,
                mix=proportions,
                seed=seed,
                table=table,
                progress=lambda done: progress.update(task, completed=done),
            )
    summary = {
        "ok": True,
        "table": table,
        "rows": copied,
        "changes": result.changes,
        "inserts": result.committed["c"],
        "updates": result.committed["u"],
        "deletes": result.committed["d"],
        "transactions": result.transactions,
        "rolled_back": result.rolled_back,
        "seconds": round(result.seconds, 2),
    }
    _tell(summary, as_json)


@app.command("taxi")
def generate_taxi(
    source: Annotated[
        Path | None,
        typer.Option("--source", help=f"Parquet file or folder; else {taxi.DIRECTORY_VARIABLE}, else made up."),
    ] = None,
    rows: Annotated[int | None, typer.Option("--rows", min=0, help="How many; all of the files without.")] = None,
    corrections: Annotated[
        float, typer.Option("--corrections", min=0, max=1, help="Share of rows corrected afterwards.")
    ] = 0.0,
    seed: Seed = 1,
    table: Annotated[str, typer.Option("--table", help="schema.table")] = taxi.DEFAULT_TABLE,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Copy taxi trips into the table, and correct some of them."""
    files = taxi.find_files(source)
    if not files and rows is None:
        raise UserError("no files: name them with --source, or say with --rows how many trips to make up")
    trips = taxi.batches(files, rows) if files else iter([taxi.synthetic(rows or 0, seed)])
    with Access(Stack.load(home)).source() as conn, bar() as progress:
        taxi.create(conn, table)
        task = progress.add_task("trips", total=rows)
        copied = taxi.copy_in(conn, trips, table, lambda done: progress.update(task, completed=done))
        changed = taxi.correct(conn, share=corrections, seed=seed, table=table) if corrections else 0
    origin = f"{len(files)} file(s)" if files else "made up"
    _tell({"ok": True, "table": table, "rows": copied, "changes": changed, "origin": origin}, as_json)


def _tell(summary: dict[str, object], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(summary))
        return
    typer.echo(", ".join(f"{value} {name}" for name, value in summary.items() if name not in ("ok", "table")))
