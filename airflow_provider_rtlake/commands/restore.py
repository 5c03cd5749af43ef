"""`rtlake restore BACKUP`: onto an empty home."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from airflow_provider_rtlake.kit import backup, playbook, verbs
from airflow_provider_rtlake.kit.stack import default_home

app = typer.Typer(rich_markup_mode=None)


@app.command()
def restore(
    folder: Annotated[Path, typer.Argument(help="One backup: the folder that holds manifest.json.")],
    verify_only: Annotated[bool, typer.Option("--verify", help="Only read it and compare every sha256.")] = False,
) -> None:
    """Verify a backup, install, bring its data back and start everything. Refuses where there is data already."""
    started = time.monotonic()
    if verify_only:
        manifest = backup.verify(folder)
        typer.echo(f"{folder}: {len(manifest.files)} files as they were written at {manifest.made}")
        return
    home = default_home()
    manifest = backup.prepare(folder, home)
    plain = {k: v for k, v in manifest.settings.items() if k != "supervisor"}
    verbs.say("installing, without starting anything")
    playbook.run(home, verbs.project(), plain, manifest.supervisor, verbs.say, stages="install,configure")
    verbs.say("bringing data back")
    backup.unpack(folder, manifest, home, verbs.say)
    verbs.bring_up(home, plain, manifest.supervisor, converge=True)
    verbs.say(f"restored to {manifest.made} after {time.monotonic() - started:.0f} s")
