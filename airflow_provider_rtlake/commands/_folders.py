"""Where commands find the declarations: in the project, whatever folder they are called from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from airflow_provider_rtlake.kit.verbs import project

CONNECTORS = project() / "connectors"
TABLES = project() / "pinot_tables"
ConnectorsDir = Annotated[Path, typer.Option("--connectors", help="Folder of the connectors' declarations.")]
TablesDir = Annotated[Path, typer.Option("--tables", help="Folder of the Pinot declarations.")]
