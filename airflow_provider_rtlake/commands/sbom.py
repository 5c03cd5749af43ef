"""`rtlake sbom`"""

from __future__ import annotations

import typer

from airflow_provider_rtlake.kit import sbom as boms
from airflow_provider_rtlake.kit import verbs

app = typer.Typer(rich_markup_mode=None)


@app.command()
def sbom() -> None:
    """Write ansible/sbom.cdx.json (CycloneDX) from the locks; 'rtlake lock' does it too."""
    typer.echo(str(boms.write(verbs.project())))
