"""The files of one merge: written as its chunks come, read back from the store, and committed at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import pyarrow as pa

from airflow_provider_rtlake.scd2.columns import Batch
from airflow_provider_rtlake.scd2.compact import tidy
from airflow_provider_rtlake.scd2.lake import Table, Traffic, begin_leaves
from airflow_provider_rtlake.scd2.planning import Whole
from airflow_provider_rtlake.scd2.reads import DataTask, Wanted, read_files
from airflow_provider_rtlake.scd2.render import change_rows, partitions
from airflow_provider_rtlake.scd2.rows import Array
from airflow_provider_rtlake.scd2.store import conform
from airflow_provider_rtlake.scd2.tables import Layout, arrow_schema, changes_table
from airflow_provider_rtlake.scd2.writing import check_deletes, check_file, sorted_rows

Rows = dict[str, pa.Table]  # partition path → rows
Gone = dict[str, dict[str, Array]]  # partition path → data file → numbers of rows, ordered


class HistoryFiles:
    """What one merge does to the history.

    :param table: the history on the merge's branch.
    :param layout: of its rows.
    :param traffic: counts what is read and written.
    """

    def __init__(self, table: Table, layout: Layout, merge_id: str, traffic: Traffic) -> None:
        self.table = table
        self.snapshot = table.snapshot_id
        self._layout, self._merge_id, self._traffic = layout, merge_id, traffic
        self._tasks: dict[str, DataTask] = {}
        self._added: list[Any] = []
        self._gone: dict[str, dict[str, list[Array]]] = {}
        self._removed: list[Any] = []
        self._removed_deletes: list[Any] = []
        self._checks: list[Future[None]] = []
        self._tidied = False

    def add(self, whole: Whole, tasks: Mapping[str, DataTask], *, alone: bool = False) -> None:
        """Write the rows of a chunk.

        :param tasks: data files of last versions that the plan looked at.
        :param alone: there is no other chunk: small files are then written together with its rows.
        """
        self._tasks |= tasks
        rows = self._rows(whole)
        for where, files in _gone(whole).items():
            mine = self._gone.setdefault(where, {})
            for path, numbers in files.items():
                mine.setdefault(path, []).append(numbers)
        if alone:
            self._tidy(rows)
        self._write(rows)

    def finish(self) -> None:
        """Tidy the touched buckets, and commit everything as one snapshot."""
        if not self._tidied:
            rows: Rows = {}
            self._tidy(rows)
            self._write(rows)
        gone = self._gone_rows()
        if self._added or gone or self._removed:
            deletes = self.table.write_deletes(gone, self._traffic)
            self._check(check_deletes, list(zip(deletes, gone.values(), strict=True)))
            self.snapshot = self.table.replace(
                self._added,
                deletes,
                {"rtlake.merge-id": self._merge_id},
                removed=self._removed,
                removed_deletes=self._removed_deletes,
            )
        self._wait()

    def _write(self, rows: Rows) -> None:
        self._wait()  # so that the rows of one chunk only are in memory
        files = self.table.write(rows, self._traffic)
        self._added += files
        self._check(check_file, list(zip(files, rows.values(), strict=True)))

    def _check(self, check: Any, written: Sequence[tuple[Any, Any]]) -> None:
        """Read files back while something else goes on."""
        store = self.table.lake.store
        self._checks += begin_leaves(lambda pair: check(store, *pair), written)

    def _wait(self) -> None:
        checks, self._checks = self._checks, []
        for one in checks:
            one.result()

    def _gone_rows(self) -> Gone:
        return {
            where: {path: np.sort(np.concatenate(numbers)) for path, numbers in files.items()}
            for where, files in self._gone.items()
            if files
        }

    def _rows(self, whole: Whole) -> Rows:
        layout = self._layout
        found = {where: [rows] for where, rows in layout.rows(whole.plan.added).items()}
        if whole.bulk.versions is not None:
            bulk = partitions(whole.bulk.versions, layout.schema, layout.buckets, layout.columns, layout.untracked)
            for where, rows in bulk.items():
                found.setdefault(where, []).append(rows)
        return {
            f"scd2_last={str(last).lower()}/scd2_bucket={bucket}": sorted_rows(tables, "effective_start_ts")
            for (last, bucket), tables in found.items()
        }

    def _tidy(self, rows: Rows) -> None:
        """Keep the files of the touched buckets few: alters what is written and deleted, tells which files go."""
        self._tidied = True
        gone = self._gone_rows()
        store, schema = self.table.lake.store, self._layout.schema
        places = [pa.field("_file", pa.string()), pa.field("_pos", pa.int64())]
        wanted = Wanted(self.table.field_ids(), places=True)

        def read(tasks: Sequence[DataTask]) -> pa.Table:
            return conform(read_files(store, tasks, wanted, self._traffic), pa.schema([*schema, *places]))

        for where in sorted({*rows, *gone}):
            tasks = [task for task in self._tasks.values() if task.partition == where]
            if not tasks:
                continue
            found = tidy(store, tasks, gone.get(where, {}), read)
            self._removed += found.removed
            self._removed_deletes += found.removed_deletes
            self._gone[where] = {path: [numbers] for path, numbers in found.positions.items()}
            if found.rows is not None and found.rows.num_rows:
                again = pa.table([found.rows[one.name] for one in schema], schema=schema)
                own = [rows[where]] if where in rows else []
                rows[where] = sorted_rows([*own, again], "effective_start_ts")


class ChangesFiles:
    """What one merge adds to the table of applied changes.

    :param table: that table on the merge's branch.
    :param buckets: its partitions.
    :param traffic: counts what is written.
    """

    def __init__(self, table: Table, buckets: int, merge_id: str, traffic: Traffic) -> None:
        self.table = table
        self._buckets, self._merge_id, self._traffic = buckets, merge_id, traffic
        self._schema = arrow_schema(table.schema_json)
        self._added: list[Any] = []

    def add(self, whole: Whole, batch: Batch) -> None:
        """Write the rows of a chunk."""
        found: dict[int, list[pa.Table]] = {}
        slow = changes_table(whole.plan.applied, self._schema, self._buckets, self._merge_id)
        rows = whole.bulk.applied
        plain = change_rows(batch, rows, whole.plain, self._schema, self._buckets, self._merge_id)
        for tables in (slow, plain):
            for bucket, table in tables.items():
                found.setdefault(bucket, []).append(table)
        merged = {f"scd2_bucket={bucket}": sorted_rows(tables, "position") for bucket, tables in found.items()}
        self._added += self.table.write(merged, self._traffic)

    def commit(self) -> None:
        """Commit everything as one snapshot."""
        if self._added:
            self.table.append(self._added, {"rtlake.merge-id": self._merge_id})


def _gone(whole: Whole) -> Gone:
    """Rows that go by a chunk."""
    found: dict[str, dict[str, list[int]]] = {}
    for stored in whole.plan.removed:
        path, row, bucket = stored.ref
        partition = found.setdefault(f"scd2_last={str(stored.last).lower()}/scd2_bucket={bucket}", {})
        partition.setdefault(path, []).append(row)
    result = {where: {path: np.array(rows, np.int64) for path, rows in files.items()} for where, files in found.items()}
    for bucket, files in whole.bulk.removed.items():
        partition_ = result.setdefault(f"scd2_last=true/scd2_bucket={bucket}", {})
        for path, rows in files.items():
            partition_[path] = np.concatenate([partition_.get(path, np.empty(0, np.int64)), rows])
    return result
