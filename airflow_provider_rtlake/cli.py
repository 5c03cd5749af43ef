"""The command line: ``rtlake up``, ``rtlake connectors plan``, ...

The kit's verbs are here; every other room brings ``commands/<name>.py`` with a Typer ``app``. Only the
room that is asked for is imported, so that a broken one leaves the others usable.
"""

from __future__ import annotations

import importlib
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from airflow_provider_rtlake import __version__
from airflow_provider_rtlake.exceptions import RtlakeError
from airflow_provider_rtlake.kit import exclusive, verbs
from airflow_provider_rtlake.kit.stack import default_home

# What must not run beside another of them; "up" and "demo" hold the installation while they start it.
_ALONE = ("backup", "destroy", "down", "remove", "restart", "restore", "rotate")

app = typer.Typer(
    name="rtlake",
    help="A real-time lakehouse on one machine: install, run, declare, check.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(verbs.up)
app.command()(verbs.down)
app.command()(verbs.status)
app.command()(verbs.logs)
app.command()(verbs.restart)
app.command()(verbs.doctor)
app.command()(verbs.destroy)
app.command()(verbs.lock)
app.command()(verbs.fetch)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def top(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version and leave.")
    ] = False,
) -> None:
    """A real-time lakehouse on one machine: install, run, declare, check."""
    if context.invoked_subcommand in _ALONE:
        context.with_resource(exclusive.alone(default_home()))


def rooms() -> dict[str, str]:
    """Module of each room's command."""
    folder = Path(__file__).parent / "commands"
    stems = sorted(p.stem for p in folder.glob("*.py") if not p.stem.startswith("_"))
    return {stem.replace("_", "-"): f"airflow_provider_rtlake.commands.{stem}" for stem in stems}


def mount(name: str, module: str) -> None:
    """Add a room's commands; one that does not import becomes a command that says so."""
    try:
        room: typer.Typer = importlib.import_module(module).app
    except Exception as error:
        reason, trace = f"{type(error).__name__}: {error}", traceback.format_exc()

        def broken() -> None:
            typer.echo(trace, err=True)
            raise RtlakeError(f"'rtlake {name}' cannot be loaded: {reason}")

        app.command(name, help=f"(cannot be loaded: {reason})")(broken)
        return
    single = len(room.registered_commands) == 1 and not room.registered_groups and room.registered_callback is None
    if single:  # the room is one command, not a group of one
        command = room.registered_commands[0]
        command.name = name
        app.registered_commands.append(command)
    else:
        app.add_typer(room, name=name)


def end_in_order() -> None:
    """Let SIGTERM and a lost terminal end us as an error does: what was stopped meanwhile is started again.

    A room that has handlers of its own sets them later.
    """
    numbers = (signal.SIGTERM, signal.SIGHUP)

    def end(number: int, _: FrameType | None) -> None:
        for one in numbers:  # a second one, such as the shell's after the terminal's, does not disturb the tidying
            signal.signal(one, lambda *_: None)
        sys.exit(128 + number)

    for number in numbers:
        if signal.getsignal(number) == signal.SIG_DFL:  # what nohup ignores stays ignored
            signal.signal(number, end)


def main() -> None:
    """Entry point: errors of ours become one message and exit code 1."""
    end_in_order()
    wanted = next((a for a in sys.argv[1:] if not a.startswith("-")), None)
    available = rooms()
    for name in [wanted] if wanted in available else [] if wanted else available:
        mount(str(name), available[str(name)])
    try:
        app(prog_name="rtlake")
    except RtlakeError as error:
        typer.echo(f"rtlake: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        typer.echo("rtlake: interrupted", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
