"""A merge's plan: plain keys over columns, every other key by the fold itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from airflow_provider_rtlake.scd2.bulk import Bulk, Plain
from airflow_provider_rtlake.scd2.change import ChangeReader
from airflow_provider_rtlake.scd2.checks import check_plan
from airflow_provider_rtlake.scd2.columns import Batch
from airflow_provider_rtlake.scd2.fold import Mark
from airflow_provider_rtlake.scd2.plan import Plan, Store, plan_merge
from airflow_provider_rtlake.scd2.position import Position
from airflow_provider_rtlake.scd2.render import check_bulk
from airflow_provider_rtlake.scd2.rows import Array, Rows, T, continuing, paired


class ColumnStore(Store, Protocol):
    """A store that also tells last versions as columns."""

    def load(self, hashes: Array) -> pa.Table | None:
        """Last versions of keys by their hashes, with ``_file`` and ``_pos``; None where there is no history."""


@dataclass
class Whole:
    """What a merge does.

    :param plan: to the keys that were folded one by one.
    :param bulk: to the plain ones.
    :param plain: which those are.
    """

    plan: Plan
    bulk: Bulk
    plain: Plain

    @property
    def nothing(self) -> bool:
        """Whether there is nothing to write but a position."""
        plan, bulk = self.plan, self.bulk
        return not (plan.applied or plan.added or plan.removed or len(bulk.applied))

    def statistics(self) -> dict[str, int]:
        """Counters of the merge, by name."""
        found = self.plan.statistics()
        for name, value in vars(self.bulk.counters).items():
            found[name] += value
        found["changes"] += len(self.bulk.applied)
        found["versions_written"] += self.bulk.added_count
        found["versions_removed"] += self.bulk.removed_count
        found["plain_keys"] = self.bulk.folded
        return found


def linked_keys(
    rows: Rows, ready: Array, is_late: Array, reached: Position | None, stored: Callable[[], Array] | None
) -> Array:
    """Hashes of keys that have to be planned together wherever they are: a changed key's row comes from another key.

    :param rows: that came.
    :param ready: which of them may be published.
    :param is_late: which of them stand at or before ``reached``.
    :param stored: hashes of every key that was changed before; None where nothing is stored.
    """
    own = np.unique(rows.hashed[ready & (rows.moves | paired(rows, ready))])
    anew = ready & (is_late | continuing(rows, reached))
    if stored is None or not anew.any():
        return own
    # A late change is folded together with all changes of its key, which may have come from another key before.
    return np.union1d(own, stored())


def plan_rows(
    store: ColumnStore,
    batch: Batch,
    ready: Array,
    is_late: Array,
    *,
    reader: ChangeReader,
    target: Mapping[str, pa.DataType],
    marks: Sequence[Mark] = (),
    known_marks: Sequence[Mark] = (),
    reached: Position | None = None,
    untracked: frozenset[str] = frozenset(),
    columns_stay: bool = True,
) -> Whole:
    """Plan a merge of rows.

    :param store: the history as it is.
    :param ready: which rows may be published.
    :param is_late: which rows stand at or before ``reached``.
    :param reader: of the rows that are read one by one.
    :param target: the history's source columns, with their types after this merge.
    :param marks: ends of complete snapshots among the rows.
    :param known_marks: marks of earlier merges.
    :param reached: position of the last change applied before.
    :param untracked: Type 1 columns.
    :param columns_stay: no column of the history gets another name in this merge.
    :raises Refused: the changes break a rule.
    """
    plain = Plain(batch, ready, is_late | continuing(batch, reached))
    stored = store.load(plain.hashes)
    _consider_marks(plain, ready & (batch.op == T), marks, stored is not None)
    if not columns_stay:
        plain.give_up_all()
    options: dict[str, Any] = {
        "marks": marks,
        "known_marks": known_marks,
        "reached": reached,
        "untracked": untracked,
    }
    while True:
        bulk = plain.fold(stored, target, untracked)
        slow = np.flatnonzero(ready & ~plain.rows)
        plan = plan_merge(store, batch.read(slow, reader), **options)
        # A key may be linked with one that got a late change: then it is folded anew as well.
        if not plain.give_up_keys(pa.array(list(plan.expected), pa.string())):
            break
    check_plan(plan)
    check_bulk(bulk)
    return Whole(plan, bulk, plain)


def _consider_marks(plain: Plain, truncates: Array, marks: Sequence[Mark], has_history: bool) -> None:
    """A truncate, or the end of a snapshot, concerns every key: only on an empty history it leaves them plain."""
    if truncates.any() or (marks and has_history) or any(mark.since is None for mark in marks):
        plain.give_up_all()
        return
    for mark in marks:
        if mark.since is not None:
            plain.give_up_before(mark.since)
