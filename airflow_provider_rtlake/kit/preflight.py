"""Checks a machine before anything is changed on it."""

from __future__ import annotations

import dataclasses
import getpass
import grp
import ipaddress
import os
import platform
import shutil
import socket
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from airflow_provider_rtlake.exceptions import UserError
from airflow_provider_rtlake.kit import exclusive, supervise
from airflow_provider_rtlake.kit.stack import Stack

_SOCKET_PATH_LIMIT = 100  # bytes; Linux allows 107
_LOOPBACK = "127.0.0.1"
SUPPORTED = ("debian-12", "ubuntu-22.04")  # as in roles/common/vars


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What the machine must offer.

    :param home: RTLAKE_HOME.
    :param supervisor: ``supervisord`` or ``systemd``.
    :param ports: port of each thing that listens.
    :param memory_mb: MB of resident memory that the services need.
    :param disk_mb: MB that a first installation needs.
    :param listen: address on which the services will listen.
    :param any_system: whether a release that was never tried is no problem.
    """

    home: Path
    supervisor: str
    ports: Mapping[str, int]
    memory_mb: int
    disk_mb: int
    listen: str = _LOOPBACK
    any_system: bool = False


def check(wanted: Wanted) -> tuple[dict[str, Any], list[str]]:
    """Look at everything and report all problems at once.

    :returns: facts for the roles (user, group, root, java17, distribution), and the problems.
    """
    java = find_java17()
    release = distribution()
    problems = [
        *_busy(wanted.home),
        *_platform(release, wanted),
        *_python(sys.version_info[:2]),
        *_listen(wanted.listen),
        *_rights(wanted),
        *_memory(wanted),
        *_disk(wanted),
        *_home(wanted),
        *_units(wanted),
        *ports_taken(wanted.ports, lambda pid: is_ours(pid, wanted.home)),
    ]
    if java is None:
        problems.append("Java 17 not found; apt-get install openjdk-17-jre-headless, or set RTLAKE_JAVA_HOME")
    facts = {
        "user": getpass.getuser(),
        "group": grp.getgrgid(os.getegid()).gr_name,
        "root": os.geteuid() == 0,
        "java17": str(java or ""),
        "distribution": release if release in SUPPORTED else SUPPORTED[0],
    }
    return facts, problems


def _busy(home: Path) -> list[str]:
    try:
        with exclusive.alone(home):
            return []
    except UserError as error:
        return [str(error)]


def find_java17() -> Path | None:
    """Home of a Java 17, from RTLAKE_JAVA_HOME or where Debian and Ubuntu put it."""
    named = os.environ.get("RTLAKE_JAVA_HOME")
    candidates = [Path(named)] if named else []
    candidates += sorted(Path("/usr/lib/jvm").glob("*17*"))
    for home in candidates:
        if (home / "bin" / "java").exists():
            return home.resolve()
    return None


def distribution(path: Path = Path("/etc/os-release")) -> str:
    """Distribution and release, such as ``debian-12``.

    :param path: what says so.
    """
    if not path.exists():
        return "unknown"
    pairs = (line.partition("=") for line in path.read_text().splitlines())
    words = {key: value.strip("\"'") for key, _, value in pairs}
    return f"{words.get('ID', 'unknown')}-{words.get('VERSION_ID', '')}"


def _platform(release: str, wanted: Wanted) -> list[str]:
    problems = []
    if platform.machine() not in ("x86_64", "amd64"):
        problems.append(f"this is {platform.machine()}: PostgreSQL and Java 25 are locked for x86_64")
    # Under supervisord nothing comes from the distribution but Python and Java, which are looked at by themselves.
    if release not in SUPPORTED and wanted.supervisor == "systemd" and not wanted.any_system:
        problems.append(
            f"this is {release}: only {' and '.join(SUPPORTED)} are supported; "
            "to try all the same, set rtlake_any_system: true"
        )
    return problems


def _python(version: tuple[int, ...]) -> list[str]:
    if not (3, 10) <= version < (3, 13):
        return [f"Python {version[0]}.{version[1]}: 3.10, 3.11 or 3.12 is needed; apt-get install python3 python3-venv"]
    return []


def _listen(address: str) -> list[str]:
    if address == _LOOPBACK:
        return []
    try:
        loopback = ipaddress.ip_address(address).is_loopback
    except ValueError:
        loopback = True  # a name, or nothing
    if loopback:  # URLs without brackets, PostgreSQL's logins, the kit's own probes
        return [f"rtlake_listen is {address!r}: it must be {_LOOPBACK}, which is all that works"]
    return [
        f"rtlake_listen is {address}: the services would be open to the network without TLS and login, which this "
        f"version cannot set up. Leave {_LOOPBACK} and put a proxy with TLS and a login in front"
    ]


def _rights(wanted: Wanted) -> list[str]:
    if wanted.supervisor == "systemd" and os.geteuid() != 0:
        return ["services under systemd need root; run as root, or use the local inventory"]
    return []


def _memory(wanted: Wanted) -> list[str]:
    total = psutil.virtual_memory().total / 2**20
    if total < wanted.memory_mb * 1.1:
        return [
            f"{total:.0f} MB of memory, {wanted.memory_mb * 1.1:.0f} MB needed; choose fewer components with "
            "'rtlake up --only', or lower their memory settings"
        ]
    return []


def _disk(wanted: Wanted) -> list[str]:
    if (wanted.home / "etc" / "stack.json").exists():
        return []  # installed already
    there = wanted.home
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free / 2**20
    if free < wanted.disk_mb:
        return [f"{free:.0f} MB free at {there}, {wanted.disk_mb} MB needed; set RTLAKE_HOME to a larger disk"]
    return []


def _home(wanted: Wanted) -> list[str]:
    problems = []
    if len(str(wanted.home / "run" / "supervisor.sock")) > _SOCKET_PATH_LIMIT:
        problems.append(f"{wanted.home} is too long a path for a socket in it; choose a shorter RTLAKE_HOME")
    if os.geteuid() == 0:  # some services run under other users, who must come through
        reached = [wanted.home]
        if wanted.supervisor == "systemd":  # all of them, with this Python; of the project they read a copy
            reached.append(Path(sys.base_prefix))
        problems += _closed(reached)
    return problems


def _units(wanted: Wanted) -> list[str]:
    if wanted.supervisor != "systemd":
        return []
    return [
        f"the units rtlake-* of this machine run {home}: systemd can have one stack. Take that one away "
        f"(RTLAKE_HOME={home} ./rtlake destroy), or put this one under supervisord "
        "('rtlake up --supervisor supervisord --port-offset N')"
        for home in sorted({*supervise.homes_of_units().values()} - {wanted.home})
    ]


def _closed(paths: Sequence[Path]) -> list[str]:
    folders = {p for path in paths for p in (path, *path.parents) if p.exists()}
    closed = sorted(p for p in folders if not p.stat().st_mode & 0o001)
    return [
        f"{p} cannot be entered by other users, under whom services run; chmod o+x it, or use another place"
        for p in closed
    ]


def ports_taken(ports: Mapping[str, int], ours: Callable[[int], bool]) -> list[str]:
    """Ports on which somebody else listens.

    :param ports: port of each thing that will listen.
    :param ours: whether a process belongs to this installation.
    """
    taken = [(name, port) for name, port in ports.items() if not _free(port)]
    if not taken:
        return []
    listeners: dict[int, int | None] = {
        c.laddr.port: c.pid for c in psutil.net_connections(kind="tcp") if c.status == psutil.CONN_LISTEN
    }
    problems = []
    for name, port in taken:
        pid = listeners.get(port)
        if pid is None or not ours(pid):
            who = f"process {pid} ({_process_name(pid)})" if pid else "another user's process"
            problems.append(
                f"port {port} ({name}) is taken by {who}; stop it, or move all ports with 'rtlake up --port-offset N'"
            )
    return problems


def services_ports_taken(stack: Stack, names: Iterable[str]) -> list[str]:
    """Ports of installed services on which somebody else listens.

    :param stack: the installed stack.
    :param names: of the services.
    """
    ports = {name: stack.services[name].port for name in names}
    return ports_taken(ports, lambda pid: is_ours(pid, stack.home))


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_LOOPBACK, port))
        except OSError:
            return False
    return True


def _process_name(pid: int) -> str:
    try:
        return str(psutil.Process(pid).name())
    except psutil.Error:
        return "gone"


def is_ours(pid: int, home: Path) -> bool:
    """Whether a process was started by this installation: below its supervisord or in its folders.

    :param home: RTLAKE_HOME.
    """
    try:
        process = psutil.Process(pid)
        family = [process, *process.parents()]
        return any(f"{home}/" in " ".join(p.cmdline()) or _works_in(p, home) for p in family)
    except psutil.Error:
        return False


def _works_in(process: psutil.Process, home: Path) -> bool:
    try:
        return Path(process.cwd()).is_relative_to(home / "var")
    except psutil.Error:
        return False
