"""Backup and restore of everything that cannot be made again: data, positions, secrets and choices.

The lanes pause while their folders are copied; PostgreSQL, the source, stays writable: it is copied by a base
backup through SQL, with its replication slots and all WAL that they need. What is in the backup is therefore one
consistent state: Connect's offsets, Kafka's topics, Flink's checkpoints, the lake and its catalog belong together,
and what was written to the source meanwhile comes through the slot later.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psycopg

from airflow_provider_rtlake.exceptions import TerminalError, UserError
from airflow_provider_rtlake.kit import postgres, settings
from airflow_provider_rtlake.kit.inventory import sha256_of
from airflow_provider_rtlake.kit.stack import Stack

FORMAT = 1
MANIFEST = "manifest.json"
_RESTORING = ".restoring"  # below var/ from the first step of a restore to its last
_CHUNK = 1 << 20  # bytes
_SLOT = "rtlake_backup"
_NAME = re.compile(r"rtlake-\d{8}T\d{6}Z")
_DAY = 86_400  # seconds
# What processes make anew, below var/.
_LEFT_OUT = ("flink/tmp", "airflow/logs", "*/.fingerprint-*")
_POSTGRES_LEFT_OUT = (
    "data/pg_wal",
    "data/postmaster.*",
    "data/pg_stat_tmp/*",
    "data/pg_notify/*",
    "data/**/pgsql_tmp*",
)
Say = Callable[[str], None]


class BackupRefused(TerminalError):
    """A backup is damaged, incomplete or does not fit here; nothing was changed."""


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a backup consists of.

    :param home: RTLAKE_HOME that it was made of: paths and ports are in the data.
    :param made: UTC time.
    :param settings: what was chosen, see :mod:`~airflow_provider_rtlake.kit.settings`.
    :param lsn: the source's position at the end of its base backup.
    :param files: name → (bytes, sha256).
    """

    home: str
    made: str
    supervisor: str
    settings: dict[str, Any]
    lsn: str | None
    files: dict[str, tuple[int, str]]


def back_up(stack: Stack, folder: Path, say: Say, pause: Callable[[], None], resume: Callable[[], None]) -> Path:
    """Make a backup; returns its folder. Nothing is left of one that fails, nor of an older one that was killed.

    :param stack: a running stack.
    :param folder: where backups lie; the new one gets a folder of its own in it.
    :param pause: stops every service but PostgreSQL.
    :param resume: starts them again; called in any case.
    :raises UserError: PostgreSQL does not answer, or the folder cannot be used; nothing was paused.
    """
    if stack.home in folder.resolve().parents or folder.resolve() == stack.home:
        raise UserError(f"{folder} is inside {stack.home}: a backup must survive its loss")
    if "postgresql" in stack.services:
        _postgresql_answers(stack)
    made = datetime.now(timezone.utc)
    target = folder / f"rtlake-{made:%Y%m%dT%H%M%SZ}"
    for half in _cut_off(folder, made.timestamp()):
        say(f"  removing {half.name}, which was cut off")
        shutil.rmtree(half, ignore_errors=True)
    try:
        target.mkdir(parents=True, mode=0o700)
    except OSError as error:
        raise UserError(f"{folder} cannot be written in ({error.strerror})") from error
    try:
        _fill(target, stack, made, say, pause, resume)
    except BaseException:  # a signal among them; half a backup is none, and no later one would remove it
        shutil.rmtree(target, ignore_errors=True)
        raise
    return target


def _fill(
    target: Path,
    stack: Stack,
    made: datetime,
    say: Say,
    pause: Callable[[], None],
    resume: Callable[[], None],
) -> None:
    files: dict[str, tuple[int, str]] = {}
    lsn = None
    try:
        pause()
        for path in sorted(p for p in (stack.home / "var").iterdir() if p.is_dir() and p.name != "postgresql"):
            files[f"{path.name}.tar"] = _archive(
                target / f"{path.name}.tar", stack.home / "var", [path.name], _LEFT_OUT
            )
            say(f"  {path.name}: {files[f'{path.name}.tar'][0] / 1e6:.0f} MB")
        if "postgresql" in stack.services:
            lsn = _postgresql(stack, target, files)
            say(
                f"  postgresql: {sum(n for f, (n, _) in files.items() if f.startswith('postgresql')) / 1e6:.0f} MB,"
                f" up to {lsn}"
            )
    finally:  # also where pausing was cut off
        resume()
    files["secrets.tar"] = _archive(target / "secrets.tar", stack.home, ["secrets"], ())
    manifest = Manifest(
        home=str(stack.home),
        made=made.isoformat(timespec="seconds"),
        supervisor=stack.supervisor,
        settings=settings.load(stack.home),
        lsn=lsn,
        files=files,
    )
    _write_manifest(target, manifest)  # last: without it a backup is none


def _write_manifest(target: Path, manifest: Manifest) -> None:
    text = json.dumps({"format": FORMAT, **dataclasses.asdict(manifest)}, indent=1) + "\n"
    settings.write_private(target / MANIFEST, text)
    (target / f"{MANIFEST}.sha256").write_text(hashlib.sha256(text.encode()).hexdigest() + "\n")


def _archive(
    target: Path, folder: Path, paths: Sequence[str], left_out: Sequence[str], *, hot: bool = False
) -> tuple[int, str]:
    """A tar file, its size and sha256. Sparse files stay sparse; s3proxy keeps facts in extended attributes."""
    command = ["tar", "--create", "--sparse", "--xattrs", "--xattrs-include=user.*", "--directory", str(folder)]
    command += ["--ignore-failed-read", "--warning=no-file-changed", "--warning=no-file-removed"] if hot else []
    command += ["--wildcards", *(f"--exclude={p}" for p in left_out), *paths]
    digest, size = hashlib.sha256(), 0
    with target.open("xb") as out, tempfile.TemporaryFile() as errors:
        target.chmod(0o600)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors) as process:
            while process.stdout and (chunk := process.stdout.read(_CHUNK)):
                digest.update(chunk)
                size += len(chunk)
                out.write(chunk)
        errors.seek(0)
        words = errors.read().decode(errors="replace").strip()
    # 1 means that a file changed meanwhile: with PostgreSQL that is what the WAL is for.
    if process.returncode not in ((0, 1) if hot else (0,)):
        raise TerminalError(f"{target.name}: tar failed: {words[-1000:]}")
    return size, digest.hexdigest()


def _cut_off(folder: Path, now: float) -> list[Path]:
    """Backups without a manifest that nobody can still be making."""
    found = [p for p in sorted(folder.glob("rtlake-*")) if _NAME.fullmatch(p.name) and not (p / MANIFEST).exists()]
    return [p for p in found if now - p.stat().st_mtime > _DAY]


def _server(stack: Stack) -> postgres.Server:
    source = stack.connection("rtlake_source")
    return postgres.Server(source.host, int(source.port or 0), stack.secret("postgres"))


def _postgresql_answers(stack: Stack) -> None:
    try:
        _server(stack).connect().close()
    except psycopg.OperationalError as error:
        raise UserError(f"PostgreSQL must run while it is backed up: './rtlake up' ({error})") from error


def _postgresql(stack: Stack, target: Path, files: dict[str, tuple[int, str]]) -> str:
    """Base backup through SQL: there may be no pg_basebackup. Returns the position that it ends at."""
    folder = stack.home / "var" / "postgresql"
    with _server(stack).connect() as connection:
        version = int(connection.info.server_version / 10000)
        start = (
            "SELECT pg_backup_start('rtlake', true)"
            if version >= 15
            else "SELECT pg_start_backup('rtlake', true, false)"
        )
        stop = "SELECT * FROM pg_backup_stop(false)" if version >= 15 else "SELECT * FROM pg_stop_backup(false, false)"
        # Temporary, ends with this session: no WAL that the copy needs is removed while it is made.
        connection.execute("SELECT pg_create_physical_replication_slot(%s, true, true)", [_SLOT])
        connection.execute(start.encode())
        files["postgresql.tar"] = _archive(target / "postgresql.tar", folder, ["data"], _POSTGRES_LEFT_OUT, hot=True)
        row = connection.execute(stop.encode()).fetchone()
        if row is None or (row[2] or "").strip():
            raise TerminalError("the database has tablespaces outside its folder: they are not backed up")
        with tempfile.TemporaryDirectory(prefix="rtlake-backup-") as scratch:
            (Path(scratch) / "data").mkdir()
            (Path(scratch) / "data" / "backup_label").write_text(row[1])
            files["postgresql-label.tar"] = _archive(
                target / "postgresql-label.tar", Path(scratch), ["data/backup_label"], ()
            )
        files["postgresql-wal.tar"] = _archive(target / "postgresql-wal.tar", folder, ["data/pg_wal"], (), hot=True)
    return str(row[0])


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a backup.

    :raises BackupRefused: it is none, or was changed.
    """
    path = folder / MANIFEST
    try:
        text = path.read_text()
        wanted = path.with_name(f"{MANIFEST}.sha256").read_text().strip()
    except OSError as error:
        raise BackupRefused(f"{folder} is no complete backup: {error}") from error
    if hashlib.sha256(text.encode()).hexdigest() != wanted:
        raise BackupRefused(f"{path} was changed after the backup was made")
    data = json.loads(text)
    if data.pop("format") != FORMAT:
        raise BackupRefused(f"{path}: made by another version of rtlake")
    files = {name: (int(size), str(digest)) for name, (size, digest) in data.pop("files").items()}
    return Manifest(files=files, **data)


def verify(folder: Path) -> Manifest:
    """Read every file of a backup and compare its sha256.

    :raises BackupRefused: names every file that is missing or damaged.
    """
    manifest = read_manifest(folder)
    damaged = []
    for name, (size, digest) in manifest.files.items():
        path = folder / name
        if not path.is_file():
            damaged.append(f"{name} is missing")
        elif path.stat().st_size != size:
            damaged.append(f"{name} has {path.stat().st_size} bytes, not {size}")
        elif sha256_of(path) != digest:
            damaged.append(f"{name} differs from what was written")
    if damaged:
        raise BackupRefused(f"{folder} is damaged, nothing was restored: {'; '.join(damaged)}")
    return manifest


def prepare(folder: Path, home: Path) -> Manifest:
    """Verify, and bring the secrets to an empty home; what an interrupted restore left there is cleared.

    :param folder: a backup.
    :param home: RTLAKE_HOME.
    :raises BackupRefused: damaged, of another place, or there is data already.
    """
    manifest = verify(folder)
    if Path(manifest.home) != home:
        raise BackupRefused(f"{folder} was made of {manifest.home}: its paths are in the data; set RTLAKE_HOME to that")
    marker = home / "var" / _RESTORING
    there = [p for p in sorted((home / "var").glob("*")) if p.is_dir() and any(p.iterdir())]
    if marker.exists():
        for path in there:
            shutil.rmtree(path)
    elif there:
        names = ", ".join(p.name for p in there)
        raise BackupRefused(f"{home}/var holds data already ({names}): restore only onto an empty home")
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.touch()
    _unpack(folder / "secrets.tar", home)
    (home / "secrets").chmod(0o700)
    return manifest


def unpack(folder: Path, manifest: Manifest, home: Path, say: Say) -> None:
    """Bring the data back; accounts must exist, because owners are restored by name.

    :param folder: a verified backup.
    """
    for name in manifest.files:
        if name == "secrets.tar":
            continue
        into = home / "var" / ("postgresql" if name.startswith("postgresql") else "")
        _unpack(folder / name, into)
        say(f"  {name}")
    label = home / "var" / "postgresql" / "data" / "backup_label"
    if label.exists():
        _own_as(label, label.parent)
    (home / "var" / _RESTORING).unlink()


def check_restored(home: Path) -> None:
    """See that no restore stopped half way.

    :param home: RTLAKE_HOME.
    :raises UserError: one did: services would begin with a part of the data, or initialise what is missing.
    """
    if (home / "var" / _RESTORING).exists():
        raise UserError(
            f"a restore into {home} was interrupted: repeat it with './rtlake restore BACKUP',"
            " or begin with nothing: './rtlake destroy'"
        )


def _unpack(archive: Path, into: Path) -> None:
    command = ["tar", "--extract", "--sparse", "--xattrs", "--xattrs-include=user.*", "--preserve-permissions"]
    into.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [*command, "--directory", str(into), "--file", str(archive)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise TerminalError(f"{archive}: tar failed: {done.stderr.strip()[-1000:]}")


def _own_as(path: Path, model: Path) -> None:
    path.chmod(0o600)
    if os.geteuid() == 0:
        os.chown(path, model.stat().st_uid, model.stat().st_gid)


def older(folder: Path, keep: int) -> list[Path]:
    """Complete backups beyond the newest ``keep``, oldest first; none where ``keep`` is 0."""
    found = sorted(p.parent for p in folder.glob(f"rtlake-*/{MANIFEST}"))
    return found[:-keep] if keep else []


def discard(folder: Path) -> None:
    """Delete a backup: its manifest first, so that a half-deleted one is none."""
    (folder / MANIFEST).unlink()
    shutil.rmtree(folder)
