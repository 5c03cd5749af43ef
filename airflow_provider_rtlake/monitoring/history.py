"""How old the histories are, and how long their merges take.

Nessie tells with one small request which snapshot each table has; Trino is asked only when that has changed.
"""

# ruff: noqa: S608 - every name in a query is quoted

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from dateutil.parser import isoparse

from airflow_provider_rtlake.clients.nessie import NessieClient
from airflow_provider_rtlake.exceptions import NotFound
from airflow_provider_rtlake.monitoring.catalogue import Sample
from airflow_provider_rtlake.streams.model import Stream
from airflow_provider_rtlake.streams.naming import quote_identifier as quoted

Query = Callable[[str], list[list[Any]]]


@dataclass(frozen=True)
class Merged:
    """The last merge that published something.

    :param at: when, seconds since 1970.
    :param bronze_snapshot: everything up to it was published.
    :param statistics: as the merge wrote them.
    """

    at: float
    bronze_snapshot: int | None
    statistics: dict[str, Any] = field(default_factory=dict)


@dataclass
class _Known:
    checkpoint_snapshot: int | None = None
    merged: Merged | None = None
    bronze_snapshot: int | None = None
    behind: tuple[float, ...] = ()  # times of the bronze commits that the history lacks


def lacking(commits: Sequence[tuple[int, float, int]], merged: Merged | None) -> tuple[float, ...]:
    """Times of the bronze commits with rows that came after the last merged one, oldest first. Pure.

    :param commits: snapshot, time (seconds since 1970) and number of rows added of each, in their order.
    :param merged: the last merge; None before the first.
    """
    after = 0
    if merged is not None:
        found = [number for number, commit in enumerate(commits) if commit[0] == merged.bronze_snapshot]
        # Maintenance may have removed the snapshot: then all that was committed before the merge counts as merged.
        after = found[0] + 1 if found else sum(commit[1] <= merged.at for commit in commits)
    return tuple(when for _, when, rows in commits[after:] if rows > 0)


class Histories:
    """The histories of the captured tables.

    :param nessie: the catalog.
    :param query: asks Trino.
    :param streams: gives the captured tables as declared now.
    :param catalog: Trino's name of the lakehouse.
    """

    def __init__(
        self, nessie: NessieClient, query: Query, streams: Callable[[], list[Stream]], catalog: str = "nessie"
    ) -> None:
        self._nessie, self._query, self._streams, self._catalog = nessie, query, streams, catalog
        self._known: dict[str, _Known] = {}

    def ask(self) -> Iterator[Sample]:
        """Figures of every history whose bronze table is there."""
        now = time.time()
        for stream in self._streams():
            if stream.history_base is None:
                continue
            bronze = self._snapshot(stream.bronze_table)
            if bronze is None:
                continue
            known = self._known.setdefault(stream.source, _Known())
            self._refresh(known, stream, bronze)
            yield from figures(stream.source, known.merged, known.behind, now)

    def _refresh(self, known: _Known, stream: Stream, bronze: int) -> None:
        checkpoint = f"{stream.history_base}_checkpoint"
        snapshot = self._snapshot(checkpoint)
        if snapshot == known.checkpoint_snapshot and bronze == known.bronze_snapshot:
            return
        if snapshot != known.checkpoint_snapshot:
            known.merged = self._merged(checkpoint) if snapshot is not None else None
        if known.merged is not None and known.merged.bronze_snapshot == bronze:
            known.behind = ()
        else:
            known.behind = lacking(self._commits(stream.bronze_table), known.merged)
        known.checkpoint_snapshot, known.bronze_snapshot = snapshot, bronze

    def _snapshot(self, table: str) -> int | None:
        entry = self._nessie.content(tuple(table.split(".")))
        return None if entry is None else entry.snapshot_id

    def _table(self, name: str, suffix: str = "") -> str:
        namespace, table = name.split(".", 1)
        return ".".join(map(quoted, (self._catalog, namespace, table + suffix)))

    def _merged(self, checkpoint: str) -> Merged | None:
        rows = self._query(
            f"SELECT merged_at, bronze_snapshot, statistics FROM {self._table(checkpoint)}"
            " ORDER BY merged_at DESC LIMIT 1"
        )
        if not rows:
            return None
        at, snapshot, statistics = rows[0]
        return Merged(_seconds(at), snapshot, json.loads(statistics or "{}"))

    def _commits(self, bronze: str) -> list[tuple[int, float, int]]:
        try:
            rows = self._query(
                "SELECT snapshot_id, committed_at,"
                " coalesce(try_cast(element_at(summary, 'added-records') AS bigint), 0)"
                f" FROM {self._table(bronze, '$snapshots')} WHERE operation <> 'replace' ORDER BY committed_at"
            )
        except NotFound:
            return []
        return [(snapshot, _seconds(at), rows_added) for snapshot, at, rows_added in rows]


def figures(table: str, merged: Merged | None, behind: Sequence[float], now: float) -> Iterator[Sample]:
    """What is told of one history. Pure.

    :param table: as declared.
    :param merged: its last merge.
    :param behind: times of the bronze commits that it lacks, seconds since 1970.
    :param now: seconds since 1970.
    """
    yield Sample("rtlake_history_age_seconds", max(0.0, now - behind[0]) if behind else 0.0, (table,))
    yield Sample("rtlake_history_bronze_commits_waiting", len(behind), (table,))
    if merged is None:
        return
    yield Sample("rtlake_history_merged_timestamp_seconds", merged.at, (table,))
    for metric, key in (
        ("rtlake_merge_duration_seconds", "seconds"),
        ("rtlake_merge_changes", "changes"),
        ("rtlake_merge_waiting_changes", "waiting"),
    ):
        if key in merged.statistics:
            yield Sample(metric, float(merged.statistics[key]), (table,))


def _seconds(at: datetime | str) -> float:
    return (at if isinstance(at, datetime) else isoparse(at)).timestamp()
