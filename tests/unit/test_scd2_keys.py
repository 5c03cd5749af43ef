"""Rows that are identified by other columns than before: refused, until a new snapshot closes what stands there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from airflow_provider_rtlake.scd2.arrival import Arrival
from airflow_provider_rtlake.scd2.change import ChangeReader, RawChange
from airflow_provider_rtlake.scd2.checkpoint import Checkpoint
from airflow_provider_rtlake.scd2.collect import KeyChanged, Ready, Told, check_key
from airflow_provider_rtlake.scd2.columns import read_rows
from airflow_provider_rtlake.scd2.cut import Situation, decide
from airflow_provider_rtlake.scd2.request import MergeRequest
from airflow_provider_rtlake.scd2.rows import groups, late
from tests.scd2_memory import FOREVER
from tests.scd2_source import Source
from tests.unit.test_scd2_bulk import bronze

REQUEST = MergeRequest(history="d.h", base="d", bronze="b.t", collection="public.t")


def merged(raws: Sequence[RawChange], checkpoint: Checkpoint | None = None, **reader: Any) -> Checkpoint:
    """The checkpoint behind a merge, with the key that it tells."""
    before = checkpoint or Checkpoint()
    arrival = Arrival(1)
    arrival.add(read_rows(bronze(raws), ChangeReader(**reader), 0)[0])
    is_late = late(arrival.rows, before.position)
    summed, _ = groups(arrival.rows, ~is_late)
    decision = decide(summed, Situation(FOREVER, None, before.position))
    made = Ready(arrival, np.ones(len(arrival), bool), is_late, decision, Told())
    return Checkpoint(position=decision.reached, key=check_key(before, made, "d.h"), merge_id="m")


def keyed(raws: Sequence[RawChange], key: str) -> list[RawChange]:
    return [raw._replace(message_key=key) for raw in raws]


def test_other_key_columns_are_refused_with_the_remedy() -> None:
    source = Source()
    stored = merged(source.snapshot(5) + source.begin(10).insert(1, a="x").commit())
    assert stored.key == ("id",)
    stored = Checkpoint.of_row(stored.row(REQUEST, {}, 0))
    assert stored.key == ("id",), "it is remembered"
    other = keyed(source.begin(20).update(1, a="y").commit(), '{"a":"y","b":null}')
    with pytest.raises(KeyChanged, match=r"d\.h: the key was id and is a, b now.*renamed_from.*another slot"):
        merged(other, stored)


def test_other_key_columns_are_refused_within_one_batch() -> None:
    source = Source()
    first = source.begin(10).insert(1, a="x").commit()
    other = keyed(source.begin(20).update(1, a="y").commit(), '{"a":"y"}')
    with pytest.raises(KeyChanged):
        merged(first + other)


def test_the_snapshot_of_a_new_epoch_closes_the_old_keys() -> None:
    source = Source()
    stored = merged(source.begin(10).insert(1, a="x").commit())
    other = keyed(source.begin(20).update(1, a="y").commit(), '{"a":"y"}')
    source.epoch = 2
    snapshot = keyed(source.snapshot(30), '{"a":"y"}')
    after = merged(other + snapshot, stored)
    assert after.key == ("a",)
    redelivered = source.begin(40).update(1, b=2).commit()
    assert merged(keyed(redelivered, '{"a":"y"}'), after).key == ("a",)


def test_a_change_that_comes_late_or_again_is_no_other_key() -> None:
    source = Source()
    first = source.begin(10).insert(1, a="x").commit()
    merged_once = merged(first)
    source.epoch = 2
    after = merged(keyed(source.snapshot(30), '{"a":"x"}'), merged_once)
    assert merged(first, after).key == ("a",)


def test_a_renamed_key_column_and_histories_without_the_note_stay_as_they_were() -> None:
    source = Source()
    stored = merged(source.begin(10).insert(1, a="x").commit())
    renamed = keyed(source.begin(20).update(1, a="y").commit(), '{"number":1}')
    assert merged(renamed, stored, renamed_from={"number": "id"}).key == ("id",)
    assert merged(renamed, Checkpoint(position=stored.position)).key == ("number",)


@pytest.mark.parametrize(
    ("key", "names"),
    [
        ('{"a":"x\\\\\\"}:{","b":-1.5e3}', ("a", "b")),
        ('{"a\\":1":true,"ü,":null}', ('a":1', "ü,")),
        ('{"a":[1,{"b":2}],"c":""}', ("a", "c")),
    ],
)
def test_the_names_of_a_key_are_told_whatever_its_values_are(key: str, names: tuple[str, ...]) -> None:
    raw = Source().begin(10).insert(1).commit()
    assert merged(keyed(raw, key)).key == names
