"""Brings one rendered job to the state that a decision asks for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_rtlake.clients.flink import FlinkClient, pauses
from airflow_provider_rtlake.exceptions import (
    JobNotFound,
    NotFound,
    RequestRefused,
    ServiceError,
    ServiceUnavailable,
    StatementFailed,
    TransientError,
    WaitTimeout,
)
from airflow_provider_rtlake.flink_sql.job import (
    EARLIEST,
    FINGERPRINT_KEY,
    RenderedJob,
    StartPoint,
    job_id_for,
)
from airflow_provider_rtlake.lanes.decide import Decision, SeenJob, decide

log = logging.getLogger(__name__)


class NoFreeSlot(TransientError):
    """A job cannot run because others take every slot."""


_DUPLICATE = "DuplicateJobSubmissionException"


@dataclass(frozen=True)
class Applied:
    """What became of a job.

    :param name: the job's name.
    :param job_id: the job that runs now; None after a dry run that would start one.
    :param action: ``keep``, ``start`` or ``replace``.
    :param changed: whether anything was (or, in a dry run, would be) done.
    :param reason: for people.
    :param stopped: ids of the jobs that were stopped.
    :param started_from: a savepoint's path, or the Kafka offsets.
    """

    name: str
    job_id: str | None
    action: str
    changed: bool
    reason: str
    stopped: tuple[str, ...] = ()
    started_from: str = ""

    def as_dict(self) -> dict[str, Any]:
        """As plain values, for XCom and ``--json``."""
        return {**self.__dict__, "stopped": list(self.stopped)}


@dataclass(frozen=True)
class Restore:
    """Where a new job begins.

    :param savepoint: savepoint or checkpoint whose state it takes over.
    :param start: where its Kafka source begins without state.
    :param drop_unclaimed: leave out state that none of the job's operators takes, instead of failing.
    """

    savepoint: str | None = None
    start: StartPoint = field(default_factory=lambda: EARLIEST)
    drop_unclaimed: bool = False

    def __str__(self) -> str:
        if self.savepoint:
            return self.savepoint
        pairs = ", ".join(f"{partition}:{offset}" for partition, offset in sorted(self.start.offsets.items()))
        return f"{self.start.mode} {pairs}".strip()


def seen_jobs(client: FlinkClient, name: str) -> list[SeenJob]:
    """Every job of a name that the cluster remembers, with its fingerprint.

    :param client: of the cluster.
    :param name: of the job.
    """
    found = []
    for job in client.jobs():
        if job.name != name:
            continue
        try:
            fingerprint = None if job.state.is_terminal else client.job_parameters(job.job_id).get(FINGERPRINT_KEY)
        except JobNotFound:  # forgotten since the list was made
            continue
        found.append(SeenJob(job, fingerprint))
    return found


def plan_job(client: FlinkClient, job: RenderedJob) -> Decision:
    """Decide what a job needs, without touching anything.

    :param client: of the cluster.
    :param job: as rendered.
    """
    return decide(job.fingerprint, seen_jobs(client, job.name))


def apply_job(
    client: FlinkClient,
    job: RenderedJob,
    restore: Callable[[str | None], Restore],
    *,
    dry_run: bool = False,
    timeout: float = 180.0,
    on_submit: Callable[[str], None] = lambda job_id: None,
) -> Applied:
    """Let exactly one job of that name run, with these statements.

    Killed at any point and called again, the result is the same: a running job is recognised by its name and
    fingerprint, and a start sent twice carries the same job id, which the cluster accepts once.

    :param client: of the cluster.
    :param job: as rendered.
    :param restore: tells where to begin; called after the old job has ended, with its savepoint if there is one.
    :param dry_run: only tell what would be done.
    :param timeout: seconds for each of stop and start.
    :param on_submit: told the id of a job just before it is submitted.
    :raises StatementFailed: Flink refuses a statement.
    :raises JobFailed: the new job failed while it started.
    :raises WaitTimeout: the old job did not end, or the new one did not run, within the time.
    """
    decision = plan_job(client, job)
    if dry_run:
        return Applied(job.name, decision.job_id, decision.action, decision.changes, decision.reason)
    savepoint: str | None = None
    for job_id in decision.stop:
        path = stop_job(client, job_id, timeout=timeout)
        savepoint = savepoint or path
    for job_id in decision.wait_for:
        client.wait_until_ended(job_id, timeout=timeout)
    if decision.action == "keep":
        return Applied(job.name, decision.job_id, "keep", decision.changes, decision.reason, decision.stop)
    begin = restore(savepoint)
    log.info("%s: %s; starting from %s", job.name, decision.reason, begin)
    job_id = start_job(client, job, begin, timeout=timeout, on_submit=on_submit)
    return Applied(job.name, job_id, decision.action, True, decision.reason, decision.stop, str(begin))


def start_job(
    client: FlinkClient,
    job: RenderedJob,
    begin: Restore,
    *,
    timeout: float = 180.0,
    on_submit: Callable[[str], None] = lambda job_id: None,
) -> str:
    """Start a job and wait until all its tasks run.

    :param client: of the cluster.
    :param job: as rendered.
    :param begin: where it begins.
    :param timeout: seconds until it runs.
    :param on_submit: told the job's id just before it is submitted.
    """
    # The count of earlier jobs makes a start after an end a new one, and a start sent twice the same one.
    earlier = sum(1 for entry in client.jobs() if entry.name == job.name)
    job_id = job_id_for(job.name, job.fingerprint, str(begin), str(earlier))
    for attempt in range(100):
        try:
            if client.job(job_id).state.is_terminal:
                job_id = job_id_for(job_id, str(attempt))
                continue
        except JobNotFound:
            pass
        break
    wait_for_slot(client, job.name)
    on_submit(job_id)
    submit(client, job, begin, job_id, timeout=timeout)
    client.wait_until_running(job_id, timeout=timeout)
    return job_id


def wait_for_slot(client: FlinkClient, name: str, *, timeout: float = 60.0) -> None:
    """Wait until a task slot is free: one of a job that was just stopped, or of a taskmanager that is coming back.

    :param client: of the cluster.
    :param name: of the job that needs it.
    :param timeout: seconds.
    :raises NoFreeSlot: there is none.
    """
    total = 0
    for _ in pauses(timeout):
        seen = client.overview()
        total = int(seen["slots-total"])
        if int(seen["slots-available"]) > 0:
            return
    raise NoFreeSlot(
        f"Flink: none of {total} task slots is free for job {name}, which needs one; raise flink_slots and run "
        "rtlake up, or stop jobs that nobody needs"
    )


def submit(client: FlinkClient, job: RenderedJob, begin: Restore, job_id: str, *, timeout: float = 180.0) -> None:
    """Send a job's statements under an id. A job that is there already under that id is the same one: no harm.

    :param client: of the cluster.
    :param job: as rendered.
    :param begin: where it begins.
    :param job_id: 32 hexadecimal digits.
    :param timeout: seconds that the gateway may plan: minutes for hundreds of columns on a busy machine.
    """
    *setup, insert = job.statements(begin.start)
    properties = job.session_properties(job_id, restore=begin.savepoint, drop_unclaimed=begin.drop_unclaimed)
    with client.session(properties) as session:
        for statement in setup:
            session.execute(statement)
        try:
            session.execute(insert, timeout=timeout)
        except (StatementFailed, ServiceUnavailable, WaitTimeout) as error:
            # An answer that was lost says nothing about the job; the cluster does
            if _DUPLICATE in str(error) or (not isinstance(error, StatementFailed) and is_known(client, job_id)):
                return
            raise


def is_known(client: FlinkClient, job_id: str) -> bool:
    """Whether the cluster knows a job."""
    try:
        client.job(job_id)
    except JobNotFound:
        return False
    return True


def stop_job(client: FlinkClient, job_id: str, *, timeout: float = 180.0, target: str | None = None) -> str | None:
    """Stop a job with a savepoint, or cancel it where none can be taken. Ended when this returns.

    :param client: of the cluster.
    :param job_id: of the job; one that has ended or is unknown is left alone.
    :param timeout: seconds for the savepoint, and again for the end.
    :param target: folder of the savepoint; by default the cluster's.
    :return: the savepoint's path, None where there is none.
    """
    trigger = job_id_for("stop", job_id)
    try:
        if client.job(job_id).state.is_terminal:
            return None
        client.stop(job_id, trigger, target=target)
        path = _savepoint_path(client, job_id, trigger, timeout)
    except NotFound:
        return None
    except (RequestRefused, WaitTimeout) as error:
        log.warning("no savepoint of %s: %s", job_id, error)
        path = None
    if path is None:
        client.cancel(job_id)
    client.wait_until_ended(job_id, timeout=timeout)
    return path


def take_savepoint(
    client: FlinkClient, job_id: str, trigger: str, *, target: str | None = None, timeout: float = 180.0
) -> str:
    """Take a savepoint of a running job, which goes on.

    :param client: of the cluster.
    :param job_id: of the job.
    :param trigger: 32 hexadecimal digits; the same request sent twice is one savepoint.
    :param target: folder; by default the cluster's.
    :param timeout: seconds.
    :return: its path.
    :raises RequestRefused: it failed; the message has the root cause.
    """
    try:
        known = client.savepoint_status(job_id, trigger)
    except NotFound:
        client.savepoint(job_id, trigger, target=target)
    else:
        if known.location:
            return known.location
    path = _savepoint_path(client, job_id, trigger, timeout)
    if path is None:
        raise JobNotFound("Flink", f"job {job_id} ended before its savepoint was complete")
    return path


def _savepoint_path(client: FlinkClient, job_id: str, trigger: str, timeout: float) -> str | None:
    for _ in pauses(timeout):
        try:
            status = client.savepoint_status(job_id, trigger)
        except JobNotFound:
            return None
        if status.error:
            raise RequestRefused("Flink", f"savepoint of job {job_id} failed: {status.error}", body=status.trace)
        if status.completed:
            return status.location
    raise WaitTimeout(f"Flink: no savepoint of job {job_id} within {timeout:g} s")


def latest_restore(client: FlinkClient, name: str) -> str | None:
    """The newest savepoint or retained checkpoint of an ended job of that name, None where the cluster knows none.

    :param client: of the cluster.
    :param name: of the job.
    """
    for job in client.jobs():
        if job.name == name and job.state.is_terminal:
            path = client.checkpoints(job.job_id).restorable
            if path:
                return path
    return None


def dispose(client: FlinkClient, path: str | None) -> None:
    """Remove a savepoint that nobody needs any more; a failure costs only its space.

    :param client: of the cluster.
    :param path: of the savepoint.
    """
    if not path:
        return
    try:
        client.dispose_savepoint(path)
    except ServiceError as error:
        log.warning("savepoint %s stays: %s", path, error)
