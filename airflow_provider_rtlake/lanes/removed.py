"""Tells the current topic of rows that went away without a message of their own.

A truncate names no row, and rows that were deleted while nothing was captured are missing from the snapshot that
follows. The real-time lane keeps no state, so it cannot name them; the topic can: they are the rows that were live
before such a mark and have not been heard of since.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Producer

from airflow_provider_rtlake.clients.kafka import KafkaClient
from airflow_provider_rtlake.clients.pinot import PinotBroker
from airflow_provider_rtlake.exceptions import NotFound, QueryFailed, ServiceUnavailable
from airflow_provider_rtlake.streams.model import Stream
from airflow_provider_rtlake.streams.naming import quote_identifier
from airflow_provider_rtlake.streams.snapshots import whole_snapshot

Message = tuple[bytes | None, bytes | None, dict[str, str]]
_ZERO = "0" * 20


@dataclass(frozen=True, order=True)
class Mark:
    """Something that removed every row that lived before it and has not been heard of since.

    :param position: as of a change.
    :param at: milliseconds since 1970.
    :param event: what the removals' event ids begin with.
    """

    position: str
    at: int
    event: str


def truncates_of(values: Iterable[Mapping[str, Any]]) -> list[Mark]:
    """The truncates among a history topic's messages.

    :param values: of the messages.
    """
    return [
        Mark(str(value["position"]), int(value["event_timestamp"]), str(value["record_id"]))
        for value in values
        if value.get("op") == "t"
    ]


def epoch_mark(kafka: KafkaClient, stream: Stream) -> Mark | None:
    """The newest complete snapshot after which the table's log began anew; None where there was but one.

    :param kafka: the brokers.
    :param stream: the captured table.
    """
    found = whole_snapshot(kafka, stream)
    if found is None or found[0] < 2:
        return None
    position = f"{found[0]:06d}-0-{_ZERO}-{_ZERO}"
    return Mark(position, found[1], f"{position}::s:")


def removals(
    marks: Iterable[Mark], current: Iterable[tuple[bytes, Mapping[str, Any]]]
) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """The delete messages of the rows that marks removed. Pure; a second run adds nothing.

    :param marks: in any order.
    :param current: key and value of every message of the current topic, in any order.
    """
    ordered = sorted(marks)
    if not ordered:
        return
    newest = ordered[-1].position
    last: dict[bytes, tuple[str, Mapping[str, Any] | None]] = {}
    for key, value in current:
        position = str(value["position"])
        if key not in last or position >= last[key][0]:
            # Of a row that lived on only its position is kept: there may be millions
            last[key] = (position, value if position < newest and not value["is_deleted"] else None)
    for key, (position, row) in last.items():
        if row is not None:
            mark = next(mark for mark in ordered if mark.position > position)  # the first one after it removed it
            yield (
                key,
                {
                    **row,
                    "is_deleted": True,
                    "position": mark.position,
                    "last_updated_ts": mark.at,
                    "event_id": f"{mark.event}{key.decode()}",
                },
            )


def send_removals(kafka: KafkaClient, stream: Stream, marks: Iterable[Mark]) -> int:
    """Read the current topic and add what marks removed.

    :param kafka: the brokers.
    :param stream: the captured table.
    :param marks: of the table.
    :return: number of rows.
    """
    known = list(marks)
    if not known:
        return 0
    topic = str(stream.current_topic)
    deletes = list(removals(known, values_of(kafka.read_all(topic))))
    if deletes:
        _send(kafka, topic, deletes)
    return len(deletes)


def tell_removed(kafka: KafkaClient, broker: PinotBroker, stream: Stream) -> int:
    """Let Pinot's current table know of removed rows; two small queries where there is nothing to tell.

    Rows that are on their way through the lane are found by the next call.

    :param kafka: the brokers.
    :param broker: of the Pinot cluster.
    :param stream: the captured table.
    :return: number of rows told.
    """
    if stream.pinot_current is None:
        return 0
    marks = _pinot_truncates(broker, stream)
    begun = epoch_mark(kafka, stream)
    if begun is not None:
        marks.append(begun)
    if not marks or not _stale(broker, stream, max(marks).position):
        return 0
    return send_removals(kafka, stream, marks)


def _pinot_truncates(broker: PinotBroker, stream: Stream) -> list[Mark]:
    table = quote_identifier(str(stream.pinot_history))
    rows = _query(
        broker,
        f"SELECT record_id, position, event_timestamp, op FROM {table} WHERE op = 't'"  # noqa: S608 (quoted)
        " ORDER BY position DESC LIMIT 1000",
    )
    return truncates_of(rows)


def _stale(broker: PinotBroker, stream: Stream, position: str) -> int:
    table = quote_identifier(str(stream.pinot_current))
    rows = _query(
        broker,
        f"SELECT COUNT(*) AS stale FROM {table}"  # noqa: S608 (quoted; a position holds digits)
        f" WHERE is_deleted = false AND position < '{position}' LIMIT 1",
    )
    return int(rows[0]["stale"]) if rows else 0


def _query(broker: PinotBroker, text: str) -> list[dict[str, Any]]:
    try:
        return broker.query(text).dicts()
    except (NotFound, QueryFailed) as error:
        if "TableDoesNotExist" in str(error):  # not made yet: nothing to repair
            return []
        raise


def values_of(messages: Iterable[Message]) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Key and parsed value of each message that has both.

    :param messages: of a topic.
    """
    for key, value, _ in messages:
        if key is not None and value is not None:
            yield key, json.loads(value)


def _send(kafka: KafkaClient, topic: str, messages: Iterable[tuple[bytes, dict[str, Any]]]) -> None:
    # Murmur2, as Flink's and every Java producer: a key has to stay in its partition
    producer = Producer({**kafka.config, "acks": "all", "enable.idempotence": True, "partitioner": "murmur2_random"})
    failures: list[str] = []

    def delivered(error: Any, _: Any) -> None:
        if error is not None:
            failures.append(error.str())

    for key, value in messages:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        _produce(producer, topic, key, text.encode(), delivered)
    left = producer.flush(60)
    if failures or left:
        reason = failures[0] if failures else f"{left} messages were not confirmed"
        raise ServiceUnavailable("Kafka", f"writing to topic {topic}: {reason}")


def _produce(producer: Producer, topic: str, key: bytes, value: bytes, delivered: Any) -> None:
    while True:
        try:
            producer.produce(topic, key=key, value=value, on_delivery=delivered)
        except BufferError:  # the queue is full: let it send
            producer.poll(1.0)
        else:
            producer.poll(0)
            return
