"""The queries that a history answers."""

from __future__ import annotations

import pytest

from airflow_provider_rtlake.checks.names import TableName
from airflow_provider_rtlake.exceptions import UserError
from airflow_provider_rtlake.scd2.queries import changes_between, current_rows, moment, rows_as_of

TABLE = TableName.parse("nessie.default.sales_scd2_iceberg")


def test_times_are_utc_with_microseconds() -> None:
    assert moment("2026-11-21T12:00:00.5+01:00") == "TIMESTAMP '2026-11-21 11:00:00.500000 UTC'"
    assert moment("2026-11-21") == moment("2026-11-21T00:00:00Z")
    with pytest.raises(UserError, match="write 2026"):
        moment("yesterday' OR 1=1")


def test_names_are_quoted() -> None:
    assert '"we""ird", "id"' in current_rows(TABLE, ['we"ird', "id"])
    with pytest.raises(UserError, match="name the columns"):
        current_rows(TABLE, [])


def test_bounds_are_half_open() -> None:
    assert "<= TIMESTAMP '2026-11-21 00:00:00.000000 UTC'" in rows_as_of(TABLE, ["id"], "2026-11-21")
    found = changes_between(TABLE, ["id"], "2026-11-21", "2026-11-22")
    assert found.count(">= TIMESTAMP '2026-11-21") == 2
    assert found.count("< TIMESTAMP '2026-11-22") == 2
