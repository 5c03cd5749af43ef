"""Taxi trips: real files are read as they are, made-up ones have the same schema."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from airflow_provider_rtlake.demo import taxi
from airflow_provider_rtlake.exceptions import UserError

TLC = Path(os.environ.get("RTLAKE_TLC_DIR", Path(__file__).parents[3] / "shared/data/tlc"))


def test_made_up_trips_have_the_official_schema_and_are_repeatable() -> None:
    first, again, other = taxi.synthetic(5_000), taxi.synthetic(5_000), taxi.synthetic(5_000, seed=2)
    assert first.schema.equals(taxi.SCHEMA)
    assert first.equals(again) and not first.equals(other)


def test_made_up_trips_are_dirty_like_real_ones() -> None:
    table = taxi.synthetic(20_000)
    assert pc.sum(pc.less(table["total_amount"], 0)).as_py() > 20
    assert table["passenger_count"].null_count > 100
    times = zip(table["tpep_pickup_datetime"], table["tpep_dropoff_datetime"], strict=True)
    assert min((end.as_py() - begin.as_py()).total_seconds() for begin, end in times) >= 60


def test_files_are_read_in_the_2024_schema_whatever_their_case(tmp_path: Path) -> None:
    table = taxi.synthetic(300).drop(["Airport_fee"])
    table = table.rename_columns([name.upper() for name in table.column_names])
    table = table.set_column(3, "PASSENGER_COUNT", table["PASSENGER_COUNT"].cast(pa.float64()))
    pq.write_table(table, tmp_path / "yellow_tripdata_2019-01.parquet")
    read = pa.concat_tables(taxi.batches(taxi.find_files(tmp_path), size=100))
    assert read.schema.equals(taxi.SCHEMA) and read.num_rows == 300
    assert read["Airport_fee"].null_count == 300
    assert read.drop(["Airport_fee"]).equals(taxi.synthetic(300).drop(["Airport_fee"]))


@pytest.mark.parametrize("rows", [0, 1, 100, 250, 299, 300, 900])
def test_as_many_rows_as_asked_for(tmp_path: Path, rows: int) -> None:
    for month in ("01", "02"):
        pq.write_table(taxi.synthetic(150), tmp_path / f"yellow_tripdata_2019-{month}.parquet")
    read = sum(one.num_rows for one in taxi.batches(taxi.find_files(tmp_path), rows=rows, size=100))
    assert read == min(rows, 300)


def test_mistakes_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"--source: no yellow_tripdata_\*"):
        taxi.find_files(tmp_path)
    monkeypatch.setenv("RTLAKE_TLC_DIR", str(tmp_path))
    with pytest.raises(UserError, match="RTLAKE_TLC_DIR"):
        taxi.find_files(None)
    broken = tmp_path / "yellow_tripdata_2024-01.parquet"
    broken.write_bytes(b"not parquet")
    with pytest.raises(UserError, match="not a Parquet file"):
        list(taxi.batches([broken]))
    pq.write_table(taxi.synthetic(3).drop(["fare_amount"]), broken)
    with pytest.raises(UserError, match="no column fare_amount"):
        list(taxi.batches([broken]))
    table = taxi.synthetic(3)
    pq.write_table(table.set_column(0, "VendorID", pa.array([1.5, 1.0, 2.0])), broken)
    with pytest.raises(UserError, match="VendorID: cannot be read as int32"):
        list(taxi.batches([broken]))


def test_without_files_none_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RTLAKE_TLC_DIR", raising=False)
    assert taxi.find_files(None) == []


def test_another_input_has_another_fingerprint(tmp_path: Path) -> None:
    pq.write_table(taxi.synthetic(3), tmp_path / "yellow_tripdata_2024-01.parquet")
    files = taxi.find_files(tmp_path)
    prints = [taxi.fingerprint(*given) for given in ((files, 5, 1), (files, 6, 1), ((), 5, 1), ((), 5, 2))]
    assert len(set(prints)) == 4 and prints[0] == taxi.fingerprint(files, 5, 9)


@pytest.mark.skipif(not TLC.is_dir(), reason="the real sample is not there")
def test_the_real_sample_is_read_whole() -> None:
    files = taxi.find_files(TLC)
    read = sum(one.num_rows for one in taxi.batches(files))
    assert len(files) == 24 and read == 240_000
