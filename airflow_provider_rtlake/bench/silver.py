"""Silver, the same in every engine: one text of SQL, in which only the names of two functions differ.

The engines' parts are views over what came in, with the Commission's column names and a row number; what a trip is,
which rows are refused and who wins among repeats is said here, once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date

from airflow_provider_rtlake.exceptions import UserError

MONEY = "DECIMAL(10,2)"
ROW_NUMBER = "row_number"
# Business column → type, expression over the Commission's columns. STRING and TIMESTAMP are understood by all engines.
COLUMNS: dict[str, tuple[str, str]] = {
    "vendor_id": ("INT", "VendorID"),
    "pickup_at": ("TIMESTAMP", "tpep_pickup_datetime"),
    "dropoff_at": ("TIMESTAMP", "tpep_dropoff_datetime"),
    "passenger_count": ("INT", "passenger_count"),
    "trip_distance": (MONEY, "trip_distance"),
    "rate_code_id": ("INT", "RatecodeID"),
    "store_and_fwd_flag": ("STRING", "store_and_fwd_flag"),
    "pickup_zone_id": ("INT", "PULocationID"),
    "dropoff_zone_id": ("INT", "DOLocationID"),
    "payment_type_id": ("INT", "payment_type"),
    "fare_amount": (MONEY, "fare_amount"),
    "extra": (MONEY, "extra"),
    "mta_tax": (MONEY, "mta_tax"),
    "tip_amount": (MONEY, "tip_amount"),
    "tolls_amount": (MONEY, "tolls_amount"),
    "improvement_surcharge": (MONEY, "improvement_surcharge"),
    "total_amount": (MONEY, "total_amount"),
    "congestion_surcharge": (MONEY, "congestion_surcharge"),
    "airport_fee": (MONEY, "Airport_fee"),
}
NATURAL_KEY = (
    "vendor_id", "pickup_at", "dropoff_at", "pickup_zone_id", "dropoff_zone_id", "fare_amount", "total_amount",
)  # fmt: skip
BUSINESS = ("trip_id", *COLUMNS)
SILVER = ("source_row", "ingested_at", *BUSINESS)
# How an engine writes a timestamp as text.
_TEXT_OF_TIME = {
    "duckdb": "strftime({0}, '%Y-%m-%d %H:%M:%S')",
    "spark": "date_format({0}, 'yyyy-MM-dd HH:mm:ss')",
    "flink": "DATE_FORMAT({0}, 'yyyy-MM-dd HH:mm:ss')",
}
_JOIN = " || '|' || "
REASONS = ("no pickup time", "no dropoff time", "negative distance", "negative fare", "pickup outside the months")
REPEATED = "repeated trip"


def trip_id(dialect: str) -> str:
    """A trip's id, over the business columns.

    :param dialect: ``duckdb``, ``spark`` or ``flink``.
    """
    parts = []
    for name in NATURAL_KEY:
        text = _TEXT_OF_TIME[dialect].format(name) if name.endswith("_at") else f"CAST({name} AS STRING)"
        parts.append(f"COALESCE({text}, '')")
    return f"MD5({_JOIN.join(parts)})"


def typed(relation: str, dialect: str) -> str:
    """Every row of a relation with the business columns, the trip's id and the reason why it is refused, if it is.

    :param relation: a table, view or sub-select with the Commission's columns, ``row_number`` and ``ingested_at``.
    :param dialect: ``duckdb``, ``spark`` or ``flink``.
    """
    casts = ",\n    ".join(f"CAST({source} AS {kind}) AS {name}" for name, (kind, source) in COLUMNS.items())
    number = f"CAST({quoted(ROW_NUMBER, dialect)} AS BIGINT) AS source_row"
    return f"SELECT\n    {number},\n    ingested_at,\n    {casts}\nFROM {relation}"


def judged(relation: str, dialect: str, months: Sequence[str]) -> str:
    """:func:`typed`, with ``trip_id`` and ``reason`` (null where the row is good).

    :param months: the months asked for, ``YYYY-MM``.
    """
    inside = " OR ".join(
        f"(pickup_at >= TIMESTAMP '{first} 00:00:00' AND pickup_at < TIMESTAMP '{after} 00:00:00')"
        for first, after in periods(months)
    )
    return (
        f"SELECT source_row, ingested_at, {trip_id(dialect)} AS trip_id, {', '.join(COLUMNS)},\n  CASE\n"
        f"    WHEN pickup_at IS NULL THEN '{REASONS[0]}'\n"
        f"    WHEN dropoff_at IS NULL THEN '{REASONS[1]}'\n"
        f"    WHEN trip_distance < 0 THEN '{REASONS[2]}'\n"
        f"    WHEN fare_amount < 0 THEN '{REASONS[3]}'\n"
        f"    WHEN NOT ({inside}) THEN '{REASONS[4]}'\n"
        f"  END AS reason\nFROM ({typed(relation, dialect)}) AS typed_rows"
    )


def latest(judged_rows: str) -> str:
    """The good rows, the one with the highest row number of each trip.

    :param judged_rows: a view of what :func:`judged` selects.
    """
    columns = ", ".join(SILVER)
    return (
        f"SELECT {columns}\nFROM (\n  SELECT {columns},\n"  # noqa: S608
        "    ROW_NUMBER() OVER (PARTITION BY trip_id ORDER BY source_row DESC) AS nth\n"
        f"  FROM {judged_rows}\n  WHERE reason IS NULL\n) AS ranked_rows\nWHERE nth = 1"
    )


def checksum(relation: str) -> str:
    """DuckDB's query for rows and checksum of silver: no order, every business column, nulls told from empty texts.

    :param relation: with the business columns.
    """
    parts = [
        f"COALESCE({_TEXT_OF_TIME['duckdb'].format(name) if name.endswith('_at') else f'CAST({name} AS VARCHAR)'}, '∅')"
        for name in BUSINESS
    ]
    row = _JOIN.join(parts)
    return (
        f"SELECT count(*), printf('%032x', coalesce(sum(('0x' || substr(md5({row}), 1, 14))::UBIGINT), 0)::UHUGEINT) "  # noqa: S608
        f"FROM {relation}"
    )


def periods(months: Sequence[str]) -> list[tuple[date, date]]:
    """First day and day after the last of each stretch of months without a gap.

    :param months: ``YYYY-MM``.
    :raises UserError: one of them is no month.
    """
    stretches: list[tuple[date, date]] = []
    for month in sorted(set(months)):
        if not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", month):
            raise UserError(f"month {month!r}: write it as YYYY-MM")
        year, number = int(month[:4]), int(month[5:])
        first, after = date(year, number, 1), date(year + number // 12, number % 12 + 1, 1)
        if stretches and stretches[-1][1] == first:
            stretches[-1] = (stretches[-1][0], after)
        else:
            stretches.append((first, after))
    return stretches


def quoted(name: str, dialect: str) -> str:
    """An identifier that may be a keyword somewhere."""
    return f'"{name}"' if dialect in ("duckdb", "trino") else f"`{name}`"
