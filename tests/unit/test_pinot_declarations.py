"""Mistakes in Pinot declarations: each names file, line, key and fix, and none ends in a traceback."""

from __future__ import annotations

import re

import pytest

from airflow_provider_rtlake.exceptions import DeclarationError
from airflow_provider_rtlake.pinot_config.load import load_directory, load_files, load_text
from airflow_provider_rtlake.streams.yaml_lines import parse_yaml

GOOD = """\
table: sales
mode: upsert
kafka:
  topic: sales_current
  partitions: 3
  cleanup_policy: compact
time_column: ts
retention_days: 30
upsert:
  primary_key: [id]
  comparison_column: position
segment:
  flush_rows: 1000
  flush_time: 24h
columns:
  id: {type: LONG}
  name: {type: STRING}
  price: {type: DOUBLE, field: metric}
  deleted: {type: BOOLEAN}
  body: {type: JSON}
  ts: {type: LONG, field: dateTime}
  position: {type: STRING, dictionary: false}
"""
APPEND = GOOD.replace("mode: upsert", "mode: append").replace("compact", "delete")
APPEND = re.sub(r"upsert:\n.*\n.*\n", "", APPEND)


def swap(old: str, new: str, text: str = GOOD) -> str:
    assert text.count(old) >= 1, old
    return text.replace(old, new, 1)


# what is written → (line, key, words of the message)
CASES: dict[str, tuple[str, int, str, str]] = {
    "empty file": ("", 1, "(file)", "is empty"),
    "only a comment": ("# nothing\n", 1, "(file)", "is empty"),
    "a list": ("- a\n- b\n", 1, "(file)", "is not a mapping"),
    "a word": ("sales\n", 1, "(file)", "is not a mapping"),
    "broken indentation": (swap("  partitions: 3", "   partitions: 3"), 5, "(file)", "not valid YAML"),
    "unclosed bracket": (swap("[id]", "[id"), 11, "(file)", "not valid YAML"),
    "tab": (swap("  topic:", "\ttopic:"), 4, "(file)", "not valid YAML"),
    "two documents": (GOOD + "---\ntable: b\n", 23, "(file)", "not valid YAML"),
    "control character": (swap("sales_current", "sales\x07"), 4, "(file)", "holds the character U+0007"),
    "unknown alias": (swap("[id]", "*keys"), 10, "(file)", "not valid YAML"),
    "unknown tag": (swap("table: sales", "table: !!python/name:os.system x"), 1, "(file)", "not valid YAML"),
    "key twice": (GOOD + "mode: append\n", 23, "mode", "given twice (first on line 2); keep one"),
    "column twice": (GOOD + "  id: {type: INT}\n", 23, "columns.id", "given twice"),
    "unknown key": (
        swap("retention_days", "retenton_days"),
        8,
        "retenton_days",
        "did you mean retention_days?",
    ),
    "unknown key, nothing near": (GOOD + "zzz: 1\n", 23, "zzz", "is no known key; remove it"),
    "unknown kafka key": (swap("partitions", "partition"), 5, "kafka.partition", "did you mean partitions?"),
    "unknown upsert key": (
        swap("primary_key", "primarykey"),
        10,
        "upsert.primarykey",
        "did you mean primary_key?",
    ),
    "unknown segment key": (
        swap("flush_rows", "flush_row"),
        13,
        "segment.flush_row",
        "did you mean flush_rows?",
    ),
    "unknown column key": (
        swap("{type: STRING}", "{typ: STRING}"),
        17,
        "columns.name.typ",
        "did you mean type?",
    ),
    "no table": (swap("table: sales\n", ""), 1, "table", "is missing; add it"),
    "no mode": (swap("mode: upsert\n", ""), 1, "mode", "is missing"),
    "no topic": (swap("  topic: sales_current\n", ""), 3, "kafka.topic", "is missing"),
    "no time column": (swap("time_column: ts\n", ""), 1, "time_column", "is missing"),
    "no columns": (GOOD[: GOOD.index("columns:")], 1, "columns", "is missing"),
    "empty columns": (
        GOOD[: GOOD.index("columns:")] + "columns: {}\n",
        15,
        "columns",
        "is empty; add at least one",
    ),
    "columns null": (
        GOOD[: GOOD.index("columns:")] + "columns:\n",
        15,
        "columns",
        "wrong type; give key: value",
    ),
    "columns a list": (
        GOOD[: GOOD.index("columns:")] + "columns: [id]\n",
        15,
        "columns",
        "give key: value lines",
    ),
    "column a word": (swap("{type: STRING}", "STRING"), 17, "columns.name", "give key: value lines under it"),
    "column without type": (swap("{type: STRING}", "{}"), 17, "columns.name.type", "is missing"),
    "no primary key": (swap("  primary_key: [id]\n", ""), 9, "upsert.primary_key", "is missing"),
    "no comparison": (
        swap("  comparison_column: position\n", ""),
        9,
        "upsert.comparison_column",
        "is missing",
    ),
    "table a number": (swap("table: sales", "table: 7"), 1, "table", "7 has the wrong type; give text"),
    "table name with a dot": (swap("table: sales", "table: a.b"), 1, "table", "begin with a letter"),
    "table name with a space": (swap("table: sales", "table: a b"), 1, "table", "is no table name"),
    "table name empty": (swap("table: sales", "table: ''"), 1, "table", "is no table name"),
    "table name too long": (swap("table: sales", "table: " + "a" * 201), 1, "table", "has 201 characters"),
    "table name with the type": (swap("sales\n", "sales_REALTIME\n"), 1, "table", "Pinot appends it"),
    "table name with Pinot's separator": (swap("sales\n", "a__b\n"), 1, "table", "holds __"),
    "mode unknown": (swap("mode: upsert", "mode: merge"), 2, "mode", "use one of 'upsert' or 'append'"),
    "type OFFLINE": (GOOD + "type: OFFLINE\n", 23, "type", "use one of 'REALTIME'"),
    "database with a space": (GOOD + "database: a b\n", 23, "database", "is no database name"),
    "tenant with a slash": (GOOD + "tenant: a/b\n", 23, "tenant", "is no tenant name"),
    "topic with a space": (swap("sales_current", "sales current"), 4, "kafka.topic", "is no topic name"),
    "topic dots": (swap("sales_current", "'..'"), 4, "kafka.topic", "is no topic name"),
    "topic too long": (swap("sales_current", "t" * 250), 4, "kafka.topic", "up to 249"),
    "no partitions": (swap("partitions: 3", "partitions: 0"), 5, "kafka.partitions", "at least 1"),
    "partitions text": (swap("partitions: 3", "partitions: '3'"), 5, "kafka.partitions", "whole number"),
    "partitions true": (swap("partitions: 3", "partitions: yes"), 5, "kafka.partitions", "whole number"),
    "replication factor": (
        swap("  partitions: 3", "  replication_factor: 0"),
        5,
        "kafka.replication_factor",
        "at least 1",
    ),
    "cleanup policy": (swap("compact", "keep"), 6, "kafka.cleanup_policy", "use one of"),
    "cleanup policy null": (swap("compact", "null"), 6, "kafka.cleanup_policy", "None is not allowed"),
    "offset reset": (swap("  partitions: 3", "  offset_reset: first"), 5, "kafka.offset_reset", "'smallest'"),
    "isolation": (
        swap("  partitions: 3", "  isolation_level: all"),
        5,
        "kafka.isolation_level",
        "use one of",
    ),
    "bootstrap without port": (
        swap("  partitions: 3", "  bootstrap_servers: localhost"),
        5,
        "kafka.bootstrap_servers",
        "no host:port",
    ),
    "bootstrap port": (
        swap("  partitions: 3", "  bootstrap_servers: 'a:99999'"),
        5,
        "kafka.bootstrap_servers",
        "no host:port",
    ),
    "consumer derived": (
        swap("  partitions: 3", "  consumer: {group.id: x}"),
        5,
        "kafka.consumer.group.id",
        "remove it",
    ),
    "consumer secret": (
        swap("  partitions: 3", "  consumer: {sasl.jaas.config: x}"),
        5,
        "kafka.consumer.sasl.jaas.config",
        "secret",
    ),
    "policy twice": (
        swap("  partitions: 3", "  config: {cleanup.policy: x}"),
        5,
        "kafka.config.cleanup.policy",
        "is derived",
    ),
    "append on a compacted topic": (
        swap("cleanup_policy: delete", "cleanup_policy: compact", APPEND),
        6,
        "kafka.cleanup_policy",
        "set it to delete",
    ),
    "append with a key": (
        swap("mode: upsert", "mode: append").replace("compact", "delete"),
        9,
        "upsert",
        "mode: upsert",
    ),
    "upsert without a key": (swap("mode: append", "mode: upsert", APPEND), 2, "mode", "add upsert:"),
    "time column absent": (swap("time_column: ts", "time_column: tz"), 7, "time_column", "use one of ts"),
    "time column a dimension": (swap("time_column: ts", "time_column: id"), 7, "time_column", "to dateTime"),
    "retention zero": (swap("days: 30", "days: 0"), 8, "retention_days", "at least 1"),
    "retention text": (swap("days: 30", "days: 30d"), 8, "retention_days", "whole number"),
    "key empty": (swap("[id]", "[]"), 10, "upsert.primary_key", "is empty"),
    "key a word": (swap("[id]", "id"), 10, "upsert.primary_key", "give a list"),
    "key absent": (swap("[id]", "[ids]"), 10, "upsert.primary_key.0", "there is no column 'ids'"),
    "key twice named": (swap("[id]", "[id, id]"), 10, "upsert.primary_key.1", "named twice"),
    "key a metric": (swap("[id]", "[price]"), 10, "upsert.primary_key.0", "set its field to dimension"),
    "key JSON": (swap("[id]", "[body]"), 10, "upsert.primary_key.0", "declare it STRING"),
    "comparison absent": (swap("n: position", "n: lsn"), 11, "upsert.comparison_column", "no column 'lsn'"),
    "comparison BOOLEAN": (swap("n: position", "n: deleted"), 11, "upsert.comparison_column", "has no order"),
    "comparison in the key": (
        swap("n: position", "n: id"),
        11,
        "upsert.comparison_column",
        "part of the key",
    ),
    "snapshot text": (swap("[id]", "[id]\n  snapshot: 'yes'"), 11, "upsert.snapshot", "true or false"),
    "delete column": (swap("[id]", "[id]\n  delete_column: name"), 11, "upsert.delete_column", "no BOOLEAN"),
    "flush rows negative": (swap("rows: 1000", "rows: -1"), 13, "segment.flush_rows", "at least 0"),
    "flush time": (swap("24h", "tomorrow"), 14, "segment.flush_time", "like 24h"),
    "flush time a number": (swap("24h", "24"), 14, "segment.flush_time", "give text"),
    "segment size": (swap("flush_time: 24h", "size: big"), 14, "segment.size", "like 100M"),
    "segment a list": (
        re.sub(r"segment:\n.*\n.*\n", "segment: []\n", GOOD),
        12,
        "segment",
        "key: value lines",
    ),
    "replication": (GOOD + "replication: 0\n", 23, "replication", "at least 1"),
    "load mode": (GOOD + "load_mode: DISK\n", 23, "load_mode", "'MMAP' or 'HEAP'"),
    "null handling": (GOOD + "null_handling: maybe\n", 23, "null_handling", "true or false"),
    "inverted index absent": (GOOD + "inverted_index: [nam]\n", 23, "inverted_index.0", "no column 'nam'"),
    "inverted index raw": (
        GOOD + "inverted_index: [position]\n",
        23,
        "inverted_index.0",
        "has no dictionary",
    ),
    "range index absent": (GOOD + "range_index: [x]\n", 23, "range_index.0", "no column 'x'"),
    "column name": (swap("  name:", "  'na me':"), 17, "columns.na me", "is no column name"),
    "column name dollar": (swap("  name:", "  $docId:"), 17, "columns.$docId", "is no column name"),
    "columns by case": (swap("  name:", "  ID:"), 17, "columns.ID", "differs from id in case only"),
    "type unknown": (swap("{type: STRING}", "{type: TEXT}"), 17, "columns.name.type", "use one of"),
    "field unknown": (
        swap("{type: STRING}", "{type: STRING, field: key}"),
        17,
        "columns.name.field",
        "'dimension'",
    ),
    "text metric": (
        swap("{type: STRING}", "{type: STRING, field: metric}"),
        17,
        "columns.name.type",
        "a metric",
    ),
    "boolean time": (
        swap("{type: BOOLEAN}", "{type: BOOLEAN, field: dateTime}"),
        19,
        "columns.deleted.type",
        "cannot be a dateTime",
    ),
    "text time without format": (
        swap("{type: STRING}", "{type: STRING, field: dateTime}"),
        17,
        "columns.name",
        "needs a format",
    ),
    "format of a dimension": (
        swap("{type: STRING}", "{type: STRING, format: '1:DAYS:EPOCH'}"),
        17,
        "columns.name.format",
        "remove it",
    ),
    "format": (
        swap("ts: {type: LONG,", "ts: {type: LONG, format: ms,"),
        21,
        "columns.ts.format",
        "1:MILLISECONDS:EPOCH",
    ),
    "granularity": (
        swap("ts: {type: LONG,", "ts: {type: LONG, granularity: fine,"),
        21,
        "columns.ts.granularity",
        "like 1:MILLI",
    ),
    "default of another type": (
        swap("{type: LONG}", "{type: LONG, default: none}"),
        16,
        "columns.id.default",
        "'none' is no LONG",
    ),
    "default too large": (
        swap("{type: LONG}", "{type: INT, default: 2147483648}"),
        16,
        "columns.id.default",
        "is no INT",
    ),
    "default true for a number": (
        swap("{type: LONG}", "{type: LONG, default: true}"),
        16,
        "columns.id.default",
        "True is no LONG",
    ),
    "default of a boolean": (
        swap("{type: BOOLEAN}", "{type: BOOLEAN, default: 1}"),
        19,
        "columns.deleted.default",
        "is no BOOLEAN",
    ),
    "default no JSON": (
        swap("{type: JSON}", "{type: JSON, default: '{'}"),
        20,
        "columns.body.default",
        "is no JSON",
    ),
    "default a number for text": (
        swap("{type: STRING}", "{type: STRING, default: 5}"),
        17,
        "columns.name.default",
        "is no STRING",
    ),
    "default a list": (
        swap("{type: STRING}", "{type: STRING, default: [a]}"),
        17,
        "columns.name.default",
        "wrong type",
    ),
    "bytes default": (
        swap("{type: STRING}", "{type: BYTES, default: xyz}"),
        17,
        "columns.name.default",
        "no BYTES",
    ),
    "max length zero": (
        swap("{type: STRING}", "{type: STRING, max_length: 0}"),
        17,
        "columns.name.max_length",
        "at least 1",
    ),
    "max length of a number": (
        swap("{type: LONG}", "{type: LONG, max_length: 5}"),
        16,
        "columns.id.max_length",
        "remove it",
    ),
    "boolean without dictionary": (
        swap("{type: BOOLEAN}", "{type: BOOLEAN, dictionary: false}"),
        19,
        "columns.deleted.dictionary",
        "remove it",
    ),
    "global a word": (GOOD + "global: 5\n", 23, "global", "is not a mapping"),
    "global empty": (GOOD + "global:\n", 23, "global", "is empty"),
    "global unknown key": (
        GOOD + "global: {replicas: 2}\n",
        23,
        "global.replicas",
        "did you mean replication?",
    ),
    "global names a table": (GOOD + "global: {table: x}\n", 23, "global.table", "is no known key"),
    "global bad value": (GOOD + "global: {load_mode: FAST}\n", 23, "global.load_mode", "use one of"),
    "global kafka topic": (
        GOOD + "global: {kafka: {topic: t}}\n",
        23,
        "global.kafka.topic",
        "is no known key",
    ),
}


def test_the_good_one_is_good() -> None:
    assert load_text(GOOD).table == "sales"
    assert load_text(APPEND).mode == "append"
    assert len(CASES) >= 60


@pytest.mark.parametrize("case", CASES)
def test_mistake_is_named_with_line_key_and_fix(case: str) -> None:
    text, line, key, words = CASES[case]
    with pytest.raises(DeclarationError) as caught:
        load_text(text, "pinot_tables/x.yaml")
    wanted = f"pinot_tables/x.yaml:{line}: {key}: "
    found = [problem for problem in caught.value.problems if problem.startswith(wanted)]
    assert found, caught.value.problems
    assert any(words in problem for problem in found), found
    for problem in caught.value.problems:
        assert re.fullmatch(r"pinot_tables/x\.yaml:\d+: [^\n]+: [^\n]+; [^\n]+", problem), problem


def test_all_mistakes_of_all_files_at_once(tmp_path) -> None:
    folder = tmp_path / "pinot_tables"
    folder.mkdir()
    (folder / "_global.yaml").write_text("global: {replication: none}\n")
    (folder / "a.yaml").write_text(swap("mode: upsert", "mode: x"))
    (folder / "b.yaml").write_text(swap("time_column: ts", "time_column: t").replace("table: sales", "table: b c"))
    (folder / "c.yaml").write_bytes(b"table: \xff\n")
    with pytest.raises(DeclarationError) as caught:
        load_directory(folder)
    text = str(caught.value)
    for place in (
        "pinot_tables/_global.yaml:1: global.replication",
        "pinot_tables/a.yaml:2: mode",
        "pinot_tables/b.yaml:1: table",
        "pinot_tables/b.yaml:7: time_column",
        "pinot_tables/c.yaml:1: (file): is not UTF-8",
    ):
        assert place in text
    assert len(caught.value.problems) == 5


@pytest.mark.parametrize("text", ["replication: 2\n", "global: {}\ntables: {}\n", "- global\n"])
def test_defaults_file_holds_global_only(text: str) -> None:
    with pytest.raises(DeclarationError, match=r"_global\.yaml:1: .*write global"):
        load_text(GOOD, global_text=text)


def test_same_table_in_two_files() -> None:
    files = [
        parse_yaml(GOOD, "pinot_tables/a.yaml"),
        parse_yaml(GOOD.replace("sales\n", "Sales\n"), "pinot_tables/b.yaml"),
    ]
    with pytest.raises(DeclarationError, match=r"b\.yaml:1: table: Sales is declared in pinot_tables/a\.yaml too"):
        load_files(files)


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("partitions: 3", "partitions: 4", "partitions"),
        ("policy: compact", "policy: delete", "cleanup_policy"),
    ],
)
def test_two_tables_want_one_topic_differently(old: str, new: str, key: str) -> None:
    other = swap(old, new).replace("table: sales", "table: other")
    files = [parse_yaml(GOOD, "pinot_tables/a.yaml"), parse_yaml(other, "pinot_tables/b.yaml")]
    with pytest.raises(DeclarationError, match=rf"b\.yaml:\d: kafka\.{key}: .*make them equal"):
        load_files(files)


def test_a_folder_named_like_a_file(tmp_path) -> None:
    (tmp_path / "x.yaml").mkdir()
    with pytest.raises(DeclarationError, match=r"x\.yaml:1: \(file\): cannot be read: .*; make it a readable file"):
        load_directory(tmp_path)


def test_a_folder_that_is_not_there_is_refused(tmp_path) -> None:
    with pytest.raises(DeclarationError, match=r"none: \(folder\): does not exist"):
        load_directory(tmp_path / "none")
    assert load_directory(tmp_path) == []


def test_defaults_own_global_and_own_keys_in_that_order() -> None:
    text = swap("  partitions: 3\n", "") + "replication: 3\nglobal: {load_mode: HEAP, replication: 2}\n"
    kafka = "{partitions: 7, offset_reset: largest}"
    given = f"global: {{load_mode: MMAP, replication: 5, retention_days: 9, kafka: {kafka}}}"
    table = load_text(text, global_text=given)
    assert (table.replication, table.load_mode, table.retention_days) == (3, "HEAP", 30)
    assert (table.kafka.partitions, table.kafka.offset_reset, table.kafka.topic) == (
        7,
        "largest",
        "sales_current",
    )
