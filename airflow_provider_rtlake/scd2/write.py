"""Plans a merge on what main holds, and writes it on a branch: at once, or chunk by chunk where it is large."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from airflow_provider_rtlake.clients.nessie import Reference
from airflow_provider_rtlake.exceptions import TransientError
from airflow_provider_rtlake.scd2.arrival import Chunk
from airflow_provider_rtlake.scd2.change import ChangeReader
from airflow_provider_rtlake.scd2.checkpoint import CHECKPOINT_KEY, Checkpoint
from airflow_provider_rtlake.scd2.collect import Ready
from airflow_provider_rtlake.scd2.columns import arrow_type
from airflow_provider_rtlake.scd2.files import ChangesFiles, HistoryFiles
from airflow_provider_rtlake.scd2.fold import Mark, Refused
from airflow_provider_rtlake.scd2.lake import Lake, Table, Traffic, begin_side_by_side, side_by_side
from airflow_provider_rtlake.scd2.planning import Whole, linked_keys, plan_rows
from airflow_provider_rtlake.scd2.publish import Publisher, Workplace
from airflow_provider_rtlake.scd2.request import MergeRequest
from airflow_provider_rtlake.scd2.rows import Array, T
from airflow_provider_rtlake.scd2.steps import Steps
from airflow_provider_rtlake.scd2.store import LakeStore
from airflow_provider_rtlake.scd2.stretch import Stretch
from airflow_provider_rtlake.scd2.tables import (
    BUCKETS,
    CHANGES_COLUMNS,
    CHECKPOINT_COLUMNS,
    HISTORY_COLUMNS,
    UNREAD_COLUMNS,
    Evolution,
    Layout,
    arrow_schema,
    create_statement,
    evolution,
    source_columns,
    spark_type,
)
from airflow_provider_rtlake.scd2.writing import check_alone, check_anew, unread_table

_KEYS_PER_BUCKET = 2_000_000
_MANIFESTS = "8"  # of which Iceberg makes one: each merge reads those that are there


@dataclass(frozen=True)
class Work:
    """What the steps of one merge share.

    :param crash: called with the name of each step before it.
    """

    request: MergeRequest
    reader: ChangeReader
    publisher: Publisher
    crash: Callable[[str], None]
    merge_id: str
    steps: Steps = field(default_factory=Steps)
    traffic: Traffic = field(default_factory=Traffic)


def buckets_for(request: MergeRequest, history: Table | None, rows: int) -> int:
    """Partitions of the last versions.

    :param history: which tells it, where it is there.
    :param rows: that its first merge has at most.
    """
    if history is not None:
        return int(history.properties.get(BUCKETS, "1"))
    if request.buckets:
        return request.buckets
    buckets = 1
    while buckets * _KEYS_PER_BUCKET < rows:
        buckets *= 2
    return buckets


@dataclass
class Done:
    """What a merge did so far.

    :param counts: its statistics, added up.
    :param marks: known from now on.
    :param nothing: nothing but a position is to be written.
    """

    marks: list[Mark]
    counts: dict[str, int] = field(default_factory=dict)
    nothing: bool = True
    _first: bool = True

    def add(self, whole: Whole) -> None:
        """Count a chunk. Every chunk meets the truncates, of which there is one."""
        found = whole.statistics()
        if not self._first:
            found["changes"] = max(0, found["changes"] - found["truncates"])
            found["truncates"] = 0
        self._first = False
        self.counts = {name: self.counts.get(name, 0) + value for name, value in found.items()}
        self.marks = whole.plan.marks
        self.nothing = self.nothing and whole.nothing


class Write:
    """Plans a merge and writes it.

    :param work: the merge.
    :param lake: main as it was when the merge began.
    :param base: its commit.
    :param checkpoint: how far the history has come.
    :param made: what is to be published.
    :param tables: the history and its changes, None before the first merge.
    :param buckets: partitions of the last versions.
    :param after: the checkpoint that this merge reaches.
    :param statistics: of the merge so far.
    """

    def __init__(
        self,
        work: Work,
        lake: Lake,
        base: Reference,
        checkpoint: Checkpoint,
        made: Ready,
        tables: tuple[Table | None, Table | None],
        buckets: int,
        after: Checkpoint,
        statistics: Callable[[], dict[str, Any]],
    ) -> None:
        self._work, self._request = work, work.request
        self._after, self._statistics = after, statistics
        self._lake, self._base, self._checkpoint, self._made = lake, base, checkpoint, made
        self._untracked = frozenset(work.request.untracked)
        self._history, self._changes = tables
        self._buckets = buckets
        present = source_columns(self._history.schema_json) if self._history else {}
        self._evolution: Evolution = evolution(
            self._request.history, present, made.shapes(work.reader), self._request.renamed_from
        )
        self._target = {**present, **dict(self._evolution.added), **dict(self._evolution.widened)}
        self.done = Done(list(checkpoint.marks))
        self._place: Workplace | None = None
        self._branch: _Branch | None = None
        self._running: list[Future[Any]] = []
        self._anew: list[Whole] = []
        self._settled = False

    def run(self) -> Workplace | None:
        """Plan and write everything; None where there is nothing to write.

        :raises Refused: the changes break a rule; the branch, where there is one already, is kept.
        """
        made = self._made
        try:
            for chunk in made.arrival.chunks(made.ready, made.late, self._linked(), self._concerned):
                whole, store = self._plan(chunk)
                self.done.add(whole)
                if whole.plan.anew:
                    self._anew.append(whole)
                if chunk.stretch.alone:
                    self._write_at_once(whole, chunk, store)
                elif not whole.nothing:
                    self._write_chunk(whole, chunk, store)
            if self._branch is None and not self._idle:
                self._branch = self._begin()
            if self._branch is not None and not self._settled:
                self._settle(self._branch.history.finish, self._branch.changes.commit)
        except Refused as error:
            if self._place is not None:
                name = self._work.publisher.keep(self._place)
                error.args = (f"{error.args[0]}; branch {name} is kept for inspection",)
            raise
        return self._place

    @property
    def _idle(self) -> bool:
        """Whether there is not even a position to write."""
        checkpoint, made = self._checkpoint, self._made
        news = self.done.marks != list(checkpoint.marks) or made.unread or made.seen != checkpoint.bronze_seen
        return self.done.nothing and not news

    def _linked(self) -> Array:
        made = self._made
        if not made.arrival.large and self._concerned == 0:
            return np.empty(0, np.int64)
        stored = self._store(None).moved_keys if self._changes is not None else None
        return linked_keys(made.arrival.rows, made.ready, made.late, self._checkpoint.position, stored)

    @cached_property
    def _concerned(self) -> int:
        """How many versions a truncate, or the end of a snapshot, concerns at most."""
        made = self._made
        if self._history is None or not (made.marks or (made.ready & (made.arrival.rows.op == T)).any()):
            return 0
        return sum(task.records for task in self._history.tasks(last=True))

    def _store(self, stretch: Stretch | None) -> LakeStore:
        aliases = {new: old for old, new in self._evolution.renamed}
        work = self._work
        return LakeStore(
            self._history, self._changes, self._old_layout(), work.reader, work.traffic, aliases, work.steps, stretch
        )

    def _plan(self, chunk: Chunk) -> tuple[Whole, LakeStore]:
        """Read what is touched and fold."""
        store = self._store(chunk.stretch)
        with self._work.steps.timed("fold"):
            whole = plan_rows(
                store,
                chunk.batch,
                chunk.ready,
                chunk.late,
                reader=self._work.reader,
                target={name: arrow_type(kind) for name, kind in self._target.items()},
                marks=self._made.marks,
                known_marks=self._checkpoint.marks,
                reached=self._checkpoint.position,
                untracked=self._untracked,
                columns_stay=not self._evolution.renamed,
            )
        return whole, store

    def _old_layout(self) -> Layout | None:
        if self._history is None:
            return None
        layout = Layout(self._history.schema_json, self._buckets, self._untracked)
        new_names = dict(self._evolution.renamed)
        layout.columns = tuple(new_names.get(name, name) for name in layout.columns)
        return layout

    def _begin(self) -> _Branch:
        work = self._work
        with work.steps.timed("branch"):
            work.crash("branch")
            self._place = work.publisher.begin(self._base, self._after.position_text, work.merge_id)
        with work.steps.timed("tables"):
            work.crash("tables")
            lake = Lake(self._lake.spark, self._request.catalog, self._place.branch)
            history, changes, checkpoint = self._tables(lake)
        layout = Layout(history.schema_json, self._buckets, self._untracked)
        for step in ("write history", "write changes", "write checkpoint"):
            work.crash(step)
        return _Branch(
            lake,
            HistoryFiles(history, layout, work.merge_id, work.traffic),
            ChangesFiles(changes, self._buckets, work.merge_id, work.traffic),
            checkpoint,
            layout,
        )

    def _write_at_once(self, whole: Whole, chunk: Chunk, store: LakeStore) -> None:
        if self._idle:
            return
        branch = self._branch = self._begin()

        def write_history() -> None:
            branch.history.add(whole, store.tasks, alone=True)
            branch.history.finish()

        def write_changes() -> None:
            branch.changes.add(whole, chunk.batch)
            branch.changes.commit()

        self._settle(write_history, write_changes)

    def _write_chunk(self, whole: Whole, chunk: Chunk, store: LakeStore) -> None:
        """Write the files of a chunk while the next one is planned; nothing of them is seen before the commit."""
        branch = self._branch = self._branch or self._begin()
        self._wait()
        works = (lambda: branch.history.add(whole, store.tasks), lambda: branch.changes.add(whole, chunk.batch))
        self._running = begin_side_by_side(*works)

    def _wait(self) -> None:
        running, self._running = self._running, []
        with self._work.steps.timed("write files"):
            for one in running:
                one.result()

    def _settle(self, write_history: Callable[[], None], write_changes: Callable[[], None]) -> None:
        """Commit the tables, each for itself, for they wait for the object store and the catalog most of the time."""
        branch, work = self._branch, self._work
        if branch is None:
            raise ValueError("there is no branch to write on")
        self._wait()
        self._settled = True
        side_by_side(
            _timed(work.steps, "write history", write_history),
            _timed(work.steps, "write changes", write_changes),
            _timed(work.steps, "write checkpoint", lambda: self._write_checkpoint(branch.checkpoint)),
            lambda: self._write_unread(branch.lake),
        )
        with work.steps.timed("check"):
            work.crash("check")
            now = work.publisher.snapshot(self._request.history, self._place.branch if self._place else None)
            check_alone(branch.history.snapshot, now)
            if self._anew:
                table = branch.lake.table(self._request.history)
                store = LakeStore(table, branch.changes.table, branch.layout, work.reader, Traffic())
                for whole in self._anew:
                    check_anew(whole, store)

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

    def _write_checkpoint(self, table: Table) -> None:
        done = replace(self._after, marks=tuple(self.done.marks))
        row = done.row(self._request, self._statistics(), int(time.time() * 1e6))
        append_checkpoint(table, row, self._work.traffic)

    def _write_unread(self, lake: Lake) -> None:
        if not self._made.unread:
            return
        table = lake.table(self._request.unread)
        if table is None:
            raise TransientError(f"{self._request.unread}: cannot be found on the merge's branch")
        rows = unread_table(self._made.unread, arrow_schema(table.schema_json), self._work.merge_id)
        table.append(table.write({"": rows}, self._work.traffic), {"rtlake.merge-id": self._work.merge_id})


def append_checkpoint(table: Table, row: Mapping[str, Any], traffic: Traffic) -> None:
    """Write how far a history has come.

    :param table: of the positions.
    :param row: as of :meth:`.checkpoint.Checkpoint.row`.
    :param traffic: counts what is written.
    """
    schema = arrow_schema(table.schema_json)
    rows = pa.table([pa.array([row[column.name]], column.type) for column in schema], schema=schema)
    # Every snapshot's summary stays in the table's metadata: short, without the statistics.
    summary = {CHECKPOINT_KEY: json.dumps({**row, "statistics": "{}"})}
    table.append(table.write({"": rows}, traffic), summary)


@dataclass(frozen=True)
class _Branch:
    """The tables on a merge's branch."""

    lake: Lake
    history: HistoryFiles
    changes: ChangesFiles
    checkpoint: Table
    layout: Layout


def _timed(steps: Steps, name: str, work: Callable[[], None]) -> Callable[[], None]:
    def timed() -> None:
        with steps.timed(name):
            work()

    return timed
