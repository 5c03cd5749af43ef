"""One command at a time starts, stops or changes an installation: a backup, above all, must find everything at rest."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import psutil

from airflow_provider_rtlake.exceptions import UserError

_HOLDER = "RTLAKE_HOLDER"  # process that holds the lock; its children work for it


def _ours() -> bool:
    """Whether this process, or one that it works for, holds the lock."""
    holder = os.environ.get(_HOLDER, "")
    return holder.isdecimal() and int(holder) in [os.getpid(), *(p.pid for p in psutil.Process().parents())]


@contextlib.contextmanager
def alone(home: Path) -> Iterator[None]:
    """Hold an installation, for this process and its children.

    :param home: RTLAKE_HOME.
    :raises UserError: another command holds it.
    """
    if _ours() or not home.is_dir():
        yield
        return
    handle = os.open(home, os.O_RDONLY)  # the folder itself: the timer's backup may not write in it
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another command (a backup, for example) is at work in {home}: wait until it has ended; "
                "'ps -ef | grep rtlake' shows it"
            ) from None
        os.environ[_HOLDER] = str(os.getpid())
        yield
    finally:
        if os.environ.get(_HOLDER) == str(os.getpid()):
            del os.environ[_HOLDER]
        os.close(handle)
