"""`rtlake report`: what the benchmark runs have shown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from airflow_provider_rtlake.exceptions import UserError

app = typer.Typer(rich_markup_mode=None)


@app.command()
def report(
    records: Annotated[
        list[Path] | None, typer.Argument(help="Folders of records; the benchmark's own by default.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the report; by default that of the records.")
    ] = None,
) -> None:
    """Write the report of all runs: one HTML page with plots, and Markdown."""
    from airflow_provider_rtlake.bench import drive
    from airflow_provider_rtlake.bench.record import load_all
    from airflow_provider_rtlake.bench.report import write

    folders = records or [drive.results_folder()]
    missing = [str(folder) for folder in folders if not folder.is_dir()]
    if missing:
        raise UserError(f"{missing[0]}: no such folder")
    found = list(load_all(folders))
    if not found:
        raise UserError(f"no records in {', '.join(map(str, folders))}; make some with 'rtlake bench run p00'")
    for path in write(found, out or folders[0]):
        typer.echo(path)
