"""Finds what is broken and says what to do about it."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil

from airflow_provider_rtlake.exceptions import RtlakeError
from airflow_provider_rtlake.kit import artifacts, health, preflight, supervise
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
    findings += _secrets(stack)
    findings += _services(stack)
    return findings


def _java() -> Finding:
    java = preflight.find_java17()
    return Finding(
        "Java 17", java is not None, str(java or "not found"), "apt-get install openjdk-17-jre-headless"
    )


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


def _secrets(stack: Stack) -> Iterator[Finding]:
    names = {c.secret for c in stack.connections.values() if c.secret}
    folder = stack.home / "secrets"
    missing = sorted(n for n in names if not (folder / n).exists())
    open_ = sorted(p.name for p in folder.glob("*") if p.stat().st_mode & 0o077)
    yield Finding(
        "secrets",
        not missing,
        f"missing: {', '.join(missing)}" if missing else "all there",
        "./rtlake up --converge",
    )
    if open_:
        yield Finding("secrets", False, f"readable by others: {', '.join(open_)}", f"chmod 600 {folder}/*")


def _services(stack: Stack) -> Iterator[Finding]:
    keeper = supervise.supervisor_of(stack.home, stack.supervisor)
    if isinstance(keeper, supervise.Supervisord) and not keeper.alive():
        yield Finding("supervisord", False, "does not run", "./rtlake up")
    ports = {s.name: s.port for s in stack.services.values()}
    for problem in preflight.ports_taken(ports, lambda pid: preflight.is_ours(pid, stack.home)):
        yield Finding("ports", False, problem, "")
    for name, answer in health.check_all(stack, memory=False).items():
        service = stack.services[name]
        remedy = ""
        if not answer.healthy:
            end = " | ".join(health.tail(service.log, 3))
            what = "restart" if keeper.pid(name) else "up"
            remedy = f"./rtlake {'restart ' + name if what == 'restart' else 'up'}; {service.log} ends: {end}"
        stale = supervise.is_stale(stack.home, service.component, name)
        yield Finding(name, answer.healthy, answer.detail, remedy)
        if stale and keeper.pid(name):
            yield Finding(name, False, "its files changed since it was started", "./rtlake up --converge")
