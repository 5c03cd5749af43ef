"""`rtlake rotate SECRET`"""

from __future__ import annotations

from typing import Annotated

import typer

from airflow_provider_rtlake.kit import rotate as rotating
from airflow_provider_rtlake.kit import settings, verbs
from airflow_provider_rtlake.kit.stack import Stack

app = typer.Typer(rich_markup_mode=None)


@app.command()
def rotate(name: Annotated[str, typer.Argument(help="Name below RTLAKE_HOME/secrets, or 'all'.")]) -> None:
    """Make a secret anew, store it wherever it is used, restart what reads it. No data is lost."""
    stack = Stack.load()

    def converge() -> None:
        verbs.bring_up(stack.home, settings.load(stack.home), stack.supervisor, converge=True)

    chosen = [name]
    if name == "all":
        kept = rotating.kept(stack)
        chosen = [secret for secret in rotating.names(stack) if secret not in kept]
        for secret, reason in kept.items():
            verbs.say(f"not rotated: {secret}: {reason}")
    rotating.rotate(stack, chosen, converge)
    if "debezium" in chosen and "connect" in stack.services:
        verbs.restart("connect")  # a connector reads its secret only when it starts
    verbs.say(f"rotated: {', '.join(chosen)}")
