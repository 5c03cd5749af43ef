"""What a merge wrote, and the proof that its branch holds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_provider_rtlake.scd2.arrays import alike
from airflow_provider_rtlake.scd2.change import Unread
from airflow_provider_rtlake.scd2.checks import check_written
from airflow_provider_rtlake.scd2.fold import Refused
from airflow_provider_rtlake.scd2.planning import Whole
from airflow_provider_rtlake.scd2.reads import DataTask, ObjectStore, Wanted, deletes_of, read_files
from airflow_provider_rtlake.scd2.rows import Array
from airflow_provider_rtlake.scd2.store import LakeStore, conform

_NONE = -1  # how Nessie tells of a table without a snapshot
_RULE = "the branch does not hold what was to be written"


def check_file(store: ObjectStore, file: Any, rows: pa.Table) -> None:
    """Read a data file back from the store and compare.

    :param file: Iceberg's.
    :param rows: that it was to hold.
    :raises Refused: it holds something else.
    """
    ids = {one.name: int(one.metadata[b"PARQUET:field_id"]) for one in rows.schema}
    task = DataTask(str(file.location()), int(file.recordCount()), int(file.fileSizeInBytes()))
    if not _equal(conform(read_files(store, [task], Wanted(ids)), rows.schema), rows):
        raise Refused(_RULE, sorted(set(rows["scd2_key"].to_pylist())))


def check_deletes(store: ObjectStore, file: Any, positions: Mapping[str, Array]) -> None:
    """Read a file of position deletes back and compare.

    :param positions: data file → numbers of the rows that it was to name.
    :raises Refused: it names others.
    """
    named = deletes_of(store, str(file.location()))
    if named.keys() != positions.keys() or any(not np.array_equal(named[one], positions[one]) for one in named):
        raise Refused(_RULE, sorted(named)[:1])


def check_alone(snapshot: int | None, now: int | None) -> None:
    """What was there before was read for the plan, so it is enough that this merge's commit alone came on top of it.

    :param snapshot: that this merge made, None for none.
    :param now: that the branch has, -1 for none.
    :raises Refused: another one.
    """
    if (snapshot or _NONE) != (now or _NONE):
        raise Refused("another writer changed the merge's branch: its snapshot is", [str(now)])


def check_anew(whole: Whole, store: LakeStore) -> None:
    """Keys that were folded anew are read once more, with everything that stood before.

    :param store: reads the branch.
    :raises Refused: naming the rule and the keys that break it.
    """
    plan = whole.plan
    anew = {key: plan.expected[key] for key in plan.anew}
    check_written(plan, store.last_rows(plan.expected.keys()), store.all_versions(anew.keys()))


def _equal(left: pa.Table, right: pa.Table) -> bool:
    if left.num_rows != right.num_rows:
        return False
    if left.equals(right.cast(left.schema)):
        return True
    pairs = ((left[name].combine_chunks(), right[name].combine_chunks()) for name in left.column_names)
    return all(bool(alike(one, other).all()) for one, other in pairs)


def sorted_rows(tables: Sequence[pa.Table], then: str) -> pa.Table:
    """Tables as one, ordered by key hash.

    :param then: column that decides between rows of one key.
    """
    if len(tables) == 1:
        return tables[0]
    whole = pa.concat_tables([table.cast(_without_dictionaries(table.schema)) for table in tables])
    order = pc.sort_indices(whole, [("scd2_key_hash", "ascending"), (then, "ascending")])
    return whole.take(order).combine_chunks()


def _without_dictionaries(schema: pa.Schema) -> pa.Schema:
    return pa.schema(
        [one.with_type(one.type.value_type) if pa.types.is_dictionary(one.type) else one for one in schema]
    )


def unread_table(unread: Sequence[Unread], schema: pa.Schema, merge_id: str) -> pa.Table:
    """Rows of bronze that are no changes, as rows of their table."""
    rows = [(*one, merge_id) for one in unread]
    names = (*Unread._fields, "merge_id")
    content = dict(zip(names, zip(*rows, strict=True), strict=True))
    return pa.table([pa.array(content[one.name], one.type) for one in schema], schema=schema)
