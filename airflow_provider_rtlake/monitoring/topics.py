"""How far a reader of topics is behind, in messages and in time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka import (
    TIMESTAMP_NOT_AVAILABLE,
    Consumer,
    ConsumerGroupState,
    ConsumerGroupTopicPartitions,
    KafkaError,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]  # it is documented there

from airflow_provider_rtlake.exceptions import ServiceUnavailable

Place = tuple[str, int]  # topic, partition


@dataclass(frozen=True)
class Backlog:
    """What waits.

    :param messages: how many.
    :param since: when the oldest of them was written, seconds since 1970; None if none waits.
    """

    messages: int = 0
    since: float | None = None

    def age(self, now: float) -> float:
        """Seconds that the oldest has been waiting.

        :param now: seconds since 1970.
        """
        return 0.0 if self.since is None else max(0.0, now - self.since)


def waiting(ends: Mapping[Place, int], starts: Mapping[Place, int], read: Mapping[Place, int]) -> dict[Place, int]:
    """Messages that wait in each partition where any does. Pure.

    :param ends: next offset to be written.
    :param starts: first offset that is still there.
    :param read: next offset to be read; a partition that is missing was never read.
    """
    found = {}
    for place, end in ends.items():
        begin = max(starts.get(place, 0), read.get(place, 0))
        if end > begin:
            found[place] = end - begin
    return found


class Brokers:
    """Offsets, asked in few requests.

    :param bootstrap: the brokers.
    :param timeout: seconds for one request.
    """

    def __init__(self, bootstrap: str, timeout: float = 10.0) -> None:
        config: dict[str, Any] = {
            "bootstrap.servers": bootstrap,
            "log_level": 0,
            "socket.timeout.ms": int(timeout * 1000),
        }
        self.timeout = timeout
        self._admin = AdminClient(config)
        self._consumer = Consumer(
            {**config, "group.id": "rtlake-exporter", "enable.auto.commit": False, "enable.partition.eof": True}
        )

    def close(self) -> None:
        """Leave."""
        self._consumer.close()

    def partitions(self) -> dict[str, int]:
        """Number of partitions of each topic.

        :raises ServiceUnavailable: nobody answers.
        """
        try:
            topics = self._admin.list_topics(timeout=self.timeout).topics
        except Exception as error:
            raise ServiceUnavailable("Kafka", str(error)) from error
        return {name: len(topic.partitions) for name, topic in topics.items()}

    def offsets(self, places: Iterable[Place], *, first: bool = False) -> dict[Place, int]:
        """Next offset to be written (or the first there is) of each partition.

        :param places: partitions.
        :param first: the first offset that is still there.
        """
        spec = OffsetSpec.earliest() if first else OffsetSpec.latest()  # type: ignore[no-untyped-call]
        wanted = {TopicPartition(topic, number): spec for topic, number in places}
        if not wanted:
            return {}
        futures = self._admin.list_offsets(wanted, request_timeout=self.timeout)
        return {(p.topic, p.partition): future.result().offset for p, future in futures.items()}

    def committed(self, group: str) -> dict[Place, int]:
        """Next offset that a consumer group will read of each partition that it has committed.

        :param group: its id.
        """
        futures = self._admin.list_consumer_group_offsets(
            [ConsumerGroupTopicPartitions(group)], request_timeout=self.timeout
        )
        found = futures[group].result().topic_partitions or []
        return {(p.topic, p.partition): p.offset for p in found if p.offset >= 0}

    def groups(self) -> list[str]:
        """Consumer groups that have members now."""
        busy = {
            ConsumerGroupState.STABLE,
            ConsumerGroupState.PREPARING_REBALANCING,
            ConsumerGroupState.COMPLETING_REBALANCING,
        }
        listing = self._admin.list_consumer_groups(request_timeout=self.timeout, states=busy).result()
        return sorted(group.group_id for group in listing.valid or [])

    def written_at(self, place: Place, offset: int) -> float | None:
        """When the first message at or after an offset was written, seconds since 1970; None if there is none.

        A transaction's marks take offsets too, so an end that is further on need not mean that a message waits.

        :param place: partition.
        :param offset: where to look.
        """
        self._consumer.assign([TopicPartition(*place, offset)])
        try:
            message = self._consumer.poll(self.timeout)
        finally:
            self._consumer.unassign()
        if message is None:
            raise ServiceUnavailable("Kafka", f"{place[0]}[{place[1]}]: no message within {self.timeout:g} s")
        error = message.error()
        if error is not None:
            if error.code() in (KafkaError._PARTITION_EOF, KafkaError.OFFSET_OUT_OF_RANGE):
                return None
            raise ServiceUnavailable("Kafka", error.str())
        kind, milliseconds = message.timestamp()
        return None if kind == TIMESTAMP_NOT_AVAILABLE else milliseconds / 1000

    def backlog(self, ends: Mapping[Place, int], starts: Mapping[Place, int], read: Mapping[Place, int]) -> Backlog:
        """What a reader has before it.

        :param ends: next offset to be written, of the partitions that it reads.
        :param starts: first offset that is still there.
        :param read: next offset that it reads.
        """
        messages, times = 0, []
        for place, count in waiting(ends, starts, read).items():
            since = self.written_at(place, max(starts.get(place, 0), read.get(place, 0)))
            if since is not None:
                messages += count
                times.append(since)
        return Backlog(messages, min(times, default=None))

    def last_written(self, ends: Mapping[Place, int], starts: Mapping[Place, int]) -> float | None:
        """When the last message of some partitions was written, seconds since 1970; None if they are empty.

        :param ends: next offset to be written.
        :param starts: first offset that is still there.
        """
        filled = [(place, end) for place, end in ends.items() if end > starts.get(place, 0)]
        times = [self.written_at(place, end - 1) for place, end in filled]
        return max((one for one in times if one is not None), default=None)
