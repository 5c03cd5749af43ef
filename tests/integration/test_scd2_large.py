"""A merge that is larger than the driver's memory takes it part by part, and is one commit all the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from airflow_provider_rtlake.scd2 import arrival
from tests.scd2_lake import LakeTable
from tests.scd2_memory import Memory
from tests.scd2_source import Source

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(1800)]
ROWS = 300


def test_a_large_merge_is_planned_in_parts_and_published_as_one(
    lake_table: Callable[..., LakeTable], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrival, "PIECE", 70)
    monkeypatch.setattr(arrival, "IN_MEMORY", 100)
    monkeypatch.setattr(arrival, "EACH", 40)
    monkeypatch.setattr(arrival, "EACH_OPEN", 40)
    source, whole, table = Source(), Memory(), lake_table(buckets=2)
    for key in range(ROWS):
        source.rows[key] = {"id": key, "a": str(key), "b": None, "big": None, "note": None, "c": 0}
    change = [source.snapshot(10)]
    everything = source.begin(20)
    for key in range(ROWS):
        everything.update(key, a=f"new {key}")
    change.append(everything.commit())
    some = source.begin(30)
    for key in range(0, ROWS - 60, 2):
        some.change_key(key, key + 1000)
    change.append(some.commit())
    change.append(source.begin(40).truncate().insert(7, a="back").commit())
    change.append(
        [raw._replace(topic_offset=raw.topic_offset + 10_000, kafka_ts=raw.kafka_ts + 10_000) for raw in change[1]]
    )
    for number, raws in enumerate(change):
        before = table.snapshots()
        table.arrive(raws)
        outcome = table.merge()
        whole.merge(raws)
        assert outcome.changed, number
        assert table.facts() == whole.facts(), number
        assert len(table.spark.sql(f"SELECT 1 FROM nessie.{table.request.history}.snapshots").collect()) <= number + 1
        assert table.branches() == []
        if number == 0:
            assert before[0] is None
            files = table.spark.sql(f"SELECT 1 FROM nessie.{table.request.history}.files").collect()
            assert len(files) >= 6  # a part each, in each bucket
    assert not table.merge().changed
