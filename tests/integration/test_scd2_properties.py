"""The properties of a correct history, by number and name, on real Spark, Iceberg and Nessie.

Many of them are scenes with keys of their own on one table: each scene yields what arrives in each batch, and all
scenes are merged together, so that a few merges tell of most properties. Crashes (16) and erasure (21) have files of
their own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest

from airflow_provider_rtlake.checks.names import TableName
from airflow_provider_rtlake.clients.nessie import NessieClient
from airflow_provider_rtlake.scd2.change import RawChange
from airflow_provider_rtlake.scd2.collect import KeyChanged
from airflow_provider_rtlake.scd2.fold import Refused
from airflow_provider_rtlake.scd2.publish import Overtaken
from airflow_provider_rtlake.scd2.queries import changes_between, current_rows, rows_as_of
from airflow_provider_rtlake.scd2.tables import SchemaIncompatible
from airflow_provider_rtlake.scd2.values import ValueRefused
from tests.scd2_lake import LakeTable, micros
from tests.scd2_source import COLLECTION, Source, column

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore"),  # PySpark's own, on Python 3.11
    pytest.mark.timeout(1800),
]
SECOND = 1_000_000
MAKE = Callable[..., LakeTable]
Batches = Iterator[list[RawChange]]
_SCENES: list[Callable[[Source], Batches]] = []
ROUNDS = 3


def scene(function: Callable[[Source], Batches]) -> Callable[[Source], Batches]:
    """One of those that share a table."""
    _SCENES.append(function)
    return function


def key(number: int) -> str:
    return json.dumps({"id": number}, separators=(",", ":"))


def again(raws: list[RawChange], by: int = 100_000) -> list[RawChange]:
    """The same messages, delivered once more at new offsets and to another partition."""
    return [
        raw._replace(topic_offset=raw.topic_offset + by, kafka_ts=raw.kafka_ts + by, topic_partition=1) for raw in raws
    ]


def spans(rows: list[Any], name: str = "a") -> list[tuple[Any, int, int | None, bool]]:
    """Of each version: a column, start, end, deleted."""
    return [
        (
            row[name],
            micros(row.effective_start_ts),
            None if row.effective_end_ts is None else micros(row.effective_end_ts),
            row.is_deleted,
        )
        for row in rows
    ]


@scene
def redelivered(source: Source) -> Batches:
    messages = source.begin(10).insert(100, a="x").insert(101, a="gone").delete(101).commit()
    yield messages
    messages += source.begin(20).update(100, a="y").commit()
    yield messages[-1:]
    yield again(messages)


@scene
def out_of_clock(source: Source) -> Batches:
    messages = source.begin(1000).insert(200, a="first").commit()
    messages += source.begin(500).update(200, a="second").commit()  # the clock went back
    messages += source.begin(400, lsn=5).update(200, a="third").commit()  # and this one wrote early
    yield messages[::-1]


@scene
def late(source: Source) -> Batches:
    first = source.begin(10).insert(300, a="x").commit()
    held = source.begin(20).update(300, a="y").commit()
    yield first + source.begin(30).update(300, a="z").commit()
    yield source.begin(40).update(300, a="w").commit()
    yield held


@scene
def several(source: Source) -> Batches:
    messages = source.begin(0).insert(400, a="a").commit()
    for moment, value in enumerate("bcd", 1):
        messages += source.begin(moment * 10).update(400, a=value).commit()
    messages += source.begin(50).insert(401, a="x").update(401, a="y").update(401, a="z").commit()
    messages += source.begin(60).insert(402, a="x", c=5).delete(402).commit()
    yield messages
    yield source.begin(70).delete(401).insert(401, a="z").commit()


@scene
def reopened(source: Source) -> Batches:
    messages = source.begin(10).insert(500, a="x").insert(501, a="x").commit()
    messages += source.begin(20).delete(500).commit()
    yield messages + source.begin(30).insert(500, a="x").commit()
    yield source.begin(40).delete(501).commit()
    yield source.begin(50).insert(501, a="x").commit()


@scene
def deleted_before_inserted(source: Source) -> Batches:
    held = source.begin(10).insert(600, a="x").insert(601, a="x").commit()
    delete = source.begin(20).delete(600).update(601, a="y").commit()
    yield delete
    yield []
    yield held


@scene
def moved_keys(source: Source) -> Batches:
    yield source.begin(10).insert(700, a="x").insert(701, a="p").insert(702, a="q").insert(704, a="m").commit()
    move = source.begin(20).change_key(700, 703).swap(701, 702)
    yield move.change_key(704, 705).change_key(705, 706).update(706, a="n").commit()


@scene
def large_values(source: Source) -> Batches:
    source.full = False
    first = source.begin(10).insert(900, a="x", big="L" * 9000).insert(902, a="x", big="K" * 9).commit()
    held = source.begin(20).update(900, big="M" * 9000).commit()
    lost = source.begin(21).insert(903, a="x", big="Z").commit()
    assert lost
    messages = first + source.begin(30).update(900, a="y").change_key(900, 901).commit()
    messages += source.begin(40).update(903, a="y").commit()
    source.full = True
    yield messages
    yield []
    yield held


@scene
def clocks(source: Source) -> Batches:
    yield (
        source.begin(1_700_000_000_123_456).insert(1300, a="x").commit()
        + source.begin(1_700_000_000_123_456).update(1300, a="y").commit()
        + source.begin(1_600_000_000_000_000).update(1300, a="z").commit()
    )
    yield source.begin(1_500_000_000_000_000).delete(1300).commit()


@scene
def nulls(source: Source) -> Batches:
    yield source.begin(10).insert(1400, a=None).commit() + source.begin(20).update(1400, a="").commit()
    yield source.begin(30).update(1400, a="null").commit() + source.begin(40).update(1400, b=0).commit()


@scene
def no_ops(source: Source) -> Batches:
    first = source.begin(10).insert(1500, a="x", note="1").insert(1501, a="x").commit()
    held_note = source.begin(20).update(1500, note="2").commit()
    held = source.begin(21).update(1501, a="y").commit()
    yield first + source.begin(30).update(1500, a="y").commit()
    yield source.begin(40).update(1500, note="3").update(1501, a="x").commit()
    yield held_note + held


@scene
def origins(source: Source) -> Batches:
    yield source.begin(10).insert(2300, a="x").commit()
    yield source.begin(20).update(2300, a="y").commit()


@pytest.fixture(scope="module")
def stage(spark: Any, nessie: NessieClient) -> Iterator[tuple[LakeTable, Source, dict[str, list[Any]], list[Any]]]:
    """All scenes, merged together in three merges."""
    table, source = LakeTable(spark, nessie, untracked=("note",), buckets=2), Source()
    acts = [act(source) for act in _SCENES]
    outcomes = []
    for _ in range(ROUNDS):
        table.arrive([raw for act in acts for raw in next(act, [])])
        outcomes.append(table.merge())
    yield table, source, table.versions(), outcomes
    table.drop()


def test_property_01_redelivery_changes_nothing(stage: Any) -> None:
    table, source, versions, _ = stage
    assert spans(versions[key(100)]) == [("x", 10, 20, False), ("y", 20, None, False)]
    assert key(101) not in versions
    before = table.snapshots()[:2]
    sent = [raw for group in source.messages for raw in group]
    never = {raw.topic_offset for raw in sent if raw.op == "c" and raw.message_key == key(903)}  # was lost
    table.arrive(again([raw for raw in sent if raw.topic_offset not in never], 200_000))
    outcome = table.merge()
    assert outcome.statistics["duplicates"] == len(sent) - len(never)
    assert table.snapshots()[:2] == before


def test_property_02_commit_order_decides_and_neither_clock_nor_log_position(stage: Any) -> None:
    assert [found[0] for found in spans(stage[2][key(200)])] == ["first", "second", "third"]


def test_property_03_a_late_change_over_batches_cuts_the_history_anew(stage: Any) -> None:
    _, _, versions, outcomes = stage
    assert spans(versions[key(300)]) == [
        ("x", 10, 20, False),
        ("y", 20, 30, False),
        ("z", 30, 40, False),
        ("w", 40, None, False),
    ]
    assert outcomes[2].statistics["late_changes"] >= 1


def test_property_04_several_versions_of_a_key_in_one_batch(stage: Any) -> None:
    versions = stage[2]
    ends = [10, 20, 30, None]
    assert spans(versions[key(400)]) == [(value, 10 * n, ends[n], False) for n, value in enumerate("abcd")]
    assert spans(versions[key(401)]) == [("z", 50, None, False)]
    assert key(402) not in versions


def test_property_05_delete_closes_insert_reopens_and_the_gap_is_kept(stage: Any) -> None:
    versions = stage[2]
    assert spans(versions[key(500)]) == [("x", 10, 20, True), ("x", 30, None, False)]
    assert spans(versions[key(501)]) == [("x", 10, 40, True), ("x", 50, None, False)]


def test_property_06_a_delete_before_its_insert_and_an_update_of_an_unknown_key(stage: Any) -> None:
    _, _, versions, outcomes = stage
    assert spans(versions[key(600)]) == [("x", 10, 20, True)]
    assert spans(versions[key(601)]) == [("x", 10, 20, False), ("y", 20, None, False)]
    assert outcomes[0].statistics["unmatched_removals"] >= 1
    assert outcomes[0].statistics["update_of_unknown_key"] >= 1


def test_property_07_a_changed_key_is_linked_and_a_swap_survives(stage: Any) -> None:
    versions = stage[2]
    (old,), (new,) = versions[key(700)], versions[key(703)]
    assert (old.is_deleted, old.scd2_next_key, new.scd2_previous_key) == (True, key(703), key(700))
    assert spans(versions[key(701)]) == [("p", 10, 20, False), ("q", 20, None, False)]
    assert spans(versions[key(702)]) == [("q", 10, 20, False), ("p", 20, None, False)]
    assert [row.scd2_previous_key for row in versions[key(702)]] == [None, key(701)]
    assert [row.scd2_next_key for row in versions[key(702)]] == [key(701), None]
    assert (versions[key(704)][0].scd2_next_key, versions[key(706)][0].scd2_previous_key) == (key(706), key(704))
    assert key(705) not in versions


def test_property_08_truncate(lake_table: MAKE) -> None:
    source, table = Source(), lake_table()
    one = source.begin(10).insert(1, a="x").insert(2, a="y").insert(4, a="same").commit()
    held = source.begin(15).insert(3, a="late").commit()
    truncate = source.begin(20).truncate().insert(4, a="same").commit()
    after = source.begin(30).insert(1, a="z").commit()
    table.arrive(one)
    table.merge()
    table.arrive(truncate + after)
    table.merge()
    table.arrive(held + again(truncate[:1]))
    assert table.merge().statistics["refolded_keys"] == 1
    versions = table.versions()
    assert spans(versions[key(1)]) == [("x", 10, 20, True), ("z", 30, None, False)]
    assert spans(versions[key(2)]) == [("y", 10, 20, True)]
    assert spans(versions[key(3)]) == [("late", 15, 20, True)]
    assert spans(versions[key(4)]) == [("same", 10, None, False)]
    assert [row.scd2_closed_by for row in versions[key(2)]] == ["truncate"]


def test_property_09_an_unchanged_large_value_is_that_of_the_row_before(stage: Any) -> None:
    _, _, versions, outcomes = stage
    assert [row.big for row in versions[key(900)]] == ["L" * 9000, "M" * 9000]
    assert [row.big for row in versions[key(901)]] == ["M" * 9000]
    (unknown,) = versions[key(903)]
    assert (unknown.big, unknown.scd2_unknown) == (None, '["big"]')
    assert outcomes[0].statistics["unknown_values"] >= 1


def evolving(make: MAKE) -> tuple[Source, LakeTable]:
    source, table = Source(), make(renamed_from={"remark": "a"}, columns=("id",))
    table.arrive(source.begin(10).insert(1, a="x", note="n", b=1).insert(2, a="y").commit())
    table.merge()
    return source, table


def test_property_10_an_added_column(lake_table: MAKE) -> None:
    source, table = evolving(lake_table)
    source.columns.append(column("ex tra`.1", "boolean", type="BOOL"))
    for row in source.rows.values():
        row["ex tra`.1"] = None
    table.arrive(source.begin(20).update(1, a="x").commit())  # nothing but the new column, which is null
    table.merge()
    assert [len(rows) for rows in table.versions().values()] == [1, 1]
    hashes = [row.record_hash for row in table.rows()]
    table.arrive(source.begin(30).update(1, **{"ex tra`.1": True}).commit())
    table.merge()
    versions = table.versions()
    assert [row["ex tra`.1"] for row in versions[key(1)]] == [None, True]
    assert [versions[key(1)][0].record_hash, versions[key(2)][0].record_hash] == hashes


def test_property_11_a_dropped_a_renamed_and_a_widened_column(lake_table: MAKE) -> None:
    source, table = evolving(lake_table)
    wide = {"b": column("b", "int64", type="INT8"), "a": column("remark", type="TEXT")}
    source.columns = [wide.get(field["field"], field) for field in source.columns if field["field"] != "note"]
    for row in source.rows.values():
        del row["note"]
        row["remark"] = row.pop("a")
    table.arrive(source.begin(20).update(1, remark="x").commit())
    table.merge()
    assert [len(rows) for rows in table.versions().values()] == [1, 1]
    table.arrive(source.begin(30).update(1, b=2**40).update(2, remark="z").commit())
    table.merge()
    versions = table.versions()
    assert [(row.remark, row.b, row.note) for row in versions[key(1)]] == [("x", 1, "n"), ("x", 2**40, None)]
    assert [row.remark for row in versions[key(2)]] == ["y", "z"]
    before = table.snapshots()
    source.columns = [column("remark", "int64", type="INT8") if c["field"] == "remark" else c for c in source.columns]
    table.arrive(source.begin(40).update(1, remark=5).commit())
    with pytest.raises(SchemaIncompatible, match=r"scd2_tests\.\w+: column remark is string in the history, and long"):
        table.merge()
    assert table.snapshots() == before


VALUES = [
    column("id", "int64", type="INT8"),
    column("price", "string", type="NUMERIC", length="38", scale="10"),
    column("free", "string", type="NUMERIC", length="0"),
    column("ratio", "double", type="FLOAT8"),
    column("parts", "array", type="_FLOAT8") | {"items": {"type": "double", "optional": True}},
    column("at", "string", semantic="io.debezium.time.ZonedTimestamp", type="TIMESTAMPTZ"),
    column("seen", "int64", semantic="io.debezium.time.MicroTimestamp", type="TIMESTAMP"),
    column("day", "int32", semantic="io.debezium.time.Date", type="DATE"),
    column("raw", "bytes", type="BYTEA"),
]


def valued(**values: Any) -> tuple[Source, dict[str, Any]]:
    source = Source(columns=VALUES)
    return source, {**{field["field"]: None for field in VALUES}, **values}


def put(source: Source, row: dict[str, Any], ts: int) -> list[RawChange]:
    """One transaction that inserts the row, or updates it."""
    tx = source.begin(ts)
    before = tx.rows.get(row["id"])
    tx.rows[row["id"]] = row
    tx.lsn += 8
    tx._log("u" if before else "c", row["id"], before, row)
    return tx.commit()


def test_property_12_exact_decimals_nan_and_infinities(lake_table: MAKE) -> None:
    wide = "1234567890123456789012345678.0123456789"
    source, row = valued(id=1, price=wide, free="1E-40", ratio="NaN", parts=["NaN", 1.5])
    table = lake_table(columns=("id",))
    table.arrive(put(source, row, 10))
    table.merge()
    table.arrive(put(source, row | {"ratio": "NaN"}, 20) + put(source, row | {"ratio": "-Infinity"}, 30))
    table.merge()
    found = table.versions()[key(1)]
    assert [(one.price, one.free) for one in found] == [(Decimal(wide), "1E-40")] * 2
    assert [str(one.ratio) for one in found] == ["nan", "-inf"]
    before = table.snapshots()
    table.arrive(put(source, row | {"price": "NAN"}, 40))
    with pytest.raises(ValueRefused, match=r'column price: NAN .*accept_loss.*key \{"id":1\}.*offset'):
        table.merge()
    assert table.snapshots() == before
    accepted = lake_table(columns=("id",), text_columns=("price", "free"))
    accepted.arrive([raw for group in source.messages for raw in group])
    accepted.merge()
    assert [one.price for one in accepted.versions()[key(1)]][-1] == "NaN"


def test_property_13_commit_time_in_microseconds_utc_infinity_dates_and_a_clock_step(
    stage: Any, lake_table: MAKE
) -> None:
    begin = 1_700_000_000_123_456
    assert spans(stage[2][key(1300)]) == [
        ("x", begin, begin + 1, False),
        ("y", begin + 1, begin + 2, False),
        ("z", begin + 2, begin + 3, True),
    ]
    assert [row.scd2_moved for row in stage[2][key(1300)]] == [False, True, True]
    source, row = valued(id=1, at="infinity", seen=2**63 - 1, day=2_146_033_979)
    table = lake_table(columns=("id",))
    exact = {"at": "2026-11-21T05:11:12.123456Z", "seen": -62_135_596_799_999_999, "day": -719_162}
    table.arrive(put(source, row, 10) + put(source, row | exact, 20))
    table.merge()
    first, second = table.versions()[key(1)]
    assert [str(first[name]) for name in ("at", "seen")] == ["9999-12-31 23:59:59.999999"] * 2
    assert (str(first.day), str(second.day)) == ("9999-12-31", "0001-01-01")
    assert str(second.at) == "2026-11-21 05:11:12.123456"
    assert str(second.seen) == "0001-01-01 00:00:00.000001"


def test_property_14_null_empty_and_default_differ(stage: Any) -> None:
    rows = stage[2][key(1400)]
    assert [(row.a, row.b) for row in rows] == [(None, None), ("", None), ("null", None), ("null", 0)]
    assert len({row.record_hash for row in rows}) == 4


def test_property_15_updates_without_a_change_over_batches_and_untracked_columns(stage: Any) -> None:
    versions = stage[2]
    assert [(row.a, row.note) for row in versions[key(1500)]] == [("x", "2"), ("y", "3")]
    # the update back to x was nothing, until the change before it came
    assert spans(versions[key(1501)]) == [("x", 10, 21, False), ("y", 21, 40, False), ("x", 40, None, False)]


def test_property_17_a_finished_batch_run_again_makes_no_branch_and_no_commit(stage: Any) -> None:
    table = stage[0]
    table.merge()
    before = table.snapshots()
    outcome = table.merge()
    assert (outcome.changed, table.snapshots(), table.branches()) == (False, before, [])


def test_property_18_replay_from_the_start_gives_the_equal_table(stage: Any, lake_table: MAKE) -> None:
    table = stage[0]
    replayed = lake_table(untracked=("note",), buckets=4)
    replayed.arrive(
        [
            RawChange(*row[:3], micros(row[3]), row[4], row[5] and dict(row[5]), *row[6:9])
            for row in table.spark.table(f"nessie.{table.request.bronze}").collect()
        ]
    )
    replayed.merge()
    left = [column for column in table.rows()[0].asDict() if column != "scd2_bucket"]

    def content(of: LakeTable) -> list[tuple[str, ...]]:
        return [tuple(str(row[name]) for name in left) for row in of.rows()]

    assert content(replayed) == content(table)


def test_property_18_bronze_made_anew_is_read_from_the_start(lake_table: MAKE) -> None:
    source, table = Source(), lake_table()
    table.arrive(source.begin(10).insert(1, a="x").commit())
    table.merge()
    before = table.everything()
    rows = [raw for group in source.messages for raw in group]
    table.spark.sql(f"DROP TABLE nessie.{table.request.bronze}")
    table.create_bronze()
    table.arrive(rows + source.begin(20).update(1, a="y").commit())
    table.merge()
    assert spans(table.versions()[key(1)]) == [("x", 10, 20, False), ("y", 20, None, False)]
    assert len(before) == 1


def test_property_19_snapshot_and_stream_meet_and_a_lost_slot_is_made_good(lake_table: MAKE) -> None:
    source, table = Source(), lake_table()
    empty = {"b": None, "big": None, "note": None, "c": 0}
    source.rows = {number: {"id": number, "a": "read", **empty} for number in (1, 2, 3)}
    snapshot = source.snapshot(100, lsn=100)
    early = source.begin(110, lsn=82).update(1, a="streamed").commit()  # wrote before the snapshot's point
    table.arrive(snapshot[:1])
    assert not table.merge().changed  # the snapshot has not ended
    table.arrive(early + snapshot[1:])
    table.merge()
    found = table.versions()
    assert spans(found[key(1)]) == [("read", 100, 110, False), ("streamed", 110, None, False)]
    assert [row.scd2_origin for row in found[key(1)]] == ["snapshot", "stream"]
    source.begin(120).delete(2).update(3, a="lost").insert(4, a="new").commit()  # the slot is lost: never delivered
    source.epoch, source.commit_lsn = 2, 0
    table.arrive(source.snapshot(200, lsn=5000))
    table.arrive(source.begin(210).update(4, a="after").commit())
    table.merge()
    found = table.versions()
    assert spans(found[key(1)])[1:] == [("streamed", 110, None, False)]
    assert spans(found[key(2)]) == [("read", 100, 200, True)]
    assert spans(found[key(3)]) == [("read", 100, 200, False), ("lost", 200, None, False)]
    assert spans(found[key(4)]) == [("new", 200, 210, False), ("after", 210, None, False)]
    assert [row.scd2_closed_by for row in found[key(2)]] == ["snapshot"]


def test_property_19_a_snapshot_is_waited_for_while_bronze_is_behind_kafka(lake_table: MAKE) -> None:
    source = Source()
    empty = {"b": None, "big": None, "note": None, "c": 0}
    source.rows = {number: {"id": number, "a": "read", **empty} for number in range(1, 5)}
    for settings in ({}, {"max_rows": 1}):
        # Its messages are from 1970: a lane that catches up brings them now.
        table = lake_table(patience_seconds=300, snapshot_patience_seconds=20, **settings)
        rows = source.snapshot(100, lsn=100)
        table.arrive(rows[:1])
        table.arrive(rows[1:2])
        assert not table.merge().changed
        table.arrive(rows[2:3])
        table.arrive(rows[3:])
        made = table.merge()
        assert made.changed
        assert made.statistics.get("unfinished_snapshots", 0) == 0
        assert set(table.versions()) == {key(number) for number in range(1, 5)}


def test_property_20_of_two_writers_at_once_one_fails_clearly(lake_table: MAKE) -> None:
    source, table = Source(), lake_table()
    table.arrive(source.begin(10).insert(1, a="x").commit())
    table.merge()
    table.arrive(source.begin(20).update(1, a="y").commit())

    def meanwhile(step: str) -> None:
        if step == "publish":
            table.merge()

    with pytest.raises(Overtaken):
        table.merge(crash=meanwhile)
    assert spans(table.versions()[key(1)]) == [("x", 10, 20, False), ("y", 20, None, False)]
    assert not table.merge().changed
    assert table.branches() == []


def test_property_22_a_batch_that_breaks_a_rule_is_refused_and_named(lake_table: MAKE) -> None:
    source, table = Source(), lake_table()
    table.arrive(source.begin(10).insert(1, a="x").commit())
    table.merge()
    before = table.snapshots()
    bad = source.begin(30).insert(8, a="p").insert(9, a="q").commit()
    table.arrive([raw._replace(message_key=key(8)) for raw in bad])
    with pytest.raises(Refused, match=r'more than one row of a key: key \{"id":8\}') as refused:
        table.merge()
    assert refused.value.keys == [key(8)]
    assert (table.snapshots(), table.branches()) == (before, [])


def test_property_22_a_refused_branch_stays_and_the_next_run_starts_clean(
    lake_table: MAKE, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow_provider_rtlake.scd2.lake import Table

    source, table = Source(), lake_table()
    table.arrive(source.begin(10).insert(1, a="x").commit())
    table.merge()
    before = table.snapshots()
    table.arrive(source.begin(20).insert(4, a="w").commit())
    write = Table._data_file

    def lose_a_row(self: Table, partition: str, rows: Any, traffic: Any) -> Any:
        return write(self, partition, rows.slice(1) if partition.startswith("scd2_last=true") else rows, traffic)

    with monkeypatch.context() as patched:
        patched.setattr(Table, "_data_file", lose_a_row)
        with pytest.raises(Refused, match=r'was to be written: key \{"id":4\}.*branch scd2-refused/.* is kept'):
            table.merge()
    assert table.snapshots() == before
    kept = table.branches()
    assert len(kept) == 1
    assert table.merge().changed
    assert [row.a for row in table.rows()] == ["x", "w"]
    assert table.branches() == kept


def test_property_22_a_torn_transaction_waits(lake_table: MAKE) -> None:
    source, table = Source(), lake_table(transactions=True)

    def end(order: int, group: list[RawChange]) -> tuple[int, str, str]:
        tx = json.loads(group[0].payload)["source"]["txId"]
        members = [{"data_collection": COLLECTION, "event_count": len(group)}]
        return order, f"{tx}:{source.commit_lsn}", json.dumps(members, separators=(",", ":"))

    one = source.begin(10).insert(1, a="x").insert(2, a="x").commit()
    first = end(1, one)
    two = source.begin(20).update(1, a="y").update(2, a="y").commit()
    second = end(3, two)
    three = source.begin(30).insert(3, a="z").commit()
    table.arrive(one + two[:1] + three)
    table.end([first, second, end(5, three)])
    outcome = table.merge()
    assert (outcome.changed, outcome.waiting) == (True, 2)
    assert [(row.scd2_key, row.a) for row in table.rows()] == [(key(1), "x"), (key(2), "x")]
    table.arrive(two[1:])
    table.merge()
    current = [(row.scd2_key, row.a) for row in table.rows() if row.is_current]
    assert current == [(key(1), "y"), (key(2), "y"), (key(3), "z")]


def test_property_23_every_version_names_its_origin(stage: Any) -> None:
    _, source, versions, _ = stage
    first, second = (group[0] for group in source.messages if group[0].message_key == key(2300))
    old, new = versions[key(2300)]
    for row, raw in ((old, first), (new, second)):
        told = json.loads(raw.payload)["source"]
        assert (row.scd2_opened_topic, row.scd2_opened_partition, row.scd2_opened_offset) == raw[:3]
        assert (row.scd2_opened_lsn, row.scd2_opened_tx) == (told["lsn"], told["txId"])
    assert old.scd2_closed_position == new.scd2_opened_position > old.scd2_opened_position
    assert (old.scd2_closed_offset, old.scd2_closed_tx) == (second.topic_offset, new.scd2_opened_tx)
    for rows in versions.values():
        for row in rows:
            assert row.scd2_opened_position is not None
            assert (row.scd2_closed_position is None) == row.is_current


def test_gold_current_rows_rows_as_of_a_time_and_changes_between_two_times(lake_table: MAKE, trino_cursor: Any) -> None:
    source, table = Source(), lake_table()
    source.begin(10 * SECOND).insert(1, a="x").insert(2, a="p").commit()
    source.begin(20 * SECOND).update(1, a="y").delete(2).commit()
    source.begin(30 * SECOND).insert(2, a="q").commit()
    table.arrive([raw for group in source.messages for raw in group])
    table.merge()
    name = TableName("nessie", *table.request.history.split("."))

    def ask(statement: str) -> list[tuple[Any, ...]]:
        return sorted(tuple(row) for row in trino_cursor.execute(statement).fetchall())

    assert ask(current_rows(name, ["id", "a"])) == [(1, "y"), (2, "q")]
    at = "1970-01-01T00:00:{:02d}Z".format
    assert ask(rows_as_of(name, ["id", "a"], at(9))) == []
    assert ask(rows_as_of(name, ["id", "a"], at(10))) == [(1, "x"), (2, "p")]
    assert ask(rows_as_of(name, ["id", "a"], at(20))) == [(1, "y")]
    assert ask(rows_as_of(name, ["id", "a"], at(30))) == [(1, "y"), (2, "q")]
    changes = changes_between(name, ["id", "a"], at(20), at(31))
    found = ask(f"SELECT change, to_unixtime(changed_at), id, a FROM ({changes})")
    assert found == [("delete", 20.0, 2, "p"), ("insert", 30.0, 2, "q"), ("update", 20.0, 1, "y")]


def test_a_wrong_value_in_a_well_formed_message_stops_nothing(lake_table: MAKE) -> None:
    source, table = Source(), lake_table()
    good, bad = source.begin(10).insert(1, a="x", b=1).insert(2, a="y", b=2).commit()
    table.arrive([good, bad._replace(payload=bad.payload.replace('"b": 2', '"b": "two"'))])
    table.merge()
    table.arrive(source.begin(20).update(1, a="z").commit())
    table.merge()
    assert [row.a for row in table.versions()[key(1)]] == ["x", "z"]
    (unread,) = table.spark.table(f"nessie.{table.request.unread}").collect()
    assert unread.message_key == key(2) and "column b" in unread.reason


def test_other_key_columns_are_refused_until_the_snapshot_of_a_new_epoch(lake_table: MAKE) -> None:
    source, table = Source(), lake_table()

    def keyed(raws: list[RawChange]) -> list[RawChange]:
        return [raw._replace(message_key='{"a":"x"}') for raw in raws]

    table.arrive(source.begin(10).insert(1, a="x").commit())
    table.merge()
    before = table.snapshots()
    table.arrive(keyed(source.begin(20).update(1, b=2).commit()))
    with pytest.raises(KeyChanged, match="the key was id and is a now"):
        table.merge()
    assert table.snapshots() == before
    source.epoch = 2
    table.arrive(keyed(source.snapshot(30)))
    table.merge(snapshot_patience_seconds=0)
    versions = table.versions()
    assert [row.is_current for row in versions[key(1)]] == [False]
    assert [row.is_current for row in versions['{"a":"x"}']] == [True]
