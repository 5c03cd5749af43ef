"""Messages that could not be read: list them, send them again, dismiss them.

The topic is a log: a dead letter keeps its place of origin as key, and what became of it is written after it under the
same key. So whoever reads it sees the same, and nothing is ever removed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from airflow_provider_rtlake.clients.kafka import KafkaClient
from airflow_provider_rtlake.exceptions import ServiceUnavailable, UserError
from airflow_provider_rtlake.flink_sql.bronze import VALUE_LIMIT
from airflow_provider_rtlake.streams.model import Connector

ORIGIN_HEADER = "rtlake.replayed-from"


@dataclass(frozen=True)
class DeadLetter:
    """One message that could not be read.

    :param origin: ``topic:partition:offset``.
    :param topic: where it came from.
    :param partition: where it came from.
    :param offset: where it came from.
    :param kafka_ts: its timestamp.
    :param reason: what is wrong with it.
    :param key: its key as text.
    :param value: its value as text, cut off after 150,000 characters.
    :param headers: its headers as text.
    :param status: ``open``, ``replayed`` or ``dismissed``.
    :param note: why it was dismissed, or where it was sent.
    """

    origin: str
    topic: str
    partition: int
    offset: int
    kafka_ts: str | None = None
    reason: str = ""
    key: str | None = None
    value: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    status: str = "open"
    note: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def fold(messages: Iterable[tuple[bytes | None, bytes | None, dict[str, str]]]) -> list[DeadLetter]:
    """The dead letters of a topic's messages, each once, with what became of it. Pure.

    :param messages: key, value and headers of each message, in their order.
    """
    letters: dict[str, DeadLetter] = {}
    outcomes: dict[str, dict[str, Any]] = {}
    for key, value, _ in messages:
        if key is None or value is None:
            continue
        origin, data = key.decode(errors="replace"), json.loads(value)
        if "status" in data:
            outcomes[origin] = data
        else:
            letters[origin] = DeadLetter(
                origin,
                data["topic"],
                data["partition"],
                data["offset"],
                data.get("kafka_ts"),
                data.get("reason") or "",
                data.get("key"),
                data.get("value"),
                data.get("headers") or {},
            )
    return [DeadLetter(**{**asdict(letter), **_outcome(outcomes.get(origin))}) for origin, letter in letters.items()]


def _outcome(data: dict[str, Any] | None) -> dict[str, Any]:
    return {} if data is None else {"status": data["status"], "note": data.get("note")}


def dead_letters(
    kafka: KafkaClient, connector: Connector, *, topic: str | None = None, everything: bool = False
) -> list[DeadLetter]:
    """The dead letters of a connector.

    :param kafka: the brokers.
    :param connector: as declared.
    :param topic: only those that came from it.
    :param everything: also those that were replayed or dismissed.
    """
    found = fold(kafka.read_all(connector.dead_letter_topic))
    return [
        letter
        for letter in found
        if (everything or letter.status == "open") and (topic is None or letter.topic == topic)
    ]


def chosen(letters: Iterable[DeadLetter], origins: Iterable[str]) -> list[DeadLetter]:
    """The letters of some origins.

    :param letters: open ones.
    :param origins: ``topic:partition:offset``, or ``all``.
    :raises UserError: one of them is not among the letters.
    """
    by_origin = {letter.origin: letter for letter in letters}
    wanted = list(origins)
    if wanted == ["all"]:
        return list(by_origin.values())
    unknown = [origin for origin in wanted if origin not in by_origin]
    if unknown:
        raise UserError(f"no open dead letter {', '.join(unknown)}; see rtlake stream dead-letters list")
    return [by_origin[origin] for origin in wanted]


def dismiss(kafka: KafkaClient, connector: Connector, letter: DeadLetter, note: str) -> None:
    """Say that a dead letter needs nothing more.

    :param kafka: the brokers.
    :param connector: as declared.
    :param letter: which one.
    :param note: why.
    """
    _resolve(kafka, connector, letter, "dismissed", note)


def replay(kafka: KafkaClient, connector: Connector, letter: DeadLetter, *, value: bytes | None = None) -> None:
    """Send a dead letter to its topic again, corrected or as it was.

    It goes through both lanes like any message; a header names where it came from. What is still unreadable becomes a
    dead letter again, of the new place.

    :param kafka: the brokers.
    :param connector: as declared.
    :param letter: which one.
    :param value: corrected value; by default that of the original, read from its topic where it is still there.
    :raises UserError: the original is gone and the letter holds only a part of it.
    """
    key, original, headers = _original(kafka, letter)
    body = value if value is not None else original
    if body is None:
        if letter.value is None or len(letter.value) >= VALUE_LIMIT:
            raise UserError(
                f"{letter.origin}: the original is gone and only a part was kept; give a value with --value"
            )
        body = letter.value.encode()
    kept = [(name, content) for name, content in headers if name != ORIGIN_HEADER]
    producer = Producer({**kafka.config, "acks": "all", "enable.idempotence": True, "partitioner": "murmur2_random"})
    failures: list[str] = []
    producer.produce(
        letter.topic,
        key=key,
        value=body,
        partition=letter.partition,  # where its key's other changes are
        headers=[*kept, (ORIGIN_HEADER, letter.origin.encode())],
        on_delivery=lambda error, _: failures.append(error.str()) if error is not None else None,
    )
    if producer.flush(kafka.timeout) or failures:
        raise ServiceUnavailable("Kafka", f"replay of {letter.origin}: {failures[0] if failures else 'no answer'}")
    _resolve(kafka, connector, letter, "replayed", "corrected" if value is not None else "as it was")


def _resolve(kafka: KafkaClient, connector: Connector, letter: DeadLetter, status: str, note: str) -> None:
    outcome = {"status": status, "note": note, "at_ms": int(time.time() * 1000)}
    kafka.send(connector.dead_letter_topic, letter.origin.encode(), json.dumps(outcome).encode())


def _original(
    kafka: KafkaClient, letter: DeadLetter
) -> tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]]]:
    """Key, value and headers of the message itself, byte by byte; the letter's own where Kafka has it no more."""
    kept = letter.key.encode() if letter.key is not None else None
    fallback: list[tuple[str, bytes | None]] = [(name, text.encode()) for name, text in letter.headers.items()]
    first, end = kafka.end_offsets(letter.topic).get(letter.partition, (0, 0))
    if not first <= letter.offset < end:
        return kept, None, fallback
    consumer = Consumer({**kafka.config, "group.id": "rtlake-reader", "enable.auto.commit": False})
    try:
        consumer.assign([TopicPartition(letter.topic, letter.partition, letter.offset)])
        message = consumer.poll(kafka.timeout)
        if message is None or message.error() is not None or message.offset() != letter.offset:
            return kept, None, fallback
        found: Any = message.headers() or []
        headers = [(str(name), content if isinstance(content, bytes) else None) for name, content in found]
        return _bytes(message.key()), _bytes(message.value()), headers
    except KafkaException as error:
        raise ServiceUnavailable("Kafka", f"reading {letter.origin}: {error.args[0].str()}") from error
    finally:
        consumer.close()


def _bytes(content: Any) -> bytes | None:
    return content.encode() if isinstance(content, str) else content
