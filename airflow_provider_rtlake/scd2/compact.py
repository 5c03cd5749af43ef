"""Keeps the files of the last versions few, at the price of the changes: a merge that touches a bucket tidies it.

Each merge adds a small data file and a file of position deletes to every bucket it touches. Left alone, the tenth merge
would open ten files where the first opened one. So a merge writes small files together with its own rows when there are
several, writes a file's rest again when more than half of it is dead, drops what is dead altogether, and keeps one file
of position deletes. A row is written again only after as many have come or died as there are of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from airflow_provider_rtlake.scd2.reads import DataTask, ObjectStore, deleted_rows
from airflow_provider_rtlake.scd2.rows import Array

SMALL_ROWS = 65_536
SEVERAL = 4  # small files, or files of position deletes


@dataclass
class Tidied:
    """What becomes of one bucket's files.

    :param rows: live rows of files that go, to be written again.
    :param removed: Iceberg's data files that go.
    :param removed_deletes: Iceberg's delete files that go.
    :param positions: data file → rows, to be named by the new delete file.
    """

    rows: pa.Table | None = None
    removed: list[Any] = field(default_factory=list)
    removed_deletes: list[Any] = field(default_factory=list)
    positions: dict[str, Array] = field(default_factory=dict)


def tidy(
    store: ObjectStore,
    tasks: Sequence[DataTask],
    gone: Mapping[str, Array],
    read: Callable[[Sequence[DataTask]], pa.Table],
) -> Tidied:
    """Decide about the files of one bucket.

    :param tasks: its data files.
    :param gone: data file → rows that go by this merge, ordered.
    :param read: live rows of data files, with ``_file`` and ``_pos``.
    """
    dead = {
        task.path: np.union1d(deleted_rows(store, task.deletes, task.path), gone.get(task.path, np.empty(0, np.int64)))
        for task in tasks
    }
    empty = [task for task in tasks if len(dead[task.path]) >= task.records]
    alive = [task for task in tasks if len(dead[task.path]) < task.records]
    small = [task for task in alive if task.records < SMALL_ROWS]
    again = [task for task in alive if 2 * len(dead[task.path]) > task.records and task.path in gone]
    if len(small) >= SEVERAL:
        again = [*small, *(task for task in again if task not in small)]
    leaving = {task.path for task in (*empty, *again)}
    staying = [task for task in alive if task.path not in leaving]
    result = Tidied(removed=[task.java for task in (*empty, *again)])
    if again:
        result.rows = _without(read(again), gone)
    deletes = {path: java for task in tasks for path, java in task.java_deletes.items()}
    used = {path for task in staying for path in task.deletes}
    if len(used) >= SEVERAL:
        result.removed_deletes = list(deletes.values())
        result.positions = {task.path: dead[task.path] for task in staying if len(dead[task.path])}
    else:
        result.removed_deletes = [java for path, java in deletes.items() if path not in used]
        result.positions = {path: rows for path, rows in gone.items() if path not in leaving}
    return result


def _without(rows: pa.Table, gone: Mapping[str, Array]) -> pa.Table:
    files = rows["_file"].cast(pa.string()).to_pylist() if any(len(found) for found in gone.values()) else []
    keep = np.ones(rows.num_rows, bool)
    if files:
        named, numbers = np.array(files, object), rows["_pos"].to_numpy()
        for path, found in gone.items():
            mine = named == path
            keep[mine] &= ~np.isin(numbers[mine], found)
    return rows.filter(pa.array(keep)).drop_columns(["_file", "_pos"])
