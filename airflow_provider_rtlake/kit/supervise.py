"""Starts, stops and watches services, under supervisord (its XML-RPC socket) or systemd (systemctl)."""

from __future__ import annotations

import hashlib
import http.client
import re
import socket
import subprocess
import sys
import time
import xmlrpc.client
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil

from airflow_provider_rtlake.exceptions import TerminalError, WaitTimeout

_ORPHAN_SECONDS = 30.0  # for what a killed supervisord left behind to end
UNITS = Path("/etc/systemd/system")
_START = re.compile(r"^ExecStart=(?P<home>/.+)/etc/[^/]+/[^/]+\.sh$", re.MULTILINE)
_START_SECONDS = 20.0  # for supervisord itself to answer


class SupervisorError(TerminalError):
    """supervisord or systemctl refused."""


class Supervisor(ABC):
    """Who keeps the services running."""

    @abstractmethod
    def pid(self, name: str) -> int | None:
        """Process id of a running service, or None."""

    def disabled(self, names: Sequence[str]) -> list[str]:
        """Services that would not come back after a reboot."""
        return []

    @abstractmethod
    def start(self, names: Sequence[str]) -> None:
        """Start without waiting for readiness."""

    def active(self, names: Sequence[str]) -> list[str]:
        """Which of these run, or are about to."""
        return [name for name in names if self.pid(name)]

    def resume(self, names: Sequence[str]) -> None:
        """Start what was stopped for a while."""
        self.start(names)

    @abstractmethod
    def stop(self, names: Sequence[str]) -> None:
        """Stop side by side; returns when all have ended."""

    @abstractmethod
    def refresh(self) -> None:
        """Read changed definitions."""


class Supervisord(Supervisor):
    """supervisord in RTLAKE_HOME.

    :param home: RTLAKE_HOME.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.socket = home / "run" / "supervisor.sock"

    @property
    def rpc(self) -> Any:
        """The XML-RPC interface; a new connection each time, because they are not shared between threads."""
        proxy = xmlrpc.client.ServerProxy("http://localhost", transport=_UnixTransport(str(self.socket)))
        return proxy.supervisor

    def alive(self) -> bool:
        """Whether supervisord answers."""
        try:
            return bool(self.rpc.getState()["statecode"] == 1)
        except (OSError, xmlrpc.client.Error, http.client.HTTPException):
            return False

    def ensure(self) -> bool:
        """Start supervisord unless it answers; its programs start with it. Returns whether it was started.

        :raises WaitTimeout: it did not answer in time.
        """
        if self.alive():
            return False
        config = self.home / "etc" / "supervisor" / "supervisord.conf"
        if not config.exists():
            raise SupervisorError(f"{config} is missing; run 'rtlake up --converge'")
        end_orphans(self.home)
        command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(config)]
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            start_new_session=True,
        )
        if done.returncode != 0:
            raise SupervisorError(f"supervisord did not start: {done.stderr.strip() or done.stdout.strip()}")
        limit = time.monotonic() + _START_SECONDS
        while not self.alive():
            if time.monotonic() > limit:
                raise WaitTimeout(f"supervisord does not answer; see {self.home / 'log' / 'supervisord.log'}")
            time.sleep(0.1)
        return True

    def pid(self, name: str) -> int | None:
        """See base class."""
        try:
            info = self.rpc.getProcessInfo(name)
        except (xmlrpc.client.Fault, OSError):
            return None
        return int(info["pid"]) or None

    def start(self, names: Sequence[str]) -> None:
        """See base class."""
        for name in names:
            try:
                self.rpc.startProcess(name, False)
            except xmlrpc.client.Fault as fault:
                if "ALREADY_STARTED" not in fault.faultString:
                    raise SupervisorError(f"{name}: {fault.faultString}") from fault

    def stop(self, names: Sequence[str]) -> None:
        """See base class."""
        if names and self.alive():
            with ThreadPoolExecutor(len(names)) as pool:
                list(pool.map(self._stop_one, names))

    def _stop_one(self, name: str) -> None:
        try:
            self.rpc.stopProcess(name, True)
        except xmlrpc.client.Fault as fault:
            if not any(word in fault.faultString for word in ("NOT_RUNNING", "BAD_NAME")):
                raise SupervisorError(f"{name}: {fault.faultString}") from fault

    def refresh(self) -> None:
        """See base class."""
        added, changed, removed = self.rpc.reloadConfig()[0]
        for name in [*changed, *removed]:
            self._stop_one(name)
            self.rpc.removeProcessGroup(name)
        for name in [*added, *changed]:
            self.rpc.addProcessGroup(name)

    def shutdown(self) -> None:
        """End supervisord, which stops whatever still runs; returns when it has ended."""
        if not self.alive():
            return
        self.rpc.shutdown()
        limit = time.monotonic() + 120
        while self.alive() or self.socket.exists():
            if time.monotonic() > limit:
                raise WaitTimeout("supervisord did not end")
            time.sleep(0.1)


class Systemd(Supervisor):
    """systemd units named ``rtlake-<service>``."""

    def pid(self, name: str) -> int | None:
        """See base class."""
        return int(_systemctl("show", "-p", "MainPID", "--value", _unit(name)).strip() or 0) or None

    def disabled(self, names: Sequence[str]) -> list[str]:
        """See base class."""
        command = ["systemctl", "is-enabled", *map(_unit, names)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        states = dict(zip(names, done.stdout.split(), strict=False))
        return [name for name in names if states.get(name) != "enabled"]

    def start(self, names: Sequence[str]) -> None:
        """See base class."""
        if names:
            _systemctl("enable", "--quiet", *map(_unit, names))
            _systemctl("start", "--no-block", *map(_unit, names))

    def active(self, names: Sequence[str]) -> list[str]:
        """See base class; one between two attempts to start has no process."""
        command = ["systemctl", "is-active", *map(_unit, names)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        states = zip(names, done.stdout.split(), strict=False)
        return [name for name, state in states if state not in ("inactive", "failed")]

    def resume(self, names: Sequence[str]) -> None:
        """See base class; what does not start at boot will not do so because of this."""
        if names:
            _systemctl("start", "--no-block", *map(_unit, names))

    def stop(self, names: Sequence[str]) -> None:
        """See base class."""
        there = [unit for unit in map(_unit, names) if (UNITS / unit).exists()]  # a removed one cannot be stopped
        if there:
            _systemctl("stop", *there)

    def refresh(self) -> None:
        """See base class."""
        _systemctl("daemon-reload")


def homes_of_units() -> dict[str, Path]:
    """RTLAKE_HOME of each ``rtlake-*`` unit of this machine, by the unit's name without suffix.

    There is one set of names a machine: two homes cannot both have units.
    """
    found = {}
    for path in sorted(UNITS.glob("rtlake-*.service")):
        start = _START.search(path.read_text(errors="replace"))
        if start:
            found[path.stem] = Path(start["home"])
    return found


def _unit(name: str) -> str:
    return f"rtlake-{name}.service"


def _systemctl(*arguments: str) -> str:
    command = ["systemctl", *arguments]
    # In a session of its own: a terminal that is lost tells all of ours, and we may be starting everything again.
    done = subprocess.run(command, capture_output=True, text=True, check=False, start_new_session=True)
    if done.returncode != 0:
        raise SupervisorError(f"systemctl {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def orphans(home: Path) -> list[psutil.Process]:
    """Services that outlived their supervisord (it was killed): nobody's children, at work below ``var/``.

    :param home: RTLAKE_HOME.
    """
    found = []
    for process in psutil.process_iter(["ppid"]):
        try:
            if process.info["ppid"] == 1 and Path(process.cwd()).is_relative_to(home / "var"):
                found.append(process)
        except psutil.Error:
            continue
    return found


def end_orphans(home: Path) -> None:
    """End them, gracefully first: a second start beside them would find ports and data taken.

    :param home: RTLAKE_HOME.
    """
    left = orphans(home)
    for process in left:
        process.terminate()
    _, left = psutil.wait_procs(left, timeout=_ORPHAN_SECONDS)
    for process in left:
        process.kill()
    psutil.wait_procs(left, timeout=_ORPHAN_SECONDS)


def supervisor_of(home: Path, kind: str) -> Supervisor:
    """The supervisor of a stack.

    :param home: RTLAKE_HOME.
    :param kind: ``supervisord`` or ``systemd``.
    """
    return Systemd() if kind == "systemd" else Supervisord(home)


def fingerprint(paths: Iterable[str]) -> str:
    """sha256 over the files' contents, one after another, as a start script computes it.

    :param paths: what the service reads.
    """
    digest = hashlib.sha256()
    for path in paths:
        digest.update(Path(path).read_bytes())
    return digest.hexdigest()


def is_stale(home: Path, component: str, name: str) -> bool:
    """Whether a running service was started with other files than are there now.

    :param home: RTLAKE_HOME.
    :param component: folder of its files below etc and var.
    :param name: the service.
    """
    try:
        reads = (home / "etc" / component / f"{name}.reads").read_text().split("\n")
        started_with = (home / "var" / component / f".fingerprint-{name}").read_text().strip()
        return fingerprint(p for p in reads if p) != started_with
    except FileNotFoundError:
        return True


def converge(home: Path, kind: str, component: str, names: Sequence[str], *, check: bool = False) -> list[str]:
    """Start what does not run, restart what is stale, enable what is disabled; returns their names without waiting.

    :param home: RTLAKE_HOME.
    :param kind: ``supervisord`` or ``systemd``.
    :param component: folder of the files below etc and var.
    :param names: the services.
    :param check: only tell.
    """
    supervisor = supervisor_of(home, kind)
    running = {name for name in names if supervisor.pid(name)}
    stale = [name for name in names if name in running and is_stale(home, component, name)]
    absent = [name for name in names if name not in running]
    disabled = [name for name in supervisor.disabled(names) if name not in (*absent, *stale)]
    if check:
        return [*absent, *stale, *disabled]
    if isinstance(supervisor, Supervisord):
        supervisor.ensure()
    supervisor.stop(stale)
    supervisor.refresh()
    supervisor.start([*absent, *stale, *disabled])  # starting what runs only enables it
    return [*absent, *stale, *disabled]


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=180)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class _UnixTransport(xmlrpc.client.Transport):
    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        connection = _UnixConnection(self._path)
        self._connection = (host, connection)  # so that close() finds it
        return connection

    def request(self, *arguments: Any, **keywords: Any) -> Any:
        """One request, one connection: nobody is there to close a kept one."""
        try:
            return super().request(*arguments, **keywords)
        finally:
            self.close()
