"""Silver and the reference against a plain Python reading of the rules."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from airflow_provider_rtlake.bench import queries, silver, source
from airflow_provider_rtlake.exceptions import UserError


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> source.Events:
    return source.prepare(tmp_path_factory.mktemp("events"), events=3000, synthetic=True, seed=7)


def money(value: float | None) -> str:
    return "" if value is None else f"{Decimal(str(value)):.2f}"


def text(value: Any) -> str:
    return "" if value is None else str(value)


def trip_id(row: dict[str, Any]) -> str:
    parts = [
        text(row["VendorID"]),
        f"{row['tpep_pickup_datetime']:%Y-%m-%d %H:%M:%S}",
        f"{row['tpep_dropoff_datetime']:%Y-%m-%d %H:%M:%S}",
        text(row["PULocationID"]),
        text(row["DOLocationID"]),
        money(row["fare_amount"]),
        money(row["total_amount"]),
    ]
    return hashlib.md5("|".join(parts).encode(), usedforsecurity=False).hexdigest()


def test_the_reference_follows_the_rules(events: source.Events) -> None:
    rows = pq.read_table(events.path).to_pylist()
    reasons: Counter[str] = Counter()
    latest: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["trip_distance"] < 0:
            reasons["negative distance"] += 1
        elif row["fare_amount"] < 0:
            reasons["negative fare"] += 1
        elif f"{row['tpep_pickup_datetime']:%Y-%m}" != "2024-01":
            reasons["pickup outside the months"] += 1
        else:
            known = latest.get(trip_id(row))
            if known is not None:
                reasons["repeated trip"] += 1
            if known is None or known["row_number"] < row["row_number"]:
                latest[trip_id(row)] = row
    reference = events.reference
    assert reference.rows_in == len(rows) == 3000
    assert reference.rows_out == len(latest)
    assert reference.rejected == dict(reasons)
    assert reasons["repeated trip"] >= 20 and reasons["negative fare"] > 0
    days = Counter(f"{row['tpep_pickup_datetime']:%Y-%m-%d}" for row in latest.values())
    assert {day: trips for day, trips, _ in reference.answers["q1"]} == dict(days)
    tips = sum(Decimal(str(row["tip_amount"])) for row in latest.values())
    with duckdb.connect() as connection:
        connection.execute(
            "CREATE TABLE judged AS "
            + silver.judged(
                f"(SELECT *, now()::TIMESTAMP AS ingested_at FROM read_parquet('{events.path}')) AS e",
                "duckdb",
                ["2024-01"],
            )
        )
        connection.execute(f"CREATE TABLE trips AS {silver.latest('judged')}")
        found = connection.execute(
            "SELECT sum(tip_amount), count(DISTINCT trip_id), min(trip_id) FROM trips"
        ).fetchone()
    assert found == (tips, len(latest), min(latest))  # the winner's tip counts, not the first one's


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE s SET tip_amount = tip_amount + 0.01 WHERE source_row = 5",
        "UPDATE s SET passenger_count = NULL WHERE source_row = 6",
        "UPDATE s SET store_and_fwd_flag = '' WHERE store_and_fwd_flag IS NULL",
        "DELETE FROM s WHERE source_row = 7",
        "INSERT INTO s SELECT * FROM s WHERE source_row = 8",
    ],
)
def test_the_checksum_sees_every_change_and_no_order(events: source.Events, change: str) -> None:
    with duckdb.connect() as connection:
        rows = f"(SELECT *, now()::TIMESTAMP AS ingested_at FROM read_parquet('{events.path}')) AS e"
        judged = silver.judged(rows, "duckdb", ["2024-01"])
        connection.execute(f"CREATE TABLE judged AS {judged}")
        connection.execute(f"CREATE TABLE s AS {silver.latest('judged')} ORDER BY random()")
        assert connection.execute(silver.checksum("s")).fetchone() == (
            events.reference.rows_out,
            events.reference.checksum,
        )
        connection.execute(change)
        assert connection.execute(silver.checksum("s")).fetchone()[1] != events.reference.checksum


def test_months_without_a_gap_are_one_stretch() -> None:
    found = [(str(a), str(b)) for a, b in silver.periods(["2019-12", "2020-01", "2020-03", "2019-12"])]
    assert found == [("2019-12-01", "2020-02-01"), ("2020-03-01", "2020-04-01")]
    with pytest.raises(UserError, match="YYYY-MM"):
        silver.periods(["2019-13"])


def test_too_few_rows_are_told(tmp_path: Path) -> None:
    table = pq.read_table(source.prepare(tmp_path, events=200, synthetic=True).path).drop_columns(["row_number"])
    given = tmp_path / "yellow_tripdata_2024-01.parquet"
    pq.write_table(table, given)
    with pytest.raises(UserError, match="200 trips, 990 are needed for 1000 events"):
        source.prepare(tmp_path / "out", events=1000, source=given)
    given.rename(tmp_path / "trips.parquet")
    with pytest.raises(UserError, match="no month in its name"):
        source.prepare(tmp_path / "out", events=100, source=tmp_path / "trips.parquet")


def test_share_and_rank_from_counts_are_those_of_the_window(events: source.Events) -> None:
    answer = events.reference.answers["q4"]
    assert queries.from_counts({key: trips for key, trips, _, _ in answer}) == answer
    assert [row[3] for row in queries.from_counts({1: 5, 2: 5, None: 1})] == [1, 1, 3]


def test_differences_are_told() -> None:
    assert queries.difference([[1, "2.00"]], [[1, "2.00"]]) is None
    assert "2 rows, the reference has 1" in str(queries.difference([[1]], [[1], [2]]))
    assert "row 1: [2], the reference has [1]" in str(queries.difference([[1]], [[2]]))


def test_the_zones_are_the_commissions() -> None:
    with source.zones_file().open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 265 and rows[236]["zone_name"] == "Upper East Side South"
