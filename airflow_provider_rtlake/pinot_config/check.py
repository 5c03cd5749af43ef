"""What a declaration must obey beyond the types of its keys. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from airflow_provider_rtlake.pinot_config.model import Column, PinotTable, Scalar


@dataclass(frozen=True)
class Problem:
    """One mistake.

    :param path: keys from the top of the file.
    :param what: what is wrong.
    :param fix: what to do.
    """

    path: tuple[str | int, ...]
    what: str
    fix: str


TABLE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_COLUMN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_SERVER = re.compile(r"(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9._-]+):(\d{1,5})")
_DURATION = re.compile(r"[1-9]\d*[smhd]")
_SIZE = re.compile(r"[1-9]\d*[KMG]")
_FORMAT = re.compile(
    r"1:(MILLISECONDS|SECONDS|MINUTES|HOURS|DAYS|MICROSECONDS|NANOSECONDS):(EPOCH|TIMESTAMP|SIMPLE_DATE_FORMAT:.+)"
)
_GRANULARITY = re.compile(r"[1-9]\d*:(MILLISECONDS|SECONDS|MINUTES|HOURS|DAYS|MICROSECONDS|NANOSECONDS)")
_SECRET = re.compile(r"(?i)password|secret|jaas|token|private[._-]?key")
_OWN_CONSUMER = frozenset(
    {
        "bootstrap.servers",
        "auto.offset.reset",
        "isolation.level",
        "key.deserializer",
        "value.deserializer",
        "group.id",
        "enable.auto.commit",
    }
)
_NUMBERS = frozenset({"INT", "LONG", "FLOAT", "DOUBLE", "BIG_DECIMAL"})
_TIMES = frozenset({"LONG", "TIMESTAMP", "INT", "STRING"})
_KEYS = frozenset({"INT", "LONG", "FLOAT", "DOUBLE", "BOOLEAN", "TIMESTAMP", "STRING", "BYTES"})
_COMPARABLE = frozenset({"INT", "LONG", "FLOAT", "DOUBLE", "TIMESTAMP", "STRING"})
_RANGES = {"INT": 2**31, "LONG": 2**63, "TIMESTAMP": 2**63}
TABLE_NAME_LENGTH = 200


def check(table: PinotTable) -> list[Problem]:
    """Everything that is wrong with a table by itself.

    :param table: a declaration that has the right keys and types.
    """
    rules: tuple[Callable[[PinotTable], Iterator[Problem]], ...] = (
        _names,
        _topic,
        _consumer,
        _segment,
        _columns,
        _time,
        _mode,
        _upsert,
        _indexes,
    )
    return [problem for rule in rules for problem in rule(table)]


def _names(table: PinotTable) -> Iterator[Problem]:
    if not TABLE_NAME.fullmatch(table.table):
        yield Problem(
            ("table",),
            f"{table.table!r} is no table name",
            "begin with a letter and use letters, digits, _ and -",
        )
    elif len(table.table) > TABLE_NAME_LENGTH:
        yield Problem(("table",), f"has {len(table.table)} characters", f"use at most {TABLE_NAME_LENGTH}")
    if "__" in table.table:
        yield Problem(("table",), "holds __, which Pinot puts between the parts of a segment's name", "use one _")
    for suffix in ("_REALTIME", "_OFFLINE"):
        if table.table.upper().endswith(suffix):
            yield Problem(("table",), f"ends with {suffix}", "leave it out: Pinot appends it")
    if not TABLE_NAME.fullmatch(table.database):
        yield Problem(("database",), f"{table.database!r} is no database name", "use letters, digits, _ and -")
    if not TABLE_NAME.fullmatch(table.tenant):
        yield Problem(("tenant",), f"{table.tenant!r} is no tenant name", "use letters, digits, _ and -")


def _topic(table: PinotTable) -> Iterator[Problem]:
    kafka = table.kafka
    if not _TOPIC.fullmatch(kafka.topic) or kafka.topic in (".", ".."):
        yield Problem(
            ("kafka", "topic"),
            f"{kafka.topic!r} is no topic name",
            "use up to 249 letters, digits, '.', '_' and '-'",
        )
    if kafka.bootstrap_servers is not None:
        for server in kafka.bootstrap_servers.split(","):
            match = _SERVER.fullmatch(server.strip())
            if match is None or not 0 < int(match.group(2)) < 65536:
                yield Problem(
                    ("kafka", "bootstrap_servers"),
                    f"{server!r} is no host:port",
                    "write it like localhost:9092,other:9092",
                )
    for key in kafka.config:
        if key == "cleanup.policy":
            yield Problem(("kafka", "config", key), "is derived", "set kafka.cleanup_policy instead")
    if table.mode == "append" and "compact" in kafka.cleanup_policy:
        yield Problem(
            ("kafka", "cleanup_policy"),
            "compaction would drop messages that an append table needs",
            "set it to delete",
        )


def _consumer(table: PinotTable) -> Iterator[Problem]:
    for key in table.kafka.consumer:
        path = ("kafka", "consumer", key)
        if key in _OWN_CONSUMER:
            yield Problem(path, "is derived from other keys", "remove it")
        elif _SECRET.search(key):
            yield Problem(
                path,
                "would write a secret into the table's configuration",
                "put it into the Pinot server's own settings",
            )


def _segment(table: PinotTable) -> Iterator[Problem]:
    if not _DURATION.fullmatch(table.segment.flush_time):
        yield Problem(
            ("segment", "flush_time"),
            f"{table.segment.flush_time!r} is no duration",
            "write it like 24h, 90m or 1d",
        )
    if not _SIZE.fullmatch(table.segment.size):
        yield Problem(("segment", "size"), f"{table.segment.size!r} is no size", "write it like 100M or 1G")


def _columns(table: PinotTable) -> Iterator[Problem]:
    folded: dict[str, str] = {}
    for name, column in table.columns.items():
        path = ("columns", name)
        if not _COLUMN_NAME.fullmatch(name):
            yield Problem(path, f"{name!r} is no column name", "begin with a letter and use letters, digits and _")
        if name.lower() in folded:
            yield Problem(
                path,
                f"differs from {folded[name.lower()]} in case only, which Pinot does not tell apart",
                "rename one",
            )
        folded.setdefault(name.lower(), name)
        yield from _field(path, column)
        yield from _default(path, column)


def _field(path: tuple[str, ...], column: Column) -> Iterator[Problem]:
    if column.field == "metric" and column.type not in _NUMBERS:
        yield Problem((*path, "type"), f"{column.type} cannot be a metric", "make it a dimension or use a number type")
    if column.field == "dateTime" and column.type not in _TIMES:
        yield Problem((*path, "type"), f"{column.type} cannot be a dateTime", "use LONG, TIMESTAMP, INT or STRING")
    if column.field == "dateTime" and column.type in ("STRING", "INT") and column.format is None:
        yield Problem(path, f"a dateTime of type {column.type} needs a format", "add format, such as 1:DAYS:EPOCH")
    for key, value, pattern, example in (
        ("format", column.format, _FORMAT, "1:MILLISECONDS:EPOCH"),
        ("granularity", column.granularity, _GRANULARITY, "1:MILLISECONDS"),
    ):
        if value is not None and column.field != "dateTime":
            yield Problem(
                (*path, key),
                f"belongs to dateTime columns, this is a {column.field}",
                "remove it or set field: dateTime",
            )
        elif value is not None and not pattern.fullmatch(value):
            yield Problem((*path, key), f"{value!r} is no {key}", f"write it like {example}")
    if not column.dictionary and column.type == "BOOLEAN":
        yield Problem((*path, "dictionary"), "a BOOLEAN has two values only", "remove it")
    if "max_length" in column.model_fields_set and column.type not in ("STRING", "JSON", "BYTES"):
        yield Problem((*path, "max_length"), f"belongs to STRING, JSON and BYTES, this is {column.type}", "remove it")


def _default(path: tuple[str, ...], column: Column) -> Iterator[Problem]:
    if column.default is not None and not _fits(column.type, column.default):
        yield Problem(
            (*path, "default"),
            f"{column.default!r} is no {column.type}",
            f"give a value of type {column.type} or remove it",
        )


def _fits(type_: str, value: Scalar) -> bool:
    if type_ == "BOOLEAN":
        return isinstance(value, bool)
    if type_ in _RANGES:
        return isinstance(value, int) and not isinstance(value, bool) and -_RANGES[type_] <= value < _RANGES[type_]
    if type_ in _NUMBERS:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if type_ == "BYTES":
        return isinstance(value, str) and re.fullmatch(r"([0-9a-fA-F]{2})*", value) is not None
    if type_ == "JSON":
        return isinstance(value, str) and _is_json(value)
    return isinstance(value, str)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _time(table: PinotTable) -> Iterator[Problem]:
    column = table.columns.get(table.time_column)
    if column is None:
        yield Problem(("time_column",), f"there is no column {table.time_column!r}", _choose(table, "dateTime"))
    elif column.field != "dateTime":
        yield Problem(("time_column",), f"{table.time_column} is a {column.field}", "set its field to dateTime")


def _choose(table: PinotTable, field: str | None = None) -> str:
    names = [name for name, column in table.columns.items() if field in (None, column.field)]
    return f"use one of {', '.join(names)}" if names else f"declare a {field} column"


def _mode(table: PinotTable) -> Iterator[Problem]:
    if table.mode == "upsert" and table.upsert is None:
        yield Problem(("mode",), "an upsert table needs a key", "add upsert: with primary_key and comparison_column")
    if table.mode == "append" and table.upsert is not None:
        yield Problem(("upsert",), "an append table has no key", "set mode: upsert or remove this section")


def _upsert(table: PinotTable) -> Iterator[Problem]:
    if table.mode != "upsert" or table.upsert is None:
        return
    path = ("upsert", "primary_key")
    if not table.upsert.primary_key:
        yield Problem(path, "is empty", "name the columns that identify a row")
    for index, name in enumerate(table.upsert.primary_key):
        if name in table.upsert.primary_key[:index]:
            yield Problem((*path, index), f"{name} is named twice", "keep one")
        yield from _key_column((*path, index), name, table)
    yield from _comparison(table, table.upsert.comparison_column)
    deleted = table.upsert.delete_column
    if deleted is not None and (deleted not in table.columns or table.columns[deleted].type != "BOOLEAN"):
        yield Problem(
            ("upsert", "delete_column"),
            f"there is no BOOLEAN column {deleted!r}",
            "declare it or remove this key",
        )


def _key_column(path: tuple[str | int, ...], name: str, table: PinotTable) -> Iterator[Problem]:
    column = table.columns.get(name)
    if column is None:
        yield Problem(path, f"there is no column {name!r}", _choose(table, "dimension"))
    elif column.field == "metric":
        yield Problem(path, f"{name} is a metric, which cannot be a key", "set its field to dimension")
    elif column.type not in _KEYS:
        yield Problem(path, f"{name} is {column.type}, which cannot be a key", "declare it STRING")


def _comparison(table: PinotTable, name: str) -> Iterator[Problem]:
    path = ("upsert", "comparison_column")
    column = table.columns.get(name)
    if column is None:
        yield Problem(path, f"there is no column {name!r}", _choose(table))
    elif column.type not in _COMPARABLE:
        yield Problem(path, f"{name} is {column.type}, which has no order", "use a number, a time or fixed-width text")
    elif table.upsert is not None and name in table.upsert.primary_key:
        yield Problem(
            path, f"{name} is part of the key and so always equal", "use a column that grows with each change"
        )


def _indexes(table: PinotTable) -> Iterator[Problem]:
    for key, names in (("inverted_index", table.inverted_index), ("range_index", table.range_index)):
        for index, name in enumerate(names):
            column = table.columns.get(name)
            if column is None:
                yield Problem((key, index), f"there is no column {name!r}", _choose(table))
            elif key == "inverted_index" and not column.dictionary:
                yield Problem((key, index), f"{name} has no dictionary", "remove it here or set dictionary: true")
