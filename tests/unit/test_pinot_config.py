"""Rendering, generated tables and plans: what goes to Pinot, and what counts as a difference."""

from __future__ import annotations

import copy
import json
import subprocess
from pathlib import Path

import pytest

from airflow_provider_rtlake.exceptions import UserError
from airflow_provider_rtlake.pinot_config.check import check
from airflow_provider_rtlake.pinot_config.defaults import complete, default_tables
from airflow_provider_rtlake.pinot_config.gather import gather
from airflow_provider_rtlake.pinot_config.load import load_directory, load_text
from airflow_provider_rtlake.pinot_config.plan import Actual, make_plan, merged_table
from airflow_provider_rtlake.pinot_config.realtime import realtime_columns
from airflow_provider_rtlake.pinot_config.render import Topic, render
from airflow_provider_rtlake.pinot_config.script import files
from airflow_provider_rtlake.pinot_config.version import PinotVersion
from airflow_provider_rtlake.streams.model import Connector, Stream, Table
from airflow_provider_rtlake.streams.schema import Column, TableSchema

PROJECT = Path(__file__).parents[2]
TABLES = PROJECT / "pinot_tables"
TEXT = (TABLES / "sales_current_3.yaml").read_text()


def declared(name: str = "sales_current_3"):
    return next(table for table in load_directory(TABLES) if table.table == name)


def actual(rendered) -> Actual:
    """What a server has after the table was applied: with defaults filled in, lists in its own order."""
    table = copy.deepcopy(rendered.table)
    table["tableName"] += "_REALTIME"
    table["segmentsConfig"]["minimizeDataMovement"] = False
    table["tableIndexConfig"] |= {"rangeIndexVersion": 2, "aggregateMetrics": False}
    table["tableIndexConfig"]["noDictionaryColumns"].reverse()
    table["isDimTable"] = False
    if "upsertConfig" in table:
        table["upsertConfig"]["hashFunction"] = "NONE"
    return Actual(copy.deepcopy(rendered.schema), table, rendered.topic)


def stream_of(source: str, table: Table | None = None) -> Stream:
    connector = Connector(connector="c", topic_prefix="mydb", tables={source: table or Table()})
    return connector.streams[0]


def schema_of(*columns: Column, key: tuple[str, ...], name: str = "t") -> TableSchema:
    return TableSchema("public", name, columns, key, replica_identity="full")


def test_reference_tables_hold_what_their_users_query() -> None:
    current, history = declared(), declared("sales_history_3")
    assert (current.retention_days, history.retention_days) == (30, 90)
    source = ["id", "product_name", "category", "price", "quantity", "sale_date", "created_at"]
    assert set(current.columns) == {*source, "is_deleted", "last_updated_ts", "position", "event_id"}
    assert {f"{image}_{name}" for image in ("before", "after") for name in source} <= set(history.columns)
    assert current.kafka.topic == "pinot_sales_current" and current.kafka.cleanup_policy == "compact"
    assert history.kafka.topic == "pinot_sales_history" and history.upsert.primary_key == ("record_id",)


def test_declared_reference_tables_match_the_generated_ones() -> None:
    """What the Flink job sends by the source's types is what the declared tables expect."""
    schema = schema_of(
        Column("id", "integer", nullable=False),
        Column("product_name", "character varying"),
        Column("category", "character varying"),
        Column("price", "numeric", 10, 2),
        Column("quantity", "integer"),
        Column("sale_date", "date"),
        Column("created_at", "timestamp without time zone"),
        key=("id",),
    )
    current, history = default_tables(stream_of("public.source_sales"), schema)
    for generated, name in ((current, "sales_current_3"), (history, "sales_history_3")):
        mine = {key: (column.type, column.field) for key, column in declared(name).columns.items()}
        assert mine == {key: (column.type, column.field) for key, column in generated.columns.items()}


def test_version_decides_the_spelling() -> None:
    old, new = render(declared(), version=PinotVersion(0, 11)), render(declared(), version=PinotVersion(1, 4))
    assert old.table["upsertConfig"] == {"mode": "FULL", "comparisonColumn": "position"}
    assert new.table["upsertConfig"] == {
        "mode": "FULL",
        "enableSnapshot": True,
        "comparisonColumns": ["position"],
    }
    streams = [one.table["tableIndexConfig"]["streamConfigs"] for one in (old, new)]
    assert "kafka20" in streams[0]["stream.kafka.consumer.factory.class.name"]
    assert "kafka30" in streams[1]["stream.kafka.consumer.factory.class.name"]
    deletes = load_text(TEXT.replace("[id]", "[id]\n  delete_column: is_deleted"))
    assert "deleteRecordColumn" not in render(deletes, version=PinotVersion(0, 11)).table["upsertConfig"]
    assert render(deletes, version=PinotVersion(1, 1)).table["upsertConfig"]["deleteRecordColumn"] == "is_deleted"
    database = load_text(TEXT + "database: shop\n")
    with pytest.raises(UserError, match=r"needs Pinot 1\.2 or later, the server is 0\.11"):
        render(database, version=PinotVersion(0, 11))
    assert render(database, version=PinotVersion(1, 2)).name == "shop.sales_current_3"


@pytest.mark.parametrize("text", ["", "latest", "v1.0"])
def test_version_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="is no Pinot version"):
        PinotVersion.parse(text)


def test_strings_are_never_cut() -> None:
    fields = render(declared()).schema["dimensionFieldSpecs"]
    lengths = {spec["name"]: spec.get("maxLength") for spec in fields if spec["dataType"] == "STRING"}
    assert lengths and set(lengths.values()) == {2**31 - 1}


def test_awkward_names_and_types() -> None:
    schema = schema_of(
        Column("Order ID", "numeric", 38, 0, nullable=False),
        Column("at", "timestamp with time zone", nullable=False),
        Column("select", "boolean"),
        Column("Überlange " + "x" * 50, "jsonb"),
        Column("position", "integer"),
        Column("is_deleted", "boolean"),
        Column("tags", "text[]", dimensions=1),
        Column("amount", "numeric"),
        Column("made", "bigint", generated=True),
        key=("at", "Order ID"),
    )
    current, history = default_tables(stream_of('public."Order Lines"'), schema)
    assert check(current) == [] and check(history) == []
    names = {column.source.name: column for column in realtime_columns(schema)}
    assert "made" not in names
    assert names["position"].name == "position_src" and names["is_deleted"].name == "is_deleted_src"
    assert (names["Order ID"].kind, names["at"].kind) == (
        "text",
        "text",
    )  # a double or milliseconds would merge keys
    assert (names["amount"].kind, names["tags"].kind, names["select"].kind) == ("double", "text", "boolean")
    assert current.upsert.primary_key == (names["at"].name, names["Order ID"].name)
    assert current.columns["position"].type == "STRING" and current.columns["position_src"].type == "INT"
    assert current.retention_days is None  # a row that nobody changes must not vanish
    assert f"before_{names['Order ID'].name}" in history.columns
    assert realtime_columns(schema, {"amount": "STRING"})[7].kind == "text"


def test_long_names_stay_distinct() -> None:
    first, second = "x" * 62 + "A", "x" * 62 + "B"
    schema = schema_of(Column("id", "bigint"), Column(first, "text"), Column(second, "text"), key=("id",))
    names = [column.name for column in realtime_columns(schema)]
    assert len(set(names)) == 3


def test_declared_tables_take_the_place_of_generated_ones(tmp_path: Path) -> None:
    schema = schema_of(Column("id", "integer"), key=("id",))
    sales, other = stream_of("public.sales_current_x"), stream_of("public.other", Table(realtime=False))
    (tmp_path / "a.yaml").write_text(TEXT.replace("sales_current_3", "sales_current_x_current"))
    tables = complete(load_directory(tmp_path), [(sales, schema), (other, schema)])
    assert [table.table for table in tables] == ["sales_current_x_current", "sales_current_x_history"]
    assert tables[0].retention_days == 30
    with pytest.raises(UserError, match="did you mean sales_current_x_current"):
        gather(tmp_path, only=["sales_curent_x_current"])


def test_nothing_differs_after_apply() -> None:
    for name in ("sales_current_3", "sales_history_3"):
        rendered = render(declared(name))
        plan = make_plan(rendered, actual(rendered))
        assert (plan.lines(), plan.action, plan.changed) == ([], "none", False)


def test_nothing_there_is_created() -> None:
    plan = make_plan(render(declared()), Actual())
    assert plan.action == "create" and len(plan.lines()) == 3


CHANGES = {
    "new column": ("  price:", "  note: {type: STRING}\n  price:", "update", "+ schema.columns.note", True),
    "column gone": (
        "  price: {type: DOUBLE, field: metric}\n",
        "",
        "rebuild",
        "- schema.columns.price",
        True,
    ),
    "type": (
        "price: {type: DOUBLE",
        "price: {type: FLOAT",
        "rebuild",
        "~ schema.columns.price: DOUBLE metric ->",
        True,
    ),
    "key": ("[id]", "[id, category]", "rebuild", "~ schema.primaryKeyColumns: id -> id, category", True),
    "comparison": (
        "column: position",
        "column: last_updated_ts",
        "rebuild",
        "~ table.upsertConfig.comparison",
        False,
    ),
    "retention": (
        "days: 30",
        "days: 7",
        "update",
        "~ table.segmentsConfig.retentionTimeValue: 30 -> 7",
        False,
    ),
    "no retention": (
        "retention_days: 30\n",
        "",
        "update",
        "- table.segmentsConfig.retentionTimeUnit: DAYS",
        False,
    ),
    "index": (
        "[category]",
        "[category, quantity]",
        "update",
        "~ table.tableIndexConfig.invertedIndexColumns",
        True,
    ),
    "consumer": (
        "_policy: compact",
        "_policy: compact\n  consumer: {a.b: 1}",
        "update",
        "+ table.tableIndexConfig.str",
        False,
    ),
    "topic": ("topic: pinot_sales_current", "topic: x", "rebuild", "stream.kafka.topic.name", False),
    "default": (
        "price: {type: DOUBLE",
        "price: {default: 1, type: DOUBLE",
        "update",
        "defaultNullValue 1.0",
        True,
    ),
    "policy": (
        "policy: compact",
        "policy: 'compact,delete'",
        "update",
        "~ topic.cleanup.policy: compact ->",
        False,
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_each_change_is_seen_for_what_it_is(case: str) -> None:
    old, new, action, line, reload = CHANGES[case]
    assert old in TEXT
    plan = make_plan(render(load_text(TEXT.replace(old, new, 1))), actual(render(load_text(TEXT))))
    assert plan.action == action
    assert any(line in found for found in plan.lines()), plan.lines()
    assert plan.reload is reload


def test_topic_with_fewer_partitions_or_other_settings() -> None:
    rendered = render(declared())
    found = actual(rendered)
    small = Topic("pinot_sales_current", 1, 1, {"cleanup.policy": "delete"})
    plan = make_plan(rendered, Actual(found.schema, found.table, small))
    assert plan.lines() == ["~ topic.partitions: 1 -> 3", "~ topic.cleanup.policy: delete -> compact"]
    assert plan.action == "rebuild"  # keys would move to other partitions, and so to other servers
    wide = Topic("pinot_sales_current", 9, 2, {"cleanup.policy": "compact", "retention.ms": "5"})
    assert not make_plan(rendered, Actual(found.schema, found.table, wide)).changed


def test_settings_made_by_hand_survive_an_update() -> None:
    before = actual(render(declared())).table
    before["quota"] = {"maxQueriesPerSecond": "5"}
    before["tableIndexConfig"]["bloomFilterColumns"] = ["id"]
    wanted = render(load_text(TEXT.replace("retention_days: 30\n", ""))).table
    merged = merged_table(wanted, before)
    assert merged["quota"] == before["quota"] and merged["tableIndexConfig"]["bloomFilterColumns"] == ["id"]
    assert "retentionTimeValue" not in merged["segmentsConfig"]
    assert merged["upsertConfig"]["hashFunction"] == "NONE"


def test_script_is_bash_without_secrets(tmp_path: Path) -> None:
    text = TEXT.replace("topic: pinot_sales_current", "topic: pinot.sales-current").replace("30", "31")
    for name, content in files(render(load_text(text), bootstrap_servers="kafka:9092")).items():
        (tmp_path / name).write_text(content)
    assert json.loads((tmp_path / "table.json").read_text())["tableName"] == "sales_current_3"
    subprocess.run(["bash", "-n", str(tmp_path / "setup.sh")], check=True)
    script = (tmp_path / "setup.sh").read_text()
    assert "--partitions 3" in script and "kafka:9092" in script and "cleanup.policy=compact" in script
    assert "password" not in script.replace("login and password", "")


def test_the_declaration_in_the_docs_is_valid() -> None:
    text = (PROJECT / "docs" / "pinot.md").read_text()
    example = text.split("```yaml\n")[1].split("```")[0]
    rendered = render(load_text(example))
    assert rendered.schema["primaryKeyColumns"] == ["id"]
    assert rendered.topic == Topic("orders_current", 3, 1, {"cleanup.policy": "compact"})
