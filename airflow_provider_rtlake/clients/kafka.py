"""Topics of a Kafka cluster."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import tenacity
from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # its stubs export but the client
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)

from airflow_provider_rtlake.exceptions import RequestRefused, ServiceUnavailable

SERVICE = "Kafka"
# What a broker answers while a partition gets its leader: of a topic made just now, or after a restart.
_ELECTING = frozenset({KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE})


@dataclass(frozen=True)
class Topic:
    """A topic as it should be.

    :param name: its name.
    :param partitions: how many.
    :param config: its settings, such as ``cleanup.policy`` and ``retention.ms`` (milliseconds).
    :param replication_factor: copies of each partition when it is made; -1 takes the broker's default.
    """

    name: str
    partitions: int = 1
    config: Mapping[str, str] = field(default_factory=dict)
    replication_factor: int = -1


class KafkaClient:
    """Administration of topics, idempotent.

    :param config: librdkafka's settings, at least ``bootstrap.servers``.
    :param timeout: seconds for one request.
    """

    def __init__(self, config: Mapping[str, Any], *, timeout: float = 30.0) -> None:
        self.config = dict(config)
        self.timeout = timeout
        self._admin = AdminClient(dict(self.config))

    @property
    def bootstrap_servers(self) -> str:
        """The brokers."""
        return str(self.config["bootstrap.servers"])

    def topics(self) -> dict[str, int]:
        """Every topic with its number of partitions."""
        with self._explained("listing topics"):
            metadata = self._admin.list_topics(timeout=self.timeout)
        return {name: len(topic.partitions) for name, topic in metadata.topics.items()}

    def topic_config(self, name: str) -> dict[str, str]:
        """A topic's settings, incl. the broker's defaults.

        :param name: of the topic.
        """
        resource = ConfigResource(ResourceType.TOPIC, name)
        with self._explained(f"reading the settings of topic {name}"):
            entries = self._result(self._admin.describe_configs([resource]))[resource]
        return {key: str(entry.value) for key, entry in entries.items()}

    def plan(self, topics: Iterable[Topic]) -> list[str]:
        """What :meth:`ensure` would change, in words.

        :param topics: as they should be.
        """
        present = self.topics()
        return [what for topic in topics for what in self._differences(topic, present)]

    def _differences(self, topic: Topic, present: Mapping[str, int]) -> Iterator[str]:
        if topic.name not in present:
            settings = ", ".join(f"{key}={value}" for key, value in sorted(topic.config.items()))
            yield f"topic {topic.name} made with {topic.partitions} partitions" + (f" ({settings})" if settings else "")
            return
        if present[topic.name] < topic.partitions:
            yield f"topic {topic.name}: {present[topic.name]} → {topic.partitions} partitions"
        for key, value in self._wrong_settings(topic).items():
            yield f"topic {topic.name}: {key} = {value}"

    def _wrong_settings(self, topic: Topic) -> dict[str, str]:
        if not topic.config:
            return {}
        now = self.topic_config(topic.name)
        return {key: value for key, value in topic.config.items() if now.get(key) != value}

    def ensure(self, topics: Iterable[Topic]) -> list[str]:
        """Make topics, add partitions, correct settings. Partitions are never taken away.

        :param topics: as they should be.
        :return: what was changed, in words.
        """
        wanted = list(topics)
        present = self.topics()
        changes = []
        for topic in wanted:
            differences = list(self._differences(topic, present))
            if not differences:
                continue
            changes += differences
            if topic.name not in present:
                self._create(topic)
                continue
            if present[topic.name] < topic.partitions:
                self._add_partitions(topic)
            self._correct(topic)
        return changes

    def _create(self, topic: Topic) -> None:
        new = NewTopic(
            topic.name,
            num_partitions=topic.partitions,
            replication_factor=topic.replication_factor,
            config=dict(topic.config),
        )
        try:
            with self._explained(f"making topic {topic.name}"):
                self._result(self._admin.create_topics([new], operation_timeout=self.timeout))
        except RequestRefused as error:
            cause = error.__cause__
            if not (isinstance(cause, KafkaException) and _code(cause) == KafkaError.TOPIC_ALREADY_EXISTS):
                raise

    def _add_partitions(self, topic: Topic) -> None:
        with self._explained(f"adding partitions to topic {topic.name}"):
            self._result(self._admin.create_partitions([NewPartitions(topic.name, topic.partitions)]))

    def _correct(self, topic: Topic) -> None:
        wrong = self._wrong_settings(topic)
        if not wrong:
            return
        entries = [ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET) for key, value in wrong.items()]
        resource = ConfigResource(ResourceType.TOPIC, topic.name, incremental_configs=entries)
        with self._explained(f"changing the settings of topic {topic.name}"):
            self._result(self._admin.incremental_alter_configs([resource]))

    def delete(self, names: Iterable[str]) -> list[str]:
        """Delete topics; those that are not there count as deleted.

        :param names: of the topics.
        :return: those that were there.
        """
        present = sorted(set(names).intersection(self.topics()))
        if present:
            with self._explained(f"deleting topics {', '.join(present)}"):
                self._result(self._admin.delete_topics(present, operation_timeout=self.timeout))
        return present

    def end_offsets(self, topic: str) -> dict[int, tuple[int, int]]:
        """First and next offset of each partition.

        :param topic: its name.
        """
        partitions = self.topics().get(topic, 0)
        with self._consumer() as consumer, self._explained(f"reading the offsets of topic {topic}"):
            return {number: self._bounds(consumer, TopicPartition(topic, number)) for number in range(partitions)}

    def delete_records(self, topic: str, offsets: Mapping[int, int]) -> None:
        """Delete a topic's records before an offset of each partition; what is gone already stays gone.

        :param topic: its name.
        :param offsets: partition → first offset that stays.
        """
        present = self.end_offsets(topic)
        wanted = [
            TopicPartition(topic, number, min(offset, present[number][1]))
            for number, offset in offsets.items()
            if number in present and offset > present[number][0]
        ]
        if wanted:
            with self._explained(f"deleting records of topic {topic}"):
                self._result(self._admin.delete_records(wanted))

    def behind_tombstones(self, topic: str, partition: int, offset: int) -> int:
        """The first offset, counted from a given one, that holds no tombstone: that of a value, or the partition's end.

        :param topic: its name.
        :param partition: of it.
        :param offset: where to begin.
        """
        start, end = self.end_offsets(topic).get(partition, (0, 0))
        behind = max(offset, start)
        if behind >= end:
            return behind
        with self._consumer() as consumer:
            consumer.assign([TopicPartition(topic, partition, behind)])
            while behind < end:
                message = consumer.poll(self.timeout)
                if message is None:
                    raise ServiceUnavailable(SERVICE, f"topic {topic}: no message within {self.timeout:.0f} s")
                error = message.error()
                if error is not None:
                    if error.code() != KafkaError._PARTITION_EOF:
                        raise ServiceUnavailable(SERVICE, f"reading topic {topic}: {error.str()}")
                    return end
                if message.value() is not None:
                    return int(message.offset() or 0)
                behind = int(message.offset() or 0) + 1
        return behind

    def lag(self, group: str) -> dict[str, int]:
        """Messages that a consumer group has still to read, by topic.

        :param group: its id.
        """
        with self._explained(f"reading the offsets of consumer group {group}"):
            futures = self._admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])
            committed = futures[group].result(timeout=self.timeout).topic_partitions
        lags: dict[str, int] = {}
        with self._consumer() as consumer, self._explained(f"reading the lag of consumer group {group}"):
            for partition in committed:
                _, end = self._bounds(consumer, partition)
                lags[partition.topic] = lags.get(partition.topic, 0) + max(0, end - max(0, partition.offset))
        return lags

    def read_all(self, topic: str) -> Iterator[tuple[bytes | None, bytes | None, dict[str, str]]]:
        """Key, value and headers of every message that a topic holds now.

        :param topic: its name; one that is not there holds nothing.
        """
        ends = self.end_offsets(topic)
        open_partitions = {number: end for number, (start, end) in ends.items() if end > start}
        if not open_partitions:
            return
        with self._consumer() as consumer:
            starts = [TopicPartition(topic, number, ends[number][0]) for number in open_partitions]
            consumer.assign(starts)
            while open_partitions:
                message = consumer.poll(self.timeout)
                if message is None:
                    raise ServiceUnavailable(SERVICE, f"topic {topic}: no message within {self.timeout:.0f} s")
                error = message.error()
                number = message.partition() or 0
                if error is not None:
                    if error.code() != KafkaError._PARTITION_EOF:
                        raise ServiceUnavailable(SERVICE, f"reading topic {topic}: {error.str()}")
                else:
                    yield message.key(), message.value(), _headers(message.headers())
                position = consumer.position([TopicPartition(topic, number)])[0].offset
                if number in open_partitions and position >= open_partitions[number]:
                    del open_partitions[number]

    def send(self, topic: str, key: bytes, value: bytes | None, *, headers: Mapping[str, str] | None = None) -> None:
        """Write one message and wait until the brokers have it.

        :param topic: its name.
        :param key: the message's key.
        :param value: the message's value; None is a tombstone.
        :param headers: the message's headers.
        """
        failures: list[KafkaError] = []
        producer = Producer({**self.config, "acks": "all", "enable.idempotence": True})
        with self._explained(f"writing to topic {topic}"):
            producer.produce(
                topic,
                key=key,
                value=value,
                headers=[(name, text.encode()) for name, text in (headers or {}).items()],
                on_delivery=lambda error, _: failures.append(error) if error is not None else None,
            )
            left = producer.flush(self.timeout)
        if failures:
            raise ServiceUnavailable(SERVICE, f"writing to topic {topic}: {failures[0].str()}")
        if left:
            raise ServiceUnavailable(SERVICE, f"writing to topic {topic}: no answer within {self.timeout:.0f} s")

    def _bounds(self, consumer: Consumer, place: TopicPartition) -> tuple[int, int]:
        """First and next offset of a partition, as soon as it has a leader."""
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_delay(self.timeout),
            wait=tenacity.wait_exponential(multiplier=0.05, max=1.0),
            retry=tenacity.retry_if_exception(lambda error: _code(error) in _ELECTING),
            reraise=True,
        )
        found: tuple[int, int] = retrying(consumer.get_watermark_offsets, place, timeout=self.timeout)
        return found

    @contextmanager
    def _consumer(self) -> Iterator[Consumer]:
        consumer = Consumer(
            {
                **self.config,
                "group.id": "rtlake-reader",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "enable.partition.eof": True,
            }
        )
        try:
            yield consumer
        finally:
            consumer.close()

    def _result(self, futures: Mapping[Any, Future[Any]]) -> dict[Any, Any]:
        return {key: future.result(timeout=self.timeout) for key, future in futures.items()}

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except KafkaException as error:
            detail = error.args[0]
            text = detail.str() if isinstance(detail, KafkaError) else str(error)
            if isinstance(detail, KafkaError) and (detail.retriable() or detail.code() < 0):
                raise ServiceUnavailable(SERVICE, f"{what}: {text} ({self.bootstrap_servers})") from error
            raise RequestRefused(SERVICE, f"{what}: {text}") from error


def _code(error: BaseException) -> int:
    detail = error.args[0] if isinstance(error, KafkaException) else None
    return detail.code() if isinstance(detail, KafkaError) else 0


def _headers(headers: Any) -> dict[str, str]:
    return {
        name: value.decode(errors="replace") if isinstance(value, bytes) else str(value or "")
        for name, value in headers or []
    }
