"""The rule of :mod:`.fold` over columns, for the plain keys of a merge: thousands of keys in the time of one.

A key is plain when its changes are whole rows, one for each transaction, in order, none late or delivered again, none
part of a changed key, none waiting on the clock. For such a key the fold is a comparison of each row with the one
before it, and that is done for all of them at once. Every other key goes through the fold itself; which keys are plain
is decided on the safe side. The two agree on every plain key: tests/unit/test_scd2_bulk.py compares them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_provider_rtlake.scd2.arrays import alike, cast, codes, flat
from airflow_provider_rtlake.scd2.columns import Batch
from airflow_provider_rtlake.scd2.fold import Counters
from airflow_provider_rtlake.scd2.position import Position
from airflow_provider_rtlake.scd2.rows import NOWHERE, Array, C, D, R, U, changes, late, paired, transactions


@dataclass
class Bulk:
    """What a merge does to its plain keys.

    :param versions: new and altered versions: the history's columns but ``record_hash`` and ``scd2_bucket``.
    :param removed: bucket → data file → rows that go.
    :param applied: rows of the batch to remember.
    :param folded: distinct keys.
    """

    versions: pa.Table | None = None
    removed: dict[int, dict[str, Array]] = field(default_factory=dict)
    applied: Array = field(default_factory=lambda: np.empty(0, np.int64))
    counters: Counters = field(default_factory=Counters)
    folded: int = 0
    removed_count: int = 0

    @property
    def added_count(self) -> int:
        """Versions written."""
        return 0 if self.versions is None else self.versions.num_rows


class Plain:
    """The plain keys among rows that are ready.

    :param batch: the rows.
    :param ready: which of them may be published.
    :param is_late: which of them stand behind the history's position already.
    """

    def __init__(self, batch: Batch, ready: Array, is_late: Array) -> None:
        self.batch = batch
        self._ready = ready
        self._code, self.keys = codes(batch.key)
        self._tx = transactions(batch)
        self._slow = np.zeros(len(self.keys), bool)
        self._give_up(ready & (~batch.plain | batch.moves | is_late | paired(batch, ready)))
        self._give_up(self._repeated())
        self._used = np.unique(self._code[ready & (self._code >= 0)])
        self._hash = np.zeros(len(self.keys), np.int64)
        known = self._code >= 0
        self._hash[self._code[known]] = batch.hashed[known]

    @property
    def hashes(self) -> Array:
        """Of all keys that are ready, plain or not: ordered and distinct."""
        ready: Array = np.unique(self._hash[self._used])
        return ready

    def give_up_all(self) -> None:
        """No key is plain."""
        self._slow[:] = True

    def give_up_before(self, since: Position) -> None:
        """Keys with rows before a position are not plain."""
        at_or_before = late(self.batch, since)
        where = self.batch
        equal = (
            (where.epoch == since.epoch)
            & (where.phase == since.phase)
            & (where.commit == since.commit)
            & (where.lsn == since.lsn)
        )
        self._give_up(self._ready & at_or_before & ~equal)

    def give_up_keys(self, keys: pa.Array) -> bool:
        """Keys that another part of the merge takes; returns whether one of them was plain."""
        found = pc.is_in(self.keys, keys).to_numpy(zero_copy_only=False)
        mine = found & ~self._slow & np.isin(np.arange(len(self.keys)), self._code[self._ready])
        self._slow |= found
        return bool(mine.any())

    @property
    def rows(self) -> Array:
        """Which rows are of plain keys."""
        known = self._ready & (self._code >= 0)
        known[known] = ~self._slow[self._code[known]]
        return known

    def _give_up(self, rows: Array) -> None:
        touched = self._code[rows]
        self._slow[touched[touched >= 0]] = True

    def _repeated(self) -> Array:
        """Rows of a key that another row of its transaction, or of its delivery, accompanies."""
        batch = self.batch
        index = np.flatnonzero(self._ready & (self._code >= 0))
        result = np.zeros(len(batch), bool)
        for parts in (
            (self._code, batch.epoch, batch.tx),
            (self._code, batch.epoch, batch.phase, batch.commit, self._tx),
        ):
            columns = [part[index] for part in parts]
            order = np.lexsort(columns[::-1])
            if len(order):
                again = ~changes([column[order] for column in columns])
                result[index[order[again]]] = True
        return result

    # --- the fold ---

    def fold(self, stored: pa.Table | None, target: Mapping[str, pa.DataType], untracked: frozenset[str]) -> Bulk:
        """Fold the plain keys; keys that turn out not to be plain are given up.

        :param stored: last versions of the keys, with ``_file`` and ``_pos``; None where there is no history.
        :param target: the history's source columns with their types after this merge.
        :param untracked: Type 1 columns.
        """
        states = _States(stored, self.keys)
        self._slow |= states.unusual
        frame = _Frame(self, states, target, untracked)
        self._give_up(frame.overwriting)
        while True:
            steps = _Steps(frame, self.rows)
            if not len(steps.too_early):
                break
            self._give_up(steps.too_early)
        return steps.result()


class _States:
    """Last versions of keys as they are stored.

    :param stored: their rows.
    :param keys: the keys, by code.
    """

    def __init__(self, stored: pa.Table | None, keys: pa.Array) -> None:
        self.of = np.full(len(keys), NOWHERE)  # code → row
        self.unusual = np.zeros(len(keys), bool)
        self.table = stored
        if stored is None or not stored.num_rows:
            self.table = None
            return
        own = pc.fill_null(pc.index_in(stored["scd2_key"], keys), NOWHERE).to_numpy().astype(np.int64)
        mine = np.flatnonzero(own >= 0)
        self.of[own[mine]] = mine
        seen = np.bincount(own[mine], minlength=len(keys))
        self.unusual |= seen > 1
        unknown = stored["scd2_unknown"].is_valid().to_numpy()
        self.unusual[own[mine][unknown[mine]]] = True
        self.start = stored["effective_start_ts"].cast(pa.int64()).to_numpy()
        self.end = pc.fill_null(stored["effective_end_ts"].cast(pa.int64()), 0).to_numpy()
        self.open = stored["effective_end_ts"].is_null().to_numpy()


class _Frame:
    """Rows of the plain keys beside what stood before each of them.

    :param plain: the keys.
    :param states: what is stored of them.
    """

    def __init__(
        self, plain: Plain, states: _States, target: Mapping[str, pa.DataType], untracked: frozenset[str]
    ) -> None:
        self.plain, self.states, self.target = plain, states, target
        batch = self.batch = plain.batch
        index = np.flatnonzero(plain.rows)
        keys = (batch.op, batch.lsn, plain._tx, batch.commit, batch.phase, batch.epoch, plain._code)
        self.row = index[np.lexsort([key[index] for key in keys])]
        self.code = plain._code[self.row]
        self.first = changes([self.code])
        self.state = np.where(self.first, states.of[self.code], NOWHERE)
        op = batch.op[self.row]
        self.delete = op == D
        before = np.roll(~self.delete, 1)
        stored_open = np.zeros(len(op), bool)
        known = self.state >= 0
        if states.table is not None:
            stored_open[known] = states.open[self.state[known]]
        self.open_before = np.where(self.first, stored_open, before)
        self.upsert_of_open = ~self.delete & self.open_before
        tracked_same, other_same = self._compare(untracked)
        self.no_op = self.upsert_of_open & tracked_same & other_same
        self.opens = ~self.delete & ~(self.open_before & tracked_same)
        self.closes = self.delete & self.open_before
        self._overwrites = self.upsert_of_open & tracked_same & ~other_same

    @property
    def overwriting(self) -> Array:
        """Rows of the batch that alter untracked columns only."""
        result = np.zeros(len(self.batch), bool)
        result[self.row[self._overwrites]] = True
        return result

    def _compare(self, untracked: frozenset[str]) -> tuple[Array, Array]:
        """Whether tracked and untracked columns are as before, where a row meets an open version."""
        tracked, other = np.ones(len(self.row), bool), np.ones(len(self.row), bool)
        met = np.flatnonzero(self.upsert_of_open)
        inside = met[~self.first[met]]
        against = met[self.first[met]]
        if not len(met):
            return tracked, other
        for name, values in self.batch.values.items():
            kind = self.target[name]
            kept = other if name in untracked else tracked
            if len(inside):
                now, then = values.take(pa.array(self.row[inside])), values.take(pa.array(self.row[inside - 1]))
                kept[inside] &= alike(cast(now, kind), cast(then, kind))
            if len(against):
                now = values.take(pa.array(self.row[against]))
                then = self._stored(name, self.state[against], kind)
                kept[against] &= alike(cast(now, kind), then)
        return tracked, other

    def _stored(self, name: str, rows: Array, kind: pa.DataType) -> pa.Array:
        table = self.states.table
        if table is None or name not in table.column_names:
            return pa.nulls(len(rows), kind)
        return cast(flat(table[name].take(pa.array(rows))), kind)


class _Steps:
    """The rows that open or close a version.

    :param frame: all rows.
    :param kept: which rows of the batch are of plain keys still.
    """

    def __init__(self, frame: _Frame, kept: Array) -> None:
        self.frame = frame
        batch, states = frame.batch, frame.states
        here = kept[frame.row]
        self.here = here
        self.index = np.flatnonzero(here & (frame.opens | frame.closes))
        self.row = frame.row[self.index]
        self.code = frame.code[self.index]
        self.opens = frame.opens[self.index]
        count = len(self.index)
        self.first = changes([self.code])
        self.state = np.where(self.first, states.of[self.code], NOWHERE) if count else np.zeros(0, np.int64)
        self.ts = batch.ts[self.row]
        floor = np.full(count, np.iinfo(np.int64).min)
        later = np.flatnonzero(~self.first)
        floor[later] = self.ts[later - 1] + self.opens[later - 1]
        known = np.flatnonzero(self.state >= 0)
        if len(known) and states.table is not None:
            at = self.state[known]
            floor[known] = np.where(states.open[at], states.start[at] + 1, states.end[at])
        self.too_early = self._rows_of(self.ts < floor)
        # The next step of the same key ends what this one opens.
        follows = np.zeros(count, bool)
        if count:
            follows[:-1] = ~self.first[1:]
        self.next = np.where(follows, np.arange(count) + 1, NOWHERE)

    def _rows_of(self, steps: Array) -> Array:
        rows: Array = self.row[steps]
        return rows

    def result(self) -> Bulk:
        """The versions that come and go."""
        frame, states = self.frame, self.frame.states
        applied = frame.row[self.here]
        counters = self._counters()
        bulk = Bulk(applied=applied, counters=counters, folded=len(np.unique(frame.code[self.here])))
        tables = []
        new = np.flatnonzero(self.opens)
        if len(new):
            tables.append(self._opened(new))
        met = np.flatnonzero(self.state >= 0)
        if len(met) and states.table is not None:
            tables.append(self._altered(met, states.table))
            bulk.removed = _places(states.table, self.state[met])
            bulk.removed_count = len(met)
        if tables:
            bulk.versions = pa.concat_tables(tables)
        return bulk

    def _counters(self) -> Counters:
        frame, here = self.frame, self.here
        op = frame.batch.op[frame.row]

        def total(which: Array) -> int:
            return int((which & here).sum())

        return Counters(
            inserts=total(op == C),
            updates=total(op == U),
            deletes=total(op == D),
            snapshot_rows=total(op == R),
            opened=total(frame.opens),
            closed=total(frame.closes) + total(frame.opens & frame.open_before),
            no_ops=total(frame.no_op),
            update_of_unknown_key=total((op == U) & ~frame.open_before),
            insert_of_open_key=total((op == C) & frame.open_before),
            unmatched_removals=total(frame.delete & ~frame.open_before),
        )

    def _ended(self, by: Array) -> dict[str, pa.Array]:
        """What closes versions.

        :param by: the step that does, -1 for none.
        """
        batch = self.frame.batch
        open_ = by < 0
        row = np.where(open_, 0, self.row[by])
        end = self.ts[by]
        return {
            "effective_end_ts": pa.array(end, mask=open_).cast(pa.timestamp("us", tz="UTC")),
            "is_current": pa.array(open_),
            "is_deleted": pa.array(~open_ & ~self.opens[by]),
            **_event("closed", batch, row, open_),
            "scd2_closed_by": pa.DictionaryArray.from_arrays(
                pa.array(np.zeros(len(by), np.int32), mask=open_), pa.array(["change"])
            ).cast(pa.string()),
        }

    def _last(self, by: Array) -> Array:
        """Whether a version is its key's last: nothing opens one after what closes it."""
        opens_at_once = (by >= 0) & self.opens[by]
        after = np.where(by >= 0, self.next[by], NOWHERE)
        return np.asarray(~opens_at_once & ~((after >= 0) & self.opens[after]))

    def _opened(self, new: Array) -> pa.Table:
        batch, frame = self.frame.batch, self.frame
        row, by = self.row[new], self.next[new]
        taken = pa.array(row)
        positions = batch.position_texts()
        closing = np.where(by >= 0, self.row[by], row)
        content: dict[str, Any] = {
            name: cast(batch.values[name].take(taken), kind) if name in batch.values else pa.nulls(len(row), kind)
            for name, kind in frame.target.items()
        }
        none = np.zeros(len(row), bool)
        content |= {
            "effective_start_ts": pa.array(self.ts[new]).cast(pa.timestamp("us", tz="UTC")),
            **self._ended(by),
            "scd2_last": pa.array(self._last(by)),
            "scd2_key_hash": pa.array(frame.plain._hash[self.code[new]]),
            "scd2_key": frame.plain.keys.take(pa.array(self.code[new])),
            "scd2_last_position": positions.take(pa.array(closing)),
            "scd2_origin": pa.array(["snapshot", "stream"]).take(pa.array((batch.op[row] != R).astype(int))),
            "scd2_moved": pa.array(none),
            **_event("opened", batch, row, none),
            **{name: pa.nulls(len(row), pa.string()) for name in _NEVER},
        }
        return pa.table({name: content[name] for name in self._names()})

    def _altered(self, met: Array, table: pa.Table) -> pa.Table:
        """Stored versions that are closed now, or are no longer their key's last."""
        frame, states = self.frame, self.frame.states
        rows = self.state[met]
        stored = table.take(pa.array(rows))
        open_ = states.open[rows]
        by = np.where(open_, met, NOWHERE)
        fresh = {**self._ended(by), "scd2_last_position": frame.batch.position_texts().take(pa.array(self.row[met]))}
        content: dict[str, Any] = {}
        still = pa.array(~open_)
        for name in self._names():
            kind = frame.target.get(name)
            if name in fresh and name != "is_current":
                own = flat(stored[name])
                content[name] = pc.if_else(still, own, fresh[name].cast(own.type))
            elif name == "is_current":
                content[name] = pa.array(np.zeros(len(rows), bool))
            elif name == "scd2_last":
                content[name] = pa.array(np.where(open_, self._last(met), False))
            elif kind is not None:
                content[name] = self.frame._stored(name, rows, kind)
            else:
                content[name] = flat(stored[name])
        return pa.table(content)

    def _names(self) -> list[str]:
        return [*self.frame.target, *_COLUMNS]


_NEVER = ("scd2_previous_key", "scd2_next_key", "scd2_unknown")
_COLUMNS = (
    "effective_start_ts",
    "effective_end_ts",
    "is_current",
    "is_deleted",
    "scd2_last",
    "scd2_key_hash",
    "scd2_key",
    "scd2_last_position",
    "scd2_origin",
    "scd2_moved",
    *(f"scd2_opened_{name}" for name in ("position", "lsn", "tx", "topic", "partition", "offset")),
    *(f"scd2_closed_{name}" for name in ("position", "lsn", "tx", "topic", "partition", "offset")),
    "scd2_closed_by",
    *_NEVER,
)


def _event(name: str, batch: Batch, row: Array, absent: Array) -> dict[str, pa.Array]:
    """The columns that name a change.

    :param row: of the batch.
    :param absent: where there is none.
    """
    places = pa.array(row, mask=absent)
    return {
        f"scd2_{name}_position": batch.position_texts().take(places),
        f"scd2_{name}_lsn": pa.array(batch.lsn[row], mask=absent),
        f"scd2_{name}_tx": pa.array(batch.tx[row], mask=absent | (batch.tx[row] < 0)),
        f"scd2_{name}_topic": flat(batch.rows["topic"].take(places)),
        f"scd2_{name}_partition": flat(batch.rows["topic_partition"].take(places)),
        f"scd2_{name}_offset": flat(batch.rows["topic_offset"].take(places)),
    }


def _places(stored: pa.Table, rows: Array) -> dict[int, dict[str, Array]]:
    taken = stored.select(["scd2_bucket", "_file", "_pos"]).take(pa.array(rows))
    buckets, numbers = taken["scd2_bucket"].to_numpy(), taken["_pos"].to_numpy()
    files = flat(taken["_file"]).dictionary_encode()
    numbered, names = files.indices.to_numpy(zero_copy_only=False), files.dictionary.to_pylist()
    result: dict[int, dict[str, Array]] = {}
    for code, name in enumerate(names):
        mine = numbered == code
        result.setdefault(int(buckets[mine][0]), {})[name] = numbers[mine]
    return result
