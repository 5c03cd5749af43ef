"""What may be published: whole transactions only, as a prefix of the commit order, and complete snapshots."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_rtlake.scd2.change import Change
from airflow_provider_rtlake.scd2.fold import Mark
from airflow_provider_rtlake.scd2.position import SNAPSHOT, Position
from airflow_provider_rtlake.scd2.snapshots import (
    SnapshotEnd,
    SnapshotVerdict,
    Transaction,
    judge_snapshots,
)

_SNAPSHOT_ENDS = frozenset({"last", "last_in_data_collection"})


@dataclass(frozen=True, slots=True)
class TransactionEnd:
    """Debezium's END message of a transaction, as far as one table is concerned.

    :param order: offset in the transaction topic: the commit order.
    :param tx: the source's transaction number.
    :param lsn: log position in the message's id; 0 where it has none.
    :param count: changes of the table in it.
    :param kafka_ts: microseconds UTC.
    """

    order: int
    tx: int
    lsn: int
    count: int
    kafka_ts: int

    @classmethod
    def read(
        cls, order: int, tx_id: str, data_collections: str | None, kafka_ts: int, collection: str
    ) -> TransactionEnd | None:
        """Read a row of the transactions table; None where the transaction did not touch the table.

        :param tx_id: ``<transaction>:<log position>``.
        :param data_collections: JSON list of ``{"data_collection", "event_count"}``.
        :param collection: ``schema.table``.
        """
        count = sum(
            int(member["event_count"])
            for member in json.loads(data_collections or "[]")
            if member["data_collection"] == collection
        )
        if not count:
            return None
        tx, _, lsn = tx_id.partition(":")
        return cls(order, int(tx), int(lsn or 0), count, kafka_ts)

    def as_json(self) -> list[int]:
        """For the checkpoint."""
        return [self.order, self.tx, self.lsn, self.count, self.kafka_ts]


@dataclass
class Cut:
    """What a merge applies, and what waits for the next one.

    :param ready: changes to apply.
    :param pending: changes that wait.
    :param marks: ends of complete snapshots.
    :param ends: transaction ends that are still needed.
    :param reached: position of the last change that is published with this cut or was before.
    :param end_lsn: log position of the last transaction end that was used up.
    :param forced: transactions published after all patience was spent, although not all of them had come.
    :param snapshots: which notifications of snapshots are used up, and which are still needed.
    """

    ready: list[Change] = field(default_factory=list)
    pending: list[Change] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    ends: list[TransactionEnd] = field(default_factory=list)
    reached: Position | None = None
    end_lsn: int = 0
    forced: int = 0
    snapshots: SnapshotVerdict = field(default_factory=SnapshotVerdict)


@dataclass(frozen=True)
class Patience:
    """How long an incomplete transaction or snapshot holds back what follows it.

    :param now: up to which arrival in Kafka bronze shows everything (:func:`shown_until`), microseconds UTC: while
        bronze is behind, nobody can tell whether the rest has come.
    :param limit: microseconds since its newest message arrived in Kafka.
    :param snapshot_limit: the same for a snapshot whose end nothing tells.
    """

    now: int
    limit: int
    snapshot_limit: int

    def spent(self, kafka_ts: int) -> bool:
        """Whether a transaction has waited long enough."""
        return self.now - kafka_ts > self.limit

    def spent_on_snapshot(self, kafka_ts: int) -> bool:
        """Whether a snapshot has waited long enough."""
        return self.now - kafka_ts > self.snapshot_limit


def shown_until(newest: int, appended: int | None, now: int) -> int:
    """Up to which arrival in Kafka a table of bronze shows everything, as far as can be told.

    Its newest row tells, and the time that has passed since its lane brought it: a lane that has caught up and then
    brings nothing has nothing to bring.

    :param newest: arrival in Kafka of the newest row, microseconds UTC; 0 for no row.
    :param appended: when rows were appended last, microseconds UTC; None where nothing tells.
    :param now: microseconds UTC.
    """
    if not newest or appended is None:
        return now
    return min(now, newest + max(0, now - appended))


@dataclass(slots=True)
class Group:
    """What the cut needs to know of the changes of one transaction, or of the rows of one snapshot.

    :param first: position of one of them; those of a snapshot are all equal.
    :param last: the greatest position.
    :param count: different changes; of a snapshot: different keys.
    :param arrived: when the newest of them arrived in Kafka, microseconds UTC.
    :param ts: the latest time at the source, microseconds UTC.
    :param snapshot: they are rows of a snapshot.
    :param ended: one of them is marked as the snapshot's last.
    """

    first: Position
    last: Position
    count: int
    arrived: int
    ts: int
    snapshot: bool
    ended: bool

    @classmethod
    def of(cls, changes: Sequence[Change]) -> Group:
        """Sum up changes of one transaction."""
        return cls(
            first=changes[0].position,
            last=max(change.position for change in changes),
            count=len({change.identity for change in changes}),
            arrived=max(change.raw.kafka_ts for change in changes),
            ts=max(change.ts for change in changes),
            snapshot=changes[0].op == "r",
            ended=any(change.snapshot in _SNAPSHOT_ENDS for change in changes),
        )


@dataclass
class Decision:
    """Which transactions may be published, and what follows from it.

    :param ready: those that may.
    :param marks: ends of complete snapshots.
    :param ends: transaction ends that are still needed.
    :param reached: position of the last change that is published now or was before.
    :param end_lsn: log position of the last transaction end that was used up.
    :param forced: transactions published although not all of them had come.
    :param snapshots: which notifications of snapshots are used up, and which are still needed.
    """

    ready: set[Transaction] = field(default_factory=set)
    marks: list[Mark] = field(default_factory=list)
    ends: list[TransactionEnd] = field(default_factory=list)
    reached: Position | None = None
    end_lsn: int = 0
    forced: int = 0
    snapshots: SnapshotVerdict = field(default_factory=SnapshotVerdict)


@dataclass(frozen=True)
class Situation:
    """What a cut is made in: where the history stands, and what the connector told.

    :param ends: transaction ends that concern the table; None where the connector tells none.
    :param reached: position of the last change published before, None at first.
    :param end_lsn: log position of the last transaction end that was used up before.
    :param streaming_at: arrival in Kafka of the connector's newest transaction marker, microseconds; 0 for none.
    :param snapshot_ends: what the connector told of snapshots of the table; None where it tells nothing.
    :param snapshot_order: offset of the last of them that was used up before.
    """

    patience: Patience
    ends: Sequence[TransactionEnd] | None = None
    reached: Position | None = None
    end_lsn: int = 0
    streaming_at: int = 0
    snapshot_ends: Sequence[SnapshotEnd] | None = None
    snapshot_order: int = -1


def cut(changes: Sequence[Change], situation: Situation) -> Cut:
    """Divide changes into those that may be published now and those that wait.

    A transaction may be published when all its changes have come, and everything before it too; a snapshot row when the
    table's snapshot has come to its end. What belongs before the position already reached is never held.

    :param changes: distinct changes of one table, in any order.
    """
    reached = situation.reached
    late: list[Change] = []
    groups: dict[Transaction, list[Change]] = {}
    for change in changes:
        if reached is not None and change.position <= reached:
            late.append(change)
        else:
            groups.setdefault(change.transaction, []).append(change)
    made = decide({transaction: Group.of(group) for transaction, group in groups.items()}, situation)
    result = Cut(late, [], made.marks, made.ends, made.reached, made.end_lsn, made.forced, made.snapshots)
    for transaction in sorted(groups):
        (result.ready if transaction in made.ready else result.pending).extend(groups[transaction])
    return result


def decide(groups: Mapping[Transaction, Group], situation: Situation) -> Decision:
    """The rule of :func:`cut`, over whole transactions: those behind the position already reached.

    :param groups: transactions that are not published yet.
    """
    reached, patience, ends = situation.reached, situation.patience, situation.ends
    result = Decision(reached=reached, end_lsn=situation.end_lsn)
    known = _first_ends(ends, _used_up_to(groups.values(), reached, situation.end_lsn))
    complete = _complete(groups, known, patience, result) if ends is not None else dict.fromkeys(groups, True)
    result.snapshots = judge_snapshots(
        {transaction: group for transaction, group in groups.items() if group.snapshot},
        situation.snapshot_ends,
        reached=reached,
        order=situation.snapshot_order,
        newest_change=max((group.last for group in groups.values() if not group.snapshot), default=None),
        streaming_at=situation.streaming_at,
        markers=ends is not None,
        patience=patience,
    )
    complete.update(result.snapshots.complete)
    result.marks = list(result.snapshots.marks)
    _give_up_torn(groups, complete, known, patience, result)
    blocked = False
    first_pending: Position | None = None
    for transaction in sorted(groups):
        blocked = blocked or not complete[transaction]
        if blocked:
            first = groups[transaction].first
            first_pending = first if first_pending is None else min(first, first_pending)
        else:
            result.ready.add(transaction)
    _advance(result, groups, known, first_pending, patience)
    result.snapshots.settle(result.ready, result.marks)
    return result


def _used_up_to(groups: Iterable[Group], reached: Position | None, end_lsn: int) -> int:
    """Transaction ends up to this log position are of published transactions: a redelivered one is known by it.

    Log positions of two epochs cannot be compared: a new one may be another server's.
    """
    if reached is None or any(group.first.epoch != reached.epoch for group in groups):
        return 0
    return max(end_lsn, reached.commit) if reached.phase != SNAPSHOT else end_lsn


def _first_ends(ends: Iterable[TransactionEnd] | None, end_lsn: int) -> dict[int, TransactionEnd]:
    first: dict[int, TransactionEnd] = {}
    for end in sorted(ends or (), key=lambda end: end.order):
        if end.lsn == 0 or end.lsn > end_lsn:
            first.setdefault(end.tx, end)
    return first


def _complete(
    groups: Mapping[Transaction, Group],
    ends: Mapping[int, TransactionEnd],
    patience: Patience,
    result: Decision,
) -> dict[Transaction, bool]:
    seen = {transaction[3]: group.count for transaction, group in groups.items() if not group.snapshot}
    missing = [
        end.order for end in ends.values() if seen.get(end.tx, 0) < end.count and not patience.spent(end.kafka_ts)
    ]
    barrier = min(missing, default=None)
    complete = {}
    for transaction, group in groups.items():
        end = ends.get(transaction[3])
        whole = group.snapshot or (end is not None and group.count >= end.count)
        if not whole and patience.spent(group.arrived):
            whole = True
            result.forced += 1
        behind = barrier is not None and end is not None and end.order >= barrier
        complete[transaction] = whole and not behind
    return complete


def _give_up_torn(
    groups: Mapping[Transaction, Group],
    complete: dict[Transaction, bool],
    ends: Mapping[int, TransactionEnd],
    patience: Patience,
    result: Decision,
) -> None:
    """A transaction that a lost slot tore apart never gets its END. The snapshot of the new slot makes it good, so both
    are published together, as soon as the patience for signs is spent."""
    whole = [mark.position.epoch for mark in result.marks if complete.get(mark.transaction, True)]
    newest = max(whole, default=0)
    for transaction, group in groups.items():
        torn = not complete[transaction] and not group.snapshot and transaction[3] not in ends
        if torn and transaction[0] < newest and patience.spent_on_snapshot(group.arrived):
            complete[transaction] = True
            result.forced += 1


def _advance(
    result: Decision,
    groups: Mapping[Transaction, Group],
    ends: Mapping[int, TransactionEnd],
    first_pending: Position | None,
    patience: Patience,
) -> None:
    epoch = result.reached.epoch if result.reached else None
    for transaction in result.ready:
        last = groups[transaction].last
        result.reached = last if result.reached is None else max(result.reached, last)
    result.marks = list({mark.position: mark for mark in result.marks}.values())  # one for each epoch
    result.marks = [mark for mark in result.marks if first_pending is None or mark.position < first_pending]
    for mark in result.marks:
        result.reached = mark.position if result.reached is None else max(result.reached, mark.position)
    used = {transaction[3] for transaction in result.ready}
    before = result.end_lsn if epoch is None or result.reached is None or result.reached.epoch == epoch else 0
    result.end_lsn = max([before, *(ends[tx].lsn for tx in used if tx in ends)])
    result.ends = [end for end in ends.values() if end.tx not in used and not patience.spent(end.kafka_ts)]


def read_ends(rows: Iterable[Mapping[str, Any]], collection: str) -> list[TransactionEnd]:
    """Read rows of the transactions table; those that do not concern the table are left out.

    :param rows: with ``topic_offset``, ``tx_id``, ``data_collections``, ``kafka_ts`` (microseconds).
    :param collection: ``schema.table``.
    """
    found = (
        TransactionEnd.read(row["topic_offset"], row["tx_id"], row["data_collections"], row["kafka_ts"], collection)
        for row in rows
    )
    return [end for end in found if end is not None]
