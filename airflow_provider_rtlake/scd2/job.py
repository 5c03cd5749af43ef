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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow_provider_rtlake.clients.nessie import NessieClient, Reference
from airflow_provider_rtlake.exceptions import TerminalError
from airflow_provider_rtlake.scd2.arrival import Arrival
from airflow_provider_rtlake.scd2.bronze import Range, ranges
from airflow_provider_rtlake.scd2.change import ChangeReader
from airflow_provider_rtlake.scd2.checkpoint import CHECKPOINT_KEY, Checkpoint
from airflow_provider_rtlake.scd2.collect import Collector, Ready, check_epoch, check_key
from airflow_provider_rtlake.scd2.fold import Refused
from airflow_provider_rtlake.scd2.lake import Lake, Table, Traffic, catalog_settings
from airflow_provider_rtlake.scd2.publish import Overtaken, Publisher
from airflow_provider_rtlake.scd2.reads import Wanted, read_files
from airflow_provider_rtlake.scd2.request import MergeRequest, read_requests
from airflow_provider_rtlake.scd2.serve import Gone, Server, follow, stop_on_signals
from airflow_provider_rtlake.scd2.store import conform
from airflow_provider_rtlake.scd2.suppress import Suppression
from airflow_provider_rtlake.scd2.tables import arrow_schema
from airflow_provider_rtlake.scd2.write import Done, Work, Write, buckets_for


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


def reader_of(request: MergeRequest) -> ChangeReader:
    """What reads a table's rows of bronze, as it is declared.

    :param request: which table.
    """
    return ChangeReader(
        renamed_from=request.renamed_from,
        text_columns=frozenset(request.text_columns),
        placeholder=request.placeholder,
        excluded=frozenset(request.excluded),
    )


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
        publisher = Publisher(nessie, request.history, request.main)
        self._work = Work(request, reader_of(request), publisher, crash, uuid.uuid4().hex[:16])
        self._started = time.monotonic()

    def run(self) -> Outcome:
        """Merge what is new, at most ``max_rows`` rows of bronze.

        :raises Refused: the changes break a rule; the branch is kept.
        :raises Overtaken: another merge was published meanwhile.
        """
        request, work = self._request, self._work
        with work.steps.timed("look"):
            base = work.publisher.main()
            lake = Lake(self._spark, request.catalog, request.main, base.hash)
            bronze, table = lake.tables([request.bronze, request.checkpoint])
            checkpoint = self._checkpoint(table)
            parts = ranges(bronze, checkpoint.bronze_seen, request.max_rows) if bronze else []
            waits = checkpoint.bronze_snapshot != checkpoint.bronze_seen
            news = bool(parts) or waits or self._noticed(lake, checkpoint)
        if bronze is None or not news:
            return Outcome(False, False, 0, self._statistics())
        suppression = Suppression.of(table.properties) if table else Suppression("")
        return self._merge(base, lake, bronze, checkpoint, parts, suppression)

    def _merge(
        self,
        base: Reference,
        lake: Lake,
        bronze: Table,
        checkpoint: Checkpoint,
        parts: list[Range],
        suppression: Suppression,
    ) -> Outcome:
        request, work = self._request, self._work
        names = [request.history, request.changes, request.transactions, request.notifications]
        present = [name for name in names if name is not None]
        tables = dict(zip(present, lake.tables(present), strict=True))
        history, changes, markers, notices = (tables.get(name or "") for name in names)
        expected = sum(part.rows for part in parts)
        buckets = buckets_for(request, history, expected)
        arrival = Arrival(buckets, expected)
        try:
            collector = Collector(request, work.reader, suppression, work.steps, work.traffic)
            made = collector.collect(bronze, (markers, notices), checkpoint, parts, arrival)
            behind = made.left > 0
            if made.nothing:
                return Outcome(False, behind, made.waiting, self._statistics())
            check_epoch(checkpoint, made, request.history)
            key = check_key(checkpoint, made, request.history)
            after = _reached(checkpoint, made, key, work.merge_id)
            writing = Write(
                work,
                lake,
                base,
                checkpoint,
                made,
                (history, changes),
                buckets,
                after,
                lambda: self._statistics(writing.done, made),
            )
            place = writing.run()
        finally:
            arrival.drop()
        if place is None:
            return Outcome(False, behind, made.waiting, self._statistics(writing.done))
        with work.steps.timed("publish"):
            work.crash("publish")
            count = writing.done.counts.get("changes", 0)
            message = f"scd2 merge of {request.history}: {count} changes, {after.position_text}"
            work.publisher.publish(place, request.checkpoint, message)
        return Outcome(True, behind, made.waiting, self._statistics(writing.done, made))

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
        rows = _all_rows(table, self._work.traffic)
        return Checkpoint.of_row(max(rows, key=lambda row: row["merged_at"])) if rows else Checkpoint()

    def _statistics(self, done: Done | None = None, made: Ready | None = None) -> dict[str, Any]:
        decided = made.decision if made else None
        return {
            "table": self._request.history,
            "merge_id": self._work.merge_id,
            "seconds": round(time.monotonic() - self._started, 3),
            "steps": dict(self._work.steps.seconds),
            **self._work.traffic.as_json(),
            **(done.counts if done else {}),
            **(
                {
                    "forced_transactions": decided.forced,
                    "unfinished_snapshots": decided.snapshots.unfinished,
                    "unreadable": len(made.unread),
                    "waiting": made.waiting,
                    "position": decided.reached.text if decided.reached else None,
                }
                if made and decided
                else {}
            ),
        }


def _reached(checkpoint: Checkpoint, made: Ready, key: tuple[str, ...] | None, merge_id: str) -> Checkpoint:
    """The checkpoint that a merge reaches; its marks follow from the plan.

    :param key: names of the key's columns.
    """
    decided, verdict = made.decision, made.decision.snapshots
    return Checkpoint(
        position=decided.reached,
        epoch=made.newest_epoch() or checkpoint.epoch,
        bronze_snapshot=made.resume,
        bronze_seen=made.seen,
        transactions_snapshot=made.told.transactions,
        ends=tuple(decided.ends),
        end_lsn=decided.end_lsn,
        merge_id=merge_id,
        streaming_at=made.told.streaming_at,
        notifications_snapshot=made.told.notifications,
        snapshot_ends=tuple(verdict.left),
        snapshot_order=verdict.order,
        key=key,
    )


def _all_rows(table: Table, traffic: Traffic) -> list[dict[str, Any]]:
    wanted = Wanted(table.field_ids())
    found = read_files(table.lake.store, table.tasks(), wanted, traffic)
    return list(conform(found, arrow_schema(table.schema_json)).to_pylist())


def client_of(spark: Any, request: MergeRequest) -> NessieClient:
    """A client of the catalog behind a table.

    :param spark: the session.
    :param request: which table.
    """
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
    with client_of(spark, request) as client:
        return Merge(spark, request, client, crash or (lambda step: None)).run()


def merge_all(
    spark: Any, request: MergeRequest, limit: int = 1000, step: Callable[[str], None] | None = None
) -> list[Outcome]:
    """Merge until nothing more can be published.

    :param limit: merges at most.
    :param step: called before each step with its name; what it raises ends the merge, safely.
    """
    outcomes = []
    with client_of(spark, request) as nessie:
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
    spark: Any,
    requests: Sequence[MergeRequest],
    step: Callable[[str], None] | None = None,
    first: Callable[[Any, MergeRequest], None] = lambda spark, request: None,
) -> list[dict[str, Any]]:
    """Merge tables one after the other in one session; a table that fails does not stop the others.

    :param step: called before each step with its name; it may raise :class:`.serve.Gone`.
    :param first: called with the session and each request before the table is merged.
    :return: one result for each; a failed one has ``error`` (``refused``, ``overtaken``, ``terminal`` or
        ``failed``)
        and ``message``.
    """
    results = []
    for request in requests:
        try:
            first(spark, request)
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
    clients = {request.history: client_of(spark, request) for request in followed}

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
