"""Only whole transactions are published, as a prefix of the commit order."""

from __future__ import annotations

import json

import pytest

from airflow_provider_rtlake.scd2.change import ChangeReader, RawChange, UnreadableChange
from airflow_provider_rtlake.scd2.cut import Cut, Patience, Situation, TransactionEnd, cut, read_ends, shown_until
from airflow_provider_rtlake.scd2.position import Position, epoch_number, of_source
from tests.scd2_memory import FOREVER
from tests.scd2_source import COLLECTION, Source


def end(source: Source, order: int, group: list[RawChange], count: int | None = None) -> TransactionEnd:
    payload = json.loads(group[0].payload)["source"]
    return TransactionEnd(order, payload["txId"], source.commit_lsn, count or len(group), kafka_ts=0)


def made(groups: list[list[RawChange]], ends: list[TransactionEnd] | None, patience: Patience = FOREVER) -> Cut:
    reader = ChangeReader()
    return cut([reader.read(raw) for group in groups for raw in group], Situation(patience, ends))


def test_property_22_a_torn_transaction_waits_and_so_does_what_follows() -> None:
    source = Source()
    one = source.begin(10).insert(1).insert(2).commit()
    ends = [end(source, 1, one)]
    two = source.begin(20).update(1, a="x").update(2, a="y").commit()
    ends.append(end(source, 3, two))
    three = source.begin(30).insert(3).commit()
    ends.append(end(source, 5, three))
    found = made([one, two[:1], three], ends)
    assert {change.tx for change in found.ready} == {501}
    assert {change.tx for change in found.pending} == {502, 503}
    assert [waiting.tx for waiting in found.ends] == [502, 503]
    assert {change.tx for change in made([one, two, three], ends).ready} == {501, 502, 503}


def test_property_22_a_transaction_whose_end_is_not_told_waits() -> None:
    source = Source()
    one = source.begin(10).insert(1).commit()
    assert made([one], []).ready == []
    assert len(made([one], None).ready) == 1


def test_property_22_a_transaction_of_which_nothing_has_come_holds_back_later_ones() -> None:
    source = Source()
    missing = source.begin(10).insert(1).commit()
    ends = [end(source, 1, missing)]
    later = source.begin(20).insert(2).commit()
    ends.append(end(source, 3, later))
    assert made([later], ends).ready == []


def test_a_transaction_that_never_becomes_whole_is_published_when_patience_is_spent() -> None:
    source = Source()
    one = source.begin(10).insert(1).insert(2).commit()
    ends = [end(source, 1, one, count=3)]
    assert made([one], ends, Patience(now=50, limit=100, snapshot_limit=100)).ready == []
    found = made([one], ends, Patience(now=500, limit=100, snapshot_limit=100))
    assert (len(found.ready), found.forced) == (2, 1)


@pytest.mark.parametrize(
    ("newest", "appended", "shown"),
    [
        (900, 910, 990),  # it has caught up, and brings nothing for a while
        (300, 1000, 300),  # it is behind
        (300, 950, 350),
        (995, 990, 1000),  # two clocks differ
        (300, None, 1000),
        (0, 950, 1000),
    ],
)
def test_time_passes_for_what_waits_only_as_far_as_bronze_shows(newest: int, appended: int | None, shown: int) -> None:
    assert shown_until(newest, appended, now=1000) == shown


def test_a_redelivered_end_of_a_published_transaction_holds_back_nothing() -> None:
    source, reader = Source(), ChangeReader()
    one = source.begin(10).insert(1).commit()
    first = end(source, 1, one)
    found = made([one], [first])
    two = source.begin(20).insert(2).commit()
    again = TransactionEnd(9, first.tx, first.lsn, first.count, 0)
    assert (found.end_lsn, found.ends) == (first.lsn, [])
    changes = [reader.read(raw) for raw in two]
    ends = [again, end(source, 3, two)]
    after = cut(changes, Situation(FOREVER, ends, found.reached, found.end_lsn))
    assert [change.tx for change in after.ready] == [502]
    assert after.ends == []


def test_log_positions_of_two_epochs_are_not_compared() -> None:
    source = Source(epoch=2)
    one = source.begin(10).insert(1).commit()
    changes = [ChangeReader().read(raw) for raw in one]
    ends = [end(source, 1, one)]
    found = cut(changes, Situation(FOREVER, ends, Position(1, 1, 10**12, 5), 10**12))
    assert (len(found.ready), found.end_lsn) == (1, ends[0].lsn)


def test_late_changes_are_never_held() -> None:
    source = Source()
    one = source.begin(10).insert(1).commit()
    reader = ChangeReader()
    found = cut([reader.read(raw) for raw in one], Situation(FOREVER, [], Position(1, 1, 10**6, 0)))
    assert len(found.ready) == 1
    assert found.reached == Position(1, 1, 10**6, 0)


def test_ends_are_read_from_the_transaction_topic() -> None:
    rows = [
        {
            "topic_offset": 7,
            "tx_id": "571:53195832",
            "kafka_ts": 5,
            "data_collections": json.dumps(
                [
                    {"data_collection": COLLECTION, "event_count": 2},
                    {"data_collection": "public.other", "event_count": 9},
                ]
            ),
        },
        {"topic_offset": 9, "tx_id": "572:53195900", "kafka_ts": 6, "data_collections": "[]"},
    ]
    assert read_ends(rows, COLLECTION) == [TransactionEnd(7, 571, 53195832, 2, 5)]


@pytest.mark.parametrize(
    ("source", "position"),
    [
        ({"lsn": 9, "sequence": '["5","9"]', "snapshot": "false"}, (3, 1, 5, 9)),
        ({"lsn": 9, "sequence": '[null,"9"]'}, (3, 1, 0, 9)),
        ({"lsn": 9, "sequence": '[null,"9"]', "snapshot": "first"}, (3, 0, 0, 9)),
        ({"lsn": 9, "sequence": '["9","9"]', "snapshot": "last"}, (3, 1, 9, 0)),
        ({"lsn": None, "sequence": None, "snapshot": "true"}, (3, 0, 0, 0)),
    ],
)
def test_property_2_positions(source: dict[str, object], position: tuple[int, ...]) -> None:
    found = of_source(source, 3)
    assert found == position
    assert Position.parse(found.text) == found


def test_positions_compare_as_text_as_they_do_as_numbers() -> None:
    positions = [Position(1, 0, 0, 10), Position(1, 1, 9, 100), Position(1, 1, 10, 2), Position(2, 0, 0, 1)]
    assert sorted(position.text for position in positions) == [position.text for position in positions]
    assert Position(1, 0, 0, 2**63) < Position(1, 1, 0, 0)


@pytest.mark.parametrize(("header", "number"), [(None, 0), ("", 0), ("2:77:1", 2), ('"12:77:1"', 12), ("x", 0)])
def test_epoch_of_a_header(header: str | None, number: int) -> None:
    assert epoch_number(header) == number


@pytest.mark.parametrize(
    "broken",
    [{"payload": "{"}, {"payload": "{}"}, {"payload": "null"}, {"value_schema": "{}"}, {"message_key": None}],
)
def test_what_is_no_change_is_named_by_its_place(broken: dict[str, str | None]) -> None:
    raw = Source().begin(1).insert(1).commit()[0]._replace(**broken)
    with pytest.raises(UnreadableChange, match=r"topic p\.public\.t partition 0 offset 1|no[t]? .*envelope"):
        ChangeReader().read(raw)
