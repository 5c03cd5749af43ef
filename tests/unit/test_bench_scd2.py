"""The workload of `rtlake bench scd2`, and what is made of its figures."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from airflow_provider_rtlake.bench.scd2.data import Orders
from airflow_provider_rtlake.bench.scd2.drive import Bench, Found, Wish
from airflow_provider_rtlake.bench.scd2.sides import Timed
from airflow_provider_rtlake.exceptions import UserError
from airflow_provider_rtlake.scd2.bronze import COLUMNS, raw_changes
from airflow_provider_rtlake.scd2.change import ChangeReader
from airflow_provider_rtlake.scd2.columns import decode


def test_the_workload_is_what_debezium_sends() -> None:
    orders = Orders(100, seed=3)
    (rows,) = orders.snapshot()
    changes, altered = orders.change(80)
    reader = ChangeReader()
    for table in (rows, changes):
        batch = decode(table.select(COLUMNS.names).cast(COLUMNS), reader, 0)
        assert batch is not None
        assert batch.plain.all()
    read = [reader.read(raw) for raw in raw_changes(changes.select(COLUMNS.names).cast(COLUMNS))]
    assert len({change.key for change in read}) == len(read) == 80
    assert [change.position for change in read] == sorted(change.position for change in read)
    assert {change.op for change in read} >= {"u"}
    after = {change.after["id"]: change.after for change in read if change.after}
    assert {row["id"]: row["amount"] for row in altered.to_pylist()} == {
        key: values["amount"] for key, values in after.items()
    }
    assert all(isinstance(values["amount"], Decimal) for values in after.values())
    whole = {row["id"]: row["state"] for row in orders.whole().to_pylist()}
    assert all(whole[key] == values["state"] for key, values in after.items())
    assert len(whole) == int(np.sum(orders.alive))


def test_the_same_seed_makes_the_same_workload() -> None:
    one, other = Orders(50, seed=4), Orders(50, seed=4)
    assert next(one.snapshot()).equals(next(other.snapshot()))
    assert one.change(20)[0].equals(other.change(20)[0])
    assert not one.change(20)[0].equals(Orders(50, seed=5).change(20)[0])


def test_ratios_and_goals() -> None:
    found = Found(Wish(10_000, 1_000_000, 3, slope_keys=5_000_000), {})
    for name, seconds in {"warm": 2.0, "cold": 9.0, "straightforward": 30.0, "pyiceberg": 3.2}.items():
        found.sides[name] = Timed([seconds, seconds + 0.5, seconds - 0.5])
    found.flat, found.slope, found.equal = [2.0] * 10 + [2.2] * 10, [3.0, 3.2, 2.9], True
    assert found.ratios() == {
        "r1_cold": 3.33,
        "r1_warm": 15.0,
        "r2": 1.6,
        "r3": None,
        "r3_spark": None,
        "flat": 1.1,
        "slope": 0.125,
    }
    answer = found.as_dict()
    assert answer["goals_met"]
    assert "r3" not in answer["goals"]
    found.sides["cold"].seconds = [11.0]
    assert not found.as_dict()["goals_met"]
    assert found.goals()["r1_cold"] == {"aim": ">= 3", "found": 2.73, "met": False}


def test_wishes_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--sides: quick"):
        Bench(None, Wish(sides=("quick",)), print)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="--changes 10: "):
        Bench(None, Wish(changes=10, keys=5), print)  # type: ignore[arg-type]
