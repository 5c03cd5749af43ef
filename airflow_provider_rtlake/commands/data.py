"""`rtlake data`: the Commission's monthly files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from airflow_provider_rtlake.exceptions import RtlakeError

app = typer.Typer(rich_markup_mode=None)


@app.command()
def data(
    months: Annotated[list[str], typer.Argument(help="YYYY-MM, several, or a range: 2024-01..2024-03.")],
    folder: Annotated[
        Path | None, typer.Option("--to", help="Folder; RTLAKE_TLC_DIR, or data/tlc of RTLAKE_HOME, by default.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Fetch official yellow taxi months, where the internet is reachable. What is there is not fetched again."""
    from airflow_provider_rtlake.bench import fetch

    target = folder or fetch.default_folder()
    try:
        files = fetch.fetch(fetch.months(months), target, lambda text: typer.echo(text, err=True))
    except RtlakeError as error:
        if as_json:
            typer.echo(json.dumps({"ok": False, "error": str(error)}))
        raise
    if as_json:
        typer.echo(json.dumps({"ok": True, "folder": str(target), "files": [path.name for path in files]}))
    else:
        typer.echo(f"{len(files)} files in {target}; use them with --source {target}")
