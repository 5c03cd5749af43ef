"""A history that cannot go on is given up and built anew from bronze, on real Spark, Iceberg and Nessie."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from airflow_provider_rtlake.exceptions import UserError
from airflow_provider_rtlake.scd2.erase import EraseRequest, erase
from airflow_provider_rtlake.scd2.rebuild import give_up
from airflow_provider_rtlake.scd2.tables import SchemaIncompatible
from airflow_provider_rtlake.scd2.values import ValueRefused
from tests.scd2_lake import LakeTable
from tests.scd2_source import Source, column

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(1800)]


def priced() -> Source:
    return Source(columns=[column("id", "int64", type="INT8"), column("n", type="NUMERIC", length="9", scale="2")])


def test_a_history_with_another_type_is_built_anew(lake_table: Callable[..., LakeTable]) -> None:
    source, table = priced(), lake_table(columns=("id", "n"))
    table.arrive(source.begin(10).insert(1, n="1.00").insert(2, n="2.00").commit())
    table.merge()
    table.arrive(source.begin(20).update(1, n="NAN").commit())
    with pytest.raises(ValueRefused, match="rtlake scd2 rebuild"):
        table.merge()
    with pytest.raises(SchemaIncompatible, match="rtlake scd2 rebuild"):
        table.merge(text_columns=("n",))
    with pytest.raises(ValueRefused):
        give_up(table.spark, table.request)
    assert len(table.rows()) == 2, "nothing was given up"

    give_up(table.spark, table.request.model_copy(update={"text_columns": ("n",)}))

    assert table.snapshots()[0] is None
    table.merge(text_columns=("n",))
    assert [row.n for row in table.versions()['{"id":1}']] == ["1.00", "NaN"]
    assert [row.n for row in table.versions()['{"id":2}']] == ["2.00"]
    table.arrive(source.begin(30).update(1, n="3.00").commit())
    table.merge(text_columns=("n",))
    assert [row.n for row in table.versions()['{"id":1}']] == ["1.00", "NaN", "3.00"]


def test_erased_keys_stay_erased(lake_table: Callable[..., LakeTable]) -> None:
    source, table = Source(), lake_table()
    table.arrive(source.begin(10).insert(7, a="secret").insert(8, a="other").commit())
    table.arrive(source.begin(20).delete(7).commit())
    table.merge()
    erase(table.spark, EraseRequest(merge=table.request, keys=('{"id":7}',)))
    before = [(row.scd2_key, row.a, row.effective_start_ts) for row in table.rows()]
    give_up(table.spark, table.request)
    table.arrive([raw._replace(topic_offset=raw.topic_offset + 100) for raw in source.messages[0]])
    table.merge()
    assert [(row.scd2_key, row.a, row.effective_start_ts) for row in table.rows()] == before


def test_bronze_has_to_hold_what_the_history_was_made_from(lake_table: Callable[..., LakeTable]) -> None:
    source, table = Source(), lake_table()
    table.arrive(source.begin(10).insert(1, a="x").insert(2, a="y").commit())
    table.merge()
    table.spark.sql(f"DELETE FROM nessie.{table.request.bronze} WHERE topic_offset = 1")
    with pytest.raises(UserError, match="1 changes that it was made from"):
        give_up(table.spark, table.request)
    assert len(table.rows()) == 2
