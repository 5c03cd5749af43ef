"""Refills the real-time topics of a table from bronze."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_provider_rtlake.clients.flink import FlinkClient
from airflow_provider_rtlake.clients.kafka import KafkaClient, Topic
from airflow_provider_rtlake.exceptions import TransientError, UserError
from airflow_provider_rtlake.flink_sql.backfill import copy_job, count_changes, refill_job
from airflow_provider_rtlake.flink_sql.job import EARLIEST, RenderedJob
from airflow_provider_rtlake.lanes.bronze import BATCH, next_offsets
from airflow_provider_rtlake.lanes.jobs import Restore, start_job
from airflow_provider_rtlake.lanes.lanes import Lane, LaneRunner
from airflow_provider_rtlake.lanes.removed import epoch_mark, send_removals, truncates_of, values_of
from airflow_provider_rtlake.lanes.topics import make_missing, realtime_topics
from airflow_provider_rtlake.streams.model import Stream

_ATTEMPTS = 3  # what is sent twice is equal


class Incomplete(TransientError):
    """A refilled topic did not take every change."""


@dataclass(frozen=True)
class Refilled:
    """What a backfill did.

    :param table: as declared.
    :param messages: sent to the history topic: every change of bronze, those that the copy wrote twice (it is at least
        once, as the lane) counted twice. Their event ids are equal.
    :param removed: rows that a truncate had removed and the current topic now knows as deleted.
    """

    table: str
    messages: int
    removed: int

    def as_dict(self) -> dict[str, Any]:
        """As plain values."""
        return dict(self.__dict__)


def backfill(
    runner: LaneRunner,
    stream: Stream,
    lane: Lane,
    *,
    without: Mapping[int, Sequence[int]] | None = None,
    timeout: float = 3600.0,
    say: Callable[[str], None] = lambda text: None,
) -> Refilled:
    """Send every change that bronze holds to both real-time topics once more.

    The lane goes on meanwhile: what is sent twice is equal, and Pinot lets no older message win over a newer one. A
    compacted topic does: it keeps what came last. So at the end the lane begins again where bronze was when the copy
    began, and the newest change of each key is the last one of its topic too.

    :param runner: of the lanes.
    :param stream: the captured table.
    :param lane: its real-time lane.
    :param without: partition → offsets of messages of erased keys, which are left out.
    :param timeout: seconds for each of the two jobs.
    :param say: told each step.
    :raises UserError: the table has no real-time lane.
    :raises Incomplete: the history topic holds less than was sent to it.
    """
    if lane.kind != "realtime":
        raise UserError(f"{stream.source} has no real-time lane to fill")
    client, kafka = runner.client, runner.kafka
    for text in make_missing(kafka, realtime_topics(stream)):
        say(text)
    ends = kafka.end_offsets(stream.topic)
    bronze = next_offsets(client, runner.settings, stream.bronze_table, ends)
    topic = f"{stream.topic}.backfill"
    kafka.delete([topic])  # left by a run that was killed
    kafka.ensure([Topic(topic, max(1, len(ends)), {"retention.ms": "86400000"})])
    try:
        say("copying bronze")
        _run(client, copy_job(stream, topic, runner.settings, without), timeout)
        count = _written(kafka, topic)
        say(f"sending {count} changes")
        if count:
            count = _refill(client, kafka, stream, lane, topic, count, timeout, say)
    finally:
        kafka.delete([topic])
    removed = _repair(kafka, stream)
    if count:
        say("the lane goes on behind them")
        runner.rewind(lane, _reachable(bronze, ends), timeout=timeout)
    return Refilled(stream.source, count, removed)


def _refill(
    client: FlinkClient,
    kafka: KafkaClient,
    stream: Stream,
    lane: Lane,
    topic: str,
    count: int,
    timeout: float,
    say: Callable[[str], None],
) -> int:
    """Send everything, and look whether it has arrived: a topic that was made just now may lose what comes first.

    :return: how many changes there are: bronze may hold a message that is none for the lane.
    """
    history = str(stream.history_topic)
    refill = refill_job(stream, lane.job, topic)
    for attempt in range(_ATTEMPTS):
        before = _written(kafka, history)
        _run(client, refill, timeout)
        taken = _written(kafka, history) - before
        if taken < count and attempt == 0:
            count = _changes(client, refill, timeout)
        if taken >= count:
            return count
        say(f"topic {history} took {taken} of {count} changes; sending them again")
    raise Incomplete(
        f"{stream.source}: topic {history} took {taken} of {count} changes, {_ATTEMPTS} times; is it deleted and made "
        "again meanwhile? Run the backfill again"
    )


def _run(client: FlinkClient, job: RenderedJob, timeout: float) -> None:
    job_id = start_job(client, job, Restore(start=EARLIEST), timeout=timeout)
    client.wait_until_finished(job_id, timeout=timeout)


def _changes(client: FlinkClient, refill: RenderedJob, timeout: float) -> int:
    *setup, count = count_changes(refill)
    with client.session({**BATCH, "pipeline.name": "rtlake query"}) as session:
        for statement in setup:
            session.execute(statement)
        return int(session.execute(count, timeout=timeout).rows[0][0])


def _written(kafka: KafkaClient, topic: str) -> int:
    """Messages that were ever written to a topic, also those that its retention has removed meanwhile."""
    return sum(end for _, end in kafka.end_offsets(topic).values())


def _repair(kafka: KafkaClient, stream: Stream) -> int:
    marks = truncates_of(value for _, value in values_of(kafka.read_all(str(stream.history_topic))))
    begun = epoch_mark(kafka, stream)
    return send_removals(kafka, stream, [*marks, *([begun] if begun else [])])


def _reachable(following: Mapping[int, int], ends: Mapping[int, tuple[int, int]]) -> dict[int, int]:
    """Offsets that bronze does not have, within what the topic holds."""
    return {number: min(max(following.get(number, first), first), end) for number, (first, end) in ends.items()}
