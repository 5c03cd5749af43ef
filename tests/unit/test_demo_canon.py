"""A value has one spelling, whichever system it was read from."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from airflow_provider_rtlake.demo.canon import canonical, realtime, served
from airflow_provider_rtlake.streams.schema import Column

# type, then spellings of one value: PostgreSQL's text, Debezium's JSON, drivers.
SAME: list[tuple[str, list[Any]]] = [
    ("bigint", ["9223372036854775807", 9223372036854775807]),
    ("numeric", ["1.10", "1.1", Decimal("1.100"), "1.1000000"]),
    ("numeric", ["0", "-0", "0.00", Decimal("0E-10")]),
    ("numeric", ["0.0000000001", Decimal("1E-10")]),
    ("numeric", ["NaN", "NAN", Decimal("NaN")]),
    ("numeric", ["-Infinity", "NEGATIVE_INFINITY"]),
    ("money", ["$1,234.50", "1234.5"]),
    ("double precision", ["0.30000000000000004", 0.30000000000000004]),
    ("double precision", ["1e+308", 1.0e308, "1.0E308"]),
    ("double precision", ["NaN", float("nan")]),
    ("real", ["1.1", 1.1, 1.100000023841858]),
    ("boolean", ["t", "true", True, 1]),
    ("date", ["2024-02-29", date(2024, 2, 29), 19782]),
    ("date", ["0044-03-15 BC", "-0043-03-15"]),
    ("date", ["infinity", 2146033979, "9999-12-31"]),
    (
        "timestamp without time zone",
        ["2024-01-01 00:00:00.1", datetime(2024, 1, 1, 0, 0, 0, 100000), 1704067200100000],
    ),
    ("timestamp without time zone", ["12024-01-01 00:00:00", "12024-01-01T00:00:00"]),
    ("timestamp without time zone", ["-infinity", -(2**63)]),
    (
        "timestamp with time zone",
        [
            "2026-11-21 05:11:12.123456+00",
            "2026-11-21T05:11:12.123456Z",
            "2026-11-21 06:41:12.123456+01:30",
            "2026-11-21 05:11:12.123456 UTC",
            datetime(2026, 11, 21, 5, 11, 12, 123456, tzinfo=timezone.utc),
        ],
    ),
    ("time without time zone", ["24:00:00", 86400000000, "24:00:00.000000"]),
    ("time without time zone", ["01:02:03.5", time(1, 2, 3, 500000), 3723500000, timedelta(seconds=3723.5)]),
    ("time with time zone", ["01:00:00+02", "23:00:00Z"]),
    ("interval", ["P1Y2M-3DT4H5M6.5S", "P1Y2M-3DT4H5M6.5S", "P0Y14M-3DT4H5M6.50S"]),
    ("bytea", ["\\x00ff10", "AP8Q", b"\x00\xff\x10"]),
    ("jsonb", ['{"a": 1.10, "b": [1, null]}', '{"b":[1,null],"a":1.1}']),
    ("bit varying", ["101", b"\x05"]),
    ("text", ["", b""]),
    ("uuid", ["00000000-0000-0000-0000-000000000001"]),
]


@pytest.mark.parametrize(("kind", "spellings"), SAME)
def test_spellings_of_one_value_agree(kind: str, spellings: list[Any]) -> None:
    assert len({canonical(Column("c", kind), value) for value in spellings}) == 1


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [
        ("text", "", " "),
        ("text", "null", None),
        ("character varying", "NaN", "nan"),
        ("numeric", "1.10", "1.11"),
        ("numeric", "10", "1"),
        ("numeric", "100", "1"),
        ("bigint", "9223372036854775807", "9223372036854775806"),
        ("double precision", "0.1", 0.1 + 1e-17 + 1e-16),
        ("double precision", "-0", "0"),
        ("boolean", "f", None),
        ("timestamp with time zone", "2024-01-01 00:00:00+00", "2024-01-01 00:00:00+01"),
        ("timestamp without time zone", "2024-01-01 00:00:00.000001", "2024-01-01 00:00:00"),
        ("interval", "P1M", "P30D"),
        ("bytea", "\\x", None),
        ("jsonb", '{"a":"1"}', '{"a":1}'),
        ("jsonb", "null", None),
    ],
)
def test_different_values_differ(kind: str, one: Any, other: Any) -> None:
    assert canonical(Column("c", kind), one) != canonical(Column("c", kind), other)


def test_arrays_compare_by_element() -> None:
    column = Column("c", "numeric[]", dimensions=1)
    assert canonical(column, "[1.10, null]") == canonical(column, ["1.1", None]) == canonical(column, '["1.100",null]')
    assert canonical(column, "[]") != canonical(column, None)


@pytest.mark.parametrize(
    ("kind", "value"),
    [("integer", "x"), ("numeric", "1,2,x"), ("date", "tomorrow"), ("boolean", "maybe"),
     ("interval", "3 days"), ("time without time zone", "noon"), ("bytea", "%%%"), ("jsonb", "{")],
)  # fmt: skip
def test_what_is_none_of_that_type_is_an_error(kind: str, value: str) -> None:
    with pytest.raises(ValueError):
        canonical(Column("c", kind), value)


def test_the_realtime_lane_keeps_doubles_and_milliseconds() -> None:
    price, at = Column("price", "numeric", 10, 2), Column("at", "timestamp with time zone")
    assert realtime("double", price, "12.30") == served("double", price, 12.3)
    assert realtime("double", price, "12.30") != served("double", price, 12.31)
    assert realtime("double", Column("f", "double precision"), "-0") == served("double", price, 0.0), (
        "one zero in Pinot"
    )
    assert realtime("double", Column("d", "double precision"), "-0") == served("double", price, 0.0)
    small = Column("r", "real")  # 1.1 travels as the text 1.1, and Pinot keeps the double of it
    assert realtime("double", small, "1.1") == served("double", small, 1.1)
    assert realtime("double", small, "1.1") != served("double", small, 1.1001)
    assert realtime("millis", at, "infinity") == served("millis", at, 9223372036854775)
    assert served("text", Column("t", "time without time zone", 3), "43200123") == "43200123000"
    assert served("text", Column("b", "bit", 1), "true") == canonical(Column("b", "bit", 1), "1")
    assert served("text", Column("b", "bit", 8), "qg==") == canonical(Column("b", "bit", 8), "10101010")
    point = Column("p", "point")
    assert canonical(point, '{"x":1.5,"y":-2.0,"wkb":"A","srid":null}') == canonical(point, "(1.5,-2)")
    assert realtime("millis", at, "2024-01-01 00:00:00.123999+00") == served("millis", at, 1704067200123)
    assert realtime("millis", Column("d", "date"), "1969-12-31") == served("millis", Column("d", "date"), -86400000)
    assert realtime("text", Column("k", "numeric"), "1.50") == served("text", Column("k", "numeric"), "1.50")
    assert realtime("text", Column("u", "uuid"), None) is None
