"""Runs the Ansible playbook, one line a play, and knows when nothing has changed since it last succeeded."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from airflow_provider_rtlake.exceptions import TerminalError
from airflow_provider_rtlake.kit import artifacts, settings

_PLAY = re.compile(r"^PLAY \[(?P<name>.*?)\]")
_RECAP = re.compile(r"changed=(?P<changed>\d+)")
_IGNORED = {"__pycache__", ".ansible", "target", "logs", "dbt_packages"}  # made by programs
# What the playbook copies for accounts that cannot read the checkout: rtlake_tree in roles/airflow, under systemd.
COPIED = ("airflow_provider_rtlake", "connectors", "dags", "dbt", "pinot_tables")
Say = Callable[[str], None]


class PlaybookFailed(TerminalError):
    """A task failed; the message is the task's own, and names the log."""


def inventory_for(kind: str) -> str:
    """The inventory of a kind of supervisor, relative to ``ansible/``."""
    return f"inventories/{'single' if kind == 'systemd' else 'local'}/hosts.yml"


def default_supervisor() -> str:
    """systemd where it runs and we are root, supervisord elsewhere."""
    return "systemd" if Path("/run/systemd/system").is_dir() and os.geteuid() == 0 else "supervisord"


def stamp(project: Path, variables: dict[str, Any], kind: str) -> str:
    """sha256 over all that decides what the playbook does: checkout, files, lock, inventory, variables.

    :param project: the checkout.
    :param variables: given by the user.
    :param kind: ``supervisord`` or ``systemd``.
    """
    digest = hashlib.sha256()
    folders = ["ansible", *(COPIED if kind == "systemd" else ())]
    for path in (found for folder in folders for found in sorted((project / folder).rglob("*"))):
        if path.is_file() and not _IGNORED & set(path.relative_to(project).parts):
            digest.update(str(path.relative_to(project)).encode() + b"\0" + path.read_bytes() + b"\0")
    digest.update((project / "requirements" / "lock.txt").read_bytes())
    digest.update(json.dumps([str(project), variables, kind, sys.prefix], sort_keys=True).encode())
    return digest.hexdigest()


def converged(home: Path, project: Path, variables: dict[str, Any], kind: str) -> bool:
    """Whether the playbook last succeeded with exactly this, and its files are still there.

    :param home: RTLAKE_HOME.
    """
    try:
        if _stamp_path(home).read_text() != stamp(project, variables, kind):
            return False
        stack = json.loads((home / "etc" / "stack.json").read_text())
    except (OSError, ValueError):
        return False
    lock = artifacts.load_lock(project / "ansible" / artifacts.LOCK_NAME)
    installed = [c for c in lock.values() if (home / "opt" / c.folder).exists()]
    present = all((home / "etc" / s["component"] / f"{n}.reads").exists() for n, s in stack["services"].items())
    return present and all(artifacts.is_installed(c, home / "opt") for c in installed)


def _stamp_path(home: Path) -> Path:
    return home / "run" / "converged"


def run(
    home: Path,
    project: Path,
    variables: dict[str, Any],
    kind: str,
    say: Say,
    *,
    check: bool = False,
    stages: str = "",
) -> int:
    """Run the playbook; returns how many tasks changed something.

    :param home: RTLAKE_HOME.
    :param project: the checkout.
    :param variables: given to the playbook on top of its own.
    :param kind: ``supervisord`` or ``systemd``.
    :param say: told one line a play.
    :param check: change nothing, only tell.
    :param stages: tags of the only stages to run, such as ``install,configure``; all if empty.
    :raises PlaybookFailed: with the failed task's message.
    """
    log = home / "log" / "ansible.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    (home / "run").mkdir(parents=True, exist_ok=True)
    wanted = stamp(project, variables, kind)
    given = home / "run" / "variables.json"
    settings.write_private(given, json.dumps(variables))  # one of them may be a key
    ansible = project / "ansible"
    command = [
        str(Path(sys.prefix, "bin", "ansible-playbook")),
        "-i",
        inventory_for(kind),
        "-e",
        f"@{given}",
        "site.yml",
    ]
    if check:
        command += ["--check", "--diff"]
    if stages:  # not --skip-tags: a role's include has the tags of all its stages, and any of them leaves it out
        command += ["--tags", stages]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ansible / "ansible.cfg"), "ANSIBLE_FORCE_COLOR": "0"}
    environment["ANSIBLE_HOME"] = str(home / "run" / "ansible")
    environment["PATH"] = f"{Path(sys.prefix, 'bin')}{os.pathsep}{os.environ.get('PATH', '')}"
    with (
        log.open("w") as out,
        subprocess.Popen(
            command, cwd=ansible, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process,
    ):
        reader = _Reader(say)
        try:
            for line in process.stdout or ():
                out.write(line)
                reader.read(line.rstrip("\n"))
        except BaseException:  # such as a signal: it would go on to its end, unheard
            process.terminate()
            raise
        code = process.wait()
    reader.close()
    if code != 0:
        raise PlaybookFailed(f"{reader.failure.strip() or 'the playbook failed'}\n(the whole run: {log})")
    if not check and not stages:
        _stamp_path(home).write_text(wanted)
    return reader.changed


class _Reader:
    """Reads the playbook's output: a line a play, the text of a failure, the number of changes."""

    def __init__(self, say: Say) -> None:
        self.say = say
        self.failure = ""
        self.changed = 0
        self._play = ""
        self._started = time.monotonic()
        self._tasks = 0
        self._failing = False

    def read(self, line: str) -> None:
        play = _PLAY.match(line)
        if play or line.startswith("PLAY RECAP"):
            self.close()
            self._play = play["name"] if play else ""
            self._started, self._tasks = time.monotonic(), 0
        self._tasks += line.startswith(("ok:", "changed:"))
        if line.startswith(("[ERROR]", "ERROR!")):
            self._failing = True
        elif line.startswith(("fatal:", "failed:")):  # Ansible 2.19 says it twice
            self._failing = not self.failure
        elif line.startswith(("PLAY", "TASK", "ok:", "changed:", "Origin:")):
            self._failing = False
        if self._failing:
            self.failure += line + "\n"
        recap = _RECAP.search(line) if line.startswith("localhost") else None
        if recap:
            self.changed += int(recap["changed"])

    def close(self) -> None:
        """End of a play."""
        if self._play and self._tasks:
            self.say(f"{self._play} ({time.monotonic() - self._started:.1f} s)")
        self._play = ""
