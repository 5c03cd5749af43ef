"""What a merge wrote, and the proof that its branch holds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_provider_rtlake.scd2.bulk import alike
from airflow_provider_rtlake.scd2.change import Unread
from airflow_provider_rtlake.scd2.checks import check_written
from airflow_provider_rtlake.scd2.columns import Array
from airflow_provider_rtlake.scd2.fold import Refused
from airflow_provider_rtlake.scd2.lake import Table
from airflow_provider_rtlake.scd2.planning import Whole
from airflow_provider_rtlake.scd2.reads import DataTask, ObjectStore, Wanted, deletes_of, read_files
from airflow_provider_rtlake.scd2.store import LakeStore, conform

_RULE = "the branch does not hold what was to be written"
_COMPARED = ("is_deleted", "scd2_last_position")


@dataclass(frozen=True)
class Written:
    """One commit to the history.

    :param snapshot: that it made.
    :param files: Iceberg's data files, and the rows that each was to hold.
    :param deletes: Iceberg's delete files, and the rows (data file → numbers) that each was to name.
    """

    snapshot: int | None
    files: Sequence[tuple[Any, pa.Table]] = field(default_factory=list)
    deletes: Sequence[tuple[Any, Mapping[str, Array]]] = field(default_factory=list)


def check_branch(whole: Whole, written: Written, now: Table | None, store: LakeStore) -> None:
    """Compare what the branch holds with what the merge meant to write.

    What was there before was read for the plan, so it is enough that this commit alone came on top of it, and that its
    files, read back from the store, hold what they were to hold. If something else came on top, the keys are read.

    :param now: the history as the branch has it now.
    :param store: reads it.
    :raises Refused: naming the rule and the keys that break it.
    """
    if now is None or now.snapshot_id != written.snapshot:
        _check_keys(whole, store)
        raise Refused("another writer changed the merge's branch", sorted(whole.plan.expected)[:1])
    for file, rows in written.files:
        found = _read_back(now.lake.store, file, rows.schema)
        if not _equal(found, rows):
            raise Refused(_RULE, sorted(set(rows["scd2_key"].to_pylist())))
    for file, positions in written.deletes:
        named = deletes_of(now.lake.store, str(file.location()))
        if named.keys() != positions.keys() or any(not np.array_equal(named[one], positions[one]) for one in named):
            raise Refused(_RULE, sorted(whole.plan.expected)[:1])
    if whole.plan.anew:
        anew = {key: whole.plan.expected[key] for key in whole.plan.anew}
        check_written(whole.plan, store.last_rows(whole.plan.expected.keys()), store.all_versions(anew.keys()))


def _read_back(store: ObjectStore, file: Any, schema: pa.Schema) -> pa.Table:
    ids = {one.name: int(one.metadata[b"PARQUET:field_id"]) for one in schema}
    task = DataTask(str(file.location()), int(file.recordCount()), int(file.fileSizeInBytes()))
    return conform(read_files(store, [task], Wanted(ids)), schema)


def _equal(left: pa.Table, right: pa.Table) -> bool:
    if left.num_rows != right.num_rows:
        return False
    if left.equals(right.cast(left.schema)):
        return True
    pairs = ((left[name].combine_chunks(), right[name].combine_chunks()) for name in left.column_names)
    return all(bool(alike(one, other).all()) for one, other in pairs)


def _check_keys(whole: Whole, store: LakeStore) -> None:
    """Read the touched keys and compare.

    :raises Refused: a key is not as it was meant to be.
    """
    plan = whole.plan
    check_written(plan, store.last_rows(plan.expected.keys()), store.all_versions(plan.anew) if plan.anew else None)
    versions = whole.bulk.versions
    if versions is None:
        return
    meant = versions.filter(versions["scd2_last"])
    keys = meant["scd2_key"].to_pylist()
    found = store.last_rows(keys)
    facts = zip(keys, *(meant[name].to_pylist() for name in _COMPARED), strict=True)
    wrong = []
    for key, deleted, position in facts:
        stored = found.get(key, [])
        if len(stored) != 1:
            wrong.append(key)
            continue
        version = stored[0].version
        if (version.deleted, version.last_position.text) != (deleted, position):
            wrong.append(key)
    if wrong:
        raise Refused(_RULE, sorted(wrong))


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
