"""`rtlake test`: static checks, unit tests, then the real stack."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from airflow_provider_rtlake.exceptions import UserError
from airflow_provider_rtlake.kit import verbs

app = typer.Typer(rich_markup_mode=None)

# Folder below the project, for tools that look for their settings there, and Python's arguments.
_STATIC: dict[str, tuple[str, list[str]]] = {
    "ruff": (".", ["-m", "ruff", "check", "."]),
    "mypy": (".", ["-m", "mypy"]),
    "ansible-lint": ("ansible", ["-m", "ansiblelint", "--offline", "-q"]),
}
# One pytest session for all of a choice: its last line tells of everything that ran.
_FOLDERS: dict[str, list[str]] = {
    "unit": ["tests/unit"],
    "integration": ["tests/integration"],
    "dags": ["tests/system"],
    "system": ["tests/system_node"],
    "histories": ["tests/integration/test_scd2_histories.py"],
    "all": ["tests/unit", "tests/integration", "tests/system", "tests/system_node"],
}
_WITH_STATIC = ("unit", "all")
_WHAT_HELP = (
    "unit (no server), integration, dags, system (a fresh node, where one can be booted), histories (10,000 random "
    "ones) or all but the last; then pytest's arguments."
)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def test(context: typer.Context, what: Annotated[str, typer.Argument(help=_WHAT_HELP)] = "all") -> None:
    """Static checks and unit tests; then integration tests and DAGs on a stack that the tests start.

    Their stack lives in RTLAKE_TEST_HOME, on ports of its own; RTLAKE_TEST_STACK names a running one instead.

    'system' boots a fresh Debian 12 beside this one (systemd-nspawn, as root) and runs the playbook there as a user
    would: RTLAKE_TEST_NODE names the components (or all), RTLAKE_TEST_NODE_SUITE=jammy takes Ubuntu 22.04.
    """
    arguments = list(context.args)
    if what.startswith("-"):
        what, arguments = "all", [what, *arguments]
    if what not in _FOLDERS:
        raise UserError(f"rtlake test {what}: choose one of {', '.join(_FOLDERS)}")
    static = _STATIC if what in _WITH_STATIC else {}
    failed = [name for name, (folder, command) in static.items() if not _passes(name, folder, command)]
    if failed and what == "all":
        verbs.say(f"{' and '.join(failed)} failed: only the unit tests follow, no stack is started")
        what = "unit"
    chosen = any("::" in one or one.startswith("tests/") for one in arguments)
    folders = [] if chosen else _FOLDERS[what]
    # Nothing is printed after this: pytest's closing line is the last one.
    code = _run(["-m", "pytest", "--durations=15", "--durations-min=1.0", *folders, *arguments])
    if failed or code:
        raise typer.Exit(code or 1)


def _passes(name: str, folder: str, command: list[str]) -> bool:
    begin = time.monotonic()
    code = _run(command, folder)
    verbs.say(f"{name} {'failed' if code else 'passed'} after {time.monotonic() - begin:.0f} s")
    return code == 0


def _run(command: list[str], folder: str = ".") -> int:
    """Run a Python module in a folder of the project; its output goes to ours."""
    tools = str(Path(sys.executable).parent)  # ansible-lint starts Ansible by name
    path = os.pathsep.join([tools, os.environ.get("PATH", os.defpath)])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(verbs.project())}
    if _FOLDERS["histories"][0] in command:
        environment.setdefault("RTLAKE_TEST_HISTORIES", "10000")
    done = subprocess.run([sys.executable, *command], cwd=verbs.project() / folder, env=environment, check=False)
    return done.returncode
