"""Where rows of bronze stand, as numbers: what deciding about them needs, small enough for millions of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from airflow_provider_rtlake.scd2.cut import Group
from airflow_provider_rtlake.scd2.position import STREAM, Position
from airflow_provider_rtlake.scd2.snapshots import Transaction

Array = np.ndarray[Any, Any]
R, T, D, U, C = range(5)  # indices into OPS
NOWHERE = -1
_DTYPES = {
    "epoch": np.int32,
    "phase": np.int8,
    "commit": np.int64,
    "lsn": np.int64,
    "tx": np.int64,
    "op": np.int8,
    "ts": np.int64,
    "arrived": np.int64,
    "ended": np.bool_,
    "moves": np.bool_,
    "hashed": np.int64,
    "part": np.int32,
    "plain": np.bool_,
}
NUMBERS = tuple(_DTYPES)


@dataclass(kw_only=True)
class Rows:
    """Numbers of rows of bronze, about 70 bytes a row.

    :param plain: whether the row can be read as columns.
    :param tx: the source's transaction number, -1 for none.
    :param op: index into :data:`.position.OPS`.
    :param ts: commit time, microseconds UTC.
    :param arrived: time in Kafka, microseconds UTC.
    :param ended: marked as a snapshot's last row.
    :param moves: half of a changed primary key.
    :param hashed: hash of the key, 0 for a truncate.
    :param part: number of the range of bronze it came with.
    """

    plain: Array
    epoch: Array
    phase: Array
    commit: Array
    lsn: Array
    tx: Array
    op: Array
    ts: Array
    arrived: Array
    ended: Array
    moves: Array
    hashed: Array
    part: Array

    def __post_init__(self) -> None:
        for name, kind in _DTYPES.items():
            setattr(self, name, np.asarray(getattr(self, name), kind))

    def __len__(self) -> int:
        return len(self.op)

    def numbers(self, rows: Array | None = None) -> dict[str, Array]:
        """The numbers by name.

        :param rows: of which rows; of all by default.
        """
        return {name: getattr(self, name) if rows is None else getattr(self, name)[rows] for name in NUMBERS}

    def position(self, index: int) -> Position:
        """Of a row."""
        return Position(int(self.epoch[index]), int(self.phase[index]), int(self.commit[index]), int(self.lsn[index]))

    def outermost(self, rows: Array, *, newest: bool) -> int:
        """Which of some rows stands last, or first.

        :param rows: at least one.
        """
        pick = np.max if newest else np.min
        for numbers in (self.epoch, self.phase, self.commit, self.lsn):
            found = numbers[rows]
            rows = rows[found == pick(found)]
        return int(rows[0])


def joined(parts: Sequence[Rows]) -> Rows:
    """Rows one after another."""
    if len(parts) == 1:
        return parts[0]
    whole = {
        name: np.concatenate([np.empty(0, kind), *(getattr(part, name) for part in parts)])
        for name, kind in _DTYPES.items()
    }
    return Rows(**whole)


def transactions(rows: Rows) -> Array:
    """The fourth member of each row's :attr:`.change.Change.transaction`."""
    return np.where(rows.phase == 1, np.maximum(rows.tx, 0), rows.lsn)


def paired(rows: Rows, which: Array) -> Array:
    """Deletes and inserts at one log position: a changed key, whether its headers say so or not.

    :param which: among these rows.
    """
    deletes, inserts = which & (rows.op == D), which & (rows.op == C)
    shared = np.intersect1d(rows.lsn[deletes], rows.lsn[inserts])
    return np.asarray((deletes | inserts) & np.isin(rows.lsn, shared))


def late(rows: Rows, reached: Position | None) -> Array:
    """Rows that stand at or before a position."""
    result = np.zeros(len(rows), bool)
    if reached is None:
        return result
    undecided = np.ones(len(rows), bool)
    for numbers, limit in zip((rows.epoch, rows.phase, rows.commit, rows.lsn), reached, strict=True):
        # The end of a snapshot stands behind every position that fits into 64 bits.
        limit = min(limit, 2**63 - 1)
        result |= undecided & (numbers < limit)
        undecided &= numbers == limit
    both: Array = result | undecided
    return both


def continuing(rows: Rows, reached: Position | None) -> Array:
    """Rows of the transaction that a position stands in: its outcome counts, so their keys cannot be folded on."""
    if reached is None or reached.phase != STREAM:
        return np.zeros(len(rows), bool)
    return np.asarray((rows.epoch == reached.epoch) & (rows.phase == STREAM) & (rows.commit == reached.commit))


def groups(rows: Rows, which: Array) -> tuple[dict[Transaction, Group], Array]:
    """Sum up rows by transaction, for the cut.

    Keys are told apart by their hashes: of a million rows, two keys share one of 64 bits once in 40 million tables,
    and only within one log position it would count one row less, so that the transaction waits for its patience.

    :param which: rows that are not published yet.
    :return: the groups, in order, and the number of each row's group, -1 for other rows.
    """
    number = np.full(len(rows), NOWHERE)
    index = np.flatnonzero(which)
    if not len(index):
        return {}, number
    parts = [rows.epoch[index], rows.phase[index], rows.commit[index], transactions(rows)[index]]
    own = np.where(rows.lsn[index] != 0, rows.lsn[index], rows.commit[index])
    order = np.lexsort((rows.op[index], own, rows.hashed[index], *parts[::-1]))
    sorted_parts = [part[order] for part in parts]
    starts = np.flatnonzero(changes(sorted_parts))
    fresh = changes([*sorted_parts, rows.hashed[index][order], own[order], rows.op[index][order]])
    placed = index[order]
    number[placed] = np.repeat(np.arange(len(starts)), np.diff([*starts, len(placed)]))
    counts = np.add.reduceat(fresh.astype(np.int64), starts)
    arrived = np.maximum.reduceat(rows.arrived[placed], starts)
    latest = np.maximum.reduceat(rows.ts[placed], starts)
    ended = np.logical_or.reduceat(rows.ended[placed], starts)
    highest = np.maximum.reduceat(rows.lsn[placed], starts)
    # The first row as it arrived tells whether they are rows of a snapshot.
    first = np.minimum.reduceat(placed, starts)
    found = {}
    for place, start in enumerate(starts):
        epoch, phase, commit, tx = (int(part[start]) for part in sorted_parts)
        row = int(first[place])
        found[epoch, phase, commit, tx] = Group(
            first=rows.position(row),
            last=Position(epoch, phase, commit, int(highest[place])),
            count=int(counts[place]),
            arrived=int(arrived[place]),
            ts=int(latest[place]),
            snapshot=bool(rows.op[row] == R),
            ended=bool(ended[place]),
        )
    return found, number


def changes(columns: Sequence[Array]) -> Array:
    """Where a row differs from the one before it; true for the first."""
    result = np.zeros(len(columns[0]), bool)
    if len(result):
        result[0] = True
    for column in columns:
        result[1:] |= column[1:] != column[:-1]
    return result


def runs(columns: Sequence[Array]) -> list[tuple[int, int]]:
    """Begin and end of each stretch of equal rows."""
    if not len(columns[0]):
        return []
    starts = np.flatnonzero(changes(columns)).tolist()
    return list(zip(starts, [*starts[1:], len(columns[0])], strict=True))
