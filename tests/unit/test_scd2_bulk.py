"""The columns' way and the rows' way of a merge agree, on random histories and value by value."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from airflow_provider_rtlake.scd2.bronze import COLUMNS, raw_changes
from airflow_provider_rtlake.scd2.change import ChangeReader, RawChange, key_hash
from airflow_provider_rtlake.scd2.columns import arrow_type, decode, join, of_changes
from airflow_provider_rtlake.scd2.cut import Situation, decide
from airflow_provider_rtlake.scd2.fold import record_hash
from airflow_provider_rtlake.scd2.plan import Stored
from airflow_provider_rtlake.scd2.planning import plan_rows
from airflow_provider_rtlake.scd2.render import change_rows, partitions, record_hashes
from airflow_provider_rtlake.scd2.rows import groups, late
from airflow_provider_rtlake.scd2.tables import CHANGES_COLUMNS, HISTORY_COLUMNS, Layout, changes_table, python_values
from tests.scd2_memory import FOREVER, Memory
from tests.scd2_source import Source, column, envelope
from tests.unit.test_scd2_fold_random import deliveries, history

TYPES = {"id": "long", "a": "string", "b": "int", "big": "string", "note": "string", "c": "int"}
_ICEBERG = {"bigint": "long", "timestamp": "timestamptz"}


def iceberg_schema(columns: dict[str, str]) -> str:
    names = [*columns.items(), *((name, _ICEBERG.get(kind, kind)) for name, kind in HISTORY_COLUMNS)]
    fields = [
        {"id": number, "name": name, "required": False, "type": kind} for number, (name, kind) in enumerate(names, 1)
    ]
    return json.dumps({"type": "struct", "fields": fields})


def bronze(raws: Sequence[RawChange]) -> pa.Table:
    rows = {name: [getattr(raw, name) for raw in raws] for name in COLUMNS.names}
    rows["headers"] = [None if one is None else list(one.items()) for one in rows["headers"]]
    return pa.table(rows, schema=COLUMNS)


class Columns(Memory):
    """A history in memory whose merges take the columns' way."""

    buckets = 3

    def __init__(self, untracked: Sequence[str] = ()) -> None:
        super().__init__(untracked)
        self.layout = Layout(iceberg_schema(TYPES), self.buckets, self.untracked)
        self.plain = 0

    def load(self, hashes: Any) -> pa.Table | None:
        if self.reached is None:
            return None
        found = [(number, one) for number, one in self.versions.items() if one.last]
        found = [(number, one) for number, one in found if key_hash(one.version.key) in set(hashes.tolist())]
        tables = []
        for number, one in found:
            ((_, table),) = self.layout.rows([(one.version, True)]).items()
            table = table.drop_columns(["record_hash", "is_current"])
            tables.append(table.append_column("_file", pa.array([f"file{number % 2}"])))
            tables[-1] = tables[-1].append_column("_pos", pa.array([number]))
        return pa.concat_tables(tables) if tables else pa.table({"scd2_key": pa.array([], pa.string())})

    def merge(self, raws: Sequence[RawChange], ends: Any = None, **options: Any) -> Any:
        arrived = bronze([*self.pending, *raws])
        batch = decode(arrived, self.reader, 0)
        if batch is None:
            batch = of_changes(arrived, [self.reader.read(raw) for raw in raw_changes(arrived)], 0)
        is_late = late(batch, self.reached)
        summed, number = groups(batch, ~is_late)
        made = decide(summed, Situation(options.get("patience", FOREVER), ends, self.reached))
        ready_groups = np.array([one in made.ready for one in summed], bool)
        ready = is_late.copy()
        fresh = number >= 0
        ready[fresh] = ready_groups[number[fresh]]
        target = {name: arrow_type(kind) for name, kind in TYPES.items()}
        found = plan_rows(
            self,
            batch,
            ready,
            is_late,
            reader=self.reader,
            target=target,
            marks=made.marks,
            known_marks=self.marks,
            reached=self.reached,
            untracked=self.untracked,
        )
        pending = raw_changes(arrived.take(pa.array(np.flatnonzero(~ready))))
        self.pending = pending
        self.plain += found.bulk.folded
        for stored in found.plan.removed:
            del self.versions[stored.ref]
        for files in found.bulk.removed.values():
            for rows in files.values():
                for row in rows.tolist():
                    del self.versions[row]
        added = [*found.plan.added]
        if found.bulk.versions is not None:
            names = list(TYPES)
            made_tables = partitions(found.bulk.versions, self.layout.schema, self.buckets, names, self.untracked)
            for (last, _), table in made_tables.items():
                hashes = table["record_hash"].to_pylist()
                places = table.append_column("_file", pa.nulls(table.num_rows, pa.string()))
                places = places.append_column("_pos", pa.nulls(table.num_rows, pa.int64()))
                read = self.layout.read(places)
                for one, hashed in zip(read, hashes, strict=True):
                    assert record_hash(one.version.values, self.untracked) == hashed
                    assert one.last == last
                    added.append((one.version, last))
        for version, last in added:
            self.versions[self._next] = Stored(version, last, self._next)
            self._next += 1
        self.changes += found.plan.applied + batch.read(found.bulk.applied, self.reader)
        self._same_change_rows(batch, found)
        self.marks, self.reached = found.plan.marks, made.reached
        self.check()
        return found

    def _same_change_rows(self, batch: Any, found: Any) -> None:
        kinds = {**dict(CHANGES_COLUMNS)}
        fields = [
            {"id": number, "name": name, "required": False, "type": _ICEBERG.get(kind, kind)}
            for number, (name, kind) in enumerate(kinds.items(), 1)
        ]
        from airflow_provider_rtlake.scd2.tables import arrow_schema

        schema = arrow_schema(json.dumps({"type": "struct", "fields": fields}))
        rows = found.bulk.applied
        mine = change_rows(batch, rows, found.plain, schema, self.buckets, "m")
        theirs = changes_table(batch.read(rows, self.reader), schema, self.buckets, "m")
        assert mine.keys() == theirs.keys()
        for bucket, table in theirs.items():
            assert mine[bucket].to_pylist() == table.to_pylist()


@pytest.mark.parametrize("seed", range(12))
def test_columns_and_rows_agree_on_random_histories(seed: int) -> None:
    untracked = frozenset({"note"}) if seed % 3 == 0 else frozenset[str]()
    source, oracle = history(seed, full=bool(seed % 2), untracked=untracked, keys=25, transactions=60)
    table, rows = Columns(sorted(untracked)), Memory(sorted(untracked))
    for batch in deliveries(random.Random(seed), source):
        table.merge(batch)
        rows.merge(batch)
        assert table.everything() == rows.everything()
    assert table.facts() == oracle.facts()


def test_plain_histories_take_the_columns_way() -> None:
    source = Source()
    table, rows = Columns(), Memory()
    chance = random.Random(7)
    for number in range(12):
        arrived = []
        for _ in range(20):
            transaction = source.begin(1_000_000 * (source._tx + 1))
            for key in chance.sample(range(40), 3):
                if key not in source.rows:
                    transaction.insert(key, a=f'"\\\n{key}', b=chance.randrange(3))
                elif chance.random() < 0.2:
                    transaction.delete(key)
                else:
                    transaction.update(key, b=chance.randrange(3))
            arrived += transaction.commit()
        found = table.merge(arrived)
        rows.merge(arrived)
        assert table.everything() == rows.everything(), number
        assert found.plan.expected == {}
        assert len(found.bulk.applied) == len(arrived)
    assert table.plain > 300


def test_the_clock_and_repeated_rows_are_left_to_the_fold() -> None:
    source = Source()
    table = Columns()
    table.merge(source.begin(5_000_000).insert(1, a="x").insert(2, a="y").insert(3, a="z").commit())
    back = source.begin(4_000_000).update(1, a="x2").update(2, a="y").commit()
    found = table.merge(back)
    assert set(found.plan.expected) == {'{"id":1}'}
    assert found.bulk.folded == 1
    again = source.begin(6_000_000).update(3, a="zz").commit()
    found = table.merge([*again, *(raw._replace(topic_offset=raw.topic_offset + 50) for raw in again)])
    assert set(found.plan.expected) == {'{"id":3}'}
    assert (found.plan.duplicates, found.bulk.folded) == (1, 0)


VALUES: list[tuple[dict[str, Any], list[Any]]] = [
    (column("c", "int16", type="INT2"), [1, -32768, None]),
    (column("c", "int64", type="INT8"), [2**62, -1, None]),
    (column("c", "boolean", type="BOOL"), [True, False, None]),
    (column("c", "double", type="FLOAT8"), [1.5, -0.0, 1e300, None]),
    (column("c", "float", type="FLOAT4"), [1.1, 3.4e38, None]),
    (column("c", type="TEXT"), ["", 'ä\u0001"\\\n', "null", None, "😀"]),
    (column("c", type="NUMERIC", length="10", scale="2"), ["12.30", "-0.01", "99999999.99", "5", None]),
    (column("c", type="NUMERIC", length="30", scale="10"), ["0.0000000001", "1E-8", None]),
    (column("c", type="NUMERIC"), ["123456789012345678901234567890.5", None]),
    (column("c", "int32", semantic="io.debezium.time.Date", type="DATE"), [0, -719162, 20000, 2146033979, None]),
    (column("c", "int64", semantic="io.debezium.time.MicroTimestamp", type="TIMESTAMP"), [0, 17 * 10**14, 2**63 - 1]),
    (column("c", "int64", semantic="io.debezium.time.MicroTimestamp", type="TIMESTAMP"), [5, None, -(10**15)]),
    (column("c", "int64", semantic="io.debezium.time.Timestamp", type="TIMESTAMP"), [17 * 10**11, None]),
    (column("c", "int64", semantic="io.debezium.time.NanoTimestamp"), [17 * 10**17 + 1, None]),
    (column("c", "int64", semantic="io.debezium.time.MicroTime", type="TIME"), [3_723_000_001, None]),
    (
        column("c", semantic="io.debezium.time.ZonedTimestamp", type="TIMESTAMPTZ"),
        ["2024-02-29T12:00:00.123456Z", "1970-01-01T00:00:00Z", None],
    ),
    (column("c", semantic="io.debezium.time.ZonedTimestamp"), ["infinity", "12024-02-29T12:00:00Z", None]),
    (column("c", "bytes", type="BYTEA"), ["AAEC", "", None]),
    (column("c", semantic="io.debezium.data.Json", type="JSONB"), ['{"a": 1}', None]),
    ({**column("c", "array", type="_INT4"), "items": {"type": "int32", "optional": True}}, [[1, None], [], None]),
    ({**column("c", "array", type="_TEXT"), "items": {"type": "string", "optional": True}}, [["a", "é"], None]),
]


@pytest.mark.parametrize(("kind", "values"), VALUES, ids=[str(kind.get("name") or kind["type"]) for kind, _ in VALUES])
def test_values_are_those_that_rows_are_read_with(kind: dict[str, Any], values: list[Any]) -> None:
    source = Source(columns=[column("id", "int64", type="INT8"), kind])
    raws = [
        source.raw("c", number, None, {"id": number, "c": value}, lsn=number, txId=5, ts_us=9, sequence='["7","8"]')
        for number, value in enumerate(values)
    ]
    reader = ChangeReader()
    batch = decode(bronze(raws), reader, 0)
    assert batch is not None
    assert batch.plain.all()
    changes = [reader.read(raw) for raw in raws]
    assert [batch.position(index) for index in range(len(raws))] == [change.position for change in changes]
    found = python_values(pa.chunked_array([batch.values["c"]]))
    expected = [change.after["c"] for change in changes]  # type: ignore[index]
    assert list(map(repr, found)) == list(map(repr, expected))
    hashes = record_hashes(pa.table(batch.values), ["id", "c"], frozenset()).to_pylist()
    assert hashes == [record_hash(change.after or {}, frozenset()) for change in changes]


REFUSED: list[tuple[dict[str, Any], Any]] = [
    (column("c", "double", type="FLOAT8"), "NaN"),
    (column("c", type="NUMERIC", length="10", scale="2"), "NaN"),
    (column("c", "int32", type="INT4"), 2**40),
    (column("c", "int32", type="INT4"), "7"),
    ({"type": "struct", "fields": [], "field": "c", "optional": True}, {"x": 1}),
]


@pytest.mark.parametrize(("kind", "value"), REFUSED)
def test_what_is_unusual_is_read_row_by_row(kind: dict[str, Any], value: Any) -> None:
    source = Source(columns=[column("id", "int64", type="INT8"), kind])
    raw = source.raw("c", 1, None, {"id": 1, "c": value}, lsn=1, txId=5, ts_us=9, sequence='["7","8"]')
    assert decode(bronze([raw]), ChangeReader(), 0) is None


def test_metadata_of_unusual_messages() -> None:
    source = Source()
    row = {"id": 1, "a": "__debezium_unavailable_value", "b": None, "big": None, "note": None, "c": 0}
    facts = {"lsn": 5, "txId": 3, "ts_us": 9}
    raws = [
        source.raw("c", 1, None, row, sequence='["7","8"]', **facts),
        source.raw("c", 1, None, {**row, "a": "x"}, sequence=None, **facts),
        source.raw("r", 1, None, {**row, "a": "x"}, sequence='[null,"8"]', snapshot="last", **facts),
        source.raw("r", 1, None, {**row, "a": "x"}, sequence='["6","8"]', snapshot="true", **facts),
        source.raw("d", 'k"\\', row, None, sequence='["7","8"]', headers={"__debezium.newkey": "{}"}, **facts),
        source.raw("t", None, None, None, sequence='["7","8"]', **facts),
        source.raw(
            "u", 1, None, {**row, "a": "x"}, sequence='["7","8"]', headers={"rtlake.epoch": '"12:1:1"'}, **facts
        ),
        source.raw("u", 2, None, {**row, "a": "y"}, sequence='["7","8"]', **facts)._replace(headers=None),
        source.raw("u", 2, None, {**row, "a": "y"}, sequence='["7","8"]', **facts)._replace(
            message_key='{"b": 1, "a": 2.50}', value_schema=envelope([column("id", "int64", type="INT8")])
        ),
    ]
    reader = ChangeReader()
    batch = decode(bronze(raws), reader, 0)
    assert batch is not None
    changes = [reader.read(raw) for raw in raws]
    other = of_changes(bronze(raws), changes, 0)
    assert batch.plain.tolist() == [False, True, True, True, True, False, True, True, False]
    for name in ("epoch", "phase", "commit", "lsn", "tx", "op", "ts", "arrived", "ended", "moves"):
        assert getattr(batch, name).tolist() == getattr(other, name).tolist(), name
    assert batch.key.to_pylist() == other.key.to_pylist()
    assert batch.position_texts().to_pylist() == [change.position.text for change in changes]
    both = join([batch, other])
    assert both.plain.tolist() == [*batch.plain.tolist(), *[False] * len(raws)]
    assert both.values["a"].to_pylist()[1] == "x"
    everything = np.ones(len(both), bool)
    assert [change.key for change in both.read(np.flatnonzero(everything), reader)] == both.key.to_pylist()
