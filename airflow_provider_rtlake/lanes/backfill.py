"""Refills the real-time topics of a table from bronze, and tells the current topic what truncates removed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Producer

from airflow_provider_rtlake.clients.flink import FlinkClient
from airflow_provider_rtlake.clients.kafka import KafkaClient, Topic
from airflow_provider_rtlake.exceptions import ServiceUnavailable, UserError
from airflow_provider_rtlake.flink_sql.backfill import copy_job, refill_job
from airflow_provider_rtlake.flink_sql.job import EARLIEST, RenderedJob
from airflow_provider_rtlake.flink_sql.settings import LaneSettings
from airflow_provider_rtlake.lanes.jobs import Restore, start_job
from airflow_provider_rtlake.lanes.lanes import Lane
from airflow_provider_rtlake.lanes.topics import make_missing, realtime_topics
from airflow_provider_rtlake.streams.model import Stream

Message = tuple[bytes | None, bytes | None, dict[str, str]]


@dataclass(frozen=True)
class Refilled:
    """What a backfill did.

    :param table: as declared.
    :param messages: read from bronze.
    :param truncated: rows that a truncate had removed and the current topic now knows as deleted.
    """

    table: str
    messages: int
    truncated: int

    def as_dict(self) -> dict[str, Any]:
        """As plain values."""
        return dict(self.__dict__)


def backfill(
    client: FlinkClient,
    kafka: KafkaClient,
    settings: LaneSettings,
    stream: Stream,
    lane: Lane,
    *,
    timeout: float = 3600.0,
    say: Callable[[str], None] = lambda text: None,
) -> Refilled:
    """Send every change that bronze holds to both real-time topics once more.

    The lane goes on meanwhile: what is sent twice is equal, and an older message never wins over a newer one.

    :param client: of the Flink cluster.
    :param kafka: the brokers.
    :param settings: of the lanes.
    :param stream: the captured table.
    :param lane: its real-time lane.
    :param timeout: seconds for each of the two jobs.
    :param say: told each step.
    """
    if lane.kind != "realtime":
        raise UserError(f"{stream.source} has no real-time lane to fill")
    make_missing(kafka, realtime_topics(stream))
    topic = f"{stream.topic}.backfill"
    kafka.delete([topic])  # left by a run that was killed
    partitions = max(1, kafka.topics().get(stream.topic, 1))
    kafka.ensure([Topic(topic, partitions, {"retention.ms": "86400000"})])
    try:
        say("copying bronze")
        _run(client, copy_job(stream, topic, settings), timeout)
        count = sum(end - first for first, end in kafka.end_offsets(topic).values())
        say(f"sending {count} changes")
        if count:
            _run(client, refill_job(stream, lane.job, topic), timeout)
        truncated = repair_truncates(kafka, stream)
    finally:
        kafka.delete([topic])
    return Refilled(stream.source, count, truncated)


def _run(client: FlinkClient, job: RenderedJob, timeout: float) -> None:
    job_id = start_job(client, job, Restore(start=EARLIEST), timeout=timeout)
    client.wait_until_finished(job_id, timeout=timeout)


def repair_truncates(kafka: KafkaClient, stream: Stream) -> int:
    """Tell the current topic of the rows that truncates removed.

    A truncate names no row, so the lane, which keeps no state, can only tell it to the history topic.

    :param kafka: the brokers.
    :param stream: the captured table.
    :return: number of rows.
    """
    truncates = [value for _, value in _values(kafka.read_all(str(stream.history_topic))) if value.get("op") == "t"]
    deletes = list(truncate_deletes(truncates, _values(kafka.read_all(str(stream.current_topic)))))
    if deletes:
        _send(kafka, str(stream.current_topic), deletes)
    return len(deletes)


def truncate_deletes(
    truncates: Iterable[Mapping[str, Any]], current: Iterable[tuple[bytes, Mapping[str, Any]]]
) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """The delete messages of the rows that lived when a truncate came and have not changed since. Pure.

    :param truncates: messages of the history topic.
    :param current: key and value of every message of the current topic, in any order.
    """
    last: dict[bytes, Mapping[str, Any]] = {}
    for key, value in current:
        if key not in last or value["position"] >= last[key]["position"]:
            last[key] = value
    newest_first = sorted(truncates, key=lambda truncate: str(truncate["position"]), reverse=True)
    for key, value in last.items():
        later = [truncate for truncate in newest_first if truncate["position"] > value["position"]]
        if later and not value["is_deleted"]:
            truncate = later[-1]  # the first one after the row's last change is the one that removed it
            yield (
                key,
                {
                    **value,
                    "is_deleted": True,
                    "position": truncate["position"],
                    "last_updated_ts": truncate["event_timestamp"],
                    "event_id": f"{truncate['record_id']}{key.decode()}",
                },
            )


def _values(messages: Iterable[Message]) -> Iterator[tuple[bytes, dict[str, Any]]]:
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
        producer.produce(topic, key=key, value=text.encode(), on_delivery=delivered)
        producer.poll(0)
    left = producer.flush(60)
    if failures or left:
        reason = failures[0] if failures else f"{left} messages were not confirmed"
        raise ServiceUnavailable("Kafka", f"writing to topic {topic}: {reason}")
