"""Builds a program from a Go module at a pinned version, with the toolchain of the artifact lock.

A built binary has no sha256 that somebody published. What is pinned instead is the digest of what went into it: the
toolchain's version and every module's version and ``h1:`` hash, as the binary itself tells (``go version -m``). Go
compares these hashes with its checksum database while it downloads.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from airflow_provider_rtlake.exceptions import TerminalError
from airflow_provider_rtlake.kit import inventory
from airflow_provider_rtlake.kit.artifacts import STAMP, ArtifactRefused

BUILD_SECONDS = 3600


@dataclasses.dataclass(frozen=True)
class Program:
    """What to build.

    :param name: the program's file name and the folder's prefix below ``opt/``.
    :param module: path of its main package.
    :param version: of the module.
    :param digest: see :func:`digest_of`.
    """

    name: str
    module: str
    version: str
    digest: str

    @property
    def folder(self) -> str:
        """Name below ``opt/``."""
        return f"{self.name}-{self.version}"


def is_installed(program: Program, opt: Path) -> bool:
    """Whether the folder holds a binary made of just this."""
    folder = opt / program.folder
    try:
        return (folder / STAMP).read_text().split("\n", 1)[0] == program.digest and not inventory.differing(folder)
    except OSError:
        return False


def install(program: Program, go: Path, cache: Path, opt: Path) -> Path:
    """Build it unless the cache has it, compare what went into it, and put it into its folder.

    :param go: the ``go`` command.
    :param cache: the download cache.
    :param opt: folder of all components.
    :raises ArtifactRefused: it was made of something else.
    :raises TerminalError: the build failed.
    """
    built = cache / "go" / "bin" / program.folder / program.name
    if not built.exists() or digest_of(go, built) != program.digest:
        _build(go, program, cache, built)
    found = digest_of(go, built)
    if found != program.digest:
        built.unlink()
        raise ArtifactRefused(f"{program.name}: built of other sources than pinned ({found}); its binary was removed")
    target = opt / program.folder
    opt.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{program.folder}-", dir=opt))
    (building / "bin").mkdir()
    shutil.copy2(built, building / "bin" / program.name)
    (building / STAMP).write_text(f"{program.digest}\n{os.urandom(8).hex()}\n")
    inventory.write(building)
    building.chmod(0o755)
    shutil.rmtree(target, ignore_errors=True)
    building.rename(target)
    return target


def digest_of(go: Path, binary: Path) -> str:
    """sha256 over the toolchain's version and every module's version and hash that a binary was built of."""
    return digest_of_listing(_run([str(go), "version", "-m", str(binary)], {}))


def digest_of_listing(listing: str) -> str:
    """As :func:`digest_of`, from what ``go version -m`` prints: its path and build settings are no matter."""
    first, *lines = listing.splitlines()
    modules = sorted("\t".join(line.split()) for line in lines if line.split()[:1] in (["mod"], ["dep"], ["=>"]))
    text = "\n".join([first.rsplit(" ", 1)[1], *modules])
    return hashlib.sha256(text.encode()).hexdigest()


def _build(go: Path, program: Program, cache: Path, built: Path) -> None:
    root = cache / "go"
    built.parent.mkdir(parents=True, exist_ok=True)
    environment = {
        "GOTOOLCHAIN": "local",  # the locked one, and no other
        "GOPATH": str(root / "path"),
        "GOCACHE": str(root / "build"),
        "GOBIN": str(built.parent),
        "GOFLAGS": "-trimpath -buildvcs=false -modcacherw",
        "CGO_ENABLED": "0",
    }
    _run([str(go), "install", f"{program.module}@{program.version}"], environment)


def _run(command: list[str], environment: dict[str, str]) -> str:
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **environment},
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
            timeout=BUILD_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise TerminalError(f"{' '.join(command)}: no end after {BUILD_SECONDS} s") from None
    if done.returncode != 0:
        raise TerminalError(f"{' '.join(command)} failed: {done.stderr.strip()[-1500:]}")
    return done.stdout
