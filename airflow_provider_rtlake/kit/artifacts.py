"""The artifact lock: which files make a component, what they must hash to, and how they become its folder.

Installing resolves nothing: every file is named by its coordinates in ``ansible/artifacts.lock.json``, fetched
once into the cache by :mod:`airflow_provider_rtlake.kit.fetch`, and checked against its sha256 before it is used.
"""

from __future__ import annotations

import copy
import dataclasses
import fnmatch
import hashlib
import json
import os
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from airflow_provider_rtlake.exceptions import TerminalError, UserError
from airflow_provider_rtlake.kit import inventory

LOCK_NAME = "artifacts.lock.json"
STAMP = ".rtlake-lock"
_DEBIAN_SHARE, _OWN_SHARE = b"/usr/share/prometheus/", b"././/share/prometheus/"


class ArtifactRefused(TerminalError):
    """A file is not what the lock says; it is never used."""


@dataclasses.dataclass(frozen=True)
class Artifact:
    """One file of a component.

    :param source: ``maven``, ``pypi`` or ``debian``.
    :param name: ``group:artifact:version[:extension[:classifier]]``, ``name==version``, or ``package=version``.
    :param file: file name, unique in its cache folder.
    :param sha256: hex digest.
    :param size: bytes.
    :param into: folder below the component's, ``.`` for itself.
    :param unpack: ``tar``, ``zip``, ``deb`` or None (the file itself is installed).
    :param member: an archive inside the archive that is the real content.
    :param strip: leading path parts dropped when unpacking.
    :param only: path patterns (after stripping) that are unpacked; empty for all.
    :param rename: the installed file's name.
    """

    source: str
    name: str
    file: str
    sha256: str
    size: int
    into: str = "."
    unpack: str | None = None
    member: str | None = None
    strip: int = 0
    only: tuple[str, ...] = ()
    rename: str | None = None

    @property
    def cache_path(self) -> Path:
        """Where the file lies in the cache, relative to it."""
        folder = self.name.split(":", 1)[0] if self.source == "maven" else "-"
        return Path("artifacts", self.source, folder, self.file)

    @property
    def installed_name(self) -> str:
        """Path of a plain file below the component's folder."""
        return str(Path(self.into, self.rename or self.file))


@dataclasses.dataclass(frozen=True)
class Component:
    """A version of a component and its files."""

    name: str
    version: str
    artifacts: tuple[Artifact, ...]

    @property
    def folder(self) -> str:
        """Name below ``opt/``."""
        return f"{self.name}-{self.version}"

    @property
    def digest(self) -> str:
        """sha256 over all that the lock says of the component."""
        text = json.dumps([dataclasses.asdict(a) for a in self.artifacts], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def load_lock(path: Path) -> dict[str, Component]:
    """Read the lock.

    :param path: the lock file.
    :raises UserError: the file is missing or damaged.
    """
    try:
        data = json.loads(path.read_text())
        return {name: _component(name, entry) for name, entry in data["components"].items()}
    except FileNotFoundError:
        raise UserError(f"{path}: the artifact lock is missing; run 'rtlake lock'") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a valid artifact lock ({error}); run 'rtlake lock'") from error


def _component(name: str, entry: dict[str, Any]) -> Component:
    files = tuple(Artifact(**{**f, "only": tuple(f.get("only", ()))}) for f in entry["files"])
    return Component(name=name, version=entry["version"], artifacts=files)


def dump_lock(components: Iterable[Component]) -> str:
    """Render the lock: sorted, one stable text for the same content."""
    out: dict[str, Any] = {}
    for component in sorted(components, key=lambda c: c.name):
        files = sorted(component.artifacts, key=lambda a: (a.into, a.source, a.name))
        out[component.name] = {"version": component.version, "files": [_plain(a) for a in files]}
    return json.dumps({"components": out}, indent=1) + "\n"


def _plain(artifact: Artifact) -> dict[str, Any]:
    defaults = {f.name: f.default for f in dataclasses.fields(Artifact)}
    values = dataclasses.asdict(artifact)
    return {k: v for k, v in values.items() if v != defaults[k]}


def matches(artifact: Artifact, path: Path) -> bool:
    """Whether the file is exactly what the lock says."""
    try:
        if path.stat().st_size != artifact.size:
            return False
    except OSError:
        return False
    return inventory.sha256_of(path) == artifact.sha256


def is_installed(component: Component, opt: Path) -> bool:
    """Whether the component's folder holds this very lock entry.

    The stamp says what was unpacked; every file is looked at, see :mod:`~airflow_provider_rtlake.kit.inventory`.

    :param opt: folder of all components.
    """
    folder = opt / component.folder
    try:
        if (folder / STAMP).read_text().split("\n", 1)[0] != component.digest or inventory.differing(folder):
            return False
        plain = [a for a in component.artifacts if a.unpack is None]
        return all((folder / a.installed_name).stat().st_size == a.size for a in plain)
    except OSError:
        return False


def install(component: Component, cache: Path, opt: Path) -> Path:
    """Put the component's folder together from verified files of the cache and swap it in.

    :param cache: the download cache.
    :param opt: folder of all components.
    :raises ArtifactRefused: a file in the cache is missing or not what the lock says.
    """
    for artifact in component.artifacts:
        if not matches(artifact, cache / artifact.cache_path):
            raise ArtifactRefused(f"{cache / artifact.cache_path}: missing or its sha256 is not that of the lock")
    opt.mkdir(parents=True, exist_ok=True)
    target = opt / component.folder
    building = Path(tempfile.mkdtemp(prefix=f".{component.folder}-", dir=opt))
    try:
        for artifact in component.artifacts:
            _place(artifact, cache / artifact.cache_path, building)
        # Its second line is new each time: services read the stamp, and restart when files under them are replaced.
        (building / STAMP).write_text(f"{component.digest}\n{os.urandom(8).hex()}\n")
        inventory.write(building)
        building.chmod(0o755)
        if target.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{component.folder}-old-", dir=opt))
            target.rename(old / "x")
            building.rename(target)
            shutil.rmtree(old)
        else:
            building.rename(target)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return target


def _place(artifact: Artifact, source: Path, folder: Path) -> None:
    into = folder / artifact.into
    into.mkdir(parents=True, exist_ok=True)
    if artifact.unpack is None:
        # No link: what changes the installed file must not change the cache.
        target = Path(shutil.copyfile(source, into / (artifact.rename or artifact.file)))
        target.chmod(0o644)
    elif artifact.member:
        with tempfile.TemporaryDirectory(dir=folder) as inner, zipfile.ZipFile(source) as outer:
            archive = Path(outer.extract(artifact.member, inner))
            _unpack_tar(artifact, archive, into)
    elif artifact.unpack == "tar":
        _unpack_tar(artifact, source, into)
    elif artifact.unpack == "deb":
        with tempfile.TemporaryDirectory(dir=folder) as inner:
            _unpack_tar(artifact, deb_content(source, Path(inner)), into)
        _relocate(into / "bin")
    else:
        _unpack_zip(artifact, source, into)


def deb_content(package: Path, folder: Path) -> Path:
    """The archive inside a Debian package that holds its files; nothing of the package is run.

    :param package: an ``ar`` archive: members after a magic word, each with a header of 60 bytes, at even places.
    :param folder: where the archive is put.
    :raises ArtifactRefused: it is no Debian package.
    """
    with package.open("rb") as stream:
        if stream.read(8) != b"!<arch>\n":
            raise ArtifactRefused(f"{package}: is no Debian package")
        while header := stream.read(60):
            name, size = header[:16].decode("ascii").strip().rstrip("/"), int(header[48:58])
            if name.startswith("data.tar"):
                inner = folder / name
                inner.write_bytes(stream.read(size))
                return inner
            stream.seek(size + size % 2, os.SEEK_CUR)
    raise ArtifactRefused(f"{package}: holds no data.tar")


def _relocate(programs: Path) -> None:
    """Make programs look for their files below the working folder: a path of the same length in place of Debian's."""
    for program in programs.glob("*"):
        content = program.read_bytes()
        if _DEBIAN_SHARE in content:
            program.write_bytes(content.replace(_DEBIAN_SHARE, _OWN_SHARE))


def _wanted(artifact: Artifact, name: str) -> str | None:
    parts = Path(name).parts[artifact.strip :]
    if not parts:
        return None
    path = str(Path(*parts))
    if artifact.only and not any(fnmatch.fnmatch(path, pattern) for pattern in artifact.only):
        return None
    return path


def _unpack_tar(artifact: Artifact, archive: Path, into: Path) -> None:
    # tarfile's own filters are missing in the Pythons that Debian 12 and Ubuntu 22.04 ship.
    root = into.resolve()
    unpacked: dict[int, Path] = {}  # where the content lies in the archive → the file that has it
    with tarfile.open(archive) as tar:
        wanted = [(_content(tar, one), one.name, _wanted(artifact, one.name)) for one in tar.getmembers()]
        # In the order of the contents: each step back would decompress the archive from its beginning again.
        for member, name, path in sorted(wanted, key=lambda one: one[0].offset_data):
            if path is None:
                continue
            entry = _harmless(tar, member, name, path, root)
            twin = unpacked.get(member.offset_data)
            if twin is not None and member.isreg() and member.size:
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                os.link(twin, root / path)
                continue
            tar.extract(entry, root)
            if member.isreg() and member.size:
                unpacked[member.offset_data] = root / path


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> tarfile.TarInfo:
    """The member that holds the content: a hard link names another one, as the archive spells it."""
    while member.islnk():
        member = tar.getmember(member.linkname)
    return member


def _harmless(tar: tarfile.TarFile, member: tarfile.TarInfo, name: str, path: str, root: Path) -> tarfile.TarInfo:
    entry = copy.copy(member)
    entry.name, entry.uid, entry.gid = path, os.geteuid(), os.getegid()
    entry.uname = entry.gname = ""
    entry.mode = (member.mode & 0o755) | (0o755 if member.isdir() else 0o644)
    target = (root / path).parent.resolve() / Path(path).name
    link = (target.parent / member.linkname).resolve() if member.issym() else root
    regular = member.isreg() or member.isdir() or member.issym()
    if not regular or not target.is_relative_to(root) or not link.is_relative_to(root):
        raise ArtifactRefused(f"{tar.name!r}: {name} would leave its folder or is no plain file")
    return entry


def _unpack_zip(artifact: Artifact, archive: Path, into: Path) -> None:
    root = into.resolve()
    with zipfile.ZipFile(archive) as content:
        for info in content.infolist():
            path = _wanted(artifact, info.filename)
            if path is None or info.is_dir():
                continue
            target = (root / path).resolve()
            if not target.is_relative_to(root):
                raise ArtifactRefused(f"{archive}: {info.filename} would leave its folder")
            target.parent.mkdir(parents=True, exist_ok=True)
            with content.open(info) as stream, target.open("wb") as out:
                shutil.copyfileobj(stream, out)
            mode = (info.external_attr >> 16) & 0o777
            target.chmod((mode | 0o644) if mode else 0o644)
