"""How far a history has come: one row a merge, in a table beside it and in the summary of that table's snapshot."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airflow_provider_rtlake.scd2.cut import TransactionEnd
from airflow_provider_rtlake.scd2.fold import Mark
from airflow_provider_rtlake.scd2.position import Position
from airflow_provider_rtlake.scd2.request import MergeRequest
from airflow_provider_rtlake.scd2.snapshots import SnapshotEnd
from airflow_provider_rtlake.scd2.tables import mark_from, mark_json

CHECKPOINT_KEY = "rtlake.checkpoint"  # in the snapshot summary: read without opening a data file


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
    :param key: names of the key's columns, as keys are spelled; None where no merge has told them.
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
    key: tuple[str, ...] | None = None

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
            "key": self.key,
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
            key=tuple(pending["key"]) if pending.get("key") else None,
        )
