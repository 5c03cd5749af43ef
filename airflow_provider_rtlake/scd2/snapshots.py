"""When a snapshot of a table is whole: Debezium tells how many rows it read, and bronze has as many."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from airflow_provider_rtlake.scd2.fold import Mark
from airflow_provider_rtlake.scd2.position import SNAPSHOT, Position, epoch_number

Transaction = tuple[int, int, int, int]


class SnapshotPatience(Protocol):
    """How long to wait, as of :class:`.cut.Patience`."""

    def spent(self, kafka_ts: int) -> bool:
        """Whether a snapshot of which rows are missing has waited long enough."""

    def spent_on_snapshot(self, kafka_ts: int) -> bool:
        """The same, where something else says that it has ended."""


@dataclass(frozen=True, slots=True)
class SnapshotEnd:
    """Debezium's notification that it has read a table to its end.

    :param order: offset in the topic of notifications.
    :param epoch: life of the replication slot.
    :param rows: that the table had.
    :param kafka_ts: microseconds UTC.
    """

    order: int
    epoch: int
    rows: int
    kafka_ts: int

    def as_json(self) -> list[int]:
        """For the checkpoint."""
        return [self.order, self.epoch, self.rows, self.kafka_ts]


def read_snapshot_ends(rows: Iterable[Mapping[str, object]], collection: str) -> list[SnapshotEnd]:
    """Read rows of the table of notifications; those that do not concern the table are left out.

    :param rows: with ``topic_offset``, ``type``, ``status``, ``data_collection``, ``epoch``, ``row_count``,
        ``kafka_ts`` (microseconds).
    :param collection: ``schema.table``.
    """
    return [
        SnapshotEnd(
            int(str(row["topic_offset"])),
            epoch_number(str(row["epoch"] or "")),
            int(str(row["row_count"] or 0)),
            int(str(row["kafka_ts"])),
        )
        for row in rows
        if row["type"] == "TABLE_SCAN_COMPLETED"
        and row["status"] in ("SUCCEEDED", "EMPTY")
        and row["data_collection"] == collection
    ]


class SnapshotGroup(Protocol):
    """Rows of one snapshot of the table that have come: as of :class:`.cut.Group`."""

    first: Position
    count: int
    arrived: int
    ts: int
    ended: bool


@dataclass
class SnapshotVerdict:
    """What may be published of the snapshots.

    :param complete: whether each group may be published.
    :param marks: ends of complete snapshots.
    :param order: notifications up to this offset are used up.
    :param left: notifications that are not.
    :param unfinished: snapshots that are published without having come to an end: they close nothing.
    :param told: which notification belongs to which group.
    :param empty: notifications of tables without a row.
    :param broken: groups that go without having come to an end.
    """

    complete: dict[Transaction, bool] = field(default_factory=dict)
    marks: list[Mark] = field(default_factory=list)
    order: int = -1
    left: list[SnapshotEnd] = field(default_factory=list)
    unfinished: int = 0
    told: dict[Transaction, SnapshotEnd] = field(default_factory=dict)
    empty: list[SnapshotEnd] = field(default_factory=list)
    broken: list[Transaction] = field(default_factory=list)

    def settle(self, ready: Collection[Transaction], marks: Iterable[Mark]) -> None:
        """Use up the notifications of what is published.

        :param ready: transactions that are.
        :param marks: that are.
        """
        marked = {mark.position.epoch for mark in marks}
        waiting = {mark.position.epoch for mark in self.marks} - marked
        used = {end.order for transaction, end in self.told.items() if transaction in ready}
        used |= {end.order for end in self.empty if end.epoch not in waiting}
        self.order = max([self.order, *used])
        self.left = [end for end in self.left if end.order not in used and end.order > self.order]
        self.unfinished = sum(transaction in ready for transaction in self.broken)


def judge_snapshots(
    groups: Mapping[Transaction, SnapshotGroup],
    ends: Sequence[SnapshotEnd] | None,
    *,
    reached: Position | None,
    order: int,
    newest_change: Position | None,
    streaming_at: int,
    markers: bool,
    patience: SnapshotPatience,
) -> SnapshotVerdict:
    """Decide which snapshots are whole.

    A snapshot is whole when as many of its keys have come as the connector has told. Where that is not told, a sign has
    to do: its last row, or a change or transaction after it; and some patience, for bronze may lag behind the sign.

    :param groups: by transaction; those of one epoch's first snapshot are attempts, of which the last one counts.
    :param ends: what was told; None where the connector tells nothing.
    :param reached: position that the history stands at.
    :param order: ends up to this offset were used up before.
    :param newest_change: position of the newest streamed change that has come.
    :param streaming_at: arrival of the connector's newest transaction marker, microseconds.
    :param markers: whether transaction markers are known at all.
    :param patience: how long to wait.
    """
    result = SnapshotVerdict(order=order)
    open_ends = sorted((end for end in ends or () if end.order > order), key=lambda end: end.order)
    told = _assign(groups, open_ends)
    latest = {transaction[0]: transaction for transaction in sorted(groups) if transaction[1] == SNAPSHOT}
    for transaction in sorted(groups, reverse=True):
        decisive = latest[transaction[0]] if transaction[1] == SNAPSHOT else transaction
        if decisive != transaction:
            result.complete[transaction] = result.complete[decisive]
            continue
        group, end = groups[transaction], told.get(transaction)
        short = any(one.epoch == transaction[0] and one.rows > group.count for one in open_ends)
        sign = group.ended or streaming_at > group.arrived or (newest_change or group.first) > group.first
        settled = sign and not short and (not markers or patience.spent_on_snapshot(group.arrived))
        ended = end is not None or settled
        result.complete[transaction] = ended or patience.spent(group.arrived)
        if result.complete[transaction] and not ended:
            result.broken.append(transaction)
        if ended and transaction[1] == SNAPSHOT:
            _mark(result, group.first, group.ts, reached)
    for end in open_ends:
        if end.rows == 0 and end.epoch not in latest:
            result.empty.append(end)
            if reached is not None and end.epoch > reached.epoch:
                _mark(result, Position(end.epoch, SNAPSHOT, 0, 0), end.kafka_ts, reached)
    result.told, result.left = told, open_ends
    return result


def _assign(groups: Mapping[Transaction, SnapshotGroup], ends: Sequence[SnapshotEnd]) -> dict[Transaction, SnapshotEnd]:
    """Which end belongs to which group: both are in order, and a group that was broken off has none."""
    free = [end for end in ends if end.rows > 0]
    found: dict[Transaction, SnapshotEnd] = {}
    for transaction in sorted(groups):
        fits = (end for end in free if end.epoch == transaction[0] and end.rows <= groups[transaction].count)
        end = next(fits, None)
        if end is not None:
            found[transaction] = end
            free.remove(end)
    return found


def _mark(result: SnapshotVerdict, since: Position, ts: int, reached: Position | None) -> None:
    # In the transaction of the snapshot's rows, behind them: a later attempt of the same epoch comes after it.
    if reached is None or since > reached:
        result.marks.append(Mark("snapshot", since, None, ts, since=since))
