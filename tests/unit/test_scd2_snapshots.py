"""A snapshot is published when it is whole, and closes what is absent from it only then."""

from __future__ import annotations

from typing import Any

from airflow_provider_rtlake.scd2.change import ChangeReader, RawChange
from airflow_provider_rtlake.scd2.cut import Cut, Patience, Situation, cut
from airflow_provider_rtlake.scd2.position import Position
from airflow_provider_rtlake.scd2.snapshots import SnapshotEnd, read_snapshot_ends
from tests.scd2_source import COLLECTION, Source

NOW = 10_000_000
PATIENT, SPENT = Patience(NOW, 10**12, 10**12), Patience(NOW, 1, 1)
SIGN_SPENT = Patience(NOW, 10**12, 1)
BEFORE = Position(1, 1, 500, 600)


def rows(count: int, *, epoch: int = 2, lsn: int = 90, last: bool = False) -> list[RawChange]:
    source = Source(epoch=epoch)
    source.rows = {key: {"id": key, "a": "x", "b": None, "big": None, "note": None, "c": 0} for key in range(count)}
    found = source.snapshot(100, lsn=lsn)
    return found if last else [raw._replace(payload=raw.payload.replace('"last"', '"true"')) for raw in found]


def made(raws: list[RawChange], ends: list[SnapshotEnd] | None, patience: Patience = PATIENT, **more: Any) -> Cut:
    reader = ChangeReader()
    options = {"reached": BEFORE, "snapshot_ends": ends, "patience": patience, **more}
    return cut([reader.read(raw) for raw in raws], Situation(ends=[], **options))


def test_property_19_a_snapshot_waits_for_as_many_keys_as_the_connector_read() -> None:
    found, end = rows(4), SnapshotEnd(7, 2, 4, 50)
    assert made(found[:3], [end]).ready == []
    assert made(found[:3] + found[:1], [end]).ready == []  # redelivered rows are not counted twice
    whole = made(found, [end])
    assert (len(whole.ready), [mark.position for mark in whole.marks]) == (4, [Position(2, 0, 0, 90)])
    assert whole.marks[0].since == Position(2, 0, 0, 90)
    assert (whole.snapshots.order, whole.snapshots.left) == (7, [])


def test_property_19_a_sign_of_the_end_needs_patience_and_is_not_believed_against_the_count() -> None:
    found = rows(4, last=True)
    assert made(found[1:], []).ready == []
    assert len(made(found[1:], [], SIGN_SPENT).marks) == 1
    assert made(found[1:], [SnapshotEnd(7, 2, 4, 50)], SIGN_SPENT).ready == []
    forced = made(found[1:], [SnapshotEnd(7, 2, 4, 50)], SPENT)
    assert (len(forced.ready), forced.marks, forced.snapshots.unfinished) == (3, [], 1)


def test_property_19_a_snapshot_of_an_emptied_table_closes_everything() -> None:
    found = made([], [SnapshotEnd(7, 2, 0, 50)])
    assert [(mark.kind, mark.ts, mark.since) for mark in found.marks] == [("snapshot", 50, Position(2, 0, 0, 0))]
    assert found.reached == Position(2, 0, 0, 0)
    assert made([], [SnapshotEnd(7, 2, 0, 50)], snapshot_order=7).marks == []
    assert made([], [SnapshotEnd(7, 1, 0, 50)]).marks == []  # within the stream: what is gone was deleted there


def test_property_19_of_two_attempts_the_last_one_counts() -> None:
    first, second = rows(3, lsn=90), rows(4, lsn=95)
    assert made(first + second[:3], []).ready == []
    whole = made(first + second, [SnapshotEnd(7, 2, 4, 50)])
    assert (len(whole.ready), whole.marks[0].since) == (7, Position(2, 0, 0, 95))
    both = made(first + second[:3], [SnapshotEnd(7, 2, 3, 50)])
    assert both.ready == []  # the first attempt took the only end


def test_property_22_a_transaction_that_a_lost_slot_tore_apart_goes_with_the_new_snapshot() -> None:
    source = Source()
    source.commit_lsn = 700
    torn = source.begin(90).insert(8, a="x").commit()
    end = SnapshotEnd(7, 2, 2, 50)
    assert made(torn + rows(2), [end]).ready == []  # its END may still come
    found = made(torn + rows(2), [end], SIGN_SPENT)
    assert (len(found.ready), found.forced, len(found.marks)) == (3, 1, 1)
    assert made(torn + rows(1), [end], SIGN_SPENT).ready == []  # the snapshot is not whole


def test_notifications_are_read_as_they_are_stored() -> None:
    row = {"topic_offset": 7, "type": "TABLE_SCAN_COMPLETED", "status": "SUCCEEDED", "data_collection": COLLECTION}
    row |= {"epoch": '"2:77:1"', "row_count": 4, "kafka_ts": 50}
    others = [{**row, "type": "STARTED"}, {**row, "status": "SKIPPED"}, {**row, "data_collection": "public.other"}]
    assert read_snapshot_ends([row, *others], COLLECTION) == [SnapshotEnd(7, 2, 4, 50)]
