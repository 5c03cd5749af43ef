"""A merge that is planned chunk by chunk, from the disk, is the merge that is planned at once."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from airflow_provider_rtlake.scd2 import arrival as arriving
from airflow_provider_rtlake.scd2.arrival import Arrival
from airflow_provider_rtlake.scd2.change import Change, RawChange, key_hash
from airflow_provider_rtlake.scd2.columns import arrow_type, read_rows
from airflow_provider_rtlake.scd2.cut import Situation, decide
from airflow_provider_rtlake.scd2.plan import Stored
from airflow_provider_rtlake.scd2.planning import linked_keys, plan_rows
from airflow_provider_rtlake.scd2.render import partitions
from airflow_provider_rtlake.scd2.rows import T, groups, late
from airflow_provider_rtlake.scd2.stretch import Stretch, part_of, parts_for
from tests.scd2_memory import FOREVER, Memory
from tests.scd2_source import Source
from tests.unit.test_scd2_bulk import TYPES, Columns, bronze
from tests.unit.test_scd2_fold_random import deliveries, history


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arriving, "IN_MEMORY", 20)
    monkeypatch.setattr(arriving, "EACH", 8)
    monkeypatch.setattr(arriving, "EACH_OPEN", 4)


class Chunked(Columns):
    """A history in memory whose merges are planned chunk by chunk."""

    stretch = Stretch()
    chunks = 0

    def _mine(self, key: str) -> bool:
        return bool(self.stretch.holds(np.array([key_hash(key)]))[0])

    def open_versions(self) -> dict[str, Stored]:
        return {key: found for key, found in super().open_versions().items() if self._mine(key)}

    def all_keys(self) -> set[str]:
        return {key for key in super().all_keys() if self._mine(key)}

    def _moved(self) -> Any:
        return np.unique([key_hash(str(change.key)) for change in self.changes if change.moves_key]).astype(np.int64)

    def merge(self, raws: Sequence[RawChange], ends: Any = None, **options: Any) -> Any:
        arrived = bronze([*self.pending, *raws])
        arrival = Arrival(self.buckets, arrived.num_rows)
        for start in range(0, arrived.num_rows, 7):
            batch, unread = read_rows(arrived.slice(start, 7).combine_chunks(), self.reader, 0)
            assert not unread
            arrival.add(batch)
        rows = arrival.rows
        is_late = late(rows, self.reached)
        summed, number = groups(rows, ~is_late)
        made = decide(summed, Situation(FOREVER, ends, self.reached))
        ready = is_late.copy()
        fresh = number >= 0
        ready[fresh] = np.array([one in made.ready for one in summed], bool)[number[fresh]]
        concerned = bool(made.marks) or bool((ready & (rows.op == T)).any())
        opened = len(self.versions) if concerned and self.reached is not None else 0
        linked = linked_keys(rows, ready, is_late, self.reached, self._moved if self.reached else None)
        removed: list[Any] = []
        added: list[tuple[Any, bool]] = []
        applied: list[Change] = []
        marks = self.marks
        for chunk in arrival.chunks(ready, is_late, linked, opened):
            self.chunks += 1
            self.stretch = chunk.stretch
            found = plan_rows(
                self,
                chunk.batch,
                chunk.ready,
                chunk.late,
                reader=self.reader,
                target={name: arrow_type(kind) for name, kind in TYPES.items()},
                marks=made.marks,
                known_marks=self.marks,
                reached=self.reached,
                untracked=self.untracked,
            )
            assert all(map(self._mine, found.plan.expected))
            removed += [stored.ref for stored in found.plan.removed]
            removed += [row for files in found.bulk.removed.values() for one in files.values() for row in one.tolist()]
            added += found.plan.added
            if found.bulk.versions is not None:
                layout = self.layout
                for (last, _), table in partitions(
                    found.bulk.versions, layout.schema, self.buckets, list(TYPES), self.untracked
                ).items():
                    table = table.append_column("_file", pa.nulls(table.num_rows, pa.string()))
                    table = table.append_column("_pos", pa.nulls(table.num_rows, pa.int64()))
                    added += [(one.version, last) for one in layout.read(table)]
            applied += found.plan.applied + chunk.batch.read(found.bulk.applied, self.reader)
            marks = found.plan.marks
        self.stretch = Stretch()
        arrival.drop()
        self.pending = []
        assert ready.all()
        assert len(removed) == len(set(removed))
        for ref in removed:
            del self.versions[ref]
        for version, last in added:
            self.versions[self._next] = Stored(version, last, self._next)
            self._next += 1
        self.changes += applied
        self.marks, self.reached = marks, made.reached
        self.check()


@pytest.mark.parametrize("seed", range(16))
def test_chunks_and_the_whole_agree_on_random_histories(seed: int) -> None:
    untracked = frozenset({"note"}) if seed % 3 == 0 else frozenset[str]()
    options = {"keys": 25, "transactions": 60, "lose": seed % 4 == 1, "fewest": 30}
    source, oracle = history(seed, full=bool(seed % 2), untracked=untracked, **options)
    table, rows = Chunked(sorted(untracked)), Memory(sorted(untracked))
    batches = deliveries(random.Random(seed), source)
    joined = [[raw for batch in batches[start : start + 9] for raw in batch] for start in range(0, len(batches), 9)]
    for batch in joined:
        table.merge(batch)
        rows.merge(batch)
        assert table.everything() == rows.everything()
    assert table.facts() == oracle.facts()
    assert table.chunks > len(joined)


def test_a_truncate_of_many_rows_is_planned_part_by_part() -> None:
    source, table, rows = Source(), Chunked(), Memory()
    first = source.begin(10)
    for key in range(60):
        first.insert(key, a=str(key))
    for made in (first, source.begin(20).truncate().insert(3, a="3").insert(100, a="new")):
        raws = made.commit()
        table.merge(raws)
        rows.merge(raws)
    assert table.chunks > 10
    assert table.everything() == rows.everything()
    assert len([one for one in table.versions.values() if one.version.is_current]) == 2


def test_parts_follow_buckets_and_the_order_of_hashes() -> None:
    hashes = np.random.default_rng(1).integers(-(2**63), 2**63 - 1, 5000)
    for buckets in (1, 3, 16, 128, 200):
        parts = parts_for(5000, 50, buckets)
        found = part_of(hashes, buckets, parts)
        assert 0 <= found.min() <= found.max() < parts
        for part in np.unique(found).tolist():
            stretch = Stretch((part,), parts, buckets)
            mine = hashes[stretch.holds(hashes)]
            assert np.array_equal(mine, hashes[found == part])
            assert set(np.mod(mine, buckets).tolist()) <= set(stretch.touched() or ())
            between = stretch.between()
            if between is not None:
                assert between[0] <= mine.min() <= mine.max() <= between[1]
                same = np.mod(hashes, buckets) == mine[0] % buckets
                assert np.array_equal(
                    np.sort(mine), np.sort(hashes[same & (hashes >= between[0]) & (hashes <= between[1])])
                )
