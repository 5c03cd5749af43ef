"""What the windowed job's tables are compared with."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

import duckdb
import pytest

from airflow_provider_rtlake.bench import taxi_windows


def at(text: str) -> datetime:
    return datetime.fromisoformat(f"2019-01-01T{text}")


@pytest.fixture
def connection() -> duckdb.DuckDBPyConnection:
    made = duckdb.connect()
    made.execute(
        "CREATE TABLE good (source_row BIGINT, pickup_at TIMESTAMP, pickup_zone_id INT, total_amount DECIMAL(10,2))"
    )
    rows = [
        (1, "10:00:00", 4),
        (2, "10:04:59", 4),
        (3, "10:34:59", 4),
        (4, "11:05:00", 4),
        (5, "10:01:00", 7),
        (6, "10:02:00", 7),
    ]
    for number, time, zone in rows:
        made.execute("INSERT INTO good VALUES (?, ?, ?, 1.5)", [number, at(time), zone])
    made.execute("CREATE TABLE late (source_row BIGINT)")
    made.execute("INSERT INTO late VALUES (6)")
    return made


def found(connection: duckdb.DuckDBPyConnection, name: str) -> list[tuple[Any, ...]]:
    return sorted(
        connection.execute(taxi_windows.expected(name, "good", "late")).fetchall(), key=lambda r: (r[2], r[0])
    )


def test_a_session_ends_after_half_an_hour_without_a_pickup(connection: duckdb.DuckDBPyConnection) -> None:
    # 30 minutes to the second belong together, as Flink's windows that touch do; one second more does not.
    assert found(connection, "sessions") == [
        (at("10:00:00"), at("11:04:59"), 4, 3, Decimal("4.50")),
        (at("11:05:00"), at("11:35:00"), 4, 1, Decimal("1.50")),
        (at("10:01:00"), at("10:31:00"), 7, 1, Decimal("1.50")),
    ]


def test_tumbling_windows_leave_late_rows_out(connection: duckdb.DuckDBPyConnection) -> None:
    assert found(connection, "windows_1h") == [
        (at("10:00:00"), at("11:00:00"), 4, 3, Decimal("4.50")),
        (at("11:00:00"), at("12:00:00"), 4, 1, Decimal("1.50")),
        (at("10:00:00"), at("11:00:00"), 7, 1, Decimal("1.50")),
    ]
    assert [row[3] for row in found(connection, "windows_5m")] == [2, 1, 1, 1]
