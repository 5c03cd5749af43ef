"""The rule of :mod:`.fold` over columns, for the plain keys of a merge: thousands of keys in the time of one.

A key is plain when its changes are whole rows, one for each transaction, in order, none late or delivered again, none
part of a changed key, none waiting on the clock. For such a key the fold is a comparison of each row with the one
before it, and that is done for all of them at once. Every other key goes through the fold itself; which keys are plain
is decided on the safe side. The two agree on every plain key: tests/unit/test_scd2_bulk.py compares them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_provider_rtlake.scd2.change import key_hash
from airflow_provider_rtlake.scd2.columns import OPS, Array, Batch, C, D, R, U
from airflow_provider_rtlake.scd2.cut import Group
from airflow_provider_rtlake.scd2.fold import Counters, Refused
from airflow_provider_rtlake.scd2.names import RESERVED
from airflow_provider_rtlake.scd2.position import SNAPSHOT, Position
from airflow_provider_rtlake.scd2.snapshots import Transaction
from airflow_provider_rtlake.scd2.tables import python_values
from airflow_provider_rtlake.scd2.values import canonical, same

_EXACT_TEXT = 6  # digits after the point up to which Arrow writes decimals without an exponent
_ESCAPES = (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t"), ("\b", "\\b"), ("\f", "\\f"))
NOWHERE = -1
_BETWEEN = "\x1f"


def transactions(batch: Batch) -> Array:
    """The fourth member of each row's :attr:`.change.Change.transaction`."""
    return np.where(batch.phase == 1, np.maximum(batch.tx, 0), batch.lsn)


def late(batch: Batch, reached: Position | None) -> Array:
    """Rows that stand at or before a position."""
    result = np.zeros(len(batch), bool)
    if reached is None:
        return result
    undecided = np.ones(len(batch), bool)
    for numbers, limit in zip((batch.epoch, batch.phase, batch.commit, batch.lsn), reached, strict=True):
        # The end of a snapshot stands behind every position that fits into 64 bits.
        limit = min(limit, 2**63 - 1)
        result |= undecided & (numbers < limit)
        undecided &= numbers == limit
    return result | undecided


def groups(batch: Batch, which: Array) -> tuple[dict[Transaction, Group], Array]:
    """Sum up rows by transaction, for the cut.

    :param which: rows that are not published yet.
    :return: the groups, in order, and the number of each row's group, -1 for other rows.
    """
    number = np.full(len(batch), NOWHERE)
    index = np.flatnonzero(which)
    if not len(index):
        return {}, number
    codes = _codes(batch.key)[0][index]
    parts = [batch.epoch[index], batch.phase[index], batch.commit[index], transactions(batch)[index]]
    own = np.where(batch.lsn[index] != 0, batch.lsn[index], batch.commit[index])
    order = np.lexsort((batch.op[index], own, codes, *parts[::-1]))
    sorted_parts = [part[order] for part in parts]
    starts = np.flatnonzero(_changes(sorted_parts))
    fresh = _changes([*sorted_parts, codes[order], own[order], batch.op[index][order]])
    rows = index[order]
    number[rows] = np.repeat(np.arange(len(starts)), np.diff([*starts, len(rows)]))
    counts = np.add.reduceat(fresh.astype(np.int64), starts)
    arrived = np.maximum.reduceat(batch.arrived[rows], starts)
    latest = np.maximum.reduceat(batch.ts[rows], starts)
    ended = np.logical_or.reduceat(batch.ended[rows], starts)
    highest = np.maximum.reduceat(batch.lsn[rows], starts)
    # The first row as it arrived tells whether they are rows of a snapshot.
    first = np.minimum.reduceat(rows, starts)
    found = {}
    for place, start in enumerate(starts):
        epoch, phase, commit, tx = (int(part[start]) for part in sorted_parts)
        row = int(first[place])
        found[epoch, phase, commit, tx] = Group(
            first=batch.position(row),
            last=Position(epoch, phase, commit, int(highest[place])),
            count=int(counts[place]),
            arrived=int(arrived[place]),
            ts=int(latest[place]),
            snapshot=bool(batch.op[row] == R),
            ended=bool(ended[place]),
        )
    return found, number


def _changes(columns: Sequence[Array]) -> Array:
    """Where a row differs from the one before it; true for the first."""
    result = np.zeros(len(columns[0]), bool)
    result[0] = True
    for column in columns:
        result[1:] |= column[1:] != column[:-1]
    return result


def _runs(columns: Sequence[Array]) -> list[tuple[int, int]]:
    """Begin and end of each stretch of equal rows."""
    if not len(columns[0]):
        return []
    starts = np.flatnonzero(_changes(columns)).tolist()
    return list(zip(starts, [*starts[1:], len(columns[0])], strict=True))


def _codes(keys: pa.Array) -> tuple[Array, pa.Array]:
    """Keys as numbers; -1 for none."""
    coded = keys.dictionary_encode()
    return pc.fill_null(coded.indices, NOWHERE).to_numpy(zero_copy_only=False).astype(np.int64), coded.dictionary


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
        self._code, self.keys = _codes(batch.key)
        self._tx = transactions(batch)
        self._slow = np.zeros(len(self.keys), bool)
        self._give_up(ready & (~batch.plain | batch.moves | is_late | self._paired()))
        self._give_up(self._repeated())
        used = np.unique(self._code[ready & (self._code >= 0)])
        self._hash = np.zeros(len(self.keys), np.int64)
        texts = self.keys.take(pa.array(used)).to_pylist()
        self._hash[used] = np.fromiter((key_hash(text) for text in texts), np.int64, len(used))
        self._used = used

    @property
    def hashes(self) -> Array:
        """Of all keys that are ready, plain or not: ordered and distinct."""
        return np.unique(self._hash[self._used])

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
        codes = self._code[rows]
        self._slow[codes[codes >= 0]] = True

    def _paired(self) -> Array:
        """Deletes and inserts at one log position: a changed key, whether its headers say so or not."""
        batch, ready = self.batch, self._ready
        deletes, inserts = ready & (batch.op == D), ready & (batch.op == C)
        shared = np.intersect1d(batch.lsn[deletes], batch.lsn[inserts])
        return np.asarray((deletes | inserts) & np.isin(batch.lsn, shared))

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
                again = ~_changes([column[order] for column in columns])
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
        codes = pc.fill_null(pc.index_in(stored["scd2_key"], keys), NOWHERE).to_numpy().astype(np.int64)
        mine = np.flatnonzero(codes >= 0)
        self.of[codes[mine]] = mine
        seen = np.bincount(codes[mine], minlength=len(keys))
        self.unusual |= seen > 1
        unknown = stored["scd2_unknown"].is_valid().to_numpy()
        self.unusual[codes[mine][unknown[mine]]] = True
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
        self.first = _changes([self.code]) if len(self.row) else np.zeros(0, bool)
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
                kept[inside] &= alike(_cast(now, kind), _cast(then, kind))
            if len(against):
                now = values.take(pa.array(self.row[against]))
                then = self._stored(name, self.state[against], kind)
                kept[against] &= alike(_cast(now, kind), then)
        return tracked, other

    def _stored(self, name: str, rows: Array, kind: pa.DataType) -> pa.Array:
        table = self.states.table
        if table is None or name not in table.column_names:
            return pa.nulls(len(rows), kind)
        return _cast(_flat(table[name].take(pa.array(rows))), kind)


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
        self.first = _changes([self.code]) if count else np.zeros(0, bool)
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
        return self.row[steps]

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
            name: _cast(batch.values[name].take(taken), kind) if name in batch.values else pa.nulls(len(row), kind)
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
            "scd2_origin": pa.array(["snapshot", "stream"]).take(pa.array((batch.phase[row] != SNAPSHOT).astype(int))),
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
                own = _flat(stored[name])
                content[name] = pc.if_else(still, own, fresh[name].cast(own.type))
            elif name == "is_current":
                content[name] = pa.array(np.zeros(len(rows), bool))
            elif name == "scd2_last":
                content[name] = pa.array(np.where(open_, self._last(met), False))
            elif kind is not None:
                content[name] = self.frame._stored(name, rows, kind)
            else:
                content[name] = _flat(stored[name])
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
        f"scd2_{name}_topic": _flat(batch.rows["topic"].take(places)),
        f"scd2_{name}_partition": _flat(batch.rows["topic_partition"].take(places)),
        f"scd2_{name}_offset": _flat(batch.rows["topic_offset"].take(places)),
    }


def _places(stored: pa.Table, rows: Array) -> dict[int, dict[str, Array]]:
    taken = stored.select(["scd2_bucket", "_file", "_pos"]).take(pa.array(rows))
    buckets, numbers = taken["scd2_bucket"].to_numpy(), taken["_pos"].to_numpy()
    files = _flat(taken["_file"]).dictionary_encode()
    codes, names = files.indices.to_numpy(zero_copy_only=False), files.dictionary.to_pylist()
    result: dict[int, dict[str, Array]] = {}
    for code, name in enumerate(names):
        mine = codes == code
        result.setdefault(int(buckets[mine][0]), {})[name] = numbers[mine]
    return result


def _flat(column: Any) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _cast(column: pa.Array, kind: pa.DataType) -> pa.Array:
    return column if column.type == kind else column.cast(kind)


def alike(left: pa.Array, right: pa.Array) -> Array:
    """Whether values are the same, as :func:`.values.same` says; null is the same as null."""
    if pa.types.is_nested(left.type):
        pairs = zip(python_values(pa.chunked_array([left])), python_values(pa.chunked_array([right])), strict=True)
        return np.fromiter((same(one, other) for one, other in pairs), bool, len(left))
    if pa.types.is_floating(left.type):
        left, right = _bits(left), _bits(right)
    equal = pc.fill_null(pc.equal(left, right), fill_value=False)
    both = pc.and_(left.is_null(), right.is_null())
    return np.asarray(pc.or_(equal, both).to_numpy(zero_copy_only=False))


def _bits(column: pa.Array) -> pa.Array:
    """Numbers by their bits: -0.0 is not 0.0, and there is one NaN."""
    missing = column.is_null().to_numpy(zero_copy_only=False)
    numbers = pc.fill_null(column.cast(pa.float64()), 0.0).to_numpy(zero_copy_only=False).copy()
    numbers[np.isnan(numbers)] = np.nan
    return pa.array(numbers.view(np.int64), mask=missing)


# --- hashes ---


def record_hashes(versions: pa.Table, columns: Sequence[str], untracked: frozenset[str]) -> pa.Array:
    """:func:`.fold.record_hash` of each row.

    :param columns: those of the source.
    """
    count = versions.num_rows
    parts = []
    for name in sorted(columns):
        if name in untracked or name in RESERVED:
            continue
        column = _flat(versions[name])
        if column.null_count == count:
            continue
        label = json.dumps(name, ensure_ascii=False)
        parts.append(pc.binary_join_element_wise(f"[{label},", _canonical(column), "]", ""))
    if not parts:
        return pa.array([hashlib.sha256(b"[]").hexdigest()] * count, pa.string())
    inner = pc.binary_join_element_wise(*parts, ",", null_handling="skip")
    texts = pc.binary_join_element_wise("[", inner, "]", "").to_pylist()
    return pa.array([hashlib.sha256(text.encode()).hexdigest() for text in texts], pa.string())


def _canonical(column: pa.Array) -> pa.Array:
    """JSON of :func:`.values.canonical`, null for null."""
    kind = column.type
    if pa.types.is_boolean(kind):
        return pc.if_else(column, '["b",true]', '["b",false]')
    if pa.types.is_integer(kind):
        return pc.binary_join_element_wise('["i","', column.cast(pa.string()), '"]', "")
    if pa.types.is_date(kind):
        return _canonical(column.cast(pa.int32()))
    if pa.types.is_timestamp(kind):
        return _canonical(column.cast(pa.int64()))
    if pa.types.is_decimal(kind) and kind.scale <= _EXACT_TEXT:
        return pc.binary_join_element_wise('["n","', column.cast(pa.string()), '"]', "")
    if pa.types.is_string(kind):
        text = _escaped(column)
        if text is not None:
            return pc.binary_join_element_wise('"', text, '"', "")
    values = python_values(pa.chunked_array([column]))
    return pa.array(
        [
            None if value is None else json.dumps(canonical(value), ensure_ascii=False, separators=(",", ":"))
            for value in values
        ],
        pa.string(),
    )


def _escaped(column: pa.Array) -> pa.Array | None:
    """Text as JSON has it between quotes, None where it holds rare characters."""
    if pc.any(pc.match_substring_regex(column, '[\x00-\x1f"\\\\]')).as_py():
        for found, written in _ESCAPES:
            column = pc.replace_substring(column, found, written)
        if pc.any(pc.match_substring_regex(column, "[\x00-\x1f]")).as_py():
            return None
    return column


# --- checks and the rows to write ---


def check_bulk(bulk: Bulk) -> None:
    """The rules of :func:`.checks.check_plan` over the plain keys.

    :raises Refused: naming the rule and the keys that break it.
    """
    rows = bulk.versions
    if rows is None:
        return
    start = rows["effective_start_ts"].cast(pa.int64()).to_numpy()
    end = pc.fill_null(rows["effective_end_ts"].cast(pa.int64()), np.iinfo(np.int64).max).to_numpy()
    last = rows["scd2_last"].to_numpy()
    open_ = rows["is_current"].to_numpy()
    _refuse("a version is empty or inverted", rows, end <= start)
    _refuse("a version that is not the last of its key is open", rows, open_ & ~last)
    codes = _codes(_flat(rows["scd2_key"]))[0]
    order = np.lexsort((start, codes))
    follows = ~_changes([codes[order]])[1:]
    wrong = np.zeros(len(codes), bool)
    wrong[order[1:]] = follows & (end[order][:-1] > start[order][1:])
    _refuse("two versions of a key overlap", rows, wrong)
    lasts = np.bincount(codes[last], minlength=int(codes.max()) + 1)
    _refuse("a key has not one last version", rows, lasts[codes] != 1)


def _refuse(rule: str, rows: pa.Table, wrong: Array) -> None:
    if wrong.any():
        raise Refused(rule, sorted(set(rows["scd2_key"].filter(pa.array(wrong)).to_pylist())))


def partitions(
    versions: pa.Table, schema: pa.Schema, buckets: int, columns: Sequence[str], untracked: frozenset[str]
) -> dict[tuple[bool, int], pa.Table]:
    """Versions as rows of the history, one table for each partition, ordered by key.

    :param schema: of the history.
    :param buckets: partitions of the last versions.
    """
    hashes = versions["scd2_key_hash"].to_numpy()
    bucket = np.mod(hashes, buckets).astype(np.int32)
    last = versions["scd2_last"].to_numpy()
    start = versions["effective_start_ts"].cast(pa.int64()).to_numpy()
    order = np.lexsort((start, hashes, bucket, last))
    whole = versions.append_column("scd2_bucket", pa.array(bucket))
    result = {}
    for begin, end in _runs([last[order], bucket[order]]):
        rows = whole.take(pa.array(order[begin:end])).combine_chunks()
        rows = rows.append_column("record_hash", record_hashes(rows, columns, untracked))
        where = bool(last[order[begin]]), int(bucket[order[begin]])
        result[where] = pa.table([_cast_to(rows[name.name], name.type) for name in schema], schema=schema)
    return result


def _cast_to(column: Any, kind: pa.DataType) -> Any:
    return column if column.type == kind else column.cast(kind)


def change_rows(
    batch: Batch, rows: Array, plain: Plain, schema: pa.Schema, buckets: int, merge_id: str
) -> dict[int, pa.Table]:
    """Rows of the batch as rows of the changes table, one table for each bucket, ordered by key.

    :param rows: to remember.
    """
    hashes = plain._hash[plain._code[rows]]
    bucket = np.mod(hashes, buckets)
    order = np.lexsort((batch.lsn[rows], batch.commit[rows], batch.phase[rows], batch.epoch[rows], hashes, bucket))
    result = {}
    for begin, end in _runs([bucket[order]]):
        mine = rows[order[begin:end]]
        taken = pa.array(mine)
        number = int(bucket[order[begin]])
        content: dict[str, Any] = {
            "scd2_bucket": pa.array(np.full(len(mine), number, np.int32)),
            "scd2_key_hash": pa.array(hashes[order[begin:end]]),
            "scd2_key": batch.key.take(taken),
            "position": batch.position_texts().take(taken),
            "tx_id": pa.array(batch.tx[mine], mask=batch.tx[mine] < 0),
            "op": pa.array(OPS).take(pa.array(batch.op[mine])),
            "headers": _header_texts(_flat(batch.rows["headers"].take(taken))),
            "merge_id": pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(mine), np.int32)), pa.array([merge_id])),
        }
        columns = [content[one.name] if one.name in content else batch.rows[one.name].take(taken) for one in schema]
        # Texts of which there are few stay so: in the file they are the same.
        kinds = [
            column.type if pa.types.is_dictionary(column.type) else one.type
            for column, one in zip(columns, schema, strict=True)
        ]
        own = pa.schema([one.with_type(kind) for one, kind in zip(schema, kinds, strict=True)])
        result[number] = pa.table(
            [_cast_to(column, one.type) for column, one in zip(columns, own, strict=True)], schema=own
        )
    return result


def _header_texts(column: pa.MapArray) -> pa.Array:
    """Headers as JSON; rows with equal headers share the work."""
    parts = [column.keys, column.items]
    if column.null_count or any(_has_separator(part) for part in parts):
        return pa.array([None if one is None else json.dumps(dict(one)) for one in column.to_pylist()], pa.string())
    joined = [pc.binary_join(pa.ListArray.from_arrays(column.offsets, part), _BETWEEN) for part in parts]
    coded = pc.binary_join_element_wise(*joined, _BETWEEN * 2).dictionary_encode()
    codes = coded.indices.to_numpy(zero_copy_only=False)
    firsts = np.unique(codes, return_index=True)[1]
    texts = [json.dumps(dict(column[int(first)].as_py())) for first in firsts]
    return pa.array(texts, pa.string()).take(pa.array(codes))


def _has_separator(texts: pa.Array) -> bool:
    return texts.null_count > 0 or bool(pc.any(pc.match_substring(texts, _BETWEEN)).as_py())
