"""What a snapshot of the real connector tells of a value is what its stream tells of it, and what the source shows."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_rtlake.clients.kafka import KafkaClient
from airflow_provider_rtlake.demo.access import Access
from airflow_provider_rtlake.kit.stack import Stack
from airflow_provider_rtlake.scd2.change import Change, ChangeReader, RawChange
from airflow_provider_rtlake.scd2.values import MAX_DATE, MAX_TIMESTAMP, MIN_DATE, MIN_TIMESTAMP
from airflow_provider_rtlake.streams.model import Stream
from tests.declared import Declared, quoted

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
TABLE = "public.it_values"
COLUMNS = {
    "d": "date",
    "ts": "timestamp",
    "ts3": "timestamp(3)",
    "tz": "timestamptz",
    "tz0": "timestamptz(0)",
    "tm": "time",
    "tmz": "timetz",
    "iv": "interval",
    "f8": "float8",
    "f4": "float4",
    "n": "numeric(12,2)",
    "txt": "text",
    "ch": "char(5)",
    "raw": "bytea",
    "js": "json",
    "jb": "jsonb",
    "u": "uuid",
    "b8": "bit(8)",
    "vb": "varbit(12)",
    "cash": "money",
    "ip": "inet",
    "flag": "boolean",
    "ds": "date[]",
    "tss": "timestamp[]",
    "tzs": "timestamptz[]",
    "tx": "text[]",
    "span": "tstzrange",
}
ROWS: list[dict[str, str]] = [
    {
        "d": "2024-02-29",
        "ts": "2024-02-29 12:00:00.123456",
        "ts3": "2024-02-29 12:00:00.123",
        "tz": "2024-02-29 12:00:00.123456+02",
    },
    {"tz0": "2024-02-29 12:00:01+00", "tm": "24:00:00", "tmz": "12:00:00.5+02", "iv": "1 year -2 days 03:00:00.5"},
    {"d": "infinity", "ts": "infinity", "ts3": "infinity", "tz": "infinity", "tz0": "infinity"},
    {"d": "-infinity", "ts": "-infinity", "ts3": "-infinity", "tz": "-infinity", "tz0": "-infinity"},
    {"d": "1500-03-01", "ts": "1500-03-01 01:02:03", "ts3": "1500-03-01 01:02:03", "tz": "1500-03-01 01:02:03+00"},
    {"d": "0001-01-01", "ts": "0001-01-01 00:00:00", "tz": "0001-01-01 00:00:00+00"},
    {"d": "1582-10-04", "ts": "1582-10-04 23:59:59", "tz": "1582-10-04 23:59:59+00"},
    {"d": "1582-10-15", "ts": "1582-10-15 00:00:00", "tz": "1582-10-15 00:00:00+00"},
    {"d": "20240-01-01", "ts": "20240-01-01 00:00:00", "tz": "20240-01-01 00:00:00+00"},
    {"f8": "NaN", "f4": "NaN"},
    {"f8": "Infinity", "f4": "-Infinity"},
    {"f8": "0.1", "f4": "1.1", "n": "-0.01", "txt": "", "ch": "ab", "raw": "\\x00ff", "cash": "-12.34"},
    {"js": '{"b": 1, "a": 2.50}', "jb": '{"b": 1, "a": 2.50}', "u": "00000000-0000-0000-0000-00000000002a"},
    {"b8": "10000001", "vb": "0001", "ip": "10.0.0.1/8", "flag": "f", "tx": '{"a",NULL,""}'},
    {"ds": "{2024-02-29,infinity,-infinity,1500-03-01}", "tss": "{2024-02-29 12:00:00.123456,infinity,-infinity}"},
    {"tzs": "{2024-02-29 12:00:00+00,infinity,-infinity,1500-03-01 00:00:00+00}"},
    {"ts": "0044-03-15 00:00:00 BC", "tz": "0044-03-15 00:00:00+00 BC"},
    {"ts": "0001-12-31 00:00:00 BC", "tz": "0001-12-31 00:00:00+00 BC"},
    {"ts": "1582-10-10 00:00:00", "tz": "1582-10-10 00:00:00+00"},
    {"d": "5874897-12-31", "ts": "294246-12-31 23:59:59.999999", "tz": "294246-12-31 23:59:59.999999+00"},
    {"span": "[2024-02-29 00:00:00+00,infinity)"},
]


def changes(kafka: KafkaClient, stream: Stream, reader: ChangeReader) -> list[tuple[Change, dict[str, Any]]]:
    """What the topic holds, read as merges read it, with the message's own row."""
    found = []
    for offset, (key, value, headers) in enumerate(kafka.read_all(stream.topic)):
        if value is None or key is None:
            continue
        message = json.loads(value)
        payload = message["payload"]
        schema, text = json.dumps(message["schema"]), json.dumps(payload)
        raw = RawChange(stream.topic, 0, offset, offset, key.decode(), dict(headers), payload["op"], schema, text)
        found.append((reader.read(raw), payload["after"]))
    return found


def test_a_snapshot_and_the_stream_tell_the_same_of_every_value(
    declare: Callable[..., Declared], access: Access, stack: Stack
) -> None:
    columns = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
    declared = declare(
        {
            TABLE: "DROP TABLE IF EXISTS {table}; CREATE TABLE {table} "
            f"(id int PRIMARY KEY, touched int NOT NULL DEFAULT 0, {columns})"
        },
        {TABLE: {"realtime": False, "accept_loss": [name for name in COLUMNS if name != "d"]}},
        deploy=False,
    )
    stream = declared.streams[TABLE]
    kafka = KafkaClient({"bootstrap.servers": stack.kafka_bootstrap, "log_level": 3})
    reader = ChangeReader()
    with access.source() as connection:
        for number, row in enumerate(ROWS):
            names = ", ".join(["id", *row])
            values = ", ".join([str(number), *(f"'{value}'" for value in row.values())])
            connection.execute(f"INSERT INTO {quoted(stream)} ({names}) VALUES ({values})".encode())
        connection.execute(f"INSERT INTO {quoted(stream)} (id, d) VALUES (-1, '0044-03-15 BC')".encode())
    refused = declared.run("connectors", "apply", *declared.where, ok=False)
    assert "column 'd' holds dates before Christ" in refused, refused
    with access.source() as connection:
        connection.execute(f"DELETE FROM {quoted(stream)} WHERE id = -1".encode())
    declared.run("connectors", "apply", *declared.where)
    deadline = time.monotonic() + 120
    while len(changes(kafka, stream, reader)) < len(ROWS):
        assert time.monotonic() < deadline, "the snapshot has not come"
        time.sleep(0.5)
    with access.source() as connection:
        connection.execute(f"UPDATE {quoted(stream)} SET touched = 1".encode())
    while len(found := changes(kafka, stream, reader)) < 2 * len(ROWS):
        assert time.monotonic() < deadline, "the updates have not come"
        time.sleep(0.5)
    snapshot = {change.key: (change, row) for change, row in found if change.op == "r"}
    streamed = {change.key: (change, row) for change, row in found if change.op == "u"}
    wrong = []
    for key, (change, row) in snapshot.items():
        other, other_row = streamed[key]
        for name in COLUMNS:
            one, two = (change.after or {})[name], (other.after or {})[name]
            if repr(one) != repr(two):
                told = f"snapshot {row[name]!r} read {one!r}; stream {other_row[name]!r} read {two!r}"
                wrong.append(f"{key} {name}: {told}")
    assert not wrong, "\n".join(wrong)
    for number, ends in ((2, (MAX_DATE, MAX_TIMESTAMP)), (3, (MIN_DATE, MIN_TIMESTAMP))):
        row = streamed[f'{{"id":{number}}}'][0].after or {}
        assert [row["d"], *(row[name] for name in ("ts", "ts3", "tz", "tz0"))] == [ends[0], *[ends[1]] * 4]
    row = streamed['{"id":14}'][0].after or {}
    assert (row["ds"][1:3], row["tss"][1:]) == ([MAX_DATE, MIN_DATE], [MAX_TIMESTAMP, MIN_TIMESTAMP])
    assert (streamed['{"id":15}'][0].after or {})["tzs"][1:3] == [MAX_TIMESTAMP, MIN_TIMESTAMP]
