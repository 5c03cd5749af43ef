"""The rule: ``history(key) = fold(all changes of key, in the order of their positions)``.

Pure: no Spark, no clock, no input or output. A merge folds new changes onto the last version of each key; a
key that got
a late change is folded anew from all its changes. Both are this one function, so they cannot disagree.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_rtlake.exceptions import CheckFailed
from airflow_provider_rtlake.scd2.change import Change
from airflow_provider_rtlake.scd2.position import SNAPSHOT, Position
from airflow_provider_rtlake.scd2.values import canonical, same

_RANK = {"r": 0, "t": 1, "d": 2, "u": 3, "c": 4}
_KEYS_NAMED = 10  # in an error


class Refused(CheckFailed):
    """The changes break a rule of the history; nothing of them is published.

    :param rule: which rule.
    :param keys: keys that break it, as JSON.
    """

    def __init__(self, rule: str, keys: Iterable[str]) -> None:
        self.rule = rule
        self.keys = list(keys)
        named = ", ".join(self.keys[:_KEYS_NAMED])
        more = f" and {len(self.keys) - _KEYS_NAMED} more" if len(self.keys) > _KEYS_NAMED else ""
        super().__init__(f"{rule}: key {named}{more}")


@dataclass(frozen=True, slots=True)
class Event:
    """What opened or closed a version.

    :param position: in the order of commits.
    :param tx: the source's transaction number.
    """

    position: Position
    tx: int | None
    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened to every key at once: a truncate, or the end of a complete snapshot.

    :param kind: ``truncate`` or ``snapshot``.
    :param ts: microseconds UTC.
    :param kafka_ts: arrival of the truncate's message, microseconds.
    :param since: where the snapshot's rows stand: what was last seen before is absent from it.
    """

    kind: str
    position: Position
    tx: int | None
    ts: int
    topic: str = ""
    partition: int = -1
    offset: int = -1
    kafka_ts: int = 0
    since: Position | None = None

    @property
    def delivery(self) -> tuple[int, int, int]:
        """Order of deliveries, as of a change."""
        return self.kafka_ts, self.partition, self.offset

    @property
    def op(self) -> str:
        """Sorts like a change."""
        return "t"

    @property
    def transaction(self) -> tuple[int, int, int, int]:
        """As of :class:`Change`."""
        where = self.position
        return where.epoch, where.phase, where.commit, self.tx or 0 if where.phase else where.lsn

    @property
    def event(self) -> Event:
        """As what closes versions."""
        return Event(self.position, self.tx, self.topic, self.partition, self.offset)


@dataclass(slots=True)
class Version:
    """A stretch of time in which a key's tracked columns had one value.

    :param values: column → value; a missing column is null.
    :param start: microseconds UTC, included.
    :param end: microseconds UTC, excluded; None while open.
    :param deleted: closed by a delete.
    :param origin: ``stream`` or ``snapshot``: what opened it. The true start of the latter is not known.
    :param moved: start or end stand 1 µs after what the source's clock said.
    :param unknown: columns whose large value never arrived.
    :param last_position: of the last change that altered this version.
    :param closed_by: ``change``, ``truncate`` or ``snapshot``.
    """

    key: str
    values: dict[str, Any]
    start: int
    origin: str
    moved: bool
    opened: Event
    last_position: Position
    end: int | None = None
    deleted: bool = False
    closed: Event | None = None
    closed_by: str | None = None
    previous_key: str | None = None
    next_key: str | None = None
    unknown: frozenset[str] = frozenset()

    @property
    def is_current(self) -> bool:
        """Whether it is open."""
        return self.end is None


@dataclass
class Counters:
    """What a fold met."""

    inserts: int = 0
    updates: int = 0
    deletes: int = 0
    snapshot_rows: int = 0
    truncates: int = 0
    key_changes: int = 0
    opened: int = 0
    closed: int = 0
    overwritten: int = 0
    no_ops: int = 0
    moved: int = 0
    update_of_unknown_key: int = 0
    insert_of_open_key: int = 0
    unmatched_removals: int = 0
    unknown_values: int = 0
    closed_by_snapshot: int = 0


@dataclass(slots=True)
class _Row:
    """A row of a key inside a transaction."""

    values: dict[str, Any]
    columns: frozenset[str] | None  # None: every column of the history
    unknown: frozenset[str]
    old: bool  # it was there before the transaction
    previous_key: str | None = None


@dataclass
class _Transaction:
    keys_only: bool
    rows: dict[str, list[_Row]] = field(default_factory=dict)
    last: dict[str, Change | Mark] = field(default_factory=dict)
    removed: dict[int, tuple[str, _Row | None]] = field(default_factory=dict)  # lsn → what a delete took away
    opened: dict[str, Version] = field(default_factory=dict)
    closed: dict[str, Version] = field(default_factory=dict)


def record_hash(values: Mapping[str, Any], untracked: frozenset[str]) -> str:
    """A hash of the tracked columns: different values, types or names never give the same text. Nulls are left out,
    so a column that was added later changes nothing while it is null.

    :param values: column → value.
    :param untracked: Type 1 columns.
    """
    content = [
        [name, canonical(value)]
        for name, value in sorted(values.items())
        if value is not None and name not in untracked
    ]
    return hashlib.sha256(json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()).hexdigest()


class Fold:
    """Folds changes into versions.

    :param states: last version of each key that has one. They are copied, never altered.
    :param untracked: Type 1 columns.
    """

    def __init__(self, states: Mapping[str, Version], untracked: frozenset[str] = frozenset()) -> None:
        self.histories: dict[str, list[Version]] = {
            key: [dataclasses.replace(version)] for key, version in states.items()
        }
        self.counters = Counters()
        self._untracked = untracked
        self._seen: dict[str, Position] = {}
        self._keys_only = False

    def run(self, steps: Iterable[Change | Mark]) -> Fold:
        """Apply changes in the order of their positions.

        :param steps: in any order, each change once.
        :raises Refused: a transaction leaves more than one row of a key.
        """
        steps = list(steps)
        # Updates without a before-image tell that the replica identity is the key: then a delete's image, in which
        # every other column is null, is no image of a row of nulls.
        self._keys_only = any(step.op == "u" and isinstance(step, Change) and step.before is None for step in steps)
        ordered = sorted(steps, key=lambda step: (*step.transaction, step.position.lsn, _RANK[step.op]))
        for _, group in itertools.groupby(ordered, key=lambda step: step.transaction):
            self._transaction(list(group))
        return self

    # --- inside a transaction ---

    def _transaction(self, steps: list[Change | Mark]) -> None:
        counters = dataclasses.replace(self.counters)
        tx = self._follow(steps, self._keys_only)
        crowded = _crowded(tx)
        if crowded:
            # A delete's image of nulls may be a key alone, or a row of nulls: the one reading that works out is right.
            self.counters = counters
            tx = self._follow(steps, not self._keys_only)
            if _crowded(tx):
                raise Refused("a transaction leaves more than one row of a key", crowded)
        for key, rows in tx.rows.items():
            self._settle(key, rows, tx)
        for key, version in tx.opened.items():
            left = tx.closed.get(version.previous_key or "")
            if left is not None:
                left.next_key = key

    def _follow(self, steps: list[Change | Mark], keys_only: bool) -> _Transaction:
        """Follow the rows through a transaction."""
        tx = _Transaction(keys_only)
        for step in steps:
            if isinstance(step, Mark):
                self._mark(tx, step)
            else:
                self._change(tx, step)
        return tx

    def _rows(self, tx: _Transaction, key: str) -> list[_Row]:
        rows = tx.rows.get(key)
        if rows is None:
            history = self.histories.get(key)
            current = history[-1] if history and history[-1].is_current else None
            rows = tx.rows[key] = [_Row(current.values, None, current.unknown, True)] if current else []
        return rows

    def _mark(self, tx: _Transaction, mark: Mark) -> None:
        if mark.kind == "truncate":
            self.counters.truncates += 1
        for key, history in self.histories.items():
            if history[-1].is_current and key not in tx.rows and self._concerns(mark, key):
                self._rows(tx, key)
        for key, rows in tx.rows.items():
            if rows and self._concerns(mark, key):
                rows.clear()
                tx.last[key] = mark

    def _concerns(self, mark: Mark, key: str) -> bool:
        """A truncate concerns every key; the end of a snapshot those that were not seen in it."""
        if mark.kind == "truncate":
            return True
        since = mark.since or Position(mark.position.epoch, SNAPSHOT, 0, 0)
        history = self.histories.get(key)
        last = history[-1].last_position if history else since
        return max(self._seen.get(key, last), last) < since

    def _change(self, tx: _Transaction, change: Change) -> None:
        key = change.key
        if key is None:
            raise ValueError("a change without key must come as a mark")
        rows = self._rows(tx, key)
        tx.last[key] = change
        self._seen[key] = change.position
        op = change.op
        if op == "d":
            self.counters.deletes += 1
            removed = self._remove(tx, rows, change)
            tx.removed[change.position.lsn] = key, removed
            return
        source, previous = None, None
        if op == "u":
            self.counters.updates += 1
            source = self._remove(tx, rows, change)
            previous = source.previous_key if source is not None else None
        elif op == "c":
            self.counters.inserts += 1
            source, previous = self._moved_from(tx, change)
        else:
            self.counters.snapshot_rows += 1
            rows.clear()
        rows.append(self._new_row(change, source, previous))

    def _moved_from(self, tx: _Transaction, change: Change) -> tuple[_Row | None, str | None]:
        """A changed primary key is a delete and an insert with one log position.

        :return: the row as it was, and the key that it had before the transaction: None for one that this transaction
            made, or that came back to its key.
        """
        removed = tx.removed.pop(change.position.lsn, None)
        if removed is None or removed[0] == change.key:
            return None, None
        self.counters.key_changes += 1
        key, row = removed
        origin = key if row is None or row.old else row.previous_key
        return row, None if origin == change.key else origin

    def _remove(self, tx: _Transaction, rows: list[_Row], change: Change) -> _Row | None:
        found = _find(rows, change, tx.keys_only)
        if found is not None:
            return rows.pop(found)
        if change.op == "u":
            self.counters.update_of_unknown_key += 1
        else:
            self.counters.unmatched_removals += 1
        return None

    def _new_row(self, change: Change, source: _Row | None, previous: str | None) -> _Row:
        values = change.after if change.after is not None else {}
        unknown: frozenset[str] = frozenset()
        if change.unsent:
            inherited = source.values if source else {}
            lost = [name for name in change.unsent if source is None or name in source.unknown]
            values = {**values, **{name: inherited.get(name) for name in change.unsent}}
            unknown = frozenset(lost)
            self.counters.unknown_values += len(lost)
        return _Row(values, change.shape.names, unknown, False, previous)

    # --- what a transaction leaves ---

    def _settle(self, key: str, rows: list[_Row], tx: _Transaction) -> None:
        history = self.histories.setdefault(key, [])
        current = history[-1] if history and history[-1].is_current else None
        fresh = next((row for row in rows if not row.old), None)
        step = tx.last.get(key)
        if step is None:
            return
        if fresh is not None:
            if current is None:
                tx.opened[key] = self._open(history, key, fresh, step)
            else:
                self.counters.insert_of_open_key += any(row.old for row in rows)
                self._replace(tx, history, current, fresh, step)
        elif current is not None and not rows:
            self._delete(tx, current, step)
        if not history:
            del self.histories[key]

    def _open(self, history: list[Version], key: str, row: _Row, step: Change | Mark) -> Version:
        floor = None
        if history:
            last = history[-1]
            floor = last.start + 1 if last.end is None else last.end
        start = step.ts if floor is None or step.ts >= floor else floor
        version = Version(
            key=key,
            values=dict(row.values),
            start=start,
            origin="snapshot" if step.op == "r" else "stream",
            moved=start != step.ts,
            opened=_event(step),
            last_position=step.position,
            previous_key=row.previous_key,
            unknown=row.unknown,
        )
        self.counters.moved += version.moved
        self.counters.opened += 1
        history.append(version)
        return version

    def _replace(
        self, tx: _Transaction, history: list[Version], current: Version, row: _Row, step: Change | Mark
    ) -> None:
        columns = row.columns or frozenset(row.values)
        differing = {name for name in columns if not same(current.values.get(name), row.values.get(name))}
        if differing - self._untracked:
            opened = self._open(history, current.key, row, step)
            current.end, current.closed, current.closed_by = opened.start, opened.opened, "change"
            current.last_position = step.position
            tx.opened[current.key], tx.closed[current.key] = opened, current
            self.counters.closed += 1
            return
        known = current.unknown & columns - row.unknown
        if not differing and not known:
            self.counters.no_ops += 1
            return
        current.values = {**current.values, **{name: row.values.get(name) for name in differing}}
        current.unknown -= known
        current.last_position = step.position
        self.counters.overwritten += 1

    def _delete(self, tx: _Transaction, current: Version, step: Change | Mark) -> None:
        current.end = max(step.ts, current.start + 1)
        if current.end != step.ts:
            current.moved = True
            self.counters.moved += 1
        current.deleted = True
        current.closed = _event(step)
        current.closed_by = step.kind if isinstance(step, Mark) else "change"
        current.last_position = step.position
        tx.closed[current.key] = current
        self.counters.closed += 1
        self.counters.closed_by_snapshot += current.closed_by == "snapshot"


def _crowded(tx: _Transaction) -> list[str]:
    return [key for key, rows in tx.rows.items() if sum(not row.old for row in rows) > 1]


def _event(step: Change | Mark) -> Event:
    if isinstance(step, Mark):
        return step.event
    raw = step.raw
    return Event(step.position, step.tx, raw.topic, raw.topic_partition, raw.topic_offset)


def _find(rows: list[_Row], change: Change, keys_only: bool) -> int | None:
    """Which row a removal takes, the newest first: the one equal to its before-image; where the image may be a key
    alone, any; else one that agrees with what the image holds; else one that was there before the transaction."""
    if not rows:
        return None
    newest = len(rows) - 1
    if change.before is None or (newest == 0 and rows[0].old):
        return newest
    key_alone = change.holds_key_alone
    if key_alone and keys_only:
        return newest
    image = change.before_values()
    for exact in (True, False):
        for index in range(newest, -1, -1):
            if _agrees(rows[index], image, exact):
                return index
        if key_alone:
            return newest
    return next((index for index, row in enumerate(rows) if row.old), None)


def _agrees(row: _Row, image: Mapping[str, Any], exact: bool) -> bool:
    for name, value in image.items():
        if (
            (value is None and not exact)
            or (row.columns is not None and name not in row.columns)
            or name in row.unknown
        ):
            continue
        if not same(row.values.get(name), value):
            return False
    return True
