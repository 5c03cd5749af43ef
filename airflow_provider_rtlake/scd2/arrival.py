"""What came from bronze for one merge: numbers in memory, contents there too while they are few, else on disk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from airflow_provider_rtlake.scd2.columns import Batch, join
from airflow_provider_rtlake.scd2.position import Position
from airflow_provider_rtlake.scd2.rows import Array, Rows, T, joined
from airflow_provider_rtlake.scd2.spill import Spill
from airflow_provider_rtlake.scd2.stretch import Stretch, part_of, parts_for

PIECE = 50_000  # rows that are read from bronze at once
IN_MEMORY = 120_000  # rows whose contents are kept in memory, at about 3 kB
EACH = 100_000  # rows of bronze that are planned and written at once where there are more
EACH_OPEN = 25_000  # versions that a truncate or a snapshot concerns, read at once: they are folded one by one


@dataclass
class Chunk:
    """Rows of bronze that are planned and written together.

    :param ready: rows that may be published.
    :param late: rows behind the history's position.
    :param stretch: whose keys they are.
    """

    batch: Batch
    ready: Array
    late: Array
    stretch: Stretch


class _Texts:
    """Texts of which there are few, as numbers."""

    def __init__(self) -> None:
        self._known: dict[str | None, int] = {}
        self._codes: list[Array] = []

    def add(self, column: pa.DictionaryArray) -> None:
        own = [self._known.setdefault(text, len(self._known)) for text in [*column.dictionary.to_pylist(), None]]
        places = column.indices.fill_null(len(own) - 1).to_numpy(zero_copy_only=False)
        self._codes.append(np.array(own, np.int32)[places])

    @property
    def texts(self) -> list[str | None]:
        return list(self._known)

    def codes(self) -> Array:
        return np.concatenate([np.empty(0, np.int32), *self._codes])


class Arrival:
    """Rows of bronze that came.

    :param buckets: of the history, or that it will have.
    :param expected: rows at most.
    """

    def __init__(self, buckets: int, expected: int = 0) -> None:
        self._buckets, self._expected = buckets, expected
        self._pieces: list[Batch] = []
        self._rows: list[Rows] = []
        self._spill: Spill | None = None
        self._schemas, self._epochs, self._keys = _Texts(), _Texts(), _Texts()
        self._count = 0

    def add(self, batch: Batch) -> None:
        """Take a piece."""
        if not len(batch):
            return
        self._schemas.add(batch.rows["value_schema"].combine_chunks())
        self._epochs.add(batch.epochs())
        self._keys.add(batch.key_columns())
        self._rows.append(Rows(**batch.numbers()))
        self._pieces.append(batch)
        self._count += len(batch)
        if self._spill is None and self._count > IN_MEMORY:
            expected = max(self._expected, self._count)
            self._spill = Spill(self._buckets, parts_for(expected, EACH // 2, self._buckets))
        if self._spill is not None:
            first = self._count - sum(map(len, self._pieces))
            for piece in self._pieces:
                self._spill.add(piece, first)
                first += len(piece)
            self._pieces.clear()

    def __len__(self) -> int:
        return self._count

    @property
    def large(self) -> bool:
        """Whether they lie on disk."""
        return self._spill is not None

    @property
    def rows(self) -> Rows:
        """All of their numbers."""
        if len(self._rows) != 1:
            self._rows = [joined(self._rows)]
        return self._rows[0]

    def epochs(self, which: Array) -> set[str | None]:
        """Distinct headers of some rows that tell the epoch.

        :param which: a mask.
        """
        texts = self._epochs.texts
        return {texts[code] for code in np.unique(self._epochs.codes()[which])}

    def schemas(self, which: Array) -> list[str]:
        """Distinct schemas of some rows, in the order of their first row's position.

        :param which: a mask.
        """
        firsts = self._outermost(self._schemas, which, newest=False)
        return sorted(firsts, key=lambda text: firsts[text])

    def key_columns(self, which: Array) -> dict[tuple[str, ...], Position]:
        """Names of the columns of some rows' keys, with the position of the newest such row.

        :param which: a mask.
        """
        newest = self._outermost(self._keys, which & (self.rows.op != T), newest=True)
        return {tuple(json.loads(text)): position for text, position in newest.items()}

    def _outermost(self, told: _Texts, which: Array, *, newest: bool) -> dict[str, Position]:
        """Distinct texts of some rows, with the position of the first or the last of its rows."""
        codes, texts = told.codes(), told.texts
        found = {}
        for code in np.unique(codes[which]):
            row = self.rows.outermost(np.flatnonzero(which & (codes == code)), newest=newest)
            found[str(texts[code])] = self.rows.position(row)
        return found

    def chunks(self, ready: Array, late: Array, linked: Array, opened: int) -> Iterator[Chunk]:
        """Rows to plan and write, chunk by chunk; where nothing forbids it, as one.

        :param ready: which rows may be published.
        :param late: which rows stand behind the history's position.
        :param linked: hashes of keys that depend on each other.
        :param opened: versions in the history that something may concern beside the keys that came.
        """
        parts = self._parts(opened)
        if parts == 1:
            yield Chunk(self._whole(), ready, late, Stretch())
            return
        rows = self.rows
        truncates = ready & (rows.op == T)
        where = part_of(rows.hashed, self._buckets, parts)
        own = np.isin(rows.hashed, linked)
        common, places = self._some(truncates, where, parts)
        free = ready & ~truncates & ~own
        most = max(1, EACH_OPEN * parts // opened) if opened else parts
        stretches = [Stretch(linked=linked, only_linked=True)] if len(linked) else []
        stretches += [
            Stretch(group, parts, self._buckets, linked if len(linked) else None)
            for group in _grouped(np.bincount(where[free], minlength=parts), most)
        ]
        for stretch in stretches:
            which = ready & own & ~truncates if stretch.parts is None else free & np.isin(where, stretch.parts)
            if which.any() or opened:
                batch, index = self._some(which, where, parts)
                yield Chunk(
                    join([one for one in (batch, common) if len(one)]),
                    np.ones(len(index) + len(places), bool),
                    late[np.concatenate([index, places])],
                    stretch,
                )

    def _parts(self, opened: int) -> int:
        if self._spill is not None:
            self._spill.finish()
            return self._spill.parts
        return parts_for(opened, EACH_OPEN, self._buckets) if opened > EACH_OPEN else 1

    def _whole(self) -> Batch:
        if len(self._pieces) != 1:
            self._pieces = [join(self._pieces)]
        return self._pieces[0]

    def _some(self, which: Array, where: Array, parts: int) -> tuple[Batch, Array]:
        """Some rows with their contents, and their numbers among all.

        :param which: a mask.
        :param where: the part of each row, one of ``parts``.
        """
        if self._spill is None:
            return self._whole().only(which), np.flatnonzero(which)
        batches, places = [], []
        for part in np.unique(where[which]).tolist():
            batch, index = self._spill.load(part, self.rows)
            keep = which[index]
            batches.append(batch.only(keep))
            places.append(index[keep])
        return join(batches), np.concatenate([np.empty(0, np.int64), *places])

    def drop(self) -> None:
        """Remove what lies on disk."""
        if self._spill is not None:
            self._spill.drop()


def _grouped(counts: Array, most: int) -> list[tuple[int, ...]]:
    """Parts beside each other, together as many rows as one chunk takes; every part is in one of them.

    :param counts: rows of each part.
    :param most: parts of a group.
    """
    found: list[tuple[int, ...]] = []
    group: list[int] = []
    rows = 0
    for part, count in enumerate(counts.tolist()):
        if group and (rows + count > EACH or len(group) >= most):
            found.append(tuple(group))
            group, rows = [], 0
        group.append(part)
        rows += count
    return [*found, tuple(group)]
