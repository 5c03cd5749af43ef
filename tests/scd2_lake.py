"""A captured table of a test: its bronze, written by Spark in the layout of the bronze lane, and merges of it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from itertools import pairwise
from typing import Any

from airflow_provider_rtlake.clients.nessie import NessieClient
from airflow_provider_rtlake.scd2.change import RawChange
from airflow_provider_rtlake.scd2.request import MergeRequest
from tests.scd2_source import COLLECTION

NAMESPACE = "scd2_tests"
BRONZE = (
    "topic string, topic_partition int, topic_offset bigint, kafka_ts timestamp, message_key string, "
    "headers map<string,string>, op string, value_schema string, payload string, dt string"
)
TRANSACTIONS = (
    "topic_partition int, topic_offset bigint, kafka_ts timestamp, tx_id string, status string, event_count bigint, "
    "data_collections string, payload string, dt string"
)
COLUMNS = ("id", "a", "b", "big", "note", "c")


def micros(moment: datetime) -> int:
    """Microseconds since 1970, UTC."""
    # Spark's Python gives local times without a zone; the session's zone is UTC.
    whole = moment.replace(tzinfo=timezone.utc) if moment.tzinfo is None else moment
    return (whole - datetime(1970, 1, 1, tzinfo=timezone.utc)) // _MICROSECOND


_MICROSECOND = datetime(1970, 1, 1, 0, 0, 0, 1) - datetime(1970, 1, 1)


def moment_of(number: int) -> datetime:
    """The inverse of :func:`micros`."""
    return datetime(1970, 1, 1, tzinfo=timezone.utc) + number * _MICROSECOND


class LakeTable:
    """A captured table of its own.

    :param request: further fields of the merge's request.
    :param columns: of the source.
    """

    def __init__(
        self,
        spark: Any,
        nessie: NessieClient,
        *,
        columns: Iterable[str] = COLUMNS,
        transactions: bool = False,
        **request: Any,
    ) -> None:
        self.spark, self.nessie, self.columns = spark, nessie, tuple(columns)
        name = f"{NAMESPACE}.t{uuid.uuid4().hex[:10]}"
        self.request = MergeRequest(
            history=f"{name}_scd2_iceberg",
            base=f"{name}_scd2",
            bronze=f"{name}_bronze",
            transactions=f"{name}_transactions" if transactions else None,
            collection=COLLECTION,
            **{"patience_seconds": 10**12, "snapshot_patience_seconds": 10**12, **request},
        )
        spark.sql(f"CREATE NAMESPACE IF NOT EXISTS nessie.{NAMESPACE}")
        self.create_bronze()
        if transactions:
            spark.sql(f"CREATE TABLE nessie.{name}_transactions ({TRANSACTIONS}) USING iceberg PARTITIONED BY (dt)")

    def create_bronze(self) -> None:
        """An empty bronze table."""
        self.spark.sql(
            f"CREATE TABLE nessie.{self.request.bronze} ({BRONZE}) USING iceberg PARTITIONED BY (dt) "
            "TBLPROPERTIES ('format-version'='2')"
        )

    def arrive(self, raws: Iterable[RawChange]) -> None:
        """One commit of the bronze lane."""
        rows = [(*raw[:3], moment_of(raw.kafka_ts), *raw[4:], "2026-01-01") for raw in raws]
        self.spark.createDataFrame(rows, BRONZE).coalesce(1).writeTo(f"nessie.{self.request.bronze}").append()

    def end(self, ends: Iterable[tuple[int, str, str]]) -> None:
        """END markers: offset, id, data collections."""
        rows = [
            (0, order, moment_of(order), tx_id, "END", None, members, "{}", "2026-01-01")
            for order, tx_id, members in ends
        ]
        frame = self.spark.createDataFrame(rows, TRANSACTIONS).coalesce(1)
        frame.writeTo(f"nessie.{self.request.transactions}").append()

    def merge(self, nessie: Any = None, crash: Callable[[str], None] | None = None, **request: Any) -> Any:
        """One merge."""
        from airflow_provider_rtlake.scd2.job import merge_once

        asked = self.request.model_copy(update=request)
        return merge_once(self.spark, asked, nessie or (None if request else self.nessie), crash)

    def rows(self) -> list[Any]:
        """The history on main, by key and start."""
        frame = self.spark.table(f"nessie.{self.request.history}")
        return sorted(frame.collect(), key=lambda row: (row.scd2_key, row.effective_start_ts))

    def versions(self) -> dict[str, list[Any]]:
        """The history on main by key, with its rules checked."""
        result: dict[str, list[Any]] = {}
        for row in self.rows():
            result.setdefault(row.scd2_key, []).append(row)
        for key, rows in result.items():
            assert [row.scd2_last for row in rows] == [False] * (len(rows) - 1) + [True], key
            for row in rows:
                assert row.is_current == (row.effective_end_ts is None), key
                assert row.is_current or row.effective_start_ts < row.effective_end_ts, key
            for earlier, later in pairwise(rows):
                assert earlier.effective_end_ts is not None, key
                if earlier.is_deleted:
                    assert earlier.effective_end_ts <= later.effective_start_ts, key
                else:
                    assert earlier.effective_end_ts == later.effective_start_ts, key
        return result

    def facts(self) -> dict[str, list[tuple[Any, ...]]]:
        """As :class:`tests.oracle.Oracle` tells them."""
        return {key: [self._fact(row) for row in rows] for key, rows in self.versions().items()}

    def _fact(self, row: Any) -> tuple[Any, ...]:
        values = sorted((name, row[name]) for name in self.columns)
        end = None if row.effective_end_ts is None else micros(row.effective_end_ts)
        return values, micros(row.effective_start_ts), end, row.is_deleted

    def everything(self) -> list[tuple[Any, ...]]:
        """All of the history, without what names the merge's files."""
        return [tuple(map(str, row)) for row in self.rows()]

    def snapshots(self) -> list[int | None]:
        """Snapshots of the three tables on main."""
        names = (self.request.history, self.request.changes, self.request.checkpoint)
        entries = [self.nessie.content(tuple(name.split("."))) for name in names]
        return [entry and entry.snapshot_id for entry in entries]

    def branches(self) -> list[str]:
        """What merges left."""
        return [ref.name for ref in self.nessie.references() if self.request.history in ref.name]

    def drop(self) -> None:
        """Take everything away."""
        for name in self.branches():
            self.nessie.delete_reference(name)
        request = self.request
        for name in (request.history, request.changes, request.checkpoint, request.bronze, request.transactions):
            if name is not None:
                self.spark.sql(f"DROP TABLE IF EXISTS nessie.{name}")
