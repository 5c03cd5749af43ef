"""What is asked of each service, with the project's own clients."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from airflow_provider_rtlake.clients.flink import FlinkClient, Job
from airflow_provider_rtlake.clients.kafka import KafkaClient
from airflow_provider_rtlake.clients.kafka_connect import KafkaConnectClient
from airflow_provider_rtlake.clients.pinot import PinotController
from airflow_provider_rtlake.exceptions import DeclarationError, NotFound
from airflow_provider_rtlake.kit import health, settings
from airflow_provider_rtlake.kit.stack import Stack
from airflow_provider_rtlake.lanes.dead_letters import fold
from airflow_provider_rtlake.monitoring.catalogue import Sample
from airflow_provider_rtlake.monitoring.topics import Brokers, Place
from airflow_provider_rtlake.streams.load import load_connectors
from airflow_provider_rtlake.streams.model import Connector, Stream

ABSENT = "ABSENT"


class Declared:
    """The connectors as declared now; read again only when a file changed.

    :param folder: of the declarations.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._seen: tuple[tuple[str, int], ...] | None = None
        self._connectors: list[Connector] = []

    def connectors(self) -> list[Connector]:
        """All of them.

        :raises DeclarationError: a declaration has a mistake.
        """
        files = sorted(self.folder.glob("*.y*ml"))
        seen = tuple((str(path), path.stat().st_mtime_ns) for path in files)
        if seen != self._seen:
            self._connectors = load_connectors(self.folder)
            self._seen = seen
        return self._connectors

    def known(self) -> list[Connector]:
        """All of them, or those of the last state without mistakes."""
        try:
            return self.connectors()
        except (DeclarationError, OSError):
            return self._connectors

    def streams(self) -> list[Stream]:
        """Every captured table."""
        return [stream for connector in self.known() for stream in connector.streams]

    def ask(self) -> Iterator[Sample]:
        """Whether they are free of mistakes."""
        try:
            self.connectors()
        except DeclarationError:
            yield Sample("rtlake_declarations_valid", 0)
        else:
            yield Sample("rtlake_declarations_valid", 1)


def services(stack: Stack) -> Iterator[Sample]:
    """Whether each service of the stack answers a real request (those of monitoring itself: Prometheus knows).

    :param stack: the stack.
    """
    wanted = [n for n, s in stack.services.items() if s.component not in settings.MONITORING]
    for name, answer in health.check_all(stack, wanted, memory=False).items():
        # Under systemd the exporter may read no secret: then a service that asks for a login need only listen.
        up = _listens(stack.service(name).port) if answer.detail.startswith("UserError") else answer.healthy
        yield Sample("rtlake_service_up", float(up), (name,))


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            return True
    except OSError:
        return False


def connectors(client: KafkaConnectClient, declared: Declared) -> Iterator[Sample]:
    """State of connectors and tasks.

    :param client: Kafka Connect.
    :param declared: those that should be there.
    """
    there = client.connectors()
    for name in there:
        status = client.status(name)
        if status is None:  # deleted this moment
            continue
        yield Sample("rtlake_connector_state", 1, (name, status.state))
        for task in status.tasks:
            yield Sample("rtlake_connector_task_running", float(task.state == "RUNNING"), (name, str(task.id)))
    for connector in declared.known():
        if connector.connector not in there:
            yield Sample("rtlake_connector_state", 1, (connector.connector, ABSENT))


def newest(jobs: Iterable[Job]) -> list[Job]:
    """The newest job of each name: older ones have been replaced. Pure.

    :param jobs: as the cluster lists them.
    """
    found: dict[str, Job] = {}
    for job in jobs:
        if job.name not in found or job.start_ms > found[job.name].start_ms:
            found[job.name] = job
    return [found[name] for name in sorted(found)]


def flink(client: FlinkClient, declared: Declared) -> Iterator[Sample]:
    """State, restarts and checkpoints of jobs; a declared lane without a job at work is absent, too.

    :param client: Flink.
    :param declared: tables whose lanes should run.
    """
    overview = client.overview()
    yield Sample("rtlake_flink_taskmanagers", overview["taskmanagers"])
    yield Sample("rtlake_flink_slots_free", overview["slots-available"])
    jobs = newest(client.jobs())
    for job in jobs:
        yield Sample("rtlake_flink_job_state", 1, (job.name, job.state.value))
        if not job.state.is_terminal:
            yield from _job(client, job)
    at_work = {job.name for job in jobs if not job.state.is_terminal}
    for name in sorted(set(_lanes(declared.streams())) - at_work):
        yield Sample("rtlake_flink_job_state", 1, (name, ABSENT))


def _lanes(streams: Iterable[Stream]) -> Iterator[str]:
    for stream in streams:
        yield stream.bronze_job
        if stream.current_topic is not None:
            yield stream.realtime_job


def _job(client: FlinkClient, job: Job) -> Iterator[Sample]:
    labels = (job.name,)
    try:
        checkpoints = client.checkpoints(job.job_id)
        restarts = client.job_metrics(job.job_id, ["numRestarts"]).get("numRestarts")
    except NotFound:  # ended this moment
        return
    total, running = job.tasks.get("total", 0), job.tasks.get("running", 0) + job.tasks.get("finished", 0)
    yield Sample("rtlake_flink_job_tasks_not_running", total - running, labels)
    yield Sample("rtlake_flink_job_checkpoints_failed", checkpoints.failed, labels)
    if restarts is not None:
        yield Sample("rtlake_flink_job_restarts", restarts, labels)
    if checkpoints.latest_ms is not None:
        age = max(0.0, time.time() - checkpoints.latest_ms / 1000)
        yield Sample("rtlake_flink_job_checkpoint_age_seconds", age, labels)
    if checkpoints.duration_ms is not None:
        yield Sample("rtlake_flink_job_checkpoint_duration_seconds", checkpoints.duration_ms / 1000, labels)


def lanes(brokers: Brokers, declared: Declared) -> Iterator[Sample]:
    """How far bronze and real-time lanes are behind the captured tables' topics, and groups that have members.

    :param brokers: Kafka.
    :param declared: the captured tables.
    """
    sizes = brokers.partitions()
    streams = [stream for stream in declared.streams() if stream.topic in sizes]
    places = [(s.topic, number) for s in streams for number in range(sizes[s.topic])]
    ends, starts = brokers.offsets(places), brokers.offsets(places, first=True)
    now = time.time()
    for stream in streams:
        own = {place: end for place, end in ends.items() if place[0] == stream.topic}
        last = brokers.last_written(own, starts)
        if last is not None:
            yield Sample("rtlake_topic_last_message_timestamp_seconds", last, (stream.source,))
        pairs = [("bronze", stream.bronze_job)]
        pairs += [("realtime", stream.realtime_job)] if stream.current_topic is not None else []
        for lane, job in pairs:
            backlog = brokers.backlog(own, starts, brokers.committed(f"rtlake.{job}"))
            yield Sample("rtlake_lane_lag_messages", backlog.messages, (lane, stream.source))
            yield Sample("rtlake_lane_oldest_waiting_seconds", backlog.age(now), (lane, stream.source))
    yield from _groups(brokers)


def _groups(brokers: Brokers) -> Iterator[Sample]:
    for group in brokers.groups():
        read = brokers.committed(group)
        ends, lags = brokers.offsets(read), dict[str, int]()
        for place, end in ends.items():
            lags[place[0]] = lags.get(place[0], 0) + max(0, end - read[place])
        for topic, lag in sorted(lags.items()):
            yield Sample("rtlake_consumer_group_lag_messages", lag, (group, topic))


def topic_of(config: dict[str, Any]) -> str | None:
    """The topic that a real-time table reads. Pure.

    :param config: the table's.
    """
    index = config.get("tableIndexConfig") or {}
    ingestion = (config.get("ingestionConfig") or {}).get("streamIngestionConfig") or {}
    maps = [index.get("streamConfigs") or {}, *(ingestion.get("streamConfigMaps") or [])]
    return next((m["stream.kafka.topic.name"] for m in maps if "stream.kafka.topic.name" in m), None)


def pinot(controller: PinotController, brokers: Brokers) -> Iterator[Sample]:
    """Ingestion of every real-time table: partitions that are read, messages and time behind the topic.

    :param controller: Pinot.
    :param brokers: Kafka.
    """
    sizes = brokers.partitions()
    now = time.time()
    for table in controller.tables():
        config = controller.table(table)
        topic = topic_of(config) if config else None
        if topic is None or topic not in sizes:
            continue
        segments = controller.consuming(table)
        read: dict[Place, int] = {}
        for segment in segments:
            if segment.offset is not None:
                place = (topic, segment.partition)
                read[place] = max(segment.offset, read.get(place, 0))
        places = [(topic, number) for number in range(sizes[topic])]
        starts = brokers.offsets(places, first=True)
        backlog = brokers.backlog(brokers.offsets(places), starts, read)
        consuming = {segment.partition for segment in segments if segment.consuming}
        yield Sample("rtlake_pinot_partitions", sizes[topic], (table,))
        yield Sample("rtlake_pinot_partitions_consuming", len(consuming), (table,))
        yield Sample("rtlake_pinot_lag_messages", backlog.messages, (table,))
        yield Sample("rtlake_pinot_oldest_waiting_seconds", backlog.age(now), (table,))


class DeadLetters:
    """Open dead letters of each connector; a topic is read again only when something was added to it.

    :param kafka: for reading whole topics.
    :param brokers: for their ends.
    :param declared: the connectors.
    """

    def __init__(self, kafka: KafkaClient, brokers: Brokers, declared: Declared) -> None:
        self._kafka, self._brokers, self._declared = kafka, brokers, declared
        self._counted: dict[str, tuple[dict[Place, int], int]] = {}

    def ask(self) -> Iterator[Sample]:
        """Count them."""
        sizes = self._brokers.partitions()
        for connector in self._declared.known():
            topic = connector.dead_letter_topic
            ends = self._brokers.offsets((topic, number) for number in range(sizes.get(topic, 0)))
            before, count = self._counted.get(topic, ({}, 0))
            if ends != before:
                letters = fold(self._kafka.read_all(topic))
                count = sum(letter.status == "open" for letter in letters)
                self._counted[topic] = (ends, count)
            yield Sample("rtlake_dead_letters_open", count, (connector.connector,))
