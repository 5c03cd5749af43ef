"""`rtlake backup FOLDER`: everything that cannot be made again, in one consistent state."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from airflow_provider_rtlake.exceptions import UserError
from airflow_provider_rtlake.kit import backup as backups
from airflow_provider_rtlake.kit import supervise, verbs
from airflow_provider_rtlake.kit.stack import Stack

app = typer.Typer(rich_markup_mode=None)


def _named(folder: str) -> Path:
    """What a variable that nobody set becomes is not the current folder."""
    if not folder:
        raise UserError("the folder's name is empty: say where backups lie, such as /srv/backups")
    return Path(folder)


@app.command()
def backup(
    folder: Annotated[Path, typer.Argument(help="Where backups lie, outside RTLAKE_HOME.", parser=_named)],
    keep: Annotated[int, typer.Option(help="How many backups stay in the folder; older ones are deleted.", min=0)] = 0,
) -> None:
    """Back up data, positions and secrets. The lanes pause meanwhile; PostgreSQL stays writable."""
    started = time.monotonic()
    stack = Stack.load()
    verbs.say("pausing all but PostgreSQL")
    target = backups.back_up(stack, folder, verbs.say, _pause, _resume)
    backups.verify(target)
    verbs.say(f"backup verified after {time.monotonic() - started:.0f} s")
    for old in backups.older(folder, keep):
        verbs.say(f"removing {old}")
        backups.discard(old)
    typer.echo(str(target))


def _pause(stack: Stack) -> None:
    verbs.stop_services(stack, [n for n in stack.services if n != "postgresql"])


def _resume(stack: Stack) -> None:
    keeper = supervise.supervisor_of(stack.home, stack.supervisor)
    keeper.start([n for n in stack.services if not keeper.pid(n)])
