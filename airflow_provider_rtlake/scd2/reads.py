"""Parquet files of Iceberg tables, read by Arrow where Iceberg's planning in the JVM says they lie.

A Spark scan costs a second before its first row, and hands rows over one batch of a task at a time. A merge reads a few
files of which it wants a few columns: Arrow does that in tens of milliseconds. Columns are found by Iceberg's field
ids, row groups by the statistics of the key hash, and rows named by position deletes are left out. What the footer
(:mod:`.footer`) tells already is not read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from airflow_provider_rtlake.exceptions import TerminalError, UserError
from airflow_provider_rtlake.scd2.footer import FIELD_ID, Footer, Memory

_THREADS = 4  # readers wait for the object store most of the time
_GROUPS_AT_ONCE = 32  # row groups decoded together: bounds the memory of a large read
_REMEMBERED = 512  # footers and delete files: both never change


_FOOTERS: Memory[str, Footer] = Memory(_REMEMBERED)
_DELETES: Memory[str, dict[str, np.ndarray[Any, Any]]] = Memory(_REMEMBERED)


@lru_cache(maxsize=8)
def _s3(endpoint: str | None, region: str) -> Any:
    parts = urlsplit(endpoint) if endpoint else None
    # Without keys of its own, the client takes those of the environment, as the JVM beside it does.
    return pafs.S3FileSystem(
        region=region,
        endpoint_override=parts.netloc if parts else None,
        scheme=parts.scheme if parts else None,
        connect_timeout=10,
        request_timeout=60,
    )


@dataclass(frozen=True)
class ObjectStore:
    """Where a catalog's files lie.

    :param settings: of the catalog: ``s3.endpoint``, ``client.region``.
    """

    settings: Mapping[str, str]

    def open(self, location: str) -> Any:
        """Open a file for reading anywhere in it.

        :param location: ``s3://bucket/key``, or a path with or without ``file:``.
        :raises UserError: the location is in another kind of store.
        """
        parts = urlsplit(location)
        if parts.scheme in ("s3", "s3a", "s3n"):
            store = _s3(self.settings.get("s3.endpoint"), self.settings.get("client.region", "us-east-1"))
            return store.open_input_file(location.split("://", 1)[1])
        if parts.scheme in ("", "file"):
            return pafs.LocalFileSystem().open_input_file(location.removeprefix("file://").removeprefix("file:"))
        raise UserError(
            f"{location}: merges read from S3 (s3://) and files; set the catalog's warehouse to one of them"
        )


@dataclass(frozen=True)
class DataTask:
    """A data file to read.

    :param path: its location.
    :param records: rows in it, also deleted ones.
    :param size: bytes.
    :param deletes: locations of the position deletes that may name rows of it.
    :param partition: path of its partition.
    :param java: Iceberg's file, and those of its deletes by location.
    """

    path: str
    records: int
    size: int
    deletes: tuple[str, ...] = ()
    java: Any = field(default=None, compare=False, repr=False)
    java_deletes: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    partition: str = ""


def footer(store: ObjectStore, path: str) -> Footer:
    """A file's metadata."""

    def read() -> Footer:
        with store.open(path) as source:
            return Footer(pq.read_metadata(source))

    return _FOOTERS.get(path, read)


def deleted_rows(store: ObjectStore, paths: Iterable[str], data_file: str) -> np.ndarray[Any, Any]:
    """Rows of a data file that position deletes name, ordered."""
    found = []
    for path in paths:
        by_file = _DELETES.get(path, lambda path=path: _read_deletes(store, path))  # type: ignore[misc]
        if data_file in by_file:
            found.append(by_file[data_file])
    if not found:
        return np.empty(0, np.int64)
    rows: np.ndarray[Any, Any] = np.unique(np.concatenate(found))
    return rows


def _read_deletes(store: ObjectStore, path: str) -> dict[str, np.ndarray[Any, Any]]:
    with store.open(path) as source:
        table = pq.ParquetFile(source, read_dictionary=["file_path"]).read(["file_path", "pos"]).combine_chunks()
    if not table.num_rows:
        return {}
    named = table["file_path"].combine_chunks()
    codes, rows = named.indices.to_numpy(zero_copy_only=False), table["pos"].to_numpy()
    return {name: rows[codes == code] for code, name in enumerate(named.dictionary.to_pylist())}


@dataclass(frozen=True)
class Wanted:
    """What to read of files.

    :param fields: names in the result → field id in the files.
    :param key: the column by which row groups and rows are chosen, or None for every row.
    :param hashes: its values that are wanted, ordered.
    :param between: row groups without a value from the first to the second of these may be left out.
    :param places: also tell ``_file`` and ``_pos`` of each row.
    :param dictionaries: columns with few distinct values.
    """

    fields: Mapping[str, int]
    key: str | None = None
    hashes: np.ndarray[Any, Any] | None = None
    places: bool = False
    dictionaries: frozenset[str] = frozenset()
    between: tuple[int, int] | None = None


def read_files(store: ObjectStore, tasks: Sequence[DataTask], wanted: Wanted, traffic: Any = None) -> list[pa.Table]:
    """Read rows of data files, several files at once; tables come in the order of the files.

    :param traffic: counts what is read.
    """
    return _read_at_once(store, _stretches(store, tasks, wanted, traffic), wanted)


def read_pieces(
    store: ObjectStore, tasks: Sequence[DataTask], wanted: Wanted, rows: int, traffic: Any = None
) -> Iterator[list[pa.Table]]:
    """Read data files piece by piece, so that never much more than one piece is in memory.

    :param rows: of a piece; a larger row group is read at once and handed over in parts.
    :param traffic: counts what is read.
    """
    waiting: list[_Stretch] = []
    for stretch in _stretches(store, tasks, wanted, traffic, at_once=1):
        if waiting and sum(one.rows for one in waiting) + stretch.rows > rows:
            yield from _parts(_read_at_once(store, waiting, wanted), rows)
            waiting = []
        waiting.append(stretch)
    if waiting:
        yield from _parts(_read_at_once(store, waiting, wanted), rows)


def _parts(tables: list[pa.Table], rows: int) -> Iterator[list[pa.Table]]:
    if sum(table.num_rows for table in tables) <= 2 * rows:
        yield tables
        return
    for table in tables:
        for start in range(0, table.num_rows, rows):
            yield [table.slice(start, rows)]


class _Stretch(NamedTuple):
    """Row groups of a file that are read together."""

    task: DataTask
    groups: list[int]
    rows: int


def _stretches(
    store: ObjectStore, tasks: Sequence[DataTask], wanted: Wanted, traffic: Any, at_once: int = _GROUPS_AT_ONCE
) -> list[_Stretch]:
    if len(tasks) > 1:  # footers that are not remembered are asked for side by side
        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(lambda task: footer(store, task.path), tasks))
    found = []
    deletes: set[str] = set()
    for task in tasks:
        groups = _groups(store, task, wanted)
        if not groups:
            continue
        deletes |= set(task.deletes)
        sizes = [footer(store, task.path).rows(group) for group in groups]
        if traffic is not None:
            traffic.read(1, task.size, sum(sizes))
        for start in range(0, len(groups), at_once):
            found.append(_Stretch(task, groups[start : start + at_once], sum(sizes[start : start + at_once])))
    if traffic is not None:
        traffic.read(len(deletes), 0, 0)
    return found


def _read_at_once(store: ObjectStore, stretches: Sequence[_Stretch], wanted: Wanted) -> list[pa.Table]:
    if len(stretches) < 2:
        return [_piece(store, one.task, one.groups, wanted) for one in stretches]
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(lambda one: _piece(store, one.task, one.groups, wanted), stretches))


def _names(schema: pa.Schema, wanted: Mapping[str, int]) -> dict[str, str]:
    """Name in the result → name in the file, for the columns that the file has."""
    by_id = {
        int(column.metadata[FIELD_ID]): column.name
        for column in schema
        if column.metadata is not None and FIELD_ID in column.metadata
    }
    if not by_id:
        return {name: name for name in wanted if name in schema.names}
    return {name: by_id[number] for name, number in wanted.items() if number in by_id}


def _groups(store: ObjectStore, task: DataTask, wanted: Wanted) -> list[int]:
    found = footer(store, task.path)
    every = list(range(found.metadata.num_row_groups))
    if wanted.key is None or (wanted.hashes is None and wanted.between is None):
        return every
    name = _names(found.schema, {wanted.key: wanted.fields[wanted.key]}).get(wanted.key)
    bounds = None if name is None else found.bounds(name)
    if bounds is None:
        return every
    if wanted.hashes is None:
        least, greatest = wanted.between or (-(2**63), 2**63 - 1)
        return [group for group in every if bounds[1][group] >= least and bounds[0][group] <= greatest]
    first = np.searchsorted(wanted.hashes, bounds[0], "left")
    last = np.searchsorted(wanted.hashes, bounds[1], "right")
    return [group for group in every if first[group] < last[group]]


def _piece(store: ObjectStore, task: DataTask, groups: list[int], wanted: Wanted) -> pa.Table:
    found = footer(store, task.path)
    names = _names(found.schema, wanted.fields)
    asked = {names[name] for name in wanted.dictionaries if name in names}
    repeating = found.repeating(groups[0])
    constant = found.constants(groups) - {names.get(wanted.key or "", "")}
    # One at least is read: it tells how many rows there are.
    read = [own for own in names.values() if own not in constant] or list(names.values())[:1]
    with store.open(task.path) as source:
        file = pq.ParquetFile(source, metadata=found.metadata, pre_buffer=True, read_dictionary=[*(asked | repeating)])
        rows = file.read_row_groups(groups, columns=read, use_threads=False)
    back = {own: name for name, own in names.items()}
    rows = rows.rename_columns([back[name] for name in rows.column_names])
    positions = found.positions(groups)
    keep = _kept(store, task, rows, positions, wanted)
    if keep is not None:
        rows, positions = rows.take(pa.array(keep)), positions[keep]
    rows = _completed(rows, names, found, groups, repeating - asked)
    if wanted.places:
        same = pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(positions), np.int32)), pa.array([task.path]))
        rows = rows.append_column("_file", same).append_column("_pos", pa.array(positions))
    return rows


def _completed(
    rows: pa.Table, names: Mapping[str, str], found: Footer, groups: Sequence[int], plain: set[str]
) -> pa.Table:
    """Rows with the columns that were not read, and with plain texts.

    :param names: name in the result → name in the file.
    :param groups: whose rows they are.
    :param plain: columns of the file whose texts are wanted plain, however they were read.
    """
    columns = {}
    for name, own in names.items():
        if name not in rows.column_names:
            columns[name] = found.constant(own, groups, rows.num_rows)
        elif own in plain and pa.types.is_dictionary(rows[name].type):
            columns[name] = rows[name].cast(rows[name].type.value_type)
        else:
            columns[name] = rows[name]
    return pa.table(columns)


def _kept(
    store: ObjectStore, task: DataTask, rows: pa.Table, positions: np.ndarray[Any, Any], wanted: Wanted
) -> np.ndarray[Any, Any] | None:
    """Which rows are wanted, None for all."""
    mask = None
    if wanted.key is not None and wanted.hashes is not None and wanted.key in rows.column_names:
        found = rows[wanted.key].to_numpy()
        places = np.searchsorted(wanted.hashes, found)
        places[places == len(wanted.hashes)] = 0
        mask = wanted.hashes[places] == found if len(wanted.hashes) else np.zeros(len(found), bool)
    gone = deleted_rows(store, task.deletes, task.path)
    if len(gone):
        alive = ~np.isin(positions, gone, assume_unique=True)
        mask = alive if mask is None else mask & alive
    if mask is None or mask.all():
        return None
    return np.flatnonzero(mask)


def refuse_equality_delete(path: str, content: str) -> None:
    """Position deletes in Parquet are all that merges write and read.

    :raises TerminalError: another kind of delete file.
    """
    if content != "POSITION_DELETES" or not path.endswith(".parquet"):
        raise TerminalError(f"{path}: {content}: rewrite the table's data files first (maintenance DAG), then merge")


def deletes_of(store: ObjectStore, path: str) -> dict[str, np.ndarray[Any, Any]]:
    """What a file of position deletes names, read from the store: data file → row numbers."""
    return _read_deletes(store, path)
