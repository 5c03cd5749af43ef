"""A bucket's files stay few, and hold what they held."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_provider_rtlake.scd2 import compact
from airflow_provider_rtlake.scd2.compact import Tidied, tidy
from airflow_provider_rtlake.scd2.reads import DataTask, ObjectStore, Wanted, read_files

_ID = {"PARQUET:field_id": "1"}
STORE = ObjectStore({})


class Bucket:
    """Data files and position deletes in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, tuple[int, set[str]]] = {}
        self._number = 0

    def add(self, values: Sequence[int]) -> str:
        self._number += 1
        path = str(self.folder / f"{self._number}.parquet")
        schema = pa.schema([pa.field("v", pa.int64(), metadata=_ID)])
        pq.write_table(pa.table([pa.array(values, pa.int64())], schema=schema), path)
        self.files[path] = len(values), set()
        return path

    def delete(self, positions: dict[str, Any]) -> None:
        self._number += 1
        path = str(self.folder / f"{self._number}-d.parquet")
        rows = [(name, int(row)) for name in sorted(positions) for row in positions[name]]
        pq.write_table(pa.table({"file_path": [one for one, _ in rows], "pos": [row for _, row in rows]}), path)
        for name in self.files:
            self.files[name][1].add(path)

    def tasks(self) -> list[DataTask]:
        return [
            DataTask(path, count, 1, tuple(sorted(deletes)), path, {one: one for one in deletes})
            for path, (count, deletes) in self.files.items()
        ]

    def read(self, tasks: Sequence[DataTask]) -> pa.Table:
        return pa.concat_tables(read_files(STORE, tasks, Wanted({"v": 1}, places=True)))

    def values(self) -> list[int]:
        return sorted(self.read(self.tasks())["v"].to_pylist())

    def merge(self, fresh: Sequence[int], gone: dict[str, Any]) -> Tidied:
        """As a merge does it: tidy, write, commit."""
        found = tidy(STORE, self.tasks(), gone, self.read)
        rows = [*(found.rows["v"].to_pylist() if found.rows is not None else []), *fresh]
        for path in found.removed:
            del self.files[path]
        for path in found.removed_deletes:
            for _, deletes in self.files.values():
                deletes.discard(path)
        if found.positions:
            self.delete(found.positions)
        if rows:
            self.add(rows)
        return found


@pytest.fixture
def bucket(tmp_path: Path) -> Bucket:
    return Bucket(tmp_path)


def place(bucket: Bucket, values: Sequence[int]) -> dict[str, Any]:
    rows = bucket.read(bucket.tasks()).to_pylist()
    found: dict[str, list[int]] = {}
    for row in rows:
        if row["v"] in values:
            found.setdefault(row["_file"], []).append(row["_pos"])
    return {path: np.array(sorted(numbers), np.int64) for path, numbers in found.items()}


def test_hundreds_of_merges_leave_few_files_and_the_right_rows(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compact, "SMALL_ROWS", 50)
    chance = np.random.default_rng(3)
    held = list(range(300))
    bucket.add(held)
    for _ in range(120):
        old = sorted(chance.choice(held, 5, replace=False).tolist())
        new = [value + 1000 for value in old]
        bucket.merge(new, place(bucket, old))
        held = sorted([*(set(held) - set(old)), *new])
        assert bucket.values() == held
        small = [count for count, _ in bucket.files.values() if count < 50]
        assert len(small) <= compact.SEVERAL
        assert max(len(deletes) for _, deletes in bucket.files.values()) <= compact.SEVERAL
    assert len(bucket.files) <= 16


def test_a_file_without_a_living_row_goes_without_being_read(bucket: Bucket) -> None:
    path = bucket.add([1, 2, 3])
    found = bucket.merge([11, 12, 13], place(bucket, [1, 2, 3]))
    assert (found.rows, found.removed, found.positions) == (None, [path], {})
    assert bucket.values() == [11, 12, 13]


def test_the_rest_of_a_mostly_dead_file_is_written_again(bucket: Bucket) -> None:
    path = bucket.add([1, 2, 3, 4, 5])
    bucket.merge([11], place(bucket, [1]))
    found = bucket.merge([12, 13], place(bucket, [2, 3]))
    assert found.rows is not None
    assert found.rows["v"].to_pylist() == [4, 5]
    assert found.removed == [path]
    assert len(found.removed_deletes) == 1
    assert bucket.values() == [4, 5, 11, 12, 13]
