"""What a captured table's topic holds, counted by reading it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, TopicPartition

from airflow_provider_rtlake.exceptions import ServiceError, WaitTimeout
from airflow_provider_rtlake.lanes.dead_letters import DeadLetter, fold


@dataclass
class TopicCount:
    """A topic's content between its beginning and its end at one moment.

    :param low: first offset of each partition that is still there.
    :param high: offset after the last one of each partition.
    :param messages: messages with a value.
    :param tombstones: messages without one.
    """

    low: dict[int, int] = field(default_factory=dict)
    high: dict[int, int] = field(default_factory=dict)
    messages: int = 0
    tombstones: int = 0


def watermarks(consumer: Consumer, topic: str) -> TopicCount:
    """First and last offsets of a topic; without partitions where there is no such topic.

    :param consumer: any consumer.
    :param topic: its name.
    """
    found = consumer.list_topics(topic, timeout=20).topics[topic]
    result = TopicCount()
    if found.error is not None:
        if found.error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            return result
        raise ServiceError("Kafka", f"{topic}: {found.error.str()}")
    for partition in found.partitions:
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=20)
        result.low[partition], result.high[partition] = low, high
    return result


def read(consumer: Consumer, topic: str, *, limit: float = 300.0) -> tuple[TopicCount, Iterator[Message]]:
    """A topic's borders now, and the messages between them.

    :param consumer: one that nobody else uses meanwhile, with ``enable.partition.eof``.
    :param topic: its name.
    :param limit: seconds.
    :raises WaitTimeout: the end was not reached in time (while iterating).
    """
    borders = watermarks(consumer, topic)
    return borders, _messages(consumer, topic, borders, limit)


def _messages(consumer: Consumer, topic: str, borders: TopicCount, limit: float) -> Iterator[Message]:
    unread = {partition for partition, high in borders.high.items() if high > borders.low[partition]}
    if not unread:
        return
    consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in unread])
    deadline = time.monotonic() + limit
    try:
        while unread:
            if time.monotonic() > deadline:
                raise WaitTimeout(f"Kafka: {topic} could not be read to its end in {limit:.0f} s")
            for message in consumer.consume(5_000, timeout=0.5):
                if _ends(message, borders, topic):
                    unread.discard(int(message.partition() or 0))
                else:
                    yield message
    finally:
        consumer.unassign()


def _ends(message: Message, borders: TopicCount, topic: str) -> bool:
    """Whether this is the end of what is to be read of its partition, not a message of it."""
    error = message.error()
    if error is None:
        return int(message.offset() or 0) >= borders.high[int(message.partition() or 0)]
    if error.code() != KafkaError._PARTITION_EOF:
        raise ServiceError("Kafka", f"{topic}: {error.str()}")
    return True


def count(consumer: Consumer, topic: str) -> TopicCount:
    """Read a topic from its beginning to its present end, and count.

    :param consumer: as for :func:`read`.
    :param topic: its name.
    """
    result, messages = read(consumer, topic)
    for message in messages:
        if message.value() is None:
            result.tombstones += 1
        else:
            result.messages += 1
    return result


def dead_letters(consumer: Consumer, dead_letter_topic: str, topic: str) -> list[DeadLetter]:
    """A topic's dead letters, each once, with what became of it.

    :param consumer: as for :func:`read`.
    :param dead_letter_topic: where they are.
    :param topic: where they come from.
    """
    _, messages = read(consumer, dead_letter_topic)
    found = fold((_bytes(message.key()), _bytes(message.value()), {}) for message in messages)
    return [letter for letter in found if letter.topic == topic]


def _bytes(content: str | bytes | None) -> bytes | None:
    return content.encode() if isinstance(content, str) else content
