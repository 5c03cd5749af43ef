"""A machine of its own for tests: a folder made by debootstrap, Debian 12 or Ubuntu 22.04, booted by systemd-nspawn.

The network is the host's (so a port offset is needed) or a loopback of its own, without any way out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

PACKAGES = "systemd,systemd-sysv,dbus,python3,python3-apt,sudo,ca-certificates,iproute2,procps"
_KEYRINGS = Path("/usr/share/keyrings")
_CERTIFICATES = Path("/usr/local/share/ca-certificates")  # of a company's mirror, for example
_HIERARCHIES = (Path("/sys/fs/cgroup/systemd"), Path("/sys/fs/cgroup/unified"))
_SETTINGS = (".m2/settings.xml", ".config/pip/pip.conf")  # how this user reaches registries
_BOOT_SECONDS = 120.0
_STOP_SECONDS = 240.0


@dataclasses.dataclass(frozen=True)
class Suite:
    """A system that nodes are made of.

    :param name: as debootstrap and its archive call it.
    :param keyring: file of :data:`_KEYRINGS` that its archive is signed by, and the package that brings it.
    :param mirror: its archive.
    :param components: of the archive.
    :param more: further suites of the same release, which the packages are installed from.
    :param postgresql: major version in it.
    """

    name: str
    keyring: str
    mirror: str
    components: str
    more: tuple[str, ...]
    postgresql: int


SUITES = {
    suite.name: suite
    for suite in (
        Suite("bookworm", "debian-archive-keyring", "http://deb.debian.org/debian", "main", (), 15),
        Suite(
            "jammy",
            "ubuntu-archive-keyring",
            "http://archive.ubuntu.com/ubuntu",
            "main,universe",
            ("jammy-updates", "jammy-security"),
            14,
        ),
    )
}


def why_impossible(suite: Suite) -> str | None:
    """Why no node can be made here, or None."""
    if os.geteuid() != 0:
        return "a node needs root (systemd-nspawn)"
    missing = [p for p in ("debootstrap", "systemd-nspawn", "nsenter") if not shutil.which(p)]
    if missing:
        return f"missing: {', '.join(missing)}; apt-get install debootstrap systemd-container"
    if not (_KEYRINGS / f"{suite.keyring}.gpg").exists():
        return f"{_KEYRINGS}/{suite.keyring}.gpg is missing, which the archive of {suite.name} is signed by"
    if not _systemd_runs() and not all(h.is_dir() for h in _HIERARCHIES):
        return "no cgroup hierarchy that systemd in a node could use"
    return None


def _systemd_runs() -> bool:
    return Path("/run/systemd/system").is_dir()


def golden(folder: Path, suite: Suite, mirror: str | None) -> Path:
    """A fresh system to copy nodes from; made once.

    :param folder: where it lies, or will.
    :param suite: what it is.
    :param mirror: URL of its archive; None: the suite's own.
    """
    root = folder / suite.name
    if not (root / ".complete").exists():
        shutil.rmtree(root, ignore_errors=True)
        root.parent.mkdir(parents=True, exist_ok=True)
        archive = mirror or suite.mirror
        command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", f"--components={suite.components}"]
        command += [f"--keyring={_KEYRINGS}/{suite.keyring}.gpg", "--force-check-gpg", suite.name, str(root), archive]
        subprocess.run(command, check=True, capture_output=True, text=True)
        sources = [f"deb {archive} {name} {suite.components.replace(',', ' ')}\n" for name in (suite.name, *suite.more)]
        (root / "etc" / "apt" / "sources.list").write_text("".join(sources))
        # The host's resolver is used; one of its own would ask from a network that is not its own.
        (root / "etc" / "systemd" / "system" / "systemd-resolved.service").symlink_to("/dev/null")
        (root / "etc" / "resolv.conf").unlink(missing_ok=True)
        (root / "etc" / "resolv.conf").touch()
        (root / ".complete").touch()
    return root


def host_mirror() -> str | None:
    """The Debian mirror that this machine uses; None where its package sources name none."""
    for path in (Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))):
        for line in path.read_text().splitlines() if path.is_file() else ():
            words = line.split()
            found = [w for w in words if w.startswith("http") and w.rstrip("/").endswith("/debian")]
            if found and words[0] in ("deb", "URIs:"):
                return found[0]
    return None


class Node:
    """One node.

    :param root: its root folder; must exist.
    :param name: host name, unique among the nodes of this machine.
    :param binds: folder of the host → where the node sees it.
    """

    def __init__(self, root: Path, name: str, binds: Mapping[Path, str]) -> None:
        self.root, self.name, self.binds = root, name, dict(binds)
        self._nspawn: subprocess.Popen[bytes] | None = None

    @classmethod
    def fresh(cls, source: Path, root: Path, name: str, binds: Mapping[Path, str]) -> Node:
        """A copy of a golden folder, which reaches registries as this machine does."""
        subprocess.run(["cp", "-a", "--reflink=auto", str(source), str(root)], check=True)
        (root / "etc" / "hostname").write_text(f"{name}\n")
        (root / "etc" / "hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {name}\n")
        if _CERTIFICATES.is_dir():
            shutil.copytree(_CERTIFICATES, root / _CERTIFICATES.relative_to("/"), dirs_exist_ok=True)
        for setting in _SETTINGS:
            if (Path.home() / setting).exists():
                (root / "root" / setting).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(Path.home() / setting, root / "root" / setting)
        return cls(root, name, binds)

    def boot(self, *, private_network: bool = False) -> None:
        """Boot and wait until systemd has finished starting.

        :param private_network: only a loopback of its own, instead of the host's network.
        :raises TimeoutError: it did not come up; its console's last lines are in the message.
        """
        command = ["systemd-nspawn", "--directory", str(self.root), "--boot", "--register=no", "--keep-unit"]
        command += ["--private-users=no", f"--machine={self.name}", "--timezone=off", "--console=pipe"]
        command += ["--private-network", "--resolv-conf=off"] if private_network else ["--resolv-conf=copy-host"]
        command += [f"--bind={host}:{inside}" for host, inside in self.binds.items()]
        if _systemd_runs():
            command = ["systemd-run", "--scope", "--quiet", "-p", "Delegate=yes", *command]
        console = self.root.with_suffix(".console").open("ab")
        environment = {**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}
        with console:
            self._nspawn = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env=environment,
                preexec_fn=None if _systemd_runs() else self._own_cgroup,
                start_new_session=True,
            )
        limit = time.monotonic() + _BOOT_SECONDS
        while self.state() not in ("running", "degraded"):
            if time.monotonic() > limit or self._nspawn.poll() is not None:
                end = self.root.with_suffix(".console").read_text(errors="replace")[-2000:]
                raise TimeoutError(f"node {self.name} did not boot ({self.state()}):\n{end}")
            time.sleep(0.2)

    def _own_cgroup(self) -> None:
        for hierarchy in _HIERARCHIES:
            group = hierarchy / f"node-{self.name}"
            group.mkdir(exist_ok=True)
            (group / "cgroup.procs").write_text(str(os.getpid()))

    @property
    def leader(self) -> int | None:
        """Process id of the node's own process 1, as seen from here."""
        if self._nspawn is None or self._nspawn.poll() is not None:
            return None
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self._nspawn.pid).children(recursive=True):
                if child.name() == "systemd":
                    return int(child.pid)
        return None

    def state(self) -> str:
        """What systemd in the node says of itself."""
        if self.leader is None:
            return "gone"
        done = self.run("systemctl is-system-running", check=False, limit=30)
        return done.stdout.strip()

    def run(
        self, script: str, *, check: bool = True, limit: float = 900, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a bash script as root in the node.

        :param script: for ``bash -c``.
        :param check: whether an exit code other than 0 is an error.
        :param limit: seconds.
        :param env: added to a login's environment.
        :raises AssertionError: it failed; what it printed is in the message.
        """
        leader = self.leader
        if leader is None:
            raise AssertionError(f"node {self.name} does not run")
        environment = {
            "HOME": "/root",
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            "TERM": "dumb",
            "DEBIAN_FRONTEND": "noninteractive",
            **(env or {}),
        }
        command = ["nsenter", "-t", str(leader), "-a", "env", "-i", *(f"{k}={v}" for k, v in environment.items())]
        done = subprocess.run(
            [*command, "bash", "-c", script],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{script}\n-> {done.returncode}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}")
        return done

    def stop(self) -> None:
        """Power the node off as its owner would, and wait."""
        leader = self.leader
        if leader is not None:
            os.kill(leader, signal.SIGRTMIN + 4)
        if self._nspawn is not None:
            try:
                self._nspawn.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._nspawn.kill()
                self._nspawn.wait(30)
        self._nspawn = None

    def remove(self) -> None:
        """Stop it and delete its folder."""
        self.stop()
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.with_suffix(".console").unlink(missing_ok=True)
        for hierarchy in _HIERARCHIES:
            with contextlib.suppress(OSError):
                (hierarchy / f"node-{self.name}").rmdir()
