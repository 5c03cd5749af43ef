"""All lanes of the declared tables: which jobs there should be, and bringing them about."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from airflow_provider_rtlake.clients.flink import FlinkClient, Job
from airflow_provider_rtlake.clients.kafka import KafkaClient
from airflow_provider_rtlake.exceptions import JobNotFound, RtlakeError, ServiceUnavailable, UserError
from airflow_provider_rtlake.flink_sql.bronze import bronze_job, notifications_job, transactions_job
from airflow_provider_rtlake.flink_sql.job import RenderedJob, StartPoint
from airflow_provider_rtlake.flink_sql.realtime import realtime_job
from airflow_provider_rtlake.flink_sql.settings import LaneSettings
from airflow_provider_rtlake.lanes.bronze import bronze_start, next_offsets
from airflow_provider_rtlake.lanes.jobs import Applied, Restore, apply_job, dispose, plan_job, stop_job
from airflow_provider_rtlake.lanes.topics import commit, committed, connector_topics, make_missing, realtime_topics
from airflow_provider_rtlake.streams.model import Connector, Stream
from airflow_provider_rtlake.streams.schema import TableSchema

log = logging.getLogger(__name__)

Kind = Literal["bronze", "realtime", "transactions"]
PREFIXES = ("bronze.", "realtime.")
_WORKERS = 4  # lanes that are started at a time
_Named = TypeVar("_Named", bound="LaneName")


@dataclass(frozen=True)
class LaneName:
    """One job that should run, as far as the declaration alone tells it.

    :param kind: of the lane; ``transactions`` are a connector's transaction markers and its snapshots' notifications.
    :param source: ``schema.table``, or the connector's name for its transactions.
    :param name: of the job.
    """

    kind: Kind
    source: str
    name: str


@dataclass(frozen=True)
class Lane(LaneName):
    """One job that should run.

    :param job: as rendered.
    :param bronze_table: what a bronze or transactions job writes to.
    """

    job: RenderedJob
    bronze_table: str | None = None

    @classmethod
    def of(cls, kind: Kind, source: str, job: RenderedJob, bronze_table: str | None = None) -> Lane:
        """A lane, named as its job."""
        return cls(kind, source, job.name, job, bronze_table)


def names_of(connectors: Iterable[Connector]) -> list[LaneName]:
    """Every job that the declarations ask for, in the order of :func:`lanes_of`; no source is needed for it.

    :param connectors: the declarations.
    """
    result = []
    for connector in connectors:
        for topic in (connector.transaction_topic, connector.notification_topic):
            result.append(LaneName("transactions", connector.connector, f"bronze.{topic}"))
        for stream in connector.streams:
            result.append(LaneName("bronze", stream.source, stream.bronze_job))
            if stream.table.realtime is not False:
                result.append(LaneName("realtime", stream.source, stream.realtime_job))
    return result


def sources_needed(names: Iterable[LaneName]) -> set[str]:
    """The tables whose structure is needed to render some lanes: only the real-time lane knows columns.

    :param names: of the lanes.
    """
    return {lane.source for lane in names if lane.kind == "realtime"}


def lanes_of(
    connectors: Iterable[Connector],
    schemas: Mapping[str, TableSchema],
    settings: LaneSettings,
    *,
    declared: Mapping[str, Mapping[str, str]] | None = None,
) -> list[Lane]:
    """Every job that the declarations ask for, but real-time lanes only of tables whose structure is given.

    :param connectors: the declarations.
    :param schemas: ``schema.table`` → its structure.
    :param settings: of the lanes.
    :param declared: Pinot table → column → type, from ``pinot_tables/``: current and history tables.
    :raises DeclarationError: a table cannot be served by its real-time lane.
    """
    result, types = [], declared or {}
    for connector in connectors:
        name, first = connector.connector, connector.streams[0]
        result.append(Lane.of("transactions", name, transactions_job(connector, settings), first.bronze_transactions))
        result.append(Lane.of("transactions", name, notifications_job(connector, settings), first.bronze_notifications))
        for stream in connector.streams:
            result.append(Lane.of("bronze", stream.source, bronze_job(stream, settings), stream.bronze_table))
            if stream.table.realtime is not False and stream.source in schemas:
                job = realtime_job(
                    stream,
                    schemas[stream.source],
                    settings,
                    declared=types.get(str(stream.pinot_current)),
                    declared_history=types.get(str(stream.pinot_history)),
                )
                result.append(Lane.of("realtime", stream.source, job))
    return result


def select(lanes: Sequence[_Named], tables: Sequence[str], kinds: Sequence[str] = ()) -> list[_Named]:
    """The lanes of some tables, all where none is named.

    :param lanes: all of them.
    :param tables: as declared, or connectors' names.
    :param kinds: only of these kinds.
    :raises UserError: a name is not declared.
    """
    known = {lane.source for lane in lanes}
    unknown = [name for name in tables if name not in known]
    if unknown:
        raise UserError(f"not declared: {', '.join(unknown)}; declared are: {', '.join(sorted(known))}")
    return [lane for lane in lanes if (not tables or lane.source in tables) and (not kinds or lane.kind in kinds)]


class LaneRunner:
    """Applies, stops and tells the state of lanes.

    :param client: of the Flink cluster.
    :param settings: of the lanes.
    :param kafka: the brokers, as this process reaches them.
    """

    def __init__(self, client: FlinkClient, settings: LaneSettings, kafka: KafkaClient) -> None:
        self.client = client
        self.settings = settings
        self.kafka = kafka

    def make_topics(self, connectors: Iterable[Connector]) -> list[str]:
        """Create the topics that are missing.

        :param connectors: the declarations.
        :return: what was done, in words.
        """
        wanted = []
        for connector in connectors:
            wanted += connector_topics(connector)
            for stream in connector.streams:
                wanted += realtime_topics(stream)
        return make_missing(self.kafka, wanted)

    def apply(
        self,
        lane: Lane,
        *,
        dry_run: bool = False,
        accept_gap: bool = False,
        timeout: float = 180.0,
        on_submit: Callable[[str], None] = lambda job_id: None,
    ) -> Applied:
        """Let a lane's job run as declared.

        A job is restarted without its old state: bronze goes on behind the last offset that its table holds, the
        real-time lane at the offsets that its group committed. Both are exact whatever became of the old job, and
        neither depends on the statements being the same.

        :param lane: which one.
        :param dry_run: only tell what would be done.
        :param accept_gap: see :func:`bronze_start`.
        :param timeout: seconds for each of stop and start.
        :param on_submit: told the new job's id just before it is submitted.
        """
        savepoints: list[str | None] = []

        def restore(savepoint: str | None) -> Restore:
            savepoints.append(savepoint)
            return Restore(start=self.start_point(lane, accept_gap=accept_gap))

        applied = apply_job(self.client, lane.job, restore, dry_run=dry_run, timeout=timeout, on_submit=on_submit)
        for path in savepoints:
            dispose(self.client, path)
        return applied

    def apply_all(
        self,
        lanes: Sequence[Lane],
        *,
        dry_run: bool = False,
        accept_gap: bool = False,
        timeout: float = 180.0,
        told: Callable[[Applied], None] = lambda applied: None,
    ) -> list[Applied]:
        """Let several lanes run as declared, some at a time: most of a start is waiting.

        One that cannot start does not keep the others from it.

        :param lanes: which ones.
        :param dry_run: only tell what would be done.
        :param accept_gap: see :func:`bronze_start`.
        :param timeout: seconds for each of stop and start.
        :param told: what became of each, in their order.
        """

        def work(lane: Lane) -> Applied:
            return self.apply(lane, dry_run=dry_run, accept_gap=accept_gap, timeout=timeout)

        return _side_by_side(lanes, work, told)

    def stop_all(
        self, lanes: Sequence[LaneName], *, told: Callable[[tuple[LaneName, list[str]]], None] = lambda stopped: None
    ) -> None:
        """Stop several lanes, see :meth:`stop`.

        :param lanes: which ones.
        :param told: each with the ids of its jobs, in their order.
        """
        _side_by_side(lanes, lambda lane: (lane, self.stop(lane)), told)

    def start_point(self, lane: Lane, *, accept_gap: bool = False) -> StartPoint:
        """Where a lane's job has to begin when it starts now.

        :param lane: which one.
        :param accept_gap: see :func:`bronze_start`.
        """
        if lane.bronze_table is None or lane.job.source is None:
            return StartPoint("group")
        topic = lane.job.source.topic
        ends = self.kafka.end_offsets(topic)
        following = next_offsets(self.client, self.settings, lane.bronze_table, ends)
        return bronze_start(topic, following, ends, accept_gap=accept_gap)

    def stop(self, lane: LaneName, *, timeout: float = 180.0) -> list[str]:
        """Stop a lane's job; the offsets it reached are kept, and :meth:`apply` goes on from there.

        :param lane: which one.
        :param timeout: seconds.
        :return: ids of the jobs stopped.
        """
        stopped = []
        for job in self.client.jobs():
            if job.name == lane.name and not job.state.is_terminal:
                dispose(self.client, stop_job(self.client, job.job_id, timeout=timeout))
                stopped.append(job.job_id)
        return stopped

    def rewind(self, lane: Lane, offsets: Mapping[int, int], *, timeout: float = 180.0) -> None:
        """Let a real-time lane read again from given offsets; one that does not run will begin there.

        :param lane: which one.
        :param offsets: partition → next offset to read.
        :param timeout: seconds for each of stop and start.
        """
        source = lane.job.source
        if source is None:
            return
        stopped = self.stop(lane, timeout=timeout)
        commit(self.kafka, source.group, source.topic, offsets)
        if stopped:
            self.apply(lane, timeout=timeout)

    def undeclared(self, connectors: Sequence[Connector]) -> list[Job]:
        """Jobs of lanes that run although no declaration asks for them.

        :param connectors: the declarations; jobs of other topic prefixes than theirs are none of ours.
        """
        wanted = {lane.name for lane in names_of(connectors)}
        ours = tuple(f"{kind}{connector.topic_prefix}." for kind in PREFIXES for connector in connectors)
        return [
            job
            for job in self.client.jobs()
            if job.name.startswith(ours) and job.name not in wanted and not job.state.is_terminal
        ]

    def prune(self, connectors: Sequence[Connector], *, dry_run: bool = False) -> list[Job]:
        """Stop the jobs of lanes that are no longer declared, as :meth:`stop` does.

        :param connectors: the declarations.
        :param dry_run: only tell which ones.
        """
        jobs = self.undeclared(connectors)
        for job in () if dry_run else jobs:
            dispose(self.client, stop_job(self.client, job.job_id))
        return jobs

    def status(self, lane: LaneName) -> dict[str, Any]:
        """State of a lane: its job, its checkpoints, how many messages it is behind.

        :param lane: which one; of one that is no :class:`Lane` it is not known whether it runs as declared.
        """
        rendered = lane if isinstance(lane, Lane) else None
        newest = next((job for job in self.client.jobs() if job.name == lane.name), None)
        result: dict[str, Any] = {
            "lane": lane.kind,
            "table": lane.source,
            "job": lane.name,
            "job_id": newest.job_id if newest else None,
            "state": newest.state.value if newest else "ABSENT",
            "as_declared": plan_job(self.client, rendered.job).action == "keep" if rendered else None,
            "lag": self.lag(rendered) if rendered else None,
        }
        if newest:
            result.update(self._detail(newest.job_id))
        return result

    def _detail(self, job_id: str) -> dict[str, Any]:
        try:
            checkpoints, failure = self.client.checkpoints(job_id), self.client.exception(job_id)
        except (ServiceUnavailable, JobNotFound):  # it is coming back after a fault, or was forgotten meanwhile
            return {}
        return {
            "checkpoints": checkpoints.completed,
            "checkpoint_ms": checkpoints.latest_ms,
            "last_exception": failure[0] if failure else None,
        }

    def lag(self, lane: Lane) -> int | None:
        """How many messages of its topic a lane has not committed; None where its topic is not there.

        :param lane: which one.
        """
        if lane.job.source is None:
            return None
        ends = self.kafka.end_offsets(lane.job.source.topic)
        if not ends:
            return None
        done = committed(self.kafka, lane.job.source.group, lane.job.source.topic, ends)
        return sum(end - max(done.get(partition, first), first) for partition, (first, end) in ends.items())


_Given = TypeVar("_Given")
_Found = TypeVar("_Found")


def _side_by_side(
    given: Sequence[_Given], work: Callable[[_Given], _Found], told: Callable[[_Found], None]
) -> list[_Found]:
    found: list[_Found] = []
    errors: list[RtlakeError] = []
    with ThreadPoolExecutor(_WORKERS) as pool:
        for future in [pool.submit(work, one) for one in given]:
            try:
                found.append(future.result())
            except RtlakeError as error:
                errors.append(error)
            else:
                told(found[-1])
    for further in errors[1:]:
        log.error("%s", further)
    if errors:
        raise errors[0]
    return found


def stream_of(connectors: Iterable[Connector], source: str) -> Stream:
    """The captured table of that name.

    :param connectors: the declarations.
    :param source: as declared.
    :raises UserError: it is not declared.
    """
    streams = [stream for connector in connectors for stream in connector.streams]
    for stream in streams:
        if stream.source == source:
            return stream
    raise UserError(f"{source} is not declared; declared are: {', '.join(stream.source for stream in streams)}")
