"""What an installed folder consists of, so that a file that was changed afterwards is noticed without reading all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

NAME = ".rtlake-files"
_CHUNK = 1 << 20  # bytes


def write(folder: Path) -> None:
    """Lay down size, time of change and sha256 of every file of a folder.

    :param folder: just put together.
    """
    found = {str(p.relative_to(folder)): [*_facts(p), sha256_of(p)] for p in _files(folder)}
    (folder / NAME).write_text(json.dumps(found, indent=0, sort_keys=True))


def differing(folder: Path, *, deep: bool = False) -> list[str]:
    """Files that are missing or have other contents than when they were installed; those added are no matter.

    Only files whose size or time differs are read: no byte changes without it, unless somebody means to hide it.

    :param folder: installed by :func:`~airflow_provider_rtlake.kit.artifacts.install`.
    :param deep: read every file.
    """
    try:
        known = json.loads((folder / NAME).read_text())
    except FileNotFoundError:
        return []  # installed by an earlier version
    except ValueError:
        return [NAME]
    return [name for name, facts in known.items() if _differs(folder / name, facts, deep)]


def _differs(path: Path, facts: list[object], deep: bool) -> bool:
    try:
        if not deep and _facts(path) == facts[:2]:
            return False
        return sha256_of(path) != facts[2]
    except OSError:
        return True


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink() and not path.name.startswith(".rtlake-"):
            yield path


def _facts(path: Path) -> list[object]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]
