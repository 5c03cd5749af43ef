"""Comparison of hops, and freshness: what is worked out without a server."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_rtlake.demo.freshness import Samples
from airflow_provider_rtlake.demo.hops import _default, _served, _unless_null, differences, digest
from airflow_provider_rtlake.pinot_config.realtime import Kind, RealtimeColumn
from airflow_provider_rtlake.streams.schema import Column


def test_digest_tells_rows_apart() -> None:
    rows: list[list[str | None]] = [
        ["a", "b"],
        ["ab", ""],
        ["", "ab"],
        ["a", None],
        ["a", "null"],
        ["a"],
        ["a", ""],
    ]
    assert len({digest(row) for row in rows}) == len(rows)


def test_differences_name_what_and_which() -> None:
    expected = {"[1]": b"a", "[2]": b"b", "[3]": b"c"}
    assert differences(expected, dict(expected), "x") == []
    assert differences(expected, {"[1]": b"a", "[2]": b"!", "[4]": b"d"}, "history") == [
        "history misses 1 row(s): [3]",
        "history has too many 1 row(s): [4]",
        "history differs in 1 row(s): [2]",
    ]
    many = {f"[{number}]": b"" for number in range(9)}
    assert differences(many, {}, "x")[0].endswith("[4] …")


@pytest.mark.parametrize(
    ("kind", "type_", "spec", "shown"),
    [
        ("text", "jsonb", {"dataType": "STRING", "metric": False}, "null"),
        ("text", "interval", {"dataType": "STRING", "metric": False, "defaultNullValue": ""}, ""),
        ("long", "bigint", {"dataType": "LONG", "metric": False}, -(2**63)),
        ("int", "integer", {"dataType": "INT", "metric": True}, 0),
        ("double", "numeric", {"dataType": "DOUBLE", "metric": False}, "-Infinity"),
        ("double", "numeric", {"dataType": "DOUBLE", "metric": False}, float("-inf")),
        ("boolean", "boolean", {"dataType": "BOOLEAN", "metric": False}, False),
        ("millis", "date", {"dataType": "LONG", "metric": False, "defaultNullValue": 0}, 0),
    ],
)
def test_what_pinot_shows_for_null_is_null(kind: Kind, type_: str, spec: dict[str, Any], shown: Any) -> None:
    column = RealtimeColumn(Column("c", type_), "c", kind, False)
    assert _served(column, shown, _default(column, spec)) is None


def test_values_beside_the_null_value_are_values() -> None:
    column = RealtimeColumn(Column("c", "integer"), "c", "int", False)
    default = _default(column, {"dataType": "INT", "metric": False})
    assert _served(column, 0, default) == "0" == _unless_null("0", default)


def test_quantiles_are_nearest_rank() -> None:
    samples = Samples([number / 1000 for number in range(100, 0, -1)])
    assert (samples.quantile(0.5), samples.quantile(0.99), samples.quantile(1.0)) == (50.0, 99.0, 100.0)
    assert Samples([0.004]).summary() == {"p50": 4.0, "p99": 4.0, "samples": 1, "missed": 0}
    assert Samples(missed=3).summary() == {"p50": None, "p99": None, "samples": 0, "missed": 3}


def test_histogram_has_a_bar_for_every_sample() -> None:
    assert Samples([1.0, 1.0, 2.0]).histogram(4) == "█  ▄"
    assert Samples([1.0]).histogram(3) == "█  "
    assert Samples().histogram() == ""
