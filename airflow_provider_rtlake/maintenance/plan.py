"""Decides what a table's maintenance may do, and says it in Trino's SQL."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from airflow_provider_rtlake.checks.names import TableName, quoted

ACTIONS = ("compact", "manifests", "expire", "orphans")
# Those that delete files; the others only write.
DELETING = frozenset({"expire", "orphans"})
# Files that nothing names may be of a write that has not committed yet: they are left alone for so long at least.
ORPHAN_AGE = timedelta(days=7)
_MARGIN = timedelta(minutes=1)  # so that a snapshot that is still needed is never on the edge


@dataclass(frozen=True)
class Retention:
    """How much of a table's past is kept.

    :param keep: snapshots younger than this stay.
    :param because: what asked for more than was wanted; empty where nothing did.
    """

    keep: timedelta
    because: str = ""


def retention(wanted: timedelta, now: datetime, needed: Mapping[str, datetime | None]) -> Retention:
    """Keep what is wanted, and further back to the oldest snapshot that somebody still needs.

    :param wanted: age below which snapshots stay in any case.
    :param now: the present, with a time zone.
    :param needed: who needs a snapshot → when that was committed, None where it is gone already.
    """
    held = {who: when for who, when in needed.items() if when is not None}
    if not held:
        return Retention(wanted)
    who, oldest = min(held.items(), key=lambda item: item[1])
    reach = now - oldest + _MARGIN
    if reach <= wanted:
        return Retention(wanted)
    return Retention(reach, f"{who} still reads from the snapshot of {oldest.isoformat()}")


def possible_witnesses(references: Iterable[str], branch: str, history: str | None) -> list[str]:
    """The references through which somebody may read a table, besides the branch that is maintained.

    A merge's branch holds every table, but only its own history is read and published through it.

    :param references: names of all branches and tags.
    :param branch: the branch that is maintained.
    :param history: the history whose merges write the table, ``namespace.name``; None for other tables.
    """
    merges = ("scd2/", "scd2-refused/")
    own = tuple(f"{prefix}{history}/" for prefix in merges) if history else ()
    return sorted(
        name
        for name in references
        if name != branch and (not name.startswith(merges) or (own and name.startswith(own)))
    )


def merges_in_flight(references: Iterable[str], history: str | None) -> list[str]:
    """The branches of merges that have not published yet.

    :param references: names of branches.
    :param history: the history table, ``namespace.name``.
    """
    if history is None:
        return []
    return sorted(name for name in references if name.startswith(f"scd2/{history}/"))


def duration(length: timedelta) -> str:
    """A length of time as Trino writes it, rounded up to seconds.

    :param length: not negative.
    """
    return f"{math.ceil(length.total_seconds())}s"


def action_sql(action: str, table: TableName, *, keep: timedelta, small_file_mb: int) -> str:
    """The statement of an action.

    :param action: one of :data:`ACTIONS`.
    :param table: which table.
    :param keep: age below which nothing is deleted.
    :param small_file_mb: files below this many MB are put together.
    :raises ValueError: there is no such action.
    """
    procedures = {
        "compact": f"optimize(file_size_threshold => '{int(small_file_mb)}MB')",
        "manifests": "optimize_manifests",
        "expire": f"expire_snapshots(retention_threshold => '{duration(keep)}')",
        "orphans": f"remove_orphan_files(retention_threshold => '{duration(max(keep, ORPHAN_AGE))}')",
    }
    if action not in procedures:
        raise ValueError(f"no such action: {action!r}; there are {', '.join(ACTIONS)}")
    return f"ALTER TABLE {table.sql} EXECUTE {procedures[action]}"


def allow_deletion_sql(table: TableName, allowed: bool) -> str:
    """Let Iceberg delete files of the table, or forbid it again, as Nessie's catalogs do.

    :param table: which table.
    :param allowed: the new state.
    """
    value = "true" if allowed else "false"
    properties = f"MAP(ARRAY['gc.enabled'], ARRAY['{value}'])"
    return f"ALTER TABLE {table.sql} SET PROPERTIES extra_properties = {properties}"


def metadata_table(table: TableName, kind: str) -> str:
    """One of a table's metadata tables, quoted.

    :param table: which table.
    :param kind: ``files``, ``snapshots``, …
    """
    return TableName(table.catalog, table.schema, f"{table.table}${kind}").sql


def expirable_sql(table: TableName, keep: timedelta) -> str:
    """A query for the number of snapshots that are older than what is kept.

    :param table: which table.
    :param keep: age below which a snapshot stays.
    """
    return (
        f"SELECT count(*) FROM {metadata_table(table, 'snapshots')} "  # noqa: S608
        f"WHERE committed_at < current_timestamp - INTERVAL '{math.ceil(keep.total_seconds())}' SECOND"
    )


def census_sql(table: TableName, small_file_mb: int) -> str:
    """A query for the numbers of data files, small ones, delete files, and snapshots.

    :param table: which table.
    :param small_file_mb: files below this many MB are small.
    """
    files = metadata_table(table, "files")
    return (
        "SELECT count_if(content = 0), "  # noqa: S608
        f"count_if(content = 0 AND file_size_in_bytes < {int(small_file_mb) * 1024 * 1024}), "
        "count_if(content <> 0), "
        f"(SELECT count(*) FROM {metadata_table(table, 'snapshots')}) FROM {files}"
    )


def needed_snapshot_sql(checkpoint: TableName, column: str, table: TableName) -> str:
    """A query for when the snapshot was committed that the newest position reads from; no row where gone.

    :param checkpoint: the table of positions.
    :param column: its column that names a snapshot of ``table``.
    :param table: the table that is read.
    """
    return (
        "SELECT with_timezone(CAST(committed_at AT TIME ZONE 'UTC' AS timestamp(6)), 'UTC') "  # noqa: S608
        f"FROM {metadata_table(table, 'snapshots')} "
        f"WHERE snapshot_id = (SELECT {quoted(column)} FROM {checkpoint.sql} ORDER BY merged_at DESC LIMIT 1)"
    )
