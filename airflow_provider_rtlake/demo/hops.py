"""Whether every hop of a table holds the same, from PostgreSQL to Pinot and to the history.

Counts are not enough: rows are compared by content, each side in one spelling (:mod:`.canon`). Counts are
compared where content is no question: each message of the topic is one row of bronze, each change one record
in Pinot.
"""

# ruff: noqa: S608 - every name in a query went through quoted(), every text through literal()

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from psycopg import sql
from psycopg.rows import dict_row

from airflow_provider_rtlake.demo.access import Access, column_list, literal, table_name
from airflow_provider_rtlake.demo.canon import canonical, realtime, served
from airflow_provider_rtlake.demo.kafka_count import TopicCount, count, dead_letters
from airflow_provider_rtlake.exceptions import CheckFailed, NotFound, RtlakeError
from airflow_provider_rtlake.lanes.dead_letters import DeadLetter
from airflow_provider_rtlake.pinot_config.realtime import RealtimeColumn, realtime_columns
from airflow_provider_rtlake.scd2.names import history_name
from airflow_provider_rtlake.streams.model import Connector, Stream
from airflow_provider_rtlake.streams.naming import quote_identifier as quoted
from airflow_provider_rtlake.streams.schema import TableSchema
from airflow_provider_rtlake.streams.source import introspect

LANES = ("bronze", "history", "realtime")
_PAUSE = 1.0  # seconds between two comparisons
_SHOWN = 5  # keys named in a problem
_MANY = 10_000_000  # Pinot answers 10 rows where no limit is given
_NULL = {
    "INT": -(2**31),
    "LONG": -(2**63),
    "FLOAT": "-Infinity",
    "DOUBLE": "-Infinity",
    "BOOLEAN": 0,
    "TIMESTAMP": 0,
    "STRING": "null",
    "JSON": "null",
    "BYTES": "",
}
Content = dict[str, bytes]  # key as JSON → digest of the row
Defaults = Mapping[str, str]  # Pinot column → what it shows for null


@dataclass
class TableHops:
    """One table at every hop.

    :param table: ``schema.table``.
    :param rows: hop → rows, in the order in which data flows.
    :param problems: what does not agree; empty means that everything agrees.
    """

    table: str
    rows: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """Whether every hop agrees."""
        return not self.problems


def digest(values: Iterable[str | None]) -> bytes:
    """Sixteen bytes that stand for a row: null differs from every text, and the columns' borders count."""
    text = json.dumps(list(values), ensure_ascii=False, separators=(",", ":"))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def differences(expected: Content, actual: Content, where: str) -> list[str]:
    """Sentences that say which keys differ; empty where both hold the same rows.

    :param expected: the source's rows.
    :param actual: what the other place holds.
    :param where: the other place's name.
    """
    groups = (
        ("misses", expected.keys() - actual.keys()),
        ("has too many", actual.keys() - expected.keys()),
        ("differs in", {key for key in expected.keys() & actual.keys() if expected[key] != actual[key]}),
    )
    return [f"{where} {verb} {len(keys)} row(s): {_some(keys)}" for verb, keys in groups if keys]


def _some(keys: set[str]) -> str:
    return ", ".join(sorted(keys)[:_SHOWN]) + (" …" if len(keys) > _SHOWN else "")


class TableCheck:
    """Looks at one table at each hop.

    :param access: doors to the databases.
    :param stream: the table's declaration.
    :param schema: the table in the source.
    """

    def __init__(self, access: Access, stream: Stream, schema: TableSchema) -> None:
        self.access = access
        self.stream = stream
        self.schema = schema
        excluded = set(stream.table.exclude)
        self.columns = tuple(column for column in schema.captured if column.name not in excluded)
        self.key = tuple(stream.table.key or schema.key)
        self.realtime = self._realtime_columns(None)

    def run(self, *, lanes: Sequence[str] = LANES) -> TableHops:
        """Count and compare. The table should be quiet: what is on its way is reported as missing.

        :param lanes: which lanes to look at.
        """
        result = TableHops(self.stream.source)
        defaults = self._defaults(result) if "realtime" in lanes else None
        exact, coarse = self._source(defaults)
        result.rows["postgresql"] = len(exact)
        steps: list[tuple[str, bool, Callable[[TableHops], None]]] = [
            ("bronze", True, self._bronze),
            ("history", self.stream.history_table is not None, lambda hops: self._history(hops, exact)),
            ("realtime", defaults is not None, lambda hops: self._realtime(hops, coarse, defaults or {})),
        ]
        for lane, kept, step in steps:
            if kept and lane in lanes:
                try:
                    step(result)
                except NotFound as error:
                    result.problems.append(f"{lane} is not there: {error}")
                except RtlakeError as error:
                    result.problems.append(f"{lane} cannot be read: {error}")
        return result

    def behind(self) -> str | None:
        """Whether bronze surely misses messages, told by counts alone: nothing needs to be compared then."""
        topic, letters = self._topics()
        snapshots = table_name(f"{self.stream.bronze_table}$snapshots")
        try:  # from the metadata: the lane's files are many and small, and the lane needs the processors
            told = self.access.trino(
                f"SELECT element_at(summary, 'total-records') FROM {snapshots} ORDER BY committed_at DESC LIMIT 1"
            )
        except RtlakeError:
            return None  # the comparison says what is wrong
        rows = int(told[0][0] or 0) if told else 0
        missing = topic.messages - len(letters) - rows
        return _missing(rows, topic.messages, missing) if missing > 0 else None

    def _realtime_columns(self, declared: Mapping[str, str] | None) -> tuple[RealtimeColumn, ...]:
        kept = {column.name for column in self.columns}
        return tuple(column for column in realtime_columns(self.schema, declared) if column.source.name in kept)

    # PostgreSQL

    def _source(self, defaults: Defaults | None) -> tuple[Content, Content]:
        """The source's rows twice: exact, and as the real-time lane can show them."""
        exact, coarse = Content(), Content()
        for row in self._source_rows():
            values = dict(zip((column.name for column in self.columns), row, strict=True))
            spelled = {column.name: canonical(column, values[column.name]) for column in self.columns}
            _add(exact, self.key, spelled)
            if defaults is not None:
                _add(
                    coarse,
                    self.key,
                    {
                        column.source.name: _unless_null(
                            realtime(column.kind, column.source, values[column.source.name]),
                            defaults[column.name],
                        )
                        for column in self.realtime
                    },
                )
        return exact, coarse

    def _source_rows(self) -> Iterator[tuple[str | None, ...]]:
        """Every row as PostgreSQL's own text, arrays as JSON, from one snapshot."""
        database = self.stream.connector.database
        columns = sql.SQL(", ").join(
            sql.SQL("to_json({})" if column.dimensions or column.type.endswith("[]") else "{}").format(
                sql.Identifier(column.name)
            )
            for column in self.columns
        )
        source = sql.Identifier(self.stream.schema_name, self.stream.table_name)
        with self.access.source(database.connection, database.name) as conn:
            conn.execute("SET TimeZone = 'UTC'; SET DateStyle = 'ISO'; SET IntervalStyle = 'iso_8601'")
            conn.execute("SET extra_float_digits = 1; SET bytea_output = 'hex'")
            with conn.cursor().copy(sql.SQL("COPY (SELECT {} FROM {}) TO STDOUT").format(columns, source)) as copy:
                yield from copy.rows()

    # Kafka and bronze

    def _bronze(self, hops: TableHops) -> None:
        topic, letters = self._topics()
        dead, waiting = len(letters), sum(letter.status == "open" for letter in letters)
        hops.rows["kafka"] = topic.messages
        name = table_name(self.stream.bronze_table)
        kept = " OR ".join(
            f"(topic_partition = {partition} AND topic_offset >= {low})" for partition, low in topic.low.items()
        )
        rows, distinct, of_topic = self.access.trino(
            "SELECT count(*), count(DISTINCT ROW(topic_partition, topic_offset)),"
            f" count(DISTINCT ROW(topic_partition, topic_offset)) FILTER (WHERE {kept or 'true'}) FROM {name}"
        )[0]
        hops.rows["bronze"] = rows
        hops.rows["bronze_distinct"] = distinct
        hops.rows["dead_letters"] = dead
        if rows != distinct:
            hops.problems.append(f"bronze holds {rows - distinct} message(s) twice")
        if of_topic + dead != topic.messages:
            hops.problems.append(_missing(of_topic, topic.messages, topic.messages - of_topic - dead))
        if waiting:
            hops.problems.append(f"{waiting} message(s) in {self.stream.dead_letter_topic}: replay or dismiss them")

    def _topics(self) -> tuple[TopicCount, list[DeadLetter]]:
        """The topic's count, and those of its messages that could not be read."""
        consumer = self.access.consumer()
        try:
            counted = count(consumer, self.stream.topic)
            return counted, dead_letters(consumer, self.stream.dead_letter_topic, self.stream.topic)
        finally:
            consumer.close()

    # History

    def _history(self, hops: TableHops, exact: Content) -> None:
        name = table_name(str(self.stream.history_table))
        names = self._history_columns()
        key = [names[column] for column in self.key]
        chosen = ", ".join(_trino_value(column, kind) for column, kind in names.values())
        current = Content()
        for row in self.access.trino(f"SELECT {chosen} FROM {name} WHERE is_current"):
            spelled = {column.name: canonical(column, value) for column, value in zip(self.columns, row, strict=True)}
            _add(current, self.key, spelled)
        counted, versions = self.access.trino(f"SELECT count_if(is_current), count(*) FROM {name}")[0]
        hops.rows["history_current"], hops.rows["history_versions"] = counted, versions
        if counted != len(current):
            hops.problems.append(f"history has {counted - len(current)} current version(s) too many")
        hops.problems += differences(exact, current, "history")
        hops.problems += self._broken_intervals(name, [column for column, _ in key])

    def _history_columns(self) -> dict[str, tuple[str, str]]:
        """Source column → its name and type in the history."""
        namespace, table = str(self.stream.history_table).split(".", 1)
        found = self.access.trino(
            f"SELECT column_name, data_type FROM {quoted('nessie')}.information_schema.columns"
            f" WHERE table_schema = {literal(namespace)} AND table_name = {literal(table)}"
        )
        if not found:
            raise NotFound("Trino", f"no table {self.stream.history_table}")
        types = dict(found)
        result = {}
        names = {column.name for column in self.columns}
        for name in (column.name for column in self.columns):
            place = history_name(name, names).lower()
            if place not in types:
                raise CheckFailed(f"{self.stream.history_table} has no column {place}")
            result[name] = (place, types[place])
        return result

    def _broken_intervals(self, name: str, key: Sequence[str]) -> list[str]:
        """Versions that overlap, are empty or inverted, or contradict their own flags."""
        keys = column_list(key)
        rules = {
            "has empty or inverted versions": "effective_end_ts <= effective_start_ts",
            "has overlapping versions": "next_start IS NOT NULL AND"
            " (effective_end_ts IS NULL OR effective_end_ts > next_start)",
            "says current of a closed version, or the opposite": "is_current <> (effective_end_ts IS NULL)",
            "says deleted of a current version": "is_current AND is_deleted",
            "leaves a gap that no delete made": "next_start > effective_end_ts AND NOT is_deleted",
        }
        counts = ", ".join(f"count_if({rule})" for rule in rules.values())
        bad = self.access.trino(
            f"SELECT {counts} FROM (SELECT *, lead(effective_start_ts) OVER (PARTITION BY {keys}"
            f" ORDER BY effective_start_ts, effective_end_ts NULLS LAST) AS next_start FROM {name})"
        )[0]
        return [f"history {text}: {number}" for text, number in zip(rules, bad, strict=True) if number]

    # Pinot

    def _defaults(self, hops: TableHops) -> Defaults | None:
        """What Pinot shows in place of null, by column; None where the table is not served or not there."""
        if self.stream.pinot_current is None:
            return None
        try:
            fields = self.access.pinot_schema(self.stream.pinot_current)
        except RtlakeError as error:
            hops.problems.append(f"realtime is not there: {error}")
            return None
        self.realtime = self._realtime_columns({name: spec["dataType"] for name, spec in fields.items()})
        missing = [column.name for column in self.realtime if column.name not in fields]
        if missing:
            hops.problems.append(f"Pinot {self.stream.pinot_current} has no column {', '.join(missing)}")
            return None
        return {column.name: _default(column, fields[column.name]) for column in self.realtime}

    def _realtime(self, hops: TableHops, coarse: Content, defaults: Defaults) -> None:
        table = str(self.stream.pinot_current)
        rows = self.access.pinot(
            f"SELECT {column_list([column.name for column in self.realtime])} FROM {quoted(table)}"
            f" WHERE is_deleted = false LIMIT {_MANY}"
        )
        current = Content()
        for row in rows:
            shown = {
                column.source.name: _served(column, value, defaults[column.name])
                for column, value in zip(self.realtime, row, strict=True)
            }
            _add(current, self.key, shown)
        hops.rows["pinot_current"] = len(rows)
        if len(rows) != len(current):
            hops.problems.append(f"Pinot {table} shows {len(rows) - len(current)} row(s) twice")
        hops.problems += differences(coarse, current, f"Pinot {table}")
        self._pinot_history(hops)

    def _pinot_history(self, hops: TableHops) -> None:
        table = str(self.stream.pinot_history)
        distinct = self.access.pinot(f"SELECT DISTINCTCOUNT(record_id) FROM {quoted(table)}")[0][0]
        hops.rows["pinot_history"] = int(distinct)
        changes = self._changes()
        hops.rows["changes"] = changes
        if int(distinct) != changes:
            hops.problems.append(f"Pinot {table} holds {distinct} of {changes} changes")

    def _changes(self) -> int:
        """Distinct changes in bronze: one sent again has the same log position, transaction and kind."""
        source = "json_extract_scalar(payload, '$.source.{}')"
        return int(
            self.access.trino(
                "SELECT count(DISTINCT ROW(message_key, op,"
                f" {source.format('lsn')}, {source.format('txId')}, element_at(headers, 'rtlake.epoch')))"
                f" FROM {table_name(self.stream.bronze_table)} WHERE op IN ('r', 'c', 'u', 'd', 't')"
            )[0][0]
        )


def _missing(rows: int, messages: int, missing: int) -> str:
    return f"bronze holds {rows} of the topic's {messages} messages: {missing} missing"


def _add(content: Content, key: Sequence[str], row: Mapping[str, str | None]) -> None:
    content[json.dumps([row[name] for name in key], ensure_ascii=False)] = digest(row.values())


def _trino_value(column: str, kind: str) -> str:
    """Dates as text: their range is wider than Python's."""
    name = quoted(column)
    return f"CAST({name} AS varchar)" if kind.startswith(("date", "time")) else name


def _default(column: RealtimeColumn, spec: Mapping[str, Any]) -> str:
    """What stands for null in a Pinot field, spelled like its values."""
    kind = spec["dataType"]
    value = spec.get("defaultNullValue", 0 if spec["metric"] else _NULL[kind])
    return str(value) if column.kind == "text" else str(served(column.kind, column.source, value))


def _unless_null(text: str | None, default: str) -> str | None:
    return None if text == default else text


def _served(column: RealtimeColumn, value: Any, default: str) -> str | None:
    """A Pinot value as text; None for what stands for null, which need not be of the source's type."""
    if value is None or (column.kind == "text" and str(value) == default):
        return None
    try:
        return _unless_null(served(column.kind, column.source, value), default)
    except ValueError:
        return f"unreadable {column.source.type}: {value!r}"  # differs from whatever the source has


def captured(access: Access, connectors: Sequence[Connector]) -> list[tuple[Stream, TableSchema]]:
    """The declared tables with their structure in the source.

    :param access: doors to the databases.
    :param connectors: the declarations.
    :raises DeclarationError: a table is missing, or does not fit its declaration.
    """
    found = []
    for connector in connectors:
        with access.source(connector.database.connection, connector.database.name) as conn:
            conn.row_factory = dict_row
            schemas = introspect(conn, connector.streams)
        found += [(stream, schemas[stream.source]) for stream in connector.streams]
    return found


def settle(
    checks: Sequence[TableCheck],
    *,
    lanes: Sequence[str] = LANES,
    limit: float = 180.0,
    watch: Callable[[str], None] | None = None,
) -> list[TableHops]:
    """Compare until every table agrees, because changes may still be on their way; give up after the limit.

    :param checks: the tables.
    :param lanes: which lanes to look at.
    :param limit: seconds; the last comparison is returned whatever it says.
    :param watch: told the first disagreement each time.
    """
    deadline = time.monotonic() + limit
    results: dict[str, TableHops] = {}
    pending = list(checks)
    while True:
        late = time.monotonic() > deadline
        # Reading every row takes the processors from the lanes that one is waiting for.
        told = [] if late else [text for check in pending if (text := check.behind())]
        if not told:
            for check in pending:
                results[check.stream.source] = check.run(lanes=lanes)
            pending = [check for check in pending if not results[check.stream.source].equal]
            if not pending or late:
                return [results[check.stream.source] for check in checks]
            told = results[pending[0].stream.source].problems
        if watch:
            watch(told[0])
        time.sleep(_PAUSE)
