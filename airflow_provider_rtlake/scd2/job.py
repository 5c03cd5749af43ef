"""The Spark job: one merge, or as many as it takes to catch up.

``python -m airflow_provider_rtlake.scd2.job --request FILE --result FILE`` under spark-submit, or
:func:`merge_once` in a
session that lives on.
"""

from __future__ import annotations

import argparse
import json
import time
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from airflow_provider_rtlake.clients.nessie import NessieClient, Reference
from airflow_provider_rtlake.exceptions import TerminalError, TransientError
from airflow_provider_rtlake.scd2.bronze import Range, SchemaTexts, ranges, read_range, read_transactions
from airflow_provider_rtlake.scd2.change import EPOCH_HEADER, Change, ChangeReader, Shape
from airflow_provider_rtlake.scd2.checks import check_plan, check_written
from airflow_provider_rtlake.scd2.cut import Cut, Patience, TransactionEnd, cut, read_ends
from airflow_provider_rtlake.scd2.fold import Mark, Refused
from airflow_provider_rtlake.scd2.lake import Lake, Table, Traffic, catalog_settings
from airflow_provider_rtlake.scd2.plan import Plan, plan_merge
from airflow_provider_rtlake.scd2.position import Position
from airflow_provider_rtlake.scd2.publish import Overtaken, Publisher, Workplace
from airflow_provider_rtlake.scd2.request import MergeRequest, read_requests
from airflow_provider_rtlake.scd2.store import SparkStore
from airflow_provider_rtlake.scd2.tables import (
    BUCKETS,
    CHANGES_COLUMNS,
    CHECKPOINT_COLUMNS,
    HISTORY_COLUMNS,
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

CHECKPOINT_KEY = "rtlake.checkpoint"  # in the snapshot summary: read without opening a data file
_KEYS_PER_BUCKET = 500_000
_SCHEMAS = SchemaTexts()


@dataclass(frozen=True)
class Checkpoint:
    """How far a history has come.

    :param position: of the last change published; None before the first merge.
    :param epoch: header of the newest epoch.
    :param bronze_snapshot: everything up to it is published.
    :param bronze_seen: everything up to it was read; what stands behind ``position`` in between waits.
    :param transactions_snapshot: everything up to it was read, and what is still needed is in ``ends``.
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

    @property
    def position_text(self) -> str:
        """The position, or 0 before the first."""
        return self.position.text if self.position else "0"

    def row(self, request: MergeRequest, statistics: Mapping[str, Any], now: int) -> dict[str, Any]:
        """As a row of the checkpoint table."""
        pending = {"ends": [end.as_json() for end in self.ends], "end_lsn": self.end_lsn}
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
            bronze = lake.table(self._request.bronze)
            checkpoint = self._checkpoint(lake)
            parts = ranges(bronze, checkpoint.bronze_seen, self._request.max_rows) if bronze else []
        if bronze is None or (not parts and checkpoint.bronze_snapshot == checkpoint.bronze_seen):
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
        made, taken, reached, resume = self._ready(lake, bronze, checkpoint, parts)
        behind = taken < len(parts)
        if not made.ready and not made.marks:
            return Outcome(False, behind, len(made.pending), self._statistics(None, started))
        seen = parts[taken - 1].end if taken else checkpoint.bronze_seen
        after = Checkpoint(
            position=made.reached,
            epoch=_newest_epoch(made.ready) or checkpoint.epoch,
            bronze_snapshot=resume,
            bronze_seen=seen,
            transactions_snapshot=reached,
            ends=tuple(made.ends),
            end_lsn=made.end_lsn,
            merge_id=self._merge_id,
        )
        _check_epoch(checkpoint, made, self._request.history)
        work = _Write(self, lake, base, checkpoint, made)
        plan = work.plan()
        nothing = not (plan.applied or plan.added or plan.removed) and plan.marks == list(checkpoint.marks)
        if nothing and after.bronze_seen == checkpoint.bronze_seen:
            return Outcome(False, behind, len(made.pending), self._statistics(plan, started))
        place = work.carry_out(plan, after, started)
        with self._steps.timed("publish"):
            self._crash("publish")
            message = f"scd2 merge of {self._request.history}: {plan.changes} changes, {after.position_text}"
            self._publisher.publish(place, self._request.checkpoint, message)
        return Outcome(True, behind, len(made.pending), self._statistics(plan, started, made))

    def _checkpoint(self, lake: Lake) -> Checkpoint:
        table = lake.table(self._request.checkpoint)
        if table is None:
            return Checkpoint()
        text = table.newest_with(CHECKPOINT_KEY)
        if text is not None:
            return Checkpoint.of_row(json.loads(text))
        rows = table.frame().orderBy("merged_at", ascending=False).limit(1).collect()
        return Checkpoint.of_row(rows[0].asDict()) if rows else Checkpoint()

    def _ready(
        self, lake: Lake, bronze: Table, checkpoint: Checkpoint, parts: list[Range]
    ) -> tuple[Cut, int, int | None, int | None]:
        """Read ranges of bronze until something may be published.

        :return: the cut, how many ranges were read, the snapshot of the transactions table that was read, and the
            snapshot of bronze before the first row that waits.
        """
        with self._steps.timed("transactions"):
            ends, reached, streaming_at = self._ends(lake, checkpoint)
        groups = [(checkpoint.bronze_snapshot, self._waiting(bronze, checkpoint))]
        made, taken, seen = Cut(), 0, checkpoint.bronze_seen
        request = self._request
        patience = Patience(
            now=int(time.time() * 1e6),
            limit=int(request.patience_seconds * 1e6),
            snapshot_limit=int(request.snapshot_patience_seconds * 1e6),
        )
        while True:
            if taken < len(parts):
                with self._steps.timed("read bronze"):
                    raws = read_range(bronze, parts[taken], _SCHEMAS, self._traffic)
                with self._steps.timed("parse"):
                    groups.append((parts[taken].start, [self._reader.read(raw) for raw in raws]))
                seen = parts[taken].end
                taken += 1
            changes = [change for _, group in groups for change in group]
            made = cut(
                changes,
                ends,
                reached=checkpoint.position,
                end_lsn=checkpoint.end_lsn,
                patience=patience,
                streaming_at=streaming_at,
            )
            if made.ready or made.marks or taken >= len(parts):
                return made, taken, reached, _resume(groups, made, seen)

    def _waiting(self, bronze: Table, checkpoint: Checkpoint) -> list[Change]:
        """Rows that were read before and had to wait: what was published of that range is left out."""
        if checkpoint.bronze_seen is None or checkpoint.bronze_snapshot == checkpoint.bronze_seen:
            return []
        start = checkpoint.bronze_snapshot
        if start is not None and not bronze.has_ancestor(start):
            start = None
        with self._steps.timed("read bronze"):
            raws = read_range(bronze, Range(start, checkpoint.bronze_seen, 0), _SCHEMAS, self._traffic)
        with self._steps.timed("parse"):
            changes = [self._reader.read(raw) for raw in raws]
        reached = checkpoint.position
        return [change for change in changes if reached is None or change.position > reached]

    def _ends(self, lake: Lake, checkpoint: Checkpoint) -> tuple[list[TransactionEnd] | None, int | None, int]:
        """Transaction ends that are not used up, the snapshot they were read to, and when the newest marker arrived."""
        if self._request.transactions is None:
            return None, None, 0
        table = lake.table(self._request.transactions)
        if table is None:
            return None, None, 0
        ends, newest = list(checkpoint.ends), 0
        for part in ranges(table, checkpoint.transactions_snapshot, 10**12):
            rows, arrived = read_transactions(table, part, self._request.collection)
            ends += read_ends(rows, self._request.collection)
            newest = max(newest, arrived)
        return ends, table.snapshot_id, newest

    def _statistics(self, plan: Plan | None, started: float, made: Cut | None = None) -> dict[str, Any]:
        return {
            "table": self._request.history,
            "merge_id": self._merge_id,
            "seconds": round(time.monotonic() - started, 3),
            "steps": dict(self._steps.seconds),
            **self._traffic.as_json(),
            **(plan.statistics() if plan else {}),
            **(
                {
                    "forced_transactions": made.forced,
                    "waiting": len(made.pending),
                    "position": made.reached.text if made.reached else None,
                }
                if made
                else {}
            ),
        }


class _Write:
    """Plans a merge on what main holds and writes it on a branch."""

    def __init__(self, merge: Merge, lake: Lake, base: Reference, checkpoint: Checkpoint, made: Cut) -> None:
        self._merge = merge
        self._request = merge._request
        self._steps, self._traffic, self._crash = merge._steps, merge._traffic, merge._crash
        self._lake, self._base, self._checkpoint, self._made = lake, base, checkpoint, made
        self._untracked = frozenset(self._request.untracked)
        self._history = lake.table(self._request.history)
        self._changes = lake.table(self._request.changes)
        present = source_columns(self._history.schema_json) if self._history else {}
        self._evolution: Evolution = evolution(
            self._request.history, present, _shapes(made.ready), self._request.renamed_from
        )
        self._buckets = self._choose_buckets(len(made.ready))

    def _choose_buckets(self, rows: int) -> int:
        if self._history is not None:
            return int(self._history.properties.get(BUCKETS, "1"))
        if self._request.buckets:
            return self._request.buckets
        buckets = 1
        while buckets * _KEYS_PER_BUCKET < rows:
            buckets *= 2
        return buckets

    def plan(self) -> Plan:
        """Read what is touched and fold."""
        store = self._store(self._history, self._changes, self._old_layout())
        with self._steps.timed("fold"):
            plan = plan_merge(
                store,
                self._made.ready,
                marks=self._made.marks,
                known_marks=self._checkpoint.marks,
                reached=self._checkpoint.position,
                untracked=self._untracked,
            )
            check_plan(plan)
        return plan

    def _old_layout(self) -> Layout | None:
        if self._history is None:
            return None
        layout = Layout(self._history.schema_json, self._buckets, self._untracked)
        new_names = dict(self._evolution.renamed)
        layout.columns = tuple(new_names.get(name, name) for name in layout.columns)
        return layout

    def _store(self, history: Table | None, changes: Table | None, layout: Layout | None) -> SparkStore:
        aliases = {new: old for old, new in self._evolution.renamed}
        return SparkStore(history, changes, layout, self._merge._reader, self._traffic, aliases)

    def carry_out(self, plan: Plan, after: Checkpoint, started: float) -> Workplace:
        """Write the plan on a branch and check it there."""
        publisher = self._merge._publisher
        with self._steps.timed("branch"):
            self._crash("branch")
            place = publisher.begin(self._base, after.position_text, self._merge._merge_id)
        try:
            lake = Lake(self._lake.spark, self._request.catalog, place.branch)
            with self._steps.timed("tables"):
                self._crash("tables")
                history, changes, checkpoint = self._tables(lake)
            layout = Layout(history.schema_json, self._buckets, self._untracked)
            with self._steps.timed("write history"):
                self._crash("write history")
                self._write_history(history, layout, plan)
            with self._steps.timed("write changes"):
                self._crash("write changes")
                self._write_changes(changes, plan)
            with self._steps.timed("check"):
                self._crash("check")
                found = SparkStore(history, changes, layout, self._merge._reader, Traffic())
                check_written(plan, found.last_rows(plan.expected.keys()))
            with self._steps.timed("write checkpoint"):
                self._crash("write checkpoint")
                self._write_checkpoint(checkpoint, plan, after, started)
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
            settings = {BUCKETS: str(self._buckets), "rtlake.source": request.collection.replace("'", "")}
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
        if lake.table(request.checkpoint) is None:
            lake.sql(create_statement(lake.quoted(request.checkpoint), CHECKPOINT_COLUMNS, []))
        found = [lake.table(name) for name in (request.history, request.changes, request.checkpoint)]
        history, changes, checkpoint = found
        if history is None or changes is None or checkpoint is None:
            raise TransientError(f"{request.history}: its tables cannot be found on the merge's branch")
        return history, changes, checkpoint

    def _write_history(self, history: Table, layout: Layout, plan: Plan) -> None:
        if not plan.added and not plan.removed:
            return
        rows = {
            f"scd2_last={str(last).lower()}/scd2_bucket={bucket}": table
            for (last, bucket), table in layout.rows(plan.added).items()
        }
        gone: dict[str, list[tuple[str, int]]] = {}
        for stored in plan.removed:
            path, row, bucket = stored.ref
            gone.setdefault(f"scd2_last={str(stored.last).lower()}/scd2_bucket={bucket}", []).append((path, row))
        added = history.write(rows, self._traffic)
        deletes = history.write_deletes(gone, self._traffic)
        history.replace(added, deletes, {"rtlake.merge-id": self._merge._merge_id})

    def _write_changes(self, changes: Table, plan: Plan) -> None:
        if not plan.applied:
            return
        tables = changes_table(plan.applied, arrow_schema(changes.schema_json), self._buckets, self._merge._merge_id)
        files = changes.write({f"scd2_bucket={bucket}": rows for bucket, rows in tables.items()}, self._traffic)
        changes.append(files, {"rtlake.merge-id": self._merge._merge_id})

    def _write_checkpoint(self, table: Table, plan: Plan, after: Checkpoint, started: float) -> None:
        whole = Checkpoint(**{**vars(after), "marks": tuple(plan.marks)})
        statistics = self._merge._statistics(plan, started, self._made)
        row = whole.row(self._request, statistics, int(time.time() * 1e6))
        schema = arrow_schema(table.schema_json)
        rows = pa.table([pa.array([row[column.name]], column.type) for column in schema], schema=schema)
        table.append(table.write({"": rows}, self._traffic), {CHECKPOINT_KEY: json.dumps(row)})


def _resume(groups: Sequence[tuple[int | None, list[Change]]], made: Cut, seen: int | None) -> int | None:
    """The snapshot of bronze before the first row that waits."""
    waiting = {id(change) for change in made.pending}
    return next((start for start, group in groups if any(id(change) in waiting for change in group)), seen)


def _shapes(changes: Iterable[Change]) -> list[Shape]:
    """Distinct shapes in the order of their first change."""
    found: dict[int, Shape] = {}
    for change in sorted(changes, key=lambda change: change.position):
        found.setdefault(id(change.shape), change.shape)
    return list(found.values())


def _newest_epoch(changes: Iterable[Change]) -> str | None:
    newest = max(changes, key=lambda change: change.position, default=None)
    return None if newest is None else (newest.raw.headers or {}).get(EPOCH_HEADER)


def _check_epoch(checkpoint: Checkpoint, made: Cut, table: str) -> None:
    """A new life of the slot begins with a snapshot; without one, nobody knows what was lost between."""
    if checkpoint.position is None:
        return
    known = checkpoint.position.epoch
    newer = {change.position.epoch for change in made.ready if change.position.epoch > known}
    snapshots = {mark.position.epoch for mark in made.marks}
    lost = newer - snapshots - {change.position.epoch for change in made.ready if change.op == "r"}
    if lost:
        raise EpochChanged(
            f"{table}: the replication slot was lost (epoch {known} → {min(lost)}) and no snapshot of it came with "
            "the new one: take a new snapshot (rtlake connectors apply); nothing was written"
        )
    headers = {(change.raw.headers or {}).get(EPOCH_HEADER) for change in made.ready if change.position.epoch == known}
    other = headers - {checkpoint.epoch, None}
    if checkpoint.epoch and other:
        raise EpochChanged(
            f"{table}: changes of another database or timeline ({sorted(map(str, other))[0]}) follow those of "
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


def merge_all(spark: Any, request: MergeRequest, limit: int = 1000) -> list[Outcome]:
    """Merge until nothing more can be published.

    :param limit: merges at most.
    """
    outcomes = []
    with _client(spark, request) as nessie:
        for _ in range(limit):
            outcome = merge_once(spark, request, nessie)
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


def merge_tables(spark: Any, requests: Sequence[MergeRequest]) -> list[dict[str, Any]]:
    """Merge tables one after the other in one session; a table that fails does not stop the others.

    :return: one result for each; a failed one has ``error`` (``refused``, ``overtaken``, ``terminal`` or
        ``failed``)
        and ``message``.
    """
    results = []
    for request in requests:
        try:
            result = _summed(request, merge_all(spark, request))
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code: 0, or 1 if a merge failed.

    :param arguments: of the command line.
    """
    parser = argparse.ArgumentParser(description="Merge bronze into the histories of tables.")
    parser.add_argument("--request", type=Path, required=True, help="JSON list of MergeRequest")
    parser.add_argument("--result", type=Path, help="where to write the outcomes as JSON")
    parser.add_argument("--loop", type=float, metavar="SECONDS", help="go on, looking again after so many seconds")
    options = parser.parse_args(arguments)
    requests = read_requests(options.request)
    spark = session()
    try:
        results = merge_tables(spark, requests)
        while options.loop is not None:
            time.sleep(options.loop)
            results = merge_tables(spark, requests)
    finally:
        spark.stop()
    if options.result:
        options.result.write_text(json.dumps(results), encoding="utf-8")
    return 1 if any("error" in result for result in results) else 0


if __name__ == "__main__":
    raise SystemExit(main())
