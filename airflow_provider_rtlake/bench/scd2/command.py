"""`rtlake bench scd2`: the merge beside other ways to the same table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from airflow_provider_rtlake.bench.scd2.drive import Found

_SIDES = "warm,cold,straightforward,pyiceberg,dbt,dbt_spark"


def scd2(
    changes: Annotated[int, typer.Option("--changes", min=10, help="Changes of a batch.")] = 10_000,
    keys: Annotated[int, typer.Option("--keys", min=10, help="Rows of the table.")] = 1_000_000,
    runs: Annotated[int, typer.Option("--runs", min=1, help="Of each side, one after another in turn.")] = 5,
    sides: Annotated[str, typer.Option("--sides", help="Which, with commas; warm is always among them.")] = _SIDES,
    batches: Annotated[
        int, typer.Option("--batches", min=0, help="Merges in all of the warm side: whether they stay as quick.")
    ] = 0,
    slope_keys: Annotated[
        int, typer.Option("--slope-keys", min=0, help="The same batches on a table of so many rows, too.")
    ] = 0,
    seed: Annotated[int, typer.Option("--seed", help="Of the workload.")] = 1,
    results: Annotated[Path | None, typer.Option("--results", help="Folder for the record and its plot.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Measure the SCD2 merge beside a plain Spark job, PyIceberg's upsert and dbt snapshot, on a running stack.

    All sides get the same batches, in turn; the histories are compared at the end. docs/benchmarks/scd2.md says what
    is measured and how the sides are made.
    """
    from airflow_provider_rtlake.bench.scd2.drive import Bench, Wish, stamp
    from airflow_provider_rtlake.bench.scd2.plot import write_plot
    from airflow_provider_rtlake.kit.stack import Stack

    told = Console(stderr=True, highlight=False)
    chosen = tuple(side.strip() for side in sides.split(",") if side.strip())
    wish = Wish(changes, keys, runs, chosen, batches, slope_keys, seed)
    name = f"scd2-{stamp()}-{changes}-of-{keys}"

    def keep(found: Found) -> None:
        if results is not None:
            results.mkdir(parents=True, exist_ok=True)
            (results / f"{name}.json").write_text(json.dumps(found.as_dict(), indent=1) + "\n", encoding="utf-8")
            write_plot(found, results / f"{name}.html")
            told.print(f"record: {results / name}.json and .html", markup=False)

    found = Bench(Stack.load(), wish, lambda text: told.print(text, markup=False), keep).run()
    answer = found.as_dict()
    told.print(_table(found))
    if as_json:
        typer.echo(json.dumps(answer))


def _table(found: Found) -> Table:
    wish = found.wish
    table = Table("", "median s", "least", "most", "peak MB", title=f"{wish.changes:,} changes on {wish.keys:,} keys")
    for name, timed in found.sides.items():
        if timed.seconds:
            shown = f"{found.median(name):.2f}", f"{min(timed.seconds):.2f}", f"{max(timed.seconds):.2f}"
            table.add_row(name, *shown, str(timed.memory.peak_mb))
    for name, goal in found.goals().items():
        table.add_row(name, str(goal["found"]), goal["aim"], "met" if goal["met"] else "NOT met", "")
    return table
