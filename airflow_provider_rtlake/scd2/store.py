"""What a merge reads of its table: the last versions of the touched keys, and more only where a late change
needs it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import pyarrow as pa

from airflow_provider_rtlake.scd2.change import Change, ChangeReader, key_hash
from airflow_provider_rtlake.scd2.lake import Table, Traffic, collect
from airflow_provider_rtlake.scd2.plan import Stored
from airflow_provider_rtlake.scd2.tables import HISTORY_COLUMNS, Layout, quoted, read_changes

# Iceberg prunes row groups by a list of values up to this length; beyond it the keys come as a joined table.
_LISTED_KEYS = 200
_RAW = (
    "topic",
    "topic_partition",
    "topic_offset",
    "kafka_ts",
    "message_key",
    "headers",
    "op",
    "value_schema",
    "payload",
)


class SparkStore:
    """The history on one reference, read by Spark.

    :param history: the history table, None before the first merge.
    :param changes: the table of applied changes, None likewise.
    :param layout: of the history.
    :param reader: for changes that are read again.
    :param traffic: counts what is read.
    :param aliases: column of the plan → column of the table, where a rename is about to happen.
    """

    def __init__(
        self,
        history: Table | None,
        changes: Table | None,
        layout: Layout | None,
        reader: ChangeReader,
        traffic: Traffic,
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        self._history = history
        self._changes = changes
        self._layout = layout
        self._reader = reader
        self._traffic = traffic
        self._aliases = dict(aliases or {})

    def last_versions(self, keys: Collection[str]) -> dict[str, Stored]:
        """See :class:`.plan.Store`."""
        return {stored.version.key: stored for stored in self._touched(keys, last=True)}

    def last_rows(self, keys: Collection[str]) -> dict[str, list[Stored]]:
        """As :meth:`last_versions`, but with everything that is there: for the check."""
        return _by_key(self._touched(keys, last=True))

    def open_versions(self) -> dict[str, Stored]:
        """See :class:`.plan.Store`."""
        if self._history is None:
            return {}
        frame = self._rows(self._history).where("scd2_last AND is_current")
        return {stored.version.key: stored for stored in self._versions(frame)}

    def all_versions(self, keys: Collection[str]) -> dict[str, list[Stored]]:
        """See :class:`.plan.Store`."""
        found = sorted(self._touched(keys, last=False), key=lambda stored: stored.version.start)
        return _by_key(found)

    def applied_changes(self, keys: Collection[str]) -> dict[str, list[Change]]:
        """See :class:`.plan.Store`."""
        result: dict[str, list[Change]] = {}
        if self._changes is None or not keys:
            return result
        frame = self._only(self._changes.frame(), keys, buckets=True).select("scd2_key", *_RAW)
        rows = self._collect(frame)
        wanted = set(keys)
        for raw in read_changes(rows.select(list(_RAW))):
            change = self._reader.read(raw)
            if change.key in wanted:
                result.setdefault(str(change.key), []).append(change)
        return result

    def all_keys(self) -> set[str]:
        """See :class:`.plan.Store`."""
        if self._changes is None:
            return set()
        rows = self._collect(self._changes.frame().select("scd2_key").distinct())
        return set(rows["scd2_key"].to_pylist())

    def _touched(self, keys: Collection[str], *, last: bool) -> list[Stored]:
        if self._history is None or not keys:
            return []
        frame = self._rows(self._history)
        if last:
            frame = frame.where("scd2_last")
        wanted = set(keys)
        found = self._versions(self._only(frame, keys, buckets=last))
        return [stored for stored in found if stored.version.key in wanted]

    @staticmethod
    def _rows(table: Table) -> Any:
        return table.frame().select("*", "_file", "_pos")

    def _only(self, frame: Any, keys: Collection[str], *, buckets: bool) -> Any:
        from pyspark.sql import functions as F

        hashes = sorted({key_hash(key) for key in keys})
        if buckets and self._layout is not None:
            touched = sorted({self._layout.bucket(hashed) for hashed in hashes})
            if len(touched) < self._layout.buckets:
                frame = frame.where(F.col("scd2_bucket").isin(touched))
        if len(hashes) <= _LISTED_KEYS:
            return frame.where(F.col("scd2_key_hash").isin(hashes))
        spark = frame.sparkSession
        wanted = spark.createDataFrame([(hashed,) for hashed in hashes], "scd2_key_hash bigint")
        return frame.join(F.broadcast(wanted), "scd2_key_hash", "left_semi")

    def _versions(self, frame: Any) -> list[Stored]:
        from pyspark.sql import functions as F

        if self._layout is None or self._history is None:
            return []
        present = set(frame.columns)
        names = [*self._layout.columns, *(name for name, _ in HISTORY_COLUMNS)]
        selected = []
        for name in names:
            own = self._aliases.get(name, name)
            if own in present:
                selected.append(F.col(quoted(own)).alias(name))
        rows = self._collect(frame.select(*selected, "_file", "_pos"))
        for name in names:
            if name not in rows.column_names:
                rows = rows.append_column(name, pa.nulls(rows.num_rows))
        return self._layout.read(rows)

    def _collect(self, frame: Any) -> pa.Table:
        return collect(frame, self._traffic)


def _by_key(found: list[Stored]) -> dict[str, list[Stored]]:
    result: dict[str, list[Stored]] = {}
    for stored in found:
        result.setdefault(stored.version.key, []).append(stored)
    return result
