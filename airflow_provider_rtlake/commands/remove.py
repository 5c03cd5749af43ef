"""`rtlake remove COMPONENT…`"""

from __future__ import annotations

from typing import Annotated

import typer

from airflow_provider_rtlake.exceptions import UserError
from airflow_provider_rtlake.kit import remove as removing
from airflow_provider_rtlake.kit import settings, verbs
from airflow_provider_rtlake.kit.artifacts import LOCK_NAME
from airflow_provider_rtlake.kit.stack import Stack

app = typer.Typer(rich_markup_mode=None)


@app.command()
def remove(
    components: Annotated[
        list[str], typer.Argument(help="As in 'up --only'; or monitoring, kafka_ui, grafana, superset.")
    ],
) -> None:
    """Take components away: services, settings, software, logs.

    Their data stays; 'up --all' (or --monitoring, or --set superset_enabled=true) brings them back.
    """
    stack = Stack.load()
    components = removing.as_components(stack, components)
    if set(components) >= set(stack.components):
        raise UserError("that is everything: use 'rtlake destroy'")
    kept = removing.remove_components(stack, components, verbs.project() / "ansible" / LOCK_NAME)
    variables = settings.load(stack.home)
    variables["rtlake_components"] = [c for c in stack.components if c not in components]
    variables |= {variable: False for name, variable in settings.SWITCHES.items() if name in components}
    if settings.remembered(stack.home):
        settings.save(stack.home, variables)
    for path in kept:
        typer.echo(f"kept: {path}")
    verbs.bring_up(stack.home, variables, stack.supervisor)
