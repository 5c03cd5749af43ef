"""What a merge reads of its table: the last versions of the touched keys, and more only where a late change
needs it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_provider_rtlake.scd2.change import Change, ChangeReader, key_hash
from airflow_provider_rtlake.scd2.fold import Refused
from airflow_provider_rtlake.scd2.lake import Table, Traffic
from airflow_provider_rtlake.scd2.plan import Stored
from airflow_provider_rtlake.scd2.reads import DataTask, Wanted, read_files
from airflow_provider_rtlake.scd2.stretch import Stretch
from airflow_provider_rtlake.scd2.tables import CHANGES_COLUMNS, HISTORY_COLUMNS, Layout, arrow_schema, read_changes

_NOT_READ = frozenset({"record_hash", "is_current"})  # they follow from the other columns
_MOVED = r"__debezium\.(new|old)key"
Hashes = np.ndarray[Any, Any]


def hashes_of(keys: Iterable[str]) -> Hashes:
    """Distinct hashes of keys, ordered."""
    return np.unique(np.fromiter((key_hash(key) for key in keys), np.int64))


class LakeStore:
    """The history on one reference.

    :param history: the history table, None before the first merge.
    :param changes: the table of applied changes, None likewise.
    :param layout: of the history.
    :param reader: for changes that are read again.
    :param traffic: counts what is read.
    :param aliases: column of the plan → column of the table, where a rename is about to happen.
    :param steps: measures reading, where it is asked to.
    :param stretch: keys to which "every" is limited.
    """

    def __init__(
        self,
        history: Table | None,
        changes: Table | None,
        layout: Layout | None,
        reader: ChangeReader,
        traffic: Traffic,
        aliases: Mapping[str, str] | None = None,
        steps: Any = None,
        stretch: Stretch | None = None,
    ) -> None:
        self._history = history
        self._changes = changes
        self._layout = layout
        self._reader = reader
        self._traffic = traffic
        self._aliases = dict(aliases or {})
        self._steps = steps
        self._stretch = stretch or Stretch()
        self._loaded: tuple[Hashes, pa.Table] | None = None
        self.tasks: dict[str, DataTask] = {}  # the data files of last versions that were looked at

    def load(self, hashes: Hashes) -> pa.Table | None:
        """Read the last versions of keys at once; :meth:`last_versions` of them reads nothing more.

        :param hashes: of the keys, ordered and distinct.
        :return: their rows with ``_file`` and ``_pos``; None before the first merge.
        """
        if self._history is None or self._layout is None:
            return None
        with self._steps.timed("read history") if self._steps else nullcontext():
            rows = self._rows(hashes, last=True)
        self._loaded = hashes, rows
        return rows

    def last_versions(self, keys: Collection[str]) -> dict[str, Stored]:
        """See :class:`.plan.Store`.

        :raises Refused: the table holds two last versions of a key.
        """
        rows = self.last_rows(keys)
        crowded = sorted(key for key, found in rows.items() if len(found) > 1)
        if crowded:
            raise Refused("a key has more than one last version", crowded)
        return {key: found[0] for key, found in rows.items()}

    def last_rows(self, keys: Collection[str]) -> dict[str, list[Stored]]:
        """As :meth:`last_versions`, but with everything that is there: for the check."""
        return _by_key(self._touched(keys, last=True))

    def open_versions(self) -> dict[str, Stored]:
        """See :class:`.plan.Store`."""
        if self._history is None:
            return {}
        rows = self._rows(self._stretch.named, last=True)
        own = self._stretch.holds(rows["scd2_key_hash"].to_numpy())
        found = self._versions(rows.filter(pa.array(own & rows["effective_end_ts"].is_null().to_numpy())))
        return {stored.version.key: stored for stored in found if stored.version.is_current}

    def all_versions(self, keys: Collection[str]) -> dict[str, list[Stored]]:
        """See :class:`.plan.Store`."""
        found = sorted(self._touched(keys, last=None), key=lambda stored: stored.version.start)
        return _by_key(found)

    def applied_changes(self, keys: Collection[str]) -> dict[str, list[Change]]:
        """See :class:`.plan.Store`."""
        result: dict[str, list[Change]] = {}
        if self._changes is None or not keys:
            return result
        wanted = set(keys)
        for raw in read_changes(self._change_rows([name for name, _ in CHANGES_COLUMNS], hashes_of(keys))):
            change = self._reader.read(raw)
            if change.key in wanted:
                result.setdefault(str(change.key), []).append(change)
        return result

    def all_keys(self) -> set[str]:
        """See :class:`.plan.Store`."""
        if self._changes is None:
            return set()
        rows = self._change_rows(["scd2_key", "scd2_key_hash"], self._stretch.named)
        own = self._stretch.holds(rows["scd2_key_hash"].to_numpy())
        return set(rows.filter(pa.array(own))["scd2_key"].unique().to_pylist())

    def moved_keys(self) -> Hashes:
        """Hashes of every key whose primary key was ever changed, or that came by such a change."""
        rows = self._change_rows(["scd2_key_hash", "headers"], None)
        moved = pc.match_substring_regex(rows["headers"], _MOVED)
        hashes: Hashes = np.unique(rows.filter(pc.fill_null(moved, False))["scd2_key_hash"].to_numpy())
        return hashes

    def _change_rows(self, names: list[str], hashes: Hashes | None) -> pa.Table:
        table = self._changes
        if table is None:
            return pa.schema([(name, pa.string()) for name in names]).empty_table()
        ids = table.field_ids()
        fields = {name: ids[name] for name in {*names, "scd2_key_hash"}}
        wanted = Wanted(
            fields, "scd2_key_hash", hashes, between=None if hashes is not None else self._stretch.between()
        )
        found = read_files(table.lake.store, table.tasks(buckets=self._buckets(hashes)), wanted, self._traffic)
        schema = arrow_schema(table.schema_json)
        return conform(found, pa.schema([schema.field(name) for name in names]))

    def _touched(self, keys: Collection[str], *, last: bool | None) -> list[Stored]:
        if self._history is None or not keys:
            return []
        hashes = hashes_of(keys)
        if last and self._loaded is not None and np.isin(hashes, self._loaded[0], assume_unique=True).all():
            rows = self._loaded[1]
            mask = np.isin(rows["scd2_key_hash"].to_numpy(), hashes)
            rows = rows.filter(pa.array(mask))
        else:
            rows = self._rows(hashes, last=last)
        wanted = set(keys)
        return [stored for stored in self._versions(rows) if stored.version.key in wanted]

    def _buckets(self, hashes: Hashes | None) -> list[int] | None:
        """Partitions to look at, None for all."""
        if hashes is None or self._layout is None:
            return self._stretch.touched()
        touched = np.unique(np.mod(hashes, self._layout.buckets)).tolist()
        return touched if len(touched) < self._layout.buckets else None

    def _rows(self, hashes: Hashes | None, *, last: bool | None) -> pa.Table:
        history, layout = self._history, self._layout
        if history is None or layout is None:
            raise ValueError("there is no history to read")
        ids = history.field_ids()
        names = [name for name in (*layout.columns, *(name for name, _ in HISTORY_COLUMNS)) if name not in _NOT_READ]
        fields = {name: ids[own] for name in names if (own := self._aliases.get(name, name)) in ids}
        none = hashes is not None and not len(hashes)
        tasks = [] if none else history.tasks(last=last, buckets=self._buckets(hashes) if last else None)
        if last:
            self.tasks |= {task.path: task for task in tasks}
        between = None if hashes is not None else self._stretch.between()
        wanted = Wanted(fields, "scd2_key_hash", hashes, places=True, between=between)
        found = read_files(history.lake.store, tasks, wanted, self._traffic)
        back = {own: name for name, own in self._aliases.items()}
        kinds = {back.get(field.name, field.name): field.type for field in arrow_schema(history.schema_json)}
        places = [pa.field("_file", pa.string()), pa.field("_pos", pa.int64())]
        return conform(found, pa.schema([*(pa.field(name, kinds.get(name, pa.null())) for name in names), *places]))

    def _versions(self, rows: pa.Table) -> list[Stored]:
        return [] if self._layout is None else self._layout.read(rows)


def conform(tables: list[pa.Table], schema: pa.Schema) -> pa.Table:
    """Tables as one with the schema's columns: a missing one is null, a narrower type is widened."""
    columns = []
    for field in schema:
        chunks: list[Any] = []
        for table in tables:
            if field.name not in table.column_names:
                chunks.append(pa.nulls(table.num_rows, field.type))
                continue
            column = table[field.name]
            column = column if column.type == field.type else column.cast(field.type)
            chunks += column.chunks
        columns.append(pa.chunked_array(chunks, field.type))
    return pa.table(columns, schema=pa.schema([pa.field(field.name, field.type) for field in schema]))


def _by_key(found: list[Stored]) -> dict[str, list[Stored]]:
    result: dict[str, list[Stored]] = {}
    for stored in found:
        result.setdefault(stored.version.key, []).append(stored)
    return result
