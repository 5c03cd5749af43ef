"""The Spark job: one merge, or as many as it takes to catch up.

``python -m airflow_provider_rtlake.scd2.job --request FILE --result FILE`` under spark-submit, or
:func:`merge_once` in a
session that lives on.
"""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from airflow_provider_rtlake.clients.nessie import NessieClient, Reference
from airflow_provider_rtlake.exceptions import TerminalError, TransientError
from airflow_provider_rtlake.scd2.bronze import (
    Range,
    ranges,
    read_notifications,
    read_range,
    read_transactions,
)
from airflow_provider_rtlake.scd2.bulk import change_rows, groups, late, partitions
from airflow_provider_rtlake.scd2.change import EPOCH_HEADER, ChangeReader, Shape, Unread
from airflow_provider_rtlake.scd2.columns import Array, Batch, R, arrow_type, join, read_rows
from airflow_provider_rtlake.scd2.compact import tidy
from airflow_provider_rtlake.scd2.cut import Decision, Patience, TransactionEnd, decide, read_ends
from airflow_provider_rtlake.scd2.fold import Mark, Refused
from airflow_provider_rtlake.scd2.lake import Lake, Table, Traffic, catalog_settings, side_by_side
from airflow_provider_rtlake.scd2.planning import Whole, plan_rows
from airflow_provider_rtlake.scd2.position import Position
from airflow_provider_rtlake.scd2.publish import Overtaken, Publisher, Workplace
from airflow_provider_rtlake.scd2.reads import DataTask, Wanted, read_files
from airflow_provider_rtlake.scd2.request import MergeRequest, read_requests
from airflow_provider_rtlake.scd2.serve import Gone, Server, follow, stop_on_signals
from airflow_provider_rtlake.scd2.snapshots import SnapshotEnd, read_snapshot_ends
from airflow_provider_rtlake.scd2.store import LakeStore, conform
from airflow_provider_rtlake.scd2.suppress import Suppression
from airflow_provider_rtlake.scd2.tables import (
    BUCKETS,
    CHANGES_COLUMNS,
    CHECKPOINT_COLUMNS,
    HISTORY_COLUMNS,
    UNREAD_COLUMNS,
    Evolution,
    Layout,
    arrow_schema,
    changes_table,
    create_statement,
    evolution,
    mark_from,
    mark_json,
    source_columns,
    spark_type,
)
from airflow_provider_rtlake.scd2.writing import Written, check_branch, sorted_rows, unread_table

CHECKPOINT_KEY = "rtlake.checkpoint"  # in the snapshot summary: read without opening a data file
_KEYS_PER_BUCKET = 500_000
_MANIFESTS = "8"  # of which Iceberg makes one: each merge reads those that are there


@dataclass(frozen=True)
class Checkpoint:
    """How far a history has come.

    :param position: of the last change published; None before the first merge.
    :param epoch: header of the newest epoch.
    :param bronze_snapshot: everything up to it is published.
    :param bronze_seen: everything up to it was read; what stands behind ``position`` in between waits.
    :param transactions_snapshot: everything up to it was read, and what is still needed is in ``ends``.
    :param streaming_at: arrival of the newest transaction marker that was read, microseconds.
    :param notifications_snapshot: everything up to it was read, and what is still needed is in ``snapshot_ends``.
    :param snapshot_order: offset of the last notification that was used up.
    """

    position: Position | None = None
    epoch: str | None = None
    bronze_snapshot: int | None = None
    bronze_seen: int | None = None
    transactions_snapshot: int | None = None
    marks: tuple[Mark, ...] = ()
    ends: tuple[TransactionEnd, ...] = ()
    end_lsn: int = 0
    merge_id: str | None = None
    streaming_at: int = 0
    notifications_snapshot: int | None = None
    snapshot_ends: tuple[SnapshotEnd, ...] = ()
    snapshot_order: int = -1

    @property
    def position_text(self) -> str:
        """The position, or 0 before the first."""
        return self.position.text if self.position else "0"

    def row(self, request: MergeRequest, statistics: Mapping[str, Any], now: int) -> dict[str, Any]:
        """As a row of the checkpoint table."""
        pending = {
            "ends": [end.as_json() for end in self.ends],
            "end_lsn": self.end_lsn,
            "streaming_at": self.streaming_at,
            "notifications_snapshot": self.notifications_snapshot,
            "snapshot_ends": [end.as_json() for end in self.snapshot_ends],
            "snapshot_order": self.snapshot_order,
        }
        return {
            "merge_id": self.merge_id,
            "merged_at": now,
            "position": self.position.text if self.position else None,
            "epoch": self.epoch,
            "bronze_table": request.bronze,
            "bronze_snapshot": self.bronze_snapshot,
            "bronze_seen": self.bronze_seen,
            "transactions_snapshot": self.transactions_snapshot,
            "marks": json.dumps([mark_json(mark) for mark in self.marks]),
            "pending": json.dumps(pending),
            "statistics": json.dumps(statistics),
        }

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Checkpoint:
        """The inverse of :meth:`row`."""
        pending = json.loads(row["pending"])
        return cls(
            position=Position.parse(row["position"]) if row["position"] else None,
            epoch=row["epoch"],
            bronze_snapshot=row["bronze_snapshot"],
            bronze_seen=row["bronze_seen"],
            transactions_snapshot=row["transactions_snapshot"],
            marks=tuple(mark_from(data) for data in json.loads(row["marks"])),
            ends=tuple(TransactionEnd(*data) for data in pending["ends"]),
            end_lsn=pending["end_lsn"],
            merge_id=row["merge_id"],
            streaming_at=pending.get("streaming_at", 0),
            notifications_snapshot=pending.get("notifications_snapshot"),
            snapshot_ends=tuple(SnapshotEnd(*data) for data in pending.get("snapshot_ends", ())),
            snapshot_order=pending.get("snapshot_order", -1),
        )


@dataclass
class Steps:
    """Seconds of each step of a merge."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Measure a step."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - begin, 3)


@dataclass
class Outcome:
    """What one merge did.

    :param changed: whether anything was published.
    :param behind: whether bronze holds more than this merge took.
    """

    changed: bool
    behind: bool
    waiting: int
    statistics: dict[str, Any]


class EpochChanged(TerminalError):
    """The source's log is another one, and no new snapshot has come: history and source cannot be joined."""


class Merge:
    """One merge of one table.

    :param spark: the session.
    :param request: which table.
    :param nessie: the catalog's API.
    :param crash: called with the name of each step before it: tests stop the merge there.
    """

    def __init__(
        self,
        spark: Any,
        request: MergeRequest,
        nessie: NessieClient,
        crash: Callable[[str], None] = lambda step: None,
    ) -> None:
        self._spark = spark
        self._request = request
        self._publisher = Publisher(nessie, request.history, request.main)
        self._crash = crash
        self._steps = Steps()
        self._traffic = Traffic()
        self._merge_id = uuid.uuid4().hex[:16]
        self._suppression = Suppression("")
        self._reader = ChangeReader(
            renamed_from=request.renamed_from,
            text_columns=frozenset(request.text_columns),
            placeholder=request.placeholder,
            excluded=frozenset(request.excluded),
        )

    def run(self) -> Outcome:
        """Merge what is new, at most ``max_rows`` rows of bronze.

        :raises Refused: the changes break a rule; the branch is kept.
        :raises Overtaken: another merge was published meanwhile.
        """
        started = time.monotonic()
        with self._steps.timed("look"):
            base = self._publisher.main()
            lake = Lake(self._spark, self._request.catalog, self._request.main, base.hash)
            bronze, table = lake.tables([self._request.bronze, self._request.checkpoint])
            checkpoint = self._checkpoint(table)
            parts = ranges(bronze, checkpoint.bronze_seen, self._request.max_rows) if bronze else []
            self._suppression = Suppression.of(table.properties) if table else self._suppression
            waits = checkpoint.bronze_snapshot != checkpoint.bronze_seen
            news = bool(parts) or waits or self._noticed(lake, checkpoint)
        if bronze is None or not news:
            return Outcome(False, False, 0, self._statistics(None, started))
        return self._merge(base, lake, bronze, checkpoint, parts, started)

    def _merge(
        self,
        base: Reference,
        lake: Lake,
        bronze: Table,
        checkpoint: Checkpoint,
        parts: list[Range],
        started: float,
    ) -> Outcome:
        made = self._ready(lake, bronze, checkpoint, parts)
        behind = made.taken < len(parts)
        if not made.ready.any() and not made.marks and not made.unread:
            return Outcome(False, behind, made.waiting, self._statistics(None, started))
        verdict = made.decision.snapshots
        after = Checkpoint(
            position=made.decision.reached,
            epoch=made.newest_epoch() or checkpoint.epoch,
            bronze_snapshot=made.resume,
            bronze_seen=made.seen,
            transactions_snapshot=made.told.transactions,
            ends=tuple(made.decision.ends),
            end_lsn=made.decision.end_lsn,
            merge_id=self._merge_id,
            streaming_at=made.told.streaming_at,
            notifications_snapshot=made.told.notifications,
            snapshot_ends=tuple(verdict.left),
            snapshot_order=verdict.order,
        )
        _check_epoch(checkpoint, made, self._request.history)
        work = _Write(self, lake, base, checkpoint, made)
        whole = work.plan()
        nothing = whole.nothing and whole.plan.marks == list(checkpoint.marks) and not made.unread
        if nothing and after.bronze_seen == checkpoint.bronze_seen:
            return Outcome(False, behind, made.waiting, self._statistics(whole, started))
        place = work.carry_out(whole, after, started)
        with self._steps.timed("publish"):
            self._crash("publish")
            count = whole.statistics()["changes"]
            message = f"scd2 merge of {self._request.history}: {count} changes, {after.position_text}"
            self._publisher.publish(place, self._request.checkpoint, message)
        return Outcome(True, behind, made.waiting, self._statistics(whole, started, made))

    def _noticed(self, lake: Lake, checkpoint: Checkpoint) -> bool:
        """Whether there is a notification: the snapshot of an emptied table sends nothing else."""
        table = lake.table(self._request.notifications) if self._request.notifications else None
        return table is not None and table.snapshot_id != checkpoint.notifications_snapshot

    def _checkpoint(self, table: Table | None) -> Checkpoint:
        if table is None:
            return Checkpoint()
        text = table.newest_with(CHECKPOINT_KEY)
        if text is not None:
            return Checkpoint.of_row(json.loads(text))
        rows = _all_rows(table, self._traffic)
        return Checkpoint.of_row(max(rows, key=lambda row: row["merged_at"])) if rows else Checkpoint()

    def _ready(self, lake: Lake, bronze: Table, checkpoint: Checkpoint, parts: list[Range]) -> _Ready:
        """Read ranges of bronze until something may be published."""
        with self._steps.timed("transactions"):
            told = self._told(lake, checkpoint)
        batches: list[tuple[int | None, Batch]] = []
        unread: list[Unread] = []
        if checkpoint.bronze_seen is not None and checkpoint.bronze_snapshot != checkpoint.bronze_seen:
            start = checkpoint.bronze_snapshot
            if start is not None and not bronze.has_ancestor(start):
                start = None
            # What is unreadable there was told of when it was read first.
            batch, _ = self._read(bronze, Range(start, checkpoint.bronze_seen, 0), 0)
            # What was published of that range is left out.
            batches.append((start, batch.only(~late(batch, checkpoint.position))))
        taken, seen = 0, checkpoint.bronze_seen
        while True:
            if taken < len(parts):
                batch, found = self._read(bronze, parts[taken], len(batches))
                batches.append((parts[taken].start, batch))
                unread += found
                seen = parts[taken].end
                taken += 1
            made = self._cut(batches, checkpoint, told)
            made.taken, made.seen, made.unread = taken, seen, unread
            if made.ready.any() or made.marks or taken >= len(parts):
                made.resume = made.first_waiting([start for start, _ in batches], seen)
                return made

    def _read(self, bronze: Table, part: Range, number: int) -> tuple[Batch, list[Unread]]:
        with self._steps.timed("read bronze"):
            rows = self._suppression.keep(read_range(bronze, part, self._traffic))
        with self._steps.timed("parse"):
            return read_rows(rows, self._reader, number)

    def _cut(self, batches: Sequence[tuple[int | None, Batch]], checkpoint: Checkpoint, told: _Told) -> _Ready:
        request = self._request
        with self._steps.timed("cut"):
            batch = join([batch for _, batch in batches])
            is_late = late(batch, checkpoint.position)
            summed, number = groups(batch, ~is_late)
            made = decide(
                summed,
                told.ends,
                reached=checkpoint.position,
                end_lsn=checkpoint.end_lsn,
                patience=Patience(
                    now=int(time.time() * 1e6),
                    limit=int(request.patience_seconds * 1e6),
                    snapshot_limit=int(request.snapshot_patience_seconds * 1e6),
                ),
                streaming_at=told.streaming_at,
                snapshot_ends=told.snapshot_ends,
                snapshot_order=checkpoint.snapshot_order,
            )
            ready = is_late.copy()
            fresh = number >= 0
            ready[fresh] = np.array([one in made.ready for one in summed], bool)[number[fresh]]
        return _Ready(batch, ready, is_late, made, told)

    def _told(self, lake: Lake, checkpoint: Checkpoint) -> _Told:
        """What the connector told of transactions and snapshots, and is not used up."""
        request, told = self._request, _Told(streaming_at=checkpoint.streaming_at)
        names = [name for name in (request.transactions, request.notifications) if name is not None]
        tables = dict(zip(names, lake.tables(names), strict=True))
        markers = tables.get(request.transactions or "")
        if markers is not None:
            told.ends = list(checkpoint.ends)
            told.transactions = markers.snapshot_id
            for part in ranges(markers, checkpoint.transactions_snapshot, 10**12):
                rows, arrived = read_transactions(markers, part, request.collection, self._traffic)
                told.ends += read_ends(rows, request.collection)
                told.streaming_at = max(told.streaming_at, arrived)
        notices = tables.get(request.notifications or "")
        if notices is not None:
            told.snapshot_ends = list(checkpoint.snapshot_ends)
            told.notifications = notices.snapshot_id
            for part in ranges(notices, checkpoint.notifications_snapshot, 10**12):
                rows = read_notifications(notices, part, self._traffic)
                told.snapshot_ends += read_snapshot_ends(rows, request.collection)
        return told

    def _statistics(self, plan: Whole | None, started: float, made: _Ready | None = None) -> dict[str, Any]:
        return {
            "table": self._request.history,
            "merge_id": self._merge_id,
            "seconds": round(time.monotonic() - started, 3),
            "steps": dict(self._steps.seconds),
            **self._traffic.as_json(),
            **(plan.statistics() if plan else {}),
            **(
                {
                    "forced_transactions": made.decision.forced,
                    "unfinished_snapshots": made.decision.snapshots.unfinished,
                    "unreadable": len(made.unread),
                    "waiting": made.waiting,
                    "position": made.decision.reached.text if made.decision.reached else None,
                }
                if made
                else {}
            ),
        }


@dataclass
class _Told:
    """What the connector told.

    :param ends: of transactions; None where it tells none.
    :param transactions: snapshot up to which markers were read.
    :param streaming_at: arrival of the newest marker, microseconds.
    :param snapshot_ends: of snapshots; None where it tells none.
    :param notifications: snapshot up to which notifications were read.
    """

    ends: list[TransactionEnd] | None = None
    transactions: int | None = None
    streaming_at: int = 0
    snapshot_ends: list[SnapshotEnd] | None = None
    notifications: int | None = None


@dataclass
class _Ready:
    """Rows of bronze, and which of them this merge takes.

    :param ready: rows that may be published.
    :param late: rows behind the history's position.
    :param taken: ranges that were read.
    :param seen: bronze was read up to this snapshot.
    :param resume: snapshot of bronze before the first row that waits.
    """

    batch: Batch
    ready: Array
    late: Array
    decision: Decision
    told: _Told
    taken: int = 0
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

    def first_waiting(self, starts: Sequence[int | None], seen: int | None) -> int | None:
        """The snapshot of bronze before the first row that waits."""
        parts = self.batch.part[~self.ready]
        return starts[int(parts.min())] if len(parts) else seen

    def order(self) -> Array:
        """Rows that are ready, in the order of their positions."""
        rows, batch = np.flatnonzero(self.ready), self.batch
        return rows[np.lexsort((batch.lsn[rows], batch.commit[rows], batch.phase[rows], batch.epoch[rows]))]

    def newest_epoch(self) -> str | None:
        """Header of the newest change's epoch."""
        order = self.order()
        return self.batch.header(int(order[-1]), EPOCH_HEADER) if len(order) else None

    def shapes(self, reader: ChangeReader) -> list[Shape]:
        """Distinct shapes in the order of their first change."""
        texts = self.batch.rows["value_schema"].take(pa.array(self.order())).unique().to_pylist()
        return list({id(shape): shape for shape in map(reader.shape, texts)}.values())


class _Write:
    """Plans a merge on what main holds and writes it on a branch."""

    def __init__(self, merge: Merge, lake: Lake, base: Reference, checkpoint: Checkpoint, made: _Ready) -> None:
        self._merge = merge
        self._request = merge._request
        self._steps, self._traffic, self._crash = merge._steps, merge._traffic, merge._crash
        self._lake, self._base, self._checkpoint, self._made = lake, base, checkpoint, made
        self._untracked = frozenset(self._request.untracked)
        self._history, self._changes = lake.tables([self._request.history, self._request.changes])
        present = source_columns(self._history.schema_json) if self._history else {}
        self._evolution: Evolution = evolution(
            self._request.history, present, made.shapes(merge._reader), self._request.renamed_from
        )
        self._target = {**present, **dict(self._evolution.added), **dict(self._evolution.widened)}
        self._buckets = self._choose_buckets(int(made.ready.sum()))

    def _choose_buckets(self, rows: int) -> int:
        if self._history is not None:
            return int(self._history.properties.get(BUCKETS, "1"))
        if self._request.buckets:
            return self._request.buckets
        buckets = 1
        while buckets * _KEYS_PER_BUCKET < rows:
            buckets *= 2
        return buckets

    def plan(self) -> Whole:
        """Read what is touched and fold."""
        aliases = {new: old for old, new in self._evolution.renamed}
        self._store = LakeStore(
            self._history, self._changes, self._old_layout(), self._merge._reader, self._traffic, aliases, self._steps
        )
        with self._steps.timed("fold"):
            return plan_rows(
                self._store,
                self._made.batch,
                self._made.ready,
                self._made.late,
                reader=self._merge._reader,
                target={name: arrow_type(kind) for name, kind in self._target.items()},
                marks=self._made.marks,
                known_marks=self._checkpoint.marks,
                reached=self._checkpoint.position,
                untracked=self._untracked,
                columns_stay=not self._evolution.renamed,
            )

    def _old_layout(self) -> Layout | None:
        if self._history is None:
            return None
        layout = Layout(self._history.schema_json, self._buckets, self._untracked)
        new_names = dict(self._evolution.renamed)
        layout.columns = tuple(new_names.get(name, name) for name in layout.columns)
        return layout

    def carry_out(self, whole: Whole, after: Checkpoint, started: float) -> Workplace:
        """Write the plan on a branch and check it there."""
        publisher = self._merge._publisher
        with self._steps.timed("branch"):
            self._crash("branch")
            place = publisher.begin(self._base, after.position_text, self._merge._merge_id)
        try:
            with self._steps.timed("tables"):
                self._crash("tables")
                lake = Lake(self._lake.spark, self._request.catalog, place.branch)
                history, changes, checkpoint = self._tables(lake)
            layout = Layout(history.schema_json, self._buckets, self._untracked)
            for step in ("write history", "write changes", "write checkpoint"):
                self._crash(step)
            # Each table is a commit of its own, and waits for the object store and the catalog most of its time.
            written, *_ = side_by_side(
                lambda: self._write_history(history, layout, whole),
                lambda: self._write_changes(changes, whole),
                lambda: self._write_checkpoint(checkpoint, whole, after, started),
                lambda: self._write_unread(lake),
            )
            with self._steps.timed("check"):
                self._crash("check")
                now = lake.table(self._request.history)
                store = LakeStore(now, changes, layout, self._merge._reader, Traffic())
                check_branch(whole, written, now, store)
        except Refused as error:
            name = publisher.keep(place)
            error.args = (f"{error.args[0]}; branch {name} is kept for inspection",)
            raise
        return place

    def _tables(self, lake: Lake) -> tuple[Table, Table, Table]:
        """The three tables on the branch, made or altered where needed; never dropped there."""
        request = self._request
        if self._history is None:
            lake.create_namespace(request.history)
            columns = [(name, spark_type(kind)) for name, kind in self._evolution.added]
            settings = {
                BUCKETS: str(self._buckets),
                "rtlake.source": request.collection.replace("'", ""),
                "commit.manifest.min-count-to-merge": _MANIFESTS,
            }
            lake.sql(
                create_statement(
                    lake.quoted(request.history),
                    [*columns, *HISTORY_COLUMNS],
                    ["scd2_last", "scd2_bucket"],
                    **settings,
                )
            )
        else:
            for statement in self._evolution.statements(lake.quoted(request.history)):
                lake.sql(statement)
        if self._changes is None:
            lake.create_namespace(request.changes)
            lake.sql(create_statement(lake.quoted(request.changes), CHANGES_COLUMNS, ["scd2_bucket"]))
        if self._checkpoint.merge_id is None:
            lake.sql(create_statement(lake.quoted(request.checkpoint), CHECKPOINT_COLUMNS, []))
        if self._made.unread:
            lake.sql(create_statement(lake.quoted(request.unread), UNREAD_COLUMNS, []))
        history, changes, checkpoint = lake.tables([request.history, request.changes, request.checkpoint])
        if history is None or changes is None or checkpoint is None:
            raise TransientError(f"{request.history}: its tables cannot be found on the merge's branch")
        return history, changes, checkpoint

    def _write_history(self, history: Table, layout: Layout, whole: Whole) -> Written:
        with self._steps.timed("write history"):
            rows, gone = self._rows(layout, whole), _gone(whole)
            if not rows and not gone:
                return Written(history.snapshot_id)
            removed, removed_deletes = self._tidy(history, layout, rows, gone)
            added = history.write(rows, self._traffic)
            deletes = history.write_deletes(gone, self._traffic)
            snapshot = history.replace(
                added,
                deletes,
                {"rtlake.merge-id": self._merge._merge_id},
                removed=removed,
                removed_deletes=removed_deletes,
            )
            files = list(zip(added, rows.values(), strict=True))
            return Written(snapshot, files, list(zip(deletes, gone.values(), strict=True)))

    def _tidy(
        self, history: Table, layout: Layout, rows: dict[str, pa.Table], gone: dict[str, dict[str, Array]]
    ) -> tuple[list[Any], list[Any]]:
        """Keep the files of the touched buckets few: alters what is written and deleted, tells which files go."""
        removed, removed_deletes = [], []
        places = [pa.field("_file", pa.string()), pa.field("_pos", pa.int64())]
        wanted = Wanted(history.field_ids(), places=True)

        def read(tasks: Sequence[DataTask]) -> pa.Table:
            found = read_files(history.lake.store, tasks, wanted, self._traffic)
            return conform(found, pa.schema([*layout.schema, *places]))

        for where in sorted({*rows, *gone}):
            tasks = [task for task in self._store.tasks.values() if task.partition == where]
            if not tasks:
                continue
            found = tidy(history.lake.store, tasks, gone.pop(where, {}), read)
            removed += found.removed
            removed_deletes += found.removed_deletes
            if found.positions:
                gone[where] = found.positions
            if found.rows is not None and found.rows.num_rows:
                again = pa.table([found.rows[one.name] for one in layout.schema], schema=layout.schema)
                own = [rows[where]] if where in rows else []
                rows[where] = sorted_rows([*own, again], "effective_start_ts")
        return removed, removed_deletes

    def _rows(self, layout: Layout, whole: Whole) -> dict[str, pa.Table]:
        """New rows of the history: partition path → rows."""
        found = {where: [rows] for where, rows in layout.rows(whole.plan.added).items()}
        if whole.bulk.versions is not None:
            bulk = partitions(whole.bulk.versions, layout.schema, self._buckets, layout.columns, self._untracked)
            for where, rows in bulk.items():
                found.setdefault(where, []).append(rows)
        return {
            f"scd2_last={str(last).lower()}/scd2_bucket={bucket}": sorted_rows(tables, "effective_start_ts")
            for (last, bucket), tables in found.items()
        }

    def _write_changes(self, changes: Table, whole: Whole) -> None:
        with self._steps.timed("write changes"):
            schema, merge_id = arrow_schema(changes.schema_json), self._merge._merge_id
            found: dict[int, list[pa.Table]] = {}
            slow = changes_table(whole.plan.applied, schema, self._buckets, merge_id)
            rows = whole.bulk.applied
            plain = change_rows(self._made.batch, rows, whole.plain, schema, self._buckets, merge_id)
            for tables in (slow, plain):
                for bucket, table in tables.items():
                    found.setdefault(bucket, []).append(table)
            if found:
                merged = {f"scd2_bucket={bucket}": sorted_rows(tables, "position") for bucket, tables in found.items()}
                changes.append(changes.write(merged, self._traffic), {"rtlake.merge-id": merge_id})

    def _write_checkpoint(self, table: Table, whole: Whole, after: Checkpoint, started: float) -> None:
        with self._steps.timed("write checkpoint"):
            done = replace(after, marks=tuple(whole.plan.marks))
            statistics = self._merge._statistics(whole, started, self._made)
            row = done.row(self._request, statistics, int(time.time() * 1e6))
            schema = arrow_schema(table.schema_json)
            rows = pa.table([pa.array([row[column.name]], column.type) for column in schema], schema=schema)
            # Every snapshot's summary stays in the table's metadata: short, without the statistics.
            summary = {CHECKPOINT_KEY: json.dumps({**row, "statistics": "{}"})}
            table.append(table.write({"": rows}, self._traffic), summary)

    def _write_unread(self, lake: Lake) -> None:
        if not self._made.unread:
            return
        table = lake.table(self._request.unread)
        if table is None:
            raise TransientError(f"{self._request.unread}: cannot be found on the merge's branch")
        rows = unread_table(self._made.unread, arrow_schema(table.schema_json), self._merge._merge_id)
        table.append(table.write({"": rows}, self._traffic), {"rtlake.merge-id": self._merge._merge_id})


def _gone(whole: Whole) -> dict[str, dict[str, Array]]:
    """Rows that go: partition path → data file → row numbers."""
    found: dict[str, dict[str, list[int]]] = {}
    for stored in whole.plan.removed:
        path, row, bucket = stored.ref
        partition = found.setdefault(f"scd2_last={str(stored.last).lower()}/scd2_bucket={bucket}", {})
        partition.setdefault(path, []).append(row)
    for bucket, files in whole.bulk.removed.items():
        partition = found.setdefault(f"scd2_last=true/scd2_bucket={bucket}", {})
        for path, rows in files.items():
            partition.setdefault(path, []).extend(rows.tolist())
    return {
        where: {path: np.sort(np.array(rows, np.int64)) for path, rows in files.items()}
        for where, files in found.items()
    }


def _all_rows(table: Table, traffic: Traffic) -> list[dict[str, Any]]:
    wanted = Wanted(table.field_ids())
    found = read_files(table.lake.store, table.tasks(), wanted, traffic)
    return list(conform(found, arrow_schema(table.schema_json)).to_pylist())


def _check_epoch(checkpoint: Checkpoint, made: _Ready, table: str) -> None:
    """A new life of the slot begins with a snapshot; without one, nobody knows what was lost between."""
    if checkpoint.position is None:
        return
    known, batch = checkpoint.position.epoch, made.batch
    newer = set(np.unique(batch.epoch[made.ready & (batch.epoch > known)]).tolist())
    snapshots = {mark.position.epoch for mark in made.marks}
    lost = newer - snapshots - set(np.unique(batch.epoch[made.ready & (batch.op == R)]).tolist())
    if lost:
        raise EpochChanged(
            f"{table}: the replication slot was lost (epoch {known} → {min(lost)}) and no snapshot of it came with "
            "the new one: take a new snapshot (rtlake connectors apply); nothing was written"
        )
    other = batch.header_texts(made.ready & (batch.epoch == known), EPOCH_HEADER) - {checkpoint.epoch}
    if checkpoint.epoch and other:
        raise EpochChanged(
            f"{table}: changes of another database or timeline ({min(other)}) follow those of "
            f"{checkpoint.epoch}: take a new snapshot (rtlake connectors apply); nothing was written"
        )


def _client(spark: Any, request: MergeRequest) -> NessieClient:
    return NessieClient(request.nessie_uri or catalog_settings(spark, request.catalog)["uri"])


def merge_once(
    spark: Any,
    request: MergeRequest,
    nessie: NessieClient | None = None,
    crash: Callable[[str], None] | None = None,
) -> Outcome:
    """One merge in a running session.

    :param spark: the session.
    :param request: which table.
    :param nessie: client to use; by default one is made.
    :param crash: for tests: called before each step with its name.
    """
    if nessie is not None:
        return Merge(spark, request, nessie, crash or (lambda step: None)).run()
    with _client(spark, request) as client:
        return Merge(spark, request, client, crash or (lambda step: None)).run()


def merge_all(
    spark: Any, request: MergeRequest, limit: int = 1000, step: Callable[[str], None] | None = None
) -> list[Outcome]:
    """Merge until nothing more can be published.

    :param limit: merges at most.
    :param step: called before each step with its name; what it raises ends the merge, safely.
    """
    outcomes = []
    with _client(spark, request) as nessie:
        for _ in range(limit):
            outcome = merge_once(spark, request, nessie, step)
            outcomes.append(outcome)
            if not outcome.behind:
                break
    return outcomes


def session(name: str = "rtlake-scd2") -> Any:
    """A Spark session; what spark-submit configured wins."""
    from pyspark.sql import SparkSession

    spark = SparkSession.builder.appName(name).getOrCreate()
    settings = {
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.caseSensitive": "true",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.sql.adaptive.enabled": "false",  # small jobs: planning again costs more than it saves
        "spark.sql.shuffle.partitions": "4",
        "spark.sql.iceberg.data-planning-mode": "local",
        "spark.sql.iceberg.delete-planning-mode": "local",
    }
    for key, value in settings.items():
        spark.conf.set(key, value)
    return spark


def _summed(request: MergeRequest, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    last = outcomes[-1]
    merges = [outcome.statistics for outcome in outcomes if outcome.changed]
    return {
        "table": request.history,
        "changed": bool(merges),
        "waiting": last.waiting,
        "behind": last.behind,
        "position": merges[-1]["position"] if merges else None,
        "changes": sum(int(item["changes"]) for item in merges),
        "seconds": round(sum(float(outcome.statistics["seconds"]) for outcome in outcomes), 3),
        "merges": merges or [last.statistics],
    }


def merge_tables(
    spark: Any, requests: Sequence[MergeRequest], step: Callable[[str], None] | None = None
) -> list[dict[str, Any]]:
    """Merge tables one after the other in one session; a table that fails does not stop the others.

    :param step: called before each step with its name; it may raise :class:`.serve.Gone`.
    :return: one result for each; a failed one has ``error`` (``refused``, ``overtaken``, ``terminal`` or
        ``failed``)
        and ``message``.
    """
    results = []
    for request in requests:
        try:
            result = _summed(request, merge_all(spark, request, step=step))
        except Gone:
            raise
        except Overtaken as error:
            result = {"table": request.history, "error": "overtaken", "message": str(error)}
        except Refused as error:
            result = {
                "table": request.history,
                "error": "refused",
                "rule": error.rule,
                "keys": error.keys,
                "message": f"{request.history}: {error}",
            }
        except TerminalError as error:
            result = {"table": request.history, "error": "terminal", "message": f"{request.history}: {error}"}
        except Exception as error:  # a service that does not answer, or a defect: the other tables go on all the same
            traceback.print_exc()
            result = {
                "table": request.history,
                "error": "failed",
                "message": f"{request.history}: {_first_lines(error)}",
            }
        print(f"scd2 merge: {json.dumps(result)}", flush=True)
        results.append(result)
    return results


def _first_lines(error: Exception) -> str:
    """An error's own words, without the pages of Java's stack that Spark appends."""
    return f"{type(error).__name__}: " + " ".join(str(error).split("\tat ", 1)[0].split())[:2000]


def _serve(spark: Any, path: Path, followed: Sequence[MergeRequest], seconds: float) -> None:
    """Answer merges, and follow tables, until a signal comes or the JVM is gone."""
    server = Server(path, lambda requests, step: merge_tables(spark, requests, step))
    stopped = threading.Event()

    def stop() -> None:
        stopped.set()
        server.stop()

    def watch() -> None:
        while not stopped.wait(1.0):
            if spark.sparkContext._gateway.proc.poll() is not None:
                print("scd2 serve: the JVM is gone", flush=True)
                os._exit(1)  # nothing of this process can be used any more; its supervisor starts another

    stop_on_signals(stop)
    clients = {request.history: _client(spark, request) for request in followed}

    def moved(request: MergeRequest) -> object:
        names = (request.bronze, request.transactions, request.notifications)
        entries = [clients[request.history].content(tuple(name.split("."))) for name in names if name]
        return tuple(entry and entry.snapshot_id for entry in entries)

    workers = [threading.Thread(target=watch, daemon=True)]
    if followed:
        workers.append(threading.Thread(target=follow, args=(server, followed, moved, seconds, stopped), daemon=True))
    for worker in workers:
        worker.start()
    server.run(lambda: print(f"scd2 serve: listening at {path}", flush=True))


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code: 0, or 1 if a merge failed.

    :param arguments: of the command line.
    """
    parser = argparse.ArgumentParser(description="Merge bronze into the histories of tables.")
    parser.add_argument("--request", type=Path, help="JSON list of MergeRequest; with --serve: tables to follow")
    parser.add_argument("--result", type=Path, help="where to write the outcomes as JSON")
    parser.add_argument("--serve", type=Path, metavar="SOCKET", help="stay, and answer merges at this socket")
    parser.add_argument("--every", type=float, default=0.2, metavar="SECONDS", help="between looks at followed tables")
    options = parser.parse_args(arguments)
    if options.request is None and options.serve is None:
        parser.error("--request or --serve is needed")
    requests = read_requests(options.request) if options.request else []
    spark = session()
    try:
        if options.serve:
            _serve(spark, options.serve, requests, options.every)
            return 0
        results = merge_tables(spark, requests)
    finally:
        spark.stop()
    if options.result:
        options.result.write_text(json.dumps(results), encoding="utf-8")
    return 1 if any("error" in result for result in results) else 0


if __name__ == "__main__":
    raise SystemExit(main())
