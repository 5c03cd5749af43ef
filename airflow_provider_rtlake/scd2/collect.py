"""Reads bronze until something may be published, and decides what."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from airflow_provider_rtlake.exceptions import TerminalError
from airflow_provider_rtlake.scd2.arrival import PIECE, Arrival
from airflow_provider_rtlake.scd2.bronze import Range, ranges, read_notifications, read_range, read_transactions
from airflow_provider_rtlake.scd2.change import ChangeReader, Shape, Unread
from airflow_provider_rtlake.scd2.checkpoint import Checkpoint
from airflow_provider_rtlake.scd2.columns import read_rows
from airflow_provider_rtlake.scd2.cut import (
    Decision,
    Patience,
    Situation,
    TransactionEnd,
    decide,
    read_ends,
    shown_until,
)
from airflow_provider_rtlake.scd2.fold import Mark
from airflow_provider_rtlake.scd2.lake import Table, Traffic
from airflow_provider_rtlake.scd2.request import MergeRequest
from airflow_provider_rtlake.scd2.rows import Array, R, groups, late
from airflow_provider_rtlake.scd2.snapshots import SnapshotEnd, read_snapshot_ends
from airflow_provider_rtlake.scd2.steps import Steps
from airflow_provider_rtlake.scd2.suppress import Suppression


class EpochChanged(TerminalError):
    """The source's log is another one, and no new snapshot has come: history and source cannot be joined."""


class KeyChanged(TerminalError):
    """Rows are identified by other columns than before: what stands under the old keys would stay current for ever."""


@dataclass
class Told:
    """What the connector told.

    :param ends: of transactions; None where it tells none.
    :param transactions: snapshot up to which markers were read.
    :param streaming_at: arrival of the newest marker, microseconds.
    :param appended: when markers were appended last, microseconds; None where nothing tells.
    :param snapshot_ends: of snapshots; None where it tells none.
    :param notifications: snapshot up to which notifications were read.
    """

    ends: list[TransactionEnd] | None = None
    transactions: int | None = None
    streaming_at: int = 0
    appended: int | None = None
    snapshot_ends: list[SnapshotEnd] | None = None
    notifications: int | None = None


@dataclass
class Ready:
    """Rows of bronze, and which of them this merge takes.

    :param ready: rows that may be published.
    :param late: rows behind the history's position.
    :param left: ranges of bronze that were not read.
    :param seen: bronze was read up to this snapshot.
    :param resume: snapshot of bronze before the first row that waits.
    """

    arrival: Arrival
    ready: Array
    late: Array
    decision: Decision
    told: Told
    left: int = 0
    seen: int | None = None
    resume: int | None = None
    unread: list[Unread] = field(default_factory=list)

    @property
    def marks(self) -> list[Mark]:
        """Ends of complete snapshots."""
        return self.decision.marks

    @property
    def waiting(self) -> int:
        """Rows that wait."""
        return int((~self.ready).sum())

    @property
    def nothing(self) -> bool:
        """Whether there is nothing to publish."""
        return not (self.ready.any() or self.marks or self.unread)

    def newest_epoch(self) -> str | None:
        """Header of the newest change's epoch."""
        rows = np.flatnonzero(self.ready)
        if not len(rows):
            return None
        newest = np.zeros(len(self.ready), bool)
        newest[self.arrival.rows.outermost(rows, newest=True)] = True
        return self.arrival.epochs(newest).pop()

    def shapes(self, reader: ChangeReader) -> list[Shape]:
        """Distinct shapes in the order of their first change."""
        return list({id(shape): shape for shape in map(reader.shape, self.arrival.schemas(self.ready))}.values())


class Collector:
    """Reads what came for one merge.

    :param request: which table.
    :param reader: of its rows.
    :param suppression: keys of which nothing may return.
    :param steps: measures.
    :param traffic: counts what is read.
    """

    def __init__(
        self, request: MergeRequest, reader: ChangeReader, suppression: Suppression, steps: Steps, traffic: Traffic
    ) -> None:
        self._request, self._reader, self._suppression = request, reader, suppression
        self._steps, self._traffic = steps, traffic

    def collect(
        self,
        bronze: Table,
        told_by: tuple[Table | None, Table | None],
        checkpoint: Checkpoint,
        parts: Sequence[Range],
        arrival: Arrival,
    ) -> Ready:
        """Read ranges of bronze until something may be published.

        :param told_by: tables of transactions and of notifications, None where the connector tells none.
        :param parts: ranges that are new.
        :param arrival: gets the rows.
        """
        with self._steps.timed("transactions"):
            told = self._told(*told_by, checkpoint)
        starts: list[int | None] = []
        unread: list[Unread] = []
        if checkpoint.bronze_seen is not None and checkpoint.bronze_snapshot != checkpoint.bronze_seen:
            start = checkpoint.bronze_snapshot
            if start is not None and not bronze.has_ancestor(start):
                start = None
            # What is unreadable there was told of when it was read first, and what was published of it is left out.
            self._read(bronze, Range(start, checkpoint.bronze_seen, 0), 0, arrival, checkpoint)
            starts.append(start)
        taken, seen, looked = 0, checkpoint.bronze_seen, 0
        while True:
            if taken < len(parts):
                unread += self._read(bronze, parts[taken], len(starts), arrival)
                starts.append(parts[taken].start)
                seen = parts[taken].end
                taken += 1
            # A snapshot of many ranges is not looked at after each of them.
            if taken < len(parts) and looked and len(arrival) < 2 * looked:
                continue
            looked = len(arrival)
            # What was not read yet may be the rest of what waits: no time has passed since.
            appended = _now() if taken < len(parts) else bronze.appended_at()
            made = self._cut(arrival, checkpoint, told, appended)
            made.left, made.seen, made.unread = len(parts) - taken, seen, unread
            if made.ready.any() or made.marks or taken >= len(parts):
                waiting = arrival.rows.part[~made.ready]
                made.resume = starts[int(waiting.min())] if len(waiting) else seen
                return made

    def _read(
        self, bronze: Table, part: Range, number: int, arrival: Arrival, published: Checkpoint | None = None
    ) -> list[Unread]:
        """Read a range.

        :param published: what was published of it is left out.
        """
        unread: list[Unread] = []
        pieces = read_range(bronze, part, self._traffic, PIECE)
        while True:
            with self._steps.timed("read bronze"):
                rows = next(pieces, None)
                if rows is None:
                    return unread
                rows = self._suppression.keep(rows)
            with self._steps.timed("parse"):
                batch, found = read_rows(rows, self._reader, number)
                unread += found
                if published is not None:
                    batch = batch.only(~late(batch, published.position))
                arrival.add(batch)

    def _cut(self, arrival: Arrival, checkpoint: Checkpoint, told: Told, appended: int | None) -> Ready:
        """Decide what of the rows may be published.

        :param appended: when the newest of them came to bronze, microseconds; None where nothing tells.
        """
        request = self._request
        with self._steps.timed("cut"):
            rows, now = arrival.rows, _now()
            newest = int(rows.arrived.max(initial=0))
            is_late = late(rows, checkpoint.position)
            summed, number = groups(rows, ~is_late)
            patience = Patience(
                now=min(shown_until(newest, appended, now), shown_until(told.streaming_at, told.appended, now)),
                limit=int(request.patience_seconds * 1e6),
                snapshot_limit=int(request.snapshot_patience_seconds * 1e6),
            )
            situation = Situation(
                patience=patience,
                ends=told.ends,
                reached=checkpoint.position,
                end_lsn=checkpoint.end_lsn,
                streaming_at=told.streaming_at,
                snapshot_ends=told.snapshot_ends,
                snapshot_order=checkpoint.snapshot_order,
            )
            made = decide(summed, situation)
            ready = is_late.copy()
            fresh = number >= 0
            ready[fresh] = np.array([one in made.ready for one in summed], bool)[number[fresh]]
        return Ready(arrival, ready, is_late, made, told)

    def _told(self, markers: Table | None, notices: Table | None, checkpoint: Checkpoint) -> Told:
        """What the connector told of transactions and snapshots, and is not used up."""
        request, told = self._request, Told(streaming_at=checkpoint.streaming_at)
        if markers is not None:
            told.ends = list(checkpoint.ends)
            told.transactions, told.appended = markers.snapshot_id, markers.appended_at()
            for part in ranges(markers, checkpoint.transactions_snapshot, 10**12):
                rows, arrived = read_transactions(markers, part, request.collection, self._traffic)
                told.ends += read_ends(rows, request.collection)
                told.streaming_at = max(told.streaming_at, arrived)
        if notices is not None:
            told.snapshot_ends = list(checkpoint.snapshot_ends)
            told.notifications = notices.snapshot_id
            for part in ranges(notices, checkpoint.notifications_snapshot, 10**12):
                found = read_notifications(notices, part, self._traffic)
                told.snapshot_ends += read_snapshot_ends(found, request.collection)
        return told


def _now() -> int:
    return int(time.time() * 1e6)


def check_epoch(checkpoint: Checkpoint, made: Ready, table: str) -> None:
    """A new life of the slot begins with a snapshot; without one, nobody knows what was lost between.

    :raises EpochChanged: one began without.
    """
    if checkpoint.position is None:
        return
    known, rows = checkpoint.position.epoch, made.arrival.rows
    newer = set(np.unique(rows.epoch[made.ready & (rows.epoch > known)]).tolist())
    snapshots = {mark.position.epoch for mark in made.marks}
    lost = newer - snapshots - set(np.unique(rows.epoch[made.ready & (rows.op == R)]).tolist())
    if lost:
        raise EpochChanged(
            f"{table}: the replication slot was lost (epoch {known} → {min(lost)}) and no snapshot of it came with "
            "the new one: take a new snapshot (rtlake connectors apply); nothing was written"
        )
    other = made.arrival.epochs(made.ready & (rows.epoch == known)) - {checkpoint.epoch, None}
    if checkpoint.epoch and other:
        raise EpochChanged(
            f"{table}: changes of another database or timeline ({min(map(str, other))}) follow those of "
            f"{checkpoint.epoch}: take a new snapshot (rtlake connectors apply); nothing was written"
        )


def check_key(checkpoint: Checkpoint, made: Ready, table: str) -> tuple[str, ...] | None:
    """Keys of other columns than before are other keys: only the snapshot of a new epoch closes the versions under the
    old ones, which are absent from it.

    :return: names of the key's columns from now on; None where nothing tells them yet.
    :raises KeyChanged: they are others, and no snapshot of a new epoch has come since.
    """
    positions = made.arrival.key_columns(made.ready & ~made.late)
    if not positions:
        return checkpoint.key
    newest = max(positions, key=lambda names: positions[names])
    if checkpoint.key is not None and checkpoint.position is not None:
        positions.setdefault(checkpoint.key, checkpoint.position)
    closed = max((mark.since for mark in made.marks if mark.since is not None), default=None)
    stale = [names for names, last in positions.items() if names != newest and (closed is None or closed <= last)]
    if stale:
        raise KeyChanged(
            f"{table}: the key was {', '.join(stale[0])} and is {', '.join(newest)} now: versions under the old keys "
            "would stay current; nothing was written. If a key column was renamed only, declare it under history: "
            "renamed_from. Else take a new snapshot, which closes them: declare another slot: for the connector, and "
            "rtlake connectors apply"
        )
    return newest
