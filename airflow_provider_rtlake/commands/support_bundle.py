"""`rtlake support-bundle`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from airflow_provider_rtlake.kit import bundle, verbs
from airflow_provider_rtlake.kit.stack import Stack

app = typer.Typer(rich_markup_mode=None)


@app.command("support-bundle")
def support_bundle(
    folder: Annotated[Path, typer.Argument(help="Where to write it.")] = Path(),
) -> None:
    """Collect settings, logs, answers and the doctor's findings in one archive, without any secret."""
    typer.echo(str(bundle.write(Stack.load(), verbs.project(), folder)))
