"""Bad declarations: each is refused with file, line, key, what is wrong and what to do, and never with a traceback."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from airflow_provider_rtlake.exceptions import DeclarationError
from airflow_provider_rtlake.streams.load import load_connectors

GOOD = """\
connector: sales
topic_prefix: shop
tables:
  public.orders: {}
"""
FORM = re.compile(r"^connectors/[^:]+:\d+: .+: .+; .+$", re.S)


def problems(tmp_path: Path, **files: str | bytes) -> list[str]:
    """The problems of declarations, each in the project's one form."""
    folder = tmp_path / "connectors"
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        path = folder / f"{name}.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DeclarationError) as caught:
        load_connectors(folder)
    for problem in caught.value.problems:
        assert FORM.match(problem), problem
    return caught.value.problems


def top(line: str) -> str:
    """A good declaration with one more line at the top level."""
    return GOOD.replace("tables:", f"{line}\ntables:")


def table(body: str, name: str = "public.orders") -> str:
    """A declaration with one table."""
    return f"connector: sales\ntopic_prefix: shop\ntables:\n  {name}: {body}\n"


LONG = "x" * 64
CASES = {
    # what YAML itself refuses
    "empty": ("", "(file)", "is empty"),
    "comment only": ("# nothing\n", "(file)", "is empty"),
    "tab": ("connector: sales\n\ttopic_prefix: shop\n", "(file)", "is not valid YAML"),
    "unclosed bracket": (table("{key: [id"), "(file)", "is not valid YAML"),
    "two documents": (GOOD + "---\n" + GOOD, "(file)", "is not valid YAML"),
    "python tag": (top("slot: !!python/object/apply:os.getcwd []"), "(file)", "is not valid YAML"),
    "duplicate key": (GOOD + "topic_prefix: other\n", "topic_prefix", "is given twice"),
    "duplicate table": (GOOD + "  public.orders: {}\n", "tables.public.orders", "is given twice"),
    "not UTF-8": (b"connector: s\xff\n", "(file)", "is not UTF-8"),
    "a control character": (GOOD + "# \0\n", "(file)", "5: (file): holds the character U+0000"),
    "a list": ("- connector: sales\n", "(file)", "holds a list"),
    "a text": ("sales\n", "(file)", "holds the text"),
    "unknown alias": (table("*nothing"), "(file)", "is not valid YAML"),
    "recursive anchor": ("connector: &a\n  b: *a\n", "connector", "nested too deeply"),
    "key is a number": (GOOD + "1: x\n", "1", "is no text for YAML"),
    "key is a boolean": (GOOD + "no: x\n", "no", "is no text for YAML"),
    # keys and types
    "no connector": (GOOD.replace("connector: sales\n", ""), "connector", "is missing"),
    "no prefix": (GOOD.replace("topic_prefix: shop\n", ""), "topic_prefix", "is missing"),
    "no tables": ("connector: sales\ntopic_prefix: shop\n", "tables", "is missing"),
    "tables empty": ("connector: sales\ntopic_prefix: shop\ntables: {}\n", "tables", "names no table"),
    "tables a list": ("connector: sales\ntopic_prefix: shop\ntables: [public.orders]\n", "tables", "is a list"),
    "tables null": ("connector: sales\ntopic_prefix: shop\ntables:\n", "tables", "is empty"),
    "unknown key": (top("topicprefix: shop"), "topicprefix", "did you mean topic_prefix?"),
    "unknown far key": (top("zzz: 1"), "zzz", "known keys: connector"),
    "unknown table key": (table("{histroy: false}"), "tables.public.orders.histroy", "did you mean history?"),
    "unknown history key": (table("{history: {tabel: a.b}}"), "history.tabel", "did you mean table?"),
    "unknown realtime key": (
        table("{realtime: {currenttopic: a}}"),
        "realtime.currenttopic",
        "did you mean current_topic?",
    ),
    "unknown database key": (top("database: {nam: x}"), "database.nam", "did you mean name?"),
    "connector a number": (GOOD.replace("sales", "5"), "connector", "is the number 5"),
    "connector a boolean": (GOOD.replace("sales", "yes"), "connector", "is true"),
    "connector null": (GOOD.replace("connector: sales", "connector:"), "connector", "is empty"),
    "partitions text": (top('partitions: "3"'), "partitions", "is the text '3'"),
    "partitions zero": (top("partitions: 0"), "partitions", "at least 1"),
    "partitions many": (top("partitions: 65"), "partitions", "at most 64"),
    "partitions float": (top("partitions: 1.5"), "partitions", "is the number 1.5"),
    "partitions boolean": (top("partitions: true"), "partitions", "is true"),
    "heartbeat negative": (top("heartbeat_ms: -1"), "heartbeat_ms", "at least 0"),
    "realtime partitions": (table("{realtime: {partitions: 0}}"), "realtime.partitions", "at least 1"),
    "history a text": (table("{history: yes please}"), "tables.public.orders.history", "keys below it, or false"),
    "realtime a number": (table("{realtime: 1}"), "tables.public.orders.realtime", "keys below it, or false"),
    "key a text": (table("{key: id}"), "tables.public.orders.key", "write a list"),
    "key holds a number": (table("{key: [1]}"), "tables.public.orders.key.0", "is the number 1"),
    "table a list": (table("[id]"), "tables.public.orders", "is a list"),
    "table a text": (table("orders"), "tables.public.orders", "is the text"),
    "database a text": (top("database: rtsales"), "database", "keys and values"),
    "renamed_from a list": (table("{history: {renamed_from: [a]}}"), "history.renamed_from", "pairs"),
    "replica identity": (table("{replica_identity: nothing}"), "tables.public.orders.replica_identity", "full or keep"),
    "config a list": (top("config: [a]"), "config", "pairs"),
    "config a float": (top("config: {max.batch.size: 1.5}"), "config.max.batch.size", "a whole number"),
    "config nested": (top("config: {max: {batch: 1}}"), "config.max", "a group of keys"),
    # names
    "connector with blank": (GOOD.replace("sales", "my sales"), "connector", "no usable name"),
    "connector with slash": (GOOD.replace("sales", "../x"), "connector", "no usable name"),
    "connector too long": (GOOD.replace("sales", "x" * 101), "connector", "no usable name"),
    "prefix with blank": (GOOD.replace("shop", "my shop"), "topic_prefix", "cannot begin a Kafka topic"),
    "prefix reserved": (GOOD.replace("shop", "__shop"), "topic_prefix", "cannot begin a Kafka topic"),
    "prefix dots": (GOOD.replace("shop", "a..b"), "topic_prefix", "cannot begin a Kafka topic"),
    "prefix of Connect": (GOOD.replace("shop", "connect-x"), "topic_prefix", "belong to Kafka Connect"),
    "prefix umlaut": (GOOD.replace("shop", "löden"), "topic_prefix", "cannot begin a Kafka topic"),
    "publication upper case": (top("publication: Pub"), "publication", "no usable publication name"),
    "publication too long": (top(f"publication: {LONG}"), "publication", "no usable publication name"),
    "publication digit": (top("publication: 1pub"), "publication", "no usable publication name"),
    "slot upper case": (top("slot: Slot"), "slot", "no replication slot name"),
    "slot with dash": (top("slot: a-b"), "slot", "no replication slot name"),
    "slot too long": (top(f"slot: {LONG}"), "slot", "no replication slot name"),
    "slot empty": (top('slot: ""'), "slot", "no replication slot name"),
    "connection id": (top("database: {connection: 'a b'}"), "database.connection", "no connection id"),
    "database name long": (top(f"database: {{name: {LONG}}}"), "database.name", "no database name"),
    "table without schema": (table("{}", "orders"), "tables.orders", "write public.orders"),
    "table with two dots": (table("{}", "shop.public.orders"), "tables.shop.public.orders", "more than one dot"),
    "table with dash": (table("{}", "public.my-orders"), "tables.public.my-orders", """write 'public."my-orders"'"""),
    "table with digit": (table("{}", "public.1st"), "tables.public.1st", "need quotes"),
    "table with open quote": (table("{}", """'public."orders'"""), 'tables.public."orders', "unclosed double quote"),
    "table after quote": (table("{}", """'public."a"b'"""), "tables", "each name plain or in double quotes"),
    "table name empty": (table("{}", "public."), "tables.public.", "lacks schema or table"),
    "table name too long": (table("{}", f"public.{LONG}"), "tables.public.", "longer than 63 bytes"),
    "table name long in bytes": (table("{}", "public." + "ä" * 32), "tables.public.", "longer than 63 bytes"),
    "system table": (table("{}", "pg_catalog.pg_class"), "tables.pg_catalog.pg_class", "belongs to PostgreSQL"),
    "information schema": (table("{}", "information_schema.tables"), "tables.information_schema.tables", "belongs to"),
    "name too long": (table(f"{{name: {'n' * 101}}}"), "tables.public.orders.name", "is no identifier"),
    "name upper case": (table("{name: Orders}"), "tables.public.orders.name", "is no identifier"),
    "name double underscore": (table("{name: a__b}"), "tables.public.orders.name", "is no identifier"),
    # columns
    "key empty": (table("{key: []}"), "tables.public.orders.key", "is empty"),
    "key twice": (table("{key: [id, id]}"), "tables.public.orders.key.1", "names 'id' twice"),
    "key empty name": (table('{key: [""]}'), "tables.public.orders.key.0", "is no column name"),
    "key long name": (table(f"{{key: [{LONG}]}}"), "tables.public.orders.key.0", "is no column name"),
    "key with comma": (table('{key: ["a,b"]}'), "tables.public.orders.key", "cannot spell the column"),
    "key excluded": (table("{key: [id], exclude: [id]}"), "tables.public.orders.exclude", "excludes the key column"),
    "exclude twice": (table("{exclude: [a, a]}"), "tables.public.orders.exclude.1", "twice"),
    "untracked key": (table("{key: [id], history: {untracked: [id]}}"), "history.untracked", "is a key column"),
    "untracked excluded": (table("{exclude: [a], history: {untracked: [a]}}"), "history.untracked", "is excluded"),
    "renamed from itself": (table("{history: {renamed_from: {a: a}}}"), "renamed_from.a", "renamed from itself"),
    "renamed twice": (table("{history: {renamed_from: {a: c, b: c}}}"), "renamed_from.b", "two columns continue"),
    # tables and topics of the other systems
    "history table without namespace": (table("{history: {table: orders}}"), "history.table", "no Iceberg table name"),
    "history table upper case": (table("{history: {table: default.Orders}}"), "history.table", "no Iceberg table name"),
    "history table in bronze": (table("{history: {table: bronze.orders}}"), "history.table", "namespace bronze"),
    "history table too long": (table(f"{{history: {{table: a.{'b' * 200}}}}}"), "history.table", "are allowed"),
    "current topic blank": (table("{realtime: {current_topic: 'a b'}}"), "realtime.current_topic", "is no topic name"),
    "current topic long": (table(f"{{realtime: {{current_topic: {'t' * 250}}}}}"), "current_topic", "is no topic name"),
    "topic dot": (table("{realtime: {history_topic: '.'}}"), "realtime.history_topic", "is no topic name"),
    "topic reserved": (table("{realtime: {history_topic: __consumer_offsets}}"), "history_topic", "is reserved"),
    "topic of Connect": (table("{realtime: {history_topic: _connect_status}}"), "history_topic", "is reserved"),
    "topic of Debezium": (table("{realtime: {history_topic: shop.x}}"), "history_topic", "are Debezium's"),
    "Pinot name": (table("{realtime: {current_table: a-b}}"), "realtime.current_table", "no Pinot table name"),
    "Pinot suffix": (table("{realtime: {current_table: a_REALTIME}}"), "current_table", "appends _REALTIME"),
    "Pinot separator": (table("{realtime: {history_table: a__b}}"), "history_table", "no Pinot table name"),
    "staging absolute": (table("{parquet_staging: /tmp}"), "parquet_staging", "no folder's name"),
    "staging upwards": (table("{parquet_staging: ../x}"), "parquet_staging", "no folder's name"),
    # settings
    "config derived": (top("config: {slot.name: x}"), "config.slot.name", "set slot"),
    "config fixed": (top("config: {decimal.handling.mode: double}"), "config.decimal.handling.mode", "remove the line"),
    "config password": (top("config: {database.password: x}"), "config.database.password", "set database.connection"),
    "config secret": (top("config: {database.sslpassword: x}"), "config.database.sslpassword", "secret in clear text"),
    "config jaas": (top("config: {producer.override.sasl.jaas.config: x}"), "jaas.config", "secret in clear text"),
    "config transforms": (top("config: {transforms: x}"), "config.transforms", "is derived"),
    "config key": (top("config: {'a b': x}"), "config.a b", "is no setting's name"),
    "config empty": (top("config: {max.batch.size: ''}"), "config.max.batch.size", "is empty"),
    # names given twice
    "same topic": (GOOD + "  'public.\"or$ders\"': {}\n  public.or_ders: {}\n", "tables.public.or_ders", "Kafka topic"),
    "same table": (GOOD + "  'public.\"orders\"': {}\n", 'tables.public."orders"', "spelled in two ways"),
    "same current topic": (
        GOOD + "  public.b: {realtime: {current_topic: orders_current}}\n",
        "realtime.current_topic",
        "is taken by connectors/case.yaml:4",
    ),
    "same topic but for dots": (
        table("{realtime: {current_topic: a.b, history_topic: a_b}}"),
        "realtime.history_topic",
        "'.' and '_' for the same",
    ),
    "same Pinot table": (
        GOOD + "  public.b: {realtime: {current_table: ORDERS_current}}\n",
        "realtime.current_table",
        "the Pinot table",
    ),
    "same history": (
        GOOD + "  public.b: {history: {table: default.orders_scd2_iceberg}}\n",
        "history.table",
        "the Iceberg table",
    ),
    "history is a companion": (
        GOOD + "  public.b: {history: {table: default.orders_scd2_changes}}\n",
        "history.table",
        "the Iceberg table",
    ),
    "same staging": (
        table("{parquet_staging: x}") + "  public.b: {parquet_staging: x}\n",
        "tables.public.b.parquet_staging",
        "the staging folder",
    ),
    "same DAG": (
        GOOD + "  public.source_sales: {}\n  public.sales: {}\n",
        "tables.public.sales.name",
        "the Airflow DAG 'scd2_sales_spark_processing' is taken",
    ),
    "same derived name": (GOOD + "  sales.x: {}\n  public.sales_x: {}\n", "tables.public.sales_x", "is taken"),
}


@pytest.mark.parametrize("case", CASES)
def test_is_refused(tmp_path: Path, case: str) -> None:
    text, key, what = CASES[case]
    found = problems(tmp_path, case=text)
    assert any(key in problem and what in problem for problem in found), found


def test_enough_cases() -> None:
    assert len(CASES) >= 60


OTHER = """\
connector: other
topic_prefix: other
publication: other_pub
tables:
  public.things: {}
"""
CLASHES = {
    "name": (OTHER.replace("connector: other", "connector: sales"), "connector", "the connector's name 'sales'"),
    "prefix": (OTHER.replace("topic_prefix: other", "topic_prefix: shop"), "topic_prefix", "the topic prefix 'shop'"),
    "publication": (OTHER.replace("publication: other_pub\n", ""), "publication", "the publication"),
    "slot": (OTHER.replace("publication", "slot: rtlake_sales\npublication"), "slot", "the replication slot"),
    "slot derived": (OTHER.replace("connector: other", "connector: Sales"), "connector", "the replication slot"),
    "table": (OTHER.replace("public.things", "public.orders"), "tables.public.orders", "is taken"),
    "table told apart": (
        OTHER.replace("public.things: {}", "public.orders: {realtime: false, history: {table: default.other}}"),
        "tables.public.orders.name",
        "the table's name in Airflow's checks and maintenance 'orders' is taken",
    ),
}


@pytest.mark.parametrize("case", CLASHES)
def test_two_files_clash(tmp_path: Path, case: str) -> None:
    text, key, what = CLASHES[case]
    found = problems(tmp_path, a=GOOD, b=text)
    assert any(
        p.startswith("connectors/b.yaml") and key in p and what in p and "connectors/a.yaml:" in p for p in found
    )


def test_every_problem_of_every_file_at_once(tmp_path: Path) -> None:
    bad = GOOD.replace("sales", "my sales").replace("public.orders: {}", "orders: {key: id, histroy: 1}\n  x.y.z:")
    found = problems(tmp_path, a=bad, b="", c=top("partitions: 0"))
    assert len([p for p in found if p.startswith("connectors/a.yaml")]) == 5
    assert {p.split(":")[0] for p in found} == {"connectors/a.yaml", "connectors/b.yaml", "connectors/c.yaml"}


def test_the_line_is_the_keys(tmp_path: Path) -> None:
    found = problems(tmp_path, case=GOOD + "  public.b:\n    history:\n      table: nowhere\n")
    assert found[0].startswith("connectors/case.yaml:7: tables.public.b.history.table: ")


def test_a_value_from_an_anchor_names_its_table_and_where_it_is_written(tmp_path: Path) -> None:
    text = "connector: s\ntopic_prefix: p\ntables:\n  public.a: &same {key: id}\n  public.b: *same\n"
    told = [problem.split(": ")[:2] for problem in problems(tmp_path, case=text)]
    assert told == [["connectors/case.yaml:4", f"tables.public.{name}.key"] for name in "ab"]


def test_a_bomb_of_anchors_is_refused_quickly(tmp_path: Path) -> None:
    lines = ["connector: s", "topic_prefix: p", "config:", "  a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"  a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    found = problems(tmp_path, case="\n".join(lines) + "\n")
    assert any("too large" in p for p in found), found[:3]


def test_no_folder_and_no_file(tmp_path: Path) -> None:
    for folder, what in ((tmp_path / "none", "does not exist"), (tmp_path, "holds no *.yaml file")):
        with pytest.raises(DeclarationError, match=re.escape(what)):
            load_connectors(folder)


def test_a_folder_named_like_a_file(tmp_path: Path) -> None:
    (tmp_path / "connectors" / "x.yaml").mkdir(parents=True)
    with pytest.raises(DeclarationError, match="cannot be read"):
        load_connectors(tmp_path / "connectors")
