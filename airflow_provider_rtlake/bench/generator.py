"""Trips as events in Kafka: burst, real time or batches; JSON or Avro; what is no message goes aside, with a reason.

A row-by-row loop spends its time in Python objects. Here DuckDB writes the messages of a batch at once, and the client
takes them as a list.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import duckdb
import pyarrow as pa
from confluent_kafka import KafkaError, Producer

from airflow_provider_rtlake.bench import silver
from airflow_provider_rtlake.clients.kafka import KafkaClient, Topic
from airflow_provider_rtlake.demo import taxi
from airflow_provider_rtlake.exceptions import ServiceUnavailable, UserError

TOPIC = "taxi.raw_trips"
DEAD_LETTERS = "taxi.raw_trips.dlq"
PARTITIONS = 3
_WEEK_MS = 7 * 24 * 3600 * 1000
_BATCH = 20_000  # messages that are made at a time
_WAITING = 200_000  # messages that the client may hold
_PATIENCE = 120.0  # seconds for the brokers to take what is left
PRODUCER = {
    "acks": "all",
    "enable.idempotence": True,
    "linger.ms": 20,
    "batch.size": 1_000_000,
    "compression.type": "lz4",
    "queue.buffering.max.messages": 1_000_000,
    "delivery.report.only.error": True,
}
Mode = Literal["burst", "realtime", "batch"]
Format = Literal["json", "avro"]
_AVRO = {
    pa.int32(): "int",
    pa.int64(): "long",
    pa.float64(): "double",
    pa.string(): "string",
    pa.timestamp("us"): "string",
}


@dataclass(frozen=True)
class Pace:
    """How fast events are sent.

    :param mode: ``burst``: as fast as possible; ``realtime``: as far apart as the pickups; ``batch``: so many at
        a time.
    :param speed: how much faster than the trips, for ``realtime``.
    :param size: events of one batch, for ``batch``.
    :param delay: seconds between the starts of two batches, for ``batch``.
    """

    mode: Mode = "burst"
    speed: float = 1.0
    size: int = 1_000
    delay: float = 1.0

    def __post_init__(self) -> None:
        if self.speed <= 0 or self.size < 1 or self.delay < 0:
            raise UserError("speed and size must be above 0, delay must not be negative")


@dataclass
class Produced:
    """What was sent.

    :param rejected: messages in the dead-letter topic, by reason.
    """

    sent: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def per_second(self) -> float:
        """Events a second."""
        return (self.sent + sum(self.rejected.values())) / self.seconds if self.seconds else 0.0


def topics() -> list[Topic]:
    """The topics, as they should be."""
    return [
        Topic(TOPIC, PARTITIONS),
        Topic(DEAD_LETTERS, 1, {"retention.ms": str(_WEEK_MS), "cleanup.policy": "delete"}),
    ]


def avro_schema() -> dict[str, Any]:
    """Avro schema of an event; times are text, as in JSON."""
    fields = [{"name": f.name, "type": ["null", _AVRO[f.type]], "default": None} for f in taxi.SCHEMA]
    return {"type": "record", "name": "Trip", "fields": [{"name": silver.ROW_NUMBER, "type": "long"}, *fields]}


def generate(
    config: Mapping[str, Any],
    path: Path,
    *,
    topic: str = TOPIC,
    dead_letters: str = DEAD_LETTERS,
    pace: Pace | None = None,
    form: Format = "json",
    progress: Callable[[int], None] | None = None,
) -> Produced:
    """Send every row of a file and wait until the brokers have all of them.

    :param config: of the Kafka client, at least ``bootstrap.servers``.
    :param path: Parquet with the Commission's columns and ``row_number``.
    :param progress: told the events so far after each batch.
    :raises ServiceUnavailable: the brokers did not take a message.
    """
    sender = _Sender(config, topic)
    done, begin, chosen = Produced(), time.monotonic(), pace or Pace()
    for keys, values, bad in _paced(_batches(path, form, chosen), chosen):
        sender.send(keys, values)
        done.sent += len(keys)
        for key, value, reason in bad:
            sender.reject(dead_letters, key, value, reason)
            done.rejected[reason] = done.rejected.get(reason, 0) + 1
        if progress:
            progress(done.sent + sum(done.rejected.values()))
    sender.finish()
    done.seconds = time.monotonic() - begin
    return done


class _Sender:
    """The idempotent producer; an error of any message is raised by the next call."""

    def __init__(self, config: Mapping[str, Any], topic: str) -> None:
        self._producer = Producer({**config, **PRODUCER})
        self._topic = topic
        self._errors: list[KafkaError] = []

    def send(self, keys: Sequence[str], values: Sequence[str | bytes]) -> None:
        messages = [{"key": key, "value": value} for key, value in zip(keys, values, strict=True)]
        while messages:
            self._producer.produce_batch(self._topic, messages, on_delivery=self._failed)
            messages = [one for one in messages if one.pop("_error", None) is not None]
            limit = time.monotonic() + _PATIENCE
            while len(self._producer) > _WAITING or (messages and len(self._producer) > _WAITING // 2):
                self._producer.poll(0.01)
                if time.monotonic() > limit:
                    raise ServiceUnavailable("Kafka", f"topic {self._topic}: no room for {_PATIENCE:.0f} s")
        self._producer.poll(0)
        self._raise()

    def reject(self, topic: str, key: str, value: str, reason: str) -> None:
        headers: list[tuple[str, str | bytes | None]] = [("reason", reason.encode())]
        self._producer.produce(topic, key=key, value=value, headers=headers, on_delivery=self._failed)

    def finish(self) -> None:
        left = self._producer.flush(_PATIENCE)
        self._raise()
        if left:
            raise ServiceUnavailable("Kafka", f"topic {self._topic}: {left} messages not taken after {_PATIENCE:.0f} s")

    def _failed(self, error: KafkaError | None, _: object) -> None:
        if error is not None:
            self._errors.append(error)

    def _raise(self) -> None:
        if self._errors:
            raise ServiceUnavailable("Kafka", f"topic {self._topic}: {self._errors[0].str()}")


_Bad = tuple[str, str, str]
_Batch = tuple[list[str], list[Any], list[_Bad], list[float]]


def messages_query(path: Path, *, ordered: bool) -> str:
    """DuckDB's query for key, message, reason of refusal and event time of each row.

    :param ordered: by event time, for real time; else as the file has them.
    """
    numbers = [f.name for f in taxi.SCHEMA if f.type == pa.float64()]
    odd = " OR ".join(f'NOT isfinite("{name}")' for name in numbers)
    fields = ", ".join(_json_field(f) for f in taxi.SCHEMA)
    # A number that JSON does not know must not stop the others: the key is made without it.
    finite = ", ".join(f'CASE WHEN isfinite("{name}") THEN "{name}" END AS "{name}"' for name in numbers)
    rows = f"(SELECT * REPLACE ({finite}), TIMESTAMP '1970-01-01' AS ingested_at FROM read_parquet('{path}'))"  # noqa: S608
    return (
        f"SELECT {silver.trip_id('duckdb')} AS k, v, coalesce(reason, '') AS r, epoch(pickup_at) AS at FROM ("  # noqa: S608
        f"SELECT t.*, m.v, m.reason FROM ({silver.typed(rows + ' AS finite_rows', 'duckdb')}) AS t POSITIONAL JOIN ("
        f"SELECT to_json(struct_pack({silver.ROW_NUMBER} := {silver.ROW_NUMBER}, {fields}))::VARCHAR AS v, "
        f"CASE WHEN {odd} THEN 'a number is not finite' END AS reason FROM read_parquet('{path}')) AS m)"
        + (" ORDER BY at" if ordered else "")
    )


def _json_field(f: pa.Field) -> str:
    if f.type == pa.timestamp("us"):
        return f'"{f.name}" := strftime("{f.name}", \'%Y-%m-%d %H:%M:%S\')'
    return f'"{f.name}" := "{f.name}"'


def _batches(path: Path, form: Format, pace: Pace) -> Iterator[_Batch]:
    size = pace.size if pace.mode == "batch" else _BATCH
    encode = _avro_encoder() if form == "avro" else None
    with duckdb.connect() as connection:
        found = connection.execute(messages_query(path, ordered=pace.mode == "realtime"))
        for batch in found.to_arrow_reader(size):
            for part in _sized(batch, size):
                yield _split(part, encode)


def _sized(batch: pa.RecordBatch, size: int) -> Iterator[pa.RecordBatch]:
    for start in range(0, batch.num_rows, size):
        yield batch.slice(start, size)


def _split(batch: pa.RecordBatch, encode: Callable[[str], bytes] | None) -> _Batch:
    keys, values, reasons, times = (batch.column(name).to_pylist() for name in ("k", "v", "r", "at"))
    bad = [(k, v, r) for k, v, r in zip(keys, values, reasons, strict=True) if r]
    if bad:
        good = [row for row in zip(keys, values, reasons, times, strict=True) if not row[2]]
        keys, values = [row[0] for row in good], [row[1] for row in good]
        times = [row[3] for row in good]
    return keys, [encode(value) for value in values] if encode else values, bad, times


def _avro_encoder() -> Callable[[str], bytes]:
    import fastavro

    schema = fastavro.parse_schema(avro_schema())

    def encode(value: str) -> bytes:
        buffer = io.BytesIO()
        fastavro.schemaless_writer(buffer, schema, json.loads(value))
        return buffer.getvalue()

    return encode


def _paced(batches: Iterator[_Batch], pace: Pace) -> Iterator[tuple[list[str], list[Any], list[_Bad]]]:
    if pace.mode == "realtime":
        yield from _in_real_time(batches, pace.speed)
        return
    due = time.monotonic()
    for keys, values, bad, _ in batches:
        if pace.mode == "batch":
            time.sleep(max(0.0, due - time.monotonic()))
            due += pace.delay
        yield keys, values, bad


_TICK = 0.05  # seconds between two looks at what is due


def _in_real_time(batches: Iterator[_Batch], speed: float) -> Iterator[tuple[list[str], list[Any], list[_Bad]]]:
    begin, first = time.monotonic(), None
    for keys, values, bad, times in batches:
        start = 0
        if bad:
            yield [], [], bad
        while start < len(keys):
            first = times[start] if first is None else first
            now = first + (time.monotonic() - begin) * speed
            end = start
            while end < len(keys) and (times[end] is None or times[end] <= now):
                end += 1
            if end > start:
                yield keys[start:end], values[start:end], []
                start = end
            else:
                time.sleep(max(0.0, min(_TICK, (times[start] - now) / speed)))


def row_by_row(config: Mapping[str, Any], path: Path, *, topic: str = TOPIC) -> Produced:
    """The usual loop, for comparison: a dictionary, ``json.dumps`` and ``produce`` for each row, the same client.

    :param config: of the Kafka client.
    :param path: as for :func:`generate`.
    """
    import hashlib

    import pyarrow.parquet as pq

    failures: list[KafkaError] = []
    producer = Producer({**config, **PRODUCER})
    begin, done = time.monotonic(), Produced()
    for batch in pq.ParquetFile(path).iter_batches(_BATCH):
        for row in batch.to_pylist():
            key = "|".join(str(row[name]) for name in _KEY_SOURCES)
            producer.produce(
                topic,
                key=hashlib.md5(key.encode(), usedforsecurity=False).hexdigest(),
                value=json.dumps(row, default=str),
                on_delivery=lambda error, _: failures.append(error) if error is not None else None,
            )
            producer.poll(0)
            done.sent += 1
    left = producer.flush(_PATIENCE)
    if failures or left:
        raise ServiceUnavailable("Kafka", f"topic {topic}: {left} messages left, {len(failures)} refused")
    done.seconds = time.monotonic() - begin
    return done


_KEY_SOURCES = [silver.COLUMNS[name][1] for name in silver.NATURAL_KEY]


def compare(config: Mapping[str, Any], path: Path, *, topic: str, runs: int) -> dict[str, list[float]]:
    """Events a second of this generator and of the row-by-row loop, in turn, each into an empty topic.

    :param topic: made and deleted.
    :param runs: of each.
    """
    found: dict[str, list[float]] = {"generator": [], "row_by_row": []}
    client = KafkaClient(config)
    for number in range(runs):
        for name in found:
            own = f"{topic}.{name}.{number}"
            client.ensure([Topic(own, PARTITIONS)])
            try:
                done = generate(config, path, topic=own) if name == "generator" else row_by_row(config, path, topic=own)
                ends = client.end_offsets(own).values()
                arrived = sum(end - start for start, end in ends)
                if arrived != done.sent:
                    raise ServiceUnavailable("Kafka", f"topic {own}: {arrived} messages, {done.sent} were sent")
                found[name].append(round(done.per_second, 1))
            finally:
                client.delete([own])
    return found
