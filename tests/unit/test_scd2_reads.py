"""Files are read as they were written, whatever is left unread because the footer tells it."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_rtlake.scd2.footer import Footer
from airflow_provider_rtlake.scd2.lake import repeating
from airflow_provider_rtlake.scd2.reads import DataTask, ObjectStore, Wanted, read_files

STORE = ObjectStore({})
MOMENT = dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc)
KINDS: dict[str, tuple[pa.DataType, list[Any]]] = {
    "small": (pa.int32(), [0, 1, -(2**31)]),
    "large": (pa.int64(), [0, 2**62, -(2**63)]),
    "flag": (pa.bool_(), [True, False]),
    "moment": (pa.timestamp("us", "UTC"), [MOMENT, dt.datetime(1, 1, 1, tzinfo=dt.timezone.utc)]),
    "naive": (pa.timestamp("us"), [dt.datetime(2026, 1, 1), dt.datetime(9999, 12, 31, 23, 59, 59, 999999)]),
    "day": (pa.date32(), [dt.date(2026, 1, 1), dt.date(1, 1, 1)]),
    "clock": (pa.time64("us"), [dt.time(1, 2, 3, 4), dt.time(0)]),
    "money": (pa.decimal128(10, 2), [Decimal("1.10"), Decimal("-99999999.99")]),
    "wide": (pa.decimal128(38, 10), [Decimal("1.1"), Decimal("-7.0000000001")]),
    "real": (pa.float64(), [0.0, -0.0, float("nan"), float("inf")]),
    "text": (pa.string(), ["", "a", "x" * 5000]),
    "bytes": (pa.binary(), [b"", b"\x00\xff"]),
}


def written(path: Path, rows: pa.Table, **options: Any) -> DataTask:
    fields = [one.with_metadata({"PARQUET:field_id": str(number + 1)}) for number, one in enumerate(rows.schema)]
    pq.write_table(rows.cast(pa.schema(fields)), path, **{"row_group_size": 4, "store_schema": False} | options)
    return DataTask(str(path), rows.num_rows, path.stat().st_size)


def ids(rows: pa.Table) -> dict[str, int]:
    return {name: number + 1 for number, name in enumerate(rows.column_names)}


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    """Columns of which many are null or the same throughout, some in parts only."""
    count = draw(st.integers(1, 14))
    columns = {"key": pa.array(range(count), pa.int64())}
    for name, (kind, values) in KINDS.items():
        one = st.sampled_from([*values, None])
        column = draw(st.one_of(one.map(lambda value: [value] * count), st.lists(one, min_size=count, max_size=count)))
        columns[name] = pa.array(column, kind)
    return pa.table(columns)


@settings(max_examples=150, deadline=None)
@given(tables(), st.booleans(), st.data())
def test_what_is_read_is_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, rows: pa.Table, as_integer: bool, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("reads") / "file.parquet"
    task = written(path, rows, store_decimal_as_integer=as_integer)
    wanted = data.draw(st.sets(st.integers(0, rows.num_rows - 1)))
    (found,) = read_files(STORE, [task], Wanted(ids(rows))) or [None]
    assert found is not None and same(found, rows)
    hashes = np.array(sorted(wanted), np.int64)
    some = read_files(STORE, [task], Wanted(ids(rows), "key", hashes, places=True))
    assert sum(one.num_rows for one in some) == len(wanted)
    for one in some:
        assert one["_pos"].to_pylist() == one["key"].to_pylist()
        assert same(one.drop_columns(["_file", "_pos"]), rows.take(one["key"].combine_chunks()))


def same(found: pa.Table, wanted: pa.Table) -> bool:
    """Equal, with the types, to the last bit of a number."""
    assert found.column_names == wanted.column_names
    for name in wanted.column_names:
        assert found[name].type == wanted[name].type, name
        assert repr(found[name].to_pylist()) == repr(wanted[name].to_pylist()), name
    return True


def test_the_footer_tells_constants_and_repeated_texts(tmp_path: Path) -> None:
    rows = pa.table(
        {
            "key": pa.array(range(8), pa.int64()),
            "none": pa.nulls(8, pa.string()),
            "one": pa.array([7] * 8, pa.int32()),
            "halves": pa.array([1] * 4 + [2] * 4, pa.int32()),
            "gaps": pa.array([1, None] * 4, pa.int32()),
            "same": pa.array(["a" * 100] * 8),
            "zero": pa.array([0.0] * 8),
        }
    )
    task = written(tmp_path / "file.parquet", rows)
    footer = Footer(pq.read_metadata(task.path))
    assert footer.constants([0, 1]) == {"none", "one"}
    assert footer.constants([1]) == {"none", "one", "halves"}
    assert footer.constant("halves", [1], 3).to_pylist() == [2, 2, 2]
    assert footer.positions([1]).tolist() == [4, 5, 6, 7]
    large = pa.table({"same": ["a"] * 5000, "other": [f"text {number}" for number in range(5000)]})
    task = written(tmp_path / "large.parquet", large, row_group_size=5000)
    assert Footer(pq.read_metadata(task.path)).repeating(0) == {"same"}


def test_columns_that_are_constant_all_together_keep_their_rows(tmp_path: Path) -> None:
    rows = pa.table({"one": pa.array([7] * 5, pa.int64()), "none": pa.nulls(5, pa.string())})
    task = written(tmp_path / "file.parquet", rows)
    (found,) = read_files(STORE, [task], Wanted(ids(rows)))
    assert same(found, rows)


def test_repeated_texts_of_several_row_groups_are_told_apart(tmp_path: Path) -> None:
    """Each row group has a dictionary of its own, in which one number stands for another text."""
    size = 2000
    texts = [f"{'even' if row % 2 else 'odd'} of group {row // size}" for row in range(3 * size)]
    rows = pa.table({"key": pa.array(range(3 * size), pa.int64()), "text": texts})
    task = written(tmp_path / "file.parquet", rows, row_group_size=size)
    assert Footer(pq.read_metadata(task.path)).repeating(0) == {"text"}
    (found,) = read_files(STORE, [task], Wanted(ids(rows)))
    assert same(found, rows)
    hashes = np.arange(3, 3 * size, 7)
    (some,) = read_files(STORE, [task], Wanted(ids(rows), "key", hashes))
    assert same(some, rows.take(pa.array(hashes)))


@pytest.mark.parametrize("kind", [kind for kind, _ in KINDS.values()], ids=list(KINDS))
def test_whether_values_repeat_is_told_of_every_type(kind: pa.DataType) -> None:
    rows = pa.table({"value": pa.array([KINDS[name][1][0] for name in KINDS if KINDS[name][0] == kind] * 4, kind)})
    assert repeating(rows) == ["value"]
    assert repeating(rows.slice(0, 1)) == []
