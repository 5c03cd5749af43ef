"""``rtlake airflow ...``: Airflow's own command line in the stack's environment."""

from __future__ import annotations

import os
import sys

import typer

from airflow_provider_rtlake.kit.airflow import airflow_env, command
from airflow_provider_rtlake.kit.stack import Stack

app = typer.Typer()


@app.command(
    help="Airflow's own command line, such as 'rtlake airflow dags list'.",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def airflow(context: typer.Context) -> None:
    """Replace this process by Airflow's."""
    stack = Stack.load()
    line = command(stack, context.args or ["--help"])
    sys.stdout.flush()
    os.execvpe(line[0], line, airflow_env(stack.home))  # noqa: S606  # a list, no shell
