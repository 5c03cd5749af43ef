"""What may be published: whole transactions only, as a prefix of the commit order, and complete snapshots."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_rtlake.scd2.change import Change
from airflow_provider_rtlake.scd2.fold import Mark
from airflow_provider_rtlake.scd2.position import SNAPSHOT, Position

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
    """

    ready: list[Change] = field(default_factory=list)
    pending: list[Change] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    ends: list[TransactionEnd] = field(default_factory=list)
    reached: Position | None = None
    end_lsn: int = 0
    forced: int = 0


@dataclass(frozen=True)
class Patience:
    """How long an incomplete transaction or snapshot holds back what follows it.

    :param now: microseconds UTC.
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


def cut(
    changes: Sequence[Change],
    ends: Iterable[TransactionEnd] | None,
    *,
    reached: Position | None,
    end_lsn: int = 0,
    patience: Patience,
    streaming_at: int = 0,
) -> Cut:
    """Divide changes into those that may be published now and those that wait.

    A transaction may be published when all its changes have come, and everything before it too; a snapshot row when the
    table's snapshot has come to its end. What belongs before the position already reached is never held.

    :param changes: distinct changes of one table, in any order.
    :param ends: transaction ends that concern the table; None where the connector tells none.
    :param reached: position that the history stands at, None at first.
    :param end_lsn: log position of the last transaction end used up before.
    :param streaming_at: arrival in Kafka of the connector's newest transaction marker, microseconds; 0 for none.
    """
    result = Cut(reached=reached, end_lsn=end_lsn)
    fresh: list[Change] = []
    for change in changes:
        late = reached is not None and change.position <= reached
        (result.ready if late else fresh).append(change)
    groups: dict[tuple[int, int, int, int], list[Change]] = {}
    for change in fresh:
        groups.setdefault(change.transaction, []).append(change)
    known = _first_ends(ends, _used_up_to(fresh, reached, end_lsn))
    complete = _complete(groups, known, patience, result) if ends is not None else dict.fromkeys(groups, True)
    _hold_snapshots(groups, complete, reached, patience, streaming_at, result)
    blocked = False
    used = set()
    for transaction in sorted(groups):
        blocked = blocked or not complete[transaction]
        (result.pending if blocked else result.ready).extend(groups[transaction])
        if not blocked:
            used.add(transaction[3])
    _advance(result, reached.epoch if reached else None, known, used, patience)
    return result


def _used_up_to(fresh: Iterable[Change], reached: Position | None, end_lsn: int) -> int:
    """Transaction ends up to this log position are of published transactions: a redelivered one is known by it.

    Log positions of two epochs cannot be compared: a new one may be another server's.
    """
    if reached is None or any(change.position.epoch != reached.epoch for change in fresh):
        return 0
    return max(end_lsn, reached.commit) if reached.phase != SNAPSHOT else end_lsn


def _first_ends(ends: Iterable[TransactionEnd] | None, end_lsn: int) -> dict[int, TransactionEnd]:
    first: dict[int, TransactionEnd] = {}
    for end in sorted(ends or (), key=lambda end: end.order):
        if end.lsn == 0 or end.lsn > end_lsn:
            first.setdefault(end.tx, end)
    return first


def _complete(
    groups: Mapping[tuple[int, int, int, int], list[Change]],
    ends: Mapping[int, TransactionEnd],
    patience: Patience,
    result: Cut,
) -> dict[tuple[int, int, int, int], bool]:
    counts = {
        transaction: len({change.identity for change in group})
        for transaction, group in groups.items()
        if not _is_snapshot(group)
    }
    seen = {transaction[3]: count for transaction, count in counts.items()}
    missing = [
        end.order for end in ends.values() if seen.get(end.tx, 0) < end.count and not patience.spent(end.kafka_ts)
    ]
    barrier = min(missing, default=None)
    complete = {}
    for transaction, group in groups.items():
        end = ends.get(transaction[3])
        whole = _is_snapshot(group) or (end is not None and counts[transaction] >= end.count)
        if not whole and patience.spent(max(change.raw.kafka_ts for change in group)):
            whole = True
            result.forced += 1
        behind = barrier is not None and end is not None and end.order >= barrier
        complete[transaction] = whole and not behind
    return complete


def _is_snapshot(group: Sequence[Change]) -> bool:
    return group[0].op == "r"


def _hold_snapshots(
    groups: Mapping[tuple[int, int, int, int], list[Change]],
    complete: dict[tuple[int, int, int, int], bool],
    reached: Position | None,
    patience: Patience,
    streaming_at: int,
    result: Cut,
) -> None:
    """Snapshot rows wait until their snapshot has come to an end: its last row is marked, or streaming has begun."""
    newest = max((change.position for group in groups.values() for change in group if change.op != "r"), default=None)
    for transaction, group in groups.items():
        if not _is_snapshot(group):
            continue
        arrived = max(change.raw.kafka_ts for change in group)
        ended = (
            any(change.snapshot in _SNAPSHOT_ENDS for change in group)
            or (newest is not None and newest > group[0].position)
            or streaming_at > arrived
        )
        complete[transaction] = ended or patience.spent_on_snapshot(arrived)
        if ended and transaction[1] == SNAPSHOT:
            end = Position.end_of_snapshot(transaction[0])
            if reached is None or end > reached:
                latest = max(change.ts for change in group)
                result.marks.append(Mark("snapshot", end, None, latest))


def _advance(
    result: Cut, epoch: int | None, ends: Mapping[int, TransactionEnd], used: set[int], patience: Patience
) -> None:
    if result.ready:
        newest = max(change.position for change in result.ready)
        result.reached = newest if result.reached is None else max(result.reached, newest)
    result.marks = list({mark.position: mark for mark in result.marks}.values())  # one for each epoch
    first_pending = min((change.position for change in result.pending), default=None)
    result.marks = [mark for mark in result.marks if first_pending is None or mark.position < first_pending]
    for mark in result.marks:
        result.reached = mark.position if result.reached is None else max(result.reached, mark.position)
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
