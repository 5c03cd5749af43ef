"""The merge's cost on real Spark, Iceberg and Nessie. Its correctness is in test_scd2_properties.py."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pytest

from airflow_provider_rtlake.scd2.change import key_hash
from tests.scd2_lake import LakeTable
from tests.scd2_source import Source

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(1800)]


def test_cost_ten_changes_on_a_million_rows_read_few_rows(lake_table: Callable[..., LakeTable]) -> None:
    from airflow_provider_rtlake.scd2.fold import Event, Version
    from airflow_provider_rtlake.scd2.lake import Lake, Traffic
    from airflow_provider_rtlake.scd2.position import Position
    from airflow_provider_rtlake.scd2.tables import Layout

    source, table = Source(), lake_table()
    table.arrive(source.begin(1_000_000).insert(0, a="x").commit())
    table.merge()
    lake = Lake(table.spark, table.request.catalog, "main")
    iceberg = lake.table(table.request.history)
    assert iceberg is not None
    where = Position(1, 1, 0, 1)
    event = Event(where, 1, "p.public.t", 0, 0)
    sample = Version('{"id":0}', {"id": 0, "a": "x"}, 1_000_000, "stream", False, event, where)
    one = Layout(iceberg.schema_json, 1, frozenset()).rows([(sample, True)])[True, 0]
    count = 1_000_000
    keyed = sorted((key_hash(f'{{"id":{number}}}'), number) for number in range(1, count + 1))
    big = one.take(pa.array([0] * count, pa.int32()))
    for name, values in (
        ("id", [number for _, number in keyed]),
        ("scd2_key", [f'{{"id":{number}}}' for _, number in keyed]),
        ("scd2_key_hash", [hashed for hashed, _ in keyed]),
    ):
        index = big.schema.get_field_index(name)
        big = big.set_column(index, big.schema.field(name), pa.array(values, big.schema.field(name).type))
    iceberg.append(iceberg.write({"scd2_last=true/scd2_bucket=0": big}, Traffic()), {})
    tx = source.begin(2_000_000)
    for number in range(1, 11):
        tx.rows[number * 90_001] = {"id": number * 90_001, "a": "x", "b": None, "big": None, "note": None, "c": 0}
        tx.update(number * 90_001, a="y")
    table.arrive(tx.commit())
    outcome = table.merge()
    found = outcome.statistics
    print(
        {
            name: found[name]
            for name in ("files_read", "bytes_listed", "rows_read", "files_written", "bytes_written", "seconds")
        }
    )
    assert (found["opened"], found["closed"]) == (10, 10)
    assert found["files_read"] <= 6
    assert found["rows_read"] <= 120_000
    assert found["bytes_written"] <= 200_000
