"""The checks' SQL: names are quoted, types are brought together, answers are read right."""

from __future__ import annotations

import pytest
import sqlglot

from airflow_provider_rtlake.checks.names import TableName
from airflow_provider_rtlake.checks.reconcile import Comparison, Side, reconcile
from airflow_provider_rtlake.checks.scd2 import MEANING, RULES, Verdict, invariants_sql
from airflow_provider_rtlake.checks.source import Instant, differences, key_columns, pair, present_names, source_sql
from airflow_provider_rtlake.checks.types import base, canonical, comparable
from airflow_provider_rtlake.checks.unread import describe_unread, unread_sql
from airflow_provider_rtlake.exceptions import UserError

HISTORY = TableName("nessie", "default", "h")
SOURCE = TableName("postgresql", "public", 'My "table"')
TYPES = {
    "id": "integer",
    "n": "decimal(10,2)",
    "effective_start_ts": "timestamp(6) with time zone",
    "effective_end_ts": "timestamp(6) with time zone",
    "is_current": "boolean",
    "is_deleted": "boolean",
}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("nessie.default.x", ("nessie", "default", "x")),
        ('postgresql.public."My.Table"', ("postgresql", "public", "My.Table")),
        ('a."b""c".d', ("a", 'b"c', "d")),
    ],
)
def test_a_table_name_is_read_and_written(text: str, parts: tuple[str, str, str]) -> None:
    assert TableName.parse(text) == TableName(*parts)
    assert str(TableName.parse(text)) == text


@pytest.mark.parametrize("text", ["", "x", "a.b", "a.b.c.d", "a..c", 'a.b."c', "a.b.c."])
def test_a_name_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"catalog\.schema\.table"):
        TableName.parse(text)


def test_hostile_names_stay_inside_their_quotes() -> None:
    hostile = '"; DROP TABLE x; --'
    types = {hostile: "integer", "v": "varchar"}
    plan = reconcile(Side(HISTORY, types), Side(SOURCE, types), [hostile])
    assert sqlglot.parse_one(plan.sql, read="trino")
    assert 'FROM "postgresql"."public"."My ""table"""' in plan.sql


@pytest.mark.parametrize(
    ("left", "right", "possible"),
    [
        ("integer", "bigint", True),
        ("decimal(10,2)", "double", True),
        ("varchar", "uuid", True),
        ("varchar", "json", True),
        ("array(integer)", "json", True),
        ("varchar", "char(5)", True),
        ("timestamp(6)", "timestamp(6) with time zone", True),
        ("boolean", "integer", False),
        ("date", "timestamp(6)", False),
    ],
)
def test_what_can_be_compared(left: str, right: str, possible: bool) -> None:
    assert (comparable("l", left, "r", right) is not None) is possible
    assert (canonical(left, right) is not None) is possible


def test_types_without_their_parameters() -> None:
    assert base("timestamp(6) with time zone") == "timestamp with time zone"
    assert base("decimal(10,2)") == "decimal"
    assert base("array(decimal(10,2))") == "array"


def test_numbers_of_two_scales_get_one_text() -> None:
    one, other = canonical("decimal(10,2)", "decimal(38,18)"), canonical("decimal(38,18)", "decimal(10,2)")
    assert one is not None
    assert other is not None
    assert one("x") == other("x")


def test_columns_of_one_side_are_told_and_a_named_one_is_an_error() -> None:
    left, right = Side(HISTORY, {"id": "integer", "a": "varchar"}), Side(SOURCE, {"id": "integer", "b": "date"})
    plan = reconcile(left, right, ["id"])
    assert set(plan.not_compared) == {"a", "b"}
    assert set(reconcile(left, right, ["id"], ignored=["a"]).not_compared) == {"b"}
    with pytest.raises(UserError, match="column a"):
        reconcile(left, right, ["id"], columns=["a"])
    with pytest.raises(UserError, match="name the key"):
        reconcile(left, right, [])


def test_a_comparison_counts_both_sides() -> None:
    found = Comparison.of([["equal", 5, None], ["missing_left", 2, ["id=1", "id=2"]], ["different", 9, ["id=3"]]])
    assert (found.left, found.right) == (14, 16)
    assert found.wrong == {"missing_left": 2, "different": 9}
    assert found.describe(HISTORY, SOURCE) == [
        "9 rows differ: id=3 and 8 more",
        "2 rows are not in nessie.default.h: id=1; id=2",
    ]


def test_invariants_name_every_rule_and_refuse_what_is_no_history() -> None:
    assert set(RULES) == set(MEANING)
    sql = invariants_sql(HISTORY, ["id"], TYPES)
    assert sqlglot.parse_one(sql, read="trino")
    assert all(f"'{rule}'" in sql for rule in RULES)
    with pytest.raises(UserError, match="is_current"):
        invariants_sql(HISTORY, ["id"], {key: value for key, value in TYPES.items() if key != "is_current"})
    with pytest.raises(UserError):
        invariants_sql(HISTORY, [], TYPES)


def test_a_verdict() -> None:
    found = Verdict.of([["versions", 3, None], ["keys", 2, None], ["overlap", 4, ["id=1 from x"]]])
    assert (found.versions, found.keys, found.broken) == (3, 2, {"overlap": 4})
    assert found.describe() == ["4 versions: each overlaps its successor: id=1 from x and 3 more"]
    assert Verdict.of([]).versions == 0


def test_an_instant_of_postgresql() -> None:
    instant = Instant.parse("100:110:103,105", 4096)
    assert (instant.xmin, instant.xmax, instant.running) == (100, 110, (103, 105))
    assert "NOT IN (103, 105)" in instant.saw("t")
    assert Instant.parse(f"{2**32 + 5}:{2**32 + 9}:", 1).xmin == 5
    position = "000001-1-{:020d}-{:020d}".format
    assert instant.passed(position(4096, 1))
    assert not instant.passed(position(4095, 9999))
    assert not instant.passed("000001-0-" + "9" * 20 + "-" + "9" * 20)


@pytest.mark.parametrize("text", ["", "x", "[1]", "{}", "7"])
def test_a_key_without_names_is_refused(text: str) -> None:
    with pytest.raises(UserError):
        key_columns(text)


def test_the_sources_columns_are_spelt_as_postgresql_does() -> None:
    columns = pair({"id": "integer", "a": "json"}, {"id": "integer", "a": "json", "new": "date"}, ["id"], ())
    assert columns.not_compared == {"new": "not in the history"}
    sql = source_sql("postgresql", "public", "It's", columns, {"Id": False, "A": True, "New": False})
    assert sqlglot.parse_one(sql, read="trino")
    assert 'x."Id", to_jsonb(x."A") AS "A"' in sql
    assert '"New"' not in sql
    assert "It''s" in sql
    with pytest.raises(UserError, match="key columns"):
        pair({"id": "integer"}, {"id": "boolean"}, ["id"], ())


def test_a_source_column_named_like_one_of_the_historys_own_is_compared_too() -> None:
    """``is_deleted`` of the source is ``is_deleted_src`` in the history."""
    own = ["is_deleted", "is_current"]
    history = {
        "id": "integer",
        "is_deleted": "boolean",
        "is_current": "boolean",
        "is_deleted_src": "integer",
        "old": "date",
    }
    columns = pair(history, {"id": "integer", "is_deleted": "integer"}, ["id"], own)
    assert "is_deleted_src" in columns.history["is_deleted"]
    assert "is_deleted_src" not in columns.source["is_deleted"]
    assert columns.not_compared == {"old": "not in the source"}


def test_a_renamed_key_column_is_found_under_its_present_name() -> None:
    """Keys keep the names that their columns had at first: a was renamed to b, and that to c; then came another a."""
    source = {"c": "integer", "a": "integer", "region": "integer"}
    keys = present_names(["a", "region"], source, {"c": "b", "b": "a"})
    assert keys == ["c", "region"]
    assert pair(source, source, keys, ()).keys == ("c", "region")
    assert present_names(["gone"], source, {}) == ["gone"]


def test_differences_are_of_three_kinds() -> None:
    found = differences({"1": "a", "2": "b", "4": "x"}, {"1": "a", "2": "c", "3": "d", "5": "e"}, 1)
    assert found == [
        "2 keys are not in the history: 3 and 1 more",
        "1 keys are in the history and not in the source: 4",
        "1 keys differ: 2",
    ]
    assert differences({"1": "a"}, {"1": "a"}, 1) == []


def test_unread_rows_are_named_and_counted() -> None:
    table = TableName.parse("nessie.default.sales_scd2_unread")
    assert sqlglot.parse_one(unread_sql(table, 3), read="trino")
    text = describe_unread(table, [[12, "t:0:4", '{"id": 1}', "no JSON"], [12, "t:0:5", None, "r" * 900]])
    assert 't:0:4: key {"id": 1}: no JSON' in text
    assert "key none" in text
    assert "… and 10 more" in text
    assert "delete them from nessie.default.sales_scd2_unread" in text
    assert len(text) < 900
