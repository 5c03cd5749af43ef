"""A run's events: real trips of the Commission's files, or made-up ones, with a row number and some repeats.

They are laid down once as a Parquet file that every pipeline reads and that the reference is computed from.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel

from airflow_provider_rtlake.bench import queries, silver
from airflow_provider_rtlake.bench.record import Source
from airflow_provider_rtlake.demo import taxi
from airflow_provider_rtlake.exceptions import UserError

REPEATED = 0.01  # share of the events that repeat an earlier trip with a corrected tip
_MONTH = re.compile(r"(\d{4}-(?:0[1-9]|1[0-2]))\.parquet$")
_CHUNK = 500_000  # rows of made-up trips at a time
_VERSION = 3  # of what is laid down: a change of this module that changes it counts this up


class Reference(BaseModel):
    """What every engine must arrive at, computed by DuckDB from the events themselves."""

    rows_in: int
    rows_out: int
    rejected: dict[str, int]
    checksum: str
    answers: dict[str, queries.Answer]


@dataclass(frozen=True)
class Events:
    """The events of a run.

    :param path: Parquet, the Commission's columns and ``row_number``.
    """

    path: Path
    source: Source
    reference: Reference


def zones_file() -> Path:
    """The Commission's zones; a seed of the dbt project."""
    return Path(__file__).parents[2] / "dbt" / "taxi" / "seeds" / "taxi_zones.csv"


def zones_relation() -> str:
    """The zones, as DuckDB reads them."""
    return f"(SELECT zone_id, zone_name AS zone FROM read_csv('{zones_file()}', header=true))"  # noqa: S608


def prepare(
    folder: Path, *, events: int, source: str | Path | None = None, synthetic: bool = False, seed: int = 1
) -> Events:
    """Lay the events down, or find them laid down.

    :param folder: where to keep them.
    :param events: how many.
    :param source: Parquet file, folder or glob; without, ``RTLAKE_TLC_DIR``, and without that made-up trips.
    :param synthetic: make trips up even where files are named by the environment.
    :param seed: of what is made up and of the choice of repeats.
    :raises UserError: the files have fewer rows than asked for, or one has no month in its name.
    """
    files = [] if synthetic else taxi.find_files(source)
    repeated = int(events * REPEATED)
    used = _used(files, events - repeated)
    months = sorted({_month(path) for path in used}) if used else ["2024-01"]
    marks = [_VERSION, events, seed, REPEATED, taxi.fingerprint(files, events, seed), silver.checksum("t"), months]
    name = hashlib.sha256(json.dumps(marks).encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    path, told = folder / f"events-{name}.parquet", folder / f"events-{name}.json"
    if not path.exists():
        _write(path, files, events, repeated, seed)
    given = Source(
        kind="real" if files else "synthetic",
        files=[file.name for file in used],
        events=events,
        repeated=repeated,
        months=months,
        seed=seed,
    )
    if told.exists():
        reference = Reference.model_validate_json(told.read_bytes())
    else:
        reference = compute(path, months)
        told.write_text(reference.model_dump_json())
    return Events(path, given, reference)


def compute(path: Path, months: Sequence[str]) -> Reference:
    """The reference of some events.

    :param path: as laid down by :func:`prepare`.
    :param months: asked for, ``YYYY-MM``.
    """
    with duckdb.connect() as connection:
        relation = f"(SELECT *, current_timestamp::TIMESTAMP AS ingested_at FROM read_parquet('{path}')) AS events"  # noqa: S608
        connection.execute(f"CREATE VIEW judged AS {silver.judged(relation, 'duckdb', months)}")
        connection.execute(f"CREATE TABLE silver AS {silver.latest('judged')}")
        return of_silver(connection, "judged", "silver")


def lay_silver(database: Path, events: Events) -> None:
    """A DuckDB file, made anew, with nothing but ``silver.trips``.

    :param database: the file.
    :param events: as laid down by :func:`prepare`.
    """
    database.parent.mkdir(parents=True, exist_ok=True)
    database.unlink(missing_ok=True)
    with duckdb.connect(str(database)) as connection:
        relation = f"(SELECT *, now()::TIMESTAMP AS ingested_at FROM read_parquet('{events.path}')) AS events"  # noqa: S608
        connection.execute(f"CREATE TEMP VIEW judged AS {silver.judged(relation, 'duckdb', events.source.months)}")
        connection.execute(f"CREATE SCHEMA silver; CREATE TABLE silver.trips AS {silver.latest('judged')}")


def of_silver(connection: duckdb.DuckDBPyConnection, judged: str, trips: str) -> Reference:
    """Rows, reasons, checksum and answers of silver in DuckDB.

    :param judged: relation of all rows with their reason.
    :param trips: silver.
    """
    rows_in, good = connection.execute(
        f"SELECT count(*), count(*) FILTER (reason IS NULL) FROM {judged}"  # noqa: S608
    ).fetchone() or (0, 0)
    reasons = connection.execute(
        f"SELECT reason, count(*) FROM {judged} WHERE reason IS NOT NULL GROUP BY 1 ORDER BY 1"  # noqa: S608
    )
    rejected = {reason: int(count) for reason, count in reasons.fetchall()}
    rows, checksum = connection.execute(silver.checksum(trips)).fetchone() or (0, "")
    if good > rows:
        rejected[silver.REPEATED] = int(good - rows)
    return Reference(
        rows_in=rows_in, rows_out=rows, rejected=rejected, checksum=checksum, answers=answers(connection, trips)
    )


def answers(connection: duckdb.DuckDBPyConnection, trips: str) -> dict[str, queries.Answer]:
    """The four answers from DuckDB.

    :param trips: relation of silver.
    """
    asked = {name: queries.text(name, dialect="duckdb", trips=trips, zones=zones_relation()) for name in queries.TITLES}
    return {name: queries.canonical(connection.execute(sql).fetchall()) for name, sql in asked.items()}


def _month(path: Path) -> str:
    found = _MONTH.search(path.name)
    if found is None:
        raise UserError(f"{path}: no month in its name; the Commission calls it yellow_tripdata_YYYY-MM.parquet")
    return found.group(1)


def _used(files: Sequence[Path], rows: int) -> list[Path]:
    used, left = [], rows
    for path in files:
        if left <= 0:
            break
        used.append(path)
        left -= pq.ParquetFile(path).metadata.num_rows
    return used


def _trips(files: Sequence[Path], rows: int, seed: int) -> Iterator[pa.Table]:
    if files:
        yield from taxi.batches(files, rows)
        return
    for number, start in enumerate(range(0, rows, _CHUNK)):
        yield taxi.synthetic(min(_CHUNK, rows - start), seed + number)


def _write(path: Path, files: Sequence[Path], events: int, repeated: int, seed: int) -> None:
    schema = taxi.SCHEMA.append(pa.field(silver.ROW_NUMBER, pa.int64()))
    plain, number = path.with_suffix(".plain"), 0
    with pq.ParquetWriter(plain, schema) as writer:
        for table in _trips(files, events - repeated, seed):
            numbers = pa.array(range(number, number + table.num_rows), pa.int64())
            writer.write_table(table.append_column(silver.ROW_NUMBER, numbers).cast(schema))
            number += table.num_rows
    if number < events - repeated:
        plain.unlink()
        raise UserError(
            f"the files have {number} trips, {events - repeated} are needed for {events} events; name more files with "
            "--source, ask for fewer events, or make trips up with --synthetic"
        )
    _repeat(plain, path, repeated, seed)


def _repeat(plain: Path, path: Path, repeated: int, seed: int) -> None:
    """Append repeats: some of the trips once more, with a higher row number and another tip and passenger count."""
    made = path.with_suffix(".new")
    with duckdb.connect() as connection:
        connection.execute(
            f"COPY (FROM (FROM read_parquet('{plain}') UNION ALL "  # noqa: S608
            "SELECT * REPLACE (round(tip_amount + 1, 2) AS tip_amount, 1 AS passenger_count, "
            f"  (SELECT count(*) FROM read_parquet('{plain}')) + row_number() OVER (ORDER BY row_number) - 1 "
            "AS row_number) "
            f"FROM (FROM read_parquet('{plain}') ORDER BY hash(row_number + {seed}), row_number LIMIT {repeated})) "
            f"ORDER BY row_number) TO '{made}' (FORMAT parquet, COMPRESSION zstd)"
        )
    made.replace(path)
    plain.unlink()
