"""`rtlake backup FOLDER`: everything that cannot be made again, in one consistent state."""

from __future__ import annotations

import os
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
    pause = Pause(stack)
    target = backups.back_up(stack, folder, verbs.say, pause.begin, pause.end)
    backups.verify(target)
    verbs.say(f"backup verified after {time.monotonic() - started:.0f} s")
    for old in backups.older(folder, keep):
        verbs.say(f"removing {old}")
        backups.discard(old)
    typer.echo(str(target))


class Pause:
    """Stops all that runs but PostgreSQL, and starts just that again.

    Under the timer's unit a note says what was stopped, so that the unit can start it where we were killed.
    """

    def __init__(self, stack: Stack) -> None:
        self.stack, self.keeper = stack, supervise.supervisor_of(stack.home, stack.supervisor)
        self.stopped: list[str] = []
        folder = os.environ.get("RUNTIME_DIRECTORY")
        self.note = Path(folder, "paused") if folder else None

    def begin(self) -> None:
        """Stop."""
        self.stopped = self.keeper.active([name for name in self.stack.services if name != "postgresql"])
        if self.note:
            self.note.write_text("".join(f"rtlake-{name}.service\n" for name in self.stopped))
        verbs.stop_services(self.stack, self.stopped)

    def end(self) -> None:
        """Start."""
        self.keeper.resume(self.stopped)
        if self.note:
            self.note.unlink(missing_ok=True)
