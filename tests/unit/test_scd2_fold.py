"""The properties of a correct history, each by name. Random histories are in test_scd2_fold_random.py."""

from __future__ import annotations

import dataclasses
import json
import random
from typing import Any

import pytest

from airflow_provider_rtlake.scd2.change import RawChange
from airflow_provider_rtlake.scd2.checks import check_plan, check_written
from airflow_provider_rtlake.scd2.fold import Event, Refused, Version, record_hash
from airflow_provider_rtlake.scd2.names import history_name
from airflow_provider_rtlake.scd2.plan import Plan, Stored
from airflow_provider_rtlake.scd2.position import Position
from airflow_provider_rtlake.scd2.values import same
from tests.scd2_memory import Memory
from tests.scd2_source import PLACEHOLDER, Source, column

SECOND = 1_000_000


def key(number: int) -> str:
    return json.dumps({"id": number}, separators=(",", ":"))


def spans(table: Memory, number: int) -> list[tuple[Any, int, int | None, bool]]:
    """Of each version: column a, start, end, deleted."""
    return [
        (version.values["a"], version.start, version.end, version.deleted)
        for version in table.everything().get(key(number), [])
    ]


def again(raws: list[RawChange], by: int = 1000) -> list[RawChange]:
    """The same messages, delivered once more at new offsets."""
    return [raw._replace(topic_offset=raw.topic_offset + by, kafka_ts=raw.kafka_ts + by) for raw in raws]


def test_property_1_redelivery_changes_nothing() -> None:
    source, table = Source(), Memory()
    one = source.begin(10).insert(1, a="x").insert(2, a="p").commit()
    two = source.begin(20).update(1, a="y").delete(2).commit()
    three = source.begin(30).delete(9) if 9 in source.rows else None
    assert three is None
    table.merge(one)
    table.merge(two)
    before = table.everything()
    plan = table.merge(again(one) + again(two))
    assert (plan.removed, plan.added, plan.applied, plan.duplicates) == ([], [], [], 4)
    assert table.everything() == before


def test_property_1_redelivery_of_a_change_that_left_no_version_changes_nothing() -> None:
    source, table = Source(), Memory()
    born_and_gone = source.begin(10).insert(1, a="x").delete(1).commit()
    later = source.begin(20).insert(2, a="y").commit()
    table.merge(born_and_gone)
    table.merge(later)
    plan = table.merge(again(born_and_gone))
    assert (plan.applied, plan.added, plan.duplicates) == ([], [], 2)
    assert key(1) not in table.everything()


def test_property_2_commit_order_decides_and_neither_clock_nor_log_position() -> None:
    source, table = Source(), Memory()
    source.begin(100).insert(1, a="first").commit()
    source.begin(50).update(1, a="second").commit()  # the clock went back
    source.begin(40, lsn=5).update(1, a="third").commit()  # and this one wrote early
    messages = [raw for group in source.messages for raw in group]
    random.Random(3).shuffle(messages)
    table.merge(messages)
    assert [found[0] for found in spans(table, 1)] == ["first", "second", "third"]


def test_property_3_a_late_change_cuts_the_history_anew() -> None:
    source, table = Source(), Memory()
    first = source.begin(10).insert(1, a="x").commit()
    late = source.begin(20).update(1, a="y").commit()
    last = source.begin(30).update(1, a="z").commit()
    table.merge(first)
    table.merge(last)
    assert spans(table, 1) == [("x", 10, 30, False), ("z", 30, None, False)]
    plan = table.merge(late)
    assert plan.late == 1
    assert spans(table, 1) == [("x", 10, 20, False), ("y", 20, 30, False), ("z", 30, None, False)]


def test_property_3_a_late_change_reads_only_its_own_key() -> None:
    source, table = Source(), Memory()
    source.begin(10).insert(1, a="x").insert(2, a="p").insert(3, a="q").commit()
    late = source.begin(20).update(1, a="y").commit()
    source.begin(30).update(1, a="z").update(2, a="r").commit()
    for group in (source.messages[0], source.messages[2]):
        table.merge(group)
    table.reads.clear()
    table.merge(late)
    assert ("changes", 1) in table.reads
    assert {count for _, count in table.reads} == {1}


def test_property_4_several_versions_of_a_key_in_one_batch() -> None:
    source, table = Source(), Memory()
    for moment, value in enumerate("abcd"):
        tx = source.begin(moment * 10)
        (tx.update(1, a=value) if 1 in source.rows else tx.insert(1, a=value)).commit()
    table.merge([raw for group in source.messages for raw in group])
    assert spans(table, 1) == [
        ("a", 0, 10, False),
        ("b", 10, 20, False),
        ("c", 20, 30, False),
        ("d", 30, None, False),
    ]


def test_property_4_of_a_transaction_only_the_outcome_counts() -> None:
    source, table = Source(), Memory()
    table.merge(source.begin(10).insert(1, a="x").update(1, a="y").update(1, a="z").commit())
    table.merge(source.begin(20).delete(1).insert(1, a="z").commit())
    assert spans(table, 1) == [("z", 10, None, False)]


@pytest.mark.parametrize("batches", [1, 3])
def test_property_5_delete_closes_insert_reopens_and_the_gap_stays(batches: int) -> None:
    source, table = Source(), Memory()
    source.begin(10).insert(1, a="x").commit()
    source.begin(20).delete(1).commit()
    source.begin(30).insert(1, a="x").commit()
    groups = source.messages if batches == 3 else [[raw for group in source.messages for raw in group]]
    for group in groups:
        table.merge(group)
    assert spans(table, 1) == [("x", 10, 20, True), ("x", 30, None, False)]


def test_property_6_a_delete_that_comes_before_its_insert() -> None:
    source, table = Source(), Memory()
    insert = source.begin(10).insert(1, a="x").commit()
    delete = source.begin(20).delete(1).commit()
    plan = table.merge(delete)
    assert plan.counters.unmatched_removals == 1
    assert table.everything() == {}
    table.merge(insert)
    assert spans(table, 1) == [("x", 10, 20, True)]


def test_property_6_an_update_of_an_unknown_key_is_an_insert_and_is_counted() -> None:
    source, table = Source(), Memory()
    source.begin(10).insert(1, a="x").commit()
    plan = table.merge(source.begin(20).update(1, a="y").commit())
    assert plan.counters.update_of_unknown_key == 1
    assert spans(table, 1) == [("y", 20, None, False)]


def test_property_6_an_insert_of_an_open_key_is_an_update_and_is_counted() -> None:
    source, table = Source(), Memory()
    table.merge(source.begin(10).insert(1, a="x").commit())
    source.begin(20).delete(1).commit()  # lost
    plan = table.merge(source.begin(30).insert(1, a="y").commit())
    assert plan.counters.insert_of_open_key == 1
    assert spans(table, 1) == [("x", 10, 30, False), ("y", 30, None, False)]


@pytest.mark.parametrize("full", [True, False])
def test_property_7_a_changed_key_links_both_versions(full: bool) -> None:
    source, table = Source(full=full), Memory()
    table.merge(source.begin(10).insert(1, a="x", big="L" * 9).commit())
    plan = table.merge(source.begin(20).change_key(1, 2).commit())
    old, new = table.everything()[key(1)][0], table.everything()[key(2)][0]
    assert (old.deleted, old.end, old.next_key) == (True, 20, key(2))
    assert (new.start, new.previous_key, new.values["big"]) == (20, key(1), "L" * 9)
    assert plan.counters.key_changes == 1


def test_property_7_two_rows_swap_their_keys() -> None:
    source, table = Source(), Memory()
    table.merge(source.begin(10).insert(1, a="x").insert(2, a="y").commit())
    table.merge(source.begin(20).swap(1, 2).commit())
    assert spans(table, 1) == [("x", 10, 20, False), ("y", 20, None, False)]
    assert spans(table, 2) == [("y", 10, 20, False), ("x", 20, None, False)]
    assert table.everything()[key(1)][1].previous_key == key(2)


def test_property_8_truncate_closes_what_is_open_and_late_inserts_are_born_closed() -> None:
    source, table = Source(), Memory()
    one = source.begin(10).insert(1, a="x").insert(2, a="y").commit()
    late = source.begin(15).insert(3, a="late").commit()
    truncate = source.begin(20).truncate().commit()
    after = source.begin(30).insert(1, a="z").commit()
    for group in (one, truncate, after, late):
        table.merge(group)
    assert spans(table, 1) == [("x", 10, 20, True), ("z", 30, None, False)]
    assert spans(table, 2) == [("y", 10, 20, True)]
    assert spans(table, 3) == [("late", 15, 20, True)]
    assert table.everything()[key(2)][0].closed_by == "truncate"


def test_property_8_truncate_and_reload_of_equal_rows_changes_nothing() -> None:
    source, table = Source(), Memory()
    table.merge(source.begin(10).insert(1, a="x").insert(2, a="y").commit())
    table.merge(source.begin(20).truncate().insert(1, a="x").insert(2, a="new").commit())
    assert spans(table, 1) == [("x", 10, None, False)]
    assert spans(table, 2) == [("y", 10, 20, False), ("new", 20, None, False)]


def test_property_9_an_unsent_large_value_is_that_of_the_row_before() -> None:
    source, table = Source(full=False), Memory()
    first = source.begin(10).insert(1, a="x", big="L" * 9).commit()
    grown = source.begin(20).update(1, big="M" * 9).commit()
    unsent = source.begin(30).update(1, a="y").commit()
    assert PLACEHOLDER in unsent[0].payload
    table.merge(first)
    table.merge(unsent)
    assert [version.values["big"] for version in table.everything()[key(1)]] == ["L" * 9, "L" * 9]
    table.merge(grown)  # late: what was inherited is inherited anew
    assert [version.values["big"] for version in table.everything()[key(1)]] == ["L" * 9, "M" * 9, "M" * 9]


def test_property_9_a_value_that_is_not_known_is_null_marked_and_counted() -> None:
    source, table = Source(full=False), Memory()
    source.begin(10).insert(1, a="x", big="L" * 9).commit()
    plan = table.merge(source.begin(20).update(1, a="y").commit())
    version = table.everything()[key(1)][0]
    assert (version.values["big"], version.unknown) == (None, {"big"})
    assert plan.counters.unknown_values == 1


def test_property_9_the_placeholder_is_the_connectors_own() -> None:
    source, table = Source(full=False), Memory()
    table.merge(source.begin(10).insert(1, a="x", big="L" * 9).commit())
    unsent = source.begin(20).update(1, a="y").commit()
    secret = [
        raw._replace(
            payload=raw.payload.replace(PLACEHOLDER, "k3y"),
            headers={**(raw.headers or {}), "rtlake.unavailable": "k3y"},
        )
        for raw in unsent
    ]
    table.merge(secret)
    assert table.everything()[key(1)][-1].values["big"] == "L" * 9


def test_property_10_an_added_column_makes_no_versions_of_rows_that_nobody_touched() -> None:
    source, table = Source(), Memory()
    table.merge(source.begin(10).insert(1, a="x").commit())
    before = table.everything()[key(1)][0]
    source.columns.append(column("extra", type="TEXT"))
    source.rows[1]["extra"] = None
    table.merge(source.begin(20).update(1, a="x").commit())
    assert len(spans(table, 1)) == 1
    assert record_hash({**before.values, "extra": None}, frozenset()) == record_hash(before.values, frozenset())
    table.merge(source.begin(30).update(1, extra="e").commit())
    assert [version.values.get("extra") for version in table.everything()[key(1)]] == [None, "e"]


def test_property_11_a_dropped_column_opens_no_version_and_is_null_from_the_next_one_on() -> None:
    source, table = Source(), Memory()
    table.merge(source.begin(10).insert(1, a="x", note="kept").commit())
    source.columns = [field for field in source.columns if field["field"] != "note"]
    del source.rows[1]["note"]
    table.merge(source.begin(20).update(1, a="x").commit())
    assert [version.values.get("note") for version in table.everything()[key(1)]] == ["kept"]
    table.merge(source.begin(30).update(1, a="y").commit())
    assert [version.values.get("note") for version in table.everything()[key(1)]] == ["kept", None]


def test_a_column_called_like_one_of_the_history_itself_comes_under_another_name() -> None:
    source, table = Source(), Memory()
    source.columns += [column("is_deleted", "boolean", type="BOOL"), column("record_hash_src", type="TEXT")]
    table.merge(source.begin(10).insert(1, a="x", is_deleted=True, record_hash_src="r").commit())
    values = table.everything()[key(1)][0].values
    assert (values["is_deleted_src"], values["record_hash_src"]) == (True, "r")
    assert history_name("record_hash", {"record_hash_src"}) == "record_hash_src_src"


def test_property_11_a_renamed_column_goes_on() -> None:
    source, table = Source(), Memory(renamed_from={"remark": "note"})
    table.merge(source.begin(10).insert(1, a="x", note="n").commit())
    source.columns = [{**field, "field": "remark"} if field["field"] == "note" else field for field in source.columns]
    source.rows[1]["remark"] = source.rows[1].pop("note")
    table.merge(source.begin(20).update(1, a="x").commit())
    assert [version.values["remark"] for version in table.everything()[key(1)]] == ["n"]


def test_property_13_a_clock_that_stands_still_or_steps_back_moves_versions_by_a_microsecond() -> None:
    source, table = Source(), Memory()
    table.merge(source.begin(100).insert(1, a="x").commit())
    table.merge(source.begin(100).update(1, a="y").commit())
    table.merge(source.begin(90).update(1, a="z").commit())
    table.merge(source.begin(80).delete(1).commit())
    assert spans(table, 1) == [("x", 100, 101, False), ("y", 101, 102, False), ("z", 102, 103, True)]
    assert [version.moved for version in table.everything()[key(1)]] == [False, True, True]


def test_property_14_null_empty_and_default_differ() -> None:
    source, table = Source(), Memory()
    table.merge(source.begin(10).insert(1, a=None).commit())
    table.merge(source.begin(20).update(1, a="").commit())
    table.merge(source.begin(30).update(1, a="null").commit())
    assert [found[0] for found in spans(table, 1)] == [None, "", "null"]
    hashes = {record_hash({"a": value}, frozenset()) for value in (None, "", "null", "None", 0, False, 0.0, [], b"")}
    assert len(hashes) == 9


def test_property_15_an_update_that_changes_nothing_opens_no_version_over_batches_too() -> None:
    source, table = Source(), Memory()
    table.merge(source.begin(10).insert(1, a="x").commit())
    before = table.everything()
    plan = table.merge(source.begin(20).update(1, a="x").commit())
    assert (plan.added, plan.removed, plan.counters.no_ops) == ([], [], 1)
    assert table.everything() == before


def test_property_15_a_late_change_turns_a_former_no_op_into_a_version() -> None:
    source, table = Source(), Memory()
    first = source.begin(10).insert(1, a="x").commit()
    late = source.begin(20).update(1, a="y").commit()
    back = source.begin(30).update(1, a="x").commit()
    for group in (first, back, late):
        table.merge(group)
    assert spans(table, 1) == [("x", 10, 20, False), ("y", 20, 30, False), ("x", 30, None, False)]


def test_property_15_untracked_columns_overwrite_the_version_that_is_open() -> None:
    source, table = Source(), Memory(untracked={"note"})
    table.merge(source.begin(10).insert(1, a="x", note="1").commit())
    late = source.begin(20).update(1, note="2").commit()
    table.merge(source.begin(30).update(1, a="y").commit())
    table.merge(source.begin(40).update(1, note="3").commit())
    table.merge(late)
    versions = table.everything()[key(1)]
    assert [(version.values["a"], version.values["note"]) for version in versions] == [("x", "2"), ("y", "3")]
    assert record_hash(versions[0].values, frozenset({"note"})) == record_hash(
        {**versions[0].values, "note": "other"}, frozenset({"note"})
    )


def test_property_18_replay_from_the_start_gives_the_equal_table() -> None:
    source = Source()
    for moment in range(12):
        tx = source.begin(moment * 7)
        (tx.update(1, a=str(moment % 3)) if 1 in source.rows else tx.insert(1, a="0")).commit()
    everything = [raw for group in source.messages for raw in group]
    table, replayed = Memory(), Memory()
    for group in source.messages:
        table.merge(group)
    table.merge(again(everything))
    replayed.merge(everything)
    assert table.everything() == replayed.everything()


def test_property_19_a_snapshot_row_is_older_than_a_change_with_a_smaller_log_position() -> None:
    source, table = Source(), Memory()
    source.rows = {1: {"id": 1, "a": "read", "b": None, "big": None, "note": None, "c": 0}}
    snapshot = source.snapshot(100, lsn=100)
    early = source.begin(110, lsn=82).update(1, a="streamed").commit()
    for group in (early, snapshot):
        table.merge(group)
    assert spans(table, 1) == [("read", 100, 110, False), ("streamed", 110, None, False)]
    assert [version.origin for version in table.everything()[key(1)]] == ["snapshot", "stream"]


def test_property_19_a_second_snapshot_closes_what_is_not_in_it() -> None:
    source, table = Source(), Memory()
    table.merge(source.begin(10).insert(1, a="x").insert(2, a="y").insert(3, a="z").commit())
    lost = source.begin(20).delete(2).update(3, a="changed").commit()
    assert lost
    source.epoch = 2
    source.commit_lsn = 0
    plan = table.merge(source.snapshot(50, lsn=90))
    assert plan.counters.closed_by_snapshot == 1
    assert spans(table, 1) == [("x", 10, None, False)]
    assert spans(table, 2) == [("y", 10, 50, True)]
    assert spans(table, 3) == [("z", 10, 50, False), ("changed", 50, None, False)]
    assert table.everything()[key(2)][0].closed_by == "snapshot"
    table.merge(source.begin(60, lsn=95).update(1, a="after").commit())
    assert [found[0] for found in spans(table, 1)] == ["x", "after"]


def test_property_19_a_snapshot_that_has_not_ended_waits() -> None:
    source, table = Source(), Memory()
    source.rows = {
        number: {"id": number, "a": "x", "b": None, "big": None, "note": None, "c": 0} for number in (1, 2, 3)
    }
    rows = source.snapshot(100)
    table.merge(rows[:2])
    assert table.everything() == {}
    table.merge(rows[2:])
    assert len(table.everything()) == 3


def test_property_22_two_rows_of_a_key_are_refused_with_rule_and_key() -> None:
    source, table = Source(), Memory()
    one = source.begin(10).insert(1, a="x").insert(2, a="y").commit()
    double = [raw._replace(message_key=key(1)) for raw in one]
    table.merge([])
    with pytest.raises(Refused, match=r"more than one row of a key: key \{\"id\":1\}") as refused:
        table.merge(double)
    assert refused.value.keys == [key(1)]
    assert table.everything() == {}


def version(**facts: Any) -> Version:
    where = Position(1, 1, 0, 1)
    event = Event(where, 1, "t", 0, 0)
    return dataclasses.replace(Version(key(1), {"a": 1}, 10, "stream", False, event, where), **facts)


def test_property_22_what_is_about_to_be_written_is_checked() -> None:
    closed = {"closed": version().opened}

    def check(*versions: Version) -> None:
        check_plan(Plan(after={key(1): list(versions)}))

    check(version(end=20, **closed), version(start=20))
    check(version(end=15, deleted=True, **closed), version(start=20))
    with pytest.raises(Refused, match="empty or inverted"):
        check(version(end=10, deleted=True, **closed))
    with pytest.raises(Refused, match="overlap"):
        check(version(end=21, **closed), version(start=20))
    with pytest.raises(Refused, match="not the last of its key is open"):
        check(version(), version(start=20))
    with pytest.raises(Refused, match="time in which it was not deleted"):
        check(version(end=15, **closed), version(start=20))
    with pytest.raises(Refused, match="what closed it"):
        check(version(end=15, deleted=True))
    with pytest.raises(Refused, match="ends without a delete"):
        check(version(end=15, **closed))


def test_property_22_what_was_written_is_read_back_and_compared() -> None:
    plan = Plan(expected={key(1): version()})
    check_written(plan, {key(1): [Stored(version(), True)]})
    for found in ({}, {key(1): [Stored(version(start=11), True)]}, {key(1): [Stored(version(), True)] * 2}):
        with pytest.raises(Refused):
            check_written(plan, found)
    with pytest.raises(Refused):
        check_written(Plan(expected={key(1): None}), {key(1): [Stored(version(), True)]})


def test_property_22_versions_of_a_key_folded_anew_are_read_back_whole() -> None:
    old, new = version(end=20, closed=version().opened), version(start=20)
    plan = Plan(expected={key(1): new}, after={key(1): [old, new]}, anew={key(1)})
    found = {key(1): [Stored(new, True)]}
    check_written(plan, found, {key(1): [Stored(new, True), Stored(old, False)]})
    for whole in ({}, found, {key(1): [Stored(version(end=19), False), Stored(new, True)]}):
        with pytest.raises(Refused, match="does not hold"):
            check_written(plan, found, whole)


@pytest.mark.parametrize("full", [True, False])
def test_property_4_a_row_that_a_transaction_makes_and_deletes_leaves_nothing(full: bool) -> None:
    # Without the full row, Debezium makes up 0 for a column that cannot be null: the delete's image equals no row.
    source, table = Source(full=full), Memory()
    table.merge(source.begin(10).insert(1, a="x", c=7).delete(1).commit())
    assert table.everything() == {}
    table.merge(source.begin(20).insert(1, a="x", c=7).delete(1).insert(1, a="y", c=8).commit())
    assert [one.values["c"] for one in table.everything()[key(1)]] == [8]


def test_property_7_keys_that_move_twice_in_a_transaction_are_linked_end_to_end() -> None:
    source, table = Source(), Memory()
    table.merge(source.begin(10).insert(1, a="x").insert(5, a="p").commit())
    table.merge(source.begin(20).change_key(1, 2).change_key(2, 3).update(3, a="y").commit())
    table.merge(source.begin(30).change_key(5, 6).change_key(6, 5).commit())
    found = table.everything()
    assert (found[key(1)][0].next_key, found[key(3)][0].previous_key) == (key(3), key(1))
    assert key(2) not in found
    assert [(one.next_key, one.previous_key, one.end) for one in found[key(5)]] == [(None, None, None)]


def test_property_7_a_key_that_moves_and_is_deleted_names_no_successor() -> None:
    source, table = Source(), Memory()
    table.merge(source.begin(10).insert(1, a="x").commit())
    table.merge(source.begin(20).change_key(1, 2).delete(2).insert(3, a="q").change_key(3, 4).commit())
    found = table.everything()
    assert [(one.deleted, one.next_key) for one in found[key(1)]] == [(True, None)]
    assert found[key(4)][0].previous_key is None


def test_property_8_a_truncate_that_comes_again_elsewhere_changes_nothing() -> None:
    source, table = Source(), Memory()
    table.merge(source.begin(10).insert(1, a="x").commit())
    truncate = source.begin(20).truncate().commit()
    table.merge([raw._replace(topic_partition=2) for raw in truncate])
    before = table.everything()
    plan = table.merge([raw._replace(topic_partition=0, kafka_ts=raw.kafka_ts + 50) for raw in truncate])
    assert (plan.added, plan.removed, plan.refolded_keys) == ([], [], 0)
    assert table.everything() == before


def test_property_14_values_in_lists_are_compared_like_values() -> None:
    nan = float("nan")
    assert same([nan, 1.0], [float("nan"), 1.0])
    assert not same([0.0], [-0.0])
    assert not same([1.0], [1.0, 2.0])
    assert same([None, "a"], [None, "a"])


def test_property_18_a_log_that_began_anew_is_noticed() -> None:
    source, table = Source(), Memory()
    first = source.begin(10).insert(1, a="x").commit()
    table.merge(first)
    other = [raw._replace(payload=raw.payload.replace('"ts_us": 10', '"ts_us": 99')) for raw in again(first)]
    with pytest.raises(Refused, match="another commit time"):
        table.merge(other)


def test_property_19_two_snapshots_within_the_stream_are_two() -> None:
    source, table = Source(full=False), Memory()
    rows = {1: {"id": 1, "a": "x", "b": None, "big": None, "note": None, "c": 0}}

    def blocking(commit: int, ts: int, value: str) -> list[RawChange]:
        facts = {"lsn": commit, "ts_us": ts, "snapshot": "last", "sequence": json.dumps([str(commit)] * 2)}
        return [source.raw("r", 1, None, {**rows[1], "a": value}, **facts)]

    first, second = blocking(2000, 20, "first"), blocking(3000, 30, "second")
    late = source.raw("u", 1, None, {**rows[1], "a": "between"}, lsn=2500, txId=9, ts_us=25, sequence='["2400","2500"]')
    table.merge(first)
    table.merge(second)
    table.merge([late])
    assert [found[0] for found in spans(table, 1)] == ["first", "between", "second"]


def test_property_19_a_second_snapshot_without_a_new_epoch_is_refused() -> None:
    source, table = Source(), Memory()
    source.rows = {1: {"id": 1, "a": "read", "b": None, "big": None, "note": None, "c": 0}}
    table.merge(source.snapshot(100, lsn=100))
    table.merge(source.begin(110).update(1, a="streamed").commit())
    with pytest.raises(Refused, match="second snapshot came within epoch 1"):
        table.merge(source.snapshot(200, lsn=900_000))


def test_property_19_a_snapshot_that_began_again_closes_what_only_its_first_attempt_saw() -> None:
    source, table = Source(), Memory()
    source.rows = {number: {"id": number, "a": "x", "b": None, "big": None, "note": None, "c": 0} for number in (1, 2)}
    first = [raw._replace(payload=raw.payload.replace('"last"', '"true"')) for raw in source.snapshot(100, lsn=100)]
    del source.rows[2]
    table.merge(first + source.snapshot(150, lsn=140))
    assert spans(table, 2) == [("x", 100, 150, True)]
    assert spans(table, 1) == [("x", 100, None, False)]


def test_property_19_a_snapshot_that_begins_again_after_it_was_published_closes_what_is_gone() -> None:
    source, table = Source(), Memory()
    source.rows = {number: {"id": number, "a": "x", "b": None, "big": None, "note": None, "c": 0} for number in (1, 2)}
    table.merge(source.snapshot(100, lsn=100))
    del source.rows[2]
    source.rows[1]["a"] = "y"
    table.merge(source.snapshot(150, lsn=140))
    assert spans(table, 1) == [("x", 100, 150, False), ("y", 150, None, False)]
    assert spans(table, 2) == [("x", 100, 150, True)]
    assert table.everything()[key(2)][0].closed is not None
    table.merge(source.begin(160, lsn=120).update(1, a="z").commit())
    assert [found[0] for found in spans(table, 1)] == ["x", "y", "z"]


def test_what_is_no_change_is_told_apart_and_stops_nothing() -> None:
    good = Source().begin(1).insert(1, a="x").commit()
    changes, unread = Memory().reader.read_all([good[0]._replace(payload="{", topic_offset=77), *good])
    assert [change.key for change in changes] == [key(1)]
    assert [(one.topic_offset, one.message_key) for one in unread] == [(77, key(1))]
    assert "topic p.public.t partition 0 offset 77" in unread[0].reason


def test_property_23_every_version_names_its_origin() -> None:
    source, table = Source(), Memory()
    first = source.begin(10).insert(1, a="x").commit()[0]
    second = source.begin(20).update(1, a="y").commit()[0]
    table.merge([first, second])
    old, new = table.everything()[key(1)]
    assert (old.opened.topic, old.opened.partition, old.opened.offset) == ("p.public.t", 0, first.topic_offset)
    assert (old.opened.tx, new.opened.tx) == (501, 502)
    assert old.closed == new.opened
    assert new.opened.offset == second.topic_offset
    assert old.opened.position < new.opened.position == new.last_position
    assert new.closed is None


def test_property_3_the_rest_of_a_transaction_that_comes_later_ends_as_one_with_it() -> None:
    source, table = Source(), Memory()
    table.merge(source.begin(5).insert(1, a="x").insert(2, a="x").commit())
    raws = source.begin(10).update(1, a="half").update(1, a="whole").truncate().insert(2, a="y").commit()
    for raw in raws:
        table.merge([raw])
    assert spans(table, 1) == [("x", 5, 10, True)]
    assert spans(table, 2) == [("x", 5, 10, False), ("y", 10, None, False)]
    assert not any(version.moved for found in table.everything().values() for version in found)


def test_property_7_the_halves_of_a_changed_key_come_in_different_batches() -> None:
    source, table = Source(full=False), Memory()
    table.merge(source.begin(5).insert(1, big="L" * 9).commit())
    gone, come = source.begin(10).change_key(1, 2).commit()
    table.merge([gone])
    table.merge([come])
    (moved,) = table.everything()[key(2)]
    assert (moved.previous_key, moved.values["big"], moved.unknown) == (key(1), "L" * 9, frozenset())
    assert table.everything()[key(1)][0].next_key == key(2)


def test_property_11_a_renamed_key_column_is_the_same_row() -> None:
    source, table = Source(), Memory(renamed_from={"ident": "id"})
    table.merge(source.begin(5).insert(1, a="x").commit())
    raws = source.begin(10).update(1, a="y").commit()
    source.columns[0] = {**source.columns[0], "field": "ident"}
    (raw,) = raws
    payload = json.loads(raw.payload)
    for side in ("before", "after"):
        payload[side]["ident"] = payload[side].pop("id")
    renamed = source.raw("u", 1, payload["before"], payload["after"], **payload["source"])
    table.merge([renamed._replace(message_key='{"ident":1}')])
    assert spans(table, 1) == [("x", 5, 10, False), ("y", 10, None, False)]
    assert table.everything().keys() == {key(1)}


def test_property_23_a_version_opened_by_a_row_of_a_snapshot_beside_the_stream_says_so() -> None:
    source, table = Source(), Memory()
    row = {"id": 1, "a": "x", "b": None, "big": None, "note": None, "c": 0}
    facts = {"lsn": 90, "ts_us": 7, "snapshot": "last", "sequence": '["80","90"]'}
    table.merge([source.raw("r", 1, None, row, **facts)])
    (version,) = table.everything()[key(1)]
    assert version.origin == "snapshot"
