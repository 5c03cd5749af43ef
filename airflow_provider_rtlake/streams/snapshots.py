"""Snapshots of single tables: which ones are still missing, and how they are asked for."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, field_validator

from airflow_provider_rtlake.clients.kafka import KafkaClient
from airflow_provider_rtlake.streams.connect_config import EPOCH_HEADER, Epoch, table_pattern
from airflow_provider_rtlake.streams.model import Connector, Stream


@dataclass(frozen=True)
class SnapshotProgress:
    """What Debezium told of snapshots in one epoch.

    :param initial_done: whether the epoch's first snapshot has ended.
    :param rows: ``schema.table`` → rows read, of the tables that were read to the end.
    :param started: snapshots that were begun.
    """

    initial_done: bool
    rows: dict[str, int]
    started: int = 0

    def missing(self, streams: Iterable[Stream]) -> list[Stream]:
        """The tables that have not been read to the end.

        :param streams: captured tables.
        """
        return [stream for stream in streams if notified_name(stream) not in self.rows]


def notified_name(stream: Stream) -> str:
    """How Debezium's notifications and transaction markers spell a table: without quotes.

    :param stream: the table.
    """
    return f"{stream.schema_name}.{stream.table_name}"


def read_progress(kafka: KafkaClient, connector: Connector, epoch: Epoch) -> SnapshotProgress:
    """What Debezium told of the snapshots of an epoch.

    :param kafka: the cluster.
    :param connector: the declaration.
    :param epoch: the epoch that runs.
    """
    done, started = False, 0
    rows: dict[str, int] = {}
    for written_in, told in _notifications(kafka, connector):
        if written_in != epoch or told.aggregate_type != "Initial Snapshot":
            continue
        if told.whole_table:
            rows[told.whole_table] = told.additional_data.total_rows_scanned or 0
        done = done or told.type in ("COMPLETED", "SKIPPED")
        started += told.type == "STARTED"
    return SnapshotProgress(done, rows, started)


def whole_snapshot(kafka: KafkaClient, stream: Stream) -> tuple[int, int] | None:
    """The newest epoch in which a snapshot read a table to its end, and when; None where none did.

    :param kafka: the cluster.
    :param stream: the table.
    :return: number of the epoch, and milliseconds since 1970.
    """
    wanted = notified_name(stream)
    told = [
        (epoch.number, told.timestamp or 0)
        for epoch, told in _notifications(kafka, stream.connector)
        if told.whole_table == wanted
    ]
    return max(told, default=None)


class _Details(BaseModel):
    scanned_collection: str | None = None
    status: str | None = None
    total_rows_scanned: int | None = None


class _Notification(BaseModel):
    type: str
    aggregate_type: str | None = None
    additional_data: _Details = _Details()
    timestamp: int | None = None

    @field_validator("additional_data", mode="before")
    @classmethod
    def _none(cls, value: object) -> object:
        return value or {}

    @property
    def whole_table(self) -> str | None:
        """The table that a snapshot has read to its end, where it tells of one."""
        whole = self.type == "TABLE_SCAN_COMPLETED" and self.additional_data.status == "SUCCEEDED"
        return self.additional_data.scanned_collection if whole else None


def _notifications(kafka: KafkaClient, connector: Connector) -> Iterator[tuple[Epoch, _Notification]]:
    """What Debezium told, and in which epoch. The topic is kept for ever, so what is none is passed over."""
    for _, value, headers in kafka.read_all(connector.notification_topic):
        try:
            epoch = Epoch.parse(headers.get(EPOCH_HEADER, "").strip('"'))
            told = json.loads(value or b"")
            told = told.get("payload", told) if isinstance(told, dict) else told
            notification = _Notification.model_validate(told)
        except ValueError:  # without an epoch, not JSON, or nothing that Debezium tells
            continue
        yield epoch, notification


def ask_for_snapshot(kafka: KafkaClient, connector: Connector, streams: Sequence[Stream]) -> None:
    """Ask a running connector to read tables, between two transactions of its stream.

    :param kafka: the cluster.
    :param connector: the declaration.
    :param streams: the tables.
    """
    signal = {
        "id": str(uuid.uuid4()),
        "type": "execute-snapshot",
        "data": {"type": "blocking", "data-collections": [table_pattern(stream) for stream in streams]},
    }
    kafka.send(connector.signal_topic, connector.topic_prefix.encode(), json.dumps(signal).encode())
