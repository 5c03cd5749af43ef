"""Names: whatever PostgreSQL allows becomes names that Kafka, Iceberg and Pinot allow, one for each table."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_rtlake.streams.connect_config import column_pattern, table_pattern
from airflow_provider_rtlake.streams.load import load_connectors
from airflow_provider_rtlake.streams.model import Connector, Stream, Table
from airflow_provider_rtlake.streams.naming import quote_identifier, slug, split_qualified, topic_part

HOSTILE = [
    "Orders",
    "select",
    "my table",
    "a.b",
    'say "hi"',
    "tab\tle",
    "semi;colon",
    "a,b",
    "back\\slash",
    "dollar$",
    "Größe",
    "таблица",
    "𝄞",
    "'; DROP TABLE x; --",
    "x" * 63,
    "1st",
    "_",
    "__",
    "a__b",
    "${directory:/etc:passwd}",
    "{{ var.value.x }}",
    "%s%n",
    "*",
    ".*",
    "-rf",
]


def stream(table: str, schema: str = "public", **declared: object) -> Stream:
    source = f"{quote_identifier(schema)}.{quote_identifier(table)}"
    connector = Connector(connector="c", topic_prefix="p", tables={source: Table(**declared)})  # type: ignore[arg-type]
    return connector.streams[0]


def test_a_table_may_be_called_like_a_table_of_the_connector() -> None:
    made = stream("transactions")
    assert made.bronze_table == "bronze.p_transactions_table" != made.bronze_transactions
    assert stream("notifications").bronze_table != made.bronze_notifications


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_table_names(name: str) -> None:
    made = stream(name)
    assert (made.schema_name, made.table_name) == ("public", name)
    assert re.fullmatch(r"[a-z][a-z0-9_]*", made.slug) and "__" not in made.slug
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,249}", made.topic)
    assert re.fullmatch(r"bronze\.[a-z][a-z0-9_]*", made.bronze_table)
    java = table_pattern(made).replace("(?-i)", "")
    assert "," not in java and ";" not in java and " " not in java
    python = re.sub(r"\\x\{([0-9a-f]+)\}", lambda match: re.escape(chr(int(match[1], 16))), java)
    assert re.fullmatch(python, f"public.{name}")
    assert not re.fullmatch(python, f"public.{name}x")


def test_hostile_names_stay_apart() -> None:
    assert len({stream(name).slug for name in HOSTILE}) == len(HOSTILE)


@given(st.text(min_size=1, max_size=15).filter(lambda text: "\0" not in text and text.isprintable()))
def test_a_quoted_name_is_read_back(name: str) -> None:
    assert split_qualified(f"{quote_identifier(name)}.{quote_identifier(name)}") == (name, name)


@given(st.text(max_size=30))
def test_anything_is_a_name_or_a_readable_error(text: str) -> None:
    try:
        schema, table = split_qualified(text)
    except ValueError as error:
        assert "; " in str(error)
    else:
        assert schema and table


@given(st.text(max_size=120), st.text(max_size=120))
def test_slugs_of_different_names_differ(one: str, other: str) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9_]{0,99}", slug(one))
    assert (slug(one) == slug(other)) == (one == other)


def test_schema_is_part_of_the_name_except_public() -> None:
    assert stream("orders").slug == "orders"
    assert stream("orders", schema="sales").slug == "sales_orders"
    assert stream("Orders", schema="sales").slug != stream("Orders").slug
    assert stream("orders", name="o").slug == "o"


def test_topic_spells_as_debezium_does() -> None:
    assert topic_part("My Table-1.x$ä") == "My_Table-1.x__"
    assert topic_part("𝄞") == "__"  # two of Java's characters


def test_long_slot_names_keep_their_hash() -> None:
    names = {
        Connector(connector="c" * 90 + end, topic_prefix="p", tables={"public.a": Table()}).slot_name for end in "ab"
    }
    assert len(names) == 2 and all(re.fullmatch(r"[a-z0-9_]{1,63}", name) for name in names)


def test_excluded_columns_are_named_exactly() -> None:
    assert column_pattern(stream("t"), "a,b") == r"(?-i)public\.t\.a\x{2c}b"


def test_table_without_value_and_true_take_the_defaults(tmp_path: Path) -> None:
    text = "connector: c\ntopic_prefix: p\ntables:\n  public.a:\n  public.b: {history: true, realtime: false}\n"
    (tmp_path / "x.yml").write_text(text)
    (connector,) = load_connectors(tmp_path)
    first, second = connector.streams
    assert first.table == Table()
    assert second.history_table == "default.b_scd2_iceberg" and second.current_topic is None


def test_anchors_and_merge_keys(tmp_path: Path) -> None:
    text = """\
connector: c
topic_prefix: p
tables:
  public.a: &same
    exclude: [secret]
    realtime: false
  public.b: *same
  public.d:
    <<: *same
    key: [id]
"""
    (tmp_path / "x.yaml").write_text(text)
    (connector,) = load_connectors(tmp_path)
    assert [stream.table.exclude for stream in connector.streams] == [("secret",)] * 3
    assert connector.streams[2].table.key == ("id",)


def test_the_projects_own_declarations_load() -> None:
    connectors = load_connectors(Path(__file__).parents[2] / "connectors")
    sales = connectors[0].streams[0]
    assert (sales.topic, sales.current_topic) == ("mydb.public.source_sales", "pinot_sales_current")
    assert (sales.history_table, sales.history_base) == (
        "default.source_sales_scd2_iceberg",
        "default.source_sales_scd2",
    )
