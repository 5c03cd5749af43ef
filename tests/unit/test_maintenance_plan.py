"""What maintenance may do, and what it must leave."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from airflow_provider_rtlake.checks.names import TableName
from airflow_provider_rtlake.maintenance import plan

NOW = datetime(2026, 1, 10, tzinfo=timezone.utc)
WEEK = timedelta(days=7)
TABLE = TableName("nessie", "bronze", "t")


def test_a_snapshot_that_a_position_needs_stays() -> None:
    needed = {"a": NOW - timedelta(days=9), "b": NOW - timedelta(days=8), "gone": None}
    kept = plan.retention(WEEK, NOW, needed)
    assert kept.keep > timedelta(days=9)
    assert "a still reads" in kept.because


@pytest.mark.parametrize("needed", [{}, {"gone": None}, {"young": NOW - timedelta(days=1)}])
def test_otherwise_what_is_wanted_is_kept(needed: dict[str, datetime | None]) -> None:
    assert plan.retention(WEEK, NOW, needed) == plan.Retention(WEEK)


def test_any_other_reference_is_a_witness_but_other_tables_merges() -> None:
    references = ["main", "v1", "dev", "scd2/default.a/1/x", "scd2/default.b/1/x", "scd2-refused/default.a/1/x"]
    assert plan.possible_witnesses(references, "main", None) == ["dev", "v1"]
    assert plan.possible_witnesses(references, "main", "default.a") == [
        "dev",
        "scd2-refused/default.a/1/x",
        "scd2/default.a/1/x",
        "v1",
    ]


def test_a_merge_in_flight_is_its_own_historys() -> None:
    references = ["scd2/default.a/1/x", "scd2/default.ab/1/x", "scd2-refused/default.a/1/x"]
    assert plan.merges_in_flight(references, "default.a") == ["scd2/default.a/1/x"]
    assert plan.merges_in_flight(references, None) == []


def test_statements() -> None:
    sql = {
        action: plan.action_sql(action, TABLE, keep=timedelta(seconds=1.2), small_file_mb=64) for action in plan.ACTIONS
    }
    assert sql["expire"].endswith("expire_snapshots(retention_threshold => '2s')")
    assert sql["orphans"].endswith(f"(retention_threshold => '{7 * 86400}s')")
    assert all(text.startswith('ALTER TABLE "nessie"."bronze"."t" EXECUTE') for text in sql.values())
    with pytest.raises(ValueError, match="no such action"):
        plan.action_sql("drop", TABLE, keep=WEEK, small_file_mb=1)
