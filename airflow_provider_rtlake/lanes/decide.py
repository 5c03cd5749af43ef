"""What has to be done so that exactly one job of a name runs, with the right statements. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from airflow_provider_rtlake.clients.flink import Job

Action = Literal["keep", "start", "replace"]


@dataclass(frozen=True)
class SeenJob:
    """A job of the wanted name on the cluster.

    :param job: as the cluster lists it.
    :param fingerprint: of what it runs; None where it was not started by this package.
    """

    job: Job
    fingerprint: str | None


@dataclass(frozen=True)
class Decision:
    """What to do.

    :param action: ``keep``, ``start`` (none runs) or ``replace`` (stop, then start).
    :param job_id: the job that stays, with ``keep``.
    :param stop: jobs to stop first, the newest start first.
    :param wait_for: jobs that are ending by themselves and must have ended before a start.
    :param reason: for people.
    """

    action: Action
    job_id: str | None = None
    stop: tuple[str, ...] = ()
    wait_for: tuple[str, ...] = ()
    reason: str = ""

    @property
    def changes(self) -> bool:
        """Whether anything is to be done."""
        return self.action != "keep" or bool(self.stop)


def decide(fingerprint: str, seen: Sequence[SeenJob]) -> Decision:
    """Compare what runs with what should.

    A job that is restarting after a fault is running: Flink brings it back by itself.

    :param fingerprint: of the wanted job.
    :param seen: every job of that name that the cluster remembers.
    """
    by_age = sorted(seen, key=lambda entry: entry.job.start_ms, reverse=True)
    alive = [entry for entry in by_age if not entry.job.state.is_ending]
    ending = tuple(
        entry.job.job_id for entry in by_age if entry.job.state.is_ending and not entry.job.state.is_terminal
    )
    same = [entry for entry in alive if entry.fingerprint == fingerprint]
    if same:
        kept = same[0].job
        others = tuple(entry.job.job_id for entry in alive if entry.job.job_id != kept.job_id)
        reason = "runs as declared" + (f"; {len(others)} more of its name to stop" if others else "")
        return Decision("keep", kept.job_id, stop=others, reason=reason)
    if alive:
        return Decision(
            "replace",
            stop=tuple(entry.job.job_id for entry in alive),
            wait_for=ending,
            reason="its statements or settings changed",
        )
    ended = next((entry.job.state.value for entry in by_age if entry.job.state.is_terminal), None)
    return Decision("start", wait_for=ending, reason=f"the last one is {ended}" if ended else "it does not run")
