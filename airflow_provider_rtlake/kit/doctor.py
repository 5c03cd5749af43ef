"""Finds what is broken and says what to do about it."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil
import yaml

from airflow_provider_rtlake.exceptions import RtlakeError
from airflow_provider_rtlake.kit import artifacts, health, inspect, order, preflight, supervise
from airflow_provider_rtlake.kit.stack import Stack

_LOW_DISK_MB = 2000
_LOW_MEMORY_MB = 500


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing looked at.

    :param remedy: what to do where it is not ok.
    """

    what: str
    ok: bool
    detail: str
    remedy: str = ""


def examine(home: Path, project: Path) -> list[Finding]:
    """Look at everything, from the ground up.

    :param home: RTLAKE_HOME.
    :param project: the checkout.
    """
    findings = [_java(), _disk(home), _memory(), _lock(home, project)]
    try:
        stack = Stack.load(home)
    except RtlakeError as error:
        return [*findings, Finding("installation", False, str(error), "./rtlake up")]
    findings += _secrets(stack, project)
    findings += _services(stack)
    return findings


def _java() -> Finding:
    java = preflight.find_java17()
    return Finding("Java 17", java is not None, str(java or "not found"), "apt-get install openjdk-17-jre-headless")


def _disk(home: Path) -> Finding:
    there = home
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free // 2**20
    return Finding(
        "disk",
        free > _LOW_DISK_MB,
        f"{free} MB free at {there}",
        "free some space: services stop working on a full disk",
    )


def _memory() -> Finding:
    free = psutil.virtual_memory().available // 2**20
    return Finding(
        "memory",
        free > _LOW_MEMORY_MB,
        f"{free} MB available",
        "stop something, or run fewer components: rtlake up --without …",
    )


def _lock(home: Path, project: Path) -> Finding:
    try:
        locked = artifacts.load_lock(project / "ansible" / artifacts.LOCK_NAME)
    except RtlakeError as error:
        return Finding("artifact lock", False, str(error), "git checkout ansible/artifacts.lock.json")
    there = [c for c in locked.values() if (home / "opt" / c.folder).exists()]
    bad = [c.folder for c in there if not artifacts.is_installed(c, home / "opt")]
    detail = f"damaged or of another lock: {', '.join(bad)}" if bad else f"{len(there)} components as locked"
    return Finding("software", not bad, detail, "./rtlake up --converge")


def _secrets(stack: Stack, project: Path) -> Iterator[Finding]:
    variables = yaml.safe_load((project / "ansible" / "group_vars" / "all" / "secrets.yml").read_text())
    names = variables["rtlake_secret_names"]  # the playbook makes all of them, whatever is installed
    folder = stack.home / "secrets"
    missing = sorted(n for n in names if not (folder / n).exists())
    open_ = sorted(p.name for p in folder.glob("*") if p.stat().st_mode & 0o077)
    yield Finding(
        "secrets",
        not missing,
        f"missing: {', '.join(missing)}" if missing else "all there",
        "./rtlake up --converge (makes new ones and stores them wherever they are used; postgres, airflow_fernet, "
        "superset_key: take them from a backup)",
    )
    if open_:
        yield Finding("secrets", False, f"readable by others: {', '.join(open_)}", f"chmod 600 {folder}/*")


def _services(stack: Stack) -> Iterator[Finding]:
    keeper = supervise.supervisor_of(stack.home, stack.supervisor)
    if isinstance(keeper, supervise.Supervisord) and not keeper.alive():
        yield Finding("supervisord", False, "does not run", "./rtlake up")
    for problem in preflight.services_ports_taken(stack, stack.services):
        yield Finding("ports", False, problem, "stop it, then ./rtlake up")
    answers = health.check_all(stack, memory=False)
    ill = {name for name, answer in answers.items() if not answer.healthy}
    for name, answer in answers.items():
        yield Finding(name, answer.healthy, answer.detail, _remedy(stack, keeper, name, ill) if name in ill else "")
        if supervise.is_stale(stack.home, stack.services[name].component, name) and keeper.pid(name):
            yield Finding(name, False, "its files changed since it was started", "./rtlake up --converge")
        for what, detail, remedy in () if name in ill else inspect.problems(stack, name):
            yield Finding(what, False, detail, remedy)
    disabled = keeper.disabled(list(stack.services))
    if disabled:
        yield Finding("boot", False, f"would not come back: {', '.join(disabled)}", "./rtlake up --converge")


def _remedy(stack: Stack, keeper: supervise.Supervisor, name: str, ill: set[str]) -> str:
    """What to do about a service that does not answer: first mend what it needs."""
    needed = [other for other, users in order.STOPS_AFTER.items() if name in users and other in ill]
    if needed:
        return f"it needs {', '.join(needed)}: mend that first"
    verb = f"restart {name}" if keeper.pid(name) else "up"
    return f"./rtlake {verb}; its log ends: {' | '.join(health.last_lines(stack, name, 3))}"
