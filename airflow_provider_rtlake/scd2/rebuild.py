"""Builds a history anew from bronze, for what a merge cannot change on one that stands: the type of a column.

The tables go and the position falls back to the beginning in one Nessie commit, so a merge that runs at the same time
either comes before it or is overtaken. The checkpoint's table stays, because it holds the list of erased keys. The old
tables' files are deleted, for an erasure looks only into the tables that are there; until then the checkpoint's table
names their places.
"""

# ruff: noqa: S608 (every name in a statement is quoted)

from __future__ import annotations

import argparse
import json
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from airflow_provider_rtlake.clients.nessie import NessieClient
from airflow_provider_rtlake.exceptions import UserError
from airflow_provider_rtlake.maintenance.plan import possible_witnesses
from airflow_provider_rtlake.scd2.arrival import PIECE
from airflow_provider_rtlake.scd2.bronze import ranges, read_range
from airflow_provider_rtlake.scd2.checkpoint import Checkpoint
from airflow_provider_rtlake.scd2.columns import read_rows
from airflow_provider_rtlake.scd2.erase import GIVEN_UP, delete_given_up, drop_branches
from airflow_provider_rtlake.scd2.job import client_of, merge_tables, reader_of, session
from airflow_provider_rtlake.scd2.lake import Lake, Table, Traffic
from airflow_provider_rtlake.scd2.publish import Publisher
from airflow_provider_rtlake.scd2.request import MergeRequest, read_requests
from airflow_provider_rtlake.scd2.suppress import Suppression
from airflow_provider_rtlake.scd2.tables import evolution
from airflow_provider_rtlake.scd2.write import append_checkpoint


def give_up(spark: Any, request: MergeRequest) -> None:
    """Drop a history and what was made beside it, so that the next merge builds it from all of bronze.

    :param spark: a session.
    :param request: which table.
    :raises UserError: there is nothing to rebuild, bronze does not hold all that the history was made from, or another
        reference shows the tables.
    :raises ValueRefused: bronze holds a value that the columns as declared now cannot hold.
    :raises SchemaIncompatible: or two types of a column.
    :raises Overtaken: a merge was published meanwhile.
    """
    delete_given_up(Lake(spark, request.catalog, request.main), request)  # of a run that was interrupted
    with client_of(spark, request) as nessie:
        publisher = Publisher(nessie, request.history, request.main)
        base = publisher.main()
        lake = Lake(spark, request.catalog, request.main, base.hash)
        names = [request.history, request.changes, request.unread, request.bronze, request.checkpoint]
        history, changes, unread, bronze, checkpoint = lake.tables(names)
        if checkpoint is None or history is None:
            raise UserError(f"{request.history}: there is no history to rebuild; rtlake scd2 merge makes it")
        _refuse_witnesses(nessie, request)
        _refuse_lost(lake, request, bronze, changes)
        if bronze is not None:
            _try(request, bronze, Suppression.of(checkpoint.properties))
        old = [table for table in (history, changes, unread) if table is not None]
        place = publisher.begin(base, "rebuild", uuid.uuid4().hex[:16])
        _drop(Lake(spark, request.catalog, place.branch), old, request)
        publisher.publish(place, request.checkpoint, f"scd2: {request.history} is built anew from bronze")
    drop_branches(spark, request)
    delete_given_up(Lake(spark, request.catalog, request.main), request)


def _refuse_witnesses(nessie: NessieClient, request: MergeRequest) -> None:
    """Branches of merges go; whatever else shows the history needs its files."""
    names = [reference.name for reference in nessie.references()]
    others = possible_witnesses(names, request.main, None)
    seeing = [name for name in others if nessie.content(tuple(request.history.split(".")), name) is not None]
    if seeing:
        raise UserError(
            f"{request.history}: {', '.join(seeing)} shows it too, and its files are to be deleted: delete that "
            "reference first; nothing was changed"
        )


def _refuse_lost(lake: Lake, request: MergeRequest, bronze: Table | None, changes: Table | None) -> None:
    """What the history was made from has to be in bronze still."""
    if changes is None or changes.snapshot_id is None:
        return
    applied = f"SELECT count(*) AS n FROM {lake.quoted(request.changes)} c"
    if bronze is not None:
        same = " AND ".join(f"c.{name} = b.{name}" for name in ("topic", "topic_partition", "topic_offset", "kafka_ts"))
        applied += f" LEFT ANTI JOIN {lake.quoted(request.bronze)} b ON {same}"
    lost = int(lake.spark.sql(applied).collect()[0].n)
    if lost:
        raise UserError(
            f"{request.history}: {lost} changes that it was made from are not in {request.bronze} any more: built "
            "anew, it would lack them; nothing was changed"
        )


def _try(request: MergeRequest, bronze: Table, suppression: Suppression) -> None:
    """Read all of bronze as the merges will: what would stop them is told while the history is still there."""
    reader, traffic = reader_of(request), Traffic()
    schemas: dict[str, None] = {}
    for part in ranges(bronze, None, request.max_rows):
        for rows in read_range(bronze, part, traffic, PIECE):
            batch, _ = read_rows(suppression.keep(rows), reader, 0)
            schemas |= dict.fromkeys(batch.rows["value_schema"].unique().to_pylist())
    evolution(request.history, {}, [reader.shape(text) for text in schemas], request.renamed_from)


def _drop(branch: Lake, tables: Sequence[Table], request: MergeRequest) -> None:
    for table in tables:
        branch.sql(f"DROP TABLE {branch.quoted(table.name)}")
    checkpoint = branch.table(request.checkpoint)
    if checkpoint is None:
        raise UserError(f"{request.checkpoint}: the table went meanwhile; run it again")
    places = json.dumps([str(table.java.location()) for table in tables])
    checkpoint.java.updateProperties().set(GIVEN_UP, places).commit()
    row = Checkpoint(merge_id="rebuild").row(request, {}, int(time.time() * 1e6))
    append_checkpoint(checkpoint, row, Traffic())


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point under spark-submit: give the histories up and merge; the exit code, 1 if one failed.

    :param arguments: of the command line.
    """
    parser = argparse.ArgumentParser(description="Build histories anew from bronze.")
    parser.add_argument("--request", type=Path, required=True, help="JSON list of MergeRequest")
    parser.add_argument("--result", type=Path, required=True, help="where to write the outcomes as JSON")
    options = parser.parse_args(arguments)
    spark = session("rtlake-scd2-rebuild")
    try:
        results = merge_tables(spark, read_requests(options.request), first=give_up)
    finally:
        spark.stop()
    options.result.write_text(json.dumps(results), encoding="utf-8")
    return 1 if any("error" in result for result in results) else 0


if __name__ == "__main__":
    raise SystemExit(main())
